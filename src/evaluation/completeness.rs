//! Completeness: by how much the sum of a map misses f(x) - f(x'), the difference of the explained
//! output between input and baseline. Sundararajan et al., 2017, section 3. Of path methods whose
//! scores sum to it but for the error of their quadrature. Over several baselines f(x') is the mean.
//! Cost: none, since such methods evaluate both ends of the path.

use super::{
    AttributionMap, Case, Category, Direction, Measurement, Metric, MetricRun, Needs, NotFinite,
    Reading, Words,
};
use crate::methods::{Answers, Run, Step, path::is_complete};

pub const METRIC: Metric = Metric {
    id: "completeness",
    title: "Completeness",
    paper: "Sundararajan et al., Axiomatic Attribution for Deep Networks, 2017, section 3",
    category: Category::Axiomatic,
    direction: |_| Direction::Lower,
    parameters: &[],
    words: Words {
        about: |_| {
            "By how much the sum of a map's scores misses the difference that it explains: that of the output between input and baseline."
                .to_owned()
        },
        heading: "Completeness gap",
        column: "gap",
        legend: "|sum of the map - (f(x) - f(x'))|",
        value: "The mean over images, in units of the output that is explained, its logit or its probability.",
        axes: None,
    },
    needs: Needs {
        // Regions have the mean of what their pixels have.
        excludes: |parameters| !is_complete(parameters) || parameters.method.ranks_regions(),
        exclusion: "their scores are not defined to sum to f(x) - f(x'), as those of integrated_gradients are (with rule_set gradient, \
                    grad_output one and multiply_by_inputs true)",
        ..Needs::NOTHING
    },
    build: |case, _| {
        Ok(vec![
            Box::new(Completeness { case: case.clone() }) as MetricRun
        ])
    },
    reading: Reading::NUMBER,
};

struct Completeness {
    case: Case,
}

impl Run for Completeness {
    type Output = Result<Vec<Measurement>, NotFinite>;

    fn step(&mut self, _: Answers) -> Step<Self::Output> {
        let gap = |(map, _): (&AttributionMap, _)| {
            let sum: f64 = map.scores.iter().map(|score| f64::from(*score)).sum();
            let gap = (sum - map.difference?).abs();
            gap.is_finite().then(|| vec![gap])
        };
        let gaps: Option<Vec<Measurement>> = self.case.row_maps().map(gap).collect();
        Step::Done(gaps.ok_or(NotFinite("the output at the baseline is not finite")))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use onnx_autodiff::autodiff::spec::{Head, PatternLayers, RuleSetId};

    use super::*;
    use crate::{
        evaluation::{
            parameters::Values,
            patches::Score,
            tests::{answered, case, ended, tensor},
        },
        methods::{parameters::Parameters, registry::METHODS},
    };

    fn case_of(scores: &[f32], difference: Option<f64>) -> Case {
        let mut case = case(
            tensor(&[1, 2, 2], scores),
            &[Score::Signed, Score::Absolute],
        );
        let mut map = case.maps[0].clone();
        map.difference = difference;
        case.maps = Arc::new([map]);
        case
    }

    #[test]
    pub(in crate::evaluation) fn a_hand_worked_map_misses_what_was_worked_by_hand() {
        let gap = |difference| {
            let case = case_of(&[1.0, -2.0, 0.5, 4.0], Some(difference));
            ended((METRIC.build)(&case, &Values::default()).unwrap().remove(0))
        };
        // The sum is 3.5, whichever way the pixels are ranked.
        assert_eq!(gap(3.5), [[0.0], [0.0]]);
        assert_eq!(gap(3.0), [[0.5], [0.5]]);
        assert_eq!(gap(-1.0), [[4.5], [4.5]]);
    }

    #[test]
    fn a_baseline_without_a_finite_output_is_told() {
        for difference in [None, Some(f64::NAN)] {
            let case = case_of(&[1.0; 4], difference);
            let run = (METRIC.build)(&case, &Values::default()).unwrap().remove(0);
            assert!(answered(run, |_| panic!("the run asks")).is_err());
        }
    }

    #[test]
    fn maps_that_sum_to_a_difference_by_definition_are_taken_and_no_others() {
        let of = |method| Parameters::defaults(method, Head::Logits, PatternLayers::All);
        let taken: Vec<&str> = METHODS
            .iter()
            .filter(|method| !(METRIC.needs.excludes)(&of(method)))
            .map(|method| method.id)
            .collect();
        assert_eq!(taken, ["integrated_gradients"]);
        let mut guided = of(METHODS.iter().find(|one| one.id == taken[0]).unwrap());
        guided.rule_set = Some(RuleSetId::GuidedBackprop);
        assert!((METRIC.needs.excludes)(&guided));
    }
}
