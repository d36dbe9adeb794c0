//! The sessions of one graph, and how a batch goes through them.
//!
//! On the CPU the cores are used better by rows of their own than by parts of the same rows: one session answers a
//! single row with all threads, and from the first batch on copies of it, with fewer threads each, share the rows. A
//! session that knows its batch knows every size, so that ONNX Runtime keeps its blocked layout through the backward walk.
//! Cost: each copy has its own weights, except those that are lent.

use std::{
    panic::resume_unwind,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use ndarray::{Array2, ArrayD, Axis};

use super::{
    EngineError, Point, Row,
    backend::{GraphOf, Stop},
    backend_ort::{self, OrtSession, Runtime, RuntimeError, Threads},
    provider::Provider,
};
use crate::{
    autodiff::spec::Wrt,
    onnx::graph::{Dim, Graph},
    tensor::Tensor,
};

/// How a graph's batches are run.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// Of one run of a copy.
    pub rows: usize,
    /// Sessions that share a batch; 1: all batches go through one session, in one run.
    pub copies: usize,
    /// Threads of each.
    pub threads: usize,
}

pub struct OpenGraph {
    way: Way,
    first: OrtSession,
    /// None before the first batch for them.
    copies: Vec<OrtSession>,
}

impl OpenGraph {
    pub fn open(runtime: &Runtime, graph: &Graph, provider: Provider, way: Way) -> Result<Self, RuntimeError> {
        let rows = (way.rows == 1).then_some(1);
        let first = OrtSession::open(runtime, with_batch(graph, rows), provider, Threads::Shared)?;
        Ok(Self { way, first, copies: Vec::new() })
    }

    /// Sessions open now.
    pub fn count(&self) -> usize {
        1 + self.copies.len()
    }

    /// Whether a batch of `rows` would use no more sessions than are open.
    pub fn is_ready_for(&self, rows: usize) -> bool {
        !self.way.shares(rows) || !self.copies.is_empty()
    }

    /// Opens the copies of `graph`, which is what [`Self::open`] was given.
    pub fn open_copies(&mut self, runtime: &Runtime, graph: &Graph) -> Result<(), RuntimeError> {
        let Way { rows, copies, threads } = self.way;
        let open = || OrtSession::open(runtime, with_batch(graph, Some(rows)), Provider::Cpu, Threads::Own(threads));
        self.copies = in_parallel((0..copies).map(|_| open))?;
        Ok(())
    }

    /// One row for each point, in their order.
    pub fn run(
        &mut self,
        graph: &GraphOf,
        classes: Option<usize>,
        points: &[Point],
        stop: &Stop,
    ) -> Result<Vec<Row>, EngineError> {
        let ort_stop = backend_ort::Stop::new()?;
        let hook = ort_stop.clone();
        stop.on_stop(move || hook.stop());
        let evaluate =
            |session: &mut OrtSession, points: &[Point]| evaluate(session, graph, classes, points, &ort_stop);
        // More rows may have come since the graph was prepared: then the first session answers them all.
        let shared = self.way.shares(points.len()) && !self.copies.is_empty();
        let size = if shared || self.way.rows == 1 { self.way.rows } else { points.len() };
        let parts: Vec<&[Point]> = points.chunks(size).collect();
        if !shared {
            let rows = parts.into_iter().map(|part| evaluate(&mut self.first, part));
            return Ok(rows.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect());
        }
        let next = AtomicUsize::new(0);
        let (next, parts, evaluate) = (&next, &parts, &evaluate);
        let shares = self.copies.iter_mut().map(|session| {
            move || {
                let mut done = Vec::new();
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(part) = parts.get(index) else { return Ok::<_, EngineError>(done) };
                    // Nobody needs the rest of a batch that has failed.
                    let rows = evaluate(session, part).inspect_err(|_| next.store(parts.len(), Ordering::Relaxed))?;
                    done.push((index, rows));
                }
            }
        });
        let mut done: Vec<_> = in_parallel(shares)?.into_iter().flatten().collect();
        done.sort_by_key(|(index, _)| *index);
        Ok(done.into_iter().flat_map(|(_, rows)| rows).collect())
    }
}

impl Way {
    /// Most rows of a batch that the copies can share.
    pub fn batch_rows(self) -> usize {
        self.rows * self.copies
    }

    /// Whether the copies share a batch. A session for several rows takes no fewer.
    fn shares(self, rows: usize) -> bool {
        self.copies > 1 && rows >= if self.rows == 1 { 2 } else { self.batch_rows() }
    }
}

/// The graph for batches of `rows`, or of any size. The batch is its only dimension without a number.
fn with_batch(graph: &Graph, rows: Option<usize>) -> Graph {
    let mut graph = graph.clone();
    let Some(rows) = rows else { return graph };
    let values = graph.inputs.iter_mut().chain(&mut graph.outputs);
    for dim in values.flat_map(|value| &mut value.value_type.shape).filter(|dim| dim.known().is_none()) {
        *dim = Dim::Known(rows);
    }
    graph
}

/// What each task gives; the first error or panic among them.
fn in_parallel<T: Send, E: Send, F: FnOnce() -> Result<T, E> + Send>(
    tasks: impl Iterator<Item = F>,
) -> Result<Vec<T>, E> {
    thread::scope(|scope| {
        let started: Vec<_> = tasks.map(|task| scope.spawn(task)).collect();
        let ended: Vec<_> =
            started.into_iter().map(|task| task.join().unwrap_or_else(|panic| resume_unwind(panic))).collect();
        ended.into_iter().collect()
    })
}

/// One run of a session.
fn evaluate(
    session: &mut OrtSession,
    graph: &GraphOf,
    classes: Option<usize>,
    points: &[Point],
    stop: &backend_ort::Stop,
) -> Result<Vec<Row>, EngineError> {
    let failed = |reason: String| EngineError::Runtime { reason };
    let views: Vec<_> = points.iter().map(|point| point.input.view()).collect();
    let input = ndarray::stack(Axis(0), &views).map_err(|e| failed(e.to_string()))?;
    let mut inputs = vec![(graph.model.manifest.input.name.as_str(), input.view())];
    let seeds = classes.map(|classes| seed_rows(points, classes));
    if let Some(seeds) = &seeds {
        inputs.push(("seed", seeds.view()));
    }
    let mut outputs = session.run_until(&inputs, stop)?;
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
        Wrt::Input => None,
        Wrt::Activation(_) => Some(rows_of("activation")?),
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
