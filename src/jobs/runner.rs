//! Leases shards and works on them: renews leases, stops attempts whose job is cancelled or whose
//! lease is lost, retries failures, drains at shutdown. Its evaluations have job priority: they
//! wait for those of requests.

use std::{
    panic::AssertUnwindSafe,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{FutureExt, future::join_all};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{
    crash::crash_point,
    error::WorkError,
    kind::{Context, Kind},
    queue::Queue,
    registry,
    shard_results::{Results, ShardResults},
    store::{Acked, Lease, Renewed, StoreError},
};
use crate::{
    app::App,
    engine::{Caller, Priority},
    telemetry::names,
};

/// How often an idle runner looks for shards that other processes submitted.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Heartbeats in the length of a lease.
const HEARTBEATS: u32 = 5;

/// A shard that failed waits for the length of a lease divided by this, then twice as long, and so
/// on.
const LEASE_OVER_RETRY: u32 = 15;

/// The first and the longest pause while the database does not answer.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// How often jobs past their retention are removed, and how often the files of jobs that are gone.
const FORGET: Duration = Duration::from_secs(60);
const SWEEP: Duration = Duration::from_secs(600);

/// How long a stopped attempt may take to end by itself, so that it writes no more files.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Works on the shards of a queue, as many at once as the settings say.
pub struct Runner {
    queue: Queue,
    owner: String,
}

/// What an attempt at a shard gave.
enum Outcome {
    Shard(Bytes),
    Job(Value),
    Failed(WorkError),
}

/// How a runner is told to end.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// No more shards are leased; those under way are worked to their ends.
    pub graceful: CancellationToken,
    /// Shards under way are stopped, and released for other workers.
    pub immediate: CancellationToken,
}

impl Runner {
    pub fn new(queue: Queue) -> Self {
        Self {
            queue,
            owner: format!("{}-{}", std::process::id(), uuid::Uuid::new_v4().simple()),
        }
    }

    /// Works until the shutdown, and removes jobs past their retention and files of deleted jobs.
    pub async fn run(&self, shutdown: &Shutdown) {
        let forget = every(FORGET, shutdown, || self.forget());
        let sweep = every(SWEEP, shutdown, || self.sweep());
        tokio::join!(self.work_until(shutdown), forget, sweep);
    }

    /// Works until the shutdown, and removes nothing: files of jobs that this queue does not know
    /// belong to another queue.
    pub async fn work_until(&self, shutdown: &Shutdown) {
        let slots = self.queue.app().settings().job_slots;
        join_all((0..slots).map(|_| self.work(shutdown))).await;
    }

    async fn work(&self, shutdown: &Shutdown) {
        let kinds: Vec<&str> = self.queue.kinds().iter().map(|kind| kind.id()).collect();
        let lease_ms = self.lease().as_millis() as u64;
        let mut pause = BACK_OFF.0;
        while !shutdown.graceful.is_cancelled() {
            let claimed = match self.queue.store().await {
                Ok(store) => store.claim(&self.owner, &kinds, lease_ms).await,
                Err(error) => Err(error),
            };
            match claimed {
                Ok(Some(lease)) => {
                    pause = BACK_OFF.0;
                    self.attempt(lease, shutdown).await;
                    self.queue.connection().notify_change();
                }
                Ok(None) => tokio::select! {
                    () = shutdown.graceful.cancelled() => {}
                    () = self.queue.connection().wait_for_change(POLL_INTERVAL) => {}
                },
                Err(error) => {
                    tracing::error!(%error, "no shards can be leased; trying again");
                    back_off(&mut pause, &shutdown.graceful).await;
                }
            }
        }
    }

    fn lease(&self) -> Duration {
        self.queue.app().settings().lease
    }

    async fn attempt(&self, lease: Lease, shutdown: &Shutdown) {
        let Some(kind) = registry::find(self.queue.kinds(), &lease.kind) else {
            return;
        };
        crash_point!("runner::leased");
        let started = Instant::now();
        let context = self.context(&lease);
        let _ended = context.caller.cancel.clone().drop_guard();
        let evaluation = AssertUnwindSafe(self.evaluate(kind, &context, &lease)).catch_unwind();
        tokio::pin!(evaluation);
        let outcome = tokio::select! {
            biased;
            outcome = &mut evaluation => outcome
                .unwrap_or_else(|_| Outcome::Failed(WorkError::Transient("its work panicked; the log says where".into()))),
            () = self.heartbeat(&lease, &context) => {
                tracing::info!(job = lease.job, shard = lease.shard.index, "stopped: the lease or the job is over");
                context.caller.cancel.cancel();
                let _ = tokio::time::timeout(STOP_TIMEOUT, evaluation).await;
                self.clear(&lease).await;
                return count(&lease, Ending::Stopped);
            }
            () = shutdown.immediate.cancelled() => {
                self.give_back(&lease).await;
                return count(&lease, Ending::GivenBack);
            }
        };
        crash_point!("runner::evaluated");
        let settled = self.settle(&lease, &outcome, shutdown).await;
        crash_point!("runner::settled");
        metrics::histogram!(names::SHARD_DURATION_SECONDS, "kind" => kind.id())
            .record(started.elapsed());
        match (settled, &outcome) {
            (Some(Acked::Written), Outcome::Failed(error)) => {
                tracing::warn!(job = lease.job, shard = lease.shard.index, %error, "a shard failed");
                count(&lease, Ending::Failed);
            }
            (Some(Acked::Written), _) => count(&lease, Ending::Succeeded),
            (Some(Acked::Refused), _) => {
                tracing::warn!(
                    job = lease.job,
                    shard = lease.shard.index,
                    "a late result was refused"
                );
                self.clear(&lease).await;
                count(&lease, Ending::Refused);
            }
            (None, _) => count(&lease, Ending::Unwritten),
        }
    }

    fn context(&self, lease: &Lease) -> Context {
        Context {
            app: self.queue.app().clone(),
            caller: Caller::new(Priority::Job, None),
            job: lease.job.clone(),
            spec: Arc::new(lease.spec.clone()),
            units_done: Arc::default(),
        }
    }

    async fn evaluate(&self, kind: &'static dyn Kind, context: &Context, lease: &Lease) -> Outcome {
        let outcome = if lease.reduces {
            self.reduce(kind, context).await.map(Outcome::Job)
        } else {
            kind.work(context, &lease.shard).await.map(Outcome::Shard)
        };
        outcome.unwrap_or_else(Outcome::Failed)
    }

    async fn reduce(&self, kind: &'static dyn Kind, context: &Context) -> Result<Value, WorkError> {
        let store = self.queue.store().await.map_err(WorkError::transient)?;
        let results = ShardResults::new(store.clone(), context.app.pool().clone(), &context.job);
        let spec = context.spec.clone();
        let reduce = move |shards: Results<'_>| kind.reduce(&spec, shards);
        let reduced = results.read::<_, WorkError>(reduce).await?;
        crash_point!("runner::reduced");
        kind.complete(context, reduced, results).await
    }

    /// Renews the lease until the lease or its job is over.
    async fn heartbeat(&self, lease: &Lease, context: &Context) {
        let (length, mut ended) = (self.lease(), self.queue.ended_jobs());
        loop {
            // A receiver that lagged behind gets an error, and asks the database.
            let heard = async { while ended.recv().await.is_ok_and(|job| job != lease.job) {} };
            let _ = tokio::time::timeout(length / HEARTBEATS, heard).await;
            let done = context.units_done.load(Ordering::Relaxed);
            let renewed = match self.queue.store().await {
                Ok(store) => store.renew(lease, length.as_millis() as u64, done).await,
                Err(error) => Err(error),
            };
            match renewed {
                Ok(Renewed::Kept) => {}
                Ok(Renewed::Over) => return,
                Err(error) => {
                    tracing::warn!(%error, job = lease.job, "a lease could not be renewed; working on")
                }
            }
        }
    }

    /// Writes the outcome, and tries again until the database answers: the lease's token refuses a
    /// write that is too late. None when the immediate shutdown came first.
    async fn settle(&self, lease: &Lease, outcome: &Outcome, shutdown: &Shutdown) -> Option<Acked> {
        let mut pause = BACK_OFF.0;
        loop {
            match self.write(lease, outcome).await {
                Ok(acked) => return Some(acked),
                Err(error) => {
                    tracing::error!(%error, job = lease.job, "a result cannot be written; trying again")
                }
            }
            if shutdown.immediate.is_cancelled() {
                return None;
            }
            back_off(&mut pause, &shutdown.immediate).await;
        }
    }

    async fn write(&self, lease: &Lease, outcome: &Outcome) -> Result<Acked, StoreError> {
        let store = self.queue.store().await?;
        match outcome {
            Outcome::Shard(result) => store.ack(lease, result).await,
            Outcome::Job(result) => store.finish(lease, result).await,
            Outcome::Failed(error) => {
                let retry = (self.lease() / LEASE_OVER_RETRY).as_millis() as u64;
                let retry = matches!(error, WorkError::Transient(_)).then_some(retry);
                let told = without_folders(&error.to_string(), &folders(self.queue.app()));
                store.fail(lease, &told, retry).await
            }
        }
    }

    async fn give_back(&self, lease: &Lease) {
        let given = match self.queue.store().await {
            Ok(store) => store.release(lease).await,
            Err(error) => Err(error),
        };
        if let Err(error) = given {
            tracing::warn!(%error, job = lease.job, "a shard could not be given back; its lease will run out");
        }
    }

    /// An attempt that was stopped may have written files after its job was deleted.
    async fn clear(&self, lease: &Lease) {
        if let Err(error) = self.queue.remove_files_if_deleted(&lease.job).await {
            tracing::warn!(%error, job = lease.job, "files of a deleted job may be left; they are looked for again");
        }
    }

    async fn forget(&self) {
        let settings = self.queue.app().settings();
        match self
            .queue
            .forget(settings.job_retention, settings.max_kept_jobs)
            .await
        {
            Ok(0) => {}
            Ok(jobs) => tracing::info!(jobs, "removed jobs past their retention"),
            Err(error) => tracing::warn!(%error, "old jobs could not be removed"),
        }
    }

    async fn sweep(&self) {
        match self.queue.sweep().await {
            Ok(0) => {}
            Ok(jobs) => tracing::info!(jobs, "removed the files of deleted jobs"),
            Err(error) => {
                tracing::warn!(%error, "the files of deleted jobs could not be looked for")
            }
        }
    }
}

/// Does it at once, and then again and again until the shutdown.
async fn every<F: Future<Output = ()>>(
    pause: Duration,
    shutdown: &Shutdown,
    mut act: impl FnMut() -> F,
) {
    while !shutdown.graceful.is_cancelled() {
        act().await;
        tokio::select! {
            () = shutdown.graceful.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// The folders of this machine that errors may name, absolute, the deepest first.
fn folders(app: &App) -> Vec<PathBuf> {
    let settings = app.settings();
    let store = settings
        .object_store
        .as_ref()
        .filter(|store| !store.contains("://"))
        .map(PathBuf::from);
    let named = [
        settings.data.clone(),
        settings.models.clone(),
        settings.onnxruntime.clone(),
        std::env::temp_dir(),
    ];
    let all = named
        .into_iter()
        .chain(store)
        .chain(settings.dataset.values().cloned());
    let mut folders: Vec<PathBuf> = all
        .flat_map(|folder| [std::path::absolute(&folder), folder.canonicalize()])
        .filter_map(Result::ok)
        .collect();
    folders.retain(|folder| folder.parent().is_some());
    folders.sort_by_key(|folder| std::cmp::Reverse(folder.as_os_str().len()));
    folders
}

/// What clients see of an error: paths begin below the server's folders. The log has them whole.
fn without_folders(text: &str, folders: &[PathBuf]) -> String {
    folders.iter().fold(text.to_owned(), |text, folder| {
        let path = folder.display().to_string();
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        text.replace(&format!("{path}/"), "").replace(&path, &name)
    })
}

/// Sleeps, longer each time, unless `until` is cancelled first.
async fn back_off(pause: &mut Duration, until: &CancellationToken) {
    tokio::select! {
        () = until.cancelled() => {}
        () = tokio::time::sleep(*pause) => {}
    }
    *pause = (*pause * 2).min(BACK_OFF.1);
}

/// How an attempt ends; each is counted in the metrics. Stopped: the job was cancelled or the lease
/// lost. Refused: the result came too late. Given back: the server was shut down. Unwritten: the
/// database could not be reached.
#[derive(Clone, Copy, Debug)]
pub enum Ending {
    Succeeded,
    Failed,
    Stopped,
    Refused,
    GivenBack,
    Unwritten,
}

impl Ending {
    pub const ALL: [Self; 6] = [
        Self::Succeeded,
        Self::Failed,
        Self::Stopped,
        Self::Refused,
        Self::GivenBack,
        Self::Unwritten,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
            Self::Refused => "refused",
            Self::GivenBack => "given_back",
            Self::Unwritten => "unwritten",
        }
    }
}

fn count(lease: &Lease, ending: Ending) {
    metrics::counter!(names::SHARDS_TOTAL, "kind" => lease.kind.clone(), "outcome" => ending.name()).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_no_folder_of_the_server() {
        let folders = ["/srv/data/files", "/srv/data", "/tmp"].map(PathBuf::from);
        for (text, told) in [
            (
                "cannot write to /srv/data/files/jobs/1/a.npy: full",
                "cannot write to jobs/1/a.npy: full",
            ),
            (
                "the folder /srv/data is away, \"/tmp/x\" too",
                "the folder data is away, \"x\" too",
            ),
            (
                "GET /jobs lists image/png at http://host/srv",
                "GET /jobs lists image/png at http://host/srv",
            ),
        ] {
            assert_eq!(without_folders(text, &folders), told);
        }
    }
}
