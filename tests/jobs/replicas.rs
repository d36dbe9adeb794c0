//! Server processes that have a PostgreSQL and an S3 store in common, and no folder but that of the
//! models.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use futures::future::join_all;
use reqwest::{Client, Response};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    databases::{TestDatabase, postgres},
    s3::S3,
    served::{Served, material},
};

struct Replicas {
    material: TempDir,
    database: TestDatabase,
    s3: S3,
}

impl Replicas {
    /// A replica with a data folder of its own.
    fn start(&self, data: &Path, role: &str) -> Served {
        Served::with(
            self.material.path(),
            data,
            self.database.url.as_deref(),
            role,
            |command| {
                self.s3
                    .tell(command.args(["--object-store", "s3://bucket/our"]));
            },
        )
    }
}

/// A tar of some of the photos.
fn archive(photos: &Path, classes: &[&str]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for class in classes {
        builder.append_dir_all(class, photos.join(class)).unwrap();
    }
    builder.into_inner().unwrap()
}

async fn put(server: &Served, bytes: Vec<u8>) -> Value {
    let answer = Client::new()
        .put(format!("{}/datasets/mine", server.url))
        .body(bytes)
        .send()
        .await
        .unwrap();
    assert!(
        answer.status().is_success(),
        "{}",
        answer.text().await.unwrap()
    );
    answer.json().await.unwrap()
}

async fn get(server: &Served, path: &str) -> Value {
    serde_json::from_str(&server.text(path).await).unwrap()
}

async fn explain(server: &Served, photo: &[u8]) -> Response {
    let url = format!(
        "{}/explain?model=colours&method=pgig&format=json",
        server.url
    );
    Client::new()
        .post(url)
        .header("content-type", "image/png")
        .body(photo.to_vec())
        .send()
        .await
        .unwrap()
}

/// Until something is so.
async fn wait(mut is_so: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !is_so().await {
        assert!(started.elapsed() < Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn job(methods: Value) -> Value {
    json!({ "kind": "degradation", "model": "colours", "dataset": "mine", "grid": 4, "steps": 8, "methods": methods })
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_without_a_folder_in_common_work_on_each_others_data_sets_and_patterns() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let replicas = Replicas {
        material: material(),
        database: postgres().await,
        s3: S3::start().await,
    };
    let photos = replicas.material.path().join("photos");
    let [here, there, below] = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let [api, other, worker] = [(&here, "api"), (&there, "api"), (&below, "worker")]
        .map(|(data, role)| replicas.start(data.path(), role));
    let copy = |data: &TempDir| data.path().join("copies/datasets/mine");

    // What one is sent, the others find, once they need it, and once.
    let first = put(&api, archive(&photos, &["red", "green"])).await;
    let upload = replicas
        .s3
        .objects()
        .into_keys()
        .find(|path| path.contains("/mine/") && !path.ends_with("current"));
    let upload = upload.unwrap();
    for card in join_all((0..6).map(|_| get(&other, "/datasets/mine"))).await {
        assert_eq!(card["hash"], first["hash"]);
    }
    assert_eq!(replicas.s3.reads(&upload), 1);
    assert_eq!(get(&other, "/datasets").await["datasets"][0]["id"], "mine");
    assert!(!copy(&below).exists());
    let done = other.submit(&job(json!(["gradient"]))).await;
    api.reach(&done, |job| job["state"] == "succeeded").await;
    assert!(copy(&below).exists());

    // The patterns that the worker fits are everyone's.
    let photo = std::fs::read(photos.join("red/000.png")).unwrap();
    assert_eq!(explain(&api, &photo).await.status(), 422);
    let fit = api
        .submit(&json!({ "kind": "fit_patterns", "model": "colours", "dataset": "mine" }))
        .await;
    let fitted =
        api.reach(&fit, |job| job["state"] == "succeeded").await["result"]["patterns"].clone();
    for server in [&api, &other] {
        wait(async || get(server, "/models/colours").await["patterns"] == fitted).await;
        assert_eq!(explain(server, &photo).await.status(), 200);
    }

    // A set that is replaced; patterns that a job was planned with, on a worker that never saw
    // them.
    worker.kill();
    put(&other, archive(&photos, &["red", "green", "blue"])).await;
    assert_eq!(get(&api, "/datasets/mine").await["images"], 60);
    let planned = api.submit(&job(json!(["pgig", "random"]))).await;
    let refit = json!({ "kind": "fit_patterns", "model": "colours", "dataset": "mine", "regime": "weights" });
    let refit = api.submit(&refit).await;
    let fresh = tempfile::tempdir().unwrap();
    let worker = replicas.start(fresh.path(), "worker");
    let report = api.reach(&planned, |job| job["state"] == "succeeded").await;
    assert!(report["result"]["used"].as_u64() > Some(20), "{report}");
    let refitted =
        api.reach(&refit, |job| job["state"] == "succeeded").await["result"]["patterns"].clone();
    assert_ne!(refitted, fitted);
    let versions = replicas
        .s3
        .objects()
        .into_keys()
        .filter(|path| path.ends_with(".safetensors"));
    let kept = versions.filter(|path| path.contains("/patterns/")).count();
    assert_eq!(kept, 2, "the fit before is kept");

    // A replica that starts has all of it.
    api.kill();
    let api = replicas.start(here.path(), "api");
    assert_eq!(get(&api, "/models/colours").await["patterns"], refitted);
    wait(async || get(&other, "/models/colours").await["patterns"] == refitted).await;

    // What is taken away is gone everywhere, with its copies.
    let gone = Client::new()
        .delete(format!("{}/datasets/mine", other.url))
        .send()
        .await
        .unwrap();
    assert_eq!(gone.status(), 204);
    wait(async || {
        [&here, &there, &fresh]
            .iter()
            .all(|data| !copy(data).exists())
    })
    .await;
    assert_eq!(
        reqwest::get(format!("{}/datasets/mine", api.url))
            .await
            .unwrap()
            .status(),
        404
    );
    assert!(
        !replicas
            .s3
            .objects()
            .keys()
            .any(|path| path.contains("/datasets/"))
    );
    [api, other, worker].into_iter().for_each(Served::kill);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_a_worker_trained_is_served_and_deleted_on_all_replicas() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let replicas = Replicas {
        material: material(),
        database: postgres().await,
        s3: S3::start().await,
    };
    let [here, there, below] = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let [api, other, worker] = [(&here, "api"), (&there, "api"), (&below, "worker")]
        .map(|(data, role)| replicas.start(data.path(), role));
    let training = |name: &str| json!({ "kind": "train", "model": "colours", "dataset": "photos", "name": name, "epochs": 2 });
    let first = api.submit(&training("warm")).await;
    let job = api.reach(&first, |job| job["state"] == "succeeded").await;
    assert_eq!(job["result"]["model"], "warm");
    let status = async |server: &Served| {
        let card = reqwest::get(format!("{}/models/warm", server.url)).await;
        card.unwrap().status().as_u16()
    };
    let photo = std::fs::read(replicas.material.path().join("photos/red/000.png")).unwrap();
    for server in [&api, &other] {
        wait(async || status(server).await == 200).await;
        let card = get(server, "/models/warm").await;
        assert_eq!(card["parent"]["id"], "colours");
        let explained = Client::new()
            .post(format!(
                "{}/explain?model=warm&method=gradient&format=json",
                server.url
            ))
            .header("content-type", "image/png")
            .body(photo.clone());
        assert_eq!(explained.send().await.unwrap().status(), 200);
    }
    let copies = || {
        let folders = [&here, &there, &below].map(|data| data.path().join("copies/trained"));
        let count = |folder: &Path| std::fs::read_dir(folder).map_or(0, Iterator::count);
        folders.map(|folder| count(&folder))
    };
    assert_eq!(copies(), [1, 1, 1]);

    // A replica that starts has it; the name is taken there, too.
    other.kill();
    let other = replicas.start(there.path(), "api");
    assert_eq!(status(&other).await, 200);
    let refused = Client::new()
        .post(format!("{}/jobs", other.url))
        .json(&training("warm"));
    assert_eq!(refused.send().await.unwrap().status(), 422);

    let gone = Client::new().delete(format!("{}/models/warm", other.url));
    assert_eq!(gone.send().await.unwrap().status(), 204);
    assert_eq!(status(&other).await, 404);
    wait(async || status(&api).await == 404).await;
    wait(async || copies() == [0, 0, 0]).await;
    let objects = replicas.s3.objects();
    assert!(!objects.keys().any(|path| path.contains("/trained/")));
    [api, other, worker].into_iter().for_each(Served::kill);
}
