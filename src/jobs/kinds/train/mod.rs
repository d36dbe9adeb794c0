//! `train`: fine-tunes a model on a data set and serves the result as a model of its own. A shard
//! is an epoch ([`Course`]); the end installs the trained model under its name, or, where that was
//! taken meanwhile, under the name with the job's id.

mod report;
mod spec;

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use futures::future::BoxFuture;
use serde_json::{Map, Value, json};

use spec::{Spec, Trained};

use super::{
    cost::{at_most, check_total},
    images::{enveloped, stored},
    output::writes_to_data,
    request_reader::RequestReader,
    training::{
        checks::{check_models, faults_of, taken, weight_bytes},
        course::{Course, opened},
        install::{folder, install},
    },
};
use crate::{
    app::App,
    dataset::{Dataset, is_id},
    faults::Faults,
    jobs::{
        Context, Format, JobError, Kind, Plan, PlannedShard, Report, Results, Shard, ShardResults,
        WorkError,
    },
    model::{Model, provenance::Origin},
    training::{EpochReport, Recipe, check_model, recipe},
};

pub static TRAIN: Train = Train;

#[derive(Debug)]
pub struct Train;

/// The folder of the checkpoints, in the job's.
const CHECKPOINTS: &str = "checkpoints";
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
            let report = course(context)?.epoch(shard.index).await?;
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
            let (spec, mut trained): (Spec, Trained) = (stored(&context.spec)?, stored(&reduced)?);
            let found = course(context)?.trained().await?;
            trained.epoch = Some(found.checkpoint.result_epoch());
            trained.left_out = Some(found.left_out);
            let write = move || found.trainer.model(&found.checkpoint);
            let files = context.app.pool().run(write).await??;
            let files = folder(files, &context.job)?;
            let installed = install(context, &spec.name, files).await?;
            trained.model = Some(installed.id);
            trained.warnings.extend(installed.warning);
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
    let model = asked.classifier();
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
    let name = read_name(&mut asked, |name| taken(app, &trained, name));
    let before = asked.faults.len();
    let recipe = Recipe::read(&mut asked);
    let is_settled = asked.faults.len() == before;
    let mut images = 0;
    if let (Some(model), Some(dataset), true) = (&model, &dataset, is_settled) {
        match check(app, &recipe, model, dataset).await? {
            Ok(found) => images = found,
            Err(faults) => asked.faults.append(faults, |fault| fault),
        }
    } else if let Some(model) = &model {
        // Whatever is trained on, and by whatever recipe.
        let faults = of_model(app, &Recipe::default(), model).await?;
        asked.faults.append(faults, |fault| fault);
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
    check_models(app, &trained, 1)?;
    // An image of an epoch costs an evaluation.
    check_total(
        app,
        images.saturating_mul(spec.recipe.epochs as u64),
        |most| vec![("epochs", at_most(most / images.max(1)))],
    )?;
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
fn read_name(asked: &mut RequestReader, taken: impl Fn(&str) -> Option<String>) -> Option<String> {
    const FORM: &str = "1 to 64 letters, digits, _, - and ., the first no .";
    if !asked.has("name") {
        asked.refuse("name", "is missing: the id of the trained model", &[FORM]);
    }
    let name = asked.take("name", &[FORM], |name: &String| is_id(name))?;
    if let Some(message) = taken(&name) {
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
    match opened(app, recipe.clone(), model.clone(), dataset.clone()).await {
        Ok((trainer, _)) => {
            let (training, validation) = trainer.images();
            Ok(Ok((training + validation) as u64))
        }
        Err(error) => {
            let (mut faults, others) = (faults_of(error)?, of_model(app, recipe, model).await?);
            faults.append(others, |fault| fault);
            faults.dedup();
            Ok(Err(faults))
        }
    }
}

/// What stands in the way whatever the images.
async fn of_model(app: &App, recipe: &Recipe, model: &Arc<Model>) -> Result<Faults, JobError> {
    let (recipe, model) = (recipe.clone(), model.clone());
    let checked = app.pool().run(move || check_model(&recipe, &model)).await?;
    checked
        .err()
        .map_or_else(|| Ok(Faults::default()), faults_of)
}

/// The training that the job was planned for.
fn course(context: &Context) -> Result<Course<'_>, WorkError> {
    let spec: Spec = stored(&context.spec)?;
    Ok(Course {
        context,
        folder: CHECKPOINTS.to_owned(),
        model: Origin {
            id: spec.model,
            hash: spec.model_hash,
        },
        dataset: Origin {
            id: spec.dataset,
            hash: spec.dataset_hash,
        },
        recipe: spec.recipe,
    })
}
