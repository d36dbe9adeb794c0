//! What the gradient of all parameters costs in forward passes of the same engine, in those by ONNX
//! Runtime's own convolutions, and beside one with the weights as inputs: medians of alternated calls
//! in wall-clock and processor time.
//! `cargo bench --bench training -- [--batch N] [--convolution-error E] MODEL_FOLDER …`; without
//! folders, the bundled SqueezeNet. `benches/peers/training.py` runs it beside PyTorch.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub
)]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use anyhow::Context;
use explaind::{
    engine::{Caller, Engine, EngineSettings, NamedInputs, Point, Priority, Provider, WholeGraph},
    model::registry::Registry,
    tensor::Tensor,
};
use onnx_autodiff::{
    autodiff::{
        parameters::{Parameters, parameter_gradients},
        spec::{DeriveSpec, Head},
    },
    onnx::{passes, read_model},
};
use tokio_util::sync::CancellationToken;

const REPEATS: usize = 7;
/// A tick of the processor times in /proc, in milliseconds.
const TICK_MS: f64 = 10.0;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (mut batch, mut convolution_error, mut folders) = (16, 2e-5, Vec::new());
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--batch" => {
                batch = arguments
                    .next()
                    .context("--batch takes a number")?
                    .parse()?
            }
            "--convolution-error" => {
                convolution_error = arguments
                    .next()
                    .context("--convolution-error takes a number")?
                    .parse()?
            }
            // `cargo bench` adds flags of its own.
            flag if flag.starts_with("--") => {}
            folder => folders.push(PathBuf::from(folder)),
        }
    }
    if folders.is_empty() {
        folders.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/squeezenet1_1"));
    }
    let start = |convolution_error| {
        Engine::start(&EngineSettings {
            library: None,
            providers: vec![Provider::Cpu],
            threads: 0,
            convolution_error,
            queue_rows: batch,
            batch_rows: 4,
            batch_bytes: 8 << 30,
            session_bytes: 8 << 30,
        })
    };
    let (engine, stock) = (start(convolution_error)?, start(0.0)?);
    for folder in folders {
        compare(&engine, &stock, &folder, batch)
            .await
            .with_context(|| folder.display().to_string())?;
    }
    Ok(())
}

async fn compare(
    engine: &Engine,
    stock: &Engine,
    folder: &Path,
    batch: usize,
) -> anyhow::Result<()> {
    let id = folder
        .file_name()
        .and_then(|name| name.to_str())
        .context("no folder of a model")?;
    let model = Registry::load(folder.parent().context("no folder of models")?, None)?.get(id);
    let model = model.context("the model cannot be served")?;
    let source = read_model(&folder.join("model.onnx"))?;
    let step = parameter_gradients(&source, Head::Logits, &Parameters::All)?;
    let mut forward = step.graph.clone();
    forward.outputs.truncate(2);
    let whole = |name, graph| WholeGraph::new(model.clone(), name, graph).map(Arc::new);
    let (step, forward, parameters) = (
        whole("training step", step.graph)?,
        whole("forward pass of weights", passes::prune(forward)?)?,
        step.parameters,
    );

    let points: Vec<Point> = (0..batch)
        .map(|row| Point {
            input: Arc::new(Tensor::from_shape_fn(
                model.manifest.input.shape.as_slice(),
                |index| ((index[1] + row) * index[2]) as f32 % 7.0 - 3.0,
            )),
            seed: Arc::new([]),
        })
        .collect();
    let images: Vec<_> = points.iter().map(|point| point.input.view()).collect();
    let images = ndarray::stack(ndarray::Axis(0), &images)?;
    let inputs = |graph: &WholeGraph| -> anyhow::Result<NamedInputs> {
        let value = |name: &str| -> anyhow::Result<Tensor> {
            let parameter = parameters.iter().find(|one| one.name == name);
            Ok(match (parameter, name) {
                (Some(one), _) => {
                    let values = one.value.to_f32s().context("a parameter of another type")?;
                    Tensor::from_shape_vec(one.value.shape.clone(), values)?
                }
                (None, "seed") => {
                    let classes = graph.graph.outputs[0].value_type.shape[1].known();
                    let shape = vec![batch, classes.context("unknown classes")?];
                    Tensor::from_shape_fn(shape, |at| (at[0] * at[1]) as f32 % 3.0 - 1.0)
                }
                _ => images.clone(),
            })
        };
        let names = graph.graph.inputs.iter().map(|input| &input.name);
        names
            .map(|name| Ok((name.clone(), Arc::new(value(name)?))))
            .collect()
    };
    let (step_inputs, forward_inputs) = (inputs(&step)?, inputs(&forward)?);

    let spec = DeriveSpec::of(vec![]);
    let caller = caller();
    let mut times = [vec![], vec![], vec![], vec![]];
    for _ in 0..=REPEATS {
        for (index, engine) in [(0, engine), (3, stock)] {
            let start = now();
            engine
                .evaluate(&model, &spec, points.clone(), &caller)
                .await?;
            times[index].push(since(start));
        }
        for (index, graph, inputs) in [(1, &forward, &forward_inputs), (2, &step, &step_inputs)] {
            let start = now();
            engine.run_whole(graph, inputs.clone(), &caller).await?;
            times[index].push(since(start));
        }
    }
    let [constant, given, step, stock] = times.map(medians);
    println!(
        "{id}, {batch} images: forward {:.0} ms, with weights as inputs {:.0} ms, training step {:.0} ms: {:.2} forward passes;\n  \
         of the processor {:.0}, {:.0} and {:.0} ms: {:.2}; forward by ONNX Runtime's convolutions {:.0} ms: {:.2}; peak memory {} MiB",
        constant[0],
        given[0],
        step[0],
        step[0] / constant[0],
        constant[1],
        given[1],
        step[1],
        step[1] / constant[1],
        stock[0],
        step[0] / stock[0],
        peak_mib()?
    );
    Ok(())
}

fn caller() -> Caller {
    Caller {
        id: 0,
        priority: Priority::Interactive,
        cancel: CancellationToken::new(),
        deadline: None,
    }
}

/// The time, and the processor time of this process in milliseconds.
fn now() -> (Instant, f64) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the name, which is in parentheses: fields 14 and 15 of all are ticks of user and system.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: f64 = ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum();
    (Instant::now(), ticks * TICK_MS)
}

/// Milliseconds since, by the clock and of the processor.
fn since((start, processor): (Instant, f64)) -> [f64; 2] {
    let elapsed = start.elapsed().as_secs_f64() * 1e3;
    [elapsed, now().1 - processor]
}

/// Without the first, which warms up.
fn medians(times: Vec<[f64; 2]>) -> [f64; 2] {
    [0, 1].map(|which| {
        let mut times: Vec<f64> = times[1..].iter().map(|time| time[which]).collect();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    })
}

/// The most memory that this process had.
fn peak_mib() -> anyhow::Result<usize> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kib.context("no VmHWM")?.trim().parse::<usize>()? / 1024)
}
