//! Regions: of the segmentation, and those sent with a request as a label image, as labels or as
//! masks.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use image::{ImageFormat, Luma};
use ndarray::{Array2, Array3, ArrayBase, Data, Dimension};
use ndarray_npy::{WritableElement, WriteNpyExt};
use serde_json::{Value, json};

use crate::{
    client::{Answered, get, multipart, post, post_as, post_json, send, values},
    fixture::red,
};

fn npy<S: Data<Elem: WritableElement>, D: Dimension>(array: &ArrayBase<S, D>) -> Vec<u8> {
    let mut bytes = Vec::new();
    array.write_npy(&mut bytes).unwrap();
    bytes
}

/// A PNG of the upload's size (12 x 8) with one label left of `column` and another right of it.
fn label_image(column: u32) -> Vec<u8> {
    let image =
        image::ImageBuffer::from_fn(12, 8, |x, _| Luma([if x < column { 3u16 } else { 40_000 }]));
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

const URI: &str = "/explain?method=xrai&format=json&target=0&min_pixel_diff=1&encoding=list&include=attribution,segments";

async fn explain_with(segments: &[u8]) -> Answered {
    send(multipart(URI, &[("image", &red()), ("segments", segments)])).await
}

fn areas(answer: &Value) -> Vec<u64> {
    answer["segments"]["regions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|region| region["area"].as_u64().unwrap())
        .collect()
}

#[tokio::test]
async fn a_map_of_regions_has_one_channel_and_the_total_of_its_regions() {
    let answer = send(post(URI, red())).await.only();
    assert_eq!(answer["attribution"]["shape"], json!([1, 8, 8]));
    assert_eq!(
        (
            &answer["segments"]["labels"]["shape"],
            &answer["segments"]["ranks"]["shape"]
        ),
        (&json!([6, 8, 8]), &json!([8, 8]))
    );
    assert_eq!(answer["parameters"]["baseline"], "min+max");
    assert!(answer["convergence_delta"].is_number());
    let total: f64 = values(&answer).iter().map(|value| f64::from(*value)).sum();
    let regions = answer["segments"]["regions"].as_array().unwrap();
    let sum: f64 = regions
        .iter()
        .map(|r| r["area"].as_f64().unwrap() * r["value"].as_f64().unwrap())
        .sum();
    assert!((total - sum).abs() < 1e-5 && total != 0.0, "{total} {sum}");
    assert!(
        send(post("/explain?method=xrai&format=json", red()))
            .await
            .answer()
            .get("segments")
            .is_none()
    );
    let picture = send(post(
        "/explain?method=xrai&type=OUTLINES&legend=false",
        red(),
    ))
    .await
    .picture();
    assert_eq!(picture.dimensions(), (480, 320));
}

#[tokio::test]
async fn segments_are_sent_as_an_image_as_labels_or_as_masks_in_either_size() {
    // The upload's first four of 12 columns hold the centres of the model's first three of 8.
    let image = explain_with(&label_image(4)).await.only();
    assert_eq!(image["parameters"]["segments"], "uploaded");
    let mut found = areas(&image);
    found.sort_unstable();
    assert_eq!(found, [24, 40]);
    assert_eq!(
        image["segments"]["labels"]["data"][0][0],
        json!([0, 0, 0, 1, 1, 1, 1, 1])
    );
    let labels = Array2::from_shape_fn((8, 12), |(_, x)| if x < 4 { 7i16 } else { 9 });
    let of_model = Array3::from_shape_fn((1, 8, 8), |(_, _, x)| if x < 3 { 0u8 } else { 200 });
    let masks = Array3::from_shape_fn((2, 8, 12), |(mask, _, x)| (x < 4) == (mask == 0));
    for file in [npy(&labels), npy(&of_model), npy(&masks)] {
        let answer = explain_with(&file).await.only();
        assert_eq!(values(&answer), values(&image));
        assert_eq!(answer["segments"]["ranks"], image["segments"]["ranks"]);
    }
    assert!(
        explain_with(&npy(&masks)).await.answer()["segments"]
            .get("labels")
            .is_none()
    );
    let body = json!({"image": BASE64_STANDARD.encode(red()), "segments_file": BASE64_STANDARD.encode(npy(&labels))});
    assert_eq!(
        values(&send(post_json(URI, &body)).await.only()),
        values(&image)
    );
    // The third region is what no label names.
    let partial = Array2::from_shape_fn(
        (8, 8),
        |(y, x)| if y > 3 { -1i32 } else { i32::from(x > 3) },
    );
    assert_eq!(areas(&explain_with(&npy(&partial)).await.only())[2], 32);
}

#[tokio::test]
async fn segments_that_do_not_fit_are_refused_with_what_would() {
    let small = explain_with(&npy(&Array2::<u8>::zeros((8, 9)))).await;
    assert_eq!(small.refused(), ["segments"]);
    assert_eq!(
        small.allowed("segments"),
        ["8 x 12 (the upload)", "8 x 8 (the model's input)"]
    );
    for file in [
        npy(&Array2::<f32>::zeros((8, 8))),
        npy(&Array2::from_elem((8, 8), true)),
        npy(&ndarray::Array1::<u8>::zeros(64)),
        b"neither".to_vec(),
        Vec::new(),
    ] {
        let answer = explain_with(&file).await;
        assert_eq!(answer.refused(), ["segments"]);
        assert!(
            answer.allowed("segments")[0].contains("PNG"),
            "{}",
            answer.text()
        );
    }
    assert_eq!(
        explain_with(&npy(&Array3::<u8>::zeros((65, 8, 8))))
            .await
            .allowed("segments"),
        ["1 to 64 maps of labels"]
    );
    let base64 = json!({"image": BASE64_STANDARD.encode(red()), "segments_file": "~"});
    assert_eq!(
        send(post_json(URI, &base64)).await.problem(),
        (422, "broken_base64".to_owned())
    );
}

#[tokio::test]
async fn labels_of_another_size_are_refused_before_they_are_decoded() {
    // 67 million pixels in 65 kB.
    let mut huge = std::io::Cursor::new(Vec::new());
    image::GrayImage::new(8192, 8192)
        .write_to(&mut huge, ImageFormat::Png)
        .unwrap();
    let huge = huge.into_inner();
    let started = std::time::Instant::now();
    let requests = (0..24).map(|_| explain_with(&huge));
    for answer in futures::future::join_all(requests).await {
        assert_eq!(answer.refused(), ["segments"]);
        assert_eq!(
            answer.allowed("segments"),
            ["8 x 12 (the upload)", "8 x 8 (the model's input)"]
        );
    }
    // Decoding one of them takes longer.
    assert!(
        started.elapsed().as_millis() < 2000,
        "{:?}",
        started.elapsed()
    );
    let several = [
        ("image", &red()[..]),
        ("image", &red()),
        ("segments", &huge),
    ];
    let answer = send(multipart(URI, &several)).await;
    assert!(
        answer.json()["detail"]
            .as_str()
            .unwrap()
            .starts_with("input 0"),
        "{}",
        answer.text()
    );
}

#[tokio::test]
async fn labels_in_a_lossy_type_are_refused() {
    let labels = image::load_from_memory(&label_image(4))
        .unwrap()
        .into_rgb8();
    for (format, accepted) in [
        (ImageFormat::Jpeg, false),
        (ImageFormat::Bmp, true),
        (ImageFormat::Tiff, true),
    ] {
        let mut bytes = std::io::Cursor::new(Vec::new());
        labels.write_to(&mut bytes, format).unwrap();
        let answer = explain_with(bytes.get_ref()).await;
        match accepted {
            true => assert_eq!(areas(&answer.only()).len(), 2, "{format:?}"),
            false => assert_eq!(answer.refused(), ["segments"], "{format:?}"),
        }
    }
}

#[tokio::test]
async fn segments_are_sent_when_they_are_asked_for_and_only_then() {
    let file = label_image(4);
    let fields: [(&str, &[u8]); 2] = [("image", &red()), ("segments", &file)];
    assert_eq!(
        send(multipart("/explain?method=gradient", &fields))
            .await
            .refused(),
        ["segments"]
    );
    assert_eq!(
        send(multipart(
            "/explain?method=xrai&segments=felzenszwalb",
            &fields
        ))
        .await
        .refused(),
        ["segments"]
    );
    assert_eq!(
        send(post("/explain?method=xrai&segments=uploaded", red()))
            .await
            .refused(),
        ["segments"]
    );
    assert_eq!(
        send(post(
            "/explain?method=gradient&include=segments&format=json",
            red()
        ))
        .await
        .refused(),
        ["include"]
    );
    let uri = "/compare?method=gradient&method=xrai&format=json&include=segments";
    let compared = send(multipart(uri, &fields)).await.answer();
    let segments: Vec<bool> = compared["explanations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one.get("segments").is_some())
        .collect();
    assert_eq!(segments, [false, true]);
}

#[tokio::test]
async fn a_model_over_ready_tensors_has_no_regions() {
    let tensor = json!({"tensor": {"shape": [2], "data": [2, -1]}, "method": "xrai"});
    let refused = send(post_json("/explain?model=numbers", &tensor)).await;
    assert_eq!(refused.problem(), (422, "needs_picture".to_owned()));
    let card = send(get("/models/numbers")).await.answer();
    let xrai = card["methods"]
        .as_array()
        .unwrap()
        .iter()
        .find(|method| method["id"] == "xrai")
        .unwrap();
    assert_eq!(xrai["applies"], false);
}

#[tokio::test]
async fn a_posted_tensor_is_segmented_by_the_picture_it_shows() {
    let side = 224;
    let tensor = Array3::from_shape_fn(
        (3, side, side),
        |(_, y, x)| if x + y < side { -1.5f32 } else { 2.0 },
    );
    let body = npy(&tensor);
    let uri = "/explain?method=xrai&quality=fast&include=attribution,segments&encoding=list&target=0&model=squeezenet1_1";
    let answer = send(post_as(uri, "application/x-npy", body)).await.only();
    let labels = &answer["segments"]["labels"]["data"][5];
    assert_eq!(labels[0][0], labels[50][50]);
    assert_ne!(labels[0][0], labels[223][223]);
}
