//! Perturbation-ε: whether a map gives features whose removal changes the output their due. A
//! feature passes if its attribution has the sign of the change Δy, from the input without the
//! feature to the input, and at least ε of its magnitude. The SIG paper, section 3, Axiom 1, which
//! is about Δy above 0; below 0 the sign is turned, since its inequality, as it is printed, would
//! refuse an attribution that is Δy itself. Features are pixels, or the regions that `xrai` ranks,
//! whose attribution is the sum over their pixels. Cost: one evaluation of the forward graph for
//! each feature, which all rows share.

use std::{collections::BTreeSet, sync::Arc};

use ndarray::{Array1, Axis};
use onnx_autodiff::autodiff::spec::Head;
use rand::RngExt;
use serde::Deserialize;

use super::{
    AttributionMap, Case, Category, Cost, Direction, Measurement, Metric, MetricError, MetricRun,
    Needs, Reading, Words, input_size,
    parameters::{Allowed, MetricParameter, Values},
    patches::{Score, by_pixel},
    perturbed::{Inputs, ask},
    progressive::CHUNK,
};
use crate::{
    engine::Row, methods::regions::segment, picture::input::InputPicture, random::generator,
    tensor::Tensor,
};

/// The most features of an image, each of which is an evaluation.
const MOST_FEATURES: usize = 1000;
/// Changes of the output below this part of it are rounding.
const ROUNDING: f64 = 1e-6;
/// Of the random numbers. Those from 0 on are of methods, whose seed may be the same.
const STREAM: u64 = u64::MAX;

pub const METRIC: Metric = Metric {
    id: "perturbation_epsilon",
    title: "Perturbation-ε",
    paper: "Kapishnikov et al., Segment Integrated Gradients, 2019, section 3, Axiom 1",
    category: Category::Axiomatic,
    direction: |_| Direction::Higher,
    parameters: &[
        MetricParameter {
            name: "features",
            doc: "`pixels`, or `regions`: the segments that `xrai` ranks",
            allowed: |model, _| match input_size(model) {
                None => Allowed::Never("the model's input is no picture"),
                Some(_) => Allowed::OneOf {
                    words: &["pixels", "regions"],
                    default: Some("pixels"),
                },
            },
        },
        MetricParameter {
            name: "count",
            doc: "features that are removed, one at a time, drawn at random for each image",
            allowed: |model, values| {
                let pixels = input_size(model).map_or(1, |[height, width]| height * width);
                let most = match values.word("features") {
                    Some("pixels") => MOST_FEATURES.min(pixels),
                    _ => MOST_FEATURES,
                };
                Allowed::Whole {
                    least: 1,
                    most,
                    default: 100.min(most),
                }
            },
        },
        MetricParameter {
            name: "epsilon",
            doc: "the part of a change that an attribution has at least",
            allowed: |_, _| Allowed::Real {
                least: 0.0,
                most: 1.0,
                default: 0.1,
            },
        },
        MetricParameter {
            name: "replacement",
            doc: "what stands for a removed pixel: `zero` (in the model's input space) or `mean` (of the input, per channel)",
            allowed: |_, _| Allowed::OneOf {
                words: &["zero", "mean"],
                default: Some("zero"),
            },
        },
    ],
    words: Words {
        about: |values| {
            format!(
                "{} {} of each image are removed, one at a time: the share of those that change the output to which the map gives the sign \
                 of the change and at least {} of its magnitude.",
                values.number("count"),
                values.word("features").unwrap_or_default(),
                values.real("epsilon"),
            )
        },
        heading: "Features that pass",
        column: "share",
        legend: "share of features that pass",
        value: "The mean over images of the share. Scores are taken in the units of the output that the map explains; in other units they pass \
                or fail by the sign. Rows of magnitudes are not asked for the sign, and pass more easily.",
        axes: None,
    },
    needs: Needs {
        cost: Cost {
            words: "count",
            count: |values, _, _| values.number("count"),
        },
        ..Needs::NOTHING
    },
    build,
    reading: Reading {
        value: |_, counts| match counts {
            &[passing, counted] => passing / counted,
            _ => f64::NAN,
        },
        skips: |_, rows| {
            let is_idle = |row: &Measurement| row.get(1) == Some(&0.0);
            let reason = "on which removing features changes no output";
            rows.iter().any(is_idle).then_some(reason)
        },
        ..Reading::NUMBER
    },
};

#[derive(Deserialize)]
struct Settings {
    features: Kind,
    count: usize,
    epsilon: f64,
    replacement: Replacement,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Pixels,
    Regions,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Replacement {
    Zero,
    Mean,
}

/// The pixels of each feature.
type Features = Vec<Vec<usize>>;

/// One run for all rows.
fn build(case: &Case, values: &Values) -> Result<Vec<MetricRun>, MetricError> {
    let settings: Settings = values.read()?;
    let features = match settings.features {
        Kind::Pixels => pixels(case, settings.count),
        Kind::Regions => regions(case, settings.count),
    };
    let features = features.ok_or(MetricError::Grid)?;
    let fill = fill(case, settings.replacement).ok_or(MetricError::Grid)?;
    Ok(vec![removing(case, features, &fill, settings.epsilon)])
}

/// So many different numbers below `below`, or all of them.
fn draw(below: usize, count: usize, seed: u64) -> Vec<usize> {
    if below <= count {
        return (0..below).collect();
    }
    let mut generator = generator(seed, STREAM);
    let mut drawn = BTreeSet::new();
    while drawn.len() < count {
        drawn.insert(generator.random_range(0..below));
    }
    drawn.into_iter().collect()
}

/// So many of the picture's pixels; none of an input that is no picture.
fn pixels(case: &Case, count: usize) -> Option<Features> {
    let pixels = by_pixel(case.input.view(), case.layout())?.len_of(Axis(0));
    let drawn = draw(pixels, count, case.seed).into_iter();
    Some(drawn.map(|pixel| vec![pixel]).collect())
}

/// So many of its regions.
fn regions(case: &Case, count: usize) -> Option<Features> {
    let rule = case.model.manifest.input.preprocess.as_ref()?;
    let picture = InputPicture::of(&case.input, rule)?;
    let regions = segment(&picture, None).regions;
    let drawn = draw(regions.len(), count, case.seed).into_iter();
    let pixels = |region: usize| {
        let pixels = regions.pixels(region).iter();
        pixels.map(|pixel| *pixel as usize).collect()
    };
    Some(drawn.map(pixels).collect())
}

/// The clean input first, which is known, then one without each feature.
fn removing(case: &Case, features: Features, fill: &Array1<f32>, epsilon: f64) -> MetricRun {
    let features = Arc::new(features);
    let (own, removed, fill) = (case.clone(), features.clone(), fill.clone());
    let make = move |number: usize| match number.checked_sub(1) {
        None => own.input.clone(),
        Some(feature) => Arc::new(without(&own, &removed[feature], &fill)),
    };
    let inputs = Inputs {
        count: features.len() + 1,
        at_once: CHUNK,
        make: Box::new(make),
    };
    let own = case.clone();
    ask(case, inputs, outputs, move |found: Vec<Outputs>| {
        let row = |(map, score)| share(&own, &features, map, score, &found, epsilon);
        own.row_maps().map(row).collect()
    })
}

/// The logit and the probability of a class.
type Outputs = [f64; 2];

fn outputs(row: &Row, class: usize) -> Outputs {
    [&row.logits, &row.probabilities].map(|values| {
        values
            .get(class)
            .map_or(f64::NAN, |value| f64::from(*value))
    })
}

/// Features of a row that pass, and those that count: whose removal changes the output that the map
/// explains.
fn share(
    case: &Case,
    features: &Features,
    map: &AttributionMap,
    score: Score,
    found: &[Outputs],
    epsilon: f64,
) -> Measurement {
    let head = match map.request.parameters.head {
        Head::Logits => 0,
        Head::Probabilities => 1,
    };
    let mut outputs = found.iter().map(|outputs| outputs[head]);
    let clean = outputs.next().unwrap_or(f64::NAN);
    let pixels = score.pixels(&map.scores, case.layout());
    let (mut passing, mut counted) = (0.0, 0.0);
    for (feature, output) in features.iter().zip(outputs) {
        let change = clean - output;
        if !change.is_finite() {
            return vec![f64::NAN; 2];
        }
        if change.abs() > ROUNDING * clean.abs().max(output.abs()) {
            let attribution: f64 = feature.iter().map(|&pixel| pixels[pixel]).sum();
            let along = match score {
                Score::Signed => attribution * change.signum(),
                Score::Absolute => attribution,
            };
            counted += 1.0;
            passing += f64::from(u8::from(along >= epsilon * change.abs()));
        }
    }
    vec![passing, counted]
}

/// What stands for a removed pixel, for each channel.
fn fill(case: &Case, replacement: Replacement) -> Option<Array1<f32>> {
    let pixels = by_pixel(case.input.view(), case.layout())?;
    match replacement {
        Replacement::Zero => Some(Array1::zeros(pixels.len_of(Axis(1)))),
        Replacement::Mean => {
            let means = pixels.mapv(f64::from).mean_axis(Axis(0))?;
            Some(means.mapv(|mean| mean as f32))
        }
    }
}

/// The input with the pixels of a feature replaced.
fn without(case: &Case, feature: &[usize], fill: &Array1<f32>) -> Tensor {
    let mut input = case.input.as_ref().clone();
    if let Some(mut pixels) = by_pixel(input.view_mut(), case.layout()) {
        feature
            .iter()
            .for_each(|&pixel| pixels.row_mut(pixel).assign(fill));
    }
    input
}

#[cfg(test)]
pub(super) mod tests {
    use ndarray::Array2;
    use serde_json::json;

    use super::*;
    use crate::{
        evaluation::tests::{case, followed, tensor},
        methods::Request,
    };

    fn values(features: &str, count: usize, epsilon: f64, replacement: &str) -> Values {
        let values = json!({
            "features": features, "count": count, "epsilon": epsilon, "replacement": replacement,
        });
        serde_json::from_value(values).unwrap()
    }

    /// A case whose maps are of the probability, which `followed` gives the net's score.
    fn of_probability(scores: Tensor, input: Tensor, rows: &[Score]) -> Case {
        let mut case = case(scores, rows);
        let mut map = case.maps[0].clone();
        let mut parameters = map.request.parameters.clone();
        parameters.head = Head::Probabilities;
        map.request = Request::of(parameters);
        (case.maps, case.class) = (Arc::new([map]), 1);
        case.input = Arc::new(input);
        case
    }

    fn measured(
        case: &Case,
        values: &Values,
        net: &dyn Fn(&Tensor) -> f64,
    ) -> (Vec<Measurement>, usize) {
        followed((METRIC.build)(case, values).unwrap().remove(0), net)
    }

    #[test]
    pub(in crate::evaluation) fn hand_worked_features_pass_as_worked_by_hand() {
        // Without each of four pixels the output changes by 4, -2, 1 and 0: the last does not count.
        let input = tensor(&[1, 2, 2], &[4.0, -2.0, 1.0, 5.0]);
        let net = |x: &Tensor| f64::from(x[[0, 0, 0]] + x[[0, 0, 1]] + x[[0, 1, 0]]);
        let map = tensor(&[1, 2, 2], &[2.0, -2.0, -9.0, 7.0]);
        let case = of_probability(map, input, &[Score::Signed, Score::Absolute]);
        let found = |epsilon| measured(&case, &values("pixels", 4, epsilon, "zero"), &net);
        let (rows, asked) = found(0.5);
        // 2 >= 2 and 2 >= 1, and the third has the wrong sign, which magnitudes do not have.
        assert_eq!(rows, [[2.0, 3.0], [3.0, 3.0]]);
        // The clean input is known before.
        let cost = (METRIC.needs.cost.count)(&values("pixels", 4, 0.5, "zero"), 2, 0);
        assert_eq!(asked - 1, cost);
        assert_eq!(found(0.6).0, [[1.0, 3.0], [2.0, 3.0]]);
        assert_eq!(
            (METRIC.reading.value)(&Values::default(), &[1.0, 3.0]),
            1.0 / 3.0
        );
        // By the mean, 2, they change by 2, -4 and -1: all signs are right.
        let (rows, _) = measured(&case, &values("pixels", 4, 0.5, "mean"), &net);
        assert_eq!(rows, [[3.0, 3.0], [3.0, 3.0]]);
        let (rows, _) = measured(&case, &values("pixels", 4, 1.0, "mean"), &net);
        assert_eq!(rows, [[2.0, 3.0], [2.0, 3.0]]);
    }

    #[test]
    fn an_image_on_which_nothing_changes_is_left_out() {
        let case = of_probability(
            tensor(&[1, 1, 2], &[1.0, 1.0]),
            tensor(&[1, 1, 2], &[1.0, 2.0]),
            &[Score::Signed],
        );
        let values = values("pixels", 2, 0.1, "zero");
        let (rows, _) = measured(&case, &values, &|_| 0.5);
        assert_eq!(rows, [[0.0, 0.0]]);
        assert!((METRIC.reading.skips)(&values, &rows).is_some());
        assert!((METRIC.reading.skips)(&values, &[vec![0.0, 1.0]]).is_none());
    }

    /// Each feature by itself, its input made element by element.
    #[test]
    fn a_run_agrees_with_a_naive_twin() {
        let wave = |step: f32| {
            Tensor::from_shape_fn(vec![3, 6, 7], |at| {
                (step * (at[0] * 42 + at[1] * 7 + at[2]) as f32).sin()
            })
        };
        let (input, map, weights) = (wave(1.3), wave(2.1), wave(0.7));
        let net = |x: &Tensor| {
            let terms = x.iter().zip(&weights).map(|(a, b)| f64::from(a * b));
            terms.sum::<f64>().tanh()
        };
        let case = of_probability(map.clone(), input.clone(), &[Score::Signed]);
        let features: Features = vec![vec![0], vec![3, 4, 11], vec![20, 41], (0..42).collect()];
        let run = removing(&case, features.clone(), &Array1::zeros(3), 0.05);
        let (found, _) = followed(run, &net);
        let (mut passing, mut counted) = (0.0, 0.0);
        for feature in features {
            let is_gone = |y: usize, x: usize| feature.contains(&(y * 7 + x));
            let less = Tensor::from_shape_fn(vec![3, 6, 7], |at| {
                if is_gone(at[1], at[2]) {
                    0.0
                } else {
                    input[&at]
                }
            });
            let change = net(&input) - net(&less);
            let parts = map.indexed_iter().filter(|(at, _)| is_gone(at[1], at[2]));
            let sum: f64 = parts.map(|(_, value)| f64::from(*value)).sum();
            counted += 1.0;
            if sum / change >= 0.05 {
                passing += 1.0;
            }
        }
        assert_eq!(found, [[passing, counted]]);
    }

    #[test]
    fn features_are_drawn_once_each_and_by_the_image() {
        assert_eq!(draw(3, 5, 0), [0, 1, 2]);
        let drawn = draw(1000, 100, 7);
        assert_eq!(drawn.iter().collect::<BTreeSet<_>>().len(), 100);
        assert!(drawn.iter().all(|number| *number < 1000));
        assert_eq!(drawn, draw(1000, 100, 7));
        assert_ne!(drawn, draw(1000, 100, 8));
    }

    /// The SIG paper, Eq. 1: 1 at (127, 127), and at all other points of a grid of 20 x 20 drawn
    /// from [0, 0.5], bicubic between (Catmull and Rom). 0 where both are 0, so that attributions
    /// sum to 1, as in its Figure 4.
    struct Peak {
        grid: Array2<f64>,
    }

    impl Peak {
        /// The tenth point of the grid is 127.
        const SPACING: f64 = 12.7;

        fn draw(seed: u64) -> Self {
            let mut generator = generator(seed, 0);
            let mut grid =
                Array2::from_shape_simple_fn((20, 20), || generator.random::<f64>() / 2.0);
            (grid[[10, 10]], grid[[0, 0]]) = (1.0, 0.0);
            Self { grid }
        }

        /// The four points around and their weights, of the value and of its derivative.
        fn weights(x: f64) -> [(usize, f64, f64); 4] {
            let first = (x / Self::SPACING).floor();
            let t = x / Self::SPACING - first;
            let of = |k: usize, weight: f64, slope: f64| {
                let place = (first as usize + k).saturating_sub(1).min(19);
                (place, weight / 2.0, slope / 2.0 / Self::SPACING)
            };
            [
                of(0, -t * (1.0 - t).powi(2), -(1.0 - t) * (1.0 - 3.0 * t)),
                of(
                    1,
                    3.0 * t.powi(3) - 5.0 * t * t + 2.0,
                    9.0 * t * t - 10.0 * t,
                ),
                of(
                    2,
                    -3.0 * t.powi(3) + 4.0 * t * t + t,
                    -9.0 * t * t + 8.0 * t + 1.0,
                ),
                of(3, t.powi(3) - t * t, 3.0 * t * t - 2.0 * t),
            ]
        }

        /// The value, and the derivative by each of both.
        fn at(&self, x: f64, y: f64) -> [f64; 3] {
            let mut sums = [0.0; 3];
            for (i, of_x, slope_x) in Self::weights(x) {
                for (j, of_y, slope_y) in Self::weights(y) {
                    let value = self.grid[[i, j]];
                    let factors = [of_x * of_y, slope_x * of_y, of_x * slope_y];
                    sums.iter_mut()
                        .zip(factors)
                        .for_each(|(sum, factor)| *sum += value * factor);
                }
            }
            sums
        }

        /// Integrated Gradients at the peak from 0, by the midpoint rule.
        fn integrated_gradients(&self) -> [f64; 2] {
            let steps = 5000;
            let mut sums = [0.0; 2];
            for k in 0..steps {
                let x = 127.0 * (f64::from(k) + 0.5) / f64::from(steps);
                let [_, by_x, by_y] = self.at(x, x);
                sums = [sums[0] + by_x, sums[1] + by_y];
            }
            sums.map(|sum| 127.0 * sum / f64::from(steps))
        }
    }

    #[test]
    fn integrated_gradients_fail_the_papers_functions_by_pixel_and_pass_by_region() {
        let epsilon = 0.1;
        let (mut failing, mut largest) = (0, 0.0_f64);
        for seed in 0..100 {
            let peak = Peak::draw(seed);
            let gradient = peak.at(127.0, 127.0);
            assert!((gradient[0] - 1.0).abs() < 1e-12);
            let [first, second] = peak.integrated_gradients();
            largest = largest.max((first + second - 1.0).abs());
            let net = |x: &Tensor| peak.at(f64::from(x[[0, 0, 0]]), f64::from(x[[0, 0, 1]]))[0];
            let map = tensor(&[1, 1, 2], &[first as f32, second as f32]);
            let case = of_probability(map, tensor(&[1, 1, 2], &[127.0; 2]), &[Score::Signed]);
            let (rows, _) = measured(&case, &values("pixels", 2, epsilon, "zero"), &net);
            // Both are as important: without either the score falls by half at least.
            assert_eq!(rows[0][1], 2.0);
            failing += usize::from(rows[0][0] < 2.0);
            let both = removing(&case, vec![vec![0, 1]], &Array1::zeros(1), 0.999);
            assert_eq!(followed(both, &net).0, [[1.0, 1.0]]);
        }
        // The midpoint rule.
        assert!(largest < 1e-5, "{largest}");
        assert!(failing > 0 && failing < 100, "{failing}");
    }
}
