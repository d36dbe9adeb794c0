//! Whether ops keep the rows of a batch (the first axis) independent, which must be proved before a
//! model exported with batch 1 is run with larger batches.

use std::collections::HashSet;

use super::einsum::Equation;
use super::graph::{Dim, Node};
use super::types::Types;

/// The condition under which each row of the output depends on the same row of the inputs alone,
/// given that the output's first dimension is the batch and the others are numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// Unknown: rows may be mixed.
    Unproven,
    /// If only input 0 has rows: weights, bounds, pads and scales do not depend on them.
    First,
    /// If the op's axis is not the batch. The attribute `axis` has this default.
    OffAxis(i64),
    /// As `OffAxis`, if every input has rows.
    AllOffAxis(i64),
    /// As `OffAxis`, if only input 0 has rows.
    FirstOffAxis(i64),
    /// As `First`, if input 0 is not transposed (Gemm).
    FirstUnturned,
    /// If the label of the output's first axis is the first of all operands with rows, and of no
    /// other axis (Einsum).
    Labelled,
    /// If all operands with rows have the rank of the result: broadcasting would move the rows of
    /// an operand of lower rank to another axis.
    Aligned,
}

impl Rows {
    /// Whether `node` keeps rows independent. `batched` are the values that have rows.
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
            Self::Labelled => {
                let ranks: Vec<usize> = node.inputs.iter().map(rank).collect();
                let Ok(equation) = Equation::of(node, &ranks) else {
                    return false;
                };
                let mut operands = node.inputs.iter().zip(&equation.operands);
                let row = equation.output.first();
                operands.all(|(input, labels)| {
                    let (first, rest) = match batched.contains(input) {
                        true => (labels.first(), labels.get(1..).unwrap_or_default()),
                        false => (row, labels.as_slice()),
                    };
                    first == row && row.is_some_and(|row| !rest.contains(row))
                })
            }
            Self::FirstUnturned => node.int_or("transA", 0) == 0 && first_only(),
            Self::Aligned => {
                let widest = node.outputs.first().map_or(0, rank);
                let mut inputs = node.inputs.iter();
                inputs.all(|input| !batched.contains(input) || rank(input) == widest)
            }
        }
    }
}
