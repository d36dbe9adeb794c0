//! Integrated Gradients: (x - x') ⊙ Σ w_k g(x' + α_k (x - x')), averaged over baselines x'; g by
//! any rule set. Sundararajan et al. 2017; Eq. 1 and Eq. 4 of the PGIG paper. Sums run in f64 in
//! index order. Cost per baseline: one evaluation per point, and f(x'), f(x) where they are needed
//! and no point of the rule lies there.

use std::{num::NonZeroUsize, ops::ControlFlow, sync::Arc};

use ndarray::{ArrayD, Zip};
use serde::Deserialize;
use serde_json::json;

use super::{
    Answers, Attribution, CHUNK, EndedBy, MethodRun, Refinement, Run, RunInputs, Step, Went,
    doubts::{Starts, is_zero, large_error, no_derivative_of},
    formula::{Formula, Sample, Samples, Statistic, stacked},
    head_value,
    parameters::{
        Compat, Cost, Group, Kind, Parameter, Parameters,
        common::{choose, counted},
    },
    quadrature::{Node, Quadrature},
};
use crate::{
    engine::{Point, Row},
    faults::Fault,
    tensor::Tensor,
};
use onnx_autodiff::autodiff::spec::{RuleSetId, SeedRule};

/// A tolerance starts with this many midpoints, and each refinement has thrice as many: every third
/// one is known already.
const COARSEST: NonZeroUsize = NonZeroUsize::new(8).unwrap();
const REFINE: usize = 3;

/// The most points on a path.
const MAX_STEPS: u64 = 10_000;

/// How a path is integrated.
#[derive(Clone, Copy, Debug)]
pub struct PathParameters {
    /// Points per baseline.
    pub n_steps: NonZeroUsize,
    pub quadrature: Quadrature,
    pub multiply_by_inputs: bool,
    /// Refine until the approximation error is below this, instead of `n_steps`.
    pub tolerance: Option<f64>,
    /// Most points per baseline under `tolerance`.
    pub max_steps: usize,
}

impl Default for PathParameters {
    fn default() -> Self {
        Self {
            n_steps: counted(25),
            quadrature: Quadrature::RiemannRight,
            multiply_by_inputs: true,
            tolerance: None,
            max_steps: 216,
        }
    }
}

impl PathParameters {
    /// Points and rule where no tolerance chooses them.
    fn steps(&self) -> Option<(NonZeroUsize, Quadrature)> {
        self.tolerance
            .is_none()
            .then_some((self.n_steps, self.quadrature))
    }
}

/// Whether the path that a method takes sums to f(x) - f(x'), but for the error of its quadrature.
pub fn is_complete(parameters: &Parameters) -> bool {
    parameters.method.takes("tolerance")
        && parameters.rule_set == Some(RuleSetId::Gradient)
        && parameters.grad_output == SeedRule::One
        && parameters.group::<PathParameters>().multiply_by_inputs
}

/// `quality` comes first: what it presets can be overridden one by one.
pub static PATH: Group = Group {
    parameters: &[
        Parameter {
            name: "quality",
            kind: Kind::Choice {
                allowed: &["fast", "paper", "fine"],
                set: |p, value| {
                    choose(value).map(|quality| {
                        let (n_steps, quadrature) = match quality {
                            Quality::Fast => (8, Quadrature::RiemannMidpoint),
                            Quality::Paper => (25, Quadrature::RiemannRight),
                            Quality::Fine => (50, Quadrature::RiemannMidpoint),
                        };
                        p.change(|path: &mut PathParameters| {
                            path.n_steps = counted(n_steps);
                            path.quadrature = quadrature;
                        });
                    })
                },
            },
            doc: "Sets n_steps and quadrature: fast is 8 and riemann_midpoint, paper 25 and riemann_right, fine 50 and riemann_midpoint.",
            from_model: false,
            get: |_| None,
        },
        Parameter {
            name: "n_steps",
            kind: Kind::Integer {
                min: 1,
                max: MAX_STEPS,
                set: |p, n| p.change(|path: &mut PathParameters| path.n_steps = counted(n)),
            },
            doc: "The number of points on the path, for each baseline.",
            from_model: false,
            get: |p| {
                p.group::<PathParameters>()
                    .steps()
                    .map(|(n_steps, _)| json!(n_steps))
            },
        },
        Parameter {
            name: "quadrature",
            kind: Kind::Choice {
                allowed: &[
                    "riemann_left",
                    "riemann_right",
                    "riemann_midpoint",
                    "riemann_trapezoid",
                    "gauss_legendre",
                ],
                set: |p, value| {
                    choose(value).map(|quadrature| {
                        p.change(|path: &mut PathParameters| path.quadrature = quadrature)
                    })
                },
            },
            doc: "The quadrature rule of the path integral; riemann_right is Eq. 1 of the PGIG paper.",
            from_model: false,
            get: |p| {
                p.group::<PathParameters>()
                    .steps()
                    .map(|(_, quadrature)| json!(quadrature))
            },
        },
        Parameter {
            name: "multiply_by_inputs",
            kind: Kind::Boolean {
                set: |p, multiply| {
                    p.change(|path: &mut PathParameters| path.multiply_by_inputs = multiply)
                },
            },
            doc: "Whether the averaged gradient is multiplied by (x - x').",
            from_model: false,
            get: |p| Some(json!(p.group::<PathParameters>().multiply_by_inputs)),
        },
    ],
    from_model: |_, _| (),
    check: |p, _, _, faults| {
        let path = p.group::<PathParameters>();
        if p.compat != Some(Compat::Pgig2020) {
            return;
        }
        if path.tolerance.is_some() {
            faults.push(Fault::says(
                "tolerance",
                "cannot be met by compat pgig-2020, which leaves out a term",
            ));
        }
        if path.quadrature != Quadrature::RiemannRight {
            faults.push(Fault::new(
                "quadrature",
                "compat pgig-2020 knows one rule",
                ["riemann_right"],
            ));
        }
        if path.n_steps.get() == 1 {
            faults.push(Fault::new(
                "n_steps",
                "compat pgig-2020 leaves out the only term",
                ["2 to 10000"],
            ));
        }
    },
};

/// For paths whose completeness gap measures their error.
pub static TOLERANCE: Group = Group {
    parameters: &[
        Parameter {
            name: "tolerance",
            kind: Kind::Number {
                above: 0.0,
                max: 1.0,
                set: |p, tolerance| {
                    p.change(|path: &mut PathParameters| path.tolerance = Some(tolerance))
                },
            },
            doc: "Instead of n_steps: riemann_midpoint with 8 points, tripled until approximation_error is below this value.",
            from_model: false,
            get: |p| {
                p.group::<PathParameters>()
                    .tolerance
                    .map(|tolerance| json!(tolerance))
            },
        },
        Parameter {
            name: "max_steps",
            kind: Kind::Integer {
                min: 8,
                max: MAX_STEPS,
                set: |p, n| p.change(|path: &mut PathParameters| path.max_steps = n as usize),
            },
            doc: "With tolerance: the most points on the path, for each baseline.",
            from_model: false,
            get: |p| {
                let path = p.group::<PathParameters>();
                path.tolerance.map(|_| json!(path.max_steps))
            },
        },
    ],
    from_model: |_, _| (),
    check: |p, given, _, faults| {
        if p.group::<PathParameters>().tolerance.is_some() {
            for name in ["n_steps", "quadrature", "quality"] {
                if given.contains_key(name) {
                    let message = "is chosen by the tolerance: give one or the other";
                    faults.push(Fault::says(name, message));
                }
            }
            if !is_complete(p) {
                faults.push(Fault::says(
                    "tolerance",
                    "needs a map that sums to f(x) - f(x'): grad_output one and multiply_by_inputs true",
                ));
            }
        } else if given.contains_key("max_steps") && !given.contains_key("tolerance") {
            let message = "limits a tolerance, and none is given";
            faults.push(Fault::says("max_steps", message));
        }
    },
};

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Quality {
    Fast,
    Paper,
    Fine,
}

pub const COST: Cost = Cost {
    words: "n_steps × baselines (max_steps under a tolerance), plus up to 1 forward pass per baseline and 1 for the input",
    count: |parameters| {
        let points = nodes(parameters);
        let path = parameters.group::<PathParameters>();
        let steps = if path.tolerance.is_some() {
            last_level(path.max_steps)
        } else {
            points.len()
        };
        let start = is_complete(parameters) && !points.iter().any(|node| node.alpha == 0.0);
        parameters.baseline.count() * (steps + usize::from(start))
    },
    asks_input: |parameters| nodes(parameters).iter().any(|node| node.alpha == 1.0),
    change: |_| None,
};

/// Under `compat: pgig-2020` Eq. 1 without its last term, as its code has it: the weights sum to (m
/// - 1) / m.
fn nodes(parameters: &Parameters) -> Vec<Node> {
    let Some((n_steps, quadrature)) = parameters.group::<PathParameters>().steps() else {
        return Quadrature::RiemannMidpoint.nodes(COARSEST);
    };
    let mut nodes = quadrature.nodes(n_steps);
    if parameters.compat == Some(Compat::Pgig2020) {
        nodes.pop();
    }
    nodes
}

/// Points of a run from one baseline, its ends for their values alone left out.
pub fn points(parameters: &Parameters) -> usize {
    nodes(parameters).len()
}

fn last_level(max_steps: usize) -> usize {
    let mut level = COARSEST.get();
    while level * REFINE <= max_steps {
        level *= REFINE;
    }
    level
}

/// One evaluation: a point of the path from one baseline. Weight 0 asks for the head's value alone.
struct Ask {
    baseline: usize,
    alpha: f64,
    weight: f64,
}

pub struct StraightLine {
    inputs: RunInputs,
    path: PathParameters,
    /// Whether the scores sum to f(x) - f(x').
    is_complete: bool,
    asks: Vec<Ask>,
    answered: usize,
    /// Σ w g per baseline, over all that was answered.
    sums: Vec<ArrayD<f64>>,
    /// What the weights in `sums` add up to.
    total_weight: f64,
    /// Points per baseline so far.
    n_steps: usize,
    input_value: Option<f64>,
    /// f(x') per baseline, where asked for.
    baseline_values: Vec<f64>,
}

pub fn straight_line(inputs: RunInputs) -> MethodRun {
    Box::new(StraightLine::new(inputs))
}

impl Run for StraightLine {
    type Output = Attribution;

    fn step(&mut self, answers: Answers) -> Step<Attribution> {
        match self.advance(&answers.rows()) {
            ControlFlow::Continue(points) => self.inputs.ask(points),
            ControlFlow::Break(attribution) => Step::Done(attribution),
        }
    }

    fn formula(&self) -> Option<Formula> {
        let baselines = &self.inputs.baselines;
        (self.path.tolerance.is_none()).then_some(())?;
        Some(Formula::Samples(Samples {
            points: samples(&self.inputs, 0, 1.0).collect(),
            rows: 1,
            baselines: stacked(baselines),
            noise: None,
            statistic: statistic(&self.inputs.parameters),
        }))
    }
}

/// The points of the paths to one end, whose noise stands at this place, with the weights of their
/// derivatives in a sum where each end has this share.
pub(super) fn samples(
    inputs: &RunInputs,
    noise: usize,
    share: f64,
) -> impl Iterator<Item = Sample> + use<> {
    let nodes = nodes(&inputs.parameters);
    let share = share / inputs.baselines.len() as f64;
    (0..inputs.baselines.len()).flat_map(move |baseline| {
        let sample = |node: &Node| Sample {
            baseline,
            noise,
            alpha: node.alpha,
            weight: node.weight * share,
        };
        nodes.iter().map(sample).collect::<Vec<_>>()
    })
}

/// What a path makes of the derivatives.
pub(super) fn statistic(parameters: &Parameters) -> Statistic {
    match parameters.group::<PathParameters>().multiply_by_inputs {
        true => Statistic::SumOfWays,
        false => Statistic::Sum,
    }
}

impl StraightLine {
    pub fn new(inputs: RunInputs) -> Self {
        let parameters = &inputs.parameters;
        let nodes = nodes(parameters);
        let is_complete = is_complete(parameters);
        let end = |alpha: f64| {
            (is_complete && !nodes.iter().any(|node| node.alpha == alpha)).then_some(alpha)
        };
        let mut asks = Vec::new();
        for baseline in 0..inputs.baselines.len() {
            asks.extend(end(0.0).map(|alpha| Ask {
                baseline,
                alpha,
                weight: 0.0,
            }));
            asks.extend(nodes.iter().map(|node| Ask {
                baseline,
                alpha: node.alpha,
                weight: node.weight,
            }));
        }
        if inputs.input_value.is_none() {
            asks.extend(end(1.0).map(|alpha| Ask {
                baseline: 0,
                alpha,
                weight: 0.0,
            }));
        }
        Self {
            sums: vec![ArrayD::zeros(inputs.input.raw_dim()); inputs.baselines.len()],
            total_weight: 1.0,
            n_steps: nodes.len(),
            input_value: inputs.input_value,
            baseline_values: Vec::new(),
            answered: 0,
            asks,
            path: parameters.group(),
            is_complete,
            inputs,
        }
    }

    /// The next points, or the map once all were answered; `rows` are those of the points before.
    pub fn advance(&mut self, rows: &[Row]) -> ControlFlow<Attribution, Vec<Point>> {
        self.absorb(rows);
        if self.answered == self.asks.len() {
            let attribution = self.attribution();
            let Some(tolerance) = self.path.tolerance else {
                return ControlFlow::Break(self.told(attribution));
            };
            if meets(&attribution, tolerance) {
                return ControlFlow::Break(self.refined(attribution, EndedBy::Tolerance));
            }
            if self.n_steps * REFINE > self.path.max_steps {
                return ControlFlow::Break(self.refined(attribution, EndedBy::MaxSteps));
            }
            self.refine();
        }
        let next = self.asks.iter().skip(self.answered).take(CHUNK);
        ControlFlow::Continue(next.map(|ask| self.point(ask)).collect())
    }

    fn absorb(&mut self, answers: &[Row]) {
        let RunInputs {
            seed, parameters, ..
        } = &self.inputs;
        for (ask, row) in self.asks.iter().skip(self.answered).zip(answers) {
            if ask.alpha == 1.0 && self.input_value.is_none() {
                self.input_value = Some(head_value(row, parameters.head, seed));
            }
            if ask.alpha == 0.0 && self.is_complete {
                self.baseline_values
                    .push(head_value(row, parameters.head, seed));
            }
            if ask.weight > 0.0
                && let Some(g) = row.cotangents.first()
            {
                self.sums[ask.baseline]
                    .zip_mut_with(g, |sum, &g| *sum += ask.weight * f64::from(g));
            }
        }
        self.answered += answers.len();
    }

    /// The ends of the path are the very tensors given; without a seed where only the head's value
    /// is of interest.
    fn point(&self, ask: &Ask) -> Point {
        let (x, start) = (&self.inputs.input, &self.inputs.baselines[ask.baseline]);
        let input = if ask.alpha == 1.0 {
            x.clone()
        } else if ask.alpha == 0.0 {
            start.clone()
        } else {
            Arc::new(between(start, x, ask.alpha))
        };
        let seed = if ask.weight > 0.0 {
            self.inputs.seed.clone()
        } else {
            Arc::new([])
        };
        Point { input, seed }
    }

    /// The map of all that was answered.
    fn attribution(&self) -> Attribution {
        let RunInputs {
            input, baselines, ..
        } = &self.inputs;
        let scale = 1.0 / (self.total_weight * baselines.len() as f64);
        let mut scores = ArrayD::<f64>::zeros(input.raw_dim());
        for (sums, start) in self.sums.iter().zip(baselines) {
            Zip::from(&mut scores)
                .and(sums)
                .and(&**input)
                .and(&**start)
                .for_each(|score, sum, &x, &start| {
                    let length = if self.path.multiply_by_inputs {
                        f64::from(x) - f64::from(start)
                    } else {
                        1.0
                    };
                    *score += length * sum * scale;
                });
        }
        let mut attribution = Attribution::of(scores.mapv(|score| score as f32));
        attribution.input_value = self.input_value;
        if let Some(input_value) = self.input_value
            && self.is_complete
        {
            let baseline_value =
                self.baseline_values.iter().sum::<f64>() / self.baseline_values.len() as f64;
            let difference = input_value - baseline_value;
            let delta = scores.iter().sum::<f64>() - difference;
            attribution.baseline_value = Some(baseline_value);
            attribution.convergence_delta = Some(delta);
            attribution.approximation_error =
                (difference != 0.0).then(|| (delta / difference).abs());
        }
        attribution
    }

    /// With what a reader should know.
    fn told(&self, mut attribution: Attribution) -> Attribution {
        let parameters = &self.inputs.parameters;
        if self.path.multiply_by_inputs {
            let starts = Starts::of(&self.inputs);
            let no_derivative = self
                .sums
                .iter()
                .all(|sums| sums.iter().all(|sum| *sum == 0.0));
            let is_zero = is_zero(&attribution.scores);
            attribution.cause = is_zero.then(|| starts.cause(parameters, no_derivative));
            attribution.warnings.extend(starts.warning(is_zero));
            if self.path.tolerance.is_none() && !starts.are_input() {
                attribution
                    .warnings
                    .extend(large_error(&attribution, parameters));
            }
        } else {
            let along = || no_derivative_of(parameters, "all along the path");
            attribution.cause = is_zero(&attribution.scores).then(along);
        }
        attribution
    }

    fn refined(&self, attribution: Attribution, ended_by: EndedBy) -> Attribution {
        let mut attribution = self.told(attribution);
        if ended_by == EndedBy::MaxSteps {
            let steps = self.n_steps;
            attribution.warnings.push(format!(
                "the tolerance was not reached with {steps} steps; raise max_steps"
            ));
        }
        attribution.refinement = Some(Refinement {
            went: Went::NSteps(self.n_steps),
            ended_by,
        });
        attribution
    }

    /// The midpoints of thirds: each old midpoint is the middle one of its three. New points weigh
    /// as much as the old ones, so that the weights add up to three times as much.
    fn refine(&mut self) {
        let (coarse, fine) = (self.n_steps, self.n_steps * REFINE);
        let weight = self.total_weight / coarse as f64;
        let alphas = (0..fine)
            .filter(|k| k % REFINE != 1)
            .map(|k| (k as f64 + 0.5) / fine as f64);
        self.asks = (0..self.sums.len())
            .flat_map(|baseline| {
                alphas.clone().map(move |alpha| Ask {
                    baseline,
                    alpha,
                    weight,
                })
            })
            .collect();
        self.answered = 0;
        self.n_steps = fine;
        self.total_weight *= REFINE as f64;
    }
}

/// x' + α (x - x').
pub fn between(start: &Tensor, x: &Tensor, alpha: f64) -> Tensor {
    Zip::from(x).and(start).map_collect(|&x, &start| {
        let (x, start) = (f64::from(x), f64::from(start));
        (start + alpha * (x - start)) as f32
    })
}

fn meets(attribution: &Attribution, tolerance: f64) -> bool {
    attribution.convergence_delta == Some(0.0)
        || attribution
            .approximation_error
            .is_some_and(|error| error < tolerance)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::methods::reference::{drive, inputs, points_of, row};

    /// f = 5x + y² + sin z and its gradient.
    fn formula(point: &[f64]) -> (f64, Vec<f64>) {
        let [x, y, z] = point else { panic!() };
        (5.0 * x + y * y + z.sin(), vec![5.0, 2.0 * y, z.cos()])
    }

    fn explain(
        given: Value,
        x: &[f32],
        baselines: &[&[f32]],
        f: fn(&[f64]) -> (f64, Vec<f64>),
    ) -> (Attribution, usize) {
        let mut given = given;
        given["method"] = json!("integrated_gradients");
        drive(straight_line(inputs(&given, x, baselines)), |_, point| {
            let point: Vec<f64> = point.input.iter().map(|&v| f64::from(v)).collect();
            let (value, gradient) = f(&point);
            row(&[value], &gradient)
        })
    }

    const X: &[f32] = &[1.0, 2.0, 3.0];
    const START: &[f32] = &[0.5, 1.0, 1.0];

    fn closed_form() -> [f64; 3] {
        [2.5, 3.0, 3f64.sin() - 1f64.sin()]
    }

    fn worst(scores: &Tensor, expected: &[f64]) -> f64 {
        scores
            .iter()
            .zip(expected)
            .map(|(&score, e)| (f64::from(score) - e).abs())
            .fold(0.0, f64::max)
    }

    #[test]
    fn a_sum_of_terms_has_its_closed_form() {
        for (quadrature, n, tolerance) in [
            ("gauss_legendre", 8, 1e-6),
            ("riemann_midpoint", 1000, 1e-5),
            ("riemann_trapezoid", 1000, 1e-5),
            ("riemann_right", 10_000, 2e-4),
            ("riemann_left", 10_000, 2e-4),
        ] {
            let (map, _) = explain(
                json!({"quadrature": quadrature, "n_steps": n}),
                X,
                &[START],
                formula,
            );
            assert!(
                worst(&map.scores, &closed_form()) < tolerance,
                "{quadrature}: {}",
                map.scores
            );
        }
    }

    #[test]
    fn equivalent_nets_have_equal_maps() {
        fn relu(v: f64) -> (f64, f64) {
            (v.max(0.0), f64::from(u8::from(v > 0.0)))
        }
        fn first(p: &[f64]) -> (f64, Vec<f64>) {
            let ((a, da), (b, db)) = (relu(p[0]), relu(p[1]));
            let (y, dy) = relu(a - 1.0 - b);
            (y, vec![dy * da, -dy * db])
        }
        fn second(p: &[f64]) -> (f64, Vec<f64>) {
            let ((a, da), (b, db)) = (relu(p[0] - 1.0), relu(p[1]));
            let (y, dy) = relu(a - b);
            (y, vec![dy * da, -dy * db])
        }
        let given = json!({"n_steps": 4000, "quadrature": "riemann_midpoint"});
        let maps =
            [first, second].map(|net| explain(given.clone(), &[3.0, 1.0], &[&[0.0, 0.0]], net).0);
        assert_eq!(maps[0].scores, maps[1].scores);
        assert!(
            worst(&maps[0].scores, &[1.5, -0.5]) < 1e-3,
            "{}",
            maps[0].scores
        );
    }

    #[test]
    fn several_baselines_are_averaged() {
        let other: &[f32] = &[0.0, 0.0, 2.0];
        let given = json!({"quadrature": "gauss_legendre", "n_steps": 8});
        let (both, _) = explain(given.clone(), X, &[START, other], formula);
        let (one, two) = (
            explain(given.clone(), X, &[START], formula).0,
            explain(given, X, &[other], formula).0,
        );
        let mean: Vec<f64> = one
            .scores
            .iter()
            .zip(two.scores.iter())
            .map(|(a, b)| f64::from(a + b) / 2.0)
            .collect();
        assert!(worst(&both.scores, &mean) < 1e-6);
        let start = (formula(&[0.5, 1.0, 1.0]).0 + formula(&[0.0, 0.0, 2.0]).0) / 2.0;
        assert!((both.baseline_value.unwrap() - start).abs() < 1e-6);
        assert!(both.approximation_error.unwrap() < 1e-6);
    }

    #[test]
    fn the_gap_shrinks_with_n_steps() {
        let gap = |n: usize| {
            let (map, _) = explain(json!({"n_steps": n}), X, &[START], formula);
            let delta = map.convergence_delta.unwrap();
            let sum: f64 = map.scores.iter().map(|&score| f64::from(score)).sum();
            assert!(
                (sum - (map.input_value.unwrap() - map.baseline_value.unwrap()) - delta).abs()
                    < 1e-6
            );
            delta.abs()
        };
        let gaps = [5, 10, 25, 50, 100, 400].map(gap);
        assert!(
            gaps.windows(2).all(|pair| pair[1] < 0.6 * pair[0]),
            "{gaps:?}"
        );
    }

    #[test]
    fn an_end_of_the_path_is_evaluated_once() {
        let counts: [(Value, usize, usize, usize); 8] = [
            (json!({}), 1, 26, 0),
            (json!({"quadrature": "riemann_left"}), 1, 26, 0),
            (json!({"quadrature": "riemann_trapezoid"}), 1, 25, 0),
            (json!({"quadrature": "riemann_midpoint"}), 1, 27, 0),
            (json!({"quadrature": "gauss_legendre"}), 2, 2 * 26 + 1, 0),
            (
                json!({"grad_output": "value", "quadrature": "riemann_midpoint"}),
                1,
                25,
                1,
            ),
            (json!({"multiply_by_inputs": false}), 1, 25, 0),
            (json!({"n_steps": 100}), 2, 202, 0),
        ];
        // The last: f(x) for the predictions alone, which the driver asks for.
        for (given, baselines, expected, by_driver) in counts {
            let (_, count) = explain(given.clone(), X, &vec![START; baselines], formula);
            assert_eq!(count, expected, "{given}");
            assert_eq!(cost(given, baselines), expected + by_driver);
        }
    }

    #[test]
    fn compat_with_the_paper_s_code_leaves_out_the_last_term() {
        let given = json!({"compat": "pgig-2020", "n_steps": 4});
        let (map, count) = explain(given.clone(), X, &[START], formula);
        let mut expected = [0.0; 3];
        for k in 1..4 {
            let at = [0, 1, 2].map(|i| f64::from(START[i] + k as f32 / 4.0 * (X[i] - START[i])));
            let gradient = formula(&at).1;
            expected
                .iter_mut()
                .zip(X.iter().zip(START).zip(gradient))
                .for_each(|(sum, ((x, start), g))| {
                    *sum += f64::from(x - start) * g / 4.0;
                });
        }
        assert!(worst(&map.scores, &expected) < 1e-6, "{}", map.scores);
        assert_eq!((count, cost(given, 1)), (3 + 2, 3 + 2));
    }

    fn cost(mut given: Value, baselines: usize) -> usize {
        given["method"] = json!("integrated_gradients");
        given["baseline"] = json!(vec!["zero"; baselines].join("+"));
        inputs(&given, X, &[]).parameters.cost(false)
    }

    #[test]
    fn a_tolerance_refines_until_it_is_met_and_keeps_every_point() {
        let (map, count) = explain(json!({"tolerance": 1e-4}), X, &[START], formula);
        assert_eq!(
            map.refinement,
            Some(Refinement {
                went: Went::NSteps(24),
                ended_by: EndedBy::Tolerance
            })
        );
        assert_eq!(count, 24 + 2);
        assert!(map.approximation_error.unwrap() < 1e-4 && map.warnings.is_empty());
        let given = json!({"n_steps": 24, "quadrature": "riemann_midpoint"});
        assert!(
            (map.convergence_delta.unwrap()
                - explain(given, X, &[START], formula)
                    .0
                    .convergence_delta
                    .unwrap())
            .abs()
                < 1e-12
        );
    }

    #[test]
    fn max_steps_ends_a_refinement_and_says_so() {
        let (map, count) = explain(
            json!({"tolerance": 1e-12, "max_steps": 100}),
            X,
            &[START, START],
            formula,
        );
        assert_eq!(
            map.refinement,
            Some(Refinement {
                went: Went::NSteps(72),
                ended_by: EndedBy::MaxSteps
            })
        );
        assert_eq!(map.warnings.len(), 1);
        let promised = cost(json!({"tolerance": 1e-12, "max_steps": 100}), 2);
        assert_eq!((count, promised), (2 * 73 + 1, 2 * 73 + 1));
    }

    #[test]
    fn a_long_path_asks_in_chunks() {
        let given = json!({"method": "integrated_gradients", "n_steps": 100});
        let mut run = straight_line(inputs(&given, X, &[START]));
        assert_eq!(points_of(run.step(Answers::none())).len(), CHUNK);
    }

    #[test]
    fn a_value_already_known_is_not_asked_for() {
        let given = json!({"method": "integrated_gradients", "quadrature": "riemann_midpoint", "n_steps": 5});
        let inputs = RunInputs {
            input_value: Some(7.0),
            ..inputs(&given, X, &[START])
        };
        let (map, count) = drive(straight_line(inputs), |_, _| row(&[1.0], &[0.0, 0.0, 0.0]));
        assert_eq!(
            (count, map.input_value, map.convergence_delta),
            (6, Some(7.0), Some(-6.0))
        );
    }

    #[test]
    fn without_multiplication_the_averaged_gradient_remains_and_no_gap() {
        let given =
            json!({"multiply_by_inputs": false, "quadrature": "gauss_legendre", "n_steps": 8});
        let (map, _) = explain(given, X, &[START], formula);
        let expected: Vec<f64> = closed_form()
            .iter()
            .zip(X.iter().zip(START))
            .map(|(ig, (x, s))| ig / f64::from(x - s))
            .collect();
        assert!(worst(&map.scores, &expected) < 1e-6);
        assert_eq!(
            (
                map.baseline_value,
                map.convergence_delta,
                map.approximation_error
            ),
            (None, None, None)
        );
    }
}
