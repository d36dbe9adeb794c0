//! What a request says of the model beside its id: values of its other inputs, the size of its input,
//! and which of its outputs is explained.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use explaind::tensor::{Tensor, write_npy};
use image::{ImageFormat, RgbImage, RgbaImage};
use ndarray::{ArrayD, IxDyn};
use ndarray_npy::WriteNpyExt;
use onnx_autodiff::onnx::graph::{Dim, Element, Graph, Literal, Node, ValueInfo};
use serde_json::{Value, json};

use crate::{
    client::{Answered, get, multipart, post, post_json, send_to, values},
    ends::{SCORES, WEIGHTS, at, cast, close, graph, info, linear, serve, sigmoid, written},
    fixture::{Service, encode, open},
};

/// z = W x and the input `age` beside it: `out` is (z0 + age, z2 - age).
fn beside(age: ValueInfo) -> Vec<u8> {
    let mut graph = linear(
        Element::Float,
        vec![
            Node::new("Concat", ["z", "age"], ["both"]).with("axis", 1_i64),
            Node::new("MatMul", ["both", "v"], ["out"]),
        ],
        vec![info("out", Element::Float, &[2])],
    );
    let v = [1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, -1.0];
    let v = Literal::from_f32s(&[4, 2], &v);
    graph.initializers.insert("v".into(), v);
    graph.inputs.push(age);
    written(&graph)
}

fn share_of(age: f32) -> f64 {
    sigmoid(f64::from(SCORES[0] + age - (SCORES[2] - age)))
}

/// The score of class 0.
fn first(answer: &Value) -> f64 {
    let classes = answer["predictions"].as_array().unwrap();
    let first = classes.iter().find(|one| one["index"] == 0).unwrap();
    first["score"].as_f64().unwrap()
}

async fn ask(service: &Service, uri: &str, body: &Value) -> Answered {
    send_to(&service.router, post_json(uri, body)).await
}

fn npy_i64(shape: &[usize], values: &[i64]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let array = ArrayD::from_shape_vec(IxDyn(shape), values.to_vec()).unwrap();
    array.write_npy(&mut bytes).unwrap();
    bytes
}

fn with(body: &Value, name: &str, value: Value) -> Value {
    let mut body = body.clone();
    body[name] = value;
    body
}

#[tokio::test]
async fn a_request_may_send_the_values_of_the_other_inputs() {
    let said = [("model.toml", "[inputs.age]\nvalue = 0.5")];
    let (_folder, service) = serve(&[("beside", beside(info("age", Element::Float, &[1])), &said)]);
    let x = at(&[1.0, 2.0]);
    let npy = |values: &[f32]| {
        write_npy(&Tensor::from_shape_vec(vec![1, values.len()], values.to_vec()).unwrap()).unwrap()
    };
    let told = async |reply: Answered, age: f32, from: &str| {
        let answer = reply.answer();
        let inputs = &answer["inputs"]["age"];
        assert_eq!(
            (&inputs["from"], &inputs["shape"]),
            (&json!(from), &json!([1])),
            "{answer}"
        );
        assert_eq!(inputs["values"], json!([age]), "{answer}");
        let found = first(&answer["results"][0]);
        assert!((found - share_of(age)).abs() < 1e-5, "{found} {age}");
    };
    let uri = "/predict?model=beside";
    told(ask(&service, uri, &x).await, 0.5, "model").await;
    for value in [
        json!(2),
        json!([2]),
        json!([[2.0]]),
        json!({ "shape": [1], "data": [2] }),
        json!(BASE64_STANDARD.encode(npy(&[2.0]))),
        json!(BASE64_STANDARD.encode(npy_i64(&[1, 1], &[2]))),
    ] {
        let body = with(&x, "inputs", json!({ "age": value }));
        told(ask(&service, uri, &body).await, 2.0, "request").await;
    }
    for text in ["2", "[2]"] {
        let uri = format!("{uri}&inputs.age={text}");
        told(ask(&service, &uri, &x).await, 2.0, "request").await;
    }
    let own = write_npy(&Tensor::from_shape_vec(vec![2], vec![1.0, 2.0]).unwrap()).unwrap();
    for (name, bytes) in [("inputs.age", &npy(&[2.0])[..]), ("inputs.age=", b"2")] {
        let form = multipart(uri, &[("image", &own), (name, bytes)]);
        told(send_to(&service.router, form).await, 2.0, "request").await;
    }
    // A value that is sent stands for that request alone.
    told(ask(&service, uri, &x).await, 0.5, "model").await;

    let body = with(&x, "inputs", json!({ "age": [3] }));
    let query = "model=beside&format=json&head=logits&target=0";
    let reply = ask(
        &service,
        &format!("/explain?{query}&method=gradient"),
        &body,
    )
    .await;
    let answer = reply.only();
    close(&values(&answer), &[1.0, 2.0]);
    assert!((answer["target"]["score"].as_f64().unwrap() - share_of(3.0)).abs() < 1e-5);
    assert_eq!(answer["parameters"]["inputs"], json!({ "age": [3.0] }));
    // Posted again, the parameters give the answer again.
    let mut again = answer["parameters"].clone();
    again["tensor"] = x["tensor"].clone();
    let repeated = ask(&service, "/explain?format=json", &again).await.only();
    assert_eq!(repeated["target"], answer["target"]);
    // So they do as the method of a comparison.
    let body = with(
        &body,
        "methods",
        json!([answer["parameters"], "input_x_gradient"]),
    );
    let compared = ask(&service, &format!("/compare?{query}"), &body).await;
    for one in compared.each() {
        assert_eq!(one["target"], answer["target"]);
    }
    let other = with(&x, "methods", json!([answer["parameters"]]));
    let refused = ask(&service, "/compare?model=beside&format=json", &other).await;
    assert_eq!(refused.refused(), ["methods"]);

    for (inputs, param, part) in [
        (
            json!({ "aeg": 1 }),
            "inputs.aeg",
            "the model has no such input",
        ),
        (json!({ "x": 1 }), "inputs.x", "the model has no such input"),
        (
            json!({ "age": [1, 2] }),
            "inputs.age",
            "it has shape [2], and the input takes [1]",
        ),
        (
            json!({ "age": [[1], 2] }),
            "inputs.age",
            "different lengths",
        ),
        (json!({ "age": [] }), "inputs.age", "a list is empty"),
        (json!({ "age": true }), "inputs.age", "true is no number"),
        (
            json!({ "age": "old" }),
            "inputs.age",
            "neither JSON nor base64",
        ),
        (json!({ "age": "[1" }), "inputs.age", "no JSON of numbers"),
        (
            json!({ "age": 1e300 }),
            "inputs.age",
            "the input's type, float32, has no 1",
        ),
        (
            json!({ "age": { "shape": [2], "data": [1] } }),
            "inputs.age",
            "`data` has 1 numbers",
        ),
        (
            json!({ "age": { "shape": [1] } }),
            "inputs.age",
            "`shape` and `data`",
        ),
        (json!([1]), "inputs", "is not a table"),
    ] {
        let reply = ask(&service, uri, &with(&x, "inputs", inputs.clone())).await;
        assert_eq!(reply.refused(), [param], "{inputs}");
        assert!(reply.text().contains(part), "{inputs}: {}", reply.text());
    }
    let reply = ask(&service, uri, &with(&x, "inputs", json!({ "aeg": 1 }))).await;
    assert_eq!(reply.allowed("inputs.aeg"), ["age"]);
    let twice = format!("{uri}&inputs.age=1");
    let reply = ask(&service, &twice, &with(&x, "inputs", json!({ "age": 1 }))).await;
    assert_eq!(reply.refused(), ["inputs.age"]);
}

/// Class 0 gains a point where the int64 input is 2^53 + 1, which neither float32 nor float64 holds.
#[tokio::test]
async fn integers_are_sent_whole() {
    let large = (1_i64 << 53) + 1;
    let mut net = linear(
        Element::Float,
        vec![
            Node::new("Equal", ["id", "wanted"], ["is"]),
            cast("is", "hit", Element::Float),
            Node::new("Mul", ["hit", "first"], ["gain"]),
            Node::new("Add", ["z", "gain"], ["out"]),
        ],
        vec![info("out", Element::Float, &[3])],
    );
    let first_class = Literal::from_f32s(&[1, 3], &[1.0, 0.0, 0.0]);
    net.initializers.extend([
        ("wanted".to_owned(), Literal::from_i64s(&[1], &[large])),
        ("first".to_owned(), first_class),
    ]);
    net.inputs.push(info("id", Element::Int64, &[1]));
    let said = [("model.toml", "[inputs.id]\nvalue = 7")];
    let (_folder, service) = serve(&[("hits", written(&net), &said)]);
    let x = at(&[1.0, 2.0]);
    let score = async |value: Value| {
        let body = with(&x, "inputs", json!({ "id": value }));
        let reply = ask(&service, "/predict?model=hits", &body).await;
        first(&reply.only())
    };
    let missed = score(json!(large - 1)).await;
    let rows = BASE64_STANDARD.encode(npy_i64(&[1], &[large]));
    for value in [json!(large), json!([large]), json!(rows)] {
        let hit = score(value.clone()).await;
        assert!(hit > missed + 0.1, "{value}: {hit} {missed}");
    }
    for (value, part) in [
        (json!(1.5), "int64, has no 1.5"),
        (json!(1e30), "int64, has no 1"),
        (json!(9_223_372_036_854_775_808_u64), "int64, has no 9"),
        (json!([large, 1.0]), "no float64 holds it"),
    ] {
        let body = with(&x, "inputs", json!({ "id": value }));
        let reply = ask(&service, "/predict?model=hits", &body).await;
        assert!(reply.text().contains(part), "{}", reply.text());
    }
}

/// Of pictures `[3, height, width]` of any size: ReLU behind a 1 x 1 convolution, and the mean of
/// each of its channels.
fn means(height: Dim, width: Dim) -> Vec<u8> {
    let identity = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
    let mut input = info("x", Element::Float, &[3]);
    input.value_type.shape.extend([height, width]);
    written(&graph(
        input,
        vec![info("scores", Element::Float, &[3])],
        vec![("w", Literal::from_f32s(&[3, 3, 1, 1], &identity))],
        vec![
            Node::new("Conv", ["x", "w"], ["mixed"]),
            Node::new("Relu", ["mixed"], ["map"]),
            Node::new("GlobalAveragePool", ["map"], ["pooled"]),
            Node::new("Flatten", ["pooled"], ["scores"]),
        ],
    ))
}

fn open_means() -> Vec<u8> {
    means(Dim::from("h"), Dim::from("w"))
}

const PLAIN: &str = "head = 'logits'\n[input]\nmean = 0\nstd = 1\n";

fn photo(width: u32, height: u32) -> Vec<u8> {
    let image = RgbImage::from_fn(width, height, |x, y| {
        [10 + 5 * (x % 40) as u8, 20 + 7 * (y % 30) as u8, 90].into()
    });
    encode(&image, ImageFormat::Png).to_vec()
}

#[tokio::test]
async fn an_image_keeps_its_size_where_the_graph_leaves_it_open() {
    let of_image = format!("{PLAIN}size = 'image'");
    let declared = format!("{PLAIN}size = [8, 12]\nresize = 'stretch'");
    let (_folder, service) = serve(&[
        ("own", open_means(), &[("model.toml", &of_image)]),
        ("declared", open_means(), &[("model.toml", &declared)]),
        ("fixed", means(6.into(), 6.into()), &[("model.toml", PLAIN)]),
        (
            "high",
            means(4.into(), Dim::from("w")),
            &[("model.toml", &of_image)],
        ),
    ]);
    let explain = async |model: &str, query: &str, files: &[Vec<u8>]| {
        let uri = format!("/explain?model={model}&format=json&target=1&{query}");
        let fields: Vec<(&str, &[u8])> = files.iter().map(|file| ("image", &file[..])).collect();
        send_to(&service.router, multipart(&uri, &fields)).await
    };
    let shape = |one: &Value| {
        let shape = one["attribution"]["shape"].clone();
        serde_json::from_value::<Vec<usize>>(shape).unwrap()
    };
    for (model, query, size) in [
        ("own", "", [6, 10]),
        ("declared", "", [8, 12]),
        ("declared", "input_size=image", [6, 10]),
        ("declared", "input_size=14x5", [5, 14]),
        ("own", "input_size=14x5", [5, 14]),
        ("high", "", [4, 7]),
    ] {
        let query = format!("method=gradient&{query}");
        let one = explain(model, &query, &[photo(10, 6)]).await.only();
        let [height, width] = size;
        assert_eq!(shape(&one), [3, height, width], "{model} {query}");
        let found = values(&one);
        let plane = height * width;
        let share = 1.0 / plane as f32;
        let expected: Vec<f32> = (0..3 * plane)
            .map(|at| if at / plane == 1 { share } else { 0.0 })
            .collect();
        close(&found, &expected);
        assert_eq!(one["input_size"], json!(format!("{width}x{height}")));
    }
    // Pixels as they are, not resized: the mean of 20, 27, ... 55.
    let one = explain("own", "method=gradient", &[photo(10, 6)])
        .await
        .only();
    let mean: f64 = (20.0 + 55.0) / 2.0 / 255.0;
    let found = one["target"]["score"].as_f64().unwrap();
    let logits = [(10.0 + 55.0) / 2.0 / 255.0, mean, 90.0 / 255.0];
    let total: f64 = logits.iter().map(|z| (z - mean).exp()).sum();
    assert!((found - 1.0 / total).abs() < 1e-5, "{found}");
    // Sizes may differ within a request, and every kind of method works.
    let files = [photo(10, 6), photo(7, 9), photo(10, 6)];
    for method in [
        "integrated_gradients",
        "grad_cam",
        "smooth_grad",
        "occlusion",
        "rise&n_samples=50",
        "xrai",
        "lime&n_samples=50",
        "score_cam",
    ] {
        let reply = explain("own", &format!("method={method}"), &files).await;
        let sizes: Vec<_> = reply
            .each()
            .iter()
            .map(|one| shape(one)[1..].to_vec())
            .collect();
        assert_eq!(sizes, [[6, 10], [9, 7], [6, 10]], "{method}");
    }
    let each = explain("own", "method=occlusion", &files).await.each();
    assert_eq!(values(&each[0]), values(&each[2]));
    let alone = explain("own", "method=occlusion", &files[1..2])
        .await
        .only();
    assert_eq!(values(&each[1]), values(&alone));
    let parameters = &each[1]["parameters"];
    assert_eq!(parameters["input_size"], "image");
    // An array holds maps of one size.
    let both = [("image", &files[0][..]), ("image", &files[1])];
    for format in ["npy", "bundle"] {
        let uri = format!("/explain?model=own&method=gradient&format={format}");
        let mixed = send_to(&service.router, multipart(&uri, &both)).await;
        assert_eq!(mixed.refused(), ["format"], "{format}");
    }
    let uri = "/explanations/own?method=gradient";
    let mixed = send_to(&service.router, multipart(uri, &both)).await;
    assert_eq!(mixed.status, 422, "{}", mixed.text());
    // The picture has the size of the upload, and so has each cell of a comparison.
    let uri = "/explain?model=own&method=grad_cam&caption=false&legend=false";
    let picture = send_to(&service.router, post(uri, photo(64, 40)))
        .await
        .picture();
    assert_eq!(picture.width() * 40, picture.height() * 64);
    let uri = "/compare?model=own&method=grad_cam&method=occlusion";
    let grid = send_to(&service.router, post(uri, photo(64, 40)))
        .await
        .picture();
    assert!(grid.width() > 3 * 64);
    let results = multipart(
        "/predict?model=own",
        &[("image", &files[0]), ("image", &files[1])],
    );
    let results = send_to(&service.router, results).await.each();
    let sizes: Vec<_> = results
        .iter()
        .map(|one| one["input_size"].clone())
        .collect();
    assert_eq!(sizes, ["10x6", "7x9"]);
    // What goes with an image is brought to its size.
    let uri = "/explain?model=own&format=json&target=1&method=integrated_gradients&n_steps=4";
    let form = [
        ("image", &files[1][..]),
        ("image", &files[0]),
        ("baseline", &files[2]),
    ];
    let with_baseline = send_to(&service.router, multipart(uri, &form)).await.each();
    assert!(values(&with_baseline[1]).iter().all(|value| *value == 0.0));
    assert!(values(&with_baseline[0]).iter().any(|value| *value != 0.0));
    // A tensor has its own size.
    let tensor = json!({ "tensor": { "shape": [3, 2, 5], "data": vec![0.5; 30] } });
    let uri = "/explain?model=declared&format=json&method=gradient&target=0";
    let one = ask(&service, uri, &tensor).await.only();
    assert_eq!(
        (shape(&one), &one["input_size"]),
        (vec![3, 2, 5], &json!("5x2"))
    );
    for (model, query, part) in [
        ("fixed", "input_size=image", "has one size, [3, 6, 6]"),
        ("fixed", "input_size=6x6", "has one size, [3, 6, 6]"),
        (
            "high",
            "input_size=9x5",
            "the graph fixes the height of the input to 4",
        ),
        ("own", "input_size=0x5", "is no size"),
        ("own", "input_size=5", "is no size"),
        ("own", "input_size=20000x5", "is no size"),
        (
            "own",
            "input_size=9000x9000",
            "243000000 numbers; 3145728 are allowed",
        ),
    ] {
        let reply = explain(model, query, &[photo(10, 6)]).await;
        assert_eq!(reply.refused(), ["input_size"], "{model} {query}");
        assert!(reply.text().contains(part), "{query}: {}", reply.text());
    }
}

#[tokio::test]
async fn an_input_whose_size_a_request_chooses_is_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("own");
    std::fs::create_dir(&own).unwrap();
    std::fs::write(own.join("model.onnx"), open_means()).unwrap();
    std::fs::write(own.join("model.toml"), format!("{PLAIN}size = 'image'")).unwrap();
    let models = folder.path().to_str().unwrap();
    let service = open(&[
        ("models", models),
        ("default_model", ""),
        ("max_input_elements", "180"),
    ]);
    for (size, status) in [((10, 6), 200), ((10, 7), 413)] {
        let uri = "/predict?model=own";
        let reply = send_to(&service.router, post(uri, photo(size.0, size.1))).await;
        assert_eq!(reply.status, status, "{}", reply.text());
        if status == 413 {
            assert_eq!(reply.problem().1, "input_too_large");
            assert!(reply.text().contains("210 numbers; 180 are allowed"));
        }
    }
}

/// A network whose Gemm takes one size alone, though its graph leaves it open.
#[tokio::test]
async fn a_size_that_the_network_cannot_take_is_told() {
    let mut input = info("x", Element::Float, &[3]);
    input
        .value_type
        .shape
        .extend([Dim::from("h"), Dim::from("w")]);
    let net = written(&graph(
        input,
        vec![info("scores", Element::Float, &[2])],
        vec![("w", Literal::from_f32s(&[12, 2], &[0.25; 24]))],
        vec![
            Node::new("Flatten", ["x"], ["flat"]),
            Node::new("MatMul", ["flat", "w"], ["scores"]),
        ],
    ));
    let said = format!("{PLAIN}size = 2\nresize = 'stretch'");
    let (_folder, service) = serve(&[("flat", net, &[("model.toml", &said)])]);
    let reply = send_to(&service.router, post("/predict?model=flat", photo(9, 9))).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let uri = "/predict?model=flat&input_size=3x2";
    let reply = send_to(&service.router, post(uri, photo(9, 9))).await;
    assert_eq!(reply.refused(), ["input_size"]);
    let text = reply.text();
    assert!(
        text.contains("cannot take an input of 3 x 2") && text.contains("MatMul"),
        "{text}"
    );
}

/// z = W x, its sum as the regression `total`, an embedding, a map that is no vector, and an index.
fn several() -> Vec<u8> {
    let two_by_three = Literal::vector_i64(&[-1, 3, 1, 1]);
    let net = linear(
        Element::Float,
        vec![
            Node::new("MatMul", ["z", "ones"], ["total"]),
            Node::new("MatMul", ["z", "turn"], ["vector"]),
            Node::new("Reshape", ["z", "shape"], ["column"]),
            Node::new("Concat", ["column", "column"], ["map"]).with("axis", 3_i64),
            Node::new("ArgMax", ["z"], ["best"]).with("axis", 1_i64),
        ],
        vec![
            info("z", Element::Float, &[3]),
            info("total", Element::Float, &[1]),
            info("vector", Element::Float, &[3]),
            info("map", Element::Float, &[3, 1, 2]),
            info("best", Element::Int64, &[1]),
        ],
    );
    let mut net: Graph = net;
    let turn = [0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0];
    net.initializers.extend([
        ("ones".to_owned(), Literal::from_f32s(&[3, 1], &[1.0; 3])),
        ("turn".to_owned(), Literal::from_f32s(&[3, 3], &turn)),
        ("shape".to_owned(), two_by_three),
    ]);
    written(&net)
}

#[tokio::test]
async fn a_request_may_ask_for_another_output() {
    let said = [
        (
            "model.toml",
            "output = 'z'\nhead = 'logits'\n[outputs.total]\nhead = 'regression'\n[outputs.vector]\nhead = 'embedding'",
        ),
        ("labels.txt", "beach\nboat\nsun\n"),
    ];
    let (_folder, service) = serve(&[
        ("several", several(), &said),
        ("plain", several(), &[("model.toml", "output = 'z'")]),
        (
            "typo",
            several(),
            &[(
                "model.toml",
                "output = 'z'\n[outputs.sum]\nhead = 'regression'\n[outputs.total]\nhead = 'sum'",
            )],
        ),
    ]);
    let broken = crate::ends::faults(&service).await["typo"].clone();
    assert!(
        broken.contains("outputs.sum: the graph has no such output"),
        "{broken}"
    );
    assert!(broken.contains("outputs.total.head"), "{broken}");
    let x = at(&[1.0, 2.0]);
    let explain = async |model: &str, query: &str| {
        let uri = format!("/explain?model={model}&method=gradient&format=json&{query}");
        ask(&service, &uri, &x).await
    };
    let row = |class: usize| [WEIGHTS[2 * class] as f32, WEIGHTS[2 * class + 1] as f32];
    let total = [0, 1].map(|axis| (0..3).map(|class| row(class)[axis]).sum::<f32>());
    let one = explain("several", "target=boat").await.only();
    close(&values(&one), &row(1));
    assert_eq!(one["parameters"]["output"], "z");
    let one = explain("several", "output=total").await.only();
    close(&values(&one), &total);
    assert_eq!(one["parameters"]["output"], "total");
    assert_eq!(one["target"]["label"], Value::Null);
    assert!((one["target"]["score"].as_f64().unwrap() - 10.75).abs() < 1e-5);
    // Without a word in model.toml it holds classes; those that labels.txt fits have its names.
    let one = explain("plain", "output=vector&target=1&head=logits")
        .await
        .only();
    close(&values(&one), &row(0));
    let answer = ask(&service, "/predict?model=several&output=z", &x)
        .await
        .answer();
    assert_eq!(answer["output"], "z");
    assert_eq!(answer["results"][0]["predictions"][0]["label"], "sun");
    let answer = ask(&service, "/predict?model=several&output=vector", &x)
        .await
        .answer();
    let length = SCORES.iter().map(|z| z * z).sum::<f32>().sqrt();
    let found = first(&answer["results"][0]) as f32;
    assert!((found - SCORES[2] / length).abs() < 1e-5, "{answer}");
    assert_eq!(answer["results"][0]["predictions"][0]["label"], Value::Null);
    let body = with(&x, "methods", json!(["gradient", "input_x_gradient"]));
    let compared = ask(
        &service,
        "/compare?model=several&format=json&output=total",
        &body,
    )
    .await;
    close(&values(&compared.each()[0]), &total);
    for (query, part) in [
        ("output=none", "the model has no output"),
        (
            "output=map",
            "output map cannot be explained: it is float32[N, 3, 1, 2]",
        ),
        ("output=best", "the model has no output"),
    ] {
        let reply = explain("several", query).await;
        assert_eq!(reply.refused(), ["output"], "{query}");
        assert_eq!(reply.allowed("output"), ["z", "total", "vector"], "{query}");
        assert!(reply.text().contains(part), "{query}: {}", reply.text());
    }
    let card = send_to(&service.router, get("/models/several"))
        .await
        .answer();
    let reading = &card["manifest"];
    assert_eq!(
        reading["outputs"],
        json!(["z", "total", "vector"]),
        "{card}"
    );
    assert_eq!(reading["output"], "z");
}

/// An RGBA picture whose pixels hardly show their colour.
#[tokio::test]
async fn a_model_of_four_channels_gets_the_alpha_of_a_picture() {
    let net = |channels: usize| {
        written(&graph(
            info("x", Element::Float, &[channels, 4, 4]),
            vec![info("scores", Element::Float, &[channels])],
            vec![],
            vec![
                Node::new("GlobalAveragePool", ["x"], ["pooled"]),
                Node::new("Flatten", ["pooled"], ["scores"]),
            ],
        ))
    };
    let rgba = "head = 'logits'\n[input]\nchannels = 'rgba'\nresize = 'stretch'";
    let (_folder, service) = serve(&[
        ("rgba", net(4), &[("model.toml", rgba)]),
        ("four", net(4), &[]),
        ("five", net(5), &[]),
        ("three", net(3), &[("model.toml", rgba)]),
    ]);
    let fault = crate::ends::faults(&service).await["three"].clone();
    assert!(
        fault.contains("the graph's input has 3 channel(s)"),
        "{fault}"
    );
    let picture = RgbaImage::from_pixel(4, 4, image::Rgba([200, 100, 50, 64]));
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Png).unwrap();
    let send = async |model: &str, body: Vec<u8>| {
        let uri = format!("/explain?model={model}&method=gradient&format=json&target=3");
        send_to(&service.router, post(&uri, body)).await
    };
    let probability = |values: [f64; 4]| {
        let total: f64 = values.iter().map(|z| (z - values[3]).exp()).sum();
        1.0 / total
    };
    let score = |reply: &Answered| reply.only()["target"]["score"].as_f64().unwrap();
    let reply = send("rgba", bytes.get_ref().clone()).await;
    let expected = probability([200.0, 100.0, 50.0, 64.0].map(|value| value / 255.0));
    assert!((score(&reply) - expected).abs() < 1e-5, "{}", reply.text());
    assert_eq!(reply.only()["attribution"]["shape"], json!([4, 4, 4]));
    // A picture without alpha is opaque.
    let opaque = RgbImage::from_pixel(4, 4, [200, 100, 50].into());
    let reply = send("rgba", encode(&opaque, ImageFormat::Png).to_vec()).await;
    let expected = probability([200.0, 100.0, 50.0, 255.0].map(|value| value / 255.0));
    assert!((score(&reply) - expected).abs() < 1e-5, "{}", reply.text());
    // So is one of an npy file with four channels.
    let mut pixels = Vec::new();
    let array = ndarray::Array3::<u8>::from_shape_fn((4, 4, 4), |(_, _, c)| [200, 100, 50, 64][c]);
    array.write_npy(&mut pixels).unwrap();
    let reply = send("rgba", pixels).await;
    let expected = probability([200.0, 100.0, 50.0, 64.0].map(|value| value / 255.0));
    assert!((score(&reply) - expected).abs() < 1e-5, "{}", reply.text());
    for method in [
        "occlusion",
        "xrai",
        "rise&n_samples=50",
        "integrated_gradients",
    ] {
        let uri = format!("/explain?model=rgba&format=json&method={method}&target=3");
        let one = send_to(&service.router, post(&uri, bytes.get_ref().clone()))
            .await
            .only();
        assert_eq!(one["image"]["width"], 4, "{method}");
    }
    // Any number of channels comes as a tensor.
    for (model, channels) in [("four", 4), ("five", 5), ("rgba", 4)] {
        let tensor = write_npy(&Tensor::from_elem(vec![channels, 4, 4], 0.5)).unwrap();
        assert_eq!(send(model, tensor).await.status, 200, "{model}");
    }
    for (model, part) in [
        ("four", "channels = \\\"rgba\\\""),
        ("five", "takes ready tensors of shape [5, 4, 4]"),
    ] {
        let reply = send(model, bytes.get_ref().clone()).await;
        assert_eq!(reply.problem().1, "takes_tensors");
        assert!(reply.text().contains(part), "{}", reply.text());
    }
}
