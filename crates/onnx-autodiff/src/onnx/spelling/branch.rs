//! An If whose condition is a constant of the graph: the branch that is taken, as nodes of the graph
//! around it. Exporters write such nodes for what they could have decided themselves.

use std::collections::HashMap;

use prost::Message;

use super::{Context, Rewritten};
use crate::onnx::functions::rename;
use crate::onnx::graph::{Attribute, Literal, Node};
use crate::onnx::proto::{AttributeProto, GraphProto};
use crate::onnx::read::read_part;

/// What counts as much as a node where graphs are inlined: constants inside them may be copied.
const BYTES_OF_A_NODE: usize = 64 << 10;

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
    let branch = inner_graph(ctx, node, name);
    Some(branch.and_then(|branch| inlined(ctx, node, branch, &[], &node.outputs)))
}

/// The graph that `node` holds as an attribute. Fails where all that were asked for would make more
/// nodes than a model may have.
pub(super) fn inner_graph(
    ctx: &mut Context<'_>,
    node: &Node,
    name: &str,
) -> Result<GraphProto, String> {
    let Some(Attribute::Opaque(bytes)) = node.attributes.get(name) else {
        return Err(format!("it has no {name}"));
    };
    let decoded = AttributeProto::decode(bytes.clone()).ok();
    let Some(graph) = decoded.and_then(|attribute| attribute.g) else {
        return Err(format!("{name} holds no graph"));
    };
    let cost = 1 + count(&graph) + bytes.len() / BYTES_OF_A_NODE;
    match ctx.room.checked_sub(cost) {
        Some(rest) => *ctx.room = rest,
        None => return Err(
            "its iterations make more nodes than are supported: export the model with fewer of them"
                .into(),
        ),
    }
    Ok(graph)
}

/// The nodes of a graph, with those of the graphs inside them.
fn count(graph: &GraphProto) -> usize {
    let attributes = graph.node.iter().flat_map(|node| &node.attribute);
    let inner = attributes.flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs));
    graph.node.len() + inner.map(count).sum::<usize>()
}

/// The nodes of a graph inside `node`, which reads `inputs` and gives `outputs`; other values get
/// names that are free outside.
pub(super) fn inlined(
    ctx: &mut Context<'_>,
    node: &Node,
    mut graph: GraphProto,
    inputs: &[String],
    outputs: &[String],
) -> Rewritten {
    if graph.output.len() < outputs.len() || graph.input.len() != inputs.len() {
        return Err("the graph inside has other inputs or outputs than it".to_owned());
    }
    let constants = graph.initializer.iter().map(|tensor| tensor.name());
    let made = graph.node.iter().flat_map(|inner| &inner.output);
    let defined: Vec<String> = constants
        .chain(made.map(String::as_str))
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    let given = graph.input.iter().map(|input| input.name().to_owned());
    let mut names: HashMap<String, String> = given.zip(inputs.iter().cloned()).collect();
    let mut handed_on = Vec::new();
    for (output, inner) in outputs.iter().zip(&graph.output) {
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
    rename(&mut graph, &names);
    let (constants, mut nodes) = read_part(&graph)?;
    ctx.rewriter.graph.initializers.extend(constants);
    nodes.extend(handed_on.into_iter().map(|(inner, output)| {
        let inner = names.get(&inner).cloned().unwrap_or(inner);
        Node::new("Identity", [inner], [output])
    }));
    Ok(nodes)
}
