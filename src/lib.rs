//! explaind explains the decisions of any ONNX image classifier.
//!
//! A request travels: `api` (bytes in) -> `picture` (pixels, tensor, geometry) -> `driver` (takes
//! the runs of `methods`, pure state machines that ask questions about models, to their ends) ->
//! `engine` (batches, worker, ONNX Runtime session of a graph that `onnx-autodiff` derived from the
//! model's) -> `driver` (attribution) -> `picture` (back onto the upload) -> `render` (picture) ->
//! `api` (bytes out). Long work runs as `jobs`: the same methods, and the metrics of `evaluation`,
//! shard by shard, on any replica; `incremental` makes the forward passes of inputs that differ in
//! few pixels; `training` fine-tunes models, `tcav` tests concepts, `bam` composes data. `segment`
//! cuts pictures into regions; `model` holds what is known of each classifier, `dataset` sets of
//! labelled images; `app` wires the rooms; `settings` says how.

/// Of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

// The commands see the library as other programs do.
extern crate self as explaind;

pub mod api;
pub mod app;
pub mod bam;
pub mod blur;
pub mod cli;
mod commands;
pub mod dataset;
pub mod driver;
pub mod engine;
pub mod evaluation;
pub mod faults;
pub mod files;
pub mod incremental;
pub mod jobs;
pub mod methods;
pub mod model;
pub mod patterns;
pub mod picture;
pub mod pool;
pub mod quota;
pub mod random;
pub mod render;
pub mod segment;
pub mod settings;
pub mod tcav;
pub mod telemetry;
pub mod tensor;
pub mod text;
pub mod training;
