//! What a kind of job is: plan -> work on each shard -> reduce -> complete -> report. A shard may
//! be worked on more than once (its worker died, or was slow), by any replica: the same shard gives
//! the same bytes, and whatever it writes to [`Context::files`] it writes under the same names.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures::future::BoxFuture;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{
    error::{JobError, WorkError},
    shard_results::{Results, ShardResults},
    store::{PlannedShard, Shard},
};
use crate::{app::App, engine::Caller, files::Files};

/// The table that a queue and its runners know.
pub type Kinds = &'static [&'static dyn Kind];

pub trait Kind: Send + Sync {
    /// What requests call it.
    fn id(&self) -> &'static str;

    /// What it does, in a sentence.
    fn doc(&self) -> &'static str;

    /// Its parameters, each with what it is and its default.
    fn parameters(&self) -> &'static [(&'static str, &'static str)];

    /// Checks the request (the body of POST /jobs without `kind`), reports all of its faults at
    /// once, and fills in every default. Work that grows with the data set or the request runs on
    /// the pool.
    fn plan<'a>(
        &'a self,
        asked: Map<String, Value>,
        app: &'a App,
    ) -> BoxFuture<'a, Result<Plan, JobError>>;

    /// The result of one shard. Returns soon, with any error, once `context.caller.cancel` is
    /// cancelled.
    fn work<'a>(
        &'a self,
        context: &'a Context,
        shard: &'a Shard,
    ) -> BoxFuture<'a, Result<Bytes, WorkError>>;

    /// Combines the results of the shards, in order, into the result of the job. `None` stands for
    /// a shard that is not done: GET /jobs/{id} shows such a partial result while the job runs.
    /// Pure; runs on the pool.
    fn reduce(&self, spec: &Value, results: Results<'_>) -> Result<Value, WorkError>;

    /// Turns the reduced result of all shards into the job's result, with whatever else belongs to
    /// the end. The shards' own results are dropped afterwards. May run more than once.
    fn complete<'a>(
        &'a self,
        _: &'a Context,
        reduced: Value,
        _: ShardResults,
    ) -> BoxFuture<'a, Result<Value, WorkError>> {
        Box::pin(async { Ok(reduced) })
    }

    /// The part of a result that GET /jobs/{id} shows; the rest is for reports.
    fn overview(&self, result: Arc<Value>) -> Arc<Value> {
        result
    }

    /// The formats of its report, the default first.
    fn formats(&self) -> &'static [Format] {
        &[Format::Json]
    }

    /// The report in one of `formats`, of a result of `reduce` or `complete`. Runs on the pool.
    fn report(&self, spec: &Value, result: &Value, format: Format) -> Result<Report, WorkError>;
}

impl fmt::Debug for dyn Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

/// A request that can be carried out.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Everything that decides the result, every default settled: posted again it gives the same.
    pub spec: Value,
    /// The model it is about, for lists to filter by.
    pub model: Option<String>,
    /// At least one. Each is a few seconds of work: so much is lost in a crash, and so much is
    /// leased to a replica at once.
    pub shards: Vec<PlannedShard>,
}

/// What a shard is worked on with.
#[derive(Clone)]
pub struct Context {
    pub app: App,
    /// Of job priority. Its token is cancelled when the job is, when the lease is lost, and when
    /// the server ends.
    pub caller: Caller,
    pub job: String,
    pub spec: Arc<Value>,
    pub(super) units_done: Arc<AtomicU64>,
}

impl Context {
    /// Says how many of the shard's units are done; shown to readers at the next heartbeat.
    pub fn report_progress(&self, units_done: u64) {
        self.units_done.store(units_done, Ordering::Relaxed);
    }

    pub fn files(&self) -> &Files {
        self.app.files()
    }

    /// The job's own folder in [`Context::files`]; it goes with the job.
    pub fn folder(&self) -> Path {
        folder_of(&self.job)
    }
}

/// Where the files of a job are.
pub fn folder_of(job: &str) -> Path {
    folder_of_all().join(job)
}

/// Where the folders of all jobs are.
pub fn folder_of_all() -> Path {
    Path::from("jobs")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Json,
    Csv,
    Html,
    Svg,
    Png,
    /// An archive of files.
    Zip,
    /// A line for each image, metric and row.
    #[serde(rename = "tidy.csv")]
    TidyCsv,
    #[serde(rename = "tidy.jsonl")]
    TidyJsonl,
}

impl Format {
    pub const ALL: [Self; 8] = [
        Self::Json,
        Self::Csv,
        Self::Html,
        Self::Svg,
        Self::Png,
        Self::Zip,
        Self::TidyCsv,
        Self::TidyJsonl,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Csv => "csv",
            Self::Html => "html",
            Self::Svg => "svg",
            Self::Png => "png",
            Self::Zip => "zip",
            Self::TidyCsv => "tidy.csv",
            Self::TidyJsonl => "tidy.jsonl",
        }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Csv | Self::TidyCsv => "text/csv",
            Self::Html => "text/html",
            Self::Svg => "image/svg+xml",
            Self::Png => "image/png",
            Self::Zip => "application/zip",
            Self::TidyJsonl => "application/x-ndjson",
        }
    }

    /// By the end of a file's name.
    pub fn of_file(name: &str) -> Option<Self> {
        let is_end = |format: &Self| {
            let rest = name.strip_suffix(format.name());
            rest.is_some_and(|rest| rest.ends_with('.'))
        };
        let fitting = Self::ALL.into_iter().filter(is_end);
        fitting.max_by_key(|format| format.name().len())
    }

    /// Whether it is a file, written when the job succeeds: for programs to read, and too long to be
    /// looked at in a browser.
    pub fn is_download(self) -> bool {
        matches!(self, Self::Zip | Self::TidyCsv | Self::TidyJsonl)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    Bytes(Bytes),
    /// A file in [`Context::files`].
    File(Path),
}
