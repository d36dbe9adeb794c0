//! The kinds of jobs, one file or folder each.

pub mod bam_data;
pub mod bam_models;
mod cost;
pub mod degradation;
pub mod evaluate;
pub mod explain_dataset;
pub mod fit_patterns;
pub mod gad_train;
mod images;
mod output;
mod request_reader;
pub mod tcav;
pub mod train;
mod training;
