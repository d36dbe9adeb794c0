//! Data sets shared by all replicas. With an object store, an upload is stored there unchanged as
//! `datasets/<id>/<version>`, and `datasets/<id>/current` names the version and its hash. Each
//! replica unpacks a copy at first use, and checks at later uses that it is current. Without an
//! object store, uploads are in the data folder.

use std::{
    collections::HashMap,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    io::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use object_store::path::Path;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tempfile::{NamedTempFile, TempDir};

use super::{Catalogue, Dataset, DatasetError, at, is_id};
use crate::{
    files::{Files, hash},
    pool::{Pool, WorkPanicked},
    quota::{Reservation, on_disk},
};

const FOLDER: &str = "datasets";
const CURRENT: &str = "current";
/// The age from which an unreferenced object in the store is known to be left by an interrupted
/// upload.
const BROKEN_OFF: Duration = Duration::from_secs(24 * 3600);
/// Threads for scans, which read or unpack whole data sets, and for brief disk accesses. Neither
/// takes threads from the pool that serves requests.
const MAX_SCANS: usize = 4;
const MAX_BRIEF: usize = 32;
/// Bytes of an upload that are written at a time.
const PIECE: usize = 1 << 20;

/// All data sets, wherever they are stored.
#[derive(Debug)]
pub struct Datasets {
    local: Arc<Catalogue>,
    scans: Pool,
    brief: Pool,
    /// Locks, selected by the hash of an id and held while a set is scanned: concurrent callers
    /// scan it once.
    turns: [tokio::sync::Mutex<()>; 64],
    store: Option<Files>,
    checks: Mutex<HashMap<String, LastCheck>>,
}

/// When the local copy of a shared set was last compared with the store. The lock is held while the
/// copy or the shared set is changed, so that concurrent callers download once.
type LastCheck = Arc<tokio::sync::Mutex<Option<Instant>>>;

/// The content of `datasets/<id>/current`: the upload in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Upload {
    version: String,
    /// SHA-256 of the archive, in hex.
    sha256: String,
}

/// The part of an upload that has arrived; removed on drop.
#[derive(Debug)]
pub struct Arrival {
    file: NamedTempFile,
    reserved: Reservation,
    waiting: Vec<u8>,
    pool: Pool,
}

impl Arrival {
    /// Appends bytes.
    pub async fn write(mut self, piece: &[u8]) -> Result<Self, DatasetError> {
        self.waiting.extend_from_slice(piece);
        if self.waiting.len() < PIECE {
            Ok(self)
        } else {
            self.flush().await
        }
    }

    /// The whole file, and the room that is reserved for it.
    pub async fn finish(self) -> Result<(NamedTempFile, Reservation), DatasetError> {
        let Self { file, reserved, .. } = self.flush().await?;
        Ok((file, reserved))
    }

    async fn flush(mut self) -> Result<Self, DatasetError> {
        let pool = self.pool.clone();
        let write = move || {
            self.reserved.grow(on_disk(self.waiting.len() as u64))?;
            self.file
                .write_all(&self.waiting)
                .map_err(at(self.file.path()))?;
            self.waiting.clear();
            Ok(self)
        };
        pool.run(write).await?
    }
}

impl Datasets {
    /// `store` is the object store in which replicas share uploads, if there is one.
    pub fn new(local: Catalogue, store: Option<Files>) -> Self {
        Self {
            local: Arc::new(local),
            scans: Pool::new(MAX_SCANS),
            brief: Pool::new(MAX_BRIEF),
            turns: [const { tokio::sync::Mutex::const_new(()) }; 64],
            store,
            checks: Mutex::default(),
        }
    }

    /// The data sets on this machine.
    pub fn local(&self) -> &Arc<Catalogue> {
        &self.local
    }

    /// Starts an upload.
    pub async fn receive(&self, id: &str) -> Result<Arrival, DatasetError> {
        let name = id.to_owned();
        let received = self.run_brief(move |local| local.receive(&name)).await?;
        Ok(self.arrival(received))
    }

    /// An empty folder beside uploads that arrive; removed on drop.
    pub async fn temporary_folder(&self) -> Result<TempDir, DatasetError> {
        self.run_brief(Catalogue::temporary_folder).await
    }

    /// Starts an upload of an archive or a file that is no data set.
    pub async fn receive_archive(&self) -> Result<Arrival, DatasetError> {
        let received = self.run_brief(Catalogue::receive_copy).await?;
        Ok(self.arrival(received))
    }

    fn arrival(&self, (file, reserved): (NamedTempFile, Reservation)) -> Arrival {
        Arrival {
            file,
            reserved,
            waiting: Vec::new(),
            pool: self.brief.clone(),
        }
    }

    /// The files of an upload whose names are wanted, in a temporary folder, and room for them.
    pub async fn unpack_archive(
        &self,
        arrival: Arrival,
        is_wanted: fn(&str) -> bool,
    ) -> Result<(TempDir, Reservation), DatasetError> {
        let Arrival {
            file: mut archive,
            reserved: _reserved,
            ..
        } = arrival.flush().await?;
        self.run_scan(move |local| local.unpack_files(&mut archive, is_wanted))
            .await
    }

    /// Every id, sorted. A listed set may still fail to open.
    pub async fn ids(&self) -> Result<Vec<String>, DatasetError> {
        let mut ids = self.run_brief(|local| Ok(local.ids())).await?;
        if let Some(store) = &self.store {
            ids.extend(shared_ids(store).await?);
            ids.sort();
            ids.dedup();
        }
        Ok(ids)
    }

    /// The set as it is at present. Reads files that are new or changed since it was last opened,
    /// by this server or an earlier one.
    pub async fn open(&self, id: &str) -> Result<Arc<Dataset>, DatasetError> {
        self.ensure_local(id, Duration::ZERO).await?;
        let name = id.to_owned();
        let opened = match self.run_brief(move |local| local.remembered(&name)).await {
            Ok(Some(dataset)) => Ok(dataset),
            Ok(None) => {
                let turn = BuildHasherDefault::<DefaultHasher>::default().hash_one(id) as usize
                    % self.turns.len();
                let _turn = self.turns[turn].lock().await;
                let name = id.to_owned();
                self.run_scan(move |local| local.open(&name)).await
            }
            Err(error) => Err(error),
        };
        match opened {
            Err(DatasetError::Unknown { id, .. }) => Err(DatasetError::Unknown {
                id,
                known: self.ids().await?,
            }),
            opened => opened,
        }
    }

    /// Replaces the set `id` by the upload; returns the set, and whether it is new.
    pub async fn put(
        &self,
        id: &str,
        arrival: Arrival,
    ) -> Result<(Arc<Dataset>, bool), DatasetError> {
        self.local.check_changeable(id)?;
        let Arrival {
            file: mut archive,
            reserved: _reserved,
            ..
        } = arrival.flush().await?;
        let name = id.to_owned();
        let Some(store) = &self.store else {
            return self
                .run_scan(move |local| local.put(&name, &mut archive))
                .await;
        };
        let unpack = move |local: &Catalogue| {
            let unpacked = local.unpack(&name, &mut archive)?;
            let sha256 = hash_of(&archive)?;
            Ok((unpacked, sha256, archive))
        };
        let (unpacked, sha256, archive) = self.run_scan(unpack).await?;
        let check = self.check_of(id);
        let mut checked = check.lock().await;
        let before = match self.uploaded(store, id).await {
            Err(DatasetError::Lost { .. }) => None,
            found => found?,
        };
        let known = shared_ids(store).await?;
        let (is_new, limit) = (
            !known.iter().any(|known| known == id),
            self.local.archive_limits().max_sets,
        );
        if is_new && known.len() >= limit {
            return Err(DatasetError::TooMany { limit });
        }
        if let Some(same) = before.as_ref().filter(|before| before.sha256 == sha256)
            && store.list(&folder(id)).await?.contains(&file_of(id, same))
        {
            drop(checked);
            return Ok((self.open(id).await?, false));
        }
        let upload = Upload {
            version: uuid::Uuid::new_v4().to_string(),
            sha256,
        };
        store
            .upload(&file_of(id, &upload), archive.into_file())
            .await?;
        let text = serde_json::json!(upload).to_string();
        store.write(&current(id), text).await?;
        let (name, version) = (id.to_owned(), upload.version.clone());
        let dataset = self
            .run_scan(move |local| local.place_copy(&name, &version, unpacked))
            .await?;
        *checked = Some(Instant::now());
        drop(checked);
        if let Err(error) = self.remove_outdated(store, id, before, Some(&upload)).await {
            tracing::warn!(%error, id, "the upload before was not removed from the store of files");
        }
        Ok((dataset, is_new))
    }

    /// Removes an uploaded set everywhere. A job that uses it fails with an error that says so.
    pub async fn remove(&self, id: &str) -> Result<(), DatasetError> {
        self.local.check_changeable(id)?;
        let name = id.to_owned();
        let removed = self.run_scan(move |local| local.remove(&name)).await;
        let Some(store) = &self.store else {
            return removed;
        };
        let check = self.check_of(id);
        let _check = check.lock().await;
        let shared = store.list(&folder(id)).await?.contains(&current(id));
        if shared {
            let before = match self.uploaded(store, id).await {
                Err(DatasetError::Lost { .. }) => None,
                found => found?,
            };
            // `current` is removed first, so that no replica opens a part of the set.
            store.remove(vec![current(id)]).await?;
            self.remove_outdated(store, id, before, None).await?;
            self.drop_copy(id).await?;
        }
        self.checks.lock().remove(id);
        match removed {
            Err(DatasetError::Unknown { .. }) if shared => Ok(()),
            Err(DatasetError::Unknown { id, .. }) => Err(DatasetError::Unknown {
                id,
                known: self.ids().await?,
            }),
            removed => removed,
        }
    }

    /// Removes the version in use before (its name is not reused) and what interrupted uploads
    /// left. A version that another replica is about to put into use is kept.
    async fn remove_outdated(
        &self,
        store: &Files,
        id: &str,
        before: Option<Upload>,
        now: Option<&Upload>,
    ) -> Result<(), DatasetError> {
        let mut outdated = store.list_older(&folder(id), BROKEN_OFF).await?;
        let named = self.uploaded(store, id).await?;
        let kept: Vec<Path> = named
            .iter()
            .chain(now)
            .map(|upload| file_of(id, upload))
            .chain([current(id)])
            .collect();
        outdated.extend(before.map(|before| file_of(id, &before)));
        outdated.retain(|file| !kept.contains(file));
        Ok(store.remove(outdated).await?)
    }

    /// Runs work whose time grows with the set, on a pool separate from that of requests.
    pub async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, WorkPanicked> {
        self.scans.run(work).await
    }

    /// Removes local files of interrupted uploads.
    pub async fn sweep(&self) -> Result<(), DatasetError> {
        self.run_scan(Catalogue::sweep).await
    }

    /// Brings the local copy of a shared set up to date. A copy that was compared with the store
    /// within `age` is not compared again. Does nothing for sets that are not shared.
    pub async fn ensure_local(&self, id: &str, age: Duration) -> Result<(), DatasetError> {
        let Some(store) = self
            .store
            .as_ref()
            .filter(|_| self.local.check_changeable(id).is_ok())
        else {
            return Ok(());
        };
        let check = self.check_of(id);
        let mut checked = check.lock().await;
        if checked.is_some_and(|at| at.elapsed() < age) {
            return Ok(());
        }
        let mut wanted = self.uploaded(store, id).await?;
        while let Some(upload) = wanted {
            match self.fetch(store, id, &upload).await {
                // The set may have been replaced meanwhile: try its new version.
                Err(lost @ DatasetError::Lost { .. }) => {
                    wanted = self.uploaded(store, id).await?;
                    if wanted.as_ref() == Some(&upload) {
                        return Err(lost);
                    }
                }
                fetched => {
                    fetched?;
                    *checked = Some(Instant::now());
                    return Ok(());
                }
            }
        }
        self.checks.lock().remove(id);
        self.drop_copy(id).await
    }

    /// Removes copies of sets that were replaced or removed elsewhere.
    pub async fn drop_outdated(&self) -> Result<(), DatasetError> {
        let Some(store) = &self.store else {
            return Ok(());
        };
        for id in self.run_brief(|local| Ok(local.copies())).await? {
            let check = self.check_of(&id);
            // A caller that holds the lock updates the copy itself.
            let Ok(mut checked) = check.try_lock() else {
                continue;
            };
            let upload = self.uploaded(store, &id).await?;
            if self.copy_of(&id).await? != upload.map(|upload| upload.version) {
                *checked = None;
                self.drop_copy(&id).await?;
            }
        }
        Ok(())
    }

    async fn fetch(&self, store: &Files, id: &str, upload: &Upload) -> Result<(), DatasetError> {
        if self.copy_of(id).await?.as_ref() == Some(&upload.version) {
            return Ok(());
        }
        let lost = || DatasetError::Lost { id: id.to_owned() };
        let (mut archive, mut reserved) = self.run_brief(Catalogue::receive_copy).await?;
        match store
            .download(&file_of(id, upload), archive.as_file())
            .await
        {
            Err(error) if error.is_missing() => return Err(lost()),
            downloaded => downloaded?,
        }
        let (name, Upload { version, sha256 }) = (id.to_owned(), upload.clone());
        let unpack = move |local: &Catalogue| {
            reserved.grow(on_disk(
                archive
                    .as_file()
                    .metadata()
                    .map_err(at(archive.path()))?
                    .len(),
            ))?;
            if hash_of(&archive)? != sha256 {
                return Ok(false);
            }
            let unpacked = local.unpack(&name, &mut archive)?;
            local.place_copy(&name, &version, unpacked)?;
            Ok(true)
        };
        if self.run_scan(unpack).await? {
            Ok(())
        } else {
            Err(lost())
        }
    }

    async fn uploaded(&self, store: &Files, id: &str) -> Result<Option<Upload>, DatasetError> {
        if !is_id(id) {
            return Ok(None);
        }
        let Some(text) = store.read_if_there(&current(id)).await? else {
            return Ok(None);
        };
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|_| DatasetError::Lost { id: id.to_owned() })
    }

    async fn copy_of(&self, id: &str) -> Result<Option<String>, DatasetError> {
        let id = id.to_owned();
        self.run_brief(move |local| local.copy_of(&id)).await
    }

    async fn drop_copy(&self, id: &str) -> Result<(), DatasetError> {
        let id = id.to_owned();
        self.run_scan(move |local| local.drop_copy(&id)).await
    }

    /// Runs work whose time grows with the set.
    async fn run_scan<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Catalogue) -> Result<T, DatasetError> + Send + 'static,
    ) -> Result<T, DatasetError> {
        let local = self.local.clone();
        self.scans.run(move || work(&local)).await?
    }

    async fn run_brief<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Catalogue) -> Result<T, DatasetError> + Send + 'static,
    ) -> Result<T, DatasetError> {
        let local = self.local.clone();
        self.brief.run(move || work(&local)).await?
    }

    fn check_of(&self, id: &str) -> LastCheck {
        self.checks.lock().entry(id.to_owned()).or_default().clone()
    }
}

fn folder(id: &str) -> Path {
    Path::from_iter([FOLDER, id])
}

fn current(id: &str) -> Path {
    folder(id).join(CURRENT)
}

fn file_of(id: &str, upload: &Upload) -> Path {
    folder(id).join(upload.version.as_str())
}

async fn shared_ids(store: &Files) -> Result<Vec<String>, DatasetError> {
    let files = store.list(&Path::from(FOLDER)).await?;
    let sets = files.iter().filter(|file| file.filename() == Some(CURRENT));
    Ok(sets
        .filter_map(|file| Some(file.parts().nth(1)?.as_ref().to_owned()))
        .collect())
}

fn hash_of(archive: &NamedTempFile) -> Result<String, DatasetError> {
    hash(archive.as_file()).map_err(at(archive.path()))
}
