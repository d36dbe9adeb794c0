//! Eigen-CAM: ReLU(A v), for A the values of a layer, places by channels, from which each channel's
//! mean is taken, and v their first principal component; brought to the input's height and width. The
//! same for every class. Muhammad & Yeasin 2020, section III, centred as in pytorch-grad-cam, with the
//! sign of Chung & Ying 2025, Eq. 13: the largest score by magnitude is positive. One forward pass.

use ndarray::{Array1, Array2, ArrayView2, Axis};

use super::{
    Answers, Attribution, MethodRun, Question, Run, RunInputs, Step, head_value,
    layers::{by_channel, forward_spec, in_input_size, layer_name, layer_of, rectify},
};
use crate::{
    engine::{GraphKey, Point, Row},
    tensor::Tensor,
};

struct EigenCam {
    inputs: RunInputs,
}

pub fn principal_map(inputs: RunInputs) -> MethodRun {
    Box::new(EigenCam { inputs })
}

impl Run for EigenCam {
    type Output = Attribution;

    fn step(&mut self, answers: Answers) -> Step<Attribution> {
        let RunInputs {
            model,
            input,
            seed,
            parameters,
            ..
        } = &self.inputs;
        let Some(row) = answers.rows().into_iter().next() else {
            let graph = GraphKey::new(model.clone(), forward_spec(parameters));
            let question = Question::rows(graph, vec![Point::forward(input.clone())]);
            return Step::Ask(vec![question]);
        };
        let map = self.map_of(&row);
        let cause = map.iter().all(|score| *score == 0.0).then(|| {
            format!(
                "layer {} has the same values at all places",
                layer_name(parameters)
            )
        });
        let scores = match map.is_empty() {
            true => Tensor::zeros(input.raw_dim()),
            false => in_input_size(&rectify(map), &self.inputs),
        };
        Step::Done(Attribution {
            cause,
            input_value: Some(head_value(&row, parameters.head, seed)),
            ..Attribution::of(scores)
        })
    }
}

impl EigenCam {
    /// Empty for a layer without places.
    fn map_of(&self, row: &Row) -> Array2<f64> {
        let values = || {
            by_channel(
                row.activations.first()?,
                &layer_of(&self.inputs.parameters)?,
            )
        };
        let Some(values) = values() else {
            return Array2::default((0, 0));
        };
        let (channels, height, width) = values.dim();
        let flat: Vec<f64> = values.iter().map(|&value| f64::from(value)).collect();
        let projected = Array2::from_shape_vec((channels, height * width), flat)
            .map(|flat| project(flat.t()))
            .and_then(|scores| scores.into_shape_with_order((height, width)));
        projected.unwrap_or_default()
    }
}

/// The rounds after which a component that is still turning is taken as it is: its eigenvalue is
/// nearly that of another.
const ROUNDS: usize = 1000;

/// Rows of `values`, their mean taken away, on their first principal component, which is found by
/// power iteration.
fn project(values: ArrayView2<'_, f64>) -> Array1<f64> {
    let Some(mean) = values.mean_axis(Axis(0)) else {
        return Array1::zeros(values.nrows());
    };
    let centred = &values - &mean;
    let length = |row: &Array1<f64>| row.dot(row).sqrt();
    let mut scores = Array1::zeros(centred.nrows());
    // The row of the largest norm is not orthogonal to the component, up to chance.
    let largest = centred
        .rows()
        .into_iter()
        .map(|row| row.to_owned())
        .max_by(|a, b| length(a).total_cmp(&length(b)));
    let Some(mut component) = largest.filter(|row| length(row) > 0.0) else {
        return scores;
    };
    component /= length(&component);
    for _ in 0..ROUNDS {
        scores = centred.dot(&component);
        let next = centred.t().dot(&scores);
        let norm = length(&next);
        if norm.is_nan() || norm == 0.0 {
            break;
        }
        let next = next / norm;
        let turn = length(&(&next - &component));
        component = next;
        if turn < 1e-12 {
            break;
        }
    }
    scores = centred.dot(&component);
    let extreme = scores
        .iter()
        .copied()
        .reduce(|a, b| if b.abs() > a.abs() { b } else { a });
    match extreme {
        Some(extreme) if extreme < 0.0 => -scores,
        _ => scores,
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn places_on_a_line_keep_their_distances_and_the_far_one_is_positive() {
        // Along (3, 4) / 5 around their mean (1, 2): at -1, -1 and 2 steps of 5.
        let values = array![[-2.0, -2.0], [-2.0, -2.0], [7.0, 10.0]];
        let scores = project(values.view());
        for (score, expected) in scores.iter().zip([-5.0, -5.0, 10.0]) {
            assert!((score - expected).abs() < 1e-9, "{scores}");
        }
        let mirrored = project((-values).view());
        assert!((mirrored[2] - 10.0).abs() < 1e-9, "{mirrored}");
        assert_eq!(
            project(array![[1.0, 2.0], [1.0, 2.0]].view()),
            array![0.0, 0.0]
        );
    }
}
