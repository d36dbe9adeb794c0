//! Steps of Adam (Kingma & Ba 2015, algorithm 1) and of SGD with momentum, in float32 and in the
//! order of operations of torch.optim. Each number is worked out on its own, so threads do not
//! change the result.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::{Optimizer, checkpoint::Weights};
use crate::tensor::Tensor;

/// Numbers that one task works on.
const CHUNK: usize = 1 << 16;

/// What a step is taken with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub optimizer: Optimizer,
    pub learning_rate: f64,
    pub weight_decay: f64,
    /// Of all steps, from 1.
    pub number: u64,
    /// What the gradients' sums are divided by.
    pub rows: usize,
}

/// Moves the weights along their gradients, summed over `rows`. `second` is used by Adam alone. All
/// maps have the same names and shapes.
pub(super) fn step(
    step: Step,
    weights: &mut Weights,
    first: &mut BTreeMap<String, Tensor>,
    second: &mut BTreeMap<String, Tensor>,
    gradients: &BTreeMap<String, Tensor>,
) {
    let mut seconds = second.values_mut();
    for ((weight, first), gradient) in weights
        .values_mut()
        .zip(first.values_mut())
        .zip(gradients.values())
    {
        let weight = std::sync::Arc::make_mut(weight).as_slice_mut();
        let second = seconds.next().and_then(Tensor::as_slice_mut);
        let (Some(weight), Some(first), Some(gradient)) =
            (weight, first.as_slice_mut(), gradient.as_slice())
        else {
            continue;
        };
        let gradients = gradient.par_chunks(CHUNK);
        let moved = weight
            .par_chunks_mut(CHUNK)
            .zip(first.par_chunks_mut(CHUNK));
        match (step.optimizer, second) {
            (
                Optimizer::Adam {
                    beta1,
                    beta2,
                    epsilon,
                },
                Some(second),
            ) => {
                let adam = Adam::new(step, beta1, beta2, epsilon);
                moved
                    .zip(second.par_chunks_mut(CHUNK))
                    .zip(gradients)
                    .for_each(|(((weight, first), second), gradient)| {
                        adam.step(weight, first, second, gradient);
                    });
            }
            (Optimizer::Sgd { momentum }, _) => {
                let sgd = Sgd::new(step, momentum);
                moved
                    .zip(gradients)
                    .for_each(|((weight, first), gradient)| sgd.step(weight, first, gradient));
            }
            (Optimizer::Adam { .. }, None) => {}
        }
    }
}

#[derive(Clone, Copy)]
struct Adam {
    /// 1 - beta1.
    first_part: f32,
    beta2: f32,
    /// 1 - beta2.
    second_part: f32,
    epsilon: f32,
    /// The learning rate, with the first bias corrected.
    rate: f32,
    /// The root of the second bias.
    bias_root: f32,
    decay: f32,
    rows: f32,
}

impl Adam {
    fn new(step: Step, beta1: f64, beta2: f64, epsilon: f64) -> Self {
        // Beyond 2³¹ steps both powers are zero.
        let number = i32::try_from(step.number).unwrap_or(i32::MAX);
        Self {
            first_part: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            second_part: (1.0 - beta2) as f32,
            epsilon: epsilon as f32,
            rate: (step.learning_rate / (1.0 - beta1.powi(number))) as f32,
            bias_root: (1.0 - beta2.powi(number)).sqrt() as f32,
            decay: step.weight_decay as f32,
            rows: step.rows as f32,
        }
    }

    fn step(self, weight: &mut [f32], first: &mut [f32], second: &mut [f32], gradient: &[f32]) {
        for (((w, m), v), sum) in weight.iter_mut().zip(first).zip(second).zip(gradient) {
            let g = sum / self.rows + self.decay * *w;
            *m += self.first_part * (g - *m);
            *v = self.beta2 * *v + self.second_part * g * g;
            *w -= self.rate * (*m / (v.sqrt() / self.bias_root + self.epsilon));
        }
    }
}

#[derive(Clone, Copy)]
struct Sgd {
    momentum: f32,
    rate: f32,
    decay: f32,
    rows: f32,
}

impl Sgd {
    fn new(step: Step, momentum: f64) -> Self {
        Self {
            momentum: momentum as f32,
            rate: step.learning_rate as f32,
            decay: step.weight_decay as f32,
            rows: step.rows as f32,
        }
    }

    fn step(self, weight: &mut [f32], velocity: &mut [f32], gradient: &[f32]) {
        for ((w, v), sum) in weight.iter_mut().zip(velocity).zip(gradient) {
            *v = self.momentum * *v + (sum / self.rows + self.decay * *w);
            *w -= self.rate * *v;
        }
    }
}
