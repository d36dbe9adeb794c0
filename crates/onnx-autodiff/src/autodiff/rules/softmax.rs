//! Softmax and LogSoftmax along one axis (the spelling of opset 13 on).

use crate::autodiff::{
    DeriveError,
    context::{Cotangents, VjpContext},
    expr::Expr,
};

/// dx = y (dy - Σ dy y).
pub(crate) fn softmax(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let axis = axis(ctx)?;
    let [dy, y] = [ctx.cotangent()?, ctx.output()].map(Expr::value);
    ctx.emit_active([&y * (&dy - (&dy * &y).sum(&[axis]))])
}

/// dx = dy - eʸ Σ dy.
pub(crate) fn log_softmax(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let axis = axis(ctx)?;
    let [dy, y] = [ctx.cotangent()?, ctx.output()].map(Expr::value);
    ctx.emit_active([&dy - y.exp() * dy.sum(&[axis])])
}

fn axis(ctx: &VjpContext) -> Result<usize, DeriveError> {
    let rank = ctx.emit.shape(&ctx.output())?.len();
    ctx.axis(ctx.node.int_or("axis", -1), rank)
}
