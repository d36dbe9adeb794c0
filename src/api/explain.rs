//! POST /explain: an input and a method -> a heat map or numbers.

use axum::{
    extract::State,
    http::{HeaderMap, HeaderName},
    response::Response,
};
use bytes::Bytes;

use super::{
    Api,
    body::{Settled, settle},
    codes::ApiError,
    document::{Binary, ExplainForm, ExplainRequest, Problems},
    reply::{encode, insert, reply, warnings_header},
    requester::Requester,
};
use crate::{
    app::{
        App, Explanation,
        answer::{self, Explanations},
        bundle::Sent,
        format::Format,
        options::Options,
    },
    text::excerpt,
};

const TARGET: HeaderName = HeaderName::from_static("x-explaind-target");
const SCORE: HeaderName = HeaderName::from_static("x-explaind-score");
const CONVERGENCE_DELTA: HeaderName = HeaderName::from_static("x-explaind-convergence-delta");
/// Explain a prediction
///
/// An image that is the whole body is answered with a picture of its heat map (PNG, JPEG or WebP);
/// a form, JSON, an array or application/octet-stream with JSON. `format` or the Accept header
/// chooses otherwise; `format=bundle` is a zip that documents the explanation. Parameters may be given in the query, in the JSON body or as fields of the
/// form.
#[utoipa::path(
    post,
    path = "/explain",
    tag = "explain",
    request_body(
        description = "An image file, a form with one or several, an npy array, or JSON. Arrays of floats are tensors that are already \
            preprocessed for the model; with one leading axis more they are a batch, and an npy answer has that axis too. npy arrays of \
            uint8 are pixels: [height, width], [height, width, 1, 3 or 4] or [1 or 3, height, width], or a batch of those. Bodies \
            without a content type, or sent as application/octet-stream or application/x-www-form-urlencoded (the default of curl \
            --data-binary), are recognised by their first bytes.",
        content(
            (ExplainRequest = "application/json"), (ExplainForm = "multipart/form-data"), (Binary = "application/x-npy"), (Binary = "application/octet-stream"),
        ),
    ),
    responses(
        (status = 200, description = "The explanation.",
            content(
                (Explanations = "application/json"), (Binary = "image/png"), (Binary = "image/jpeg"), (Binary = "image/webp"),
                (Binary = "application/x-npy"), (Binary = "application/zip"),
            ),
            headers(
                ("x-explaind-target" = String, description = "Index and label of the class explained, where there is one explanation. Text beyond ASCII is encoded as in RFC 8187: `UTF-8''285%20caf%C3%A9`."),
                ("x-explaind-score" = f32, description = "The score of that class."),
                ("x-explaind-convergence-delta" = f64, description = "The convergence delta, for methods that satisfy completeness."),
                ("x-explaind-warnings" = String, description = "Warnings, joined by `; `: about 1000 bytes of them, then how many more there are. Text beyond ASCII is encoded as in x-explaind-target."),
                ("server-timing" = String, description = "Milliseconds spent in each stage."),
            )),
        Problems,
    ),
)]
pub async fn explain(
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
            } = settle(request, &api, &["include"], App::plan).await?;
            let Options {
                format, encoding, ..
            } = plan.options;
            let sent = (format == Format::Bundle).then(|| Sent::of(&plan, &inputs, &uploads));
            let answered = app
                .explain(plan, inputs, uploads, &requester.caller)
                .await?;
            let (headers, mut times) = (describe(&answered.answers), answered.times);
            let bytes: Bytes = match (format, sent) {
                (_, Some(sent)) => {
                    let bundler = app.clone();
                    encode(app, &mut times, move || bundler.bundle(&sent, &answered))
                        .await?
                        .into()
                }
                (Format::Npy, None) => encode(app, &mut times, move || answer::to_npy(&answered))
                    .await?
                    .into(),
                (format, None) if format.file_type().is_some() => {
                    let picture = answered.answers.into_iter().find_map(|one| one.picture);
                    picture.unwrap_or_default()
                }
                (_, None) => {
                    let json = move || answer::to_json(&answered, encoding);
                    encode(app, &mut times, json).await?.into()
                }
            };
            Ok(reply(format.media_type(), headers, times, bytes))
        })
        .await
}

/// What a single explanation says beside its picture.
fn describe(explanations: &[Explanation]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let [one] = explanations else { return headers };
    let target = &one.explained.target;
    insert(&mut headers, TARGET, &excerpt(&target.to_string()));
    insert(&mut headers, SCORE, &target.class.score.to_string());
    if let Some(delta) = one
        .explained
        .attribution
        .convergence_delta
        .filter(|delta| delta.is_finite())
    {
        insert(&mut headers, CONVERGENCE_DELTA, &delta.to_string());
    }
    headers.extend(warnings_header(one.warnings.iter().cloned()));
    headers
}
