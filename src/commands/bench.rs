//! `explaind bench`: metrics of methods without a server, run as the same job as POST /jobs. It uses
//! a job queue of its own that no server reads. An interrupted run is resumed.

use std::{
    path::{Path, PathBuf},
    process::exit,
    sync::OnceLock,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::Args;
use explaind::{
    dataset::is_id,
    jobs::{
        Format, Report, local,
        queue::Queue,
        registry::{self, KINDS},
        store::{Job, JobState},
    },
    settings::Settings,
    text::counted,
};
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tokio::signal::unix::{SignalKind, signal};

use super::{Benchmarks, ModelArgs, findings, json_or_text, method, pair, say, tell, write_file};

/// The exit code of a command that SIGINT ended, as in shells.
const INTERRUPTED: i32 = 130;

#[derive(Args)]
pub(crate) struct Bench {
    /// The images to measure on: a folder, the ID of a data set, or ID=FOLDER
    #[arg(value_name = "DATASET")]
    images: Option<String>,
    /// As DATASET, or further sets as ID=FOLDER, which baselines may be drawn from; repeatable.
    /// Without DATASET the last is measured
    #[arg(short, long = "dataset", value_name = "DATASET")]
    datasets: Vec<String>,
    /// Methods to compare; each may be followed by its parameters and score, as in "pgig
    /// pattern_layers=all,gradient score=absolute"; or "all" that the model supports
    #[arg(long, required = true, value_delimiter = ',', value_name = "METHOD [NAME=VALUE]...", value_parser = method)]
    methods: Vec<Value>,
    /// Metrics, each of which may be followed by its parameters, as in "degradation
    /// steps=50,sparseness" [default: degradation, whose parameters are then given by --parameter]
    #[arg(long, value_delimiter = ',', value_name = "METRIC [NAME=VALUE]...", value_parser = method)]
    metrics: Vec<Value>,
    /// Most images to measure, drawn at random by the parameter seed [default: all]
    #[arg(short, long, value_name = "N")]
    limit: Option<u64>,
    /// Most evaluations: fewer images are drawn where all would cost more [default: no bound]
    #[arg(short, long, value_name = "N", requires = "metrics")]
    budget: Option<u64>,
    /// Any other parameter of the job: steps, grid, order, replacement, labels, seed, compat;
    /// repeatable
    #[arg(short, long = "parameter", value_name = "NAME=VALUE", value_parser = pair)]
    parameters: Vec<(String, String)>,
    /// A report to write: .html, .json, .csv, .svg or .png, and with --metrics the values of single
    /// images as .tidy.csv or .tidy.jsonl; repeatable
    #[arg(short, long, value_name = "FILE", default_value = "report.html")]
    output: Vec<PathBuf>,
    #[command(flatten)]
    model: ModelArgs<Benchmarks>,
}

impl Bench {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let kind = match self.metrics.is_empty() {
            true => "degradation",
            false => "evaluate",
        };
        let formats = self
            .output
            .iter()
            .map(|path| Ok((path.clone(), format_of(path, kind)?)))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let mut settings = self.model.settings()?;
        let mut asked = Map::from_iter([
            ("kind".to_owned(), json!(kind)),
            (
                "dataset".to_owned(),
                json!(take_dataset(self.images, self.datasets, &mut settings)?),
            ),
            ("methods".to_owned(), all_or_some(self.methods)),
        ]);
        if !self.metrics.is_empty() {
            asked.insert("metrics".to_owned(), Value::Array(self.metrics));
        }
        for (name, number) in [("limit", self.limit), ("budget", self.budget)] {
            asked.extend(number.map(|number| (name.to_owned(), json!(number))));
        }
        for (name, value) in self.parameters {
            if asked.insert(name.clone(), json_or_text(&value)).is_some() {
                bail!("{name} is given twice");
            }
        }
        let data = settings.data.clone();
        let app = self.model.app_with(settings)?;
        let runtime = tokio::runtime::Runtime::new()?;
        runtime.block_on(async {
            app.catch_up().await;
            let (kind, plan) = Queue::new(app.clone(), KINDS).plan(asked).await?;
            let Value::Object(mut settled) = plan.spec else {
                bail!("the job's request is no object")
            };
            settled.insert("kind".to_owned(), json!(kind.id()));
            // The same comparison of the same files has the same key, and is resumed.
            let key: String = Sha256::digest(serde_json::to_vec(&settled)?)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            let folder = data.join("bench").join(&key);
            std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
            let queue = Queue::in_folder(app, KINDS, folder.clone());
            let ended = compare(&queue, settled, key, &folder, &formats).await;
            // A finished job, whether it succeeded or not, is not resumed.
            std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
            ended
        })
    }
}

/// The methods as a request names them.
fn all_or_some(methods: Vec<Value>) -> Value {
    match methods.as_slice() {
        [only] if *only == json!({ "id": "all" }) => json!("all"),
        _ => Value::Array(methods),
    }
}

/// The id of the set that is meant. Sets given with their folders are added to the settings.
pub(super) fn take_dataset(
    images: Option<String>,
    mut named: Vec<String>,
    settings: &mut Settings,
) -> anyhow::Result<String> {
    let Some(measured) = images.or_else(|| named.pop()) else {
        bail!("name the images to measure on: a folder, the ID of a data set, or ID=FOLDER");
    };
    for text in &named {
        let Some((id, folder)) = text.split_once('=') else {
            bail!(
                "--dataset {text}: one set is measured; name others, which baselines are drawn from, as ID=FOLDER"
            );
        };
        add_dataset(id, Path::new(folder), settings)?;
    }
    if let Some((id, folder)) = measured.split_once('=') {
        return add_dataset(id, Path::new(folder), settings);
    }
    let is_known = || {
        settings.dataset.contains_key(&measured)
            || settings.data.join("datasets").join(&measured).is_dir()
    };
    let folder = Path::new(&measured);
    if is_id(&measured) && (is_known() || !folder.is_dir()) {
        return Ok(measured);
    }
    let folder = folder.canonicalize().with_context(|| measured.clone())?;
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let id: String = name
        .chars()
        .map(|c| if is_id(&format!("x{c}")) { c } else { '_' })
        .collect();
    let id = id.trim_start_matches('.');
    add_dataset(if is_id(id) { id } else { "images" }, &folder, settings)
}

fn add_dataset(id: &str, folder: &Path, settings: &mut Settings) -> anyhow::Result<String> {
    if !is_id(id) {
        bail!("{id:?} is no name of a data set: letters, digits, _, - and . are allowed");
    }
    if !folder.is_dir() {
        bail!("{}: there is no such folder", folder.display());
    }
    settings.dataset.insert(id.to_owned(), folder.to_owned());
    Ok(id.to_owned())
}

/// The format of a report of this kind of job, by the name of its file.
fn format_of(path: &Path, kind: &str) -> anyhow::Result<Format> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let formats = registry::find(KINDS, kind).map_or(&[][..], |kind| kind.formats());
    let format = Format::of_file(&name);
    if matches!(format, Some(Format::TidyCsv | Format::TidyJsonl)) && kind != "evaluate" {
        bail!(
            "{}: values of single images are told with --metrics (for example --metrics degradation)",
            path.display()
        );
    }
    let format = format.filter(|format| formats.contains(format));
    format.with_context(|| {
        let ends = formats.iter().map(|format| format!(".{}", format.name()));
        format!(
            "{}: a report's name must end in {}",
            path.display(),
            ends.collect::<Vec<_>>().join(", ")
        )
    })
}

async fn compare(
    queue: &Queue,
    settled: Map<String, Value>,
    key: String,
    folder: &Path,
    outputs: &[(PathBuf, Format)],
) -> anyhow::Result<()> {
    // Draws nothing when standard error is not a terminal.
    let bar = ProgressBar::new(0);
    bar.set_style(ProgressStyle::with_template(
        "{bar:40} {pos}/{len} images, {msg}",
    )?);
    let (mut interrupt, mut terminate) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    let stop = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    let told = OnceLock::new();
    // The rate is measured when a shard is done; in between, the time left is counted down.
    let mut measured: Option<(u64, f64, Instant)> = None;
    let job = local::run_until(stop, queue, settled, Some(key), |job, left| {
        told.get_or_init(|| {
            tell(format_args!(
                "measuring {}{}; Ctrl-C breaks off",
                counted(job.units as usize, "image"),
                within(&job.spec)
            ))
        });
        bar.set_length(job.units);
        bar.set_position(job.units_done);
        if let Some(left) =
            left.filter(|_| measured.is_none_or(|(parts, ..)| parts != job.shards_done))
        {
            measured = Some((job.shards_done, left, Instant::now()));
        }
        bar.set_message(match measured {
            Some((_, left, at)) => {
                let left = Duration::from_secs_f64(left)
                    .saturating_sub(at.elapsed())
                    .as_secs();
                format!(
                    "about {} left",
                    HumanDuration(Duration::from_secs(left.max(1)))
                )
            }
            None => "the time left is not known yet".to_owned(),
        });
    })
    .await?;
    bar.finish_and_clear();
    if !job.state.is_final() {
        tell(format_args!(
            "broken off after {} of {} images; the same command goes on there (kept in {})",
            job.units_done,
            job.units,
            folder.display()
        ));
        exit(INTERRUPTED);
    }
    let told = tell_end(queue, &job, outputs).await;
    queue.delete(&job.id).await?;
    told
}

/// Writes the reports of a job that has ended, and prints what was measured.
async fn tell_end(queue: &Queue, job: &Job, outputs: &[(PathBuf, Format)]) -> anyhow::Result<()> {
    let status = queue.status(&job.id).await?;
    if job.state != JobState::Succeeded {
        let errors = status.errors.into_iter().map(|fault| fault.error);
        let faults = job
            .error
            .clone()
            .into_iter()
            .chain(errors)
            .collect::<Vec<_>>()
            .join("\n  ");
        bail!("the benchmark {}:\n  {faults}", job.state.name());
    }
    for (path, format) in outputs {
        let bytes = match queue.report(job, *format).await? {
            Report::Bytes(bytes) => bytes,
            Report::File(file) => queue.app().files().read(&file).await?,
        };
        write_file(path, &bytes)?;
    }
    print(status.result.as_deref().unwrap_or(&Value::Null))?;
    for (path, _) in outputs {
        say(format_args!("report: {}", path.display()))?;
    }
    Ok(())
}

/// The budget, where there is one.
fn within(settled: &Value) -> String {
    let words = |budget: u64| format!(", within {budget} evaluations");
    settled["budget"].as_u64().map(words).unwrap_or_default()
}

/// Prints what was measured.
fn print(result: &Value) -> anyhow::Result<()> {
    let skipped = result["skipped"].as_object().into_iter().flatten();
    let skipped: Vec<String> = skipped
        .map(|(reason, count)| format!("{count} {}", reason.replace('_', " ")))
        .collect();
    let left_out = if skipped.is_empty() {
        "none".to_owned()
    } else {
        skipped.join(", ")
    };
    let used = result["used"].as_u64().unwrap_or_default();
    say(format_args!(
        "{} measured; left out: {left_out}",
        counted(used as usize, "image")
    ))?;
    match result["metrics"].as_array().map(Vec::as_slice) {
        Some([only]) => {
            say(text(only, "title"))?;
            print_rows(only, "value")
        }
        Some(_) => findings::print(&serde_json::from_value(result.clone())?),
        None => print_rows(result, "area"),
    }
}

/// Prints the rows of a metric, the best first.
fn print_rows(metric: &Value, name: &str) -> anyhow::Result<()> {
    let better = text(metric, "better");
    let mut rows: Vec<&Value> = metric["rows"].as_array().into_iter().flatten().collect();
    let value = |row: &Value| row[name].as_f64().unwrap_or(f64::NAN);
    rows.sort_by(|one, other| value(one).total_cmp(&value(other)));
    if better == "higher" {
        rows.reverse();
    }
    let width = rows
        .iter()
        .map(|row| text(row, "title").chars().count())
        .max()
        .unwrap_or_default()
        .max("method".len());
    if !rows.is_empty() {
        say(format_args!(
            "{:width$}  {name:5}  95 % interval   ({better} is better)",
            "method"
        ))?;
    }
    for row in rows {
        let [low, high] = [0, 1].map(|end| row["interval"][end].as_f64().unwrap_or(f64::NAN));
        say(format_args!(
            "{:width$}  {:.3}  {low:.3} to {high:.3}",
            text(row, "title"),
            value(row)
        ))?;
    }
    Ok(())
}

fn text<'a>(object: &'a Value, name: &str) -> &'a str {
    object[name].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use explaind::settings::{Flags, load};

    use super::*;

    #[test]
    fn a_data_set_is_a_folder_an_id_or_both() {
        let folder = tempfile::tempdir().unwrap();
        let photos = folder.path().join("my photos");
        std::fs::create_dir(&photos).unwrap();
        let photos = photos.display().to_string();
        let take = |images: Option<&str>, named: &[&str]| {
            let mut settings = load(&Flags::default(), []).unwrap();
            settings
                .dataset
                .insert("known".to_owned(), "/srv/known".into());
            let named = named.iter().map(|text| (*text).to_owned()).collect();
            let id = take_dataset(images.map(str::to_owned), named, &mut settings)
                .map_err(|error| error.to_string())?;
            let folder = settings
                .dataset
                .get(&id)
                .map(|folder| folder.display().to_string());
            Ok::<_, String>((id, folder.unwrap_or_default()))
        };
        let given = format!("a={photos}");
        assert_eq!(take(Some(&photos), &[]).unwrap().0, "my_photos");
        assert_eq!(
            take(Some(&given), &[]).unwrap(),
            ("a".to_owned(), photos.clone())
        );
        assert_eq!(
            take(None, &[&given, "known"]).unwrap(),
            ("known".to_owned(), "/srv/known".to_owned())
        );
        assert_eq!(
            take(None, &["uploaded"]).unwrap(),
            ("uploaded".to_owned(), String::new())
        );
        for (images, named, part) in [
            (None, &[][..], "name the images"),
            (Some("known"), &["other"], "as ID=FOLDER"),
            (Some("a=/nowhere"), &[], "no such folder"),
            (Some("no/where"), &[], "no/where"),
            (Some("a b=/tmp"), &[], "letters, digits"),
        ] {
            let error = take(images, named).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
