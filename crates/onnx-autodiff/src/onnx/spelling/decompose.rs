//! Decomposes ops that opset 18 lacks or defines differently. A node whose input has no known type
//! stays as it is: the op that makes the input is what cannot be used, and is told.

use super::{Context, Rewritten, body::Body, without};
use crate::onnx::graph::{Dim, Element, Literal, Node};

/// Before opset 13, Softmax, LogSoftmax and Hardmax worked over all axes from `axis` (default 1)
/// on, flattened to one.
pub(crate) fn coerced(ctx: &mut Context<'_>, node: Node) -> Rewritten {
    let Some(shape) = node
        .input(0)
        .and_then(|input| ctx.types.shape(input))
        .map(<[Dim]>::to_vec)
    else {
        return Ok(vec![node]);
    };
    let axis = node.int_or("axis", 1);
    let axis = if axis < 0 {
        axis + shape.len() as i64
    } else {
        axis
    };
    let Some(after) = usize::try_from(axis)
        .ok()
        .and_then(|axis| shape.get(axis + 1..))
    else {
        return Err(format!(
            "axis {axis} does not exist in rank {}",
            shape.len()
        ));
    };
    if after.iter().all(|dim| *dim == Dim::Known(1)) {
        return Ok(vec![node.with("axis", axis)]);
    }
    let target = target_of(&shape).ok_or("its input has more than one size that is not known")?;
    let (flat, result) = (ctx.value(&node, "flat"), ctx.value(&node, "flat_result"));
    let target = ctx.constant(&node, "shape", Literal::vector_i64(&target));
    let first = Node::new("Flatten", [node.inputs[0].clone()], [flat.clone()]).with("axis", axis);
    let last = Node::new(
        "Reshape",
        [result.clone(), target],
        [node.outputs[0].clone()],
    );
    Ok(vec![
        first,
        Node {
            inputs: vec![flat],
            outputs: vec![result],
            ..node.with("axis", 1)
        },
        last,
    ])
}

pub(crate) fn gelu(ctx: &mut Context<'_>, node: Node) -> Rewritten {
    let x = node.inputs.first().cloned().unwrap_or_default();
    let Some(element) = ctx.types.get(&x).map(|t| t.element) else {
        return Ok(vec![node]);
    };
    let mut body = Body::of(ctx, &node, element);
    let y = body.gelu(&x, node.string("approximate") == Some("tanh"));
    body.finish(&y)
}

/// Swish of opset 24.
pub(crate) fn swish(ctx: &mut Context<'_>, node: Node) -> Rewritten {
    let x = node.inputs.first().cloned().unwrap_or_default();
    let Some(element) = ctx.types.get(&x).map(|t| t.element) else {
        return Ok(vec![node]);
    };
    let mut body = Body::of(ctx, &node, element);
    let y = body.swish(&x, node.float_or("alpha", 1.0));
    body.finish(&y)
}

/// RMSNormalization of opset 23, and ONNX Runtime's SimplifiedLayerNormalization, in the arithmetic
/// of `stash_type`.
pub(crate) fn rms_normalization(ctx: &mut Context<'_>, node: Node) -> Rewritten {
    let x = node.inputs.first().cloned().unwrap_or_default();
    let Some(x_type) = ctx.types.get(&x).cloned() else {
        return Ok(vec![node]);
    };
    let Some(scale) = node.input(1) else {
        return Err("its scale is missing".into());
    };
    let rank = x_type.shape.len() as i64;
    let axis = node.int_or("axis", -1);
    let axes: Vec<i64> = (if axis < 0 { axis + rank } else { axis }..rank).collect();
    let stash = i32::try_from(node.int_or("stash_type", 1)).ok();
    let Some(stash) = stash
        .and_then(Element::from_code)
        .filter(|of| of.is_float())
    else {
        return Err("its stash_type is no float".into());
    };
    let mut body = Body::of(ctx, &node, stash);
    let epsilon = node.float_or("epsilon", 1e-5);
    let exact = stash != x_type.element;
    let wide = if exact { body.cast(&x, stash) } else { x };
    let mut normal = body.rms_normalised(&wide, &axes, epsilon);
    if exact {
        normal = body.cast(&normal, x_type.element);
    }
    let y = body.op("Mul", [&normal, scale]);
    body.finish(&y)
}

/// (x - mean) / √(var + ε²) over `axes`: as (x - mean) / (√var + ε) to the last bit but where x is
/// constant, and with a derivative there. Where the axes include the batch it stays as it is.
pub(crate) fn mean_variance_normalization(ctx: &mut Context<'_>, node: Node) -> Rewritten {
    const EPSILON: f64 = 1e-9;
    let x = node.inputs.first().cloned().unwrap_or_default();
    let Some(x_type) = ctx.types.get(&x).cloned() else {
        return Ok(vec![node]);
    };
    let rank = x_type.shape.len() as i64;
    let named = node.ints("axes").unwrap_or(&[0, 2, 3]).iter();
    let named: Vec<i64> = named
        .map(|&axis| if axis < 0 { axis + rank } else { axis })
        .collect();
    if let Some(axis) = named.iter().find(|axis| !(0..rank).contains(axis)) {
        return Err(format!("axis {axis} does not exist in rank {rank}"));
    }
    // The mean over one row is that row.
    let alone = |axis: &i64| x_type.shape[*axis as usize] == Dim::Known(1);
    let axes: Vec<i64> = named.into_iter().filter(|axis| !alone(axis)).collect();
    if axes
        .iter()
        .any(|&axis| x_type.shape[axis as usize].known().is_none())
    {
        return Ok(vec![node]);
    }
    let mut body = Body::of(ctx, &node, x_type.element);
    let axes = body.ints(&axes);
    let mean_of = |x: &str, axes: &str| {
        Node::new("ReduceMean", [x, axes], []).with("noop_with_empty_axes", 1)
    };
    let mean = body.node(mean_of(&x, &axes));
    let centred = body.op("Sub", [&x, &mean]);
    let square = body.op("Mul", [&centred, &centred]);
    let variance = body.node(mean_of(&square, &axes));
    let least = body.number(EPSILON * EPSILON);
    let shifted = body.op("Add", [&variance, &least]);
    let deviation = body.op("Sqrt", [&shifted]);
    let y = body.op("Div", [&centred, &deviation]);
    body.finish(&y)
}

/// CastLike of a value whose type is known.
pub(crate) fn cast_like(ctx: &mut Context<'_>, mut node: Node) -> Rewritten {
    let like = node.input(1).and_then(|like| ctx.types.get(like));
    let Some(to) = like.map(|like| like.element) else {
        return Ok(vec![node]);
    };
    node.op_type = "Cast".into();
    node.inputs.truncate(1);
    Ok(vec![without(node, "saturate").with("to", to as i64)])
}

/// InstanceNormalization over groups, then scale and bias. Opset 18 gives these per group,
/// opset 21 per channel.
pub(crate) fn group_normalization(ctx: &mut Context<'_>, node: Node) -> Rewritten {
    let x = node.inputs.first().cloned().unwrap_or_default();
    let Some(value_type) = ctx.types.get(&x).cloned() else {
        return Ok(vec![node]);
    };
    let groups = usize::try_from(node.int_or("num_groups", 0)).unwrap_or(0);
    let channels = value_type
        .shape
        .get(1)
        .and_then(Dim::known)
        .ok_or("its number of channels is not known")?;
    if groups == 0 || !channels.is_multiple_of(groups) || value_type.shape.len() < 3 {
        return Err(format!("{groups} groups do not fit its input {value_type}"));
    }
    let back =
        target_of(&value_type.shape).ok_or("its input has more than one size that is not known")?;
    let plain =
        |value: f64| Literal::from_f64s(value_type.element, &[groups], &vec![value; groups]);
    let (scale, bias) = (
        per_channel(ctx, &node, 1, &value_type.shape)?,
        per_channel(ctx, &node, 2, &value_type.shape)?,
    );
    let mut body = Body::of(ctx, &node, value_type.element);
    let (ones, zeros) = (
        body.constant("ones", plain(1.0)),
        body.constant("zeros", plain(0.0)),
    );
    let grouped = body.reshaped(&x, &[0, groups as i64, -1]);
    let inputs = [grouped.as_str(), &ones, &zeros];
    let normal = Node::new("InstanceNormalization", inputs, [])
        .with("epsilon", node.float_or("epsilon", 1e-5));
    let normal = body.node(normal);
    let normal = body.reshaped(&normal, &back);
    let scaled = body.op("Mul", [&normal, &scale]);
    let y = body.op("Add", [&scaled, &bias]);
    body.finish(&y)
}

/// Input `index`, one value per group or channel, as a constant that broadcasts over `shape`.
fn per_channel(
    ctx: &mut Context<'_>,
    node: &Node,
    index: usize,
    shape: &[Dim],
) -> Result<String, String> {
    let channels = shape.get(1).and_then(Dim::known).unwrap_or(0);
    let given = node.input(index).and_then(|name| ctx.literal(name));
    let given =
        given.filter(|literal| !literal.is_empty() && channels.is_multiple_of(literal.len()));
    let Some(literal) = given else {
        return Err("scale and bias must be constants per group or channel".into());
    };
    let repeat = channels / literal.len();
    let values: Vec<f64> = literal
        .to_f64s()
        .into_iter()
        .flat_map(|v| std::iter::repeat_n(v, repeat))
        .collect();
    let mut spread = vec![1; shape.len() - 1];
    spread[0] = channels;
    let literal = Literal::from_f64s(literal.element, &spread, &values);
    Ok(ctx.constant(node, "per_channel", literal))
}

/// A Reshape target for `shape`, of which at most one dimension is a symbol.
fn target_of(shape: &[Dim]) -> Option<Vec<i64>> {
    let symbols = shape.iter().filter(|dim| dim.known().is_none()).count();
    (symbols <= 1).then(|| {
        shape
            .iter()
            .map(|dim| dim.known().map_or(-1, |size| size as i64))
            .collect()
    })
}
