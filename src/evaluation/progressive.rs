//! An input that changes step by step, and the score of the class after each step: what
//! `degradation`, `deletion` and `insertion` share. Each input is made of the one before; sixteen
//! are asked for at once. Cost: one evaluation of the forward graph for each input.

use std::{mem, sync::Arc};

use super::{Case, Measurement, NotFinite};
use crate::{
    engine::Row,
    methods::{Answers, Question, Run, Step},
    model::Model,
    tensor::Tensor,
};

/// Inputs asked for at once.
pub const CHUNK: usize = 16;
const NOT_FINITE: &str = "the model answers a degraded image with values that are not finite";

/// Changes the input of the step before into that of a step, which are counted from 0.
pub type Change = Box<dyn Fn(usize, &mut Tensor) + Send>;

/// The run. It measures `before`, then the score of each step, then `after`.
pub struct Progressive {
    pub model: Arc<Model>,
    /// The class that is followed.
    pub class: usize,
    /// What the first step changes.
    pub start: Arc<Tensor>,
    pub change: Change,
    pub steps: usize,
    /// Whether each input differs in few pixels from the one before, the first from the clean one.
    pub nearby: bool,
    /// Scores that are known, of the inputs before the first step and after the last.
    pub before: Vec<f64>,
    pub after: Vec<f64>,
    progress: Progress,
}

#[derive(Default)]
struct Progress {
    /// The input of the last step asked for.
    input: Option<Tensor>,
    asked: usize,
    scores: Vec<f64>,
}

impl Progressive {
    /// Steps from the clean input on, whose score comes first.
    pub fn from_clean(case: &Case, steps: usize, change: Change) -> Self {
        Self {
            nearby: true,
            before: vec![case.clean],
            ..Self::new(case, case.input.clone(), steps, change)
        }
    }

    /// Steps from `start` on, at the end of which the input is clean; the first changes nothing.
    pub fn to_clean(case: &Case, start: Arc<Tensor>, steps: usize, change: Change) -> Self {
        Self {
            after: vec![case.clean],
            ..Self::new(case, start, steps, change)
        }
    }

    fn new(case: &Case, start: Arc<Tensor>, steps: usize, change: Change) -> Self {
        Self {
            model: case.model.clone(),
            class: case.class,
            start,
            change,
            steps,
            nearby: false,
            before: Vec::new(),
            after: Vec::new(),
            progress: Progress::default(),
        }
    }
}

impl Run for Progressive {
    type Output = Result<Vec<Measurement>, NotFinite>;

    fn step(&mut self, answers: Answers) -> Step<Self::Output> {
        let Progress {
            input,
            asked,
            scores,
        } = &mut self.progress;
        let rows = answers.rows();
        scores.extend(rows.iter().map(|row| score(row, self.class)));
        let next = *asked..self.steps.min(*asked + CHUNK);
        if next.is_empty() {
            let parts = [&mut self.before, scores, &mut self.after];
            let curve = parts.map(mem::take).concat();
            return Step::Done(match curve.iter().all(|score| score.is_finite()) {
                true => Ok(vec![curve]),
                false => Err(NotFinite(NOT_FINITE)),
            });
        }
        *asked = next.end;
        let input = input.get_or_insert_with(|| self.start.as_ref().clone());
        let inputs = next.map(|step| {
            (self.change)(step, input);
            Arc::new(input.clone())
        });
        Step::Ask(vec![match self.nearby {
            true => Question::nearby(&self.model, inputs),
            false => Question::forward(&self.model, inputs),
        }])
    }
}

/// What a class scores: its probability, or the bare output of a net that has only one.
pub fn score(row: &Row, class: usize) -> f64 {
    row.scores()
        .get(class)
        .map_or(f64::NAN, |score| f64::from(*score))
}
