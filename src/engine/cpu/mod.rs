//! Derived graphs on the CPU, from ONNX to kernels; `backend_ort/encoded.rs` runs the steps:
//!
//! 1. [`parameters`]: the gradient of a convolution's weight and bias becomes one node.
//! 2. [`fuse`]: that of a max pool becomes one node, with the masks of the ReLUs before it.
//! 3. [`weights`]: large matrices become inputs, which all sessions of a model read in place.
//! 4. ONNX Runtime's optimiser, whose result is read back; it keeps convolutions in NCHWc, also
//!    those whose weights are inputs, for which it sees constants.
//! 5. [`parameters`]: the weights take their places again.
//! 6. [`nchwc`]: gradients of ReLUs and max pools become nodes that keep to that layout.
//! 7. [`convolution`]: convolutions of 3 x 3 taps become nodes that compute them by Winograd's
//!    algorithm, with the masks of ReLUs after them.
//! 8. Sessions are opened of the encoded result without the optimiser, once per graph.
//!
//! [`operators`] names the nodes of steps 1, 2, 5, 6 and 7. Their kernels are [`max_pool`] (NCHW),
//! [`max_pool_nchwc`], [`relu`] (any layout), [`weight_gradient`], [`input_gradient`], [`filter`] and
//! the crate `winograd`; [`mask`] is what two of them share.

pub(super) mod convolution;
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
