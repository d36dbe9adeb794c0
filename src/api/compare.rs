//! POST /compare: one input and several methods -> a labelled grid, or their answers.

use std::time::Instant;

use axum::{
    extract::State,
    http::{HeaderMap, Uri, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;

use super::{
    Api,
    body::{parse_query, settle},
    codes::ApiError,
    document::{Binary, JsonRequest, MultipartRequest, Problems},
    explain::{server_timing, warnings_header},
    negotiate::{choose_format, content_type},
    requester::Requester,
};
use crate::{
    app::{
        App, AppError, Input,
        answer::{self, ComparisonAnswer},
        options::Format,
    },
    telemetry,
};

/// Compare methods on one input
///
/// Every method is named: `method=pgig&method=gradient` in the query, or a list `methods` in the body, of ids or of objects with an `id`
/// and parameters of their own (`{"id": "pgig", "pattern_layers": "all"}`). Other parameters are for every method that takes them.
/// Points of the model that several methods need are evaluated once. An image gives a labelled grid: the upload, then a map for each
/// method; with `target=top:k` a row or more for each class. Tensors give JSON.
#[utoipa::path(
    post,
    path = "/compare",
    tag = "explain",
    request_body(
        description = "One input, as POST /explain takes it.",
        content(
            (MultipartRequest = "multipart/form-data"), (JsonRequest = "application/json"), (Binary = "application/x-npy"), (Binary = "application/octet-stream"),
        ),
    ),
    responses(
        (status = 200, description = "The comparison.",
            content((Binary = "image/png"), (ComparisonAnswer = "application/json")),
            headers(
                ("x-explaind-warnings" = String, description = "as for POST /explain, each with its method in front; once where all have it"),
                ("server-timing" = String, description = "milliseconds of each stage"))),
        Problems,
    ),
)]
pub async fn compare(
    State(api): State<Api>,
    requester: Requester,
    uri: Uri,
    headers: HeaderMap,
    request: axum::extract::Request,
) -> Result<Response, ApiError> {
    requester
        .finish(async {
            let query = parse_query(&uri, &["method"])?;
            let app = api.app();
            let (mut plan, inputs, uploads, _place) = settle(query, request, &api, App::plan_comparison).await?;
            let suited = match inputs.as_slice() {
                [Input::Image(_)] => Format::Png,
                _ => Format::Json,
            };
            let format = match choose_format(plan.options.format, &headers, suited)? {
                Format::Npy => suited,
                format => format,
            };
            plan.options.format = Some(format);
            let encoding = plan.options.encoding;
            let compared = app.compare(plan, inputs, uploads, &requester.caller).await?;
            let started = Instant::now();
            let timing = compared.timing;
            let headers = warnings_header(compared.warnings().into_iter());
            let bytes = app
                .pool()
                .run(move || match format {
                    Format::Png => Ok(compared.grid.unwrap_or_default()),
                    _ => answer::comparison_to_json(&compared, encoding).map(Bytes::from),
                })
                .await
                .map_err(AppError::from)??;
            let encode = started.elapsed();
            telemetry::record_stage("encode", encode);
            let mut response = ([(header::CONTENT_TYPE, content_type(format))], bytes).into_response();
            response.headers_mut().extend(headers);
            response.headers_mut().extend(server_timing(&[timing], encode.as_secs_f64() * 1e3));
            Ok(response)
        })
        .await
}
