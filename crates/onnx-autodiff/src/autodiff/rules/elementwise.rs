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

pub(crate) fn mean(ctx: &mut VjpContext) -> Result {
    let count = ctx.node.inputs.len();
    let share = Expr::value(ctx.cotangent()?) * (1.0 / count as f32);
    ctx.emit_active(vec![share; count])
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

/// y = a - b n with n = trunc(a / b): da = dy; db = -dy n.
pub(crate) fn modulo(ctx: &mut VjpContext) -> Result {
    let [dy, a, b, y] =
        [ctx.cotangent()?, ctx.input(0)?, ctx.input(1)?, ctx.output()].map(Expr::value);
    let n = ((a - y) / b).round();
    ctx.emit_active([dy.clone(), -(dy * n)])
}

/// da = dy b a^(b-1), and 0 for b = 0; db = dy y log a, and 0 for a = 0.
pub(crate) fn pow(ctx: &mut VjpContext) -> Result {
    let (dy, a, b) = (ctx.cotangent()?, ctx.input(0)?, ctx.input(1)?);
    let element = ctx.emit.value_type(&a)?.element;
    let (factor, lowered) = match ctx.emit.literal(&b).cloned() {
        Some(literal) => {
            let exponents: Vec<f32> = literal.to_f64s().iter().map(|&e| e as f32).collect();
            let lowered = exponents
                .iter()
                .map(|&e| if e == 0.0 { 0.0 } else { e - 1.0 });
            let lowered: Vec<f32> = lowered.collect();
            let factor = ctx.emit.floats(&literal.shape, &exponents, &a)?;
            let lowered = ctx.emit.floats(&literal.shape, &lowered, &a)?;
            (Expr::value(factor), Expr::value(lowered))
        }
        None => {
            let b = Expr::value(&b).cast(element);
            (b.clone(), &b - b.sign().abs())
        }
    };
    let [dy, a, y] = [dy, a, ctx.output()].map(Expr::value);
    let not_zero = &a + (1.0 - a.sign().abs());
    let da = &dy * (a.pow(lowered) * factor);
    ctx.emit_active([da, dy * (y * not_zero.log())])
}

/// dx in the element type of x; that of integers stays as it is.
pub(crate) fn cast(ctx: &mut VjpContext) -> Result {
    let (dy, x) = (ctx.cotangent()?, ctx.input(0)?);
    let element = ctx.emit.value_type(&x)?.element;
    if !element.is_float() {
        return Ok(Cotangents::first(dy));
    }
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
