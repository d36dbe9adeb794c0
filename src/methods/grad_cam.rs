//! Grad-CAM: ReLU(Σ_k mean(∂f_c/∂A_k) A_k) over the channels A_k of a layer, brought to the input's
//! height and width bilinearly (pixel centres at halves, edges repeated: PyTorch's `interpolate`
//! with `align_corners=False`). One value per pixel: a single channel. Guided Grad-CAM: that times
//! the derivative at each input element, by default guided backpropagation. Selvaraju et al. 2017,
//! section 3. Cost: one evaluation, guided two. Agrees with Captum to 1e-6 (tests/parity).

use ndarray::{Array2, Array3, ArrayView3, Axis, Ix3};
use serde_json::json;

use super::{
    Answers, Attribution, MethodRun, Question, Run, RunInputs, Step,
    doubts::{is_zero, no_derivative, no_derivative_at_input},
    head_value,
    parameters::{Cost, Group, Kind, Parameter, Parameters},
};
use crate::{
    engine::{GraphKey, Row},
    faults::Fault,
    picture::preprocess::Layout,
    tensor::Tensor,
    text::excerpt,
};
use onnx_autodiff::autodiff::spec::{DeriveSpec, PatternLayers, RuleSetId, Wrt};

/// Of methods that look at a layer.
#[derive(Clone, Debug, Default)]
struct LayerParameters {
    /// None of a model that has none to look at.
    layer: Option<String>,
}

pub static LAYER: Group = Group {
    parameters: &[Parameter {
        name: "layer",
        kind: Kind::Name {
            form: "a layer of the model (GET /models/{id} lists them)",
            among: |facts| {
                facts
                    .layers
                    .iter()
                    .map(|layer| layer.name.clone())
                    .collect()
            },
            set: |p, layer| p.change(|own: &mut LayerParameters| own.layer = Some(layer)),
        },
        doc: "The layer whose activations are weighted.",
        from_model: true,
        get: |p| layer_of(p).map(|layer| json!(layer)),
    }],
    from_model: |p, facts| {
        let layer = facts.layer.map(str::to_owned);
        p.change(|own: &mut LayerParameters| own.layer = layer);
    },
    check: |p, _, _, faults| {
        if layer_of(p).is_none() {
            faults.push(Fault::says(
                "layer",
                "the model has no layer with height and width between its input and its head",
            ));
        }
    },
};

fn layer_of(parameters: &Parameters) -> Option<String> {
    parameters.group::<LayerParameters>().layer
}

pub const GUIDED_COST: Cost = Cost {
    words: "2",
    count: |_| 2,
    asks_input: |_| true,
};

struct GradCam {
    inputs: RunInputs,
    guided: bool,
    /// The map in the input's size, while the derivative it is multiplied with is awaited.
    map: Option<Map>,
}

struct Map {
    scores: Tensor,
    /// Why the scores are the same everywhere, if they are.
    cause: Option<String>,
}

pub fn class_map(inputs: RunInputs) -> MethodRun {
    Box::new(GradCam {
        inputs,
        guided: false,
        map: None,
    })
}

pub fn guided_class_map(inputs: RunInputs) -> MethodRun {
    Box::new(GradCam {
        inputs,
        guided: true,
        map: None,
    })
}

impl Run for GradCam {
    type Output = Attribution;

    fn step(&mut self, answers: Answers) -> Step<Attribution> {
        let RunInputs {
            seed, parameters, ..
        } = &self.inputs;
        let Some(row) = answers.rows().into_iter().next() else {
            let question = Question::rows(self.layer_graph(), vec![self.inputs.clean_point()]);
            return Step::Ask(vec![question]);
        };
        let value = head_value(&row, parameters.head, seed);
        let Map { scores, cause } = match self.map.take() {
            Some(map) => guide(map, &row, || no_derivative_at_input(parameters, value)),
            None => {
                let map = self.map_of(&row);
                if self.guided {
                    self.map = Some(map);
                    return self.inputs.ask(vec![self.inputs.clean_point()]);
                }
                map
            }
        };
        Step::Done(Attribution {
            cause,
            input_value: Some(value),
            ..Attribution::of(scores)
        })
    }
}

impl GradCam {
    /// The layer's value, and the gradient there.
    fn layer_graph(&self) -> GraphKey {
        let RunInputs {
            model, parameters, ..
        } = &self.inputs;
        let layer = layer_of(parameters).unwrap_or_default();
        let spec = DeriveSpec {
            rule_sets: vec![RuleSetId::Gradient],
            outputs: vec![layer.clone()],
            wrt: vec![Wrt::Activation(layer)],
            pattern_layers: PatternLayers::All,
            ..parameters.derive_spec()
        };
        GraphKey::new(model.clone(), spec)
    }

    /// With a single channel, in the input's layout. Zeros for what has no height and width.
    fn map_of(&self, row: &Row) -> Map {
        let RunInputs { input, layout, .. } = &self.inputs;
        let none = || Map {
            scores: Tensor::zeros(input.raw_dim()),
            cause: None,
        };
        let view = |tensor: Option<&'_ Tensor>| {
            tensor?
                .view()
                .into_dimensionality::<Ix3>()
                .ok()
                .map(|v| v.into_owned())
        };
        let (channels, rows, columns) = match (layout, input.shape()) {
            (Layout::Nchw, &[_, rows, columns]) => (Axis(0), rows, columns),
            (Layout::Nhwc, &[rows, columns, _]) => (Axis(2), rows, columns),
            _ => return none(),
        };
        let (Some(values), Some(cotangents)) =
            (view(row.activations.first()), view(row.cotangents.first()))
        else {
            return none();
        };
        let sums = weigh(values.view(), cotangents.view());
        let cause = self.cause(&sums, &values, &cotangents);
        let map = resize(&rectify(sums), (rows, columns));
        Map {
            scores: map
                .mapv(|score| score as f32)
                .insert_axis(channels)
                .into_dyn(),
            cause,
        }
    }

    /// Why the map is the same everywhere, if it is.
    fn cause(
        &self,
        sums: &Array2<f64>,
        values: &Array3<f32>,
        cotangents: &Array3<f32>,
    ) -> Option<String> {
        let parameters = &self.inputs.parameters;
        let layer = layer_of(parameters).unwrap_or_default();
        let layer = excerpt(&layer);
        if sums.iter().any(|sum| *sum > 0.0 || sum.is_nan()) {
            let message = || {
                format!(
                    "layer {layer} is 1 x 1: it cannot tell one place from another; choose an earlier one"
                )
            };
            return (sums.len() == 1).then(message);
        }
        Some(if sums.iter().any(|sum| *sum < 0.0) {
            format!(
                "no weighted sum over the channels of layer {layer} is positive: this layer speaks against the target"
            )
        } else if cotangents.iter().all(|g| *g == 0.0) {
            no_derivative(
                RuleSetId::Gradient,
                parameters.head,
                &format!("at layer {layer}"),
            )
        } else if values.iter().all(|a| *a == 0.0) {
            format!("layer {layer} is zero everywhere")
        } else {
            format!("the channels of layer {layer} that are not zero have weight zero")
        })
    }
}

/// The map times the derivative at each input element.
fn guide(map: Map, row: &Row, no_derivative: impl Fn() -> String) -> Map {
    let derivatives = &row.cotangents;
    let no_derivative = derivatives.iter().all(is_zero).then(no_derivative);
    let without_map = map.cause.filter(|_| is_zero(&map.scores)).or(no_derivative);
    let scores = derivatives
        .iter()
        .fold(map.scores, |map, derivative| map * derivative);
    let apart = || "the derivative is zero wherever Grad-CAM's map is not".to_owned();
    let cause = is_zero(&scores).then(|| without_map.unwrap_or_else(apart));
    Map { scores, cause }
}

/// Σ_k mean(∂_k) A_k, `[height, width]` of `[channels, height, width]`.
fn weigh(values: ArrayView3<'_, f32>, cotangents: ArrayView3<'_, f32>) -> Array2<f64> {
    let (_, height, width) = values.dim();
    let mut sum = Array2::zeros((height, width));
    for (channel, cotangent) in values.axis_iter(Axis(0)).zip(cotangents.axis_iter(Axis(0))) {
        let weight = cotangent.iter().map(|&g| f64::from(g)).sum::<f64>() / (height * width) as f64;
        sum.zip_mut_with(&channel, |sum, &a| *sum += weight * f64::from(a));
    }
    sum
}

/// `f64::max` would take a NaN for 0.
fn rectify(sums: Array2<f64>) -> Array2<f64> {
    sums.mapv_into(|sum| if sum < 0.0 { 0.0 } else { sum })
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
        let centre =
            ((at as f64 + 0.5) * from as f64 / to as f64 - 0.5).clamp(0.0, (from - 1) as f64);
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
        assert_eq!(
            resize(&array![[7.0]], (3, 2)),
            Array2::from_elem((3, 2), 7.0)
        );
        let same = array![[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]];
        assert_eq!(resize(&same, (2, 3)), same);
    }

    #[test]
    fn channels_count_by_their_mean_derivative_and_only_what_speaks_for_the_class_stays() {
        let values = array![[[1.0, 2.0]], [[3.0, -1.0]]];
        let cotangents = array![[[4.0, 0.0]], [[-1.0, -1.0]]];
        // 2 A_0 - A_1 = (-1, 5).
        assert_eq!(
            rectify(weigh(values.view(), cotangents.view())),
            array![[0.0, 5.0]]
        );
    }

    #[test]
    fn what_is_not_finite_stays() {
        let rectified = rectify(array![[f64::NAN, -1.0, f64::INFINITY]]);
        assert!(
            rectified[[0, 0]].is_nan()
                && rectified[[0, 1]] == 0.0
                && rectified[[0, 2]].is_infinite()
        );
    }
}
