//! How alike the pixels of two maps are: their Spearman rank correlation, and their structural
//! similarity.

/// The side of the windows of the structural similarity.
const WINDOW: usize = 7;

/// Ranks from 1; equal values share the mean of theirs.
pub fn ranks_of(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    for equal in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let rank = start as f64 + (equal.len() + 1) as f64 / 2.0;
        equal.iter().for_each(|&at| ranks[at] = rank);
        start += equal.len();
    }
    ranks
}

/// Pearson's; of ranks it is Spearman's. 0 where all values of one are equal.
pub fn correlation(one: &[f64], other: &[f64]) -> f64 {
    let varies = |values: &[f64]| values.windows(2).any(|pair| pair[0] != pair[1]);
    if !varies(one) || !varies(other) {
        return 0.0;
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (of_one, of_other) = (mean(one), mean(other));
    let (mut both, mut first, mut second) = (0.0, 0.0, 0.0);
    for (a, b) in one.iter().zip(other) {
        let (a, b) = (a - of_one, b - of_other);
        both += a * b;
        first += a * a;
        second += b * b;
    }
    match first * second {
        0.0 => 0.0,
        squares => both / squares.sqrt(),
    }
}

/// The mean structural similarity (SSIM) of two images of `width` columns: of all windows of 7 x 7
/// pixels (or the largest odd side that fits), by sample variances, with K₁ 0.01 and K₂ 0.03 of the
/// range of both images. 1 where both are one value. Wang et al. 2004, Eq. 13, as in scikit-image's
/// `structural_similarity`.
pub fn structural_similarity(one: &[f64], other: &[f64], width: usize) -> f64 {
    let (low, high) = one
        .iter()
        .chain(other)
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &value| {
            (low.min(value), high.max(value))
        });
    let range = high - low;
    if width == 0 || range <= 0.0 {
        return 1.0;
    }
    let height = one.len() / width;
    let side = (height.min(width).min(WINDOW) - 1) / 2 * 2 + 1;
    let (means, contrasts) = ((0.01 * range).powi(2), (0.03 * range).powi(2));
    let count = (side * side) as f64;
    let mut sum = 0.0;
    for top in 0..=height - side {
        for left in 0..=width - side {
            let (mut x, mut y, mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0, 0.0, 0.0);
            for row in top..top + side {
                let line = row * width + left..row * width + left + side;
                for (a, b) in one[line.clone()].iter().zip(&other[line]) {
                    x += a;
                    y += b;
                    xx += a * a;
                    yy += b * b;
                    xy += a * b;
                }
            }
            let (x, y) = (x / count, y / count);
            let sample = |sum: f64, of: f64| (sum - count * of) / (count - 1.0).max(1.0);
            let (xx, yy, xy) = (sample(xx, x * x), sample(yy, y * y), sample(xy, x * y));
            sum += (2.0 * x * y + means) * (2.0 * xy + contrasts)
                / ((x * x + y * y + means) * (xx + yy + contrasts));
        }
    }
    sum / ((height - side + 1) * (width - side + 1)) as f64
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Counts the values below each, and those equal to it.
    pub(in crate::evaluation) fn naive(one: &[f64], other: &[f64]) -> f64 {
        let ranks = |values: &[f64]| -> Vec<f64> {
            let count = |is: &dyn Fn(f64) -> bool| values.iter().filter(|v| is(**v)).count() as f64;
            let rank = |value: &f64| count(&|v| v < *value) + (count(&|v| v == *value) + 1.0) / 2.0;
            values.iter().map(rank).collect()
        };
        let (one, other, count) = (ranks(one), ranks(other), one.len() as f64);
        let mean = (count + 1.0) / 2.0;
        let sum = |a: &[f64], b: &[f64]| -> f64 {
            a.iter().zip(b).map(|(a, b)| (a - mean) * (b - mean)).sum()
        };
        sum(&one, &other) / (sum(&one, &one) * sum(&other, &other)).sqrt()
    }

    #[test]
    fn the_correlation_agrees_with_a_naive_twin() {
        let numbers = |step: i32| (0..60).map(move |k| f64::from(k * step % 23));
        let (one, other): (Vec<f64>, Vec<f64>) = (numbers(7).collect(), numbers(11).collect());
        let found = correlation(&ranks_of(&one), &ranks_of(&other));
        assert!((found - naive(&one, &other)).abs() < 1e-12, "{found}");
    }

    /// Those of scikit-image 0.26.0, by tests/parity/similarity.py.
    #[test]
    fn the_structural_similarity_is_that_of_scikit_image() {
        let stored = [
            (
                12,
                17,
                [
                    0.16536900980172678,
                    -0.004269924351241141,
                    0.07534006173374341,
                ],
            ),
            (
                5,
                9,
                [
                    -0.3761289740227058,
                    -0.03594651531735928,
                    0.3891697532121666,
                ],
            ),
        ];
        for (height, width, stored) in stored {
            let numbers = |step: usize, modulus: usize, less: f64| -> Vec<f64> {
                let all = (0..height * width).map(|k| (k * step % modulus) as f64 - less);
                all.collect()
            };
            let one = numbers(37, 101, 50.0);
            let others = [
                one.iter().map(|value| value * 0.5 + 3.0).collect(),
                numbers(53, 89, 20.0),
                one.iter().map(|value| -value).collect(),
            ];
            for (other, stored) in others.iter().zip(stored) {
                let found = structural_similarity(&one, other, width);
                // Sums of up to 49 products in f64.
                assert!((found - stored).abs() < 1e-10, "{found} {stored}");
            }
        }
    }

    #[test]
    fn an_image_is_as_similar_to_itself_as_can_be() {
        let values: Vec<f64> = (0..64).map(|k| f64::from(k * 7 % 23)).collect();
        assert!((structural_similarity(&values, &values, 8) - 1.0).abs() < 1e-12);
        assert_eq!(structural_similarity(&[3.0; 4], &[3.0; 4], 2), 1.0);
    }
}
