//! Converts graphs of the opsets that are read to opset 18 with the same arithmetic, for inference:
//! Dropout becomes Identity, of an If whose condition is constant the branch that is taken remains,
//! and of a Loop or Scan that constants end its iterations. Types are inferred and constants evaluated on the way, because spellings depend on them.
//! Nodes that opset 18 cannot express are refused, all together.

use std::collections::HashSet;

use super::{checked, fold};
use crate::onnx::error::{Fault, OnnxError};
use crate::onnx::evaluate::BUDGET_BYTES;
use crate::onnx::graph::{Graph, Node};
use crate::onnx::limits::MAX_NODES;
use crate::onnx::ops;
use crate::onnx::rewrite::Rewriter;
use crate::onnx::spelling::{Context, Rewritten, branch, repeat};
use crate::onnx::types::Types;

/// The opset of every graph after `normalise`.
pub const OPSET: i64 = 18;

/// Converts a graph to [`OPSET`].
pub fn normalise(graph: Graph) -> Result<Graph, OnnxError> {
    let opset = graph.opset();
    let used: HashSet<String> = graph
        .consumers()
        .keys()
        .map(|name| name.to_string())
        .chain(graph.pinned())
        .collect();
    let mut varying: HashSet<String> = graph.inputs.iter().map(|i| i.name.clone()).collect();
    let mut types = Types::of_sources(&graph);
    let mut budget = BUDGET_BYTES;
    let mut room = MAX_NODES;
    let mut faults = Vec::new();
    let mut graph = Rewriter::of(graph).walk(|rewriter, node| {
        // The nodes that are still to be spelled, the next one last: a branch of an If is spelled
        // as the rest of the graph, and so is each iteration of a Loop.
        let (mut open, mut spelled) = (vec![node], Vec::new());
        while let Some(node) = open.pop() {
            if let Err(error) = types.add_node(&node, &rewriter.graph.initializers) {
                collect(error, &mut faults)?;
                continue;
            }
            let mut ctx = Context {
                opset,
                types: &types,
                used: &used,
                varying: &varying,
                rewriter,
                room: &mut room,
            };
            let inlined = branch::taken(&mut ctx, &node);
            if let Some(inlined) = inlined.or_else(|| repeat::unrolled(&mut ctx, &node)) {
                match inlined {
                    Ok(nodes) => open.extend(nodes.into_iter().rev()),
                    Err(reason) => faults.push(fault(&node, reason)),
                }
                continue;
            }
            let nodes = match rewrite(&mut ctx, node.clone()) {
                Ok(nodes) => nodes,
                Err(reason) => {
                    faults.push(fault(&node, reason));
                    continue;
                }
            };
            for node in nodes {
                let constants = &mut rewriter.graph.initializers;
                if let Err(error) = types.add_node(&node, constants) {
                    collect(error, &mut faults)?;
                    continue;
                }
                if let Some(values) = fold::constants_of(&node, constants, &types, &mut budget) {
                    constants.extend(node.outputs.into_iter().zip(values));
                    continue;
                }
                let captured = node.captured();
                if node
                    .inputs
                    .iter()
                    .chain(&captured)
                    .any(|i| varying.contains(i))
                {
                    varying.extend(node.outputs.iter().cloned());
                }
                spelled.push(node);
            }
        }
        Ok::<_, OnnxError>(spelled)
    })?;
    if !faults.is_empty() {
        return Err(OnnxError::Model(faults));
    }
    graph.opset_imports.insert(String::new(), OPSET);
    graph.ir_version = graph.ir_version.clamp(8, 10);
    checked("normalise", graph)
}

fn rewrite(ctx: &mut Context<'_>, node: Node) -> Rewritten {
    let spelling = ops::spelling(&node);
    match spelling.filter(|of| of.before.is_none_or(|before| ctx.opset < before)) {
        Some(spelling) => (spelling.rewrite)(ctx, node),
        None => Ok(vec![node]),
    }
}

fn fault(node: &Node, reason: String) -> Fault {
    Fault::Node {
        node: node.label().into(),
        op: node.op_type.clone(),
        reason,
    }
}

/// Contradictions are told together; other errors end the pass.
fn collect(error: OnnxError, faults: &mut Vec<Fault>) -> Result<(), OnnxError> {
    match error {
        OnnxError::Model(found) => {
            faults.extend(found);
            Ok(())
        }
        other => Err(other),
    }
}
