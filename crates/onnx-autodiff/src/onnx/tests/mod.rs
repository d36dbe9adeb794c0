//! Tests of the room: small graphs built here, and the models of this crate's tests written by hand
//! as protobuf messages.

mod passes;
mod read;
mod types;

use std::collections::BTreeMap;

use super::graph::{Dim, Element, Graph, Literal, Node, ValueInfo, ValueType};

/// A float value; `0` stands for the symbolic batch `N`.
pub(super) fn value(name: &str, shape: &[usize]) -> ValueInfo {
    let dim = |&d: &usize| {
        if d == 0 {
            Dim::from("N")
        } else {
            Dim::Known(d)
        }
    };
    ValueInfo {
        name: name.into(),
        value_type: ValueType {
            element: Element::Float,
            shape: shape.iter().map(dim).collect(),
        },
    }
}

pub(super) fn graph(
    opset: i64,
    inputs: &[ValueInfo],
    constants: Vec<(&str, Literal)>,
    nodes: Vec<Node>,
    outputs: &[ValueInfo],
) -> Graph {
    Graph {
        opset_imports: BTreeMap::from([(String::new(), opset)]),
        inputs: inputs.to_vec(),
        outputs: outputs.to_vec(),
        initializers: constants
            .into_iter()
            .map(|(name, literal)| (name.to_string(), literal))
            .collect(),
        nodes,
        ..Graph::default()
    }
}
