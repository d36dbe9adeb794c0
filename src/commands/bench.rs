//! `explaind bench`: metrics of methods without a server, run as the same job as POST /jobs.

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Args;
use explaind::{settings::Settings, text::counted};
use serde_json::{Map, Value, json};

use super::{
    Benchmarks, ModelArgs, findings, json_or_text,
    local_job::{LocalJob, add_dataset, dataset_id, format_of},
    method, pair, say,
};

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
    /// Any other parameter of the job: steps, grid, order, replacement, role, labels, seed,
    /// compat; repeatable
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
        let outputs = self
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
        let job = LocalJob {
            asked,
            outputs,
            unit: "image",
            name: "benchmark",
            print,
        };
        job.run(&self.model, settings)
    }
}

/// The methods as a request names them.
fn all_or_some(methods: Vec<Value>) -> Value {
    match methods.as_slice() {
        [only] if *only == json!({ "id": "all" }) => json!("all"),
        _ => Value::Array(methods),
    }
}

/// The id of the set to measure. Sets given with their folders are added to the settings.
fn take_dataset(
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
    dataset_id(&measured, settings)
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
            "{:width$}  {name:5}  95 % interval{}",
            "method",
            match better {
                "neither" => String::new(),
                _ => format!("   ({better} is better)"),
            }
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
