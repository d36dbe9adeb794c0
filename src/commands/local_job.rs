//! Jobs that a command runs without a server: sets of images by their folders, a queue that no
//! server reads, progress, reports. An interrupted run is resumed.

use std::{
    path::{Path, PathBuf},
    process::exit,
    sync::OnceLock,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
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

use super::{Benchmarks, ModelArgs, say, tell, write_file};

/// The exit code of a command that SIGINT ended, as in shells.
const INTERRUPTED: i32 = 130;

/// A report to write.
pub(super) type Output = (PathBuf, Format);

/// A job, and what is said of it.
pub(super) struct LocalJob {
    /// The body of POST /jobs.
    pub asked: Map<String, Value>,
    pub outputs: Vec<Output>,
    /// One of what the job counts.
    pub unit: &'static str,
    /// What it is called where it fails.
    pub name: &'static str,
    /// Prints its result.
    pub print: fn(&Value) -> anyhow::Result<()>,
}

impl LocalJob {
    pub(super) fn run(
        self,
        model: &ModelArgs<Benchmarks>,
        settings: Settings,
    ) -> anyhow::Result<()> {
        let data = settings.data.clone();
        let app = model.app_with(settings)?;
        let runtime = tokio::runtime::Runtime::new()?;
        runtime.block_on(async {
            app.catch_up().await;
            let asked = self.asked.clone();
            let (kind, plan) = Queue::new(app.clone(), KINDS).plan(asked).await?;
            let Value::Object(mut settled) = plan.spec else {
                bail!("the job's request is no object")
            };
            settled.insert("kind".to_owned(), json!(kind.id()));
            // The same job on the same files has the same key, and is resumed.
            let key: String = Sha256::digest(serde_json::to_vec(&settled)?)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            let folder = data.join("bench").join(&key);
            std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
            let queue = Queue::in_folder(app, KINDS, folder.clone());
            let ended = self.follow(&queue, settled, key, &folder).await;
            // A finished job, whether it succeeded or not, is not resumed.
            std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
            ended
        })
    }

    async fn follow(
        &self,
        queue: &Queue,
        settled: Map<String, Value>,
        key: String,
        folder: &Path,
    ) -> anyhow::Result<()> {
        let unit = self.unit;
        // Draws nothing when standard error is not a terminal.
        let bar = ProgressBar::new(0);
        bar.set_style(ProgressStyle::with_template(&format!(
            "{{bar:40}} {{pos}}/{{len}} {unit}s, {{msg}}",
        ))?);
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
                    counted(job.units as usize, unit),
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
                "broken off after {} of {} {unit}s; the same command goes on there (kept in {})",
                job.units_done,
                job.units,
                folder.display()
            ));
            exit(INTERRUPTED);
        }
        let told = self.tell_end(queue, &job).await;
        queue.delete(&job.id).await?;
        told
    }

    /// Writes the reports of a job that has ended, and prints what was measured.
    async fn tell_end(&self, queue: &Queue, job: &Job) -> anyhow::Result<()> {
        let status = queue.status(&job.id).await?;
        if job.state != JobState::Succeeded {
            let mut faults = Vec::from_iter(job.error.clone());
            for fault in status.errors {
                // That of the job tells the fault of the shard that ended it.
                if !faults.iter().any(|told| told.contains(&fault.error)) {
                    faults.push(fault.error);
                }
            }
            let faults = faults.join("\n  ");
            bail!("the {} {}:\n  {faults}", self.name, job.state.name());
        }
        for (path, format) in &self.outputs {
            let bytes = match queue.report(job, *format).await? {
                Report::Bytes(bytes) => bytes,
                Report::File(file) => queue.app().files().read(&file).await?,
            };
            write_file(path, &bytes)?;
        }
        (self.print)(status.result.as_deref().unwrap_or(&Value::Null))?;
        for (path, _) in &self.outputs {
            say(format_args!("report: {}", path.display()))?;
        }
        Ok(())
    }
}

/// The budget, where there is one.
fn within(settled: &Value) -> String {
    let words = |budget: u64| format!(", within {budget} evaluations");
    settled["budget"].as_u64().map(words).unwrap_or_default()
}

/// The id of the set that a folder, the ID of a set, or ID=FOLDER names. A folder is added to the
/// settings.
pub(super) fn dataset_id(named: &str, settings: &mut Settings) -> anyhow::Result<String> {
    if let Some((id, folder)) = named.split_once('=') {
        return add_dataset(id, Path::new(folder), settings);
    }
    let is_known = || {
        settings.dataset.contains_key(named) || settings.data.join("datasets").join(named).is_dir()
    };
    let folder = Path::new(named);
    if is_id(named) && (is_known() || !folder.is_dir()) {
        return Ok(named.to_owned());
    }
    let folder = folder.canonicalize().with_context(|| named.to_owned())?;
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let id: String = name
        .chars()
        .map(|c| if is_id(&format!("x{c}")) { c } else { '_' })
        .collect();
    let id = id.trim_start_matches('.');
    add_dataset(if is_id(id) { id } else { "images" }, &folder, settings)
}

pub(super) fn add_dataset(
    id: &str,
    folder: &Path,
    settings: &mut Settings,
) -> anyhow::Result<String> {
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
pub(super) fn format_of(path: &Path, kind: &str) -> anyhow::Result<Format> {
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
