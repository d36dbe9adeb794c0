//! A parameter: its type, what it allows, how a value is read and printed; and groups of those that
//! belong together.

use serde_json::{Map, Value};

use super::{Facts, Parameters};
use crate::{faults::Faults, text::shown};

/// Parameters that methods take together, and what must hold among them.
#[derive(Debug)]
pub struct Group {
    pub parameters: &'static [Parameter],
    /// Sets the defaults that are the model's.
    pub from_model: fn(&mut Parameters, &Facts<'_>),
    /// Values that contradict each other; sees what was given beside what it resolved to.
    pub check: fn(&Parameters, &Map<String, Value>, &Facts<'_>, &mut Faults),
}

impl Group {
    /// Of parameters whose values never contradict each other.
    pub const fn of(parameters: &'static [Parameter]) -> Self {
        Self {
            parameters,
            from_model: |_, _| (),
            check: |_, _, _, _| (),
        }
    }
}

/// One parameter.
#[derive(Debug)]
pub struct Parameter {
    pub name: &'static str,
    pub kind: Kind,
    pub doc: &'static str,
    /// The default is the model's (its manifest), not the method's.
    pub from_model: bool,
    /// `None` where the value says nothing, such as `n_steps` under a `tolerance`.
    pub get: fn(&Parameters) -> Option<Value>,
}

/// The type of a parameter, the values allowed, and how one is stored.
#[derive(Debug)]
pub enum Kind {
    Integer {
        min: u64,
        max: u64,
        set: fn(&mut Parameters, u64),
    },
    /// Greater than `above`, at most `max`.
    Number {
        above: f64,
        max: f64,
        set: fn(&mut Parameters, f64),
    },
    Boolean {
        set: fn(&mut Parameters, bool),
    },
    Choice {
        allowed: &'static [&'static str],
        set: fn(&mut Parameters, Value) -> serde_json::Result<()>,
    },
    /// One of the names that the model gives.
    Name {
        form: &'static str,
        among: fn(&Facts<'_>) -> Vec<String>,
        set: fn(&mut Parameters, String),
    },
    Text {
        forms: &'static [&'static str],
        set: fn(&mut Parameters, &Value, &Facts<'_>) -> Result<(), String>,
    },
}

impl Parameter {
    pub fn type_name(&self) -> &'static str {
        match self.kind {
            Kind::Integer { .. } => "integer",
            Kind::Number { .. } => "number",
            Kind::Boolean { .. } => "boolean",
            Kind::Choice { .. } | Kind::Name { .. } | Kind::Text { .. } => "string",
        }
    }

    /// For people: `1 to 10000`, the choices, or the forms.
    pub fn allowed(&self) -> Vec<String> {
        match &self.kind {
            Kind::Integer { min, max, .. } => vec![format!("{min} to {max}")],
            Kind::Number { above, max, .. } => vec![format!("above {above}, at most {max}")],
            Kind::Boolean { .. } => vec!["true".into(), "false".into()],
            Kind::Name { form, .. } => vec![(*form).to_owned()],
            Kind::Choice { allowed: texts, .. } | Kind::Text { forms: texts, .. } => {
                texts.iter().map(|text| (*text).to_owned()).collect()
            }
        }
    }

    /// As [`Self::allowed`], with the names of this model.
    pub fn allowed_for(&self, facts: &Facts<'_>) -> Vec<String> {
        if let Kind::Name { among, .. } = self.kind {
            among(facts)
        } else {
            self.allowed()
        }
    }

    pub(super) fn set(
        &self,
        parameters: &mut Parameters,
        value: &Value,
        facts: &Facts<'_>,
    ) -> Result<(), String> {
        match &self.kind {
            Kind::Integer { min, max, set } => {
                let number = value
                    .as_u64()
                    .or_else(|| value.as_str()?.trim().parse().ok());
                let number = number.filter(|n| (min..=max).contains(&n));
                set(
                    parameters,
                    number.ok_or_else(|| {
                        format!("{} is not an integer from {min} to {max}", shown(value))
                    })?,
                );
            }
            Kind::Number { above, max, set } => {
                let number = value
                    .as_f64()
                    .or_else(|| value.as_str()?.trim().parse().ok());
                let number = number.filter(|n| above < n && n <= max);
                set(
                    parameters,
                    number.ok_or_else(|| {
                        format!(
                            "{} is not a number above {above} and at most {max}",
                            shown(value)
                        )
                    })?,
                );
            }
            Kind::Boolean { set } => {
                let flag = value
                    .as_bool()
                    .or_else(|| value.as_str()?.trim().to_ascii_lowercase().parse().ok());
                set(
                    parameters,
                    flag.ok_or_else(|| format!("{} is neither true nor false", shown(value)))?,
                );
            }
            Kind::Choice { allowed, set } => {
                let refused = || format!("{} is not one of the choices", shown(value));
                if !value
                    .as_str()
                    .is_some_and(|choice| allowed.contains(&choice))
                {
                    return Err(refused());
                }
                set(parameters, value.clone()).map_err(|_| refused())?;
            }
            Kind::Name { form, among, set } => {
                let name = value
                    .as_str()
                    .filter(|name| among(facts).iter().any(|known| known == name));
                set(
                    parameters,
                    name.ok_or_else(|| format!("{} is not {form}", shown(value)))?
                        .to_owned(),
                );
            }
            Kind::Text { set, .. } => set(parameters, value, facts)?,
        }
        Ok(())
    }
}
