//! Makes the batch dimension of a model exported with a fixed batch symbolic, if every node provably
//! keeps rows independent. A graph with a node that may mix or count rows is returned unchanged.
//! Run after `fold`.

use std::collections::HashSet;

use super::checked;
use crate::onnx::error::OnnxError;
use crate::onnx::graph::{Dim, Graph, Literal, Node, ValueInfo};
use crate::onnx::infer::infer;
use crate::onnx::ops;
use crate::onnx::rewrite::Rewriter;
use crate::onnx::types::Types;

/// The name of the symbolic batch dimension.
pub(super) const BATCH: &str = "batch";

/// Makes the batch symbolic where rows are independent.
pub fn free_batch(graph: Graph) -> Result<Graph, OnnxError> {
    match freed(&graph) {
        Ok(free) => checked("free_batch", free),
        Err(_) => Ok(graph),
    }
}

/// The name of the first node that may mix or count the rows of a fixed batch; none where the batch
/// is not fixed, or no node is in the way.
pub fn fixes_batch(graph: &Graph) -> Option<String> {
    freed(graph).err()?.0
}

/// A node that may mix or count rows, if it is one that is in the way.
struct InTheWay(Option<String>);

/// The rows of a fixed batch.
fn fixed_rows(graph: &Graph) -> Option<usize> {
    let rows = |input: &ValueInfo| match input.value_type.known_shape()?[..] {
        [rows, _, ..] => Some(rows),
        _ => None,
    };
    let first = rows(graph.inputs.first()?)?;
    let alike = graph.inputs.iter().all(|input| rows(input) == Some(first));
    alike.then_some(first)
}

/// The graph with a symbolic batch, or the node that prevents it.
fn freed(source: &Graph) -> Result<Graph, InTheWay> {
    let rows = fixed_rows(source).ok_or(InTheWay(None))?;
    let before = infer(source).map_err(|_| InTheWay(None))?;
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
        let in_the_way = InTheWay(Some(format!("{} ({})", node.label(), node.op_type)));
        if is_batched
            && node.is("Reshape")
            && free_reshape(&mut node, rows, &before, rewriter).is_none()
        {
            return Err(in_the_way);
        }
        let constants = &rewriter.graph.initializers;
        if types.add_node(&node, constants).is_err() {
            return Err(in_the_way);
        }
        if is_batched {
            let mut outputs = node.outputs.iter().filter(|output| !output.is_empty());
            let rows_alike = ops::of(&node)
                .is_some_and(|op| op.rows.are_kept(&node, &types, &batched))
                && outputs.all(|output| has_batch_first(output, &types));
            if !rows_alike {
                return Err(in_the_way);
            }
            let outputs = node.outputs.iter().filter(|output| !output.is_empty());
            batched.extend(outputs.cloned());
        }
        Ok(vec![node])
    });
    let mut graph = freed?;
    for output in &mut graph.outputs {
        let shape = types.shape(&output.name);
        let shape = shape.filter(|_| batched.contains(&output.name));
        output.value_type.shape = shape.ok_or(InTheWay(None))?.to_vec();
    }
    Ok(graph)
}

/// A Reshape whose target starts with the batch gets the target `[0, sizes]`: 0 copies the input's
/// batch.
fn free_reshape(
    node: &mut Node,
    rows: usize,
    before: &Types,
    rewriter: &mut Rewriter,
) -> Option<()> {
    let shape = before.get(node.output(0)?)?.known_shape()?;
    let (first, rest) = shape.split_first()?;
    if *first != rows || rest.contains(&0) {
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
