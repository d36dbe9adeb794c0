//! The production backend: a cache of sessions on one device. Graphs are derived and opened on
//! first use; the least recently used are closed when sessions exceed their memory. Sessions of a
//! model share its large weights (`cpu/weights.rs`).

use std::{borrow::Cow, sync::Arc, time::Instant};

use metrics::{counter, gauge, histogram};
use parking_lot::Mutex;

use super::{
    EngineError, EngineSettings, activations,
    backend::{Backend, GraphKey, LoadedGraph, SessionKey},
    backend_ort::{Runtime, RuntimeError},
    cpu::weights,
    open_graph::{ExecutionPlan, OpenGraph, fixed_rows},
    provider::Provider,
    trial::LARGEST_ROW,
};
use crate::{model::Model, telemetry::names};
use onnx_autodiff::{
    autodiff::{self, DeriveError},
    onnx::graph::Graph,
};

pub(super) struct Sessions {
    runtime: &'static Runtime,
    provider: Provider,
    threads: usize,
    convolution_error: f64,
    batch_rows: usize,
    batch_bytes: usize,
    session_bytes: usize,
    /// Least recently used first.
    open: Mutex<Vec<Open>>,
}

#[derive(Clone)]
struct Open {
    graph: Arc<SessionKey>,
    sessions: Arc<OpenGraph>,
    /// Memory of one session, in bytes.
    bytes: usize,
}

impl Open {
    fn bytes(&self) -> usize {
        self.bytes * self.sessions.count() + self.sessions.transformed_bytes()
    }
}

impl From<RuntimeError> for EngineError {
    fn from(error: RuntimeError) -> Self {
        match error {
            // Batches are stopped only after all their callers left: nobody reads this error.
            RuntimeError::Stopped => Self::Cancelled,
            other => Self::Runtime {
                reason: other.to_string(),
            },
        }
    }
}

impl Sessions {
    pub(super) fn new(
        runtime: &'static Runtime,
        provider: Provider,
        settings: &EngineSettings,
    ) -> Self {
        let EngineSettings {
            convolution_error,
            batch_rows,
            batch_bytes,
            session_bytes,
            ..
        } = *settings;
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if settings.threads == 0 {
            cores()
        } else {
            settings.threads
        };
        Self {
            runtime,
            provider,
            threads,
            convolution_error,
            batch_rows,
            batch_bytes,
            session_bytes,
            open: Mutex::default(),
        }
    }

    /// The number of open graphs.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.open.lock().len()
    }

    fn open(&self, key: &Arc<SessionKey>, graph: &Graph) -> Result<Open, EngineError> {
        let row_bytes = match &**key {
            SessionKey::Rows(_) => {
                activations::peak_bytes(graph).map_err(|e| EngineError::Runtime {
                    reason: e.to_string(),
                })?
            }
            SessionKey::Whole(graph) => graph.row_bytes(),
        };
        if row_bytes > LARGEST_ROW {
            return Err(EngineError::Derive(Arc::new(DeriveError::TooLarge {
                bytes: row_bytes,
                most: LARGEST_ROW,
            })));
        }
        let bytes = own_bytes(graph, &key.model().graph);
        let plan = self.plan(key, graph, row_bytes, bytes);
        let sessions = OpenGraph::open(
            self.runtime,
            key.clone(),
            graph,
            self.provider,
            self.convolution_error,
            plan,
        )?;
        let ExecutionPlan {
            rows,
            copies,
            threads,
            ..
        } = plan;
        tracing::info!(
            model = key.model().id,
            graph = %key,
            rows,
            copies,
            threads,
            bytes,
            row_bytes,
            "graph opened"
        );
        Ok(Open {
            graph: key.clone(),
            sessions: Arc::new(sessions),
            bytes,
        })
    }

    /// The execution plan for a graph whose activations take `row_bytes` per row and whose session
    /// takes `bytes`.
    fn plan(
        &self,
        key: &SessionKey,
        graph: &Graph,
        row_bytes: usize,
        bytes: usize,
    ) -> ExecutionPlan {
        let most_rows = (self.batch_bytes / row_bytes.max(1)).max(1);
        match (key, self.provider) {
            (SessionKey::Whole(_), _) => ExecutionPlan {
                rows: 1,
                batch: None,
                fills: false,
                copies: 1,
                threads: self.threads,
            },
            (SessionKey::Rows(_), _) if let Some(rows) = fixed_rows(graph) => {
                ExecutionPlan::of_fixed(rows, 1, self.threads)
            }
            (SessionKey::Rows(_), Provider::Cuda { .. }) => {
                ExecutionPlan::of_rows(self.batch_rows.min(most_rows), 1, 1)
            }
            (SessionKey::Rows(_), Provider::Cpu) => {
                // Copies of one graph's sessions may take half of the memory for sessions.
                let copies = (self.session_bytes / 2 / bytes.max(1))
                    .min(most_rows)
                    .clamp(1, self.threads);
                // Every run reads all weights outside of the session, in the forward and the
                // backward pass. Where they are large compared with the activations, larger batches
                // are faster. Otherwise a batch is one row, which does not wait for other rows.
                let rows = match weights::lent_bytes(graph) {
                    0 => 1,
                    lent_bytes => (self
                        .batch_rows
                        .max(2 * lent_bytes / row_bytes.max(1))
                        .min(most_rows)
                        / copies)
                        .max(1),
                };
                ExecutionPlan::of_rows(rows, copies, self.threads / copies)
            }
        }
    }

    fn release_arena(&self) {
        if let Err(error) = self.runtime.release_memory() {
            tracing::warn!(%error, "memory that is not needed could not be given back");
        }
    }

    /// Closes whole-batch graphs to which only this cache holds a handle: they cannot be run again.
    fn close_unreachable(&self, open: &mut Vec<Open>) {
        open.retain(|open| match &*open.graph {
            SessionKey::Rows(_) => true,
            SessionKey::Whole(graph) => Arc::strong_count(graph) > 1,
        });
        self.report(open);
    }

    fn evict(&self, open: &mut Vec<Open>) {
        while open.len() > 1 && total_bytes(open) > self.session_bytes {
            let closed = open.remove(0);
            tracing::info!(
                model = closed.graph.model().id,
                bytes = closed.bytes(),
                "sessions closed to make room"
            );
            counter!(names::SESSIONS_EVICTED_TOTAL, "provider" => self.provider.to_string())
                .increment(1);
        }
        self.report(open);
    }

    fn report(&self, open: &[Open]) {
        let provider = self.provider.to_string();
        gauge!(names::SESSIONS_OPEN, "provider" => provider.clone()).set(open.len() as f64);
        gauge!(names::SESSION_MEMORY_BYTES, "provider" => provider).set(total_bytes(open) as f64);
    }
}

fn total_bytes(open: &[Open]) -> usize {
    open.iter().map(Open::bytes).sum()
}

/// The open sessions of `graph`, moved to the most recently used position.
fn find<'a>(all: &'a mut Vec<Open>, graph: &Arc<SessionKey>) -> Option<&'a Open> {
    let at = all.iter().position(|open| open.graph == *graph)?;
    let open = all.remove(at);
    all.push(open);
    all.last()
}

/// The graph to open a session of: derived for rows, given for whole batches.
fn graph_of(key: &SessionKey) -> Result<Cow<'_, Graph>, EngineError> {
    match key {
        SessionKey::Rows(GraphKey { model, spec }) => {
            let derived = autodiff::derive(&model.graph, spec, model.patterns.as_ref());
            Ok(Cow::Owned(derived.map_err(Arc::new)?.graph))
        }
        SessionKey::Whole(graph) => Ok(Cow::Borrowed(&graph.graph)),
    }
}

/// Bytes that closing a session releases: constants created by the derivation, and constants of the
/// model that the runtime copies.
fn own_bytes(derived: &Graph, source: &Graph) -> usize {
    let shared = |name: &str, start: *const u8| {
        source
            .initializers
            .get(name)
            .is_some_and(|l| l.bytes.as_ptr() == start)
    };
    let copied = |(name, literal): (&String, &onnx_autodiff::onnx::graph::Literal)| {
        if shared(name, literal.bytes.as_ptr()) && literal.bytes.len() >= weights::LENT_BYTES {
            0
        } else {
            literal.bytes.len()
        }
    };
    derived.initializers.iter().map(copied).sum()
}

impl Backend for Sessions {
    fn workers(&self) -> usize {
        match self.provider {
            Provider::Cpu => self.threads,
            Provider::Cuda { .. } => 1,
        }
    }

    fn load(
        &self,
        graph: &Arc<SessionKey>,
        rows: usize,
        busy: bool,
    ) -> Result<LoadedGraph, EngineError> {
        // Opening holds the lock: opening two graphs at once would take the memory of both.
        let mut all = self.open.lock();
        let found = find(&mut all, graph).cloned();
        if let Some(open) = found
            .as_ref()
            .filter(|open| open.sessions.is_ready_for(rows, busy))
        {
            return Ok(open.sessions.loaded());
        }
        // Free the arena first, so that memory left by runs does not add to the peak of opening.
        self.close_unreachable(&mut all);
        self.release_arena();
        let started = Instant::now();
        let open = match found {
            Some(open) => open,
            None => {
                let open = self.open(graph, graph_of(graph)?.as_ref())?;
                all.push(open.clone());
                open
            }
        };
        if !open.sessions.is_ready_for(rows, busy) {
            open.sessions
                .open_copies(self.runtime, || graph_of(graph))?;
        }
        histogram!(names::SESSION_OPEN_DURATION_SECONDS, "provider" => self.provider.to_string())
            .record(started.elapsed());
        self.evict(&mut all);
        Ok(open.sessions.loaded())
    }

    fn release_memory(&self) {
        self.close_unreachable(&mut self.open.lock());
        self.release_arena();
    }

    fn discard(&self, graph: &Arc<SessionKey>) {
        let mut all = self.open.lock();
        all.retain(|open| open.graph != *graph);
        self.evict(&mut all);
    }

    fn close_outdated(&self, outdated: &dyn Fn(&Model) -> bool) -> usize {
        let mut all = self.open.lock();
        // Each open graph holds its model once; further handles belong to requests in progress.
        let holders = |model: &Arc<Model>| {
            all.iter()
                .filter(|open| Arc::ptr_eq(open.graph.model(), model))
                .count()
        };
        let (mut kept, mut left) = (Vec::with_capacity(all.len()), 0);
        for open in all.iter() {
            let model = open.graph.model();
            let is_outdated = outdated(model);
            let is_held = Arc::strong_count(model) > holders(model);
            left += usize::from(is_outdated && is_held);
            if !is_outdated || is_held {
                kept.push(open.clone());
            } else {
                tracing::info!(
                    model = model.id,
                    bytes = open.bytes(),
                    "sessions of an earlier model closed"
                );
            }
        }
        *all = kept;
        self.evict(&mut all);
        left
    }
}
