//! POST /explain: an input and a method -> a heat map or numbers.

use std::time::Instant;

use axum::{
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{
    Api,
    body::{Settled, settle},
    codes::ApiError,
    document::{Binary, ExplainForm, ExplainRequest, Problems},
    negotiate::{choose_format, content_type},
    requester::Requester,
};
use crate::{
    app::{
        App, AppError, Explanation,
        answer::{self, Explanations, TimingMs},
        options::Format,
    },
    telemetry::{self, Stage},
    text::{cut, excerpt},
};

const TARGET: HeaderName = HeaderName::from_static("x-explaind-target");
const SCORE: HeaderName = HeaderName::from_static("x-explaind-score");
const CONVERGENCE_DELTA: HeaderName = HeaderName::from_static("x-explaind-convergence-delta");
const WARNINGS: HeaderName = HeaderName::from_static("x-explaind-warnings");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// The most bytes of warnings that a header tells.
const WARNING_BYTES: usize = 1000;
/// What RFC 8187 writes as it is.
const ATTR_CHAR: AsciiSet = NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');
/// How a text begins that is written as RFC 8187 says.
const EXTENDED: &str = "UTF-8''";

/// Explain a prediction
///
/// An image that is the whole body is answered with a picture of its heat map (PNG, JPEG or WebP);
/// a form, JSON, an array or application/octet-stream with JSON. `format` or the Accept header
/// chooses otherwise. Parameters may be given in the query, in the JSON body or as fields of the
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
                (Binary = "application/x-npy"),
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
            } = settle(request, &api, &["include"], App::plan).await?;
            let suited = match is_picture && plan.parameters_of(0).target.answers() == 1 {
                true => Format::Png,
                false => Format::Json,
            };
            let format = choose_format(plan.options.format, &headers, suited)?;
            plan.options.format = Some(format);
            let encoding = plan.options.encoding;
            let answered = app
                .explain(plan, inputs, uploads, &requester.caller)
                .await?;
            let started = Instant::now();
            let headers = describe(&answered.answers);
            let timing = TimingMs::of(&answered.answers);
            let bytes = app
                .pool()
                .run(move || match format {
                    Format::Json => answer::to_json(&answered, encoding).map(Bytes::from),
                    Format::Npy => answer::to_npy(&answered).map(Bytes::from),
                    Format::Png | Format::Jpeg | Format::Webp => Ok(answered
                        .answers
                        .into_iter()
                        .find_map(|one| one.picture)
                        .unwrap_or_default()),
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

/// `x-explaind-warnings`: those that fit, and how many do not; none for none.
pub fn warnings_header(warnings: impl Iterator<Item = String>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut joined = String::new();
    let mut left_out = 0;
    for warning in warnings {
        if joined.is_empty() {
            joined.push_str(&cut(&warning, WARNING_BYTES));
        } else if left_out == 0 && joined.len() + warning.len() <= WARNING_BYTES {
            joined.push_str("; ");
            joined.push_str(&warning);
        } else {
            left_out += 1;
        }
    }
    if left_out > 0 {
        joined.push_str(&format!("; and {left_out} more"));
    }
    if !joined.is_empty() {
        insert(&mut headers, WARNINGS, &joined);
    }
    headers
}

/// Header values hold visible ASCII; any other text is written as RFC 8187 does in parameters:
/// `UTF-8''caf%C3%A9`.
fn insert(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    let is_plain =
        text.chars().all(|c| c.is_ascii_graphic() || c == ' ') && !text.starts_with(EXTENDED);
    let value = match is_plain {
        true => HeaderValue::from_str(text),
        false => HeaderValue::from_str(&format!(
            "{EXTENDED}{}",
            utf8_percent_encode(text, &ATTR_CHAR)
        )),
    };
    headers.extend(value.ok().map(|value| (name, value)));
}

/// The stages of a request, the encoding of its answer among them.
pub fn server_timing(timing: TimingMs, encode: f64) -> HeaderMap {
    let stages = [
        ("decode", timing.decode),
        ("preprocess", timing.preprocess),
        ("queue", timing.queue),
        ("model", timing.model),
        ("render", timing.render),
        ("encode", encode),
        ("total", timing.total + encode),
    ];
    let mut headers = HeaderMap::new();
    insert(
        &mut headers,
        SERVER_TIMING,
        &stages
            .map(|(name, ms)| format!("{name};dur={ms:.2}"))
            .join(", "),
    );
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> String {
        let mut headers = HeaderMap::new();
        insert(&mut headers, TARGET, text);
        headers[TARGET].to_str().unwrap().to_owned()
    }

    #[test]
    fn texts_beyond_ascii_are_written_as_rfc_8187_says() {
        assert_eq!(
            written("285 Egyptian_cat - 281 tabby, (100%)"),
            "285 Egyptian_cat - 281 tabby, (100%)"
        );
        assert_eq!(written("0 café"), "UTF-8''0%20caf%C3%A9");
        assert_eq!(written("1 猫!"), "UTF-8''1%20%E7%8C%AB!");
        assert_eq!(written("2 a\r\nb: c"), "UTF-8''2%20a%0D%0Ab%3A%20c");
        assert_eq!(written("UTF-8''x"), "UTF-8''UTF-8%27%27x");
    }

    #[test]
    fn many_warnings_are_cut_and_counted() {
        let header = |warnings: &[String]| {
            let headers = warnings_header(warnings.iter().cloned());
            headers
                .get(WARNINGS)
                .map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(header(&[]), None);
        assert_eq!(header(&["a".into(), "b".into()]).unwrap(), "a; b");
        let many = vec!["w".repeat(400); 50];
        assert_eq!(
            header(&many).unwrap(),
            format!("{0}; {0}; and 48 more", "w".repeat(400))
        );
        assert!(header(&["é".repeat(100_000)]).unwrap().len() < 4000);
    }
}
