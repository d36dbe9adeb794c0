//! Reverse-mode differentiation of ONNX graphs, ONNX in, ONNX out.
//!
//! [`onnx`] holds a graph as a value: read, write, infer types, rewrite. [`autodiff`] joins a graph
//! with its backward pass, by tables of rules per operator that a rule set overrides in part.

pub mod autodiff;
pub mod onnx;

/// A dense float tensor, row-major.
pub type Tensor = ndarray::ArrayD<f32>;
