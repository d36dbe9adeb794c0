//! A settled request for a training, and its result.

use serde::{Deserialize, Serialize};

use crate::training::{EpochReport, LeftOut, Recipe};

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Spec {
    pub model: String,
    pub model_hash: String,
    pub dataset: String,
    pub dataset_hash: String,
    pub name: String,
    #[serde(flatten)]
    pub recipe: Recipe,
}

/// The result of the job. While it runs, the epochs alone.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Trained {
    /// What each epoch came to.
    pub epochs: Vec<EpochReport>,
    /// The id of the trained model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The epoch, from 1, whose weights it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<usize>,
    /// Images of the data set that were not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_out: Option<LeftOut>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}
