//! Type inference: the element type and shape of every value of a graph. A value whose type cannot
//! be inferred (unknown op, shape that depends on data) is absent; a contradiction is an error with
//! the node's name.

use indexmap::IndexMap;

use super::classical;
use super::error::{Fault, OnnxError};
use super::graph::{Graph, Literal, Node, ValueType};
use super::ops;
use super::types::site::{Site, Stop};
use super::types::{Types, oversize};

impl Types {
    /// Infers the types of the outputs of `node` and stores them.
    pub fn add_node(
        &mut self,
        node: &Node,
        constants: &IndexMap<String, Literal>,
    ) -> Result<(), OnnxError> {
        let inferred = infer_node(node, self, constants)?;
        let site = Site {
            node,
            types: self,
            constants,
        };
        let sizes = ops::of(node)
            .and_then(|op| op.content)
            .and_then(|content| content(&site));
        for (name, value_type) in node.outputs.iter().zip(inferred) {
            if let Some(value_type) = value_type.filter(|_| !name.is_empty()) {
                self.insert(name.clone(), value_type);
            }
        }
        if let (Some(name), Some(sizes)) = (node.output(0), sizes) {
            self.set_sizes(name, sizes);
        }
        Ok(())
    }
}

/// Types of every value of `graph`, whose nodes are in topological order. All contradictions are
/// reported together.
pub fn infer(graph: &Graph) -> Result<Types, OnnxError> {
    let mut types = Types::of_sources(graph);
    let mut faults = Vec::new();
    for node in &graph.nodes {
        match types.add_node(node, &graph.initializers) {
            Err(OnnxError::Model(found)) => faults.extend(found),
            other => other?,
        }
    }
    if faults.is_empty() {
        Ok(types)
    } else {
        Err(OnnxError::Model(faults))
    }
}

/// The type of each output of `node`, none where it is unknown. `constants` are the initializers of
/// its graph.
pub fn infer_node(
    node: &Node,
    types: &Types,
    constants: &IndexMap<String, Literal>,
) -> Result<Vec<Option<ValueType>>, OnnxError> {
    let site = Site {
        node,
        types,
        constants,
    };
    let types = match ops::of(node) {
        Some(op) => (op.types)(&site),
        None => classical::types(&site),
    };
    match types {
        Ok(mut inferred) => {
            inferred.resize(node.outputs.len(), None);
            match inferred
                .iter()
                .flatten()
                .find_map(|value_type| oversize(&value_type.shape))
            {
                Some(what) => Err(refuse(node, format!("an output would have {what}"))),
                None => Ok(inferred),
            }
        }
        Err(Stop::Unknown) => Ok(vec![None; node.outputs.len()]),
        Err(Stop::Wrong(reason)) => Err(refuse(node, reason)),
    }
}

fn refuse(node: &Node, reason: String) -> OnnxError {
    OnnxError::Model(vec![Fault::Node {
        node: node.label().into(),
        op: node.op_type.clone(),
        reason,
    }])
}
