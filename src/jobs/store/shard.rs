//! A part of a job: planned, and leased.

use serde_json::Value;

#[derive(Clone, Debug, PartialEq)]
pub struct PlannedShard {
    /// How much of the job it is, in the kind's own unit, such as images.
    pub units: u64,
    /// Whatever the kind's work needs beside the spec.
    pub payload: Value,
}

/// One part of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Shard {
    /// Counts from 0.
    pub index: usize,
    pub units: u64,
    pub payload: Value,
}
