//! The problems that operations may return, as sets of responses.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use utoipa::{
    IntoResponses,
    openapi::{Content, Ref, RefOr, Response},
};

use crate::api::problem;

const BAD_REQUEST: (u16, &str) = (400, "The body or the query cannot be read.");
const BAD_QUERY: (u16, &str) = (400, "The query cannot be read.");
const BAD_PATH: (u16, &str) = (400, "The path cannot be read.");
pub const FOREIGN: (u16, &str) = (
    403,
    "The request comes from a web page of another origin; the settings cors_origins and allowed_hosts say which are allowed.",
);
pub const METHOD_NOT_ALLOWED: (u16, &str) = (
    405,
    "The path does not support this method; Allow lists those it supports.",
);
const NOT_FOUND: (u16, &str) = (404, "Not found.");
const BODY_TIMEOUT: (u16, &str) = (408, "The body did not arrive in time.");
const CONFLICT: (u16, &str) = (409, "The current state does not allow this.");
const NOT_ACCEPTABLE: (u16, &str) = (406, "None of the types in Accept is available.");
const TOO_LARGE: (u16, &str) = (413, "The body, image or tensor is too large.");
const UNSUPPORTED: (u16, &str) = (415, "The content type or image type is not supported.");
const UNPROCESSABLE: (u16, &str) = (
    422,
    "Refused parameters (all listed in `errors`), an input that cannot be used, or too high a cost.",
);
const TOO_MANY: (u16, &str) = (429, "Too much load; try again after Retry-After seconds.");
const INTERNAL: (u16, &str) = (500, "Internal error.");
const UNAVAILABLE: (u16, &str) = (
    503,
    "The server is shutting down or not ready, or the jobs' database or file store is unreachable.",
);
const INSUFFICIENT: (u16, &str) = (
    507,
    "No space left: the disk is full, or the limit of the data folder or of data sets is reached.",
);
const TIMEOUT: (u16, &str) = (504, "The deadline passed; the work was stopped.");

pub fn problems(kinds: &[(u16, &str)]) -> BTreeMap<String, RefOr<Response>> {
    let schema = Ref::from_schema_name("Problem");
    let response = |status: u16, description: &str| {
        let mut content = Content::new(Some(schema.clone()));
        content.example = (status == UNPROCESSABLE.0).then(refused);
        let mut response = Response::new(description);
        response
            .content
            .insert(problem::CONTENT_TYPE.to_owned(), RefOr::T(content));
        RefOr::T(response)
    };
    kinds
        .iter()
        .map(|(status, description)| (status.to_string(), response(*status, description)))
        .collect()
}

/// An example of refused parameters.
fn refused() -> Value {
    json!({
        "type": "urn:explaind:problem:invalid_parameters", "title": "Parameters that are not allowed", "status": 422,
        "detail": "n_steps: 0 is not an integer from 1 to 10000", "code": "invalid_parameters",
        "errors": [{ "param": "n_steps", "message": "0 is not an integer from 1 to 10000", "allowed": ["1 to 10000"] }],
    })
}

/// Of the routes of other model servers, which tell every problem in their own form.
pub struct ProtocolProblems;

impl IntoResponses for ProtocolProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let kinds = [
            BAD_REQUEST,
            NOT_FOUND,
            BODY_TIMEOUT,
            TOO_LARGE,
            UNSUPPORTED,
            UNPROCESSABLE,
            TOO_MANY,
            INTERNAL,
            UNAVAILABLE,
            TIMEOUT,
        ];
        let response = |(status, description): (u16, &str)| {
            let mut response = Response::new(description);
            let schema = Ref::from_schema_name("ProtocolError");
            let content = RefOr::T(Content::new(Some(schema)));
            response
                .content
                .insert("application/json".to_owned(), content);
            (status.to_string(), RefOr::T(response))
        };
        kinds.into_iter().map(response).collect()
    }
}

macro_rules! problem_sets {
    ($($(#[$doc:meta])* $name:ident = [$($kind:ident),*];)*) => {
        $($(#[$doc])* pub struct $name;
        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                problems(&[$($kind),*])
            }
        })*
    };
}

problem_sets! {
    /// Of POST /explain, /compare and /predict.
    Problems = [BAD_REQUEST, NOT_ACCEPTABLE, BODY_TIMEOUT, TOO_LARGE, UNSUPPORTED, UNPROCESSABLE, TOO_MANY, INTERNAL, UNAVAILABLE, TIMEOUT];
    /// Of what is looked up by id.
    MissingProblems = [BAD_PATH, NOT_FOUND, UNPROCESSABLE, INTERNAL];
    /// Of models that jobs trained, which lie in the store of files.
    TrainedProblems = [BAD_PATH, NOT_FOUND, CONFLICT, INTERNAL, UNAVAILABLE, INSUFFICIENT];
    /// Of versions of such models.
    ArchiveProblems = [BAD_PATH, NOT_FOUND, CONFLICT, UNPROCESSABLE, INTERNAL, UNAVAILABLE, INSUFFICIENT];
    /// Of data sets, which may lie in a store that is away.
    DatasetProblems = [BAD_PATH, NOT_FOUND, CONFLICT, UNPROCESSABLE, INTERNAL, UNAVAILABLE, INSUFFICIENT];
    /// Of what is uploaded and taken away.
    UploadProblems = [BAD_REQUEST, NOT_FOUND, BODY_TIMEOUT, CONFLICT, TOO_LARGE, UNSUPPORTED, UNPROCESSABLE, TOO_MANY, INTERNAL, UNAVAILABLE, INSUFFICIENT];
    /// Of POST /cost.
    CostProblems = [BAD_REQUEST, BODY_TIMEOUT, TOO_LARGE, UNSUPPORTED, UNPROCESSABLE, TOO_MANY, INTERNAL, UNAVAILABLE];
    InternalProblems = [INTERNAL];
    /// Of what a query chooses from.
    QueryProblems = [BAD_QUERY, UNPROCESSABLE, INTERNAL];
    /// Of POST /jobs.
    SubmitProblems = [BAD_REQUEST, BODY_TIMEOUT, TOO_LARGE, UNSUPPORTED, UNPROCESSABLE, TOO_MANY, INTERNAL, UNAVAILABLE, INSUFFICIENT];
    JobsProblems = [BAD_REQUEST, UNPROCESSABLE, INTERNAL, UNAVAILABLE];
    /// Of what is about one job.
    JobProblems = [BAD_PATH, NOT_FOUND, CONFLICT, UNPROCESSABLE, INTERNAL, UNAVAILABLE, INSUFFICIENT];
    EventsProblems = [BAD_PATH, NOT_FOUND, CONFLICT, UNPROCESSABLE, TOO_MANY, INTERNAL, UNAVAILABLE];
    ReportProblems = [BAD_PATH, NOT_FOUND, NOT_ACCEPTABLE, CONFLICT, UNPROCESSABLE, INTERNAL, UNAVAILABLE];
    ReadinessProblems = [INTERNAL, UNAVAILABLE];
}
