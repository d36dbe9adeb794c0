//! The kinds of jobs, one file or folder each.

mod asked;
pub mod degradation;
pub mod explain_dataset;
pub mod fit_patterns;
