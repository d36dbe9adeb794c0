//! Jobs over whole data sets: patterns fitted and used from then on, and maps of every image in an
//! archive.

use std::{collections::BTreeMap, fs, io::Read};

use explaind::{
    app::App,
    engine::{Caller, Priority},
    model::patterns::{self, Provenance},
    patterns::{FitRequest, SampleSource, fit},
    tensor::{Tensor, read_npy},
};
use onnx_autodiff::autodiff::fit::Regime;
use serde_json::json;

use crate::{
    benchmark::{Fixture, fixture_with},
    client::{get, post, post_json, send_to},
    fixture::{red, settings_with},
};

/// The names of all fits of a model that are kept.
fn fits(fixture: &Fixture, id: &str) -> Vec<String> {
    let model = fixture.queue.app().models().get(id).unwrap();
    let folder = fixture
        .data
        .path()
        .join("files/patterns")
        .join(id)
        .join(&model.hash);
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.retain(|name| name != "current");
    names.sort();
    names
}

#[tokio::test]
async fn patterns_fitted_by_a_job_are_the_commands_and_are_used_at_once() {
    let fixture = fixture_with(&[]);
    fixture.work();
    let explain = || {
        send_to(
            &fixture.router,
            post("/explain?model=plain&method=pgig&format=json", red()),
        )
    };
    assert_eq!(explain().await.status, 422);
    let id = fixture
        .submit(&json!({ "kind": "fit_patterns", "model": "plain", "dataset": "photos" }))
        .await;
    let job = fixture.ended(&id).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    let result = fixture.report(&id, "json").await.answer()["result"].clone();
    assert_eq!(
        (
            &result["samples"],
            result["unreadable"].as_array().unwrap().len()
        ),
        (&json!(5), 1)
    );
    assert_eq!(result["unreadable"][0]["path"], "red/b.png");
    assert_eq!(explain().await.status, 200);
    let card = send_to(&fixture.router, get("/models/plain"))
        .await
        .answer();
    assert_eq!(card["patterns"], result["patterns"]);

    // Another server with the same data folder, or this one after its restart.
    let app = App::start(fixture.queue.app().settings().clone()).unwrap();
    assert!(app.models().get("plain").unwrap().patterns.is_none());
    app.catch_up().await;
    let model = app.models().get("plain").unwrap();
    assert_eq!(model.patterns.as_ref().unwrap().id, result["patterns"]);
    let samples = SampleSource::in_folder(fixture.photos.path(), &model).unwrap();
    let request = FitRequest {
        model: model.clone(),
        samples,
        regime: Regime::Activation,
    };
    let caller = Caller::new(Priority::Job, None);
    let fitted = fit(request, app.engine(), app.pool(), &caller, |_| ())
        .await
        .unwrap();
    for (layer, pattern) in &fitted.layers {
        assert_eq!(
            &model.patterns.as_ref().unwrap().source.read(layer).unwrap(),
            pattern,
            "{layer}"
        );
    }

    assert_eq!(
        fits(&fixture, "plain"),
        [format!(
            "{}.safetensors",
            result["patterns"].as_str().unwrap()
        )]
    );
    let again = json!({ "kind": "fit_patterns", "model": "plain", "dataset": "photos", "regime": "weights" });
    let id = fixture.submit(&again).await;
    assert_eq!(fixture.ended(&id).await["state"], "succeeded");
    assert_eq!(fits(&fixture, "plain").len(), 2, "the fit before is kept");
    assert!(
        !fixture
            .queue
            .app()
            .settings()
            .models
            .join("plain/patterns.safetensors")
            .exists()
    );
}

#[tokio::test]
async fn a_benchmark_keeps_the_patterns_that_it_was_planned_with() {
    let fixture = fixture_with(&[]);
    let benchmark = json!({ "kind": "degradation", "model": "tiny", "dataset": "photos", "methods": ["pgig"], "grid": 2, "steps": 2 });
    let planned = fixture.submit(&benchmark).await;
    let app = fixture.queue.app();
    let model = app.models().get("tiny").unwrap();
    let before = model.patterns.as_ref().unwrap();
    let install = async |factor: f32| {
        let layers = ["conv", "scores"].map(|layer| {
            (
                layer.to_owned(),
                before.source.read(layer).unwrap() * factor,
            )
        });
        let provenance = Provenance {
            model_hash: model.hash.clone(),
            data_set: "made up".into(),
            samples: 1,
            rows: 1,
            regime: "activation".into(),
            version: "0".into(),
        };
        let file = fixture.data.path().join("other.safetensors");
        patterns::write(&file, &BTreeMap::from(layers), &provenance).unwrap();
        app.install_patterns("tiny", fs::read(&file).unwrap().into())
            .await
            .unwrap()
    };
    let first = install(2.0).await;
    let planned_later = fixture.submit(&benchmark).await;
    let second = install(3.0).await;
    let in_use = app
        .models()
        .get("tiny")
        .unwrap()
        .patterns
        .as_ref()
        .unwrap()
        .id
        .clone();
    assert!(in_use == second && second != first && first != before.id);
    fixture.work();
    for (id, patterns) in [(planned, &before.id), (planned_later, &first)] {
        assert_eq!(fixture.ended(&id).await["state"], "succeeded");
        assert_eq!(
            fixture.report(&id, "json").await.answer()["request"]["patterns"],
            *patterns
        );
    }
    let mut stale = benchmark;
    stale["patterns"] = json!(before.id);
    assert_eq!(
        send_to(&fixture.router, post_json("/jobs", &stale))
            .await
            .refused(),
        ["patterns"]
    );
}

#[tokio::test]
async fn patterns_that_are_put_into_the_models_folder_later_count_before_fitted_ones() {
    let models = tempfile::tempdir().unwrap();
    fs::create_dir(models.path().join("plain")).unwrap();
    let (own, shared) = (models.path().join("plain"), settings_with(&[]).models);
    for file in ["model.onnx", "model.toml"] {
        fs::copy(shared.join("plain").join(file), own.join(file)).unwrap();
    }
    let fixture = fixture_with(&[
        ("models", models.path().to_str().unwrap()),
        ("default_model", "plain"),
    ]);
    // Those of a network with the same bytes.
    let others = fs::read(shared.join("tiny/patterns.safetensors")).unwrap();
    let fitted = fixture
        .queue
        .app()
        .install_patterns("plain", others.clone().into())
        .await
        .unwrap();
    let restart = async || {
        let app = App::start(fixture.queue.app().settings().clone()).unwrap();
        app.catch_up().await;
        app.models()
            .get("plain")
            .unwrap()
            .patterns
            .as_ref()
            .map(|patterns| patterns.id.clone())
    };
    assert_eq!(restart().await, Some(fitted.clone()));
    let put: Vec<f32> = vec![0.5; 9];
    let layers = BTreeMap::from([(
        "scores".to_owned(),
        Tensor::from_shape_vec(vec![3, 3], put).unwrap(),
    )]);
    let (_, provenance) = patterns::read(
        &shared.join("tiny/patterns.safetensors"),
        &fixture.queue.app().models().get("plain").unwrap().hash,
    )
    .unwrap();
    patterns::write(&own.join(patterns::FILE), &layers, &provenance).unwrap();
    let found = restart().await.unwrap();
    assert_ne!(found, fitted);
    assert_eq!(
        found,
        patterns::read(&own.join(patterns::FILE), &provenance.model_hash)
            .unwrap()
            .0
            .id
    );
}

#[tokio::test]
async fn an_archive_holds_the_map_of_every_image_as_explain_gives_it() {
    let fixture = fixture_with(&[]);
    fixture.work();
    let request = json!({ "kind": "explain_dataset", "model": "tiny", "dataset": "photos", "method": "integrated_gradients",
        "n_steps": 4, "target": "red", "color_map": "VIRIDIS" });
    let id = fixture.submit(&request).await;
    let job = fixture.ended(&id).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    let result = fixture.report(&id, "json").await.answer()["result"].clone();
    assert_eq!(
        (&result["explained"], &result["skipped"]),
        (&json!(5), &json!(1))
    );
    let answer = fixture.report(&id, "zip").await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("content-type")),
        (200, Some("application/zip"))
    );
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(answer.body.to_vec())).unwrap();
    let mut read = |name: &str| {
        let mut bytes = Vec::new();
        archive
            .by_name(name)
            .unwrap()
            .read_to_end(&mut bytes)
            .unwrap();
        bytes
    };
    let uri = "/explain?model=tiny&method=integrated_gradients&n_steps=4&target=red&color_map=VIRIDIS&format=";
    let alone = send_to(&fixture.router, post(&format!("{uri}npy"), red()))
        .await
        .array();
    assert_eq!(read_npy(&read("red/a.png.npy")).unwrap(), alone);
    let picture = send_to(&fixture.router, post(&format!("{uri}png"), red()))
        .await
        .picture();
    assert_eq!(
        image::load_from_memory(&read("red/a.png.png"))
            .unwrap()
            .into_rgb8(),
        picture
    );
    let index: serde_json::Value = serde_json::from_slice(&read("index.json")).unwrap();
    assert_eq!(index["request"]["n_steps"], 4);
    assert_eq!(archive.len(), 1 + 2 * 5);

    let wrong = json!({ "kind": "explain_dataset", "dataset": "none", "method": "integrated_gradients", "n_steps": 0, "format": "png" });
    assert_eq!(
        send_to(&fixture.router, post_json("/jobs", &wrong))
            .await
            .refused(),
        ["dataset", "format", "n_steps"]
    );
}
