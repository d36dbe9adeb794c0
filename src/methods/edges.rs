//! Edges: the Sobel magnitude √(h² + v²) of the picture's luma (0.299 R + 0.587 G + 0.114 B, black
//! 0, white 1), where h and v are its sums with [1 2 1]ᵀ [-1 0 1] and the transpose of that; beyond
//! the border the nearest pixel is repeated. The same whatever the model says: a baseline of the
//! benchmarks. Cost: none. Agrees with `numpy.hypot` of both
//! `scipy.ndimage.sobel(luma, axis, mode="nearest")`.

use ndarray::{Array2, Axis};

use super::{Answers, Attribution, MethodRun, Run, RunInputs, Step, doubts::is_zero};
use crate::{picture::preprocess::Layout, tensor::Tensor};

struct Edges {
    inputs: RunInputs,
}

pub fn edges(inputs: RunInputs) -> MethodRun {
    Box::new(Edges { inputs })
}

impl Run for Edges {
    type Output = Attribution;

    fn step(&mut self, _answers: Answers) -> Step<Attribution> {
        let RunInputs {
            input,
            luma,
            layout,
            ..
        } = &self.inputs;
        let channels = match layout {
            Layout::Nchw => Axis(0),
            Layout::Nhwc => Axis(2),
        };
        let scores = match luma {
            Some(luma) => magnitude(luma).insert_axis(channels).into_dyn(),
            None => Tensor::zeros(input.raw_dim()),
        };
        let cause = is_zero(&scores).then(|| "the picture has no edges".to_owned());
        Step::Done(Attribution {
            cause,
            ..Attribution::of(scores)
        })
    }
}

fn magnitude(luma: &Array2<f32>) -> Array2<f32> {
    let (height, width) = luma.dim();
    // The 3 x 3 pixels around (y, x), dy and dx from 0 to 2.
    let near = |y: usize, x: usize, dy: usize, dx: usize| {
        f64::from(luma[[(y + dy).clamp(1, height) - 1, (x + dx).clamp(1, width) - 1]])
    };
    Array2::from_shape_fn((height, width), |(y, x)| {
        let across = |dy: usize| near(y, x, dy, 2) - near(y, x, dy, 0);
        let down = |dx: usize| near(y, x, 2, dx) - near(y, x, 0, dx);
        let along = |step: &dyn Fn(usize) -> f64| step(0) + 2.0 * step(1) + step(2);
        along(&across).hypot(along(&down)) as f32
    })
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn a_flat_picture_has_no_edges_and_a_step_has_four_times_its_height() {
        assert_eq!(
            magnitude(&Array2::from_elem((3, 4), 0.7)),
            Array2::<f32>::zeros((3, 4))
        );
        let step = array![
            [0.0, 0.0, 0.5, 0.5],
            [0.0, 0.0, 0.5, 0.5],
            [0.0, 0.0, 0.5, 0.5]
        ];
        let expected = array![
            [0.0, 2.0, 2.0, 0.0],
            [0.0, 2.0, 2.0, 0.0],
            [0.0, 2.0, 2.0, 0.0]
        ];
        assert_eq!(magnitude(&step), expected);
        assert_eq!(magnitude(&step.t().to_owned()), expected.t());
    }

    #[test]
    fn a_slope_counts_both_ways_and_half_at_the_border() {
        let slope = Array2::from_shape_fn((4, 4), |(y, x)| (3 * y + 4 * x) as f32);
        let found = magnitude(&slope);
        // 8 (3, 4) inside, half of one or both of them at the borders.
        assert_eq!(
            (found[[1, 2]], found[[0, 0]], found[[1, 0]], found[[0, 1]]),
            (40.0, 20.0, 24f32.hypot(16.0), 12f32.hypot(32.0))
        );
    }
}
