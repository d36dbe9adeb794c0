//! A training, epoch by epoch.

use std::sync::Arc;

use super::{Checkpoint, EpochReport, Examples, ModelFile, Recipe, Surroundings, TrainingError};
use crate::{dataset::Dataset, engine::Caller, model::Model};

/// A training that can be carried on from any of its checkpoints: the derived graph, the split, the
/// targets. Made once in each process that works on it.
pub struct Trainer;

impl Trainer {
    /// Derives the training graph and splits the images. Fails with what stands in the way of the
    /// whole training.
    pub async fn new(
        _recipe: Recipe,
        _model: Arc<Model>,
        _dataset: Arc<Dataset>,
        _examples: Examples,
        _surroundings: Surroundings,
    ) -> Result<Self, TrainingError> {
        todo!()
    }

    /// Epoch 0: the model's own weights.
    pub fn start(&self) -> Checkpoint {
        todo!()
    }

    /// Images that an epoch evaluates: those trained on, and those kept back.
    pub fn images(&self) -> u64 {
        todo!()
    }

    /// One epoch more. `progress` is told the images done so far. Fails without a trace: the
    /// checkpoint's bytes can be used again.
    pub async fn epoch(
        &self,
        _from: Checkpoint,
        _caller: &Caller,
        _progress: impl FnMut(u64),
    ) -> Result<(Checkpoint, EpochReport), TrainingError> {
        todo!()
    }

    /// The files of the trained model's folder: model.onnx, model.toml, labels.txt, training.json,
    /// and the parent's LICENSE. Copies all weights: not for async threads.
    pub fn model(&self, _checkpoint: &Checkpoint) -> Result<Vec<ModelFile>, TrainingError> {
        todo!()
    }
}
