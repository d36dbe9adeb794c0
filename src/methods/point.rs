//! One derivative at the input: g(x), or x ⊙ g(x); the rule set says which derivative. Cost: one evaluation.
//! Gradient, Input × Gradient, Guided Backpropagation, DeconvNet, PatternNet, PatternAttribution (seeded with f_c(x)).

use super::{Attribution, Run, Step, Subject, head_value};
use crate::{
    autodiff::spec::DeriveSpec,
    engine::{Point, Row},
    tensor::Tensor,
};

struct OnePoint {
    subject: Subject,
    multiply: bool,
}

pub fn derivative(subject: Subject) -> Box<dyn Run> {
    Box::new(OnePoint { subject, multiply: false })
}

pub fn input_x_derivative(subject: Subject) -> Box<dyn Run> {
    Box::new(OnePoint { subject, multiply: true })
}

impl Run for OnePoint {
    fn spec(&self) -> DeriveSpec {
        self.subject.parameters.derive_spec()
    }

    fn step(&mut self, answers: &[Row]) -> Step {
        let Subject { input, seed, parameters, .. } = &self.subject;
        let Some(row) = answers.first() else {
            return Step::Evaluate(vec![Point { input: input.clone(), seed: seed.clone() }]);
        };
        let scores = match row.cotangents.first() {
            Some(g) if self.multiply => input.as_ref() * g,
            Some(g) => g.clone(),
            None => Tensor::zeros(input.raw_dim()),
        };
        let mut attribution = Attribution::of(scores);
        attribution.input_value = Some(head_value(row, parameters.head, seed));
        Step::Done(attribution)
    }
}
