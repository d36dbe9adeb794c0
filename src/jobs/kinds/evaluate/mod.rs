//! `evaluate`: metrics of several methods on a data set. A shard is a few images; each is explained
//! by all methods once, together, so that they share points and forward passes, and its maps go to
//! every metric. An image that cannot be used is left out for all methods and metrics, with its
//! reason: they are compared on the same images.

mod end;
mod measure;
pub(super) mod spec;

use std::{num::NonZeroUsize, sync::Arc, thread, time::SystemTime};

use bytes::Bytes;
use futures::future::BoxFuture;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    cost::{check_evaluations, check_output},
    images::{shard_size, stored, used},
    output::writes_to_data,
    request_reader::RequestReader,
};
use crate::{
    app::App,
    engine::runtime_version,
    evaluation::{
        Needs,
        findings::{Findings, Gathering, ImageResult, Machine, MetricEntry, SAMPLES},
        report::{EvaluationReport, ReportError},
        tidy::TableSize,
    },
    faults::{Fault, Faults},
    jobs::{
        Context, Format, JobError, Kind, Plan, PlannedShard, Report, Results, Shard, ShardResults,
        WorkError,
    },
    methods::parameters::Parameters,
};
use measure::ShardContext;
use spec::{ResolvedRequest, Spec};

/// Evaluations of a shard, about: a few seconds.
const SHARD_EVALUATIONS: usize = 1500;
/// Images of which maps are kept: the first that can be used are shown.
const SAMPLED: usize = 4 * SAMPLES;

/// Parameters that every evaluation takes, each with what it is and its default.
pub(super) const MODEL: (&str, &str) = ("model", "the model's id; default: as for POST /explain");
pub(super) const DATASET: (&str, &str) = ("dataset", "the id of the data set");
pub(super) const METHODS: (&str, &str) = (
    "methods",
    "a list of method ids, or of objects with `id`, the method's parameters, and `score`: `signed` or `absolute` (ranked by \
     magnitude); sensitivity methods get both without it; or `all`: every method that the model supports, by its defaults",
);
pub(super) const ROLE: (&str, &str) = (
    "role",
    "only images of this role; default: all, or `with` where a metric compares pairs or models",
);
pub(super) const LIMIT: (&str, &str) = (
    "limit",
    "most images, drawn at random by `seed`; default: all",
);
pub(super) const LABELS: (&str, &str) = (
    "labels",
    "`use` (labelled images that the model misclassifies are left out; the default) or `ignore`",
);
pub(super) const SEED: (&str, &str) = (
    "seed",
    "of the draw, the bootstrap, and what methods draw; default: 0",
);

pub static EVALUATE: Evaluate = Evaluate;

#[derive(Debug)]
pub struct Evaluate;

#[derive(Serialize, Deserialize)]
struct Payload {
    /// Places in the data set.
    images: Vec<usize>,
    /// Of so many of them, from the first, maps are kept.
    #[serde(default)]
    samples: usize,
}

impl Kind for Evaluate {
    fn id(&self) -> &'static str {
        "evaluate"
    }

    fn doc(&self) -> &'static str {
        "Measures methods by metrics on the images of a data set"
    }

    fn parameters(&self) -> &'static [(&'static str, &'static str)] {
        &[
            MODEL,
            DATASET,
            METHODS,
            (
                "metrics",
                "a list of metric ids, or of objects with `id` and the metric's parameters: see docs/metrics.md",
            ),
            ROLE,
            LIMIT,
            (
                "budget",
                "most evaluations: fewer images are drawn where all would cost more; default: none",
            ),
            LABELS,
            SEED,
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
                let budget = asked.take("budget", &["a whole number from 1"], |most| *most > 0u64);
                let mut settled = spec::settle(asked, dataset, spec::read_metrics)?;
                if let Some(budget) = budget {
                    keep_within(budget, &mut settled)?;
                }
                check_tables(&app, &settled)?;
                let shards = shards(&app, &settled, |_, _| {
                    vec![("metrics", None), ("methods", None)]
                })?;
                Ok(Plan {
                    model: Some(settled.spec.model.clone()),
                    spec: json!(settled.spec),
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
            let results = work(context, stored(&context.spec)?, shard).await?;
            let bytes = serde_json::to_vec(&results).map_err(WorkError::permanent)?;
            Ok(bytes.into())
        })
    }

    fn reduce(&self, spec: &Value, results: Results<'_>) -> Result<Value, WorkError> {
        let findings = findings(&stored(spec)?, results, |image: ImageResult| image)?;
        serde_json::to_value(findings).map_err(WorkError::permanent)
    }

    fn complete<'a>(
        &'a self,
        context: &'a Context,
        reduced: Value,
        results: ShardResults,
    ) -> BoxFuture<'a, Result<Value, WorkError>> {
        Box::pin(async move {
            let completed = end::complete(context, reduced, results).await?;
            Ok(with_machine(context, completed))
        })
    }

    fn overview(&self, result: Arc<Value>) -> Arc<Value> {
        without_pictures(result)
    }

    fn formats(&self) -> &'static [Format] {
        &[
            Format::Html,
            Format::Json,
            Format::Csv,
            Format::Svg,
            Format::Png,
            Format::TidyCsv,
            Format::TidyJsonl,
        ]
    }

    fn report(&self, spec: &Value, result: &Value, format: Format) -> Result<Report, WorkError> {
        if let Format::TidyCsv | Format::TidyJsonl = format {
            let folder = Path::from(result["tables"].as_str().unwrap_or_default());
            return Ok(Report::File(folder.join(format.name())));
        }
        let (settled, findings): (Spec, Findings) = (stored(spec)?, stored(result)?);
        let report = report_of(self.id(), spec, &settled, &findings);
        let bytes = match format {
            Format::Csv => report.csv(),
            Format::Json => report.json(),
            _ => drawn(&report, format),
        };
        Ok(Report::Bytes(bytes.map_err(WorkError::permanent)?.into()))
    }
}

/// The shards of an evaluation. `lower` says what to lower where an image may cost at most so many
/// evaluations, and its explanations cost so many.
pub(super) fn shards(
    app: &App,
    settled: &ResolvedRequest,
    lower: impl FnOnce(u64, u64) -> Vec<(&'static str, Option<String>)>,
) -> Result<Vec<PlannedShard>, JobError> {
    let ResolvedRequest { spec, dataset, .. } = settled;
    let [explaining, cost] = costs(settled);
    let images = used(dataset, spec.role.as_deref(), spec.limit, spec.seed);
    check_evaluations(app, cost, images.len(), |most| {
        lower(most, explaining as u64)
    })?;
    let size = shard_size(cost + work_beside(settled), SHARD_EVALUATIONS);
    let shards = images.chunks(size).enumerate().map(|(at, images)| {
        let payload = Payload {
            images: images.to_vec(),
            samples: SAMPLED.saturating_sub(at * size).min(images.len()),
        };
        PlannedShard {
            units: images.len() as u64,
            payload: json!(payload),
            needs_previous: false,
        }
    });
    Ok(shards.collect())
}

/// Evaluations of an image: of its explanations, and of all.
fn costs(settled: &ResolvedRequest) -> [usize; 2] {
    let of_rows = |rows: &[&Parameters]| Parameters::cost_of(rows.iter().copied(), true);
    let explaining = of_rows(&Vec::from_iter(
        settled.rows.iter().map(|row| &row.parameters),
    ));
    let measuring = measured(settled).map(|(entry, needs, rows)| {
        (needs.cost.count)(&entry.parameters, rows.len(), of_rows(&rows))
    });
    [explaining, explaining + measuring.sum::<usize>()]
}

/// What metrics do with an image beside evaluations, in evaluations that take as long.
fn work_beside(settled: &ResolvedRequest) -> usize {
    let work = measured(settled).map(|(_, needs, rows)| (needs.work)(rows.len()));
    work.sum()
}

/// The metrics that measure something of their own, with the rows that they measure it of.
fn measured(
    ResolvedRequest { spec, rows, .. }: &ResolvedRequest,
) -> impl Iterator<Item = (&MetricEntry, &'static Needs, Vec<&Parameters>)> {
    let entries = &spec.measured.metrics;
    entries
        .iter()
        .enumerate()
        .filter_map(move |(place, entry)| {
            let needs = &entry.metric()?.needs;
            let mut before = entries.iter().take(place);
            if before.any(|other| entry.shares_with(other)) {
                return None;
            }
            let rows = rows.iter().map(|row| &row.parameters);
            let rows = rows.filter(|row| !(needs.excludes)(row)).collect();
            Some((entry, needs, rows))
        })
}

/// Lowers the number of images until all of them cost no more than `budget`.
fn keep_within(budget: u64, settled: &mut ResolvedRequest) -> Result<(), Faults> {
    let [_, cost] = costs(settled);
    let affordable = budget / cost.max(1) as u64;
    if affordable == 0 {
        let message = format!(
            "one image costs {cost} evaluations by these methods and metrics: raise the budget, or take fewer of them"
        );
        return Err(Fault::new("budget", message, [format!("{cost} and more")]).into());
    }
    let ResolvedRequest { spec, dataset, .. } = settled;
    let images = used(dataset, spec.role.as_deref(), spec.limit, spec.seed).len();
    if let Some(lower) = usize::try_from(affordable)
        .ok()
        .filter(|most| *most < images)
    {
        spec.limit = Some(lower);
    }
    spec.measured.budget = Some(budget);
    Ok(())
}

/// Refuses tables of single images that would be larger than is allowed.
fn check_tables(app: &App, settled: &ResolvedRequest) -> Result<(), JobError> {
    let ResolvedRequest { spec, dataset, .. } = settled;
    let size = TableSize::of(&spec.measured.metrics, &spec.methods);
    let images = used(dataset, spec.role.as_deref(), spec.limit, spec.seed);
    let bytes = check_output(app, &images, |index| {
        let image = dataset.images.get(*index);
        image.map_or(0, |image| size.of_image(&image.file))
    })?;
    if writes_to_data(app) {
        // It is asked for again when they are written: others may take it until then.
        app.quota().reserve(bytes.iter().sum())?;
    }
    Ok(())
}

/// The results of a shard's images.
pub(super) async fn work(
    context: &Context,
    spec: Spec,
    shard: &Shard,
) -> Result<Vec<ImageResult>, WorkError> {
    let images = ShardContext::open(context, spec).await?;
    let payload: Payload = stored(&shard.payload)?;
    let mut results = Vec::with_capacity(payload.images.len());
    for (at, index) in payload.images.into_iter().enumerate() {
        results.push(images.measure(index, at < payload.samples).await?);
        context.report_progress(results.len() as u64);
    }
    Ok(results)
}

/// What the images of all shards that are done come to.
pub(super) fn findings<T: for<'a> Deserialize<'a>>(
    spec: &Spec,
    results: Results<'_>,
    read: fn(T) -> ImageResult,
) -> Result<Findings, WorkError> {
    let metrics: &[MetricEntry] = &spec.measured.metrics;
    let mut gathering = Gathering::new(metrics, &spec.methods).map_err(WorkError::permanent)?;
    let mut is_whole = true;
    for result in results {
        let Some(result) = result else {
            is_whole = false;
            continue;
        };
        let images: Vec<T> = serde_json::from_slice(&result).map_err(WorkError::permanent)?;
        for image in images {
            gathering.add(read(image)).map_err(WorkError::permanent)?;
        }
    }
    let mut findings = gathering.findings(spec.seed);
    if !is_whole {
        // Readers who watch it run need none.
        findings.samples.clear();
    }
    Ok(findings)
}

/// A result, with what it was made by.
pub(super) fn with_machine(context: &Context, mut reduced: Value) -> Value {
    let cores = || thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let providers = context
        .app
        .engine()
        .providers()
        .iter()
        .map(ToString::to_string);
    let machine = Machine {
        onnxruntime: runtime_version(),
        providers: providers.collect::<Vec<_>>().join(", "),
        threads: Some(context.app.settings().threads)
            .filter(|threads| *threads > 0)
            .unwrap_or_else(cores),
        ended: Some(humantime::format_rfc3339_seconds(SystemTime::now()).to_string()),
    };
    reduced["run"] = json!(machine);
    reduced
}

/// A result without its pictures, which are large, and without what is the server's own.
pub(super) fn without_pictures(result: Arc<Value>) -> Arc<Value> {
    let Some(fields) = result.as_object() else {
        return result;
    };
    let hidden = ["samples", "thumbnails", "tables"];
    let shown = fields
        .iter()
        .filter(|(name, _)| !hidden.contains(&name.as_str()));
    Arc::new(Value::Object(
        shown
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
    ))
}

pub(super) fn report_of<'a>(
    kind: &'a str,
    request: &'a Value,
    spec: &'a Spec,
    findings: &'a Findings,
) -> EvaluationReport<'a> {
    EvaluationReport {
        kind,
        request,
        model: &spec.model,
        dataset: &spec.dataset,
        limit: spec.limit,
        budget: spec.measured.budget,
        seed: spec.seed,
        titles: spec.titles(),
        findings,
    }
}

/// The report for people to look at: a page, or the figures alone.
pub(super) fn drawn(report: &EvaluationReport<'_>, format: Format) -> Result<Vec<u8>, ReportError> {
    match format {
        Format::Svg => report.svg().map(String::into_bytes),
        Format::Png => report.png(),
        _ => report.html().map(String::into_bytes),
    }
}
