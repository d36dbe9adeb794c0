//! Derivatives at noisy inputs x + ε, ε ~ N(0, σ²), σ = noise_level (max x - min x): their mean (SmoothGrad), mean square (SmoothGrad²) and
//! variance (VarGrad), and the mean of Integrated Gradients from there (SmoothGrad-IG). Smilkov et al. 2017; Hooker et al. 2019; pgig.txt,
//! A.2 to A.4. The variance is that of the samples themselves (divided by n, as in that paper's code): SmoothGrad² = SmoothGrad ⊙ SmoothGrad + VarGrad.
//! Noise of sample k: ChaCha8(seed_value), stream k, Box-Muller. Sums run in f64 in the order of the samples.
//! Cost: n_samples evaluations, or paths. Agrees with Captum's NoiseTunnel at the same noise to 1e-6 (tests/parity).

use std::{f64::consts::TAU, iter, sync::Arc};

use ndarray::{ArrayD, Zip};
use rand::RngExt;

use super::{
    Attribution, CHUNK, Run, Step, Subject,
    parameters::Compat,
    path::{self, straight_line},
    random::generator,
    registry::Cost,
};
use crate::{
    autodiff::spec::DeriveSpec,
    engine::{Point, Row},
    tensor::Tensor,
};

pub const COST: Cost =
    Cost { words: "n_samples", count: |parameters| parameters.n_samples.get(), asks_input: |_| false };

pub const PATHS_COST: Cost = Cost {
    words: "n_samples × n_steps per baseline",
    count: |parameters| parameters.n_samples.get() * parameters.baseline.count() * path::points(parameters),
    asks_input: |_| false,
};

/// What is made of the samples' derivatives.
#[derive(Clone, Copy)]
enum Statistic {
    Mean,
    MeanSquare,
    Variance,
}

pub fn mean(subject: Subject) -> Box<dyn Run> {
    Box::new(Samples::new(subject, Statistic::Mean))
}

pub fn mean_square(subject: Subject) -> Box<dyn Run> {
    Box::new(Samples::new(subject, Statistic::MeanSquare))
}

pub fn variance(subject: Subject) -> Box<dyn Run> {
    Box::new(Samples::new(subject, Statistic::Variance))
}

pub fn mean_path(subject: Subject) -> Box<dyn Run> {
    let mut noisy = Noisy::of(&subject);
    let path = path_from(&subject, noisy.draw());
    Box::new(Paths { sums: ArrayD::zeros(subject.input.raw_dim()), noisy, path, subject })
}

/// The noisy inputs, one after another.
struct Noisy {
    input: Arc<Tensor>,
    sigma: f64,
    seed_value: u64,
    drawn: usize,
    /// Of the latest sample, in units of sigma.
    noise: ArrayD<f64>,
    /// `compat: pgig-2020`: each sample keeps the noise of those before it.
    adds_up: bool,
}

impl Noisy {
    fn of(subject: &Subject) -> Self {
        let Subject { input, parameters, .. } = subject;
        let (low, high) = input
            .iter()
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &x| (low.min(x.into()), high.max(x.into())));
        Self {
            input: input.clone(),
            sigma: parameters.noise_level * (high - low),
            seed_value: parameters.seed_value,
            drawn: 0,
            noise: ArrayD::zeros(input.raw_dim()),
            adds_up: parameters.compat == Some(Compat::Pgig2020),
        }
    }

    fn draw(&mut self) -> Arc<Tensor> {
        let drawn = normals(self.seed_value, self.drawn as u64);
        self.drawn += 1;
        for (noise, drawn) in self.noise.iter_mut().zip(drawn) {
            *noise = if self.adds_up { *noise + drawn } else { drawn };
        }
        let noisy = |&x: &f32, noise: &f64| (f64::from(x) + self.sigma * noise) as f32;
        Arc::new(Zip::from(&*self.input).and(&self.noise).map_collect(noisy))
    }
}

/// N(0, 1) without end: from two uniforms u, v in [0, 1) the pair √(-2 ln (1 - u)) (cos 2πv, sin 2πv).
fn normals(seed_value: u64, sample: u64) -> impl Iterator<Item = f64> {
    let mut generator = generator(seed_value, sample);
    let mut uniform = move || generator.random::<f64>();
    iter::repeat_with(move || {
        let (radius, angle) = ((-2.0 * (1.0 - uniform()).ln()).sqrt(), TAU * uniform());
        [radius * angle.cos(), radius * angle.sin()]
    })
    .flatten()
}

struct Samples {
    subject: Subject,
    noisy: Noisy,
    statistic: Statistic,
    answered: usize,
    /// Per element the mean of the derivatives so far, and the sum of their squared distances to it.
    means: ArrayD<f64>,
    spreads: ArrayD<f64>,
}

impl Samples {
    fn new(subject: Subject, statistic: Statistic) -> Self {
        let zeros = ArrayD::zeros(subject.input.raw_dim());
        Self { noisy: Noisy::of(&subject), statistic, answered: 0, means: zeros.clone(), spreads: zeros, subject }
    }

    fn absorb(&mut self, row: &Row) {
        self.answered += 1;
        let Some(g) = row.cotangents.first() else { return };
        Zip::from(&mut self.means).and(&mut self.spreads).and(g).for_each(|mean, spread, &g| {
            let distance = f64::from(g) - *mean;
            *mean += distance / self.answered as f64;
            *spread += distance * (f64::from(g) - *mean);
        });
    }

    fn score(&self, mean: f64, spread: f64) -> f64 {
        let variance = spread / self.answered as f64;
        match self.statistic {
            Statistic::Mean => mean,
            Statistic::MeanSquare => mean * mean + variance,
            Statistic::Variance => variance,
        }
    }
}

impl Run for Samples {
    fn spec(&self) -> DeriveSpec {
        self.subject.parameters.derive_spec()
    }

    fn step(&mut self, answers: &[Row]) -> Step {
        answers.iter().for_each(|row| self.absorb(row));
        let left = self.subject.parameters.n_samples.get() - self.noisy.drawn;
        if left > 0 {
            let seed = self.subject.seed.clone();
            let point = |_| Point { input: self.noisy.draw(), seed: seed.clone() };
            return Step::Evaluate((0..left.min(CHUNK)).map(point).collect());
        }
        let score = |&mean: &f64, &spread: &f64| self.score(mean, spread) as f32;
        Step::Done(Attribution::of(Zip::from(&self.means).and(&self.spreads).map_collect(score)))
    }
}

/// One path after another, each from a noisy input.
struct Paths {
    subject: Subject,
    noisy: Noisy,
    path: Box<dyn Run>,
    sums: ArrayD<f64>,
}

fn path_from(subject: &Subject, input: Arc<Tensor>) -> Box<dyn Run> {
    straight_line(Subject { input, input_value: None, ..subject.clone() })
}

impl Run for Paths {
    fn spec(&self) -> DeriveSpec {
        self.path.spec()
    }

    fn step(&mut self, mut answers: &[Row]) -> Step {
        let n_samples = self.subject.parameters.n_samples.get();
        loop {
            let map = match self.path.step(answers) {
                Step::Evaluate(points) => return Step::Evaluate(points),
                Step::Done(map) => map,
            };
            self.sums.zip_mut_with(&map.scores, |sum, &score| *sum += f64::from(score));
            if self.noisy.drawn == n_samples {
                break;
            }
            self.path = path_from(&self.subject, self.noisy.draw());
            answers = &[];
        }
        Step::Done(Attribution::of(self.sums.mapv(|sum| (sum / n_samples as f64) as f32)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::methods::twins::{drive, row, subject};

    /// The points that a method asks for, by sample, at x = (1, 3).
    fn points(given: Value) -> Vec<[f32; 2]> {
        let subject = subject(&given, &[1.0, 3.0], &[&[0.0, 0.0]]);
        let mut asked = Vec::new();
        drive((subject.parameters.method.build)(subject), |_, point| {
            asked.push([point.input[0], point.input[1]]);
            row(&[0.0], &[0.0, 0.0])
        });
        asked
    }

    #[test]
    fn noise_has_the_deviation_asked_for_and_repeats_by_its_seed() {
        let given = json!({"method": "smooth_grad", "n_samples": 4000, "noise_level": 0.25});
        let asked = points(given.clone());
        assert_eq!(asked, points(given));
        assert_ne!(asked[0], points(json!({"method": "smooth_grad", "noise_level": 0.25, "seed_value": 1}))[0]);
        for (at, x) in [(0, 1.0), (1, 3.0)] {
            let noise: Vec<f64> = asked.iter().map(|point| f64::from(point[at]) - x).collect();
            let mean = noise.iter().sum::<f64>() / 4000.0;
            let deviation = (noise.iter().map(|v| v * v).sum::<f64>() / 4000.0).sqrt();
            // 0.25 (3 - 1) = 0.5; standard errors 0.008 and 0.0056.
            assert!(mean.abs() < 0.03 && (deviation - 0.5).abs() < 0.025, "{mean} {deviation}");
        }
    }

    #[test]
    fn fewer_samples_are_the_first_of_more() {
        let asked = |n: usize| points(json!({"method": "smooth_grad", "n_samples": n}));
        assert_eq!(asked(5)[..], asked(70)[..5]);
    }

    #[test]
    fn compat_with_the_paper_s_code_walks() {
        let apart = points(json!({"method": "smooth_grad", "n_samples": 6}));
        let walk = points(json!({"method": "smooth_grad", "n_samples": 6, "compat": "pgig-2020"}));
        let mut at = [1.0, 3.0];
        for (step, point) in apart.iter().zip(&walk) {
            at = [at[0] + step[0] - 1.0, at[1] + step[1] - 3.0];
            assert!((at[0] - point[0]).abs() < 1e-5 && (at[1] - point[1]).abs() < 1e-5, "{at:?} {point:?}");
        }
    }

    #[test]
    fn many_samples_are_asked_for_in_chunks() {
        let given = json!({"method": "var_grad", "n_samples": 100});
        let mut run = variance(subject(&given, &[1.0, 3.0], &[]));
        let Step::Evaluate(points) = run.step(&[]) else { panic!() };
        assert_eq!(points.len(), CHUNK);
    }

    #[test]
    fn the_square_of_the_mean_and_the_variance_make_the_mean_square() {
        let map = |method: &str| {
            let subject = subject(&json!({"method": method, "n_samples": 40}), &[1.0, 3.0], &[]);
            let run = (subject.parameters.method.build)(subject);
            drive(run, |_, point| row(&[0.0], &[point.input[0].into(), f64::from(point.input[1]).powi(2)])).0.scores
        };
        let (mean, square, variance) = (map("smooth_grad"), map("smooth_grad_sq"), map("var_grad"));
        for ((mean, square), variance) in mean.iter().zip(square.iter()).zip(variance.iter()) {
            assert!((mean * mean + variance - square).abs() < 1e-4 * square && *variance > 0.0);
        }
    }
}
