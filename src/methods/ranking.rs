//! Ranks regions of a picture by the density of a map over them: XRAI's selection. `full`
//! repeatedly adds the region whose uncovered part has the highest mean; `fast` takes regions in
//! the order of their means. Added pixels get their mean, and those left over theirs, so the total
//! is kept. The SIG paper, section 4, and its public code. Cost of `full`: each pixel once per
//! region that holds it, one comparison per region and addition. Agrees with the package `saliency`
//! to 1e-6 (tests/parity/xrai.rs).

use serde::{Deserialize, Serialize};

use crate::segment::regions::Regions;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    Full,
    Fast,
}

/// How regions are chosen.
#[derive(Clone, Copy, Debug)]
pub struct Selection {
    pub algorithm: Algorithm,
    /// No region is added once more than this part of the picture is covered.
    pub area_threshold: f64,
    /// A region that would add fewer pixels is passed over.
    pub min_pixel_diff: usize,
}

/// A map made of regions.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranking {
    /// One value per pixel, row by row.
    pub values: Vec<f64>,
    /// The rank of each pixel's region, from 1.
    pub ranks: Vec<u32>,
    /// By rank: by falling value, and last what no region covered, whatever its value.
    pub regions: Vec<Ranked>,
}

/// What one region added.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranked {
    /// Pixels.
    pub area: usize,
    /// The mean of the map over them.
    pub value: f64,
    /// Of the value, where it is estimated from random samples.
    pub standard_error: Option<f64>,
}

/// Ranks `regions` by `map`, which has one value per pixel of their picture. A region with a NaN in
/// it is passed over.
pub fn rank(map: &[f64], regions: &Regions, selection: &Selection) -> Ranking {
    let mut cover = Cover {
        map,
        covered: vec![false; map.len()],
        area: 0,
        added: Vec::new(),
    };
    match selection.algorithm {
        Algorithm::Full => cover.add_greedily(regions, selection),
        Algorithm::Fast => cover.add_by_mean(regions, selection),
    }
    cover.finish()
}

/// A pixel set: how many, and the sum of the map over them.
#[derive(Clone, Copy, Default)]
struct Tally {
    area: usize,
    sum: f64,
}

impl Tally {
    fn mean(self) -> f64 {
        self.sum / self.area as f64
    }
}

struct Cover<'a> {
    map: &'a [f64],
    covered: Vec<bool>,
    /// Pixels covered.
    area: usize,
    /// In the order of addition.
    added: Vec<(Vec<u32>, f64)>,
}

impl Cover<'_> {
    fn is_open(&self, selection: &Selection) -> bool {
        self.area as f64 / self.map.len().max(1) as f64 <= selection.area_threshold
    }

    fn tally(&self, pixels: &[u32]) -> Tally {
        Tally {
            area: pixels.len(),
            sum: pixels.iter().map(|&pixel| self.map[pixel as usize]).sum(),
        }
    }

    fn uncovered(&self, pixels: &[u32]) -> Vec<u32> {
        pixels
            .iter()
            .copied()
            .filter(|&pixel| !self.covered[pixel as usize])
            .collect()
    }

    fn add(&mut self, pixels: Vec<u32>) {
        pixels
            .iter()
            .for_each(|&pixel| self.covered[pixel as usize] = true);
        self.area += pixels.len();
        let mean = self.tally(&pixels).mean();
        self.added.push((pixels, mean));
    }

    /// The uncovered part of every region is known by its tally alone, which each newly covered
    /// pixel leaves.
    fn add_greedily(&mut self, regions: &Regions, selection: &Selection) {
        let holders = regions.holders();
        let mut tallies: Vec<Tally> = regions.iter().map(|pixels| self.tally(pixels)).collect();
        let mut candidates: Vec<usize> = (0..regions.len()).collect();
        while self.is_open(selection) {
            candidates.retain(|&region| tallies[region].area >= selection.min_pixel_diff.max(1));
            let mut best: Option<(usize, f64)> = None;
            for (at, mean) in candidates
                .iter()
                .map(|&region| tallies[region].mean())
                .enumerate()
            {
                // The first of equals.
                if best.map_or(!mean.is_nan(), |(_, highest)| mean > highest) {
                    best = Some((at, mean));
                }
            }
            let Some((at, _)) = best else { return };
            let pixels = self.uncovered(regions.pixels(candidates.remove(at)));
            for &pixel in &pixels {
                for &holder in holders.get(pixel as usize) {
                    let tally = &mut tallies[holder as usize];
                    tally.area -= 1;
                    tally.sum -= self.map[pixel as usize];
                }
            }
            self.add(pixels);
        }
    }

    fn add_by_mean(&mut self, regions: &Regions, selection: &Selection) {
        let means: Vec<f64> = regions
            .iter()
            .map(|pixels| self.tally(pixels).mean())
            .collect();
        // Of an empty region it is NaN too.
        let mut order: Vec<usize> = (0..regions.len())
            .filter(|&region| !means[region].is_nan())
            .collect();
        order.sort_by(|&a, &b| means[b].total_cmp(&means[a]));
        for region in order {
            if !self.is_open(selection) {
                return;
            }
            let pixels = self.uncovered(regions.pixels(region));
            if pixels.len() >= selection.min_pixel_diff.max(1) {
                self.add(pixels);
            }
        }
    }

    fn finish(mut self) -> Ranking {
        self.added.sort_by(|a, b| b.1.total_cmp(&a.1));
        let left: Vec<u32> = (0..self.map.len() as u32)
            .filter(|&pixel| !self.covered[pixel as usize])
            .collect();
        if !left.is_empty() {
            self.add(left);
        }
        let mut ranking = Ranking {
            values: vec![0.0; self.map.len()],
            ranks: vec![0; self.map.len()],
            regions: Vec::new(),
        };
        for ((pixels, value), rank) in self.added.iter().zip(1..) {
            for &pixel in pixels {
                ranking.values[pixel as usize] = *value;
                ranking.ranks[pixel as usize] = rank;
            }
            ranking.regions.push(Ranked {
                area: pixels.len(),
                value: *value,
                standard_error: None,
            });
        }
        ranking
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;

    use proptest::prelude::*;

    use super::*;

    const SIDE: usize = 40;

    fn squares(bounds: &[(usize, usize)]) -> Regions {
        let square = |&(from, to): &(usize, usize)| {
            (from..to).flat_map(move |y| (from..to).map(move |x| (y * SIDE + x) as u32))
        };
        Regions::of_pixels((SIDE, SIDE), bounds.iter().map(square))
    }

    fn selection(algorithm: Algorithm) -> Selection {
        Selection {
            algorithm,
            area_threshold: 1.0,
            min_pixel_diff: 50,
        }
    }

    const BOTH: [Algorithm; 2] = [Algorithm::Full, Algorithm::Fast];

    /// After the channel maximum.
    fn closed_form_map() -> Vec<f64> {
        (0..SIDE * SIDE)
            .map(|pixel| match (pixel / SIDE, pixel % SIDE) {
                (0..5, _) => 0.1,
                (5..15, 5..15) => 3.0,
                (20..30, 20..30) => 0.5,
                _ => 0.0,
            })
            .collect()
    }

    #[test]
    fn the_closed_form_has_three_regions_and_keeps_its_total() {
        for algorithm in BOTH {
            let ranking = rank(
                &closed_form_map(),
                &squares(&[(5, 15), (10, 30)]),
                &selection(algorithm),
            );
            let expected = [(100, 3.0), (375, 50.0 / 375.0), (1125, 20.0 / 1125.0)];
            for (found, (area, value)) in ranking.regions.iter().zip(expected) {
                assert!(
                    found.area == area && (found.value - value).abs() < 1e-12,
                    "{:?}",
                    ranking.regions
                );
            }
            assert_eq!(ranking.regions.len(), 3);
            assert!((ranking.values.iter().sum::<f64>() - 370.0).abs() < 1e-9);
            assert_eq!(
                [0, 7 * SIDE + 7, 25 * SIDE + 25].map(|pixel| ranking.ranks[pixel]),
                [3, 1, 2]
            );
        }
    }

    #[test]
    fn full_weighs_what_a_region_adds_and_fast_the_whole_of_it() {
        // The second region is dense because of what it shares with the first, the third is less
        // dense but its own.
        let map: Vec<f64> = (0..SIDE * SIDE)
            .map(|pixel| match (pixel / SIDE, pixel % SIDE) {
                (..10, ..10) => 9.0,
                (20..30, 20..30) => 2.0,
                _ => 0.0,
            })
            .collect();
        let regions = squares(&[(0, 10), (0, 12), (20, 30)]);
        let areas = |algorithm| {
            let ranking = rank(
                &map,
                &regions,
                &Selection {
                    area_threshold: 0.09,
                    ..selection(algorithm)
                },
            );
            ranking
                .regions
                .iter()
                .map(|region| region.area)
                .collect::<Vec<_>>()
        };
        // 100 and 100 of 1600 pixels, or 100 and 44.
        assert_eq!(areas(Algorithm::Full), [100, 100, 1400]);
        let fast = rank(
            &map,
            &regions,
            &Selection {
                min_pixel_diff: 1,
                area_threshold: 0.08,
                ..selection(Algorithm::Fast)
            },
        );
        assert_eq!(
            fast.regions
                .iter()
                .map(|region| region.area)
                .collect::<Vec<_>>(),
            [100, 44, 1456]
        );
    }

    #[test]
    fn the_area_threshold_ends_both_algorithms() {
        let regions = squares(&[(0, 10), (10, 20), (20, 30)]);
        let map: Vec<f64> = (0..SIDE * SIDE)
            .map(|pixel| 1.0 / (1.0 + pixel as f64))
            .collect();
        for algorithm in BOTH {
            for (area_threshold, added) in [(0.01, 1), (0.0625, 2), (0.07, 2), (0.125, 3), (1.0, 3)]
            {
                let ranking = rank(
                    &map,
                    &regions,
                    &Selection {
                        area_threshold,
                        ..selection(algorithm)
                    },
                );
                assert_eq!(
                    ranking.regions.len(),
                    added + 1,
                    "{algorithm:?} {area_threshold}"
                );
            }
        }
    }

    #[test]
    fn what_is_left_over_comes_last_even_where_it_is_densest() {
        let map: Vec<f64> = (0..SIDE * SIDE)
            .map(|pixel| f64::from(u8::from(pixel >= 20 * SIDE)))
            .collect();
        let ranking = rank(&map, &squares(&[(0, 20)]), &selection(Algorithm::Full));
        assert_eq!(
            ranking
                .regions
                .iter()
                .map(|region| region.area)
                .collect::<Vec<_>>(),
            [400, 1200]
        );
        assert!(ranking.regions[1].value > ranking.regions[0].value);
    }

    #[test]
    fn nan_stays_in_what_is_left_over_and_duplicates_and_nothing_do_not_panic() {
        let mut map = closed_form_map();
        map[12 * SIDE + 12] = f64::NAN;
        for algorithm in BOTH {
            let ranking = rank(
                &map,
                &squares(&[(5, 15), (20, 30), (20, 30), (7, 7)]),
                &selection(algorithm),
            );
            assert_eq!(
                (ranking.regions.len(), ranking.regions[0]),
                (
                    2,
                    Ranked {
                        area: 100,
                        value: 0.5,
                        standard_error: None,
                    }
                )
            );
            assert!(ranking.regions[1].value.is_nan());
            let whole = rank(
                &vec![2.0; SIDE * SIDE],
                &squares(&[]),
                &selection(algorithm),
            );
            assert_eq!(
                whole.regions,
                [Ranked {
                    area: SIDE * SIDE,
                    value: 2.0,
                    standard_error: None,
                }]
            );
            let none = rank(
                &[],
                &Regions::of_pixels((0, 0), vec![vec![0]; 3]),
                &selection(algorithm),
            );
            assert!(none.regions.is_empty());
        }
    }

    /// As the paper says it, every mask looked at again for every addition.
    fn naive(map: &[f64], masks: &[Vec<u32>], selection: &Selection) -> Vec<Ranked> {
        let (mut covered, mut found) = (vec![false; map.len()], Vec::new());
        let mean = |pixels: &[u32]| {
            pixels.iter().map(|&p| map[p as usize]).sum::<f64>() / pixels.len() as f64
        };
        while covered.iter().filter(|c| **c).count() as f64 / map.len() as f64
            <= selection.area_threshold
        {
            let parts = masks.iter().map(|mask| {
                mask.iter()
                    .copied()
                    .filter(|&p| !covered[p as usize])
                    .collect::<Vec<_>>()
            });
            let parts = parts.filter(|part| part.len() >= selection.min_pixel_diff);
            let Some(best) = parts.min_by_key(|part| Reverse(ordered(mean(part)))) else {
                break;
            };
            best.iter().for_each(|&p| covered[p as usize] = true);
            found.push(Ranked {
                area: best.len(),
                value: mean(&best),
                standard_error: None,
            });
        }
        found.sort_by(|a, b| b.value.total_cmp(&a.value));
        let left: Vec<u32> = (0..map.len() as u32)
            .filter(|&p| !covered[p as usize])
            .collect();
        if !left.is_empty() {
            found.push(Ranked {
                area: left.len(),
                value: mean(&left),
                standard_error: None,
            });
        }
        found
    }

    /// Sorts as the number does.
    fn ordered(value: f64) -> i64 {
        let bits = value.to_bits() as i64;
        bits ^ (((bits >> 63) as u64) >> 1) as i64
    }

    proptest! {
        #[test]
        fn totals_are_kept_and_full_is_its_naive_reference(
            values in proptest::collection::vec(-1000i32..1000, 12 * 12),
            boxes in proptest::collection::vec((0usize..12, 0usize..12, 1usize..8, 1usize..8), 0..12),
            tenths in 0u32..=10,
            min_pixel_diff in 1usize..20,
        ) {
            // Odd divisors, so that no two sums are equal but those of equal sets.
            let map: Vec<f64> = values.iter().zip(1..).map(|(v, i)| (f64::from(*v) + 0.5) / (7.0 + 0.013 * f64::from(i))).collect();
            let lists = boxes.iter().map(|&(top, left, height, width)| {
                (0..144).filter(|at| (top..top + height).contains(&(at / 12)) && (left..left + width).contains(&(at % 12))).map(|at| at as u32).collect()
            });
            let lists: Vec<Vec<u32>> = lists.collect();
            let regions = Regions::of_pixels((12, 12), lists.clone());
            for algorithm in BOTH {
                let selection = Selection { algorithm, area_threshold: f64::from(tenths) / 10.0, min_pixel_diff };
                let ranking = rank(&map, &regions, &selection);
                let total: f64 = map.iter().sum();
                prop_assert!((ranking.values.iter().sum::<f64>() - total).abs() < 1e-8);
                prop_assert_eq!(ranking.regions.iter().map(|region| region.area).sum::<usize>(), map.len());
                for (value, rank) in ranking.values.iter().zip(&ranking.ranks) {
                    prop_assert_eq!(*value, ranking.regions[*rank as usize - 1].value);
                }
                if algorithm == Algorithm::Full {
                    let expected = naive(&map, &lists, &selection);
                    prop_assert_eq!(ranking.regions.len(), expected.len());
                    for (found, expected) in ranking.regions.iter().zip(&expected) {
                        prop_assert_eq!(found.area, expected.area);
                        prop_assert!((found.value - expected.value).abs() < 1e-9);
                    }
                }
            }
        }

        #[test]
        fn wild_values_do_not_panic(values in proptest::collection::vec(any::<f64>(), 64), bits in any::<[u64; 5]>(), fast: bool) {
            let lists = bits.map(|bits| (0..64).filter(move |pixel| bits >> pixel & 1 == 1));
            let algorithm = BOTH[usize::from(fast)];
            let selection = Selection { algorithm, area_threshold: 1.0, min_pixel_diff: 3 };
            let ranking = rank(&values, &Regions::of_pixels((8, 8), lists), &selection);
            prop_assert_eq!(ranking.regions.iter().map(|region| region.area).sum::<usize>(), 64);
        }
    }
}
