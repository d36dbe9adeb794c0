//! Metrics that Captum and Quantus measure too, of the same maps and at the same noise (metrics.py).

use std::sync::Arc;

use explaind::{
    engine::Row,
    evaluation::{AttributionMap, Case, CaseRow, parameters::Values, patches::Score, registry},
    methods::{
        self, Answer, Answers, Attribution, Explained, ExplainedTarget, Prediction, Question,
        Request, Step, Timing, parameters::Parameters,
    },
    model::Model,
    tensor::Tensor,
};
use ndarray::{Ix2, Zip};
use onnx_autodiff::autodiff::spec::{Head, PatternLayers};
use serde_json::{Value, json};

use crate::stored::{self, Stored};

/// Captum and explaind take the same steps in f64, in another order.
const TOLERANCE: f64 = 1e-6;

fn tensor(reference: &Stored, name: &str, shape: &[usize]) -> Tensor {
    Tensor::from_shape_vec(shape.to_vec(), reference.floats(name).unwrap()).unwrap()
}

/// One map of an input.
fn case(reference: &Stored, input: Tensor, map: Tensor, score: Score) -> Case {
    let method = methods::registry::find("gradient").unwrap();
    let parameters = Parameters::defaults(method, Head::Logits, PatternLayers::All);
    Case {
        model: Arc::new(Model::bare("net", Default::default())),
        variants: Arc::new([]),
        input: Arc::new(input),
        class: 0,
        clean: 0.0,
        right: None,
        twin: None,
        region: None,
        maps: Arc::new([AttributionMap {
            request: Request::of(parameters),
            scores: Arc::new(map),
            difference: None,
            compared: None,
        }]),
        rows: Arc::new([CaseRow { map: 0, score }]),
        seed: reference.json("seed"),
    }
}

/// The number that a metric measures of the only row, of a net and a method by formula.
fn measured(
    metric: &str,
    given: Value,
    case: &Case,
    net: &dyn Fn(&Tensor) -> f32,
    explain: &dyn Fn(&Tensor) -> Tensor,
) -> f64 {
    let metric = registry::find(metric).unwrap();
    let values = Values(given.as_object().unwrap().clone());
    let mut run = (metric.build)(case, &values).unwrap().remove(0);
    let mut answers = Answers::none();
    loop {
        let questions = match run.step(answers) {
            Step::Done(found) => return found.unwrap()[0][0],
            Step::Ask(questions) => questions,
        };
        let answer = |question| match question {
            Question::Rows { points, .. } => {
                let row = |input: &Tensor| Row {
                    logits: vec![net(input)],
                    ..Row::default()
                };
                Answer::Rows(points.iter().map(|point| row(&point.input)).collect())
            }
            Question::Explain { input, request, .. } => {
                Answer::Explained(vec![explained(explain(&input), request)])
            }
        };
        answers = Answers(questions.into_iter().map(answer).collect());
    }
}

fn explained(scores: Tensor, request: Request) -> Explained {
    let class = Prediction {
        index: 0,
        label: None,
        score: 1.0,
    };
    Explained {
        target: ExplainedTarget {
            class,
            against: None,
        },
        predictions: Vec::new(),
        parameters: Arc::new(request.parameters),
        attribution: Attribution::of(scores),
        timing: Timing::default(),
        evaluations: 1,
    }
}

#[test]
fn infidelity_and_maximum_sensitivity_are_those_of_captum() {
    let reference = stored::read("metrics.safetensors");
    let [input, map, weights] =
        ["input", "map", "weights"].map(|name| tensor(&reference, name, &[3, 8, 9]));
    let net = |input: &Tensor| {
        let terms = input.iter().zip(&weights);
        let sum: f64 = terms.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        (5.0 * (sum / 10.0).tanh()) as f32
    };
    let explain = |input: &Tensor| {
        let score =
            |x: &f32, weight: &f32| (f64::from(*weight) * (3.0 * f64::from(*x)).sin()) as f32;
        Zip::from(input).and(&weights).map_collect(score)
    };
    let own = case(&reference, input.clone(), explain(&input), Score::Signed);
    let given = case(&reference, input, map, Score::Signed);
    let number = |name: &str| reference.json::<f64>(name);
    let samples: usize = reference.json("samples");
    for (name, scaling) in [("infidelity", "none"), ("infidelity.optimal", "optimal")] {
        let values = json!({ "noise": number("noise"), "samples": samples, "scaling": scaling });
        let found = measured("infidelity", values, &given, &net, &explain);
        assert!((found - number(name)).abs() < TOLERANCE, "{name} {found}");
    }
    let values = json!({ "radius": number("radius"), "samples": samples });
    let found = measured("max_sensitivity", values, &own, &net, &explain);
    assert!(
        (found - number("max_sensitivity")).abs() < TOLERANCE,
        "{found}"
    );
}

#[test]
fn localisation_and_complexity_are_those_of_quantus() {
    let reference = stored::read("metrics.safetensors");
    let pixels = tensor(&reference, "pixels", &[1, 8, 9]);
    let region = tensor(&reference, "region", &[8, 9]).mapv(|inside| inside > 0.0);
    let region = region.into_dimensionality::<Ix2>().unwrap();
    let mut case = case(&reference, pixels.clone(), pixels, Score::Signed);
    case.region = Some(Arc::new(region));
    let k: usize = reference.json("k");
    let cases = [
        ("pointing_game", json!({ "tolerance": 0 })),
        ("energy_pointing", json!({})),
        ("relevance_mass", json!({})),
        ("relevance_rank", json!({})),
        ("top_k_intersection", json!({ "k": k })),
        ("sparseness", json!({})),
        ("entropy", json!({})),
    ];
    for (metric, values) in cases {
        let found = measured(metric, values, &case, &|_| f32::NAN, &Tensor::clone);
        let expected: f64 = reference.json(metric);
        assert!(
            (found - expected).abs() < TOLERANCE,
            "{metric} {found} {expected}"
        );
    }
}
