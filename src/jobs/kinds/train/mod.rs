//! `train`: fine-tunes a model on a data set and serves the result as a model of its own. A shard
//! is an epoch ([`super::chain`]); the end installs the trained model under its name, or, where that
//! was taken meanwhile, under the name with the job's id.

mod kept;
mod report;
mod spec;

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use serde_json::{Map, Value, json};

use kept::Opened;
use spec::{Spec, Trained};

use super::{
    chain::{Chain, Step},
    images::{enveloped, stored},
    output::{reserve, writes_to_data},
    request_reader::{RequestReader, planned_dataset, planned_model},
};
use crate::{
    app::App,
    dataset::{Dataset, is_id},
    faults::{Fault, Faults},
    jobs::{
        Context, Format, JobError, Kind, Plan, PlannedShard, Report, Results, Shard, ShardResults,
        WorkError,
    },
    model::{
        Model,
        provenance::{self, Provenance},
        trained::{TrainedError, TrainedModel},
    },
    training::{EpochReport, Examples, ModelFile, Recipe, Trainer, TrainingError, recipe},
};

pub static TRAIN: Train = Train;

#[derive(Debug)]
pub struct Train;

/// The folder of the checkpoints, in the job's.
const CHECKPOINTS: &str = "checkpoints";
/// Digits of the job's id behind a name that was taken.
const SUFFIX: usize = 8;
/// Times the weights: two checkpoints of weights, two moments and the best weights, and the model.
const COPIES: u64 = 9;

static PARAMETERS: LazyLock<Vec<(&'static str, &'static str)>> = LazyLock::new(|| {
    let own = [
        ("model", "the model's id; default: as for POST /explain"),
        ("dataset", "the id of the data set, with labels"),
        (
            "name",
            "the id of the trained model: letters, digits, `_`, `-` and `.`, at most 64; no model may have it yet",
        ),
    ];
    own.iter().chain(recipe::FIELDS).copied().collect()
});

impl Kind for Train {
    fn id(&self) -> &'static str {
        "train"
    }

    fn doc(&self) -> &'static str {
        "Fine-tunes a model on a data set, epoch by epoch; the result is a model of its own, which is served at the job's end"
    }

    fn parameters(&self) -> &'static [(&'static str, &'static str)] {
        &PARAMETERS
    }

    fn plan<'a>(
        &'a self,
        given: Map<String, Value>,
        app: &'a App,
    ) -> BoxFuture<'a, Result<Plan, JobError>> {
        Box::pin(plan(given, app))
    }

    fn work<'a>(
        &'a self,
        context: &'a Context,
        shard: &'a Shard,
    ) -> BoxFuture<'a, Result<Bytes, WorkError>> {
        Box::pin(async move {
            let chain = Chain::new(context, CHECKPOINTS);
            let report = match chain.step(shard.index).await? {
                Step::Done(report) => report,
                Step::Run(from) => {
                    let opened = open(context).await?;
                    let report = chain.run(&opened.0, from).await?;
                    kept::keep(&context.job, opened);
                    Some(report)
                }
            };
            let report = serde_json::to_vec(&report).map_err(WorkError::permanent)?;
            Ok(report.into())
        })
    }

    fn reduce(&self, _: &Value, results: Results<'_>) -> Result<Value, WorkError> {
        let mut epochs = Vec::new();
        for result in results.flatten() {
            let report: Option<EpochReport> =
                serde_json::from_slice(&result).map_err(WorkError::permanent)?;
            epochs.extend(report);
        }
        Ok(json!(Trained {
            epochs,
            ..Trained::default()
        }))
    }

    fn complete<'a>(
        &'a self,
        context: &'a Context,
        reduced: Value,
        _: ShardResults,
    ) -> BoxFuture<'a, Result<Value, WorkError>> {
        Box::pin(async move {
            let mut trained: Trained = stored(&reduced)?;
            let checkpoint = Chain::new(context, CHECKPOINTS).last().await?;
            trained.epoch = Some(checkpoint.result_epoch());
            let (trainer, left_out) = open(context).await?;
            trained.left_out = Some(left_out);
            let write = move || trainer.model(&checkpoint);
            let files = context.app.pool().run(write).await??;
            install(context, files, &mut trained).await?;
            Ok(json!(trained))
        })
    }

    fn formats(&self) -> &'static [Format] {
        &[
            Format::Html,
            Format::Json,
            Format::Csv,
            Format::Svg,
            Format::Png,
        ]
    }

    fn report(&self, request: &Value, result: &Value, format: Format) -> Result<Report, WorkError> {
        if format == Format::Json {
            return Ok(Report::Bytes(enveloped(self.id(), request, result)?.into()));
        }
        let (spec, trained): (Spec, Trained) = (stored(request)?, stored(result)?);
        let written = report::write(&spec, request, &trained, format);
        Ok(Report::Bytes(written.map_err(WorkError::permanent)?.into()))
    }
}

async fn plan(given: Map<String, Value>, app: &App) -> Result<Plan, JobError> {
    let mut asked = RequestReader::new(given, app);
    let model = asked.model();
    let dataset = asked.dataset().await;
    asked.expect(
        "model_hash",
        model.as_ref().map(|model| model.hash.as_str()),
    );
    asked.expect(
        "dataset_hash",
        dataset.as_ref().map(|dataset| dataset.hash.as_str()),
    );
    let trained = app.trained_models().await?;
    let name = read_name(&mut asked, |name| {
        app.models().is_own(name) || trained.contains(name)
    });
    let before = asked.faults.len();
    let recipe = Recipe::read(&mut asked);
    let is_settled = asked.faults.len() == before;
    let mut images = 0;
    if let (Some(model), Some(dataset), true) = (&model, &dataset, is_settled) {
        match check(app, &recipe, model, dataset).await? {
            Ok(found) => images = found,
            Err(faults) => asked.faults.append(faults, |fault| fault),
        }
    }
    asked.finish()?;
    let (Some(model), Some(dataset), Some(name)) = (model, dataset, name) else {
        return Err(Faults::default().into());
    };
    let spec = Spec {
        model: model.id.clone(),
        model_hash: model.hash.clone(),
        dataset: dataset.id.clone(),
        dataset_hash: dataset.hash.clone(),
        name,
        recipe,
    };
    let most = app.settings().max_trained_models;
    if trained.len() >= most {
        return Err(JobError::TooManyModels { limit: most });
    }
    check_cost(app, images, spec.recipe.epochs)?;
    if writes_to_data(app) {
        // It is asked for again when files are written: others may take it until then.
        let (quota, bytes) = (app.quota().clone(), COPIES * weight_bytes(&model));
        app.pool().run(move || quota.reserve(bytes)).await??;
    }
    let shards = (0..spec.recipe.epochs).map(|_| PlannedShard {
        units: images,
        payload: Value::Null,
        needs_previous: true,
    });
    Ok(Plan {
        model: Some(model.id.clone()),
        shards: shards.collect(),
        spec: json!(spec),
    })
}

/// The name of the new model.
fn read_name(asked: &mut RequestReader, is_taken: impl Fn(&str) -> bool) -> Option<String> {
    const FORM: &str = "1 to 64 letters, digits, _, - and ., the first no .";
    if !asked.has("name") {
        asked.refuse("name", "is missing: the id of the trained model", &[FORM]);
    }
    let name = asked.take("name", &[FORM], |name: &String| is_id(name))?;
    if is_taken(&name) {
        let message = format!(
            "there is a model {name} already: take another name, or DELETE /models/{name} where a job trained it"
        );
        asked.refuse("name", message, &[]);
    }
    Some(name)
}

/// The images of an epoch, or what stands in the way of the training.
async fn check(
    app: &App,
    recipe: &Recipe,
    model: &Arc<Model>,
    dataset: &Arc<Dataset>,
) -> Result<Result<u64, Faults>, JobError> {
    match trainer(app, recipe.clone(), model.clone(), dataset.clone()).await {
        Ok((trainer, _)) => {
            let (training, validation) = trainer.images();
            Ok(Ok((training + validation) as u64))
        }
        Err(TrainingError::Parameters(faults)) => Ok(Err(faults)),
        Err(error) => match param_of(&error) {
            Some(param) => Ok(Err(Fault::says(param, error.to_string()).into())),
            None => Err(WorkError::from(error).into()),
        },
    }
}

/// The parameter that an obstacle is about; none where it is the server's.
pub(super) fn param_of(error: &TrainingError) -> Option<&'static str> {
    match error {
        TrainingError::TakesTensors { .. }
        | TrainingError::NotInModel { .. }
        | TrainingError::Derive(_) => Some("model"),
        TrainingError::NoImages { .. }
        | TrainingError::EmptyClass { .. }
        | TrainingError::OneClass { .. }
        | TrainingError::Label { .. }
        | TrainingError::Image { .. } => Some("dataset"),
        TrainingError::NoValidation { .. } => Some("validation"),
        TrainingError::LossOfLogits | TrainingError::Targets { .. } => Some("loss"),
        TrainingError::Head { .. } => Some("new_head"),
        TrainingError::UnknownLayer { .. } | TrainingError::NothingToTrain { .. } => Some("train"),
        TrainingError::Memory { .. } => Some("model"),
        TrainingError::Parameters(_)
        | TrainingError::NotFinite { .. }
        | TrainingError::Checkpoint { .. }
        | TrainingError::Output { .. }
        | TrainingError::Dataset(_)
        | TrainingError::File { .. }
        | TrainingError::Engine(_)
        | TrainingError::Panicked(_) => None,
    }
}

/// An image of an epoch costs an evaluation.
fn check_cost(app: &App, images: u64, epochs: usize) -> Result<(), JobError> {
    let most = app.settings().max_job_evaluations;
    let found = images.saturating_mul(epochs as u64);
    if found <= most {
        return Ok(());
    }
    let affordable = most / images.max(1);
    let epochs = (affordable > 0).then(|| format!("1 to {affordable}"));
    Err(JobError::TooCostly {
        what: "the job costs",
        found,
        unit: "evaluations",
        most,
        setting: "max_job_evaluations",
        lower: vec![("epochs", epochs)],
    })
}

fn weight_bytes(model: &Model) -> u64 {
    let weights = model.graph.initializers.values();
    weights.map(|weight| weight.bytes.len() as u64).sum()
}

async fn trainer(
    app: &App,
    recipe: Recipe,
    model: Arc<Model>,
    dataset: Arc<Dataset>,
) -> Result<Opened, TrainingError> {
    if model.manifest.input.preprocess.is_none() {
        return Err(TrainingError::TakesTensors {
            model: model.id.clone(),
            shape: model.manifest.input.shape.clone(),
        });
    }
    let (of, images, new_head) = (model.clone(), dataset.clone(), recipe.new_head);
    let labelled = move || Examples::labelled(&images, &of, new_head);
    let examples = app.pool().run(labelled).await??;
    let left_out = examples.left_out.clone();
    let trainer = Trainer::new(recipe, model, dataset, examples, app.training()).await?;
    Ok((trainer, left_out))
}

/// The training that the job was planned for.
async fn open(context: &Context) -> Result<Opened, WorkError> {
    let (app, spec): (_, Spec) = (&context.app, stored(&context.spec)?);
    let model = planned_model(app, &spec.model, &spec.model_hash, None).await?;
    let dataset = planned_dataset(app, &spec.dataset, &spec.dataset_hash).await?;
    if let Some(kept) = kept::take(&context.job) {
        return Ok(kept);
    }
    Ok(trainer(app, spec.recipe, model, dataset).await?)
}

/// Serves the trained model.
async fn install(
    context: &Context,
    files: Vec<ModelFile>,
    trained: &mut Trained,
) -> Result<(), WorkError> {
    let spec: Spec = stored(&context.spec)?;
    let mut named = BTreeMap::new();
    for ModelFile { name, mut bytes } in files {
        if name == provenance::FILE {
            let mut provenance: Provenance =
                serde_json::from_slice(&bytes).map_err(WorkError::permanent)?;
            provenance.job = Some(context.job.clone());
            bytes = serde_json::to_vec_pretty(&provenance).map_err(WorkError::permanent)?;
        }
        named.insert(name.to_owned(), Bytes::from(bytes));
    }
    let app = context.app.clone();
    let lengths: Vec<u64> = named.values().map(|bytes| bytes.len() as u64).collect();
    let room = move || reserve(&app, lengths.into_iter());
    let room = context.app.pool().run(room).await?;
    let room = room.map_err(WorkError::transient)?;
    let model = |id: &str| TrainedModel {
        id: id.to_owned(),
        files: named.clone(),
    };
    let mut id = spec.name.clone();
    match context.app.install_model(model(&id)).await {
        Err(TrainedError::Taken { .. }) => {
            id = renamed(&spec.name, &context.job);
            context.app.install_model(model(&id)).await?;
            let warning = format!(
                "another model is called {} by now: this one is served as {id}",
                spec.name
            );
            trained.warnings.push(warning);
        }
        installed => installed?,
    }
    trained.model = Some(id);
    if let Some(room) = room {
        room.keep();
    }
    Ok(())
}

/// A name that is the job's alone, as long as names may be.
pub(super) fn renamed(name: &str, job: &str) -> String {
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
            TrainedError::Copy(_) | TrainedError::Files(_) | TrainedError::Panicked(_) => {
                Self::transient(error)
            }
        }
    }
}
