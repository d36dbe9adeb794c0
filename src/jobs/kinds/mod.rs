//! The kinds of jobs, one file or folder each.

mod asked;
pub mod degradation;
