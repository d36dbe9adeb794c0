//! Methods that need forward passes alone, on a net by formula, against the authors' code and
//! Captum (forward.py).

use std::sync::Arc;

use explaind::{
    engine::Row,
    methods::{
        Answer, Answers, Attribution, Question, RunInputs, Step,
        parameters::{Facts, Parameters},
    },
    model::{
        Model, RuleSets,
        labels::{Classes, Labels},
        manifest::{Input, OutputKind},
    },
    picture::preprocess::Layout,
    segment::Segmentation,
    tensor::Tensor,
};
use onnx_autodiff::{
    autodiff::spec::{Head, PatternLayers},
    onnx::graph::Graph,
};
use serde_json::{Value, json};

use crate::{
    curves::tensor,
    stored::{self, Stored},
};

const SHAPE: [usize; 3] = [3, 40, 48];

/// What a method makes of the stored input of the net with the stored weights: two logits, each tanh
/// of the weighted sum. The baseline has the input's shape.
pub fn explained(
    reference: &Stored,
    given: &Value,
    baseline: Tensor,
    segmentation: Arc<Segmentation>,
) -> Attribution {
    let shape = baseline.shape().to_vec();
    let graph = Arc::new(Graph::default());
    let facts = Facts {
        model: "net",
        head: Head::Logits,
        kind: OutputKind::Classes,
        pattern_layers: &PatternLayers::All,
        classes: Classes {
            labels: &Labels::default(),
            count: Some(2),
        },
        has_patterns: false,
        layers: &[],
        layer: None,
        attention: Err("none"),
        supports: &[],
        input: &Input {
            name: "x".into(),
            shape: shape.clone(),
            preprocess: None,
            open: None,
        },
        graph: &graph,
        rule_sets: &RuleSets::default(),
    };
    let weights = tensor(reference, "weights", &[&[2], &shape[..]].concat());
    let net = move |input: &Tensor| {
        let logits = weights.outer_iter().map(|weights| {
            let terms = input.iter().zip(weights);
            let sum: f64 = terms.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            sum.tanh()
        });
        let logits: Vec<f64> = logits.collect();
        let total: f64 = logits.iter().map(|logit| logit.exp()).sum();
        Row {
            logits: logits.iter().map(|&logit| logit as f32).collect(),
            probabilities: logits
                .iter()
                .map(|logit| (logit.exp() / total) as f32)
                .collect(),
            ..Row::default()
        }
    };
    let input = tensor(reference, "input", &shape);
    let inputs = RunInputs {
        model: Arc::new(Model::bare("net", graph.clone())),
        baselines: vec![Arc::new(baseline)],
        input: Arc::new(input),
        seed: Arc::new([(1, 1.0)]),
        input_value: None,
        layout: Layout::Nchw,
        luma: None,
        segmentation,
        supports: Arc::default(),
        parameters: Arc::new(Parameters::parse(given.as_object().unwrap(), &facts).unwrap()),
    };
    let mut run = (inputs.parameters.method.build)(inputs);
    let mut answers = Answers::none();
    loop {
        let questions = match run.step(answers) {
            Step::Done(attribution) => return attribution,
            Step::Ask(questions) => questions,
        };
        let answer = |question| {
            let Question::Rows { points, .. } = question else {
                panic!("methods ask for rows")
            };
            Answer::Rows(points.iter().map(|point| net(&point.input)).collect())
        };
        answers = Answers(questions.into_iter().map(answer).collect());
    }
}

fn of(reference: &Stored, given: &Value, baseline: f32) -> Attribution {
    let baseline = Tensor::from_elem(SHAPE.to_vec(), baseline);
    explained(reference, given, baseline, Arc::default())
}

pub fn check(map: &Attribution, reference: &Stored, name: &str) {
    let expected = reference.floats(name).unwrap();
    assert_eq!(map.scores.len(), expected.len(), "{name}");
    let gaps = map.scores.iter().zip(&expected).map(|(a, b)| (a - b).abs());
    // What the net answers travels as f32.
    assert!(gaps.fold(0.0, f32::max) < 1e-6, "{name}");
}

#[test]
fn rise_is_that_of_the_published_code_at_the_same_masks() {
    let reference = stored::read("forward.safetensors");
    let given = json!({"method": "rise", "target": 1, "n_samples": 96, "grid_size": 6, "p_keep": 0.4, "seed": 3});
    check(&of(&reference, &given, 0.0), &reference, "rise");
}

#[test]
fn occlusion_is_captum_s_for_windows_strides_channels_and_baselines() {
    let reference = stored::read("forward.safetensors");
    for (window, stride, channels, baseline) in [
        ("9x9", "5x5", "all", "0.0"),
        ("7x11", "7x4", "all", "0.25"),
        ("12x8", "6x8", "each", "-0.5"),
        ("40x48", "1x1", "all", "0.0"),
    ] {
        let given = json!({
            "method": "occlusion", "target": 1, "window": window, "stride": stride, "window_channels": channels
        });
        let map = of(&reference, &given, baseline.parse().unwrap());
        let name = format!("occlusion.{window}.{stride}.{channels}.{baseline}");
        check(&map, &reference, &name);
    }
}
