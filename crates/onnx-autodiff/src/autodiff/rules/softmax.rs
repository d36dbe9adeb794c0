//! Softmax and LogSoftmax along one axis (the spelling of opset 13 on).

use crate::autodiff::{
    DeriveError,
    context::{Cotangents, VjpContext},
};

/// dx = y (dy - Σ dy y).
pub fn softmax(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let (dy, y, axis) = (ctx.cotangent()?, ctx.output(), axis(ctx)?);
    let product = ctx.emit.mul(&dy, &y)?;
    let total = ctx.emit.reduce_sum(&product, &[axis])?;
    let centred = ctx.emit.binary("Sub", &dy, &total)?;
    Ok(Cotangents::first(ctx.emit.mul(&y, &centred)?))
}

/// dx = dy - eʸ Σ dy.
pub fn log_softmax(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let (dy, y, axis) = (ctx.cotangent()?, ctx.output(), axis(ctx)?);
    let probabilities = ctx.emit.unary("Exp", &y)?;
    let total = ctx.emit.reduce_sum(&dy, &[axis])?;
    let share = ctx.emit.mul(&probabilities, &total)?;
    Ok(Cotangents::first(ctx.emit.binary("Sub", &dy, &share)?))
}

fn axis(ctx: &VjpContext) -> Result<usize, DeriveError> {
    let rank = ctx.emit.shape(&ctx.output())?.len();
    ctx.axis(ctx.node.int_or("axis", -1), rank)
}
