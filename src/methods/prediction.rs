//! What a model says of an input: its best classes, and the class that is explained.

use std::fmt;

use serde::Serialize;

use onnx_autodiff::autodiff::spec::Head;

use super::{
    head_value,
    target::{ResolvedTarget, ranked},
};
use crate::{
    engine::Row,
    model::{Model, manifest::OutputKind},
};

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

    /// The `count` best classes, the best first; of outputs that are no classes the first values.
    pub fn best(model: &Model, row: &Row, count: usize) -> Vec<Self> {
        let order = match model.manifest.reading.kind {
            OutputKind::Classes => ranked(&row.logits),
            OutputKind::Regression | OutputKind::Embedding => (0..row.logits.len()).collect(),
        };
        order
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

/// The label of the target `reference`.
const SIMILARITY: &str = "similarity to the reference";

impl ExplainedTarget {
    /// `seed` is that of the target.
    pub fn of(model: &Model, row: &Row, target: ResolvedTarget, seed: &[(usize, f32)]) -> Self {
        let prediction = |index| Prediction::of(model, row, index);
        match target {
            ResolvedTarget::Class { index, against } => Self {
                class: prediction(index),
                against: against.map(prediction),
            },
            ResolvedTarget::Reference => Self {
                class: Prediction {
                    index: 0,
                    label: Some(SIMILARITY.to_owned()),
                    score: head_value(row, Head::Logits, seed) as f32,
                },
                against: None,
            },
        }
    }
}

impl ExplainedTarget {
    /// As people read it: `285 Egyptian_cat`; of outputs that are no classes `age`, or `value 0`
    /// without a label.
    pub fn named(&self, kind: OutputKind) -> String {
        if kind == OutputKind::Classes {
            return self.to_string();
        }
        let values = [Some(&self.class), self.against.as_ref()];
        let names = values.into_iter().flatten().map(|value| {
            let index = || format!("value {}", value.index);
            value.label.clone().unwrap_or_else(index)
        });
        names.collect::<Vec<_>>().join(" - ")
    }
}

impl fmt::Display for ExplainedTarget {
    /// `285 Egyptian_cat`, and for a contrast `285 Egyptian_cat - 281 tabby`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let classes = [Some(&self.class), self.against.as_ref()]
            .into_iter()
            .flatten();
        let names = classes.map(|class| match &class.label {
            Some(label) if label == SIMILARITY => label.clone(),
            Some(label) => format!("{} {label}", class.index),
            None => class.index.to_string(),
        });
        f.write_str(&names.collect::<Vec<_>>().join(" - "))
    }
}
