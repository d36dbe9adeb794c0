//! Every method on the bundled network, and how what is its own is refused.

use explaind::methods::registry::METHODS;
use onnx_autodiff::autodiff::spec::Composite;
use serde_json::{Value, json};

use crate::{
    client::{post, post_json, send, send_to, values},
    fixture::{open, red, small_model, test_image},
};

/// A request that costs little.
fn cheap(method: &str) -> String {
    let card = METHODS.iter().find(|known| known.id == method).unwrap();
    let few = [
        ("n_steps", "3"),
        ("n_samples", "2"),
        ("window", "56"),
        ("stride", "56"),
    ]
    .into_iter()
    .filter(|(name, _)| card.takes(name));
    let model = match small_model(method) {
        "vit" => "vit",
        _ => "squeezenet1_1",
    };
    few.fold(
        format!("/explain?model={model}&method={method}"),
        |uri, (name, value)| format!("{uri}&{name}={value}"),
    )
}

#[tokio::test]
async fn every_method_explains_a_photo_in_numbers_and_in_a_picture() {
    for method in METHODS {
        let answer = send(post(
            &format!("{}&format=json", cheap(method.id)),
            test_image("wide.png"),
        ))
        .await
        .only();
        let shape: Vec<usize> =
            serde_json::from_value(answer["attribution"]["shape"].clone()).unwrap();
        let side = if method.looks_at_attention() { 32 } else { 224 };
        assert!(
            shape == [3, side, side] || shape == [1, side, side],
            "{}: {shape:?}",
            method.id
        );
        let found = values(&answer);
        assert!(
            found.iter().all(|value| value.is_finite()) && found.iter().any(|value| *value != 0.0),
            "{}",
            method.id
        );
        let picture = send(post(&cheap(method.id), test_image("wide.png")))
            .await
            .picture();
        assert!(
            picture.width() == 480 && picture.height() > 301,
            "{}: enlarged, and a legend below",
            method.id
        );
    }
}

#[tokio::test]
async fn lrp_explains_by_every_composite() {
    let others = Composite::ALL
        .into_iter()
        .filter(|one| *one != Composite::AttnLrp);
    for composite in others {
        let uri = format!(
            "/explain?model=squeezenet1_1&format=json&method=lrp&composite={}",
            composite.id()
        );
        let answer = send(post(&uri, test_image("wide.png"))).await.only();
        assert_eq!(answer["parameters"]["composite"], json!(composite.id()));
        let has_gamma = answer["parameters"].get("gamma").is_some();
        assert_eq!(has_gamma, composite == Composite::EpsilonGammaBox);
        let found = values(&answer);
        assert!(
            found.iter().all(|value| value.is_finite()) && found.iter().any(|value| *value != 0.0),
            "{}",
            composite.id()
        );
    }
}

#[tokio::test]
async fn parameters_of_lrp_that_do_not_fit_are_refused_together() {
    let uri =
        "/explain?model=squeezenet1_1&method=lrp&epsilon=0&composite=epsilon&gamma=1&head=logits";
    let answer = send(post(uri, red())).await;
    assert_eq!(answer.refused(), ["epsilon", "gamma", "head"]);
    let numbers = json!({ "tensor": { "shape": [2], "data": [1, 2] } });
    let uri = "/explain?model=numbers&method=lrp&composite=epsilon_gamma_box";
    let answer = send(post_json(uri, &numbers)).await;
    assert_eq!(
        (answer.refused(), answer.allowed("composite").len()),
        (vec!["composite".to_owned()], 6)
    );
}

#[tokio::test]
async fn attn_lrp_is_off_unless_a_setting_allows_it() {
    // Behind its first layer is a Softmax.
    let tensor = json!({ "tensor": { "shape": [2], "data": [1, 2] } });
    let uri = "/explain?model=shares&method=lrp&composite=attn_lrp&target=0";
    let refused = send(post_json(uri, &tensor)).await;
    assert_eq!(refused.refused(), ["composite"]);
    assert!(refused.text().contains("patented"), "{}", refused.text());
    let priced = json!({ "model": "shares", "methods": [{ "id": "lrp", "composite": "attn_lrp", "target": 0 }] });
    let refused = send(post_json("/cost", &priced)).await;
    assert_eq!(refused.refused(), ["methods[0].composite"]);
    let service = open(&[("attn_lrp", "true")]);
    let answer = send_to(&service.router, post_json(uri, &tensor))
        .await
        .only();
    assert_eq!(answer["parameters"]["composite"], "attn_lrp");
    assert!(answer["parameters"].get("epsilon").is_none());
    assert!(values(&answer).iter().all(|value| value.is_finite()));
    let uri = format!("{uri}&epsilon=0.1");
    let refused = send_to(&service.router, post_json(&uri, &tensor)).await;
    assert_eq!(refused.refused(), ["epsilon"]);
}

#[tokio::test]
async fn a_layer_that_is_none_is_refused_with_those_that_are() {
    let answer = send(post("/explain?method=grad_cam&layer=nowhere", red())).await;
    assert_eq!(
        (answer.refused(), answer.allowed("layer")),
        (vec!["layer".into()], vec!["conv".into(), "relu".into()])
    );
    let tensor = json!({ "tensor": { "shape": [2], "data": [2, -1] } });
    assert_eq!(
        send(post_json("/explain?model=numbers&method=grad_cam", &tensor))
            .await
            .refused(),
        ["layer"]
    );
    let other = send(post(
        "/explain?method=grad_cam&layer=conv&format=json",
        red(),
    ))
    .await
    .only();
    let usual = send(post("/explain?method=grad_cam&format=json", red()))
        .await
        .only();
    assert_eq!(
        (&other["parameters"]["layer"], &usual["parameters"]["layer"]),
        (&json!("conv"), &json!("relu"))
    );
}

#[tokio::test]
async fn answers_tell_the_grid_that_a_map_was_read_from() {
    let explain = async |uri: &str| {
        send(post(&format!("/explain?format=json&{uri}"), red()))
            .await
            .only()
    };
    let map = explain("model=vit&method=layer_cam").await;
    let layer = map["parameters"]["layer"].clone();
    assert_eq!(
        map["grid"],
        json!({ "of": [layer], "height": 4, "width": 4, "other_tokens": 1 })
    );
    let flow = explain("model=vit&method=attention_rollout").await;
    assert_eq!(flow["grid"]["of"].as_array().unwrap().len(), 2);
    let plain = explain("method=gradient").await;
    assert!(plain.get("grid").is_none());
    let few = explain("model=vit&method=score_cam&max_channels=3").await;
    // The predicted class, the layer, and three channels.
    assert_eq!(few["evaluations"], 5);
    let warning = few["warnings"].to_string();
    assert!(warning.contains("3 of 16 channels"), "{warning}");
}

#[tokio::test]
async fn a_model_without_attention_is_told_what_applies() {
    for method in ["attention_rollout", "gradient_rollout", "legrad"] {
        let answer = send(post(&format!("/explain?method={method}"), red())).await;
        assert_eq!(answer.refused(), ["method"]);
        let allowed = answer.allowed("method");
        assert!(allowed.contains(&"layer_cam".to_owned()));
        assert!(
            !allowed
                .iter()
                .any(|id| id.ends_with("rollout") || id == "legrad")
        );
        let several = send(post(
            &format!("/compare?method=gradient&method={method}"),
            red(),
        ))
        .await;
        assert!(
            several.text().contains("no attention"),
            "{}",
            several.text()
        );
    }
    // The weights of attention are no layer.
    let weights = send(post(
        "/explain?model=vit&method=grad_cam&layer=softmax",
        red(),
    ))
    .await;
    assert_eq!(weights.refused(), ["layer"]);
}

#[tokio::test]
async fn patterns_are_needed_where_the_rule_set_says_so() {
    let answer = send(post(
        "/explain?model=plain&method=smooth_grad&rule_set=pattern_net",
        red(),
    ))
    .await;
    assert_eq!(answer.problem(), (422, "patterns_missing".into()));
    assert!(answer.text().contains("pattern_net"), "{}", answer.text());
    let refused = send(post(
        "/explain?method=smooth_grad&pattern_layers=all",
        red(),
    ))
    .await;
    assert_eq!(refused.refused(), ["pattern_layers"]);
}

#[tokio::test]
async fn the_best_classes_share_one_forward_pass() {
    let evaluations = async |target: &str, method: &str| {
        let answer = send(post(
            &format!("/explain?format=json&method={method}&target={target}"),
            red(),
        ))
        .await;
        let count = |one: &Value| one["evaluations"].as_u64().unwrap();
        (
            answer.each().iter().map(count).collect::<Vec<_>>(),
            count(&answer.answer()),
        )
    };
    // The clean input once, which every answer counts, and a gradient each.
    assert_eq!(evaluations("top:3", "gradient").await, (vec![2, 2, 2], 4));
    assert_eq!(
        evaluations("top:2", "guided_grad_cam").await,
        (vec![3, 3], 5)
    );
}

#[tokio::test]
async fn every_method_that_differentiates_explains_a_contrast() {
    for method in METHODS.iter().filter(|method| method.rule_set.is_some()) {
        let uri = |target: &str| format!("{}&format=json&target={target}", cheap(method.id));
        let classes = match method.looks_at_attention() {
            true => [4, 0],
            false => [285, 281],
        };
        let [class, against] = classes;
        let upload = test_image("wide.png");
        let contrast = send(post(&uri(&format!("{class}-{against}")), upload.clone()))
            .await
            .only();
        let (one, other) = (
            send(post(&uri(&class.to_string()), upload.clone())).await,
            send(post(&uri(&against.to_string()), upload)).await,
        );
        assert_eq!(
            contrast["target"]["against"]["index"], against,
            "{}",
            method.id
        );
        let linear = [
            "gradient",
            "input_x_gradient",
            "integrated_gradients",
            "smooth_grad",
            "expected_gradients",
        ];
        if linear.contains(&method.id) {
            let (one, other) = (values(&one.only()), values(&other.only()));
            let scale = one
                .iter()
                .chain(&other)
                .fold(0.0_f32, |most, value| most.max(value.abs()));
            for (found, (one, other)) in values(&contrast).iter().zip(one.iter().zip(&other)) {
                // Three sums in f32 in different orders.
                assert!(
                    (found - (one - other)).abs() < 1e-3 * scale,
                    "{}: {found} {one} {other}",
                    method.id
                );
            }
        }
    }
}
