//! Leases: claim, renew, and every way a shard ends. Each write after the claim repeats the token;
//! where it no longer is the shard's, or the job has ended, nothing is written and the caller is
//! told.

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

/// A shard that failed so often fails its job.
pub const MAX_FAILURES: u64 = 5;

/// A shard whose lease ran out so often fails its job: it is likely what kills its workers.
pub const MAX_LOSSES: u64 = 20;

/// The longest text that a failure leaves in the database, in bytes.
const LONGEST_ERROR: usize = 1000;

/// Events about progress, and events about failures, that one job has at the most.
const MAX_EVENTS: u64 = 1000;

/// A shard, for a while.
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

/// What a heartbeat finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewed {
    Kept,
    /// The shard belongs to another worker, or its job has ended.
    Over,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acked {
    Written,
    /// It came too late: the shard belongs to another worker, or its job has ended.
    Refused,
}

/// Takes a shard ($1 for whom, $2 for how long, $3 the kinds). Jobs take turns: the one with the
/// fewest shards under way first, then the one whose last turn, or arrival, is the longest ago.
/// `$next` is a job and its first shard to be worked on.
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

/// The open jobs `j` of the kinds, and how many of their shards are under way.
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

/// The first shard of job `j` that is to be worked on.
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

/// The jobs are in the order of their turns before shards are looked at: only the one that is taken
/// is locked.
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

/// Of the writes about a shard: $1 the job, $2 its index, $3 the token.
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

/// Ends a job that a shard has failed.
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

/// Whether it is worth an event that so many shards are done: of a job of very many not each is.
fn is_told(done: u64, shards: u64) -> bool {
    done == shards || done.is_multiple_of(shards.div_ceil(MAX_EVENTS).max(1))
}

type Claimed = (String, i64, i64, String, i64, i64);

impl Store {
    /// Leases the next shard of a job of one of `kinds`, if any is to be worked on.
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

    /// Keeps a lease for another while, and says how far its shard is.
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

    /// Writes the result of a shard and counts it, together. The last one of a job lets its
    /// reduction go.
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
            if is_told(natural(done), natural(shards)) {
                let progress = json!({ "done": units_done, "total": units, "shards_done": done, "shards": shards });
                record!(transaction, &lease.job, "progress", progress);
            }
            if done == shards {
                sqlx::query("UPDATE shards SET state = 'queued' WHERE job_id = $1 AND idx = $2")
                    .bind(&lease.job)
                    .bind(shards)
                    .execute(&mut *transaction)
                    .await?;
            }
            crash_point!("ack::uncommitted");
            transaction.commit().await?;
            Ok(Acked::Written)
        })
    }

    /// Writes the result of a whole job, with which it has succeeded.
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

    /// Says that a shard failed: it is tried again after a pause of `retry_ms` that doubles with
    /// every failure. Its job fails where there is none, and when it failed too often.
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

    /// Gives a shard back unfinished, for others to take at once.
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

    /// What error messages call it.
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
            let told: Vec<u64> = (1..=shards).filter(|done| is_told(*done, shards)).collect();
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
