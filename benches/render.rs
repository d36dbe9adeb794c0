//! What a request costs outside the model: decode, preprocess, draw and encode, for a 1024 x 768
//! photo. `cargo bench --bench render`

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub
)]

use std::{hint::black_box, io::Cursor, sync::Arc};

use criterion::{Criterion, criterion_group, criterion_main};
use explaind::{
    picture::{
        decode,
        preprocess::{Layout, Preprocess, Resize, preprocess},
    },
    render::{
        encode::encode_png,
        ground::{Ground, alone},
        heatmap::draw,
        options::Look,
    },
};

/// A smooth picture with grain, as photos have it.
fn photo() -> Vec<u8> {
    let picture = image::RgbImage::from_fn(1024, 768, |x, y| {
        let grain = (x.wrapping_mul(2_654_435_761) ^ y.wrapping_mul(40_503)) >> 13 & 15;
        let wave = |period: f32, at: u32| (120.0 + 100.0 * (at as f32 / period).sin()) as u32;
        image::Rgb(
            [
                wave(90.0, x) + grain,
                wave(60.0, y) + grain,
                wave(150.0, x + y) + grain,
            ]
            .map(|v| v as u8),
        )
    });
    let mut bytes = Cursor::new(Vec::new());
    picture
        .write_to(&mut bytes, image::ImageFormat::Jpeg)
        .expect("a JPEG can be written");
    bytes.into_inner()
}

fn outside_the_model(criterion: &mut Criterion) {
    let rule = Preprocess {
        scale: 1.0 / 255.0,
        mean: vec![0.485, 0.456, 0.406],
        std: vec![0.229, 0.224, 0.225],
        resize: Resize::ShortSide(256),
        ..Preprocess::plain(224, 224)
    };
    let (bytes, limits, options) = (photo(), decode::Limits::default(), Look::Signed.options());
    let upload = decode::decode(&bytes, &limits)
        .expect("the photo decodes")
        .image;
    let (scores, geometry) = preprocess(&upload, &rule).expect("the photo fits");
    let maps = [Arc::new(scores)];
    let ground = Ground::new(&upload, &geometry, &options, alone).expect("the photo fits");
    let drawn = draw(&ground, &maps, Layout::Nchw, &options).expect("the map draws");
    let picture = drawn[0].overlay.image();
    let mut group = criterion.benchmark_group("outside_the_model");
    group.bench_function("decode", |b| {
        b.iter(|| decode::decode(black_box(&bytes), &limits))
    });
    group.bench_function("preprocess", |b| {
        b.iter(|| preprocess(black_box(&upload), &rule))
    });
    group.bench_function("draw", |b| {
        b.iter(|| draw(black_box(&ground), &maps, Layout::Nchw, &options));
    });
    group.bench_function("paint", |b| b.iter(|| drawn[0].overlay.image()));
    group.bench_function("encode", |b| {
        b.iter(|| encode_png(black_box(&picture), &[]))
    });
    group.finish();
}

criterion_group!(benches, outside_the_model);
criterion_main!(benches);
