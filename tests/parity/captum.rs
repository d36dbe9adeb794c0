//! Methods against Captum in f64 on two of torchvision's nets. captum_maps.py tells what is stored,
//! and draws the same numbers where a method draws any.

use std::sync::Arc;

use explaind::{
    methods::{
        Answer, Answers, Question, RunInputs, Step,
        parameters::{Facts, Parameters},
        registry::METHODS,
    },
    model::{
        Model,
        labels::{Classes, Labels},
        manifest::OutputKind,
    },
    picture::preprocess::Layout,
    tensor::Tensor,
};
use onnx_autodiff::{
    autodiff::{
        derive, spatial_layers,
        spec::{Head, PatternLayers},
    },
    onnx::graph::Graph,
};
use serde_json::{Value, json};

use crate::{
    pretrained::evaluate,
    session::{distance, open},
    stored,
    torchvision::{Drawn, read_export, uniform, write_weights},
};

const CLASSES: usize = 20;

#[test]
fn squeezenet_agrees_with_captum() {
    agrees_with_captum("squeezenet1_1", "squeezenet1_1.script17.onnx");
}

#[test]
fn resnet_agrees_with_captum() {
    agrees_with_captum("resnet18", "resnet18.script17.onnx");
}

fn agrees_with_captum(net: &str, export: &str) {
    let (drawn, captum) = (
        stored::read(&format!("torchvision/{net}.safetensors")),
        stored::read(&format!("captum/{net}.safetensors")),
    );
    let scratch = tempfile::tempdir().unwrap();
    write_weights(&drawn, scratch.path());
    let source = read_export(export, scratch.path());
    let input: Drawn = drawn.json("input");
    let tensor =
        |values: Vec<f32>| Arc::new(Tensor::from_shape_vec(input.shape.clone(), values).unwrap());
    let seeds: Vec<u64> = captum.json("baselines");
    let baselines: Vec<_> = seeds
        .into_iter()
        .map(|seed| tensor(uniform(seed, input.values().len()).collect()))
        .collect();
    let x = tensor(input.values());
    let mut faults = Vec::new();
    for method in METHODS {
        let Some(expected) = captum.floats(method.id) else {
            continue;
        };
        let mut given =
            json!({"method": method.id, "target": drawn.json::<usize>("target"), "head": "logits"});
        for (name, key) in [
            ("n_samples", "samples"),
            ("noise_level", "noise_level"),
            ("seed", "seed_value"),
        ] {
            if method.takes(name) {
                given[name] = captum.json(key);
            }
        }
        let parameters = parse(&given, &source);
        let inputs = RunInputs {
            model: Arc::new(Model::bare(net, Arc::new(source.clone()))),
            input: x.clone(),
            seed: Arc::new([(drawn.json("target"), 1.0)]),
            input_value: None,
            baselines: baselines.clone(),
            layout: Layout::Nchw,
            luma: None,
            segmentation: Arc::default(),
            supports: Arc::default(),
            parameters: Arc::new(parameters),
        };
        let scores = explain(&source, inputs, CLASSES);
        let sampled: Vec<f32> = scores
            .iter()
            .step_by(captum.json("stride"))
            .copied()
            .collect();
        let (gap, tolerance) = (distance(&sampled, &expected), captum.tolerance(method.id));
        println!("{net}: {} {gap:.1e} of {tolerance:.1e}", method.id);
        if gap.is_nan() || gap > tolerance {
            faults.push(format!(
                "{} is {gap:.1e} away, more than {tolerance:.1e}",
                method.id
            ));
        }
    }
    assert!(faults.is_empty(), "{net}:\n{}", faults.join("\n"));
}

fn parse(given: &Value, source: &Graph) -> Parameters {
    let layers = spatial_layers(source).unwrap();
    let model = Model::bare("net", Arc::new(source.clone()));
    let facts = Facts {
        model: "net",
        head: Head::Logits,
        kind: OutputKind::Classes,
        pattern_layers: &PatternLayers::All,
        classes: Classes {
            labels: &Labels::default(),
            count: Some(CLASSES),
        },
        has_patterns: false,
        layer: layers.last().map(|layer| layer.name.as_str()),
        layers: &layers,
        attention: Err("the network has no attention"),
        supports: &[],
        input: &model.manifest.input,
        graph: &model.graph,
        rule_sets: &model.rule_sets,
    };
    Parameters::parse(given.as_object().unwrap(), &facts).unwrap()
}

/// A run to its end, of a network of so many classes.
pub fn explain(source: &Graph, inputs: RunInputs, classes: usize) -> Arc<Tensor> {
    let mut run = (inputs.parameters.method.build)(inputs);
    let mut answers = Answers::none();
    loop {
        let questions = match run.step(answers) {
            Step::Done(attribution) => return attribution.scores,
            Step::Ask(questions) => questions,
        };
        let answer = |question| {
            let Question::Rows { graph, points, .. } = question else {
                panic!("methods ask for rows")
            };
            let mut session = open(&derive(source, &graph.spec, None).unwrap().graph);
            Answer::Rows(evaluate(&mut session, &points, &graph.spec, classes))
        };
        answers = Answers(questions.into_iter().map(answer).collect());
    }
}
