//! Submits, reads, cancels and deletes jobs, for the API and the command line. Runners work on the
//! same queue.

use std::{path::PathBuf, sync::Arc, time::Duration};

use serde_json::{Map, Value};
use tokio::sync::broadcast;

use super::{
    connection::Connection,
    crash::crash_point,
    error::JobError,
    kind::{Format, Kind, Kinds, Plan, Report, folder_of, folder_of_all},
    registry,
    results::Results,
    shard_results::ShardResults,
    store::{Event, Filter, Job, JobState, NewJob, ShardError, Store, StoreError, Submitted},
    watch::{Follower, Watch},
};
use crate::{
    app::App,
    faults::{Fault, Faults},
    quota::{Reservation, on_disk},
};

/// Clones share everything.
#[derive(Clone)]
pub struct Queue {
    parts: Arc<Parts>,
}

struct Parts {
    app: App,
    kinds: Kinds,
    connection: Connection,
    /// Ids of the jobs that this process cancels or deletes, so that its own workers need not wait
    /// for their next heartbeat.
    ended: broadcast::Sender<String>,
    watch: Arc<Watch>,
    results: Results,
}

/// Messages in `ended` that a worker may lag behind; one that lags more asks the database.
const ENDED_CAPACITY: usize = 64;

/// About the bytes that a submitted job takes in the database: itself, each shard and each unit.
const JOB_BYTES: u64 = 4096;
const SHARD_BYTES: u64 = 200;
const UNIT_BYTES: u64 = 8;

/// How long a health check or a monitor waits for the database.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// The most shard errors that are shown.
const SHOWN_ERRORS: u64 = 100;

/// A job as its readers see it.
#[derive(Clone, Debug)]
pub struct JobStatus {
    pub job: Job,
    /// Units per second, and the seconds left at that rate, of a running job.
    pub rate: Option<f64>,
    pub eta_s: Option<f64>,
    /// The result, or the reduction of the shards that are done; none before the first is.
    pub result: Option<Arc<Value>>,
    pub errors: Vec<ShardError>,
}

/// What the database answers, unless it takes too long.
async fn in_time<T>(answer: impl Future<Output = Result<T, StoreError>>) -> Result<T, String> {
    match tokio::time::timeout(CHECK_TIMEOUT, answer).await {
        Ok(found) => found.map_err(|error| error.to_string()),
        Err(_) => Err(format!(
            "the database of jobs did not answer within {} ms",
            CHECK_TIMEOUT.as_millis()
        )),
    }
}

impl Queue {
    /// The queue that the app's settings name.
    pub fn new(app: App, kinds: Kinds) -> Self {
        let settings = app.settings();
        let connection = Connection::new(settings.database.clone(), settings.data.clone());
        Self::on(connection, app, kinds)
    }

    /// A queue of its own in this folder.
    pub fn in_folder(app: App, kinds: Kinds, folder: PathBuf) -> Self {
        Self::on(Connection::new(None, folder), app, kinds)
    }

    fn on(connection: Connection, app: App, kinds: Kinds) -> Self {
        let parts = Parts {
            app,
            kinds,
            ended: broadcast::Sender::new(ENDED_CAPACITY),
            watch: Arc::new(Watch::new(connection.clone())),
            results: Results::default(),
            connection,
        };
        Self {
            parts: Arc::new(parts),
        }
    }

    pub fn app(&self) -> &App {
        &self.parts.app
    }

    pub fn kinds(&self) -> Kinds {
        self.parts.kinds
    }

    pub async fn store(&self) -> Result<&Store, StoreError> {
        self.parts.connection.store().await
    }

    /// The store, and the notices of what this process changes in it.
    pub(super) fn connection(&self) -> &Connection {
        &self.parts.connection
    }

    /// Whether the database answers in time for a health check.
    pub async fn check(&self) -> Result<(), String> {
        in_time(async { self.store().await?.check().await }).await
    }

    /// How many jobs are in each state, in time for a monitor.
    pub async fn counts(&self) -> Result<Vec<(JobState, u64)>, String> {
        in_time(async { self.store().await?.counts().await }).await
    }

    fn notify_end(&self, job: &str) {
        // There are no receivers where no worker runs.
        let _ = self.parts.ended.send(job.to_owned());
        self.connection().notify_change();
    }

    /// Ids of the jobs that this process cancels or deletes from now on.
    pub(super) fn ended_jobs(&self) -> broadcast::Receiver<String> {
        self.parts.ended.subscribe()
    }

    /// Events of a job after `last`, as they come.
    pub async fn follow(&self, id: &str, last: u64) -> Result<Follower, JobError> {
        self.job(id).await?;
        self.parts.watch.follow(id.to_owned(), last)
    }

    /// Plans and submits what is asked for: `kind`, and that kind's parameters. With an idempotency
    /// key only the first time.
    pub async fn submit(
        &self,
        asked: Map<String, Value>,
        key: Option<String>,
    ) -> Result<(Job, bool), JobError> {
        let (store, max_jobs) = (self.store().await?, self.app().settings().max_jobs);
        let whole = Value::Object(asked.clone());
        let submitted = match store.submitted(key.as_deref(), &whole).await? {
            Some(known) => known,
            // Checked before the request is planned, and again in the transaction that adds the
            // job.
            None if store.open_jobs().await? >= max_jobs => Submitted::Full,
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
                let room = self.reserve(&new).await?;
                let submitted = store.submit(&new, max_jobs).await?;
                crash_point!("queue::submitted");
                if let (Some(room), Submitted::New(_)) = (room, &submitted) {
                    room.keep();
                }
                submitted
            }
        };
        match submitted {
            Submitted::New(job) => {
                self.connection().notify_change();
                Ok((job, true))
            }
            Submitted::Known(job) => Ok((job, false)),
            Submitted::KeyTaken { job } => Err(JobError::KeyTaken { id: job }),
            Submitted::Full => Err(JobError::TooManyJobs { limit: max_jobs }),
        }
    }

    /// Reserves room for a job in the data folder; none where the database is elsewhere.
    async fn reserve(&self, new: &NewJob) -> Result<Option<Reservation>, JobError> {
        if !self.connection().is_local() {
            return Ok(None);
        }
        let units: u64 = new.shards.iter().map(|shard| shard.units).sum();
        let bytes = JOB_BYTES + SHARD_BYTES * new.shards.len() as u64 + UNIT_BYTES * units;
        let quota = self.app().quota().clone();
        Ok(Some(
            self.app()
                .pool()
                .run(move || quota.reserve(on_disk(bytes)))
                .await??,
        ))
    }

    /// Plans a request without submitting it.
    pub async fn plan(
        &self,
        mut asked: Map<String, Value>,
    ) -> Result<(&'static dyn Kind, Plan), JobError> {
        let id = asked.remove("kind");
        let kind = id
            .as_ref()
            .and_then(Value::as_str)
            .and_then(|id| registry::find(self.kinds(), id));
        let Some(kind) = kind else {
            let missing = || {
                let ids = self.kinds().iter().map(|kind| kind.id());
                Fault::new("kind", "is missing", ids)
            };
            let unknown = |id| registry::unknown(self.kinds(), &id);
            return Err(Faults::from(id.map_or_else(missing, unknown)).into());
        };
        Ok((kind, kind.plan(asked, self.app()).await?))
    }

    pub async fn list(&self, filter: &Filter) -> Result<Vec<Job>, JobError> {
        Ok(self.store().await?.jobs(filter).await?)
    }

    pub async fn job(&self, id: &str) -> Result<Job, JobError> {
        self.store()
            .await?
            .job(id)
            .await?
            .ok_or_else(|| JobError::Unknown { id: id.to_owned() })
    }

    pub async fn status(&self, id: &str) -> Result<JobStatus, JobError> {
        let job = self.job(id).await?;
        let store = self.store().await?;
        let (rate, eta_s) = self.rate(&job).await?;
        let errors = store.errors(id, SHOWN_ERRORS).await?;
        // A reduction that fails hides nothing else of the job.
        let result = match self.result(&job).await {
            Err(JobError::Store(error)) => return Err(error.into()),
            Err(error) => {
                tracing::warn!(%error, job = id, "there is no result to show");
                None
            }
            Ok(None) => None,
            Ok(Some(result)) => match self.kind_of(&job) {
                Ok(kind) => Some(self.app().pool().run(move || kind.overview(result)).await?),
                Err(_) => Some(result),
            },
        };
        Ok(JobStatus {
            job,
            rate,
            eta_s,
            result,
            errors,
        })
    }

    /// Units per second of a running job, and the seconds left at that rate.
    pub async fn rate(&self, job: &Job) -> Result<(Option<f64>, Option<f64>), JobError> {
        let rate = self.store().await?.rate(job).await?;
        let left = job.units.saturating_sub(job.units_done) as f64;
        Ok((
            rate,
            rate.filter(|rate| *rate > 0.0).map(|rate| left / rate),
        ))
    }

    /// The result, or the reduction of what there is.
    async fn result(&self, job: &Job) -> Result<Option<Arc<Value>>, JobError> {
        if job.shards_done == 0 {
            return Ok(None);
        }
        let (queue, of) = (self.clone(), job.clone());
        let make = async move {
            let store = queue.store().await?;
            if of.state == JobState::Succeeded {
                return store
                    .result(&of.id)
                    .await?
                    .ok_or(JobError::Unknown { id: of.id });
            }
            let kind = queue.kind_of(&of)?;
            let results = ShardResults::new(store.clone(), queue.app().pool().clone(), &of.id);
            results
                .read(move |shards| kind.reduce(&of.spec, shards))
                .await
        };
        self.parts.results.get(job, make).await.map(Some)
    }

    fn kind_of(&self, job: &Job) -> Result<&'static dyn Kind, JobError> {
        let unknown = || JobError::UnknownKind {
            id: job.id.clone(),
            kind: job.kind.clone(),
        };
        registry::find(self.kinds(), &job.kind).ok_or_else(unknown)
    }

    /// The formats of a job's report, the default first; none where the kind is not known here.
    pub fn formats(&self, job: &Job) -> &'static [Format] {
        self.kind_of(job).map_or(&[], |kind| kind.formats())
    }

    /// The report on a job's result, or on what there is of it. `format` is one of `formats`.
    pub async fn report(&self, job: &Job, format: Format) -> Result<Report, JobError> {
        let kind = self.kind_of(job)?;
        // Files are written when the job succeeds; other reports show what there is.
        let is_there = !format.is_download() || job.state == JobState::Succeeded;
        let Some(result) = self.result(job).await?.filter(|_| is_there) else {
            return Err(JobError::NothingToReport {
                id: job.id.clone(),
                state: job.state,
            });
        };
        let spec = job.spec.clone();
        Ok(self
            .app()
            .pool()
            .run(move || kind.report(&spec, &result, format))
            .await??)
    }

    pub async fn events(&self, id: &str, after: u64, limit: u64) -> Result<Vec<Event>, JobError> {
        Ok(self.store().await?.events(id, after, limit).await?)
    }

    /// Ends a job; one that has ended stays as it is.
    pub async fn cancel(&self, id: &str) -> Result<Job, JobError> {
        self.store().await?.cancel(id).await?;
        self.notify_end(id);
        self.job(id).await
    }

    /// Removes a job and its files, ending it first.
    pub async fn delete(&self, id: &str) -> Result<(), JobError> {
        if !self.store().await?.delete(id).await? {
            return Err(JobError::Unknown { id: id.to_owned() });
        }
        crash_point!("queue::deleted");
        self.notify_end(id);
        // The job is gone; what is left of its files now is found by the next sweep.
        if let Err(error) = self.app().files().remove_all(&folder_of(id)).await {
            tracing::warn!(%error, job = id, "the files of a deleted job could not be removed; they are tried again");
        }
        Ok(())
    }

    /// Removes the jobs that ended longer ago than `age`, and all but the last `kept` that ended,
    /// with their files.
    pub async fn forget(&self, age: Duration, kept: u64) -> Result<usize, JobError> {
        let store = self.store().await?;
        let mut forgotten = 0;
        loop {
            let outdated = store.outdated(age.as_millis() as u64, kept).await?;
            if outdated.is_empty() {
                return Ok(forgotten);
            }
            for id in &outdated {
                match self.delete(id).await {
                    Ok(()) | Err(JobError::Unknown { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            forgotten += outdated.len();
        }
    }

    /// Removes the files of a job that was deleted: a worker that was stopped may have written some
    /// after that.
    pub(super) async fn remove_files_if_deleted(&self, id: &str) -> Result<(), JobError> {
        if !self
            .store()
            .await?
            .gone(vec![id.to_owned()])
            .await?
            .is_empty()
        {
            self.app().files().remove_all(&folder_of(id)).await?;
        }
        Ok(())
    }

    /// Removes the files of all deleted jobs: some are left where a worker still wrote, or where
    /// the deleting process ended too early. Lists files before jobs: a job is stored before its
    /// first file, so no file of a new job is taken for one of a deleted job.
    pub async fn sweep(&self) -> Result<usize, JobError> {
        let files = self.app().files();
        let folders = files.folders(&folder_of_all()).await?;
        let ids = folders
            .into_iter()
            .filter(|name| uuid::Uuid::try_parse(name).is_ok())
            .collect();
        let gone = self.store().await?.gone(ids).await?;
        for id in &gone {
            files.remove_all(&folder_of(id)).await?;
        }
        Ok(gone.len())
    }
}
