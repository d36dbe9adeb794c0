//! The cached activations of all stages for one input, and their update for the next input, which
//! differs in few pixels.

use std::sync::Arc;

use ndarray::{Array3, ArrayView3, Axis, s};

use crate::tensor::Tensor;
use onnx_autodiff::stages::{Region, Stage};

/// An input and the output of each stage for it, `[channels, height, width]`.
#[derive(Clone, Debug)]
pub struct CachedActivations {
    pub input: Arc<Tensor>,
    pub made: Vec<Array3<f32>>,
}

/// The window that a stage reads for one input: its first row and column, and the region of the
/// stage's output that may change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tile {
    pub start: [usize; 2],
    pub reached: Region,
}

/// The tiles of all stages for each input, compared with the input before it. `None` if two inputs
/// differ in a larger region than the stages' windows were planned for.
pub(super) fn tiles<'a>(
    stages: impl Iterator<Item = &'a Stage> + Clone,
    before: &'a Arc<Tensor>,
    inputs: impl Iterator<Item = &'a Arc<Tensor>> + Clone,
) -> Option<Vec<Vec<Tile>>> {
    let befores = [before].into_iter().chain(inputs.clone());
    let differences = befores
        .zip(inputs)
        .map(|(before, input)| difference(before, input));
    let tiles_of = |difference: Option<Region>| {
        let mut changed = difference?;
        let tile = |stage: &Stage| {
            let (start, reached) = stage.place(&changed)?;
            changed = reached;
            Some(Tile { start, reached })
        };
        stages.clone().map(tile).collect()
    };
    differences.map(tiles_of).collect()
}

/// The bounding region of the pixels in which two inputs differ: the first pixel for equal inputs,
/// `None` for inputs without three axes.
fn difference(one: &Tensor, other: &Tensor) -> Option<Region> {
    let (one, other) = (planes(one)?, planes(other)?);
    let extent = |axis: usize, one: ArrayView3<'_, f32>, other: ArrayView3<'_, f32>| {
        let mut differs = (0..one.len_of(Axis(axis)))
            .filter(|&at| one.index_axis(Axis(axis), at) != other.index_axis(Axis(axis), at));
        let first = differs.next()?;
        Some((first, differs.next_back().unwrap_or(first) + 1))
    };
    let Some((top, bottom)) = extent(1, one, other) else {
        return Some(Region {
            start: [0; 2],
            end: [1; 2],
        });
    };
    let rows = s![.., top..bottom, ..];
    let (left, right) = extent(2, one.slice(rows), other.slice(rows))?;
    Some(Region {
        start: [top, left],
        end: [bottom, right],
    })
}

/// The tensor as `[channels, height, width]`; `None` for another number of axes.
pub(super) fn planes(tensor: &Tensor) -> Option<ArrayView3<'_, f32>> {
    tensor.view().into_dimensionality().ok()
}

/// Copies a window of the planes, `[channels, height, width]`.
pub(super) fn cut(
    planes: ArrayView3<'_, f32>,
    [top, left]: [usize; 2],
    [height, width]: [usize; 2],
) -> Tensor {
    let mut window = Array3::zeros((planes.len_of(Axis(0)), height, width));
    window.assign(&planes.slice(s![.., top..top + height, left..left + width]));
    window.into_dyn()
}

/// Writes the stage's output `made` for a window into its cached output `planes`.
pub(super) fn paste(
    planes: &mut Array3<f32>,
    made: ArrayView3<'_, f32>,
    stage: &Stage,
    tile: &Tile,
) {
    let (
        Region {
            start: [top, left],
            end: [bottom, right],
        },
        [y, x],
    ) = (tile.reached, stage.made_at(tile.start));
    let made = made.slice(s![.., top - y..bottom - y, left - x..right - x]);
    planes
        .slice_mut(s![.., top..bottom, left..right])
        .assign(&made);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_found_by_rows_and_columns() {
        let one = Tensor::zeros(vec![2, 5, 6]);
        let mut other = one.clone();
        let region = |start, end| Some(Region { start, end });
        assert_eq!(difference(&one, &other), region([0, 0], [1, 1]));
        other[[1, 3, 2]] = 1.0;
        assert_eq!(difference(&one, &other), region([3, 2], [4, 3]));
        other[[0, 1, 5]] = 1.0;
        assert_eq!(difference(&one, &other), region([1, 2], [4, 6]));
        assert_eq!(
            difference(&Tensor::zeros(vec![4]), &Tensor::zeros(vec![4])),
            None
        );
    }
}
