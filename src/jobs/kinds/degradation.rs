//! `degradation`: an [`evaluate`] of the metric `degradation` alone, whose parameters stand beside
//! those of the job, and whose areas and curves have names of their own in results and reports.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    evaluate::{
        self,
        spec::{self, Metrics, Spec},
    },
    images::{enveloped, stored},
    request_reader::RequestReader,
};
use crate::{
    app::App,
    evaluation::{
        Metric,
        degradation::{DegradationParameters, METRIC},
        findings::{
            DifferenceFinding, Findings, ImageResult, Machine, MetricEntry, MetricFinding, Outcome,
            Reason, RowFinding, Sample, SkippedImage,
        },
        parameters::{self, Values},
        report::EvaluationReport,
    },
    jobs::{
        Context, Format, JobError, Kind, Plan, Report, Results, Shard, ShardResults, WorkError,
    },
    model::Model,
};

pub static DEGRADATION: Degradation = Degradation;

#[derive(Debug)]
pub struct Degradation;

impl Kind for Degradation {
    fn id(&self) -> &'static str {
        "degradation"
    }

    fn doc(&self) -> &'static str {
        "Replaces the patches that each method ranks first and follows the score of the predicted class: the faster it falls, the better"
    }

    fn parameters(&self) -> &'static [(&'static str, &'static str)] {
        &[
            evaluate::MODEL,
            evaluate::DATASET,
            evaluate::METHODS,
            ("grid", "patches along each side; default: 25"),
            ("steps", "patches replaced; default: 100"),
            (
                "order",
                "`descending` (most important first, the default) or `ascending`",
            ),
            (
                "replacement",
                "`mean` (of the patch, per channel; the default), `zero` (in the model's input space) or `blur` (sigma 10)",
            ),
            evaluate::ROLE,
            evaluate::LIMIT,
            evaluate::LABELS,
            evaluate::SEED,
            (
                "compat",
                "`pgig-2020`: as in the published code of the PGIG paper",
            ),
        ]
    }

    fn plan<'a>(
        &'a self,
        given: Map<String, Value>,
        app: &'a App,
    ) -> BoxFuture<'a, Result<Plan, JobError>> {
        Box::pin(async move {
            let mut asked = RequestReader::new(given, app);
            let dataset = asked.dataset().await;
            let plan = move || {
                let app = asked.app().clone();
                let settled = spec::settle(asked, dataset, read_degradation)?;
                let rows = settled.rows.len() as u64;
                let shards = evaluate::shards(&app, &settled, |most, explaining| {
                    let steps = most.saturating_sub(explaining) / rows;
                    vec![
                        ("steps", (steps > 0).then(|| format!("1 to {steps}"))),
                        ("methods", None),
                    ]
                })?;
                Ok(Plan {
                    model: Some(settled.spec.model.clone()),
                    spec: json!(flat(settled.spec)?),
                    shards,
                })
            };
            app.pool().run(plan).await?
        })
    }

    fn work<'a>(
        &'a self,
        context: &'a Context,
        shard: &'a Shard,
    ) -> BoxFuture<'a, Result<Bytes, WorkError>> {
        Box::pin(async move {
            let results = evaluate::work(context, nested(stored(&context.spec)?)?, shard).await?;
            let results: Vec<DegradationResult> = results.into_iter().map(Into::into).collect();
            let bytes = serde_json::to_vec(&results).map_err(WorkError::permanent)?;
            Ok(bytes.into())
        })
    }

    fn reduce(&self, spec: &Value, results: Results<'_>) -> Result<Value, WorkError> {
        let spec = nested(stored(spec)?)?;
        let findings = evaluate::findings(&spec, results, read)?;
        serde_json::to_value(DegradationFindings::from(findings)).map_err(WorkError::permanent)
    }

    fn complete<'a>(
        &'a self,
        context: &'a Context,
        reduced: Value,
        _: ShardResults,
    ) -> BoxFuture<'a, Result<Value, WorkError>> {
        Box::pin(async move { Ok(evaluate::with_machine(context, reduced)) })
    }

    fn overview(&self, result: Arc<Value>) -> Arc<Value> {
        evaluate::without_pictures(result)
    }

    fn formats(&self) -> &'static [Format] {
        &[
            Format::Html,
            Format::Json,
            Format::Csv,
            Format::Svg,
            Format::Png,
        ]
    }

    fn report(&self, spec: &Value, result: &Value, format: Format) -> Result<Report, WorkError> {
        let settled = nested(stored(spec)?)?;
        let findings: DegradationFindings = stored(result)?;
        let findings = findings.of(&settled);
        write(spec, &settled, &findings, format).map(|bytes| Report::Bytes(bytes.into()))
    }
}

/// The report in one of the kind's formats.
fn write(
    request: &Value,
    spec: &Spec,
    findings: &Findings,
    format: Format,
) -> Result<Vec<u8>, WorkError> {
    let report = evaluate::report_of(DEGRADATION.id(), request, spec, findings);
    match format {
        Format::Csv => csv(&report).map_err(WorkError::permanent),
        Format::Json => {
            let findings = DegradationFindings::from(findings.repeatable());
            enveloped(DEGRADATION.id(), request, &json!(findings))
        }
        _ => evaluate::drawn(&report, format).map_err(WorkError::permanent),
    }
}

/// A line for each row: what it is, its area, and its mean curve.
fn csv(report: &EvaluationReport<'_>) -> Result<Vec<u8>, csv::Error> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let rows = report
        .findings
        .metrics
        .iter()
        .flat_map(|metric| &metric.rows);
    let steps = rows.clone().next().map_or(0, |row| row.mean_curve.len());
    let head = ["row", "method", "area", "area_low", "area_high", "images"].map(str::to_owned);
    let steps = (0..steps).map(|k| format!("step_{k}"));
    writer.write_record(head.into_iter().chain(steps))?;
    for row in rows {
        let method = Value::Object(row.method.clone()).to_string();
        let numbers = [row.value, row.interval[0], row.interval[1]];
        let start = [row.title.clone(), method]
            .into_iter()
            .chain(numbers.map(|number| number.to_string()))
            .chain([report.findings.used.to_string()]);
        writer.write_record(start.chain(row.mean_curve.iter().map(f64::to_string)))?;
    }
    writer
        .into_inner()
        .map_err(|error| error.into_error().into())
}

/// The metric's parameters among those of the job.
fn read_degradation(asked: &mut RequestReader, model: Option<&Model>) -> Vec<MetricEntry> {
    let names = METRIC.parameters.iter().map(|parameter| parameter.name);
    let given = names.filter_map(|name| Some((name.to_owned(), asked.raw(name)?)));
    let given: Map<String, Value> = given.collect();
    let Some(model) = model else {
        return Vec::new();
    };
    match parameters::settle(&METRIC, given, model) {
        Ok(parameters) => vec![entry(parameters)],
        Err(faults) => {
            asked.faults.append(faults, |fault| fault);
            Vec::new()
        }
    }
}

fn entry(parameters: Values) -> MetricEntry {
    MetricEntry {
        id: METRIC.id.to_owned(),
        parameters,
    }
}

/// The request as it is stored and told.
fn flat(spec: Spec) -> Result<Spec<DegradationParameters>, WorkError> {
    let entry = spec.measured.metrics.first();
    let values = entry
        .map(|entry| entry.parameters.clone())
        .unwrap_or_default();
    let parameters = values.read().map_err(WorkError::permanent)?;
    Ok(spec.measuring(parameters).0)
}

/// The request as one of `evaluate`.
fn nested(spec: Spec<DegradationParameters>) -> Result<Spec, WorkError> {
    let parameters = json!(spec.measured);
    let metrics = vec![entry(stored(&parameters)?)];
    Ok(spec.measuring(Metrics::of(metrics)).0)
}

/// What a shard keeps of an image.
#[derive(Debug, Serialize, Deserialize)]
struct DegradationResult {
    index: usize,
    file: String,
    #[serde(flatten)]
    outcome: DegradationOutcome,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
enum DegradationOutcome {
    Measured {
        class: usize,
        label: Option<String>,
        /// The score of the class at each step, for each row.
        curves: Vec<Vec<f32>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        maps: Option<String>,
    },
    Skipped {
        reason: Reason,
        detail: String,
    },
}

impl From<ImageResult> for DegradationResult {
    fn from(image: ImageResult) -> Self {
        let outcome = match image.outcome {
            Outcome::Measured {
                class,
                label,
                measurements,
                maps,
            } => DegradationOutcome::Measured {
                class,
                label,
                curves: measurements.into_iter().next().unwrap_or_default(),
                maps,
            },
            Outcome::Skipped { reason, detail } => DegradationOutcome::Skipped { reason, detail },
        };
        Self {
            index: image.index,
            file: image.file,
            outcome,
        }
    }
}

impl From<DegradationResult> for ImageResult {
    fn from(image: DegradationResult) -> Self {
        let outcome = match image.outcome {
            DegradationOutcome::Measured {
                class,
                label,
                curves,
                maps,
            } => Outcome::Measured {
                class,
                label,
                measurements: vec![curves],
                maps,
            },
            DegradationOutcome::Skipped { reason, detail } => Outcome::Skipped { reason, detail },
        };
        Self {
            index: image.index,
            file: image.file,
            outcome,
        }
    }
}

/// The result of a job: [`Findings`] of one metric.
#[derive(Debug, Serialize, Deserialize)]
struct DegradationFindings {
    metric: String,
    paper: String,
    better: String,
    version: String,
    used: usize,
    skipped: BTreeMap<Reason, usize>,
    rows: Vec<DegradationRow>,
    differences: Vec<DifferenceFinding>,
    skipped_images: Vec<SkippedImage>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    samples: Vec<Sample>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    run: Option<Machine>,
}

#[derive(Debug, Serialize, Deserialize)]
struct DegradationRow {
    title: String,
    method: Map<String, Value>,
    /// Under the mean curve, over the mean clean score: 1 for a ranking that changes nothing.
    area: f64,
    interval: [f64; 2],
    mean_curve: Vec<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    band: Option<Vec<[f64; 2]>>,
}

impl From<Findings> for DegradationFindings {
    fn from(findings: Findings) -> Self {
        let Metric { title, paper, .. } = METRIC;
        let measured = findings.metrics.into_iter().next();
        let (better, rows, differences) = measured.map_or_else(Default::default, |measured| {
            (measured.better, measured.rows, measured.differences)
        });
        let row = |row: RowFinding| DegradationRow {
            title: row.title,
            method: row.method,
            area: row.value,
            interval: row.interval,
            mean_curve: row.mean_curve,
            band: row.band,
        };
        Self {
            metric: title.to_owned(),
            paper: paper.to_owned(),
            better,
            version: findings.version,
            used: findings.used,
            skipped: findings.skipped,
            rows: rows.into_iter().map(row).collect(),
            differences,
            skipped_images: findings.skipped_images,
            samples: findings.samples,
            run: findings.run,
        }
    }
}

impl DegradationFindings {
    /// As those of an evaluation.
    fn of(self, spec: &Spec) -> Findings {
        let row = |row: DegradationRow| RowFinding {
            title: row.title,
            method: row.method,
            value: row.area,
            interval: row.interval,
            mean_curve: row.mean_curve,
            band: row.band,
        };
        let rows: Vec<RowFinding> = self.rows.into_iter().map(row).collect();
        let entry = spec.measured.metrics.first();
        let metric = MetricFinding {
            id: METRIC.id.to_owned(),
            parameters: entry
                .map(|entry| entry.parameters.clone())
                .unwrap_or_default(),
            title: self.metric,
            paper: self.paper,
            better: self.better,
            skipped: BTreeMap::new(),
            excluded: Vec::new(),
            rows,
            differences: self.differences,
            extremes: None,
        };
        Findings {
            version: self.version,
            used: self.used,
            skipped: self.skipped,
            metrics: vec![metric],
            skipped_images: self.skipped_images,
            samples: self.samples,
            thumbnails: BTreeMap::new(),
            tables: None,
            run: self.run,
        }
    }
}

fn read(image: DegradationResult) -> ImageResult {
    image.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::findings::MAX_SKIPPED;

    fn spec() -> Value {
        json!({
            "model": "<tiny>", "model_hash": "aa", "patterns": null, "dataset": "photos", "dataset_hash": "bb",
            "methods": [{ "id": "gradient", "score": "signed" }, { "id": "gradient", "score": "absolute" }, { "id": "random", "seed": 0, "score": "signed" }],
            "grid": 2, "steps": 2, "order": "descending", "replacement": "mean", "limit": null, "labels": "use", "seed": 0
        })
    }

    fn findings() -> Findings {
        let image = |index, outcome| ImageResult {
            index,
            file: format!("{index}.png"),
            outcome,
        };
        let measured = |shift: f32| Outcome::Measured {
            class: 1,
            label: None,
            measurements: vec![vec![
                vec![0.9, 0.5 + shift, 0.1],
                vec![0.9, 0.4 + shift, 0.0],
                vec![0.9, 0.9, 0.8 + shift],
            ]],
            maps: (shift == 0.0).then(|| "/9j/".to_owned()),
        };
        let corrupt = Outcome::Skipped {
            reason: Reason::CorruptImage,
            detail: "cut <off>".into(),
        };
        let images = vec![
            image(0, measured(0.05)),
            image(1, corrupt),
            image(2, measured(0.0)),
        ];
        found(images)
    }

    fn settled() -> Spec {
        nested(serde_json::from_value(spec()).unwrap()).unwrap()
    }

    fn found(images: Vec<ImageResult>) -> Findings {
        let images: Vec<DegradationResult> = images.into_iter().map(Into::into).collect();
        let shard = Bytes::from(serde_json::to_vec(&images).unwrap());
        evaluate::findings(&settled(), &mut [Some(shard)].into_iter(), read).unwrap()
    }

    fn text(format: Format) -> String {
        String::from_utf8(write(&spec(), &settled(), &findings(), format).unwrap()).unwrap()
    }

    #[test]
    fn the_table_holds_areas_and_curves() {
        let table = text(Format::Csv);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(
            lines[0],
            "row,method,area,area_low,area_high,images,step_0,step_1,step_2"
        );
        assert!(
            lines.len() == 4
                && lines[1].starts_with("gradient (signed),")
                && lines[3].starts_with("random,"),
            "{table}"
        );
        let area = |line: usize| findings().metrics[0].rows[line - 1].value;
        // (0.9 + 2 · 0.525 + 0.1) / 4 / 0.9
        assert!((area(1) - 2.05 / 3.6).abs() < 1e-6 && area(2) < area(1) && area(1) < area(3));
    }

    #[test]
    fn the_page_is_one_file_with_everything_to_run_it_again() {
        let page = text(Format::Html);
        assert!(
            !page.contains("href=")
                && !page.contains("src=\"http")
                && !page.contains("<script")
                && !page.contains("<link")
        );
        assert!(
            page.matches("src=").count() == 1
                && page.contains(r#"src="data:image/jpeg;base64,/9j/""#)
        );
        assert!(
            page.contains("2000 bootstrap resamples")
                && page.contains("seed 0")
                && page.contains("viewport")
        );
        assert!(
            page.contains("<svg")
                && page.contains("&lt;tiny&gt;")
                && page.contains("cut &lt;off&gt;")
                && !page.contains("<tiny>")
        );
        for part in [
            "model_hash",
            "dataset_hash",
            "&quot;kind&quot;: &quot;degradation&quot;",
            "1 corrupt",
            "gradient (absolute)",
        ] {
            assert!(page.contains(part), "{part}");
        }
        assert!(
            page.find("gradient (absolute)") < page.find("random"),
            "the best first"
        );
    }

    #[test]
    fn differences_are_in_bold_from_thirty_images_on() {
        let page = |count: usize| {
            let image = |index| {
                let curves = vec![
                    vec![0.9, 0.5, 0.1],
                    vec![0.9, 0.4, 0.0],
                    vec![0.9, 0.9, 0.8],
                ];
                let outcome = Outcome::Measured {
                    class: 1,
                    label: None,
                    measurements: vec![curves],
                    maps: None,
                };
                ImageResult {
                    index,
                    file: format!("{index}.png"),
                    outcome,
                }
            };
            let found = self::found((0..count).map(image).collect());
            String::from_utf8(write(&spec(), &settled(), &found, Format::Html).unwrap()).unwrap()
        };
        let (few, enough) = (page(29), page(30));
        assert!(few.contains("below 30 images") && !few.contains(r#"class="n s""#));
        assert!(
            enough.contains("Bold: the 95 % interval excludes 0")
                && enough.contains(r#"class="n s""#)
        );
        assert!(few.contains("3 pairs are compared without correction"));
    }

    #[test]
    fn the_page_alone_tells_when_it_ended() {
        let run = Machine {
            onnxruntime: "1.31.1".into(),
            providers: "cpu".into(),
            threads: 2,
            ended: Some("2026-11-28T23:59:00Z".into()),
        };
        let found = Findings {
            run: Some(run),
            ..findings()
        };
        let written = |format| {
            String::from_utf8_lossy(&write(&spec(), &settled(), &found, format).unwrap())
                .into_owned()
        };
        for format in [Format::Json, Format::Csv, Format::Svg] {
            assert!(!written(format).contains("2026-11-28"), "{format:?}");
        }
        let page = written(Format::Html);
        assert!(page.contains("ONNX Runtime 1.31.1, execution provider cpu, 2 threads"));
        assert!(page.contains("<time>2026-11-28T23:59:00Z</time>"));
        assert!(
            written(Format::Json).contains("1.31.1") && !written(Format::Json).contains("/9j/")
        );
    }

    #[test]
    fn of_very_many_images_left_out_the_first_are_named_and_all_are_counted() {
        let corrupt = |index| {
            let outcome = Outcome::Skipped {
                reason: Reason::CorruptImage,
                detail: "cut off".into(),
            };
            ImageResult {
                index,
                file: format!("{index}.png"),
                outcome,
            }
        };
        let found = self::found((0..MAX_SKIPPED + 5).map(corrupt).collect());
        assert_eq!(
            (
                found.skipped_images.len(),
                found.skipped[&Reason::CorruptImage]
            ),
            (MAX_SKIPPED, MAX_SKIPPED + 5)
        );
        let page =
            String::from_utf8(write(&spec(), &settled(), &found, Format::Html).unwrap()).unwrap();
        assert!(
            page.contains("999.png") && !page.contains("1000.png") && page.contains("And 5 more")
        );
        assert!(page.contains("1005 left out") && page.contains("1005 corrupt"));
    }

    #[test]
    fn the_picture_is_the_drawing() {
        let png = write(&spec(), &settled(), &findings(), Format::Png).unwrap();
        let picture = image::load_from_memory(&png).unwrap().into_rgb8();
        assert_eq!(picture.dimensions(), (1120, 560));
        let [gradient, random] =
            ["gradient", "random"].map(|id| crate::methods::registry::find(id).unwrap().color);
        for color in [gradient, random] {
            let coloured = picture.pixels().filter(|pixel| pixel.0 == color).count();
            assert!(
                coloured > 300,
                "the curves of {color:?} have {coloured} pixels"
            );
        }
        assert!(text(Format::Svg).starts_with("<svg"));
    }

    #[test]
    fn a_report_of_no_image_says_so() {
        let none = found(Vec::new());
        let page =
            String::from_utf8(write(&spec(), &settled(), &none, Format::Html).unwrap()).unwrap();
        assert!(page.contains("nothing to compare"));
        for format in [Format::Csv, Format::Svg, Format::Png, Format::Json] {
            assert!(
                !write(&spec(), &settled(), &none, format)
                    .unwrap()
                    .is_empty()
            );
        }
    }
}
