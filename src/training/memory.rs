//! What a training takes in memory: the rows of a run are as many as fit.

use super::{Optimizer, Recipe, Surroundings, TrainingError, checkpoint::Weights};
use crate::engine::WholeGraph;

/// The most rows of a run.
const MICRO_BATCH: usize = 16;
const MIB: usize = 1 << 20;

/// How the memory for training is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    /// Rows of a run: they fit into the memory of one batch of the engine, too.
    pub micro_batch: usize,
    /// Bytes that nothing else takes.
    pub left: usize,
}

impl Memory {
    /// `runs` are queued at once. Fails with the numbers where not even one row fits.
    pub(super) fn plan(
        recipe: &Recipe,
        graph: &WholeGraph,
        weights: &Weights,
        surroundings: &Surroundings,
        runs: usize,
    ) -> Result<Self, TrainingError> {
        let parameters: usize = weights.values().map(|weight| weight.len()).sum();
        let moments = match recipe.optimizer {
            Optimizer::Adam { .. } => 2,
            Optimizer::Sgd { .. } => 1,
        };
        // Value, sum of gradients, moments; the gradients of runs that wait and of one that runs;
        // the best weights.
        let copies = 2 + moments + runs + 1 + usize::from(recipe.patience.is_some());
        let constants = graph.graph.initializers.values();
        let constants: usize = constants.map(|literal| literal.bytes.len()).sum();
        let weights = copies * parameters * size_of::<f32>() + constants;
        let input: usize = graph.model.manifest.input.shape.iter().product();
        // Of the batch that runs and the next one, and of the images that the next is made of.
        let batches = 3 * recipe.batch_size * input * size_of::<f32>();
        // The runtime's arena does not join the blocks that it has freed: a run took 1.1 to 1.65
        // times what is alive at once (SqueezeNet, ResNet-18, EfficientNet-Lite0).
        let row = (graph.row_bytes() * 5 / 3).max(1);
        let needed = weights + batches + row;
        let Some(left) = surroundings.memory_bytes.checked_sub(needed) else {
            return Err(TrainingError::Memory {
                needed_mib: needed.div_ceil(MIB),
                allowed_mib: surroundings.memory_bytes / MIB,
                parameters,
                weights_mib: weights.div_ceil(MIB),
                batches_mib: batches.div_ceil(MIB),
                row_mib: row.div_ceil(MIB),
            });
        };
        let micro_batch = (1 + left / row)
            .min(surroundings.engine.most_batch_rows(graph))
            .min(MICRO_BATCH)
            .min(recipe.batch_size);
        Ok(Self {
            micro_batch,
            left: left - (micro_batch - 1) * row,
        })
    }
}
