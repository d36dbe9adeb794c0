//! GET, PUT and DELETE of a model's sets of supports, which the method `gad` compares. An upload is
//! streamed to disk, never held in memory.

use std::sync::Arc;

use axum::{
    Json,
    extract::{FromRequestParts, Path, Request, State},
    http::{HeaderName, StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Api,
    body::Pairs,
    catalogue::Id,
    codes::ApiError,
    datasets::only,
    document::{Binary, DatasetProblems, UploadProblems},
    intake::Intake,
};
use crate::{
    app::AppError,
    model::{
        Model,
        supports::{Provenance, SupportSet},
    },
};

#[derive(Debug, Serialize, ToSchema)]
pub struct SupportSetList {
    /// By name.
    pub supports: Vec<SupportSetCard>,
}

/// A set of supports: one model for each alpha.
#[derive(Debug, Serialize, ToSchema)]
pub struct SupportSetCard {
    #[schema(example = "pair")]
    pub name: String,
    /// This version of the set as the parameter `supports` of the method `gad` takes it, and answers state it:
    /// `name@id`.
    #[schema(example = "pair@0123456789abcdef")]
    pub reference: String,
    /// The two classes that are kept apart.
    pub classes: Vec<SupportClass>,
    /// By which each support lowers the other class's logit on images of a class, rising.
    #[schema(example = json!([2, 4, 6, 8]))]
    pub alphas: Vec<f64>,
    /// Of the weights in the store of files.
    pub bytes: u64,
    pub provenance: Provenance,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct SupportClass {
    pub index: usize,
    /// `null` for models without labels.
    pub label: Option<String>,
}

/// A model and one of its sets, in the path.
pub struct ModelAndSet(String, String);

impl FromRequestParts<Api> for ModelAndSet {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        let path = Path::from_request_parts(parts, api).await;
        path.map(|Path((model, set))| Self(model, set))
            .map_err(|_| ApiError::BrokenPath {
                reason: "what it names is not UTF-8".to_owned(),
            })
    }
}

/// List a model's sets of supports
///
/// The method `gad` compares the maps of a model with those of its supports: models with the same
/// graph and other weights, which keep two classes further apart.
#[utoipa::path(get, path = "/models/{id}/supports", tag = "catalogue",
    params(("id" = String, Path, description = "The model's id.", example = "squeezenet1_1")),
    responses((status = 200, description = "The sets.", body = SupportSetList), DatasetProblems))]
pub async fn list_supports(
    State(api): State<Api>,
    Id(id): Id,
    Pairs(query): Pairs,
) -> Result<Json<SupportSetList>, ApiError> {
    only(&query, &[])?;
    let model = api.app().model(&id)?;
    let cards = model.supports.iter().map(|set| describe(&model, set));
    Ok(Json(SupportSetList {
        supports: cards.collect(),
    }))
}

/// Get one set of supports
#[utoipa::path(get, path = "/models/{id}/supports/{set}", tag = "catalogue",
    params(
        ("id" = String, Path, description = "The model's id.", example = "squeezenet1_1"),
        ("set" = String, Path, description = "The set's name.", example = "pair"),
    ),
    responses((status = 200, description = "The set.", body = SupportSetCard), DatasetProblems))]
pub async fn get_supports(
    State(api): State<Api>,
    ModelAndSet(id, name): ModelAndSet,
    Pairs(query): Pairs,
) -> Result<Json<SupportSetCard>, ApiError> {
    only(&query, &[])?;
    let model = api.app().model(&id)?;
    let set = api.app().support_set(&model, &name)?;
    Ok(Json(describe(&model, &set)))
}

/// Upload a set of supports, replacing one with the same name
///
/// The body is a zip, tar or tar.gz archive (recognised by its first bytes) of at most 16 files, one
/// for each support, called by its alpha: `alpha_2.onnx` is a model with the graph of this one and
/// other weights, `alpha_2.safetensors` holds weights by the name of their initializer; weights that
/// it leaves out stay the model's. Names, shapes and types have to be the model's, and values
/// finite. Other files are ignored. The upload takes effect as a whole or not at all.
#[utoipa::path(put, path = "/models/{id}/supports/{set}", tag = "catalogue",
    params(
        ("id" = String, Path, description = "The model's id.", example = "squeezenet1_1"),
        ("set" = String, Path, description = "The set's name.", example = "pair", pattern = "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$"),
        ("classes" = String, Query, description = "The two classes that the supports keep apart, as indices or labels joined by a comma.", example = "281,207"),
    ),
    request_body(description = "The archive.", content(
        (Binary = "application/zip"), (Binary = "application/x-tar"), (Binary = "application/gzip"), (Binary = "application/octet-stream"),
    )),
    responses(
        (status = 200, description = "The set, which replaced another.", body = SupportSetCard),
        (status = 201, description = "The new set.", body = SupportSetCard, headers(("location" = String, description = "The path of the set."))),
        UploadProblems,
    ))]
pub async fn put_supports(
    State(api): State<Api>,
    ModelAndSet(id, name): ModelAndSet,
    Pairs(query): Pairs,
    request: Request,
) -> Result<Response, ApiError> {
    only(&query, &["classes"])?;
    let _place = api.enter_upload()?;
    let app = api.app();
    let model = app.model(&id)?;
    let classes = app
        .plan_supports(&model, &name, query.get("classes"))
        .map_err(AppError::from)?;
    let datasets = app.datasets();
    let mut intake = Intake::new(request, &api, datasets.local().archive_limits().max_bytes)?;
    let mut arrival = datasets.receive_archive().await.map_err(AppError::from)?;
    while let Some(piece) = intake.next().await? {
        arrival = arrival.write(&piece).await.map_err(AppError::from)?;
    }
    let (set, is_new) = app.put_supports(&model, &name, classes, arrival).await?;
    let card = Json(describe(&model, &set));
    if !is_new {
        return Ok(card.into_response());
    }
    let location = HeaderName::from_static("location");
    let place = format!("/models/{id}/supports/{name}");
    Ok((StatusCode::CREATED, [(location, place)], card).into_response())
}

/// Delete a set of supports
#[utoipa::path(delete, path = "/models/{id}/supports/{set}", tag = "catalogue",
    params(
        ("id" = String, Path, description = "The model's id.", example = "squeezenet1_1"),
        ("set" = String, Path, description = "The set's name.", example = "pair"),
    ),
    responses((status = 204, description = "Deleted."), UploadProblems))]
pub async fn delete_supports(
    State(api): State<Api>,
    ModelAndSet(id, name): ModelAndSet,
    Pairs(query): Pairs,
) -> Result<StatusCode, ApiError> {
    only(&query, &[])?;
    let model = api.app().model(&id)?;
    api.app().remove_supports(&model, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn describe(model: &Arc<Model>, set: &SupportSet) -> SupportSetCard {
    let class = |index| SupportClass {
        index,
        label: model.labels.get(index).cloned(),
    };
    SupportSetCard {
        name: set.name.clone(),
        reference: set.reference(),
        classes: set.classes.map(class).into(),
        alphas: set.alphas().collect(),
        bytes: set.bytes(),
        provenance: set.provenance.clone(),
    }
}
