//! Uploads of every kind, each answered rightly; and the limits on them.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use explaind::tensor::write_npy;
use serde_json::json;

use crate::{
    client::{post, post_as, post_json, send, send_to},
    fixture::{open, picture, red, test_image},
};

#[tokio::test]
async fn every_kind_of_image_is_explained() {
    for (name, warning) in [
        ("rgb.png", None),
        ("rgb.bmp", None),
        ("rgb.webp", None),
        ("grey.png", None),
        ("grey.jpg", None),
        ("grey16.png", None),
        ("palette.png", None),
        ("rgba.png", Some("transparent")),
        ("cmyk.jpg", None),
        ("ycck.jpg", None),
        ("cmyk_no_adobe.jpg", None),
        ("progressive420.jpg", None),
        ("animated.png", Some("animated")),
        ("animated.webp", Some("animated")),
        ("still.gif", None),
        ("animated.gif", Some("animated")),
        ("transparent.gif", Some("transparent")),
        ("rgb.tif", None),
        ("palette.tif", None),
        ("cmyk.tif", None),
        ("grey16.tif", None),
        ("pages.tif", Some("several pages")),
        ("exif1.jpg", None),
        ("exif3.jpg", None),
        ("exif5.jpg", None),
        ("exif8.jpg", None),
    ] {
        let answer = send(post(
            "/explain?method=gradient&format=json&include=heatmap&target=0&legend=false&size=240",
            test_image(name),
        ))
        .await
        .only();
        let warnings = answer["warnings"].to_string();
        assert!(
            warning.is_none_or(|warning| warnings.contains(warning)),
            "{name}: {warnings}"
        );
        let turned = ["exif5.jpg", "exif8.jpg"].contains(&name);
        let png = BASE64_STANDARD
            .decode(answer["heatmap"].as_str().unwrap())
            .unwrap();
        let size = image::load_from_memory(&png)
            .unwrap()
            .into_rgb8()
            .dimensions();
        assert_eq!(size, if turned { (160, 240) } else { (240, 160) }, "{name}");
    }
}

#[tokio::test]
async fn a_rotated_photo_is_seen_upright() {
    let score = async |name: &str| {
        send(post("/predict", test_image(name))).await.only()["predictions"][0]["score"]
            .as_f64()
            .unwrap()
    };
    let upright = score("exif1.jpg").await;
    for turn in 2..=8 {
        assert!(
            (score(&format!("exif{turn}.jpg")).await - upright).abs() < 0.2,
            "{turn}"
        );
    }
}

#[tokio::test]
async fn images_that_cannot_be_read_say_why() {
    let jpeg = test_image("exif1.jpg");
    let png = test_image("rgb.png");
    let mut flipped = png.clone();
    let middle = flipped.len() / 2;
    flipped[middle..].iter_mut().for_each(|byte| *byte ^= 0x5A);
    for (bytes, status, code) in [
        (jpeg[..jpeg.len() / 2].to_vec(), 422, "truncated_image"),
        (png[..png.len() / 2].to_vec(), 422, "truncated_image"),
        (flipped, 422, "corrupt_image"),
        (
            test_image("still.gif")[..60].to_vec(),
            422,
            "truncated_image",
        ),
        (test_image("float.tif"), 422, "corrupt_image"),
        (
            b"\0\0\0\x18ftypheic\0\0\0\0mif1heic".to_vec(),
            415,
            "unsupported_image_type",
        ),
        (b"<svg/>".to_vec(), 415, "unsupported_image_type"),
        (b"just words".to_vec(), 415, "unsupported_image_type"),
        (Vec::new(), 422, "empty_image"),
    ] {
        for content_type in ["image/png", "application/x-www-form-urlencoded"] {
            let answer = send(post_as("/explain", content_type, bytes.clone())).await;
            assert_eq!(
                answer.problem(),
                (status, code.to_owned()),
                "{}",
                answer.text()
            );
        }
        let body = json!({ "image": BASE64_STANDARD.encode(&bytes) });
        assert_eq!(
            send(post_json("/predict", &body)).await.problem(),
            (status, code.to_owned())
        );
    }
}

#[tokio::test]
async fn too_many_bytes_pixels_or_elements_are_refused_before_they_are_decoded() {
    let service = open(&[
        ("max_upload_bytes", "4000"),
        ("max_pixels", "2000"),
        ("max_side", "100"),
        ("max_tensor_elements", "100"),
    ]);
    let ask = async |uri: &str, body: Vec<u8>| send_to(&service.router, post(uri, body)).await;
    for uri in ["/explain", "/predict"] {
        assert_eq!(ask(uri, red().to_vec()).await.status, 200);
        assert_eq!(
            ask(uri, vec![0; 5000]).await.problem(),
            (413, "body_too_large".into())
        );
        assert_eq!(
            ask(uri, picture(50, 50, [1, 2, 3]).to_vec())
                .await
                .problem(),
            (413, "image_too_large".into())
        );
        assert_eq!(
            ask(uri, picture(101, 2, [1, 2, 3]).to_vec())
                .await
                .problem(),
            (413, "image_too_large".into())
        );
        let rows = write_npy(&ndarray::Array2::zeros((51, 2)).into_dyn()).unwrap();
        assert_eq!(
            ask(&format!("{uri}?model=numbers"), rows).await.problem(),
            (413, "tensor_too_large".into())
        );
    }
    let large = json!({ "image": "A".repeat(5000) });
    assert_eq!(
        send_to(&service.router, post_json("/explain", &large))
            .await
            .problem(),
        (413, "body_too_large".into())
    );
    let fields: [(&str, &[u8]); 1] = [("image", &[0; 5000])];
    let answer = send_to(
        &service.router,
        crate::client::multipart("/explain", &fields),
    )
    .await;
    assert_eq!(answer.problem(), (413, "body_too_large".into()));
    assert!(answer.json()["detail"].as_str().unwrap().contains("4000"));
}

#[tokio::test]
async fn at_most_32_images_come_at_once() {
    let red = red();
    let fields = |count| vec![("image", red.as_ref()); count];
    assert_eq!(
        send(crate::client::multipart("/predict", &fields(32)))
            .await
            .each()
            .len(),
        32
    );
    assert_eq!(
        send(crate::client::multipart("/predict", &fields(33)))
            .await
            .refused(),
        ["image"]
    );
}
