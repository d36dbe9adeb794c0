//! The kinds of jobs: the table of contents of this room. A new kind is a file and a row.

use serde_json::Value;

use super::{
    kind::{Kind, Kinds},
    kinds::{
        bam_data::BAM_DATA, bam_models::BAM_MODELS, degradation::DEGRADATION, evaluate::EVALUATE,
        explain_dataset::EXPLAIN_DATASET, fit_patterns::FIT_PATTERNS, gad_train::GAD_TRAIN,
        tcav::TCAV, train::TRAIN,
    },
};
use crate::{
    faults::Fault,
    text::{meant, shown},
};

pub static KINDS: Kinds = &[
    &EVALUATE,
    &DEGRADATION,
    &FIT_PATTERNS,
    &EXPLAIN_DATASET,
    &TRAIN,
    &TCAV,
    &BAM_DATA,
    &BAM_MODELS,
    &GAD_TRAIN,
];

pub fn find(kinds: Kinds, id: &str) -> Option<&'static dyn Kind> {
    kinds.iter().copied().find(|kind| kind.id() == id)
}

/// A value that is none of these kinds.
pub fn unknown(kinds: Kinds, value: &Value) -> Fault {
    let ids = || kinds.iter().map(|kind| kind.id());
    let meant = meant(value.as_str().unwrap_or_default(), ids());
    let message = format!("{} is no kind of job{meant}", shown(value));
    Fault::new("kind", message, ids())
}
