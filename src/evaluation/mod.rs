//! Evaluation of attributions: pure descriptions that ask for evaluations, in the shape of the
//! methods; one file each, one row each in [`METRICS`]. `aggregate` makes means, intervals and
//! paired comparisons of the images' results.

pub mod aggregate;
pub mod degradation;
pub mod patches;

use crate::{engine::Row, methods::Run};

#[derive(Debug)]
pub struct Metric {
    pub id: &'static str,
    pub title: &'static str,
    pub paper: &'static str,
    pub direction: Direction,
    /// Evaluations per image and ranking.
    pub cost: &'static str,
    /// One run, on one image and one ranking of its patches: the score of the class at each step,
    /// the clean input first.
    pub build: fn(degradation::Subject) -> Box<dyn Run<Output = Vec<f64>>>,
}

/// Which scores are better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    Lower,
    Higher,
}

pub static METRICS: &[Metric] = &[Metric {
    id: "degradation",
    title: "Image degradation",
    paper: "Schwarzenberg & Castle, Pattern-Guided Integrated Gradients, 2020, section 5",
    direction: Direction::Lower,
    cost: "steps",
    build: degradation::build,
}];

/// The row called `id`.
pub fn find(id: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| metric.id == id)
}

/// What a class scores: its probability, or the bare output of a net that has only one.
pub fn score(row: &Row, class: usize) -> f64 {
    row.scores()
        .get(class)
        .map_or(f64::NAN, |score| f64::from(*score))
}
