//! The source made ready: batch symbolic, spelling of one opset, constants folded, every type known, logits and probabilities found.

use super::{
    DeriveError, batch_norm,
    emit::Emitter,
    head::{self, HeadValues},
};
use crate::onnx::{
    graph::{Dim, Graph, Node},
    infer,
};

/// IR of derived graphs.
pub const IR_VERSION: i64 = 10;
/// The one symbolic dim.
pub const BATCH: &str = "batch";

pub struct Forward {
    pub emit: Emitter,
    /// The nodes of the forward pass, in topological order.
    pub nodes: Vec<Node>,
    pub input: String,
    pub head: HeadValues,
}

/// `fold_batch_norm`: into the Linear layers before it, for rule sets that replace weights.
pub fn prepare(source: &Graph, fold_batch_norm: bool) -> Result<Forward, DeriveError> {
    let mut graph = source.clone();
    let input = open_batch(&mut graph)?;
    if fold_batch_norm {
        graph = batch_norm::fold(graph);
    }
    graph.ir_version = IR_VERSION;
    let types = infer(&graph)?;
    let mut emit = Emitter::new(graph, types);
    let head = head::attach(&mut emit)?;
    let nodes = emit.graph.nodes.clone();
    Ok(Forward { emit, nodes, input, head })
}

/// The name of the model's only input, whose first dim becomes the batch.
fn open_batch(graph: &mut Graph) -> Result<String, DeriveError> {
    let constants = &graph.initializers;
    let mut inputs: Vec<_> = graph.inputs.iter_mut().filter(|input| !constants.contains_key(&input.name)).collect();
    let [input] = inputs.as_mut_slice() else {
        return Err(DeriveError::Inputs { names: inputs.iter().map(|input| input.name.clone()).collect() });
    };
    let shape = &mut input.value_type.shape;
    let open = shape.iter().skip(1).any(|dim| dim.known().is_none());
    let Some(batch) = shape.first_mut().filter(|_| !open) else {
        return Err(DeriveError::InputShape { input: input.name.clone(), shape: input.value_type.shape.clone() });
    };
    *batch = Dim::Symbol(BATCH.into());
    Ok(input.name.clone())
}
