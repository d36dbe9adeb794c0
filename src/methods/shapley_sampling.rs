//! Shapley values by sampling: the mean, over random orders, of v with a region and those before it
//! minus v with those before it alone. Castro et al. 2009, section 3. The
//! standard error is that of the mean over the orders. Order k: ChaCha8(seed), stream k, by Fisher
//! and Yates. Cost: n_samples × (regions - 1) forward passes for each baseline, and those of all
//! regions and of none. Agrees with Captum at the same orders to 1e-6 (tests/parity).

use super::{
    MethodRun, RunInputs,
    coalitions::{self, Coalition, Estimate, Estimated, is_full, permutation},
    doubts::one_sample,
    halves::Halves,
    noise::{n_samples, preset_samples},
    parameters::{Cost, Group, common::preset},
    regions::max_segments,
};
use crate::random::generator;

/// The halves of fewer orders are not compared.
const LEAST: usize = 8;

pub static PRESET: Group = Group::of(&[preset(
    "Sets n_samples of shapley_sampling: speed is 10, balance 25, quality 100.",
    |p, value| preset_samples(p, value, [10, 25, 100]),
)]);

pub const COST: Cost = Cost {
    words: "at most (n_samples × (max_segments - 1) + 1) × baselines + 1 forward passes",
    count: |p| {
        let inner = n_samples(p) * (max_segments(p) - 1);
        coalitions::evaluations(inner + 1, p)
    },
    asks_input: |_| true,
    change: |_| None,
};

struct Orders {
    players: usize,
    samples: usize,
    seed: u64,
    asked: Order,
    answered: Order,
    /// v of all regions, of none, and of those before in the order that is answered.
    whole: f64,
    none: f64,
    before: f64,
    /// By region: the gain in the order that is answered.
    gains: Vec<f64>,
    /// By region, over the orders that are answered: the mean gain, the sum of the squared distances
    /// to it, and the sum over the orders of even number.
    means: Vec<f64>,
    spreads: Vec<f64>,
    evens: Vec<f64>,
    count: usize,
}

/// A place among the coalitions: first all regions, then none, then the orders from one region to
/// all but one.
#[derive(Default)]
struct Order {
    /// Of those before.
    number: usize,
    order: Vec<usize>,
}

pub fn sampled(inputs: RunInputs) -> MethodRun {
    coalitions::run(inputs, |players, parameters| Orders {
        players,
        samples: n_samples(parameters),
        seed: parameters.seed,
        asked: Order::default(),
        answered: Order::default(),
        whole: f64::NAN,
        none: f64::NAN,
        before: f64::NAN,
        gains: vec![0.0; players],
        means: vec![0.0; players],
        spreads: vec![0.0; players],
        evens: vec![0.0; players],
        count: 0,
    })
}

impl Order {
    /// Which order comes next and how many of its regions are shown; none for the first two.
    fn advance(&mut self, players: usize, seed: u64) -> Option<(usize, usize)> {
        let number = self.number;
        self.number += 1;
        let inner = players.saturating_sub(1).max(1);
        let (sample, shown) = (number.checked_sub(2)? / inner, (number - 2) % inner + 1);
        if shown == 1 {
            self.order = permutation(players, &mut generator(seed, sample as u64));
        }
        Some((sample, shown))
    }
}

impl Orders {
    /// What the region at this place of the order adds to those before it.
    fn gains(&mut self, place: usize, value: f64) {
        if let Some(&region) = self.answered.order.get(place) {
            self.gains[region] = value - self.before;
        }
        self.before = value;
    }

    /// Takes the order that is answered.
    fn add_order(&mut self) {
        let is_even = self.count.is_multiple_of(2);
        self.count += 1;
        for (region, &gain) in self.gains.iter().enumerate() {
            let distance = gain - self.means[region];
            self.means[region] += distance / self.count as f64;
            self.spreads[region] += distance * (gain - self.means[region]);
            if is_even {
                self.evens[region] += gain;
            }
        }
    }
}

impl Estimate for Orders {
    fn next(&mut self) -> Option<Coalition> {
        let number = self.asked.number;
        let Some((sample, count)) = self.asked.advance(self.players, self.seed) else {
            return Some(vec![number == 0; self.players]);
        };
        // A single region has no inner coalitions.
        if sample >= self.samples || self.players < 2 {
            return None;
        }
        let mut shown = vec![false; self.players];
        self.asked.order[..count]
            .iter()
            .for_each(|&region| shown[region] = true);
        Some(shown)
    }

    fn take(&mut self, shown: &[bool], value: f64) {
        let Some((_, count)) = self.answered.advance(self.players, self.seed) else {
            match is_full(shown) {
                true => self.whole = value,
                false => self.none = value,
            }
            return;
        };
        if count == 1 {
            self.before = self.none;
        }
        self.gains(count - 1, value);
        if count + 1 == self.players {
            self.gains(count, self.whole);
            self.add_order();
        }
    }

    fn halves(&self) -> Option<Halves> {
        let evens = self.count.div_ceil(2) as f64;
        let odds = self.count as f64 - evens;
        let pairs = || self.means.iter().zip(&self.evens);
        let odd = |(mean, even): (&f64, &f64)| (mean * self.count as f64 - even) / odds;
        Some(Halves {
            samples: self.count,
            are_enough: self.count >= LEAST,
            estimates: [
                pairs().map(|(_, even)| even / evens).collect(),
                pairs().map(odd).collect(),
            ],
        })
    }

    fn finish(&self) -> Estimated {
        let count = self.count as f64;
        let error = |spread: &f64| (spread / (count - 1.0) / count).sqrt();
        let (values, errors) = match self.players {
            1 => (vec![self.whole - self.none], Some(vec![0.0])),
            _ => {
                let errors = || self.spreads.iter().map(error).collect();
                (self.means.clone(), (self.count > 1).then(errors))
            }
        };
        Estimated {
            values,
            standard_errors: errors,
            baseline_value: Some(self.none),
            warnings: one_sample(self.samples).into_iter().collect(),
        }
    }
}
