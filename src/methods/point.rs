//! One derivative at the input: g(x), or x ⊙ g(x); the rule set says which derivative. Cost: one
//! evaluation. Gradient, Input × Gradient, Guided Backpropagation, DeconvNet, PatternNet,
//! PatternAttribution (seeded with f_c(x)).

use super::{
    Answers, Attribution, MethodRun, Run, RunInputs, Step,
    doubts::{is_zero, no_derivative_at_input},
    formula::Formula,
    head_value,
};
use crate::tensor::Tensor;

struct OnePoint {
    inputs: RunInputs,
    multiply: bool,
}

pub fn derivative(inputs: RunInputs) -> MethodRun {
    Box::new(OnePoint {
        inputs,
        multiply: false,
    })
}

pub fn input_x_derivative(inputs: RunInputs) -> MethodRun {
    Box::new(OnePoint {
        inputs,
        multiply: true,
    })
}

impl Run for OnePoint {
    type Output = Attribution;

    fn step(&mut self, answers: Answers) -> Step<Attribution> {
        let RunInputs {
            input,
            seed,
            parameters,
            ..
        } = &self.inputs;
        let Some(row) = answers.rows().into_iter().next() else {
            return self.inputs.ask(vec![self.inputs.clean_point()]);
        };
        let value = head_value(&row, parameters.head, seed);
        let g = row
            .cotangents
            .into_iter()
            .next()
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

    fn formula(&self) -> Option<Formula> {
        Some(match self.multiply {
            true => Formula::InputXDerivative,
            false => Formula::Derivative,
        })
    }
}
