//! `explaind serve` as a process, with a model that tells colours apart and photos of colours.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use image::RgbImage;
use onnx_autodiff::onnx::{
    graph::{Dim, Element, Graph, Literal, Node, ValueInfo, ValueType},
    write_model,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    databases::TestDatabase,
    processes::{Signal, send},
};

const CLASSES: [&str; 3] = ["red", "green", "blue"];
pub const IMAGES: usize = 60;

/// A folder of models with the model `colours`, and a folder `photos`.
pub fn material() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    // Class c answers to the mean of channel c.
    let weights = [[4.0, -1.0, -1.0], [-1.0, 4.0, -1.0], [-1.0, -1.0, 4.0]];
    add_model(folder.path(), "colours", &CLASSES, &weights);
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for at in 0..IMAGES {
        let class = folder.path().join("photos").join(CLASSES[at % 3]);
        fs::create_dir_all(&class).unwrap();
        let image = RgbImage::from_fn(8, 8, |_, _| {
            let mut pixel: [u8; 3] = random.random();
            pixel[at % 3] = pixel[at % 3].saturating_add(120);
            image::Rgb(pixel)
        });
        image.save(class.join(format!("{at:03}.png"))).unwrap();
    }
    folder
}

/// A model of pictures of 8 x 8 pixels: the logit of a class is the sum of the channels' means, from 0
/// to 1, times its weights.
pub fn add_model(material: &Path, id: &str, classes: &[&str], weights: &[[f32; 3]]) {
    let folder = material.join("models").join(id);
    fs::create_dir_all(&folder).unwrap();
    let net = write_model(&colour_net(weights)).unwrap();
    fs::write(folder.join("model.onnx"), net).unwrap();
    fs::write(folder.join("labels.txt"), classes.join("\n")).unwrap();
    let pixels = "head = \"logits\"\n[input]\nmean = 0.0\nstd = 1.0\nresize = \"stretch\"\n";
    fs::write(folder.join("model.toml"), pixels).unwrap();
}

fn colour_net(weights: &[[f32; 3]]) -> Graph {
    let value = |name: &str, sides: &[usize]| {
        let shape = [Dim::from("N")]
            .into_iter()
            .chain(sides.iter().map(|side| (*side).into()))
            .collect();
        ValueInfo {
            name: name.into(),
            value_type: ValueType::new(Element::Float, shape),
        }
    };
    let classes = weights.len();
    let initializers = [
        (
            "classes",
            Literal::from_f32s(&[classes, 3], weights.as_flattened()),
        ),
        ("bias", Literal::from_f32s(&[classes], &vec![0.0; classes])),
    ];
    Graph {
        name: "colours".into(),
        opset_imports: BTreeMap::from([(String::new(), 17)]),
        inputs: vec![value("x", &[3, 8, 8])],
        outputs: vec![value("scores", &[classes])],
        initializers: initializers
            .into_iter()
            .map(|(name, literal)| (name.to_owned(), literal))
            .collect(),
        nodes: vec![
            Node::new("GlobalAveragePool", ["x"], ["pool"]),
            Node::new("Flatten", ["pool"], ["flat"]),
            Node::new("Gemm", ["flat", "classes", "bias"], ["scores"]).with("transB", 1_i64),
        ],
        ..Graph::default()
    }
}

/// A benchmark of all photos by some methods.
pub fn benchmark() -> Value {
    json!({
        "kind": "degradation", "model": "colours", "dataset": "photos", "grid": 8, "steps": 64,
        "methods": ["gradient", { "id": "integrated_gradients", "n_steps": 120 }, "random"],
    })
}

/// All photos measured by several metrics.
pub fn evaluation() -> Value {
    json!({
        "kind": "evaluate", "model": "colours", "dataset": "photos",
        "methods": ["gradient", { "id": "integrated_gradients", "n_steps": 120 }, "random"],
        "metrics": [{ "id": "degradation", "grid": 8, "steps": 64 }, "sparseness", "model_randomisation"],
    })
}

pub struct Served {
    process: Child,
    pub url: String,
}

impl Served {
    pub fn start(material: &Path, database: &TestDatabase, role: &str) -> Self {
        Self::with(
            material,
            database.data.path(),
            database.url.as_deref(),
            role,
            |_| (),
        )
    }

    /// As a process whose files may be limited: writes beyond the limit fail, as on a full disk,
    /// and do not end it.
    pub fn start_within_limits(material: &Path, database: &TestDatabase, role: &str) -> Self {
        let (data, url) = (database.data.path(), database.url.as_deref());
        Self::with(material, data, url, role, |command| {
            // Safe: the call between fork and exec is async-signal-safe.
            unsafe {
                command.pre_exec(|| {
                    libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
                    Ok(())
                })
            };
        })
    }

    /// With arguments and an environment of its own.
    pub fn with(
        material: &Path,
        data: &Path,
        database: Option<&str>,
        role: &str,
        change: impl FnOnce(&mut Command),
    ) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_explaind"));
        command.args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--lease-ms",
            "600",
            "--role",
            role,
        ]);
        command
            .arg("--models")
            .arg(material.join("models"))
            .arg("--data")
            .arg(data);
        command
            .arg("--dataset")
            .arg(format!("photos={}", material.join("photos").display()));
        if let Some(database) = database {
            command.args(["--database", database]);
        }
        change(&mut command);
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap())
            .lines()
            .map_while(Result::ok);
        let line = log
            .find(|line| line.contains("serving address="))
            .expect("the server does not start");
        let address = line
            .split("address=")
            .nth(1)
            .unwrap()
            .split(' ')
            .next()
            .unwrap();
        let url = format!("http://{address}");
        // What nobody reads fills the pipe.
        std::thread::spawn(move || log.for_each(drop));
        Self { process, url }
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    pub fn kill(mut self) {
        send(self.id(), Signal::Kill);
        self.process.wait().unwrap();
    }

    /// Asks it to end; its exit code, when it has ended within `limit`.
    pub fn terminate(mut self, limit: Duration) -> Option<i32> {
        send(self.id(), Signal::Terminate);
        let asked = Instant::now();
        while asked.elapsed() < limit {
            if let Some(ended) = self.process.try_wait().unwrap() {
                return ended.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.kill();
        None
    }

    pub async fn text(&self, path: &str) -> String {
        let answer = reqwest::get(format!("{}{path}", self.url)).await.unwrap();
        assert!(
            answer.status().is_success(),
            "{path}: {}",
            answer.text().await.unwrap()
        );
        answer.text().await.unwrap()
    }

    pub async fn job(&self, id: &str) -> Value {
        serde_json::from_str(&self.text(&format!("/jobs/{id}")).await).unwrap()
    }

    /// Posts a job, and gives its id.
    pub async fn submit(&self, asked: &Value) -> String {
        let answer = reqwest::Client::new()
            .post(format!("{}/jobs", self.url))
            .json(asked)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 202, "{}", answer.text().await.unwrap());
        answer.json::<Value>().await.unwrap()["id"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    pub async fn reach(&self, id: &str, reached: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            let job = self.job(id).await;
            if reached(&job) {
                return job;
            }
            let ended =
                ["succeeded", "failed", "cancelled"].contains(&job["state"].as_str().unwrap());
            assert!(
                started.elapsed() < Duration::from_secs(180) && !ended,
                "{job}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
