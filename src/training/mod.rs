//! Fine-tunes a classifier on a data set: images -> batches -> one run of the training graph for
//! each micro-batch -> gradients summed in order -> a step of the optimiser. A training goes epoch
//! by epoch from checkpoint to checkpoint; the same recipe, model and data give the same bytes,
//! however often it was interrupted.

pub mod checkpoint;
mod data;
mod examples;
mod head;
mod memory;
mod optimizer;
mod output;
mod plan;
pub mod recipe;
mod selection;
mod trainer;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use checkpoint::Checkpoint;
pub use examples::{Examples, LeftOut, Targets};
pub use plan::check_model;
pub use recipe::{BatchNorm, Loss, Optimizer, Recipe, Schedule, Trainable};
pub use trainer::Trainer;

use crate::{engine::Engine, faults::Faults, picture::decode::Limits, pool::Pool};
use onnx_autodiff::autodiff::DeriveError;

/// What a training runs with.
#[derive(Clone)]
pub struct Surroundings {
    pub engine: Engine,
    pub pool: Pool,
    /// Of an image of the data set.
    pub limits: Limits,
    /// Memory for weights, gradients, moments and the activations of what runs at once, in bytes.
    pub memory_bytes: usize,
}

/// What an epoch came to. Losses and accuracies are means over images; those of training are taken
/// while the weights change, as each batch is met.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EpochReport {
    /// From 1.
    pub epoch: usize,
    pub learning_rate: f64,
    pub loss: f64,
    /// None where the targets are logits.
    pub accuracy: Option<f64>,
    /// None without validation.
    pub validation_loss: Option<f64>,
    pub validation_accuracy: Option<f64>,
    /// Whether it is the last: of all, or because the validation loss no longer falls.
    pub stops: bool,
}

/// A file of a model's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFile {
    pub name: &'static str,
    pub bytes: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub enum TrainingError {
    #[error(transparent)]
    Parameters(#[from] Faults),
    #[error(
        "model {model} takes ready tensors of shape {shape:?}: only models of images are trained"
    )]
    TakesTensors { model: String, shape: Vec<usize> },
    #[error(
        "data set {dataset} has no image to train on: of {images}, {unlabelled} have no label and {unreadable} cannot be decoded"
    )]
    NoImages {
        dataset: String,
        images: usize,
        unlabelled: usize,
        unreadable: usize,
    },
    #[error("the targets are {found:?}, for {images} images of {classes} classes")]
    Targets {
        found: Vec<usize>,
        images: usize,
        classes: usize,
    },
    #[error("cross_entropy takes classes, and the targets are logits: train with the loss mse")]
    LossOfLogits,
    #[error(
        "no class has enough images to keep a share of {share} of them back: raise validation, or set it to 0"
    )]
    NoValidation { share: f64 },
    #[error(
        "class {label} has no image that can be decoded: mend its {images} images, or take it out of the data set"
    )]
    EmptyClass { label: String, images: usize },
    #[error("all labelled images are of class {label}: a new head takes at least two classes")]
    OneClass { label: String },
    #[error(
        "{label:?} cannot be the name of a class: one line of at most 1024 bytes, without spaces around it"
    )]
    Label { label: String },
    #[error("the head cannot be replaced: {reason}")]
    Head { reason: String },
    #[error("no Linear layer is called {layer}{meant}")]
    UnknownLayer { layer: String, meant: String },
    #[error("nothing is left to train: {reason}")]
    NothingToTrain { reason: String },
    #[error("{} cannot be written back into model.onnx: it is made of other weights there", names.join(", "))]
    NotInModel { names: Vec<String> },
    #[error(
        "training takes {needed_mib} MiB, and train_memory_mib is {allowed_mib}: {parameters} weights with gradients and moments take {weights_mib} MiB, the inputs of two batches {batches_mib} MiB, and the activations of one image {row_mib} MiB"
    )]
    Memory {
        needed_mib: usize,
        allowed_mib: usize,
        parameters: usize,
        weights_mib: usize,
        batches_mib: usize,
        row_mib: usize,
    },
    #[error(
        "{what} is not finite in step {step} of {steps} of epoch {epoch}: lower learning_rate, and check that the model answers all images with finite numbers; the checkpoint of the epoch before, if there is one, is kept"
    )]
    NotFinite {
        /// `the loss`, `a gradient` or `the validation loss`.
        what: &'static str,
        /// From 1, as the step.
        epoch: usize,
        step: usize,
        steps: usize,
    },
    #[error("the checkpoint cannot be used: {reason}")]
    Checkpoint { reason: String },
    #[error("ONNX Runtime gave no {output} in the shape that it has")]
    Output { output: String },
    #[error(transparent)]
    Dataset(#[from] crate::dataset::DatasetError),
    #[error("{file} cannot be made the model's input: {source}")]
    Image {
        file: String,
        source: crate::picture::ImageError,
    },
    #[error("{}: {source}", path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(transparent)]
    Derive(#[from] DeriveError),
    #[error(transparent)]
    Engine(#[from] crate::engine::EngineError),
    #[error(transparent)]
    Panicked(#[from] crate::pool::WorkPanicked),
}

impl From<onnx_autodiff::onnx::OnnxError> for TrainingError {
    fn from(error: onnx_autodiff::onnx::OnnxError) -> Self {
        Self::Derive(error.into())
    }
}
