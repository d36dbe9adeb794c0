//! What keeps the service from starting, and what does not.

use axum::{body::Body, http::Request};
use explaind::app::App;

use crate::{
    client::{Answered, get, post, send, send_to, with},
    fixture::{Service, open, red, settings_with},
};

#[tokio::test]
async fn a_broken_default_model_keeps_no_other_from_serving() {
    let service = open(&[("default_model", "broken")]);
    assert_eq!(
        send_to(&service.router, post("/explain?model=tiny", red()))
            .await
            .status,
        200
    );
    for uri in ["/explain", "/predict"] {
        let answer = send_to(&service.router, post(uri, red())).await;
        assert_eq!(answer.refused(), ["model"]);
        assert!(
            answer.text().contains("default model broken") && answer.text().contains("model.onnx:"),
            "{}",
            answer.text()
        );
        assert!(answer.allowed("model").contains(&"tiny".to_owned()));
    }
    let models = send_to(&service.router, get("/models")).await.answer();
    assert!(
        models["models"]
            .as_array()
            .unwrap()
            .iter()
            .all(|model| model["default"] == false)
    );
    assert_eq!(send_to(&service.router, get("/readyz")).await.status, 200);
}

#[test]
fn a_default_model_that_is_not_there_is_told_with_those_that_are() {
    let error = App::start(settings_with(&[("default_model", "resnet")]))
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("resnet") && error.contains("tiny"),
        "{error}"
    );
}

#[tokio::test]
async fn without_a_model_the_service_is_not_ready() {
    let folder = tempfile::tempdir().unwrap();
    let service = open(&[
        ("models", folder.path().to_str().unwrap()),
        ("default_model", ""),
    ]);
    let answer = send_to(&service.router, get("/readyz")).await;
    assert_eq!(answer.problem(), (503, "not_ready".into()));
    assert!(answer.header("retry-after").is_some());
    assert_eq!(send_to(&service.router, get("/healthz")).await.status, 200);
    assert_eq!(
        send_to(&service.router, post("/explain", red()))
            .await
            .refused(),
        ["model"]
    );
}

#[tokio::test]
async fn browsers_may_call_from_the_origins_of_the_settings() {
    let service = open(&[("cors_origins", "https://viewer.example")]);
    let ask = async |origin: &str| {
        let request = crate::client::with(post("/explain", red()), "origin", origin);
        send_to(&service.router, request)
            .await
            .headers
            .get("access-control-allow-origin")
            .cloned()
    };
    assert_eq!(
        ask("https://viewer.example").await.unwrap(),
        "https://viewer.example"
    );
    assert_eq!(ask("https://other.example").await, None);
}

/// What a page of `origin` is answered when it asks the server under the name `host`.
async fn ask_from(service: &Service, request: Request<Body>, origin: &str, host: &str) -> Answered {
    send_to(
        &service.router,
        with(with(request, "origin", origin), "host", host),
    )
    .await
}

#[tokio::test]
async fn pages_of_other_sites_may_change_nothing() {
    let service = open(&[]);
    let delete = || {
        Request::delete("/datasets/none")
            .body(Body::empty())
            .unwrap()
    };
    let cancel = || post("/jobs/none/cancel", Body::empty());
    for request in [
        post("/explain", red()),
        post("/predict", red()),
        delete(),
        cancel(),
    ] {
        let answer = ask_from(&service, request, "https://evil.example", "localhost:8080").await;
        assert_eq!(answer.problem(), (403, "foreign_origin".into()));
        assert!(answer.text().contains("cors_origins"), "{}", answer.text());
    }
    assert_eq!(
        ask_from(&service, post("/predict", red()), "null", "localhost:8080")
            .await
            .status,
        403
    );
    for host in ["localhost:8080", "127.0.0.1:8080", "[::1]:8080"] {
        let own = format!("http://{host}");
        assert_eq!(
            ask_from(&service, post("/predict", red()), &own, host)
                .await
                .status,
            200,
            "{host}"
        );
    }
    assert_eq!(
        ask_from(
            &service,
            get("/models"),
            "https://evil.example",
            "localhost"
        )
        .await
        .status,
        200
    );
    assert_eq!(
        send_to(&service.router, with(post("/predict", red()), "host", "x"))
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn a_foreign_name_that_leads_to_this_machine_is_refused_unless_it_is_listed() {
    const NAME: &str = "rebound.example:8080";
    const PAGE: &str = "http://rebound.example:8080";
    let answer = ask_from(&open(&[]), post("/predict", red()), PAGE, NAME).await;
    assert_eq!(answer.problem(), (403, "foreign_host".into()));
    assert!(answer.text().contains("allowed_hosts"), "{}", answer.text());
    for settings in [
        [("allowed_hosts", "rebound.example")],
        [("cors_origins", PAGE)],
        [("listen", "0.0.0.0:8080")],
    ] {
        assert_eq!(
            ask_from(&open(&settings), post("/predict", red()), PAGE, NAME)
                .await
                .status,
            200,
            "{settings:?}"
        );
    }
}

#[tokio::test]
async fn every_answer_tells_browsers_what_it_may_do() {
    let page = send(get("/docs/")).await;
    assert_eq!(
        page.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    for answer in [
        send(get("/healthz")).await,
        send(get("/nothing")).await,
        send(post("/explain", red())).await,
        page,
    ] {
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("x-frame-options"), Some("DENY"));
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
        let policy = answer.header("content-security-policy").unwrap();
        assert!(
            policy.contains("frame-ancestors 'none'") && policy.contains("base-uri 'none'"),
            "{policy}"
        );
    }
}

#[tokio::test]
async fn the_documents_page_needs_only_what_its_policy_allows() {
    let page = send(get("/docs/")).await;
    let policy = page.header("content-security-policy").unwrap();
    assert!(
        policy.contains("script-src 'self';") && policy.contains("object-src 'none'"),
        "{policy}"
    );
    let text = page.text();
    let scripts: Vec<&str> = text.split("<script").skip(1).collect();
    assert!(!scripts.is_empty());
    for script in scripts {
        let (tag, rest) = script.split_once('>').unwrap();
        let inline = rest.split("</script>").next().unwrap().trim();
        assert!(tag.contains("src=\"./") && inline.is_empty(), "{script}");
    }
    for event in ["onload=", "onclick=", "onerror=", "javascript:"] {
        assert!(!text.contains(event), "{event}");
    }
}

#[tokio::test]
async fn a_request_id_is_kept_when_it_can_be_read() {
    let id = async |id: &str| {
        let answer = send(with(get("/healthz"), "x-request-id", id)).await;
        answer.header("x-request-id").unwrap().to_owned()
    };
    assert_eq!(id("order-66").await, "order-66");
    for unusable in [String::new(), "a b".to_owned(), "x".repeat(129)] {
        assert_eq!(id(&unusable).await.len(), 36, "{unusable}");
    }
}

#[tokio::test]
async fn encoded_bodies_are_refused_by_the_name_of_their_encoding() {
    for request in [
        post("/predict", red()),
        post("/explain", red()),
        put("/datasets/packed", b"PK"),
    ] {
        let answer = send(with(request, "content-encoding", "gzip")).await;
        assert_eq!(
            answer.problem(),
            (415, "unsupported_content_encoding".into())
        );
        assert!(
            answer.text().contains("content-encoding gzip"),
            "{}",
            answer.text()
        );
    }
    assert_eq!(
        send(with(
            post("/predict", red()),
            "content-encoding",
            "identity"
        ))
        .await
        .status,
        200
    );
}

fn put(path: &str, body: &'static [u8]) -> Request<Body> {
    Request::put(path).body(Body::from(body)).unwrap()
}
