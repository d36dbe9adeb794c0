//! Models made of another: a part of its graph. Each has a hash of its own, which says what it is of
//! which model, so that it shares no session with it.

use std::sync::Arc;

use super::{Model, manifest::Manifest};
use onnx_autodiff::onnx::graph::Graph;

/// A part of a model's graph, up to the value or place called `end`, as a model that takes ready
/// tensors.
pub fn cut(model: &Model, end: &str, part: &Graph) -> Model {
    let bare = Model::bare("", Arc::new(part.clone()));
    let input = bare.manifest.input;
    Model {
        hash: format!("{}, {} {:?} to {end}", model.hash, input.name, input.shape),
        manifest: Manifest {
            input,
            ..model.manifest.clone()
        },
        labels: Default::default(),
        graph: bare.graph,
        layers: Vec::new(),
        patterns: None,
        warnings: Vec::new(),
        ..model.clone()
    }
}
