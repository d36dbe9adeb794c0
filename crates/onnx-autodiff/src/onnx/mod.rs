//! An ONNX graph as a value: read, write, attributes, types, passes. No tokio, no ort; files only
//! to read a model.

mod classical;
pub mod einsum;
pub mod error;
mod evaluate;
mod external;
mod functions;
pub mod graph;
mod infer;
mod limits;
mod literal;
pub mod ops;
pub mod passes;
pub mod proto;
mod read;
pub mod rewrite;
mod rows;
mod spelling;
mod tensor_proto;
pub mod types;
pub mod write;

pub use error::{Fault, OnnxError};
pub use external::LFS_POINTER;
pub use infer::{infer, infer_node};
pub use limits::LARGEST_MODEL;
pub use read::{NEWEST_OPSET, OLDEST_OPSET, ReadModel, read_bytes, read_model, read_model_files};
pub use types::{Types, oversize};
pub use write::{ExternalRef, ModelParts, write_model, write_model_external, write_model_parts};

#[cfg(test)]
mod tests;
