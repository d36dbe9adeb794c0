//! All data sets: the folders of the settings, and the uploads below the server's data folder.
//!
//! An upload lies in `datasets/<id>/<version>/`, and `datasets/<id>/current` names the version: replacing it is one rename, so that
//! every server on the same folder sees the old set or the new one, never a part.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use tempfile::NamedTempFile;

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
pub struct Datasets {
    folders: BTreeMap<String, PathBuf>,
    uploads: PathBuf,
    indices: PathBuf,
    limits: Limits,
    archive_limits: ArchiveLimits,
    seen: Mutex<HashMap<String, Seen>>,
    kept: Kept,
}

#[derive(Debug)]
struct Seen {
    files: Files,
    dataset: Arc<Dataset>,
}

impl Datasets {
    /// `folders` by id; `data` is the folder of everything that the server writes. Nothing is read yet.
    pub fn new(folders: BTreeMap<String, PathBuf>, data: &Path, limits: Limits, archive_limits: ArchiveLimits) -> Self {
        Self {
            folders,
            uploads: data.join("datasets"),
            indices: data.join("index"),
            limits,
            archive_limits,
            seen: Mutex::default(),
            kept: Kept::default(),
        }
    }

    /// Every id, in order. A set that is listed may still fail to open.
    pub fn ids(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.uploads).into_iter().flatten().filter_map(Result::ok);
        let uploaded = entries.filter(|entry| entry.path().join(CURRENT).is_file());
        let uploaded = uploaded.filter_map(|entry| entry.file_name().into_string().ok()).filter(|id| is_id(id));
        let mut ids: Vec<String> = self.folders.keys().cloned().chain(uploaded).collect();
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
        let unpacked =
            tempfile::Builder::new().prefix(".unpack-").tempdir_in(&self.uploads).map_err(at(&self.uploads))?;
        unpack(archive.as_file_mut(), unpacked.path(), self.archive_limits)?;
        let root = innermost(unpacked.path()).map_err(at(unpacked.path()))?;
        if list(&root)?.images.is_empty() {
            return Err(DatasetError::Empty { id: id.to_owned() });
        }
        let home = self.uploads.join(id);
        fs::create_dir_all(&home).map_err(at(&home))?;
        let version = uuid::Uuid::new_v4().to_string();
        fs::rename(&root, home.join(&version)).map_err(at(&home))?;
        let is_new = !home.join(CURRENT).exists();
        set_current(&home, &version).map_err(at(&home))?;
        self.sweep(&home, &version);
        Ok((self.open(id)?, is_new))
    }

    /// Takes an uploaded set away. A job that uses it fails and says so.
    pub fn remove(&self, id: &str) -> Result<(), DatasetError> {
        self.check_changeable(id)?;
        self.folder(id)?;
        let home = self.uploads.join(id);
        fs::remove_file(home.join(CURRENT)).map_err(at(&home))?;
        self.seen().remove(id);
        fs::remove_dir_all(&home).map_err(at(&home))
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
        let home = self.uploads.join(id);
        let current = if is_id(id) { fs::read_to_string(home.join(CURRENT)).ok() } else { None };
        match current {
            Some(version) => Ok((home.join(version.trim()), true)),
            None => Err(DatasetError::Unknown { id: id.to_owned(), known: self.ids() }),
        }
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, HashMap<String, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Versions that count no more.
    fn sweep(&self, home: &Path, version: &str) {
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
