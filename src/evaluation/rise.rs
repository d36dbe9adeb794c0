//! Deletion and insertion: pixels go, or come, the most important first, and the score of the class
//! is followed. Petsiuk et al., RISE, 2018, section 3.3; zeros and the blur as in its published
//! evaluation. The curve has `steps` + 1 values. Cost: `steps` evaluations of the forward graph for
//! each row; the clean input's score is known. Agrees with the published evaluation, but for pixels
//! of equal score, of which here the first comes first.

use std::sync::Arc;

use ndarray::{Array1, ArrayViewMut1, Axis, s};

use super::{
    Axes, Case, Category, Cost, Direction, Metric, MetricError, MetricRun, Needs, Reading, Words,
    aggregate::integral,
    input_size,
    parameters::{Allowed, MetricParameter, Values},
    patches::{by_pixel, order},
    progressive::Progressive,
};
use crate::{blur::blur, picture::preprocess::Layout, tensor::Tensor};

/// The blur that insertion starts from: pixels along each side of its kernel, and its sigma.
const KERNEL: usize = 11;
const SIGMA: f64 = 5.0;
/// The most steps, each of which keeps a value of the curve.
const MOST_STEPS: usize = 1000;

pub const DELETION: Metric = Metric {
    id: "deletion",
    title: "Deletion",
    direction: |_| Direction::Lower,
    words: Words {
        about: |values| {
            format!(
                "The pixels that a method ranks highest are set to 0 in the model's input space one part after another, until none is left \
                 ({} equal parts); the curve is the mean score (the probability) of the class that the model predicts for the whole image.",
                values.number("steps")
            )
        },
        axes: Some(Axes {
            x: "share of the pixels deleted",
            y: SCORE,
            end: Some(1.0),
            signed: false,
        }),
        ..WORDS
    },
    build: |case, values| build(case, values, Way::Deletion),
    ..BOTH
};

pub const INSERTION: Metric = Metric {
    id: "insertion",
    title: "Insertion",
    direction: |_| Direction::Higher,
    words: Words {
        about: |values| {
            format!(
                "The pixels that a method ranks highest are put into the blurred image one part after another, until all are there ({} equal \
                 parts); the curve is the mean score (the probability) of the class that the model predicts for the whole image.",
                values.number("steps")
            )
        },
        axes: Some(Axes {
            x: "share of the pixels inserted",
            y: SCORE,
            end: Some(1.0),
            signed: false,
        }),
        ..WORDS
    },
    build: |case, values| build(case, values, Way::Insertion),
    ..BOTH
};

const SCORE: &str = "mean score of the class (probability)";

const WORDS: Words = Words {
    about: |_| String::new(),
    heading: "Area under the curve",
    column: "area",
    legend: "area under the curve",
    value: "The mean over images of the area under the curve, by trapezoids, with the steps scaled to a width of 1.",
    axes: None,
};

/// What both rows share.
const BOTH: Metric = Metric {
    id: "",
    title: "",
    paper: "Petsiuk et al., RISE: Randomized Input Sampling for Explanation of Black-box Models, 2018, section 3.3",
    category: Category::Faithfulness,
    direction: |_| Direction::Lower,
    parameters: &[MetricParameter {
        name: "steps",
        doc: "equal parts in which the pixels change; the default is one row of pixels each",
        allowed: |model, _| match input_size(model) {
            None => Allowed::Never("the model's input is no picture whose pixels can be replaced"),
            Some([height, width]) => Allowed::Whole {
                least: 1,
                most: MOST_STEPS.min(height * width),
                default: MOST_STEPS.min(height),
            },
        },
    }],
    words: WORDS,
    needs: Needs {
        cost: Cost {
            words: "rows × steps",
            count: |values, rows, _| rows * values.number("steps"),
        },
        // No `change`: the pixels of a step may lie anywhere.
        ..Needs::NOTHING
    },
    build: |_, _| Ok(Vec::new()),
    reading: Reading {
        value: |_, curve| integral(curve),
        ..Reading::NUMBER
    },
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Deletion,
    Insertion,
}

/// A run for each row.
fn build(case: &Case, values: &Values, way: Way) -> Result<Vec<MetricRun>, MetricError> {
    let (steps, layout) = (values.number("steps"), case.layout());
    let shape = case.input.raw_dim();
    let (start, fill) = match way {
        Way::Deletion => (case.input.clone(), Arc::new(Tensor::zeros(shape))),
        Way::Insertion => (Arc::new(blurred(&case.input, layout)), case.input.clone()),
    };
    let run = |scores: Vec<f64>| {
        let (ranking, fill) = (order(&scores, false), fill.clone());
        let replace = move |part: usize, input: &mut Tensor| {
            let border = |part: usize| part * ranking.len() / steps;
            let pixels = ranking.get(border(part)..border(part + 1));
            let views = by_pixel(input.view_mut(), layout).zip(by_pixel(fill.view(), layout));
            if let (Some(pixels), Some((mut input, fill))) = (pixels, views) {
                for &pixel in pixels {
                    input.row_mut(pixel).assign(&fill.row(pixel));
                }
            }
        };
        Box::new(match way {
            Way::Deletion => Progressive::from_clean(case, steps, Box::new(replace)),
            Way::Insertion => {
                let replace = move |step: usize, input: &mut Tensor| {
                    if let Some(part) = step.checked_sub(1) {
                        replace(part, input);
                    }
                };
                Progressive::to_clean(case, start.clone(), steps, Box::new(replace))
            }
        }) as MetricRun
    };
    let rows = case.row_maps();
    Ok(rows
        .map(|(map, score)| run(score.pixels(&map.scores, layout)))
        .collect())
}

/// Blurred by a Gaussian whose kernel is cut, its ends reflected inwards; 0 around the picture, in
/// the model's input space.
fn blurred(input: &Tensor, layout: Layout) -> Tensor {
    let mut kernel = Array1::zeros(KERNEL);
    kernel[KERNEL / 2] = 1.0;
    blur(kernel.view_mut().into_dyn(), &[Axis(0)], SIGMA);
    let mut blurred = input.mapv(f64::from);
    let sides = match layout {
        Layout::Nchw => [1, 2],
        Layout::Nhwc => [0, 1],
    };
    let axes = blurred.ndim();
    for side in sides.into_iter().filter(|&side| side < axes) {
        let lanes = blurred.lanes_mut(Axis(side)).into_iter();
        lanes.for_each(|lane| convolve(lane, &kernel));
    }
    blurred.mapv(|value| value as f32)
}

/// With a symmetric kernel; 0 beyond the ends.
fn convolve(mut lane: ArrayViewMut1<'_, f64>, kernel: &Array1<f64>) {
    let reach = kernel.len() / 2;
    let mut padded = Array1::zeros(lane.len() + 2 * reach);
    padded
        .slice_mut(s![reach..reach + lane.len()])
        .assign(&lane);
    for (value, window) in lane.iter_mut().zip(padded.windows(kernel.len())) {
        *value = window.dot(kernel);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;
    use crate::evaluation::{
        Measurement,
        patches::Score,
        tests::{case, followed, tensor},
    };

    /// What a metric measures of a net by formula, and the rows that it asks for.
    fn measured(
        metric: &Metric,
        case: &Case,
        steps: usize,
        net: &dyn Fn(&Tensor) -> f64,
    ) -> (Vec<Measurement>, usize) {
        let mut case = case.clone();
        (case.class, case.clean) = (1, net(&case.input));
        let values = self::steps(steps);
        let (mut curves, mut asked) = (Vec::new(), 0);
        for run in (metric.build)(&case, &values).unwrap() {
            let (rows, count) = followed(run, net);
            curves.extend(rows);
            asked += count;
        }
        (curves, asked)
    }

    fn pattern(shape: &[usize], step: usize) -> Tensor {
        let mut next = 0;
        Tensor::from_shape_simple_fn(shape.to_vec(), || {
            next += step;
            (next * next % 251) as f32 / 125.0 - 1.0
        })
    }

    #[test]
    pub(in crate::evaluation) fn hand_worked_pixels_are_deleted_as_worked_by_hand() {
        // 2 x 2 pixels of two channels. Scores: 3, -1, 3, 0; magnitudes 3, 7, 3, 0. Of equal ones
        // the first goes first.
        let map = tensor(&[2, 2, 2], &[1.0, 3.0, 2.0, 0.0, 2.0, -4.0, 1.0, 0.0]);
        let mut case = case(map, &[Score::Signed, Score::Absolute]);
        let input = tensor(&[2, 2, 2], &[1.0, 2.0, 3.0, 4.0, 10.0, 20.0, 30.0, 40.0]);
        case.input = Arc::new(input);
        let net = |x: &Tensor| f64::from(x.sum());
        let (curves, asked) = measured(&DELETION, &case, 4, &net);
        assert_eq!(curves[0], [110.0, 99.0, 66.0, 22.0, 0.0]);
        assert_eq!(curves[1], [110.0, 88.0, 77.0, 44.0, 0.0]);
        assert_eq!(asked, (DELETION.needs.cost.count)(&steps(4), 2, 0));
        // Four pixels in three steps: borders are rounded down.
        let (curves, _) = measured(&DELETION, &case, 3, &net);
        assert_eq!(curves[0], [110.0, 99.0, 66.0, 0.0]);
        // (110 + 0) / 2 + 99 + 66 + 22, over 4.
        assert_eq!(integral(&[110.0, 99.0, 66.0, 22.0, 0.0]), 60.5);
    }

    fn steps(count: usize) -> Values {
        Values([("steps".to_owned(), json!(count))].into_iter().collect())
    }

    #[test]
    pub(in crate::evaluation) fn hand_worked_pixels_are_inserted_as_worked_by_hand() {
        // One pixel among zeros keeps its centre's weight w² of the blur, and its three neighbours
        // have w v, v w and v²: v is the weight beside the centre.
        let map = tensor(&[1, 2, 2], &[4.0, 1.0, 3.0, 2.0]);
        let mut case = case(map, &[Score::Signed]);
        case.input = Arc::new(tensor(&[1, 2, 2], &[100.0, 0.0, 0.0, 0.0]));
        let net = |x: &Tensor| f64::from(x[[0, 0, 0]] + 10.0 * x[[0, 0, 1]]);
        let (curves, asked) = measured(&INSERTION, &case, 4, &net);
        // scipy 1.17: gaussian_filter of 11 values, sigma 5, 1 in the middle.
        let (w, v) = (0.09398206326843249, 0.09348938844291409);
        let expected = [
            100.0 * (w * w + 10.0 * w * v),
            100.0 + 1000.0 * w * v,
            100.0 + 1000.0 * w * v,
            100.0 + 1000.0 * w * v,
            100.0,
        ];
        let gaps = curves[0].iter().zip(expected).map(|(a, b)| (a - b).abs());
        // Inputs and scores travel as f32.
        assert!(gaps.fold(0.0, f64::max) < 1e-4, "{curves:?} {expected:?}");
        assert_eq!(asked, 4);
    }

    /// Each input made anew, each pixel put in its place by counting those that go before it.
    #[test]
    fn runs_agree_with_a_naive_twin_in_both_layouts() {
        let weights = pattern(&[3, 5, 6], 7);
        let (input, scores) = (pattern(&[3, 5, 6], 11), pattern(&[3, 5, 6], 13));
        let net = |x: &Tensor| f64::from((x * &weights).sum()).tanh();
        let place = |y: usize, x: usize| {
            let score =
                |y: usize, x: usize| -> f64 { (0..3).map(|c| f64::from(scores[[c, y, x]])).sum() };
            let own = (score(y, x), y * 6 + x);
            let pixels = (0..5).flat_map(|y| (0..6).map(move |x| (y, x)));
            let goes_before = |&(b, a): &(usize, usize)| {
                score(b, a) > own.0 || score(b, a) == own.0 && b * 6 + a < own.1
            };
            pixels.filter(goes_before).count()
        };
        let blurred = blurred(&input, Layout::Nchw);
        let mut case = case(scores.clone(), &[Score::Signed]);
        case.input = Arc::new(input.clone());
        for metric in [&DELETION, &INSERTION] {
            let (found, _) = measured(metric, &case, 10, &net);
            for (step, found) in found[0].iter().enumerate() {
                let input = Tensor::from_shape_fn(vec![3, 5, 6], |at| {
                    let is_gone = place(at[1], at[2]) < 3 * step;
                    match (metric.id, is_gone) {
                        ("deletion", true) => 0.0,
                        ("deletion", false) | ("insertion", true) => input[&at],
                        _ => blurred[&at],
                    }
                });
                // Scores travel as f32.
                assert!((found - net(&input)).abs() < 1e-6, "{} {step}", metric.id);
            }
        }
    }

    /// The kernel's sum over what lies inside the picture: of a picture of ones, and of its corner.
    #[test]
    fn the_blur_keeps_what_is_flat_and_fades_to_0_at_the_border() {
        let flat = blurred(&Tensor::ones(vec![1, 25, 25]), Layout::Nchw);
        assert!((flat[[0, 12, 12]] - 1.0).abs() < 1e-6);
        let half = f64::from(flat[[0, 0, 12]]);
        assert!(half > 0.5 && half < 0.6, "{half}");
        assert!((f64::from(flat[[0, 0, 0]]) - half * half).abs() < 1e-6);
        let last = blurred(&Tensor::ones(vec![25, 25, 1]), Layout::Nhwc);
        assert!((f64::from(last[[0, 12, 0]]) - half).abs() < 1e-6);
    }
}
