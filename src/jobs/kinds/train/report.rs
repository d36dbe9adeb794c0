//! The report of a training: curves of loss and accuracy by epoch, for the images trained on and for
//! those kept back (svg, png), a table (csv), and a page of both with the request (html).

use std::error::Error;

use image::{Rgb, RgbImage};
use maud::{Markup, PreEscaped, html};
use plotters::{
    coord::Shift,
    prelude::{
        ChartBuilder, Circle, Color, DashedLineSeries, DrawingArea, IntoDrawingArea, IntoFont,
        LineSeries, PathElement, RGBColor, SVGBackend, Text, WHITE,
    },
    style::{BLACK, ShapeStyle, TextStyle},
};
use serde_json::{Value, json};

use super::spec::{Spec, Trained};
use crate::{
    evaluation::{findings::fixed, report::STYLE},
    jobs::Format,
    render::{encode::encode_png, fonts::FONT, svg::paint},
    training::{EpochReport, Loss},
};

const WIDTH: u32 = 1120;
const HEIGHT: u32 = 460;
/// Room below the charts for the legend.
const LEGEND: u32 = 40;
/// Colours and dashes of what was trained on and what was kept back.
const TRAINING: Look = Look {
    name: "trained on",
    color: RGBColor(0, 90, 181),
    dash: (0, 0),
};
const VALIDATION: Look = Look {
    name: "validation",
    color: RGBColor(220, 80, 20),
    dash: (7, 4),
};

struct Look {
    name: &'static str,
    color: RGBColor,
    /// Dash and gap in pixels; drawn through without.
    dash: (i32, i32),
}

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
        Format::Svg => Ok(draw(spec, epochs)?.into_bytes()),
        Format::Png => {
            let mut picture = RgbImage::from_pixel(WIDTH, HEIGHT, Rgb([255; 3]));
            paint(&mut picture, &draw(spec, epochs)?)?;
            Ok(encode_png(&picture, &[])?)
        }
        _ => Ok(page(spec, request, trained, epochs)?.into_bytes()),
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

/// An SVG document of both charts.
fn draw(spec: &Spec, epochs: &[EpochReport]) -> Result<String, Box<dyn Error>> {
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
    area.fill(&WHITE)?;
    let (charts, legend) = area.split_vertically(HEIGHT - LEGEND);
    let (left, right) = charts.split_horizontally(WIDTH / 2);
    let title = format!("{} trained on {}", spec.model, spec.dataset);
    let loss = match spec.recipe.loss {
        Loss::CrossEntropy => "mean cross-entropy",
        Loss::Mse => "mean squared error of the logits",
    };
    chart(&left, &title, loss, epochs, LOSS, None)?;
    let share = "accuracy (share of the images)";
    chart(&right, "", share, epochs, ACCURACY, Some(1.0))?;
    for (place, look) in [TRAINING, VALIDATION].iter().enumerate() {
        key(&legend, 60 + 160 * place as i32, look)?;
    }
    area.present()?;
    drop((charts, legend, left, right, area));
    Ok(svg)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// From 0 to `top`, or to the highest value.
fn chart(
    area: &Area<'_>,
    title: &str,
    y: &str,
    epochs: &[EpochReport],
    series: [Of; 2],
    top: Option<f64>,
) -> Result<(), Box<dyn Error>> {
    let last = epochs.last().map_or(2, |epoch| epoch.epoch.max(2)) as f64;
    let values = series.iter().flat_map(|of| epochs.iter().filter_map(of));
    let highest = values.filter(|value| value.is_finite()).fold(0.0, f64::max);
    let top = top.unwrap_or(if highest > 0.0 { highest * 1.04 } else { 1.0 });
    let mut chart = ChartBuilder::on(area)
        .margin(14)
        .caption(title, (FONT, 17))
        .x_label_area_size(46)
        .y_label_area_size(60)
        .build_cartesian_2d(1.0..last, 0.0..top)?;
    chart
        .configure_mesh()
        .light_line_style(BLACK.mix(0.0))
        .bold_line_style(BLACK.mix(0.12))
        .x_desc("epoch")
        .y_desc(y)
        .x_label_formatter(&|x| match x.fract() == 0.0 {
            true => format!("{x:.0}"),
            false => String::new(),
        })
        .y_label_formatter(&|y| number(*y, 2))
        .label_style((FONT, 14))
        .axis_desc_style((FONT, 15))
        .draw()?;
    for (of, look) in series.into_iter().zip([TRAINING, VALIDATION]) {
        let points = epochs.iter().filter_map(|epoch| {
            let value = of(epoch).filter(|value| value.is_finite())?;
            Some((epoch.epoch as f64, value))
        });
        let style = ShapeStyle::from(&look.color).stroke_width(2);
        match look.dash {
            (0, _) => chart.draw_series(LineSeries::new(points.clone(), style))?,
            (dash, gap) => {
                chart.draw_series(DashedLineSeries::new(points.clone(), dash, gap, style))?
            }
        };
        chart.draw_series(points.map(|point| Circle::new(point, 3, look.color.filled())))?;
    }
    Ok(())
}

/// Large numbers, of losses that diverge, are written with an exponent.
fn number(value: f64, decimals: usize) -> String {
    if value < 1e4 {
        fixed(value, decimals)
    } else {
        format!("{value:.1e}")
    }
}

/// A line of the legend, from `x` on.
fn key(area: &Area<'_>, x: i32, look: &Look) -> Result<(), Box<dyn Error>> {
    const Y: i32 = 12;
    let style = ShapeStyle::from(&look.color).stroke_width(2);
    let pieces: Vec<(i32, i32)> = match look.dash {
        (0, _) => vec![(0, 32)],
        (dash, gap) => (0..32)
            .step_by((dash + gap).unsigned_abs() as usize)
            .map(|start| (start, (start + dash).min(32)))
            .collect(),
    };
    for (start, end) in pieces {
        area.draw(&PathElement::new([(x + start, Y), (x + end, Y)], style))?;
    }
    let style = TextStyle::from((FONT, 14).into_font());
    area.draw(&Text::new(look.name.to_owned(), (x + 42, Y - 7), style))?;
    Ok(())
}

fn page(
    spec: &Spec,
    request: &Value,
    trained: &Trained,
    epochs: &[EpochReport],
) -> Result<String, Box<dyn Error>> {
    let title = format!("Training: {} on {}", spec.model, spec.dataset);
    let figure = draw(spec, epochs)?;
    let mut again = request.clone();
    again["kind"] = json!("train");
    let again = serde_json::to_string_pretty(&again)?;
    let page = html! {
        (PreEscaped("<!doctype html>\n"))
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width,initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                "\n"
                h1 { (title) } "\n"
                p { (summary(spec, trained, epochs)) } "\n"
                @for warning in &trained.warnings { p { b { (warning) } } "\n" }
                div.wide { (PreEscaped(figure)) } "\n"
                p {
                    "Loss and accuracy of the images trained on are taken while the weights change, as each batch is met; those of the \
                     images kept back for validation at the end of the epoch."
                } "\n"
                h2 { "Epochs" } "\n"
                (rows(epochs, trained.epoch))
                h2 { "To run it again" } "\n"
                p {
                    "POST this to /jobs of a server that has the same model and data set, and no model of that name. It holds every \
                     parameter, settled, and the hashes of the model and the data set: on others it is refused."
                } "\n"
                pre { (again) } "\n"
                p { small { "explaind " (env!("CARGO_PKG_VERSION")) "." } } "\n"
            }
        } "\n"
    };
    Ok(page.into_string())
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
    let cell = |value: Option<f64>| html! { td.n { (value.map_or_else(String::new, |value| number(value, 4))) } };
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
            assert_eq!((picture.width(), picture.height()), (WIDTH, HEIGHT));
        }
    }
}
