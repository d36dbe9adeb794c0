//! BAM data from the command line and as a job: the same pictures, data sets that other jobs take,
//! and faults told before anything is made.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use image::{Rgb, RgbImage, Rgba, RgbaImage};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::{
    benchmark::{Fixture, fixture_with},
    client::{get, post_json, send_to},
};

/// Folders `objects` (red and blue discs) and `scenes` (three classes of gradients).
pub fn material() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let save = |name: String, image: image::DynamicImage| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        image.save(path).unwrap();
    };
    for (class, [r, g, b]) in [("red", [220, 30, 20]), ("blue", [20, 40, 210])] {
        for at in 0..2_u8 {
            let disc = RgbaImage::from_fn(24, 20, |x, y| {
                let far = (f64::from(x) - 12.0).hypot(f64::from(y) - 10.0);
                Rgba([
                    r,
                    g + 30 * at,
                    b,
                    (255.0 * (10.0 - far).clamp(0.0, 1.0)) as u8,
                ])
            });
            save(format!("objects/{class}/{at}.png"), disc.into());
        }
    }
    for (class, green) in [("forest", 200), ("sea", 90), ("sky", 10)] {
        for at in 0..2_u32 {
            let photo = RgbImage::from_fn(60, 40 + 10 * at, |x, y| {
                Rgb([(3 * x) as u8, green, (3 * y) as u8])
            });
            save(format!("scenes/{class}/{at}.png"), photo.into());
        }
    }
    folder
}

fn bam_data(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_explaind"));
    command.current_dir(folder).arg("bam-data").args(arguments);
    command.output().unwrap()
}

const ASKED: &[&str] = &[
    "--objects",
    "objects",
    "--scenes",
    "scenes",
    "--per-pair",
    "4",
    "--size",
    "48",
    "--seed",
    "3",
    "--common-feature",
    "red",
    "--scene-crop",
    "0.7",
    "--scene-classes",
    "sky,forest,sea",
];

/// The files below a folder with their hashes.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(folder).unwrap().to_str().unwrap();
            let hash = Sha256::digest(fs::read(&path).unwrap());
            found.insert(name.to_owned(), format!("{hash:x?}"));
        }
    }
    found
}

#[test]
fn the_command_writes_the_same_data_sets_each_time_and_never_into_others() {
    let folder = material();
    for output in ["one", "two"] {
        let done = bam_data(folder.path(), &[ASKED, &["--output", output]].concat());
        let told = String::from_utf8(done.stderr).unwrap();
        assert!(done.status.success(), "{told}");
        assert!(told.contains("28 compositions of 4 objects"), "{told}");
        let said = String::from_utf8(done.stdout).unwrap();
        assert!(
            said.contains("one/object_train: 18 images") || output == "two",
            "{said}"
        );
    }
    let [one, two] = ["one", "two"].map(|name| files(&folder.path().join(name)));
    assert_eq!(one, two);
    let sets = [
        "feature_test",
        "k01",
        "k02",
        "k03",
        "object_train",
        "scene_train",
        "test",
    ];
    let mut there: Vec<String> = fs::read_dir(folder.path().join("one"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    there.sort();
    assert_eq!(there, [&["composition.json"], &sets[..]].concat());
    let report = fs::read(folder.path().join("one/composition.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(
        report["request"]["options"]["scene_classes"],
        json!(["sky", "forest", "sea"])
    );
    assert_eq!(
        report["result"]["compositions"].as_array().unwrap().len(),
        28
    );
    for one in report["result"]["compositions"].as_array().unwrap() {
        let [left, top, width, height] = [0, 1, 2, 3].map(|at| one["place"][at].as_u64().unwrap());
        assert!(left + width <= 48 && top + height <= 48 && (16..=24).contains(&width.max(height)));
    }
    let again = bam_data(folder.path(), &[ASKED, &["--output", "one"]].concat());
    assert_eq!(again.status.code(), Some(1));
    assert!(
        String::from_utf8(again.stderr)
            .unwrap()
            .contains("is there and not empty")
    );
    assert_eq!(files(&folder.path().join("one")), two);
}

#[test]
fn the_command_tells_every_fault_and_leaves_nothing() {
    let folder = material();
    RgbImage::new(9, 9)
        .save(folder.path().join("objects/red/opaque.png"))
        .unwrap();
    let asked = [
        "--objects",
        "objects",
        "--scenes",
        "scenes",
        "--output",
        "out",
    ];
    let refused = |more: &[&str]| {
        let done = bam_data(folder.path(), &[&asked, more].concat());
        assert_eq!(done.status.code(), Some(1));
        String::from_utf8(done.stderr).unwrap()
    };
    let told = refused(&[
        "--common-feature",
        "redd",
        "--per-pair",
        "1",
        "--scene-classes",
        "sky,forrest",
    ]);
    assert_eq!(told.lines().count(), 3, "{told}");
    assert!(
        told.contains("common_feature: no class is called redd; did you mean red?"),
        "{told}"
    );
    assert!(told.contains("per_pair: 1 is not allowed"), "{told}");
    assert!(
        told.contains("no class is called forrest; did you mean forest?"),
        "{told}"
    );
    let told = refused(&[]);
    assert!(
        told.contains("red/opaque.png has no transparent pixel and no mask"),
        "{told}"
    );
    let left: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 2, "{left:?}");
    let usage = bam_data(folder.path(), &["--scenes", "scenes", "--output", "out"]);
    assert_eq!(usage.status.code(), Some(2));
}

#[test]
fn objects_may_be_cut_out_by_annotations_of_coco() {
    let folder = material();
    fs::create_dir(folder.path().join("photos")).unwrap();
    let photo = |x: u32, y: u32| Rgb([if x < 20 { 250 } else { 0 }, 7, (8 * y) as u8]);
    RgbImage::from_fn(40, 30, photo)
        .save(folder.path().join("photos/a.png"))
        .unwrap();
    let annotations = json!({
        "images": [{ "id": 1, "file_name": "a.png", "width": 40, "height": 30 }],
        "categories": [{ "id": 1, "name": "left" }, { "id": 2, "name": "stop sign" }, { "id": 3, "name": "other" }],
        "annotations": [
            { "image_id": 1, "category_id": 1, "area": 200.0, "segmentation": [[5, 5, 15, 5, 15, 25, 5, 25]] },
            { "image_id": 1, "category_id": 2, "area": 300.0, "segmentation": { "size": [30, 40], "counts": [900, 300] } },
        ],
    });
    fs::write(
        folder.path().join("instances.json"),
        annotations.to_string(),
    )
    .unwrap();
    let asked = [
        "--coco",
        "instances.json",
        "--images",
        "photos",
        "--scenes",
        "scenes",
        "--output",
        "out",
        "--per-pair",
        "2",
        "--size",
        "64",
    ];
    let done = bam_data(folder.path(), &asked);
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8(done.stderr).unwrap()
    );
    let picture = |name: &str| image::open(folder.path().join("out/test").join(name)).unwrap();
    let group = |object: &str| {
        let there = [1, 2].map(|copy| format!("sea/{object}_{copy:04}.png"));
        let is_there = |name: &&String| folder.path().join("out/test/with").join(name).exists();
        there.iter().find(is_there).unwrap().clone()
    };
    for (object, ratio, red) in [("left", 0.5, 250), ("stop sign", 10.0 / 30.0, 0)] {
        let name = group(object);
        let mask = picture(&format!("masks/{name}")).into_luma8();
        let inside: Vec<(u32, u32)> = mask
            .enumerate_pixels()
            .filter(|(.., value)| value.0 == [255])
            .map(|(x, y, _)| (x, y))
            .collect();
        let width = inside.iter().map(|(x, _)| x).max().unwrap()
            - inside.iter().map(|(x, _)| x).min().unwrap()
            + 1;
        let height = inside.iter().map(|(_, y)| y).max().unwrap()
            - inside.iter().map(|(_, y)| y).min().unwrap()
            + 1;
        assert!(
            (f64::from(width) - ratio * f64::from(height)).abs() <= 1.0,
            "{width} x {height}"
        );
        let grey = picture(&format!("grey/{name}")).into_rgb8();
        for (x, y, value) in mask.enumerate_pixels() {
            let [r, g, _] = grey.get_pixel(x, y).0;
            assert!(if value.0 == [255] {
                (r, g) == (red, 7)
            } else {
                (r, g) == (128, 128)
            });
        }
    }
}

pub fn served(folder: &Path) -> Fixture {
    served_with(folder, &[])
}

pub fn asked() -> Value {
    json!({
        "kind": "bam_data", "id": "mine", "objects": "objects", "scenes": "scenes", "per_pair": 4, "size": 48, "seed": 3,
        "common_feature": "red", "scene_crop": 0.7, "scene_classes": ["sky", "forest", "sea"],
    })
}

#[tokio::test]
async fn a_job_puts_up_the_data_sets_of_the_command_and_other_jobs_take_them() {
    let folder = material();
    let done = bam_data(folder.path(), &[ASKED, &["--output", "out"]].concat());
    assert!(done.status.success());
    let fixture = served(folder.path());
    fixture.work();
    let id = fixture.submit(&asked()).await;
    let job = fixture.ended(&id).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    assert_eq!(job["result"]["composed"], 28);
    let sets = job["result"]["datasets"].as_array().unwrap();
    assert_eq!(sets.len(), 7);
    let report = fixture.report(&id, "json").await.answer();
    let command = fs::read(folder.path().join("out/composition.json")).unwrap();
    let command: Value = serde_json::from_slice(&command).unwrap();
    assert_eq!(
        report["result"]["compositions"],
        command["result"]["compositions"]
    );
    assert_eq!(report["request"]["seed"], 3);
    for (set, of_command) in sets
        .iter()
        .zip(command["result"]["datasets"].as_array().unwrap())
    {
        let (id, name) = (
            set["id"].as_str().unwrap(),
            of_command["name"].as_str().unwrap(),
        );
        assert_eq!(id, format!("mine_{name}"));
        for field in ["images", "commonality"] {
            assert_eq!(set[field], of_command[field], "{id}");
        }
        let told = send_to(&fixture.router, get(&format!("/datasets/{id}")))
            .await
            .answer();
        assert_eq!(told["images"], set["images"], "{told}");
        assert_eq!(told["masks"], set["images"], "{told}");
        assert_eq!(told["problems"], 0, "{told}");
        assert_eq!(told["hash"], set["hash"]);
        let home = fixture.data.path().join("datasets").join(id);
        let version = fs::read_to_string(home.join("current")).unwrap();
        let mut installed = files(&home.join(version));
        installed.retain(|name, _| !name.starts_with('.'));
        assert_eq!(
            installed,
            files(&folder.path().join("out").join(name)),
            "{id}"
        );
    }
    // Of the labels red|sky and blue|sky, red and blue are classes of the model `tiny`.
    let request = json!({
        "kind": "evaluate", "model": "tiny", "dataset": "mine_test", "methods": ["gradient"], "metrics": ["pointing_game"],
    });
    let evaluated = fixture.submit(&request).await;
    let evaluated = fixture.ended(&evaluated).await;
    assert_eq!(evaluated["state"], "succeeded", "{evaluated}");

    // The settled request gives the same, under another id.
    let mut again = report["request"].clone();
    again["kind"] = json!("bam_data");
    let taken = send_to(&fixture.router, post_json("/jobs", &again)).await;
    assert_eq!(taken.refused(), vec!["id"; 7]);
    again["id"] = json!("other");
    let other = fixture.submit(&again).await;
    let other = fixture.ended(&other).await;
    assert_eq!(other["result"]["datasets"][0]["hash"], sets[0]["hash"]);
}

#[tokio::test]
async fn faults_of_a_job_are_told_before_it_is_queued() {
    let folder = material();
    RgbImage::new(9, 9)
        .save(folder.path().join("objects/red/opaque.png"))
        .unwrap();
    RgbImage::new(9, 9)
        .save(folder.path().join("objects/blue/opaque.png"))
        .unwrap();
    let fixture = served(folder.path());
    let refused = async |body: Value| send_to(&fixture.router, post_json("/jobs", &body)).await;
    let wrong = json!({ "kind": "bam_data", "objects": "objets", "per_pair": 0, "colour": 1 });
    assert_eq!(
        refused(wrong).await.refused(),
        ["colour", "id", "objects", "per_pair", "scenes"]
    );
    let wrong = json!({
        "kind": "bam_data", "id": "a/b", "objects": "objects", "scenes": "scenes", "common_feature": "redd",
        "objects_hash": "other",
    });
    assert_eq!(
        refused(wrong).await.refused(),
        ["common_feature", "id", "objects_hash"]
    );
    let told = refused(asked()).await;
    assert_eq!(
        told.refused(),
        ["objects", "objects"],
        "both images without a cut-out"
    );
    let mut long = asked();
    long["id"] = json!("x".repeat(60));
    assert!(refused(long).await.refused().contains(&"id".to_owned()));
    let few = served_with(folder.path(), &[("max_dataset_files", "20")]);
    fs::remove_file(folder.path().join("objects/red/opaque.png")).unwrap();
    fs::remove_file(folder.path().join("objects/blue/opaque.png")).unwrap();
    let told = send_to(&few.router, post_json("/jobs", &asked())).await;
    assert!(told.text().contains("max_dataset_files"), "{}", told.text());
}

pub fn served_with(folder: &Path, changes: &[(&str, &str)]) -> Fixture {
    let sets = ["objects", "scenes"].map(|name| format!("{name}={}", folder.join(name).display()));
    let sets = sets.join(",");
    fixture_with(&[&[("dataset", sets.as_str())], changes].concat())
}
