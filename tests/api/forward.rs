//! Methods that need forward passes alone, beside those that differentiate, and the method that is
//! taken where none is named.

use serde_json::{Value, json};

use crate::{
    benchmark::fixture_with,
    client::{post, post_json, send, values},
    fixture::red,
};

fn evaluations(one: &Value) -> u64 {
    one["evaluations"].as_u64().unwrap()
}

#[tokio::test]
async fn a_network_without_a_gradient_is_explained_by_forward_passes() {
    let tensor = json!({ "tensor": { "shape": [2], "data": [1, 0] } });
    for named in ["", "&method=auto"] {
        let uri = format!("/explain?model=coin&target=0{named}");
        let answer = send(post_json(&uri, &tensor)).await.only();
        assert_eq!(
            (&answer["method"], &answer["parameters"]["method"]),
            (&json!("occlusion"), &json!("occlusion"))
        );
        let choice = answer["method_choice"].as_str().unwrap();
        assert!(
            choice.contains("no gradient") && choice.contains("Bernoulli"),
            "{choice}"
        );
        // What a coin shows is chance: one score for each element all the same.
        assert!(values(&answer).len() == 2 && values(&answer).iter().all(|v| v.is_finite()));
        assert_eq!(evaluations(&answer), 3);
    }
    let uri = "/explain?model=coin&target=0&method=rise&n_samples=64&head=logits";
    let answer = send(post_json(uri, &tensor)).await.only();
    assert!(values(&answer).len() == 2 && evaluations(&answer) == 65);
    assert!(answer.get("method_choice").is_none());
    let both = json!({ "tensor": tensor["tensor"], "methods": ["auto", { "id": "rise", "n_samples": 8 }] });
    let answer = send(post_json("/compare?model=coin", &both)).await.each();
    assert!(
        answer[0]["method_choice"]
            .as_str()
            .unwrap()
            .contains("Bernoulli")
    );
    assert_eq!(
        (&answer[0]["method"], &answer[1]["method"]),
        (&json!("occlusion"), &json!("rise"))
    );
}

#[tokio::test]
async fn a_network_with_a_gradient_is_explained_by_it() {
    for (model, method, why) in [
        ("plain", "integrated_gradients", "every operation"),
        ("tiny", "pgig", "has patterns"),
    ] {
        let uri = format!("/explain?model={model}&method=auto&format=json");
        let answer = send(post(&uri, red())).await.only();
        assert_eq!(answer["method"], method);
        let choice = answer["method_choice"].as_str().unwrap();
        assert!(choice.contains(why), "{choice}");
    }
}

#[tokio::test]
async fn targets_of_one_request_share_the_forward_passes() {
    for (way, passes) in [
        ("method=rise&n_samples=40", 40),
        (
            "method=rise&n_samples=70&tolerance=0.5&model=squeezenet1_1",
            70,
        ),
        ("method=occlusion", 64),
        // By incremental passes.
        (
            "method=occlusion&window=40&stride=40&model=squeezenet1_1",
            36,
        ),
    ] {
        let uri = format!("/explain?format=json&{way}&target=top:3");
        let answer = send(post(&uri, red())).await;
        let each: Vec<u64> = answer.each().iter().map(evaluations).collect();
        // The input once, for the targets and for f(x).
        assert_eq!(
            (each, evaluations(&answer.answer())),
            (vec![passes + 1; 3], passes + 1),
            "{way}"
        );
        let third = answer.each().remove(2);
        let target = &third["target"]["index"];
        let alone = send(post(
            &format!("/explain?format=json&{way}&target={target}"),
            red(),
        ))
        .await
        .only();
        for (together, alone) in values(&third).iter().zip(values(&alone)) {
            assert!(
                (together - alone).abs() <= 1e-6 * alone.abs().max(1.0),
                "{way}"
            );
        }
    }
    let both = json!(["rise", "occlusion", "gradient"]);
    let body = json!({ "methods": both, "n_samples": 30, "target": 0, "format": "json" });
    let mut body = body;
    body["image"] = json!(base64::Engine::encode(
        &base64::prelude::BASE64_STANDARD,
        red()
    ));
    let answer = send(post_json("/compare", &body)).await.answer();
    assert_eq!(evaluations(&answer), 30 + 64 + 1 + 1);
}

#[tokio::test]
async fn the_standard_error_has_the_shape_of_the_map_and_falls_with_the_samples() {
    let errors = async |n: usize| {
        let uri = format!(
            "/explain?method=rise&n_samples={n}&format=json&include=attribution,standard_error&encoding=list"
        );
        let answer = send(post(&uri, red())).await.only();
        assert_eq!(answer["standard_error"]["shape"], json!([1, 8, 8]));
        let rows = answer["standard_error"]["data"][0]
            .as_array()
            .unwrap()
            .clone();
        let values = rows.iter().flat_map(|row| row.as_array().unwrap());
        values.map(|value| value.as_f64().unwrap()).sum::<f64>()
    };
    let (few, many) = (errors(50).await, errors(800).await);
    assert!((3.0..5.5).contains(&(few / many)), "{few} {many}");
    for method in ["gradient", "lime", "kernel_shap"] {
        let uri = format!("/explain?method={method}&format=json&include=standard_error");
        assert_eq!(send(post(&uri, red())).await.refused(), ["include"]);
    }
}

#[tokio::test]
async fn a_prediction_that_methods_of_regions_need_too_is_counted_once() {
    let tensor = json!({ "tensor": { "shape": [2], "data": [2, -1] } });
    // Beside the input: that without both elements, and those of one element.
    for (method, others) in [
        ("feature_ablation", 2),
        ("kernel_shap", 3),
        ("shapley_sampling", 1 + 25),
    ] {
        let uri = format!("/explain?model=numbers&head=logits&method={method}");
        let answer = send(post_json(&uri, &tensor)).await;
        assert_eq!(evaluations(&answer.only()), others + 1, "{method}");
        // Equal coalitions are evaluated once.
        assert!(evaluations(&answer.answer()) <= others + 1, "{method}");
    }
    // A quarter of the coalitions of two regions show both: they are the input.
    let uri = "/explain?model=numbers&head=logits&method=lime";
    let lime = send(post_json(uri, &tensor)).await;
    assert!((700..800).contains(&evaluations(&lime.only())));
    let uri = "/explain?model=numbers&head=logits&method=shapley_sampling&include=attribution,standard_error";
    let answer = send(post_json(uri, &tensor)).await.only();
    assert_eq!(answer["standard_error"]["shape"], json!([2]));
}

#[tokio::test]
async fn a_tolerance_tells_how_many_samples_it_took() {
    // Of two elements the first alone counts: both halves say so at once.
    let tensor = json!({ "tensor": { "shape": [2], "data": [2, -1] } });
    let uri = "/explain?model=numbers&target=0&method=rise&head=logits&tolerance=0.1";
    let answer = send(post_json(uri, &tensor)).await.only();
    assert_eq!(
        answer["refinement"],
        json!({ "n_samples": 128, "ended_by": "tolerance" })
    );
    assert_eq!(evaluations(&answer), 129);
    let uri = "/explain?model=numbers&target=0&method=shapley_sampling&head=logits&n_samples=200&tolerance=0.1";
    let answer = send(post_json(uri, &tensor)).await.only();
    let refinement = &answer["refinement"];
    assert_eq!(refinement["ended_by"], "tolerance");
    assert!(
        (8..100).contains(&refinement["n_samples"].as_u64().unwrap()),
        "{refinement}"
    );
}

#[tokio::test]
async fn all_that_is_wrong_is_told_at_once_and_what_costs_too_much_is_refused() {
    let uri = "/explain?method=occlusion&window=9x3&stride=0&window_channels=some&baseline=grey";
    assert_eq!(
        send(post(uri, red())).await.refused(),
        ["baseline", "stride", "window", "window_channels"]
    );
    let answer = send(post("/explain?method=occlusion&window=2&stride=3", red())).await;
    assert_eq!(
        (answer.refused(), answer.allowed("stride")),
        (vec!["stride".into()], vec!["1 to 2x2".into()])
    );
    let uri =
        "/explain?method=rise&n_samples=0&grid_size=65&p_keep=0&tolerance=2&preset=best&n_steps=3";
    assert_eq!(
        send(post(uri, red())).await.refused(),
        [
            "grid_size",
            "n_samples",
            "n_steps",
            "p_keep",
            "preset",
            "tolerance"
        ]
    );
    let uri = "/explain?method=occlusion&window=1&stride=1&model=squeezenet1_1";
    let refused = send(post(uri, red())).await;
    assert_eq!(refused.problem(), (422, "too_costly".into()));
    assert!(refused.text().contains("50177"), "{}", refused.text());
}

#[tokio::test]
async fn they_stand_in_jobs_beside_methods_that_differentiate() {
    let fixture = fixture_with(&[]);
    fixture.work();
    let methods = json!([{ "id": "rise", "n_samples": 40 }, { "id": "occlusion", "window": 3 }, "gradient", "auto"]);
    for asked in [
        json!({ "kind": "evaluate", "metrics": ["sparseness", { "id": "deletion", "steps": 4 }] }),
        json!({ "kind": "degradation", "grid": 4, "steps": 4 }),
    ] {
        let mut asked = asked;
        for (name, value) in [
            ("model", json!("tiny")),
            ("dataset", json!("photos")),
            ("methods", methods.clone()),
        ] {
            asked[name] = value;
        }
        let id = fixture.submit(&asked).await;
        let job = fixture.ended(&id).await;
        assert_eq!(job["state"], "succeeded", "{job}");
        let settled = job["parameters"]["methods"].as_array().unwrap().iter();
        let ids: Vec<&str> = settled.map(|row| row["id"].as_str().unwrap()).collect();
        assert_eq!(ids, ["rise", "occlusion", "gradient", "gradient", "pgig"]);
        let report = fixture.report(&id, "json").await.answer();
        assert_eq!(report["result"]["used"], 3);
    }
}
