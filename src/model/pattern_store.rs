//! Patterns fitted by jobs, shared by all replicas. The store of files keeps every version as
//! `patterns/<model>/<its hash>/<id>`; `current` beside them names the version in use and the file
//! in the model's folder that it overrides: a newer file in that folder wins. Layers are read from
//! the store if it is a local folder, else from a copy in the data folder.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use object_store::path::Path as FilePath;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use tokio::sync::Mutex;

use super::{
    Model,
    patterns::{self, PatternsError, id_of},
    registry::{Models, Registry},
};
use crate::{
    files::{Files, FilesError, hash, hex},
    pool::Pool,
};
use onnx_autodiff::autodiff::spec::Patterns;

const FOLDER: &str = "patterns";
const CURRENT: &str = "current";

#[derive(Debug)]
pub struct PatternStore {
    files: Files,
    pool: Pool,
    copies: PathBuf,
    /// Held while the patterns of models in this process are replaced, so that the last version
    /// named stays.
    changing: Mutex<()>,
}

/// The content of `current`: the version in use.
#[derive(Serialize, Deserialize)]
struct Current {
    id: String,
    replaces: Option<String>,
}

impl PatternStore {
    /// `data` is the server's data folder.
    pub fn new(files: Files, pool: Pool, data: &Path) -> Self {
        Self {
            files,
            pool,
            copies: data.join("copies"),
            changing: Mutex::default(),
        }
    }

    /// Stores a patterns file of the model `id` and puts it into use: here at once, on other
    /// replicas at their next poll. Returns its id; installing the same file again changes nothing.
    pub async fn install(
        &self,
        all: &Models,
        id: &str,
        file: Bytes,
    ) -> Result<String, PatternsError> {
        let _changing = self.changing.lock().await;
        let models = all.get();
        let missing = || {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("model {id} is not there any more"),
            )
        };
        let model = models.get(id).ok_or_else(missing)?;
        let current = Current {
            id: id_of(&hex(&Sha256::digest(&file))),
            replaces: models.own_patterns(id).map(|own| own.id.clone()),
        };
        self.files
            .write(&version(&model, &current.id), file)
            .await?;
        let patterns = self.open(&model, &current.id).await?;
        self.files
            .write(&current_of(&model), serde_json::json!(current).to_string())
            .await?;
        all.change(|registry| registry.set_patterns(&model, Some(patterns)));
        Ok(current.id)
    }

    /// Picks up what other replicas installed. A model whose patterns cannot be read keeps those it
    /// has.
    pub async fn follow(&self, models: &Models) -> Result<(), PatternsError> {
        let _changing = self.changing.lock().await;
        let changes = self.changes(&models.get()).await?;
        if !changes.is_empty() {
            models.change(|registry| apply(changes, registry));
        }
        Ok(())
    }

    /// Removes all versions of a model that is gone.
    pub async fn forget(&self, model: &Model) -> Result<(), FilesError> {
        let _changing = self.changing.lock().await;
        self.files.remove_all(&folder(model)).await
    }

    /// Replaces the registry, with the patterns that jobs fitted for its models where they can be
    /// read.
    pub async fn replace(&self, models: &Models, mut by: Registry) {
        let _changing = self.changing.lock().await;
        match self.changes(&by).await {
            Ok(changes) => apply(changes, &mut by),
            Err(error) => {
                tracing::warn!(%error, "patterns that jobs fitted are not in use yet")
            }
        }
        models.set(by);
    }

    /// The models that are to have other patterns.
    async fn changes(&self, models: &Registry) -> Result<Vec<Change>, PatternsError> {
        let mut changes = Vec::new();
        let named = self.files.list(&FilePath::from(FOLDER)).await?;
        for model in models.iter() {
            let wanted = match named.contains(&current_of(&model)) {
                true => self.wanted(models, &model).await,
                false => Ok(models.own_patterns(&model.id).cloned()),
            };
            match wanted {
                Ok(wanted) if id(wanted.as_ref()) == id(model.patterns.as_ref()) => {}
                Ok(wanted) => {
                    tracing::info!(
                        model = model.id,
                        patterns = id(wanted.as_ref()),
                        "other patterns are in use"
                    );
                    changes.push((model, wanted));
                }
                Err(error) => {
                    tracing::warn!(model = model.id, %error, "fitted patterns cannot be used")
                }
            }
        }
        Ok(changes)
    }

    async fn wanted(
        &self,
        models: &Registry,
        model: &Model,
    ) -> Result<Option<Patterns>, PatternsError> {
        let own = models.own_patterns(&model.id);
        let text = self.files.read(&current_of(model)).await?;
        let current: Current =
            serde_json::from_slice(&text).map_err(|error| PatternsError::Format {
                reason: error.to_string(),
            })?;
        if current.replaces.as_deref() != id(own) {
            return Ok(own.cloned());
        }
        match &model.patterns {
            Some(patterns) if patterns.id == current.id => Ok(Some(patterns.clone())),
            _ => self.open(model, &current.id).await.map(Some),
        }
    }

    /// The model with the patterns of this id, in use or not.
    pub async fn find(
        &self,
        models: &Registry,
        model: &Arc<Model>,
        id: &str,
    ) -> Result<Arc<Model>, PatternsError> {
        if model
            .patterns
            .as_ref()
            .is_some_and(|patterns| patterns.id == id)
        {
            return Ok(model.clone());
        }
        let patterns = match models.own_patterns(&model.id).filter(|own| own.id == id) {
            Some(own) => own.clone(),
            None => self.open(model, id).await?,
        };
        Ok(Arc::new(Model {
            patterns: Some(patterns),
            ..Model::clone(model)
        }))
    }

    async fn open(&self, model: &Model, id: &str) -> Result<Patterns, PatternsError> {
        let stored = version(model, id);
        let path = match self.files.local(&stored) {
            Some(path) => path,
            None => self.copy(&stored, id).await?,
        };
        let (model_hash, id) = (model.hash.clone(), id.to_owned());
        let read = move || match patterns::read(&path, &model_hash) {
            Ok((patterns, _)) if patterns.id == id => Ok(patterns),
            Err(PatternsError::File(error)) if error.kind() == io::ErrorKind::NotFound => {
                Err(PatternsError::Lost { id })
            }
            Ok(_) => Err(PatternsError::Lost { id }),
            Err(error) => Err(error),
        };
        self.pool.run(read).await?
    }

    /// Downloads a version once. A file under its name is complete and has its hash.
    async fn copy(&self, stored: &FilePath, id: &str) -> Result<PathBuf, PatternsError> {
        let path = stored
            .parts()
            .fold(self.copies.clone(), |below, part| below.join(part.as_ref()));
        if path.is_file() {
            return Ok(path);
        }
        let folder = path.parent().unwrap_or(&self.copies).to_owned();
        let make = move || {
            fs::create_dir_all(&folder)?;
            NamedTempFile::new_in(&folder)
        };
        let copy = self.pool.run(make).await??;
        match self.files.download(stored, copy.as_file()).await {
            Err(error) if error.is_missing() => {
                return Err(PatternsError::Lost { id: id.to_owned() });
            }
            downloaded => downloaded?,
        }
        let id = id.to_owned();
        let keep = move || {
            if id_of(&hash(copy.as_file())?) != id {
                return Err(PatternsError::Lost { id });
            }
            copy.persist(&path).map_err(|error| error.error)?;
            Ok(path)
        };
        self.pool.run(keep).await?
    }
}

/// A model, and the patterns that it is to have.
type Change = (Arc<Model>, Option<Patterns>);

fn apply(changes: Vec<Change>, registry: &mut Registry) {
    for (model, patterns) in changes {
        registry.set_patterns(&model, patterns);
    }
}

fn id(patterns: Option<&Patterns>) -> Option<&str> {
    patterns.map(|patterns| patterns.id.as_str())
}

fn folder(model: &Model) -> FilePath {
    FilePath::from_iter([FOLDER, &model.id, &model.hash])
}

fn version(model: &Model, id: &str) -> FilePath {
    folder(model).join(format!("{id}.safetensors"))
}

fn current_of(model: &Model) -> FilePath {
    folder(model).join(CURRENT)
}
