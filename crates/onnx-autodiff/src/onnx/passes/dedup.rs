//! Common subexpression elimination: merges equal constants and equal nodes with equal inputs.
//! Names of graph outputs are kept. Cost: linear.

use std::collections::{HashMap, hash_map::Entry};

use bytes::Bytes;

use super::checked;
use crate::onnx::error::OnnxError;
use crate::onnx::graph::{Element, Graph, Literal, Node};
use crate::onnx::ops::{self, Elements};
use crate::onnx::rewrite::Rewriter;
use crate::onnx::write::encode_node;

/// Larger constants are merged only when they share memory: comparing them would read all weights.
const COMPARED_BYTES: usize = 1 << 16;

/// Merges equal constants, and equal nodes with equal inputs.
pub fn dedup(mut graph: Graph) -> Result<Graph, OnnxError> {
    let pinned = graph.pinned();
    let (mut same, mut constants) = (Vec::new(), HashMap::new());
    graph.initializers.retain(|name, literal| {
        let first: &String = constants
            .entry(Content::of(literal))
            .or_insert_with(|| name.clone());
        let merge = first != name && !pinned.contains(name);
        if merge {
            same.push((name.clone(), first.clone()));
        }
        !merge
    });
    let mut rewriter = Rewriter::of(graph);
    for (name, first) in &same {
        rewriter.rename(name, first);
    }
    let mut computed: HashMap<Vec<u8>, Vec<String>> = HashMap::new();
    let graph = rewriter.walk(|rewriter, node| {
        let is_drawn = ops::of(&node).is_some_and(|op| op.elements == Elements::Drawn);
        if is_drawn || node.outputs.iter().any(|output| pinned.contains(output)) {
            return Ok(vec![node]);
        }
        match computed.entry(computation(&node)) {
            Entry::Occupied(first) => {
                let outputs = node.outputs.iter().zip(first.get());
                for (output, first) in outputs.filter(|(output, _)| !output.is_empty()) {
                    rewriter.rename(output, first);
                }
                Ok(vec![])
            }
            Entry::Vacant(new) => {
                new.insert(node.outputs.clone());
                Ok::<_, OnnxError>(vec![node])
            }
        }
    })?;
    checked("dedup", graph)
}

#[derive(PartialEq, Eq, Hash)]
enum Content {
    Small(Element, Vec<usize>, Bytes),
    Shared(Element, Vec<usize>, usize),
}

impl Content {
    fn of(literal: &Literal) -> Self {
        let (element, shape) = (literal.element, literal.shape.clone());
        if literal.bytes.len() <= COMPARED_BYTES {
            Content::Small(element, shape, literal.bytes.clone())
        } else {
            Content::Shared(element, shape, literal.bytes.as_ptr() as usize)
        }
    }
}

/// The key of a node: all but its name, and of its outputs only whether they are present.
fn computation(node: &Node) -> Vec<u8> {
    let present = |output: &String| {
        if output.is_empty() {
            String::new()
        } else {
            "_".into()
        }
    };
    encode_node(&Node {
        name: String::new(),
        outputs: node.outputs.iter().map(present).collect(),
        ..node.clone()
    })
}
