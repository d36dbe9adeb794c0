//! The backend that serves: open graphs on one device, derived on first use, least recently used
//! out by bytes.
//!
//! Weights are in memory once where that matters: see `weights`.

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use metrics::{counter, gauge, histogram};

use super::{
    EngineError, EngineSettings, activations,
    backend::{Backend, GraphKey, LoadedGraph, lock},
    backend_ort::{Runtime, RuntimeError},
    open_graph::{ExecutionPlan, OpenGraph},
    provider::Provider,
    trial::LARGEST_ROW,
    weights,
};
use crate::{model::Model, telemetry::names};
use onnx_autodiff::{
    autodiff::{self, DeriveError},
    onnx::graph::Graph,
};

pub struct Sessions {
    runtime: &'static Runtime,
    provider: Provider,
    threads: usize,
    batch_rows: usize,
    batch_bytes: usize,
    session_bytes: usize,
    /// Least recently used first.
    open: Mutex<Vec<Open>>,
}

#[derive(Clone)]
struct Open {
    graph: Arc<GraphKey>,
    sessions: Arc<OpenGraph>,
    /// Of one session.
    bytes: usize,
}

impl Open {
    fn bytes(&self) -> usize {
        self.bytes * self.sessions.count()
    }
}

impl From<RuntimeError> for EngineError {
    fn from(error: RuntimeError) -> Self {
        match error {
            // Only batches that nobody waits for are stopped.
            RuntimeError::Stopped => Self::Cancelled,
            other => Self::Runtime {
                reason: other.to_string(),
            },
        }
    }
}

impl Sessions {
    pub fn new(runtime: &'static Runtime, provider: Provider, settings: &EngineSettings) -> Self {
        let EngineSettings {
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
            batch_rows,
            batch_bytes,
            session_bytes,
            open: Mutex::default(),
        }
    }

    fn open(&self, graph: &Arc<GraphKey>, derived: &Graph) -> Result<Open, EngineError> {
        let row_bytes = activations::peak_bytes(derived).map_err(|e| EngineError::Runtime {
            reason: e.to_string(),
        })?;
        let bytes = own_bytes(derived, &graph.model.graph);
        if row_bytes > LARGEST_ROW {
            return Err(EngineError::Derive(Arc::new(DeriveError::TooLarge {
                bytes: row_bytes,
                most: LARGEST_ROW,
            })));
        }
        let room = (self.batch_bytes / row_bytes.max(1)).max(1);
        let plan = match self.provider {
            Provider::Cpu => {
                // Half of the memory for sessions may go to copies of one graph's weights.
                let copies = (self.session_bytes / 2 / bytes.max(1))
                    .min(room)
                    .clamp(1, self.threads);
                // Lent weights are read in every run, forwards and backwards: with rows that are
                // light beside them, large runs are faster. Else rows that run one by one gain
                // nothing from waiting for each other: whoever comes next waits for one round.
                let rows = match weights::lent_bytes(derived) {
                    0 => 1,
                    lent_bytes => (self
                        .batch_rows
                        .max(2 * lent_bytes / row_bytes.max(1))
                        .min(room)
                        / copies)
                        .max(1),
                };
                ExecutionPlan {
                    rows,
                    copies,
                    threads: self.threads / copies,
                }
            }
            Provider::Cuda { .. } => ExecutionPlan {
                rows: self.batch_rows.min(room),
                copies: 1,
                threads: 1,
            },
        };
        let sessions = OpenGraph::open(self.runtime, graph.clone(), derived, self.provider, plan)?;
        let (
            graph_kind,
            ExecutionPlan {
                rows,
                copies,
                threads,
            },
        ) = (graph.spec.to_string(), plan);
        tracing::info!(
            model = graph.model.id,
            graph = graph_kind,
            rows,
            copies,
            threads,
            bytes,
            row_bytes,
            "graph opened"
        );
        Ok(Open {
            graph: graph.clone(),
            sessions: Arc::new(sessions),
            bytes,
        })
    }

    fn evict(&self, open: &mut Vec<Open>) {
        let total = |open: &[Open]| open.iter().map(Open::bytes).sum::<usize>();
        while open.len() > 1 && total(open) > self.session_bytes {
            let closed = open.remove(0);
            tracing::info!(
                model = closed.graph.model.id,
                bytes = closed.bytes(),
                "sessions closed to make room"
            );
            counter!(names::SESSIONS_EVICTED_TOTAL, "provider" => self.provider.to_string())
                .increment(1);
        }
        let provider = self.provider.to_string();
        gauge!(names::SESSIONS_OPEN, "provider" => provider.clone()).set(open.len() as f64);
        gauge!(names::SESSION_MEMORY_BYTES, "provider" => provider).set(total(open) as f64);
    }
}

/// The open sessions of `graph`, now the most recently used.
fn find<'a>(all: &'a mut Vec<Open>, graph: &Arc<GraphKey>) -> Option<&'a Open> {
    let at = all.iter().position(|open| open.graph == *graph)?;
    let open = all.remove(at);
    all.push(open);
    all.last()
}

fn derive(graph: &GraphKey) -> Result<Graph, EngineError> {
    let model = &graph.model;
    let derived =
        autodiff::derive(&model.graph, &graph.spec, model.patterns.as_ref()).map_err(Arc::new)?;
    Ok(derived.graph)
}

/// Constants that are not the source's own bytes, and those that the runtime copies: what closing a
/// session gives back.
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

    fn prepare(
        &self,
        graph: &Arc<GraphKey>,
        rows: usize,
        busy: bool,
    ) -> Result<LoadedGraph, EngineError> {
        // A graph that is opened keeps the others waiting: two that open at once would need the
        // memory of both.
        let mut all = lock(&self.open);
        let found = find(&mut all, graph).cloned();
        if let Some(open) = found
            .as_ref()
            .filter(|open| open.sessions.is_ready_for(rows, busy))
        {
            return Ok(open.sessions.prepared());
        }
        // What other runs have left would lie beside what opening takes.
        self.release_memory();
        let started = Instant::now();
        let open = match found {
            Some(open) => open,
            None => {
                let open = self.open(graph, &derive(graph)?)?;
                all.push(open.clone());
                open
            }
        };
        if !open.sessions.is_ready_for(rows, busy) {
            open.sessions.open_copies(self.runtime, || derive(graph))?;
        }
        histogram!(names::SESSION_OPEN_DURATION_SECONDS, "provider" => self.provider.to_string())
            .record(started.elapsed());
        self.evict(&mut all);
        Ok(open.sessions.prepared())
    }

    fn release_memory(&self) {
        if let Err(error) = self.runtime.release_memory() {
            tracing::warn!(%error, "memory that is not needed could not be given back");
        }
    }

    fn discard(&self, graph: &Arc<GraphKey>) {
        let mut all = lock(&self.open);
        all.retain(|open| open.graph != *graph);
        self.evict(&mut all);
    }

    fn close_outdated(&self, outdated: &dyn Fn(&Model) -> bool) -> usize {
        let mut all = lock(&self.open);
        // A request under plan holds its model beside the open graphs, each of which holds it once.
        let holders = |model: &Arc<Model>| {
            all.iter()
                .filter(|open| Arc::ptr_eq(&open.graph.model, model))
                .count()
        };
        let (mut kept, mut left) = (Vec::with_capacity(all.len()), 0);
        for open in all.iter() {
            let model = &open.graph.model;
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
