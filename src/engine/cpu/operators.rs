//! The operators that only this process has, as the graph names them. Their kernels are in this
//! folder; `backend_ort/operators.rs` registers them with ONNX Runtime.

use onnx_autodiff::onnx::graph::Node;

/// Domain of the operators.
pub const DOMAIN: &str = "explaind";
/// `MaxPoolGradient(x, dy) -> dx` over NCHW images, with the attributes of the pool.
pub const MAX_POOL_GRADIENT: &str = "MaxPoolGradient";
/// `NchwcMaxPoolGradient(x, y, dy) -> dx...`: as the one over NCHW, y the maxima; dx in pieces of
/// `parts` channels, `block_size` channels in a block.
pub const NCHWC_MAX_POOL_GRADIENT: &str = "NchwcMaxPoolGradient";
/// `ReluGradient(dy, y) -> dx`. With `block_size`, dy has one number for each channel, and y is
/// NCHWc with so many channels in a block.
pub const RELU_GRADIENT: &str = "ReluGradient";

/// A node of one of the operators.
pub fn node(op_type: &str, inputs: &[&str], outputs: Vec<String>) -> Node {
    let mut node = Node::new(op_type, inputs.iter().copied(), []);
    (node.domain, node.outputs) = (DOMAIN.into(), outputs);
    node
}

/// A pooling window over the two spatial axes. Padding at the end follows from the shapes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolWindow {
    pub kernel: [usize; 2],
    pub strides: [usize; 2],
    pub dilations: [usize; 2],
    /// Padding before the first row and column; never chosen as a maximum.
    pub pads: [usize; 2],
    /// Maxima that are not above 0 have no gradient: that of a Relu before the pool is included.
    pub gated: bool,
}
