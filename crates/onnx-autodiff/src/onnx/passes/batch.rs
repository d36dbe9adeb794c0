//! Makes the batch dimension of a model exported with batch 1 symbolic, if every node provably
//! keeps rows independent. A graph with a node that may mix or count rows is returned unchanged.
//! Run after `fold`.

use std::collections::HashSet;

use super::checked;
use crate::onnx::error::OnnxError;
use crate::onnx::graph::{Dim, Graph, Literal, Node};
use crate::onnx::infer::infer;
use crate::onnx::ops;
use crate::onnx::rewrite::Rewriter;
use crate::onnx::types::Types;

/// The name of the symbolic batch dimension.
pub(super) const BATCH: &str = "batch";

/// Makes the batch symbolic where rows are independent.
pub fn free_batch(graph: Graph) -> Result<Graph, OnnxError> {
    let fixed = |input: &crate::onnx::graph::ValueInfo| {
        input.value_type.shape.first() == Some(&Dim::Known(1))
            && input.value_type.known_shape().is_some()
    };
    if graph.inputs.is_empty() || !graph.inputs.iter().all(fixed) {
        return Ok(graph);
    }
    match freed(&graph) {
        Some(free) => checked("free_batch", free),
        None => Ok(graph),
    }
}

/// A node that may mix or count rows.
struct InTheWay;

/// The graph with a symbolic batch, or the node that prevents it.
fn freed(source: &Graph) -> Option<Graph> {
    let before = infer(source).ok()?;
    let mut graph = source.clone();
    for input in &mut graph.inputs {
        input.value_type.shape[0] = Dim::from(BATCH);
    }
    let mut types = Types::of_sources(&graph);
    let mut batched: HashSet<String> = graph
        .inputs
        .iter()
        .map(|input| input.name.clone())
        .collect();
    let freed = Rewriter::of(graph).walk(|rewriter, mut node| {
        let captured = node.captured();
        let mut reads = node.inputs.iter().chain(&captured);
        let is_batched = reads.any(|input| batched.contains(input));
        if is_batched && node.is("Reshape") {
            free_reshape(&mut node, &before, rewriter).ok_or(InTheWay)?;
        }
        let constants = &rewriter.graph.initializers;
        types.add_node(&node, constants).map_err(|_| InTheWay)?;
        if is_batched {
            let mut outputs = node.outputs.iter().filter(|output| !output.is_empty());
            let rows_alike = ops::of(&node)
                .is_some_and(|op| op.rows.are_kept(&node, &types, &batched))
                && outputs.all(|output| has_batch_first(output, &types));
            if !rows_alike {
                return Err(InTheWay);
            }
            let outputs = node.outputs.iter().filter(|output| !output.is_empty());
            batched.extend(outputs.cloned());
        }
        Ok(vec![node])
    });
    let mut graph = freed.ok()?;
    for output in &mut graph.outputs {
        output.value_type.shape = types
            .shape(&output.name)
            .filter(|_| batched.contains(&output.name))?
            .to_vec();
    }
    Some(graph)
}

/// A Reshape whose target starts with the batch of 1 gets the target `[0, sizes]`: 0 copies the
/// input's batch.
fn free_reshape(node: &mut Node, before: &Types, rewriter: &mut Rewriter) -> Option<()> {
    let shape = before.get(node.output(0)?)?.known_shape()?;
    let (1, rest) = shape.split_first().map(|(first, rest)| (*first, rest))? else {
        return None;
    };
    if rest.contains(&0) {
        return None;
    }
    let target: Vec<i64> = std::iter::once(0)
        .chain(rest.iter().map(|&size| size as i64))
        .collect();
    let wish = format!("{}.shape", node.output(0)?);
    node.inputs[1] = rewriter.constant(&wish, Literal::vector_i64(&target));
    node.attributes.remove("allowzero");
    Some(())
}

fn has_batch_first(value: &str, types: &Types) -> bool {
    let Some([first, rest @ ..]) = types.shape(value) else {
        return false;
    };
    *first == Dim::from(BATCH) && rest.iter().all(|dim| dim.known().is_some())
}
