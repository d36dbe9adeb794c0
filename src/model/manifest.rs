//! `model.toml`: how pixels become the model's input, and what its output means. Absent fields are
//! inferred from the graph.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Number;
use utoipa::ToSchema;

use crate::picture::preprocess::Preprocess;
use onnx_autodiff::{
    autodiff::spec::{Head, PatternLayers},
    onnx::graph::{Dim, Element},
};

/// A resolved manifest. Input tensors have no batch axis here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub input: Input,
    pub head: Head,
    pub pattern_layers: PatternLayers,
    /// The graph output that is explained; model.toml has to say it where the graph has several
    /// candidates.
    pub output: Option<String>,
    #[serde(flatten, default)]
    pub reading: Reading,
    /// Default layer of Grad-CAM; if absent, the last of the model's layers.
    pub layer: Option<String>,
    /// Preprocessing that model.toml leaves out, and what is assumed instead.
    #[serde(skip)]
    pub assumed: Option<String>,
}

/// What the graph's output means, and where its other inputs come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    #[serde(default)]
    pub kind: OutputKind,
    /// What the output holds, where model.toml says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scores: Option<Scores>,
    /// Inputs that are the same for every sample, by name.
    #[serde(default, rename = "inputs", skip_serializing_if = "BTreeMap::is_empty")]
    pub fixed: BTreeMap<String, FixedInput>,
    /// The outputs that a request may ask for, where there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<String>,
    /// Outputs that are left out or interpreted, for people.
    #[serde(skip)]
    pub told: Vec<String>,
}

/// What the values of the output are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputKind {
    /// Scores of classes.
    #[default]
    Classes,
    /// Quantities: nothing is put behind them.
    Regression,
    /// A vector that says what the input is like; it is divided by its length.
    Embedding,
}

/// What the output with the scores holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scores {
    /// Values of which Softmax makes probabilities.
    Logits,
    Probabilities,
    /// Values of which Sigmoid makes a probability for each class alone.
    MultiLabel,
}

/// An input that is not explained, and its value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FixedInput {
    /// Of the value, without the batch.
    pub shape: Vec<usize>,
    /// The type of its numbers.
    #[serde(default)]
    pub element: String,
    /// SHA-256 of its numbers in that type, little-endian.
    pub hash: String,
    #[serde(default)]
    pub from: ValueSource,
    /// Its numbers, row-major, where they are few.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub values: Option<Vec<Number>>,
    #[serde(skip)]
    pub slot: Option<Slot>,
}

/// Who gave the value of an input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ValueSource {
    /// model.toml.
    #[default]
    Model,
    Request,
}

/// What an input takes, and the constants of the graph that hold its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Slot {
    pub element: Element,
    /// Without the batch.
    pub dims: Vec<Dim>,
    /// The constant with the value, of a row where there is one for each.
    pub constant: String,
    /// The constant with the sizes of a row.
    pub sizes: Option<String>,
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
    /// Of an image whose size the graph leaves open: `shape` has one of many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open: Option<OpenSize>,
}

impl Input {
    /// Whether each image's own size is taken.
    pub fn is_of_image(&self) -> bool {
        let chosen_by = self.open.map(|open| open.chosen_by);
        chosen_by == Some(SizeSource::Image)
    }
}

/// Height and width that the graph leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenSize {
    /// Whether the height is open, and whether the width is.
    pub sides: [bool; 2],
    pub chosen_by: SizeSource,
    /// Whether it is chosen, for one input.
    #[serde(skip)]
    pub is_chosen: bool,
}

/// What chooses the size of an input that is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SizeSource {
    /// model.toml, for images; a tensor has its own.
    #[default]
    Model,
    /// Each image.
    Image,
    /// The request.
    Request,
}
