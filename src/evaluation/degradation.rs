//! Image degradation: the patches with the highest scores are replaced one after another, and the
//! score of the class is followed. The PGIG paper, section 5. The curve has `steps` + 1 values, the
//! clean input's first. Cost: `steps` evaluations of the forward graph. `compat: pgig-2020` does as
//! the published code: the first patch of the ranking is never replaced, and of the others only
//! channels whose mean is above 0. The input keeps the model's own size and channel order.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    patches::{Grid, Score},
    score,
};
use crate::{
    methods::{Answers, Question, Run, Step},
    model::Model,
    picture::{
        ImageError,
        baseline::{Baseline, Material},
        preprocess::Preprocess,
    },
    tensor::Tensor,
};

/// Degraded inputs asked for at once.
const CHUNK: usize = 16;

/// What a degradation is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameters {
    /// Patches along each side.
    pub grid: usize,
    /// Patches replaced.
    pub steps: usize,
    pub order: Order,
    pub replacement: Replacement,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compat: Option<Compat>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    Descending,
    /// Least important first.
    Ascending,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Replacement {
    /// The patch's own mean of each channel.
    Mean,
    /// 0 in the model's input space.
    Zero,
    /// The image blurred by a Gaussian of 10 pixels.
    Blur,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compat {
    #[serde(rename = "pgig-2020")]
    Pgig2020,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            grid: 25,
            steps: 100,
            order: Order::Descending,
            replacement: Replacement::Mean,
            compat: None,
        }
    }
}

impl Parameters {
    /// The largest `steps` that the grid has patches for.
    pub fn max_steps(&self) -> usize {
        (self.grid * self.grid).saturating_sub(self.spared())
    }

    /// Patches at the top of a ranking that are left alone.
    fn spared(&self) -> usize {
        usize::from(self.compat.is_some())
    }

    /// What the patches of `input` become.
    pub fn fill(
        &self,
        input: &Tensor,
        grid: &Grid,
        rule: &Preprocess,
    ) -> Result<Tensor, ImageError> {
        match self.replacement {
            Replacement::Mean => {
                Ok(grid.flatten(input, |mean| self.compat.is_some() && mean <= 0.0))
            }
            Replacement::Zero => Ok(Tensor::zeros(input.raw_dim())),
            Replacement::Blur => {
                let material = Material {
                    preprocess: Some(rule),
                    ..Material::default()
                };
                let blurred = "blur:10"
                    .parse::<Baseline>()?
                    .resolve(input, &material)?
                    .into_iter()
                    .next();
                Ok(blurred.unwrap_or_else(|| input.clone()))
            }
        }
    }

    pub fn rank(&self, grid: &Grid, scores: &Tensor, score: Score) -> Option<Vec<usize>> {
        grid.rank(scores, score, self.order == Order::Ascending)
    }
}

/// One image, and one ranking of its patches.
#[derive(Clone, Debug)]
pub struct Subject {
    pub model: Arc<Model>,
    pub input: Arc<Tensor>,
    /// What replaced patches look like, in the shape of the input.
    pub fill: Arc<Tensor>,
    pub grid: Arc<Grid>,
    /// The class that is followed, and its score on the clean input.
    pub class: usize,
    pub clean: f64,
    /// All patches, the first to go first.
    pub ranking: Vec<usize>,
    pub parameters: Arc<Parameters>,
}

struct Degrading {
    subject: Subject,
    /// The input as the last point asked for has it.
    degraded: Tensor,
    asked: usize,
    curve: Vec<f64>,
}

pub fn build(subject: Subject) -> Box<dyn Run<Output = Vec<f64>>> {
    let curve = vec![subject.clean];
    Box::new(Degrading {
        degraded: subject.input.as_ref().clone(),
        asked: 0,
        curve,
        subject,
    })
}

impl Run for Degrading {
    type Output = Vec<f64>;

    fn step(&mut self, answers: Answers) -> Step<Vec<f64>> {
        let Subject {
            model,
            fill,
            grid,
            class,
            ranking,
            parameters,
            ..
        } = &self.subject;
        self.curve
            .extend(answers.rows().iter().map(|row| score(row, *class)));
        let order = ranking.get(parameters.spared()..).unwrap_or_default();
        let end = parameters.steps.min(order.len());
        let next = &order[self.asked.min(end)..end.min(self.asked + CHUNK)];
        if next.is_empty() {
            return Step::Done(std::mem::take(&mut self.curve));
        }
        self.asked += next.len();
        let inputs = next.iter().map(|patch| {
            grid.cut_mut(&mut self.degraded, *patch)
                .assign(&grid.cut(fill, *patch));
            Arc::new(self.degraded.clone())
        });
        Step::Ask(vec![Question::nearby(model, inputs)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::{Point, Row},
        methods::reference::points_of,
        picture::preprocess::{Channels, Filter, Layout, Resize},
    };

    fn rule(side: u32) -> Preprocess {
        Preprocess {
            width: side,
            height: side,
            layout: Layout::Nchw,
            channels: Channels::Rgb,
            scale: 1.0,
            mean: vec![0.0],
            std: vec![1.0],
            resize: Resize::Stretch,
            filter: Filter::Nearest,
        }
    }

    fn noise(shape: &[usize], mut state: u32) -> Tensor {
        Tensor::from_shape_simple_fn(shape.to_vec(), || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
    }

    fn subject(
        input: Tensor,
        scores: &Tensor,
        score: Score,
        parameters: Parameters,
        net: &dyn Fn(&Tensor) -> f64,
    ) -> Subject {
        let grid = Grid::new(input.shape(), Layout::Nchw, parameters.grid).unwrap();
        let fill = parameters
            .fill(&input, &grid, &rule(input.shape()[1] as u32))
            .unwrap();
        Subject {
            model: Arc::new(Model::bare("net", Default::default())),
            clean: net(&input),
            class: 1,
            fill: Arc::new(fill),
            ranking: parameters.rank(&grid, scores, score).unwrap(),
            grid: Arc::new(grid),
            input: Arc::new(input),
            parameters: Arc::new(parameters),
        }
    }

    /// Drives a run over a plain function, and looks at how much it asks for at once.
    fn drive(subject: Subject, net: &dyn Fn(&Tensor) -> f64) -> Vec<f64> {
        let mut run = build(subject);
        let mut answers = Answers::none();
        loop {
            let points = match run.step(answers) {
                Step::Done(curve) => return curve,
                asking => points_of(asking),
            };
            assert!(!points.is_empty() && points.len() <= CHUNK);
            let row = |point: &Point| Row {
                logits: vec![0.0, 0.0],
                probabilities: vec![0.0, net(&point.input) as f32],
                ..Row::default()
            };
            answers = points.iter().map(row).collect::<Vec<_>>().into();
        }
    }

    fn close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len(), "{found:?} {expected:?}");
        // Scores travel as f32.
        assert!(
            found
                .iter()
                .zip(expected)
                .all(|(a, b)| (a - b).abs() <= 2e-6 * (1.0 + b.abs())),
            "{found:?} {expected:?}"
        );
    }

    #[test]
    fn a_hand_worked_image_degrades_as_worked_by_hand() {
        // 2 x 2 patches of 2 x 1 pixels (height 4, width 2), one channel; the net reads the top
        // pixel of each column.
        let input =
            Tensor::from_shape_vec(vec![1, 4, 2], vec![8.0, 2.0, 0.0, 4.0, 1.0, 1.0, 3.0, 5.0])
                .unwrap();
        let scores =
            Tensor::from_shape_vec(vec![1, 4, 2], vec![1.0, 3.0, 1.0, 3.0, 0.0, 2.0, 0.0, 2.0])
                .unwrap();
        let net = |x: &Tensor| f64::from(x[[0, 0, 0]] + 10.0 * x[[0, 0, 1]] + 100.0 * x[[0, 2, 1]]);
        let curve = |parameters| {
            drive(
                subject(input.clone(), &scores, Score::Signed, parameters, &net),
                &net,
            )
        };
        let base = Parameters {
            grid: 2,
            steps: 4,
            ..Parameters::default()
        };
        // Means: 4, 3 above; 2, 3 below. Order: top right, bottom right, top left, bottom left.
        close(&curve(base.clone()), &[128.0, 138.0, 338.0, 334.0, 334.0]);
        close(
            &curve(Parameters {
                steps: 1,
                ..base.clone()
            }),
            &[128.0, 138.0],
        );
        close(
            &curve(Parameters {
                order: Order::Ascending,
                ..base.clone()
            }),
            &[128.0, 128.0, 124.0, 324.0, 334.0],
        );
        close(
            &curve(Parameters {
                replacement: Replacement::Zero,
                ..base.clone()
            }),
            &[128.0, 108.0, 8.0, 0.0, 0.0],
        );
        close(
            &curve(Parameters {
                steps: 3,
                compat: Some(Compat::Pgig2020),
                ..base
            }),
            &[128.0, 328.0, 324.0, 324.0],
        );
    }

    #[test]
    fn the_published_code_leaves_channels_whose_mean_is_not_positive() {
        let input = Tensor::from_shape_vec(vec![2, 1, 2], vec![-1.0, 2.0, 4.0, -6.0]).unwrap();
        let parameters = Parameters {
            grid: 1,
            steps: 0,
            compat: Some(Compat::Pgig2020),
            ..Parameters::default()
        };
        let grid = Grid::new(&[2, 1, 2], Layout::Nchw, 1).unwrap();
        let fill = parameters.fill(&input, &grid, &rule(2)).unwrap();
        assert_eq!(
            fill.iter().copied().collect::<Vec<_>>(),
            [0.5, 0.5, 4.0, -6.0]
        );
        assert_eq!(parameters.max_steps(), 0);
    }

    #[test]
    fn a_run_agrees_with_a_naive_reference() {
        let input = noise(&[3, 13, 17], 3);
        let weights = noise(&[3, 13, 17], 5);
        let net = |x: &Tensor| {
            (x * &weights)
                .iter()
                .map(|v| f64::from(*v))
                .sum::<f64>()
                .tanh()
        };
        for (score, order) in [
            (Score::Signed, Order::Descending),
            (Score::Absolute, Order::Ascending),
        ] {
            let scores = noise(&[3, 13, 17], 7);
            let parameters = Parameters {
                grid: 6,
                steps: 36,
                order,
                ..Parameters::default()
            };
            let found = drive(
                subject(input.clone(), &scores, score, parameters, &net),
                &net,
            );
            close(&found, &naive(&input, &scores, score, order, &net));
        }
    }

    /// Each degraded input made anew from the clean one, pixel by pixel, each patch looked for.
    fn naive(
        input: &Tensor,
        scores: &Tensor,
        score: Score,
        order: Order,
        net: &dyn Fn(&Tensor) -> f64,
    ) -> Vec<f64> {
        let shape = input.shape().to_vec();
        let place = |at: usize, size: usize| {
            (0..6)
                .rfind(|i| (*i as f64 * size as f64 / 6.0).round() <= at as f64)
                .unwrap()
        };
        let patch_of = |y: usize, x: usize| 6 * place(y, shape[1]) + place(x, shape[2]);
        let mean_of = |patch: usize, value: &dyn Fn(usize, usize) -> f64| {
            let pixels = (0..shape[1]).flat_map(|y| (0..shape[2]).map(move |x| (y, x)));
            let values: Vec<f64> = pixels
                .filter(|(y, x)| patch_of(*y, *x) == patch)
                .map(|(y, x)| value(y, x))
                .collect();
            values.iter().sum::<f64>() / values.len() as f64
        };
        let strength = |value: f32| {
            f64::from(if score == Score::Absolute {
                value.abs()
            } else {
                value
            })
        };
        let means: Vec<f64> = (0..36)
            .map(|patch| {
                mean_of(patch, &|y, x| {
                    (0..3).map(|c| strength(scores[[c, y, x]])).sum()
                })
            })
            .collect();
        let mut order_of: Vec<usize> = (0..36).collect();
        order_of.sort_by(|a, b| means[*b].partial_cmp(&means[*a]).unwrap());
        if order == Order::Ascending {
            order_of.reverse();
        }
        (0..=36)
            .map(|step| {
                net(&Tensor::from_shape_fn(shape.clone(), |at| {
                    let patch = patch_of(at[1], at[2]);
                    let gone = order_of[..step].contains(&patch);
                    if gone {
                        mean_of(patch, &|y, x| f64::from(input[[at[0], y, x]])) as f32
                    } else {
                        input[[at[0], at[1], at[2]]]
                    }
                }))
            })
            .collect()
    }

    /// f(x) = Σ w x, zeros for patches, ranked by x ⊙ w: step k takes away the k largest patch
    /// sums, so the curve is their partial sum.
    #[test]
    fn the_curve_of_a_linear_net_is_the_partial_sum_of_its_attributions() {
        let (input, weights) = (noise(&[3, 12, 12], 11), noise(&[3, 12, 12], 13));
        let scores = &input * &weights;
        let net = |x: &Tensor| (x * &weights).iter().map(|v| f64::from(*v)).sum::<f64>();
        let parameters = Parameters {
            grid: 4,
            steps: 16,
            replacement: Replacement::Zero,
            ..Parameters::default()
        };
        let found = drive(
            subject(input, &scores, Score::Signed, parameters, &net),
            &net,
        );
        let mut sums: Vec<f64> = (0..16)
            .map(|patch| {
                let block = scores.slice(ndarray::s![
                    ..,
                    patch / 4 * 3..patch / 4 * 3 + 3,
                    patch % 4 * 3..patch % 4 * 3 + 3
                ]);
                block.iter().map(|v| f64::from(*v)).sum()
            })
            .collect();
        sums.sort_by(|a, b| b.total_cmp(a));
        let total: f64 = sums.iter().sum();
        let mut expected = vec![total];
        expected.extend(sums.iter().scan(total, |left, sum| {
            *left -= sum;
            Some(*left)
        }));
        close(&found, &expected);
        // No other order falls faster: the attribution is the net.
        let other = Parameters {
            grid: 4,
            steps: 16,
            replacement: Replacement::Zero,
            order: Order::Ascending,
            ..Parameters::default()
        };
        let slower = drive(
            subject(noise(&[3, 12, 12], 11), &scores, Score::Signed, other, &net),
            &net,
        );
        assert!(
            found
                .iter()
                .zip(&slower)
                .all(|(fast, slow)| fast <= &(slow + 1e-6))
        );
    }

    #[test]
    fn blurred_patches_come_from_the_blurred_image() {
        let input = noise(&[3, 12, 12], 1);
        let parameters = Parameters {
            grid: 3,
            steps: 9,
            replacement: Replacement::Blur,
            ..Parameters::default()
        };
        let grid = Grid::new(&[3, 12, 12], Layout::Nchw, 3).unwrap();
        let fill = parameters.fill(&input, &grid, &rule(12)).unwrap();
        let spread = |x: &Tensor| x.std(0.0);
        assert!(spread(&fill) < spread(&input) / 3.0);
        let net = |x: &Tensor| f64::from(x.sum());
        let found = drive(subject(input, &fill, Score::Signed, parameters, &net), &net);
        assert!((found[9] - f64::from(fill.sum())).abs() < 1e-4);
    }
}
