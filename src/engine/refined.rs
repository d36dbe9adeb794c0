//! What ONNX Runtime's optimiser has made of a derived graph for the CPU, refined: a Relu's gradient is one node in place of a step and
//! a product, and max-pool gradients read and write the blocked layout where the runtime goes to planes for their sake.
//!
//! Between convolutions the runtime keeps images as `[batch, channels / block, height, width, block]`, under the shape of planes.
//! SqueezeNet's gradient, 25 steps of IG on two cores: 0.343 s so, 0.365 s with masks and planes.

use std::collections::{HashMap, HashSet};

use super::max_pool::{DOMAIN, MAX_POOL_GRADIENT};
use crate::{
    autodiff::stepped,
    onnx::{
        OnnxError, Types,
        graph::{Graph, Names, Node},
        passes,
    },
};

/// `ReluGradient(dy, y) -> dx`. With `block`, dy has one number for each channel, and so many channels of y lie side by side.
pub const RELU_GRADIENT: &str = "ReluGradient";
/// `BlockedMaxPoolGradient(x, y, dy) -> dx...`: as the one over planes, y the maxima; dx in pieces of `parts` channels.
pub const BLOCKED_MAX_POOL_GRADIENT: &str = "BlockedMaxPoolGradient";
/// Domain of the runtime's operators that read or write the blocked layout.
pub const BLOCKED: &str = "com.microsoft.nchwc";

/// Whether [`refine`] may find something in what the runtime makes of `graph`.
pub fn is_refinable(graph: &Graph) -> bool {
    graph.nodes.iter().any(|node| node.op_type == MAX_POOL_GRADIENT || stepped(node).is_some())
}

/// `types` are those of the graph that the runtime was given: it keeps the names of values in planes. `block`: channels side by side.
pub fn refine(mut graph: Graph, types: &Types, block: Option<usize>) -> Result<Graph, OnnxError> {
    graph.opset_imports.insert(DOMAIN.into(), 1);
    gate(&mut graph);
    if let Some(block) = block {
        gate_blocks(&mut graph, types, block);
        pool_blocks(&mut graph, block);
    }
    passes::prune(graph)
}

fn own(op_type: &str, inputs: &[&str], outputs: Vec<String>) -> Node {
    let mut node = Node::new(op_type, inputs.iter().copied(), []);
    (node.domain, node.outputs) = (DOMAIN.into(), outputs);
    node
}

/// `dy * step(y)` becomes `ReluGradient(dy, y)`.
fn gate(graph: &mut Graph) {
    let producers = graph.producers();
    let step = |value: &str| stepped(&graph.nodes[*producers.get(value)?]);
    let gated = |node: &Node| {
        let (a, b) = (node.input(0)?, node.input(1).filter(|_| node.is("Mul"))?);
        let (dy, y) = step(b).map(|y| (a, y)).or_else(|| Some((b, step(a)?)))?;
        Some(own(RELU_GRADIENT, &[dy, y], node.outputs.clone()))
    };
    let found: Vec<_> =
        graph.nodes.iter().enumerate().filter_map(|(index, node)| Some((index, gated(node)?))).collect();
    found.into_iter().for_each(|(index, node)| graph.nodes[index] = node);
}

/// Blocks stay blocks where a mask left them only to meet one number per channel (a global average's gradient) and the product goes back.
fn gate_blocks(graph: &mut Graph, types: &Types, block: usize) {
    let edges = Edges::of(graph);
    let gated = |node: &Node| {
        let made_by = |index: usize| edges.producer(node.input(index)?).filter(|_| node.is("Mul"));
        let (a, b) = (made_by(0)?, made_by(1)?);
        let (spread, mask) = if a.is("Expand") { (a, b) } else { (b, a) };
        let mask = edges.producer(mask.input(0).filter(|_| spread.is("Expand") && reorders(mask, "ReorderOutput"))?)?;
        let (numbers, y) = (spread.input(0)?, stepped(mask)?);
        let [_, channels, rest @ ..] = types.shape(numbers)? else { return None };
        let fits =
            channels.known()?.is_multiple_of(block) && rest.len() == 2 && rest.iter().all(|dim| dim.known() == Some(1));
        let blocked = edges.blocked(node.output(0)?).filter(|_| fits)?;
        let gradient = own(RELU_GRADIENT, &[numbers, y], node.outputs.clone()).with("block", block as i64);
        Some((
            gradient,
            blocked.into_iter().map(|value| (value.to_owned(), node.outputs[0].clone())).collect::<Vec<_>>(),
        ))
    };
    let found: Vec<_> =
        graph.nodes.iter().enumerate().filter_map(|(index, node)| Some((index, gated(node)?))).collect();
    let mut renamed = HashMap::new();
    for (index, (node, values)) in found {
        graph.nodes[index] = node;
        renamed.extend(values);
    }
    rename(graph, &renamed);
}

/// Gradients of pools whose values come from blocks read the blocks, and write them: the convolutions after them read them at once.
fn pool_blocks(graph: &mut Graph, block: usize) {
    let edges = Edges::of(graph);
    let mut names = Names::of(graph);
    let mut renamed = HashMap::new();
    let mut found = HashMap::new();
    let whole = |channels: i64| channels > 0 && channels % block as i64 == 0;
    let mut blocks = |node: &Node| {
        let from_blocks = |value: &str| {
            let node = edges.producer(value).filter(|node| reorders(node, "ReorderOutput"))?;
            Some((node.input(0)?, node.int("channels").filter(|channels| whole(*channels))?))
        };
        let ((x, channels), (dy, _), dx) =
            (from_blocks(node.input(0)?)?, from_blocks(node.input(1)?)?, node.output(0)?);
        let pool = edges
            .readers(x)
            .find(|pool| pool.op_type == "MaxPool" && pool.domain == BLOCKED && same_window(pool, node))?;
        let split = match &edges.readers(dx).collect::<Vec<_>>()[..] {
            [split] if split.is("Split") && split.int_or("axis", 0) == 1 && !edges.pinned.contains(dx) => Some(*split),
            _ => None,
        };
        let pieces = split.and_then(|split| {
            let sizes = graph
                .initializers
                .get(split.input(1)?)?
                .to_i64s()
                .filter(|sizes| sizes.iter().all(|size| whole(*size)))?;
            let blocked = split.outputs.iter().map(|output| edges.blocked(output)).collect::<Option<Vec<_>>>()?;
            Some(sizes.into_iter().zip(blocked).collect::<Vec<_>>())
        });
        let in_planes = pieces.is_none() && edges.blocked(dx).is_none();
        let pieces = pieces.unwrap_or_else(|| vec![(channels, edges.reordered(dx).collect())]);
        let outputs: Vec<String> = pieces.iter().map(|_| names.fresh(&format!("{dx}.blocked"))).collect();
        for ((_, values), output) in pieces.iter().zip(&outputs) {
            renamed.extend(values.iter().map(|value| ((*value).to_owned(), output.clone())));
        }
        let planes = in_planes.then(|| {
            let mut planes = Node::new("ReorderOutput", [outputs[0].as_str()], [dx]).with("channels", channels);
            planes.domain = BLOCKED.into();
            planes
        });
        let parts: Vec<i64> = pieces.iter().map(|(channels, _)| *channels).collect();
        let mut gradient = own(BLOCKED_MAX_POOL_GRADIENT, &[x, pool.output(0)?, dy], outputs);
        gradient.attributes.clone_from(&node.attributes);
        Some([Some(gradient.with("block", block as i64).with("parts", parts)), planes])
    };
    for (index, node) in graph.nodes.iter().enumerate().filter(|(_, node)| node.op_type == MAX_POOL_GRADIENT) {
        found.extend(blocks(node).map(|nodes| (index, nodes)));
    }
    let nodes = std::mem::take(&mut graph.nodes).into_iter().enumerate();
    graph.nodes = nodes
        .flat_map(|(index, node)| found.remove(&index).unwrap_or([Some(node), None]).into_iter().flatten())
        .collect();
    rename(graph, &renamed);
}

fn same_window(a: &Node, b: &Node) -> bool {
    let same = |name: &str, default: i64| {
        let of = |node: &Node| node.ints(name).map_or_else(|| vec![default; 2], <[i64]>::to_vec);
        let (a, b) = (of(a), of(b));
        a.iter().eq(&b) || [a, b].concat().iter().all(|value| *value == default)
    };
    same("kernel_shape", 1)
        && same("strides", 1)
        && same("dilations", 1)
        && same("pads", 0)
        && a.int_or("ceil_mode", 0) == b.int_or("ceil_mode", 0)
}

/// Whether a node goes between planes and blocks.
fn reorders(node: &Node, op_type: &str) -> bool {
    node.op_type == op_type && node.domain == BLOCKED && node.int_or("channels_last", 0) == 0
}

/// Who makes and who reads a value.
struct Edges<'a> {
    nodes: &'a [Node],
    producers: HashMap<&'a str, usize>,
    consumers: HashMap<&'a str, Vec<usize>>,
    pinned: HashSet<String>,
}

impl<'a> Edges<'a> {
    fn of(graph: &'a Graph) -> Self {
        let (producers, consumers, pinned) = (graph.producers(), graph.consumers(), graph.pinned());
        Self { nodes: &graph.nodes, producers, consumers, pinned }
    }

    fn producer(&self, value: &str) -> Option<&'a Node> {
        self.producers.get(value).map(|&index| &self.nodes[index])
    }

    fn readers(&self, value: &str) -> impl Iterator<Item = &'a Node> {
        self.consumers.get(value).into_iter().flatten().map(|&index| &self.nodes[index])
    }

    /// What the nodes that put a value of planes into blocks make of it.
    fn reordered(&self, value: &str) -> impl Iterator<Item = &'a str> {
        self.readers(value).filter(|node| reorders(node, "ReorderInput")).filter_map(|node| node.output(0))
    }

    /// [`Self::reordered`], where nothing else reads the value.
    fn blocked(&self, value: &str) -> Option<Vec<&'a str>> {
        let all = self.readers(value).all(|node| reorders(node, "ReorderInput")) && !self.pinned.contains(value);
        all.then(|| self.reordered(value).collect())
    }
}

fn rename(graph: &mut Graph, renamed: &HashMap<String, String>) {
    for input in graph.nodes.iter_mut().flat_map(|node| &mut node.inputs) {
        if let Some(name) = renamed.get(input) {
            input.clone_from(name);
        }
    }
}
