//! `explain_dataset`: one method's maps for every image of a data set, as npy and as a heat map in PNG, in one zip archive with an
//! index. Takes the parameters and picture options of POST /explain. A shard is a few images; each writes its files under their names.

use std::{io::Write, sync::Arc};

use bytes::Bytes;
use futures::future::BoxFuture;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use zip::{CompressionMethod, DateTime, ZipWriter, write::SimpleFileOptions};

use super::asked::{Asked, planned_dataset, planned_model};
use crate::{
    app::{App, AppError, plan::Sent},
    dataset::{Dataset, DatasetError, draw},
    image::{RgbImage, decode::Limits, geometry::Geometry, preprocess::preprocess},
    jobs::{Context, Format, Kind, Plan, Report, Shard, WorkError, kind::PlannedShard},
    methods::{
        Fault, Faults,
        drive::{self, Explained, MethodError, Request},
        parameters::Parameters,
    },
    model::manifest::Preprocess,
    render::{heatmap, options::HeatmapOptions},
    tensor::{Tensor, write_npy},
};

/// Evaluations of a shard, about: a few seconds.
const SHARD_EVALUATIONS: usize = 300;
const MAX_SHARD_IMAGES: usize = 32;
/// Options of an answer that an archive has no use for.
const ANSWER_OPTIONS: &[&str] = &["format", "encoding", "include"];

pub static EXPLAIN_DATASET: ExplainDataset = ExplainDataset;

#[derive(Debug)]
pub struct ExplainDataset;

#[derive(Debug, Serialize, Deserialize)]
struct Spec {
    model: String,
    model_hash: String,
    patterns: Option<String>,
    dataset: String,
    dataset_hash: String,
    /// So many images, drawn by `seed_value`; all without it.
    limit: Option<usize>,
    /// The method, its parameters, and the picture's options, as POST /explain takes them.
    #[serde(flatten)]
    explain: Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
struct Payload {
    /// Places in the data set.
    images: Vec<usize>,
}

/// What the archive's index says of an image.
#[derive(Serialize, Deserialize)]
struct Entry {
    index: usize,
    file: String,
    #[serde(flatten)]
    outcome: Value,
    /// Files below the job's folder.
    written: Vec<String>,
}

impl Kind for ExplainDataset {
    fn id(&self) -> &'static str {
        "explain_dataset"
    }

    fn doc(&self) -> &'static str {
        "Explains every image of a data set by one method: maps as npy and heat maps as PNG, in a zip archive"
    }

    fn plan<'a>(&'a self, given: Map<String, Value>, app: &'a App) -> BoxFuture<'a, Result<Plan, Faults>> {
        Box::pin(async move {
            let mut asked = Asked::new(given, app);
            let dataset = asked.dataset().await;
            asked.expect("dataset_hash", dataset.as_ref().map(|dataset| dataset.hash.as_str()));
            let limit = asked.take("limit", &["a whole number from 1"], |limit| *limit > 0usize);
            for option in ANSWER_OPTIONS {
                if asked.raw(option).is_some() {
                    asked.refuse(option, "is not a parameter of this kind of job: it writes npy and PNG", &[]);
                }
            }
            let (model_hash, patterns) = (asked.raw("model_hash"), asked.raw("patterns"));
            let (rest, mut faults) = asked.rest();
            let plan = match app.plan(rest, Sent::default()) {
                Ok(plan) => Some(plan),
                Err(AppError::Parameters(found)) => {
                    faults.append(found, |fault| fault);
                    None
                }
                Err(error) => return Err(Fault::says("model", error.to_string()).into()),
            };
            let (Some(plan), Some(dataset)) = (plan, dataset) else { return Err(faults) };
            let model = plan.model;
            let found = model
                .patterns
                .as_ref()
                .filter(|_| plan.parameters.needs_patterns())
                .map(|patterns| patterns.id.clone());
            for (name, wanted, found) in
                [("model_hash", model_hash, Some(&model.hash)), ("patterns", patterns, found.as_ref())]
            {
                if wanted.is_some_and(|wanted| wanted.as_str() != found.map(String::as_str)) {
                    faults.push(Fault::says(name, "has changed since; leave it out to use what is there"));
                }
            }
            if model.manifest.input.preprocess.is_none() {
                faults.push(Fault::says("model", "takes ready tensors, not images"));
            }
            if dataset.images.is_empty() {
                faults.push(Fault::says("dataset", "holds no image"));
            }
            if !faults.is_empty() {
                return Err(faults);
            }
            let mut explain = plan.parameters.to_json();
            if let Ok(Value::Object(options)) = serde_json::to_value(&plan.options.heatmap) {
                explain.extend(options.into_iter().filter(|(_, value)| !value.is_null()));
            }
            let count = dataset.images.len();
            let mut images: Vec<usize> = match limit {
                Some(limit) if limit < count => draw(count, limit, plan.parameters.seed_value),
                _ => (0..count).collect(),
            };
            images.sort_unstable();
            let cost = Parameters::cost_of([&plan.parameters].into_iter(), true);
            let size = (SHARD_EVALUATIONS / cost.max(1)).clamp(1, MAX_SHARD_IMAGES);
            let shards = images
                .chunks(size)
                .map(|images| PlannedShard { units: images.len() as u64, payload: json!({ "images": images }) })
                .collect();
            let spec = Spec {
                model: model.id.clone(),
                model_hash: model.hash.clone(),
                patterns: found,
                dataset: dataset.id.clone(),
                dataset_hash: dataset.hash.clone(),
                limit,
                explain,
            };
            Ok(Plan { model: Some(model.id.clone()), spec: json!(spec), shards })
        })
    }

    fn work<'a>(&'a self, context: &'a Context, shard: &'a Shard) -> BoxFuture<'a, Result<Bytes, WorkError>> {
        Box::pin(async move {
            let payload: Payload = serde_json::from_value(shard.payload.clone()).map_err(WorkError::lasting)?;
            let task = Task::open(context).await?;
            let mut entries = Vec::with_capacity(payload.images.len());
            for index in payload.images {
                entries.push(task.explain(index).await?);
                context.report_progress(entries.len() as u64);
            }
            Ok(serde_json::to_vec(&entries).map_err(WorkError::lasting)?.into())
        })
    }

    fn reduce(&self, _: &Value, results: &[Option<Bytes>]) -> Result<Value, WorkError> {
        let mut entries: Vec<Entry> = Vec::new();
        for result in results.iter().flatten() {
            entries.extend(serde_json::from_slice::<Vec<Entry>>(result).map_err(WorkError::lasting)?);
        }
        entries.sort_by_key(|entry| entry.index);
        let explained = entries.iter().filter(|entry| !entry.written.is_empty()).count();
        Ok(json!({ "explained": explained, "skipped": entries.len() - explained, "images": entries }))
    }

    fn complete<'a>(&'a self, context: &'a Context, mut reduced: Value) -> BoxFuture<'a, Result<Value, WorkError>> {
        Box::pin(async move {
            let images: Vec<Entry> = serde_json::from_value(reduced["images"].clone()).map_err(WorkError::lasting)?;
            let index = json!({ "kind": self.id(), "request": context.spec.as_ref(), "result": &reduced });
            let index = serde_json::to_vec_pretty(&index).map_err(WorkError::lasting)?;
            let mut writer = ZipWriter::new(tempfile::tempfile().map_err(WorkError::passing)?);
            add(&mut writer, "index.json", &index).map_err(WorkError::passing)?;
            for name in images.iter().flat_map(|entry| &entry.written) {
                let bytes = context.files().read(&place(context, name)).await?;
                add(&mut writer, name, &bytes).map_err(WorkError::passing)?;
            }
            let file = writer.finish().map_err(WorkError::passing)?;
            let archive = context.folder().join("maps.zip");
            context.files().upload(&archive, file).await?;
            reduced["archive"] = json!(archive.as_ref());
            Ok(reduced)
        })
    }

    fn formats(&self) -> &'static [Format] {
        &[Format::Zip, Format::Json]
    }

    fn report(&self, spec: &Value, result: &Value, format: Format) -> Result<Report, WorkError> {
        if format == Format::Zip {
            // Written at the end: until then there is no such file.
            return Ok(Report::File(Path::from(result["archive"].as_str().unwrap_or("maps.zip"))));
        }
        let report = json!({ "kind": self.id(), "request": spec, "result": result });
        Ok(Report::Bytes(serde_json::to_vec_pretty(&report).map_err(WorkError::lasting)?.into()))
    }
}

/// Where a file of the archive is kept until the end.
fn place(context: &Context, name: &str) -> Path {
    name.split('/').fold(context.folder().join("maps"), |folder, part| folder.join(part))
}

/// Entries carry no time: the same maps give the same archive.
fn add(archive: &mut ZipWriter<std::fs::File>, name: &str, bytes: &[u8]) -> Result<(), zip::result::ZipError> {
    let method = if name.ends_with(".png") { CompressionMethod::Stored } else { CompressionMethod::Deflated };
    let options = SimpleFileOptions::default().compression_method(method).last_modified_time(DateTime::default());
    archive.start_file(name, options)?;
    Ok(archive.write_all(bytes)?)
}

/// What the images of a shard share.
struct Task<'a> {
    context: &'a Context,
    model: Arc<crate::model::Model>,
    dataset: Arc<Dataset>,
    rule: Preprocess,
    request: Request,
    options: HeatmapOptions,
}

impl<'a> Task<'a> {
    async fn open(context: &'a Context) -> Result<Self, WorkError> {
        let spec: Spec = serde_json::from_value(context.spec.as_ref().clone()).map_err(WorkError::lasting)?;
        let model = planned_model(&context.app, &spec.model, &spec.model_hash, spec.patterns.as_deref()).await?;
        let dataset = planned_dataset(&context.app, &spec.dataset, &spec.dataset_hash).await?;
        let mut asked = spec.explain;
        asked.insert("model".to_owned(), json!(spec.model));
        let plan = context.app.plan(asked, Sent::default())?;
        let rule = model.manifest.input.preprocess.clone();
        let rule = rule.ok_or_else(|| WorkError::lasting("the model takes ready tensors"))?;
        let request = Request::of(plan.parameters);
        Ok(Self { context, model, dataset, rule, request, options: plan.options.heatmap })
    }

    async fn explain(&self, index: usize) -> Result<Entry, WorkError> {
        let Context { app, caller, .. } = self.context;
        let file = self.dataset.images.get(index).map(|image| image.file.clone());
        let file =
            file.ok_or_else(|| WorkError::lasting(format!("data set {} has no image {index}", self.dataset.id)))?;
        let skipped = |error: &dyn std::fmt::Display| {
            Ok(Entry {
                index,
                file: file.clone(),
                outcome: json!({ "skipped": error.to_string() }),
                written: Vec::new(),
            })
        };
        let (dataset, rule, limits) = (self.dataset.clone(), self.rule.clone(), *app.datasets().here().limits());
        let (upload, input, geometry) = match app.pool().run(move || read(&dataset, index, &rule, &limits)).await? {
            Ok(read) => read,
            Err(error @ DatasetError::Image { .. }) => return skipped(&error),
            Err(error) => return Err(WorkError::lasting(error)),
        };
        let requests = std::slice::from_ref(&self.request);
        let explained = match drive::explain(app.means(caller), &self.model, Arc::new(input), requests, None).await {
            Err(error @ MethodError::NotFinite { .. }) => return skipped(&error),
            other => other?.explained.into_iter().flatten().collect::<Vec<Explained>>(),
        };
        let (layout, options) = (self.rule.layout, self.options.clone());
        let (name, several) = (file.clone(), explained.len() > 1);
        let drawn = app.pool().run(move || {
            let scores: Vec<Arc<Tensor>> = explained.iter().map(|one| one.attribution.scores.clone()).collect();
            let pictures = heatmap::draw(&upload, &scores, layout, &geometry, &options).map_err(AppError::from)?;
            explained
                .iter()
                .zip(pictures)
                .enumerate()
                .map(|(at, (one, picture))| {
                    let stem = if several { format!("{name}.{at}") } else { name.clone() };
                    let png = picture.overlay.png().map_err(AppError::from)?;
                    let npy = write_npy(&one.attribution.scores).map_err(AppError::from)?;
                    let warnings: Vec<&String> = one.attribution.warnings.iter().chain(&picture.warnings).collect();
                    let says = json!({ "target": one.target, "warnings": warnings });
                    Ok((says, [(format!("{stem}.npy"), npy), (format!("{stem}.png"), png)]))
                })
                .collect::<Result<Vec<_>, AppError>>()
        });
        let (mut says, mut written) = (Vec::new(), Vec::new());
        for (one, files) in drawn.await?? {
            says.push(one);
            for (name, bytes) in files {
                self.context.files().write(&place(self.context, &name), bytes).await?;
                written.push(name);
            }
        }
        Ok(Entry { index, file, outcome: json!({ "explained": says }), written })
    }
}

fn read(
    dataset: &Dataset,
    index: usize,
    rule: &Preprocess,
    limits: &Limits,
) -> Result<(RgbImage, Tensor, Geometry), DatasetError> {
    let image = dataset.read(index, limits)?.image;
    let fault = |source| DatasetError::Image { file: dataset.images[index].file.clone(), source };
    let (input, geometry) = preprocess(&image, rule).map_err(fault)?;
    Ok((image, input, geometry))
}
