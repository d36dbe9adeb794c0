//! One small network of each of many families, as PyTorch's two exporters write it: derived gradients against PyTorch
//! autograd in f64 (families.py tells what is stored).

use std::iter;

use explaind::tensor::Tensor;
use ndarray::IxDyn;
use onnx_autodiff::{
    autodiff::{derive, spec::DeriveSpec},
    onnx::read_model,
};

use crate::{
    session::{distance, open, run, sample},
    stored,
    torchvision::{Drawn, LOGITS, batch},
};

stored::nets! { "families":
    beit cait coat convnext convnextv2 cvt davit deit dinov2 efficientformer focalnet gmlp levit maxvit mixer mobilevit mvitv2
    poolformer pvt segformer swiftformer swin swin_v2 vit xcit
}

fn agrees_with_pytorch(net: &str) {
    let reference = stored::read(&format!("families/{net}.safetensors"));
    let (input, target): (Drawn, usize) = (reference.json("input"), reference.json("target"));
    let logits = reference.floats("logits").unwrap();
    let gradient = reference.floats("gradient").unwrap();
    let mut faults = Vec::new();
    for export in stored::exports("families", net) {
        let source = read_model(&stored::path("families").join(&export)).unwrap();
        // A graph exported for a batch of one stays so.
        let rows = source.inputs[0].value_type.shape[0].known().unwrap_or(2);
        let batch = batch(&input, rows);
        let mut seed = Tensor::zeros(IxDyn(&[rows, logits.len()]));
        for (mut row, class) in iter::zip(seed.rows_mut(), [target, 0]) {
            row[class] = 1.0;
        }
        let derived = match derive(&source, &DeriveSpec::gradient(), None) {
            Ok(derived) => derived.graph,
            Err(error) => {
                faults.push(format!("{export}: {error}"));
                continue;
            }
        };
        let answers = run(&mut open(&derived), &[("input", &batch), ("seed", &seed)]);
        for (what, expected, tolerance) in [
            ("logits", &logits, LOGITS),
            ("gradient", &gradient, reference.tolerance("gradient")),
        ] {
            let gap = distance(&sample(&answers[what], 0), expected);
            println!("{export}: {what} {gap:.1e} of {tolerance:.1e}");
            if gap.is_nan() || gap > tolerance {
                faults.push(format!(
                    "{export}: {what} is {gap:.1e} away, more than {tolerance:.1e}"
                ));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}
