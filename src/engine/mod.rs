//! Evaluates derived graphs: admission control, queue, batching, worker threads of each device,
//! sessions of ONNX Runtime.

mod activations;
mod admission;
mod backend;
pub mod backend_ort;
mod cpu;
mod dispatch;
mod dispatcher;
mod lanes;
mod open_graph;
pub mod provider;
mod sessions;
mod trial;
mod whole;
mod worker;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use crate::{model::Model, tensor::Tensor};
pub use activations::peak_bytes;
pub use admission::RequestClass;
use admission::Verdict;
pub use backend::GraphKey;
use backend::{Backend, BatchInput, BatchOutput, SessionKey};
pub use backend_ort::RuntimeError;
use dispatch::{Answered, Receiver};
use dispatcher::Dispatcher;
use lanes::RequestId;
use onnx_autodiff::autodiff::spec::DeriveSpec;
pub use provider::Provider;
use sessions::Sessions;
pub use trial::{LARGEST_ROW, TrialError, Written, run_file};
pub use whole::{NamedInputs, NamedOutputs, WholeGraph};

/// The time without work after which a device releases memory that only runs need.
const IDLE_AFTER: Duration = Duration::from_secs(20);
/// How often a job tries again while the queue is full.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// One row to evaluate: an input without batch axis, and the cotangent of the head as sparse
/// `(class, weight)` pairs: `[(c, 1)]` explains class c, `[(a, 1), (b, -1)]` why a and not b. Empty
/// for forward-only graphs.
#[derive(Clone, Debug)]
pub struct Point {
    pub input: Arc<Tensor>,
    pub seed: Arc<[(usize, f32)]>,
}

/// The result of one evaluated [`Point`].
#[derive(Clone, Debug, Default)]
pub struct Row {
    pub logits: Vec<f32>,
    pub probabilities: Vec<f32>,
    /// For each rule set, the cotangent of each value of `DeriveSpec::wrt`, in the value's shape.
    pub cotangents: Vec<Tensor>,
    /// The values of `DeriveSpec::outputs`.
    pub activations: Vec<Tensor>,
}

impl Point {
    /// A point without a seed, for the forward graph.
    pub fn forward(input: Arc<Tensor>) -> Self {
        Self {
            input,
            seed: Arc::new([]),
        }
    }
}

impl Row {
    /// The score of each class: its probability, or the output itself if the network has only one.
    pub fn scores(&self) -> &[f32] {
        if self.logits.len() == 1 {
            &self.logits
        } else {
            &self.probabilities
        }
    }

    pub fn is_finite(&self) -> bool {
        self.logits.iter().all(|logit| logit.is_finite())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Priority {
    Interactive,
    Job,
}

/// The origin of work: determines its schedule, and when it is given up.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Unique. The queue fills batches caller by caller, and admission counts the rows that each
    /// has left.
    pub id: u64,
    pub priority: Priority,
    /// Cancelled when the caller goes away.
    pub cancel: CancellationToken,
    pub deadline: Option<Instant>,
}

impl Caller {
    /// A caller with a new id.
    pub fn new(priority: Priority, deadline: Option<Instant>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Self {
            id,
            priority,
            cancel: CancellationToken::new(),
            deadline,
        }
    }

    /// Awaits `work` until the caller is cancelled or its deadline passes.
    async fn until_ended<T>(&self, work: impl Future<Output = T>) -> Result<T, EngineError> {
        let deadline = async {
            match self.deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = self.cancel.cancelled() => Err(EngineError::Cancelled),
            () = deadline => Err(EngineError::DeadlineExceeded),
        }
    }
}

/// Rows, in the order of the points. `model` is the time during which batches with them ran;
/// `queue` is the rest of the time until the last row: waiting for the device, and for a new
/// session to open.
#[derive(Debug, Default)]
pub struct Evaluated {
    pub rows: Vec<Row>,
    pub queue: Duration,
    pub model: Duration,
}

/// The configuration of the engine.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    /// ONNX Runtime's library; see [`backend_ort::load_runtime`].
    pub library: Option<PathBuf>,
    /// The devices. On the CPU there is a worker per thread, on a GPU one worker.
    pub providers: Vec<Provider>,
    /// Intra-op threads on the CPU; 0: one per core.
    pub threads: usize,
    /// The most that a convolution on the CPU may lose by Winograd's algorithm, as a share of its
    /// largest output; 0: ONNX Runtime computes all.
    pub convolution_error: f64,
    /// Rows that may wait.
    pub queue_rows: usize,
    /// The most rows of one batch; more where threads or large weights would be used badly.
    pub batch_rows: usize,
    /// Memory for the activations of one batch, in bytes; it limits the rows of a batch.
    pub batch_bytes: usize,
    /// Memory for the open sessions of one device, in bytes; the least recently used are closed.
    pub session_bytes: usize,
}

/// The version of ONNX Runtime, once an engine was started: `1.24.1`, or the text of its build.
pub fn runtime_version() -> String {
    backend_ort::runtime_version()
}

/// A handle to the workers of all devices. Clones share them; they end when the last clone is
/// dropped, or by [`Engine::drain`].
#[derive(Clone)]
pub struct Engine {
    workers: Arc<Workers>,
}

struct Workers {
    dispatcher: Arc<Dispatcher>,
    providers: Vec<Provider>,
    backends: Vec<Arc<dyn Backend>>,
    batch_bytes: usize,
}

/// Limits that hold for all devices.
struct Limits {
    /// Rows that may wait.
    queue_rows: usize,
    /// Memory for the activations of one batch.
    batch_bytes: usize,
    /// The time without work after which a device is idle.
    idle_after: Duration,
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.dispatcher.close();
    }
}

impl Engine {
    /// Loads ONNX Runtime, opens every configured device and starts its workers.
    pub fn start(settings: &EngineSettings) -> Result<Self, RuntimeError> {
        let runtime = backend_ort::load_runtime(settings.library.as_deref(), settings.threads)?;
        let mut backends: Vec<Arc<dyn Backend>> = Vec::new();
        for &provider in &settings.providers {
            runtime.probe(provider)?;
            backends.push(Arc::new(Sessions::new(runtime, provider, settings)));
        }
        let limits = Limits {
            queue_rows: settings.queue_rows,
            batch_bytes: settings.batch_bytes,
            idle_after: IDLE_AFTER,
        };
        Self::with_backends(&limits, settings.providers.clone(), backends)
    }

    fn with_backends(
        limits: &Limits,
        providers: Vec<Provider>,
        backends: Vec<Arc<dyn Backend>>,
    ) -> Result<Self, RuntimeError> {
        let dispatcher = Arc::new(Dispatcher::new(limits.queue_rows, limits.idle_after));
        let engine = Self {
            workers: Arc::new(Workers {
                dispatcher: dispatcher.clone(),
                providers,
                backends: backends.clone(),
                batch_bytes: limits.batch_bytes,
            }),
        };
        for (device, backend) in backends.into_iter().enumerate() {
            for number in 0..backend.workers() {
                let (dispatcher, backend) = (dispatcher.clone(), backend.clone());
                std::thread::Builder::new()
                    .name(format!("device-{device}-{number}"))
                    .spawn(move || worker::work(&dispatcher, device, backend.as_ref()))
                    .map_err(|e| RuntimeError::Thread {
                        reason: e.to_string(),
                    })?;
            }
        }
        Ok(engine)
    }

    /// The devices in use: all that were configured.
    pub fn providers(&self) -> &[Provider] {
        &self.workers.providers
    }

    /// Admits a request with `rows` to evaluate if they can be evaluated before the caller's
    /// deadline beside the requests admitted earlier. Hold the permit until the request is
    /// answered.
    pub async fn reserve(
        &self,
        class: &RequestClass,
        rows: usize,
        caller: &Caller,
    ) -> Result<AdmissionPermit, EngineError> {
        let dispatcher = &self.workers.dispatcher;
        loop {
            let told = dispatcher.admission_changes().notified();
            tokio::pin!(told);
            told.as_mut().enable();
            match dispatcher.ask(class, rows, caller)? {
                Verdict::Admitted => {
                    return Ok(AdmissionPermit {
                        dispatcher: dispatcher.clone(),
                        caller: caller.id,
                    });
                }
                Verdict::Unknown => caller.until_ended(told).await?,
                Verdict::Refused {
                    needed,
                    retry_after,
                } => {
                    let left = caller.deadline.map_or(Duration::ZERO, |end| {
                        end.saturating_duration_since(Instant::now())
                    });
                    return Err(EngineError::TooLate {
                        needed,
                        left,
                        retry_after,
                    });
                }
            }
        }
    }

    /// Evaluates `points` on the graph that `spec` derives from `model`. Dropping the future
    /// cancels the work.
    pub async fn evaluate(
        &self,
        model: &Arc<Model>,
        spec: &DeriveSpec,
        points: Vec<Point>,
        caller: &Caller,
    ) -> Result<Evaluated, EngineError> {
        let expected = &model.manifest.input.shape;
        if let Some(point) = points
            .iter()
            .find(|point| point.input.shape() != expected.as_slice())
        {
            let reason = format!(
                "an input of shape {:?}; the model takes {expected:?}",
                point.input.shape()
            );
            return Err(EngineError::Runtime { reason });
        }
        if points.is_empty() {
            return Ok(Evaluated {
                rows: Vec::new(),
                queue: Duration::ZERO,
                model: Duration::ZERO,
            });
        }
        let key = SessionKey::Rows(GraphKey::new(model.clone(), spec.clone()));
        let answered = self.submit(key, BatchInput::Rows(points), caller).await?;
        match answered.output {
            BatchOutput::Rows(rows) => Ok(Evaluated {
                rows,
                queue: answered.queue,
                model: answered.model,
            }),
            BatchOutput::Whole(_) => Err(EngineError::mixed_up()),
        }
    }

    /// Runs `graph` once on a whole batch, at job priority whatever the caller's: the run starts
    /// when no interactive request is pending. Dropping the future cancels the work.
    ///
    /// Fails with [`EngineError::InvalidBatch`] if the inputs are not those of the graph, or have
    /// more rows than [`Self::most_batch_rows`].
    pub async fn run_whole(
        &self,
        graph: &Arc<WholeGraph>,
        inputs: NamedInputs,
        caller: &Caller,
    ) -> Result<NamedOutputs, EngineError> {
        let (rows, most) = (graph.rows(&inputs)?, self.most_batch_rows(graph));
        if rows > most {
            return Err(EngineError::InvalidBatch {
                reason: format!(
                    "{rows} rows of {} bytes of activations each; the memory for one batch, {} bytes, holds {most}",
                    graph.row_bytes(),
                    self.workers.batch_bytes
                ),
            });
        }
        let caller = Caller {
            priority: Priority::Job,
            ..caller.clone()
        };
        let key = SessionKey::Whole(graph.clone());
        match self
            .submit(key, BatchInput::Whole(inputs), &caller)
            .await?
            .output
        {
            BatchOutput::Whole(outputs) => Ok(outputs),
            BatchOutput::Rows(_) => Err(EngineError::mixed_up()),
        }
    }

    /// The number of rows whose activations fit into the memory for one batch; at least one.
    pub fn most_batch_rows(&self, graph: &WholeGraph) -> usize {
        (self.workers.batch_bytes / graph.row_bytes().max(1)).max(1)
    }

    /// Queues the input and awaits the answer. Jobs wait for room in a full queue.
    async fn submit(
        &self,
        key: SessionKey,
        input: BatchInput,
        caller: &Caller,
    ) -> Result<Answered, EngineError> {
        let (dispatcher, key) = (&self.workers.dispatcher, Arc::new(key));
        let (request, answer) = match caller.priority {
            Priority::Interactive => dispatcher.admit(&key, caller, input)?,
            Priority::Job => admit_in_time(dispatcher, &key, caller, input).await?,
        };
        let _leave = Leave {
            dispatcher,
            request,
        };
        caller
            .until_ended(answer)
            .await?
            .unwrap_or(Err(EngineError::Draining))
    }

    /// Runs one prediction of `model` on zeros; returns warnings about it. Blocks while a session
    /// is opened and run.
    pub fn try_out(&self, model: &Model) -> Result<Vec<String>, TrialError> {
        let open = |error: RuntimeError| TrialError::Open {
            reason: error.to_string(),
        };
        let runtime = backend_ort::load_runtime(None, 0).map_err(open)?;
        let mut doubts = Vec::new();
        for &provider in self.providers() {
            doubts = trial::try_out(runtime, provider, model)?;
        }
        Ok(doubts)
    }

    /// Closes the sessions of `outdated` models that no request uses; returns how many are in use
    /// and stay open. Blocks while a session is being opened: not for async threads.
    pub fn close_outdated(&self, outdated: impl Fn(&Model) -> bool) -> usize {
        self.workers
            .backends
            .iter()
            .map(|backend| backend.close_outdated(&outdated))
            .sum()
    }

    /// Refuses new work and finishes pending work; after `limit`, stops what is left.
    pub async fn drain(&self, limit: Duration) {
        self.workers.dispatcher.drain(limit).await;
    }
}

/// Jobs wait for room in a full queue.
async fn admit_in_time(
    dispatcher: &Dispatcher,
    key: &Arc<SessionKey>,
    caller: &Caller,
    input: BatchInput,
) -> Result<(RequestId, Receiver), EngineError> {
    loop {
        match dispatcher.admit(key, caller, input.clone()) {
            Err(EngineError::Overloaded { .. }) if !caller.cancel.is_cancelled() => {
                tokio::time::sleep(RETRY_INTERVAL).await
            }
            admitted => return admitted,
        }
    }
}

/// The admission of a request; ends when it is dropped.
pub struct AdmissionPermit {
    dispatcher: Arc<Dispatcher>,
    caller: u64,
}

impl Drop for AdmissionPermit {
    fn drop(&mut self) {
        self.dispatcher.release(self.caller);
    }
}

/// Cancels a request when its future is dropped. Does nothing if the request is answered.
struct Leave<'a> {
    dispatcher: &'a Dispatcher,
    request: RequestId,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.dispatcher.abandon(self.request);
    }
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum EngineError {
    /// Admission is full. 429 with `Retry-After`.
    #[error("the queue is full: {waiting_rows} rows wait, {limit_rows} are allowed")]
    Overloaded {
        waiting_rows: usize,
        limit_rows: usize,
        retry_after: Duration,
    },
    /// 429 with `Retry-After`.
    #[error(
        "beside the requests that are worked on this one would take about {:.0} s, and {:.0} s are left until its deadline; try again later, lower the cost, or give it more time",
        needed.as_secs_f64().ceil(), left.as_secs_f64()
    )]
    TooLate {
        needed: Duration,
        left: Duration,
        retry_after: Duration,
    },
    #[error("the caller went away")]
    Cancelled,
    #[error("the deadline passed")]
    DeadlineExceeded,
    #[error("the server is shutting down")]
    Draining,
    #[error(transparent)]
    Derive(#[from] Arc<onnx_autodiff::autodiff::DeriveError>),
    /// The inputs of a whole batch are not those of the graph, or have too many rows.
    #[error("the batch cannot be run: {reason}")]
    InvalidBatch { reason: String },
    #[error("ONNX Runtime: {reason}")]
    Runtime { reason: String },
}

impl EngineError {
    /// The backend answered rows with a whole batch or the reverse: a defect.
    fn mixed_up() -> Self {
        Self::Runtime {
            reason: "rows were answered with a whole batch, or the other way round".into(),
        }
    }
}

#[cfg(test)]
mod tests;
