//! The data sets of all replicas. Where the settings name a store of files, an upload is `datasets/<id>/<version>` there, as it came, and
//! `datasets/<id>/current` beside it names the version and its hash; each replica unpacks its own copy at first need, and looks
//! at every further one whether it still counts. Without one, replicas share the data folder, or nothing.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use object_store::path::Path;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::{Catalogue, Dataset, DatasetError, at, is_id};
use crate::{
    files::{Files, hash},
    pool::Pool,
};

const FOLDER: &str = "datasets";
const CURRENT: &str = "current";

/// Every data set, wherever it lies.
#[derive(Debug)]
pub struct Datasets {
    here: Arc<Catalogue>,
    pool: Pool,
    store: Option<Files>,
    looks: Mutex<HashMap<String, Look>>,
}

/// When a shared set was last compared with its copy. Held while either is changed: what is needed twice at once is fetched once.
type Look = Arc<tokio::sync::Mutex<Option<Instant>>>;

/// The upload that counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Upload {
    version: String,
    /// Of the archive, hex.
    sha256: String,
}

impl Datasets {
    /// `store` is where replicas share uploads, where that is not the data folder.
    pub fn new(here: Catalogue, pool: Pool, store: Option<Files>) -> Self {
        Self { here: Arc::new(here), pool, store, looks: Mutex::default() }
    }

    /// What lies on this machine.
    pub fn here(&self) -> &Arc<Catalogue> {
        &self.here
    }

    /// An empty file for the bytes of an upload; it goes when it is dropped.
    pub async fn receive(&self) -> Result<NamedTempFile, DatasetError> {
        self.look_here(Catalogue::receive).await
    }

    /// Every id, in order. A set that is listed may still fail to open.
    pub async fn ids(&self) -> Result<Vec<String>, DatasetError> {
        let mut ids = self.look_here(|here| Ok(here.ids())).await?;
        if let Some(store) = &self.store {
            let files = store.list(&Path::from(FOLDER)).await?;
            let sets = files.iter().filter(|file| file.filename() == Some(CURRENT));
            ids.extend(sets.filter_map(|file| Some(file.parts().nth(1)?.as_ref().to_owned())));
            ids.sort();
            ids.dedup();
        }
        Ok(ids)
    }

    /// The set as it is now. Reads the files that are new or changed since it was last opened, by this server or an earlier one.
    pub async fn open(&self, id: &str) -> Result<Arc<Dataset>, DatasetError> {
        self.bring(id, Duration::ZERO).await?;
        let name = id.to_owned();
        match self.look_here(move |here| here.open(&name)).await {
            Err(DatasetError::Unknown { id, .. }) => Err(DatasetError::Unknown { id, known: self.ids().await? }),
            opened => opened,
        }
    }

    /// Makes `archive` the set `id`, in the place of what was there; gives the set, and whether it is new.
    pub async fn put(&self, id: &str, mut archive: NamedTempFile) -> Result<(Arc<Dataset>, bool), DatasetError> {
        self.here.check_changeable(id)?;
        let name = id.to_owned();
        let Some(store) = &self.store else {
            return self.look_here(move |here| here.put(&name, &mut archive)).await;
        };
        let unpack = move |here: &Catalogue| {
            let unpacked = here.unpack(&name, &mut archive)?;
            let sha256 = hash_of(&archive)?;
            Ok((unpacked, sha256, archive))
        };
        let (unpacked, sha256, archive) = self.look_here(unpack).await?;
        let look = self.look_of(id);
        let mut looked = look.lock().await;
        let mut outdated = store.list(&folder(id)).await?;
        let is_new = !outdated.contains(&current(id));
        outdated.retain(|file| *file != current(id));
        let upload = Upload { version: uuid::Uuid::new_v4().to_string(), sha256 };
        store.upload(&folder(id).join(upload.version.as_str()), archive.into_file()).await?;
        let text = serde_json::json!(upload).to_string();
        store.write(&current(id), text).await?;
        let name = id.to_owned();
        self.look_here(move |here| here.place_copy(&name, &upload.version, unpacked)).await?;
        *looked = Some(Instant::now());
        drop(looked);
        if let Err(error) = store.remove(outdated).await {
            tracing::warn!(%error, id, "the upload before was not removed from the store of files");
        }
        Ok((self.open(id).await?, is_new))
    }

    /// Takes an uploaded set away, everywhere. A job that uses it fails and says so.
    pub async fn remove(&self, id: &str) -> Result<(), DatasetError> {
        self.here.check_changeable(id)?;
        let name = id.to_owned();
        let removed = self.look_here(move |here| here.remove(&name)).await;
        let Some(store) = &self.store else { return removed };
        let look = self.look_of(id);
        let _look = look.lock().await;
        let shared = store.list(&folder(id)).await?.contains(&current(id));
        if shared {
            // First what makes it a set: nobody opens a part of it.
            store.remove(vec![current(id)]).await?;
            store.remove_all(&folder(id)).await?;
            self.drop_copy(id).await?;
        }
        match removed {
            Err(DatasetError::Unknown { .. }) if shared => Ok(()),
            Err(DatasetError::Unknown { id, .. }) => Err(DatasetError::Unknown { id, known: self.ids().await? }),
            removed => removed,
        }
    }

    /// Makes the copy that lies here the upload that counts, where a set of that id is shared. One that was looked after within `age`
    /// is left alone.
    pub async fn bring(&self, id: &str, age: Duration) -> Result<(), DatasetError> {
        let Some(store) = self.store.as_ref().filter(|_| self.here.check_changeable(id).is_ok()) else { return Ok(()) };
        let look = self.look_of(id);
        let mut looked = look.lock().await;
        if looked.is_some_and(|at| at.elapsed() < age) {
            return Ok(());
        }
        let mut wanted = self.uploaded(store, id).await?;
        while let Some(upload) = wanted {
            match self.fetch(store, id, &upload).await {
                // Unless it was replaced meanwhile.
                Err(lost @ DatasetError::Lost { .. }) => {
                    wanted = self.uploaded(store, id).await?;
                    if wanted.as_ref() == Some(&upload) {
                        return Err(lost);
                    }
                }
                fetched => {
                    fetched?;
                    *looked = Some(Instant::now());
                    return Ok(());
                }
            }
        }
        self.looks().remove(id);
        self.drop_copy(id).await
    }

    /// Removes the copies whose set was replaced or taken away elsewhere.
    pub async fn drop_outdated(&self) -> Result<(), DatasetError> {
        let Some(store) = &self.store else { return Ok(()) };
        for id in self.look_here(|here| Ok(here.copies())).await? {
            let look = self.look_of(&id);
            // Whoever holds it sees to the copy.
            let Ok(mut looked) = look.try_lock() else { continue };
            let upload = self.uploaded(store, &id).await?;
            if self.copy_of(&id).await? != upload.map(|upload| upload.version) {
                *looked = None;
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
        let mut archive = self.receive().await?;
        match store.download(&folder(id).join(upload.version.as_str()), archive.as_file()).await {
            Err(error) if error.is_missing() => return Err(lost()),
            downloaded => downloaded?,
        }
        let (name, Upload { version, sha256 }) = (id.to_owned(), upload.clone());
        let unpack = move |here: &Catalogue| {
            if hash_of(&archive)? != sha256 {
                return Ok(false);
            }
            let unpacked = here.unpack(&name, &mut archive)?;
            here.place_copy(&name, &version, unpacked)?;
            Ok(true)
        };
        if self.look_here(unpack).await? { Ok(()) } else { Err(lost()) }
    }

    async fn uploaded(&self, store: &Files, id: &str) -> Result<Option<Upload>, DatasetError> {
        if !is_id(id) {
            return Ok(None);
        }
        let Some(text) = store.read_if_there(&current(id)).await? else { return Ok(None) };
        serde_json::from_slice(&text).map(Some).map_err(|_| DatasetError::Lost { id: id.to_owned() })
    }

    async fn copy_of(&self, id: &str) -> Result<Option<String>, DatasetError> {
        let id = id.to_owned();
        self.look_here(move |here| Ok(here.copy_of(&id))).await
    }

    async fn drop_copy(&self, id: &str) -> Result<(), DatasetError> {
        let id = id.to_owned();
        self.look_here(move |here| if here.copy_of(&id).is_some() { here.drop_copy(&id) } else { Ok(()) }).await
    }

    async fn look_here<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Catalogue) -> Result<T, DatasetError> + Send + 'static,
    ) -> Result<T, DatasetError> {
        let here = self.here.clone();
        self.pool.run(move || work(&here)).await?
    }

    fn look_of(&self, id: &str) -> Look {
        self.looks().entry(id.to_owned()).or_default().clone()
    }

    fn looks(&self) -> MutexGuard<'_, HashMap<String, Look>> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn folder(id: &str) -> Path {
    Path::from_iter([FOLDER, id])
}

fn current(id: &str) -> Path {
    folder(id).join(CURRENT)
}

fn hash_of(archive: &NamedTempFile) -> Result<String, DatasetError> {
    hash(archive.as_file()).map_err(at(archive.path()))
}
