//! What is checked before a training is queued.

use std::collections::BTreeSet;

use crate::{
    app::App,
    faults::{Fault, Faults},
    jobs::{JobError, WorkError},
    model::Model,
    training::TrainingError,
};

/// The faults of a request whose training cannot be made; an error where it is not the request's.
pub(in crate::jobs::kinds) fn faults_of(error: TrainingError) -> Result<Faults, JobError> {
    if let TrainingError::Parameters(faults) = error {
        return Ok(faults);
    }
    match param_of(&error) {
        Some(param) => Ok(Fault::says(param, error.to_string()).into()),
        None => Err(WorkError::from(error).into()),
    }
}

/// The parameter that an obstacle is about; none where it is the server's.
fn param_of(error: &TrainingError) -> Option<&'static str> {
    match error {
        TrainingError::TakesTensors { .. }
        | TrainingError::NotInModel { .. }
        | TrainingError::Derive(_) => Some("model"),
        TrainingError::NoImages { .. }
        | TrainingError::EmptyClass { .. }
        | TrainingError::OneClass { .. }
        | TrainingError::Label { .. }
        | TrainingError::Image { .. } => Some("dataset"),
        TrainingError::NoValidation { .. } => Some("validation"),
        TrainingError::LossOfLogits | TrainingError::Targets { .. } => Some("loss"),
        TrainingError::Head { .. } => Some("new_head"),
        TrainingError::UnknownLayer { .. } | TrainingError::NothingToTrain { .. } => Some("train"),
        TrainingError::Memory { .. } => Some("model"),
        TrainingError::Parameters(_)
        | TrainingError::NotFinite { .. }
        | TrainingError::Checkpoint { .. }
        | TrainingError::Output { .. }
        | TrainingError::Dataset(_)
        | TrainingError::File { .. }
        | TrainingError::Engine(_)
        | TrainingError::Panicked(_) => None,
    }
}

/// Why no new model can have this id.
pub(in crate::jobs::kinds) fn taken(
    app: &App,
    trained: &BTreeSet<String>,
    id: &str,
) -> Option<String> {
    (app.models().is_own(id) || trained.contains(id)).then(|| {
        format!(
            "there is a model {id} already: take another name, or DELETE /models/{id} where a job trained it"
        )
    })
}

/// Refuses so many new models where they would be more than may be.
pub(in crate::jobs::kinds) fn check_models(
    app: &App,
    trained: &BTreeSet<String>,
    new: usize,
) -> Result<(), JobError> {
    let limit = app.settings().max_trained_models;
    match trained.len() + new > limit {
        true => Err(JobError::TooManyModels {
            found: trained.len(),
            new,
            limit,
        }),
        false => Ok(()),
    }
}

pub(in crate::jobs::kinds) fn weight_bytes(model: &Model) -> u64 {
    let weights = model.graph.initializers.values();
    weights.map(|weight| weight.bytes.len() as u64).sum()
}
