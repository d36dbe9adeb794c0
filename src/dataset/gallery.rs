//! Images of data sets as inputs of a model, for the baseline `dataset:<id>`. Drawn with
//! ChaCha8(seed) without replacement, at most as many as there are. Images that cannot be decoded
//! are left out.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};
use rayon::prelude::*;

use super::{Catalogue, DatasetError, Datasets};
use crate::{
    picture::{
        ImageError,
        baseline::Pictures,
        preprocess::{Preprocess, preprocess},
    },
    tensor::Tensor,
};

/// Cached elements, 1 GiB: a job draws the same images again and again.
const KEPT_ELEMENTS: usize = 1 << 28;

/// The shortest time between two checks whether another replica has replaced the set.
const LOOK: Duration = Duration::from_secs(1);

/// Cache of the inputs drawn last.
#[derive(Default)]
pub struct Kept {
    inputs: Mutex<Inputs>,
    /// Held while images are read, so that callers that want the same ones wait for them.
    reading: Mutex<()>,
}

#[derive(Default)]
struct Inputs {
    by_key: HashMap<Key, Arc<Tensor>>,
    oldest_first: VecDeque<Key>,
    elements: usize,
}

/// The hash of an image's file, and its preprocessing.
type Key = (String, String);

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kept")
    }
}

impl Kept {
    fn get(&self, key: &Key) -> Option<Arc<Tensor>> {
        lock(&self.inputs).by_key.get(key).cloned()
    }

    fn keep(&self, key: Key, input: Arc<Tensor>) {
        let mut inputs = lock(&self.inputs);
        inputs.elements += input.len();
        if inputs.by_key.insert(key.clone(), input.clone()).is_some() {
            inputs.elements -= input.len();
        } else {
            inputs.oldest_first.push_back(key);
        }
        while inputs.elements > KEPT_ELEMENTS
            && let Some(oldest) = inputs.oldest_first.pop_front()
        {
            inputs.elements -= inputs.by_key.remove(&oldest).map_or(0, |input| input.len());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn fault(id: &str, reason: &DatasetError) -> ImageError {
    ImageError::DatasetBaseline {
        id: id.to_owned(),
        reason: reason.to_string(),
    }
}

impl Pictures for Datasets {
    fn bring<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), ImageError>> {
        async move {
            self.bring(id, LOOK)
                .await
                .map_err(|error| fault(id, &error))
        }
        .boxed()
    }

    fn draw(
        &self,
        id: &str,
        count: usize,
        seed: u64,
        rule: &Preprocess,
    ) -> Result<Vec<Tensor>, ImageError> {
        self.here().draw(id, count, seed, rule)
    }
}

impl Catalogue {
    /// As [`Pictures::draw`].
    pub fn draw(
        &self,
        id: &str,
        count: usize,
        seed: u64,
        rule: &Preprocess,
    ) -> Result<Vec<Tensor>, ImageError> {
        let fault = |error: DatasetError| fault(id, &error);
        let dataset = self.open(id).map_err(fault)?;
        let usable: Vec<usize> = (0..dataset.images.len())
            .filter(|at| dataset.images[*at].fault.is_none())
            .collect();
        if usable.is_empty() {
            return Err(fault(DatasetError::Empty {
                id: id.to_owned(),
                ignored: dataset.ignored.clone(),
            }));
        }
        let rule_key = format!("{rule:?}");
        let read = |index: usize| {
            let key = (dataset.images[index].hash.clone(), rule_key.clone());
            if let Some(input) = self.kept().get(&key) {
                return Ok(input.as_ref().clone());
            }
            let image = dataset.read(index, self.limits()).map_err(fault)?.image;
            let input = preprocess(&image, rule)?.0;
            self.kept().keep(key, Arc::new(input.clone()));
            Ok(input)
        };
        let _reading = lock(&self.kept().reading);
        draw(usable.len(), count, seed)
            .into_par_iter()
            .map(|at| read(usable[at]))
            .collect()
    }
}

/// `count` distinct numbers below `length`, or all of them if there are fewer.
pub fn draw(length: usize, count: usize, seed: u64) -> Vec<usize> {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    let mut left: Vec<usize> = (0..length).collect();
    (0..count.min(length))
        .map(|_| left.swap_remove((generator.next_u64() % left.len() as u64) as usize))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_drawn_and_none_comes_twice() {
        let drawn = draw(7, 20, 3);
        let mut sorted = drawn.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(drawn[..5], draw(7, 5, 3)[..]);
        assert_ne!(drawn, draw(7, 20, 4));
        assert!(draw(0, 3, 0).is_empty());
    }
}
