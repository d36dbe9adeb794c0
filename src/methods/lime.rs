//! LIME for images: the coefficients of a ridge regression of f_c on which regions are shown, over
//! random coalitions, the first of them all regions. Ribeiro et al. 2016, section 3.4, as the
//! package `lime` computes it: each region shown with probability 1/2; weights √exp(-d² /
//! kernel_width²), d the cosine distance from all regions; penalty 1, none on the intercept; a
//! hidden region has its mean colour. Sample k draws one bit of ChaCha8(seed), stream k, for each
//! region. Cost: n_samples forward passes for each baseline. Agrees with the package at the same
//! coalitions to 1e-6 (tests/parity).

use rand::RngExt;
use serde_json::json;

use super::{
    CHUNK, MethodRun, RunInputs,
    coalitions::{self, Coalition, Estimate, Estimated},
    halves::Halves,
    noise::{SampleParameters, n_samples, preset_samples},
    parameters::{
        Cost, Group, Kind, Parameter, Parameters,
        common::{self, counted},
    },
    regression::Sums,
};
use crate::{picture::baseline::Term, random::generator};

/// The penalty of the regression.
const ALPHA: f64 = 1.0;
/// Of R²: below, the line says little of the target.
const POOR: f64 = 0.25;

#[derive(Clone, Copy, Debug)]
struct KernelParameters {
    kernel_width: f64,
}

impl Default for KernelParameters {
    fn default() -> Self {
        Self { kernel_width: 0.25 }
    }
}

pub static KERNEL: Group = Group::of(&[Parameter {
    name: "kernel_width",
    kind: Kind::Number {
        above: 0.0,
        max: 100.0,
        set: |p, width| p.change(|kernel: &mut KernelParameters| kernel.kernel_width = width),
    },
    doc: "The width of the exponential kernel over the cosine distance from the input, by which samples are weighted.",
    from_model: false,
    get: |p| Some(json!(p.group::<KernelParameters>().kernel_width)),
}]);

/// The samples of `preset=balance`.
const BALANCE: u64 = 1000;
/// Halves of fewer samples are not compared.
const LEAST: usize = 4 * CHUNK;

pub static PRESET: Group = Group::of(&[common::preset(
    "Sets n_samples of lime: speed is 250, balance 1000, quality 4000.",
    |p, value| preset_samples(p, value, [BALANCE / 4, BALANCE, BALANCE * 4]),
)]);

pub const COST: Cost = Cost {
    words: "(n_samples - 1) × baselines + 1 forward passes (at most, under a tolerance)",
    count: |p| coalitions::evaluations(n_samples(p) - 1, p),
    asks_input: |_| true,
    change: |_| None,
};

pub fn preset(parameters: &mut Parameters) {
    parameters.change(|samples: &mut SampleParameters| samples.n_samples = counted(BALANCE));
    parameters.baseline = Term::SegmentMean.into();
}

struct Lime {
    players: usize,
    samples: usize,
    seed: u64,
    kernel_width: f64,
    asked: usize,
    answered: usize,
    /// Over the samples of even number, and over the others.
    sums: [Sums; 2],
}

pub fn lime(inputs: RunInputs) -> MethodRun {
    coalitions::run(inputs, |players, parameters| Lime {
        players,
        samples: n_samples(parameters),
        seed: parameters.seed,
        kernel_width: parameters.group::<KernelParameters>().kernel_width,
        asked: 0,
        answered: 0,
        sums: [Sums::new(players), Sums::new(players)],
    })
}

/// The weight of a coalition.
pub fn weight(shown: &[bool], kernel_width: f64) -> f64 {
    let count = shown.iter().filter(|shown| **shown).count();
    let distance = 1.0 - (count as f64 / shown.len() as f64).sqrt();
    (-(distance / kernel_width).powi(2)).exp().sqrt()
}

impl Estimate for Lime {
    fn next(&mut self) -> Option<Coalition> {
        let sample = self.asked;
        if sample >= self.samples {
            return None;
        }
        self.asked += 1;
        let mut generator = generator(self.seed, sample as u64);
        let shown = (0..self.players).map(|_| generator.random::<bool>() || sample == 0);
        Some(shown.collect())
    }

    fn take(&mut self, shown: &[bool], value: f64) {
        let weight = weight(shown, self.kernel_width);
        self.sums[self.answered % 2].add(shown, weight, value);
        self.answered += 1;
    }

    fn halves(&self) -> Option<Halves> {
        Some(Halves {
            samples: self.answered,
            are_enough: self.answered >= LEAST,
            estimates: self.sums.each_ref().map(|sums| sums.ridge(ALPHA).values),
        })
    }

    fn finish(&self) -> Estimated {
        let [even, odd] = &self.sums;
        let found = even.plus(odd, 1.0).ridge(ALPHA);
        let few = (1 < self.answered && self.answered <= self.players).then(|| {
            format!(
                "n_samples={} is no more than the regions, of which there are {}: the penalty decides much; raise it",
                self.answered, self.players
            )
        });
        let poor = (1 < self.samples && found.score < POOR).then(|| {
            format!(
                "the linear model explains R² = {:.2} of the target's variance over the samples: the map is a rough sketch",
                found.score
            )
        });
        Estimated {
            warnings: few.into_iter().chain(poor).collect(),
            values: found.values,
            ..Estimated::default()
        }
    }
}
