//! What a model says of an input: its best classes, and the class that is explained.

use std::fmt;

use serde::Serialize;

use super::target::{ResolvedTarget, ranked};
use crate::{engine::Row, model::Model};

/// A class and its score: the probability, or the bare output of a net that has only one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    pub index: usize,
    /// Of models with labels.
    pub label: Option<String>,
    pub score: f32,
}

impl Prediction {
    pub fn of(model: &Model, row: &Row, index: usize) -> Self {
        let score = row.scores().get(index).copied().unwrap_or(f32::NAN);
        Self {
            index,
            label: model.labels.get(index).cloned(),
            score,
        }
    }

    /// The `count` best classes, the best first.
    pub fn best(model: &Model, row: &Row, count: usize) -> Vec<Self> {
        ranked(&row.logits)
            .into_iter()
            .take(count)
            .map(|index| Self::of(model, row, index))
            .collect()
    }
}

/// The class explained; `against` is the class it was contrasted with.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExplainedTarget {
    #[serde(flatten)]
    pub class: Prediction,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub against: Option<Prediction>,
}

impl ExplainedTarget {
    pub fn of(model: &Model, row: &Row, target: ResolvedTarget) -> Self {
        let prediction = |index| Prediction::of(model, row, index);
        Self {
            class: prediction(target.index),
            against: target.against.map(prediction),
        }
    }
}

impl fmt::Display for ExplainedTarget {
    /// `285 Egyptian_cat`, and for a contrast `285 Egyptian_cat - 281 tabby`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let classes = [Some(&self.class), self.against.as_ref()]
            .into_iter()
            .flatten();
        let names = classes.map(|class| match &class.label {
            Some(label) => format!("{} {label}", class.index),
            None => class.index.to_string(),
        });
        f.write_str(&names.collect::<Vec<_>>().join(" - "))
    }
}
