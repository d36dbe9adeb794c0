//! What ONNX Runtime's optimiser has made of a derived graph for the CPU, refined: a Relu's
//! gradient is one node in place of a step and a product, and max-pool gradients read and write the
//! blocked layout where the runtime goes to planes for their sake.
//!
//! Between convolutions the runtime keeps images as
//! `[batch, channels / block, height, width, block]`, under the shape of planes. SqueezeNet, 25
//! steps of IG over HTTP on two cores, alternated: median 0.324 s so and 0.347 s without, best
//! 0.281 and 0.320 s.

use std::collections::{HashMap, HashSet};

use super::max_pool::{DOMAIN, MAX_POOL_GRADIENT};
use onnx_autodiff::{
    autodiff::stepped,
    onnx::{
        OnnxError, Types,
        graph::{Dim, Element, Graph, Names, Node},
        passes,
    },
};

/// `ReluGradient(dy, y) -> dx`. With `block`, dy has one number for each channel, and so many
/// channels of y lie side by side.
pub const RELU_GRADIENT: &str = "ReluGradient";
/// `BlockedMaxPoolGradient(x, y, dy) -> dx...`: as the one over planes, y the maxima; dx in pieces
/// of `parts` channels.
pub const BLOCKED_MAX_POOL_GRADIENT: &str = "BlockedMaxPoolGradient";
/// Domain of the runtime's operators that read or write the blocked layout.
pub const BLOCKED: &str = "com.microsoft.nchwc";

/// Larger graphs run as they are: in a debug build the runtime took more than a minute to open a
/// refined one of 15,000 nodes, and 14 s for 16,000 that were not refined.
const MOST_NODES: usize = 5_000;

/// Whether [`refine`] may find something in what the runtime makes of `graph`.
pub fn is_refinable(graph: &Graph) -> bool {
    graph.nodes.len() <= MOST_NODES
        && graph
            .nodes
            .iter()
            .any(|node| node.op_type == MAX_POOL_GRADIENT || stepped(node).is_some())
}

/// `types` are those of the graph that the runtime was given: it keeps the names of values in
/// planes. `block`: channels side by side.
pub fn refine(mut graph: Graph, types: &Types, block: Option<usize>) -> Result<Graph, OnnxError> {
    graph.opset_imports.insert(DOMAIN.into(), 1);
    let blocked = blocked_values(&graph);
    replace(&mut graph, |edges, node| gate(edges, node, types, &blocked));
    if let Some(block) = block {
        replace(&mut graph, |edges, node| {
            gate_blocks(edges, node, types, block)
        });
        let mut names = Names::of(&graph);
        replace(&mut graph, |edges, node| {
            pool_blocks(edges, node, &mut names, block as i64)
        });
    }
    passes::prune(graph)
}

/// What stands in the place of a node.
struct Edit {
    nodes: Vec<Node>,
    /// Values, and those that are read instead of them.
    renamed: Vec<(String, String)>,
}

fn replace(graph: &mut Graph, mut edit: impl FnMut(&Edges, &Node) -> Option<Edit>) {
    let edges = Edges::of(graph);
    let found: Vec<_> = graph.nodes.iter().map(|node| edit(&edges, node)).collect();
    let mut renamed = HashMap::new();
    let nodes = std::mem::take(&mut graph.nodes).into_iter().zip(found);
    graph.nodes = nodes
        .flat_map(|(node, edit)| {
            let Some(edit) = edit else { return vec![node] };
            renamed.extend(edit.renamed);
            edit.nodes
        })
        .collect();
    for input in graph.nodes.iter_mut().flat_map(|node| &mut node.inputs) {
        if let Some(name) = renamed.get(input) {
            input.clone_from(name);
        }
    }
}

/// Values in the blocked layout: what the runtime's operators for it make, and what others make of
/// nothing else.
fn blocked_values(graph: &Graph) -> HashSet<String> {
    let mut blocked = HashSet::new();
    for node in &graph.nodes {
        let made = node.domain == BLOCKED && node.op_type != "ReorderOutput";
        if made
            || (!node.inputs.is_empty() && node.inputs.iter().all(|input| blocked.contains(input)))
        {
            blocked.extend(node.outputs.iter().cloned());
        }
    }
    blocked
}

fn own(op_type: &str, inputs: &[&str], outputs: Vec<String>) -> Node {
    let mut node = Node::new(op_type, inputs.iter().copied(), []);
    (node.domain, node.outputs) = (DOMAIN.into(), outputs);
    node
}

/// `dy * step(y)` becomes `ReluGradient(dy, y)` where the two are floats of one shape.
fn gate(edges: &Edges, node: &Node, types: &Types, blocked: &HashSet<String>) -> Option<Edit> {
    let step = |value: &str| stepped(edges.producer(value)?);
    let (a, b) = (node.input(0)?, node.input(1).filter(|_| node.is("Mul"))?);
    let (dy, y) = step(b).map(|y| (a, y)).or_else(|| Some((b, step(a)?)))?;
    let alike = match (types.get(dy), types.get(y)) {
        (Some(dy), Some(y)) => dy == y && dy.element == Element::Float,
        // The runtime keeps products in blocks where both sides have one shape.
        _ => blocked.contains(dy) && blocked.contains(y),
    };
    // The gradient may be written over dy, which y must outlive.
    (alike && dy != y).then(|| Edit {
        nodes: vec![own(RELU_GRADIENT, &[dy, y], node.outputs.clone())],
        renamed: vec![],
    })
}

/// Blocks stay blocks where a mask left them only to meet one number per channel (a global
/// average's gradient) and the product goes back.
fn gate_blocks(edges: &Edges, node: &Node, types: &Types, block: usize) -> Option<Edit> {
    let made_by = |index: usize| {
        edges
            .producer(node.input(index)?)
            .filter(|_| node.is("Mul"))
    };
    let (a, b) = (made_by(0)?, made_by(1)?);
    let (spread, mask) = if a.is("Expand") { (a, b) } else { (b, a) };
    let mask = edges.producer(
        mask.input(0)
            .filter(|_| spread.is("Expand") && reorders(mask, "ReorderOutput"))?,
    )?;
    let (numbers, y, dx) = (spread.input(0)?, stepped(mask)?, node.output(0)?);
    let [_, channels, height, width] = types
        .shape(numbers)?
        .iter()
        .map(Dim::known)
        .collect::<Vec<_>>()[..]
    else {
        return None;
    };
    let fits = channels?.is_multiple_of(block) && (height, width) == (Some(1), Some(1));
    let readers = edges.blocked(dx).filter(|_| fits)?;
    let gradient =
        own(RELU_GRADIENT, &[numbers, y], vec![dx.to_owned()]).with("block", block as i64);
    let renamed = readers
        .into_iter()
        .map(|value| (value.to_owned(), dx.to_owned()));
    Some(Edit {
        nodes: vec![gradient],
        renamed: renamed.collect(),
    })
}

/// The gradient of a pool whose values come from blocks reads the blocks, and writes them: the
/// convolutions after it read them at once.
fn pool_blocks(edges: &Edges, node: &Node, names: &mut Names, block: i64) -> Option<Edit> {
    let from_blocks = |index: usize| {
        let node = edges
            .producer(node.input(index)?)
            .filter(|node| reorders(node, "ReorderOutput"))?;
        Some((
            node.input(0)?,
            node.int("channels")
                .filter(|channels| channels % block == 0)?,
        ))
    };
    let dx = node
        .output(0)
        .filter(|_| node.op_type == MAX_POOL_GRADIENT)?;
    let ((x, channels), (dy, _)) = (from_blocks(0)?, from_blocks(1)?);
    let forward = |pool: &&Node| {
        pool.op_type == "MaxPool" && pool.domain == BLOCKED && same_window(pool, node)
    };
    let y = edges.readers(x).find(forward)?.output(0)?;
    let split = edges
        .only_reader(dx)
        .filter(|split| split.is("Split") && split.int_or("axis", 0) == 1);
    let parts = split.and_then(|split| {
        let sizes = edges.graph.initializers.get(split.input(1)?)?.to_i64s()?;
        let readers = split
            .outputs
            .iter()
            .map(|part| edges.blocked(part))
            .collect::<Option<Vec<_>>>()?;
        let whole = sizes.iter().all(|size| size % block == 0);
        whole.then(|| sizes.into_iter().zip(readers).collect::<Vec<_>>())
    });
    let in_planes = parts.is_none() && edges.blocked(dx).is_none();
    let parts = parts.unwrap_or_else(|| vec![(channels, edges.reordered(dx).collect())]);
    let outputs: Vec<_> = parts
        .iter()
        .map(|_| names.fresh(&format!("{dx}.blocked")))
        .collect();
    let mut renamed = Vec::new();
    for ((_, readers), output) in parts.iter().zip(&outputs) {
        renamed.extend(
            readers
                .iter()
                .map(|value| ((*value).to_owned(), output.clone())),
        );
    }
    let mut planes =
        Node::new("ReorderOutput", [outputs[0].as_str()], [dx]).with("channels", channels);
    planes.domain = BLOCKED.into();
    let mut gradient = own(BLOCKED_MAX_POOL_GRADIENT, &[x, y, dy], outputs);
    gradient.attributes.clone_from(&node.attributes);
    let parts: Vec<i64> = parts.into_iter().map(|(channels, _)| channels).collect();
    let gradient = gradient.with("block", block).with("parts", parts);
    Some(Edit {
        nodes: [Some(gradient), in_planes.then_some(planes)]
            .into_iter()
            .flatten()
            .collect(),
        renamed,
    })
}

fn same_window(a: &Node, b: &Node) -> bool {
    let same = |name: &str, default: i64| {
        let of = |node: &Node| {
            node.ints(name)
                .map_or_else(|| vec![default; 2], <[i64]>::to_vec)
        };
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
    graph: &'a Graph,
    producers: HashMap<&'a str, usize>,
    consumers: HashMap<&'a str, Vec<usize>>,
    pinned: HashSet<String>,
}

impl<'a> Edges<'a> {
    fn of(graph: &'a Graph) -> Self {
        let (producers, consumers, pinned) = (graph.producers(), graph.consumers(), graph.pinned());
        Self {
            graph,
            producers,
            consumers,
            pinned,
        }
    }

    fn producer(&self, value: &str) -> Option<&'a Node> {
        self.producers
            .get(value)
            .map(|&index| &self.graph.nodes[index])
    }

    /// The one node that reads a value, which nothing else needs.
    fn only_reader(&self, value: &str) -> Option<&'a Node> {
        let mut readers = self.readers(value).filter(|_| !self.pinned.contains(value));
        readers.next().filter(|_| readers.next().is_none())
    }

    fn readers(&self, value: &str) -> impl Iterator<Item = &'a Node> {
        self.consumers
            .get(value)
            .into_iter()
            .flatten()
            .map(|&index| &self.graph.nodes[index])
    }

    /// What the nodes that put a value of planes into blocks make of it.
    fn reordered(&self, value: &str) -> impl Iterator<Item = &'a str> {
        self.readers(value)
            .filter(|node| reorders(node, "ReorderInput"))
            .filter_map(|node| node.output(0))
    }

    /// [`Self::reordered`], where nothing else reads the value.
    fn blocked(&self, value: &str) -> Option<Vec<&'a str>> {
        let all = self
            .readers(value)
            .all(|node| reorders(node, "ReorderInput"))
            && !self.pinned.contains(value);
        all.then(|| self.reordered(value).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onnx_autodiff::onnx::graph::ValueInfo;

    #[test]
    fn graphs_of_many_nodes_are_opened_as_they_are() {
        let gates = |count: usize| {
            let mut step = Node::new("HardSigmoid", ["x"], ["y"])
                .with("alpha", 2f32.powi(127))
                .with("beta", 0.0);
            step.name = "step".into();
            Graph {
                name: "gates".into(),
                ir_version: 8,
                opset_imports: [(String::new(), 17)].into(),
                inputs: Vec::<ValueInfo>::new(),
                outputs: Vec::new(),
                initializers: Default::default(),
                nodes: vec![step; count],
                metadata: Default::default(),
            }
        };
        assert!(is_refinable(&gates(MOST_NODES)));
        assert!(!is_refinable(&gates(MOST_NODES + 1)));
    }
}
