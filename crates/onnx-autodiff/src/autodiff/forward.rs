//! Prepares the source: symbolic batch, one opset, folded constants, inferred types, and the head
//! (logits and probabilities).

use super::{
    DeriveError,
    emit::Emitter,
    head::{self, HeadValues},
    pipeline,
};
use crate::onnx::{
    graph::{Dim, Graph, Node},
    infer,
};

/// The name of the only symbolic dimension.
pub(crate) const BATCH: &str = "batch";

pub(crate) struct Forward {
    pub emit: Emitter,
    /// The nodes of the forward pass, in topological order.
    pub nodes: Vec<Node>,
    pub input: String,
    pub head: HeadValues,
}

/// `fold_batch_norm`: folds BatchNormalization into the Linear layers before it, for rule sets that
/// replace weights.
pub(crate) fn prepare(source: &Graph, fold_batch_norm: bool) -> Result<Forward, DeriveError> {
    let mut graph = source.clone();
    let input = open_batch(&mut graph)?;
    let mut graph = pipeline::prepare(graph)?;
    check_batch(&graph, &input)?;
    if fold_batch_norm {
        graph = pipeline::fold_batch_norm(graph)?;
    }
    let types = infer(&graph)?;
    let mut emit = Emitter::new(graph, types);
    let head = head::attach(&mut emit)?;
    let nodes = emit.graph.nodes.clone();
    Ok(Forward {
        emit,
        nodes,
        input,
        head,
    })
}

/// The name of the model's only input. Renames a symbolic batch to [`BATCH`].
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
    Ok(input.name.clone())
}

/// Checks that the input's first dimension is the batch and the others are numbers.
fn check_batch(graph: &Graph, input: &str) -> Result<(), DeriveError> {
    let shape = graph
        .inputs
        .iter()
        .find(|found| found.name == input)
        .map_or(&[][..], |found| &found.value_type.shape);
    match shape {
        [Dim::Symbol(_), rest @ ..] if rest.iter().all(|dim| dim.known().is_some()) => Ok(()),
        _ => Err(DeriveError::InputShape {
            input: input.to_owned(),
            shape: shape.to_vec(),
        }),
    }
}
