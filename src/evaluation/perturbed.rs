//! Inputs that are each made of the clean one, and what the model answers: what metrics that
//! perturb an image share. Cost: one evaluation of the forward graph for each input.

use std::{mem, sync::Arc};

use super::{Case, Measurement, MetricRun, NotFinite};
use crate::{
    engine::Row,
    methods::{Answers, Question, Run, Step},
    tensor::Tensor,
};

const NOT_FINITE: &str = "the model answers a perturbed image with values that are not finite";

/// The inputs of a run, counted from 0.
pub struct Inputs {
    pub count: usize,
    /// So many are made and asked for in one step.
    pub at_once: usize,
    pub make: Box<dyn Fn(usize) -> Arc<Tensor> + Send>,
}

/// A run that asks for all inputs, reads what is needed of each row for the class of the case, and
/// measures all of it at the end.
pub fn ask<T: Send + 'static>(
    case: &Case,
    inputs: Inputs,
    read: fn(&Row, usize) -> T,
    measure: impl Fn(Vec<T>) -> Vec<Measurement> + Send + 'static,
) -> MetricRun {
    Box::new(Asking {
        case: case.clone(),
        inputs,
        read,
        measure,
        asked: 0,
        found: Vec::new(),
    })
}

struct Asking<T, M> {
    case: Case,
    inputs: Inputs,
    read: fn(&Row, usize) -> T,
    measure: M,
    asked: usize,
    found: Vec<T>,
}

impl<T: Send, M: Fn(Vec<T>) -> Vec<Measurement> + Send> Run for Asking<T, M> {
    type Output = Result<Vec<Measurement>, NotFinite>;

    fn step(&mut self, answers: Answers) -> Step<Self::Output> {
        let rows = answers.rows();
        let read = |row: &Row| (self.read)(row, self.case.class);
        self.found.extend(rows.iter().map(read));
        let next = self.asked..self.inputs.count.min(self.asked + self.inputs.at_once);
        if next.is_empty() {
            let measured = (self.measure)(mem::take(&mut self.found));
            let is_finite = measured.iter().flatten().all(|number| number.is_finite());
            return Step::Done(match is_finite {
                true => Ok(measured),
                false => Err(NotFinite(NOT_FINITE)),
            });
        }
        self.asked = next.end;
        let inputs = next.map(|number| (self.inputs.make)(number));
        Step::Ask(vec![Question::forward(&self.case.model, inputs)])
    }
}
