//! What an evaluation costs, by the server's own count of the rows that its engine evaluated; and
//! pairs of pictures and models of known importance, as BAM has them, against a naive twin.

use std::{fs, path::Path};

use image::{Rgb, RgbImage};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::{
    databases::sqlite,
    served::{Served, add_model, material},
};

const IMAGES: u64 = 20;

fn request(metrics: &Value) -> Value {
    json!({
        "kind": "evaluate", "model": "colours", "dataset": "photos", "limit": IMAGES, "labels": "ignore",
        "methods": [
            "gradient", "input_x_gradient", { "id": "integrated_gradients", "n_steps": 12 }, { "id": "smooth_grad", "n_samples": 9 },
            "edges", "random",
        ],
        "metrics": metrics,
    })
}

/// What an image may cost, as the refusal of a budget tells it.
async fn planned(server: &Served, metrics: &Value) -> u64 {
    let mut asked = request(metrics);
    asked["budget"] = json!(1);
    let answer = reqwest::Client::new()
        .post(format!("{}/jobs", server.url))
        .json(&asked)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 422);
    let problem: Value = answer.json().await.unwrap();
    let allowed = problem["errors"][0]["allowed"][0].as_str().unwrap();
    allowed.split(' ').next().unwrap().parse().unwrap()
}

/// Rows evaluated since the server started.
async fn rows(server: &Served) -> u64 {
    let metrics = server.text("/metrics").await;
    let counts = metrics
        .lines()
        .filter(|line| line.starts_with("explaind_rows_total{"));
    counts
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}

/// Rows that a job of these metrics takes.
async fn evaluated(server: &Served, metrics: &Value) -> u64 {
    let before = rows(server).await;
    let id = server.submit(&request(metrics)).await;
    let job = server.reach(&id, |job| job["state"] == "succeeded").await;
    assert_eq!(job["result"]["used"], IMAGES);
    rows(server).await - before
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_metrics_of_six_methods_share_one_explanation_of_each_image() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (material, database) = (material(), sqlite());
    let server = Served::start(material.path(), &database, "all");
    let one = json!(["sparseness"]);
    let ten = json!([
        "sparseness", "entropy", "model_randomisation", "random_logit", "repeatability",
        { "id": "degradation", "grid": 4, "steps": 6 }, { "id": "degradation", "grid": 4, "steps": 6, "order": "ascending" },
        { "id": "deletion", "steps": 8 }, { "id": "insertion", "steps": 8 }, { "id": "degradation", "grid": 8, "steps": 9 },
    ]);
    let (explaining, all) = (planned(&server, &one).await, planned(&server, &ten).await);
    let alone = evaluated(&server, &one).await;
    let together = evaluated(&server, &ten).await;
    assert!(
        alone > 0 && alone <= explaining * IMAGES,
        "{alone}, {explaining} planned"
    );
    assert!(
        together > alone && 2 * together <= 3 * all * IMAGES,
        "{together}, {all} planned"
    );
    // Beside one explanation of each image there is what the metrics ask for, and no more.
    let measuring = (all - explaining) * IMAGES;
    assert!(
        together <= alone + measuring,
        "{alone}, {together}, {measuring} planned"
    );
    server.kill();
}

const SIDE: usize = 8;
const SCENES: [&str; 2] = ["forest", "beach"];
const OBJECTS: [&str; 2] = ["dog", "cat"];
/// A model's name, its classes, and the weights of the three channels for each.
type Linear = (&'static str, [&'static str; 2], [[f32; 3]; 2]);
/// Scenes are told by red and green, objects by blue.
const MODELS: [Linear; 3] = [
    ("scenes", SCENES, [[4.0, -1.0, 0.0], [-1.0, 4.0, 0.0]]),
    ("objects", OBJECTS, [[0.0, 0.0, 4.0], [1.0, 1.0, 0.0]]),
    ("both", OBJECTS, [[0.1, 0.0, 6.0], [1.0, 1.5, 1.0]]),
];

/// One group: a picture with and without an object, which lies in a square.
struct Pair {
    labels: [&'static str; 2],
    /// Left, top and side.
    square: [usize; 3],
    with: RgbImage,
    without: RgbImage,
}

/// Pairs as a data set, and the models.
fn add_pairs(material: &Path) -> Vec<Pair> {
    for (id, classes, weights) in &MODELS {
        add_model(material, id, classes, weights);
    }
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let mut table = "file,label,group,role,x0,y0,x1,y1\n".to_owned();
    let mut pairs = Vec::new();
    for at in 0..24 {
        let (scene, object) = (at % 2, at / 2 % 2);
        let without = RgbImage::from_fn(SIDE as u32, SIDE as u32, |_, _| {
            let mut pixel: [u8; 3] = [0; 3].map(|_: u8| random.random_range(0..100));
            pixel[scene] += 120;
            pixel[2] /= 2;
            Rgb(pixel)
        });
        let square = [random.random_range(0..4), random.random_range(0..4), 4];
        let [left, top, side] = square;
        let mut with = without.clone();
        for (y, x) in (top..top + side).flat_map(|y| (left..left + side).map(move |x| (y, x))) {
            let mut pixel = [0, 0, 255];
            if object == 1 {
                pixel = [0; 3].map(|_: u8| random.random_range(20..200));
                pixel[2] = 0;
            }
            with.put_pixel(x as u32, y as u32, Rgb(pixel));
        }
        let labels = [OBJECTS[object], SCENES[scene]];
        for (role, image) in [("with", &with), ("without", &without)] {
            let file = format!("{role}/{at:02}.png");
            let path = material.join("pairs").join(&file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            image.save(path).unwrap();
            let ([object, scene], right, bottom) = (labels, left + side, top + side);
            table +=
                &format!("{file},{object}|{scene},{at},{role},{left},{top},{right},{bottom}\n");
        }
        pairs.push(Pair {
            labels,
            square,
            with,
            without,
        });
    }
    fs::write(material.join("pairs/labels.csv"), table).unwrap();
    pairs
}

/// The class that a model predicts, and whether the labels have it.
fn judged(model: usize, picture: &RgbImage, labels: [&str; 2]) -> (usize, bool) {
    let (_, classes, weights) = MODELS[model];
    let mut logits = [0.0_f64; 2];
    for pixel in picture.pixels() {
        for (logit, weights) in logits.iter_mut().zip(weights) {
            let sum = pixel
                .0
                .iter()
                .zip(weights)
                .map(|(v, w)| f64::from(*v) / 255.0 * f64::from(w));
            *logit += sum.sum::<f64>();
        }
    }
    let class = usize::from(logits[1] > logits[0]);
    (class, labels.contains(&classes[class]))
}

/// The mean attribution of the square by input x gradient for the class that the model predicts.
fn attribution(model: usize, picture: &RgbImage, pair: &Pair) -> f64 {
    let weights = MODELS[model].2[judged(model, picture, pair.labels).0];
    let pixel = |pixel: &Rgb<u8>| {
        let channels = pixel.0.iter().zip(weights);
        channels
            .map(|(v, w)| (f64::from(*v) * f64::from(w)).max(0.0))
            .sum::<f64>()
    };
    let pixels: Vec<f64> = picture.pixels().map(pixel).collect();
    let mut sorted = pixels.clone();
    sorted.sort_by(f64::total_cmp);
    let place = 0.99 * (sorted.len() - 1) as f64;
    let (low, part) = (place as usize, place.fract());
    let most = sorted[low] + part * (sorted[low + 1] - sorted[low]);
    let [left, top, side] = pair.square;
    let inside = (top..top + side).flat_map(|y| (left..left + side).map(move |x| y * SIDE + x));
    let scaled = inside.map(|at| ((pixels[at] - sorted[0]) / (most - sorted[0])).min(1.0));
    scaled.sum::<f64>() / (side * side) as f64
}

fn mean(numbers: &[f64]) -> f64 {
    numbers.iter().sum::<f64>() / numbers.len() as f64
}

#[tokio::test(flavor = "multi_thread")]
async fn pairs_and_models_are_measured_as_a_naive_twin_has_it() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (material, database) = (material(), sqlite());
    let pairs = add_pairs(material.path());
    let dataset = format!("pairs={}", material.path().join("pairs").display());
    let data = database.data.path();
    let server = Served::with(
        material.path(),
        data,
        database.url.as_deref(),
        "all",
        |command| {
            command.args(["--dataset", &dataset]);
        },
    );
    let models = json!(["objects", "scenes", "both"]);
    let asked = json!({
        "kind": "evaluate", "model": "scenes", "dataset": "pairs",
        "methods": ["input_x_gradient", { "id": "smooth_grad", "n_samples": 5 }, "edges"],
        "metrics": [
            { "id": "mcs", "models": models }, { "id": "mcs_correlation", "models": models }, "idr",
            { "id": "mcs", "models": models, "region": "random" }, { "id": "idr", "region": "random" },
        ],
    });
    let before = rows(&server).await;
    let id = server.submit(&asked).await;
    let job = server.reach(&id, |job| job["state"] == "succeeded").await;
    assert_eq!(job["parameters"]["role"], "with");
    let hashes = job["parameters"]["model_hashes"].as_object().unwrap();
    assert_eq!(Vec::from_iter(hashes.keys()), ["both", "objects", "scenes"]);
    // Each image by the methods, again without the object and by each of three models, and three
    // forward passes: both regions and the correlation are measured at once.
    let (evaluated, explaining) = (rows(&server).await - before, 1 + 5 + 1);
    let used = job["result"]["used"].as_u64().unwrap();
    assert!(evaluated <= used * (5 * explaining + 3) + 24, "{evaluated}");

    let own: Vec<&Pair> = pairs
        .iter()
        .filter(|pair| judged(0, &pair.with, pair.labels).1)
        .collect();
    assert_eq!(used as usize, own.len());
    let is_same = |pair: &&&Pair| {
        judged(0, &pair.with, pair.labels).0 == judged(0, &pair.without, pair.labels).0
    };
    let lower = |pair: &&Pair| {
        let [with, without] = [&pair.with, &pair.without].map(|one| attribution(0, one, pair));
        f64::from(u8::from(with < without))
    };
    let idr: Vec<f64> = own.iter().filter(is_same).map(lower).collect();
    let of_model = |model: usize| {
        let right = own
            .iter()
            .filter(|pair| judged(model, &pair.with, pair.labels).1);
        let contrast =
            |pair: &&&Pair| attribution(model, &pair.with, pair) - attribution(0, &pair.with, pair);
        let contrasts: Vec<f64> = right.map(|pair| contrast(&pair)).collect();
        let loss = |pair: &&Pair| {
            let [with, without] =
                [&pair.with, &pair.without].map(|one| judged(model, one, pair.labels).1);
            f64::from(u8::from(with)) - f64::from(u8::from(without))
        };
        (
            mean(&contrasts),
            mean(&Vec::from_iter(own.iter().map(loss))),
        )
    };
    let (contrasts, losses): (Vec<f64>, Vec<f64>) = [1, 0, 2].map(of_model).into_iter().unzip();
    let about = |numbers: &[f64]| {
        numbers
            .iter()
            .map(|one| one - mean(numbers))
            .collect::<Vec<_>>()
    };
    let product =
        |one: &[f64], other: &[f64]| one.iter().zip(other).map(|(a, b)| a * b).sum::<f64>();
    let (x, y) = (about(&contrasts), about(&losses));
    let correlation = product(&x, &y) / (product(&x, &x) * product(&y, &y)).sqrt();

    let metrics = job["result"]["metrics"].as_array().unwrap();
    let row = |metric: usize| &metrics[metric]["rows"][0];
    let near = |found: &Value, expected: f64| {
        let gap = (found.as_f64().unwrap() - expected).abs();
        // Inputs, maps and measurements are f32.
        assert!(gap < 1e-5, "{found} {expected}");
    };
    for (place, contrast) in contrasts.iter().enumerate() {
        near(&row(0)["mean_curve"][place], *contrast);
    }
    near(&row(0)["value"], mean(&contrasts));
    near(&row(1)["value"], correlation);
    near(&row(2)["value"], mean(&idr));
    // What is known of the pictures: objects matter to the second model, and scenes to the first.
    assert!(contrasts[0] > 0.3 && contrasts[1] == 0.0 && losses[0] > 0.3 && losses[1].abs() < 0.1);
    assert!(mean(&idr) > 0.5, "{idr:?}");
    for random in [3, 4] {
        let [low, high] = [0, 1].map(|end| row(random)["interval"][end].as_f64().unwrap());
        let expected = if random == 3 { 0.0 } else { 0.5 };
        assert!(
            low - 0.2 < expected && expected < high + 0.2,
            "{}",
            row(random)
        );
    }
    // The edges of a picture do not depend on the model.
    assert_eq!(metrics[0]["rows"][3]["title"], "edges");
    assert_eq!(metrics[0]["rows"][3]["value"], 0.0);
    // Each label is known to some model.
    let described = server.text("/datasets/pairs?model=scenes").await;
    let described: Value = serde_json::from_str(&described).unwrap();
    assert_eq!(
        (&described["labelled"], &described["problems"]),
        (&json!(48), &json!(0))
    );
    server.kill();
}
