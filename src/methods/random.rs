//! Seeded noise: u ~ U(-1, 1) per input element, whatever the model says. A baseline of the
//! benchmarks. Cost: none.

use rand::RngExt;

use super::{Answers, Attribution, MethodRun, Run, RunInputs, Step};
use crate::{random::generator, tensor::Tensor};

struct Noise {
    inputs: RunInputs,
}

pub fn noise(inputs: RunInputs) -> MethodRun {
    Box::new(Noise { inputs })
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
