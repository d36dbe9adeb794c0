//! Submit once per idempotency key, cancel, delete, find jobs past their retention.

use serde_json::{Value, json};
use sqlx::QueryBuilder;

use super::{
    connection::{Store, integer, natural, on},
    error::StoreError,
    event::record,
    read::Job,
    shard::PlannedShard,
    state::JobState,
};
use crate::jobs::crash::crash_point;

/// Rows of a statement: databases bound the values of one.
const SHARDS_AT_ONCE: usize = 500;

/// A job to submit.
#[derive(Clone, Debug)]
pub struct NewJob {
    pub id: String,
    pub kind: &'static str,
    pub model: Option<String>,
    /// The request as it was sent, which a repeated idempotency key has to match.
    pub asked: Value,
    pub idempotency_key: Option<String>,
    pub spec: Value,
    pub shards: Vec<PlannedShard>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Submitted {
    New(Job),
    /// The same request was submitted with this key before.
    Known(Job),
    /// The key belongs to another request.
    KeyTaken {
        job: String,
    },
    /// As many jobs are open as are allowed.
    Full,
}

const OPEN_JOBS: &str = "SELECT COUNT(*) FROM jobs WHERE state IN ('queued', 'running')";

impl Store {
    /// How many jobs are queued or running.
    pub async fn open_jobs(&self) -> Result<u64, StoreError> {
        let open: i64 = on!(self, |pool, _| sqlx::query_scalar(OPEN_JOBS)
            .fetch_one(pool)
            .await?);
        Ok(natural(open))
    }

    /// Adds a job where fewer than `max_open` are queued or running. Replicas that submit at the
    /// same moment may exceed that by one each.
    pub async fn submit(&self, new: &NewJob, max_open: u64) -> Result<Submitted, StoreError> {
        if let Some(known) = self
            .submitted(new.idempotency_key.as_deref(), &new.asked)
            .await?
        {
            return Ok(known);
        }
        let units: u64 = new.shards.iter().map(|shard| shard.units).sum();
        let inserted = on!(self, |pool, dialect| {
            let mut transaction = pool.begin_with(dialect.begin()).await?;
            let open: i64 = sqlx::query_scalar(OPEN_JOBS)
                .fetch_one(&mut *transaction)
                .await?;
            if natural(open) >= max_open {
                return Ok(Submitted::Full);
            }
            // It takes turns from now on, behind those whose turn has not come yet.
            let inserted = sqlx::query(
                "INSERT INTO jobs (id, kind, model, idempotency_key, asked, spec, state, shards, units, created_at, leased_at)
                 VALUES ($1, $2, $3, $4, $5, $6, 'queued', $7, $8, (SELECT now FROM clock), (SELECT now FROM clock))
                 ON CONFLICT (idempotency_key) DO NOTHING",
            )
            .bind(&new.id)
            .bind(new.kind)
            .bind(&new.model)
            .bind(&new.idempotency_key)
            .bind(new.asked.to_string())
            .bind(new.spec.to_string())
            .bind(integer(new.shards.len() as u64))
            .bind(integer(units))
            .execute(&mut *transaction)
            .await?
            .rows_affected();
            if inserted > 0 {
                let reduction = PlannedShard {
                    units: 0,
                    payload: Value::Null,
                    needs_previous: true,
                };
                let shards: Vec<_> = new.shards.iter().chain([&reduction]).enumerate().collect();
                for shards in shards.chunks(SHARDS_AT_ONCE) {
                    let mut insert = QueryBuilder::new(
                        "INSERT INTO shards (job_id, idx, state, units, payload) ",
                    );
                    insert.push_values(shards, |mut row, (index, shard)| {
                        let state = match shard.needs_previous && *index > 0 {
                            true => "waiting",
                            false => "queued",
                        };
                        row.push_bind(&new.id)
                            .push_bind(integer(*index as u64))
                            .push_bind(state)
                            .push_bind(integer(shard.units))
                            .push_bind(shard.payload.to_string());
                    });
                    insert.build().execute(&mut *transaction).await?;
                }
                record!(
                    transaction,
                    &new.id,
                    "state",
                    json!({ "state": JobState::Queued })
                );
            }
            crash_point!("submit::uncommitted");
            transaction.commit().await?;
            inserted
        });
        let found = match inserted {
            // Another replica was quicker with the same key.
            0 => {
                self.submitted(new.idempotency_key.as_deref(), &new.asked)
                    .await?
            }
            _ => self.job(&new.id).await?.map(Submitted::New),
        };
        found.ok_or_else(|| StoreError::Unreadable("a job that was just submitted is gone".into()))
    }

    /// The answer to a request whose idempotency key is known.
    pub async fn submitted(
        &self,
        key: Option<&str>,
        asked: &Value,
    ) -> Result<Option<Submitted>, StoreError> {
        let Some(key) = key else { return Ok(None) };
        let found: Option<(String, String)> = on!(self, |pool, _| {
            sqlx::query_as("SELECT id, asked FROM jobs WHERE idempotency_key = $1")
                .bind(key)
                .fetch_optional(pool)
                .await?
        });
        let Some((id, before)) = found else {
            return Ok(None);
        };
        if serde_json::from_str::<Value>(&before).ok().as_ref() != Some(asked) {
            return Ok(Some(Submitted::KeyTaken { job: id }));
        }
        Ok(self.job(&id).await?.map(Submitted::Known))
    }

    /// Cancels a job that has not ended; its workers learn of it at their next heartbeat. False
    /// where there was nothing to cancel.
    pub async fn cancel(&self, id: &str) -> Result<bool, StoreError> {
        let cancelled = on!(self, |pool, dialect| {
            let mut transaction = pool.begin_with(dialect.begin()).await?;
            let cancelled = sqlx::query(
                "UPDATE jobs SET state = 'cancelled', finished_at = (SELECT now FROM clock)
                 WHERE id = $1 AND state IN ('queued', 'running')",
            )
            .bind(id)
            .execute(&mut *transaction)
            .await?
            .rows_affected();
            if cancelled > 0 {
                record!(
                    transaction,
                    id,
                    "state",
                    json!({ "state": JobState::Cancelled })
                );
            }
            crash_point!("cancel::uncommitted");
            transaction.commit().await?;
            cancelled
        });
        Ok(cancelled > 0)
    }

    /// Removes a job in any state, with its shards and events. False where there was no such job.
    pub async fn delete(&self, id: &str) -> Result<bool, StoreError> {
        let deleted = on!(self, |pool, dialect| {
            let mut transaction = pool.begin_with(dialect.begin()).await?;
            sqlx::query("DELETE FROM shards WHERE job_id = $1")
                .bind(id)
                .execute(&mut *transaction)
                .await?;
            // Locks the job before its events.
            sqlx::query("UPDATE jobs SET state = 'cancelled' WHERE id = $1")
                .bind(id)
                .execute(&mut *transaction)
                .await?;
            sqlx::query("DELETE FROM job_events WHERE job_id = $1")
                .bind(id)
                .execute(&mut *transaction)
                .await?;
            let deleted = sqlx::query("DELETE FROM jobs WHERE id = $1")
                .bind(id)
                .execute(&mut *transaction)
                .await?
                .rows_affected();
            crash_point!("delete::uncommitted");
            transaction.commit().await?;
            deleted
        });
        Ok(deleted > 0)
    }

    /// Jobs that ended longer ago than `age_ms`, and those that ended before the last `kept`; the
    /// oldest first, a thousand at most.
    pub async fn outdated(&self, age_ms: u64, kept: u64) -> Result<Vec<String>, StoreError> {
        Ok(on!(self, |pool, _| {
            sqlx::query_scalar(
                "SELECT id FROM jobs WHERE finished_at < (SELECT now FROM clock) - $1
                    OR id IN (SELECT id FROM jobs WHERE finished_at IS NOT NULL
                        ORDER BY finished_at DESC, id LIMIT 1000000 OFFSET $2)
                 ORDER BY finished_at, id LIMIT 1000",
            )
            .bind(integer(age_ms))
            .bind(integer(kept))
            .fetch_all(pool)
            .await?
        }))
    }

    /// Which of these jobs do not exist.
    pub async fn gone(&self, ids: Vec<String>) -> Result<Vec<String>, StoreError> {
        let mut gone = Vec::new();
        for id in ids {
            let found: Option<i64> = on!(self, |pool, _| {
                sqlx::query_scalar("SELECT created_at FROM jobs WHERE id = $1")
                    .bind(&id)
                    .fetch_optional(pool)
                    .await?
            });
            if found.is_none() {
                gone.push(id);
            }
        }
        Ok(gone)
    }
}
