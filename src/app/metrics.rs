//! The metrics that answers state: those that take the map alone.

use std::sync::Arc;

use indexmap::IndexMap;
use serde_json::Map;

use crate::{
    evaluation::{
        AttributionMap, Case, CaseRow, Metric, parameters, patches::Score, registry::METRICS,
    },
    methods::{Answers, Explained, Request, Step},
    model::Model,
    tensor::Tensor,
};

/// The value of each metric; none where it is not finite.
pub type MetricValues = IndexMap<&'static str, Option<f64>>;

/// The metrics that take the map alone and say something of its method, with their default
/// parameters; what stands for a pixel is the signed sum of its channels. Sorts all pixels: belongs
/// on the pool.
pub(super) fn of_map(
    model: &Arc<Model>,
    input: &Arc<Tensor>,
    explained: &Explained,
) -> MetricValues {
    let attribution = &explained.attribution;
    let is_finite = attribution.scores.iter().all(|score| score.is_finite());
    let map = AttributionMap {
        request: Request::of((*explained.parameters).clone()),
        scores: attribution.scores.clone(),
        difference: attribution
            .input_value
            .zip(attribution.baseline_value)
            .map(|(input, baseline)| input - baseline),
        compared: attribution.compared.clone(),
    };
    let case = Case {
        model: model.clone(),
        variants: Arc::new([]),
        input: input.clone(),
        twin: None,
        class: explained.target.class.index,
        clean: f64::from(explained.target.class.score),
        right: None,
        region: None,
        maps: Arc::new([map]),
        rows: Arc::new([CaseRow {
            map: 0,
            score: Score::Signed,
        }]),
        seed: 0,
    };
    let is_stated = |metric: &&Metric| {
        metric.needs_only_maps() && !(metric.needs.excludes)(&explained.parameters)
    };
    let measured = |metric: &Metric| {
        let values = parameters::settle(metric, Map::new(), model).ok()?;
        let value = is_finite.then(|| value(metric, &values, &case)).flatten();
        Some((metric.id, value.filter(|value| value.is_finite())))
    };
    METRICS
        .iter()
        .filter(is_stated)
        .filter_map(measured)
        .collect()
}

/// Of the only row of a case.
fn value(metric: &Metric, values: &parameters::Values, case: &Case) -> Option<f64> {
    let runs = (metric.build)(case, values).ok()?;
    let mut run = runs.into_iter().next()?;
    match run.step(Answers::none()) {
        Step::Done(Ok(measurements)) => Some((metric.reading.value)(values, measurements.first()?)),
        Step::Done(Err(_)) | Step::Ask(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::{
        Attribution, ExplainedTarget, Prediction, Timing, parameters::Parameters, registry,
    };
    use onnx_autodiff::autodiff::spec::{Head, PatternLayers};

    /// What is stated of a map of one channel and 2 x 2 pixels.
    fn stated(method: &str, scores: [f32; 4], values: Option<[f64; 2]>) -> MetricValues {
        let method = registry::find(method).unwrap();
        let scores = Tensor::from_shape_vec(vec![1, 2, 2], scores.to_vec()).unwrap();
        let input = Arc::new(Tensor::zeros(vec![3, 2, 2]));
        let [input_value, baseline_value] = [0, 1].map(|at| values.map(|both| both[at]));
        let class = Prediction {
            index: 0,
            label: None,
            score: 1.0,
        };
        let explained = Explained {
            target: ExplainedTarget {
                class,
                against: None,
            },
            predictions: Vec::new(),
            parameters: Arc::new(Parameters::defaults(
                method,
                Head::Logits,
                PatternLayers::All,
            )),
            attribution: Attribution {
                input_value,
                baseline_value,
                ..Attribution::of(scores)
            },
            timing: Timing::default(),
            evaluations: 1,
        };
        let model = Arc::new(Model::bare("net", Default::default()));
        of_map(&model, &input, &explained)
    }

    #[test]
    fn the_metrics_are_those_that_take_the_map_alone_and_mean_something_to_its_method() {
        // Magnitudes 0, 1, 2, 5: (-1 · 1 + 1 · 2 + 3 · 5) / (4 · 8).
        let found = stated("gradient", [-5.0, 0.0, 2.0, 1.0], None);
        assert_eq!(found["sparseness"], Some(0.5));
        assert!(found["entropy"].is_some() && !found.contains_key("completeness"));
        assert!(!found.contains_key("pointing_game") && !found.contains_key("deletion"));
        let found = stated(
            "integrated_gradients",
            [-5.0, 0.0, 2.0, 1.0],
            Some([1.0, 2.5]),
        );
        assert_eq!(found["completeness"], Some(0.5));
    }

    #[test]
    fn what_is_not_finite_is_null() {
        let found = stated("gradient", [f32::NAN, 0.0, 2.0, 1.0], None);
        let json = serde_json::to_value(&found).unwrap();
        let values = json.as_object().unwrap();
        assert!(values.contains_key("entropy") && values.values().all(|value| value.is_null()));
        let found = stated("integrated_gradients", [1.0; 4], Some([f64::INFINITY, 0.0]));
        assert_eq!(
            (found["completeness"], found["sparseness"]),
            (None, Some(0.0))
        );
    }
}
