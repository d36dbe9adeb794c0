//! The data sets on this machine: folders of the settings, uploads in `datasets/` of the data
//! folder, and copies of shared uploads in `copies/datasets/`. Uploads and copies are
//! `<id>/<version>/`, and `<id>/current` names the version in use. It is replaced by one rename, so
//! that every server on the data folder sees either the old set or the new one. Versions are
//! immutable, and their names are not reused.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tempfile::{NamedTempFile, TempDir};

use super::{
    ArchiveLimits, Dataset, DatasetError,
    archive::{is_dataset_file, root_of, unpack},
    at,
    index::{self, Index},
    input_cache::InputCache,
    is_id,
    listing::{Files, list},
    scan::assemble,
    staging::Staging,
    versions::{self, CURRENT, content, current, ids_in},
};
use crate::{
    picture::decode::Limits,
    quota::{Quota, Reservation},
};

/// The scan of a folder with more files than `MANY_FILES` is reused for `REUSE_FACTOR` times its
/// duration.
const MANY_FILES: usize = 1000;
const REUSE_FACTOR: u32 = 10;
/// How often opening a set is retried when the set is replaced meanwhile.
const TRIES: usize = 8;

/// The folders of data sets, and the last scan of each set.
#[derive(Debug)]
pub struct Catalogue {
    folders: BTreeMap<String, PathBuf>,
    uploads: PathBuf,
    /// Unpacked copies of uploads in the store that replicas share.
    copies: PathBuf,
    indices: PathBuf,
    staging: Staging,
    quota: Quota,
    limits: Limits,
    archive_limits: ArchiveLimits,
    scans: Mutex<HashMap<String, LastScan>>,
    inputs: InputCache,
}

/// The images of an archive in a temporary folder, which is removed on drop.
pub struct Unpacked {
    dataset: Dataset,
    index: Index,
    files: Files,
    reservation: Reservation,
    _folder: TempDir,
}

#[derive(Debug)]
struct LastScan {
    files: Files,
    dataset: Arc<Dataset>,
    at: Instant,
    /// How long it is used without another scan.
    reuse: Duration,
}

/// The folder of a set at present.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    folder: PathBuf,
    /// Of an upload or a copy.
    version: Option<String>,
}

impl Catalogue {
    /// `folders` by id; `data` is the server's data folder, with quota `quota`. Nothing is read
    /// yet.
    pub fn new(
        folders: BTreeMap<String, PathBuf>,
        data: &Path,
        limits: Limits,
        archive_limits: ArchiveLimits,
        quota: Quota,
    ) -> Self {
        let uploads = data.join("datasets");
        Self {
            folders,
            staging: Staging::new(uploads.clone(), quota.clone()),
            uploads,
            copies: data.join("copies/datasets"),
            indices: data.join("index"),
            quota,
            limits,
            archive_limits,
            scans: Mutex::default(),
            inputs: InputCache::default(),
        }
    }

    /// The ids of configured folders and uploads, sorted; copies are left out. A listed set may
    /// fail to open.
    pub fn ids(&self) -> Vec<String> {
        let mut ids: Vec<String> = self
            .folders
            .keys()
            .cloned()
            .chain(ids_in(&self.uploads))
            .collect();
        ids.sort();
        ids.dedup();
        ids
    }

    /// The set as last scanned, if the scan may be reused. Reads one small file.
    pub fn remembered(&self, id: &str) -> Result<Option<Arc<Dataset>>, DatasetError> {
        let place = self.place(id)?;
        let still_counts = |scan: &&LastScan| {
            scan.dataset.folder == place.folder
                && (place.version.is_some() || scan.at.elapsed() < scan.reuse)
        };
        Ok(self
            .scans
            .lock()
            .get(id)
            .filter(still_counts)
            .map(|scan| scan.dataset.clone()))
    }

    /// The set as it is at present. Reads files that are new or changed since it was last opened,
    /// by this server or an earlier one.
    pub fn open(&self, id: &str) -> Result<Arc<Dataset>, DatasetError> {
        for _ in 0..TRIES {
            if let Some(dataset) = self.remembered(id)? {
                return Ok(dataset);
            }
            let place = self.place(id)?;
            let scanned = self.scan(id, &place);
            // A replaced version may have been removed meanwhile.
            if place.version.is_none() {
                return scanned;
            } else if self.place(id)? == place {
                return scanned.map_err(|error| match error {
                    DatasetError::File { source, .. }
                        if source.kind() == io::ErrorKind::NotFound =>
                    {
                        DatasetError::Lost { id: id.to_owned() }
                    }
                    other => other,
                });
            }
        }
        Err(DatasetError::Replaced { id: id.to_owned() })
    }

    fn scan(&self, id: &str, place: &Place) -> Result<Arc<Dataset>, DatasetError> {
        let started = Instant::now();
        let files = list(&place.folder, place.version.is_some())?;
        let is_large = files.images.len() + files.ignored.files > MANY_FILES;
        let reuse = if is_large {
            started.elapsed() * REUSE_FACTOR
        } else {
            Duration::ZERO
        };
        // A file that was unreadable may be readable now, with an unchanged stamp.
        let is_whole = |dataset: &Dataset| {
            dataset
                .images
                .iter()
                .all(|picture| !picture.hash.is_empty())
        };
        let known = |scan: &&LastScan| {
            scan.dataset.folder == place.folder && scan.files == files && is_whole(&scan.dataset)
        };
        let known = self
            .scans
            .lock()
            .get(id)
            .filter(known)
            .map(|scan| scan.dataset.clone());
        let dataset = known.unwrap_or_else(|| {
            let mut index = index::load(&self.indices, id, &place.key());
            let dataset = assemble(
                id,
                place.folder.clone(),
                place.version.is_some(),
                &files,
                &mut index,
                &self.limits,
            );
            self.store(id, place, &index);
            Arc::new(dataset)
        });
        let scan = LastScan {
            files,
            dataset: dataset.clone(),
            at: Instant::now(),
            reuse,
        };
        self.scans.lock().insert(id.to_owned(), scan);
        Ok(dataset)
    }

    fn store(&self, id: &str, place: &Place, index: &Index) {
        if let Err(error) = index::save(&self.staging, &self.indices, id, &place.key(), index) {
            tracing::warn!(
                id,
                "the index of the data set was not stored, and its files are read again next time: {error}"
            );
        }
    }

    /// A temporary file for an upload of this id.
    pub fn receive(&self, id: &str) -> Result<(NamedTempFile, Reservation), DatasetError> {
        self.check_changeable(id)?;
        self.check_count(id, &self.uploads)?;
        self.receive_copy()
    }

    /// As `receive`, for a copy of an upload to another replica.
    pub fn receive_copy(&self) -> Result<(NamedTempFile, Reservation), DatasetError> {
        Ok((
            self.staging.file().map_err(at(&self.uploads))?,
            self.quota.reserve(0)?,
        ))
    }

    pub fn temporary_folder(&self) -> Result<TempDir, DatasetError> {
        self.staging.temporary_folder().map_err(at(&self.uploads))
    }

    /// Replaces the set `id` by the content of `archive`; returns the set, and whether it is new. A
    /// set with the same content is kept, so that its readers are not disturbed.
    pub fn put(
        &self,
        id: &str,
        archive: &mut NamedTempFile,
    ) -> Result<(Arc<Dataset>, bool), DatasetError> {
        self.check_changeable(id)?;
        let unpacked = self.unpack(id, archive)?;
        let version = format!(
            "{}-{}",
            unpacked.fingerprint()?,
            uuid::Uuid::new_v4().simple()
        );
        self.settle(&self.uploads, id, &version, unpacked)
    }

    /// The files of `archive` whose names are wanted, in a temporary folder, and room for them.
    pub fn unpack_files(
        &self,
        archive: &mut NamedTempFile,
        is_wanted: fn(&str) -> bool,
    ) -> Result<(TempDir, Reservation), DatasetError> {
        let folder = self.staging.temporary_folder().map_err(at(&self.uploads))?;
        let mut room = self.quota.reserve(0)?;
        let archive = archive.as_file_mut();
        unpack(
            archive,
            folder.path(),
            is_wanted,
            self.archive_limits,
            &mut room,
        )?;
        Ok((folder, room))
    }

    /// The images of `archive`, at least one.
    pub fn unpack(&self, id: &str, archive: &mut NamedTempFile) -> Result<Unpacked, DatasetError> {
        let folder = self.staging.temporary_folder().map_err(at(&self.uploads))?;
        let mut reservation = self.quota.reserve(0)?;
        let ignored = unpack(
            archive.as_file_mut(),
            folder.path(),
            is_dataset_file,
            self.archive_limits,
            &mut reservation,
        )?;
        let root = root_of(folder.path()).map_err(at(folder.path()))?;
        ignored.save(&root).map_err(at(&root))?;
        let (files, mut index) = (list(&root, true)?, Index::new());
        if files.images.is_empty() {
            return Err(DatasetError::Empty {
                id: id.to_owned(),
                ignored,
            });
        }
        let dataset = assemble(id, root, true, &files, &mut index, &self.limits);
        Ok(Unpacked {
            dataset,
            index,
            files,
            reservation,
            _folder: folder,
        })
    }

    /// Puts this version of a shared set into use here.
    pub fn place_copy(
        &self,
        id: &str,
        version: &str,
        unpacked: Unpacked,
    ) -> Result<Arc<Dataset>, DatasetError> {
        Ok(self.settle(&self.copies, id, version, unpacked)?.0)
    }

    /// The version of a shared set that is unpacked here.
    pub fn copy_of(&self, id: &str) -> Result<Option<String>, DatasetError> {
        current(&self.copies.join(id))
    }

    /// The ids of shared sets that are unpacked here.
    pub fn copies(&self) -> Vec<String> {
        ids_in(&self.copies).collect()
    }

    pub fn drop_copy(&self, id: &str) -> Result<(), DatasetError> {
        self.take_away(id, &self.copies).map(drop)
    }

    /// Removes an uploaded set. A job that uses it fails with an error that says so.
    pub fn remove(&self, id: &str) -> Result<(), DatasetError> {
        self.check_changeable(id)?;
        if self.take_away(id, &self.uploads)? {
            Ok(())
        } else {
            Err(self.unknown(id))
        }
    }

    /// Returns whether the set existed.
    fn take_away(&self, id: &str, sets: &Path) -> Result<bool, DatasetError> {
        let home = sets.join(id);
        if current(&home)?.is_none() {
            return Ok(false);
        }
        let mut change = self.staging.change().map_err(at(sets))?;
        if current(&home)?.is_none() {
            return Ok(false);
        }
        change.take_away(&home).map_err(at(&home))?;
        self.scans.lock().remove(id);
        index::remove(&self.indices, id);
        Ok(true)
    }

    /// Makes the unpacked version the current one, and removes other versions.
    fn settle(
        &self,
        sets: &Path,
        id: &str,
        version: &str,
        unpacked: Unpacked,
    ) -> Result<(Arc<Dataset>, bool), DatasetError> {
        let Unpacked {
            mut dataset,
            index,
            files,
            reservation,
            _folder,
        } = unpacked;
        let home = sets.join(id);
        let mut change = self.staging.change().map_err(at(sets))?;
        let before = current(&home)?;
        if before.is_none() && sets == self.uploads {
            self.check_count(id, sets)?;
        }
        let same = before
            .as_ref()
            .filter(|before| content(before) == content(version));
        let same = same
            .filter(|same| list(&home.join(same), true).is_ok_and(|found| found.is_alike(&files)));
        let version = same.cloned().unwrap_or_else(|| version.to_owned());
        let place = Place {
            folder: home.join(&version),
            version: Some(version.clone()),
        };
        let root = std::mem::replace(&mut dataset.folder, place.folder.clone());
        if same.is_none() {
            let named = || {
                fs::create_dir_all(&home)?;
                fs::rename(&root, &place.folder)?;
                change.write(&home.join(CURRENT), version.as_bytes())
            };
            if let Err(error) = named() {
                versions::sweep(&mut change, &home, before.as_deref());
                return Err(at(&home)(error));
            }
            reservation.keep();
            versions::sweep(&mut change, &home, Some(&version));
        }
        let dataset = Arc::new(dataset);
        // `files` are those of the kept version if it has the same content.
        let scan = LastScan {
            files,
            dataset: dataset.clone(),
            at: Instant::now(),
            reuse: Duration::ZERO,
        };
        self.scans.lock().insert(id.to_owned(), scan);
        drop(change);
        if same.is_none() {
            self.store(id, &place, &index);
        }
        Ok((dataset, before.is_none()))
    }

    /// Removes the unfinished uploads of ended processes, and versions that are not in use.
    pub fn sweep(&self) -> Result<(), DatasetError> {
        if !self.uploads.is_dir() {
            return Ok(());
        }
        let mut change = self.staging.change().map_err(at(&self.uploads))?;
        change.take_leftovers().map_err(at(&self.uploads))?;
        for home in [&self.uploads, &self.copies]
            .into_iter()
            .flat_map(|sets| versions::homes_in(sets))
        {
            if let Ok(version) = current(&home) {
                versions::sweep(&mut change, &home, version.as_deref());
            }
        }
        Ok(())
    }

    fn unknown(&self, id: &str) -> DatasetError {
        self.scans.lock().remove(id);
        DatasetError::Unknown {
            id: id.to_owned(),
            known: self.ids(),
        }
    }

    pub fn archive_limits(&self) -> ArchiveLimits {
        self.archive_limits
    }

    /// Limits of an image of a data set.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn inputs(&self) -> &InputCache {
        &self.inputs
    }

    /// Refuses ids that a request must not add or remove.
    pub fn check_changeable(&self, id: &str) -> Result<(), DatasetError> {
        if !is_id(id) {
            Err(DatasetError::Id { id: id.to_owned() })
        } else if self.folders.contains_key(id) {
            Err(DatasetError::Configured { id: id.to_owned() })
        } else {
            Ok(())
        }
    }

    /// Refuses another set beyond the largest number.
    fn check_count(&self, id: &str, sets: &Path) -> Result<(), DatasetError> {
        let limit = self.archive_limits.max_sets;
        if current(&sets.join(id))?.is_none() && ids_in(sets).count() >= limit {
            return Err(DatasetError::TooMany { limit });
        }
        Ok(())
    }

    fn place(&self, id: &str) -> Result<Place, DatasetError> {
        if let Some(folder) = self.folders.get(id) {
            return Ok(Place {
                folder: folder.clone(),
                version: None,
            });
        }
        for sets in [&self.copies, &self.uploads]
            .into_iter()
            .filter(|_| is_id(id))
        {
            if let Some(version) = current(&sets.join(id))? {
                return Ok(Place {
                    folder: sets.join(id).join(&version),
                    version: Some(version),
                });
            }
        }
        Err(self.unknown(id))
    }
}

impl Place {
    /// The version of an upload or copy, else the folder: two uploads may have files of equal
    /// names, lengths and times.
    fn key(&self) -> String {
        self.version
            .clone()
            .unwrap_or_else(|| self.folder.display().to_string())
    }
}

impl Unpacked {
    /// SHA-256 over everything that was unpacked, in hex.
    fn fingerprint(&self) -> Result<String, DatasetError> {
        let folder = &self.dataset.folder;
        index::fingerprint(&self.index, folder, &self.files).map_err(at(folder))
    }
}
