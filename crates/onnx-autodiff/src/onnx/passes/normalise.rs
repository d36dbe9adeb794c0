//! Converts graphs of the opsets that are read to opset 18 with the same arithmetic, for inference: Dropout
//! becomes Identity. Nodes that opset 18 cannot express are refused, all together.

use std::collections::HashSet;

use super::checked;
use crate::onnx::error::{Fault, OnnxError};
use crate::onnx::graph::{Attribute, Graph, Node};
use crate::onnx::infer::infer;
use crate::onnx::rewrite::Rewriter;
use crate::onnx::spelling::{self, Context, Rewritten};

/// The opset of every graph after `normalise`.
pub const OPSET: i64 = 18;

/// Converts a graph to [`OPSET`].
pub fn normalise(graph: Graph) -> Result<Graph, OnnxError> {
    let types = infer(&graph)?;
    let opset = graph.opset();
    let used: HashSet<String> = graph
        .consumers()
        .keys()
        .map(|name| name.to_string())
        .chain(graph.pinned())
        .collect();
    let mut faults = Vec::new();
    let mut graph = Rewriter::of(graph).walk(|rewriter, node| {
        let (label, op) = (node.label().to_string(), node.op_type.clone());
        let mut ctx = Context {
            opset,
            types: &types,
            used: &used,
            rewriter,
        };
        let rewritten = rewrite(&mut ctx, node);
        Ok::<_, OnnxError>(rewritten.unwrap_or_else(|reason| {
            faults.push(Fault::Node {
                node: label,
                op,
                reason,
            });
            vec![]
        }))
    })?;
    if !faults.is_empty() {
        return Err(OnnxError::Model(faults));
    }
    graph.opset_imports.insert(String::new(), OPSET);
    graph.ir_version = graph.ir_version.clamp(8, 10);
    checked("normalise", graph)
}

fn rewrite(ctx: &mut Context<'_>, node: Node) -> Rewritten {
    let is_graph = |value: &Attribute| matches!(value, Attribute::Opaque(_));
    if ["If", "Loop", "Scan"].contains(&node.op_type.as_str())
        && node.attributes.values().any(is_graph)
    {
        return Err(
            "control flow is not supported: export the model without data-dependent branches"
                .into(),
        );
    }
    let spelling = spelling::of(&node);
    match spelling.filter(|of| of.before.is_none_or(|before| ctx.opset < before)) {
        Some(spelling) => (spelling.rewrite)(ctx, node),
        None => Ok(vec![node]),
    }
}
