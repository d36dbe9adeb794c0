//! The errors of the store.

/// SQLITE_FULL, and PostgreSQL's disk_full.
const FULL: &[&str] = &["13", "53100"];

/// SQLITE_READONLY and _DBMOVED; SQLITE_IOERR_WRITE, _FSYNC, _TRUNCATE and _SHMSIZE; PostgreSQL's
/// read_only_sql_transaction.
const UNWRITABLE: &[&str] = &["8", "1032", "778", "1034", "1546", "4874", "25006"];

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
    #[error(
        "the database of jobs takes no writes: its disk is over a quota, read-only or broken; mend that, then send this again"
    )]
    Unwritable,
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
        match error.as_database_error().and_then(|error| error.code()) {
            Some(code) if FULL.contains(&&*code) => Self::Full,
            Some(code) if UNWRITABLE.contains(&&*code) => {
                tracing::error!(%error, "the database of jobs cannot be written");
                Self::Unwritable
            }
            _ => Self::Database(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use sqlx::sqlite::SqlitePoolOptions;

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
        let unwritable = fault("PRAGMA query_only = 1; INSERT INTO t VALUES (1)").await;
        assert!(matches!(unwritable, StoreError::Unwritable), "{unwritable}");
        let source = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        assert!(!StoreError::Folder { source }.is_full());
    }
}
