//! Jobs over whole data sets: patterns fitted and used from then on, and maps of every image in an archive.

use std::{collections::BTreeMap, fs, io::Read, path::Path};

use explaind::{
    autodiff::fit::Regime,
    engine::backend_ort::load_runtime,
    model::{
        patterns::{self, Provenance},
        registry::Registry,
    },
    patterns::{Samples, fit},
    tensor::read_npy,
};
use serde_json::json;

use crate::{
    benchmark::{Place, place_with},
    client::{get, post, post_json, send_to},
    house::{red, settings_with},
};

/// A folder with the models `tiny` and `plain` alone, to be changed.
fn own_models() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for id in ["tiny", "plain"] {
        fs::create_dir(folder.path().join(id)).unwrap();
        for entry in fs::read_dir(settings_with(&[]).models.join(id)).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), folder.path().join(id).join(entry.file_name())).unwrap();
        }
    }
    folder
}

fn patterns_of(place: &Place, models: &Path, id: &str) -> (Vec<u8>, Vec<String>) {
    let live = fs::read(models.join(id).join("patterns.safetensors")).unwrap();
    let versions = fs::read_dir(models.join(id).join("patterns")).unwrap();
    let mut versions: Vec<String> = versions.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    versions.sort();
    assert!(place.queue.app().models().get(id).unwrap().patterns.is_some());
    (live, versions)
}

#[tokio::test]
async fn patterns_fitted_by_a_job_are_the_commands_and_are_used_at_once() {
    let models = own_models();
    let place = place_with(&[("models", models.path().to_str().unwrap())]);
    place.work();
    let explain = || send_to(&place.router, post("/explain?model=plain&method=pgig&format=json", red()));
    assert_eq!(explain().await.status, 422);
    let id = place.submit(&json!({ "kind": "fit_patterns", "model": "plain", "dataset": "photos" })).await;
    let job = place.ended(&id).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    let result = place.report(&id, "json").await.answer()["result"].clone();
    assert_eq!((&result["samples"], result["unreadable"].as_array().unwrap().len()), (&json!(5), 1));
    assert_eq!(result["unreadable"][0]["path"], "red/b.png");
    assert_eq!(explain().await.status, 200);
    let card = send_to(&place.router, get("/models/plain")).await.answer();
    assert_eq!(card["patterns"], result["patterns"]);

    let model = Registry::load(models.path(), None).unwrap().get("plain").unwrap();
    let samples = Samples::in_folder(place.photos.path(), &model).unwrap();
    let runtime = load_runtime(None, 0).unwrap();
    let go_on = |_| std::ops::ControlFlow::Continue(());
    let fitted = fit(&model, &samples, Regime::Activation, runtime, go_on).unwrap();
    for (layer, pattern) in &fitted.layers {
        assert_eq!(&model.patterns.as_ref().unwrap().source.read(layer).unwrap(), pattern, "{layer}");
    }

    let (first, versions) = patterns_of(&place, models.path(), "plain");
    assert_eq!(versions, [format!("{}.safetensors", result["patterns"].as_str().unwrap())]);
    let again = json!({ "kind": "fit_patterns", "model": "plain", "dataset": "photos", "regime": "weights" });
    let id = place.submit(&again).await;
    assert_eq!(place.ended(&id).await["state"], "succeeded");
    let (_, versions) = patterns_of(&place, models.path(), "plain");
    assert_eq!(versions.len(), 2, "the fit before is kept");
    let kept =
        versions.iter().filter(|name| fs::read(models.path().join("plain/patterns").join(name)).unwrap() == first);
    assert_eq!(kept.count(), 1);
}

#[tokio::test]
async fn patterns_that_are_fitted_anew_end_a_benchmark_that_was_planned_on_the_old_ones() {
    let models = own_models();
    let place = place_with(&[("models", models.path().to_str().unwrap())]);
    let benchmark = json!({ "kind": "degradation", "model": "tiny", "dataset": "photos", "methods": ["pgig"], "grid": 2, "steps": 2 });
    let planned = place.submit(&benchmark).await;
    let model = place.queue.app().models().get("tiny").unwrap();
    let before = model.patterns.as_ref().unwrap();
    let layers = ["conv", "scores"].map(|layer| (layer.to_owned(), before.source.read(layer).unwrap() * 2.0));
    let provenance = Provenance {
        model_hash: model.hash.clone(),
        data_set: "made up".into(),
        samples: 1,
        rows: 1,
        regime: "activation".into(),
        version: "0".into(),
    };
    let file = models.path().join("other.safetensors");
    patterns::write(&file, &BTreeMap::from(layers), &provenance).unwrap();
    let registry = place.queue.app().models();
    let installed = registry.install_patterns("tiny", &fs::read(&file).unwrap()).unwrap();
    assert_eq!(registry.get("tiny").unwrap().patterns.as_ref().unwrap().id, installed);
    assert_ne!(installed, before.id);
    place.work();
    let job = place.ended(&planned).await;
    assert_eq!(job["state"], "failed");
    assert!(job.to_string().contains("fitted anew"), "{job}");
    let mut stale = benchmark;
    stale["patterns"] = json!(before.id);
    assert_eq!(send_to(&place.router, post_json("/jobs", &stale)).await.refused(), ["patterns"]);
}

#[tokio::test]
async fn an_archive_holds_the_map_of_every_image_as_explain_gives_it() {
    let place = place_with(&[]);
    place.work();
    let request = json!({ "kind": "explain_dataset", "model": "tiny", "dataset": "photos", "method": "integrated_gradients",
        "n_steps": 4, "target": "red", "color_map": "VIRIDIS" });
    let id = place.submit(&request).await;
    let job = place.ended(&id).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    let result = place.report(&id, "json").await.answer()["result"].clone();
    assert_eq!((&result["explained"], &result["skipped"]), (&json!(5), &json!(1)));
    let answer = place.report(&id, "zip").await;
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, Some("application/zip")));
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(answer.body.to_vec())).unwrap();
    let mut read = |name: &str| {
        let mut bytes = Vec::new();
        archive.by_name(name).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    };
    let uri = "/explain?model=tiny&method=integrated_gradients&n_steps=4&target=red&color_map=VIRIDIS&format=";
    let alone = send_to(&place.router, post(&format!("{uri}npy"), red())).await.array();
    assert_eq!(read_npy(&read("red/a.png.npy")).unwrap(), alone);
    let picture = send_to(&place.router, post(&format!("{uri}png"), red())).await.picture();
    assert_eq!(image::load_from_memory(&read("red/a.png.png")).unwrap().into_rgb8(), picture);
    let index: serde_json::Value = serde_json::from_slice(&read("index.json")).unwrap();
    assert_eq!(index["request"]["n_steps"], 4);
    assert_eq!(archive.len(), 1 + 2 * 5);

    let wrong = json!({ "kind": "explain_dataset", "dataset": "none", "method": "integrated_gradients", "n_steps": 0, "format": "png" });
    assert_eq!(send_to(&place.router, post_json("/jobs", &wrong)).await.refused(), ["dataset", "format", "n_steps"]);
}
