//! Trainers between two epochs of a job: what one derived and read serves the next in the same
//! process. One that is not asked for again for a minute is dropped.

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
    by_job: HashMap<String, (u64, Opened)>,
}

static KEPT: LazyLock<Mutex<Kept>> = LazyLock::new(Mutex::default);

pub(super) fn take(job: &str) -> Option<Opened> {
    let found = KEPT.lock().by_job.remove(job);
    found.map(|(_, opened)| opened)
}

pub(super) fn keep(job: &str, opened: Opened) {
    let job = job.to_owned();
    let number = {
        let mut kept = KEPT.lock();
        kept.count += 1;
        let number = kept.count;
        kept.by_job.insert(job.clone(), (number, opened));
        number
    };
    tokio::spawn(async move {
        tokio::time::sleep(IDLE).await;
        let mut kept = KEPT.lock();
        if kept.by_job.get(&job).is_some_and(|(of, _)| *of == number) {
            kept.by_job.remove(&job);
        }
    });
}
