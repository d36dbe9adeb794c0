//! `explaind fit-patterns`: fits a model's patterns and writes them beside it; the report goes to
//! standard output as JSON.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use explaind::{
    app::engine_settings,
    engine::{Caller, Engine, EngineSettings, Priority, Provider},
    model::patterns::{self, Provenance},
    patterns::{FitRequest, SampleSource, fit},
    pool::Pool,
    tensor::read_npy,
};
use indicatif::{ProgressBar, ProgressStyle};
use onnx_autodiff::autodiff::fit::Regime;

use super::{ModelArgs, Runs, say, tell};

#[derive(Args)]
pub(crate) struct FitPatterns {
    #[command(flatten)]
    model: ModelArgs<Runs>,
    #[command(flatten)]
    source: Source,
    /// Which samples are positive: where the following rectifier is on (activation), or where wᵀx >
    /// 0 (weights)
    #[arg(long, value_enum, default_value = "activation")]
    regime: RegimeName,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Source {
    /// Folder of images, searched with its sub-folders; each gives four views: centre, random crop,
    /// and their mirror images
    #[arg(long, value_name = "FOLDER")]
    images: Option<PathBuf>,
    /// Ready inputs: float32, samples first
    #[arg(long, value_name = "X.npy")]
    tensors: Option<PathBuf>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum RegimeName {
    Activation,
    Weights,
}

impl FitPatterns {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let (settings, model) = self.model.load()?;
        let Some(folder) = &model.folder else {
            bail!(
                "patterns are kept beside a model.onnx: put the file into a folder of its own, as model.onnx"
            );
        };
        let engine = Engine::start(&EngineSettings {
            providers: vec![Provider::Cpu],
            ..engine_settings(&settings)
        })?;
        let (path, samples) = match (self.source.images, self.source.tensors) {
            (Some(folder), _) => (folder.clone(), SampleSource::in_folder(&folder, &model)?),
            (None, file) => {
                let file = file.unwrap_or_default();
                let name = || file.display().to_string();
                let tensor =
                    read_npy(&std::fs::read(&file).with_context(name)?).with_context(name)?;
                (file, SampleSource::in_tensor(tensor, &model)?)
            }
        };
        let (regime, regime_name) = match self.regime {
            RegimeName::Activation => (Regime::Activation, "activation"),
            RegimeName::Weights => (Regime::Weights, "weights"),
        };
        // Draws nothing when standard error is not a terminal.
        let bar = ProgressBar::new(samples.len() as u64);
        bar.set_style(ProgressStyle::with_template(
            "{bar:40} {pos}/{len} samples, {eta} left",
        )?);
        let request = FitRequest {
            model: model.clone(),
            samples,
            regime,
        };
        let caller = Caller::new(Priority::Job, None);
        let runtime = tokio::runtime::Runtime::new()?;
        let pool = Pool::new(1);
        let progress = |done| bar.set_position(done as u64);
        let fitted = runtime.block_on(fit(request, &engine, &pool, &caller, progress))?;
        bar.finish_and_clear();
        let provenance = Provenance {
            model_hash: model.hash.clone(),
            data_set: path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            samples: fitted.report.samples,
            rows: fitted.report.rows,
            regime: regime_name.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let written = folder.join(patterns::FILE);
        patterns::write(&written, &fitted.layers, &provenance)?;
        say(serde_json::to_string_pretty(&fitted.report)?)?;
        tell(format_args!(
            "{}: patterns of {} layers, fitted on {} samples; a running server takes them at SIGHUP or when it is restarted",
            written.display(),
            fitted.layers.len(),
            provenance.samples
        ));
        Ok(())
    }
}
