//! The interface between workers and the code that runs graphs. `sessions` implements it; tests use
//! a fake that counts rows.

use std::{fmt, sync::Arc};

use parking_lot::Mutex;

use super::{
    EngineError, Point, Row,
    whole::{NamedInputs, NamedOutputs, WholeGraph},
};
use crate::model::Model;
use onnx_autodiff::autodiff::spec::{DeriveSpec, PatternLayers, SeedRule};

/// A graph that evaluates rows, named by what it is derived from. Equal keys name equal graphs.
#[derive(Clone, Debug)]
pub struct GraphKey {
    pub model: Arc<Model>,
    pub spec: DeriveSpec,
}

impl GraphKey {
    /// Fields of the spec that do not affect the graph are normalised, so that equal graphs share a
    /// session.
    pub fn new(model: Arc<Model>, mut spec: DeriveSpec) -> Self {
        if !spec.rule_sets.iter().any(|set| set.needs_patterns()) {
            spec.pattern_layers = PatternLayers::All;
        }
        if spec.rule_sets.is_empty() {
            spec.seed = SeedRule::One;
        }
        Self { model, spec }
    }

    fn patterns(&self) -> Option<&str> {
        let needed = self.spec.rule_sets.iter().any(|set| set.needs_patterns());
        self.model
            .patterns
            .as_ref()
            .filter(|_| needed)
            .map(|patterns| patterns.id.as_str())
    }
}

impl PartialEq for GraphKey {
    fn eq(&self, other: &Self) -> bool {
        let network = |model: &Model| {
            let manifest = &model.manifest;
            (
                model.hash.clone(),
                manifest.input.name.clone(),
                manifest.input.shape.clone(),
                manifest.output.clone(),
                manifest.reading.clone(),
            )
        };
        self.spec == other.spec
            && self.patterns() == other.patterns()
            && (Arc::ptr_eq(&self.model.graph, &other.model.graph)
                || network(&self.model) == network(&other.model))
    }
}

/// Names the graph of a session and of a lane of the queue; equal keys share both.
#[derive(Clone, Debug)]
pub(super) enum SessionKey {
    /// A graph that evaluates rows, in batches of any size.
    Rows(GraphKey),
    /// A graph that runs whole batches; equal only to itself.
    Whole(Arc<WholeGraph>),
}

impl SessionKey {
    pub(super) fn model(&self) -> &Arc<Model> {
        match self {
            Self::Rows(key) => &key.model,
            Self::Whole(graph) => &graph.model,
        }
    }
}

impl PartialEq for SessionKey {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Rows(a), Self::Rows(b)) => a == b,
            (Self::Whole(a), Self::Whole(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

/// The name in the log.
impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rows(key) => key.spec.fmt(f),
            Self::Whole(graph) => f.write_str(graph.name),
        }
    }
}

/// The input of one run of a session, and its output.
#[derive(Clone, Debug)]
pub(super) enum BatchInput {
    Rows(Vec<Point>),
    Whole(NamedInputs),
}

#[derive(Debug)]
pub(super) enum BatchOutput {
    Rows(Vec<Row>),
    Whole(NamedOutputs),
}

/// An open graph; it stays open while this is held.
#[derive(Clone)]
pub(super) struct LoadedGraph {
    pub executable: Arc<dyn Executable>,
    /// The most rows of a batch.
    pub batch_rows: usize,
    /// The most batches that run concurrently on one device.
    pub max_concurrent: usize,
    /// Length of the cotangent of the head, if the graph takes one.
    pub classes: Option<usize>,
}

/// One device, shared by its workers.
pub(super) trait Backend: Send + Sync {
    /// The number of workers: batches that the device runs well concurrently.
    fn workers(&self) -> usize;

    /// Opens the graph unless it is open; may take seconds. `rows` rows wait for it; `busy`: the
    /// device has other work too.
    fn load(
        &self,
        graph: &Arc<SessionKey>,
        rows: usize,
        busy: bool,
    ) -> Result<LoadedGraph, EngineError>;

    /// Releases memory that only runs need, after the device has been idle for a while.
    fn release_memory(&self);

    /// Closes the graph after a panic, which may leave its session in any state.
    fn discard(&self, graph: &Arc<SessionKey>);

    /// Closes graphs of `outdated` models that are not in use. Returns how many of them are in use.
    fn close_outdated(&self, outdated: &dyn Fn(&Model) -> bool) -> usize;
}

pub(super) trait Executable: Send + Sync {
    /// Runs one batch: points give one row each, in their order; a whole batch gives its outputs.
    /// `alone`: no other batch runs on the device. `stop` ends the run early, with an error.
    fn run(
        &self,
        input: &BatchInput,
        alone: bool,
        stop: &StopSignal,
    ) -> Result<BatchOutput, EngineError>;
}

/// Stops a running batch from another thread.
#[derive(Clone, Default)]
pub(super) struct StopSignal(Arc<Mutex<StopState>>);

#[derive(Default)]
struct StopState {
    stopped: bool,
    hook: Option<Box<dyn Fn() + Send>>,
}

impl StopSignal {
    pub(super) fn stop(&self) {
        let mut state = self.0.lock();
        state.stopped = true;
        if let Some(hook) = &state.hook {
            hook();
        }
    }

    /// `hook` runs when the batch is stopped, or immediately if it is stopped already.
    pub(super) fn on_stop(&self, hook: impl Fn() + Send + 'static) {
        let mut state = self.0.lock();
        if state.stopped {
            hook();
        }
        state.hook = Some(Box::new(hook));
    }
}
