//! Attention networks and their kin as PyTorch exports them: derived gradients against PyTorch
//! autograd in f64 (transformers.py tells what is stored).

use std::{fs, iter};

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

#[test]
fn gradients_agree_with_pytorch() {
    let folder = stored::path("transformers");
    let files = fs::read_dir(&folder).unwrap();
    let names = files.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut exports: Vec<String> = names.filter(|name| name.ends_with(".onnx")).collect();
    exports.sort();
    assert!(!exports.is_empty());
    let mut faults = Vec::new();
    for export in exports {
        let net = export.split('.').next().unwrap();
        let reference = stored::read(&format!("transformers/{net}.safetensors"));
        let (input, target): (Drawn, usize) = (reference.json("input"), reference.json("target"));
        let logits = reference.floats("logits").unwrap();
        let batch = batch(&input, 2);
        let mut seed = Tensor::zeros(IxDyn(&[2, logits.len()]));
        for (mut row, class) in iter::zip(seed.rows_mut(), [target, 0]) {
            row[class] = 1.0;
        }
        let source = read_model(&folder.join(&export)).unwrap();
        let derived = match derive(&source, &DeriveSpec::gradient(), None) {
            Ok(derived) => derived.graph,
            Err(error) => {
                faults.push(format!("{export}: {error}"));
                continue;
            }
        };
        let answers = run(&mut open(&derived), &[("input", &batch), ("seed", &seed)]);
        let gradient = reference.floats("gradient").unwrap();
        for (what, expected, tolerance) in [
            ("logits", logits, LOGITS),
            ("gradient", gradient, reference.tolerance("gradient")),
        ] {
            let gap = distance(&sample(&answers[what], 0), &expected);
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
