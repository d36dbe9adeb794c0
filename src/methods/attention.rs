//! Attention rollout, its gradient-weighted kin and LeGrad, of networks whose attention relates all
//! tokens of a grid. Rollout: the product over the layers of (I + mean over heads of A) / 2, the same for
//! every class (Abnar & Zuidema 2020, section 3). Gradient rollout: R <- R + mean over heads of (∂f_c/∂A
//! ⊙ A)⁺ R from R = I (Chefer et al. 2021, Eq. 5 and 6), I taken away. Of both the row of the tokens that
//! the head reads, their mean where these are several. LeGrad: the sum over the layers of (∂s/∂A)⁺, its
//! mean over heads and queries, where s is what the head makes of the mean of the tokens behind the
//! layer's block (Bousselham et al. 2024, section 3, and their code). On the grid, brought to the input's
//! size. One evaluation. Agrees with hooks in PyTorch (tests/parity/cam.rs).

use std::sync::Arc;

use ndarray::{Array1, Array2, ArrayViewD, Axis, Ix2};

use super::{
    Answers, Attribution, MethodRun, Question, Run, RunInputs, Step,
    doubts::no_derivative,
    head_value,
    layers::{in_input_size, on_grid},
    parameters::{Group, Parameters},
};
use crate::{
    engine::{GraphKey, Point, Row},
    tensor::Tensor,
};
use onnx_autodiff::autodiff::spec::{Attention, DeriveSpec, RuleSetId, Wrt};

/// The model's.
#[derive(Clone, Debug, Default)]
struct AttentionParameters(Option<Arc<Attention>>);

/// For methods that look at attention. No parameter: all of the model's is looked at.
pub static ATTENTION: Group = Group {
    parameters: &[],
    from_model: |p, facts| {
        let found = facts.attention.ok().cloned();
        p.change(|own: &mut AttentionParameters| own.0 = found);
    },
    check: |_, _, _, _| (),
};

/// The attention that is looked at; none of methods that look at none.
pub fn attention_of(parameters: &Parameters) -> Option<Arc<Attention>> {
    parameters.group::<AttentionParameters>().0
}

/// What is made of the attention.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Rollout,
    GradientRollout,
    LeGrad,
}

struct Look {
    inputs: RunInputs,
    way: Way,
}

pub fn rollout(inputs: RunInputs) -> MethodRun {
    look(inputs, Way::Rollout)
}

pub fn gradient_rollout(inputs: RunInputs) -> MethodRun {
    look(inputs, Way::GradientRollout)
}

pub fn legrad(inputs: RunInputs) -> MethodRun {
    look(inputs, Way::LeGrad)
}

fn look(inputs: RunInputs, way: Way) -> MethodRun {
    Box::new(Look { inputs, way })
}

impl Look {
    /// What is asked for of the network.
    fn spec(&self, attention: &Attention) -> DeriveSpec {
        let values = attention.layers.iter().map(|layer| layer.weights.clone());
        let derived = self.inputs.parameters.derive_spec();
        match self.way {
            Way::Rollout => DeriveSpec {
                outputs: values.collect(),
                ..DeriveSpec::forward()
            },
            Way::GradientRollout => DeriveSpec {
                outputs: values.clone().collect(),
                wrt: values.map(Wrt::Activation).collect(),
                ..derived
            },
            Way::LeGrad => DeriveSpec {
                wrt: attention
                    .exits
                    .iter()
                    .flatten()
                    .cloned()
                    .map(Wrt::Exit)
                    .collect(),
                ..derived
            },
        }
    }
}

impl Run for Look {
    type Output = Attribution;

    fn step(&mut self, answers: Answers) -> Step<Attribution> {
        let RunInputs {
            model,
            input,
            seed,
            parameters,
            ..
        } = &self.inputs;
        let attention = attention_of(parameters);
        let Some(row) = answers.rows().into_iter().next() else {
            let spec = attention
                .as_deref()
                .map_or_else(DeriveSpec::forward, |attention| self.spec(attention));
            let point = match self.way {
                Way::Rollout => Point::forward(input.clone()),
                _ => self.inputs.clean_point(),
            };
            let graph = GraphKey::new(model.clone(), spec);
            return Step::Ask(vec![Question::rows(graph, vec![point])]);
        };
        let map = attention.and_then(|attention| {
            let scores = match self.way {
                Way::Rollout => rolled_out(&attention, &row),
                Way::GradientRollout => relevance(&attention, &row),
                Way::LeGrad => sensitivity(&attention, &row),
            };
            on_grid(scores.view(), &attention.grid)
        });
        let no_gradient = || {
            let rule_set = parameters.rule_set.unwrap_or(RuleSetId::Gradient);
            no_derivative(rule_set, parameters.head, "at the attention")
        };
        let is_zero = |map: &Array2<f64>| map.iter().all(|score| *score == 0.0);
        let cause = map.as_ref().filter(|map| is_zero(map)).map(|_| {
            match row.cotangents.iter().all(super::doubts::is_zero) {
                true => no_gradient(),
                false if self.way == Way::LeGrad => {
                    "no attention has a positive derivative".to_owned()
                }
                false => "no attention has a positive product with its derivative".to_owned(),
            }
        });
        let scores = match map {
            Some(map) => in_input_size(&map, &self.inputs),
            None => Tensor::zeros(input.raw_dim()),
        };
        Step::Done(Attribution {
            cause,
            input_value: Some(head_value(&row, parameters.head, seed)),
            ..Attribution::of(scores)
        })
    }
}

/// The mean over the tokens that the head reads.
fn readout(attention: &Attention) -> Array1<f64> {
    let mut row = Array1::zeros(attention.tokens);
    for &token in &attention.read {
        row[token] = 1.0 / attention.read.len() as f64;
    }
    row
}

/// The mean over all axes but the last two; none of another number of tokens.
fn over_heads(weights: ArrayViewD<'_, f32>, tokens: usize) -> Option<Array2<f64>> {
    let mut mean = weights.mapv(f64::from);
    while mean.ndim() > 2 {
        mean = mean.mean_axis(Axis(0))?;
    }
    let mean = mean.into_dimensionality::<Ix2>().ok()?;
    (mean.dim() == (tokens, tokens)).then_some(mean)
}

/// A row of the product of the layers, the last first: no matrix is multiplied with another.
fn rolled_out(attention: &Attention, row: &Row) -> Array1<f64> {
    let mut scores = readout(attention);
    for weights in row.activations.iter().rev() {
        if let Some(mean) = over_heads(weights.view(), attention.tokens) {
            scores = 0.5 * (scores.dot(&mean) + &scores);
        }
    }
    scores
}

fn relevance(attention: &Attention, row: &Row) -> Array1<f64> {
    let start = readout(attention);
    let mut scores = start.clone();
    for (weights, derivatives) in row.activations.iter().zip(&row.cotangents).rev() {
        let positive = rectified(&(weights * derivatives));
        if let Some(mean) = over_heads(positive.view(), attention.tokens) {
            scores = &scores + &scores.dot(&mean);
        }
    }
    scores - start
}

/// `f32::max` would take a NaN for 0.
fn rectified(values: &Tensor) -> Tensor {
    values.mapv(|value| if value < 0.0 { 0.0 } else { value })
}

fn sensitivity(attention: &Attention, row: &Row) -> Array1<f64> {
    let mut scores = Array1::zeros(attention.tokens);
    for derivatives in &row.cotangents {
        let of_layer = over_heads(rectified(derivatives).view(), attention.tokens);
        if let Some(mean) = of_layer.and_then(|mean| mean.mean_axis(Axis(0))) {
            scores += &mean;
        }
    }
    scores
}

#[cfg(test)]
mod tests {
    use ndarray::{array, aview1};

    use super::*;
    use onnx_autodiff::autodiff::spec::Grid;

    fn two_layers() -> (Attention, Row) {
        let attention = Attention {
            layers: Vec::new(),
            tokens: 2,
            grid: Grid {
                channels: 1,
                first: 1,
                height: 1,
                width: 1,
            },
            read: vec![0],
            exits: Ok(Vec::new()),
        };
        let heads = |first: Array2<f32>, second: Array2<f32>| {
            ndarray::stack(Axis(0), &[first.view(), second.view()])
                .unwrap()
                .into_dyn()
        };
        let row = Row {
            activations: vec![
                heads(
                    array![[0.2, 0.8], [0.5, 0.5]],
                    array![[0.4, 0.6], [0.3, 0.7]],
                ),
                heads(
                    array![[1.0, 0.0], [0.5, 0.5]],
                    array![[0.5, 0.5], [0.1, 0.9]],
                ),
            ],
            cotangents: vec![
                heads(
                    array![[1.0, 2.0], [0.0, 0.0]],
                    array![[0.0, -1.0], [1.0, 1.0]],
                ),
                heads(
                    array![[2.0, 1.0], [0.0, 4.0]],
                    array![[0.0, 2.0], [0.0, 0.0]],
                ),
            ],
            ..Row::default()
        };
        (attention, row)
    }

    fn assert_near(found: &Array1<f64>, expected: [f64; 2]) {
        let near = (found - &aview1(&expected))
            .iter()
            .all(|gap| gap.abs() < 1e-6);
        assert!(near, "{found}");
    }

    #[test]
    fn rollout_is_the_row_of_the_product_of_the_matrices() {
        let (attention, row) = two_layers();
        // (I + A) / 2 of the mean over heads: [[.65, .35], [.2, .8]], then [[.875, .125], …].
        assert_near(
            &rolled_out(&attention, &row),
            [0.875 * 0.65 + 0.125 * 0.2, 0.875 * 0.35 + 0.125 * 0.8],
        );
    }

    #[test]
    fn gradient_rollout_follows_only_attention_that_speaks_for_the_class() {
        let (attention, row) = two_layers();
        // Means of positive products: [[.1, .8], [.15, .35]], then [[1, .5], …].
        let last = [2.0, 0.5];
        let through = |column: usize| last[0] * [0.1, 0.8][column] + last[1] * [0.15, 0.35][column];
        assert_near(
            &relevance(&attention, &row),
            [last[0] + through(0) - 1.0, last[1] + through(1)],
        );
    }

    #[test]
    fn legrad_adds_what_of_the_derivatives_is_positive_over_the_queries() {
        let (attention, row) = two_layers();
        // Means over two heads and two queries of [[1, 2], [0, 0]], [[0, -], [1, 1]], then of [[2, 1], [0,
        // 4]], [[0, 2], [0, 0]].
        assert_near(
            &sensitivity(&attention, &row),
            [2.0 / 4.0 + 2.0 / 4.0, 3.0 / 4.0 + 7.0 / 4.0],
        );
    }
}
