//! A bounded pool for work that would block an async thread: decoding, the arithmetic of methods,
//! rendering, encoding.

use std::sync::Arc;

use tokio::{sync::Semaphore, task::spawn_blocking};

/// At most as many tasks run at once as there are permits; the rest wait in order. Clones share the
/// permits.
#[derive(Clone, Debug)]
pub struct Pool {
    permits: Arc<Semaphore>,
}

/// The work panicked; the panic itself is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an internal fault stopped this request; its x-request-id finds it in the server's log")]
pub struct WorkPanicked;

impl Pool {
    pub fn new(threads: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(threads.max(1))),
        }
    }

    /// Runs `work` on a blocking thread. A caller that is dropped while waiting gives up its place
    /// in the queue; work that has started runs to its end and holds its permit until then.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, WorkPanicked> {
        let permit = self
            .permits
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| WorkPanicked)?;
        let span = tracing::Span::current();
        spawn_blocking(move || {
            let _permit = permit;
            span.in_scope(work)
        })
        .await
        .map_err(|_| WorkPanicked)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use super::*;

    #[tokio::test]
    async fn no_more_work_runs_at_once_than_there_are_permits() {
        let pool = Pool::new(2);
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let work = (0..8).map(|_| {
            let (running, most) = (running.clone(), most.clone());
            pool.run(move || {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(5));
                running.fetch_sub(1, Ordering::SeqCst);
            })
        });
        futures::future::try_join_all(work).await.unwrap();
        assert_eq!(most.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_frees_its_permit() {
        let pool = Pool::new(1);
        assert_eq!(pool.run(|| panic!("on purpose")).await, Err(WorkPanicked));
        assert_eq!(pool.run(|| 7).await, Ok(7));
    }
}
