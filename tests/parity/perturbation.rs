//! Metrics of perturbed images that pytorch-grad-cam measures too, on a net by formula
//! (perturbation.py).

use explaind::{
    evaluation::{Case, imputation::impute, parameters::Values, registry},
    tensor::Tensor,
};
use ndarray::Array2;
use serde_json::json;

use crate::{
    curves::{case, measured, tensor},
    stored::{self, Stored},
};

const SHAPE: [usize; 3] = [3, 40, 48];

/// The case of the stored map, and the net.
fn stored_case(reference: &Stored) -> (Case, impl Fn(&Tensor) -> f64) {
    let weights = tensor(reference, "weights", &SHAPE);
    let net = move |input: &Tensor| -> f64 {
        let terms = input.iter().zip(&weights);
        let sum: f64 = terms.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        1.0 / (1.0 + (-sum).exp())
    };
    let input = tensor(reference, "input", &SHAPE);
    let map = tensor(reference, "map", &[1, 40, 48]);
    let clean = net(&input);
    (case(input, map, clean), net)
}

/// The largest gap between what was found and the stored values of this name.
fn gap<'a>(found: impl IntoIterator<Item = &'a f64>, reference: &Stored, name: &str) -> f64 {
    let expected = reference.floats(name).unwrap();
    let found: Vec<f64> = found.into_iter().copied().collect();
    assert_eq!(found.len(), expected.len());
    let gaps = found
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - f64::from(b)).abs());
    gaps.fold(0.0, f64::max)
}

#[test]
fn imputed_pixels_are_those_of_the_published_imputer() {
    let reference = stored::read("perturbation.safetensors");
    let planes = Array2::from_shape_vec((3, 40 * 48), reference.floats("input").unwrap()).unwrap();
    let mut pixels = planes.reversed_axes();
    let mask = reference.floats("mask").unwrap();
    let removed: Vec<bool> = mask.iter().map(|kept| *kept == 0.0).collect();
    impute(pixels.view_mut(), [40, 48], &removed);
    let found: Vec<f64> = pixels.t().iter().map(|value| f64::from(*value)).collect();
    assert!(gap(&found, &reference, "imputed") < 1e-6);
}

#[test]
fn road_is_that_of_pytorch_grad_cam() {
    let reference = stored::read("perturbation.safetensors");
    let (case, net) = stored_case(&reference);
    let values = Values([("noise".to_owned(), json!(0.0))].into_iter().collect());
    let found = measured("road", &case, &values, &net);
    assert!(gap(&found[1..10], &reference, "morf") < 1e-5);
    assert!(gap(&found[10..], &reference, "lerf") < 1e-5);
    let value = (registry::find("road").unwrap().reading.value)(&values, &found);
    assert!(gap(&[value], &reference, "combined") < 1e-5);
}

#[test]
fn scores_of_multiplied_inputs_are_those_of_pytorch_grad_cam() {
    let reference = stored::read("perturbation.safetensors");
    let (case, net) = stored_case(&reference);
    let found = measured("average_drop", &case, &Values::default(), &net);
    // It adds 1e-7 to the range of a map.
    assert!(gap(&found, &reference, "confidence") < 1e-6);
}
