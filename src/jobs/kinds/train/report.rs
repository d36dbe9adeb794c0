//! The report of a training: curves of loss and accuracy by epoch, for the images trained on and for
//! those kept back (svg, png), a table (csv), and a page of both with the request (html).

use std::error::Error;

use maud::{Markup, PreEscaped, html};
use plotters::prelude::RGBColor;
use serde_json::Value;

use super::spec::{Spec, Trained};
use crate::{
    jobs::{
        Format,
        kinds::training::{
            figure::{self, Chart, Line},
            page::page,
        },
    },
    training::{EpochReport, Loss},
};

/// Names, colours and dashes of what was trained on and what was kept back.
const LOOKS: [(&str, RGBColor, (i32, i32)); 2] = [
    ("trained on", RGBColor(0, 90, 181), figure::WHOLE),
    ("validation", RGBColor(220, 80, 20), figure::DASHED),
];

/// A value of an epoch; none where it was not measured.
type Of = fn(&EpochReport) -> Option<f64>;

const LOSS: [Of; 2] = [|epoch| Some(epoch.loss), |epoch| epoch.validation_loss];
const ACCURACY: [Of; 2] = [|epoch| epoch.accuracy, |epoch| epoch.validation_accuracy];

pub(super) fn write(
    spec: &Spec,
    request: &Value,
    trained: &Trained,
    format: Format,
) -> Result<Vec<u8>, Box<dyn Error>> {
    let epochs = trained.epochs.as_slice();
    match format {
        Format::Csv => table(epochs),
        Format::Svg => Ok(figure::svg(&charts(spec, epochs))?.into_bytes()),
        Format::Png => figure::png(&charts(spec, epochs)),
        _ => Ok(document(spec, request, trained)?.into_bytes()),
    }
}

/// A line for each epoch; what was not measured is empty.
fn table(epochs: &[EpochReport]) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record([
        "epoch",
        "learning_rate",
        "loss",
        "accuracy",
        "validation_loss",
        "validation_accuracy",
    ])?;
    let text = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
    for epoch in epochs {
        writer.write_record([
            epoch.epoch.to_string(),
            epoch.learning_rate.to_string(),
            epoch.loss.to_string(),
            text(epoch.accuracy),
            text(epoch.validation_loss),
            text(epoch.validation_accuracy),
        ])?;
    }
    Ok(writer.into_inner()?)
}

fn charts(spec: &Spec, epochs: &[EpochReport]) -> [Chart; 2] {
    let loss = match spec.recipe.loss {
        Loss::CrossEntropy => "mean cross-entropy",
        Loss::Mse => "mean squared error of the logits",
    };
    let lines = |series: [Of; 2]| {
        let each = series.into_iter().zip(LOOKS);
        each.map(|(of, (name, color, dash))| Line {
            name: name.to_owned(),
            color,
            dash,
            points: figure::by_epoch(epochs, of),
        })
        .collect()
    };
    let title = format!("{} trained on {}", spec.model, spec.dataset);
    [
        Chart::of_epochs(title, loss, None, lines(LOSS)),
        Chart::of_epochs(
            String::new(),
            "accuracy (share of the images)",
            Some(1.0),
            lines(ACCURACY),
        ),
    ]
}

fn document(spec: &Spec, request: &Value, trained: &Trained) -> Result<String, Box<dyn Error>> {
    let epochs = trained.epochs.as_slice();
    let figure = figure::svg(&charts(spec, epochs))?;
    let body = html! {
        p { (summary(spec, trained, epochs)) } "\n"
        @for warning in &trained.warnings { p { b { (warning) } } "\n" }
        div.wide { (PreEscaped(figure)) } "\n"
        p {
            "Loss and accuracy of the images trained on are taken while the weights change, as each batch is met; those of the \
             images kept back for validation at the end of the epoch."
        } "\n"
        h2 { "Epochs" } "\n"
        (rows(epochs, trained.epoch))
    };
    let title = format!("Training: {} on {}", spec.model, spec.dataset);
    Ok(page(&title, &body, ("train", request), None)?)
}

fn summary(spec: &Spec, trained: &Trained, epochs: &[EpochReport]) -> Markup {
    let (done, planned) = (epochs.len(), spec.recipe.epochs);
    html! {
        @match (&trained.model, trained.epoch) {
            (Some(model), Some(epoch)) => {
                "The trained model is served as " b { (model) } ", with the weights of epoch " (epoch) ". "
                @if done < planned {
                    "Training stopped after " (done) " of at most " (planned) " epochs: the validation loss no longer fell. "
                }
            }
            _ => {
                b { "Partial results: the job has not run to its end." } " " (done) " of " (planned) " epochs are done. "
            }
        }
        @if let Some(left_out) = &trained.left_out {
            (left_out.unlabelled) " images without a label and " (left_out.unreadable) " that cannot be decoded were left out."
        }
    }
}

fn rows(epochs: &[EpochReport], best: Option<usize>) -> Markup {
    let cell = |value: Option<f64>| html! { td.n { (value.map_or_else(String::new, |value| figure::number(value, 4))) } };
    html! {
        div.wide {
            table {
                tr {
                    th.n { "epoch" } th.n { "learning rate" } th.n { "loss" } th.n { "accuracy" }
                    th.n { "validation loss" } th.n { "validation accuracy" } th {}
                } "\n"
                @for epoch in epochs {
                    tr {
                        td.n { (epoch.epoch) }
                        td.n { (format!("{:.3e}", epoch.learning_rate)) }
                        (cell(Some(epoch.loss)))
                        (cell(epoch.accuracy))
                        (cell(epoch.validation_loss))
                        (cell(epoch.validation_accuracy))
                        td { @if best == Some(epoch.epoch) { "these weights" } }
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
        let recipe = json!({
            "model": "<tiny>", "model_hash": "aa", "dataset": "photos", "dataset_hash": "bb", "name": "new", "loss": "mse",
            "optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.1, "schedule": "constant", "weight_decay": 0.0, "batch_size": 8,
            "epochs": 4, "seed": 0, "train": "all", "batch_norm": "frozen", "crop": false, "flip": false, "validation": 0.2,
            "patience": null, "new_head": false,
        });
        serde_json::from_value(recipe).unwrap()
    }

    fn epoch(epoch: usize, loss: f64, validation_loss: Option<f64>) -> EpochReport {
        EpochReport {
            epoch,
            learning_rate: 0.1,
            loss,
            accuracy: None,
            validation_loss,
            validation_accuracy: validation_loss.map(|_| 0.5),
            stops: false,
        }
    }

    fn written(trained: &Trained, format: Format) -> String {
        let request = json!({ "model": "<tiny>" });
        String::from_utf8(write(&spec(), &request, trained, format).unwrap()).unwrap()
    }

    #[test]
    fn what_was_not_measured_is_neither_drawn_nor_written() {
        let of = |validation: Option<f64>| Trained {
            epochs: vec![epoch(1, 2.0, validation), epoch(2, 1.0, validation)],
            ..Trained::default()
        };
        let table = written(&of(None), Format::Csv);
        assert_eq!(table.lines().nth(1), Some("1,0.1,2,,,"));
        let points = |trained: &Trained| written(trained, Format::Svg).matches("<circle").count();
        assert_eq!((points(&of(None)), points(&of(Some(1.5)))), (2, 6));
    }

    #[test]
    fn a_page_escapes_names_and_says_how_far_the_training_came() {
        let epochs = vec![epoch(1, 2.0, Some(1.5)), epoch(2, 1.0, Some(1.7))];
        let partial = Trained {
            epochs: epochs.clone(),
            ..Trained::default()
        };
        let page = written(&partial, Format::Html);
        assert!(page.contains("&lt;tiny&gt;") && !page.contains("<tiny>"));
        assert!(page.contains("2 of 4 epochs are done"), "{page}");
        assert!(page.contains("mean squared error of the logits"));
        assert!(!page.contains("<script") && !page.contains("src="));
        let stopped = Trained {
            epochs,
            model: Some("new".into()),
            epoch: Some(1),
            ..Trained::default()
        };
        let page = written(&stopped, Format::Html);
        assert!(page.contains("with the weights of epoch 1"), "{page}");
        assert!(page.contains("after 2 of at most 4 epochs"), "{page}");
        assert_eq!(page.matches("these weights").count(), 1);
    }

    #[test]
    fn a_report_of_no_epoch_and_of_huge_losses_is_drawn() {
        for epochs in [
            Vec::new(),
            vec![epoch(1, 0.0, Some(0.0))],
            vec![epoch(1, 1e-30, None), epoch(2, 3e40, None)],
        ] {
            let trained = Trained {
                epochs,
                ..Trained::default()
            };
            let png = write(&spec(), &json!({}), &trained, Format::Png).unwrap();
            let picture = image::load_from_memory(&png).unwrap();
            assert_eq!((picture.width(), picture.height()), (1120, 460));
        }
    }
}
