//! Feature ablation: f_c(x) - f_c(x with one region at the baseline), for each region of a partition.
//! Captum's FeatureAblation with a feature mask. Cost: a forward pass for each region and baseline,
//! and one.

use super::{
    MethodRun, RunInputs,
    coalitions::{self, Coalition, Estimate, Estimated},
    parameters::Cost,
    regions::max_segments,
};

pub const COST: Cost = Cost {
    words: "at most max_segments × baselines + 1 forward passes",
    count: |p| coalitions::evaluations(max_segments(p), p),
    asks_input: |_| true,
    change: |_| None,
};

struct Ablation {
    players: usize,
    asked: usize,
    /// v of all regions, then of all but each.
    values: Vec<f64>,
}

pub fn ablation(inputs: RunInputs) -> MethodRun {
    coalitions::run(inputs, |players, _| Ablation {
        players,
        asked: 0,
        values: Vec::new(),
    })
}

impl Estimate for Ablation {
    fn next(&mut self) -> Option<Coalition> {
        let number = self.asked;
        self.asked += 1;
        // Number 0 hides none.
        (number <= self.players)
            .then(|| (1..=self.players).map(|region| region != number).collect())
    }

    fn take(&mut self, _shown: &[bool], value: f64) {
        self.values.push(value);
    }

    fn finish(&self) -> Estimated {
        let (whole, without) = match self.values.split_first() {
            Some((whole, without)) => (*whole, without),
            None => (f64::NAN, &[][..]),
        };
        Estimated {
            values: without.iter().map(|value| whole - value).collect(),
            ..Estimated::default()
        }
    }
}
