//! The inference form of ops with a training mode, and pools in `ceil_mode`.

use super::{Context, Rewritten, without};
use crate::onnx::graph::{Dim, Literal, Node};

pub(crate) fn dropout(ctx: &mut Context<'_>, mut node: Node) -> Rewritten {
    let training = node
        .input(2)
        .map(|mode| ctx.literal(mode).and_then(Literal::as_i64));
    if training.is_some_and(|mode| mode != Some(0)) {
        return Err("training mode is not supported: export the model in evaluation mode".into());
    }
    if node
        .outputs
        .iter()
        .skip(1)
        .any(|mask| ctx.used.contains(mask))
    {
        return Err("its mask is used, which only training needs".into());
    }
    node.inputs.truncate(1);
    node.outputs.truncate(1);
    node.attributes.clear();
    Ok(vec![Node {
        op_type: "Identity".into(),
        ..node
    }])
}

pub(crate) fn max_pool(ctx: &mut Context<'_>, node: Node) -> Rewritten {
    Ok(vec![without_ceil(ctx, node)])
}

pub(crate) fn average_pool(ctx: &mut Context<'_>, node: Node) -> Rewritten {
    let node = without_ceil(ctx, node);
    match node.ints("dilations") {
        Some(dilations) if dilations.iter().any(|&d| d != 1) => {
            Err("dilations are not supported".into())
        }
        _ => Ok(vec![without(node, "dilations")]),
    }
}

/// Only the inference form: one output, statistics as inputs. Training mode over one row that does
/// not depend on the input, as exporters write the standardisation of weights, is an
/// InstanceNormalization.
pub(crate) fn batch_normalization(ctx: &mut Context<'_>, mut node: Node) -> Rewritten {
    let is_read = |output: &String| ctx.used.contains(output);
    let trains = node.int_or("training_mode", 0) != 0;
    let input = node.input(0).unwrap_or_default();
    let rows = ctx.types.shape(input).and_then(|shape| shape.first());
    let of_weights = !ctx.varying.contains(input) && rows == Some(&Dim::Known(1));
    if node.outputs.iter().skip(1).any(is_read) || trains && !of_weights {
        return Err("training mode is not supported: export the model in evaluation mode".into());
    }
    if trains {
        let epsilon = node.float_or("epsilon", 1e-5);
        node.inputs.truncate(3);
        node.outputs.truncate(1);
        node.attributes.clear();
        node.op_type = "InstanceNormalization".into();
        return Ok(vec![node.with("epsilon", epsilon)]);
    }
    if node.int_or("spatial", 1) == 0 {
        return Err("spatial = 0 is not supported".into());
    }
    for name in ["spatial", "training_mode", "is_test"] {
        node.attributes.remove(name);
    }
    node.outputs.truncate(1);
    Ok(vec![node])
}

/// Converts a pool in `ceil_mode` to one with end pads that give the same number of windows. ONNX's
/// shape inference also counts windows that start beyond the input, which no kernel computes; ONNX
/// Runtime does not open graphs with such shapes.
fn without_ceil(ctx: &Context<'_>, node: Node) -> Node {
    let sizes = |value: Option<&str>| -> Option<Vec<i64>> {
        let shape = value.and_then(|value| ctx.types.shape(value))?;
        shape
            .iter()
            .skip(2)
            .map(|dim| Some(dim.known()? as i64))
            .collect()
    };
    let (Some(kernel), Some(input)) = (node.ints("kernel_shape"), sizes(node.input(0))) else {
        return node;
    };
    let Some(windows) = sizes(node.outputs.first().map(String::as_str)) else {
        return node;
    };
    if node.int_or("ceil_mode", 0) == 0
        || node.string("auto_pad").is_some_and(|pad| pad != "NOTSET")
    {
        return node;
    }
    let rank = kernel.len();
    let each = |name: &str, other: i64| node.ints(name).map_or(vec![other; rank], <[i64]>::to_vec);
    let (strides, dilations) = (each("strides", 1), each("dilations", 1));
    let given = node.ints("pads").map_or(vec![0; 2 * rank], <[i64]>::to_vec);
    let mut pads = given.clone();
    for axis in 0..rank {
        let span = (kernel[axis] - 1) * dilations[axis] + 1;
        let needed = (windows[axis] - 1) * strides[axis] + span - input[axis] - given[axis];
        pads[rank + axis] = needed.max(given[rank + axis]);
    }
    // Pads would be counted in the means.
    if pads != given && node.int_or("count_include_pad", 0) != 0 {
        return node;
    }
    without(node, "ceil_mode").with("pads", pads)
}
