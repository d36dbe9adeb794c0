//! `training.json` in the folder of a model that was trained here: of which model, on which data, by
//! which recipe, and what the epochs came to.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// The file's name in a model's folder.
pub const FILE: &str = "training.json";
/// The largest file.
pub const MAX_BYTES: u64 = 16 << 20;

/// Where a trained model comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Provenance {
    pub parent: Origin,
    pub dataset: Origin,
    /// Every default settled: trained again by it, the parent becomes the same model.
    pub recipe: Value,
    /// Id of the job that trained it; none for the command line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Images trained on, and images kept back to judge by.
    pub images: usize,
    pub validation_images: usize,
    /// The epoch, from 1, whose weights these are.
    pub epoch: usize,
    /// What each epoch came to.
    pub epochs: Vec<Value>,
    /// Version of explaind.
    pub version: String,
}

/// A model or a data set, as it was used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Origin {
    pub id: String,
    /// SHA-256, in hex.
    pub hash: String,
}
