//! Normalisations in their inference form.

use super::{convolution::channel_sums, reduction::or_one};
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
    let channels = ctx.emit.size(&x, 1)?;
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

/// The further outputs are the mean and r: x gets dmean / n, and dr times dr/dx = -r² x̂ / n.
pub(crate) fn layer_normalization(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let x = ctx.input(0)?;
    let x_type = ctx.emit.value_type(&x)?;
    let first = ctx.axis(ctx.node.int_or("axis", -1), x_type.shape.len())?;
    let axes: Vec<usize> = (first..x_type.shape.len()).collect();
    let count: usize = ctx.emit.sizes(&x, first)?.iter().product();
    let share = 1.0 / count as f32;
    let standard = Standardised::of(ctx, axes)?;
    let cotangents = ctx.cotangents.to_vec();
    let given = |index: usize| {
        let cotangent = cotangents.get(index).cloned().flatten();
        cotangent.map(|name| Expr::value(name).cast(x_type.element))
    };
    let mut parts = Vec::new();
    let [mut dscale, mut dbias] = [None, None];
    if let Some(dy) = given(0) {
        parts.push(standard.pull(&(&dy * Expr::value(ctx.input(1)?))));
        dscale = Some(&dy * &standard.value);
        dbias = Some(dy);
    }
    if let Some(dmean) = given(1) {
        parts.push(dmean * share);
    }
    if let Some(dr) = given(2) {
        let slope = (&standard.value / standard.deviation.square()) * -share;
        parts.push(dr * slope);
    }
    let dx = parts.into_iter().reduce(|sum, part| sum + part);
    let Cotangents(mut found) = ctx.emit_active([dx, dscale, dbias])?;
    if let Some(dx) = &mut found[0] {
        *dx = ctx.emit.expand(dx, &x_type.shape)?;
    }
    Ok(Cotangents(found))
}

/// As [`layer_normalization`] of x alone, whose deviation were a constant: dx = r (g - mean(g)), g = dy
/// scale.
pub(crate) fn layer_normalization_at_its_deviation(
    ctx: &mut VjpContext,
) -> Result<Cotangents, DeriveError> {
    let (x, scale) = (ctx.input(0)?, ctx.input(1)?);
    let x_type = ctx.emit.value_type(&x)?;
    let first = ctx.axis(ctx.node.int_or("axis", -1), x_type.shape.len())?;
    let axes: Vec<usize> = (first..x_type.shape.len()).collect();
    let standard = Standardised::of(ctx, axes.clone())?;
    let g = Expr::value(ctx.cotangent()?).cast(x_type.element) * Expr::value(scale);
    ctx.emit_active([(&g - g.mean(&axes)) / &standard.deviation])
}

pub(crate) fn instance_normalization(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let (x, scale) = (ctx.input(0)?, ctx.input(1)?);
    let rank = ctx.emit.shape(&x)?.len();
    let scale = match ctx.constant_f32(1) {
        Ok(Some(scale)) => per_channel(ctx.emit, &scale, rank, &x)?,
        _ => along_channels(ctx.emit, &scale, rank)?,
    };
    let standard = Standardised::of(ctx, (2..rank).collect())?;
    let dbias = Expr::value(ctx.cotangent()?);
    let dx = standard.pull(&(&dbias * scale));
    let dscale = &dbias * &standard.value;
    let Cotangents(mut found) = ctx.emit_active([dx, dscale, dbias])?;
    for cotangent in found.iter_mut().skip(1).flatten() {
        *cotangent = channel_sums(ctx.emit, cotangent, 1)?;
    }
    Ok(Cotangents(found))
}

/// y = x / n, n = Σ |x| or √Σ x² along an axis: dx = (dy - s Σ(dy y)) / n with s = sign(x) or y; zero
/// for n = 0.
pub(crate) fn lp_normalization(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let [dy, x, y] = [ctx.cotangent()?, ctx.input(0)?, ctx.output()].map(Expr::value);
    let rank = ctx.emit.shape(&ctx.output())?.len();
    let axes = [ctx.axis(ctx.node.int_or("axis", -1), rank)?];
    let (norm, slope) = match ctx.node.int_or("p", 2) {
        1 => (x.abs().sum(&axes), x.sign()),
        _ => (x.square().sum(&axes).sqrt(), y.clone()),
    };
    let change = &dy - slope * (&dy * y).sum(&axes);
    ctx.emit_active([change * (norm.sign() / or_one(&norm))])
}

/// x̂ = r (x - mean), r = 1 / √(var + ε), over some axes of x.
struct Standardised {
    axes: Vec<usize>,
    /// x̂.
    value: Expr,
    /// 1 / r.
    deviation: Expr,
}

impl Standardised {
    /// Of the node's input.
    fn of(ctx: &VjpContext, axes: Vec<usize>) -> Result<Self, DeriveError> {
        let x = Expr::value(ctx.input(0)?);
        let centred = &x - x.mean(&axes);
        let variance = centred.square().mean(&axes);
        let deviation = (variance + ctx.node.float_or("epsilon", 1e-5)).sqrt();
        let value = centred / &deviation;
        Ok(Self {
            axes,
            value,
            deviation,
        })
    }

    /// The cotangent of x for the cotangent g of x̂: r (g - mean(g) - x̂ mean(g x̂)).
    fn pull(&self, g: &Expr) -> Expr {
        let along = &self.value * (g * &self.value).mean(&self.axes);
        ((g - g.mean(&self.axes)) - along) / &self.deviation
    }
}
