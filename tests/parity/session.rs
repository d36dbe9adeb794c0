//! Runs a graph value on ONNX Runtime, and compares tensors.

use explaind::{
    engine::{
        Provider,
        backend_ort::{OrtSession, Threads, load_runtime},
    },
    tensor::Tensor,
};
use indexmap::IndexMap;
use ndarray::Axis;
use onnx_autodiff::onnx::graph::Graph;

pub fn open(graph: &Graph) -> OrtSession {
    OrtSession::open(
        load_runtime(None, 0).unwrap(),
        graph.clone(),
        Provider::Cpu,
        Threads::Shared,
    )
    .unwrap()
}

/// All outputs by name.
pub fn run(session: &mut OrtSession, inputs: &[(&str, &Tensor)]) -> IndexMap<String, Tensor> {
    let inputs: Vec<_> = inputs
        .iter()
        .map(|(name, tensor)| (*name, tensor.view()))
        .collect();
    session.run(&inputs).unwrap()
}

/// |a - b| / |b| in the Euclidean norm, in f64.
pub fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |x: f64| x * x;
    let gap: f64 = a
        .iter()
        .zip(b)
        .map(|(a, b)| square(f64::from(*a) - f64::from(*b)))
        .sum();
    (gap / b.iter().map(|b| square(f64::from(*b))).sum::<f64>()).sqrt()
}

/// One sample of a batch.
pub fn sample(batch: &Tensor, index: usize) -> Vec<f32> {
    batch.index_axis(Axis(0), index).iter().copied().collect()
}
