//! Every kind of refusal is a problem+json that says what to do.

use axum::{body::Body, http::Request};
use serde_json::json;

use crate::{
    client::{get, post, post_as, post_json, send, send_to, with},
    fixture::{open, red, test_image},
};

fn request(method: &str, path: &str) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(path)
        .body(Body::empty())
        .unwrap()
}

#[tokio::test]
async fn what_is_not_there_is_404() {
    for (path, code) in [
        ("/nothing", "no_such_route"),
        ("/explain/", "no_such_route"),
        ("/methods/anchors", "unknown_method"),
        ("/models/resnet", "unknown_model"),
        ("/models/broken", "unknown_model"),
        ("/models/tiny/x", "no_such_route"),
        ("/models/..%2Ftiny", "unknown_model"),
    ] {
        assert_eq!(
            send(get(path)).await.problem(),
            (404, code.to_owned()),
            "{path}"
        );
    }
    assert!(
        send(get("/models/resnet"))
            .await
            .text()
            .contains("squeezenet1_1")
    );
}

#[tokio::test]
async fn what_libraries_say_is_told_in_words() {
    let mut webp = test_image("lossy.webp");
    webp.truncate(webp.len() / 2);
    let form = "multipart/form-data; boundary=edge";
    for (request, words) in [
        (
            post_as("/explain", "multipart/form-data", "--edge"),
            "its content type names no boundary",
        ),
        (
            post_as("/explain", form, "--edge\r\n"),
            "it ends before its last boundary",
        ),
        (
            post_as("/jobs", "application/json", r#"{"kind": "evaluate",}"#),
            "a comma stands before the end",
        ),
        (
            post_as(
                "/explain",
                "application/json",
                b"{\"image\": \"\xff\"}".to_vec(),
            ),
            "a text is not UTF-8",
        ),
        (
            post_json(
                "/explain",
                &json!({ "tensor": { "shape": [1], "data": "x" } }),
            ),
            "found a text, expected a number in the tensor",
        ),
        (post("/explain", webp), "the WebP image ends early"),
        (get("/metrics-catalogue/%FF"), "what it names is not UTF-8"),
        (
            post("/explain?method=gradient&size=9", red()),
            "size: 9 is out of range",
        ),
    ] {
        let answer = send(request).await;
        assert!(answer.text().contains(words), "{}", answer.text());
    }
}

#[tokio::test]
async fn a_path_that_is_no_text_is_a_problem_too() {
    for path in ["/models/%FF", "/methods/%C3%28"] {
        assert_eq!(
            send(get(path)).await.problem(),
            (400, "broken_path".into()),
            "{path}"
        );
    }
    assert_eq!(send(get("/%FF")).await.status, 404);
    assert_eq!(send(post("/explain?n_steps=%FF", red())).await.status, 422);
}

#[tokio::test]
async fn another_method_is_405_and_says_which_are_allowed() {
    for (method, path, allowed) in [
        ("GET", "/explain", "POST"),
        ("DELETE", "/predict", "POST"),
        ("POST", "/models", "GET,HEAD"),
        ("PUT", "/methods/pgig", "GET,HEAD"),
        ("POST", "/metrics", "GET,HEAD"),
        ("POST", "/openapi.json", "GET,HEAD"),
        ("OPTIONS", "/explain", "POST"),
    ] {
        let answer = send(request(method, path)).await;
        assert_eq!(
            answer.problem(),
            (405, "method_not_allowed".into()),
            "{method} {path}"
        );
        assert_eq!(answer.header("allow"), Some(allowed), "{method} {path}");
    }
}

#[tokio::test]
async fn missing_patterns_name_the_command_that_fits_them() {
    for method in ["pgig", "pattern_attribution", "pattern_net"] {
        let answer = send(post(
            &format!("/explain?model=plain&method={method}"),
            red(),
        ))
        .await;
        assert_eq!(answer.problem(), (422, "patterns_missing".into()));
        assert!(
            answer
                .text()
                .contains("explaind fit-patterns --model plain"),
            "{}",
            answer.text()
        );
    }
}

#[tokio::test]
async fn too_high_a_cost_is_told() {
    let service = open(&[("max_interactive_evaluations", "40")]);
    let ask = async |query: &str| {
        send_to(&service.router, post(&format!("/explain?{query}"), red())).await
    };
    assert_eq!(ask("n_steps=20").await.status, 200);
    for query in [
        "n_steps=60",
        "method=integrated_gradients&baseline=random:5",
        "target=top:3",
        "method=integrated_gradients&tolerance=0.1",
    ] {
        let answer = ask(query).await;
        assert_eq!(answer.problem(), (422, "too_costly".into()), "{query}");
        let cost = answer.json()["cost"].clone();
        assert!(cost["evaluations"].as_u64().unwrap() > 40, "{query} {cost}");
        assert_eq!(cost["max_interactive_evaluations"], 40);
    }
    let red = red();
    let two: [(&str, &[u8]); 2] = [("image", &red), ("image", &red)];
    let answer = send_to(
        &service.router,
        crate::client::multipart("/explain?n_steps=25", &two),
    )
    .await;
    assert_eq!(answer.problem(), (422, "too_costly".into()));
}

#[tokio::test]
async fn a_time_limit_is_a_whole_number_of_milliseconds() {
    for value in ["soon", "0", "-5", "1.5", ""] {
        let answer = send(with(post("/explain", red()), "x-request-timeout-ms", value)).await;
        assert_eq!(answer.refused(), ["x-request-timeout-ms"], "{value}");
    }
    assert_eq!(
        send(with(
            post("/explain", red()),
            "x-request-timeout-ms",
            "60000"
        ))
        .await
        .status,
        200
    );
}

#[tokio::test]
async fn a_model_that_is_named_and_broken_says_what_is_wrong_with_it() {
    let answer = send(post("/explain?model=broken", red())).await;
    assert_eq!(answer.refused(), ["model"]);
    assert!(answer.text().contains("model.onnx:"), "{}", answer.text());
    let unknown = send(post_json(
        "/predict",
        &json!({ "tensor": { "shape": [2], "data": [1, 2] }, "model": "nobody" }),
    ))
    .await;
    assert_eq!(unknown.refused(), ["model"]);
    assert!(unknown.allowed("model").contains(&"numbers".to_owned()));
}

/// What a request of a megabyte may be answered with.
const BOUND: usize = 64 << 10;

#[tokio::test]
async fn an_error_never_grows_with_the_request() {
    let long = "x".repeat(1 << 20);
    let path = "y".repeat(60_000);
    let many: serde_json::Map<String, serde_json::Value> =
        (0..100_000).map(|at| (at.to_string(), json!(0))).collect();
    let mut requests: Vec<(String, Request<Body>)> = Vec::new();
    for field in [
        "model", "method", "target", "targets", "baseline", "n_steps", "format", "type", "layer",
        "z",
    ] {
        requests.push((
            field.into(),
            post_json(
                "/explain",
                &json!({"image": "AA==", field: &long[..900_000]}),
            ),
        ));
        requests.push((
            format!("{field} query"),
            post(&format!("/explain?{field}={path}"), red()),
        ));
    }
    for field in [
        "image",
        "images",
        "tensor",
        "baseline_tensor",
        "segments_file",
        "segments",
        "baseline_image",
    ] {
        requests.push((field.into(), post_json("/explain", &json!({ field: long }))));
    }
    for place in ["/explain", "/compare", "/predict", "/jobs"] {
        requests.push((format!("{place} many"), post_json(place, &json!(many))));
        requests.push((
            format!("{place} name"),
            post_json(place, &json!({ "image": "AA==", &long[..900_000]: 1 })),
        ));
        requests.push((
            format!("{place} query"),
            post(&format!("{place}?{path}=1"), red()),
        ));
    }
    for field in [
        "kind", "model", "dataset", "methods", "limit", "labels", "metric",
    ] {
        let mut asked = json!({"kind": "degradation", "methods": ["random"], "dataset": "none"});
        asked[field] = json!(&long[..900_000]);
        requests.push((format!("job {field}"), post_json("/jobs", &asked)));
    }
    let methods: Vec<_> = (0..10_000)
        .map(|at| json!({ "id": format!("{at}{}", &long[..50]) }))
        .collect();
    requests.push((
        "job methods".into(),
        post_json("/jobs", &json!({"kind": "degradation", "methods": methods})),
    ));
    for path in [
        format!("/jobs?state={path}"),
        format!("/methods/{path}"),
        format!("/datasets/{path}"),
        format!("/{path}"),
    ] {
        requests.push((path[..12].into(), get(&path)));
    }
    for header in ["accept", "x-request-timeout-ms"] {
        requests.push((header.into(), with(post("/explain", red()), header, &path)));
    }
    requests.push((
        "content type".into(),
        crate::client::post_as("/explain", &path, red()),
    ));
    for (name, request) in requests {
        let answer = send(request).await;
        assert!(answer.status.is_client_error(), "{name}: {}", answer.status);
        assert!(
            answer.body.len() < BOUND,
            "{name}: {} bytes",
            answer.body.len()
        );
    }
}

#[tokio::test]
async fn many_faults_are_counted_and_the_first_are_told() {
    let query: Vec<String> = (0..100).map(|at| format!("a{at}=1")).collect();
    let answer = send(post(&format!("/explain?{}", query.join("&")), red())).await;
    assert_eq!(answer.problem(), (422, "invalid_parameters".into()));
    let problem = answer.json();
    assert_eq!(problem["errors"].as_array().map(Vec::len), Some(20));
    assert_eq!(problem["more_errors"], 80);
    assert!(problem["detail"].as_str().unwrap().ends_with("and 80 more"));
}

#[tokio::test]
async fn parameters_are_bounded_in_number_and_size() {
    let many: serde_json::Map<String, serde_json::Value> =
        (0..300).map(|at| (at.to_string(), json!(0))).collect();
    let deep = json!({ "methods": vec![0; 600_000] });
    for body in [json!(many), deep] {
        let answer = send(post_json("/compare", &body)).await;
        assert_eq!(answer.problem(), (400, "broken_json".into()));
        assert!(
            answer.text().contains("256 parameters"),
            "{}",
            answer.text()
        );
    }
}
