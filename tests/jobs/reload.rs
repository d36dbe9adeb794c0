//! A running server that is told by SIGHUP that its models folder has changed.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    databases::sqlite,
    processes::{Signal, send},
    served::{Served, benchmark, material},
};

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for file in fs::read_dir(from)
        .unwrap()
        .map(|entry| entry.unwrap().path())
    {
        fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
    }
}

async fn models(server: &Served) -> Value {
    serde_json::from_str(&server.text("/models").await).unwrap()
}

fn ids(list: &Value) -> Vec<&str> {
    list["models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| model["id"].as_str().unwrap())
        .collect()
}

/// The status and the body of a prediction for the first photo.
async fn predict(server: &Served, material: &Path, query: &str) -> (u16, Value) {
    let photo = fs::read(material.join("photos/red/000.png")).unwrap();
    let request = reqwest::Client::new()
        .post(format!("{}/predict{query}", server.url))
        .body(photo);
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

/// Sends SIGHUP, and waits until the list of models is as it should be.
async fn reload(server: &Served, reached: impl Fn(&Value) -> bool) -> Value {
    send(server.id(), Signal::HangUp);
    let started = Instant::now();
    loop {
        let list = models(server).await;
        if reached(&list) {
            return list;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "{list}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_sighup_models_are_added_changed_kept_and_taken_away_while_a_job_runs() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (material, database) = (material(), sqlite());
    let server = Served::start(material.path(), &database, "all");
    let at = |name: &str| material.path().join("models").join(name);
    assert_eq!(
        predict(&server, material.path(), "").await.0,
        200,
        "the only model is the default"
    );
    let job = server.submit(&benchmark()).await;

    copy(&at("colours"), &at("another"));
    let (status, problem) = predict(&server, material.path(), "?model=another").await;
    assert!(
        status == 422 && problem["detail"].as_str().unwrap().contains("SIGHUP"),
        "{problem}"
    );
    let list = reload(&server, |list| ids(list) == ["another", "colours"]).await;
    assert!(
        list["models"]
            .as_array()
            .unwrap()
            .iter()
            .all(|model| model["default"] == false),
        "{list}"
    );
    assert_eq!(
        predict(&server, material.path(), "?model=another").await.0,
        200
    );
    let (status, problem) = predict(&server, material.path(), "").await;
    assert!(
        status == 422
            && problem["detail"]
                .as_str()
                .unwrap()
                .contains("default_model"),
        "{problem}"
    );
    assert_eq!(
        problem["errors"][0]["allowed"],
        json!(["another", "colours"])
    );

    fs::write(at("another/labels.txt"), "rouge\nvert\nbleu").unwrap();
    let started = Instant::now();
    send(server.id(), Signal::HangUp);
    loop {
        let (_, answer) = predict(&server, material.path(), "?model=another").await;
        let label = answer["results"][0]["predictions"][0]["label"]
            .as_str()
            .unwrap();
        if label == "rouge" {
            break;
        }
        assert!(
            label == "red" && started.elapsed() < Duration::from_secs(30),
            "{answer}"
        );
    }

    // Written over in place, and not a model any more: requests still get the one before.
    fs::write(at("another/model.onnx"), "no model").unwrap();
    let list = reload(&server, |list| list["broken_models"][0]["id"] == "another").await;
    assert_eq!(ids(&list), ["another", "colours"]);
    let (status, answer) = predict(&server, material.path(), "?model=another").await;
    assert_eq!(
        (status, &answer["results"][0]["predictions"][0]["label"]),
        (200, &json!("rouge"))
    );

    fs::remove_dir_all(at("another")).unwrap();
    let list = reload(&server, |list| ids(list) == ["colours"]).await;
    assert_eq!(list["broken_models"], json!([]));
    assert_eq!(
        predict(&server, material.path(), "?model=another").await.0,
        422
    );
    assert_eq!(
        predict(&server, material.path(), "").await.0,
        200,
        "the only model again"
    );

    server.reach(&job, |job| job["state"] == "succeeded").await;
    assert_eq!(server.terminate(Duration::from_secs(20)), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn patterns_that_were_fitted_beside_a_running_server_are_used_after_sighup() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (material, database) = (material(), sqlite());
    let server = Served::start(material.path(), &database, "api");
    let explain = async || {
        let photo = fs::read(material.path().join("photos/red/000.png")).unwrap();
        let url = format!(
            "{}/explain?method=pattern_attribution&format=json",
            server.url
        );
        let answer = reqwest::Client::new()
            .post(url)
            .body(photo)
            .send()
            .await
            .unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let (status, problem) = explain().await;
    assert!(
        status != 200 && problem.contains("fit-patterns") && problem.contains("SIGHUP"),
        "{problem}"
    );
    let mut fit = Command::new(env!("CARGO_BIN_EXE_explaind"));
    fit.args(["fit-patterns", "--model", "colours"])
        .arg("--models")
        .arg(material.path().join("models"));
    let fitted = fit
        .arg("--images")
        .arg(material.path().join("photos"))
        .output()
        .unwrap();
    let told = String::from_utf8(fitted.stderr).unwrap();
    assert!(
        fitted.status.success() && told.trim_end().lines().last().unwrap().contains("SIGHUP"),
        "{told}"
    );
    let lines = String::from_utf8(fitted.stdout).unwrap();
    assert!(
        lines.contains(" layers, fitted on ") && lines.lines().all(|line| line.len() < 200),
        "{lines}"
    );
    assert_ne!(explain().await.0, 200);
    reload(&server, |list| list["models"][0]["has_patterns"] == true).await;
    let (status, answer) = explain().await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(server.terminate(Duration::from_secs(20)), Some(0));
}
