//! Whether a model supports a method.

use super::{
    gad::no_supports,
    parameters::{Facts, Method, Need},
};
use crate::{model::registry::RELOAD, text::quoted};

/// Why a method does not work with a model, by its defaults. Takes up to seconds, where rule sets of the model were
/// not asked for before.
pub fn obstacle(method: &Method, facts: &Facts<'_>) -> Option<String> {
    let fault = |set| facts.rule_sets.fault(facts.graph, set);
    let is_picture = facts.input.preprocess.is_some();
    let missing = || {
        let from = if is_picture {
            "--images FOLDER"
        } else {
            "--tensors X.npy"
        };
        format!(
            "the model has no patterns; `explaind fit-patterns --model {} {from}` fits them; then {RELOAD}",
            quoted(facts.model)
        )
    };
    match method.rule_set.and_then(fault) {
        Some(fault) => Some(fault),
        _ if method.needs_patterns() && !facts.has_patterns => Some(missing()),
        _ if method.needs(Need::Supports) && facts.supports.is_empty() => {
            Some(no_supports(facts.model))
        }
        _ if method.takes("layer") && facts.layers.is_empty() => Some(
            "the model has no layer with height and width or a grid of tokens between its input and its head"
                .to_owned(),
        ),
        _ if let Some(reason) = method.attention_fault(facts.attention.map(AsRef::as_ref)) => {
            Some(reason.to_owned())
        }
        _ if method.needs_picture() && !is_picture => Some(
            "it looks at the picture that the input shows, and the model takes ready tensors"
                .to_owned(),
        ),
        _ => None,
    }
}
