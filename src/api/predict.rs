//! POST /predict: an input -> its best classes.

use axum::{extract::State, http::HeaderMap, response::Response};

use super::{
    Api,
    body::{Settled, settle},
    codes::ApiError,
    document::{Binary, PredictForm, PredictRequest, Problems},
    reply::{encode, reply},
    requester::Requester,
};
use crate::app::{
    App, StageTimes,
    answer::{self, Classifications},
    format::Format,
};

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
            let plan = |app: &App, given, _: &_| app.plan_prediction(given);
            let Settled {
                plan,
                inputs,
                place: _place,
                ..
            } = settle(request, &api, &[], plan).await?;
            let app = api.app();
            let predicted = app.predict(&plan, inputs, &requester.caller).await?;
            let mut times: StageTimes = predicted.iter().map(|one| one.times).collect();
            let json = move || answer::predictions_to_json(&plan, &predicted);
            let bytes = encode(app, &mut times, json).await?;
            let json = Format::Json.media_type();
            Ok(reply(json, HeaderMap::new(), times, bytes))
        })
        .await
}
