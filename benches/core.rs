//! What a request or a start-up pays outside ONNX Runtime: reading, deriving and writing the
//! bundled SqueezeNet; the regions of XRAI.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub
)]

use std::{hint::black_box, path::Path};

use criterion::{Criterion, criterion_group, criterion_main};
use explaind::{
    methods::{
        ranking::{Algorithm, Selection, rank},
        regions::segment,
    },
    picture::{
        decode::{Limits, decode},
        input::InputPicture,
        preprocess::{Filter, Preprocess, Resize, preprocess},
    },
};
use onnx_autodiff::{
    autodiff::{
        derive,
        spec::{DeriveSpec, Head},
    },
    onnx::{read_model, write_model},
};

fn squeezenet(criterion: &mut Criterion) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/squeezenet1_1/model.onnx");
    let source = read_model(&path).expect("the bundled model reads");
    let spec = DeriveSpec {
        head: Head::Probabilities,
        ..DeriveSpec::gradient()
    };
    let derived = derive(&source, &spec, None)
        .expect("the bundled model derives")
        .graph;

    criterion.bench_function("read_model", |bencher| {
        bencher.iter(|| read_model(black_box(&path)))
    });
    criterion.bench_function("derive_gradient", |bencher| {
        bencher.iter(|| derive(black_box(&source), &spec, None))
    });
    criterion.bench_function("write_model", |bencher| {
        bencher.iter(|| write_model(black_box(&derived)))
    });
}

/// What XRAI does beside its evaluations, for a photo in the size of most classifiers' inputs: six
/// segmentations, and the ranking.
fn regions(criterion: &mut Criterion) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/chelsea.png");
    let bytes = std::fs::read(path).expect("the example is there");
    let upload = decode(&bytes, &Limits::default())
        .expect("the example decodes")
        .image;
    let rule = Preprocess {
        scale: 1.0 / 255.0,
        mean: vec![0.485, 0.456, 0.406],
        std: vec![0.229, 0.224, 0.225],
        resize: Resize::ShortSide(256),
        filter: Filter::Bicubic,
        ..Preprocess::plain(224, 224)
    };
    let (tensor, _) = preprocess(&upload, &rule).expect("the example fits");
    let picture = InputPicture::of(&tensor, &rule).expect("it is a picture");
    let regions = segment(&picture, None).regions;
    let map: Vec<f64> = (0..224 * 224_u32)
        .map(|i| f64::from(i.wrapping_mul(2_654_435_761) >> 16) - 32_000.0)
        .collect();
    let select = |algorithm| Selection {
        algorithm,
        area_threshold: 1.0,
        min_pixel_diff: 50,
    };

    criterion.bench_function("segment_six_scales", |bencher| {
        bencher.iter(|| segment(black_box(&picture), None))
    });
    criterion.bench_function("rank_regions_full", |bencher| {
        bencher.iter(|| rank(black_box(&map), &regions, &select(Algorithm::Full)))
    });
    criterion.bench_function("rank_regions_fast", |bencher| {
        bencher.iter(|| rank(black_box(&map), &regions, &select(Algorithm::Fast)))
    });
}

criterion_group!(benches, squeezenet, regions);
criterion_main!(benches);
