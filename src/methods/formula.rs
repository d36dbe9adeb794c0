//! Methods as formulas that a graph can hold: those whose points follow from the input alone, however
//! the answers are. `onnx_autodiff::saliency` makes graphs of them.

use std::sync::Arc;

use ndarray::{ArrayD, Axis, Slice, concatenate};

use crate::tensor::Tensor;
use onnx_autodiff::onnx::graph::Literal;
pub use onnx_autodiff::saliency::{Formula, Noise, Sample, Samples, Statistic, Weights};

/// Baselines as one constant `[count, …]`, with 1 in place of axes along which none of them changes.
pub(super) fn stacked(baselines: &[Arc<Tensor>]) -> Option<Literal> {
    let views: Vec<_> = baselines
        .iter()
        .map(|one| one.view().insert_axis(Axis(0)))
        .collect();
    let mut all: ArrayD<f32> = concatenate(Axis(0), &views).ok()?;
    for axis in (1..all.ndim()).map(Axis) {
        if all.is_empty() {
            break;
        }
        let first = all.slice_axis(axis, Slice::from(..1)).to_owned();
        if all
            .axis_iter(axis)
            .all(|part| part == first.index_axis(axis, 0))
        {
            all = first;
        }
    }
    let shape = all.shape().to_vec();
    Some(Literal::from_f32_vec(&shape, all.iter().copied().collect()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::methods::reference::inputs;

    #[test]
    fn baselines_of_one_colour_are_one_number_for_each_channel() {
        let of = |values: [f32; 8]| {
            Arc::new(Tensor::from_shape_vec(vec![2, 2, 2], values.to_vec()).unwrap())
        };
        let black = of([1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0]);
        let ramp = of([1.0, 2.0, 1.0, 2.0, 2.0, 3.0, 2.0, 3.0]);
        let one = stacked(std::slice::from_ref(&black)).unwrap();
        assert_eq!(
            (one.shape.as_slice(), one.to_f64s()),
            (&[1, 2, 1, 1][..], vec![1.0, 2.0])
        );
        let both = stacked(&[black, ramp]).unwrap();
        assert_eq!(both.shape, [2, 2, 1, 2]);
        assert_eq!(both.to_f64s(), [1.0, 1.0, 2.0, 2.0, 1.0, 2.0, 2.0, 3.0]);
    }

    /// f = x² with a path from two starts: points and weights of the run itself.
    #[test]
    fn a_formula_has_the_points_of_its_run() {
        let given =
            json!({"method": "integrated_gradients", "n_steps": 4, "baseline": "zero+zero"});
        let inputs = inputs(&given, &[1.0, 3.0], &[&[0.0, 0.0], &[0.5, 0.5]]);
        let run = (inputs.parameters.method.build)(inputs);
        let Some(Formula::Samples(samples)) = run.formula() else {
            panic!("a path is a formula over samples");
        };
        let alphas: Vec<_> = samples
            .points
            .iter()
            .map(|point| (point.baseline, point.alpha))
            .collect();
        let expected = [0, 1].map(|start| [0.25, 0.5, 0.75, 1.0].map(|alpha| (start, alpha)));
        assert_eq!(alphas, expected.concat());
        let total: f64 = samples.points.iter().map(|point| point.weight).sum();
        assert!((total - 1.0).abs() < 1e-12 && samples.statistic == Statistic::SumOfWays);
    }
}
