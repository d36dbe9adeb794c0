//! What a batched gradient costs in forward passes: both through the engine as it serves, with
//! Winograd's convolutions and with ONNX Runtime's alone, medians of alternated calls, one line a
//! model. `cargo bench --bench gradient -- MODEL_FOLDER …`; without
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
    let engine = |convolution_error| {
        Engine::start(&EngineSettings {
            library: None,
            providers: vec![Provider::Cpu],
            threads: 0,
            convolution_error,
            queue_rows: BATCH,
            batch_rows: 4,
            batch_bytes: 1 << 30,
            session_bytes: 4 << 30,
        })
    };
    let engines = [engine(0.0)?, engine(2e-5)?];
    for folder in folders {
        compare(&engines, &folder)
            .await
            .with_context(|| folder.display().to_string())?;
    }
    Ok(())
}

async fn compare(engines: &[Engine; 2], folder: &Path) -> anyhow::Result<()> {
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
    let mut times = [const { vec![] }; 4];
    for _ in 0..=REPEATS {
        for (engine, times) in engines.iter().zip(times.chunks_exact_mut(2)) {
            times[0].push(time(engine, &model, vec![], &points).await?);
            times[1].push(time(engine, &model, vec![RuleSetId::Gradient], &points).await?);
        }
    }
    let [stock_forward, stock_gradient, forward, gradient] = times.map(median);
    let passes = |time: Duration, forward: Duration| time.as_secs_f64() / forward.as_secs_f64();
    println!(
        "{id}, {BATCH} images: forward {forward:.0?}, gradient {gradient:.0?}: {:.2} forward passes; ONNX Runtime alone \
         {stock_forward:.0?}, {stock_gradient:.0?}: {:.2}; gradient in forward passes of ONNX Runtime {:.2}",
        passes(gradient, forward),
        passes(stock_gradient, stock_forward),
        passes(gradient, stock_forward),
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
