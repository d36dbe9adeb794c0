//! Overlay rule sets, patterns and fitting against naive twins on a net of three Linear layers:
//! Conv (stride 2, pads) -> BatchNorm -> Relu -> Conv (two groups) -> Clip(0, 6) -> Flatten ->
//! Gemm.

use std::{collections::BTreeMap, sync::Arc};

use onnx_autodiff::{
    Tensor,
    autodiff::{
        DeriveError, PatternFault,
        fit::{Regime, fit_graph},
        linear_layers,
        spec::{DeriveSpec, Head, PatternLayers, Patterns, RuleSetId, SeedRule, Wrt},
    },
    onnx::{
        graph::{Dim, Element, Graph, Literal, Node, ValueInfo, ValueType},
        write_model,
    },
};

use crate::{
    case::noise,
    run::{Net, derive, spec, tensor},
};

const ROWS: usize = 3;
const CLASSES: usize = 4;

fn random(seed: u64, shape: &[usize]) -> Tensor {
    tensor(shape, noise(seed, shape.iter().product()))
}

struct Weights {
    conv1: Tensor,
    bias1: Tensor,
    scale: Tensor,
    shift: Tensor,
    mean: Tensor,
    variance: Tensor,
    conv2: Tensor,
    bias2: Tensor,
    dense: Tensor,
    bias3: Tensor,
}

fn weights() -> Weights {
    Weights {
        conv1: random(1, &[4, 2, 3, 3]),
        bias1: random(2, &[4]),
        scale: random(3, &[4]) + 1.5,
        shift: random(4, &[4]),
        mean: random(5, &[4]),
        variance: random(6, &[4]) + 1.5,
        conv2: random(7, &[6, 2, 2, 2]),
        bias2: random(8, &[6]),
        dense: random(9, &[CLASSES, 24]),
        bias3: random(10, &[CLASSES]),
    }
}

fn net(w: &Weights) -> Graph {
    let literal = |t: &Tensor| Literal::from_f32s(t.shape(), t.as_slice().unwrap());
    let constants = [
        ("w1", &w.conv1),
        ("b1", &w.bias1),
        ("s", &w.scale),
        ("t", &w.shift),
        ("m", &w.mean),
        ("v", &w.variance),
        ("w2", &w.conv2),
        ("b2", &w.bias2),
        ("w3", &w.dense),
        ("b3", &w.bias3),
    ];
    let mut initializers: indexmap::IndexMap<String, Literal> = constants
        .iter()
        .map(|(name, t)| ((*name).to_owned(), literal(t)))
        .collect();
    initializers.insert("zero".into(), Literal::scalar_f32(0.0));
    initializers.insert("six".into(), Literal::scalar_f32(6.0));
    let info = |name: &str, shape: &[usize]| {
        let dims = [Dim::Symbol("N".into())]
            .into_iter()
            .chain(shape.iter().map(|&n| Dim::Known(n)));
        ValueInfo {
            name: name.into(),
            value_type: ValueType::new(Element::Float, dims.collect()),
        }
    };
    Graph {
        opset_imports: BTreeMap::from([(String::new(), 17)]),
        inputs: vec![info("x", &[2, 6, 6])],
        outputs: vec![info("out", &[CLASSES])],
        initializers,
        nodes: vec![
            Node::new("Conv", ["x", "w1", "b1"], ["z1"])
                .with("strides", vec![2i64, 2])
                .with("pads", vec![1i64, 1, 1, 1]),
            Node::new("BatchNormalization", ["z1", "s", "t", "m", "v"], ["n1"]),
            Node::new("Relu", ["n1"], ["a1"]),
            Node::new("Conv", ["a1", "w2", "b2"], ["z2"]).with("group", 2),
            Node::new("Clip", ["z2", "zero", "six"], ["a2"]),
            Node::new("Flatten", ["a2"], ["f"]),
            Node::new("Gemm", ["f", "w3", "b3"], ["out"]).with("transB", 1),
        ],
        ..Graph::default()
    }
}

/// A Conv of one sample, as loops.
/// `visit(output position, input position or none for padding, weight position)`.
fn conv_taps(
    x: [usize; 3],
    w: [usize; 4],
    stride: usize,
    pad: usize,
    groups: usize,
    mut visit: impl FnMut([usize; 3], Option<[usize; 3]>, [usize; 4]),
) -> [usize; 3] {
    let out = |size: usize, kernel: usize| (size + 2 * pad - kernel) / stride + 1;
    let y = [w[0], out(x[1], w[2]), out(x[2], w[3])];
    for o in 0..y[0] {
        for i in 0..y[1] {
            for j in 0..y[2] {
                for c in 0..w[1] {
                    for k in 0..w[2] {
                        for l in 0..w[3] {
                            let (row, column) = (i * stride + k, j * stride + l);
                            let inside = row >= pad
                                && column >= pad
                                && row - pad < x[1]
                                && column - pad < x[2];
                            let channel = o / (w[0] / groups) * w[1] + c;
                            visit(
                                [o, i, j],
                                inside.then(|| [channel, row - pad, column - pad]),
                                [o, c, k, l],
                            );
                        }
                    }
                }
            }
        }
    }
    y
}

type Array3 = ndarray::Array3<f64>;

fn conv(x: &Array3, w: &ndarray::Array4<f64>, stride: usize, pad: usize, groups: usize) -> Array3 {
    let (xs, ws) = (x.dim(), w.dim());
    let (xs, ws) = ([xs.0, xs.1, xs.2], [ws.0, ws.1, ws.2, ws.3]);
    let shape = conv_taps(xs, ws, stride, pad, groups, |_, _, _| {});
    let mut y = Array3::zeros(shape);
    conv_taps(xs, ws, stride, pad, groups, |o, i, t| {
        y[o] += i.map_or(0.0, |i| x[i]) * w[t]
    });
    y
}

fn conv_back(
    dy: &Array3,
    w: &ndarray::Array4<f64>,
    x: [usize; 3],
    stride: usize,
    pad: usize,
    groups: usize,
) -> Array3 {
    let ws = w.dim();
    let mut dx = Array3::zeros(x);
    conv_taps(
        x,
        [ws.0, ws.1, ws.2, ws.3],
        stride,
        pad,
        groups,
        |o, i, t| {
            if let Some(i) = i {
                dx[i] += dy[o] * w[t];
            }
        },
    );
    dx
}

fn wide4(t: &Tensor) -> ndarray::Array4<f64> {
    t.mapv(f64::from).into_dimensionality().unwrap()
}

/// Everything the twin knows of one sample.
struct Twin {
    folded: ndarray::Array4<f64>,
    conv2: ndarray::Array4<f64>,
    dense: ndarray::Array2<f64>,
    x: Array3,
    y1: Array3,
    z1: Array3,
    a1: Array3,
    y2: Array3,
    z2: Array3,
    a2: Array3,
    y3: ndarray::Array1<f64>,
    logits: ndarray::Array1<f64>,
}

fn twin(w: &Weights, x: Array3) -> Twin {
    let wide = |t: &Tensor| t.mapv(f64::from);
    let factor = wide(&w.scale) / (wide(&w.variance) + 1e-5f32 as f64).mapv(f64::sqrt);
    let mut folded = wide4(&w.conv1);
    for (mut channel, factor) in folded.outer_iter_mut().zip(&factor) {
        channel *= *factor;
    }
    let bias = (wide(&w.bias1) - wide(&w.mean)) * &factor + wide(&w.shift);
    let add = |mut y: Array3, bias: &ndarray::ArrayD<f64>| {
        y.outer_iter_mut()
            .zip(bias)
            .for_each(|(mut channel, bias)| channel += *bias);
        y
    };
    let y1 = conv(&x, &folded, 2, 1, 1);
    let z1 = add(y1.clone(), &bias);
    let a1 = z1.mapv(|z| z.max(0.0));
    let conv2 = wide4(&w.conv2);
    let y2 = conv(&a1, &conv2, 1, 0, 2);
    let z2 = add(y2.clone(), &wide(&w.bias2));
    let a2 = z2.mapv(|z| z.clamp(0.0, 6.0));
    let dense: ndarray::Array2<f64> = wide(&w.dense).into_dimensionality().unwrap();
    let y3 = dense.dot(&a2.flatten());
    let logits = &y3
        + &wide(&w.bias3)
            .into_dimensionality::<ndarray::Ix1>()
            .unwrap();
    Twin {
        folded,
        conv2,
        dense,
        x,
        y1,
        z1,
        a1,
        y2,
        z2,
        a2,
        y3,
        logits,
    }
}

/// The backward pass of `set`; patterns in the order of the layers, for the layers that have one.
fn twin_back(t: &Twin, set: RuleSetId, seed: &[f64], patterns: &[Option<&Tensor>; 3]) -> Array3 {
    let chosen = |w: ndarray::ArrayD<f64>, layer: usize| match (set, patterns[layer]) {
        (RuleSetId::PatternAttribution, Some(p)) => w * p.mapv(f64::from),
        (RuleSetId::PatternNet, Some(p)) => p.mapv(f64::from),
        _ => w,
    };
    let rectify = |dy: Array3, open: Array3| match set {
        RuleSetId::GuidedBackprop => dy.mapv(|d| d.max(0.0)) * open,
        RuleSetId::Deconvnet => dy.mapv(|d| d.max(0.0)),
        _ => dy * open,
    };
    let dense: ndarray::Array2<f64> = chosen(t.dense.clone().into_dyn(), 2)
        .into_dimensionality()
        .unwrap();
    let (conv2, conv1) = (
        chosen(t.conv2.clone().into_dyn(), 1),
        chosen(t.folded.clone().into_dyn(), 0),
    );
    let shape = |a: &Array3| [a.dim().0, a.dim().1, a.dim().2];
    let da2 = dense
        .t()
        .dot(&ndarray::aview1(seed))
        .to_shape(t.a2.dim())
        .unwrap()
        .to_owned();
    let dz2 = rectify(da2, t.z2.mapv(|z| f64::from(z > 0.0 && z < 6.0)));
    let da1 = conv_back(
        &dz2,
        &conv2.into_dimensionality().unwrap(),
        shape(&t.a1),
        1,
        0,
        2,
    );
    let dz1 = rectify(da1, t.z1.mapv(|z| f64::from(z > 0.0)));
    conv_back(
        &dz1,
        &conv1.into_dimensionality().unwrap(),
        shape(&t.x),
        2,
        1,
        1,
    )
}

fn patterns() -> [Tensor; 3] {
    [
        random(20, &[4, 2, 3, 3]),
        random(21, &[6, 2, 2, 2]),
        random(22, &[CLASSES, 24]),
    ]
}

/// Keyed by output value: that of the BatchNorm for the folded layer.
fn stored(tensors: &[Tensor; 3]) -> Patterns {
    let layers: BTreeMap<String, Tensor> = ["n1", "z2", "out"]
        .into_iter()
        .map(str::to_owned)
        .zip(tensors.iter().cloned())
        .collect();
    Patterns {
        id: "test".into(),
        source: Arc::new(layers),
    }
}

fn inputs() -> (Tensor, Tensor) {
    (
        random(30, &[ROWS, 2, 6, 6]) * 2.0,
        random(31, &[ROWS, CLASSES]),
    )
}

fn row(x: &Tensor, row: usize) -> Array3 {
    x.index_axis(ndarray::Axis(0), row)
        .mapv(f64::from)
        .into_dimensionality()
        .unwrap()
}

fn assert_close(
    found: impl IntoIterator<Item = f32>,
    expected: impl IntoIterator<Item = f64>,
    about: &str,
) {
    let expected: Vec<f64> = expected.into_iter().collect();
    let found: Vec<f32> = found.into_iter().collect();
    assert_eq!(found.len(), expected.len(), "{about}");
    let scale = expected.iter().fold(1e-3f64, |most, e| most.max(e.abs()));
    for (f, e) in found.iter().zip(&expected) {
        // f32 against f64, sums of up to 300 terms.
        assert!(
            (f64::from(*f) - e).abs() < 2e-5 * scale,
            "{about}: {f} is not {e} (scale {scale})"
        );
    }
}

/// Those that give derivatives: [`super::relevance`] is of the other.
const SETS: [RuleSetId; 5] = [
    RuleSetId::Gradient,
    RuleSetId::GuidedBackprop,
    RuleSetId::Deconvnet,
    RuleSetId::PatternAttribution,
    RuleSetId::PatternNet,
];

#[test]
fn every_rule_set_equals_its_twin() {
    let (w, (x, seed), p) = (weights(), inputs(), patterns());
    let graph = derive(&net(&w), &spec(&SETS), Some(&stored(&p))).unwrap();
    let answer = Net::open(&graph)
        .unwrap()
        .run(&[("x", &x), ("seed", &seed)])
        .unwrap();
    for (n, seed) in seed.outer_iter().enumerate() {
        let t = twin(&w, row(&x, n));
        let of = |name: &str| {
            answer[name]
                .index_axis(ndarray::Axis(0), n)
                .iter()
                .copied()
                .collect::<Vec<f32>>()
        };
        assert_close(of("logits"), t.logits.iter().copied(), "logits");
        let total: f64 = t.logits.iter().map(|z| z.exp()).sum();
        assert_close(
            of("probabilities"),
            t.logits.iter().map(|z| z.exp() / total),
            "probabilities",
        );
        let seed: Vec<f64> = seed.iter().map(|&s| f64::from(s)).collect();
        for set in SETS {
            let expected = twin_back(&t, set, &seed, &[Some(&p[0]), Some(&p[1]), Some(&p[2])]);
            assert_close(of(set.id()), expected.iter().copied(), set.id());
        }
    }
}

#[test]
fn pattern_layers_choose_by_forward_order_and_by_name() {
    let (w, (x, seed), p) = (weights(), inputs(), patterns());
    let stored = stored(&p);
    let named =
        |names: &[&str]| PatternLayers::Named(names.iter().map(|&name| name.to_owned()).collect());
    let choices = [
        (PatternLayers::All, [true, true, true]),
        (PatternLayers::Inner, [false, true, false]),
        (PatternLayers::ExceptFirst, [false, true, true]),
        (PatternLayers::ExceptLast, [true, true, false]),
        (named(&["z2", "n1"]), [true, true, false]),
    ];
    for (pattern_layers, chosen) in choices {
        let set = RuleSetId::PatternAttribution;
        let graph = derive(
            &net(&w),
            &DeriveSpec {
                pattern_layers,
                ..spec(&[set])
            },
            Some(&stored),
        )
        .unwrap();
        let answer = Net::open(&graph)
            .unwrap()
            .run(&[("x", &x), ("seed", &seed)])
            .unwrap();
        let used: Vec<Option<&Tensor>> = chosen
            .iter()
            .zip(&p)
            .map(|(chosen, p)| chosen.then_some(p))
            .collect();
        let seed: Vec<f64> = seed.row_of(0);
        let expected = twin_back(
            &twin(&w, row(&x, 0)),
            set,
            &seed,
            &[used[0], used[1], used[2]],
        );
        assert_close(
            answer[set.id()]
                .index_axis(ndarray::Axis(0), 0)
                .iter()
                .copied(),
            expected,
            "chosen layers",
        );
    }
}

trait RowOf {
    fn row_of(&self, row: usize) -> Vec<f64>;
}

impl RowOf for Tensor {
    fn row_of(&self, row: usize) -> Vec<f64> {
        self.index_axis(ndarray::Axis(0), row)
            .iter()
            .map(|&v| f64::from(v))
            .collect()
    }
}

#[test]
fn the_value_seed_multiplies_the_head_and_probabilities_go_through_softmax() {
    let (w, (x, seed)) = (weights(), inputs());
    let set = RuleSetId::Gradient;
    let t = twin(&w, row(&x, 0));
    let total: f64 = t.logits.iter().map(|z| z.exp()).sum();
    let p: Vec<f64> = t.logits.iter().map(|z| z.exp() / total).collect();
    let u = seed.row_of(0);
    let mean: f64 = u.iter().zip(&p).map(|(u, p)| u * p).sum();
    let through: Vec<f64> = u.iter().zip(&p).map(|(u, p)| p * (u - mean)).collect();
    let valued: Vec<f64> = u.iter().zip(&t.logits).map(|(u, z)| u * z).collect();
    let cases = [
        (Head::Probabilities, SeedRule::One, through),
        (Head::Logits, SeedRule::Value, valued),
    ];
    for (head, rule, at_logits) in cases {
        let graph = derive(
            &net(&w),
            &DeriveSpec {
                head,
                seed: rule,
                ..spec(&[set])
            },
            None,
        )
        .unwrap();
        let answer = Net::open(&graph)
            .unwrap()
            .run(&[("x", &x), ("seed", &seed)])
            .unwrap();
        let expected = twin_back(&t, set, &at_logits, &[None; 3]);
        assert_close(
            answer[set.id()]
                .index_axis(ndarray::Axis(0), 0)
                .iter()
                .copied(),
            expected,
            "seed and head",
        );
    }
}

#[test]
fn an_activation_gets_its_value_and_its_cotangent() {
    let (w, (x, seed)) = (weights(), inputs());
    let graph = derive(
        &net(&w),
        &DeriveSpec {
            outputs: vec!["a2".into()],
            wrt: vec![Wrt::Activation("a2".into())],
            ..spec(&[RuleSetId::Gradient])
        },
        None,
    )
    .unwrap();
    let answer = Net::open(&graph)
        .unwrap()
        .run(&[("x", &x), ("seed", &seed)])
        .unwrap();
    let t = twin(&w, row(&x, 0));
    let expected = t.dense.t().dot(&ndarray::Array1::from(seed.row_of(0)));
    assert_eq!(answer["gradient"].shape(), [ROWS, 6, 2, 2]);
    assert_close(
        answer["gradient"]
            .index_axis(ndarray::Axis(0), 0)
            .iter()
            .copied(),
        expected,
        "cotangent",
    );
    assert_close(
        answer["activation"]
            .index_axis(ndarray::Axis(0), 0)
            .iter()
            .copied(),
        t.a2,
        "activation",
    );
}

#[test]
fn one_graph_gives_the_cotangents_of_several_values_and_hands_several_out() {
    let (w, (x, seed)) = (weights(), inputs());
    let run = |spec: &DeriveSpec| {
        let graph = derive(&net(&w), spec, None).unwrap();
        let inputs = [("x", &x), ("seed", &seed)];
        let taken = graph.inputs.len();
        Net::open(&graph).unwrap().run(&inputs[..taken]).unwrap()
    };
    let at = |value: &str| Wrt::Activation(value.into());
    let gradient = |wrt: Vec<Wrt>| DeriveSpec {
        wrt,
        ..spec(&[RuleSetId::Gradient])
    };
    // `a1` lies before `a2`, and the input before both.
    let joint = run(&DeriveSpec {
        outputs: vec!["a2".into(), "a1".into()],
        ..gradient(vec![at("a2"), Wrt::Input, at("a1")])
    });
    let names = [
        "logits",
        "probabilities",
        "gradient/a2",
        "gradient/input",
        "gradient/a1",
        "activation/a2",
        "activation/a1",
    ];
    assert_eq!(joint.len(), names.len());
    for (wrt, name) in [
        (at("a2"), "gradient/a2"),
        (Wrt::Input, "gradient/input"),
        (at("a1"), "gradient/a1"),
    ] {
        assert_eq!(joint[name], run(&gradient(vec![wrt]))["gradient"], "{name}");
    }
    for value in ["a1", "a2"] {
        let alone = run(&DeriveSpec {
            outputs: vec![value.into()],
            ..DeriveSpec::forward()
        });
        assert_eq!(joint[&format!("activation/{value}")], alone["activation"]);
        assert_eq!(joint["logits"], alone["logits"]);
    }
}

#[test]
fn two_rule_sets_in_one_graph_equal_two_graphs_and_share_the_forward_pass() {
    let (w, (x, seed)) = (weights(), inputs());
    let sets = [RuleSetId::Gradient, RuleSetId::GuidedBackprop];
    let both = derive(&net(&w), &spec(&sets), None).unwrap();
    let joint = Net::open(&both)
        .unwrap()
        .run(&[("x", &x), ("seed", &seed)])
        .unwrap();
    for set in sets {
        let single = derive(&net(&w), &spec(&[set]), None).unwrap();
        assert_eq!(
            Net::open(&single)
                .unwrap()
                .run(&[("x", &x), ("seed", &seed)])
                .unwrap()[set.id()],
            joint[set.id()]
        );
    }
    assert_eq!(
        both.nodes
            .iter()
            .filter(|node| node.op_type == "BatchNormalization")
            .count(),
        1
    );
}

#[test]
fn without_rule_sets_it_is_the_forward_graph() {
    let graph = derive(&net(&weights()), &spec(&[]), None).unwrap();
    let names = |values: &[ValueInfo]| {
        values
            .iter()
            .map(|value| value.name.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (names(&graph.inputs), names(&graph.outputs)),
        (
            vec!["x".into()],
            vec!["logits".into(), "probabilities".into()]
        )
    );
    assert_eq!(graph.nodes.len(), 8);
}

#[test]
fn deriving_twice_gives_identical_bytes() {
    let (w, p) = (weights(), stored(&patterns()));
    let bytes = || write_model(&derive(&net(&w), &spec(&SETS), Some(&p)).unwrap()).unwrap();
    assert_eq!(bytes(), bytes());
}

#[test]
fn patterns_that_do_not_fit_are_all_named() {
    let w = weights();
    let mut layers: BTreeMap<String, Tensor> = BTreeMap::new();
    layers.insert("z2".into(), random(1, &[6, 2, 2]));
    layers.insert("out".into(), random(1, &[CLASSES, 24]));
    let patterns = Patterns {
        id: "test".into(),
        source: Arc::new(layers),
    };
    let error = derive(&net(&w), &spec(&[RuleSetId::PatternNet]), Some(&patterns)).unwrap_err();
    let DeriveError::Patterns { faults } = error else {
        panic!("{error}")
    };
    let shape = PatternFault::Shape {
        layer: "z2".into(),
        expected: vec![6, 2, 2, 2],
        found: vec![6, 2, 2],
    };
    assert_eq!(
        faults,
        [PatternFault::Missing { layer: "n1".into() }, shape]
    );
    let error = derive(&net(&w), &spec(&[RuleSetId::PatternNet]), None).unwrap_err();
    assert!(matches!(error, DeriveError::NoPatterns));
}

#[test]
fn unsupported_nodes_are_all_named_at_once() {
    let mut graph = net(&weights());
    graph.nodes[2] = Node::new("Bernoulli", ["n1"], ["a1"]);
    graph.nodes[4] = Node::new("Bernoulli", ["z2"], ["a2"]);
    graph.opset_imports.insert(String::new(), 18);
    let error = derive(
        &graph,
        &spec(&[RuleSetId::Gradient, RuleSetId::GuidedBackprop]),
        None,
    )
    .unwrap_err();
    let DeriveError::Unsupported { nodes } = error else {
        panic!("{error}")
    };
    let found: Vec<_> = nodes
        .iter()
        .map(|node| (node.node.as_str(), node.op_type.as_str(), node.opset))
        .collect();
    let expected = [("a1", "Bernoulli", 18), ("a2", "Bernoulli", 18)];
    assert_eq!(found, expected);
}

#[test]
fn rule_sets_that_need_patterns_say_so() {
    let source = net(&weights());
    for id in SETS {
        let found = derive(&source, &spec(&[id]), None);
        if id.needs_patterns() {
            assert!(matches!(found, Err(DeriveError::NoPatterns)), "{}", id.id());
        } else {
            assert!(found.is_ok(), "{}", id.id());
        }
    }
}

#[test]
fn linear_layers_come_in_forward_order_under_their_folded_names() {
    let layers = linear_layers(&net(&weights())).unwrap();
    let found: Vec<_> = layers
        .iter()
        .map(|layer| (layer.output.as_str(), layer.weight_shape.clone()))
        .collect();
    assert_eq!(
        found,
        [
            ("n1", vec![4, 2, 3, 3]),
            ("z2", vec![6, 2, 2, 2]),
            ("out", vec![CLASSES, 24])
        ]
    );
}

/// Σ₊ x ŷ, Σ₊ x, Σ ŷ, n₊ over all patches of all rows, patch by patch in f64.
struct Sums {
    x_y: ndarray::ArrayD<f64>,
    x: ndarray::ArrayD<f64>,
    y: Vec<f64>,
    positives: Vec<f64>,
}

fn conv_sums(
    rows: &[(&Array3, &Array3, Array3)],
    w: &ndarray::Array4<f64>,
    stride: usize,
    pad: usize,
    groups: usize,
) -> Sums {
    let ws = w.dim();
    let mut sums = Sums {
        x_y: ndarray::ArrayD::zeros(w.shape()),
        x: ndarray::ArrayD::zeros(w.shape()),
        y: vec![0.0; ws.0],
        positives: vec![0.0; ws.0],
    };
    for (x, y, mask) in rows {
        let xs = x.dim();
        conv_taps(
            [xs.0, xs.1, xs.2],
            [ws.0, ws.1, ws.2, ws.3],
            stride,
            pad,
            groups,
            |o, i, t| {
                let x = i.map_or(0.0, |i| x[i]);
                sums.x_y[&t[..]] += mask[o] * y[o] * x;
                sums.x[&t[..]] += mask[o] * x;
            },
        );
        for (position, y) in y.indexed_iter() {
            sums.y[position.0] += y;
            sums.positives[position.0] += mask[position];
        }
    }
    sums
}

#[test]
fn fit_sums_equal_sums_over_patches() {
    let (w, (x, _)) = (weights(), inputs());
    let twins: Vec<Twin> = (0..ROWS).map(|n| twin(&w, row(&x, n))).collect();
    let positive = |z: &Array3| z.mapv(|z| f64::from(z > 0.0));
    for regime in [Regime::Activation, Regime::Weights] {
        let fit = fit_graph(&net(&w), regime).unwrap();
        let answer = Net::open(&fit.graph).unwrap().run(&[("x", &x)]).unwrap();
        let gate =
            |y: &Array3, z: &Array3| positive(if regime == Regime::Activation { z } else { y });
        let first: Vec<_> = twins
            .iter()
            .map(|t| (&t.x, &t.y1, gate(&t.y1, &t.z1)))
            .collect();
        let second: Vec<_> = twins
            .iter()
            .map(|t| (&t.a1, &t.y2, gate(&t.y2, &t.z2)))
            .collect();
        let mut dense = Sums {
            x_y: ndarray::ArrayD::zeros(vec![CLASSES, 24]),
            x: ndarray::ArrayD::zeros(vec![CLASSES, 24]),
            y: vec![0.0; CLASSES],
            positives: vec![ROWS as f64; CLASSES],
        };
        for t in &twins {
            for (k, x) in t.a2.iter().enumerate() {
                for c in 0..CLASSES {
                    dense.x_y[[c, k]] += x * t.y3[c];
                    dense.x[[c, k]] += x;
                }
            }
            (0..CLASSES).for_each(|c| dense.y[c] += t.y3[c]);
        }
        let expected = [
            conv_sums(&first, &twins[0].folded, 2, 1, 1),
            conv_sums(&second, &twins[0].conv2, 1, 0, 2),
            dense,
        ];
        let regimes: Vec<Regime> = fit.layers.iter().map(|layer| layer.regime).collect();
        assert_eq!(regimes, [regime, regime, Regime::Linear]);
        let positions: Vec<usize> = fit.layers.iter().map(|layer| layer.positions).collect();
        assert_eq!(positions, [9, 4, 1]);
        assert!(fit.layers.iter().all(|layer| layer.channel_axis == 0) && fit.skipped.is_empty());
        for (layer, sums) in fit.layers.iter().zip(expected) {
            assert_eq!(answer[&layer.x_y].shape(), layer.weight.shape);
            assert_close(answer[&layer.x_y].iter().copied(), sums.x_y, &layer.x_y);
            assert_close(answer[&layer.x].iter().copied(), sums.x, &layer.x);
            assert_close(answer[&layer.y].iter().copied(), sums.y, &layer.y);
            assert_close(
                answer[&layer.positives].iter().copied(),
                sums.positives,
                &layer.positives,
            );
        }
    }
}
