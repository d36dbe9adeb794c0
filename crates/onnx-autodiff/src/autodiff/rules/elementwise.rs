//! Element-wise arithmetic with broadcasting. Rules return cotangents in the broadcast shape; the
//! walk sums them down. Kinks: Abs'(0) = 0; Max and Min give a tie's cotangent to the first of the
//! equal inputs.

use crate::autodiff::{
    DeriveError,
    context::{Cotangents, VjpContext},
    expr::Expr,
};

type Result = std::result::Result<Cotangents, DeriveError>;

pub(crate) fn add(ctx: &mut VjpContext) -> Result {
    let dy = ctx.cotangent()?;
    Ok(Cotangents(vec![Some(dy.clone()), Some(dy)]))
}

pub(crate) fn sum(ctx: &mut VjpContext) -> Result {
    let dy = ctx.cotangent()?;
    Ok(Cotangents(vec![Some(dy); ctx.node.inputs.len()]))
}

pub(crate) fn sub(ctx: &mut VjpContext) -> Result {
    let dy = Expr::value(ctx.cotangent()?);
    ctx.emit_active([dy.clone(), -dy])
}

pub(crate) fn mul(ctx: &mut VjpContext) -> Result {
    let [dy, a, b] = [ctx.cotangent()?, ctx.input(0)?, ctx.input(1)?].map(Expr::value);
    ctx.emit_active([&dy * b, &dy * a])
}

/// da = dy / b; db = -da y.
pub(crate) fn div(ctx: &mut VjpContext) -> Result {
    let [dy, b, y] = [ctx.cotangent()?, ctx.input(1)?, ctx.output()].map(Expr::value);
    let da = dy / b;
    ctx.emit_active([da.clone(), -(da * y)])
}

/// da = dy b a^(b-1) for a constant exponent b.
pub(crate) fn pow(ctx: &mut VjpContext) -> Result {
    let (dy, a, b) = (ctx.cotangent()?, ctx.input(0)?, ctx.input(1)?);
    let literal = ctx.emit.literal(&b).filter(|_| !ctx.is_active(1)).cloned();
    let literal = literal.ok_or_else(|| ctx.refusal("its exponent is not a constant"))?;
    let exponents: Vec<f32> = literal.to_f64s().iter().map(|&e| e as f32).collect();
    let lowered: Vec<f32> = exponents.iter().map(|e| e - 1.0).collect();
    let factor = ctx.emit.floats(&literal.shape, &exponents, &a)?;
    let lowered = ctx.emit.floats(&literal.shape, &lowered, &a)?;
    let [dy, a, factor, lowered] = [dy, a, factor, lowered].map(Expr::value);
    ctx.emit_active([dy * (a.pow(lowered) * factor)])
}

/// dx in the element type of x.
pub(crate) fn cast(ctx: &mut VjpContext) -> Result {
    let (dy, x) = (ctx.cotangent()?, ctx.input(0)?);
    let element = ctx.emit.value_type(&x)?.element;
    ctx.emit_active([Expr::value(dy).cast(element)])
}

/// `Where(condition, a, b)`: da = dy condition; db = dy - da.
pub(crate) fn select(ctx: &mut VjpContext) -> Result {
    let (dy, condition) = (ctx.cotangent()?, ctx.input(0)?);
    let element = ctx.emit.value_type(&dy)?.element;
    let dy = Expr::value(dy);
    let da = &dy * Expr::value(condition).cast(element);
    let db = &dy - &da;
    ctx.emit_active([dy, da, db])
}

/// Each input gets the cotangent where it is the maximum and no earlier input is equal.
pub(crate) fn first_equal(ctx: &mut VjpContext) -> Result {
    let element = ctx.emit.value_type(&ctx.output())?.element;
    let [mut left, y] = [ctx.cotangent()?, ctx.output()].map(Expr::value);
    let mut cotangents = Vec::new();
    for input in &ctx.node.inputs {
        let share = &left * Expr::value(input).equals(&y).cast(element);
        left = left - &share;
        cotangents.push(share);
    }
    ctx.emit_active(cotangents)
}
