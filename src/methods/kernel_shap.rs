//! KernelSHAP: Shapley values as the weighted least squares of v on which regions are shown, the
//! values summing to v(all) - v(none). Lundberg & Lee 2017, section 4.1 (Theorem 2). Coalitions as
//! the package `shap` chooses them: sizes from the outside in, whole sizes while the budget of
//! n_samples reaches, each coalition with its complement; then random ones of the sizes left, which
//! share the kernel's weight of these. When all coalitions fit, the values are the Shapley values.
//! Sample k: ChaCha8(seed), stream k, a uniform for the size and an order whose first regions are
//! shown. Cost: n_samples forward passes for each baseline, and those of all regions and of none.

use std::num::NonZeroUsize;

use rand::RngExt;
use serde_json::json;

use super::{
    MethodRun, RunInputs,
    coalitions::{self, Coalition, Estimate, Estimated, is_full, permutation},
    noise::MAX_SAMPLES,
    parameters::{Cost, Group, Kind, Parameter, Parameters, common::counted},
    regions::max_segments,
    regression::Sums,
};
use crate::random::generator;

/// Up to so many regions all coalitions are taken by default.
const COMPLETE: usize = 12;

/// How many coalitions beside those of all regions and of none; none: by the number of regions.
#[derive(Clone, Copy, Debug, Default)]
struct CoalitionParameters {
    n_samples: Option<NonZeroUsize>,
}

pub static COALITIONS: Group = Group::of(&[Parameter {
    name: "n_samples",
    kind: Kind::Integer {
        min: 1,
        max: MAX_SAMPLES,
        set: |p, n| {
            p.change(|coalitions: &mut CoalitionParameters| {
                coalitions.n_samples = Some(counted(n))
            });
        },
    },
    doc: "The number of coalitions of regions, beside all and none. Of M regions there are 2^M - 2, and no more are taken: then the values \
          are exact. By default all up to 12 regions, else 2 M + 2048.",
    from_model: false,
    get: |p| {
        let CoalitionParameters { n_samples } = p.group();
        n_samples.map(|n| json!(n))
    },
}]);

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
    /// By size, from 1: the weight of one coalition of this size or of the size of its complement.
    weights: Vec<f64>,
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
            let count = choose(players, size) * copies(players, size);
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
        let open: f64 = (complete + 1..=sizes).map(|size| mass(size) / total).sum();
        weights.resize(sizes, open / samples as f64);
        Self {
            players,
            complete,
            weights,
            chances,
            samples,
        }
    }

    fn weight(&self, shown: &[bool]) -> f64 {
        let count = shown.iter().filter(|shown| **shown).count();
        let size = count.min(self.players - count);
        size.checked_sub(1)
            .and_then(|at| self.weights.get(at))
            .copied()
            .unwrap_or(0.0)
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

/// Two where the complements of a size are of another.
fn copies(players: usize, size: usize) -> f64 {
    if 2 * size < players { 2.0 } else { 1.0 }
}

fn choose(players: usize, size: usize) -> f64 {
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
    drawn: usize,
    given: usize,
    /// The complement of the latest coalition, where it comes next.
    complement: Option<Coalition>,
    sums: Sums,
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
            drawn: 0,
            given: 0,
            complement: None,
            sums: Sums::new(players),
            whole: f64::NAN,
            none: f64::NAN,
        }
    })
}

impl KernelShap {
    /// The next of the complete sizes.
    fn combined(&mut self) -> Option<Vec<usize>> {
        if self.combination.is_empty() {
            return None;
        }
        let found = self.combination.clone();
        self.combination = after(&found, self.sizes.players, self.sizes.complete);
        Some(found)
    }

    /// A random one, its complement after it while samples are left.
    fn drawn(&mut self) -> Option<Vec<usize>> {
        if self.given >= self.sizes.samples {
            return None;
        }
        let found = self.sizes.draw(self.seed, self.drawn);
        self.drawn += 1;
        self.given += 1;
        Some(found)
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
        let players = self.sizes.players;
        if self.ends_asked < 2 {
            self.ends_asked += 1;
            return Some(vec![self.ends_asked == 1; players]);
        }
        if let Some(complement) = self.complement.take() {
            return Some(complement);
        }
        let combined = self.combined();
        let is_random = combined.is_none();
        let regions = combined.or_else(|| self.drawn())?;
        let mut shown = vec![false; players];
        regions.iter().for_each(|&region| shown[region] = true);
        let has_other = copies(players, regions.len()) > 1.0;
        if has_other && (!is_random || self.given < self.sizes.samples) {
            self.given += usize::from(is_random);
            self.complement = Some(shown.iter().map(|shown| !shown).collect());
        }
        Some(shown)
    }

    fn take(&mut self, shown: &[bool], value: f64) {
        if is_full(shown) {
            self.whole = value;
        } else if !shown.contains(&true) {
            self.none = value;
        } else {
            self.sums.add(shown, self.sizes.weight(shown), value);
        }
    }

    fn finish(&self) -> Estimated {
        let found = self.sums.constrained(self.none, self.whole - self.none);
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
