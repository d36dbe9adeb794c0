//! Shards: the parts of a job.

use serde_json::Value;

#[derive(Clone, Debug, PartialEq)]
pub struct PlannedShard {
    /// Its size in the unit of the kind, such as images.
    pub units: u64,
    /// What the kind's work needs beside the spec.
    pub payload: Value,
    /// It goes on from the result of the shard before it: it is leased once that one is done.
    pub needs_previous: bool,
}

/// A part of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Shard {
    /// Counts from 0.
    pub index: usize,
    pub units: u64,
    pub payload: Value,
}
