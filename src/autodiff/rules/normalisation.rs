//! Normalisations in their inference form.

use crate::autodiff::{
    DeriveError,
    context::{Cotangents, VjpContext},
    emit::{Emitter, attributes},
};
use crate::onnx::graph::{Attribute, Dim, ValueType};

/// Affine per channel: dx = dy scale / √(var + ε).
pub fn batch_normalization(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let (dy, x) = (ctx.cotangent()?, ctx.input(0)?);
    if ctx.node.int_or("training_mode", 0) != 0 {
        return Err(ctx.refusal("it is in training mode: export the model for inference"));
    }
    let (Some(scale), Some(variance)) = (ctx.constant_f32(1)?, ctx.constant_f32(4)?) else {
        return Err(ctx.refusal("its statistics are not constant"));
    };
    let epsilon = ctx.node.float_or("epsilon", 1e-5);
    let factors: Vec<f32> = scale.iter().zip(&variance).map(|(s, v)| s / (v + epsilon).sqrt()).collect();
    let rank = ctx.emit.shape(&x)?.len();
    let factors = per_channel(ctx.emit, &factors, rank, &x)?;
    Ok(Cotangents::first(ctx.emit.mul(&dy, &factors)?))
}

/// A constant that varies along axis 1 of values of `rank`.
fn per_channel(emit: &mut Emitter, values: &[f32], rank: usize, like: &str) -> Result<String, DeriveError> {
    let mut shape = vec![1; rank.max(2)];
    shape[1] = values.len();
    emit.floats(&shape, values, like)
}

/// y = x s^-β, s = k + α/n Σ x² over a window of channels: dx = dy s^-β - 2αβ/n x Σᵀ(dy y / s). The window is a 1x1 Conv.
pub fn lrn(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let (dy, x, y) = (ctx.cotangent()?, ctx.input(0)?, ctx.output());
    let size = ctx.node.int_or("size", 1).max(1) as usize;
    let (alpha, beta) = (ctx.node.float_or("alpha", 1e-4), ctx.node.float_or("beta", 0.75));
    let bias = ctx.node.float_or("bias", 1.0);
    let x_type = ctx.emit.value_type(&x)?;
    let channels = ctx.emit.sizes(&x, 1)?[0];
    let (before, after) = ((size - 1) / 2, size / 2);
    ctx.fits_constant(&[channels, channels])?;
    let emit = &mut *ctx.emit;
    let square = emit.mul(&x, &x)?;
    let sum = channel_band(emit, &square, channels, (before, after), x_type.clone())?;
    let scaled = emit.scale(&sum, alpha / size as f32)?;
    let bias = emit.scalar(bias, &x)?;
    let s = emit.add(&scaled, &bias)?;
    let exponent = emit.scalar(-beta, &x)?;
    let power = emit.binary("Pow", &s, &exponent)?;
    let direct = emit.mul(&dy, &power)?;
    let product = emit.mul(&dy, &y)?;
    let quotient = emit.binary("Div", &product, &s)?;
    let band = channel_band(emit, &quotient, channels, (after, before), x_type)?;
    let band = emit.mul(&band, &x)?;
    let cross = emit.scale(&band, 2.0 * alpha * beta / size as f32)?;
    Ok(Cotangents::first(emit.binary("Sub", &direct, &cross)?))
}

/// Sum over the channels from `before` below to `after` above.
fn channel_band(
    emit: &mut Emitter,
    x: &str,
    channels: usize,
    (before, after): (usize, usize),
    output: ValueType,
) -> Result<String, DeriveError> {
    let inside = |to: usize, from: usize| from.saturating_add(before) >= to && from <= to.saturating_add(after);
    let weight: Vec<f32> = (0..channels * channels).map(|i| f32::from(inside(i / channels, i % channels))).collect();
    let mut shape = vec![1; output.shape.len()];
    (shape[0], shape[1]) = (channels, channels);
    let weight = emit.floats(&shape, &weight, x)?;
    Ok(emit.node("Conv", &[x, &weight], Default::default(), output))
}

pub fn layer_normalization(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let (x, scale) = (ctx.input(0)?, ctx.input(1)?);
    let rank = ctx.emit.shape(&x)?.len();
    let first = ctx.axis(ctx.node.int_or("axis", -1), rank)?;
    standardised(ctx, &x, &scale, (first..rank).collect())
}

pub fn instance_normalization(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let x = ctx.input(0)?;
    let rank = ctx.emit.shape(&x)?.len();
    let Some(scale) = ctx.constant_f32(1)? else { return Err(ctx.refusal("its scale is not constant")) };
    let scale = per_channel(ctx.emit, &scale, rank, &x)?;
    standardised(ctx, &x, &scale, (2..rank).collect())
}

/// y = scale x̂ + b, x̂ = r (x - mean), r = 1/√(var + ε): dx = r (g - mean(g) - x̂ mean(g x̂)) with g = dy scale.
fn standardised(ctx: &mut VjpContext, x: &str, scale: &str, axes: Vec<usize>) -> Result<Cotangents, DeriveError> {
    if ctx.is_active(1) || ctx.is_active(2) {
        return Err(ctx.refusal("its scale or bias varies with the input"));
    }
    let (dy, epsilon) = (ctx.cotangent()?, ctx.node.float_or("epsilon", 1e-5));
    let emit = &mut *ctx.emit;
    let centre = mean(emit, x, &axes)?;
    let centred = emit.binary("Sub", x, &centre)?;
    let square = emit.mul(&centred, &centred)?;
    let variance = mean(emit, &square, &axes)?;
    let epsilon = emit.scalar(epsilon, x)?;
    let variance = emit.add(&variance, &epsilon)?;
    let deviation = emit.unary("Sqrt", &variance)?;
    let standard = emit.binary("Div", &centred, &deviation)?;
    let g = emit.mul(&dy, scale)?;
    let g_mean = mean(emit, &g, &axes)?;
    let g_standard = emit.mul(&g, &standard)?;
    let slope = mean(emit, &g_standard, &axes)?;
    let along = emit.mul(&standard, &slope)?;
    let rest = emit.binary("Sub", &g, &g_mean)?;
    let rest = emit.binary("Sub", &rest, &along)?;
    Ok(Cotangents::first(emit.binary("Div", &rest, &deviation)?))
}

fn mean(emit: &mut Emitter, x: &str, axes: &[usize]) -> Result<String, DeriveError> {
    let mut output = emit.value_type(x)?;
    axes.iter().for_each(|&axis| output.shape[axis] = Dim::Known(1));
    let axes = emit.i64s(&axes.iter().map(|&axis| axis as i64).collect::<Vec<_>>());
    Ok(emit.node("ReduceMean", &[x, &axes], attributes([("keepdims", Attribute::Int(1))]), output))
}
