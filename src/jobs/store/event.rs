//! The events of a job, in order.

use serde_json::Value;

#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Counts a job's events from 1, without gaps.
    pub seq: u64,
    pub at: u64,
    /// `state`, `progress` or `shard`.
    pub kind: String,
    pub payload: Value,
}

/// Adds an event to a job, in the transaction of the change that it tells of. The job's row is
/// locked by then, so numbers have no gaps.
macro_rules! record {
    ($transaction:expr, $job:expr, $kind:expr, $payload:expr) => {{
        let payload: String = $payload.to_string();
        sqlx::query("UPDATE jobs SET last_event = last_event + 1 WHERE id = $1")
            .bind($job)
            .execute(&mut *$transaction)
            .await?;
        sqlx::query(
            "INSERT INTO job_events (job_id, seq, at, kind, payload)
             SELECT id, last_event, (SELECT now FROM clock), $2, $3 FROM jobs WHERE id = $1",
        )
        .bind($job)
        .bind($kind)
        .bind(payload)
        .execute(&mut *$transaction)
        .await?;
    }};
}

pub(super) use record;
