//! Finds the logits and probabilities of a classifier. An output of Softmax or Sigmoid gives both;
//! other outputs are logits, to which Softmax over the classes is added (Sigmoid for one class). The
//! quantities of a regression stand for both.

use super::{
    DeriveError,
    emit::{Emitter, attributes},
};
use crate::onnx::{
    graph::{Dim, Element, Node},
    ops::{self, Elements},
};

/// Names of two values `[batch, classes]`.
pub(crate) struct HeadValues {
    pub logits: String,
    pub probabilities: String,
    pub classes: usize,
}

/// The head of the first output of floats that is `[batch, classes]`, else of the first that
/// flattens to it.
pub(super) fn attach(emit: &mut Emitter, batch: &Dim) -> Result<HeadValues, DeriveError> {
    let outputs = emit.graph.outputs.iter();
    let outputs: Vec<String> = outputs.map(|output| output.name.clone()).collect();
    let classes_of = |name: &String| {
        let value_type = emit.value_type(name).ok()?;
        let classes = class_count(&value_type.shape, batch)?;
        let is_flat = value_type.shape.len() == 2;
        let is_float = value_type.element.is_float();
        is_float.then(|| (is_flat, name.clone(), classes))
    };
    let fitting: Vec<_> = outputs.iter().filter_map(classes_of).collect();
    let flat = fitting.iter().find(|(is_flat, ..)| *is_flat);
    let Some((_, output, classes)) = flat.or(fitting.first()).cloned() else {
        let described = |name: String| {
            let found = emit.value_type(&name).map(|found| found.to_string());
            format!(
                "{name} {}",
                found.unwrap_or_else(|_| "of unknown type".to_owned())
            )
        };
        let outputs = outputs.into_iter().map(described).collect();
        return Err(DeriveError::NoHead { outputs });
    };
    emit.set_scope("head".into());
    if emit.graph.is_regression {
        let logits = flatten(emit, &output, classes)?;
        return Ok(HeadValues {
            probabilities: logits.clone(),
            logits,
            classes,
        });
    }
    let end = end(&emit.graph.nodes, &output).cloned();
    let normalised = end
        .as_ref()
        .filter(|node| spans_classes(emit, node, batch, classes));
    let Some(node) = normalised else {
        let logits = flatten(emit, &output, classes)?;
        let probabilities = probabilities(emit, &logits, classes)?;
        return Ok(HeadValues {
            logits,
            probabilities,
            classes,
        });
    };
    let logits = flatten(emit, &node.inputs[0], classes)?;
    let probabilities = match node.op_type.as_str() {
        "LogSoftmax" => probabilities(emit, &logits, classes)?,
        _ => flatten(emit, &output, classes)?,
    };
    Ok(HeadValues {
        logits,
        probabilities,
        classes,
    })
}

/// The number of classes of a value `[batch, classes]`, with any dimensions of 1. A batch that is
/// not known to be another is taken for the batch.
fn class_count(shape: &[Dim], batch: &Dim) -> Option<usize> {
    let (rows, rest) = shape.split_first()?;
    let sizes = rest.iter().map(Dim::known).collect::<Option<Vec<_>>>()?;
    let plain = (rows == batch || matches!(rows, Dim::Symbol(_)))
        && !sizes.contains(&0)
        && sizes.iter().filter(|&&size| size > 1).count() <= 1;
    plain.then(|| sizes.iter().product())
}

/// The Softmax, LogSoftmax or Sigmoid whose output, possibly reshaped, the value is.
fn end<'a>(nodes: &'a [Node], output: &str) -> Option<&'a Node> {
    let mut output = output;
    // In reverse topological order.
    for node in nodes.iter().rev().filter(|node| node.domain.is_empty()) {
        if node.output(0) != Some(output) {
            continue;
        }
        match node.op_type.as_str() {
            "Softmax" | "LogSoftmax" | "Sigmoid" => return Some(node),
            "Cast" if node.int("to") == Some(Element::Float as i64) => output = node.input(0)?,
            _ if ops::of(node)?.elements == Elements::Same => output = node.input(0)?,
            _ => return None,
        }
    }
    None
}

/// Whether the node works over the classes: Softmax along their axis; Sigmoid is elementwise.
fn spans_classes(emit: &Emitter, node: &Node, batch: &Dim, classes: usize) -> bool {
    let Ok(shape) = emit.shape(&node.inputs[0]) else {
        return false;
    };
    let axis = node.int_or("axis", -1);
    let axis = if axis < 0 {
        axis + shape.len() as i64
    } else {
        axis
    };
    class_count(&shape, batch) == Some(classes)
        && (node.op_type == "Sigmoid" || shape.get(axis as usize) == Some(&Dim::Known(classes)))
}

fn flatten(emit: &mut Emitter, value: &str, classes: usize) -> Result<String, DeriveError> {
    let batch = emit.shape(value)?[0].clone();
    let flat = emit.reshape(value, &[batch, Dim::Known(classes)])?;
    emit.cast(&flat, Element::Float)
}

fn probabilities(emit: &mut Emitter, logits: &str, classes: usize) -> Result<String, DeriveError> {
    if classes == 1 {
        return emit.unary("Sigmoid", logits);
    }
    let output = emit.value_type(logits)?;
    Ok(emit.node(
        "Softmax",
        &[logits],
        attributes([("axis", 1.into())]),
        output,
    ))
}
