//! The page at `/`: the files of `dashboard/` and pictures to try it with, from the binary. Debug
//! builds read them from disk, so that a change shows when the page is loaded again.

use std::borrow::Cow;

use axum::{
    Json, Router,
    extract::Path,
    http::{
        HeaderMap, StatusCode,
        header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY},
    },
    response::{IntoResponse, Response},
    routing::get,
};
use sha2::{Digest, Sha256};

use super::{Api, codes::ApiError, negotiate, protocols::Alive};
use crate::files::hex;

const START: &str = "index.html";

/// A file below `/assets/`.
struct Asset {
    name: &'static str,
    path: &'static str,
    bytes: &'static [u8],
}

macro_rules! assets {
    ($($folder:literal: $($name:literal)+;)+) => {
        &[$($(Asset {
            name: $name,
            path: concat!(env!("CARGO_MANIFEST_DIR"), "/", $folder, "/", $name),
            bytes: include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/", $folder, "/", $name)),
        }),+),+]
    };
}

const ASSETS: &[Asset] = assets! {
    "dashboard":
        "index.html" "style.css" "icon.svg" "main.js" "api.js" "charts.js" "colours.js" "datasets.js" "explain.js" "export.js" "files.js" "findings.js" "input.js"
        "jobs.js" "look.js" "map.js" "methods.js" "metrics.js" "models.js" "predictions.js" "regions.js" "state.js" "tiles.js" "ui.js"
        "vendor/preact.js" "vendor/hooks.js" "vendor/htm.js" "vendor/LICENSES.txt";
    "examples": "jaguar.webp" "polar_bear.webp" "scarlet_macaw.webp";
};

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/", get(start))
        .route("/assets/{*file}", get(file))
}

/// The page for those who ask for one, as browsers do; for KServe's clients a sign of life.
async fn start(headers: HeaderMap) -> Result<Response, ApiError> {
    let kinds = [(false, "application/json"), (true, "text/html")];
    let answer = match negotiate::choose(&kinds, &headers)? {
        true => file(Path(START.to_owned()), headers).await?,
        false => Json(Alive::NOW).into_response(),
    };
    Ok(([(VARY, "accept")], answer).into_response())
}

async fn file(Path(name): Path<String>, headers: HeaderMap) -> Result<Response, ApiError> {
    let found = ASSETS.iter().find(|asset| asset.name == name);
    let asset = found.ok_or_else(|| ApiError::NoSuchRoute {
        path: format!("/assets/{name}"),
    })?;
    let bytes = match cfg!(debug_assertions) {
        true => tokio::fs::read(asset.path).await.ok().map(Cow::Owned),
        false => None,
    };
    let bytes = bytes.unwrap_or(Cow::Borrowed(asset.bytes));
    let tag = format!("\"{}\"", hex(&Sha256::digest(&bytes)));
    let is_known = headers
        .get(IF_NONE_MATCH)
        .is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let about = [
        (CONTENT_TYPE, content_type(asset.name).to_owned()),
        (CACHE_CONTROL, "no-cache".to_owned()),
        (ETAG, tag),
    ];
    Ok(match is_known {
        true => (StatusCode::NOT_MODIFIED, about).into_response(),
        false => (about, bytes).into_response(),
    })
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map_or("", |(_, extension)| extension) {
        "html" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "svg" => "image/svg+xml",
        "webp" => "image/webp",
        _ => "text/plain; charset=utf-8",
    }
}
