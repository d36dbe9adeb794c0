//! The report on BAM models: the two tables of the paper's Figure 2, accuracy with and without the
//! common feature over its commonality, and the curves of the trainings (html); a line for each model
//! (csv).

use std::error::Error;

use maud::{Markup, PreEscaped, html};
use plotters::prelude::RGBColor;
use serde_json::Value;

use super::{
    judge::{Judged, Share},
    spec::{Spec, Trained, TrainedModel},
};
use crate::{
    evaluation::findings::fixed,
    jobs::kinds::training::{
        figure::{self, Chart, Line, number},
        page::page,
    },
    training::EpochReport,
};

const PAPER: &str = "Yang & Kim, Benchmarking Attribution Methods with Relative Feature Importance, 2019, sections 3.3 and 3.4";
const OBJECTS: RGBColor = RGBColor(220, 80, 20);
const SCENES: RGBColor = RGBColor(0, 90, 181);
/// Of the least and the greatest commonality.
const COMMON: [RGBColor; 2] = [RGBColor(190, 222, 190), RGBColor(0, 70, 35)];
/// Of pictures with and without the common feature.
const WITH: RGBColor = RGBColor(0, 110, 60);
const WITHOUT: RGBColor = RGBColor(130, 130, 130);
/// The first models are f_o and f_s; the others are those of the common feature.
const OF_LABELS: usize = 2;

/// A line for each model; what was not measured is empty.
pub(super) fn table(trained: &Trained) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let shares = ["with", "without", "grey", "more_confident"];
    let ends = ["", "_low", "_high", "_images"];
    let shares = shares
        .iter()
        .flat_map(|share| ends.map(|end| format!("{share}{end}")));
    let head = [
        "name",
        "model",
        "commonality",
        "dataset",
        "epoch",
        "loss",
        "accuracy",
        "classes",
    ];
    let head = head.map(str::to_owned).into_iter().chain(shares);
    writer.write_record(head.chain(["accuracy_drop".to_owned()]))?;
    for model in &trained.models {
        let (end, last) = (model.end.as_ref(), model.epochs.last());
        let judged = end.map(|end| &end.judged);
        let start = [
            model.name.clone(),
            model.model.clone().unwrap_or_default(),
            text(model.commonality),
            model.dataset.clone(),
            text(end.map(|end| end.epoch)),
            text(last.map(|last| last.loss)),
            text(last.and_then(|last| last.accuracy)),
            text(end.map(|end| end.classes)),
        ];
        let of = |share: fn(&Judged) -> Option<Share>| {
            let found = judged.and_then(share);
            let [low, high] =
                [0, 1].map(|end| text(found.and_then(|found| Some(found.interval?[end]))));
            let images = text(found.map(|found| found.images));
            [text(found.and_then(|found| found.share)), low, high, images]
        };
        let shares = [
            of(|judged| Some(judged.with)),
            of(|judged| Some(judged.without)),
            of(|judged| judged.grey),
            of(|judged| judged.more_confident),
        ];
        let drop = text(judged.and_then(|judged| judged.accuracy_drop));
        writer.write_record(
            start
                .into_iter()
                .chain(shares.into_iter().flatten())
                .chain([drop]),
        )?;
    }
    Ok(writer.into_inner()?)
}

fn text(value: Option<impl ToString>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

pub(super) fn document(
    spec: &Spec,
    request: &Value,
    trained: &Trained,
) -> Result<String, Box<dyn Error>> {
    let (of_labels, series) = trained.models.split_at(OF_LABELS.min(trained.models.len()));
    let trainings = PreEscaped(figure::svg(&trainings(trained))?);
    let commonality = PreEscaped(figure::svg(&commonality(series))?);
    let body = html! {
        p { (summary(spec, trained)) } "\n"
        @for warning in &trained.warnings { p { b { (warning) } } "\n" }
        h2 { "Objects and scenes" } "\n"
        p {
            "Both models see the same pictures of objects in scenes. The one that learned the objects is to need them and not the \
             scenes; the one that learned the scenes, the other way round. A share is followed by its 95 % interval."
        } "\n"
        (of_both(of_labels))
        @if !series.is_empty() {
            h2 { "A common feature" } "\n"
            p { (about(series)) } "\n"
            div.wide { (commonality) } "\n"
            (of_series(series))
        }
        h2 { "Trainings" } "\n"
        div.wide { (trainings) } "\n"
        p {
            "Loss and accuracy of the pictures trained on are taken while the weights change, as each batch is met."
            @if spec.recipe.validation > 0.0 { " Dashed: of the pictures kept back for validation, at the end of the epoch." }
        } "\n"
        (models(trained))
        p {
            small { "After Figure 2 of Yang and Kim, BAM: Benchmarking Attribution Methods with Relative Feature Importance, 2019." }
        } "\n"
    };
    let title = format!("BAM models: {} on {}", spec.model, spec.data);
    Ok(page(&title, &body, ("bam_models", request), Some(PAPER))?)
}

fn summary(spec: &Spec, trained: &Trained) -> Markup {
    let judged = trained.models.iter().filter(|model| model.end.is_some());
    let (judged, models) = (judged.count(), trained.models.len());
    let is_served = trained.models.iter().all(|model| model.model.is_some());
    html! {
        @if is_served {
            (models) " models were trained from " b { (spec.model) } " and are served."
        } @else {
            b { "Partial results: the job has not run to its end." } " "
            (judged) " of " (models) " models are trained and judged."
        }
    }
}

/// The upper table of Figure 2.
fn of_both(models: &[TrainedModel]) -> Markup {
    type Of = fn(&Judged) -> Option<Share>;
    let rows: [(Markup, Of); 3] = [
        (html! { "objects in scenes, X" sub { "o,s" } }, |judged| {
            Some(judged.with)
        }),
        (html! { "scenes alone, X" sub { "∅,s" } }, |judged| {
            Some(judged.without)
        }),
        (html! { "objects on grey, X" sub { "o,g" } }, |judged| {
            judged.grey
        }),
    ];
    let judged = |model: &TrainedModel| model.end.as_ref().map(|end| end.judged.clone());
    html! {
        div.wide {
            table {
                tr {
                    th { "accuracy on" }
                    th.n { "objects, f" sub { "o" } } th.n { "scenes, f" sub { "s" } } th.n { "pictures" }
                } "\n"
                @for (what, of) in rows {
                    tr {
                        td { (what) }
                        @for model in models { (share(judged(model).and_then(|judged| of(&judged)))) }
                        td.n { (text(models.iter().find_map(|model| of(&judged(model)?)).map(|found| found.images))) }
                    } "\n"
                }
                tr {
                    td { "a guess" }
                    @for model in models {
                        td.n { @if let Some(end) = &model.end { (percent(1.0 / end.classes.max(1) as f64)) } }
                    }
                    td {}
                } "\n"
            }
        } "\n"
        div.wide {
            table {
                tr {
                    th { "more confident" } th.n { "share" } th.n { "pictures" }
                } "\n"
                @for (model, (which, when)) in models.iter().zip([("o", "the scene is replaced by grey"), ("s", "the object is removed")]) {
                    @let more = judged(model).and_then(|judged| judged.more_confident);
                    tr {
                        td { "f" sub { (which) } ", when " (when) } (share(more)) td.n { (text(more.map(|more| more.images))) }
                    } "\n"
                }
            }
        } "\n"
        p { "Of the pictures of objects in scenes that the model tells right: the share for which the probability of the right class rises." } "\n"
    }
}

/// What the series is.
fn about(series: &[TrainedModel]) -> Markup {
    let known = series.iter().find_map(|model| model.end.as_ref());
    html! {
        "The feature"
        @if let Some([object, scene]) = known.map(|end| end.feature.as_slice()) {
            ", " b { (object) } ", is in every picture of a share k of the scene classes that a model learned. The table has the accuracy on \
             further pictures of " b { (scene) }
        } @else {
            " is in every picture of a share k of the scene classes that a model learned. The table has the accuracy on further pictures of \
             one class"
        }
        ", which has the feature in all sets: with the feature, and the scenes alone. The rarer the feature, the more a model is to lose \
         without it."
    }
}

/// The lower table of Figure 2.
fn of_series(models: &[TrainedModel]) -> Markup {
    html! {
        div.wide {
            table {
                tr {
                    th.n { "k" } th.n { "accuracy with it" } th.n { "without it" } th.n { "drop in points" } th.n { "pictures of each" }
                } "\n"
                @for model in models {
                    @let judged = model.end.as_ref().map(|end| &end.judged);
                    tr {
                        td.n { (commonality_of(model)) }
                        (share(judged.map(|judged| judged.with)))
                        (share(judged.map(|judged| judged.without)))
                        td.n { (judged.and_then(|judged| judged.accuracy_drop).map_or_else(String::new, |drop| fixed(100.0 * drop, 1))) }
                        td.n { (text(judged.map(|judged| judged.with.images))) }
                    } "\n"
                }
            }
        } "\n"
    }
}

/// What each model is, and what its last epoch came to.
fn models(trained: &Trained) -> Markup {
    let cell = |value: Option<f64>| html! { td.n { (value.map_or_else(String::new, |value| number(value, 4))) } };
    let has_validation = trained
        .models
        .iter()
        .flat_map(|model| &model.epochs)
        .any(|epoch| epoch.validation_loss.is_some());
    html! {
        div.wide {
            table {
                tr {
                    th { "model" } th { "trained on" } th.n { "epochs" } th.n { "loss" } th.n { "accuracy" }
                    @if has_validation { th.n { "validation loss" } th.n { "validation accuracy" } th.n { "weights of epoch" } }
                } "\n"
                @for model in &trained.models {
                    @let last = model.epochs.last();
                    tr {
                        td { (model.model.as_ref().unwrap_or(&model.name)) }
                        td { (model.dataset) }
                        td.n { (model.epochs.len()) }
                        (cell(last.map(|last| last.loss)))
                        (cell(last.and_then(|last| last.accuracy)))
                        @if has_validation {
                            (cell(last.and_then(|last| last.validation_loss)))
                            (cell(last.and_then(|last| last.validation_accuracy)))
                            td.n { (text(model.end.as_ref().map(|end| end.epoch))) }
                        }
                    } "\n"
                }
            }
        } "\n"
    }
}

fn share(share: Option<Share>) -> Markup {
    let share = share.and_then(|share| Some((share.share?, share.interval?)));
    html! {
        td.n {
            @if let Some((share, [low, high])) = share {
                (percent(share)) " " small { (format!("{:.0} to {:.0}", 100.0 * low, 100.0 * high)) }
            }
        }
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn commonality_of(model: &TrainedModel) -> String {
    model
        .commonality
        .map_or_else(String::new, |k| format!("{k:.2}"))
}

/// Accuracy with and without the feature, and what it loses, by commonality.
fn commonality(series: &[TrainedModel]) -> [Chart; 2] {
    let points = |of: fn(&Judged) -> Option<f64>| {
        let points = series.iter().filter_map(|model| {
            let judged = &model.end.as_ref()?.judged;
            Some((model.commonality?, of(judged)?))
        });
        points.collect::<Vec<_>>()
    };
    let line = |name: &str, color, dash, points| Line {
        name: name.to_owned(),
        color,
        dash,
        points,
    };
    let chart = |y, bottom, lines| Chart {
        title: String::new(),
        x: "commonality k of the feature",
        y,
        left: 0.0,
        right: 1.0,
        decimals: 1,
        bottom,
        top: Some(1.0),
        lines,
    };
    let drops = points(|judged| judged.accuracy_drop);
    let lowest = drops
        .iter()
        .fold(0.0, |lowest, (_, y)| f64::min(lowest, *y));
    [
        chart(
            "accuracy (share of the pictures)",
            0.0,
            vec![
                line(
                    "with the feature",
                    WITH,
                    figure::WHOLE,
                    points(|judged| judged.with.share),
                ),
                line(
                    "without it",
                    WITHOUT,
                    figure::DASHED,
                    points(|judged| judged.without.share),
                ),
            ],
        ),
        chart(
            "drop of the accuracy without the feature",
            lowest,
            vec![line("", WITH, figure::WHOLE, drops)],
        ),
    ]
}

/// Loss and accuracy of all models by epoch.
fn trainings(trained: &Trained) -> [Chart; 2] {
    type Of = fn(&EpochReport) -> Option<f64>;
    let lines = |of: [Of; 2]| {
        let each = trained.models.iter().flat_map(|model| {
            let (name, color) = look(model);
            [(name, figure::WHOLE), (String::new(), figure::DASHED)]
                .into_iter()
                .zip(of)
                .map(move |((name, dash), of)| Line {
                    name,
                    color,
                    dash,
                    points: figure::by_epoch(&model.epochs, of),
                })
        });
        each.collect()
    };
    let loss = lines([|epoch| Some(epoch.loss), |epoch| epoch.validation_loss]);
    let accuracy = lines([|epoch| epoch.accuracy, |epoch| epoch.validation_accuracy]);
    [
        Chart::of_epochs(String::new(), "mean cross-entropy", None, loss),
        Chart::of_epochs(
            String::new(),
            "accuracy (share of the pictures)",
            Some(1.0),
            accuracy,
        ),
    ]
}

/// The name and the colour of a model's line.
fn look(model: &TrainedModel) -> (String, RGBColor) {
    match model.commonality {
        None if model.name == "object" => ("objects".to_owned(), OBJECTS),
        None => ("scenes".to_owned(), SCENES),
        Some(k) => {
            let [least, most] = COMMON;
            let mixed = |least: u8, most: u8| {
                (f64::from(least) + k * (f64::from(most) - f64::from(least))).round() as u8
            };
            let color = RGBColor(
                mixed(least.0, most.0),
                mixed(least.1, most.1),
                mixed(least.2, most.2),
            );
            (format!("k = {k:.2}"), color)
        }
    }
}
