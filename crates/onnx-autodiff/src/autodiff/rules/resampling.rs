//! Ops that move elements between grids: DepthToSpace, SpaceToDepth, Tile and Col2Im.

use super::window::Window;
use crate::autodiff::{
    DeriveError,
    context::{Cotangents, VjpContext},
    emit::attributes,
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

/// The copies are summed. How many there are follows from the shapes.
pub(crate) fn tile(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let (dy, x, y) = (ctx.cotangent()?, ctx.input(0)?, ctx.output());
    let (from, to) = (ctx.emit.shape(&x)?, ctx.emit.shape(&y)?);
    let (mut split, mut copies) = (Vec::new(), Vec::new());
    for (from, to) in from.iter().zip(&to) {
        if from != to {
            copies.push(split.len());
            split.push(match (from, to) {
                (Dim::Known(from), Dim::Known(to)) => Dim::Known(to / (*from).max(1)),
                (Dim::Known(1), to) => to.clone(),
                _ => return Err(ctx.refusal("how often it repeats is not known")),
            });
        }
        split.push(from.clone());
    }
    let apart = ctx.emit.reshape(&dy, &split)?;
    let sum = ctx.emit.reduce_sum(&apart, &copies)?;
    Ok(Cotangents::first(ctx.emit.reshape(&sum, &from)?))
}

/// Col2Im adds blocks into an image; they are read from it by a Conv of each channel by itself,
/// with a kernel for each place in a block.
pub(crate) fn col_2_im(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let (dy, x) = (ctx.cotangent()?, ctx.input(0)?);
    let block = ctx.constant_i64(2)?.unwrap_or_default();
    let block: Vec<usize> = block.iter().map(|&size| size.max(0) as usize).collect();
    let (x_type, image) = (ctx.emit.value_type(&x)?, ctx.emit.sizes(&dy, 1)?);
    let window = Window::of(ctx, block, &image[1..])?;
    let places: usize = window.kernel.iter().product();
    let kernels = image[0] * places;
    let mut shape = vec![kernels, 1];
    shape.extend(&window.kernel);
    ctx.fits_constant(&shape)?;
    let is_place = |tap: usize| (tap / places) % places == tap % places;
    let taps: Vec<f32> = (0..kernels * places)
        .map(|tap| f32::from(is_place(tap)))
        .collect();
    let weight = ctx.emit.floats(&shape, &taps, &dy)?;
    let mut output = vec![x_type.shape[0].clone(), Dim::Known(kernels)];
    output.extend(image[1..].iter().enumerate().map(|(axis, &size)| {
        let room = size + window.begin[axis] + window.end[axis];
        Dim::Known(room.saturating_sub(window.extent(axis)) / window.strides[axis] + 1)
    }));
    let mut attributes = window.attributes();
    attributes.insert("group".into(), (image[0] as i64).into());
    let output = ValueType::new(x_type.element, output);
    let blocks = ctx.emit.node("Conv", &[&dy, &weight], attributes, output);
    Ok(Cotangents::first(ctx.emit.reshape(&blocks, &x_type.shape)?))
}
