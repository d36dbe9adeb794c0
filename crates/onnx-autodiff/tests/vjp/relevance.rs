//! Layer-wise relevance propagation against its formulas in f64, on small networks.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use onnx_autodiff::{
    Tensor,
    autodiff::{
        DeriveError,
        spec::{Composite, DeriveSpec, Head, Lrp, Real, RuleSetId},
    },
    onnx::graph::{Attribute, Dim, Element, Graph, Literal, Node, ValueInfo, ValueType},
};

use crate::{
    case::noise,
    run::{Net, derive, tensor},
};

const ALL: [Composite; 8] = Composite::ALL;

fn graph(input: &[usize], constants: &[(&str, &[usize], Vec<f32>)], nodes: Vec<Node>) -> Graph {
    let value = |name: &str, shape: &[usize]| {
        let known = shape.iter().map(|&size| Dim::Known(size));
        let shape = [Dim::Symbol("batch".into())].into_iter().chain(known);
        ValueInfo {
            name: name.into(),
            value_type: ValueType::new(Element::Float, shape.collect()),
        }
    };
    let literals = constants
        .iter()
        .map(|(name, shape, values)| ((*name).to_owned(), Literal::from_f32s(shape, values)));
    Graph {
        name: "net".into(),
        opset_imports: BTreeMap::from([(String::new(), 18)]),
        inputs: vec![value("x", input)],
        outputs: vec![value("y", &[2])],
        initializers: IndexMap::from_iter(literals),
        nodes,
        ..Graph::default()
    }
}

fn node(op: &str, inputs: &[&str], output: &str) -> Node {
    Node::new(op, inputs.iter().copied(), [output])
}

fn with(mut node: Node, name: &str, value: impl Into<Attribute>) -> Node {
    node.attributes.insert(name.into(), value.into());
    node
}

fn spec(composite: Composite, epsilon: f32) -> DeriveSpec {
    let lrp = Lrp {
        composite,
        epsilon: Real(epsilon),
        gamma: Real(0.25),
        bounds: vec![[Real(-4.0), Real(4.0)]],
    };
    DeriveSpec {
        lrp,
        ..DeriveSpec::of([RuleSetId::Lrp])
    }
}

/// The relevance of the input for the first class, which starts with 1.
fn relevance(net: &Graph, spec: &DeriveSpec, x: &Tensor) -> Vec<f32> {
    let graph = derive(net, spec, None).unwrap();
    let seed = tensor(&[1, 2], vec![1.0, 0.0]);
    let answer = Net::open(&graph).unwrap().run(&[("x", x), ("seed", &seed)]);
    answer.unwrap()["lrp"].iter().copied().collect()
}

fn refusal(net: &Graph, composite: Composite) -> (Vec<String>, String) {
    match derive(net, &spec(composite, 1e-6), None).err().unwrap() {
        DeriveError::Undefined { nodes, .. } => {
            let names = nodes.iter().map(|found| found.node.clone()).collect();
            (names, nodes[0].reason.clone())
        }
        error => panic!("{error}"),
    }
}

/// A dense layer over x = [1, -2, 3] with weights [[1, 2], [-1, 0], [2, -1]]: z = [9, -1].
fn dense() -> Graph {
    let constants: &[(&str, &[usize], Vec<f32>)] =
        &[("w", &[3, 2], vec![1.0, 2.0, -1.0, 0.0, 2.0, -1.0])];
    graph(&[3], constants, vec![node("MatMul", &["x", "w"], "y")])
}

/// A layer of one pixel with weights w `[2, 3, 1, 1]`, and its only pixel as scores.
fn convolution(w: [f32; 6], bias: [f32; 2]) -> Graph {
    let constants: &[(&str, &[usize], Vec<f32>)] =
        &[("w", &[2, 3, 1, 1], w.to_vec()), ("b", &[2], bias.to_vec())];
    let nodes = vec![
        node("Conv", &["x", "w", "b"], "c"),
        node("Flatten", &["c"], "y"),
    ];
    graph(&[3, 1, 1], constants, nodes)
}

fn assert_close(found: &[f32], expected: &[f64], about: &str) {
    assert_eq!(found.len(), expected.len(), "{about}");
    for (found, expected) in found.iter().zip(expected) {
        // The stabiliser of 1e-6, and f32.
        assert!(
            (f64::from(*found) - expected).abs() < 3e-6,
            "{about}: {found} is not {expected}"
        );
    }
}

#[test]
fn the_rules_are_their_formulas_on_one_layer() {
    let x = tensor(&[1, 3], vec![1.0, -2.0, 3.0]);
    let epsilon = relevance(&dense(), &spec(Composite::Epsilon, 1e-6), &x);
    assert_close(&epsilon, &[1.0 / 9.0, 2.0 / 9.0, 6.0 / 9.0], "epsilon");
    let coarse = relevance(&dense(), &spec(Composite::EpsilonPlus, 1.0), &x);
    assert_close(&coarse, &[0.1, 0.2, 0.6], "epsilon 1");
    let flat = relevance(&dense(), &spec(Composite::EpsilonPlusFlat, 1e-6), &x);
    assert_close(&flat, &[1.0 / 3.0; 3], "flat");

    // x w = [1, -2 * 1, 3 * 2] + 0.5: positive 7.5, negative -2, z = 5.5.
    let net = convolution([1.0, 1.0, 2.0, 0.0, 0.0, 1.0], [0.5, 0.0]);
    let x = tensor(&[1, 3, 1, 1], vec![1.0, -2.0, 3.0]);
    let plus = [1.0 / 7.5, 0.0, 6.0 / 7.5];
    let gamma = [1.25, -2.0, 7.5].map(|z| z / (1.25 - 2.0 + 7.5 + 0.5 * 1.25));
    // z - low w⁺ = x w + 4 Σ w⁺, without the bias.
    let bounded = [1.0 + 4.0, -2.0 + 4.0, 6.0 + 8.0].map(|z| z / 21.0);
    let cases: [(Composite, [f64; 3]); 8] = [
        (Composite::Epsilon, [1.0, -2.0, 6.0].map(|z| z / 5.5)),
        (Composite::EpsilonPlus, plus),
        (Composite::EpsilonPlusFlat, [1.0 / 3.0; 3]),
        (Composite::EpsilonGammaBox, bounded),
        (
            Composite::EpsilonAlpha2Beta1,
            [2.0 * plus[0], -1.0, 2.0 * plus[2]],
        ),
        (Composite::EpsilonAlpha2Beta1Flat, [1.0 / 3.0; 3]),
        (
            Composite::EpsilonPlusWSquare,
            [1.0, 1.0, 4.0].map(|z| z / 6.0),
        ),
        (Composite::AttnLrp, [1.0, -2.0, 6.0].map(|z| z / 5.5)),
    ];
    for (composite, expected) in cases {
        let found = relevance(&net, &spec(composite, 1e-6), &x);
        assert_close(&found, &expected, composite.id());
    }
    // Behind another layer, whose weights are ones on the diagonal.
    let mut deep = net;
    let ones = vec![1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
    let identity = Literal::from_f32s(&[3, 3, 1, 1], &ones);
    deep.initializers.insert("one".into(), identity);
    deep.nodes[0].inputs[0] = "same".into();
    deep.nodes.insert(0, node("Conv", &["x", "one"], "same"));
    let found = relevance(&deep, &spec(Composite::EpsilonGammaBox, 1e-6), &x);
    assert_close(&found, &gamma, "gamma");
}

#[test]
fn relevance_is_kept_by_networks_without_biases() {
    for seed in 0..12 {
        let drawn = |what: u64, count: usize| noise(10 * seed + what, count);
        let constants: &[(&str, &[usize], Vec<f32>)] = &[
            ("w1", &[6, 3, 3, 3], drawn(0, 162)),
            ("w2", &[6, 6, 3, 3], drawn(1, 324)),
            ("w3", &[4, 6, 3, 3], drawn(2, 216)),
            ("w4", &[10, 2], drawn(3, 20)),
        ];
        // Enough inputs for each output to have contributions of both signs, without which rules
        // for one sign lose what it would get.
        let padded = |node| with(node, "pads", Attribute::Ints(vec![1; 4]));
        let nodes = vec![
            padded(node("Conv", &["x", "w1"], "c1")),
            node("Relu", &["c1"], "r1"),
            padded(node("Conv", &["r1", "w2"], "c2")),
            node("Add", &["c2", "r1"], "sum"),
            node("Relu", &["sum"], "r2"),
            with(
                with(
                    node("MaxPool", &["r2"], "p"),
                    "kernel_shape",
                    Attribute::Ints(vec![2, 2]),
                ),
                "strides",
                Attribute::Ints(vec![2, 2]),
            ),
            padded(node("Conv", &["p", "w3"], "c3")),
            with(node("Concat", &["p", "c3"], "both"), "axis", 1),
            node("Relu", &["both"], "r3"),
            node("GlobalAveragePool", &["r3"], "g"),
            node("Flatten", &["g"], "f"),
            node("Gemm", &["f", "w4"], "y"),
        ];
        let net = graph(&[3, 6, 6], constants, nodes);
        let x = tensor(&[1, 3, 6, 6], drawn(4, 108));
        for composite in ALL {
            let found = relevance(&net, &spec(composite, 0.0), &x);
            let sum: f64 = found.iter().map(|&value| f64::from(value)).sum();
            let size: f64 = found.iter().map(|&value| f64::from(value.abs())).sum();
            // Relative to what is added up: signs that cancel cost digits.
            assert!(
                (sum - 1.0).abs() < 1e-4 * size.max(1.0),
                "{}: {sum}",
                composite.id()
            );
        }
    }
}

#[test]
fn a_gate_gets_nothing_and_an_activation_that_is_written_out_passes() {
    let constants: &[(&str, &[usize], Vec<f32>)] = &[
        ("w", &[3, 2], vec![1.0, 2.0, -1.0, 0.0, 2.0, -1.0]),
        ("half", &[], vec![0.5]),
    ];
    let x = tensor(&[1, 3], vec![1.0, -2.0, 3.0]);
    let plain = relevance(&dense(), &spec(Composite::Epsilon, 1e-6), &x);
    // SiLU of the input, and the half of it times 1 + its Erf, with ops that have no rule.
    for gate in ["Sigmoid", "Erf"] {
        let nodes = [
            node("Pow", &["z", "half"], "bent"),
            node(gate, &["bent"], "g"),
            node("Add", &["g", "half"], "shifted"),
            node("Mul", &["z", "shifted"], "y"),
            node("MatMul", &["x", "w"], "z"),
        ];
        let order = [4, 0, 1, 2, 3].map(|at| nodes[at].clone());
        let net = graph(&[3], constants, order.to_vec());
        assert_eq!(
            relevance(&net, &spec(Composite::Epsilon, 1e-6), &x),
            plain,
            "{gate}"
        );
    }
    let nodes = vec![
        node("MatMul", &["x", "w"], "z"),
        node("Mul", &["z", "z"], "y"),
    ];
    let (names, reason) = refusal(&graph(&[3], constants, nodes), Composite::Epsilon);
    assert_eq!(names, ["y"]);
    assert!(reason.contains("gate"), "{reason}");
}

#[test]
fn normalisation_in_front_passes_and_a_bias_takes_its_share() {
    let constants: &[(&str, &[usize], Vec<f32>)] = &[
        ("w", &[3, 2], vec![1.0, 2.0, -1.0, 0.0, 2.0, -1.0]),
        ("mean", &[3], vec![0.5, 0.5, 0.5]),
        ("bias", &[2], vec![1.0, 1.0]),
    ];
    let nodes = vec![
        node("Sub", &["x", "mean"], "shifted"),
        node("MatMul", &["shifted", "w"], "z"),
        node("Add", &["z", "bias"], "y"),
    ];
    let net = graph(&[3], constants, nodes);
    // Shifted: [1, -2, 3]; z = 9 of 10.
    let x = tensor(&[1, 3], vec![1.5, -1.5, 3.5]);
    let found = relevance(&net, &spec(Composite::Epsilon, 1e-6), &x);
    assert_close(&found, &[0.1, 0.2, 0.6], "bias");
}

#[test]
fn nodes_without_a_rule_are_named_together() {
    let constants: &[(&str, &[usize], Vec<f32>)] =
        &[("w", &[3, 2], vec![1.0; 6]), ("one", &[3], vec![1.0; 3])];
    let nodes = vec![
        node("LayerNormalization", &["x", "one"], "n"),
        node("Softmax", &["n"], "s"),
        node("MatMul", &["s", "w"], "y"),
    ];
    let net = graph(&[3], constants, nodes);
    for composite in ALL.into_iter().filter(|one| *one != Composite::AttnLrp) {
        assert_eq!(refusal(&net, composite).0, ["n", "s"], "{}", composite.id());
    }
}

#[test]
fn attn_lrp_is_its_propositions() {
    let first = [0.5, 0.4, -0.1, 0.3, 0.1, -0.2];
    let second = [1.5, 1.0, 1.0, -1.0, 0.5, 2.0];
    let wide = |w: [f64; 6]| w.map(|value| value as f32).to_vec();
    let constants: &[(&str, &[usize], Vec<f32>)] = &[
        ("w", &[3, 2], wide(first)),
        ("v", &[3, 2], wide(second)),
        ("u", &[2, 2], vec![1.0, 0.5, -0.5, 2.0]),
        ("scale", &[3], vec![1.0, 0.5, 2.0]),
        ("one", &[], vec![1.0]),
    ];
    let x = [1.0, -2.0, 3.0];
    let z = |w: [f64; 6], j: usize| (0..3).map(|i| x[i] * w[2 * i + j]).sum::<f64>();
    // Of the relevance of z.
    let back = |w: [f64; 6], r: [f64; 2]| -> Vec<f64> {
        let share = |i: usize| (0..2).map(|j| x[i] * w[2 * i + j] / z(w, j) * r[j]).sum();
        (0..3).map(share).collect()
    };
    let layers = || {
        vec![
            node("MatMul", &["x", "w"], "z"),
            node("MatMul", &["x", "v"], "t"),
        ]
    };
    let check = |nodes: Vec<Node>, expected: &[f64], about: &str| {
        let net = graph(&[3], constants, [layers(), nodes].concat());
        let input = tensor(&[1, 3], x.map(|value| value as f32).to_vec());
        let found = relevance(&net, &spec(Composite::AttnLrp, 1e-6), &input);
        assert_close(&found, expected, about);
    };
    // Factors share alike: Proposition 3.2.
    let halves: Vec<f64> = back(first, [0.5, 0.0])
        .into_iter()
        .zip(back(second, [0.5, 0.0]))
        .map(|(a, b)| a + b)
        .collect();
    check(vec![node("Mul", &["z", "t"], "y")], &halves, "product");
    // Softmax of z: Proposition 3.1; u's first column gives the class.
    let total = z(first, 0).exp() + z(first, 1).exp();
    let s = [0, 1].map(|j| z(first, j).exp() / total);
    let y = s[0] - 0.5 * s[1];
    let r = [s[0] / y, -0.5 * s[1] / y];
    let of_z = [0, 1].map(|j| z(first, j) * (r[j] - s[j] * (r[0] + r[1])));
    let softmax = vec![
        node("Softmax", &["z"], "s"),
        node("MatMul", &["s", "u"], "y"),
    ];
    check(softmax, &back(first, of_z), "softmax");
    // Of a normalisation all goes to the numerator, or to the factor that is no inverse: 3.4.
    let all = back(first, [1.0, 0.0]);
    let norm = |last: Vec<Node>| [vec![node("Softplus", &["z"], "n")], last].concat();
    check(norm(vec![node("Div", &["z", "n"], "y")]), &all, "quotient");
    let inverse = vec![
        node("Div", &["one", "n"], "i"),
        node("Mul", &["z", "i"], "y"),
    ];
    check(norm(inverse), &all, "inverse");
    // Activations pass: Eq. 9.
    check(vec![node("Tanh", &["z"], "y")], &all, "activation");
    // LayerNormalization is linear but for its deviation.
    let mean = x.iter().sum::<f64>() / 3.0;
    let deviation = (x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 3.0 + 1e-5).sqrt();
    let scale = [1.0, 0.5, 2.0];
    let n = [0, 1, 2].map(|i| (x[i] - mean) / deviation * scale[i]);
    let y = (0..3).map(|i| n[i] * first[2 * i]).sum::<f64>();
    let g = [0, 1, 2].map(|i| first[2 * i] / y * scale[i]);
    let centre = g.iter().sum::<f64>() / 3.0;
    let expected = [0, 1, 2].map(|i| x[i] * (g[i] - centre) / deviation);
    let nodes = vec![
        node("LayerNormalization", &["x", "scale"], "normal"),
        node("MatMul", &["normal", "w"], "y"),
    ];
    check(nodes, &expected, "layer normalisation");
}

#[test]
fn sets_for_rectifiers_are_not_defined_inside_transformers() {
    let constants: &[(&str, &[usize], Vec<f32>)] =
        &[("w", &[3, 2], vec![1.0; 6]), ("one", &[3], vec![1.0; 3])];
    let nodes = vec![
        node("LayerNormalization", &["x", "one"], "n"),
        node("Erf", &["n"], "e"),
        node("MatMul", &["e", "w"], "z"),
        node("Softmax", &["z"], "y"),
    ];
    let net = graph(&[3], constants, nodes);
    for set in [RuleSetId::GuidedBackprop, RuleSetId::Deconvnet] {
        for head in [Head::Logits, Head::Probabilities] {
            let spec = DeriveSpec {
                head,
                ..DeriveSpec::of([RuleSetId::Gradient, set])
            };
            let error = derive(&net, &spec, None).err().unwrap();
            let DeriveError::Undefined { rule_set, nodes } = error else {
                panic!("{error}")
            };
            let names: Vec<_> = nodes.iter().map(|found| found.node.as_str()).collect();
            // Not the Softmax of the head.
            assert_eq!((rule_set, names), (set.id(), vec!["n", "e"]));
        }
    }
}

#[test]
fn the_box_needs_bounds_of_what_the_first_layer_reads() {
    let net = convolution([1.0; 6], [0.0; 2]);
    let without = DeriveSpec {
        lrp: Lrp {
            composite: Composite::EpsilonGammaBox,
            ..Lrp::default()
        },
        ..DeriveSpec::of([RuleSetId::Lrp])
    };
    let error = derive(&net, &without, None).err().unwrap().to_string();
    assert!(error.contains("least and the greatest"), "{error}");
    let mut scaled = net;
    scaled
        .initializers
        .insert("two".into(), Literal::from_f32s(&[], &[2.0]));
    scaled.nodes[0].inputs[0] = "twice".into();
    scaled.nodes.insert(0, node("Mul", &["x", "two"], "twice"));
    let (names, reason) = refusal(&scaled, Composite::EpsilonGammaBox);
    assert_eq!(names, ["c"]);
    assert!(reason.contains("as it is"), "{reason}");
}
