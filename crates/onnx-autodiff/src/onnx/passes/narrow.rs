//! A convolution that is read only through slices of its channels becomes one convolution per
//! slice, with that slice of the weight: the same sums, and no copy between them. The backward walk
//! through Concat writes such slices; where they go, ONNX Runtime keeps its blocked layout. Run
//! `prune` afterwards.

use std::{collections::BTreeMap, ops::Range};

use indexmap::IndexMap;

use super::checked;
use crate::onnx::error::OnnxError;
use crate::onnx::graph::{Element, Graph, Literal, Names, Node};

pub fn narrow(mut graph: Graph) -> Result<Graph, OnnxError> {
    let parts = find_parts(&graph);
    if parts.is_empty() {
        return Ok(graph);
    }
    let mut names = Names::of(&graph);
    for (slice, Part { conv, channels }) in parts {
        let mut narrowed = graph.nodes[conv].clone();
        for input in narrowed
            .inputs
            .iter_mut()
            .skip(1)
            .filter(|input| !input.is_empty())
        {
            let Some(whole) = graph.initializers.get(input) else {
                continue;
            };
            let rows = rows(whole, &channels);
            *input = names.fresh(&format!("{input}.{}", channels.start));
            graph.initializers.insert(input.clone(), rows);
        }
        let slice = &mut graph.nodes[slice];
        (narrowed.name, narrowed.outputs) = (
            std::mem::take(&mut slice.name),
            std::mem::take(&mut slice.outputs),
        );
        *slice = narrowed;
    }
    checked("narrow", graph)
}

/// Some channels of what the node `conv` makes.
struct Part {
    conv: usize,
    channels: Range<usize>,
}

/// By the index of the Slice.
fn find_parts(graph: &Graph) -> BTreeMap<usize, Part> {
    let (consumers, pinned) = (graph.consumers(), graph.pinned());
    let mut parts = BTreeMap::new();
    for (conv, node) in graph.nodes.iter().enumerate() {
        let (Some(output), Some(channels)) = (node.output(0), channels(node, &graph.initializers))
        else {
            continue;
        };
        let readers = consumers.get(output).filter(|_| !pinned.contains(output));
        let slices: Option<Vec<_>> = readers
            .into_iter()
            .flatten()
            .map(|&reader| {
                let channels =
                    channel_range(&graph.nodes[reader], output, &graph.initializers, channels)?;
                Some((reader, Part { conv, channels }))
            })
            .collect();
        parts.extend(slices.unwrap_or_default());
    }
    parts
}

/// How many channels a convolution with constant weights and one group makes.
fn channels(node: &Node, constants: &IndexMap<String, Literal>) -> Option<usize> {
    let constant = |name: &str| {
        constants
            .get(name)
            .filter(|literal| literal.element == Element::Float)
    };
    let plain = node.is("Conv") && node.int_or("group", 1) == 1;
    let weight = constant(node.input(1).filter(|_| plain)?)?;
    node.input(2)
        .is_none_or(|bias| constant(bias).is_some())
        .then(|| weight.shape[0])
}

/// What a Slice along the channels alone reads of `value`.
pub fn channel_range(
    node: &Node,
    value: &str,
    constants: &IndexMap<String, Literal>,
    channels: usize,
) -> Option<Range<usize>> {
    let numbers = |index: usize| constants.get(node.input(index)?)?.to_i64s();
    let cuts = node.is("Slice") && node.input(0) == Some(value) && numbers(3)? == [1];
    let step = node.input(4).is_none() || numbers(4)? == [1];
    let ([start], [end]) = (&numbers(1)?[..], &numbers(2)?[..]) else {
        return None;
    };
    let (start, end) = (
        usize::try_from(*start).ok()?,
        usize::try_from(*end).ok()?.min(channels),
    );
    (cuts && step && start < end).then_some(start..end)
}

/// Rows of the first axis, sharing the whole's bytes.
fn rows(whole: &Literal, rows: &Range<usize>) -> Literal {
    let row = whole.bytes.len() / whole.shape[0].max(1);
    let mut shape = whole.shape.clone();
    shape[0] = rows.len();
    Literal {
        element: whole.element,
        shape,
        bytes: whole.bytes.slice(row * rows.start..row * rows.end),
    }
}
