//! Image degradation: the patches with the highest scores are replaced one after another, and the
//! score of the class is followed. The PGIG paper, section 5. The curve has `steps` + 1 values, the
//! clean input's first. Cost: `steps` evaluations of the forward graph. `compat: pgig-2020` does as
//! the published code: the first patch of the ranking is never replaced, and of the others only
//! channels whose mean is above 0. The input keeps the model's own size and channel order.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    Aggregation, AttributionMap, Axes, Case, Category, Cost, Direction, Metric, MetricError,
    MetricRun, Needs, Reading, Words,
    aggregate::integral,
    parameters::{Allowed, MetricParameter, Values},
    patches::{Grid, Score},
    progressive::Progressive,
};
use crate::{
    model::Model,
    picture::{
        ImageError,
        baseline::{Baseline, Material},
        preprocess::Preprocess,
    },
    tensor::Tensor,
};

pub const METRIC: Metric = Metric {
    id: "degradation",
    title: "Image degradation",
    paper: "Schwarzenberg & Castle, Pattern-Guided Integrated Gradients, 2020, section 5",
    category: Category::Faithfulness,
    direction: |values| match values.word("order") {
        Some("ascending") => Direction::Higher,
        _ => Direction::Lower,
    },
    parameters: &[
        MetricParameter {
            name: "grid",
            doc: "patches along each side",
            allowed: |model, _| match side(model) {
                0 => Allowed::Never("the model's input is no picture that can be cut into patches"),
                most => Allowed::Whole {
                    least: 1,
                    most,
                    default: 25.min(most),
                },
            },
        },
        MetricParameter {
            name: "compat",
            doc: "`pgig-2020`: as the published code",
            allowed: |_, _| Allowed::OneOf {
                words: &["pgig-2020"],
                default: None,
            },
        },
        MetricParameter {
            name: "steps",
            doc: "patches replaced",
            allowed: |_, values| {
                let spared = usize::from(values.word("compat").is_some());
                let most = values.number("grid").pow(2).saturating_sub(spared).max(1);
                Allowed::Whole {
                    least: 1,
                    most,
                    default: 100.min(most),
                }
            },
        },
        MetricParameter {
            name: "order",
            doc: "`descending` (most important first) or `ascending` (a higher area is better then)",
            allowed: |_, _| Allowed::OneOf {
                words: &["descending", "ascending"],
                default: Some("descending"),
            },
        },
        MetricParameter {
            name: "replacement",
            doc: "`mean` (of the patch, per channel), `zero` (in the model's input space) or `blur` (sigma 10)",
            // It is the mean in the published code.
            allowed: |_, values| Allowed::OneOf {
                words: match values.word("compat") {
                    Some(_) => &["mean"],
                    None => &["mean", "zero", "blur"],
                },
                default: Some("mean"),
            },
        },
    ],
    words: Words {
        about: |values| {
            format!(
                "The patches that a method ranks {} are replaced one after another ({} of {grid} × {grid} patches); the curve is the mean \
                 score (the probability) of the class that the model predicts for the whole image.",
                match values.word("order") {
                    Some("ascending") => "lowest",
                    _ => "highest",
                },
                values.number("steps"),
                grid = values.number("grid"),
            )
        },
        heading: "Area under the curve",
        column: "area",
        legend: "normalised area under the curve (1: no effect)",
        value: "Normalised: the area under the mean curve, with the steps scaled to a width of 1, divided by the \
                mean score of the clean images. A ranking that changes nothing has 1, one that removes the class at once has 0.",
        axes: Some(Axes {
            x: "number of patches replaced",
            y: "mean score of the class (probability)",
            end: None,
            signed: false,
        }),
    },
    needs: Needs {
        change: |values, model| Some(grid_of(model, values.number("grid"))?.largest()),
        cost: Cost {
            words: "rows × steps",
            count: |values, rows, _| rows * values.number("steps"),
        },
        ..Needs::NOTHING
    },
    build,
    reading: Reading {
        value: |_, curve| integral(curve),
        // The clean score, of all rows the same.
        aggregation: Aggregation::Ratio(|rows| {
            rows.iter().flatten().next().copied().unwrap_or(f64::NAN)
        }),
        ..Reading::NUMBER
    },
};

/// Pixels along the shorter side of a picture; 0 for a model of ready tensors.
fn side(model: &Model) -> usize {
    let input = &model.manifest.input;
    let rule = input.preprocess.as_ref();
    let side = rule.map_or(0, |rule| rule.width.min(rule.height) as usize);
    match grid_of(model, side) {
        Some(_) => side,
        None => 0,
    }
}

fn grid_of(model: &Model, grid: usize) -> Option<Grid> {
    let input = &model.manifest.input;
    Grid::new(&input.shape, input.preprocess.as_ref()?.layout, grid)
}

/// What a degradation is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DegradationParameters {
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

impl DegradationParameters {
    /// Patches at the top of a ranking that are left alone.
    fn spared(&self) -> usize {
        usize::from(self.compat.is_some())
    }

    /// What the patches of `input` become.
    fn fill(&self, input: &Tensor, grid: &Grid, rule: &Preprocess) -> Result<Tensor, ImageError> {
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

    fn rank(&self, grid: &Grid, scores: &Tensor, score: Score) -> Option<Vec<usize>> {
        grid.rank(scores, score, self.order == Order::Ascending)
    }
}

/// A run for each row.
fn build(case: &Case, values: &Values) -> Result<Vec<MetricRun>, MetricError> {
    let parameters: DegradationParameters = values.read()?;
    let rule = case.model.manifest.input.preprocess.as_ref();
    let grid = grid_of(&case.model, parameters.grid);
    let (Some(rule), Some(grid)) = (rule, grid) else {
        return Err(MetricError::Grid);
    };
    let fill = Arc::new(parameters.fill(&case.input, &grid, rule)?);
    let grid = Arc::new(grid);
    let run = |(map, score): (&AttributionMap, Score)| {
        let ranking = parameters.rank(&grid, &map.scores, score);
        let run = degrading(case, &grid, &fill, ranking.unwrap_or_default(), &parameters);
        Box::new(run) as MetricRun
    };
    Ok(case.row_maps().map(run).collect())
}

/// Replaces patches by those of `fill`, in the order of `ranking`.
fn degrading(
    case: &Case,
    grid: &Arc<Grid>,
    fill: &Arc<Tensor>,
    ranking: Vec<usize>,
    parameters: &DegradationParameters,
) -> Progressive {
    let spared = parameters.spared();
    let steps = parameters.steps.min(ranking.len().saturating_sub(spared));
    let (grid, fill) = (grid.clone(), fill.clone());
    let replace = move |step: usize, input: &mut Tensor| {
        if let Some(&patch) = ranking.get(step + spared) {
            grid.cut_mut(input, patch).assign(&grid.cut(&fill, patch));
        }
    };
    Progressive::from_clean(case, steps, Box::new(replace))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        evaluation::tests::{case, followed},
        picture::preprocess::{Filter, Layout},
    };

    fn defaults() -> DegradationParameters {
        DegradationParameters {
            grid: 25,
            steps: 100,
            order: Order::Descending,
            replacement: Replacement::Mean,
            compat: None,
        }
    }

    fn rule(side: u32) -> Preprocess {
        Preprocess {
            filter: Filter::Nearest,
            ..Preprocess::plain(side, side)
        }
    }

    fn noise(shape: &[usize], mut state: u32) -> Tensor {
        Tensor::from_shape_simple_fn(shape.to_vec(), || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
    }

    fn degradation(
        input: Tensor,
        scores: &Tensor,
        score: Score,
        parameters: DegradationParameters,
        net: &dyn Fn(&Tensor) -> f64,
    ) -> Progressive {
        let grid = Grid::new(input.shape(), Layout::Nchw, parameters.grid).unwrap();
        let fill = parameters
            .fill(&input, &grid, &rule(input.shape()[1] as u32))
            .unwrap();
        let ranking = parameters.rank(&grid, scores, score).unwrap();
        let mut case = case(scores.clone(), &[score]);
        (case.class, case.clean) = (1, net(&input));
        case.input = Arc::new(input);
        degrading(
            &case,
            &Arc::new(grid),
            &Arc::new(fill),
            ranking,
            &parameters,
        )
    }

    fn drive(run: Progressive, net: &dyn Fn(&Tensor) -> f64) -> Vec<f64> {
        followed(Box::new(run), net).0.remove(0)
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
    pub(in crate::evaluation) fn a_hand_worked_image_degrades_as_worked_by_hand() {
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
                degradation(input.clone(), &scores, Score::Signed, parameters, &net),
                &net,
            )
        };
        let base = DegradationParameters {
            grid: 2,
            steps: 4,
            ..defaults()
        };
        // Means: 4, 3 above; 2, 3 below. Order: top right, bottom right, top left, bottom left.
        close(&curve(base.clone()), &[128.0, 138.0, 338.0, 334.0, 334.0]);
        close(
            &curve(DegradationParameters {
                steps: 1,
                ..base.clone()
            }),
            &[128.0, 138.0],
        );
        close(
            &curve(DegradationParameters {
                order: Order::Ascending,
                ..base.clone()
            }),
            &[128.0, 128.0, 124.0, 324.0, 334.0],
        );
        close(
            &curve(DegradationParameters {
                replacement: Replacement::Zero,
                ..base.clone()
            }),
            &[128.0, 108.0, 8.0, 0.0, 0.0],
        );
        close(
            &curve(DegradationParameters {
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
        let parameters = DegradationParameters {
            grid: 1,
            steps: 0,
            compat: Some(Compat::Pgig2020),
            ..defaults()
        };
        let grid = Grid::new(&[2, 1, 2], Layout::Nchw, 1).unwrap();
        let fill = parameters.fill(&input, &grid, &rule(2)).unwrap();
        assert_eq!(
            fill.iter().copied().collect::<Vec<_>>(),
            [0.5, 0.5, 4.0, -6.0]
        );
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
            let parameters = DegradationParameters {
                grid: 6,
                steps: 36,
                order,
                ..defaults()
            };
            let found = drive(
                degradation(input.clone(), &scores, score, parameters, &net),
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
        let parameters = DegradationParameters {
            grid: 4,
            steps: 16,
            replacement: Replacement::Zero,
            ..defaults()
        };
        let found = drive(
            degradation(input, &scores, Score::Signed, parameters, &net),
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
        let other = DegradationParameters {
            grid: 4,
            steps: 16,
            replacement: Replacement::Zero,
            order: Order::Ascending,
            ..defaults()
        };
        let slower = drive(
            degradation(noise(&[3, 12, 12], 11), &scores, Score::Signed, other, &net),
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
        let parameters = DegradationParameters {
            grid: 3,
            steps: 9,
            replacement: Replacement::Blur,
            ..defaults()
        };
        let grid = Grid::new(&[3, 12, 12], Layout::Nchw, 3).unwrap();
        let fill = parameters.fill(&input, &grid, &rule(12)).unwrap();
        let spread = |x: &Tensor| x.std(0.0);
        assert!(spread(&fill) < spread(&input) / 3.0);
        let net = |x: &Tensor| f64::from(x.sum());
        let found = drive(
            degradation(input, &fill, Score::Signed, parameters, &net),
            &net,
        );
        assert!((found[9] - f64::from(fill.sum())).abs() < 1e-4);
    }
}
