//! Jobs, shards and events in SQLite or PostgreSQL: the same verbs and, but for a few words, the
//! same SQL. Leases are fenced: every write about a shard repeats the lease's token, so that a late
//! worker changes nothing. A result and what follows from it are written in one transaction. Rows
//! are locked in the order shards, jobs, events.

mod lease;
mod read;
mod submit;

use std::{path::Path, time::Duration};

use serde::{Deserialize, Serialize};
use sqlx::{
    Connection, PgPool, SqlSafeStr, SqlitePool,
    migrate::{Migration, MigrationType, Migrator},
    postgres::PgPoolOptions,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use utoipa::ToSchema;

pub use lease::{Acked, Lease, MAX_FAILURES, MAX_LOSSES, Renewed};
pub use read::{Event, Filter, Head, Job, ShardError};
pub use submit::{NewJob, Submitted};

/// The database of a data folder that names no other.
const FILE: &str = "jobs.sqlite";

/// How long a write waits for another process's.
const PATIENCE: Duration = Duration::from_secs(10);

/// Refused by a connection that may only read, and changes nothing.
const TRY_TO_WRITE: &str = "BEGIN IMMEDIATE; PRAGMA user_version = 0; ROLLBACK";

/// Clones share the connections.
#[derive(Clone, Debug)]
pub struct Store {
    pools: Pools,
}

#[derive(Clone, Debug)]
enum Pools {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

/// Where the databases differ in words.
struct Dialect {
    begin: &'static str,
    claim: &'static str,
}

static SQLITE: Dialect = Dialect {
    begin: "BEGIN IMMEDIATE",
    claim: lease::SQLITE_CLAIM,
};
static POSTGRES: Dialect = Dialect {
    begin: "BEGIN",
    claim: lease::POSTGRES_CLAIM,
};

/// The same body for either database: the first name is its pool, the second its [`Dialect`].
macro_rules! on {
    ($store:expr, |$pool:ident, $dialect:pat_param| $body:expr) => {
        match &$store.pools {
            $crate::jobs::store::Pools::Sqlite($pool) => {
                let $dialect = &$crate::jobs::store::SQLITE;
                $body
            }
            $crate::jobs::store::Pools::Postgres($pool) => {
                let $dialect = &$crate::jobs::store::POSTGRES;
                $body
            }
        }
    };
}

/// Adds an event to a job, in the transaction that makes it true. The job's row is locked by then:
/// numbers have no gaps.
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

use {on, record};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    Queued,
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

impl JobState {
    pub const ALL: [Self; 5] = [
        Self::Queued,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Whether it stays so.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot make the data folder: {source}; choose another with --data")]
    Folder { source: std::io::Error },
    #[error("the database of jobs: {0}")]
    Database(sqlx::Error),
    #[error(
        "there is no room left on the disk of the database of jobs: free some, then send this again"
    )]
    Full,
    #[error("the tables of jobs cannot be brought up to date: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    #[error("the database of jobs holds what this version cannot read: {0}")]
    Unreadable(String),
}

impl StoreError {
    /// Whether there is no room left on the disk.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Full => true,
            Self::Folder { source } => source.kind() == std::io::ErrorKind::StorageFull,
            _ => false,
        }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        // SQLITE_FULL, and PostgreSQL's disk_full.
        let is_full = |code: &str| matches!(code, "13" | "53100");
        match error.as_database_error().and_then(|error| error.code()) {
            Some(code) if is_full(&code) => Self::Full,
            _ => Self::Database(error),
        }
    }
}

impl Store {
    /// Opens `postgres://…`, or the SQLite file in `data`, and brings its tables up to date.
    pub async fn open(database: Option<&str>, data: &Path) -> Result<Self, StoreError> {
        let pools = match database {
            Some(url) => {
                let options = PgPoolOptions::new()
                    .max_connections(8)
                    .acquire_timeout(PATIENCE);
                Pools::Postgres(options.connect(url).await?)
            }
            None => {
                std::fs::create_dir_all(data).map_err(|source| {
                    tracing::error!(folder = %data.display(), error = %source, "the data folder cannot be made");
                    StoreError::Folder { source }
                })?;
                let options = SqliteConnectOptions::new()
                    .filename(data.join(FILE))
                    .create_if_missing(true)
                    .journal_mode(SqliteJournalMode::Wal)
                    .synchronous(SqliteSynchronous::Full)
                    .busy_timeout(PATIENCE);
                // SQLite itself ends a transaction that a full disk stopped; its connection would
                // count it as open for ever.
                let pool = SqlitePoolOptions::new()
                    .max_connections(4)
                    .before_acquire(|connection, _| {
                        Box::pin(async { Ok(!connection.is_in_transaction()) })
                    })
                    .connect_with(options)
                    .await?;
                // SQLite opens a file that it may not write, and such a connection would stay so
                // when it may.
                if let Err(error) = sqlx::raw_sql(TRY_TO_WRITE).execute(&pool).await {
                    pool.close().await;
                    return Err(error.into());
                }
                Pools::Sqlite(pool)
            }
        };
        let store = Self { pools };
        match &store.pools {
            Pools::Sqlite(pool) => migrations(include_str!("sqlite.sql")).run(pool).await?,
            Pools::Postgres(pool) => migrations(include_str!("postgres.sql")).run(pool).await?,
        }
        Ok(store)
    }

    /// Whether the database answers.
    pub async fn check(&self) -> Result<(), StoreError> {
        on!(self, |pool, _| {
            sqlx::query("SELECT now FROM clock").execute(pool).await?;
        });
        Ok(())
    }

    /// Waits for its connections to close.
    pub async fn close(&self) {
        on!(self, |pool, _| pool.close().await);
    }
}

fn migrations(first: &'static str) -> Migrator {
    let step = |number, name: &'static str, sql: &'static str| {
        Migration::new(
            number,
            name.into(),
            MigrationType::Simple,
            sql.into_sql_str(),
            false,
        )
    };
    Migrator::with_migrations(vec![
        step(1, "jobs", first),
        step(2, "indices", include_str!("indices.sql")),
        step(3, "states", include_str!("states.sql")),
    ])
}

/// A count or a time out of the database; they are never negative.
fn natural(number: i64) -> u64 {
    number.try_into().unwrap_or_default()
}

/// The other way round; no count comes near the end.
fn integer(number: u64) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_disk_without_room_is_told_from_other_faults() {
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .connect("sqlite::memory:")
            .await
            .unwrap();
        let fault = async |sql: &'static str| {
            StoreError::from(sqlx::raw_sql(sql).execute(&pool).await.unwrap_err())
        };
        let full =
            fault("PRAGMA max_page_count = 3; CREATE TABLE t (x); INSERT INTO t VALUES (zeroblob(100000))").await;
        assert!(matches!(full, StoreError::Full), "{full}");
        assert!(!fault("SELECT y FROM t").await.is_full());
        let source = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        assert!(!StoreError::Folder { source }.is_full());
    }
}
