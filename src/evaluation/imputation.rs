//! Linear imputation: each removed pixel becomes the weighted mean of its eight neighbours, 1/6 for
//! those beside it and 1/12 for the diagonal ones, so that all removed pixels are the solution of a
//! sparse linear system, one for each channel. At the border of the picture the weights of those
//! that are there count. Rong et al., 2022. Agrees with the published imputer
//! (tests/parity/perturbation.py). Cost: about twelve multigrid cycles, each of some ten operations
//! for each removed pixel, its neighbours and channels: 0.1 s at 224 x 224.
//!
//! The system is symmetric and positive definite, and is solved by conjugate gradients. Alone they
//! need as many iterations as a hole is wide, and more. So they are preconditioned by a multigrid
//! cycle that joins the unknowns of 2 x 2 pixels, then of 4 x 4, until one is left. The joined
//! unknowns are constant, which makes the correction from a coarser level too small: it is
//! multiplied by a factor (Braess 1995).

use ndarray::{ArrayViewMut2, Axis};

/// Neighbours of a pixel: rows and columns away, and weight.
const NEIGHBOURS: [(isize, isize, f64); 8] = [
    (-1, -1, 1.0 / 12.0),
    (-1, 0, 1.0 / 6.0),
    (-1, 1, 1.0 / 12.0),
    (0, -1, 1.0 / 6.0),
    (0, 1, 1.0 / 6.0),
    (1, -1, 1.0 / 12.0),
    (1, 0, 1.0 / 6.0),
    (1, 1, 1.0 / 12.0),
];

/// Channels that are solved together.
const LANES: usize = 4;
/// What the correction from a coarser level is multiplied by.
const CORRECTION: f64 = 1.8;
/// Of the largest value around: no removed pixel is further than about this from the solution.
const TOLERANCE: f64 = 1e-7;
/// Never reached; twelve is usual.
const MOST_ITERATIONS: usize = 200;

/// One unknown of one level, in the channels that are solved together.
type Values = [f64; LANES];

/// Replaces the removed pixels of a picture, `[pixels, channels]`, of pixels counted row by row.
/// Where all of them are removed they become 0.
pub fn impute(mut picture: ArrayViewMut2<'_, f32>, [height, width]: [usize; 2], removed: &[bool]) {
    let size = [height, width];
    let pixels: Vec<usize> = (0..removed.len()).filter(|&at| removed[at]).collect();
    let levels = levels(size, &pixels, removed);
    for mut channels in picture.axis_chunks_iter_mut(Axis(1), LANES) {
        let wanted = |&pixel: &usize| {
            let mut sum = [0.0; LANES];
            for (near, weight) in around(pixel, size).filter(|(near, _)| !removed[*near]) {
                let known = channels.row(near);
                let sums = sum.iter_mut().zip(known);
                sums.for_each(|(sum, value)| *sum += weight * f64::from(*value));
            }
            sum
        };
        let wanted: Vec<Values> = pixels.iter().map(wanted).collect();
        for (&pixel, values) in pixels.iter().zip(solve(&levels, &wanted, MOST_ITERATIONS)) {
            let channels = channels.row_mut(pixel).into_iter().zip(values);
            channels.for_each(|(channel, value)| *channel = value as f32);
        }
    }
}

/// The neighbours that a pixel has, and their weights.
fn around(pixel: usize, [height, width]: [usize; 2]) -> impl Iterator<Item = (usize, f64)> {
    let (y, x) = (pixel / width, pixel % width);
    NEIGHBOURS.iter().filter_map(move |&(down, right, weight)| {
        let y = y.checked_add_signed(down).filter(|&y| y < height)?;
        let x = x.checked_add_signed(right).filter(|&x| x < width)?;
        Some((y * width + x, weight))
    })
}

/// One level of the system: `diagonal` · value - Σ weight · neighbour, for each unknown.
struct Level {
    diagonal: Vec<f64>,
    /// Of all unknowns one after another, and where those of each end.
    neighbours: Vec<(u32, f64)>,
    ends: Vec<usize>,
    /// The unknown of the next level that each is part of; none on the last.
    parents: Vec<u32>,
}

/// From the removed pixels to a single unknown.
fn levels(mut size: [usize; 2], pixels: &[usize], removed: &[bool]) -> Vec<Level> {
    let mut places = vec![0; removed.len()];
    (0..)
        .zip(pixels)
        .for_each(|(place, &pixel)| places[pixel] = place);
    let row = |&pixel: &usize| {
        let unknown = around(pixel, size).filter(|(near, _)| removed[*near]);
        let unknown = unknown.map(|(near, weight)| (places[near], weight));
        let diagonal = around(pixel, size).map(|(_, weight)| weight).sum();
        (diagonal, unknown.collect())
    };
    let mut last = Level::of(pixels.iter().map(row));
    let (mut levels, mut cells) = (Vec::new(), pixels.to_vec());
    while last.diagonal.len() > 1 {
        let next = last.join(size, &mut cells);
        size = size.map(|side| side.div_ceil(2));
        levels.push(last);
        last = next;
    }
    levels.push(last);
    levels
}

impl Level {
    /// Of the diagonal and the neighbours of each unknown.
    fn of(rows: impl Iterator<Item = (f64, Vec<(u32, f64)>)>) -> Self {
        let mut level = Self {
            diagonal: Vec::new(),
            neighbours: Vec::new(),
            ends: vec![0],
            parents: Vec::new(),
        };
        for (diagonal, neighbours) in rows {
            level.diagonal.push(diagonal);
            level.neighbours.extend(neighbours);
            level.ends.push(level.neighbours.len());
        }
        level
    }

    /// The level in which the unknowns of 2 x 2 cells are one. `cells` are the places of the
    /// unknowns on a grid of `size`, and become those of the new ones.
    fn join(&mut self, [height, width]: [usize; 2], cells: &mut Vec<usize>) -> Self {
        let wide = width.div_ceil(2);
        let mut names = vec![u32::MAX; height.div_ceil(2) * wide];
        let mut joined = Vec::new();
        for &cell in cells.iter() {
            let block = cell / width / 2 * wide + cell % width / 2;
            if names[block] == u32::MAX {
                names[block] = joined.len() as u32;
                joined.push(block);
            }
            self.parents.push(names[block]);
        }
        let mut rows = vec![(0.0, Vec::<(u32, f64)>::new()); joined.len()];
        for (at, &parent) in self.parents.iter().enumerate() {
            let (diagonal, neighbours) = &mut rows[parent as usize];
            *diagonal += self.diagonal[at];
            for &(near, weight) in self.neighbours(at) {
                let other = self.parents[near as usize];
                let known = neighbours.iter_mut().find(|(name, _)| *name == other);
                match known {
                    _ if other == parent => *diagonal -= weight,
                    Some((_, sum)) => *sum += weight,
                    None => neighbours.push((other, weight)),
                }
            }
        }
        *cells = joined;
        Self::of(rows.into_iter())
    }

    fn neighbours(&self, at: usize) -> &[(u32, f64)] {
        &self.neighbours[self.ends[at]..self.ends[at + 1]]
    }

    /// Σ weight · neighbour.
    fn sum_around(&self, at: usize, values: &[Values]) -> Values {
        let mut sum = [0.0; LANES];
        for &(near, weight) in self.neighbours(at) {
            add(&mut sum, weight, &values[near as usize]);
        }
        sum
    }

    /// The system times these values.
    fn times(&self, values: &[Values]) -> Vec<Values> {
        let product = |at: usize| {
            let mut product = self.sum_around(at, values);
            product
                .iter_mut()
                .zip(&values[at])
                .for_each(|(product, value)| {
                    *product = self.diagonal[at] * value - *product;
                });
            product
        };
        (0..values.len()).map(product).collect()
    }

    /// Solves the equation of one unknown, its neighbours as they are.
    fn relax(&self, at: usize, wanted: &[Values], values: &mut [Values]) {
        let mut value = self.sum_around(at, values);
        value
            .iter_mut()
            .zip(&wanted[at])
            .for_each(|(value, wanted)| {
                *value = (wanted + *value) / self.diagonal[at];
            });
        values[at] = value;
    }
}

/// Written out: most of the time is spent here, also where nothing is optimised.
fn add(sum: &mut Values, factor: f64, [a, b, c, d]: &Values) {
    sum[0] += factor * a;
    sum[1] += factor * b;
    sum[2] += factor * c;
    sum[3] += factor * d;
}

fn add_all(sums: &mut [Values], factor: f64, values: &[Values]) {
    let all = sums.iter_mut().zip(values);
    all.for_each(|(sum, values)| add(sum, factor, values));
}

fn dot(one: &[Values], other: &[Values]) -> f64 {
    let terms = one.as_flattened().iter().zip(other.as_flattened());
    terms.map(|(a, b)| a * b).sum()
}

fn largest(values: &[Values]) -> f64 {
    let magnitudes = values.as_flattened().iter().map(|value| value.abs());
    magnitudes.fold(0.0, f64::max)
}

/// About the solution: a sweep over the unknowns, a correction from the coarser level, and a sweep
/// back, so that it is symmetric.
fn cycle(levels: &[Level], wanted: &[Values]) -> Vec<Values> {
    let mut values = vec![[0.0; LANES]; wanted.len()];
    let Some((level, coarser)) = levels.split_first() else {
        return values;
    };
    (0..wanted.len()).for_each(|at| level.relax(at, wanted, &mut values));
    if let Some(next) = coarser.first() {
        let mut left = vec![[0.0; LANES]; next.diagonal.len()];
        let products = level.times(&values);
        for ((&parent, wanted), product) in level.parents.iter().zip(wanted).zip(&products) {
            add(&mut left[parent as usize], 1.0, wanted);
            add(&mut left[parent as usize], -1.0, product);
        }
        let corrections = cycle(coarser, &left);
        for (value, &parent) in values.iter_mut().zip(&level.parents) {
            add(value, CORRECTION, &corrections[parent as usize]);
        }
        (0..wanted.len())
            .rev()
            .for_each(|at| level.relax(at, wanted, &mut values));
    }
    values
}

/// Conjugate gradients, preconditioned by a cycle. What a cycle makes of what is left is about the
/// error: they end where it is small.
fn solve(levels: &[Level], wanted: &[Values], most_iterations: usize) -> Vec<Values> {
    let mut values = vec![[0.0; LANES]; wanted.len()];
    let Some(level) = levels.first().filter(|_| largest(wanted) > 0.0) else {
        return values;
    };
    let mut left = wanted.to_vec();
    let mut error = cycle(levels, &left);
    let mut direction = error.clone();
    let mut size = dot(&left, &error);
    for _ in 0..most_iterations {
        let product = level.times(&direction);
        let step = size / dot(&direction, &product);
        add_all(&mut values, step, &direction);
        add_all(&mut left, -step, &product);
        error = cycle(levels, &left);
        if largest(&error) <= TOLERANCE * largest(&values) {
            break;
        }
        let next = dot(&left, &error);
        let turn = next / size;
        size = next;
        for (direction, error) in direction.iter_mut().zip(&error) {
            let own = direction.map(|value| turn * value);
            *direction = own;
            add(direction, 1.0, error);
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;

    fn picture(pixels: usize, channels: usize) -> Array2<f32> {
        let value = |(pixel, channel)| ((7 * pixel * pixel + 3 * channel) % 31) as f32 / 10.0 - 1.0;
        Array2::from_shape_fn((pixels, channels), value)
    }

    fn imputed(picture: &Array2<f32>, size: [usize; 2], removed: &[bool]) -> Array2<f32> {
        let mut imputed = picture.clone();
        impute(imputed.view_mut(), size, removed);
        imputed
    }

    /// The equations of the removed pixels of one channel as a full matrix, by elimination.
    fn eliminated(values: &[f32], [height, width]: [usize; 2], removed: &[bool]) -> Vec<f64> {
        let mut rows = Vec::new();
        for at in 0..values.len() {
            let mut row = vec![0.0; values.len() + 1];
            if removed[at] {
                for near in 0..values.len() {
                    let down = (near / width).abs_diff(at / width);
                    let right = (near % width).abs_diff(at % width);
                    let weight = match (down, right) {
                        (0, 1) | (1, 0) => 1.0 / 6.0,
                        (1, 1) => 1.0 / 12.0,
                        _ => continue,
                    };
                    row[at] += weight;
                    row[near] = -weight;
                }
            } else {
                (row[at], row[values.len()]) = (1.0, f64::from(values[at]));
            }
            rows.push(row);
        }
        assert_eq!(rows.len(), height * width);
        for at in 0..rows.len() {
            let pivot = rows[at].clone();
            for (other, row) in rows.iter_mut().enumerate() {
                let factor = row[at] / pivot[at];
                if other != at && factor != 0.0 {
                    row.iter_mut()
                        .zip(&pivot)
                        .for_each(|(a, b)| *a -= factor * b);
                }
            }
        }
        let solved = rows
            .iter()
            .enumerate()
            .map(|(at, row)| row[values.len()] / row[at]);
        solved.collect()
    }

    #[test]
    fn pixels_removed_alone_are_the_weighted_means_of_their_neighbours() {
        // 3 x 3 pixels. In the middle: (2 + 4 + 6 + 8) / 6 + (1 + 3 + 7 + 9) / 12 = 5.
        let nine = Array2::from_shape_fn((9, 1), |(pixel, _)| (pixel + 1) as f32);
        let alone = |pixel: usize| {
            let removed: Vec<bool> = (0..9).map(|at| at == pixel).collect();
            imputed(&nine, [3, 3], &removed)[[pixel, 0]]
        };
        assert!((alone(4) - 5.0).abs() < 1e-6);
        // At a corner 2 / 6 + 4 / 6 + 5 / 12, over the 5 / 12 that are there.
        assert!((alone(0) - (2.0 / 6.0 + 4.0 / 6.0 + 5.0 / 12.0) * 12.0 / 5.0).abs() < 1e-6);
    }

    #[test]
    fn neighbours_that_are_removed_are_solved_together() {
        // A row of four pixels, 0 and 3 at its ends: a straight line.
        let row = Array2::from_shape_vec((4, 1), vec![0.0, 9.0, 9.0, 3.0]).unwrap();
        let found = imputed(&row, [1, 4], &[false, true, true, false]);
        assert!((found[[1, 0]] - 1.0).abs() < 1e-6 && (found[[2, 0]] - 2.0).abs() < 1e-6);
    }

    #[test]
    fn imputation_agrees_with_elimination_for_holes_of_all_kinds_and_any_channels() {
        let size = [11, 13];
        let holes: [&dyn Fn(usize, usize) -> bool; 4] = [
            &|y, x| (3..9).contains(&y) && (2..10).contains(&x),
            &|y, x| y < 4 || x > 9 || y == 10,
            &|y, x| (5 * y + 3 * x) % 7 != 0,
            &|y, x| (y, x) != (6, 1),
        ];
        for (hole, channels) in holes.into_iter().zip([1, 3, 4, 6]) {
            let picture = picture(11 * 13, channels);
            let removed: Vec<bool> = (0..11 * 13).map(|at| hole(at / 13, at % 13)).collect();
            let found = imputed(&picture, size, &removed);
            for channel in 0..channels {
                let expected = eliminated(&picture.column(channel).to_vec(), size, &removed);
                for (found, expected) in found.column(channel).iter().zip(expected) {
                    assert!(
                        (f64::from(*found) - expected).abs() < 1e-6,
                        "{found} {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn nothing_removed_changes_nothing_and_everything_removed_leaves_0() {
        for size in [[1, 1], [1, 2], [5, 4]] {
            let pixels = size[0] * size[1];
            let picture = picture(pixels, 3);
            assert_eq!(imputed(&picture, size, &vec![false; pixels]), picture);
            let gone = imputed(&picture, size, &vec![true; pixels]);
            assert!(gone.iter().all(|value| *value == 0.0));
        }
    }

    /// With the diagonal alone in place of the cycle it takes hundreds.
    #[test]
    fn twenty_iterations_solve_a_large_hole() {
        let size = [120, 140];
        let removed: Vec<bool> = (0..120 * 140)
            .map(|at| at / 140 > 12 || at % 140 > 15)
            .collect();
        let pixels: Vec<usize> = (0..removed.len()).filter(|&at| removed[at]).collect();
        let levels = levels(size, &pixels, &removed);
        let value = |&at: &usize| {
            [
                (at % 140) as f64 / 140.0,
                (at / 140) as f64 / 120.0,
                1.0,
                0.0,
            ]
        };
        let solution: Vec<Values> = pixels.iter().map(value).collect();
        let wanted = levels[0].times(&solution);
        let mut gap = solve(&levels, &wanted, 20);
        add_all(&mut gap, -1.0, &solution);
        assert!(largest(&gap) < 1e-6);
    }
}
