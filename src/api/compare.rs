//! POST /compare: one input and several methods -> a labelled grid, or their answers.

use axum::{extract::State, response::Response};
use bytes::Bytes;

use super::{
    Api,
    body::{Settled, settle},
    codes::ApiError,
    document::{Binary, CompareForm, CompareRequest, Problems},
    reply::{encode, reply, warnings_header},
    requester::Requester,
};
use crate::app::{
    App,
    answer::{self, Explanations},
    options::Options,
};

/// Compare methods on one input
///
/// Name each method: `method=pgig,gradient` or `method=pgig&method=gradient` in the query or a form,
/// or in JSON a list `methods` of ids or of objects with an `id` and parameters for that method alone
/// (`{"id": "pgig", "pattern_layers": "all"}`). Methods that do not apply to the model are refused,
/// each with its reason. Other parameters apply to every method that takes
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
    request: axum::extract::Request,
) -> Result<Response, ApiError> {
    requester
        .finish(async {
            let app = api.app();
            let Settled {
                plan,
                inputs,
                uploads,
                place: _place,
            } = settle(request, &api, &["method", "include"], App::plan_comparison).await?;
            let Options {
                format, encoding, ..
            } = plan.options;
            let compared = app
                .compare(plan, inputs, uploads, &requester.caller)
                .await?;
            let headers = warnings_header(compared.warnings().into_iter());
            let mut times = compared.times;
            let bytes: Bytes = match format.file_type() {
                Some(_) => compared.grid.unwrap_or_default(),
                None => {
                    let json = move || answer::comparison_to_json(&compared, encoding);
                    encode(app, &mut times, json).await?.into()
                }
            };
            Ok(reply(format.media_type(), headers, times, bytes))
        })
        .await
}
