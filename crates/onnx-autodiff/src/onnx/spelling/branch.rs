//! An If whose condition is a constant of the graph: the branch that is taken, as nodes of the graph
//! around it. Exporters write such nodes for what they could have decided themselves.

use std::collections::HashMap;

use prost::Message;

use super::{Context, Rewritten};
use crate::onnx::functions::rename;
use crate::onnx::graph::{Attribute, Literal, Node};
use crate::onnx::proto::{AttributeProto, GraphProto};
use crate::onnx::read::read_part;

/// The nodes of the branch that `node` takes; none where it is no If, or its condition depends on
/// the input.
pub(crate) fn taken(ctx: &mut Context<'_>, node: &Node) -> Option<Rewritten> {
    let condition = node.is("If").then(|| node.input(0))??;
    let is_true = ctx.literal(condition).and_then(Literal::as_i64)? != 0;
    let name = if is_true {
        "then_branch"
    } else {
        "else_branch"
    };
    let Some(Attribute::Opaque(bytes)) = node.attributes.get(name) else {
        return Some(Err(format!("it has no {name}")));
    };
    let decoded = AttributeProto::decode(bytes.clone()).ok();
    let branch = decoded.and_then(|attribute| attribute.g);
    Some(match branch {
        Some(branch) => inlined(ctx, node, branch),
        None => Err(format!("{name} holds no graph")),
    })
}

/// Inner values get names that are free outside; the outputs get those of the node.
fn inlined(ctx: &mut Context<'_>, node: &Node, mut branch: GraphProto) -> Rewritten {
    if branch.output.len() < node.outputs.len() {
        return Err("its branches have fewer outputs than it has".to_owned());
    }
    let constants = branch.initializer.iter().map(|tensor| tensor.name());
    let made = branch.node.iter().flat_map(|inner| &inner.output);
    let defined: Vec<String> = constants
        .chain(made.map(String::as_str))
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    let mut names = HashMap::new();
    let mut handed_on = Vec::new();
    for (output, inner) in node.outputs.iter().zip(&branch.output) {
        let inner = inner.name();
        match defined.iter().any(|name| name == inner) && !names.contains_key(inner) {
            _ if output.is_empty() => {}
            true => {
                names.insert(inner.to_owned(), output.clone());
            }
            false => handed_on.push((inner.to_owned(), output.clone())),
        }
    }
    for name in defined {
        let fresh = ctx.value(node, &name);
        names.entry(name).or_insert(fresh);
    }
    rename(&mut branch, &names);
    let (constants, mut nodes) = read_part(&branch)?;
    ctx.rewriter.graph.initializers.extend(constants);
    nodes.extend(handed_on.into_iter().map(|(inner, output)| {
        let inner = names.get(&inner).cloned().unwrap_or(inner);
        Node::new("Identity", [inner], [output])
    }));
    Ok(nodes)
}
