//! /jobs: long work that survives crashes. Start, list, look, report, cancel, remove; the events
//! are in [`super::events`].

use std::{
    fmt,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use axum::{
    Json,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{
    Api,
    body::Pairs,
    catalogue::Id,
    codes::ApiError,
    document::{Binary, JobProblems, JobsProblems, ReportProblems, SubmitProblems},
    fields, intake,
    negotiate::choose,
};
use crate::{
    app::AppError,
    faults::{Fault, Faults},
    jobs::{
        Format, JobError, Kinds, Report,
        queue::JobStatus,
        registry,
        store::{Filter, Job, JobState, ShardError},
    },
    text::excerpt,
};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Bounds of a page of jobs, and its size when nothing is asked for.
const PAGE: (u64, u64) = (200, 50);

/// What a job is asked with.
const JSON: &str = "application/json";

/// The largest request for a job, in bytes.
const MAX_BODY: usize = 1 << 20;

/// The longest idempotency key, in bytes.
const LONGEST_KEY: usize = 255;

/// A job as it stands.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobCard {
    pub id: String,
    #[schema(example = "degradation")]
    pub kind: String,
    pub model: Option<String>,
    pub state: JobState,
    /// All parameters, resolved: posted again they give the same result.
    #[schema(value_type = Object)]
    pub parameters: Value,
    /// Finished units of work, such as images.
    pub done: u64,
    pub total: u64,
    /// Finished parts: a job is divided into parts that workers process independently.
    pub shards_done: u64,
    pub shards: u64,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, format = DateTime, required = false)]
    pub started_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, format = DateTime, required = false)]
    pub finished_at: Option<Time>,
}

/// Milliseconds since 1970, told as RFC 3339 does: 2026-11-28T23:05:09.123Z.
#[derive(Clone, Copy, Debug)]
pub struct Time(pub u64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(self.0)).fmt(f)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub struct JobList {
    /// Newest first.
    pub jobs: Vec<JobCard>,
    /// The value of `after` for the next page. Absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A job in full.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobDetail {
    #[serde(flatten)]
    pub job: JobCard,
    /// Units per second over the last finished parts; while the job runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Seconds left at that rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta_s: Option<f64>,
    /// The result; until the job has succeeded, that of the finished parts.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    #[serde(serialize_with = "whole")]
    pub result: Option<Arc<Value>>,
    /// Parts that failed at least once.
    pub errors: Vec<ShardErrorCard>,
    /// The formats of GET /jobs/{id}/report.
    pub formats: Vec<Format>,
}

/// A part that failed, with its last error.
#[derive(Debug, Serialize, ToSchema)]
pub struct ShardErrorCard {
    pub shard: u64,
    /// waiting, queued (it is tried again), running, succeeded, failed.
    pub state: String,
    pub failures: u64,
    pub error: String,
}

/// The kind of job, and that kind's parameters beside it.
#[derive(ToSchema)]
#[schema(example = json!({ "kind": "degradation", "model": "squeezenet1_1", "dataset": "photos", "methods": ["pgig", { "id": "integrated_gradients", "n_steps": 50 }] }))]
pub struct JobRequest {
    pub kind: String,
}

/// Start a job
#[utoipa::path(post, path = "/jobs", tag = "jobs",
    params(("Idempotency-Key" = Option<String>, Header, description = "A repeated request with the same key starts no second job: it is answered with the first one.")),
    request_body = JobRequest,
    responses((status = 202, description = "The job: newly queued, or the one that this Idempotency-Key started before.", body = JobCard,
        headers(("location" = String, description = "The path of the job."))), SubmitProblems))]
pub async fn start_job(
    State(api): State<Api>,
    Pairs(query): Pairs,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, ApiError> {
    api.refuse_when_draining()?;
    let mut faults = Faults::default();
    refuse_unknown(&query, &[], &mut faults);
    let key = match headers.get(&IDEMPOTENCY_KEY) {
        None => None,
        Some(value) => match value.to_str() {
            Ok(key)
                if (1..=LONGEST_KEY).contains(&key.len())
                    && key.bytes().all(|byte| byte.is_ascii_graphic()) =>
            {
                Some(key.to_owned())
            }
            _ => {
                let message = "is not a key of visible ASCII".to_owned();
                let allowed = [format!(
                    "1 to {LONGEST_KEY} characters, no space or tab among them"
                )];
                faults.push(Fault::new(IDEMPOTENCY_KEY.as_str(), message, allowed));
                None
            }
        },
    };
    refuse(faults)?;
    check_type(&headers)?;
    let (bytes, _share) = intake::read(request, &api, MAX_BODY).await?;
    let asked = api
        .app()
        .pool()
        .run(move || fields::read(&bytes))
        .await
        .map_err(AppError::from)??;
    let (job, _) = api.jobs().submit(asked, key).await?;
    let location = HeaderValue::from_str(&format!("/jobs/{}", job.id)).map_err(|error| {
        ApiError::Internal {
            reason: error.to_string(),
        }
    })?;
    Ok((
        StatusCode::ACCEPTED,
        [(header::LOCATION, location)],
        Json(JobCard::from(job)),
    )
        .into_response())
}

/// List jobs
#[utoipa::path(get, path = "/jobs", tag = "jobs",
    params(
        ("state" = Option<JobState>, Query, description = "Only jobs in this state."),
        ("kind" = Option<String>, Query, description = "Only jobs of this kind."),
        ("model" = Option<String>, Query, description = "Only jobs for this model."),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 200, description = "Number of jobs per page. Default: 50."),
        ("after" = Option<String>, Query, description = "The value of `next` on the previous page."),
    ),
    responses((status = 200, description = "A page of jobs.", body = JobList), JobsProblems))]
pub async fn list_jobs(
    State(api): State<Api>,
    Pairs(query): Pairs,
) -> Result<Json<JobList>, ApiError> {
    let filter = read_filter(&query, api.jobs().kinds())?;
    let limit = filter.limit as usize;
    // One more than a page says whether there is another.
    let mut jobs = api
        .jobs()
        .list(&Filter {
            limit: filter.limit + 1,
            ..filter
        })
        .await?;
    let more = jobs.len() > limit;
    jobs.truncate(limit);
    let next = jobs.last().filter(|_| more).map(|job| job.id.clone());
    Ok(Json(JobList {
        jobs: jobs.into_iter().map(JobCard::from).collect(),
        next,
    }))
}

/// Get a job, with its result so far
#[utoipa::path(get, path = "/jobs/{id}", tag = "jobs", params(("id" = String, Path, description = "The job's id.")),
    responses((status = 200, description = "The job.", body = JobDetail), JobProblems))]
pub async fn get_job(State(api): State<Api>, Id(id): Id) -> Result<Response, ApiError> {
    let status = api.jobs().status(&id).await?;
    let formats = api.jobs().formats(&status.job).to_vec();
    let JobStatus {
        job,
        rate,
        eta_s,
        result,
        errors,
    } = status;
    let errors = errors.into_iter().map(ShardErrorCard::from).collect();
    let detail = JobDetail {
        job: job.into(),
        rate,
        eta_s,
        result,
        errors,
        formats,
    };
    // A result may be some megabytes.
    let written = api
        .app()
        .pool()
        .run(move || serde_json::to_vec(&detail))
        .await
        .map_err(AppError::from)?;
    let written = written.map_err(|error| ApiError::Internal {
        reason: error.to_string(),
    })?;
    Ok(([(header::CONTENT_TYPE, JSON)], written).into_response())
}

fn whole<S: Serializer>(result: &Option<Arc<Value>>, serializer: S) -> Result<S::Ok, S::Error> {
    result.as_deref().serialize(serializer)
}

/// Download a report (partial while running)
#[utoipa::path(get, path = "/jobs/{id}/report", tag = "jobs",
    params(("id" = String, Path, description = "The job's id."),
        ("format" = Option<Format>, Query, description = "Format of the report. Default: what the Accept header asks for; GET /jobs/{id} lists the formats.")),
    responses((status = 200, description = "The report.", content(
        (Value = "application/json"), (String = "text/csv"), (String = "text/html"), (String = "image/svg+xml"),
        (Binary = "image/png"), (Binary = "application/zip"), (String = "application/x-ndjson"))), ReportProblems))]
pub async fn get_job_report(
    State(api): State<Api>,
    Id(id): Id,
    Pairs(query): Pairs,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let job = api.jobs().job(&id).await?;
    let formats = api.jobs().formats(&job);
    let mut faults = Faults::default();
    refuse_unknown(&query, &["format"], &mut faults);
    let asked = query.get("format").and_then(Value::as_str);
    let found = asked.and_then(|name| formats.iter().copied().find(|format| format.name() == name));
    if let (Some(name), None) = (asked, found) {
        let message = format!("there is no {} report of a {}", excerpt(name), job.kind);
        faults.push(Fault::new(
            "format",
            message,
            formats.iter().map(|format| format.name()),
        ));
    }
    refuse(faults)?;
    let format = match found {
        Some(format) => format,
        None => choose(
            &formats
                .iter()
                .map(|format| (*format, format.content_type()))
                .collect::<Vec<_>>(),
            &headers,
        )?,
    };
    let (length, body) = match api.jobs().report(&job, format).await? {
        Report::Bytes(bytes) => (bytes.len() as u64, Body::from(bytes)),
        Report::File(path) => {
            let (length, stream) = api
                .app()
                .files()
                .stream(&path)
                .await
                .map_err(JobError::from)?;
            (length, Body::from_stream(stream))
        }
    };
    let mut response = ([(header::CONTENT_TYPE, format.content_type())], body).into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    if format.is_download() {
        let name = format!(
            "attachment; filename=\"{}-{id}.{}\"",
            job.kind,
            format.name()
        );
        response.headers_mut().extend(
            HeaderValue::from_str(&name)
                .ok()
                .map(|name| (header::CONTENT_DISPOSITION, name)),
        );
    }
    Ok(response)
}

/// Cancel a job
///
/// Its running parts stop within seconds. Finished parts are kept; a job that has ended is not
/// changed.
#[utoipa::path(post, path = "/jobs/{id}/cancel", tag = "jobs", params(("id" = String, Path, description = "The job's id.")),
    responses((status = 200, description = "The job.", body = JobCard), JobProblems))]
pub async fn cancel_job(State(api): State<Api>, Id(id): Id) -> Result<Json<JobCard>, ApiError> {
    Ok(Json(api.jobs().cancel(&id).await?.into()))
}

/// Delete a job and its files, cancelling it first
#[utoipa::path(delete, path = "/jobs/{id}", tag = "jobs", params(("id" = String, Path, description = "The job's id.")),
    responses((status = 204, description = "Deleted."), JobProblems))]
pub async fn delete_job(State(api): State<Api>, Id(id): Id) -> Result<StatusCode, ApiError> {
    api.jobs().delete(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Only JSON starts a job: what a page of another site can send without asking does not.
fn check_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let found = headers
        .get(header::CONTENT_TYPE)
        .map(|value| value.to_str().unwrap_or("unreadable"));
    let essence = found.map(|text| {
        text.split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase()
    });
    match essence {
        Some(essence)
            if essence == JSON
                || essence.starts_with("application/") && essence.ends_with("+json") =>
        {
            Ok(())
        }
        essence => Err(ApiError::UnsupportedMediaType {
            found: essence,
            allowed: JSON.to_owned(),
        }),
    }
}

fn read_filter(query: &Map<String, Value>, kinds: Kinds) -> Result<Filter, ApiError> {
    let (largest, usual) = PAGE;
    let mut faults = Faults::default();
    refuse_unknown(
        query,
        &["state", "kind", "model", "limit", "after"],
        &mut faults,
    );
    let text = |name: &str| query.get(name).and_then(Value::as_str).map(str::to_owned);
    let state = text("state").and_then(|name| {
        let state = JobState::find(&name);
        if state.is_none() {
            let message = format!("{} is no state of a job", excerpt(&name));
            faults.push(Fault::new(
                "state",
                message,
                JobState::ALL.map(|state| state.name()),
            ));
        }
        state
    });
    let limit = text("limit").map_or(usual, |text| match text.trim().parse() {
        Ok(limit) if (1..=largest).contains(&limit) => limit,
        _ => {
            let message = format!("{} is not an integer from 1 to {largest}", excerpt(&text));
            faults.push(Fault::new("limit", message, [format!("1 to {largest}")]));
            usual
        }
    });
    if let Some(kind) = query.get("kind")
        && kind
            .as_str()
            .is_none_or(|id| registry::find(kinds, id).is_none())
    {
        faults.push(registry::unknown(kinds, kind));
    }
    refuse(faults)?;
    Ok(Filter {
        state,
        kind: text("kind"),
        model: text("model"),
        after: text("after"),
        limit,
    })
}

pub(super) fn refuse_unknown(query: &Map<String, Value>, known: &[&str], faults: &mut Faults) {
    let unknown = query.keys().filter(|name| !known.contains(&name.as_str()));
    faults.refuse_unknown(
        unknown,
        "is not a parameter of this request's query",
        || known.iter().map(|name| (*name).to_owned()).collect(),
    );
}

pub(super) fn refuse(faults: Faults) -> Result<(), ApiError> {
    Ok(faults.settle(()).map_err(AppError::from)?)
}

impl From<Job> for JobCard {
    fn from(job: Job) -> Self {
        Self {
            id: job.id,
            kind: job.kind,
            model: job.model,
            state: job.state,
            parameters: job.spec,
            done: job.units_done,
            total: job.units,
            shards_done: job.shards_done,
            shards: job.shards,
            error: job.error,
            created_at: Time(job.created_at),
            started_at: job.started_at.map(Time),
            finished_at: job.finished_at.map(Time),
        }
    }
}

impl From<ShardError> for ShardErrorCard {
    fn from(
        ShardError {
            shard,
            state,
            failures,
            error,
        }: ShardError,
    ) -> Self {
        Self {
            shard,
            state,
            failures,
            error,
        }
    }
}
