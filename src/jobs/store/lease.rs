//! Leases: claim, renew, and every way a shard ends. Each write after the claim repeats the lease's
//! token; where the shard has another token by then, or its job has ended, nothing is written and
//! the caller is told.

use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    connection::{Dialect, Store, integer, natural, on},
    error::StoreError,
    event::record,
    shard::Shard,
    state::JobState,
};
use crate::{jobs::crash::crash_point, text::cut};

/// Failures of a shard that fail its job.
pub const MAX_FAILURES: u64 = 5;

/// Expired leases of a shard that fail its job: the shard is likely what kills its workers.
pub const MAX_LOSSES: u64 = 20;

/// The longest error that is kept, in bytes.
const LONGEST_ERROR: usize = 1000;

/// The most events about progress of one job, and the most about failures.
const MAX_EVENTS: u64 = 1000;

/// A shard that a worker holds until the lease expires.
#[derive(Clone, Debug, PartialEq)]
pub struct Lease {
    pub job: String,
    pub kind: String,
    pub spec: Value,
    pub shard: Shard,
    /// Not a shard of the plan, but the reduction of all of them.
    pub reduces: bool,
    token: i64,
}

/// The answer to a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewed {
    Kept,
    /// The shard belongs to another worker, or its job has ended.
    Over,
}

/// The answer to a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acked {
    Written,
    /// Too late: the shard belongs to another worker, or its job has ended.
    Refused,
}

/// Claims a shard: $1 is the owner, $2 the length of the lease in ms, $3 the kinds. Jobs take
/// turns: first the one with the fewest running shards, then the one whose last turn, or arrival,
/// is the longest ago. `$next` selects a job and its first shard that can be leased.
macro_rules! claim {
    ($next:expr) => {
        concat!(
            "UPDATE shards SET state = 'running', lease_token = lease_token + 1, lease_owner = $1,
                lease_until = (SELECT now FROM clock) + $2, units_done = 0,
                losses = losses + CASE WHEN state = 'running' THEN 1 ELSE 0 END
             WHERE (job_id, idx) = (",
            $next,
            ") RETURNING job_id, idx, units, payload, lease_token, losses"
        )
    };
}

/// The open jobs `j` of the kinds, each with its number of running shards.
macro_rules! open_jobs {
    () => {
        " FROM jobs j LEFT JOIN (SELECT job_id, COUNT(*) AS running FROM shards
                WHERE state = 'running' AND lease_until >= (SELECT now FROM clock) GROUP BY job_id) r ON r.job_id = j.id
            WHERE j.state IN ('queued', 'running') AND $3 LIKE '%,' || j.kind || ',%' "
    };
}

macro_rules! turn {
    () => {
        " ORDER BY COALESCE(r.running, 0), j.leased_at, j.created_at, j.id "
    };
}

/// The first shard of job `j` that can be leased.
macro_rules! next_shard {
    () => {
        " SELECT s.idx FROM shards s WHERE s.job_id = j.id
            AND (s.state = 'queued' AND s.not_before <= (SELECT now FROM clock)
                OR s.state = 'running' AND s.lease_until < (SELECT now FROM clock))
            ORDER BY s.idx LIMIT 1 "
    };
}

const SQLITE_CLAIM: &str = claim!(concat!(
    "SELECT j.id, (",
    next_shard!(),
    ") AS next ",
    open_jobs!(),
    " AND next IS NOT NULL ",
    turn!(),
    " LIMIT 1"
));

/// Orders the jobs before it selects a shard, so that only that shard is locked.
const POSTGRES_CLAIM: &str = claim!(concat!(
    "SELECT j.id, s.idx FROM (SELECT j.id ",
    open_jobs!(),
    turn!(),
    ") j CROSS JOIN LATERAL (",
    next_shard!(),
    " FOR UPDATE SKIP LOCKED) s LIMIT 1"
));

fn claim_in(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Sqlite => SQLITE_CLAIM,
        Dialect::Postgres => POSTGRES_CLAIM,
    }
}

/// An update of a shard under its lease: $1 is the job, $2 the index, $3 the token.
macro_rules! fenced {
    ($set:literal) => {
        concat!(
            "UPDATE shards SET ",
            $set,
            " WHERE job_id = $1 AND idx = $2 AND lease_token = $3 AND state = 'running'
                AND EXISTS (SELECT 1 FROM jobs WHERE id = $1 AND state = 'running')"
        )
    };
}

/// Fails a job because of a shard.
macro_rules! fail_job {
    ($transaction:expr, $job:expr, $error:expr) => {{
        sqlx::query(
            "UPDATE jobs SET state = 'failed', error = $2, finished_at = (SELECT now FROM clock)
             WHERE id = $1 AND state IN ('queued', 'running')",
        )
        .bind($job)
        .bind($error)
        .execute(&mut *$transaction)
        .await?;
        record!($transaction, $job, "state", json!({ "state": JobState::Failed, "error": $error }));
    }};
}

/// Whether an event tells that so many shards are done: not each, where a job has very many.
fn has_event(done: u64, shards: u64) -> bool {
    done == shards || done.is_multiple_of(shards.div_ceil(MAX_EVENTS).max(1))
}

type Claimed = (String, i64, i64, String, i64, i64);

impl Store {
    /// Leases the next shard of the jobs of `kinds`; none where no shard can be leased.
    pub async fn claim(
        &self,
        owner: &str,
        kinds: &[&str],
        lease_ms: u64,
    ) -> Result<Option<Lease>, StoreError> {
        let kinds = format!(",{},", kinds.join(","));
        loop {
            let lease = on!(self, |pool, dialect| {
                let mut transaction = pool.begin_with(dialect.begin()).await?;
                let claimed: Option<Claimed> = sqlx::query_as(claim_in(dialect))
                    .bind(owner)
                    .bind(integer(lease_ms))
                    .bind(&kinds)
                    .fetch_optional(&mut *transaction)
                    .await?;
                let Some((job, index, units, payload, token, losses)) = claimed else {
                    return Ok(None);
                };
                let found: Option<(String, String, i64, String)> = sqlx::query_as(
                    "UPDATE jobs SET leased_at = (SELECT now FROM clock) WHERE id = $1 AND state IN ('queued', 'running')
                     RETURNING kind, spec, shards, state",
                )
                .bind(&job)
                .fetch_optional(&mut *transaction)
                .await?;
                // Cancelled in between: the next one, then.
                let Some((kind, spec, shards, state)) = found else {
                    continue;
                };
                if state == "queued" {
                    sqlx::query(
                        "UPDATE jobs SET state = 'running', started_at = leased_at WHERE id = $1",
                    )
                    .bind(&job)
                    .execute(&mut *transaction)
                    .await?;
                    record!(
                        transaction,
                        &job,
                        "state",
                        json!({ "state": JobState::Running })
                    );
                }
                let read = |text: &str| {
                    serde_json::from_str(text).map_err(|e| StoreError::Unreadable(e.to_string()))
                };
                let shard = Shard {
                    index: natural(index) as usize,
                    units: natural(units),
                    payload: read(&payload)?,
                };
                let lease = Lease {
                    job,
                    kind,
                    spec: read(&spec)?,
                    shard,
                    reduces: index == shards,
                    token,
                };
                let lost = natural(losses) >= MAX_LOSSES;
                if lost {
                    let error = format!("the worker of {} vanished {losses} times", lease.name());
                    sqlx::query("UPDATE shards SET state = 'failed', error = $3 WHERE job_id = $1 AND idx = $2")
                        .bind(&lease.job)
                        .bind(index)
                        .bind(&error)
                        .execute(&mut *transaction)
                        .await?;
                    fail_job!(transaction, &lease.job, &error);
                }
                crash_point!("claim::uncommitted");
                transaction.commit().await?;
                if lost {
                    continue;
                }
                lease
            });
            return Ok(Some(lease));
        }
    }

    /// A heartbeat: extends the lease, and stores how far its shard is.
    pub async fn renew(
        &self,
        lease: &Lease,
        lease_ms: u64,
        units_done: u64,
    ) -> Result<Renewed, StoreError> {
        let kept = on!(self, |pool, _| {
            sqlx::query(fenced!(
                "lease_until = (SELECT now FROM clock) + $4, units_done = $5"
            ))
            .bind(&lease.job)
            .bind(lease.index())
            .bind(lease.token)
            .bind(integer(lease_ms))
            .bind(integer(units_done.min(lease.shard.units)))
            .execute(pool)
            .await?
            .rows_affected()
        });
        Ok(if kept > 0 {
            Renewed::Kept
        } else {
            Renewed::Over
        })
    }

    /// Writes the result of a shard and counts it, in one transaction, which queues the shard that
    /// needs it. The last ack of a job queues its reduction.
    pub async fn ack(&self, lease: &Lease, result: &Bytes) -> Result<Acked, StoreError> {
        on!(self, |pool, dialect| {
            let mut transaction = pool.begin_with(dialect.begin()).await?;
            let written = sqlx::query(fenced!(
                "state = 'succeeded', result = $4, units_done = units, error = NULL, finished_at = (SELECT now FROM clock)"
            ))
            .bind(&lease.job)
            .bind(lease.index())
            .bind(lease.token)
            .bind(result.as_ref())
            .execute(&mut *transaction)
            .await?
            .rows_affected();
            if written == 0 {
                return Ok(Acked::Refused);
            }
            crash_point!("ack::uncounted");
            let counted: Option<(i64, i64, i64)> = sqlx::query_as(
                "UPDATE jobs SET shards_done = shards_done + 1 WHERE id = $1 AND state = 'running'
                 RETURNING shards_done, shards, units",
            )
            .bind(&lease.job)
            .fetch_optional(&mut *transaction)
            .await?;
            let Some((done, shards, units)) = counted else {
                return Ok(Acked::Refused);
            };
            // A statement of its own: inside the update it would not see what was written while
            // that waited for the row.
            let units_done: i64 = sqlx::query_scalar(
                "SELECT CAST(SUM(units_done) AS BIGINT) FROM shards WHERE job_id = $1 AND state = 'succeeded'",
            )
            .bind(&lease.job)
            .fetch_one(&mut *transaction)
            .await?;
            if has_event(natural(done), natural(shards)) {
                let progress = json!({ "done": units_done, "total": units, "shards_done": done, "shards": shards });
                record!(transaction, &lease.job, "progress", progress);
            }
            // What waited for this shard, or for all: the reduction is behind the last one.
            let next = if done == shards {
                shards
            } else {
                lease.index() + 1
            };
            if done == shards || next < shards {
                sqlx::query(
                    "UPDATE shards SET state = 'queued' WHERE job_id = $1 AND idx = $2 AND state = 'waiting'",
                )
                .bind(&lease.job)
                .bind(next)
                .execute(&mut *transaction)
                .await?;
            }
            crash_point!("ack::uncommitted");
            transaction.commit().await?;
            Ok(Acked::Written)
        })
    }

    /// Writes the result of a whole job, which succeeds by it.
    pub async fn finish(&self, lease: &Lease, result: &Value) -> Result<Acked, StoreError> {
        on!(self, |pool, dialect| {
            let mut transaction = pool.begin_with(dialect.begin()).await?;
            // What the result was made of is not kept beside it.
            sqlx::query("UPDATE shards SET result = NULL WHERE job_id = $1")
                .bind(&lease.job)
                .execute(&mut *transaction)
                .await?;
            let written = sqlx::query(fenced!(
                "state = 'succeeded', finished_at = (SELECT now FROM clock)"
            ))
            .bind(&lease.job)
            .bind(lease.index())
            .bind(lease.token)
            .execute(&mut *transaction)
            .await?
            .rows_affected();
            let finished = sqlx::query(
                "UPDATE jobs SET state = 'succeeded', result = $2, finished_at = (SELECT now FROM clock)
                 WHERE id = $1 AND state = 'running'",
            )
            .bind(&lease.job)
            .bind(result.to_string())
            .execute(&mut *transaction)
            .await?
            .rows_affected();
            if written == 0 || finished == 0 {
                return Ok(Acked::Refused);
            }
            record!(
                transaction,
                &lease.job,
                "state",
                json!({ "state": JobState::Succeeded })
            );
            crash_point!("finish::uncommitted");
            transaction.commit().await?;
            Ok(Acked::Written)
        })
    }

    /// Records that a shard failed. It is tried again after `retry_ms`, doubled with every failure;
    /// its job fails after [`MAX_FAILURES`], or at once where `retry_ms` is none.
    pub async fn fail(
        &self,
        lease: &Lease,
        error: &str,
        retry_ms: Option<u64>,
    ) -> Result<Acked, StoreError> {
        let error = cut(error, LONGEST_ERROR);
        on!(self, |pool, dialect| {
            let mut transaction = pool.begin_with(dialect.begin()).await?;
            let failures: Option<(i64,)> = sqlx::query_as(concat!(
                fenced!(
                    "state = 'queued', failures = failures + 1, units_done = 0, error = $4,
                        not_before = (SELECT now FROM clock) + $5 * (1 << CAST(failures AS INTEGER))"
                ),
                " RETURNING failures"
            ))
            .bind(&lease.job)
            .bind(lease.index())
            .bind(lease.token)
            .bind(error.as_ref())
            .bind(integer(retry_ms.unwrap_or_default()))
            .fetch_optional(&mut *transaction)
            .await?;
            let Some((failures,)) = failures else {
                return Ok(Acked::Refused);
            };
            let fails = retry_ms.is_none() || natural(failures) >= MAX_FAILURES;
            // Locks the job before its events. All but a few of those that are not about progress
            // are about failures.
            let told: i64 = sqlx::query_scalar(
                "UPDATE jobs SET leased_at = leased_at WHERE id = $1 RETURNING last_event -
                    (SELECT COUNT(*) FROM job_events WHERE job_id = $1 AND kind = 'progress')",
            )
            .bind(&lease.job)
            .fetch_one(&mut *transaction)
            .await?;
            if natural(told) < MAX_EVENTS {
                let event = json!({ "shard": lease.shard.index, "failures": failures, "error": error, "retried": !fails });
                record!(transaction, &lease.job, "shard", event);
            }
            if fails {
                sqlx::query("UPDATE shards SET state = 'failed' WHERE job_id = $1 AND idx = $2")
                    .bind(&lease.job)
                    .bind(lease.index())
                    .execute(&mut *transaction)
                    .await?;
                let error = format!("{}: {error}", lease.name());
                fail_job!(transaction, &lease.job, &error);
            }
            crash_point!("fail::uncommitted");
            transaction.commit().await?;
            Ok(Acked::Written)
        })
    }

    /// Gives an unfinished shard back; others can lease it at once.
    pub async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        on!(self, |pool, _| {
            sqlx::query(fenced!("state = 'queued', units_done = 0"))
                .bind(&lease.job)
                .bind(lease.index())
                .bind(lease.token)
                .execute(pool)
                .await?;
        });
        Ok(())
    }
}

impl Lease {
    fn index(&self) -> i64 {
        integer(self.shard.index as u64)
    }

    /// The name in error messages.
    pub fn name(&self) -> String {
        if self.reduces {
            "the reduction".to_owned()
        } else {
            format!("shard {}", self.shard.index)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_a_bounded_number_of_times_and_at_the_end() {
        for shards in [1, 7, MAX_EVENTS, MAX_EVENTS + 1, 23_456] {
            let told: Vec<u64> = (1..=shards)
                .filter(|done| has_event(*done, shards))
                .collect();
            assert!(
                told.len() as u64 <= MAX_EVENTS && told.last() == Some(&shards),
                "{shards}: {}",
                told.len()
            );
            assert!(
                shards > MAX_EVENTS || told.len() as u64 == shards,
                "{shards}: {}",
                told.len()
            );
        }
    }
}
