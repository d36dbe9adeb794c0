//! `explaind train`: fine-tunes a model on a data set and writes the result as a model's folder. A
//! checkpoint in it after each epoch lets the same command go on where it was broken off.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::exit,
    sync::Arc,
    time::Instant,
};

use anyhow::{Context, bail};
use clap::Args;
use explaind::{
    app::App,
    dataset::Dataset,
    engine::{Caller, EngineError, Priority},
    faults::Reader,
    model::Model,
    tensor::read_npy,
    training::{Checkpoint, EpochReport, Examples, Recipe, Trainer, TrainingError},
};
use indicatif::{ProgressBar, ProgressStyle};
use ndarray::Array2;
use serde_json::{Map, Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::{
    Benchmarks, ModelArgs, json_or_text, local_job::dataset_id, pair, say, tell, write_file,
};

/// The exit code of a command that SIGINT ended, as in shells.
const INTERRUPTED: i32 = 130;
/// Below the output's folder: what is not the model yet.
const HIDDEN: &str = ".training";
const CHECKPOINT: &str = "checkpoint.safetensors";
const MODEL: &str = "model.onnx";

#[derive(Args)]
pub(crate) struct Train {
    /// The images to train on: a folder, the ID of a data set, or ID=FOLDER
    #[arg(short, long, value_name = "DATASET")]
    dataset: String,
    /// The folder to write the model to, such as a new one in the models folder
    #[arg(short, long, value_name = "FOLDER")]
    output: PathBuf,
    /// Passes over the images [default: 10]
    #[arg(long, value_name = "N")]
    epochs: Option<u64>,
    /// Images in a step [default: 32]
    #[arg(long, value_name = "N")]
    batch_size: Option<u64>,
    /// [default: 1e-4 of adam, 1e-3 of sgd]
    #[arg(long, value_name = "RATE")]
    learning_rate: Option<f64>,
    /// Weights and biases that are trained: all, head, or from:LAYER for a layer and all that follow
    /// it [default: all]
    #[arg(long, value_name = "WHICH")]
    train: Option<String>,
    /// Replace the last layer by a new one, whose classes are the data set's labels
    #[arg(long)]
    new_head: bool,
    /// Logits to train towards, with the loss mse, in place of labels: float32 [images, classes], a
    /// row for each image of the data set in the order of their paths
    #[arg(long, value_name = "Y.npy", conflicts_with = "new_head")]
    targets: Option<PathBuf>,
    /// Of the split, the order of images, augmentation and the new head [default: 0]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Any other field of the recipe: loss, optimizer, momentum, beta1, beta2, epsilon, schedule,
    /// weight_decay, batch_norm, crop, flip, validation, patience; repeatable
    #[arg(short, long = "parameter", value_name = "NAME=VALUE", value_parser = pair)]
    parameters: Vec<(String, String)>,
    #[command(flatten)]
    model: ModelArgs<Benchmarks>,
}

impl Train {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let recipe = self.recipe()?;
        let targets = self.targets.as_deref().map(read_targets).transpose()?;
        let place = Place::new(self.output);
        place.check()?;
        let mut settings = self.model.settings()?;
        let dataset = dataset_id(&self.dataset, &mut settings)?;
        let app = self.model.app_with(settings)?;
        let model = app.models().iter().next().context("there is no model")?;
        let runtime = tokio::runtime::Runtime::new()?;
        runtime.block_on(async {
            app.catch_up().await;
            let dataset = app.datasets().open(&dataset).await?;
            let trainer = start(&app, recipe, model, dataset, targets).await?;
            train(&trainer, &place).await
        })
    }

    fn recipe(&self) -> anyhow::Result<Recipe> {
        let mut fields = Map::new();
        let given = [
            ("epochs", self.epochs.map(Value::from)),
            ("batch_size", self.batch_size.map(Value::from)),
            ("learning_rate", self.learning_rate.map(Value::from)),
            ("train", self.train.clone().map(Value::from)),
            ("new_head", self.new_head.then(|| json!(true))),
            ("seed", self.seed.map(Value::from)),
        ];
        for (name, value) in given {
            fields.extend(value.map(|value| (name.to_owned(), value)));
        }
        for (name, value) in &self.parameters {
            if fields.insert(name.clone(), json_or_text(value)).is_some() {
                bail!("{name} is given twice");
            }
        }
        let mut fields = Reader::new(fields);
        let recipe = Recipe::read(&mut fields);
        Ok(fields.finish("is no field of a recipe").settle(recipe)?)
    }
}

/// The output's folder.
struct Place {
    folder: PathBuf,
    checkpoint: PathBuf,
}

impl Place {
    fn new(folder: PathBuf) -> Self {
        Self {
            checkpoint: folder.join(HIDDEN).join(CHECKPOINT),
            folder,
        }
    }

    /// Refuses to write over a model.
    fn check(&self) -> anyhow::Result<()> {
        let model = self.folder.join(MODEL);
        if model.exists() && !self.checkpoint.exists() {
            bail!("{} is there already: name another folder", model.display());
        }
        Ok(())
    }

    fn name(path: &Path) -> String {
        path.display().to_string()
    }

    /// The checkpoint of an earlier run of the same command.
    fn read(&self) -> anyhow::Result<Option<Checkpoint>> {
        let name = || Self::name(&self.checkpoint);
        match fs::read(&self.checkpoint) {
            Ok(bytes) => Ok(Some(Checkpoint::from_bytes(&bytes).with_context(name)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(name),
        }
    }

    fn keep(&self, checkpoint: &Checkpoint) -> anyhow::Result<()> {
        let folder = self.folder.join(HIDDEN);
        fs::create_dir_all(&folder).with_context(|| Self::name(&folder))?;
        write_file(&self.checkpoint, &checkpoint.to_bytes()?)
    }

    /// Writes the model, model.onnx last, and takes the checkpoint away.
    fn finish(&self, trainer: &Trainer, checkpoint: &Checkpoint) -> anyhow::Result<()> {
        let mut files = trainer.model(checkpoint)?;
        files.sort_by_key(|file| file.name == MODEL);
        for file in files {
            write_file(&self.folder.join(file.name), &file.bytes)?;
        }
        let hidden = self.folder.join(HIDDEN);
        fs::remove_dir_all(&hidden).with_context(|| Self::name(&hidden))
    }
}

fn read_targets(path: &Path) -> anyhow::Result<Array2<f32>> {
    let name = || Place::name(path);
    let tensor = read_npy(&fs::read(path).with_context(name)?).with_context(name)?;
    tensor.into_dimensionality().with_context(name)
}

async fn start(
    app: &App,
    recipe: Recipe,
    model: Arc<Model>,
    dataset: Arc<Dataset>,
    targets: Option<Array2<f32>>,
) -> anyhow::Result<Trainer> {
    let (of, to, new_head) = (dataset.clone(), model.clone(), recipe.new_head);
    let examples = move || match targets {
        None => Examples::labelled(&of, &to, new_head),
        Some(logits) => Examples::towards(&of, &logits),
    };
    let examples = app.pool().run(examples).await??;
    let left_out = examples.left_out.clone();
    let trainer = Trainer::new(recipe, model, dataset, examples, app.training()).await?;
    let (images, kept_back) = trainer.images();
    tell(format_args!(
        "training on {images} images, {kept_back} more are kept back to judge by; left out: {} without a label, {} that cannot be decoded; Ctrl-C breaks off",
        left_out.unlabelled, left_out.unreadable
    ));
    for file in &left_out.files {
        tell(format_args!("left out: {file} cannot be decoded"));
    }
    Ok(trainer)
}

async fn train(trainer: &Trainer, place: &Place) -> anyhow::Result<()> {
    let mut checkpoint = match place.read()? {
        None => trainer.start(),
        Some(kept) => {
            trainer.check(&kept).with_context(|| {
                let hidden = place.folder.join(HIDDEN);
                format!("{}: remove it, or name another folder", hidden.display())
            })?;
            tell(format_args!("going on after epoch {}", kept.epoch()));
            kept
        }
    };
    let caller = Caller::new(Priority::Job, None);
    let (mut interrupt, mut terminate) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    let cancel = caller.cancel.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        cancel.cancel();
    });
    let (images, kept_back) = trainer.images();
    while !checkpoint.is_last() {
        let (done, started) = (checkpoint.epoch(), Instant::now());
        // Draws nothing when standard error is not a terminal.
        let bar = ProgressBar::new((images + kept_back) as u64);
        let template = "{bar:40} {pos}/{len} images, {eta} left in epoch {msg}";
        bar.set_style(ProgressStyle::with_template(template)?);
        bar.set_message((done + 1).to_string());
        let ended = trainer
            .epoch(checkpoint, &caller, |images| bar.set_position(images))
            .await;
        bar.finish_and_clear();
        let (next, report) = match ended {
            Err(TrainingError::Engine(EngineError::Cancelled)) => {
                tell(format_args!(
                    "broken off in epoch {}; the same command goes on there (kept in {})",
                    done + 1,
                    place.folder.join(HIDDEN).display()
                ));
                exit(INTERRUPTED);
            }
            Err(error) if done > 0 => {
                return Err(error).with_context(|| {
                    let kept = place.checkpoint.display();
                    format!("the weights after epoch {done} are kept in {kept}")
                });
            }
            ended => ended?,
        };
        say(line(&report, started.elapsed().as_secs_f64()))?;
        checkpoint = next;
        tokio::task::block_in_place(|| place.keep(&checkpoint))?;
    }
    let (epoch, stopped) = (checkpoint.result_epoch(), checkpoint.epoch());
    tokio::task::block_in_place(|| place.finish(trainer, &checkpoint))?;
    tell(format_args!(
        "{}: the weights of epoch {epoch} of {stopped}; a running server takes the model at SIGHUP or when it is restarted",
        place.folder.display()
    ));
    Ok(())
}

fn line(report: &EpochReport, seconds: f64) -> String {
    let part = |name: &str, value: Option<f64>| {
        value.map_or_else(String::new, |value| format!(", {name} {value:.4}"))
    };
    format!(
        "epoch {}: loss {:.4}{}{}{} ({seconds:.0} s)",
        report.epoch,
        report.loss,
        part("accuracy", report.accuracy),
        part("validation loss", report.validation_loss),
        part("validation accuracy", report.validation_accuracy),
    )
}
