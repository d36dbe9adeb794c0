//! PUT and DELETE of models, their versions, and the order to read the models folder again. An upload
//! is streamed to disk, part by part, never held in memory.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    Json,
    body::Body,
    extract::{Request, State},
    http::{HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::{Stream, stream};
use multer::Multipart;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{
    Api,
    body::{Pairs, broken_multipart},
    catalogue::{Id, ModelList, card, list},
    codes::ApiError,
    datasets::only,
    document::{ArchiveProblems, Binary, ModelForm, TrainedProblems, UploadProblems},
    intake::Intake,
};
use crate::{
    app::{AppError, models::ModelPart},
    dataset::Arrival,
    faults::{Fault, Faults},
    model::uploaded::Version,
    text::{excerpt, shown},
};

/// Most parts of an upload: external data comes in few files.
const MOST_PARTS: usize = 128;
/// Most bytes of a part's headers, about.
const MOST_HEADER: usize = 1 << 20;
const VERSIONS: [&str; 1] = ["a number of GET /models/{id}/versions"];
const PARTS: [&str; 5] = ["model", "data", "manifest", "labels", "patterns"];

/// The versions of an uploaded model.
#[derive(Debug, Serialize, ToSchema)]
pub struct VersionList {
    /// The version in use.
    pub in_use: u32,
    /// The newest first.
    pub versions: Vec<Version>,
}

/// Upload a model, or a new version of one
///
/// A form of files: `model` (ONNX), `data` (its external data, each under the name by which the
/// model knows it), `manifest` (model.toml, or the same as JSON), `labels` (one class a line) and
/// `patterns` (safetensors). The model is loaded and run before it counts: one that cannot be
/// served is refused with every fault, and the version before it stays in use. Requests under way
/// finish with the version that they began with; jobs about it fail with a message. Earlier
/// versions are kept (`max_model_versions`). A client that goes away before the answer breaks its
/// upload off, unless the model is being put to use already: as a whole or not at all.
#[utoipa::path(put, path = "/models/{id}", tag = "catalogue",
    params(("id" = String, Path, description = "The model's id.", example = "pets", pattern = "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$")),
    request_body(content = ModelForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, description = "The model, which replaced another version.", body = super::catalogue::ModelCard),
        (status = 201, description = "The new model.", body = super::catalogue::ModelCard, headers(("location" = String, description = "The path of the model."))),
        UploadProblems,
    ))]
pub async fn put_model(
    State(api): State<Api>,
    Id(id): Id,
    Pairs(query): Pairs,
    request: Request,
) -> Result<Response, ApiError> {
    only(&query, &[])?;
    let _place = api.enter_upload()?;
    let app = api.app();
    let turn = app.turn_to_upload(&id).await?;
    let files = receive(request, &api).await?;
    let (model, version) = app.put_model(&turn, files).await?;
    let card = card(&api, &model).await?;
    if version.version > 1 {
        return Ok(card.into_response());
    }
    let location = HeaderName::from_static("location");
    let place = format!("/models/{id}");
    Ok((StatusCode::CREATED, [(location, place)], card).into_response())
}

/// Delete a model that a job trained or a client uploaded
///
/// Its name can be used again. Requests under way keep the model; jobs about it fail with a
/// message. Of an uploaded model all versions go. A model of the models folder is refused.
#[utoipa::path(delete, path = "/models/{id}", tag = "catalogue",
    params(("id" = String, Path, description = "The model's id.", example = "pets")),
    responses((status = 204, description = "Deleted."), TrainedProblems))]
pub async fn delete_model(State(api): State<Api>, Id(id): Id) -> Result<StatusCode, ApiError> {
    api.app().delete_model(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Download a model that a job trained or a client uploaded
///
/// A tar of its folder. Unpacked into a models folder, it is a model like any other.
#[utoipa::path(get, path = "/models/{id}/archive", tag = "catalogue",
    params(
        ("id" = String, Path, description = "The model's id.", example = "pets"),
        ("version" = Option<u32>, Query, description = "The number of a version of an uploaded model. Default: the one in use."),
    ),
    responses((status = 200, description = "The tar.", body = Binary, content_type = "application/x-tar"), ArchiveProblems))]
pub async fn get_model_archive(
    State(api): State<Api>,
    Id(id): Id,
    Pairs(query): Pairs,
) -> Result<Response, ApiError> {
    let archive = api.app().model_archive(&id, read_version(&query)?).await?;
    let headers = [
        (header::CONTENT_TYPE, "application/x-tar".to_owned()),
        (
            header::CONTENT_DISPOSITION,
            format!("attachment; filename=\"{id}.tar\""),
        ),
    ];
    Ok((headers, Body::from_stream(archive)).into_response())
}

/// List the versions of an uploaded model
#[utoipa::path(get, path = "/models/{id}/versions", tag = "catalogue",
    params(("id" = String, Path, description = "The model's id.", example = "pets")),
    responses((status = 200, description = "The versions.", body = VersionList), TrainedProblems))]
pub async fn list_versions(
    State(api): State<Api>,
    Id(id): Id,
) -> Result<Json<VersionList>, ApiError> {
    let (versions, in_use) = api.app().model_versions(&id).await?;
    Ok(Json(VersionList { in_use, versions }))
}

/// Serve another version of an uploaded model
///
/// An earlier one, or the newest again. It stays in use until the next upload or roll-back.
#[utoipa::path(post, path = "/models/{id}/rollback", tag = "catalogue",
    params(
        ("id" = String, Path, description = "The model's id.", example = "pets"),
        ("version" = u32, Query, description = "The number of the version.", example = 1),
    ),
    responses((status = 200, description = "The versions.", body = VersionList), UploadProblems))]
pub async fn roll_back_model(
    State(api): State<Api>,
    Id(id): Id,
    Pairs(query): Pairs,
) -> Result<Json<VersionList>, ApiError> {
    let Some(version) = read_version(&query)? else {
        let message = "is missing: the number of the version";
        return Err(AppError::from(Faults::from(Fault::new("version", message, VERSIONS))).into());
    };
    api.app().roll_back_model(&id, version).await?;
    list_versions(State(api), Id(id)).await
}

/// Read the models folder again
///
/// As SIGHUP does: models that are new or changed there are tried and put to use, at once. One that
/// has become unusable stays as it was, and is told as broken.
#[utoipa::path(post, path = "/models:reload", tag = "catalogue",
    responses((status = 200, description = "The models from now on.", body = ModelList), UploadProblems))]
pub async fn reload_models(State(api): State<Api>) -> Result<Json<ModelList>, ApiError> {
    let _place = api.enter_upload()?;
    let reloaded = api.app().reload_models().await;
    reloaded.map_err(|error| ApiError::Internal {
        reason: error.to_string(),
    })?;
    list(&api).await
}

/// The version that a query names, which may name nothing else.
pub(super) fn read_version(query: &Map<String, Value>) -> Result<Option<u32>, ApiError> {
    only(query, &["version"])?;
    let Some(asked) = query.get("version") else {
        return Ok(None);
    };
    let version = asked.as_str().and_then(|text| text.trim().parse().ok());
    let fault = || {
        let message = format!("{} is no number of a version", shown(asked));
        AppError::from(Faults::from(Fault::new("version", message, VERSIONS)))
    };
    Ok(Some(version.ok_or_else(fault)?))
}

/// The parts of the form, each in a file.
async fn receive(request: Request, api: &Api) -> Result<Vec<(ModelPart, Arrival)>, ApiError> {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    let content_type = content_type
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    if !content_type
        .trim()
        .to_ascii_lowercase()
        .starts_with("multipart/form-data")
    {
        return Err(ApiError::UnsupportedMediaType {
            found: (!content_type.is_empty()).then(|| content_type.to_owned()),
            allowed: "multipart/form-data".to_owned(),
        });
    }
    let boundary = multer::parse_boundary(content_type).map_err(broken_multipart)?;
    let intake = Intake::new(request, api, api.app().settings().max_model_bytes)?;
    let unread = Arc::new(AtomicUsize::new(0));
    let mut form = Multipart::new(pieces(intake, unread.clone()), boundary);
    let (mut files, mut faults) = (Vec::<(ModelPart, Arrival)>::new(), Faults::default());
    while let Some(mut field) = form.next_field().await.map_err(cause)? {
        unread.store(0, Ordering::Relaxed);
        if files.len() == MOST_PARTS {
            return Err(ApiError::BrokenMultipart {
                reason: format!("it has more than {MOST_PARTS} parts"),
            });
        }
        let name = field.name().unwrap_or_default().to_owned();
        let part = match name.as_str() {
            "model" => ModelPart::Model,
            "data" => ModelPart::Data(field.file_name().unwrap_or_default().to_owned()),
            "manifest" => ModelPart::Manifest,
            "labels" => ModelPart::Labels,
            "patterns" => ModelPart::Patterns,
            _ => {
                let message = format!("{} is no part of this form", excerpt(&name));
                return Err(
                    AppError::from(Faults::from(Fault::new("form", message, PARTS))).into(),
                );
            }
        };
        faults.extend(part.check().err());
        if files.iter().any(|(known, _)| *known == part) {
            faults.push(Fault::says(name, "is sent twice"));
        }
        let datasets = api.app().datasets();
        let mut arrival = datasets.receive_archive().await.map_err(AppError::from)?;
        while let Some(piece) = field.chunk().await.map_err(cause)? {
            unread.store(0, Ordering::Relaxed);
            arrival = arrival.write(&piece).await.map_err(AppError::from)?;
        }
        files.push((part, arrival));
    }
    if !files.iter().any(|(part, _)| *part == ModelPart::Model) {
        faults.push(Fault::new("model", "is missing: the ONNX file", ["a file"]));
    }
    Ok(faults.settle(files).map_err(AppError::from)?)
}

/// The body, of which no more than a part's headers may wait unread: the parser would keep it in
/// memory.
fn pieces(intake: Intake, unread: Arc<AtomicUsize>) -> impl Stream<Item = Result<Bytes, ApiError>> {
    stream::try_unfold((intake, unread), async |(mut intake, unread)| {
        let Some(piece) = intake.next().await? else {
            return Ok(None);
        };
        let waiting = unread.fetch_add(piece.len(), Ordering::Relaxed);
        if waiting > MOST_HEADER {
            return Err(ApiError::BrokenMultipart {
                reason: format!("the headers of a part are larger than {MOST_HEADER} bytes"),
            });
        }
        Ok(Some((piece, (intake, unread))))
    })
}

/// What ended the body, where that is not its form.
fn cause(error: multer::Error) -> ApiError {
    match error {
        multer::Error::StreamReadFailed(error) => match error.downcast::<ApiError>() {
            Ok(error) => *error,
            Err(error) => ApiError::BrokenBody {
                reason: error.to_string(),
            },
        },
        error => broken_multipart(error),
    }
}
