//! The routes of other model servers: answers are those of POST /explain and POST /predict, in the
//! forms that the clients of those servers read.

use axum::{body::Body, http::Request};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use ndarray::Array3;
use serde_json::{Value, json};

use crate::{
    client::{Answered, get, multipart, post, post_json, send, values, with},
    fixture::red,
};

fn photo() -> String {
    BASE64_STANDARD.encode(red())
}

/// The scores of all classes by POST /predict.
async fn expected_scores() -> Vec<f64> {
    let answer = send(post("/predict?model=tiny&top_k=3", red()))
        .await
        .only();
    let mut scores = vec![0.0; 3];
    for class in answer["predictions"].as_array().unwrap() {
        scores[class["index"].as_u64().unwrap() as usize] = class["score"].as_f64().unwrap();
    }
    scores
}

/// The attribution by POST /explain, and its target.
async fn expected(parameters: &str) -> (Vec<f32>, u64) {
    let answer = send(post(
        &format!("/explain?model=tiny&format=json&{parameters}"),
        red(),
    ))
    .await
    .only();
    (values(&answer), answer["target"]["index"].as_u64().unwrap())
}

fn flat(value: &Value) -> Vec<f32> {
    match value {
        Value::Array(items) => items.iter().flat_map(flat).collect(),
        number => vec![number.as_f64().unwrap() as f32],
    }
}

/// As curl -T sends a file.
fn put(uri: &str, body: impl Into<Body>) -> Request<Body> {
    Request::put(uri).body(body.into()).unwrap()
}

const JSON_LENGTH: &str = "inference-header-content-length";

/// To the model `tiny`: JSON of this length, and bytes behind it.
fn with_json_of(length: usize, body: Vec<u8>) -> Request<Body> {
    let request = post("/v2/models/tiny/infer", body);
    with(request, JSON_LENGTH, &length.to_string())
}

/// What clients read of an error: KServe's and Triton's `error`, TorchServe's `message`.
fn told(answer: &Answered) -> (u16, String) {
    let body = answer.json();
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(
        (&body["message"], body["code"].as_u64()),
        (&body["error"], Some(answer.status.as_u16().into()))
    );
    let text = body["error"].as_str().unwrap();
    assert!(!text.is_empty() && text.len() < 4100);
    (answer.status.as_u16(), format!("{text} {}", body["errors"]))
}

#[tokio::test]
async fn v1_predicts_and_explains_instances() {
    // What KServe's client takes for a sign of life.
    assert_eq!(send(get("/")).await.answer(), json!({ "status": "alive" }));
    let models = send(get("/v1/models")).await.answer();
    assert!(
        models["models"]
            .as_array()
            .unwrap()
            .contains(&json!("tiny"))
    );
    assert_eq!(
        send(get("/v1/models/tiny")).await.answer(),
        json!({ "name": "tiny", "ready": true })
    );

    let scores = expected_scores().await;
    for instance in [
        json!(photo()),
        json!({ "b64": photo() }),
        json!({ "data": photo() }),
        json!({ "image_bytes": { "b64": photo() } }),
    ] {
        let body = json!({ "instances": [instance, instance] });
        let answer = send(post_json("/v1/models/tiny:predict", &body))
            .await
            .answer();
        assert_eq!(answer, json!({ "predictions": [scores, scores] }));
    }

    let (map, target) = expected("method=integrated_gradients&n_steps=3").await;
    let body = json!({ "instances": [{ "b64": photo() }], "parameters": { "n_steps": 3 } });
    let uri = "/v1/models/tiny:explain?method=integrated_gradients";
    let answer = send(post_json(uri, &body)).await.answer();
    let [one] = &answer["explanations"].as_array().unwrap()[..] else {
        panic!("{answer}")
    };
    assert_eq!(one["target"]["index"], target);
    assert_eq!(flat(&one["attribution"]["data"]), map);
}

#[tokio::test]
async fn v1_takes_tensors_as_lists() {
    let tensor = Array3::from_shape_fn((3, 8, 8), |(c, _, x)| c as f32 + x as f32 / 7.0);
    let row = |c: usize, y: usize| (0..8).map(|x| tensor[[c, y, x]]).collect::<Vec<_>>();
    let plane = |c| (0..8).map(|y| row(c, y)).collect::<Vec<_>>();
    let lists = json!((0..3).map(plane).collect::<Vec<_>>());
    let by_explaind = send(post_json(
        "/predict?model=tiny&top_k=1",
        &json!({ "tensor": lists }),
    ))
    .await
    .only();
    let answer = send(post_json(
        "/v1/models/tiny:predict",
        &json!({ "instances": [lists] }),
    ))
    .await
    .answer();
    let best = flat(&answer["predictions"][0])
        .into_iter()
        .fold(0.0, f32::max);
    assert_eq!(
        best,
        by_explaind["predictions"][0]["score"].as_f64().unwrap() as f32
    );
}

#[tokio::test]
async fn v2_describes_server_and_model() {
    let server = send(get("/v2")).await.answer();
    assert_eq!(server["name"], "explaind");
    assert_eq!(
        send(get("/v2/health/live")).await.answer(),
        json!({ "live": true })
    );
    assert_eq!(
        send(get("/v2/health/ready")).await.answer(),
        json!({ "ready": true })
    );
    assert_eq!(
        send(get("/v2/models/tiny/ready")).await.answer(),
        json!({ "name": "tiny", "ready": true })
    );
    let model = send(get("/v2/models/tiny")).await.answer();
    assert_eq!(model["inputs"][0]["shape"], json!([-1, 3, 8, 8]));
    assert_eq!(model["outputs"][0]["shape"], json!([-1, 3]));
    assert_eq!(model["outputs"][1]["shape"], json!([-1, -1, 8, 8]));
}

/// The name of tiny's input.
async fn input_name() -> String {
    let model = send(get("/v2/models/tiny")).await.answer();
    model["inputs"][0]["name"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn v2_infers_scores_and_explanations_as_json_and_as_bytes() {
    let (name, scores) = (input_name().await, expected_scores().await);
    let (map, target) = expected("method=gradient").await;

    let image =
        json!({ "name": name, "datatype": "BYTES", "shape": [2], "data": [photo(), photo()] });
    let body = json!({ "id": "seven", "inputs": [image] });
    let answer = send(post_json("/v2/models/tiny/infer", &body))
        .await
        .answer();
    assert_eq!(
        (&answer["id"], &answer["model_name"]),
        (&json!("seven"), &json!("tiny"))
    );
    let [output] = &answer["outputs"].as_array().unwrap()[..] else {
        panic!("{answer}")
    };
    assert_eq!(
        (&output["name"], &output["shape"], &output["datatype"]),
        (&json!("scores"), &json!([2, 3]), &json!("FP32"))
    );
    assert_eq!(output["data"], json!([&scores[..], &scores[..]].concat()));

    // The photo behind the JSON, and the map, too.
    let photo = red();
    let size = 4 + photo.len();
    let header = json!({
        "inputs": [{ "name": name, "datatype": "BYTES", "shape": [1, 1], "parameters": { "binary_data_size": size } }],
        "outputs": [
            { "name": "target" },
            { "name": "attribution", "parameters": { "binary_data": true } },
            { "name": "scores", "parameters": { "binary_data": true } },
        ],
        "parameters": { "method": "gradient", "priority": 1 },
    })
    .to_string();
    let bytes = [
        header.as_bytes(),
        &(photo.len() as u32).to_le_bytes(),
        &photo,
    ]
    .concat();
    let answer = send(with_json_of(header.len(), bytes)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let length: usize = answer
        .header("inference-header-content-length")
        .unwrap()
        .parse()
        .unwrap();
    let (head, blobs) = answer.body.split_at(length);
    let head: Value = serde_json::from_slice(head).unwrap();
    let outputs = head["outputs"].as_array().unwrap();
    assert_eq!(outputs[0]["data"], json!([target]));
    assert_eq!(outputs[1]["shape"], json!([1, 3, 8, 8]));
    assert_eq!(outputs[1]["parameters"]["binary_data_size"], 4 * 192);
    let floats: Vec<f32> = blobs
        .chunks_exact(4)
        .map(|four| f32::from_le_bytes(four.try_into().unwrap()))
        .collect();
    assert_eq!(floats[..192], map[..]);
    assert_eq!(floats[192..].len(), 3);
    assert_eq!(head["parameters"]["method"], "gradient");
}

#[tokio::test]
async fn v2_takes_pixels_and_floats() {
    let name = input_name().await;
    let pixels = [200, 30, 60];
    let json_pixels = json!({ "name": name, "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": pixels.repeat(64) });
    let as_picture = {
        let picture = image::RgbImage::from_fn(8, 8, |_, _| image::Rgb([200, 30, 60]));
        let mut file = std::io::Cursor::new(Vec::new());
        picture
            .write_to(&mut file, image::ImageFormat::Png)
            .unwrap();
        json!({ "name": name, "datatype": "BYTES", "shape": [1], "data": [BASE64_STANDARD.encode(file.into_inner())] })
    };
    let scores = async |input: &Value| {
        let answer = send(post_json(
            "/v2/models/tiny/infer",
            &json!({ "inputs": [input] }),
        ))
        .await;
        flat(&answer.answer()["outputs"][0]["data"])
    };
    assert_eq!(scores(&json_pixels).await, scores(&as_picture).await);

    let floats: Vec<f32> = (0..2 * 192).map(|i| i as f32 / 300.0).collect();
    let json_floats =
        json!({ "name": name, "datatype": "FP32", "shape": [2, 3, 8, 8], "data": floats });
    let header = json!({ "inputs": [{ "name": name, "datatype": "FP64", "shape": [2, 3, 8, 8], "parameters": { "binary_data_size": 8 * 384 } }] }).to_string();
    let doubles: Vec<u8> = floats
        .iter()
        .flat_map(|value| f64::from(*value).to_le_bytes())
        .collect();
    let body = [header.as_bytes(), &doubles].concat();
    let binary = send(with_json_of(header.len(), body)).await.answer();
    assert_eq!(
        flat(&binary["outputs"][0]["data"]),
        scores(&json_floats).await
    );
}

#[tokio::test]
async fn torchserve_answers_curl() {
    assert_eq!(
        send(get("/ping")).await.answer(),
        json!({ "status": "Healthy" })
    );
    let expected_classes = {
        let answer = send(post("/predict?model=tiny", red())).await.only();
        let classes = answer["predictions"].as_array().unwrap().clone();
        let pair = |class: &Value| {
            (
                class["label"].as_str().unwrap().to_owned(),
                class["score"].clone(),
            )
        };
        Value::Object(classes.iter().map(pair).collect())
    };
    let (map, _) = expected("method=gradient").await;
    let form = || multipart("/predictions/tiny", &[("data", &red())]);
    for request in [
        post("/predictions/tiny", red()),
        put("/predictions/tiny", red()),
        form(),
    ] {
        assert_eq!(send(request).await.answer(), expected_classes);
    }
    for request in [
        post("/explanations/tiny?method=gradient", red()),
        put("/explanations/tiny?method=gradient", red()),
    ] {
        let lists = send(request).await.answer();
        assert_eq!(
            (lists.as_array().unwrap().len(), flat(&lists)),
            (3, map.clone())
        );
    }
}

#[tokio::test]
async fn refusals_are_told_where_clients_look() {
    let name = input_name().await;
    let v2 = |input: Value| json!({ "inputs": [input] });
    let tensor = |shape: Value, datatype: &str, data: Value| {
        v2(json!({ "name": name, "datatype": datatype, "shape": shape, "data": data }))
    };
    let huge = json!([4_294_967_296_u64, 4_294_967_296_u64, 4_294_967_296_u64]);
    for (uri, body, status, part) in [
        (
            "/v1/models/none:predict",
            json!({ "instances": [[1]] }),
            404,
            "none",
        ),
        (
            "/v1/models/tiny",
            json!({ "instances": [[1]] }),
            400,
            ":predict or :explain",
        ),
        (
            "/v1/models/tiny:explain",
            json!({ "instances": [] }),
            422,
            "empty",
        ),
        (
            "/v1/models/tiny:explain",
            json!({ "instances": [[1]], "parameters": { "method": "no" } }),
            422,
            "no",
        ),
        (
            "/v1/models/tiny:explain?model=plain",
            json!({ "instances": [[1]] }),
            422,
            "in the path",
        ),
        (
            "/v1/models/tiny:explain?format=png",
            json!({ "instances": [[1]] }),
            422,
            "/explain",
        ),
        (
            "/v1/models/tiny:predict",
            json!({ "instances": [[1, 2]] }),
            422,
            "shape",
        ),
        ("/v2/models/none/infer", v2(json!({})), 404, "none"),
        (
            "/v2/models/tiny/infer",
            json!({ "inputs": [] }),
            422,
            "inputs",
        ),
        (
            "/v2/models/tiny/infer",
            v2(json!({ "name": "y", "datatype": "FP32", "shape": [1], "data": [1] })),
            422,
            "y",
        ),
        (
            "/v2/models/tiny/infer",
            v2(json!({ "name": name, "datatype": "FP32", "shape": [1] })),
            422,
            "either",
        ),
        (
            "/v2/models/tiny/infer",
            tensor(json!([2]), "FP32", json!([1])),
            422,
            "shape",
        ),
        (
            "/v2/models/tiny/infer",
            tensor(huge.clone(), "UINT8", json!([1])),
            422,
            "shape",
        ),
        (
            "/v2/models/tiny/infer",
            tensor(huge, "BYTES", json!(["aGVsbG8="])),
            422,
            "shape",
        ),
        (
            "/v2/models/tiny/infer",
            tensor(json!([1]), "UINT8", json!([256])),
            422,
            "0 to 255",
        ),
        (
            "/v2/models/tiny/infer",
            tensor(json!([1]), "COMPLEX", json!([1])),
            422,
            "FP32",
        ),
        (
            "/v2/models/tiny/infer",
            tensor(json!([1]), "BYTES", json!(["*"])),
            422,
            "base64",
        ),
    ] {
        let (found, text) = told(&send(post_json(uri, &body)).await);
        assert!(
            found == status && text.contains(part),
            "{uri} {body}: {found} {text}"
        );
    }
    for body in [
        json!({ "inputs": [{ "name": name, "datatype": "BYTES", "shape": [1], "data": [photo()] }], "outputs": [{ "name": "scores" }, { "name": "scores" }] }),
        json!({ "inputs": [], "outputs": [{ "name": "x" }] }),
        json!({ "inputs": [{ "name": name, "datatype": "BYTES", "shape": [1], "parameters": { "binary_data_size": 9 } }] }),
    ] {
        let (status, _) = told(&send(post_json("/v2/models/tiny/infer", &body)).await);
        assert_eq!(status, 422, "{body}");
    }
    let image = json!({ "name": name, "datatype": "BYTES", "shape": [1], "data": [photo()] });
    let texts = json!({ "inputs": [image], "parameters": { "binary_data_output": "true" } });
    let (status, told_of) = told(&send(post_json("/v2/models/tiny/infer", &texts)).await);
    assert!(
        status == 422 && told_of.contains("binary_data_output"),
        "{told_of}"
    );
    let json = json!({ "inputs": [image] }).to_string();
    let body = [json.as_bytes(), b"left over"].concat();
    let (status, told_of) = told(&send(with_json_of(json.len(), body)).await);
    assert!(status == 422 && told_of.contains("9 bytes"), "{told_of}");
    for length in ["many", "999"] {
        let request = with(post("/v2/models/tiny/infer", "{}"), JSON_LENGTH, length);
        assert!([400, 422].contains(&told(&send(request).await).0));
    }
    assert_eq!(told(&send(put("/predictions/none", red())).await).0, 404);
    assert_eq!(told(&send(put("/predictions/tiny", "hello")).await).0, 415);
}
