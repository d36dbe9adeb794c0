//! Seeded noise: u ~ U(-1, 1) per input element, whatever the model says. A baseline of the
//! benchmarks. Cost: none.

use rand::RngExt;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::{Answers, Attribution, MethodRun, Run, RunInputs, Step};
use crate::tensor::Tensor;

struct Noise {
    inputs: RunInputs,
}

pub fn noise(inputs: RunInputs) -> MethodRun {
    Box::new(Noise { inputs })
}

/// The generator of one sample of a request: the same on every machine.
pub fn generator(seed: u64, sample: u64) -> ChaCha8Rng {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    generator.set_stream(sample);
    generator
}

impl Run for Noise {
    type Output = Attribution;

    fn step(&mut self, _answers: Answers) -> Step<Attribution> {
        let mut generator = generator(self.inputs.parameters.seed, 0);
        Step::Done(Attribution::of(Tensor::from_shape_simple_fn(
            self.inputs.input.raw_dim(),
            || generator.random_range(-1.0..1.0),
        )))
    }
}
