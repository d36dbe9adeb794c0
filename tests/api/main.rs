//! The HTTP contract on real models and the real ONNX Runtime. Every answer is checked against the
//! OpenAPI document.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub
)]

mod access;
mod answers;
mod bam;
mod bam_models;
mod benchmark;
mod bodies;
mod bundle;
mod catalogue;
mod cli;
mod client;
mod compare;
mod contract;
mod cost;
mod dashboard;
mod dataset_images;
mod datasets;
mod documents;
mod edge;
mod ends;
mod evaluate;
mod exporters;
mod fixture;
mod forward;
mod gad_train;
mod images;
mod inputs;
mod jobs;
mod load;
mod methods;
mod parameters;
mod problems;
mod protocols;
mod reproducible;
mod scikit_learn;
mod segments;
mod sets;
mod start;
mod supports;
mod tcav;
mod train;
mod trained;
mod uploads;
mod warnings;
