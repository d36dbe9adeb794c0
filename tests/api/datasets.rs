//! Data sets over HTTP: listed, uploaded, replaced, taken away, and drawn from.

use std::{fs, io::Write};

use axum::{
    body::Body,
    http::{Method, Request},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use zip::{ZipWriter, write::SimpleFileOptions};

use crate::{
    client::{Answered, get, post, send_to},
    house::{House, blue, open, picture, red},
};

/// A service with one folder of its own: two red images and one blue, one of them broken in the middle.
struct Place {
    house: House,
    photos: TempDir,
    _data: TempDir,
}

fn place() -> Place {
    let (photos, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (name, bytes) in [("red/a.png", red()), ("red/b.png", red().slice(..40)), ("blue/c.png", blue())] {
        let path = photos.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let settings = format!("photos={},lost={}/lost", photos.path().display(), photos.path().display());
    let house =
        open(&[("data", data.path().to_str().unwrap()), ("dataset", &settings), ("max_dataset_bytes", "100000")]);
    Place { house, photos, _data: data }
}

fn request(method: Method, uri: &str, body: impl Into<Body>) -> Request<Body> {
    Request::builder().method(method).uri(uri).body(body.into()).unwrap()
}

impl Place {
    async fn get(&self, uri: &str) -> Answered {
        send_to(&self.house.router, get(uri)).await
    }

    async fn put(&self, uri: &str, body: impl Into<Body>) -> Answered {
        send_to(&self.house.router, request(Method::PUT, uri, body)).await
    }

    async fn delete(&self, uri: &str) -> Answered {
        send_to(&self.house.router, request(Method::DELETE, uri, Body::empty())).await
    }
}

fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        writer.start_file(*name, SimpleFileOptions::default()).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

#[tokio::test]
async fn sets_are_listed_with_their_counts_and_problems() {
    let place = place();
    let list = place.get("/datasets").await.answer();
    let [photos] = list["datasets"].as_array().unwrap().as_slice() else { panic!("{list}") };
    assert_eq!((&photos["id"], &photos["uploaded"]), (&json!("photos"), &json!(false)));
    assert_eq!((&photos["images"], &photos["labelled"], &photos["problems"]), (&json!(3), &json!(3), &json!(1)));
    assert_eq!(list["broken_datasets"][0]["id"], "lost");
    let card = place.get("/datasets/photos?model=tiny").await.answer();
    assert_eq!(card["labels"], json!({ "red": 2, "blue": 1 }));
    assert_eq!(
        (&card["problem_list"][0]["file"], &card["problem_list"][0]["kind"]),
        (&json!("red/b.png"), &json!("corrupt_image"))
    );
    fs::create_dir(place.photos.path().join("mauve")).unwrap();
    fs::write(place.photos.path().join("mauve/d.png"), red()).unwrap();
    let card = place.get("/datasets/photos?model=tiny").await.answer();
    let kinds: Vec<&Value> = card["problem_list"].as_array().unwrap().iter().map(|problem| &problem["kind"]).collect();
    assert_eq!(kinds, ["corrupt_image", "unknown_label"]);
    assert_eq!(place.get("/datasets/photos").await.answer()["problems"], 1);
}

#[tokio::test]
async fn an_upload_is_listed_replaced_and_taken_away() {
    let place = place();
    let first = place.put("/datasets/mine", zip(&[("set/a.png", &red()), ("set/b.png", &blue())])).await;
    assert_eq!((first.status.as_u16(), first.header("location")), (201, Some("/datasets/mine")), "{}", first.text());
    assert_eq!((&first.json()["images"], &first.json()["uploaded"]), (&json!(2), &json!(true)));
    let second = place.put("/datasets/mine", zip(&[("c.png", &red())])).await.answer();
    assert_ne!(second["hash"], first.json()["hash"]);
    assert_eq!(place.get("/datasets/mine").await.answer()["images"], 1);
    assert_eq!(place.delete("/datasets/mine").await.status, 204);
    assert_eq!(place.get("/datasets/mine").await.problem(), (404, "unknown_dataset".into()));
    assert_eq!(place.delete("/datasets/mine").await.problem(), (404, "unknown_dataset".into()));
}

#[tokio::test]
async fn bad_uploads_are_refused_and_leave_the_set_as_it_was() {
    let place = place();
    let good = place.put("/datasets/mine", zip(&[("a.png", &red())])).await.json();
    for (uri, body, problem) in [
        ("/datasets/mine", zip(&[("../a.png", &red())]), (422, "refused_entry")),
        ("/datasets/mine", zip(&[("a.txt", b"x")]), (422, "empty_dataset")),
        ("/datasets/mine", zip(&[("a.png", &red())])[..50].to_vec(), (422, "broken_archive")),
        ("/datasets/mine", zip(&[("a.png", &[0; 200_000])]), (413, "archive_too_large")),
        ("/datasets/mine", vec![b'x'; 200_000], (413, "body_too_large")),
        ("/datasets/mine", b"words".to_vec(), (415, "unsupported_archive")),
        ("/datasets/photos", zip(&[("a.png", &red())]), (409, "configured_dataset")),
        ("/datasets/.mine", zip(&[("a.png", &red())]), (422, "invalid_id")),
        ("/datasets/a%2Fb", zip(&[("a.png", &red())]), (422, "invalid_id")),
    ] {
        let answer = place.put(uri, body).await;
        assert_eq!(answer.problem(), (problem.0, problem.1.to_owned()), "{uri}: {}", answer.text());
    }
    assert_eq!(place.get("/datasets/mine").await.answer()["hash"], good["hash"]);
    assert_eq!(place.delete("/datasets/photos").await.problem(), (409, "configured_dataset".into()));
    assert_eq!(place.put("/datasets/mine?mode=x", Vec::new()).await.refused(), ["mode"]);
    assert_eq!(place.get("/datasets/mine?models=tiny").await.refused(), ["models"]);
}

#[tokio::test]
async fn a_baseline_is_drawn_from_a_set() {
    let place = place();
    place.put("/datasets/black", zip(&[("a.png", &picture(9, 9, [0, 0, 0]))])).await;
    let explain = async |baseline: &str| {
        let uri = format!("/explain?method=integrated_gradients&format=json&encoding=list&baseline={baseline}");
        send_to(&place.house.router, post(&uri, red())).await
    };
    let (drawn, black) = (explain("dataset:black").await.answer(), explain("black").await.answer());
    assert_eq!(drawn["parameters"]["baseline"], "dataset:black:5");
    // Five paths averaged in place of one.
    for (drawn, black) in crate::client::values(&drawn).iter().zip(crate::client::values(&black)) {
        assert!((drawn - black).abs() <= 1e-5 * black.abs().max(1e-3), "{drawn} {black}");
    }
    let missing = explain("dataset:white").await;
    assert_eq!(missing.refused(), ["baseline"]);
    assert!(missing.text().contains("black, lost, photos"), "{}", missing.text());
}
