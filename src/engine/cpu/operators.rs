//! The custom operators as nodes of a graph. Their kernels are in this folder;
//! `backend_ort/operators.rs` registers them with ONNX Runtime.

use onnx_autodiff::onnx::graph::Node;

/// Domain of the operators.
pub(crate) const DOMAIN: &str = "explaind";
/// `MaxPoolGradient(x, dy) -> dx` over NCHW images, with the attributes of the pool.
pub(crate) const MAX_POOL_GRADIENT: &str = "MaxPoolGradient";
/// `NchwcMaxPoolGradient(x, y, dy) -> dx...`: the same over NCHWc with `block_size` channels per
/// block. y is the pool's output; dx is split along the channels into outputs of `parts` channels.
pub(crate) const NCHWC_MAX_POOL_GRADIENT: &str = "NchwcMaxPoolGradient";
/// `ReluGradient(dy, y) -> dx`. With `block_size`, dy has one number per channel and y is NCHWc
/// with that many channels per block.
pub(crate) const RELU_GRADIENT: &str = "ReluGradient";
/// `ConvWeightGradient(x, dy) -> dw, db`: the gradients of a convolution's weight of `shape`, and of
/// its bias if that output exists, with the convolution's `strides`, `dilations` and leading
/// `pads`; without groups, or `depthwise`. With `x_block_size` or `dy_block_size`, x or dy is NCHWc
/// (of a depthwise one, both or none).
pub(crate) const CONV_WEIGHT_GRADIENT: &str = "ConvWeightGradient";
/// `NchwcConvInputGradient(dy, filter) -> dx`: the gradient of the input, of `shape` without the
/// batch, of a convolution over NCHWc with this `kernel_shape`, `strides`, `dilations` and leading
/// `pads`. The filter is flipped.
pub(crate) const NCHWC_CONV_INPUT_GRADIENT: &str = "NchwcConvInputGradient";
/// `NchwcFilter(w) -> packed`: a convolution's weight in the layout of NCHWc, with `shape`; see
/// [`super::filter::Filter`].
pub(crate) const NCHWC_FILTER: &str = "NchwcFilter";

/// `WinogradConv(x, filter, bias, sum, gate) -> y`: a convolution over NCHWc of 3 x 3 taps and stride
/// 1 with `pads`, to `channels`. Where they are given, bias and sum are added; with `relu` negative
/// numbers become 0; where there is a gate, y is 0 where it is not above 0.
pub(crate) const WINOGRAD_CONV: &str = "WinogradConv";
/// `WinogradFilter(w) -> filter`: a convolution's weight, transformed, with the outputs and inputs of
/// `shape`; see [`winograd::Filter`].
pub(crate) const WINOGRAD_FILTER: &str = "WinogradFilter";

/// A node of a custom operator.
pub(crate) fn node(op_type: &str, inputs: &[&str], outputs: Vec<String>) -> Node {
    let mut node = Node::new(op_type, inputs.iter().copied(), []);
    (node.domain, node.outputs) = (DOMAIN.into(), outputs);
    node
}

/// A pooling window over the two spatial axes. Padding at the end follows from the shapes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PoolWindow {
    pub kernel: [usize; 2],
    pub strides: [usize; 2],
    pub dilations: [usize; 2],
    /// Padding before the first row and column; never chosen as a maximum.
    pub pads: [usize; 2],
    /// Whether maxima not above 0 get no gradient: the mask of a ReLU before the pool is included.
    pub gated: bool,
}
