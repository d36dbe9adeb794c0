//! Jobs of kind `gad_train` over HTTP: faults, the run, its report, and the set that it leaves.

use serde_json::{Value, json};

use crate::{
    client::{get, post, post_json, send_to},
    fixture::red,
    train::{fixture, with},
};

fn request() -> Value {
    json!({
        "kind": "gad_train", "model": "tiny", "dataset": "photos", "classes": ["red", "green"], "alphas": [2, 1], "supports": "pair",
        "epochs": 15, "batch_size": 4, "learning_rate": 0.1, "seed": 3,
    })
}

#[tokio::test]
async fn supports_come_nearer_to_their_targets_and_are_used_at_once() {
    let fixture = fixture(&[]);
    fixture.work();
    let id = fixture.submit(&request()).await;
    let job = fixture.ended(&id).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    // The logits, and for each support 15 epochs and its judgement, of 8 images.
    assert_eq!(
        (&job["shards"], &job["total"]),
        (&json!(33), &json!(33 * 8))
    );
    let spec = &job["parameters"];
    assert_eq!(
        (&spec["alphas"], &spec["loss"]),
        (&json!([1.0, 2.0]), &json!("mse"))
    );
    assert_eq!(
        (&spec["classes"], &spec["validation"]),
        (&json!([0, 1]), &json!(0.0))
    );
    let result = &job["result"];
    assert_eq!(result["images"], json!([4, 4]));
    assert_eq!(result["left_out"]["unlabelled"], 0);
    for (support, alpha) in result["supports"]
        .as_array()
        .unwrap()
        .iter()
        .zip([1.0, 2.0])
    {
        let number = |name: &str| support[name].as_f64().unwrap();
        assert_eq!(number("alpha"), alpha);
        assert_eq!(support["epochs"].as_array().unwrap().len(), 15);
        // One of three logits is alpha away.
        let before = alpha * alpha / 3.0;
        assert!((number("mse_before") - before).abs() < 1e-5, "{support}");
        assert!(number("mse_after") < 0.5 * before, "{support}");
        assert!((0.0..=1.0).contains(&number("agreement")), "{support}");
    }
    let set = send_to(&fixture.router, get("/models/tiny/supports/pair"))
        .await
        .answer();
    assert_eq!(set["reference"], result["set"]);
    assert_eq!(set["alphas"], json!([1.0, 2.0]));
    assert_eq!(
        (&set["provenance"]["source"], &set["provenance"]["job"]),
        (&json!("job"), &json!(id))
    );
    let uri = "/explain?model=tiny&method=gad&base=gradient&target=0&format=json&include=supports";
    let explained = send_to(&fixture.router, post(uri, red())).await.only();
    assert_eq!(explained["parameters"]["supports"], result["set"]);
    assert_eq!(explained["supports"].as_array().unwrap().len(), 3);
    let csv = fixture.report(&id, "csv").await.text();
    assert_eq!(csv.lines().count(), 31, "{csv}");
    assert!(csv.starts_with("alpha,epoch,"), "{csv}");
    // The same request again, for another name: the same weights.
    let again = with(
        spec.clone(),
        json!({ "kind": "gad_train", "supports": "twin" }),
    );
    let id = fixture.submit(&again).await;
    assert_eq!(fixture.ended(&id).await["state"], "succeeded");
    let files = |name: &str| {
        let folder = fixture.data.path().join("files/supports/tiny");
        let mut found = crate::supports::walk(&folder);
        found.retain(|path| path.to_str().unwrap().contains(&format!("/{name}/")));
        found.retain(|path| path.extension().is_some_and(|end| end == "safetensors"));
        found.sort();
        found
            .iter()
            .map(|path| std::fs::read(path).unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(files("pair").len(), 2);
    assert_eq!(files("pair"), files("twin"));
}

#[tokio::test]
async fn all_faults_of_a_request_are_told_at_once() {
    let fixture = fixture(&[]);
    let refused = async |changes: Value| {
        let body = with(request(), changes);
        let answer = send_to(&fixture.router, post_json("/jobs", &body)).await;
        (answer.refused(), answer.text())
    };
    let (names, text) = refused(json!({
        "classes": ["red", "mauve"], "alphas": [1, -2], "supports": ".pair", "epochs": 0, "loss": "cross_entropy", "new_head": true,
        "limit": 0, "alfas": 3,
    }))
    .await;
    let expected = [
        "alfas", "alphas", "classes", "epochs", "limit", "loss", "new_head", "supports",
    ];
    assert_eq!(names, expected, "{text}");
    let (names, text) = refused(json!({ "alphas": [2, 2] })).await;
    assert_eq!(names, ["alphas"], "{text}");
    let (names, _) = refused(json!({ "train": "from:no such layer" })).await;
    assert_eq!(names, ["train"]);
    std::fs::remove_dir_all(fixture.photos.path().join("green")).unwrap();
    let (names, text) = refused(json!({})).await;
    assert_eq!(names, ["dataset"]);
    assert!(
        text.contains("no image of class") && text.contains("green"),
        "{text}"
    );
}
