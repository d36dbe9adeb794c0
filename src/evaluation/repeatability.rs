//! Repeatability: the Spearman rank correlation between the pixels of a map and of the same map
//! under another random seed. Methods that draw nothing have 1 by definition and are not asked.
//! Cost: the methods' own, of those that take a seed. A map of equal pixels is correlated with none:
//! 0.

use super::{
    AttributionMap, Case, Category, Cost, Direction, Measurement, Metric, MetricRun, Needs,
    NotFinite, Reading, Words,
    similarity::{correlation, ranks_of},
};
use crate::methods::{
    Answers, Question, Request, Run, Step, parameters::Parameters, target::Target,
};

/// What is added to the seed: more than there are images, whose numbers are added too.
const OTHER: u64 = 1 << 40;

pub const METRIC: Metric = Metric {
    id: "repeatability",
    title: "Repeatability",
    paper: "None; by the rank correlation of Adebayo et al., Sanity Checks for Saliency Maps, 2018",
    category: Category::Robustness,
    direction: |_| Direction::Higher,
    parameters: &[],
    words: Words {
        about: |_| {
            "The Spearman rank correlation between the pixels of a map and of the same map under another random seed. A method that draws \
             nothing has 1."
                .to_owned()
        },
        heading: "Mean rank correlation",
        column: "correlation",
        legend: "mean rank correlation (1: the seed does not matter)",
        value: "The mean over images.",
        axes: None,
    },
    needs: Needs {
        cost: Cost {
            words: "at most the methods' own",
            count: |_, _, explaining| explaining,
        },
        ..Needs::NOTHING
    },
    build: |case, _| {
        Ok(vec![
            Box::new(Repetition { case: case.clone() }) as MetricRun
        ])
    },
    reading: Reading::NUMBER,
};

struct Repetition {
    case: Case,
}

impl Repetition {
    /// The question for a map that depends on a seed.
    fn question(&self, map: &AttributionMap) -> Option<Question> {
        let parameters = &map.request.parameters;
        let request = Request {
            parameters: Parameters {
                target: Target::Class(self.case.class),
                seed: parameters.seed.wrapping_add(OTHER),
                ..parameters.clone()
            },
            baseline_seed: map.request.baseline_seed.wrapping_add(OTHER),
            ..map.request.clone()
        };
        parameters.takes("seed").then(|| Question::Explain {
            model: self.case.model.clone(),
            input: self.case.input.clone(),
            request,
        })
    }
}

impl Run for Repetition {
    type Output = Result<Vec<Measurement>, NotFinite>;

    fn step(&mut self, answers: Answers) -> Step<Self::Output> {
        let explained = answers.explained();
        let questions: Vec<Option<Question>> = self
            .case
            .maps
            .iter()
            .map(|map| self.question(map))
            .collect();
        if explained.is_empty() && questions.iter().any(Option::is_some) {
            return Step::Ask(questions.into_iter().flatten().collect());
        }
        let mut explained = explained.into_iter();
        let again: Vec<_> = questions
            .iter()
            .map(|question| question.as_ref().and_then(|_| explained.next()))
            .collect();
        let layout = self.case.layout();
        let mut correlations = Vec::with_capacity(self.case.rows.len());
        for (row, (map, score)) in self.case.rows.iter().zip(self.case.row_maps()) {
            let Some(Some(again)) = again.get(row.map) else {
                correlations.push(vec![1.0]);
                continue;
            };
            let scores = &again.attribution.scores;
            if !scores.iter().all(|score| score.is_finite()) {
                let what = "the map under another seed has values that are not finite";
                return Step::Done(Err(NotFinite(what)));
            }
            let [own, other] =
                [&map.scores, scores].map(|scores| ranks_of(&score.pixels(scores, layout)));
            correlations.push(vec![correlation(&own, &other)]);
        }
        Step::Done(Ok(correlations))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use onnx_autodiff::autodiff::spec::{Head, PatternLayers};

    use super::*;
    use crate::{
        evaluation::{
            CaseRow,
            parameters::Values,
            patches::Score,
            tests::{answered, case, tensor},
        },
        methods::registry,
    };

    const OWN: [f32; 5] = [1.0, -2.0, 3.0, -4.0, 5.0];

    /// The same map of a method that draws and of one that does not.
    fn drawn_and_not() -> Case {
        let mut case = case(tensor(&[1, 1, 5], &OWN), &[Score::Signed]);
        let of = |id: &str| {
            let method = registry::find(id).unwrap();
            let parameters = Parameters::defaults(method, Head::Logits, PatternLayers::All);
            AttributionMap {
                request: Request {
                    baseline_seed: 7,
                    ..Request::of(parameters)
                },
                ..case.maps[0].clone()
            }
        };
        case.maps = Arc::new([of("gradient"), of("smooth_grad")]);
        let row = |map, score| CaseRow { map, score };
        case.rows = Arc::new([
            row(1, Score::Signed),
            row(0, Score::Signed),
            row(1, Score::Absolute),
        ]);
        case
    }

    #[test]
    pub(in crate::evaluation) fn a_hand_worked_repetition_correlates_as_worked_by_hand() {
        let run = (METRIC.build)(&drawn_and_not(), &Values::default())
            .unwrap()
            .remove(0);
        let mut asked = 0;
        let found = answered(run, |request| {
            asked += 1;
            assert_eq!(request.parameters.method.id, "smooth_grad");
            assert_eq!(
                (request.parameters.seed, request.baseline_seed),
                (OTHER, 7 + OTHER)
            );
            tensor(&[1, 1, 5], &[1.0, -2.0, 5.0, -4.0, 3.0])
        })
        .unwrap();
        assert_eq!(asked, 1);
        // 1 - 6 Σ d² / (n (n² - 1)): two neighbours changed, Σ d² = 2; nothing drawn; of the
        // magnitudes 3 and 5 are two ranks apart, Σ d² = 8.
        for (found, expected) in found.iter().zip([0.9, 1.0, 0.6]) {
            assert!((found[0] - expected).abs() < 1e-12, "{found:?}");
        }
    }

    #[test]
    fn a_map_that_is_not_finite_is_told() {
        let run = (METRIC.build)(&drawn_and_not(), &Values::default())
            .unwrap()
            .remove(0);
        let found = answered(run, |_| tensor(&[1, 1, 5], &[f32::NAN; 5]));
        assert!(found.unwrap_err().0.contains("not finite"));
    }
}
