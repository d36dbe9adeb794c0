//! Constant folding: evaluates nodes that do not depend on the input, and shapes that depend on its
//! batch alone: a Reshape to `[N, 1280]` computed by Shape, Gather and Concat gets the constant
//! target `[0, 1280]`. Removes identity nodes. Run `prune` afterwards.

use std::collections::HashSet;

use indexmap::IndexMap;

use super::checked;
use crate::onnx::error::OnnxError;
use crate::onnx::evaluate::BUDGET_BYTES;
use crate::onnx::graph::{Dim, Graph, Literal, Node, ValueType};
use crate::onnx::ops;
use crate::onnx::rewrite::Rewriter;
use crate::onnx::types::Types;
use crate::onnx::types::site::Site;
use crate::onnx::types::values::to_literal;

/// Evaluates what does not depend on the input.
pub fn fold(graph: Graph) -> Result<Graph, OnnxError> {
    let pinned = graph.pinned();
    let mut types = Types::of_sources(&graph);
    let mut budget = BUDGET_BYTES;
    let mut graph = Rewriter::of(graph).walk(|rewriter, mut node| {
        let constants = &rewriter.graph.initializers;
        types.add_node(&node, constants)?;
        if let Some(literals) = constants_of(&node, constants, &types, &mut budget) {
            let values = node.outputs.into_iter().zip(literals);
            rewriter.graph.initializers.extend(values);
            return Ok(vec![]);
        }
        if changes_nothing(&node, constants, &types) && !pinned.contains(&node.outputs[0]) {
            rewriter.rename(&node.outputs[0], &node.inputs[0]);
            return Ok(vec![]);
        }
        if let Some(target) = reshape_target(&node, &types) {
            let target = Literal::vector_i64(&target);
            if constants.get(&node.inputs[1]) != Some(&target) {
                node.inputs[1] = rewriter.constant(&format!("{}.shape", node.outputs[0]), target);
            }
            node.attributes.remove("allowzero");
        }
        Ok::<_, OnnxError>(vec![node])
    })?;
    refresh_outputs(&mut graph, &types);
    checked("fold", graph)
}

/// The values of a node's outputs when all are constant.
pub(super) fn constants_of(
    node: &Node,
    constants: &IndexMap<String, Literal>,
    types: &Types,
    budget: &mut usize,
) -> Option<Vec<Literal>> {
    let [output] = node.outputs.as_slice() else {
        return None;
    };
    let value_type = types.get(output)?;
    let shape = types
        .sizes(output)
        .and_then(|sizes| to_literal(sizes, value_type.element));
    let literal = shape.filter(|literal| literal.value_type() == *value_type);
    let evaluated = || {
        let value = ops::of(node)?.value;
        value.evaluate(node, constants, value_type, budget)
    };
    literal.or_else(evaluated).map(|literal| vec![literal])
}

/// Whether a node returns its input unchanged: always by its op, or because of its attributes.
fn changes_nothing(node: &Node, constants: &IndexMap<String, Literal>, types: &Types) -> bool {
    let site = Site {
        node,
        types,
        constants,
    };
    let present = node.input(0).is_some() && node.output(0).is_some();
    present && ops::of(node).is_some_and(|op| op.idle.is_some_and(|idle| idle(&site)))
}

/// A constant target for a Reshape with this output shape: sizes, 0 to copy the input's dimension,
/// at most one -1.
fn reshape_target(node: &Node, types: &Types) -> Option<Vec<i64>> {
    let (input, output) = (
        node.input(0).filter(|_| node.is("Reshape"))?,
        node.output(0)?,
    );
    let (before, after) = (types.shape(input)?, types.shape(output)?);
    let mut target = Vec::with_capacity(after.len());
    for (axis, dim) in after.iter().enumerate() {
        target.push(match dim {
            Dim::Known(0) => return None,
            Dim::Known(size) => *size as i64,
            symbol if before.get(axis) == Some(symbol) => 0,
            _ if target.contains(&-1) => return None,
            _ => -1,
        });
    }
    Some(target)
}

/// Gives the outputs their inferred sizes where these are numbers or symbols of the inputs.
fn refresh_outputs(graph: &mut Graph, types: &Types) {
    let dims = graph
        .inputs
        .iter()
        .flat_map(|input| &input.value_type.shape);
    let symbols: HashSet<Dim> = dims.filter(|dim| dim.known().is_none()).cloned().collect();
    for output in &mut graph.outputs {
        let Some(ValueType { shape, .. }) = types.get(&output.name) else {
            continue;
        };
        if shape.len() != output.value_type.shape.len() {
            output.value_type.shape.clone_from(shape);
        }
        for (declared, inferred) in output.value_type.shape.iter_mut().zip(shape) {
            if inferred.known().is_some() || symbols.contains(inferred) {
                declared.clone_from(inferred);
            }
        }
    }
}
