//! The kinds of jobs: the table of contents of this room. A new kind is a file and a row.

use super::{
    kind::{Kind, Kinds},
    kinds::{
        degradation::DEGRADATION, evaluate::EVALUATE, explain_dataset::EXPLAIN_DATASET,
        fit_patterns::FIT_PATTERNS,
    },
};

pub static KINDS: Kinds = &[&EVALUATE, &DEGRADATION, &FIT_PATTERNS, &EXPLAIN_DATASET];

pub fn find(kinds: Kinds, id: &str) -> Option<&'static dyn Kind> {
    kinds.iter().copied().find(|kind| kind.id() == id)
}
