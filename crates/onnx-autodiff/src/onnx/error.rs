//! What can be wrong with a model. Faults are collected and reported together; each names its node
//! and op where it has one.

use std::fmt;
use std::path::PathBuf;

use super::graph::{Dim, Element, ValueType};
use super::limits::LARGEST_MODEL;

/// Why a model cannot be read, rewritten or written; each variant is its message.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum OnnxError {
    #[error("cannot read {}: {source}", path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("not an ONNX model: {0}")]
    Protobuf(#[from] prost::DecodeError),
    #[error("the model cannot be used: {}", join(.0))]
    Model(Vec<Fault>),
    #[error("pass {pass} broke the graph: {}", join(faults))]
    Pass {
        pass: &'static str,
        faults: Vec<Fault>,
    },
    #[error(
        "the model takes {bytes} bytes in one piece, of which ONNX allows {LARGEST_MODEL}: use a smaller model"
    )]
    TooLarge { bytes: usize },
}

/// One fault; each variant is its message. `node` is the node's name or, when it has none, its first output.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Fault {
    #[error("the file holds no graph")]
    NoGraph,
    #[error("the graph has {nodes} nodes; at most {most} are supported")]
    TooManyNodes { nodes: usize, most: usize },
    #[error("IR version {0} is not supported: export the model with IR version 3 to 13")]
    IrVersion(i64),
    #[error("opset {version} is not supported: export the model with opset {oldest} to {newest}")]
    Opset {
        version: i64,
        oldest: i64,
        newest: i64,
    },
    #[error("function {function} of the model: {reason}")]
    Function { function: String, reason: String },
    #[error("the model does not say which opset it uses: export it again")]
    NoOpset,
    #[error(
        "{value} is not a tensor with an element type and a shape: export the model with tensors alone (skl2onnx: zipmap=False)"
    )]
    NotATensor { value: String },
    #[error("the file stores no shape of input {value}: export the model with it")]
    NoShape { value: String },
    #[error(
        "the type of output {value} is not stored and does not follow from the graph: export the model with shapes"
    )]
    Untyped { value: String },
    #[error("sparse initializer {value} is not supported: make it dense")]
    Sparse { value: String },
    #[error("tensor {value}: {reason}")]
    Tensor { value: String, reason: TensorFault },
    #[error("value {value} is defined more than once")]
    Duplicate { value: String },
    #[error("node {node} ({op}) reads {value}, which nothing produces")]
    MissingInput {
        node: String,
        op: String,
        value: String,
    },
    #[error("output {value} is produced by nothing")]
    MissingOutput { value: String },
    #[error("nodes {} form a cycle", nodes.join(", "))]
    Cycle { nodes: Vec<String> },
    #[error("node {node} ({op}) reads {value} before it is produced")]
    Order {
        node: String,
        op: String,
        value: String,
    },
    #[error("node {node} ({op}): {reason}")]
    Node {
        node: String,
        op: String,
        reason: String,
    },
}

/// Why a stored tensor cannot be used; each variant is its message.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[allow(missing_docs)]
pub enum TensorFault {
    #[error("element type {0} of ONNX is not supported")]
    Element(i32),
    #[error("the shape {0:?} is not valid")]
    Shape(Vec<i64>),
    #[error("{found} bytes where the shape asks for {expected}")]
    Bytes { expected: usize, found: usize },
    #[error("{found} values where the shape asks for {expected}")]
    Count { expected: usize, found: usize },
    #[error("value {0} does not fit its element type")]
    Range(i64),
    #[error("segmented tensors are not supported")]
    Segment,
    #[error("its data lies in another file, and the model was not read from a folder")]
    NoFolder,
    #[error("external location {0:?} must be a file inside the model's own folder")]
    Location(String),
    #[error("external data field {key} = {value:?} is not a number of bytes")]
    Field { key: String, value: String },
    #[error("external file {location:?} has {found} bytes, {needed} are needed")]
    Short {
        location: String,
        needed: u64,
        found: u64,
    },
    #[error(
        "external file {location:?} is a Git LFS pointer, not the file itself: run `git lfs pull`"
    )]
    Pointer { location: String },
    #[error("cannot read external file {location:?}: {reason}")]
    Unreadable { location: String, reason: String },
}

fn join(faults: &[Fault]) -> String {
    faults
        .iter()
        .map(Fault::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Element::Float => "float32",
            Element::Uint8 => "uint8",
            Element::Int8 => "int8",
            Element::Uint16 => "uint16",
            Element::Int16 => "int16",
            Element::Int32 => "int32",
            Element::Int64 => "int64",
            Element::Bool => "bool",
            Element::Float16 => "float16",
            Element::Double => "float64",
            Element::Uint32 => "uint32",
            Element::Uint64 => "uint64",
            Element::Bfloat16 => "bfloat16",
        })
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Known(size) => write!(f, "{size}"),
            Dim::Symbol(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<String> = self.shape.iter().map(Dim::to_string).collect();
        write!(f, "{}[{}]", self.element, dims.join(", "))
    }
}
