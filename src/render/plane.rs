//! Attribution -> one plane -> strengths in -1..=1. Strength is (|v| - e) / (m - e), clamped to
//! 0..=1, with the sign of v; e and m are the `clip_percent_lowerbound` and
//! `clip_percent_upperbound` percentiles (nearest rank) of the magnitudes that `polarity` shows, of
//! one plane or of all.

use ndarray::{Array2, Axis, Ix2};

use super::{
    RenderError,
    options::{HeatmapOptions, Polarity, Reduction, Scale},
};
use crate::{picture::preprocess::Layout, tensor::Tensor};

/// The strengths of a plane, or why there are none.
#[derive(Clone, Debug, PartialEq)]
pub enum Strengths {
    Drawn(Array2<f32>),
    Blank { reason: String },
}

/// One value per pixel, `[height, width]`, of an attribution with three axes.
pub fn reduce(
    scores: &Tensor,
    layout: Layout,
    reduction: Reduction,
) -> Result<Array2<f32>, RenderError> {
    let channels = Axis(match layout {
        Layout::Nchw => 0,
        Layout::Nhwc => 2,
    });
    let fault = || RenderError::NotAnImage {
        shape: scores.shape().to_vec(),
    };
    if scores.ndim() != 3 || scores.is_empty() {
        return Err(fault());
    }
    let plane = match reduction {
        Reduction::Sum => scores.sum_axis(channels),
        Reduction::AbsSum => scores.fold_axis(channels, 0.0, |sum, value| sum + value.abs()),
        // `f32::max` would ignore NaN.
        Reduction::Max => scores.fold_axis(channels, f32::NEG_INFINITY, |max, value| {
            if value > max || value.is_nan() {
                *value
            } else {
                *max
            }
        }),
        Reduction::L2 => scores
            .fold_axis(channels, 0.0, |sum, value| sum + value * value)
            .mapv_into(f32::sqrt),
    };
    plane.into_dimensionality::<Ix2>().map_err(|_| fault())
}

/// The magnitudes that have strength 0 and strength 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    pub lower: f32,
    pub upper: f32,
}

/// The bounds of every plane, by `scale` and `top_percent`; none for a plane without magnitudes to
/// show.
pub fn bounds(planes: &[Array2<f32>], options: &HeatmapOptions) -> Vec<Option<Bounds>> {
    if options.top_percent < 100.0 {
        return planes.iter().map(|plane| top(plane, options)).collect();
    }
    match options.scale {
        Scale::PerImage => planes
            .iter()
            .map(|plane| measure([plane], options))
            .collect(),
        Scale::Shared => vec![measure(planes, options); planes.len()],
    }
}

/// Bounds that give the strongest `top_percent` of all pixels full strength and the rest none:
/// lower and upper bound are the weakest magnitude of those pixels.
fn top(plane: &Array2<f32>, options: &HeatmapOptions) -> Option<Bounds> {
    let mut magnitudes: Vec<u32> = plane
        .iter()
        .map(|value| shown(*value, options.polarity).abs().to_bits())
        .collect();
    let kept = (f64::from(options.top_percent) / 100.0 * magnitudes.len() as f64).ceil() as usize;
    let rank = magnitudes.len().checked_sub(kept.max(1))?;
    let weakest = f32::from_bits(*magnitudes.select_nth_unstable(rank).1);
    Some(Bounds {
        lower: weakest,
        upper: weakest,
    })
}

/// The common bounds of all `planes`; none without magnitudes to show. Planes with values that are
/// not finite are left out.
fn measure<'a>(
    planes: impl IntoIterator<Item = &'a Array2<f32>>,
    options: &HeatmapOptions,
) -> Option<Bounds> {
    // Non-negative floats sort as their bit patterns do.
    let mut magnitudes: Vec<u32> = planes
        .into_iter()
        .filter(|plane| is_finite(plane))
        .flatten()
        .map(|value| shown(*value, options.polarity).abs().to_bits())
        .filter(|bits| *bits > 0)
        .collect();
    let last = magnitudes.len().checked_sub(1)?;
    let mut at_percentile = |percent: f32| {
        let rank = (f64::from(percent) / 100.0 * magnitudes.len() as f64).ceil() as usize;
        f32::from_bits(
            *magnitudes
                .select_nth_unstable(rank.saturating_sub(1).min(last))
                .1,
        )
    };
    let upper = at_percentile(options.clip_percent_upperbound);
    let lower = if options.clip_percent_lowerbound > 0.0 {
        at_percentile(options.clip_percent_lowerbound)
    } else {
        0.0
    };
    Some(Bounds { lower, upper })
}

/// Clips and scales a plane by `polarity` and `bounds`.
pub fn normalise(
    plane: &Array2<f32>,
    bounds: Option<Bounds>,
    options: &HeatmapOptions,
) -> Strengths {
    let blank = |reason: &str| Strengths::Blank {
        reason: reason.to_owned(),
    };
    if !is_finite(plane) {
        return blank("the attribution has values that are NaN or infinite");
    }
    let signed = |value: f32| shown(value, options.polarity);
    let bounds = match bounds {
        Some(bounds) if plane.iter().any(|value| signed(*value) != 0.0) => bounds,
        _ if plane.iter().all(|value| *value == 0.0) => {
            return blank("the attribution is zero in every pixel");
        }
        _ if options.polarity == Polarity::Negative => {
            return blank("the attribution has no negative value");
        }
        _ => return blank("the attribution has no positive value"),
    };
    let Bounds { lower, upper } = bounds;
    Strengths::Drawn(plane.mapv(|value| {
        let value = signed(value);
        let magnitude = value.abs();
        let strength = if magnitude >= upper {
            1.0
        } else {
            ((magnitude - lower) / (upper - lower)).max(0.0)
        };
        if value == 0.0 {
            0.0
        } else {
            strength.copysign(value)
        }
    }))
}

fn is_finite(plane: &Array2<f32>) -> bool {
    plane.iter().all(|value| value.is_finite())
}

/// The magnitude of `value` where its sign is shown, else 0.
fn shown(value: f32, polarity: Polarity) -> f32 {
    match polarity {
        Polarity::Positive => value.max(0.0),
        Polarity::Negative => value.min(0.0),
        Polarity::Both => value,
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;
    use crate::render::options::Look;

    /// By the plane's own bounds.
    fn normalise(plane: &Array2<f32>, options: &HeatmapOptions) -> Strengths {
        super::normalise(
            plane,
            bounds(std::slice::from_ref(plane), options)[0],
            options,
        )
    }

    fn options(polarity: Polarity, lower: f32, upper: f32) -> HeatmapOptions {
        HeatmapOptions {
            polarity,
            clip_percent_lowerbound: lower,
            clip_percent_upperbound: upper,
            ..Look::Signed.options()
        }
    }

    fn positive() -> HeatmapOptions {
        options(Polarity::Positive, 62.0, 99.9)
    }

    #[test]
    fn channels_reduce_as_named_in_either_layout() {
        let planes = array![[[1.0f32, -3.0]], [[2.0, 1.0]], [[-2.0, -1.0]]].into_dyn();
        let pixels = planes
            .view()
            .permuted_axes(vec![1, 2, 0])
            .as_standard_layout()
            .into_owned();
        for (reduction, expected) in [
            (Reduction::Sum, [1.0, -3.0]),
            (Reduction::AbsSum, [5.0, 5.0]),
            (Reduction::Max, [2.0, 1.0]),
            (Reduction::L2, [3.0, 11f32.sqrt()]),
        ] {
            for (scores, layout) in [(&planes, Layout::Nchw), (&pixels, Layout::Nhwc)] {
                assert_eq!(
                    reduce(scores, layout, reduction).unwrap(),
                    array![expected],
                    "{reduction:?}"
                );
            }
        }
        assert!(matches!(
            reduce(&Tensor::zeros(vec![2]), Layout::Nchw, Reduction::Sum),
            Err(RenderError::NotAnImage { .. })
        ));
    }

    #[test]
    fn bounds_are_percentiles_of_what_is_shown() {
        // Magnitudes 10, 20, 30, 40: zeros do not count.
        let plane = array![[10.0, -40.0, 20.0, 30.0, 0.0]];
        let drawn = normalise(&plane, &options(Polarity::Both, 25.0, 75.0));
        assert_eq!(drawn, Strengths::Drawn(array![[0.0, -1.0, 0.5, 1.0, 0.0]]));
        let drawn = normalise(&plane, &options(Polarity::Both, 0.0, 100.0));
        assert_eq!(
            drawn,
            Strengths::Drawn(array![[0.25, -1.0, 0.5, 0.75, 0.0]])
        );
    }

    #[test]
    fn polarity_chooses_the_sign_and_its_own_percentiles() {
        let plane = array![[1.0, -9.0, 1.0]];
        assert_eq!(
            normalise(&plane, &options(Polarity::Positive, 0.0, 100.0)),
            Strengths::Drawn(array![[1.0, 0.0, 1.0]])
        );
        assert_eq!(
            normalise(&plane, &options(Polarity::Negative, 62.0, 99.9)),
            Strengths::Drawn(array![[0.0, -1.0, 0.0]])
        );
    }

    #[test]
    fn a_shared_scale_is_that_of_all_planes_together() {
        let options = HeatmapOptions {
            scale: Scale::Shared,
            ..options(Polarity::Both, 0.0, 100.0)
        };
        let planes = [
            array![[1.0, -2.0]],
            array![[4.0, 0.0]],
            array![[f32::NAN, 9.0]],
            array![[0.0, 0.0]],
        ];
        let shared = Some(Bounds {
            lower: 0.0,
            upper: 4.0,
        });
        assert_eq!(bounds(&planes, &options), [shared; 4]);
        let drawn = planes.map(|plane| super::normalise(&plane, shared, &options));
        assert_eq!(drawn[0], Strengths::Drawn(array![[0.25, -0.5]]));
        assert!(
            drawn[2..]
                .iter()
                .all(|strengths| matches!(strengths, Strengths::Blank { .. }))
        );
    }

    #[test]
    fn the_top_percent_of_the_pixels_are_drawn_and_equal_values_go_together() {
        let plane = array![[5.0, 1.0, 2.0, 2.0, -9.0, 0.0, 0.0, 0.0, 0.0, 0.0]];
        let drawn = |top_percent: f32, polarity: Polarity| {
            normalise(
                &plane,
                &HeatmapOptions {
                    top_percent,
                    polarity,
                    ..positive()
                },
            )
        };
        let positive = |at: &[usize]| {
            Strengths::Drawn(Array2::from_shape_fn((1, 10), |(_, x)| {
                f32::from(u8::from(at.contains(&x)))
            }))
        };
        assert_eq!(drawn(10.0, Polarity::Positive), positive(&[0]));
        assert_eq!(drawn(20.0, Polarity::Positive), positive(&[0, 2, 3]));
        // What is zero is never among them.
        assert_eq!(drawn(90.0, Polarity::Positive), positive(&[0, 1, 2, 3]));
        let mut expected = Array2::zeros((1, 10));
        expected[(0, 4)] = -1.0;
        assert_eq!(drawn(5.0, Polarity::Both), Strengths::Drawn(expected));
    }

    #[test]
    fn a_single_pixel_and_a_constant_map_are_drawn_at_full_strength() {
        assert_eq!(
            normalise(&array![[0.0, 3.0]], &positive()),
            Strengths::Drawn(array![[0.0, 1.0]])
        );
        assert_eq!(
            normalise(&array![[2.0, 2.0]], &positive()),
            Strengths::Drawn(array![[1.0, 1.0]])
        );
    }

    #[test]
    fn maps_without_anything_to_draw_are_blank_with_a_reason() {
        for (plane, word) in [
            (array![[0.0, -0.0]], "zero in every pixel"),
            (array![[1.0, f32::NAN]], "NaN"),
            (array![[f32::INFINITY, 1.0]], "infinite"),
            (array![[-1.0, 0.0]], "no positive"),
        ] {
            match normalise(&plane, &positive()) {
                Strengths::Blank { reason } => assert!(reason.contains(word), "{reason}"),
                drawn => panic!("{word}: {drawn:?}"),
            }
        }
    }
}
