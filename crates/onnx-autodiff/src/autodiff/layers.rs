//! The Linear layers of a network in the order of the forward pass, and which of them a pattern
//! rule set rewrites.

use std::collections::HashSet;

use serde::Serialize;

use super::{
    emit::Emitter,
    reverse,
    role::{Role, role},
    spec::PatternLayers,
};
use crate::onnx::graph::Node;

/// A Linear layer between the input and the head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LinearLayer {
    /// The output value, the key of the layer's pattern.
    pub output: String,
    /// The node's name, or its output value if it has none.
    pub node: String,
    /// The node's operator.
    pub op_type: String,
    /// The name of the initializer.
    pub weight: String,
    /// Of the weight, and of its pattern.
    pub weight_shape: Vec<usize>,
}

/// The Linear nodes on paths from `input` to the head.
pub(crate) fn linear_layers(
    emit: &Emitter,
    nodes: &[Node],
    input: &str,
    head: &str,
) -> Vec<LinearLayer> {
    let active = active(emit, nodes, &[input], head);
    let linear = nodes.iter().filter(|node| {
        active.contains(&node.outputs[0]) && role(node, &emit.graph) == Some(Role::Linear)
    });
    let layers = linear.filter_map(|node| {
        let weight = emit.literal(&node.inputs[1])?;
        Some(LinearLayer {
            output: node.outputs[0].clone(),
            node: node.label().to_owned(),
            op_type: node.op_type.clone(),
            weight: node.inputs[1].clone(),
            weight_shape: weight.shape.clone(),
        })
    });
    layers.collect()
}

/// The active floats: those that depend on any of `wrt` and that `head` depends on.
pub(crate) fn active(emit: &Emitter, nodes: &[Node], wrt: &[&str], head: &str) -> HashSet<String> {
    let varies = reverse::varying(emit, nodes, wrt);
    let mut needed = HashSet::from([head.to_owned()]);
    for node in nodes.iter().rev() {
        if node.outputs.iter().any(|output| needed.contains(output)) {
            needed.extend(node.inputs.iter().cloned());
        }
    }
    let is_float = |value: &&String| {
        let found = emit.value_type(value);
        found.is_ok_and(|found| found.element.is_float())
    };
    let active = needed.intersection(&varies).filter(is_float);
    active.cloned().collect()
}

/// The layers that `selection` names, and the names in it that are no Linear layer.
pub(crate) fn select<'a>(
    layers: &'a [LinearLayer],
    selection: &'a PatternLayers,
) -> (Vec<&'a LinearLayer>, Vec<&'a str>) {
    let count = layers.len();
    let between = |from: usize, to: usize| {
        layers
            .iter()
            .skip(from)
            .take(to.saturating_sub(from))
            .collect()
    };
    match selection {
        PatternLayers::All => (between(0, count), Vec::new()),
        PatternLayers::Inner => (between(1, count.saturating_sub(1)), Vec::new()),
        PatternLayers::ExceptFirst => (between(1, count), Vec::new()),
        PatternLayers::ExceptLast => (between(0, count.saturating_sub(1)), Vec::new()),
        PatternLayers::Named(names) => {
            let has = |layer: &LinearLayer, name: &str| layer.node == name || layer.output == name;
            let found = layers
                .iter()
                .filter(|layer| names.iter().any(|name| has(layer, name)))
                .collect();
            let unknown = names
                .iter()
                .filter(|name| !layers.iter().any(|layer| has(layer, name)));
            (found, unknown.map(String::as_str).collect())
        }
    }
}
