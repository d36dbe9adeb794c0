//! Preprocessed images, cached: a job draws the same ones again and again.

use std::sync::Arc;

use moka::sync::Cache;
use parking_lot::Mutex;

use crate::tensor::Tensor;

/// Elements of cached inputs: 1 GiB of them.
const CACHED_ELEMENTS: u64 = 1 << 28;

#[derive(Debug)]
pub(super) struct InputCache {
    pub inputs: Cache<Key, Arc<Tensor>>,
    /// Held while images are read, so that callers that draw the same ones read them once.
    pub reading: Mutex<()>,
}

/// The hash of an image's file, and its preprocessing.
type Key = (String, String);

impl Default for InputCache {
    fn default() -> Self {
        let elements = |_: &Key, input: &Arc<Tensor>| input.len().try_into().unwrap_or(u32::MAX);
        Self {
            inputs: Cache::builder()
                .weigher(elements)
                .max_capacity(CACHED_ELEMENTS)
                .build(),
            reading: Mutex::default(),
        }
    }
}
