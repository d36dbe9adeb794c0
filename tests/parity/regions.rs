//! Methods that hide regions, on a net by formula, against Captum, lime and shap at the same
//! coalitions and orders (regions.py).

use std::sync::Arc;

use explaind::{
    segment::{Segmentation, regions::Regions},
    tensor::Tensor,
};
use serde_json::{Value, json};

use crate::{
    curves::tensor,
    forward::{check, explained},
    stored::{self, Stored},
};

const SHAPE: [usize; 3] = [3, 20, 24];
const REGIONS: usize = 16;

/// The stored regions, those from `count` on joined.
fn segmentation(reference: &Stored, count: usize) -> Arc<Segmentation> {
    let mut lists = vec![Vec::new(); count];
    let labels = reference.floats("segments").unwrap();
    for (label, pixel) in labels.iter().zip(0..) {
        lists[(*label as usize).min(count - 1)].push(pixel);
    }
    Arc::new(Segmentation {
        maps: Vec::new(),
        regions: Regions::of_pixels((SHAPE[1], SHAPE[2]), lists),
    })
}

/// In each region its mean colour, of each channel.
fn means(input: &Tensor, regions: &Regions) -> Tensor {
    let mut found = input.clone();
    let width = SHAPE[2];
    for mut plane in found.outer_iter_mut() {
        for region in regions.iter() {
            let places = || {
                region
                    .iter()
                    .map(|&at| [at as usize / width, at as usize % width])
            };
            let sum: f64 = places().map(|at| f64::from(plane[at])).sum();
            let mean = (sum / region.len() as f64) as f32;
            places().for_each(|at| plane[at] = mean);
        }
    }
    found
}

/// A baseline is a number for all elements, or the mean of each region.
fn compare(given: &Value, count: usize, baseline: &str, name: &str) {
    let reference = stored::read("regions.safetensors");
    let segmentation = segmentation(&reference, count);
    let input = tensor(&reference, "input", &SHAPE);
    let start = match baseline.parse() {
        Ok(number) => Tensor::from_elem(input.raw_dim(), number),
        Err(_) => means(&input, &segmentation.regions),
    };
    let mut given = given.clone();
    given["target"] = json!(1);
    let map = explained(&reference, &given, start, segmentation);
    check(&map, &reference, name);
}

#[test]
fn feature_ablation_and_shapley_sampling_are_captum_s() {
    for baseline in ["0.0", "0.25"] {
        let given = json!({"method": "feature_ablation"});
        compare(
            &given,
            REGIONS,
            baseline,
            &format!("feature_ablation.{baseline}"),
        );
        let given = json!({"method": "shapley_sampling", "n_samples": 12, "seed": 5});
        compare(
            &given,
            REGIONS,
            baseline,
            &format!("shapley_sampling.{baseline}.12"),
        );
    }
}

#[test]
fn lime_is_that_of_its_package_at_the_same_coalitions() {
    for (samples, width) in [(300, "0.25"), (64, "1.0")] {
        let width_of: f64 = width.parse().unwrap();
        let given = json!({
            "method": "lime", "n_samples": samples, "kernel_width": width_of, "seed": 5
        });
        compare(&given, REGIONS, "mean", &format!("lime.{samples}.{width}"));
    }
}

#[test]
fn kernel_shap_is_that_of_shap_at_the_same_draws() {
    for (regions, samples) in [(8, 254), (9, 300), (10, 700), (16, 400)] {
        let given = json!({"method": "kernel_shap", "n_samples": samples, "seed": 5});
        compare(
            &given,
            regions,
            "0.0",
            &format!("kernel_shap.{regions}.{samples}"),
        );
    }
}
