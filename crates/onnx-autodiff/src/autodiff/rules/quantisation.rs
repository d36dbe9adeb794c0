//! Straight-through gradients of quantised values (Bengio et al. 2013, section 4): rounding counts
//! as the identity, and saturation as the clip that it is. Cotangents of integers are floats. As
//! PyTorch's fake quantisation, which passes where round(x / s) + z lies in the range of its
//! integers.

use crate::autodiff::{
    DeriveError,
    context::{Cotangents, VjpContext},
    expr::Expr,
};
use crate::onnx::{
    graph::{Dim, Element, Literal},
    types::site::axis_of,
};

/// x = s (q - z): dq = s dx.
pub(crate) fn dequantize(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let dx = Expr::value(ctx.cotangent()?);
    let scale = Expr::value(along_axis(ctx, 1)?);
    Ok(Cotangents::first((dx * scale).emit(ctx.emit)?))
}

/// q = clip(round(x / s) + z): dx = dq / s inside of the clip range, half a step beyond its ends.
pub(crate) fn quantize(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let (dq, x) = (Expr::value(ctx.cotangent()?), Expr::value(ctx.input(0)?));
    let range = range(ctx.emit.value_type(&ctx.output())?.element);
    let (least, most) = range.ok_or_else(|| ctx.refusal("its integers are not of 8 or 16 bits"))?;
    let zeros = match ctx.optional(2) {
        None => vec![0.0],
        Some(name) => {
            let literal = ctx.emit.literal(&name);
            let zeros = literal.map(Literal::to_f64s);
            zeros.ok_or_else(|| ctx.refusal(format!("its zero point `{name}` is not constant")))?
        }
    };
    let scale = Expr::value(along_axis(ctx, 1)?);
    let mut steps = x / &scale;
    let mut zero = zeros.first().copied().unwrap_or(0.0);
    if zeros.iter().any(|other| *other != zero) {
        let shape = channels_of(ctx, zeros.len())?;
        let zeros = Literal::from_f64s(Element::Float, &shape, &zeros);
        let element = ctx.emit.value_type(&ctx.input(0)?)?.element;
        let zeros = ctx.emit.constant(zeros);
        steps = steps + Expr::value(ctx.emit.cast(&zeros, element)?);
        zero = 0.0;
    }
    let bound = |end: f64, beyond: f64| (end - zero + beyond) as f32;
    let inside = steps.above(bound(least, -0.5)) * steps.below(bound(most, 0.5));
    Ok(Cotangents::first((dq * inside / scale).emit(ctx.emit)?))
}

/// Rule sets that change what rectifiers or weights pass.
pub(crate) fn gradient_alone(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    Err(ctx.refusal(
        "a ReLU may be folded into its range, where only the plain gradient passes: use a method of the gradient, or the float model",
    ))
}

/// The smallest and the largest integer.
fn range(element: Element) -> Option<(f64, f64)> {
    match element {
        Element::Int8 => Some((i8::MIN.into(), i8::MAX.into())),
        Element::Uint8 => Some((0.0, u8::MAX.into())),
        Element::Int16 => Some((i16::MIN.into(), i16::MAX.into())),
        Element::Uint16 => Some((0.0, u16::MAX.into())),
        _ => None,
    }
}

/// Input `index`, one number or one for each channel, in a shape that broadcasts over the node's.
fn along_axis(ctx: &mut VjpContext, index: usize) -> Result<String, DeriveError> {
    let name = ctx.input(index)?;
    match ctx.emit.shape(&name)?.as_slice() {
        [] | [Dim::Known(1)] => ctx.emit.reshape(&name, &[]),
        [Dim::Known(count)] => {
            let shape = channels_of(ctx, *count)?;
            let dims: Vec<Dim> = shape.iter().map(|&size| Dim::Known(size)).collect();
            match ctx.emit.literal(&name).cloned() {
                Some(literal) => Ok(ctx.emit.constant(Literal { shape, ..literal })),
                None => ctx.emit.reshape(&name, &dims),
            }
        }
        _ => Err(ctx.refusal("its scale is neither one number nor one for each channel")),
    }
}

/// The shape of `count` numbers along the axis that the node names.
fn channels_of(ctx: &VjpContext, count: usize) -> Result<Vec<usize>, DeriveError> {
    let rank = ctx.emit.shape(&ctx.input(0)?)?.len();
    let named = ctx.node.int_or("axis", 1);
    let axis = axis_of(named, rank)
        .map_err(|_| ctx.refusal(format!("axis {named} is outside rank {rank}")))?;
    Ok((axis..rank)
        .map(|at| if at == axis { count } else { 1 })
        .collect())
}
