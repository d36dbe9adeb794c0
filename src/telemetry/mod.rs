//! Tracing and Prometheus: set up once per process; the names live in [`names`].

pub mod names;

use std::{
    io::{IsTerminal, stderr},
    sync::OnceLock,
    time::Duration,
};

use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

/// Upper bounds of every duration histogram, in seconds: 0.5 ms (a decode) to a minute (a long path on a large model).
const DURATION_BUCKETS: [f64; 17] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.035, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Sends spans and events to standard error, as text or one JSON object a line.
/// `filter` is a `tracing` directive list (`info,explaind=debug`).
pub fn install_tracing(filter: &str, json: bool) -> Result<(), TelemetryError> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|e| TelemetryError::Filter { filter: filter.into(), reason: e.to_string() })?;
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_ansi(stderr().is_terminal());
    if json { builder.json().flatten_event(true).try_init() } else { builder.try_init() }
        .map_err(|e| TelemetryError::AlreadyInstalled { reason: e.to_string() })
}

/// The process's Prometheus recorder, installed at the first call.
pub fn prometheus() -> Result<&'static PrometheusHandle, TelemetryError> {
    static HANDLE: OnceLock<Result<PrometheusHandle, String>> = OnceLock::new();
    HANDLE
        .get_or_init(|| build_recorder().map_err(|e| e.to_string()))
        .as_ref()
        .map_err(|reason| TelemetryError::Recorder { reason: reason.clone() })
}

fn build_recorder() -> Result<PrometheusHandle, BuildError> {
    PrometheusBuilder::new().set_buckets(&DURATION_BUCKETS)?.install_recorder()
}

/// Records how long one stage of a request took.
pub fn record_stage(stage: &'static str, duration: Duration) {
    metrics::histogram!(names::STAGE_DURATION_SECONDS, "stage" => stage).record(duration);
}

#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("the log filter `{filter}` cannot be read: {reason}")]
    Filter { filter: String, reason: String },
    #[error("tracing is already installed: {reason}")]
    AlreadyInstalled { reason: String },
    #[error("the metrics recorder cannot be installed: {reason}")]
    Recorder { reason: String },
}
