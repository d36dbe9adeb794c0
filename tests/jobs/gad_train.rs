//! Jobs that train supports, in server processes that end in the midst of their work: the supports
//! are those of an undisturbed run, byte for byte.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::{
    databases::{TestDatabase, sqlite},
    served::{Served, material},
    train::{crashing, ends, succeeded},
};

fn training(supports: &str) -> Value {
    json!({
        "kind": "gad_train", "model": "colours", "dataset": "photos", "classes": ["red", "green"], "alphas": [1, 2], "supports": supports,
        "epochs": 3, "batch_size": 4, "learning_rate": 0.01, "seed": 3,
    })
}

/// The weights of a set, in the order of their names.
fn weights(database: &TestDatabase, supports: &str) -> Vec<Vec<u8>> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => walk(&path, found),
                false => found.push(path),
            }
        }
    }
    let mut found = Vec::new();
    walk(&database.data.path().join("files/supports"), &mut found);
    found.retain(|path| {
        let is_own = path.components().any(|part| part.as_os_str() == supports);
        is_own && path.extension().is_some_and(|end| end == "safetensors")
    });
    found.sort();
    found.iter().map(|path| fs::read(path).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_behind_the_logits_an_epoch_a_judgement_or_the_set_does_nothing_twice() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (material, database) = (material(), sqlite());
    let server = Served::start(material.path(), &database, "all");
    let id = server.submit(&training("whole")).await;
    let expected = succeeded(&server, &id).await;
    server.kill();
    let whole = weights(&database, "whole");
    assert_eq!(whole.len(), 2);
    // The logits are the first part, and the first support has three epochs and its judgement.
    let points = [
        "runner::evaluated=1",
        "runner::evaluated=3",
        "runner::evaluated=5",
        "runner::reduced=1",
        "finish::uncommitted=1",
    ];
    for (at, point) in points.into_iter().enumerate() {
        let name = format!("pair-{at}");
        let server = crashing(material.path(), &database, point);
        let id = server.submit(&training(&name)).await;
        ends(server).await;
        let server = Served::start(material.path(), &database, "all");
        let job = succeeded(&server, &id).await;
        assert_eq!(job["errors"], json!([]), "{point}");
        assert_eq!(
            job["result"]["supports"], expected["result"]["supports"],
            "{point}"
        );
        assert!(weights(&database, &name) == whole, "{point}");
        server.kill();
    }
}
