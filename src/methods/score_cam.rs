//! Score-CAM: ReLU(Σ_k α_k A_k), α the softmax over the channels of f_c(x ⊙ s(A_k)), where s brings
//! a channel to the input's height and width and its values to 0..=1. Wang et al. 2020, Algorithm 1; s
//! with aligned corners, as in pytorch-grad-cam, with which it agrees (tests/parity). Forward passes
//! alone: one, and one for each channel. Of a layer with more than `max_channels`, those that vary
//! most. Holds `CHUNK` inputs at once.

use std::{num::NonZeroUsize, sync::Arc};

use ndarray::{Array2, Array3, Axis};
use serde_json::json;

use super::{
    Answers, Attribution, CHUNK, MethodRun, Question, Run, RunInputs, Step, head_value,
    layers::{
        Corners, by_channel, forward_spec, in_input_size, layer_name, layer_of, rectify, resize,
        size_of,
    },
    parameters::{Cost, Group, Kind, Parameter, Parameters, common::counted},
};
use crate::{
    engine::{GraphKey, Point, Row},
    tensor::Tensor,
};

#[derive(Clone, Copy, Debug)]
struct ScoreParameters {
    max_channels: NonZeroUsize,
}

impl Default for ScoreParameters {
    fn default() -> Self {
        Self {
            max_channels: counted(512),
        }
    }
}

pub static MAX_CHANNELS: Group = Group::of(&[Parameter {
    name: "max_channels",
    kind: Kind::Integer {
        min: 1,
        max: 4096,
        set: |p, count| p.change(|own: &mut ScoreParameters| own.max_channels = counted(count)),
    },
    doc: "The most channels of the layer that are scored, one forward pass each: those that vary most from place to place.",
    from_model: false,
    get: |p| Some(json!(p.group::<ScoreParameters>().max_channels)),
}]);

pub const COST: Cost = Cost {
    words: "1 + the channels of the layer, at most max_channels: forward passes",
    count: |p| 1 + scored(p),
    asks_input: |_| true,
    change: |_| None,
};

/// How many channels are scored.
fn scored(parameters: &Parameters) -> usize {
    let own: ScoreParameters = parameters.group();
    let channels = layer_of(parameters).map_or(0, |layer| layer.shape[layer.grid.channels]);
    channels.min(own.max_channels.get())
}

struct ScoreCam {
    inputs: RunInputs,
    asked: Option<Asked>,
}

/// What is known once the layer's values are.
struct Asked {
    input_value: f64,
    values: Array3<f32>,
    /// The channels that are scored.
    channels: Vec<usize>,
    /// Of the first of them.
    scores: Vec<f64>,
}

pub fn scored_map(inputs: RunInputs) -> MethodRun {
    Box::new(ScoreCam {
        inputs,
        asked: None,
    })
}

impl Run for ScoreCam {
    type Output = Attribution;

    fn step(&mut self, answers: Answers) -> Step<Attribution> {
        let RunInputs {
            model,
            input,
            seed,
            parameters,
            ..
        } = &self.inputs;
        let rows = answers.rows();
        match (&mut self.asked, rows.first()) {
            (None, None) => {
                let graph = GraphKey::new(model.clone(), forward_spec(parameters));
                let question = Question::rows(graph, vec![Point::forward(input.clone())]);
                return Step::Ask(vec![question]);
            }
            (None, Some(row)) => match self.look_at(row) {
                Some(asked) => self.asked = Some(asked),
                None => return Step::Done(Attribution::of(Tensor::zeros(input.raw_dim()))),
            },
            (Some(asked), _) => {
                let values = rows
                    .iter()
                    .map(|row| head_value(row, parameters.head, seed));
                asked.scores.extend(values);
            }
        }
        let Some(asked) = &self.asked else {
            return Step::Done(Attribution::of(Tensor::zeros(input.raw_dim())));
        };
        let next = asked.channels.iter().skip(asked.scores.len()).take(CHUNK);
        let masked: Vec<_> = next
            .filter_map(|&channel| self.masked(asked, channel))
            .collect();
        match masked.is_empty() {
            true => Step::Done(self.map_of(asked)),
            false => Step::Ask(vec![Question::forward(model, masked)]),
        }
    }
}

impl ScoreCam {
    fn look_at(&self, row: &Row) -> Option<Asked> {
        let RunInputs {
            seed, parameters, ..
        } = &self.inputs;
        let values = by_channel(row.activations.first()?, &layer_of(parameters)?)?;
        let mut channels: Vec<usize> = (0..values.dim().0).collect();
        let most = scored(parameters);
        if channels.len() > most {
            let spreads: Vec<f64> = values.axis_iter(Axis(0)).map(spread).collect();
            channels.sort_by(|&a, &b| spreads[b].total_cmp(&spreads[a]));
            channels.truncate(most);
            channels.sort_unstable();
        }
        Some(Asked {
            input_value: head_value(row, parameters.head, seed),
            values,
            channels,
            scores: Vec::new(),
        })
    }

    /// The input where the channel is on.
    fn masked(&self, asked: &Asked, channel: usize) -> Option<Arc<Tensor>> {
        let (axis, size) = size_of(&self.inputs)?;
        let values = asked.values.index_axis(Axis(0), channel).mapv(f64::from);
        let mask = resize(values.view(), size, Corners::Aligned);
        let least = mask.iter().copied().fold(f64::INFINITY, f64::min);
        let most = mask.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        // As pytorch-grad-cam keeps channels that are the same everywhere from dividing by zero.
        let mask = mask.mapv(|value| ((value - least) / (most - least + 1e-8)) as f32);
        let masked = self.inputs.input.as_ref() * &mask.insert_axis(axis);
        Some(Arc::new(masked))
    }

    fn map_of(&self, asked: &Asked) -> Attribution {
        let Asked {
            input_value,
            values,
            channels,
            scores,
        } = asked;
        let (all, height, width) = values.dim();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mut sums = Array2::<f64>::zeros((height, width));
        for (&channel, weight) in channels.iter().zip(&weights) {
            let values = values.index_axis(Axis(0), channel);
            sums.zip_mut_with(&values, |sum, &a| *sum += weight / total * f64::from(a));
        }
        let layer = layer_name(&self.inputs.parameters);
        let cause = if sums.iter().any(|sum| *sum > 0.0 || sum.is_nan()) {
            None
        } else if sums.iter().any(|sum| *sum < 0.0) {
            Some(format!(
                "no weighted sum over the channels of layer {layer} is positive"
            ))
        } else {
            Some(format!("layer {layer} is zero everywhere"))
        };
        let left_out = (channels.len() < all).then(|| {
            format!(
                "{} of {all} channels of layer {layer} are scored: raise max_channels for all",
                channels.len()
            )
        });
        Attribution {
            cause,
            input_value: Some(*input_value),
            warnings: left_out.into_iter().collect(),
            ..Attribution::of(in_input_size(&rectify(sums), &self.inputs))
        }
    }
}

/// How much a channel varies from place to place.
fn spread(channel: ndarray::ArrayView2<'_, f32>) -> f64 {
    channel.mapv(f64::from).var(0.0)
}
