//! What a reader of a map should know. A sentence is said only when it is what happened: one for
//! each cause.

use super::{Attribution, RunInputs, parameters::Parameters};
use crate::tensor::Tensor;
use onnx_autodiff::autodiff::spec::{Head, RuleSetId, SeedRule};

/// From here on the scores of a path miss f(x) - f(x') so far that the map is not what the method
/// defines. At 25 steps the median over photos is 0.009.
const LARGE_ERROR: f64 = 0.1;

/// What the scores as a whole say.
pub fn about(attribution: &Attribution) -> Vec<String> {
    let scores = &attribution.scores;
    let wrong = scores.iter().filter(|score| !score.is_finite()).count();
    if wrong > 0 {
        return vec![format!("{wrong} of {} scores are not finite", scores.len())];
    }
    let mut said = Vec::new();
    if let Some(first) = scores.first()
        && scores.iter().all(|score| score == first)
    {
        let zero = (*first == 0.0).then(|| "every score is zero".to_owned());
        said.extend(attribution.cause.clone().or(zero));
    }
    if attribution
        .convergence_delta
        .is_some_and(|delta| !delta.is_finite())
    {
        said.push(
            "the target's value at the baseline is not finite: there is no convergence_delta"
                .to_owned(),
        );
    }
    said
}

/// Of a map of zeros by surrogate gradients.
pub fn saturated(attribution: &Attribution, parameters: &Parameters) -> Option<String> {
    let is_by_gradient = parameters.method.rule_set.is_some();
    (is_by_gradient && is_zero(&attribution.scores)).then(|| {
        "surrogate gradients stop where quantised values are at the end of their range, as the explained score may be: try head=probabilities or another \
         target, or explain the float model"
            .to_owned()
    })
}

pub fn is_zero(tensor: &Tensor) -> bool {
    tensor.iter().all(|value| *value == 0.0)
}

/// Derivatives of the target that are zero everywhere. `place` says where they were taken.
pub fn no_derivative(rule_set: RuleSetId, head: Head, place: &str) -> String {
    match (rule_set, head) {
        (RuleSetId::Gradient, Head::Probabilities) => {
            format!(
                "the derivative of the target's probability is zero {place}; head=logits is not bound by 0 and 1"
            )
        }
        (RuleSetId::Gradient, Head::Logits) => {
            format!("the derivative is zero {place}: small changes there do not move the target")
        }
        (other, _) => format!("what {} passes back is zero {place}", other.id()),
    }
}

/// As [`no_derivative`], by the rule set and of the head that the parameters name.
pub fn no_derivative_of(parameters: &Parameters, place: &str) -> String {
    no_derivative(
        parameters.rule_set.unwrap_or(RuleSetId::Gradient),
        parameters.head,
        place,
    )
}

/// As [`no_derivative_of`] at the input, whose value for the target is `value`.
pub fn no_derivative_at_input(parameters: &Parameters, value: f64) -> String {
    if parameters.grad_output == SeedRule::Value && value == 0.0 {
        return "the target's value is zero, and seed=value starts with it".to_owned();
    }
    no_derivative_of(parameters, "at the input")
}

/// Baselines that are the input itself.
pub struct Starts {
    at_input: usize,
    all: usize,
}

impl Starts {
    pub fn of(inputs: &RunInputs) -> Self {
        let at_input = inputs
            .baselines
            .iter()
            .filter(|start| are_alike(&inputs.input, start))
            .count();
        Self {
            at_input,
            all: inputs.baselines.len(),
        }
    }

    pub fn are_input(&self) -> bool {
        self.at_input == self.all
    }

    /// Where some of several add nothing, or all of them nothing but rounding errors.
    pub fn warning(&self, is_zero: bool) -> Option<String> {
        match self.at_input {
            0 => None,
            all if all == self.all => {
                (!is_zero).then(|| format!("{NO_PATH}; the scores are rounding errors"))
            }
            some => Some(format!(
                "{some} of {} baselines equal the input and add nothing",
                self.all
            )),
        }
    }

    /// Why (x - x') ⊙ g is zero, where g is zero in every element or not.
    pub fn cause(&self, parameters: &Parameters, no_derivative_there: bool) -> String {
        if self.are_input() {
            NO_PATH.to_owned()
        } else if no_derivative_there {
            no_derivative_of(parameters, "all along the path")
        } else {
            "the derivative is zero wherever the input differs from the baseline".to_owned()
        }
    }
}

const NO_PATH: &str = "the baseline equals the input: there is no path between them";

/// Up to rounding: baselines are computed, and an upload may have come through another file.
fn are_alike(input: &Tensor, start: &Tensor) -> bool {
    let largest = input
        .iter()
        .fold(0.0, |largest: f32, value| largest.max(value.abs()));
    input
        .iter()
        .zip(start)
        .all(|(x, start)| (x - start).abs() <= 1e-6 * largest)
}

/// A path with too few points.
pub fn large_error(attribution: &Attribution, parameters: &Parameters) -> Option<String> {
    let error = attribution
        .approximation_error
        .filter(|error| *error > LARGE_ERROR)?;
    let way_out = if parameters.compat.is_some() {
        "raise n_steps"
    } else {
        "raise n_steps or give a tolerance"
    };
    Some(format!("approximation_error is {error:.2}: {way_out}"))
}

/// One sample where several are averaged.
pub fn one_sample(n_samples: usize) -> Option<String> {
    (n_samples == 1).then(|| "n_samples is 1: nothing is averaged; raise it".to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ndarray::Array2;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        engine::{Point, Row},
        methods::reference::{drive, inputs, inputs_of_layer, row},
        segment::Segmentation,
    };
    use onnx_autodiff::autodiff::spec::{DeriveSpec, Wrt};

    /// All that is said of one method with a target of two logits, whose derivative `answer` gives.
    fn said(
        given: Value,
        input: &[f32],
        starts: &[&[f32]],
        answer: fn(&[f32]) -> Vec<f64>,
    ) -> Vec<String> {
        let inputs = inputs(&given, input, starts);
        let run = (inputs.parameters.method.build)(inputs);
        let evaluate = |point: &Point| row(&[1.0, 0.0], &answer(point.input.as_slice().unwrap()));
        tell(drive(run, |_, point| evaluate(point)).0)
    }

    fn tell(map: Attribution) -> Vec<String> {
        map.warnings.iter().cloned().chain(about(&map)).collect()
    }

    fn ones(x: &[f32]) -> Vec<f64> {
        vec![1.0; x.len()]
    }

    fn zeros(x: &[f32]) -> Vec<f64> {
        vec![0.0; x.len()]
    }

    fn squares(x: &[f32]) -> Vec<f64> {
        x.iter().map(|v| f64::from(*v)).collect()
    }

    #[test]
    fn every_cause_of_an_empty_map_has_its_own_sentence() {
        const X: &[f32] = &[1.0, 3.0];
        const FLAT: &[f32] = &[2.0, 2.0];
        let baseline = "the baseline equals the input: there is no path between them";
        let logits = |place: &str| {
            format!("the derivative is zero {place}: small changes there do not move the target")
        };
        let probability = "the derivative of the target's probability is zero at the input; head=logits is not bound by 0 and 1";
        let flat =
            "the input is the same everywhere, so noise_level (times its range) gives no noise";
        let one = "n_samples is 1: nothing is averaged; raise it";
        type Answer = fn(&[f32]) -> Vec<f64>;
        type Case<'a> = (Value, &'a [f32], &'a [&'a [f32]], Answer, &'a [&'a str]);
        let cases: &[Case<'_>] = &[
            (json!({"method": "gradient"}), X, &[], ones, &[]),
            (
                json!({"method": "gradient"}),
                X,
                &[],
                zeros,
                &[&logits("at the input")],
            ),
            (
                json!({"method": "gradient", "head": "probabilities"}),
                X,
                &[],
                zeros,
                &[probability],
            ),
            (
                json!({"method": "gradient", "grad_output": "value"}),
                X,
                &[],
                zeros,
                &[&logits("at the input")],
            ),
            (
                json!({"method": "guided_backprop"}),
                X,
                &[],
                zeros,
                &["what guided_backprop passes back is zero at the input"],
            ),
            (
                json!({"method": "deconvnet"}),
                X,
                &[],
                zeros,
                &["what deconvnet passes back is zero at the input"],
            ),
            (
                json!({"method": "pattern_net"}),
                X,
                &[],
                zeros,
                &["what pattern_net passes back is zero at the input"],
            ),
            (
                json!({"method": "input_x_gradient"}),
                &[0.0, 0.0],
                &[],
                ones,
                &["the input is zero wherever the derivative is not"],
            ),
            (
                json!({"method": "input_x_gradient"}),
                X,
                &[],
                |_| vec![f64::NAN, 1.0],
                &["1 of 2 scores are not finite"],
            ),
            (
                json!({"method": "integrated_gradients"}),
                X,
                &[X],
                ones,
                &[baseline],
            ),
            (
                json!({"method": "integrated_gradients", "baseline": "zero+zero"}),
                X,
                &[X, X],
                ones,
                &[baseline],
            ),
            (
                json!({"method": "integrated_gradients", "multiply_by_inputs": false}),
                X,
                &[X],
                ones,
                &[],
            ),
            (
                json!({"method": "integrated_gradients", "tolerance": 0.1}),
                X,
                &[X],
                ones,
                &[baseline],
            ),
            (
                json!({"method": "integrated_gradients"}),
                X,
                &[&[0.0, 0.0]],
                zeros,
                &[&logits("all along the path")],
            ),
            (
                json!({"method": "integrated_gradients", "multiply_by_inputs": false}),
                X,
                &[X],
                zeros,
                &[&logits("all along the path")],
            ),
            (
                json!({"method": "integrated_gradients"}),
                X,
                &[&[1.0, 0.0]],
                |_| vec![1.0, 0.0],
                &["the derivative is zero wherever the input differs from the baseline"],
            ),
            (json!({"method": "pgig"}), X, &[X], ones, &[baseline]),
            (
                json!({"method": "pgig"}),
                X,
                &[&[0.0, 0.0]],
                zeros,
                &["what pattern_attribution passes back is zero all along the path"],
            ),
            (json!({"method": "smooth_grad"}), FLAT, &[], ones, &[flat]),
            (
                json!({"method": "smooth_grad", "n_samples": 1}),
                X,
                &[],
                ones,
                &[one],
            ),
            (
                json!({"method": "smooth_grad", "noise_level": 1e-12}),
                X,
                &[],
                ones,
                &["noise_level=0.000000000001 is too small to change the input"],
            ),
            (
                json!({"method": "smooth_grad"}),
                X,
                &[],
                zeros,
                &[&logits("at every sample")],
            ),
            (
                json!({"method": "smooth_grad_sq"}),
                X,
                &[],
                |_| vec![1e-30, 1e-30],
                &["every score is smaller than float32 can hold"],
            ),
            (
                json!({"method": "var_grad", "n_samples": 1}),
                X,
                &[],
                squares,
                &["the variance of one sample is zero: raise n_samples"],
            ),
            (json!({"method": "var_grad"}), FLAT, &[], squares, &[flat]),
            (
                json!({"method": "var_grad"}),
                X,
                &[],
                ones,
                &["the derivative is the same at every sample"],
            ),
            (
                json!({"method": "var_grad"}),
                X,
                &[],
                zeros,
                &[&logits("at every sample")],
            ),
            (json!({"method": "var_grad"}), X, &[], squares, &[]),
            (
                json!({"method": "smooth_grad_ig", "n_steps": 2}),
                FLAT,
                &[FLAT],
                ones,
                &[flat, baseline],
            ),
            (
                json!({"method": "smooth_grad_ig", "n_steps": 2, "n_samples": 1}),
                X,
                &[FLAT],
                zeros,
                &[one, &logits("all along the path")],
            ),
            (
                json!({"method": "expected_gradients", "baseline": "zero"}),
                X,
                &[X],
                ones,
                &[baseline],
            ),
            (
                json!({"method": "expected_gradients", "baseline": "zero"}),
                X,
                &[FLAT],
                zeros,
                &[&logits("all along the path")],
            ),
            (
                json!({"method": "expected_gradients", "baseline": "zero", "n_samples": 1}),
                X,
                &[FLAT],
                ones,
                &[one],
            ),
        ];
        for (given, input, starts, answer, expected) in cases {
            assert_eq!(
                said(given.clone(), input, starts, *answer),
                *expected,
                "{given}"
            );
        }
    }

    #[test]
    fn a_value_of_zero_that_the_walk_starts_with_is_named() {
        let inputs = inputs(
            &json!({"method": "pattern_attribution", "target": 1}),
            &[1.0, 2.0],
            &[],
        );
        let map = drive((inputs.parameters.method.build)(inputs), |_, _| {
            row(&[1.0, 0.0], &[0.0, 0.0])
        })
        .0;
        assert_eq!(
            tell(map),
            ["the target's value is zero, and seed=value starts with it"]
        );
    }

    #[test]
    fn a_baseline_that_is_the_input_but_for_rounding_is_told_and_no_error_of_its_path() {
        for method in ["integrated_gradients", "expected_gradients"] {
            let given = json!({"method": method, "baseline": "zero"});
            let warnings = said(given, &[1.0, 3.0], &[&[1.0, 3.0000002]], ones);
            let alike = "the baseline equals the input: there is no path between them; the scores are rounding errors";
            assert_eq!(warnings, [alike]);
        }
        assert!(!are_alike(
            &Tensor::ones(vec![2]),
            &Tensor::from_elem(vec![2], 1.001)
        ));
    }

    #[test]
    fn some_of_several_baselines_that_equal_the_input_are_counted() {
        for method in ["integrated_gradients", "expected_gradients"] {
            let given = json!({"method": method, "baseline": "zero+zero+zero"});
            let warnings = said(
                given,
                &[1.0, 3.0],
                &[&[1.0, 3.0], &[0.0, 0.0], &[1.0, 3.0]],
                ones,
            );
            assert!(
                warnings.contains(&"2 of 3 baselines equal the input and add nothing".to_owned()),
                "{warnings:?}"
            );
        }
    }

    #[test]
    fn a_path_that_misses_its_sum_says_so() {
        let warnings = |given: Value, value: fn(f64) -> f64| {
            let inputs = inputs(&given, &[1.0, 3.0], &[&[0.0, 0.0]]);
            let run = (inputs.parameters.method.build)(inputs);
            tell(
                drive(run, |_, point| {
                    row(&[value(point.input[0].into()), 0.0], &[1.0, 0.0])
                })
                .0,
            )
        };
        let large = "approximation_error is 0.50: raise n_steps or give a tolerance";
        assert_eq!(
            warnings(json!({"method": "integrated_gradients"}), |x| 2.0 * x),
            [large]
        );
        let compat = json!({"method": "integrated_gradients", "compat": "pgig-2020", "n_steps": 2});
        assert_eq!(
            warnings(compat, |x| x),
            ["approximation_error is 0.50: raise n_steps"]
        );
        assert_eq!(
            warnings(json!({"method": "integrated_gradients"}), |x| 1.05 * x),
            [""; 0]
        );
        let tolerance = json!({"method": "integrated_gradients", "tolerance": 0.1, "max_steps": 8});
        assert_eq!(
            warnings(tolerance, |x| 2.0 * x),
            ["the tolerance was not reached with 8 steps; raise max_steps"]
        );
        let undefined =
            "the target's value at the baseline is not finite: there is no convergence_delta";
        assert_eq!(
            warnings(json!({"method": "integrated_gradients"}), |x| x.ln()),
            [undefined]
        );
    }

    type Plane = [[f32; 2]; 2];

    /// Of Grad-CAM on a layer of one channel, 2 x 2, and the derivative at the input by which the
    /// guided one is multiplied.
    fn class_map(method: &str, values: Plane, cotangents: Plane, derivative: Plane) -> Vec<String> {
        let shaped = |plane: &Plane| {
            Tensor::from_shape_vec(vec![1, 2, 2], plane.as_flattened().to_vec()).unwrap()
        };
        let inputs = RunInputs {
            input: Arc::new(Tensor::ones(vec![1, 2, 2])),
            ..inputs_of_layer([1, 2, 2], &json!({"method": method}), &[0.0], &[])
        };
        let answer = |spec: &DeriveSpec, _: &Point| match &spec.wrt[0] {
            Wrt::Activation(_) | Wrt::Exit(_) => Row {
                cotangents: vec![shaped(&cotangents)],
                activations: vec![shaped(&values)],
                ..row(&[1.0], &[])
            },
            Wrt::Input => Row {
                cotangents: vec![shaped(&derivative)],
                ..row(&[1.0], &[])
            },
        };
        tell(drive((inputs.parameters.method.build)(inputs), answer).0)
    }

    #[test]
    fn an_empty_class_map_says_whether_the_layer_speaks_against_the_target_or_not_at_all() {
        const NONE: Plane = [[0.0; 2]; 2];
        const SOME: Plane = [[0.0, 1.0], [2.0, 3.0]];
        const AGAINST: Plane = [[-1.0; 2]; 2];
        const APART: Plane = [[1.0, 0.0], [0.0, 0.0]];
        let against = "no weighted sum over the channels of layer hidden is positive: this layer speaks against the target";
        let at_layer =
            "the derivative is zero at layer hidden: small changes there do not move the target";
        let at_input = "what guided_backprop passes back is zero at the input";
        let unweighted: Plane = [[1.0, -1.0], [1.0, -1.0]];
        for (values, cotangents, derivative, plain, guided) in [
            (SOME, SOME, SOME, None, None),
            (SOME, AGAINST, SOME, Some(against), Some(against)),
            (SOME, NONE, SOME, Some(at_layer), Some(at_layer)),
            (
                NONE,
                SOME,
                SOME,
                Some("layer hidden is zero everywhere"),
                Some("layer hidden is zero everywhere"),
            ),
            (
                SOME,
                unweighted,
                SOME,
                Some("the channels of layer hidden that are not zero have weight zero"),
                Some("the channels of layer hidden that are not zero have weight zero"),
            ),
            (SOME, SOME, NONE, None, Some(at_input)),
            (
                [[0.0, 0.0], [0.0, 1.0]],
                SOME,
                APART,
                None,
                Some("the derivative is zero wherever Grad-CAM's map is not"),
            ),
            (
                [[f32::NAN, 0.0], [0.0, 1.0]],
                SOME,
                SOME,
                Some("1 of 4 scores are not finite"),
                Some("1 of 4 scores are not finite"),
            ),
        ] {
            assert_eq!(
                class_map("grad_cam", values, cotangents, derivative),
                Vec::from_iter(plain)
            );
            assert_eq!(
                class_map("guided_grad_cam", values, cotangents, derivative),
                Vec::from_iter(guided)
            );
        }
    }

    #[test]
    fn a_layer_of_one_place_and_a_picture_without_edges_are_named() {
        let one = |value: f32| vec![Tensor::from_elem(vec![1, 1, 1], value)];
        let on_picture = |method: &str| RunInputs {
            input: Arc::new(Tensor::ones(vec![1, 2, 2])),
            luma: Some(Arc::new(Array2::from_elem((2, 2), 0.3))),
            ..inputs_of_layer([1, 1, 1], &json!({"method": method}), &[0.0], &[])
        };
        let inputs = on_picture("grad_cam");
        let answer = |_: &DeriveSpec, _: &Point| Row {
            cotangents: one(2.0),
            activations: one(3.0),
            ..row(&[1.0], &[])
        };
        let map = drive((inputs.parameters.method.build)(inputs), answer).0;
        assert_eq!(
            tell(map),
            ["layer hidden is 1 x 1: it cannot tell one place from another; choose an earlier one"]
        );
        let inputs = on_picture("edges");
        assert_eq!(
            tell(drive((inputs.parameters.method.build)(inputs), answer).0),
            ["the picture has no edges"]
        );
    }

    /// Of XRAI on `labels`, with scores that are the pixels' places.
    fn regions(given: Value, labels: Array2<u32>) -> Vec<String> {
        let (height, width) = labels.dim();
        let shape = vec![1, height, width];
        let ramp = Tensor::from_shape_fn(shape.clone(), |at| (1 + at[1] * width + at[2]) as f32);
        let inputs = RunInputs {
            input: Arc::new(Tensor::ones(shape.clone())),
            baselines: vec![Arc::new(Tensor::zeros(shape))],
            segmentation: Arc::new(Segmentation::of_maps(vec![labels], 0)),
            ..inputs(&given, &[0.0], &[])
        };
        let sum = f64::from(ramp.sum());
        let answer = |_: &DeriveSpec, point: &Point| Row {
            cotangents: vec![ramp.clone()],
            ..row(&[sum * f64::from(point.input[[0, 0, 0]])], &[])
        };
        tell(drive((inputs.parameters.method.build)(inputs), answer).0)
    }

    #[test]
    fn regions_that_are_passed_over_and_maps_of_one_region_are_told() {
        let xrai = |least: usize, segments: &str| json!({"method": "xrai", "min_pixel_diff": least, "segments": segments});
        let halves = |y: usize, _| u32::from(y > 7);
        let halves = Array2::from_shape_fn((16, 16), |(y, x)| halves(y, x));
        assert_eq!(regions(xrai(50, "uploaded"), halves.clone()), [""; 0]);
        let mut spots = halves.clone();
        spots[[0, 0]] = 2;
        spots[[9, 9]] = 3;
        assert_eq!(
            regions(xrai(50, "uploaded"), spots),
            [
                "2 of 4 regions are smaller than min_pixel_diff=50 pixels and passed over: lower it or send coarser segments"
            ]
        );
        assert_eq!(
            regions(xrai(200, "uploaded"), halves),
            [
                "the map is one region: all 2 are smaller than min_pixel_diff=200 pixels; lower it or send coarser segments"
            ]
        );
        assert_eq!(
            regions(xrai(50, "felzenszwalb"), Array2::zeros((8, 8))),
            [
                "the map is one region: the segmentation finds no other in 8 x 8 pixels; send segments of your own"
            ]
        );
        assert_eq!(
            regions(xrai(50, "uploaded"), Array2::zeros((8, 8))),
            ["the map is one region: no other of the segments sent adds min_pixel_diff=50 pixels"]
        );
    }
}
