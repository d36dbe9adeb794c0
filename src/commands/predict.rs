//! `explaind predict`: the top classes of images without a server, by the same code as POST
//! /predict.

use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, ValueEnum};
use explaind::{
    app::{App, Input, Predicted, answer::ClassScore, plan::PredictPlan},
    engine::{Caller, Priority},
};
use futures::{StreamExt, stream};
use serde::Serialize;
use serde_json::{Map, json};

use super::{
    ModelArgs, Predicts,
    images::{Source, Sources, tell_failed},
    pair, say, warn,
};

/// Images in progress at once.
const AT_ONCE: usize = 4;

#[derive(Args)]
pub(crate) struct Predict {
    /// PNG, JPEG, WebP, BMP, GIF or TIFF files; .npy files of floats in the model's input space or
    /// of uint8 pixels; folders, with their sub-folders; - for standard input
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// How many classes
    #[arg(short = 'k', long, value_name = "N", default_value_t = explaind::app::plan::DEFAULT_TOP_K)]
    top_k: usize,
    /// text, or json: for each input a line with file, model, predictions and warnings
    #[arg(short, long, value_enum, default_value = "text")]
    format: Form,
    #[command(flatten)]
    model: ModelArgs<Predicts>,
    /// What else POST /predict takes, such as output=NAME, input_size=320x240 or inputs.NAME=2;
    /// repeatable
    #[arg(short, long = "parameter", value_name = "NAME=VALUE", value_parser = pair)]
    parameters: Vec<(String, String)>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    Text,
    Json,
}

impl Predict {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let sources = Sources::of(&self.images)?;
        let app = self.model.app()?;
        let mut given = Map::from_iter([("top_k".to_owned(), json!(self.top_k))]);
        for (name, value) in self.parameters {
            if given.insert(name.clone(), value.into()).is_some() {
                bail!("{name} is given twice");
            }
        }
        let plan = app.plan_prediction(given)?;
        let runtime = tokio::runtime::Runtime::new()?;
        let predict = async |source| (source, predict(&app, &plan, source).await);
        let mut answers = stream::iter(&sources.all).map(predict).buffered(AT_ONCE);
        let (mut told, mut failed) = (std::collections::HashSet::new(), 0);
        while let Some((source, answer)) = runtime.block_on(answers.next()) {
            match answer {
                Ok(answers) => {
                    let warnings = answers.iter().flat_map(|one| &one.warnings);
                    warnings
                        .filter(|warning| told.insert((*warning).clone()))
                        .for_each(warn);
                    for (place, one) in answers.iter().enumerate() {
                        let name = match answers.len() {
                            1 => source.shown(),
                            _ => format!("{} [{place}]", source.shown()),
                        };
                        match self.format {
                            Form::Text => say(text(&name, one))?,
                            Form::Json => say(line(&name, &plan, one)?)?,
                        }
                    }
                }
                Err(error) if !sources.are_many => return Err(error.context(source.shown())),
                Err(error) => {
                    tell_failed(source, &error);
                    failed += 1;
                }
            }
        }
        match failed {
            0 => Ok(()),
            failed => bail!(
                "{failed} of {} images could not be classified",
                sources.all.len()
            ),
        }
    }
}

async fn predict(app: &App, plan: &PredictPlan, source: &Source) -> anyhow::Result<Vec<Predicted>> {
    let input = vec![Input::of(source.read()?.into())];
    let caller = Caller::new(Priority::Interactive, None);
    Ok(app.predict(plan, input, &caller).await?)
}

fn text(name: &str, predicted: &Predicted) -> String {
    let lines = predicted.predictions.iter().map(|one| {
        let label = one
            .label
            .as_ref()
            .map_or_else(String::new, |label| format!("  {label}"));
        format!("\n  {:.4}  {:>5}{label}", one.score, one.index)
    });
    format!("{name}{}", lines.collect::<String>())
}

#[derive(Serialize)]
struct Line<'a> {
    file: &'a str,
    model: &'a str,
    predictions: Vec<ClassScore>,
    warnings: &'a [String],
}

fn line(file: &str, plan: &PredictPlan, predicted: &Predicted) -> serde_json::Result<String> {
    let predictions = predicted.predictions.iter().map(ClassScore::from).collect();
    serde_json::to_string(&Line {
        file,
        model: &plan.model.id,
        predictions,
        warnings: &predicted.warnings,
    })
}
