//! Converts a graph to float32: constants, casts and declared types of other float types; ops stay
//! the same. Values beyond the range of float32 saturate.

use super::checked;
use crate::onnx::{
    error::OnnxError,
    graph::{Attribute, Element, Graph, Literal},
};

/// Converts float16 and bfloat16, and with `doubles` float64.
pub fn single(mut graph: Graph, doubles: bool) -> Result<Graph, OnnxError> {
    let other = |element: Element| match element {
        Element::Float16 | Element::Bfloat16 => true,
        Element::Double => doubles,
        _ => false,
    };
    for value in graph
        .inputs
        .iter_mut()
        .chain(&mut graph.outputs)
        .map(|value| &mut value.value_type.element)
    {
        if other(*value) {
            *value = Element::Float;
        }
    }
    let convert = |literal: &mut Literal| {
        if other(literal.element) {
            *literal = as_float32(literal);
        }
    };
    graph.initializers.values_mut().for_each(convert);
    for node in &mut graph.nodes {
        for (name, attribute) in &mut node.attributes {
            match attribute {
                Attribute::Tensor(literal) => convert(literal),
                Attribute::Int(code) if ["to", "dtype"].contains(&name.as_str()) => {
                    let element = i32::try_from(*code).ok().and_then(Element::from_code);
                    if element.is_some_and(other) {
                        *code = Element::Float as i64;
                    }
                }
                _ => {}
            }
        }
    }
    checked("single", graph)
}

fn as_float32(literal: &Literal) -> Literal {
    let fits = |value: f64| {
        if value.is_finite() {
            value.clamp(f64::from(f32::MIN), f64::from(f32::MAX))
        } else {
            value
        }
    };
    let values = literal
        .to_f64s()
        .into_iter()
        .map(|value| fits(value) as f32)
        .collect();
    Literal::from_f32_vec(&literal.shape, values)
}
