//! What an op does to the rows of a batch, the first axis: what must be known before a model that
//! was exported for one row is run with many.

use std::collections::HashSet;

use super::graph::{Dim, Node};
use super::types::Types;

/// When each row of the output follows from the same row of the inputs, given that the output has
/// the batch in front and numbers behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// Not shown: rows may meet.
    Unproven,
    /// When only input 0 has rows: weights, bounds, pads and scales do not come from them.
    First,
    /// When the axis that it works along is not the batch. The attribute `axis` has this default.
    OffAxis(i64),
    /// As `OffAxis`, when every input has rows.
    AllOffAxis(i64),
    /// As `OffAxis`, when only input 0 has rows.
    FirstOffAxis(i64),
    /// As `First`, when input 0 is not transposed (Gemm).
    FirstUnturned,
    /// When every operand that has rows has them on the first axis of the result: operands of lower
    /// rank would meet other rows.
    Aligned,
}

impl Rows {
    /// Whether `node` keeps its rows apart. `batched` are the values that have rows.
    pub fn are_kept(self, node: &Node, types: &Types, batched: &HashSet<String>) -> bool {
        let rank = |name: &String| types.shape(name).map_or(0, <[Dim]>::len);
        let off_axis = |default: i64| {
            let rank = node.inputs.first().map_or(0, rank) as i64;
            let axis = node.int_or("axis", default);
            axis != 0 && axis != -rank
        };
        let first_only = || {
            let mut others = node.inputs.iter().skip(1);
            others.all(|input| !batched.contains(input))
        };
        match self {
            Self::Unproven => false,
            Self::First => first_only(),
            Self::OffAxis(default) => off_axis(default),
            Self::AllOffAxis(default) => {
                off_axis(default) && node.inputs.iter().all(|input| batched.contains(input))
            }
            Self::FirstOffAxis(default) => off_axis(default) && first_only(),
            Self::FirstUnturned => node.int_or("transA", 0) == 0 && first_only(),
            Self::Aligned => {
                let widest = node.outputs.first().map_or(0, rank);
                let mut inputs = node.inputs.iter();
                inputs.all(|input| !batched.contains(input) || rank(input) == widest)
            }
        }
    }
}
