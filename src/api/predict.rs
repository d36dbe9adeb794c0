//! POST /predict: an input -> its best classes.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Api,
    body::{Settled, settle},
    codes::ApiError,
    document::{Binary, PredictForm, PredictRequest, Problems},
    explain::server_timing,
    requester::Requester,
};
use crate::{
    VERSION,
    app::{
        App, Predicted,
        answer::{ClassScore, ImageSize, TimingMs},
    },
};

/// The answer of POST /predict.
#[derive(Debug, Serialize, ToSchema)]
pub struct Classifications {
    /// Of explaind.
    #[schema(example = "0.1.0")]
    pub version: &'static str,
    pub model: String,
    /// SHA-256 of `model.onnx`.
    pub model_hash: String,
    /// For each input, in order.
    pub results: Vec<Classification>,
    pub timing_ms: TimingMs,
}

/// The best classes of one input.
#[derive(Debug, Serialize, ToSchema)]
pub struct Classification {
    /// The input, counted from 0.
    pub input: usize,
    /// The image that was sent; absent for tensors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageSize>,
    /// By falling score.
    pub predictions: Vec<ClassScore>,
    pub warnings: Vec<String>,
    pub timing_ms: TimingMs,
}

/// Classify an image
#[utoipa::path(
    post,
    path = "/predict",
    tag = "explain",
    request_body(
        description = "As for POST /explain.",
        content(
            (PredictRequest = "application/json"), (PredictForm = "multipart/form-data"), (Binary = "application/x-npy"), (Binary = "application/octet-stream"),
        ),
    ),
    responses(
        (status = 200, description = "The best classes.", body = Classifications,
            headers(("server-timing" = String, description = "Milliseconds spent in each stage."))),
        Problems,
    ),
)]
pub async fn predict(
    State(api): State<Api>,
    requester: Requester,
    request: axum::extract::Request,
) -> Result<Response, ApiError> {
    requester
        .finish(async {
            let plan = |app: &App, given, _| app.plan_prediction(given);
            let Settled {
                plan,
                inputs,
                place: _place,
                ..
            } = settle(request, &api, &[], plan).await?;
            let predicted = api.app().predict(&plan, inputs, &requester.caller).await?;
            let timing_ms = TimingMs::sum(predicted.iter().map(|one| one.timing));
            let answer = Classifications {
                version: VERSION,
                model: plan.model.id.clone(),
                model_hash: plan.model.hash.clone(),
                results: predicted
                    .into_iter()
                    .enumerate()
                    .map(|(input, one)| describe(input, one))
                    .collect(),
                timing_ms,
            };
            Ok((server_timing(timing_ms, 0.0), Json(answer)).into_response())
        })
        .await
}

fn describe(input: usize, predicted: Predicted) -> Classification {
    Classification {
        input,
        image: predicted.image,
        predictions: predicted.predictions.iter().map(ClassScore::from).collect(),
        warnings: predicted.warnings,
        timing_ms: predicted.timing,
    }
}
