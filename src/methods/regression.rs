//! Weighted least squares of values y on the regions that were shown, z of zeros and ones: sums of
//! Σ w z zᵀ and Σ w z y, so that memory does not grow with the samples; solved by Cholesky's
//! decomposition, in f64. Cost: (number shown)² / 2 per sample, players³ / 6 at the end.

/// A pivot below this part of the largest is a region that the samples do not tell from others.
const SINGULAR: f64 = 1e-12;
/// Of the mean of the diagonal: what makes such systems solvable; their solution is close to the
/// shortest one.
const LIFT: f64 = 1e-9;

/// The sums over all samples.
#[derive(Clone, Debug)]
pub struct Sums {
    weight: f64,
    z: Vec<f64>,
    /// The lower triangle, row by row.
    zz: Vec<f64>,
    y: f64,
    zy: Vec<f64>,
    yy: f64,
}

/// The line y = intercept + values · z.
#[derive(Clone, Debug)]
pub struct Ridge {
    pub values: Vec<f64>,
    pub intercept: f64,
    /// R²: the part of the weighted variance of y that the line explains.
    pub score: f64,
}

/// Values with a given sum.
#[derive(Clone, Debug)]
pub struct Constrained {
    pub values: Vec<f64>,
    /// Whether the samples leave no choice.
    pub is_determined: bool,
}

impl Sums {
    pub fn new(players: usize) -> Self {
        Self {
            weight: 0.0,
            z: vec![0.0; players],
            zz: vec![0.0; at(players, 0)],
            y: 0.0,
            zy: vec![0.0; players],
            yy: 0.0,
        }
    }

    pub fn add(&mut self, shown: &[bool], weight: f64, y: f64) {
        let ones: Vec<usize> = (0..self.z.len().min(shown.len()))
            .filter(|&player| shown[player])
            .collect();
        self.weight += weight;
        self.y += weight * y;
        self.yy += weight * y * y;
        for (count, &row) in ones.iter().enumerate() {
            self.z[row] += weight;
            self.zy[row] += weight * y;
            for &column in &ones[..=count] {
                self.zz[at(row, column)] += weight;
            }
        }
    }

    /// These and `factor` times the others.
    pub fn plus(&self, others: &Self, factor: f64) -> Self {
        let number = |own: f64, other: f64| own + factor * other;
        let list = |own: &[f64], other: &[f64]| {
            let pairs = own.iter().zip(other);
            pairs.map(|(&own, &other)| number(own, other)).collect()
        };
        Self {
            weight: number(self.weight, others.weight),
            z: list(&self.z, &others.z),
            zz: list(&self.zz, &others.zz),
            y: number(self.y, others.y),
            zy: list(&self.zy, &others.zy),
            yy: number(self.yy, others.yy),
        }
    }

    /// Σ w.
    pub fn weight(&self) -> f64 {
        self.weight
    }

    /// Minimises Σ w (y - intercept - values · z)² + alpha |values|².
    pub fn ridge(&self, alpha: f64) -> Ridge {
        let players = self.z.len();
        let mean = |sum: f64| sum / self.weight;
        let centred = |row: usize, column: usize| {
            self.zz[at(row, column)] - mean(self.z[row]) * self.z[column]
        };
        let with_y: Vec<f64> = (0..players)
            .map(|row| self.zy[row] - mean(self.z[row]) * self.y)
            .collect();
        let penalty = |row, column| if row == column { alpha } else { 0.0 };
        let matrix = lower(players, |row, column| {
            centred(row, column) + penalty(row, column)
        });
        let (values, _) = solve(matrix, &with_y);
        let dot = |other: &[f64]| values.iter().zip(other).map(|(a, b)| a * b).sum::<f64>();
        let intercept = mean(self.y) - dot(&self.z) / self.weight;
        let quadratic: f64 = (0..players)
            .flat_map(|row| (0..=row).map(move |column| (row, column)))
            .map(|(row, column)| {
                let twice = if row == column { 1.0 } else { 2.0 };
                twice * values[row] * values[column] * centred(row, column)
            })
            .sum();
        let variance = self.yy - mean(self.y) * self.y;
        let left = variance - 2.0 * dot(&with_y) + quadratic;
        Ridge {
            score: 1.0 - left / variance,
            intercept,
            values,
        }
    }

    /// Minimises Σ w (y - start - values · z)² where the values sum to `total`: the last of them is
    /// what the others leave.
    pub fn constrained(&self, start: f64, total: f64) -> Constrained {
        let Some(last) = self.z.len().checked_sub(1) else {
            return Constrained {
                values: Vec::new(),
                is_determined: true,
            };
        };
        let zz = |row, column| self.zz[at(row, column)];
        let with_y = |row: usize| self.zy[row] - start * self.z[row];
        let matrix = lower(last, |row, column| {
            zz(row, column) - zz(last, row) - zz(last, column) + zz(last, last)
        });
        let right: Vec<f64> = (0..last)
            .map(|row| with_y(row) - with_y(last) - total * (zz(last, row) - zz(last, last)))
            .collect();
        let (mut values, is_determined) = solve(matrix, &right);
        values.push(total - values.iter().sum::<f64>());
        Constrained {
            values,
            is_determined,
        }
    }
}

/// The place in a lower triangle of an element of it or of its mirror image.
fn at(row: usize, column: usize) -> usize {
    let (row, column) = (row.max(column), row.min(column));
    row * (row + 1) / 2 + column
}

fn lower(size: usize, element: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    (0..size)
        .flat_map(|row| (0..=row).map(move |column| (row, column)))
        .map(|(row, column)| element(row, column))
        .collect()
}

/// Solves a positive definite system, given by its lower triangle. One that is only semi-definite is
/// lifted a little, and said not to be determined.
fn solve(mut matrix: Vec<f64>, right: &[f64]) -> (Vec<f64>, bool) {
    let size = right.len();
    if let Some(found) = solve_definite(matrix.clone(), right) {
        return (found, true);
    }
    let trace: f64 = (0..size).map(|row| matrix[at(row, row)]).sum();
    let lift = (LIFT * trace / size as f64).max(f64::MIN_POSITIVE);
    (0..size).for_each(|row| matrix[at(row, row)] += lift);
    let found = solve_definite(matrix, right);
    (found.unwrap_or_else(|| vec![f64::NAN; size]), false)
}

fn solve_definite(mut matrix: Vec<f64>, right: &[f64]) -> Option<Vec<f64>> {
    let size = right.len();
    let largest = (0..size).fold(0.0, |largest: f64, row| largest.max(matrix[at(row, row)]));
    for row in 0..size {
        for column in 0..=row {
            let above: f64 = (0..column)
                .map(|k| matrix[at(row, k)] * matrix[at(column, k)])
                .sum();
            let left = matrix[at(row, column)] - above;
            matrix[at(row, column)] = if row == column {
                (left > SINGULAR * largest).then(|| left.sqrt())?
            } else {
                left / matrix[at(column, column)]
            };
        }
    }
    let mut found = right.to_vec();
    for row in 0..size {
        let known: f64 = (0..row).map(|k| matrix[at(row, k)] * found[k]).sum();
        found[row] = (found[row] - known) / matrix[at(row, row)];
    }
    for row in (0..size).rev() {
        let known: f64 = (row + 1..size).map(|k| matrix[at(k, row)] * found[k]).sum();
        found[row] = (found[row] - known) / matrix[at(row, row)];
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLES: [([bool; 3], f64, f64); 6] = [
        ([true, true, true], 1.0, 3.0),
        ([true, false, true], 0.5, 1.0),
        ([false, true, false], 0.25, -2.0),
        ([false, true, true], 0.75, 0.5),
        ([true, true, false], 0.5, 2.5),
        ([false, false, false], 0.1, -1.0),
    ];

    fn sums() -> Sums {
        let mut sums = Sums::new(3);
        SAMPLES
            .iter()
            .for_each(|(shown, weight, y)| sums.add(shown, *weight, *y));
        sums
    }

    fn line(values: &[f64], shown: [bool; 3]) -> f64 {
        values
            .iter()
            .zip(shown)
            .map(|(v, z)| v * f64::from(u8::from(z)))
            .sum()
    }

    #[test]
    fn a_ridge_is_where_its_objective_is_least_and_its_score_is_what_it_explains() {
        let found = sums().ridge(1.0);
        let loss = |values: &[f64], intercept: f64, alpha: f64| {
            let error = |(shown, weight, y): &([bool; 3], f64, f64)| {
                weight * (y - intercept - line(values, *shown)).powi(2)
            };
            SAMPLES.iter().map(error).sum::<f64>()
                + alpha * values.iter().map(|v| v * v).sum::<f64>()
        };
        let least = loss(&found.values, found.intercept, 1.0);
        for place in 0..4 {
            for step in [-1e-3, 1e-3] {
                let (mut values, mut intercept) = (found.values.clone(), found.intercept);
                match values.get_mut(place) {
                    Some(value) => *value += step,
                    None => intercept += step,
                }
                assert!(loss(&values, intercept, 1.0) > least, "{place} {step}");
            }
        }
        let total: f64 = SAMPLES.iter().map(|(_, w, _)| w).sum();
        let mean = SAMPLES.iter().map(|(_, w, y)| w * y).sum::<f64>() / total;
        let score = 1.0 - loss(&found.values, found.intercept, 0.0) / loss(&[0.0; 3], mean, 0.0);
        assert!((found.score - score).abs() < 1e-12);
    }

    #[test]
    fn values_that_the_samples_follow_are_found_and_keep_their_sum() {
        let mut sums = Sums::new(3);
        let truth = [2.0, -1.0, 0.5];
        for (shown, weight, _) in SAMPLES {
            sums.add(&shown, weight, 4.0 + line(&truth, shown));
        }
        let found = sums.constrained(4.0, 1.5);
        assert!(found.is_determined);
        assert!(
            found
                .values
                .iter()
                .zip(truth)
                .all(|(a, b)| (a - b).abs() < 1e-12)
        );
        // A sum that the samples do not have is kept all the same.
        assert!((sums.constrained(4.0, 9.0).values.iter().sum::<f64>() - 9.0).abs() < 1e-12);
    }

    #[test]
    fn regions_that_the_samples_do_not_tell_apart_share_and_are_told() {
        let mut sums = Sums::new(3);
        sums.add(&[true, true, false], 1.0, 2.0);
        sums.add(&[false, false, true], 1.0, 1.0);
        let found = sums.constrained(0.0, 3.0);
        assert!(!found.is_determined);
        for (value, expected) in found.values.iter().zip([1.0, 1.0, 1.0]) {
            assert!((value - expected).abs() < 1e-6, "{:?}", found.values);
        }
        let none = Sums::new(2).constrained(0.0, 1.0);
        assert!(!none.is_determined && none.values.iter().sum::<f64>() == 1.0);
        assert!(Sums::new(0).constrained(0.0, 0.0).values.is_empty());
        assert_eq!(Sums::new(1).constrained(1.0, 7.0).values, [7.0]);
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        let mut sums = sums();
        sums.add(&[true, false, false], 1.0, f64::NAN);
        assert!(sums.ridge(1.0).values.iter().all(|value| value.is_nan()));
        assert!(
            sums.constrained(0.0, 1.0)
                .values
                .iter()
                .any(|value| value.is_nan())
        );
    }
}
