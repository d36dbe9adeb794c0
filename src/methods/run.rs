//! What methods and metrics are written as: a run asks questions about models and is given their
//! answers, step by step, until it is done. It does no I/O; `driver` finds the answers, each only
//! once where several runs ask for the same.

use std::sync::Arc;

use super::{Explained, Request, formula::Formula};
use crate::{
    engine::{GraphKey, Point, Row},
    model::Model,
    tensor::Tensor,
};
use onnx_autodiff::autodiff::spec::DeriveSpec;

/// A method or a metric at work: a state machine without I/O.
pub trait Run: Send {
    type Output;

    /// First called with no answers; then with one for each question asked, in their order.
    fn step(&mut self, answers: Answers) -> Step<Self::Output>;

    /// The same output as a formula, where the points do not depend on answers; before the first
    /// step.
    fn formula(&self) -> Option<Formula> {
        None
    }
}

pub enum Step<T> {
    Ask(Vec<Question>),
    Done(T),
}

impl<T> Step<T> {
    pub fn map<U>(self, done: impl FnOnce(T) -> U) -> Step<U> {
        match self {
            Self::Ask(questions) => Step::Ask(questions),
            Self::Done(output) => Step::Done(done(output)),
        }
    }
}

pub enum Question {
    /// Rows of a derived graph, one for each point.
    Rows {
        graph: GraphKey,
        points: Vec<Point>,
        /// Whether each input differs from the one before in few pixels only, the first from the
        /// input that the run is about: the forward pass of such inputs may be incremental.
        nearby: bool,
    },
    /// What a method makes of an input (without batch axis): one answer for each target.
    Explain {
        model: Arc<Model>,
        input: Arc<Tensor>,
        request: Request,
    },
}

impl Question {
    pub fn rows(graph: GraphKey, points: Vec<Point>) -> Self {
        Self::Rows {
            graph,
            points,
            nearby: false,
        }
    }

    /// The model's logits and probabilities for each input.
    pub fn forward(model: &Arc<Model>, inputs: impl IntoIterator<Item = Arc<Tensor>>) -> Self {
        let points = inputs.into_iter().map(Point::forward).collect();
        Self::rows(GraphKey::new(model.clone(), DeriveSpec::forward()), points)
    }

    /// As [`Self::forward`], of inputs that differ in few pixels from one another.
    pub fn nearby(model: &Arc<Model>, inputs: impl IntoIterator<Item = Arc<Tensor>>) -> Self {
        let points = inputs.into_iter().map(Point::forward).collect();
        Self::Rows {
            graph: GraphKey::new(model.clone(), DeriveSpec::forward()),
            points,
            nearby: true,
        }
    }
}

#[derive(Clone, Debug)]
pub enum Answer {
    Rows(Vec<Row>),
    Explained(Vec<Explained>),
}

/// One answer for each question of the step before.
#[derive(Clone, Debug, Default)]
pub struct Answers(pub Vec<Answer>);

impl Answers {
    pub fn none() -> Self {
        Self::default()
    }

    /// All rows, in the order of the questions and of their points.
    pub fn rows(self) -> Vec<Row> {
        let rows = self.0.into_iter().map(|answer| match answer {
            Answer::Rows(rows) => rows,
            Answer::Explained(_) => Vec::new(),
        });
        rows.flatten().collect()
    }

    /// All explanations, in the order of the questions and of their targets.
    pub fn explained(self) -> Vec<Explained> {
        let explained = self.0.into_iter().map(|answer| match answer {
            Answer::Explained(explained) => explained,
            Answer::Rows(_) => Vec::new(),
        });
        explained.flatten().collect()
    }
}

impl From<Vec<Row>> for Answers {
    fn from(rows: Vec<Row>) -> Self {
        Self(vec![Answer::Rows(rows)])
    }
}
