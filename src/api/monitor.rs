//! Metrics besides those that are counted where they happen: series that exist from the start, and
//! gauges that are read at each scrape.

use super::Api;
use crate::{
    engine::backend_ort,
    jobs::{runner::Ending, store::JobState},
    methods::registry::METHODS,
    telemetry::{Stage, names},
};

/// Starts all series with known labels at zero: an alert can tell "none yet" from "no data".
pub(super) fn start_at_zero(api: &Api) {
    let engine = api.app().engine();
    let onnxruntime =
        backend_ort::loaded().map_or_else(String::new, |runtime| runtime.version.clone());
    metrics::gauge!(names::BUILD_INFO, "version" => env!("CARGO_PKG_VERSION"), "onnxruntime" => onnxruntime).set(1.0);
    metrics::gauge!(names::HTTP_REQUESTS_IN_FLIGHT).increment(0.0);
    metrics::gauge!(names::QUEUE_ROWS).increment(0.0);
    metrics::counter!(names::REJECTED_TOTAL).increment(0);
    for stage in Stage::ALL {
        let _ = metrics::histogram!(names::STAGE_DURATION_SECONDS, "stage" => stage.name());
    }
    for model in api.app().model_ids() {
        metrics::counter!(names::ROWS_TOTAL, "model" => model.clone()).increment(0);
        metrics::counter!(names::BATCHES_TOTAL, "model" => model.clone()).increment(0);
        let _ = metrics::histogram!(names::BATCH_DURATION_SECONDS, "model" => model.clone());
        for method in METHODS {
            let labels = [("model", model.clone()), ("method", method.id.to_owned())];
            metrics::counter!(names::EXPLANATIONS_TOTAL, &labels).increment(0);
        }
    }
    for provider in engine.providers() {
        let provider = provider.to_string();
        metrics::gauge!(names::SESSIONS_OPEN, "provider" => provider.clone()).increment(0.0);
        metrics::gauge!(names::SESSION_MEMORY_BYTES, "provider" => provider.clone()).increment(0.0);
        metrics::counter!(names::SESSIONS_EVICTED_TOTAL, "provider" => provider.clone())
            .increment(0);
        let _ = metrics::histogram!(names::SESSION_OPEN_DURATION_SECONDS, "provider" => provider);
    }
    for kind in api.jobs().kinds() {
        for ending in Ending::ALL {
            metrics::counter!(names::SHARDS_TOTAL, "kind" => kind.id(), "outcome" => ending.name())
                .increment(0);
        }
        let _ = metrics::histogram!(names::SHARD_DURATION_SECONDS, "kind" => kind.id());
    }
    for state in JobState::ALL {
        metrics::gauge!(names::JOBS, "state" => state.name()).increment(0.0);
    }
    metrics::gauge!(names::JOBS_DATABASE_UP).increment(0.0);
}

/// Counts the jobs in the database. If it does not answer, the numbers stay as they were.
pub(super) async fn count_jobs(api: &Api) {
    let counts = api.jobs().counts().await;
    metrics::gauge!(names::JOBS_DATABASE_UP).set(if counts.is_ok() { 1.0 } else { 0.0 });
    for (state, count) in counts.into_iter().flatten() {
        metrics::gauge!(names::JOBS, "state" => state.name()).set(count as f64);
    }
}
