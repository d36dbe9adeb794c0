//! Any ONNX classifier in, its gradient file out:
//! `cargo run -p onnx-autodiff --example gradient -- model.onnx gradient.onnx`
//!
//! The file takes the model's input and `seed` `[batch, classes]`, the cotangent of the logits, and
//! gives `logits`, `probabilities` and `gradient`, in the shape of the input.

use onnx_autodiff::{
    autodiff::{derive, spec::DeriveSpec},
    onnx::{read_model, write_model},
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let paths: Vec<_> = std::env::args_os().skip(1).collect();
    let [model, gradient] = &paths[..] else {
        return Err("usage: gradient MODEL.onnx GRADIENT.onnx".into());
    };
    let derived = derive(&read_model(model.as_ref())?, &DeriveSpec::gradient(), None)?;
    Ok(std::fs::write(gradient, write_model(&derived.graph)?)?)
}
