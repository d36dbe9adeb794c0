//! Sets of supports over HTTP: uploaded, listed, replaced, taken away; and what `gad` makes of them.

use std::io::Write;

use axum::{
    body::Body,
    http::{Method, Request},
};
use explaind::app::App;
use onnx_autodiff::onnx::{
    graph::{Dim, Literal},
    read_bytes, write_model,
};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};
use zip::{ZipWriter, write::SimpleFileOptions};

use crate::{
    benchmark::{Fixture, fixture_with},
    client::{Answered, get, post, post_json, send_to, values},
    fixture::{colour_model, red},
};

const SET: &str = "/models/tiny/supports/pair";

fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in files {
        archive
            .start_file(*name, SimpleFileOptions::default())
            .unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

/// `tiny` with these weights of its three classes.
fn onnx(classes: [f32; 9]) -> Vec<u8> {
    let mut graph = read_bytes(colour_model().into(), None).unwrap();
    graph.initializers["classes"] = Literal::from_f32s(&[3, 3], &classes);
    write_model(&graph).unwrap()
}

fn safetensors(name: &str, shape: &[usize], numbers: &[f32]) -> Vec<u8> {
    let bytes: Vec<u8> = numbers
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect();
    let view = TensorView::new(Dtype::F32, shape.to_vec(), &bytes).unwrap();
    safetensors::serialize([(name, view)], None).unwrap()
}

/// Half the sum of what class 0 has for the three channels.
const HALF: [f32; 9] = [1.0, 0.0, 0.0, -1.0, 4.0, -1.0, -1.0, -1.0, 4.0];
/// What speaks for class 0 speaks against it.
const BLIND: [f32; 9] = [0.0, -1.0, -1.0, -1.0, 4.0, -1.0, -1.0, -1.0, 4.0];

fn pair() -> Vec<u8> {
    let half = onnx(HALF);
    let more = safetensors("classes", &[3, 3], &HALF.map(|weight| 2.0 * weight));
    zip(&[
        ("supports/alpha_2.onnx", &half),
        ("supports/alpha_4.5.safetensors", &more),
        ("supports/README.txt", b"left alone"),
    ])
}

impl Fixture {
    async fn ask(&self, method: Method, uri: &str, body: impl Into<Body>) -> Answered {
        let request = Request::builder().method(method).uri(uri);
        send_to(&self.router, request.body(body.into()).unwrap()).await
    }

    async fn put(&self, archive: Vec<u8>) -> Answered {
        self.ask(Method::PUT, &format!("{SET}?classes=red,1"), archive)
            .await
    }

    async fn see(&self, uri: &str) -> Value {
        send_to(&self.router, get(uri)).await.answer()
    }

    async fn explain(&self, query: &str) -> Answered {
        let uri = format!("/explain?model=tiny&method=gad&base=gradient&{query}");
        send_to(&self.router, post(&uri, red())).await
    }
}

#[tokio::test]
async fn a_set_is_used_from_its_upload_on_until_it_is_deleted() {
    let fixture = fixture_with(&[]);
    let missing = fixture.explain("format=json").await;
    assert_eq!(missing.refused(), ["supports"]);
    assert!(missing.text().contains("gad_train"), "{}", missing.text());
    let applies = async || {
        let card = fixture.see("/models/tiny").await;
        let methods = card["methods"].as_array().unwrap().clone();
        methods
            .into_iter()
            .find(|method| method["id"] == "gad")
            .unwrap()
    };
    let before = applies().await;
    assert_eq!(before["applies"], false);
    assert!(
        before["reason"]
            .as_str()
            .unwrap()
            .contains("/models/tiny/supports/")
    );

    let put = fixture.put(pair()).await;
    assert_eq!(
        (put.status.as_u16(), put.header("location")),
        (201, Some(SET)),
        "{}",
        put.text()
    );
    let card = put.json();
    assert_eq!(card["alphas"], json!([2.0, 4.5]));
    assert_eq!(
        card["classes"],
        json!([{ "index": 0, "label": "red" }, { "index": 1, "label": "green" }])
    );
    assert_eq!(card["provenance"], json!({ "source": "upload" }));
    assert_eq!(fixture.see(SET).await, card);
    assert_eq!(
        fixture.see("/models/tiny/supports").await,
        json!({ "supports": [card] })
    );
    assert_eq!(
        fixture.see("/models/plain/supports").await,
        json!({ "supports": [] })
    );
    assert_eq!(applies().await["applies"], true);

    let answer = fixture
        .explain("format=json&target=0&include=attribution,supports")
        .await;
    let answer = answer.only();
    assert_eq!(answer["parameters"]["supports"], card["reference"]);
    assert_eq!(answer["parameters"]["base"], "gradient");
    assert_eq!(answer["evaluations"], 3);
    assert_eq!(answer["attribution"]["shape"], json!([1, 8, 8]));
    let maps = answer["supports"].as_array().unwrap();
    let alphas: Vec<_> = maps
        .iter()
        .map(|map| map["alpha"].as_f64().unwrap())
        .collect();
    assert_eq!(alphas, [0.0, 2.0, 4.5]);
    // All rectifiers are on: the derivatives of a pixel sum to what the weights of the class do.
    let values_of = |map: &Value| values(&json!({ "attribution": map["attribution"] }));
    let own = values_of(&maps[0]);
    assert!(own.iter().all(|value| *value > 0.0));
    for (map, factor) in [(1, 0.5), (2, 1.0)] {
        for (found, own) in values_of(&maps[map]).iter().zip(&own) {
            assert!((found - factor * own).abs() <= 1e-6 * own, "{found} {own}");
        }
    }
    assert_eq!(values(&answer), own, "all agree");

    let replaced = fixture.put(zip(&[("alpha_8.onnx", &onnx(BLIND))])).await;
    assert_eq!(replaced.status.as_u16(), 200, "{}", replaced.text());
    assert_ne!(replaced.json()["reference"], card["reference"]);
    let answer = fixture.explain("format=json&target=0").await.only();
    assert!(values(&answer).iter().all(|value| *value == 0.0));
    let said = answer["warnings"].to_string();
    assert!(said.contains("support 8 has no positive value"), "{said}");
    let gone = card["reference"].as_str().unwrap();
    let outdated = fixture
        .explain(&format!("format=json&supports={gone}"))
        .await;
    assert_eq!(outdated.refused(), ["supports"]);

    let deleted = fixture.ask(Method::DELETE, SET, Body::empty()).await;
    assert_eq!(deleted.status.as_u16(), 204);
    let again = fixture.ask(Method::DELETE, SET, Body::empty()).await;
    assert_eq!(again.problem(), (404, "unknown_supports".into()));
    let found = send_to(&fixture.router, get(SET)).await;
    assert_eq!(found.problem(), (404, "unknown_supports".into()));
    assert_eq!(fixture.explain("format=json").await.refused(), ["supports"]);
    let left = fixture.data.path().join("files/supports/tiny");
    let files = walk(&left);
    assert!(files.is_empty(), "{files:?}");
}

/// All files of a folder and below.
pub fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let paths = entries.map(|entry| entry.unwrap().path());
    let found = paths.flat_map(|path| {
        if path.is_dir() {
            walk(&path)
        } else {
            vec![path]
        }
    });
    found.collect()
}

#[tokio::test]
async fn every_fault_of_every_file_is_told_and_nothing_is_kept() {
    let fixture = fixture_with(&[]);
    let own = colour_model();
    let mut other = read_bytes(own.clone().into(), None).unwrap();
    other.nodes[1].op_type = "Sigmoid".into();
    let other = write_model(&other).unwrap();
    let short = safetensors("bias", &[2], &[1.0, 2.0]);
    let unknown = safetensors("weights", &[1], &[1.0]);
    let infinite = safetensors("bias", &[3], &[1.0, f32::INFINITY, 2.0]);
    let mut wide = read_bytes(own.clone().into(), None).unwrap();
    let weights = wide.initializers["classes"].to_f64s();
    let weights: Vec<f32> = weights.into_iter().map(|weight| weight as f32).collect();
    let same = safetensors("classes", &[3, 3], &weights);
    wide.inputs[0].value_type.shape[3] = Dim::Known(24);
    let wide = write_model(&wide).unwrap();
    let archive = zip(&[
        ("alpha_1.onnx", &own),
        ("alpha_2.onnx", &other),
        ("alpha_3.safetensors", &short),
        ("alpha_4.safetensors", &unknown),
        ("alpha_5.safetensors", &infinite),
        ("alpha_6.safetensors", b"no tensors"),
        ("alpha_7.onnx", b"no model"),
        ("alpha_8.safetensors", &same),
        ("alpha_9.onnx", &wide),
        (
            "last.safetensors",
            &safetensors("bias", &[3], &[1.0, 2.0, 3.0]),
        ),
        (
            "again/alpha_3.safetensors",
            &safetensors("bias", &[3], &[1.0, 2.0, 3.0]),
        ),
    ]);
    let refused = fixture.put(archive).await;
    assert_eq!(
        refused.refused(),
        [
            "alpha_1.onnx",
            "alpha_2.onnx",
            "alpha_3.safetensors",
            "alpha_3.safetensors",
            "alpha_4.safetensors",
            "alpha_5.safetensors",
            "alpha_6.safetensors",
            "alpha_7.onnx",
            "alpha_8.safetensors",
            "alpha_9.onnx",
            "last.safetensors"
        ]
    );
    for said in [
        "no weights other than the model's own",
        "the node Relu of relu",
        "have shape [2]; the model's have [3]",
        "no weights called weights",
        "not finite",
        "no safetensors file",
        "the alpha of another file",
        "no alpha in its name",
        "alpha_8.safetensors: has no weights other than the model's own",
        "other names, shapes or types",
    ] {
        assert!(refused.text().contains(said), "{said}: {}", refused.text());
    }
    for (uri, params) in [
        (
            "/models/tiny/supports/.pair?classes=red,mauve",
            &["classes", "set"][..],
        ),
        ("/models/tiny/supports/pair?classes=red", &["classes"]),
        ("/models/tiny/supports/pair?classes=red,0", &["classes"]),
        ("/models/tiny/supports/pair?classes=0,3", &["classes"]),
        ("/models/tiny/supports/pair?classes=red,top:2", &["classes"]),
        ("/models/tiny/supports/pair", &["classes"]),
        (
            "/models/tiny/supports/pair?classes=0,1&clases=2",
            &["clases"],
        ),
    ] {
        let refused = fixture.ask(Method::PUT, uri, pair()).await;
        assert_eq!(refused.refused(), params, "{uri}: {}", refused.text());
    }
    let none = fixture.put(zip(&[("README.txt", b"nothing")])).await;
    assert_eq!(none.refused(), ["archive"]);
    let broken = fixture.put(b"no archive".to_vec()).await;
    assert_eq!(broken.problem(), (415, "unsupported_archive".into()));
    let unknown = fixture
        .ask(
            Method::PUT,
            "/models/none/supports/pair?classes=0,1",
            pair(),
        )
        .await;
    assert_eq!(unknown.problem(), (404, "unknown_model".into()));
    assert_eq!(
        fixture.see("/models/tiny/supports").await,
        json!({ "supports": [] })
    );
    assert!(walk(&fixture.data.path().join("files/supports")).is_empty());
}

#[tokio::test]
async fn maps_are_given_as_npy_and_as_a_strip_and_beside_the_base() {
    let fixture = fixture_with(&[]);
    assert_eq!(fixture.put(pair()).await.status.as_u16(), 201);
    let alone = fixture.explain("format=npy").await.array();
    let stack = fixture.explain("format=npy&include=supports").await.array();
    assert_eq!(
        (alone.shape(), stack.shape()),
        (&[1, 8, 8][..], &[4, 1, 8, 8][..])
    );
    assert_eq!(stack.index_axis(ndarray::Axis(0), 0), alone);
    let map = fixture.explain("size=64&legend=false").await.picture();
    let strip = fixture
        .explain("size=64&legend=false&include=supports")
        .await
        .picture();
    assert!(
        strip.width() >= 4 * map.width() && strip.height() > map.height(),
        "{:?}",
        strip.dimensions()
    );
    let large = fixture.explain("size=600&include=supports").await;
    assert_eq!(large.refused(), ["size"]);
    let other = post(
        "/explain?model=tiny&method=gradient&include=supports&format=json",
        red(),
    );
    assert_eq!(send_to(&fixture.router, other).await.refused(), ["include"]);
    // The base's own evaluation is that of the base beside it.
    let uri = "/compare?model=tiny&method=gradient&method=gad&base=gradient&target=0&format=json";
    let compared = send_to(&fixture.router, post(uri, red())).await;
    let evaluations = compared.answer()["evaluations"].clone();
    assert_eq!(evaluations, 3);
    let each = compared.each();
    let sums: Vec<f32> = {
        let map = values(&each[0]);
        (0..64)
            .map(|at| map[at] + map[64 + at] + map[128 + at])
            .collect()
    };
    assert_eq!(values(&each[1]), sums);
    let grid = post(&uri.replace("&format=json", "&hull=over_tenth"), red());
    send_to(&fixture.router, grid).await.picture();
}

#[tokio::test]
async fn hulls_are_measured_for_both_classes_and_their_measurements_shared() {
    let fixture = fixture_with(&[]);
    fixture.work();
    assert_eq!(fixture.put(pair()).await.status.as_u16(), 201);
    let request = json!({
        "kind": "evaluate", "model": "tiny", "dataset": "photos", "labels": "ignore",
        "methods": [{ "id": "gad", "base": "input_x_gradient" }, { "id": "gad", "base": "gradient" }, "random"],
        "metrics": [
            { "id": "rc", "class": "first" }, { "id": "rc", "class": "second", "value": "ratio" }, "rs",
            { "id": "rs", "mask": "supplement" },
        ],
    });
    let id = fixture.submit(&request).await;
    let job = fixture.ended(&id).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    let report = fixture.report(&id, "json").await.answer();
    assert!(
        report["request"]["methods"][0]["supports"]
            .as_str()
            .unwrap()
            .starts_with("pair@")
    );
    let metrics = report["result"]["metrics"].as_array().unwrap();
    assert_eq!(metrics.len(), 4);
    for metric in metrics {
        assert_eq!(metric["excluded"], json!(["random"]), "{metric}");
    }
    let page = fixture.report(&id, "html").await.text();
    assert!(page.contains("it compares the maps of gad with those of its base"));
    let alone = json!({ "kind": "evaluate", "model": "tiny", "dataset": "photos", "methods": ["gradient"], "metrics": ["rc"] });
    let refused = send_to(&fixture.router, post_json("/jobs", &alone)).await;
    assert_eq!(refused.refused(), ["methods"]);
    // A set that is replaced stops what was planned with the one before.
    let mut planned = report["request"].clone();
    planned["kind"] = json!("evaluate");
    fixture.put(zip(&[("alpha_8.onnx", &onnx(BLIND))])).await;
    let again = send_to(&fixture.router, post_json("/jobs", &planned)).await;
    assert!(
        again
            .refused()
            .iter()
            .all(|param| param.ends_with("supports")),
        "{}",
        again.text()
    );
}

#[tokio::test]
async fn other_replicas_see_sets_come_and_go() {
    let fixture = fixture_with(&[]);
    let other = App::start(fixture.queue.app().settings().clone()).unwrap();
    let names = || {
        let model = other.models().get("tiny").unwrap();
        let names = model.supports.iter().map(|set| set.name.clone());
        names.collect::<Vec<_>>()
    };
    assert_eq!(fixture.put(pair()).await.status.as_u16(), 201);
    assert!(names().is_empty());
    other.catch_up().await;
    assert_eq!(names(), ["pair"]);
    // A reload keeps them.
    other.reload_models().await.unwrap();
    assert_eq!(names(), ["pair"]);
    fixture.ask(Method::DELETE, SET, Body::empty()).await;
    other.catch_up().await;
    assert!(names().is_empty());
}
