//! Metrics whose curves other programs draw too, on a net by formula (curves.py).

use std::sync::Arc;

use explaind::{
    engine::Row,
    evaluation::{
        AttributionMap, Case, CaseRow, aggregate::integral, parameters::Values, patches::Score,
        registry,
    },
    methods::{self, Answer, Answers, Question, Request, Step, parameters::Parameters},
    model::Model,
    tensor::Tensor,
};
use onnx_autodiff::autodiff::spec::{Head, PatternLayers};
use serde_json::json;

use crate::stored::{self, Stored};

pub fn tensor(reference: &Stored, name: &str, shape: &[usize]) -> Tensor {
    Tensor::from_shape_vec(shape.to_vec(), reference.floats(name).unwrap()).unwrap()
}

/// One map of an input, and the net's score of it.
pub fn case(input: Tensor, map: Tensor, clean: f64) -> Case {
    let method = methods::registry::find("gradient").unwrap();
    let parameters = Parameters::defaults(method, Head::Logits, PatternLayers::All);
    Case {
        model: Arc::new(Model::bare("net", Default::default())),
        variants: Arc::new([]),
        input: Arc::new(input),
        class: 0,
        clean,
        right: None,
        twin: None,
        region: None,
        maps: Arc::new([AttributionMap {
            request: Request::of(parameters),
            scores: Arc::new(map),
            difference: None,
            compared: None,
        }]),
        rows: Arc::new([CaseRow {
            map: 0,
            score: Score::Signed,
        }]),
        seed: 0,
    }
}

/// What a metric measures of the only row.
pub fn measured(
    metric: &str,
    case: &Case,
    values: &Values,
    net: &dyn Fn(&Tensor) -> f64,
) -> Vec<f64> {
    let metric = registry::find(metric).unwrap();
    let mut run = (metric.build)(case, values).unwrap().remove(0);
    let mut answers = Answers::none();
    loop {
        let questions = match run.step(answers) {
            Step::Done(found) => return found.unwrap().remove(0),
            Step::Ask(questions) => questions,
        };
        let answer = |question| {
            let Question::Rows { points, .. } = question else {
                panic!("a run over rows alone")
            };
            let row = |input: &Tensor| Row {
                probabilities: vec![net(input) as f32],
                ..Row::default()
            };
            Answer::Rows(points.iter().map(|point| row(&point.input)).collect())
        };
        answers = Answers(questions.into_iter().map(answer).collect());
    }
}

#[test]
fn deletion_and_insertion_are_those_of_the_published_evaluation() {
    let reference = stored::read("curves.safetensors");
    let shape = [3, 64, 64];
    let weights = tensor(&reference, "rise.weights", &shape);
    let net = |input: &Tensor| -> f64 {
        let terms = input.iter().zip(&weights);
        let sum: f64 = terms.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        1.0 / (1.0 + (-sum).exp())
    };
    let input = tensor(&reference, "rise.input", &shape);
    let clean = net(&input);
    let case = case(input, tensor(&reference, "rise.map", &[1, 64, 64]), clean);
    let values = Values([("steps".to_owned(), json!(64))].into_iter().collect());
    let areas = reference.floats("rise.areas").unwrap();
    for (metric, area) in ["deletion", "insertion"].into_iter().zip(areas) {
        let found = measured(metric, &case, &values, &net);
        let expected = reference.floats(&format!("rise.{metric}")).unwrap();
        assert_eq!(found.len(), expected.len());
        // Inputs, kernels and scores travel as f32.
        let gaps = found
            .iter()
            .zip(&expected)
            .map(|(a, b)| (a - f64::from(*b)).abs());
        assert!(gaps.fold(0.0, f64::max) < 1e-6, "{metric} {found:?}");
        assert!((integral(&found) - f64::from(area)).abs() < 1e-6);
    }
}
