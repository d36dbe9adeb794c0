//! What the service says of itself: methods, metrics, models, health, documentation.

use std::collections::{BTreeMap, BTreeSet};

use explaind::{evaluation::registry::METRICS, methods::registry::METHODS};
use serde_json::{Value, json};

use crate::{
    client::{get, post, post_json, send},
    fixture::red,
};

#[tokio::test]
async fn the_methods_are_those_of_the_registry() {
    let list = send(get("/methods")).await.answer();
    let ids: Vec<&str> = list["methods"]
        .as_array()
        .unwrap()
        .iter()
        .map(|card| card["id"].as_str().unwrap())
        .collect();
    assert_eq!(
        ids,
        METHODS.iter().map(|method| method.id).collect::<Vec<_>>()
    );
    for card in list["methods"].as_array().unwrap() {
        assert_eq!(
            &send(get(&format!("/methods/{}", card["id"].as_str().unwrap())))
                .await
                .answer(),
            card
        );
        assert!(
            card["parameters"]
                .as_array()
                .unwrap()
                .iter()
                .any(|parameter| parameter["name"] == "target")
        );
    }
}

/// The card of a metric, as the list for a model has it.
fn card(list: &Value, id: &str) -> Value {
    let mut cards = list["metrics"].as_array().unwrap().iter();
    cards.find(|card| card["id"] == id).unwrap().clone()
}

#[tokio::test]
async fn the_metrics_are_those_of_the_registry_with_what_the_model_allows() {
    let list = send(get("/metrics-catalogue")).await.answer();
    assert_eq!(list["model"], "tiny");
    let cards = list["metrics"].as_array().unwrap();
    let ids: Vec<&str> = cards
        .iter()
        .map(|card| card["id"].as_str().unwrap())
        .collect();
    let rows: Vec<&str> = METRICS.iter().map(|metric| metric.id).collect();
    assert_eq!(ids, rows);
    for card in cards {
        let path = format!("/metrics-catalogue/{}", card["id"].as_str().unwrap());
        assert_eq!(&send(get(&path)).await.answer(), card);
        assert_eq!((&card["applies"], card.get("reason")), (&json!(true), None));
        for text in ["title", "paper", "about", "value", "value_doc", "cost"] {
            assert!(!card[text].as_str().unwrap().is_empty(), "{path} {text}");
        }
    }
    // Two layers have weights, and pictures have 8 x 8 pixels.
    let parameter = |list: &Value, metric: &str, name: &str| {
        let card = card(list, metric);
        let mut parameters = card["parameters"].as_array().unwrap().iter();
        let found = parameters.find(|parameter| parameter["name"] == name);
        let found = found.unwrap_or_else(|| panic!("{card}"));
        json!([found["type"], found["allowed"], found["default"]])
    };
    for (metric, name, expected) in [
        (
            "model_randomisation",
            "stages",
            json!(["integer", ["1 to 2"], 2]),
        ),
        ("degradation", "grid", json!(["integer", ["1 to 8"], 8])),
        (
            "degradation",
            "compat",
            json!(["string", ["pgig-2020"], null]),
        ),
    ] {
        assert_eq!(parameter(&list, metric, name), expected);
    }
    let larger = send(get("/metrics-catalogue?model=squeezenet1_1"))
        .await
        .answer();
    let grid = json!(["integer", ["1 to 224"], 25]);
    assert_eq!(parameter(&larger, "degradation", "grid"), grid);
    assert_eq!(larger["model"], "squeezenet1_1");
}

#[tokio::test]
async fn a_metric_says_what_it_needs_and_leaves_out() {
    let list = send(get("/metrics-catalogue")).await.answer();
    let pointing = card(&list, "pointing_game");
    let facts = ["needs_region", "in_answers", "category", "direction"];
    assert_eq!(
        facts.map(|fact| pointing[fact].clone()),
        [
            json!(true),
            json!(false),
            json!("localisation"),
            json!("higher")
        ]
    );
    let completeness = card(&list, "completeness");
    let excluded = completeness["excluded_methods"].as_array().unwrap();
    assert!(excluded.contains(&json!("gradient")) && excluded.contains(&json!("pgig")));
    assert!(!excluded.contains(&json!("integrated_gradients")));
    let exclusion = completeness["exclusion"].as_str().unwrap();
    assert!(exclusion.contains("f(x) - f(x')"), "{exclusion}");
    let degradation = card(&list, "degradation");
    assert_eq!(degradation["curve"]["x"], "number of patches replaced");
    assert_eq!(card(&list, "sparseness").get("curve"), None);
    // Ready tensors have no pixels that a metric could look at.
    let list = send(get("/metrics-catalogue?model=numbers")).await.answer();
    let reason = card(&list, "degradation")["reason"].clone();
    assert_eq!(
        reason,
        "the model takes ready tensors: metrics are measured on pictures"
    );
    assert_eq!(card(&list, "degradation").get("about"), None);
}

#[tokio::test]
async fn a_metric_of_an_unknown_name_or_model_is_refused() {
    let unknown = send(get("/metrics-catalogue/sparsity")).await;
    assert_eq!(unknown.problem(), (404, "unknown_metric".into()));
    let close = send(get("/metrics-catalogue/Sparse-ness")).await.text();
    assert!(close.contains("; did you mean sparseness?"), "{close}");
    let close = send(get("/methods/gradeint")).await.text();
    assert!(close.contains("; did you mean gradient?"), "{close}");
    for path in ["/metrics-catalogue", "/metrics-catalogue/sparseness"] {
        let refused = send(get(&format!("{path}?model=resnet"))).await;
        assert_eq!(refused.refused(), ["model"]);
        assert!(refused.allowed("model").contains(&"tiny".to_owned()));
        let refused = send(get(&format!("{path}?modl=tiny"))).await;
        assert_eq!(refused.refused(), ["modl"]);
    }
}

#[tokio::test]
async fn the_models_are_listed_with_those_that_are_broken() {
    let list = send(get("/models")).await.answer();
    let ids: Vec<&str> = list["models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| model["id"].as_str().unwrap())
        .collect();
    assert_eq!(
        ids,
        [
            "coin",
            "deadline",
            "drain",
            "gone",
            "late",
            "numbers",
            "plain",
            "shares",
            "squeezenet1_1",
            "tiny",
            "vit"
        ]
    );
    let default: Vec<&Value> = list["models"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|model| model["default"] == true)
        .collect();
    assert_eq!((default.len(), &default[0]["id"]), (1, &json!("tiny")));
    let broken: Vec<_> = list["broken_models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| model["id"].clone())
        .collect();
    assert_eq!(broken, ["broken", "empty"]);
    assert!(
        list["broken_models"]
            .as_array()
            .unwrap()
            .iter()
            .all(|model| !model["faults"].as_array().unwrap().is_empty())
    );
}

#[tokio::test]
async fn a_model_says_which_methods_apply_and_why_others_do_not() {
    let applies = |card: &Value, id: &str| {
        let methods = card["methods"].as_array().unwrap();
        let found = methods.iter().find(|method| method["id"] == id).unwrap();
        (
            found["applies"].as_bool().unwrap(),
            found["reason"].as_str().unwrap_or_default().to_owned(),
        )
    };
    let tiny = send(get("/models/tiny")).await.answer();
    assert_eq!(applies(&tiny, "pgig"), (true, String::new()));
    assert_eq!(
        (&tiny["labels"], &tiny["shape"], &tiny["classes"]),
        (
            &json!(["red", "green", "blue"]),
            &json!([3, 8, 8]),
            &json!(3)
        )
    );
    assert_eq!(
        (
            &tiny["takes_images"],
            &tiny["has_patterns"],
            &tiny["manifest"]["head"]
        ),
        (&json!(true), &json!(true), &json!("logits"))
    );
    assert!(tiny["patterns"].is_string());
    // float32 is told as it was written.
    let bundled = send(get("/models/squeezenet1_1")).await.text();
    assert!(
        bundled.contains("[0.485,0.456,0.406]") && !bundled.contains("0.48500"),
        "{bundled}"
    );
    let plain = send(get("/models/plain")).await.answer();
    let (does, reason) = applies(&plain, "pgig");
    assert!(
        !does && reason.contains("explaind fit-patterns --model plain"),
        "{reason}"
    );
    assert_eq!(
        applies(&plain, "integrated_gradients"),
        (true, String::new())
    );
    let layers: Vec<_> = plain["linear_layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|layer| layer["node"].clone())
        .collect();
    assert_eq!(layers, ["conv", "scores"]);
    let layers = [
        json!({ "name": "conv", "shape": [3, 8, 8], "height": 8, "width": 8, "other_tokens": 0 }),
        json!({ "name": "relu", "shape": [3, 8, 8], "height": 8, "width": 8, "other_tokens": 0 }),
    ];
    assert_eq!(
        (&plain["layers"], &plain["manifest"]["layer"]),
        (&json!(layers), &json!("relu"))
    );
    let activations = plain["activations"].as_array().unwrap();
    assert!(
        activations.contains(&json!({ "name": "relu", "shape": [3, 8, 8] })),
        "{activations:?}"
    );
    let numbers = send(get("/models/numbers")).await.answer();
    assert!(applies(&numbers, "pgig").1.contains("--tensors"));
    assert!(applies(&numbers, "grad_cam").1.contains("no layer"));
    assert!(
        applies(&plain, "attention_rollout")
            .1
            .contains("no attention")
    );
    assert_eq!(
        (&numbers["takes_images"], &numbers["shape"]),
        (&json!(false), &json!([2]))
    );
}

#[tokio::test]
async fn a_network_without_a_gradient_says_which_node_is_to_blame() {
    let card = send(get("/models/coin")).await.answer();
    // There is no picture, no layer and no attention to look at.
    let others = [
        "edges",
        "eigen_cam",
        "score_cam",
        "attention_rollout",
        "gradient_rollout",
        "legrad",
    ];
    for method in card["methods"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|method| !others.contains(&method["id"].as_str().unwrap()))
    {
        let reason = method["reason"].as_str().unwrap_or_default();
        let is_forward = [
            "rise",
            "occlusion",
            "feature_ablation",
            "lime",
            "kernel_shap",
            "shapley_sampling",
            "random",
        ]
        .contains(&method["id"].as_str().unwrap());
        assert_eq!(
            (method["applies"] == false, reason.contains("Bernoulli")),
            (!is_forward, !is_forward)
        );
    }
    let tensor = json!({ "tensor": { "shape": [2], "data": [1, 2] } });
    let refused = send(post_json("/explain?model=coin&method=gradient", &tensor)).await;
    assert_eq!(refused.problem(), (422, "underivable".into()));
    assert!(refused.text().contains("Bernoulli"), "{}", refused.text());
    assert_eq!(
        send(post_json("/predict?model=coin", &tensor)).await.status,
        200
    );
}

#[tokio::test]
async fn a_network_that_a_rule_set_is_not_defined_for_says_where_and_what_applies() {
    let card = send(get("/models/shares")).await.answer();
    let undefined = [
        "guided_backprop",
        "deconvnet",
        "pattern_attribution",
        "pattern_net",
        "pgig",
        "lrp",
    ];
    for method in card["methods"].as_array().unwrap() {
        let (id, reason) = (
            method["id"].as_str().unwrap(),
            method["reason"].as_str().unwrap_or_default(),
        );
        let names = reason.contains("shares (Softmax") && method["applies"] == false;
        // Guided Grad-CAM has no layer to look at either.
        let expected = undefined.contains(&id) || id == "guided_grad_cam";
        assert_eq!(names, expected, "{id}: {reason}");
    }
    let tensor = json!({ "tensor": { "shape": [2], "data": [1, 2] } });
    for method in ["guided_backprop", "lrp"] {
        let uri = format!("/explain?model=shares&method={method}");
        let refused = send(post_json(&uri, &tensor)).await;
        assert_eq!(refused.problem(), (422, "underivable".into()));
        let text = refused.text();
        assert!(
            text.contains("shares (Softmax") && text.contains("gradient, input_x_gradient"),
            "{text}"
        );
    }
    let plain = send(post_json("/explain?model=shares&method=gradient", &tensor)).await;
    assert_eq!(plain.status, 200);
}

#[tokio::test]
async fn health_and_readiness_are_told() {
    assert_eq!(send(get("/healthz")).await.answer()["status"], "ok");
    let ready = send(get("/readyz")).await.answer();
    assert_eq!(
        (&ready["status"], &ready["providers"]),
        (&json!("ready"), &json!(["cpu"]))
    );
    assert_eq!(ready["models"].as_array().unwrap().len(), 11);
    assert_eq!(ready["broken_models"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn metrics_count_what_was_done() {
    send(post("/explain?method=gradient&model=plain", red()))
        .await
        .picture();
    let text = send(get("/metrics")).await.text();
    for name in [
        "explaind_http_request_duration_seconds_bucket{method=\"POST\",route=\"/explain\",status=\"200\"",
        "explaind_explanations_total{model=\"plain\",method=\"gradient\"}",
        "explaind_rows_total{model=\"plain\"}",
        "explaind_stage_duration_seconds_count{stage=\"decode\"}",
        "explaind_http_requests_in_flight",
    ] {
        assert!(text.contains(name), "{name} is not in\n{text}");
    }
}

#[tokio::test]
async fn every_metric_has_help_and_type() {
    let text = send(get("/metrics")).await.text();
    let (mut helped, mut typed) = (BTreeSet::new(), BTreeMap::new());
    let mut sampled = BTreeSet::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(help.len() > 10, "{line}");
            helped.insert(name);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            typed.insert(name, kind);
        } else {
            sampled.insert(line.split(['{', ' ']).next().unwrap());
        }
    }
    assert!(sampled.len() > 30, "{sampled:?}");
    for sample in sampled {
        let of_histogram = ["_bucket", "_sum", "_count"]
            .into_iter()
            .find_map(|end| sample.strip_suffix(end));
        let name = match of_histogram.filter(|name| typed.get(name) == Some(&"histogram")) {
            Some(name) => name,
            None => sample,
        };
        assert!(helped.contains(name), "{sample} has no # HELP");
        let kind = typed
            .get(name)
            .unwrap_or_else(|| panic!("{sample} has no # TYPE"));
        assert_eq!(
            name.ends_with("_total"),
            *kind == "counter",
            "{sample} is a {kind}"
        );
    }
}

#[tokio::test]
async fn metrics_are_there_before_anything_happens() {
    let text = send(get("/metrics")).await.text();
    for name in [
        "explaind_build_info{version=\"",
        "explaind_jobs{state=\"queued\"} ",
        "explaind_jobs{state=\"failed\"} ",
        "explaind_jobs_database_up 1",
        "explaind_shards_total{kind=\"fit_patterns\",outcome=\"failed\"} 0",
        "explaind_shard_duration_seconds_count{kind=\"explain_dataset\"} 0",
        "explaind_explanations_total{model=\"plain\",method=\"deconvnet\"} ",
        "explaind_sessions_evicted_total{provider=\"cpu\"} ",
        "explaind_session_memory_bytes{provider=\"cpu\"} ",
        "process_resident_memory_bytes ",
        "process_cpu_seconds_total ",
        "process_open_fds ",
    ] {
        assert!(text.contains(name), "{name} is not in\n{text}");
    }
}

#[tokio::test]
async fn the_documentation_needs_no_network() {
    assert_eq!(send(get("/docs")).await.header("location"), Some("/docs/"));
    let page = send(get("/docs/")).await;
    assert_eq!(
        (page.status.as_u16(), page.header("content-type")),
        (200, Some("text/html; charset=utf-8"))
    );
    let page = page.text();
    assert!(
        page.contains("<title>explaind</title>") && !page.contains("//"),
        "{page}"
    );
    let places = ["href=\"", "src=\""]
        .iter()
        .flat_map(|start| page.split(start).skip(1));
    let assets: Vec<&str> = places.filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!(assets.len(), 5, "{page}");
    for asset in assets.into_iter().chain(["README.md"]) {
        let found = send(get(&format!("/docs/{}", asset.trim_start_matches("./")))).await;
        assert_eq!(found.status, 200, "{asset}");
        assert!(!found.body.is_empty(), "{asset}");
    }
    assert_eq!(
        send(get("/docs/nothing.js")).await.problem(),
        (404, "no_such_route".into())
    );
}
