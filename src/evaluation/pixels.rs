//! What metrics of a map alone have in common: a number of each row's pixels, without a question.

use super::{Case, Measurement, MetricRun, NotFinite};
use crate::methods::{Answers, Run, Step};

/// One run for all rows: `number` of the pixels of each.
pub fn of_pixels(case: &Case, number: impl Fn(&[f64]) -> f64 + Send + 'static) -> MetricRun {
    let case = case.clone();
    Box::new(OfPixels { case, number })
}

struct OfPixels<F> {
    case: Case,
    number: F,
}

impl<F: Fn(&[f64]) -> f64 + Send> Run for OfPixels<F> {
    type Output = Result<Vec<Measurement>, NotFinite>;

    fn step(&mut self, _: Answers) -> Step<Self::Output> {
        let layout = self.case.layout();
        let rows = self.case.row_maps();
        let rows = rows.map(|(map, score)| vec![(self.number)(&score.pixels(&map.scores, layout))]);
        Step::Done(Ok(rows.collect()))
    }
}
