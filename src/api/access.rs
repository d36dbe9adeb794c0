//! What is told of every request: a span with its id, one line in the log when its response has
//! ended, and its metrics.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::{MatchedPath, Request},
    http::{HeaderMap, HeaderName, Method, StatusCode, header::CONTENT_LENGTH},
    middleware::Next,
    response::Response,
};
use hyper::body::{Frame, SizeHint};
use tracing::{Instrument, Span, field::Empty};

use super::{REQUEST_ID, problem::Refusal};
use crate::{telemetry::names, text::excerpt};

/// The header of W3C Trace Context.
pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Asked every few seconds by balancers and monitors: logged at debug, unless the answer is a
/// server error.
const PROBES: [&str; 6] = [
    "/healthz",
    "/readyz",
    "/metrics",
    "/ping",
    "/v2/health/live",
    "/v2/health/ready",
];

/// Runs a request in its span, measures it, and logs it when the last byte of its response is
/// taken, or nobody wants it any more.
pub(super) async fn observe(route: Option<MatchedPath>, request: Request, next: Next) -> Response {
    let route = route.map_or_else(|| "none".to_owned(), |route| route.as_str().to_owned());
    let span = span(&request);
    let method = known(request.method());
    let mut line = Line::new(span.clone(), route.clone());
    // Its response is complete without a body.
    line.complete = request.method() == Method::HEAD;
    let in_flight = InFlight::start();
    let mut response = next.run(request).instrument(span).await;
    drop(in_flight);
    let status = response.status();
    let labels = [
        ("method", method.to_owned()),
        ("route", route),
        ("status", status.as_str().to_owned()),
    ];
    metrics::histogram!(names::HTTP_REQUEST_DURATION_SECONDS, &labels)
        .record(line.started.elapsed());
    line.status = Some(status);
    line.refusal = response.extensions_mut().remove();
    line.length = response
        .headers()
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse().ok());
    response.map(|body| Body::new(Logged { body, line }))
}

/// Its `model` and `attribution` are recorded by whoever finds them out.
fn span(request: &Request) -> Span {
    let headers = request.headers();
    let id = headers
        .get(REQUEST_ID)
        .and_then(|id| id.to_str().ok())
        .unwrap_or_default();
    let (method, path) = (
        excerpt(request.method().as_str()),
        excerpt(request.uri().path()),
    );
    let trace_id = trace_id(headers);
    tracing::info_span!("request", id, %method, %path, trace_id, model = Empty, attribution = Empty)
}

/// The trace that a caller's `traceparent` names: `00-<trace id>-<parent id>-<flags>`, in
/// lower-case hexadecimal digits.
fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(TRACEPARENT)?.to_str().ok()?;
    let mut parts = text.splitn(5, '-');
    let mut digits = |count: usize| {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        parts
            .next()
            .filter(|part| part.len() == count && part.bytes().all(is_digit))
    };
    let (version, trace_id, parent_id, _flags) = (digits(2)?, digits(32)?, digits(16)?, digits(2)?);
    let is_zero = |id: &str| id.bytes().all(|byte| byte == b'0');
    // Later versions may have more parts; version ff is forbidden.
    let more = parts.next().is_some();
    (version != "ff" && (version != "00" || !more) && !is_zero(trace_id) && !is_zero(parent_id))
        .then_some(trace_id)
}

/// A method as a label: there are as many as a client likes.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

/// Counts a request while it is handled, also when its caller goes away.
struct InFlight;

impl InFlight {
    fn start() -> Self {
        metrics::gauge!(names::HTTP_REQUESTS_IN_FLIGHT).increment(1.0);
        Self
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        metrics::gauge!(names::HTTP_REQUESTS_IN_FLIGHT).decrement(1.0);
    }
}

/// The line of one request; written when it is dropped.
struct Line {
    span: Span,
    route: String,
    started: Instant,
    /// None: the client went away before there was a response.
    status: Option<StatusCode>,
    refusal: Option<Refusal>,
    /// What the response's header says.
    length: Option<u64>,
    bytes: u64,
    /// Whether the client took the response to its end.
    complete: bool,
}

impl Line {
    fn new(span: Span, route: String) -> Self {
        let (started, status, refusal, length) = (Instant::now(), None, None, None);
        Self {
            span,
            route,
            started,
            status,
            refusal,
            length,
            bytes: 0,
            complete: false,
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let Self {
            span, route, bytes, ..
        } = self;
        let (code, detail) = self
            .refusal
            .as_ref()
            .map(|one| (one.code.as_str(), one.detail.as_str()))
            .unzip();
        let status = self.status.map(|status| status.as_u16());
        let duration_ms = to_ms(self.started.elapsed());
        // Only where it is so: a client that went away, before the response or within it.
        let client_left = (!self.complete).then_some(true);
        macro_rules! write_line {
            ($level:ident) => {
                tracing::$level!(parent: &*span, route, status, duration_ms, bytes, client_left, code, detail, "request")
            };
        }
        match self.status {
            Some(StatusCode::INTERNAL_SERVER_ERROR) => write_line!(error),
            Some(status) if status.is_server_error() => write_line!(warn),
            _ if PROBES.contains(&route.as_str()) => write_line!(debug),
            _ => write_line!(info),
        }
    }
}

/// In milliseconds, to the tenth.
fn to_ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e4).round() / 10.0
}

/// A response's body, counted.
struct Logged {
    body: Body,
    line: Line,
}

impl HttpBody for Logged {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => self.line.bytes += frame.data_ref().map_or(0, Bytes::len) as u64,
            Some(Err(error)) => {
                tracing::error!(parent: &self.line.span, %error, "the response broke off")
            }
            None => self.line.complete = true,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Logged {
    /// A body of known length is not asked for its end.
    fn drop(&mut self) {
        self.line.complete |=
            self.body.is_end_stream() || self.line.length == Some(self.line.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_valid_traceparent_names_a_trace() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        let of = |text: &str| {
            let headers = HeaderMap::from_iter([(TRACEPARENT, text.parse().unwrap())]);
            trace_id(&headers).map(str::to_owned)
        };
        assert_eq!(
            of(&format!("00-{id}-00f067aa0ba902b7-01")).as_deref(),
            Some(id)
        );
        assert_eq!(
            of(&format!("01-{id}-00f067aa0ba902b7-01-more")).as_deref(),
            Some(id)
        );
        for refused in [
            String::new(),
            id.to_owned(),
            format!("ff-{id}-00f067aa0ba902b7-01"),
            format!("00-{id}-00f067aa0ba902b7-01-more"),
            format!("00-{id}-0000000000000000-01"),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{}-00f067aa0ba902b7-01", id.to_uppercase()),
            format!("00-{}-00f067aa0ba902b7-01", "é".repeat(16)),
        ] {
            assert_eq!(of(&refused), None, "{refused}");
        }
    }
}
