//! What a worker needs of the thing that runs graphs. The workers are tested with a counting fake,
//! and run on `sessions`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{EngineError, Point, Row};
use crate::model::Model;
use onnx_autodiff::autodiff::spec::{DeriveSpec, PatternLayers, SeedRule};

/// A graph to run: what `spec` derives from `model`. Equal when its derivation is.
#[derive(Clone, Debug)]
pub struct GraphKey {
    pub model: Arc<Model>,
    pub spec: DeriveSpec,
}

impl GraphKey {
    /// Fields of the spec that change nothing are set to one value, so that equal graphs share
    /// their session.
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

/// A graph that can run now, and as long as this is kept.
#[derive(Clone)]
pub struct LoadedGraph {
    pub graph: Arc<dyn Executable>,
    /// Most rows of one batch.
    pub batch_rows: usize,
    /// Most batches that run at once on one device.
    pub max_concurrent: usize,
    /// Length of a seed, where the graph has one.
    pub classes: Option<usize>,
}

/// One device. Its workers share it.
pub trait Backend: Send + Sync {
    /// Batches of different graphs that it runs well at once: one worker each.
    fn workers(&self) -> usize;

    /// Opens the graph, which may take seconds, or finds it open. `rows` wait for it; `busy`
    /// devices have other work too.
    fn prepare(
        &self,
        graph: &Arc<GraphKey>,
        rows: usize,
        busy: bool,
    ) -> Result<LoadedGraph, EngineError>;

    /// Gives back the memory that only runs need: nothing has been asked for in a while.
    fn release_memory(&self);

    /// Closes the graph after a panic: its session may be in any state.
    fn discard(&self, graph: &Arc<GraphKey>);

    /// Closes the graphs of models that are `outdated` and that nobody holds any more. How many are
    /// left that someone holds.
    fn close_outdated(&self, outdated: &dyn Fn(&Model) -> bool) -> usize;
}

pub trait Executable: Send + Sync {
    /// Evaluates a batch: as many rows as points, in their order. One that runs `alone` has the
    /// whole device. Ends early, with an error, when `stop` says so.
    fn run(
        &self,
        points: &[Point],
        alone: bool,
        stop: &StopSignal,
    ) -> Result<Vec<Row>, EngineError>;
}

/// What a panic has left is as good as any other: graphs are closed after one.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends a running batch from another thread.
#[derive(Clone, Default)]
pub struct StopSignal(Arc<Mutex<StopState>>);

#[derive(Default)]
struct StopState {
    stopped: bool,
    hook: Option<Box<dyn Fn() + Send>>,
}

impl StopSignal {
    pub fn stop(&self) {
        let mut state = lock(&self.0);
        state.stopped = true;
        if let Some(hook) = &state.hook {
            hook();
        }
    }

    /// `hook` runs when the batch is stopped; at once when it already is.
    pub fn on_stop(&self, hook: impl Fn() + Send + 'static) {
        let mut state = lock(&self.0);
        if state.stopped {
            hook();
        }
        state.hook = Some(Box::new(hook));
    }
}
