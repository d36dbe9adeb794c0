//! How an answer leaves: its bytes, what its headers say beside them, and how long it took.

use std::time::Instant;

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::{
    app::{App, AppError, StageTimes},
    text::cut,
};

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

/// Encodes an answer on the pool: it may be as large as its inputs.
pub(super) async fn encode<T: Send + 'static>(
    app: &App,
    times: &mut StageTimes,
    work: impl FnOnce() -> Result<T, AppError> + Send + 'static,
) -> Result<T, AppError> {
    let started = Instant::now();
    let encoded = app.pool().run(work).await??;
    times.encode = started.elapsed();
    Ok(encoded)
}

/// The answer of a request that has ended: its stages are told, and recorded.
pub(super) fn reply(
    content_type: &'static str,
    headers: HeaderMap,
    times: StageTimes,
    bytes: impl Into<Bytes>,
) -> Response {
    times.record();
    let mut response = ([(header::CONTENT_TYPE, content_type)], bytes.into()).into_response();
    response.headers_mut().extend(headers);
    response.headers_mut().extend(server_timing(&times));
    response
}

/// `x-explaind-warnings`: those that fit, and how many do not; none for none.
pub(super) fn warnings_header(warnings: impl Iterator<Item = String>) -> HeaderMap {
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
pub(super) fn insert(headers: &mut HeaderMap, name: HeaderName, text: &str) {
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

fn server_timing(times: &StageTimes) -> HeaderMap {
    let stages = [
        ("decode", times.decode),
        ("preprocess", times.preprocess),
        ("queue", times.queue),
        ("model", times.model),
        ("render", times.render),
        ("encode", times.encode),
        ("total", times.total + times.encode),
    ];
    let texts = stages.map(|(name, spent)| format!("{name};dur={:.2}", spent.as_secs_f64() * 1e3));
    let mut headers = HeaderMap::new();
    insert(&mut headers, SERVER_TIMING, &texts.join(", "));
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> String {
        let mut headers = HeaderMap::new();
        insert(&mut headers, WARNINGS, text);
        headers[WARNINGS].to_str().unwrap().to_owned()
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
