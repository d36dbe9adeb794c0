//! Which images stand against the concept. Draw k has two sets that share no image: the counterpart
//! of the concept, and a set that stands in for it where a vector of chance is wanted. Kim et al.
//! 2018, section 3.5: as many vectors as draws, of the concept and of chance.

use rand_chacha::rand_core::Rng;

use crate::{dataset, random};

/// Places among the random images.
#[derive(Clone, Debug, PartialEq)]
pub struct Draw {
    pub counterpart: Vec<usize>,
    pub stand_in: Vec<usize>,
}

/// `count` draws of two sets of `size` among `images`. No image is in two sets where there are
/// enough of them, [`enough`]; else each draw is one of its own.
pub fn draws(images: usize, size: usize, count: usize, seed: u64) -> Vec<Draw> {
    let of = |both: &[usize]| {
        let (counterpart, stand_in) = both.split_at(both.len() / 2);
        Draw {
            counterpart: counterpart.to_vec(),
            stand_in: stand_in.to_vec(),
        }
    };
    let all = enough(size, count);
    if images >= all {
        let drawn = dataset::draw(images, all, seed);
        return drawn.chunks(2 * size.max(1)).map(of).collect();
    }
    let own = |k| {
        let seed = random::generator(seed, k as u64).next_u64();
        of(&dataset::draw(images, 2 * size, seed))
    };
    (0..count).map(own).collect()
}

/// So many images make all sets disjoint.
pub fn enough(size: usize, count: usize) -> usize {
    2 * size * count
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn sets(draws: &[Draw]) -> Vec<BTreeSet<usize>> {
        let both = draws
            .iter()
            .flat_map(|draw| [&draw.counterpart, &draw.stand_in]);
        both.map(|set| set.iter().copied().collect()).collect()
    }

    #[test]
    fn sets_are_disjoint_where_there_are_enough_images() {
        let drawn = draws(60, 5, 6, 3);
        let sets = sets(&drawn);
        assert!(sets.len() == 12 && sets.iter().all(|set| set.len() == 5));
        let all: BTreeSet<usize> = sets.into_iter().flatten().collect();
        assert_eq!(all.len(), 60);
        assert_eq!(drawn, draws(60, 5, 6, 3));
        assert_ne!(drawn, draws(60, 5, 6, 4));
    }

    #[test]
    fn of_few_images_each_draw_is_another_and_its_two_sets_share_none() {
        let drawn = draws(12, 5, 6, 3);
        for pair in sets(&drawn).chunks(2) {
            assert!(pair[0].len() == 5 && pair[0].is_disjoint(&pair[1]));
        }
        let different: BTreeSet<Vec<usize>> =
            drawn.iter().map(|draw| draw.counterpart.clone()).collect();
        assert_eq!(different.len(), 6);
    }
}
