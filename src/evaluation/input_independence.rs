//! Input independence rate: the share of scenes x whose region c a map gives about as much as with a
//! functionless object in it, |g_c(x + δ) - g_c(x)| / g_c(x) < t. δ starts as the object and is
//! optimised, once for all methods, for the model to answer as at x (`similar_input`); g_c is the
//! mean attribution of the region (`attribution`). Yang & Kim, 2019, section 4.4; appendix C for the
//! mean change. Cost: a forward and a backward pass for each step, and the methods' own twice.

use std::{mem, sync::Arc};

use super::{
    AttributionMap, Case, CaseRow, Category, Cost, Direction, Measurement, Metric, MetricError,
    MetricRun, Needs, NotFinite, Reading, Words,
    attribution::{self, OfRegions, REGION, Regions, read},
    parameters::{Allowed, MetricParameter, Values},
    removal::target,
    similar_input::{Descent, SimilarInput, departure},
};
use crate::{
    engine::{GraphKey, Point, Row},
    methods::{Answers, Question, Request, Run, Step, parameters::Parameters, target::ranked},
    tensor::Tensor,
};
use onnx_autodiff::autodiff::spec::DeriveSpec;

/// The most steps.
const MOST: usize = 1000;
const NOT_FINITE: NotFinite = NotFinite(
    "the model answers the optimised object, or the scene without it, with values that are not finite",
);

pub const METRIC: Metric = Metric {
    id: "iir",
    title: "Input independence rate",
    paper: "Yang & Kim, Benchmarking Attribution Methods with Relative Feature Importance, 2019, section 4.4",
    category: Category::Robustness,
    direction: |values| match (values.word("value"), attribution::direction(values)) {
        (Some("output_change"), _) | (_, Direction::Neither) => Direction::Neither,
        (Some("region_change"), _) => Direction::Lower,
        _ => Direction::Higher,
    },
    parameters: &[
        REGION,
        MetricParameter {
            name: "steps",
            doc: "steps that the object is optimised by",
            allowed: |_, _| Allowed::Whole {
                least: 1,
                most: MOST,
                default: 300,
            },
        },
        MetricParameter {
            name: "step_size",
            doc: "what the gradient is multiplied by in a step, in pixels from 0 to 255",
            allowed: |_, _| Allowed::Real {
                least: 0.001,
                most: 100_000.0,
                default: 500.0,
            },
        },
        MetricParameter {
            name: "norm_weight",
            doc: "what the norm of the object's difference from the scene counts: it is to stay large",
            allowed: |_, _| Allowed::Real {
                least: 0.0,
                most: 100.0,
                default: 0.01,
            },
        },
        MetricParameter {
            name: "range_weight",
            doc: "what it counts that pixels are below 0 or above 255",
            allowed: |_, _| Allowed::Real {
                least: 0.0,
                most: 100.0,
                default: 0.01,
            },
        },
        MetricParameter {
            name: "threshold",
            doc: "the relative change of the region's mean attribution that an image has to stay below",
            allowed: |_, _| Allowed::Real {
                least: 0.001,
                most: 100.0,
                default: 0.1,
            },
        },
        MetricParameter {
            name: "value",
            doc: "`rate`: the share of images that stay below the threshold; `region_change`: the mean of that relative change; \
                  `output_change`: how far the logits are from those without the object, relative to their norm, whatever the method",
            allowed: |_, _| Allowed::OneOf {
                words: &["rate", "region_change", "output_change"],
                default: Some("rate"),
            },
        },
    ],
    words: Words {
        about: |values| {
            format!(
                "An object in the scene is optimised in {} steps for the model to answer as without it: {}.",
                values.number("steps"),
                match values.word("value") {
                    Some("output_change") =>
                        "how far the logits still are from those without it, relative to their norm"
                            .to_owned(),
                    Some("region_change") => format!(
                        "by how much it changes the mean attribution of {}, relative to that without it",
                        attribution::name(values)
                    ),
                    _ => format!(
                        "on how many images it changes the mean attribution of {} by less than {} of it",
                        attribution::name(values),
                        values.real("threshold")
                    ),
                },
            )
        },
        heading: "Input independence",
        column: "independence",
        legend: "share of images, or mean relative change",
        value: "With value rate the share of images whose region changes by less than the threshold, with region_change the mean relative \
                change of the region, with output_change that of the logits, the same for all methods. A map that ignores the input has a \
                rate of 1: read it beside the metrics that ask whether a map depends on the model.",
        axes: None,
    },
    needs: Needs {
        pair: true,
        region: true,
        cost: Cost {
            words: "2 × steps + 2, and 2 × the methods' own",
            count: |values, _, explaining| 2 * values.number("steps") + 2 + 2 * explaining,
        },
        shares: Some("iir"),
        unmeasured: &[REGION.name, "threshold", "value"],
        ..Needs::NOTHING
    },
    build,
    reading: Reading {
        value: |values, measurement| {
            let measured = Measured::of(measurement);
            match values.word("value") {
                Some("output_change") => measured.output_change,
                Some("region_change") => measured.region_change(values),
                _ => {
                    let is_below = measured.region_change(values) < values.real("threshold");
                    f64::from(u8::from(is_below))
                }
            }
        },
        skips: |values, rows| {
            let is_change = values.word("value") == Some("region_change");
            let rows: Vec<_> = rows.iter().map(|row| Measured::of(row)).collect();
            match rows.first()?.alike {
                0.0 => Some("that the model misclassifies without the object"),
                1.0 => Some("that the model takes for another class with the optimised object"),
                _ if is_change
                    && rows
                        .iter()
                        .any(|row| row.region_change(values).is_infinite()) =>
                {
                    Some("with a map that gives the region nothing without the object")
                }
                _ => None,
            }
        },
        ..Reading::NUMBER
    },
};

/// What a row measures.
#[derive(Clone, Copy, Debug)]
struct Measured {
    /// g_c(x) and g_c(x + δ).
    without: OfRegions,
    with: OfRegions,
    /// ‖f(x + δ) - f(x)‖ / ‖f(x)‖.
    output_change: f64,
    /// 0 where the model misclassifies x, 1 where it takes x + δ for another class than x, else 2.
    alike: f64,
}

impl Measured {
    fn of(measurement: &[f64]) -> Self {
        let number = |at: usize| measurement.get(at).copied().unwrap_or(f64::NAN);
        Self {
            without: [0, 1].map(number),
            with: [2, 3].map(number),
            output_change: number(4),
            alike: number(5),
        }
    }

    fn measurement(self) -> Measurement {
        let rest = [self.output_change, self.alike];
        [self.without, self.with, rest].concat()
    }

    /// |g_c(x + δ) - g_c(x)| / g_c(x); infinite where a map gives the region nothing.
    fn region_change(self, values: &Values) -> f64 {
        let [without, with] = [self.without, self.with].map(|regions| read(values, regions));
        match without {
            0.0 => f64::INFINITY,
            _ => (with - without).abs() / without,
        }
    }
}

/// One run for all rows.
fn build(case: &Case, values: &Values) -> Result<Vec<MetricRun>, MetricError> {
    let twin = case.twin.as_ref().ok_or(MetricError::Pair)?;
    let object = case.region.as_ref().ok_or(MetricError::Region)?;
    let rule = case.model.manifest.input.preprocess.as_ref();
    let similar = rule.and_then(|rule| SimilarInput::new(twin, &case.input, object, rule));
    Ok(vec![Box::new(Independence {
        case: case.clone(),
        x: twin.clone(),
        similar: similar.ok_or(MetricError::Picture)?,
        descent: Descent {
            step_size: values.real("step_size"),
            norm_weight: values.real("norm_weight"),
            range_weight: values.real("range_weight"),
        },
        steps: values.number("steps"),
        regions: Regions::of(case)?,
        logits: Vec::new(),
        state: State::Start,
    })])
}

struct Independence {
    case: Case,
    /// The scene without the object.
    x: Arc<Tensor>,
    similar: SimilarInput,
    descent: Descent,
    /// That are left.
    steps: usize,
    regions: Regions,
    /// f(x).
    logits: Vec<f32>,
    state: State,
}

/// What is awaited.
enum State {
    Start,
    /// f(x).
    Scene,
    /// f(x + δ), of this input.
    Object(Arc<Tensor>),
    /// The gradient of ‖f(x + δ) - f(x)‖.
    Gradient,
    /// The maps at x, and those at x + δ.
    Maps {
        output_change: f64,
    },
}

type Next = Step<Result<Vec<Measurement>, NotFinite>>;

impl Independence {
    /// Asks for f(x + δ).
    fn look(&mut self) -> Next {
        let input = Arc::new(self.similar.input());
        self.state = State::Object(input.clone());
        Step::Ask(vec![Question::forward(&self.case.model, [input])])
    }

    /// `logits` are f(x + δ): a step, or the end of them.
    fn descend(&mut self, input: Arc<Tensor>, logits: &[f32]) -> Next {
        let (change, direction) = departure(&self.logits, logits);
        let Some(left) = self.steps.checked_sub(1) else {
            let output_change = match departure(&vec![0.0; self.logits.len()], &self.logits) {
                (0.0, _) => change,
                (size, _) => change / size,
            };
            if predicted(logits) != Some(self.case.class) {
                return Step::Done(Ok(self.unlike(output_change, 1.0)));
            }
            self.state = State::Maps { output_change };
            return Step::Ask(self.questions(&input));
        };
        self.steps = left;
        if direction.is_empty() {
            self.similar.descend(None, &self.descent);
            return self.look();
        }
        self.state = State::Gradient;
        let graph = GraphKey::new(self.case.model.clone(), DeriveSpec::gradient());
        let seed = direction.into();
        Step::Ask(vec![Question::rows(graph, vec![Point { input, seed }])])
    }

    /// What all rows have of an image that says nothing.
    fn unlike(&self, output_change: f64, alike: f64) -> Vec<Measurement> {
        let measured = Measured {
            without: [0.0; 2],
            with: [0.0; 2],
            output_change,
            alike,
        };
        vec![measured.measurement(); self.case.rows.len()]
    }

    /// Every map at both inputs, those of x first.
    fn questions(&self, other: &Arc<Tensor>) -> Vec<Question> {
        let question = |input: &Arc<Tensor>, map: &AttributionMap| Question::Explain {
            model: self.case.model.clone(),
            input: input.clone(),
            request: Request {
                parameters: Parameters {
                    target: target(map, &self.case),
                    ..map.request.parameters.clone()
                },
                ..map.request.clone()
            },
        };
        let of_input = |input| self.case.maps.iter().map(move |map| question(input, map));
        [&self.x, other].into_iter().flat_map(of_input).collect()
    }

    fn measure(
        &self,
        maps: &[Arc<Tensor>],
        output_change: f64,
    ) -> Result<Vec<Measurement>, NotFinite> {
        let (of_x, of_other) = maps.split_at(maps.len() / 2);
        let row = |row: &CaseRow| {
            let regions = |maps: &[Arc<Tensor>]| {
                let map = maps.get(row.map).ok_or(NOT_FINITE)?;
                self.regions
                    .attributions(map, row.score, self.case.layout())
            };
            let measured = Measured {
                without: regions(of_x)?,
                with: regions(of_other)?,
                output_change,
                alike: 2.0,
            };
            Ok(measured.measurement())
        };
        self.case.rows.iter().map(row).collect()
    }
}

impl Run for Independence {
    type Output = Result<Vec<Measurement>, NotFinite>;

    fn step(&mut self, answers: Answers) -> Next {
        let state = mem::replace(&mut self.state, State::Start);
        if let State::Start = state {
            self.state = State::Scene;
            return Step::Ask(vec![Question::forward(&self.case.model, [self.x.clone()])]);
        }
        if let State::Maps { output_change } = state {
            let explained = answers.explained().into_iter();
            let maps: Vec<_> = explained.map(|one| one.attribution.scores).collect();
            return Step::Done(self.measure(&maps, output_change));
        }
        let row = answers.rows().into_iter().next().filter(Row::is_finite);
        let Some(row) = row else {
            return Step::Done(Err(NOT_FINITE));
        };
        match state {
            State::Scene => {
                let right = self.case.right.as_ref();
                let class = predicted(&row.logits);
                let class = class.filter(|class| right.is_none_or(|right| right.contains(class)));
                let Some(class) = class else {
                    return Step::Done(Ok(self.unlike(0.0, 0.0)));
                };
                self.case.class = class;
                self.logits = row.logits;
                self.look()
            }
            State::Object(input) => self.descend(input, &row.logits),
            _ => {
                self.similar.descend(row.cotangents.first(), &self.descent);
                self.look()
            }
        }
    }
}

fn predicted(logits: &[f32]) -> Option<usize> {
    ranked(logits).first().copied()
}

#[cfg(test)]
pub(super) mod tests {
    use ndarray::array;
    use onnx_autodiff::autodiff::spec::{Head, PatternLayers};
    use serde_json::json;

    use super::*;
    use crate::{
        evaluation::{
            parameters::settle,
            patches::Score,
            tests::{case, driven, linear, tensor},
        },
        methods::registry,
        model::Model,
        picture::preprocess::{Channels, Preprocess},
    };

    /// Grey pixels as they are: the first speaks for class 0, and so does the last; the second for
    /// class 1.
    fn model() -> Model {
        let mut model = linear(&[0.1, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.1, 0.0, 0.0, 0.0, 0.0]);
        model.manifest.input.preprocess = Some(Preprocess {
            channels: Channels::Gray,
            ..Preprocess::plain(3, 2)
        });
        model
    }

    /// The object is in the first two pixels of a scene of 100 everywhere.
    fn pair(object: [f32; 2]) -> Case {
        let scene = tensor(&[1, 2, 3], &[100.0; 6]);
        let mut case = case(scene.clone(), &[Score::Signed]);
        let method = registry::find("input_x_gradient").unwrap();
        let mut map = case.maps[0].clone();
        map.request = Request::of(Parameters::defaults(
            method,
            Head::Logits,
            PatternLayers::All,
        ));
        case.maps = Arc::new([case.maps[0].clone(), map]);
        case.rows = Arc::new([0, 1].map(|map| CaseRow {
            map,
            score: Score::Signed,
        }));
        let mut input = scene.clone();
        input[[0, 0, 0]] = object[0];
        input[[0, 0, 1]] = object[1];
        case.model = Arc::new(model());
        case.input = Arc::new(input);
        case.twin = Some(Arc::new(scene));
        case.region = Some(Arc::new(array![[true, true, false], [false, false, false]]));
        case
    }

    fn values(given: serde_json::Value) -> Values {
        let serde_json::Value::Object(given) = given else {
            panic!("no object")
        };
        settle(&METRIC, given, &model()).unwrap()
    }

    fn read_by(given: serde_json::Value, rows: &[Measurement]) -> Vec<f64> {
        let values = values(given);
        assert_eq!((METRIC.reading.skips)(&values, rows), None);
        METRIC.reading.of_image(&values, rows)
    }

    fn near(found: &[f64], expected: &[f64]) {
        let gaps = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
        // Maps and logits travel as f32.
        assert!(
            found.len() == expected.len() && gaps.fold(0.0, f64::max) < 1e-5,
            "{found:?} {expected:?}"
        );
    }

    /// The object is (30, 40) above the scene, which is 50 long, and moves the logits by (3, 4), 5 long.
    /// Along (.6, .8) the slope is .1 by the logits and -.01 by the norm: a step of 500 goes 45 back
    /// to (3, 4), where the logits are moved by .5.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    pub(in crate::evaluation) async fn a_step_on_a_linear_model_is_that_worked_by_hand() {
        let case = pair([130.0, 140.0]);
        let asked = json!({"steps": 1});
        let runs = (METRIC.build)(&case, &values(asked)).unwrap();
        let (found, evaluated) = driven(&case, runs).await;
        let size = f64::hypot(10.0 + 100.0, 10.0);
        near(
            &read_by(json!({"value": "output_change"}), &found),
            &[0.5 / size; 2],
        );
        // The gradient is the same, and input × gradient (10, 0, 0, 0, 0, 100) and 10.3 in place of
        // 10. The 99th percentile lies at place 4.95 of them.
        let share = |first: f64| first / (first + 0.95 * (100.0 - first));
        let change = share(10.3) / share(10.0) - 1.0;
        near(
            &read_by(json!({"value": "region_change"}), &found),
            &[0.0, change],
        );
        assert_eq!(read_by(json!({}), &found), [1.0, 1.0]);
        assert_eq!(read_by(json!({"threshold": 0.01}), &found), [1.0, 0.0]);
        assert!(evaluated <= (METRIC.needs.cost.count)(&values(json!({"steps": 1})), 2, 4));
    }

    /// The same steps in plain numbers: a step of 45 that overshoots, and one back.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn steps_go_on_from_where_the_last_one_led() {
        let case = pair([130.0, 140.0]);
        let mut long = 50.0_f64;
        for steps in 1..=4 {
            // Beyond the scene the logits pull the other way, and so does the norm.
            long -= 500.0 * 0.09 * long.signum();
            let runs = (METRIC.build)(&case, &values(json!({"steps": steps}))).unwrap();
            let (found, _) = driven(&case, runs).await;
            let expected = [0.1 * long.abs() / f64::hypot(110.0, 10.0); 2];
            near(
                &read_by(json!({"value": "output_change"}), &found),
                &expected,
            );
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_object_that_is_the_scene_changes_nothing() {
        let case = pair([100.0, 100.0]);
        let runs = (METRIC.build)(&case, &values(json!({"steps": 3}))).unwrap();
        let (found, _) = driven(&case, runs).await;
        near(
            &read_by(json!({"value": "output_change"}), &found),
            &[0.0; 2],
        );
        near(
            &read_by(json!({"value": "region_change"}), &found),
            &[0.0; 2],
        );
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn images_that_are_misclassified_or_whose_class_changes_are_skipped() {
        // The scene is taken for class 0, whatever the object makes of it. A large step makes the
        // second pixel 10 000 times as bright.
        let mut case = pair([130.0, 140.0]);
        case.class = 1;
        let asked = values(json!({"steps": 1, "step_size": 100_000.0, "norm_weight": 1.0}));
        let runs = (METRIC.build)(&case, &asked).unwrap();
        let (found, _) = driven(&case, runs).await;
        let reason = |rows: &[Measurement]| (METRIC.reading.skips)(&asked, rows).unwrap();
        assert!(reason(&found).contains("with the optimised object"));
        case.right = Some(vec![1]);
        let runs = (METRIC.build)(&case, &asked).unwrap();
        let (found, evaluated) = driven(&case, runs).await;
        assert!(reason(&found).contains("misclassifies without the object"));
        assert_eq!((found.len(), evaluated), (2, 1));
    }

    /// Of a region that is given nothing any change is too much, and none has a mean.
    #[test]
    fn a_region_that_is_given_nothing_counts_as_a_failure() {
        let row = |without: f64, with: f64| vec![without, 0.5, with, 0.6, 0.0, 2.0];
        let rows = [row(0.5, 0.54), row(0.5, 0.56), row(0.0, 0.0), row(0.0, 0.1)];
        assert_eq!(read_by(json!({}), &rows), [1.0, 0.0, 0.0, 0.0]);
        assert_eq!(
            read_by(json!({"region": "random", "threshold": 0.3}), &rows),
            [1.0; 4]
        );
        let mean = values(json!({"value": "region_change"}));
        assert!(
            (METRIC.reading.skips)(&mean, &rows)
                .unwrap()
                .contains("nothing")
        );
        assert_eq!((METRIC.reading.skips)(&mean, &rows[..2]), None);
    }
}
