//! GET /datasets/{id}/images: the images of a set page by page, as they are and in small.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Json,
    extract::{Path, State},
    http::{
        HeaderMap, StatusCode, Uri,
        header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH},
    },
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{
    Api,
    body::{Pairs, parse_query},
    catalogue::Id,
    codes::ApiError,
    document::{Binary, DatasetProblems},
    jobs::{refuse, refuse_unknown},
};
use crate::{
    app::AppError,
    dataset::{BoundingBox, Dataset, DatasetImage},
    faults::{Fault, Faults},
    picture::types,
    text::excerpt,
};

/// Bounds of a page of images, and its size when nothing is asked for.
const PAGE: (usize, usize) = (200, 60);
/// Bounds of the longest side of a small image, in pixels.
const SIDES: (u32, u32) = (16, 2048);

/// A page of a data set's images.
#[derive(Debug, Serialize, ToSchema)]
pub struct ImageList {
    /// The number of images that fit the filters, on all pages.
    pub total: usize,
    pub images: Vec<ImageCard>,
}

/// An image of a data set.
#[derive(Debug, Serialize, ToSchema)]
pub struct ImageCard {
    /// Its place in the set, from 0.
    pub index: usize,
    #[schema(example = "cat/1.jpg")]
    pub file: String,
    /// Those from the column `index` are written `index:281`.
    pub labels: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Whether it has a mask.
    pub mask: bool,
    /// In pixels of the upright image.
    pub boxes: Vec<ImageBox>,
    /// SHA-256 of the file.
    pub hash: String,
    /// Why it cannot be decoded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// Where the labelled object lies.
#[derive(Debug, Serialize, ToSchema)]
pub struct ImageBox {
    pub x0: f64,
    pub y0: f64,
    pub x1: f64,
    pub y1: f64,
}

impl From<&BoundingBox> for ImageBox {
    fn from(place: &BoundingBox) -> Self {
        let BoundingBox { x0, y0, x1, y1 } = *place;
        Self { x0, y0, x1, y1 }
    }
}

impl ImageCard {
    fn new(index: usize, image: &DatasetImage) -> Self {
        Self {
            index,
            file: image.file.clone(),
            labels: image.truth.texts(),
            group: image.group.clone(),
            role: image.role.clone(),
            mask: image.mask.is_some(),
            boxes: image.boxes.iter().map(ImageBox::from).collect(),
            hash: image.hash.clone(),
            fault: image.fault.clone(),
        }
    }
}

/// What a page is asked for.
struct Wanted {
    offset: usize,
    limit: usize,
    label: Option<String>,
    /// Of the set, in this order; all where none is named.
    files: Vec<String>,
}

/// List the images of a data set
#[utoipa::path(get, path = "/datasets/{id}/images", tag = "datasets",
    params(
        ("id" = String, Path, description = "The data set's id.", example = "photos", pattern = "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$"),
        ("offset" = Option<usize>, Query, minimum = 0, description = "Images before the page. Default: 0."),
        ("limit" = Option<usize>, Query, minimum = 1, maximum = 200, description = "Images per page. Default: 60."),
        ("label" = Option<String>, Query, description = "Only images with this label."),
        ("file" = Option<Vec<String>>, Query, max_items = 200, description = "Only these files, in this order; repeat it for each file."),
    ),
    responses((status = 200, description = "A page of images.", body = ImageList), DatasetProblems))]
pub async fn list_images(
    State(api): State<Api>,
    Id(id): Id,
    uri: Uri,
) -> Result<Json<ImageList>, ApiError> {
    let wanted = read_wanted(&parse_query(&uri, &["file"])?)?;
    let datasets = api.app().datasets();
    let dataset = datasets.open(&id).await.map_err(AppError::from)?;
    let page = datasets
        .work(move || page(&dataset, &wanted))
        .await
        .map_err(AppError::from)?;
    Ok(Json(page))
}

/// Get an image of a data set
///
/// The file as it is; with `size`, a JPEG of the upright image, for lists.
#[utoipa::path(get, path = "/datasets/{id}/images/{index}", tag = "datasets",
    params(
        ("id" = String, Path, description = "The data set's id.", example = "photos", pattern = "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$"),
        ("index" = usize, Path, minimum = 0, description = "The image's place in the set, from 0."),
        ("size" = Option<u32>, Query, minimum = 16, maximum = 2048, description = "The longest side in pixels; smaller images keep their size."),
    ),
    responses(
        (status = 200, description = "The image.", content((Binary = "image/jpeg"), (Binary = "image/png"), (Binary = "image/webp"),
            (Binary = "image/bmp"), (Binary = "image/gif"), (Binary = "image/tiff"), (Binary = "application/octet-stream")),
            headers(("etag" = String, description = "Changes with the file."))),
        (status = 304, description = "The image that `if-none-match` names."),
        DatasetProblems,
    ))]
pub async fn get_image(
    State(api): State<Api>,
    path: Result<Path<(String, String)>, axum::extract::rejection::PathRejection>,
    Pairs(query): Pairs,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Path((id, place)) = path.map_err(|_| ApiError::BrokenPath {
        reason: "what it names is not UTF-8".to_owned(),
    })?;
    let side = read_side(&query)?;
    let app = api.app();
    let dataset = app.datasets().open(&id).await.map_err(AppError::from)?;
    let index = place.parse().ok().filter(|at| *at < dataset.images.len());
    let index: usize = index.ok_or_else(|| ApiError::UnknownImage {
        dataset: id,
        place,
        images: dataset.images.len(),
    })?;
    let hash = &dataset.images[index].hash;
    let tag = match side {
        None => format!("\"{hash}\""),
        Some(side) => format!("\"{hash}-{side}\""),
    };
    let about = [
        (CACHE_CONTROL, "private, no-cache".to_owned()),
        (ETAG, tag.clone()),
    ];
    let is_known = headers
        .get(IF_NONE_MATCH)
        .is_some_and(|known| known.as_bytes() == tag.as_bytes());
    if is_known {
        return Ok((StatusCode::NOT_MODIFIED, about).into_response());
    }
    let (content_type, bytes) = match side {
        Some(side) => ("image/jpeg", app.thumbnail(dataset, index, side).await?),
        None => original(&api, dataset, index).await?,
    };
    Ok((about, [(CONTENT_TYPE, content_type)], bytes).into_response())
}

async fn original(
    api: &Api,
    dataset: Arc<Dataset>,
    index: usize,
) -> Result<(&'static str, Bytes), AppError> {
    let datasets = api.app().datasets().clone();
    let limits = *datasets.local().limits();
    let bytes = datasets
        .work(move || dataset.bytes(index, &limits))
        .await??;
    let format = types::Format::recognise(&bytes);
    let known = format.and_then(|format| types::TYPES.iter().find(|row| row.format == format));
    Ok((
        known.map_or("application/octet-stream", |row| row.content_type),
        bytes.into(),
    ))
}

/// Takes as long as the set is large.
fn page(dataset: &Dataset, wanted: &Wanted) -> ImageList {
    let fits = |image: &DatasetImage| match &wanted.label {
        None => true,
        Some(label) => image.truth.texts().contains(label),
    };
    let indices: Vec<usize> = match wanted.files.is_empty() {
        true => (0..dataset.images.len()).collect(),
        false => {
            let places: HashMap<&str, usize> = dataset
                .images
                .iter()
                .enumerate()
                .map(|(index, image)| (image.file.as_str(), index))
                .collect();
            let place = |file: &String| places.get(file.as_str()).copied();
            wanted.files.iter().filter_map(place).collect()
        }
    };
    let fitting: Vec<usize> = indices
        .into_iter()
        .filter(|index| fits(&dataset.images[*index]))
        .collect();
    ImageList {
        total: fitting.len(),
        images: fitting
            .into_iter()
            .skip(wanted.offset)
            .take(wanted.limit)
            .map(|index| ImageCard::new(index, &dataset.images[index]))
            .collect(),
    }
}

fn read_wanted(query: &Map<String, Value>) -> Result<Wanted, ApiError> {
    let (largest, usual) = PAGE;
    let mut faults = Faults::default();
    refuse_unknown(query, &["offset", "limit", "label", "file"], &mut faults);
    let text = |name: &str| query.get(name).and_then(Value::as_str).map(str::to_owned);
    let mut number = |name: &str, from: usize, to: usize, usual: usize| {
        text(name).map_or(usual, |text| match text.trim().parse() {
            Ok(number) if (from..=to).contains(&number) => number,
            _ => {
                let range = format!("{from} to {to}");
                let message = format!("{} is not an integer from {range}", excerpt(&text));
                faults.push(Fault::new(name, message, [range]));
                usual
            }
        })
    };
    let (offset, limit) = (
        number("offset", 0, u32::MAX as usize, 0),
        number("limit", 1, largest, usual),
    );
    let files = match query.get("file") {
        Some(Value::Array(files)) => files
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect(),
        Some(Value::String(file)) => vec![file.clone()],
        _ => Vec::new(),
    };
    if files.len() > largest {
        faults.push(Fault::new(
            "file",
            format!("more than {largest} files"),
            [format!("1 to {largest}")],
        ));
    }
    refuse(faults)?;
    Ok(Wanted {
        offset,
        limit,
        label: text("label"),
        files,
    })
}

fn read_side(query: &Map<String, Value>) -> Result<Option<u32>, ApiError> {
    let (least, most) = SIDES;
    let mut faults = Faults::default();
    refuse_unknown(query, &["size"], &mut faults);
    let asked = query.get("size").and_then(Value::as_str);
    let side = asked
        .and_then(|text| text.trim().parse().ok())
        .filter(|side| (least..=most).contains(side));
    if let (Some(text), None) = (asked, side) {
        let range = format!("{least} to {most}");
        let message = format!("{} is not an integer from {range}", excerpt(text));
        faults.push(Fault::new("size", message, [range]));
    }
    refuse(faults)?;
    Ok(side)
}
