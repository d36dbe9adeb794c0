//! A TCAV job in the real server, which is killed at random moments: the reports are those of an
//! undisturbed run, byte for byte. And `explaind tcav` as its user sees it.

use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};

use crate::{
    bench::runtime,
    benchmark::kill_ten_times,
    served::{IMAGES, material},
};

/// Gives the red photos the role `concept`, and the green ones `random`.
fn give_roles(material: &Path) {
    let mut table = "file,label,role\n".to_owned();
    for at in 0..IMAGES {
        let (label, role) = [("red", "concept"), ("green", "random"), ("blue", "")][at % 3];
        table += &format!("{label}/{at:03}.png,{label},{role}\n");
    }
    fs::write(material.join("photos/labels.csv"), table).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_of_a_concept_disturbed_by_kills_gives_the_undisturbed_report() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let material = material();
    give_roles(material.path());
    let request = json!({
        "kind": "tcav", "model": "colours", "dataset": "photos", "class": "blue", "images_per_set": 10, "n_random": 1000,
        "layers": ["pool", "flat"],
    });
    kill_ten_times(material.path(), &request).await;
}

fn tcav(material: &Path, arguments: &[&str]) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_explaind"))
        .arg("tcav")
        .current_dir(material)
        .args(["--model", "colours", "--threads", "1"])
        .args(arguments)
        .env("EXPLAIND_ONNXRUNTIME", runtime())
        .output()
        .unwrap();
    let [said, told] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    (output.status.success(), said, told)
}

#[test]
fn folders_are_tested_and_the_scores_printed() {
    let material = material();
    let photos = material.path().join("photos");
    fs::rename(photos.join("red"), material.path().join("red")).unwrap();
    fs::rename(photos.join("green"), material.path().join("green")).unwrap();
    let sets = [
        "photos",
        "--class",
        "blue",
        "--concept",
        "red",
        "--random",
        "green",
    ];
    let reports = ["--layer", "flat", "-o", "report.json", "-o", "report.html"];
    let (is_done, said, told) = tcav(material.path(), &[&sets[..], &reports].concat());
    assert!(is_done, "{told}");
    let report = fs::read(material.path().join("report.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(report["request"]["images_per_set"], 10);
    let layer = &report["result"]["layers"][0];
    let line = format!("{:.3}", layer["concept"]["mean"].as_f64().unwrap());
    let mut lines = said.lines();
    assert!(
        lines.any(|one| one.starts_with("flat") && one.contains(&line)),
        "{line} in\n{said}"
    );
    assert!(said.contains("report: report.html"), "{said}");
    assert!(told.contains("measuring 430 evaluations"), "{told}");
    let left: Vec<_> = fs::read_dir(material.path().join("data/bench"))
        .unwrap()
        .collect();
    assert!(left.is_empty());

    let same = [
        "photos",
        "-c",
        "blue",
        "--concept",
        "red",
        "--random",
        "photos/../red",
    ];
    let (is_done, _, told) = tcav(material.path(), &same);
    assert!(
        !is_done && told.contains("another folder is called red too"),
        "{told}"
    );
    let (is_done, _, told) = tcav(material.path(), &["photos", "-c", "mauve"]);
    assert!(
        !is_done && told.contains("concept: is missing") && told.contains("class"),
        "{told}"
    );
    let (is_done, _, told) = tcav(material.path(), &["photos", "-c", "blue", "-o", "a.zip"]);
    assert!(
        !is_done && told.contains(".html, .json, .csv, .svg, .png"),
        "{told}"
    );
}
