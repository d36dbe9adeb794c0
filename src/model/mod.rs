//! What is known of each classifier: its folder, manifest, labels, patterns, and the registry of all of them.

pub mod manifest;

use std::{path::PathBuf, sync::Arc};

use crate::{autodiff::spec::Patterns, onnx::graph::Graph};
use manifest::Manifest;

/// A classifier ready to be explained: a folder `models/<id>/`.
#[derive(Debug)]
pub struct Model {
    pub id: String,
    pub folder: PathBuf,
    pub manifest: Manifest,
    /// One name per class; empty when the model has no labels file.
    pub labels: Vec<String>,
    /// SHA-256 of `model.onnx`, hex.
    pub hash: String,
    pub graph: Arc<Graph>,
    pub patterns: Option<Patterns>,
}
