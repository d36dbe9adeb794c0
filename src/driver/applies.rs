//! Which methods a model supports.

use crate::{
    methods::{
        gad::no_supports,
        registry::{Method, Need},
    },
    model::{Model, registry::RELOAD},
    text::quoted,
};
use onnx_autodiff::autodiff::{self, spec::DeriveSpec};

/// Why the network has no gradient, and so no method that differentiates. Takes up to seconds.
pub fn gradient_fault(model: &Model) -> Option<String> {
    let derived = autodiff::derive(&model.graph, &DeriveSpec::gradient(), None);
    derived.err().map(|error| error.to_string())
}

/// Why a method does not work with a model; `gradient` is why its network has no gradient.
pub fn obstacle(method: &Method, model: &Model, gradient: Option<&str>) -> Option<String> {
    let missing = || {
        let from = if model.manifest.input.preprocess.is_some() {
            "--images FOLDER"
        } else {
            "--tensors X.npy"
        };
        format!(
            "the model has no patterns; `explaind fit-patterns --model {} {from}` fits them; then {RELOAD}",
            quoted(&model.id)
        )
    };
    match gradient {
        Some(fault) if method.rule_set.is_some() => Some(fault.to_owned()),
        _ if method.needs_patterns() && model.patterns.is_none() => Some(missing()),
        _ if method.needs(Need::Supports) && model.supports.is_empty() => {
            Some(no_supports(&model.id))
        }
        _ if method.takes("layer") && model.layers.is_empty() => Some(
            "the model has no layer with height and width between its input and its head"
                .to_owned(),
        ),
        _ if method.needs_picture() && model.manifest.input.preprocess.is_none() => Some(
            "it looks at the picture that the input shows, and the model takes ready tensors"
                .to_owned(),
        ),
        _ => None,
    }
}
