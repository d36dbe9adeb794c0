//! `explaind bench`: the degradation benchmark without a server, by the job that POST /jobs runs. One that was broken off goes on where it was.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use explaind::{
    app::App,
    jobs::{Format, Report, local, queue::Queue, registry::KINDS, store::JobState},
};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::ModelArgs;

const DATASET: &str = "dataset";

/// The images: `--dataset ID` or `--dataset ID=FOLDER`.
#[derive(Args)]
pub struct Bench {
    #[command(flatten)]
    model: ModelArgs,
    /// Methods to compare; each may be followed by its parameters and score, as in "pgig pattern_layers=all,gradient score=absolute"
    #[arg(long, required = true, value_delimiter = ',', value_name = "METHOD [NAME=VALUE]...", value_parser = method)]
    methods: Vec<Value>,
    /// Any other parameter of the job: steps, grid, order, replacement, limit, labels, seed, compat; repeatable
    #[arg(short, long = "parameter", value_name = "NAME=VALUE", value_parser = pair)]
    parameters: Vec<(String, Value)>,
    /// A report to write: .html, .json, .csv, .svg or .png; repeatable
    #[arg(short, long, value_name = "FILE", default_value = "report.html")]
    output: Vec<PathBuf>,
}

fn pair(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    Ok((name.to_owned(), serde_json::from_str(value).unwrap_or_else(|_| json!(value))))
}

fn method(text: &str) -> Result<Value, String> {
    let mut words = text.split_whitespace();
    let id = words.next().ok_or("a method's id is missing")?;
    let mut entry = Map::from_iter([("id".to_owned(), json!(id))]);
    for word in words {
        let (name, value) = pair(word)?;
        if entry.insert(name.clone(), value).is_some() {
            return Err(format!("{name} is given twice"));
        }
    }
    Ok(Value::Object(entry))
}

impl Bench {
    pub fn run(mut self) -> anyhow::Result<()> {
        let formats =
            self.output.iter().map(|path| Ok((path.clone(), format_of(path)?))).collect::<anyhow::Result<Vec<_>>>()?;
        let dataset = self.take_dataset()?;
        let mut asked = Map::from_iter([
            ("kind".to_owned(), json!("degradation")),
            (DATASET.to_owned(), json!(dataset)),
            ("methods".to_owned(), Value::Array(self.methods)),
        ]);
        asked.extend(self.model.model.clone().map(|model| ("model".to_owned(), json!(model))));
        for (name, value) in self.parameters {
            if asked.insert(name.clone(), value).is_some() {
                bail!("{name} is given twice");
            }
        }
        let queue = Queue::new(App::start(self.model.settings()?)?, KINDS);
        tokio::runtime::Runtime::new()?.block_on(compare(&queue, asked, &formats))
    }

    /// The set that is named last. One that the settings do not know yet is named with its folder, and is a setting too.
    fn take_dataset(&mut self) -> anyhow::Result<String> {
        let given = self.model.flags.values.remove(DATASET).unwrap_or_default();
        let (folders, ids): (Vec<&str>, Vec<&str>) =
            given.split(',').filter(|text| !text.is_empty()).partition(|text| text.contains('='));
        let named = given.rsplit(',').next().unwrap_or_default();
        let id = named.split('=').next().unwrap_or_default().to_owned();
        if id.is_empty() || ids.len() > 1 {
            bail!("--dataset: name one set of images, as ID or ID=FOLDER");
        }
        if !folders.is_empty() {
            self.model.flags.values.insert(DATASET.to_owned(), folders.join(","));
        }
        Ok(id)
    }
}

fn format_of(path: &std::path::Path) -> anyhow::Result<Format> {
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    let format = Format::ALL.into_iter().find(|format| format.name() == extension && *format != Format::Zip);
    format.with_context(|| format!("{}: a report's name must end in .html, .json, .csv, .svg or .png", path.display()))
}

async fn compare(queue: &Queue, asked: Map<String, Value>, outputs: &[(PathBuf, Format)]) -> anyhow::Result<()> {
    queue.app().catch_up().await;
    let (kind, plan) = queue.plan(asked).await?;
    let Value::Object(mut settled) = plan.spec else { bail!("the job's request is no object") };
    settled.insert("kind".to_owned(), json!(kind.id()));
    // The same comparison of the same files has the same key.
    let key: String = Sha256::digest(serde_json::to_vec(&settled)?).iter().map(|byte| format!("{byte:02x}")).collect();
    // Draws nothing when standard error is no terminal.
    let bar = ProgressBar::new(0);
    bar.set_style(ProgressStyle::with_template("{bar:40} {pos}/{len} images, {eta} left")?);
    let job = local::run(queue, settled, Some(format!("bench-{key}")), |job| {
        bar.set_length(job.units);
        bar.set_position(job.units_done);
    })
    .await?;
    bar.finish_and_clear();
    if job.state != JobState::Succeeded {
        let errors = queue.look(&job.id).await?.errors.into_iter().map(|fault| fault.error);
        let faults = job.error.into_iter().chain(errors).collect::<Vec<_>>().join("\n  ");
        bail!("the benchmark {}:\n  {faults}", job.state.name());
    }
    for (path, format) in outputs {
        let bytes = match queue.report(&job, *format).await? {
            Report::Bytes(bytes) => bytes,
            Report::File(file) => queue.app().files().read(&file).await?,
        };
        std::fs::write(path, bytes).with_context(|| path.display().to_string())?;
        println!("{}", path.display());
    }
    Ok(())
}
