//! As much of S3 as files need: objects by path, lists of them, uploads in parts. It counts what is
//! read.

use std::{
    collections::BTreeMap,
    process::Command,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use explaind::files::hex;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

pub struct S3 {
    address: String,
    held: Shared,
}

type Shared = Arc<Mutex<Held>>;

#[derive(Default)]
struct Held {
    objects: BTreeMap<String, Bytes>,
    /// Of uploads that are not complete, by path and number.
    parts: BTreeMap<(String, u32), Bytes>,
    reads: BTreeMap<String, usize>,
}

impl S3 {
    pub async fn start() -> Self {
        let held = Shared::default();
        let store = Router::new()
            .route("/{*path}", get(read).put(put).post(post))
            .layer(DefaultBodyLimit::disable())
            .with_state(held.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, store).await });
        Self { address, held }
    }

    /// What a process needs to find it.
    pub fn tell(&self, command: &mut Command) {
        command
            .env("AWS_ENDPOINT", &self.address)
            .env("AWS_ALLOW_HTTP", "true");
        command
            .env("AWS_ACCESS_KEY_ID", "us")
            .env("AWS_SECRET_ACCESS_KEY", "secret");
    }

    /// Every object by its path, the bucket first.
    pub fn objects(&self) -> BTreeMap<String, Bytes> {
        self.held.lock().unwrap().objects.clone()
    }

    /// How often an object was read.
    pub fn reads(&self, path: &str) -> usize {
        self.held
            .lock()
            .unwrap()
            .reads
            .get(path)
            .copied()
            .unwrap_or_default()
    }
}

type Pairs = Query<BTreeMap<String, String>>;

async fn put(
    State(held): State<Shared>,
    Path(path): Path<String>,
    Query(query): Pairs,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut held = held.lock().unwrap();
    if headers.contains_key(header::IF_NONE_MATCH) && held.objects.contains_key(&path) {
        return StatusCode::PRECONDITION_FAILED.into_response();
    }
    match query.get("partNumber") {
        Some(number) => held.parts.insert((path, number.parse().unwrap()), body),
        None => held.objects.insert(path, body),
    };
    [(header::ETAG, "\"1\"")].into_response()
}

async fn read(
    State(held): State<Shared>,
    Path(path): Path<String>,
    Query(query): Pairs,
) -> Response {
    let mut held = held.lock().unwrap();
    if let Some(prefix) = query.get("prefix") {
        let found = held
            .objects
            .iter()
            .filter_map(|(key, bytes)| Some((key.strip_prefix("bucket/")?, bytes)));
        let below =
            found.filter_map(|(key, bytes)| Some((key, key.strip_prefix(prefix.as_str())?, bytes)));
        let entries = below.map(|(key, rest, bytes)| match (query.get("delimiter"), rest.split_once('/')) {
            (Some(_), Some((folder, _))) => format!("<CommonPrefixes><Prefix>{prefix}{folder}/</Prefix></CommonPrefixes>"),
            _ => format!(
                "<Contents><Key>{key}</Key><Size>{}</Size><LastModified>2026-01-01T00:00:00Z</LastModified><ETag>\"{}\"</ETag></Contents>",
                bytes.len(),
                hex(&Sha256::digest(bytes)),
            ),
        });
        // Keys are sorted: files of a folder follow each other.
        let mut entries: Vec<String> = entries.collect();
        entries.dedup();
        let found = entries.concat();
        return format!(
            "<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>"
        )
        .into_response();
    }
    let Some(bytes) = held.objects.get(&path).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    *held.reads.entry(path).or_default() += 1;
    let headers = [
        (header::ETAG, "\"1\""),
        (header::LAST_MODIFIED, "Thu, 01 Jan 2026 00:00:00 GMT"),
    ];
    (headers, bytes).into_response()
}

/// Begins or ends an upload in parts, or removes the objects whose keys the body lists.
async fn post(
    State(held): State<Shared>,
    Path(path): Path<String>,
    Query(query): Pairs,
    body: String,
) -> String {
    let mut held = held.lock().unwrap();
    if query.contains_key("uploads") {
        return "<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>".into();
    }
    if query.contains_key("uploadId") {
        let parts: Vec<(String, u32)> = held
            .parts
            .keys()
            .filter(|(of, _)| *of == path)
            .cloned()
            .collect();
        let whole: Vec<u8> = parts
            .iter()
            .flat_map(|part| held.parts.remove(part).unwrap())
            .collect();
        held.objects.insert(path, whole.into());
        return "<CompleteMultipartUploadResult><ETag>\"1\"</ETag></CompleteMultipartUploadResult>"
            .into();
    }
    let keys = body
        .split("<Key>")
        .skip(1)
        .map(|rest| rest.split("</Key>").next().unwrap());
    let removed = keys.map(|key| {
        held.objects.remove(&format!("{path}/{key}"));
        format!("<Deleted><Key>{key}</Key></Deleted>")
    });
    let removed: String = removed.collect();
    format!("<DeleteResult>{removed}</DeleteResult>")
}
