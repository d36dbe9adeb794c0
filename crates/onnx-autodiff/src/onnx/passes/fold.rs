//! Evaluates what does not depend on the input, and shapes that depend on its batch alone: a
//! Reshape to `[N, 1280]` computed by Shape, Gather and Concat gets the constant target
//! `[0, 1280]`. Removes nodes that change nothing. Run `prune` afterwards.

use std::collections::{HashMap, HashSet};

use super::checked;
use super::evaluate::{BUDGET_BYTES, evaluate};
use crate::onnx::error::OnnxError;
use crate::onnx::graph::{Dim, Graph, Literal, Names, Node, ValueType};
use crate::onnx::types::{Types, to_literal};

pub fn fold(mut graph: Graph) -> Result<Graph, OnnxError> {
    let pinned = graph.pinned();
    let mut names = Names::of(&graph);
    let mut types = Types::of_sources(&graph);
    let mut same: HashMap<String, String> = HashMap::new();
    let mut budget = BUDGET_BYTES;
    let mut kept = Vec::with_capacity(graph.nodes.len());
    for mut node in std::mem::take(&mut graph.nodes) {
        for input in &mut node.inputs {
            if let Some(first) = same.get(input) {
                input.clone_from(first);
            }
        }
        types.add_node(&node, &graph.initializers)?;
        if let Some(literals) = constants_of(&node, &graph, &types, &mut budget) {
            graph
                .initializers
                .extend(node.outputs.iter().cloned().zip(literals));
            continue;
        }
        if changes_nothing(&node, &graph, &types) && !pinned.contains(&node.outputs[0]) {
            same.insert(node.outputs[0].clone(), node.inputs[0].clone());
            continue;
        }
        if let Some(target) = reshape_target(&node, &types) {
            let target = Literal::vector_i64(&target);
            if graph.initializers.get(&node.inputs[1]) != Some(&target) {
                node.inputs[1] = names.fresh(&format!("{}.shape", node.outputs[0]));
                graph.initializers.insert(node.inputs[1].clone(), target);
            }
            node.attributes.remove("allowzero");
        }
        kept.push(node);
    }
    graph.nodes = kept;
    refresh_outputs(&mut graph, &types);
    checked("fold", graph)
}

/// The values of a node's outputs when all are constant.
fn constants_of(
    node: &Node,
    graph: &Graph,
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
    literal
        .or_else(|| evaluate(node, &graph.initializers, value_type, budget))
        .map(|literal| vec![literal])
}

/// Ops that hand their input on, because they always do or because there is nothing to do.
fn changes_nothing(node: &Node, graph: &Graph, types: &Types) -> bool {
    let (Some(input), Some(output)) = (node.input(0), node.output(0)) else {
        return false;
    };
    let same_type = || {
        types
            .get(input)
            .is_some_and(|before| types.get(output) == Some(before))
    };
    let all = |index: usize, value: i64| {
        let constant = node
            .input(index)
            .and_then(|name| graph.initializers.get(name))
            .and_then(Literal::to_i64s);
        constant.is_some_and(|values| values.iter().all(|&v| v == value))
    };
    match node.op_type.as_str() {
        _ if !node.domain.is_empty() => false,
        "Identity" => true,
        "Cast" | "Reshape" | "Flatten" | "Expand" | "Squeeze" | "Unsqueeze" => same_type(),
        "Slice" => same_type() && (node.input(4).is_none() || all(4, 1)),
        "Pad" => all(1, 0),
        "Concat" => node.inputs.len() == 1,
        _ => false,
    }
}

/// A constant target that gives a Reshape its output shape: sizes, 0 where the input's axis is
/// copied, one -1.
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
