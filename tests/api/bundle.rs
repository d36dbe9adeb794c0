//! Bundles: what they hold, that `explaind rerun` makes the same bytes again, and what it says when it
//! does not.

use std::{
    collections::BTreeMap,
    io::{Cursor, Read, Write},
    path::Path,
    process::{Command, Output},
};

use explaind::{methods::registry::METHODS, tensor::read_npy};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use zip::{ZipArchive, ZipWriter, write::SimpleFileOptions};

use crate::{
    client::{Answered, multipart, post, post_json, send},
    fixture::{picture, red, settings_with, small_model},
};

type Files = BTreeMap<String, Vec<u8>>;

/// The files of a bundle.
fn files(answer: &Answered) -> Files {
    assert_eq!(
        (answer.status.as_u16(), answer.header("content-type")),
        (200, Some("application/zip")),
        "{}",
        answer.text()
    );
    let mut archive = ZipArchive::new(Cursor::new(&answer.body)).unwrap();
    let count = archive.len();
    let read = |place| {
        let mut entry = archive.by_index(place).unwrap();
        let (name, mut bytes) = (entry.name().unwrap().into_owned(), Vec::new());
        entry.read_to_end(&mut bytes).unwrap();
        (name, bytes)
    };
    (0..count).map(read).collect()
}

fn json_of(files: &Files, name: &str) -> Value {
    serde_json::from_slice(&files[name]).unwrap()
}

fn zipped(files: &Files) -> Vec<u8> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in files {
        archive
            .start_file(name.as_str(), SimpleFileOptions::default())
            .unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

/// `explaind rerun` of these bytes, with the tests' models and data.
fn rerun(folder: &Path, bundle: &[u8], arguments: &[&str]) -> Output {
    let (settings, path) = (settings_with(&[]), folder.join("bundle.zip"));
    std::fs::write(&path, bundle).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_explaind"));
    command.arg("rerun").arg("--models").arg(settings.models);
    command
        .arg("--data")
        .arg(settings.data)
        .args(arguments)
        .arg(path);
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn a_bundle_holds_what_was_sent_what_was_answered_and_what_it_was_made_by() {
    const URI: &str = "/explain?method=pgig&target=0&n_steps=5&include=metrics";
    let bundle = files(&send(post(&format!("{URI}&format=bundle&alpha=0.4"), red())).await);
    let names: Vec<&str> = bundle.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "attribution.npy",
            "explanations.json",
            "heatmap-0.png",
            "input-0.png",
            "manifest.json"
        ]
    );
    assert_eq!(bundle["input-0.png"], red());
    let picture = send(post(&format!("{URI}&format=png&alpha=0.4"), red())).await;
    assert_eq!(bundle["heatmap-0.png"], picture.body);
    let array = send(post(&format!("{URI}&format=npy"), red())).await;
    assert_eq!(bundle["attribution.npy"], array.body);

    let answer = send(post(&format!("{URI}&format=json"), red()))
        .await
        .only();
    let kept = &json_of(&bundle, "explanations.json")["explanations"][0];
    for name in [
        "target",
        "predictions",
        "metrics",
        "parameters",
        "model_hash",
        "patterns",
    ] {
        assert_eq!(kept[name], answer[name], "{name}");
    }
    assert!(kept["metrics"].is_object() && kept.get("attribution").is_none());
    assert!(kept.get("heatmap").is_none());

    let manifest = json_of(&bundle, "manifest.json");
    assert_eq!(
        manifest["model"],
        json!({"id": "tiny", "sha256": answer["model_hash"], "patterns": answer["patterns"]})
    );
    assert_eq!(manifest["request"]["n_steps"], 5);
    assert_eq!(manifest["request"]["alpha"], "0.4");
    assert_eq!(manifest["made_by"]["providers"], json!(["cpu"]));
    for file in manifest["files"].as_array().unwrap() {
        let bytes = &bundle[file["name"].as_str().unwrap()];
        let hash: String = Sha256::digest(bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(file["sha256"], hash);
    }
}

#[tokio::test]
async fn every_method_gives_the_same_bytes_again() {
    let folder = tempfile::tempdir().unwrap();
    for method in METHODS {
        let samples = if method.takes("n_samples") {
            "&n_samples=4"
        } else {
            ""
        };
        let uri = format!(
            "/explain?model={}&method={}&target=top:2{samples}&format=bundle",
            small_model(method.id),
            method.id
        );
        let answer = send(post(&uri, picture(11, 9, [200, 40, 90]))).await;
        let output = rerun(folder.path(), &answer.body, &[]);
        let said = text(&output.stdout);
        assert!(
            output.status.success(),
            "{}: {said}{}",
            method.id,
            text(&output.stderr)
        );
        for name in [
            "explanations.json",
            "attribution.npy",
            "heatmap-0.png",
            "heatmap-1.png",
        ] {
            assert!(
                said.contains(&format!("\n{name}: the same\n")),
                "{}: {said}",
                method.id
            );
        }
    }
}

#[tokio::test]
async fn what_is_sent_beside_the_image_is_kept_and_a_tensor_has_no_picture() {
    let folder = tempfile::tempdir().unwrap();
    let (red, gray) = (red(), picture(8, 8, [90, 90, 90]));
    let fields: [(&str, &[u8]); 3] = [("image", &red), ("image", &gray), ("baseline", &gray)];
    let uri = "/explain?method=integrated_gradients&n_steps=3&targets=0,1&format=bundle";
    let form = send(multipart(uri, &fields)).await;
    let bundle = files(&form);
    assert_eq!(bundle["baseline.png"], gray);
    assert_eq!(bundle["input-1.png"], gray);
    assert_eq!(
        read_npy(&bundle["attribution.npy"]).unwrap().shape(),
        [2, 3, 8, 8]
    );
    assert!(rerun(folder.path(), &form.body, &[]).status.success());

    let body = json!({"model": "numbers", "method": "gradient", "format": "bundle", "tensor": [0.5, 0.25]});
    let answer = send(post_json("/explain", &body)).await;
    let bundle = files(&answer);
    let names: Vec<&str> = bundle.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "attribution.npy",
            "explanations.json",
            "input-0.npy",
            "manifest.json"
        ]
    );
    assert!(rerun(folder.path(), &answer.body, &[]).status.success());
}

#[tokio::test]
async fn the_first_difference_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let uri = "/explain?method=integrated_gradients&target=0&format=bundle";
    let answer = send(post(uri, red())).await;
    // Other weights under the same id.
    let other = rerun(folder.path(), &answer.body, &["--model", "plain"]);
    assert_eq!(other.status.code(), Some(1));
    assert!(
        text(&other.stdout)
            .contains("explanations.json: explanations[0].model was \"tiny\", and is \"plain\""),
        "{}",
        text(&other.stdout)
    );
    // Another request than the one that was answered.
    let mut changed = files(&answer);
    let mut manifest = json_of(&changed, "manifest.json");
    manifest["request"]["target"] = json!("1");
    changed.insert("manifest.json".into(), manifest.to_string().into());
    let other = rerun(folder.path(), &zipped(&changed), &[]);
    assert_eq!(other.status.code(), Some(1));
    let said = text(&other.stdout);
    assert!(
        said.contains("explanations[0].parameters.target was "),
        "{said}"
    );
    assert!(
        said.contains("attribution.npy: scores differ by up to "),
        "{said}"
    );
}

#[tokio::test]
async fn what_is_no_bundle_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let whole = files(&send(post("/explain?method=gradient&format=bundle", red())).await);
    let refusal = |bytes: &[u8]| {
        let output = rerun(folder.path(), bytes, &[]);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
        text(&output.stderr)
    };
    assert!(refusal(b"PK").contains("this is no bundle"));
    let mut changed = whole.clone();
    changed.insert("input-0.png".into(), picture(8, 8, [1, 2, 3]).into());
    assert!(
        refusal(&zipped(&changed)).contains("input-0.png was changed after the bundle was made")
    );
    let mut missing = whole.clone();
    missing.remove("manifest.json");
    assert!(refusal(&zipped(&missing)).contains("manifest.json is missing from the bundle"));
    let mut form = whole;
    let mut manifest = json_of(&form, "manifest.json");
    manifest["bundle"] = json!(2);
    form.insert("manifest.json".into(), manifest.to_string().into());
    assert!(
        refusal(&zipped(&form)).contains("the bundle has the form 2, and this version reads 1")
    );

    let compared = send(post(
        "/compare?method=gradient&method=pgig&format=bundle",
        red(),
    ))
    .await;
    assert_eq!(compared.refused(), ["format"]);
}
