//! `degradation`: the image degradation benchmark (the PGIG paper, section 5) of several methods on
//! a data set. A shard is a few images; for each, all methods are explained together, so that they
//! share points and forward passes, and every ranking is degraded. An image that cannot be used is
//! left out for all methods, with its reason: they are compared on the same images.

mod chart;
mod findings;
mod report;
mod spec;

use std::{num::NonZeroUsize, sync::Arc, thread, time::SystemTime};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future::BoxFuture, stream};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    asked::{Asked, planned_dataset, planned_model},
    cost::check_evaluations,
};
use crate::{
    app::{
        App, AppError,
        compare::{Comparison, Way},
        options::{Options, look},
    },
    dataset::{Dataset, DatasetError, draw},
    driver::{self, Driver, DriverError},
    engine::runtime_version,
    evaluation::{self, degradation::Subject, patches::Grid},
    incremental,
    jobs::{Context, Format, JobError, Kind, Plan, PlannedShard, Report, Shard, WorkError},
    methods::{Explained, Prediction, Request, parameters::Parameters},
    model::Model,
    picture::{
        RgbImage,
        decode::Limits,
        geometry::Geometry,
        preprocess::{Preprocess, preprocess},
    },
    render::{
        encode::{FileType, encode},
        options::{HeatmapOptions, View},
    },
    tensor::Tensor,
};
use findings::{Findings, ImageResult, Outcome, Reason, Run, SAMPLES};
use spec::{Labels, Row, Settled, Spec};

/// Evaluations of a shard, about: a few seconds.
const SHARD_EVALUATIONS: usize = 1500;
const MAX_SHARD_IMAGES: usize = 32;
/// Rankings of one image that are degraded at once: each has its next few inputs in memory.
const RANKINGS_AT_ONCE: usize = 4;
/// Images of which maps are kept: the first that can be used are shown.
const SAMPLED: usize = 4 * SAMPLES;
/// The most methods whose maps are kept, and the longest side of each in pixels.
const SAMPLED_METHODS: usize = 15;
const SAMPLE_SIDE: u32 = 160;

pub static DEGRADATION: Degradation = Degradation;

#[derive(Debug)]
pub struct Degradation;

#[derive(Serialize, Deserialize)]
struct Payload {
    /// Places in the data set.
    images: Vec<usize>,
    /// Of so many of them, from the first, maps are kept.
    #[serde(default)]
    samples: usize,
}

impl Kind for Degradation {
    fn id(&self) -> &'static str {
        "degradation"
    }

    fn doc(&self) -> &'static str {
        "Replaces the patches that each method ranks first and follows the score of the predicted class: the faster it falls, the better"
    }

    fn parameters(&self) -> &'static [(&'static str, &'static str)] {
        &[
            ("model", "the model's id; default: as for POST /explain"),
            ("dataset", "the id of the data set"),
            (
                "methods",
                "a list of method ids, or of objects with `id`, the method's parameters, and `score`: `signed` or `absolute` (ranked by \
                 magnitude); sensitivity methods get both without it",
            ),
            ("grid", "patches along each side; default: 25"),
            ("steps", "patches replaced; default: 100"),
            (
                "order",
                "`descending` (most important first, the default) or `ascending`",
            ),
            (
                "replacement",
                "`mean` (of the patch, per channel; the default), `zero` (in the model's input space) or `blur` (sigma 10)",
            ),
            (
                "limit",
                "most images, drawn at random by `seed`; default: all",
            ),
            (
                "labels",
                "`use` (labelled images that the model misclassifies are left out; the default) or `ignore`",
            ),
            (
                "seed",
                "of the draw, the bootstrap, and what methods draw; default: 0",
            ),
            (
                "compat",
                "`pgig-2020`: as in the published code of the PGIG paper",
            ),
        ]
    }

    fn plan<'a>(
        &'a self,
        given: Map<String, Value>,
        app: &'a App,
    ) -> BoxFuture<'a, Result<Plan, JobError>> {
        Box::pin(async move {
            let mut asked = Asked::new(given, app);
            let dataset = asked.dataset().await;
            app.pool().run(move || plan(asked, dataset)).await?
        })
    }

    fn work<'a>(
        &'a self,
        context: &'a Context,
        shard: &'a Shard,
    ) -> BoxFuture<'a, Result<Bytes, WorkError>> {
        Box::pin(async move {
            let bench = Bench::open(context).await?;
            let payload: Payload =
                serde_json::from_value(shard.payload.clone()).map_err(WorkError::permanent)?;
            let mut results = Vec::with_capacity(payload.images.len());
            for (at, index) in payload.images.into_iter().enumerate() {
                results.push(bench.measure(index, at < payload.samples).await?);
                context.report_progress(results.len() as u64);
            }
            Ok(serde_json::to_vec(&results)
                .map_err(WorkError::permanent)?
                .into())
        })
    }

    fn reduce(&self, spec: &Value, results: &[Option<Bytes>]) -> Result<Value, WorkError> {
        let spec: Spec = serde_json::from_value(spec.clone()).map_err(WorkError::permanent)?;
        let mut images = Vec::new();
        for result in results.iter().flatten() {
            images.extend(
                serde_json::from_slice::<Vec<ImageResult>>(result).map_err(WorkError::permanent)?,
            );
        }
        let mut findings = Findings::of(&spec, images).map_err(WorkError::permanent)?;
        if results.iter().any(Option::is_none) {
            // Readers who watch it run need none.
            findings.samples.clear();
        }
        serde_json::to_value(findings).map_err(WorkError::permanent)
    }

    fn complete<'a>(
        &'a self,
        context: &'a Context,
        mut reduced: Value,
    ) -> BoxFuture<'a, Result<Value, WorkError>> {
        Box::pin(async move {
            let cores = || thread::available_parallelism().map_or(1, NonZeroUsize::get);
            let providers = context
                .app
                .engine()
                .providers()
                .iter()
                .map(ToString::to_string);
            let run = Run {
                onnxruntime: runtime_version(),
                providers: providers.collect::<Vec<_>>().join(", "),
                threads: Some(context.app.settings().threads)
                    .filter(|threads| *threads > 0)
                    .unwrap_or_else(cores),
                ended: Some(humantime::format_rfc3339_seconds(SystemTime::now()).to_string()),
            };
            reduced["run"] = json!(run);
            Ok(reduced)
        })
    }

    /// Without the sample maps, which are large.
    fn overview(&self, result: Arc<Value>) -> Arc<Value> {
        let Some(fields) = result.as_object() else {
            return result;
        };
        let shown = fields.iter().filter(|(name, _)| *name != "samples");
        Arc::new(Value::Object(
            shown
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
        ))
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

    fn report(&self, spec: &Value, result: &Value, format: Format) -> Result<Report, WorkError> {
        let settled: Spec = serde_json::from_value(spec.clone()).map_err(WorkError::permanent)?;
        let findings: Findings =
            serde_json::from_value(result.clone()).map_err(WorkError::permanent)?;
        report::write(spec, &settled, &findings, format).map(|bytes| Report::Bytes(bytes.into()))
    }
}

fn plan(asked: Asked, dataset: Option<Arc<Dataset>>) -> Result<Plan, JobError> {
    let app = asked.app().clone();
    let Settled {
        spec,
        rows,
        dataset,
    } = spec::settle(asked, dataset)?;
    let count = dataset.images.len();
    let used = spec.limit.map_or(count, |limit| limit.min(count));
    let explaining = Parameters::cost_of(rows.iter().map(|row| &row.parameters), true);
    let cost = explaining + rows.len() * spec.metric.steps;
    check_evaluations(&app, cost, used, |most| {
        let steps = most.saturating_sub(explaining as u64) / rows.len() as u64;
        vec![
            ("steps", (steps > 0).then(|| format!("1 to {steps}"))),
            ("methods", None),
        ]
    })?;
    let mut images = if used < count {
        draw(count, used, spec.seed)
    } else {
        (0..count).collect()
    };
    images.sort_unstable();
    let size = (SHARD_EVALUATIONS / cost.max(1)).clamp(1, MAX_SHARD_IMAGES);
    let shards = images.chunks(size).enumerate().map(|(at, images)| {
        let payload = Payload {
            images: images.to_vec(),
            samples: SAMPLED.saturating_sub(at * size).min(images.len()),
        };
        PlannedShard {
            units: images.len() as u64,
            payload: json!(payload),
        }
    });
    let shards = shards.collect();
    Ok(Plan {
        model: Some(spec.model.clone()),
        spec: json!(spec),
        shards,
    })
}

/// What all images of a shard share.
struct Bench<'a> {
    context: &'a Context,
    spec: Spec,
    model: Arc<Model>,
    dataset: Arc<Dataset>,
    rule: Preprocess,
    /// For inputs that differ in one patch.
    incremental: Option<Arc<incremental::Plan>>,
    grid: Arc<Grid>,
    metric: Arc<evaluation::degradation::Parameters>,
    rows: Vec<Row>,
    /// Each different explanation once, and which of them a row ranks by.
    requests: Vec<Parameters>,
    ranked_by: Vec<usize>,
}

impl<'a> Bench<'a> {
    async fn open(context: &'a Context) -> Result<Self, WorkError> {
        let spec: Spec =
            serde_json::from_value(context.spec.as_ref().clone()).map_err(WorkError::permanent)?;
        let model = planned_model(
            &context.app,
            &spec.model,
            &spec.model_hash,
            spec.patterns.as_deref(),
        )
        .await?;
        let dataset = planned_dataset(&context.app, &spec.dataset, &spec.dataset_hash).await?;
        let input = &model.manifest.input;
        let rule = input
            .preprocess
            .clone()
            .ok_or_else(|| WorkError::permanent("the model takes ready tensors"))?;
        let grid = Grid::new(&input.shape, rule.layout, spec.metric.grid);
        let grid =
            grid.ok_or_else(|| WorkError::permanent("the grid does not fit the model's input"))?;
        let rows = spec.rows(&model).map_err(WorkError::permanent)?;
        let (cut, largest) = (model.clone(), grid.largest());
        let incremental = context
            .app
            .pool()
            .run(move || incremental::Plan::new(&cut, largest).map(Arc::new))
            .await?;
        let (mut requests, mut ranked_by): (Vec<Parameters>, Vec<usize>) = (Vec::new(), Vec::new());
        for row in &rows {
            let known = requests
                .iter()
                .position(|request| request.to_json() == row.parameters.to_json());
            ranked_by.push(known.unwrap_or_else(|| {
                requests.push(row.parameters.clone());
                requests.len() - 1
            }));
        }
        Ok(Self {
            context,
            metric: Arc::new(spec.metric.clone()),
            incremental,
            grid: Arc::new(grid),
            spec,
            model,
            dataset,
            rule,
            rows,
            requests,
            ranked_by,
        })
    }

    async fn measure(&self, index: usize, is_sample: bool) -> Result<ImageResult, WorkError> {
        let file = self
            .dataset
            .images
            .get(index)
            .map(|image| image.file.clone());
        let file = file.ok_or_else(|| {
            WorkError::permanent(format!("data set {} has no image {index}", self.dataset.id))
        })?;
        Ok(ImageResult {
            index,
            file,
            outcome: self.try_measure(index, is_sample).await?,
        })
    }

    async fn try_measure(&self, index: usize, is_sample: bool) -> Result<Outcome, WorkError> {
        let skipped = |reason, detail: String| Ok(Outcome::Skipped { reason, detail });
        let Context { app, caller, .. } = self.context;
        let (dataset, rule, limits) = (
            self.dataset.clone(),
            self.rule.clone(),
            *app.datasets().local().limits(),
        );
        let (picture, input, geometry) = match app
            .pool()
            .run(move || read(&dataset, index, &rule, &limits))
            .await?
        {
            Ok(read) => read,
            Err(error @ DatasetError::Image { .. }) => {
                return skipped(Reason::CorruptImage, error.to_string());
            }
            // Opened again it is another set, which is told then, or the same in another place.
            Err(error) => return Err(WorkError::transient(error)),
        };
        let driver = Driver::new(app.resources(caller), &self.model, input.clone())
            .incrementally(self.incremental.clone());
        let predicted = match driver.predict(1).await {
            Err(error @ DriverError::NotFinite { .. }) => {
                return skipped(Reason::NotFinite, error.to_string());
            }
            other => other?.0,
        };
        let Some(predicted) = predicted.into_iter().next() else {
            return Err(WorkError::permanent("the model has no classes"));
        };
        if self.spec.labels == Labels::Use
            && let Some((reason, detail)) = self.mistaken(index, &predicted).await?
        {
            return skipped(reason, detail);
        }
        let requests: Vec<Request> = self
            .requests
            .iter()
            .map(|parameters| Request {
                baseline_seed: self.seed_of(parameters),
                ..Request::of(self.keyed(parameters, index))
            })
            .collect();
        let explained = match driver.explain(&requests, None).await {
            Err(error @ DriverError::NotFinite { .. }) => {
                return skipped(Reason::NotFinite, error.to_string());
            }
            other => other?.explained,
        };
        let subjects = match self
            .rank(
                input.clone(),
                &explained,
                predicted.index,
                f64::from(predicted.score),
            )
            .await?
        {
            Ok(subjects) => subjects,
            Err(method) => {
                return skipped(
                    Reason::NotFinite,
                    format!("{method} gave scores that are not finite"),
                );
            }
        };
        let driver = &driver;
        let curves = subjects.into_iter().map(|subject| async move {
            let run = evaluation::degradation::build(subject);
            Ok::<_, DriverError>(driver.drive(vec![run]).await?.outputs)
        });
        let curves: Vec<_> = stream::iter(curves)
            .buffered(RANKINGS_AT_ONCE)
            .try_collect()
            .await?;
        let curves: Vec<Vec<f64>> = curves
            .into_iter()
            .flatten()
            .map(|(curve, _)| curve)
            .collect();
        if curves.iter().flatten().any(|score| !score.is_finite()) {
            return skipped(
                Reason::NotFinite,
                "the model answers a degraded image with values that are not finite".into(),
            );
        }
        let curves = curves
            .iter()
            .map(|curve| curve.iter().map(|score| *score as f32).collect())
            .collect();
        let maps = match is_sample {
            true => Some(self.draw(picture, geometry, explained).await?),
            false => None,
        };
        Ok(Outcome::Measured {
            class: predicted.index,
            label: predicted.label,
            curves,
            maps,
        })
    }

    /// The maps of an image side by side, as a JPEG in base64.
    async fn draw(
        &self,
        picture: RgbImage,
        geometry: Geometry,
        mut explained: Vec<Vec<Explained>>,
    ) -> Result<String, WorkError> {
        let titles = self.spec.titles();
        let way = |(at, parameters): (usize, &Parameters)| {
            let row = self.ranked_by.iter().position(|by| *by == at);
            // Rows of one map may differ in the score that ranks it: this says nothing of the map.
            let telling = row.and_then(|row| titles[row].split_once(" (")?.1.strip_suffix(')'));
            let note = telling
                .unwrap_or_default()
                .split(", ")
                .filter(|word| !["signed", "absolute"].contains(word));
            Way {
                heatmap: HeatmapOptions {
                    view: View::Crop,
                    size: Some(SAMPLE_SIDE),
                    ..look(parameters.method).options()
                },
                note: note.collect::<Vec<_>>().join(", "),
                parameters: parameters.clone(),
            }
        };
        let ways = self
            .requests
            .iter()
            .enumerate()
            .take(SAMPLED_METHODS)
            .map(way)
            .collect();
        let comparison = Comparison {
            model: self.model.clone(),
            ways,
            options: Options::default(),
        };
        explained.truncate(SAMPLED_METHODS);
        let draw = move || {
            let (grid, _) = comparison.draw(&picture, &geometry, &explained)?;
            encode(&grid, FileType::Jpeg, &[]).map_err(AppError::from)
        };
        Ok(BASE64_STANDARD.encode(self.context.app.pool().run(draw).await??))
    }

    /// Why a labelled image is not used. On the pool: an unknown label is compared with all of the
    /// model.
    async fn mistaken(
        &self,
        index: usize,
        predicted: &Prediction,
    ) -> Result<Option<(Reason, String)>, WorkError> {
        let (dataset, model) = (self.dataset.clone(), self.model.clone());
        let predicted = predicted.clone();
        let judge = move || {
            let (picture, classes) = (
                &dataset.images[index],
                driver::model_defaults(&model).classes,
            );
            let meaning = dataset.meaning(picture, classes);
            if meaning.is_empty() || meaning.classes.contains(&predicted.index) {
                return None;
            }
            Some(match meaning.doubts.first() {
                Some(doubt) => (Reason::of(doubt), doubt.explain(classes)),
                None => {
                    let taken = classes.name(predicted.index);
                    (
                        Reason::Misclassified,
                        format!("labelled {}, taken for {taken}", picture.truth),
                    )
                }
            })
        };
        Ok(self.context.app.pool().run(judge).await?)
    }

    /// What a method draws at random differs from image to image, but for its baselines: to read
    /// others for each would take longer than to explain it.
    fn keyed(&self, parameters: &Parameters, index: usize) -> Parameters {
        Parameters {
            seed: self.seed_of(parameters).wrapping_add(index as u64),
            ..parameters.clone()
        }
    }

    fn seed_of(&self, parameters: &Parameters) -> u64 {
        parameters.seed.wrapping_add(self.spec.seed)
    }

    /// Every row's ranking, or the method that has none.
    async fn rank(
        &self,
        input: Arc<Tensor>,
        explained: &[Vec<Explained>],
        class: usize,
        clean: f64,
    ) -> Result<Result<Vec<Subject>, &'static str>, WorkError> {
        let maps: Vec<Option<Arc<Tensor>>> = explained
            .iter()
            .map(|answers| Some(answers.first()?.attribution.scores.clone()))
            .collect();
        let (model, grid) = (self.model.clone(), self.grid.clone());
        let (metric, rule) = (self.metric.clone(), self.rule.clone());
        let rows: Vec<_> = self
            .rows
            .iter()
            .zip(&self.ranked_by)
            .map(|(row, by)| (row.parameters.method.id, row.score, *by))
            .collect();
        let rank = move || {
            let fill = Arc::new(metric.fill(&input, &grid, &rule).map_err(AppError::from)?);
            let subject = |(id, score, by)| {
                let map: Option<&Arc<Tensor>> = maps.get::<usize>(by).and_then(Option::as_ref);
                let ranking = map
                    .and_then(|map| metric.rank(&grid, map, score))
                    .ok_or(id)?;
                let (input, fill, grid, parameters) =
                    (input.clone(), fill.clone(), grid.clone(), metric.clone());
                Ok(Subject {
                    model: model.clone(),
                    input,
                    fill,
                    grid,
                    class,
                    clean,
                    ranking,
                    parameters,
                })
            };
            Ok::<_, AppError>(rows.into_iter().map(subject).collect())
        };
        Ok(self.context.app.pool().run(rank).await??)
    }
}

fn read(
    dataset: &Dataset,
    index: usize,
    rule: &Preprocess,
    limits: &Limits,
) -> Result<(RgbImage, Arc<Tensor>, Geometry), DatasetError> {
    let image = dataset.read(index, limits)?.image;
    let fault = |source| DatasetError::Image {
        file: dataset.images[index].file.clone(),
        source,
    };
    let (input, geometry) = preprocess(&image, rule).map_err(fault)?;
    Ok((image, Arc::new(input), geometry))
}
