//! The outputs of a network beside the one that model.toml names: each with a graph and a reading of
//! its own, for requests that ask for it.

use std::sync::Arc;

use onnx_autodiff::onnx::{
    graph::{Dim, Graph, ValueType},
    infer,
};

use super::{Model, manifest::OutputKind};

/// The most outputs that are looked at: each is run when the model is loaded.
const MOST: usize = 8;

/// An output that requests may ask for.
#[derive(Clone, Debug)]
pub struct OtherOutput {
    pub name: String,
    /// The model that explains it, or why none does.
    pub model: Result<Arc<Model>, String>,
}

/// The outputs of a graph beside `chosen` that hold floats, and why one cannot be explained by its
/// type: `is_named` are those that model.toml says something of.
pub(super) fn others(
    graph: &Graph,
    chosen: &str,
    is_named: impl Fn(&str) -> bool,
) -> Vec<(String, Option<String>)> {
    let types = infer(graph).ok();
    let outputs = graph.outputs.iter().filter(|output| output.name != chosen);
    let found = outputs.filter_map(|output| {
        let inferred = types.as_ref().and_then(|types| types.get(&output.name));
        let value_type = inferred.unwrap_or(&output.value_type);
        let is_float = value_type.element.is_float();
        let is_right = is_vector(value_type) || is_named(&output.name);
        let reason = (!is_right).then(|| format!("it is {value_type}, not [batch, classes]"));
        is_float.then(|| (output.name.clone(), reason))
    });
    found.take(MOST).collect()
}

/// `[batch, classes]`, possibly with trailing axes of size 1.
pub(super) fn is_vector(value_type: &ValueType) -> bool {
    let [_, _, rest @ ..] = &value_type.shape[..] else {
        return false;
    };
    rest.iter().all(|dim| *dim == Dim::Known(1))
}

/// Whether the names of the classes of one output are those of another's.
pub(super) fn shares_labels(model: &Model, other: &Model) -> bool {
    let kind = |model: &Model| model.manifest.reading.kind;
    kind(model) == kind(other)
        && kind(model) != OutputKind::Embedding
        && other.classes() == Some(model.labels.len())
}

impl Model {
    /// The name of the output that is explained, where a request may ask for another.
    pub fn output(&self) -> Option<&str> {
        let has_others = !self.manifest.reading.outputs.is_empty();
        self.manifest.output.as_deref().filter(|_| has_others)
    }

    /// The model that explains the output of this name, or why none does.
    pub fn with_output(self: &Arc<Self>, name: &str) -> Result<Arc<Self>, String> {
        if self.manifest.output.as_deref() == Some(name) {
            return Ok(self.clone());
        }
        match self.outputs.iter().find(|other| other.name == name) {
            Some(OtherOutput { model, .. }) => model
                .clone()
                .map_err(|reason| format!("output {name} cannot be explained: {reason}")),
            None => Err(format!("the model has no output {name:?}")),
        }
    }
}
