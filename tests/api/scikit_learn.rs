//! Models of scikit-learn, exported by skl2onnx 1.20 (`scikit_learn.py`): the label that they choose
//! and the map of their scores are left out, and the scores are those of scikit-learn.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::{
    client::{get, post_json, send_to, values},
    fixture::open,
};

#[tokio::test]
async fn the_scores_are_those_of_scikit_learn() {
    let stored = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api/scikit_learn");
    let text = fs::read_to_string(stored.join("expected.json")).unwrap();
    let expected: serde_json::Map<String, Value> = serde_json::from_str(&text).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for id in expected.keys() {
        let own = folder.path().join(id);
        fs::create_dir(&own).unwrap();
        fs::copy(stored.join(format!("{id}.onnx")), own.join("model.onnx")).unwrap();
    }
    let service = open(&[
        ("models", folder.path().to_str().unwrap()),
        ("default_model", ""),
    ]);
    for (id, expected) in &expected {
        let post = |path: &str, row: &[f64]| {
            let tensor = json!({ "tensor": { "shape": [row.len()], "data": row } });
            post_json(&format!("{path}model={id}"), &tensor)
        };
        let predict = async |row: &[f64]| {
            let answer = send_to(&service.router, post("/predict?", row))
                .await
                .only();
            let all = answer["predictions"].as_array().unwrap().clone();
            let mut scores = vec![0.0; all.len()];
            for one in &all {
                scores[one["index"].as_u64().unwrap() as usize] = one["score"].as_f64().unwrap();
            }
            (scores, answer)
        };
        let card = send_to(&service.router, get(&format!("/models/{id}")))
            .await
            .answer();
        let warnings = card["warnings"].to_string();
        let is_map = id != "regression";
        assert_eq!(warnings.contains("(ZipMap)"), is_map, "{id}: {warnings}");
        let (rows, scores) = (
            expected["rows"].as_array().unwrap(),
            expected["scores"].as_array().unwrap(),
        );
        for (row, scores) in rows.iter().zip(scores) {
            let numbers = |list: &Value| -> Vec<f64> {
                list.as_array()
                    .unwrap()
                    .iter()
                    .map(|one| one.as_f64().unwrap())
                    .collect()
            };
            let (row, scores) = (numbers(row), numbers(scores));
            let (found, answer) = predict(&row).await;
            let near = found.iter().zip(&scores).all(|(a, b)| (a - b).abs() < 1e-5);
            assert!(
                near && found.len() == scores.len(),
                "{id}: {found:?} {scores:?}"
            );
            let told = answer["warnings"].to_string();
            assert_eq!(told.contains("(ZipMap)"), is_map, "{id}: {told}");
            let head = if is_map { "probabilities" } else { "logits" };
            let uri = format!("/explain?method=gradient&format=json&target=0&head={head}&");
            let reply = send_to(&service.router, post(&uri, &row)).await;
            if id == "forest" {
                assert_eq!(reply.status, 422, "{}", reply.text());
                assert!(
                    reply.text().contains("TreeEnsembleClassifier"),
                    "{}",
                    reply.text()
                );
                continue;
            }
            if id == "one_vs_rest" {
                continue;
            }
            for (axis, slope) in values(&reply.only()).into_iter().enumerate() {
                let step = 0.01;
                let score = async |sign: f64| {
                    let mut row = row.clone();
                    row[axis] += sign * step;
                    predict(&row).await.0[0]
                };
                let difference = (score(1.0).await - score(-1.0).await) / (2.0 * step);
                // Of float32 scores: 1e-7 / 0.02.
                let found = f64::from(slope);
                let near = (found - difference).abs() < 2e-5 + 5e-3 * difference.abs();
                assert!(near, "{id}, {axis}: {found} {difference}");
            }
        }
    }
    let pipeline = send_to(&service.router, get("/models/pipeline"))
        .await
        .answer();
    assert_eq!(
        pipeline["labels"],
        json!(["setosa", "versicolor", "virginica"])
    );
    assert!(
        pipeline["warnings"]
            .to_string()
            .contains("output output_label holds no numbers")
    );
    let binary = send_to(&service.router, get("/models/binary"))
        .await
        .answer();
    assert_eq!(binary["labels"], json!([]));
}
