//! The store of a queue, opened at first use, and the news of what this process changes in it.

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
    /// Told of whatever this process changes, so that nobody here has to wait until the database
    /// is polled.
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

    /// Opened at first use, and tried again as long as it cannot be: a database that is away keeps
    /// nobody from explaining.
    pub async fn store(&self) -> Result<&Store, StoreError> {
        let Parts { database, data, .. } = &*self.parts;
        // Boxed: the many callers would each hold, and compile, all that opening a database takes.
        self.parts
            .store
            .get_or_try_init(|| Store::open(database.as_deref(), data).boxed())
            .await
    }

    /// Whether the store is a file in the data folder.
    pub fn is_local(&self) -> bool {
        self.parts.database.is_none()
    }

    pub fn tell_change(&self) {
        self.parts.changed.notify_waiters();
    }

    /// The next change by this process.
    pub fn changed(&self) -> Notified<'_> {
        self.parts.changed.notified()
    }

    /// Waits until this process changes something, and no longer than `limit`: others may have.
    pub async fn wait_for_change(&self, limit: Duration) {
        let _ = tokio::time::timeout(limit, self.changed()).await;
    }
}
