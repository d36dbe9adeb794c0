//! Training jobs of server processes that are killed: the model is that of an undisturbed run, byte
//! for byte, and stays with the data.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::{
    databases::{TestDatabase, databases, sqlite},
    processes::{Signal, send},
    served::{Served, material},
};

fn training(name: &str, epochs: usize) -> Value {
    json!({
        "kind": "train", "model": "colours", "dataset": "photos", "name": name, "epochs": epochs, "batch_size": 4,
        "learning_rate": 0.01, "flip": true, "crop": true, "schedule": "cosine", "seed": 3,
    })
}

pub fn stored(database: &TestDatabase, name: &str, file: &str) -> Vec<u8> {
    let folder = database.data.path().join("files/trained").join(name);
    fs::read(folder.join(file)).unwrap()
}

pub async fn succeeded(server: &Served, id: &str) -> Value {
    server.reach(id, |job| job["state"] == "succeeded").await
}

/// A server that ends at a point of its work.
pub fn crashing(material: &Path, database: &TestDatabase, point: &str) -> Served {
    let (data, url) = (database.data.path(), database.url.as_deref());
    Served::with(material, data, url, "all", |command| {
        command.env("CRASH_AT", point);
    })
}

pub async fn ends(server: Served) {
    let started = Instant::now();
    while reqwest::get(format!("{}/livez", server.url)).await.is_ok() {
        assert!(started.elapsed() < Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    server.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_training_killed_ten_times_ends_with_the_bytes_of_an_undisturbed_one() {
    const EPOCHS: usize = 60;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let material = material();
    let undisturbed = sqlite();
    let server = Served::start(material.path(), &undisturbed, "all");
    let id = server.submit(&training("warm", EPOCHS)).await;
    let expected = succeeded(&server, &id).await;
    assert_eq!(expected["shards_done"], EPOCHS);
    let model = stored(&undisturbed, "warm", "model.onnx");
    server.kill();

    for database in databases().await {
        let mut random = ChaCha8Rng::seed_from_u64(10);
        let mut id = None;
        let mut done = 0;
        for _ in 0..10 {
            let server = Served::start(material.path(), &database, "all");
            let id = match &id {
                Some(id) => id,
                None => id.insert(server.submit(&training("warm", EPOCHS)).await),
            };
            let job = server
                .reach(id, |job| job["shards_done"].as_u64() > Some(done))
                .await;
            done = job["shards_done"].as_u64().unwrap();
            assert!((done as usize) < EPOCHS, "{}: it is done", database.name);
            tokio::time::sleep(Duration::from_millis(random.random_range(0..150))).await;
            server.kill();
        }
        let id = id.unwrap();
        let server = Served::start(material.path(), &database, "all");
        let job = succeeded(&server, &id).await;
        assert_eq!(job["result"], expected["result"], "{}", database.name);
        assert!(
            stored(&database, "warm", "model.onnx") == model,
            "{}: other weights",
            database.name
        );

        // One checkpoint is left, and the model is served after a SIGHUP and a restart.
        let checkpoints = database.data.path().join("files/jobs").join(&id);
        let left = fs::read_dir(checkpoints.join("checkpoints")).unwrap();
        let names = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        // Beside it lies what writers that were killed left half written.
        let whole: Vec<String> = names.filter(|name| !name.contains('#')).collect();
        assert_eq!(whole, [format!("{EPOCHS:04}-last.safetensors")]);
        send(server.id(), Signal::HangUp);
        tokio::time::sleep(Duration::from_millis(500)).await;
        let parent = async |server: &Served| {
            let list: Value = serde_json::from_str(&server.text("/models").await).unwrap();
            let models = list["models"].as_array().unwrap();
            let found = models.iter().find(|model| model["id"] == "warm").cloned();
            found.map(|model| model["parent"]["id"].clone())
        };
        assert_eq!(parent(&server).await, Some(json!("colours")));
        server.kill();
        let server = Served::start(material.path(), &database, "api");
        assert_eq!(parent(&server).await, Some(json!("colours")));
        server.kill();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_behind_a_checkpoint_or_behind_the_model_does_nothing_twice() {
    const EPOCHS: usize = 3;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (material, database) = (material(), sqlite());
    // Behind the checkpoint of an epoch; behind the reduction; behind the model.
    let points = [
        "runner::evaluated=2",
        "runner::reduced=1",
        "finish::uncommitted=1",
    ];
    let mut models = Vec::new();
    for (at, point) in points.into_iter().enumerate() {
        let name = format!("warm-{at}");
        let server = crashing(material.path(), &database, point);
        let id = server.submit(&training(&name, EPOCHS)).await;
        ends(server).await;
        let server = Served::start(material.path(), &database, "all");
        let job = succeeded(&server, &id).await;
        assert_eq!(job["result"]["model"], name, "{point}");
        assert_eq!(job["errors"], json!([]), "{point}");
        models.push(stored(&database, &name, "model.onnx"));
        server.kill();
    }
    assert!(models.iter().all(|model| *model == models[0]));
}
