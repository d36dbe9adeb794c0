//! The report of an evaluation: a figure for each metric (svg, png), a table (csv), and one
//! self-contained page with figures, tables and the request (html).

mod chart;
mod overview;
mod page;
mod scatter;

use image::{Rgb, RgbImage};
use serde_json::{Value, json};

use super::{
    agreement::Agreement,
    findings::{Findings, MetricFinding},
};
use crate::render::{RenderError, encode::encode_png, svg::paint};

pub use page::{again, machine, page, requested};

/// Images from which on intervals are trusted enough to set anything in bold.
pub const ENOUGH: usize = 30;

/// Findings, and what they are about.
#[derive(Clone, Debug)]
pub struct EvaluationReport<'a> {
    /// Of job.
    pub kind: &'a str,
    /// The settled request, as it is.
    pub request: &'a Value,
    pub model: &'a str,
    pub dataset: &'a str,
    /// Images drawn at most; all without it.
    pub limit: Option<usize>,
    /// Evaluations that the number of images was lowered for.
    pub budget: Option<u64>,
    pub seed: u64,
    /// Of its rows, in the order of the request.
    pub titles: Vec<String>,
    pub findings: &'a Findings,
}

#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    #[error("the figure cannot be drawn: {0}")]
    Figure(String),
    #[error(transparent)]
    Render(#[from] RenderError),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Csv(#[from] csv::Error),
}

impl EvaluationReport<'_> {
    pub fn html(&self) -> Result<String, ReportError> {
        page::write(self)
    }

    /// The figures of all metrics, one below the other.
    pub fn svg(&self) -> Result<String, ReportError> {
        let metrics = &self.findings.metrics;
        let figures: Vec<_> = metrics.iter().map(|metric| self.figure(metric)).collect();
        chart::draw(&figures).map_err(ReportError::Figure)
    }

    pub fn png(&self) -> Result<Vec<u8>, ReportError> {
        let height = self.findings.metrics.iter().map(chart::height_of).sum();
        let mut picture = RgbImage::from_pixel(chart::WIDTH, height, Rgb([255; 3]));
        paint(&mut picture, &self.svg()?)?;
        Ok(encode_png(&picture, &[])?)
    }

    /// A line for each metric and row: its value, and its mean curve, separated by spaces.
    pub fn csv(&self) -> Result<Vec<u8>, ReportError> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record([
            "metric", "measure", "row", "method", "value", "low", "high", "images", "curve",
        ])?;
        for metric in &self.findings.metrics {
            for row in &metric.rows {
                let curve = row.mean_curve.iter().map(f64::to_string);
                writer.write_record([
                    metric.id.clone(),
                    metric.title.clone(),
                    row.title.clone(),
                    Value::Object(row.method.clone()).to_string(),
                    row.value.to_string(),
                    row.interval[0].to_string(),
                    row.interval[1].to_string(),
                    metric.images(self.findings.used).to_string(),
                    curve.collect::<Vec<_>>().join(" "),
                ])?;
            }
        }
        let bytes = writer.into_inner();
        bytes.map_err(|error| csv::Error::from(error.into_error()).into())
    }

    /// Everything but what is for people to look at, and what would tell a repetition from the first
    /// run.
    pub fn json(&self) -> Result<Vec<u8>, ReportError> {
        let findings = self.findings.repeatable();
        let Self { kind, request, .. } = self;
        let mut report =
            json!({ "kind": kind, "request": requested(kind, request), "result": findings });
        report["result"]["agreement"] = json!(Agreement::of_all(&findings.metrics));
        Ok(serde_json::to_vec_pretty(&report)?)
    }

    fn figure<'a>(&'a self, metric: &'a MetricFinding) -> chart::Figure<'a> {
        chart::Figure {
            title: format!("{} of {} on {}", metric.title, self.model, self.dataset),
            metric,
            images: metric.images(self.findings.used),
        }
    }
}

fn arrow(metric: &MetricFinding) -> &'static str {
    match metric.better.as_str() {
        "higher" => "↑",
        "lower" => "↓",
        _ => "",
    }
}
