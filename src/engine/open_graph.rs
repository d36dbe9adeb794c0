//! The sessions of one graph. On the CPU, several rows with one thread each use the cores better
//! than one row with all threads: a batch that runs alone uses a session with all threads;
//! concurrent batches use copies of it with fewer threads, opened on demand. With a fixed batch
//! size ONNX Runtime keeps NCHWc through the backward pass. Cost: each copy has its own weights,
//! except those of `cpu/weights.rs`.

use std::{
    borrow::Cow,
    panic::resume_unwind,
    sync::{Arc, OnceLock},
    thread,
};

use ndarray::{Array2, ArrayD, Axis, CowArray};
use parking_lot::Mutex;

use super::{
    EngineError, Point, Row,
    backend::{BatchInput, BatchOutput, Executable, GraphKey, LoadedGraph, SessionKey, StopSignal},
    backend_ort::{Encoded, OrtSession, RunStop, Runtime, RuntimeError, Threads},
    provider::Provider,
    whole::{NamedInputs, NamedOutputs},
};
use crate::tensor::Tensor;
use onnx_autodiff::onnx::graph::{Dim, Graph};

/// How the batches of a graph are run.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExecutionPlan {
    /// The most rows of a batch. Copies run batches of exactly this size.
    pub rows: usize,
    /// The batch size of the first session, if it is fixed.
    pub batch: Option<usize>,
    /// Whether the graph takes batches of exactly `rows`: smaller ones are filled up.
    pub fills: bool,
    /// Concurrent batches, each on a copy; 1: there are no copies.
    pub copies: usize,
    /// Threads of each copy.
    pub threads: usize,
}

impl ExecutionPlan {
    /// A plan for batches of at most `rows` rows; a single row is a fixed batch size.
    pub(super) fn of_rows(rows: usize, copies: usize, threads: usize) -> Self {
        Self {
            rows,
            batch: (rows == 1).then_some(1),
            fills: false,
            copies,
            threads,
        }
    }

    /// For a graph that takes batches of exactly `rows`.
    pub(super) fn of_fixed(rows: usize, copies: usize, threads: usize) -> Self {
        Self {
            batch: Some(rows),
            fills: true,
            ..Self::of_rows(rows, copies, threads)
        }
    }

    /// Whether a batch runs on a copy.
    fn copied(self, rows: usize, alone: bool) -> bool {
        self.copies > 1 && !alone && rows == self.rows
    }
}

pub(super) struct OpenGraph {
    key: Arc<SessionKey>,
    plan: ExecutionPlan,
    convolution_error: f64,
    /// Bytes of transformed weights, which all sessions share.
    transformed_bytes: usize,
    /// Length of the cotangent of the head, if the graph takes one.
    classes: Option<usize>,
    first: Mutex<OrtSession>,
    /// Kept to open copies, if they take the same encoded graph and it is small.
    encoded: Mutex<Option<Encoded>>,
    /// The free copies, once copies are open.
    copies: OnceLock<Mutex<Vec<OrtSession>>>,
}

impl OpenGraph {
    /// Opens the first session. `graph` is the graph that `key` names.
    pub(super) fn open(
        runtime: &Runtime,
        key: Arc<SessionKey>,
        graph: &Graph,
        provider: Provider,
        convolution_error: f64,
        plan: ExecutionPlan,
    ) -> Result<Self, RuntimeError> {
        let classes = match &*key {
            SessionKey::Rows(key) => classes(key, graph),
            SessionKey::Whole(_) => None,
        };
        let graph = with_batch(graph, plan.batch);
        let encoded = Encoded::new(runtime, graph, provider, convolution_error)?;
        let transformed_bytes = encoded.transformed_bytes();
        let first = Mutex::new(OrtSession::open_encoded(
            runtime,
            &encoded,
            Threads::Shared,
        )?);
        let is_reused = plan.copies > 1 && plan.batch.is_some() && encoded.is_small();
        let encoded = Mutex::new(is_reused.then_some(encoded));
        Ok(Self {
            key,
            plan,
            convolution_error,
            transformed_bytes,
            classes,
            first,
            encoded,
            copies: OnceLock::new(),
        })
    }

    pub(super) fn loaded(self: &Arc<Self>) -> LoadedGraph {
        let ExecutionPlan { rows, copies, .. } = self.plan;
        LoadedGraph {
            executable: self.clone(),
            batch_rows: rows,
            max_concurrent: copies,
            classes: self.classes,
        }
    }

    /// The number of open sessions.
    pub(super) fn count(&self) -> usize {
        1 + self.copies.get().map_or(0, |_| self.plan.copies)
    }

    pub(super) fn transformed_bytes(&self) -> usize {
        self.transformed_bytes
    }

    /// Whether the sessions for the next batch are open, while `rows` rows wait.
    pub(super) fn is_ready_for(&self, rows: usize, busy: bool) -> bool {
        let batch = rows.min(self.plan.rows);
        !self.plan.copied(batch, !busy && rows == batch) || self.copies.get().is_some()
    }

    /// Opens the copies. `graph` returns the graph that was passed to [`Self::open`].
    pub(super) fn open_copies<'a>(
        &self,
        runtime: &Runtime,
        graph: impl FnOnce() -> Result<Cow<'a, Graph>, EngineError>,
    ) -> Result<(), EngineError> {
        let ExecutionPlan {
            rows,
            copies,
            threads,
            ..
        } = self.plan;
        let kept = self.encoded.lock().take();
        let encoded = match kept {
            Some(encoded) => encoded,
            None => Encoded::new(
                runtime,
                with_batch(graph()?.as_ref(), Some(rows)),
                Provider::Cpu,
                self.convolution_error,
            )?,
        };
        let open = || OrtSession::open_encoded(runtime, &encoded, Threads::Own(threads));
        let opened = in_parallel((0..copies).map(|_| open))?;
        self.copies.get_or_init(|| Mutex::new(opened));
        Ok(())
    }

    fn run_rows(
        &self,
        key: &GraphKey,
        points: &[Point],
        alone: bool,
        stop: &RunStop,
    ) -> Result<Vec<Row>, EngineError> {
        // If other work came after the graph was opened without copies, the first session runs its
        // batches one after another.
        let copies = self
            .copies
            .get()
            .filter(|_| self.plan.copied(points.len(), alone));
        match copies.and_then(|copies| Some((copies, copies.lock().pop()?))) {
            Some((copies, mut session)) => {
                let rows = self.evaluate(key, &mut session, points, stop);
                copies.lock().push(session);
                rows
            }
            None => self.evaluate(key, &mut self.first.lock(), points, stop),
        }
    }

    /// Runs a session once on rows.
    fn evaluate(
        &self,
        graph: &GraphKey,
        session: &mut OrtSession,
        points: &[Point],
        stop: &RunStop,
    ) -> Result<Vec<Row>, EngineError> {
        let failed = |reason: String| EngineError::Runtime { reason };
        let rows = match self.plan.fills {
            true => self.plan.rows,
            false => points.len(),
        };
        let input = match points {
            [point] if rows == 1 => CowArray::from(point.input.view().insert_axis(Axis(0))),
            _ => {
                // The last point fills a fixed batch up, with a cotangent of zeros.
                let filled = points.iter().chain(points.last().into_iter().cycle());
                let views: Vec<_> = filled.take(rows).map(|point| point.input.view()).collect();
                CowArray::from(ndarray::stack(Axis(0), &views).map_err(|e| failed(e.to_string()))?)
            }
        };
        let mut inputs = vec![(graph.model.manifest.input.name.as_str(), input.view())];
        let seeds = self.classes.map(|classes| seed_rows(points, rows, classes));
        if let Some(seeds) = &seeds {
            inputs.push(("seed", seeds.view()));
        }
        let mut outputs = session.run_until(&inputs, stop)?;
        let mut rows_of = |name: &str| {
            let values = outputs
                .swap_remove(name)
                .ok_or_else(|| failed(format!("no output `{name}`")))?;
            if values.shape().first() == Some(&rows) {
                Ok(split(values).into_iter())
            } else {
                Err(failed(format!(
                    "output `{name}` has shape {:?} for {rows} rows",
                    values.shape()
                )))
            }
        };
        let (logits, probabilities) = (rows_of("logits")?, rows_of("probabilities")?);
        let mut all_rows_of = |names: Vec<String>| {
            let found = names.iter().map(|name| rows_of(name));
            found.collect::<Result<Vec<_>, EngineError>>()
        };
        let mut cotangents = all_rows_of(graph.spec.cotangent_names())?;
        let mut activations = all_rows_of(graph.spec.activation_names())?;
        let row = |(logits, probabilities): (Tensor, Tensor)| Row {
            logits: logits.into_raw_vec_and_offset().0,
            probabilities: probabilities.into_raw_vec_and_offset().0,
            cotangents: cotangents.iter_mut().filter_map(Iterator::next).collect(),
            activations: activations.iter_mut().filter_map(Iterator::next).collect(),
        };
        Ok(logits
            .zip(probabilities)
            .take(points.len())
            .map(row)
            .collect())
    }
}

impl Executable for OpenGraph {
    fn run(
        &self,
        input: &BatchInput,
        alone: bool,
        stop: &StopSignal,
    ) -> Result<BatchOutput, EngineError> {
        let run_stop = RunStop::new()?;
        let hook = run_stop.clone();
        stop.on_stop(move || hook.stop());
        match (&*self.key, input) {
            (SessionKey::Rows(key), BatchInput::Rows(points)) => self
                .run_rows(key, points, alone, &run_stop)
                .map(BatchOutput::Rows),
            (SessionKey::Whole(_), BatchInput::Whole(inputs)) => {
                run_whole(&mut self.first.lock(), inputs, &run_stop).map(BatchOutput::Whole)
            }
            (SessionKey::Rows(_), BatchInput::Whole(_))
            | (SessionKey::Whole(_), BatchInput::Rows(_)) => Err(EngineError::mixed_up()),
        }
    }
}

fn run_whole(
    session: &mut OrtSession,
    inputs: &NamedInputs,
    stop: &RunStop,
) -> Result<NamedOutputs, EngineError> {
    let inputs: Vec<_> = inputs
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor.view()))
        .collect();
    Ok(session.run_until(&inputs, stop)?)
}

/// Length of the cotangent of the head, if the graph takes one. In a graph without rule sets, an
/// input called `seed` belongs to the model.
fn classes(key: &GraphKey, graph: &Graph) -> Option<usize> {
    let takes_seed = !key.spec.rule_sets.is_empty();
    let seed = graph
        .inputs
        .iter()
        .find(|input| takes_seed && input.name == "seed")?;
    seed.value_type.shape.get(1)?.known()
}

/// The only batch that a graph takes; none where its batch is symbolic.
pub(super) fn fixed_rows(graph: &Graph) -> Option<usize> {
    graph.inputs.first()?.value_type.shape.first()?.known()
}

/// The graph with its batch size fixed to `rows`, or unchanged. The batch is the only dynamic
/// dimension.
pub(super) fn with_batch(graph: &Graph, rows: Option<usize>) -> Graph {
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

/// Runs tasks on threads; returns their results, or the first error or panic.
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

/// The rows of an output, each in memory of its own; a batch of one is not copied.
fn split(batch: Tensor) -> Vec<Tensor> {
    match batch.len_of(Axis(0)) {
        1 => vec![batch.index_axis_move(Axis(0), 0)],
        _ => batch.outer_iter().map(|row| row.to_owned()).collect(),
    }
}

/// Dense seeds, one row each; further rows are zeros. Classes are below `classes`.
fn seed_rows(points: &[Point], rows: usize, classes: usize) -> ArrayD<f32> {
    let mut seeds = Array2::zeros((rows, classes));
    for (mut row, point) in seeds.rows_mut().into_iter().zip(points) {
        for &(class, weight) in point.seed.iter() {
            if let Some(entry) = row.get_mut(class) {
                *entry += weight;
            }
        }
    }
    seeds.into_dyn()
}
