//! Prepares changes of data sets in a staging folder of this process, so that a set appears by one
//! rename. A lock file serialises the changes of all processes that share the data folder. Each
//! process holds a lock in its staging folder; a folder whose lock is free belongs to a dead
//! process.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tempfile::{NamedTempFile, TempDir};

use crate::quota::{Quota, size_of};

/// Locked while a set is changed.
const LOCK: &str = ".lock";
/// How long to wait for the lock, and the interval between attempts.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(2);
/// Prefix of the processes' staging folders.
const STAGING: &str = ".staging-";
const UNFINISHED: [&str; 3] = [STAGING, ".upload-", ".unpack-"];
/// A file in a staging folder that its process keeps locked.
const ALIVE: &str = "alive";

#[derive(Debug)]
pub(super) struct Staging {
    /// The folder of the sets.
    sets: PathBuf,
    quota: Quota,
    own: Mutex<Option<Own>>,
}

#[derive(Debug)]
struct Own {
    folder: PathBuf,
    _alive: File,
}

/// The lock for changing sets: while it is held, no other process or thread changes one.
pub(super) struct Change<'a> {
    staging: &'a Staging,
    folder: PathBuf,
    lock: Option<File>,
    /// Paths moved out of the way, to be removed once the lock is released.
    taken: Vec<PathBuf>,
}

impl Staging {
    /// Folders are created on first use.
    pub(super) fn new(sets: PathBuf, quota: Quota) -> Self {
        Self {
            sets,
            quota,
            own: Mutex::default(),
        }
    }

    /// Acquires the lock for changes. Fails after [`PATIENCE`], since another process may be
    /// frozen.
    pub(super) fn change(&self) -> io::Result<Change<'_>> {
        let folder = self.folder()?;
        Ok(Change {
            staging: self,
            folder,
            lock: Some(self.lock()?),
            taken: Vec::new(),
        })
    }

    fn lock(&self) -> io::Result<File> {
        fs::create_dir_all(&self.sets)?;
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.sets.join(LOCK))?;
        let started = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(error)) => return Err(error),
                Err(TryLockError::WouldBlock) if started.elapsed() > PATIENCE => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
            }
        }
    }

    /// The staging folder of this process.
    fn folder(&self) -> io::Result<PathBuf> {
        let mut own = self.own.lock();
        if let Some(Own { folder, .. }) = own.as_ref().filter(|own| own.folder.is_dir()) {
            return Ok(folder.clone());
        }
        // Under the lock for changes, so that no other process sees the folder before it is locked.
        let _lock = self.lock()?;
        let folder = self.sets.join(format!("{STAGING}{}", uuid::Uuid::new_v4()));
        fs::create_dir(&folder)?;
        let alive = File::create_new(folder.join(ALIVE))?;
        alive.lock()?;
        *own = Some(Own {
            folder: folder.clone(),
            _alive: alive,
        });
        Ok(folder)
    }

    /// A temporary file.
    pub(super) fn file(&self) -> io::Result<NamedTempFile> {
        NamedTempFile::new_in(self.folder()?)
    }

    /// A temporary folder.
    pub(super) fn temporary_folder(&self) -> io::Result<TempDir> {
        TempDir::new_in(self.folder()?)
    }

    /// Writes a file atomically.
    pub(super) fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        write(&self.folder()?, path, bytes)
    }
}

fn write(staging: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = NamedTempFile::new_in(staging)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

impl Change<'_> {
    /// Writes a file atomically.
    pub(super) fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        write(&self.folder, path, bytes)
    }

    /// Moves a file or a folder out of the way, atomically.
    pub(super) fn take_away(&mut self, path: &Path) -> io::Result<()> {
        let place = self.folder.join(uuid::Uuid::new_v4().to_string());
        fs::rename(path, &place)?;
        self.taken.push(place);
        Ok(())
    }

    /// Takes away the leftovers of processes that have ended.
    pub(super) fn take_leftovers(&mut self) -> io::Result<()> {
        for entry in fs::read_dir(&self.staging.sets)? {
            let (name, path) = entry.map(|entry| (entry.file_name(), entry.path()))?;
            let is_unfinished = UNFINISHED
                .iter()
                .any(|prefix| name.to_string_lossy().starts_with(prefix));
            if is_unfinished && !is_alive(&path) {
                tracing::info!(
                    "removing {}: the process that was writing it is gone",
                    path.display()
                );
                self.take_away(&path)?;
            }
        }
        Ok(())
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        self.lock = None;
        for path in &self.taken {
            self.staging.quota.release(size_of(path));
            let removed = if path.is_dir() {
                fs::remove_dir_all(path)
            } else {
                fs::remove_file(path)
            };
            // It is removed with this process's folder at the latest.
            if let Err(error) = removed {
                tracing::warn!("{} was not removed: {error}", path.display());
            }
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Some(own) = self.own.get_mut().take() {
            let _ = fs::remove_dir_all(own.folder);
        }
    }
}

/// Whether a process holds the lock of this staging folder; true if that cannot be determined.
fn is_alive(folder: &Path) -> bool {
    match File::options().write(true).open(folder.join(ALIVE)) {
        Ok(file) => file.try_lock().is_err(),
        Err(error) => !matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
        ),
    }
}
