//! Element-wise arithmetic with broadcasting. Rules return cotangents in the broadcast shape; the
//! walk sums them down. Kinks: Abs'(0) = 0; Max and Min give a tie's cotangent to the first of the
//! equal inputs.

use crate::autodiff::{
    DeriveError,
    context::{Cotangents, VjpContext},
};
use crate::onnx::graph::Element;

type Result = std::result::Result<Cotangents, DeriveError>;

pub fn identity(ctx: &mut VjpContext) -> Result {
    Ok(Cotangents::first(ctx.cotangent()?))
}

pub fn add(ctx: &mut VjpContext) -> Result {
    let dy = ctx.cotangent()?;
    Ok(Cotangents(vec![Some(dy.clone()), Some(dy)]))
}

pub fn sum(ctx: &mut VjpContext) -> Result {
    let dy = ctx.cotangent()?;
    Ok(Cotangents(vec![Some(dy); ctx.node.inputs.len()]))
}

pub fn sub(ctx: &mut VjpContext) -> Result {
    let dy = ctx.cotangent()?;
    let db = if ctx.is_active(1) {
        Some(ctx.emit.unary("Neg", &dy)?)
    } else {
        None
    };
    Ok(Cotangents(vec![Some(dy), db]))
}

pub fn mul(ctx: &mut VjpContext) -> Result {
    let (dy, a, b) = (ctx.cotangent()?, ctx.input(0)?, ctx.input(1)?);
    let da = if ctx.is_active(0) {
        Some(ctx.emit.mul(&dy, &b)?)
    } else {
        None
    };
    let db = if ctx.is_active(1) {
        Some(ctx.emit.mul(&dy, &a)?)
    } else {
        None
    };
    Ok(Cotangents(vec![da, db]))
}

/// da = dy / b; db = -dy y / b.
pub fn div(ctx: &mut VjpContext) -> Result {
    let (dy, b, y) = (ctx.cotangent()?, ctx.input(1)?, ctx.output());
    let da = ctx.emit.binary("Div", &dy, &b)?;
    let db = if ctx.is_active(1) {
        let product = ctx.emit.mul(&da, &y)?;
        Some(ctx.emit.unary("Neg", &product)?)
    } else {
        None
    };
    Ok(Cotangents(vec![Some(da), db]))
}

pub fn neg(ctx: &mut VjpContext) -> Result {
    let dy = ctx.cotangent()?;
    Ok(Cotangents::first(ctx.emit.unary("Neg", &dy)?))
}

pub fn abs(ctx: &mut VjpContext) -> Result {
    let (dy, x) = (ctx.cotangent()?, ctx.input(0)?);
    let sign = ctx.emit.unary("Sign", &x)?;
    Ok(Cotangents::first(ctx.emit.mul(&dy, &sign)?))
}

/// dx = -dy y².
pub fn reciprocal(ctx: &mut VjpContext) -> Result {
    let (dy, y) = (ctx.cotangent()?, ctx.output());
    let product = ctx.emit.mul(&dy, &y)?;
    let product = ctx.emit.mul(&product, &y)?;
    Ok(Cotangents::first(ctx.emit.unary("Neg", &product)?))
}

/// da = dy b a^(b-1) for a constant exponent b.
pub fn pow(ctx: &mut VjpContext) -> Result {
    let (dy, a) = (ctx.cotangent()?, ctx.input(0)?);
    let b = ctx.input(1)?;
    let literal = ctx.emit.literal(&b).cloned();
    let literal = literal
        .filter(|_| !ctx.is_active(1))
        .ok_or_else(|| ctx.refusal("its exponent is not a constant"))?;
    let exponents: Vec<f32> = literal.to_f64s().iter().map(|&e| e as f32).collect();
    let lowered: Vec<f32> = exponents.iter().map(|e| e - 1.0).collect();
    let factor = ctx.emit.floats(&literal.shape, &exponents, &a)?;
    let lowered = ctx.emit.floats(&literal.shape, &lowered, &a)?;
    let power = ctx.emit.binary("Pow", &a, &lowered)?;
    let slope = ctx.emit.mul(&power, &factor)?;
    Ok(Cotangents::first(ctx.emit.mul(&dy, &slope)?))
}

/// dx = dy / (2 y).
pub fn sqrt(ctx: &mut VjpContext) -> Result {
    let (dy, y) = (ctx.cotangent()?, ctx.output());
    let half = ctx.emit.scale(&dy, 0.5)?;
    Ok(Cotangents::first(ctx.emit.binary("Div", &half, &y)?))
}

pub fn exp(ctx: &mut VjpContext) -> Result {
    let (dy, y) = (ctx.cotangent()?, ctx.output());
    Ok(Cotangents::first(ctx.emit.mul(&dy, &y)?))
}

pub fn log(ctx: &mut VjpContext) -> Result {
    let (dy, x) = (ctx.cotangent()?, ctx.input(0)?);
    Ok(Cotangents::first(ctx.emit.binary("Div", &dy, &x)?))
}

/// dx = dy 2/√π exp(-x²).
pub fn erf(ctx: &mut VjpContext) -> Result {
    let (dy, x) = (ctx.cotangent()?, ctx.input(0)?);
    let square = ctx.emit.mul(&x, &x)?;
    let negative = ctx.emit.unary("Neg", &square)?;
    let bell = ctx.emit.unary("Exp", &negative)?;
    let slope = ctx.emit.scale(&bell, std::f32::consts::FRAC_2_SQRT_PI)?;
    Ok(Cotangents::first(ctx.emit.mul(&dy, &slope)?))
}

pub fn cast(ctx: &mut VjpContext) -> Result {
    let (dy, x) = (ctx.cotangent()?, ctx.input(0)?);
    let element = ctx.emit.value_type(&x)?.element;
    Ok(Cotangents::first(ctx.emit.cast(&dy, element)?))
}

/// `Where(condition, a, b)`.
pub fn select(ctx: &mut VjpContext) -> Result {
    let (dy, condition) = (ctx.cotangent()?, ctx.input(0)?);
    let element = ctx.emit.value_type(&dy)?.element;
    let first = ctx.emit.cast(&condition, element)?;
    let a = ctx.emit.mul(&dy, &first)?;
    let b = ctx.emit.binary("Sub", &dy, &a)?;
    Ok(Cotangents(vec![None, Some(a), Some(b)]))
}

pub fn max(ctx: &mut VjpContext) -> Result {
    first_equal(ctx)
}

pub fn min(ctx: &mut VjpContext) -> Result {
    first_equal(ctx)
}

/// Each input receives what earlier equal inputs left over.
fn first_equal(ctx: &mut VjpContext) -> Result {
    let (mut left, y) = (ctx.cotangent()?, ctx.output());
    let element: Element = ctx.emit.value_type(&y)?.element;
    let mut cotangents = Vec::new();
    for input in &ctx.node.inputs {
        let equal = ctx.emit.binary("Equal", input, &y)?;
        let mask = ctx.emit.cast(&equal, element)?;
        let share = ctx.emit.mul(&left, &mask)?;
        left = ctx.emit.binary("Sub", &left, &share)?;
        cotangents.push(Some(share));
    }
    Ok(Cotangents(cotangents))
}
