//! Models that were uploaded, with their earlier versions, shared by all replicas. The store of files
//! has a version as `uploaded/<id>/<version>/<id>/`, an ordinary model folder. `upload.json` is
//! written first, and only where there is none: it takes the number. `model.onnx` is last, and makes
//! the version whole. The highest whole version is in use, or the one that `uploaded/<id>/pin` names.

use std::{
    collections::{BTreeMap, HashSet},
    fmt, fs,
    path::Path,
    sync::{Arc, PoisonError},
};

use object_store::path::Path as FilePath;
use serde::{Deserialize, Serialize};
use tokio::sync::MutexGuard;
use utoipa::ToSchema;

use super::{
    Model,
    registry::{ModelFiles, Models, Origin, Registry},
    shelf::{self, Archive, Known, Shelf, ShelfError, Stored, TryOut},
};
use crate::files::{Files, FilesError};

const FOLDER: &str = "uploaded";
/// Describes a version, in its folder.
pub const RECORD: &str = "upload.json";
const PIN: &str = "pin";

pub struct UploadedModels {
    shelf: Shelf,
    try_out: TryOut,
    /// Ids that are being uploaded to this process.
    busy: Arc<std::sync::Mutex<HashSet<String>>>,
}

/// A version of an uploaded model.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Version {
    /// Counted from 1.
    pub version: u32,
    /// When it was uploaded, RFC 3339.
    #[schema(example = "2026-11-30T12:00:00Z")]
    pub created: String,
    /// SHA-256 of the model, as GET /models/{id} states it.
    pub hash: String,
    /// Of all files.
    pub bytes: u64,
    /// The names of its files.
    pub files: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum UploadedError {
    #[error("there is a model {id} already that was not uploaded: take another id")]
    Taken { id: String },
    #[error("another upload of the model {id} is under way: wait for its end")]
    Busy { id: String },
    #[error("there are {limit} uploaded models, and no more may be (max_models): delete one first")]
    TooMany { limit: usize },
    #[error(
        "the model {id} has no version {version}; it has {}",
        known.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
    )]
    UnknownVersion {
        id: String,
        version: u32,
        known: Vec<u32>,
    },
    #[error("the model cannot be served, and nothing was changed: {}", faults.join("; "))]
    Broken { faults: Vec<String> },
    #[error("the files of a model cannot be read: {}", .0.kind())]
    Disk(std::io::Error),
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error(transparent)]
    Shelf(#[from] ShelfError),
}

/// An id that is being uploaded; others are refused until it is dropped.
#[derive(Debug)]
pub struct Turn {
    pub id: String,
    busy: Arc<std::sync::Mutex<HashSet<String>>>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        busy.remove(&self.id);
    }
}

impl fmt::Debug for UploadedModels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UploadedModels").finish_non_exhaustive()
    }
}

/// What the store has of one id.
#[derive(Default)]
struct OfId {
    /// The tags of the files of each version, by name.
    versions: BTreeMap<u32, BTreeMap<String, String>>,
    pin: Option<u32>,
}

impl OfId {
    fn whole(&self) -> impl DoubleEndedIterator<Item = u32> {
        let is_whole = |files: &BTreeMap<String, String>| files.contains_key(ModelFiles::ONNX);
        let whole = self
            .versions
            .iter()
            .filter(move |(_, files)| is_whole(files));
        whole.map(|(version, _)| *version)
    }

    fn in_use(&self) -> Option<u32> {
        let mut whole = self.whole();
        let last = self.whole().next_back();
        whole.find(|version| self.pin == Some(*version)).or(last)
    }
}

impl UploadedModels {
    /// `data` is the server's data folder.
    pub fn new(files: Files, data: &Path, try_out: TryOut) -> Self {
        let copies = data.join("copies").join(FOLDER);
        Self {
            shelf: Shelf::new(files, copies, try_out.clone(), Origin::Uploaded),
            try_out,
            busy: Arc::default(),
        }
    }

    /// The turn of an upload of this id, which no other model may have; at most `limit` models.
    pub async fn turn(
        &self,
        models: &Models,
        id: &str,
        limit: usize,
    ) -> Result<Turn, UploadedError> {
        let now = models.get();
        if now.is_own(id) || now.origin(id) == Some(Origin::Trained) {
            return Err(UploadedError::Taken { id: id.to_owned() });
        }
        let known = self.listing().await?;
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let new = busy.iter().filter(|id| !known.contains_key(*id)).count();
        if !known.contains_key(id) && !busy.contains(id) && known.len() + new >= limit {
            return Err(UploadedError::TooMany { limit });
        }
        match busy.insert(id.to_owned()) {
            true => Ok(Turn {
                id: id.to_owned(),
                busy: self.busy.clone(),
            }),
            false => Err(UploadedError::Busy { id: id.to_owned() }),
        }
    }

    /// Loads and runs the model in a folder called by its id, as it would be served. Takes seconds:
    /// not for an async thread.
    pub fn check(&self, folder: &Path) -> Result<Arc<Model>, UploadedError> {
        let loaded = shelf::load(folder, &self.try_out, Origin::Uploaded);
        loaded.map_err(|broken| UploadedError::Broken {
            faults: broken.faults,
        })
    }

    /// Stores the files of a checked folder as the next version, and serves it: here at once, on
    /// other replicas at their next look. Keeps `keep` versions; gives those that were removed.
    pub async fn install(
        &self,
        models: &Models,
        Turn { id, .. }: &Turn,
        folder: &Path,
        mut version: Version,
        keep: usize,
    ) -> Result<(Version, Vec<Version>), UploadedError> {
        let mut known = self.shelf.known.lock().await;
        let before = self.listing().await?.remove(id).unwrap_or_default();
        version.version = before
            .versions
            .keys()
            .next_back()
            .map_or(1, |last| last + 1);
        let place = folder_of(id, version.version);
        let record = serde_json::to_vec(&version).unwrap_or_default();
        if !self
            .shelf
            .files
            .create(&place.clone().join(RECORD), record)
            .await?
        {
            return Err(UploadedError::Busy { id: id.clone() });
        }
        let written = async {
            self.write(&place, folder, &version).await?;
            if before.pin.is_some() {
                self.shelf.files.remove(vec![pin_of(id)]).await?;
            }
            Ok(self.stored().await?)
        };
        let stored = match written.await {
            Ok(stored) => stored,
            Err(error) => {
                // What is left of it is not whole, and is never served.
                let _ = self
                    .shelf
                    .files
                    .remove_all(&version_of(id, version.version))
                    .await;
                return Err(error);
            }
        };
        self.shelf.look(&mut known, models, stored).await?;
        let mut removed = Vec::new();
        // Those that were never whole go, too.
        let kept: Vec<u32> = before.whole().rev().take(keep.saturating_sub(1)).collect();
        let old = before
            .versions
            .keys()
            .filter(|number| !kept.contains(number));
        for old in old {
            removed.extend(self.record(id, *old).await?);
            self.shelf.files.remove_all(&version_of(id, *old)).await?;
        }
        Ok((version, removed))
    }

    async fn write(
        &self,
        place: &FilePath,
        folder: &Path,
        version: &Version,
    ) -> Result<(), UploadedError> {
        let (onnx, others): (Vec<&String>, Vec<&String>) = version
            .files
            .iter()
            .partition(|name| *name == ModelFiles::ONNX);
        for name in others.into_iter().chain(onnx) {
            let file = fs::File::open(folder.join(name)).map_err(UploadedError::Disk)?;
            self.shelf
                .files
                .upload(&place.clone().join(name.as_str()), file)
                .await?;
        }
        Ok(())
    }

    /// The whole versions of an uploaded model, the newest first, and the one in use; none where no
    /// upload has this id.
    pub async fn versions(&self, id: &str) -> Result<Option<(Vec<Version>, u32)>, UploadedError> {
        let Some(found) = self.listing().await?.remove(id) else {
            return Ok(None);
        };
        let Some(in_use) = found.in_use() else {
            return Ok(None);
        };
        let mut versions = Vec::new();
        for version in found.whole().rev() {
            versions.extend(self.record(id, version).await?);
        }
        Ok(Some((versions, in_use)))
    }

    async fn record(&self, id: &str, version: u32) -> Result<Option<Version>, UploadedError> {
        let place = folder_of(id, version).join(RECORD);
        let record = self.shelf.files.read_if_there(&place).await?;
        Ok(record.and_then(|record| serde_json::from_slice(&record).ok()))
    }

    /// Serves an earlier version, or the newest again, until the next upload. False where no upload
    /// has this id.
    pub async fn roll_back(
        &self,
        models: &Models,
        id: &str,
        version: u32,
    ) -> Result<bool, UploadedError> {
        let mut known = self.shelf.known.lock().await;
        let Some(found) = self.listing().await?.remove(id) else {
            return Ok(false);
        };
        let whole: Vec<u32> = found.whole().collect();
        if !whole.contains(&version) {
            return Err(UploadedError::UnknownVersion {
                id: id.to_owned(),
                version,
                known: whole,
            });
        }
        let text = version.to_string();
        self.shelf
            .files
            .write(&pin_of(id), text.into_bytes())
            .await?;
        self.shelf
            .look(&mut known, models, self.stored().await?)
            .await?;
        Ok(true)
    }

    /// A tar of the folder of a version, by default of the one in use; none where no upload has this id.
    pub async fn archive(
        &self,
        id: &str,
        version: Option<u32>,
    ) -> Result<Option<Archive>, UploadedError> {
        let Some(found) = self.listing().await?.remove(id) else {
            return Ok(None);
        };
        let known: Vec<u32> = found.whole().collect();
        let version = match version {
            Some(version) if !known.contains(&version) => {
                return Err(UploadedError::UnknownVersion {
                    id: id.to_owned(),
                    version,
                    known,
                });
            }
            Some(version) => Some(version),
            None => found.in_use(),
        };
        match version {
            Some(version) => Ok(self.shelf.archive(&folder_of(id, version)).await?),
            None => Ok(None),
        }
    }

    /// Removes a model with all its versions, on other replicas at their next look; gives what was
    /// removed, none where no upload has this id.
    pub async fn remove(
        &self,
        models: &Models,
        id: &str,
    ) -> Result<Option<Vec<Version>>, UploadedError> {
        let mut known = self.shelf.known.lock().await;
        let Some(found) = self.listing().await?.remove(id) else {
            return Ok(None);
        };
        let mut removed = Vec::new();
        for version in found.versions.keys() {
            removed.extend(self.record(id, *version).await?);
        }
        // First the files that make the versions whole.
        let whole = found
            .whole()
            .map(|version| folder_of(id, version).join(ModelFiles::ONNX));
        self.shelf.files.remove(whole.collect()).await?;
        self.shelf
            .files
            .remove_all(&FilePath::from_iter([FOLDER, id]))
            .await?;
        self.shelf.forget(&mut known, models, id).await;
        Ok(Some(removed))
    }

    /// Picks up what other replicas changed.
    pub async fn follow(&self, models: &Models) -> Result<(), UploadedError> {
        let mut known = self.shelf.known.lock().await;
        Ok(self
            .shelf
            .look(&mut known, models, self.stored().await?)
            .await?)
    }

    /// See [`Shelf::add_to`].
    pub async fn add_to(&self, registry: &mut Registry) -> MutexGuard<'_, Known> {
        self.shelf.add_to(registry).await
    }

    /// The versions in use.
    async fn stored(&self) -> Result<BTreeMap<String, Stored>, FilesError> {
        let in_use = |(id, found): (String, OfId)| {
            let version = found.in_use()?;
            let stored = Stored::new(folder_of(&id, version), found.versions.get(&version)?);
            Some((id, stored))
        };
        Ok(self
            .listing()
            .await?
            .into_iter()
            .filter_map(in_use)
            .collect())
    }

    async fn listing(&self) -> Result<BTreeMap<String, OfId>, FilesError> {
        let mut found = BTreeMap::<String, OfId>::new();
        for (file, tag) in self
            .shelf
            .files
            .list_tagged(&FilePath::from(FOLDER))
            .await?
        {
            let parts: Vec<_> = file.parts().map(|part| part.as_ref().to_owned()).collect();
            match &parts[..] {
                [_, id, pin] if pin == PIN => {
                    // Taken away meanwhile, it pins nothing.
                    let text = self.shelf.files.read_if_there(&file).await?;
                    let text = text.as_deref().map(String::from_utf8_lossy);
                    let pin = text.and_then(|text| text.trim().parse().ok());
                    found.entry(id.clone()).or_default().pin = pin;
                }
                [_, id, version, _, name] => {
                    if let Ok(version) = version.parse() {
                        let versions = &mut found.entry(id.clone()).or_default().versions;
                        versions
                            .entry(version)
                            .or_default()
                            .insert(name.clone(), tag);
                    }
                }
                _ => {}
            }
        }
        Ok(found)
    }
}

fn version_of(id: &str, version: u32) -> FilePath {
    FilePath::from_iter([FOLDER, id, version.to_string().as_str()])
}

/// The model's folder of a version.
fn folder_of(id: &str, version: u32) -> FilePath {
    version_of(id, version).join(id)
}

fn pin_of(id: &str) -> FilePath {
    FilePath::from_iter([FOLDER, id, PIN])
}
