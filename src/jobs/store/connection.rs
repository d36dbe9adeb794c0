//! Connections to SQLite or PostgreSQL, the dialects of the two, and their tables.

use std::{path::Path, time::Duration};

use sqlx::{
    Connection, PgPool, SqlSafeStr, SqlitePool,
    migrate::{Migration, MigrationType, Migrator},
    postgres::PgPoolOptions,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use super::error::StoreError;

/// The SQLite file in the data folder.
const FILE: &str = "jobs.sqlite";

/// How long a write waits for those of other processes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Changes nothing, and fails where the connection is read-only.
const TRY_TO_WRITE: &str = "BEGIN IMMEDIATE; PRAGMA user_version = 0; ROLLBACK";

/// Clones share the connections.
#[derive(Clone, Debug)]
pub struct Store {
    pub(super) pools: Pools,
}

#[derive(Clone, Debug)]
pub(super) enum Pools {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

/// What the SQL is written for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Dialect {
    Sqlite,
    Postgres,
}

impl Dialect {
    /// Begins a transaction that writes. The server ends one whose process is silent for longer than
    /// the timeout: frozen or cut off, it would keep its locks, and all others from the job.
    pub(super) fn begin(self) -> &'static str {
        match self {
            Self::Sqlite => "BEGIN IMMEDIATE",
            Self::Postgres => "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '10s'",
        }
    }
}

/// The same body for either database: the first name is its pool, the second its [`Dialect`].
macro_rules! on {
    ($store:expr, |$pool:ident, $dialect:pat_param| $body:expr) => {
        match &$store.pools {
            $crate::jobs::store::connection::Pools::Sqlite($pool) => {
                let $dialect = $crate::jobs::store::connection::Dialect::Sqlite;
                $body
            }
            $crate::jobs::store::connection::Pools::Postgres($pool) => {
                let $dialect = $crate::jobs::store::connection::Dialect::Postgres;
                $body
            }
        }
    };
}

pub(super) use on;

impl Store {
    /// Opens `postgres://…`, or the SQLite file in `data`, and brings its tables up to date.
    pub async fn open(database: Option<&str>, data: &Path) -> Result<Self, StoreError> {
        let pools = match database {
            Some(url) => {
                let options = PgPoolOptions::new()
                    .max_connections(8)
                    .acquire_timeout(BUSY_TIMEOUT);
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
                    .busy_timeout(BUSY_TIMEOUT);
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

/// A count or a time from the database, where neither is negative.
pub(super) fn natural(number: i64) -> u64 {
    number.try_into().unwrap_or_default()
}

/// A count or a time for the database; none comes near the largest integer.
pub(super) fn integer(number: u64) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}
