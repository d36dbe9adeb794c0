//! What the stages of a forward pass have made of one input, brought up to date for the next, which differs from it in few pixels.

use std::sync::Arc;

use ndarray::{ArrayView3, Axis, Ix3, Slice, s};

use crate::{
    autodiff::stages::{Region, Stage},
    tensor::Tensor,
};

/// An input, and all that each stage makes of it.
#[derive(Clone, Debug)]
pub struct Trace {
    pub input: Arc<Tensor>,
    pub made: Vec<Tensor>,
}

/// Where the window of a stage starts, and the pixels of its output that it is read for.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub start: [usize; 2],
    pub reached: Region,
}

/// For each input, which differs from the one before, the place of every stage's window; none when a difference is larger than the stages
/// are made for.
pub fn places<'a>(
    stages: impl Iterator<Item = &'a Stage> + Clone,
    before: &Tensor,
    inputs: &[Arc<Tensor>],
) -> Option<Vec<Vec<Place>>> {
    let befores = [before].into_iter().chain(inputs.iter().map(AsRef::as_ref));
    let differences = befores.zip(inputs).map(|(before, input)| difference(before, input));
    let places_of = |difference: Option<Region>| {
        let mut changed = difference?;
        let place = |stage: &Stage| {
            let (start, reached) = stage.place(&changed)?;
            changed = reached;
            Some(Place { start, reached })
        };
        stages.clone().map(place).collect()
    };
    differences.map(places_of).collect()
}

/// The rows and columns in which two inputs differ; the first pixel of two that are equal, none of two that are no pictures.
fn difference(one: &Tensor, other: &Tensor) -> Option<Region> {
    let (one, other) = (one.view().into_dimensionality::<Ix3>().ok()?, other.view().into_dimensionality::<Ix3>().ok()?);
    let extent = |axis: usize, one: ArrayView3<'_, f32>, other: ArrayView3<'_, f32>| {
        let mut differs = (0..one.len_of(Axis(axis)))
            .filter(|&at| one.index_axis(Axis(axis), at) != other.index_axis(Axis(axis), at));
        let first = differs.next()?;
        Some((first, differs.last().unwrap_or(first) + 1))
    };
    let Some((top, bottom)) = extent(1, one, other) else {
        return Some(Region { start: [0; 2], end: [1; 2] });
    };
    let rows = s![.., top..bottom, ..];
    let (left, right) = extent(2, one.slice(rows), other.slice(rows))?;
    Some(Region { start: [top, left], end: [bottom, right] })
}

/// A window of the planes.
pub fn cut(planes: &Tensor, start: [usize; 2], size: [usize; 2]) -> Tensor {
    let mut view = planes.view();
    for axis in 0..2 {
        view.slice_axis_inplace(Axis(1 + axis), Slice::from(start[axis]..start[axis] + size[axis]));
    }
    view.to_owned()
}

/// Writes what a stage has made of a window into all that it made before.
pub fn paste(planes: &mut Tensor, made: &[f32], stage: &Stage, place: &Place) {
    let ([height, width], origin, Region { start, end }) = (stage.made, stage.made_at(place.start), place.reached);
    for (mut plane, made) in planes.outer_iter_mut().zip(made.chunks_exact(height * width)) {
        for row in start[0]..end[0] {
            let from = (row - origin[0]) * width + start[1] - origin[1];
            let made = &made[from..from + end[1] - start[1]];
            plane
                .index_axis_mut(Axis(0), row)
                .slice_axis_mut(Axis(0), Slice::from(start[1]..end[1]))
                .iter_mut()
                .zip(made)
                .for_each(|(value, made)| *value = *made);
        }
    }
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
        assert_eq!(difference(&Tensor::zeros(vec![4]), &Tensor::zeros(vec![4])), None);
    }
}
