//! What a batched gradient costs in forward passes of the same runtime: medians of alternated runs, one line a model.
//! `cargo bench --bench gradient -- MODEL.onnx …`; without models, the bundled SqueezeNet.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context;
use explaind::{
    autodiff::{
        derive,
        spec::{DeriveSpec, Head, PatternLayers, RuleSetId, SeedRule, Wrt},
    },
    engine::{
        Provider,
        backend_ort::{OrtSession, load_runtime},
    },
    onnx::{
        graph::{Dim, Graph},
        read_model,
    },
    tensor::Tensor,
};
use ndarray::IxDyn;

const BATCH: usize = 8;
const REPEATS: usize = 9;

fn main() -> anyhow::Result<()> {
    // `cargo bench` adds flags of its own.
    let mut models: Vec<PathBuf> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).map(Into::into).collect();
    if models.is_empty() {
        models.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/squeezenet1_1/model.onnx"));
    }
    models.iter().try_for_each(|model| compare(model).with_context(|| model.display().to_string()))
}

fn compare(model: &Path) -> anyhow::Result<()> {
    let source = read_model(model)?;
    let graph = |rule_sets: Vec<RuleSetId>| {
        let (wrt, pattern_layers) = (Wrt::Input, PatternLayers::All);
        derive(&source, &DeriveSpec { rule_sets, wrt, head: Head::Logits, seed: SeedRule::One, pattern_layers }, None)
    };
    let forward = graph(vec![])?.graph;
    let input = &source.inputs.first().context("no input")?;
    let sample =
        input.value_type.shape[1..].iter().map(Dim::known).collect::<Option<Vec<_>>>().context("no fixed size")?;
    let x =
        Tensor::from_shape_fn([&[BATCH], sample.as_slice()].concat(), |index| (index[2] * index[3]) as f32 % 7.0 - 3.0);
    let x = (input.name.as_str(), &x);

    let mut forward = open(forward)?;
    let classes = forward.run(&[(x.0, x.1.view())])?["logits"].shape()[1];
    let seed = Tensor::from_shape_fn(IxDyn(&[BATCH, classes]), |index| f32::from(u8::from(index[0] == index[1])));
    let mut gradient = open(graph(vec![RuleSetId::Gradient])?.graph)?;
    let mut times = [vec![], vec![]];
    for _ in 0..=REPEATS {
        times[0].push(time(&mut forward, &[x])?);
        times[1].push(time(&mut gradient, &[x, ("seed", &seed)])?);
    }
    let [forward, gradient] = times.map(median);
    println!(
        "{}: forward {forward:.0?}, gradient {gradient:.0?} for {BATCH} images: {:.2} forward passes",
        model.display(),
        gradient.as_secs_f64() / forward.as_secs_f64()
    );
    Ok(())
}

/// As the engine opens its sessions.
fn open(graph: Graph) -> anyhow::Result<OrtSession> {
    Ok(OrtSession::open(load_runtime(None, 0)?, graph, Provider::Cpu)?)
}

fn time(session: &mut OrtSession, inputs: &[(&str, &Tensor)]) -> anyhow::Result<Duration> {
    let inputs: Vec<_> = inputs.iter().map(|(name, tensor)| (*name, tensor.view())).collect();
    let start = Instant::now();
    session.run(&inputs)?;
    Ok(start.elapsed())
}

/// Without the first, which warms up.
fn median(mut times: Vec<Duration>) -> Duration {
    times.remove(0);
    times.sort();
    times[times.len() / 2]
}
