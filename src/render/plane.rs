//! Attribution -> one plane -> strengths in -1..=1.
//! Strength is (|v| - e) / (m - e), cut to 0..=1, with the sign of v; e and m are the `clip_percent_lowerbound` and
//! `clip_percent_upperbound` percentiles (nearest rank) of the magnitudes that `polarity` shows.

use ndarray::{Array2, Axis, Ix2};

use super::{
    RenderError,
    options::{HeatmapOptions, Polarity, Reduction},
};
use crate::{model::manifest::Layout, tensor::Tensor};

/// Strengths of a plane, or why there is nothing to draw.
#[derive(Clone, Debug, PartialEq)]
pub enum Strengths {
    Drawn(Array2<f32>),
    Blank { reason: String },
}

/// One value per pixel, `[height, width]`, of an attribution with three axes.
pub fn reduce(scores: &Tensor, layout: Layout, reduction: Reduction) -> Result<Array2<f32>, RenderError> {
    let channels = Axis(match layout {
        Layout::Nchw => 0,
        Layout::Nhwc => 2,
    });
    let fault = || RenderError::NotAnImage { shape: scores.shape().to_vec() };
    if scores.ndim() != 3 || scores.is_empty() {
        return Err(fault());
    }
    let plane = match reduction {
        Reduction::Sum => scores.sum_axis(channels),
        Reduction::AbsSum => scores.fold_axis(channels, 0.0, |sum, value| sum + value.abs()),
        // `f32::max` would pass over a NaN.
        Reduction::Max => {
            scores.fold_axis(
                channels,
                f32::NEG_INFINITY,
                |max, value| if value > max || value.is_nan() { *value } else { *max },
            )
        }
        Reduction::L2 => scores.fold_axis(channels, 0.0, |sum, value| sum + value * value).mapv_into(f32::sqrt),
    };
    plane.into_dimensionality::<Ix2>().map_err(|_| fault())
}

/// Clips and scales a plane by `polarity` and the two bounds of `options`.
pub fn normalise(plane: &Array2<f32>, options: &HeatmapOptions) -> Strengths {
    let blank = |reason: &str| Strengths::Blank { reason: format!("{reason}; the heat map is blank") };
    if plane.iter().any(|value| !value.is_finite()) {
        return blank("the attribution has values that are NaN or infinite");
    }
    let signed = |value: f32| match options.polarity {
        Polarity::Positive => value.max(0.0),
        Polarity::Negative => value.min(0.0),
        Polarity::Both => value,
    };
    // Non-negative floats sort as their bits do.
    let mut magnitudes: Vec<u32> =
        plane.iter().map(|value| signed(*value).abs().to_bits()).filter(|bits| *bits > 0).collect();
    magnitudes.sort_unstable();
    if magnitudes.is_empty() {
        return blank(match options.polarity {
            _ if plane.iter().all(|value| *value == 0.0) => "the attribution is zero everywhere",
            Polarity::Negative => "the attribution has no negative value",
            _ => "the attribution has no positive value",
        });
    }
    let at_percentile = |percent: f32| {
        let rank = (f64::from(percent) / 100.0 * magnitudes.len() as f64).ceil() as usize;
        f32::from_bits(magnitudes[rank.clamp(1, magnitudes.len()) - 1])
    };
    let upper = at_percentile(options.clip_percent_upperbound);
    let lower =
        if options.clip_percent_lowerbound > 0.0 { at_percentile(options.clip_percent_lowerbound) } else { 0.0 };
    Strengths::Drawn(plane.mapv(|value| {
        let value = signed(value);
        let magnitude = value.abs();
        let strength = if magnitude >= upper { 1.0 } else { ((magnitude - lower) / (upper - lower)).max(0.0) };
        if value == 0.0 { 0.0 } else { strength.copysign(value) }
    }))
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    fn options(polarity: Polarity, lower: f32, upper: f32) -> HeatmapOptions {
        HeatmapOptions {
            polarity,
            clip_percent_lowerbound: lower,
            clip_percent_upperbound: upper,
            ..Default::default()
        }
    }

    #[test]
    fn channels_reduce_as_named_in_either_layout() {
        let planes = array![[[1.0f32, -3.0]], [[2.0, 1.0]], [[-2.0, -1.0]]].into_dyn();
        let pixels = planes.view().permuted_axes(vec![1, 2, 0]).as_standard_layout().into_owned();
        for (reduction, expected) in [
            (Reduction::Sum, [1.0, -3.0]),
            (Reduction::AbsSum, [5.0, 5.0]),
            (Reduction::Max, [2.0, 1.0]),
            (Reduction::L2, [3.0, 11f32.sqrt()]),
        ] {
            for (scores, layout) in [(&planes, Layout::Nchw), (&pixels, Layout::Nhwc)] {
                assert_eq!(reduce(scores, layout, reduction).unwrap(), array![expected], "{reduction:?}");
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
        assert_eq!(drawn, Strengths::Drawn(array![[0.25, -1.0, 0.5, 0.75, 0.0]]));
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
    fn a_single_pixel_and_a_constant_map_are_drawn_at_full_strength() {
        assert_eq!(normalise(&array![[0.0, 3.0]], &HeatmapOptions::default()), Strengths::Drawn(array![[0.0, 1.0]]));
        assert_eq!(normalise(&array![[2.0, 2.0]], &HeatmapOptions::default()), Strengths::Drawn(array![[1.0, 1.0]]));
    }

    #[test]
    fn maps_without_anything_to_draw_are_blank_with_a_reason() {
        for (plane, word) in [
            (array![[0.0, -0.0]], "zero everywhere"),
            (array![[1.0, f32::NAN]], "NaN"),
            (array![[f32::INFINITY, 1.0]], "infinite"),
            (array![[-1.0, 0.0]], "no positive"),
        ] {
            match normalise(&plane, &HeatmapOptions::default()) {
                Strengths::Blank { reason } => assert!(reason.contains(word), "{reason}"),
                drawn => panic!("{word}: {drawn:?}"),
            }
        }
    }
}
