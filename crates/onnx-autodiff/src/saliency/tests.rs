use super::*;
use crate::onnx::graph::{Element, Node, ValueType};

fn value(name: &str, shape: Vec<Dim>) -> ValueInfo {
    ValueInfo {
        name: name.into(),
        value_type: ValueType::new(Element::Float, shape),
    }
}

/// Two numbers, two classes: logits (x W)².
fn squares() -> Graph {
    Graph {
        inputs: vec![value("x", vec!["N".into(), 2.into()])],
        outputs: vec![value("y", vec!["N".into(), 2.into()])],
        initializers: [(
            "w".to_owned(),
            Literal::from_f32s(&[2, 2], &[1.0, 2.0, 3.0, 4.0]),
        )]
        .into_iter()
        .collect(),
        nodes: vec![
            Node::new("MatMul", ["x", "w"], ["saliency_map"]),
            Node::new("Mul", ["saliency_map", "saliency_map"], ["y"]),
        ],
        ..Graph::default()
    }
}

fn saliency(formula: Formula, target: Target) -> Saliency {
    Saliency {
        formula,
        spec: DeriveSpec::gradient(),
        target,
        upsample: false,
        normalize: Normalize::None,
    }
}

fn path(points: usize, rows: usize) -> Formula {
    Formula::Samples(Samples {
        points: (1..=points)
            .map(|point| Sample {
                baseline: 0,
                noise: 0,
                alpha: point as f64 / points as f64,
                weight: 1.0 / points as f64,
            })
            .collect(),
        rows,
        baselines: Some(Literal::from_f32s(&[1, 1], &[0.0])),
        noise: None,
        statistic: Statistic::SumOfWays,
    })
}

fn names(values: &[ValueInfo]) -> Vec<&str> {
    values.iter().map(|value| value.name.as_str()).collect()
}

fn ops(graph: &Graph) -> Vec<&str> {
    graph
        .nodes
        .iter()
        .map(|node| node.op_type.as_str())
        .collect()
}

#[test]
fn the_input_is_the_models_alone_and_an_inner_value_of_the_maps_name_makes_room() {
    let made = explainer(
        &squares(),
        &saliency(Formula::Derivative, Target::Predicted),
        None,
    );
    let Explainer { graph, newer } = made.unwrap();
    assert_eq!(names(&graph.inputs), ["x"]);
    assert_eq!(
        names(&graph.outputs),
        ["logits", "probabilities", "saliency_map"]
    );
    assert_eq!((graph.opset(), newer.len()), (17, 0));
    assert_eq!(
        graph.outputs[2].value_type.shape,
        graph.inputs[0].value_type.shape
    );
}

#[test]
fn the_values_of_a_regression_are_no_logits() {
    let mut source = squares();
    source.is_regression = true;
    let made = explainer(
        &source,
        &saliency(Formula::Derivative, Target::Seed(vec![(1, 1.0)])),
        None,
    );
    let graph = made.unwrap().graph;
    assert_eq!(names(&graph.outputs), [VALUES, MAP]);
    assert!(!ops(&graph).contains(&"Softmax"));
    let named = Node::new("MatMul", ["values", "w"], ["saliency_map"]);
    source.inputs[0].name = "values".into();
    source.nodes[0] = named;
    let refused = explainer(
        &source,
        &saliency(Formula::Derivative, Target::Predicted),
        None,
    );
    assert!(matches!(refused, Err(DeriveError::ReservedInput { .. })));
}

#[test]
fn a_target_may_be_an_input() {
    let made = explainer(
        &squares(),
        &saliency(Formula::InputXDerivative, Target::Input),
        None,
    );
    let graph = made.unwrap().graph;
    assert_eq!(names(&graph.inputs), ["x", "target"]);
    assert_eq!(graph.inputs[1].value_type.element, Element::Int64);
}

#[test]
fn weights_stand_in_the_file_once_and_turns_are_those_of_a_loop() {
    let [once, turns] = [path(6, 6), path(7, 3)].map(|formula| {
        let made = explainer(
            &squares(),
            &saliency(formula, Target::Seed(vec![(1, 1.0)])),
            None,
        );
        made.unwrap().graph
    });
    assert!(!ops(&once).contains(&"Loop") && ops(&turns).contains(&"Loop"));
    for graph in [once, turns] {
        let literals = graph.initializers.values();
        let literals: Vec<_> = literals.filter(|of| of.shape == [2, 2]).collect();
        for (place, literal) in literals.iter().enumerate() {
            assert!(!literals[..place].contains(literal), "{literal:?} twice");
        }
        assert_eq!(graph.inputs[0].value_type.shape, [1.into(), 2.into()]);
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let refused = |source: &Graph, target| {
        let error = explainer(source, &saliency(Formula::Derivative, target), None);
        error.unwrap_err().to_string()
    };
    let message = refused(&squares(), Target::Seed(vec![(2, 1.0)]));
    assert!(
        message.contains("class 2 is not below the number of classes, 2"),
        "{message}"
    );
    let mut named = squares();
    named.nodes = vec![
        Node::new("MatMul", ["saliency_map", "w"], ["h"]),
        Node::new("Mul", ["h", "h"], ["y"]),
    ];
    named.inputs[0].name = "saliency_map".into();
    let message = refused(&named, Target::Predicted);
    assert!(message.contains("saliency_map"), "{message}");
}
