//! Images of data sets as inputs of a model, for the baseline `dataset:<id>`. Drawn with
//! ChaCha8(seed) without replacement, at most as many as there are. Images that cannot be decoded
//! are left out.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};
use rayon::prelude::*;

use super::{Catalogue, DatasetError, Datasets};
use crate::{
    picture::{ImageError, baseline::ImageSource, preprocess::Preprocess},
    tensor::Tensor,
};

/// How long a local copy is drawn from before it is compared with the set that replicas share.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

fn fault(id: &str, reason: &DatasetError) -> ImageError {
    ImageError::DatasetBaseline {
        id: id.to_owned(),
        reason: reason.to_string(),
    }
}

impl ImageSource for Datasets {
    fn ensure_local<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), ImageError>> {
        async move {
            self.ensure_local(id, CHECK_INTERVAL)
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
        self.local().draw(id, count, seed, rule)
    }
}

impl Catalogue {
    /// As [`ImageSource::draw`].
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
        let (cache, rule_key) = (self.inputs(), format!("{rule:?}"));
        let read = |index: usize| {
            let key = (dataset.images[index].hash.clone(), rule_key.clone());
            if let Some(input) = cache.inputs.get(&key) {
                return Ok(input.as_ref().clone());
            }
            let image = dataset.read(index, self.limits()).map_err(fault)?;
            let input = image.to_input(rule)?.0;
            cache.inputs.insert(key, Arc::new(input.clone()));
            Ok(input)
        };
        let _reading = cache.reading.lock();
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
