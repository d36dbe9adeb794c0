//! Normalisations in their inference form.

use super::convolution::channel_sums;
use crate::autodiff::{
    DeriveError,
    context::{Cotangents, VjpContext},
    emit::Emitter,
    expr::Expr,
};
use crate::onnx::graph::{Dim, ValueType};

/// y = scale x̂ + b, x̂ = r (x - mean), r = 1 / √(var + ε), with constant mean and var: dx = dy
/// scale r; dscale = Σ dy x̂; db = Σ dy.
pub(crate) fn batch_normalization(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let (dy, x, scale) = (ctx.cotangent()?, ctx.input(0)?, ctx.input(1)?);
    if ctx.node.int_or("training_mode", 0) != 0 {
        return Err(ctx.refusal("it is in training mode: export the model for inference"));
    }
    let constant = |found: Result<Option<Vec<f32>>, DeriveError>| found.ok().flatten();
    let (Some(mean), Some(variance)) =
        (constant(ctx.constant_f32(3)), constant(ctx.constant_f32(4)))
    else {
        return Err(ctx.refusal("its statistics are not constant"));
    };
    let epsilon = ctx.node.float_or("epsilon", 1e-5);
    let by_deviation = |numerators: &[f32]| -> Vec<f32> {
        let pairs = numerators.iter().zip(&variance);
        pairs.map(|(n, v)| n / (v + epsilon).sqrt()).collect()
    };
    let inverse = by_deviation(&vec![1.0; variance.len()]);
    let rank = ctx.emit.shape(&x)?.len();
    let dy = Expr::value(dy);
    let dx = match constant(ctx.constant_f32(1)) {
        _ if !ctx.is_active(0) => None,
        Some(scale) => {
            let factors = per_channel(ctx.emit, &by_deviation(&scale), rank, &x)?;
            Some((&dy * factors).emit(ctx.emit)?)
        }
        None => {
            let inverse = per_channel(ctx.emit, &inverse, rank, &x)?;
            let scale = along_channels(ctx.emit, &scale, rank)?;
            Some((&dy * (scale * inverse)).emit(ctx.emit)?)
        }
    };
    let dscale = if ctx.is_active(1) {
        let mean = per_channel(ctx.emit, &mean, rank, &x)?;
        let inverse = per_channel(ctx.emit, &inverse, rank, &x)?;
        let product = (&dy * ((Expr::value(&x) - mean) * inverse)).emit(ctx.emit)?;
        Some(channel_sums(ctx.emit, &product, 1)?)
    } else {
        None
    };
    let dbias = if ctx.is_active(2) {
        Some(channel_sums(ctx.emit, &ctx.cotangent()?, 1)?)
    } else {
        None
    };
    Ok(Cotangents(vec![dx, dscale, dbias]))
}

/// A constant that varies along axis 1 of values of `rank`.
fn per_channel(
    emit: &mut Emitter,
    values: &[f32],
    rank: usize,
    like: &str,
) -> Result<Expr, DeriveError> {
    let mut shape = vec![1; rank.max(2)];
    shape[1] = values.len();
    emit.floats(&shape, values, like).map(Expr::value)
}

/// A value `[channels]` reshaped to broadcast with values of `rank`.
fn along_channels(emit: &mut Emitter, value: &str, rank: usize) -> Result<Expr, DeriveError> {
    let mut shape = vec![Dim::Known(1); rank.max(2)];
    shape[1] = emit.shape(value)?[0].clone();
    emit.reshape(value, &shape).map(Expr::value)
}

/// y = x s^-β, s = k + α/n Σ x² over a window of channels: dx = dy s^-β - 2αβ/n x Σᵀ(dy y / s). The
/// window is a 1x1 Conv.
pub(crate) fn lrn(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let (dy, x, y) = (ctx.cotangent()?, ctx.input(0)?, ctx.output());
    let size = ctx.node.int_or("size", 1).max(1) as usize;
    let (alpha, beta) = (
        ctx.node.float_or("alpha", 1e-4),
        ctx.node.float_or("beta", 0.75),
    );
    let bias = ctx.node.float_or("bias", 1.0);
    let x_type = ctx.emit.value_type(&x)?;
    let channels = ctx.emit.sizes(&x, 1)?[0];
    let (before, after) = ((size - 1) / 2, size / 2);
    ctx.fits_constant(&[channels, channels])?;
    let emit = &mut *ctx.emit;
    let [dy, x, y] = [dy, x, y].map(Expr::value);
    let sum = channel_band(emit, &x.square(), channels, (before, after), x_type.clone())?;
    let s = Expr::value((sum * (alpha / size as f32) + bias).emit(emit)?);
    let quotient = (&dy * y) / &s;
    let band = channel_band(emit, &quotient, channels, (after, before), x_type)?;
    let cross = (band * x) * (2.0 * alpha * beta / size as f32);
    ctx.emit_active([dy * s.pow(-beta) - cross])
}

/// Sum over the channels from `before` below to `after` above.
fn channel_band(
    emit: &mut Emitter,
    x: &Expr,
    channels: usize,
    (before, after): (usize, usize),
    output: ValueType,
) -> Result<Expr, DeriveError> {
    let x = x.emit(emit)?;
    let inside = |to: usize, from: usize| {
        from.saturating_add(before) >= to && from <= to.saturating_add(after)
    };
    let weight: Vec<f32> = (0..channels * channels)
        .map(|i| f32::from(inside(i / channels, i % channels)))
        .collect();
    let mut shape = vec![1; output.shape.len()];
    (shape[0], shape[1]) = (channels, channels);
    let weight = emit.floats(&shape, &weight, &x)?;
    let band = emit.node("Conv", &[&x, &weight], Default::default(), output);
    Ok(Expr::value(band))
}

pub(crate) fn layer_normalization(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let rank = ctx.emit.shape(&ctx.input(0)?)?.len();
    let first = ctx.axis(ctx.node.int_or("axis", -1), rank)?;
    let scale = Expr::value(ctx.input(1)?);
    let [dx, dscale] = standardised(ctx, &scale, (first..rank).collect())?;
    let dbias = Expr::value(ctx.cotangent()?);
    ctx.emit_active([dx, dscale, dbias])
}

pub(crate) fn instance_normalization(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let (x, scale) = (ctx.input(0)?, ctx.input(1)?);
    let rank = ctx.emit.shape(&x)?.len();
    let scale = match ctx.constant_f32(1) {
        Ok(Some(scale)) => per_channel(ctx.emit, &scale, rank, &x)?,
        _ => along_channels(ctx.emit, &scale, rank)?,
    };
    let [dx, dscale] = standardised(ctx, &scale, (2..rank).collect())?;
    let dbias = Expr::value(ctx.cotangent()?);
    let Cotangents(mut found) = ctx.emit_active([dx, dscale, dbias])?;
    for cotangent in found.iter_mut().skip(1).flatten() {
        *cotangent = channel_sums(ctx.emit, cotangent, 1)?;
    }
    Ok(Cotangents(found))
}

/// y = scale x̂ + b, x̂ = r (x - mean), r = 1/√(var + ε): dx = r (g - mean(g) - x̂ mean(g x̂)) with
/// g = dy scale; dscale = dy x̂, in the shape of x.
fn standardised(
    ctx: &VjpContext,
    scale: &Expr,
    axes: Vec<usize>,
) -> Result<[Expr; 2], DeriveError> {
    let [dy, x] = [ctx.cotangent()?, ctx.input(0)?].map(Expr::value);
    let centred = &x - x.mean(&axes);
    let variance = centred.square().mean(&axes);
    let deviation = (variance + ctx.node.float_or("epsilon", 1e-5)).sqrt();
    let standard = centred / &deviation;
    let g = &dy * scale;
    let along = &standard * (&g * &standard).mean(&axes);
    let dx = ((&g - g.mean(&axes)) - along) / deviation;
    Ok([dx, dy * standard])
}
