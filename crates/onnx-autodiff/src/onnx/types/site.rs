//! The context of type inference for one node: the types and constants of its inputs, and errors.

use indexmap::IndexMap;

use super::Types;
use super::size::{Size, Sizes};
use crate::onnx::graph::{Dim, Element, Literal, Node, ValueType};

/// Why a type cannot be inferred.
pub enum Stop {
    /// The inputs are not known well enough; no fault.
    Unknown,
    /// The node contradicts its inputs.
    Wrong(String),
}

/// The type of each output, none where it is not known.
pub type Inferred = Result<Vec<Option<ValueType>>, Stop>;

/// The node contradicts its inputs.
pub fn wrong<T>(reason: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Wrong(reason.into()))
}

/// A single output of this type.
pub fn one(element: Element, shape: Vec<Dim>) -> Inferred {
    Ok(vec![Some(ValueType { element, shape })])
}

/// A node, and what is known of its inputs.
pub struct Site<'a> {
    /// The node.
    pub node: &'a Node,
    /// Of the values before it.
    pub types: &'a Types,
    /// The initializers of the graph.
    pub constants: &'a IndexMap<String, Literal>,
}

impl<'a> Site<'a> {
    /// Whether input `index` is there.
    pub fn has(&self, index: usize) -> bool {
        self.node.input(index).is_some()
    }

    /// Input `index`, if it is a constant.
    pub fn constant(&self, index: usize) -> Option<&'a Literal> {
        self.constants.get(self.node.input(index)?)
    }

    /// The type of input `index`.
    pub fn value_type(&self, index: usize) -> Result<ValueType, Stop> {
        let Some(name) = self.node.input(index) else {
            return wrong(format!("input {index} is missing"));
        };
        let constant = || self.constants.get(name).map(Literal::value_type);
        self.types
            .get(name)
            .cloned()
            .or_else(constant)
            .ok_or(Stop::Unknown)
    }

    /// The shape of input `index`.
    pub fn shape(&self, index: usize) -> Result<Vec<Dim>, Stop> {
        self.value_type(index).map(|value_type| value_type.shape)
    }

    /// The element type of input `index`.
    pub fn element(&self, index: usize) -> Result<Element, Stop> {
        self.value_type(index).map(|value_type| value_type.element)
    }

    /// The known integers of an input.
    pub fn sizes(&self, index: usize) -> Result<Sizes, Stop> {
        let known = self
            .node
            .input(index)
            .and_then(|name| self.types.sizes(name))
            .cloned();
        known
            .or_else(|| self.constant(index).and_then(Sizes::of_literal))
            .ok_or(Stop::Unknown)
    }

    /// The integers of an input, if all are known.
    pub fn ints(&self, index: usize) -> Result<Vec<i64>, Stop> {
        match self.constant(index) {
            Some(literal) => literal
                .to_i64s()
                .ok_or_else(|| Stop::Wrong(format!("input {index} must be of integers"))),
            None => self.sizes(index)?.as_known().ok_or(Stop::Unknown),
        }
    }

    /// Integers given as attribute `name` in old opsets, as input `index` in new ones; none when
    /// given as neither.
    pub fn ints_of(&self, name: &str, index: usize) -> Result<Option<Vec<i64>>, Stop> {
        match self.node.ints(name) {
            Some(values) => Ok(Some(values.to_vec())),
            None if self.has(index) => self.ints(index).map(Some),
            None => Ok(None),
        }
    }

    /// An unknown dimension.
    pub fn fresh(&self, axis: usize) -> Dim {
        Dim::Symbol(format!("{}.{axis}", self.node.output(0).unwrap_or("value")))
    }

    /// A size as a dimension of the first output.
    pub fn dim_of(&self, size: Option<Size>, axis: usize) -> Dim {
        size.and_then(|size| size.to_dim())
            .unwrap_or_else(|| self.fresh(axis))
    }

    /// The common shape of operands under numpy broadcasting.
    pub fn broadcast(&self, shapes: &[Vec<Dim>]) -> Result<Vec<Dim>, Stop> {
        let rank = shapes.iter().map(Vec::len).max().unwrap_or(0);
        let mut common = vec![Dim::Known(1); rank];
        for shape in shapes {
            let lead = rank - shape.len();
            for (axis, dim) in shape.iter().enumerate() {
                let at = lead + axis;
                common[at] = match (&common[at], dim) {
                    (Dim::Known(1), other) | (other, Dim::Known(1)) => other.clone(),
                    (a, b) if a == b => a.clone(),
                    (Dim::Known(a), Dim::Known(b)) => {
                        return wrong(format!("{a} and {b} do not broadcast"));
                    }
                    (Dim::Known(a), _) | (_, Dim::Known(a)) => Dim::Known(*a),
                    _ => self.fresh(at),
                };
            }
        }
        Ok(common)
    }
}

/// `axis` counted from the front; negative ones count from the back.
pub fn axis_of(axis: i64, rank: usize) -> Result<usize, Stop> {
    let from_front = if axis < 0 {
        axis.checked_add(rank as i64).unwrap_or(-1)
    } else {
        axis
    };
    match usize::try_from(from_front) {
        Ok(at) if at < rank => Ok(at),
        _ => wrong(format!("axis {axis} does not exist in rank {rank}")),
    }
}

/// As [`axis_of`], of several.
pub fn axes_of(axes: &[i64], rank: usize) -> Result<Vec<usize>, Stop> {
    axes.iter().map(|&axis| axis_of(axis, rank)).collect()
}
