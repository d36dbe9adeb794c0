//! Element types and shapes of every value. The batch may stay a symbol; what follows from numbers
//! comes out as numbers. A value whose type cannot be told (unknown op, shape that depends on data)
//! is absent; a contradiction is an error naming the node.

mod layout;
mod pointwise;
mod reduce;
mod site;
pub mod size;
mod values;
mod window;

use std::collections::HashMap;

use indexmap::IndexMap;

pub use self::layout::slice_range;
use self::site::{Site, Stop};
use self::size::Sizes;
pub use self::values::to_literal;
use super::error::{Fault, OnnxError};
use super::graph::{Dim, Graph, Literal, Node, ValueType};

/// Dimensions stay below this, so that sums and products of a few of them do not overflow.
pub const LARGEST_SIZE: usize = i32::MAX as usize;
/// Elements that a value may have in one row of the batch: 1 GiB of float32.
pub const LARGEST_TENSOR: usize = 1 << 28;
pub const LARGEST_RANK: usize = 32;
/// Integers of a shape that are followed through a graph.
pub const LONGEST_SHAPE: usize = 64;

/// Value -> type, with the values of small integer tensors (shapes) as far as they are known.
#[derive(Clone, Debug, Default)]
pub struct Types {
    types: HashMap<String, ValueType>,
    sizes: HashMap<String, Sizes>,
}

impl Types {
    pub fn get(&self, value: &str) -> Option<&ValueType> {
        self.types.get(value)
    }

    /// The shape of `value`; none when unknown.
    pub fn shape(&self, value: &str) -> Option<&[Dim]> {
        self.types
            .get(value)
            .map(|value_type| value_type.shape.as_slice())
    }

    pub fn insert(&mut self, value: impl Into<String>, value_type: ValueType) {
        self.types.insert(value.into(), value_type);
    }

    /// What is known of the content of a small integer tensor.
    pub fn sizes(&self, value: &str) -> Option<&Sizes> {
        self.sizes.get(value)
    }

    /// Types of the inputs and initializers of `graph`.
    pub fn of_sources(graph: &Graph) -> Self {
        let inputs = graph
            .inputs
            .iter()
            .map(|input| (input.name.clone(), input.value_type.clone()));
        let constants = graph
            .initializers
            .iter()
            .map(|(name, literal)| (name.clone(), literal.value_type()));
        Self {
            types: inputs.chain(constants).collect(),
            sizes: HashMap::new(),
        }
    }

    /// Infers the outputs of `node` and remembers them.
    pub fn add_node(
        &mut self,
        node: &Node,
        constants: &IndexMap<String, Literal>,
    ) -> Result<(), OnnxError> {
        let inferred = infer_node(node, self, constants)?;
        let sizes = values::sizes_of(&Site {
            node,
            types: self,
            constants,
        });
        for (name, value_type) in node.outputs.iter().zip(inferred) {
            if let Some(value_type) = value_type.filter(|_| !name.is_empty()) {
                self.types.insert(name.clone(), value_type);
            }
        }
        if let (Some(name), Some(sizes)) = (node.output(0), sizes) {
            self.sizes.insert(name.into(), sizes);
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
    if !node.domain.is_empty() {
        return Ok(vec![None; node.outputs.len()]);
    }
    let site = Site {
        node,
        types,
        constants,
    };
    let families = [
        pointwise::infer,
        window::infer,
        reduce::infer,
        layout::infer,
    ];
    let outcome = families
        .iter()
        .find_map(|family| family(&site))
        .unwrap_or(Err(Stop::Unknown));
    match outcome {
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

/// What is too large about a shape; dimensions that are not known count as 1.
pub fn oversize(shape: &[Dim]) -> Option<String> {
    if shape.len() > LARGEST_RANK {
        return Some(format!(
            "{} dimensions, and at most {LARGEST_RANK} are supported",
            shape.len()
        ));
    }
    let sizes = || shape.iter().filter_map(Dim::known);
    if let Some(size) = sizes().find(|&size| size > LARGEST_SIZE) {
        return Some(format!(
            "a dimension of {size}, and at most {LARGEST_SIZE} is supported"
        ));
    }
    let elements = sizes().fold(1, usize::saturating_mul);
    (elements > LARGEST_TENSOR).then(|| {
        format!("{elements} elements for one input, and at most {LARGEST_TENSOR} are supported")
    })
}

fn refuse(node: &Node, reason: String) -> OnnxError {
    OnnxError::Model(vec![Fault::Node {
        node: node.label().into(),
        op: node.op_type.clone(),
        reason,
    }])
}
