//! Gradients of all parameters of torchvision's classifiers against PyTorch autograd in f64
//! (parameters.py tells what is stored). The graphs run in f32, as the service runs them.

use std::collections::HashMap;

use explaind::tensor::Tensor;
use ndarray::{Axis, IxDyn};
use onnx_autodiff::autodiff::{
    parameters::{Parameters, parameter_gradients},
    spec::Head,
};
use serde::Deserialize;

use crate::{
    session::{open, run},
    stored,
    torchvision::{Drawn, read_export, uniform, write_weights},
};

const FIRST_VECTOR: u64 = 5000;

/// The nets, and the exports of them that are derived.
const EXPORTS: &[(&str, &str)] = &[
    ("alexnet", "alexnet.script17.onnx"),
    ("densenet121", "densenet121.script17.onnx"),
    ("efficientnet_b0", "efficientnet_b0.script17.onnx"),
    ("mobilenet_v2_bn", "mobilenet_v2_bn.script13.onnx"),
    ("resnet18_bn", "resnet18_bn.script15.onnx"),
    ("resnext50", "resnext50.dynamo18.onnx"),
    ("shufflenet_v2", "shufflenet_v2.script17.onnx"),
    ("squeezenet1_1", "squeezenet1_1.script17.onnx"),
];

#[derive(Deserialize)]
struct About {
    /// The seed of the batch's second image.
    second: u64,
    parameters: Vec<String>,
    float32: f64,
    rounding: f64,
}

#[test]
fn gradients_of_all_parameters_agree_with_pytorch() {
    let references = stored::read("parameters.safetensors");
    let mut faults = Vec::new();
    for (net, export) in EXPORTS {
        let about: About = references.json(net);
        let tolerance = stored::tolerance_of(about.float32, about.rounding);
        let worst = largest_distance(net, export, &about, references.bytes(net));
        println!("{export}: {worst:.1e} of {tolerance:.1e}");
        if worst.is_nan() || worst > tolerance {
            faults.push(format!(
                "{export}: {worst:.1e} away, more than {tolerance:.1e}"
            ));
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// Of the norm, and of the products with the drawn vectors, of each parameter's gradient, relative
/// to its norm. A vector has numbers in [-1, 1), and so a product is as far as the gradient, more
/// or less.
fn largest_distance(net: &str, export: &str, about: &About, expected: &[u8]) -> f64 {
    let reference = stored::read(&format!("torchvision/{net}.safetensors"));
    let scratch = tempfile::tempdir().unwrap();
    write_weights(&reference, scratch.path());
    let source = read_export(export, scratch.path());
    let derived = parameter_gradients(&source, Head::Logits, &Parameters::All).unwrap();

    let first: Drawn = reference.json("input");
    let images = [first.seed, about.second].map(|seed| {
        let image = Drawn {
            seed,
            scale: first.scale,
            shape: first.shape.clone(),
        };
        Tensor::from_shape_vec(image.shape.clone(), image.values()).unwrap()
    });
    let batch = ndarray::stack(Axis(0), &images.each_ref().map(|image| image.view())).unwrap();
    let classes = derived.graph.outputs[0].value_type.shape[1]
        .known()
        .unwrap();
    let mut seed = Tensor::zeros(IxDyn(&[2, classes]));
    (seed[[0, reference.json("target")]], seed[[1, 0]]) = (1.0, -0.5);
    let values: Vec<_> = derived
        .parameters
        .iter()
        .map(|one| {
            let values = one.value.to_f32s().unwrap();
            Tensor::from_shape_vec(one.value.shape.clone(), values).unwrap()
        })
        .collect();
    let mut inputs = vec![("input", &batch), ("seed", &seed)];
    inputs.extend(
        derived
            .parameters
            .iter()
            .zip(&values)
            .map(|(one, value)| (one.name.as_str(), value)),
    );
    let answers = run(&mut open(&derived.graph), &inputs);
    let gradients: HashMap<&str, &Tensor> = derived
        .parameters
        .iter()
        .map(|one| (one.name.as_str(), &answers[&one.gradient]))
        .collect();
    let numbers: Vec<f64> = expected
        .as_chunks::<8>()
        .0
        .iter()
        .map(|bytes| f64::from_le_bytes(*bytes))
        .collect();
    let vectors = numbers.len() / about.parameters.len() - 1;
    let mut worst = 0.0_f64;
    for (index, (name, expected)) in about
        .parameters
        .iter()
        .zip(numbers.chunks_exact(vectors + 1))
        .enumerate()
    {
        let gradient = gradients
            .get(name.as_str())
            .unwrap_or_else(|| panic!("{export}: no gradient of {name}"));
        let gradient: Vec<f64> = gradient.iter().map(|value| f64::from(*value)).collect();
        let norm = gradient
            .iter()
            .map(|value| value * value)
            .sum::<f64>()
            .sqrt();
        let products = (0..vectors).map(|vector| {
            let seed = FIRST_VECTOR + (vectors * index + vector) as u64;
            let vector = uniform(seed, gradient.len());
            let products = gradient.iter().zip(vector);
            products.map(|(a, b)| a * f64::from(b)).sum::<f64>()
        });
        for (found, stored) in [norm].into_iter().chain(products).zip(expected) {
            worst = worst.max((found - stored).abs() / expected[0]);
        }
    }
    worst
}
