//! Concept activation vectors as a job over HTTP, on small images: scores against a twin in plain
//! numbers, concepts that count and concepts that do not, faults, and every form of the report.

use std::{collections::BTreeMap, fs, path::Path};

use explaind::{
    dataset::draw,
    tcav::{
        cav::fit_and_test,
        draws::{Draw, draws},
    },
};
use image::RgbImage;
use onnx_autodiff::onnx::{read_bytes, write_model};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    benchmark::{Fixture, fixture_with},
    client::{get, post_json, send_to},
    fixture::colour_model_through,
};

const IMAGES: usize = 12;
const RANDOM: usize = 60;
const SET: usize = 10;

/// An 8 x 8 picture around a colour.
fn around(random: &mut ChaCha8Rng, colour: [u8; 3]) -> RgbImage {
    RgbImage::from_fn(8, 8, |_, _| {
        image::Rgb(colour.map(|value| value.saturating_add(random.random_range(0..40))))
    })
}

/// `mixed` has red and blue images without a role, red ones of the role `concept`, and images of any
/// colour of the role `random`; `noise` and `few` have images of any colour, `few` only three.
fn sets() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let any = |random: &mut ChaCha8Rng| {
        let colour = random.random::<[u8; 3]>().map(|value| value / 4 * 3);
        around(random, colour)
    };
    let mut table = "file,label,role\n".to_owned();
    let save = |set: &str, name: String, image: &RgbImage| {
        let path = folder.path().join(set).join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        image.save(path).unwrap();
    };
    for at in 0..IMAGES {
        for (label, role, colour) in [
            ("red", "", [150, 60, 60]),
            ("blue", "", [60, 60, 150]),
            ("", "concept", [200, 30, 30]),
        ] {
            let name = format!("{label}{role}{at:02}.png");
            table += &format!("{name},{label},{role}\n");
            save("mixed", name, &around(&mut random, colour));
        }
    }
    for at in 0..RANDOM {
        let name = format!("any{at:02}.png");
        table += &format!("{name},,random\n");
        save("mixed", name, &any(&mut random));
        save("noise", format!("{at:02}.png"), &any(&mut random));
    }
    (0..3).for_each(|at| save("few", format!("{at}.png"), &any(&mut random)));
    fs::write(folder.path().join("mixed/labels.csv"), table).unwrap();
    folder
}

fn fixture(folder: &Path, changes: &[(&str, &str)]) -> Fixture {
    let named = ["mixed", "noise", "few"].map(|id| format!("{id}={}", folder.join(id).display()));
    let named = named.join(",");
    let own = [("dataset", named.as_str())];
    let changes: Vec<_> = own.into_iter().chain(changes.iter().copied()).collect();
    fixture_with(&changes)
}

fn request(class: &str) -> Value {
    json!({ "kind": "tcav", "model": "tiny", "dataset": "mixed", "class": class, "images_per_set": SET, "seed": 4 })
}

async fn result(fixture: &Fixture, request: &Value) -> (Value, Value) {
    let id = fixture.submit(request).await;
    let job = fixture.ended(&id).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    (job, fixture.report(&id, "json").await.answer())
}

/// The mean of each channel of what the net's first layer makes of a picture: of each pixel the mean
/// of the nine around it, black beyond the edge.
fn means(path: &Path) -> Vec<f32> {
    let picture = image::open(path).unwrap().to_rgb8();
    let weight = |at: u32| if at == 0 || at == 7 { 2.0 } else { 3.0 };
    let mean = |channel: usize| {
        let pixels = picture.enumerate_pixels();
        let sum: f64 = pixels
            .map(|(x, y, pixel)| weight(x) * weight(y) * f64::from(pixel[channel]) / 255.0)
            .sum();
        (sum / 9.0 / 64.0) as f32
    };
    (0..3).map(mean).collect()
}

#[tokio::test]
async fn scores_are_those_of_a_twin_in_plain_numbers() {
    let folder = sets();
    let fixture = fixture(folder.path(), &[]);
    fixture.work();
    let (job, report) = result(&fixture, &request("red")).await;
    let settled = &report["request"];
    assert_eq!(settled["layers"], json!(["conv", "relu", "flat"]));
    assert_eq!(
        (&settled["n_random"], &settled["class"]),
        (&json!(20), &json!(0))
    );
    assert_eq!(
        (&settled["concept"], &settled["random"]),
        (&json!("mixed"), &json!("mixed"))
    );
    let found = &report["result"];
    assert_eq!(
        (&found["images"], &found["label"]),
        (&json!(IMAGES), &json!("red"))
    );
    assert_eq!(
        (&found["random_images"], &found["disjoint"]),
        (&json!(RANDOM), &json!(false))
    );

    // In the order of the data set, which is that of names.
    let place = |name: &str, count: usize| -> Vec<Vec<f32>> {
        let file = |at| {
            folder
                .path()
                .join("mixed")
                .join(format!("{name}{at:02}.png"))
        };
        (0..count).map(|at| means(&file(at))).collect()
    };
    let (concept, random) = (place("concept", IMAGES), place("any", RANDOM));
    let pick = |rows: &[Vec<f32>], places: &[usize]| -> Vec<Vec<f32>> {
        places.iter().map(|at| rows[*at].clone()).collect()
    };
    let concept = pick(&concept, &draw(IMAGES, SET, 4));
    // The logit of red at `flat` rises by 4 with red, and falls by 1 with green and blue.
    let gradient = [4.0, -1.0, -1.0];
    let (mut scores, mut accuracies) = ([Vec::new(), Vec::new()], [0.0; 2]);
    for Draw {
        counterpart,
        stand_in,
    } in draws(RANDOM, SET, 20, 4)
    {
        let counterpart = pick(&random, &counterpart);
        for (side, set) in [concept.clone(), pick(&random, &stand_in)]
            .iter()
            .enumerate()
        {
            let fit = fit_and_test(set, &counterpart, 0.01).unwrap().unwrap();
            scores[side].push(f64::from(u8::from(fit.cav.along(&gradient) > 0.0)));
            accuracies[side] += fit.accuracy / 20.0;
        }
    }
    let layer = &found["layers"][2];
    for (side, name) in ["concept", "random"].into_iter().enumerate() {
        assert_eq!(layer[name]["each"], json!(scores[side]), "{name}");
        let accuracy = layer[name]["accuracy"].as_f64().unwrap();
        assert!((accuracy - accuracies[side]).abs() < 1e-12, "{name}");
    }
    // Of random vectors some speak for red and some against it.
    let mean = layer["random"]["mean"].as_f64().unwrap();
    assert!(0.0 < mean && mean < 1.0);
    // GET /jobs/{id} shows the scores, without those of each draw.
    assert_eq!(job["result"]["score"], found["score"]);
    assert!(job["result"]["layers"][0]["concept"]["each"].is_null());
}

#[tokio::test]
async fn what_the_class_depends_on_passes_and_what_it_does_not_is_rejected() {
    let folder = sets();
    let fixture = fixture(folder.path(), &[]);
    fixture.work();
    for (class, score) in [("red", 1.0), ("blue", 0.0)] {
        let (_, report) = result(&fixture, &request(class)).await;
        for layer in report["result"]["layers"].as_array().unwrap() {
            assert_eq!(layer["passes"], true, "{class}: {layer}");
            assert_eq!(layer["concept"]["mean"], score, "{class}: {layer}");
            assert!(layer["test"]["p"].as_f64().unwrap() < 0.01);
        }
        assert_eq!(report["result"]["score"], score);
    }
    let mut noise = request("red");
    noise["concept"] = json!("noise");
    let (_, report) = result(&fixture, &noise).await;
    for layer in report["result"]["layers"].as_array().unwrap() {
        assert_eq!(layer["passes"], false, "{layer}");
        assert!(
            layer["rejected"]
                .as_str()
                .unwrap()
                .contains("is above 0.01"),
            "{layer}"
        );
    }
    assert!(report["result"]["score"].is_null());
    // Under a lenient p the same scores pass.
    noise["p"] = json!(0.9999);
    let (_, lenient) = result(&fixture, &noise).await;
    let scores = |report: &Value| report["result"]["layers"][0]["concept"].clone();
    assert_eq!(scores(&lenient), scores(&report));
    assert!(lenient["result"]["score"].is_f64());
}

#[tokio::test]
async fn the_same_request_gives_the_same_reports_in_every_form() {
    let folder = sets();
    let fixture = fixture(folder.path(), &[]);
    fixture.work();
    let first = fixture.submit(&request("red")).await;
    fixture.ended(&first).await;
    let report = fixture.report(&first, "json").await.answer();
    let mut settled = report["request"].clone();
    settled["kind"] = json!("tcav");
    let again = fixture.submit(&settled).await;
    fixture.ended(&again).await;
    for format in ["json", "csv", "svg", "png"] {
        let [one, other] = [&first, &again].map(|id| fixture.report(id, format));
        let (one, other) = (one.await, other.await);
        assert_eq!(one.status, 200, "{format}");
        assert!(one.body == other.body, "{format}");
    }
    let mut other = request("red");
    other["seed"] = json!(5);
    let (_, other) = result(&fixture, &other).await;
    let random = |report: &Value| report["result"]["layers"][0]["random"]["each"].clone();
    assert_ne!(random(&other), random(&report));

    let csv = fixture.report(&first, "csv").await.text();
    let mut lines = csv.lines();
    assert!(
        lines
            .next()
            .unwrap()
            .starts_with("model,layer,passes,score,low,high,accuracy,random_score")
    );
    let rows: BTreeMap<&str, Vec<&str>> = lines
        .map(|line| line.split(',').collect::<Vec<_>>())
        .map(|fields| (fields[1], fields))
        .collect();
    assert_eq!(
        rows.keys().copied().collect::<Vec<_>>(),
        ["conv", "flat", "relu"]
    );
    assert_eq!(rows["flat"][..5], ["tiny", "flat", "true", "1", "1"]);
    // Before what is of other models.
    assert_eq!(
        rows["flat"].iter().rev().nth(6).unwrap().split(' ').count(),
        20
    );
    let page = fixture.report(&first, "html").await.text();
    for part in [
        "TCAV: mixed for red of tiny",
        "At 3 of 3 layers",
        "scores of the draws depend on one another",
        "<svg",
    ] {
        assert!(page.contains(part), "{part}");
    }
    assert_eq!(fixture.report(&first, "png").await.picture().width(), 1120);
}

#[tokio::test]
async fn enough_random_images_are_drawn_without_an_overlap() {
    let folder = sets();
    for at in RANDOM..400 {
        let from = folder.path().join(format!("noise/{:02}.png", at % RANDOM));
        fs::copy(from, folder.path().join(format!("noise/{at}.png"))).unwrap();
    }
    let fixture = fixture(folder.path(), &[]);
    fixture.work();
    let mut asked = request("red");
    (asked["random"], asked["limit"]) = (json!("noise"), json!(3));
    let (_, report) = result(&fixture, &asked).await;
    assert_eq!(
        (&report["result"]["disjoint"], &report["result"]["images"]),
        (&json!(true), &json!(3))
    );
}

#[tokio::test]
async fn all_faults_of_a_request_are_told_at_once() {
    let folder = sets();
    let fixture = fixture(folder.path(), &[]);
    let refused = async |body: Value| {
        let answer = send_to(&fixture.router, post_json("/jobs", &body)).await;
        assert_eq!(answer.status, 422, "{}", answer.text());
        answer
    };
    let answer = refused(json!({
        "kind": "tcav", "model": "tiny", "dataset": "mixed", "class": "rot", "concept": "few", "random": "none", "layers": ["rellu", "relu", "relu"],
        "n_random": 19, "p": 1.0, "regularisation": 0, "seed": -1, "limit": 0, "odd": 1,
    }))
    .await;
    let mut params = answer.refused();
    params.sort();
    let expected = [
        "class",
        "concept",
        "layers[0]",
        "layers[2]",
        "limit",
        "n_random",
        "odd",
        "p",
        "random",
        "regularisation",
        "seed",
    ];
    assert_eq!(params, expected, "{}", answer.text());
    let text = answer.text();
    for part in [
        "did you mean relu?",
        "20 to 1000",
        "0.0001 to 10000",
        "no data set is called none",
        "is in the list already",
        "few has 3 images that can be used, and at least 9 are needed",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }

    // Without roles, the sets of concept and random images have to be named.
    let answer = refused(json!({ "kind": "tcav", "model": "tiny", "dataset": "noise" })).await;
    let mut params = answer.refused();
    params.sort();
    assert_eq!(params, ["class", "concept", "random"]);
    assert!(answer.text().contains("the role `concept`"));

    // The same images cannot be both; and a class needs some.
    let mut same = request("green");
    (same["concept"], same["random"]) = (json!("noise"), json!("noise"));
    let answer = refused(same).await;
    let mut params = answer.refused();
    params.sort();
    assert_eq!(params, ["class", "random"]);
    assert!(
        answer
            .text()
            .contains("no image of data set mixed that can be used is labelled green")
    );

    // Too many images per set, by the concept and by the random images.
    let mut many = request("red");
    many["images_per_set"] = json!(31);
    let answer = refused(many).await;
    assert_eq!(answer.refused(), ["images_per_set", "images_per_set"]);
    assert_eq!(answer.allowed("images_per_set"), ["9 to 12"]);

    let mut numbers = request("0");
    numbers["model"] = json!("numbers");
    let answer = refused(numbers).await;
    assert!(
        answer.text().contains("takes ready tensors"),
        "{}",
        answer.text()
    );
    let mut stale = request("red");
    stale["random_hash"] = json!("00");
    assert_eq!(refused(stale).await.refused(), ["random_hash"]);
}

/// A folder of models with one, `through`, that is `tiny` with this operation on each mean.
fn models(op: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("through");
    fs::create_dir(&own).unwrap();
    fs::write(own.join("model.onnx"), colour_model_through(op)).unwrap();
    let pixels = "head = \"logits\"\n[input]\nmean = 0.0\nstd = 1.0\nresize = \"stretch\"\n";
    fs::write(own.join("model.toml"), pixels).unwrap();
    folder
}

#[tokio::test]
async fn a_model_without_a_gradient_or_with_numbers_that_are_not_finite_is_told() {
    let folder = sets();
    let mut asked = request("0");
    (asked["model"], asked["class"]) = (json!("through"), json!(0));
    let models_of = |op| {
        let models = models(op);
        let path = models.path().display().to_string();
        let changes = [("models", path.as_str()), ("default_model", "through")];
        (fixture(folder.path(), &changes), models)
    };
    // The labels of the set are no indices: only the fault of the model is of interest.
    let (coin, _models) = models_of("Bernoulli");
    let answer = send_to(&coin.router, post_json("/jobs", &asked)).await;
    assert!(
        answer.refused().contains(&"model".to_owned()),
        "{}",
        answer.text()
    );
    assert!(
        answer.text().contains("cannot be differentiated"),
        "{}",
        answer.text()
    );

    let black = RgbImage::new(8, 8);
    black.save(folder.path().join("mixed/red00.png")).unwrap();
    let table = folder.path().join("mixed/labels.csv");
    let indices = fs::read_to_string(&table).unwrap().replace(",red,", ",0,");
    fs::write(table, indices).unwrap();
    let (logarithm, _models) = models_of("Log");
    logarithm.work();
    let id = logarithm.submit(&asked).await;
    let job = logarithm.ended(&id).await;
    assert_eq!(job["state"], "failed", "{job}");
    let error = job["error"].as_str().unwrap();
    assert!(
        error.contains("red00.png") && error.contains("not finite"),
        "{error}"
    );
}

#[tokio::test]
async fn a_job_that_costs_too_much_is_refused_with_its_cost() {
    let folder = sets();
    let fixture = fixture(folder.path(), &[("max_job_evaluations", "400")]);
    let answer = send_to(&fixture.router, post_json("/jobs", &request("red"))).await;
    assert_eq!(answer.status, 422, "{}", answer.text());
    // 10 of the concept, 20 draws of two sets of 10, 12 of the class.
    let text = answer.text();
    assert!(text.contains("the job costs 422 evaluations"), "{text}");
    assert!(
        text.contains("n_random") && text.contains("images_per_set"),
        "{text}"
    );
    let answer = send_to(&fixture.router, get("/jobs")).await.answer();
    assert_eq!(answer["jobs"], json!([]));

    let fixture = self::fixture(folder.path(), &[("max_image_evaluations", "400")]);
    let answer = send_to(&fixture.router, post_json("/jobs", &request("red"))).await;
    assert_eq!(answer.status, 422, "{}", answer.text());
    let text = answer.text();
    assert!(
        text.contains("a part of the job costs 422 evaluations") && text.contains("limit"),
        "{text}"
    );
}

/// Red things in blue scenes, each also without the thing; and models that are one net, whose first
/// class is `red` to `objects`, and whose last is `sea` to `scenes` and `places`.
fn pairs() -> (TempDir, TempDir) {
    let sets = sets();
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let folder = sets.path().join("pairs");
    fs::create_dir(&folder).unwrap();
    let mut table = "file,label,group,role\n".to_owned();
    for at in 0..IMAGES {
        for (role, colour) in [("with", [150, 60, 60]), ("without", [60, 60, 150])] {
            let name = format!("{role}{at:02}.png");
            table += &format!("{name},red|sea,{at},{role}\n");
            around(&mut random, colour).save(folder.join(name)).unwrap();
        }
    }
    fs::write(folder.join("labels.csv"), table).unwrap();
    let models = tempfile::tempdir().unwrap();
    let net = colour_model_through("Relu");
    let mut renamed = read_bytes(net.clone().into(), None).unwrap();
    for node in &mut renamed.nodes {
        let values = node.inputs.iter_mut().chain(&mut node.outputs);
        values
            .filter(|value| value.as_str() == "relu")
            .for_each(|value| *value = "features".into());
    }
    let renamed = write_model(&renamed).unwrap();
    for (id, labels, net) in [
        ("objects", "red\ngreen\nblue\n", &net),
        ("scenes", "field\nforest\nsea\n", &net),
        ("places", "desert\nforest\nsea\n", &net),
        ("others", "one\ntwo\nthree\n", &net),
        ("renamed", "red\ngreen\nblue\n", &renamed),
    ] {
        let own = models.path().join(id);
        fs::create_dir(&own).unwrap();
        fs::write(own.join("model.onnx"), net).unwrap();
        fs::write(own.join("labels.txt"), labels).unwrap();
        let pixels = "head = \"logits\"\n[input]\nmean = 0.0\nstd = 1.0\nresize = \"stretch\"\n";
        fs::write(own.join("model.toml"), pixels).unwrap();
    }
    (sets, models)
}

fn of_pairs(sets: &Path, models: &Path) -> Fixture {
    let named = ["mixed", "pairs"].map(|id| format!("{id}={}", sets.join(id).display()));
    let (named, models) = (named.join(","), models.display().to_string());
    let changes = [
        ("dataset", named.as_str()),
        ("models", &models),
        ("default_model", "scenes"),
    ];
    fixture_with(&changes)
}

fn contrast() -> Value {
    json!({
        "kind": "tcav", "model": "scenes", "models": ["objects", "places"], "dataset": "pairs", "class": "sea", "concept": "mixed",
        "random": "mixed", "images_per_set": SET, "layers": ["relu", "flat"], "seed": 4,
    })
}

/// The concept red speaks for `red` and against `sea`. Without the thing `objects` is always wrong,
/// and the others, which were, are right.
#[tokio::test]
async fn models_are_contrasted_by_the_classes_that_the_images_are_to_each() {
    let (sets, models) = pairs();
    let fixture = of_pairs(sets.path(), models.path());
    fixture.work();
    let (job, report) = result(&fixture, &contrast()).await;
    let found = &report["result"];
    assert_eq!(
        (&found["score"], &found["label"]),
        (&json!(0.0), &json!("sea"))
    );
    let [objects, places] = [0, 1].map(|at| &found["models"][at]);
    assert_eq!(
        (&objects["model"], &places["model"]),
        (&json!("objects"), &json!("places"))
    );
    assert_eq!(
        (&objects["score"], &objects["mcs"]),
        (&json!(1.0), &json!(1.0))
    );
    assert_eq!(
        (&places["score"], &places["mcs"]),
        (&json!(0.0), &json!(0.0))
    );
    // The same sets of the same images: places is scenes by another name.
    assert_eq!(places["layers"], found["layers"]);
    assert_eq!(places["random_mcs"], 0.0);
    // Random vectors speak for the two classes as often as it happens.
    let mean = |layers: &Value| -> f64 {
        let of = |at: usize| layers[at]["random"]["mean"].as_f64().unwrap();
        (of(0) + of(1)) / 2.0
    };
    let random = mean(&objects["layers"]) - mean(&found["layers"]);
    assert!((objects["random_mcs"].as_f64().unwrap() - random).abs() < 1e-12);
    let accuracy =
        |with: f64, without: f64| json!({"images": IMAGES, "with": with, "without": without});
    assert_eq!(objects["accuracy"], accuracy(1.0, 0.0));
    assert_eq!(places["accuracy"], accuracy(0.0, 1.0));
    assert_eq!(found["accuracy"], accuracy(0.0, 1.0));
    // (0, -1), (1, 1), (0, -1).
    assert!((found["correlation"].as_f64().unwrap() - 1.0).abs() < 1e-12);
    assert!(job["result"]["models"][0]["layers"][0]["concept"]["each"].is_null());

    let mut settled = report["request"].clone();
    settled["kind"] = json!("tcav");
    let (_, again) = result(&fixture, &settled).await;
    assert_eq!(again, report);
    let id = job["id"].as_str().unwrap();
    let csv = fixture.report(id, "csv").await.text();
    let lines: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    let start = |line: &[&str]| line[..2].join(" ");
    let starts: Vec<String> = lines.iter().skip(1).map(|line| start(line)).collect();
    assert_eq!(
        starts,
        [
            "scenes relu",
            "scenes flat",
            "objects relu",
            "objects flat",
            "places relu",
            "places flat"
        ]
    );
    let place = lines[0].iter().position(|name| *name == "mcs").unwrap();
    assert_eq!([1, 3, 5].map(|line| lines[line][place]), ["", "1", "0"]);
    let page = fixture.report(id, "html").await.text();
    for part in [
        "<h2>Models</h2>",
        "Layers of objects",
        "that of scenes, draw by draw",
        "<b>1.00</b>",
    ] {
        assert!(page.contains(part), "{part}");
    }
}

#[tokio::test]
async fn models_that_cannot_be_tested_beside_are_refused() {
    let (sets, models) = pairs();
    let fixture = of_pairs(sets.path(), models.path());
    let refused = async |changes: Value| {
        let mut asked = contrast();
        for (name, value) in changes.as_object().unwrap() {
            asked[name] = value.clone();
        }
        let answer = send_to(&fixture.router, post_json("/jobs", &asked)).await;
        assert_eq!(answer.status, 422, "{}", answer.text());
        answer
    };
    let answer = refused(json!({"models": ["scenes", "nothing", "objects"]})).await;
    assert_eq!(answer.refused(), ["models[0]", "models[1]"]);
    assert!(answer.text().contains("is the model that is evaluated"));
    for odd in [
        json!([]),
        json!(["objects", "objects"]),
        json!("objects"),
        json!([1]),
    ] {
        assert_eq!(
            refused(json!({ "models": odd })).await.refused(),
            ["models"]
        );
    }
    let answer = refused(json!({"models": ["renamed"]})).await;
    assert_eq!(answer.refused(), ["models[0]"]);
    assert!(
        answer.text().contains("renamed has no layer relu"),
        "{}",
        answer.text()
    );
    let answer = refused(json!({"models": ["others"]})).await;
    assert!(
        answer
            .text()
            .contains("knows no class, or several, of 12 of the 12 images"),
        "{}",
        answer.text()
    );
    let answer = refused(json!({"model_hashes": {"objects": "00"}})).await;
    assert_eq!(answer.refused(), ["model_hashes"]);
    let own = models.path().join("others/model.toml");
    let pixels = fs::read_to_string(&own).unwrap();
    fs::write(own, pixels.replace("stretch", "pad")).unwrap();
    let other = of_pairs(sets.path(), models.path());
    let mut asked = contrast();
    asked["models"] = json!(["others"]);
    let answer = send_to(&other.router, post_json("/jobs", &asked)).await;
    assert!(
        answer.text().contains("takes other inputs than scenes"),
        "{}",
        answer.text()
    );
}
