//! Models that jobs trained: served beside those of the models folder, kept, downloaded and deleted.

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use axum::{body::Body, http::Request};
use bytes::Bytes;
use explaind::{
    app::App,
    model::trained::{TrainedError, TrainedModel},
};
use serde_json::{Value, json};

use crate::{
    benchmark::{Fixture, fixture_with},
    client::{Answered, get, post, send_to},
    fixture::{colour_model, logarithm_model, red},
};

const MANIFEST: &str = "head = \"logits\"\n[input]\nmean = 0.0\nstd = 1.0\nresize = \"stretch\"\n";

fn provenance(job: &str) -> Value {
    json!({
        "parent": { "id": "tiny", "hash": "aa" }, "dataset": { "id": "photos", "hash": "bb" },
        "recipe": { "epochs": 2 }, "images": 3, "validation_images": 0, "epoch": 2, "epochs": [], "version": "0", "job": job,
    })
}

fn trained(id: &str, job: &str, onnx: Vec<u8>) -> TrainedModel {
    let files = [
        ("model.onnx", onnx),
        ("model.toml", MANIFEST.into()),
        ("labels.txt", b"rouge\nvert\nbleu\n".to_vec()),
        ("training.json", provenance(job).to_string().into_bytes()),
    ];
    let files = files.map(|(name, bytes)| (name.to_owned(), Bytes::from(bytes)));
    TrainedModel {
        id: id.to_owned(),
        files: BTreeMap::from(files),
    }
}

async fn models(fixture: &Fixture) -> Value {
    send_to(&fixture.router, get("/models")).await.answer()
}

async fn delete(fixture: &Fixture, id: &str) -> Answered {
    let path = format!("/models/{id}");
    let request = Request::delete(path).body(Body::empty()).unwrap();
    send_to(&fixture.router, request).await
}

fn find(list: &Value, id: &str) -> Option<Value> {
    let mut models = list["models"].as_array().unwrap().iter();
    models.find(|model| model["id"] == id).cloned()
}

async fn label(fixture: &Fixture, model: &str) -> (u16, Value) {
    let path = format!("/predict?model={model}");
    let answer = send_to(&fixture.router, post(&path, red())).await;
    let label = answer.json()["results"][0]["predictions"][0]["label"].clone();
    (answer.status.as_u16(), label)
}

/// The folder of a trained model in the data folder.
fn folder(fixture: &Fixture, id: &str) -> PathBuf {
    fixture.data.path().join("files/trained").join(id)
}

#[tokio::test]
async fn a_trained_model_is_served_listed_kept_and_deleted_like_any_other() {
    let fixture = fixture_with(&[]);
    fixture.work();
    let app = fixture.queue.app();
    app.install_model(trained("warm", "j", colour_model()))
        .await
        .unwrap();

    let found = find(&models(&fixture).await, "warm").unwrap();
    assert_eq!(
        (&found["trained"], &found["parent"], &found["default"]),
        (&json!(true), &provenance("j")["parent"], &json!(false))
    );
    let tiny = find(&models(&fixture).await, "tiny").unwrap();
    assert_eq!(
        (&tiny["trained"], tiny.get("parent")),
        (&json!(false), None)
    );
    let card = send_to(&fixture.router, get("/models/warm")).await.answer();
    assert_eq!(card["provenance"], provenance("j"));
    assert_eq!(label(&fixture, "warm").await, (200, json!("rouge")));

    // Patterns, explanations and jobs.
    let explain = "/explain?model=warm&method=pgig&format=json";
    let answer = send_to(&fixture.router, post(explain, red())).await;
    assert_eq!(answer.status, 422, "it has no patterns yet");
    let fit = json!({ "kind": "fit_patterns", "model": "warm", "dataset": "photos" });
    let id = fixture.submit(&fit).await;
    assert_eq!(fixture.ended(&id).await["state"], "succeeded");
    let answer = send_to(&fixture.router, post(explain, red())).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let evaluate = json!({
        "kind": "evaluate", "model": "warm", "dataset": "photos", "labels": "ignore",
        "methods": ["gradient", "random"], "metrics": ["sparseness"],
    });
    let id = fixture.submit(&evaluate).await;
    let job = fixture.ended(&id).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    let compare = "/compare?model=warm&method=gradient&method=pgig&format=json";
    let answer = send_to(&fixture.router, post(compare, red())).await;
    assert_eq!(answer.status, 200, "{}", answer.text());

    // It is installed once more by its own job, and by no other; nor over a folder's.
    let again = trained("warm", "j", colour_model());
    app.install_model(again).await.unwrap();
    let patterns = |app: &App| app.models().get("warm").unwrap().patterns.clone();
    assert!(patterns(app).is_some());
    for (id, job) in [("warm", "k"), ("tiny", "j")] {
        let refused = app.install_model(trained(id, job, colour_model())).await;
        assert!(matches!(refused, Err(TrainedError::Taken { .. })), "{id}");
    }

    // After a reload, and in another process on the same data.
    app.reload_models().await.unwrap();
    assert!(patterns(app).is_some());
    assert!(find(&models(&fixture).await, "warm").is_some());
    let other = App::start(app.settings().clone()).unwrap();
    assert!(other.models().get("warm").is_none());
    other.catch_up().await;
    assert!(patterns(&other).is_some());
    assert_eq!(
        other.models().default().unwrap().id,
        "tiny",
        "trained models are nobody's default"
    );

    // Copied into a models folder it is a model like any other.
    let copy = tempfile::tempdir().unwrap();
    let answer = send_to(&fixture.router, get("/models/warm/archive")).await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("content-type")),
        (200, Some("application/x-tar"))
    );
    tar::Archive::new(&answer.body[..])
        .unpack(copy.path())
        .unwrap();
    let mut settings = app.settings().clone();
    settings.models = copy.path().to_owned();
    settings.default_model = None;
    let copied = App::start(settings).unwrap().models();
    let model = copied.default().unwrap();
    assert_eq!(
        (model.id.as_str(), copied.origin("warm").is_some()),
        ("warm", false)
    );
    assert_eq!(model.provenance.as_ref().unwrap().parent.id, "tiny");
    assert_eq!(
        names(&folder(&fixture, "warm")),
        ["labels.txt", "model.onnx", "model.toml", "training.json"]
    );
    let mut entries = tar::Archive::new(&answer.body[..]);
    let mut entries = entries.entries().unwrap().map(Result::unwrap);
    let mut onnx = entries
        .find(|entry| entry.path().unwrap() == Path::new("warm/model.onnx"))
        .unwrap();
    let mut bytes = Vec::new();
    onnx.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, colour_model());

    assert_eq!(delete(&fixture, "warm").await.status, 204);
    assert!(!folder(&fixture, "warm").exists());
    let patterns_of = fixture.data.path().join("files/patterns/warm");
    assert!(names(&patterns_of).is_empty(), "its patterns went, too");
    assert_eq!(find(&models(&fixture).await, "warm"), None);
    assert_eq!(label(&fixture, "warm").await.0, 422);
    let unknown = (404, "unknown_model".to_owned());
    assert_eq!(delete(&fixture, "warm").await.problem(), unknown);
    let archive = send_to(&fixture.router, get("/models/warm/archive")).await;
    assert_eq!(archive.problem(), unknown);
    let configured = (409, "configured_model".to_owned());
    let refused = delete(&fixture, "tiny").await;
    assert_eq!(refused.problem(), configured);
    assert!(refused.text().contains("models folder"));
    let archive = send_to(&fixture.router, get("/models/tiny/archive")).await;
    assert_eq!(archive.problem(), configured);

    // The name is free again, and the other process follows.
    app.install_model(trained("warm", "k", colour_model()))
        .await
        .unwrap();
    other.catch_up().await;
    let model = other.models().get("warm").unwrap();
    assert_eq!(model.provenance.as_ref().unwrap().job.as_deref(), Some("k"));
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn broken_trained_models_are_told_and_the_others_are_served() {
    let fixture = fixture_with(&[]);
    let app = fixture.queue.app();
    app.install_model(trained("good", "j", colour_model()))
        .await
        .unwrap();
    let refused = app
        .install_model(trained("bad", "j", b"no model".to_vec()))
        .await;
    assert!(matches!(refused, Err(TrainedError::Broken { .. })));
    // What is left where a model was deleted while it was written, and while it is written.
    for (id, file) in [("rest", "model.onnx"), ("part", "training.json")] {
        let folder = folder(&fixture, id);
        fs::create_dir_all(&folder).unwrap();
        let text = provenance("j").to_string();
        let bytes = if id == "rest" {
            logarithm_model()
        } else {
            text.into_bytes()
        };
        fs::write(folder.join(file), bytes).unwrap();
    }
    app.catch_up().await;
    let list = models(&fixture).await;
    assert!(find(&list, "good").is_some());
    let broken: BTreeMap<_, _> = list["broken_models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["id"].as_str().unwrap(), one["faults"].to_string()))
        .collect();
    assert!(!broken.contains_key("part") && find(&list, "part").is_none());
    assert!(broken["rest"].contains("training.json"), "{broken:?}");
    assert!(broken["bad"].contains("model.onnx"), "{broken:?}");
    assert!(broken.contains_key("broken"), "of the models folder");
    // The names are taken until they are deleted.
    let taken = app
        .install_model(trained("part", "k", colour_model()))
        .await;
    assert!(matches!(taken, Err(TrainedError::Taken { .. })));
    for id in ["bad", "rest", "part"] {
        assert_eq!(delete(&fixture, id).await.status, 204, "{id}");
    }
    let list = models(&fixture).await;
    assert_eq!(list["broken_models"].as_array().unwrap().len(), 2, "{list}");
    app.install_model(trained("part", "k", colour_model()))
        .await
        .unwrap();
    assert_eq!(label(&fixture, "part").await, (200, json!("rouge")));
}

#[tokio::test]
async fn a_folder_of_the_same_name_goes_first() {
    let folder_of_models = tempfile::tempdir().unwrap();
    let own = folder_of_models.path().join("own");
    fs::create_dir(&own).unwrap();
    fs::write(own.join("model.onnx"), colour_model()).unwrap();
    fs::write(own.join("model.toml"), MANIFEST).unwrap();
    let models_folder = folder_of_models.path().to_str().unwrap();
    let fixture = fixture_with(&[("models", models_folder), ("default_model", "")]);
    let app = fixture.queue.app();
    app.install_model(trained("warm", "j", colour_model()))
        .await
        .unwrap();
    assert_eq!(
        app.models().default().unwrap().id,
        "own",
        "the folder's only one"
    );
    fs::rename(&own, folder_of_models.path().join("warm")).unwrap();
    app.reload_models().await.unwrap();
    let list = models(&fixture).await;
    let found = find(&list, "warm").unwrap();
    assert_eq!(
        (&found["trained"], &found["default"]),
        (&json!(false), &json!(true))
    );
    let broken = &list["broken_models"][0];
    assert!(
        broken["id"] == "warm" && broken["faults"][0].as_str().unwrap().contains("DELETE"),
        "{list}"
    );
    // What is deleted is the trained one.
    assert_eq!(delete(&fixture, "warm").await.status, 204);
    let list = models(&fixture).await;
    assert_eq!(list["broken_models"], json!([]));
    assert!(find(&list, "warm").is_some());
    assert_eq!(
        delete(&fixture, "warm").await.problem(),
        (409, "configured_model".to_owned())
    );
}
