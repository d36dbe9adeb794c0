//! The results of a job's shards, read a few at a time: what reduces them takes bounded memory,
//! however many there are.

use std::iter;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{
    error::WorkError,
    store::{Store, StoreError},
};
use crate::pool::{Pool, WorkPanicked};

/// How many are read at once.
const PAGE: u64 = 16;

/// The results of shards, in order.
pub type Results<'a> = &'a mut dyn Iterator<Item = Option<Bytes>>;

#[derive(Clone)]
pub struct ShardResults {
    store: Store,
    pool: Pool,
    job: String,
}

impl ShardResults {
    pub(super) fn new(store: Store, pool: Pool, job: &str) -> Self {
        Self {
            store,
            pool,
            job: job.to_owned(),
        }
    }

    /// What `work` makes of them, in order, on the pool. `None` stands for a shard that is not done.
    pub async fn read<T, E>(
        &self,
        work: impl FnOnce(Results<'_>) -> Result<T, WorkError> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + From<WorkPanicked> + From<WorkError>,
    {
        let (send, mut receive) = mpsc::channel(PAGE as usize);
        let feed = async move {
            let job = self.store.job(&self.job).await?;
            let shards = job.map_or(0, |job| job.shards);
            let mut next = 0;
            while next < shards {
                let mut page = self
                    .store
                    .results(&self.job, next, PAGE)
                    .await?
                    .into_iter()
                    .peekable();
                let is_last = (page.len() as u64) < PAGE;
                while next < shards && (is_last || page.peek().is_some()) {
                    let done = page.next_if(|(index, _)| *index == next);
                    // Without a receiver the work has ended.
                    if send.send(done.map(|(_, result)| result)).await.is_err() {
                        return Ok(());
                    }
                    next += 1;
                }
            }
            Ok::<_, StoreError>(())
        };
        let work = move || work(&mut iter::from_fn(|| receive.blocking_recv()));
        let (fed, done) = tokio::join!(feed, self.pool.run(work));
        fed?;
        Ok(done??)
    }
}
