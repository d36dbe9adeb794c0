//! Jobs of kind `evaluate` over HTTP: several metrics of several methods on one set of images.

use serde_json::{Value, json};

use crate::{
    benchmark::fixture_with,
    client::{post_json, send_to},
};

fn request() -> Value {
    json!({
        "kind": "evaluate", "model": "tiny", "dataset": "photos", "seed": 5,
        "methods": ["input_x_gradient", { "id": "gradient", "score": "absolute" }, "edges", "random"],
        "metrics": [
            { "id": "degradation", "grid": 4, "steps": 8, "replacement": "zero" }, "sparseness", "model_randomisation",
            { "id": "degradation", "grid": 4, "steps": 8, "order": "ascending" },
            { "id": "deletion", "steps": 8 }, { "id": "insertion", "steps": 8 },
        ],
    })
}

#[tokio::test]
async fn metrics_share_images_and_explanations_and_repeat_byte_for_byte() {
    let fixture = fixture_with(&[]);
    fixture.work();
    let id = fixture.submit(&request()).await;
    let job = fixture.ended(&id).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    let report = fixture.report(&id, "json").await.answer();
    let result = &report["result"];
    assert_eq!(result["used"], 3);
    assert_eq!(
        result["skipped"],
        json!({ "corrupt_image": 1, "misclassified": 1, "unknown_label": 1 })
    );
    let metrics = result["metrics"].as_array().unwrap();
    let told: Vec<_> = metrics
        .iter()
        .map(|metric| {
            (
                metric["title"].as_str().unwrap(),
                metric["better"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            (
                "Image degradation (order descending, replacement zero)",
                "lower"
            ),
            ("Sparseness", "higher"),
            ("Model randomisation", "lower"),
            (
                "Image degradation (order ascending, replacement mean)",
                "lower"
            ),
            ("Deletion", "lower"),
            ("Insertion", "higher"),
        ]
    );
    let value = |metric: usize, row: usize| metrics[metric]["rows"][row]["value"].as_f64().unwrap();
    for metric in metrics {
        let rows = metric["rows"].as_array().unwrap();
        let titles: Vec<_> = rows
            .iter()
            .map(|row| row["title"].as_str().unwrap())
            .collect();
        assert_eq!(titles, ["input_x_gradient", "gradient", "edges", "random"]);
        assert_eq!(metric["differences"].as_array().unwrap().len(), 6);
        let is_curve = rows[0].get("mean_curve").is_some();
        assert_eq!(is_curve, metric["id"] != "sparseness");
    }
    assert!((0..4).all(|row| (0.0..1.0).contains(&value(1, row))));
    // They do not look at the model; a gradient does.
    assert_eq!((value(2, 2), value(2, 3)), (1.0, 1.0));
    assert!(value(2, 1) < 0.999, "{}", value(2, 1));

    // The metric alone gives the same, in the words of its own kind.
    let alone = json!({
        "kind": "degradation", "model": "tiny", "dataset": "photos", "seed": 5, "methods": request()["methods"],
        "grid": 4, "steps": 8, "replacement": "zero",
    });
    let alone = fixture.submit(&alone).await;
    assert_eq!(fixture.ended(&alone).await["state"], "succeeded");
    let alone = fixture.report(&alone, "json").await.answer();
    let rows = alone["result"]["rows"].as_array().unwrap();
    for (at, row) in rows.iter().enumerate() {
        assert_eq!(row["mean_curve"], metrics[0]["rows"][at]["mean_curve"]);
        assert_eq!(row["area"], metrics[0]["rows"][at]["value"]);
        assert_eq!(row["interval"], metrics[0]["rows"][at]["interval"]);
    }
    assert_eq!(alone["result"]["differences"], metrics[0]["differences"]);

    let mut again = report["request"].clone();
    again["kind"] = json!("evaluate");
    let second = fixture.submit(&again).await;
    assert_eq!(fixture.ended(&second).await["state"], "succeeded");
    for format in ["json", "csv", "svg", "png"] {
        let (one, two) = (
            fixture.report(&id, format).await,
            fixture.report(&second, format).await,
        );
        assert_eq!(one.status.as_u16(), 200);
        assert!(one.body == two.body, "{format}");
    }
    let page = fixture.report(&id, "html").await.text();
    assert_eq!(page.matches("<svg").count(), 6);
    for part in [
        "<h1>Evaluation: tiny on photos</h1>",
        "<h2>Sparseness</h2>",
        "Gini index",
        "Adebayo et al.",
        "&quot;kind&quot;: &quot;evaluate&quot;",
    ] {
        assert!(page.contains(part), "{part}");
    }
    let table = fixture.report(&id, "csv").await.text();
    assert_eq!(table.lines().count(), 1 + 6 * 4);
    assert!(table.starts_with("metric,row,method,value,low,high,images,curve\n"));
}

#[tokio::test]
async fn all_that_is_wrong_with_metrics_is_told_at_once() {
    let fixture = fixture_with(&[]);
    let refused = async |changes: Value| {
        let mut asked = request();
        asked
            .as_object_mut()
            .unwrap()
            .extend(changes.as_object().unwrap().clone());
        send_to(&fixture.router, post_json("/jobs", &asked)).await
    };
    let wrong = refused(json!({ "metrics": [
        "fidelity", { "id": "degradation", "grid": 9, "step": 3 }, { "id": "model_randomisation", "stages": 0 }, 7, { "id": "sparseness", "stages": 2 },
    ] }))
    .await;
    assert_eq!(
        wrong.refused(),
        [
            "metrics[0].id",
            "metrics[1].grid",
            "metrics[1].step",
            "metrics[2].stages",
            "metrics[3].id",
            "metrics[4].stages"
        ]
    );
    assert_eq!(
        wrong.allowed("metrics[0].id"),
        [
            "degradation",
            "deletion",
            "insertion",
            "model_randomisation",
            "sparseness"
        ]
    );
    for metrics in [json!([]), json!("sparseness"), Value::Null] {
        assert_eq!(
            refused(json!({ "metrics": metrics })).await.refused(),
            ["metrics"]
        );
    }
    // Patterns are those of the weights that they were fitted with.
    let patterned = refused(json!({ "methods": ["pgig", "gradient"] })).await;
    assert_eq!(patterned.refused(), ["methods"]);
    assert!(
        patterned.text().contains("pgig with model_randomisation"),
        "{}",
        patterned.text()
    );
    let twice = refused(json!({ "grid": 4 })).await;
    assert_eq!(twice.refused(), ["grid"]);
}
