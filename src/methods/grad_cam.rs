//! Grad-CAM: ReLU(Σ_k mean(∂f_c/∂A_k) A_k) over the channels A_k of a layer, brought to the input's height and width bilinearly (pixel
//! centres at halves, edges repeated: PyTorch's `interpolate` with `align_corners=False`). One value per pixel: a single channel.
//! Guided Grad-CAM: that times the derivative at each input element, by default guided backpropagation.
//! Selvaraju et al. 2017, section 3. Cost: one evaluation, guided two. Agrees with Captum to 1e-6 (tests/parity).

use ndarray::{Array2, ArrayView3, Axis, Ix3};

use super::{Attribution, Run, Step, Subject, head_value, registry::Cost};
use crate::{
    autodiff::spec::{DeriveSpec, PatternLayers, RuleSetId, Wrt},
    engine::{Point, Row},
    model::manifest::Layout,
    tensor::Tensor,
};

pub const COST: Cost = Cost { words: "1", count: |_| 1, asks_input: |_| true };
pub const GUIDED_COST: Cost = Cost { words: "2", count: |_| 2, asks_input: |_| true };

struct GradCam {
    subject: Subject,
    guided: bool,
    /// The map in the input's size, while the derivative it is multiplied with is awaited.
    map: Option<Tensor>,
}

pub fn class_map(subject: Subject) -> Box<dyn Run> {
    Box::new(GradCam { subject, guided: false, map: None })
}

pub fn guided_class_map(subject: Subject) -> Box<dyn Run> {
    Box::new(GradCam { subject, guided: true, map: None })
}

impl Run for GradCam {
    fn spec(&self) -> DeriveSpec {
        let spec = self.subject.parameters.derive_spec();
        if self.map.is_some() {
            return spec;
        }
        let layer = self.subject.parameters.layer.clone().unwrap_or_default();
        DeriveSpec {
            rule_sets: vec![RuleSetId::Gradient],
            wrt: Wrt::Activation(layer),
            pattern_layers: PatternLayers::All,
            ..spec
        }
    }

    fn step(&mut self, answers: &[Row]) -> Step {
        let Subject { input, seed, parameters, .. } = &self.subject;
        let ask = || Step::Evaluate(vec![Point { input: input.clone(), seed: seed.clone() }]);
        let Some(row) = answers.first() else { return ask() };
        let scores = match self.map.take() {
            Some(map) => row.cotangents.iter().fold(map, |map, derivative| map * derivative),
            None => {
                let map = self.map_of(row);
                if self.guided {
                    self.map = Some(map);
                    return ask();
                }
                map
            }
        };
        let mut attribution = Attribution::of(scores);
        attribution.input_value = Some(head_value(row, parameters.head, seed));
        Step::Done(attribution)
    }
}

impl GradCam {
    /// With a single channel, in the input's layout. Zeros, of which the driver warns, for what has no height and width.
    fn map_of(&self, row: &Row) -> Tensor {
        let Subject { input, layout, .. } = &self.subject;
        let view =
            |tensor: Option<&'_ Tensor>| tensor?.view().into_dimensionality::<Ix3>().ok().map(|v| v.into_owned());
        let (channels, rows, columns) = match (layout, input.shape()) {
            (Layout::Nchw, &[_, rows, columns]) => (Axis(0), rows, columns),
            (Layout::Nhwc, &[rows, columns, _]) => (Axis(2), rows, columns),
            _ => return Tensor::zeros(input.raw_dim()),
        };
        let (Some(values), Some(cotangents)) = (view(row.activation.as_ref()), view(row.cotangents.first())) else {
            return Tensor::zeros(input.raw_dim());
        };
        let map = resize(&weigh(values.view(), cotangents.view()), (rows, columns));
        map.mapv(|score| score as f32).insert_axis(channels).into_dyn()
    }
}

/// ReLU(Σ_k mean(∂_k) A_k), `[height, width]` of `[channels, height, width]`.
fn weigh(values: ArrayView3<'_, f32>, cotangents: ArrayView3<'_, f32>) -> Array2<f64> {
    let (_, height, width) = values.dim();
    let mut sum = Array2::zeros((height, width));
    for (channel, cotangent) in values.axis_iter(Axis(0)).zip(cotangents.axis_iter(Axis(0))) {
        let weight = cotangent.iter().map(|&g| f64::from(g)).sum::<f64>() / (height * width) as f64;
        sum.zip_mut_with(&channel, |sum, &a| *sum += weight * f64::from(a));
    }
    sum.mapv_into(|score: f64| score.max(0.0))
}

fn resize(map: &Array2<f64>, (height, width): (usize, usize)) -> Array2<f64> {
    let (rows, columns) = (places(map.nrows(), height), places(map.ncols(), width));
    Array2::from_shape_fn((height, width), |(y, x)| {
        let ((top, bottom, down), (left, right, across)) = (rows[y], columns[x]);
        let along = |row: usize| map[[row, left]] * (1.0 - across) + map[[row, right]] * across;
        along(top) * (1.0 - down) + along(bottom) * down
    })
}

/// For each of `to` places the two of `from` places around it, and the share of the second.
fn places(from: usize, to: usize) -> Vec<(usize, usize, f64)> {
    let place = |at: usize| {
        let centre = ((at as f64 + 0.5) * from as f64 / to as f64 - 0.5).clamp(0.0, (from - 1) as f64);
        let first = centre as usize;
        (first, (first + 1).min(from - 1), centre - first as f64)
    };
    (0..to).map(place).collect()
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn two_places_become_four_as_pixel_centres_lie() {
        let wide = resize(&array![[0.0, 1.0]], (1, 4));
        assert_eq!(wide, array![[0.0, 0.25, 0.75, 1.0]]);
        let shrunk = resize(&array![[0.0, 1.0, 2.0, 3.0]], (2, 2));
        assert_eq!(shrunk, array![[0.5, 2.5], [0.5, 2.5]]);
        assert_eq!(resize(&array![[7.0]], (3, 2)), Array2::from_elem((3, 2), 7.0));
        let same = array![[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]];
        assert_eq!(resize(&same, (2, 3)), same);
    }

    #[test]
    fn channels_count_by_their_mean_derivative_and_only_what_speaks_for_the_class_stays() {
        let values = array![[[1.0, 2.0]], [[3.0, -1.0]]];
        let cotangents = array![[[4.0, 0.0]], [[-1.0, -1.0]]];
        // 2 A_0 - A_1 = (-1, 5).
        assert_eq!(weigh(values.view(), cotangents.view()), array![[0.0, 5.0]]);
    }
}
