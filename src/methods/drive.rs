//! Drives a method over the engine: target on the clean input, runs, answers. The only file of the room that holds the engine.
//! The clean input is evaluated once: by the run itself where it asks for it, else through the forward graph.

use std::{sync::Arc, time::Duration};

use futures::future::try_join_all;
use serde::Serialize;

use super::{
    Attribution, Fault, Faults, Run, Step, Subject, head_value,
    parameters::{Facts, Parameters},
    target::{Classes, Goal, ranked},
};
use crate::{
    autodiff::spec::{DeriveSpec, Head, PatternLayers, SeedRule, Wrt},
    engine::{Caller, Engine, EngineError, Point, Row},
    image::baseline::{self, Material},
    model::Model,
    pool::{Pool, WorkPanicked},
    tensor::Tensor,
};

#[derive(Debug, thiserror::Error)]
pub enum MethodError {
    #[error(transparent)]
    Parameters(#[from] Faults),
    #[error(
        "{method} needs patterns and model {model} has none; run `explaind fit-patterns --model {model} --images FOLDER`"
    )]
    PatternsMissing { model: String, method: &'static str },
    #[error("this costs {cost} evaluations and at most {limit} are allowed here; lower the cost or run it as a job")]
    TooCostly { cost: usize, limit: usize },
    #[error("the input has shape {found:?}; model {model} takes {expected:?}")]
    Shape { model: String, expected: Vec<usize>, found: Vec<usize> },
    #[error("model {model} answers this input with values that are not finite")]
    NotFinite { model: String },
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Panicked(#[from] WorkPanicked),
}

/// How many classes an answer lists.
const TOP: usize = 5;

/// What a request is worked on with, and for whom.
#[derive(Clone, Copy)]
pub struct Means<'a> {
    pub engine: &'a Engine,
    /// For a method's own arithmetic.
    pub pool: &'a Pool,
    pub caller: &'a Caller,
}

/// What to do with one input.
#[derive(Clone, Debug)]
pub struct Request {
    pub parameters: Parameters,
    /// What the baseline `uploaded` stands for, already preprocessed.
    pub uploaded_baseline: Option<Arc<Tensor>>,
    /// A request that costs more is refused.
    pub max_evaluations: Option<usize>,
}

/// One answer: a method's map for one target.
#[derive(Clone, Debug)]
pub struct Explained {
    pub target: Explanandum,
    /// The five best classes of the clean input.
    pub predictions: Vec<Prediction>,
    /// With the target that was resolved.
    pub parameters: Arc<Parameters>,
    /// Its warnings are about the map.
    pub attribution: Attribution,
    pub timing: Timing,
    /// Rows that the model was asked for, the clean input among them.
    pub evaluations: usize,
}

/// A class and its score: the probability, or the bare output of a net that has only one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    pub index: usize,
    /// Of models with labels.
    pub label: Option<String>,
    pub score: f32,
}

/// The class explained; `against` is the class it was contrasted with.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanandum {
    #[serde(flatten)]
    pub class: Prediction,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub against: Option<Prediction>,
}

/// Time in the queue, and of the device on the batches concerned; summed over the evaluations one after another.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    pub queue: Duration,
    pub model: Duration,
}

/// What [`Parameters::parse`] needs of a model.
pub fn facts(model: &Model) -> Facts<'_> {
    Facts {
        model: &model.id,
        head: model.manifest.head,
        pattern_layers: &model.manifest.pattern_layers,
        classes: Classes { labels: &model.labels, count: model.classes() },
        has_patterns: model.patterns.is_some(),
    }
}

/// Explains `input` (without batch axis): one answer, or k for `top:k`.
pub async fn explain(
    means: Means<'_>,
    model: &Arc<Model>,
    input: Arc<Tensor>,
    request: &Request,
) -> Result<Vec<Explained>, MethodError> {
    let parameters = &request.parameters;
    check(model, &input, parameters)?;
    let target = parameters.target;
    let mut effort = Effort::default();
    // A class of a model whose outputs cannot be counted beforehand is checked against the clean row.
    let first = target.needs_logits() || model.classes().is_none();
    let cost = parameters.cost(first);
    if let Some(limit) = request.max_evaluations
        && cost > limit
    {
        return Err(MethodError::TooCostly { cost, limit });
    }
    let baselines = {
        let (model, input, request) = (model.clone(), input.clone(), request.clone());
        means.pool.run(move || resolve_baselines(&model, &input, &request)).await??
    };
    let clean = if first { Some(forward(means, model, &input, &mut effort).await?) } else { None };
    if let Some(row) = &clean {
        check_classes(parameters, row.logits.len())?;
    }
    let goals = target.resolve(clean.as_ref().map_or(&[], |row| &row.logits));
    try_join_all(goals.into_iter().map(|goal| {
        let seed: Arc<[(usize, f32)]> = goal.seed().into();
        let subject = Subject {
            input: input.clone(),
            input_value: clean.as_ref().map(|row| head_value(row, parameters.head, &seed)),
            seed,
            baselines: baselines.clone(),
            parameters: Arc::new(Parameters { target: goal.target(), ..parameters.clone() }),
        };
        answer(means, model, subject, goal, clean.clone(), effort)
    }))
    .await
}

/// The `top_k` best classes of `input` (without batch axis).
pub async fn predict(
    means: Means<'_>,
    model: &Arc<Model>,
    input: Arc<Tensor>,
    top_k: usize,
) -> Result<(Vec<Prediction>, Timing), MethodError> {
    check_shape(model, &input)?;
    let mut effort = Effort::default();
    let row = forward(means, model, &input, &mut effort).await?;
    Ok((predictions(model, &row, top_k), effort.timing))
}

#[derive(Clone, Copy, Default)]
struct Effort {
    timing: Timing,
    evaluations: usize,
}

async fn answer(
    means: Means<'_>,
    model: &Arc<Model>,
    subject: Subject,
    goal: Goal,
    mut clean: Option<Row>,
    mut effort: Effort,
) -> Result<Explained, MethodError> {
    let Subject { input, parameters, .. } = subject.clone();
    let mut run = (parameters.method.build)(subject);
    let mut answers = Vec::new();
    let mut attribution = loop {
        let (same, step) = means.pool.run(move || step(run, answers)).await?;
        run = same;
        match step {
            Step::Done(attribution) => break attribution,
            Step::Evaluate(points) => {
                let at = points.iter().position(|point| Arc::ptr_eq(&point.input, &input));
                answers = evaluate(means, model, &run.spec(), points, &mut effort).await?;
                if let Some(row) = at.and_then(|at| answers.get(at))
                    && clean.is_none()
                {
                    clean = Some(Row { cotangents: Vec::new(), activation: None, ..row.clone() });
                }
            }
        }
    };
    let clean = match clean {
        Some(row) => row,
        None => forward(means, model, &input, &mut effort).await?,
    };
    if clean.logits.iter().any(|logit| !logit.is_finite()) {
        return Err(MethodError::NotFinite { model: model.id.clone() });
    }
    attribution.warnings.extend(doubts(&attribution.scores));
    Ok(Explained {
        target: Explanandum {
            class: prediction(model, &clean, goal.index),
            against: goal.against.map(|other| prediction(model, &clean, other)),
        },
        predictions: predictions(model, &clean, TOP),
        parameters,
        attribution,
        timing: effort.timing,
        evaluations: effort.evaluations,
    })
}

/// Takes the run along, and frees the answers.
fn step(mut run: Box<dyn Run>, answers: Vec<Row>) -> (Box<dyn Run>, Step) {
    let step = run.step(&answers);
    (run, step)
}

async fn evaluate(
    means: Means<'_>,
    model: &Arc<Model>,
    spec: &DeriveSpec,
    points: Vec<Point>,
    effort: &mut Effort,
) -> Result<Vec<Row>, MethodError> {
    effort.evaluations += points.len();
    let evaluated = means.engine.evaluate(model, spec, points, means.caller).await?;
    effort.timing.queue += evaluated.queue;
    effort.timing.model += evaluated.model;
    Ok(evaluated.rows)
}

/// The row of the clean input, finite, through the forward graph.
async fn forward(
    means: Means<'_>,
    model: &Arc<Model>,
    input: &Arc<Tensor>,
    effort: &mut Effort,
) -> Result<Row, MethodError> {
    let spec = DeriveSpec {
        rule_sets: Vec::new(),
        wrt: Wrt::Input,
        head: Head::Logits,
        seed: SeedRule::One,
        pattern_layers: PatternLayers::All,
    };
    let point = Point { input: input.clone(), seed: Arc::new([]) };
    let rows = evaluate(means, model, &spec, vec![point], effort).await?;
    rows.into_iter()
        .next()
        .filter(|row| row.logits.iter().all(|logit| logit.is_finite()))
        .ok_or_else(|| MethodError::NotFinite { model: model.id.clone() })
}

fn check(model: &Model, input: &Tensor, parameters: &Parameters) -> Result<(), MethodError> {
    check_shape(model, input)?;
    let method = parameters.method;
    if method.needs_patterns() && model.patterns.is_none() {
        return Err(MethodError::PatternsMissing { model: model.id.clone(), method: method.id });
    }
    if let Some(count) = model.classes() {
        check_classes(parameters, count)?;
    }
    Ok(())
}

fn check_shape(model: &Model, tensor: &Tensor) -> Result<(), MethodError> {
    let expected = &model.manifest.input.shape;
    if tensor.shape() == expected.as_slice() {
        return Ok(());
    }
    Err(MethodError::Shape { model: model.id.clone(), expected: expected.clone(), found: tensor.shape().to_vec() })
}

fn resolve_baselines(model: &Model, input: &Tensor, request: &Request) -> Result<Vec<Arc<Tensor>>, Faults> {
    if request.parameters.baselines() == 0 {
        return Ok(Vec::new());
    }
    let material = Material {
        preprocess: model.manifest.input.preprocess.as_ref(),
        uploaded: request.uploaded_baseline.as_deref(),
        seed_value: request.parameters.seed_value,
    };
    match request.parameters.baseline.resolve(input, &material) {
        Ok(baselines) => Ok(baselines.into_iter().map(Arc::new).collect()),
        Err(error) => {
            let allowed = baseline::ALLOWED.iter().map(|form| (*form).to_owned()).collect();
            Err(Faults(vec![Fault { param: "baseline".into(), message: error.to_string(), allowed }]))
        }
    }
}

fn check_classes(parameters: &Parameters, count: usize) -> Result<(), Faults> {
    let mut faults = Vec::new();
    if parameters.target.largest().is_some_and(|index| index >= count) || parameters.target.answers() > count {
        let message = format!("the model has {count} classes");
        faults.push(Fault { param: "target".into(), message, allowed: vec![format!("0..{count}")] });
    }
    faults.extend(parameters.single_output_fault(Some(count)));
    if faults.is_empty() { Ok(()) } else { Err(Faults(faults)) }
}

fn predictions(model: &Model, row: &Row, top: usize) -> Vec<Prediction> {
    ranked(&row.logits).into_iter().take(top).map(|index| prediction(model, row, index)).collect()
}

fn prediction(model: &Model, row: &Row, index: usize) -> Prediction {
    let scores = if row.logits.len() == 1 { &row.logits } else { &row.probabilities };
    let score = scores.get(index).copied().unwrap_or(f32::NAN);
    Prediction { index, label: model.labels.get(index).cloned(), score }
}

/// What a reader of the map should know.
fn doubts(scores: &Tensor) -> Option<String> {
    let wrong = scores.iter().filter(|score| !score.is_finite()).count();
    if wrong > 0 {
        Some(format!("{wrong} of {} scores are not finite", scores.len()))
    } else if scores.iter().all(|&score| score == 0.0) {
        Some("every score is zero: the target does not react to this input".to_owned())
    } else {
        None
    }
}
