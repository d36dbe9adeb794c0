//! What keeps the service from starting, and what does not.

use explaind::app::App;

use crate::{
    client::{get, post, send_to},
    house::{open, red, settings_with},
};

#[tokio::test]
async fn a_broken_default_model_keeps_no_other_from_serving() {
    let house = open(&[("default_model", "broken")]);
    assert_eq!(send_to(&house.router, post("/explain?model=tiny", red())).await.status, 200);
    for uri in ["/explain", "/predict"] {
        let answer = send_to(&house.router, post(uri, red())).await;
        assert_eq!(answer.refused(), ["model"]);
        assert!(
            answer.text().contains("default model broken") && answer.text().contains("model.onnx:"),
            "{}",
            answer.text()
        );
        assert!(answer.allowed("model").contains(&"tiny".to_owned()));
    }
    let models = send_to(&house.router, get("/models")).await.answer();
    assert!(models["models"].as_array().unwrap().iter().all(|model| model["default"] == false));
    assert_eq!(send_to(&house.router, get("/readyz")).await.status, 200);
}

#[test]
fn a_default_model_that_is_not_there_is_told_with_those_that_are() {
    let error = App::start(settings_with(&[("default_model", "resnet")])).err().unwrap().to_string();
    assert!(error.contains("resnet") && error.contains("tiny"), "{error}");
}

#[tokio::test]
async fn without_a_model_the_service_is_not_ready() {
    let folder = tempfile::tempdir().unwrap();
    let house = open(&[("models", folder.path().to_str().unwrap()), ("default_model", "")]);
    let answer = send_to(&house.router, get("/readyz")).await;
    assert_eq!(answer.problem(), (503, "not_ready".into()));
    assert!(answer.header("retry-after").is_some());
    assert_eq!(send_to(&house.router, get("/healthz")).await.status, 200);
    assert_eq!(send_to(&house.router, post("/explain", red())).await.refused(), ["model"]);
}

#[tokio::test]
async fn browsers_may_call_from_the_origins_of_the_settings() {
    let house = open(&[("cors_origins", "https://viewer.example")]);
    let ask = async |origin: &str| {
        let request = crate::client::with(post("/explain", red()), "origin", origin);
        send_to(&house.router, request).await.headers.get("access-control-allow-origin").cloned()
    };
    assert_eq!(ask("https://viewer.example").await.unwrap(), "https://viewer.example");
    assert_eq!(ask("https://other.example").await, None);
}
