//! QuantizeLinear and DequantizeLinear of opset 19 and later, and those of ONNX Runtime's own domain,
//! as of opset 18. Their integers may have 16 bits all the same, which `passes::widen` spells last.

use super::{Context, Rewritten, body::Body, without};
use crate::onnx::graph::{Element, Literal, Node};

/// The integer type that opset 21 may name stands as a zero point.
pub(crate) fn quantize(ctx: &mut Context<'_>, node: Node) -> Rewritten {
    let named = node.int_or("output_dtype", 0);
    let mut node = whole(node)?;
    if named != 0 && node.input(2).is_none() {
        let element = i32::try_from(named).ok().and_then(Element::from_code);
        let element = element.filter(|element| !element.is_float());
        let element = element.ok_or("its integers are not of 8 or 16 bits")?;
        let shape = node.input(1).and_then(|scale| ctx.types.get(scale));
        let shape = shape.and_then(|scale| scale.known_shape());
        let shape = shape.ok_or("the shape of its scale is not known")?;
        let zeros = vec![0.0; shape.iter().product()];
        let zeros = Literal::from_f64s(element, &shape, &zeros);
        node.inputs.truncate(2);
        let zero_point = ctx.constant(&node, "zero_point", zeros);
        node.inputs.push(zero_point);
    }
    Ok(vec![node])
}

/// The float type that opset 23 may name is that of a Cast.
pub(crate) fn dequantize(ctx: &mut Context<'_>, node: Node) -> Rewritten {
    let named = node.int_or("output_dtype", 0);
    let node = whole(node)?;
    let scale = node.input(1).and_then(|scale| ctx.types.get(scale));
    let Some(scale) = scale.map(|found| found.element).filter(|_| named != 0) else {
        return Ok(vec![node]);
    };
    let element = i32::try_from(named).ok().and_then(Element::from_code);
    let element = element.filter(|element| element.is_float());
    let element = element.ok_or("its output is of no known float type")?;
    if element == scale {
        return Ok(vec![node]);
    }
    let mut body = Body::of(ctx, &node, scale);
    let floats = body.node(Node {
        outputs: Vec::new(),
        ..node.clone()
    });
    let floats = body.cast(&floats, element);
    body.finish(&floats)
}

/// Without the attributes of later opsets, in ONNX's domain.
fn whole(mut node: Node) -> Result<Node, String> {
    if node.int_or("block_size", 0) != 0 {
        return Err(
            "scales of blocks are not supported: quantise per tensor or per channel".into(),
        );
    }
    node.domain.clear();
    for later in ["block_size", "output_dtype", "precision", "saturate"] {
        node = without(node, later);
    }
    Ok(node)
}
