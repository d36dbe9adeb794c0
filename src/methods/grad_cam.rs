//! Grad-CAM and its kin: the channels A_k of a layer weighed by their derivatives and added, brought
//! to the input's height and width (`layers`). Grad-CAM weighs each channel by its mean derivative
//! (Selvaraju et al. 2017, section 3), LayerCAM each element by its own where that is positive (Jiang
//! et al. 2021, Eq. 5), HiResCAM by its own (Draelos & Carin 2020, section 4). Guided Grad-CAM: times
//! the derivative at each input element. One evaluation, guided two. Agrees with Captum (tests/parity).

use ndarray::{Array2, Array3, ArrayView3, Axis};

use super::{
    Answers, Attribution, MethodRun, Question, Run, RunInputs, Step,
    doubts::{is_zero, no_derivative, no_derivative_at_input},
    formula::{Formula, Weights},
    head_value,
    layers::{by_channel, in_input_size, layer_name, layer_of, rectify},
    parameters::Cost,
};
use crate::{
    engine::{GraphKey, Row},
    picture::preprocess::Layout,
    tensor::Tensor,
};
use onnx_autodiff::autodiff::spec::{DeriveSpec, PatternLayers, RuleSetId, Wrt};

pub const GUIDED_COST: Cost = Cost {
    words: "2",
    count: |_| 2,
    asks_input: |_| true,
    change: |_| None,
};

struct GradCam {
    inputs: RunInputs,
    weights: Weights,
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
    run(inputs, Weights::Mean, false)
}

pub fn guided_class_map(inputs: RunInputs) -> MethodRun {
    run(inputs, Weights::Mean, true)
}

pub fn layer_map(inputs: RunInputs) -> MethodRun {
    run(inputs, Weights::Positive, false)
}

pub fn elementwise_map(inputs: RunInputs) -> MethodRun {
    run(inputs, Weights::Own, false)
}

fn run(inputs: RunInputs, weights: Weights, guided: bool) -> MethodRun {
    Box::new(GradCam {
        inputs,
        weights,
        guided,
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

    fn formula(&self) -> Option<Formula> {
        Some(Formula::ClassMap {
            layer: layer_of(&self.inputs.parameters)?,
            weights: self.weights,
            guided: self.guided,
            channels_last: self.inputs.layout == Layout::Nhwc,
        })
    }
}

impl GradCam {
    /// The layer's value, and the gradient there.
    fn layer_graph(&self) -> GraphKey {
        let RunInputs {
            model, parameters, ..
        } = &self.inputs;
        let layer = layer_of(parameters).map_or_else(String::new, |layer| layer.name);
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
        let layer = layer_of(&self.inputs.parameters);
        let view = |tensor: Option<&Tensor>| by_channel(tensor?, layer.as_ref()?);
        let (Some(values), Some(cotangents)) =
            (view(row.activations.first()), view(row.cotangents.first()))
        else {
            return Map {
                scores: Tensor::zeros(self.inputs.input.raw_dim()),
                cause: None,
            };
        };
        let sums = weigh(self.weights, values.view(), cotangents.view());
        let cause = self.cause(&sums, &values, &cotangents);
        Map {
            scores: in_input_size(&rectify(sums), &self.inputs),
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
        let layer = layer_name(parameters);
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

/// `[height, width]`: the sum over the channels of a layer's values, weighed by the derivatives there;
/// both `[channels, height, width]`.
fn weigh(
    weights: Weights,
    values: ArrayView3<'_, f32>,
    cotangents: ArrayView3<'_, f32>,
) -> Array2<f64> {
    let (_, height, width) = values.dim();
    let mut sums = Array2::zeros((height, width));
    for (channel, cotangent) in values.axis_iter(Axis(0)).zip(cotangents.axis_iter(Axis(0))) {
        let all = cotangent.iter().map(|&g| f64::from(g)).sum::<f64>();
        let mean = all / (height * width) as f64;
        for ((sum, &a), &g) in sums.iter_mut().zip(channel).zip(cotangent) {
            let weight = match weights {
                Weights::Mean => mean,
                // `f64::max` would take a NaN for 0.
                Weights::Positive if g < 0.0 => 0.0,
                Weights::Positive | Weights::Own => f64::from(g),
            };
            *sum += weight * f64::from(a);
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn channels_count_by_their_mean_derivative_and_only_what_speaks_for_the_class_stays() {
        let values = array![[[1.0, 2.0]], [[3.0, -1.0]]];
        let cotangents = array![[[4.0, 0.0]], [[-1.0, -1.0]]];
        // 2 A_0 - A_1 = (-1, 5).
        assert_eq!(
            rectify(weigh(Weights::Mean, values.view(), cotangents.view())),
            array![[0.0, 5.0]]
        );
    }
}
