//! Trainers between two epochs of a job: what one derived and read serves the next in the same
//! process. A job has one at a time; it is dropped when another one of the job is asked for, or none
//! for a minute.

use std::{collections::HashMap, sync::LazyLock, time::Duration};

use parking_lot::Mutex;

use crate::training::{LeftOut, Trainer};

const IDLE: Duration = Duration::from_secs(60);

/// A trainer, and the images that it leaves out.
pub(super) type Opened = (Trainer, LeftOut);

#[derive(Default)]
struct Kept {
    /// How often one was kept so far: tells a trainer from another one of its job.
    count: u64,
    by_job: HashMap<String, One>,
}

struct One {
    number: u64,
    /// The folder of its checkpoints.
    folder: String,
    opened: Opened,
}

static KEPT: LazyLock<Mutex<Kept>> = LazyLock::new(Mutex::default);

pub(super) fn take(job: &str, folder: &str) -> Option<Opened> {
    let found = KEPT.lock().by_job.remove(job);
    found
        .filter(|one| one.folder == folder)
        .map(|one| one.opened)
}

pub(super) fn keep(job: &str, folder: &str, opened: Opened) {
    let job = job.to_owned();
    let number = {
        let mut kept = KEPT.lock();
        kept.count += 1;
        let one = One {
            number: kept.count,
            folder: folder.to_owned(),
            opened,
        };
        let number = one.number;
        kept.by_job.insert(job.clone(), one);
        number
    };
    tokio::spawn(async move {
        tokio::time::sleep(IDLE).await;
        let mut kept = KEPT.lock();
        if kept
            .by_job
            .get(&job)
            .is_some_and(|one| one.number == number)
        {
            kept.by_job.remove(&job);
        }
    });
}
