//! A cache of results, as readers see them: reduced, or read, once for every change of a job,
//! however many readers ask.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::Value;

use super::{
    error::JobError,
    store::{Job, JobState},
};
use crate::pool::WorkPanicked;

/// How many jobs' results are kept: those read last.
const KEPT: usize = 16;

#[derive(Default)]
pub(super) struct Results {
    jobs: Mutex<VecDeque<(String, Slot)>>,
}

/// Locked while a result is made: others who want it wait.
type Slot = Arc<tokio::sync::Mutex<Option<(Stage, Arc<Value>)>>>;

/// How far a job has come; later stages are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Stage {
    succeeded: bool,
    shards_done: u64,
}

impl Results {
    /// The result of `job` at its present stage, or a later one. `make` runs to its end even when
    /// its caller is gone.
    pub(super) async fn get(
        &self,
        job: &Job,
        make: impl Future<Output = Result<Value, JobError>> + Send + 'static,
    ) -> Result<Arc<Value>, JobError> {
        let slot = self.slot(&job.id);
        let stage = Stage {
            succeeded: job.state == JobState::Succeeded,
            shards_done: job.shards_done,
        };
        let found = tokio::spawn(async move {
            let mut kept = slot.lock().await;
            match &*kept {
                Some((of, value)) if *of >= stage => Ok(value.clone()),
                _ => {
                    let value = Arc::new(make.await?);
                    *kept = Some((stage, value.clone()));
                    Ok(value)
                }
            }
        });
        found.await.map_err(|_| WorkPanicked)?
    }

    fn slot(&self, id: &str) -> Slot {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let known = jobs
            .iter()
            .position(|(job, _)| job == id)
            .and_then(|at| jobs.remove(at));
        let (job, slot) = known.unwrap_or_else(|| (id.to_owned(), Slot::default()));
        jobs.push_back((job, slot.clone()));
        if jobs.len() > KEPT {
            jobs.pop_front();
        }
        slot
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures::future::join_all;

    use super::*;

    fn job(id: &str, state: JobState, shards_done: u64) -> Job {
        Job {
            id: id.into(),
            kind: "sum".into(),
            model: None,
            spec: Value::Null,
            state,
            shards: 9,
            shards_done,
            units: 9,
            units_done: 0,
            error: None,
            created_at: 0,
            started_at: None,
            finished_at: None,
        }
    }

    #[tokio::test]
    async fn a_result_is_made_once_for_every_change() {
        let (results, made) = (Results::default(), Arc::new(AtomicU64::new(0)));
        let seen = |id: &str, state, shards_done| {
            let (job, made) = (job(id, state, shards_done), made.clone());
            let results = &results;
            async move {
                let make = async move { Ok(Value::from(made.fetch_add(1, Ordering::SeqCst) + 1)) };
                results.get(&job, make).await.unwrap().as_u64().unwrap()
            }
        };
        assert_eq!(
            join_all((0..50).map(|_| seen("a", JobState::Running, 3))).await,
            [1; 50]
        );
        assert_eq!(seen("a", JobState::Running, 4).await, 2);
        assert_eq!(
            seen("a", JobState::Running, 3).await,
            2,
            "a reader who is late gets what is newer"
        );
        assert_eq!(seen("a", JobState::Succeeded, 4).await, 3);
        assert_eq!(seen("a", JobState::Succeeded, 4).await, 3);
        for other in 0..KEPT {
            seen(&other.to_string(), JobState::Running, 1).await;
        }
        assert_eq!(
            seen("a", JobState::Succeeded, 4).await,
            4 + KEPT as u64,
            "it was dropped for others"
        );
        assert_eq!(results.jobs.lock().unwrap().len(), KEPT);
    }

    #[tokio::test]
    async fn a_failure_is_not_kept_and_who_goes_away_leaves_its_work_to_others() {
        let results = Results::default();
        let failed = results
            .get(&job("a", JobState::Running, 1), async {
                Err(WorkPanicked.into())
            })
            .await;
        assert!(failed.is_err());
        let first = job("a", JobState::Running, 1);
        let (tell, told) = tokio::sync::oneshot::channel();
        let make = async move {
            tokio::time::sleep(std::time::Duration::from_millis(30)).await;
            tell.send(()).unwrap();
            Ok(Value::from(7))
        };
        let gone = tokio::time::timeout(
            std::time::Duration::from_millis(5),
            results.get(&first, make),
        );
        assert!(gone.await.is_err());
        let other = results
            .get(&job("a", JobState::Running, 1), async {
                Err(WorkPanicked.into())
            })
            .await;
        assert_eq!((*other.unwrap()).clone(), Value::from(7));
        told.await.unwrap();
    }
}
