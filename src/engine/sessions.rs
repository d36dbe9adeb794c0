//! The backend that serves: sessions of derived graphs on one device, derived on first use, least recently used out by bytes.
//!
//! Weights are in memory once where that matters: see `weights`.

use std::{sync::Arc, time::Instant};

use metrics::{counter, gauge, histogram};
use ndarray::{Array2, ArrayD, Axis};

use super::{
    EngineError, EngineSettings, Point, Row, activations,
    backend::{Backend, GraphOf, Prepared, Stop},
    backend_ort::{self, Memory, OrtSession, Runtime, RuntimeError},
    provider::Provider,
};
use crate::{autodiff, onnx::graph::Graph, telemetry::names, tensor::Tensor};

pub struct Sessions {
    runtime: &'static Runtime,
    provider: Provider,
    batch_rows: usize,
    batch_bytes: usize,
    session_bytes: usize,
    /// Least recently used first.
    open: Vec<Open>,
}

struct Open {
    graph: Arc<GraphOf>,
    session: OrtSession,
    prepared: Prepared,
    bytes: usize,
}

impl From<RuntimeError> for EngineError {
    fn from(error: RuntimeError) -> Self {
        match error {
            // Only batches that nobody waits for are stopped.
            RuntimeError::Stopped => Self::Cancelled,
            other => Self::Runtime { reason: other.to_string() },
        }
    }
}

impl Sessions {
    pub fn new(runtime: &'static Runtime, provider: Provider, settings: &EngineSettings) -> Self {
        let EngineSettings { batch_rows, batch_bytes, session_bytes, .. } = *settings;
        Self { runtime, provider, batch_rows, batch_bytes, session_bytes, open: Vec::new() }
    }

    /// The open session of `graph`, now the most recently used.
    fn find(&mut self, graph: &Arc<GraphOf>) -> Option<&mut Open> {
        let at = self.open.iter().position(|open| open.graph == *graph)?;
        let open = self.open.remove(at);
        self.open.push(open);
        self.open.last_mut()
    }

    fn open(&self, graph: &Arc<GraphOf>) -> Result<Open, EngineError> {
        let started = Instant::now();
        let model = &graph.model;
        let derived = autodiff::derive(&model.graph, &graph.spec, model.patterns.as_ref()).map_err(Arc::new)?.graph;
        let failed = |reason: String| EngineError::Runtime { reason };
        let row_bytes = activations::peak_bytes(&derived).map_err(|e| failed(e.to_string()))?;
        let classes = derived.inputs.iter().find(|input| input.name == "seed");
        let classes = classes.and_then(|seed| seed.value_type.shape.get(1)?.known());
        let bytes = own_bytes(&derived, &model.graph);
        let session = OrtSession::open(self.runtime, derived, self.provider)?;
        // Lent weights are read in every batch, forwards and backwards: with rows that are light beside them, larger batches are faster.
        let wanted_rows = self.batch_rows.max(2 * session.lent_bytes() / row_bytes.max(1)).max(1);
        let batch_rows = (self.batch_bytes / row_bytes.max(1)).clamp(1, wanted_rows);
        let took = started.elapsed();
        histogram!(names::SESSION_OPEN_DURATION_SECONDS, "provider" => self.provider.to_string()).record(took);
        tracing::info!(model = model.id, spec = ?graph.spec, ?took, batch_rows, bytes, row_bytes, "session opened");
        Ok(Open { graph: graph.clone(), session, prepared: Prepared { batch_rows, classes }, bytes })
    }

    fn evict(&mut self) {
        let total = |open: &[Open]| open.iter().map(|open| open.bytes).sum::<usize>();
        while self.open.len() > 1 && total(&self.open) > self.session_bytes {
            let closed = self.open.remove(0);
            tracing::info!(model = closed.graph.model.id, bytes = closed.bytes, "session closed to make room");
            counter!(names::SESSIONS_EVICTED_TOTAL, "provider" => self.provider.to_string()).increment(1);
        }
        gauge!(names::SESSIONS_OPEN, "provider" => self.provider.to_string()).set(self.open.len() as f64);
    }
}

/// Constants that are not the source's own bytes, and those that the runtime copies: what closing a session gives back.
fn own_bytes(derived: &Graph, source: &Graph) -> usize {
    let shared =
        |name: &str, start: *const u8| source.initializers.get(name).is_some_and(|l| l.bytes.as_ptr() == start);
    let copied = |(name, literal): (&String, &crate::onnx::graph::Literal)| {
        if shared(name, literal.bytes.as_ptr()) && literal.bytes.len() >= super::weights::LENT_BYTES {
            0
        } else {
            literal.bytes.len()
        }
    };
    derived.initializers.iter().map(copied).sum()
}

impl Backend for Sessions {
    fn prepare(&mut self, graph: &Arc<GraphOf>) -> Result<Prepared, EngineError> {
        if let Some(open) = self.find(graph) {
            return Ok(open.prepared);
        }
        let opened = self.open(graph)?;
        let prepared = opened.prepared;
        self.open.push(opened);
        self.evict();
        Ok(prepared)
    }

    fn run(
        &mut self,
        graph: &Arc<GraphOf>,
        points: &[Point],
        stop: &Stop,
        more: bool,
    ) -> Result<Vec<Row>, EngineError> {
        let failed = |reason: String| EngineError::Runtime { reason };
        let returns = !more && self.provider == Provider::Cpu;
        let open = self.find(graph).ok_or_else(|| failed("the graph was not prepared".into()))?;
        let views: Vec<_> = points.iter().map(|point| point.input.view()).collect();
        let input = ndarray::stack(Axis(0), &views).map_err(|e| failed(e.to_string()))?;
        let mut inputs = vec![(graph.model.manifest.input.name.as_str(), input.view())];
        let seeds = open.prepared.classes.map(|classes| seed_rows(points, classes));
        if let Some(seeds) = &seeds {
            inputs.push(("seed", seeds.view()));
        }
        let ort_stop = backend_ort::Stop::new(if returns { Memory::Returned } else { Memory::Kept })?;
        let hook = ort_stop.clone();
        stop.on_stop(move || hook.stop());
        let mut outputs = open.session.run_until(&inputs, &ort_stop)?;
        let mut rows_of = |name: &str| -> Result<ArrayD<f32>, EngineError> {
            let values = outputs.swap_remove(name).ok_or_else(|| failed(format!("no output `{name}`")))?;
            if values.shape().first() == Some(&points.len()) {
                Ok(values)
            } else {
                Err(failed(format!("output `{name}` has shape {:?} for {} rows", values.shape(), points.len())))
            }
        };
        let (logits, probabilities) = (rows_of("logits")?, rows_of("probabilities")?);
        let sets = &graph.spec.rule_sets;
        let cotangents = sets.iter().map(|set| rows_of(set.id())).collect::<Result<Vec<_>, _>>()?;
        let activation = match &graph.spec.wrt {
            autodiff::spec::Wrt::Input => None,
            autodiff::spec::Wrt::Activation(_) => Some(rows_of("activation")?),
        };
        let row = |values: &ArrayD<f32>, index: usize| -> Tensor { values.index_axis(Axis(0), index).to_owned() };
        Ok((0..points.len())
            .map(|index| Row {
                logits: logits.index_axis(Axis(0), index).iter().copied().collect(),
                probabilities: probabilities.index_axis(Axis(0), index).iter().copied().collect(),
                cotangents: cotangents.iter().map(|values| row(values, index)).collect(),
                activation: activation.as_ref().map(|values| row(values, index)),
            })
            .collect())
    }

    fn discard(&mut self, graph: &Arc<GraphOf>) {
        self.open.retain(|open| open.graph != *graph);
        self.evict();
    }
}

/// Dense seeds, one row each. Classes are below `classes`.
fn seed_rows(points: &[Point], classes: usize) -> ArrayD<f32> {
    let mut seeds = Array2::zeros((points.len(), classes));
    for (mut row, point) in seeds.rows_mut().into_iter().zip(points) {
        for &(class, weight) in point.seed.iter() {
            if let Some(entry) = row.get_mut(class) {
                *entry += weight;
            }
        }
    }
    seeds.into_dyn()
}
