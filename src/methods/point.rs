//! One derivative at the input: g(x), or x ⊙ g(x); the rule set says which derivative. Cost: one
//! evaluation. Gradient, Input × Gradient, Guided Backpropagation, DeconvNet, PatternNet,
//! PatternAttribution (seeded with f_c(x)).

use super::{
    Attribution, Run, Step, Subject,
    doubts::{is_zero, no_derivative_at_input},
    head_value,
};
use crate::{
    engine::{Point, Row},
    tensor::Tensor,
};
use onnx_autodiff::autodiff::spec::DeriveSpec;

struct OnePoint {
    subject: Subject,
    multiply: bool,
}

pub fn derivative(subject: Subject) -> Box<dyn Run> {
    Box::new(OnePoint {
        subject,
        multiply: false,
    })
}

pub fn input_x_derivative(subject: Subject) -> Box<dyn Run> {
    Box::new(OnePoint {
        subject,
        multiply: true,
    })
}

impl Run for OnePoint {
    fn spec(&self) -> DeriveSpec {
        self.subject.parameters.derive_spec()
    }

    fn step(&mut self, answers: &[Row]) -> Step {
        let Subject {
            input,
            seed,
            parameters,
            ..
        } = &self.subject;
        let Some(row) = answers.first() else {
            return Step::Evaluate(vec![Point {
                input: input.clone(),
                seed: seed.clone(),
            }]);
        };
        let value = head_value(row, parameters.head, seed);
        let g = row
            .cotangents
            .first()
            .cloned()
            .unwrap_or_else(|| Tensor::zeros(input.raw_dim()));
        let cause = match is_zero(&g) {
            true => no_derivative_at_input(parameters, value),
            false => "the input is zero wherever the derivative is not".to_owned(),
        };
        let mut attribution = Attribution::of(if self.multiply { input.as_ref() * g } else { g });
        attribution.cause = is_zero(&attribution.scores).then_some(cause);
        attribution.input_value = Some(value);
        Step::Done(attribution)
    }
}
