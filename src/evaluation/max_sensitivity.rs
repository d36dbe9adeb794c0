//! Maximum sensitivity: the most that a map changes, ‖φ(y) - φ(x)‖ / ‖φ(x)‖ in the Euclidean norm
//! over all features, among inputs y of the cube with sides of 2 `radius` around x. Yeh et al.,
//! 2019, Definition 3.1, which takes the maximum by draws too. The target stays that of x, and a
//! method that draws does so by the same seed. Where φ(x) is 0 the change itself is measured. Cost:
//! the methods' own for each draw. Agrees with Captum's `sensitivity_max` at the same inputs.

use std::sync::Arc;

use super::{
    AttributionMap, Case, Category, Cost, Direction, Measurement, Metric, MetricRun, Needs,
    NotFinite, Reading, Words,
    noise::{CUBE, moved, range, uniforms},
    parameters::{Allowed, MetricParameter},
    patches::Score,
    progressive::CHUNK,
    removal::target,
};
use crate::{
    methods::{Answers, Question, Request, Run, Step, parameters::Parameters},
    tensor::Tensor,
};

/// The most samples.
const MOST: usize = 1000;

pub const METRIC: Metric = Metric {
    id: "max_sensitivity",
    title: "Maximum sensitivity",
    paper: "Yeh et al., On the (In)fidelity and Sensitivity of Explanations, 2019, Definition 3.1",
    category: Category::Robustness,
    direction: |_| Direction::Lower,
    parameters: &[
        MetricParameter {
            name: "radius",
            doc: "the most that an element of the input changes, as a fraction of the input's range (max - min)",
            allowed: |_, _| Allowed::Real {
                least: 0.001,
                most: 1.0,
                default: 0.02,
            },
        },
        MetricParameter {
            name: "samples",
            doc: "changed inputs, the same for all methods",
            allowed: |_, _| Allowed::Whole {
                least: 1,
                most: MOST,
                default: 10,
            },
        },
    ],
    words: Words {
        about: |values| {
            format!(
                "The most that a map changes, relative to its size, among {} inputs drawn around the image, each element at most {} of the \
                 input's range away.",
                values.number("samples"),
                values.real("radius")
            )
        },
        heading: "Maximum sensitivity",
        column: "sensitivity",
        legend: "largest relative change of the map (0: none)",
        value: "The mean over images.",
        axes: None,
    },
    needs: Needs {
        cost: Cost {
            words: "samples × the methods' own",
            count: |values, _, explaining| values.number("samples") * explaining,
        },
        ..Needs::NOTHING
    },
    build: |case, values| {
        Ok(vec![Box::new(MaxSensitivity {
            reach: values.real("radius") * range(&case.input),
            samples: values.number("samples"),
            asked: 0,
            most: vec![0.0; case.rows.len()],
            case: case.clone(),
        }) as MetricRun])
    },
    reading: Reading::NUMBER,
};

struct MaxSensitivity {
    case: Case,
    /// The most that an element changes.
    reach: f64,
    samples: usize,
    asked: usize,
    /// Of each row, the largest change so far.
    most: Vec<f64>,
}

impl MaxSensitivity {
    /// Takes the maps of one changed input.
    fn take(&mut self, maps: &[Arc<Tensor>]) {
        let rows = self.most.iter_mut().zip(&*self.case.rows);
        for (most, row) in rows {
            let pair = self.case.maps.get(row.map).zip(maps.get(row.map));
            let change = pair.map_or(f64::NAN, |(own, other)| {
                change(&own.scores, other, row.score)
            });
            // Not f64::max, which passes over what is not a number.
            if change.is_nan() || change > *most {
                *most = change;
            }
        }
    }

    fn questions(&mut self) -> Vec<Question> {
        let case = &self.case;
        let numbers = uniforms(case.seed, CUBE + self.asked as u64);
        let input = Arc::new(moved(&case.input, self.reach, numbers));
        self.asked += 1;
        let question = |map: &AttributionMap| Question::Explain {
            model: case.model.clone(),
            input: input.clone(),
            request: Request {
                parameters: Parameters {
                    target: target(map, case),
                    ..map.request.parameters.clone()
                },
                ..map.request.clone()
            },
        };
        case.maps.iter().map(question).collect()
    }
}

impl Run for MaxSensitivity {
    type Output = Result<Vec<Measurement>, NotFinite>;

    fn step(&mut self, answers: Answers) -> Step<Self::Output> {
        let answers = answers.explained().into_iter();
        let found: Vec<_> = answers.map(|one| one.attribution.scores).collect();
        let maps = self.case.maps.len().max(1);
        found.chunks(maps).for_each(|maps| self.take(maps));
        // As many maps at once as of an image with that many methods.
        let inputs = (CHUNK / maps).max(1).min(self.samples - self.asked);
        if inputs > 0 {
            let questions = (0..inputs).flat_map(|_| self.questions());
            return Step::Ask(questions.collect());
        }
        let is_finite = |most: &f64| (*most as f32).is_finite();
        Step::Done(match self.most.iter().all(is_finite) {
            true => Ok(self.most.iter().map(|most| vec![*most]).collect()),
            false => Err(NotFinite(
                "a map of a changed input has values that are not finite",
            )),
        })
    }
}

/// ‖other - own‖ / ‖own‖ of the features, or of their magnitudes.
fn change(own: &Tensor, other: &Tensor, score: Score) -> f64 {
    let feature = |value: &f32| match score {
        Score::Signed => f64::from(*value),
        Score::Absolute => f64::from(value.abs()),
    };
    let pairs = own.iter().zip(other);
    let gap = pairs.map(|(own, other)| (feature(other) - feature(own)).powi(2));
    let gap = gap.sum::<f64>().sqrt();
    let size = own.iter().map(|value| feature(value).powi(2));
    match size.sum::<f64>().sqrt() {
        0.0 => gap,
        size => gap / size,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use onnx_autodiff::autodiff::spec::Head;
    use serde_json::json;

    use super::*;
    use crate::{
        evaluation::{
            CaseRow,
            parameters::Values,
            tests::{answered, case, driven, linear, tensor},
        },
        methods::target::Target,
    };

    fn values(samples: usize) -> Values {
        let fields = [("radius", json!(0.1)), ("samples", json!(samples))];
        Values(
            fields
                .map(|(name, value)| (name.to_owned(), value))
                .into_iter()
                .collect(),
        )
    }

    #[test]
    pub(in crate::evaluation) fn a_hand_worked_map_changes_as_worked_by_hand() {
        // The map has the norm 5. Others: itself; its opposite, of the same magnitudes; (0, 0); and
        // (3, 16), 12 away.
        let mut case = case(
            tensor(&[1, 1, 2], &[3.0, -4.0]),
            &[Score::Signed, Score::Absolute],
        );
        case.class = 7;
        let measured = |case: &Case, maps: &[[f32; 2]]| {
            let run = (METRIC.build)(case, &values(maps.len())).unwrap().remove(0);
            let mut maps = maps.iter();
            let found = answered(run, |request| {
                assert_eq!(request.parameters.target, Target::Class(7));
                tensor(&[1, 1, 2], maps.next().unwrap())
            });
            assert!(maps.next().is_none());
            found
        };
        let maps = [[3.0, -4.0], [-3.0, 4.0], [0.0, 0.0], [3.0, 16.0]];
        assert_eq!(measured(&case, &maps[..1]).unwrap(), [[0.0], [0.0]]);
        assert_eq!(measured(&case, &maps[..2]).unwrap(), [[2.0], [0.0]]);
        assert_eq!(measured(&case, &maps[..3]).unwrap(), [[2.0], [1.0]]);
        assert_eq!(measured(&case, &maps).unwrap(), [[4.0], [2.4]]);
        assert!(measured(&case, &[[f32::NAN, 1.0], [3.0, -4.0]]).is_err());
        // Of a map of zeros the change itself.
        let mut map = case.maps[0].clone();
        map.scores = Arc::new(tensor(&[1, 1, 2], &[0.0, 0.0]));
        case.maps = Arc::new([map]);
        assert_eq!(measured(&case, &maps[..2]).unwrap(), [[5.0], [5.0]]);
    }

    /// All questions of an input at once, and not too many inputs.
    #[test]
    fn methods_share_inputs_that_lie_in_the_cube() {
        let mut case = case(tensor(&[1, 1, 3], &[1.0; 3]), &[Score::Signed]);
        let map = case.maps[0].clone();
        case.maps = Arc::new([map.clone(), map.clone(), map]);
        case.rows = Arc::new([0, 1, 2].map(|map| CaseRow {
            map,
            score: Score::Signed,
        }));
        case.input = Arc::new(tensor(&[1, 1, 3], &[0.0, 2.0, 5.0]));
        let mut run = (METRIC.build)(&case, &values(200)).unwrap().remove(0);
        let Step::Ask(questions) = run.step(Answers::none()) else {
            panic!("the run has ended")
        };
        assert_eq!(questions.len(), 15);
        let input = |question: &Question| match question {
            Question::Explain { input, .. } => input.clone(),
            Question::Rows { .. } => panic!("the run asks for rows"),
        };
        for questions in questions.chunks(3) {
            let inputs: Vec<_> = questions.iter().map(input).collect();
            assert!(inputs.iter().all(|input| Arc::ptr_eq(input, &inputs[0])));
            let moves = &*inputs[0] - &*case.input;
            // A tenth of the range of 5.
            assert!(
                moves.iter().all(|by| by.abs() <= 0.5 + 1e-6)
                    && moves.iter().any(|by| by.abs() > 0.05)
            );
        }
        assert_ne!(input(&questions[0]), input(&questions[3]));
    }

    /// The gradient of a logit stays the same, and that of p = 1 / (1 + exp(-a)) is p (1 - p) (w₁ -
    /// w₀), where a is the difference of the logits.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_gradient_of_a_linear_model_changes_with_its_probability_alone() {
        let weights = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.3, -0.1, 0.2, -0.5, 0.5, 0.1];
        let difference: Vec<f32> = (0..6).map(|at| weights[6 + at] - weights[at]).collect();
        let difference = tensor(&[1, 2, 3], &difference);
        let input = Tensor::from_shape_fn(vec![1, 2, 3], |at| at[2] as f32);
        let slope = |x: &Tensor| {
            let p = 1.0 / (1.0 + f64::from(-(x * &difference).sum()).exp());
            p * (1.0 - p)
        };
        let mut case = case(tensor(&[1, 2, 3], &weights[6..]), &[Score::Signed]);
        let mut map = case.maps[0].clone();
        map.request.parameters.head = Head::Probabilities;
        map.scores = Arc::new(&difference * slope(&input) as f32);
        case.maps = Arc::new([case.maps[0].clone(), map]);
        case.rows = Arc::new([0, 1].map(|map| CaseRow {
            map,
            score: Score::Signed,
        }));
        (case.model, case.input, case.class) =
            (Arc::new(linear(&weights)), Arc::new(input.clone()), 1);
        let values = values(12);
        let (found, evaluated) = driven(&case, (METRIC.build)(&case, &values).unwrap()).await;
        assert_eq!(found[0], [0.0]);
        let inputs = (0..12).map(|sample| moved(&input, 0.1 * 2.0, uniforms(0, CUBE + sample)));
        let changes = inputs.map(|y| (slope(&y) / slope(&input) - 1.0).abs());
        let expected = changes.fold(0.0, f64::max);
        // Maps travel as f32.
        assert!(
            (found[1][0] - expected).abs() < 1e-5,
            "{found:?} {expected}"
        );
        assert_eq!(evaluated, (METRIC.needs.cost.count)(&values, 2, 2));
    }
}
