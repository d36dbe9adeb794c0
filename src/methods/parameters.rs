//! Every parameter of every method: one table that parses, describes and prints them.
//! A resolved set prints completely, and means the same when posted back. All faults are reported together.

use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use super::{
    Fault, Faults,
    quadrature::Quadrature,
    registry::{self, Method},
    target::{self, Classes, Target},
};
use crate::{
    autodiff::spec::{DeriveSpec, Head, PatternLayers, RuleSetId, SeedRule, Wrt},
    image::baseline::{self, Baseline},
};

/// A method with all its parameters resolved. Fields that the method does not take keep their defaults and are not printed.
#[derive(Clone, Debug)]
pub struct Parameters {
    pub method: &'static Method,
    pub target: Target,
    pub head: Head,
    pub seed: SeedRule,
    pub pattern_layers: PatternLayers,
    pub baseline: Baseline,
    /// Points per baseline.
    pub n_steps: NonZeroUsize,
    pub quadrature: Quadrature,
    /// Refine until the approximation error is below this, instead of `n_steps`.
    pub tolerance: Option<f64>,
    /// Most points per baseline under `tolerance`.
    pub max_steps: usize,
    pub multiply_by_inputs: bool,
    pub seed_value: u64,
}

/// What parameters need to know of the model: its defaults and its classes.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    pub model: &'a str,
    pub head: Head,
    pub pattern_layers: &'a PatternLayers,
    pub classes: Classes<'a>,
    pub has_patterns: bool,
}

/// One row of the table.
#[derive(Debug)]
pub struct Parameter {
    pub name: &'static str,
    pub kind: Kind,
    pub doc: &'static str,
    /// The default is the model's (its manifest), not the method's.
    pub from_model: bool,
    /// `None` where the value says nothing, such as `n_steps` under a `tolerance`.
    get: fn(&Parameters) -> Option<Value>,
}

/// The type of a parameter, the values allowed, and how one is stored.
#[derive(Debug)]
pub enum Kind {
    Integer { min: u64, max: u64, set: fn(&mut Parameters, u64) },
    Number { above: f64, below: f64, set: fn(&mut Parameters, f64) },
    Boolean { set: fn(&mut Parameters, bool) },
    Choice { allowed: &'static [&'static str], set: fn(&mut Parameters, Value) -> serde_json::Result<()> },
    Text { forms: &'static [&'static str], set: fn(&mut Parameters, &Value, &Facts<'_>) -> Result<(), String> },
}

pub const MAX_STEPS: u64 = 10_000;
/// The largest integer that every JSON reader keeps exact.
const MAX_EXACT: u64 = (1 << 53) - 1;

const TARGET: Parameter = Parameter {
    name: "target",
    kind: Kind::Text {
        forms: target::FORMS,
        set: |p, value, facts| Target::parse(value, facts.classes).map(|target| p.target = target),
    },
    doc: "the class to explain, resolved once on the clean input; a contrast a-b explains why a and not b",
    from_model: false,
    get: |p| Some(p.target.to_json()),
};

/// For methods that look at the class only to report it.
pub const REPORTED: &[Parameter] = &[TARGET];

pub const DIFFERENTIATED: &[Parameter] = &[
    TARGET,
    Parameter {
        name: "head",
        kind: Kind::Choice {
            allowed: &["logits", "probabilities"],
            set: |p, value| choose(value).map(|head| p.head = head),
        },
        doc: "which value of the network is explained",
        from_model: true,
        get: |p| Some(json!(p.head)),
    },
    Parameter {
        name: "seed",
        kind: Kind::Choice { allowed: &["one", "value"], set: |p, value| choose(value).map(|seed| p.seed = seed) },
        doc: "what the backward walk starts with: one, or the head's own value",
        from_model: false,
        get: |p| Some(json!(p.seed)),
    },
];

pub const PATTERNED: &[Parameter] = &[Parameter {
    name: "pattern_layers",
    kind: Kind::Text {
        forms: &["all", "inner", "except_first", "except_last", "a list of nodes"],
        set: |p, value, _| layers(value).map(|layers| p.pattern_layers = layers),
    },
    doc: "the Linear layers that use their pattern; the others keep their plain gradient",
    from_model: true,
    get: |p| match &p.pattern_layers {
        PatternLayers::Named(nodes) => Some(json!(nodes)),
        named => Some(json!(named)),
    },
}];

/// `quality` comes first: what it presets can be overridden one by one.
pub const PATH: &[Parameter] = &[
    Parameter {
        name: "baseline",
        kind: Kind::Text {
            forms: baseline::ALLOWED,
            set: |p, value, _| match value.as_str().map(str::parse::<Baseline>) {
                Some(Ok(baseline)) => {
                    p.baseline = baseline;
                    Ok(())
                }
                Some(Err(error)) => Err(error.to_string()),
                None => Err("is not a text".to_owned()),
            },
        },
        doc: "where the path starts; several, joined by +, are averaged",
        from_model: false,
        get: |p| Some(json!(p.baseline)),
    },
    Parameter {
        name: "quality",
        kind: Kind::Choice {
            allowed: &["fast", "paper", "fine"],
            set: |p, value| {
                choose(value).map(|quality| {
                    let (n_steps, quadrature) = match quality {
                        Quality::Fast => (8, Quadrature::RiemannMidpoint),
                        Quality::Paper => (25, Quadrature::RiemannRight),
                        Quality::Fine => (50, Quadrature::RiemannMidpoint),
                    };
                    p.n_steps = NonZeroUsize::MIN.saturating_add(n_steps - 1);
                    p.quadrature = quadrature;
                })
            },
        },
        doc: "presets n_steps and quadrature: fast 8 riemann_midpoint, paper 25 riemann_right, fine 50 riemann_midpoint",
        from_model: false,
        get: |_| None,
    },
    Parameter {
        name: "n_steps",
        kind: Kind::Integer {
            min: 1,
            max: MAX_STEPS,
            set: |p, n| p.n_steps = NonZeroUsize::MIN.saturating_add(n.saturating_sub(1) as usize),
        },
        doc: "points of the path, per baseline",
        from_model: false,
        get: |p| p.tolerance.is_none().then(|| json!(p.n_steps)),
    },
    Parameter {
        name: "quadrature",
        kind: Kind::Choice {
            allowed: &["riemann_left", "riemann_right", "riemann_midpoint", "riemann_trapezoid", "gauss_legendre"],
            set: |p, value| choose(value).map(|quadrature| p.quadrature = quadrature),
        },
        doc: "where the points lie and how they are weighted; riemann_right is Eq. 1 of the PGIG paper",
        from_model: false,
        get: |p| p.tolerance.is_none().then(|| json!(p.quadrature)),
    },
    Parameter {
        name: "multiply_by_inputs",
        kind: Kind::Boolean { set: |p, multiply| p.multiply_by_inputs = multiply },
        doc: "whether the averaged gradient is multiplied by (x - x')",
        from_model: false,
        get: |p| Some(json!(p.multiply_by_inputs)),
    },
];

/// For paths whose completeness gap measures their error.
pub const REFINED: &[Parameter] = &[
    Parameter {
        name: "tolerance",
        kind: Kind::Number { above: 0.0, below: 1.0, set: |p, tolerance| p.tolerance = Some(tolerance) },
        doc: "instead of n_steps: refines riemann_midpoint from 8 points, threefold each time, until approximation_error is below this",
        from_model: false,
        get: |p| p.tolerance.map(|tolerance| json!(tolerance)),
    },
    Parameter {
        name: "max_steps",
        kind: Kind::Integer { min: 8, max: MAX_STEPS, set: |p, n| p.max_steps = n as usize },
        doc: "most points per baseline under a tolerance",
        from_model: false,
        get: |p| p.tolerance.is_some().then(|| json!(p.max_steps)),
    },
];

pub const RANDOM: &[Parameter] = &[Parameter {
    name: "seed_value",
    kind: Kind::Integer { min: 0, max: MAX_EXACT, set: |p, seed| p.seed_value = seed },
    doc: "key of the ChaCha8 generator, where anything is drawn at random",
    from_model: false,
    get: |p| Some(json!(p.seed_value)),
}];

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Quality {
    Fast,
    Paper,
    Fine,
}

fn choose<T: DeserializeOwned>(value: Value) -> serde_json::Result<T> {
    serde_json::from_value(value)
}

fn layers(value: &Value) -> Result<PatternLayers, String> {
    let nodes = match value {
        Value::String(text) => match text.as_str() {
            "all" => return Ok(PatternLayers::All),
            "inner" => return Ok(PatternLayers::Inner),
            "except_first" => return Ok(PatternLayers::ExceptFirst),
            "except_last" => return Ok(PatternLayers::ExceptLast),
            list => list.split(',').map(|node| node.trim().to_owned()).collect(),
        },
        list => serde_json::from_value::<Vec<String>>(list.clone()).map_err(|_| "is not a list of nodes".to_owned())?,
    };
    if nodes.is_empty() || nodes.iter().any(String::is_empty) {
        return Err("names an empty node".to_owned());
    }
    Ok(PatternLayers::Named(nodes))
}

impl Parameter {
    pub fn type_name(&self) -> &'static str {
        match self.kind {
            Kind::Integer { .. } => "integer",
            Kind::Number { .. } => "number",
            Kind::Boolean { .. } => "boolean",
            Kind::Choice { .. } | Kind::Text { .. } => "string",
        }
    }

    /// For people: `1..=10000`, the choices, or the forms.
    pub fn allowed(&self) -> Vec<String> {
        match &self.kind {
            Kind::Integer { min, max, .. } => vec![format!("{min}..={max}")],
            Kind::Number { above, below, .. } => vec![format!("above {above}, below {below}")],
            Kind::Boolean { .. } => vec!["true".into(), "false".into()],
            Kind::Choice { allowed: texts, .. } | Kind::Text { forms: texts, .. } => {
                texts.iter().map(|text| (*text).to_owned()).collect()
            }
        }
    }

    /// The default where it does not depend on the model; `None` too for a parameter that is off by default.
    pub fn default_of(&self, method: &'static Method) -> Option<Value> {
        if self.from_model { None } else { (self.get)(&Parameters::defaults(method, Head::Logits, PatternLayers::All)) }
    }

    fn set(&self, parameters: &mut Parameters, value: &Value, facts: &Facts<'_>) -> Result<(), String> {
        match &self.kind {
            Kind::Integer { min, max, set } => {
                let number = value.as_u64().or_else(|| value.as_str()?.trim().parse().ok());
                let number = number.filter(|n| (min..=max).contains(&n));
                set(parameters, number.ok_or_else(|| format!("{value} is not an integer from {min} to {max}"))?);
            }
            Kind::Number { above, below, set } => {
                let number = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok());
                let number = number.filter(|n| above < n && n < below);
                set(
                    parameters,
                    number.ok_or_else(|| format!("{value} is not a number above {above} and below {below}"))?,
                );
            }
            Kind::Boolean { set } => {
                let flag = value.as_bool().or_else(|| value.as_str()?.trim().parse().ok());
                set(parameters, flag.ok_or_else(|| format!("{value} is neither true nor false"))?);
            }
            Kind::Choice { set, .. } => {
                set(parameters, value.clone()).map_err(|_| format!("{value} is not one of the choices"))?;
            }
            Kind::Text { set, .. } => set(parameters, value, facts)?,
        }
        Ok(())
    }
}

impl Parameters {
    pub fn defaults(method: &'static Method, head: Head, pattern_layers: PatternLayers) -> Self {
        Self {
            method,
            target: Target::Predicted,
            head,
            seed: method.seed,
            pattern_layers,
            baseline: Baseline::default(),
            n_steps: NonZeroUsize::MIN.saturating_add(24),
            quadrature: Quadrature::RiemannRight,
            tolerance: None,
            max_steps: 216,
            multiply_by_inputs: true,
            seed_value: 0,
        }
    }

    /// Resolves what was given (texts or JSON values, by name, `method` among them) against the defaults of method and model.
    /// Without `method` it is `pgig` where the model has patterns, else `integrated_gradients`.
    pub fn parse(given: &Map<String, Value>, facts: &Facts<'_>) -> Result<Self, Faults> {
        let mut faults = Vec::new();
        let method = match given.get("method") {
            None if facts.has_patterns => registry::find("pgig"),
            None => registry::find("integrated_gradients"),
            Some(id) => id.as_str().and_then(registry::find),
        };
        let Some(method) = method else {
            let value = given.get("method").unwrap_or(&Value::Null);
            let allowed = registry::METHODS.iter().map(|method| method.id.to_owned()).collect();
            faults.push(Fault { param: "method".into(), message: format!("no method is called {value}"), allowed });
            return Err(Faults(faults));
        };
        let mut parameters = Self::defaults(method, facts.head, facts.pattern_layers.clone());
        for parameter in method.parameters() {
            if let Some(value) = given.get(parameter.name)
                && let Err(message) = parameter.set(&mut parameters, value, facts)
            {
                faults.push(Fault { param: parameter.name.into(), message, allowed: parameter.allowed() });
            }
        }
        for name in given.keys().filter(|name| *name != "method" && !method.takes(name)) {
            let message = format!("is not a parameter of {}", method.id);
            let allowed = method.parameters().map(|parameter| parameter.name.to_owned()).collect();
            faults.push(Fault { param: name.clone(), message, allowed });
        }
        parameters.contradictions(given, facts, &mut faults);
        if faults.is_empty() { Ok(parameters) } else { Err(Faults(faults)) }
    }

    fn contradictions(&self, given: &Map<String, Value>, facts: &Facts<'_>, faults: &mut Vec<Fault>) {
        let mut refuse = |param: &str, message: &str, allowed: &[&str]| {
            let allowed = allowed.iter().map(|text| (*text).to_owned()).collect();
            faults.push(Fault { param: param.to_owned(), message: message.to_owned(), allowed });
        };
        if self.tolerance.is_some() {
            for name in ["n_steps", "quadrature", "quality"].into_iter().filter(|name| given.contains_key(*name)) {
                refuse(name, "is chosen by the tolerance: give one or the other", &[]);
            }
            if !self.is_complete() {
                refuse("tolerance", "needs a map that sums to f(x) - f(x'): seed one and multiply_by_inputs true", &[]);
            }
        } else if given.contains_key("max_steps") && !given.contains_key("tolerance") {
            refuse("max_steps", "limits a tolerance, and none is given", &[]);
        }
        faults.extend(self.single_output_fault(facts.classes.count));
    }

    pub(super) fn single_output_fault(&self, classes: Option<usize>) -> Option<Fault> {
        let saturated = self.head == Head::Probabilities && classes == Some(1) && !self.method.rule_sets.is_empty();
        saturated.then(|| Fault {
            param: "head".to_owned(),
            message: "the probability of the only output is always 1: its gradient is zero".to_owned(),
            allowed: vec!["logits".to_owned()],
        })
    }

    /// Whether the scores of a path method sum to f(x) - f(x').
    pub fn is_complete(&self) -> bool {
        self.method.rule_sets == [RuleSetId::Gradient] && self.seed == SeedRule::One && self.multiply_by_inputs
    }

    /// The derived graph with the method's rule sets with respect to the input. What a rule set does not look at has one
    /// spelling, so that methods share graphs.
    pub fn derive_spec(&self) -> DeriveSpec {
        let pattern_layers =
            if self.method.needs_patterns() { self.pattern_layers.clone() } else { PatternLayers::All };
        DeriveSpec {
            rule_sets: self.method.rule_sets.to_vec(),
            wrt: Wrt::Input,
            head: self.head,
            seed: self.seed,
            pattern_layers,
        }
    }

    /// How many baselines a run needs: none without the parameter `baseline`.
    pub fn baselines(&self) -> usize {
        if self.method.takes("baseline") { self.baseline.count() } else { 0 }
    }

    /// Evaluations that explaining one input in all these ways takes, nothing shared but the clean input: at most under a
    /// `tolerance`, else exactly. `first`: the clean input is evaluated before the runs.
    pub fn cost_of<'a>(all: impl Iterator<Item = &'a Self> + Clone, first: bool) -> usize {
        let asked = |p: &Self| (p.method.cost.asks_input)(p);
        all.clone().map(|p| p.target.answers() * (p.method.cost.count)(p)).sum::<usize>()
            + usize::from(first || !all.clone().any(asked))
    }

    /// As [`Self::cost_of`] these parameters alone.
    pub fn cost(&self, first: bool) -> usize {
        Self::cost_of(std::iter::once(self), first)
    }

    /// All of them, resolved, with the method: what an answer states, and what gives that answer again when posted.
    pub fn to_json(&self) -> Map<String, Value> {
        let values = self.method.parameters().filter_map(|p| Some((p.name.to_owned(), (p.get)(self)?)));
        [("method".to_owned(), json!(self.method.id))].into_iter().chain(values).collect()
    }
}

impl Serialize for Parameters {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_json().serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(labels: &[String]) -> Facts<'_> {
        Facts {
            model: "tiny",
            head: Head::Probabilities,
            pattern_layers: &PatternLayers::Inner,
            classes: Classes { labels, count: Some(3) },
            has_patterns: true,
        }
    }

    fn parse(given: Value) -> Result<Parameters, Vec<Fault>> {
        let labels = ["cat", "dog", "bird"].map(String::from);
        Parameters::parse(given.as_object().unwrap(), &facts(&labels)).map_err(|Faults(faults)| faults)
    }

    #[test]
    fn defaults_are_those_of_the_design() {
        let print = |given| Value::Object(parse(given).unwrap().to_json());
        assert_eq!(
            print(json!({})),
            json!({"method": "pgig", "target": "predicted", "head": "probabilities", "seed": "one", "pattern_layers": "inner",
                   "baseline": "zero", "n_steps": 25, "quadrature": "riemann_right", "multiply_by_inputs": true,
                   "seed_value": 0})
        );
        assert_eq!(print(json!({"method": "pattern_attribution"}))["seed"], json!("value"));
        assert_eq!(
            print(json!({"method": "random"})),
            json!({"method": "random", "target": "predicted", "seed_value": 0})
        );
    }

    #[test]
    fn texts_and_json_values_mean_the_same() {
        let texts = parse(
            json!({"method": "integrated_gradients", "n_steps": "50", "multiply_by_inputs": "false", "target": "1"}),
        );
        let values = parse(
            json!({"method": "integrated_gradients", "n_steps": 50, "multiply_by_inputs": false, "target": "Dog"}),
        );
        assert_eq!(texts.unwrap().to_json(), values.unwrap().to_json());
    }

    #[test]
    fn a_preset_is_resolved_and_can_be_overridden_in_part() {
        let fast = parse(json!({"quality": "fast"})).unwrap();
        assert_eq!((fast.n_steps.get(), fast.quadrature), (8, Quadrature::RiemannMidpoint));
        let more = parse(json!({"n_steps": 100, "quality": "fine"})).unwrap();
        assert_eq!((more.n_steps.get(), more.quadrature), (100, Quadrature::RiemannMidpoint));
    }

    #[test]
    fn every_method_posted_back_resolves_to_itself() {
        let mut given: Vec<Value> = registry::METHODS.iter().map(|method| json!({"method": method.id})).collect();
        given.push(json!({"method": "integrated_gradients", "tolerance": 0.01, "target": "cat-dog", "baseline": "black+white"}));
        given.push(json!({"pattern_layers": "conv1, conv2", "quality": "fast", "seed": "value", "target": "top:2"}));
        for given in given {
            let once = parse(given).unwrap().to_json();
            assert_eq!(parse(Value::Object(once.clone())).unwrap().to_json(), once);
        }
    }

    #[test]
    fn all_faults_are_reported_together() {
        let faults = parse(json!({
            "method": "integrated_gradients", "n_steps": 0, "quadrature": "simpson", "target": "dgo", "multiply_by_inputs": "maybe",
            "tolerance": 2, "baseline": "grey", "nsteps": 3, "pattern_layers": "all"
        }))
        .unwrap_err();
        let names: Vec<_> = faults.iter().map(|fault| fault.param.as_str()).collect();
        let expected = [
            "target",
            "baseline",
            "n_steps",
            "quadrature",
            "multiply_by_inputs",
            "tolerance",
            "nsteps",
            "pattern_layers",
        ];
        assert_eq!(names, expected);
        assert_eq!(faults[2].allowed, ["1..=10000"]);
        assert!(faults[3].allowed.contains(&"gauss_legendre".to_owned()));
        assert!(faults[6].allowed.contains(&"n_steps".to_owned()));
    }

    #[test]
    fn contradictions_are_refused() {
        let cases = [
            (json!({"method": "integrated_gradients", "tolerance": 0.1, "n_steps": 5}), "n_steps"),
            (json!({"method": "integrated_gradients", "tolerance": 0.1, "seed": "value"}), "tolerance"),
            (json!({"method": "integrated_gradients", "max_steps": 50}), "max_steps"),
            (json!({"method": "pgig", "tolerance": 0.1}), "tolerance"),
            (json!({"method": "occlusion"}), "method"),
        ];
        for (given, param) in cases {
            let faults = parse(given).unwrap_err();
            assert_eq!((faults.len(), faults[0].param.as_str()), (1, param), "{faults:?}");
        }
    }

    #[test]
    fn the_probability_of_a_single_output_is_refused() {
        let facts = Facts { classes: Classes { labels: &[], count: Some(1) }, ..facts(&[]) };
        let error = Parameters::parse(&Map::new(), &facts).unwrap_err();
        assert!(error.to_string().starts_with("head:"), "{error}");
    }

    #[test]
    fn every_choice_allowed_is_accepted_and_nothing_else() {
        for method in registry::METHODS {
            for parameter in method.parameters() {
                let Kind::Choice { allowed, .. } = parameter.kind else { continue };
                for choice in allowed {
                    parse(json!({"method": method.id, parameter.name: choice})).unwrap();
                }
                parse(json!({"method": method.id, parameter.name: "nonsense"})).unwrap_err();
            }
        }
    }
}
