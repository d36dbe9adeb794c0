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
    body::{Pairs, settle},
    codes::ApiError,
    document::{Binary, PredictForm, PredictRequest, Problems},
    explain::server_timing,
    requester::Requester,
};
use crate::app::{
    App, Predicted,
    answer::{ClassScore, TimingMs},
};

/// The best classes of one input, by falling score.
#[derive(Debug, Serialize, ToSchema)]
pub struct PredictAnswer {
    pub model: String,
    /// Which input this is about, counted from 0; present in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<usize>,
    pub predictions: Vec<ClassScore>,
    pub warnings: Vec<String>,
    pub timing_ms: TimingMs,
}

/// One answer, or a list for several inputs and for inputs along a leading axis (be it one).
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum PredictAnswers {
    One(PredictAnswer),
    Many(Vec<PredictAnswer>),
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
        (status = 200, description = "The best classes.", body = PredictAnswers,
            headers(("server-timing" = String, description = "Milliseconds spent in each stage."))),
        Problems,
    ),
)]
pub async fn predict(
    State(api): State<Api>,
    requester: Requester,
    Pairs(query): Pairs,
    request: axum::extract::Request,
) -> Result<Response, ApiError> {
    requester
        .finish(async {
            let plan = |app: &App, given, _| app.plan_prediction(given);
            let (plan, inputs, _, _place) = settle(query, request, &api, plan).await?;
            let predicted = api.app().predict(&plan, inputs, &requester.caller).await?;
            let is_list = predicted.is_list;
            let predicted = predicted.answers;
            let headers = server_timing(&predicted.iter().map(|one| one.timing).collect::<Vec<_>>(), 0.0);
            let mut answers: Vec<_> =
                predicted.into_iter().enumerate().map(|(at, one)| to_answer(&plan.model.id, at, one)).collect();
            let answers = match is_list {
                false => PredictAnswers::One(PredictAnswer { input: None, ..answers.remove(0) }),
                true => PredictAnswers::Many(answers),
            };
            Ok((headers, Json(answers)).into_response())
        })
        .await
}

fn to_answer(model: &str, at: usize, predicted: Predicted) -> PredictAnswer {
    PredictAnswer {
        model: model.to_owned(),
        input: Some(at),
        predictions: predicted.predictions.iter().map(ClassScore::from).collect(),
        warnings: predicted.warnings,
        timing_ms: predicted.timing,
    }
}
