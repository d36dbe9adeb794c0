//! BAM models of servers that end at crash points and are killed at random moments: all models and
//! what they are judged to be are those of an undisturbed run, byte for byte.

use std::{collections::BTreeSet, path::Path, time::Duration};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::{
    bam::{add_material, start_with},
    databases::{TestDatabase, sqlite},
    served::{Served, material},
    train::{ends, stored, succeeded},
};

const EPOCHS: usize = 3;
/// Of three scene classes.
const MODELS: [&str; 5] = ["object", "scene", "k01", "k02", "k03"];
const SHARDS: usize = MODELS.len() * (EPOCHS + 1);

fn request(name: &str) -> Value {
    json!({
        "kind": "bam_models", "model": "colours", "data": "mine", "name": name, "epochs": EPOCHS, "feature_epochs": EPOCHS, "batch_size": 4,
        "learning_rate": 0.1, "flip": true, "seed": 3,
    })
}

async fn make_data(server: &Served) {
    let request = json!({
        "kind": "bam_data", "id": "mine", "objects": "objects", "scenes": "scenes", "per_pair": 6, "size": 32,
        "common_feature": "dog",
    });
    let id = server.submit(&request).await;
    succeeded(server, &id).await;
}

fn crashing(material: &Path, database: &TestDatabase, point: &str) -> Served {
    start_with(material, database, |command| {
        command.env("CRASH_AT", point);
    })
}

/// The networks of all models, and what the job says of them.
fn made(database: &TestDatabase, name: &str, job: &Value) -> (Vec<Vec<u8>>, Value) {
    let onnx = |model: &&str| stored(database, &format!("{name}_{model}"), "model.onnx");
    let mut told = job["result"]["models"].clone();
    for (model, of) in told.as_array_mut().unwrap().iter_mut().zip(MODELS) {
        let served = model.as_object_mut().unwrap().shift_remove("model");
        assert_eq!(served, Some(json!(format!("{name}_{of}"))));
    }
    (MODELS.iter().map(onnx).collect(), told)
}

#[tokio::test(flavor = "multi_thread")]
async fn crashes_and_kills_leave_the_models_of_an_undisturbed_run() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (material, database) = (material(), sqlite());
    add_material(material.path());
    let start = || start_with(material.path(), &database, |_| ());
    let server = start();
    make_data(&server).await;
    let id = server.submit(&request("whole")).await;
    let job = succeeded(&server, &id).await;
    assert_eq!(
        (&job["shards_done"], &job["errors"]),
        (&json!(SHARDS), &json!([]))
    );
    let expected = made(&database, "whole", &job);
    let distinct: BTreeSet<&Vec<u8>> = expected.0.iter().collect();
    assert_eq!(distinct.len(), MODELS.len());
    server.kill();

    // Behind the checkpoint of an epoch; behind a judgement; behind the first epoch of the next
    // model, when the checkpoints of the one before are gone; behind the last judgement; behind the
    // reduction; behind the models.
    let points = [
        "runner::evaluated=2".to_owned(),
        format!("runner::evaluated={}", EPOCHS + 1),
        format!("runner::evaluated={}", EPOCHS + 2),
        format!("runner::evaluated={SHARDS}"),
        "runner::reduced=1".to_owned(),
        "finish::uncommitted=1".to_owned(),
    ];
    for (at, point) in points.iter().enumerate() {
        let name = format!("crashed{at}");
        let server = crashing(material.path(), &database, point);
        let id = server.submit(&request(&name)).await;
        ends(server).await;
        let server = start();
        let job = succeeded(&server, &id).await;
        assert_eq!(job["errors"], json!([]), "{point}");
        assert!(made(&database, &name, &job) == expected, "{point}");
        server.kill();
    }

    let mut server = start();
    let id = server.submit(&request("killed")).await;
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let mut kills = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(random.random_range(50..500))).await;
        let job = server.job(&id).await;
        let is_done = job["state"] == "succeeded";
        server.kill();
        server = start();
        if is_done {
            break;
        }
        kills += 1;
    }
    assert!(kills > 0, "every kill came too late");
    let job = succeeded(&server, &id).await;
    assert!(made(&database, "killed", &job) == expected, "{kills} kills");
    // Checkpoints are gone; the models lie in the job's folder and are served.
    let folder = database.data.path().join("files/jobs").join(&id);
    let left: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(left, ["models"]);
    server.kill();
}
