//! Typed settings: default.toml < config file < EXPLAIND_* environment < flags; all faults are
//! reported at once, each with its source.
//!
//! A setting is a line in `default.toml` (its name, type, default and help text, below its section)
//! and a field here.

mod layers;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use serde::Deserialize;

use crate::engine::provider::Provider;
pub use layers::{Flags, FlagsFor, Uses, load, settled};

#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub listen: SocketAddr,
    pub models: PathBuf,
    pub data: PathBuf,
    /// Folders of data sets by id.
    pub dataset: BTreeMap<String, PathBuf>,
    pub max_dataset_bytes: u64,
    pub max_dataset_files: usize,
    pub max_datasets: usize,
    pub max_model_bytes: u64,
    /// Uploaded ones.
    pub max_models: usize,
    pub max_model_versions: usize,
    pub max_data_bytes: u64,
    pub default_model: Option<String>,
    pub attn_lrp: bool,
    /// None for SQLite in `data`.
    pub database: Option<String>,
    /// `s3://bucket/prefix` or a folder. None for a folder in `data`.
    pub object_store: Option<String>,
    pub role: Role,
    pub job_slots: usize,
    pub lease: Duration,
    pub job_retention: Duration,
    pub max_kept_jobs: u64,
    pub max_jobs: u64,
    pub max_trained_models: usize,
    pub max_job_evaluations: u64,
    pub max_image_evaluations: u64,
    pub max_job_output_bytes: u64,
    pub train_memory_mib: u64,
    pub onnxruntime: PathBuf,
    pub providers: Vec<Provider>,
    /// At least 1.
    pub threads: usize,
    pub convolution_error: f64,
    pub max_upload_bytes: usize,
    pub body_memory_mib: u64,
    pub max_connections: usize,
    pub header_timeout: Duration,
    pub keep_alive_timeout: Duration,
    pub body_idle_timeout: Duration,
    /// In bytes per second.
    pub min_body_rate: u64,
    pub write_timeout: Duration,
    pub max_pixels: u64,
    pub max_side: u32,
    pub max_tensor_elements: usize,
    pub max_input_elements: usize,
    pub queue_rows: usize,
    pub batch_rows: usize,
    pub batch_memory_mib: u64,
    pub session_memory_mib: u64,
    pub max_interactive_evaluations: usize,
    pub request_timeout: Duration,
    pub drain_timeout: Duration,
    pub shutdown_grace: Duration,
    pub cors_origins: Vec<String>,
    pub allowed_hosts: Vec<String>,
    pub log: String,
    pub log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

/// The role of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    All,
    /// Answers requests; does not work on jobs.
    Api,
    /// Works on jobs; answers only health checks.
    Worker,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Api => "api",
            Self::Worker => "worker",
        }
    }
}

/// All faults of the settings, in the order of the layers.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the settings have {} fault(s):\n  {}", faults.len(), faults.join("\n  "))]
pub struct SettingsError {
    pub faults: Vec<String>,
}
