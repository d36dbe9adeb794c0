//! Where the pixels of the input lie in the values of a network: on two axes of a feature map, or on
//! one axis of tokens that counts a grid row by row, after tokens of no place (class and register
//! tokens). Followed from node to node through shapes; what nodes do with values of lost places
//! (windows, heads) is found again where they are added to a value that has them. Which tokens of a
//! value the head depends on is followed back, so that it is known whether a layer's patches count.

use std::collections::HashMap;

use super::emit::Emitter;
use crate::onnx::{
    graph::{Dim, Node},
    ops::{self, Elements},
};

/// Of one value; axes count from its batch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Places {
    pub axes: Axes,
    pub height: usize,
    pub width: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Axes {
    /// Of height and width.
    Map([usize; 2]),
    /// Of tokens, and how many stand before those of the grid.
    Tokens { axis: usize, first: usize },
}

/// Which tokens of a value the head depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reads {
    All,
    Tokens(Vec<bool>),
}

/// The most tokens that are followed one by one.
const TOKENS: usize = 1 << 14;
/// The most operands of a Concat or a Split.
const PARTS: usize = 64;

impl Reads {
    fn join(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::Tokens(own), Self::Tokens(others)) if own.len() == others.len() => {
                own.iter_mut()
                    .zip(others)
                    .for_each(|(own, other)| *own |= other);
            }
            _ => *self = Self::All,
        }
    }
}

impl Places {
    /// A feature map on these axes of a value of this shape.
    fn map(shape: &[Dim], axes: [usize; 2]) -> Option<Self> {
        let size = |axis: usize| shape.get(axis).and_then(Dim::known);
        Some(Self {
            axes: Axes::Map(axes),
            height: size(axes[0])?,
            width: size(axes[1])?,
        })
    }

    /// The axis of tokens.
    fn tokens(&self) -> Option<(usize, usize)> {
        match self.axes {
            Axes::Tokens { axis, first } => Some((axis, first)),
            Axes::Map(_) => None,
        }
    }

    fn has(&self, axis: usize) -> bool {
        match self.axes {
            Axes::Map(axes) => axes.contains(&axis),
            Axes::Tokens { axis: own, .. } => own == axis,
        }
    }

    /// With each axis where `to` says that it is now; none where one is gone.
    fn moved(self, to: impl Fn(usize) -> Option<usize>) -> Option<Self> {
        let axes = match self.axes {
            Axes::Map([rows, columns]) => Axes::Map([to(rows)?, to(columns)?]),
            Axes::Tokens { axis, first } => Axes::Tokens {
                axis: to(axis)?,
                first,
            },
        };
        Some(Self { axes, ..self })
    }

    /// Where the sizes of its axes are the same in both shapes.
    fn kept(self, before: &[Dim], after: &[Dim]) -> Option<Self> {
        let same = |axis: usize| before.get(axis).is_some() && before.get(axis) == after.get(axis);
        self.moved(|axis| same(axis).then_some(axis))
    }

    /// In another shape of the same elements in the same order.
    fn reshaped(self, before: &[Dim], after: &[Dim]) -> Option<Self> {
        let groups = groups(before, after);
        let group_of = |axis: usize| groups.iter().find(|(from, _)| from.contains(&axis));
        let several = |shape: &[Dim], axes: &[usize]| -> Vec<usize> {
            let is_one = |axis: &usize| shape[*axis] == Dim::Known(1);
            axes.iter().copied().filter(|axis| !is_one(axis)).collect()
        };
        let size = |axis: usize| after[axis].known();
        match self.axes {
            Axes::Tokens { axis, first } => {
                let (from, to) = group_of(axis)?;
                match (&several(before, from)[..], &several(after, to)[..]) {
                    ([_], &[axis]) => Some(Self {
                        axes: Axes::Tokens { axis, first },
                        ..self
                    }),
                    ([_], &[rows, columns])
                        if first == 0
                            && size(rows) == Some(self.height)
                            && size(columns) == Some(self.width) =>
                    {
                        Self::map(after, [rows, columns])
                    }
                    _ => None,
                }
            }
            Axes::Map([rows, columns]) => {
                let (from, to) = group_of(rows)?;
                if from.contains(&columns) {
                    let both = several(before, from) == [rows, columns];
                    return match several(after, to)[..] {
                        [axis] if both => Some(Self {
                            axes: Axes::Tokens { axis, first: 0 },
                            ..self
                        }),
                        _ => None,
                    };
                }
                // An axis that is split has its blocks for places.
                let outer = |axis: usize| {
                    let (from, to) = group_of(axis)?;
                    let alone = several(before, from).len() <= 1;
                    let first = several(after, to).first().or(to.first()).copied();
                    first.filter(|_| alone)
                };
                Self::map(after, [outer(rows)?, outer(columns)?])
            }
        }
    }
}

/// Axes of two shapes that hold the same elements: the smallest groups with equal products.
fn groups(before: &[Dim], after: &[Dim]) -> Vec<(Vec<usize>, Vec<usize>)> {
    let mut found = Vec::new();
    let (mut from, mut to) = (0, 0);
    while from < before.len() && to < after.len() {
        let start = (from, to);
        (from, to) = (from + 1, to + 1);
        if before[start.0] != after[start.1] {
            let (Some(mut left), Some(mut right)) =
                (before[start.0].known(), after[start.1].known())
            else {
                break;
            };
            while left != right {
                let (side, at, product) = match left < right {
                    true => (before, &mut from, &mut left),
                    false => (after, &mut to, &mut right),
                };
                let Some(size) = side.get(*at).and_then(Dim::known).filter(|_| *product > 0) else {
                    return found;
                };
                *product = product.saturating_mul(size);
                *at += 1;
            }
        }
        found.push(((start.0..from).collect(), (start.1..to).collect()));
    }
    found
}

/// The places of each value that has any. `input` is that of the network.
pub(super) fn places(emit: &Emitter, nodes: &[Node], input: &str) -> HashMap<String, Places> {
    let mut found = HashMap::new();
    if let Ok(shape) = emit.shape(input)
        && let Some(places) = of_picture(&shape)
    {
        found.insert(input.to_owned(), places);
    }
    for node in nodes.iter().filter(|node| node.domain.is_empty()) {
        for (at, output) in node.outputs.iter().enumerate() {
            if let Some(places) = of_output(emit, node, at, &found) {
                found.insert(output.clone(), places);
            }
        }
    }
    found
}

/// Channels are fewer than rows and columns.
fn of_picture(shape: &[Dim]) -> Option<Places> {
    let [_, first, second, last] = shape else {
        return None;
    };
    let [first, second, last] = [first, second, last].map(|dim| dim.known().unwrap_or(usize::MAX));
    let axes = match last < first.min(second) {
        true => [1, 2],
        false => [2, 3],
    };
    Places::map(shape, axes)
}

fn of_output(
    emit: &Emitter,
    node: &Node,
    at: usize,
    found: &HashMap<String, Places>,
) -> Option<Places> {
    let shape_of = |value: &str| emit.shape(value).ok();
    let after = shape_of(&node.outputs[at])?;
    let windowed = ["Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool"];
    if windowed.contains(&node.op_type.as_str()) {
        return match after.len() {
            4 => Places::map(&after, [2, 3]),
            _ => None,
        };
    }
    if node.is("Concat") {
        return joined(emit, node, &after, found);
    }
    let first = || {
        let name = node.input(0)?;
        Some((*found.get(name)?, shape_of(name)?))
    };
    match node.op_type.as_str() {
        "Resize" | "DepthToSpace" | "SpaceToDepth" | "Pad" => match first()?.0.axes {
            Axes::Map(axes) => Places::map(&after, axes),
            Axes::Tokens { .. } => {
                let (places, before) = first()?;
                places.kept(&before, &after)
            }
        },
        "Transpose" => {
            let (places, before) = first()?;
            let turned = |axis: usize| match node.ints("perm") {
                Some(perm) => perm.iter().position(|&from| from == axis as i64),
                None => before.len().checked_sub(axis + 1),
            };
            places.moved(turned)
        }
        "Gather" => {
            let (places, before) = first()?;
            let axis = axis_of(node.int_or("axis", 0), before.len())?;
            let inserted = shape_of(node.input(1)?)?.len();
            places.moved(|own| match own {
                own if own < axis => Some(own),
                own if own == axis => None,
                own => Some(own + inserted - 1),
            })
        }
        "Slice" | "Split" => {
            let (places, before) = first()?;
            match places.axes {
                Axes::Map(axes) => Places::map(&after, axes),
                Axes::Tokens { axis, first } => {
                    let taken = taken(emit, node, at, axis, &before)?;
                    let last = first + places.height * places.width;
                    let all = (first..last).all(|token| taken.contains(&token));
                    let rises = taken.windows(2).all(|pair| pair[0] < pair[1]);
                    let first = taken.iter().position(|&token| token == first);
                    first.filter(|_| all && rises).map(|first| Places {
                        axes: Axes::Tokens { axis, first },
                        ..places
                    })
                }
            }
        }
        "MatMul" => {
            let (places, before) = first()?;
            let places = widened(places, &before, &after)?;
            (!places.has(after.len() - 1)).then_some(places)
        }
        _ => match ops::of(node)?.elements {
            Elements::Same => {
                let (places, before) = first()?;
                places.reshaped(&before, &after)
            }
            _ if is_alike(node) => node.inputs.iter().find_map(|input| {
                let places = *found.get(input)?;
                widened(places, &shape_of(input)?, &after)
            }),
            _ => None,
        },
    }
}

/// Whether the output has the places of its inputs.
fn is_alike(node: &Node) -> bool {
    let normalises = [
        "Softmax",
        "LogSoftmax",
        "LayerNormalization",
        "InstanceNormalization",
        "LpNormalization",
        "MeanVarianceNormalization",
        "Cast",
        "Expand",
    ];
    normalises.contains(&node.op_type.as_str())
        || ops::of(node).is_some_and(|op| op.elements == Elements::PerPixel)
}

/// In a shape that broadcasting makes of `before`.
fn widened(places: Places, before: &[Dim], after: &[Dim]) -> Option<Places> {
    let offset = after.len().checked_sub(before.len())?;
    places.moved(|axis| (before[axis] == after[axis + offset]).then_some(axis + offset))
}

/// Of a Concat. Pieces of a map are in no order that is known.
fn joined(
    emit: &Emitter,
    node: &Node,
    after: &[Dim],
    found: &HashMap<String, Places>,
) -> Option<Places> {
    let joint = axis_of(node.int_or("axis", 0), after.len())?;
    let mut before = Some(0);
    let mut result = None;
    for input in &node.inputs {
        if let (Some(places), None) = (found.get(input), &result) {
            result = match (places.axes, before) {
                (_, _) if !places.has(joint) => Some(*places),
                (Axes::Tokens { axis, first }, Some(before)) => Some(Places {
                    axes: Axes::Tokens {
                        axis,
                        first: first + before,
                    },
                    ..*places
                }),
                _ => None,
            };
        }
        let size = emit
            .shape(input)
            .ok()
            .and_then(|shape| shape.get(joint)?.known());
        before = before.zip(size).map(|(before, size)| before + size);
    }
    result
}

fn axis_of(axis: i64, rank: usize) -> Option<usize> {
    let axis = if axis < 0 { axis + rank as i64 } else { axis };
    usize::try_from(axis).ok().filter(|&axis| axis < rank)
}

/// The tokens along `axis` that an output of Slice, Split or Gather has, in its order; none where
/// they are not known.
fn taken(
    emit: &Emitter,
    node: &Node,
    at: usize,
    axis: usize,
    before: &[Dim],
) -> Option<Vec<usize>> {
    let all = before
        .get(axis)?
        .known()
        .filter(|all| *all <= TOKENS && at <= PARTS)?;
    let numbers = |input: usize| emit.literal(node.input(input)?)?.to_i64s();
    match node.op_type.as_str() {
        "Gather" => {
            let own = axis_of(node.int_or("axis", 0), before.len())?;
            if own != axis {
                return Some((0..all).collect());
            }
            let indices = numbers(1)?.into_iter();
            indices.map(|index| axis_of(index, all)).collect()
        }
        "Split" => {
            let own = axis_of(node.int_or("axis", 0), before.len())?;
            if own != axis {
                return Some((0..all).collect());
            }
            let size = |output: &String| emit.size(output, axis).ok();
            let start: usize = node.outputs[..at].iter().map(size).sum::<Option<_>>()?;
            Some((start..(start + size(&node.outputs[at])?).min(all)).collect())
        }
        _ => {
            let (starts, ends) = (numbers(1)?, numbers(2)?);
            let axes = match node.input(3) {
                Some(_) => numbers(3)?,
                None => (0..starts.len() as i64).collect(),
            };
            let steps = match node.input(4) {
                Some(_) => numbers(4)?,
                None => vec![1; starts.len()],
            };
            let own = |&given: &i64| axis_of(given, before.len()) == Some(axis);
            let Some(place) = axes.iter().position(own) else {
                return Some((0..all).collect());
            };
            let (start, end) = (*starts.get(place)?, *ends.get(place)?);
            let step = usize::try_from(*steps.get(place)?)
                .ok()
                .filter(|step| *step > 0)?;
            let bound = |at: i64| {
                let at = if at < 0 {
                    at.saturating_add(all as i64)
                } else {
                    at
                };
                usize::try_from(at).unwrap_or(0).min(all)
            };
            Some((bound(start)..bound(end)).step_by(step).collect())
        }
    }
}

/// Which tokens of each value `head` depends on, of the values that it does.
pub(super) fn reads(
    emit: &Emitter,
    nodes: &[Node],
    head: &str,
    places: &HashMap<String, Places>,
) -> HashMap<String, Reads> {
    let mut found = HashMap::from([(head.to_owned(), Reads::All)]);
    for node in nodes.iter().rev() {
        for (at, output) in node.outputs.iter().enumerate() {
            let Some(read) = found.get(output).cloned() else {
                continue;
            };
            for (index, input) in node.inputs.iter().enumerate() {
                let read = through(emit, node, (at, output), &read, (index, input), places);
                match found.get_mut(input) {
                    Some(known) => known.join(read),
                    None => {
                        found.insert(input.clone(), read);
                    }
                }
            }
        }
    }
    found
}

/// What of an input is read where `read` of the output is.
fn through(
    emit: &Emitter,
    node: &Node,
    (at, output): (usize, &str),
    read: &Reads,
    (index, input): (usize, &str),
    places: &HashMap<String, Places>,
) -> Reads {
    let of_input = || {
        let (axis, _) = places.get(input)?.tokens()?;
        let shape = emit.shape(input).ok()?;
        let all = shape.get(axis)?.known().filter(|all| *all <= TOKENS)?;
        Some((axis, shape, all))
    };
    let Some((axis, shape, all)) = of_input() else {
        return Reads::All;
    };
    if ["Gather", "Slice", "Split"].contains(&node.op_type.as_str()) && index == 0 {
        let Some(taken) = taken(emit, node, at, axis, &shape) else {
            return Reads::All;
        };
        let mut tokens = vec![false; all];
        for (place, &token) in taken.iter().enumerate() {
            tokens[token] |= match read {
                Reads::All => true,
                Reads::Tokens(read) => read.get(place).copied().unwrap_or(true),
            };
        }
        return match tokens.iter().all(|read| *read) {
            true => Reads::All,
            false => Reads::Tokens(tokens),
        };
    }
    let Reads::Tokens(tokens) = read else {
        return Reads::All;
    };
    let Some((own, _)) = places.get(output).and_then(Places::tokens) else {
        return Reads::All;
    };
    let rank = emit.shape(output).map_or(0, |shape| shape.len());
    let is_alone = match node.op_type.as_str() {
        "MatMul" => index == 0,
        "Softmax" | "LogSoftmax" | "LayerNormalization" => {
            let last = axis_of(node.int_or("axis", -1), rank) == rank.checked_sub(1);
            index == 0 && last && own + 1 < rank
        }
        "Transpose" | "Cast" => true,
        "Concat" => {
            let joint = axis_of(node.int_or("axis", 0), rank);
            let Some(joint) = joint.filter(|_| index <= PARTS) else {
                return Reads::All;
            };
            if joint == own {
                let size = |input: &String| emit.size(input, joint).ok();
                let before = node.inputs[..index].iter().map(size).sum::<Option<usize>>();
                let part = before.and_then(|before| tokens.get(before..before + all));
                return part.map_or(Reads::All, |part| Reads::Tokens(part.to_vec()));
            }
            true
        }
        _ => ops::of(node)
            .is_some_and(|op| matches!(op.elements, Elements::PerPixel | Elements::Same)),
    };
    match is_alone && tokens.len() == all {
        true => read.clone(),
        false => Reads::All,
    }
}
