//! Segmentation against scikit-image, and the ranking of regions against the public XRAI (xrai.py).

use explaind::{
    methods::ranking::{Algorithm, Selection, rank},
    segment::{Segmentation, felzenszwalb::Edges},
};
use ndarray::{Array2, Array3};

use crate::stored::{self, Stored};

const SIDE: usize = 96;
const SCALES: [f64; 6] = [50.0, 100.0, 150.0, 250.0, 500.0, 1200.0];

fn reference() -> Stored {
    stored::read("xrai.safetensors")
}

/// Colours stretched to `low..=high`, as the script does.
fn segment(
    reference: &Stored,
    name: &str,
    (low, high): (f32, f32),
    min_size: u32,
) -> Vec<Array2<u32>> {
    let pixels = reference.bytes(&format!("{name}.pixels"));
    let [least, most] =
        [pixels.iter().min(), pixels.iter().max()].map(|value| f32::from(*value.unwrap()));
    let planes = Array3::from_shape_fn((3, SIDE, SIDE), |(channel, y, x)| {
        (f32::from(pixels[(y * SIDE + x) * 3 + channel]) - least) / (most - least) * (high - low)
            + low
    });
    let edges = Edges::of(planes.view(), 0.8);
    SCALES.map(|scale| edges.segment(scale, min_size)).into()
}

fn labels(reference: &Stored, name: &str, bytes_each: usize) -> Vec<Array2<u32>> {
    let bytes = reference.bytes(name);
    let all: Vec<u32> = bytes
        .chunks(bytes_each)
        .map(|c| c.iter().rev().fold(0, |sum, b| sum << 8 | u32::from(*b)))
        .collect();
    all.chunks(SIDE * SIDE)
        .map(|map| Array2::from_shape_vec((SIDE, SIDE), map.to_vec()).unwrap())
        .collect()
}

#[test]
fn photos_are_cut_as_scikit_image_cuts_them() {
    let reference = reference();
    for name in ["chelsea", "coffee", "astronaut"] {
        let found = segment(&reference, name, (-1.0, 1.0), 150);
        assert!(
            found == labels(&reference, &format!("{name}.labels"), 1),
            "{name}"
        );
    }
    let found = segment(&reference, "chelsea", (0.0, 1.0), 20);
    assert!(found == labels(&reference, "chelsea.labels_sig", 2));
}

#[test]
fn where_many_edges_are_equal_segments_overlap_with_scikit_image_s() {
    let reference = reference();
    let found = segment(&reference, "drawing", (-1.0, 1.0), 150);
    for (ours, theirs) in found.iter().zip(labels(&reference, "drawing.labels", 1)) {
        // scikit-image's sort is not stable: equal edges come in any order. Pixels in the segment
        // that each of ours shares most with:
        let mut shared = std::collections::BTreeMap::<(u32, u32), usize>::new();
        ours.iter()
            .zip(&theirs)
            .for_each(|(a, b)| *shared.entry((*a, *b)).or_default() += 1);
        let best = |label: u32| {
            shared
                .iter()
                .filter(|((a, _), _)| *a == label)
                .map(|(_, count)| *count)
                .max()
                .unwrap()
        };
        let kept: usize = (0..=*ours.iter().max().unwrap()).map(best).sum();
        assert!(kept as f64 > 0.9 * (SIDE * SIDE) as f64, "{kept}");
    }
}

#[test]
fn grown_regions_are_scikit_image_s_dilations() {
    let reference = reference();
    let regions = Segmentation::of_maps(labels(&reference, "chelsea.labels", 1), 5).regions;
    let areas: Vec<u32> = regions.iter().map(|pixels| pixels.len() as u32).collect();
    let (expected, _) = reference.bytes("chelsea.areas").as_chunks::<4>();
    assert_eq!(
        areas,
        expected
            .iter()
            .map(|four| u32::from_le_bytes(*four))
            .collect::<Vec<_>>()
    );
}

#[test]
fn ranked_regions_are_those_of_the_public_xrai() {
    let reference = reference();
    let regions = Segmentation::of_maps(labels(&reference, "chelsea.labels", 1), 5).regions;
    let attribution = reference.floats("chelsea.attribution").unwrap();
    let merged: Vec<f64> = (0..SIDE * SIDE)
        .map(|pixel| {
            (0..3)
                .map(|c| f64::from(attribution[c * SIDE * SIDE + pixel]))
                .fold(f64::MIN, f64::max)
        })
        .collect();
    for (name, algorithm, area_threshold) in [
        ("full", Algorithm::Full, 1.0),
        ("full_30", Algorithm::Full, 0.3),
        ("fast", Algorithm::Fast, 1.0),
    ] {
        let ranking = rank(
            &merged,
            &regions,
            &Selection {
                algorithm,
                area_threshold,
                min_pixel_diff: 50,
            },
        );
        let expected = reference.floats(&format!("chelsea.{name}")).unwrap();
        let worst = ranking
            .values
            .iter()
            .zip(&expected)
            .map(|(a, b)| (a - f64::from(*b)).abs())
            .fold(0.0, f64::max);
        // Rounded to float32 there.
        assert!(worst < 1e-6, "{name}: {worst:.1e}");
        let ranks = labels(&reference, &format!("chelsea.{name}_ranks"), 2);
        assert!(ranking.ranks.iter().eq(ranks[0].iter()), "{name}");
    }
}
