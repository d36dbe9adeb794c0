//! BAM data in the real server, which is killed at random moments: the data sets are those of an
//! undisturbed run, byte for byte, and each is there as a whole or not at all.

use std::{path::Path, process::Command, time::Duration};

use image::{Rgb, RgbImage, Rgba, RgbaImage};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::{
    databases::{TestDatabase, sqlite},
    served::{Served, material},
};

/// Adds objects and scenes of noise.
pub fn add_material(folder: &Path) {
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let save = |kind: &str, class: &str, at: usize, image: image::DynamicImage| {
        let folder = folder.join(kind).join(class);
        std::fs::create_dir_all(&folder).unwrap();
        image.save(folder.join(format!("{at}.png"))).unwrap();
    };
    for at in 0..3 {
        for class in ["cat", "dog"] {
            let object = RgbaImage::from_fn(40, 30, |_, _| Rgba(random.random()));
            save("objects", class, at, object.into());
        }
        for class in ["city", "forest", "sea"] {
            let scene = RgbImage::from_fn(300, 200, |_, _| Rgb(random.random()));
            save("scenes", class, at, scene.into());
        }
    }
}

fn start(material: &Path, database: &TestDatabase) -> Served {
    start_with(material, database, |_| ())
}

/// A server with objects and scenes.
pub fn start_with(
    material: &Path,
    database: &TestDatabase,
    change: impl FnOnce(&mut Command),
) -> Served {
    let (data, url) = (database.data.path(), database.url.as_deref());
    Served::with(material, data, url, "all", |command| {
        change(command);
        for kind in ["objects", "scenes"] {
            let folder = material.join(kind);
            command
                .arg("--dataset")
                .arg(format!("{kind}={}", folder.display()));
        }
    })
}

/// The report, the hash of each data set as the server has it, and what the job says of them.
async fn made(server: &Served, id: &str) -> (String, Vec<Value>, Value) {
    let job = server.reach(id, |job| job["state"] == "succeeded").await;
    let report = server.text(&format!("/jobs/{id}/report?format=json")).await;
    let mut sets = Vec::new();
    for set in job["result"]["datasets"].as_array().unwrap() {
        let id = set["id"].as_str().unwrap();
        let told: Value =
            serde_json::from_str(&server.text(&format!("/datasets/{id}")).await).unwrap();
        assert_eq!(
            (&told["images"], &told["hash"]),
            (&set["images"], &set["hash"])
        );
        assert_eq!(told["problems"], 0);
        sets.push(told["hash"].clone());
    }
    (report, sets, job["result"]["datasets"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_ten_times_makes_the_undisturbed_data_sets() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let material = material();
    add_material(material.path());
    let request = json!({
        "kind": "bam_data", "id": "mine", "objects": "objects", "scenes": "scenes", "per_pair": 40, "size": 224,
        "common_feature": "dog",
    });
    let database = sqlite();
    let server = start(material.path(), &database);
    let id = server.submit(&request).await;
    let expected = made(&server, &id).await;
    server.kill();
    assert_eq!(expected.1.len(), 3 + 1 + 3);

    let database = sqlite();
    let mut server = start(material.path(), &database);
    let id = server.submit(&request).await;
    let mut random = ChaCha8Rng::seed_from_u64(2);
    let (mut composing, mut installing) = (0, 0);
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(random.random_range(50..900))).await;
        let job = server.job(&id).await;
        if job["state"] == "running" {
            match job["done"] == job["units"] {
                true => installing += 1,
                false => composing += 1,
            }
        }
        server.kill();
        server = start(material.path(), &database);
    }
    let found = made(&server, &id).await;
    assert!(found == expected, "killed ten times");
    assert!(composing + installing > 0, "every kill came too late");
    eprintln!("{composing} kills while it composed, {installing} while it put data sets up");
    server.kill();
}
