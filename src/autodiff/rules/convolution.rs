//! Conv and ConvTranspose with respect to their input; weights must not vary with it.
//! Lowering of Conv by shape: stride 1 is a Conv with the weight transposed and flipped (1.25 to 1.8 x faster than ConvTranspose and
//! blocked); other strides are a ConvTranspose with symmetric pads, or without pads and a Slice (CUDA has no asymmetric ones).

use super::window::Window;
use crate::autodiff::{
    DeriveError,
    context::{Cotangents, VjpContext},
    emit::{Emitter, ints},
};
use crate::onnx::graph::{Dim, Element, Literal, ValueType};

pub fn conv(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let (dy, x, weight) = (ctx.cotangent()?, ctx.input(0)?, fixed_weight(ctx)?);
    let kernel = ctx.emit.sizes(&weight, 2)?;
    let window = Window::of(ctx, kernel, &ctx.emit.sizes(&x, 2)?)?;
    let group = group(ctx);
    let x_type = ctx.emit.value_type(&x)?;
    Ok(Cotangents::first(input_gradient(ctx.emit, &dy, &weight, group, &window, x_type)?))
}

/// The weight `[Cin, Cout / group, …]` of ConvTranspose is that of the Conv from its output back to its input.
pub fn conv_transpose(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let (dy, x, weight) = (ctx.cotangent()?, ctx.input(0)?, fixed_weight(ctx)?);
    let (from, to) = (ctx.emit.sizes(&x, 2)?, ctx.emit.sizes(&ctx.output(), 2)?);
    let kernel = ctx.emit.sizes(&weight, 2)?;
    let plain =
        ctx.node.string("auto_pad").is_none_or(|auto| auto == "NOTSET") && ctx.node.ints("output_shape").is_none();
    let mut window = Window::of(ctx, kernel, &to)?;
    let extra =
        ctx.node.ints("output_padding").map_or(vec![0; window.rank()], |p| p.iter().map(|&p| p as usize).collect());
    if !plain {
        let upper = ctx.node.string("auto_pad") == Some("SAME_UPPER");
        for axis in 0..window.rank() {
            let full = (from[axis] - 1) * window.strides[axis] + window.extent(axis) + extra[axis];
            let total = full.checked_sub(to[axis]).ok_or_else(|| ctx.refusal("an output_shape beyond its windows"))?;
            window.begin[axis] = if upper { total / 2 } else { total.div_ceil(2) };
            window.end[axis] = total - window.begin[axis];
        }
    }
    let mut attributes = window.attributes();
    attributes.insert("group".into(), (group(ctx) as i64).into());
    let mut shape = ctx.emit.shape(&x)?;
    for axis in 0..window.rank() {
        let covered = to[axis] + window.begin[axis] + window.end[axis] - window.extent(axis);
        shape[axis + 2] = Dim::Known(covered / window.strides[axis] + 1);
    }
    let element = ctx.emit.value_type(&x)?.element;
    let dx = ctx.emit.node("Conv", &[&dy, &weight], attributes, ValueType { element, shape });
    let ranges: Vec<_> = from.iter().enumerate().map(|(axis, &size)| (axis + 2, 0, size)).collect();
    Ok(Cotangents::first(ctx.emit.slice(&dx, &ranges)?))
}

fn fixed_weight(ctx: &VjpContext) -> Result<String, DeriveError> {
    if ctx.is_active(1) || ctx.is_active(2) {
        return Err(ctx.refusal("its weight or bias varies with the input"));
    }
    ctx.weight()
}

fn group(ctx: &VjpContext) -> usize {
    usize::try_from(ctx.node.int_or("group", 1)).unwrap_or(1).max(1)
}

/// Cotangent of the input (of type `x`) of a Conv with `weight` `[Cout, Cin / group, …]`, given `dy`.
pub fn input_gradient(
    emit: &mut Emitter,
    dy: &str,
    weight: &str,
    group: usize,
    window: &Window,
    x: ValueType,
) -> Result<String, DeriveError> {
    let constant = emit.literal(weight).is_some_and(|literal| literal.element == Element::Float);
    if window.is_dense() && constant {
        dense(emit, dy, weight, group, window, x)
    } else {
        strided(emit, dy, weight, group, window, x)
    }
}

/// Stride 1: correlate dy, padded by what the forward pads left over, with the flipped weight.
fn dense(
    emit: &mut Emitter,
    dy: &str,
    weight: &str,
    group: usize,
    window: &Window,
    x: ValueType,
) -> Result<String, DeriveError> {
    let flipped = flipped(emit, weight, group)?;
    let sizes = emit.sizes(dy, 2)?;
    let mut back = window.clone();
    let mut kept = Vec::new();
    for (axis, &size) in sizes.iter().enumerate() {
        let reach = window.extent(axis) - 1;
        let cut = |pad: usize| pad.saturating_sub(reach);
        kept.push((axis + 2, cut(window.begin[axis]), size - cut(window.end[axis])));
        back.begin[axis] = reach.saturating_sub(window.begin[axis]);
        back.end[axis] = reach.saturating_sub(window.end[axis]);
    }
    let dy = emit.slice(dy, &kept)?;
    let mut attributes = back.attributes();
    attributes.insert("group".into(), (group as i64).into());
    Ok(emit.node("Conv", &[&dy, &flipped], attributes, x))
}

/// `[Cout, Cin / g, …]` as `[Cin, Cout / g, …]` with every kernel axis reversed.
fn flipped(emit: &mut Emitter, weight: &str, group: usize) -> Result<String, DeriveError> {
    let unknown = || DeriveError::UnknownShape { value: weight.to_owned() };
    let (shape, values) = (emit.sizes(weight, 0)?, emit.literal_f32(weight).ok_or_else(unknown)?);
    emit.weight(format!("{weight}/flipped"), || {
        let (outputs, inputs, taps) = (shape[0] / group, shape[1], shape[2..].iter().product::<usize>());
        let mut result = Vec::with_capacity(values.len());
        for block in values.chunks_exact(outputs * inputs * taps) {
            for input in 0..inputs {
                for output in 0..outputs {
                    let start = (output * inputs + input) * taps;
                    result.extend(block[start..start + taps].iter().rev());
                }
            }
        }
        let mut flipped = shape.clone();
        (flipped[0], flipped[1]) = (inputs * group, outputs);
        Ok(Literal::from_f32_vec(&flipped, result))
    })
}

fn strided(
    emit: &mut Emitter,
    dy: &str,
    weight: &str,
    group: usize,
    window: &Window,
    x: ValueType,
) -> Result<String, DeriveError> {
    let positions = emit.sizes(dy, 2)?;
    let unknown = || DeriveError::UnknownShape { value: dy.to_owned() };
    let sizes: Vec<usize> = x.shape[2..].iter().map(Dim::known).collect::<Option<_>>().ok_or_else(unknown)?;
    let full: Vec<usize> =
        (0..sizes.len()).map(|axis| (positions[axis] - 1) * window.strides[axis] + window.extent(axis)).collect();
    let mut pads = window.clone();
    // Symmetric pads where the windows end at or before the end of the input plus the pad in front.
    let symmetric = (0..sizes.len()).all(|axis| {
        let end = sizes[axis] + 2 * window.begin[axis];
        end >= full[axis] && end - full[axis] < window.strides[axis]
    });
    let mut shape = x.shape.clone();
    let mut extra = vec![0; sizes.len()];
    if symmetric {
        pads.end.clone_from(&pads.begin);
        extra = (0..sizes.len()).map(|axis| sizes[axis] + 2 * window.begin[axis] - full[axis]).collect();
    } else {
        pads.begin.fill(0);
        pads.end.fill(0);
        for axis in 0..sizes.len() {
            extra[axis] = (sizes[axis] + window.begin[axis]).saturating_sub(full[axis]);
            shape[axis + 2] = Dim::Known(full[axis] + extra[axis]);
        }
    }
    let mut attributes = pads.attributes();
    attributes.insert("group".into(), (group as i64).into());
    attributes.insert("output_padding".into(), ints(extra));
    let dx = emit.node("ConvTranspose", &[dy, weight], attributes, ValueType { element: x.element, shape });
    if symmetric {
        return Ok(dx);
    }
    let ranges: Vec<_> =
        (0..sizes.len()).map(|axis| (axis + 2, window.begin[axis], window.begin[axis] + sizes[axis])).collect();
    emit.slice(&dx, &ranges)
}
