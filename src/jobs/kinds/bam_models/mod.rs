//! `bam_models`: trains the models of BAM on what a job of kind `bam_data` made: f_o on the objects'
//! labels, f_s on the scenes', and f^k on each set of the common feature. One model after another has
//! its epochs ([`Course`]) and is judged as in the paper's Figure 2; the end puts them all to use.
//! Source: Yang & Kim, "BAM", sections 3.3 and 3.4.

mod judge;
mod report;
mod sets;
mod spec;

use std::sync::LazyLock;

use bytes::Bytes;
use futures::future::BoxFuture;
use object_store::path::Path;
use serde_json::{Map, Value, json};

use judge::{Judged, pictures};
use sets::{Images, Sets};
use spec::{Done, End, Member, Part, Spec, Trained};

use super::{
    cost::{at_most, check_total},
    images::{enveloped, forward, stored},
    output::{self, writes_to_data},
    request_reader::{RequestReader, planned_dataset},
    training::{
        checks::{check_models, taken, weight_bytes},
        course::{self, Course},
        install::{folder, install},
    },
};
use crate::{
    app::App,
    dataset::{ID_FORM, is_id},
    faults::Faults,
    jobs::{
        Context, Format, JobError, Kind, Plan, PlannedShard, Report, Results, Shard, ShardResults,
        WorkError,
    },
    model::{Model, provenance::Origin},
    training::{
        Loss, Recipe,
        recipe::{self, MAX_EPOCHS},
    },
};

pub static BAM_MODELS: BamModels = BamModels;

#[derive(Debug)]
pub struct BamModels;

/// Where they are not those of a training: all pictures are trained on, as in the paper; others
/// judge.
const DEFAULTS: [(&str, f64); 1] = [("validation", 0.0)];
const FEATURE_EPOCHS: &str = "feature_epochs";
/// Files of the model that is trained, in copies of its weights: two checkpoints with two moments and
/// the best weights.
const COPIES: u64 = 8;

static PARAMETERS: LazyLock<Vec<(&'static str, &'static str)>> = LazyLock::new(|| {
    let own = [
        (
            "model",
            "the id of the model that all start from; default: as for POST /explain",
        ),
        (
            "data",
            "the start of the ids of the data sets: the id that the job of kind bam_data was given",
        ),
        (
            "name",
            "the start of the new models' ids, such as bam for bam_object; no models may have them yet; default: `data`",
        ),
        (
            FEATURE_EPOCHS,
            "epochs of the models of the common feature, whose sets are smaller: 1 to 1000; default: as many as give them the steps of the others",
        ),
        (
            "validation",
            "share of the train images that are not trained on but judged after each epoch: 0 to 0.5 (0)",
        ),
    ];
    let fixed = ["loss", "new_head"];
    let is_other = |(name, _): &&(&str, &str)| {
        !fixed.contains(name) && !own.iter().any(|(own, _)| own == name)
    };
    own.iter()
        .chain(recipe::FIELDS.iter().filter(is_other))
        .copied()
        .collect()
});

impl Kind for BamModels {
    fn id(&self) -> &'static str {
        "bam_models"
    }

    fn doc(&self) -> &'static str {
        "Trains BAM's models on data of bam_data, of objects, of scenes and of the common feature, and measures how much each needs objects and scenes"
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
            let spec: Spec = stored(&context.spec)?;
            let done = match stored(&shard.payload)? {
                Part::Epoch { model, done } => {
                    if let Some(before) = model.checked_sub(1).filter(|_| done == 0) {
                        // It is judged: nobody needs its checkpoints any more.
                        let before = course(context, &spec, member(&spec, before)?)?;
                        before.chain().clear().await?;
                    }
                    let course = course(context, &spec, member(&spec, model)?)?;
                    Done::Epoch {
                        model,
                        report: course.epoch(done).await?,
                    }
                }
                Part::Judge { model } => Done::Judge {
                    model,
                    end: Box::new(end(context, &spec, member(&spec, model)?).await?),
                },
            };
            let result = serde_json::to_vec(&done).map_err(WorkError::permanent)?;
            Ok(result.into())
        })
    }

    fn reduce(&self, spec: &Value, results: Results<'_>) -> Result<Value, WorkError> {
        let mut trained = Trained::of(&stored(spec)?);
        for result in results.flatten() {
            match serde_json::from_slice(&result).map_err(WorkError::permanent)? {
                Done::Epoch { model, report } => {
                    if let Some(model) = trained.models.get_mut(model) {
                        model.epochs.extend(report);
                    }
                }
                Done::Judge { model, end } => {
                    if let Some(model) = trained.models.get_mut(model) {
                        model.end = Some(*end);
                    }
                }
            }
        }
        Ok(json!(trained))
    }

    fn complete<'a>(
        &'a self,
        context: &'a Context,
        reduced: Value,
        _: ShardResults,
    ) -> BoxFuture<'a, Result<Value, WorkError>> {
        Box::pin(async move {
            let (spec, mut trained): (Spec, Trained) = (stored(&context.spec)?, stored(&reduced)?);
            let members = spec.members();
            if let Some(last) = members.last() {
                course(context, &spec, *last)?.chain().clear().await?;
            }
            for (member, model) in members.into_iter().zip(&mut trained.models) {
                let mut files = Vec::new();
                for path in context.files().list(&place(context, member)).await? {
                    let bytes = context.files().read(&path).await?;
                    files.extend(path.filename().map(|name| (name.to_owned(), bytes)));
                }
                let files = files.into_iter().collect();
                let installed = install(context, &member.id(&spec.name), files).await?;
                model.model = Some(installed.id);
                trained.warnings.extend(installed.warning);
            }
            Ok(json!(trained))
        })
    }

    fn formats(&self) -> &'static [Format] {
        &[Format::Html, Format::Json, Format::Csv]
    }

    fn report(&self, request: &Value, result: &Value, format: Format) -> Result<Report, WorkError> {
        if format == Format::Json {
            return Ok(Report::Bytes(enveloped(self.id(), request, result)?.into()));
        }
        let (spec, trained): (Spec, Trained) = (stored(request)?, stored(result)?);
        let written = match format {
            Format::Csv => report::table(&trained),
            _ => report::document(&spec, request, &trained).map(String::into_bytes),
        };
        Ok(Report::Bytes(written.map_err(WorkError::permanent)?.into()))
    }
}

async fn plan(mut given: Map<String, Value>, app: &App) -> Result<Plan, JobError> {
    given.retain(|_, value| !value.is_null());
    for (name, default) in DEFAULTS {
        given.entry(name).or_insert_with(|| json!(default));
    }
    given.entry("new_head").or_insert_with(|| json!(true));
    let mut asked = RequestReader::new(given, app);
    let model = asked.classifier();
    asked.expect(
        "model_hash",
        model.as_ref().map(|model| model.hash.as_str()),
    );
    if !asked.has("data") {
        let message = "is missing: the id that the job of kind bam_data was given";
        asked.refuse("data", message, &[ID_FORM]);
    }
    let data = asked.take("data", &[ID_FORM], |data: &String| is_id(data));
    let name = match asked.has("name") {
        true => asked.take("name", &[ID_FORM], |name: &String| is_id(name)),
        false => data.clone(),
    };
    let before = asked.faults.len();
    let feature_epochs = asked.take(FEATURE_EPOCHS, &["1 to 1000"], recipe::is_epoch_count);
    let recipe = Recipe::read(&mut asked);
    if recipe.loss != Loss::CrossEntropy {
        asked.refuse(
            "loss",
            "is fixed: these models are trained with cross-entropy",
            &["cross_entropy"],
        );
    }
    if !recipe.new_head {
        let message = "has the classes of another data set";
        asked.refuse("new_head", message, &["true"]);
    }
    let is_settled = asked.faults.len() == before;
    let sets = match &data {
        Some(data) => Some(Sets::find(&mut asked, data).await?),
        None => None,
    };
    let hashes = sets.as_ref().map(Sets::hashes).unwrap_or_default();
    if asked
        .raw("dataset_hashes")
        .is_some_and(|known| known != json!(hashes))
    {
        let message = "are others now: data sets have changed since; leave dataset_hashes out to use them as they are";
        asked.refuse("dataset_hashes", message, &[]);
    }
    let trained = app.trained_models().await?;
    if let (Some(name), Some(sets)) = (&name, &sets) {
        refuse_ids(&mut asked, name, &sets.members(), |id| {
            taken(app, &trained, id)
        });
    }
    let mut images = Vec::new();
    if let (Some(model), Some(sets), true) = (&model, &sets, is_settled) {
        images = sets.check(&mut asked, &recipe, model).await?;
    }
    let has_feature = sets.as_ref().is_some_and(Sets::has_feature);
    if sets.is_some() && feature_epochs.is_some() && !has_feature {
        let message =
            "there is no set of a common feature: bam_data makes them with a common_feature";
        asked.refuse(FEATURE_EPOCHS, message, &[]);
    }
    asked.finish()?;
    let (Some(model), Some(data), Some(name)) = (model, data, name) else {
        return Err(Faults::default().into());
    };
    let spec = Spec {
        model: model.id.clone(),
        model_hash: model.hash.clone(),
        data,
        name,
        dataset_hashes: hashes,
        feature_epochs: has_feature
            .then(|| feature_epochs.unwrap_or_else(|| as_many_steps(recipe.epochs, &images))),
        recipe,
    };
    let members = spec.members();
    let epochs = members.iter().map(|member| spec.recipe_of(*member).epochs);
    let epochs: Vec<usize> = epochs.collect();
    check_models(app, &trained, images.len())?;
    check_cost(app, &images, &epochs)?;
    reserve(app, &model, images.len() as u64).await?;
    let each = images.iter().zip(epochs).enumerate();
    let parts = each.flat_map(|(model, (images, epochs))| {
        let epochs = (0..epochs).map(move |done| Part::Epoch { model, done });
        let epochs = epochs.map(|epoch| (epoch, images.trained_on));
        epochs.chain([(Part::Judge { model }, images.judged_on)])
    });
    let shards = parts.map(|(part, units)| PlannedShard {
        units,
        payload: json!(part),
        needs_previous: true,
    });
    Ok(Plan {
        model: Some(model.id.clone()),
        shards: shards.collect(),
        spec: json!(spec),
    })
}

/// Tells which of the new models cannot have their ids.
fn refuse_ids(
    asked: &mut RequestReader,
    name: &str,
    members: &[Member],
    taken: impl Fn(&str) -> Option<String>,
) {
    for id in members.iter().map(|member| member.id(name)) {
        if !is_id(&id) {
            asked.refuse("name", format!("{id} is no id of a model"), &[ID_FORM]);
        } else if let Some(message) = taken(&id) {
            asked.refuse("name", message, &[]);
        }
    }
}

/// Epochs in which the models of the common feature are trained for as many steps as f_o.
fn as_many_steps(epochs: usize, images: &[Images]) -> usize {
    let [objects, _, common @ ..] = images else {
        return epochs;
    };
    let most = common.iter().map(|images| images.trained_on).max();
    let steps = (epochs as u64 * objects.trained_on).div_ceil(most.unwrap_or(0).max(1));
    usize::try_from(steps)
        .unwrap_or(MAX_EPOCHS)
        .clamp(1, MAX_EPOCHS)
}

/// An image costs an evaluation in each epoch, and when a model is judged by it.
fn check_cost(app: &App, images: &[Images], epochs: &[usize]) -> Result<(), JobError> {
    let each = images.iter().zip(epochs);
    let training = each.map(|(images, epochs)| images.trained_on.saturating_mul(*epochs as u64));
    let training = training.fold(0, u64::saturating_add);
    let judging: u64 = images.iter().map(|images| images.judged_on).sum();
    check_total(app, training.saturating_add(judging), |most| {
        let part = most.saturating_sub(judging) as f64 / training.max(1) as f64;
        let lower = |epochs: &usize| at_most((*epochs as f64 * part) as u64);
        let names = ["epochs", FEATURE_EPOCHS].into_iter();
        names.zip(epochs.iter().step_by(2).map(lower)).collect()
    })
}

/// Asks for room for the models: each lies in the job's folder until the end. It is asked for again
/// when files are written: others may take it until then.
async fn reserve(app: &App, model: &Model, models: u64) -> Result<(), JobError> {
    if writes_to_data(app) {
        let (quota, bytes) = (
            app.quota().clone(),
            weight_bytes(model) * (2 * models + COPIES),
        );
        app.pool()
            .run(move || quota.reserve(bytes).map(drop))
            .await??;
    }
    Ok(())
}

fn member(spec: &Spec, place: usize) -> Result<Member, WorkError> {
    let members = spec.members();
    let member = members.get(place).copied();
    member.ok_or_else(|| WorkError::permanent(format!("the job has no model {place}")))
}

fn course<'a>(context: &'a Context, spec: &Spec, member: Member) -> Result<Course<'a>, WorkError> {
    let dataset = member.trained_on().dataset(&spec.data);
    Ok(Course {
        context,
        folder: format!("checkpoints_{}", member.name()),
        model: Origin {
            id: spec.model.clone(),
            hash: spec.model_hash.clone(),
        },
        dataset: Origin {
            hash: hash_of(spec, &dataset)?,
            id: dataset,
        },
        recipe: spec.recipe_of(member),
    })
}

fn hash_of(spec: &Spec, dataset: &str) -> Result<String, WorkError> {
    let hash = spec.dataset_hashes.get(dataset).cloned();
    hash.ok_or_else(|| WorkError::permanent(format!("the job has no data set {dataset}")))
}

/// Where a trained model is kept until all are.
fn place(context: &Context, member: Member) -> Path {
    context.folder().join("models").join(member.name())
}

/// Keeps a model that is trained, and judges it.
async fn end(context: &Context, spec: &Spec, member: Member) -> Result<End, WorkError> {
    let course::Trained {
        checkpoint,
        trainer,
        left_out,
    } = course(context, spec, member)?.trained().await?;
    let epoch = checkpoint.result_epoch();
    let job = context.job.clone();
    let make = move || {
        let files = folder(trainer.model(&checkpoint)?, &job)?;
        Ok::<_, WorkError>((files, trainer.trained(&checkpoint)?))
    };
    let (files, model) = context.app.pool().run(make).await??;
    for (name, bytes) in files {
        output::write(context, &place(context, member).join(name), bytes).await?;
    }
    let dataset = member.judged_on().dataset(&spec.data);
    let dataset = planned_dataset(&context.app, &dataset, &hash_of(spec, &dataset)?).await?;
    let find = {
        let (dataset, labels) = (dataset.clone(), model.labels.clone());
        move || pictures(&dataset, &labels, member.roles())
    };
    let pictures = context.app.pool().run(find).await?;
    let images: Vec<usize> = pictures.iter().map(|picture| picture.index).collect();
    let feature = match (member, images.first()) {
        (Member::Common(_), Some(first)) => dataset.images[*first].truth.names.clone(),
        _ => Vec::new(),
    };
    let classes = model.labels.len();
    let rows = forward(context, &model.into(), &dataset, &images).await?;
    Ok(End {
        epoch,
        classes,
        left_out,
        feature,
        judged: Judged::of(&pictures, &rows, member.other_removed()),
    })
}
