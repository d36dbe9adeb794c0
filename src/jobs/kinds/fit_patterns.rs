//! `fit_patterns`: fits a model's patterns (Eq. 2 of the PGIG paper) on a data set, as
//! `explaind fit-patterns` does, and puts them in the place of the ones in use, on all replicas.
//! One shard: its sums run over all images. The versions before are kept.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    cost::check_total,
    request_reader::{RequestReader, planned_dataset, planned_model},
};
use crate::{
    app::App,
    dataset::Dataset,
    faults::Faults,
    jobs::{
        Context, Format, JobError, Kind, Plan, PlannedShard, Report, Results, Shard, ShardResults,
        WorkError,
    },
    model::{
        Model,
        patterns::{self, Provenance},
    },
    patterns::{FitError, FitRequest, Fitted, SampleSource, fit},
};
use onnx_autodiff::autodiff::fit::{Regime, fit_graph};

pub static FIT_PATTERNS: FitPatterns = FitPatterns;

#[derive(Debug)]
pub struct FitPatterns;

#[derive(Debug, Serialize, Deserialize)]
struct Spec {
    model: String,
    model_hash: String,
    dataset: String,
    dataset_hash: String,
    /// Which samples are positive.
    regime: Regime,
}

impl Kind for FitPatterns {
    fn id(&self) -> &'static str {
        "fit_patterns"
    }

    fn doc(&self) -> &'static str {
        "Fits the patterns of PatternAttribution and PGIG on a data set; they are used from the job's end on"
    }

    fn parameters(&self) -> &'static [(&'static str, &'static str)] {
        &[
            ("model", "the model's id; default: as for POST /explain"),
            ("dataset", "the id of the data set"),
            (
                "regime",
                "which samples count: `activation` (the rectifier behind the layer is on; the default) or `weights` (the product without bias \
                 is positive)",
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
            let model = asked.model();
            let dataset = asked.dataset().await;
            asked.expect(
                "model_hash",
                model.as_ref().map(|model| model.hash.as_str()),
            );
            asked.expect(
                "dataset_hash",
                dataset.as_ref().map(|dataset| dataset.hash.as_str()),
            );
            let regime = asked
                .take("regime", &["activation", "weights"], |_| true)
                .unwrap_or(Regime::Activation);
            if model
                .as_ref()
                .is_some_and(|model| model.manifest.input.preprocess.is_none())
            {
                asked.refuse(
                    "model",
                    "takes ready tensors: `explaind fit-patterns --tensors X.npy` fits those",
                    &[],
                );
            }
            if let Some(model) = model.clone() {
                let fault = move || fit_graph(&model.graph, regime).err();
                if let Some(fault) = app.pool().run(fault).await? {
                    asked.refuse("model", format!("cannot be fitted: {fault}"), &[]);
                }
            }
            if dataset
                .as_ref()
                .is_some_and(|dataset| dataset.images.is_empty())
            {
                asked.refuse("dataset", "holds no image", &[]);
            }
            asked.finish()?;
            let (Some(model), Some(dataset)) = (model, dataset) else {
                return Err(Faults::default().into());
            };
            check_total(app, dataset.images.len() as u64, |_| {
                vec![("dataset", None)]
            })?;
            let spec = Spec {
                model: model.id.clone(),
                model_hash: model.hash.clone(),
                dataset: dataset.id.clone(),
                dataset_hash: dataset.hash.clone(),
                regime,
            };
            let shard = PlannedShard {
                units: dataset.images.len() as u64,
                payload: Value::Null,
                needs_previous: false,
            };
            Ok(Plan {
                model: Some(model.id.clone()),
                spec: json!(spec),
                shards: vec![shard],
            })
        })
    }

    fn work<'a>(
        &'a self,
        context: &'a Context,
        _: &'a Shard,
    ) -> BoxFuture<'a, Result<Bytes, WorkError>> {
        Box::pin(async move {
            let spec: Spec = serde_json::from_value(context.spec.as_ref().clone())
                .map_err(WorkError::permanent)?;
            let model = planned_model(&context.app, &spec.model, &spec.model_hash, None).await?;
            let dataset = planned_dataset(&context.app, &spec.dataset, &spec.dataset_hash).await?;
            let fitted = fit_on(context, &spec, &model, &dataset).await?;
            // Images that went while they were read were counted as unreadable: those of the same
            // set lie elsewhere then.
            if planned_dataset(&context.app, &spec.dataset, &spec.dataset_hash)
                .await?
                .folder
                != dataset.folder
            {
                return Err(WorkError::transient(
                    "the data set was uploaded again while it was read",
                ));
            }
            let write = move || write(fitted, &spec, &model, &dataset);
            let (report, file) = context.app.pool().run(write).await??;
            context.files().write(&place(context), file).await?;
            Ok(serde_json::to_vec(&report)
                .map_err(WorkError::permanent)?
                .into())
        })
    }

    fn reduce(&self, _: &Value, results: Results<'_>) -> Result<Value, WorkError> {
        let Some(result) = results.flatten().next() else {
            return Ok(Value::Null);
        };
        serde_json::from_slice(&result).map_err(WorkError::permanent)
    }

    fn complete<'a>(
        &'a self,
        context: &'a Context,
        mut reduced: Value,
        _: ShardResults,
    ) -> BoxFuture<'a, Result<Value, WorkError>> {
        Box::pin(async move {
            let spec: Spec = serde_json::from_value(context.spec.as_ref().clone())
                .map_err(WorkError::permanent)?;
            let file = context.files().read(&place(context)).await?;
            planned_model(&context.app, &spec.model, &spec.model_hash, None).await?;
            reduced["patterns"] = json!(context.app.install_patterns(&spec.model, file).await?);
            Ok(reduced)
        })
    }

    fn report(&self, spec: &Value, result: &Value, _: Format) -> Result<Report, WorkError> {
        let report = json!({ "kind": self.id(), "request": spec, "result": result });
        Ok(Report::Bytes(
            serde_json::to_vec_pretty(&report)
                .map_err(WorkError::permanent)?
                .into(),
        ))
    }
}

fn place(context: &Context) -> object_store::path::Path {
    context.folder().join(patterns::FILE)
}

async fn fit_on(
    context: &Context,
    spec: &Spec,
    model: &Arc<Model>,
    dataset: &Dataset,
) -> Result<Fitted, WorkError> {
    let preprocess = model.manifest.input.preprocess.clone();
    let preprocess =
        preprocess.ok_or_else(|| WorkError::permanent("the model takes ready tensors"))?;
    // In the order in which the command finds them in a folder.
    let mut paths: Vec<PathBuf> = dataset
        .images
        .iter()
        .map(|image| dataset.folder.join(&image.file))
        .collect();
    paths.sort();
    let request = FitRequest {
        model: model.clone(),
        samples: SampleSource::Images { paths, preprocess },
        regime: spec.regime,
    };
    let (app, caller) = (&context.app, &context.caller);
    let progress = |done| context.report_progress(done as u64);
    Ok(fit(request, app.engine(), app.pool(), caller, progress).await?)
}

impl From<FitError> for WorkError {
    fn from(error: FitError) -> Self {
        match error {
            FitError::Engine(error) => error.into(),
            FitError::Panicked(error) => error.into(),
            _ => Self::permanent(error),
        }
    }
}

/// The fit's report, and the patterns file.
fn write(
    fitted: Fitted,
    spec: &Spec,
    model: &Model,
    dataset: &Dataset,
) -> Result<(Value, Vec<u8>), WorkError> {
    let Fitted { layers, mut report } = fitted;
    for fault in &mut report.unreadable {
        if let Ok(below) = fault.path.strip_prefix(&dataset.folder) {
            fault.path = below.to_owned();
        }
    }
    let provenance = Provenance {
        model_hash: model.hash.clone(),
        data_set: dataset.id.clone(),
        samples: report.samples,
        rows: report.rows,
        regime: json!(spec.regime).as_str().unwrap_or_default().to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let folder = tempfile::tempdir().map_err(WorkError::transient)?;
    let path = folder.path().join(patterns::FILE);
    patterns::write(&path, &layers, &provenance).map_err(WorkError::transient)?;
    let file = std::fs::read(&path).map_err(WorkError::transient)?;
    Ok((
        serde_json::to_value(&report).map_err(WorkError::permanent)?,
        file,
    ))
}
