//! Seeded noise: u ~ U(-1, 1) per input element, whatever the model says. A baseline of the
//! benchmarks. Cost: none.

use rand::RngExt;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::{Attribution, Run, Step, Subject};
use crate::{engine::Row, tensor::Tensor};
use onnx_autodiff::autodiff::spec::DeriveSpec;

struct Noise {
    subject: Subject,
}

pub fn noise(subject: Subject) -> Box<dyn Run> {
    Box::new(Noise { subject })
}

/// The generator of one sample of a request: the same on every machine.
pub fn generator(seed: u64, sample: u64) -> ChaCha8Rng {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    generator.set_stream(sample);
    generator
}

impl Run for Noise {
    fn spec(&self) -> DeriveSpec {
        self.subject.parameters.derive_spec()
    }

    fn step(&mut self, _answers: &[Row]) -> Step {
        let mut generator = generator(self.subject.parameters.seed, 0);
        Step::Done(Attribution::of(Tensor::from_shape_simple_fn(
            self.subject.input.raw_dim(),
            || generator.random_range(-1.0..1.0),
        )))
    }
}
