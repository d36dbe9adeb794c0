//! POST /cost: what a comparison would cost, held against what it does cost.

use serde_json::{Value, json};

use crate::{
    client::{post, post_json, send},
    fixture::{red, settings_with},
};

#[tokio::test]
async fn the_cost_is_that_of_the_answer_and_the_parameters_are_its_own() {
    let methods = json!(["gradient", { "id": "integrated_gradients", "n_steps": 7 }]);
    let asked = json!({ "model": "tiny", "methods": methods, "target": 1 });
    let told = send(post_json("/cost", &asked)).await.answer();
    assert_eq!(told["model"], "tiny");
    assert_eq!(
        told["max_interactive_evaluations"],
        settings_with(&[]).max_interactive_evaluations
    );
    // A gradient; 7 points of the path, the last of which is the input, and the baseline.
    let each: Vec<&Value> = told["methods"]
        .as_array()
        .unwrap()
        .iter()
        .map(|method| &method["evaluations"])
        .collect();
    assert_eq!(each, [&json!(1), &json!(8)], "{told}");
    assert_eq!(told["methods"][0]["picture"]["color_map"], "inferno");
    assert_eq!(told["methods"][1]["picture"]["color_map"], "rd_bu");
    for (place, query) in ["method=gradient", "method=integrated_gradients&n_steps=7"]
        .iter()
        .enumerate()
    {
        let uri = format!("/explain?model=tiny&format=json&target=1&{query}");
        let mut answer = send(post(&uri, red())).await.only();
        let one = &told["methods"][place];
        assert_eq!(answer["evaluations"], one["evaluations"]);
        answer["parameters"]
            .as_object_mut()
            .unwrap()
            .remove("model");
        assert_eq!(answer["parameters"], one["parameters"]);
    }
}

#[tokio::test]
async fn refused_parameters_are_told_as_a_comparison_tells_them() {
    let asked = json!({ "model": "tiny", "methods": ["gradient", { "id": "pgig", "n_steps": 0 }], "size": 7, "limit": 3 });
    let answer = send(post_json("/cost", &asked)).await;
    let refused = answer.refused();
    assert!(
        ["limit", "methods[1].n_steps", "size"]
            .iter()
            .all(|name| refused.contains(&(*name).to_owned())),
        "{refused:?}"
    );
    assert_eq!(
        send(post_json("/cost", &json!([]))).await.problem(),
        (400, "broken_json".into())
    );
}
