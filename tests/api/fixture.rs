//! A service with a folder of small models, and the pictures they are asked about.

use std::{
    collections::BTreeMap,
    fs,
    io::Cursor,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use axum::Router;
use bytes::Bytes;
use explaind::{
    api::{Api, router},
    app::App,
    methods::{parameters::Method, registry},
    model::{
        patterns::{self, Provenance},
        support_store::{NewMember, NewSet},
        supports::{self, Weights},
    },
    settings::{Flags, Settings, load},
    tensor::Tensor,
};
use image::{ImageFormat, RgbImage};
use onnx_autodiff::onnx::{
    graph::{Dim, Element, Graph, Literal, Node, ValueInfo, ValueType},
    write_model,
};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

pub struct Service {
    pub app: App,
    pub router: Router,
}

/// One service for all tests that change nothing.
pub fn shared() -> &'static Service {
    static SHARED: LazyLock<Service> = LazyLock::new(|| {
        let service = open(&[]);
        for id in ["tiny", "squeezenet1_1"] {
            install_supports(&service.app, id);
        }
        service
    });
    &SHARED
}

/// Gives a model a set `pair` of one support, whose first weights are a little smaller.
fn install_supports(app: &App, id: &str) {
    let model = app.models().get(id).unwrap();
    let mut initializers = model.graph.initializers.iter();
    let (name, first) = initializers
        .find(|(_, weights)| weights.shape.len() > 1)
        .unwrap();
    let smaller: Vec<f32> = first
        .to_f32s()
        .unwrap()
        .iter()
        .map(|value| value * 0.9)
        .collect();
    let weights = Weights::from([(name.clone(), Literal::from_f32s(&first.shape, &smaller))]);
    let set = NewSet {
        name: "pair".into(),
        classes: [0, 1],
        provenance: supports::Provenance::Upload,
        members: vec![NewMember::new(2.0, &weights).unwrap()],
    };
    // Not on the runtime of the test that comes first.
    let (app, model) = (app.clone(), model.clone());
    let install = move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(app.install_supports(&model, set)).unwrap();
    };
    std::thread::spawn(install).join().unwrap();
}

/// A service on the shared models with settings of its own.
pub fn open(settings: &[(&str, &str)]) -> Service {
    let app = App::start(settings_with(settings)).unwrap();
    Service {
        router: router(Api::new(app.clone()).unwrap()),
        app,
    }
}

pub fn settings_with(changes: &[(&str, &str)]) -> Settings {
    let mut values = BTreeMap::from(
        [("default_model", "tiny".to_owned())].map(|(name, text)| (name.to_owned(), text)),
    );
    values.insert("models".to_owned(), models().display().to_string());
    values.insert(
        "data".to_owned(),
        models().join(".data").display().to_string(),
    );
    values.extend(
        changes
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned())),
    );
    let library = std::env::vars().filter(|(name, _)| name == "EXPLAIND_ONNXRUNTIME");
    load(
        &Flags {
            config: None,
            values,
        },
        library,
    )
    .unwrap()
}

/// The folder of models: `tiny` 8x8 pixels, three classes, patterns; `plain` the same without
/// patterns and labels; `vit` 32x32 pixels, a transformer; `numbers` two numbers, no picture; `coin`
/// cannot be differentiated; `shares` is `numbers` behind a Softmax;
/// `broken` and `empty` are none; the others are the bundled SqueezeNet, under names whose rows can
/// be counted apart.
fn models() -> &'static Path {
    static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
        let folder = tempfile::tempdir().unwrap();
        let make = |id: &str, files: &[(&str, &[u8])]| {
            fs::create_dir(folder.path().join(id)).unwrap();
            files.iter().for_each(|(name, bytes)| {
                fs::write(folder.path().join(id).join(name), bytes).unwrap()
            });
        };
        let pixels: &[u8] =
            b"head = \"logits\"\n[input]\nmean = 0.0\nstd = 1.0\nresize = \"stretch\"\n";
        let net = colour_model();
        make(
            "tiny",
            &[
                ("model.onnx", &net),
                ("model.toml", pixels),
                ("labels.txt", b"red\ngreen\nblue\n"),
            ],
        );
        write_patterns(&folder.path().join("tiny"), &net);
        make("plain", &[("model.onnx", &net), ("model.toml", pixels)]);
        let vit = fs::read(export("families/vit.dynamo18.onnx")).unwrap();
        make("vit", &[("model.onnx", &vit), ("model.toml", pixels)]);
        make(
            "numbers",
            &[
                ("model.onnx", &write_model(&number_net()).unwrap()),
                ("model.toml", b"head = \"logits\""),
            ],
        );
        make(
            "coin",
            &[
                ("model.onnx", &write_model(&coin_net()).unwrap()),
                ("model.toml", b"head = \"logits\""),
            ],
        );
        make(
            "shares",
            &[
                ("model.onnx", &write_model(&shares_net()).unwrap()),
                ("model.toml", b"head = \"logits\""),
            ],
        );
        make(
            "broken",
            &[("model.onnx", b"not a model"), ("model.toml", b"heads = 1")],
        );
        make("empty", &[]);
        for id in ["squeezenet1_1", "deadline", "gone", "drain", "late"] {
            std::os::unix::fs::symlink(bundled(), folder.path().join(id)).unwrap();
        }
        folder
    });
    FOLDER.path()
}

/// A folder of models with one, `digits`: `tiny` with classes called 10, 2 and 0.
pub fn digits() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("digits");
    fs::create_dir(&own).unwrap();
    for file in ["model.onnx", "model.toml"] {
        fs::copy(models().join("tiny").join(file), own.join(file)).unwrap();
    }
    fs::write(own.join("labels.txt"), "\u{feff}10\r\n2\r\n0\r\n\r\n").unwrap();
    folder
}

/// A network of the parity tests.
fn export(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/parity")
        .join(file)
}

/// The small model that a method applies to.
pub fn small_model(method: &str) -> &'static str {
    let attends = registry::find(method).is_some_and(Method::looks_at_attention);
    if attends { "vit" } else { "tiny" }
}

fn bundled() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/squeezenet1_1")
}

/// Row c of the matrix of `numbers`: its gradient for class c.
pub const NUMBERS: [[f32; 2]; 3] = [[1.0, 0.0], [0.0, -1.0], [-1.0, 1.0]];

fn graph(
    input: Vec<Dim>,
    classes: usize,
    initializers: Vec<(&str, Literal)>,
    nodes: Vec<Node>,
) -> Graph {
    let value = |name: &str, sides: Vec<Dim>| {
        let shape = [Dim::from("N")].into_iter().chain(sides).collect();
        ValueInfo {
            name: name.into(),
            value_type: ValueType::new(Element::Float, shape),
        }
    };
    Graph {
        name: "small".into(),
        opset_imports: BTreeMap::from([(String::new(), 17)]),
        inputs: vec![value("x", input)],
        outputs: vec![value("scores", vec![classes.into()])],
        initializers: initializers
            .into_iter()
            .map(|(name, literal)| (name.to_owned(), literal))
            .collect(),
        nodes,
        ..Graph::default()
    }
}

fn number_net() -> Graph {
    let weights = Literal::from_f32s(&[3, 2], NUMBERS.as_flattened());
    let bias = Literal::from_f32s(&[3], &[0.0; 3]);
    let nodes = vec![Node::new("Gemm", ["x", "w", "b"], ["scores"]).with("transB", 1_i64)];
    graph(vec![2.into()], 3, vec![("w", weights), ("b", bias)], nodes)
}

/// As `number_net`, behind an operation that has no gradient here.
fn coin_net() -> Graph {
    let mut net = number_net();
    net.nodes[0].inputs[0] = "coin".into();
    net.nodes.insert(0, Node::new("Bernoulli", ["x"], ["coin"]));
    net
}

/// As `number_net`, behind an op that has a gradient, and no rule of other rule sets.
fn shares_net() -> Graph {
    let mut net = number_net();
    net.nodes[0].inputs[0] = "shares".into();
    net.nodes.insert(0, Node::new("Softmax", ["x"], ["shares"]));
    net
}

/// The file of `tiny` and `plain`.
pub fn colour_model() -> Vec<u8> {
    write_model(&colour_net()).unwrap()
}

/// As `tiny`, with the logarithm of each mean: not finite for black.
pub fn logarithm_model() -> Vec<u8> {
    colour_model_through("Log")
}

/// As `tiny`, with this operation on each mean.
pub fn colour_model_through(op: &str) -> Vec<u8> {
    let mut net = colour_net();
    net.nodes[4].inputs[0] = "through".into();
    net.nodes.insert(4, Node::new(op, ["flat"], ["through"]));
    write_model(&net).unwrap()
}

/// Class c answers to the mean of channel c.
fn colour_net() -> Graph {
    let mut filters = vec![0.0; 3 * 3 * 9];
    (0..3).for_each(|c| filters[(c * 3 + c) * 9..][..9].fill(1.0 / 9.0));
    let mut classes = vec![-1.0; 9];
    (0..3).for_each(|c| classes[c * 4] = 4.0);
    let nodes = vec![
        Node::new("Conv", ["x", "filters"], ["conv"]).with("pads", vec![1_i64; 4]),
        Node::new("Relu", ["conv"], ["relu"]),
        Node::new("GlobalAveragePool", ["relu"], ["pool"]),
        Node::new("Flatten", ["pool"], ["flat"]),
        Node::new("Gemm", ["flat", "classes", "bias"], ["scores"]).with("transB", 1_i64),
    ];
    let initializers = vec![
        ("filters", Literal::from_f32s(&[3, 3, 3, 3], &filters)),
        ("classes", Literal::from_f32s(&[3, 3], &classes)),
        ("bias", Literal::from_f32s(&[3], &[0.0; 3])),
    ];
    graph(vec![3.into(), 8.into(), 8.into()], 3, initializers, nodes)
}

fn write_patterns(folder: &Path, net: &[u8]) {
    let ramp = |shape: &[usize]| {
        let count = shape.iter().product::<usize>();
        Tensor::from_shape_vec(
            shape,
            (0..count).map(|i| 0.1 + i as f32 / count as f32).collect(),
        )
        .unwrap()
    };
    let layers = BTreeMap::from([
        ("conv".to_owned(), ramp(&[3, 3, 3, 3])),
        ("scores".to_owned(), ramp(&[3, 3])),
    ]);
    let provenance = Provenance {
        model_hash: Sha256::digest(net)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
        data_set: "made up".into(),
        samples: 1,
        rows: 1,
        regime: "positive".into(),
        version: env!("CARGO_PKG_VERSION").into(),
    };
    patterns::write(&folder.join(patterns::FILE), &layers, &provenance).unwrap();
}

/// A picture of one colour with a darker left half.
pub fn picture(width: u32, height: u32, colour: [u8; 3]) -> Bytes {
    let shade = |x: u32| {
        if x * 2 < width {
            colour.map(|value| value / 2)
        } else {
            colour
        }
    };
    encode(
        &RgbImage::from_fn(width, height, |x, _| image::Rgb(shade(x))),
        ImageFormat::Png,
    )
}

pub fn encode(image: &RgbImage, format: ImageFormat) -> Bytes {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner().into()
}

pub fn red() -> Bytes {
    picture(12, 8, [250, 40, 20])
}

pub fn blue() -> Bytes {
    picture(12, 8, [20, 30, 240])
}

/// A file of the repository's test images.
pub fn test_image(name: &str) -> Vec<u8> {
    fs::read(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/data/images")
            .join(name),
    )
    .unwrap()
}
