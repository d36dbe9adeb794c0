//! Models that jobs trained, shared by all replicas. The store of files has the folder of each as
//! `trained/<id>/`, an ordinary model folder. `training.json` is written first, and only where
//! there is none: it takes the id. `model.onnx` is last, and makes the folder a model. A store that
//! is not a local folder is copied to the data folder.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use object_store::path::Path as FilePath;
use sha2::{Digest, Sha256};
use tokio::sync::{Mutex, MutexGuard};

use super::{
    Model, provenance,
    registry::{BrokenModel, ModelFiles, Models, Registry},
};
use crate::{
    files::{Files, FilesError, hex},
    pool::WorkPanicked,
};

const FOLDER: &str = "trained";

/// Runs a model before it is served: see [`super::registry::Check`].
pub type TryOut = Arc<dyn Fn(&Model) -> Result<Vec<String>, String> + Send + Sync>;

pub struct TrainedModels {
    files: Files,
    copies: PathBuf,
    try_out: TryOut,
    /// As of the last look. Locked while the models in use are changed.
    known: Mutex<Known>,
}

/// By id.
#[derive(Default)]
pub struct Known(BTreeMap<String, Found>);

struct Found {
    version: String,
    loaded: Loaded,
}

type Loaded = Result<Arc<Model>, BrokenModel>;

/// A model to be served from now on.
#[derive(Clone, Debug)]
pub struct TrainedModel {
    pub id: String,
    /// The files of its folder, by name; `training.json` and `model.onnx` among them.
    pub files: BTreeMap<String, Bytes>,
}

#[derive(Debug, thiserror::Error)]
pub enum TrainedError {
    #[error("a trained model needs a file {name}")]
    Missing { name: &'static str },
    #[error("there is a model {id} already")]
    Taken { id: String },
    #[error("the trained model {id} cannot be served: {}", faults.join("; "))]
    Broken { id: String, faults: Vec<String> },
    #[error("a copy of a trained model cannot be made: {0}")]
    Copy(#[from] io::Error),
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error(transparent)]
    Panicked(#[from] WorkPanicked),
}

impl fmt::Debug for TrainedModels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrainedModels").finish_non_exhaustive()
    }
}

impl TrainedModels {
    /// `data` is the server's data folder.
    pub fn new(files: Files, data: &Path, try_out: TryOut) -> Self {
        Self {
            files,
            copies: data.join("copies").join(FOLDER),
            try_out,
            known: Mutex::default(),
        }
    }

    /// All ids that are taken, those of models that are not whole among them.
    pub async fn ids(&self) -> Result<BTreeSet<String>, FilesError> {
        let files = self.files.list(&FilePath::from(FOLDER)).await?;
        Ok(files.iter().filter_map(id_of).collect())
    }

    /// Stores a model and serves it: here at once, on other replicas at their next look. A model of
    /// the same `training.json` may be installed again.
    pub async fn install(&self, models: &Models, new: TrainedModel) -> Result<(), TrainedError> {
        let TrainedModel { id, mut files } = new;
        let mut part =
            |name: &'static str| files.remove(name).ok_or(TrainedError::Missing { name });
        let (claim, onnx) = (part(provenance::FILE)?, part(ModelFiles::ONNX)?);
        let mut known = self.known.lock().await;
        let taken = || TrainedError::Taken { id: id.clone() };
        if models.get().is_own(&id) {
            return Err(taken());
        }
        let place = file_of(&id, provenance::FILE);
        let is_free = self.files.create(&place, claim.clone()).await?;
        if !is_free && self.files.read_if_there(&place).await?.as_ref() != Some(&claim) {
            return Err(taken());
        }
        if !self.versions().await?.contains_key(&id) {
            for (name, bytes) in files {
                self.files.write(&file_of(&id, &name), bytes).await?;
            }
            let place = file_of(&id, ModelFiles::ONNX);
            self.files.write(&place, onnx).await?;
        }
        self.look(&mut known, models).await?;
        match known.0.get(&id).map(|found| &found.loaded) {
            Some(Err(BrokenModel { faults, .. })) => Err(TrainedError::Broken {
                id,
                faults: faults.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// A tar of a model's folder, which is read as the tar is; none where no trained model has this
    /// id.
    pub async fn archive(&self, id: &str) -> Result<Option<Archive>, FilesError> {
        let paths = self.files.list(&folder_of(id)).await?;
        if !paths.contains(&file_of(id, ModelFiles::ONNX)) {
            return Ok(None);
        }
        let (files, folder) = (self.files.clone(), id.to_owned());
        let packed = stream::iter(paths).then(move |path| {
            let (files, folder) = (files.clone(), folder.clone());
            async move { pack(&files, &folder, &path).await }
        });
        // Two empty blocks are the end.
        let end = stream::iter([Ok(Bytes::from_static(&[0; 2 * BLOCK]))]);
        Ok(Some(packed.try_flatten().chain(end).boxed()))
    }

    /// Removes a model, on other replicas at their next look. False where no trained model has this
    /// id.
    pub async fn remove(&self, models: &Models, id: &str) -> Result<bool, FilesError> {
        let mut known = self.known.lock().await;
        if !self.ids().await?.contains(id) {
            return Ok(false);
        }
        // First the file that makes the folder a model, last the one that takes the id.
        let model = file_of(id, ModelFiles::ONNX);
        self.files.remove(vec![model]).await?;
        self.files.remove_all(&folder_of(id)).await?;
        if let Some(found) = known.0.remove(id) {
            models.change(|registry| known.put_into(registry));
            let copy = tokio::fs::remove_dir_all(self.copies.join(found.version));
            // There is none of a local folder; one that is left goes with the next change.
            let _ = copy.await;
        }
        Ok(true)
    }

    /// Picks up what other replicas installed and removed.
    pub async fn follow(&self, models: &Models) -> Result<(), TrainedError> {
        let mut known = self.known.lock().await;
        self.look(&mut known, models).await
    }

    /// Adds the models to a registry. The guard keeps others from changing them until the registry
    /// is in use.
    pub async fn add_to(&self, registry: &mut Registry) -> MutexGuard<'_, Known> {
        let known = self.known.lock().await;
        known.put_into(registry);
        known
    }

    /// Brings what is known up to date, model by model: a look that is broken off keeps those that
    /// it loaded.
    async fn look(&self, known: &mut Known, models: &Models) -> Result<(), TrainedError> {
        let stored = self.versions().await?;
        let count = known.0.len();
        known
            .0
            .retain(|id, found| stored.get(id) == Some(&found.version));
        let mut new = stored.clone();
        new.retain(|id, _| !known.0.contains_key(id));
        if count == known.0.len() && new.is_empty() {
            return Ok(());
        }
        models.change(|registry| known.put_into(registry));
        let mut failed = None;
        for (id, version) in new {
            match self.load(&id, &version).await {
                Ok(loaded) => {
                    tell(&id, &loaded);
                    known.0.insert(id, Found { version, loaded });
                    models.change(|registry| known.put_into(registry));
                }
                Err(error) => failed = Some(error),
            }
        }
        self.drop_copies(&stored).await?;
        failed.map_or(Ok(()), Err)
    }

    /// The whole models in the store, each with what tells it from another one of its id.
    async fn versions(&self) -> Result<BTreeMap<String, String>, FilesError> {
        let mut tags = BTreeMap::<String, BTreeMap<String, String>>::new();
        for (file, tag) in self.files.list_tagged(&FilePath::from(FOLDER)).await? {
            if let (Some(id), Some(name)) = (id_of(&file), file.filename()) {
                tags.entry(id).or_default().insert(name.to_owned(), tag);
            }
        }
        tags.retain(|_, files| files.contains_key(ModelFiles::ONNX));
        let version = |files| hex(&Sha256::digest(format!("{files:?}")));
        Ok(tags
            .into_iter()
            .map(|(id, files)| (id, version(files)))
            .collect())
    }

    async fn load(&self, id: &str, version: &str) -> Result<Loaded, TrainedError> {
        let folder = match self.files.local(&folder_of(id)) {
            Some(folder) => folder,
            None => self.copy(id, version).await?,
        };
        let try_out = self.try_out.clone();
        // Takes seconds, in which the pool's places belong to requests.
        let load = move || load(&folder, &try_out);
        Ok(tokio::task::spawn_blocking(load)
            .await
            .map_err(|_| WorkPanicked)?)
    }

    /// Downloads a folder once. One of its name is whole.
    async fn copy(&self, id: &str, version: &str) -> Result<PathBuf, TrainedError> {
        let place = self.copies.join(version);
        let folder = place.join(id);
        if folder.is_dir() {
            return Ok(folder);
        }
        tokio::fs::create_dir_all(&self.copies).await?;
        let part = tempfile::Builder::new()
            .prefix(PART)
            .tempdir_in(&self.copies)?;
        tokio::fs::create_dir(part.path().join(id)).await?;
        for file in self.files.list(&folder_of(id)).await? {
            let name = file.filename().unwrap_or_default();
            let copy = fs::File::create(part.path().join(id).join(name))?;
            self.files.download(&file, &copy).await?;
        }
        tokio::fs::rename(part.path(), &place).await?;
        Ok(folder)
    }

    /// Removes the copies of models that were removed or replaced, and of broken-off downloads.
    async fn drop_copies(&self, stored: &BTreeMap<String, String>) -> io::Result<()> {
        let mut copies = match tokio::fs::read_dir(&self.copies).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            copies => copies?,
        };
        while let Some(copy) = copies.next_entry().await? {
            let name = copy.file_name();
            if !stored.values().any(|version| name == version.as_str()) {
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
        registry.set_trained(self.0.values().map(|found| &found.loaded));
    }
}

/// Loads a model of the store. One without `training.json` was taken away while it was written.
fn load(folder: &Path, try_out: &TryOut) -> Loaded {
    let registry = Registry::of_one(folder, try_out.as_ref());
    let broken = match (registry.iter().next(), registry.broken.first()) {
        (Some(model), None) if model.provenance.is_some() => return Ok(model),
        (_, Some(broken)) => broken.clone(),
        (_, None) => {
            let id = folder.file_name().unwrap_or_default().to_string_lossy();
            let mut faults = registry.warnings.clone();
            faults.push(format!("{} is missing or broken", provenance::FILE));
            BrokenModel::new(id.into_owned(), faults)
        }
    };
    Err(broken.of_a_job())
}

fn tell(id: &str, loaded: &Loaded) {
    match loaded {
        Ok(_) => tracing::info!(model = id, "a trained model is served"),
        Err(broken) => {
            tracing::error!(model = id, "not served: {}", broken.faults.join("; "));
        }
    }
}

fn folder_of(id: &str) -> FilePath {
    FilePath::from_iter([FOLDER, id])
}

fn file_of(id: &str, name: &str) -> FilePath {
    folder_of(id).join(name)
}

/// The model that a file belongs to.
fn id_of(file: &FilePath) -> Option<String> {
    Some(file.parts().nth(1)?.as_ref().to_owned())
}
