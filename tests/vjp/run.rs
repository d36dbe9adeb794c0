//! Runs graphs on ONNX Runtime's CPU, and derives the plain gradient of the logits.

use std::collections::BTreeMap;

use explaind::{
    engine::{
        Provider,
        backend_ort::{OrtSession, Threads, load_runtime},
    },
    tensor::Tensor,
};
use onnx_autodiff::{
    autodiff::{
        self, DeriveError,
        spec::{DeriveSpec, Head, PatternLayers, Patterns, RuleSetId, SeedRule, Wrt},
    },
    onnx::graph::Graph,
};

pub fn spec(rule_sets: &[RuleSetId]) -> DeriveSpec {
    DeriveSpec {
        rule_sets: rule_sets.to_vec(),
        wrt: Wrt::Input,
        head: Head::Logits,
        seed: SeedRule::One,
        pattern_layers: PatternLayers::All,
    }
}

pub fn derive(
    source: &Graph,
    spec: &DeriveSpec,
    patterns: Option<&Patterns>,
) -> Result<Graph, DeriveError> {
    autodiff::derive(source, spec, patterns).map(|derived| derived.graph)
}

pub struct Net(OrtSession);

impl Net {
    pub fn open(graph: &Graph) -> Result<Self, String> {
        let runtime = load_runtime(None, 2).map_err(|error| error.to_string())?;
        let session = OrtSession::open(runtime, graph.clone(), Provider::Cpu, Threads::Shared);
        session.map(Self).map_err(|error| error.to_string())
    }

    pub fn run(&mut self, inputs: &[(&str, &Tensor)]) -> Result<BTreeMap<String, Tensor>, String> {
        let views: Vec<_> = inputs
            .iter()
            .map(|(name, tensor)| (*name, tensor.view()))
            .collect();
        self.0
            .run(&views)
            .map(|found| found.into_iter().collect())
            .map_err(|error| error.to_string())
    }
}

pub fn tensor(shape: &[usize], values: Vec<f32>) -> Tensor {
    Tensor::from_shape_vec(shape, values).expect("as many values as the shape asks for")
}

pub fn dot(a: &Tensor, b: &Tensor) -> f64 {
    a.iter()
        .zip(b.iter())
        .map(|(a, b)| f64::from(*a) * f64::from(*b))
        .sum()
}
