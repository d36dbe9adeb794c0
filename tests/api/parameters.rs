//! Targets, baselines, and how parameters are refused: every fault at once, each with what is
//! allowed.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::{
    client::{get, multipart, post, post_json, send, send_to, values},
    fixture::{NUMBERS, blue, digits, open, red},
};

async fn numbers(target: Value) -> Value {
    numbers_each(target).await.remove(0)
}

async fn numbers_each(target: Value) -> Vec<Value> {
    let body = json!({ "tensor": { "shape": [2], "data": [2, -1] }, "model": "numbers", "method": "gradient", "target": target });
    send(post_json("/explain", &body)).await.each()
}

#[tokio::test]
async fn targets_are_indices_labels_ranks_and_contrasts() {
    assert_eq!(values(&numbers(json!("predicted")).await), NUMBERS[0]);
    assert_eq!(values(&numbers(json!(1)).await), NUMBERS[1]);
    assert_eq!(values(&numbers(json!("2")).await), NUMBERS[2]);
    let top = numbers_each(json!("top:2")).await;
    assert_eq!(
        top.iter().map(values).collect::<Vec<_>>(),
        [NUMBERS[0], NUMBERS[1]]
    );
    let contrast = numbers(json!("0-2")).await;
    assert_eq!(
        (values(&contrast), &contrast["target"]["against"]["index"]),
        (vec![2.0, -1.0], &json!(2))
    );
    let label = send(post("/explain?target=blue&method=gradient", red())).await;
    assert_eq!(label.header("x-explaind-target"), Some("2 blue"));
    for target in ["mauve", "3", "-1", "top:0", "top:9", "0-0", "0-9", ""] {
        let answer = send(post(&format!("/explain?target={target}"), red())).await;
        assert_eq!(answer.refused(), ["target"], "{target}");
        assert!(!answer.allowed("target").is_empty());
    }
}

#[tokio::test]
async fn a_misspelt_name_is_answered_with_the_one_that_may_be_meant() {
    for (uri, message) in [
        (
            "/explain?method=Grad-Cam",
            "no method is called \\\"Grad-Cam\\\"; did you mean grad_cam?",
        ),
        (
            "/explain?method=pgig&n_step=3",
            "is not a parameter of pgig; did you mean n_steps?",
        ),
        (
            "/explain?method=pgig&fromat=png",
            "is not a parameter of pgig; did you mean format?",
        ),
        (
            "/explain?model=plane",
            "no model is called \\\"plane\\\"; did you mean plain?",
        ),
        (
            "/compare?method=pgig&n_step=3",
            "of any of these methods; did you mean n_steps?",
        ),
        (
            "/compare?method=pgig&overlaytype=faded",
            "of any of these methods; did you mean overlay_type?",
        ),
        (
            "/predict?topk=3",
            "is not a parameter of a prediction; did you mean top_k?",
        ),
    ] {
        let answer = send(post(uri, red())).await;
        assert!(answer.text().contains(message), "{uri}: {}", answer.text());
    }
    // Nothing is like it.
    assert!(
        !send(post("/explain?method=anchors", red()))
            .await
            .text()
            .contains("did you mean")
    );
}

#[tokio::test]
async fn a_target_of_any_length_is_refused_in_few_words() {
    for target in ["-".repeat(20_000), "a-".repeat(10_000), "x".repeat(40_000)] {
        let answers = [
            send(post(&format!("/explain?target={target}"), red())).await,
            send(post_json(
                "/explain",
                &json!({ "image": BASE64_STANDARD.encode(red()), "target": target }),
            ))
            .await,
        ];
        for answer in answers {
            assert_eq!(answer.refused(), ["target"]);
            assert!(
                answer.text().contains("at most 256") && answer.body.len() < 1000,
                "{}",
                answer.text()
            );
        }
        let mut body = json!({ "image": BASE64_STANDARD.encode(red()), "targets": [target] });
        assert_eq!(
            send(post_json("/explain", &body)).await.refused(),
            ["targets"]
        );
        body["targets"] = json!(vec![0; 10_001]);
        let answer = send(post_json("/explain", &body)).await;
        assert!(
            answer.refused() == ["targets"] && answer.text().contains("more than 10000"),
            "{}",
            answer.text()
        );
        body["targets"] = json!(vec!["mauve"; 10_000]);
        assert!(send(post_json("/explain", &body)).await.status == 422);
    }
}

#[tokio::test]
async fn digits_that_are_one_classs_label_and_anothers_index_are_refused_with_both_ways_to_say_it()
{
    let models = digits();
    let data = models.path().join(".data");
    let folders = [("models", models.path()), ("data", &data)]
        .map(|(name, path)| (name, path.to_str().unwrap()));
    let service = open(&[folders[0], folders[1], ("default_model", "digits")]);
    let explain = async |target: Value| {
        let body = json!({ "image": BASE64_STANDARD.encode(red()), "method": "gradient", "target": target, "format": "json" });
        send_to(&service.router, post_json("/explain", &body)).await
    };
    for (target, class, label) in [
        (json!(2), 2, "0"),
        (json!("index:2"), 2, "0"),
        (json!("label:2"), 1, "2"),
        (json!("10"), 0, "10"),
        (json!("1"), 1, "2"),
    ] {
        let found = explain(target.clone()).await.only()["target"].clone();
        assert_eq!(
            (&found["index"], &found["label"]),
            (&json!(class), &json!(label)),
            "{target}"
        );
    }
    for target in ["2", "0", "2-10", "10-0"] {
        let answer = explain(json!(target)).await;
        assert_eq!(answer.refused(), ["target"]);
        assert!(
            answer.text().contains("label:") && answer.text().contains("index:"),
            "{}",
            answer.text()
        );
    }
    let contrast = explain(json!("label:2-label:10")).await.only();
    assert_eq!(
        (
            &contrast["target"]["index"],
            &contrast["target"]["against"]["index"]
        ),
        (&json!(1), &json!(0))
    );
    let again = explain(contrast["parameters"]["target"].clone())
        .await
        .only();
    assert_eq!(
        (&again["target"], values(&again)),
        (&contrast["target"], values(&contrast))
    );
}

#[tokio::test]
async fn baselines_have_names_and_are_averaged() {
    let explain = async |baseline: &str| {
        let uri = format!(
            "/explain?method=integrated_gradients&target=0&format=json&baseline={baseline}"
        );
        send(post(&uri, red())).await.only()
    };
    let mut maps = Vec::new();
    for baseline in ["zero", "white", "mean", "blur:2", "uniform:3", "random:2"] {
        let answer = explain(baseline).await;
        assert_eq!(answer["parameters"]["baseline"], baseline);
        assert!(!maps.contains(&values(&answer)), "{baseline}");
        maps.push(values(&answer));
    }
    // Mean 0 and deviation 1: black is the tensor of zeros.
    assert_eq!(values(&explain("black").await), maps[0]);
    let averaged = values(&explain("zero%2Bwhite").await);
    for (found, (zero, white)) in averaged.iter().zip(maps[0].iter().zip(&maps[1])) {
        assert!((found - (zero + white) / 2.0).abs() < 1e-5);
    }
    for baseline in [
        "zebra",
        "blur:-1",
        "random:0",
        "random:1000",
        "zero%2B",
        "uniform:x",
    ] {
        let answer = send(post(
            &format!("/explain?method=integrated_gradients&baseline={baseline}"),
            red(),
        ))
        .await;
        assert_eq!(answer.refused(), ["baseline"], "{baseline}");
        assert!(answer.allowed("baseline").contains(&"zero".to_owned()));
    }
    let tensor = json!({ "tensor": { "shape": [2], "data": [2, -1] }, "baseline": "white" });
    assert_eq!(
        send(post_json("/explain?model=numbers", &tensor))
            .await
            .refused(),
        ["baseline"]
    );
}

#[tokio::test]
async fn without_a_method_it_is_pgig_where_there_are_patterns() {
    for (model, method) in [("tiny", "pgig"), ("plain", "integrated_gradients")] {
        let answer = send(post(&format!("/explain?format=json&model={model}"), red()))
            .await
            .only();
        assert_eq!(
            (&answer["method"], &answer["model"]),
            (&json!(method), &json!(model))
        );
    }
}

#[tokio::test]
async fn every_fault_is_told_at_once_with_what_is_allowed() {
    let uri = "/explain?method=integrated_gradients&n_steps=0&quadrature=simpson&colour=red&format=gif&alpha=2&type=dots&target=mauve";
    let answer = send(post(uri, red())).await;
    assert_eq!(
        answer.refused(),
        [
            "alpha",
            "colour",
            "format",
            "n_steps",
            "quadrature",
            "target",
            "type"
        ]
    );
    assert_eq!(answer.allowed("n_steps"), ["1 to 10000"]);
    assert_eq!(
        answer.allowed("format"),
        ["png", "jpeg", "webp", "json", "npy", "bundle"]
    );
    let known = answer.allowed("colour");
    for name in [
        "n_steps",
        "baseline",
        "format",
        "color_map",
        "model",
        "method",
    ] {
        assert!(known.contains(&name.to_owned()), "{name}: {known:?}");
    }
}

#[tokio::test]
async fn an_unknown_parameter_is_refused_wherever_it_stands() {
    let image = BASE64_STANDARD.encode(red());
    assert_eq!(
        send(post("/explain?n_step=3", red())).await.refused(),
        ["n_step"]
    );
    assert_eq!(
        send(post_json(
            "/explain",
            &json!({ "image": image, "n_step": 3 })
        ))
        .await
        .refused(),
        ["n_step"]
    );
    assert_eq!(
        send(multipart(
            "/explain",
            &[("image", &red()), ("params", br#"{"n_step": 3}"#)]
        ))
        .await
        .refused(),
        ["n_step"]
    );
    let field = send(multipart(
        "/explain",
        &[("image", &red()), ("picture", b"x")],
    ))
    .await;
    assert_eq!(
        (field.refused(), field.allowed("picture")),
        (
            vec!["picture".to_owned()],
            vec![
                "image".into(),
                "file".into(),
                "baseline".into(),
                "segments".into(),
                "reference".into(),
                "inputs.NAME".into(),
            ]
        )
    );
    assert_eq!(
        send(post("/predict?target=1", red())).await.refused(),
        ["target"]
    );
    // Known, but not to this method.
    let other = send(post("/explain?method=gradient&n_steps=3", red())).await;
    assert_eq!(other.refused(), ["n_steps"]);
    assert!(!other.allowed("n_steps").is_empty());
}

#[tokio::test]
async fn a_parameter_is_given_once() {
    let image = BASE64_STANDARD.encode(red());
    assert_eq!(
        send(post("/explain?n_steps=3&n_steps=4", red()))
            .await
            .refused(),
        ["n_steps"]
    );
    assert_eq!(
        send(post_json(
            "/explain?n_steps=3",
            &json!({ "image": image, "n_steps": 3 })
        ))
        .await
        .refused(),
        ["n_steps"]
    );
    let fields: [(&str, &[u8]); 3] = [("image", &red()), ("params", b"{}"), ("params", b"{}")];
    assert_eq!(
        send(multipart("/explain", &fields)).await.refused(),
        ["params"]
    );
    let text = format!(r#"{{"image": "{image}", "n_steps": 3, "n_steps": 4}}"#);
    assert_eq!(send(post("/explain", text)).await.refused(), ["n_steps"]);
    let fields: [(&str, &[u8]); 2] = [
        ("image", &red()),
        ("params", br#"{"n_steps": 3, "n_steps": 4}"#),
    ];
    assert_eq!(
        send(multipart("/explain", &fields)).await.refused(),
        ["n_steps"]
    );
}

#[tokio::test]
async fn wrong_types_and_ranges_are_refused() {
    let image = BASE64_STANDARD.encode(blue());
    for (name, value) in [
        ("n_steps", json!("many")),
        ("n_steps", json!(2.5)),
        ("n_steps", json!(-1)),
        ("n_steps", json!(10_001)),
        ("n_steps", json!([3])),
        ("multiply_by_inputs", json!("perhaps")),
        ("seed", json!(-1)),
        ("target", json!(1.5)),
        ("target", json!({ "index": 1 })),
        ("baseline", json!(3)),
        ("head", json!("both")),
        ("method", json!("anchors")),
        ("method", json!(3)),
        ("model", json!("resnet")),
        ("model", json!(3)),
        ("encoding", json!("hex")),
        ("include", json!("everything")),
        ("channels", json!("mean")),
        ("clip_percent_lowerbound", json!("low")),
        ("clip_percent_upperbound", json!(101)),
        ("alpha", json!("nan")),
        ("color_map", json!(7)),
        ("pattern_layers", json!([])),
    ] {
        let mut body = json!({ "image": image });
        body[name] = value.clone();
        assert_eq!(
            send(post_json("/explain", &body)).await.refused(),
            [name],
            "{value}"
        );
    }
    let tolerance = send(post(
        "/explain?method=integrated_gradients&tolerance=0.1&n_steps=5",
        blue(),
    ))
    .await;
    assert_eq!(tolerance.refused(), ["n_steps"]);
    assert_eq!(
        send(post("/explain?method=pgig&pattern_layers=nowhere", blue()))
            .await
            .status,
        422
    );
}

#[tokio::test]
async fn the_catalogue_says_what_the_refusals_say() {
    let card = send(get("/methods/integrated_gradients")).await.answer();
    let steps = card["parameters"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["name"] == "n_steps")
        .unwrap()
        .clone();
    let answer = send(post(
        "/explain?method=integrated_gradients&n_steps=0",
        red(),
    ))
    .await;
    assert_eq!(steps["allowed"], json!(answer.allowed("n_steps")));
}
