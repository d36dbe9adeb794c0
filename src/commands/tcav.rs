//! `explaind tcav`: concept activation vectors without a server, run as the same job as POST /jobs.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use explaind::{
    evaluation::findings::fixed,
    tcav::findings::{Scores, TcavFindings, rounded},
};
use serde_json::{Map, Value, json};

use super::{
    Benchmarks, ModelArgs, json_or_text,
    local_job::{LocalJob, dataset_id, format_of},
    pair, say,
};

const KIND: &str = "tcav";

#[derive(Args)]
pub(crate) struct Tcav {
    /// Images of the class: a folder, the ID of a data set, or ID=FOLDER
    #[arg(value_name = "DATASET")]
    images: String,
    /// The label or the index of the class; its images are those that are labelled so
    #[arg(short, long, value_name = "CLASS")]
    class: String,
    /// Images of the concept, as DATASET [default: those of DATASET with the role concept]
    #[arg(long, value_name = "DATASET")]
    concept: Option<String>,
    /// Images of anything, as DATASET [default: those of DATASET with the role random]
    #[arg(long, value_name = "DATASET")]
    random: Option<String>,
    /// A layer to test; repeatable [default: some of those that Grad-CAM can use, and the input of
    /// the last layer with weights]
    #[arg(long = "layer", value_name = "NAME")]
    layers: Vec<String>,
    /// Any other parameter of the job: n_random, images_per_set, limit, p, regularisation, seed;
    /// repeatable
    #[arg(short, long = "parameter", value_name = "NAME=VALUE", value_parser = pair)]
    parameters: Vec<(String, String)>,
    /// A report to write: .html, .json, .csv, .svg or .png; repeatable
    #[arg(short, long, value_name = "FILE", default_value = "tcav.html")]
    output: Vec<PathBuf>,
    #[command(flatten)]
    model: ModelArgs<Benchmarks>,
}

impl Tcav {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let outputs = self
            .output
            .iter()
            .map(|path| Ok((path.clone(), format_of(path, KIND)?)))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let mut settings = self.model.settings()?;
        let mut asked = Map::from_iter([
            ("kind".to_owned(), json!(KIND)),
            ("class".to_owned(), json!(self.class)),
        ]);
        let sets = [
            ("dataset", Some(self.images)),
            ("concept", self.concept),
            ("random", self.random),
        ];
        let mut named: Vec<(String, String)> = Vec::new();
        for (field, text) in sets {
            let Some(text) = text else { continue };
            let id = dataset_id(&text, &mut settings)?;
            if named
                .iter()
                .any(|(known, other)| *known == id && *other != text)
            {
                bail!("{text}: another folder is called {id} too; name this one as ID={text}");
            }
            asked.insert(field.to_owned(), json!(id));
            named.push((id, text));
        }
        if !self.layers.is_empty() {
            asked.insert("layers".to_owned(), json!(self.layers));
        }
        for (name, value) in self.parameters {
            if asked.insert(name.clone(), json_or_text(&value)).is_some() {
                bail!("{name} is given twice");
            }
        }
        let job = LocalJob {
            asked,
            outputs,
            unit: "evaluation",
            name: "test",
            print,
        };
        job.run(&self.model, settings)
    }
}

/// Prints the scores of each layer.
fn print(result: &Value) -> anyhow::Result<()> {
    let findings: TcavFindings = serde_json::from_value(result.clone())?;
    let names = findings
        .layers
        .iter()
        .map(|layer| layer.layer.chars().count());
    let width = names.max().unwrap_or_default().max("layer".len());
    say(format_args!(
        "{:width$}  score  random  p        accuracy",
        "layer"
    ))?;
    for layer in &findings.layers {
        let number = |scores: &Option<Scores>, of: fn(&Scores) -> f64| {
            let scores = scores.as_ref();
            scores.map_or_else(|| "-".to_owned(), |scores| fixed(of(scores), 3))
        };
        let p = layer
            .test
            .map_or_else(|| "-".to_owned(), |test| rounded(test.p));
        let verdict = layer.rejected.as_deref().map_or("", |_| "rejected");
        say(format_args!(
            "{:width$}  {:5}  {:6}  {p:7}  {:8}  {verdict}",
            layer.layer,
            number(&layer.concept, |scores| scores.mean),
            number(&layer.random, |scores| scores.mean),
            number(&layer.concept, |scores| scores.accuracy),
        ))?;
    }
    match (findings.score, findings.interval) {
        (Some(score), Some([low, high])) => say(format_args!(
            "TCAV score {} (95 % interval {} to {}), {} images of the class",
            fixed(score, 3),
            fixed(low, 3),
            fixed(high, 3),
            findings.images
        ))?,
        _ => say("no layer passes: there is no score")?,
    }
    for other in &findings.models {
        let number =
            |number: Option<f64>| number.map_or_else(|| "-".to_owned(), |one| fixed(one, 3));
        say(format_args!(
            "{}: score {}, MCS {}, of random vectors {}",
            other.model,
            number(other.score),
            number(other.mcs),
            number(other.random_mcs)
        ))?;
    }
    Ok(())
}
