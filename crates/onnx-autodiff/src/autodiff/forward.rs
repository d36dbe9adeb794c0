//! Prepares the source: symbolic batch, one opset, folded constants, inferred types, and the head
//! (logits and probabilities).

use std::collections::HashSet;

use super::{
    DeriveError, Unsupported,
    emit::Emitter,
    head::{self, HeadValues},
    outputs::rename,
    pipeline,
    rules::table::{NO_RULE, reason},
};
use crate::onnx::{
    Types,
    graph::{Dim, Graph, Names, Node, ValueInfo},
    infer, ops,
    passes::fixes_batch,
};

/// The name of the only symbolic dimension.
pub(crate) const BATCH: &str = "batch";

pub(crate) struct Forward {
    pub emit: Emitter,
    /// The nodes of the forward pass, in topological order.
    pub nodes: Vec<Node>,
    pub input: String,
    /// [`BATCH`], or the number of rows where the model fixes it.
    pub batch: Dim,
    pub head: HeadValues,
}

/// `fold_batch_norm`: folds BatchNormalization into the Linear layers before it, for rule sets that
/// replace weights.
pub(crate) fn prepare(source: &Graph, fold_batch_norm: bool) -> Result<Forward, DeriveError> {
    let mut graph = source.clone();
    let input = open_batch(&mut graph)?;
    let mut graph = pipeline::prepare(graph)?;
    let batch = check_input(&graph, &input)?;
    if fold_batch_norm {
        graph = pipeline::fold_batch_norm(graph)?;
    }
    let types = infer(&graph)?;
    let unknown = untyped(&graph, &types);
    if !unknown.is_empty() {
        return Err(DeriveError::Unsupported { nodes: unknown });
    }
    let mut emit = Emitter::new(graph, types);
    let head = head::attach(&mut emit, &batch)?;
    let nodes = emit.graph.nodes.clone();
    Ok(Forward {
        emit,
        nodes,
        input,
        batch,
        head,
    })
}

/// As [`prepare`], for graphs whose outputs are sums over batches of any size.
pub(crate) fn prepare_any_batch(
    source: &Graph,
    fold_batch_norm: bool,
) -> Result<Forward, DeriveError> {
    let forward = prepare(source, fold_batch_norm)?;
    match forward.batch {
        Dim::Symbol(_) => Ok(forward),
        Dim::Known(rows) => Err(DeriveError::FixedBatch {
            input: forward.input,
            rows,
            node: fixes_batch(&forward.emit.graph),
        }),
    }
}

/// The source as it is, with its head: for models that run but cannot be prepared. Its output must
/// be stored with its shape.
pub(crate) fn as_it_is(source: &Graph) -> Result<Forward, DeriveError> {
    let mut graph = source.clone();
    let input = open_batch(&mut graph)?;
    let batch = check_input(&graph, &input)?;
    let mut types = Types::of_sources(&graph);
    for node in &graph.nodes {
        // A node that contradicts its inputs is the runtime's to judge.
        let _ = types.add_node(node, &graph.initializers);
    }
    for ValueInfo { name, value_type } in &graph.outputs {
        if types.get(name).is_none() {
            types.insert(name.clone(), value_type.clone());
        }
    }
    let mut emit = Emitter::new(graph, types);
    let head = head::attach(&mut emit, &batch)?;
    Ok(Forward {
        emit,
        nodes: Vec::new(),
        input,
        batch,
        head,
    })
}

/// The names of the inputs that derived graphs may have beside the model's.
const OWN_INPUTS: [&str; 2] = ["seed", "target"];

/// The name of the model's only input. Renames a symbolic batch to [`BATCH`], and inner values that
/// are called as inputs of derived graphs.
fn open_batch(graph: &mut Graph) -> Result<String, DeriveError> {
    let constants = &graph.initializers;
    let mut inputs: Vec<_> = graph
        .inputs
        .iter_mut()
        .filter(|input| !constants.contains_key(&input.name))
        .collect();
    let [input] = inputs.as_mut_slice() else {
        return Err(DeriveError::Inputs {
            names: inputs.iter().map(|input| input.name.clone()).collect(),
        });
    };
    if let Some(batch @ Dim::Symbol(_)) = input.value_type.shape.first_mut() {
        *batch = Dim::Symbol(BATCH.into());
    }
    let input = input.name.clone();
    let mut names = Names::of(graph);
    for own in OWN_INPUTS.into_iter().filter(|own| *own != input) {
        let aside = names.fresh(&format!("{own}/source"));
        rename(graph, own, &aside);
    }
    Ok(input)
}

/// The batch of the input, whose other dimensions must be numbers, and whose elements floats.
fn check_input(graph: &Graph, input: &str) -> Result<Dim, DeriveError> {
    let found = graph.inputs.iter().find(|found| found.name == input);
    let value_type = found.map(|found| &found.value_type);
    if let Some(element) = value_type.map(|of| of.element).filter(|of| !of.is_float()) {
        return Err(DeriveError::Element {
            value: input.to_owned(),
            element,
        });
    }
    match value_type.map_or(&[][..], |of| &of.shape) {
        [batch, rest @ ..] if rest.iter().all(|dim| dim.known().is_some()) => Ok(batch.clone()),
        shape => Err(DeriveError::InputShape {
            input: input.to_owned(),
            shape: shape.to_vec(),
        }),
    }
}

/// The nodes that give values of unknown type, which are read, from values whose types are known:
/// what they are in the way of is not to blame. Operators that are in the way anywhere are told
/// wherever they are.
fn untyped(graph: &Graph, types: &Types) -> Vec<Unsupported> {
    let outputs = graph.outputs.iter().map(|output| &output.name);
    let inputs = graph.nodes.iter().flat_map(|node| &node.inputs);
    let read: HashSet<&String> = outputs.chain(inputs).collect();
    let known = |value: &String| value.is_empty() || types.get(value).is_some();
    let nodes = graph.nodes.iter().filter(|node| {
        let mut outputs = node.outputs.iter();
        let is_to_blame = is_foreign(node) || node.inputs.iter().all(known);
        is_to_blame && outputs.any(|value| read.contains(value) && !known(value))
    });
    nodes
        .map(|node| Unsupported::new(node, graph, unknown_reason(node).to_owned()))
        .collect()
}

/// Of arithmetic without gradients, or not of ONNX.
fn is_foreign(node: &Node) -> bool {
    match node.domain.as_str() {
        "" => is_of_integers(&node.op_type),
        domain => domain != "ai.onnx.ml",
    }
}

fn is_of_integers(op_type: &str) -> bool {
    op_type.starts_with("QLinear") || op_type.ends_with("Integer")
}

/// Why the type of what a node gives is not known, and what helps.
fn unknown_reason(node: &Node) -> &'static str {
    match (node.domain.as_str(), node.op_type.as_str()) {
        ("", "If" | "Loop" | "Scan") => {
            "control flow that depends on the input: export the model without data-dependent branches"
        }
        ("" | "com.microsoft", op) if is_of_integers(op) => {
            "integer arithmetic has no gradient: use the float model, or quantise that in the QDQ format"
        }
        ("", _) => match reason(node) {
            NO_RULE if ops::of(node).is_some() => {
                "the shape of its output follows from data: export the model for a fixed size"
            }
            reason => reason,
        },
        (domain, op) if domain.starts_with("com.microsoft") && op.ends_with("Attention") => {
            "ONNX Runtime's optimiser fused an attention layer: use the model from before it ran, or optimise it without fusing attention"
        }
        (domain, _) if domain.starts_with("com.microsoft") => {
            "ONNX Runtime's optimiser wrote it: use the model from before it ran"
        }
        ("ai.onnx.ml", _) => reason(node),
        _ => "a custom operator or function: export the model with those of ONNX",
    }
}
