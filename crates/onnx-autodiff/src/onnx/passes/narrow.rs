//! Splits a convolution whose output is read only through channel slices into one convolution per
//! slice, with a slice of the weight: the same sums without copies. The backward walk through
//! Concat emits such slices; without them ONNX Runtime keeps NCHWc. Run `prune` afterwards.

use std::{collections::HashMap, ops::Range};

use indexmap::IndexMap;

use super::checked;
use crate::onnx::error::OnnxError;
use crate::onnx::graph::{Element, Graph, Literal, Names, Node};
use crate::onnx::rewrite::{Edges, Edit, replace};

/// Splits convolutions that are read only through channel slices.
pub fn narrow(mut graph: Graph) -> Result<Graph, OnnxError> {
    let mut names = Names::of(&graph);
    // Convolutions whose outputs are read through channel slices alone: output value -> channels.
    let mut sliced: HashMap<String, Option<usize>> = HashMap::new();
    replace(&mut graph, |edges, slice| {
        let value = slice.input(0).filter(|_| slice.is("Slice"))?;
        let conv = edges.producer(value).filter(|node| node.is("Conv"))?;
        let channels = *sliced
            .entry(value.to_owned())
            .or_insert_with(|| sliced_channels(edges, conv, value));
        let range = channel_range(slice, value, &edges.graph.initializers, channels?)?;
        let mut edit = Edit::default();
        let mut part = Node {
            name: slice.name.clone(),
            outputs: slice.outputs.clone(),
            ..conv.clone()
        };
        for input in part.inputs.iter_mut().skip(1) {
            let Some(whole) = edges.constant(input) else {
                continue;
            };
            *input = names.fresh(&format!("{input}.{}", range.start));
            edit.constants.push((input.clone(), rows(whole, &range)));
        }
        edit.nodes.push(part);
        Some(edit)
    });
    checked("narrow", graph)
}

/// The channels of `value`, the output of `conv`; `None` unless all consumers are channel slices.
fn sliced_channels(edges: &Edges, conv: &Node, value: &str) -> Option<usize> {
    let constants = &edges.graph.initializers;
    let channels = channels(conv, constants).filter(|_| !edges.is_pinned(value))?;
    edges
        .readers(value)
        .all(|reader| channel_range(reader, value, constants, channels).is_some())
        .then_some(channels)
}

/// The output channels of a convolution with constant weights and one group.
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

/// The channels that a Slice along the channel axis reads of `value`.
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

/// A slice of a literal along its first axis, sharing its bytes.
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
