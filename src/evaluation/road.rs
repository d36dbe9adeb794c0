//! ROAD: 10 to 90 % of the pixels are removed, the most important first (MoRF) or the least
//! important first (LeRF), and imputed from their neighbours with a little noise, so that the mask
//! itself tells the model little. Rong et al., 2022. The measurement is the clean score, the nine
//! scores of MoRF and the nine of LeRF; the rows read it in their own ways. Of n pixels a part p has
//! 1 + ⌊p (n - 1)⌋, which are those at or above the percentile 1 - p (numpy's) where all scores
//! differ; of equal ones the first goes first. Noise is drawn once for each image, the same for all
//! rows and parts. Cost: 18 evaluations of the forward graph for each row, and as many imputations
//! (`imputation`). Agrees with pytorch-grad-cam (tests/parity/perturbation.py).

use std::sync::Arc;

use super::{
    Aggregation, Axes, Case, Category, Cost, Direction, Measurement, Metric, MetricRun, Needs,
    Reading, Words,
    aggregate::{Ratios, Summary, Tally, Uneven},
    imputation::impute,
    input_size,
    parameters::{Allowed, MetricParameter, Values},
    patches::{by_pixel, order},
    perturbed::{Inputs, ask},
    progressive::score,
};
use crate::{picture::preprocess::Layout, random::normals, tensor::Tensor};

/// Parts of the pixels, in per cent.
const PARTS: [usize; 9] = [10, 20, 30, 40, 50, 60, 70, 80, 90];
/// Inputs made in one step, each of which is an imputation.
const AT_ONCE: usize = 3;
/// Evaluations of SqueezeNet's gradient that take as long as an imputation.
const IMPUTING: usize = 5;
/// Of the random numbers. Those from 0 on are of methods, whose seed may be the same, and maps that
/// are drawn must not rank pixels by their noise.
const STREAM: u64 = u64::MAX;

pub const ROAD: Metric = Metric {
    id: "road",
    title: "ROAD",
    direction: |_| Direction::Higher,
    words: Words {
        about: |_| {
            "10 to 90 % of the pixels are removed and imputed from their neighbours with a little noise, once those that a method ranks lowest \
             and once those that it ranks highest; the curve is half the difference of the scores (the probabilities) of the class that the \
             model predicts for the whole image."
                .to_owned()
        },
        heading: "ROAD score",
        column: "score",
        legend: "mean of (LeRF - MoRF) / 2",
        value: "The mean over images and parts of half the difference: the score with the lowest pixels removed (LeRF) less that with the \
                highest removed (MoRF). A random ranking has about 0.",
        axes: Some(Axes {
            x: PARTS_REMOVED,
            y: "mean of (LeRF - MoRF) / 2",
            end: None,
            signed: true,
        }),
    },
    reading: Reading {
        value: |_, scores| change(&curve(scores, Order::Both)),
        aggregation: Aggregation::Own(|_| Box::new(Curves::new(Order::Both))),
        ..Reading::NUMBER
    },
    ..ALL
};

pub const ROAD_MORF: Metric = Metric {
    id: "road_morf",
    title: "ROAD, most relevant first",
    direction: |_| Direction::Lower,
    words: Words {
        about: |_| {
            "10 to 90 % of the pixels are removed, those that a method ranks highest first, and imputed from their neighbours with a little \
             noise; the curve is the mean score (the probability) of the class that the model predicts for the whole image."
                .to_owned()
        },
        axes: Some(SCORE),
        ..CHANGE
    },
    reading: Reading {
        value: |_, scores| change(&curve(scores, Order::Morf)),
        aggregation: Aggregation::Own(|_| Box::new(Curves::new(Order::Morf))),
        ..Reading::NUMBER
    },
    ..ALL
};

pub const ROAD_LERF: Metric = Metric {
    id: "road_lerf",
    title: "ROAD, least relevant first",
    direction: |_| Direction::Higher,
    words: Words {
        about: |_| {
            "10 to 90 % of the pixels are removed, those that a method ranks lowest first, and imputed from their neighbours with a little \
             noise; the curve is the mean score (the probability) of the class that the model predicts for the whole image."
                .to_owned()
        },
        axes: Some(SCORE),
        ..CHANGE
    },
    reading: Reading {
        value: |_, scores| change(&curve(scores, Order::Lerf)),
        aggregation: Aggregation::Own(|_| Box::new(Curves::new(Order::Lerf))),
        ..Reading::NUMBER
    },
    ..ALL
};

const PARTS_REMOVED: &str = "tenths of the pixels removed";

const SCORE: Axes = Axes {
    x: PARTS_REMOVED,
    y: "mean score of the class (probability)",
    end: None,
    signed: false,
};

/// Of the rows with one order.
const CHANGE: Words = Words {
    about: |_| String::new(),
    heading: "Change of the score",
    column: "change",
    legend: "mean change of the score",
    value: "The mean over images and parts of the score after removal less the clean score.",
    axes: None,
};

/// What the rows share.
const ALL: Metric = Metric {
    id: "",
    title: "",
    paper: "Rong et al., A Consistent and Efficient Evaluation Strategy for Attribution Methods, 2022",
    category: Category::Faithfulness,
    direction: |_| Direction::Higher,
    parameters: &[MetricParameter {
        name: "noise",
        doc: "standard deviation of the noise on imputed pixels, in the model's input space",
        allowed: |model, _| match input_size(model) {
            None => Allowed::Never("the model's input is no picture whose pixels can be imputed"),
            Some(_) => Allowed::Real {
                least: 0.0,
                most: 1.0,
                default: 0.01,
            },
        },
    }],
    words: CHANGE,
    needs: Needs {
        cost: Cost {
            words: "rows × 18",
            count: |_, rows, _| rows * 2 * PARTS.len(),
        },
        work: |rows| rows * 2 * PARTS.len() * IMPUTING,
        shares: Some("scores of imputed inputs"),
        ..Needs::NOTHING
    },
    build: |case, values| Ok(build(case, values)),
    reading: Reading::NUMBER,
};

/// Which pixels are removed first.
#[derive(Clone, Copy)]
enum Order {
    Morf,
    Lerf,
    Both,
}

/// What of a measurement a row draws; the first value is that of the clean input.
fn curve(scores: &[f64], order: Order) -> Measurement {
    let (clean, rest) = scores.split_at(scores.len().min(1));
    let (morf, lerf) = rest.split_at(rest.len() / 2);
    match order {
        Order::Morf => [clean, morf].concat(),
        Order::Lerf => [clean, lerf].concat(),
        Order::Both => {
            let halves = morf
                .iter()
                .zip(lerf)
                .map(|(morf, lerf)| (lerf - morf) / 2.0);
            [0.0].into_iter().chain(halves).collect()
        }
    }
}

/// The mean of what follows on the first value, less that.
fn change(curve: &[f64]) -> f64 {
    match curve {
        [clean, rest @ ..] => rest.iter().sum::<f64>() / rest.len() as f64 - clean,
        [] => f64::NAN,
    }
}

/// The mean curves of rows in one order.
struct Curves {
    order: Order,
    ratios: Ratios<fn(&[f64]) -> f64>,
}

impl Curves {
    fn new(order: Order) -> Self {
        Self {
            order,
            ratios: Ratios::new(change, |_| 1.0),
        }
    }
}

impl Tally for Curves {
    fn add(&mut self, image: &[Measurement]) -> Result<(), Uneven> {
        let curves: Vec<_> = image.iter().map(|row| curve(row, self.order)).collect();
        self.ratios.add(&curves)
    }

    fn summary(self: Box<Self>, seed: u64) -> Summary {
        Box::new(self.ratios).summary(seed)
    }
}

/// A run for each row.
fn build(case: &Case, values: &Values) -> Vec<MetricRun> {
    let noise = Arc::new(noise_of(case, values.real("noise")));
    let run = |row: usize| {
        let (own, noise, clean) = (case.clone(), noise.clone(), case.clean);
        let inputs = Inputs {
            count: 2 * PARTS.len(),
            at_once: AT_ONCE,
            make: Box::new(move |number| Arc::new(imputed(&own, row, number, &noise))),
        };
        ask(case, inputs, score, move |scores: Vec<f64>| {
            vec![[vec![clean], scores].concat()]
        })
    };
    (0..case.rows.len()).map(run).collect()
}

/// Noise for each element of the input, normal with this deviation.
fn noise_of(case: &Case, deviation: f64) -> Tensor {
    let mut normals = normals(case.seed, STREAM);
    let mut next = || (deviation * normals.next().unwrap_or_default()) as f32;
    Tensor::from_shape_simple_fn(case.input.raw_dim(), &mut next)
}

/// The input of a row: its parts by MoRF come first, then those by LeRF.
fn imputed(case: &Case, row: usize, number: usize, noise: &Tensor) -> Tensor {
    let layout = case.layout();
    let mut input = case.input.as_ref().clone();
    let pixels = case.row_maps().nth(row);
    let Some(scores) = pixels.map(|(map, score)| score.pixels(&map.scores, layout)) else {
        return input;
    };
    let is_lerf = number >= PARTS.len();
    let removed = removed(&scores, PARTS[number % PARTS.len()], is_lerf);
    let size = match (layout, input.shape()) {
        (Layout::Nchw, &[_, height, width]) | (Layout::Nhwc, &[height, width, _]) => {
            [height, width]
        }
        _ => return input,
    };
    let views = by_pixel(input.view_mut(), layout).zip(by_pixel(noise.view(), layout));
    if let Some((mut pixels, noise)) = views {
        impute(pixels.view_mut(), size, &removed);
        for (at, _) in removed
            .iter()
            .enumerate()
            .filter(|(_, is_removed)| **is_removed)
        {
            let mut pixel = pixels.row_mut(at);
            pixel += &noise.row(at);
        }
    }
    input
}

/// Which pixels a part in per cent takes away, the highest or the lowest first.
fn removed(scores: &[f64], part: usize, lowest_first: bool) -> Vec<bool> {
    let count = 1 + part * scores.len().saturating_sub(1) / 100;
    let mut removed = vec![false; scores.len()];
    let order = order(scores, lowest_first);
    order
        .iter()
        .take(count)
        .for_each(|&pixel| removed[pixel] = true);
    removed
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;
    use crate::evaluation::{
        patches::Score,
        tests::{case, followed, tensor},
    };

    fn noise(deviation: f64) -> Values {
        Values(
            [("noise".to_owned(), json!(deviation))]
                .into_iter()
                .collect(),
        )
    }

    #[test]
    pub(in crate::evaluation) fn hand_worked_pixels_are_imputed_as_worked_by_hand() {
        // Four pixels in a row. Of a tenth to three, one is removed, then two, then three.
        let mut case = case(tensor(&[1, 1, 4], &[2.0, 4.0, 3.0, 1.0]), &[Score::Signed]);
        case.input = Arc::new(tensor(&[1, 1, 4], &[0.0, 9.0, 9.0, 3.0]));
        (case.class, case.clean) = (1, 21.0);
        let run = (ROAD.build)(&case, &noise(0.0)).unwrap().remove(0);
        let (found, asked) = followed(run, &|x| f64::from(x.sum()));
        assert_eq!(asked, (ROAD.needs.cost.count)(&noise(0.0), 1, 0));
        // MoRF: 0 4.5 9 3, then 0 1 2 3, then 3 3 3 3. LeRF: 0 9 9 9, then 9 9 9 9 twice.
        let thrice = |values: [f64; 3]| values.map(|value| [value; 3]).concat();
        let expected = [
            vec![21.0],
            thrice([16.5, 6.0, 12.0]),
            thrice([27.0, 36.0, 36.0]),
        ]
        .concat();
        // Scores travel as f32.
        let gaps = found[0].iter().zip(&expected).map(|(a, b)| (a - b).abs());
        assert!(
            found[0].len() == 19 && gaps.fold(0.0, f64::max) < 1e-5,
            "{found:?}"
        );
        for (metric, expected) in [(&ROAD, 10.75), (&ROAD_MORF, -9.5), (&ROAD_LERF, 12.0)] {
            let value = (metric.reading.value)(&noise(0.0), &found[0]);
            assert!((value - expected).abs() < 1e-5, "{value} {expected}");
        }
    }

    #[test]
    fn rows_draw_their_own_curve_and_have_the_mean_of_their_values() {
        let scores = |morf: f64, lerf: f64| [vec![0.5], vec![morf; 9], vec![lerf; 9]].concat();
        let images = [vec![scores(0.25, 0.75)], vec![scores(0.0, 0.5)]];
        for (metric, first, last, value) in [
            (&ROAD, 0.0, 0.25, 0.25),
            (&ROAD_MORF, 0.5, 0.125, -0.375),
            (&ROAD_LERF, 0.5, 0.625, 0.125),
        ] {
            let mut tally = metric.reading.tally(&noise(0.0));
            images.iter().for_each(|image| tally.add(image).unwrap());
            let summary = tally.summary(0);
            let row = &summary.rows[0];
            assert_eq!(row.mean_curve, [vec![first], vec![last; 9]].concat());
            assert_eq!(row.value, value);
        }
    }

    /// By numpy's percentile: all pixels at or above it.
    #[test]
    fn so_many_pixels_are_removed_as_a_percentile_cuts_off() {
        for count in 2..60 {
            let scores: Vec<f64> = (0..count).map(|k| f64::from(k * 37 % 61)).collect();
            let mut sorted = scores.clone();
            sorted.sort_by(f64::total_cmp);
            for part in PARTS {
                let place = (100 - part) as f64 / 100.0 * f64::from(count - 1);
                let (low, rest) = (place.floor() as usize, place.fract());
                let high = (low + 1).min(sorted.len() - 1);
                let cut = sorted[low] + rest * (sorted[high] - sorted[low]);
                let expected: Vec<bool> = scores.iter().map(|score| *score >= cut).collect();
                assert_eq!(removed(&scores, part, false), expected, "{count} {part}");
                let opposite: Vec<f64> = scores.iter().map(|score| -score).collect();
                assert_eq!(removed(&opposite, part, true), expected);
            }
        }
    }

    #[test]
    fn of_equal_pixels_the_first_go_first() {
        let flat = removed(&[1.0; 5], 50, false);
        assert_eq!(flat, [true, true, true, false, false]);
        assert_eq!(removed(&[1.0; 5], 50, true), flat);
        assert_eq!(removed(&[1.0], 90, false), [true]);
    }

    #[test]
    fn noise_lies_on_removed_pixels_alone_and_is_of_the_image() {
        let map = Tensor::from_shape_fn(vec![3, 20, 20], |at| (at[1] * 20 + at[2]) as f32);
        let case = case(map, &[Score::Signed]);
        // Zeros remain zeros, but for the noise. 20 % of 400 pixels are 80, the last ones.
        let drawn = noise_of(&case, 0.01);
        let found = imputed(&case, 0, 1, &drawn);
        let expected = Tensor::from_shape_fn(vec![3, 20, 20], |at| match at[1] < 16 {
            true => 0.0,
            false => drawn[&at],
        });
        assert_eq!(found, expected);
        let variance = drawn
            .iter()
            .map(|value| f64::from(*value).powi(2))
            .sum::<f64>()
            / 1200.0;
        // 1200 draws: the standard error of a deviation is 2 % of it.
        assert!((variance.sqrt() / 0.01 - 1.0).abs() < 0.08);
        let other = noise_of(&Case { seed: 1, ..case }, 0.01);
        assert_ne!(drawn, other);
    }
}
