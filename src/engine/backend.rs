//! What a worker needs from whatever runs graphs. Workers are tested with a counting fake, and run
//! on `sessions`.

use std::{fmt, sync::Arc};

use parking_lot::Mutex;

use super::{
    EngineError, Point, Row,
    whole::{NamedInputs, NamedOutputs, WholeGraph},
};
use crate::model::Model;
use onnx_autodiff::autodiff::spec::{DeriveSpec, PatternLayers, SeedRule};

/// A graph that evaluates rows: what `spec` derives from `model`. Equal when its derivation is.
#[derive(Clone, Debug)]
pub struct GraphKey {
    pub model: Arc<Model>,
    pub spec: DeriveSpec,
}

impl GraphKey {
    /// Fields of the spec that change nothing are normalised, so that equal graphs share a session.
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
            )
        };
        self.spec == other.spec
            && self.patterns() == other.patterns()
            && (Arc::ptr_eq(&self.model.graph, &other.model.graph)
                || network(&self.model) == network(&other.model))
    }
}

/// What a session is opened of, and a lane of the queue waits for. Equal ones share both.
#[derive(Clone, Debug)]
pub enum SessionKey {
    /// Evaluates rows, any number of them in a batch.
    Rows(GraphKey),
    /// Runs whole batches; a graph is equal to itself only.
    Whole(Arc<WholeGraph>),
}

impl SessionKey {
    pub fn model(&self) -> &Arc<Model> {
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

/// For people, in the log.
impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rows(key) => key.spec.fmt(f),
            Self::Whole(graph) => f.write_str(graph.name),
        }
    }
}

/// What one run of a session takes, and what it gives.
#[derive(Clone, Debug)]
pub enum BatchInput {
    Rows(Vec<Point>),
    Whole(NamedInputs),
}

#[derive(Debug)]
pub enum BatchOutput {
    Rows(Vec<Row>),
    Whole(NamedOutputs),
}

/// A graph that is open, and stays so while this is held.
#[derive(Clone)]
pub struct LoadedGraph {
    pub executable: Arc<dyn Executable>,
    /// Largest number of rows in a batch.
    pub batch_rows: usize,
    /// Most batches that run at the same time on one device.
    pub max_concurrent: usize,
    /// Length of a cotangent of the head, where the graph takes one.
    pub classes: Option<usize>,
}

/// One device, shared by its workers.
pub trait Backend: Send + Sync {
    /// Batches of different graphs that it runs well at the same time: one worker each.
    fn workers(&self) -> usize;

    /// Opens the graph, which may take seconds, unless it is open. `rows` wait for it; a `busy`
    /// device has other work too.
    fn load(
        &self,
        graph: &Arc<SessionKey>,
        rows: usize,
        busy: bool,
    ) -> Result<LoadedGraph, EngineError>;

    /// Gives back the memory that only runs need: the device has been idle for a while.
    fn release_memory(&self);

    /// Closes the graph after a panic: its session may be in any state.
    fn discard(&self, graph: &Arc<SessionKey>);

    /// Closes the graphs of models that are `outdated` and that nobody uses. Returns how many
    /// others are in use.
    fn close_outdated(&self, outdated: &dyn Fn(&Model) -> bool) -> usize;
}

pub trait Executable: Send + Sync {
    /// Runs one batch: points give as many rows, in their order; a whole batch gives its outputs.
    /// One that runs `alone` has the whole device. Ends early, with an error, when `stop` says so.
    fn run(
        &self,
        input: &BatchInput,
        alone: bool,
        stop: &StopSignal,
    ) -> Result<BatchOutput, EngineError>;
}

/// Stops a running batch from another thread.
#[derive(Clone, Default)]
pub struct StopSignal(Arc<Mutex<StopState>>);

#[derive(Default)]
struct StopState {
    stopped: bool,
    hook: Option<Box<dyn Fn() + Send>>,
}

impl StopSignal {
    pub fn stop(&self) {
        let mut state = self.0.lock();
        state.stopped = true;
        if let Some(hook) = &state.hook {
            hook();
        }
    }

    /// `hook` runs when the batch is stopped; at once if it already is.
    pub fn on_stop(&self, hook: impl Fn() + Send + 'static) {
        let mut state = self.0.lock();
        if state.stopped {
            hook();
        }
        state.hook = Some(Box::new(hook));
    }
}
