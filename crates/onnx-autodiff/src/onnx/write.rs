//! Graph -> bytes of an ONNX model. Equal graphs give identical bytes: attributes, metadata and
//! initializers are sorted by name. Protobuf ends at 2 GB: a larger model is refused, unless its
//! weights lie outside (`write_model_external`, `write_model_parts`).

use std::{
    collections::HashMap,
    io::{self, Write},
};

use bytes::Bytes;
use prost::Message;

use super::error::OnnxError;
use super::graph::{Attribute, Dim, Graph, Literal, Node, ValueInfo};
use super::limits::LARGEST_MODEL;
use super::proto::attribute_proto::AttributeType;
use super::proto::tensor_proto::DataLocation;
use super::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, tensor_shape_proto, type_proto,
};
use super::tensor_proto::{describe_tensor, write_tensor};

/// The location of an initializer's bytes in an external file, relative to the model's folder. The
/// length is that of the literal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalRef {
    /// The file's path.
    pub location: String,
    /// Bytes from the start of the file.
    pub offset: u64,
}

/// Encodes the model with all weights inside. Fails above [`LARGEST_MODEL`], before copying.
pub fn write_model(graph: &Graph) -> Result<Vec<u8>, OnnxError> {
    write_model_external(graph, usize::MAX, &mut |_, _| None)
}

/// Encodes the model. `place` gets every initializer of at least `threshold_bytes` and returns its
/// location in an external file, or `None` to keep it inside.
pub fn write_model_external(
    graph: &Graph,
    threshold_bytes: usize,
    place: &mut dyn FnMut(&str, &Literal) -> Option<ExternalRef>,
) -> Result<Vec<u8>, OnnxError> {
    let mut initializers: Vec<_> = graph.initializers.iter().collect();
    initializers.sort_by_key(|(name, _)| name.as_str());
    let initializer = initializers.into_iter().map(|(name, literal)| {
        let outside = if literal.bytes.len() >= threshold_bytes {
            place(name, literal)
        } else {
            None
        };
        outside.map_or_else(
            || write_tensor(name, literal),
            |at| external_tensor(name, literal, &at),
        )
    });
    let graph_proto = write_graph(graph, initializer.collect());
    let model = ModelProto {
        // Before IR 4 an initializer had to be listed among the inputs too.
        ir_version: Some(graph.ir_version.max(4)),
        producer_name: Some("explaind".into()),
        graph: Some(graph_proto),
        opset_import: graph
            .opset_imports
            .iter()
            .map(|(domain, &version)| OperatorSetIdProto {
                domain: Some(domain.clone()),
                version: Some(version),
            })
            .collect(),
        metadata_props: graph
            .metadata
            .iter()
            .map(|(key, value)| entry(key, value.clone()))
            .collect(),
        ..ModelProto::default()
    };
    match model.encoded_len() {
        bytes if bytes > LARGEST_MODEL => Err(OnnxError::TooLarge { bytes }),
        _ => Ok(model.encode_to_vec()),
    }
}

/// Initializers below this size, in bytes, stay in the model's file.
const INSIDE_BYTES: usize = 1024;
/// External data starts at multiples of this, so that runtimes can map it.
const ALIGNMENT: u64 = 4096;

/// A model in two files.
pub struct ModelParts {
    /// The model's own file.
    pub model: Vec<u8>,
    /// What the file beside it holds, and where each part starts, by rising offset; between them
    /// are zeros.
    pub data: Vec<(u64, Bytes)>,
}

impl ModelParts {
    /// Writes the file beside the model's.
    pub fn write_data(&self, file: &mut impl Write) -> io::Result<()> {
        let mut end = 0;
        for (start, bytes) in &self.data {
            io::copy(&mut io::Read::take(io::repeat(0), start - end), file)?;
            file.write_all(bytes)?;
            end = start + bytes.len() as u64;
        }
        file.flush()
    }
}

/// Encodes the model with its weights in a file called `location` beside it. Bytes that several
/// initializers share are there once.
pub fn write_model_parts(graph: &Graph, location: &str) -> Result<ModelParts, OnnxError> {
    let (mut data, mut end) = (Vec::<(u64, Bytes)>::new(), 0_u64);
    let mut known: HashMap<(*const u8, usize), u64> = HashMap::new();
    let mut place = |_: &str, literal: &Literal| {
        let bytes = &literal.bytes;
        let offset = *known
            .entry((bytes.as_ptr(), bytes.len()))
            .or_insert_with(|| {
                let start = end.next_multiple_of(ALIGNMENT);
                end = start + bytes.len() as u64;
                data.push((start, bytes.clone()));
                start
            });
        Some(ExternalRef {
            location: location.to_owned(),
            offset,
        })
    };
    let model = write_model_external(graph, INSIDE_BYTES, &mut place)?;
    Ok(ModelParts { model, data })
}

fn external_tensor(name: &str, literal: &Literal, at: &ExternalRef) -> TensorProto {
    TensorProto {
        data_location: Some(DataLocation::External as i32),
        external_data: vec![
            entry("location", at.location.clone()),
            entry("offset", at.offset.to_string()),
            entry("length", literal.bytes.len().to_string()),
        ],
        ..describe_tensor(name, literal)
    }
}

fn entry(key: &str, value: String) -> StringStringEntryProto {
    StringStringEntryProto {
        key: Some(key.into()),
        value: Some(value),
    }
}

/// The attribute with this name that is a graph, such as the body of a Loop.
pub fn subgraph(name: &str, graph: &Graph) -> Attribute {
    let initializers = graph.initializers.iter();
    let initializers = initializers.map(|(name, literal)| write_tensor(name, literal));
    let attribute = AttributeProto {
        name: Some(name.into()),
        r#type: Some(AttributeType::Graph as i32),
        g: Some(write_graph(graph, initializers.collect())),
        ..Default::default()
    };
    Attribute::Opaque(attribute.encode_to_vec().into())
}

fn write_graph(graph: &Graph, initializer: Vec<TensorProto>) -> GraphProto {
    GraphProto {
        name: Some(if graph.name.is_empty() {
            "graph".into()
        } else {
            graph.name.clone()
        }),
        initializer,
        node: graph.nodes.iter().map(write_node).collect(),
        input: graph.inputs.iter().map(write_value).collect(),
        output: graph.outputs.iter().map(write_value).collect(),
        ..GraphProto::default()
    }
}

/// The encoded node: equal nodes give identical bytes.
pub fn encode_node(node: &Node) -> Vec<u8> {
    write_node(node).encode_to_vec()
}

fn write_node(node: &Node) -> NodeProto {
    NodeProto {
        input: node.inputs.clone(),
        output: node.outputs.clone(),
        name: (!node.name.is_empty()).then(|| node.name.clone()),
        op_type: Some(node.op_type.clone()),
        attribute: node
            .attributes
            .iter()
            .map(|(name, value)| write_attribute(name, value))
            .collect(),
        domain: (!node.domain.is_empty()).then(|| node.domain.clone()),
        overload: None,
    }
}

fn write_attribute(name: &str, value: &Attribute) -> AttributeProto {
    let typed = |kind: AttributeType| AttributeProto {
        name: Some(name.into()),
        r#type: Some(kind as i32),
        ..Default::default()
    };
    match value {
        Attribute::Float(f) => AttributeProto {
            f: Some(*f),
            ..typed(AttributeType::Float)
        },
        Attribute::Int(i) => AttributeProto {
            i: Some(*i),
            ..typed(AttributeType::Int)
        },
        Attribute::String(s) => AttributeProto {
            s: Some(s.clone()),
            ..typed(AttributeType::String)
        },
        Attribute::Tensor(t) => AttributeProto {
            t: Some(write_tensor("", t)),
            ..typed(AttributeType::Tensor)
        },
        Attribute::Floats(floats) => AttributeProto {
            floats: floats.clone(),
            ..typed(AttributeType::Floats)
        },
        Attribute::Ints(ints) => AttributeProto {
            ints: ints.clone(),
            ..typed(AttributeType::Ints)
        },
        Attribute::Strings(strings) => AttributeProto {
            strings: strings.clone(),
            ..typed(AttributeType::Strings)
        },
        // Bytes encoded by `read` decode. Of other bytes only the attribute's name is written.
        Attribute::Opaque(bytes) => AttributeProto::decode(bytes.clone())
            .unwrap_or_else(|_| typed(AttributeType::Undefined)),
    }
}

fn write_value(value: &ValueInfo) -> ValueInfoProto {
    use tensor_shape_proto::dimension::Value as DimValue;
    let dim = value
        .value_type
        .shape
        .iter()
        .map(|dim| tensor_shape_proto::Dimension {
            value: Some(match dim {
                Dim::Known(size) => DimValue::DimValue(*size as i64),
                Dim::Symbol(name) => DimValue::DimParam(name.clone()),
            }),
        });
    let tensor = type_proto::Tensor {
        elem_type: Some(value.value_type.element as i32),
        shape: Some(TensorShapeProto { dim: dim.collect() }),
    };
    ValueInfoProto {
        name: Some(value.name.clone()),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(tensor)),
        }),
    }
}
