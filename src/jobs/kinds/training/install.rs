//! Puts a trained model to use.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::{
    jobs::{Context, WorkError, kinds::output::reserve},
    model::{
        provenance::{self, Provenance},
        trained::{TrainedError, TrainedModel},
    },
    training::ModelFile,
};

/// Digits of the job's id behind a name that was taken.
const SUFFIX: usize = 8;

/// A model that is served.
pub(in crate::jobs::kinds) struct Installed {
    pub id: String,
    /// That it has another name than it was to have.
    pub warning: Option<String>,
}

/// The files of a model's folder, by name; its provenance names the job.
pub(in crate::jobs::kinds) fn folder(
    files: Vec<ModelFile>,
    job: &str,
) -> Result<BTreeMap<String, Bytes>, WorkError> {
    let mut named = BTreeMap::new();
    for ModelFile { name, mut bytes } in files {
        if name == provenance::FILE {
            let mut provenance: Provenance =
                serde_json::from_slice(&bytes).map_err(WorkError::permanent)?;
            provenance.job = Some(job.to_owned());
            bytes = serde_json::to_vec_pretty(&provenance).map_err(WorkError::permanent)?;
        }
        named.insert(name.to_owned(), Bytes::from(bytes));
    }
    Ok(named)
}

/// Serves a model by this name; where that was taken meanwhile, by the name with the job's id.
pub(in crate::jobs::kinds) async fn install(
    context: &Context,
    name: &str,
    files: BTreeMap<String, Bytes>,
) -> Result<Installed, WorkError> {
    let app = context.app.clone();
    let lengths: Vec<u64> = files.values().map(|bytes| bytes.len() as u64).collect();
    let room = move || reserve(&app, lengths.into_iter());
    let room = context.app.pool().run(room).await?;
    let room = room.map_err(WorkError::transient)?;
    let model = |id: &str| TrainedModel {
        id: id.to_owned(),
        files: files.clone(),
    };
    let mut installed = Installed {
        id: name.to_owned(),
        warning: None,
    };
    match context.app.install_model(model(name)).await {
        Err(TrainedError::Taken { .. }) => {
            let id = renamed(name, &context.job);
            context.app.install_model(model(&id)).await?;
            let warning =
                format!("another model is called {name} by now: this one is served as {id}");
            installed = Installed {
                id,
                warning: Some(warning),
            };
        }
        done => done?,
    }
    if let Some(room) = room {
        room.keep();
    }
    Ok(installed)
}

/// A name that is the job's alone, as long as names may be.
pub(in crate::jobs::kinds) fn renamed(name: &str, job: &str) -> String {
    const LONGEST: usize = 64;
    let cut = name.len().min(LONGEST - SUFFIX - 1);
    let (name, job) = (
        name.get(..cut).unwrap_or(name),
        job.get(..SUFFIX).unwrap_or(job),
    );
    format!("{name}-{job}")
}

impl From<TrainedError> for WorkError {
    fn from(error: TrainedError) -> Self {
        match error {
            TrainedError::Missing { .. }
            | TrainedError::Taken { .. }
            | TrainedError::Broken { .. } => Self::permanent(error),
            TrainedError::Files(_) | TrainedError::Shelf(_) => Self::transient(error),
        }
    }
}
