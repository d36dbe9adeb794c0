//! Leases shards and works on them: heartbeats, stops what is cancelled or lost, tries again what failed, drains at the end.
//! Its evaluations have job priority: whatever waits for an answer goes first.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{FutureExt, future::join_all};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{
    Context, Kind, WorkError,
    queue::Queue,
    registry,
    store::{Acked, Lease, Renewed, StoreError},
};
use crate::{
    engine::{Caller, Priority},
    telemetry::names,
};

/// How often an idle runner looks for work of other processes.
const LOOK: Duration = Duration::from_millis(500);

/// A lease is renewed so many times before it runs out.
const BEATS: u32 = 5;

/// A shard that failed waits for this part of a lease, then twice as long, and so on.
const LEASE_OVER_RETRY: u32 = 15;

/// First and longest pause while the database does not answer.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// How often jobs past their retention are removed.
const SWEEP: Duration = Duration::from_secs(3600);

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

/// When a runner has to end: first no new shards, then none at all.
#[derive(Clone, Debug, Default)]
pub struct End {
    pub soon: CancellationToken,
    pub now: CancellationToken,
}

impl Runner {
    pub fn new(queue: Queue) -> Self {
        Self { queue, owner: format!("{}-{}", std::process::id(), uuid::Uuid::new_v4().simple()) }
    }

    /// Works until the end.
    pub async fn run(&self, end: &End) {
        let slots = self.queue.app().settings().job_slots;
        tokio::join!(join_all((0..slots).map(|_| self.work(end))), self.sweep(end));
    }

    async fn work(&self, end: &End) {
        let kinds: Vec<&str> = self.queue.kinds().iter().map(|kind| kind.id()).collect();
        let lease_ms = self.lease().as_millis() as u64;
        let mut pause = PAUSES.0;
        while !end.soon.is_cancelled() {
            let claimed = match self.queue.store().await {
                Ok(store) => store.claim(&self.owner, &kinds, lease_ms).await,
                Err(error) => Err(error),
            };
            match claimed {
                Ok(Some(lease)) => {
                    pause = PAUSES.0;
                    self.attempt(lease, end).await;
                    self.queue.tell_change();
                }
                Ok(None) => tokio::select! {
                    () = end.soon.cancelled() => {}
                    () = self.queue.wait_for_change(LOOK) => {}
                },
                Err(error) => {
                    tracing::error!(%error, "no shards can be leased; trying again");
                    rest(&mut pause, &end.soon).await;
                }
            }
        }
    }

    fn lease(&self) -> Duration {
        self.queue.app().settings().lease
    }

    async fn attempt(&self, lease: Lease, end: &End) {
        let Some(kind) = registry::find(self.queue.kinds(), &lease.kind) else { return };
        let started = Instant::now();
        let context = self.context(&lease);
        let _ended = context.caller.cancel.clone().drop_guard();
        let outcome = tokio::select! {
            biased;
            outcome = AssertUnwindSafe(self.evaluate(kind, &context, &lease)).catch_unwind() => outcome
                .unwrap_or_else(|_| Outcome::Failed(WorkError::Passing("its work panicked; the log says where".into()))),
            () = self.hold(&lease, &context) => {
                tracing::info!(job = lease.job, shard = lease.shard.index, "stopped: the lease or the job is over");
                return count(&lease, "stopped");
            }
            () = end.now.cancelled() => {
                self.give_back(&lease).await;
                return count(&lease, "given_back");
            }
        };
        let settled = self.settle(&lease, &outcome, end).await;
        metrics::histogram!(names::SHARD_DURATION_SECONDS, "kind" => kind.id()).record(started.elapsed());
        match (settled, &outcome) {
            (Some(Acked::Written), Outcome::Failed(error)) => {
                tracing::warn!(job = lease.job, shard = lease.shard.index, %error, "a shard failed");
                count(&lease, "failed");
            }
            (Some(Acked::Written), _) => count(&lease, "succeeded"),
            (Some(Acked::Refused), _) => {
                tracing::warn!(job = lease.job, shard = lease.shard.index, "a late result was refused");
                count(&lease, "refused");
            }
            (None, _) => count(&lease, "unwritten"),
        }
    }

    fn context(&self, lease: &Lease) -> Context {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let caller = Caller {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            priority: Priority::Job,
            cancel: CancellationToken::new(),
            deadline: None,
        };
        Context {
            app: self.queue.app().clone(),
            caller,
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
        let store = self.queue.store().await.map_err(WorkError::passing)?;
        let results = store.results(&context.job).await.map_err(WorkError::passing)?;
        let spec = context.spec.clone();
        let reduced = context.app.pool().run(move || kind.reduce(&spec, &results)).await??;
        kind.complete(context, reduced).await
    }

    /// Renews the lease; resolves when there is nothing to renew any more.
    async fn hold(&self, lease: &Lease, context: &Context) {
        let length = self.lease();
        loop {
            tokio::time::sleep(length / BEATS).await;
            let done = context.units_done.load(Ordering::Relaxed);
            let renewed = match self.queue.store().await {
                Ok(store) => store.renew(lease, length.as_millis() as u64, done).await,
                Err(error) => Err(error),
            };
            match renewed {
                Ok(Renewed::Kept) => {}
                Ok(Renewed::Over) => return,
                Err(error) => tracing::warn!(%error, job = lease.job, "a lease could not be renewed; working on"),
            }
        }
    }

    /// Writes what an attempt gave, however long the database takes to answer: the token keeps a late write out. None when the end
    /// came first.
    async fn settle(&self, lease: &Lease, outcome: &Outcome, end: &End) -> Option<Acked> {
        let mut pause = PAUSES.0;
        loop {
            match self.write(lease, outcome).await {
                Ok(acked) => return Some(acked),
                Err(error) => tracing::error!(%error, job = lease.job, "a result cannot be written; trying again"),
            }
            if end.now.is_cancelled() {
                return None;
            }
            rest(&mut pause, &end.now).await;
        }
    }

    async fn write(&self, lease: &Lease, outcome: &Outcome) -> Result<Acked, StoreError> {
        let store = self.queue.store().await?;
        match outcome {
            Outcome::Shard(result) => store.ack(lease, result).await,
            Outcome::Job(result) => store.finish(lease, result).await,
            Outcome::Failed(WorkError::Passing(error)) => {
                let retry = self.lease() / LEASE_OVER_RETRY;
                store.fail(lease, error, Some(retry.as_millis() as u64)).await
            }
            Outcome::Failed(WorkError::Lasting(error)) => store.fail(lease, error, None).await,
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

    async fn sweep(&self, end: &End) {
        let age = self.queue.app().settings().job_retention;
        while !end.soon.is_cancelled() {
            match self.queue.forget(age).await {
                Ok(0) => {}
                Ok(jobs) => tracing::info!(jobs, "removed jobs past their retention"),
                Err(error) => tracing::warn!(%error, "old jobs could not be removed"),
            }
            tokio::select! {
                () = end.soon.cancelled() => {}
                () = tokio::time::sleep(SWEEP) => {}
            }
        }
    }
}

/// Sleeps, longer each time, unless `end` comes first.
async fn rest(pause: &mut Duration, end: &CancellationToken) {
    tokio::select! {
        () = end.cancelled() => {}
        () = tokio::time::sleep(*pause) => {}
    }
    *pause = (*pause * 2).min(PAUSES.1);
}

fn count(lease: &Lease, outcome: &'static str) {
    metrics::counter!(names::SHARDS_TOTAL, "kind" => lease.kind.clone(), "outcome" => outcome).increment(1);
}
