//! Gradient Artificial Distancing: what of a base method's map persists in models that keep two
//! classes further apart (supports). m_k: the positive part of the channel sum of the base's map, by
//! the model (k = 0) and by each support. `and`: m_0 where every m_k > τ max m_k, else 0; `min`: the
//! least m_k / max m_k. Mazini Rodrigues et al., 2024, section 4.3. Cost: (supports + 1) × the base's.

use std::sync::Arc;

use ndarray::Axis;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Answers, Attribution, CHUNK, ComparedMaps, MethodRun, Question, Run, RunInputs, Step,
    doubts::is_zero,
    parameters::{Cost, Group, Kind, Parameter, Parameters, common::choose},
};
use crate::{
    faults::Fault, model::supports::SupportSet, picture::input::channel_axis, tensor::Tensor,
    text::shown,
};

/// The methods that it works on: those that take a derivative, without patterns, which are fitted to
/// the weights of one model.
pub const BASES: &[&str] = &[
    "gradient",
    "input_x_gradient",
    "integrated_gradients",
    "guided_backprop",
    "deconvnet",
    "lrp",
    "xrai",
    "smooth_grad",
    "smooth_grad_sq",
    "var_grad",
    "smooth_grad_ig",
    "expected_gradients",
    "grad_cam",
    "guided_grad_cam",
    "layer_cam",
    "hires_cam",
    "gradient_rollout",
    "legrad",
];
pub const DEFAULT_BASE: &str = "integrated_gradients";

#[derive(Clone, Debug)]
struct GadParameters {
    supports: Option<Arc<SupportSet>>,
    tau: f64,
    mode: Mode,
}

impl Default for GadParameters {
    fn default() -> Self {
        Self {
            supports: None,
            tau: 0.1,
            mode: Mode::And,
        }
    }
}

/// How the maps are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    And,
    Min,
}

/// The set whose models a run is given.
pub fn supports(parameters: &Parameters) -> Option<Arc<SupportSet>> {
    parameters.group::<GadParameters>().supports
}

pub static SUPPORTS: Group = Group {
    parameters: &[
        Parameter {
            name: "base",
            kind: Kind::Choice {
                allowed: BASES,
                // Read before all others: it says which they are.
                set: |_, _| Ok(()),
            },
            doc: "The method whose maps are compared; its own parameters are given beside it.",
            from_model: false,
            get: |p| p.base.map(|base| json!(base.id)),
        },
        Parameter {
            name: "supports",
            kind: Kind::Text {
                forms: &["the name of a set of supports of the model (GET /models/{id}/supports)"],
                set: |p, value, facts| {
                    let found = value.as_str().and_then(|name| find(facts.supports, name));
                    let found = found.ok_or_else(|| unknown(value, facts.supports, facts.model))?;
                    p.change(|own: &mut GadParameters| own.supports = Some(found));
                    Ok(())
                },
            },
            doc: "The set of support models; by default the model's only one. Answers state it as name@version: given so, another set of \
                  that name is refused.",
            from_model: true,
            get: |p| supports(p).map(|set| json!(set.reference())),
        },
        Parameter {
            name: "tau",
            kind: Kind::Number {
                above: 0.0,
                max: 1.0,
                set: |p, tau| p.change(|own: &mut GadParameters| own.tau = tau),
            },
            doc: "mode and: the share of a map's maximum that a pixel has to exceed to be in it.",
            from_model: false,
            get: |p| {
                let own: GadParameters = p.group();
                (own.mode == Mode::And).then(|| json!(own.tau))
            },
        },
        Parameter {
            name: "mode",
            kind: Kind::Choice {
                allowed: &["and", "min"],
                set: |p, value| {
                    choose(value).map(|mode| p.change(|own: &mut GadParameters| own.mode = mode))
                },
            },
            doc: "and: the model's map where the pixel is in all maps, 0 elsewhere; min: the least of the maps, each divided by its maximum.",
            from_model: false,
            get: |p| Some(json!(p.group::<GadParameters>().mode)),
        },
    ],
    from_model: |p, facts| {
        if let [only] = facts.supports {
            p.change(|own: &mut GadParameters| own.supports = Some(only.clone()));
        }
    },
    check: |p, given, facts, faults| {
        let own: GadParameters = p.group();
        // A wrong name is told already.
        if own.supports.is_none() && !given.contains_key("supports") {
            let message = match facts.supports.len() {
                0 => no_supports(facts.model),
                _ => "is missing: the model has several sets".to_owned(),
            };
            let names = facts.supports.iter().map(|set| set.name.clone());
            faults.push(Fault::new("supports", message, names));
        }
        if own.mode == Mode::Min && given.contains_key("tau") {
            let message = "is a threshold of mode and: leave one out";
            faults.push(Fault::says("tau", message));
        }
        if p.needs_patterns() {
            let message = "needs patterns, which are fitted to the weights of one model";
            faults.push(Fault::new(
                "rule_set",
                message,
                ["gradient", "guided_backprop", "deconvnet"],
            ));
        }
    },
};

/// What to do for a model without a set.
pub fn no_supports(model: &str) -> String {
    format!(
        "the model has no set of supports: a job of kind gad_train trains one, and PUT /models/{model}/supports/NAME uploads one"
    )
}

/// By `name`, or by `name@version`.
fn find(sets: &[Arc<SupportSet>], asked: &str) -> Option<Arc<SupportSet>> {
    let found = sets
        .iter()
        .find(|set| set.name == asked || set.reference() == asked);
    found.cloned()
}

fn unknown(asked: &Value, sets: &[Arc<SupportSet>], model: &str) -> String {
    let names: Vec<String> = sets.iter().map(|set| set.reference()).collect();
    let is_version = asked.as_str().is_some_and(|asked| asked.contains('@'));
    match (names.is_empty(), is_version) {
        (true, true) => format!(
            "{} was replaced or deleted: {}",
            shown(asked),
            no_supports(model)
        ),
        (true, false) => no_supports(model),
        (false, true) => format!(
            "{} was replaced or deleted: the model has {}",
            shown(asked),
            names.join(", ")
        ),
        (false, false) => format!("is no set of the model, which has {}", names.join(", ")),
    }
}

pub const COST: Cost = Cost {
    words: "(supports + 1) × the base's",
    count: |p| {
        let base = p.of_base();
        let supports = supports(p).map_or(0, |set| set.members.len());
        (supports + 1) * (base.method.cost.count)(&base)
    },
    asks_input: |p| {
        let base = p.of_base();
        (base.method.cost.asks_input)(&base)
    },
    change: |_| None,
};

struct Persistent {
    inputs: RunInputs,
    /// Of the model, and of each support.
    maps: Vec<Map>,
}

/// The base at work on one model.
struct Map {
    /// Of a support.
    alpha: Option<f64>,
    run: MethodRun,
    /// Questions that it waits for.
    waiting: usize,
    found: Option<Attribution>,
}

pub fn persistent(inputs: RunInputs) -> MethodRun {
    let parameters = Arc::new(inputs.parameters.of_base());
    let build = parameters.method.build;
    let own = RunInputs {
        supports: Arc::default(),
        parameters,
        ..inputs.clone()
    };
    let by_support = inputs.supports.iter().map(|support| {
        let inputs = RunInputs {
            model: support.model.clone(),
            input_value: None,
            ..own.clone()
        };
        Map::new(Some(support.alpha), build(inputs))
    });
    let maps = std::iter::once(Map::new(None, build(own.clone())))
        .chain(by_support)
        .collect();
    Box::new(Persistent { maps, inputs })
}

impl Map {
    fn new(alpha: Option<f64>, run: MethodRun) -> Self {
        Self {
            alpha,
            run,
            waiting: 0,
            found: None,
        }
    }

    /// What it was made by, for people.
    fn maker(&self) -> String {
        self.alpha.map_or_else(
            || "the model".to_owned(),
            |alpha| format!("support {alpha}"),
        )
    }
}

impl Run for Persistent {
    type Output = Attribution;

    /// Steps the runs that have begun, and begins others while fewer than [`CHUNK`] points are
    /// asked for.
    fn step(&mut self, answers: Answers) -> Step<Attribution> {
        let mut answers = answers.0.into_iter();
        let (mut questions, mut points) = (Vec::new(), 0);
        for map in &mut self.maps {
            let own = answers.by_ref().take(map.waiting).collect();
            let has_begun = map.waiting > 0;
            if map.found.is_some() || (!has_begun && points >= CHUNK) {
                continue;
            }
            map.waiting = 0;
            match map.run.step(Answers(own)) {
                Step::Ask(asked) => {
                    map.waiting = asked.len();
                    points += asked.iter().map(points_of).sum::<usize>();
                    questions.extend(asked);
                }
                Step::Done(found) => map.found = Some(found),
            }
        }
        match questions.is_empty() {
            true => Step::Done(self.combine()),
            false => Step::Ask(questions),
        }
    }
}

fn points_of(question: &Question) -> usize {
    match question {
        Question::Rows { points, .. } => points.len(),
        Question::Explain { .. } => 1,
    }
}

impl Persistent {
    fn combine(&mut self) -> Attribution {
        let GadParameters { tau, mode, .. } = self.inputs.parameters.group();
        let (mut planes, mut warnings, mut causes) = (Vec::new(), Vec::new(), Vec::new());
        let mut input_value = None;
        for map in &mut self.maps {
            let Some(found) = map.found.take() else {
                continue;
            };
            let maker = map.maker();
            let said = found.warnings.into_iter();
            warnings.extend(said.map(|warning| format!("{maker}: {warning}")));
            let plane = self.inputs.positive_plane(&found.scores);
            if is_zero(&plane) {
                causes.push(format!("the base's map by {maker} has no positive value"));
            }
            input_value = input_value.or(found.input_value);
            planes.push((map.alpha, Arc::new(plane)));
        }
        let maps: Vec<&Tensor> = planes.iter().map(|(_, plane)| plane.as_ref()).collect();
        let scores = match mode {
            Mode::And => agreed(&maps, tau),
            Mode::Min => least(&maps, scaled),
        };
        let nowhere = || "no pixel is in the maps of all models".to_owned();
        let cause = is_zero(&scores).then(|| causes.into_iter().next().unwrap_or_else(nowhere));
        let mut planes = planes.into_iter();
        let compared = planes.next().map(|(_, own)| ComparedMaps {
            own,
            supports: planes
                .filter_map(|(alpha, plane)| Some((alpha?, plane)))
                .collect(),
        });
        Attribution {
            input_value,
            compared: compared.map(Arc::new),
            cause,
            warnings,
            ..Attribution::of(scores)
        }
    }
}

impl RunInputs {
    /// The positive part of the sum over channels, with one channel; of inputs without channels
    /// that of the scores.
    fn positive_plane(&self, scores: &Tensor) -> Tensor {
        let positive = |value: f32| if value < 0.0 { 0.0 } else { value };
        if scores.ndim() != 3 {
            return scores.mapv(positive);
        }
        let axis = Axis(channel_axis(self.layout));
        scores.sum_axis(axis).mapv_into(positive).insert_axis(axis)
    }
}

/// NaN where a value is: the maximum of the others would hide it.
fn maximum(map: &Tensor) -> f32 {
    map.iter().fold(0.0, |most: f32, value| {
        if value.is_nan() || *value > most {
            *value
        } else {
            most
        }
    })
}

/// The first map where each exceeds `tau` of its maximum, else 0; NaN where one is.
fn agreed(maps: &[&Tensor], tau: f64) -> Tensor {
    let inside = least(maps, |map| {
        let threshold = (tau * f64::from(maximum(map))) as f32;
        map.mapv(|value| match value {
            value if value.is_nan() || threshold.is_nan() => f32::NAN,
            value if value > threshold => 1.0,
            _ => 0.0,
        })
    });
    match maps.first() {
        Some(own) => inside * *own,
        None => inside,
    }
}

/// A map divided by its maximum; zeros as they are.
fn scaled(map: &Tensor) -> Tensor {
    match maximum(map) {
        0.0 => map.clone(),
        most => map / most,
    }
}

/// What is least at each pixel, `of` each map; NaN where one is.
fn least(maps: &[&Tensor], of: impl Fn(&Tensor) -> Tensor) -> Tensor {
    let both = |mut least: Tensor, next: Tensor| {
        least.zip_mut_with(&next, |least, next| {
            if next.is_nan() || *next < *least {
                *least = *next;
            }
        });
        least
    };
    maps.iter()
        .map(|map| of(map))
        .reduce(both)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::methods::{
        parameters::Method,
        reference::{drive_models, inputs, row},
        registry::METHODS,
    };

    /// Of two channels and three pixels, by base `gradient`: the derivatives of the model and of two
    /// supports.
    fn map(given: &Value, derivatives: [[f64; 6]; 3]) -> (Attribution, usize) {
        let mut all = json!({ "method": "gad", "base": "gradient" });
        all.as_object_mut()
            .unwrap()
            .extend(given.as_object().unwrap().clone());
        let inputs = RunInputs {
            input: Arc::new(Tensor::zeros(vec![2, 1, 3])),
            ..inputs(&all, &[], &[])
        };
        drive_models(persistent(inputs), |graph, _| {
            let at = ["tiny", "2", "4"]
                .iter()
                .position(|hash| graph.model.hash == *hash);
            let mut row = row(&[0.5, 0.0], &derivatives[at.unwrap()]);
            let shaped = row
                .cotangents
                .remove(0)
                .into_shape_with_order(vec![2, 1, 3]);
            row.cotangents.push(shaped.unwrap());
            row
        })
    }

    fn scores(attribution: &Attribution) -> Vec<f32> {
        assert_eq!(attribution.scores.shape(), [1, 1, 3]);
        attribution.scores.iter().copied().collect()
    }

    /// Channel sums: (10, 2, 4); (5, 4, 0.5); (8, 8, -8), of which the last pixel is out.
    const MAPS: [[f64; 6]; 3] = [
        [12.0, 1.0, 4.0, -2.0, 1.0, 0.0],
        [5.0, 3.0, 0.0, 0.0, 1.0, 0.5],
        [4.0, 4.0, 0.0, 4.0, 4.0, -8.0],
    ];

    #[test]
    fn hand_worked_maps_agree_as_worked_by_hand() {
        let (found, evaluations) = map(&json!({}), MAPS);
        assert_eq!((scores(&found), evaluations), (vec![10.0, 2.0, 0.0], 3));
        assert_eq!(found.input_value, Some(0.5));
        // 2 is not above 0.2 of 10, nor 0.5 above 0.1 of 5.
        let (found, _) = map(&json!({ "tau": 0.2 }), MAPS);
        assert_eq!(scores(&found), [10.0, 0.0, 0.0]);
        let mut kept = MAPS;
        kept[2][5] = 8.0;
        let (found, _) = map(&json!({}), kept);
        assert_eq!(scores(&found), [10.0, 2.0, 0.0]);
        let (found, _) = map(&json!({ "tau": 0.05 }), kept);
        assert_eq!(scores(&found), [10.0, 2.0, 4.0]);
    }

    #[test]
    fn the_least_of_scaled_maps_is_that_worked_by_hand() {
        let mut maps = MAPS;
        maps[2][5] = 2.0;
        // (1, 0.2, 0.4), (1, 0.8, 0.1), (1, 1, 0.25).
        let (found, _) = map(&json!({ "mode": "min" }), maps);
        assert_eq!(scores(&found), [1.0, 0.2, 0.1]);
        let (found, _) = map(&json!({ "mode": "min" }), MAPS);
        assert_eq!(scores(&found), [1.0, 0.2, 0.0]);
    }

    #[test]
    fn all_maps_are_given_with_their_alphas() {
        let (found, _) = map(&json!({}), MAPS);
        let compared = found.compared.unwrap();
        let values = |map: &Tensor| map.iter().copied().collect::<Vec<_>>();
        assert_eq!(values(&compared.own), [10.0, 2.0, 4.0]);
        let supports: Vec<_> = compared
            .supports
            .iter()
            .map(|(alpha, map)| (*alpha, values(map)))
            .collect();
        assert_eq!(
            supports,
            [(2.0, vec![5.0, 4.0, 0.5]), (4.0, vec![8.0, 8.0, 0.0])]
        );
    }

    #[test]
    fn what_leaves_no_pixel_is_told() {
        let mut maps = MAPS;
        maps[1] = [-1.0; 6];
        for mode in ["and", "min"] {
            let (found, _) = map(&json!({ "mode": mode }), maps);
            assert_eq!(scores(&found), [0.0; 3]);
            let cause = found.cause.unwrap();
            assert_eq!(cause, "the base's map by support 2 has no positive value");
        }
        maps[1] = [0.0, 0.0, 1.0, 0.0, 0.0, 0.0];
        let (found, _) = map(&json!({}), maps);
        assert_eq!(
            found.cause.unwrap(),
            "no pixel is in the maps of all models"
        );
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        for (model, mode) in [(0, "and"), (2, "and"), (0, "min"), (2, "min")] {
            let mut maps = MAPS;
            maps[model][1] = f64::NAN;
            let (found, _) = map(&json!({ "mode": mode }), maps);
            assert!(
                found.scores.iter().any(|score| score.is_nan()),
                "{model} {mode}"
            );
        }
    }

    #[test]
    fn the_bases_are_the_methods_that_differentiate_without_patterns() {
        let is_base = |method: &&Method| {
            method.rule_set.is_some() && !method.needs_patterns() && method.id != "gad"
        };
        let ids: Vec<_> = METHODS
            .iter()
            .filter(is_base)
            .map(|method| method.id)
            .collect();
        assert_eq!(ids, BASES);
        for id in BASES {
            let given = json!({ "method": "gad", "base": id });
            let parameters = inputs(&given, &[], &[]).parameters;
            let alone = inputs(&json!({ "method": id }), &[], &[]).parameters;
            assert_eq!(parameters.cost(false), {
                let asks_input = (alone.method.cost.asks_input)(&alone);
                3 * (alone.method.cost.count)(&alone) + usize::from(!asks_input)
            });
            let (all, own) = (parameters.to_json(), alone.to_json());
            assert!(
                own.iter()
                    .all(|(name, value)| name == "method" || all[name] == *value),
                "{id}"
            );
        }
    }

    #[test]
    fn the_bases_parameters_are_given_beside_it() {
        let given = json!({ "method": "gad", "base": "smooth_grad", "n_samples": 3, "noise_level": 0.5, "seed": 7 });
        let parameters = inputs(&given, &[], &[]).parameters;
        let printed = parameters.to_json();
        assert_eq!(printed["supports"], "pair@0123456789abcdef");
        assert_eq!(
            (&printed["tau"], &printed["mode"], &printed["n_samples"]),
            (&json!(0.1), &json!("and"), &json!(3))
        );
        assert_eq!(parameters.cost(false), 3 * 3 + 1);
        assert!(parameters.takes("seed"));
        let again = inputs(&Value::Object(printed.clone()), &[], &[]).parameters;
        assert_eq!(again.to_json(), printed);
    }

    /// A run asks for more than a chunk only where the last run of a step begins below it.
    #[test]
    fn a_long_base_runs_by_one_model_after_another() {
        let given = json!({ "method": "gad", "base": "smooth_grad", "n_samples": 100 });
        let inputs = RunInputs {
            input: Arc::new(Tensor::zeros(vec![2])),
            ..inputs(&given, &[0.0, 1.0], &[])
        };
        let mut run = persistent(inputs);
        let Step::Ask(questions) = run.step(Answers::none()) else {
            panic!("it asks")
        };
        assert_eq!(questions.iter().map(points_of).sum::<usize>(), CHUNK);
    }
}
