//! The routes of other model servers, so that their clients ask explaind what they asked before:
//! KServe's V1 protocol, the Open Inference Protocol (V2), and TorchServe. A protocol is a file; what
//! they plan and carry out is that of POST /explain and POST /predict.

pub mod kserve;
pub mod open_inference;
pub mod tensors;
pub mod torchserve;

use axum::{
    Extension, Json,
    http::{HeaderMap, header},
    middleware,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api,
    contents::join,
    problem::{Refusal, RefusedParameter},
    reply,
};
use crate::{
    app::{
        App, AppError, Predicted, StageTimes, answer,
        format::Format,
        plan::{Plan, PredictPlan, RequestContext},
    },
    faults::{Fault, Faults},
};

pub use kserve::Alive;

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(kserve::list_kserve_models))
        .routes(routes!(kserve::get_kserve_model, kserve::call_kserve_model))
        .routes(routes!(open_inference::get_inference_server))
        .routes(routes!(open_inference::check_inference_liveness))
        .routes(routes!(open_inference::check_inference_readiness))
        .routes(routes!(open_inference::get_inference_model))
        .routes(routes!(open_inference::check_inference_model))
        .routes(routes!(open_inference::infer))
        .routes(routes!(torchserve::ping))
        .routes(routes!(
            torchserve::post_prediction,
            torchserve::put_prediction
        ))
        .routes(routes!(
            torchserve::post_explanation,
            torchserve::put_explanation
        ))
        .layer(middleware::map_response(in_their_words))
}

/// What went wrong, where clients of these protocols look for it.
#[derive(Debug, Serialize, ToSchema)]
pub struct ProtocolError {
    /// In words: of KServe and the Open Inference Protocol.
    pub error: String,
    /// The same: of TorchServe.
    pub message: String,
    /// The HTTP status again.
    #[schema(example = 404)]
    pub code: u16,
    /// The kind of problem, to branch on.
    #[schema(example = "unknown_model")]
    pub r#type: String,
    /// Every refused parameter, at most 20.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<RefusedParameter>,
}

/// A problem as these protocols tell it.
async fn in_their_words(response: Response) -> Response {
    let Some(refusal) = response.extensions().get::<Refusal>().cloned() else {
        return response;
    };
    let (status, retry) = (
        response.status(),
        response.headers().get(header::RETRY_AFTER).cloned(),
    );
    let body = ProtocolError {
        error: refusal.detail.clone(),
        message: refusal.detail.clone(),
        code: status.as_u16(),
        r#type: refusal.code.clone(),
        errors: refusal.errors.clone(),
    };
    let mut told = (status, Extension(refusal), Json(body)).into_response();
    let retry = retry.map(|wait| (header::RETRY_AFTER, wait));
    told.headers_mut().extend(retry);
    told
}

/// The model that the path names stands among the parameters.
fn with_model(given: Map<String, Value>, model: &str) -> Result<Map<String, Value>, AppError> {
    let named = Map::from_iter([("model".to_owned(), Value::from(model))]);
    join(named, given, "(in the path, and in the query or the body)")
}

/// An explanation as numbers: these protocols have no pictures.
fn plan_numbers(
    app: &App,
    given: Map<String, Value>,
    context: &RequestContext,
    model: &str,
) -> Result<Plan, AppError> {
    let plan = app.plan(with_model(given, model)?, context)?;
    if plan.options.format != Format::Json {
        let message =
            "is no format of this protocol; POST /explain answers with pictures and files";
        return Err(Faults::from(Fault::new("format", message, ["json"])).into());
    }
    Ok(plan)
}

/// The scores of all classes.
fn plan_scores(app: &App, given: Map<String, Value>, model: &str) -> Result<PredictPlan, AppError> {
    Ok(PredictPlan {
        top_k: usize::MAX,
        ..app.plan_prediction(with_model(given, model)?)?
    })
}

/// By index.
fn scores(predicted: &Predicted) -> Vec<f32> {
    let mut ordered: Vec<_> = predicted.predictions.iter().collect();
    ordered.sort_by_key(|class| class.index);
    ordered.iter().map(|class| class.score).collect()
}

/// An answer of `content`, written on the pool.
async fn reply_json<T: Serialize>(
    app: &App,
    mut times: StageTimes,
    content: impl FnOnce() -> Result<T, AppError> + Send + 'static,
) -> Result<Response, AppError> {
    let bytes = reply::encode(app, &mut times, move || answer::to_vec(&content()?)).await?;
    Ok(reply::reply(
        Format::Json.media_type(),
        HeaderMap::new(),
        times,
        bytes,
    ))
}
