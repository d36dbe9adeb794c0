//! Models that clients upload: served once they were tried, kept in versions, shared with other
//! processes, and taken away.

use std::{fs, sync::Arc};

use axum::{Router, body::Body, http::Request};
use bytes::Bytes;
use explaind::app::App;
use futures::{StreamExt, future::join_all, stream};
use onnx_autodiff::onnx::{ExternalRef, read_bytes, write_model_external};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::{
    benchmark::{Fixture, fixture_with},
    client::{Answered, get, post, post_as, send_to},
    fixture::{colour_model, colour_model_through, red},
};

const MANIFEST: &str = "head = \"logits\"\n[input]\nmean = 0.0\nstd = 1.0\nresize = \"stretch\"\n";
const LABELS: &[u8] = b"rouge\nvert\nbleu\n";

/// The body of a form: the name of each part, its file's name, and its bytes.
fn form(parts: &[(&str, &str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, file, bytes) in parts {
        let head = format!("content-disposition: form-data; name=\"{name}\"; filename=\"{file}\"");
        body.extend(format!("--edge\r\n{head}\r\n\r\n").bytes());
        body.extend(*bytes);
        body.extend(b"\r\n");
    }
    body.extend(b"--edge--\r\n");
    body
}

fn put(id: &str, body: impl Into<Body>) -> Request<Body> {
    let mut request = post_as(
        &format!("/models/{id}"),
        "multipart/form-data; boundary=edge",
        body,
    );
    *request.method_mut() = axum::http::Method::PUT;
    request
}

async fn upload(router: &Router, id: &str, parts: &[(&str, &str, &[u8])]) -> Answered {
    send_to(router, put(id, form(parts))).await
}

/// A whole model, of these labels.
async fn upload_labelled(router: &Router, id: &str, labels: &[u8]) -> Answered {
    let model = colour_model();
    let parts = [
        ("model", "net.onnx", &model[..]),
        ("manifest", "model.toml", MANIFEST.as_bytes()),
        ("labels", "names.txt", labels),
    ];
    upload(router, id, &parts).await
}

async fn delete(router: &Router, id: &str) -> Answered {
    let request = Request::delete(format!("/models/{id}"));
    send_to(router, request.body(Body::empty()).unwrap()).await
}

async fn label(router: &Router, model: &str) -> (u16, Value) {
    let answer = send_to(router, post(&format!("/predict?model={model}"), red())).await;
    let label = answer.json()["results"][0]["predictions"][0]["label"].clone();
    (answer.status.as_u16(), label)
}

async fn versions(router: &Router, id: &str) -> (u64, Vec<u64>) {
    let list = send_to(router, get(&format!("/models/{id}/versions")))
        .await
        .answer();
    let versions = list["versions"].as_array().unwrap().iter();
    let numbers = versions
        .map(|one| one["version"].as_u64().unwrap())
        .collect();
    (list["in_use"].as_u64().unwrap(), numbers)
}

/// The names of the files in a tar, sorted.
async fn archived(router: &Router, path: &str) -> Vec<String> {
    let answer = send_to(router, get(&format!("/models/{path}"))).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let mut archive = tar::Archive::new(&answer.body[..]);
    let entries = archive.entries().unwrap();
    let names = entries.map(|entry| entry.unwrap().path().unwrap().display().to_string());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

async fn roll_back(router: &Router, id: &str, version: &str) -> Answered {
    send_to(
        router,
        post(&format!("/models/{id}/rollback?version={version}"), ""),
    )
    .await
}

#[tokio::test]
async fn a_model_is_uploaded_replaced_rolled_back_and_deleted() {
    let fixture = fixture_with(&[("max_model_versions", "3")]);
    let router = &fixture.router;
    let answer = upload_labelled(router, "pets", LABELS).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_eq!(answer.header("location"), Some("/models/pets"));
    let card = answer.json();
    assert_eq!(
        (&card["uploaded"], &card["trained"], &card["labels"]),
        (
            &json!(true),
            &json!(false),
            &json!(["rouge", "vert", "bleu"])
        )
    );
    assert_eq!(send_to(router, get("/models/pets")).await.answer(), card);
    assert_eq!(label(router, "pets").await, (200, json!("rouge")));
    let explain = post("/explain?model=pets&method=gradient&format=json", red());
    assert_eq!(
        send_to(router, explain).await.only()["model_hash"],
        card["hash"]
    );

    // A manifest in JSON; no labels.
    let model = colour_model();
    let manifest =
        json!({"head": "logits", "input": {"mean": 0.0, "std": 1.0, "resize": "stretch"}})
            .to_string();
    let parts = [
        ("manifest", "m.json", manifest.as_bytes()),
        ("model", "net.onnx", &model),
    ];
    let answer = upload(router, "pets", &parts).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.json()["labels"]),
        (200, &json!([]))
    );
    assert_eq!(answer.json()["warnings"], card["warnings"]);
    assert_eq!(label(router, "pets").await, (200, Value::Null));
    assert_eq!(versions(router, "pets").await, (2, vec![2, 1]));

    let second = ["pets/model.onnx", "pets/model.toml", "pets/upload.json"];
    assert_eq!(archived(router, "pets/archive").await, second);
    assert_eq!(archived(router, "pets/archive?version=2").await, second);
    assert_eq!(
        archived(router, "pets/archive?version=1").await,
        ["pets/labels.txt", second[0], second[1], second[2]]
    );
    for (version, problem) in [
        ("3", (404, "unknown_version")),
        ("x", (422, "invalid_parameters")),
    ] {
        let uri = format!("/models/pets/archive?version={version}");
        let (status, code) = send_to(router, get(&uri)).await.problem();
        assert_eq!((status, code.as_str()), problem);
    }

    assert_eq!(roll_back(router, "pets", "1").await.answer()["in_use"], 1);
    assert_eq!(label(router, "pets").await, (200, json!("rouge")));
    // Another process on the same data has the same version, now and after a reload.
    let other = App::start(fixture.queue.app().settings().clone()).unwrap();
    other.catch_up().await;
    assert_eq!(other.models().get("pets").unwrap().labels.len(), 3);
    other.reload_models().await.unwrap();
    assert_eq!(other.models().get("pets").unwrap().labels.len(), 3);
    assert_eq!(roll_back(router, "pets", "2").await.answer()["in_use"], 2);
    other.catch_up().await;
    assert_eq!(other.models().get("pets").unwrap().labels.len(), 0);

    // A new version is in use whatever was rolled back to, and the oldest are dropped.
    for labels in [&b"a\nb\nc\n"[..], b"d\ne\nf\n"] {
        assert_eq!(roll_back(router, "pets", "2").await.status, 200);
        assert_eq!(upload_labelled(router, "pets", labels).await.status, 200);
    }
    assert_eq!(label(router, "pets").await, (200, json!("d")));
    assert_eq!(versions(router, "pets").await, (4, vec![4, 3, 2]));
    for version in ["1", "9"] {
        let (status, code) = roll_back(router, "pets", version).await.problem();
        assert_eq!((status, code.as_str()), (404, "unknown_version"));
    }
    for version in ["", "x", "-1"] {
        assert_eq!(
            roll_back(router, "pets", version).await.refused(),
            ["version"]
        );
    }

    assert_eq!(delete(router, "pets").await.status, 204);
    assert_eq!(label(router, "pets").await.0, 422);
    let unknown = (404, "unknown_model".to_owned());
    let listed = send_to(router, get("/models/pets/versions")).await;
    assert_eq!(
        (listed.problem(), delete(router, "pets").await.problem()),
        (unknown.clone(), unknown)
    );
    let configured = (409, "configured_model".to_owned());
    assert_eq!(
        send_to(router, get("/models/tiny/versions"))
            .await
            .problem(),
        configured
    );
    other.catch_up().await;
    assert!(other.models().get("pets").is_none());
    assert!(!fixture.data.path().join("files/uploaded/pets").exists());
    // The id is free again.
    assert_eq!(upload_labelled(router, "pets", LABELS).await.status, 201);
}

#[tokio::test]
async fn a_broken_upload_never_replaces_a_good_version() {
    let fixture = fixture_with(&[("max_models", "1"), ("max_model_bytes", "3000000")]);
    let router = &fixture.router;
    assert_eq!(upload_labelled(router, "pets", LABELS).await.status, 201);
    let (model, odd) = (colour_model(), colour_model_through("NoSuchOp"));
    let refused = async |parts: &[(&str, &str, &[u8])]| {
        let answer = upload(router, "pets", parts).await;
        (answer.problem(), answer.text())
    };
    for (parts, told) in [
        (vec![("model", "m", &b"no model"[..])], "model.onnx"),
        (vec![("model", "m", &odd[..])], "NoSuchOp"),
        (
            vec![
                ("model", "m", &model[..]),
                ("manifest", "t", b"head = \"maybe\""),
            ],
            "model.toml",
        ),
        (
            vec![("model", "m", &model[..]), ("labels", "t", b"one\ntwo\n")],
            "labels",
        ),
    ] {
        let ((status, code), text) = refused(&parts).await;
        assert_eq!((status, code.as_str()), (422, "unusable_model"), "{text}");
        assert!(text.contains(told), "{text}");
    }
    let parts = |name: &'static str, file: &'static str| {
        let ok = ("model", "m", &model[..]);
        vec![ok, (name, file, &b"x"[..])]
    };
    for (parts, param) in [
        (vec![("labels", "l", &b"a\n"[..])], "model"),
        (parts("model", "m"), "model"),
        (parts("weights", "w"), "form"),
        (parts("data", "../w.bin"), "data"),
        (parts("data", "model.toml"), "data"),
        (parts("data", ".hidden"), "data"),
        (parts("data", ""), "data"),
        (
            vec![
                ("model", "m", &model[..]),
                ("manifest", "t", b"{\"head\": "),
            ],
            "manifest",
        ),
        (
            vec![
                ("model", "m", &model[..]),
                ("manifest", "t", b"{\"head\": null}"),
            ],
            "manifest",
        ),
    ] {
        assert_eq!(upload(router, "pets", &parts).await.refused(), [param]);
    }
    let large = vec![b'x'; 3_000_001];
    let ((status, _), _) = refused(&[("model", "m", &large)]).await;
    assert_eq!(status, 413);
    let mut headers = b"--edge\r\ncontent-disposition: form-data; name=\"model\"; x=\"".to_vec();
    headers.extend(vec![b'y'; 2_500_000]);
    let pieces: Vec<_> = headers
        .chunks(100_000)
        .map(|piece| Ok::<_, std::io::Error>(Bytes::copy_from_slice(piece)))
        .collect();
    let answer = send_to(router, put("pets", Body::from_stream(stream::iter(pieces)))).await;
    assert_eq!(
        answer.problem(),
        (400, "broken_multipart".to_owned()),
        "{}",
        answer.text()
    );
    let cut = form(&[("model", "m", &model)]);
    let answer = send_to(router, put("pets", cut[..cut.len() - 20].to_vec())).await;
    assert_eq!(answer.problem(), (400, "broken_multipart".to_owned()));
    let mut json = post_as("/models/pets", "application/json", "{}");
    *json.method_mut() = axum::http::Method::PUT;
    assert_eq!(send_to(router, json).await.status, 415);

    for (id, expected) in [
        ("tiny", (409, "model_taken")),
        ("broken", (409, "model_taken")),
        ("more", (507, "too_many_models")),
        (".pets", (422, "invalid_parameters")),
    ] {
        let (status, code) = upload_labelled(router, id, LABELS).await.problem();
        assert_eq!((status, code.as_str()), expected, "{id}");
    }
    assert_eq!(versions(router, "pets").await, (1, vec![1]));
    assert_eq!(label(router, "pets").await, (200, json!("rouge")));
    let left = fs::read_dir(fixture.data.path().join("datasets")).unwrap();
    let left = left
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir());
    let files = left.flat_map(|folder| fs::read_dir(folder).unwrap());
    assert_eq!(files.count(), 1, "the lock of the staging folder alone");
}

#[tokio::test]
async fn a_full_disk_is_told_and_the_old_version_serves() {
    let fixture = fixture_with(&[]);
    assert_eq!(
        upload_labelled(&fixture.router, "pets", LABELS)
            .await
            .status,
        201
    );
    let small = fixture_on(&fixture, &[("max_data_bytes", "40000")]);
    let large = vec![b'x'; 100_000];
    let parts = [
        ("model", "m", &colour_model()[..]),
        ("data", "w.bin", &large),
    ];
    let answer = upload(&small, "pets", &parts).await;
    assert_eq!(answer.status, 507, "{}", answer.text());
    assert_eq!(label(&fixture.router, "pets").await, (200, json!("rouge")));
}

/// Another server on the same data.
fn fixture_on(fixture: &Fixture, changes: &[(&str, &str)]) -> Router {
    let data = fixture.data.path().to_str().unwrap();
    let all: Vec<_> = [("data", data)]
        .into_iter()
        .chain(changes.iter().copied())
        .collect();
    crate::fixture::open(&all).router
}

#[tokio::test]
async fn external_data_comes_in_files_of_its_own() {
    let fixture = fixture_with(&[]);
    let net = read_bytes(colour_model().into(), None).unwrap();
    let mut data = Vec::new();
    let model = write_model_external(&net, 64, &mut |_, literal| {
        let offset = data.len() as u64;
        data.extend(&literal.bytes[..]);
        Some(ExternalRef {
            location: "w.bin".into(),
            offset,
        })
    })
    .unwrap();
    let manifest = ("manifest", "t", MANIFEST.as_bytes());
    let alone = upload(
        &fixture.router,
        "large",
        &[("model", "m", &model), manifest],
    )
    .await;
    assert_eq!(alone.problem(), (422, "unusable_model".to_owned()));
    assert!(alone.text().contains("w.bin"), "{}", alone.text());
    // A name that the store of files would write in another way, and patterns that are none.
    for (part, name) in [("data", "w#1.bin"), ("data", "w%2Fq"), ("patterns", "p")] {
        let parts = [
            ("data", "w.bin", &data[..]),
            (part, name, &b"\xff\xff"[..]),
            ("model", "m", &model),
            manifest,
        ];
        let answer = upload(&fixture.router, "large", &parts).await;
        assert_eq!(answer.refused(), [part], "{name}");
    }
    let parts = [
        ("data", "w.bin", &data[..]),
        ("model", "m", &model),
        manifest,
        ("labels", "l", LABELS),
    ];
    let answer = upload(&fixture.router, "large", &parts).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_eq!(label(&fixture.router, "large").await, (200, json!("rouge")));
}

#[tokio::test]
async fn versions_are_swapped_under_load_without_a_failed_request() {
    let fixture = fixture_with(&[]);
    let router = &fixture.router;
    assert_eq!(upload_labelled(router, "pets", LABELS).await.status, 201);
    let asking = async |_| {
        let mut seen = Vec::new();
        for _ in 0..12 {
            let uri = "/explain?model=pets&method=integrated_gradients&n_steps=4&format=json";
            let one = send_to(router, post(uri, red())).await.only();
            seen.push(one["target"]["label"].clone());
        }
        seen
    };
    let swapping = async {
        for labels in [&b"one\nb\nc\n"[..], b"two\nb\nc\n", b"three\nb\nc\n"] {
            assert_eq!(upload_labelled(router, "pets", labels).await.status, 200);
        }
    };
    let (seen, ()) = tokio::join!(join_all((0..4).map(asking)), swapping);
    let known = ["rouge", "one", "two", "three"].map(Value::from);
    assert!(
        seen.iter().flatten().all(|label| known.contains(label)),
        "{seen:?}"
    );
    assert_eq!(label(router, "pets").await, (200, json!("three")));
}

#[tokio::test]
async fn of_two_uploads_of_one_id_one_wins_and_the_other_is_told() {
    let fixture = fixture_with(&[]);
    let router = &fixture.router;
    // The first waits in the middle of its body.
    let body = form(&[
        ("model", "m", &colour_model()),
        ("manifest", "t", MANIFEST.as_bytes()),
    ]);
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel::<Bytes>();
    let has_turn = Arc::new(Notify::new());
    let state = (receiver, has_turn.clone());
    let pieces = stream::unfold(state, async |(mut receiver, has_turn)| {
        has_turn.notify_one();
        let piece = receiver.recv().await?;
        Some((Ok::<_, std::io::Error>(piece), (receiver, has_turn)))
    });
    let first = tokio::spawn({
        let router = router.clone();
        let request = put("pets", Body::from_stream(pieces.boxed()));
        async move { send_to(&router, request).await.status.as_u16() }
    });
    has_turn.notified().await;
    sender.send(Bytes::copy_from_slice(&body[..100])).unwrap();
    let second = upload_labelled(router, "pets", LABELS).await;
    assert_eq!(second.problem(), (409, "upload_under_way".to_owned()));
    sender.send(Bytes::copy_from_slice(&body[100..])).unwrap();
    drop(sender);
    assert_eq!(first.await.unwrap(), 201);
    assert_eq!(versions(router, "pets").await, (1, vec![1]));
}

#[tokio::test]
async fn the_models_folder_is_read_again_on_request() {
    let models = tempfile::tempdir().unwrap();
    let add = |id: &str| {
        fs::create_dir(models.path().join(id)).unwrap();
        fs::write(models.path().join(id).join("model.onnx"), colour_model()).unwrap();
    };
    add("one");
    let place = models.path().to_str().unwrap();
    let fixture = fixture_with(&[("models", place), ("default_model", "one")]);
    assert_eq!(
        upload_labelled(&fixture.router, "pets", LABELS)
            .await
            .status,
        201
    );
    add("two");
    let list = send_to(&fixture.router, post("/models:reload", ""))
        .await
        .answer();
    let ids: Vec<&str> = list["models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["one", "pets", "two"]);
}
