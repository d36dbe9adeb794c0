//! Integer inputs as floats: the nodes that only move pixels, up to the casts that make floats of
//! them, work on float32 in place of integers. The numbers stay the same, and the first floats get
//! a derivative, which is that of the pixels.

use std::collections::HashMap;

use onnx_autodiff::onnx::graph::{Element, Graph, Literal, Names, Node};

/// Ops that give numbers of their first input, whatever the element type.
const MOVES: &[&str] = &[
    "DepthToSpace",
    "Expand",
    "Flatten",
    "Gather",
    "Identity",
    "MaxPool",
    "Pad",
    "Reshape",
    "Resize",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
];

/// Ops that are exact in float32 where integers of 32 bits do not overflow.
const SUMS: &[&str] = &["Add", "Mul", "Sub"];

/// What stands in the place of nodes, by their position.
#[derive(Default)]
struct Edits {
    nodes: Vec<(usize, Vec<Node>)>,
    constants: Vec<(String, Literal)>,
    warnings: Vec<String>,
}

/// Makes the nodes behind `input` work on floats. Changes nothing, and gives the node in the way,
/// where one needs integers.
pub(super) fn as_floats(
    graph: &mut Graph,
    input: &str,
    element: Element,
    warnings: &mut Vec<String>,
) -> Result<(), String> {
    let mut names = Names::of(graph);
    // Values that are floats from now on, and the integers that they were.
    let mut floats = HashMap::from([(input.to_owned(), element)]);
    let mut edits = Edits::default();
    for (at, node) in graph.nodes.iter().enumerate() {
        let captured = node.captured();
        let reads = |name: &String| floats.contains_key(name);
        if node.is("Shape") || !node.inputs.iter().chain(&captured).any(reads) {
            continue;
        }
        let in_the_way = || format!("{} ({})", node.label(), node.op_type);
        if captured.iter().any(reads) {
            return Err(in_the_way());
        }
        let made = respell(graph, (at, node), &floats, &mut names, &mut edits);
        if let Some(made) = made.ok_or_else(in_the_way)? {
            let outputs = node.outputs.iter().cloned();
            floats.extend(outputs.map(|output| (output, made)));
        }
    }
    graph.initializers.extend(edits.constants);
    for (at, nodes) in edits.nodes.into_iter().rev() {
        graph.nodes.splice(at..=at, nodes);
    }
    warnings.extend(edits.warnings);
    Ok(())
}

/// The integers that the node's outputs were, if any; none where the node needs integers.
fn respell(
    graph: &Graph,
    (at, node): (usize, &Node),
    floats: &HashMap<String, Element>,
    names: &mut Names,
    edits: &mut Edits,
) -> Option<Option<Element>> {
    if !node.domain.is_empty() {
        return None;
    }
    let first = node
        .inputs
        .first()
        .and_then(|name| floats.get(name))
        .copied();
    let alone = !node
        .inputs
        .iter()
        .skip(1)
        .any(|name| floats.contains_key(name));
    let constant = |index: usize| graph.initializers.get(node.input(index)?);
    match node.op_type.as_str() {
        "Cast" => {
            let code = i32::try_from(node.int("to")?).ok();
            let to = code.and_then(Element::from_code)?;
            if to.is_float() {
                return Some(None);
            }
            // 0 to 255, unless sums came before.
            let from = first?;
            let is_unsigned = |element| {
                use Element::{Uint8, Uint16, Uint32, Uint64};
                matches!(element, Uint8 | Uint16 | Uint32 | Uint64)
            };
            let holds = !matches!(to, Element::Bool | Element::Int8)
                && to.size() >= from.size()
                && (is_unsigned(from) || !is_unsigned(to));
            let cast = node.clone().with("to", Element::Float as i64);
            edits.nodes.push((at, vec![cast]));
            holds.then_some(Some(to))
        }
        "DequantizeLinear" => {
            edits
                .nodes
                .push((at, dequantized(graph, node, names, &mut edits.constants)?));
            alone.then_some(None)
        }
        "Concat" => {
            let all = node.inputs.iter().all(|name| floats.contains_key(name));
            all.then_some(first)
        }
        op if SUMS.contains(&op) => {
            let (of, other) = match first {
                Some(of) => (of, 1),
                None => (*floats.get(node.input(1)?)?, 0),
            };
            let is_wide = matches!(of, Element::Int32 | Element::Int64);
            let mut sum = node.clone();
            if !floats.contains_key(node.input(other)?) {
                sum.inputs[other] = float(constant(other)?, node, names, &mut edits.constants);
            }
            edits.nodes.push((at, vec![sum]));
            is_wide.then_some(Some(of))
        }
        op if MOVES.contains(&op) && alone && first.is_some() => {
            if op == "Pad" && node.input(2).is_some() {
                let mut pad = node.clone();
                pad.inputs[2] = float(constant(2)?, node, names, &mut edits.constants);
                edits.nodes.push((at, vec![pad]));
            }
            if op == "MaxPool" && node.output(1).is_some() {
                return None;
            }
            if op == "Resize" && node.string("mode").is_some_and(|mode| mode != "nearest") {
                edits.warnings.push(format!(
                    "node {} (Resize) rounds to integers in the file; here its numbers are not rounded",
                    node.label()
                ));
            }
            Some(first)
        }
        _ => None,
    }
}

/// A constant of integers as floats.
fn float(
    literal: &Literal,
    node: &Node,
    names: &mut Names,
    constants: &mut Vec<(String, Literal)>,
) -> String {
    let name = names.fresh(&format!("{}.float", node.label()));
    let literal = Literal::from_f64s(Element::Float, &literal.shape, &literal.to_f64s());
    constants.push((name.clone(), literal));
    name
}

/// (x - z) s, of one scale for all channels.
fn dequantized(
    graph: &Graph,
    node: &Node,
    names: &mut Names,
    constants: &mut Vec<(String, Literal)>,
) -> Option<Vec<Node>> {
    let one = |index: usize| {
        let literal = graph.initializers.get(node.input(index)?)?;
        (literal.len() == 1).then(|| Literal {
            shape: Vec::new(),
            ..literal.clone()
        })
    };
    let scale = float(&one(1)?, node, names, constants);
    let mut x = node.input(0)?.to_owned();
    let mut nodes = Vec::new();
    if node.input(2).is_some() {
        let zero = float(&one(2)?, node, names, constants);
        let shifted = names.fresh(&format!("{}.shifted", node.label()));
        nodes.push(Node::new("Sub", [x.as_str(), &zero], [shifted.as_str()]));
        x = shifted;
    }
    nodes.push(Node::new("Mul", [x.as_str(), &scale], [node.output(0)?]));
    Some(nodes)
}
