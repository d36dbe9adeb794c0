//! Infidelity: by how much a map misses the fall of the output that it explains, f(x) - f(x - I),
//! when it says Iᵀφ; the mean square over noise I. Yeh et al., 2019, Definition 2.1. Features are
//! the elements of the input, all channels of it; a map of one channel has the same part of its
//! score in each. With `scaling: optimal` the map is first multiplied by the number that makes its
//! infidelity the least, Σ (Iᵀφ) (f(x) - f(x - I)) / Σ (Iᵀφ)², and 0 where Iᵀφ always is. Cost:
//! `samples` evaluations of the forward graph, whatever the rows. Agrees with Captum's `infidelity`,
//! scaled as by its `normalize`, at the same noise.

use serde::Deserialize;

use super::{
    AttributionMap, Case, Category, Cost, Direction, Metric, MetricError, MetricRun, Needs,
    Reading, Words,
    noise::{NORMALS, moved, range},
    parameters::{Allowed, MetricParameter, Values},
    patches::Score,
    removal::{Removal, compare},
};
use crate::{random::normals, tensor::Tensor};

/// The most samples.
const MOST: usize = 1000;

pub const METRIC: Metric = Metric {
    id: "infidelity",
    title: "Infidelity",
    paper: "Yeh et al., On the (In)fidelity and Sensitivity of Explanations, 2019, Definition 2.1",
    category: Category::Faithfulness,
    direction: |_| Direction::Lower,
    parameters: &[
        MetricParameter {
            name: "noise",
            doc: "standard deviation of the noise, as a fraction of the input's range (max - min)",
            allowed: |_, _| Allowed::Real {
                least: 0.001,
                most: 1.0,
                default: 0.03,
            },
        },
        MetricParameter {
            name: "samples",
            doc: "noisy inputs, the same for all methods",
            allowed: |_, _| Allowed::Whole {
                least: 1,
                most: MOST,
                default: 10,
            },
        },
        MetricParameter {
            name: "scaling",
            doc: "`none`, or `optimal`: each map times the number that suits it best",
            allowed: |_, _| Allowed::OneOf {
                words: &["none", "optimal"],
                default: Some("none"),
            },
        },
    ],
    words: Words {
        about: |values| {
            format!(
                "By how much the sum of a map's scores, weighted by what is taken from the input, misses the fall of the output that it \
                 explains: the mean square over {} draws of noise, of {} of the input's range{}.",
                values.number("samples"),
                values.real("noise"),
                match values.word("scaling") {
                    Some("optimal") =>
                        ", after each map was multiplied by the number that suits it best",
                    _ => "",
                }
            )
        },
        heading: "Infidelity",
        column: "infidelity",
        legend: "mean square of (Iᵀφ - (f(x) - f(x - I)))",
        value: "The mean over images, in squared units of the output that is explained, its logit or its probability.",
        axes: None,
    },
    needs: Needs {
        cost: Cost {
            words: "samples",
            count: |values, _, _| values.number("samples"),
        },
        ..Needs::NOTHING
    },
    build,
    reading: Reading::NUMBER,
};

#[derive(Clone, Copy, Debug, Deserialize)]
struct InfidelityParameters {
    noise: f64,
    samples: usize,
    scaling: Scaling,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Scaling {
    None,
    Optimal,
}

fn build(case: &Case, values: &Values) -> Result<Vec<MetricRun>, MetricError> {
    let InfidelityParameters {
        noise,
        samples,
        scaling,
    } = values.read()?;
    let (scale, from) = (-noise * range(&case.input), case.clone());
    let mut sample = 0;
    let take = move || {
        let numbers = normals(from.seed, NORMALS + sample);
        sample += 1;
        let left = moved(&from.input, scale, numbers);
        let worth = |(map, score): (&AttributionMap, Score)| {
            product(&from.input, &left, &map.scores, score)
        };
        let worth = from.row_maps().map(worth).collect();
        Removal { left, worth }
    };
    let measure = move |worth: &[f64], falls: &[f64]| vec![infidelity(worth, falls, scaling)];
    Ok(vec![compare(case, samples, take, measure)])
}

/// Iᵀφ, where I is the input less what is left of it, as rounded.
fn product(input: &Tensor, left: &Tensor, scores: &Tensor, score: Score) -> f64 {
    let Some(features) = scores.broadcast(input.raw_dim()) else {
        return f64::NAN;
    };
    let part = scores.len() as f64 / input.len() as f64;
    let terms = input.iter().zip(left).zip(features);
    let terms = terms.map(|((input, left), feature)| {
        let feature = match score {
            Score::Signed => *feature,
            Score::Absolute => feature.abs(),
        };
        (f64::from(*input) - f64::from(*left)) * f64::from(feature)
    });
    terms.sum::<f64>() * part
}

fn infidelity(worth: &[f64], falls: &[f64], scaling: Scaling) -> f64 {
    let sum = |of: &dyn Fn(f64, f64) -> f64| -> f64 {
        worth
            .iter()
            .zip(falls)
            .map(|(worth, fall)| of(*worth, *fall))
            .sum()
    };
    let scale = match (scaling, sum(&|worth, _| worth * worth)) {
        (Scaling::None, _) => 1.0,
        (Scaling::Optimal, 0.0) => 0.0,
        (Scaling::Optimal, squares) => sum(&|worth, fall| worth * fall) / squares,
    };
    sum(&|worth, fall| (scale * worth - fall).powi(2)) / falls.len() as f64
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use onnx_autodiff::autodiff::spec::Head;
    use serde_json::json;

    use super::*;
    use crate::{
        evaluation::{
            Measurement,
            tests::{case, driven, followed, linear, tensor},
        },
        methods::target::Target,
    };

    fn values(samples: usize, scaling: &str) -> Values {
        let fields = [
            ("noise", json!(0.1)),
            ("samples", json!(samples)),
            ("scaling", json!(scaling)),
        ];
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
    pub(in crate::evaluation) fn a_hand_worked_map_misses_what_was_worked_by_hand() {
        // 1 says 1 and is worth 2, 2 says 2 and is worth 1: both are missed by 1. Times 4/5, which is
        // (2 + 2) / (1 + 4), by 6/5 and 3/5.
        let found = |scaling| infidelity(&[1.0, 2.0], &[2.0, 1.0], scaling);
        assert_eq!(found(Scaling::None), 1.0);
        assert!((found(Scaling::Optimal) - 0.9).abs() < 1e-12);
        assert_eq!(infidelity(&[0.0; 2], &[2.0, 1.0], Scaling::Optimal), 2.5);
        // Two channels of two pixels; a map of one channel has half its score in each.
        let product = |taken: &Tensor, map: &Tensor, score| {
            let left = taken.mapv(|taken| 7.0 - taken);
            product(&Tensor::from_elem(taken.raw_dim(), 7.0), &left, map, score)
        };
        let taken = tensor(&[2, 1, 2], &[1.0, 2.0, 3.0, -4.0]);
        let map = tensor(&[2, 1, 2], &[1.0, -1.0, 2.0, 5.0]);
        assert_eq!(product(&taken, &map, Score::Signed), 1.0 - 2.0 + 6.0 - 20.0);
        assert_eq!(
            product(&taken, &map, Score::Absolute),
            1.0 + 2.0 + 6.0 - 20.0
        );
        let pixels = tensor(&[1, 1, 2], &[10.0, -6.0]);
        assert_eq!(
            product(&taken, &pixels, Score::Signed),
            5.0 * 4.0 + 3.0 * 2.0
        );
        let last = tensor(&[1, 2, 1], &[10.0, -6.0]);
        let taken = tensor(&[1, 2, 2], &[1.0, 3.0, 2.0, -4.0]);
        assert_eq!(product(&taken, &last, Score::Signed), 5.0 * 4.0 + 3.0 * 2.0);
    }

    /// Noise is read off what the net is given.
    #[test]
    fn runs_agree_with_a_naive_twin() {
        let wave = |step: f64| {
            move |at: ndarray::IxDyn| (step * (at[0] * 20 + at[1] * 5 + at[2]) as f64).sin() as f32
        };
        let shape = vec![3, 4, 5];
        let input = Tensor::from_shape_fn(shape.clone(), wave(0.7));
        let map = Tensor::from_shape_fn(shape.clone(), wave(1.9));
        let weights = Tensor::from_shape_fn(shape, wave(1.1));
        let mut case = case(map.clone(), &[Score::Signed, Score::Absolute]);
        case.input = Arc::new(input.clone());
        let output = |x: &Tensor| {
            let sum = x.iter().zip(&weights).map(|(a, b)| f64::from(a * b));
            f64::from((5.0 * sum.sum::<f64>().tanh()) as f32)
        };
        let seen = std::cell::RefCell::new(Vec::new());
        let net = |x: &Tensor| {
            seen.borrow_mut().push(x.clone());
            output(x)
        };
        let (none, asked) = measured(case.clone(), &values(40, "none"), &net);
        assert_eq!(asked, (METRIC.needs.cost.count)(&values(40, "none"), 2, 0));
        let (optimal, _) = measured(case, &values(40, "optimal"), &net);
        let seen = seen.into_inner();
        // The same noise again, of a tenth of the range.
        assert_eq!(seen[..41], seen[41..]);
        let noise = |x: &Tensor| -> f64 { (x - &input).iter().map(|x| f64::from(x * x)).sum() };
        let deviation = (seen[1..41].iter().map(noise).sum::<f64>() / 2400.0).sqrt();
        // Four standard errors of 2400 draws.
        let gap = deviation / (0.1 * range(&input)) - 1.0;
        assert!(gap.abs() < 4.0 / 4800_f64.sqrt(), "{gap}");
        for (row, size) in [f32::clone, |x: &f32| x.abs()].into_iter().enumerate() {
            let missed = |scale: f64| -> f64 {
                let of = |x: &Tensor| {
                    let mut said = 0.0;
                    let taken = input.mapv(f64::from) - x.mapv(f64::from);
                    for (at, taken) in taken.indexed_iter() {
                        said += taken * f64::from(size(&map[&at]));
                    }
                    (scale * said - (output(&input) - output(x))).powi(2)
                };
                seen[1..41].iter().map(of).sum::<f64>() / 40.0
            };
            assert!((none[row][0] - missed(1.0)).abs() < 1e-9, "{none:?}");
            // A parabola in the scale, whose lowest point three others give.
            let (a, b, c) = (missed(-1.0), missed(0.0), missed(1.0));
            let best = (a - c) / (2.0 * (a - 2.0 * b + c));
            assert!((optimal[row][0] - missed(best)).abs() < 1e-9, "{optimal:?}");
        }
    }

    /// The weights say what noise is worth; twice as much needs the scaling. Probabilities and
    /// contrasts are explained as what they are.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_weights_of_a_linear_model_miss_nothing() {
        let weights = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 3.0, -1.0, 2.0, -5.0, 0.5, 1.0];
        let own = tensor(&[1, 2, 3], &weights[6..]);
        let other = tensor(&[1, 2, 3], &weights[..6]);
        let maps = [
            (&own * 1.0, Target::Predicted, Head::Logits),
            (&own * 2.0, Target::Predicted, Head::Logits),
            (&own - &other, Target::Contrast(1, 0), Head::Logits),
            (own.clone(), Target::Predicted, Head::Probabilities),
        ];
        let mut case = case(own.clone(), &[Score::Signed; 4]);
        let first = case.maps[0].clone();
        let map = |(scores, target, head): (Tensor, Target, Head)| {
            let mut map = first.clone();
            (map.scores, map.request.parameters.target) = (Arc::new(scores), target);
            map.request.parameters.head = head;
            map
        };
        case.maps = maps.into_iter().map(map).collect();
        case.rows = (0..4)
            .map(|map| crate::evaluation::CaseRow {
                map,
                score: Score::Signed,
            })
            .collect();
        case.input = Arc::new(Tensor::from_shape_fn(vec![1, 2, 3], |at| at[2] as f32));
        (case.model, case.class) = (Arc::new(linear(&weights)), 1);
        for scaling in ["none", "optimal"] {
            let values = values(30, scaling);
            let (found, evaluated) = driven(&case, (METRIC.build)(&case, &values).unwrap()).await;
            assert_eq!(evaluated, (METRIC.needs.cost.count)(&values, 4, 0));
            // Outputs travel as f32.
            let is_nothing = |row: usize| found[row][0] < 1e-10;
            assert!(is_nothing(0) && is_nothing(2), "{scaling} {found:?}");
            assert_eq!(is_nothing(1), scaling == "optimal", "{found:?}");
            assert!(!is_nothing(3));
        }
    }
}
