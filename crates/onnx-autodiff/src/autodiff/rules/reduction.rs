//! Reductions over constant axes. The cotangent is unsqueezed and broadcast over the reduced axes.
//! Kink: the cotangent of ReduceMax goes to the first maximum.

use crate::autodiff::{
    DeriveError,
    context::{Cotangents, VjpContext},
    emit::attributes,
};
use crate::onnx::graph::{Dim, Element, ValueType};

pub(crate) fn reduce_sum(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    spread(ctx, false)
}

pub(crate) fn reduce_mean(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    spread(ctx, true)
}

fn spread(ctx: &mut VjpContext, mean: bool) -> Result<Cotangents, DeriveError> {
    let x = ctx.input(0)?;
    let shape = ctx.emit.shape(&x)?;
    let axes = axes(ctx, shape.len())?;
    let count: usize = reduced_sizes(ctx, &shape, &axes)?.iter().product();
    let dy = keep_dims(ctx, &shape, &axes)?;
    let dy = ctx
        .emit
        .scale(&dy, if mean { 1.0 / count as f32 } else { 1.0 })?;
    Ok(Cotangents::first(ctx.emit.expand(&dy, &shape)?))
}

/// The reduced axes are brought together at the end, where the first maximum is one-hot.
pub(crate) fn reduce_max(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let x = ctx.input(0)?;
    let x_type = ctx.emit.value_type(&x)?;
    let axes = axes(ctx, x_type.shape.len())?;
    let count: usize = reduced_sizes(ctx, &x_type.shape, &axes)?.iter().product();
    let dy = keep_dims(ctx, &x_type.shape, &axes)?;
    let mut perm: Vec<usize> = (0..x_type.shape.len())
        .filter(|axis| !axes.contains(axis))
        .collect();
    let kept: Vec<Dim> = perm
        .iter()
        .map(|&axis| x_type.shape[axis].clone())
        .collect();
    perm.extend(&axes);
    let permuted: Vec<Dim> = perm
        .iter()
        .map(|&axis| x_type.shape[axis].clone())
        .collect();
    let flat: Vec<Dim> = kept.iter().cloned().chain([Dim::Known(count)]).collect();
    let together = ctx.emit.transpose(&x, &perm)?;
    let together = ctx.emit.reshape(&together, &flat)?;
    let hot = first_maximum(ctx, &together)?;
    let hot = ctx.emit.reshape(&hot, &permuted)?;
    let mut back = vec![0; perm.len()];
    perm.iter()
        .enumerate()
        .for_each(|(to, &from)| back[from] = to);
    let hot = ctx.emit.transpose(&hot, &back)?;
    Ok(Cotangents::first(ctx.emit.mul(&dy, &hot)?))
}

/// Ones at the first maximum along the last axis of `x`, zeros elsewhere.
pub(crate) fn first_maximum(ctx: &mut VjpContext, x: &str) -> Result<String, DeriveError> {
    let x_type = ctx.emit.value_type(x)?;
    let rank = x_type.shape.len();
    let depth = ctx.emit.sizes(x, rank - 1)?[0];
    let index_type = ValueType::new(Element::Int64, x_type.shape[..rank - 1].to_vec());
    let along = attributes([("axis", (rank as i64 - 1).into()), ("keepdims", 0.into())]);
    let index = ctx.emit.node("ArgMax", &[x], along, index_type);
    let depth = ctx.emit.i64s(&[depth as i64]);
    let values = ctx.emit.floats(&[2], &[0.0, 1.0], x)?;
    Ok(ctx.emit.node(
        "OneHot",
        &[&index, &depth, &values],
        attributes([("axis", (-1).into())]),
        x_type,
    ))
}

/// The reduced axes, from input 1 (or the attribute, where opset 18 has not moved it), ascending.
/// None given means all.
fn axes(ctx: &VjpContext, rank: usize) -> Result<Vec<usize>, DeriveError> {
    let given = match ctx.constant_i64(1)? {
        Some(axes) => axes,
        None => ctx.node.ints("axes").unwrap_or_default().to_vec(),
    };
    if given.is_empty() && ctx.node.int_or("noop_with_empty_axes", 0) == 0 {
        return Ok((0..rank).collect());
    }
    let mut axes = given
        .iter()
        .map(|&axis| ctx.axis(axis, rank))
        .collect::<Result<Vec<_>, _>>()?;
    axes.sort_unstable();
    Ok(axes)
}

fn reduced_sizes(
    ctx: &VjpContext,
    shape: &[Dim],
    axes: &[usize],
) -> Result<Vec<usize>, DeriveError> {
    let sizes = axes.iter().map(|&axis| shape[axis].known());
    sizes
        .collect::<Option<_>>()
        .ok_or_else(|| ctx.refusal("it reduces over the batch"))
}

/// The cotangent with ones where axes were reduced away.
fn keep_dims(ctx: &mut VjpContext, shape: &[Dim], axes: &[usize]) -> Result<String, DeriveError> {
    let dy = ctx.cotangent()?;
    let mut kept = shape.to_vec();
    axes.iter().for_each(|&axis| kept[axis] = Dim::Known(1));
    ctx.emit.reshape(&dy, &kept)
}
