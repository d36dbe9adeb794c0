//! Attributes of older opsets that opset 18 takes as inputs, and renamed ops.

use super::{Context, Rewritten, body::Body, without};
use crate::onnx::graph::{Attribute, Dim, Element, Literal, Node};
use crate::onnx::types::size::{Size, Sizes};

/// Puts `literal` at input `index`, filling absent inputs before it.
fn set_input(ctx: &mut Context<'_>, node: &mut Node, index: usize, role: &str, literal: Literal) {
    let name = ctx.constant(node, role, literal);
    if node.inputs.len() <= index {
        node.inputs.resize(index + 1, String::new());
    }
    node.inputs[index] = name;
}

/// Moves integers from attribute `name` to input `index`.
fn ints_to_input(ctx: &mut Context<'_>, node: &mut Node, name: &str, index: usize) {
    if let Some(Attribute::Ints(values)) = node.attributes.remove(name) {
        set_input(ctx, node, index, name, Literal::vector_i64(&values));
    }
}

/// A scalar of the element type of the node's first input.
fn scalar_like(ctx: &Context<'_>, node: &Node, value: f32) -> Literal {
    let element = node
        .input(0)
        .and_then(|input| ctx.types.get(input))
        .map_or(Element::Float, |t| t.element);
    Literal::from_f64s(element, &[], &[value.into()])
}

pub(crate) fn axes_to_input(ctx: &mut Context<'_>, mut node: Node) -> Rewritten {
    ints_to_input(ctx, &mut node, "axes", 1);
    Ok(vec![node])
}

/// Before opset 7 the axes of the second operand start at `axis` of the first, or are its last.
pub(crate) fn broadcast(ctx: &mut Context<'_>, mut node: Node) -> Rewritten {
    let axis = node.attributes.remove("axis");
    node.attributes.remove("broadcast");
    let Some(Attribute::Int(axis)) = axis else {
        return Ok(vec![node]);
    };
    aligned(ctx, node, axis)
}

/// Before opset 7 PRelu has a slope for each channel, or one.
pub(crate) fn slopes_of_channels(ctx: &mut Context<'_>, node: Node) -> Rewritten {
    aligned(ctx, node, 1)
}

/// Input 1 gets axes of one element behind its own, which start at `axis` of input 0.
fn aligned(ctx: &mut Context<'_>, mut node: Node, axis: i64) -> Rewritten {
    let ranks = [0, 1].map(|at| {
        let name = node.input(at)?;
        let constant = || ctx.literal(name).map(|literal| literal.shape.len());
        ctx.types.shape(name).map(<[Dim]>::len).or_else(constant)
    });
    let [Some(rank), Some(own)] = ranks else {
        return Ok(vec![node]);
    };
    let from = if axis < 0 { axis + rank as i64 } else { axis };
    let behind = usize::try_from(from)
        .ok()
        .and_then(|from| rank.checked_sub(from)?.checked_sub(own));
    let Some(behind) = behind else {
        return Err(format!(
            "an operand of rank {own} at axis {axis} does not fit one of rank {rank}"
        ));
    };
    if behind == 0 || own == 0 {
        return Ok(vec![node]);
    }
    let axes: Vec<i64> = (own..own + behind).map(|axis| axis as i64).collect();
    let axes = ctx.constant(&node, "axes", Literal::vector_i64(&axes));
    let spread = ctx.value(&node, "spread");
    let second = std::mem::replace(&mut node.inputs[1], spread.clone());
    Ok(vec![Node::new("Unsqueeze", [second, axes], [spread]), node])
}

pub(crate) fn clip(ctx: &mut Context<'_>, mut node: Node) -> Rewritten {
    for (index, name) in [(1, "min"), (2, "max")] {
        if let Some(Attribute::Float(bound)) = node.attributes.remove(name) {
            let literal = scalar_like(ctx, &node, bound);
            set_input(ctx, &mut node, index, name, literal);
        }
    }
    Ok(vec![node])
}

pub(crate) fn pad(ctx: &mut Context<'_>, mut node: Node) -> Rewritten {
    if node.string("mode") == Some("wrap") {
        return wrapped(ctx, node);
    }
    if ctx.opset >= 11 {
        return Ok(vec![node]);
    }
    ints_to_input(ctx, &mut node, "pads", 1);
    if let Some(Attribute::Float(value)) = node.attributes.remove("value") {
        let literal = scalar_like(ctx, &node, value);
        set_input(ctx, &mut node, 2, "value", literal);
    }
    Ok(vec![node])
}

/// Pad in mode `wrap`, of opset 19: along each axis, the end of the input stands before it and its
/// beginning behind it.
fn wrapped(ctx: &mut Context<'_>, node: Node) -> Rewritten {
    let (mut x, ints) = (node.inputs[0].clone(), |at: usize| {
        node.input(at)
            .map(|name| ctx.literal(name).and_then(Literal::to_i64s))
    });
    let Some(x_type) = ctx.types.get(&x).cloned() else {
        return Ok(vec![node]);
    };
    let rank = x_type.shape.len() as i64;
    let (Some(Some(pads)), axes) = (ints(1), ints(3)) else {
        return Err("pads must be constant".into());
    };
    let Some(axes) = axes.unwrap_or_else(|| Some((0..rank).collect())) else {
        return Err("axes must be constant".into());
    };
    if pads.len() != 2 * axes.len() {
        return Err(format!("{} pads for {} axes", pads.len(), axes.len()));
    }
    let (before, after) = pads.split_at(axes.len());
    let mut body = Body::of(ctx, &node, x_type.element);
    for ((&axis, &before), &after) in axes.iter().zip(before).zip(after) {
        let at = usize::try_from(if axis < 0 { axis + rank } else { axis });
        let dim = at
            .ok()
            .and_then(|at| x_type.shape.get(at))
            .and_then(Dim::known);
        if (before, after) == (0, 0) {
            continue;
        }
        let most = dim.map_or(0, |size| size as i64);
        if !(0..=most).contains(&before) || !(0..=most).contains(&after) {
            return Err(format!(
                "mode wrap with pads {before} and {after} along axis {axis} is not supported"
            ));
        }
        let mut part = |start: i64, end: i64| {
            let [start, end, axis] = [start, end, axis].map(|number| body.ints(&[number]));
            body.op("Slice", [&x, &start, &end, &axis])
        };
        let mut parts = Vec::new();
        if before > 0 {
            parts.push(part(-before, i64::MAX));
        }
        parts.push(x.clone());
        if after > 0 {
            parts.push(part(0, after));
        }
        x = body.node(Node::new("Concat", parts, []).with("axis", axis));
    }
    if x == node.inputs[0] {
        x = body.op("Identity", [&x]);
    }
    body.finish(&x)
}

pub(crate) fn slice(ctx: &mut Context<'_>, mut node: Node) -> Rewritten {
    for (index, name) in [(1, "starts"), (2, "ends"), (3, "axes")] {
        ints_to_input(ctx, &mut node, name, index);
    }
    Ok(vec![node])
}

pub(crate) fn top_k(ctx: &mut Context<'_>, mut node: Node) -> Rewritten {
    let Some(Attribute::Int(k)) = node.attributes.remove("k") else {
        return Err("k is missing".into());
    };
    set_input(ctx, &mut node, 1, "k", Literal::vector_i64(&[k]));
    Ok(vec![node])
}

pub(crate) fn split(ctx: &mut Context<'_>, mut node: Node) -> Rewritten {
    ints_to_input(ctx, &mut node, "split", 1);
    if node.input(1).is_none() {
        let count = node.outputs.len() as i64;
        node = node.with("num_outputs", count);
    }
    Ok(vec![node])
}

/// Upsample takes the pixel at floor(i / scale): Resize with asymmetric coordinates.
pub(crate) fn upsample(ctx: &mut Context<'_>, mut node: Node) -> Rewritten {
    if let Some(Attribute::Floats(scales)) = node.attributes.remove("scales") {
        set_input(
            ctx,
            &mut node,
            1,
            "scales",
            Literal::from_f32s(&[scales.len()], &scales),
        );
    }
    scaled(node, "floor")
}

fn scaled(mut node: Node, nearest_mode: &'static str) -> Rewritten {
    let Some(scales) = node.inputs.get(1).cloned() else {
        return Err("scales are missing".into());
    };
    node.inputs = vec![node.inputs[0].clone(), String::new(), scales];
    node.op_type = "Resize".into();
    if node.string("mode").is_none_or(|mode| mode == "nearest") {
        node = node.with("nearest_mode", nearest_mode);
    }
    Ok(vec![
        node.with("coordinate_transformation_mode", "asymmetric"),
    ])
}

pub(crate) fn resize(ctx: &mut Context<'_>, mut node: Node) -> Rewritten {
    if ctx.opset < 11 {
        // Resize of opset 10 rounds down when it enlarges and up when it shrinks.
        let scales = node
            .input(1)
            .and_then(|name| ctx.literal(name))
            .and_then(Literal::to_f32s);
        let Some(scales) = scales else {
            return Err("scales must be constant".into());
        };
        return match (
            scales.iter().any(|&s| s < 1.0),
            scales.iter().any(|&s| s > 1.0),
        ) {
            (true, true) => {
                Err("it enlarges and shrinks at once, which opset 10 leaves unclear".into())
            }
            (shrinks, _) => scaled(node, if shrinks { "ceil" } else { "floor" }),
        };
    }
    let mode = node
        .string("coordinate_transformation_mode")
        .unwrap_or("half_pixel")
        .to_string();
    if ["tf_half_pixel_for_nn", "half_pixel_symmetric"].contains(&mode.as_str()) {
        return Err(format!(
            "coordinate_transformation_mode {mode} is not supported"
        ));
    }
    for input in &mut node.inputs {
        if ctx.literal(input).is_some_and(Literal::is_empty) {
            input.clear();
        }
    }
    if mode == "tf_crop_and_resize" {
        return Ok(vec![node]);
    }
    size_only_what_changes(ctx, &mut node);
    Ok(vec![without(node, "extrapolation_value")])
}

/// Sizes are given for the axes alone that they change, so that the batch is none of them.
fn size_only_what_changes(ctx: &mut Context<'_>, node: &mut Node) {
    let (Some(x), Some(sizes)) = (node.input(0), node.input(3)) else {
        return;
    };
    let constant = || ctx.literal(sizes).and_then(Sizes::of_literal);
    let sizes = ctx.types.sizes(sizes).cloned().or_else(constant);
    let (Some(shape), Some(sizes)) = (ctx.types.shape(x), sizes) else {
        return;
    };
    if node.attributes.contains_key("axes") || shape.len() != sizes.items.len() {
        return;
    }
    let dims = shape.iter().map(Size::from).zip(sizes.items).enumerate();
    let changed = dims.filter(|(_, (dim, size))| size.as_ref() != Some(dim));
    let changed = changed.map(|(axis, (_, size))| Some((axis as i64, size?.as_known()?)));
    let changed: Option<(Vec<i64>, Vec<i64>)> = changed.collect();
    if let Some((axes, sizes)) = changed.filter(|(axes, _)| !axes.is_empty()) {
        node.attributes.insert("axes".into(), axes.into());
        set_input(ctx, node, 3, "sizes", Literal::vector_i64(&sizes));
    }
}

pub(crate) fn scatter(_: &mut Context<'_>, node: Node) -> Rewritten {
    Ok(vec![Node {
        op_type: "ScatterElements".into(),
        ..node
    }])
}

/// Drops the attribute `saturate`, which applies only to 8-bit floats; these are not supported.
pub(crate) fn cast(_: &mut Context<'_>, node: Node) -> Rewritten {
    Ok(vec![without(node, "saturate")])
}
