//! What a batched gradient costs in forward passes: both through the engine as it serves, medians
//! of alternated calls, one line a model. `cargo bench --bench gradient -- MODEL_FOLDER …`; without
//! folders, the bundled SqueezeNet.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub
)]

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use explaind::{
    engine::{Caller, Engine, EngineSettings, Point, Priority, Provider},
    model::{Model, registry::Registry},
    tensor::Tensor,
};
use onnx_autodiff::autodiff::spec::{DeriveSpec, RuleSetId};
use tokio_util::sync::CancellationToken;

const BATCH: usize = 8;
const REPEATS: usize = 9;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    // `cargo bench` adds flags of its own.
    let mut folders: Vec<PathBuf> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with("--"))
        .map(Into::into)
        .collect();
    if folders.is_empty() {
        folders.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/squeezenet1_1"));
    }
    let engine = Engine::start(&EngineSettings {
        library: None,
        providers: vec![Provider::Cpu],
        threads: 0,
        queue_rows: BATCH,
        batch_rows: 4,
        batch_bytes: 1 << 30,
        session_bytes: 4 << 30,
    })?;
    for folder in folders {
        compare(&engine, &folder)
            .await
            .with_context(|| folder.display().to_string())?;
    }
    Ok(())
}

async fn compare(engine: &Engine, folder: &Path) -> anyhow::Result<()> {
    let id = folder
        .file_name()
        .and_then(|name| name.to_str())
        .context("no folder of a model")?;
    let model = Registry::load(folder.parent().context("no folder of models")?, None)?.get(id);
    let model = model.context("the model cannot be served")?;
    let points: Vec<Point> = (0..BATCH)
        .map(|row| Point {
            input: Arc::new(Tensor::from_shape_fn(
                model.manifest.input.shape.as_slice(),
                |index| ((index[1] + row) * index[2]) as f32 % 7.0 - 3.0,
            )),
            seed: Arc::new([(row, 1.0)]),
        })
        .collect();
    let mut times = [vec![], vec![]];
    for _ in 0..=REPEATS {
        times[0].push(time(engine, &model, vec![], &points).await?);
        times[1].push(time(engine, &model, vec![RuleSetId::Gradient], &points).await?);
    }
    let [forward, gradient] = times.map(median);
    println!(
        "{id}: forward {forward:.0?}, gradient {gradient:.0?} for {BATCH} images: {:.2} forward passes",
        gradient.as_secs_f64() / forward.as_secs_f64()
    );
    Ok(())
}

async fn time(
    engine: &Engine,
    model: &Arc<Model>,
    rule_sets: Vec<RuleSetId>,
    points: &[Point],
) -> anyhow::Result<Duration> {
    let spec = DeriveSpec::of(rule_sets);
    let caller = Caller {
        id: 0,
        priority: Priority::Interactive,
        cancel: CancellationToken::new(),
        deadline: None,
    };
    let start = Instant::now();
    engine
        .evaluate(model, &spec, points.to_vec(), &caller)
        .await?;
    Ok(start.elapsed())
}

/// Without the first, which warms up.
fn median(mut times: Vec<Duration>) -> Duration {
    times.remove(0);
    times.sort();
    times[times.len() / 2]
}
