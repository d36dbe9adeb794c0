//! What is asked of a method, and what it answers.

use std::{sync::Arc, time::Duration};

use super::{Attribution, ExplainedTarget, Prediction, parameters::Parameters};
use crate::{segment::Segmentation, tensor::Tensor};

/// One way to explain an input.
#[derive(Clone, Debug)]
pub struct Request {
    pub parameters: Parameters,
    /// Draws baselines; `parameters.seed` draws all else.
    pub baseline_seed: u64,
    /// What the baseline `uploaded` stands for, already preprocessed.
    pub uploaded_baseline: Option<Arc<Tensor>>,
    /// What the segments `uploaded` stand for, in the model's pixels.
    pub uploaded_segments: Option<Arc<Segmentation>>,
    /// What the target `reference` is compared with, already preprocessed.
    pub uploaded_reference: Option<Arc<Tensor>>,
}

impl Request {
    /// Without uploads; one seed draws all.
    pub fn of(parameters: Parameters) -> Self {
        Self {
            baseline_seed: parameters.seed,
            parameters,
            uploaded_baseline: None,
            uploaded_segments: None,
            uploaded_reference: None,
        }
    }
}

/// One answer: a method's map for one target.
#[derive(Clone, Debug)]
pub struct Explained {
    pub target: ExplainedTarget,
    /// The five best classes of the clean input.
    pub predictions: Vec<Prediction>,
    /// With the target that was resolved.
    pub parameters: Arc<Parameters>,
    /// Its warnings are about the map.
    pub attribution: Attribution,
    pub timing: Timing,
    /// Rows that this answer alone needs, the clean input among them.
    pub evaluations: usize,
}

/// Time in the queue, and of the device on the batches concerned; summed over the evaluations one
/// after another.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    pub queue: Duration,
    pub model: Duration,
}

impl Timing {
    pub fn add(&mut self, other: &Timing) {
        self.queue += other.queue;
        self.model += other.model;
    }
}
