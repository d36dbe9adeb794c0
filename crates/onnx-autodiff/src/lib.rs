//! Reverse-mode differentiation of ONNX graphs: a classifier in, its gradient as another ONNX graph
//! out, for any runtime that reads opset 18.
//!
//! ```no_run
//! use onnx_autodiff::{
//!     autodiff::{derive, spec::DeriveSpec},
//!     onnx::{read_model, write_model},
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let model = read_model("model.onnx".as_ref())?;
//! let derived = derive(&model, &DeriveSpec::gradient(), None)?;
//! std::fs::write("gradient.onnx", write_model(&derived.graph)?)?;
//! # Ok(())
//! # }
//! ```
//!
//! [`onnx`] holds a graph as a value: read, write, infer types, rewrite. [`autodiff`] joins a graph
//! with its backward pass, by a table of rules that a rule set overrides in part. [`stages`] cuts a
//! forward pass by its receptive fields, for incremental inference. [`saliency`] puts a model and its
//! saliency map into one graph.

#![warn(missing_docs)]

pub mod autodiff;
pub mod onnx;
pub mod saliency;
pub mod stages;

/// A dense float tensor, row-major.
pub type Tensor = ndarray::ArrayD<f32>;
