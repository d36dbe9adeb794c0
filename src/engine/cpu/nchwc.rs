//! Rewrites the graph after ONNX Runtime's optimiser: the mask and product of a ReLU gradient
//! become one node, and max-pool gradients read and write NCHWc where there were reorders.
//!
//! NCHWc is `[batch, channels / block_size, height, width, block_size]`, under the shape of NCHW.
//! SqueezeNet, 25 steps of IG over HTTP, two cores, alternated: median 0.324 s so, 0.347 s without.

use std::collections::HashSet;

use super::operators::{
    self, CONV_WEIGHT_GRADIENT, DOMAIN, MAX_POOL_GRADIENT, NCHWC_MAX_POOL_GRADIENT, RELU_GRADIENT,
};
use onnx_autodiff::{
    autodiff::stepped,
    onnx::{
        OnnxError, Types,
        graph::{Dim, Element, Graph, Literal, Names, Node},
        passes,
        rewrite::{Edges, Edit, replace},
    },
};

/// The domain of the runtime's operators over NCHWc.
pub(crate) const NCHWC_DOMAIN: &str = "com.microsoft.nchwc";

/// Larger graphs are not rewritten: the runtime took more than a minute to open a rewritten graph
/// of 15,000 nodes (in a debug build), and 14 s for one of 16,000 nodes that was not.
const MOST_NODES: usize = 5_000;

/// Whether a graph has few enough nodes to be rewritten.
pub(crate) fn is_small(graph: &Graph) -> bool {
    graph.nodes.len() <= MOST_NODES
}

/// Whether [`rewrite`] may apply to `graph` after the runtime's optimiser, or a convolution has a
/// weight that is no constant.
pub(crate) fn is_rewritable(graph: &Graph) -> bool {
    let is_given = |node: &Node| {
        let weight = node.input(1).filter(|_| node.is("Conv"));
        weight.is_some_and(|weight| !graph.initializers.contains_key(weight))
    };
    graph.nodes.iter().any(|node| {
        [MAX_POOL_GRADIENT, CONV_WEIGHT_GRADIENT].contains(&node.op_type.as_str())
            || stepped(node).is_some()
            || is_given(node)
    })
}

/// `types` are those of the graph as it was derived: its values in NCHW keep their names.
/// `block_size`: channels of an NCHWc block; none where the processor has no such layout.
pub(crate) fn rewrite(
    mut graph: Graph,
    types: &Types,
    block_size: Option<usize>,
) -> Result<Graph, OnnxError> {
    graph.opset_imports.insert(DOMAIN.into(), 1);
    let nchwc = nchwc_values(&graph);
    replace(&mut graph, |edges, node| {
        relu_gradient(edges, node, types, &nchwc)
    });
    if let Some(block_size) = block_size {
        let mut names = Names::of(&graph);
        replace(&mut graph, |edges, node| {
            relu_gradient_nchwc(edges, node, types, block_size, &mut names)
        });
        // Each round takes reorders past one more node.
        while replace(&mut graph, |edges, node| {
            reorder_later(edges, node, types, block_size as i64, &mut names)
        }) {}
        replace(&mut graph, |edges, node| {
            max_pool_gradient_nchwc(edges, node, &mut names, block_size as i64)
        });
    }
    passes::prune(graph)
}

/// The values in NCHWc: outputs of the runtime's NCHWc operators, and of nodes whose inputs are all
/// in NCHWc.
fn nchwc_values(graph: &Graph) -> HashSet<String> {
    let mut nchwc = HashSet::new();
    for node in &graph.nodes {
        let made = node.domain == NCHWC_DOMAIN && node.op_type != "ReorderOutput";
        if made
            || (!node.inputs.is_empty() && node.inputs.iter().all(|input| nchwc.contains(input)))
        {
            nchwc.extend(node.outputs.iter().cloned());
        }
    }
    nchwc
}

/// `dy * step(y)` becomes `ReluGradient(dy, y)` where the two are floats of one shape.
fn relu_gradient(
    edges: &Edges,
    node: &Node,
    types: &Types,
    nchwc: &HashSet<String>,
) -> Option<Edit> {
    let step = |value: &str| stepped(edges.producer(value)?);
    let (a, b) = (node.input(0)?, node.input(1).filter(|_| node.is("Mul"))?);
    let (dy, y) = step(b).map(|y| (a, y)).or_else(|| Some((b, step(a)?)))?;
    let alike = match (types.get(dy), types.get(y)) {
        (Some(dy), Some(y)) => dy == y && dy.element == Element::Float,
        // The runtime keeps products in NCHWc where both sides have one shape.
        _ => nchwc.contains(dy) && nchwc.contains(y),
    };
    // The gradient may overwrite dy, so dy must not be y.
    let gradient = || operators::node(RELU_GRADIENT, &[dy, y], node.outputs.clone());
    (alike && dy != y).then(|| Edit::with([gradient()]))
}

/// Keeps a ReLU mask in NCHWc where it multiplies one number per channel (the gradient of a global
/// average) and the product is reordered to NCHWc again.
fn relu_gradient_nchwc(
    edges: &Edges,
    node: &Node,
    types: &Types,
    block_size: usize,
    names: &mut Names,
) -> Option<Edit> {
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
    let fits = (height, width) == (Some(1), Some(1));
    let readers = only_reordered(edges, dx).filter(|_| fits)?;
    // Blocks are filled up beyond the channels.
    let missing = channels?.next_multiple_of(block_size) - channels?;
    let [filled, pads] = ["filled", "pads"].map(|part| names.fresh(&format!("{dx}/{part}")));
    let gradient = |numbers: &str| {
        operators::node(RELU_GRADIENT, &[numbers, y], vec![dx.to_owned()])
            .with("block_size", block_size as i64)
    };
    let edit = if missing == 0 {
        Edit::with([gradient(numbers)])
    } else {
        let amounts = Literal::vector_i64(&[0, 0, 0, 0, 0, missing as i64, 0, 0]);
        Edit {
            constants: vec![(pads.clone(), amounts)],
            ..Edit::with([
                Node::new("Pad", [numbers, &pads], [filled.as_str()]),
                gradient(&filled),
            ])
        }
    };
    let renamed = readers
        .into_iter()
        .map(|value| (value.to_owned(), dx.to_owned()));
    Some(Edit {
        renamed: renamed.collect(),
        ..edit
    })
}

/// Takes a `ReorderOutput` past a Split of channels into whole blocks, a sum, a product or a ReLU
/// mask, and leaves out a `ReorderInput` after it.
fn reorder_later(
    edges: &Edges,
    node: &Node,
    types: &Types,
    block_size: i64,
    names: &mut Names,
) -> Option<Edit> {
    let blocks = |value: &str| {
        let reorder = edges.producer(value)?;
        let source = reorder.input(0)?;
        reorders(reorder, "ReorderOutput").then_some((source.to_owned(), reorder.int("channels")?))
    };
    let mut reorder = |value: &str, channels: i64| {
        let source = names.fresh(&format!("{value}/nchwc"));
        let mut node = Node::new("ReorderOutput", [source.as_str()], [value]);
        node.domain = NCHWC_DOMAIN.into();
        (source, node.with("channels", channels))
    };
    let (first, _) = blocks(node.input(0)?)?;
    if reorders(node, "ReorderInput") {
        return Some(Edit {
            renamed: vec![(node.output(0)?.to_owned(), first)],
            ..Edit::default()
        });
    }
    if node.is("Split") && node.int_or("axis", 0) == 1 {
        let sizes = edges.constant(node.input(1)?)?.to_i64s()?;
        if sizes.iter().any(|size| size % block_size != 0) {
            return None;
        }
        let parts = node.outputs.iter().zip(&sizes);
        let (sources, reorders): (Vec<_>, Vec<_>) =
            parts.map(|(value, size)| reorder(value, *size)).unzip();
        let mut split = node.clone();
        (split.inputs[0], split.outputs) = (first, sources);
        return Some(Edit::with([vec![split], reorders].concat()));
    }
    let (a, b) = (node.input(0)?, node.input(1)?);
    let alike = types.get(a).is_some() && types.get(a) == types.get(b);
    if !alike || !(node.is("Add") || node.is("Mul")) {
        return None;
    }
    let (second, channels) = blocks(b)?;
    let (result, reorder) = reorder(node.output(0)?, channels);
    let step = |value: &str| edges.producer(value).and_then(stepped);
    let masked = step(&second)
        .map(|y| (&first, y))
        .or_else(|| Some((&second, step(&first)?)))
        .filter(|(dy, y)| node.is("Mul") && dy.as_str() != *y);
    let blocked = match masked {
        Some((dy, y)) => operators::node(RELU_GRADIENT, &[dy, y], vec![result]),
        None => Node::new(&node.op_type, [&first, &second], [&result]),
    };
    Some(Edit::with([blocked, reorder]))
}

/// Replaces the gradient of a pool over NCHWc by one that reads and writes NCHWc, so that the
/// convolutions after it need no reorder.
fn max_pool_gradient_nchwc(
    edges: &Edges,
    node: &Node,
    names: &mut Names,
    block_size: i64,
) -> Option<Edit> {
    let from_nchwc = |index: usize| {
        let node = edges
            .producer(node.input(index)?)
            .filter(|node| reorders(node, "ReorderOutput"))?;
        Some((
            node.input(0)?,
            node.int("channels")
                .filter(|channels| channels % block_size == 0)?,
        ))
    };
    let dx = node
        .output(0)
        .filter(|_| node.op_type == MAX_POOL_GRADIENT)?;
    let ((x, channels), (dy, _)) = (from_nchwc(0)?, from_nchwc(1)?);
    let forward = |pool: &&Node| {
        pool.op_type == "MaxPool" && pool.domain == NCHWC_DOMAIN && same_window(pool, node)
    };
    let y = edges.readers(x).find(forward)?.output(0)?;
    let split = edges
        .only_reader(dx)
        .filter(|split| split.is("Split") && split.int_or("axis", 0) == 1);
    let parts = split.and_then(|split| {
        let sizes = edges.constant(split.input(1)?)?.to_i64s()?;
        let readers = split
            .outputs
            .iter()
            .map(|part| only_reordered(edges, part))
            .collect::<Option<Vec<_>>>()?;
        let whole = sizes.iter().all(|size| size % block_size == 0);
        whole.then(|| sizes.into_iter().zip(readers).collect::<Vec<_>>())
    });
    let needs_nchw = parts.is_none() && only_reordered(edges, dx).is_none();
    let parts = parts.unwrap_or_else(|| vec![(channels, reordered(edges, dx))]);
    let outputs: Vec<_> = parts
        .iter()
        .map(|_| names.fresh(&format!("{dx}.nchwc")))
        .collect();
    let mut renamed = Vec::new();
    for ((_, readers), output) in parts.iter().zip(&outputs) {
        renamed.extend(
            readers
                .iter()
                .map(|value| ((*value).to_owned(), output.clone())),
        );
    }
    let mut reorder =
        Node::new("ReorderOutput", [outputs[0].as_str()], [dx]).with("channels", channels);
    reorder.domain = NCHWC_DOMAIN.into();
    let mut gradient = operators::node(NCHWC_MAX_POOL_GRADIENT, &[x, y, dy], outputs);
    gradient.attributes.clone_from(&node.attributes);
    let parts: Vec<i64> = parts.into_iter().map(|(channels, _)| channels).collect();
    let gradient = gradient.with("block_size", block_size).with("parts", parts);
    let nodes = [Some(gradient), needs_nchw.then_some(reorder)];
    Some(Edit {
        renamed,
        ..Edit::with(nodes.into_iter().flatten())
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

/// Whether a node reorders between NCHW and NCHWc.
pub(super) fn reorders(node: &Node, op_type: &str) -> bool {
    node.op_type == op_type && node.domain == NCHWC_DOMAIN && node.int_or("channels_last", 0) == 0
}

/// The outputs of the nodes that reorder `value` from NCHW to NCHWc.
fn reordered<'a>(edges: &Edges<'a>, value: &str) -> Vec<&'a str> {
    let readers = edges.readers(value);
    readers
        .filter(|node| reorders(node, "ReorderInput"))
        .filter_map(|node| node.output(0))
        .collect()
}

/// [`reordered`], if `value` has no other consumer.
fn only_reordered<'a>(edges: &Edges<'a>, value: &str) -> Option<Vec<&'a str>> {
    let mut readers = edges.readers(value);
    let all = readers.all(|node| reorders(node, "ReorderInput")) && !edges.is_pinned(value);
    all.then(|| reordered(edges, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn graphs_of_many_nodes_are_opened_as_they_are() {
        let gates = |count: usize| {
            let mut step = Node::new("HardSigmoid", ["x"], ["y"])
                .with("alpha", 2f32.powi(127))
                .with("beta", 0.0);
            step.name = "step".into();
            Graph {
                nodes: vec![step; count],
                ..Graph::default()
            }
        };
        assert!(is_small(&gates(MOST_NODES)) && is_rewritable(&gates(MOST_NODES)));
        assert!(!is_small(&gates(MOST_NODES + 1)));
    }
}
