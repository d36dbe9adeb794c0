//! GET, PUT and DELETE of data sets: folders of images with labels and regions. An upload is streamed
//! to disk, never held in memory.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderName, StatusCode},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{
    Api,
    body::Pairs,
    catalogue::Id,
    codes::ApiError,
    document::{Binary, DatasetProblems, UploadProblems},
    intake::Intake,
    jobs::{refuse, refuse_unknown},
};
use crate::{
    app::AppError,
    dataset::{Dataset, DatasetError, Doubt, Meaning, Problem, Source},
    driver,
    faults::Faults,
    model::{Model, labels::Classes},
    text::{cut, excerpt},
};

/// Problems, labels and roles that an answer lists; their count is told in full.
const MAX_PROBLEMS: usize = 1000;
const MAX_LABELS: usize = 1000;
/// The most bytes of what is said of one.
const MAX_MESSAGE: usize = 1000;
/// Unknown labels that are compared with all of the model, for those that may have been meant.
const MAX_COMPARED: usize = 20;

#[derive(Debug, Serialize, ToSchema)]
pub struct DatasetList {
    pub datasets: Vec<DatasetSummary>,
    /// Data sets that cannot be used, and why.
    pub broken_datasets: Vec<BrokenDataset>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct BrokenDataset {
    pub id: String,
    pub reason: String,
}

/// A data set in short.
#[derive(Debug, Serialize, ToSchema)]
pub struct DatasetSummary {
    pub id: String,
    /// Whether it was uploaded; otherwise it is a folder from the server's settings.
    pub uploaded: bool,
    /// Number of images, including those that cannot be decoded.
    pub images: usize,
    /// Number of images with a label.
    pub labelled: usize,
    /// Number of images with a mask.
    pub masks: usize,
    /// Number of images with boxes.
    pub boxed: usize,
    /// Number of problems with individual files.
    pub problems: usize,
    /// Number of files that are neither images nor labels.
    pub ignored_files: usize,
    /// Their number by extension, in lower case; `none` for those without, `other` for extensions
    /// that are not listed.
    #[schema(example = json!({ ".heic": 100 }))]
    pub ignored: BTreeMap<String, usize>,
    /// SHA-256 over paths, contents, labels, groups, roles, masks and boxes.
    pub hash: String,
}

/// A data set in full.
#[derive(Debug, Serialize, ToSchema)]
pub struct DatasetCard {
    #[serde(flatten)]
    pub summary: DatasetSummary,
    /// The number of images with each label, for the first 1000 labels; those from the column
    /// `index` are written `index:281`.
    pub labels: BTreeMap<String, usize>,
    /// The number of different labels.
    pub distinct_labels: usize,
    /// The number of images with each role, for the first 1000 roles.
    #[schema(example = json!({ "with": 50, "without": 50 }))]
    pub roles: BTreeMap<String, usize>,
    /// The number of different roles.
    pub distinct_roles: usize,
    /// The number of different groups.
    pub distinct_groups: usize,
    /// Problems with individual files, at most 1000. With `model` also labels that none of its
    /// classes has, each once with its first image.
    #[serde(rename = "problem_list")]
    pub problems: Vec<Problem>,
}

/// List data sets
///
/// New and changed files are read and decoded once, so the first call after adding a large data set
/// takes a while.
#[utoipa::path(get, path = "/datasets", tag = "datasets", responses((status = 200, description = "The data sets.", body = DatasetList), DatasetProblems))]
pub async fn list_datasets(
    State(api): State<Api>,
    Pairs(query): Pairs,
) -> Result<Json<DatasetList>, ApiError> {
    only(&query, &[])?;
    let datasets = api.app().datasets();
    let (mut found, mut broken_datasets) = (Vec::new(), Vec::new());
    for id in datasets.ids().await.map_err(AppError::from)? {
        match datasets.open(&id).await {
            Ok(dataset) => found.push(dataset),
            // Taken away meanwhile.
            Err(DatasetError::Unknown { .. }) => {}
            Err(error) => broken_datasets.push(BrokenDataset {
                id,
                reason: error.to_string(),
            }),
        }
    }
    let summarise = move || found.iter().map(|dataset| summarise(dataset)).collect();
    let datasets = datasets.work(summarise).await.map_err(AppError::from)?;
    Ok(Json(DatasetList {
        datasets,
        broken_datasets,
    }))
}

/// Get one data set
#[utoipa::path(get, path = "/datasets/{id}", tag = "datasets",
    params(
        ("id" = String, Path, description = "The data set's id.", example = "photos", pattern = "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$"),
        ("model" = Option<String>, Query, description = "A model to check the labels against: labels that none of its classes has are listed as problems."),
    ),
    responses((status = 200, description = "The data set.", body = DatasetCard), DatasetProblems))]
pub async fn get_dataset(
    State(api): State<Api>,
    Id(id): Id,
    Pairs(query): Pairs,
) -> Result<Json<DatasetCard>, ApiError> {
    only(&query, &["model"])?;
    let model = match query.get("model").and_then(Value::as_str) {
        None => None,
        Some(id) => {
            let unknown = || AppError::UnknownModel {
                id: id.to_owned(),
                known: api.app().model_ids(),
            };
            Some(api.app().models().get(id).ok_or_else(unknown)?)
        }
    };
    let dataset = api
        .app()
        .datasets()
        .open(&id)
        .await
        .map_err(AppError::from)?;
    Ok(Json(describe(&api, dataset, model).await?))
}

/// Upload a data set, replacing one with the same id
///
/// The body is a zip, tar or tar.gz archive (recognised by its first bytes) of images (PNG, JPEG,
/// WebP, BMP, GIF, TIFF). Labels come from `labels.csv` or `labels.tsv` with the columns `file`,
/// and `label` or `index` (separate multiple correct labels with `|`); without these columns the
/// folder names are the labels. A label of digits is an index only where no label of the model
/// consists of digits. Where label and index of an image disagree, neither is used, unless the
/// index merely numbers the rows. The table may also have the columns `group` and `role` (images
/// that belong together, such as pairs, and what each of them is), `mask` (a file; the folder
/// `masks/` mirrors the images otherwise), and `x0`, `y0`, `x1` and `y1` (a box in pixels of the
/// upright image; several rows of a file are several boxes). Other files are ignored and counted.
/// The upload takes effect as a whole or not at all. Jobs that use the replaced data set fail with
/// a message, unless its content is unchanged.
#[utoipa::path(put, path = "/datasets/{id}", tag = "datasets",
    params(("id" = String, Path, description = "The data set's id.", example = "photos", pattern = "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$")),
    request_body(description = "The archive.", content(
        (Binary = "application/zip"), (Binary = "application/x-tar"), (Binary = "application/gzip"), (Binary = "application/octet-stream"),
    )),
    responses(
        (status = 200, description = "The data set, which replaced another.", body = DatasetCard),
        (status = 201, description = "The new data set.", body = DatasetCard, headers(("location" = String, description = "The path of the data set."))),
        UploadProblems,
    ))]
pub async fn put_dataset(
    State(api): State<Api>,
    Id(id): Id,
    Pairs(query): Pairs,
    request: Request,
) -> Result<Response, ApiError> {
    only(&query, &[])?;
    let _place = api.enter_upload()?;
    let datasets = api.app().datasets();
    datasets
        .local()
        .check_changeable(&id)
        .map_err(AppError::from)?;
    let mut intake = Intake::new(request, &api, datasets.local().archive_limits().max_bytes)?;
    let mut arrival = datasets.receive(&id).await.map_err(AppError::from)?;
    while let Some(piece) = intake.next().await? {
        arrival = arrival.write(&piece).await.map_err(AppError::from)?;
    }
    let (dataset, is_new) = datasets.put(&id, arrival).await.map_err(AppError::from)?;
    let card = Json(describe(&api, dataset, None).await?);
    match is_new {
        true => Ok((
            StatusCode::CREATED,
            [(
                HeaderName::from_static("location"),
                format!("/datasets/{id}"),
            )],
            card,
        )
            .into_response()),
        false => Ok(card.into_response()),
    }
}

/// Delete an uploaded data set
#[utoipa::path(delete, path = "/datasets/{id}", tag = "datasets",
    params(("id" = String, Path, description = "The data set's id.", example = "photos", pattern = "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$")),
    responses((status = 204, description = "Deleted."), UploadProblems))]
pub async fn delete_dataset(
    State(api): State<Api>,
    Id(id): Id,
    Pairs(query): Pairs,
) -> Result<StatusCode, ApiError> {
    only(&query, &[])?;
    api.app()
        .datasets()
        .remove(&id)
        .await
        .map_err(AppError::from)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Refuses a query with other names.
pub(super) fn only(query: &Map<String, Value>, names: &[&str]) -> Result<(), ApiError> {
    let mut faults = Faults::default();
    refuse_unknown(query, names, &mut faults);
    refuse(faults)
}

fn summarise(dataset: &Dataset) -> DatasetSummary {
    DatasetSummary {
        id: dataset.id.clone(),
        uploaded: dataset.uploaded,
        images: dataset.images.len(),
        labelled: dataset.labelled(),
        masks: dataset.masks(),
        boxed: dataset.boxed(),
        problems: dataset.problems.len(),
        ignored_files: dataset.ignored.files,
        ignored: dataset.ignored.extensions.clone(),
        hash: dataset.hash.clone(),
    }
}

/// Takes as long as the set is large.
async fn describe(
    api: &Api,
    dataset: Arc<Dataset>,
    model: Option<Arc<Model>>,
) -> Result<DatasetCard, AppError> {
    let work = move || {
        card(
            &dataset,
            model
                .as_ref()
                .map(|model| driver::model_defaults(model).classes),
        )
    };
    Ok(api.app().datasets().work(work).await?)
}

fn card(dataset: &Dataset, classes: Option<Classes<'_>>) -> DatasetCard {
    let (mut labels, mut doubts) = (
        BTreeMap::<String, usize>::new(),
        BTreeMap::<Doubt, (&str, usize)>::new(),
    );
    let mut labelled = 0;
    for picture in dataset
        .images
        .iter()
        .filter(|picture| !picture.truth.is_empty())
    {
        let meaning = classes.map(|classes| dataset.meaning(picture, classes));
        if meaning.as_ref().is_some_and(Meaning::is_empty) {
            continue;
        }
        labelled += 1;
        picture
            .truth
            .texts()
            .into_iter()
            .for_each(|text| *labels.entry(text).or_default() += 1);
        for doubt in meaning.into_iter().flat_map(|meaning| meaning.doubts) {
            doubts.entry(doubt).or_insert((&picture.file, 0)).1 += 1;
        }
    }
    let mut problems = dataset.problems.clone();
    problems.extend(only_folder(dataset, classes.map(|_| labelled)));
    let count = problems.len() + doubts.len();
    let explained = doubts
        .into_iter()
        .enumerate()
        .map(|(at, (doubt, (file, images)))| {
            let reason = match classes {
                Some(classes) if at < MAX_COMPARED => doubt.explain(classes),
                _ => doubt.to_string(),
            };
            let message = if images > 1 {
                format!("{reason} ({images} images)")
            } else {
                reason
            };
            Problem {
                file: file.to_owned(),
                kind: doubt.kind(),
                message,
            }
        });
    problems.extend(explained.take(MAX_PROBLEMS));
    problems.truncate(MAX_PROBLEMS);
    for Problem { file, message, .. } in &mut problems {
        *file = excerpt(file).into_owned();
        *message = cut(message, MAX_MESSAGE).into_owned();
    }
    let distinct_labels = labels.len();
    let mut roles = BTreeMap::<String, usize>::new();
    for role in dataset
        .images
        .iter()
        .filter_map(|image| image.role.as_ref())
    {
        *roles.entry(role.clone()).or_default() += 1;
    }
    let summary = DatasetSummary {
        labelled,
        problems: count,
        ..summarise(dataset)
    };
    DatasetCard {
        summary,
        labels: shown(labels),
        distinct_labels,
        distinct_roles: roles.len(),
        roles: shown(roles),
        distinct_groups: dataset.groups().len(),
        problems,
    }
}

/// The first labels or roles, and how many images have each.
fn shown(counts: BTreeMap<String, usize>) -> BTreeMap<String, usize> {
    counts
        .into_iter()
        .take(MAX_LABELS)
        .map(|(text, count)| (excerpt(&text).into_owned(), count))
        .collect()
}

/// What a reader should know where all images lie in folders of one name; `labelled` images have it
/// as a label of the model's.
fn only_folder(dataset: &Dataset, labelled: Option<usize>) -> Option<Problem> {
    let picture = dataset
        .images
        .iter()
        .find(|picture| !picture.truth.is_empty())?;
    if dataset.source != Source::OnlyFolder || labelled.is_some_and(|labelled| labelled > 0) {
        return None;
    }
    let name = &picture.truth;
    let message = match labelled {
        None => format!(
            "all images lie in one folder: `{name}` is their label where a model has a class of that name"
        ),
        Some(_) => format!(
            "all images lie in one folder, and no class is called `{name}`: they have no label"
        ),
    };
    let folder = picture
        .file
        .rsplit_once('/')
        .map_or("", |(folder, _)| folder);
    Some(Problem {
        file: folder.to_owned(),
        kind: "only_folder",
        message,
    })
}
