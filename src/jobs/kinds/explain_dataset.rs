//! `explain_dataset`: one method's maps for every image of a data set, as npy and as a heat map in
//! PNG, in one zip archive with an index. Takes the parameters and picture options of POST
//! /explain. A shard is a few images; each writes its files under their names.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use zip::ZipWriter;

use super::{
    cost::{check_evaluations, check_output},
    images::{enveloped, file_of, read, shard_size, stored, used},
    output::{keep, reserve, writes_to_data},
    request_reader::{RequestReader, planned_dataset, planned_model},
};
use crate::{
    app::{
        App, AppError,
        bundle::add_entry,
        plan::RequestContext,
        render::{MOST_TEXT_BYTES, pictures},
    },
    dataset::{Dataset, DatasetError},
    driver::{Driver, DriverError, model_defaults},
    engine::EngineError,
    faults::{Fault, Faults},
    jobs::{
        Context, Format, JobError, Kind, Plan, PlannedShard, Report, Results, Shard, ShardResults,
        WorkError,
    },
    methods::{Explained, Request, parameters::Parameters, registry::undefined},
    picture::{decode::Limits, preprocess::Preprocess},
    render::{encode::FileType, frame::largest_picture, options::HeatmapOptions},
    tensor::write_npy,
};

/// Evaluations of a shard, about: a few seconds.
const SHARD_EVALUATIONS: usize = 300;
/// Parameters that evaluations are counted by.
const COSTLY: &[&str] = &["n_steps", "n_samples", "max_steps", "baseline", "target"];
const ARCHIVE: &str = "maps.zip";
const TOO_MUCH: &str = "more bytes than were estimated when the job was queued";
/// Options of an answer that an archive has no use for.
const ANSWER_OPTIONS: &[&str] = &["format", "encoding", "include", "channels"];

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
    /// So many images, drawn by `seed`; all without it.
    limit: Option<usize>,
    /// The method, its parameters, and the picture's options, as POST /explain takes them.
    #[serde(flatten)]
    explain: Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
struct Payload {
    /// Places in the data set.
    images: Vec<usize>,
    /// What they were estimated to come to in the store of files, the archive's part among it.
    output_bytes: Option<u64>,
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

    fn parameters(&self) -> &'static [(&'static str, &'static str)] {
        &[
            ("dataset", "the id of the data set"),
            (
                "limit",
                "most images, drawn at random by `seed`; default: all",
            ),
            (
                "method",
                "one method, and beside it the parameters and picture options of POST /explain; default: as there",
            ),
        ]
    }

    fn plan<'a>(
        &'a self,
        given: Map<String, Value>,
        app: &'a App,
    ) -> BoxFuture<'a, Result<Plan, JobError>> {
        Box::pin(async move {
            let mut asked = RequestReader::new(given, app);
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
            let payload: Payload = stored(&shard.payload)?;
            let mut task = Task::open(context).await?;
            task.bytes_left = payload.output_bytes.unwrap_or(u64::MAX) / 2;
            let mut entries = Vec::with_capacity(payload.images.len());
            for index in payload.images {
                entries.push(task.explain(index).await?);
                context.report_progress(entries.len() as u64);
            }
            Ok(serde_json::to_vec(&entries)
                .map_err(WorkError::permanent)?
                .into())
        })
    }

    fn reduce(&self, _: &Value, results: Results<'_>) -> Result<Value, WorkError> {
        let mut entries: Vec<Entry> = Vec::new();
        for result in results.flatten() {
            entries.extend(
                serde_json::from_slice::<Vec<Entry>>(&result).map_err(WorkError::permanent)?,
            );
        }
        entries.sort_by_key(|entry| entry.index);
        let explained = entries
            .iter()
            .filter(|entry| !entry.written.is_empty())
            .count();
        Ok(
            json!({ "explained": explained, "skipped": entries.len() - explained, "images": entries }),
        )
    }

    fn complete<'a>(
        &'a self,
        context: &'a Context,
        reduced: Value,
        _: ShardResults,
    ) -> BoxFuture<'a, Result<Value, WorkError>> {
        Box::pin(async move {
            let (spec, kind) = (context.spec.clone(), self.id());
            let start =
                move || start_archive(kind, &spec, &reduced).map(|archive| (archive, reduced));
            let ((mut writer, names), mut reduced) = context.app.pool().run(start).await??;
            for name in names {
                let bytes = context.files().read(&place(context, &name)).await?;
                let add = move || add_entry(&mut writer, &name, &bytes).map(|()| writer);
                writer = context
                    .app
                    .pool()
                    .run(add)
                    .await?
                    .map_err(WorkError::transient)?;
            }
            let finish = move || writer.finish().map_err(WorkError::transient);
            let file = context.app.pool().run(finish).await??;
            keep(context, ARCHIVE, file).await?;
            reduced["archive"] = json!(context.folder().join(ARCHIVE).as_ref());
            Ok(reduced)
        })
    }

    fn formats(&self) -> &'static [Format] {
        &[Format::Zip, Format::Json]
    }

    fn report(&self, spec: &Value, result: &Value, format: Format) -> Result<Report, WorkError> {
        if format == Format::Zip {
            return Ok(Report::File(Path::from(
                result["archive"].as_str().unwrap_or(ARCHIVE),
            )));
        }
        Ok(Report::Bytes(enveloped(self.id(), spec, result)?.into()))
    }
}

fn plan(mut asked: RequestReader, dataset: Option<Arc<Dataset>>) -> Result<Plan, JobError> {
    let app = asked.app().clone();
    asked.expect(
        "dataset_hash",
        dataset.as_ref().map(|dataset| dataset.hash.as_str()),
    );
    let limit = asked.take("limit", &["a whole number from 1"], |limit: &usize| {
        *limit > 0
    });
    if asked.raw("methods").is_some() {
        asked.refuse(
            "methods",
            "this kind of job takes one method: send it as `method`",
            &[],
        );
    }
    for option in ANSWER_OPTIONS {
        if asked.raw(option).is_some() {
            asked.refuse(
                option,
                "is not a parameter of this kind of job: it writes npy and PNG",
                &[],
            );
        }
    }
    let (model_hash, patterns) = (asked.raw("model_hash"), asked.raw("patterns"));
    let (rest, mut faults) = asked.rest();
    let plan = match app.plan(rest, &RequestContext::default()) {
        Ok(plan) => Some(plan),
        Err(AppError::Parameters(found)) => {
            faults.append(found, |fault| fault);
            None
        }
        Err(error) => return Err(Faults::from(Fault::says("model", error.to_string())).into()),
    };
    let (Some(plan), Some(dataset)) = (plan, dataset) else {
        return Err(faults.into());
    };
    let model = plan.model;
    faults.extend(undefined(&plan.parameters, &model_defaults(&model)));
    let found = model
        .patterns
        .as_ref()
        .filter(|_| plan.parameters.needs_patterns())
        .map(|patterns| patterns.id.clone());
    for (name, wanted, found) in [
        ("model_hash", model_hash, Some(&model.hash)),
        ("patterns", patterns, found.as_ref()),
    ] {
        if wanted.is_some_and(|wanted| wanted.as_str() != found.map(String::as_str)) {
            faults.push(Fault::says(
                name,
                "has changed since; leave it out to use what is there",
            ));
        }
    }
    if model.manifest.input.preprocess.is_none() {
        faults.push(Fault::says("model", "takes ready tensors, not images"));
    }
    if dataset.images.is_empty() {
        faults.push(Fault::says("dataset", "holds no image"));
    }
    if !faults.is_empty() {
        return Err(faults.into());
    }
    let mut explain = plan.parameters.to_json();
    if let Ok(Value::Object(options)) = serde_json::to_value(&plan.heatmap) {
        explain.extend(options.into_iter().filter(|(_, value)| !value.is_null()));
    }
    let images = used(&dataset, None, limit, plan.parameters.seed);
    let cost = Parameters::cost_of([&plan.parameters].into_iter(), true);
    let lower: Vec<_> = COSTLY
        .iter()
        .filter(|name| explain.contains_key(**name))
        .map(|name| (*name, None))
        .collect();
    check_evaluations(&app, cost, images.len(), |_| lower)?;
    let limits = *app.datasets().local().limits();
    let (input, answers, options) = (
        &model.manifest.input.shape,
        plan.parameters.target.answers() as u64,
        &plan.heatmap,
    );
    let bytes = check_output(&app, &images, |index| {
        let bytes = |(width, height)| output_bytes(picture_bytes(width, height, options), input);
        answers * pixels(&dataset, *index, &limits).map_or(0, bytes)
    })?;
    if writes_to_data(&app) {
        // It is asked for again when files are written: others may take it until then.
        app.quota().reserve(bytes.iter().sum())?;
    }
    let size = shard_size(cost, SHARD_EVALUATIONS);
    let shards = images
        .chunks(size)
        .zip(bytes.chunks(size))
        .map(|(images, bytes)| PlannedShard {
            units: images.len() as u64,
            payload: json!(Payload {
                images: images.to_vec(),
                output_bytes: Some(bytes.iter().sum())
            }),
            needs_previous: false,
        })
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
    Ok(Plan {
        model: Some(model.id.clone()),
        spec: json!(spec),
        shards,
    })
}

/// Width and height of an image by its header; none where it cannot be explained, and then nothing
/// is written for it.
fn pixels(dataset: &Dataset, index: usize, limits: &Limits) -> Option<(u64, u64)> {
    let picture = dataset
        .images
        .get(index)
        .filter(|picture| picture.fault.is_none())?;
    let path = dataset.folder.join(&picture.file);
    let read = imagesize::size(&path)
        .ok()
        .map(|size| (size.width as u64, size.height as u64));
    let (width, height) = read.or_else(|| {
        let reader = image::ImageReader::open(&path)
            .ok()?
            .with_guessed_format()
            .ok()?;
        reader
            .into_dimensions()
            .ok()
            .map(|(width, height)| (width.into(), height.into()))
    })?;
    width
        .checked_mul(height)
        .filter(|pixels| *pixels <= limits.max_pixels)?;
    Some((width, height))
}

/// What an answer may come to: a float for each element of the input, and a PNG, both in files of
/// their own and in the archive.
fn output_bytes(picture: u64, input: &[usize]) -> u64 {
    const HEADERS: u64 = 2048;
    let npy = 4 * input.iter().product::<usize>() as u64;
    2 * (picture + npy + HEADERS)
}

/// A PNG of a picture of this upload at most: fast deflate has a fixed code of at most 12 bits for
/// a byte, and each row has a byte more.
fn picture_bytes(width: u64, height: u64, options: &HeatmapOptions) -> u64 {
    let (width, height) = largest_picture((width, height), options);
    (3 * width + 1) * height * 12 / 8 + MOST_TEXT_BYTES
}

/// Where a file of the archive is kept until the end.
fn place(context: &Context, name: &str) -> Path {
    name.split('/')
        .fold(context.folder().join("maps"), |folder, part| {
            folder.join(part)
        })
}

/// An archive with its index, and the names of the files to come.
fn start_archive(
    kind: &str,
    request: &Value,
    result: &Value,
) -> Result<(ZipWriter<std::fs::File>, Vec<String>), WorkError> {
    let images: Vec<Entry> = stored(&result["images"])?;
    let index = enveloped(kind, request, result)?;
    let mut writer = ZipWriter::new(tempfile::tempfile().map_err(WorkError::transient)?);
    add_entry(&mut writer, "index.json", &index).map_err(WorkError::transient)?;
    Ok((
        writer,
        images.into_iter().flat_map(|entry| entry.written).collect(),
    ))
}

/// What the images of a shard share.
struct Task<'a> {
    context: &'a Context,
    model: Arc<crate::model::Model>,
    dataset: Arc<Dataset>,
    rule: Preprocess,
    request: Request,
    options: HeatmapOptions,
    /// That may still be written.
    bytes_left: u64,
}

impl<'a> Task<'a> {
    async fn open(context: &'a Context) -> Result<Self, WorkError> {
        let spec: Spec = stored(&context.spec)?;
        let model = planned_model(
            &context.app,
            &spec.model,
            &spec.model_hash,
            spec.patterns.as_deref(),
        )
        .await?;
        let dataset = planned_dataset(&context.app, &spec.dataset, &spec.dataset_hash).await?;
        let mut asked = spec.explain;
        asked.insert("model".to_owned(), json!(spec.model));
        let plan = context.app.plan(asked, &RequestContext::default())?;
        let rule = model.manifest.input.preprocess.clone();
        let rule = rule.ok_or_else(|| WorkError::permanent("the model takes ready tensors"))?;
        let request = Request::of(plan.parameters);
        Ok(Self {
            context,
            model,
            dataset,
            rule,
            request,
            options: plan.heatmap,
            bytes_left: 0,
        })
    }

    async fn explain(&mut self, index: usize) -> Result<Entry, WorkError> {
        let Context { app, caller, .. } = self.context;
        let file = file_of(&self.dataset, index)?;
        let skipped = |error: &dyn std::fmt::Display| {
            Ok(Entry {
                index,
                file: file.clone(),
                outcome: json!({ "skipped": error.to_string() }),
                written: Vec::new(),
            })
        };
        let (dataset, rule, limits) = (
            self.dataset.clone(),
            self.rule.clone(),
            *app.datasets().local().limits(),
        );
        let (upload, input, geometry) = match app
            .pool()
            .run(move || read(&dataset, index, &rule, &limits))
            .await?
        {
            Ok(read) => read,
            Err(error @ DatasetError::Image { .. }) => return skipped(&error),
            // Opened again it is another set, which is told then, or the same in another place.
            Err(error) => return Err(WorkError::transient(error)),
        };
        let requests = std::slice::from_ref(&self.request);
        let explained = match Driver::new(app.resources(caller), &self.model, input)
            .explain(requests, None)
            .await
        {
            Err(error @ (DriverError::NotFinite { .. } | DriverError::NoneAbove(_))) => {
                return skipped(&error);
            }
            other => other?
                .explained
                .into_iter()
                .flatten()
                .collect::<Vec<Explained>>(),
        };
        let (model, options) = (self.model.clone(), self.options.clone());
        let several = self.request.parameters.target.is_list();
        let (name, quota) = (file.clone(), app.clone());
        let drawn = app.pool().run(move || {
            let upload = (&upload, &geometry);
            let drawn = pictures(upload, &model, &explained, &options, FileType::Png, || {
                Ok(())
            })?;
            let drawn = explained
                .iter()
                .zip(drawn)
                .enumerate()
                .map(|(at, (one, picture))| {
                    let stem = if several {
                        format!("{name}.{at}")
                    } else {
                        name.clone()
                    };
                    let png = picture.file.unwrap_or_default().into();
                    let npy = write_npy(&one.attribution.scores).map_err(AppError::from)?;
                    let warnings: Vec<&String> = one
                        .attribution
                        .warnings
                        .iter()
                        .chain(&picture.warnings)
                        .collect();
                    let says = json!({ "target": one.target, "warnings": warnings });
                    Ok((
                        says,
                        [(format!("{stem}.npy"), npy), (format!("{stem}.png"), png)],
                    ))
                })
                .collect::<Result<Vec<_>, AppError>>()?;
            let lengths = drawn
                .iter()
                .flat_map(|(_, files)| files)
                .map(|(_, bytes)| bytes.len() as u64);
            let room = reserve(&quota, lengths).map_err(WorkError::transient)?;
            Ok::<_, WorkError>((drawn, room))
        });
        let (drawn, room) = drawn.await??;
        let (mut says, mut written) = (Vec::new(), Vec::new());
        for (one, files) in drawn {
            says.push(one);
            for (name, bytes) in files {
                if caller.cancel.is_cancelled() {
                    return Err(EngineError::Cancelled.into());
                }
                let left = self.bytes_left.checked_sub(bytes.len() as u64);
                self.bytes_left = left.ok_or_else(|| WorkError::permanent(TOO_MUCH))?;
                self.context
                    .files()
                    .write(&place(self.context, &name), bytes)
                    .await?;
                written.push(name);
            }
        }
        if let Some(room) = room {
            room.keep();
        }
        Ok(Entry {
            index,
            file,
            outcome: json!({ "explained": says }),
            written,
        })
    }
}

#[cfg(test)]
mod tests {
    use image::RgbImage;
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::render::{encode::encode_png, options::Look};

    #[test]
    fn noise_compresses_to_no_more_than_is_estimated() {
        for (width, height) in [(1, 1), (61, 47), (3, 400), (400, 3), (300, 300)] {
            let noise = RgbImage::from_fn(width, height, |x, y| {
                let hash = Sha256::digest(format!("{x} {y}"));
                image::Rgb([hash[0], hash[1], hash[2]])
            });
            let options = HeatmapOptions {
                size: Some(width.max(height)),
                ..Look::Signed.options()
            };
            let found = encode_png(&noise, &[]).unwrap().len() as u64;
            let most = picture_bytes(width.into(), height.into(), &options);
            assert!(
                found <= most + 1024,
                "{width} x {height}: {found} bytes, and {most} were estimated"
            );
        }
    }
}
