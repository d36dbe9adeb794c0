//! Sensitivity-n: the Pearson correlation, over random subsets of n pixels, between the sum of their
//! scores and the fall of the explained output when they are set to 0 in the model's input space.
//! Ancona et al., 2018. The curve has a value for each n, on a log scale from 1 to .8 of all pixels.
//! A correlation without variance, of a map of equal pixels or of an output that does not change, is
//! 0. Cost: `sizes` × `subsets` evaluations of the forward graph, whatever the rows.

use std::iter;

use rand::RngExt;

use super::{
    AttributionMap, Axes, Case, Category, Cost, Direction, Metric, MetricError, MetricRun, Needs,
    Reading, Words, input_size,
    noise::SUBSETS,
    parameters::{Allowed, MetricParameter, Values},
    patches::{Score, by_pixel},
    removal::{Removal, compare},
    similarity::correlation,
};
use crate::random::generator;

/// The largest subset, as a share of all pixels.
const LARGEST: f64 = 0.8;
/// The most sizes, each of which keeps a value of the curve, and the most subsets of each.
const MOST_SIZES: usize = 100;
const MOST_SUBSETS: usize = 1000;

pub const METRIC: Metric = Metric {
    id: "sensitivity_n",
    title: "Sensitivity-n",
    paper: "Ancona et al., Towards better understanding of gradient-based attribution methods for Deep Neural Networks, 2018",
    category: Category::Faithfulness,
    direction: |_| Direction::Higher,
    parameters: &[
        MetricParameter {
            name: "sizes",
            doc: "different n, on a log scale from 1 to .8 of all pixels",
            allowed: |model, _| match input_size(model) {
                None => Allowed::Never("the model's input is no picture whose pixels can be taken"),
                Some([height, width]) => {
                    let most = MOST_SIZES.min(largest(height * width));
                    Allowed::Whole {
                        least: 1,
                        most,
                        default: 10.min(most),
                    }
                }
            },
        },
        MetricParameter {
            name: "subsets",
            doc: "random subsets of each size, the same for all methods",
            allowed: |_, _| Allowed::Whole {
                least: 3,
                most: MOST_SUBSETS,
                default: 100,
            },
        },
    ],
    words: Words {
        about: |values| {
            format!(
                "Random subsets of n pixels are set to 0 in the model's input space; the curve is the mean Pearson correlation, over {} \
                 subsets, between the sum of a map's scores in them and the fall of the output that the map explains, for {} different n.",
                values.number("subsets"),
                values.number("sizes")
            )
        },
        heading: "Mean correlation",
        column: "correlation",
        legend: "mean correlation (1: the scores sum to what the pixels are worth)",
        value: "The mean over n and over images.",
        axes: Some(Axes {
            x: "n, in equal steps of its logarithm from 1 to .8 of all pixels",
            y: "mean correlation of the sum of scores and the fall of the output",
            end: None,
            signed: true,
        }),
    },
    needs: Needs {
        cost: Cost {
            words: "sizes × subsets",
            count: |values, _, _| values.number("sizes") * values.number("subsets"),
        },
        ..Needs::NOTHING
    },
    build,
    reading: Reading {
        value: |_, curve| curve.iter().sum::<f64>() / curve.len() as f64,
        ..Reading::NUMBER
    },
};

/// Pixels of the largest subset.
fn largest(pixels: usize) -> usize {
    ((LARGEST * pixels as f64) as usize).max(1)
}

/// So many different n up to the largest: where the logarithm gives one twice, the next takes its
/// place.
fn sizes(count: usize, largest: usize) -> Vec<usize> {
    let last = count.saturating_sub(1).max(1) as f64;
    let mut sizes: Vec<usize> = Vec::with_capacity(count);
    for step in 0..count {
        let size = (largest as f64).powf(step as f64 / last).round() as usize;
        sizes.push(size.max(sizes.last().map_or(1, |before| before + 1)));
    }
    sizes
}

fn build(case: &Case, values: &Values) -> Result<Vec<MetricRun>, MetricError> {
    let subsets = values.number("subsets");
    let (layout, input) = (case.layout(), case.input.clone());
    let pixels = by_pixel(input.view(), layout).map_or(0, |pixels| pixels.nrows());
    let sizes = sizes(values.number("sizes"), largest(pixels));
    let scores = |(map, score): (&AttributionMap, Score)| score.pixels(&map.scores, layout);
    let rows: Vec<Vec<f64>> = case.row_maps().map(scores).collect();
    let mut random = generator(case.seed, SUBSETS);
    let mut order: Vec<usize> = (0..pixels).collect();
    let parts = sizes.len() * subsets;
    let mut counts = sizes
        .into_iter()
        .flat_map(move |size| iter::repeat_n(size, subsets));
    let take = move || {
        // The start of a shuffle, which may begin at any order.
        let subset = counts.next().unwrap_or(0).min(order.len());
        for place in 0..subset {
            let other = random.random_range(place..order.len());
            order.swap(place, other);
        }
        let subset = order.get(..subset).unwrap_or_default();
        let mut left = input.as_ref().clone();
        if let Some(mut pixels) = by_pixel(left.view_mut(), layout) {
            subset
                .iter()
                .for_each(|&pixel| pixels.row_mut(pixel).fill(0.0));
        }
        let worth = |scores: &Vec<f64>| {
            let scores = subset.iter().filter_map(|&pixel| scores.get(pixel));
            scores.sum()
        };
        let worth = rows.iter().map(worth).collect();
        Removal { left, worth }
    };
    let measure = move |worth: &[f64], falls: &[f64]| {
        let of_sizes = worth.chunks(subsets).zip(falls.chunks(subsets));
        of_sizes
            .map(|(worth, falls)| correlation(worth, falls))
            .collect()
    };
    Ok(vec![compare(case, parts, take, measure)])
}

#[cfg(test)]
pub(super) mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use serde_json::json;

    use super::*;
    use crate::{
        evaluation::{
            Measurement,
            tests::{case, driven, followed, linear, tensor},
        },
        tensor::Tensor,
    };

    fn values(sizes: usize, subsets: usize) -> Values {
        let fields = [("sizes", json!(sizes)), ("subsets", json!(subsets))];
        Values(
            fields
                .map(|(name, value)| (name.to_owned(), value))
                .into_iter()
                .collect(),
        )
    }

    /// Of class 1 of a net by formula, and the inputs asked for beside the clean one.
    fn measured(
        mut case: Case,
        values: &Values,
        net: &dyn Fn(&Tensor) -> f64,
    ) -> (Vec<Measurement>, usize) {
        case.class = 1;
        let run = (METRIC.build)(&case, values).unwrap().remove(0);
        let (found, asked) = followed(run, net);
        (found, asked - 1)
    }

    #[test]
    pub(in crate::evaluation) fn hand_worked_subsets_correlate_as_worked_by_hand() {
        // Two pixels of two channels, subsets of one: their scores are 2 and -1, their magnitudes 4
        // and 3, and without them the net falls by 11 and by 22. A straight line leads through two
        // points: of the scores it falls, of the magnitudes too.
        let map = tensor(&[2, 1, 2], &[3.0, 1.0, -1.0, -2.0]);
        let mut case = case(map, &[Score::Signed, Score::Absolute]);
        case.input = Arc::new(tensor(&[2, 1, 2], &[1.0, 2.0, 10.0, 20.0]));
        let net = |x: &Tensor| f64::from(x.sum());
        let (found, asked) = measured(case.clone(), &values(1, 8), &net);
        assert!(
            found.iter().all(|row| (row[0] + 1.0).abs() < 1e-12),
            "{found:?}"
        );
        assert_eq!(asked, (METRIC.needs.cost.count)(&values(1, 8), 2, 0));
        // A map of equal pixels, and an output that stays the same.
        let mut flat = case.clone();
        let mut map = flat.maps[0].clone();
        map.scores = Arc::new(tensor(&[1, 1, 2], &[0.1, 0.1]));
        flat.maps = Arc::new([map]);
        assert_eq!(measured(flat, &values(1, 8), &net).0, [[0.0], [0.0]]);
        assert_eq!(measured(case, &values(1, 8), &|_| 0.3).0, [[0.0], [0.0]]);
    }

    #[test]
    fn sizes_are_different_and_end_at_the_largest() {
        assert_eq!(
            sizes(10, largest(224 * 224)),
            [1, 3, 11, 34, 111, 361, 1172, 3807, 12361, 40140]
        );
        assert_eq!(sizes(5, largest(8)), [1, 2, 3, 4, 6]);
        assert_eq!(sizes(6, largest(8)), [1, 2, 3, 4, 5, 6]);
        assert_eq!((sizes(1, 6), sizes(2, 1)), (vec![1], vec![1, 2]));
    }

    /// Subsets are read off what the net is given, and every sum and mean is taken anew.
    #[test]
    fn correlations_agree_with_a_naive_twin() {
        let wave = |step: f64| {
            move |at: ndarray::IxDyn| {
                let place = (at[0] * 35 + at[1] * 7 + at[2]) as f64;
                (step * place).sin() as f32 + 1.5
            }
        };
        let shape = vec![3, 5, 7];
        let input = Tensor::from_shape_fn(shape.clone(), wave(0.7));
        let map = Tensor::from_shape_fn(shape.clone(), wave(1.9));
        let weights = Tensor::from_shape_fn(shape, wave(1.1));
        let mut case = case(map.clone(), &[Score::Signed]);
        case.input = Arc::new(input.clone());
        let seen = std::cell::RefCell::new(Vec::new());
        let net = |x: &Tensor| {
            seen.borrow_mut().push(x.clone());
            f64::from(((x * &weights).sum() as f64).tanh() as f32) + f64::from(x.sum()).sqrt()
        };
        let (found, _) = measured(case, &values(4, 20), &net);
        let seen = seen.into_inner();
        let output = |x: &Tensor| {
            f64::from(
                (f64::from(((x * &weights).sum() as f64).tanh() as f32) + f64::from(x.sum()).sqrt())
                    as f32,
            )
        };
        assert_eq!(seen.len(), 81);
        assert_eq!(seen[0], input);
        for (size, n) in sizes(4, 28).into_iter().enumerate() {
            let mut pairs = Vec::new();
            let mut subsets = BTreeSet::new();
            for left in &seen[1 + 20 * size..][..20] {
                let mut subset = Vec::new();
                let mut sum = 0.0;
                for (y, x) in (0..5).flat_map(|y| (0..7).map(move |x| (y, x))) {
                    if (0..3).all(|c| left[[c, y, x]] == 0.0) {
                        subset.push((y, x));
                        sum += (0..3).map(|c| f64::from(map[[c, y, x]])).sum::<f64>();
                    } else {
                        (0..3).for_each(|c| assert_eq!(left[[c, y, x]], input[[c, y, x]]));
                    }
                }
                assert_eq!(subset.len(), n);
                subsets.insert(subset);
                pairs.push((sum, output(&input) - output(left)));
            }
            assert!(subsets.len() > 10);
            let mean = |of: &dyn Fn(&(f64, f64)) -> f64| pairs.iter().map(of).sum::<f64>() / 20.0;
            let (a, b, ab) = (mean(&|p| p.0), mean(&|p| p.1), mean(&|p| p.0 * p.1));
            let deviation = |of: f64, square: f64| (square - of * of).sqrt();
            let both = deviation(a, mean(&|p| p.0 * p.0)) * deviation(b, mean(&|p| p.1 * p.1));
            let expected = (ab - a * b) / both;
            // Squares of means are taken from means of squares.
            assert!(
                (found[0][size] - expected).abs() < 1e-6,
                "{n}: {found:?} {expected}"
            );
        }
    }

    /// What a pixel of a linear model is worth does not depend on the others.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn input_times_weight_of_a_linear_model_correlates_perfectly() {
        let weights = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 3.0, -1.0, 2.0, -5.0, 0.5, 1.0];
        let input = Tensor::from_shape_fn(vec![1, 2, 3], |at| (1 + at[1] + at[2]) as f32);
        let map = &tensor(&[1, 2, 3], &weights[6..]) * &input;
        let mut case = case(map, &[Score::Signed]);
        (case.model, case.input, case.class) = (Arc::new(linear(&weights)), Arc::new(input), 1);
        let values = values(3, 25);
        let (found, evaluated) = driven(&case, (METRIC.build)(&case, &values).unwrap()).await;
        assert_eq!(found[0].len(), 3);
        // Outputs travel as f32.
        assert!(
            found[0].iter().all(|found| (found - 1.0).abs() < 1e-6),
            "{found:?}"
        );
        // Subsets that are drawn twice are evaluated once.
        assert!(evaluated <= (METRIC.needs.cost.count)(&values, 1, 0));
    }
}
