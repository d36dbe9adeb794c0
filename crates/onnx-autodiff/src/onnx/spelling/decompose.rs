//! Decomposes ops that opset 18 lacks or defines differently.

use super::{Context, Rewritten};
use crate::onnx::graph::{Dim, Element, Literal, Node};

/// Before opset 13, Softmax, LogSoftmax and Hardmax worked over all axes from `axis` (default 1)
/// on, flattened to one.
pub(crate) fn coerced(ctx: &mut Context<'_>, node: Node) -> Rewritten {
    let Some(shape) = node
        .input(0)
        .and_then(|input| ctx.types.shape(input))
        .map(<[Dim]>::to_vec)
    else {
        return Err("the rank of its input is not known".into());
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

/// x/2 (1 + erf(x/√2)), or with tanh(√(2/π) (x + 0.044715 x³)).
pub(crate) fn gelu(ctx: &mut Context<'_>, node: Node) -> Rewritten {
    let x = node.inputs.first().cloned().unwrap_or_default();
    let Some(element) = ctx.types.get(&x).map(|t| t.element) else {
        return Err("the element type of its input is not known".into());
    };
    let mut nodes = Vec::new();
    let tanh = node.string("approximate") == Some("tanh");
    let inner = if tanh {
        let cube = emit(ctx, &mut nodes, &node, "Mul", [&x, &x]);
        let cube = emit(ctx, &mut nodes, &node, "Mul", [&cube, &x]);
        let cube = scale(ctx, &mut nodes, &node, &cube, element, 0.044715);
        let sum = emit(ctx, &mut nodes, &node, "Add", [&x, &cube]);
        let sum = scale(
            ctx,
            &mut nodes,
            &node,
            &sum,
            element,
            std::f64::consts::FRAC_2_SQRT_PI / 2f64.sqrt(),
        );
        emit(ctx, &mut nodes, &node, "Tanh", [&sum])
    } else {
        let scaled = scale(
            ctx,
            &mut nodes,
            &node,
            &x,
            element,
            std::f64::consts::FRAC_1_SQRT_2,
        );
        emit(ctx, &mut nodes, &node, "Erf", [&scaled])
    };
    let one = ctx.constant(&node, "one", Literal::from_f64s(element, &[], &[1.0]));
    let gate = emit(ctx, &mut nodes, &node, "Add", [&inner, &one]);
    let half = scale(ctx, &mut nodes, &node, &x, element, 0.5);
    nodes.push(Node::new("Mul", [half, gate], [node.outputs[0].clone()]));
    Ok(nodes)
}

fn emit<const N: usize>(
    ctx: &mut Context<'_>,
    nodes: &mut Vec<Node>,
    source: &Node,
    op: &str,
    inputs: [&String; N],
) -> String {
    let output = ctx.value(source, &op.to_lowercase());
    nodes.push(Node::new(op, inputs.map(String::clone), [output.clone()]));
    output
}

fn scale(
    ctx: &mut Context<'_>,
    nodes: &mut Vec<Node>,
    source: &Node,
    x: &String,
    element: Element,
    by: f64,
) -> String {
    let factor = ctx.constant(source, "factor", Literal::from_f64s(element, &[], &[by]));
    emit(ctx, nodes, source, "Mul", [x, &factor])
}

/// InstanceNormalization over groups, then scale and bias. Opset 18 gives these per group,
/// opset 21 per channel.
pub(crate) fn group_normalization(ctx: &mut Context<'_>, node: Node) -> Rewritten {
    let x = node.inputs.first().cloned().unwrap_or_default();
    let value_type = ctx
        .types
        .get(&x)
        .cloned()
        .ok_or("the type of its input is not known")?;
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
    let split = ctx.constant(
        &node,
        "groups",
        Literal::vector_i64(&[0, groups as i64, -1]),
    );
    let back = ctx.constant(&node, "shape", Literal::vector_i64(&back));
    let plain =
        |value: f64| Literal::from_f64s(value_type.element, &[groups], &vec![value; groups]);
    let (ones, zeros) = (
        ctx.constant(&node, "ones", plain(1.0)),
        ctx.constant(&node, "zeros", plain(0.0)),
    );
    let mut nodes = Vec::new();
    let grouped = emit(ctx, &mut nodes, &node, "Reshape", [&x, &split]);
    let normal = emit(
        ctx,
        &mut nodes,
        &node,
        "InstanceNormalization",
        [&grouped, &ones, &zeros],
    );
    if let Some(last) = nodes.pop() {
        nodes.push(last.with("epsilon", node.float_or("epsilon", 1e-5)));
    }
    let normal = emit(ctx, &mut nodes, &node, "Reshape", [&normal, &back]);
    let (scale, bias) = (
        per_channel(ctx, &node, 1, &value_type.shape)?,
        per_channel(ctx, &node, 2, &value_type.shape)?,
    );
    let scaled = emit(ctx, &mut nodes, &node, "Mul", [&normal, &scale]);
    nodes.push(Node::new("Add", [scaled, bias], [node.outputs[0].clone()]));
    Ok(nodes)
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
