//! Normalisations in their inference form.

use super::convolution::channel_sums;
use crate::autodiff::{
    DeriveError,
    context::{Cotangents, VjpContext},
    emit::{Emitter, attributes},
};
use crate::onnx::graph::{Attribute, Dim, ValueType};

/// y = scale x̂ + b, x̂ = r (x - mean), r = 1 / √(var + ε), with constant mean and var: dx = dy
/// scale r; dscale = Σ dy x̂; db = Σ dy.
pub fn batch_normalization(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
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
    let inverse: Vec<f32> = variance
        .iter()
        .map(|v| 1.0 / (v + epsilon).sqrt())
        .collect();
    let rank = ctx.emit.shape(&x)?.len();
    let dx = match constant(ctx.constant_f32(1)) {
        _ if !ctx.is_active(0) => None,
        Some(scale) => {
            let factors: Vec<f32> = scale
                .iter()
                .zip(&variance)
                .map(|(s, v)| s / (v + epsilon).sqrt())
                .collect();
            let factors = per_channel(ctx.emit, &factors, rank, &x)?;
            Some(ctx.emit.mul(&dy, &factors)?)
        }
        None => {
            let inverse = per_channel(ctx.emit, &inverse, rank, &x)?;
            let scale = along_channels(ctx.emit, &scale, rank)?;
            let factors = ctx.emit.mul(&scale, &inverse)?;
            Some(ctx.emit.mul(&dy, &factors)?)
        }
    };
    let dscale = if ctx.is_active(1) {
        let (mean, inverse) = (
            per_channel(ctx.emit, &mean, rank, &x)?,
            per_channel(ctx.emit, &inverse, rank, &x)?,
        );
        let centred = ctx.emit.binary("Sub", &x, &mean)?;
        let standard = ctx.emit.mul(&centred, &inverse)?;
        let product = ctx.emit.mul(&dy, &standard)?;
        Some(channel_sums(ctx.emit, &product, 1)?)
    } else {
        None
    };
    let dbias = if ctx.is_active(2) {
        Some(channel_sums(ctx.emit, &dy, 1)?)
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
) -> Result<String, DeriveError> {
    let mut shape = vec![1; rank.max(2)];
    shape[1] = values.len();
    emit.floats(&shape, values, like)
}

/// A value `[channels]` in the shape in which it meets values of `rank`.
fn along_channels(emit: &mut Emitter, value: &str, rank: usize) -> Result<String, DeriveError> {
    let mut shape = vec![Dim::Known(1); rank.max(2)];
    shape[1] = emit.shape(value)?[0].clone();
    emit.reshape(value, &shape)
}

/// y = x s^-β, s = k + α/n Σ x² over a window of channels: dx = dy s^-β - 2αβ/n x Σᵀ(dy y / s). The
/// window is a 1x1 Conv.
pub fn lrn(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
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
    let inside = |to: usize, from: usize| {
        from.saturating_add(before) >= to && from <= to.saturating_add(after)
    };
    let weight: Vec<f32> = (0..channels * channels)
        .map(|i| f32::from(inside(i / channels, i % channels)))
        .collect();
    let mut shape = vec![1; output.shape.len()];
    (shape[0], shape[1]) = (channels, channels);
    let weight = emit.floats(&shape, &weight, x)?;
    Ok(emit.node("Conv", &[x, &weight], Default::default(), output))
}

pub fn layer_normalization(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let (x, scale) = (ctx.input(0)?, ctx.input(1)?);
    let rank = ctx.emit.shape(&x)?.len();
    let first = ctx.axis(ctx.node.int_or("axis", -1), rank)?;
    let Standardised { dx, dscale } = standardised(ctx, &x, &scale, (first..rank).collect())?;
    let dbias = ctx.cotangent()?;
    Ok(Cotangents(vec![dx, dscale, Some(dbias)]))
}

pub fn instance_normalization(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let (x, scale) = (ctx.input(0)?, ctx.input(1)?);
    let rank = ctx.emit.shape(&x)?.len();
    let scale = match ctx.constant_f32(1) {
        Ok(Some(scale)) => per_channel(ctx.emit, &scale, rank, &x)?,
        _ => along_channels(ctx.emit, &scale, rank)?,
    };
    let Standardised { dx, dscale } = standardised(ctx, &x, &scale, (2..rank).collect())?;
    let dscale = dscale
        .map(|dscale| channel_sums(ctx.emit, &dscale, 1))
        .transpose()?;
    let dy = ctx.cotangent()?;
    let dbias = if ctx.is_active(2) {
        Some(channel_sums(ctx.emit, &dy, 1)?)
    } else {
        None
    };
    Ok(Cotangents(vec![dx, dscale, dbias]))
}

/// The cotangents that are asked for; `dscale` in the shape of x.
struct Standardised {
    dx: Option<String>,
    dscale: Option<String>,
}

/// y = scale x̂ + b, x̂ = r (x - mean), r = 1/√(var + ε): dx = r (g - mean(g) - x̂ mean(g x̂)) with
/// g = dy scale; dscale = dy x̂.
fn standardised(
    ctx: &mut VjpContext,
    x: &str,
    scale: &str,
    axes: Vec<usize>,
) -> Result<Standardised, DeriveError> {
    let (dy, epsilon) = (ctx.cotangent()?, ctx.node.float_or("epsilon", 1e-5));
    let (for_x, for_scale) = (ctx.is_active(0), ctx.is_active(1));
    let emit = &mut *ctx.emit;
    let centre = mean(emit, x, &axes)?;
    let centred = emit.binary("Sub", x, &centre)?;
    let square = emit.mul(&centred, &centred)?;
    let variance = mean(emit, &square, &axes)?;
    let epsilon = emit.scalar(epsilon, x)?;
    let variance = emit.add(&variance, &epsilon)?;
    let deviation = emit.unary("Sqrt", &variance)?;
    let standard = emit.binary("Div", &centred, &deviation)?;
    let dscale = if for_scale {
        Some(emit.mul(&dy, &standard)?)
    } else {
        None
    };
    if !for_x {
        return Ok(Standardised { dx: None, dscale });
    }
    let g = emit.mul(&dy, scale)?;
    let g_mean = mean(emit, &g, &axes)?;
    let g_standard = emit.mul(&g, &standard)?;
    let slope = mean(emit, &g_standard, &axes)?;
    let along = emit.mul(&standard, &slope)?;
    let rest = emit.binary("Sub", &g, &g_mean)?;
    let rest = emit.binary("Sub", &rest, &along)?;
    Ok(Standardised {
        dx: Some(emit.binary("Div", &rest, &deviation)?),
        dscale,
    })
}

fn mean(emit: &mut Emitter, x: &str, axes: &[usize]) -> Result<String, DeriveError> {
    let mut output = emit.value_type(x)?;
    axes.iter()
        .for_each(|&axis| output.shape[axis] = Dim::Known(1));
    let axes = emit.i64s(&axes.iter().map(|&axis| axis as i64).collect::<Vec<_>>());
    Ok(emit.node(
        "ReduceMean",
        &[x, &axes],
        attributes([("keepdims", Attribute::Int(1))]),
        output,
    ))
}
