//! The quota of the data folder: every writer reserves bytes first and is refused, with the
//! numbers, when the quota would be exceeded. The folder is measured from time to time (file sizes
//! rounded up to 4 KiB), for at most a tenth of the time; in between, this process adds what it
//! writes. Writes of other processes are seen at the next measurement.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

const BLOCK: u64 = 4096;
/// How long a measurement is used, unless a reservation would be refused.
const FRESH: Duration = Duration::from_secs(30);
/// The shortest pause between two measurements; at least ten times as long as the last one took,
/// too.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_OVER_LENGTH: u32 = 10;

/// Clones share the counters.
#[derive(Clone, Debug)]
pub struct Quota {
    parts: Arc<Parts>,
}

#[derive(Debug)]
struct Parts {
    folder: PathBuf,
    limit: u64,
    count: Mutex<Count>,
}

#[derive(Debug, Default)]
struct Count {
    /// Bytes found by the last measurement less those reserved then, plus bytes kept since.
    settled: u64,
    /// Bytes reserved and not yet kept.
    reserved: u64,
    measured: Option<Measured>,
}

#[derive(Clone, Copy, Debug)]
struct Measured {
    at: Instant,
    length: Duration,
}

/// Bytes reserved for a write. Dropping it releases them: the bytes were not written, or were
/// removed.
#[derive(Debug)]
pub struct Reservation {
    quota: Quota,
    bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the server's data folder holds {used} of the {limit} bytes that it may hold, and {asked} more are needed: \
     delete data sets or jobs, or raise max_data_bytes"
)]
pub struct QuotaError {
    pub used: u64,
    pub asked: u64,
    pub limit: u64,
}

impl Quota {
    /// The quota of `folder` and all below it; the folder need not exist yet. Nothing is read until
    /// the first reservation.
    pub fn new(folder: &Path, limit: u64) -> Self {
        let parts = Parts {
            folder: folder.to_owned(),
            limit,
            count: Mutex::default(),
        };
        Self {
            parts: Arc::new(parts),
        }
    }

    /// Reserves `bytes`. May walk the whole folder: not for an async thread.
    pub fn reserve(&self, bytes: u64) -> Result<Reservation, QuotaError> {
        let mut reservation = Reservation {
            quota: self.clone(),
            bytes: 0,
        };
        reservation.grow(bytes)?;
        Ok(reservation)
    }

    /// The bytes used at present. May walk the folder, as [`Quota::reserve`] may.
    pub fn used(&self) -> u64 {
        let mut count = self.count();
        self.measure_if_older(&mut count, FRESH);
        count.used()
    }

    /// Call it when files of `bytes` bytes ([`size_of`]) are removed, so that they count as free at
    /// once and not only from the next measurement on.
    pub fn release(&self, bytes: u64) {
        let mut count = self.count();
        count.settled = count.settled.saturating_sub(bytes);
    }

    fn measure_if_older(&self, count: &mut Count, age: Duration) {
        let wait = |last: Measured| age.max(last.length * PAUSE_OVER_LENGTH);
        if count
            .measured
            .is_some_and(|last| last.at.elapsed() < wait(last))
        {
            return;
        }
        // Reserved bytes are on the disk by now, or will be soon: without them, the rest is what
        // stays there.
        let started = Instant::now();
        count.settled = size_of(&self.parts.folder).saturating_sub(count.reserved);
        count.measured = Some(Measured {
            at: Instant::now(),
            length: started.elapsed(),
        });
    }

    /// Held while the folder is measured: other callers that need the number wait for it.
    fn count(&self) -> MutexGuard<'_, Count> {
        self.parts
            .count
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Count {
    fn used(&self) -> u64 {
        self.settled.saturating_add(self.reserved)
    }
}

impl Reservation {
    /// Reserves `bytes` more. When refused, the reservation stays as it was.
    pub fn grow(&mut self, bytes: u64) -> Result<(), QuotaError> {
        let limit = self.quota.parts.limit;
        let mut count = self.quota.count();
        for age in [FRESH, PAUSE] {
            self.quota.measure_if_older(&mut count, age);
            if count.used().saturating_add(bytes) <= limit {
                count.reserved += bytes;
                self.bytes += bytes;
                return Ok(());
            }
        }
        Err(QuotaError {
            used: count.used(),
            asked: bytes,
            limit,
        })
    }

    /// The bytes were written and stay.
    pub fn keep(mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut count = self.quota.count();
        count.reserved -= bytes;
        count.settled = count.settled.saturating_add(bytes);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.quota.count().reserved -= self.bytes;
    }
}

/// Bytes on disk of a file of this length: rounded up to whole blocks.
pub fn on_disk(length: u64) -> u64 {
    length.div_ceil(BLOCK).saturating_mul(BLOCK)
}

/// Bytes on disk of a folder and all below it. Links are not followed; what cannot be read counts
/// as nothing.
pub fn size_of(folder: &Path) -> u64 {
    let (mut folders, mut bytes) = (vec![folder.to_owned()], 0_u64);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)
            .into_iter()
            .flatten()
            .filter_map(Result::ok)
        {
            match entry.metadata() {
                Ok(found) if found.is_dir() => folders.push(entry.path()),
                Ok(found) => bytes = bytes.saturating_add(on_disk(found.len())),
                Err(_) => {}
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, name: &str, bytes: u64) {
        fs::create_dir_all(folder.join("a/b")).unwrap();
        fs::write(folder.join("a/b").join(name), vec![0; bytes as usize]).unwrap();
    }

    #[test]
    fn what_lies_in_the_folder_and_what_is_reserved_count_together() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "there", 5 * BLOCK - 1);
        let quota = Quota::new(folder.path(), 10 * BLOCK);
        let mut one = quota.reserve(2 * BLOCK).unwrap();
        assert_eq!(quota.used(), 7 * BLOCK);
        one.grow(3 * BLOCK).unwrap();
        let refused = QuotaError {
            used: 10 * BLOCK,
            asked: 1,
            limit: 10 * BLOCK,
        };
        assert_eq!(quota.reserve(1).unwrap_err(), refused);
        assert_eq!(one.grow(1).unwrap_err(), refused);
        drop(one);
        assert_eq!(quota.used(), 5 * BLOCK);
        quota.reserve(4 * BLOCK).unwrap().keep();
        assert_eq!(quota.reserve(2 * BLOCK).unwrap_err().used, 9 * BLOCK);
    }

    #[test]
    fn bytes_are_counted_once_whether_they_are_being_written_were_written_or_are_gone() {
        let folder = tempfile::tempdir().unwrap();
        let quota = Quota::new(folder.path(), 10 * BLOCK);
        let reservation = quota.reserve(4 * BLOCK).unwrap();
        write(folder.path(), "new", 4 * BLOCK);
        quota.count().measured = None;
        assert_eq!(
            quota.used(),
            4 * BLOCK,
            "measured with the file half written"
        );
        reservation.keep();
        assert_eq!(quota.used(), 4 * BLOCK);
        quota.count().measured = None;
        assert_eq!(quota.used(), 4 * BLOCK, "measured again");
        assert!(quota.reserve(7 * BLOCK).is_err());
        quota.release(size_of(folder.path()));
        fs::remove_file(folder.path().join("a/b/new")).unwrap();
        quota.reserve(10 * BLOCK).unwrap();
        quota.count().measured = None;
        assert_eq!(quota.used(), 0, "measured without it");
    }

    #[test]
    fn what_another_process_removed_is_found_before_anything_is_refused_for_long() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "theirs", 8 * BLOCK);
        let quota = Quota::new(folder.path(), 10 * BLOCK);
        assert!(quota.reserve(3 * BLOCK).is_err());
        fs::remove_file(folder.path().join("a/b/theirs")).unwrap();
        let started = Instant::now();
        while quota.reserve(3 * BLOCK).is_err() {
            assert!(started.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    #[test]
    fn many_at_once_never_get_more_than_there_is() {
        let folder = tempfile::tempdir().unwrap();
        let quota = Quota::new(folder.path(), 100);
        let given = std::thread::scope(|scope| {
            let tries: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| (0..40).map(|_| quota.reserve(1)).collect::<Vec<_>>()))
                .collect();
            tries
                .into_iter()
                .flat_map(|tried| tried.join().unwrap())
                .filter_map(Result::ok)
                .collect::<Vec<_>>()
        });
        assert_eq!(given.len(), 100);
        drop(given);
        assert_eq!(quota.used(), 0);
    }
}
