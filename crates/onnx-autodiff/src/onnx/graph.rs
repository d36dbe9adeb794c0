//! The graph as a value. As in ONNX, edges are names: each value has a name and is produced by one
//! node, initializer or input.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use indexmap::IndexMap;
use prost::Message;

use super::proto;

/// A model's graph with what it needs to be written again. Nodes are in topological order after
/// `read`. The default is an empty graph of opset 18.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    /// Kept as it is; may be empty.
    pub name: String,
    /// The version of the file format.
    pub ir_version: i64,
    /// Domain -> version; the default domain is `""`.
    pub opset_imports: BTreeMap<String, i64>,
    /// What the model is given: initializers are none of them.
    pub inputs: Vec<ValueInfo>,
    /// What the model gives.
    pub outputs: Vec<ValueInfo>,
    /// Weights and constants. `Bytes` makes clones share memory with the file they were mapped
    /// from.
    pub initializers: IndexMap<String, Literal>,
    /// The operators.
    pub nodes: Vec<Node>,
    /// `metadata_props` of the model, kept as they are.
    pub metadata: BTreeMap<String, String>,
    /// Whether the output holds quantities, not scores of classes: no Softmax or Sigmoid belongs
    /// behind it. Not stored in files.
    pub is_regression: bool,
}

/// An operator applied to values.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// May be empty: ONNX does not ask for names. Errors then name the first output.
    pub name: String,
    /// The operator, by the name that its domain has for it.
    pub op_type: String,
    /// `""` is ONNX's own.
    pub domain: String,
    /// `""` marks an absent optional input.
    pub inputs: Vec<String>,
    /// `""` marks an output that is not wanted.
    pub outputs: Vec<String>,
    /// By name.
    pub attributes: BTreeMap<String, Attribute>,
}

/// A constant of a node.
#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    /// A number.
    Float(f32),
    /// A whole number.
    Int(i64),
    /// A text, which need not be UTF-8.
    String(Bytes),
    /// A tensor.
    Tensor(Literal),
    /// Numbers.
    Floats(Vec<f32>),
    /// Whole numbers.
    Ints(Vec<i64>),
    /// Texts.
    Strings(Vec<Bytes>),
    /// An attribute this crate does not interpret (sub-graphs, sparse tensors, type protos): its
    /// encoded `AttributeProto`, kept.
    Opaque(Bytes),
}

/// An input or output of a graph.
#[derive(Clone, Debug, PartialEq)]
pub struct ValueInfo {
    /// The value's.
    pub name: String,
    /// What it holds.
    pub value_type: ValueType,
}

/// The element type and shape of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueType {
    /// Of each of its numbers.
    pub element: Element,
    /// Its dimensions; none of a scalar.
    pub shape: Vec<Dim>,
}

/// A dimension: a number, or a name that stands for the same number wherever it occurs (the batch).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Dim {
    /// A number.
    Known(usize),
    /// A name.
    Symbol(String),
}

/// Element types as ONNX numbers them (`TensorProto.DataType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
#[allow(missing_docs)]
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
    /// Of each of its numbers.
    pub element: Element,
    /// Its dimensions; none of a scalar.
    pub shape: Vec<usize>,
    /// As many as the shape asks for.
    pub bytes: Bytes,
}

impl ValueType {
    /// Of this element type and shape.
    pub fn new(element: Element, shape: Vec<Dim>) -> Self {
        Self { element, shape }
    }

    /// The shape when every dimension is a number.
    pub fn known_shape(&self) -> Option<Vec<usize>> {
        self.shape.iter().map(Dim::known).collect()
    }
}

impl Dim {
    /// The number; none of a symbol.
    pub fn known(&self) -> Option<usize> {
        match self {
            Dim::Known(size) => Some(*size),
            Dim::Symbol(_) => None,
        }
    }
}

impl From<usize> for Dim {
    fn from(size: usize) -> Self {
        Dim::Known(size)
    }
}

impl From<&str> for Dim {
    fn from(name: &str) -> Self {
        Dim::Symbol(name.into())
    }
}

macro_rules! attribute_from {
    ($($from:ty => $to:expr),* $(,)?) => {
        $(impl From<$from> for Attribute {
            fn from(value: $from) -> Self {
                $to(value.into())
            }
        })*
    };
}
attribute_from!(f32 => Attribute::Float, i64 => Attribute::Int, Vec<f32> => Attribute::Floats, Vec<i64> => Attribute::Ints,
    &'static str => Attribute::String, Literal => Attribute::Tensor, &[i64] => Attribute::Ints);

impl Node {
    /// A node of the default domain without a name or attributes.
    pub fn new<S: Into<String>>(
        op_type: &str,
        inputs: impl IntoIterator<Item = S>,
        outputs: impl IntoIterator<Item = S>,
    ) -> Self {
        Self {
            name: String::new(),
            op_type: op_type.into(),
            domain: String::new(),
            inputs: inputs.into_iter().map(Into::into).collect(),
            outputs: outputs.into_iter().map(Into::into).collect(),
            attributes: BTreeMap::new(),
        }
    }

    /// The node with one attribute more.
    pub fn with(mut self, name: &str, value: impl Into<Attribute>) -> Self {
        self.attributes.insert(name.into(), value.into());
        self
    }

    /// What an error calls the node: its name or, when it has none, its first output.
    pub fn label(&self) -> &str {
        let output = self
            .outputs
            .iter()
            .find(|o| !o.is_empty())
            .map_or("(unnamed)", String::as_str);
        if self.name.is_empty() {
            output
        } else {
            &self.name
        }
    }

    /// Input `index`, unless it is absent.
    pub fn input(&self, index: usize) -> Option<&str> {
        self.inputs
            .get(index)
            .map(String::as_str)
            .filter(|name| !name.is_empty())
    }

    /// Output `index`, unless it is absent.
    pub fn output(&self, index: usize) -> Option<&str> {
        self.outputs
            .get(index)
            .map(String::as_str)
            .filter(|name| !name.is_empty())
    }

    /// Whether the node is `op_type` of the default domain.
    pub fn is(&self, op_type: &str) -> bool {
        self.op_type == op_type && self.domain.is_empty()
    }

    /// An integer attribute; none when absent.
    pub fn int(&self, name: &str) -> Option<i64> {
        match self.attributes.get(name) {
            Some(Attribute::Int(value)) => Some(*value),
            _ => None,
        }
    }

    /// An integer attribute, or its default.
    pub fn int_or(&self, name: &str, default: i64) -> i64 {
        self.int(name).unwrap_or(default)
    }

    /// A float attribute; none when absent.
    pub fn float(&self, name: &str) -> Option<f32> {
        match self.attributes.get(name) {
            Some(Attribute::Float(value)) => Some(*value),
            _ => None,
        }
    }

    /// A float attribute, or its default.
    pub fn float_or(&self, name: &str, default: f32) -> f32 {
        self.float(name).unwrap_or(default)
    }

    /// An attribute of integers; none when absent.
    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        match self.attributes.get(name) {
            Some(Attribute::Ints(values)) => Some(values),
            _ => None,
        }
    }

    /// An attribute of floats; none when absent.
    pub fn floats(&self, name: &str) -> Option<&[f32]> {
        match self.attributes.get(name) {
            Some(Attribute::Floats(values)) => Some(values),
            _ => None,
        }
    }

    /// A string attribute; none when absent or not UTF-8.
    pub fn string(&self, name: &str) -> Option<&str> {
        match self.attributes.get(name) {
            Some(Attribute::String(value)) => std::str::from_utf8(value).ok(),
            _ => None,
        }
    }

    /// A tensor attribute; none when absent.
    pub fn tensor(&self, name: &str) -> Option<&Literal> {
        match self.attributes.get(name) {
            Some(Attribute::Tensor(value)) => Some(value),
            _ => None,
        }
    }

    /// Names that sub-graphs of the node (If, Loop, Scan) may read from outside: every node input
    /// in them.
    pub fn captured(&self) -> Vec<String> {
        let mut names = Vec::new();
        for attribute in self.attributes.values() {
            if let Attribute::Opaque(bytes) = attribute {
                let Ok(decoded) = proto::AttributeProto::decode(bytes.clone()) else {
                    continue;
                };
                collect_captured(&decoded, &mut names);
            }
        }
        names
    }
}

fn collect_captured(attribute: &proto::AttributeProto, names: &mut Vec<String>) {
    for graph in attribute.g.iter().chain(&attribute.graphs) {
        names.extend(graph.output.iter().filter_map(|output| output.name.clone()));
        for node in &graph.node {
            names.extend(node.input.iter().cloned());
            node.attribute
                .iter()
                .for_each(|inner| collect_captured(inner, names));
        }
    }
}

impl Default for Graph {
    fn default() -> Self {
        Self {
            name: "graph".into(),
            ir_version: 8,
            opset_imports: BTreeMap::from([(String::new(), 18)]),
            inputs: Vec::new(),
            outputs: Vec::new(),
            initializers: IndexMap::new(),
            nodes: Vec::new(),
            metadata: BTreeMap::new(),
            is_regression: false,
        }
    }
}

impl Graph {
    /// Version of the default operator set.
    pub fn opset(&self) -> i64 {
        self.opset_imports.get("").copied().unwrap_or_default()
    }

    /// Copies data out of mapped files, which may then change or be removed.
    pub fn detach(&mut self) {
        self.initializers
            .values_mut()
            .for_each(|literal| *literal = literal.detached());
        for attribute in self
            .nodes
            .iter_mut()
            .flat_map(|node| node.attributes.values_mut())
        {
            match attribute {
                Attribute::Tensor(literal) => *literal = literal.detached(),
                Attribute::String(bytes) | Attribute::Opaque(bytes) => {
                    *bytes = Bytes::copy_from_slice(bytes)
                }
                Attribute::Strings(all) => all
                    .iter_mut()
                    .for_each(|bytes| *bytes = Bytes::copy_from_slice(bytes)),
                Attribute::Float(_)
                | Attribute::Int(_)
                | Attribute::Floats(_)
                | Attribute::Ints(_) => {}
            }
        }
    }

    /// Value -> index of the node that produces it.
    pub fn producers(&self) -> HashMap<&str, usize> {
        let outputs = self
            .nodes
            .iter()
            .enumerate()
            .flat_map(|(i, node)| node.outputs.iter().map(move |o| (o.as_str(), i)));
        outputs.filter(|(name, _)| !name.is_empty()).collect()
    }

    /// Value -> indices of the nodes that read it, ascending, each once.
    pub fn consumers(&self) -> HashMap<&str, Vec<usize>> {
        let mut consumers: HashMap<&str, Vec<usize>> = HashMap::new();
        for (index, node) in self.nodes.iter().enumerate() {
            for input in node.inputs.iter().filter(|input| !input.is_empty()) {
                let readers = consumers.entry(input).or_default();
                if readers.last() != Some(&index) {
                    readers.push(index);
                }
            }
        }
        consumers
    }

    /// Values whose names a rewrite must keep: graph inputs and outputs, and what sub-graphs
    /// capture.
    pub fn pinned(&self) -> HashSet<String> {
        let ends = self
            .inputs
            .iter()
            .chain(&self.outputs)
            .map(|value| value.name.clone());
        ends.chain(self.nodes.iter().flat_map(Node::captured))
            .collect()
    }

    /// Every value name in use.
    pub fn value_names(&self) -> HashSet<String> {
        let ends = self
            .inputs
            .iter()
            .chain(&self.outputs)
            .map(|value| &value.name);
        let nodes = self
            .nodes
            .iter()
            .flat_map(|node| node.inputs.iter().chain(&node.outputs));
        ends.chain(self.initializers.keys())
            .chain(nodes)
            .cloned()
            .collect()
    }
}

/// Gives names that are not in use yet, the same ones in the same order for the same graph.
#[derive(Clone, Debug)]
pub struct Names {
    taken: HashSet<String>,
    /// For each base name, the last number tried, so that many equal names stay linear.
    counts: HashMap<String, usize>,
}

impl Names {
    /// With all names of a graph's values taken.
    pub fn of(graph: &Graph) -> Self {
        let mut names = graph.value_names();
        names.extend(graph.nodes.iter().flat_map(Node::captured));
        Self {
            taken: names,
            counts: HashMap::new(),
        }
    }

    /// `wish`, or `wish.1`, `wish.2` … when it is taken.
    pub fn fresh(&mut self, wish: &str) -> String {
        if !wish.is_empty() && self.taken.insert(wish.to_string()) {
            return wish.to_string();
        }
        let count = self.counts.entry(wish.to_string()).or_default();
        loop {
            *count += 1;
            let name = format!("{wish}.{count}");
            if self.taken.insert(name.clone()) {
                return name;
            }
        }
    }
}
