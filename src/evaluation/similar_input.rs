//! An input x + δ that looks otherwise than x and means the same to the model: δ has only the pixels
//! of a mask, starts as what another picture has there, and descends
//! ‖f(x + δ) - f(x)‖ - η₁ ‖δ‖ + η₂ Σ [(x + δ - 255)⁺ + (0 - x - δ)⁺]
//! in Euclidean norms, f the logits of all classes, x and δ in pixels from 0 to 255. Yang & Kim,
//! 2019, section 4.4 and appendix A. Where a norm is 0 its gradient counts as 0. δ is never rounded.

use std::sync::Arc;

use ndarray::{Array2, Axis, Zip};

use super::patches::by_pixel;
use crate::{
    picture::preprocess::{Preprocess, pixel_range},
    tensor::Tensor,
};

/// How far a step goes, and what the terms beside the change of the output count.
#[derive(Clone, Copy, Debug)]
pub struct Descent {
    pub step_size: f64,
    /// η₁.
    pub norm_weight: f64,
    /// η₂.
    pub range_weight: f64,
}

/// x and δ.
#[derive(Debug)]
pub struct SimilarInput {
    x: Arc<Tensor>,
    rule: Preprocess,
    /// The pixels of the mask, as `by_pixel` counts them.
    places: Vec<usize>,
    /// Of these, `[pixels, channels]`, from 0 to 255.
    clean: Array2<f64>,
    delta: Array2<f64>,
    /// What 0 is in the model's input, and what one of 255 adds to it, for each channel.
    scale: Vec<[f64; 2]>,
}

impl SimilarInput {
    /// x, and `start` where the mask, `[height, width]`, is true. None for inputs that `rule` cannot
    /// have produced, and where it makes all pixels of a channel the same.
    pub fn new(
        x: &Arc<Tensor>,
        start: &Tensor,
        mask: &Array2<bool>,
        rule: &Preprocess,
    ) -> Option<Self> {
        let scale = pixel_range(rule).into_iter().map(|(black, white)| {
            let [black, white] = [black, white].map(f64::from);
            [black, (white - black) / 255.0]
        });
        let scale: Vec<[f64; 2]> = scale.collect();
        let places = mask.iter().enumerate();
        let places = places.filter_map(|(place, is_inside)| is_inside.then_some(place));
        let places: Vec<usize> = places.collect();
        let inside = |picture: &Tensor| {
            let all = by_pixel(picture.view(), rule.layout)?;
            if all.dim() != (mask.len(), scale.len()) {
                return None;
            }
            let mut pixels = all.select(Axis(0), &places).mapv(f64::from);
            for mut pixel in pixels.outer_iter_mut() {
                let values = pixel.iter_mut().zip(&scale);
                values.for_each(|(value, [black, step])| *value = (*value - black) / step);
            }
            Some(pixels)
        };
        let clean = inside(x)?;
        let delta = inside(start)? - &clean;
        let is_told = scale
            .iter()
            .all(|[black, step]| black.is_finite() && step.is_normal());
        is_told.then(|| Self {
            x: x.clone(),
            rule: rule.clone(),
            places,
            clean,
            delta,
            scale,
        })
    }

    /// x + δ.
    pub fn input(&self) -> Tensor {
        let mut input = self.x.as_ref().clone();
        if let Some(mut pixels) = by_pixel(input.view_mut(), self.rule.layout) {
            for (place, delta) in self.places.iter().zip(self.delta.outer_iter()) {
                let values = pixels.row_mut(*place).into_iter().zip(delta);
                for ((value, delta), [_, step]) in values.zip(&self.scale) {
                    *value = (f64::from(*value) + delta * step) as f32;
                }
            }
        }
        input
    }

    /// One step. `gradient` is that of ‖f(x + δ) - f(x)‖ with respect to the model's input; none
    /// where the norm is 0.
    pub fn descend(&mut self, gradient: Option<&Tensor>, descent: &Descent) {
        let norm = self
            .delta
            .iter()
            .map(|value| value * value)
            .sum::<f64>()
            .sqrt();
        let slope = Array2::zeros(self.delta.raw_dim());
        let pixels = gradient.and_then(|gradient| by_pixel(gradient.view(), self.rule.layout));
        let mut slope = pixels.map_or(slope, |all| {
            all.select(Axis(0), &self.places).mapv(f64::from)
        });
        for mut pixel in slope.outer_iter_mut() {
            let values = pixel.iter_mut().zip(&self.scale);
            values.for_each(|(value, [_, step])| *value *= step);
        }
        Zip::from(&mut self.delta)
            .and(&self.clean)
            .and(&slope)
            .for_each(|delta, clean, slope| {
                let unit = if norm > 0.0 { *delta / norm } else { 0.0 };
                let outside = match clean + *delta {
                    value if value > 255.0 => 1.0,
                    value if value < 0.0 => -1.0,
                    _ => 0.0,
                };
                let all = slope - descent.norm_weight * unit + descent.range_weight * outside;
                *delta -= descent.step_size * all;
            });
    }
}

/// ‖`other` - `own`‖, and the direction from `own` to `other`, of length 1, as a cotangent: the
/// gradient of the norm is the product of this with the Jacobian. The direction is empty where the
/// norm is 0.
pub fn departure(own: &[f32], other: &[f32]) -> (f64, Vec<(usize, f32)>) {
    let gaps = own
        .iter()
        .zip(other)
        .map(|(own, other)| f64::from(*other) - f64::from(*own));
    let gaps: Vec<f64> = gaps.collect();
    let norm = gaps.iter().map(|gap| gap * gap).sum::<f64>().sqrt();
    let direction = gaps.iter().enumerate();
    let direction = direction.map(|(class, gap)| (class, (gap / norm) as f32));
    (
        norm,
        if norm > 0.0 {
            direction.collect()
        } else {
            Vec::new()
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::preprocess::{Channels, Layout};

    const DESCENT: Descent = Descent {
        step_size: 40.0,
        norm_weight: 0.02,
        range_weight: 0.03,
    };
    /// Height and width.
    const SIZE: [usize; 2] = [2, 3];

    fn rule() -> Preprocess {
        Preprocess {
            layout: Layout::Nhwc,
            channels: Channels::Bgr,
            scale: 1.0 / 255.0,
            mean: vec![0.4, 0.5, 0.6],
            std: vec![0.2, 0.3, 0.4],
            ..Preprocess::plain(3, 2)
        }
    }

    /// Numbers without a pattern, from 0 to 1.
    fn drawn(at: usize) -> f64 {
        (at * 7919 % 1009) as f64 / 1009.0
    }

    /// The input that shows these pixels.
    fn shown(pixels: &[f64]) -> Tensor {
        let (mean, std) = ([0.4, 0.5, 0.6], [0.2, 0.3, 0.4]);
        let values = pixels
            .iter()
            .enumerate()
            .map(|(at, pixel)| ((pixel / 255.0 - mean[at % 3]) / std[at % 3]) as f32);
        Tensor::from_shape_vec(vec![SIZE[0], SIZE[1], 3], values.collect()).unwrap()
    }

    /// Of a linear model with four classes, the weight of a pixel's channel.
    fn weight(class: usize, at: usize) -> f64 {
        0.04 * (drawn(31 * class + at + 5) - 0.5)
    }

    /// The loss in plain numbers.
    fn loss(x: &[f64], delta: &[f64]) -> f64 {
        let change = |class: usize| -> f64 {
            let terms = delta
                .iter()
                .enumerate()
                .map(|(at, by)| weight(class, at) * by);
            terms.sum::<f64>().powi(2)
        };
        let norm = delta.iter().map(|by| by * by).sum::<f64>().sqrt();
        let outside = x.iter().zip(delta).map(|(x, by)| {
            let pixel = x + by;
            (pixel - 255.0).max(0.0) + (-pixel).max(0.0)
        });
        (0..4).map(change).sum::<f64>().sqrt() - DESCENT.norm_weight * norm
            + DESCENT.range_weight * outside.sum::<f64>()
    }

    /// Against central differences of the loss.
    #[test]
    fn steps_are_those_of_a_naive_twin() {
        let count = SIZE[0] * SIZE[1] * 3;
        let mask = Array2::from_shape_fn(SIZE, |(row, column)| (row + column) % 3 != 1);
        let is_inside: Vec<bool> = mask.iter().flat_map(|inside| [*inside; 3]).collect();
        let x: Vec<f64> = (0..count).map(|at| 255.0 * drawn(at)).collect();
        // Half of the object is close to black or white.
        let object = (0..count).map(|at| match at % 4 {
            0 => 254.0,
            1 => 1.0,
            _ => 255.0 * drawn(at + 50),
        });
        let object: Vec<f64> = object.collect();
        let clean = Arc::new(shown(&x));
        let mut found = SimilarInput::new(&clean, &shown(&object), &mask, &rule()).unwrap();
        let mut delta: Vec<f64> = (0..count)
            .map(|at| {
                if is_inside[at] {
                    object[at] - x[at]
                } else {
                    0.0
                }
            })
            .collect();
        let mut is_outside = false;
        for _ in 0..30 {
            let slope = |at: usize| {
                let moved = |by: f64| {
                    let mut delta = delta.clone();
                    delta[at] += by;
                    loss(&x, &delta)
                };
                (moved(1e-4) - moved(-1e-4)) / 2e-4
            };
            let slopes: Vec<f64> = (0..count).map(slope).collect();
            // What the engine gives: by the model's input, of all pixels.
            let logits = |delta: &[f64]| -> Vec<f32> {
                let logit = |class: usize| -> f64 {
                    let terms = delta.iter().zip(&x).enumerate();
                    terms
                        .map(|(at, (by, x))| weight(class, at) * (x + by))
                        .sum()
                };
                (0..4).map(|class| logit(class) as f32).collect()
            };
            let (_, direction) = departure(&logits(&vec![0.0; count]), &logits(&delta));
            let gradient = (0..count).map(|at| {
                let terms = direction.iter();
                let slope: f64 = terms
                    .map(|(class, u)| f64::from(*u) * weight(*class, at))
                    .sum();
                (slope * 255.0 * [0.2, 0.3, 0.4][at % 3]) as f32
            });
            let gradient = Tensor::from_shape_vec(clean.raw_dim(), gradient.collect()).unwrap();
            found.descend(Some(&gradient), &DESCENT);
            for at in (0..count).filter(|at| is_inside[*at]) {
                delta[at] -= DESCENT.step_size * slopes[at];
                is_outside |= !(0.0..=255.0).contains(&(x[at] + delta[at]));
            }
            let moved: Vec<f64> = x.iter().zip(&delta).map(|(x, by)| x + by).collect();
            let gaps = found.input() - shown(&moved);
            // Of inputs from -3 to 2.
            assert!(gaps.iter().all(|gap| gap.abs() < 2e-4), "{gaps}");
        }
        assert!(is_outside);
        let outside = found.input();
        let kept = outside.iter().zip(clean.iter()).zip(&is_inside);
        assert!(
            kept.filter(|(_, inside)| !**inside)
                .all(|((moved, clean), _)| moved == clean)
        );
    }

    #[test]
    fn norms_of_0_have_no_slope() {
        let clean = Arc::new(shown(&[128.0; 18]));
        let mask = Array2::from_elem(SIZE, true);
        let mut found = SimilarInput::new(&clean, &clean, &mask, &rule()).unwrap();
        found.descend(None, &DESCENT);
        assert_eq!(found.input(), *clean);
        let (norm, direction) = departure(&[1.0, 2.0], &[1.0, 2.0]);
        assert!(norm == 0.0 && direction.is_empty());
        assert_eq!(
            departure(&[1.0, 2.0], &[4.0, -2.0]),
            (5.0, vec![(0, 0.6), (1, -0.8)])
        );
    }

    #[test]
    fn inputs_that_the_rule_cannot_have_made_are_refused() {
        let clean = Arc::new(shown(&[128.0; 18]));
        let of =
            |mask: Array2<bool>, rule: &Preprocess| SimilarInput::new(&clean, &clean, &mask, rule);
        assert!(of(Array2::from_elem([3, 3], true), &rule()).is_none());
        let grey = Preprocess {
            channels: Channels::Gray,
            ..rule()
        };
        assert!(of(Array2::from_elem(SIZE, true), &grey).is_none());
        let flat = Preprocess {
            scale: 0.0,
            ..rule()
        };
        assert!(of(Array2::from_elem(SIZE, true), &flat).is_none());
    }
}
