//! Sparseness of a map: the Gini index of its pixels' magnitudes v, sorted from the smallest,
//! Σ_k (2 k - n - 1) v_k / (n Σ v). It is 0 where all n pixels count the same, and 1 - 1/n where one
//! has everything. Chalasani et al., 2020. Cost: none. Agrees with Quantus on maps whose channels
//! were summed, but for the 1e-7 that Quantus adds to each pixel.

use super::{Category, Direction, Metric, Needs, Reading, Words, pixels::of_pixels};

pub const METRIC: Metric = Metric {
    id: "sparseness",
    title: "Sparseness",
    paper: "Chalasani et al., Concise Explanations of Neural Networks using Adversarial Training, 2020",
    category: Category::Complexity,
    direction: |_| Direction::Higher,
    parameters: &[],
    words: Words {
        about: |_| {
            "Whether a map singles out few pixels: the Gini index of the magnitudes of its pixels."
                .to_owned()
        },
        heading: "Gini index",
        column: "index",
        legend: "Gini index (0: all pixels alike)",
        value: "The mean over images. A map whose pixels all count the same has 0, one of a single pixel almost 1.",
        axes: None,
    },
    needs: Needs::NOTHING,
    build: |case, _| Ok(vec![of_pixels(case, gini)]),
    reading: Reading::NUMBER,
};

/// Of values with or without a sign; 0 where all of them are 0.
fn gini(values: &[f64]) -> f64 {
    let mut magnitudes: Vec<f64> = values.iter().map(|value| value.abs()).collect();
    magnitudes.sort_by(f64::total_cmp);
    let (count, sum) = (magnitudes.len() as f64, magnitudes.iter().sum::<f64>());
    if sum == 0.0 {
        return 0.0;
    }
    let weighted = magnitudes.iter().enumerate();
    let weighted = weighted.map(|(k, value)| (2.0 * (k + 1) as f64 - count - 1.0) * value);
    weighted.sum::<f64>() / (count * sum)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::evaluation::{
        parameters::Values,
        patches::Score,
        tests::{case, ended, tensor},
    };

    /// Half the mean difference of two values, over their mean.
    fn naive(values: &[f64]) -> f64 {
        let pairs = values
            .iter()
            .flat_map(|a| values.iter().map(move |b| (a, b)));
        let differences: f64 = pairs.map(|(a, b)| (a.abs() - b.abs()).abs()).sum();
        let sum: f64 = values.iter().map(|value| value.abs()).sum();
        differences / (2.0 * values.len() as f64 * sum)
    }

    #[test]
    pub(in crate::evaluation) fn a_hand_worked_map_is_as_sparse_as_worked_by_hand() {
        // Two channels of 2 x 2 pixels: sums 1, -3, 0, 0; magnitudes 3, 3, 0, 2.
        let scores = tensor(&[2, 2, 2], &[2.0, -3.0, 0.0, 1.0, -1.0, 0.0, 0.0, -1.0]);
        let case = case(scores, &[Score::Signed, Score::Absolute]);
        let run = (METRIC.build)(&case, &Values::default()).unwrap().remove(0);
        // (1 · 1 + 3 · 3) / (4 · 4), and (-1 · 2 + 1 · 3 + 3 · 3) / (4 · 8).
        assert_eq!(ended(run), [vec![0.625], vec![0.3125]]);
    }

    #[test]
    fn the_index_agrees_with_a_naive_twin() {
        let values: Vec<f64> = (0..97).map(|k| f64::from(k * 37 % 101) - 50.0).collect();
        // Sums of 97 products in f64.
        assert!((gini(&values) - naive(&values)).abs() < 1e-12);
        // A factor changes nothing.
        let larger: Vec<f64> = values.iter().map(|value| value * -7.0).collect();
        assert!((gini(&larger) - naive(&values)).abs() < 1e-12);
    }

    #[test]
    fn equal_pixels_have_0_and_a_single_one_almost_1() {
        assert_eq!(gini(&[-2.0, 2.0, 2.0, -2.0]), 0.0);
        assert_eq!(gini(&[0.0, 0.0, 5.0, 0.0]), 0.75);
        assert_eq!(gini(&[0.0; 4]), 0.0);
    }
}
