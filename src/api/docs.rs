//! The page at /docs: Swagger UI from the binary, without network access, with a start page of its
//! own.

use std::sync::Arc;

use axum::{
    Router,
    extract::Path,
    http::header::{CONTENT_ENCODING, CONTENT_TYPE},
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use utoipa_swagger_ui::{Config, serve};

use super::{Api, codes::ApiError};

/// Files of the page that do not come with Swagger UI.
const OWN: [(&str, &str, &str); 4] = [
    (
        "index.html",
        "text/html; charset=utf-8",
        include_str!("docs/index.html"),
    ),
    (
        "explaind.css",
        "text/css; charset=utf-8",
        include_str!("docs/explaind.css"),
    ),
    (
        "explaind.js",
        "text/javascript; charset=utf-8",
        include_str!("docs/explaind.js"),
    ),
    (
        "README.md",
        "text/plain; charset=utf-8",
        include_str!("../../README.md"),
    ),
];

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/docs", get(|| async { Redirect::temporary("/docs/") }))
        .route("/docs/", get(|| file(Path("index.html".to_owned()))))
        .route("/docs/{file}", get(file))
}

async fn file(Path(name): Path<String>) -> Result<Response, ApiError> {
    if let Some((_, content_type, text)) = OWN.iter().find(|(known, ..)| *known == name) {
        return Ok(([(CONTENT_TYPE, *content_type)], *text).into_response());
    }
    let served = serve(&name, Arc::new(Config::default())).ok().flatten();
    let file = served.ok_or_else(|| ApiError::NoSuchRoute {
        path: format!("/docs/{name}"),
    })?;
    let (content_type, bytes) = ([(CONTENT_TYPE, file.content_type)], file.bytes.into_owned());
    Ok(match file.gzpipped {
        true => (content_type, [(CONTENT_ENCODING, "gzip")], bytes).into_response(),
        false => (content_type, bytes).into_response(),
    })
}
