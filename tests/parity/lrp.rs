//! Layer-wise relevance propagation on whole networks against zennit, and AttnLRP against LXT, in f64
//! (lrp.py tells what is stored).

use std::collections::HashMap;

use explaind::tensor::Tensor;
use ndarray::IxDyn;
use onnx_autodiff::{
    autodiff::{
        derive,
        spec::{Composite, DeriveSpec, Lrp, Real, RuleSetId, SeedRule},
    },
    onnx::read_model,
};
use serde::Deserialize;

use crate::{
    session::{distance, open, run, sample},
    stored,
    torchvision::{Drawn, batch, read_export, write_weights},
};

/// The nets, and the exports of them that are derived.
const EXPORTS: &[(&str, &str)] = &[
    ("resnet18_bn", "resnet18_bn.script15.onnx"),
    ("vgg16", "vgg16.dynamo18.onnx"),
];
/// For AttnLRP.
const TRANSFORMERS: &[(&str, &str)] = &[
    ("vit", "dynamo18"),
    ("vit", "script17"),
    ("deit", "dynamo18"),
    ("deit", "script17"),
];
/// Every so many elements of the input are stored.
const STRIDE: usize = 5;

#[derive(Deserialize)]
struct About {
    seed: u64,
    target: usize,
    #[serde(flatten)]
    yardsticks: HashMap<String, Yardsticks>,
}

#[derive(Deserialize)]
struct Yardsticks {
    float32: f64,
    rounding: f64,
}

#[test]
fn lrp_agrees_with_zennit() {
    let references = stored::read("lrp.safetensors");
    let mut faults = Vec::new();
    for (net, export) in EXPORTS {
        let about: About = references.json(net);
        let drawn = stored::read(&format!("torchvision/{net}.safetensors"));
        let input = Drawn {
            seed: about.seed,
            ..drawn.json("input")
        };
        let scratch = tempfile::tempdir().unwrap();
        write_weights(&drawn, scratch.path());
        let source = read_export(export, scratch.path());
        let classes = drawn.floats("logits").unwrap().len();
        let mut seed = Tensor::zeros(IxDyn(&[2, classes]));
        seed[[0, about.target]] = 1.0;
        let others = Composite::ALL
            .into_iter()
            .filter(|one| *one != Composite::AttnLrp);
        for composite in others {
            let spec = DeriveSpec {
                seed: SeedRule::Value,
                lrp: Lrp {
                    composite,
                    bounds: vec![[-input.scale, input.scale].map(Real)],
                    ..Lrp::default()
                },
                ..DeriveSpec::of([RuleSetId::Lrp])
            };
            let derived = derive(&source, &spec, None).unwrap().graph;
            let inputs = [("input", &batch(&input, 2)), ("seed", &seed)];
            let found = sample(&run(&mut open(&derived), &inputs)["lrp"], 0);
            let found: Vec<f32> = found.into_iter().step_by(STRIDE).collect();
            let expected = references.floats(&format!("{net}/{}", composite.id()));
            let yardsticks = &about.yardsticks[composite.id()];
            let tolerance = stored::tolerance_of(yardsticks.float32, yardsticks.rounding);
            let gap = distance(&found, &expected.unwrap());
            println!("{export}: {} {gap:.1e} of {tolerance:.1e}", composite.id());
            if gap.is_nan() || gap > tolerance {
                let name = composite.id();
                faults.push(format!(
                    "{export}: {name} is {gap:.1e} away, more than {tolerance:.1e}"
                ));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn attn_lrp_agrees_with_lxt() {
    let references = stored::read("lrp.safetensors");
    for (net, export) in TRANSFORMERS {
        let about: About = references.json(net);
        let own = stored::read(&format!("families/{net}.safetensors"));
        let path = stored::path(&format!("families/{net}.{export}.onnx"));
        let source = read_model(&path).unwrap();
        let classes = own.floats("logits").unwrap().len();
        let mut seed = Tensor::zeros(IxDyn(&[2, classes]));
        seed[[0, about.target]] = 1.0;
        let spec = DeriveSpec {
            seed: SeedRule::Value,
            lrp: Lrp {
                composite: Composite::AttnLrp,
                ..Lrp::default()
            },
            ..DeriveSpec::of([RuleSetId::Lrp])
        };
        let derived = derive(&source, &spec, None).unwrap().graph;
        let inputs = [("input", &batch(&own.json("input"), 2)), ("seed", &seed)];
        let found = sample(&run(&mut open(&derived), &inputs)["lrp"], 0);
        let found: Vec<f32> = found.into_iter().step_by(STRIDE).collect();
        let expected = references.floats(&format!("{net}/attn_lrp")).unwrap();
        let yardsticks = &about.yardsticks["attn_lrp"];
        let tolerance = stored::tolerance_of(yardsticks.float32, yardsticks.rounding);
        let gap = distance(&found, &expected);
        println!("{net}.{export}: {gap:.1e} of {tolerance:.1e}");
        assert!(gap <= tolerance, "{net}.{export}: {gap:.1e}");
    }
}
