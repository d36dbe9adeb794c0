//! KernelSHAP: Shapley values as the weighted least squares of v on which regions are shown, the
//! values summing to v(all) - v(none). Lundberg & Lee 2017, section 4.1 (Theorem 2). Coalitions as
//! the package `shap` chooses them: sizes from the outside in, whole sizes while the budget of
//! n_samples reaches, each coalition with its complement; then random ones of the sizes left, which
//! share the kernel's weight of these, each as often as it was drawn. When all coalitions fit, the
//! values are the Shapley values. Draw k: ChaCha8(seed), stream k, a uniform for the size and an
//! order whose first regions are shown. Cost: n_samples forward passes for each baseline, and those
//! of all regions and of none. Agrees with the package at the same draws to 1e-6 (tests/parity).

use std::{
    collections::{HashMap, hash_map::Entry},
    num::NonZeroUsize,
};

use rand::RngExt;
use serde_json::json;

use super::{
    CHUNK, MethodRun, RunInputs,
    coalitions::{self, Coalition, Estimate, Estimated, is_full, permutation},
    halves::Halves,
    noise::MAX_SAMPLES,
    parameters::{
        Cost, Group, Kind, Parameter, Parameters,
        common::{Preset, choose, counted, preset},
    },
    regions::max_segments,
    regression::{Constrained, Sums},
};
use crate::random::generator;

/// Up to so many regions all coalitions are taken by default.
const COMPLETE: usize = 12;
/// Draws for each random coalition: the most, as those that were drawn before count again.
const TRIES: usize = 4;
/// The halves of fewer random coalitions are not compared.
const LEAST: usize = 4 * CHUNK;

/// How many coalitions beside those of all regions and of none; none: by the number of regions.
#[derive(Clone, Copy, Debug, Default)]
struct CoalitionParameters {
    n_samples: Option<NonZeroUsize>,
}

pub static COALITIONS: Group = Group::of(&[
    preset(
        "Sets n_samples of kernel_shap: speed is 512, balance what it is by default, quality 8192.",
        |p, value| {
            choose(value).map(|preset| {
                let count = match preset {
                    Preset::Speed => Some(counted(512)),
                    Preset::Balance => None,
                    Preset::Quality => Some(counted(8192)),
                };
                set(p, count);
            })
        },
    ),
    Parameter {
        name: "n_samples",
        kind: Kind::Integer {
            min: 1,
            max: MAX_SAMPLES,
            set: |p, n| set(p, Some(counted(n))),
        },
        doc: "The number of coalitions of regions, beside all and none. Of M regions there are 2^M - 2, and no more are taken: then the \
              values are exact. By default all up to 12 regions, else 2 M + 2048.",
        from_model: false,
        get: |p| {
            let CoalitionParameters { n_samples } = p.group();
            n_samples.map(|n| json!(n))
        },
    },
]);

fn set(parameters: &mut Parameters, n_samples: Option<NonZeroUsize>) {
    parameters.change(|own: &mut CoalitionParameters| own.n_samples = n_samples);
}

pub const COST: Cost = Cost {
    words: "at most (n_samples + 1) × baselines + 1 forward passes; n_samples by default 4094, 2^max_segments - 2 or \
            2 max_segments + 2048",
    count: |p| {
        let most = max_segments(p);
        let largest = |regions| budget(p, regions);
        let coalitions = largest(most).max(largest(most.min(COMPLETE)));
        coalitions::evaluations(coalitions + 1, p)
    },
    asks_input: |_| true,
    change: |_| None,
};

/// How many coalitions are asked for of so many regions, beside all and none.
fn budget(parameters: &Parameters, regions: usize) -> usize {
    let CoalitionParameters { n_samples } = parameters.group();
    let all = match regions {
        0 => 0,
        1..=30 => (1 << regions) - 2,
        _ => usize::MAX,
    };
    match n_samples {
        Some(given) => given.get().min(all),
        None if regions <= COMPLETE => all,
        None => all.min(2 * regions + 2048),
    }
}

/// How coalitions of each size are chosen and weighted.
#[derive(Clone, Debug)]
struct Sizes {
    players: usize,
    /// Sizes up to this are complete, as are their complements'.
    complete: usize,
    /// By complete size, from 1: the weight of one coalition of this size or of the size of its
    /// complement.
    weights: Vec<f64>,
    /// The weight of all random coalitions together.
    open: f64,
    /// Sums of the shares of the sizes left, from `complete` + 1.
    chances: Vec<f64>,
    /// Random coalitions.
    samples: usize,
}

impl Sizes {
    fn of(players: usize, budget: usize) -> Self {
        let sizes = players / 2;
        // The kernel's weight of all coalitions of a size and of its complement's.
        let mass = |size: usize| {
            let kernel = (players - 1) as f64 / (size * (players - size)) as f64;
            kernel * copies(players, size)
        };
        let total: f64 = (1..=sizes).map(mass).sum();
        let (mut left, mut rest, mut complete) = (budget as f64, 1.0, 0);
        let mut weights = Vec::new();
        for size in 1..=sizes {
            let share = mass(size) / total;
            let count = binomial(players, size) * copies(players, size);
            if left * (share / rest) / count < 1.0 - 1e-8 {
                break;
            }
            weights.push(share / count);
            left -= count;
            rest -= share;
            complete = size;
        }
        let mut sum = 0.0;
        let chances: Vec<f64> = (complete + 1..=sizes)
            .map(|size| {
                sum += mass(size) / copies(players, size);
                sum
            })
            .collect();
        let samples = if chances.is_empty() { 0 } else { left as usize };
        Self {
            players,
            complete,
            weights,
            open: (complete + 1..=sizes).map(|size| mass(size) / total).sum(),
            chances,
            samples,
        }
    }

    /// Of a coalition of a complete size.
    fn weight(&self, shown: &[bool]) -> Option<f64> {
        let count = shown.iter().filter(|shown| **shown).count();
        let size = count.min(self.players - count);
        self.weights.get(size.checked_sub(1)?).copied()
    }

    /// Different random coalitions, each before its complement. One that is drawn again counts more.
    fn random(&self, seed: u64) -> Vec<Drawn> {
        let mut found: Vec<Drawn> = Vec::new();
        let mut known: HashMap<Coalition, usize> = HashMap::new();
        let mut pairs = 0;
        for draw in 0..TRIES * self.samples {
            if found.len() == self.samples {
                break;
            }
            let regions = self.draw(seed, draw);
            let members = copies(self.players, regions.len()) as usize;
            let mut shown = vec![false; self.players];
            regions.iter().for_each(|&region| shown[region] = true);
            match known.entry(shown) {
                Entry::Occupied(at) => {
                    let pair = found.iter_mut().skip(*at.get()).take(members);
                    pair.for_each(|drawn| drawn.times += 1.0);
                }
                Entry::Vacant(at) => {
                    let shown = at.key().clone();
                    let complement = shown.iter().map(|shown| !shown).collect();
                    at.insert(found.len());
                    let pair = [shown, complement].into_iter().take(members);
                    let left = self.samples - found.len();
                    found.extend(pair.take(left).map(|shown| Drawn {
                        shown,
                        times: 1.0,
                        half: pairs % 2,
                    }));
                    pairs += 1;
                }
            }
        }
        found
    }

    /// A random coalition of the sizes left, the smaller of the two that are asked for.
    fn draw(&self, seed: u64, sample: usize) -> Vec<usize> {
        let mut generator = generator(seed, sample as u64);
        let total = self.chances.last().copied().unwrap_or(0.0);
        let place = generator.random::<f64>() * total;
        let last = self.chances.len().saturating_sub(1);
        let at = self.chances.partition_point(|sum| *sum <= place).min(last);
        let mut order = permutation(self.players, &mut generator);
        order.truncate(self.complete + 1 + at);
        order
    }
}

/// A random coalition.
#[derive(Clone, Debug, PartialEq)]
struct Drawn {
    shown: Coalition,
    times: f64,
    /// The half of the samples that it is in, with its complement.
    half: usize,
}

/// Two where the complements of a size are of another.
fn copies(players: usize, size: usize) -> f64 {
    if 2 * size < players { 2.0 } else { 1.0 }
}

fn binomial(players: usize, size: usize) -> f64 {
    let factor = |taken: usize| (players - taken) as f64 / (taken + 1) as f64;
    (0..size).map(factor).product::<f64>().round()
}

struct KernelShap {
    sizes: Sizes,
    seed: u64,
    /// Of all regions and of none, which come first.
    ends_asked: usize,
    /// The next coalition of the complete sizes, as its regions, ascending.
    combination: Vec<usize>,
    /// The complement of the latest coalition, where it comes next.
    complement: Option<Coalition>,
    /// Drawn once the complete sizes have been asked for.
    random: Option<Vec<Drawn>>,
    random_asked: usize,
    random_answered: usize,
    /// Over the complete sizes, and how many these are.
    sums: Sums,
    enumerated: usize,
    /// Over each half of the random coalitions, with their counts for weights.
    halves: [Sums; 2],
    whole: f64,
    none: f64,
}

pub fn kernel_shap(inputs: RunInputs) -> MethodRun {
    coalitions::run(inputs, |players, parameters| {
        let sizes = Sizes::of(players, budget(parameters, players));
        KernelShap {
            combination: vec![0; usize::from(sizes.complete > 0)],
            sizes,
            seed: parameters.seed,
            ends_asked: 0,
            complement: None,
            random: None,
            random_asked: 0,
            random_answered: 0,
            sums: Sums::new(players),
            enumerated: 0,
            halves: [Sums::new(players), Sums::new(players)],
            whole: f64::NAN,
            none: f64::NAN,
        }
    })
}

impl KernelShap {
    /// The next of the complete sizes, each before its complement.
    fn combined(&mut self) -> Option<Coalition> {
        if let Some(complement) = self.complement.take() {
            return Some(complement);
        }
        if self.combination.is_empty() {
            return None;
        }
        let players = self.sizes.players;
        let mut shown = vec![false; players];
        self.combination
            .iter()
            .for_each(|&region| shown[region] = true);
        if copies(players, self.combination.len()) > 1.0 {
            self.complement = Some(shown.iter().map(|shown| !shown).collect());
        }
        self.combination = after(&self.combination, players, self.sizes.complete);
        Some(shown)
    }

    /// The values by these random coalitions, beside those of the complete sizes.
    fn solve(&self, random: &Sums) -> Constrained {
        let share = match random.weight() {
            0.0 => 0.0,
            draws => self.sizes.open / draws,
        };
        self.sums
            .plus(random, share)
            .constrained(self.none, self.whole - self.none)
    }
}

/// The combination after this one, in lexicographic order, then by size; empty after the last.
fn after(combination: &[usize], players: usize, largest: usize) -> Vec<usize> {
    let size = combination.len();
    let movable = (0..size)
        .rev()
        .find(|&at| combination[at] + size - at < players);
    match movable {
        Some(at) => {
            let start = combination[at] + 1;
            let tail = (0..size - at).map(|step| start + step);
            combination[..at].iter().copied().chain(tail).collect()
        }
        None if size < largest => (0..=size).collect(),
        None => Vec::new(),
    }
}

impl Estimate for KernelShap {
    fn next(&mut self) -> Option<Coalition> {
        if self.ends_asked < 2 {
            self.ends_asked += 1;
            return Some(vec![self.ends_asked == 1; self.sizes.players]);
        }
        self.combined().or_else(|| {
            let random = self
                .random
                .get_or_insert_with(|| self.sizes.random(self.seed));
            let drawn = random.get(self.random_asked)?;
            self.random_asked += 1;
            Some(drawn.shown.clone())
        })
    }

    fn take(&mut self, shown: &[bool], value: f64) {
        if is_full(shown) {
            self.whole = value;
        } else if !shown.contains(&true) {
            self.none = value;
        } else if let Some(weight) = self.sizes.weight(shown) {
            self.sums.add(shown, weight, value);
            self.enumerated += 1;
        } else if let Some(drawn) = self
            .random
            .as_ref()
            .and_then(|random| random.get(self.random_answered))
        {
            self.halves[drawn.half].add(shown, drawn.times, value);
            self.random_answered += 1;
        }
    }

    fn halves(&self) -> Option<Halves> {
        (self.sizes.samples > 0).then(|| Halves {
            samples: self.enumerated + self.random_answered,
            are_enough: self.random_answered >= LEAST,
            estimates: self.halves.each_ref().map(|half| self.solve(half).values),
        })
    }

    fn finish(&self) -> Estimated {
        let [even, odd] = &self.halves;
        let found = self.solve(&even.plus(odd, 1.0));
        let few = (!found.is_determined).then(|| {
            format!(
                "n_samples is too small to tell {} regions apart: raise it",
                self.sizes.players
            )
        });
        Estimated {
            values: found.values,
            standard_errors: None,
            baseline_value: Some(self.none),
            warnings: few.into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn random_coalitions_differ_and_count_as_often_as_they_were_drawn() {
        for (players, budget) in [(9, 300), (10, 700), (13, 2074), (40, 500)] {
            let sizes = Sizes::of(players, budget);
            let random = sizes.random(7);
            assert_eq!(random.len(), sizes.samples, "{players}");
            let different: HashSet<&Coalition> = random.iter().map(|drawn| &drawn.shown).collect();
            assert_eq!(different.len(), random.len(), "{players}");
            assert!(
                random
                    .iter()
                    .all(|drawn| sizes.weight(&drawn.shown).is_none())
            );
            let halves =
                [0, 1].map(|half| random.iter().filter(|drawn| drawn.half == half).count());
            assert!(
                halves.iter().all(|half| 3 * half > random.len()),
                "{halves:?}"
            );
            let again = random.iter().any(|drawn| drawn.times > 1.0);
            assert_eq!(again, players < 20, "{players}");
        }
    }
}
