//! The report of a TCAV job: bars of each layer with their intervals, the concept's beside those of
//! random vectors (svg, png), a table (csv), and one self-contained page (html).

use std::error::Error;

use image::{Rgb, RgbImage};
use maud::{Markup, PreEscaped, html};
use plotters::{
    chart::ChartBuilder,
    coord::Shift,
    prelude::{
        Color, DrawingArea, IntoDrawingArea, IntoFont, PathElement, RGBColor, Rectangle,
        SVGBackend, Text, WHITE,
    },
    style::{BLACK, RGBAColor, TextStyle},
};
use serde_json::Value;

use super::findings::{Accuracy, LayerFinding, PAPER, Scores, TcavFindings, rounded};
use crate::{
    evaluation::{
        findings::fixed,
        report::{ReportError, again, machine, page},
    },
    render::{encode::encode_png, fonts::FONT, svg::paint},
    text::cut,
};

const WIDTH: u32 = 1120;
/// Of the title, of a layer, and of the axis below.
const HEAD: u32 = 64;
const ROW: u32 = 54;
const AXIS: u32 = 46;
/// Where the bars begin and end.
const BARS: [u32; 2] = [350, 850];
const MARGIN: u32 = 10;
/// The longest name of a layer that is drawn, in bytes.
const NAME: usize = 46;
/// The part of a layer's height that one of its two bars fills.
const BAR: f64 = 0.32;
const CONCEPT: RGBColor = RGBColor(0, 114, 178);
const RANDOM: RGBColor = RGBColor(130, 130, 130);
/// Of bars of layers that are rejected.
const PALE: f64 = 0.35;

/// Findings, and what they are about.
#[derive(Clone, Debug)]
pub struct TcavReport<'a> {
    /// Of job.
    pub kind: &'a str,
    /// The settled request, as it is.
    pub request: &'a Value,
    pub model: &'a str,
    pub class: usize,
    pub concept: &'a str,
    pub random: &'a str,
    pub images_per_set: usize,
    pub n_random: usize,
    pub p: f64,
    pub findings: &'a TcavFindings,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn Error>>;

impl TcavReport<'_> {
    /// The class's label, or its index.
    fn class(&self) -> String {
        let label = self.findings.label.clone();
        label.unwrap_or_else(|| format!("class {}", self.class))
    }

    fn title(&self) -> String {
        format!("TCAV: {} for {}", self.concept, self.class())
    }

    fn height(&self) -> u32 {
        HEAD + 2 * MARGIN + ROW * self.findings.layers.len().max(1) as u32 + AXIS
    }

    pub fn svg(&self) -> Result<String, ReportError> {
        let mut svg = String::new();
        let area = SVGBackend::with_string(&mut svg, (WIDTH, self.height())).into_drawing_area();
        let drawn = self.paint(&area);
        drop(area);
        drawn.map_err(|fault| ReportError::Figure(fault.to_string()))?;
        Ok(svg)
    }

    pub fn png(&self) -> Result<Vec<u8>, ReportError> {
        let mut picture = RgbImage::from_pixel(WIDTH, self.height(), Rgb([255; 3]));
        paint(&mut picture, &self.svg()?)?;
        Ok(encode_png(&picture, &[])?)
    }

    /// A line for each layer of each model, which ends with what the model comes to beside the one
    /// that is evaluated; the scores of the draws are separated by spaces.
    pub fn csv(&self) -> Result<Vec<u8>, ReportError> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let sides = ["", "random_"].into_iter().flat_map(|side| {
            ["score", "low", "high", "accuracy"].map(|name| format!("{side}{name}"))
        });
        let head = ["model", "layer", "passes"].map(str::to_owned).into_iter();
        let test = ["p", "t", "degrees_of_freedom", "scores", "random_scores"].map(str::to_owned);
        let contrast = [
            "mcs",
            "mcs_low",
            "mcs_high",
            "random_mcs",
            "random_mcs_low",
            "random_mcs_high",
        ];
        writer.write_record(
            head.chain(sides)
                .chain(test)
                .chain(contrast.map(str::to_owned)),
        )?;
        let own = self
            .findings
            .layers
            .iter()
            .map(|layer| (self.model, layer, None));
        let others = self.findings.models.iter().flat_map(|other| {
            let layers = other.layers.iter();
            layers.map(move |layer| (other.model.as_str(), layer, Some(other)))
        });
        for (model, layer, other) in own.chain(others) {
            let text = |number: Option<f64>| number.map_or_else(String::new, |n| n.to_string());
            let side = |scores: &Option<Scores>| {
                let scores = scores.as_ref();
                let end = |at: usize| scores.map(|scores| scores.interval[at]);
                let mean = scores.map(|scores| scores.mean);
                let accuracy = scores.map(|scores| scores.accuracy);
                [mean, end(0), end(1), accuracy].map(text)
            };
            let each = |scores: &Option<Scores>| {
                let scores = scores.iter().flat_map(|scores| &scores.each);
                let texts: Vec<String> = scores.map(f64::to_string).collect();
                texts.join(" ")
            };
            let test = [
                layer.test.map(|test| test.p),
                layer.test.and_then(|test| test.t),
                layer.test.and_then(|test| test.degrees_of_freedom),
            ];
            let contrast = |mcs: Option<f64>, interval: Option<[f64; 2]>| {
                let end = |at: usize| interval.map(|interval| interval[at]);
                [mcs, end(0), end(1)].map(text)
            };
            let mcs = contrast(
                other.and_then(|other| other.mcs),
                other.and_then(|other| other.mcs_interval),
            );
            let random_mcs = contrast(
                other.and_then(|other| other.random_mcs),
                other.and_then(|other| other.random_mcs_interval),
            );
            let fields = [
                model.to_owned(),
                layer.layer.clone(),
                layer.passes.to_string(),
            ]
            .into_iter()
            .chain(side(&layer.concept))
            .chain(side(&layer.random))
            .chain(test.map(text))
            .chain([each(&layer.concept), each(&layer.random)])
            .chain(mcs)
            .chain(random_mcs);
            writer.write_record(fields)?;
        }
        let bytes = writer.into_inner();
        bytes.map_err(|error| csv::Error::from(error.into_error()).into())
    }

    fn paint(&self, area: &Area<'_>) -> Drawn {
        area.fill(&WHITE)?;
        let (head, body) = area.split_vertically(HEAD);
        let title = format!("{} of {}", self.title(), self.model);
        let style = |size: i32| TextStyle::from((FONT, size).into_font());
        head.draw(&Text::new(title, (14, 12), style(17)))?;
        let keys = [
            (CONCEPT, "vectors of the concept"),
            (RANDOM, "random vectors"),
        ];
        for (place, (color, words)) in keys.into_iter().enumerate() {
            let x = BARS[0] as i32 + 220 * place as i32;
            head.draw(&Rectangle::new([(x, 40), (x + 24, 52)], color.filled()))?;
            head.draw(&Text::new(words, (x + 32, 38), style(14)))?;
        }
        let lines = "lines: 95 % intervals";
        head.draw(&Text::new(lines, (BARS[1] as i32, 38), style(14)))?;
        let (names, rest) = body.split_horizontally(BARS[0]);
        let (bars, notes) = rest.split_horizontally(BARS[1] - BARS[0]);
        self.paint_bars(&bars)?;
        for (place, layer) in self.findings.layers.iter().enumerate() {
            let middle = (MARGIN + ROW * place as u32 + ROW / 2) as i32;
            let name = cut(&layer.layer, NAME).into_owned();
            names.draw(&Text::new(name, (14, middle - 7), style(13)))?;
            for (line, text) in note(layer).into_iter().enumerate() {
                let y = middle - 16 + 18 * line as i32;
                notes.draw(&Text::new(text, (10, y), style(13)))?;
            }
        }
        area.present()?;
        Ok(())
    }

    fn paint_bars(&self, area: &Area<'_>) -> Drawn {
        let layers = &self.findings.layers;
        let mut chart = ChartBuilder::on(area)
            .margin(MARGIN)
            .x_label_area_size(AXIS)
            .build_cartesian_2d(0.0..1.0_f64, 0.0..layers.len().max(1) as f64)?;
        chart
            .configure_mesh()
            .light_line_style(BLACK.mix(0.0))
            .bold_line_style(BLACK.mix(0.12))
            .disable_y_mesh()
            .x_desc("TCAV score")
            .x_label_formatter(&|x| fixed(*x, 1))
            .y_labels(0)
            .label_style((FONT, 14))
            .axis_desc_style((FONT, 15))
            .draw()?;
        for (place, layer) in layers.iter().enumerate() {
            let middle = (layers.len() - place) as f64 - 0.5;
            let pale = if layer.passes { 0.9 } else { PALE };
            let bars: [(_, RGBAColor, f64); 2] = [
                (&layer.concept, CONCEPT.mix(pale), middle + BAR / 2.0),
                (&layer.random, RANDOM.mix(pale), middle - BAR / 2.0),
            ];
            for (scores, color, middle) in bars {
                let Some(Scores { mean, interval, .. }) = scores else {
                    continue;
                };
                let bar = [(0.0, middle - BAR / 2.0), (*mean, middle + BAR / 2.0)];
                chart.draw_series([Rectangle::new(bar, color.filled())])?;
                let line = interval.map(|end| (end, middle));
                chart.draw_series([PathElement::new(line, BLACK.stroke_width(1))])?;
            }
        }
        if let Some(score) = self.findings.score {
            let line = [(score, 0.0), (score, layers.len() as f64)];
            chart.draw_series([PathElement::new(line, CONCEPT.stroke_width(1))])?;
        }
        Ok(())
    }

    pub fn html(&self) -> Result<String, ReportError> {
        let title = format!("{} of {}", self.title(), self.model);
        let body = html! {
            (self.summary())
            div.wide { (PreEscaped(self.svg()?)) } "\n"
            (layers("Layers", &self.findings.layers))
            (self.contrasts())
            (self.reading())
            (again(self.kind, self.request, Some(PAPER))?)
            (machine(&self.findings.version, self.findings.run.as_ref()))
        };
        Ok(page(&title, "", &body))
    }

    fn summary(&self) -> Markup {
        let TcavFindings {
            images,
            score,
            interval,
            layers,
            run,
            ..
        } = self.findings;
        let passing = layers.iter().filter(|layer| layer.passes);
        let is_above = passing.clone().filter_map(|layer| {
            let (concept, random) = layer.concept.as_ref().zip(layer.random.as_ref())?;
            Some(concept.mean > random.mean)
        });
        let (above, passing) = (is_above.filter(|above| *above).count(), passing.count());
        html! {
            p {
                @if run.is_none() { b { "Partial results: the job has not run to its end." } " " }
                "Does the concept " b { (self.concept) } " raise the logit of " b { (self.class()) } "? "
                "At " (passing) " of " (layers.len()) " layers its vectors score otherwise than random ones (p of at most " (self.p) "). "
                @match (score, interval) {
                    (Some(score), Some([low, high])) => {
                        "The mean over these layers is " b { (fixed(*score, 3)) } " (95 % interval over draws: " (fixed(*low, 3)) " to "
                        (fixed(*high, 3)) ")."
                    }
                    _ => { b { "No layer passes: there is no score." } }
                }
                @if above > 0 && above < passing {
                    " " b { "The layers disagree" } ": " (above) " of them score above their random vectors, " (passing - above)
                    " below. Read them one by one: their mean says little."
                }
            } "\n"
            p { (images) " images of the class were used." } "\n"
        }
    }

    /// What other models come to.
    fn contrasts(&self) -> Markup {
        let TcavFindings {
            score,
            interval,
            accuracy,
            models,
            correlation,
            ..
        } = self.findings;
        let number = |number: Option<f64>| number.map_or_else(String::new, |one| fixed(one, 3));
        let range = |ends: Option<[f64; 2]>| {
            let text = |ends: [f64; 2]| ends.map(|end| fixed(end, 3)).join(" to ");
            ends.map_or_else(String::new, text)
        };
        let lost = |accuracy: Option<Accuracy>| {
            html! {
                td.n { (number(accuracy.map(|accuracy| accuracy.with))) }
                td.n { (number(accuracy.map(|accuracy| accuracy.without))) }
            }
        };
        let has_pairs = accuracy.is_some() || models.iter().any(|model| model.accuracy.is_some());
        html! {
            @if !models.is_empty() {
                h2 { "Models" } "\n"
                div.wide {
                    table {
                        tr {
                            th { "model" } th.n { "score" } th.n { "interval" } th.n { "MCS" } th.n { "interval" }
                            th.n { "MCS of random" } th.n { "interval" }
                            @if has_pairs { th.n { "accuracy" } th.n { "without" } }
                        } "\n"
                        tr {
                            td { (self.model) } td.n { (number(*score)) } td.n { (range(*interval)) }
                            td {} td {} td {} td {}
                            @if has_pairs { (lost(*accuracy)) }
                        } "\n"
                        @for other in models {
                            tr {
                                td { (other.model) } td.n { (number(other.score)) } td.n { (range(other.interval)) }
                                td.n { (number(other.mcs)) } td.n { (range(other.mcs_interval)) }
                                td.n { (number(other.random_mcs)) } td.n { (range(other.random_mcs_interval)) }
                                @if has_pairs { (lost(other.accuracy)) }
                            } "\n"
                        }
                    }
                } "\n"
                p {
                    "The model contrast score (MCS; Yang & Kim 2019) is a model's score less that of " (self.model)
                    ", draw by draw; that of random vectors is taken at the same layers. A model of which no layer passes has none. The logit \
                     that is followed in each model is that of the class that an image's labels name to it."
                    @if has_pairs {
                        " Accuracies are those on the images of the class that have a twin without the concept, and on the twins."
                    }
                    @if let Some(correlation) = correlation {
                        " Pearson's correlation between the scores of all models and the accuracies that they lose without the concept is "
                        b { (fixed(*correlation, 2)) } "."
                    }
                } "\n"
                @for other in models { (layers(&format!("Layers of {}", other.model), &other.layers)) }
            }
        }
    }

    fn reading(&self) -> Markup {
        let TcavFindings {
            random_images,
            disjoint,
            ..
        } = self.findings;
        html! {
            h2 { "What the numbers are" } "\n"
            p {
                "A vector is the normal of a logistic regression that tells the activations of " (self.images_per_set)
                " images of the concept from those of as many others, and points to the concept. Its score is the share of the class's \
                 images whose logit rises along it. The concept is set against " (self.n_random) " draws from the "
                (random_images) " images of " (self.random) "; in a random vector, other images of that set stand in for the concept's. "
                @if *disjoint { "No image is in two sets." }
                @else { "There are too few of them for sets without common images: the scores of the draws depend on one another, and p is too low." }
            } "\n"
            p {
                "p is that of Welch's two-sided t-test between both lots of scores, without correction for the number of layers. Accuracy is \
                 that of the classifiers on a third of the images held out: where it is near 0.5, the layer does not know the concept, whatever \
                 its score. A score below that of random vectors says that the concept speaks against the class."
            } "\n"
        }
    }
}

/// A table of layers.
fn layers(title: &str, layers: &[LayerFinding]) -> Markup {
    let number = |scores: &Option<Scores>, of: fn(&Scores) -> f64| {
        let scores = scores.as_ref();
        scores.map_or_else(String::new, |scores| fixed(of(scores), 3))
    };
    let range = |scores: &Option<Scores>| {
        let scores = scores.as_ref();
        let text = |scores: &Scores| {
            let [low, high] = scores.interval.map(|end| fixed(end, 3));
            format!("{low} to {high}")
        };
        scores.map_or_else(String::new, text)
    };
    html! {
        h2 { (title) } "\n"
        div.wide {
            table {
                tr {
                    th { "layer" } th.n { "score" } th.n { "interval" } th.n { "random" } th.n { "interval" } th.n { "p" }
                    th.n { "accuracy" } th.n { "of random" } th {}
                } "\n"
                @for layer in layers {
                    tr {
                        td { (layer.layer) }
                        td class=(if layer.passes { "n s" } else { "n" }) { (number(&layer.concept, |scores| scores.mean)) }
                        td.n { (range(&layer.concept)) }
                        td.n { (number(&layer.random, |scores| scores.mean)) }
                        td.n { (range(&layer.random)) }
                        td.n { (layer.test.map_or_else(String::new, |test| rounded(test.p))) }
                        td.n { (number(&layer.concept, |scores| scores.accuracy)) }
                        td.n { (number(&layer.random, |scores| scores.accuracy)) }
                        td { @match &layer.rejected { Some(reason) => { "rejected: " (reason) } None => { "passes" } } }
                    } "\n"
                }
            }
        } "\n"
    }
}

/// What is said beside a layer's bars.
fn note(layer: &LayerFinding) -> [String; 2] {
    let score = |scores: &Option<Scores>| {
        let scores = scores.as_ref();
        scores.map_or_else(|| "none".to_owned(), |scores| fixed(scores.mean, 2))
    };
    let p = layer.test.map(|test| format!("p {}", rounded(test.p)));
    let verdict = if layer.passes { "passes" } else { "rejected" };
    let both = [score(&layer.concept), score(&layer.random)];
    [
        format!("{} beside {}", both[0], both[1]),
        [p.as_deref(), Some(verdict)]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(", "),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn layers_that_pass_on_both_sides_of_random_are_said_to_disagree() {
        let layer = |name: &str, passes: bool, concept: f64| {
            let scores =
                |mean: f64| json!({ "mean": mean, "interval": [mean, mean], "accuracy": 0.9 });
            json!({ "layer": name, "passes": passes, "test": null, "concept": scores(concept), "random": scores(0.5) })
        };
        let page = |layers: [Value; 3]| {
            let findings = json!({
                "version": "0", "label": "sea", "images": 4, "random_images": 9, "disjoint": true, "score": 0.5, "interval": [0.4, 0.6],
                "layers": layers,
            });
            let findings: TcavFindings = serde_json::from_value(findings).unwrap();
            let report = TcavReport {
                kind: "tcav",
                request: &json!({}),
                model: "tiny",
                class: 0,
                concept: "blue",
                random: "any",
                images_per_set: 9,
                n_random: 20,
                p: 0.01,
                findings: &findings,
            };
            report.html().unwrap()
        };
        let both = [
            layer("first", true, 0.9),
            layer("second", true, 0.1),
            layer("third", true, 0.2),
        ];
        let words = "The layers disagree</b>: 1 of them score above their random vectors, 2 below";
        assert!(page(both).contains(words));
        let alike = [
            layer("first", true, 0.9),
            layer("second", false, 0.1),
            layer("third", true, 0.7),
        ];
        assert!(!page(alike).contains("disagree"));
    }
}
