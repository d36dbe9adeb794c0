//! The real networks on a photo: the methods `gradient` and `integrated_gradients` against PyTorch
//! and Captum in f64 (pretrained.py tells what is stored). The photo is not chosen away from kinks,
//! so rounding alone moves these maps by up to a hundredth; the yardsticks hold that.

use std::{path::Path, sync::Arc};

use explaind::{
    engine::{Point, Row, backend_ort::OrtSession},
    methods::{Answers, Question, RunInputs, Step, parameters::Parameters, registry},
    model::Model,
    picture::preprocess::Layout,
    tensor::Tensor,
};
use ndarray::{Array3, Axis, IxDyn};
use onnx_autodiff::{
    autodiff::{
        derive,
        spec::{DeriveSpec, Head, PatternLayers},
    },
    onnx::{graph::Graph, read_model},
};
use serde::Deserialize;

use crate::{
    session::{distance, open, run, sample},
    stored::{self, Stored},
};

const CLASSES: usize = 1000;

#[test]
fn squeezenet_agrees_with_pytorch_and_captum() {
    agrees_with_pytorch("squeezenet1_1");
}

/// `make models` fetches it; `make test` does so first.
#[test]
fn efficientnet_lite0_agrees_with_pytorch_and_captum() {
    agrees_with_pytorch("efficientnet_lite0");
}

#[derive(Deserialize)]
struct Preprocessing {
    scale: f32,
    mean: [f32; 3],
    std: [f32; 3],
}

/// The photo of a reference as its model takes it.
pub fn photo(reference: &Stored) -> Arc<Tensor> {
    let preprocessing: Preprocessing = reference.json("preprocessing");
    let pixels = reference.bytes("pixels");
    let input = Array3::from_shape_fn((3, 224, 224), |(channel, y, x)| {
        let pixel = f32::from(pixels[(y * 224 + x) * 3 + channel]);
        (pixel * preprocessing.scale - preprocessing.mean[channel]) / preprocessing.std[channel]
    });
    Arc::new(input.into_dyn())
}

/// A real network of the folder models.
pub fn network(model: &str) -> Graph {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("models")
        .join(model)
        .join("model.onnx");
    read_model(&path).unwrap_or_else(|error| panic!("{error}; run `make models`"))
}

fn agrees_with_pytorch(model: &str) {
    let reference = stored::read(&format!("pretrained/{model}.safetensors"));
    let source = network(model);
    let input = photo(&reference);
    let target: usize = reference.json("target");
    for (method, head) in [
        ("gradient", Head::Logits),
        ("integrated_gradients", Head::Probabilities),
    ] {
        let parameters =
            Parameters::defaults(registry::find(method).unwrap(), head, PatternLayers::All);
        let baselines = if method == "gradient" {
            vec![]
        } else {
            vec![Arc::new(Tensor::zeros(input.shape()))]
        };
        let inputs = RunInputs {
            model: Arc::new(Model::bare(model, Arc::new(source.clone()))),
            input: input.clone(),
            seed: Arc::new([(target, 1.0)]),
            input_value: None,
            baselines,
            layout: Layout::Nchw,
            luma: None,
            segmentation: Arc::default(),
            supports: Arc::default(),
            parameters: Arc::new(parameters),
        };
        let scores = explain(&source, inputs, &reference.floats("logits").unwrap());
        let expected = reference.floats(method).unwrap();
        let gap = distance(scores.as_slice().unwrap(), &expected);
        println!(
            "{model}: {method} {gap:.1e} of {:.1e}",
            reference.tolerance(method)
        );
        assert!(
            gap <= reference.tolerance(method),
            "{model}: {method} is {gap:.1e} away"
        );
    }
}

/// Drives a method over one session; the input's own logits must be `logits`.
fn explain(source: &Graph, inputs: RunInputs, logits: &[f32]) -> Arc<Tensor> {
    let input = inputs.input.clone();
    let spec = inputs.parameters.derive_spec();
    let mut session = open(&derive(source, &spec, None).unwrap().graph);
    let mut method = (inputs.parameters.method.build)(inputs);
    let mut answers = Answers::none();
    loop {
        let questions = match method.step(answers) {
            Step::Done(attribution) => return attribution.scores,
            Step::Ask(questions) => questions,
        };
        let mut rows = Vec::new();
        for question in questions {
            let Question::Rows { graph, points, .. } = question else {
                panic!("methods ask for rows")
            };
            assert_eq!(graph.spec, spec);
            for points in points.chunks(5) {
                let found = evaluate(&mut session, points, &spec, CLASSES);
                for (point, row) in points.iter().zip(&found) {
                    if Arc::ptr_eq(&point.input, &input) {
                        assert!(distance(&row.logits, logits) < 1e-5);
                    }
                }
                rows.extend(found);
            }
        }
        answers = rows.into();
    }
}

/// What the engine does with the points of a run.
pub fn evaluate(
    session: &mut OrtSession,
    points: &[Point],
    spec: &DeriveSpec,
    classes: usize,
) -> Vec<Row> {
    let inputs: Vec<_> = points.iter().map(|point| point.input.view()).collect();
    let inputs = ndarray::stack(Axis(0), &inputs).unwrap();
    let mut seed = Tensor::zeros(IxDyn(&[points.len(), classes]));
    for (row, point) in points.iter().enumerate() {
        point
            .seed
            .iter()
            .for_each(|&(class, weight)| seed[[row, class]] = weight);
    }
    let named = [("input", &inputs), ("seed", &seed)];
    let is_forward = spec.rule_sets.is_empty();
    let answers = run(session, if is_forward { &named[..1] } else { &named });
    let one = |values: &Tensor, index: usize| values.index_axis(Axis(0), index).to_owned();
    let row = |index: usize| Row {
        logits: sample(&answers["logits"], index),
        probabilities: sample(&answers["probabilities"], index),
        cotangents: spec
            .cotangent_names()
            .iter()
            .map(|name| one(&answers[name], index))
            .collect(),
        activations: spec
            .activation_names()
            .iter()
            .map(|name| one(&answers[name], index))
            .collect(),
    };
    (0..points.len()).map(row).collect()
}
