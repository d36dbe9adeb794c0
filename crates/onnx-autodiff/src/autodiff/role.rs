//! What a node does in its graph, whatever its op is called.

use crate::onnx::graph::{Graph, Literal, Node};

/// The role of a node in its graph, independent of its op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// max(x, 0), possibly with an upper bound (ReLU6).
    Rectifier,
    /// A product of the input with a constant weight, which is the node's input 1.
    Linear,
}

pub(crate) fn role(node: &Node, graph: &Graph) -> Option<Role> {
    let constant = |index: usize| {
        node.inputs
            .get(index)
            .and_then(|name| graph.initializers.get(name))
    };
    match node.op_type.as_str() {
        "Relu" => Some(Role::Rectifier),
        "Clip" => constant(1).is_some_and(is_zero).then_some(Role::Rectifier),
        "Conv" | "ConvTranspose" | "Gemm" => constant(1).is_some().then_some(Role::Linear),
        "MatMul" => constant(1)
            .is_some_and(|weight| weight.shape.len() == 2)
            .then_some(Role::Linear),
        _ => None,
    }
}

fn is_zero(literal: &Literal) -> bool {
    literal.as_f32() == Some(0.0)
}
