//! The fields of a job's request, read one by one: every fault is kept, and fields that nobody
//! asked for are faults too.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
};

use serde_json::{Map, Value};

use crate::{
    app::{App, plan::find_model},
    dataset::{Dataset, DatasetError},
    faults::{Fault, Faults, Reader},
    jobs::WorkError,
    methods::parameters,
    model::{Model, manifest::OutputKind},
    text::shown,
};

/// A [`Reader`] that knows models and data sets.
pub(super) struct RequestReader {
    app: App,
    reader: Reader,
}

impl Deref for RequestReader {
    type Target = Reader;

    fn deref(&self) -> &Reader {
        &self.reader
    }
}

impl DerefMut for RequestReader {
    fn deref_mut(&mut self) -> &mut Reader {
        &mut self.reader
    }
}

impl RequestReader {
    pub(super) fn new(given: Map<String, Value>, app: &App) -> Self {
        Self {
            app: app.clone(),
            reader: Reader::new(parameters::renamed(given)),
        }
    }

    pub(super) fn app(&self) -> &App {
        &self.app
    }

    /// `model`, by default the server's.
    pub(super) fn model(&mut self) -> Option<Arc<Model>> {
        let id = self.raw("model");
        find_model(&self.app.models(), id.as_ref())
            .map_err(|fault| self.faults.push(fault))
            .ok()
    }

    /// As [`Self::model`], of a job that needs classes.
    pub(super) fn classifier(&mut self) -> Option<Arc<Model>> {
        let model = self.model()?;
        let kind = match model.manifest.reading.kind {
            OutputKind::Classes => return Some(model),
            OutputKind::Regression => "a regression",
            OutputKind::Embedding => "an embedding",
        };
        let message = format!(
            "{} gives {kind}, not scores of classes, which this kind of job needs",
            shown(Value::from(model.id.as_str()))
        );
        self.refuse("model", message, &["a classifier"]);
        None
    }

    /// `dataset`, as it is now.
    pub(super) async fn dataset(&mut self) -> Option<Arc<Dataset>> {
        self.dataset_of("dataset").await
    }

    /// As [`Self::find_dataset`], of a field that may not be missing.
    pub(super) async fn dataset_of(&mut self, field: &'static str) -> Option<Arc<Dataset>> {
        let id = self.raw(field);
        if id.is_none() {
            let allowed = self.dataset_ids().await;
            self.faults.push(Fault::new(field, "is missing", allowed));
        }
        self.find_dataset(field, id?).await
    }

    /// The data set that a field names, as it is now.
    pub(super) async fn find_dataset(
        &mut self,
        field: &'static str,
        id: Value,
    ) -> Option<Arc<Dataset>> {
        let Some(id) = id.as_str() else {
            let (allowed, message) = (
                self.dataset_ids().await,
                format!("{} is not a text", shown(&id)),
            );
            self.faults.push(Fault::new(field, message, allowed));
            return None;
        };
        match self.app.datasets().open(id).await {
            Ok(dataset) => Some(dataset),
            Err(error) => {
                let allowed = self.dataset_ids().await;
                self.faults
                    .push(Fault::new(field, error.to_string(), allowed));
                None
            }
        }
    }

    /// As far as they can be told.
    async fn dataset_ids(&self) -> Vec<String> {
        self.app.datasets().ids().await.unwrap_or_default()
    }

    /// A field that a settled request carries so that it cannot be run on something else.
    pub(super) fn expect(&mut self, name: &'static str, found: Option<&str>) {
        let asked = self.raw(name);
        if let Some(asked) = asked
            && asked.as_str() != found
        {
            let message = format!(
                "is {} now: it has changed since; leave {name} out to use it as it is",
                found.unwrap_or("none")
            );
            self.refuse(name, message, &[]);
        }
    }

    /// What is left, for another reader, and the faults so far.
    pub(super) fn rest(self) -> (Map<String, Value>, Faults) {
        self.reader.rest()
    }

    pub(super) fn finish(self) -> Result<(), Faults> {
        let faults = self.reader.finish("is not a parameter of this kind of job");
        faults.settle(())
    }
}

/// The data set that a job was planned on, or why it cannot go on.
pub(super) async fn planned_dataset(
    app: &App,
    id: &str,
    hash: &str,
) -> Result<Arc<Dataset>, WorkError> {
    let dataset = match app.datasets().open(id).await {
        Err(error @ DatasetError::Unknown { .. }) => {
            return Err(WorkError::permanent(format!(
                "the data set was taken away: {error}"
            )));
        }
        Err(error @ DatasetError::Lost { .. }) => return Err(WorkError::permanent(error)),
        other => other.map_err(WorkError::transient)?,
    };
    if dataset.hash == hash {
        return Ok(dataset);
    }
    Err(WorkError::permanent(format!(
        "data set {id} has changed since the job was started (its hash was {hash}, and is {}); start it again",
        dataset.hash
    )))
}

/// The model that a job was planned on, with the patterns that it was planned on: those in use may
/// be others by now.
pub(super) async fn planned_model(
    app: &App,
    id: &str,
    hash: &str,
    patterns: Option<&str>,
) -> Result<Arc<Model>, WorkError> {
    // What the job's methods name may be newer than this replica's last look.
    app.follow_supports().await?;
    let model = app.models().get(id);
    let model =
        model.ok_or_else(|| WorkError::permanent(format!("model {id} is not there any more")))?;
    if model.hash != hash {
        let message =
            format!("model {id} is another one than when the job was started; start it again");
        return Err(WorkError::permanent(message));
    }
    match patterns {
        Some(patterns) => Ok(app.model_with_patterns(&model, patterns).await?),
        None => Ok(model),
    }
}
