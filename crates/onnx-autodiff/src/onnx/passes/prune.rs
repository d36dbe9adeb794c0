//! Removes the nodes and initializers that reach no output of the graph. Graph inputs stay. Cost:
//! linear.

use std::collections::HashSet;

use super::checked;
use crate::onnx::error::OnnxError;
use crate::onnx::graph::Graph;

/// Removes what reaches no output.
pub fn prune(mut graph: Graph) -> Result<Graph, OnnxError> {
    let mut needed: HashSet<String> = graph
        .outputs
        .iter()
        .map(|output| output.name.clone())
        .collect();
    let mut kept = Vec::with_capacity(graph.nodes.len());
    for node in graph.nodes.into_iter().rev() {
        if node.outputs.iter().any(|output| needed.contains(output)) {
            needed.extend(node.inputs.iter().cloned().chain(node.captured()));
            kept.push(node);
        }
    }
    kept.reverse();
    graph.nodes = kept;
    graph.initializers.retain(|name, _| needed.contains(name));
    checked("prune", graph)
}
