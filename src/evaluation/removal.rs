//! Parts taken from an input: what the map of each row says that a part is worth, and by how much
//! the output that the map explains falls without it. What `infidelity` and `sensitivity_n` share.
//! All rows have the same parts, and what is left of the input is evaluated once. Cost: one
//! evaluation of the forward graph for each part; the clean input's row is known.

use std::{iter, sync::Arc};

use super::{AttributionMap, Case, Measurement, MetricRun, NotFinite, progressive::CHUNK};
use crate::{
    engine::Row,
    methods::{Answers, Question, Run, Step, head_value, target::Target},
    tensor::Tensor,
};

/// What is left of an input without a part, and what each row's map says that the part is worth.
pub struct Removal {
    pub left: Tensor,
    pub worth: Vec<f64>,
}

/// One run for all rows. `take` takes away each of the `parts`, in their order; `measure` is given
/// what a row's map says that they are worth, and the falls of its output.
pub fn compare(
    case: &Case,
    parts: usize,
    take: impl FnMut() -> Removal + Send + 'static,
    measure: impl Fn(&[f64], &[f64]) -> Measurement + Send + 'static,
) -> MetricRun {
    let of_rows = vec![Vec::new(); case.rows.len()];
    Box::new(Comparison {
        case: case.clone(),
        parts,
        take,
        measure,
        asked: 0,
        worth: of_rows.clone(),
        outputs: of_rows,
    })
}

/// What a map of the case explains: the class that is predicted, unless the map names another
/// target.
pub fn target(map: &AttributionMap, case: &Case) -> Target {
    match map.request.parameters.target {
        Target::Predicted | Target::Top(_) | Target::Above(_) => Target::Class(case.class),
        named @ (Target::Class(_) | Target::Contrast(..) | Target::Reference) => named,
    }
}

/// The output that a map of the case explains: a logit or a probability, or one less another.
fn output(map: &AttributionMap, case: &Case, row: &Row) -> f64 {
    let targets = target(map, case)
        .resolve(&row.logits, row.scores())
        .into_iter();
    let values =
        targets.map(|target| head_value(row, map.request.parameters.head, &target.seed(&[])));
    values.sum()
}

struct Comparison<T, M> {
    case: Case,
    parts: usize,
    take: T,
    measure: M,
    /// The clean input, and those without a part.
    asked: usize,
    /// Of each row: of all parts, and of all inputs.
    worth: Vec<Vec<f64>>,
    outputs: Vec<Vec<f64>>,
}

impl<T: FnMut() -> Removal, M> Comparison<T, M> {
    fn without_a_part(&mut self) -> Arc<Tensor> {
        let Removal { left, worth } = (self.take)();
        let rows = self.worth.iter_mut().zip(worth);
        rows.for_each(|(row, worth)| row.push(worth));
        Arc::new(left)
    }
}

impl<T, M> Run for Comparison<T, M>
where
    T: FnMut() -> Removal + Send,
    M: Fn(&[f64], &[f64]) -> Measurement + Send,
{
    type Output = Result<Vec<Measurement>, NotFinite>;

    fn step(&mut self, answers: Answers) -> Step<Self::Output> {
        for row in answers.rows() {
            let found = self
                .case
                .row_maps()
                .map(|(map, _)| output(map, &self.case, &row));
            let rows = self.outputs.iter_mut().zip(found);
            rows.for_each(|(outputs, output)| outputs.push(output));
        }
        let most = (self.parts + 1 - self.asked).min(CHUNK);
        if most > 0 {
            let clean = (self.asked == 0).then(|| self.case.input.clone());
            self.asked += most;
            let parts = most - usize::from(clean.is_some());
            let left = iter::repeat_with(|| self.without_a_part()).take(parts);
            let inputs: Vec<_> = clean.into_iter().chain(left).collect();
            return Step::Ask(vec![Question::forward(&self.case.model, inputs)]);
        }
        let measure = |(worth, outputs): (&Vec<f64>, &Vec<f64>)| {
            let (clean, left) = outputs.split_first()?;
            let falls: Vec<f64> = left.iter().map(|output| clean - output).collect();
            let measured = (self.measure)(worth, &falls);
            // Results are kept as f32.
            let is_finite = |number: &f64| (*number as f32).is_finite();
            measured.iter().all(is_finite).then_some(measured)
        };
        let rows = self.worth.iter().zip(&self.outputs);
        let measured: Option<_> = rows.map(measure).collect();
        let what =
            "what the model answers to a changed input, or what a map says of it, is not finite";
        Step::Done(measured.ok_or(NotFinite(what)))
    }
}
