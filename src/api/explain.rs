//! POST /explain: an input and a method -> a heat map or numbers.

use std::time::Instant;

use axum::{
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;

use super::{
    Api,
    body::{Pairs, settle},
    codes::ApiError,
    document::{Binary, JsonRequest, MultipartRequest, Problems},
    negotiate::{choose_format, content_type},
    requester::Requester,
};
use crate::{
    app::{
        App, AppError, Explanation, Input,
        answer::{self, Answers, TimingMs},
        options::Format,
    },
    telemetry,
};

const TARGET: HeaderName = HeaderName::from_static("x-explaind-target");
const SCORE: HeaderName = HeaderName::from_static("x-explaind-score");
const CONVERGENCE_DELTA: HeaderName = HeaderName::from_static("x-explaind-convergence-delta");
const WARNINGS: HeaderName = HeaderName::from_static("x-explaind-warnings");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Explain what a classifier saw
///
/// One image gives a heat map over the upload, in its own size; tensors, several images and `target=top:k` give numbers.
/// Parameters may stand in the query, in the JSON body or in the multipart field `params`.
#[utoipa::path(
    post,
    path = "/explain",
    tag = "explain",
    request_body(
        description = "The image itself, several in a multipart form, or a ready tensor in the model's own input space \
            (one leading axis more than the model's input: as many inputs). Without a content type, or as \
            application/octet-stream or application/x-www-form-urlencoded (what curl says for --data-binary), an image, npy or \
            JSON is recognised by its first bytes.",
        content(
            (Binary = "image/jpeg"), (Binary = "image/png"), (Binary = "image/webp"), (Binary = "image/bmp"),
            (MultipartRequest = "multipart/form-data"), (JsonRequest = "application/json"), (Binary = "application/x-npy"), (Binary = "application/octet-stream"),
        ),
    ),
    responses(
        (status = 200, description = "The explanation.",
            content((Binary = "image/png"), (Answers = "application/json"), (Binary = "application/x-npy")),
            headers(
                ("x-explaind-target" = String, description = "index and label of the class explained; with one explanation"),
                ("x-explaind-score" = f32, description = "its score"),
                ("x-explaind-convergence-delta" = f64, description = "where completeness holds"),
                ("x-explaind-warnings" = String, description = "joined by `; `"),
                ("server-timing" = String, description = "milliseconds of each stage"),
            )),
        Problems,
    ),
)]
pub async fn explain(
    State(api): State<Api>,
    requester: Requester,
    Pairs(query): Pairs,
    headers: HeaderMap,
    request: axum::extract::Request,
) -> Result<Response, ApiError> {
    requester
        .finish(async {
            let app = api.app();
            let (mut plan, inputs, uploads) = settle(query, request, &api, App::plan).await?;
            let suited = match inputs.as_slice() {
                [Input::Image(_)] if plan.parameters_of(0).target.answers() == 1 => Format::Png,
                _ => Format::Json,
            };
            let format = choose_format(plan.options.format, &headers, suited)?;
            plan.options.format = Some(format);
            let encoding = plan.options.encoding;
            let explanations = app.explain(plan, inputs, uploads, &requester.caller).await?;
            let started = Instant::now();
            let headers = describe(&explanations);
            let timing = explanations.iter().map(|one| one.timing).collect::<Vec<_>>();
            let bytes = app
                .pool()
                .run(move || match format {
                    Format::Json => answer::to_json(&explanations, encoding).map(Bytes::from),
                    Format::Npy => answer::to_npy(&explanations).map(Bytes::from),
                    Format::Png => Ok(explanations.into_iter().find_map(|one| one.picture).unwrap_or_default()),
                })
                .await
                .map_err(AppError::from)??;
            let encode = started.elapsed();
            telemetry::record_stage("encode", encode);
            let mut response = ([(header::CONTENT_TYPE, content_type(format))], bytes).into_response();
            response.headers_mut().extend(headers);
            response.headers_mut().extend(server_timing(&timing, encode.as_secs_f64() * 1e3));
            Ok(response)
        })
        .await
}

/// What a single explanation says beside its picture.
fn describe(explanations: &[Explanation]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let [one] = explanations else { return headers };
    let target = &one.explained.target;
    insert(&mut headers, TARGET, target.to_string());
    insert(&mut headers, SCORE, target.class.score.to_string());
    if let Some(delta) = one.explained.attribution.convergence_delta {
        insert(&mut headers, CONVERGENCE_DELTA, delta.to_string());
    }
    let warnings = one.warnings.join("; ");
    if !warnings.is_empty() {
        insert(&mut headers, WARNINGS, warnings);
    }
    headers
}

/// Header values hold visible ASCII; what is not becomes `?`.
fn insert(headers: &mut HeaderMap, name: HeaderName, text: String) {
    let visible: String = text.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect();
    if let Ok(value) = HeaderValue::from_str(&visible) {
        headers.insert(name, value);
    }
}

/// The stages of all inputs, summed; `total` is the longest.
pub fn server_timing(timing: &[TimingMs], encode: f64) -> HeaderMap {
    let sum = |stage: fn(&TimingMs) -> f64| timing.iter().map(stage).sum::<f64>();
    let total = timing.iter().map(|one| one.total).fold(0.0, f64::max) + encode;
    let stages = [
        ("decode", sum(|t| t.decode)),
        ("preprocess", sum(|t| t.preprocess)),
        ("queue", sum(|t| t.queue)),
        ("model", sum(|t| t.model)),
        ("render", sum(|t| t.render)),
        ("encode", encode),
        ("total", total),
    ];
    let mut headers = HeaderMap::new();
    insert(&mut headers, SERVER_TIMING, stages.map(|(name, ms)| format!("{name};dur={ms:.2}")).join(", "));
    headers
}
