//! `model.toml`: how pixels become the model's input, and what its output means. Absent fields are
//! inferred from the graph.

use serde::{Deserialize, Serialize};

use crate::picture::preprocess::Preprocess;
use onnx_autodiff::autodiff::spec::{Head, PatternLayers};

/// A resolved manifest. Input tensors have no batch axis here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub input: Input,
    pub head: Head,
    pub pattern_layers: PatternLayers,
    /// The graph output with the class scores; required where the graph has several candidates.
    pub output: Option<String>,
    /// Default layer of Grad-CAM; if absent, the last of the model's layers.
    pub layer: Option<String>,
    /// Preprocessing that model.toml leaves out, and what is assumed instead.
    #[serde(skip)]
    pub assumed: Option<String>,
}

/// The model's input value, and, for image classifiers, its preprocessing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// Name of the graph input.
    pub name: String,
    /// Shape of one sample, as the graph has it: `[3, 224, 224]` for NCHW, `[2]` for a net over two
    /// numbers.
    pub shape: Vec<usize>,
    /// How pixels become that tensor; `None` for models that take ready tensors only.
    pub preprocess: Option<Preprocess>,
}
