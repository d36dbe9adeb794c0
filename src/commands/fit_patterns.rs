//! `explaind fit-patterns`: fits a model's patterns, writes them beside it, and tells what they are
//! made of.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use explaind::{
    app::engine_settings,
    engine::{Caller, Engine, EngineSettings, Priority, Provider},
    model::patterns::{self, Provenance},
    patterns::{FitReport, FitRequest, LayerReport, SampleSource, fit},
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
    /// The whole report as JSON
    #[arg(long)]
    json: bool,
}

/// The most files that could not be read whose names are printed.
const SHOWN_FILES: usize = 10;

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
        match self.json {
            true => say(serde_json::to_string_pretty(&fitted.report)?)?,
            false => lines(&fitted.report).iter().try_for_each(say)?,
        }
        tell(format_args!(
            "{}: patterns of {} layers, fitted on {} samples; a running server takes them at SIGHUP or when it is restarted",
            written.display(),
            fitted.layers.len(),
            provenance.samples
        ));
        Ok(())
    }
}

/// What was fitted, and what of it has no pattern.
fn lines(report: &FitReport) -> Vec<String> {
    let count = |of: fn(&LayerReport) -> usize| report.layers.iter().map(of).sum::<usize>();
    let mut lines = vec![format!(
        "{} channels of {} layers, fitted on {} inputs of {} samples",
        count(|layer| layer.channels),
        report.layers.len(),
        report.rows,
        report.samples
    )];
    for layer in &report.layers {
        let empty = [
            (layer.without_positives, "that no sample makes positive"),
            (layer.zero_denominators, "that do not vary"),
        ];
        for (channels, why) in empty.into_iter().filter(|(channels, _)| *channels > 0) {
            lines.push(format!(
                "{}: {channels} of {} channels {why} have no pattern",
                layer.output, layer.channels
            ));
        }
    }
    for skipped in &report.skipped {
        lines.push(format!(
            "{}: no pattern, {}",
            skipped.output, skipped.reason
        ));
    }
    for file in report.unreadable.iter().take(SHOWN_FILES) {
        lines.push(format!(
            "{}: left out, {}",
            file.path.display(),
            file.reason
        ));
    }
    if let Some(more) = report.unreadable.len().checked_sub(SHOWN_FILES + 1) {
        lines.push(format!("and {} more files were left out", more + 1));
    }
    lines
}
