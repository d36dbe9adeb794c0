//! Merges equal constants, and nodes that compute the same from the same inputs. Names of graph
//! outputs stay. Cost: linear.

use std::collections::HashMap;

use bytes::Bytes;

use super::checked;
use crate::onnx::error::OnnxError;
use crate::onnx::graph::{Element, Graph, Literal, Node};
use crate::onnx::write::encode_node;

/// Larger constants are merged only when they share memory: comparing them would read all weights.
const COMPARED_BYTES: usize = 1 << 16;

pub fn dedup(mut graph: Graph) -> Result<Graph, OnnxError> {
    let pinned = graph.pinned();
    let mut same: HashMap<String, String> = HashMap::new();
    let mut constants: HashMap<Content, String> = HashMap::new();
    graph.initializers.retain(|name, literal| {
        let first = constants
            .entry(Content::of(literal))
            .or_insert_with(|| name.clone());
        let merge = first != name && !pinned.contains(name);
        if merge {
            same.insert(name.clone(), first.clone());
        }
        !merge
    });
    let mut nodes: HashMap<Vec<u8>, Vec<String>> = HashMap::new();
    graph.nodes.retain_mut(|node| {
        for input in &mut node.inputs {
            if let Some(first) = same.get(input) {
                input.clone_from(first);
            }
        }
        if is_random(node) || node.outputs.iter().any(|output| pinned.contains(output)) {
            return true;
        }
        match nodes.get(&computation(node)) {
            Some(first) => {
                same.extend(
                    node.outputs
                        .iter()
                        .cloned()
                        .zip(first.iter().cloned())
                        .filter(|(o, _)| !o.is_empty()),
                );
                false
            }
            None => {
                nodes.insert(computation(node), node.outputs.clone());
                true
            }
        }
    });
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

/// The node without its name, and of its outputs only which are present.
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

fn is_random(node: &Node) -> bool {
    node.op_type.starts_with("Random")
        || ["Bernoulli", "Multinomial", "Dropout"].contains(&node.op_type.as_str())
}
