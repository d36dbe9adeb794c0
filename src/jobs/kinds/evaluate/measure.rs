//! One image after another: decoded, predicted, explained by all methods together, and measured.

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures::{StreamExt, TryStreamExt, stream};

use super::spec::{Labels, Spec};
use crate::{
    app::{
        AppError,
        compare::{Comparison, Way},
        options::{Options, look},
    },
    dataset::{Dataset, DatasetError, Doubt},
    driver::{self, Driver, DriverError},
    evaluation::{
        AttributionMap, Case, CaseRow, Measurement, Metric, Variant,
        findings::{ImageResult, Outcome, Reason},
        parameters::Values,
    },
    faults::Faults,
    incremental,
    jobs::{
        Context, WorkError,
        kinds::{
            images::{file_of, read as read_image, twins},
            request_reader::{planned_dataset, planned_model},
        },
    },
    methods::{Attribution, Explained, Prediction, Request, parameters::Parameters},
    model::Model,
    picture::{RgbImage, geometry::Geometry, preprocess::Preprocess},
    render::{
        encode::{FileType, encode},
        options::{HeatmapOptions, View},
    },
};

/// Runs of a metric on one image that go at once: each has its next few inputs in memory.
const RUNS_AT_ONCE: usize = 4;
/// The most methods whose maps are kept, and the longest side of each in pixels.
const SAMPLED_METHODS: usize = 15;
const SAMPLE_SIDE: u32 = 160;

/// What all images of a shard share.
pub(super) struct ShardContext<'a> {
    context: &'a Context,
    spec: Spec,
    model: Arc<Model>,
    dataset: Arc<Dataset>,
    /// For each image, the place of that without the object; for metrics that need it.
    twins: Option<Vec<Option<usize>>>,
    rule: Preprocess,
    /// For inputs that differ in few pixels.
    incremental: Option<Arc<incremental::Plan>>,
    metrics: Vec<ShardMetric>,
    /// Each different explanation once.
    requests: Vec<Parameters>,
    rows: Arc<[CaseRow]>,
}

/// A metric, its parameters, and the models that it asks beside the one that is evaluated.
struct ShardMetric {
    metric: &'static Metric,
    values: Arc<Values>,
    variants: Arc<[Arc<Model>]>,
    /// The place of an earlier metric that measures the same.
    same_as: Option<usize>,
}

impl<'a> ShardContext<'a> {
    pub(super) async fn open(context: &'a Context, spec: Spec) -> Result<Self, WorkError> {
        let model = planned_model(
            &context.app,
            &spec.model,
            &spec.model_hash,
            spec.patterns.as_deref(),
        )
        .await?;
        let dataset = planned_dataset(&context.app, &spec.dataset, &spec.dataset_hash).await?;
        let rule = model.manifest.input.preprocess.clone();
        let rule = rule.ok_or_else(|| WorkError::permanent("the model takes ready tensors"))?;
        let (mut requests, mut rows): (Vec<Parameters>, Vec<CaseRow>) = (Vec::new(), Vec::new());
        let changed = |faults: Faults| {
            WorkError::permanent(format!(
                "what the methods name has changed since the job was started, start it again: {faults}"
            ))
        };
        for row in spec.rows(&model).map_err(changed)? {
            let known = requests
                .iter()
                .position(|request| request.to_json() == row.parameters.to_json());
            let map = known.unwrap_or(requests.len());
            if known.is_none() {
                requests.push(row.parameters);
            }
            rows.push(CaseRow {
                map,
                score: row.score,
            });
        }
        let mut others = BTreeMap::new();
        for (id, hash) in &spec.measured.model_hashes {
            let other = planned_model(&context.app, id, hash, None).await?;
            others.insert(id.clone(), other);
        }
        let of_methods = Parameters::change_of(requests.iter());
        let (entries, seed, whole) = (spec.measured.metrics.clone(), spec.seed, model.clone());
        let of_pairs = dataset.clone();
        let open = move || {
            let mut metrics = Vec::new();
            let mut change: Option<[usize; 2]> = None;
            for (place, entry) in entries.iter().enumerate() {
                let mut before = entries.iter().take(place);
                let same_as = before.position(|other| entry.shares_with(other));
                let metric = entry.metric().ok_or_else(|| {
                    WorkError::permanent(format!("no metric is called {}", entry.id))
                })?;
                let values = entry.parameters.clone();
                if let Some(own) = (metric.needs.change)(&values, &whole) {
                    let both = change.unwrap_or_default();
                    change = Some([0, 1].map(|side| own[side].max(both[side])));
                }
                let made =
                    (metric.needs.models)(&values, &whole, seed).map_err(WorkError::permanent)?;
                let named = values
                    .models()
                    .into_iter()
                    .map(|id| others.get(id).cloned());
                let variants = made.into_iter().map(|model| Some(Arc::new(model)));
                let variants: Option<_> = variants.chain(named).collect();
                let variants = variants.ok_or_else(|| {
                    WorkError::permanent("a model that a metric asks has no hash in the request")
                })?;
                metrics.push(ShardMetric {
                    metric,
                    values: Arc::new(values),
                    variants,
                    same_as,
                });
            }
            let needs_pairs = metrics.iter().any(|one| one.metric.needs.pair);
            let twins = needs_pairs.then(|| twins(&of_pairs));
            // Of methods where no metric needs one: a plan for larger changes saves less.
            let change = change.or(of_methods);
            let plan = change.and_then(|change| incremental::Plan::new(&whole, change));
            Ok::<_, WorkError>((metrics, twins, plan.map(Arc::new)))
        };
        let (metrics, twins, incremental) = context.app.pool().run(open).await??;
        Ok(Self {
            context,
            spec,
            model,
            dataset,
            twins,
            rule,
            incremental,
            metrics,
            requests,
            rows: rows.into(),
        })
    }

    pub(super) async fn measure(
        &self,
        index: usize,
        is_sample: bool,
    ) -> Result<ImageResult, WorkError> {
        Ok(ImageResult {
            index,
            file: file_of(&self.dataset, index)?,
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
        let needs_region = self.metrics.iter().any(|one| one.metric.needs.region);
        let twin = match &self.twins {
            None => None,
            Some(twins) => match twins.get(index).copied().flatten() {
                Some(twin) => Some(twin),
                None => {
                    let detail = "its group has no image of the role `without`";
                    return skipped(Reason::NoPair, detail.to_owned());
                }
            },
        };
        let read = move || {
            let (picture, input, geometry) = read_image(&dataset, index, &rule, &limits)?;
            let region = match needs_region {
                true => Some(dataset.region(index, &geometry, &limits)?),
                false => None,
            };
            let twin = match twin {
                Some(twin) => Some(read_image(&dataset, twin, &rule, &limits)?.1),
                None => None,
            };
            Ok((picture, input, geometry, region, twin))
        };
        let (picture, input, geometry, region, twin) = match app.pool().run(read).await? {
            Ok(read) => read,
            Err(error @ (DatasetError::Image { .. } | DatasetError::MaskSize { .. })) => {
                return skipped(Reason::CorruptImage, error.to_string());
            }
            // Opened again it is another set, which is told then, or the same in another place.
            Err(error) => return Err(WorkError::transient(error)),
        };
        let region = match region {
            None => None,
            Some(None) => return skipped(Reason::NoRegion, "it has no mask and no box".to_owned()),
            Some(Some(region)) if !region.iter().any(|is_inside| *is_inside) => {
                let detail = "the model's preprocessing leaves no pixel of its mask or boxes";
                return skipped(Reason::EmptyRegion, detail.to_owned());
            }
            Some(Some(region)) => Some(Arc::new(region)),
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
            && let Some((reason, detail)) = self.misclassified(index, &predicted).await?
        {
            return skipped(reason, detail);
        }
        let requests: Vec<Request> = self
            .requests
            .iter()
            .map(|parameters| Request {
                baseline_seed: self.seed_of(parameters),
                ..Request::of(self.with_image_seed(parameters, index))
            })
            .collect();
        let explained = match driver.explain(&requests, None).await {
            Err(error @ DriverError::NotFinite { .. }) => {
                return skipped(Reason::NotFinite, error.to_string());
            }
            other => other?.explained,
        };
        let maps = match self.maps(requests, &explained).await? {
            Ok(maps) => maps,
            Err(method) => {
                return skipped(
                    Reason::NotFinite,
                    format!("{method} gave scores that are not finite"),
                );
            }
        };
        let case = Case {
            model: self.model.clone(),
            variants: Arc::new([]),
            input,
            twin,
            class: predicted.index,
            clean: f64::from(predicted.score),
            right: None,
            region,
            maps,
            rows: self.rows.clone(),
            seed: self.spec.seed.wrapping_add(index as u64),
        };
        let mut measurements: Vec<Vec<Vec<f32>>> = Vec::with_capacity(self.metrics.len());
        for metric in &self.metrics {
            if let Some(same) = metric.same_as.and_then(|place| measurements.get(place)) {
                measurements.push(same.clone());
                continue;
            }
            match self.apply(metric, &driver, index, &case).await? {
                Ok(rows) => measurements.push(rows),
                Err(detail) => return skipped(Reason::NotFinite, detail),
            }
        }
        let maps = match is_sample {
            true => Some(self.draw(picture, geometry, explained).await?),
            false => None,
        };
        Ok(Outcome::Measured {
            class: predicted.index,
            label: predicted.label,
            measurements,
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
            let row = self.rows.iter().position(|row| row.map == at);
            // Rows of one map may differ in the score that ranks it: this says nothing of the map.
            let telling = row.and_then(|row| titles[row].split_once(" (")?.1.strip_suffix(')'));
            let note = telling
                .unwrap_or_default()
                .split(", ")
                .filter(|word| !["signed", "absolute"].contains(word));
            Way {
                given: parameters.to_json(),
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
    async fn misclassified(
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
                Some(doubt) => (reason_of(doubt), doubt.explain(classes)),
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

    /// Noise is seeded per image. Baselines are drawn once per job: to read others for each image
    /// would take longer than to explain it.
    fn with_image_seed(&self, parameters: &Parameters, index: usize) -> Parameters {
        Parameters {
            seed: self.seed_of(parameters).wrapping_add(index as u64),
            ..parameters.clone()
        }
    }

    fn seed_of(&self, parameters: &Parameters) -> u64 {
        parameters.seed.wrapping_add(self.spec.seed)
    }

    /// The map of each request, or the method whose scores are not finite.
    async fn maps(
        &self,
        requests: Vec<Request>,
        explained: &[Vec<Explained>],
    ) -> Result<Result<Arc<[AttributionMap]>, &'static str>, WorkError> {
        let found = |answers: &Vec<Explained>| Some(answers.first()?.attribution.clone());
        let found: Vec<_> = explained.iter().map(found).collect();
        let map = |(request, found): (Request, Option<Attribution>)| {
            let is_finite = |found: &Attribution| found.scores.iter().all(|s| s.is_finite());
            match found.filter(is_finite) {
                Some(found) => Ok(AttributionMap {
                    request,
                    scores: found.scores,
                    difference: found
                        .input_value
                        .zip(found.baseline_value)
                        .map(|(input, baseline)| input - baseline),
                    compared: found.compared,
                }),
                None => Err(request.parameters.method.id),
            }
        };
        let maps = move || requests.into_iter().zip(found).map(map).collect();
        Ok(self.context.app.pool().run(maps).await?)
    }

    /// What a metric says of each row, nothing of those that mean nothing to it, or what is not
    /// finite.
    async fn apply(
        &self,
        ShardMetric {
            metric,
            values,
            variants,
            ..
        }: &ShardMetric,
        driver: &Driver<'_>,
        index: usize,
        case: &Case,
    ) -> Result<Result<Vec<Vec<f32>>, String>, WorkError> {
        let (metric, values) = (*metric, values.clone());
        let excludes = |map: &AttributionMap| (metric.needs.excludes)(&map.request.parameters);
        let is_kept = case.row_maps().map(|(map, _)| !excludes(map));
        let is_kept: Vec<bool> = is_kept.collect();
        let mut case = case.with_rows(|map| !excludes(map));
        let (variants, dataset) = (variants.clone(), self.dataset.clone());
        let has_labels = self.spec.labels == Labels::Use;
        let build = move || {
            let right = |model: &Model| {
                let classes = driver::model_defaults(model).classes;
                let meaning = dataset.meaning(&dataset.images[index], classes);
                let is_judged = has_labels && !meaning.is_empty();
                is_judged.then_some(meaning.classes)
            };
            let variant = |model: &Arc<Model>| Variant {
                model: model.clone(),
                right: right(model),
            };
            case.right = right(&case.model);
            case.variants = variants.iter().map(variant).collect();
            (metric.build)(&case, &values)
        };
        let runs = self.context.app.pool().run(build).await?;
        let runs = runs.map_err(WorkError::permanent)?;
        let mut driven = Vec::with_capacity(runs.len());
        for run in runs {
            driven.push(driver.drive(vec![run]));
        }
        let driven: Vec<_> = match stream::iter(driven)
            .buffered(RUNS_AT_ONCE)
            .try_collect()
            .await
        {
            Err(error @ DriverError::NotFinite { .. }) => return Ok(Err(error.to_string())),
            other => other?,
        };
        let mut measured = Vec::with_capacity(self.rows.len());
        for (found, _) in driven.into_iter().flat_map(|one| one.outputs) {
            match found {
                Ok(found) => measured.extend(found.iter().map(narrow)),
                Err(error) => return Ok(Err(error.to_string())),
            }
        }
        let mut measured = measured.into_iter();
        let row = |is_kept: bool| is_kept.then(|| measured.next()).flatten();
        let rows = is_kept.into_iter().map(row);
        Ok(Ok(rows.map(Option::unwrap_or_default).collect()))
    }
}

/// Scores travel as f32, and so do results.
fn narrow(measurement: &Measurement) -> Vec<f32> {
    measurement.iter().map(|number| *number as f32).collect()
}

fn reason_of(doubt: &Doubt) -> Reason {
    if doubt.kind() == "ambiguous_label" {
        Reason::AmbiguousLabel
    } else {
        Reason::UnknownLabel
    }
}
