//! The concept activation vector: the unit normal w/|w| of the hyperplane that minimises
//! Σ log(1 + exp(-s(x w + b))) + λ/2 m² |w|² over a layer's activations x, s = 1 for images of the
//! concept and -1 for others, m² the mean squared distance of the x from their mean: by it the
//! vector does not depend on the layer's unit. scikit-learn's C is 1/(λ m²). Kim et al. 2018, 3.2.

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, linalg::general_mat_mul, s};
use smartcore::{
    error::Failed,
    linalg::{
        basic::{arrays::Array as _, matrix::DenseMatrix},
        traits::evd::EVDDecomposable,
    },
    linear::logistic_regression::{LogisticRegression, LogisticRegressionParameters},
};

/// The λ that are accepted. Below, smartcore's solver stops too far from the minimum: with 66 rows
/// the direction is off by 1e-7 at 0.01, by 1e-5 at 0.0001, by more than 1e-4 at 0.000001.
pub const REGULARISATION: [f64; 2] = [1e-4, 1e4];
/// Of three images, so many train; the others tell the accuracy.
const TRAINED_OF_THREE: usize = 2;
/// Activations that are turned into f64 at once, of each row.
const PIECE: usize = 4096;
/// Eigenvalues of the Gram matrix below this part of the largest are rounding.
const RANK_TOLERANCE: f64 = 1e-12;

/// A direction in a layer, and where on it the concept begins.
#[derive(Clone, Debug, PartialEq)]
pub struct Cav {
    /// Of length 1.
    direction: Vec<f64>,
    /// b/|w|.
    offset: f64,
}

/// A vector of the training images, and how many of the others it tells apart.
#[derive(Clone, Debug, PartialEq)]
pub struct Fit {
    pub cav: Cav,
    /// The share of images held out that lie on their side.
    pub accuracy: f64,
}

#[derive(Debug, thiserror::Error)]
pub enum CavError {
    #[error("an activation is not finite")]
    NotFinite,
    #[error("activations of {found} and of {expected} values are of different layers")]
    Length { found: usize, expected: usize },
    #[error("the classifier found no solution: {0}")]
    Solver(#[from] Failed),
}

/// Fits on two thirds of each side and tests on the last third. Activations are flat and of one
/// length. `None` where nothing tells the sides apart: all activations are the same, or the sides
/// are.
pub fn fit_and_test<T: AsRef<[f32]>>(
    concept: &[T],
    others: &[T],
    regularisation: f64,
) -> Result<Option<Fit>, CavError> {
    let [concept, others] = [concept, others].map(Side::of);
    let Some(cav) = Cav::fit(&concept.trained, &others.trained, regularisation)? else {
        return Ok(None);
    };
    let right = |rows: &[&[f32]], is_concept: bool| {
        let is_right = |row: &&&[f32]| cav.contains(row) == is_concept;
        rows.iter().filter(is_right).count()
    };
    let right = right(&concept.held_out, true) + right(&others.held_out, false);
    let held_out = concept.held_out.len() + others.held_out.len();
    Ok(Some(Fit {
        accuracy: right as f64 / held_out as f64,
        cav,
    }))
}

/// The rows of a side.
struct Side<'a> {
    trained: Vec<&'a [f32]>,
    held_out: Vec<&'a [f32]>,
}

impl<'a> Side<'a> {
    fn of<T: AsRef<[f32]>>(rows: &'a [T]) -> Self {
        let (trained, held_out) = rows.split_at(rows.len() * TRAINED_OF_THREE / 3);
        let slices = |rows: &'a [T]| rows.iter().map(AsRef::as_ref).collect();
        Self {
            trained: slices(trained),
            held_out: slices(held_out),
        }
    }
}

impl Cav {
    /// Fits on all rows; `None` where nothing tells the sides apart.
    pub fn fit(
        concept: &[&[f32]],
        others: &[&[f32]],
        regularisation: f64,
    ) -> Result<Option<Self>, CavError> {
        let rows = [concept, others].concat();
        let gram = gram(&rows)?;
        let Some(span) = Span::of(gram.view())? else {
            return Ok(None);
        };
        let sides: Vec<u32> = (0..rows.len())
            .map(|row| u32::from(row < concept.len()))
            .collect();
        let parameters = LogisticRegressionParameters::default().with_alpha(regularisation);
        let fitted = LogisticRegression::fit(&span.rows, &sides, parameters)?;
        let normal = fitted.coefficients();
        let normal: Vec<f64> = normal.iterator(0).copied().collect();
        let length = normal.iter().map(|part| part * part).sum::<f64>().sqrt();
        if length.is_nan() || length <= f64::EPSILON {
            return Ok(None);
        }
        let weights = span.weights(&normal, length);
        let direction = combine(&rows, &weights);
        // The rows were centred for the fit: x w + b = (x - mean) w + (b + mean w).
        let weights = weights.as_slice();
        let along_mean: f64 = gram.mean_axis(Axis(0)).map_or(0.0, |mean| {
            mean.iter().zip(weights).map(|(m, w)| m * w).sum()
        });
        let intercept = fitted.intercept().get((0, 0)) * span.scale / length;
        Ok(Some(Self {
            direction,
            offset: intercept - along_mean,
        }))
    }

    /// Whether an activation lies on the concept's side of the hyperplane.
    pub fn contains(&self, activation: &[f32]) -> bool {
        self.along(activation) + self.offset > 0.0
    }

    /// The scalar product with a vector of the layer: of a gradient, the directional derivative
    /// along the concept (Eq. 1).
    pub fn along(&self, vector: &[f32]) -> f64 {
        let pairs = self.direction.iter().zip(vector);
        pairs.map(|(a, b)| a * f64::from(*b)).sum()
    }

    /// Of length 1.
    pub fn direction(&self) -> &[f64] {
        &self.direction
    }
}

/// The rows in a basis of the space that they span about their mean: as many numbers as there are
/// rows, however many activations a layer has. The minimum lies in that space, since a part of w
/// outside changes no x w and only adds to |w|.
struct Span {
    /// Divided by `scale`, row by row.
    rows: DenseMatrix<f64>,
    /// m: the root of the mean squared distance from the mean.
    scale: f64,
    /// Of the centred Gram matrix: eigenvectors as columns, and the roots of their eigenvalues.
    vectors: Array2<f64>,
    roots: Vec<f64>,
}

impl Span {
    /// `None` where all rows are the same.
    fn of(gram: ArrayView2<'_, f64>) -> Result<Option<Self>, Failed> {
        let centred = centred(gram);
        let count = centred.nrows();
        let spread = centred.diag().sum() / count as f64;
        let largest = gram.diag().iter().copied().fold(0.0, f64::max);
        if spread.is_nan() || spread <= RANK_TOLERANCE * largest {
            return Ok(None);
        }
        let values = centred.into_raw_vec_and_offset().0;
        let decomposed = DenseMatrix::new(count, count, values, false)?.evd(true)?;
        let largest = decomposed.d.iter().copied().fold(0.0, f64::max);
        let kept: Vec<usize> = (0..count)
            .filter(|place| decomposed.d[*place] > RANK_TOLERANCE * largest)
            .collect();
        let vectors = Array2::from_shape_fn((count, kept.len()), |(row, column)| {
            *decomposed.V.get((row, kept[column]))
        });
        let roots: Vec<f64> = kept
            .iter()
            .map(|place| decomposed.d[*place].sqrt())
            .collect();
        let scale = spread.sqrt();
        let rows = vectors.indexed_iter();
        let rows = rows.map(|((_, column), part)| part * roots[column] / scale);
        let rows = DenseMatrix::new(count, kept.len(), rows.collect(), false)?;
        Ok(Some(Self {
            rows,
            scale,
            vectors,
            roots,
        }))
    }

    /// By which each row counts in the unit normal, of the normal in this basis.
    fn weights(&self, normal: &[f64], length: f64) -> Vec<f64> {
        let parts = normal.iter().zip(&self.roots);
        let parts: Vec<f64> = parts.map(|(part, root)| part / root / length).collect();
        let rows = self.vectors.rows().into_iter();
        let sums = rows.map(|row| row.iter().zip(&parts).map(|(a, b)| a * b).sum::<f64>());
        let weights: Vec<f64> = sums.collect();
        let mean = weights.iter().sum::<f64>() / weights.len() as f64;
        weights.into_iter().map(|weight| weight - mean).collect()
    }
}

/// The scalar products of all rows.
fn gram(rows: &[&[f32]]) -> Result<Array2<f64>, CavError> {
    let expected = rows.first().map_or(0, |row| row.len());
    if let Some(row) = rows.iter().find(|row| row.len() != expected) {
        return Err(CavError::Length {
            found: row.len(),
            expected,
        });
    }
    let mut products = Array2::zeros((rows.len(), rows.len()));
    in_pieces(rows, |_, piece| {
        general_mat_mul(1.0, &piece, &piece.t(), 1.0, &mut products);
    });
    match products.iter().all(|product: &f64| product.is_finite()) {
        true => Ok(products),
        false => Err(CavError::NotFinite),
    }
}

/// Σ weight · row.
fn combine(rows: &[&[f32]], weights: &[f64]) -> Vec<f64> {
    let length = rows.first().map_or(0, |row| row.len());
    let mut sum = vec![0.0; length];
    let weights = ArrayView2::from_shape((1, weights.len()), weights);
    in_pieces(rows, |start, piece| {
        let part = &mut sum[start..start + piece.ncols()];
        let part = ArrayViewMut2::from_shape((1, piece.ncols()), part);
        if let (Ok(weights), Ok(mut part)) = (&weights, part) {
            general_mat_mul(1.0, weights, &piece, 0.0, &mut part);
        }
    });
    sum
}

/// Hands out the rows in f64, some of their columns at a time, with the number of the first.
fn in_pieces(rows: &[&[f32]], mut work: impl FnMut(usize, ArrayView2<'_, f64>)) {
    let length = rows.first().map_or(0, |row| row.len());
    let mut space = Array2::zeros((rows.len(), PIECE.min(length)));
    for start in (0..length).step_by(PIECE) {
        let width = PIECE.min(length - start);
        let mut piece = space.slice_mut(s![.., ..width]);
        for (mut wide, row) in piece.rows_mut().into_iter().zip(rows) {
            let values = row[start..start + width].iter();
            wide.iter_mut()
                .zip(values)
                .for_each(|(wide, value)| *wide = f64::from(*value));
        }
        work(start, piece.view());
    }
}

/// The Gram matrix of the rows less their mean.
fn centred(gram: ArrayView2<'_, f64>) -> Array2<f64> {
    let means: Vec<f64> = gram
        .rows()
        .into_iter()
        .map(|row| row.sum() / row.len() as f64)
        .collect();
    let mean = means.iter().sum::<f64>() / means.len() as f64;
    Array2::from_shape_fn(gram.raw_dim(), |(row, column)| {
        gram[[row, column]] - means[row] - means[column] + mean
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::normals;

    /// Rows of a blob around `centre`.
    fn blob(seed: u64, count: usize, centre: &[f32]) -> Vec<Vec<f32>> {
        let mut noise = normals(seed, 0);
        let mut row = || {
            let values = centre.iter().zip(&mut noise);
            values
                .map(|(centre, noise)| centre + noise as f32)
                .collect()
        };
        (0..count).map(|_| row()).collect()
    }

    fn fitted(concept: &[Vec<f32>], others: &[Vec<f32>], regularisation: f64) -> Cav {
        let [concept, others] =
            [concept, others].map(|rows| rows.iter().map(Vec::as_slice).collect::<Vec<_>>());
        Cav::fit(&concept, &others, regularisation)
            .unwrap()
            .unwrap()
    }

    fn distance(one: &[f64], other: &[f64]) -> f64 {
        let squares = one.iter().zip(other).map(|(a, b)| (a - b).powi(2));
        squares.sum::<f64>().sqrt()
    }

    fn unit(vector: &[f64]) -> Vec<f64> {
        let length = vector.iter().map(|v| v * v).sum::<f64>().sqrt();
        vector.iter().map(|v| v / length).collect()
    }

    /// The mirror image of every row at x = 7 in the direction (3, 0, 4) is on the other side, and
    /// all else is mirrored within a side: the normal can be nothing but (3, 0, 4) / 5.
    #[test]
    fn of_mirrored_sides_the_vector_is_the_direction_between_them() {
        let around = |sign: f32, along: f32| {
            [-1.0_f32, 1.0].map(|aside| {
                let (x, z) = (
                    sign * along * 3.0 - aside * 4.0,
                    sign * along * 4.0 + aside * 3.0,
                );
                vec![7.0 + x, aside * 2.0, z]
            })
        };
        let side = |sign: f32| [around(sign, 1.0), around(sign, 2.5)].concat();
        for regularisation in [1e-4, 0.01, 1.0, 1e4] {
            let cav = fitted(&side(1.0), &side(-1.0), regularisation);
            assert!(distance(cav.direction(), &[0.6, 0.0, 0.8]) < 1e-6);
            // The hyperplane goes through the mean (7, 0, 0).
            assert!((cav.offset + 4.2).abs() < 1e-6, "{}", cav.offset);
            assert!(cav.contains(&[7.1, 0.0, 0.0]) && !cav.contains(&[6.9, 0.0, 0.0]));
            let other = fitted(&side(-1.0), &side(1.0), regularisation);
            assert!(distance(other.direction(), &[-0.6, 0.0, -0.8]) < 1e-6);
        }
    }

    #[test]
    fn rows_on_a_line_give_its_direction() {
        let row = |at: f32| vec![1.0 + 2.0 * at, 5.0 - at, 2.0 * at, 3.0];
        let (concept, others) = ([3.0, 4.0, 9.0].map(row), [-1.0, 0.5, 1.0, 2.0].map(row));
        let cav = fitted(&concept, &others, 0.01);
        let expected = unit(&[2.0, -1.0, 2.0, 0.0]);
        assert!(distance(cav.direction(), &expected) < 1e-9);
    }

    #[test]
    fn under_much_regularisation_the_vector_joins_the_means() {
        let (concept, others) = (blob(1, 30, &[1.0; 12]), blob(2, 30, &[0.0; 12]));
        let cav = fitted(&concept, &others, 1e4);
        let mean = |rows: &[Vec<f32>], at: usize| {
            rows.iter().map(|row| f64::from(row[at])).sum::<f64>() / rows.len() as f64
        };
        let joined: Vec<f64> = (0..12)
            .map(|at| mean(&concept, at) - mean(&others, at))
            .collect();
        assert!(distance(cav.direction(), &unit(&joined)) < 1e-3);
    }

    #[test]
    fn the_unit_of_a_layer_does_not_matter() {
        let (concept, others) = (blob(3, 20, &[0.5; 50]), blob(4, 25, &[0.0; 50]));
        let scaled = |rows: &[Vec<f32>]| {
            let scaled = rows
                .iter()
                .map(|row| row.iter().map(|v| v * 1024.0).collect());
            scaled.collect::<Vec<Vec<f32>>>()
        };
        let cav = fitted(&concept, &others, 0.01);
        let other = fitted(&scaled(&concept), &scaled(&others), 0.01);
        assert!(distance(cav.direction(), other.direction()) < 1e-9);
        assert!((cav.offset * 1024.0 - other.offset).abs() < 1e-6);
    }

    /// Gradient descent in the space of the activations themselves.
    #[test]
    fn a_naive_twin_finds_the_same_hyperplane() {
        let (concept, others) = (blob(5, 14, &[0.8, 0.0, -0.4, 3.0]), blob(6, 9, &[0.0; 4]));
        let regularisation = 0.05;
        let rows: Vec<(Vec<f64>, f64)> = [(&concept, 1.0), (&others, -1.0)]
            .into_iter()
            .flat_map(|(rows, side)| rows.iter().map(move |row| (row, side)))
            .map(|(row, side)| (row.iter().map(|v| f64::from(*v)).collect(), side))
            .collect();
        let count = rows.len() as f64;
        let mean: Vec<f64> = (0..4)
            .map(|at| rows.iter().map(|(x, _)| x[at]).sum::<f64>() / count)
            .collect();
        let spread = rows
            .iter()
            .map(|(x, _)| distance(x, &mean).powi(2))
            .sum::<f64>()
            / count;
        let mut w = [0.0; 5];
        for _ in 0..200_000 {
            let mut slope = [0.0; 5];
            (0..4).for_each(|at| slope[at] = regularisation * spread * w[at]);
            for (x, side) in &rows {
                let margin = side * ((0..4).map(|at| x[at] * w[at]).sum::<f64>() + w[4]);
                let pull = -side / (1.0 + margin.exp());
                (0..4).for_each(|at| slope[at] += pull * x[at]);
                slope[4] += pull;
            }
            (0..5).for_each(|at| w[at] -= 0.01 * slope[at]);
        }
        let length = w[..4].iter().map(|v| v * v).sum::<f64>().sqrt();
        let cav = fitted(&concept, &others, regularisation);
        assert!(distance(cav.direction(), &unit(&w[..4])) < 1e-6);
        assert!((cav.offset - w[4] / length).abs() < 1e-6);
    }

    /// More activations than are turned into f64 at once.
    #[test]
    fn long_activations_are_taken_in_pieces() {
        let long = |rows: Vec<Vec<f32>>| {
            let spread = rows.into_iter().map(|row| {
                let mut long = vec![0.25; 2 * PIECE + 77];
                [3, PIECE - 1, PIECE, 2 * PIECE + 70]
                    .into_iter()
                    .zip(row)
                    .for_each(|(at, value)| long[at] = value);
                long
            });
            spread.collect::<Vec<Vec<f32>>>()
        };
        let (concept, others) = (blob(7, 12, &[1.0, 0.0, -1.0, 0.5]), blob(8, 12, &[0.0; 4]));
        let short = fitted(&concept, &others, 0.01);
        let cav = fitted(&long(concept), &long(others), 0.01);
        let places = [3, PIECE - 1, PIECE, 2 * PIECE + 70];
        let found = places.map(|at| cav.direction()[at]);
        assert!(distance(&found, short.direction()) < 1e-9);
        let rest: f64 = cav.direction().iter().map(|v| v * v).sum::<f64>();
        assert!((rest - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_third_is_held_out_and_tells_the_accuracy() {
        // What trains is told apart by the first number; of what is held out, one of two is not.
        let concept = [
            [2.0, 0.0],
            [3.0, 1.0],
            [2.5, 0.0],
            [3.5, 1.0],
            [2.0, 1.0],
            [-2.0, 0.0],
        ];
        let others = [[-2.0, 0.0], [-3.0, 1.0], [-2.5, 1.0]];
        let found = fit_and_test(&concept, &others, 0.01).unwrap().unwrap();
        assert!((found.accuracy - 2.0 / 3.0).abs() < 1e-12);
        let rows = |rows: &[[f32; 2]]| rows.iter().map(|row| row.to_vec()).collect::<Vec<_>>();
        assert_eq!(
            found.cav,
            fitted(&rows(&concept[..4]), &rows(&others[..2]), 0.01)
        );
    }

    #[test]
    fn sides_that_nothing_tells_apart_have_no_vector() {
        let same = [[1.0, 2.0]; 3];
        assert_eq!(fit_and_test(&same, &same, 0.01).unwrap(), None);
        let varied = [[1.0, 2.0], [5.0, 1.0], [0.0, 0.0]];
        assert_eq!(fit_and_test(&varied, &varied, 0.01).unwrap(), None);
        let broken = [[1.0, f32::NAN]; 3];
        let error = fit_and_test(&varied, &broken, 0.01).unwrap_err();
        assert!(matches!(error, CavError::NotFinite));
        let [two, three] = [vec![1.0; 2], vec![1.0; 3]];
        let error = Cav::fit(&[&two], &[&three], 0.01).unwrap_err();
        assert!(error.to_string().contains("different layers"), "{error}");
    }
}
