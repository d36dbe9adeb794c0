//! A Loop or Scan of which constants decide how often it runs: its iterations, one after another, as
//! nodes of the graph around it.

use super::branch::{inlined, inner_graph};
use super::{Context, Rewritten};
use crate::onnx::graph::{Element, Literal, Node};

/// How many iterations of a Loop have been written: an attribute of the node for the rest of them.
const DONE: &str = "iteration";

/// What is in the place of `node`; none where it is no Loop or Scan, or depends on the input.
pub(crate) fn unrolled(ctx: &mut Context<'_>, node: &Node) -> Option<Rewritten> {
    match (node.domain.as_str(), node.op_type.as_str()) {
        ("", "Loop") => next(ctx, node),
        ("", "Scan") => Some(scanned(ctx, node)),
        _ => None,
    }
}

/// One iteration of a Loop, and a Loop of those behind it: whether there are any is known when the
/// first has been written. Its inputs are the number of iterations, the condition, the carried
/// values, and what each iteration so far gave to be joined.
fn next(ctx: &mut Context<'_>, node: &Node) -> Option<Rewritten> {
    let constant = |at: usize, other: i64| match node.input(at) {
        Some(name) => ctx.literal(name).and_then(Literal::as_i64),
        None => Some(other),
    };
    let (trips, goes_on) = (constant(0, i64::MAX)?, constant(1, 1)? != 0);
    let done = node.int_or(DONE, 0);
    Some(match goes_on && done < trips {
        true => iteration(ctx, node, done),
        false => joined(ctx, node),
    })
}

fn iteration(ctx: &mut Context<'_>, node: &Node, done: i64) -> Rewritten {
    let body = inner_graph(ctx, node, "body")?;
    let carried = body.input.len().checked_sub(2);
    let carried = carried.filter(|carried| body.output.len() > *carried);
    let values = carried.and_then(|carried| Some((carried, node.inputs.get(2..2 + carried)?)));
    let Some((carried, values)) = values else {
        return Err("its body does not fit its inputs".into());
    };
    let flag = Literal::from_f64s(Element::Bool, &[], &[1.0]);
    let mut inputs = vec![
        ctx.constant(node, DONE, Literal::scalar_i64(done)),
        ctx.constant(node, "condition", flag),
    ];
    inputs.extend_from_slice(values);
    let outputs = body.output.iter().map(|output| output.name().to_owned());
    let outputs: Vec<String> = outputs.map(|name| ctx.value(node, &name)).collect();
    let mut nodes = inlined(ctx, node, body, &inputs, &outputs)?;
    let mut rest = Node {
        inputs: vec![node.inputs[0].clone()],
        ..node.clone()
    };
    rest.inputs.extend_from_slice(&outputs[..=carried]);
    rest.inputs.extend_from_slice(&node.inputs[2 + carried..]);
    for output in &outputs[carried + 1..] {
        let (nodes_of, part) = stacked(ctx, node, output, 0);
        nodes.push(nodes_of);
        rest.inputs.push(part);
    }
    nodes.push(rest.with(DONE, done + 1));
    Ok(nodes)
}

/// What a Loop gives when no iteration is left.
fn joined(ctx: &mut Context<'_>, node: &Node) -> Rewritten {
    let body = inner_graph(ctx, node, "body")?;
    let carried = body.input.len().saturating_sub(2);
    let parts = node.inputs.get(2 + carried..).unwrap_or_default();
    let lists = body.output.len().saturating_sub(1 + carried);
    let of = |index: usize| {
        let parts = parts.iter().skip(index).step_by(lists.max(1)).cloned();
        parts.collect::<Vec<_>>()
    };
    let mut nodes = Vec::new();
    for (index, output) in node.outputs.iter().enumerate() {
        match (index.checked_sub(carried), node.inputs.get(2 + index)) {
            _ if output.is_empty() => {}
            (None, Some(value)) => nodes.push(Node::new("Identity", [value], [output])),
            (Some(list), _) if list < lists => nodes.push(concat(of(list), 0, output)?),
            _ => return Err("its body does not fit its outputs".into()),
        }
    }
    Ok(nodes)
}

fn scanned(ctx: &mut Context<'_>, node: &Node) -> Rewritten {
    if ctx.opset < 9 {
        return Err("it is of opset 8: export the model with opset 9 or newer".into());
    }
    let lists = node
        .int("num_scan_inputs")
        .and_then(|count| usize::try_from(count).ok());
    let states = lists.and_then(|lists| node.inputs.len().checked_sub(lists));
    let Some(states) = states.filter(|states| *states < node.inputs.len()) else {
        return Err("its num_scan_inputs does not fit its inputs".into());
    };
    let given = |name: &str, index: usize| {
        let values = node.ints(name).unwrap_or_default();
        values.get(index).copied().unwrap_or(0)
    };
    let (mut state, lists) = (node.inputs[..states].to_vec(), &node.inputs[states..]);
    let mut length = None;
    for (index, list) in lists.iter().enumerate() {
        let shape = ctx.types.shape(list).unwrap_or_default();
        let axis = given("scan_input_axes", index);
        let axis = if axis < 0 {
            axis + shape.len() as i64
        } else {
            axis
        };
        let dim = usize::try_from(axis)
            .ok()
            .and_then(|axis| shape.get(axis)?.known());
        match (dim, length) {
            (Some(dim), None) => length = Some(dim),
            (Some(dim), Some(length)) if dim == length => {}
            _ => {
                return Err(
                    "the number of its iterations is not known: export the model for a fixed size"
                        .into(),
                );
            }
        }
    }
    let length = length.unwrap_or(0);
    let (mut nodes, mut parts) = (Vec::new(), Vec::new());
    for step in 0..length {
        let body = inner_graph(ctx, node, "body")?;
        if body.output.len() < states {
            return Err("its body does not fit its inputs".into());
        }
        let mut inputs = state;
        for (index, list) in lists.iter().enumerate() {
            let at = match given("scan_input_directions", index) {
                0 => step,
                _ => length - 1 - step,
            };
            let at = ctx.constant(node, "step", Literal::scalar_i64(at as i64));
            let part = ctx.value(node, "part");
            let axis = given("scan_input_axes", index);
            nodes.push(Node::new("Gather", [list, &at], [&part]).with("axis", axis));
            inputs.push(part);
        }
        let outputs = body.output.iter().map(|output| output.name().to_owned());
        let mut outputs: Vec<String> = outputs.map(|name| ctx.value(node, &name)).collect();
        nodes.extend(inlined(ctx, node, body, &inputs, &outputs)?);
        let given_lists = outputs.split_off(states);
        state = outputs;
        parts.resize(given_lists.len(), Vec::new());
        for (index, (list, value)) in parts.iter_mut().zip(given_lists).enumerate() {
            let (raised, part) = stacked(ctx, node, &value, given("scan_output_axes", index));
            nodes.push(raised);
            list.push(part);
        }
    }
    for (index, output) in node
        .outputs
        .iter()
        .enumerate()
        .filter(|(_, name)| !name.is_empty())
    {
        let list = index.checked_sub(states);
        nodes.push(match list.map(|list| (list, parts.get(list))) {
            None => Node::new("Identity", [&state[index]], [output]),
            Some((list, Some(parts))) => {
                let mut parts = parts.clone();
                if given("scan_output_directions", list) != 0 {
                    parts.reverse();
                }
                concat(parts, given("scan_output_axes", list), output)?
            }
            Some(_) => return Err("it has more outputs than its body, or no iteration".into()),
        });
    }
    Ok(nodes)
}

/// `value` with an axis of one element, and the node that gives it.
fn stacked(ctx: &mut Context<'_>, node: &Node, value: &str, axis: i64) -> (Node, String) {
    let axes = ctx.constant(node, "axis", Literal::vector_i64(&[axis]));
    let part = ctx.value(node, "part");
    let raised = Node::new("Unsqueeze", [value, &axes], [part.as_str()]);
    (raised, part)
}

fn concat(parts: Vec<String>, axis: i64, output: &str) -> Result<Node, String> {
    match parts.is_empty() {
        true => Err("it has no iteration, and gives an empty tensor".into()),
        false => Ok(Node::new("Concat", parts, [output.to_owned()]).with("axis", axis)),
    }
}
