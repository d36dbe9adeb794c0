//! Reads: one job, a page of jobs, results, errors, events, and the rate.

use std::collections::HashMap;

use bytes::Bytes;
use serde_json::Value;
use sqlx::{ColumnIndex, Decode, FromRow, Row, Type};

use super::{
    connection::{Store, integer, natural, on},
    error::StoreError,
    event::Event,
    state::JobState,
};

/// A job. Times are milliseconds since 1970.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    pub id: String,
    pub kind: String,
    pub model: Option<String>,
    pub spec: Value,
    pub state: JobState,
    pub shards: u64,
    pub shards_done: u64,
    pub units: u64,
    /// Including what running shards have reported.
    pub units_done: u64,
    pub error: Option<String>,
    pub created_at: u64,
    pub started_at: Option<u64>,
    pub finished_at: Option<u64>,
}

/// Which jobs a list is about.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub state: Option<JobState>,
    pub kind: Option<String>,
    pub model: Option<String>,
    /// Only jobs that are older than this one.
    pub after: Option<String>,
    pub limit: u64,
}

/// A shard that failed at least once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardError {
    pub shard: u64,
    pub state: String,
    pub failures: u64,
    pub error: String,
}

/// The end of a job's events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub last_event: u64,
    /// No more will come.
    pub ended: bool,
}

/// How many shards a rate is measured over.
const RECENT: usize = 32;

macro_rules! select_jobs {
    ($rest:literal) => {
        concat!(
            "SELECT id, kind, model, spec, state, shards, shards_done, units, error, created_at, started_at, finished_at,
                (SELECT CAST(COALESCE(SUM(units_done), 0) AS BIGINT) FROM shards WHERE job_id = jobs.id) AS units_done
             FROM jobs ",
            $rest
        )
    };
}

impl<'r, R> FromRow<'r, R> for Job
where
    R: Row,
    &'static str: ColumnIndex<R>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
    Option<i64>: Decode<'r, R::Database> + Type<R::Database>,
    String: Decode<'r, R::Database> + Type<R::Database>,
    Option<String>: Decode<'r, R::Database> + Type<R::Database>,
{
    fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
        let number = |name: &'static str| row.try_get::<i64, _>(name).map(natural);
        let time = |name: &'static str| {
            row.try_get::<Option<i64>, _>(name)
                .map(|time| time.map(natural))
        };
        let unreadable = |name: &str| sqlx::Error::Decode(format!("jobs.{name}").into());
        let (spec, state) = (
            row.try_get::<String, _>("spec")?,
            row.try_get::<String, _>("state")?,
        );
        Ok(Self {
            id: row.try_get("id")?,
            kind: row.try_get("kind")?,
            model: row.try_get("model")?,
            spec: serde_json::from_str(&spec).map_err(|_| unreadable("spec"))?,
            state: JobState::find(&state).ok_or_else(|| unreadable("state"))?,
            shards: number("shards")?,
            shards_done: number("shards_done")?,
            units: number("units")?,
            units_done: number("units_done")?,
            error: row.try_get("error")?,
            created_at: number("created_at")?,
            started_at: time("started_at")?,
            finished_at: time("finished_at")?,
        })
    }
}

impl Store {
    pub async fn job(&self, id: &str) -> Result<Option<Job>, StoreError> {
        Ok(on!(self, |pool, _| sqlx::query_as(select_jobs!(
            "WHERE id = $1"
        ))
        .bind(id)
        .fetch_optional(pool)
        .await?))
    }

    /// How many jobs are in each state; none is left out.
    pub async fn counts(&self) -> Result<Vec<(JobState, u64)>, StoreError> {
        let found: Vec<(String, i64)> = on!(self, |pool, _| {
            sqlx::query_as("SELECT state, COUNT(*) FROM jobs GROUP BY state")
                .fetch_all(pool)
                .await?
        });
        let found: HashMap<_, _> = found.into_iter().collect();
        let count = |state: JobState| found.get(state.name()).copied().map_or(0, natural);
        Ok(JobState::ALL.map(|state| (state, count(state))).to_vec())
    }

    /// The newest first.
    pub async fn jobs(&self, filter: &Filter) -> Result<Vec<Job>, StoreError> {
        Ok(on!(self, |pool, _| {
            sqlx::query_as(select_jobs!(
                "WHERE ($1 IS NULL OR state = $1) AND ($2 IS NULL OR kind = $2) AND ($3 IS NULL OR model = $3)
                    AND ($4 IS NULL OR (created_at, id) < (SELECT created_at, id FROM jobs WHERE id = $4))
                 ORDER BY created_at DESC, id DESC LIMIT $5"
            ))
            .bind(filter.state.map(JobState::name))
            .bind(&filter.kind)
            .bind(&filter.model)
            .bind(&filter.after)
            .bind(integer(filter.limit))
            .fetch_all(pool)
            .await?
        }))
    }

    /// The result of a job that succeeded.
    pub async fn result(&self, id: &str) -> Result<Option<Value>, StoreError> {
        let text: Option<Option<String>> = on!(self, |pool, _| {
            sqlx::query_scalar("SELECT result FROM jobs WHERE id = $1")
                .bind(id)
                .fetch_optional(pool)
                .await?
        });
        let parse = |text: String| {
            serde_json::from_str(&text).map_err(|e| StoreError::Unreadable(e.to_string()))
        };
        text.flatten().map(parse).transpose()
    }

    /// The first `count` shards of a job that are done, from `first` on, with their results, without
    /// the reduction.
    pub async fn results(
        &self,
        id: &str,
        first: u64,
        count: u64,
    ) -> Result<Vec<(u64, Bytes)>, StoreError> {
        let rows: Vec<(i64, Vec<u8>)> = on!(self, |pool, _| {
            sqlx::query_as(
                "SELECT s.idx, s.result FROM shards s JOIN jobs j ON j.id = s.job_id
                 WHERE s.job_id = $1 AND s.idx >= $2 AND s.idx < j.shards AND s.result IS NOT NULL ORDER BY s.idx LIMIT $3",
            )
            .bind(id)
            .bind(integer(first))
            .bind(integer(count))
            .fetch_all(pool)
            .await?
        });
        let done = |(index, result)| (natural(index), Bytes::from(result));
        Ok(rows.into_iter().map(done).collect())
    }

    /// The first `limit` shards that failed.
    pub async fn errors(&self, id: &str, limit: u64) -> Result<Vec<ShardError>, StoreError> {
        let rows: Vec<(i64, String, i64, String)> = on!(self, |pool, _| {
            sqlx::query_as(
                "SELECT idx, state, failures, error FROM shards WHERE job_id = $1 AND error IS NOT NULL ORDER BY idx LIMIT $2",
            )
            .bind(id)
            .bind(integer(limit))
            .fetch_all(pool)
            .await?
        });
        let read = |(shard, state, failures, error)| ShardError {
            shard: natural(shard),
            state,
            failures: natural(failures),
            error,
        };
        Ok(rows.into_iter().map(read).collect())
    }

    /// Events after `seq`, at most `limit`.
    pub async fn events(&self, id: &str, seq: u64, limit: u64) -> Result<Vec<Event>, StoreError> {
        let rows: Vec<(i64, i64, String, String)> = on!(self, |pool, _| {
            sqlx::query_as(
                "SELECT seq, at, kind, payload FROM job_events WHERE job_id = $1 AND seq > $2 ORDER BY seq LIMIT $3",
            )
            .bind(id)
            .bind(integer(seq))
            .bind(integer(limit))
            .fetch_all(pool)
            .await?
        });
        let read = |(seq, at, kind, payload): (i64, i64, String, String)| {
            let payload = serde_json::from_str(&payload)
                .map_err(|e| StoreError::Unreadable(e.to_string()))?;
            Ok(Event {
                seq: natural(seq),
                at: natural(at),
                kind,
                payload,
            })
        };
        rows.into_iter().map(read).collect()
    }

    /// The last event of every job that is queued or running.
    pub async fn open_heads(&self) -> Result<HashMap<String, Head>, StoreError> {
        let rows: Vec<(String, i64)> = on!(self, |pool, _| {
            sqlx::query_as("SELECT id, last_event FROM jobs WHERE state IN ('queued', 'running')")
                .fetch_all(pool)
                .await?
        });
        let head = |last_event| Head {
            last_event: natural(last_event),
            ended: false,
        };
        Ok(rows
            .into_iter()
            .map(|(id, last_event)| (id, head(last_event)))
            .collect())
    }

    /// The last event of one job; a job that is not there has ended without events.
    pub async fn head(&self, id: &str) -> Result<Head, StoreError> {
        let found: Option<(i64, String)> = on!(self, |pool, _| {
            sqlx::query_as("SELECT last_event, state FROM jobs WHERE id = $1")
                .bind(id)
                .fetch_optional(pool)
                .await?
        });
        let is_final = |state: &str| JobState::find(state).is_none_or(JobState::is_final);
        Ok(found.map_or(
            Head {
                last_event: 0,
                ended: true,
            },
            |(last_event, state)| Head {
                last_event: natural(last_event),
                ended: is_final(&state),
            },
        ))
    }

    /// Units per second over the last shards of a running job; none before the first is done.
    pub async fn rate(&self, job: &Job) -> Result<Option<f64>, StoreError> {
        let Some(started_at) = job.started_at.filter(|_| job.state == JobState::Running) else {
            return Ok(None);
        };
        let mut recent: Vec<(i64, i64, i64)> = on!(self, |pool, _| {
            sqlx::query_as(
                "SELECT units, finished_at, (SELECT now FROM clock) FROM shards
                 WHERE job_id = $1 AND state = 'succeeded' ORDER BY finished_at DESC LIMIT $2",
            )
            .bind(&job.id)
            .bind(integer(RECENT as u64 + 1))
            .fetch_all(pool)
            .await?
        });
        let Some(&(_, _, now)) = recent.first() else {
            return Ok(None);
        };
        let since = match recent.len() {
            // The earliest only says when the others began.
            n if n > RECENT => recent
                .pop()
                .map_or(started_at, |(_, finished_at, _)| natural(finished_at)),
            _ => started_at,
        };
        let units: u64 = recent.iter().map(|(units, ..)| natural(*units)).sum();
        let seconds = natural(now).saturating_sub(since) as f64 / 1e3;
        Ok((seconds > 0.0).then(|| units as f64 / seconds))
    }
}
