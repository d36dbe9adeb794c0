//! Gradients with respect to parameters against difference quotients, and against what a training
//! step does.

use std::{collections::BTreeMap, path::Path};

use onnx_autodiff::{
    Tensor,
    autodiff::{
        DeriveError, Loss,
        parameters::{
            Parameter, ParameterGraph, Parameters, loss_gradients, parameter_gradients, places,
        },
        spec::Head,
    },
    onnx::{
        graph::{Graph, Literal, Node},
        read_model,
    },
};

use crate::{
    case::{BATCH, Case, In, noise},
    run::{Net, dot, tensor},
};

/// Half the distance of the difference quotient.
const STEP: f32 = 1e-2;

fn rows() -> Vec<Case> {
    use In::{Absent, Noise, Positive, X};
    let conv = |about, x: &[usize], weight: &[usize], bias: bool| {
        let bias = if bias { Noise(vec![weight[0]]) } else { Absent };
        Case::new("Conv", about, x, &[X, Noise(weight.to_vec()), bias])
    };
    vec![
        conv("1 x 1", &[3, 4, 4], &[2, 3, 1, 1], true),
        conv("pads", &[3, 5, 4], &[2, 3, 3, 3], true).ints("pads", &[1, 0, 2, 1]),
        conv(
            "stride that leaves a rest",
            &[2, 6, 7],
            &[3, 2, 3, 2],
            false,
        )
        .ints("strides", &[2, 3]),
        conv("dilation", &[2, 7, 7], &[2, 2, 3, 3], true)
            .ints("dilations", &[2, 3])
            .ints("pads", &[2, 3, 2, 3]),
        conv("groups", &[4, 5, 5], &[6, 2, 3, 3], true)
            .with("group", 2)
            .ints("strides", &[2, 2]),
        conv("depthwise", &[3, 5, 5], &[3, 1, 3, 3], true)
            .with("group", 3)
            .ints("pads", &[1, 1, 1, 1]),
        conv("same pads", &[2, 5, 5], &[2, 2, 2, 2], true)
            .with("auto_pad", "SAME_UPPER")
            .ints("strides", &[2, 2]),
        conv("one spatial axis", &[2, 9], &[3, 2, 4], true).ints("strides", &[2]),
        Case::new(
            "ConvTranspose",
            "plain",
            &[3, 4, 4],
            &[X, Noise(vec![3, 2, 3, 3]), Noise(vec![2])],
        ),
        Case::new(
            "ConvTranspose",
            "all",
            &[4, 4, 5],
            &[X, Noise(vec![4, 3, 3, 2]), Noise(vec![6])],
        )
        .with("group", 2)
        .ints("strides", &[2, 3])
        .ints("pads", &[1, 0, 0, 1])
        .ints("dilations", &[1, 2])
        .ints("output_padding", &[1, 0]),
        Case::new(
            "Gemm",
            "plain",
            &[5],
            &[X, Noise(vec![5, 3]), Noise(vec![3])],
        ),
        Case::new(
            "Gemm",
            "scaled and transposed",
            &[5],
            &[X, Noise(vec![3, 5]), Noise(vec![3])],
        )
        .with("transB", 1)
        .with("alpha", 0.5f32)
        .with("beta", -2.0f32),
        Case::new("MatMul", "rows", &[4], &[X, Noise(vec![4, 3])]),
        Case::new("MatMul", "tokens", &[3, 4], &[X, Noise(vec![4, 2])]),
        Case::new("MatMul", "from the left", &[3, 4], &[Noise(vec![2, 3]), X]),
        Case::new(
            "MatMul",
            "a stack of weights",
            &[2, 3, 4],
            &[X, Noise(vec![2, 4, 3])],
        ),
        Case::new(
            "BatchNormalization",
            "scale and bias",
            &[3, 4, 4],
            &[
                X,
                Noise(vec![3]),
                Noise(vec![3]),
                Noise(vec![3]),
                Positive(vec![3]),
            ],
        ),
        Case::new(
            "LayerNormalization",
            "last axis",
            &[4, 5],
            &[X, Noise(vec![5]), Noise(vec![5])],
        ),
        Case::new(
            "LayerNormalization",
            "two axes",
            &[4, 5],
            &[X, Noise(vec![4, 5]), Noise(vec![4, 5])],
        )
        .with("axis", 1),
        Case::new(
            "InstanceNormalization",
            "images",
            &[3, 4, 4],
            &[X, Noise(vec![3]), Noise(vec![3])],
        ),
        Case::new(
            "PRelu",
            "per channel",
            &[3, 4, 4],
            &[X, Noise(vec![3, 1, 1])],
        ),
        Case::new("Add", "bias", &[3, 4], &[X, Noise(vec![4])]),
        Case::new(
            "Mul",
            "scale per channel",
            &[3, 2, 2],
            &[X, Noise(vec![3, 1, 1])],
        ),
    ]
}

fn derived(source: &Graph, wanted: &Parameters) -> Result<ParameterGraph, DeriveError> {
    parameter_gradients(source, Head::Logits, wanted)
}

fn values(graph: &ParameterGraph) -> BTreeMap<String, Tensor> {
    let all = graph.parameters.iter();
    all.map(|one| {
        (
            one.name.clone(),
            tensor(&one.value.shape, one.value.to_f32s().unwrap()),
        )
    })
    .collect()
}

fn run(
    net: &mut Net,
    x: &Tensor,
    seed: &Tensor,
    weights: &BTreeMap<String, Tensor>,
) -> BTreeMap<String, Tensor> {
    let mut inputs = vec![("x", x), ("seed", seed)];
    inputs.extend(weights.iter().map(|(name, value)| (name.as_str(), value)));
    net.run(&inputs).unwrap()
}

#[test]
fn gradients_equal_difference_quotients() {
    for case in rows() {
        let what = format!("{} ({})", case.op, case.about);
        let graph = derived(&case.graph(), &Parameters::All)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        let mut shape = vec![BATCH];
        shape.extend(&case.x);
        let x = tensor(&shape, case.input());
        let mut net = Net::open(&graph.graph).unwrap_or_else(|error| panic!("{what}: {error}"));
        let weights = values(&graph);
        assert_eq!(
            weights.len(),
            case.inputs
                .iter()
                .filter(|input| matches!(input, In::Noise(_)))
                .count()
                .min(2),
            "{what}"
        );
        let classes = graph.graph.outputs[0].value_type.shape[1].known().unwrap();
        let seed = tensor(&[BATCH, classes], noise(2, BATCH * classes));
        let answer = run(&mut net, &x, &seed, &weights);
        for one in &graph.parameters {
            let gradient = &answer[&one.gradient];
            assert_eq!(gradient.shape(), one.value.shape, "{what}, {}", one.name);
            let along = tensor(gradient.shape(), noise(3, gradient.len()));
            let mut at = |sign: f32| {
                let mut moved = weights.clone();
                moved.insert(
                    one.name.clone(),
                    &weights[&one.name] + &(&along * (sign * STEP)),
                );
                dot(&seed, &run(&mut net, &x, &seed, &moved)["logits"])
            };
            let expected = (at(1.0) - at(-1.0)) / (2.0 * f64::from(STEP));
            let found = dot(&along, gradient);
            // All are linear in their parameters: what is left is rounding.
            assert!(
                (found - expected).abs() <= 1e-3 * expected.abs().max(1.0),
                "{what}, {}: {found}, {expected}",
                one.name
            );
        }
    }
}

/// As [`run`], of a graph with a loss.
fn judge(
    net: &mut Net,
    x: &Tensor,
    target: &Tensor,
    weights: &BTreeMap<String, Tensor>,
) -> BTreeMap<String, Tensor> {
    let mut inputs = vec![("x", x), ("target", target)];
    inputs.extend(weights.iter().map(|(name, value)| (name.as_str(), value)));
    net.run(&inputs).unwrap()
}

/// Rows of numbers above 0 with sum 1.
fn distributions(classes: usize) -> Tensor {
    let mut rows = tensor(&[BATCH, classes], noise(4, BATCH * classes)).mapv(|x| x.abs() + 0.1);
    for mut row in rows.outer_iter_mut() {
        let sum = row.sum();
        row.mapv_inplace(|share| share / sum);
    }
    rows
}

#[test]
fn gradients_of_losses_equal_difference_quotients() {
    for classes in [1, 4] {
        let case = Case::new(
            "Gemm",
            "head",
            &[6],
            &[In::X, In::Noise(vec![6, classes]), In::Noise(vec![classes])],
        );
        let x = tensor(&[BATCH, 6], case.input());
        for loss in [Loss::CrossEntropy, Loss::MeanSquaredError] {
            let graph = loss_gradients(&case.graph(), loss, &Parameters::All).unwrap();
            let mut net = Net::open(&graph.graph).unwrap();
            let target = match (loss, classes) {
                (Loss::CrossEntropy, 1) => tensor(&[BATCH, 1], noise(4, BATCH)).mapv(f32::abs),
                (Loss::CrossEntropy, _) => distributions(classes),
                (Loss::MeanSquaredError, _) => tensor(&[BATCH, classes], noise(4, BATCH * classes)),
            };
            let weights = values(&graph);
            let answer = judge(&mut net, &x, &target, &weights);
            for (row, found) in answer["loss"].iter().enumerate() {
                let of = |values: &Tensor| -> Vec<f64> {
                    let row = values.index_axis(ndarray::Axis(0), row);
                    row.iter().map(|value| f64::from(*value)).collect()
                };
                let (z, t) = (of(&answer["logits"]), of(&target));
                let pairs = z.iter().zip(&t);
                let sum = z.iter().map(|z| z.exp()).sum::<f64>();
                let expected = match (loss, classes) {
                    (Loss::MeanSquaredError, _) => {
                        pairs.map(|(z, t)| (z - t).powi(2)).sum::<f64>() / z.len() as f64
                    }
                    (Loss::CrossEntropy, 1) => (1.0 + z[0].exp()).ln() - t[0] * z[0],
                    (Loss::CrossEntropy, _) => pairs.map(|(z, t)| t * (sum.ln() - z)).sum::<f64>(),
                };
                assert!(
                    (f64::from(*found) - expected).abs() < 1e-5,
                    "{loss:?} {found} {expected}"
                );
            }
            for one in &graph.parameters {
                let gradient = &answer[&one.gradient];
                let along = tensor(gradient.shape(), noise(3, gradient.len()));
                let mut at = |sign: f32| {
                    let mut moved = weights.clone();
                    moved.insert(
                        one.name.clone(),
                        &weights[&one.name] + &(&along * (sign * STEP)),
                    );
                    let losses = &judge(&mut net, &x, &target, &moved)["loss"];
                    losses.iter().map(|loss| f64::from(*loss)).sum::<f64>()
                };
                let expected = (at(1.0) - at(-1.0)) / (2.0 * f64::from(STEP));
                let found = dot(&along, gradient);
                // The rest of the quotient is of the step's square.
                assert!(
                    (found - expected).abs() <= 2e-3 * expected.abs().max(1.0),
                    "{loss:?} of {classes}, {}: {found}, {expected}",
                    one.name
                );
            }
        }
    }
}

#[test]
fn the_cross_entropy_of_huge_logits_is_finite() {
    for classes in [1, 3] {
        let case = Case::new(
            "Gemm",
            "huge",
            &[2],
            &[In::X, In::Noise(vec![2, classes]), In::Noise(vec![classes])],
        );
        let graph = loss_gradients(&case.graph(), Loss::CrossEntropy, &Parameters::All).unwrap();
        let mut net = Net::open(&graph.graph).unwrap();
        let x = tensor(&[BATCH, 2], noise(1, 2 * BATCH)).mapv(|x| 1e6 * x);
        let mut target = Tensor::zeros(vec![BATCH, classes]);
        target.index_axis_mut(ndarray::Axis(1), 0).fill(1.0);
        let answer = judge(&mut net, &x, &target, &values(&graph));
        for (name, value) in &answer {
            assert!(
                value.iter().all(|number| number.is_finite()),
                "{name}: {value}"
            );
        }
    }
}

#[test]
fn parameters_have_their_places_among_the_linear_layers() {
    let case = Case::new(
        "Conv",
        "normalised",
        &[3, 4, 4],
        &[In::X, In::Noise(vec![2, 3, 1, 1]), In::Noise(vec![2])],
    );
    let mut graph = case.graph();
    let constant = |count: usize| Literal::from_f32s(&[count], &vec![1.0; count]);
    for name in ["scale", "shift", "mean", "variance"] {
        graph.initializers.insert(name.into(), constant(2));
    }
    graph
        .initializers
        .insert("before".into(), Literal::from_f32s(&[3, 1, 1], &[1.0; 3]));
    for node in &mut graph.nodes {
        for input in &mut node.inputs {
            if input == "x" {
                *input = "scaled".into();
            }
        }
    }
    let conv = graph.nodes.iter().position(|node| node.is("Conv")).unwrap();
    let made = graph.nodes[conv].outputs[0].clone();
    graph.nodes[conv].outputs[0] = "made".into();
    graph.nodes[conv].name = "conv".into();
    let norm = Node::new(
        "BatchNormalization",
        ["made", "scale", "shift", "mean", "variance"],
        [made.as_str()],
    );
    graph.nodes.insert(conv + 1, norm);
    graph
        .nodes
        .insert(0, Node::new("Mul", ["x", "before"], ["scaled"]));
    let places = places(&graph).unwrap();
    assert_eq!(places.layers, [["conv", "made", &made, &made]]);
    let found: Vec<(&str, &str, usize)> = places
        .parameters
        .iter()
        .map(|place| (place.name.as_str(), place.op_type.as_str(), place.depth))
        .collect();
    let expected = [
        ("before", "Mul", 0),
        ("c1", "Conv", 1),
        ("c2", "Conv", 1),
        ("scale", "BatchNormalization", 1),
        ("shift", "BatchNormalization", 1),
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_small_step_along_the_gradient_of_a_whole_network_moves_the_logit_by_its_square() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/squeezenet1_1/model.onnx");
    let graph = derived(&read_model(&path).unwrap(), &Parameters::All).unwrap();
    // 26 convolutions, each with a bias.
    assert_eq!(graph.parameters.len(), 52);
    let (input, classes) = (&graph.graph.inputs[0].name, 1000);
    let x = tensor(&[2, 3, 224, 224], noise(5, 2 * 3 * 224 * 224));
    let mut seed = Tensor::zeros(vec![2, classes]);
    (seed[[0, 17]], seed[[1, 400]]) = (1.0, -1.0);
    let mut net = Net::open(&graph.graph).unwrap();
    let mut run = |weights: &BTreeMap<String, Tensor>| {
        let mut inputs = vec![(input.as_str(), &x), ("seed", &seed)];
        inputs.extend(weights.iter().map(|(name, value)| (name.as_str(), value)));
        net.run(&inputs).unwrap()
    };
    let weights = values(&graph);
    let answer = run(&weights);
    let square: f64 = graph
        .parameters
        .iter()
        .map(|one| dot(&answer[&one.gradient], &answer[&one.gradient]))
        .sum();
    let rate = (0.02 / square) as f32;
    let mut moved = |sign: f32| {
        let step = |one: &Parameter| {
            let value = &weights[&one.name] + &(&answer[&one.gradient] * (sign * rate));
            (one.name.clone(), value)
        };
        dot(
            &seed,
            &run(&graph.parameters.iter().map(step).collect())["logits"],
        )
    };
    let found = (moved(1.0) - moved(-1.0)) / (2.0 * f64::from(rate));
    assert!((found - square).abs() < 0.02 * square, "{found}, {square}");
}

#[test]
fn parameters_are_chosen_by_name() {
    let case = Case::new(
        "Conv",
        "named",
        &[3, 4, 4],
        &[In::X, In::Noise(vec![2, 3, 1, 1]), In::Noise(vec![2])],
    );
    let named = |names: &[&str]| {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        derived(&case.graph(), &Parameters::Named(names))
    };
    let graph = named(&["c2"]).unwrap();
    assert_eq!(
        graph
            .graph
            .inputs
            .iter()
            .map(|input| input.name.as_str())
            .collect::<Vec<_>>(),
        ["x", "c2", "seed"]
    );
    assert_eq!(
        graph
            .graph
            .outputs
            .iter()
            .map(|output| output.name.as_str())
            .collect::<Vec<_>>(),
        ["logits", "probabilities", "gradient/c2"]
    );
    let error = |found: Result<ParameterGraph, DeriveError>| found.err().unwrap().to_string();
    assert_eq!(
        error(named(&["c9", "c1"])),
        "c9 is no parameter of the model; it has c1, c2"
    );
    let plain = Case::new("Relu", "nothing to train", &[3], &[In::X]).graph();
    assert_eq!(
        error(derived(&plain, &Parameters::All)),
        "the model has no weights or biases that its head depends on"
    );
}
