//! Ops that change the grid: DepthToSpace, SpaceToDepth, Tile, and Resize by whole factors.

use crate::autodiff::{
    DeriveError,
    context::{Cotangents, VjpContext},
    emit::{attributes, ints},
};
use crate::onnx::graph::{Dim, ValueType};

pub(crate) fn depth_to_space(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let (dy, x) = (ctx.cotangent()?, ctx.input(0)?);
    let block = ctx.node.int_or("blocksize", 1);
    let output = ctx.emit.value_type(&x)?;
    if ctx.node.string("mode") != Some("CRD") {
        return Ok(Cotangents::first(ctx.emit.node(
            "SpaceToDepth",
            &[&dy],
            attributes([("blocksize", block.into())]),
            output,
        )));
    }
    let (sizes, block) = (ctx.emit.sizes(&x, 1)?, block as usize);
    let split = [sizes[0] / (block * block), sizes[1], block, sizes[2], block].map(Dim::Known);
    let split: Vec<Dim> = [output.shape[0].clone()].into_iter().chain(split).collect();
    let apart = ctx.emit.reshape(&dy, &split)?;
    let turned = ctx.emit.transpose(&apart, &[0, 1, 3, 5, 2, 4])?;
    Ok(Cotangents::first(ctx.emit.reshape(&turned, &output.shape)?))
}

pub(crate) fn space_to_depth(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let (dy, x) = (ctx.cotangent()?, ctx.input(0)?);
    let block = attributes([("blocksize", ctx.node.int_or("blocksize", 1).into())]);
    let output = ctx.emit.value_type(&x)?;
    Ok(Cotangents::first(ctx.emit.node(
        "DepthToSpace",
        &[&dy],
        block,
        output,
    )))
}

/// The copies are summed.
pub(crate) fn tile(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let (dy, x) = (ctx.cotangent()?, ctx.input(0)?);
    let shape = ctx.emit.shape(&x)?;
    let repeats = ctx.constant_i64(1)?.unwrap_or_default();
    let (mut split, mut copies) = (Vec::new(), Vec::new());
    for (dim, repeats) in shape.iter().zip(repeats) {
        if repeats != 1 {
            copies.push(split.len());
            split.push(Dim::Known(usize::try_from(repeats).unwrap_or(0)));
        }
        split.push(dim.clone());
    }
    let apart = ctx.emit.reshape(&dy, &split)?;
    let sum = ctx.emit.reduce_sum(&apart, &copies)?;
    Ok(Cotangents::first(ctx.emit.reshape(&sum, &shape)?))
}

/// Nearest neighbour by integer factors: the copies of a pixel form a window, which is summed by
/// AveragePool times its size.
pub(crate) fn resize(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let (dy, x, y) = (ctx.cotangent()?, ctx.input(0)?, ctx.output());
    let (from, to) = (ctx.emit.sizes(&x, 1)?, ctx.emit.sizes(&y, 1)?);
    let placed = ctx
        .node
        .string("coordinate_transformation_mode")
        .unwrap_or("half_pixel");
    let rounded = ctx
        .node
        .string("nearest_mode")
        .unwrap_or("round_prefer_floor");
    let copies = matches!(
        (placed, rounded),
        ("asymmetric", "floor") | ("half_pixel", "round_prefer_floor" | "round_prefer_ceil")
    );
    let whole = from[0] == to[0]
        && from
            .iter()
            .zip(&to)
            .all(|(from, to)| to.is_multiple_of(*from));
    if ctx.node.string("mode").unwrap_or("nearest") != "nearest" || !copies || !whole {
        return Err(ctx.refusal("only nearest neighbour by whole factors is derived"));
    }
    let factors: Vec<usize> = from
        .iter()
        .zip(&to)
        .skip(1)
        .map(|(from, to)| to / from)
        .collect();
    let output = ValueType {
        ..ctx.emit.value_type(&x)?
    };
    let window = attributes([
        ("kernel_shape", ints(factors.clone())),
        ("strides", ints(factors.clone())),
    ]);
    let mean = ctx.emit.node("AveragePool", &[&dy], window, output);
    Ok(Cotangents::first(
        ctx.emit
            .scale(&mean, factors.iter().product::<usize>() as f32)?,
    ))
}
