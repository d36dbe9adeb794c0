//! How an answer is given: formats, encodings, pictures, headers; and that its parameters give it
//! again.

use axum::http::Method;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use explaind::methods::registry::METHODS;
use serde_json::{Value, json};

use crate::{
    client::{Answered, get, post, post_json, send, values, with},
    fixture::{picture, red, small_model, test_image},
};

#[tokio::test]
async fn the_format_is_the_parameter_then_accept_then_what_suits() {
    for (query, accept, expected) in [
        ("", None, "image/png"),
        ("", Some("*/*"), "image/png"),
        ("", Some("application/json"), "application/json"),
        (
            "",
            Some("application/x-npy, */*;q=0.1"),
            "application/x-npy",
        ),
        ("&format=json", Some("image/png"), "application/json"),
        ("&format=npy", None, "application/x-npy"),
        ("&format=png", Some("text/html"), "image/png"),
        ("&target=top:2", None, "application/json"),
    ] {
        let mut request = post(&format!("/explain?method=gradient{query}"), red());
        if let Some(accept) = accept {
            request = with(request, "accept", accept);
        }
        let answer = send(request).await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("content-type")),
            (200, Some(expected)),
            "{query} {accept:?}"
        );
    }
    let refused = send(with(post("/explain", red()), "accept", "text/html")).await;
    assert_eq!(refused.problem(), (406, "not_acceptable".into()));
}

#[tokio::test]
async fn every_encoding_holds_the_same_numbers() {
    const URI: &str = "/explain?method=integrated_gradients&format=";
    let base64 = send(post(&format!("{URI}json"), red())).await.only();
    let list = send(post(&format!("{URI}json&encoding=list"), red()))
        .await
        .only();
    let npy = send(post(&format!("{URI}npy"), red())).await.array();
    assert_eq!(
        (
            &base64["attribution"]["encoding"],
            &list["attribution"]["encoding"]
        ),
        (&json!("base64"), &json!("list"))
    );
    assert_eq!(
        list["attribution"]["data"][2][7].as_array().unwrap().len(),
        8
    );
    assert_eq!(npy.shape(), [3, 8, 8]);
    assert_eq!(values(&base64), values(&list));
    assert_eq!(values(&base64), npy.into_iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn the_picture_has_the_sides_of_the_upload_as_large_as_asked_for() {
    let uploads = [
        (red().to_vec(), (12, 8)),
        (picture(90, 30, [200, 30, 10]).to_vec(), (90, 30)),
        (picture(30, 90, [200, 30, 10]).to_vec(), (30, 90)),
        (picture(1, 1, [200, 30, 10]).to_vec(), (1, 1)),
        (test_image("exif6.jpg"), (16, 24)),
        (test_image("wide.png"), (75, 47)),
    ];
    for model in ["tiny", "squeezenet1_1"] {
        for (upload, size) in &uploads {
            let long = size.0.max(size.1);
            let uri = format!("/explain?method=gradient&legend=false&model={model}&size=");
            let beyond = send(post(&format!("{uri}5000"), upload.clone())).await;
            assert_eq!(
                (beyond.refused(), beyond.allowed("size")),
                (vec!["size".to_owned()], vec!["64 to 4096".to_owned()])
            );
            let scaled = |side: u32| {
                (
                    size.0 as f32 * side as f32 / long as f32,
                    size.1 as f32 * side as f32 / long as f32,
                )
            };
            for side in [64, 200] {
                let (width, height) = send(post(&format!("{uri}{side}"), upload.clone()))
                    .await
                    .picture()
                    .dimensions();
                let expected = scaled(side);
                assert!(
                    (width as f32 - expected.0).abs() <= 0.5
                        && (height as f32 - expected.1).abs() <= 0.5,
                    "{size:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn tiny_uploads_are_enlarged_huge_ones_made_smaller_and_a_crop_is_what_the_network_saw() {
    let bare = "/explain?method=gradient&legend=false";
    let size = async |uri: String, upload| send(post(&uri, upload)).await.picture().dimensions();
    assert_eq!(
        size(bare.to_owned(), picture(16, 8, [200, 30, 10])).await,
        (480, 240)
    );
    assert_eq!(
        size(bare.to_owned(), picture(2000, 500, [200, 30, 10])).await,
        (1600, 400)
    );
    // A ninth of a panorama, and nothing of the rest.
    let crop = format!("{bare}&model=squeezenet1_1&view=crop&size=90");
    assert_eq!(size(crop, picture(900, 100, [200, 30, 10])).await, (90, 90));
}

#[tokio::test]
async fn a_picture_says_what_it_explains() {
    const URI: &str = "/explain?method=integrated_gradients&target=red&n_steps=3";
    let rows = async |options: &str| {
        send(post(&format!("{URI}{options}"), red()))
            .await
            .picture()
            .height()
    };
    let (bare, legend, both) = (
        rows("&legend=false").await,
        rows("").await,
        rows("&caption=true").await,
    );
    assert!(bare < legend && legend < both, "{bare} {legend} {both}");
    let png = send(post(URI, red())).await.body;
    let reader = png::Decoder::new(std::io::Cursor::new(&png))
        .read_info()
        .unwrap();
    let texts = &reader.info().uncompressed_latin1_text;
    let text = |keyword: &str| {
        texts
            .iter()
            .find(|text| text.keyword == keyword)
            .map(|text| text.text.clone())
            .unwrap()
    };
    assert_eq!(text("Title"), "Integrated Gradients: attribution to 0 red");
    assert_eq!(
        (text("Model"), text("Method"), text("Target")),
        ("tiny".into(), "integrated_gradients".into(), "0 red".into())
    );
    let json = send(post(&format!("{URI}&format=json"), red()))
        .await
        .only();
    assert_eq!(
        serde_json::from_str::<Value>(&text("Parameters")).unwrap(),
        json["parameters"]
    );
    assert!(
        (text("Score").parse::<f64>().unwrap() - json["target"]["score"].as_f64().unwrap()).abs()
            < 1e-6
    );
}

#[tokio::test]
async fn a_picture_comes_as_png_jpeg_or_webp() {
    let png = send(post("/explain?method=gradient", red()))
        .await
        .picture();
    for (query, accept, content_type) in [
        ("&format=jpeg", None, "image/jpeg"),
        ("&format=JPEG", None, "image/jpeg"),
        ("&format=jpg", None, "image/jpeg"),
        ("&format=webp", None, "image/webp"),
        ("", Some("image/webp"), "image/webp"),
        ("", Some("image/jpeg, image/png;q=0.5"), "image/jpeg"),
    ] {
        for route in ["explain", "compare"] {
            let mut request = post(&format!("/{route}?method=gradient{query}"), red());
            if let Some(accept) = accept {
                request = with(request, "accept", accept);
            }
            let answer = send(request).await;
            assert_eq!(
                (answer.status.as_u16(), answer.header("content-type")),
                (200, Some(content_type))
            );
            let read = image::load_from_memory(&answer.body).unwrap().into_rgb8();
            if route == "explain" {
                let apart = read
                    .iter()
                    .zip(png.iter())
                    .map(|(a, b)| u64::from(a.abs_diff(*b)))
                    .sum::<u64>();
                assert!(
                    apart <= 3 * read.len() as u64,
                    "{content_type}: {apart} over {}",
                    read.len()
                );
            }
        }
    }
    let several = send(post(
        "/explain?method=gradient&target=top:2&format=webp",
        red(),
    ))
    .await;
    assert_eq!(several.refused(), ["format"]);
}

#[tokio::test]
async fn a_json_answer_can_carry_the_picture() {
    let with_picture = send(post(
        "/explain?method=gradient&format=json&include=heatmap",
        red(),
    ))
    .await
    .only();
    let bytes = BASE64_STANDARD
        .decode(with_picture["heatmap"].as_str().unwrap())
        .unwrap();
    let alone = send(post("/explain?method=gradient", red())).await;
    alone.picture();
    assert_eq!(bytes, alone.body);
    assert!(
        send(post("/explain?method=gradient&format=json", red()))
            .await
            .answer()
            .get("heatmap")
            .is_none()
    );
}

#[tokio::test]
async fn json_holds_what_is_asked_for_in_one_shape() {
    let explain = async |query: &str| {
        send(post(
            &format!("/explain?method=gradient&format=json{query}"),
            red(),
        ))
        .await
    };
    let parts = ["attribution", "heatmap"];
    for (query, expected) in [
        ("", [true, false]),
        ("&include=attribution", [true, false]),
        ("&include=heatmap", [false, true]),
        ("&include=heatmap,attribution", [true, true]),
        ("&include=heatmap&include=attribution", [true, true]),
        ("&include=none", [false, false]),
    ] {
        let one = explain(query).await.only();
        assert_eq!(
            parts.map(|part| one.get(part).is_some()),
            expected,
            "{query}"
        );
        assert!(
            one["target"]["score"].is_number() && one["predictions"].is_array(),
            "{query}"
        );
    }
    let [one, several] = [
        explain("").await.answer(),
        explain("&target=top:2").await.answer(),
    ];
    let fields = |value: &Value| {
        value
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(fields(&one), fields(&several));
    assert_eq!(
        fields(&one["explanations"][0]),
        fields(&several["explanations"][1])
    );
    assert_eq!(several["explanations"].as_array().unwrap().len(), 2);
    assert_eq!(one["version"], explaind::VERSION);
}

/// The gradient of `tiny` where all rectifiers are on: the channels of a pixel sum to (4 - 1 - 1) /
/// 64 / 9 for each pixel of the 8 x 8 whose filter it lies in, which are 4 in a corner, 6 at a
/// border and 9 inside.
#[tokio::test]
async fn an_answer_states_the_metrics_of_a_map_that_was_worked_by_hand() {
    let explain = async |query: &str| {
        let uri = format!("/explain?format=json&include=metrics&{query}");
        send(post(&uri, red())).await.only()
    };
    let one = explain("method=gradient&target=red").await;
    assert!(one.get("attribution").is_none());
    let metrics = one["metrics"].as_object().unwrap();
    assert!(!metrics.contains_key("completeness") && !metrics.contains_key("pointing_game"));
    // Σ k of the first 4, the next 24 and the last 36 is 10, 396 and 1674.
    let weighted = 4.0 * (20.0 - 4.0 * 65.0) + 6.0 * (792.0 - 24.0 * 65.0);
    let gini = (weighted + 9.0 * (3348.0 - 36.0 * 65.0)) / (64.0 * 484.0);
    let part = |count: f64, value: f64| -count * value / 484.0 * (value / 484.0).ln();
    let entropy = part(4.0, 4.0) + part(24.0, 6.0) + part(36.0, 9.0);
    for (id, expected) in [("sparseness", gini), ("entropy", entropy)] {
        let found = metrics[id].as_f64().unwrap();
        assert!((found - expected).abs() < 1e-5, "{id}: {found} {expected}");
    }
    // Both ends of the path are evaluated, so completeness costs nothing either.
    let path = explain("method=integrated_gradients&target=red&n_steps=4").await;
    let gap = path["convergence_delta"].as_f64().unwrap().abs();
    let found = path["metrics"]["completeness"].as_f64().unwrap();
    assert!((found - gap).abs() < 1e-6 && found < 1e-5, "{found} {gap}");
    assert_eq!(
        explain("method=pgig").await["metrics"].get("completeness"),
        None
    );
}

#[tokio::test]
async fn metrics_are_stated_for_every_explanation_and_never_unasked() {
    const URI: &str =
        "/compare?method=gradient&method=integrated_gradients&target=top:2&format=json";
    let compared = send(post(&format!("{URI}&include=metrics,attribution"), red())).await;
    let explained = compared.each();
    assert_eq!(explained.len(), 4);
    for one in explained {
        let alone = format!(
            "/explain?method={}&target=index:{}&format=json&include=metrics",
            one["method"].as_str().unwrap(),
            one["target"]["index"]
        );
        assert_eq!(
            send(post(&alone, red())).await.only()["metrics"],
            one["metrics"]
        );
        assert!(one["attribution"].is_object());
    }
    for one in send(post(URI, red())).await.each() {
        assert_eq!(one.get("metrics"), None);
    }
    let tensor = json!({ "tensor": [1.0, 2.0], "model": "numbers", "method": "gradient", "include": "metrics" });
    let refused = send(post_json("/explain", &tensor)).await;
    assert_eq!(refused.refused(), ["include"]);
    assert_eq!(refused.allowed("include"), ["attribution", "none"]);
}

#[tokio::test]
async fn an_answer_says_what_made_it_and_where_on_the_image_it_lies() {
    // 75 x 47 pixels become 409 x 256, of which the middle 224 x 224 are seen.
    let uri = "/explain?model=squeezenet1_1&method=gradient&format=json&include=none";
    let answer = send(post(uri, test_image("wide.png"))).await.only();
    let card = send(get("/models/squeezenet1_1")).await.answer();
    assert_eq!(
        (&answer["model_hash"], answer.get("patterns")),
        (&card["hash"], None)
    );
    let image = json!({ "width": 75, "height": 47, "crop": { "left": 17, "top": 3, "width": 41, "height": 41 } });
    assert_eq!(answer["image"], image);
    assert_eq!(
        send(post("/predict?model=squeezenet1_1", test_image("wide.png")))
            .await
            .only()["image"],
        image
    );
    let patterned = send(post("/explain?method=pgig&format=json&model=tiny", red()))
        .await
        .only();
    assert_eq!(
        patterned["patterns"],
        send(get("/models/tiny")).await.answer()["patterns"]
    );
    assert_eq!(
        patterned["image"]["crop"],
        json!({ "left": 0, "top": 0, "width": 12, "height": 8 })
    );
    let tensor = json!({ "tensor": [1.0, 2.0], "model": "numbers", "method": "gradient" });
    assert!(
        send(post_json("/explain", &tensor))
            .await
            .only()
            .get("image")
            .is_none()
    );
}

#[tokio::test]
async fn channels_are_summed_where_that_is_asked_for() {
    const URI: &str = "/explain?method=gradient&target=0";
    let all = send(post(&format!("{URI}&format=npy"), red()))
        .await
        .array();
    let expected = all.sum_axis(ndarray::Axis(0)).insert_axis(ndarray::Axis(0));
    assert_eq!(
        send(post(&format!("{URI}&format=npy&channels=sum"), red()))
            .await
            .array(),
        expected
    );
    let json = send(post(&format!("{URI}&format=json&channels=sum"), red()))
        .await
        .only();
    assert_eq!(
        (&json["attribution"]["shape"], values(&json)),
        (&json!([1, 8, 8]), expected.iter().copied().collect())
    );
    assert_eq!(
        send(post(&format!("{URI}&channels=sum"), red())).await.body,
        send(post(URI, red())).await.body
    );
    let tensor = json!({ "tensor": [1.0, 2.0], "model": "numbers", "channels": "sum" });
    assert_eq!(
        send(post_json("/explain", &tensor)).await.refused(),
        ["channels"]
    );
}

#[tokio::test]
async fn the_options_of_the_picture_change_it_and_nothing_else() {
    let plain = send(post("/explain?method=gradient&target=0", red())).await;
    for option in [
        "overlay_type=NONE",
        "overlay_type=mask_black",
        "type=outlines",
        "alpha=0.2",
        "color_map=viridis&overlay_type=NONE",
        "polarity=both&reduction=l2",
    ] {
        let other = send(post(
            &format!("/explain?method=gradient&target=0&{option}"),
            red(),
        ))
        .await;
        other.picture();
        assert_eq!(
            other.header("x-explaind-score"),
            plain.header("x-explaind-score")
        );
    }
    let bare = send(post(
        "/explain?method=gradient&target=0&overlay_type=NONE",
        red(),
    ))
    .await;
    assert_ne!(bare.body, plain.body);
}

#[tokio::test]
async fn the_headers_beside_a_picture_say_what_the_json_says() {
    const URI: &str = "/explain?method=integrated_gradients&target=0-2&n_steps=7";
    let picture = send(post(URI, red())).await;
    let json = send(post(&format!("{URI}&format=json"), red()))
        .await
        .only();
    picture.picture();
    let number =
        |answer: &Answered, name: &str| answer.header(name).unwrap().parse::<f64>().unwrap();
    assert_eq!(picture.header("x-explaind-target"), Some("0 red - 2 blue"));
    assert!(
        (number(&picture, "x-explaind-score") - json["target"]["score"].as_f64().unwrap()).abs()
            < 1e-6
    );
    let delta = json["convergence_delta"].as_f64().unwrap();
    assert!((number(&picture, "x-explaind-convergence-delta") - delta).abs() < 1e-6);
    assert!(
        picture
            .header("server-timing")
            .unwrap()
            .contains("model;dur=")
    );
    assert_eq!(json["target"]["against"]["label"], "blue");
    let animated = send(post("/explain?method=gradient", test_image("animated.png"))).await;
    assert!(
        animated
            .header("x-explaind-warnings")
            .unwrap()
            .contains("animated")
    );
}

#[tokio::test]
async fn the_parameters_of_an_answer_give_it_again() {
    let image = BASE64_STANDARD.encode(red());
    let mut requests: Vec<Value> = METHODS
        .iter()
        .map(|method| match method.id {
            "rise" => json!({ "method": "rise", "n_samples": 50, "tolerance": 0.02 }),
            // The picture's only region has its mean everywhere.
            "lime" => json!({ "method": "lime", "baseline": "zero" }),
            id => json!({ "method": id, "model": small_model(id) }),
        })
        .collect();
    requests.extend([
        json!({ "method": "occlusion", "window": "3x2", "stride": 1, "window_channels": "each", "baseline": "mean" }),
        json!({ "method": "integrated_gradients", "tolerance": 0.01, "target": "green" }),
        json!({ "method": "integrated_gradients", "quality": "fine", "baseline": "random:3+blur", "seed": 7 }),
        json!({ "method": "pgig", "pattern_layers": ["conv"], "head": "probabilities", "target": "red-blue" }),
        json!({ "method": "pgig", "multiply_by_inputs": false, "quadrature": "gauss_legendre", "n_steps": 5 }),
        json!({ "method": "gradient", "grad_output": "value", "target": "top:1" }),
        json!({ "method": "integrated_gradients", "rule_set": "pattern_net", "pattern_layers": "except_last" }),
        json!({ "method": "smooth_grad", "rule_set": "guided_backprop", "n_samples": 3, "noise_level": 0.2, "seed": 9 }),
        json!({ "method": "smooth_grad_ig", "compat": "pgig-2020", "n_samples": 2, "n_steps": 3 }),
        json!({ "method": "expected_gradients", "baseline": "black+white", "rule_set": "deconvnet", "n_samples": 5 }),
        json!({ "method": "guided_grad_cam", "layer": "conv", "rule_set": "pattern_attribution", "target": "red-blue" }),
    ]);
    for mut request in requests {
        request["image"] = json!(image);
        let first = send(post_json("/explain?format=json", &request))
            .await
            .only();
        assert!(
            values(&first).iter().any(|value| *value != 0.0),
            "{}",
            first["parameters"]
        );
        let mut again = first["parameters"].clone();
        again["image"] = json!(image);
        let second = send(post_json("/explain?format=json", &again)).await.only();
        assert_eq!(second["parameters"], first["parameters"]);
        assert_eq!(values(&second), values(&first), "{}", first["parameters"]);
        let query: String = first["parameters"].as_object().unwrap().iter().fold(
            String::new(),
            |query, (name, value)| {
                let text = match value {
                    Value::String(text) => text.clone(),
                    Value::Array(items) => items[0].as_str().unwrap().to_owned(),
                    other => other.to_string(),
                };
                format!("{query}&{name}={}", text.replace('+', "%2B"))
            },
        );
        let third = send(post(&format!("/explain?format=json{query}"), red()))
            .await
            .only();
        assert_eq!(values(&third), values(&first), "{query}");
    }
}

#[tokio::test]
async fn integrated_gradients_sum_to_the_difference_of_the_values() {
    let answer = send(post(
        "/explain?method=integrated_gradients&model=squeezenet1_1&format=json&n_steps=6",
        test_image("wide.png"),
    ))
    .await;
    let answer = answer.only();
    let number = |name: &str| answer[name].as_f64().unwrap_or_else(|| panic!("{name}"));
    let sum: f64 = values(&answer).iter().map(|value| f64::from(*value)).sum();
    let gap = number("input_value") - number("baseline_value");
    assert!((sum - gap - number("convergence_delta")).abs() < 1e-4);
    assert!(
        (number("approximation_error") - (number("convergence_delta") / gap).abs()).abs() < 1e-6
    );
    assert_eq!(answer["predictions"].as_array().unwrap().len(), 5);
}

#[tokio::test]
async fn a_request_id_is_given_back() {
    let own = send(with(post("/explain", red()), "x-request-id", "mine-7")).await;
    assert_eq!(own.header("x-request-id"), Some("mine-7"));
    let mut options = post("/explain", "");
    *options.method_mut() = Method::OPTIONS;
    assert_eq!(
        send(with(options, "x-request-id", "mine-8"))
            .await
            .header("x-request-id"),
        Some("mine-8")
    );
}
