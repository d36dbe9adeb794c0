//! Errors of the driver.

use crate::{
    engine::EngineError, faults::Faults, model::supports::SupportsError, pool::WorkPanicked,
    text::quoted,
};

#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    #[error(transparent)]
    Parameters(#[from] Faults),
    #[error(
        "{method} with rule set {rule_set} needs patterns and model {model} has none; run `explaind fit-patterns --model {} --images FOLDER`; for a running server, then send it SIGHUP or restart it",
        quoted(model)
    )]
    PatternsMissing {
        model: String,
        method: &'static str,
        rule_set: &'static str,
    },
    #[error(
        "{method} looks at the picture that the input shows, and model {model} takes ready tensors that show none"
    )]
    NoPicture { model: String, method: &'static str },
    #[error(
        "this costs {cost} evaluations and at most {limit} are allowed here; lower the cost or run it as a job"
    )]
    TooCostly { cost: usize, limit: usize },
    #[error("the input has shape {found:?}; model {model} takes {expected:?}")]
    Shape {
        model: String,
        expected: Vec<usize>,
        found: Vec<usize>,
    },
    #[error("model {model} answers this input with values that are not finite")]
    NotFinite { model: String },
    #[error("{reason}; methods that apply to model {model}: {}", methods.join(", "))]
    Undefined {
        model: String,
        reason: String,
        methods: Vec<&'static str>,
    },
    /// Of a threshold that no class of this input exceeds.
    #[error(transparent)]
    NoneAbove(Faults),
    #[error(transparent)]
    Supports(#[from] SupportsError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Panicked(#[from] WorkPanicked),
}
