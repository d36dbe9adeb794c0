//! POST /compare: one input and several methods -> a labelled grid, or their answers.

use std::time::Instant;

use axum::{
    extract::State,
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;

use super::{
    Api,
    body::{Settled, settle},
    codes::ApiError,
    document::{Binary, CompareForm, CompareRequest, Problems},
    explain::{server_timing, warnings_header},
    negotiate::{choose_format, content_type},
    requester::Requester,
};
use crate::{
    app::{
        App, AppError,
        answer::{self, Explanations},
        options::Format,
    },
    telemetry::{self, Stage},
};

/// Compare methods on one input
///
/// Name each method: `method=pgig&method=gradient` in the query or a form, or in JSON a list
/// `methods` of ids or of objects with an `id` and parameters for that method alone
/// (`{"id": "pgig", "pattern_layers": "all"}`). Other parameters apply to every method that takes
/// them. Evaluations that several methods need are done once. A picture is a labelled grid: the
/// image, then one map per method; with `target=top:k`, at least one row per class. The format of
/// the answer is chosen as for POST /explain.
#[utoipa::path(
    post,
    path = "/compare",
    tag = "explain",
    request_body(
        description = "One input, as POST /explain takes it.",
        content(
            (CompareRequest = "application/json"), (CompareForm = "multipart/form-data"), (Binary = "application/x-npy"), (Binary = "application/octet-stream"),
        ),
    ),
    responses(
        (status = 200, description = "The comparison.",
            content((Explanations = "application/json"), (Binary = "image/png"), (Binary = "image/jpeg"), (Binary = "image/webp")),
            headers(
                ("x-explaind-warnings" = String, description = "As for POST /explain, each preceded by its method unless all methods share it."),
                ("server-timing" = String, description = "Milliseconds spent in each stage."))),
        Problems,
    ),
)]
pub async fn compare(
    State(api): State<Api>,
    requester: Requester,
    headers: HeaderMap,
    request: axum::extract::Request,
) -> Result<Response, ApiError> {
    requester
        .finish(async {
            let app = api.app();
            let Settled {
                mut plan,
                inputs,
                uploads,
                is_picture,
                place: _place,
            } = settle(request, &api, &["method", "include"], App::plan_comparison).await?;
            let suited = if is_picture {
                Format::Png
            } else {
                Format::Json
            };
            let format = match choose_format(plan.options.format, &headers, suited)? {
                Format::Npy => suited,
                format => format,
            };
            plan.options.format = Some(format);
            let encoding = plan.options.encoding;
            let compared = app
                .compare(plan, inputs, uploads, &requester.caller)
                .await?;
            let started = Instant::now();
            let timing = compared.timing;
            let headers = warnings_header(compared.warnings().into_iter());
            let bytes = app
                .pool()
                .run(move || match format {
                    Format::Json | Format::Npy => {
                        answer::comparison_to_json(&compared, encoding).map(Bytes::from)
                    }
                    Format::Png | Format::Jpeg | Format::Webp => {
                        Ok(compared.grid.unwrap_or_default())
                    }
                })
                .await
                .map_err(AppError::from)??;
            let encode = started.elapsed();
            telemetry::record_stage(Stage::Encode, encode);
            let mut response =
                ([(header::CONTENT_TYPE, content_type(format))], bytes).into_response();
            response.headers_mut().extend(headers);
            response
                .headers_mut()
                .extend(server_timing(timing, encode.as_secs_f64() * 1e3));
            Ok(response)
        })
        .await
}
