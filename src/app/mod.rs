//! Wires the rooms together: what the server, the command line and the tests call. [`App::plan`]
//! says what is asked for, [`App::explain`] does it: bytes or tensor -> decode -> preprocess ->
//! methods -> picture.

pub mod answer;
pub mod bundle;
pub mod compare;
mod error;
mod explain;
pub mod format;
mod input;
pub mod metrics;
pub mod models;
pub mod options;
mod pixels;
pub mod plan;
mod predict;
mod reload;
pub mod render;
mod replicas;
pub mod requested;
pub mod segments;
pub mod supports;
mod thumbnails;
mod timing;
mod uploads;

use std::{path::Path, sync::Arc};

use tokio::sync::Notify;

use crate::{
    dataset::{ArchiveLimits, Catalogue, Datasets},
    driver::Resources,
    engine::{Caller, Engine, EngineSettings},
    files::Files,
    model::{
        Model,
        pattern_store::PatternStore,
        registry::{Check, Models, RELOAD, Registry, RegistryError},
        shelf::TryOut,
        support_store::SupportStore,
        trained::TrainedModels,
        uploaded::UploadedModels,
    },
    picture::baseline::ImageSource,
    pool::Pool,
    quota::Quota,
    settings::Settings,
    training,
};
use pixels::Pixels;
use thumbnails::Thumbnails;

pub use error::{AppError, StartError};
pub use explain::{Answered, Explanation};
pub use input::Input;
pub use predict::Predicted;
pub use reload::ReloadError;
pub use timing::StageTimes;
pub use uploads::Uploads;

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
    thumbnails: Thumbnails,
    quota: Quota,
    files: Files,
    patterns: PatternStore,
    supports: SupportStore,
    trained: TrainedModels,
    uploaded: UploadedModels,
    datasets: Arc<Datasets>,
    /// The same, as the methods see them.
    pictures: Arc<dyn ImageSource>,
    /// Told when other models are in use.
    reloaded: Notify,
}

const MIB: usize = 1 << 20;

/// How an engine is set up for these settings.
pub fn engine_settings(settings: &Settings) -> EngineSettings {
    EngineSettings {
        library: Some(settings.onnxruntime.clone()),
        providers: settings.providers.clone(),
        threads: settings.threads,
        convolution_error: settings.convolution_error,
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
        let pictures: Arc<dyn ImageSource> = datasets.clone();
        let patterns = PatternStore::new(files.clone(), pool.clone(), &settings.data);
        let supports = SupportStore::new(files.clone(), pool.clone());
        let runner = engine.clone();
        let check = move |model: &Model| try_out(&runner, model);
        let check: TryOut = Arc::new(check);
        let trained = TrainedModels::new(files.clone(), &settings.data, check.clone());
        let uploaded = UploadedModels::new(files.clone(), &settings.data, check);
        let models = Models::new(models);
        let reloaded = Notify::new();
        let parts = Parts {
            settings,
            models,
            engine,
            pool,
            pixels,
            thumbnails: thumbnails::thumbnails(),
            quota,
            files,
            patterns,
            supports,
            trained,
            uploaded,
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

    /// What a training runs with.
    pub fn training(&self) -> training::Surroundings {
        let memory_mib = self.settings().train_memory_mib as usize;
        training::Surroundings {
            engine: self.engine().clone(),
            pool: self.pool().clone(),
            limits: *self.datasets().local().limits(),
            memory_bytes: memory_mib.saturating_mul(MIB),
        }
    }

    /// What methods are worked on with.
    pub fn resources<'a>(&'a self, caller: &'a Caller) -> Resources<'a> {
        Resources {
            engine: self.engine(),
            pool: self.pool(),
            caller,
            pictures: Some(&self.parts.pictures),
            supports: Some(&self.parts.supports),
            attn_lrp: self.settings().attn_lrp,
        }
    }
}

fn try_out(engine: &Engine, model: &Model) -> Result<Vec<String>, String> {
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
