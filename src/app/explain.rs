//! Explains the inputs of a request by one method: bytes or tensor -> decode -> preprocess ->
//! method -> picture.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Map, Value};
use tracing::Span;

use super::{
    App, AppError,
    error::{locate, whole_cost},
    format::Format,
    input::{Input, Inputs, Item, One, Prepared},
    metrics::{MetricValues, of_map},
    options::{Channels, Include, Options},
    plan::Plan,
    render::RenderedPicture,
    timing::StageTimes,
    uploads::{ReadUploads, Uploads},
};
use crate::{
    driver::{self, Driver, DriverError},
    engine::{AdmissionPermit, Caller, RequestClass},
    faults::{Fault, Faults},
    methods::{Explained, Request, parameters::Parameters},
    model::Model,
    picture::geometry::Geometry,
    telemetry::names,
};

/// How many inputs of one request are worked on at once.
pub(super) const INPUTS_AT_ONCE: usize = 8;

/// One input explained for one target.
#[derive(Clone, Debug)]
pub struct Explanation {
    pub model: Arc<Model>,
    /// Counts the request's inputs from 0.
    pub input: usize,
    pub explained: Explained,
    /// The heat map as a file, when the plan wants it: in JSON as PNG.
    pub picture: Option<Bytes>,
    /// Where the map lies on the uploaded image; none of a tensor.
    pub geometry: Option<Geometry>,
    /// Where they are asked for.
    pub metrics: Option<MetricValues>,
    /// What of it JSON holds.
    pub include: Include,
    pub channels: Channels,
    /// Whether the gradient of quantised activations stands for one that is zero.
    pub surrogate: bool,
    /// About the input, the map, and the picture.
    pub warnings: Vec<String>,
    pub times: StageTimes,
}

/// What a request gives, in the order of its inputs.
#[derive(Clone, Debug)]
pub struct Answered<T> {
    pub answers: Vec<T>,
    /// Whether arrays have a leading axis: for several answers, and for inputs that came with one.
    pub has_axis: bool,
    /// Of the model, those that answers share counted once.
    pub evaluations: usize,
    pub times: StageTimes,
}

impl App {
    /// Explains every input: one explanation each, or k each for `top:k`, in order.
    pub async fn explain(
        &self,
        plan: Plan,
        inputs: Vec<Input>,
        uploads: Uploads,
        caller: &Caller,
    ) -> Result<Answered<Explanation>, AppError> {
        tell_log(&plan.model, Some(plan.parameters.method.id));
        let Inputs {
            each: inputs,
            batched,
        } = self.split(inputs, &plan.model).await?;
        check_inputs(&plan, &inputs)?;
        let count = inputs.len();
        let parameters = parameters_of(&plan, &inputs)?;
        let costs = inputs.iter().zip(&parameters);
        let costs = costs.map(|(item, own)| driver::cost(&item.model, [own].into_iter()).0);
        let _admitted = self
            .admit(&plan.model, plan.parameters.method.id, costs.sum(), caller)
            .await?;
        let uploads = self.read(uploads, &inputs).await?;
        let task = Task {
            count,
            plan,
            parameters,
            uploads,
        };
        let task = &task;
        let inputs: Vec<Answered<Explanation>> = stream::iter(inputs.into_iter().enumerate())
            .map(|(at, input)| async move {
                self.explain_one(task, at, input, caller)
                    .await
                    .map_err(|error| locate(error, at, task.count))
            })
            .buffered(INPUTS_AT_ONCE)
            .try_collect()
            .await?;
        let (evaluations, times) = (
            inputs.iter().map(|one| one.evaluations).sum(),
            inputs.iter().map(|one| one.times).collect(),
        );
        let is_list = inputs.iter().any(|one| one.has_axis);
        let answers: Vec<_> = inputs.into_iter().flat_map(|one| one.answers).collect();
        Ok(Answered {
            has_axis: batched || is_list || answers.len() != 1,
            answers,
            evaluations,
            times,
        })
    }

    /// A place among the requests that are done in time; none for what costs more than is allowed,
    /// which is refused by that name.
    pub(super) async fn admit(
        &self,
        model: &Model,
        way: &'static str,
        cost: usize,
        caller: &Caller,
    ) -> Result<Option<AdmissionPermit>, AppError> {
        if cost > self.settings().max_interactive_evaluations {
            return Ok(None);
        }
        let class = RequestClass {
            model: model.id.clone(),
            method: way,
        };
        Ok(Some(
            self.engine()
                .reserve(&class, cost, caller)
                .await
                .map_err(DriverError::from)?,
        ))
    }

    async fn explain_one(
        &self,
        task: &Task,
        at: usize,
        item: Item,
        caller: &Caller,
    ) -> Result<Answered<Explanation>, AppError> {
        let started = Instant::now();
        let Task { plan, .. } = task;
        let model = &item.model.clone();
        let mut prepared = self.prepare(item).await?;
        let sent = task.uploads.tensors(model);
        prepared.warnings.extend(sent.warnings);
        let request = Request {
            uploaded_baseline: sent.baseline,
            uploaded_reference: sent.reference,
            uploaded_segments: self.fit_segments(&task.uploads, &prepared, model).await?,
            ..Request::of(task.parameters[at].clone())
        };
        let limit = self.settings().max_interactive_evaluations / task.count;
        let input = prepared.tensor.clone();
        let answered = Driver::new(self.resources(caller), model, input)
            .explain(std::slice::from_ref(&request), Some(limit))
            .await
            .map_err(|error| {
                whole_cost(
                    error,
                    task.count,
                    self.settings().max_interactive_evaluations,
                )
            })?;
        let explained: Vec<Explained> = answered.explained.into_iter().flatten().collect();
        let metrics = self
            .metrics_of(&plan.options, model, &prepared, &explained)
            .await?;
        let before_render = Instant::now();
        let upload = prepared.upload.take().zip(prepared.geometry);
        let pictures = self.render(plan, model, upload, &explained, caller).await?;
        prepared.times.render = before_render.elapsed();
        prepared.times.total = started.elapsed();
        let answers: Vec<_> = explained
            .into_iter()
            .zip(pictures)
            .zip(metrics)
            .map(|((explained, picture), metrics)| Explanation {
                input: at,
                metrics,
                ..explanation(model, &plan.options, &prepared, explained, picture)
            })
            .collect();
        Ok(Answered {
            has_axis: request.parameters.target.is_list(),
            answers,
            evaluations: answered.evaluations,
            times: prepared.times.with_engine(answered.timing),
        })
    }

    /// The metrics of each map, where they are asked for.
    pub(super) async fn metrics_of(
        &self,
        options: &Options,
        model: &Arc<Model>,
        prepared: &Prepared,
        explained: &[Explained],
    ) -> Result<Vec<Option<MetricValues>>, AppError> {
        if !options.want_metrics() {
            return Ok(vec![None; explained.len()]);
        }
        let (model, input, explained) =
            (model.clone(), prepared.tensor.clone(), explained.to_vec());
        let measure = move || {
            let of = |one: &Explained| Some(of_map(&model, &input, one));
            explained.iter().map(of).collect()
        };
        Ok(self.pool().run(measure).await?)
    }
}

/// Adds what a request is about to its span in the log.
pub(super) fn tell_log(model: &Model, attribution: Option<&str>) {
    Span::current()
        .record("model", &model.id)
        .record("attribution", attribution);
}

/// Of the first input. `prepared` knows all times but those of the engine.
pub(super) fn explanation(
    model: &Arc<Model>,
    options: &Options,
    prepared: &Prepared,
    explained: Explained,
    picture: RenderedPicture,
) -> Explanation {
    let labels = [
        ("model", model.id.clone()),
        ("method", explained.parameters.method.id.to_owned()),
    ];
    metrics::counter!(names::EXPLANATIONS_TOTAL, &labels).increment(1);
    let is_derived = explained.parameters.method.rule_set.is_some();
    let notes = match is_derived {
        true => model.gradient_notes(),
        false => Vec::new(),
    };
    let warnings = [
        &prepared.warnings[..],
        &notes[..],
        &explained.attribution.warnings[..],
        &picture.warnings[..],
    ];
    Explanation {
        model: model.clone(),
        input: 0,
        picture: picture.file,
        geometry: prepared.geometry,
        metrics: None,
        include: options.include,
        channels: options.channels,
        surrogate: is_derived && model.is_surrogate(),
        warnings: warnings.into_iter().flatten().cloned().collect(),
        times: prepared.times.with_engine(explained.timing),
        explained,
    }
}

/// What the inputs of one request share.
struct Task {
    plan: Plan,
    count: usize,
    /// Of each input, for its size.
    parameters: Vec<Parameters>,
    uploads: ReadUploads,
}

/// The parameters of each input, resolved once for inputs of equal size.
fn parameters_of(plan: &Plan, inputs: &[Item]) -> Result<Vec<Parameters>, AppError> {
    let mut known: Vec<(&Arc<Model>, Parameters)> = Vec::new();
    let mut parameters = Vec::with_capacity(inputs.len());
    for (at, Item { model, .. }) in inputs.iter().enumerate() {
        let own = plan.parameters_of(at);
        let target = own.target;
        let found = known.iter().find(|(of, _)| Arc::ptr_eq(of, model));
        let sized = match found {
            Some((_, sized)) => sized.clone(),
            None => {
                let sized = at_size(own, &plan.given, &plan.model, model);
                let sized = sized.map_err(|error| locate(error.into(), at, inputs.len()))?;
                known.push((model, sized.clone()));
                sized
            }
        };
        parameters.push(Parameters { target, ..sized });
    }
    Ok(parameters)
}

/// The parameters for a model of another size than the one that they were resolved for, from what
/// was `given`.
pub(super) fn at_size(
    parameters: Parameters,
    given: &Map<String, Value>,
    planned: &Arc<Model>,
    model: &Arc<Model>,
) -> Result<Parameters, Faults> {
    if Arc::ptr_eq(planned, model) {
        return Ok(parameters);
    }
    let Parameters { target, choice, .. } = parameters;
    Ok(Parameters {
        target,
        choice,
        ..Parameters::parse(given, &driver::model_defaults(model))?
    })
}

/// What of the plan depends on the inputs.
fn check_inputs(plan: &Plan, inputs: &[Item]) -> Result<(), AppError> {
    let mut faults = Faults::default();
    let answers = (0..inputs.len())
        .map(|input| plan.parameters_of(input).target.answers())
        .sum::<usize>();
    if answers > 1 && plan.options.file_type().is_some() {
        let message = "a picture shows one answer, and this request has several";
        faults.push(Fault::new("format", message, ["json", "npy"]));
    }
    let are_of_one_size = inputs
        .windows(2)
        .all(|pair| Arc::ptr_eq(&pair[0].model, &pair[1].model));
    if matches!(plan.options.format, Format::Npy | Format::Bundle) && !are_of_one_size {
        let message = "maps of several sizes make no array";
        faults.push(Fault::new("format", message, ["json"]));
    }
    faults.extend(undrawable(&plan.options, inputs));
    if let Some(targets) = &plan.targets
        && targets.len() != inputs.len()
    {
        let message = format!(
            "names {} targets for {} inputs",
            targets.len(),
            inputs.len()
        );
        faults.push(Fault::new("targets", message, ["one for each input"]));
    }
    Ok(faults.settle(())?)
}

/// A picture that is asked for, of a tensor.
pub(super) fn undrawable(options: &Options, inputs: &[Item]) -> Option<Fault> {
    let (param, allowed): (_, &[&str]) =
        match (options.file_type().is_some(), options.include.heatmap) {
            (true, _) => ("format", &["json", "npy"]),
            (false, true) => ("include", &[]),
            (false, false) => return None,
        };
    let tensors = inputs
        .iter()
        .any(|item| matches!(item.input, One::Tensor(_)));
    let message = "a picture needs an image to lie on, and this is a tensor";
    tensors.then(|| Fault::new(param, message, allowed))
}
