//! Why a graph cannot be derived. Nodes and patterns at fault are listed all at once.

use indexmap::IndexMap;
use serde::Serialize;

use crate::onnx::{
    OnnxError,
    graph::{Dim, Element, Graph, Node},
};

/// Why a graph cannot be derived; each variant is its message.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum DeriveError {
    #[error("{} cannot be derived: {}", counted(nodes), grouped(nodes))]
    Unsupported { nodes: Vec<Unsupported> },
    #[error(
        "{rule_set} is not defined at {}, which the gradient is: {}",
        counted(nodes),
        grouped(nodes)
    )]
    Undefined {
        rule_set: &'static str,
        nodes: Vec<Unsupported>,
    },
    #[error("the model has no patterns: run `explaind fit-patterns` for it first")]
    NoPatterns,
    #[error(
        "the patterns do not fit the model: {}; run `explaind fit-patterns` again",
        list(faults)
    )]
    Patterns { faults: Vec<PatternFault> },
    #[error("the pattern of layer {layer} cannot be read: {source}")]
    PatternFile {
        layer: String,
        source: std::io::Error,
    },
    #[error("the model must have one input, it has {}: {}", names.len(), names.join(", "))]
    Inputs { names: Vec<String> },
    #[error(
        "input {input} {} must have a batch, and numbers in all other dims: export the model for a fixed size",
        dims(shape)
    )]
    InputShape { input: String, shape: Vec<Dim> },
    #[error(
        "input {input} has a fixed batch of {rows}{}: export the model with a dynamic batch",
        node.as_ref().map(|node| format!(", and node {node} may mix its rows")).unwrap_or_default()
    )]
    FixedBatch {
        input: String,
        rows: usize,
        node: Option<String>,
    },
    #[error(
        "no output holds the scores of classes as floats [batch, classes]: {}; export the model with its scores",
        outputs.join(", ")
    )]
    NoHead { outputs: Vec<String> },
    #[error("class {class} is not below the number of classes, {classes}")]
    NoClass { class: usize, classes: usize },
    #[error("the model has no value named {name}")]
    UnknownActivation { name: String },
    #[error("the model has no weights or biases that its head depends on")]
    NoParameters,
    #[error("{} is no parameter of the model; it has {}", names.join(", "), excerpt(known))]
    UnknownParameters {
        names: Vec<String>,
        known: Vec<String>,
    },
    #[error("no operator with a gradient leads from {wrt} to {head}")]
    Detached { wrt: String, head: String },
    #[error("derived graphs use the name(s) {}: rename the model's own", names.join(", "))]
    ReservedInput { names: Vec<String> },
    #[error("the shape of value {value} is not known")]
    UnknownShape { value: String },
    #[error("value {value} is {element}, not a float")]
    Element { value: String, element: Element },
    #[error(
        "its values take {bytes} bytes for one input, of which {most} are supported: use a smaller input"
    )]
    TooLarge { bytes: usize, most: usize },
    #[error(transparent)]
    Onnx(#[from] OnnxError),
}

impl DeriveError {
    /// Tells the opset of the file, not the one that a prepared graph has.
    pub(crate) fn of_source(mut self, source: &Graph) -> Self {
        if let Self::Unsupported { nodes } | Self::Undefined { nodes, .. } = &mut self {
            let own = nodes.iter_mut().filter(|node| !node.op_type.contains('.'));
            own.for_each(|node| node.opset = source.opset());
        }
        self
    }
}

/// A node that has no gradient here. `node` is its name or, when it has none, its first output.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, thiserror::Error)]
#[error("{node} ({op_type}, opset {opset}): {reason}")]
pub struct Unsupported {
    /// Its name, or its first output.
    pub node: String,
    /// With its domain in front, where that is not the default one.
    pub op_type: String,
    /// Of the op's domain.
    pub opset: i64,
    /// What stands in the way.
    pub reason: String,
}

impl Unsupported {
    /// Of a node of this graph.
    pub fn new(node: &Node, graph: &Graph, reason: String) -> Self {
        let (opset, op_type) = match node.domain.as_str() {
            "" => (graph.opset(), node.op_type.clone()),
            domain => (
                graph.opset_imports.get(domain).copied().unwrap_or(1),
                format!("{domain}.{}", node.op_type),
            ),
        };
        Self {
            node: node.label().to_owned(),
            op_type,
            opset,
            reason,
        }
    }
}

/// Why patterns do not fit a model; each variant is its message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum PatternFault {
    #[error("layer {layer} has no pattern")]
    Missing { layer: String },
    #[error("the pattern of layer {layer} is {found:?}, its weight {expected:?}")]
    Shape {
        layer: String,
        expected: Vec<usize>,
        found: Vec<usize>,
    },
    #[error("{name} is no Linear layer")]
    NoLayer { name: String },
}

fn list<T: ToString>(items: &[T]) -> String {
    items
        .iter()
        .map(T::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

fn counted(nodes: &[Unsupported]) -> String {
    match nodes.len() {
        1 => "1 node".to_owned(),
        count => format!("{count} nodes"),
    }
}

/// Those of one op with one reason together, by the names of the first of them.
fn grouped(nodes: &[Unsupported]) -> String {
    const SHOWN: usize = 3;
    const GROUPS: usize = 8;
    let mut groups: IndexMap<(&str, i64, &str), Vec<&str>> = IndexMap::new();
    for node in nodes {
        let kind = (node.op_type.as_str(), node.opset, node.reason.as_str());
        groups.entry(kind).or_default().push(&node.node);
    }
    let left_out = groups.len().saturating_sub(GROUPS);
    let told = groups
        .into_iter()
        .take(GROUPS)
        .map(|((op_type, opset, reason), names)| {
            let shown = names[..names.len().min(SHOWN)].join(", ");
            let more = match names.len().saturating_sub(SHOWN) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            format!("{shown}{more} ({op_type}, opset {opset}): {reason}")
        });
    let rest = (left_out > 0).then(|| format!("and {left_out} reasons more"));
    told.chain(rest).collect::<Vec<_>>().join("; ")
}

/// The first of many names.
fn excerpt(names: &[String]) -> String {
    const SHOWN: usize = 20;
    let shown = names
        .iter()
        .take(SHOWN)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > SHOWN {
        format!("{shown} and {} more", names.len() - SHOWN)
    } else {
        shown
    }
}

pub(super) fn dims(shape: &[Dim]) -> String {
    format!(
        "[{}]",
        shape
            .iter()
            .map(Dim::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    )
}
