//! An image cut into `grid` x `grid` patches: borders at round(i · size / grid). Patches are
//! counted row by row from the top left. Sums run in index order in f64. At 224 pixels a grid of 25
//! has patches 9 or 8 pixels wide, at 225 the published 9 x 9.

use ndarray::{
    ArrayBase, ArrayView1, ArrayView3, ArrayViewD, ArrayViewMutD, Axis, Ix2, Ix3, IxDyn, RawData,
    Slice,
};
use serde::{Deserialize, Serialize};

use crate::{picture::preprocess::Layout, tensor::Tensor};

/// The patches of inputs of one shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grid {
    layout: Layout,
    rows: Vec<usize>,
    columns: Vec<usize>,
}

/// What stands for a pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Score {
    /// The sum of its channels.
    Signed,
    /// The sum of its channels' magnitudes, for methods without a sign of their own.
    Absolute,
}

impl Score {
    /// Of all pixels of a map, which may have one channel only.
    pub fn pixels(self, scores: &Tensor, layout: Layout) -> Vec<f64> {
        let channels = match layout {
            Layout::Nchw => Axis(0),
            Layout::Nhwc => Axis(scores.ndim().saturating_sub(1)),
        };
        let pixel = |values: ArrayView1<'_, f32>| match self {
            Self::Signed => values.iter().map(|value| f64::from(*value)).sum(),
            Self::Absolute => values.iter().map(|value| f64::from(value.abs())).sum(),
        };
        let pixels = scores.lanes(channels).into_iter().map(pixel);
        pixels.collect()
    }
}

/// A view of a picture as `[pixels, channels]`, pixels counted as by [`Score::pixels`]. `None` for
/// another shape.
pub fn by_pixel<S: RawData>(
    picture: ArrayBase<S, IxDyn>,
    layout: Layout,
) -> Option<ArrayBase<S, Ix2>> {
    let &[first, second, third] = picture.shape() else {
        return None;
    };
    match layout {
        Layout::Nchw => {
            let planes = picture.into_shape_with_order((first, second * third));
            planes.ok().map(ArrayBase::reversed_axes)
        }
        Layout::Nhwc => {
            let pixels = picture.into_shape_with_order((first * second, third));
            pixels.ok()
        }
    }
}

/// Places of values, the largest (or smallest) first; of equal ones the first comes first.
pub fn order(values: &[f64], ascending: bool) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| match ascending {
        true => values[a].total_cmp(&values[b]),
        false => values[b].total_cmp(&values[a]),
    });
    order
}

impl Grid {
    /// None where the input is no picture, or a side has fewer pixels than patches.
    pub fn new(shape: &[usize], layout: Layout, grid: usize) -> Option<Self> {
        let (height, width) = match (shape, layout) {
            (&[_, height, width], Layout::Nchw) | (&[height, width, _], Layout::Nhwc) => {
                (height, width)
            }
            _ => return None,
        };
        let borders = |size: usize| {
            (0..=grid)
                .map(|i| (2 * i * size + grid) / (2 * grid))
                .collect()
        };
        (1..=height.min(width)).contains(&grid).then(|| Self {
            layout,
            rows: borders(height),
            columns: borders(width),
        })
    }

    /// Patches.
    pub fn count(&self) -> usize {
        (self.rows.len() - 1) * (self.columns.len() - 1)
    }

    /// Rows and columns of the largest patch.
    pub fn largest(&self) -> [usize; 2] {
        [&self.rows, &self.columns].map(|borders| {
            borders
                .windows(2)
                .map(|pair| pair[1] - pair[0])
                .max()
                .unwrap_or(0)
        })
    }

    /// First row and column of a patch, and those after its last.
    fn bounds(&self, patch: usize) -> ([usize; 2], [usize; 2]) {
        let (row, column) = (
            patch / (self.columns.len() - 1),
            patch % (self.columns.len() - 1),
        );
        (
            [self.rows[row], self.rows[row + 1]],
            [self.columns[column], self.columns[column + 1]],
        )
    }

    fn axes(&self) -> (Axis, Axis, Axis) {
        match self.layout {
            Layout::Nchw => (Axis(0), Axis(1), Axis(2)),
            Layout::Nhwc => (Axis(2), Axis(0), Axis(1)),
        }
    }

    /// A patch of an input, in the input's own order of axes.
    pub fn cut<'a>(&self, input: &'a Tensor, patch: usize) -> ArrayViewD<'a, f32> {
        let (rows, columns) = self.bounds(patch);
        let (_, row_axis, column_axis) = self.axes();
        let mut view = input.view();
        view.slice_axis_inplace(row_axis, Slice::from(rows[0]..rows[1]));
        view.slice_axis_inplace(column_axis, Slice::from(columns[0]..columns[1]));
        view
    }

    pub fn cut_mut<'a>(&self, input: &'a mut Tensor, patch: usize) -> ArrayViewMutD<'a, f32> {
        let (rows, columns) = self.bounds(patch);
        let (_, row_axis, column_axis) = self.axes();
        let mut view = input.view_mut();
        view.slice_axis_inplace(row_axis, Slice::from(rows[0]..rows[1]));
        view.slice_axis_inplace(column_axis, Slice::from(columns[0]..columns[1]));
        view
    }

    /// `cut`, channels first.
    fn planes<'a>(&self, input: &'a Tensor, patch: usize) -> Option<ArrayView3<'a, f32>> {
        let view = self.cut(input, patch).into_dimensionality::<Ix3>().ok()?;
        let (channels, rows, columns) = self.axes();
        Some(view.permuted_axes([channels.0, rows.0, columns.0]))
    }

    /// Patches by falling (or rising) mean score; of equal ones the first comes first. None where a
    /// score is not finite.
    pub fn rank(&self, scores: &Tensor, score: Score, ascending: bool) -> Option<Vec<usize>> {
        let mean = |patch| {
            let planes = self.planes(scores, patch)?;
            let pixels = (planes.len_of(Axis(1)) * planes.len_of(Axis(2))) as f64;
            let sum: f64 = match score {
                Score::Signed => planes.iter().map(|value| f64::from(*value)).sum(),
                Score::Absolute => planes.iter().map(|value| f64::from(value.abs())).sum(),
            };
            Some(sum / pixels).filter(|mean| mean.is_finite())
        };
        let means = (0..self.count()).map(mean).collect::<Option<Vec<f64>>>()?;
        Some(order(&means, ascending))
    }

    /// The input with each patch's channels at their own means; `keep` may leave a patch's channel
    /// as it is.
    pub fn flatten(&self, input: &Tensor, keep: impl Fn(f64) -> bool) -> Tensor {
        let mut flat = input.clone();
        let (channels, ..) = self.axes();
        for patch in 0..self.count() {
            for mut plane in self.cut_mut(&mut flat, patch).axis_iter_mut(channels) {
                let mean =
                    plane.iter().map(|value| f64::from(*value)).sum::<f64>() / plane.len() as f64;
                if !keep(mean) {
                    plane.fill(mean as f32);
                }
            }
        }
        flat
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(shape: [usize; 3]) -> Tensor {
        let mut next = 0.0;
        Tensor::from_shape_simple_fn(shape.to_vec(), || {
            next += 1.0;
            next
        })
    }

    #[test]
    fn borders_are_the_published_ones_at_225_and_spread_evenly_elsewhere() {
        let published = Grid::new(&[3, 225, 225], Layout::Nchw, 25).unwrap();
        assert!(published.rows.windows(2).all(|pair| pair[1] - pair[0] == 9));
        let usual = Grid::new(&[224, 230, 3], Layout::Nhwc, 25).unwrap();
        let widths: Vec<usize> = usual
            .rows
            .windows(2)
            .map(|pair| pair[1] - pair[0])
            .collect();
        assert_eq!(
            (usual.rows[25], usual.columns[25], usual.count()),
            (224, 230, 625)
        );
        assert_eq!(
            (
                widths.iter().filter(|width| **width == 9).count(),
                widths.iter().max(),
                widths.iter().min()
            ),
            (24, Some(&9), Some(&8))
        );
        assert!(
            Grid::new(&[3, 24, 30], Layout::Nchw, 25).is_none()
                && Grid::new(&[7], Layout::Nchw, 1).is_none()
        );
        assert!(Grid::new(&[3, 9, 9], Layout::Nchw, 0).is_none());
    }

    #[test]
    fn patches_cover_every_pixel_once() {
        for grid in 1..=7 {
            let mut seen = Tensor::zeros(vec![2, 7, 11]);
            let patches = Grid::new(&[2, 7, 11], Layout::Nchw, grid).unwrap();
            (0..patches.count()).for_each(|patch| {
                patches
                    .cut_mut(&mut seen, patch)
                    .mapv_inplace(|value| value + 1.0)
            });
            assert!(seen.iter().all(|value| *value == 1.0), "{grid}");
        }
    }

    #[test]
    fn a_rank_follows_the_mean_over_a_patch_of_the_channel_sums() {
        // Four patches of 1 x 1 pixel, two channels: sums 1, -5, 1, 0; magnitudes 3, 5, 1, 4.
        let scores = Tensor::from_shape_vec(
            vec![2, 2, 2],
            vec![2.0, -2.0, 0.0, 2.0, -1.0, -3.0, 1.0, -2.0],
        )
        .unwrap();
        let grid = Grid::new(&[2, 2, 2], Layout::Nchw, 2).unwrap();
        assert_eq!(
            grid.rank(&scores, Score::Signed, false).unwrap(),
            [0, 2, 3, 1]
        );
        assert_eq!(
            grid.rank(&scores, Score::Signed, true).unwrap(),
            [1, 3, 0, 2]
        );
        assert_eq!(
            grid.rank(&scores, Score::Absolute, false).unwrap(),
            [1, 3, 0, 2]
        );
        let last = scores
            .view()
            .permuted_axes(vec![1, 2, 0])
            .as_standard_layout()
            .into_owned();
        let grid = Grid::new(&[2, 2, 2], Layout::Nhwc, 2).unwrap();
        assert_eq!(
            grid.rank(&last, Score::Signed, false).unwrap(),
            [0, 2, 3, 1]
        );
        for bad in [f32::NAN, f32::INFINITY] {
            assert_eq!(
                grid.rank(
                    &last.mapv(|value| if value == 1.0 { bad } else { value }),
                    Score::Signed,
                    false
                ),
                None
            );
        }
    }

    #[test]
    fn patches_of_uneven_size_are_ranked_by_mean_and_not_by_sum() {
        // Three rows in two patches: 2 rows, then 1. Border at round(1.5) = 2.
        let scores =
            Tensor::from_shape_vec(vec![1, 3, 2], vec![3.0, 0.0, 3.0, 0.0, 4.0, 0.0]).unwrap();
        let grid = Grid::new(&[1, 3, 2], Layout::Nchw, 2).unwrap();
        assert_eq!(
            grid.rank(&scores, Score::Signed, false).unwrap(),
            [2, 0, 1, 3]
        );
    }

    #[test]
    fn flat_patches_hold_their_own_channel_means() {
        let grid = Grid::new(&[2, 2, 4], Layout::Nchw, 2).unwrap();
        let flat = grid.flatten(&ramp([2, 2, 4]), |_| false);
        assert_eq!(
            flat.iter().copied().collect::<Vec<_>>(),
            [
                1.5, 1.5, 3.5, 3.5, 5.5, 5.5, 7.5, 7.5, 9.5, 9.5, 11.5, 11.5, 13.5, 13.5, 15.5,
                15.5
            ]
        );
        let kept = grid.flatten(&ramp([2, 2, 4]), |mean| mean > 8.0);
        assert_eq!(
            kept.iter().skip(7).copied().take(3).collect::<Vec<_>>(),
            [7.5, 9.0, 10.0]
        );
    }
}
