//! Models that jobs trained, shared by all replicas. The store of files has the folder of each as
//! `trained/<id>/`, an ordinary model folder. `training.json` is written first, and only where
//! there is none: it takes the id. `model.onnx` is last, and makes the folder a model. A store that
//! is not a local folder is copied to the data folder.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
};

use bytes::Bytes;
use object_store::path::Path as FilePath;
use tokio::sync::MutexGuard;

use super::{
    provenance,
    registry::{ModelFiles, Models, Origin, Registry},
    shelf::{Archive, Known, Shelf, ShelfError, Stored, TryOut},
};
use crate::files::{Files, FilesError};

const FOLDER: &str = "trained";

pub struct TrainedModels(Shelf);

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
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error(transparent)]
    Shelf(#[from] ShelfError),
}

impl fmt::Debug for TrainedModels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrainedModels").finish_non_exhaustive()
    }
}

impl TrainedModels {
    /// `data` is the server's data folder.
    pub fn new(files: Files, data: &Path, try_out: TryOut) -> Self {
        let copies = data.join("copies").join(FOLDER);
        Self(Shelf::new(files, copies, try_out, Origin::Trained))
    }

    /// All ids that are taken, those of models that are not whole among them.
    pub async fn ids(&self) -> Result<BTreeSet<String>, FilesError> {
        let files = self.0.files.list(&FilePath::from(FOLDER)).await?;
        Ok(files.iter().filter_map(id_of).collect())
    }

    /// Stores a model and serves it: here at once, on other replicas at their next look. A model of
    /// the same `training.json` may be installed again.
    pub async fn install(&self, models: &Models, new: TrainedModel) -> Result<(), TrainedError> {
        let TrainedModel { id, mut files } = new;
        let mut part =
            |name: &'static str| files.remove(name).ok_or(TrainedError::Missing { name });
        let (claim, onnx) = (part(provenance::FILE)?, part(ModelFiles::ONNX)?);
        let mut known = self.0.known.lock().await;
        let taken = || TrainedError::Taken { id: id.clone() };
        let now = models.get();
        if now.is_own(&id) || now.origin(&id) == Some(Origin::Uploaded) {
            return Err(taken());
        }
        let place = file_of(&id, provenance::FILE);
        let is_free = self.0.files.create(&place, claim.clone()).await?;
        if !is_free && self.0.files.read_if_there(&place).await?.as_ref() != Some(&claim) {
            return Err(taken());
        }
        if !self.stored().await?.contains_key(&id) {
            for (name, bytes) in files {
                self.0.files.write(&file_of(&id, &name), bytes).await?;
            }
            let place = file_of(&id, ModelFiles::ONNX);
            self.0.files.write(&place, onnx).await?;
        }
        self.0
            .look(&mut known, models, self.stored().await?)
            .await?;
        match known.faults(&id).map(<[String]>::to_vec) {
            Some(faults) => Err(TrainedError::Broken { id, faults }),
            None => Ok(()),
        }
    }

    /// A tar of a model's folder, which is read as the tar is; none where no trained model has this
    /// id.
    pub async fn archive(&self, id: &str) -> Result<Option<Archive>, FilesError> {
        self.0.archive(&folder_of(id)).await
    }

    /// Removes a model, on other replicas at their next look. False where no trained model has this
    /// id.
    pub async fn remove(&self, models: &Models, id: &str) -> Result<bool, FilesError> {
        let mut known = self.0.known.lock().await;
        if !self.ids().await?.contains(id) {
            return Ok(false);
        }
        // First the file that makes the folder a model, last the one that takes the id.
        let model = file_of(id, ModelFiles::ONNX);
        self.0.files.remove(vec![model]).await?;
        self.0.files.remove_all(&folder_of(id)).await?;
        self.0.forget(&mut known, models, id).await;
        Ok(true)
    }

    /// Picks up what other replicas installed and removed.
    pub async fn follow(&self, models: &Models) -> Result<(), TrainedError> {
        let mut known = self.0.known.lock().await;
        Ok(self
            .0
            .look(&mut known, models, self.stored().await?)
            .await?)
    }

    /// See [`Shelf::add_to`].
    pub async fn add_to(&self, registry: &mut Registry) -> MutexGuard<'_, Known> {
        self.0.add_to(registry).await
    }

    /// The whole models in the store.
    async fn stored(&self) -> Result<BTreeMap<String, Stored>, FilesError> {
        let mut tags = BTreeMap::<String, BTreeMap<String, String>>::new();
        for (file, tag) in self.0.files.list_tagged(&FilePath::from(FOLDER)).await? {
            if let (Some(id), Some(name)) = (id_of(&file), file.filename()) {
                tags.entry(id).or_default().insert(name.to_owned(), tag);
            }
        }
        tags.retain(|_, files| files.contains_key(ModelFiles::ONNX));
        let stored = |(id, files): (String, BTreeMap<String, String>)| {
            let stored = Stored::new(folder_of(&id), &files);
            (id, stored)
        };
        Ok(tags.into_iter().map(stored).collect())
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
