//! Models that clients upload: received file by file, checked as they would be served, kept in
//! versions, and taken away.

use std::{collections::BTreeMap, fs, io, path::Path, sync::Arc, time::SystemTime};

use serde_json::Value;
use tempfile::NamedTempFile;

use super::{App, AppError};
use crate::{
    dataset::{Arrival, ID_FORM, is_id},
    faults::{Fault, Faults},
    files,
    model::{
        Model,
        registry::Origin,
        uploaded::{self, Turn, UploadedError, Version},
    },
    pool::WorkPanicked,
    quota::{Reservation, on_disk},
    text::excerpt,
};

/// The part of an upload that a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelPart {
    /// The ONNX file.
    Model,
    /// External data, under the name by which the ONNX file knows it.
    Data(String),
    /// TOML or JSON.
    Manifest,
    Labels,
    Patterns,
}

/// Names of files in a model's folder.
const ONNX: &str = "model.onnx";
const MANIFEST: &str = "model.toml";
const LABELS: &str = "labels.txt";
const PATTERNS: &str = "patterns.safetensors";
const OWN: [&str; 6] = [
    ONNX,
    MANIFEST,
    LABELS,
    PATTERNS,
    "training.json",
    uploaded::RECORD,
];

/// The longest name of a file of external data, in bytes.
const LONGEST_NAME: usize = 200;
const NAME_FORM: &str = "the plain name by which the model refers to it, of letters, digits, spaces, `.`, `_` and `-`: no folder, no leading dot, at most 200 bytes";

impl ModelPart {
    /// Refuses a name of external data that is none, or that another file of the folder has.
    pub fn check(&self) -> Result<(), Fault> {
        let Self::Data(name) = self else {
            return Ok(());
        };
        let is_plain = !name.is_empty()
            && name.len() <= LONGEST_NAME
            && !name.starts_with('.')
            && !name.contains(['/', '\\', '\0', ':'])
            && files::keeps(name);
        let message = match (is_plain, OWN.contains(&name.as_str())) {
            (false, _) => format!("{} is no name of a file", excerpt(name)),
            (true, true) => format!("{name} is the name of another file of a model's folder"),
            (true, false) => return Ok(()),
        };
        Err(Fault::new("data", message, [NAME_FORM]))
    }

    fn file(&self) -> &str {
        match self {
            Self::Model => ONNX,
            Self::Data(name) => name,
            Self::Manifest => MANIFEST,
            Self::Labels => LABELS,
            Self::Patterns => PATTERNS,
        }
    }
}

impl App {
    /// The turn of an upload of this id: until it is dropped there is no other.
    pub async fn turn_to_upload(&self, id: &str) -> Result<Turn, AppError> {
        if !is_id(id) {
            let message = format!("{} is no id of a model", excerpt(id));
            return Err(Faults::from(Fault::new("id", message, [ID_FORM])).into());
        }
        let parts = &self.parts;
        let turn = parts
            .uploaded
            .turn(&parts.models, id, self.settings().max_models);
        Ok(turn.await?)
    }

    /// Puts an uploaded model to use as its next version, once it was loaded and run: here at once,
    /// on other replicas at their next look. Requests under way finish with the version that they
    /// began with. Nothing changes where the model cannot be served.
    pub async fn put_model(
        &self,
        turn: &Turn,
        files: Vec<(ModelPart, Arrival)>,
    ) -> Result<(Arc<Model>, Version), AppError> {
        let staged = self.datasets().temporary_folder().await?;
        let folder = staged.path().join(&turn.id);
        let mut received = Vec::with_capacity(files.len());
        for (part, arrival) in files {
            received.push((part, arrival.finish().await?));
        }
        let (app, place) = (self.clone(), folder.clone());
        let has_patterns = received
            .iter()
            .any(|(part, _)| matches!(part, ModelPart::Patterns));
        let check = move || {
            let rooms = settle(&place, received)?;
            let model = app.parts.uploaded.check(&place)?;
            if has_patterns && model.patterns.is_none() {
                let message =
                    "are none of this model: the file cannot be read, or holds those of another";
                let allowed =
                    ["patterns.safetensors, as explaind fit-patterns writes it for this ONNX file"];
                return Err(Faults::from(Fault::new("patterns", message, allowed)).into());
            }
            Ok::<_, AppError>((model, sizes(&place)?, rooms))
        };
        // Takes seconds, in which the pool's places belong to requests.
        let (model, sizes, _rooms) = tokio::task::spawn_blocking(check)
            .await
            .map_err(|_| WorkPanicked)??;
        let on_disk = sizes.values().map(|size| on_disk(*size)).sum();
        let version = Version {
            version: 0,
            created: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            hash: model.hash.clone(),
            bytes: sizes.values().sum(),
            files: sizes.into_keys().collect(),
        };
        let room = self.room_for_model(on_disk).await?;
        let (uploaded, keep) = (&self.parts.uploaded, self.settings().max_model_versions);
        let (version, removed) = uploaded
            .install(&self.parts.models, turn, &folder, version, keep)
            .await?;
        if let Some(room) = room {
            room.keep();
        }
        self.release(&removed);
        self.parts.reloaded.notify_one();
        let served = self.models().get(&turn.id);
        Ok((served.unwrap_or(model), version))
    }

    /// Of the data folder, where the store of files lies in it.
    async fn room_for_model(&self, bytes: u64) -> Result<Option<Reservation>, AppError> {
        if self.settings().object_store.is_some() {
            return Ok(None);
        }
        let quota = self.quota().clone();
        let reserve = move || quota.reserve(bytes);
        Ok(Some(self.pool().run(reserve).await??))
    }

    fn release(&self, removed: &[Version]) {
        if self.settings().object_store.is_none() {
            self.quota()
                .release(removed.iter().map(|version| on_disk(version.bytes)).sum());
        }
    }

    /// The versions of an uploaded model, the newest first, and the one in use.
    pub async fn model_versions(&self, id: &str) -> Result<(Vec<Version>, u32), AppError> {
        let found = self.parts.uploaded.versions(id).await?;
        found.ok_or_else(|| self.not_changeable(id))
    }

    /// Serves another version of an uploaded model, until the next upload.
    pub async fn roll_back_model(&self, id: &str, version: u32) -> Result<(), AppError> {
        let parts = &self.parts;
        match parts.uploaded.roll_back(&parts.models, id, version).await? {
            true => {
                parts.reloaded.notify_one();
                Ok(())
            }
            false => Err(self.not_changeable(id)),
        }
    }

    /// Removes a model that a job trained or a client uploaded, with its versions, patterns and sets
    /// of supports, and closes its sessions as requests let go of it.
    pub async fn delete_model(&self, id: &str) -> Result<(), AppError> {
        let parts = &self.parts;
        let before = self.models();
        let model = before.get(id).filter(|_| before.origin(id).is_some());
        let is_trained = match before.origin(id) {
            Some(Origin::Uploaded) => false,
            _ => parts.trained.remove(&parts.models, id).await?,
        };
        if !is_trained {
            match parts.uploaded.remove(&parts.models, id).await? {
                Some(removed) => self.release(&removed),
                None => return Err(self.not_changeable(id)),
            }
        }
        parts.reloaded.notify_one();
        if let Some(model) = model {
            parts.patterns.forget(&model).await?;
            parts.supports.forget(&model).await?;
        }
        Ok(())
    }

    /// Why a model cannot be changed: it is one of the server's, or there is none.
    pub(super) fn not_changeable(&self, id: &str) -> AppError {
        match self.models().get(id) {
            Some(_) => AppError::ConfiguredModel { id: id.to_owned() },
            None => AppError::UnknownModel {
                id: id.to_owned(),
                known: self.model_ids(),
            },
        }
    }
}

/// Moves received files to their places in a new folder. The room that is reserved for them is given
/// back.
fn settle(
    folder: &Path,
    received: Vec<(ModelPart, (NamedTempFile, Reservation))>,
) -> Result<Vec<Reservation>, AppError> {
    fs::create_dir(folder).map_err(UploadedError::Disk)?;
    let mut rooms = Vec::with_capacity(received.len());
    for (part, (file, room)) in received {
        file.persist(folder.join(part.file()))
            .map_err(|error| UploadedError::Disk(error.error))?;
        rooms.push(room);
    }
    settle_manifest(&folder.join(MANIFEST))?;
    Ok(rooms)
}

/// Of the files of a folder, by name.
fn sizes(folder: &Path) -> Result<BTreeMap<String, u64>, UploadedError> {
    let size = |entry: io::Result<fs::DirEntry>| {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        Ok((name, entry.metadata()?.len()))
    };
    let entries = fs::read_dir(folder).map_err(UploadedError::Disk)?;
    entries
        .map(size)
        .collect::<io::Result<_>>()
        .map_err(UploadedError::Disk)
}

/// The largest manifest, in bytes: as of a model's folder.
const MOST_MANIFEST: u64 = 1 << 20;

/// A manifest in JSON becomes one in TOML.
fn settle_manifest(path: &Path) -> Result<(), AppError> {
    let refuse = |message: String| Faults::from(Fault::new("manifest", message, ["TOML", "JSON"]));
    let length = match fs::metadata(path) {
        Err(_) => return Ok(()),
        Ok(found) => found.len(),
    };
    if length > MOST_MANIFEST {
        return Err(refuse(format!("is larger than {MOST_MANIFEST} bytes")).into());
    }
    let bytes = fs::read(path).map_err(UploadedError::Disk)?;
    let starts_as_json = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    if !starts_as_json {
        return Ok(());
    }
    let value: Value = serde_json::from_slice(&bytes)
        .map_err(|error| refuse(format!("is no JSON: {}", excerpt(&error.to_string()))))?;
    let text = toml::to_string(&value)
        .map_err(|error| refuse(format!("cannot be TOML: {}", excerpt(&error.to_string()))))?;
    Ok(fs::write(path, text).map_err(UploadedError::Disk)?)
}
