//! Entropy of a map: -Σ p ln p over its n pixels, p the part that a pixel's magnitude has of the sum
//! of all. It is 0 where one pixel has everything, and ln n where all count the same. Bhatt et al.,
//! 2020. Cost: none. Agrees with Quantus (`Complexity`) on maps whose channels were summed.

use super::{Category, Direction, Metric, Needs, Reading, Words, pixels::of_pixels};

pub const METRIC: Metric = Metric {
    id: "entropy",
    title: "Entropy",
    paper: "Bhatt et al., Evaluating and Aggregating Feature-based Model Explanations, 2020",
    category: Category::Complexity,
    direction: |_| Direction::Lower,
    parameters: &[],
    words: Words {
        about: |_| {
            "Whether a map singles out few pixels: the entropy of the magnitudes of its pixels, each as a part of their sum."
                .to_owned()
        },
        heading: "Entropy",
        column: "entropy",
        legend: "entropy (0: a single pixel)",
        value: "The mean over images, in nats. A map of a single pixel has 0, one of n equal pixels ln n.",
        axes: None,
    },
    needs: Needs::NOTHING,
    build: |case, _| Ok(vec![of_pixels(case, entropy)]),
    reading: Reading::NUMBER,
};

/// Of values with or without a sign; where all of them are 0 they are equal too.
fn entropy(values: &[f64]) -> f64 {
    let sum: f64 = values.iter().map(|value| value.abs()).sum();
    if sum == 0.0 {
        return (values.len() as f64).ln();
    }
    let parts = values.iter().map(|value| value.abs() / sum);
    let parts = parts.filter(|part| *part > 0.0);
    parts.fold(0.0, |entropy, part| entropy - part * part.ln())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::evaluation::{
        parameters::Values,
        patches::Score,
        tests::{case, ended, tensor},
    };

    #[test]
    pub(in crate::evaluation) fn a_hand_worked_map_has_the_entropy_worked_by_hand() {
        // Two channels of 2 x 2 pixels: sums 2, -1, 0, 1; magnitudes 2, 1, 2, 3.
        let scores = tensor(&[2, 2, 2], &[1.0, -1.0, -1.0, 2.0, 1.0, 0.0, 1.0, -1.0]);
        let case = case(scores, &[Score::Signed, Score::Absolute]);
        let run = (METRIC.build)(&case, &Values::default()).unwrap().remove(0);
        let found = ended(run);
        // 1/2 ln 2 + 2 · 1/4 ln 4, and 2 · 1/4 ln 4 + 1/8 ln 8 + 3/8 ln (8/3).
        let two = 2.0_f64.ln();
        let expected = [1.5 * two, two + 0.375 * two + 0.375 * (8.0_f64 / 3.0).ln()];
        for (found, expected) in found.iter().zip(expected) {
            assert!((found[0] - expected).abs() < 1e-12, "{found:?} {expected}");
        }
    }

    /// ln S - Σ v ln v / S, with S the sum of the magnitudes v.
    #[test]
    fn the_entropy_agrees_with_a_naive_twin() {
        let values: Vec<f64> = (0..97).map(|k| f64::from(k * 37 % 101) - 50.0).collect();
        let sum: f64 = values.iter().map(|value| value.abs()).sum();
        let magnitudes = values.iter().map(|value| value.abs()).filter(|v| *v > 0.0);
        let expected = sum.ln() - magnitudes.map(|v| v * v.ln()).sum::<f64>() / sum;
        assert!((entropy(&values) - expected).abs() < 1e-12);
        // A factor changes nothing.
        let larger: Vec<f64> = values.iter().map(|value| value * -7.0).collect();
        assert!((entropy(&larger) - expected).abs() < 1e-12);
    }

    #[test]
    fn a_single_pixel_has_0_and_equal_ones_the_logarithm_of_their_number() {
        assert_eq!(entropy(&[0.0, 0.0, -5.0, 0.0]), 0.0);
        for equal in [[2.0, -2.0, 2.0, -2.0], [0.0; 4]] {
            assert!((entropy(&equal) - 4.0_f64.ln()).abs() < 1e-15);
        }
    }
}
