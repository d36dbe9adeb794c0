//! What jobs over the images of a data set have in common: which images are used, how they are cut
//! into shards, how one is read, and the envelope of their reports.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    dataset::{Dataset, DatasetError, draw},
    engine::{Point, Row},
    evaluation::report::requested,
    jobs::{Context, WorkError},
    model::Model,
    picture::{RgbImage, decode::Limits, geometry::Geometry, preprocess::Preprocess},
    tensor::Tensor,
};
use onnx_autodiff::autodiff::spec::DeriveSpec;

/// The most images of a shard.
const MAX_SHARD_IMAGES: usize = 32;
/// Images that are read and evaluated at once.
const ROWS: usize = 32;

/// The role of an image with an object, and that of the same image without it.
pub(super) const WITH: &str = "with";
pub(super) const WITHOUT: &str = "without";

/// Places of the images of a role, or of all; of more than `limit`, so many drawn by `seed`.
pub(super) fn used(
    dataset: &Dataset,
    role: Option<&str>,
    limit: Option<usize>,
    seed: u64,
) -> Vec<usize> {
    let images = dataset.images.iter().enumerate();
    let images = images.filter(|(_, image)| role.is_none() || image.role.as_deref() == role);
    let mut images: Vec<usize> = images.map(|(place, _)| place).collect();
    if let Some(limit) = limit.filter(|limit| *limit < images.len()) {
        let drawn = draw(images.len(), limit, seed).into_iter();
        images = drawn.map(|place| images[place]).collect();
        images.sort_unstable();
    }
    images
}

/// For each image, the place of that of its group which has the role [`WITHOUT`].
pub(super) fn twins(dataset: &Dataset) -> Vec<Option<usize>> {
    let is_without = |place: &usize| dataset.images[*place].role.as_deref() == Some(WITHOUT);
    let mut twins = vec![None; dataset.images.len()];
    for group in dataset.groups().into_values() {
        let twin = group.iter().copied().find(is_without);
        group.into_iter().for_each(|place| twins[place] = twin);
    }
    twins
}

/// How many images of this cost a shard of about so many evaluations has.
pub(super) fn shard_size(cost: usize, evaluations: usize) -> usize {
    (evaluations / cost.max(1)).clamp(1, MAX_SHARD_IMAGES)
}

/// What a job stored: its settled request, a shard's payload or a shard's result.
pub(super) fn stored<T: DeserializeOwned>(value: &Value) -> Result<T, WorkError> {
    T::deserialize(value).map_err(WorkError::permanent)
}

/// The file of an image, which the job was planned on.
pub(super) fn file_of(dataset: &Dataset, index: usize) -> Result<String, WorkError> {
    let image = dataset.images.get(index);
    image.map(|image| image.file.clone()).ok_or_else(|| {
        WorkError::permanent(format!("data set {} has no image {index}", dataset.id))
    })
}

/// An image as it is, and as a model's input. Belongs in the pool.
pub(super) fn read(
    dataset: &Dataset,
    index: usize,
    rule: &Preprocess,
    limits: &Limits,
) -> Result<(RgbImage, Arc<Tensor>, Geometry), DatasetError> {
    let decoded = dataset.read(index, limits)?;
    let fault = |source| DatasetError::Image {
        file: dataset.images[index].file.clone(),
        source,
    };
    let (input, geometry) = decoded.to_input(rule).map_err(fault)?;
    Ok((decoded.image, Arc::new(input), geometry))
}

/// What a model answers to these images, in their order; tells how many are done.
pub(super) async fn forward(
    context: &Context,
    model: &Arc<Model>,
    dataset: &Arc<Dataset>,
    images: &[usize],
) -> Result<Vec<Row>, WorkError> {
    let Context { app, caller, .. } = context;
    let rule = model.manifest.input.preprocess.clone();
    let rule = rule.ok_or_else(|| WorkError::permanent("the model takes ready tensors"))?;
    let limits = *app.datasets().local().limits();
    let mut rows = Vec::with_capacity(images.len());
    for images in images.chunks(ROWS) {
        let (dataset, rule, images) = (dataset.clone(), rule.clone(), images.to_vec());
        let points = move || {
            let point = |index: &usize| {
                let (_, input, _) = read(&dataset, *index, &rule, &limits)?;
                Ok::<_, DatasetError>(Point::forward(input))
            };
            images.iter().map(point).collect::<Result<Vec<_>, _>>()
        };
        let points = app.pool().run(points).await?;
        let points = points.map_err(WorkError::permanent)?;
        let found = app
            .engine()
            .evaluate(model, &DeriveSpec::forward(), points, caller)
            .await?;
        if !found.rows.iter().all(Row::is_finite) {
            return Err(WorkError::permanent(
                "the model answers an image with values that are not finite",
            ));
        }
        rows.extend(found.rows);
        context.report_progress(rows.len() as u64);
    }
    Ok(rows)
}

/// A result with the settled request that it answers, as it is posted again.
pub(super) fn enveloped(kind: &str, request: &Value, result: &Value) -> Result<Vec<u8>, WorkError> {
    let report = json!({ "kind": kind, "request": requested(kind, request), "result": result });
    serde_json::to_vec_pretty(&report).map_err(WorkError::permanent)
}
