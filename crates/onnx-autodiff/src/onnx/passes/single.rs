//! Converts a graph to float32, with the graphs inside of its nodes: constants, casts and declared
//! types of other float types; ops stay the same. Values beyond the range of float32 saturate.

use prost::Message;

use super::checked;
use crate::onnx::{
    error::OnnxError,
    external::ExternalFiles,
    graph::{Attribute, Element, Graph, Literal},
    proto::{AttributeProto, GraphProto, TensorProto, ValueInfoProto, type_proto},
    tensor_proto::{read_tensor, write_tensor},
};

/// Attributes that name an element type.
const NAMING: &[&str] = &["dtype", "output_dtype", "to"];

/// Converts float16 and bfloat16, and with `doubles` float64.
pub fn single(mut graph: Graph, doubles: bool) -> Result<Graph, OnnxError> {
    let single = Single { doubles };
    for value in graph.inputs.iter_mut().chain(&mut graph.outputs) {
        if single.converts(value.value_type.element) {
            value.value_type.element = Element::Float;
        }
    }
    let constants = graph.initializers.values_mut();
    constants.for_each(|literal| single.literal(literal));
    for node in &mut graph.nodes {
        for (name, attribute) in &mut node.attributes {
            match attribute {
                Attribute::Tensor(literal) => single.literal(literal),
                Attribute::Int(code) if NAMING.contains(&name.as_str()) => single.code(code),
                Attribute::Opaque(bytes) => {
                    if let Ok(mut inside) = AttributeProto::decode(bytes.clone()) {
                        single.attribute(&mut inside);
                        *bytes = inside.encode_to_vec().into();
                    }
                }
                _ => {}
            }
        }
    }
    checked("single", graph)
}

struct Single {
    doubles: bool,
}

impl Single {
    fn converts(&self, element: Element) -> bool {
        match element {
            Element::Float16 | Element::Bfloat16 => true,
            Element::Double => self.doubles,
            _ => false,
        }
    }

    fn literal(&self, literal: &mut Literal) {
        if self.converts(literal.element) {
            *literal = as_float32(literal);
        }
    }

    /// The code of an element type.
    fn code(&self, code: &mut i64) {
        let element = i32::try_from(*code).ok().and_then(Element::from_code);
        if element.is_some_and(|element| self.converts(element)) {
            *code = Element::Float as i64;
        }
    }

    fn attribute(&self, attribute: &mut AttributeProto) {
        let is_named = NAMING.contains(&attribute.name());
        attribute
            .t
            .iter_mut()
            .for_each(|tensor| self.tensor(tensor));
        if let Some(code) = attribute.i.as_mut().filter(|_| is_named) {
            self.code(code);
        }
        let graphs = attribute.g.iter_mut().chain(&mut attribute.graphs);
        graphs.for_each(|graph| self.graph(graph));
    }

    fn graph(&self, graph: &mut GraphProto) {
        let ends = graph.input.iter_mut().chain(&mut graph.output);
        ends.chain(&mut graph.value_info)
            .for_each(|value| self.value(value));
        let constants = graph.initializer.iter_mut();
        constants.for_each(|tensor| self.tensor(tensor));
        let attributes = graph.node.iter_mut().flat_map(|node| &mut node.attribute);
        attributes.for_each(|attribute| self.attribute(attribute));
    }

    fn value(&self, value: &mut ValueInfoProto) {
        let declared = value.r#type.as_mut().and_then(|of| of.value.as_mut());
        let Some(type_proto::Value::TensorType(tensor)) = declared else {
            return;
        };
        let element = tensor.elem_type.and_then(Element::from_code);
        if element.is_some_and(|element| self.converts(element)) {
            tensor.elem_type = Some(Element::Float as i32);
        }
    }

    /// One whose data is not inside stays: whoever reads the graph tells of it.
    fn tensor(&self, tensor: &mut TensorProto) {
        let element = tensor.data_type.and_then(Element::from_code);
        if !element.is_some_and(|element| self.converts(element)) {
            return;
        }
        if let Ok(literal) = read_tensor(tensor, &mut ExternalFiles::of(None)) {
            *tensor = write_tensor(tensor.name(), &as_float32(&literal));
        }
    }
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
