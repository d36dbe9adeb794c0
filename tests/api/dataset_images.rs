//! The images of a data set, page by page and in small.

use std::{fs, path::Path};

use axum::{
    body::Body,
    http::{Method, Request},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    client::{Answered, get, send_to},
    fixture::{Service, open, picture},
};

/// Seven red images and one blue, which a table labels; the last of them is broken.
fn fixture() -> (Service, TempDir) {
    let photos = tempfile::tempdir().unwrap();
    let mut table = "file,label,group,x0,y0,x1,y1\n".to_owned();
    for at in 0..8 {
        let colour = if at == 6 { [0, 0, 250] } else { [250, 0, 0] };
        let bytes = picture(300 + at, 200, colour);
        let whole = if at == 7 { &bytes[..60] } else { &bytes[..] };
        write(photos.path(), &format!("{at}.png"), whole);
        let label = if at == 6 { "blue" } else { "red" };
        let place = if at == 0 { "1,2,30,40" } else { ",,," };
        table.push_str(&format!("{at}.png,{label},g{at},{place}\n"));
    }
    write(photos.path(), "labels.csv", table.as_bytes());
    let settings = format!("photos={}", photos.path().display());
    (open(&[("dataset", &settings)]), photos)
}

fn write(folder: &Path, name: &str, bytes: &[u8]) {
    fs::write(folder.join(name), bytes).unwrap();
}

async fn ask(service: &Service, uri: &str) -> Answered {
    send_to(&service.router, get(uri)).await
}

fn files(page: &Value) -> Vec<String> {
    let images = page["images"].as_array().unwrap().iter();
    images
        .map(|image| image["file"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn images_are_listed_by_pages_labels_and_names() {
    let (service, _photos) = fixture();
    let whole = ask(&service, "/datasets/photos/images").await.answer();
    assert_eq!((&whole["total"], files(&whole).len()), (&json!(8), 8));
    let first = &whole["images"][0];
    assert_eq!(first["labels"], json!(["red"]));
    assert_eq!(first["group"], "g0");
    assert_eq!(
        first["boxes"],
        json!([{ "x0": 1.0, "y0": 2.0, "x1": 30.0, "y1": 40.0 }])
    );
    assert_eq!(first["mask"], false);
    assert!(whole["images"][7]["fault"].is_string(), "{whole}");
    for (query, total, expected) in [
        ("offset=2&limit=3", 8, &["2.png", "3.png", "4.png"][..]),
        ("offset=7&limit=3", 8, &["7.png"]),
        ("offset=99", 8, &[]),
        ("label=blue", 1, &["6.png"]),
        ("label=red&offset=5&limit=1", 7, &["5.png"]),
        (
            "file=5.png&file=1.png&file=none.png",
            2,
            &["5.png", "1.png"],
        ),
    ] {
        let page = ask(&service, &format!("/datasets/photos/images?{query}"))
            .await
            .answer();
        assert_eq!(
            (&page["total"], files(&page)),
            (
                &json!(total),
                expected.iter().map(|name| (*name).to_owned()).collect()
            ),
            "{query}"
        );
    }
    let refused = ask(
        &service,
        "/datasets/photos/images?limit=201&offset=-1&page=2",
    )
    .await;
    assert_eq!(refused.refused(), ["limit", "offset", "page"]);
    assert_eq!(
        ask(&service, "/datasets/none/images").await.problem(),
        (404, "unknown_dataset".into())
    );
}

#[tokio::test]
async fn an_image_is_given_as_it_is_and_in_small() {
    let (service, photos) = fixture();
    let whole = ask(&service, "/datasets/photos/images/6").await;
    assert_eq!(whole.header("content-type"), Some("image/png"));
    assert_eq!(whole.body, fs::read(photos.path().join("6.png")).unwrap());
    for _ in 0..2 {
        let small = ask(&service, "/datasets/photos/images/6?size=64").await;
        assert_eq!(small.header("content-type"), Some("image/jpeg"));
        let pixels = image::load_from_memory(&small.body).unwrap().into_rgb8();
        assert_eq!(pixels.dimensions(), (64, 42));
        let [red, _, blue] = pixels.get_pixel(50, 20).0;
        assert!(red < 20 && blue > 230, "{red} {blue}");
    }
    let large = ask(&service, "/datasets/photos/images/0?size=2000").await;
    let pixels = image::load_from_memory(&large.body).unwrap();
    assert_eq!(pixels.width(), 300);

    let tag = whole.header("etag").unwrap().to_owned();
    let again = Request::builder()
        .method(Method::GET)
        .uri("/datasets/photos/images/6")
        .header("if-none-match", tag)
        .body(Body::empty())
        .unwrap();
    let known = send_to(&service.router, again).await;
    assert_eq!((known.status.as_u16(), known.body.len()), (304, 0));

    for place in ["8", "-1", "1.png"] {
        let uri = format!("/datasets/photos/images/{place}");
        assert_eq!(
            ask(&service, &uri).await.problem(),
            (404, "unknown_image".into())
        );
    }
    let refused = ask(&service, "/datasets/photos/images/0?size=8").await;
    assert_eq!(refused.refused(), ["size"]);
    assert_eq!(
        ask(&service, "/datasets/photos/images/7?size=64")
            .await
            .status,
        422
    );
}
