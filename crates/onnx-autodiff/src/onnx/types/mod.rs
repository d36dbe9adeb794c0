//! Element types and shapes, and one inference function per kind of op, by family. The batch may be
//! symbolic; dimensions computed from numbers are numbers.

// Functions named as the ops whose types and values they infer.
#[allow(missing_docs)]
pub mod layout;
#[allow(missing_docs)]
pub mod pointwise;
#[allow(missing_docs)]
pub mod reduce;
pub mod site;
pub mod size;
#[allow(missing_docs)]
pub mod values;
#[allow(missing_docs)]
pub mod window;

use std::collections::HashMap;

use self::size::Sizes;
use super::graph::{Dim, Graph, ValueType};
use super::limits::{LARGEST_RANK, LARGEST_SIZE, LARGEST_TENSOR};

/// Value -> type, with the values of small integer tensors (shapes) as far as they are known.
#[derive(Clone, Debug, Default)]
pub struct Types {
    types: HashMap<String, ValueType>,
    sizes: HashMap<String, Sizes>,
}

impl Types {
    /// The type of `value`; `None` if unknown.
    pub fn get(&self, value: &str) -> Option<&ValueType> {
        self.types.get(value)
    }

    /// The shape of `value`; `None` if unknown.
    pub fn shape(&self, value: &str) -> Option<&[Dim]> {
        self.types
            .get(value)
            .map(|value_type| value_type.shape.as_slice())
    }

    /// Sets the type of `value`.
    pub fn insert(&mut self, value: impl Into<String>, value_type: ValueType) {
        self.types.insert(value.into(), value_type);
    }

    /// The known elements of a small integer tensor.
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

    pub(super) fn set_sizes(&mut self, value: &str, sizes: Sizes) {
        self.sizes.insert(value.into(), sizes);
    }
}

/// The limit that a shape exceeds, if any; unknown dimensions count as 1.
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
