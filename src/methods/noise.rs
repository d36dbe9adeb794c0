//! Derivatives at noisy inputs x + ε, ε ~ N(0, σ²), σ = noise_level (max x - min x): their mean
//! (SmoothGrad), mean square (SmoothGrad²) and variance (VarGrad), and the mean of Integrated
//! Gradients from there (SmoothGrad-IG). Smilkov et al. 2017; Hooker et al. 2019; the PGIG paper,
//! A.2 to A.4. The variance is that of the samples themselves (divided by n, as in that paper's
//! code): SmoothGrad² = SmoothGrad ⊙ SmoothGrad + VarGrad. Noise of sample k: ChaCha8(seed), stream
//! k, Box-Muller. Sums run in f64 in the order of the samples. Cost: n_samples evaluations, or
//! paths. Agrees with Captum's NoiseTunnel at the same noise to 1e-6 (tests/parity).

use std::{collections::VecDeque, num::NonZeroUsize, ops::ControlFlow, sync::Arc};

use ndarray::{ArrayD, Zip};
use serde_json::{Value, json};

use super::{
    Answers, Attribution, CHUNK, MethodRun, Run, RunInputs, Step,
    doubts::{is_zero, no_derivative_of, one_sample},
    formula::{self, Formula},
    parameters::{
        Compat, Cost, Group, Kind, Parameter, Parameters,
        common::{Preset, choose, counted},
    },
    path::{self, StraightLine},
};
use crate::{
    engine::{Point, Row},
    random::normals,
    tensor::Tensor,
};
use onnx_autodiff::onnx::graph::Literal;

/// The most samples.
pub const MAX_SAMPLES: u64 = 10_000;

/// Of methods that draw samples.
#[derive(Clone, Copy, Debug)]
pub struct SampleParameters {
    pub n_samples: NonZeroUsize,
}

impl Default for SampleParameters {
    fn default() -> Self {
        Self {
            n_samples: counted(25),
        }
    }
}

/// Of methods that add noise to the input.
#[derive(Clone, Copy, Debug)]
struct NoiseParameters {
    /// Deviation of the noise, in units of max - min of the input.
    noise_level: f64,
}

impl Default for NoiseParameters {
    fn default() -> Self {
        Self { noise_level: 0.15 }
    }
}

pub fn n_samples(parameters: &Parameters) -> usize {
    parameters.group::<SampleParameters>().n_samples.get()
}

const SAMPLE_COUNT: Parameter = Parameter {
    name: "n_samples",
    kind: Kind::Integer {
        min: 1,
        max: MAX_SAMPLES,
        set: |p, n| p.change(|samples: &mut SampleParameters| samples.n_samples = counted(n)),
    },
    doc: "The number of random samples.",
    from_model: false,
    get: |p| Some(json!(n_samples(p))),
};

/// The numbers of samples that the presets speed, balance and quality stand for.
pub fn preset_samples(
    parameters: &mut Parameters,
    preset: Value,
    counts: [u64; 3],
) -> serde_json::Result<()> {
    choose::<Preset>(preset).map(|preset| {
        let count = counted(counts[preset as usize]);
        parameters.change(|samples: &mut SampleParameters| samples.n_samples = count);
    })
}

/// For methods that draw samples.
pub static N_SAMPLES: Group = Group::of(&[SAMPLE_COUNT]);

/// For methods that add noise to the input.
pub static NOISE: Group = Group::of(&[
    SAMPLE_COUNT,
    Parameter {
        name: "noise_level",
        kind: Kind::Number {
            above: 0.0,
            max: 10.0,
            set: |p, level| p.change(|noise: &mut NoiseParameters| noise.noise_level = level),
        },
        doc: "Standard deviation of the noise, as a fraction of the input's range (max - min).",
        from_model: false,
        get: |p| Some(json!(p.group::<NoiseParameters>().noise_level)),
    },
]);

pub const COST: Cost = Cost {
    words: "n_samples",
    count: n_samples,
    asks_input: |_| false,
    change: |_| None,
};

pub const PATHS_COST: Cost = Cost {
    words: "n_samples × n_steps × baselines",
    count: |parameters| {
        n_samples(parameters) * parameters.baseline.count() * path::points(parameters)
    },
    asks_input: |_| false,
    change: |_| None,
};

/// What is made of the samples' derivatives.
#[derive(Clone, Copy)]
enum Statistic {
    Mean,
    MeanSquare,
    Variance,
}

pub fn mean(inputs: RunInputs) -> MethodRun {
    Box::new(Samples::new(inputs, Statistic::Mean))
}

pub fn mean_square(inputs: RunInputs) -> MethodRun {
    Box::new(Samples::new(inputs, Statistic::MeanSquare))
}

pub fn variance(inputs: RunInputs) -> MethodRun {
    Box::new(Samples::new(inputs, Statistic::Variance))
}

pub fn mean_path(inputs: RunInputs) -> MethodRun {
    Box::new(Paths {
        noisy: Noisy::of(&inputs),
        samples: VecDeque::new(),
        ends: VecDeque::new(),
        path: None,
        asked: Vec::new(),
        sums: ArrayD::zeros(inputs.input.raw_dim()),
        cause: None,
        inputs,
    })
}

/// The noise of all samples.
fn deviates(inputs: &RunInputs) -> formula::Noise {
    let mut noisy = Noisy::of(inputs);
    let n_samples = n_samples(&inputs.parameters);
    let mut values = Vec::with_capacity(n_samples * noisy.noise.len());
    for _ in 0..n_samples {
        noisy.next_noise();
        values.extend(noisy.noise.iter().map(|noise| *noise as f32));
    }
    let shape = [&[n_samples], inputs.input.shape()].concat();
    formula::Noise {
        level: noisy.noise_level,
        deviates: Literal::from_f32_vec(&shape, values),
    }
}

/// The noisy inputs, one after another.
struct Noisy {
    input: Arc<Tensor>,
    noise_level: f64,
    sigma: f64,
    seed: u64,
    drawn: usize,
    /// Of the latest sample, in units of sigma.
    noise: ArrayD<f64>,
    /// `compat: pgig-2020`: each sample keeps the noise of those before it.
    adds_up: bool,
    /// Whether any sample differed from the input.
    moved: bool,
}

impl Noisy {
    fn of(inputs: &RunInputs) -> Self {
        let RunInputs {
            input, parameters, ..
        } = inputs;
        let (low, high) = input
            .iter()
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &x| {
                (low.min(x.into()), high.max(x.into()))
            });
        let NoiseParameters { noise_level } = parameters.group();
        Self {
            input: input.clone(),
            noise_level,
            sigma: noise_level * (high - low),
            seed: parameters.seed,
            drawn: 0,
            noise: ArrayD::zeros(input.raw_dim()),
            adds_up: parameters.compat == Some(Compat::Pgig2020),
            moved: false,
        }
    }

    /// Draws the noise of the next sample.
    fn next_noise(&mut self) {
        let drawn = normals(self.seed, self.drawn as u64);
        self.drawn += 1;
        for (noise, drawn) in self.noise.iter_mut().zip(drawn) {
            *noise = if self.adds_up { *noise + drawn } else { drawn };
        }
    }

    fn draw(&mut self) -> Arc<Tensor> {
        self.next_noise();
        let noisy = |&x: &f32, noise: &f64| (f64::from(x) + self.sigma * noise) as f32;
        let sample = Zip::from(&*self.input).and(&self.noise).map_collect(noisy);
        self.moved |= sample != *self.input;
        Arc::new(sample)
    }

    /// Samples that are the input itself.
    fn stillness(&self) -> Option<String> {
        let message = match self.sigma == 0.0 {
            true => {
                "the input is the same everywhere, so noise_level (times its range) gives no noise"
                    .to_owned()
            }
            false => format!(
                "noise_level={} is too small to change the input",
                self.noise_level
            ),
        };
        (!self.moved).then_some(message)
    }
}

struct Samples {
    inputs: RunInputs,
    noisy: Noisy,
    statistic: Statistic,
    answered: usize,
    /// Per element the mean of the derivatives so far, and the sum of their squared distances to
    /// it.
    means: ArrayD<f64>,
    spreads: ArrayD<f64>,
}

impl Samples {
    fn new(inputs: RunInputs, statistic: Statistic) -> Self {
        let zeros = ArrayD::zeros(inputs.input.raw_dim());
        Self {
            noisy: Noisy::of(&inputs),
            statistic,
            answered: 0,
            means: zeros.clone(),
            spreads: zeros,
            inputs,
        }
    }

    fn absorb(&mut self, row: &Row) {
        self.answered += 1;
        let Some(g) = row.cotangents.first() else {
            return;
        };
        Zip::from(&mut self.means)
            .and(&mut self.spreads)
            .and(g)
            .for_each(|mean, spread, &g| {
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

    /// With what a reader should know.
    fn told(&self, mut attribution: Attribution) -> Attribution {
        let parameters = &self.inputs.parameters;
        let still = self.noisy.stillness();
        if let Statistic::Variance = self.statistic {
            let one = (n_samples(parameters) == 1)
                .then_some("the variance of one sample is zero: raise n_samples");
            attribution.cause = one.map(str::to_owned).or(still);
        } else {
            attribution
                .warnings
                .extend(one_sample(n_samples(parameters)).into_iter().chain(still));
        }
        if attribution.cause.is_none() && is_zero(&attribution.scores) {
            attribution.cause = Some(self.cause());
        }
        attribution
    }

    /// Why every score is zero, of several samples that differ.
    fn cause(&self) -> String {
        let zero = |values: &ArrayD<f64>| values.iter().all(|value| *value == 0.0);
        match (zero(&self.means), zero(&self.spreads), self.statistic) {
            (true, true, _) => no_derivative_of(&self.inputs.parameters, "at every sample"),
            (false, true, Statistic::Variance) => {
                "the derivative is the same at every sample".to_owned()
            }
            (true, false, Statistic::Mean) => {
                "the derivatives of the samples cancel out".to_owned()
            }
            _ => "every score is smaller than float32 can hold".to_owned(),
        }
    }
}

impl Run for Samples {
    type Output = Attribution;

    fn step(&mut self, answers: Answers) -> Step<Attribution> {
        answers.rows().iter().for_each(|row| self.absorb(row));
        let left = n_samples(&self.inputs.parameters) - self.noisy.drawn;
        if left > 0 {
            let seed = self.inputs.seed.clone();
            let point = |_| Point {
                input: self.noisy.draw(),
                seed: seed.clone(),
            };
            let points = (0..left.min(CHUNK)).map(point).collect();
            return self.inputs.ask(points);
        }
        let score = |&mean: &f64, &spread: &f64| self.score(mean, spread) as f32;
        Step::Done(self.told(Attribution::of(
            Zip::from(&self.means).and(&self.spreads).map_collect(score),
        )))
    }

    fn formula(&self) -> Option<Formula> {
        let n_samples = n_samples(&self.inputs.parameters);
        let sample = |place| formula::Sample {
            baseline: 0,
            noise: place,
            alpha: 1.0,
            weight: 1.0 / n_samples as f64,
        };
        Some(Formula::Samples(formula::Samples {
            points: (0..n_samples).map(sample).collect(),
            rows: 1,
            baselines: None,
            noise: Some(deviates(&self.inputs)),
            statistic: match self.statistic {
                Statistic::Mean => formula::Statistic::Sum,
                Statistic::MeanSquare => formula::Statistic::SumOfSquares,
                Statistic::Variance => formula::Statistic::Variance,
            },
        }))
    }
}

/// One path after another, each to a noisy input. Where paths ask for their ends, those of many are
/// asked for together first: other methods ask for the same points then.
struct Paths {
    inputs: RunInputs,
    noisy: Noisy,
    /// Noisy inputs whose paths are not at their end, and the rows there; the first is under way.
    samples: VecDeque<Arc<Tensor>>,
    ends: VecDeque<Row>,
    path: Option<StraightLine>,
    /// Of each point that the path waits for, whether it is its end.
    asked: Vec<bool>,
    sums: ArrayD<f64>,
    /// Why the first map is zero, if it is.
    cause: Option<String>,
}

impl Paths {
    /// The next noisy inputs, and their points where paths ask for them.
    fn draw(&mut self) -> Vec<Point> {
        let left = n_samples(&self.inputs.parameters) - self.noisy.drawn;
        self.samples = (0..left.min(CHUNK)).map(|_| self.noisy.draw()).collect();
        let samples = self
            .samples
            .iter()
            .filter(|_| (path::COST.asks_input)(&self.inputs.parameters));
        samples
            .map(|sample| Point {
                input: sample.clone(),
                seed: self.inputs.seed.clone(),
            })
            .collect()
    }

    /// The rows that the path waits for.
    fn rows_of_path(&self, others: Vec<Row>) -> Vec<Row> {
        let mut others = others.into_iter();
        let rows = self.asked.iter().map(|is_end| {
            if *is_end {
                self.ends.front().cloned()
            } else {
                others.next()
            }
        });
        rows.flatten().collect()
    }

    fn mean(&self) -> Attribution {
        let count = n_samples(&self.inputs.parameters);
        let mut attribution = Attribution::of(self.sums.mapv(|sum| (sum / count as f64) as f32));
        attribution
            .warnings
            .extend(one_sample(count).into_iter().chain(self.noisy.stillness()));
        attribution.cause = self.cause.clone().filter(|_| is_zero(&attribution.scores));
        attribution
    }
}

impl Run for Paths {
    type Output = Attribution;

    fn step(&mut self, answers: Answers) -> Step<Attribution> {
        let mut rows = match self.path {
            Some(_) => self.rows_of_path(answers.rows()),
            None => {
                self.ends = answers.rows().into();
                Vec::new()
            }
        };
        let n_samples = n_samples(&self.inputs.parameters);
        loop {
            if self.samples.is_empty() && self.noisy.drawn == n_samples {
                return Step::Done(self.mean());
            }
            if self.samples.is_empty() {
                let points = self.draw();
                if !points.is_empty() {
                    return self.inputs.ask(points);
                }
            }
            let Some(sample) = self.samples.front() else {
                continue;
            };
            let start = || {
                StraightLine::new(RunInputs {
                    input: sample.clone(),
                    input_value: None,
                    ..self.inputs.clone()
                })
            };
            match self.path.get_or_insert_with(start).advance(&rows) {
                ControlFlow::Continue(points) => {
                    let is_end =
                        |point: &Point| !self.ends.is_empty() && Arc::ptr_eq(&point.input, sample);
                    self.asked = points.iter().map(is_end).collect();
                    let others: Vec<Point> =
                        points.into_iter().filter(|point| !is_end(point)).collect();
                    if !others.is_empty() {
                        return self.inputs.ask(others);
                    }
                    rows = self.rows_of_path(Vec::new());
                }
                ControlFlow::Break(map) => {
                    self.cause = self.cause.take().or(map.cause);
                    self.sums
                        .zip_mut_with(&map.scores, |sum, &score| *sum += f64::from(score));
                    self.samples.pop_front();
                    self.ends.pop_front();
                    self.path = None;
                    rows = Vec::new();
                }
            }
        }
    }

    fn formula(&self) -> Option<Formula> {
        let n_samples = n_samples(&self.inputs.parameters);
        let share = 1.0 / n_samples as f64;
        let points = (0..n_samples).flat_map(|noise| path::samples(&self.inputs, noise, share));
        Some(Formula::Samples(formula::Samples {
            points: points.collect(),
            rows: 1,
            baselines: formula::stacked(&self.inputs.baselines),
            noise: Some(deviates(&self.inputs)),
            statistic: path::statistic(&self.inputs.parameters),
        }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::methods::reference::{drive, inputs, points_of, row};

    /// The points that a method asks for, by sample, at x = (1, 3).
    fn points(given: Value) -> Vec<[f32; 2]> {
        let inputs = inputs(&given, &[1.0, 3.0], &[&[0.0, 0.0]]);
        let mut asked = Vec::new();
        drive((inputs.parameters.method.build)(inputs), |_, point| {
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
        assert_ne!(
            asked[0],
            points(json!({"method": "smooth_grad", "noise_level": 0.25, "seed": 1}))[0]
        );
        for (at, x) in [(0, 1.0), (1, 3.0)] {
            let noise: Vec<f64> = asked.iter().map(|point| f64::from(point[at]) - x).collect();
            let mean = noise.iter().sum::<f64>() / 4000.0;
            let deviation = (noise.iter().map(|v| v * v).sum::<f64>() / 4000.0).sqrt();
            // 0.25 (3 - 1) = 0.5; standard errors 0.008 and 0.0056.
            assert!(
                mean.abs() < 0.03 && (deviation - 0.5).abs() < 0.025,
                "{mean} {deviation}"
            );
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
            assert!(
                (at[0] - point[0]).abs() < 1e-5 && (at[1] - point[1]).abs() < 1e-5,
                "{at:?} {point:?}"
            );
        }
    }

    #[test]
    fn paths_ask_first_for_the_points_of_smooth_grad() {
        let ends = points(json!({"method": "smooth_grad", "n_samples": 40}));
        let given = |rule: &str| json!({"method": "smooth_grad_ig", "n_samples": 40, "n_steps": 3, "quadrature": rule});
        let asked = points(given("riemann_right"));
        assert_eq!(asked.len(), 120);
        assert_eq!(
            (&asked[..CHUNK], &asked[3 * CHUNK..][..40 - CHUNK]),
            (&ends[..CHUNK], &ends[CHUNK..])
        );
        // No path of midpoints asks for its end.
        let asked = points(given("riemann_midpoint"));
        assert!(asked.len() == 120 && ends.iter().all(|end| !asked.contains(end)));
    }

    #[test]
    fn the_mean_of_paths_is_the_mean_of_the_gradient_s_integrals() {
        for rule in [
            "riemann_right",
            "riemann_left",
            "riemann_trapezoid",
            "gauss_legendre",
        ] {
            let given = json!({"method": "smooth_grad_ig", "n_samples": 35, "n_steps": 2, "quadrature": rule});
            let inputs = inputs(&given, &[1.0, 3.0], &[&[0.0, 1.0], &[0.5, 0.5]]);
            let path: path::PathParameters = inputs.parameters.group();
            let run = mean_path(inputs.clone());
            let found = drive(run, |_, point| row(&[0.0], &[point.input[0].into(), 2.0]))
                .0
                .scores;
            let (mut noisy, mut expected) = (Noisy::of(&inputs), [0.0; 2]);
            for _ in 0..35 {
                let x = noisy.draw();
                for start in &inputs.baselines {
                    for node in path.quadrature.nodes(path.n_steps) {
                        let [x, start] = [&x, start].map(|at| [f64::from(at[0]), f64::from(at[1])]);
                        let at = start[0] + node.alpha * (x[0] - start[0]);
                        expected[0] += node.weight * at * (x[0] - start[0]) / 70.0;
                        expected[1] += node.weight * 2.0 * (x[1] - start[1]) / 70.0;
                    }
                }
            }
            for (found, expected) in found.iter().zip(expected) {
                assert!(
                    (f64::from(*found) - expected).abs() < 1e-5,
                    "{rule}: {found} for {expected}"
                );
            }
        }
    }

    #[test]
    fn many_samples_are_asked_for_in_chunks() {
        let given = json!({"method": "var_grad", "n_samples": 100});
        let mut run = variance(inputs(&given, &[1.0, 3.0], &[]));
        assert_eq!(points_of(run.step(Answers::none())).len(), CHUNK);
    }

    #[test]
    fn the_square_of_the_mean_and_the_variance_make_the_mean_square() {
        let map = |method: &str| {
            let inputs = inputs(
                &json!({"method": method, "n_samples": 40}),
                &[1.0, 3.0],
                &[],
            );
            let run = (inputs.parameters.method.build)(inputs);
            drive(run, |_, point| {
                row(
                    &[0.0],
                    &[point.input[0].into(), f64::from(point.input[1]).powi(2)],
                )
            })
            .0
            .scores
        };
        let (mean, square, variance) = (map("smooth_grad"), map("smooth_grad_sq"), map("var_grad"));
        for ((mean, square), variance) in mean.iter().zip(square.iter()).zip(variance.iter()) {
            assert!((mean * mean + variance - square).abs() < 1e-4 * square && *variance > 0.0);
        }
    }
}
