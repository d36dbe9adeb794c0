//! One job run to its end in this process: what `explaind bench` does. The queue is that of the app's settings.

use std::time::Duration;

use serde_json::{Map, Value};

use super::{
    queue::{JobError, Queue},
    runner::{End, Runner},
    store::Job,
};

/// How often progress is told.
const TELL: Duration = Duration::from_millis(200);

/// Submits and works until the job has ended, telling where it is. With a `key` a job that was broken off goes on where it was.
pub async fn run(
    queue: &Queue,
    asked: Map<String, Value>,
    key: Option<String>,
    mut on_progress: impl FnMut(&Job),
) -> Result<Job, JobError> {
    let (job, _) = queue.submit(asked, key).await?;
    let end = End::default();
    let runner = Runner::new(queue.clone());
    let watch = async {
        let found = loop {
            match queue.job(&job.id).await {
                Ok(job) if !job.state.is_final() => on_progress(&job),
                found => break found,
            }
            tokio::time::sleep(TELL).await;
        };
        end.soon.cancel();
        end.now.cancel();
        found
    };
    let (found, ()) = tokio::join!(watch, runner.run(&end));
    found
}
