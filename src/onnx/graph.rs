//! The graph as a value. Names tie everything together, as in ONNX: a value is a string, produced by one node, initializer or input.

use std::collections::BTreeMap;

use bytes::Bytes;
use indexmap::IndexMap;

/// A model's graph with what it needs to be written again. Nodes are in topological order after `read`.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    pub name: String,
    pub ir_version: i64,
    /// Domain -> version; the default domain is `""`.
    pub opset_imports: BTreeMap<String, i64>,
    pub inputs: Vec<ValueInfo>,
    pub outputs: Vec<ValueInfo>,
    /// Weights and constants. `Bytes` makes clones share memory with the file they were mapped from.
    pub initializers: IndexMap<String, Literal>,
    pub nodes: Vec<Node>,
    /// `metadata_props` of the model, kept as they are.
    pub metadata: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// May be empty: ONNX does not ask for names. Errors then name the first output.
    pub name: String,
    pub op_type: String,
    pub domain: String,
    /// `""` marks an absent optional input.
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    pub attributes: BTreeMap<String, Attribute>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    Float(f32),
    Int(i64),
    String(Bytes),
    Tensor(Literal),
    Floats(Vec<f32>),
    Ints(Vec<i64>),
    Strings(Vec<Bytes>),
    /// An attribute this crate does not interpret (sub-graphs, sparse tensors, type protos): its encoded `AttributeProto`, kept.
    Opaque(Bytes),
}

#[derive(Clone, Debug, PartialEq)]
pub struct ValueInfo {
    pub name: String,
    pub value_type: ValueType,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueType {
    pub element: Element,
    pub shape: Vec<Dim>,
}

/// A dimension: a number, or a name that stands for the same number wherever it occurs (the batch).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Dim {
    Known(usize),
    Symbol(String),
}

/// Element types as ONNX numbers them (`TensorProto.DataType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Element {
    Float = 1,
    Uint8 = 2,
    Int8 = 3,
    Uint16 = 4,
    Int16 = 5,
    Int32 = 6,
    Int64 = 7,
    Bool = 9,
    Float16 = 10,
    Double = 11,
    Uint32 = 12,
    Uint64 = 13,
    Bfloat16 = 16,
}

/// A constant tensor: little-endian bytes, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Literal {
    pub element: Element,
    pub shape: Vec<usize>,
    pub bytes: Bytes,
}
