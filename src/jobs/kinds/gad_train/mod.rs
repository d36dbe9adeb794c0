//! `gad_train`: trains the supports that keep two classes apart, one for each alpha, and puts them
//! to use as a set. Targets are the model's own logits, on images of either class with the logit of
//! the other lowered by alpha; mean squared error. Mazini Rodrigues et al., 2024, section 4. The
//! first shard keeps the logits; then each support has its epochs ([`Chain`]) and is judged.

mod report;

use std::{
    fs::File,
    io::Write,
    sync::{Arc, LazyLock},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use ndarray::{Array2, Axis};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    cost::check_total,
    images::{enveloped, forward, stored},
    output::{keep, writes_to_data},
    request_reader::{RequestReader, planned_dataset, planned_model},
    training::{
        chain::{Chain, Step},
        checks::{faults_of, weight_bytes},
        install::renamed,
    },
};
use crate::{
    app::{App, supports::read_classes},
    dataset::{Dataset, ID_FORM, draw, is_id},
    driver::model_defaults,
    faults::{Fault, Faults},
    jobs::{
        Context, Format, JobError, Kind, Plan, PlannedShard, Report, Results, Shard, ShardResults,
        WorkError,
    },
    model::{
        Model,
        support_store::{NewMember, NewSet},
        supports::{
            MOST_ALPHA, MOST_SUPPORTS, Provenance, SupportSet, check_weights, read_weights,
            to_file, weights_of_graph,
        },
        variant,
    },
    pool::WorkPanicked,
    tensor::{read_npy, write_npy},
    training::{EpochReport, Examples, LeftOut, Loss, Recipe, Targets, Trainer, recipe},
};
use onnx_autodiff::onnx::read_bytes;

pub static GAD_TRAIN: GadTrain = GadTrain;

#[derive(Debug)]
pub struct GadTrain;

/// The file of the model's own logits, in the job's folder.
const LOGITS: &str = "logits.npy";
const ALPHAS: [f64; 4] = [2.0, 4.0, 6.0, 8.0];
/// Where they are not those of a training: the paper's, section 6.
const DEFAULTS: [(&str, f64); 2] = [("learning_rate", 4e-5), ("validation", 0.0)];

static PARAMETERS: LazyLock<Vec<(&'static str, &'static str)>> = LazyLock::new(|| {
    let own = [
        ("model", "the model's id; default: as for POST /explain"),
        (
            "dataset",
            "the id of the data set, with labels: images of the two classes are used",
        ),
        (
            "classes",
            "the two classes that are kept apart: a list of two indices or labels",
        ),
        (
            "alphas",
            "by how much each support lowers the other class's logit: a list of up to 16 numbers above 0; default: [2, 4, 6, 8]",
        ),
        (
            "supports",
            "the name of the set: letters, digits, `_`, `-` and `.`, at most 64; the model may have none of that name",
        ),
        (
            "limit",
            "most images of each class, drawn at random by `seed`; default: all",
        ),
        ("learning_rate", "above 0, at most 10 (4e-5)"),
        (
            "validation",
            "share of the images that are not trained on but judged after each epoch: 0 to 0.5 (0)",
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

#[derive(Debug, Serialize, Deserialize)]
struct Spec {
    model: String,
    model_hash: String,
    dataset: String,
    dataset_hash: String,
    classes: [usize; 2],
    /// Rising.
    alphas: Vec<f64>,
    supports: String,
    /// Of each class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    limit: Option<usize>,
    #[serde(flatten)]
    recipe: Recipe,
}

/// What a shard does.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Part {
    Logits,
    /// Of the support of this number, after so many epochs.
    Epoch {
        support: usize,
        done: usize,
    },
    Judge {
        support: usize,
    },
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Done {
    Logits {
        images: [usize; 2],
        left_out: LeftOut,
    },
    Epoch {
        support: usize,
        report: Option<EpochReport>,
    },
    Judged {
        support: usize,
        judged: Judged,
    },
}

/// How near a support came to its targets, over all images that it was made with.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Judged {
    /// Mean squared error of the logits: of the model's own, and of the support's.
    mse_before: f64,
    mse_after: f64,
    /// The share of images for which it predicts the class that the model predicts.
    agreement: f64,
}

/// The result of the job; while it runs, what is done.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Trained {
    /// The set as the parameter `supports` of `gad` takes it; at the job's end.
    #[serde(skip_serializing_if = "Option::is_none")]
    set: Option<String>,
    /// Of each class.
    images: [usize; 2],
    left_out: LeftOut,
    supports: Vec<TrainedSupport>,
}

#[derive(Debug, Serialize, Deserialize)]
struct TrainedSupport {
    alpha: f64,
    epochs: Vec<EpochReport>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    judged: Option<Judged>,
}

impl Kind for GadTrain {
    fn id(&self) -> &'static str {
        "gad_train"
    }

    fn doc(&self) -> &'static str {
        "Trains the supports of the method gad: models that keep two classes apart, one for each alpha; the set is used from the job's end on"
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
            let material = Material::open(context).await?;
            let done = match stored(&shard.payload)? {
                Part::Logits => material.keep_logits().await?,
                Part::Epoch { support, done } => Done::Epoch {
                    support,
                    report: material.train(support, done).await?,
                },
                Part::Judge { support } => Done::Judged {
                    support,
                    judged: material.judge(support).await?,
                },
            };
            Ok(serde_json::to_vec(&done)
                .map_err(WorkError::permanent)?
                .into())
        })
    }

    fn reduce(&self, spec: &Value, results: Results<'_>) -> Result<Value, WorkError> {
        let spec: Spec = stored(spec)?;
        let support = |alpha: &f64| TrainedSupport {
            alpha: *alpha,
            epochs: Vec::new(),
            judged: None,
        };
        let mut trained = Trained {
            supports: spec.alphas.iter().map(support).collect(),
            ..Trained::default()
        };
        for result in results.flatten() {
            match serde_json::from_slice(&result).map_err(WorkError::permanent)? {
                Done::Logits { images, left_out } => {
                    (trained.images, trained.left_out) = (images, left_out);
                }
                Done::Epoch { support, report } => {
                    if let Some(support) = trained.supports.get_mut(support) {
                        support.epochs.extend(report);
                    }
                }
                Done::Judged { support, judged } => {
                    if let Some(support) = trained.supports.get_mut(support) {
                        support.judged = Some(judged);
                    }
                }
            }
        }
        Ok(json!(trained))
    }

    fn complete<'a>(
        &'a self,
        context: &'a Context,
        mut reduced: Value,
        _: ShardResults,
    ) -> BoxFuture<'a, Result<Value, WorkError>> {
        Box::pin(async move {
            reduced["set"] = json!(install(context).await?);
            Ok(reduced)
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
        let bytes = match format {
            Format::Json => enveloped(self.id(), request, result)?,
            _ => {
                let (spec, trained) = (stored(request)?, stored(result)?);
                let written = report::write(self.id(), &spec, request, &trained, format);
                written.map_err(WorkError::permanent)?
            }
        };
        Ok(Report::Bytes(bytes.into()))
    }
}

async fn plan(mut given: Map<String, Value>, app: &App) -> Result<Plan, JobError> {
    given.retain(|_, value| !value.is_null());
    for (name, default) in DEFAULTS {
        given.entry(name).or_insert_with(|| json!(default));
    }
    given.entry("loss").or_insert_with(|| json!(Loss::Mse));
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
    let classes = asked.raw("classes");
    let classes = model.as_ref().and_then(|model| {
        let found = read_classes(model, classes.as_ref());
        found.map_err(|fault| asked.faults.push(fault)).ok()
    });
    let alphas = read_alphas(&mut asked);
    let supports = read_name(&mut asked, model.as_deref());
    let limit = asked.take("limit", &["a whole number from 1"], |limit| *limit > 0usize);
    let recipe = Recipe::read(&mut asked);
    if recipe.loss != Loss::Mse {
        asked.refuse("loss", "is that of logits", &["mse"]);
    }
    if recipe.new_head {
        asked.refuse(
            "new_head",
            "gives other classes, and the supports keep the model's: leave it out",
            &["false"],
        );
    }
    let mut chosen = None;
    if let (Some(dataset), Some(model), Some(classes)) = (&dataset, &model, classes) {
        let found = choose(app, dataset, model, (classes, limit, recipe.seed)).await?;
        asked.faults.extend(found.missing(model, classes));
        chosen = Some(found);
    }
    asked.finish()?;
    let (Some(model), Some(dataset), Some(classes), Some(supports), Some(chosen)) =
        (model, dataset, classes, supports, chosen)
    else {
        return Err(Faults::default().into());
    };
    let spec = Spec {
        model: model.id.clone(),
        model_hash: model.hash.clone(),
        dataset: dataset.id.clone(),
        dataset_hash: dataset.hash.clone(),
        classes,
        alphas,
        supports,
        limit,
        recipe,
    };
    check_training(app, &spec, &model, &dataset, &chosen).await?;
    let images = chosen.images.len() as u64;
    check_cost(app, images, &spec)?;
    if writes_to_data(app) {
        // It is asked for again when files are written: others may take it until then.
        let (quota, bytes) = (
            app.quota().clone(),
            weight_bytes(&model) * (2 * spec.alphas.len() as u64 + COPIES),
        );
        app.pool()
            .run(move || quota.reserve(bytes).map(drop))
            .await??;
    }
    let shard = |part: Part| PlannedShard {
        units: images,
        payload: json!(part),
        needs_previous: true,
    };
    let of_support = |support| {
        let epochs = (0..spec.recipe.epochs).map(move |done| Part::Epoch { support, done });
        epochs.chain([Part::Judge { support }])
    };
    let parts = [Part::Logits]
        .into_iter()
        .chain((0..spec.alphas.len()).flat_map(of_support));
    Ok(Plan {
        model: Some(spec.model.clone()),
        shards: parts.map(shard).collect(),
        spec: json!(spec),
    })
}

/// Rising, without repetitions.
fn read_alphas(asked: &mut RequestReader) -> Vec<f64> {
    let form = format!("1 to {MOST_SUPPORTS} different numbers above 0, at most {MOST_ALPHA}");
    let are_fine = |alphas: &Vec<f64>| {
        let is_fine = |alpha: &f64| *alpha > 0.0 && *alpha <= MOST_ALPHA;
        let is_new = |at: usize| {
            !alphas
                .iter()
                .take(at)
                .any(|other| alphas.get(at) == Some(other))
        };
        (1..=MOST_SUPPORTS).contains(&alphas.len())
            && alphas.iter().all(is_fine)
            && (0..alphas.len()).all(is_new)
    };
    let mut alphas = asked
        .take("alphas", &[form.as_str()], are_fine)
        .unwrap_or_else(|| ALPHAS.to_vec());
    alphas.sort_by(f64::total_cmp);
    alphas
}

/// The name of the new set.
fn read_name(asked: &mut RequestReader, model: Option<&Model>) -> Option<String> {
    if !asked.has("supports") {
        asked.refuse("supports", "is missing: the name of the set", &[ID_FORM]);
    }
    let name = asked.take("supports", &[ID_FORM], |name: &String| is_id(name))?;
    let model = model?;
    if model.supports.iter().any(|set| set.name == name) {
        let message = format!(
            "the model has a set {name} already: take another name, or DELETE /models/{}/supports/{name}",
            model.id
        );
        asked.refuse("supports", message, &[]);
    }
    Some(name)
}

/// Looks at every label, on the pool.
async fn choose(
    app: &App,
    dataset: &Arc<Dataset>,
    model: &Arc<Model>,
    (classes, limit, seed): ([usize; 2], Option<usize>, u64),
) -> Result<Chosen, WorkPanicked> {
    let (dataset, model) = (dataset.clone(), model.clone());
    let choose = move || Chosen::of(&dataset, &model, classes, limit, seed);
    app.pool().run(choose).await
}

/// The images of both classes.
struct Chosen {
    /// Places in the data set, rising.
    images: Vec<usize>,
    /// Of each of them: the class of the two that it is not.
    others: Vec<usize>,
    /// Images of each class.
    counts: [usize; 2],
    left_out: LeftOut,
}

impl Chosen {
    /// Images that are labelled with one of the classes, of each at most `limit`, drawn by `seed`.
    fn of(
        dataset: &Dataset,
        model: &Model,
        classes: [usize; 2],
        limit: Option<usize>,
        seed: u64,
    ) -> Self {
        let labels = model_defaults(model).classes;
        let mut of_class = [Vec::new(), Vec::new()];
        let mut left_out = LeftOut::default();
        for (index, picture) in dataset.images.iter().enumerate() {
            let meaning = dataset.meaning(picture, labels).classes;
            match classes.map(|class| meaning.contains(&class)) {
                _ if picture.fault.is_some() => left_out.unreadable += 1,
                [true, false] => of_class[0].push(index),
                [false, true] => of_class[1].push(index),
                _ if meaning.is_empty() => left_out.unlabelled += 1,
                _ => {}
            }
        }
        if let Some(limit) = limit {
            for images in &mut of_class {
                if images.len() > limit {
                    let drawn = draw(images.len(), limit, seed);
                    *images = drawn
                        .into_iter()
                        .filter_map(|at| images.get(at).copied())
                        .collect();
                }
            }
        }
        let counts = of_class.each_ref().map(Vec::len);
        let [first, second] = of_class;
        let [one, other] = classes;
        let of_first = first.into_iter().map(|image| (image, other));
        let mut all: Vec<(usize, usize)> = of_first
            .chain(second.into_iter().map(|image| (image, one)))
            .collect();
        all.sort_unstable();
        let (images, others) = all.into_iter().unzip();
        Self {
            images,
            others,
            counts,
            left_out,
        }
    }

    /// A fault for each class without an image.
    fn missing(&self, model: &Model, classes: [usize; 2]) -> Vec<Fault> {
        let labels = model_defaults(model).classes;
        let missing = classes
            .into_iter()
            .zip(self.counts)
            .filter(|(_, count)| *count == 0);
        let fault = |(class, _)| {
            let name = labels.name(class);
            Fault::says(
                "dataset",
                format!("has no image of class {name} that can be decoded"),
            )
        };
        missing.map(fault).collect()
    }

    /// The logits with that of the other class lowered.
    fn targets(&self, logits: &Array2<f32>, alpha: f64) -> Array2<f32> {
        let mut targets = logits.clone();
        for (mut row, other) in targets.outer_iter_mut().zip(&self.others) {
            if let Some(logit) = row.get_mut(*other) {
                *logit -= alpha as f32;
            }
        }
        targets
    }

    fn examples(&self, targets: Array2<f32>) -> Examples {
        Examples {
            images: self.images.clone(),
            targets: Targets::Logits(targets),
            labels: Vec::new(),
            left_out: self.left_out.clone(),
        }
    }
}

/// Files of this job and the set, in copies of the weights: two checkpoints with two moments and the
/// best weights.
const COPIES: u64 = 8;

/// Refuses what the training would fail of, before it begins.
async fn check_training(
    app: &App,
    spec: &Spec,
    model: &Arc<Model>,
    dataset: &Arc<Dataset>,
    chosen: &Chosen,
) -> Result<(), JobError> {
    let zeros = Array2::zeros((chosen.images.len(), model.classes().unwrap_or(0)));
    let (recipe, examples) = (spec.recipe.clone(), chosen.examples(zeros));
    let made = Trainer::new(
        recipe,
        model.clone(),
        dataset.clone(),
        examples,
        app.training(),
    );
    match made.await {
        Ok(_) => Ok(()),
        Err(error) => Err(faults_of(error)?.into()),
    }
}

/// An image costs an evaluation in each epoch, and when a support is judged.
fn check_cost(app: &App, images: u64, spec: &Spec) -> Result<(), JobError> {
    let [supports, epochs] = [spec.alphas.len() as u64, spec.recipe.epochs as u64];
    let found = images.saturating_mul(1 + supports * (epochs + 1));
    check_total(app, found, |_| {
        vec![("epochs", None), ("limit", None), ("alphas", None)]
    })
}

/// What a shard is worked on with.
struct Material<'a> {
    context: &'a Context,
    spec: Spec,
    model: Arc<Model>,
    dataset: Arc<Dataset>,
    chosen: Chosen,
}

impl<'a> Material<'a> {
    async fn open(context: &'a Context) -> Result<Self, WorkError> {
        let (app, spec): (_, Spec) = (&context.app, stored(&context.spec)?);
        let model = planned_model(app, &spec.model, &spec.model_hash, None).await?;
        let dataset = planned_dataset(app, &spec.dataset, &spec.dataset_hash).await?;
        let drawn = (spec.classes, spec.limit, spec.recipe.seed);
        Ok(Self {
            chosen: choose(app, &dataset, &model, drawn).await?,
            context,
            spec,
            model,
            dataset,
        })
    }

    fn alpha(&self, support: usize) -> Result<f64, WorkError> {
        let alpha = self.spec.alphas.get(support).copied();
        alpha.ok_or_else(|| WorkError::permanent(format!("the job has no support {support}")))
    }

    /// The logits of a model for the images, in their order.
    async fn logits(&self, model: &Arc<Model>) -> Result<Array2<f32>, WorkError> {
        let images = &self.chosen.images;
        let rows = forward(self.context, model, &self.dataset, images).await?;
        let classes = rows.first().map_or(0, |row| row.logits.len());
        let logits = rows.into_iter().flat_map(|row| row.logits).collect();
        Array2::from_shape_vec((images.len(), classes), logits).map_err(WorkError::permanent)
    }

    async fn keep_logits(&self) -> Result<Done, WorkError> {
        let logits = self.logits(&self.model).await?.into_dyn();
        let write = move || {
            let bytes = write_npy(&logits).map_err(WorkError::permanent)?;
            to_temporary(&bytes)
        };
        let file = self.context.app.pool().run(write).await??;
        keep(self.context, LOGITS, file).await?;
        Ok(Done::Logits {
            images: self.chosen.counts,
            left_out: self.chosen.left_out.clone(),
        })
    }

    /// Of the model itself, as the first shard kept them.
    async fn kept_logits(&self) -> Result<Array2<f32>, WorkError> {
        let bytes = self
            .context
            .files()
            .read(&self.context.folder().join(LOGITS))
            .await?;
        let logits = read_npy(&bytes).map_err(WorkError::permanent)?;
        logits.into_dimensionality().map_err(WorkError::permanent)
    }

    fn chain(&self, support: usize) -> Chain<'a> {
        Chain::new(self.context, &format!("support_{support}"))
    }

    async fn trainer(&self, support: usize) -> Result<Trainer, WorkError> {
        let logits = self.kept_logits().await?;
        let examples = self
            .chosen
            .examples(self.chosen.targets(&logits, self.alpha(support)?));
        let (model, dataset) = (self.model.clone(), self.dataset.clone());
        let surroundings = self.context.app.training();
        Ok(Trainer::new(
            self.spec.recipe.clone(),
            model,
            dataset,
            examples,
            surroundings,
        )
        .await?)
    }

    /// One epoch, after so many.
    async fn train(&self, support: usize, done: usize) -> Result<Option<EpochReport>, WorkError> {
        let chain = self.chain(support);
        match chain.step(done).await? {
            Step::Done(report) => Ok(report),
            Step::Run(from) => Ok(Some(chain.run(&self.trainer(support).await?, from).await?)),
        }
    }

    /// Keeps the weights of a support, and compares its logits with those that it was trained
    /// towards.
    async fn judge(&self, support: usize) -> Result<Judged, WorkError> {
        let checkpoint = self.chain(support).last().await?;
        let trainer = self.trainer(support).await?;
        let model = self.model.clone();
        let make = move || {
            let files = trainer.model(&checkpoint)?;
            let mut files = files.into_iter();
            let trained = files.find(|file| file.name == "model.onnx");
            let bytes = trained.map(|file| file.bytes).unwrap_or_default();
            let name = "the trained model";
            let graph = read_bytes(bytes.into(), None).map_err(WorkError::permanent)?;
            let weights = weights_of_graph(name, &graph, &model.graph, &model)
                .and_then(|weights| check_weights(name, &weights, &model).map(|()| weights))
                .map_err(WorkError::permanent)?;
            let file = to_temporary(&to_file(&weights)?)?;
            let id = format!("trained towards alpha, support {support}");
            let variant =
                variant::with_weights(&model, weights, &id).map_err(WorkError::permanent)?;
            Ok::<_, WorkError>((file, Arc::new(variant)))
        };
        let (file, variant) = self.context.app.pool().run(make).await??;
        keep(self.context, &weights_file(support), file).await?;
        let (own, found) = (self.kept_logits().await?, self.logits(&variant).await?);
        let targets = self.chosen.targets(&own, self.alpha(support)?);
        let agree = own.outer_iter().zip(found.outer_iter());
        let agree = agree
            .filter(|(own, found)| best(own.iter()) == best(found.iter()))
            .count();
        Ok(Judged {
            mse_before: mean_squared_error(&own, &targets),
            mse_after: mean_squared_error(&found, &targets),
            agreement: agree as f64 / own.len_of(Axis(0)).max(1) as f64,
        })
    }
}

fn weights_file(support: usize) -> String {
    format!("support_{support}.safetensors")
}

fn to_temporary(bytes: &[u8]) -> Result<File, WorkError> {
    let mut file = tempfile::tempfile().map_err(WorkError::transient)?;
    file.write_all(bytes).map_err(WorkError::transient)?;
    Ok(file)
}

/// The place of the largest, the first of equals.
fn best<'a>(values: impl Iterator<Item = &'a f32>) -> Option<usize> {
    let larger = |(best, most): (usize, &'a f32), (at, value): (usize, &'a f32)| {
        if value > most {
            (at, value)
        } else {
            (best, most)
        }
    };
    values.enumerate().reduce(larger).map(|(at, _)| at)
}

fn mean_squared_error(found: &Array2<f32>, targets: &Array2<f32>) -> f64 {
    let squares = found
        .iter()
        .zip(targets)
        .map(|(found, target)| (f64::from(*found) - f64::from(*target)).powi(2));
    squares.sum::<f64>() / found.len().max(1) as f64
}

/// Puts the set to use, under its name or, where that was taken meanwhile, one with the job's.
async fn install(context: &Context) -> Result<String, WorkError> {
    let material = Material::open(context).await?;
    let (spec, model) = (&material.spec, &material.model);
    let mut members = Vec::with_capacity(spec.alphas.len());
    for (support, alpha) in spec.alphas.iter().copied().enumerate() {
        let path = context.folder().join(weights_file(support));
        let bytes = context.files().read(&path).await?;
        let member = move || {
            let weights = read_weights("weights", &bytes).map_err(WorkError::permanent)?;
            Ok::<_, WorkError>(NewMember::new(alpha, &weights)?)
        };
        members.push(context.app.pool().run(member).await??);
    }
    let provenance = Provenance::Job {
        job: context.job.clone(),
        dataset: spec.dataset.clone(),
        dataset_hash: spec.dataset_hash.clone(),
    };
    let is_another =
        |set: &Arc<SupportSet>| set.name == spec.supports && set.provenance != provenance;
    let name = match model.supports.iter().any(is_another) {
        true => renamed(&spec.supports, &context.job),
        false => spec.supports.clone(),
    };
    let set = NewSet {
        name,
        classes: spec.classes,
        provenance,
        members,
    };
    let (set, _) = context.app.install_supports(model, set).await?;
    Ok(set.reference())
}
