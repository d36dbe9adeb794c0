//! Expected Gradients: the mean over samples of (x - x') ⊙ g(x' + α (x - x')), x' drawn from the
//! baselines, α ~ U(0, 1). Erion et al. 2019; the PGIG paper, A.5. Sample k draws two uniforms u, v
//! of ChaCha8(seed), stream k: baseline ⌊u · count⌋ and α = v. Cost: n_samples evaluations. Agrees
//! with Captum's gradient at the same baselines and α to 1e-6 (tests/parity).

use std::sync::Arc;

use ndarray::{ArrayD, Zip};
use rand::RngExt;

use super::{
    Answers, Attribution, CHUNK, MethodRun, Run, RunInputs, Step,
    doubts::{Starts, is_zero, one_sample},
    formula::{Formula, Sample, Samples, Statistic, stacked},
    noise::{SampleParameters, n_samples},
    parameters::{Cost, Parameters, common::counted},
    path::between,
};
use crate::{engine::Point, picture::baseline::Term, random::generator};

pub const COST: Cost = Cost {
    words: "n_samples",
    count: n_samples,
    asks_input: |_| false,
    change: |_| None,
};

/// One baseline for each sample, on average.
pub fn preset(parameters: &mut Parameters) {
    parameters.change(|samples: &mut SampleParameters| samples.n_samples = counted(49));
    parameters.baseline = Term::Random(49).into();
}

struct Expected {
    inputs: RunInputs,
    asked: usize,
    answered: usize,
    sums: ArrayD<f64>,
    /// Whether every derivative so far was zero.
    no_derivative: bool,
}

pub fn expected_derivative(inputs: RunInputs) -> MethodRun {
    let sums = ArrayD::zeros(inputs.input.raw_dim());
    Box::new(Expected {
        sums,
        asked: 0,
        answered: 0,
        no_derivative: true,
        inputs,
    })
}

impl Expected {
    /// The baseline's place and α of a sample.
    fn draw(&self, sample: usize) -> (usize, f64) {
        let count = self.inputs.baselines.len();
        let mut generator = generator(self.inputs.parameters.seed, sample as u64);
        let place = (generator.random::<f64>() * count as f64) as usize;
        (place.min(count - 1), generator.random())
    }
}

impl Run for Expected {
    type Output = Attribution;

    fn step(&mut self, answers: Answers) -> Step<Attribution> {
        for row in answers.rows() {
            let start = self.inputs.baselines[self.draw(self.answered).0].clone();
            self.answered += 1;
            let Some(g) = row.cotangents.first() else {
                continue;
            };
            self.no_derivative &= is_zero(g);
            Zip::from(&mut self.sums)
                .and(&*self.inputs.input)
                .and(&*start)
                .and(g)
                .for_each(|sum, &x, &start, &g| {
                    *sum += (f64::from(x) - f64::from(start)) * f64::from(g);
                });
        }
        let RunInputs {
            input,
            seed,
            parameters,
            ..
        } = &self.inputs;
        let n_samples = n_samples(parameters);
        if self.asked < n_samples {
            let samples = self.asked..n_samples.min(self.asked + CHUNK);
            self.asked = samples.end;
            let point = |sample| {
                let (start, alpha) = self.draw(sample);
                Point {
                    input: Arc::new(between(&self.inputs.baselines[start], input, alpha)),
                    seed: seed.clone(),
                }
            };
            return self.inputs.ask(samples.map(point).collect());
        }
        let mut attribution =
            Attribution::of(self.sums.mapv(|sum| (sum / n_samples as f64) as f32));
        let starts = Starts::of(&self.inputs);
        let is_zero = is_zero(&attribution.scores);
        attribution.cause = is_zero.then(|| starts.cause(parameters, self.no_derivative));
        attribution.warnings.extend(
            starts
                .warning(is_zero)
                .into_iter()
                .chain(one_sample(n_samples)),
        );
        if parameters
            .baseline
            .terms()
            .iter()
            .any(|term| matches!(term, Term::Random(_)))
        {
            attribution.warnings.push(
                "the baselines are random noise; name a data set: baseline=dataset:<id>:49"
                    .to_owned(),
            );
        }
        Step::Done(attribution)
    }

    fn formula(&self) -> Option<Formula> {
        let n_samples = n_samples(&self.inputs.parameters);
        let sample = |place| {
            let (baseline, alpha) = self.draw(place);
            Sample {
                baseline,
                noise: 0,
                alpha,
                weight: 1.0 / n_samples as f64,
            }
        };
        Some(Formula::Samples(Samples {
            points: (0..n_samples).map(sample).collect(),
            rows: 1,
            baselines: stacked(&self.inputs.baselines),
            noise: None,
            statistic: Statistic::SumOfWays,
        }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::methods::reference::{drive, inputs, row};

    const X: [f32; 2] = [1.0, 3.0];

    #[test]
    fn every_baseline_is_drawn_and_alphas_fill_the_interval() {
        let given = json!({"method": "expected_gradients", "n_samples": 2000, "baseline": "zero"});
        let starts: [&[f32]; 4] = [&[0.0, 0.0], &[10.0, 0.0], &[20.0, 0.0], &[30.0, 0.0]];
        let (mut counts, mut alphas) = ([0; 4], Vec::new());
        drive(
            expected_derivative(inputs(&given, &X, &starts)),
            |_, point| {
                let alpha = point.input[1] / X[1];
                let start = (point.input[0] - alpha * X[0]) / (1.0 - alpha);
                if alpha < 0.99 {
                    counts[(start / 10.0).round() as usize] += 1;
                }
                alphas.push(alpha);
                row(&[0.0], &[0.0, 0.0])
            },
        );
        assert!(alphas.iter().all(|alpha| (0.0..1.0).contains(alpha)));
        // Standard errors: 0.0065 of the mean, 19 of the counts.
        assert!((alphas.iter().sum::<f32>() / 2000.0 - 0.5).abs() < 0.026);
        assert!(
            counts.iter().all(|count| (400..600).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn a_linear_function_gives_its_weights_times_the_way() {
        let given = json!({"method": "expected_gradients", "baseline": "zero"});
        let (map, _) = drive(
            expected_derivative(inputs(&given, &X, &[&[0.5, 1.0]])),
            |_, _| row(&[0.0], &[2.0, -1.0]),
        );
        assert!(
            (map.scores[0] - 1.0).abs() < 1e-6
                && (map.scores[1] + 2.0).abs() < 1e-6
                && map.warnings.is_empty()
        );
    }
}
