//! The sessions of one graph, and which of them a batch goes through.
//!
//! On the CPU the cores are used better by rows of their own than by parts of the same rows: a
//! batch that is alone has one session with all threads, and from the first batch beside others on
//! there are copies of it, with fewer threads each. A session that knows its batch knows every
//! size, so that ONNX Runtime keeps its blocked layout through the backward walk. Cost: each copy
//! has its own weights, except those that are lent.

use std::{
    panic::resume_unwind,
    sync::{Arc, Mutex, OnceLock},
    thread,
};

use ndarray::{Array2, ArrayD, Axis, CowArray};

use super::{
    EngineError, Point, Row,
    backend::{Executable, GraphKey, LoadedGraph, StopSignal, lock},
    backend_ort::{self, Encoded, OrtSession, Runtime, RuntimeError, Threads},
    provider::Provider,
};
use crate::tensor::Tensor;
use onnx_autodiff::{
    autodiff::spec::Wrt,
    onnx::graph::{Dim, Graph},
};

/// How a graph's batches are run.
#[derive(Clone, Copy, Debug)]
pub struct ExecutionPlan {
    /// Of a batch, at most; a copy takes no fewer.
    pub rows: usize,
    /// Batches that run at once; 1: no copies.
    pub copies: usize,
    /// Threads of each.
    pub threads: usize,
}

pub struct OpenGraph {
    graph: Arc<GraphKey>,
    plan: ExecutionPlan,
    /// Length of a seed, where the graph has one.
    classes: Option<usize>,
    first: Mutex<OrtSession>,
    /// What copies are opened of, where that is the same and small.
    encoded: Mutex<Option<Encoded>>,
    /// Those that are free, once there are any.
    copies: OnceLock<Mutex<Vec<OrtSession>>>,
}

impl OpenGraph {
    /// `derived` is what `graph` says.
    pub fn open(
        runtime: &Runtime,
        graph: Arc<GraphKey>,
        derived: &Graph,
        provider: Provider,
        plan: ExecutionPlan,
    ) -> Result<Self, RuntimeError> {
        // Without a rule set there is no seed: an input of that name is the model's own.
        let takes_seed = !graph.spec.rule_sets.is_empty();
        let classes = derived
            .inputs
            .iter()
            .find(|input| takes_seed && input.name == "seed");
        let classes = classes.and_then(|seed| seed.value_type.shape.get(1)?.known());
        let rows = (plan.rows == 1).then_some(1);
        let encoded = Encoded::new(runtime, with_batch(derived, rows), provider)?;
        let first = Mutex::new(OrtSession::open_encoded(
            runtime,
            &encoded,
            Threads::Shared,
        )?);
        let encoded = Mutex::new(
            Some(encoded).filter(|encoded| plan.copies > 1 && rows.is_some() && encoded.is_small()),
        );
        Ok(Self {
            graph,
            plan,
            classes,
            first,
            encoded,
            copies: OnceLock::new(),
        })
    }

    pub fn prepared(self: &Arc<Self>) -> LoadedGraph {
        let ExecutionPlan { rows, copies, .. } = self.plan;
        LoadedGraph {
            graph: self.clone(),
            batch_rows: rows,
            max_concurrent: copies,
            classes: self.classes,
        }
    }

    /// Sessions open now.
    pub fn count(&self) -> usize {
        1 + self.copies.get().map_or(0, |_| self.plan.copies)
    }

    /// Whether the next of `rows` that wait would find their session open.
    pub fn is_ready_for(&self, rows: usize, busy: bool) -> bool {
        let batch = rows.min(self.plan.rows);
        !self.plan.copied(batch, !busy && rows == batch) || self.copies.get().is_some()
    }

    /// Opens the copies; `derive` gives what [`Self::open`] was given once more.
    pub fn open_copies(
        &self,
        runtime: &Runtime,
        derive: impl FnOnce() -> Result<Graph, EngineError>,
    ) -> Result<(), EngineError> {
        let ExecutionPlan {
            rows,
            copies,
            threads,
        } = self.plan;
        let kept = lock(&self.encoded).take();
        let encoded = match kept {
            Some(encoded) => encoded,
            None => Encoded::new(runtime, with_batch(&derive()?, Some(rows)), Provider::Cpu)?,
        };
        let open = || OrtSession::open_encoded(runtime, &encoded, Threads::Own(threads));
        let opened = in_parallel((0..copies).map(|_| open))?;
        self.copies.get_or_init(|| Mutex::new(opened));
        Ok(())
    }

    /// One run of a session.
    fn evaluate(
        &self,
        session: &mut OrtSession,
        points: &[Point],
        stop: &backend_ort::RunStop,
    ) -> Result<Vec<Row>, EngineError> {
        let graph = &self.graph;
        let failed = |reason: String| EngineError::Runtime { reason };
        let input = match points {
            [point] => CowArray::from(point.input.view().insert_axis(Axis(0))),
            _ => {
                let views: Vec<_> = points.iter().map(|point| point.input.view()).collect();
                CowArray::from(ndarray::stack(Axis(0), &views).map_err(|e| failed(e.to_string()))?)
            }
        };
        let mut inputs = vec![(graph.model.manifest.input.name.as_str(), input.view())];
        let seeds = self.classes.map(|classes| seed_rows(points, classes));
        if let Some(seeds) = &seeds {
            inputs.push(("seed", seeds.view()));
        }
        let mut outputs = session.run_until(&inputs, stop)?;
        let mut rows_of = |name: &str| {
            let values = outputs
                .swap_remove(name)
                .ok_or_else(|| failed(format!("no output `{name}`")))?;
            if values.shape().first() == Some(&points.len()) {
                Ok(split(values).into_iter())
            } else {
                Err(failed(format!(
                    "output `{name}` has shape {:?} for {} rows",
                    values.shape(),
                    points.len()
                )))
            }
        };
        let (logits, probabilities) = (rows_of("logits")?, rows_of("probabilities")?);
        let sets = &graph.spec.rule_sets;
        let mut cotangents = sets
            .iter()
            .map(|set| rows_of(set.id()))
            .collect::<Result<Vec<_>, _>>()?;
        let mut activation = match &graph.spec.wrt {
            Wrt::Input => None,
            Wrt::Activation(_) => Some(rows_of("activation")?),
        };
        let row = |(logits, probabilities): (Tensor, Tensor)| Row {
            logits: logits.into_raw_vec_and_offset().0,
            probabilities: probabilities.into_raw_vec_and_offset().0,
            cotangents: cotangents.iter_mut().filter_map(Iterator::next).collect(),
            activation: activation.as_mut().and_then(Iterator::next),
        };
        Ok(logits.zip(probabilities).map(row).collect())
    }
}

impl Executable for OpenGraph {
    fn run(
        &self,
        points: &[Point],
        alone: bool,
        stop: &StopSignal,
    ) -> Result<Vec<Row>, EngineError> {
        let ort_stop = backend_ort::RunStop::new()?;
        let hook = ort_stop.clone();
        stop.on_stop(move || hook.stop());
        // Other work may have come since the graph was prepared: then the first session answers,
        // one batch after another.
        let copies = self
            .copies
            .get()
            .filter(|_| self.plan.copied(points.len(), alone));
        match copies.and_then(|copies| Some((copies, lock(copies).pop()?))) {
            Some((copies, mut session)) => {
                let rows = self.evaluate(&mut session, points, &ort_stop);
                lock(copies).push(session);
                rows
            }
            None => self.evaluate(&mut lock(&self.first), points, &ort_stop),
        }
    }
}

impl ExecutionPlan {
    /// Whether a batch goes to a copy.
    fn copied(self, rows: usize, alone: bool) -> bool {
        self.copies > 1 && !alone && rows == self.rows
    }
}

/// The graph for batches of `rows`, or of any size. The batch is its only dimension without a
/// number.
pub fn with_batch(graph: &Graph, rows: Option<usize>) -> Graph {
    let mut graph = graph.clone();
    let Some(rows) = rows else { return graph };
    let values = graph.inputs.iter_mut().chain(&mut graph.outputs);
    for dim in values
        .flat_map(|value| &mut value.value_type.shape)
        .filter(|dim| dim.known().is_none())
    {
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
        let ended: Vec<_> = started
            .into_iter()
            .map(|task| task.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .collect();
        ended.into_iter().collect()
    })
}

/// The rows of a batch, each all that its memory holds; that of a batch of one is not copied.
fn split(batch: Tensor) -> Vec<Tensor> {
    match batch.len_of(Axis(0)) {
        1 => vec![batch.index_axis_move(Axis(0), 0)],
        _ => batch.outer_iter().map(|row| row.to_owned()).collect(),
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
