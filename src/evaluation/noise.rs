//! Inputs beside that of a case: random changes of all its elements, in units of its range.

use std::iter;

use rand::RngExt;

use crate::{random::generator, tensor::Tensor};

/// Where the streams of random numbers of each metric start: far from those of the methods, whose
/// seeds are the images' too.
pub const NORMALS: u64 = 1 << 32;
pub const CUBE: u64 = 2 << 32;
pub const SUBSETS: u64 = 3 << 32;
pub const PLACES: u64 = 4 << 32;

/// The largest element less the smallest.
pub fn range(input: &Tensor) -> f64 {
    let (low, high) = input
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &x| {
            (low.min(x.into()), high.max(x.into()))
        });
    (high - low).max(0.0)
}

/// The input plus `scale` times a number for each element.
pub fn moved(input: &Tensor, scale: f64, numbers: impl Iterator<Item = f64>) -> Tensor {
    let mut moved = input.clone();
    let elements = moved.iter_mut().zip(numbers);
    elements.for_each(|(element, number)| *element = (f64::from(*element) + scale * number) as f32);
    moved
}

/// U(-1, 1) without end.
pub fn uniforms(seed: u64, stream: u64) -> impl Iterator<Item = f64> {
    let mut generator = generator(seed, stream);
    iter::repeat_with(move || 2.0 * generator.random::<f64>() - 1.0)
}
