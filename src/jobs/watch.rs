//! Followers of the events of jobs. One task polls the database for all followers while there are
//! any, and keeps the last events of each job that is followed. A follower that is slower than that
//! reads from the database: it misses no event, and delays nobody.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};

use super::{
    connection::Connection,
    error::JobError,
    store::{Event, Head, StoreError},
};

/// How often the database is asked for events of other replicas.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// The shortest time between two refreshes, however fast this process changes jobs.
const MIN_INTERVAL: Duration = Duration::from_millis(50);

/// Events that are kept of a job, and read at once.
const RECENT: u64 = 100;

/// The most readers at once.
pub const MAX_FOLLOWERS: usize = 512;

pub struct Watch {
    connection: Connection,
    places: Arc<Semaphore>,
    feeds: Mutex<Feeds>,
    /// Notified when a follower joins.
    joined: Notify,
}

#[derive(Default)]
struct Feeds {
    jobs: HashMap<String, watch::Sender<Feed>>,
    /// Whether the task runs.
    watched: bool,
}

/// The last events of a job, as of the last refresh.
#[derive(Default)]
struct Feed {
    /// Without gaps.
    recent: VecDeque<Event>,
    last: u64,
    ended: bool,
}

/// A reader of the events of a job.
pub struct Follower {
    watch: Arc<Watch>,
    job: String,
    last: u64,
    read: VecDeque<Event>,
    feed: watch::Receiver<Feed>,
    _place: OwnedSemaphorePermit,
}

impl Watch {
    pub fn new(connection: Connection) -> Self {
        Self {
            connection,
            places: Arc::new(Semaphore::new(MAX_FOLLOWERS)),
            feeds: Mutex::default(),
            joined: Notify::new(),
        }
    }

    /// Events of `job` after `last`, as they come.
    pub fn follow(self: &Arc<Self>, job: String, last: u64) -> Result<Follower, JobError> {
        let place = self.places.clone().try_acquire_owned();
        let place = place.map_err(|_| JobError::TooManyFollowers {
            limit: MAX_FOLLOWERS,
        })?;
        let mut feeds = self.feeds();
        let feed = feeds
            .jobs
            .entry(job.clone())
            .or_insert_with(|| watch::channel(Feed::default()).0)
            .subscribe();
        if !feeds.watched {
            feeds.watched = true;
            tokio::spawn(watch(self.clone()));
        }
        drop(feeds);
        self.joined.notify_one();
        Ok(Follower {
            watch: self.clone(),
            job,
            last,
            read: VecDeque::new(),
            feed,
            _place: place,
        })
    }

    fn feeds(&self) -> MutexGuard<'_, Feeds> {
        self.feeds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The jobs that are followed, each with the last event of its feed; none when the task is to
    /// end.
    fn followed(&self) -> Option<Vec<(String, u64)>> {
        let mut feeds = self.feeds();
        feeds.jobs.retain(|_, feed| feed.receiver_count() > 0);
        feeds.watched = !feeds.jobs.is_empty();
        feeds.watched.then(|| {
            feeds
                .jobs
                .iter()
                .map(|(job, feed)| (job.clone(), feed.borrow().last))
                .collect()
        })
    }

    /// Drops all feeds: their followers read what they have, and end.
    fn close(&self) {
        self.feeds().jobs.clear();
    }

    /// One query for all jobs, and one more for each that has new events.
    async fn refresh(&self, followed: Vec<(String, u64)>) -> Result<(), StoreError> {
        let store = self.connection.store().await?;
        let open = store.open_heads().await?;
        for (job, known) in followed {
            // Read before the events, so that they include the one that ended the job.
            let Head { last_event, ended } = match open.get(&job) {
                Some(head) => *head,
                None => store.head(&job).await?,
            };
            if last_event <= known && !ended {
                continue;
            }
            let mut events = Vec::new();
            let mut after = known.max(last_event.saturating_sub(RECENT));
            while after < last_event {
                let page = store.events(&job, after, RECENT).await?;
                let Some(last) = page.last() else { break };
                after = last.seq;
                events.extend(page);
            }
            if let Some(feed) = self.feeds().jobs.get(&job) {
                feed.send_modify(|feed| feed.add(events, ended));
            }
        }
        Ok(())
    }
}

/// Refreshes the feeds until nobody follows.
async fn watch(watch: Arc<Watch>) {
    while let Some(followed) = watch.followed() {
        // Registered before the refresh, so that it wakes for changes during it.
        let changed = watch.connection.changed();
        if let Err(error) = watch.refresh(followed).await {
            tracing::warn!(%error, "the events of jobs cannot be read; their readers may come again");
            watch.close();
        }
        tokio::time::sleep(MIN_INTERVAL).await;
        tokio::select! {
            () = watch.joined.notified() => {}
            _ = tokio::time::timeout(POLL_INTERVAL, changed) => {}
        }
    }
}

impl Feed {
    fn add(&mut self, events: Vec<Event>, ended: bool) {
        for event in events {
            if event.seq != self.last + 1 {
                self.recent.clear();
            }
            self.last = event.seq;
            self.recent.push_back(event);
        }
        let surplus = self.recent.len().saturating_sub(RECENT as usize);
        self.recent.drain(..surplus);
        self.ended = ended;
    }

    /// The events after `last`; none where some of them are not kept any more.
    fn after(&self, last: u64) -> Option<VecDeque<Event>> {
        let first = self.recent.front().map_or(self.last + 1, |event| event.seq);
        (first <= last.saturating_add(1)).then(|| {
            self.recent
                .iter()
                .filter(|event| event.seq > last)
                .cloned()
                .collect()
        })
    }
}

impl Follower {
    /// The next event; none when the job has ended, or the database cannot be read.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.read.pop_front() {
                self.last = event.seq;
                return Some(event);
            }
            let (kept, last, ended) = {
                let feed = self.feed.borrow_and_update();
                (feed.after(self.last), feed.last, feed.ended)
            };
            if last > self.last {
                self.read = match kept {
                    Some(kept) => kept,
                    None => self.read_on().await.ok()?,
                };
                // The job was deleted with its events.
                if self.read.is_empty() {
                    return None;
                }
            } else if ended {
                return None;
            } else {
                self.feed.changed().await.ok()?;
            }
        }
    }

    /// What the database has after the last event.
    async fn read_on(&self) -> Result<VecDeque<Event>, StoreError> {
        let store = self.watch.connection.store().await?;
        Ok(store.events(&self.job, self.last, RECENT).await?.into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn events(seqs: std::ops::RangeInclusive<u64>) -> Vec<Event> {
        seqs.map(|seq| Event {
            seq,
            at: 0,
            kind: "progress".into(),
            payload: Value::Null,
        })
        .collect()
    }

    fn seqs(found: Option<VecDeque<Event>>) -> Option<Vec<u64>> {
        found.map(|events| events.iter().map(|event| event.seq).collect())
    }

    #[test]
    fn a_feed_keeps_the_last_events_and_says_when_it_lacks_some() {
        let mut feed = Feed::default();
        assert_eq!(seqs(feed.after(0)), Some(vec![]));
        feed.add(events(1..=3), false);
        assert_eq!(seqs(feed.after(0)), Some(vec![1, 2, 3]));
        assert_eq!(seqs(feed.after(2)), Some(vec![3]));
        assert_eq!(seqs(feed.after(9)), Some(vec![]));
        feed.add(events(4..=RECENT + 20), false);
        assert_eq!(feed.recent.len() as u64, RECENT);
        assert_eq!(
            (
                seqs(feed.after(19)),
                seqs(feed.after(20)).unwrap().len() as u64
            ),
            (None, RECENT)
        );
        // Events between were missed.
        feed.add(events(500..=501), true);
        assert_eq!(
            (seqs(feed.after(498)), seqs(feed.after(499))),
            (None, Some(vec![500, 501]))
        );
        assert!(feed.ended && feed.last == 501);
    }
}
