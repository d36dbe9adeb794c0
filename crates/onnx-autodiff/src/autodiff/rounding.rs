//! The nodes at which a gradient is a surrogate: those that round what depends on the input, which
//! the gradient passes straight through.

use std::collections::HashSet;

use super::{DeriveError, Unsupported};
use crate::onnx::graph::{Graph, Node};

/// The QuantizeLinear nodes that read what depends on an input of `source`, in order.
pub fn rounding(source: &Graph) -> Vec<&Node> {
    let inputs = source.inputs.iter().map(|input| input.name.as_str());
    let mut varies: HashSet<&str> = inputs
        .filter(|name| !source.initializers.contains_key(*name))
        .collect();
    let mut found = Vec::new();
    for node in &source.nodes {
        let mut read = node.inputs.iter();
        let captured = node.captured();
        if !read.any(|input| varies.contains(input.as_str()))
            && !captured.iter().any(|input| varies.contains(input.as_str()))
        {
            continue;
        }
        varies.extend(node.outputs.iter().map(String::as_str));
        let is_known = ["", "com.microsoft"].contains(&node.domain.as_str());
        if is_known && node.op_type == "QuantizeLinear" {
            found.push(node);
        }
    }
    found
}

/// Refuses what is made of weights that are not rounded.
pub(super) fn refuse(source: &Graph, reason: &str) -> Result<(), DeriveError> {
    let of = |node: &Node| Unsupported::new(node, source, reason.to_owned());
    let nodes: Vec<Unsupported> = rounding(source).into_iter().map(of).collect();
    match nodes.is_empty() {
        true => Ok(()),
        false => Err(DeriveError::Unsupported { nodes }),
    }
}
