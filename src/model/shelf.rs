//! Models in the store of files, which all replicas serve: what of them is loaded here, and the copies
//! of folders of a store that is not local. Whose folder is a model, and which one an id stands for,
//! is their owner's to say ([`super::trained`], [`super::uploaded`]).

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use object_store::path::Path as FilePath;
use sha2::{Digest, Sha256};
use tokio::sync::{Mutex, MutexGuard};

use super::{
    Model,
    registry::{BrokenModel, ModelFiles, Models, Origin, Registry},
};
use crate::{
    files::{Files, FilesError, hex},
    pool::WorkPanicked,
};

/// Runs a model before it is served: see [`super::registry::Check`].
pub type TryOut = Arc<dyn Fn(&Model) -> Result<Vec<String>, String> + Send + Sync>;

pub(super) struct Shelf {
    pub files: Files,
    copies: PathBuf,
    try_out: TryOut,
    origin: Origin,
    /// As of the last look. Locked while the models in use are changed.
    pub known: Mutex<Known>,
}

/// By id.
pub struct Known {
    origin: Origin,
    models: BTreeMap<String, Found>,
}

struct Found {
    stored: Stored,
    loaded: Loaded,
}

type Loaded = Result<Arc<Model>, BrokenModel>;

/// A whole model of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    /// Its folder, whose name is the id.
    pub folder: FilePath,
    /// Tells it from another one of its id.
    version: String,
}

impl Stored {
    /// `tags`: of its files, by name.
    pub(super) fn new(folder: FilePath, tags: &BTreeMap<String, String>) -> Self {
        Self {
            version: hex(&Sha256::digest(format!("{folder} {tags:?}"))),
            folder,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ShelfError {
    #[error("a copy of a model cannot be made: {0}")]
    Copy(#[from] io::Error),
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error(transparent)]
    Panicked(#[from] WorkPanicked),
}

impl Shelf {
    /// `copies`: a folder of its own.
    pub(super) fn new(files: Files, copies: PathBuf, try_out: TryOut, origin: Origin) -> Self {
        Self {
            files,
            copies,
            try_out,
            origin,
            known: Mutex::new(Known {
                origin,
                models: BTreeMap::new(),
            }),
        }
    }

    /// Adds the models to a registry. The guard keeps others from changing them until the registry
    /// is in use.
    pub(super) async fn add_to(&self, registry: &mut Registry) -> MutexGuard<'_, Known> {
        let known = self.known.lock().await;
        known.put_into(registry);
        known
    }

    /// A tar of a model's folder, which is read as the tar is; none where it holds no whole model.
    pub(super) async fn archive(&self, folder: &FilePath) -> Result<Option<Archive>, FilesError> {
        let paths = self.files.list(folder).await?;
        if !paths.contains(&folder.clone().join(ModelFiles::ONNX)) {
            return Ok(None);
        }
        let id = folder.filename().unwrap_or_default().to_owned();
        let files = self.files.clone();
        let packed = stream::iter(paths).then(move |path| {
            let (files, id) = (files.clone(), id.clone());
            async move { pack(&files, &id, &path).await }
        });
        // Two empty blocks are the end.
        let end = stream::iter([Ok(Bytes::from_static(&[0; 2 * BLOCK]))]);
        Ok(Some(packed.try_flatten().chain(end).boxed()))
    }

    /// Takes a model out of use that was removed from the store.
    pub(super) async fn forget(&self, known: &mut Known, models: &Models, id: &str) {
        if let Some(found) = known.models.remove(id) {
            models.change(|registry| known.put_into(registry));
            let copy = tokio::fs::remove_dir_all(self.copies.join(found.stored.version));
            // There is none of a local folder; one that is left goes with the next change.
            let _ = copy.await;
        }
    }

    /// Brings what is known up to date with what is stored, model by model: a look that is broken
    /// off keeps those that it loaded. A model stays in use until the one that replaces it is.
    pub(super) async fn look(
        &self,
        known: &mut Known,
        models: &Models,
        stored: BTreeMap<String, Stored>,
    ) -> Result<(), ShelfError> {
        let count = known.models.len();
        known.models.retain(|id, _| stored.contains_key(id));
        let is_new = |known: &Known, id: &String, one: &Stored| {
            known
                .models
                .get(id)
                .is_none_or(|found| found.stored != *one)
        };
        let mut new = stored.clone();
        new.retain(|id, one| is_new(known, id, one));
        if count == known.models.len() && new.is_empty() {
            return Ok(());
        }
        models.change(|registry| known.put_into(registry));
        let mut failed = None;
        for (id, stored) in new {
            match self.load(&id, &stored).await {
                Ok(loaded) => {
                    tell(&id, &loaded);
                    known.models.insert(id, Found { stored, loaded });
                    models.change(|registry| known.put_into(registry));
                }
                Err(error) => failed = Some(error),
            }
        }
        self.drop_copies(&stored).await?;
        failed.map_or(Ok(()), Err)
    }

    async fn load(&self, id: &str, stored: &Stored) -> Result<Loaded, ShelfError> {
        let folder = match self.files.local(&stored.folder) {
            Some(folder) => folder,
            None => self.copy(id, stored).await?,
        };
        let (try_out, origin) = (self.try_out.clone(), self.origin);
        // Takes seconds, in which the pool's places belong to requests.
        let load = move || load(&folder, &try_out, origin);
        Ok(tokio::task::spawn_blocking(load)
            .await
            .map_err(|_| WorkPanicked)?)
    }

    /// Downloads a folder once. One of its name is whole.
    async fn copy(&self, id: &str, stored: &Stored) -> Result<PathBuf, ShelfError> {
        let place = self.copies.join(&stored.version);
        let folder = place.join(id);
        if folder.is_dir() {
            return Ok(folder);
        }
        tokio::fs::create_dir_all(&self.copies).await?;
        let part = tempfile::Builder::new()
            .prefix(PART)
            .tempdir_in(&self.copies)?;
        tokio::fs::create_dir(part.path().join(id)).await?;
        for file in self.files.list(&stored.folder).await? {
            let name = file.filename().unwrap_or_default();
            let copy = fs::File::create(part.path().join(id).join(name))?;
            self.files.download(&file, &copy).await?;
        }
        tokio::fs::rename(part.path(), &place).await?;
        Ok(folder)
    }

    /// Removes the copies of models that were removed or replaced, and of broken-off downloads.
    async fn drop_copies(&self, stored: &BTreeMap<String, Stored>) -> io::Result<()> {
        let mut copies = match tokio::fs::read_dir(&self.copies).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            copies => copies?,
        };
        while let Some(copy) = copies.next_entry().await? {
            let name = copy.file_name();
            if !stored.values().any(|one| name == one.version.as_str()) {
                tokio::fs::remove_dir_all(copy.path()).await?;
            }
        }
        Ok(())
    }
}

const PART: &str = ".part";

/// The bytes of a tar.
pub type Archive = BoxStream<'static, io::Result<Bytes>>;

/// Bytes of a tar come in blocks.
const BLOCK: usize = 512;

/// A file with its header, filled up to whole blocks.
async fn pack(files: &Files, folder: &str, path: &FilePath) -> io::Result<Archive> {
    let (length, pieces) = files.stream(path).await.map_err(io::Error::other)?;
    let mut header = tar::Header::new_gnu();
    header.set_path(format!("{folder}/{}", path.filename().unwrap_or_default()))?;
    header.set_size(length);
    header.set_mode(0o644);
    header.set_cksum();
    let filling = length.next_multiple_of(BLOCK as u64) - length;
    let ends = [header.as_bytes().to_vec(), vec![0; filling as usize]];
    let [head, filling] = ends.map(|bytes| stream::iter([Ok(Bytes::from(bytes))]));
    let pieces = pieces.map_err(io::Error::other);
    Ok(head.chain(pieces).chain(filling).boxed())
}

impl Known {
    fn put_into(&self, registry: &mut Registry) {
        let loaded = self.models.values().map(|found| &found.loaded);
        registry.set_stored(self.origin, loaded);
    }

    /// Why a model cannot be served.
    pub(super) fn faults(&self, id: &str) -> Option<&[String]> {
        let found = self.models.get(id)?.loaded.as_ref();
        found.err().map(|broken| &broken.faults[..])
    }
}

/// Loads a model's folder.
pub(super) fn load(folder: &Path, try_out: &TryOut, origin: Origin) -> Loaded {
    let registry = Registry::of_one(folder, try_out.as_ref());
    let broken = match (registry.iter().next(), registry.broken.first()) {
        (Some(model), None) if origin == Origin::Uploaded || model.provenance.is_some() => {
            return Ok(model);
        }
        (_, Some(broken)) => broken.clone(),
        // Its `training.json` is broken, or was taken away while it was written.
        (_, None) => {
            let id = folder.file_name().unwrap_or_default().to_string_lossy();
            let mut faults = registry.warnings.clone();
            faults.push(format!("{} is missing or broken", super::provenance::FILE));
            BrokenModel::new(id.into_owned(), faults)
        }
    };
    Err(broken.of(origin))
}

fn tell(id: &str, loaded: &Loaded) {
    match loaded {
        Ok(_) => tracing::info!(model = id, "a model of the store of files is served"),
        Err(broken) => {
            tracing::error!(model = id, "not served: {}", broken.faults.join("; "));
        }
    }
}
