//! Ops that move elements: the cotangent moves back. Elements that were not read get zero, elements
//! read several times the sum.

use std::collections::HashMap;

use super::indexing;
use crate::autodiff::{
    DeriveError,
    context::{Cotangents, VjpContext},
    emit::{Emitter, attributes},
};
use crate::onnx::graph::{Dim, Literal};

/// Elements read more often than this by one Pad are refused: the graph would grow with the count.
const MAX_READS: usize = 16;

pub(crate) fn same_elements(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let (dy, x) = (ctx.cotangent()?, ctx.input(0)?);
    let shape = ctx.emit.shape(&x)?;
    Ok(Cotangents::first(ctx.emit.reshape(&dy, &shape)?))
}

pub(crate) fn transpose(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let dy = ctx.cotangent()?;
    let rank = ctx.emit.shape(&dy)?.len();
    let perm: Vec<i64> = ctx
        .node
        .ints("perm")
        .map_or_else(|| (0..rank as i64).rev().collect(), <[i64]>::to_vec);
    let mut back = vec![0; rank];
    for (to, &from) in perm.iter().enumerate() {
        back[ctx.axis(from, rank)?] = to;
    }
    Ok(Cotangents::first(ctx.emit.transpose(&dy, &back)?))
}

pub(crate) fn concat(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let dy = ctx.cotangent()?;
    let axis = ctx.axis(ctx.node.int_or("axis", 0), ctx.emit.shape(&dy)?.len())?;
    let mut start = 0;
    let mut cotangents = Vec::new();
    for (index, input) in ctx.node.inputs.iter().enumerate() {
        let end = start + ctx.emit.size(input, axis)?;
        cotangents.push(if ctx.is_active(index) {
            Some(ctx.emit.slice(&dy, &[(axis, start, end)])?)
        } else {
            None
        });
        start = end;
    }
    Ok(Cotangents(cotangents))
}

/// Parts without a cotangent are zeros: the others are padded and added.
pub(crate) fn split(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let x = ctx.input(0)?;
    let rank = ctx.emit.shape(&x)?.len();
    let axis = ctx.axis(ctx.node.int_or("axis", 0), rank)?;
    if let Some(parts) = ctx
        .cotangents
        .iter()
        .map(Option::as_deref)
        .collect::<Option<Vec<_>>>()
    {
        return Ok(Cotangents::first(ctx.emit.concat(&parts, axis)?));
    }
    let (total, mut start) = (ctx.emit.size(&x, axis)?, 0);
    let mut sum: Option<String> = None;
    for (output, cotangent) in ctx.node.outputs.iter().zip(ctx.cotangents) {
        let size = ctx.emit.size(output, axis)?;
        if let Some(part) = cotangent {
            let mut amounts = vec![(0, 0); rank];
            amounts[axis] = (start, total - start - size);
            let padded = ctx.emit.pad(part, &amounts)?;
            sum = Some(if let Some(sum) = sum {
                ctx.emit.add(&sum, &padded)?
            } else {
                padded
            });
        }
        start += size;
    }
    Ok(Cotangents(vec![sum]))
}

/// With steps of 1, dy is padded with zeros; otherwise its elements are placed by index.
pub(crate) fn slice(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let (mut dx, x) = (ctx.cotangent()?, ctx.input(0)?);
    let (from, to) = (ctx.emit.shape(&x)?, ctx.emit.shape(&dx)?);
    let rank = from.len();
    let starts = ctx.constant_i64(1)?.unwrap_or_default();
    let axes = ctx
        .constant_i64(3)?
        .unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = ctx
        .constant_i64(4)?
        .unwrap_or_else(|| vec![1; starts.len()]);
    if starts.is_empty() {
        return Err(ctx.refusal("it has no constant starts"));
    }
    let mut amounts = vec![(0, 0); rank];
    for ((&start, &axis), &step) in starts.iter().zip(&axes).zip(&steps) {
        let axis = ctx.axis(axis, rank)?;
        if step == 1 && from[axis] == to[axis] {
            continue;
        }
        let (Some(size), Some(count)) = (from[axis].known(), to[axis].known()) else {
            return Err(ctx.refusal("it cuts the batch"));
        };
        let size = size as i64;
        let start = if start < 0 { start + size } else { start };
        let start = if step > 0 {
            start.clamp(0, size)
        } else {
            start.clamp(0, (size - 1).max(0))
        };
        if step == 1 {
            amounts[axis] = (start as usize, size as usize - start as usize - count);
        } else {
            dx = scatter(ctx, &dx, axis, size as usize, count, |i| {
                (start + i as i64 * step) as usize
            })?;
        }
    }
    Ok(Cotangents::first(ctx.emit.pad(&dx, &amounts)?))
}

/// Constant indices place the rows of dy, so that nothing is written twice; others, and those that
/// read a row often, add them up.
pub(crate) fn gather(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let (dy, x, reads) = (ctx.cotangent()?, ctx.input(0)?, ctx.input(1)?);
    let mut shape = ctx.emit.shape(&x)?;
    let axis = ctx.axis(ctx.node.int_or("axis", 0), shape.len())?;
    let (Some(size), Ok(Some(indices))) = (shape[axis].known(), ctx.constant_i64(1)) else {
        return indexing::add_rows(ctx, &reads, axis);
    };
    let wrap = |index: i64| if index < 0 { index.saturating_add(size as i64) } else { index } as usize;
    let indices: Vec<usize> = indices.into_iter().map(wrap).collect();
    let mut counts = HashMap::new();
    indices
        .iter()
        .for_each(|index| *counts.entry(index).or_insert(0) += 1);
    if counts.into_values().any(|count| count > MAX_READS) {
        return indexing::add_rows(ctx, &reads, axis);
    }
    shape[axis] = Dim::Known(indices.len());
    let dy = ctx.emit.reshape(&dy, &shape)?;
    let count = indices.len();
    let dx = scatter(ctx, &dy, axis, size, count, |i| indices[i])?;
    Ok(Cotangents::first(dx))
}

/// Mode `constant` drops the cotangent of the border (zeros where negative pads cut); `reflect` and
/// `edge` add it to the elements that the border repeats.
pub(crate) fn pad(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let (mut dx, x) = (ctx.cotangent()?, ctx.input(0)?);
    let rank = ctx.emit.shape(&x)?.len();
    let pads = ctx.constant_i64(1)?.unwrap_or_default();
    let axes = ctx
        .constant_i64(3)?
        .unwrap_or_else(|| (0..rank as i64).collect());
    let mode = ctx.node.string("mode").unwrap_or("constant");
    if pads.len() != 2 * axes.len() {
        return Err(ctx.refusal(format!("{} pads for {} axes", pads.len(), axes.len())));
    }
    if ctx.is_active(2) {
        return Err(ctx.refusal("its padding value varies with the input"));
    }
    let (mut kept, mut restored) = (Vec::new(), vec![(0, 0); rank]);
    for (index, &axis) in axes.iter().enumerate() {
        let axis = ctx.axis(axis, rank)?;
        let (before, after) = (pads[index], pads[index + axes.len()]);
        if (before, after) == (0, 0) {
            continue;
        }
        let Ok(size) = ctx.emit.size(&x, axis).map(|size| size as i64) else {
            return Err(ctx.refusal("it pads the batch"));
        };
        let total = before + size + after;
        match mode {
            "constant" => {
                kept.push((
                    axis,
                    before.max(0) as usize,
                    (total - after.max(0)) as usize,
                ));
                restored[axis] = ((-before).max(0) as usize, (-after).max(0) as usize);
            }
            "edge" if size > 0 => {
                let read = |i: usize| (i as i64 - before).clamp(0, size - 1) as usize;
                dx = scatter(ctx, &dx, axis, size as usize, total as usize, read)?;
            }
            "reflect" if size > 1 => {
                let period = 2 * (size - 1);
                let folded = |i: i64| (i - before).rem_euclid(period);
                let read = |i: usize| folded(i as i64).min(period - folded(i as i64)) as usize;
                dx = scatter(ctx, &dx, axis, size as usize, total as usize, read)?;
            }
            _ => return Err(ctx.refusal(format!("pad mode {mode:?} over {size} elements"))),
        }
    }
    let dx = ctx.emit.slice(&dx, &kept)?;
    Ok(Cotangents::first(ctx.emit.pad(&dx, &restored)?))
}

/// The transpose of `count` reads of an axis of `size`: position `read(j)` receives `dy[j]`, summed
/// over equal reads.
fn scatter(
    ctx: &mut VjpContext,
    dy: &str,
    axis: usize,
    size: usize,
    count: usize,
    read: impl Fn(usize) -> usize,
) -> Result<String, DeriveError> {
    ctx.fits_constant(&[size.max(count)])?;
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); size];
    for (from, to) in (0..count).map(|from| (from, read(from))) {
        readers
            .get_mut(to)
            .ok_or_else(|| ctx.refusal(format!("index {to} is outside {size}")))?
            .push(from);
    }
    let rounds = readers.iter().map(Vec::len).max().unwrap_or(0);
    if rounds > MAX_READS {
        return Err(ctx.refusal(format!(
            "an element is read {rounds} times, at most {MAX_READS} are derived"
        )));
    }
    let mut sum: Option<String> = None;
    for round in 0..rounds.max(1) {
        let part: Vec<Option<usize>> = readers
            .iter()
            .map(|readers| readers.get(round).copied())
            .collect();
        let part = place(ctx.emit, dy, axis, &part)?;
        sum = Some(if let Some(sum) = sum {
            ctx.emit.add(&sum, &part)?
        } else {
            part
        });
    }
    sum.ok_or_else(|| ctx.refusal("it reads nothing"))
}

/// Position i of the result holds `dy[sources[i]]`, or zero: a Gather from dy with one zero behind
/// it.
fn place(
    emit: &mut Emitter,
    dy: &str,
    axis: usize,
    sources: &[Option<usize>],
) -> Result<String, DeriveError> {
    let mut output = emit.value_type(dy)?;
    let count = emit.size(dy, axis)?;
    let mut amounts = vec![(0, 0); output.shape.len()];
    amounts[axis] = (0, usize::from(sources.contains(&None)));
    let padded = emit.pad(dy, &amounts)?;
    let indices: Vec<i64> = sources
        .iter()
        .map(|source| source.unwrap_or(count) as i64)
        .collect();
    output.shape[axis] = Dim::Known(sources.len());
    let indices = emit.constant(Literal::vector_i64(&indices));
    Ok(emit.node(
        "Gather",
        &[&padded, &indices],
        attributes([("axis", (axis as i64).into())]),
        output,
    ))
}
