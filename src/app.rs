//! Wires the rooms together: what the server, the command line and the tests call. [`App::plan`]
//! says what is asked for, [`App::explain`] does it: bytes or tensor -> decode -> preprocess ->
//! methods -> picture.

pub mod answer;
pub mod compare;
mod input;
pub mod options;
pub mod picture;
mod pixels;
pub mod plan;
mod reload;
mod replicas;
pub mod segments;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::Notify;
use tracing::Span;

use crate::{
    dataset::{ArchiveLimits, Catalogue, DatasetError, Datasets},
    driver::{self, Driver, DriverError, Resources},
    engine::{
        AdmissionPermit, Caller, Engine, EngineError, EngineSettings, RequestClass, RuntimeError,
    },
    files::Files,
    methods::{Explained, Fault, Faults, Prediction, Request, Timing},
    model::{
        Model,
        fits::Fits,
        registry::{Check, Models, RELOAD, Registry, RegistryError},
    },
    picture::{ImageError, baseline::Pictures, geometry::Geometry},
    pool::{Pool, WorkPanicked},
    quota::Quota,
    render::{RenderError, encode::FileType},
    segment::Segmentation,
    settings::Settings,
    telemetry::{self, Stage, names},
    tensor::{Tensor, TensorError},
    text::excerpt,
};
use answer::{ImageSize, TimingMs};
use input::{Inputs, One, Prepared, Upload};
use options::{Channels, Include, Options};
use picture::{RenderedPicture, pictures};
use pixels::Pixels;
use plan::{Plan, PredictPlan, Sent};
use segments::SentSegments;

pub use input::Input;
pub use reload::ReloadError;

/// How many inputs of one request are worked on at once.
const INPUTS_AT_ONCE: usize = 8;

/// The running service without its HTTP: models, engine, pool. Clones share them.
#[derive(Clone)]
pub struct App {
    parts: Arc<Parts>,
}

struct Parts {
    settings: Settings,
    models: Models,
    engine: Engine,
    pool: Pool,
    pixels: Pixels,
    quota: Quota,
    files: Files,
    fits: Fits,
    datasets: Arc<Datasets>,
    /// The same, as the methods see them.
    pictures: Arc<dyn Pictures>,
    /// Told when other models are in use.
    reloaded: Notify,
}

/// What goes with the inputs of a request.
#[derive(Debug, Default)]
pub struct Uploads {
    /// What the baseline `uploaded` stands for.
    pub baseline: Option<Input>,
    /// What the segments `uploaded` stand for: an encoded label image, or an npy file.
    pub segments: Option<Bytes>,
}

impl Uploads {
    pub fn sent(&self) -> Sent {
        Sent {
            baseline: self.baseline.is_some(),
            segments: self.segments.is_some(),
        }
    }
}

/// One input explained for one target.
#[derive(Clone, Debug)]
pub struct Explanation {
    pub model: Arc<Model>,
    /// Counts the request's inputs from 0.
    pub input: usize,
    pub explained: Explained,
    /// The heat map as a file, when the plan wants it: in JSON as PNG.
    pub picture: Option<Bytes>,
    /// Where it lies on the uploaded image.
    pub image: Option<ImageSize>,
    /// What of it JSON holds.
    pub include: Include,
    pub channels: Channels,
    /// About the input, the map, and the picture.
    pub warnings: Vec<String>,
    pub timing: TimingMs,
}

/// The best classes of one input.
#[derive(Clone, Debug)]
pub struct Predicted {
    pub image: Option<ImageSize>,
    pub predictions: Vec<Prediction>,
    pub warnings: Vec<String>,
    pub timing: TimingMs,
}

/// What a request gives, in the order of its inputs.
#[derive(Clone, Debug)]
pub struct Answered<T> {
    pub answers: Vec<T>,
    /// Whether arrays have a leading axis: for several answers, and for inputs that came with one.
    pub has_axis: bool,
    /// Of the model, those that answers share counted once.
    pub evaluations: usize,
}

/// Why the service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Models(#[from] RegistryError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error(transparent)]
    Parameters(#[from] Faults),
    #[error("no model is called {}; there are: {}", excerpt(id), known.join(", "))]
    UnknownModel { id: String, known: Vec<String> },
    #[error(
        "model {model} takes ready tensors of shape {shape:?}, not images; send application/x-npy or a JSON tensor"
    )]
    TakesTensors { model: String, shape: Vec<usize> },
    #[error("the tensor has {found} elements; {limit} are allowed")]
    TooManyElements { found: usize, limit: usize },
    #[error(
        "uint8 pixels are [height, width], [height, width, 1, 3 or 4] or [1 or 3, height, width], or several of them along one \
         axis more; this array is {shape:?}"
    )]
    PixelShape { shape: Vec<usize> },
    #[error("there is no input in this request")]
    NoInput,
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Tensor(#[from] TensorError),
    #[error(transparent)]
    Render(#[from] RenderError),
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    #[error(transparent)]
    Method(#[from] DriverError),
    #[error(transparent)]
    Panicked(#[from] WorkPanicked),
    #[error("the answer cannot be encoded: {reason}")]
    Encode { reason: String },
    /// Which of several inputs it was.
    #[error("input {input} (counted from 0): {source}")]
    AtInput { input: usize, source: Box<AppError> },
}

/// How an engine is set up for these settings.
pub fn engine_settings(settings: &Settings) -> EngineSettings {
    const MIB: usize = 1 << 20;
    EngineSettings {
        library: Some(settings.onnxruntime.clone()),
        providers: settings.providers.clone(),
        threads: settings.threads,
        queue_rows: settings.queue_rows,
        batch_rows: settings.batch_rows,
        batch_bytes: (settings.batch_memory_mib as usize).saturating_mul(MIB),
        session_bytes: (settings.session_memory_mib as usize).saturating_mul(MIB),
    }
}

impl App {
    /// Loads ONNX Runtime and its devices, starts the workers, and loads the models. Takes seconds:
    /// not for an async thread.
    pub fn start(settings: Settings) -> Result<Self, StartError> {
        let (folder, default) = (settings.models.clone(), settings.default_model.clone());
        Self::start_with(settings, |check| {
            Registry::load_after(None, &folder, default.as_deref(), check)
        })
    }

    /// As [`Self::start`], with one model alone: a folder, or an .onnx file.
    pub fn start_with_one(settings: Settings, model: &Path) -> Result<Self, StartError> {
        Self::start_with(settings, |check| Ok(Registry::of_one(model, check)))
    }

    fn start_with(
        settings: Settings,
        load: impl FnOnce(Check<'_>) -> Result<Registry, RegistryError>,
    ) -> Result<Self, StartError> {
        let engine = Engine::start(&engine_settings(&settings))?;
        let models = load(&|model| try_out(&engine, model))?;
        tell_models(&models);
        if models.iter().next().is_none() {
            tracing::warn!(
                "no model is loaded: put one into {}, then {RELOAD}",
                settings.models.display()
            );
        }
        if models.is_without_default() {
            tracing::warn!(
                "there are several models, and default_model is not set: requests have to name theirs"
            );
        }
        let pool = Pool::new(settings.threads);
        let pixels = Pixels::new(settings.max_pixels);
        let quota = Quota::new(&settings.data, settings.max_data_bytes);
        let files = Files::new(&settings.data, settings.object_store.as_deref());
        let catalogue = Catalogue::new(
            settings.dataset.clone(),
            &settings.data,
            input::limits(&settings),
            ArchiveLimits {
                max_bytes: settings.max_dataset_bytes,
                max_files: settings.max_dataset_files,
                max_sets: settings.max_datasets,
            },
            quota.clone(),
        );
        let store = settings.object_store.is_some().then(|| files.clone());
        let datasets = Arc::new(Datasets::new(catalogue, store));
        let pictures: Arc<dyn Pictures> = datasets.clone();
        let fits = Fits::new(files.clone(), pool.clone(), &settings.data);
        let models = Models::new(models);
        let reloaded = Notify::new();
        let parts = Parts {
            settings,
            models,
            engine,
            pool,
            pixels,
            quota,
            files,
            fits,
            datasets,
            pictures,
            reloaded,
        };
        Ok(Self {
            parts: Arc::new(parts),
        })
    }

    pub fn settings(&self) -> &Settings {
        &self.parts.settings
    }

    /// Those in use now: a request takes them once.
    pub fn models(&self) -> Arc<Registry> {
        self.parts.models.get()
    }

    pub fn model_ids(&self) -> Vec<String> {
        self.models().iter().map(|model| model.id.clone()).collect()
    }

    pub fn datasets(&self) -> &Arc<Datasets> {
        &self.parts.datasets
    }

    pub fn engine(&self) -> &Engine {
        &self.parts.engine
    }

    /// The files that replicas share.
    pub fn files(&self) -> &Files {
        &self.parts.files
    }

    /// Where blocking work of a request belongs.
    pub fn pool(&self) -> &Pool {
        &self.parts.pool
    }

    /// Room for decoded pictures of requests.
    fn pixels(&self) -> &Pixels {
        &self.parts.pixels
    }

    /// What the data folder may still hold: whoever writes there reserves room first.
    pub fn quota(&self) -> &Quota {
        &self.parts.quota
    }

    /// What methods are worked on with.
    pub fn resources<'a>(&'a self, caller: &'a Caller) -> Resources<'a> {
        Resources {
            engine: self.engine(),
            pool: self.pool(),
            caller,
            pictures: Some(&self.parts.pictures),
        }
    }

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
        let costs = (0..inputs.len())
            .map(|at| driver::cost(&plan.model, [&plan.parameters_of(at)].into_iter()).0);
        let _admitted = self
            .admit(&plan.model, plan.parameters.method.id, costs.sum(), caller)
            .await?;
        let uploads = self.read(uploads, &inputs, &plan.model).await?;
        let task = Task {
            count: inputs.len(),
            plan,
            uploads,
        };
        let task = &task;
        let answers: Vec<(Vec<Explanation>, usize)> = stream::iter(inputs.into_iter().enumerate())
            .map(|(at, input)| async move {
                self.explain_one(task, at, input, caller)
                    .await
                    .map_err(|error| locate(error, at, task.count))
            })
            .buffered(INPUTS_AT_ONCE)
            .try_collect()
            .await?;
        let (answers, evaluations): (Vec<_>, Vec<_>) = answers.into_iter().unzip();
        let answers: Vec<_> = answers.into_iter().flatten().collect();
        Ok(Answered {
            has_axis: batched || answers.len() != 1,
            answers,
            evaluations: evaluations.into_iter().sum(),
        })
    }

    /// The best classes of every input, in order.
    pub async fn predict(
        &self,
        plan: &PredictPlan,
        inputs: Vec<Input>,
        caller: &Caller,
    ) -> Result<Vec<Predicted>, AppError> {
        tell_log(&plan.model, None);
        let inputs = self.split(inputs, &plan.model).await?.each;
        let count = inputs.len();
        let _admitted = self.admit(&plan.model, "predict", count, caller).await?;
        stream::iter(inputs.into_iter().enumerate())
            .map(|(at, input)| async move {
                self.predict_one(plan, input, caller)
                    .await
                    .map_err(|error| locate(error, at, count))
            })
            .buffered(INPUTS_AT_ONCE)
            .try_collect()
            .await
    }

    /// A place among the requests that are done in time; none for what costs more than is allowed,
    /// which is refused by that name.
    async fn admit(
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

    async fn split(&self, inputs: Vec<Input>, model: &Arc<Model>) -> Result<Inputs, AppError> {
        let (app, model) = (self.clone(), model.clone());
        let inputs = self
            .pool()
            .run(move || input::split(inputs, &model, app.settings()))
            .await??;
        if inputs.each.is_empty() {
            Err(AppError::NoInput)
        } else {
            Ok(inputs)
        }
    }

    async fn prepare(&self, input: One, model: &Arc<Model>) -> Result<Prepared, AppError> {
        let room = self.pixels().room(input.pixels_to_decode()).await;
        let (app, model) = (self.clone(), model.clone());
        let prepare = move || {
            let _room = room;
            input::prepare(input, &model, app.settings(), app.pixels())
        };
        self.pool().run(prepare).await?
    }

    async fn read(
        &self,
        uploads: Uploads,
        inputs: &[One],
        model: &Arc<Model>,
    ) -> Result<ReadUploads, AppError> {
        let mut warnings = Vec::new();
        let baseline = match uploads.baseline {
            Some(input) => {
                let mut each = self.split(vec![input], model).await?.each;
                match (each.pop(), each.is_empty()) {
                    (Some(one), true) => {
                        let prepared = self.prepare(one, model).await?;
                        let own = prepared
                            .warnings
                            .into_iter()
                            .filter(|one| model.manifest.assumed.as_ref() != Some(one));
                        warnings.extend(own.map(|warning| format!("baseline: {warning}")));
                        Some(prepared.tensor)
                    }
                    _ => {
                        return Err(Faults::from(Fault::new(
                            "baseline",
                            "several were sent",
                            ["1"],
                        ))
                        .into());
                    }
                }
            }
            None => None,
        };
        let segments = match uploads.segments {
            Some(bytes) => {
                let (limits, inputs, model) = (
                    input::limits(self.settings()),
                    inputs.to_vec(),
                    model.clone(),
                );
                let check = move || input::check_segments(bytes, &inputs, &model, limits);
                Some(Arc::new(self.pool().run(check).await??))
            }
            None => None,
        };
        Ok(ReadUploads {
            baseline,
            segments,
            warnings,
        })
    }

    /// The sent segments in the model's pixels.
    async fn fit_segments(
        &self,
        uploads: &ReadUploads,
        prepared: &Prepared,
        model: &Model,
    ) -> Result<Option<Arc<Segmentation>>, AppError> {
        let (Some(segments), Some(rule)) = (&uploads.segments, &model.manifest.input.preprocess)
        else {
            return Ok(None);
        };
        let size = (rule.height as usize, rule.width as usize);
        let geometry = prepared.upload.as_ref().map(|(_, geometry)| *geometry);
        let segments = segments.clone();
        let room = self.pixels().room(segments.pixels()).await;
        let fit = move || {
            let _room = room;
            segments.fit(geometry.as_ref(), size)
        };
        let fitted = self.pool().run(fit).await??;
        Ok(Some(Arc::new(fitted)))
    }

    async fn explain_one(
        &self,
        task: &Task,
        at: usize,
        input: One,
        caller: &Caller,
    ) -> Result<(Vec<Explanation>, usize), AppError> {
        let started = Instant::now();
        let Task { plan, .. } = task;
        let mut prepared = self.prepare(input, &plan.model).await?;
        prepared
            .warnings
            .extend(task.uploads.warnings.iter().cloned());
        let request = Request {
            uploaded_baseline: task.uploads.baseline.clone(),
            uploaded_segments: self
                .fit_segments(&task.uploads, &prepared, &plan.model)
                .await?,
            ..Request::of(plan.parameters_of(at))
        };
        let limit = self.settings().max_interactive_evaluations / task.count;
        let input = prepared.tensor.clone();
        let answered = Driver::new(self.resources(caller), &plan.model, input)
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
        let before_render = Instant::now();
        let pictures = self
            .render(plan, prepared.upload.take(), &explained, caller)
            .await?;
        let render = before_render.elapsed();
        record_stages(&prepared, render);
        let explanations = explained
            .into_iter()
            .zip(pictures)
            .map(|(explained, picture)| {
                let one = explanation(
                    &plan.model,
                    &plan.options,
                    &prepared,
                    explained,
                    picture,
                    render,
                    started,
                );
                Explanation { input: at, ..one }
            });
        Ok((explanations.collect(), answered.evaluations))
    }

    async fn predict_one(
        &self,
        plan: &PredictPlan,
        input: One,
        caller: &Caller,
    ) -> Result<Predicted, AppError> {
        let started = Instant::now();
        let prepared = self.prepare(input, &plan.model).await?;
        let (predictions, timing) =
            Driver::new(self.resources(caller), &plan.model, prepared.tensor)
                .predict(plan.top_k)
                .await?;
        telemetry::record_stage(Stage::Decode, prepared.decode);
        telemetry::record_stage(Stage::Preprocess, prepared.preprocess);
        let timing = TimingMs {
            decode: milliseconds(prepared.decode),
            preprocess: milliseconds(prepared.preprocess),
            total: milliseconds(started.elapsed()),
            ..engine_timing(timing)
        };
        Ok(Predicted {
            image: prepared.image,
            predictions,
            warnings: prepared.warnings,
            timing,
        })
    }

    /// The picture of each explanation, where the plan wants one.
    async fn render(
        &self,
        plan: &Plan,
        upload: Option<(Upload, Geometry)>,
        explained: &[Explained],
        caller: &Caller,
    ) -> Result<Vec<RenderedPicture>, AppError> {
        let Some((upload, geometry)) = upload.filter(|_| plan.options.want_picture()) else {
            return Ok(explained
                .iter()
                .map(|_| RenderedPicture::default())
                .collect());
        };
        let (model, options, limits) = (
            plan.model.clone(),
            plan.heatmap.clone(),
            input::limits(self.settings()),
        );
        let file_type = plan.options.file_type().unwrap_or(FileType::Png);
        let explained = explained.to_vec();
        let gone = caller.cancel.clone();
        let go_on = move || match gone.is_cancelled() {
            true => Err(DriverError::from(EngineError::Cancelled).into()),
            false => Ok(()),
        };
        let room = self.pixels().room(input::area(geometry.upload)).await;
        self.pool()
            .run(move || {
                let _room = room;
                go_on()?;
                let upload = upload.into_pixels(&limits)?;
                pictures(
                    (&upload, &geometry),
                    &model,
                    &explained,
                    &options,
                    file_type,
                    go_on,
                )
            })
            .await?
    }
}

/// Adds what a request is about to its span in the log.
fn tell_log(model: &Model, attribution: Option<&str>) {
    Span::current()
        .record("model", &model.id)
        .record("attribution", attribution);
}

fn try_out(engine: &Engine, model: &Model) -> Result<Option<String>, String> {
    engine
        .try_out(model)
        .map_err(|error| format!("model.onnx: {error}"))
}

/// Logs what is wrong or odd about the models.
fn tell_models(models: &Registry) {
    for broken in &models.broken {
        tracing::error!(
            model = broken.id,
            "not served: {}",
            broken.faults.join("; ")
        );
    }
    for warning in models.all_warnings() {
        tracing::warn!("{warning}");
    }
}

fn record_stages(prepared: &Prepared, render: Duration) {
    telemetry::record_stage(Stage::Decode, prepared.decode);
    telemetry::record_stage(Stage::Preprocess, prepared.preprocess);
    telemetry::record_stage(Stage::Render, render);
}

/// Of the first input.
fn explanation(
    model: &Arc<Model>,
    options: &Options,
    prepared: &Prepared,
    explained: Explained,
    picture: RenderedPicture,
    render: Duration,
    started: Instant,
) -> Explanation {
    let labels = [
        ("model", model.id.clone()),
        ("method", explained.parameters.method.id.to_owned()),
    ];
    metrics::counter!(names::EXPLANATIONS_TOTAL, &labels).increment(1);
    let warnings = [
        &prepared.warnings,
        &explained.attribution.warnings,
        &picture.warnings,
    ];
    Explanation {
        model: model.clone(),
        input: 0,
        picture: picture.file,
        image: prepared.image,
        include: options.include,
        channels: options.channels,
        warnings: warnings.into_iter().flatten().cloned().collect(),
        timing: TimingMs {
            decode: milliseconds(prepared.decode),
            preprocess: milliseconds(prepared.preprocess),
            render: milliseconds(render),
            total: milliseconds(started.elapsed()),
            ..engine_timing(explained.timing)
        },
        explained,
    }
}

/// What the inputs of one request share.
struct Task {
    plan: Plan,
    count: usize,
    uploads: ReadUploads,
}

struct ReadUploads {
    baseline: Option<Arc<Tensor>>,
    /// Not yet in the model's pixels.
    segments: Option<Arc<SentSegments>>,
    /// About the baseline.
    warnings: Vec<String>,
}

/// What of the plan depends on the inputs.
fn check_inputs(plan: &Plan, inputs: &[One]) -> Result<(), AppError> {
    let mut faults = Faults::default();
    let answers = (0..inputs.len())
        .map(|input| plan.parameters_of(input).target.answers())
        .sum::<usize>();
    if answers > 1 && plan.options.file_type().is_some() {
        let message = "a picture shows one answer, and this request has several";
        faults.push(Fault::new("format", message, ["json", "npy"]));
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
fn undrawable(options: &Options, inputs: &[One]) -> Option<Fault> {
    let (param, allowed): (_, &[&str]) =
        match (options.file_type().is_some(), options.include.heatmap) {
            (true, _) => ("format", &["json", "npy"]),
            (false, true) => ("include", &[]),
            (false, false) => return None,
        };
    let tensors = inputs.iter().any(|input| matches!(input, One::Tensor(_)));
    let message = "a picture needs an image to lie on, and this is a tensor";
    tensors.then(|| Fault::new(param, message, allowed))
}

/// Says which of several inputs an error is about; what concerns the whole request stays as it is.
fn locate(error: AppError, input: usize, count: usize) -> AppError {
    match error {
        AppError::Method(
            DriverError::Engine(_) | DriverError::TooCostly { .. } | DriverError::Panicked(_),
        )
        | AppError::Panicked(_) => error,
        other if count > 1 => AppError::AtInput {
            input,
            source: Box::new(other),
        },
        other => other,
    }
}

/// The limit is dealt evenly over the inputs; the user is told the sum.
fn whole_cost(error: DriverError, count: usize, limit: usize) -> DriverError {
    match error {
        DriverError::TooCostly { cost, .. } => DriverError::TooCostly {
            cost: cost * count,
            limit,
        },
        other => other,
    }
}

fn engine_timing(timing: Timing) -> TimingMs {
    telemetry::record_stage(Stage::Queue, timing.queue);
    telemetry::record_stage(Stage::Model, timing.model);
    TimingMs {
        queue: milliseconds(timing.queue),
        model: milliseconds(timing.model),
        ..TimingMs::default()
    }
}

/// To the microsecond.
fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}
