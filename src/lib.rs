//! explaind explains the decisions of any ONNX image classifier.
//!
//! A request travels: `api` (bytes in) -> `image` (pixels, tensor, geometry) -> `methods` (a pure
//! state machine that asks for evaluations) -> `engine` (batches, worker, ONNX Runtime session of a
//! graph that `autodiff` derived from the model's `onnx`) -> `methods` (attribution) -> `image`
//! (back onto the upload) -> `render` (picture) -> `api` (bytes out). Long work runs as `jobs`: the
//! same methods and metrics, shard by shard, on any replica. `segment` cuts pictures into regions;
//! `model` holds what is known of each classifier, `dataset` sets of labelled images; `app` wires
//! the rooms; `settings` says how.

/// Of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

// The commands see the library as other programs do.
extern crate self as explaind;

pub mod api;
pub mod app;
pub mod blur;
pub mod cli;
mod commands;
pub mod dataset;
pub mod engine;
pub mod evaluation;
pub mod fields;
pub mod files;
pub mod jobs;
pub mod methods;
pub mod model;
pub mod patterns;
pub mod picture;
pub mod pool;
pub mod quota;
pub mod render;
pub mod segment;
pub mod settings;
pub mod telemetry;
pub mod tensor;
pub mod text;
