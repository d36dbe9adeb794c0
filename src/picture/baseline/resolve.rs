//! Baselines as tensors of the model's input space. Random ones come from ChaCha8 keyed by (seed,
//! index) and so are reproducible.

use std::{fmt, sync::Arc};

use futures::future::BoxFuture;
use ndarray::Axis;
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

use super::{Baseline, Term};
use crate::{
    blur::blur,
    picture::{
        ImageError,
        input::{InputPicture, channel_axis},
        preprocess::{Preprocess, pixel_range},
    },
    segment::regions::Regions,
    tensor::Tensor,
};

/// The data sets that baselines are drawn from.
pub trait ImageSource: fmt::Debug + Send + Sync {
    /// Makes sure that the set `id` can be read on this machine.
    fn ensure_local<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), ImageError>>;

    /// `count` different images of the set `id` as inputs of a model with this preprocessing; fewer
    /// where the set has fewer. Equal arguments give equal images.
    fn draw(
        &self,
        id: &str,
        count: usize,
        seed: u64,
        rule: &Preprocess,
    ) -> Result<Vec<Tensor>, ImageError>;
}

/// What baselines are made from, besides the input.
#[derive(Clone, Copy, Debug, Default)]
pub struct Material<'a> {
    /// `None` for models that take ready tensors.
    pub preprocess: Option<&'a Preprocess>,
    /// The baseline sent with the request, already preprocessed.
    pub uploaded: Option<&'a Tensor>,
    pub pictures: Option<&'a Arc<dyn ImageSource>>,
    /// Those of the picture, for methods that hide regions.
    pub regions: Option<&'a Regions>,
    pub seed: u64,
}

impl Baseline {
    /// The baselines in the order of the text, each in the shape of `input`.
    pub fn resolve(
        &self,
        input: &Tensor,
        material: &Material<'_>,
    ) -> Result<Vec<Tensor>, ImageError> {
        let mut baselines = Vec::with_capacity(self.count());
        for term in &self.terms {
            let pixels = || {
                material
                    .preprocess
                    .ok_or_else(|| ImageError::BaselineNeedsPixels {
                        term: term.to_string(),
                    })
            };
            let axis = material.preprocess.map(|rule| channel_axis(rule.layout));
            match term {
                Term::Zero => baselines.push(Tensor::zeros(input.raw_dim())),
                Term::Black => baselines.push(constant(
                    input,
                    axis,
                    &pixel_range(pixels()?),
                    |(black, _)| *black,
                )),
                Term::White => baselines.push(constant(
                    input,
                    axis,
                    &pixel_range(pixels()?),
                    |(_, white)| *white,
                )),
                Term::Min => baselines.push(extreme(input, material.preprocess, |(low, _)| low)),
                Term::Max => baselines.push(extreme(input, material.preprocess, |(_, high)| high)),
                Term::Mean => {
                    baselines.push(constant(input, axis, &means(input, axis), |mean| *mean))
                }
                Term::SegmentMean => {
                    let regions = material.regions.ok_or(ImageError::BaselineNeedsRegions)?;
                    baselines.push(region_means(input, axis, regions));
                }
                Term::Blur(sigma) => {
                    baselines.push(blurred(input, channel_axis(pixels()?.layout), *sigma))
                }
                Term::Uniform(seed) => {
                    baselines.push(uniform(input, material.preprocess, *seed, 0))
                }
                Term::Random(n) => baselines.extend(
                    (0..*n as u64)
                        .map(|index| uniform(input, material.preprocess, material.seed, index)),
                ),
                Term::Dataset { id, count } => {
                    let none = || ImageError::DatasetBaseline {
                        id: id.clone(),
                        reason: "there are no data sets".into(),
                    };
                    let pictures = material.pictures.ok_or_else(none)?;
                    baselines.extend(pictures.draw(id, *count, material.seed, pixels()?)?);
                }
                Term::Uploaded => baselines.push(uploaded(input, material.uploaded)?),
            }
        }
        Ok(baselines)
    }
}

/// A tensor like `input` with one value per index of `axis`, or one value overall.
fn constant<T>(
    input: &Tensor,
    axis: Option<usize>,
    per_channel: &[T],
    value: impl Fn(&T) -> f32,
) -> Tensor {
    let mut tensor = Tensor::zeros(input.raw_dim());
    match axis {
        Some(axis) => {
            tensor
                .axis_iter_mut(Axis(axis))
                .zip(per_channel)
                .for_each(|(mut slice, one)| slice.fill(value(one)));
        }
        None => per_channel.iter().for_each(|one| tensor.fill(value(one))),
    }
    tensor
}

/// One end of the input's range, the same in every channel of the picture.
fn extreme(input: &Tensor, preprocess: Option<&Preprocess>, end: fn((f32, f32)) -> f32) -> Tensor {
    let picture = preprocess.and_then(|rule| Some((InputPicture::of(input, rule)?, rule)));
    match picture {
        Some((picture, rule)) => {
            let value = end(picture.extremes());
            constant(
                input,
                Some(picture.channel_axis),
                &pixel_range(rule),
                |(black, white)| black + value * (white - black),
            )
        }
        None => constant(input, None, &[end(range(input))], |value| *value),
    }
}

fn range(input: &Tensor) -> (f32, f32) {
    input
        .iter()
        .fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), v| {
            (low.min(*v), high.max(*v))
        })
}

/// Means in f64, so that a large constant image keeps its value.
fn means(input: &Tensor, axis: Option<usize>) -> Vec<f32> {
    let mean = |values: ndarray::ArrayViewD<'_, f32>| {
        (values.iter().map(|value| f64::from(*value)).sum::<f64>() / values.len().max(1) as f64)
            as f32
    };
    match axis {
        Some(axis) => input.axis_iter(Axis(axis)).map(mean).collect(),
        None => vec![mean(input.view())],
    }
}

/// Each region with its mean in each channel; the mean of all where there are no regions.
fn region_means(input: &Tensor, axis: Option<usize>, regions: &Regions) -> Tensor {
    let Some(axis) = axis.filter(|_| !regions.is_empty()) else {
        return constant(input, axis, &means(input, axis), |mean| *mean);
    };
    let mut found = input.clone();
    let (_, width) = regions.size();
    for mut plane in found.axis_iter_mut(Axis(axis)) {
        for pixels in regions.iter() {
            let place = |pixel: u32| [pixel as usize / width, pixel as usize % width];
            let value = |&pixel: &u32| plane.get(place(pixel)).map_or(0.0, |v| f64::from(*v));
            let mean = pixels.iter().map(value).sum::<f64>() / pixels.len().max(1) as f64;
            for &pixel in pixels {
                if let Some(value) = plane.get_mut(place(pixel)) {
                    *value = mean as f32;
                }
            }
        }
    }
    found
}

/// Element k of draw (seed, index) is the k-th 24-bit uniform of ChaCha8(seed), stream `index`,
/// spread over the range.
fn uniform(input: &Tensor, preprocess: Option<&Preprocess>, seed: u64, index: u64) -> Tensor {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    generator.set_stream(index);
    let mut tensor = Tensor::zeros(input.raw_dim());
    let mut draw = || (generator.next_u32() >> 8) as f32 / (1u32 << 24) as f32;
    match preprocess {
        Some(rule) => {
            let (range, axis) = (pixel_range(rule), channel_axis(rule.layout));
            for (place, value) in tensor.indexed_iter_mut() {
                let (black, white) = range[place[axis]];
                *value = black + draw() * (white - black);
            }
        }
        None => {
            let (low, high) = range(input);
            tensor
                .iter_mut()
                .for_each(|value| *value = low + draw() * (high - low));
        }
    }
    tensor
}

fn uploaded(input: &Tensor, uploaded: Option<&Tensor>) -> Result<Tensor, ImageError> {
    let uploaded = uploaded.ok_or(ImageError::NoUploadedBaseline)?;
    if uploaded.shape() != input.shape() {
        let (found, expected) = (uploaded.shape().to_vec(), input.shape().to_vec());
        return Err(ImageError::BaselineShape { found, expected });
    }
    Ok(uploaded.clone())
}

/// Gaussian blur along both spatial axes. Channels are affine in pixels, so blurring the tensor
/// blurs the picture.
fn blurred(input: &Tensor, channel_axis: usize, sigma: f32) -> Tensor {
    let axes: Vec<Axis> = (0..input.ndim())
        .filter(|axis| *axis != channel_axis)
        .map(Axis)
        .collect();
    let mut values = input.mapv(f64::from);
    blur(values.view_mut(), &axes, f64::from(sigma));
    values.mapv(|value| value as f32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::preprocess::Layout;

    fn rule(layout: Layout) -> Preprocess {
        Preprocess {
            layout,
            scale: 1.0 / 255.0,
            mean: vec![0.5, 0.25, 0.0],
            std: vec![0.5, 0.25, 0.2],
            ..Preprocess::plain(3, 2)
        }
    }

    fn resolve(
        text: &str,
        input: &Tensor,
        preprocess: Option<&Preprocess>,
    ) -> Result<Vec<Tensor>, ImageError> {
        text.parse::<Baseline>()?.resolve(
            input,
            &Material {
                preprocess,
                seed: 7,
                ..Material::default()
            },
        )
    }

    fn ramp(shape: &[usize]) -> Tensor {
        let mut next = 0.0;
        Tensor::from_shape_simple_fn(shape.to_vec(), || {
            next += 1.0;
            next
        })
    }

    #[test]
    fn black_and_white_are_two_baselines_in_the_models_space() {
        for (layout, shape, axis) in [(Layout::Nchw, [3, 2, 3], 0), (Layout::Nhwc, [2, 3, 3], 2)] {
            let found = resolve("black+white", &ramp(&shape), Some(&rule(layout))).unwrap();
            assert_eq!(found.len(), 2);
            for (channel, (black, white)) in [(-1.0, 1.0), (-1.0, 3.0), (0.0, 5.0)]
                .into_iter()
                .enumerate()
            {
                assert!(
                    found[0]
                        .index_axis(Axis(axis), channel)
                        .iter()
                        .all(|value| *value == black)
                );
                assert!(
                    found[1]
                        .index_axis(Axis(axis), channel)
                        .iter()
                        .all(|value| *value == white)
                );
            }
        }
    }

    #[test]
    fn min_and_max_are_the_pictures_darkest_and_brightest_value_in_every_channel() {
        // Red 0.25, 0.5; green 0.125, 0.5; blue 0.5, 0.75 of white.
        let input =
            Tensor::from_shape_vec(vec![3, 1, 2], vec![-0.5, 0.0, -0.5, 1.0, 2.5, 3.75]).unwrap();
        let found = resolve("min+max", &input, Some(&rule(Layout::Nchw))).unwrap();
        assert_eq!(
            found[0].as_slice().unwrap(),
            [-0.75, -0.75, -0.5, -0.5, 0.625, 0.625]
        );
        assert_eq!(
            found[1].as_slice().unwrap(),
            [0.5, 0.5, 2.0, 2.0, 3.75, 3.75]
        );
        let plain = resolve("min+max", &ramp(&[4]), None).unwrap();
        assert_eq!([plain[0][0], plain[1][3]], [1.0, 4.0]);
    }

    #[test]
    fn mean_is_the_inputs_own_per_channel() {
        let found = resolve("mean", &ramp(&[3, 2, 3]), Some(&rule(Layout::Nchw)))
            .unwrap()
            .remove(0);
        assert_eq!(
            found.iter().step_by(6).copied().collect::<Vec<_>>(),
            [3.5, 9.5, 15.5]
        );
        let plain = resolve("mean", &ramp(&[4]), None).unwrap().remove(0);
        assert_eq!(plain.as_slice().unwrap(), [2.5; 4]);
    }

    #[test]
    fn blur_keeps_constants_and_sums_and_spreads_a_spot_as_the_gaussian_does() {
        let mut spot = Tensor::zeros(vec![1, 41, 41]);
        spot[[0, 20, 20]] = 1.0;
        let found = resolve("blur:2", &spot, Some(&rule(Layout::Nchw)))
            .unwrap()
            .remove(0);
        let weight = |k: f32| (-k * k / 8.0).exp();
        let total: f32 = (-8..=8).map(|k| weight(k as f32)).sum();
        for (y, x) in [(20, 20), (20, 23), (25, 18), (20, 28), (20, 29)] {
            let (dy, dx) = (y as f32 - 20.0, x as f32 - 20.0);
            let cut = if dx.abs() > 8.0 {
                0.0
            } else {
                weight(dy) * weight(dx) / (total * total)
            };
            // f32 rounding of two passes.
            assert!((found[[0, y, x]] - cut).abs() < 1e-8, "{y} {x}");
        }
        let corner =
            Tensor::from_shape_fn(
                vec![1, 5, 7],
                |at| if at[1] + at[2] == 0 { 1.0 } else { 0.0 },
            );
        for sigma in ["0.3", "2", "100"] {
            let found = resolve(&format!("blur:{sigma}"), &corner, Some(&rule(Layout::Nchw)))
                .unwrap()
                .remove(0);
            assert!(
                (found.sum() - 1.0).abs() < 1e-5,
                "reflected borders keep the sum at sigma {sigma}"
            );
        }
    }

    #[test]
    fn random_baselines_repeat_by_seed_differ_by_index_and_fill_the_pixel_range() {
        let (rule, input) = (rule(Layout::Nchw), Tensor::zeros(vec![3, 50, 60]));
        let found = resolve("random:2", &input, Some(&rule)).unwrap();
        assert_eq!(found, resolve("random:2", &input, Some(&rule)).unwrap());
        assert_ne!(found[0], found[1]);
        assert_eq!(
            found[0],
            resolve("uniform:7", &input, Some(&rule)).unwrap()[0]
        );
        assert_ne!(
            found[0],
            resolve("uniform:8", &input, Some(&rule)).unwrap()[0]
        );
        let blue = found[0].index_axis(Axis(0), 2);
        assert!(blue.iter().all(|value| (0.0..5.0).contains(value)));
        // 3000 draws: the mean's standard error is 5 / sqrt(12 * 3000) = 0.026.
        assert!((blue.mean().unwrap() - 2.5).abs() < 0.13);
    }

    #[derive(Debug)]
    struct Numbered;

    impl ImageSource for Numbered {
        fn ensure_local<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), ImageError>> {
            Box::pin(async { Ok(()) })
        }

        fn draw(
            &self,
            id: &str,
            count: usize,
            seed: u64,
            rule: &Preprocess,
        ) -> Result<Vec<Tensor>, ImageError> {
            assert_eq!((id, seed, rule.width), ("photos", 7, 3));
            Ok((0..count)
                .map(|at| Tensor::from_elem(vec![3, 2, 3], at as f32))
                .collect())
        }
    }

    #[test]
    fn images_of_a_data_set_are_drawn_by_the_requests_seed() {
        let (rule, input) = (rule(Layout::Nchw), Tensor::zeros(vec![3, 2, 3]));
        let pictures: Arc<dyn ImageSource> = Arc::new(Numbered);
        let baseline: Baseline = "black+dataset:photos:4".parse().unwrap();
        let material = Material {
            preprocess: Some(&rule),
            pictures: Some(&pictures),
            seed: 7,
            uploaded: None,
            regions: None,
        };
        let found = baseline.resolve(&input, &material).unwrap();
        assert_eq!((found.len(), baseline.count()), (5, 5));
        assert_eq!(found[4][[0, 0, 0]], 3.0);
        let without = baseline.resolve(
            &input,
            &Material {
                pictures: None,
                ..material
            },
        );
        assert!(matches!(without, Err(ImageError::DatasetBaseline { .. })));
    }

    #[test]
    fn models_without_pixels_have_only_baselines_without_pixels() {
        let input = ramp(&[2]);
        assert_eq!(
            resolve("zero", &input, None).unwrap()[0]
                .as_slice()
                .unwrap(),
            [0.0, 0.0]
        );
        assert!(
            resolve("uniform", &input, None).unwrap()[0]
                .iter()
                .all(|value| (1.0..2.0).contains(value))
        );
        for text in ["black", "white", "blur:1"] {
            assert!(
                matches!(
                    resolve(text, &input, None),
                    Err(ImageError::BaselineNeedsPixels { .. })
                ),
                "{text}"
            );
        }
    }

    #[test]
    fn an_uploaded_baseline_must_be_there_and_fit() {
        let (input, other) = (ramp(&[2]), ramp(&[3]));
        let resolve = |uploaded| {
            Baseline {
                terms: vec![Term::Uploaded],
            }
            .resolve(
                &input,
                &Material {
                    uploaded,
                    ..Material::default()
                },
            )
        };
        assert_eq!(resolve(None), Err(ImageError::NoUploadedBaseline));
        assert!(matches!(
            resolve(Some(&other)),
            Err(ImageError::BaselineShape { .. })
        ));
        assert_eq!(resolve(Some(&input)), Ok(vec![input.clone()]));
    }
}
