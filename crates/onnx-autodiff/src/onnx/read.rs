//! Bytes of an ONNX model -> Graph. Weights are not copied: they share the mapped file. Unknown
//! ops, domains and attributes are kept; whoever has to understand a node refuses it. All faults
//! are reported together.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use indexmap::IndexMap;
use prost::Message;

use super::classical::{self, Tail};
use super::error::{Fault, OnnxError};
use super::external::ExternalFiles;
use super::functions;
use super::graph::{Attribute, Dim, Element, Graph, Literal, Node, ValueInfo, ValueType};
use super::infer::infer;
use super::limits::MAX_NODES;
use super::passes::{find_faults, sort};
use super::proto::attribute_proto::AttributeType;
use super::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, TensorShapeProto, ValueInfoProto,
    tensor_shape_proto, type_proto,
};
use super::tensor_proto::read_tensor;
use super::types::oversize;

/// The oldest opset that models are read of.
pub const OLDEST_OPSET: i64 = 6;
/// The newest opset that models are read of.
pub const NEWEST_OPSET: i64 = 25;
const IR_VERSIONS: std::ops::RangeInclusive<i64> = 3..=13;

/// Reads a model file; external data is looked for in its folder only.
pub fn read_model(path: &Path) -> Result<Graph, OnnxError> {
    read_model_files(path, None).map(|read| read.graph)
}

/// A model's file, read.
#[derive(Debug)]
pub struct ReadModel {
    /// The graph, functions of the model inlined.
    pub graph: Graph,
    /// The files that hold external data.
    pub external: Vec<PathBuf>,
    /// Outputs that are left out or replaced, for people.
    pub warnings: Vec<String>,
    /// The names of the classes, where the file stores them.
    pub labels: Vec<String>,
}

/// As [`read_model`], with what else is known of the file. `shape` is that of an input, without its
/// batch, where the file stores none.
pub fn read_model_files(path: &Path, shape: Option<&[usize]>) -> Result<ReadModel, OnnxError> {
    // Read, not mapped: overwriting a mapped file can kill the process (SIGBUS).
    let bytes = std::fs::read(path)
        .map_err(|source| OnnxError::File {
            path: path.into(),
            source,
        })?
        .into();
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut files = ExternalFiles::of(Some(folder));
    let (graph, Tail { warnings, labels }) = read(bytes, shape, &mut files)?;
    Ok(ReadModel {
        graph,
        external: files.opened(),
        warnings,
        labels,
    })
}

/// Reads a model from memory; `folder` is where its external data may lie.
pub fn read_bytes(bytes: Bytes, folder: Option<&Path>) -> Result<Graph, OnnxError> {
    read(bytes, None, &mut ExternalFiles::of(folder)).map(|(graph, _)| graph)
}

fn read(
    bytes: Bytes,
    shape: Option<&[usize]>,
    files: &mut ExternalFiles,
) -> Result<(Graph, Tail), OnnxError> {
    let mut model = ModelProto::decode(bytes)?;
    functions::inline(&mut model).map_err(|fault| OnnxError::Model(vec![fault]))?;
    let Some(mut proto) = model.graph else {
        return Err(OnnxError::Model(vec![Fault::NoGraph]));
    };
    if proto.node.len() > MAX_NODES {
        return Err(OnnxError::Model(vec![Fault::TooManyNodes {
            nodes: proto.node.len(),
            most: MAX_NODES,
        }]));
    }
    let mut faults = Vec::new();
    let ir_version = model.ir_version.unwrap_or_default();
    if !IR_VERSIONS.contains(&ir_version) {
        faults.push(Fault::IrVersion(ir_version));
    }
    let opset_imports: BTreeMap<String, i64> = model
        .opset_import
        .iter()
        .map(|import| (read_domain(import.domain()), import.version()))
        .collect();
    match opset_imports.get("") {
        None => faults.push(Fault::NoOpset),
        Some(&version) if !(OLDEST_OPSET..=NEWEST_OPSET).contains(&version) => {
            faults.push(Fault::Opset {
                version,
                oldest: OLDEST_OPSET,
                newest: NEWEST_OPSET,
            });
        }
        Some(_) => {}
    }
    let metadata = model.metadata_props.into_iter();
    let mut graph = Graph {
        name: proto.name.clone().unwrap_or_default(),
        ir_version,
        opset_imports,
        inputs: vec![],
        outputs: vec![],
        initializers: IndexMap::new(),
        nodes: vec![],
        metadata: metadata
            .map(|entry| {
                (
                    entry.key.unwrap_or_default(),
                    entry.value.unwrap_or_default(),
                )
            })
            .collect(),
        is_regression: false,
    };
    let tail = classical::cut_tail(&mut proto, |output| read_declared(output).is_some());
    read_initializers(&proto, files, &mut graph, &mut faults);
    read_nodes(&proto, files, &mut graph, &mut faults);
    let declared = read_ends(&proto, shape, &mut graph, &mut faults);
    // After an unreadable tensor or a wrong opset, further checks would report consequences.
    if faults.is_empty() {
        let cycle = sort(&mut graph).err();
        // After a failed sort, faults of the order are the same cycle.
        faults.extend(
            find_faults(&graph)
                .into_iter()
                .filter(|fault| !matches!(fault, Fault::Order { .. })),
        );
        faults.extend(cycle);
    }
    if faults.is_empty() {
        graph = classical::write_out(graph);
        complete_outputs(&mut graph, declared, &mut faults)?;
    }
    if faults.is_empty() {
        Ok((graph, tail))
    } else {
        Err(OnnxError::Model(faults))
    }
}

/// Constants and nodes of a graph inside a node. Its data must lie in the model's file.
pub(super) fn read_part(
    proto: &GraphProto,
) -> Result<(IndexMap<String, Literal>, Vec<Node>), String> {
    let (mut graph, mut faults) = (Graph::default(), Vec::new());
    let mut files = ExternalFiles::of(None);
    read_initializers(proto, &mut files, &mut graph, &mut faults);
    read_nodes(proto, &mut files, &mut graph, &mut faults);
    match faults.first() {
        Some(fault) => Err(fault.to_string()),
        None => Ok((graph.initializers, graph.nodes)),
    }
}

fn read_domain(domain: &str) -> String {
    if domain == "ai.onnx" {
        String::new()
    } else {
        domain.into()
    }
}

fn read_initializers(
    proto: &GraphProto,
    files: &mut ExternalFiles,
    graph: &mut Graph,
    faults: &mut Vec<Fault>,
) {
    for tensor in &proto.initializer {
        let value = tensor.name().to_string();
        match read_tensor(tensor, files) {
            Ok(literal) => insert_initializer(graph, value, literal, faults),
            Err(reason) => faults.push(Fault::Tensor { value, reason }),
        }
    }
    for sparse in &proto.sparse_initializer {
        let value = sparse
            .values
            .as_ref()
            .map_or("(unnamed)", |values| values.name());
        faults.push(Fault::Sparse {
            value: value.into(),
        });
    }
}

fn insert_initializer(graph: &mut Graph, value: String, literal: Literal, faults: &mut Vec<Fault>) {
    if graph.initializers.insert(value.clone(), literal).is_some() {
        faults.push(Fault::Duplicate { value });
    }
}

fn read_nodes(
    proto: &GraphProto,
    files: &mut ExternalFiles,
    graph: &mut Graph,
    faults: &mut Vec<Fault>,
) {
    for node_proto in &proto.node {
        let node = read_node(node_proto, files, faults);
        match (constant_value(&node), node.outputs.as_slice()) {
            (Some(literal), [output]) => insert_initializer(graph, output.clone(), literal, faults),
            _ => graph.nodes.push(node),
        }
    }
}

fn read_node(proto: &NodeProto, files: &mut ExternalFiles, faults: &mut Vec<Fault>) -> Node {
    let mut node = Node {
        name: proto.name().into(),
        op_type: proto.op_type().into(),
        domain: read_domain(proto.domain()),
        inputs: proto.input.clone(),
        outputs: proto.output.clone(),
        attributes: BTreeMap::new(),
    };
    for attribute in &proto.attribute {
        let name = attribute.name().to_string();
        let value = read_attribute(attribute, files);
        if node.attributes.insert(name.clone(), value).is_some() {
            let reason = format!("attribute {name} is given twice");
            faults.push(Fault::Node {
                node: node.label().into(),
                op: node.op_type.clone(),
                reason,
            });
        }
    }
    node
}

fn read_attribute(proto: &AttributeProto, files: &mut ExternalFiles) -> Attribute {
    let opaque = || Attribute::Opaque(proto.encode_to_vec().into());
    if proto.ref_attr_name.is_some() {
        return opaque();
    }
    match attribute_type(proto) {
        AttributeType::Float => Attribute::Float(proto.f()),
        AttributeType::Int => Attribute::Int(proto.i()),
        AttributeType::String => Attribute::String(proto.s.clone().unwrap_or_default()),
        AttributeType::Floats => Attribute::Floats(proto.floats.clone()),
        AttributeType::Ints => Attribute::Ints(proto.ints.clone()),
        AttributeType::Strings => Attribute::Strings(proto.strings.clone()),
        AttributeType::Tensor => proto
            .t
            .as_ref()
            .and_then(|t| read_tensor(t, files).ok())
            .map_or_else(opaque, Attribute::Tensor),
        _ => opaque(),
    }
}

/// Early exporters did not set the type of attributes: the field that is set determines it.
fn attribute_type(proto: &AttributeProto) -> AttributeType {
    match AttributeType::try_from(proto.r#type.unwrap_or_default()) {
        Ok(AttributeType::Undefined) => {}
        Ok(known) => return known,
        Err(_) => return AttributeType::Undefined,
    }
    let filled = [
        (proto.f.is_some(), AttributeType::Float),
        (proto.i.is_some(), AttributeType::Int),
        (proto.s.is_some(), AttributeType::String),
        (proto.t.is_some(), AttributeType::Tensor),
        (!proto.floats.is_empty(), AttributeType::Floats),
        (!proto.ints.is_empty(), AttributeType::Ints),
        (!proto.strings.is_empty(), AttributeType::Strings),
    ];
    filled
        .into_iter()
        .find(|(is, _)| *is)
        .map_or(AttributeType::Undefined, |(_, kind)| kind)
}

/// The tensor of a Constant node; `None` for strings and sparse tensors, which stay nodes.
fn constant_value(node: &Node) -> Option<Literal> {
    if !node.is("Constant") {
        return None;
    }
    let [(name, value)] = node.attributes.iter().collect::<Vec<_>>()[..] else {
        return None;
    };
    match (name.as_str(), value) {
        ("value", Attribute::Tensor(literal)) => Some(literal.clone()),
        ("value_float", Attribute::Float(value)) => Some(Literal::scalar_f32(*value)),
        ("value_int", Attribute::Int(value)) => Some(Literal::scalar_i64(*value)),
        ("value_floats", Attribute::Floats(values)) => {
            Some(Literal::from_f32s(&[values.len()], values))
        }
        ("value_ints", Attribute::Ints(values)) => Some(Literal::vector_i64(values)),
        _ => None,
    }
}

/// A value's type as declared in the file: either part may be missing.
struct Declared {
    element: Option<Element>,
    shape: Option<Vec<Dim>>,
}

/// Inputs, without those that are initializers too (they are constants), and outputs, whose types
/// may still be incomplete. `missing` is the shape of one row of an input that is stored without.
fn read_ends(
    proto: &GraphProto,
    missing: Option<&[usize]>,
    graph: &mut Graph,
    faults: &mut Vec<Fault>,
) -> Vec<Declared> {
    let stored: HashSet<&str> = proto
        .initializer
        .iter()
        .map(|tensor| tensor.name())
        .collect();
    for input in proto
        .input
        .iter()
        .filter(|input| !stored.contains(input.name()))
    {
        match read_declared(input) {
            Some(Declared {
                element: Some(element),
                shape: Some(shape),
            }) => {
                graph.inputs.push(ValueInfo {
                    name: input.name().into(),
                    value_type: ValueType { element, shape },
                });
            }
            Some(Declared {
                element: Some(element),
                shape: None,
            }) => match missing {
                Some(row) => {
                    let batch = Dim::Symbol(format!("{}.0", input.name()));
                    let row = row.iter().map(|&size| Dim::Known(size));
                    graph.inputs.push(ValueInfo {
                        name: input.name().into(),
                        value_type: ValueType {
                            element,
                            shape: [batch].into_iter().chain(row).collect(),
                        },
                    });
                }
                None => faults.push(Fault::NoShape {
                    value: input.name().into(),
                }),
            },
            _ => faults.push(Fault::NotATensor {
                value: input.name().into(),
            }),
        }
    }
    let mut declared = Vec::with_capacity(proto.output.len());
    for output in &proto.output {
        let Some(found) = read_declared(output) else {
            faults.push(Fault::NotATensor {
                value: output.name().into(),
            });
            continue;
        };
        let (element, shape) = (
            found.element.unwrap_or(Element::Float),
            found.shape.clone().unwrap_or_default(),
        );
        graph.outputs.push(ValueInfo {
            name: output.name().into(),
            value_type: ValueType { element, shape },
        });
        declared.push(found);
    }
    declared
}

/// Completes the declared types of outputs by type inference.
fn complete_outputs(
    graph: &mut Graph,
    declared: Vec<Declared>,
    faults: &mut Vec<Fault>,
) -> Result<(), OnnxError> {
    if declared
        .iter()
        .all(|declared| declared.element.is_some() && declared.shape.is_some())
    {
        return Ok(());
    }
    let types = infer(graph)?;
    for (output, declared) in graph.outputs.iter_mut().zip(declared) {
        output.value_type = match (declared, types.get(&output.name)) {
            (
                Declared {
                    element: Some(element),
                    shape: Some(shape),
                },
                _,
            ) => ValueType { element, shape },
            (Declared { element, shape }, Some(inferred)) => ValueType {
                element: element.unwrap_or(inferred.element),
                shape: shape.unwrap_or_else(|| inferred.shape.clone()),
            },
            _ => {
                faults.push(Fault::Untyped {
                    value: output.name.clone(),
                });
                continue;
            }
        };
    }
    Ok(())
}

/// `None` if the value is no tensor, or its element type or size is not supported.
fn read_declared(proto: &ValueInfoProto) -> Option<Declared> {
    let tensor = match proto.r#type.as_ref().and_then(|kind| kind.value.as_ref()) {
        None => {
            return Some(Declared {
                element: None,
                shape: None,
            });
        }
        Some(type_proto::Value::TensorType(tensor)) => tensor,
        Some(_) => return None,
    };
    let element = match tensor.elem_type() {
        0 => None,
        code => Some(Element::from_code(code)?),
    };
    let shape = tensor
        .shape
        .as_ref()
        .map(|shape| read_shape(proto.name(), shape));
    let fits = shape.as_ref().is_none_or(|shape| oversize(shape).is_none());
    fits.then_some(Declared { element, shape })
}

/// A dimension without a positive size or a name is named after its value and axis.
fn read_shape(value: &str, shape: &TensorShapeProto) -> Vec<Dim> {
    use tensor_shape_proto::dimension::Value as DimValue;
    let dims = shape
        .dim
        .iter()
        .enumerate()
        .map(|(axis, dim)| match &dim.value {
            Some(DimValue::DimValue(size)) if *size > 0 => Dim::Known(*size as usize),
            Some(DimValue::DimParam(symbol)) if !symbol.is_empty() => Dim::Symbol(symbol.clone()),
            _ => Dim::Symbol(format!("{value}.{axis}")),
        });
    dims.collect()
}
