//! The report of a training of supports: curves of the loss by epoch, one for each support (svg,
//! png), a table (csv), and a page with how near each came to its targets (html).

use std::error::Error;

use maud::{Markup, PreEscaped, html};
use plotters::prelude::RGBColor;
use serde_json::Value;

use super::{Judged, Spec, Trained, TrainedSupport};
use crate::{
    jobs::{
        Format,
        kinds::training::{
            figure::{self, Chart, Line, number},
            page::page,
        },
    },
    text::counted,
    training::EpochReport,
};

const PAPER: &str = "Mazini Rodrigues et al., Transforming gradient-based techniques into interpretable methods, 2024, section 4";
/// Of the support with the lowest alpha, and of that with the highest.
const COLORS: [[f64; 3]; 2] = [[0.0, 90.0, 181.0], [220.0, 80.0, 20.0]];

pub(super) fn write(
    kind: &str,
    spec: &Spec,
    request: &Value,
    trained: &Trained,
    format: Format,
) -> Result<Vec<u8>, Box<dyn Error>> {
    match format {
        Format::Csv => table(trained),
        Format::Svg => Ok(figure::svg(&charts(spec, trained))?.into_bytes()),
        Format::Png => figure::png(&charts(spec, trained)),
        _ => Ok(document(kind, spec, request, trained)?.into_bytes()),
    }
}

/// A line for each epoch of each support, and how near it came in the last.
fn table(trained: &Trained) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record([
        "alpha",
        "epoch",
        "learning_rate",
        "loss",
        "validation_loss",
        "mse_before",
        "mse_after",
        "agreement",
    ])?;
    let text = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
    for support in &trained.supports {
        let last = support.epochs.len();
        for (at, epoch) in support.epochs.iter().enumerate() {
            let judged = support.judged.filter(|_| at + 1 == last);
            writer.write_record([
                support.alpha.to_string(),
                epoch.epoch.to_string(),
                epoch.learning_rate.to_string(),
                epoch.loss.to_string(),
                text(epoch.validation_loss),
                text(judged.map(|judged| judged.mse_before)),
                text(judged.map(|judged| judged.mse_after)),
                text(judged.map(|judged| judged.agreement)),
            ])?;
        }
    }
    Ok(writer.into_inner()?)
}

/// Of the images trained on and, where there are some, of those kept back.
fn charts(spec: &Spec, trained: &Trained) -> Vec<Chart> {
    let steps = trained.supports.len().saturating_sub(1).max(1) as f64;
    let lines = |of: fn(&EpochReport) -> Option<f64>| {
        let line = |(at, support): (usize, &TrainedSupport)| Line {
            name: format!("α = {}", support.alpha),
            color: color(at as f64 / steps),
            dash: figure::WHOLE,
            points: figure::by_epoch(&support.epochs, of),
        };
        trained.supports.iter().enumerate().map(line).collect()
    };
    let title = format!("supports of {} trained on {}", spec.model, spec.dataset);
    let y = "mean squared error of the logits";
    let loss = Chart::of_epochs(title, y, None, lines(|epoch| Some(epoch.loss)));
    let kept_back = lines(|epoch| epoch.validation_loss);
    let validation = Chart::of_epochs(String::new(), "of the images kept back", None, kept_back);
    let has_points = |chart: &Chart| chart.lines.iter().any(|line| !line.points.is_empty());
    let validation = Some(validation).filter(has_points);
    [loss].into_iter().chain(validation).collect()
}

/// From that of the lowest alpha, 0, to that of the highest, 1.
fn color(part: f64) -> RGBColor {
    let [low, high] = COLORS;
    let [red, green, blue] =
        [0, 1, 2].map(|channel| (low[channel] + part * (high[channel] - low[channel])) as u8);
    RGBColor(red, green, blue)
}

fn document(
    kind: &str,
    spec: &Spec,
    request: &Value,
    trained: &Trained,
) -> Result<String, Box<dyn Error>> {
    let title = format!("Supports of {} on {}", spec.model, spec.dataset);
    let figure = figure::svg(&charts(spec, trained))?;
    let body = html! {
        p { (summary(spec, trained)) } "\n"
        div.wide { (PreEscaped(figure)) } "\n"
        (supports(trained))
    };
    Ok(page(&title, &body, (kind, request), Some(PAPER))?)
}

fn summary(spec: &Spec, trained: &Trained) -> Markup {
    let [first, second] = spec.classes;
    html! {
        @match &trained.set {
            Some(set) => { "The supports are used as the set " b { (set) } ". " }
            None => { b { "Partial results: the job has not run to its end." } " " }
        }
        "They move class " (first) " and class " (second) " apart, and were made with " (counted(trained.images[0], "image"))
        " of the one and " (trained.images[1]) " of the other. "
        (trained.left_out.unlabelled) " images without a label and " (trained.left_out.unreadable)
        " that cannot be decoded were left out."
    }
}

/// How near each came.
fn supports(trained: &Trained) -> Markup {
    html! {
        h2 { "Supports" } "\n"
        p {
            "The targets are the model's own logits, with that of the other class lowered by α. The error is the mean square over all logits \
             of all images that the support was made with, by the model's own logits and by the support's. Agreement is the share of these \
             images for which the support predicts what the model predicts."
        } "\n"
        div.wide {
            table {
                tr {
                    th.n { "α" } th.n { "epochs" } th.n { "error before" } th.n { "after" } th.n { "agreement" }
                } "\n"
                @for support in &trained.supports {
                    @let of = |of: fn(&Judged) -> f64| support.judged.as_ref().map_or_else(String::new, |judged| number(of(judged), 4));
                    tr {
                        td.n { (support.alpha) }
                        td.n { (support.epochs.len()) }
                        td.n { (of(|judged| judged.mse_before)) }
                        td.n { (of(|judged| judged.mse_after)) }
                        td.n { (of(|judged| judged.agreement)) }
                    } "\n"
                }
            }
        } "\n"
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec() -> Spec {
        let spec = json!({
            "model": "<tiny>", "model_hash": "aa", "dataset": "photos", "dataset_hash": "bb", "classes": [0, 1], "alphas": [2.0, 4.0],
            "supports": "pair", "loss": "mse", "optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.1, "schedule": "constant",
            "weight_decay": 0.0, "batch_size": 8, "epochs": 2, "seed": 0, "train": "all", "batch_norm": "frozen", "crop": false,
            "flip": false, "validation": 0.2, "patience": null, "new_head": false,
        });
        serde_json::from_value(spec).unwrap()
    }

    fn support(alpha: f64, validation_loss: Option<f64>, judged: Option<Judged>) -> TrainedSupport {
        let epoch = |epoch: usize| EpochReport {
            epoch,
            learning_rate: 0.1,
            loss: alpha / epoch as f64,
            accuracy: None,
            validation_loss,
            validation_accuracy: None,
            stops: false,
        };
        TrainedSupport {
            alpha,
            epochs: vec![epoch(1), epoch(2)],
            judged,
        }
    }

    fn written(trained: &Trained, format: Format) -> String {
        let request = json!({ "model": "<tiny>" });
        let bytes = write("gad_train", &spec(), &request, trained, format).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn supports_have_a_line_each_and_what_they_came_to() {
        let judged = Judged {
            mse_before: 1.25,
            mse_after: 0.125,
            agreement: 0.75,
        };
        let mut trained = Trained {
            set: Some("tiny/pair".into()),
            images: [1, 3],
            supports: vec![support(2.0, None, Some(judged)), support(4.0, None, None)],
            ..Trained::default()
        };
        let csv = written(&trained, Format::Csv);
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines[1..3], ["2,1,0.1,2,,,,", "2,2,0.1,1,,1.25,0.125,0.75"]);
        let points = |trained: &Trained| written(trained, Format::Svg).matches("<circle").count();
        assert_eq!(points(&trained), 4);
        let page = written(&trained, Format::Html);
        for part in [
            "&lt;tiny&gt;",
            "<b>tiny/pair</b>",
            "1 image of the one",
            "1.2500",
            "0.1250",
            "α = 4",
        ] {
            assert!(page.contains(part), "{part} in {page}");
        }
        assert!(!page.contains("<script") && !page.contains("Partial"));
        trained.set = None;
        trained.supports[0] = support(2.0, Some(1.0), None);
        assert_eq!(points(&trained), 6);
        assert!(written(&trained, Format::Html).contains("Partial results"));
    }
}
