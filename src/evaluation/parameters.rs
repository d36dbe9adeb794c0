//! The parameters of metrics: each metric has a table of them, which settles what a request gives.
//! Settled values print completely, and mean the same when they are given again. All faults are
//! reported together.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use super::Metric;
use crate::{
    faults::{Fault, Faults},
    model::Model,
    text::shown,
};

/// The parameter that names models, of metrics that ask others beside the one that is evaluated.
pub const MODELS: &str = "models";

/// One parameter of a metric.
#[derive(Debug)]
pub struct MetricParameter {
    pub name: &'static str,
    pub doc: &'static str,
    /// What it may be for a model, and beside those of the table that come before it.
    pub allowed: fn(&Model, &Values) -> Allowed,
}

/// What a parameter may be, and what it is when it is not given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Allowed {
    /// A whole number.
    Whole {
        least: usize,
        most: usize,
        default: usize,
    },
    /// Any number between these.
    Real { least: f64, most: f64, default: f64 },
    /// One of these words; without a default it may be left out.
    OneOf {
        words: &'static [&'static str],
        default: Option<&'static str>,
    },
    /// Ids of so many different models, in an order.
    Models { least: usize, most: usize },
    /// Nothing at all with this model, and why.
    Never(&'static str),
}

impl Allowed {
    fn takes(self, value: &Value) -> bool {
        match self {
            Self::Whole { least, most, .. } => value
                .as_u64()
                .is_some_and(|number| (least as u64..=most as u64).contains(&number)),
            Self::Real { least, most, .. } => value
                .as_f64()
                .is_some_and(|number| (least..=most).contains(&number)),
            Self::OneOf { words, .. } => value.as_str().is_some_and(|word| words.contains(&word)),
            Self::Models { least, most } => ids(value).is_some_and(|ids| {
                let different: BTreeSet<&str> = ids.iter().copied().collect();
                different.len() == ids.len() && (least..=most).contains(&ids.len())
            }),
            Self::Never(_) => false,
        }
    }

    /// Ranges, or choices.
    pub fn forms(self) -> Vec<String> {
        match self {
            Self::Whole { least, most, .. } => vec![format!("{least} to {most}")],
            Self::Real { least, most, .. } => vec![format!("{least} to {most}")],
            Self::OneOf { words, .. } => words.iter().map(|word| (*word).to_owned()).collect(),
            Self::Models { least, most } => {
                vec![format!(
                    "a list of {least} to {most} different ids of models"
                )]
            }
            Self::Never(_) => Vec::new(),
        }
    }

    /// As JSON calls it; none where nothing is allowed.
    pub fn type_name(self) -> Option<&'static str> {
        match self {
            Self::Whole { .. } => Some("integer"),
            Self::Real { .. } => Some("number"),
            Self::OneOf { .. } => Some("string"),
            Self::Models { .. } => Some("array"),
            Self::Never(_) => None,
        }
    }

    pub fn default(self) -> Option<Value> {
        match self {
            Self::Whole { default, .. } => Some(json!(default)),
            Self::Real { default, .. } => Some(json!(default)),
            Self::OneOf { default, .. } => default.map(|word| json!(word)),
            Self::Models { .. } | Self::Never(_) => None,
        }
    }
}

/// A list of texts.
fn ids(value: &Value) -> Option<Vec<&str>> {
    value.as_array()?.iter().map(Value::as_str).collect()
}

/// Settled parameters of one metric, by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Values(pub Map<String, Value>);

impl Values {
    /// As the metric's own type.
    pub fn read<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_value(Value::Object(self.0.clone()))
    }

    /// A whole number that is settled; 0 where it is not.
    pub fn number(&self, name: &str) -> usize {
        let value = self.0.get(name).and_then(Value::as_u64);
        value
            .and_then(|value| usize::try_from(value).ok())
            .unwrap_or(0)
    }

    /// A number that need not be whole, and is settled.
    pub fn real(&self, name: &str) -> f64 {
        self.0.get(name).and_then(Value::as_f64).unwrap_or(f64::NAN)
    }

    /// A word that is settled.
    pub fn word(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    /// The ids of the models that are named.
    pub fn models(&self) -> Vec<&str> {
        self.0.get(MODELS).and_then(ids).unwrap_or_default()
    }
}

/// What each parameter of a metric may be for a model, where those before it have their defaults,
/// and all defaults.
pub fn offered(
    metric: &Metric,
    model: &Model,
) -> (Vec<(&'static MetricParameter, Allowed)>, Values) {
    let (mut values, mut offered) = (Values::default(), Vec::new());
    for parameter in metric.parameters {
        let allowed = (parameter.allowed)(model, &values);
        if let Some(default) = allowed.default() {
            values.0.insert(parameter.name.to_owned(), default);
        }
        offered.push((parameter, allowed));
    }
    (offered, values)
}

/// Settles what is given for a metric on a model; null is not given.
pub fn settle(
    metric: &Metric,
    mut given: Map<String, Value>,
    model: &Model,
) -> Result<Values, Faults> {
    let (mut values, mut faults) = (Values::default(), Faults::default());
    for MetricParameter { name, allowed, .. } in metric.parameters {
        let allowed = allowed(model, &values);
        let value = given.remove(*name).filter(|value| !value.is_null());
        if let Allowed::Never(reason) = allowed {
            faults.push(Fault::says(*name, reason));
        } else if let Some(value) = value.as_ref().filter(|value| !allowed.takes(value)) {
            let message = format!("{} is not allowed", shown(value));
            faults.push(Fault::new(*name, message, allowed.forms()));
        } else if let (Allowed::Models { .. }, None) = (allowed, &value) {
            faults.push(Fault::new(*name, "is missing", allowed.forms()));
        }
        let value = value.filter(|value| allowed.takes(value));
        if let Some(value) = value.or_else(|| allowed.default()) {
            values.0.insert((*name).to_owned(), value);
        }
    }
    let message = format!("is not a parameter of {}", metric.id);
    let known = || {
        metric
            .parameters
            .iter()
            .map(|one| one.name.to_owned())
            .collect()
    };
    faults.refuse_unknown(given.keys(), &message, known);
    faults.settle(values)
}
