//! Activations: dx = dy ⊙ f'(x). Masks are HardSigmoid steps (`Emitter::step`), which keep ONNX
//! Runtime's blocked layout. Kinks: relu'(0) = 0 (so for Elu, Selu, LeakyRelu and PRelu at 0: the
//! left slope); Clip passes strictly inside.

use crate::{
    autodiff::{
        DeriveError,
        context::{Cotangents, VjpContext},
        expr::Expr,
    },
    onnx::graph::Node,
};

/// dx = dy [min < x < max].
pub(crate) fn clip(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let y = Expr::value(ctx.output());
    let mut dx = Expr::value(ctx.cotangent()?);
    for (index, is_floor) in [(1, true), (2, false)] {
        let bound = ctx.constant_f32(index)?;
        let bound = bound.and_then(|values| values.first().copied());
        if let Some(bound) = bound.filter(|bound| bound.is_finite() && bound.abs() < f32::MAX) {
            dx = dx
                * if is_floor {
                    y.above(bound)
                } else {
                    y.below(bound)
                };
        }
    }
    Ok(Cotangents::first(dx.emit(ctx.emit)?))
}

pub(crate) fn leaky_relu(node: &Node, dy: &Expr, x: &Expr, _: &Expr) -> Expr {
    let alpha = node.float_or("alpha", 0.01);
    dy * (x.above(0.0) * (1.0 - alpha) + alpha)
}

/// dx = dy (s + (1 - s) [x > 0]); ds = dy min(x, 0).
pub(crate) fn prelu(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let [dy, x, s] = [ctx.cotangent()?, ctx.input(0)?, ctx.input(1)?].map(Expr::value);
    let dx = &dy * (x.above(0.0) * (1.0 - &s) + &s);
    let ds = &dy * x.min(0.0);
    ctx.emit_active([dx, ds])
}

/// y = α (eˣ - 1) below zero.
pub(crate) fn elu(node: &Node, dy: &Expr, x: &Expr, y: &Expr) -> Expr {
    exponential(dy, x, y, node.float_or("alpha", 1.0), 1.0)
}

/// y = α (e^(x/α) - 1) below zero, where its slope is y / α + 1.
pub(crate) fn celu(node: &Node, dy: &Expr, _: &Expr, y: &Expr) -> Expr {
    dy * (y.min(0.0) * (1.0 / node.float_or("alpha", 1.0)) + 1.0)
}

pub(crate) fn selu(node: &Node, dy: &Expr, x: &Expr, y: &Expr) -> Expr {
    let alpha = node.float_or("alpha", 1.673_263_2);
    let gamma = node.float_or("gamma", 1.050_701);
    exponential(dy, x, y, alpha * gamma, gamma)
}

/// Slope γ above zero; min(y, 0) + a below.
fn exponential(dy: &Expr, x: &Expr, y: &Expr, a: f32, gamma: f32) -> Expr {
    dy * ((y.min(0.0) + a) + x.above(0.0) * (gamma - a))
}

/// 1 strictly inside the slope of y = clip(α x + β, 0, 1).
fn inside(y: &Expr) -> Expr {
    y.above(0.0) * y.below(1.0)
}

pub(crate) fn hard_sigmoid(node: &Node, dy: &Expr, _: &Expr, y: &Expr) -> Expr {
    dy * (inside(y) * node.float_or("alpha", 0.2))
}

/// y = x h, h = clip(x / 6 + 1 / 2, 0, 1).
pub(crate) fn hard_swish(_: &Node, dy: &Expr, x: &Expr, _: &Expr) -> Expr {
    let h = x.hard_sigmoid(1.0 / 6.0, 0.5);
    dy * (&h + (x * (1.0 / 6.0)) * inside(&h))
}

/// y = x + bias below -λ, x - bias above λ, else 0.
pub(crate) fn shrink(node: &Node, dy: &Expr, x: &Expr, _: &Expr) -> Expr {
    let lambda = node.float_or("lambd", 0.5);
    dy * (x.above(lambda) + x.below(-lambda)).min(1.0)
}

/// y = x above α, else 0.
pub(crate) fn thresholded_relu(node: &Node, dy: &Expr, x: &Expr, _: &Expr) -> Expr {
    dy * x.above(node.float_or("alpha", 1.0))
}

/// y = x tanh(softplus(x)).
pub(crate) fn mish(_: &Node, dy: &Expr, x: &Expr, _: &Expr) -> Expr {
    let t = x.softplus().tanh();
    dy * (&t + x * (1.0 - t.square()) * x.sigmoid())
}
