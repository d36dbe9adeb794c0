//! Runs one job to its end in this process, on a queue of its own: `explaind bench`.

use std::time::Duration;

use futures::FutureExt;
use serde_json::{Map, Value};

use super::{
    error::JobError,
    queue::Queue,
    runner::{Runner, Shutdown},
    store::Job,
};

/// How often progress is reported.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// Submits a job, works until it has ended, and reports its progress. A job that was interrupted
/// resumes where the same `key` is given.
pub async fn run(
    queue: &Queue,
    asked: Map<String, Value>,
    key: Option<String>,
    mut on_progress: impl FnMut(&Job),
) -> Result<Job, JobError> {
    run_until(std::future::pending(), queue, asked, key, |job, _| {
        on_progress(job)
    })
    .await
}

/// As [`run`], or until `stop` resolves, which leaves the job unfinished. Also reports the seconds
/// left, once they are known.
pub async fn run_until(
    stop: impl Future<Output = ()>,
    queue: &Queue,
    asked: Map<String, Value>,
    key: Option<String>,
    mut on_progress: impl FnMut(&Job, Option<f64>),
) -> Result<Job, JobError> {
    let (job, _) = queue.submit(asked, key).await?;
    let shutdown = Shutdown::default();
    let runner = Runner::new(queue.clone());
    let watch = async {
        tokio::pin!(stop);
        let mut is_stopped = false;
        loop {
            let job = queue.job(&job.id).await?;
            if job.state.is_final() || is_stopped {
                return Ok(job);
            }
            let (_, left) = queue.rate(&job).await?;
            on_progress(&job, left);
            tokio::select! {
                () = tokio::time::sleep(PROGRESS_INTERVAL) => {}
                () = &mut stop => is_stopped = true,
            }
        }
    };
    let watch = watch.inspect(|_| {
        shutdown.graceful.cancel();
        shutdown.immediate.cancel();
    });
    let (found, ()) = tokio::join!(watch, runner.work_until(&shutdown));
    found
}
