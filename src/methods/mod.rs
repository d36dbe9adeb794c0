//! Attribution methods: pure descriptions that ask for evaluations; one file each, one row each in `registry`.

use std::sync::Arc;

use crate::{
    autodiff::spec::DeriveSpec,
    engine::{Point, Row},
    tensor::Tensor,
};

/// A method at work on one input and one target: a state machine without I/O.
pub trait Run: Send {
    /// The derived graph that answers this run's points.
    fn spec(&self) -> DeriveSpec;
    /// First called with no answers; then with the rows of the points it asked for, in their order.
    fn step(&mut self, answers: &[Row]) -> Step;
}

pub enum Step {
    Evaluate(Vec<Point>),
    Done(Attribution),
}

/// Signed scores in the shape of the input, and the completeness figures of path methods.
#[derive(Clone, Debug)]
pub struct Attribution {
    pub scores: Arc<Tensor>,
    pub input_value: Option<f64>,
    pub baseline_value: Option<f64>,
    /// Σ attribution - (f(x) - f(x')).
    pub convergence_delta: Option<f64>,
    /// |convergence_delta| / |f(x) - f(x')|.
    pub approximation_error: Option<f64>,
    pub warnings: Vec<String>,
}
