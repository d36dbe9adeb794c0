//! The page of a report: one file, with figures, tables, sample maps and the request. Escaped by
//! construction.

use maud::{Markup, PreEscaped, html};
use serde_json::{Value, json};

use super::{ENOUGH, EvaluationReport, ReportError, chart, overview};
use crate::evaluation::{
    Metric, Words,
    aggregate::RESAMPLES,
    findings::{Extremes, Findings, ImageFinding, Machine, MetricFinding, Sample},
};
use crate::text::counted;

/// Of every page.
const STYLE: &str = "body{font:15px/1.45 'DejaVu Sans',Verdana,sans-serif;max-width:1160px;margin:2em auto;padding:0 1em;color:#222}\
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}svg{max-width:100%;height:auto}table{border-collapse:collapse;margin:1em 0}\
td,th{padding:.25em .7em;border-bottom:1px solid #ddd;text-align:left}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}\
td.s{font-weight:bold}.wide{overflow-x:auto}img{max-width:100%;height:auto}figure{margin:1em 0}pre{background:#f5f5f5;padding:1em;overflow-x:auto}small{color:#666}";

/// Of what stands on pages of several metrics, and of those with thumbnails.
const MORE_STYLE: &str = "td small,th small{display:block;font-weight:normal}.summary th.n{max-width:9em;vertical-align:top}\
.summary a{color:inherit}.summary td.n small{white-space:nowrap}.summary td:first-child{white-space:nowrap}.images{display:flex;flex-wrap:wrap;gap:1em 3em}\
figure.image{display:flex;gap:.8em;margin:0}figure.image img{align-self:flex-start;border:1px solid #ddd}";

pub(super) fn write(report: &EvaluationReport<'_>) -> Result<String, ReportError> {
    let findings = report.findings;
    let what = match findings.metrics.as_slice() {
        [only] => &only.title,
        _ => "Evaluation",
    };
    let title = format!("{what}: {} on {}", report.model, report.dataset);
    let is_many = findings.metrics.len() > 1;
    let has_more = is_many
        || findings
            .metrics
            .iter()
            .any(|metric| metric.extremes.is_some());
    let body = html! {
        p { (counts(report)) } "\n"
        @if findings.used == 0 {
            p { b { "No image could be used: there is nothing to compare." } } "\n"
        } @else {
            @if is_many { (overview::write(report)?) }
            @for (place, metric) in findings.metrics.iter().enumerate() { (section(report, place, metric)?) }
            (samples(&findings.samples))
        }
        (skipped(findings))
        (again(report.kind, report.request, paper(findings))?)
        (machine(&findings.version, findings.run.as_ref()))
    };
    let more = if has_more { MORE_STYLE } else { "" };
    Ok(page(&title, more, &body))
}

/// A page in one file, without anything from elsewhere: what stands below its title. `more` is added
/// to the style.
pub fn page(title: &str, more: &str, body: &Markup) -> String {
    let page = html! {
        (PreEscaped("<!doctype html>\n"))
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width,initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) (PreEscaped(more)) }
            }
            body {
                "\n"
                h1 { (title) } "\n"
                (body)
            }
        } "\n"
    };
    page.into_string()
}

/// What was used; of one metric, also what it is about.
fn counts(report: &EvaluationReport<'_>) -> Markup {
    let findings = report.findings;
    let left_out: usize = findings.skipped.values().sum();
    html! {
        @if findings.run.is_none() {
            b { "Partial results: the job has not run to its end." } " "
        }
        (counted(findings.used, "image")) " used, " (left_out) " left out"
        @if let Some(limit) = report.limit {
            "; at most " (limit) " were drawn at random from the data set, with seed " (report.seed)
        }
        @if let Some(budget) = report.budget {
            "; the budget was " (budget) " evaluations"
        }
        "."
        @if let [only] = findings.metrics.as_slice() { " " (about(only)) }
    }
}

fn about(metric: &MetricFinding) -> Markup {
    html! {
        @if let Some(found) = metric.metric() {
            ((found.words.about)(&metric.parameters))
            @if metric.is_ranked() { " A " (metric.better) " " (found.words.column) " is better." }
            @else { " None is better: it is there to hold others against." }
        }
    }
}

/// A metric's figure and tables; where there are several, below a heading.
fn section(
    report: &EvaluationReport<'_>,
    place: usize,
    metric: &MetricFinding,
) -> Result<Markup, ReportError> {
    let is_one = report.findings.metrics.len() == 1;
    let is_measured = metric.images(report.findings.used) > 0;
    let figure = chart::draw(&[report.figure(metric)]).map_err(ReportError::Figure)?;
    Ok(html! {
        @if !is_one {
            h2 id=(overview::anchor(place)) { (metric.title) } "\n"
            p { (about(metric)) } "\n"
        }
        @if is_measured {
            div.wide { (PreEscaped(figure)) } "\n"
        } @else {
            p { b { "No image says anything to this metric." } } "\n"
        }
        @if let Some(found) = metric.metric() {
            @if is_measured {
                (heading(is_one, found.words.heading)) "\n"
                (values(report, metric, &found.words))
                (heading(is_one, "Paired differences")) "\n"
                (differences(metric.images(report.findings.used), metric, &found.words))
            }
            (left_out(metric, found))
            (extremes(is_one, report.findings, metric))
        }
        @if !is_one {
            p { small { (metric.paper) "." } } "\n"
        }
    })
}

/// Images and methods that say nothing to a metric alone.
fn left_out(metric: &MetricFinding, found: &Metric) -> Markup {
    html! {
        @if !metric.skipped.is_empty() {
            @let counts = metric.skipped.iter().map(|(reason, count)| format!("{count} {reason}"));
            p { "Images that this metric leaves out: " (counts.collect::<Vec<_>>().join(", ")) "." } "\n"
        }
        @if !metric.excluded.is_empty() {
            p { "It says nothing about " (metric.excluded.join(", ")) ": " (found.needs.exclusion) "." } "\n"
        }
    }
}

/// The images of the best and of the worst mean over rows.
fn extremes(is_one: bool, findings: &Findings, metric: &MetricFinding) -> Markup {
    let shown = |word: &str, image: &ImageFinding| {
        let [low, high] = image.range.map(|end| metric.written(end, 3));
        html! {
            figure.image {
                @if let Some(picture) = findings.thumbnails.get(&image.index) {
                    img alt={ "Thumbnail of " (image.file) } src={ "data:image/jpeg;base64," (picture) };
                }
                figcaption {
                    b { (word) ": " (metric.written(image.value, 3)) }
                    @if let Some(label) = &image.label { br; (label) }
                    br; small { (image.file) br; "rows from " (low) " to " (high) }
                }
            }
        }
    };
    html! {
        @if let Some(Extremes { best, worst }) = &metric.extremes {
            (heading(is_one, "Best and worst image")) "\n"
            p { "By the mean of all rows on the image, with the class that is explained." } "\n"
            div.images {
                (shown("Best", best))
                (shown("Worst", worst))
            } "\n"
        }
    }
}

fn heading(is_one: bool, text: &str) -> Markup {
    html! {
        @if is_one { h2 { (text) } } @else { h3 { (text) } }
    }
}

/// The rows, the best first.
fn values(report: &EvaluationReport<'_>, metric: &MetricFinding, words: &Words) -> Markup {
    let parameters = |method: &serde_json::Map<String, Value>| {
        let others = method.iter().filter(|(name, _)| *name != "id");
        let words = others.map(|(name, value)| match value.as_str() {
            Some(text) => format!("{name} {text}"),
            None => format!("{name} {value}"),
        });
        words.collect::<Vec<_>>().join(", ")
    };
    html! {
        p {
            (words.value) " 95 % intervals: percentiles of " (RESAMPLES) " bootstrap resamples of the images (ChaCha8, seed " (report.seed)
            "), the same for all rows."
        } "\n"
        div.wide {
            table {
                tr { th { "method" } th.n { (words.column) } th.n { "from" } th.n { "to" } th { "parameters" } } "\n"
                @for row in metric.by_value() {
                    tr {
                        td { (row.title) }
                        td.n { (metric.written(row.value, 4)) }
                        td.n { (metric.written(row.interval[0], 4)) }
                        td.n { (metric.written(row.interval[1], 4)) }
                        td { small { (parameters(&row.method)) } }
                    } "\n"
                }
            }
        } "\n"
    }
}

/// Row less column, both by value.
fn differences(used: usize, metric: &MetricFinding, words: &Words) -> Markup {
    let rows = metric.by_value();
    let is_bold = metric.is_ranked() && used >= ENOUGH;
    let cell = |(difference, [low, high]): (f64, [f64; 2])| {
        let is_sure = is_bold && (low > 0.0 || high < 0.0);
        let [low, high] = [low, high].map(|end| metric.written(end, 4));
        let sign = if difference.is_sign_negative() {
            ""
        } else {
            "+"
        };
        html! {
            td class=(if is_sure { "n s" } else { "n" }) title={ (low) " to " (high) } { (sign) (metric.written(difference, 3)) }
        }
    };
    html! {
        p {
            (capital(words.column)) " of the row minus that of the column, on the same images. "
            @if is_bold { "Bold: the 95 % interval excludes 0." }
            @else if metric.is_ranked() { "Nothing is set in bold below " (ENOUGH) " images: bootstrap intervals of so few are too narrow to trust." }
            " Hover for the interval. " (metric.differences.len())
            " pairs are compared without correction for multiple comparisons: of pairs without any difference, about one in twenty \
             has an interval that excludes 0."
        } "\n"
        div.wide {
            table {
                tr {
                    th {}
                    @for number in 1..=rows.len() { th.n { (number) } }
                } "\n"
                @for (number, row) in rows.iter().enumerate() {
                    tr {
                        th { (number + 1) " " (row.title) }
                        @for other in &rows {
                            @match metric.difference(&row.title, &other.title) {
                                Some(found) => { (cell(found)) }
                                None => { td {} }
                            }
                        }
                    } "\n"
                }
            }
        } "\n"
    }
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    let first = letters.next().map(char::to_uppercase);
    first.into_iter().flatten().chain(letters).collect()
}

/// Maps of the first images, to see what was compared.
fn samples(samples: &[Sample]) -> Markup {
    html! {
        @if !samples.is_empty() {
            h2 { "Sample maps" } "\n"
            p {
                "Of the first images that were used: the part that the network saw, the class that it predicts with its score, \
                 and the maps that were ranked."
            } "\n"
            @for Sample { file, maps } in samples {
                figure {
                    img alt={ "Maps of " (file) } src={ "data:image/jpeg;base64," (maps) };
                    figcaption { small { (file) } }
                } "\n"
            }
        }
    }
}

fn skipped(findings: &Findings) -> Markup {
    let counts = findings.skipped.iter();
    let counts: Vec<String> = counts
        .map(|(reason, count)| format!("{count} {}", reason.words()))
        .collect();
    let all: usize = findings.skipped.values().sum();
    let unnamed = all.saturating_sub(findings.skipped_images.len());
    html! {
        h2 { "Left out" } "\n"
        @if findings.skipped_images.is_empty() {
            p { "No image was left out." } "\n"
        } @else {
            p { (counts.join(", ")) "." } "\n"
            details {
                summary { "which" }
                table {
                    tr { th { "file" } th { "reason" } th {} } "\n"
                    @for image in &findings.skipped_images {
                        tr { td { (image.file) } td { (image.reason.words()) } td { (image.detail) } } "\n"
                    }
                }
                @if unnamed > 0 { p { "And " (unnamed) " more." } }
            } "\n"
        }
    }
}

/// Of a report about one metric.
fn paper(findings: &Findings) -> Option<&str> {
    match findings.metrics.as_slice() {
        [only] => Some(&only.paper),
        _ => None,
    }
}

/// A settled request as it is posted again.
pub fn requested(kind: &str, request: &Value) -> Value {
    let mut request = request.clone();
    request["kind"] = json!(kind);
    request
}

/// The request of a job, to be posted again; and the paper that it follows.
pub fn again(kind: &str, request: &Value, paper: Option<&str>) -> serde_json::Result<Markup> {
    let request = serde_json::to_string_pretty(&requested(kind, request))?;
    Ok(html! {
        h2 { "To run it again" } "\n"
        p {
            "POST this to /jobs of a server that has the same model and data set. It holds every parameter, settled, and the hashes of \
             the model, its patterns and the data set: on others it is refused. A job that makes models, supports or data sets needs other \
             names for them, or those deleted."
        } "\n"
        pre { (request) } "\n"
        @if let Some(paper) = paper {
            p { small { (paper) "." } } "\n"
        }
    })
}

/// What it ran on, and when: on a line of its own, which alone differs in a repetition.
pub fn machine(version: &str, run: Option<&Machine>) -> Markup {
    html! {
        @if let Some(Machine { onnxruntime, providers, threads, ended }) = run {
            p {
                small {
                    "explaind " (version) ", ONNX Runtime " (onnxruntime) ", execution provider " (providers) ", "
                    (threads) " threads."
                }
            } "\n"
            @if let Some(ended) = ended {
                p { small { "Ended at " time { (ended) } "." } } "\n"
            }
        } @else {
            p { small { "explaind " (version) ". These are partial results: the job has not run to its end." } } "\n"
        }
    }
}
