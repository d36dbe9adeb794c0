//! An ONNX graph as a value: read, write, attributes, types, passes. No tokio, no ort; files only
//! to read a model.

pub mod error;
mod external;
pub mod graph;
mod literal;
pub mod passes;
pub mod proto;
mod read;
mod tensor_proto;
pub mod types;
pub mod write;

pub use error::{Fault, OnnxError};
pub use external::LFS_POINTER;
pub use read::{NEWEST_OPSET, OLDEST_OPSET, read_bytes, read_model, read_model_files};
pub use types::{Types, infer, infer_node, oversize};
pub use write::{ExternalRef, LARGEST_MODEL, write_model, write_model_external};

#[cfg(test)]
mod tests;
