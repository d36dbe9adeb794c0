//! Reverse mode, ONNX -> ONNX: rule tables, the backward walk, lowering. No tokio, no ort, no files.

pub mod spec;

use crate::onnx::graph::Graph;
use spec::DeriveSpec;

/// A source graph joined with the backward walk that a [`DeriveSpec`] asks for.
///
/// Inputs: the model's input (batch symbolic) and, when any rule set is asked for, `seed` `[batch, classes]` (the cotangent of the head).
/// Outputs: `logits` `[batch, classes]`, `probabilities` `[batch, classes]`, then one cotangent per rule set, named as
/// [`spec::RuleSetId::id`], each `[batch, …]` in the shape of `wrt`; for `Wrt::Activation` then also `activation`, its value.
pub struct Derived {
    pub graph: Graph,
}

/// `patterns` maps the output value of each Linear node (after BatchNorm folding) to its pattern, in the shape of the node's weight.
pub fn derive(source: &Graph, spec: &DeriveSpec, patterns: Option<&spec::Patterns>) -> Result<Derived, DeriveError> {
    let _ = (source, spec, patterns);
    Err(DeriveError::Nothing)
}

#[derive(Debug, thiserror::Error)]
pub enum DeriveError {
    #[error("nothing derived")]
    Nothing,
}
