//! Who runs what, when, where: admission, lanes, batches, one worker thread per device, sessions of derived graphs.

pub mod backend_ort;
pub mod provider;
mod weights;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use crate::{autodiff::spec::DeriveSpec, model::Model, tensor::Tensor};

/// One row to evaluate: an input without batch axis, and the cotangent of the head as sparse `(class, weight)` pairs:
/// `[(c, 1)]` explains class c, `[(a, 1), (b, -1)]` why a and not b. Empty for forward-only graphs.
#[derive(Clone, Debug)]
pub struct Point {
    pub input: Arc<Tensor>,
    pub seed: Arc<[(usize, f32)]>,
}

/// What one evaluated [`Point`] gives. `cotangents` follow the order of `DeriveSpec::rule_sets`, each in the shape of `wrt`.
#[derive(Clone, Debug)]
pub struct Row {
    pub logits: Vec<f32>,
    pub probabilities: Vec<f32>,
    pub cotangents: Vec<Tensor>,
    /// The value of `Wrt::Activation`, when that was asked for.
    pub activation: Option<Tensor>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Priority {
    Interactive,
    Job,
}

/// Whom the work is for: what schedules it and what ends it early.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Rows are dealt round-robin over callers of equal priority.
    pub id: u64,
    pub priority: Priority,
    /// Cancelled when the caller goes away.
    pub cancel: CancellationToken,
    pub deadline: Option<Instant>,
}

/// The answers, in the order of the points, with the time they waited and the time the device worked on the batches they were in.
#[derive(Debug)]
pub struct Evaluated {
    pub rows: Vec<Row>,
    pub queue: Duration,
    pub model: Duration,
}

/// A handle to the workers; clones share them.
#[derive(Clone)]
pub struct Engine {}

impl Engine {
    /// Evaluates `points` on the graph that `spec` derives from `model`.
    pub async fn evaluate(
        &self,
        model: &Arc<Model>,
        spec: &DeriveSpec,
        points: Vec<Point>,
        caller: &Caller,
    ) -> Result<Evaluated, EngineError> {
        let _ = (model, spec, points, caller);
        Err(EngineError::Cancelled)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Admission is full. 429 with `Retry-After`.
    #[error("the queue is full: {waiting_rows} rows wait, {limit_rows} are allowed")]
    Overloaded { waiting_rows: usize, limit_rows: usize, retry_after: Duration },
    #[error("the caller went away")]
    Cancelled,
    #[error("the deadline passed")]
    DeadlineExceeded,
    #[error("the server is shutting down")]
    Draining,
    #[error(transparent)]
    Derive(#[from] Arc<crate::autodiff::DeriveError>),
    #[error("ONNX Runtime: {reason}")]
    Runtime { reason: String },
}
