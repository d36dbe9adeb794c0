//! The benchmark in the real server, which is killed at random moments; and in two workers on PostgreSQL, of which one is killed and
//! one frozen past its lease. The reports are those of an undisturbed run, byte for byte.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use explaind::onnx::{
    graph::{Dim, Element, Graph, Literal, Node, ValueInfo, ValueType},
    write_model,
};
use image::RgbImage;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    databases::{Place, postgres, sqlite},
    processes::{Signal, send},
};

const CLASSES: [&str; 3] = ["red", "green", "blue"];
const IMAGES: usize = 60;

/// A model that tells colours apart, and photos of colours.
fn material() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("models/colours");
    fs::create_dir_all(&model).unwrap();
    fs::write(model.join("model.onnx"), write_model(&colour_net()).unwrap()).unwrap();
    fs::write(model.join("labels.txt"), CLASSES.join("\n")).unwrap();
    let pixels = "head = \"logits\"\n[input]\nmean = 0.0\nstd = 1.0\nresize = \"stretch\"\n";
    fs::write(model.join("model.toml"), pixels).unwrap();
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

/// Class c answers to the mean of channel c.
fn colour_net() -> Graph {
    let value = |name: &str, sides: &[usize]| {
        let shape = [Dim::from("N")].into_iter().chain(sides.iter().map(|side| (*side).into())).collect();
        ValueInfo { name: name.into(), value_type: ValueType::new(Element::Float, shape) }
    };
    let mut classes = vec![-1.0; 9];
    (0..3).for_each(|c| classes[c * 4] = 4.0);
    let initializers =
        [("classes", Literal::from_f32s(&[3, 3], &classes)), ("bias", Literal::from_f32s(&[3], &[0.0; 3]))];
    Graph {
        name: "colours".into(),
        ir_version: 8,
        opset_imports: BTreeMap::from([(String::new(), 17)]),
        inputs: vec![value("x", &[3, 8, 8])],
        outputs: vec![value("scores", &[3])],
        initializers: initializers.into_iter().map(|(name, literal)| (name.to_owned(), literal)).collect(),
        nodes: vec![
            Node::new("GlobalAveragePool", ["x"], ["pool"]),
            Node::new("Flatten", ["pool"], ["flat"]),
            Node::new("Gemm", ["flat", "classes", "bias"], ["scores"]).with("transB", 1_i64),
        ],
        metadata: BTreeMap::new(),
    }
}

/// `explaind serve` as a process.
struct Served {
    process: Child,
    url: String,
}

impl Served {
    fn start(material: &Path, place: &Place, role: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_explaind"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--lease-ms", "600", "--role", role]);
        command.arg("--models").arg(material.join("models")).arg("--data").arg(place.data.path());
        command.arg("--dataset").arg(format!("photos={}", material.join("photos").display()));
        if let Some(database) = &place.database {
            command.args(["--database", database]);
        }
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap()).lines().map_while(Result::ok);
        let line = log.find(|line| line.contains("serving address=")).expect("the server does not start");
        let address = line.split("address=").nth(1).unwrap().split(' ').next().unwrap();
        let url = format!("http://{address}");
        // What nobody reads fills the pipe.
        std::thread::spawn(move || log.for_each(drop));
        Self { process, url }
    }

    fn kill(mut self) {
        send(self.process.id(), Signal::Kill);
        self.process.wait().unwrap();
    }

    async fn text(&self, path: &str) -> String {
        let answer = reqwest::get(format!("{}{path}", self.url)).await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.text().await.unwrap());
        answer.text().await.unwrap()
    }

    async fn job(&self, id: &str) -> Value {
        serde_json::from_str(&self.text(&format!("/jobs/{id}")).await).unwrap()
    }

    async fn submit(&self) -> String {
        let asked = json!({
            "kind": "degradation", "model": "colours", "dataset": "photos", "grid": 8, "steps": 64,
            "methods": ["gradient", { "id": "integrated_gradients", "n_steps": 120 }, "random"],
        });
        let answer = reqwest::Client::new().post(format!("{}/jobs", self.url)).json(&asked).send().await.unwrap();
        assert_eq!(answer.status(), 202, "{}", answer.text().await.unwrap());
        answer.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned()
    }

    async fn reach(&self, id: &str, reached: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            let job = self.job(id).await;
            if reached(&job) {
                return job;
            }
            assert!(started.elapsed() < Duration::from_secs(180) && job["state"] != "failed", "{job}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The reports of a job that has ended well, after a look at what was counted.
    async fn reports(&self, id: &str) -> Vec<String> {
        let job = self.reach(id, |job| job["state"] == "succeeded").await;
        assert_eq!((&job["done"], &job["shards_done"]), (&json!(IMAGES), &job["shards"]));
        let events = self.text(&format!("/jobs/{id}/events")).await;
        let counted: Vec<u64> = events
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data:")?).ok()?["shards_done"].as_u64())
            .collect();
        assert_eq!(counted, (1..=job["shards"].as_u64().unwrap()).collect::<Vec<_>>(), "each shard is counted once");
        let mut reports = Vec::new();
        for format in ["json", "csv", "html", "svg"] {
            reports.push(self.text(&format!("/jobs/{id}/report?format={format}")).await);
        }
        reports
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_benchmark_disturbed_by_kills_and_freezes_gives_the_undisturbed_report() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let material = material();
    let start = |place: &Place, role: &str| Served::start(material.path(), place, role);
    let place = sqlite();
    let server = start(&place, "all");
    let undisturbed = server.submit().await;
    let expected = server.reports(&undisturbed).await;
    server.kill();

    let place = sqlite();
    let mut server = start(&place, "all");
    let id = server.submit().await;
    let mut random = ChaCha8Rng::seed_from_u64(2);
    let mut hit = 0;
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(random.random_range(50..600))).await;
        hit += usize::from(server.job(&id).await["state"] == "running");
        server.kill();
        server = start(&place, "all");
    }
    assert!(server.reports(&id).await == expected, "killed ten times");
    assert!(hit > 0, "every kill came too late");
    server.kill();

    let place = postgres().await;
    let [api, killed, frozen] = ["api", "worker", "worker"].map(|role| start(&place, role));
    let id = api.submit().await;
    api.reach(&id, |job| job["shards_done"].as_u64() >= Some(3)).await;
    killed.kill();
    send(frozen.process.id(), Signal::Stop);
    let fresh = start(&place, "worker");
    let total = api.job(&id).await["shards"].as_u64().unwrap();
    api.reach(&id, |job| job["shards_done"].as_u64() >= Some(total - 1)).await;
    send(frozen.process.id(), Signal::Continue);
    assert!(api.reports(&id).await == expected, "one worker killed, one frozen");
    [api, fresh, frozen].into_iter().for_each(Served::kill);
}
