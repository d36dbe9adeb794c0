//! Jobs of kind `train` over HTTP: faults, the run, its report, and the model that it leaves.

use std::fs;

use serde_json::{Value, json};

use crate::{
    benchmark::{Fixture, fixture_with},
    client::{get, post, post_json, send_to},
    fixture::{picture, red},
};

/// With twelve images, four of each class of `tiny`.
pub fn fixture(changes: &[(&str, &str)]) -> Fixture {
    let fixture = fixture_with(changes);
    let photos = fixture.photos.path();
    fs::remove_dir_all(photos).unwrap();
    for (class, colour) in [
        ("red", [200, 60, 50]),
        ("green", [40, 190, 60]),
        ("blue", [30, 60, 220]),
    ] {
        fs::create_dir_all(photos.join(class)).unwrap();
        for at in 0..4 {
            let colour = colour.map(|part: u8| part - 9 * at);
            fs::write(
                photos.join(class).join(format!("{at}.png")),
                picture(9, 9, colour),
            )
            .unwrap();
        }
    }
    fixture
}

fn request(name: &str) -> Value {
    json!({
        "kind": "train", "model": "tiny", "dataset": "photos", "name": name, "epochs": 3, "batch_size": 4, "validation": 0.25,
        "learning_rate": 0.01, "flip": true, "seed": 7,
    })
}

pub fn with(mut request: Value, changes: Value) -> Value {
    let changes = changes.as_object().unwrap().clone();
    request.as_object_mut().unwrap().extend(changes);
    request
}

#[tokio::test]
async fn all_faults_of_a_training_are_told_at_once() {
    let fixture = fixture(&[]);
    let refused = async |request: Value| {
        let answer = send_to(&fixture.router, post_json("/jobs", &request)).await;
        (answer.refused(), answer.text())
    };
    let wrong = json!({
        "kind": "train", "model": "tynie", "dataset": "fotos", "name": "../up", "epochs": 0, "optimizer": "adam", "momentum": 0.5,
        "validation": 0.9, "trian": "head",
    });
    let (names, text) = refused(wrong).await;
    let expected = [
        "dataset",
        "epochs",
        "model",
        "momentum",
        "name",
        "trian",
        "validation",
    ];
    assert_eq!(names, expected, "{text}");
    assert!(text.contains("did you mean train?"), "{text}");

    let (names, text) =
        refused(json!({ "kind": "train", "model": "tiny", "dataset": "photos" })).await;
    assert!(names == ["name"] && text.contains("is missing"), "{text}");
    let (names, text) = refused(with(request("null"), json!({ "name": null }))).await;
    assert!(names == ["name"] && text.contains("is missing"), "{text}");
    // A name that is taken, and a layer that is not there.
    let taken = with(request("plain"), json!({ "train": "from:no such layer" }));
    let (names, text) = refused(taken).await;
    assert_eq!(names, ["name", "train"], "{text}");
    assert!(text.contains("there is a model plain already"), "{text}");
    let (names, _) = refused(with(request("new"), json!({ "model": "numbers" }))).await;
    assert_eq!(names, ["model"], "it takes no images");
    let others = json!({ "model": "numbers", "dataset": "fotos", "epochs": 0 });
    let (names, text) = refused(with(request("new"), others)).await;
    assert_eq!(names, ["dataset", "epochs", "model"], "{text}");
    let changed = json!({ "model_hash": "ab", "dataset_hash": "cd" });
    let (names, text) = refused(with(request("new"), changed)).await;
    assert_eq!(names, ["dataset_hash", "model_hash"], "{text}");

    // A class that the model does not have is one of a new head's.
    fs::create_dir(fixture.photos.path().join("mauve")).unwrap();
    fs::write(fixture.photos.path().join("mauve/f.png"), red()).unwrap();
    let (names, text) = refused(request("new")).await;
    assert!(names == ["dataset"] && text.contains("mauve"), "{text}");
    let layer = json!({ "train": "from:no such layer" });
    let (names, text) = refused(with(request("new"), layer)).await;
    assert_eq!(names, ["dataset", "train"], "{text}");
    let headed = with(request("new"), json!({ "new_head": true, "validation": 0 }));
    let answer = send_to(&fixture.router, post_json("/jobs", &headed)).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
}

#[tokio::test]
async fn a_training_tells_its_epochs_and_leaves_a_model() {
    let fixture = fixture(&[]);
    fixture.work();
    let id = fixture.submit(&request("warm")).await;
    let job = fixture.ended(&id).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    assert_eq!((&job["shards"], &job["total"]), (&json!(3), &json!(36)));
    let result = &job["result"];
    assert_eq!(
        (&result["model"], &result["epoch"], result.get("warnings")),
        (&json!("warm"), &json!(3), None)
    );
    let epochs = result["epochs"].as_array().unwrap();
    let number = |epoch: &Value, name: &str| epoch[name].as_f64().unwrap();
    assert_eq!(epochs.len(), 3);
    for (at, epoch) in epochs.iter().enumerate() {
        assert_eq!(epoch["epoch"], at + 1);
        for name in ["loss", "validation_loss"] {
            assert!(number(epoch, name) > 0.0, "{epoch}");
        }
        for name in ["accuracy", "validation_accuracy"] {
            assert!((0.0..=1.0).contains(&number(epoch, name)), "{epoch}");
        }
    }
    assert!(
        number(&epochs[2], "validation_loss") < number(&epochs[0], "validation_loss"),
        "{epochs:?}"
    );

    let card = send_to(&fixture.router, get("/models/warm")).await.answer();
    assert_eq!(card["parent"]["id"], "tiny");
    assert_eq!(card["provenance"]["job"], id);
    assert_eq!(
        card["provenance"]["dataset"]["hash"],
        job["parameters"]["dataset_hash"]
    );
    assert_eq!(card["provenance"]["epochs"].as_array().unwrap().len(), 3);
    assert_eq!(card["labels"], json!(["red", "green", "blue"]));
    let explain = "/explain?model=warm&method=integrated_gradients&format=json";
    let answer = send_to(&fixture.router, post(explain, red())).await;
    assert_eq!(answer.status, 200, "{}", answer.text());

    // The model that was trained is a parent like any other.
    let child = with(request("warmer"), json!({ "model": "warm", "epochs": 1 }));
    let child = fixture.submit(&child).await;
    assert_eq!(fixture.ended(&child).await["state"], "succeeded");
    let card = send_to(&fixture.router, get("/models/warmer"))
        .await
        .answer();
    assert_eq!(card["parent"]["id"], "warm");

    let report = async |format: &'static str| fixture.report(&id, format).await;
    let json = report("json").await.answer();
    assert_eq!((&json["kind"], &json["result"]), (&json!("train"), result));
    assert_eq!(
        json["request"]["optimizer"], "adam",
        "every default is settled"
    );
    let csv = report("csv").await.text();
    assert!(
        csv.starts_with(
            "epoch,learning_rate,loss,accuracy,validation_loss,validation_accuracy\n1,0.01,"
        ),
        "{csv}"
    );
    assert_eq!(csv.lines().count(), 4);
    assert_eq!(report("png").await.picture().dimensions(), (1120, 460));
    let svg = report("svg").await.text();
    for words in [
        "epoch",
        "mean cross-entropy",
        "accuracy (share of the images)",
        "trained on",
        "validation",
    ] {
        assert!(svg.contains(words), "{words}");
    }
    let page = report("html").await.text();
    for words in [
        "<h1>Training: tiny on photos</h1>",
        "<svg",
        "is served as <b>warm</b>",
        "&quot;kind&quot;: &quot;train&quot;",
    ] {
        assert!(page.contains(words), "{words}");
    }
    // Posted again under another name it gives the same weights.
    let again = with(
        json["request"].clone(),
        json!({ "kind": "train", "name": "again" }),
    );
    let again = fixture.submit(&again).await;
    assert_eq!(fixture.ended(&again).await["state"], "succeeded");
    let onnx = |name: &str| {
        fs::read(
            fixture
                .data
                .path()
                .join("files/trained")
                .join(name)
                .join("model.onnx"),
        )
        .unwrap()
    };
    assert!(onnx("warm") == onnx("again"));
}

#[tokio::test]
async fn a_name_that_was_taken_meanwhile_costs_no_training() {
    let fixture = fixture(&[]);
    let [one, two] = [
        fixture.submit(&request("same")).await,
        fixture.submit(&request("same")).await,
    ];
    fixture.work();
    let mut names = Vec::new();
    for id in [&one, &two] {
        let job = fixture.ended(id).await;
        assert_eq!(job["state"], "succeeded", "{job}");
        let result = &job["result"];
        let name = result["model"].as_str().unwrap().to_owned();
        let told = result["warnings"][0].as_str();
        assert_eq!(name == "same", told.is_none());
        assert!(told.is_none_or(|told| told.contains(&name)));
        let card = send_to(&fixture.router, get(&format!("/models/{name}")))
            .await
            .answer();
        assert_eq!(card["provenance"]["job"], *id);
        names.push(name);
    }
    names.sort();
    assert!(
        names[0] == "same" && names[1].starts_with("same-"),
        "{names:?}"
    );
}

#[tokio::test]
async fn a_loss_that_is_not_finite_fails_the_job_and_keeps_the_last_good_checkpoint() {
    let fixture = fixture(&[]);
    fixture.work();
    let changes = json!({ "loss": "mse", "optimizer": "sgd", "learning_rate": 10, "epochs": 100, "batch_size": 12, "train": "head" });
    let id = fixture.submit(&with(request("hot"), changes)).await;
    let job = fixture.ended(&id).await;
    assert_eq!(job["state"], "failed", "{job}");
    let error = job["error"].as_str().unwrap();
    assert!(
        error.contains("is not finite in step") && error.contains("lower learning_rate"),
        "{error}"
    );
    let done = job["shards_done"].as_u64().unwrap();
    assert!(done > 0, "{job}");
    assert_eq!(
        job["result"]["epochs"].as_array().unwrap().len() as u64,
        done
    );
    let checkpoint = format!("files/jobs/{id}/checkpoints/{done:04}.safetensors");
    assert!(fixture.data.path().join(checkpoint).exists());
    assert_eq!(
        send_to(&fixture.router, get("/models/hot")).await.status,
        404
    );
    let page = fixture.report(&id, "html").await.text();
    assert!(page.contains("Partial results"), "{page}");
}

#[tokio::test]
async fn a_training_that_no_longer_improves_ends_its_remaining_epochs_at_once() {
    let fixture = fixture(&[]);
    fixture.work();
    // At such a rate the loss swings, or is 0 soon.
    let changes = json!({ "optimizer": "sgd", "learning_rate": 10, "epochs": 50, "patience": 2, "train": "head" });
    let id = fixture.submit(&with(request("early"), changes)).await;
    let job = fixture.ended(&id).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    let epochs = job["result"]["epochs"].as_array().unwrap();
    assert!(
        epochs.len() < 50 && epochs.last().unwrap()["stops"] == true,
        "{job}"
    );
    assert_eq!(
        job["result"]["epoch"].as_u64().unwrap() as usize,
        epochs.len() - 2
    );
    assert_eq!(job["shards_done"], 50);
    let page = fixture.report(&id, "html").await.text();
    assert!(page.contains("no longer fell"), "{page}");
}

#[tokio::test]
async fn so_many_models_are_trained_and_no_more() {
    let fixture = fixture(&[("max_trained_models", "1")]);
    fixture.work();
    let id = fixture.submit(&request("first")).await;
    assert_eq!(fixture.ended(&id).await["state"], "succeeded");
    let answer = send_to(&fixture.router, post_json("/jobs", &request("second"))).await;
    assert_eq!(answer.problem(), (507, "too_many_models".to_owned()));
    assert!(answer.text().contains("max_trained_models"));
}
