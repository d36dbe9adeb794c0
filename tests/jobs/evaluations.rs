//! What an evaluation costs, by the server's own count of the rows that its engine evaluated.

use serde_json::{Value, json};

use crate::{
    databases::sqlite,
    served::{Served, material},
};

const IMAGES: u64 = 20;

fn request(metrics: &Value) -> Value {
    json!({
        "kind": "evaluate", "model": "colours", "dataset": "photos", "limit": IMAGES, "labels": "ignore",
        "methods": [
            "gradient", "input_x_gradient", { "id": "integrated_gradients", "n_steps": 12 }, { "id": "smooth_grad", "n_samples": 9 },
            "edges", "random",
        ],
        "metrics": metrics,
    })
}

/// What an image may cost, as the refusal of a budget tells it.
async fn planned(server: &Served, metrics: &Value) -> u64 {
    let mut asked = request(metrics);
    asked["budget"] = json!(1);
    let answer = reqwest::Client::new()
        .post(format!("{}/jobs", server.url))
        .json(&asked)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 422);
    let problem: Value = answer.json().await.unwrap();
    let allowed = problem["errors"][0]["allowed"][0].as_str().unwrap();
    allowed.split(' ').next().unwrap().parse().unwrap()
}

/// Rows evaluated since the server started.
async fn rows(server: &Served) -> u64 {
    let metrics = server.text("/metrics").await;
    let counts = metrics
        .lines()
        .filter(|line| line.starts_with("explaind_rows_total{"));
    counts
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}

/// Rows that a job of these metrics takes.
async fn evaluated(server: &Served, metrics: &Value) -> u64 {
    let before = rows(server).await;
    let id = server.submit(&request(metrics)).await;
    let job = server.reach(&id, |job| job["state"] == "succeeded").await;
    assert_eq!(job["result"]["used"], IMAGES);
    rows(server).await - before
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_metrics_of_six_methods_share_one_explanation_of_each_image() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (material, database) = (material(), sqlite());
    let server = Served::start(material.path(), &database, "all");
    let one = json!(["sparseness"]);
    let ten = json!([
        "sparseness", "entropy", "model_randomisation", "random_logit", "repeatability",
        { "id": "degradation", "grid": 4, "steps": 6 }, { "id": "degradation", "grid": 4, "steps": 6, "order": "ascending" },
        { "id": "deletion", "steps": 8 }, { "id": "insertion", "steps": 8 }, { "id": "degradation", "grid": 8, "steps": 9 },
    ]);
    let (explaining, all) = (planned(&server, &one).await, planned(&server, &ten).await);
    let alone = evaluated(&server, &one).await;
    let together = evaluated(&server, &ten).await;
    assert!(
        alone > 0 && alone <= explaining * IMAGES,
        "{alone}, {explaining} planned"
    );
    assert!(
        together > alone && 2 * together <= 3 * all * IMAGES,
        "{together}, {all} planned"
    );
    // Beside one explanation of each image there is what the metrics ask for, and no more.
    let measuring = (all - explaining) * IMAGES;
    assert!(
        together <= alone + measuring,
        "{alone}, {together}, {measuring} planned"
    );
    server.kill();
}
