//! The data sets that lie here: the folders of the settings, and below the data folder `datasets/` and `copies/datasets/` of what is shared.
//!
//! One of either lies in `<id>/<version>/`, and `<id>/current` names the version: replacing it is one rename, so that every server on
//! the same folder sees the old set or the new one, never a part.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use tempfile::{NamedTempFile, TempDir};

use super::{
    ArchiveLimits, Dataset, DatasetError,
    archive::unpack,
    at,
    gallery::Kept,
    index::{self, Index},
    is_id,
    scan::{Files, assemble, list},
};
use crate::image::decode::Limits;

/// Names the version of an upload that counts.
const CURRENT: &str = "current";

/// Where data sets are, and what was seen of them last.
#[derive(Debug)]
pub struct Catalogue {
    folders: BTreeMap<String, PathBuf>,
    uploads: PathBuf,
    /// Unpacked from the store that replicas share.
    copies: PathBuf,
    indices: PathBuf,
    limits: Limits,
    archive_limits: ArchiveLimits,
    seen: Mutex<HashMap<String, Seen>>,
    kept: Kept,
}

/// An archive's images in a folder of their own, which goes when this is dropped.
pub struct Unpacked {
    root: PathBuf,
    _folder: TempDir,
}

#[derive(Debug)]
struct Seen {
    files: Files,
    dataset: Arc<Dataset>,
}

impl Catalogue {
    /// `folders` by id; `data` is the folder of everything that the server writes. Nothing is read yet.
    pub fn new(folders: BTreeMap<String, PathBuf>, data: &Path, limits: Limits, archive_limits: ArchiveLimits) -> Self {
        Self {
            folders,
            uploads: data.join("datasets"),
            copies: data.join("copies/datasets"),
            indices: data.join("index"),
            limits,
            archive_limits,
            seen: Mutex::default(),
            kept: Kept::default(),
        }
    }

    /// Every id but those of copies, in order. A set that is listed may still fail to open.
    pub fn ids(&self) -> Vec<String> {
        let mut ids: Vec<String> = self.folders.keys().cloned().chain(ids_in(&self.uploads)).collect();
        ids.sort();
        ids.dedup();
        ids
    }

    /// The set as it is now. Reads the files that are new or changed since it was last opened, by this server or an earlier one.
    pub fn open(&self, id: &str) -> Result<Arc<Dataset>, DatasetError> {
        let (folder, uploaded) = self.folder(id)?;
        let files = list(&folder)?;
        let known = |seen: &Seen| (seen.dataset.folder == folder && seen.files == files).then(|| seen.dataset.clone());
        if let Some(dataset) = self.seen().get(id).and_then(known) {
            return Ok(dataset);
        }
        let mut index = index::load(&self.indices, id);
        let dataset = self.assemble(id, folder, uploaded, files, &mut index);
        if let Err(error) = index::save(&self.indices, id, &index) {
            tracing::warn!(
                id,
                "the index of the data set was not stored, and its files are read again next time: {error}"
            );
        }
        Ok(dataset)
    }

    fn assemble(&self, id: &str, folder: PathBuf, uploaded: bool, files: Files, index: &mut Index) -> Arc<Dataset> {
        let dataset = Arc::new(assemble(id, folder, uploaded, &files, index, &self.limits));
        self.seen().insert(id.to_owned(), Seen { files, dataset: dataset.clone() });
        dataset
    }

    /// An empty file for the bytes of an upload; it goes when it is dropped.
    pub fn receive(&self) -> Result<NamedTempFile, DatasetError> {
        fs::create_dir_all(&self.uploads).map_err(at(&self.uploads))?;
        tempfile::Builder::new().prefix(".upload-").tempfile_in(&self.uploads).map_err(at(&self.uploads))
    }

    /// Makes `archive` the set `id`, in the place of what was there; gives the set, and whether it is new.
    pub fn put(&self, id: &str, archive: &mut NamedTempFile) -> Result<(Arc<Dataset>, bool), DatasetError> {
        self.check_changeable(id)?;
        let unpacked = self.unpack(id, archive)?;
        let home = self.uploads.join(id);
        let is_new = !home.join(CURRENT).exists();
        place(&home, &uuid::Uuid::new_v4().to_string(), unpacked)?;
        Ok((self.open(id)?, is_new))
    }

    /// The images of `archive`, of which there is at least one.
    pub fn unpack(&self, id: &str, archive: &mut NamedTempFile) -> Result<Unpacked, DatasetError> {
        let folder =
            tempfile::Builder::new().prefix(".unpack-").tempdir_in(&self.uploads).map_err(at(&self.uploads))?;
        unpack(archive.as_file_mut(), folder.path(), self.archive_limits)?;
        let root = innermost(folder.path()).map_err(at(folder.path()))?;
        if list(&root)?.images.is_empty() {
            return Err(DatasetError::Empty { id: id.to_owned() });
        }
        Ok(Unpacked { root, _folder: folder })
    }

    /// Makes this version of a shared set the one that is opened here.
    pub fn place_copy(&self, id: &str, version: &str, unpacked: Unpacked) -> Result<(), DatasetError> {
        place(&self.copies.join(id), version, unpacked)
    }

    /// The version of a shared set that lies here.
    pub fn copy_of(&self, id: &str) -> Option<String> {
        current(&self.copies.join(id))
    }

    /// The shared sets that lie here.
    pub fn copies(&self) -> Vec<String> {
        ids_in(&self.copies).collect()
    }

    pub fn drop_copy(&self, id: &str) -> Result<(), DatasetError> {
        self.take_away(id, &self.copies.join(id))
    }

    /// Takes an uploaded set away. A job that uses it fails and says so.
    pub fn remove(&self, id: &str) -> Result<(), DatasetError> {
        self.check_changeable(id)?;
        let home = self.uploads.join(id);
        if current(&home).is_none() {
            return Err(self.unknown(id));
        }
        self.take_away(id, &home)
    }

    fn take_away(&self, id: &str, home: &Path) -> Result<(), DatasetError> {
        fs::remove_file(home.join(CURRENT)).map_err(at(home))?;
        self.seen().remove(id);
        fs::remove_dir_all(home).map_err(at(home))
    }

    fn unknown(&self, id: &str) -> DatasetError {
        DatasetError::Unknown { id: id.to_owned(), known: self.ids() }
    }

    pub fn archive_limits(&self) -> ArchiveLimits {
        self.archive_limits
    }

    /// What an image of a set may cost.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Whether a request may put or remove a set of this name.
    pub fn check_changeable(&self, id: &str) -> Result<(), DatasetError> {
        if !is_id(id) {
            Err(DatasetError::Id { id: id.to_owned() })
        } else if self.folders.contains_key(id) {
            Err(DatasetError::Configured { id: id.to_owned() })
        } else {
            Ok(())
        }
    }

    /// Where the set lies, and whether it was uploaded.
    fn folder(&self, id: &str) -> Result<(PathBuf, bool), DatasetError> {
        if let Some(folder) = self.folders.get(id) {
            return Ok((folder.clone(), false));
        }
        let homes = [&self.copies, &self.uploads].into_iter().filter(|_| is_id(id)).map(|all| all.join(id));
        let found = homes.filter_map(|home| Some(home.join(current(&home)?))).next();
        found.map(|folder| (folder, true)).ok_or_else(|| self.unknown(id))
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, HashMap<String, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes what was unpacked the version that counts.
fn place(home: &Path, version: &str, unpacked: Unpacked) -> Result<(), DatasetError> {
    fs::create_dir_all(home).map_err(at(home))?;
    let folder = home.join(version);
    match fs::rename(&unpacked.root, &folder) {
        // Another server on the same folder was quicker.
        Err(_) if folder.is_dir() => {}
        renamed => renamed.map_err(at(home))?,
    }
    set_current(home, version).map_err(at(home))?;
    sweep(home, version);
    Ok(())
}

/// Removes versions that count no more.
fn sweep(home: &Path, version: &str) {
    for entry in fs::read_dir(home).into_iter().flatten().filter_map(Result::ok) {
        let path = entry.path();
        if path.is_dir()
            && entry.file_name() != version
            && let Err(error) = fs::remove_dir_all(&path)
        {
            tracing::warn!("{} was not removed: {error}", path.display());
        }
    }
}

/// The ids of the sets in a folder of sets.
fn ids_in(sets: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(sets).into_iter().flatten().filter_map(Result::ok);
    let complete = entries.filter(|entry| entry.path().join(CURRENT).is_file());
    complete.filter_map(|entry| entry.file_name().into_string().ok()).filter(|id| is_id(id))
}

/// The version that counts.
fn current(home: &Path) -> Option<String> {
    Some(fs::read_to_string(home.join(CURRENT)).ok()?.trim().to_owned())
}

fn set_current(home: &Path, version: &str) -> io::Result<()> {
    let mut file = NamedTempFile::new_in(home)?;
    file.write_all(version.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(home.join(CURRENT))?;
    Ok(())
}

/// An archive of one folder is that folder.
fn innermost(folder: &Path) -> io::Result<PathBuf> {
    let mut folder = folder.to_owned();
    loop {
        let entries = fs::read_dir(&folder)?.collect::<io::Result<Vec<_>>>()?;
        match entries.as_slice() {
            [only] if only.path().is_dir() => folder = only.path(),
            _ => return Ok(folder),
        }
    }
}
