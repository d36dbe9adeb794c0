//! The passes and their order: before the backward walk, from a model to the graph that rules are
//! written for; after it, to the derived graph. The result of every pass is checked.

use crate::onnx::{
    OnnxError,
    graph::Graph,
    passes::{self, Pass},
};

/// Normalises to one opset, folds constants, and makes the batch symbolic where rows are
/// independent.
const PREPARE: &[Pass] = &[
    passes::normalise,
    passes::fold,
    passes::free_batch,
    passes::prune,
];

/// Removes duplicate and unused nodes, and writes what the opset does not have.
const FINISH: &[Pass] = &[
    passes::prune,
    passes::narrow,
    passes::prune,
    passes::widen,
    passes::dedup,
];

/// The model in the form that rules are written for.
pub(super) fn prepare(model: Graph) -> Result<Graph, OnnxError> {
    passes::run(PREPARE, model)
}

/// For rule sets that replace weights by patterns: folds each BatchNormalization into the Linear
/// layer before it.
pub(super) fn fold_batch_norm(prepared: Graph) -> Result<Graph, OnnxError> {
    passes::fold_batch_norm(prepared)
}

/// The derived graph, after its outputs are named.
pub(super) fn finish(joined: Graph) -> Result<Graph, OnnxError> {
    passes::run(FINISH, joined)
}
