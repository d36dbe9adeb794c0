//! The store of a queue, opened at first use, and notices of what this process changes in it.

use std::{path::PathBuf, sync::Arc, time::Duration};

use futures::FutureExt;
use tokio::sync::{Notify, OnceCell, futures::Notified};

use super::store::{Store, StoreError};

/// Clones share everything.
#[derive(Clone)]
pub struct Connection {
    parts: Arc<Parts>,
}

struct Parts {
    database: Option<String>,
    data: PathBuf,
    store: OnceCell<Store>,
    /// Notified of every change by this process, so that nobody in it waits for the next poll of
    /// the database.
    changed: Notify,
}

impl Connection {
    /// To the PostgreSQL at `database`, or else to the SQLite file in the folder `data`.
    pub fn new(database: Option<String>, data: PathBuf) -> Self {
        let (store, changed) = (OnceCell::new(), Notify::new());
        Self {
            parts: Arc::new(Parts {
                database,
                data,
                store,
                changed,
            }),
        }
    }

    /// Opened at first use, and tried again until it can be: the server starts and explains without
    /// its database.
    pub async fn store(&self) -> Result<&Store, StoreError> {
        let Parts { database, data, .. } = &*self.parts;
        // Boxed, or the future of each caller would hold that of opening a database.
        self.parts
            .store
            .get_or_try_init(|| Store::open(database.as_deref(), data).boxed())
            .await
    }

    /// Whether the store is a file in the data folder.
    pub fn is_local(&self) -> bool {
        self.parts.database.is_none()
    }

    pub fn notify_change(&self) {
        self.parts.changed.notify_waiters();
    }

    /// The next change by this process.
    pub fn changed(&self) -> Notified<'_> {
        self.parts.changed.notified()
    }

    /// Waits until this process changes something, or until `limit` has passed: other processes may
    /// have changed something then.
    pub async fn wait_for_change(&self, limit: Duration) {
        let _ = tokio::time::timeout(limit, self.changed()).await;
    }
}
