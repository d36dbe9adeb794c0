//! What kinds of jobs that train have in common: what is checked before it is queued, the epochs and
//! their checkpoints, how trained models are put to use, and the parts of reports.

pub(super) mod chain;
pub(super) mod checks;
pub(super) mod course;
pub(super) mod figure;
pub(super) mod install;
mod kept;
pub(super) mod page;
