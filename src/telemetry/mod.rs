//! Tracing and Prometheus, set up once per process; metric names are in [`names`].

pub mod names;

use std::{
    io::{IsTerminal, stderr},
    sync::OnceLock,
    time::Duration,
};

use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};
use tracing::Subscriber;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter, util::SubscriberInitExt};

/// Upper bounds of every duration histogram, in seconds: 0.5 ms (a decode) to a minute (a long path
/// on a large model).
const DURATION_BUCKETS: [f64; 17] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.035, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    30.0, 60.0,
];

/// Writes spans and events to standard error, as text or one JSON object per line. `filter` is a
/// `tracing` directive list (`info,explaind=debug`). Unless the list names them, `ort` logs
/// warnings only (it calls every newer release of ONNX Runtime untested), and so does `sqlx` (it
/// repeats PostgreSQL's notices).
pub fn install_tracing(filter: &str, json: bool) -> Result<(), TelemetryError> {
    let subscriber = subscriber(filter, json, stderr().is_terminal(), stderr)?;
    subscriber
        .try_init()
        .map_err(|e| TelemetryError::AlreadyInstalled {
            reason: e.to_string(),
        })
}

/// The subscriber that writes the log to `writer`.
pub fn subscriber<W>(
    filter: &str,
    json: bool,
    colours: bool,
    writer: W,
) -> Result<Box<dyn Subscriber + Send + Sync>, TelemetryError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(format!("ort=warn,sqlx=warn,{filter}")).map_err(|e| {
        TelemetryError::Filter {
            filter: filter.into(),
            reason: e.to_string(),
        }
    })?;
    // A line that cannot be written (closed pipe or terminal) is dropped: reporting it there would
    // panic.
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(colours)
        .log_internal_errors(false);
    Ok(match json {
        true => Box::new(
            builder
                .json()
                .flatten_event(true)
                .with_span_list(false)
                .finish(),
        ),
        false => Box::new(builder.finish()),
    })
}

/// The process's Prometheus recorder, installed at the first call.
pub fn prometheus() -> Result<&'static PrometheusHandle, TelemetryError> {
    static HANDLE: OnceLock<Result<PrometheusHandle, String>> = OnceLock::new();
    HANDLE
        .get_or_init(|| build_recorder().map_err(|e| e.to_string()))
        .as_ref()
        .map_err(|reason| TelemetryError::Recorder {
            reason: reason.clone(),
        })
}

fn build_recorder() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets(&DURATION_BUCKETS)?
        .install_recorder()?;
    names::describe();
    metrics_process::Collector::default().describe();
    Ok(handle)
}

/// All metrics in Prometheus's text format; those of the process (CPU, memory, file descriptors)
/// are read at each call. Blocks.
pub fn render() -> Result<String, TelemetryError> {
    let handle = prometheus()?;
    metrics_process::Collector::default().collect();
    Ok(handle.render())
}

/// The stages of a request.
#[derive(Clone, Copy, Debug)]
pub enum Stage {
    Decode,
    Preprocess,
    Queue,
    Model,
    Render,
    Encode,
}

impl Stage {
    pub const ALL: [Self; 6] = [
        Self::Decode,
        Self::Preprocess,
        Self::Queue,
        Self::Model,
        Self::Render,
        Self::Encode,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Preprocess => "preprocess",
            Self::Queue => "queue",
            Self::Model => "model",
            Self::Render => "render",
            Self::Encode => "encode",
        }
    }
}

/// Records how long one stage of a request took.
pub fn record_stage(stage: Stage, duration: Duration) {
    metrics::histogram!(names::STAGE_DURATION_SECONDS, "stage" => stage.name()).record(duration);
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
