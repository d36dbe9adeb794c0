//! Ops whose output has the shape of their input, or the broadcast shape of their operands.

use super::site::{Inferred, Site, Stop, one, wrong};
use crate::onnx::graph::{Element, ValueType};

/// The output is left untyped.
pub fn unknown(_: &Site<'_>) -> Inferred {
    Err(Stop::Unknown)
}

pub fn same(site: &Site<'_>) -> Inferred {
    site.value_type(0).map(|value_type| vec![Some(value_type)])
}

pub fn batch_normalization(site: &Site<'_>) -> Inferred {
    let input = site.value_type(0)?;
    if let (Some(channels), Ok(scale)) = (
        input.shape.get(1).and_then(|dim| dim.known()),
        site.shape(1),
    ) && scale
        .first()
        .and_then(|dim| dim.known())
        .is_some_and(|found| found != channels)
    {
        return wrong(format!(
            "the scale has {} values for {channels} channels",
            scale[0]
        ));
    }
    Ok(vec![Some(input)])
}

pub fn cast(site: &Site<'_>) -> Inferred {
    let element = if site.node.is("CastLike") {
        site.element(1)?
    } else {
        let code = site
            .node
            .int("to")
            .and_then(|code| i32::try_from(code).ok());
        code.and_then(Element::from_code).ok_or(Stop::Unknown)?
    };
    one(element, site.shape(0)?)
}

/// In the element type of the scale.
pub fn dequantized(site: &Site<'_>) -> Inferred {
    one(site.element(1)?, site.shape(0)?)
}

/// In the element type of the zero point.
pub fn quantized(site: &Site<'_>) -> Inferred {
    let named = site.node.int("output_dtype").filter(|&code| code != 0);
    let element = match named.and_then(|code| i32::try_from(code).ok()) {
        Some(code) => Element::from_code(code).ok_or(Stop::Unknown)?,
        None if site.has(2) => site.element(2)?,
        None => Element::Uint8,
    };
    one(element, site.shape(0)?)
}

/// Bytes, their scale and their zero point.
pub fn dynamically_quantized(site: &Site<'_>) -> Inferred {
    let bytes = |shape| Some(ValueType::new(Element::Uint8, shape));
    let scale = Some(ValueType::new(Element::Float, vec![]));
    Ok(vec![bytes(site.shape(0)?), scale, bytes(vec![])])
}

/// The mask is of truth values.
pub fn dropout(site: &Site<'_>) -> Inferred {
    let value = site.value_type(0)?;
    let mask = ValueType {
        element: Element::Bool,
        shape: value.shape.clone(),
    };
    Ok(vec![Some(value), Some(mask)])
}

/// Truth values of one input.
pub fn test(site: &Site<'_>) -> Inferred {
    one(Element::Bool, site.shape(0)?)
}

/// Truth values of two inputs.
pub fn compare(site: &Site<'_>) -> Inferred {
    broadcast(site, Element::Bool)
}

pub fn arithmetic(site: &Site<'_>) -> Inferred {
    broadcast(site, site.element(0)?)
}

/// `Where(condition, yes, no)`.
pub fn select(site: &Site<'_>) -> Inferred {
    broadcast(site, site.element(1)?)
}

/// Before opset 7, with the attribute `broadcast`, the second operand has some of the axes of the
/// first.
fn broadcast(site: &Site<'_>, element: Element) -> Inferred {
    if site.node.int_or("broadcast", 0) != 0 {
        return one(element, site.shape(0)?);
    }
    let shapes = (0..site.node.inputs.len())
        .map(|i| site.shape(i))
        .collect::<Result<Vec<_>, _>>()?;
    one(element, site.broadcast(&shapes)?)
}
