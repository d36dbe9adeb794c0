//! Derived graphs on the CPU, from ONNX to kernels; `backend_ort/encoded.rs` runs the steps:
//!
//! 1. [`fuse`]: the gradient of a max pool becomes one node, with the masks of the ReLUs before it.
//! 2. [`weights`]: large matrices become inputs, which all sessions of a model read in place.
//! 3. ONNX Runtime's optimiser, whose result is read back; it keeps convolutions in NCHWc.
//! 4. [`nchwc`]: gradients of ReLUs and max pools become nodes that keep to that layout.
//! 5. Sessions are opened of the encoded result without the optimiser, once per graph.
//!
//! [`operators`] names the nodes of steps 1 and 4. Their kernels are [`max_pool`] (NCHW),
//! [`max_pool_nchwc`] and [`relu`] (any layout); [`mask`] is what they share.

pub(super) mod filter;
pub(super) mod fuse;
pub(super) mod input_gradient;
mod mask;
pub(super) mod max_pool;
pub(super) mod max_pool_nchwc;
pub(super) mod nchwc;
pub(super) mod operators;
pub(super) mod parameters;
pub(super) mod relu;
pub(super) mod weight_gradient;
pub(super) mod weights;
