//! Gaussian blur, cut at 4 sigma, borders reflected (d c b a | a b c d | d c b a):
//! `scipy.ndimage.gaussian_filter` to the last bit. Weights exp(-k² / 2σ²), normalised. Cost: 4σ
//! multiplications per element and axis, in f64.

use ndarray::{ArrayViewMut1, ArrayViewMutD, Axis};

const TRUNCATE: f64 = 4.0;

/// Blurs along each of `axes` in turn; `sigma` is in elements, above 0.
pub fn blur(mut values: ArrayViewMutD<'_, f64>, axes: &[Axis], sigma: f64) {
    let radius = (TRUNCATE * sigma + 0.5) as isize;
    let weigh = |k: isize| (-0.5 / (sigma * sigma) * (k * k) as f64).exp();
    let total: f64 = (-radius..=radius).map(weigh).sum();
    let weights: Vec<f64> = (0..=radius).map(|k| weigh(k) / total).collect();
    if values.is_empty() {
        return;
    }
    for axis in axes {
        values
            .lanes_mut(*axis)
            .into_iter()
            .for_each(|lane| blur_lane(lane, &weights));
    }
}

/// `weights`: the kernel's centre first, then outwards.
fn blur_lane(mut lane: ArrayViewMut1<'_, f64>, weights: &[f64]) {
    let (length, radius) = (lane.len(), weights.len() - 1);
    let reflected = |at: isize| {
        let at = at.rem_euclid(2 * length as isize) as usize;
        lane[at.min(2 * length - 1 - at)]
    };
    let padded: Vec<f64> = (0..length + 2 * radius)
        .map(|at| reflected(at as isize - radius as isize))
        .collect();
    for (at, value) in lane.iter_mut().enumerate() {
        let centre = at + radius;
        // Summed from the kernel's ends inwards, in scipy's order.
        *value = (1..=radius)
            .rev()
            .fold(padded[centre] * weights[0], |sum, k| {
                sum + (padded[centre - k] + padded[centre + k]) * weights[k]
            });
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array1, Array2};

    use super::*;

    #[test]
    fn a_spot_becomes_the_gaussian_and_borders_keep_the_sum() {
        let mut spot = Array2::zeros((41, 30));
        spot[[20, 2]] = 1.0;
        blur(spot.view_mut().into_dyn(), &[Axis(0)], 2.0);
        let weight = |k: f64| (-k * k / 8.0).exp();
        let total: f64 = (-8..=8).map(|k| weight(f64::from(k))).sum();
        for y in 0..41 {
            let distance = (y as f64 - 20.0).abs();
            let expected = if distance > 8.0 {
                0.0
            } else {
                weight(distance) / total
            };
            assert!((spot[[y, 2]] - expected).abs() < 1e-15, "{y}");
        }
        for sigma in [0.1, 0.8, 3.0, 50.0] {
            let mut corner = Array2::zeros((5, 7));
            corner[[0, 0]] = 1.0;
            blur(corner.view_mut().into_dyn(), &[Axis(0), Axis(1)], sigma);
            assert!((corner.sum() - 1.0).abs() < 1e-12, "{sigma}");
        }
    }

    #[test]
    fn it_is_scipys_filter_to_the_last_bit() {
        // scipy 1.17: gaussian_filter([0.1, 0.7, 0.2, 0.9, 0.4], 0.8)
        let mut line = Array1::from_vec(vec![0.1, 0.7, 0.2, 0.9, 0.4]);
        blur(line.view_mut().into_dyn(), &[Axis(0)], 0.8);
        let expected = [
            0.2527203188252738,
            0.43996186321706243,
            0.47620796550398836,
            0.6103373256363404,
            0.5207725268173355,
        ];
        assert_eq!(line.to_vec(), expected);
    }
}
