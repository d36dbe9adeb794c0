//! The line that each request leaves in the log.

use std::{
    io::Write,
    sync::{Arc, Mutex},
};

use axum::body::Body;
use explaind::telemetry;
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt, net::TcpStream};
use tower::ServiceExt;

use crate::{
    client::{get, post, send, with},
    fixture::{open, red, shared},
    load::serve,
};

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The lines of requests that are logged at `level` while `work` is done on this thread.
async fn logged(level: &str, work: impl Future<Output = ()>) -> Vec<Value> {
    let mut lines = all_logged(level, work).await;
    lines.retain(|line| line["message"] == "request");
    lines
}

async fn all_logged(level: &str, work: impl Future<Output = ()>) -> Vec<Value> {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = telemetry::subscriber(level, true, false, move || writer.clone()).unwrap();
    let guard = tracing::subscriber::set_default(subscriber);
    work.await;
    drop(guard);
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test]
async fn a_request_is_one_line_with_what_an_operator_asks_for() {
    let mut length = 0;
    let lines = logged("info", async {
        let request = with(
            post("/explain?method=gradient&model=plain", red()),
            "x-request-id",
            "mine-1",
        );
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        length = send(with(request, "traceparent", trace)).await.body.len();
    })
    .await;
    let [line] = lines.as_slice() else {
        panic!("{lines:?}")
    };
    assert_eq!(
        (&line["level"], &line["route"], &line["status"]),
        (&json!("INFO"), &json!("/explain"), &json!(200))
    );
    assert_eq!(
        (line["bytes"].as_u64(), line.get("client_left")),
        (Some(length as u64), None)
    );
    assert!(
        line["duration_ms"].as_f64().is_some_and(|ms| ms > 0.0),
        "{line}"
    );
    let span = &line["span"];
    assert_eq!(
        (&span["method"], &span["path"], &span["id"]),
        (&json!("POST"), &json!("/explain"), &json!("mine-1"))
    );
    assert_eq!(
        (&span["model"], &span["attribution"]),
        (&json!("plain"), &json!("gradient"))
    );
    assert_eq!(span["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
}

#[tokio::test]
async fn the_line_of_a_refused_request_says_why_and_is_bounded() {
    let long = "x".repeat(10_000);
    let lines = logged("info", async {
        send(post("/explain?method=gradient&n_step=3&model=plain", red())).await;
        send(get(&format!("/{long}"))).await;
    })
    .await;
    let [refused, unknown] = lines.as_slice() else {
        panic!("{lines:?}")
    };
    assert_eq!(
        (&refused["status"], &refused["code"]),
        (&json!(422), &json!("invalid_parameters"))
    );
    assert!(
        refused["detail"].as_str().unwrap().contains("n_step"),
        "{refused}"
    );
    assert_eq!(
        (&unknown["route"], &unknown["code"]),
        (&json!("none"), &json!("no_such_route"))
    );
    assert!(unknown.to_string().len() < 2000, "{unknown}");
}

#[tokio::test]
async fn a_head_that_cannot_be_read_is_a_line_too() {
    let lines = all_logged("info", async {
        let service = open(&[("shutdown_grace_ms", "0")]);
        let server = serve(&service).await;
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET /a b HTTP/1.1\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        drop(stream);
        // It ends when all connections have ended, and with them what they log.
        server.stop.send(()).unwrap();
        server.ended.await.unwrap().unwrap();
    })
    .await;
    let mut lines = lines.iter();
    let told = |line: &&Value| {
        let message = line["message"].as_str().unwrap();
        message.starts_with("a request was refused")
    };
    assert!(lines.any(|line| told(&line) && line["level"] == "INFO"));
}

#[tokio::test]
async fn probes_are_logged_at_debug_alone() {
    let probe = || async {
        for path in ["/healthz", "/readyz", "/metrics"] {
            assert_eq!(send(get(path)).await.status, 200);
        }
    };
    assert!(logged("info", probe()).await.is_empty());
    assert_eq!(
        logged("explaind::api::access=debug", probe()).await.len(),
        3
    );
}

#[tokio::test]
async fn a_client_that_does_not_take_its_response_is_told() {
    let lines = logged("info", async {
        drop(
            shared()
                .router
                .clone()
                .oneshot(get("/models"))
                .await
                .unwrap(),
        );
        let head = axum::http::Request::head("/models")
            .body(Body::empty())
            .unwrap();
        shared().router.clone().oneshot(head).await.unwrap();
    })
    .await;
    let [left, head] = lines.as_slice() else {
        panic!("{lines:?}")
    };
    assert_eq!(
        (&left["client_left"], &left["bytes"]),
        (&json!(true), &json!(0))
    );
    assert_eq!(
        (&head["status"], head.get("client_left")),
        (&json!(200), None)
    );
}
