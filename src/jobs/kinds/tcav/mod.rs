//! `tcav`: concept activation vectors of a model's layers. A shard is a few draws at a few layers: it
//! fits their vectors and follows the class's logit along them. It keeps no file: activations are
//! computed again by the next shard, and as many are held at once as fit [`spec::SHARD_BYTES`].

mod measure;
mod spec;

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    cost::{check_total, check_turn},
    evaluate::{self, with_machine},
    images::{enveloped, stored},
    request_reader::RequestReader,
};
use crate::{
    app::App,
    evaluation::report::ReportError,
    jobs::{
        Context, Format, JobError, Kind, Plan, PlannedShard, Report, Results, Shard, ShardResults,
        WorkError,
    },
    tcav::{
        findings::{
            Accuracy, DrawResult, LayerFinding, ModelFinding, TcavFindings, correlation, overall,
        },
        report::TcavReport,
    },
};
use measure::ShardContext;
use spec::{Sets, Settled, Spec};

pub static TCAV: Tcav = Tcav;

#[derive(Debug)]
pub struct Tcav;

/// What a shard does.
#[derive(Debug, Serialize, Deserialize)]
struct Payload {
    /// The first draw, and the one behind the last.
    draws: [usize; 2],
    layers: Vec<String>,
    /// Which of the models: 0 is the one that is evaluated.
    #[serde(default)]
    model: usize,
    /// Whether it tells the model's accuracy, too.
    #[serde(default)]
    judges: bool,
}

/// What a shard found.
#[derive(Debug, Serialize, Deserialize)]
struct ShardResult {
    #[serde(default)]
    model: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    accuracy: Option<Accuracy>,
    label: Option<String>,
    /// Of the class.
    images: usize,
    random_images: usize,
    disjoint: bool,
    layers: Vec<LayerResult>,
}

#[derive(Debug, Serialize, Deserialize)]
struct LayerResult {
    layer: String,
    draws: Vec<DrawResult>,
}

impl Kind for Tcav {
    fn id(&self) -> &'static str {
        "tcav"
    }

    fn doc(&self) -> &'static str {
        "Tests whether a concept, given by images, raises the logit of a class: concept activation vectors at several layers against random ones"
    }

    fn parameters(&self) -> &'static [(&'static str, &'static str)] {
        &[
            evaluate::MODEL,
            (
                "models",
                "a list of up to 16 ids of other models that are tested with the same images, at layers of the same names: the model contrast \
                 score is the score of each less that of `model`; default: none",
            ),
            (
                "dataset",
                "the id of the data set with images of the class; those of role `concept` or `random` are none; where some have the role \
                 `with`, those alone",
            ),
            ("class", "the label or the index of the class"),
            (
                "concept",
                "the id of the data set with images of the concept: those of role `concept`, or all where none has that role; default: \
                 `dataset`",
            ),
            (
                "random",
                "the id of the data set with images of anything: those of role `random`, or all where none has that role; default: \
                 `dataset`",
            ),
            (
                "layers",
                "a list of up to 16 names, as GET /models/{id} lists them under `activations`; default: up to five of `layers`, evenly \
                 spaced, and the input of the last layer with weights",
            ),
            (
                "n_random",
                "draws of random images that the concept is set against, 20 to 1000; default: 20",
            ),
            (
                "images_per_set",
                "images of the concept and of each random set, 9 to 1000; default: 50, or fewer where there are not so many",
            ),
            (
                "limit",
                "most images of the class, drawn at random by `seed`; default: all",
            ),
            (
                "p",
                "layers whose scores differ from random ones with a higher p value are rejected; default: 0.01",
            ),
            (
                "regularisation",
                "of the classifier, 0.0001 to 10000: the factor of the squared length of its normal, in units of the layer's spread; \
                 default: 0.01",
            ),
            ("seed", "of all draws; default: 0"),
        ]
    }

    fn plan<'a>(
        &'a self,
        given: Map<String, Value>,
        app: &'a App,
    ) -> BoxFuture<'a, Result<Plan, JobError>> {
        Box::pin(async move {
            let mut asked = RequestReader::new(given, app);
            let sets = spec::find_sets(&mut asked).await;
            let plan = move || plan(asked, sets);
            app.pool().run(plan).await?
        })
    }

    fn work<'a>(
        &'a self,
        context: &'a Context,
        shard: &'a Shard,
    ) -> BoxFuture<'a, Result<Bytes, WorkError>> {
        Box::pin(async move {
            let payload: Payload = stored(&shard.payload)?;
            let [first, end] = payload.draws;
            let judges = payload.judges;
            let shard = ShardContext::open(context, payload.model, payload.layers).await?;
            let result = shard.measure(first..end, judges).await?;
            let bytes = serde_json::to_vec(&result).map_err(WorkError::permanent)?;
            Ok(bytes.into())
        })
    }

    fn reduce(&self, spec: &Value, results: Results<'_>) -> Result<Value, WorkError> {
        let findings = reduce(&stored(spec)?, results)?;
        serde_json::to_value(findings).map_err(WorkError::permanent)
    }

    fn complete<'a>(
        &'a self,
        context: &'a Context,
        reduced: Value,
        _: ShardResults,
    ) -> BoxFuture<'a, Result<Value, WorkError>> {
        Box::pin(async move { Ok(with_machine(context, reduced)) })
    }

    /// Without the score of each draw.
    fn overview(&self, result: Arc<Value>) -> Arc<Value> {
        let mut shown = result.as_ref().clone();
        drop_draws(&mut shown);
        let models = shown.get_mut("models").and_then(Value::as_array_mut);
        models.into_iter().flatten().for_each(drop_draws);
        Arc::new(shown)
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
        let (settled, findings): (Spec, TcavFindings) = (stored(spec)?, stored(result)?);
        if format == Format::Json {
            let findings = findings.repeatable();
            return Ok(Report::Bytes(
                enveloped(self.id(), spec, &json!(findings))?.into(),
            ));
        }
        let report = TcavReport {
            kind: self.id(),
            request: spec,
            model: &settled.model,
            class: settled.class,
            concept: &settled.concept,
            random: &settled.random,
            images_per_set: settled.images_per_set,
            n_random: settled.n_random,
            p: settled.p,
            findings: &findings,
        };
        let bytes = written(&report, format).map_err(WorkError::permanent)?;
        Ok(Report::Bytes(bytes.into()))
    }
}

/// Leaves the scores of single draws out.
fn drop_draws(model: &mut Value) {
    let layers = model["layers"].as_array_mut().into_iter().flatten();
    for layer in layers {
        for side in ["concept", "random"] {
            if let Some(scores) = layer[side].as_object_mut() {
                scores.shift_remove("each");
            }
        }
    }
}

fn written(report: &TcavReport<'_>, format: Format) -> Result<Vec<u8>, ReportError> {
    match format {
        Format::Csv => report.csv(),
        Format::Svg => report.svg().map(String::into_bytes),
        Format::Png => report.png(),
        _ => report.html().map(String::into_bytes),
    }
}

fn plan(asked: RequestReader, sets: Sets) -> Result<Plan, JobError> {
    let app = asked.app().clone();
    let settled = spec::settle(asked, sets)?;
    let shards = shards(&settled);
    let lower = |_: u64| {
        ["limit", "n_random", "images_per_set", "layers", "models"]
            .map(|name| (name, None::<String>))
            .to_vec()
    };
    let units = shards.iter().map(|shard| shard.units);
    let longest = units.clone().max().unwrap_or_default();
    let lower = check_turn(&app, "a part of the job costs", longest, lower)?;
    check_total(&app, units.sum(), lower)?;
    Ok(Plan {
        model: Some(settled.spec.model.clone()),
        spec: json!(settled.spec),
        shards,
    })
}

/// Every part of the layers takes all draws, some at a time. A shard's units are its evaluations.
fn shards(settled: &Settled) -> Vec<PlannedShard> {
    let Settled {
        spec,
        images,
        pairs,
        parts,
        draws_at_once,
    } = settled;
    let starts = || (0..spec.n_random).step_by(*draws_at_once);
    let shard = |part: usize, first: usize| {
        let (model, layers) = &parts[part];
        let end = (first + draws_at_once).min(spec.n_random);
        let is_models_first =
            first == 0 && parts.iter().position(|(of, _)| of == model) == Some(part);
        let payload = Payload {
            draws: [first, end],
            layers: layers.clone(),
            model: *model,
            judges: *pairs > 0 && is_models_first,
        };
        let judging = if payload.judges { 2 * pairs } else { 0 };
        PlannedShard {
            units: (spec.evaluations(*images, end - first) + judging) as u64,
            payload: json!(payload),
            needs_previous: false,
        }
    };
    let shards = (0..parts.len()).flat_map(|part| starts().map(move |first| (part, first)));
    shards.map(|(part, first)| shard(part, first)).collect()
}

fn reduce(spec: &Spec, results: Results<'_>) -> Result<TcavFindings, WorkError> {
    let mut draws: BTreeMap<(usize, String), Vec<DrawResult>> = BTreeMap::new();
    let mut accuracies: BTreeMap<usize, Accuracy> = BTreeMap::new();
    let mut known = None;
    for result in results.flatten() {
        let result: ShardResult = serde_json::from_slice(&result).map_err(WorkError::permanent)?;
        for LayerResult { layer, draws: own } in result.layers {
            draws.entry((result.model, layer)).or_default().extend(own);
        }
        accuracies.extend(result.accuracy.map(|accuracy| (result.model, accuracy)));
        known = Some((
            result.label,
            result.images,
            result.random_images,
            result.disjoint,
        ));
    }
    let (label, images, random_images, disjoint) = known.unwrap_or_default();
    let mut layers_of = |model: usize| -> Vec<LayerFinding> {
        let layers = spec.layers.iter().map(|layer| {
            let mut draws = draws.remove(&(model, layer.clone())).unwrap_or_default();
            draws.sort_by_key(|draw| draw.draw);
            LayerFinding::of(layer.clone(), &draws, images, spec.p)
        });
        layers.collect()
    };
    let layers = layers_of(0);
    let accuracy = accuracies.remove(&0);
    let models = spec.models.iter().enumerate().map(|(at, id)| {
        let accuracy = accuracies.remove(&(at + 1));
        ModelFinding::of(id.clone(), layers_of(at + 1), accuracy, &layers)
    });
    let models: Vec<ModelFinding> = models.collect();
    let found = overall(&layers);
    Ok(TcavFindings {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        label,
        images,
        random_images,
        disjoint,
        score: found.map(|(score, _)| score),
        interval: found.map(|(_, interval)| interval),
        layers,
        accuracy,
        correlation: correlation(accuracy, &models),
        models,
        run: None,
    })
}
