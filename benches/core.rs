//! What a request or a start-up pays outside ONNX Runtime: reading, deriving and writing the bundled SqueezeNet.

use std::{hint::black_box, path::Path};

use criterion::{Criterion, criterion_group, criterion_main};
use explaind::{
    autodiff::{
        derive,
        spec::{DeriveSpec, Head, PatternLayers, RuleSetId, SeedRule, Wrt},
    },
    onnx::{read_model, write_model},
};

fn squeezenet(criterion: &mut Criterion) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/squeezenet1_1/model.onnx");
    let source = read_model(&path).expect("the bundled model reads");
    let spec = DeriveSpec {
        rule_sets: vec![RuleSetId::Gradient],
        wrt: Wrt::Input,
        head: Head::Probabilities,
        seed: SeedRule::One,
        pattern_layers: PatternLayers::All,
    };
    let derived = derive(&source, &spec, None).expect("the bundled model derives").graph;

    criterion.bench_function("read_model", |bencher| bencher.iter(|| read_model(black_box(&path))));
    criterion.bench_function("derive_gradient", |bencher| bencher.iter(|| derive(black_box(&source), &spec, None)));
    criterion.bench_function("write_model", |bencher| bencher.iter(|| write_model(black_box(&derived))));
}

criterion_group!(benches, squeezenet);
criterion_main!(benches);
