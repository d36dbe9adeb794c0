//! Drives methods over the engine: target on the clean input, runs, answers. The only file of the
//! room that holds the engine. The clean input is evaluated once: by the run itself where it asks
//! for it, else through the forward graph.

use std::{fmt, sync::Arc, time::Duration};

use futures::future::try_join_all;
use ndarray::Array2;
use serde::Serialize;

use super::{
    Attribution, Fault, Faults, Run, Step, Subject, doubts, head_value,
    parameters::{Facts, Parameters, SegmentSource},
    shared::{Ask, deal, merge},
    target::{Goal, ranked},
    xrai,
};
use crate::{
    engine::{Caller, Engine, EngineError, Point, Row},
    model::{Model, labels::Classes},
    picture::{
        ImageError,
        baseline::{self, Baseline, Material, Pictures, Term},
        input::InputPicture,
        preprocess::{self, Layout},
    },
    pool::{Pool, WorkPanicked},
    segment::Segmentation,
    tensor::Tensor,
    text::{excerpt, quoted},
};
use onnx_autodiff::autodiff::spec::DeriveSpec;

#[derive(Debug, thiserror::Error)]
pub enum MethodError {
    #[error(transparent)]
    Parameters(#[from] Faults),
    #[error(
        "{method} with rule set {rule_set} needs patterns and model {model} has none; run `explaind fit-patterns --model {} --images FOLDER`; for a running server, then send it SIGHUP or restart it",
        quoted(model)
    )]
    PatternsMissing {
        model: String,
        method: &'static str,
        rule_set: &'static str,
    },
    #[error(
        "{method} looks at the picture that the input shows, and model {model} takes ready tensors that show none"
    )]
    NoPicture { model: String, method: &'static str },
    #[error(
        "this costs {cost} evaluations and at most {limit} are allowed here; lower the cost or run it as a job"
    )]
    TooCostly { cost: usize, limit: usize },
    #[error("the input has shape {found:?}; model {model} takes {expected:?}")]
    Shape {
        model: String,
        expected: Vec<usize>,
        found: Vec<usize>,
    },
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
    /// Where the baseline `dataset:<id>` is drawn from.
    pub pictures: Option<&'a Arc<dyn Pictures>>,
}

/// One way to explain an input.
#[derive(Clone, Debug)]
pub struct Request {
    pub parameters: Parameters,
    /// Draws baselines; `parameters.seed` draws all else.
    pub baseline_seed: u64,
    /// What the baseline `uploaded` stands for, already preprocessed.
    pub uploaded_baseline: Option<Arc<Tensor>>,
    /// What the segments `uploaded` stand for, in the model's pixels.
    pub uploaded_segments: Option<Arc<Segmentation>>,
}

impl Request {
    /// Without uploads; one seed draws all.
    pub fn of(parameters: Parameters) -> Self {
        Self {
            baseline_seed: parameters.seed,
            parameters,
            uploaded_baseline: None,
            uploaded_segments: None,
        }
    }
}

/// What [`explain`] gives.
#[derive(Clone, Debug)]
pub struct Answered {
    /// For each request, in order.
    pub explained: Vec<Vec<Explained>>,
    /// Rows that the model was asked for: fewer than the answers count where they share points.
    pub evaluations: usize,
    pub timing: Timing,
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
    /// Rows that this answer alone needs, the clean input among them.
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

/// Time in the queue, and of the device on the batches concerned; summed over the evaluations one
/// after another.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    pub queue: Duration,
    pub model: Duration,
}

impl Timing {
    fn add(&mut self, other: &Timing) {
        self.queue += other.queue;
        self.model += other.model;
    }
}

impl fmt::Display for Explanandum {
    /// `285 Egyptian_cat`, and for a contrast `285 Egyptian_cat - 281 tabby`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let classes = [Some(&self.class), self.against.as_ref()]
            .into_iter()
            .flatten();
        let names = classes.map(|class| match &class.label {
            Some(label) => format!("{} {label}", class.index),
            None => class.index.to_string(),
        });
        f.write_str(&names.collect::<Vec<_>>().join(" - "))
    }
}

/// What [`Parameters::parse`] needs of a model.
pub fn facts(model: &Model) -> Facts<'_> {
    Facts {
        model: &model.id,
        head: model.manifest.head,
        pattern_layers: &model.manifest.pattern_layers,
        classes: Classes {
            labels: &model.labels,
            count: model.classes(),
        },
        has_patterns: model.patterns.is_some(),
        layers: &model.layers,
        layer: model.manifest.layer.as_deref(),
    }
}

/// What it costs to explain one input in all these ways, in evaluations, and whether the clean
/// input is evaluated first: a class of a model whose outputs cannot be counted beforehand is
/// checked against the clean row.
pub fn cost<'a>(
    model: &Model,
    ways: impl Iterator<Item = &'a Parameters> + Clone,
) -> (usize, bool) {
    let first = model.classes().is_none()
        || ways
            .clone()
            .any(|parameters| parameters.target.needs_logits());
    (Parameters::cost_of(ways, first), first)
}

/// Explains `input` (without batch axis) in every way requested: for each request one answer, or k
/// for `top:k`. A point that several runs ask for is evaluated once. Together they may cost at most
/// `max_evaluations`, counted as if nothing were shared.
pub async fn explain(
    means: Means<'_>,
    model: &Arc<Model>,
    input: Arc<Tensor>,
    requests: &[Request],
    max_evaluations: Option<usize>,
) -> Result<Answered, MethodError> {
    for Request { parameters, .. } in requests {
        check(model, &input, parameters)?;
    }
    let (cost, first) = cost(model, requests.iter().map(|request| &request.parameters));
    if let Some(limit) = max_evaluations
        && cost > limit
    {
        return Err(MethodError::TooCostly { cost, limit });
    }
    let mut effort = Effort::default();
    let clean = if first {
        Some(forward(means, model, &input, &mut effort).await?)
    } else {
        None
    };
    let luma = luma_of(means, model, &input, requests).await?;
    let layout = model
        .manifest
        .input
        .preprocess
        .as_ref()
        .map_or(Layout::Nchw, |rule| rule.layout);
    let mut tasks = Vec::new();
    for (place, request) in requests.iter().enumerate() {
        let parameters = &request.parameters;
        if let Some(row) = &clean {
            check_classes(parameters, row.logits.len())?;
        }
        bring_baselines(request, means.pictures).await?;
        let ((baselines, shortages), segmentation) = {
            let (model, input, request, pictures) = (
                model.clone(),
                input.clone(),
                request.clone(),
                means.pictures.cloned(),
            );
            let resolve = move || {
                let baselines = resolve_baselines(&model, &input, &request, pictures.as_ref())?;
                Ok::<_, MethodError>((baselines, resolve_segmentation(&model, &input, &request)?))
            };
            means.pool.run(resolve).await??
        };
        for goal in parameters
            .target
            .resolve(clean.as_ref().map_or(&[], |row| &row.logits))
        {
            let seed: Arc<[(usize, f32)]> = goal.seed().into();
            let subject = Subject {
                input: input.clone(),
                input_value: clean
                    .as_ref()
                    .map(|row| head_value(row, parameters.head, &seed)),
                seed,
                baselines: baselines.clone(),
                layout,
                luma: luma.clone().filter(|_| parameters.method.needs_picture),
                segmentation: segmentation.clone(),
                parameters: Arc::new(Parameters {
                    target: goal.target(),
                    ..parameters.clone()
                }),
            };
            tasks.push(Task {
                place,
                goal,
                parameters: subject.parameters.clone(),
                run: (parameters.method.build)(subject),
                shortages: shortages.clone(),
                answers: Vec::new(),
                attribution: None,
                effort,
            });
        }
    }
    let (tasks, clean) = work(means, model, &input, tasks, clean, &mut effort).await?;
    let mut explained: Vec<Vec<Explained>> = requests.iter().map(|_| Vec::new()).collect();
    for task in tasks {
        let Some(mut attribution) = task.attribution else {
            continue;
        };
        let doubts = doubts::about(&attribution);
        attribution
            .warnings
            .extend(task.shortages.into_iter().chain(doubts));
        explained[task.place].push(Explained {
            target: Explanandum {
                class: prediction(model, &clean, task.goal.index),
                against: task
                    .goal
                    .against
                    .map(|other| prediction(model, &clean, other)),
            },
            predictions: predictions(model, &clean, TOP),
            parameters: task.parameters,
            attribution,
            timing: task.effort.timing,
            evaluations: task.effort.evaluations,
        });
    }
    Ok(Answered {
        explained,
        evaluations: effort.evaluations,
        timing: effort.timing,
    })
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

impl Effort {
    fn add(&mut self, other: &Effort) {
        self.evaluations += other.evaluations;
        self.timing.add(&other.timing);
    }
}

/// One method at work on one target.
struct Task {
    /// Of the request it belongs to.
    place: usize,
    goal: Goal,
    parameters: Arc<Parameters>,
    run: Box<dyn Run>,
    /// About its baselines.
    shortages: Vec<String>,
    /// For the next step.
    answers: Vec<Row>,
    attribution: Option<Attribution>,
    effort: Effort,
}

/// Takes every task to its end, and tells the row of the clean input. All runs go step by step
/// together, so that their points can be shared.
async fn work(
    means: Means<'_>,
    model: &Arc<Model>,
    input: &Arc<Tensor>,
    mut tasks: Vec<Task>,
    mut clean: Option<Row>,
    effort: &mut Effort,
) -> Result<(Vec<Task>, Row), MethodError> {
    loop {
        let steps = tasks
            .into_iter()
            .map(|task| means.pool.run(move || step(task)));
        let stepped = try_join_all(steps).await?;
        let mut asks = Vec::new();
        // The places of the tasks that asked, in the order of the asks.
        let mut asking = Vec::new();
        tasks = Vec::with_capacity(stepped.len());
        for (task, ask) in stepped {
            if let Some(ask) = ask {
                asking.push(tasks.len());
                asks.push(ask);
            }
            tasks.push(task);
        }
        if asks.is_empty() {
            break;
        }
        let batches = merge(&asks);
        let evaluations = batches.iter().map(|batch| async {
            let mut spent = Effort::default();
            let rows =
                evaluate(means, model, &batch.spec, batch.points.clone(), &mut spent).await?;
            Ok::<_, MethodError>((rows, spent))
        });
        let (rows, spent): (Vec<_>, Vec<_>) = try_join_all(evaluations).await?.into_iter().unzip();
        spent.iter().for_each(|spent| effort.add(spent));
        let dealt = deal(&asks, &batches, rows);
        for (ask, (rows, place)) in dealt.into_iter().zip(asking).enumerate() {
            let at = asks[ask]
                .points
                .iter()
                .position(|point| Arc::ptr_eq(&point.input, input));
            if let Some(row) = at.and_then(|at| rows.get(at))
                && clean.is_none()
            {
                clean = Some(Row {
                    cotangents: Vec::new(),
                    activation: None,
                    ..row.clone()
                });
            }
            let task = &mut tasks[place];
            task.effort.evaluations += rows.len();
            for (_, spent) in batches
                .iter()
                .zip(&spent)
                .filter(|(batch, _)| batch.serves(ask))
            {
                task.effort.timing.add(&spent.timing);
            }
            task.answers = rows;
        }
    }
    let clean = match clean {
        Some(row) if row.logits.iter().all(|logit| logit.is_finite()) => row,
        Some(_) => {
            return Err(MethodError::NotFinite {
                model: model.id.clone(),
            });
        }
        None => {
            let mut spent = Effort::default();
            let row = forward(means, model, input, &mut spent).await?;
            effort.add(&spent);
            for task in &mut tasks {
                task.effort.add(&spent);
            }
            row
        }
    };
    Ok((tasks, clean))
}

/// Takes a task one step further, and frees the answers it had.
fn step(mut task: Task) -> (Task, Option<Ask>) {
    if task.attribution.is_some() {
        return (task, None);
    }
    let answers = std::mem::take(&mut task.answers);
    match task.run.step(&answers) {
        Step::Done(attribution) => {
            task.attribution = Some(attribution);
            (task, None)
        }
        Step::Evaluate(points) => {
            let ask = Ask {
                spec: task.run.spec(),
                points,
            };
            (task, Some(ask))
        }
    }
}

async fn evaluate(
    means: Means<'_>,
    model: &Arc<Model>,
    spec: &DeriveSpec,
    points: Vec<Point>,
    effort: &mut Effort,
) -> Result<Vec<Row>, MethodError> {
    effort.evaluations += points.len();
    let evaluated = means
        .engine
        .evaluate(model, spec, points, means.caller)
        .await?;
    effort.timing.add(&Timing {
        queue: evaluated.queue,
        model: evaluated.model,
    });
    Ok(evaluated.rows)
}

/// The row of the clean input, finite, through the forward graph.
async fn forward(
    means: Means<'_>,
    model: &Arc<Model>,
    input: &Arc<Tensor>,
    effort: &mut Effort,
) -> Result<Row, MethodError> {
    let spec = DeriveSpec::forward();
    let point = Point {
        input: input.clone(),
        seed: Arc::new([]),
    };
    let rows = evaluate(means, model, &spec, vec![point], effort).await?;
    rows.into_iter()
        .next()
        .filter(|row| row.logits.iter().all(|logit| logit.is_finite()))
        .ok_or_else(|| MethodError::NotFinite {
            model: model.id.clone(),
        })
}

fn check(model: &Model, input: &Tensor, parameters: &Parameters) -> Result<(), MethodError> {
    check_shape(model, input)?;
    let method = parameters.method;
    if let Some(rule_set) = parameters.rule_set
        && rule_set.needs_patterns()
        && model.patterns.is_none()
    {
        return Err(MethodError::PatternsMissing {
            model: model.id.clone(),
            method: method.id,
            rule_set: rule_set.id(),
        });
    }
    if method.needs_picture && model.manifest.input.preprocess.is_none() {
        return Err(MethodError::NoPicture {
            model: model.id.clone(),
            method: method.id,
        });
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
    Err(MethodError::Shape {
        model: model.id.clone(),
        expected: expected.clone(),
        found: tensor.shape().to_vec(),
    })
}

/// Makes the data sets ready that baselines are drawn from.
async fn bring_baselines(
    request: &Request,
    pictures: Option<&Arc<dyn Pictures>>,
) -> Result<(), Faults> {
    let Some(pictures) = pictures.filter(|_| request.parameters.baselines() > 0) else {
        return Ok(());
    };
    for term in request.parameters.baseline.terms() {
        if let Term::Dataset { id, .. } = term {
            pictures
                .bring(id)
                .await
                .map_err(|error| baseline_fault(&error))?;
        }
    }
    Ok(())
}

fn baseline_fault(error: &ImageError) -> Faults {
    let allowed = baseline::ALLOWED
        .iter()
        .map(|form| (*form).to_owned())
        .collect();
    Fault {
        param: "baseline".into(),
        message: error.to_string(),
        allowed,
    }
    .into()
}

/// The baselines, and a warning for each data set that has fewer images than were asked for.
fn resolve_baselines(
    model: &Model,
    input: &Tensor,
    request: &Request,
    pictures: Option<&Arc<dyn Pictures>>,
) -> Result<(Vec<Arc<Tensor>>, Vec<String>), Faults> {
    let (mut baselines, mut warnings) = (Vec::new(), Vec::new());
    if request.parameters.baselines() == 0 {
        return Ok((baselines, warnings));
    }
    let material = Material {
        preprocess: model.manifest.input.preprocess.as_ref(),
        uploaded: request.uploaded_baseline.as_deref(),
        pictures,
        seed: request.baseline_seed,
    };
    for term in request.parameters.baseline.terms() {
        let found = Baseline::from(term.clone())
            .resolve(input, &material)
            .map_err(|error| baseline_fault(&error))?;
        if let Term::Dataset { id, count } = term
            && found.len() < *count
        {
            warnings.push(format!(
                "the set {} has {} of the {count} images asked for as baselines",
                excerpt(id),
                found.len()
            ));
        }
        baselines.extend(found.into_iter().map(Arc::new));
    }
    Ok((baselines, warnings))
}

/// The picture that the input shows, where any of the methods looks at it.
async fn luma_of(
    means: Means<'_>,
    model: &Arc<Model>,
    input: &Arc<Tensor>,
    requests: &[Request],
) -> Result<Option<Arc<Array2<f32>>>, MethodError> {
    if !requests
        .iter()
        .any(|request| request.parameters.method.needs_picture)
    {
        return Ok(None);
    }
    let (model, input) = (model.clone(), input.clone());
    let luma = move || {
        preprocess::luma_of(&input, model.manifest.input.preprocess.as_ref()?).map(Arc::new)
    };
    Ok(means.pool.run(luma).await?)
}

/// The regions of methods that rank them; sent ones must be in the model's pixels.
fn resolve_segmentation(
    model: &Model,
    input: &Tensor,
    request: &Request,
) -> Result<Arc<Segmentation>, MethodError> {
    let parameters = &request.parameters;
    if !parameters.method.ranks_regions() {
        return Ok(Arc::default());
    }
    let Some(picture) = model
        .manifest
        .input
        .preprocess
        .as_ref()
        .and_then(|rule| InputPicture::of(input, rule))
    else {
        return Err(MethodError::NoPicture {
            model: model.id.clone(),
            method: parameters.method.id,
        });
    };
    if parameters.segments == SegmentSource::Felzenszwalb {
        return Ok(Arc::new(xrai::segment(&picture, parameters)));
    }
    let (_, height, width) = picture.planes.dim();
    let refuse = |message: &str| {
        let allowed = vec![format!("{height} x {width}")];
        Faults::from(Fault {
            param: "segments".into(),
            message: message.into(),
            allowed,
        })
    };
    match &request.uploaded_segments {
        Some(segmentation) if segmentation.regions.size() == (height, width) => {
            Ok(segmentation.clone())
        }
        Some(_) => Err(refuse("are of another size than the model's input").into()),
        None => Err(refuse("`uploaded` needs segments sent with the request").into()),
    }
}

fn check_classes(parameters: &Parameters, count: usize) -> Result<(), Faults> {
    let mut faults = Faults::default();
    if parameters
        .target
        .largest()
        .is_some_and(|index| index >= count)
        || parameters.target.answers() > count
    {
        let message = format!("the model has {count} classes");
        faults.push(Fault {
            param: "target".into(),
            message,
            allowed: vec![format!("0 to {}", count.saturating_sub(1))],
        });
    }
    faults.extend(parameters.single_output_fault(Some(count)));
    faults.settle(())
}

fn predictions(model: &Model, row: &Row, top: usize) -> Vec<Prediction> {
    ranked(&row.logits)
        .into_iter()
        .take(top)
        .map(|index| prediction(model, row, index))
        .collect()
}

fn prediction(model: &Model, row: &Row, index: usize) -> Prediction {
    let scores = if row.logits.len() == 1 {
        &row.logits
    } else {
        &row.probabilities
    };
    let score = scores.get(index).copied().unwrap_or(f32::NAN);
    Prediction {
        index,
        label: model.labels.get(index).cloned(),
        score,
    }
}
