//! The degradation benchmark as a job over HTTP, on small images: from the request to each form of
//! the report.

use std::{fs, time::Duration};

use axum::{Router, body::Body, http::Request};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use explaind::{
    api::{Api, router},
    app::App,
    jobs::{
        queue::Queue,
        registry::KINDS,
        runner::{Runner, Shutdown},
    },
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    client::{Answered, get, post_json, send_to},
    fixture::{blue, digits, picture, red, settings_with},
};

/// A service with jobs and a set of images; its runner works until it is dropped.
pub struct Fixture {
    pub router: Router,
    shutdown: Shutdown,
    pub queue: Queue,
    pub photos: TempDir,
    pub data: TempDir,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.shutdown.graceful.cancel();
        self.shutdown.immediate.cancel();
    }
}

/// Two red images and a blue one; one is broken, one is labelled wrongly, one with a class that
/// `tiny` does not have.
fn fixture() -> Fixture {
    fixture_with(&[])
}

/// The same with settings of its own.
pub fn fixture_with(changes: &[(&str, &str)]) -> Fixture {
    let (photos, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (name, bytes) in [
        ("red/a.png", red()),
        ("red/b.png", red().slice(..40)),
        ("red/c.png", picture(9, 9, [200, 10, 60])),
        ("blue/d.png", blue()),
        ("green/e.png", red()),
        ("mauve/f.png", red()),
    ] {
        let path = photos.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let dataset = format!("photos={}", photos.path().display());
    let own = [
        ("data", data.path().to_str().unwrap()),
        ("dataset", &dataset),
        ("lease_ms", "2000"),
    ];
    let settings: Vec<(&str, &str)> = own.into_iter().chain(changes.iter().copied()).collect();
    let queue = Queue::new(App::start(settings_with(&settings)).unwrap(), KINDS);
    Fixture {
        router: router(Api::with_jobs(queue.clone()).unwrap()),
        shutdown: Shutdown::default(),
        queue,
        photos,
        data,
    }
}

impl Fixture {
    /// Starts to work on jobs.
    pub fn work(&self) {
        let (runner, shutdown) = (Runner::new(self.queue.clone()), self.shutdown.clone());
        tokio::spawn(async move { runner.run(&shutdown).await });
    }

    pub async fn submit(&self, body: &Value) -> String {
        let answer = send_to(&self.router, post_json("/jobs", body)).await;
        assert_eq!(answer.status, 202, "{}", answer.text());
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    /// Waits for the end of a job.
    pub async fn ended(&self, id: &str) -> Value {
        for _ in 0..600 {
            let job = send_to(&self.router, get(&format!("/jobs/{id}")))
                .await
                .answer();
            if ["succeeded", "failed", "cancelled"].contains(&job["state"].as_str().unwrap()) {
                return job;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("job {id} did not end");
    }

    pub async fn report(&self, id: &str, format: &str) -> Answered {
        send_to(
            &self.router,
            get(&format!("/jobs/{id}/report?format={format}")),
        )
        .await
    }
}

fn request() -> Value {
    json!({
        "kind": "degradation", "model": "tiny", "dataset": "photos", "replacement": "zero", "grid": 4, "steps": 8, "seed": 5,
        "methods": ["input_x_gradient", { "id": "gradient", "score": "absolute" }, { "method": "integrated_gradients", "n_steps": 5 }, "random"],
    })
}

/// A page without the time at which its job ended.
fn without_time(page: &str) -> String {
    let (before, rest) = page
        .split_once("<time>")
        .expect("a page of an ended job tells its time");
    format!(
        "{before}{}",
        rest.split_once("</time>").expect("a time ends").1
    )
}

#[tokio::test]
async fn a_benchmark_runs_to_its_report_and_repeats_byte_for_byte() {
    let fixture = fixture();
    fixture.work();
    let id = fixture.submit(&request()).await;
    let job = fixture.ended(&id).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    let report = fixture.report(&id, "json").await.answer();
    let result = &report["result"];
    assert_eq!(
        (&result["used"], &result["better"]),
        (&json!(3), &json!("lower"))
    );
    assert_eq!(
        result["skipped"],
        json!({ "corrupt_image": 1, "misclassified": 1, "unknown_label": 1 })
    );
    let rows = result["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 4);
    assert!(
        rows.iter()
            .all(|row| row["mean_curve"].as_array().unwrap().len() == 9)
    );
    let area = |title: &str| {
        rows.iter().find(|row| row["title"] == title).unwrap()["area"]
            .as_f64()
            .unwrap()
    };
    assert!(area("input_x_gradient") < area("random"), "{rows:#?}");
    // The net is linear where its rectifiers are on: the path changes no patch's place.
    assert!((area("input_x_gradient") - area("integrated_gradients")).abs() < 1e-6);
    assert_eq!(report["request"]["methods"][2]["n_steps"], 5);

    let mut again = report["request"].clone();
    again["kind"] = json!("degradation");
    let second = fixture.submit(&again).await;
    assert_eq!(fixture.ended(&second).await["state"], "succeeded");
    for format in ["json", "csv", "html", "svg", "png"] {
        let (one, two) = (
            fixture.report(&id, format).await,
            fixture.report(&second, format).await,
        );
        assert_eq!(one.status.as_u16(), 200);
        match format {
            // It tells when the job ended.
            "html" => assert!(without_time(&one.text()) == without_time(&two.text())),
            _ => assert!(one.body == two.body, "{format}"),
        }
    }
    let page = fixture.report(&id, "html").await.text();
    assert!(
        page.contains("<svg") && page.contains("green/e.png") && page.contains("input_x_gradient")
    );
    assert!(page.contains("ONNX Runtime 1.") && page.contains("execution provider cpu"));
    assert!(
        job["result"]["rows"].is_array() && job["result"].get("samples").is_none(),
        "maps are for the page"
    );
    let samples: Vec<&str> = page.split("data:image/jpeg;base64,").skip(1).collect();
    assert_eq!(samples.len(), 3);
    for sample in samples {
        let jpeg = BASE64_STANDARD
            .decode(sample.split_once('"').unwrap().0)
            .unwrap();
        assert!(jpeg.len() < 250_000 && image::load_from_memory(&jpeg).unwrap().width() > 400);
    }
}

#[tokio::test]
async fn folders_called_by_digits_are_the_classes_of_those_labels() {
    let models = digits();
    let fixture = fixture_with(&[
        ("models", models.path().to_str().unwrap()),
        ("default_model", "digits"),
    ]);
    for folder in ["red", "blue", "green", "mauve"] {
        fs::remove_dir_all(fixture.photos.path().join(folder)).unwrap();
    }
    for (folder, name) in [
        ("10", "a.png"),
        ("10", "b.png"),
        ("2", "c.png"),
        ("1", "d.png"),
    ] {
        fs::create_dir_all(fixture.photos.path().join(folder)).unwrap();
        fs::write(fixture.photos.path().join(folder).join(name), red()).unwrap();
    }
    fixture.work();
    let request =
        json!({ "kind": "degradation", "dataset": "photos", "methods": ["random"], "grid": 2 });
    let id = fixture.submit(&request).await;
    assert_eq!(fixture.ended(&id).await["state"], "succeeded");
    let result = fixture.report(&id, "json").await.answer()["result"].clone();
    assert_eq!(
        (&result["used"], &result["skipped"]),
        (
            &json!(2),
            &json!({ "misclassified": 1, "unknown_label": 1 })
        )
    );
    assert_eq!(
        result["skipped_images"][1]["detail"],
        "labelled 2, taken for 10"
    );
}

#[tokio::test]
async fn the_images_of_a_limit_are_drawn_by_the_seed() {
    let fixture = fixture();
    fixture.work();
    let mut few = request();
    few["limit"] = json!(2);
    few["labels"] = json!("ignore");
    let id = fixture.submit(&few).await;
    assert_eq!(fixture.ended(&id).await["state"], "succeeded");
    let result = fixture.report(&id, "json").await.answer()["result"].clone();
    let skipped = result["skipped"]
        .as_object()
        .unwrap()
        .values()
        .map(|count| count.as_u64().unwrap())
        .sum::<u64>();
    assert_eq!(result["used"].as_u64().unwrap() + skipped, 2);
}

#[tokio::test]
async fn all_that_is_wrong_with_a_request_is_told_at_once() {
    let fixture = fixture();
    let wrong = json!({
        "kind": "degradation", "model": "tiny", "dataset": "fotos", "grid": 9, "order": "up", "step": 3, "limit": 0,
        "methods": ["gradient", { "id": "pgig", "n_steps": 0, "target": 1 }, { "id": "guided" }, { "id": "random", "score": "loud" }, { "id": "pgig", "method": "gradient" }, {}],
    });
    let answer = send_to(&fixture.router, post_json("/jobs", &wrong)).await;
    assert_eq!(
        answer.refused(),
        [
            "dataset",
            "grid",
            "limit",
            "methods[1].n_steps",
            "methods[1].target",
            "methods[2].id",
            "methods[3].score",
            "methods[4].id",
            "methods[5].id",
            "order",
            "step"
        ]
    );
    assert_eq!(answer.allowed("dataset"), ["photos"]);
    let tensors = json!({ "kind": "degradation", "model": "numbers", "dataset": "photos", "methods": ["gradient"] });
    assert_eq!(
        send_to(&fixture.router, post_json("/jobs", &tensors))
            .await
            .refused(),
        ["model"]
    );
    let stale = json!({ "kind": "degradation", "model": "tiny", "dataset": "photos", "dataset_hash": "00", "methods": ["gradient"] });
    assert_eq!(
        send_to(&fixture.router, post_json("/jobs", &stale))
            .await
            .refused(),
        ["dataset_hash"]
    );
}

#[tokio::test]
async fn what_a_job_costs_is_refused_with_the_numbers_and_what_to_lower() {
    let refused = async |settings: &[(&str, &str)], job: &Value| {
        let answer = send_to(&fixture_with(settings).router, post_json("/jobs", job)).await;
        assert_eq!(
            answer.problem(),
            (422, "job_too_costly".into()),
            "{}",
            answer.text()
        );
        let problem = answer.json();
        let lower: Vec<_> = problem["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|error| format!("{} {}", error["param"].as_str().unwrap(), error["allowed"]))
            .collect();
        (
            problem["detail"].as_str().unwrap().to_owned(),
            lower.join(", "),
        )
    };
    let accepted = async |settings: &[(&str, &str)], job: &Value| {
        let answer = send_to(&fixture_with(settings).router, post_json("/jobs", job)).await;
        assert_eq!(answer.status, 202, "{}", answer.text());
    };
    // 6 images; each 1 + 1 + 6 + 0 evaluations to explain, 1 to predict, and 8 steps for each of 4
    // rows.
    let costs = |name: &str, n: usize| [(name.to_owned(), n.to_string())];
    let cost = 41;
    for (name, one) in [
        ("max_image_evaluations", cost),
        ("max_job_evaluations", 6 * cost),
    ] {
        for (limit, fits) in [(one, true), (one - 1, false)] {
            let [(name, limit)] = costs(name, limit);
            match fits {
                true => accepted(&[(&name, &limit)], &request()).await,
                false => {
                    let (detail, lower) = refused(&[(&name, &limit)], &request()).await;
                    let numbers = [one.to_string(), limit.clone(), name.clone()];
                    assert!(
                        numbers.iter().all(|number| detail.contains(number)),
                        "{detail}"
                    );
                    let expected = match name.as_str() {
                        "max_image_evaluations" => r#"steps ["1 to 7"], methods []"#,
                        _ => r#"limit ["1 to 5"], steps ["1 to 7"], methods []"#,
                    };
                    assert_eq!(lower, expected);
                }
            }
        }
    }
    let mut few = request();
    few["limit"] = json!(5);
    accepted(
        &[("max_job_evaluations", &(6 * cost - 1).to_string())],
        &few,
    )
    .await;

    let maps = json!({ "kind": "explain_dataset", "model": "tiny", "dataset": "photos", "method": "gradient" });
    let (detail, lower) = refused(&[("max_job_output_bytes", "12000000")], &maps).await;
    assert!(
        detail.contains("12000000") && detail.contains("max_job_output_bytes"),
        "{detail}"
    );
    assert!(lower.starts_with("limit [\"1 to "), "{lower}");
    let (detail, lower) = refused(&[("max_image_evaluations", "1")], &json!({
        "kind": "explain_dataset", "model": "tiny", "dataset": "photos", "method": "integrated_gradients", "n_steps": 5
    })).await;
    assert!(lower.contains("n_steps"), "{detail} {lower}");
}

#[tokio::test]
async fn a_set_that_changes_or_goes_while_a_job_waits_ends_it_clearly_and_others_go_on() {
    let fixture = fixture();
    let upload = |bytes: Vec<u8>| {
        let request = Request::put("/datasets/mine")
            .body(Body::from(bytes))
            .unwrap();
        send_to(&fixture.router, request)
    };
    let archive = |colour| {
        let mut builder = tar::Builder::new(Vec::new());
        let image = picture(8, 8, colour);
        let mut header = tar::Header::new_gnu();
        header.set_size(image.len() as u64);
        builder
            .append_data(&mut header, "a.png", image.as_ref())
            .unwrap();
        builder.into_inner().unwrap()
    };
    let mut body = request();
    body["dataset"] = json!("mine");
    upload(archive([255, 0, 0])).await;
    let changed = fixture.submit(&body).await;
    upload(archive([0, 255, 0])).await;
    let other = fixture.submit(&request()).await;
    fixture.work();
    let job = fixture.ended(&changed).await;
    assert_eq!(job["state"], "failed");
    assert!(
        job.to_string()
            .contains("has changed since the job was started"),
        "{job}"
    );
    assert_eq!(fixture.ended(&other).await["state"], "succeeded");

    fs::remove_dir_all(fixture.photos.path()).unwrap();
    let gone = send_to(&fixture.router, post_json("/jobs", &request())).await;
    assert_eq!(gone.refused(), ["dataset"]);
}
