//! Where a model's logits and probabilities are found.

use std::collections::BTreeMap;

use onnx_autodiff::{
    autodiff::{DeriveError, spec::RuleSetId},
    onnx::graph::{Dim, Element, Graph, Literal, Node, ValueInfo, ValueType},
};

use crate::run::{Net, derive, spec, tensor};

/// x `[N, 3]` -> nodes -> outputs, each given as (name, rank).
fn graph(nodes: Vec<Node>, outputs: &[(&str, usize)], batch: Dim) -> Graph {
    let info = |name: &str, shape: Vec<Dim>| ValueInfo {
        name: name.into(),
        value_type: ValueType::new(Element::Float, shape),
    };
    Graph {
        opset_imports: BTreeMap::from([(String::new(), 13)]),
        inputs: vec![info("x", vec![batch, Dim::Known(3)])],
        outputs: outputs
            .iter()
            .map(|&(name, rank)| {
                info(
                    name,
                    (0..rank)
                        .map(|i| Dim::Symbol(format!("{name}{i}")))
                        .collect(),
                )
            })
            .collect(),
        initializers: [
            ("four".to_owned(), Literal::vector_i64(&[0, 3, 1, 1])),
            ("one".to_owned(), Literal::vector_i64(&[1, 1])),
        ]
        .into(),
        nodes,
        ..Graph::default()
    }
}

fn symbolic() -> Dim {
    Dim::Symbol("N".into())
}

/// logits and probabilities at (1, 2, 3).
fn answer(source: &Graph) -> (Vec<f32>, Vec<f32>) {
    let graph = derive(source, &spec(&[]), None).unwrap();
    let found = Net::open(&graph)
        .unwrap()
        .run(&[("x", &tensor(&[1, 3], vec![1.0, 2.0, 3.0]))])
        .unwrap();
    let of = |name: &str| found[name].iter().copied().collect();
    assert_eq!(found["logits"].shape(), [1, 3]);
    (of("logits"), of("probabilities"))
}

fn softmax(z: &[f32]) -> Vec<f32> {
    let total: f32 = z.iter().map(|z| z.exp()).sum();
    z.iter().map(|z| z.exp() / total).collect()
}

fn assert_close(found: &[f32], expected: &[f32]) {
    assert!(
        found
            .iter()
            .zip(expected)
            .all(|(f, e)| (f - e).abs() < 1e-6),
        "{found:?} is not {expected:?}"
    );
}

#[test]
fn a_softmax_at_the_end_gives_both() {
    let (logits, probabilities) = answer(&graph(
        vec![
            Node::new("Neg", ["x"], ["z"]),
            Node::new("Softmax", ["z"], ["probs"]),
        ],
        &[("probs", 2)],
        symbolic(),
    ));
    assert_close(&logits, &[-1.0, -2.0, -3.0]);
    assert_close(&probabilities, &softmax(&[-1.0, -2.0, -3.0]));
}

#[test]
fn plain_outputs_are_logits_even_when_an_inner_value_has_the_name() {
    let (logits, probabilities) = answer(&graph(
        vec![
            Node::new("Neg", ["x"], ["logits"]),
            Node::new("Neg", ["logits"], ["gradient"]),
        ],
        &[("gradient", 2)],
        symbolic(),
    ));
    assert_close(&logits, &[1.0, 2.0, 3.0]);
    assert_close(&probabilities, &softmax(&[1.0, 2.0, 3.0]));
}

#[test]
fn a_log_softmax_and_a_sigmoid_at_the_end_are_seen_through() {
    let end = |op: &str| {
        let nodes = vec![
            Node::new("Neg", ["x"], ["z"]),
            Node::new(op, ["z"], ["out"]),
        ];
        answer(&graph(nodes, &[("out", 2)], symbolic()))
    };
    let z = [-1.0f32, -2.0, -3.0];
    let (logits, probabilities) = end("LogSoftmax");
    assert_close(&logits, &z);
    assert_close(&probabilities, &softmax(&z));
    let (logits, probabilities) = end("Sigmoid");
    assert_close(&logits, &z);
    assert_close(&probabilities, &z.map(|z| 1.0 / (1.0 + (-z).exp())));
}

#[test]
fn an_image_of_one_pixel_is_flattened_and_a_batch_of_one_is_freed() {
    let nodes = vec![
        Node::new("Reshape", ["x", "four"], ["z"]),
        Node::new("Softmax", ["z"], ["out"]).with("axis", 1),
    ];
    let source = graph(nodes, &[("out", 4)], Dim::Known(1));
    let (logits, probabilities) = answer(&source);
    assert_close(&logits, &[1.0, 2.0, 3.0]);
    assert_close(&probabilities, &softmax(&[1.0, 2.0, 3.0]));
    let graph = derive(&source, &spec(&[]), None).unwrap();
    assert!(matches!(
        graph.inputs[0].value_type.shape[0],
        Dim::Symbol(_)
    ));
}

#[test]
fn of_several_outputs_the_first_with_classes_counts() {
    let nodes = vec![
        Node::new("Reshape", ["x", "four"], ["image"]),
        Node::new("Expand", ["image", "wide"], ["map"]),
        Node::new("Neg", ["x"], ["main"]),
        Node::new("Abs", ["x"], ["aux"]),
    ];
    let mut source = graph(nodes, &[("map", 4), ("main", 2), ("aux", 2)], symbolic());
    source
        .initializers
        .insert("wide".into(), Literal::vector_i64(&[1, 3, 2, 2]));
    assert_close(&answer(&source).0, &[-1.0, -2.0, -3.0]);
}

#[test]
fn without_an_output_of_classes_the_error_lists_the_outputs() {
    let nodes = vec![
        Node::new("Reshape", ["x", "four"], ["image"]),
        Node::new("Expand", ["image", "wide"], ["map"]),
    ];
    let mut source = graph(nodes, &[("map", 4)], symbolic());
    source
        .initializers
        .insert("wide".into(), Literal::vector_i64(&[1, 3, 2, 2]));
    let error = derive(&source, &spec(&[RuleSetId::Gradient]), None).unwrap_err();
    assert!(
        matches!(&error, DeriveError::NoHead { outputs } if outputs.len() == 1),
        "{error}"
    );
    assert!(
        error.to_string().contains("map float32[batch, 3, 2, 2]"),
        "{error}"
    );
}

#[test]
fn an_input_without_numbers_is_refused() {
    let mut source = graph(
        vec![Node::new("Neg", ["x"], ["out"])],
        &[("out", 2)],
        symbolic(),
    );
    source.inputs[0].value_type.shape[1] = Dim::Symbol("width".into());
    let error = derive(&source, &spec(&[]), None).unwrap_err();
    assert!(error.to_string().contains("x [batch, width]"), "{error}");
}
