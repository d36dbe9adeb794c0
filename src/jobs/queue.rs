//! Where jobs are handed in and looked at: what the API and the command line call. Runners work on the same queue.

use std::{path::Path, sync::Arc, time::Duration};

use serde_json::{Map, Value};
use tokio::sync::{Notify, OnceCell};

use super::{
    Format, Kind, Kinds, Plan, Report, WorkError,
    kind::folder_of,
    registry,
    store::{Event, Filter, Job, JobState, NewJob, ShardError, Store, StoreError, Submitted},
};
use crate::{
    app::App,
    files::FilesError,
    methods::{Fault, Faults},
    pool::WorkPanicked,
    text::shown,
};

/// Clones share everything.
#[derive(Clone)]
pub struct Queue {
    parts: Arc<Parts>,
}

struct Parts {
    app: App,
    kinds: Kinds,
    store: OnceCell<Store>,
    /// Told of whatever this process changes, so that nobody here has to wait for the next look at the database.
    changed: Notify,
}

/// How long a health check waits.
const SOON: Duration = Duration::from_secs(1);

/// The most shard errors that are shown.
const SHOWN_ERRORS: u64 = 100;

/// Where a job is, for its readers.
#[derive(Clone, Debug)]
pub struct Look {
    pub job: Job,
    /// Units per second, and the seconds left at that rate; while it runs.
    pub rate: Option<f64>,
    pub eta_s: Option<f64>,
    /// The result, or what there is of it: of a job with a shard done.
    pub result: Option<Value>,
    pub errors: Vec<ShardError>,
}

#[derive(Debug, thiserror::Error)]
pub enum JobError {
    #[error(transparent)]
    Parameters(#[from] Faults),
    #[error("no job is called {id}; GET /jobs lists them")]
    Unknown { id: String },
    #[error("job {id} was submitted with this Idempotency-Key and another body; take a new key")]
    KeyTaken { id: String },
    #[error("job {id} is {}: it has nothing to report yet", state.name())]
    NothingYet { id: String, state: JobState },
    #[error("job {id} is of kind {kind}, which this server does not know")]
    UnknownKind { id: String, kind: String },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error(transparent)]
    Work(#[from] WorkError),
    #[error(transparent)]
    Panicked(#[from] WorkPanicked),
}

impl Queue {
    pub fn new(app: App, kinds: Kinds) -> Self {
        let parts = Parts { app, kinds, store: OnceCell::new(), changed: Notify::new() };
        Self { parts: Arc::new(parts) }
    }

    pub fn app(&self) -> &App {
        &self.parts.app
    }

    pub fn kinds(&self) -> Kinds {
        self.parts.kinds
    }

    /// Opened at first use, and tried again as long as it cannot be: a database that is away keeps nobody from explaining.
    pub async fn store(&self) -> Result<&Store, StoreError> {
        let settings = self.app().settings();
        let (database, data): (_, &Path) = (settings.database.as_deref(), &settings.data);
        self.parts.store.get_or_try_init(|| Store::open(database, data)).await
    }

    /// Whether the database answers, soon enough for a health check.
    pub async fn check(&self) -> Result<(), String> {
        let answer = async { self.store().await?.check().await };
        match tokio::time::timeout(SOON, answer).await {
            Ok(found) => found.map_err(|error: StoreError| error.to_string()),
            Err(_) => Err(format!("the database of jobs did not answer within {} ms", SOON.as_millis())),
        }
    }

    pub(super) fn tell_change(&self) {
        self.parts.changed.notify_waiters();
    }

    /// Waits until this process changes something, and no longer than `limit`: others may have.
    pub async fn wait_for_change(&self, limit: Duration) {
        let _ = tokio::time::timeout(limit, self.parts.changed.notified()).await;
    }

    /// Plans and submits what is asked for: `kind`, and that kind's parameters. With an idempotency key only the first time.
    pub async fn submit(&self, asked: Map<String, Value>, key: Option<String>) -> Result<(Job, bool), JobError> {
        let store = self.store().await?;
        let whole = Value::Object(asked.clone());
        let submitted = match store.submitted(key.as_deref(), &whole).await? {
            Some(known) => known,
            None => {
                let (kind, plan) = self.plan(asked).await?;
                let new = NewJob {
                    id: uuid::Uuid::new_v4().to_string(),
                    kind: kind.id(),
                    model: plan.model,
                    asked: whole,
                    idempotency_key: key,
                    spec: plan.spec,
                    shards: plan.shards,
                };
                store.submit(&new).await?
            }
        };
        match submitted {
            Submitted::New(job) => {
                self.tell_change();
                Ok((job, true))
            }
            Submitted::Known(job) => Ok((job, false)),
            Submitted::KeyTaken { job } => Err(JobError::KeyTaken { id: job }),
        }
    }

    /// What is asked for, settled, without submitting it.
    pub async fn plan(&self, mut asked: Map<String, Value>) -> Result<(&'static dyn Kind, Plan), JobError> {
        let id = asked.remove("kind");
        let kind = id.as_ref().and_then(Value::as_str).and_then(|id| registry::find(self.kinds(), id));
        let Some(kind) = kind else {
            let message = id.map_or_else(|| "is missing".to_owned(), |id| format!("{} is no kind of job", shown(id)));
            return Err(Faults::from(Fault::new("kind", message, self.kinds().iter().map(|kind| kind.id()))).into());
        };
        Ok((kind, kind.plan(asked, self.app()).await?))
    }

    pub async fn list(&self, filter: &Filter) -> Result<Vec<Job>, JobError> {
        Ok(self.store().await?.jobs(filter).await?)
    }

    pub async fn job(&self, id: &str) -> Result<Job, JobError> {
        self.store().await?.job(id).await?.ok_or_else(|| JobError::Unknown { id: id.to_owned() })
    }

    pub async fn look(&self, id: &str) -> Result<Look, JobError> {
        let job = self.job(id).await?;
        let store = self.store().await?;
        let rate = store.rate(&job).await?;
        let left = job.units.saturating_sub(job.units_done) as f64;
        let errors = store.errors(id, SHOWN_ERRORS).await?;
        // What is done can be looked at whatever becomes of its reduction.
        let result = match self.result(&job).await {
            Err(JobError::Store(error)) => return Err(error.into()),
            Err(error) => {
                tracing::warn!(%error, job = id, "there is no result to show");
                None
            }
            Ok(result) => result,
        };
        Ok(Look { eta_s: rate.filter(|rate| *rate > 0.0).map(|rate| left / rate), job, rate, result, errors })
    }

    /// The result, or the reduction of what there is.
    async fn result(&self, job: &Job) -> Result<Option<Value>, JobError> {
        let store = self.store().await?;
        if job.state == JobState::Succeeded {
            return Ok(store.result(&job.id).await?);
        }
        if job.shards_done == 0 {
            return Ok(None);
        }
        let (kind, results) = (self.kind_of(job)?, store.results(&job.id).await?);
        let spec = job.spec.clone();
        Ok(Some(self.app().pool().run(move || kind.reduce(&spec, &results)).await??))
    }

    fn kind_of(&self, job: &Job) -> Result<&'static dyn Kind, JobError> {
        let unknown = || JobError::UnknownKind { id: job.id.clone(), kind: job.kind.clone() };
        registry::find(self.kinds(), &job.kind).ok_or_else(unknown)
    }

    /// The formats of a job's report; the first is for readers without wishes. None where the kind is not known here.
    pub fn formats(&self, job: &Job) -> &'static [Format] {
        self.kind_of(job).map_or(&[], |kind| kind.formats())
    }

    /// The report on a job's result, or on what there is of it. `format` is one of `formats`.
    pub async fn report(&self, job: &Job, format: Format) -> Result<Report, JobError> {
        let kind = self.kind_of(job)?;
        let Some(result) = self.result(job).await? else {
            return Err(JobError::NothingYet { id: job.id.clone(), state: job.state });
        };
        let spec = job.spec.clone();
        Ok(self.app().pool().run(move || kind.report(&spec, &result, format)).await??)
    }

    pub async fn events(&self, id: &str, after: u64, limit: u64) -> Result<Vec<Event>, JobError> {
        Ok(self.store().await?.events(id, after, limit).await?)
    }

    /// Ends a job; one that has ended stays as it is.
    pub async fn cancel(&self, id: &str) -> Result<Job, JobError> {
        self.store().await?.cancel(id).await?;
        self.tell_change();
        self.job(id).await
    }

    /// Removes a job and its files, ending it first.
    pub async fn delete(&self, id: &str) -> Result<(), JobError> {
        if !self.store().await?.delete(id).await? {
            return Err(JobError::Unknown { id: id.to_owned() });
        }
        self.tell_change();
        Ok(self.app().files().remove_all(&folder_of(id)).await?)
    }

    /// Removes the jobs that ended longer ago than `age`, with their files.
    pub async fn forget(&self, age: Duration) -> Result<usize, JobError> {
        let outdated = self.store().await?.outdated(age.as_millis() as u64).await?;
        for id in &outdated {
            match self.delete(id).await {
                Ok(()) | Err(JobError::Unknown { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(outdated.len())
    }
}
