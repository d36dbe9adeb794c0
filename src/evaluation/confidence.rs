//! Average drop, increase and gain: how the score of the class changes when each pixel is
//! multiplied by what the map makes of it, the pixels of the map scaled from 0 for the lowest to 1
//! for the highest. y is the score of the clean input and o that of the multiplied one. The input
//! is multiplied in the model's input space. A map whose pixels are all the same is 0 throughout.
//! Chattopadhay et al., 2018; Poppi et al., 2021; Zhang et al., 2023. Cost: one evaluation of the
//! forward graph for each row; all three share it. Agrees with pytorch-grad-cam
//! (tests/parity/perturbation.py).

use std::sync::Arc;

use super::{
    Case, Category, Cost, Direction, Measurement, Metric, MetricRun, Needs, Reading, Words,
    patches::by_pixel,
    perturbed::{Inputs, ask},
    progressive::{CHUNK, score},
};
use crate::{picture::preprocess::Layout, tensor::Tensor};

pub const AVERAGE_DROP: Metric = Metric {
    id: "average_drop",
    title: "Average drop",
    paper: "Chattopadhay et al., Grad-CAM++, 2018; Poppi et al., Revisiting The Evaluation of Class Activation Mapping for \
            Explainability, 2021",
    direction: |_| Direction::Lower,
    words: Words {
        about: |_| {
            "By which part the score (the probability) of the class falls when each pixel of the image is multiplied by what the map makes \
             of it, from 0 for the lowest pixel to 1 for the highest."
                .to_owned()
        },
        heading: "Drop",
        column: "drop",
        legend: "mean of max(0, y - o) / y",
        value: "The mean over images of max(0, y - o) / y, where y is the score of the clean image and o that of the multiplied one.",
        axes: None,
    },
    reading: Reading {
        value: |_, scores| read(scores, |y, o| (y - o).max(0.0) / y),
        skips: |_, rows| match clean(rows) <= 0.0 {
            true => Some("whose clean score is not above 0"),
            false => None,
        },
        ..Reading::NUMBER
    },
    ..ALL
};

pub const AVERAGE_INCREASE: Metric = Metric {
    id: "average_increase",
    title: "Average increase",
    paper: "Chattopadhay et al., Grad-CAM++, 2018",
    words: Words {
        about: |_| {
            "On which share of the images the score (the probability) of the class rises when each pixel is multiplied by what the map makes \
             of it, from 0 for the lowest pixel to 1 for the highest."
                .to_owned()
        },
        heading: "Images with an increase",
        column: "share",
        legend: "share of images whose score rises",
        value: "The share of images on which the score of the multiplied image is above that of the clean one.",
        axes: None,
    },
    reading: Reading {
        value: |_, scores| read(scores, |y, o| f64::from(u8::from(o > y))),
        ..Reading::NUMBER
    },
    ..ALL
};

pub const AVERAGE_GAIN: Metric = Metric {
    id: "average_gain",
    title: "Average gain",
    paper: "Zhang et al., Opti-CAM: Optimizing saliency maps for interpretability, 2023",
    words: Words {
        about: |_| {
            "By which part of what it has left the score (the probability) of the class rises when each pixel of the image is multiplied by \
             what the map makes of it, from 0 for the lowest pixel to 1 for the highest."
                .to_owned()
        },
        heading: "Gain",
        column: "gain",
        legend: "mean of max(0, o - y) / (1 - y)",
        value: "The mean over images of max(0, o - y) / (1 - y), where y is the score of the clean image and o that of the multiplied one. \
                Images whose score is 1 already have nothing to gain, and are left out.",
        axes: None,
    },
    reading: Reading {
        value: |_, scores| read(scores, |y, o| (o - y).max(0.0) / (1.0 - y)),
        skips: |_, rows| match clean(rows) >= 1.0 {
            true => Some("whose clean score is 1 already"),
            false => None,
        },
        ..Reading::NUMBER
    },
    ..ALL
};

/// What the rows share.
const ALL: Metric = Metric {
    id: "",
    title: "",
    paper: "",
    category: Category::Faithfulness,
    direction: |_| Direction::Higher,
    parameters: &[],
    words: Words {
        about: |_| String::new(),
        heading: "",
        column: "",
        legend: "",
        value: "",
        axes: None,
    },
    needs: Needs {
        cost: Cost {
            words: "rows",
            count: |_, rows, _| rows,
        },
        shares: Some("score of the input multiplied by the map"),
        ..Needs::NOTHING
    },
    build: |case, _| Ok(vec![build(case)]),
    reading: Reading::NUMBER,
};

/// The clean score y, of all rows the same.
fn clean(rows: &[Measurement]) -> f64 {
    rows.iter().flatten().next().copied().unwrap_or(f64::NAN)
}

fn read(scores: &[f64], of: fn(f64, f64) -> f64) -> f64 {
    match scores {
        &[clean, multiplied] => of(clean, multiplied),
        _ => f64::NAN,
    }
}

/// One run for all rows; the measurement of each is y and o.
fn build(case: &Case) -> MetricRun {
    let (own, clean) = (case.clone(), case.clean);
    let make = move |row: usize| {
        let layout = own.layout();
        let weights = own.row_maps().nth(row).map(|(map, score)| {
            let mut pixels = score.pixels(&map.scores, layout);
            scale(&mut pixels);
            pixels
        });
        let weights = weights.unwrap_or_default();
        Arc::new(multiplied(&own.input, &weights, layout))
    };
    let inputs = Inputs {
        count: case.rows.len(),
        at_once: CHUNK,
        make: Box::new(make),
    };
    ask(case, inputs, score, move |scores: Vec<f64>| {
        scores.into_iter().map(|score| vec![clean, score]).collect()
    })
}

/// From 0 for the lowest to 1 for the highest; 0 where all are the same.
fn scale(values: &mut [f64]) {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let range = values
        .iter()
        .copied()
        .fold(0.0, |high, value| f64::max(high, value - low));
    let unit = if range > 0.0 { range } else { 1.0 };
    values
        .iter_mut()
        .for_each(|value| *value = (*value - low) / unit);
}

/// Each pixel times its weight, in all channels.
fn multiplied(input: &Tensor, weights: &[f64], layout: Layout) -> Tensor {
    let mut multiplied = input.clone();
    if let Some(mut pixels) = by_pixel(multiplied.view_mut(), layout) {
        let pixels = pixels.rows_mut().into_iter().zip(weights);
        pixels.for_each(|(mut pixel, weight)| pixel *= *weight as f32);
    }
    multiplied
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::evaluation::{
        parameters::Values,
        patches::Score,
        tests::{case, followed, tensor},
    };

    /// What the three metrics read of the rows of a case, of a net by formula, and the inputs that
    /// each asks for.
    fn values(case: &Case, net: &dyn Fn(&Tensor) -> f64) -> ([Vec<f64>; 3], usize) {
        let mut case = case.clone();
        (case.class, case.clean) = (1, net(&case.input));
        let mut most = 0;
        let values = [&AVERAGE_DROP, &AVERAGE_INCREASE, &AVERAGE_GAIN].map(|metric| {
            let none = Values::default();
            let run = (metric.build)(&case, &none).unwrap().remove(0);
            let (found, asked) = followed(run, net);
            most = most.max(asked);
            assert_eq!((metric.reading.skips)(&none, &found), None);
            found
                .iter()
                .map(|row| (metric.reading.value)(&none, row))
                .collect()
        });
        (values, most)
    }

    fn close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        // Scores travel as f32.
        let is_close = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-6;
        assert!(
            found.iter().zip(expected).all(is_close),
            "{found:?} {expected:?}"
        );
    }

    #[test]
    pub(in crate::evaluation) fn hand_worked_maps_change_the_score_as_worked_by_hand() {
        // 2 x 2 pixels of two channels: sums 1, -3, 5, -3, scaled to 1/2, 0, 1, 0; magnitudes 3, 3,
        // 5, 7, scaled to 0, 0, 1/2, 1.
        let map = tensor(&[2, 2, 2], &[2.0, -3.0, 5.0, 2.0, -1.0, 0.0, 0.0, -5.0]);
        let mut case = case(map, &[Score::Signed, Score::Absolute]);
        let input = [0.1, 0.2, 0.3, -0.2, 0.1, -0.2, 0.1, 0.2];
        case.input = Arc::new(tensor(&[2, 2, 2], &input));
        // All of it: 0.6. Sums of the pixels: 0.2, 0, 0.4, 0.
        let sum = |x: &Tensor| f64::from(x.sum());
        let ([drops, increases, gains], asked) = values(&case, &sum);
        // o: 0.1 + 0.4, and 0.2.
        close(&drops, &[0.1 / 0.6, 0.4 / 0.6]);
        assert_eq!(increases, [0.0, 0.0]);
        assert_eq!(gains, [0.0, 0.0]);
        assert_eq!(
            asked,
            (AVERAGE_DROP.needs.cost.count)(&Values::default(), 2, 0)
        );
        // The first channel but for its second pixel: what speaks against it is kept by magnitudes
        // alone.
        let first = |x: &Tensor| f64::from(x[[0, 0, 0]] + x[[0, 1, 0]] + x[[0, 1, 1]]) + 0.1;
        let ([drops, increases, gains], _) = values(&case, &first);
        // y: 0.1 + 0.3 - 0.2 + 0.1; o: 0.05 + 0.3 + 0.1, and 0.15 - 0.2 + 0.1.
        close(&drops, &[0.0, 0.25 / 0.3]);
        assert_eq!(increases, [1.0, 0.0]);
        close(&gains, &[0.15 / 0.7, 0.0]);
    }

    /// Each element by itself, the extremes by sorting.
    #[test]
    fn inputs_agree_with_a_naive_twin_in_both_layouts() {
        let input =
            Tensor::from_shape_fn(vec![3, 4, 5], |at| (at[0] + 7 * at[1] * at[2]) as f32 - 9.0);
        let scores = Tensor::from_shape_fn(vec![3, 4, 5], |at| {
            (at[0] + 3 * at[1] + 5 * at[2] % 7) as f32
        });
        let sum = |y: usize, x: usize| (0..3).map(|c| scores[[c, y, x]]).sum::<f32>();
        let mut sums: Vec<f32> = (0..20).map(|pixel| sum(pixel / 5, pixel % 5)).collect();
        sums.sort_by(f32::total_cmp);
        let expected = Tensor::from_shape_fn(vec![3, 4, 5], |at| {
            input[&at] * (sum(at[1], at[2]) - sums[0]) / (sums[19] - sums[0])
        });
        let last = |tensor: &Tensor| {
            let view = tensor.view().permuted_axes(vec![1, 2, 0]);
            view.as_standard_layout().into_owned()
        };
        for (layout, input, scores, expected) in [
            (
                Layout::Nchw,
                input.clone(),
                scores.clone(),
                expected.clone(),
            ),
            (Layout::Nhwc, last(&input), last(&scores), last(&expected)),
        ] {
            let mut weights = Score::Signed.pixels(&scores, layout);
            scale(&mut weights);
            let found = multiplied(&input, &weights, layout);
            // Products of three factors in f32.
            let gaps = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
            assert!(gaps.fold(0.0, f32::max) < 1e-5);
        }
    }

    #[test]
    fn a_map_of_equal_pixels_leaves_nothing() {
        let mut pixels = [2.5; 4];
        scale(&mut pixels);
        assert_eq!(pixels, [0.0; 4]);
    }

    #[test]
    fn images_without_a_score_to_lose_or_to_gain_are_left_out() {
        let skips = |metric: &Metric, clean| {
            (metric.reading.skips)(&Values::default(), &[vec![clean, 0.5]]).is_some()
        };
        let found = [0.0, 0.5, 1.0].map(|clean| {
            [&AVERAGE_DROP, &AVERAGE_INCREASE, &AVERAGE_GAIN].map(|metric| skips(metric, clean))
        });
        let expected = [
            [true, false, false],
            [false, false, false],
            [false, false, true],
        ];
        assert_eq!(found, expected);
    }
}
