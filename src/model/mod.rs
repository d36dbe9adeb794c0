//! Models: folder, manifest, labels, patterns, and the registry of all models.

mod ends;
pub mod fixed;
mod foreign;
pub mod labels;
pub mod manifest;
mod manifest_file;
pub mod outputs;
pub mod pattern_store;
pub mod patterns;
mod pixels;
pub mod provenance;
pub mod registry;
pub mod resized;
mod rule_sets;
pub mod shelf;
pub mod support_store;
pub mod supports;
pub mod trained;
pub mod uploaded;
pub mod variant;

use std::{path::PathBuf, sync::Arc};

use crate::text::counted;
use labels::Labels;
use manifest::{Input, Manifest, Reading};
pub use manifest_file::to_toml;
use onnx_autodiff::{
    autodiff::{
        rounding,
        spec::{Attention, Head, Layer, PatternLayers, Patterns, RuleSetId},
    },
    onnx::graph::{Dim, Graph},
};
use outputs::OtherOutput;
use provenance::Provenance;
pub use rule_sets::RuleSets;
use supports::SupportSet;

/// A classifier ready to be explained: a folder `models/<id>/`.
#[derive(Clone, Debug)]
pub struct Model {
    pub id: String,
    /// None for a single .onnx file.
    pub folder: Option<PathBuf>,
    pub manifest: Manifest,
    /// One name per class; empty when the model has no labels file.
    pub labels: Labels,
    /// SHA-256 of `model.onnx` in hex; with external data, of the SHA-256 of all its files.
    pub hash: String,
    pub graph: Arc<Graph>,
    /// Those that `graph` supports.
    pub rule_sets: RuleSets,
    /// The layers for Grad-CAM in the order of the forward pass; empty where there are none, or the
    /// types of the graph cannot be inferred.
    pub layers: Vec<Layer>,
    /// Or why there is none that relates all tokens of a grid.
    pub attention: Result<Arc<Attention>, String>,
    pub patterns: Option<Patterns>,
    /// Its sets of supports, by name.
    pub supports: Arc<[Arc<SupportSet>]>,
    /// Those beside the one that is explained.
    pub outputs: Arc<[OtherOutput]>,
    /// Of a model that was trained here.
    pub provenance: Option<Arc<Provenance>>,
    /// Parts of the graph that are dropped or interpreted.
    pub warnings: Vec<String>,
    /// What the adapted input means for derivatives.
    pub notes: Vec<String>,
}

impl Model {
    /// A network over ready tensors, named and told from all others by `hash`: nothing but its
    /// graph is known of it.
    pub fn bare(hash: &str, graph: Arc<Graph>) -> Self {
        let input = graph.inputs.first();
        let shape = input.map_or(&[][..], |input| &input.value_type.shape);
        Self {
            id: hash.to_owned(),
            folder: None,
            manifest: Manifest {
                input: Input {
                    name: input.map_or_else(String::new, |input| input.name.clone()),
                    shape: shape.iter().filter_map(Dim::known).collect(),
                    preprocess: None,
                    open: None,
                },
                head: Head::Logits,
                pattern_layers: PatternLayers::All,
                output: None,
                reading: Reading::default(),
                layer: None,
                assumed: None,
            },
            labels: Labels::default(),
            hash: hash.to_owned(),
            graph,
            rule_sets: RuleSets::default(),
            layers: Vec::new(),
            attention: Err("the model has no picture for its input".to_owned()),
            patterns: None,
            supports: Arc::default(),
            outputs: Arc::default(),
            provenance: None,
            warnings: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Why a rule set does not work with the network. Takes up to seconds the first time.
    pub fn rule_set_fault(&self, set: RuleSetId) -> Option<String> {
        self.rule_sets.fault(&self.graph, set)
    }

    /// Whether gradients stand for derivatives that are zero: its activations are quantised.
    pub fn is_surrogate(&self) -> bool {
        self.surrogate_note().is_some()
    }

    /// Where gradients are surrogates; none of a network without gradient.
    pub fn surrogate_note(&self) -> Option<String> {
        let nodes = rounding(&self.graph);
        let first = nodes.first()?;
        self.rule_set_fault(RuleSetId::Gradient).is_none().then(|| {
            format!(
                "surrogate gradient: it passes straight through the rounding of {}, inside their ranges; the first is {}",
                counted(nodes.len(), "QuantizeLinear node"),
                first.label()
            )
        })
    }

    /// What every explanation by gradients has to say; nothing of a network without gradient.
    pub fn gradient_notes(&self) -> Vec<String> {
        if self.rule_set_fault(RuleSetId::Gradient).is_some() {
            return Vec::new();
        }
        let own = self.notes.iter().cloned();
        own.chain(self.surrogate_note()).collect()
    }

    /// The number of classes of the first output; `None` where its shape is symbolic and there are
    /// no labels.
    pub fn classes(&self) -> Option<usize> {
        let shape = &self.graph.outputs.first()?.value_type.shape;
        let known = |dim: &Dim| {
            if let Dim::Known(size) = dim {
                Some(*size)
            } else {
                None
            }
        };
        let count = if shape.len() < 2 {
            None
        } else {
            shape.iter().skip(1).map(known).product()
        };
        count.or_else(|| Some(self.labels.len()).filter(|&count| count > 0))
    }
}
