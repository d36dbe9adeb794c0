//! Jobs of kind `evaluate` over HTTP: several metrics of several methods on one set of images.

use std::fs;

use explaind::evaluation::registry::METRICS;
use onnx_autodiff::onnx::{read_bytes, write_model};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    benchmark::{Fixture, fixture_with},
    client::{get, post_json, send_to},
    fixture::{colour_model, picture},
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
                "higher"
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
    for format in ["json", "csv", "svg", "png", "tidy.csv", "tidy.jsonl"] {
        let (one, two) = (
            fixture.report(&id, format).await,
            fixture.report(&second, format).await,
        );
        assert_eq!(one.status.as_u16(), 200);
        assert!(one.body == two.body, "{format}");
    }
    let page = fixture.report(&id, "html").await.text();
    // One of each metric, and one of the metrics against each other.
    assert_eq!(page.matches("<svg").count(), 7);
    for part in [
        "<h1>Evaluation: tiny on photos</h1>",
        "<h2>Summary</h2>",
        "Nothing is set in bold below 30 images",
        "Of so few rows as 4, no correlation",
        "<h2 id=\"metric-2\">Sparseness</h2>",
        "Best and worst image",
        "Gini index",
        "Adebayo et al.",
        "&quot;kind&quot;: &quot;evaluate&quot;",
    ] {
        assert!(page.contains(part), "{part}");
    }
    let table = fixture.report(&id, "csv").await.text();
    assert_eq!(table.lines().count(), 1 + 6 * 4);
    assert!(table.starts_with("metric,measure,row,method,value,low,high,images,curve\n"));
    let agreement = result["agreement"].as_array().unwrap();
    assert_eq!(agreement.len(), 15);
    assert_eq!(agreement[0]["rows"], 4);
    // What is shown of a job is small.
    for hidden in ["thumbnails", "samples", "tables"] {
        assert!(job["result"].get(hidden).is_none(), "{hidden}");
    }

    // The values of single images: their mean is that of the report.
    let tidy = fixture.report(&id, "tidy.jsonl").await;
    let disposition = tidy.header("content-disposition").unwrap();
    assert!(disposition.ends_with(".tidy.jsonl\""), "{disposition}");
    let tidy: Vec<Value> = tidy
        .text()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(tidy.len(), 3 * 6 * 4);
    for metric in [1, 4] {
        for row in metrics[metric]["rows"].as_array().unwrap() {
            let own = tidy.iter().filter(|line| {
                line["measure"] == metrics[metric]["title"] && line["row"] == row["title"]
            });
            let values: Vec<f64> = own.map(|line| line["value"].as_f64().unwrap()).collect();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            assert!((mean - row["value"].as_f64().unwrap()).abs() < 1e-9);
        }
    }
    let table = fixture.report(&id, "tidy.csv").await.text();
    assert_eq!(table.lines().count(), 1 + tidy.len());
}

/// The request with another value of a field.
fn asked_with(changes: Value) -> Value {
    let mut asked = request();
    let fields = asked.as_object_mut().unwrap();
    fields.extend(changes.as_object().unwrap().clone());
    asked
}

#[tokio::test]
async fn all_methods_are_those_that_the_model_supports() {
    let fixture = fixture_with(&[]);
    let settled = async |model: &str| {
        let asked =
            asked_with(json!({ "model": model, "methods": "all", "metrics": ["sparseness"] }));
        let id = fixture.submit(&asked).await;
        let job = send_to(&fixture.router, get(&format!("/jobs/{id}")))
            .await
            .answer();
        let methods = job["parameters"]["methods"].as_array().unwrap().clone();
        let ids = methods
            .iter()
            .map(|method| method["id"].as_str().unwrap().to_owned());
        ids.collect::<Vec<String>>()
    };
    let (patterned, plain) = (settled("tiny").await, settled("plain").await);
    for id in ["gradient", "integrated_gradients", "edges", "random"] {
        assert!(patterned.iter().any(|found| found == id), "{id}");
        assert!(plain.iter().any(|found| found == id), "{id}");
    }
    // Sensitivity with and without sign.
    assert_eq!(plain.iter().filter(|id| *id == "gradient").count(), 2);
    for id in ["pgig", "pattern_net", "pattern_attribution"] {
        assert!(patterned.iter().any(|found| found == id), "{id}");
        assert!(plain.iter().all(|found| found != id), "{id}");
    }
}

#[tokio::test]
async fn a_budget_lowers_the_number_of_images() {
    let fixture = fixture_with(&[]);
    let refused = asked_with(json!({ "budget": 1 }));
    let refused = send_to(&fixture.router, post_json("/jobs", &refused)).await;
    assert_eq!(refused.refused(), ["budget"]);
    let allowed = refused.allowed("budget");
    let cost: u64 = allowed[0].split(' ').next().unwrap().parse().unwrap();
    let settled = async |changes: Value| {
        let id = fixture.submit(&asked_with(changes)).await;
        let job = send_to(&fixture.router, get(&format!("/jobs/{id}")))
            .await
            .answer();
        (job["total"].clone(), job["parameters"].clone())
    };
    let (total, request) = settled(json!({ "budget": 3 * cost - 1 })).await;
    assert_eq!((total, &request["limit"]), (json!(2), &json!(2)));
    assert_eq!(request["budget"], 3 * cost - 1);
    let (total, request) = settled(json!({ "budget": 3 * cost - 1, "limit": 1 })).await;
    assert_eq!((total, &request["limit"]), (json!(1), &json!(1)));
    let (total, request) = settled(json!({ "budget": 6 * cost })).await;
    assert_eq!((total, &request["limit"]), (json!(6), &Value::Null));
    // Posted again it is the same.
    let (_, first) = settled(json!({ "budget": 4 * cost })).await;
    let (_, again) = settled(first.clone()).await;
    assert_eq!(again, first);
    let wrong = asked_with(json!({ "budget": 0 }));
    let wrong = send_to(&fixture.router, post_json("/jobs", &wrong)).await;
    assert_eq!(wrong.refused(), ["budget"]);
}

#[tokio::test]
async fn metrics_of_perturbed_images_read_the_scores_that_they_share() {
    let fixture = fixture_with(&[]);
    fixture.work();
    let mut asked = request();
    asked["metrics"] = json!([
        "road_morf", "road", "road_lerf", "average_drop", "average_increase", "average_gain",
        "perturbation_epsilon", { "id": "perturbation_epsilon", "features": "regions" },
    ]);
    let id = fixture.submit(&asked).await;
    let job = fixture.ended(&id).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    let report = fixture.report(&id, "json").await.answer();
    let metrics = report["result"]["metrics"].as_array().unwrap();
    let value = |metric: usize, row: usize| metrics[metric]["rows"][row]["value"].as_f64().unwrap();
    for row in 0..4 {
        // Noise and inputs are those of the same measurement.
        let half = (value(2, row) - value(0, row)) / 2.0;
        assert!((value(1, row) - half).abs() < 1e-12);
        assert!((3..8).all(|metric| (0.0..=1.0).contains(&value(metric, row))));
    }
    let curve = metrics[1]["rows"][0]["mean_curve"].as_array().unwrap();
    assert_eq!(curve.len(), 10);
    // `tiny` has 8 x 8 pixels.
    assert_eq!(metrics[6]["parameters"]["count"], 64);
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
        METRICS.iter().map(|metric| metric.id).collect::<Vec<_>>()
    );
    for metrics in [json!([]), json!("sparseness"), Value::Null] {
        assert_eq!(
            refused(json!({ "metrics": metrics })).await.refused(),
            ["metrics"]
        );
    }
    let metrics = json!(["sparseness", { "id": "deletion", "steps": 8 }, { "id": "sparseness" }]);
    let again = refused(json!({ "metrics": metrics })).await;
    assert_eq!(again.refused(), ["metrics[2]"]);
    let methods = json!(["edges", "gradient", { "id": "gradient", "score": "absolute" }, "edges"]);
    let again = refused(json!({ "methods": methods })).await;
    assert_eq!(again.refused(), ["methods[2]", "methods[3]"]);
    // Patterns are those of the weights that they were fitted with.
    let patterned = refused(json!({ "methods": ["pgig", "pattern_net"] })).await;
    assert_eq!(patterned.refused(), ["methods"]);
    assert!(
        patterned
            .text()
            .contains("model_randomisation says nothing about pattern_net, pgig"),
        "{}",
        patterned.text()
    );
    let twice = refused(json!({ "grid": 4 })).await;
    assert_eq!(twice.refused(), ["grid"]);
}

#[tokio::test]
async fn metrics_of_localisation_are_measured_where_a_mask_or_box_is() {
    let fixture = fixture_with(&[]);
    fixture.work();
    let localisation = [
        "pointing_game",
        "energy_pointing",
        "relevance_mass",
        "relevance_rank",
        "top_k_intersection",
    ];
    let mut asked = request();
    asked["metrics"] = json!(["sparseness", { "id": "pointing_game", "tolerance": 0 }]);
    asked["metrics"]
        .as_array_mut()
        .unwrap()
        .extend(localisation[1..].iter().map(|id| json!(id)));
    let refused = send_to(&fixture.router, post_json("/jobs", &asked)).await;
    assert_eq!(refused.refused(), ["dataset"]);
    for part in ["pointing_game", "masks/", "x0, y0, x1, y1"] {
        assert!(refused.text().contains(part), "{}", refused.text());
    }

    // Right half, nothing, and all of the input; a mask without an object.
    let table = "file,label,x0,y0,x1,y1\nred/a.png,red,6,0,12,8\nred/c.png,red,,,,\nblue/d.png,blue,0,0,12,8\ngreen/e.png,red,,,,\n\
                 mauve/f.png,mauve,0,0,5,5\n";
    fs::write(fixture.photos.path().join("labels.csv"), table).unwrap();
    fs::create_dir_all(fixture.photos.path().join("masks/green")).unwrap();
    let mask = fixture.photos.path().join("masks/green/e.png");
    fs::write(mask, picture(12, 8, [0; 3])).unwrap();
    let id = fixture.submit(&asked).await;
    let job = fixture.ended(&id).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    let report = fixture.report(&id, "json").await.answer();
    let result = &report["result"];
    assert_eq!(result["used"], 2);
    assert_eq!(
        result["skipped"],
        json!({ "corrupt_image": 1, "unknown_label": 1, "no_region": 1, "empty_region": 1 })
    );
    let metrics = result["metrics"].as_array().unwrap();
    assert_eq!(metrics[1]["parameters"], json!({ "tolerance": 0 }));
    // `tiny` has 8 x 8 pixels.
    assert_eq!(metrics[5]["parameters"], json!({ "k": 64 }));
    for metric in &metrics[1..] {
        assert_eq!(metric["better"], "higher");
        let gradient = &metric["rows"][1];
        // The halves of the gradient are alike: the share of the object is half, and all.
        assert_eq!(
            (&gradient["title"], &gradient["value"]),
            (&json!("gradient"), &json!(0.75)),
            "{metric}"
        );
    }
    let page = fixture.report(&id, "html").await.text();
    for part in ["Pointing game", "without a mask or a box", "Score-CAM"] {
        assert!(page.contains(part), "{part}");
    }
}

#[tokio::test]
async fn maps_are_compared_with_those_of_other_classes_and_seeds() {
    let fixture = fixture_with(&[]);
    fixture.work();
    let mut asked = request();
    asked["methods"] = json!([
        { "id": "integrated_gradients", "n_steps": 5, "head": "probabilities" }, "edges", "random",
    ]);
    asked["metrics"] = json!(["entropy", { "id": "random_logit", "classes": 2 }, "repeatability"]);
    let measured = async |asked: &Value| {
        let id = fixture.submit(asked).await;
        let job = fixture.ended(&id).await;
        assert_eq!(job["state"], "succeeded", "{job}");
        fixture.report(&id, "json").await.answer()["result"].clone()
    };
    let result = measured(&asked).await;
    assert_eq!(result["used"], 3);
    let value = |metric: usize, row: usize| {
        let rows = &result["metrics"][metric]["rows"];
        rows[row]["value"].as_f64().unwrap()
    };
    let most = 64_f64.ln();
    assert!((0..3).all(|row| value(0, row) > 0.0 && value(0, row) < most));
    // They do not look at the class.
    assert_eq!((value(1, 1), value(1, 2)), (1.0, 1.0));
    assert!(value(1, 0) < 0.999, "{}", value(1, 0));
    // Only one draws.
    assert_eq!((value(2, 0), value(2, 1)), (1.0, 1.0));
    assert!(value(2, 2).abs() < 0.6, "{}", value(2, 2));
    // By the seed.
    assert_eq!(measured(&asked).await["metrics"], result["metrics"]);
    let too_many = json!({ "id": "random_logit", "classes": 3 });
    asked["metrics"] = json!([too_many, "completeness"]);
    asked["methods"] = json!(["edges", "random"]);
    let refused = send_to(&fixture.router, post_json("/jobs", &asked)).await;
    assert_eq!(refused.refused(), ["methods", "metrics[0].classes"]);
    assert!(
        refused
            .text()
            .contains("completeness says nothing about edges, random"),
        "{}",
        refused.text()
    );

    let ends = |n_steps: usize| json!({ "id": "integrated_gradients", "n_steps": n_steps, "head": "probabilities" });
    asked["methods"] = json!([ends(2), ends(200)]);
    asked["metrics"] = json!(["completeness"]);
    let result = measured(&asked).await;
    let gaps = &result["metrics"][0]["rows"];
    let gap = |row: usize| gaps[row]["value"].as_f64().unwrap();
    assert!(gap(1) < 0.1 * gap(0), "{gaps}");
}

#[tokio::test]
async fn maps_are_held_against_changes_of_the_input() {
    let fixture = fixture_with(&[]);
    fixture.work();
    let mut asked = request();
    asked["methods"] = json!(["gradient", { "id": "input_x_gradient", "head": "probabilities" }, "grad_cam", "random"]);
    asked["metrics"] = json!([
        "infidelity", { "id": "infidelity", "scaling": "optimal" }, { "id": "sensitivity_n", "sizes": 4, "subsets": 20 },
        "max_sensitivity", { "id": "max_sensitivity", "radius": 0.2 },
        { "id": "model_randomisation", "mode": "independent", "similarity": "ssim" },
    ]);
    let measured = async |asked: &Value| {
        let id = fixture.submit(asked).await;
        let job = fixture.ended(&id).await;
        assert_eq!(job["state"], "succeeded", "{job}");
        fixture.report(&id, "json").await.answer()["result"].clone()
    };
    let result = measured(&asked).await;
    assert_eq!(result["used"], 3);
    let rows = |metric: usize| result["metrics"][metric]["rows"].as_array().unwrap();
    let values = |metric: usize| -> Vec<f64> {
        let values = rows(metric)
            .iter()
            .map(|row| row["value"].as_f64().unwrap());
        values.collect()
    };
    let defaults = json!({ "noise": 0.03, "samples": 10, "scaling": "none" });
    assert_eq!(result["metrics"][0]["parameters"], defaults);
    let (plain, scaled) = (values(0), values(1));
    assert_eq!(plain.len(), 5);
    assert!(
        plain
            .iter()
            .zip(&scaled)
            .all(|(plain, scaled)| *scaled <= plain * 1.001 && *scaled >= 0.0)
    );
    for row in rows(2) {
        let curve = row["mean_curve"].as_array().unwrap();
        assert_eq!(curve.len(), 4);
        assert!(
            curve
                .iter()
                .all(|found| found.as_f64().unwrap().abs() <= 1.0)
        );
    }
    let (near, far) = (values(3), values(4));
    assert!(
        near.iter()
            .zip(&far)
            .all(|(near, far)| near <= far && *near >= 0.0)
    );
    // It does not look at the input, nor at the model.
    assert_eq!((near[4], far[4], values(5)[4]), (0.0, 0.0, 1.0));
    assert!(values(5)[0] < 0.999);
    assert_eq!(measured(&asked).await["metrics"], result["metrics"]);

    asked["metrics"] = json!([
        { "id": "infidelity", "noise": 0, "scaling": "all" }, { "id": "max_sensitivity", "radius": 2 },
        { "id": "sensitivity_n", "sizes": 60, "subsets": 2 }, { "id": "model_randomisation", "mode": "both" },
    ]);
    let refused = send_to(&fixture.router, post_json("/jobs", &asked)).await;
    assert_eq!(
        refused.refused(),
        [
            "metrics[0].noise",
            "metrics[0].scaling",
            "metrics[1].radius",
            "metrics[2].sizes",
            "metrics[2].subsets",
            "metrics[3].mode"
        ]
    );
}

/// `tiny`, and the same with another name of the layer before the pooling.
fn two_models() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut renamed = read_bytes(colour_model().into(), None).unwrap();
    for node in &mut renamed.nodes {
        for value in node.inputs.iter_mut().chain(&mut node.outputs) {
            if value.as_str() == "relu" {
                *value = "features".into();
            }
        }
    }
    let renamed = write_model(&renamed).unwrap();
    for (id, net) in [("tiny", colour_model()), ("renamed", renamed)] {
        let own = folder.path().join(id);
        fs::create_dir(&own).unwrap();
        fs::write(own.join("model.onnx"), net).unwrap();
        fs::write(own.join("labels.txt"), "red\ngreen\nblue\n").unwrap();
        let pixels = "head = \"logits\"\n[input]\nmean = 0.0\nstd = 1.0\nresize = \"stretch\"\n";
        fs::write(own.join("model.toml"), pixels).unwrap();
    }
    folder
}

#[tokio::test]
async fn what_is_missing_for_pairs_and_models_is_told() {
    let fixture = fixture_with(&[]);
    let refused = async |fixture: &Fixture, changes: Value| {
        send_to(&fixture.router, post_json("/jobs", &asked_with(changes))).await
    };
    let mcs = |models: Value| json!({ "id": "mcs", "models": models });
    let wrong = refused(&fixture, json!({ "metrics": [
        "mcs", mcs(json!(["nobody"])), mcs(json!(["numbers", "squeezenet1_1"])), mcs(json!(["tiny", "tiny"])),
        { "id": "mcs_correlation", "models": ["tiny", "plain"] }, { "id": "idr", "region": "edge" },
    ] }))
    .await;
    assert_eq!(
        wrong.refused(),
        [
            "dataset",
            "metrics[0].models",
            "metrics[1].models",
            "metrics[2].models",
            "metrics[2].models",
            "metrics[3].models",
            "metrics[4].models",
            "metrics[5].region"
        ]
    );
    let known = wrong.allowed("metrics[1].models");
    assert!(
        known.contains(&"tiny".to_owned()) && known.contains(&"plain".to_owned()),
        "{known:?}"
    );
    assert!(
        wrong.text().contains("takes other inputs than tiny"),
        "{}",
        wrong.text()
    );

    let table = "file,label,group,role,x0,y0,x1,y1\nred/a.png,red,1,with,6,0,12,8\nred/c.png,red,1,grey,0,0,3,3\n\
                 blue/d.png,blue,2,without,0,0,12,8\n";
    fs::write(fixture.photos.path().join("labels.csv"), table).unwrap();
    let unpaired = refused(
        &fixture,
        json!({ "metrics": ["idr", mcs(json!(["plain"]))] }),
    )
    .await;
    assert_eq!(unpaired.refused(), ["dataset"]);
    for part in ["has no pairs, which idr needs", "`group`", "`without`"] {
        assert!(unpaired.text().contains(part), "{}", unpaired.text());
    }
    let role = refused(
        &fixture,
        json!({ "metrics": ["sparseness"], "role": "gray" }),
    )
    .await;
    assert_eq!(role.refused(), ["role"]);
    assert_eq!(role.allowed("role"), ["grey", "with", "without"]);
    let changed = json!({ "metrics": [mcs(json!(["plain"]))], "model_hashes": { "plain": "0", "tiny": "1" } });
    let changed = refused(&fixture, changed).await;
    assert_eq!(changed.refused(), ["model_hashes", "model_hashes"]);
    let unasked = refused(&fixture, json!({ "model_hashes": {} })).await;
    assert_eq!(unasked.refused(), ["model_hashes"]);
    let patterned = json!({ "metrics": [mcs(json!(["plain"]))], "methods": ["pgig"] });
    let patterned = refused(&fixture, patterned).await;
    assert_eq!(patterned.refused(), ["methods"]);
    assert!(
        patterned.text().contains("mcs says nothing about pgig"),
        "{}",
        patterned.text()
    );

    let models = two_models();
    let fixture = fixture_with(&[("models", models.path().to_str().unwrap())]);
    fs::write(fixture.photos.path().join("labels.csv"), table).unwrap();
    let metrics = json!([mcs(json!(["renamed"]))]);
    let layered = json!({ "metrics": metrics, "methods": ["gradient", { "id": "grad_cam", "layer": "relu" }] });
    let layered = refused(&fixture, layered).await;
    assert_eq!(layered.refused(), ["methods"]);
    for part in ["mcs asks renamed", "grad_cam cannot explain it"] {
        assert!(layered.text().contains(part), "{}", layered.text());
    }
}

#[tokio::test]
async fn images_of_a_role_are_used_with_their_counterparts() {
    let fixture = fixture_with(&[]);
    fixture.work();
    // The second pair is incomplete, the third has a counterpart of another class.
    let table = "file,label,group,role,x0,y0,x1,y1\nred/a.png,red|dog,1,with,6,0,12,8\nred/c.png,red|dog,1,without,0,0,9,9\n\
                 green/e.png,red|dog,2,with,0,0,3,3\nblue/d.png,blue|dog,3,without,0,0,12,8\nmauve/f.png,red|dog,3,with,0,0,5,5\n";
    fs::write(fixture.photos.path().join("labels.csv"), table).unwrap();
    let asked = asked_with(json!({ "metrics": [
        { "id": "mcs", "models": ["tiny"] }, { "id": "mcs", "models": ["plain"] }, "idr",
    ] }));
    let id = fixture.submit(&asked).await;
    let job = fixture.ended(&id).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    assert_eq!(
        (&job["total"], &job["parameters"]["role"]),
        (&json!(3), &json!("with"))
    );
    let result = &job["result"];
    assert_eq!(
        (&result["used"], &result["skipped"]),
        (&json!(2), &json!({ "no_pair": 1 }))
    );
    let metrics = result["metrics"].as_array().unwrap();
    assert_eq!(
        metrics[0]["title"],
        "Model contrast score (models [\"tiny\"])"
    );
    // The model itself, and one that knows no such labels.
    assert!(
        metrics[0]["rows"]
            .as_array()
            .unwrap()
            .iter()
            .all(|row| row["value"] == 0.0)
    );
    assert_eq!(metrics[1]["rows"], json!([]));
    assert_eq!(
        metrics[1]["skipped"],
        json!({ "that none of the models predicts rightly": 2 })
    );
    let other = json!({ "that the model takes for another class without the object": 1 });
    assert_eq!(metrics[2]["skipped"], other);
    for format in ["html", "csv", "svg", "png", "tidy.csv"] {
        assert_eq!(
            fixture.report(&id, format).await.status.as_u16(),
            200,
            "{format}"
        );
    }
    let page = fixture.report(&id, "html").await.text();
    for part in [
        "Input dependence rate",
        "with no image of the role `without` in their group",
    ] {
        assert!(page.contains(part), "{part}");
    }

    // Other models are asked about objects, too: not about what is without.
    let alone = asked_with(json!({ "metrics": [{ "id": "mcs", "models": ["tiny"] }] }));
    let alone = fixture.submit(&alone).await;
    assert_eq!(fixture.ended(&alone).await["total"], 3);

    // Posted again it measures the same.
    let again = fixture.report(&id, "json").await.answer()["request"].clone();
    let second = fixture.submit(&again).await;
    assert_eq!(
        fixture.ended(&second).await["result"]["metrics"],
        result["metrics"]
    );

    // Of one label that the model knows, what it does not take the image for is misclassified.
    let wrong = "file,label\nred/a.png,blue|dog\nred/c.png,dog\n";
    fs::write(fixture.photos.path().join("labels.csv"), wrong).unwrap();
    let id = fixture
        .submit(&asked_with(json!({ "metrics": ["sparseness"] })))
        .await;
    let job = fixture.ended(&id).await;
    let skipped = json!({ "corrupt_image": 1, "misclassified": 1, "unknown_label": 1 });
    assert_eq!(job["result"]["skipped"], skipped);
}

#[tokio::test]
async fn an_object_is_optimised_until_the_model_answers_as_without_it() {
    let fixture = fixture_with(&[]);
    fixture.work();
    let table = "file,label,group,role,x0,y0,x1,y1\nred/a.png,red,1,with,6,0,12,8\nred/c.png,red,1,without,0,0,9,9\n";
    fs::write(fixture.photos.path().join("labels.csv"), table).unwrap();
    let iir = |steps: usize, value: &str| json!({ "id": "iir", "steps": steps, "step_size": 20000, "norm_weight": 0, "range_weight": 0, "value": value });
    let mut asked = request();
    asked["metrics"] = json!([
        iir(1, "output_change"),
        iir(40, "output_change"),
        iir(40, "region_change"),
        iir(40, "rate"),
        { "id": "iir", "steps": 2, "region": "random" },
    ]);
    let id = fixture.submit(&asked).await;
    let job = fixture.ended(&id).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    assert_eq!(job["result"]["used"], 1);
    let metrics = job["result"]["metrics"].as_array().unwrap();
    let value = |metric: usize, row: usize| metrics[metric]["rows"][row]["value"].as_f64().unwrap();
    // Whatever the method.
    assert!(value(1, 0) < value(0, 0), "{metrics:#?}");
    assert!((1..4).all(|row| value(1, row) == value(1, 0)));
    // The gradient of a linear net stays as it is, and so does noise of the same seed.
    assert_eq!(metrics[2]["better"], "lower");
    assert_eq!((value(2, 1), value(3, 1)), (0.0, 1.0));
    assert_eq!((value(2, 3), value(3, 3)), (0.0, 1.0));
    assert!((0..4).all(|row| (0.0..=1.0).contains(&value(4, row))));

    let report = fixture.report(&id, "json").await.answer();
    let mut again = report["request"].clone();
    again["kind"] = json!("evaluate");
    let second = fixture.submit(&again).await;
    let second = fixture.ended(&second).await;
    assert_eq!(second["result"]["metrics"], job["result"]["metrics"]);
    let page = fixture.report(&id, "html").await.text();
    for part in ["Input independence rate", "optimised in 40 steps"] {
        assert!(page.contains(part), "{part}");
    }
}
