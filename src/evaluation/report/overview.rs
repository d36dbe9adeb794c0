//! What a page of several metrics begins with: all values in one table, and whether the metrics
//! order the methods alike.

use maud::{Markup, PreEscaped, html};

use super::{ENOUGH, EvaluationReport, ReportError, arrow, scatter};
use crate::evaluation::{
    agreement::{Agreement, FEWEST},
    findings::{MetricFinding, RowFinding},
};

pub(super) fn write(report: &EvaluationReport<'_>) -> Result<Markup, ReportError> {
    Ok(html! {
        (summary(report))
        (agreement(report)?)
    })
}

/// The anchor of a metric's section.
pub(super) fn anchor(place: usize) -> String {
    format!("metric-{}", place + 1)
}

/// Methods down, metrics across.
fn summary(report: &EvaluationReport<'_>) -> Markup {
    let metrics = &report.findings.metrics;
    let used = |metric: &MetricFinding| metric.images(report.findings.used);
    let sure: Vec<Vec<&str>> = metrics
        .iter()
        .map(
            |metric| match metric.is_ranked() && used(metric) >= ENOUGH {
                true => foremost(metric),
                false => Vec::new(),
            },
        )
        .collect();
    html! {
        h2 { "Summary" } "\n"
        p {
            "Each value with its 95 % bootstrap interval. A dash: the metric says nothing about the method. Metrics ask different \
             questions and need not agree, and each orders the methods for itself: no row is the best overall. "
            (bold_words(metrics.iter().map(used)))
        } "\n"
        div.wide {
            table.summary {
                tr {
                    th { "method" }
                    @for (place, metric) in metrics.iter().enumerate() {
                        th.n {
                            a href={ "#" (anchor(place)) } { (metric.title) }
                            small { (arrow(metric)) " " (if metric.is_ranked() { &metric.better } else { "for comparison" }) }
                            @if used(metric) != report.findings.used {
                                small { (used(metric)) " images" }
                            }
                        }
                    }
                } "\n"
                @for title in &report.titles {
                    tr {
                        td { (title) }
                        @for (metric, sure) in metrics.iter().zip(&sure) {
                            @match metric.rows.iter().find(|row| row.title == *title) {
                                Some(row) => { (cell(metric, row, sure.contains(&title.as_str()))) }
                                None => { td.n { "–" } }
                            }
                        }
                    } "\n"
                }
            }
        } "\n"
    }
}

fn cell(metric: &MetricFinding, row: &RowFinding, is_bold: bool) -> Markup {
    let [low, high] = row.interval.map(|end| metric.written(end, 3));
    html! {
        td class=(if is_bold { "n s" } else { "n" }) {
            (metric.written(row.value, 3))
            small { (low) " to " (high) }
        }
    }
}

/// The best row, and those whose paired difference to it may be 0.
fn foremost(metric: &MetricFinding) -> Vec<&str> {
    let rows = metric.by_value();
    let Some(best) = rows.first() else {
        return Vec::new();
    };
    let is_as_good = |row: &&RowFinding| {
        let apart = metric.difference(&row.title, &best.title);
        row.title == best.title || apart.is_some_and(|(_, [low, high])| (low..=high).contains(&0.0))
    };
    let found = rows.iter().copied().filter(is_as_good);
    found.map(|row| row.title.as_str()).collect()
}

/// What is set in bold, by the numbers of images of the metrics.
fn bold_words(images: impl Iterator<Item = usize> + Clone) -> String {
    let few = images.clone().any(|count| count < ENOUGH);
    let enough = images.clone().any(|count| count >= ENOUGH);
    let bold = "Bold: the best of a column, and all whose paired difference to it may be 0 by its 95 % interval.";
    let why =
        format!("below {ENOUGH} images: bootstrap intervals of so few are too narrow to trust.");
    match (few, enough) {
        (false, _) => bold.to_owned(),
        (true, false) => format!("Nothing is set in bold {why}"),
        (true, true) => format!("{bold} Nothing in columns {why}"),
    }
}

/// Rank correlations, and the values behind those that are lowest.
fn agreement(report: &EvaluationReport<'_>) -> Result<Markup, ReportError> {
    let metrics = &report.findings.metrics;
    let found = Agreement::of_all(metrics);
    let lowest = Agreement::lowest(&found);
    let rows = found.iter().map(|pair| pair.rows).max().unwrap_or(0);
    let scattered: Vec<_> = lowest.iter().take(scatter::PANELS).copied().collect();
    let figure = match scattered.is_empty() {
        true => None,
        false => Some(scatter::draw(&scattered, report).map_err(ReportError::Figure)?),
    };
    Ok(html! {
        h2 { "Do the metrics agree?" } "\n"
        @match lowest.first() {
            None => {
                p {
                    "Rank correlations between metrics are told from " (FEWEST) " rows on that differ in both, and there are " (rows) "."
                } "\n"
            }
            Some(first) => {
                p {
                    "Spearman's rank correlation between the metrics over their values of " (rows) " rows, turned so that 1 is the \
                     same order of rows and -1 the opposite one. " (chance_words(rows)) " " (first.words_of_lowest().unwrap_or_default())
                } "\n"
                (correlations(metrics))
            }
        }
        @if let Some(figure) = figure {
            p {
                "The values behind the lowest correlations, with their 95 % intervals. Axes run so that better is to the right and up."
            } "\n"
            div.wide { (PreEscaped(figure)) } "\n"
        }
    })
}

fn chance_words(rows: usize) -> String {
    match Agreement::chance(rows) {
        chance if chance >= 1.0 => {
            format!("Of so few rows as {rows}, no correlation can be told from chance.")
        }
        chance => format!(
            "Of unrelated orders of {rows} rows, at most about one pair in twenty correlates by more than {chance:.2} in magnitude."
        ),
    }
}

/// Metrics down and across.
fn correlations(metrics: &[MetricFinding]) -> Markup {
    let cell = |one: &MetricFinding, other: &MetricFinding| {
        let Agreement {
            rows, correlation, ..
        } = Agreement::of(one, other);
        html! {
            @match correlation {
                Some(found) => {
                    td.n style={ "background:" (shade(found)) } title={ (rows) " rows" } { (format!("{found:+.2}")) }
                }
                None => { td.n title={ (rows) " rows" } { "–" } }
            }
        }
    };
    html! {
        div.wide {
            table {
                tr {
                    th {}
                    @for number in 1..=metrics.len() { th.n { (number) } }
                } "\n"
                @for (row, one) in metrics.iter().enumerate() {
                    tr {
                        th { (row + 1) " " (one.title) }
                        @for (column, other) in metrics.iter().enumerate() {
                            @if row == column { td.n { "·" } } @else { (cell(one, other)) }
                        }
                    } "\n"
                }
            }
        } "\n"
    }
}

/// Blue where metrics agree, orange where they disagree; both are told apart by those who do not
/// see red and green.
fn shade(correlation: f64) -> String {
    let hue = if correlation < 0.0 {
        "213,94,0"
    } else {
        "0,114,178"
    };
    format!("rgba({hue},{:.2})", correlation.abs() * 0.6)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn few_images_are_told_and_nothing_of_them_is_bold() {
        assert!(bold_words([30, 40].into_iter()).starts_with("Bold"));
        let few = bold_words([29, 12].into_iter());
        assert!(few.starts_with("Nothing is set in bold below 30 images"));
        let mixed = bold_words([29, 30].into_iter());
        assert!(mixed.starts_with("Bold") && mixed.contains("below 30 images"));
    }

    #[test]
    fn in_bold_are_the_best_and_what_cannot_be_told_from_it() {
        let row = |title: &str, value: f64| json!({ "title": title, "method": {}, "value": value, "interval": [value, value] });
        let apart = |one: &str, other: &str, interval: [f64; 2]| json!({ "one": one, "other": other, "difference": interval[0], "interval": interval });
        let metric = json!({
            "id": "deletion", "parameters": {}, "title": "", "paper": "", "better": "lower",
            "rows": [row("far", 0.9), row("near", 0.25), row("best", 0.2)],
            "differences": [
                apart("far", "near", [0.5, 0.7]), apart("far", "best", [0.6, 0.8]), apart("near", "best", [-0.1, 0.2]),
            ],
        });
        let metric: MetricFinding = serde_json::from_value(metric).unwrap();
        assert_eq!(foremost(&metric), ["best", "near"]);
    }

    #[test]
    fn four_methods_are_too_few_to_tell_a_correlation_from_chance() {
        assert!(chance_words(4).contains("no correlation"));
        assert!(chance_words(10).contains("0.65"), "{}", chance_words(10));
    }
}
