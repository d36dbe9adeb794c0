//! What belongs to the end of an evaluation: tables of the values of single images, and pictures of
//! the images that the report names. Both are bounded in memory: the tables are written shard by
//! shard, and a metric names two images.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, BufWriter},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::spec::Spec;
use crate::{
    dataset::Dataset,
    evaluation::{findings::ImageResult, tidy::TidyWriter},
    jobs::{
        Context, Format, Results, ShardResults, WorkError,
        kinds::{
            images::{read, stored},
            output::keep,
            request_reader::{planned_dataset, planned_model},
        },
    },
    picture::{decode::Limits, preprocess::Preprocess},
    render::{
        encode::{FileType, encode},
        ground::{Ground, alone},
        options::{HeatmapOptions, Look, View},
    },
};

/// The longest side of a thumbnail in pixels.
const THUMBNAIL_SIDE: u32 = 128;

/// The result with its tables and thumbnails.
pub(super) async fn complete(
    context: &Context,
    mut reduced: Value,
    results: ShardResults,
) -> Result<Value, WorkError> {
    let spec: Spec = stored(&context.spec)?;
    let named = named_images(&reduced);
    reduced["thumbnails"] = json!(thumbnails(context, &spec, named).await?);
    write_tables(context, spec, results).await?;
    reduced["tables"] = json!(context.folder().as_ref());
    Ok(reduced)
}

/// Places of the images that metrics name.
fn named_images(reduced: &Value) -> BTreeSet<usize> {
    let metrics = reduced["metrics"].as_array().into_iter().flatten();
    let named = metrics
        .flat_map(|metric| ["best", "worst"].map(|end| metric["extremes"][end]["index"].as_u64()));
    named
        .flatten()
        .filter_map(|index| index.try_into().ok())
        .collect()
}

/// The part of each image that the network saw, as a JPEG in base64; none of a set that has changed
/// or gone since it was measured.
async fn thumbnails(
    context: &Context,
    spec: &Spec,
    images: BTreeSet<usize>,
) -> Result<BTreeMap<usize, String>, WorkError> {
    let app = &context.app;
    let model = planned_model(app, &spec.model, &spec.model_hash, None).await;
    let dataset = planned_dataset(app, &spec.dataset, &spec.dataset_hash).await;
    let (Ok(model), Ok(dataset)) = (model, dataset) else {
        return Ok(BTreeMap::new());
    };
    let limits = *app.datasets().local().limits();
    let draw = move || {
        let Some(rule) = &model.manifest.input.preprocess else {
            return BTreeMap::new();
        };
        let drawn = |index| Some((index, thumbnail(&dataset, index, rule, &limits)?));
        images.into_iter().filter_map(drawn).collect()
    };
    Ok(app.pool().run(draw).await?)
}

fn thumbnail(
    dataset: &Dataset,
    index: usize,
    rule: &Preprocess,
    limits: &Limits,
) -> Option<String> {
    dataset.images.get(index)?;
    let (picture, _, geometry) = read(dataset, index, rule, limits).ok()?;
    let options = HeatmapOptions {
        view: View::Crop,
        size: Some(THUMBNAIL_SIDE),
        ..Look::Signed.options()
    };
    let ground = Ground::new(&picture, &geometry, &options, alone).ok()?;
    let bytes = encode(&ground.pixels, FileType::Jpeg, &[]).ok()?;
    Some(BASE64_STANDARD.encode(bytes))
}

/// The values of single images, in the job's folder.
async fn write_tables(
    context: &Context,
    spec: Spec,
    results: ShardResults,
) -> Result<(), WorkError> {
    let write = move |shards: Results<'_>| tables(&spec, shards);
    let [csv, json] = results.read::<_, WorkError>(write).await?;
    keep(context, Format::TidyCsv.name(), csv).await?;
    keep(context, Format::TidyJsonl.name(), json).await
}

fn tables(spec: &Spec, results: Results<'_>) -> Result<[File; 2], WorkError> {
    let file = || tempfile::tempfile().map(BufWriter::new);
    let [csv, json] = [file(), file()].map(|file| file.map_err(WorkError::transient));
    let mut writer = TidyWriter::new(&spec.measured.metrics, &spec.methods, csv?, json?);
    writer.write_head().map_err(WorkError::transient)?;
    for result in results.flatten() {
        let images: Vec<ImageResult> =
            serde_json::from_slice(&result).map_err(WorkError::permanent)?;
        for image in &images {
            writer.write(image).map_err(WorkError::transient)?;
        }
    }
    let (csv, json) = writer.finish().map_err(WorkError::transient)?;
    let [csv, json] = [csv, json].map(|file| file.into_inner().map_err(io::Error::from));
    let [csv, json] = [csv, json].map(|file| file.map_err(WorkError::transient));
    Ok([csv?, json?])
}
