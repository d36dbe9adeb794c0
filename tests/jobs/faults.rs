//! Disks that are full, databases that hang up, stores of files that others hold.

use std::{
    collections::BTreeMap,
    process::Stdio,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::{Path, Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use explaind::files::Files;
use object_store::path::Path as FilePath;
use serde_json::json;
use sqlx::{Connection, PgConnection};
use tokio::net::TcpListener;

use crate::{
    databases::{both, postgres},
    kinds::{ask, queue},
    processes::{Worker, check, child, limit_files, reach},
};

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_results_wait_and_nothing_is_lost() {
    const SHARDS: u64 = 12;
    let place = crate::databases::sqlite();
    let queue = queue(&place, &[]);
    let (job, _) = queue.submit(ask(json!({ "shards": SHARDS, "pause_ms": 100 })), None).await.unwrap();
    let worker = Worker::start(&place);
    reach(&queue, &job.id, |job| job.shards_done >= 2).await;
    limit_files(worker.id(), Some(0));
    worker.says(&["a result cannot be written; trying again"]).await;
    let stuck = queue.job(&job.id).await.unwrap();
    assert!(!stuck.state.is_final() && stuck.shards_done < SHARDS, "{stuck:?}");
    limit_files(worker.id(), None);
    check(&queue, &job.id, SHARDS).await;
    worker.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_hangs_up_is_asked_again() {
    const SHARDS: u64 = 12;
    let place = postgres().await;
    let queue = queue(&place, &[]);
    let (job, _) = queue.submit(ask(json!({ "shards": SHARDS, "pause_ms": 100 })), None).await.unwrap();
    let worker = Worker::start(&place);
    let mut connection = PgConnection::connect(place.database.as_deref().unwrap()).await.unwrap();
    for done in [2, 5, 8] {
        reach(&queue, &job.id, |job| job.shards_done >= done).await;
        const HANG_UP: &str = "SELECT COUNT(pg_terminate_backend(pid)) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()";
        sqlx::query(HANG_UP).execute(&mut connection).await.unwrap();
    }
    check(&queue, &job.id, SHARDS).await;
    worker.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_files_cannot_be_written_fails_and_says_so() {
    for place in both().await {
        std::fs::write(place.data.path().join("files"), "in the way").unwrap();
        let queue = queue(&place, &[]);
        let job = explaind::jobs::local::run(&queue, ask(json!({ "shards": 2 })), None, |_| {}).await.unwrap();
        let error = job.error.unwrap();
        assert!(error.starts_with("the reduction: ") && error.contains("files"), "{}: {error}", place.name);
        let look = queue.look(&job.id).await.unwrap();
        assert_eq!(look.result, Some(crate::kinds::expected(0, 2)), "what was done is there");
    }
}

/// As much of S3 as files need: objects by path, and lists of them.
type Objects = Arc<Mutex<BTreeMap<String, Bytes>>>;

async fn put(State(objects): State<Objects>, Path(path): Path<String>, body: Bytes) -> Response {
    objects.lock().unwrap().insert(path, body);
    [(header::ETAG, "\"1\"")].into_response()
}

async fn read(
    State(objects): State<Objects>,
    Path(path): Path<String>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let objects = objects.lock().unwrap();
    if let Some(prefix) = query.get("prefix") {
        let found: String = objects
            .iter()
            .filter_map(|(key, bytes)| Some((key.strip_prefix("bucket/")?, bytes.len())))
            .filter(|(key, _)| key.starts_with(prefix))
            .map(|(key, size)| {
                format!("<Contents><Key>{key}</Key><Size>{size}</Size><LastModified>2026-01-01T00:00:00Z</LastModified></Contents>")
            })
            .collect();
        return format!("<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>").into_response();
    }
    match objects.get(&path) {
        Some(bytes) => {
            let headers = [(header::ETAG, "\"1\""), (header::LAST_MODIFIED, "Thu, 01 Jan 2026 00:00:00 GMT")];
            (headers, bytes.clone()).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// Removes several: the body lists their keys.
async fn remove(State(objects): State<Objects>, Path(bucket): Path<String>, body: String) -> String {
    let keys = body.split("<Key>").skip(1).map(|rest| rest.split("</Key>").next().unwrap());
    let removed = keys.map(|key| {
        objects.lock().unwrap().remove(&format!("{bucket}/{key}"));
        format!("<Deleted><Key>{key}</Key></Deleted>")
    });
    format!("<DeleteResult>{}</DeleteResult>", removed.collect::<String>())
}

/// The process whose environment names the store; on its own it has nothing to do.
#[tokio::test]
async fn replica() {
    if std::env::var("AWS_ENDPOINT").is_err() {
        return;
    }
    let _ = rustls::crypto::ring::default_provider().install_default();
    let data = tempfile::tempdir().unwrap();
    let files = Files::new(data.path(), Some("s3://bucket/our/files"));
    files.write(&FilePath::from("jobs/a/one"), "first".as_bytes()).await.unwrap();
    files.write(&FilePath::from("jobs/b/two"), "second".as_bytes()).await.unwrap();
    assert_eq!(files.read(&FilePath::from("jobs/a/one")).await.unwrap(), "first");
    files.remove_all(&FilePath::from("jobs/a")).await.unwrap();
    assert!(files.read(&FilePath::from("jobs/a/one")).await.is_err());
    assert!(!data.path().join("files").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn files_may_be_shared_through_an_s3_store() {
    let objects = Objects::default();
    let store = Router::new().route("/{*path}", get(read).put(put).post(remove)).with_state(objects.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, store).await });
    let mut replica = child("faults::replica");
    replica.env("AWS_ENDPOINT", format!("http://{address}")).env("AWS_ALLOW_HTTP", "true");
    replica.env("AWS_ACCESS_KEY_ID", "us").env("AWS_SECRET_ACCESS_KEY", "secret").stderr(Stdio::piped());
    let said = tokio::task::spawn_blocking(move || replica.output().unwrap()).await.unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let left: Vec<_> = objects.lock().unwrap().clone().into_iter().collect();
    assert_eq!(left, [("bucket/our/files/jobs/b/two".to_owned(), Bytes::from("second"))]);
}
