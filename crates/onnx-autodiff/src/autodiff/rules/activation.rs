//! Activations: dx = dy ⊙ f'(x). Masks are HardSigmoid steps (`Emitter::step`), which keep ONNX
//! Runtime's blocked layout. Kinks: relu'(0) = 0 (so for Elu, Selu, LeakyRelu and PRelu at 0: the
//! left slope); Clip passes strictly inside.

use crate::autodiff::{
    DeriveError,
    context::{Cotangents, VjpContext},
    emit::attributes,
};

type Result = std::result::Result<Cotangents, DeriveError>;

/// dx = dy [y > 0].
pub fn relu(ctx: &mut VjpContext) -> Result {
    let y = ctx.output();
    gate(ctx, &[(1.0, 0.0)], &y)
}

/// dx = dy [min < x < max].
pub fn clip(ctx: &mut VjpContext) -> Result {
    let mut bounds = Vec::new();
    for (index, sign) in [(1, 1.0), (2, -1.0)] {
        let bound = ctx
            .constant_f32(index)?
            .and_then(|values| values.first().copied());
        bounds.extend(
            bound
                .filter(|bound| bound.is_finite() && bound.abs() < f32::MAX)
                .map(|bound| (sign, bound)),
        );
    }
    let y = ctx.output();
    gate(ctx, &bounds, &y)
}

/// dy times a step for each (sign, bound) of `value`.
fn gate(ctx: &mut VjpContext, bounds: &[(f32, f32)], value: &str) -> Result {
    let mut dx = ctx.cotangent()?;
    for &(sign, bound) in bounds {
        let open = ctx.emit.step(value, sign, bound)?;
        dx = ctx.emit.mul(&dx, &open)?;
    }
    Ok(Cotangents::first(dx))
}

/// dx = dy (α + (1 - α) [x > 0]).
pub fn leaky_relu(ctx: &mut VjpContext) -> Result {
    let (dy, x) = (ctx.cotangent()?, ctx.input(0)?);
    let alpha = ctx.node.float_or("alpha", 0.01);
    let open = ctx.emit.step(&x, 1.0, 0.0)?;
    let rise = ctx.emit.scale(&open, 1.0 - alpha)?;
    let floor = ctx.emit.scalar(alpha, &x)?;
    let slope = ctx.emit.add(&rise, &floor)?;
    Ok(Cotangents::first(ctx.emit.mul(&dy, &slope)?))
}

/// dx = dy (s + (1 - s) [x > 0]); ds = dy min(x, 0).
pub fn prelu(ctx: &mut VjpContext) -> Result {
    let (dy, x, slope) = (ctx.cotangent()?, ctx.input(0)?, ctx.input(1)?);
    let open = ctx.emit.step(&x, 1.0, 0.0)?;
    let one = ctx.emit.scalar(1.0, &x)?;
    let complement = ctx.emit.binary("Sub", &one, &slope)?;
    let rise = ctx.emit.mul(&open, &complement)?;
    let total = ctx.emit.add(&rise, &slope)?;
    let dx = ctx.emit.mul(&dy, &total)?;
    let ds = if ctx.is_active(1) {
        let zero = ctx.emit.scalar(0.0, &x)?;
        let negative = ctx.emit.binary("Min", &x, &zero)?;
        Some(ctx.emit.mul(&dy, &negative)?)
    } else {
        None
    };
    Ok(Cotangents(vec![Some(dx), ds]))
}

/// dx = dy (1 for x > 0, else y + α): y = α (eˣ - 1) below zero.
pub fn elu(ctx: &mut VjpContext) -> Result {
    let alpha = ctx.node.float_or("alpha", 1.0);
    exponential(ctx, alpha, 1.0)
}

pub fn selu(ctx: &mut VjpContext) -> Result {
    let (alpha, gamma) = (
        ctx.node.float_or("alpha", 1.673_263_2),
        ctx.node.float_or("gamma", 1.050_701),
    );
    exponential(ctx, alpha * gamma, gamma)
}

/// Slope γ above zero; min(y, 0) + a below.
fn exponential(ctx: &mut VjpContext, a: f32, gamma: f32) -> Result {
    let (dy, x, y) = (ctx.cotangent()?, ctx.input(0)?, ctx.output());
    let open = ctx.emit.step(&x, 1.0, 0.0)?;
    let zero = ctx.emit.scalar(0.0, &x)?;
    let negative = ctx.emit.binary("Min", &y, &zero)?;
    let rise = ctx.emit.scale(&open, gamma - a)?;
    let floor = ctx.emit.scalar(a, &x)?;
    let below = ctx.emit.add(&negative, &floor)?;
    let slope = ctx.emit.add(&below, &rise)?;
    Ok(Cotangents::first(ctx.emit.mul(&dy, &slope)?))
}

/// dx = dy y (1 - y).
pub fn sigmoid(ctx: &mut VjpContext) -> Result {
    let (dy, y) = (ctx.cotangent()?, ctx.output());
    let slope = logistic_slope(ctx, &y)?;
    Ok(Cotangents::first(ctx.emit.mul(&dy, &slope)?))
}

fn logistic_slope(ctx: &mut VjpContext, y: &str) -> std::result::Result<String, DeriveError> {
    let one = ctx.emit.scalar(1.0, y)?;
    let rest = ctx.emit.binary("Sub", &one, y)?;
    ctx.emit.mul(y, &rest)
}

/// dx = dy (1 - y²).
pub fn tanh(ctx: &mut VjpContext) -> Result {
    let (dy, y) = (ctx.cotangent()?, ctx.output());
    let one = ctx.emit.scalar(1.0, &y)?;
    let square = ctx.emit.mul(&y, &y)?;
    let slope = ctx.emit.binary("Sub", &one, &square)?;
    Ok(Cotangents::first(ctx.emit.mul(&dy, &slope)?))
}

/// dx = dy σ(x).
pub fn softplus(ctx: &mut VjpContext) -> Result {
    let (dy, x) = (ctx.cotangent()?, ctx.input(0)?);
    let slope = ctx.emit.unary("Sigmoid", &x)?;
    Ok(Cotangents::first(ctx.emit.mul(&dy, &slope)?))
}

/// dx = dy α [0 < y < 1].
pub fn hard_sigmoid(ctx: &mut VjpContext) -> Result {
    let (dy, y) = (ctx.cotangent()?, ctx.output());
    let alpha = ctx.node.float_or("alpha", 0.2);
    let inside = inside_unit(ctx, &y)?;
    let slope = ctx.emit.scale(&inside, alpha)?;
    Ok(Cotangents::first(ctx.emit.mul(&dy, &slope)?))
}

/// y = x h, h = clip(x / 6 + 1 / 2, 0, 1): dx = dy (h + x/6 [0 < h < 1]).
pub fn hard_swish(ctx: &mut VjpContext) -> Result {
    let (dy, x) = (ctx.cotangent()?, ctx.input(0)?);
    let ramp = attributes([("alpha", (1.0f32 / 6.0).into()), ("beta", 0.5f32.into())]);
    let output = ctx.emit.value_type(&x)?;
    let h = ctx.emit.node("HardSigmoid", &[&x], ramp, output);
    let inside = inside_unit(ctx, &h)?;
    let sixth = ctx.emit.scale(&x, 1.0 / 6.0)?;
    let bend = ctx.emit.mul(&sixth, &inside)?;
    let slope = ctx.emit.add(&h, &bend)?;
    Ok(Cotangents::first(ctx.emit.mul(&dy, &slope)?))
}

fn inside_unit(ctx: &mut VjpContext, h: &str) -> std::result::Result<String, DeriveError> {
    let above = ctx.emit.step(h, 1.0, 0.0)?;
    let below = ctx.emit.step(h, -1.0, 1.0)?;
    ctx.emit.mul(&above, &below)
}
