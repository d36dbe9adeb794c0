//! Graphs with a saliency map on a net by formula, f_c = (x W)_c², against a twin in f64.

use onnx_autodiff::{
    autodiff::spec::DeriveSpec,
    onnx::graph::{Element, Graph, Literal, Node, ValueInfo, ValueType},
    saliency::{
        Formula, Noise, Normalize, Saliency, Sample, Samples, Statistic, Target, explainer,
    },
};

use crate::run::{Net, tensor};

const W: [[f64; 3]; 2] = [[1.0, -2.0, 0.5], [3.0, 0.25, -1.0]];
const X: [f64; 2] = [0.75, -1.5];
const STARTS: [[f64; 2]; 2] = [[0.0, 0.0], [0.5, 0.25]];
const NOISE: [[f64; 2]; 3] = [[0.5, -1.0], [1.25, 0.75], [-0.5, 2.0]];
const LEVEL: f64 = 0.25;
/// Of sums of float32 whose terms may cancel.
const CLOSE: f64 = 1e-5;

fn net() -> Graph {
    let value = |name: &str, size: usize| ValueInfo {
        name: name.into(),
        value_type: ValueType::new(Element::Float, vec!["N".into(), size.into()]),
    };
    let weights = W.concat().iter().map(|w| *w as f32).collect::<Vec<_>>();
    Graph {
        inputs: vec![value("x", 2)],
        outputs: vec![value("y", 3)],
        initializers: [("w".to_owned(), Literal::from_f32s(&[2, 3], &weights))]
            .into_iter()
            .collect(),
        nodes: vec![
            Node::new("MatMul", ["x", "w"], ["h"]),
            Node::new("Mul", ["h", "h"], ["y"]),
        ],
        ..Graph::default()
    }
}

fn gradient(at: [f64; 2], class: usize) -> [f64; 2] {
    let h = at[0] * W[0][class] + at[1] * W[1][class];
    [2.0 * h * W[0][class], 2.0 * h * W[1][class]]
}

/// The map of [`X`].
fn map(formula: Formula, target: Target, normalize: Normalize) -> Vec<f64> {
    let saliency = Saliency {
        formula,
        spec: DeriveSpec::gradient(),
        target,
        upsample: false,
        normalize,
    };
    let made = explainer(&net(), &saliency, None).unwrap();
    assert!(made.newer.is_empty());
    let x = tensor(&[1, 2], X.map(|x| x as f32).to_vec());
    let mut outputs = Net::open(&made.graph).unwrap().run(&[("x", &x)]).unwrap();
    let map = outputs.remove("saliency_map").unwrap();
    assert_eq!((map.shape(), outputs.len()), (&[1, 2][..], 2));
    map.iter().map(|score| f64::from(*score)).collect()
}

fn assert_close(found: &[f64], expected: [f64; 2], what: &str) {
    for (found, expected) in found.iter().zip(expected) {
        let gap = (found - expected).abs();
        assert!(
            gap < CLOSE * expected.abs().max(1.0),
            "{what}: {found} for {expected}"
        );
    }
}

#[test]
fn the_class_of_the_largest_logit_is_explained_and_a_contrast_is_a_difference() {
    // h = (-3.75, -1.875, 1.875): class 0.
    let predicted = map(Formula::Derivative, Target::Predicted, Normalize::None);
    assert_close(&predicted, gradient(X, 0), "predicted");
    let seed = Target::Seed(vec![(2, 1.0), (1, -1.0)]);
    let [against, class] = [1, 2].map(|class| gradient(X, class));
    let difference = [0, 1].map(|axis| (class[axis] - against[axis]) * X[axis]);
    let found = map(Formula::InputXDerivative, seed, Normalize::None);
    assert_close(&found, difference, "contrast");
}

#[test]
fn maps_are_divided_by_their_largest_value_or_their_range() {
    let [a, b] = gradient(X, 0);
    let of = |how| map(Formula::Derivative, Target::Predicted, how);
    let largest = a.abs().max(b.abs());
    assert_close(
        &of(Normalize::MaxAbs),
        [a / largest, b / largest],
        "max-abs",
    );
    assert_close(&of(Normalize::MinMax), [1.0, 0.0], "min-max");
}

#[test]
fn statistics_of_points_do_not_depend_on_how_many_are_evaluated_at_a_time() {
    let points: Vec<Sample> = (0..11)
        .map(|place| Sample {
            baseline: place % 2,
            noise: place % 3,
            alpha: place as f64 / 10.0,
            weight: 1.0 / (2.0 + place as f64),
        })
        .collect();
    let sigma = LEVEL * (X[0] - X[1]);
    for (starts, noisy) in [(true, false), (false, true), (true, true)] {
        for statistic in [
            Statistic::Sum,
            Statistic::SumOfWays,
            Statistic::SumOfSquares,
            Statistic::Variance,
        ] {
            if statistic == Statistic::SumOfWays && !starts {
                continue;
            }
            let terms: Vec<_> = points
                .iter()
                .map(|point| {
                    let end = [0, 1].map(|axis| {
                        let moved = if noisy {
                            sigma * NOISE[point.noise][axis]
                        } else {
                            0.0
                        };
                        X[axis] + moved
                    });
                    let start = STARTS[point.baseline];
                    let at = [0, 1].map(|axis| match starts {
                        true => start[axis] + point.alpha * (end[axis] - start[axis]),
                        false => end[axis],
                    });
                    let way = [0, 1].map(|axis| end[axis] - start[axis]);
                    (gradient(at, 1), way, point.weight)
                })
                .collect();
            let count = terms.len() as f64;
            let expected = [0, 1].map(|axis| {
                let mean = terms.iter().map(|(g, ..)| g[axis]).sum::<f64>() / count;
                let term = |(g, way, weight): &([f64; 2], [f64; 2], f64)| match statistic {
                    Statistic::Sum => weight * g[axis],
                    Statistic::SumOfWays => weight * way[axis] * g[axis],
                    Statistic::SumOfSquares => weight * g[axis] * g[axis],
                    Statistic::Variance => (g[axis] - mean).powi(2) / count,
                };
                terms.iter().map(term).sum::<f64>()
            });
            for rows in [1, 2, 4, 11, 100] {
                let flat = |values: &[[f64; 2]]| {
                    let flat: Vec<f32> = values.concat().iter().map(|v| *v as f32).collect();
                    Literal::from_f32s(&[values.len(), 2], &flat)
                };
                let formula = Formula::Samples(Samples {
                    points: points.clone(),
                    rows,
                    baselines: starts.then(|| flat(&STARTS)),
                    noise: noisy.then(|| Noise {
                        level: LEVEL,
                        deviates: flat(&NOISE),
                    }),
                    statistic,
                });
                let found = map(formula, Target::Seed(vec![(1, 1.0)]), Normalize::None);
                let what = format!("{statistic:?}, {rows} rows, starts {starts}, noise {noisy}");
                assert_close(&found, expected, &what);
            }
        }
    }
}
