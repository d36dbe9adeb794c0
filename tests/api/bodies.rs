//! What may be posted: the same picture or tensor gives the same numbers in whatever body it comes.

use axum::{body::Body, http::Request};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use explaind::tensor::{Tensor, write_npy};
use image::ImageFormat;
use serde_json::{Value, json};

use crate::{
    client::{get, multipart, post, post_as, post_json, send, values},
    fixture::{NUMBERS, blue, encode, red},
};

const GRADIENT: &str = "/explain?method=gradient&target=0&format=json";
const NUMBERS_GRADIENT: &str = "/explain?model=numbers&method=gradient&target=2&format=json";

async fn scores(request: Request<Body>) -> Vec<f32> {
    values(&send(request).await.only())
}

fn tensor(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_shape_vec(shape, values.to_vec()).unwrap()
}

#[tokio::test]
async fn an_image_is_one_under_every_content_type() {
    let expected = scores(post_as(GRADIENT, "image/png", red())).await;
    assert_eq!(expected.len(), 3 * 8 * 8);
    assert!(expected.iter().any(|value| *value != 0.0));
    for content_type in [
        "application/x-www-form-urlencoded",
        "application/octet-stream",
        "image/jpg",
        "IMAGE/PNG; a=b",
    ] {
        assert_eq!(
            scores(post_as(GRADIENT, content_type, red())).await,
            expected,
            "{content_type}"
        );
    }
    assert_eq!(
        scores(Request::post(GRADIENT).body(red().into()).unwrap()).await,
        expected
    );
    let body = json!({ "image": BASE64_STANDARD.encode(red()) });
    assert_eq!(scores(post_json(GRADIENT, &body)).await, expected);
    assert_eq!(scores(post(GRADIENT, body.to_string())).await, expected);
    assert_eq!(
        scores(multipart(GRADIENT, &[("image", &red())])).await,
        expected
    );
}

#[tokio::test]
async fn every_image_type_is_read_whatever_its_name_says() {
    let pixels = image::load_from_memory(&red()).unwrap().into_rgb8();
    let expected = scores(post_as(GRADIENT, "image/png", red())).await;
    for format in [ImageFormat::Bmp, ImageFormat::WebP] {
        assert_eq!(
            scores(post_as(GRADIENT, "image/png", encode(&pixels, format))).await,
            expected,
            "{format:?}"
        );
    }
    let jpeg = send(post(GRADIENT, encode(&pixels, ImageFormat::Jpeg)))
        .await
        .only();
    assert_eq!(jpeg["target"]["label"], "red");
}

#[tokio::test]
async fn a_tensor_is_one_as_json_and_as_npy() {
    let wanted = NUMBERS[2].to_vec();
    let array = write_npy(&tensor(&[2], &[0.5, -3.0])).unwrap();
    assert_eq!(
        scores(post_as(
            NUMBERS_GRADIENT,
            "application/x-npy",
            array.clone()
        ))
        .await,
        wanted
    );
    assert_eq!(scores(post(NUMBERS_GRADIENT, array)).await, wanted);
    let body = json!({ "tensor": { "shape": [2], "data": [0.5, -3] } });
    assert_eq!(scores(post_json(NUMBERS_GRADIENT, &body)).await, wanted);
    assert_eq!(
        scores(post(NUMBERS_GRADIENT, format!("\n {body}"))).await,
        wanted
    );
}

#[tokio::test]
async fn a_leading_axis_more_is_as_many_inputs() {
    let array = write_npy(&tensor(&[2, 2], &[1.0, 0.0, 0.0, 5.0])).unwrap();
    let answers = send(post(
        "/explain?model=numbers&method=gradient",
        array.clone(),
    ))
    .await
    .each();
    let found: Vec<_> = answers
        .iter()
        .map(|one| (one["input"].clone(), one["target"]["index"].clone()))
        .collect();
    assert_eq!(found, [(json!(0), json!(0)), (json!(1), json!(2))]);
    let stacked = send(post(
        "/explain?model=numbers&method=gradient&format=npy",
        array,
    ))
    .await
    .array();
    assert_eq!(stacked, tensor(&[2, 2], &[NUMBERS[0], NUMBERS[2]].concat()));
    // A batch of one keeps its axis.
    let one = write_npy(&tensor(&[1, 2], &[1.0, 0.0])).unwrap();
    assert_eq!(
        send(post("/explain?model=numbers&format=npy", one.clone()))
            .await
            .array()
            .shape(),
        [1, 2]
    );
    let alone = write_npy(&tensor(&[2], &[1.0, 0.0])).unwrap();
    assert_eq!(
        send(post("/explain?model=numbers&format=npy", alone.clone()))
            .await
            .array()
            .shape(),
        [2]
    );
    let nested = json!({ "tensor": [[1.0, 0.0]] });
    for uri in [
        "/explain?model=numbers&method=gradient",
        "/predict?model=numbers",
    ] {
        for request in [post(uri, one.clone()), post_json(uri, &nested)] {
            assert_eq!(send(request).await.only()["input"], 0, "{uri}");
        }
        assert_eq!(send(post(uri, alone.clone())).await.only()["input"], 0);
    }
}

#[tokio::test]
async fn an_image_model_takes_tensors_in_its_own_input_space() {
    let body = json!({ "tensor": { "shape": [3, 8, 8], "data": vec![0.5; 192] }, "method": "gradient", "target": "blue" });
    let answer = send(post_json("/explain", &body)).await.only();
    assert_eq!(
        (&answer["attribution"]["shape"], &answer["target"]["index"]),
        (&json!([3, 8, 8]), &json!(2))
    );
    assert_eq!(
        send(post_json("/explain?format=png", &body))
            .await
            .refused(),
        ["format"]
    );
    assert_eq!(
        send(post_json("/explain?include=heatmap", &body))
            .await
            .refused(),
        ["include"]
    );
}

#[tokio::test]
async fn fields_of_a_form_are_parameters() {
    let red = red();
    let plain = send(post(
        "/explain?method=integrated_gradients&n_steps=3&baseline=white&format=json",
        red.clone(),
    ))
    .await;
    let fields: [(&str, &[u8]); 5] = [
        ("method=", b"integrated_gradients"),
        ("n_steps=", b"3"),
        ("baseline=", b"white"),
        ("target=", b""),
        ("file", &red),
    ];
    let by_form = send(multipart("/explain", &fields)).await.only();
    assert_eq!(
        (&by_form["parameters"], values(&by_form)),
        (&plain.only()["parameters"], values(&plain.only()))
    );
    let mixed: [(&str, &[u8]); 3] = [
        ("method=", b"gradient"),
        ("params", br#"{"target": 2}"#),
        ("image", &red),
    ];
    let mixed = send(multipart("/explain?channels=sum", &mixed))
        .await
        .only();
    assert_eq!(
        (&mixed["target"]["index"], &mixed["attribution"]["shape"]),
        (&json!(2), &json!([1, 8, 8]))
    );
    let compared: [(&str, &[u8]); 5] = [
        ("method=", b"gradient"),
        ("method=", b"random"),
        ("include=", b"heatmap"),
        ("include=", b"attribution"),
        ("image", &red),
    ];
    let compared = send(multipart("/compare", &compared)).await;
    let methods: Vec<_> = compared
        .each()
        .iter()
        .map(|one| one["method"].clone())
        .collect();
    assert_eq!(methods, ["gradient", "random"]);
    assert!(
        compared.answer()["heatmap"].is_string() && compared.each()[0]["attribution"].is_object()
    );
    let classes = send(multipart("/predict", &[("top_k=", b"2"), ("image", &red)]))
        .await
        .only();
    assert_eq!(classes["predictions"].as_array().unwrap().len(), 2);

    let refused =
        async |fields: &[(&str, &[u8])]| send(multipart("/explain", fields)).await.refused();
    let image = ("image", &red[..]);
    assert_eq!(refused(&[image, ("n_step=", b"3")]).await, ["n_step"]);
    assert_eq!(
        refused(&[image, ("n_steps=", b"3"), ("n_steps=", b"3")]).await,
        ["n_steps"]
    );
    assert_eq!(
        refused(&[image, ("n_steps=", b"3"), ("params", br#"{"n_steps": 3}"#)]).await,
        ["n_steps"]
    );
    assert_eq!(refused(&[image, ("method=", b"\xFF")]).await, ["method"]);
    let long = vec![b'x'; 1 << 20];
    let answer = send(multipart(
        "/explain",
        &[image, ("target=", &long), ("layer=", &long)],
    ))
    .await;
    assert_eq!(answer.problem(), (400, "broken_multipart".into()));
}

#[tokio::test]
async fn an_image_is_answered_with_a_picture_and_other_bodies_with_json() {
    let (red, base64) = (red(), json!({ "image": BASE64_STANDARD.encode(red()) }));
    for uri in ["/explain?method=gradient", "/compare?method=gradient"] {
        for (request, expected) in [
            (post(uri, red.clone()), "image/png"),
            (post_as(uri, "image/jpeg", red.clone()), "image/png"),
            (
                post_as(uri, "application/octet-stream", red.clone()),
                "application/json",
            ),
            (post_json(uri, &base64), "application/json"),
            (multipart(uri, &[("image", &red)]), "application/json"),
            (
                post_json(&format!("{uri}&format=png"), &base64),
                "image/png",
            ),
        ] {
            let answer = send(request).await;
            assert_eq!(
                (answer.status.as_u16(), answer.header("content-type")),
                (200, Some(expected)),
                "{uri}"
            );
        }
    }
}

#[tokio::test]
async fn several_images_get_a_target_each() {
    let (red, blue) = (red(), blue());
    let fields: [(&str, &[u8]); 3] = [
        ("image", &red),
        ("params", br#"{"method": "gradient", "include": "heatmap"}"#),
        ("image", &blue),
    ];
    let answers = send(multipart("/explain", &fields)).await.each();
    let found: Vec<_> = answers
        .iter()
        .map(|one| {
            (
                one["input"].as_u64().unwrap(),
                one["target"]["label"].as_str().unwrap(),
                one["heatmap"].is_string(),
            )
        })
        .collect();
    assert_eq!(found, [(0, "red", true), (1, "blue", true)]);
    assert_eq!(
        send(multipart("/explain?format=png", &[fields[0], fields[2]]))
            .await
            .refused(),
        ["format"]
    );
    let classes = send(multipart("/predict", &[fields[0], fields[2]]))
        .await
        .each();
    assert_eq!(
        (
            &classes[0]["predictions"][0]["label"],
            &classes[1]["predictions"][0]["label"]
        ),
        (&json!("red"), &json!("blue"))
    );
}

#[tokio::test]
async fn each_of_several_inputs_may_name_its_own_target() {
    let (red, blue) = (red(), blue());
    let of = |answers: &[Value]| -> Vec<String> {
        answers
            .iter()
            .map(|one| one["target"]["label"].as_str().unwrap().to_owned())
            .collect()
    };
    let fields: [(&str, &[u8]); 3] = [
        ("image", &red),
        (
            "params",
            br#"{"method": "gradient", "targets": ["green", 0]}"#,
        ),
        ("image", &blue),
    ];
    assert_eq!(
        of(&send(multipart("/explain", &fields)).await.each()),
        ["green", "red"]
    );
    let images = json!({ "images": [BASE64_STANDARD.encode(&red), BASE64_STANDARD.encode(&blue)], "method": "gradient" });
    let answers = send(post_json("/explain?targets=top:2,predicted", &images))
        .await
        .each();
    assert_eq!(of(&answers)[0..1], ["red"]);
    assert_eq!(
        (of(&answers).len(), &of(&answers)[2]),
        (3, &"blue".to_owned())
    );
    let array = write_npy(&tensor(&[2, 2], &[1.0, 0.0, 0.0, 5.0])).unwrap();
    let stacked = send(post(
        "/explain?model=numbers&method=gradient&format=npy&targets=2,1",
        array,
    ))
    .await
    .array();
    assert_eq!(stacked, tensor(&[2, 2], &[NUMBERS[2], NUMBERS[1]].concat()));
    for targets in ["red", "red,blue,green", "red,mauve", "red,blue&target=red"] {
        let refused = send(post_json(&format!("/explain?targets={targets}"), &images)).await;
        assert_eq!(refused.refused(), ["targets"], "{targets}");
    }
    let none = json!({ "images": [] });
    assert_eq!(
        send(post_json("/explain", &none)).await.problem().1,
        "no_input"
    );
}

#[tokio::test]
async fn the_fault_of_one_of_several_images_says_which() {
    let red = red();
    let answer = send(multipart(
        "/explain",
        &[("image", &red), ("image", &red[..40]), ("image", &red)],
    ))
    .await;
    assert_eq!(answer.status, 422);
    assert!(
        answer.json()["detail"]
            .as_str()
            .unwrap()
            .starts_with("input 1"),
        "{}",
        answer.text()
    );
}

#[tokio::test]
async fn an_uploaded_baseline_is_where_the_path_starts() {
    const IG: &str = "/explain?method=integrated_gradients&target=0&format=json";
    let encoded = |bytes: &[u8]| BASE64_STANDARD.encode(bytes);
    let by_multipart = send(multipart(IG, &[("image", &red()), ("baseline", &blue())]))
        .await
        .only();
    assert_eq!(by_multipart["parameters"]["baseline"], "uploaded");
    let both = json!({ "image": encoded(&red()), "baseline_image": encoded(&blue()), "baseline": "uploaded" });
    assert_eq!(
        values(&send(post_json(IG, &both)).await.only()),
        values(&by_multipart)
    );
    let itself = send(multipart(IG, &[("image", &red()), ("baseline", &red())]))
        .await
        .only();
    assert!(values(&itself).iter().all(|value| *value == 0.0));
    let numbers = json!({ "tensor": { "shape": [2], "data": [2, 1] }, "baseline_tensor": { "shape": [2], "data": [1, 1] } });
    let found = send(post_json(
        "/explain?model=numbers&method=integrated_gradients&target=0",
        &numbers,
    ))
    .await
    .only();
    assert_eq!(
        (values(&found), &found["baseline_value"]),
        (vec![1.0, 0.0], &json!(1.0))
    );
}

#[tokio::test]
async fn a_baseline_is_sent_when_and_only_when_it_is_asked_for() {
    let (red, blue) = (red(), blue());
    let asked_for_another = multipart(
        "/explain?baseline=zero",
        &[("image", &red), ("baseline", &blue)],
    );
    assert_eq!(send(asked_for_another).await.refused(), ["baseline"]);
    assert_eq!(
        send(post("/explain?baseline=uploaded", red.clone()))
            .await
            .refused(),
        ["baseline"]
    );
    assert_eq!(
        send(post("/explain?baseline=zero%2Buploaded", red.clone()))
            .await
            .refused(),
        ["baseline"]
    );
    let not_taken = multipart(
        "/explain?method=gradient",
        &[("image", &red), ("baseline", &blue)],
    );
    assert_eq!(send(not_taken).await.refused(), ["baseline"]);
    let shape = json!({ "tensor": { "shape": [2], "data": [2, 1] }, "baseline_tensor": { "shape": [3], "data": [1, 1, 1] } });
    assert_eq!(
        send(post_json("/explain?model=numbers", &shape))
            .await
            .problem(),
        (422, "wrong_shape".into())
    );
}

#[tokio::test]
async fn bodies_that_cannot_be_read_say_why() {
    let image = BASE64_STANDARD.encode(red());
    for (content_type, body, status, code) in [
        ("application/json", "{".to_owned(), 400, "broken_json"),
        ("application/json", "[1]".to_owned(), 400, "broken_json"),
        ("application/json", String::new(), 400, "broken_json"),
        (
            "application/json",
            json!({ "image": 7 }).to_string(),
            400,
            "broken_json",
        ),
        (
            "application/json",
            json!({ "image": "%%%" }).to_string(),
            422,
            "broken_base64",
        ),
        (
            "application/json",
            json!({ "image": "" }).to_string(),
            422,
            "empty_image",
        ),
        (
            "application/json",
            json!({ "method": "gradient" }).to_string(),
            422,
            "ambiguous_body",
        ),
        (
            "application/json",
            json!({ "image": image, "tensor": { "shape": [1], "data": [1] } }).to_string(),
            422,
            "ambiguous_body",
        ),
        (
            "application/json",
            json!({ "tensor": { "shape": [1], "data": ["a"] } }).to_string(),
            400,
            "broken_json",
        ),
        (
            "application/json",
            json!({ "tensor": { "shape": [1], "data": [1], "dtype": "f2" } }).to_string(),
            400,
            "broken_json",
        ),
        (
            "application/json",
            r#"{"tensor": {"shape": [-1], "data": [1]}}"#.to_owned(),
            400,
            "broken_json",
        ),
        (
            "application/json",
            r#"{"tensor": {"shape": [1], "data": [NaN]}}"#.to_owned(),
            400,
            "broken_json",
        ),
        // Beyond float32.
        (
            "application/json",
            r#"{"tensor": {"shape": [1], "data": [1e39]}}"#.to_owned(),
            400,
            "broken_json",
        ),
        (
            "application/x-npy",
            "no array".to_owned(),
            422,
            "broken_npy",
        ),
        (
            "application/octet-stream",
            "\u{0}\u{1}\u{2}".to_owned(),
            415,
            "unsupported_image_type",
        ),
        (
            "multipart/form-data; boundary=edge",
            "nothing like it".to_owned(),
            400,
            "broken_multipart",
        ),
        (
            "multipart/form-data",
            "--edge--".to_owned(),
            400,
            "broken_multipart",
        ),
        (
            "multipart/form-data; boundary=edge",
            "--edge--\r\n".to_owned(),
            422,
            "no_input",
        ),
        (
            "text/plain",
            "hello".to_owned(),
            415,
            "unsupported_media_type",
        ),
        (
            "application/xml",
            "<a/>".to_owned(),
            415,
            "unsupported_media_type",
        ),
    ] {
        for uri in ["/explain", "/predict"] {
            let answer = send(post_as(uri, content_type, body.clone())).await;
            assert_eq!(
                answer.problem(),
                (status, code.to_owned()),
                "{content_type} {body}: {}",
                answer.text()
            );
        }
    }
    let nothing = send(Request::post("/explain").body(Body::empty()).unwrap()).await;
    assert_eq!(nothing.problem(), (422, "empty_image".into()));
}

#[tokio::test]
async fn json_is_taken_as_people_write_it() {
    let wanted = NUMBERS[2].to_vec();
    let nulls = json!({ "image": null, "images": null, "tensor": { "shape": [2], "data": [0.5, -3] }, "baseline_image": null,
        "baseline_tensor": null, "segments_file": null, "encoding": null, "targets": null });
    let text = json!({ "tensor": [0.5, -3] }).to_string();
    let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let marked = format!("\u{feff}{text}").into_bytes();
    for body in [
        nulls.to_string().into_bytes(),
        marked,
        [b"\xFF\xFE", &utf16[..]].concat(),
    ] {
        for content_type in ["application/json", "application/x-www-form-urlencoded"] {
            assert_eq!(
                scores(post_as(NUMBERS_GRADIENT, content_type, body.clone())).await,
                wanted
            );
        }
    }
    let expected = scores(post(GRADIENT, red())).await;
    let image = BASE64_STANDARD.encode(red());
    let lines: Vec<_> = image
        .as_bytes()
        .chunks(76)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    for text in [format!("data:image/png;base64,{image}"), lines.join("\r\n")] {
        assert_eq!(
            scores(post_json(GRADIENT, &json!({ "image": text }))).await,
            expected
        );
        assert_eq!(
            scores(post_json(GRADIENT, &json!({ "images": [text] }))).await,
            expected
        );
    }
    let twice = r#"{"tensor": [1, 2], "tensor": [1, 2]}"#;
    assert_eq!(
        send(post("/predict?model=numbers", twice)).await.refused(),
        ["tensor"]
    );
    let quoted = json!({ "image": format!("b'{image}'") });
    assert!(
        send(post_json("/predict", &quoted))
            .await
            .text()
            .contains("Python")
    );
}

#[tokio::test]
async fn an_error_is_small_whatever_was_sent() {
    let long = "A".repeat(1_000_000);
    for body in [
        json!({ "tensor": long }),
        json!({ "tensor": [long] }),
        json!({ "tensor": { "shape": [1], "data": [long] } }),
        json!({ "tensor": { "shape": [long], "data": [1] } }),
        json!({ "images": long }),
        json!({ "image": [long] }),
        json!({ "image": long }),
        json!(long),
        json!([long]),
    ] {
        let answer = send(post_json("/predict", &body)).await;
        assert!(
            answer.status.is_client_error() && answer.body.len() < 2000,
            "{}",
            answer.body.len()
        );
    }
}

#[tokio::test]
async fn bytes_in_an_array_are_pixels() {
    let pixels = image::load_from_memory(&red()).unwrap().into_rgb8();
    let (width, height) = (pixels.width() as usize, pixels.height() as usize);
    let at = |y: usize, x: usize, channel: usize| pixels.get_pixel(x as u32, y as u32).0[channel];
    let npy = |array: ndarray::ArrayD<u8>| {
        let mut bytes = Vec::new();
        ndarray_npy::WriteNpyExt::write_npy(&array, &mut bytes).unwrap();
        bytes
    };
    let last =
        ndarray::Array3::from_shape_fn((height, width, 3), |(y, x, c)| at(y, x, c)).into_dyn();
    let first =
        ndarray::Array3::from_shape_fn((3, height, width), |(c, y, x)| at(y, x, c)).into_dyn();
    let expected = scores(post(GRADIENT, red())).await;
    let picture = send(post("/explain?method=gradient&target=0", red()))
        .await
        .picture();
    for array in [last, first] {
        assert_eq!(scores(post(GRADIENT, npy(array.clone()))).await, expected);
        let drawn = send(post(
            "/explain?method=gradient&target=0&format=png",
            npy(array.clone()),
        ))
        .await;
        assert_eq!(drawn.picture(), picture);
        let batch = npy(array.clone().insert_axis(ndarray::Axis(0)));
        assert_eq!(values(&send(post(GRADIENT, batch)).await.only()), expected);
        let as_file = json!({ "image": BASE64_STANDARD.encode(npy(array.clone())) });
        assert_eq!(scores(post_json(GRADIENT, &as_file)).await, expected);
        assert_eq!(
            scores(multipart(GRADIENT, &[("image", &npy(array))])).await,
            expected
        );
    }
    let odd = npy(ndarray::ArrayD::zeros(vec![5, 6, 7, 2]));
    assert_eq!(
        send(post("/predict", odd)).await.problem(),
        (422, "wrong_shape".into())
    );
    let bytes = npy(ndarray::ArrayD::zeros(vec![2]));
    assert_eq!(
        send(post("/predict?model=numbers", bytes)).await.problem(),
        (422, "broken_npy".into())
    );
    let mut whole = Vec::new();
    ndarray_npy::WriteNpyExt::write_npy(&ndarray::Array3::<i64>::zeros((3, 8, 8)), &mut whole)
        .unwrap();
    let refused = send(post("/predict", whole)).await;
    assert_eq!(refused.problem(), (422, "broken_npy".into()));
    assert!(
        refused.text().contains("int64") && refused.text().contains("send the picture"),
        "{}",
        refused.text()
    );
}

#[tokio::test]
async fn values_that_no_pixel_has_are_warned_about() {
    let warnings = async |value: f32| {
        let array = write_npy(&tensor(&[3, 8, 8], &[value; 192])).unwrap();
        send(post(GRADIENT, array)).await.only()["warnings"].to_string()
    };
    // The model's pixels lie within a few units of 0.
    assert!(
        warnings(255_000.0).await.contains("was it normalised"),
        "{}",
        warnings(255_000.0).await
    );
    assert!(!warnings(0.5).await.contains("was it normalised"));
}

#[tokio::test]
async fn archives_and_other_files_are_named_under_every_content_type() {
    let npz = [
        b"PK\x03\x04",
        &[0; 22][..],
        &[9, 0, 0, 0],
        b"arr_0.npy",
        &[0; 9],
    ]
    .concat();
    for (content_type, code) in [
        ("application/x-npy", "broken_npy"),
        ("application/octet-stream", "unsupported_image_type"),
    ] {
        let answer = send(post_as("/predict", content_type, npz.clone())).await;
        assert_eq!(answer.problem().1, code);
        assert!(
            answer.text().contains("npz archive") && answer.text().contains("send one npy"),
            "{}",
            answer.text()
        );
    }
    let png = send(post_as("/predict", "application/x-npy", red())).await;
    assert!(png.text().contains("it is a PNG image"), "{}", png.text());
    let stripped: Vec<u8> = red()
        .iter()
        .copied()
        .filter(|byte| !b"\r\n\0".contains(byte))
        .collect();
    assert!(
        send(post("/predict", stripped))
            .await
            .text()
            .contains("--data-binary")
    );
}

#[tokio::test]
async fn tensors_that_do_not_fit_say_why() {
    for (shape, data, code) in [
        (json!([3]), json!([1, 2, 3]), "wrong_shape"),
        (json!([1, 1, 2]), json!([1, 2]), "wrong_shape"),
        (json!([0, 2]), json!([]), "invalid_parameters"),
        (json!([2]), json!([1]), "invalid_parameters"),
        (json!([u64::MAX, 2]), json!([]), "invalid_parameters"),
    ] {
        for uri in ["/explain?model=numbers", "/predict?model=numbers"] {
            let answer = send(post_json(
                uri,
                &json!({ "tensor": { "shape": shape, "data": data } }),
            ))
            .await;
            assert_eq!(
                answer.problem(),
                (422, code.to_owned()),
                "{shape} {data}: {}",
                answer.text()
            );
        }
    }
    for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let array = write_npy(&tensor(&[2], &[1.0, wrong])).unwrap();
        let answer = send(post_as(
            "/explain?model=numbers",
            "application/x-npy",
            array,
        ))
        .await;
        assert_eq!(answer.problem(), (422, "not_finite".into()));
        assert!(
            answer.json()["detail"].as_str().unwrap().contains("[1]"),
            "{}",
            answer.text()
        );
    }
    assert_eq!(
        send(post("/explain?model=numbers", red())).await.problem(),
        (422, "takes_tensors".into())
    );
}

#[tokio::test]
async fn a_prediction_lists_the_best_classes() {
    let answer = send(post("/predict?top_k=2", red())).await.only();
    let labels: Vec<&Value> = answer["predictions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["label"])
        .collect();
    assert_eq!(labels, ["red", "green"]);
    let all = send(post_json(
        "/predict",
        &json!({ "image": BASE64_STANDARD.encode(red()), "top_k": 1000 }),
    ))
    .await
    .only();
    let sum: f64 = all["predictions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["score"].as_f64().unwrap())
        .sum();
    assert!((sum - 1.0).abs() < 1e-6);
    for given in ["top_k=0", "top_k=1001", "top_k=two"] {
        assert_eq!(
            send(post(&format!("/predict?{given}"), red()))
                .await
                .refused(),
            ["top_k"]
        );
    }
    assert_eq!(send(get("/predict")).await.status, 405);
}
