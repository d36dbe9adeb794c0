//! Models whose inputs and outputs are not float32 scores of an image: adapted where that is exact,
//! else named with what to do.

use std::{collections::BTreeMap, fs};

use explaind::tensor::{Tensor, write_npy};
use onnx_autodiff::onnx::{
    graph::{Attribute, Dim, Element, Graph, Literal, Node, ValueInfo, ValueType},
    write_model,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    benchmark::fixture_with,
    client::{get, post_json, send_to, values},
    fixture::{Service, open},
};

pub fn info(name: &str, element: Element, sizes: &[usize]) -> ValueInfo {
    let shape = [Dim::from("N")]
        .into_iter()
        .chain(sizes.iter().map(|&size| size.into()))
        .collect();
    ValueInfo {
        name: name.into(),
        value_type: ValueType::new(element, shape),
    }
}

pub fn graph(
    input: ValueInfo,
    outputs: Vec<ValueInfo>,
    constants: Vec<(&str, Literal)>,
    nodes: Vec<Node>,
) -> Graph {
    Graph {
        name: "ends".into(),
        opset_imports: BTreeMap::from([(String::new(), 17)]),
        inputs: vec![input],
        outputs,
        initializers: constants
            .into_iter()
            .map(|(name, literal)| (name.to_owned(), literal))
            .collect(),
        nodes,
        ..Graph::default()
    }
}

pub const WEIGHTS: [f64; 6] = [1.0, 2.0, -1.0, 0.5, -0.25, 3.0];

/// Scores W x of three classes over two numbers, in `element`.
pub fn linear(element: Element, nodes: Vec<Node>, outputs: Vec<ValueInfo>) -> Graph {
    let weights = Literal::from_f64s(element, &[3, 2], &WEIGHTS);
    let first = Node::new("Gemm", ["x", "w"], ["z"]).with("transB", 1_i64);
    graph(
        info("x", element, &[2]),
        outputs,
        vec![("w", weights)],
        [vec![first], nodes].concat(),
    )
}

/// The z of x = (1, 2).
pub const SCORES: [f32; 3] = [5.0, 0.0, 5.75];

pub fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}

/// A model's folder: its id, its graph, and the other files in it.
pub type Folder<'a> = (&'a str, Vec<u8>, &'a [(&'a str, &'a str)]);

pub fn serve(models: &[Folder<'_>]) -> (TempDir, Service) {
    let folder = tempfile::tempdir().unwrap();
    for (id, model, files) in models {
        let own = folder.path().join(id);
        fs::create_dir(&own).unwrap();
        fs::write(own.join("model.onnx"), model).unwrap();
        files
            .iter()
            .for_each(|(name, text)| fs::write(own.join(name), text).unwrap());
    }
    let service = open(&[
        ("models", folder.path().to_str().unwrap()),
        ("default_model", ""),
    ]);
    (folder, service)
}

pub fn written(graph: &Graph) -> Vec<u8> {
    write_model(graph).unwrap()
}

pub fn at(x: &[f32]) -> Value {
    json!({ "tensor": { "shape": [x.len()], "data": x } })
}

/// index -> score.
pub async fn predict(service: &Service, id: &str, input: &Value) -> BTreeMap<u64, f64> {
    let answer = send_to(
        &service.router,
        post_json(&format!("/predict?model={id}"), input),
    )
    .await
    .only();
    let found = answer["predictions"]
        .as_array()
        .unwrap_or_else(|| panic!("{answer}"));
    found
        .iter()
        .map(|one| {
            (
                one["index"].as_u64().unwrap(),
                one["score"].as_f64().unwrap(),
            )
        })
        .collect()
}

pub async fn gradient(service: &Service, id: &str, query: &str, input: &Value) -> Vec<f32> {
    let uri = format!("/explain?model={id}&method=gradient&format=json&{query}");
    values(
        &send_to(&service.router, post_json(&uri, input))
            .await
            .only(),
    )
}

pub fn close(found: &[f32], expected: &[f32]) {
    let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5 * b.abs().max(1.0);
    assert!(
        found.len() == expected.len() && found.iter().zip(expected).all(near),
        "{found:?} is not {expected:?}"
    );
}

pub async fn faults(service: &Service) -> BTreeMap<String, String> {
    let list = send_to(&service.router, get("/models")).await.answer();
    let broken = list["broken_models"].as_array().unwrap().iter();
    broken
        .map(|one| {
            (
                one["id"].as_str().unwrap().to_owned(),
                one["faults"].to_string(),
            )
        })
        .collect()
}

#[tokio::test]
async fn nets_of_any_float_are_worked_on_in_float32() {
    let net = |element| written(&linear(element, vec![], vec![info("z", element, &[3])]));
    let inside = |element, last| {
        let mut graph = linear(element, vec![], vec![info("scores", last, &[3])]);
        graph.inputs[0] = info("pixels", Element::Float, &[2]);
        graph.nodes.insert(0, cast("pixels", "x", element));
        graph.nodes.push(cast("z", "scores", last));
        written(&graph)
    };
    let (_folder, service) = serve(&[
        ("half", net(Element::Float16), &[]),
        ("double", net(Element::Double), &[]),
        ("brain", net(Element::Bfloat16), &[]),
        ("inside", inside(Element::Float16, Element::Float), &[]),
        ("wide", inside(Element::Double, Element::Float), &[]),
        ("at_the_end", inside(Element::Double, Element::Double), &[]),
    ]);
    let ids = ["half", "double", "brain", "inside", "wide", "at_the_end"];
    for id in ids {
        close(
            &gradient(&service, id, "head=logits&target=1", &at(&[1.0, 2.0])).await,
            &[-1.0, 0.5],
        );
        let total: f32 = SCORES.iter().map(|z| z.exp()).sum();
        let found: Vec<f32> = predict(&service, id, &at(&[1.0, 2.0]))
            .await
            .into_values()
            .map(|p| p as f32)
            .collect();
        close(&found, &SCORES.map(|z| z.exp() / total));
    }
}

/// A net that takes uint8 pixels `x` `[3, 2, 2]` and averages what `nodes` make of them, `floats`.
fn of_pixels(element: Element, nodes: Vec<Node>, constants: Vec<(&str, Literal)>) -> Vec<u8> {
    let last = Node::new("ReduceMean", ["floats"], ["pooled"])
        .with("axes", vec![2_i64, 3])
        .with("keepdims", 0_i64);
    written(&graph(
        info("x", element, &[3, 2, 2]),
        vec![info("pooled", Element::Float, &[3])],
        constants,
        [nodes, vec![last]].concat(),
    ))
}

pub fn cast(from: &str, name: &str, to: Element) -> Node {
    Node::new("Cast", [from], [name]).with("to", to as i64)
}

#[tokio::test]
async fn integer_pixels_come_in_as_numbers() {
    let byte = |value: f64| Literal::from_f64s(Element::Uint8, &[], &[value]);
    let dequantised = || Node::new("DequantizeLinear", ["x", "scale", "zero"], ["floats"]);
    let quantised = vec![("scale", Literal::scalar_f32(0.5)), ("zero", byte(3.0))];
    let turned = vec![
        Node::new("Split", ["x"], ["r", "g", "b"]).with("axis", 1_i64),
        Node::new("Concat", ["b", "g", "r"], ["bgr"]).with("axis", 1_i64),
        cast("bgr", "wide", Element::Int32),
        Node::new("Sub", ["wide", "middle"], ["centred"]),
        cast("centred", "floats", Element::Float),
    ];
    let middle = Literal::from_f64s(Element::Int32, &[], &[128.0]);
    let shifted = vec![
        Node::new("BitShift", ["x", "one"], ["half"]).with("direction", "RIGHT"),
        cast("half", "floats", Element::Float),
    ];
    let plain = |element| of_pixels(element, vec![cast("x", "floats", Element::Float)], vec![]);
    let models = [
        ("pixels", plain(Element::Uint8), &[][..]),
        (
            "quantised",
            of_pixels(Element::Uint8, vec![dequantised()], quantised),
            &[],
        ),
        (
            "turned",
            of_pixels(Element::Uint8, turned, vec![("middle", middle)]),
            &[],
        ),
        (
            "shifted",
            of_pixels(Element::Uint8, shifted, vec![("one", byte(1.0))]),
            &[],
        ),
        ("signed", plain(Element::Int8), &[]),
    ];
    let (_folder, service) = serve(&models);
    assert!(
        faults(&service).await["signed"]
            .contains("input x is int8, which pixels from 0 to 255 do not fit")
    );
    let card = send_to(&service.router, get("/models/pixels"))
        .await
        .answer();
    let rule = &card["manifest"]["input"]["preprocess"];
    assert_eq!(
        (&rule["scale"], &rule["mean"], &rule["std"]),
        (
            &json!(1.0),
            &json!([0.0, 0.0, 0.0]),
            &json!([1.0, 1.0, 1.0])
        )
    );
    let image = json!({ "tensor": { "shape": [3, 2, 2], "data": [255, 255, 255, 255, 0, 0, 0, 0, 10, 20, 30, 40] } });
    // What each makes of the means of the channels, and how much of a channel class 2 sees.
    let nets = [
        ("pixels", [255.0, 0.0, 25.0], 2, 0.25),
        ("quantised", [126.0, -1.5, 11.0], 2, 0.125),
        ("turned", [-103.0, -128.0, 127.0], 0, 0.25),
        ("shifted", [127.0, 0.0, 12.5], 0, 0.0),
    ];
    for (id, means, channel, share) in nets {
        let found = predict(&service, id, &image).await;
        let total: f32 = means.iter().map(|z: &f32| (z - means[0]).exp()).sum();
        close(&[found[&0] as f32], &[1.0 / total]);
        if share == 0.0 {
            continue;
        }
        let mut expected = [0.0; 12];
        expected[4 * channel..4 * channel + 4].fill(share);
        let uri = format!("/explain?model={id}&method=gradient&format=json&head=logits&target=2");
        let answer = send_to(&service.router, post_json(&uri, &image))
            .await
            .only();
        close(&values(&answer), &expected);
        let told = answer["warnings"].to_string();
        assert!(told.contains("input x is uint8"), "{id}: {told}");
        assert!(answer.get("surrogate").is_none(), "{answer}");
    }
    // What only integers can do is run, and no gradient passes it.
    let card = send_to(&service.router, get("/models/shifted"))
        .await
        .answer();
    let warnings = card["warnings"].to_string();
    assert!(
        warnings.contains("input x is uint8, and node half (BitShift) needs it so"),
        "{warnings}"
    );
    let methods = card["methods"].as_array().unwrap().iter();
    let mut gradient = methods.filter(|method| method["id"] == "gradient");
    let gradient = gradient.next().unwrap();
    assert_eq!(gradient["applies"], json!(false), "{gradient}");
    let reason = gradient["reason"].as_str().unwrap();
    assert!(
        reason.contains("BitShift") || reason.contains("Cast"),
        "{reason}"
    );
}

/// `x` and weights of 8 bits, by `nodes` from `q` or `x` to `z`.
fn of_integers(nodes: Vec<Node>) -> Vec<u8> {
    let integers =
        |element, shape: &[usize], values: &[f64]| Literal::from_f64s(element, shape, values);
    let constants = vec![
        ("s", Literal::scalar_f32(0.02)),
        ("sw", Literal::scalar_f32(0.25)),
        ("sz", Literal::scalar_f32(0.1)),
        ("zero", integers(Element::Uint8, &[], &[128.0])),
        ("zw", integers(Element::Int8, &[], &[0.0])),
        // W of `linear`, transposed.
        (
            "w",
            integers(Element::Int8, &[2, 3], &[4.0, -4.0, -1.0, 8.0, 2.0, 12.0]),
        ),
    ];
    written(&graph(
        info("x", Element::Float, &[2]),
        vec![info("z", Element::Float, &[3])],
        constants,
        nodes,
    ))
}

#[tokio::test]
async fn quantised_nets_are_run_and_explained_by_surrogates_where_floats_stand_between() {
    let quantise = || Node::new("QuantizeLinear", ["x", "s", "zero"], ["q"]);
    let weights = || Node::new("DequantizeLinear", ["w", "sw", "zw"], ["weights"]);
    let by_pairs = vec![
        quantise(),
        Node::new("DequantizeLinear", ["q", "s", "zero"], ["near"]),
        weights(),
        Node::new("MatMul", ["near", "weights"], ["scores"]),
        Node::new("QuantizeLinear", ["scores", "sz", "zero"], ["qz"]),
        Node::new("DequantizeLinear", ["qz", "sz", "zero"], ["z"]),
    ];
    let by_operators = vec![
        quantise(),
        Node::new(
            "QLinearMatMul",
            ["q", "s", "zero", "w", "sw", "zw", "sz", "zero"],
            ["qz"],
        ),
        Node::new("DequantizeLinear", ["qz", "sz", "zero"], ["z"]),
    ];
    let dynamic = vec![
        Node::new("DynamicQuantizeLinear", ["x"], ["q", "by", "from"]),
        Node::new("MatMulInteger", ["q", "w", "from", "zw"], ["sums"]),
        cast("sums", "floats", Element::Float),
        Node::new("Mul", ["by", "sw"], ["scale"]),
        Node::new("Mul", ["floats", "scale"], ["z"]),
    ];
    let weights_alone = vec![weights(), Node::new("MatMul", ["x", "weights"], ["z"])];
    let (_folder, service) = serve(&[
        ("pairs", of_integers(by_pairs), &[]),
        ("operators", of_integers(by_operators), &[]),
        ("dynamic", of_integers(dynamic), &[]),
        ("weights", of_integers(weights_alone), &[]),
    ]);
    let input = at(&[1.0, 2.0]);
    for id in ["pairs", "operators", "dynamic", "weights"] {
        let found = predict(&service, id, &input).await;
        let total: f32 = SCORES.iter().map(|z| z.exp()).sum();
        let expected = SCORES.map(|z| z.exp() / total);
        let near = |(class, p): (usize, &f32)| (found[&(class as u64)] as f32 - p).abs() < 0.04;
        assert!(expected.iter().enumerate().all(near), "{id}: {found:?}");
    }
    let explain = |id: &str, method: &str, format: &str| {
        let head = if method == "random" {
            ""
        } else {
            "&head=logits"
        };
        let uri = format!("/explain?model={id}&method={method}&format={format}{head}&target=1");
        send_to(&service.router, post_json(&uri, &input))
    };
    for (id, is_surrogate) in [("pairs", true), ("weights", false)] {
        let answer = explain(id, "gradient", "json").await.only();
        close(&values(&answer), &[-1.0, 0.5]);
        assert_eq!(answer.get("surrogate").is_some(), is_surrogate, "{answer}");
        let told = answer["warnings"].to_string();
        let says = told.contains("straight through the rounding of 2 QuantizeLinear nodes");
        assert_eq!(says, is_surrogate, "{told}");
    }
    let array = explain("pairs", "gradient", "npy").await;
    let header = array.headers["x-explaind-warnings"].to_str().unwrap();
    assert!(header.starts_with("surrogate gradient"), "{header}");
    let random = explain("pairs", "random", "json").await.only();
    assert!(random.get("surrogate").is_none(), "{random}");
    let refused = [
        (
            "pairs",
            "guided_backprop",
            ["(QuantizeLinear", "method of the gradient"],
        ),
        (
            "operators",
            "gradient",
            ["qz (QLinearMatMul", "in the QDQ format"],
        ),
        (
            "dynamic",
            "gradient",
            ["sums (MatMulInteger", "in the QDQ format"],
        ),
    ];
    for (id, method, told) in refused {
        let problem = explain(id, method, "json").await;
        assert_eq!(problem.status, 422, "{id}");
        let text = problem.text();
        assert!(told.iter().all(|part| text.contains(part)), "{id}: {text}");
        let others = match id {
            "pairs" => "integrated_gradients",
            _ => "methods that apply to model",
        };
        assert!(
            text.contains(others) && text.contains("occlusion"),
            "{id}: {text}"
        );
    }
    let list = send_to(&service.router, get("/models")).await.answer();
    for model in list["models"].as_array().unwrap() {
        let id = model["id"].as_str().unwrap();
        let has_gradient = ["pairs", "weights"].contains(&id);
        let applies = model["applies"].as_array().unwrap();
        assert_eq!(
            applies.contains(&json!("gradient")),
            has_gradient,
            "{model}"
        );
        assert!(applies.contains(&json!("occlusion")), "{model}");
        assert_eq!(
            model["warnings"].to_string().contains("surrogate gradient"),
            id == "pairs",
            "{model}"
        );
    }
    // All that is in the way at once, before anything is run.
    let uri = "/compare?model=pairs&method=gradient,deconvnet,lrp,pattern_net&format=json&target=1";
    let problem = send_to(&service.router, post_json(uri, &input)).await;
    assert_eq!(
        problem.refused(),
        ["methods[1]", "methods[2]", "methods[3]"]
    );
    let text = problem.text();
    assert!(
        text.contains("lrp does not apply to model pairs") && !text.contains("fit-patterns"),
        "{text}"
    );
    let choice = explain("pairs", "auto", "json").await.only();
    let why = choice["method_choice"].as_str().unwrap();
    assert!(why.contains("surrogate"), "{why}");
}

/// A net over pictures of 3 x 12 x 12 numbers, quantised in the QDQ format: two convolutions, a sum,
/// a mean and a matrix product, each of which ONNX Runtime has an integer kernel for.
fn of_pairs() -> Vec<u8> {
    let drawn = |at: usize, most: i64| {
        let bits = (at as u32 + 7).wrapping_mul(2_654_435_761) >> 8;
        (i64::from(bits) % (2 * most + 1) - most) as f64
    };
    let integers = |shape: &[usize], first: usize| {
        let count = shape.iter().product::<usize>();
        let values: Vec<f64> = (first..first + count).map(|at| drawn(at, 100)).collect();
        Literal::from_f64s(Element::Int8, shape, &values)
    };
    let mut constants = vec![
        ("w1", integers(&[8, 3, 3, 3], 0)),
        ("w2", integers(&[8, 8, 3, 3], 1000)),
        ("w3", integers(&[8, 4], 2000)),
        ("zw", Literal::from_f64s(Element::Int8, &[], &[0.0])),
        ("sw", Literal::scalar_f32(0.0047)),
        (
            "b1",
            Literal::from_f64s(
                Element::Int32,
                &[8],
                &[900.0, -700.0, 400.0, 0.0, 250.0, -90.0, 33.0, 1200.0],
            ),
        ),
        ("sb", Literal::scalar_f32(0.0047 * 0.0131)),
        ("zb", Literal::from_f64s(Element::Int32, &[], &[0.0])),
        ("middle", Literal::from_f64s(Element::Uint8, &[], &[128.0])),
        ("zero", Literal::from_f64s(Element::Uint8, &[], &[0.0])),
    ];
    for (name, scale) in [
        ("s0", 0.0131),
        ("s1", 0.0223),
        ("s2", 0.0317),
        ("s3", 0.0209),
        ("s4", 0.0053),
        ("s5", 0.0171),
    ] {
        constants.push((name, Literal::scalar_f32(scale)));
    }
    let pair = |from: &str, scale: &str, zero: &str, to: &str| {
        let integers = format!("{to}.integers");
        [
            Node::new("QuantizeLinear", [from, scale, zero], [integers.as_str()]),
            Node::new("DequantizeLinear", [integers.as_str(), scale, zero], [to]),
        ]
    };
    let weights = |name: &str| {
        Node::new(
            "DequantizeLinear",
            [name, "sw", "zw"],
            [format!("{name}.floats").as_str()],
        )
    };
    let nodes = [
        vec![weights("w1"), weights("w2"), weights("w3")],
        vec![Node::new("DequantizeLinear", ["b1", "sb", "zb"], ["bias"])],
        pair("x", "s0", "middle", "x0").into(),
        vec![
            Node::new("Conv", ["x0", "w1.floats", "bias"], ["c1"]).with("pads", vec![1_i64; 4]),
            Node::new("Relu", ["c1"], ["r1"]),
        ],
        pair("r1", "s1", "zero", "x1").into(),
        vec![Node::new("Conv", ["x1", "w2.floats"], ["c2"]).with("pads", vec![1_i64; 4])],
        pair("c2", "s2", "middle", "x2").into(),
        vec![Node::new("Add", ["x1", "x2"], ["sum"])],
        pair("sum", "s3", "middle", "x3").into(),
        vec![Node::new("GlobalAveragePool", ["x3"], ["mean"])],
        pair("mean", "s4", "middle", "x4").into(),
        vec![
            Node::new("Flatten", ["x4"], ["flat"]),
            Node::new("MatMul", ["flat", "w3.floats"], ["product"]),
        ],
        pair("product", "s5", "middle", "z").into(),
    ];
    written(&graph(
        info("x", Element::Float, &[3, 12, 12]),
        vec![info("z", Element::Float, &[4])],
        constants,
        nodes.concat(),
    ))
}

/// Fused to integer kernels, the forward pass would give other numbers than the derived graph.
#[tokio::test]
async fn a_quantised_net_has_one_value_whatever_is_asked_of_it() {
    let (_folder, service) = serve(&[("pairs", of_pairs(), &[])]);
    for picture in 0..4_usize {
        let data: Vec<f64> = (0..3 * 12 * 12)
            .map(|at| ((at * 7 + picture * 311) as f64 * 0.37).sin() * 1.6)
            .collect();
        let input = json!({ "tensor": { "shape": [3, 12, 12], "data": data } });
        let predicted = predict(&service, "pairs", &input).await;
        for method in [
            "gradient&head=probabilities",
            "integrated_gradients&n_steps=3&head=probabilities",
            "shapley_sampling&max_segments=144&n_samples=1&head=probabilities",
            "occlusion&head=probabilities",
            "rise&n_samples=4",
        ] {
            for target in ["predicted", "1"] {
                let uri =
                    format!("/explain?model=pairs&format=json&method={method}&target={target}");
                let answer = send_to(&service.router, post_json(&uri, &input))
                    .await
                    .only();
                let index = answer["target"]["index"].as_u64().unwrap();
                let score = answer["target"]["score"].as_f64().unwrap();
                assert!(
                    (score - predicted[&index]).abs() <= 1e-6,
                    "{method} {target}: {score}, predicted {}",
                    predicted[&index]
                );
                if let Some(value) = answer["input_value"].as_f64() {
                    assert!(
                        (value - score).abs() <= 1e-6,
                        "{method} {target}: {value}, not {score}"
                    );
                } else {
                    assert!(!method.starts_with("gradient"), "{answer}");
                }
            }
        }
    }
}

#[tokio::test]
async fn jobs_that_a_quantised_net_does_not_suit_are_refused_before_they_are_queued() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("pairs")).unwrap();
    fs::write(folder.path().join("pairs/model.onnx"), of_pairs()).unwrap();
    let models = folder.path().to_str().unwrap();
    let fixture = fixture_with(&[("models", models), ("default_model", "pairs")]);
    let float_model = "float model";
    for (request, params) in [
        (json!({ "kind": "fit_patterns" }), &["model"][..]),
        (
            json!({ "kind": "train", "name": "new", "epochs": 0 }),
            &["epochs", "model"],
        ),
        (
            json!({ "kind": "evaluate", "methods": ["gradient", "deconvnet", "pgig"], "metrics": ["sparseness"] }),
            &["methods[1].id", "methods[2].id"],
        ),
        (
            json!({ "kind": "explain_dataset", "method": "pattern_net" }),
            &["method"],
        ),
    ] {
        let mut request = request;
        request["dataset"] = json!("photos");
        let answer = send_to(&fixture.router, post_json("/jobs", &request)).await;
        assert_eq!(answer.refused(), params, "{}", answer.text());
        let text = answer.text();
        assert!(
            text.contains(float_model) && !text.contains("fit_patterns job"),
            "{text}"
        );
    }
}

/// Index 1 is the class whose probability the net gives, as in Keras.
#[tokio::test]
async fn one_sigmoid_over_one_score_has_two_classes() {
    let (w, x) = ([0.5_f32, -0.25], [1.0_f32, 0.86548]);
    let z = f64::from(w[0] * x[0] + w[1] * x[1]);
    let p = sigmoid(z);
    let net = |tail: &[Node], sizes: &[usize]| {
        let first = Node::new("Gemm", ["x", "w"], ["z"]).with("transB", 1_i64);
        let constants = vec![
            ("w", Literal::from_f32s(&[1, 2], &w)),
            ("axis", Literal::vector_i64(&[1])),
        ];
        let nodes = [&[first, Node::new("Sigmoid", ["z"], ["p"])], tail].concat();
        let name = nodes.last().unwrap().outputs[0].clone();
        written(&graph(
            info("x", Element::Float, &[2]),
            vec![info(&name, Element::Float, sizes)],
            constants,
            nodes,
        ))
    };
    let plain = net(&[], &[1]);
    let squeezed = net(&[Node::new("Squeeze", ["p", "axis"], ["flat"])], &[]);
    let (_folder, service) = serve(&[
        (
            "plain",
            plain.clone(),
            &[("labels.txt", "benign\nmalignant\n")],
        ),
        ("squeezed", squeezed, &[]),
        ("named", plain.clone(), &[("labels.txt", "malignant\n")]),
        ("three", plain, &[("labels.txt", "a\nb\nc\n")]),
    ]);
    for id in ["plain", "squeezed", "named"] {
        let found = predict(&service, id, &at(&x)).await;
        assert!(
            (found[&1] - p).abs() < 1e-6 && (found[&0] - (1.0 - p)).abs() < 1e-6,
            "{id}: {found:?}"
        );
        let slope = (p * (1.0 - p)) as f32;
        for (class, sign) in [(1, 1.0), (0, -1.0)] {
            let target = format!("target={class}");
            let raw = gradient(&service, id, &format!("head=logits&{target}"), &at(&x)).await;
            close(&raw, &w.map(|w| sign * w));
            let found = gradient(
                &service,
                id,
                &format!("head=probabilities&{target}"),
                &at(&x),
            )
            .await;
            close(&found, &w.map(|w| sign * slope * w));
        }
        // The default explains the predicted class, on the probability.
        close(
            &gradient(&service, id, "", &at(&x)).await,
            &w.map(|w| slope * w),
        );
        close(
            &gradient(&service, id, "", &at(&[-x[0], -x[1]])).await,
            &w.map(|w| -slope * w),
        );
    }
    let labels = async |id: &str| {
        send_to(&service.router, get(&format!("/models/{id}")))
            .await
            .answer()["labels"]
            .clone()
    };
    assert_eq!(labels("plain").await, json!(["benign", "malignant"]));
    assert_eq!(labels("named").await, json!(["not malignant", "malignant"]));
    assert!(faults(&service).await["three"].contains("names 3 classes, and the model has 2"));
}

#[tokio::test]
async fn the_scores_in_front_of_a_choice_are_explained() {
    let arg_max = |axis: i64| {
        Node::new("ArgMax", ["z"], ["choice"])
            .with("axis", axis)
            .with("keepdims", 0_i64)
    };
    let chosen = |node: Node| {
        linear(
            Element::Float,
            vec![node],
            vec![info("choice", Element::Int64, &[])],
        )
    };
    let cast = {
        let nodes = vec![
            arg_max(-1),
            Node::new("Cast", ["choice"], ["number"]).with("to", Element::Float as i64),
        ];
        linear(
            Element::Float,
            nodes,
            vec![info("number", Element::Float, &[])],
        )
    };
    let two = |second: &str| {
        let nodes = vec![
            arg_max(1),
            Node::new("Softmax", ["z"], ["p"]),
            Node::new("Neg", ["z"], ["n"]),
        ];
        linear(
            Element::Float,
            nodes,
            vec![
                info("choice", Element::Int64, &[]),
                info(second, Element::Float, &[3]),
                info("n", Element::Float, &[3]),
            ],
        )
    };
    let label_first = {
        let mut graph = two("p");
        graph.outputs.truncate(2);
        graph
    };
    let (_folder, service) = serve(&[
        ("choice", written(&chosen(arg_max(1))), &[]),
        ("cast", written(&cast), &[]),
        ("batch", written(&chosen(arg_max(0))), &[]),
        ("label_first", written(&label_first), &[]),
        ("several", written(&two("p")), &[]),
        (
            "named",
            written(&two("p")),
            &[("model.toml", "output = \"p\"")],
        ),
    ]);
    for id in ["choice", "cast", "label_first", "named"] {
        let found = predict(&service, id, &at(&[1.0, 2.0])).await;
        let total: f32 = SCORES.iter().map(|z| z.exp()).sum();
        close(&[found[&2] as f32], &[SCORES[2].exp() / total]);
        close(
            &gradient(&service, id, "head=logits&target=0", &at(&[1.0, 2.0])).await,
            &[1.0, 2.0],
        );
    }
    let card = send_to(&service.router, get("/models/choice"))
        .await
        .answer();
    assert!(
        card["warnings"][0]
            .as_str()
            .unwrap()
            .contains("node choice (ArgMax)"),
        "{}",
        card["warnings"]
    );
    let faults = faults(&service).await;
    assert_eq!(faults.keys().collect::<Vec<_>>(), ["batch", "several"]);
    assert!(
        faults["batch"].contains("node choice (ArgMax)")
            && faults["batch"].contains("along the classes")
    );
    assert!(
        faults["several"].contains("p float32 [N, 3], n float32 [N, 3]")
            && faults["several"].contains("output =")
    );
}

/// Logits log p, whose Softmax is p again.
#[tokio::test]
async fn probabilities_that_do_not_end_in_softmax_are_shown_as_they_are() {
    let net = |nodes: Vec<Node>| {
        let mut graph = linear(
            Element::Float,
            nodes,
            vec![info("out", Element::Float, &[3])],
        );
        let constants = [
            ("low", Literal::scalar_f32(1e-7)),
            ("half", Literal::scalar_f32(0.5)),
        ];
        let constants = constants.map(|(name, literal)| (name.to_owned(), literal));
        graph.initializers.extend(constants);
        written(&graph)
    };
    let softmax = |to: &str| Node::new("Softmax", ["z"], [to]).with("axis", 1_i64);
    let clipped = net(vec![softmax("p"), Node::new("Clip", ["p", "low"], ["out"])]);
    let mean = net(vec![
        softmax("p"),
        Node::new("Add", ["p", "p"], ["twice"]),
        Node::new("Mul", ["twice", "half"], ["out"]),
    ]);
    // log Σ exp z is left out of exp, so that nothing tells that these are probabilities.
    let hidden = net(vec![
        Node::new("LogSoftmax", ["z"], ["l"]).with("axis", 1_i64),
        Node::new("Exp", ["l"], ["out"]),
    ]);
    let said = [("model.toml", "scores = \"probabilities\"")];
    let (_folder, service) = serve(&[
        ("clipped", clipped.clone(), &[]),
        ("mean", mean, &[]),
        ("plain", net(vec![softmax("out")]), &[]),
        ("said", hidden.clone(), &said),
        ("unsaid", hidden, &[]),
        ("logits", clipped, &[("model.toml", "scores = \"logits\"")]),
    ]);
    let total: f32 = SCORES.iter().map(|z| z.exp()).sum();
    let shares = SCORES.map(|z| z.exp() / total);
    let warnings = async |id: &str| {
        let card = send_to(&service.router, get(&format!("/models/{id}"))).await;
        card.answer()["warnings"].to_string()
    };
    for id in ["clipped", "mean", "plain", "said"] {
        let found = predict(&service, id, &at(&[1.0, 2.0])).await;
        let found: Vec<f32> = found.into_values().map(|p| p as f32).collect();
        close(&found, &shares);
        // d log p_0 / dx = w_0 - Σ p_c w_c, or w_0 where the logits are the network's own.
        let found = gradient(&service, id, "head=logits&target=0", &at(&[1.0, 2.0])).await;
        let w = |class: usize, at: usize| WEIGHTS[2 * class + at] as f32;
        let mean = |at: usize| {
            (0..3)
                .map(|class| shares[class] * w(class, at))
                .sum::<f32>()
        };
        let shift = if id == "plain" {
            [0.0; 2]
        } else {
            [mean(0), mean(1)]
        };
        close(&found, &[w(0, 0) - shift[0], w(0, 1) - shift[1]]);
    }
    assert!(warnings("clipped").await.contains("made of Softmaxes"));
    for (id, told) in [
        ("unsaid", true),
        ("logits", true),
        ("said", false),
        ("plain", false),
    ] {
        let found = warnings(id).await;
        assert_eq!(found.contains("add up to 1"), told, "{id}: {found}");
    }
}

/// The input's name is one of a derived graph; a node needs the batch that the file fixes.
#[tokio::test]
async fn inputs_may_be_called_and_shaped_as_they_are() {
    let tail = |from: &str| Node::new("Gemm", [from, "w"], ["z"]).with("transB", 1_i64);
    let named = |name: &str| {
        let weights = Literal::from_f64s(Element::Float, &[3, 2], &WEIGHTS);
        graph(
            info(name, Element::Float, &[2]),
            vec![info("z", Element::Float, &[3])],
            vec![("w", weights)],
            vec![tail(name)],
        )
    };
    let fixed = |rows: usize| {
        let mut graph = named("x");
        graph.initializers.insert(
            "token".into(),
            Literal::from_f32s(&[rows, 1], &vec![1.0; rows]),
        );
        let axis = |node: Node| node.with("axis", 1_i64);
        graph.nodes = vec![
            axis(Node::new("Concat", ["x", "token"], ["with_token"])),
            axis(Node::new("Gather", ["with_token", "both"], ["read"])),
            tail("read"),
        ];
        graph
            .initializers
            .insert("both".into(), Literal::vector_i64(&[0, 1]));
        graph.inputs[0].value_type.shape[0] = Dim::Known(rows);
        graph.outputs[0].value_type.shape[0] = Dim::Known(rows);
        written(&graph)
    };
    let (_folder, service) = serve(&[
        ("seed", written(&named("seed")), &[]),
        ("logits", written(&named("logits")), &[]),
        ("one_row", fixed(1), &[]),
        ("three_rows", fixed(3), &[]),
    ]);
    for id in ["seed", "logits", "one_row", "three_rows"] {
        let found = predict(&service, id, &at(&[1.0, 2.0])).await;
        let total: f32 = SCORES.iter().map(|z| z.exp()).sum();
        close(&[found[&2] as f32], &[SCORES[2].exp() / total]);
        let query = "head=logits&target=1";
        close(
            &gradient(&service, id, query, &at(&[1.0, 2.0])).await,
            &[-1.0, 0.5],
        );
    }
}

/// None of these can be run: each is named at start, with the reason, and not served with errors.
#[tokio::test]
async fn models_that_cannot_run_are_named_at_start() {
    let node = |node: Node| {
        linear(
            Element::Float,
            vec![node],
            vec![info("out", Element::Float, &[3])],
        )
    };
    let plain = |op: &str| Node::new(op, ["z"], ["out"]);
    let mut custom = plain("Blur");
    custom.domain = "my.ops".into();
    let mut newer = node(plain("Relu"));
    newer.opset_imports.insert(String::new(), 99);
    let mut ir = node(plain("Relu"));
    ir.ir_version = 99;
    let mut undeclared = node(plain("Relu"));
    undeclared
        .initializers
        .insert("w".into(), Literal::from_i64s(&[3, 2], &[1; 6]));
    let fixed = {
        let mut graph = node(Node::new("Add", ["z", "rows"], ["out"]));
        graph
            .initializers
            .insert("rows".into(), Literal::from_f32s(&[4, 3], &[0.0; 12]));
        graph
    };
    let decided = |between: Vec<Node>| {
        let mut graph = linear(
            Element::Float,
            between,
            vec![info("out", Element::Float, &[3])],
        );
        graph
            .initializers
            .insert("half".into(), Literal::from_f32s(&[], &[0.5]));
        graph
            .initializers
            .insert("table".into(), Literal::from_f32s(&[3, 3], &[1.0; 9]));
        written(&graph)
    };
    let arg_max = || {
        Node::new("ArgMax", ["z"], ["choice"])
            .with("axis", 1_i64)
            .with("keepdims", 0_i64)
    };
    let looked_up = decided(vec![
        arg_max(),
        Node::new("Gather", ["table", "choice"], ["out"]),
    ]);
    let thresholded = decided(vec![
        Node::new("Greater", ["z", "half"], ["is"]),
        Node::new("Cast", ["is"], ["out"]).with("to", Element::Float as i64),
    ]);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("looked_up", looked_up, "node choice (ArgMax)"),
        ("thresholded", thresholded, "node is (Greater)"),
        (
            "attribute",
            written(&node(plain("Relu").with("colour", Attribute::Int(3)))),
            "colour",
        ),
        (
            "axis",
            written(&node(plain("Softmax").with("axis", 99_i64))),
            "axis",
        ),
        ("custom", written(&custom_opset(node(custom))), "Blur"),
        ("element", written(&undeclared), "element"),
        ("ir", written(&ir), "IR version 99"),
        ("newer", written(&newer), "opset 99"),
        ("rows", written(&fixed), "rows"),
        ("unknown", written(&node(plain("NoSuchOp"))), "NoSuchOp"),
        ("empty", Vec::new(), "empty"),
        ("gzip", b"\x1f\x8b\x08rest".to_vec(), "gzip"),
        ("html", b"<!DOCTYPE html><html>404</html>".to_vec(), "HTML"),
        (
            "lfs",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n".to_vec(),
            "git lfs pull",
        ),
        ("tflite", b"\x1c\0\0\0TFL3....".to_vec(), "TensorFlow Lite"),
        (
            "torch",
            b"PK\x03\x04....".to_vec(),
            "export the model to ONNX",
        ),
    ];
    let models: Vec<_> = cases
        .iter()
        .map(|(id, bytes, _)| (*id, bytes.clone(), &[] as &[(&str, &str)]))
        .collect();
    let (_folder, service) = serve(&models);
    let found = faults(&service).await;
    let served = send_to(&service.router, get("/models")).await.answer()["models"].clone();
    assert_eq!(served, json!([]));
    for (id, _, part) in &cases {
        if ["element", "rows"].contains(id) {
            assert!(found.contains_key(*id), "{id}");
        } else {
            assert!(found[*id].contains(part), "{id}: {}", found[*id]);
        }
    }
}

/// Logits 5, 0 and 5.75: probabilities 0.9933, 0.5 and 0.9968.
#[tokio::test]
async fn every_class_above_a_threshold_is_explained() {
    let net = written(&linear(
        Element::Float,
        vec![Node::new("Sigmoid", ["z"], ["p"])],
        vec![info("p", Element::Float, &[3])],
    ));
    let bare = written(&linear(
        Element::Float,
        vec![],
        vec![info("z", Element::Float, &[3])],
    ));
    let (_folder, service) = serve(&[
        ("sigmoid", net, &[("labels.txt", "beach\nboat\nsun\n")]),
        ("bare", bare, &[("model.toml", "scores = 'multi_label'")]),
    ]);
    let explain = async |id: &str, query: &str| {
        let uri = format!("/explain?model={id}&method=gradient&{query}");
        send_to(&service.router, post_json(&uri, &at(&[1.0, 2.0]))).await
    };
    for id in ["sigmoid", "bare"] {
        let found: Vec<f32> = predict(&service, id, &at(&[1.0, 2.0]))
            .await
            .into_values()
            .map(|p| p as f32)
            .collect();
        close(&found, &SCORES.map(|z| sigmoid(z.into()) as f32));
        for (least, expected) in [(0.6, vec![2, 0]), (0.4, vec![2, 0, 1]), (0.995, vec![2])] {
            let reply = explain(id, &format!("head=logits&format=json&target=above:{least}")).await;
            let answer = reply.answer();
            let all = answer["explanations"].as_array().unwrap();
            let classes: Vec<_> = all
                .iter()
                .map(|one| one["target"]["index"].as_u64().unwrap())
                .collect();
            assert_eq!(classes, expected, "{id} {least}");
            for one in all {
                let class = one["target"]["index"].as_u64().unwrap() as usize;
                let own = [WEIGHTS[2 * class] as f32, WEIGHTS[2 * class + 1] as f32];
                close(&values(one), &own);
                assert_eq!(one["parameters"]["target"], json!(class));
            }
        }
    }
    // A list of maps is a list however many there are.
    let stack = explain("sigmoid", "format=npy&target=above:0.995").await;
    let header = String::from_utf8_lossy(&stack.body[..stack.body.len().min(128)]).into_owned();
    assert!(header.contains("(1, 2)"), "{header}");
    for (query, status, part) in [
        (
            "format=json&target=above:0.9999",
            422,
            "no class has a score above that: the best, class 2, has 0.99",
        ),
        ("format=json&target=above:many", 422, "such as above:0.5"),
        ("format=png&target=above:0.5", 422, "one answer"),
    ] {
        let reply = explain("sigmoid", query).await;
        assert_eq!(reply.status, status, "{query}: {}", reply.text());
        assert!(reply.text().contains(part), "{query}: {}", reply.text());
    }
}

#[tokio::test]
async fn a_regression_is_its_values() {
    let net = || {
        written(&linear(
            Element::Float,
            vec![],
            vec![info("z", Element::Float, &[3])],
        ))
    };
    let one = {
        let mut graph = linear(
            Element::Float,
            vec![Node::new("Slice", ["z", "from", "to", "axes"], ["age"])],
            vec![info("age", Element::Float, &[1])],
        );
        for (name, value) in [("from", 1), ("to", 2), ("axes", 1)] {
            graph
                .initializers
                .insert(name.into(), Literal::vector_i64(&[value]));
        }
        written(&graph)
    };
    let said = [
        ("model.toml", "head = 'regression'"),
        ("labels.txt", "x\ny\nz\n"),
    ];
    let (_folder, service) = serve(&[
        ("three", net(), &said),
        ("one", one, &said[..1]),
        (
            "both",
            net(),
            &[("model.toml", "head = 'regression'\nscores = 'logits'")],
        ),
        ("classes", net(), &[]),
    ]);
    assert!(faults(&service).await["both"].contains("scores are of classes"));
    // The same file, read in two ways.
    let found: Vec<f32> = predict(&service, "three", &at(&[1.0, 2.0]))
        .await
        .into_values()
        .map(|v| v as f32)
        .collect();
    close(&found, &SCORES);
    let total: f32 = SCORES.iter().map(|z| z.exp()).sum();
    let found = predict(&service, "classes", &at(&[1.0, 2.0])).await;
    close(&[found[&2] as f32], &[SCORES[2].exp() / total]);
    let answer = send_to(
        &service.router,
        post_json("/predict?model=three", &at(&[1.0, 2.0])),
    )
    .await
    .only();
    let labels: Vec<_> = answer["predictions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["label"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(labels, ["x", "y", "z"], "values stand in their order");
    close(
        &gradient(&service, "three", "target=z", &at(&[1.0, 2.0])).await,
        &[-0.25, 3.0],
    );
    close(
        &gradient(&service, "three", "target=x-y", &at(&[1.0, 2.0])).await,
        &[2.0, 1.5],
    );
    close(
        &gradient(&service, "one", "", &at(&[1.0, 2.0])).await,
        &[-1.0, 0.5],
    );
    let card = send_to(&service.router, get("/models/three"))
        .await
        .answer();
    assert_eq!(card["manifest"]["kind"], "regression");
    for (query, part) in [
        ("", "none of the 3 values"),
        ("&target=top:2", "none of the 3 values"),
        ("&target=0&head=probabilities", "there is no probability"),
    ] {
        let uri = format!("/explain?model=three&method=gradient&format=json{query}");
        let reply = send_to(&service.router, post_json(&uri, &at(&[1.0, 2.0]))).await;
        assert_eq!(reply.status, 422, "{query}");
        assert!(reply.text().contains(part), "{query}: {}", reply.text());
    }
}

/// z = W x + V a: scores of two numbers, with the input `age` beside them.
#[tokio::test]
async fn inputs_beside_the_explained_one_have_a_value_in_model_toml() {
    let net = |first: Dim, sizes: &[usize]| {
        let mut graph = linear(
            Element::Float,
            vec![
                Node::new("Concat", ["z", "age"], ["both"]).with("axis", 1_i64),
                Node::new("MatMul", ["both", "v"], ["out"]),
            ],
            vec![info("out", Element::Float, &[2])],
        );
        graph.initializers.insert(
            "v".into(),
            Literal::from_f32s(&[4, 2], &[1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, -1.0]),
        );
        let mut age = info("age", Element::Float, sizes);
        age.value_type.shape[0] = first;
        graph.inputs.push(age);
        written(&graph)
    };
    let plain = || net(Dim::from("N"), &[1]);
    let npy = write_npy(&Tensor::from_elem(vec![1, 1], 0.5)).unwrap();
    let (folder, service) = serve(&[
        (
            "number",
            plain(),
            &[("model.toml", "[inputs.age]\nvalue = 0.5")],
        ),
        (
            "list",
            net(Dim::from("M"), &[1]),
            &[(
                "model.toml",
                "[input]\nname = 'x'\n[inputs.age]\nvalue = [2]",
            )],
        ),
        ("unsaid", plain(), &[]),
        ("half", plain(), &[("model.toml", "[input]\nname = 'x'")]),
        (
            "long",
            plain(),
            &[("model.toml", "[inputs.age]\nvalue = [1, 2]")],
        ),
        (
            "outside",
            plain(),
            &[("model.toml", "[inputs.age]\nfile = '../age.npy'")],
        ),
        (
            "typo",
            plain(),
            &[(
                "model.toml",
                "[inputs.aeg]\nvalue = 1\n[inputs.age]\nvalu = 1",
            )],
        ),
        (
            "missing",
            plain(),
            &[("model.toml", "[inputs.age]\nfile = 'age.npy'")],
        ),
    ]);
    let own = folder.path().join("missing");
    fs::create_dir(folder.path().join("file")).unwrap();
    for name in ["model.onnx", "model.toml"] {
        fs::copy(own.join(name), folder.path().join("file").join(name)).unwrap();
    }
    fs::write(folder.path().join("file/age.npy"), npy).unwrap();
    let found = faults(&service).await;
    for (id, part) in [
        (
            "unsaid",
            "the graph has 2 inputs: name the one to explain here, and give the others a value, such as [inputs.age]",
        ),
        ("half", "input age has no value: say [inputs.age]"),
        ("long", "inputs.age: 2 numbers where [1] takes 1"),
        ("outside", "is not the name of a file beside model.toml"),
        ("typo", "the graph has no such input"),
        ("missing", "age.npy: "),
    ] {
        assert!(found[id].contains(part), "{id}: {}", found[id]);
    }
    assert_eq!(found.len(), 6, "{found:?}");
    drop(service);
    let service = open(&[
        ("models", folder.path().to_str().unwrap()),
        ("default_model", ""),
    ]);
    for (id, age) in [("number", 0.5), ("file", 0.5), ("list", 2.0)] {
        // A batch of two rows gets the value in each.
        let rows = json!({ "tensor": { "shape": [2, 2], "data": [1.0, 2.0, 0.0, 0.0] } });
        let uri = format!("/predict?model={id}");
        let answer = send_to(&service.router, post_json(&uri, &rows))
            .await
            .answer();
        let share = |row: usize| {
            let first = answer["results"][row]["predictions"].as_array().unwrap();
            first.iter().find(|one| one["index"] == 0).unwrap()["score"]
                .as_f64()
                .unwrap()
        };
        for (row, [z0, z2]) in [(0, [SCORES[0], SCORES[2]]), (1, [0.0, 0.0])] {
            let expected = sigmoid(f64::from(z0 + age - (z2 - age)));
            assert!(
                (share(row) - expected).abs() < 1e-5,
                "{id} {row}: {} {expected}",
                share(row)
            );
        }
        close(
            &gradient(&service, id, "head=logits&target=1", &at(&[1.0, 2.0])).await,
            &[-0.25, 3.0],
        );
        let card = send_to(&service.router, get(&format!("/models/{id}")))
            .await
            .answer();
        assert_eq!(card["manifest"]["inputs"]["age"]["shape"], json!([1]));
    }
}

/// cos(W x, W r) = W x W r / |W x| |W r|, against differences in float64.
#[tokio::test]
async fn an_embedding_is_compared_with_a_reference() {
    let net = written(&linear(
        Element::Float,
        vec![],
        vec![info("z", Element::Float, &[3])],
    ));
    let said = [("model.toml", "head = 'embedding'")];
    let (_folder, service) = serve(&[("vector", net.clone(), &said), ("classes", net, &[])]);
    let embed = |x: [f64; 2]| {
        let z: Vec<f64> = WEIGHTS
            .chunks(2)
            .map(|w| w[0] * x[0] + w[1] * x[1])
            .collect();
        let length = z.iter().map(|z| z * z).sum::<f64>().sqrt();
        z.into_iter().map(|z| z / length).collect::<Vec<_>>()
    };
    let similarity = |x, r| {
        embed(x)
            .iter()
            .zip(embed(r))
            .map(|(a, b)| a * b)
            .sum::<f64>()
    };
    let (x, r) = ([1.0, 2.0], [2.0, -0.5]);
    let found: Vec<f32> = predict(&service, "vector", &at(&[1.0, 2.0]))
        .await
        .into_values()
        .map(|v| v as f32)
        .collect();
    let unit: Vec<f32> = embed(x).into_iter().map(|v| v as f32).collect();
    close(&found, &unit);
    let body = json!({
        "tensor": { "shape": [2], "data": x },
        "reference_tensor": { "shape": [2], "data": r },
    });
    let explain = async |id: &str, method: &str, body: &Value| {
        let uri = format!("/explain?model={id}&format=json&{method}");
        send_to(&service.router, post_json(&uri, body)).await
    };
    let answer = explain("vector", "method=gradient", &body).await.only();
    assert_eq!(answer["target"]["label"], "similarity to the reference");
    assert_eq!(answer["parameters"]["target"], "reference");
    let score = answer["target"]["score"].as_f64().unwrap();
    assert!((score - similarity(x, r)).abs() < 1e-6, "{score}");
    let slope = |axis: usize| {
        let moved = |step: f64| {
            let mut x = x;
            x[axis] += step;
            similarity(x, r)
        };
        ((moved(1e-5) - moved(-1e-5)) / 2e-5) as f32
    };
    close(&values(&answer), &[slope(0), slope(1)]);
    let path =
        "method=integrated_gradients&n_steps=100&quadrature=gauss_legendre&baseline=uploaded";
    let mut with_baseline = body.clone();
    with_baseline["baseline_tensor"] = json!({ "shape": [2], "data": [0.5, -1.0] });
    let answer = explain("vector", path, &with_baseline).await.only();
    let total: f32 = values(&answer).iter().sum();
    let difference = similarity(x, r) - similarity([0.5, -1.0], r);
    assert!(
        (f64::from(total) - difference).abs() < 1e-4,
        "{total} {difference}"
    );
    // One number of the vector is explained by its index.
    let mut index = body.clone();
    index
        .as_object_mut()
        .unwrap()
        .shift_remove("reference_tensor");
    assert_eq!(
        explain("vector", "method=gradient&target=2", &index)
            .await
            .status,
        200
    );
    let mut wide = body.clone();
    wide["reference_tensor"] = json!({ "shape": [3], "data": [1, 2, 3] });
    for (id, query, body, part) in [
        (
            "vector",
            "method=gradient",
            &index,
            "send an image to compare with as reference",
        ),
        (
            "vector",
            "method=gradient&target=reference",
            &index,
            "needs the image to compare with",
        ),
        ("vector", "method=gradient&target=1", &body, "leave one out"),
        (
            "vector",
            "method=gradient",
            &wide,
            "reference: the input has shape [3]",
        ),
        ("vector", "method=gradient", &index, "\"reference\""),
        (
            "classes",
            "method=gradient",
            &body,
            "only embeddings are compared",
        ),
    ] {
        let reply = explain(id, query, body).await;
        assert!(
            reply.status.is_client_error() && reply.text().contains(part),
            "{query}: {}",
            reply.text()
        );
    }
}

fn custom_opset(mut graph: Graph) -> Graph {
    graph.opset_imports.insert("my.ops".into(), 1);
    graph
}

/// LRN over 2^62 channels is a sum over all of them.
#[tokio::test]
async fn a_window_of_channels_beyond_all_channels_is_harmless() {
    let lrn = Node::new("LRN", ["z4"], ["out"]).with("size", 1_i64 << 62);
    let reshape = Node::new("Reshape", ["z", "shape"], ["z4"]);
    let mut graph = linear(
        Element::Float,
        vec![reshape, lrn],
        vec![info("out", Element::Float, &[3, 1, 1])],
    );
    graph
        .initializers
        .insert("shape".into(), Literal::vector_i64(&[0, 3, 1, 1]));
    let (_folder, service) = serve(&[("lrn", written(&graph), &[])]);
    let answer = send_to(
        &service.router,
        post_json("/predict?model=lrn", &at(&[1.0, 2.0])),
    )
    .await;
    let named = faults(&service).await.contains_key("lrn");
    assert!(answer.status == 200 || named, "{}", answer.text());
}

/// ReLU of W x 2^-130, which is below the smallest normal number, times 2^120.
#[tokio::test]
async fn a_relu_is_open_for_the_smallest_numbers() {
    let mut net = linear(
        Element::Float,
        vec![
            Node::new("Mul", ["z", "tiny"], ["small"]),
            Node::new("Relu", ["small"], ["on"]),
            Node::new("Mul", ["on", "large"], ["out"]),
        ],
        vec![info("out", Element::Float, &[3])],
    );
    net.initializers.extend([
        (
            "tiny".to_owned(),
            Literal::scalar_f32(f32::MIN_POSITIVE / 16.0),
        ),
        ("large".to_owned(), Literal::scalar_f32(2f32.powi(120))),
    ]);
    let (_folder, service) = serve(&[("tiny", written(&net), &[])]);
    // Scores are 5, 0 and 5.75.
    for (class, open) in [(0, 1.0), (1, 0.0), (2, 1.0)] {
        let query = format!("head=logits&target={class}");
        let found = gradient(&service, "tiny", &query, &at(&[1.0, 2.0])).await;
        let found: Vec<f32> = found.into_iter().map(|value| value * 1024.0).collect();
        let own = [WEIGHTS[2 * class], WEIGHTS[2 * class + 1]];
        close(&found, &own.map(|weight| weight as f32 * open));
    }
}
