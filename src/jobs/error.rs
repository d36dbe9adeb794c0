//! Why a job, or a shard of one, is not done.

use std::fmt;

use super::store::{JobState, StoreError};
use crate::{
    app::AppError,
    driver::DriverError,
    engine::EngineError,
    faults::Faults,
    files::FilesError,
    model::{patterns::PatternsError, supports::SupportsError},
    pool::WorkPanicked,
    quota::QuotaError,
    text::excerpt,
};

#[derive(Debug, thiserror::Error)]
pub enum JobError {
    #[error(transparent)]
    Parameters(#[from] Faults),
    #[error("no job is called {}; GET /jobs lists them", excerpt(id))]
    Unknown { id: String },
    #[error(
        "{limit} jobs are queued or running, which is the most (max_jobs); submit again when some have ended"
    )]
    TooManyJobs { limit: u64 },
    #[error(
        "jobs have trained {found} models, this one would train {new}, and at most {limit} may be (max_trained_models): delete some first"
    )]
    TooManyModels {
        found: usize,
        new: usize,
        limit: usize,
    },
    #[error(
        "{what} {found} {unit}; at most {most} are allowed ({setting}); lower {}",
        lower.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" or ")
    )]
    TooCostly {
        /// Such as `the job costs`.
        what: &'static str,
        found: u64,
        unit: &'static str,
        most: u64,
        setting: &'static str,
        /// The parameters that it depends on, and the values that would do where that is known.
        lower: Vec<(&'static str, Option<String>)>,
    },
    #[error(
        "{limit} readers of events are connected, which is the most; try again later, or look at GET /jobs/{{id}}"
    )]
    TooManyFollowers { limit: usize },
    #[error("job {id} was submitted with this Idempotency-Key and another body; take a new key")]
    KeyTaken { id: String },
    #[error("job {id} is {}: it has no such report{}", state.name(), if state.is_final() { "" } else { " yet" })]
    NothingToReport { id: String, state: JobState },
    #[error("job {id} is of kind {kind}, which this server does not know")]
    UnknownKind { id: String, kind: String },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error(transparent)]
    Quota(#[from] QuotaError),
    #[error(transparent)]
    Work(#[from] WorkError),
    #[error(transparent)]
    Panicked(#[from] WorkPanicked),
}

/// Why a shard has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkError {
    /// May succeed later, or on another replica: tried again, a limited number of times.
    #[error("{0}")]
    Transient(String),
    /// Will not succeed: the job fails.
    #[error("{0}")]
    Permanent(String),
}

impl WorkError {
    pub fn transient(error: impl fmt::Display) -> Self {
        Self::Transient(error.to_string())
    }

    pub fn permanent(error: impl fmt::Display) -> Self {
        Self::Permanent(error.to_string())
    }
}

impl From<&EngineError> for WorkError {
    fn from(error: &EngineError) -> Self {
        match error {
            EngineError::Derive(_) | EngineError::InvalidBatch { .. } => Self::permanent(error),
            EngineError::Overloaded { .. }
            | EngineError::Cancelled
            | EngineError::DeadlineExceeded
            | EngineError::Draining
            | EngineError::TooLate { .. }
            | EngineError::Runtime { .. } => Self::transient(error),
        }
    }
}

impl From<EngineError> for WorkError {
    fn from(error: EngineError) -> Self {
        Self::from(&error)
    }
}

impl From<DriverError> for WorkError {
    fn from(error: DriverError) -> Self {
        match error {
            DriverError::Engine(error) => error.into(),
            DriverError::Supports(error) => error.into(),
            DriverError::Panicked(_) => Self::transient(error),
            _ => Self::permanent(error),
        }
    }
}

impl From<AppError> for WorkError {
    fn from(error: AppError) -> Self {
        match error {
            AppError::Method(error) => error.into(),
            AppError::Supports(error) => error.into(),
            AppError::Panicked(_) => Self::transient(error),
            _ => Self::permanent(error),
        }
    }
}

impl From<SupportsError> for WorkError {
    fn from(error: SupportsError) -> Self {
        match error {
            SupportsError::Disk(_) | SupportsError::Files(_) | SupportsError::Panicked(_) => {
                Self::transient(error)
            }
            SupportsError::Unknown { .. }
            | SupportsError::TooMany { .. }
            | SupportsError::Lost { .. }
            | SupportsError::Weights(_)
            | SupportsError::Variant(_)
            | SupportsError::Write(_) => Self::permanent(error),
        }
    }
}

impl From<PatternsError> for WorkError {
    fn from(error: PatternsError) -> Self {
        match error {
            PatternsError::File(_) | PatternsError::Files(_) | PatternsError::Panicked(_) => {
                Self::transient(error)
            }
            PatternsError::Format { .. }
            | PatternsError::OtherModel { .. }
            | PatternsError::Lost { .. } => Self::permanent(error),
        }
    }
}

impl From<WorkPanicked> for WorkError {
    fn from(error: WorkPanicked) -> Self {
        Self::transient(error)
    }
}

impl From<FilesError> for WorkError {
    fn from(error: FilesError) -> Self {
        Self::transient(error)
    }
}

impl From<StoreError> for WorkError {
    fn from(error: StoreError) -> Self {
        Self::transient(error)
    }
}
