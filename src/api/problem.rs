//! `application/problem+json` (RFC 9457): how every error leaves the server.

use axum::{
    Extension,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::codes::{ApiError, Code, RefusedCost, code_of};
use crate::{faults::Fault, telemetry::names, text::cut};

pub const CONTENT_TYPE: &str = "application/problem+json";

/// The most bytes of a problem's detail, in answers and in the log.
const DETAIL_BYTES: usize = 4000;

/// What went wrong, and what to do about it.
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// Identifies the kind of problem: `urn:explaind:problem:` and the code.
    pub r#type: String,
    /// The kind of problem in words.
    pub title: String,
    /// The HTTP status again.
    pub status: u16,
    /// This occurrence in words.
    pub detail: String,
    /// The kind of problem, to branch on.
    pub code: String,
    /// Every refused parameter, at most 20.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<RefusedParameter>,
    /// How many more were refused.
    #[serde(skip_serializing_if = "is_none")]
    pub more_errors: usize,
    /// The cost of the request, where that was too high.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<RefusedCost>,
}

/// One refused parameter.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RefusedParameter {
    pub param: String,
    pub message: String,
    /// What would be accepted: values, ranges or names.
    pub allowed: Vec<String>,
}

/// Why a request was refused: for its line in the log, and for answers in other forms; carried in the
/// response's extensions.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub code: String,
    pub detail: String,
    pub errors: Vec<RefusedParameter>,
}

fn is_none(count: &usize) -> bool {
    *count == 0
}

impl From<&Fault> for RefusedParameter {
    fn from(fault: &Fault) -> Self {
        Self {
            param: fault.param.clone(),
            message: fault.message.clone(),
            allowed: fault.allowed.clone(),
        }
    }
}

impl From<&ApiError> for Problem {
    fn from(error: &ApiError) -> Self {
        let Code {
            code,
            status,
            title,
        } = code_of(error);
        let faults = error.faults();
        Self {
            r#type: format!("urn:explaind:problem:{code}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: cut(&error.to_string(), DETAIL_BYTES).into_owned(),
            code: code.to_owned(),
            errors: faults.shown().iter().map(RefusedParameter::from).collect(),
            more_errors: faults.more(),
            cost: error.refused_cost(),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let problem = Problem::from(&self);
        let status = code_of(&self).status;
        metrics::counter!(names::PROBLEMS_TOTAL, "code" => problem.code.clone()).increment(1);
        let refusal = Refusal {
            code: problem.code.clone(),
            detail: problem.detail.clone(),
            errors: problem.errors.clone(),
        };
        let mut response = (status, Extension(refusal), axum::Json(problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        if let Some(wait) = self.retry_after() {
            // Whole seconds, at least one: the header knows no fractions.
            headers.insert(
                header::RETRY_AFTER,
                HeaderValue::from(wait.as_millis().div_ceil(1000).max(1) as u64),
            );
        }
        response
    }
}

/// An error as the bytes of a whole answer, for a connection that is then closed.
pub fn to_http(error: &ApiError) -> Result<Vec<u8>, serde_json::Error> {
    let (body, status) = (
        serde_json::to_vec(&Problem::from(error))?,
        code_of(error).status,
    );
    let retry = error.retry_after().map_or(0, |wait| wait.as_secs().max(1));
    let mut text = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {CONTENT_TYPE}\r\ncontent-length: {}\r\nretry-after: {retry}\r\nconnection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    text.extend(body);
    Ok(text)
}
