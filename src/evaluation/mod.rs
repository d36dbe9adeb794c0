//! Evaluation of attributions: pure descriptions that ask for evaluations, in the shape of the
//! methods; one file each, one row each in [`METRICS`]. `aggregate` makes means, intervals and
//! paired comparisons of the images' results.

pub mod aggregate;
pub mod degradation;
pub mod drive;
mod local;
pub mod patches;

use std::sync::Arc;

use crate::{engine::Row, tensor::Tensor};

/// A metric at work on one image and one attribution: a state machine without I/O over the forward
/// graph.
pub trait Run: Send {
    /// First called with no answers; then with the rows of the inputs it asked for, in their order.
    fn step(&mut self, answers: &[Row]) -> Step;
}

pub enum Step {
    /// Cheapest where each input differs from the one before in few pixels.
    Evaluate(Vec<Arc<Tensor>>),
    /// The score of the class at each step, the clean input first.
    Done(Vec<f64>),
}

#[derive(Debug)]
pub struct Metric {
    pub id: &'static str,
    pub title: &'static str,
    pub paper: &'static str,
    pub direction: Direction,
    /// Evaluations per image and ranking.
    pub cost: &'static str,
    /// One run, on one image and one ranking of its patches.
    pub build: fn(degradation::Subject) -> Box<dyn Run>,
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
    let scores = if row.logits.len() == 1 {
        &row.logits
    } else {
        &row.probabilities
    };
    scores
        .get(class)
        .map_or(f64::NAN, |score| f64::from(*score))
}
