//! The passes and their order: from a model to the graph that rules are written for, and from the
//! graph with its backward walk to the derived one. Each checks what it leaves behind.

use crate::onnx::{
    OnnxError,
    graph::Graph,
    passes::{self, Pass},
};

/// One spelling, no constant expressions, a symbolic batch where rows stay apart.
const PREPARE: &[Pass] = &[
    passes::normalise,
    passes::fold,
    passes::free_batch,
    passes::prune,
];

/// What outputs need, once: without the copies that the walk left behind.
const FINISH: &[Pass] = &[passes::prune, passes::narrow, passes::prune, passes::dedup];

/// The model as the rules read it.
pub fn prepare(model: Graph) -> Result<Graph, OnnxError> {
    passes::run(PREPARE, model)
}

/// For rule sets that put patterns in the place of weights: every Linear layer with the
/// BatchNormalization behind it.
pub fn fold_batch_norm(prepared: Graph) -> Result<Graph, OnnxError> {
    passes::fold_batch_norm(prepared)
}

/// The derived graph of one whose outputs are named.
pub fn finish(joined: Graph) -> Result<Graph, OnnxError> {
    passes::run(FINISH, joined)
}
