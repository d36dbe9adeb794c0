//! The parameters of a method, read, described and printed by the groups that its row names:
//! `common` has those that methods of several files share, the others stand with their methods. A
//! resolved set prints completely, and means the same when posted back. All faults are reported
//! together.

pub mod common;
mod kind;
pub mod lrp;
mod method;
mod values;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::target::Target;
use crate::{
    faults::{Fault, Faults, Reader},
    model::{
        RuleSets,
        labels::Classes,
        manifest::{Input, OutputKind},
        supports::SupportSet,
    },
    picture::baseline::Baseline,
};
pub use kind::{Group, Kind, Parameter};
pub use method::{Cost, Method, Need, Scores};
use onnx_autodiff::{
    autodiff::spec::{Attention, DeriveSpec, Head, Layer, PatternLayers, RuleSetId, SeedRule},
    onnx::graph::Graph,
};
pub use values::{GroupValues, Values};

/// A method with all its parameters resolved. Those that the method does not take keep their
/// defaults and are not printed.
#[derive(Clone, Debug)]
pub struct Parameters {
    pub method: &'static Method,
    /// Of a method that works on the maps of another: that one. All parameters that it takes are
    /// here as well.
    pub base: Option<&'static Method>,
    pub target: Target,
    pub head: Head,
    pub grad_output: SeedRule,
    /// How derivatives are taken; none for methods that take none.
    pub rule_set: Option<RuleSetId>,
    pub pattern_layers: PatternLayers,
    pub baseline: Baseline,
    /// Of the random number generator.
    pub seed: u64,
    /// What to reproduce in place of the formula.
    pub compat: Option<Compat>,
    /// Why it is this method, where the choice was left to [`Parameters::parse`].
    pub choice: Option<String>,
    /// Of the groups that files of methods define: see [`Self::group`] and [`Self::change`].
    pub groups: GroupValues,
}

/// Published code that differs from its paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compat {
    /// The code of the PGIG paper: the last term of the path left out, and noise that accumulates
    /// from sample to sample.
    #[serde(rename = "pgig-2020")]
    Pgig2020,
    /// The SIG paper where its public code differs: black and white baselines, colours in 0..=1,
    /// segments of at least 20 pixels.
    #[serde(rename = "sig-2019")]
    Sig2019,
}

/// What parameters need to know of the model: its defaults and its classes.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    pub model: &'a str,
    pub head: Head,
    /// What the model's output means.
    pub kind: OutputKind,
    pub pattern_layers: &'a PatternLayers,
    pub classes: Classes<'a>,
    pub has_patterns: bool,
    pub layers: &'a [Layer],
    /// The default of `layer`.
    pub layer: Option<&'a str>,
    /// Or why the model has none that relates all tokens of a grid.
    pub attention: Result<&'a Arc<Attention>, &'a str>,
    /// The model's sets of supports.
    pub supports: &'a [Arc<SupportSet>],
    pub input: &'a Input,
    /// The network itself.
    pub graph: &'a Graph,
    /// Those that `graph` supports.
    pub rule_sets: &'a RuleSets,
}

impl Parameters {
    pub fn defaults(method: &'static Method, head: Head, pattern_layers: PatternLayers) -> Self {
        let mut parameters = Self {
            method,
            base: None,
            target: Target::Predicted,
            head,
            grad_output: SeedRule::One,
            rule_set: method.rule_set,
            pattern_layers,
            baseline: Baseline::default(),
            seed: 0,
            compat: None,
            choice: None,
            groups: GroupValues::default(),
        };
        (method.preset)(&mut parameters);
        parameters
    }

    /// Resolves what was given (texts or JSON values, by the names of today, `method` among them)
    /// against the defaults of method and model. `base` is that which is asked for, where it is one;
    /// `choice` is why it is this method, where that was left open.
    pub(super) fn resolve(
        method: &'static Method,
        base: Option<&'static Method>,
        choice: Option<String>,
        given: &Map<String, Value>,
        facts: &Facts<'_>,
    ) -> Result<Self, Faults> {
        let mut parameters = Self::defaults(method, facts.head, facts.pattern_layers.clone());
        if let Some(base) = base.filter(|_| method.needs(Need::Base)) {
            parameters.set_base(base);
        }
        for group in parameters.groups_taken() {
            (group.from_model)(&mut parameters, facts);
        }
        let mut asked = given.clone();
        asked.shift_remove("method");
        let mut reader = Reader::new(asked);
        for parameter in parameters.taken() {
            if let Some(value) = reader.raw(parameter.name)
                && let Err(message) = parameter.set(&mut parameters, &value, facts)
            {
                reader.faults.push(Fault {
                    param: parameter.name.into(),
                    message,
                    allowed: parameter.allowed_for(facts),
                });
            }
        }
        let of = parameters
            .base
            .map_or_else(String::new, |base| format!(" on {}", base.id));
        let chosen = choice.as_ref().map_or_else(String::new, |choice| {
            format!(", which auto chose ({choice}): `method` names another")
        });
        let unknown = format!("is not a parameter of {}{of}{chosen}", method.id);
        parameters.choice = choice;
        let mut faults = reader.finish(&unknown);
        let inner = parameters.of_base();
        for group in inner.method.groups {
            (group.check)(&inner, given, facts, &mut faults);
        }
        if parameters.base.is_some() {
            for group in method.groups {
                (group.check)(&parameters, given, facts, &mut faults);
            }
        }
        faults.settle(parameters)
    }

    /// Whether it looks at the picture that the input shows: not for nets over ready tensors.
    pub fn needs_picture(&self) -> bool {
        self.needs(Need::Luma) || self.needs(Need::Regions)
    }

    /// Whether it takes regions of that picture.
    pub fn needs_segments(&self) -> bool {
        self.needs(Need::Regions) || self.needs(Need::Partition)
    }

    /// Makes `base` the method whose maps this one works on, with its defaults.
    pub fn set_base(&mut self, base: &'static Method) {
        self.base = Some(base);
        self.rule_set = base.rule_set;
        (base.preset)(self);
    }

    /// Those of the method that asks the model: the base, where there is one, else these.
    pub fn of_base(&self) -> Self {
        Self {
            method: self.base.unwrap_or(self.method),
            base: None,
            ..self.clone()
        }
    }

    fn groups_taken(&self) -> Vec<&'static Group> {
        let base = self.base.map_or(&[][..], |base| base.groups);
        self.method.groups.iter().chain(base).copied().collect()
    }

    /// The parameters that are taken beside `method`: those of the method, and others of its base.
    pub fn taken(&self) -> Vec<&'static Parameter> {
        let base = self.base.into_iter().flat_map(Method::parameters);
        let others = base.filter(|parameter| !self.method.takes(parameter.name));
        self.method.parameters().chain(others).collect()
    }

    pub fn takes(&self, name: &str) -> bool {
        self.taken().iter().any(|parameter| parameter.name == name)
    }

    /// Whether a run needs it, of the method or of its base.
    pub fn needs(&self, need: Need) -> bool {
        self.method.needs(need) || self.base.is_some_and(|base| base.needs(need))
    }

    /// The values of a group.
    pub fn group<G: Values + Clone + Default>(&self) -> G {
        self.groups.get()
    }

    pub fn change<G: Values + Clone + Default>(&mut self, change: impl FnOnce(&mut G)) {
        let mut values = self.group();
        change(&mut values);
        self.groups.set(values);
    }

    pub(crate) fn probability_fault(
        &self,
        kind: OutputKind,
        classes: Option<usize>,
    ) -> Option<Fault> {
        let asked = self.head == Head::Probabilities && self.method.asks_model();
        let message = match kind {
            OutputKind::Classes if classes == Some(1) => {
                "the model has one output and no Sigmoid behind it: there is no probability"
            }
            OutputKind::Classes => return None,
            OutputKind::Regression | OutputKind::Embedding => {
                "the model's output holds no scores of classes: there is no probability"
            }
        };
        asked.then(|| Fault::new("head", message, ["logits"]))
    }

    pub fn needs_patterns(&self) -> bool {
        self.rule_set.is_some_and(RuleSetId::needs_patterns)
    }

    /// The derived graph with the rule set with respect to the input. What a rule set does not look
    /// at has one spelling, so that methods share graphs.
    pub fn derive_spec(&self) -> DeriveSpec {
        let pattern_layers = if self.needs_patterns() {
            self.pattern_layers.clone()
        } else {
            PatternLayers::All
        };
        DeriveSpec {
            head: self.head,
            seed: self.grad_output,
            pattern_layers,
            lrp: lrp::rules(self),
            ..DeriveSpec::of(Vec::from_iter(self.rule_set))
        }
    }

    /// The most rows and columns in which inputs that these ask about differ from the one before.
    pub fn change_of<'a>(all: impl Iterator<Item = &'a Self>) -> Option<[usize; 2]> {
        all.filter_map(|p| (p.method.cost.change)(p))
            .reduce(|one, other| [0, 1].map(|side| one[side].max(other[side])))
    }

    /// How many baselines a run needs.
    pub fn baselines(&self) -> usize {
        if self.needs(Need::Baselines) {
            self.baseline.count()
        } else {
            0
        }
    }

    /// Evaluations that explaining one input in all these ways takes, nothing shared but the clean
    /// input and, among the targets of a method that takes no derivatives, its forward passes: at most under a `tolerance`, else exactly. `first`: the clean input is evaluated
    /// before the runs.
    pub fn cost_of<'a>(all: impl Iterator<Item = &'a Self> + Clone, first: bool) -> usize {
        let asked = |p: &Self| (p.method.cost.asks_input)(p);
        let apart = |p: &Self| match p.rule_set {
            None => 1,
            Some(_) => p.target.answers(),
        };
        all.clone()
            .map(|p| apart(p) * (p.method.cost.count)(p))
            .sum::<usize>()
            + usize::from(first || !all.clone().any(asked))
    }

    /// As [`Self::cost_of`] these parameters alone.
    pub fn cost(&self, first: bool) -> usize {
        Self::cost_of(std::iter::once(self), first)
    }

    /// All of them, resolved, with the method: what an answer states, and what gives that answer
    /// again when posted.
    pub fn to_json(&self) -> Map<String, Value> {
        let values = self
            .taken()
            .into_iter()
            .filter_map(|p| Some((p.name.to_owned(), (p.get)(self)?)));
        [("method".to_owned(), json!(self.method.id))]
            .into_iter()
            .chain(values)
            .collect()
    }
}

/// What was given, by the names of today: `seed` was the gradient at the output (one or value), and
/// the random seed `seed_value`.
pub fn renamed(mut given: Map<String, Value>) -> Map<String, Value> {
    let is_gradient = given
        .get("seed")
        .is_some_and(|value| value == "one" || value == "value");
    let old = [
        ("seed", "grad_output", is_gradient),
        ("seed_value", "seed", true),
    ];
    for (old, new, _) in old.into_iter().filter(|(.., is_meant)| *is_meant) {
        if !given.contains_key(new)
            && let Some(value) = given.shift_remove(old)
        {
            given.insert(new.to_owned(), value);
        }
    }
    given
}

impl Serialize for Parameters {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_json().serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use onnx_autodiff::{
        autodiff::spec::Grid,
        onnx::graph::{Dim, Element, Node, ValueInfo, ValueType},
    };

    use super::*;
    use crate::{
        methods::{gad, path::PathParameters, quadrature::Quadrature, registry},
        model::labels::Labels,
        picture::preprocess::Preprocess,
    };

    static LAYERS: LazyLock<Vec<Layer>> = LazyLock::new(|| {
        ["conv", "relu"]
            .map(|name| Layer {
                name: name.into(),
                shape: vec![3, 8, 8],
                grid: Grid {
                    channels: 0,
                    first: 0,
                    height: 8,
                    width: 8,
                },
            })
            .into()
    });

    static ATTENTION: LazyLock<Arc<Attention>> = LazyLock::new(|| {
        Arc::new(Attention {
            layers: Vec::new(),
            tokens: 65,
            grid: Grid {
                first: 1,
                ..LAYERS[0].grid
            },
            read: vec![0],
            exits: Ok(Vec::new()),
        })
    });

    static INPUT: LazyLock<Input> = LazyLock::new(|| Input {
        name: "x".into(),
        shape: vec![3, 8, 8],
        preprocess: None,
        open: None,
    });
    /// Sums over channels and places: has a gradient.
    static GRAPH: LazyLock<Graph> = LazyLock::new(|| {
        let value = |name: &str, sizes: &[usize]| {
            let sizes = sizes.iter().map(|&size| Dim::Known(size));
            ValueInfo {
                name: name.into(),
                value_type: ValueType::new(
                    Element::Float,
                    [Dim::from("n")].into_iter().chain(sizes).collect(),
                ),
            }
        };
        Graph {
            inputs: vec![value("x", &[3, 8, 8])],
            outputs: vec![value("y", &[3])],
            nodes: vec![
                Node::new("GlobalAveragePool", ["x"], ["means"]),
                Node::new("Flatten", ["means"], ["y"]),
            ],
            ..Graph::default()
        }
    });
    static RULE_SETS: LazyLock<RuleSets> = LazyLock::new(RuleSets::default);
    static SETS: LazyLock<[Arc<SupportSet>; 1]> =
        LazyLock::new(|| [Arc::new(SupportSet::example("pair", &[2.0, 4.0]))]);

    fn facts(labels: &Labels) -> Facts<'_> {
        Facts {
            model: "tiny",
            head: Head::Probabilities,
            kind: OutputKind::Classes,
            pattern_layers: &PatternLayers::Inner,
            classes: Classes {
                labels,
                count: Some(3),
            },
            has_patterns: true,
            layers: LAYERS.as_slice(),
            layer: Some("relu"),
            attention: Ok(&ATTENTION),
            supports: SETS.as_slice(),
            input: &INPUT,
            graph: &GRAPH,
            rule_sets: &RULE_SETS,
        }
    }

    fn parse(given: Value) -> Result<Parameters, Vec<Fault>> {
        let labels = Labels::from(["cat", "dog", "bird"].map(String::from).to_vec());
        Parameters::parse(given.as_object().unwrap(), &facts(&labels))
            .map_err(|faults| faults.shown().to_vec())
    }

    #[test]
    fn defaults_are_those_of_the_design() {
        let print = |given| Value::Object(parse(given).unwrap().to_json());
        assert_eq!(
            print(json!({})),
            json!({"method": "pgig", "target": "predicted", "head": "probabilities", "grad_output": "one", "pattern_layers": "inner",
                   "baseline": "zero", "n_steps": 25, "quadrature": "riemann_right", "multiply_by_inputs": true,
                   "seed": 0})
        );
        assert_eq!(
            print(json!({"method": "pattern_attribution"}))["grad_output"],
            json!("value")
        );
        assert_eq!(
            print(json!({"method": "random"})),
            json!({"method": "random", "target": "predicted", "seed": 0})
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
    fn the_names_of_before_are_taken() {
        let old = parse(json!({"method": "pgig", "seed": "value", "seed_value": 7})).unwrap();
        let new = parse(json!({"method": "pgig", "grad_output": "value", "seed": 7})).unwrap();
        assert_eq!(old.to_json(), new.to_json());
        assert_eq!(
            (new.to_json()["grad_output"].clone(), new.seed),
            (json!("value"), 7)
        );
        assert_eq!(
            parse(json!({"method": "pgig", "seed": "other"})).unwrap_err()[0].param,
            "seed"
        );
        assert_eq!(
            parse(json!({"method": "pgig", "seed": 1, "seed_value": 7})).unwrap_err()[0].param,
            "seed_value"
        );
    }

    #[test]
    fn a_preset_is_resolved_and_can_be_overridden_in_part() {
        let fast = parse(json!({"quality": "fast"})).unwrap();
        let steps = |parameters: Parameters| {
            let path: PathParameters = parameters.group();
            (path.n_steps.get(), path.quadrature)
        };
        assert_eq!(steps(fast), (8, Quadrature::RiemannMidpoint));
        let more = parse(json!({"n_steps": 100, "quality": "fine"})).unwrap();
        assert_eq!(steps(more), (100, Quadrature::RiemannMidpoint));
    }

    #[test]
    fn every_method_posted_back_resolves_to_itself() {
        let mut given: Vec<Value> = registry::METHODS
            .iter()
            .map(|method| json!({"method": method.id}))
            .collect();
        given.push(json!({"method": "integrated_gradients", "tolerance": 0.01, "target": "cat-dog", "baseline": "black+white"}));
        given.push(json!({"method": "gad", "base": "guided_grad_cam", "tau": 0.3}));
        given.push(json!({"method": "gad", "mode": "min", "tolerance": 0.1, "supports": "pair"}));
        given.push(
            json!({"pattern_layers": "conv1, conv2", "quality": "fast", "grad_output": "value", "target": "top:2"}),
        );
        for method in registry::METHODS
            .iter()
            .filter(|method| method.takes("rule_set"))
        {
            let sets = RuleSetId::ALL
                .into_iter()
                .filter(|set| *set != RuleSetId::Lrp);
            given.extend(sets.map(|set| json!({"method": method.id, "rule_set": set.id()})));
        }
        for method in registry::METHODS {
            let compat = method
                .parameters()
                .filter(|parameter| parameter.name == "compat");
            let values = compat.flat_map(|parameter| parameter.allowed());
            given.extend(values.map(|value| json!({"method": method.id, "compat": value})));
        }
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
        assert_eq!(faults[2].allowed, ["1 to 10000"]);
        assert!(faults[3].allowed.contains(&"gauss_legendre".to_owned()));
        assert!(faults[6].allowed.contains(&"n_steps".to_owned()));
    }

    #[test]
    fn contradictions_are_refused() {
        let cases = [
            (
                json!({"method": "integrated_gradients", "tolerance": 0.1, "n_steps": 5}),
                "n_steps",
            ),
            (
                json!({"method": "integrated_gradients", "tolerance": 0.1, "grad_output": "value"}),
                "tolerance",
            ),
            (
                json!({"method": "integrated_gradients", "max_steps": 50}),
                "max_steps",
            ),
            (json!({"method": "pgig", "tolerance": 0.1}), "tolerance"),
            (
                json!({"method": "integrated_gradients", "tolerance": 0.1, "rule_set": "guided_backprop"}),
                "tolerance",
            ),
            (
                json!({"method": "integrated_gradients", "pattern_layers": "all"}),
                "pattern_layers",
            ),
            (
                json!({"method": "input_x_gradient", "rule_set": "deconvnet", "pattern_layers": "all"}),
                "pattern_layers",
            ),
            (
                json!({"method": "gradient", "rule_set": "deconvnet"}),
                "rule_set",
            ),
            (
                json!({"method": "gradient", "compat": "pgig-2020"}),
                "compat",
            ),
            (
                json!({"method": "integrated_gradients", "compat": "sig-2019"}),
                "compat",
            ),
            (
                json!({"method": "integrated_gradients", "compat": "pgig-2020", "quality": "fast"}),
                "quadrature",
            ),
            (
                json!({"method": "pgig", "compat": "pgig-2020", "n_steps": 1}),
                "n_steps",
            ),
            (
                json!({"method": "integrated_gradients", "compat": "pgig-2020", "tolerance": 0.1}),
                "tolerance",
            ),
            (json!({"method": "gad", "base": "pgig"}), "base"),
            (json!({"method": "gad", "base": "gad"}), "base"),
            (
                json!({"method": "gad", "base": "gradient", "n_steps": 3}),
                "n_steps",
            ),
            (json!({"method": "gad", "mode": "min", "tau": 0.1}), "tau"),
            (json!({"method": "gad", "tau": 0}), "tau"),
            (json!({"method": "gad", "supports": "other"}), "supports"),
            (json!({"method": "gad", "supports": "pair@00"}), "supports"),
            (
                json!({"method": "gad", "rule_set": "pattern_net"}),
                "rule_set",
            ),
            (
                json!({"method": "gad", "tolerance": 0.1, "n_steps": 5}),
                "n_steps",
            ),
            (json!({"method": "occlude"}), "method"),
            (json!({"method": "grad_cam", "layer": "nowhere"}), "layer"),
            (
                json!({"method": "score_cam", "max_channels": 0}),
                "max_channels",
            ),
            (json!({"method": "eigen_cam", "head": "logits"}), "head"),
            (
                json!({"method": "smooth_grad", "noise_level": 0}),
                "noise_level",
            ),
        ];
        for (given, param) in cases {
            let faults = parse(given).unwrap_err();
            assert_eq!(
                (faults.len(), faults[0].param.as_str()),
                (1, param),
                "{faults:?}"
            );
        }
    }

    #[test]
    fn a_model_without_supports_says_how_to_get_some_and_one_with_several_which() {
        let labels = Labels::default();
        let several = [
            SETS[0].clone(),
            Arc::new(SupportSet::example("other", &[2.0])),
        ];
        for (supports, expected) in [(&[][..], "a job of kind gad_train"), (&several, "several")] {
            let facts = Facts {
                supports,
                ..facts(&labels)
            };
            let given = json!({"method": "gad"});
            let faults = Parameters::parse(given.as_object().unwrap(), &facts).unwrap_err();
            let [fault] = faults.shown() else {
                panic!("{faults}")
            };
            assert_eq!(fault.param, "supports");
            assert!(fault.message.contains(expected), "{fault:?}");
            assert_eq!(fault.allowed.len(), supports.len());
        }
        let facts = Facts {
            supports: &several,
            ..facts(&labels)
        };
        let given = json!({"method": "gad", "supports": "other"});
        let parameters = Parameters::parse(given.as_object().unwrap(), &facts).unwrap();
        assert_eq!(gad::supports(&parameters).unwrap().members.len(), 1);
    }

    #[test]
    fn a_model_without_attention_says_so_and_which_methods_apply() {
        let labels = Labels::default();
        let facts = Facts {
            attention: Err("the network has no attention"),
            layers: &[],
            ..facts(&labels)
        };
        for method in ["attention_rollout", "gradient_rollout", "legrad"] {
            let given = json!({"method": method});
            let faults = Parameters::parse(given.as_object().unwrap(), &facts).unwrap_err();
            let [fault] = faults.shown() else {
                panic!("{faults}")
            };
            assert_eq!(fault.param, "method");
            assert!(fault.message.ends_with("the network has no attention"));
            let applies = |id: &str| fault.allowed.contains(&id.to_owned());
            assert!(applies("integrated_gradients"), "{fault:?}");
            assert!(!applies("gradient_rollout") && !applies("grad_cam"));
        }
    }

    #[test]
    fn each_pixel_of_a_ready_tensor_is_a_region() {
        let print = |given| parse(given).unwrap().to_json()["max_segments"].clone();
        assert_eq!(print(json!({"method": "lime"})), json!(64));
        assert_eq!(
            print(json!({"method": "lime", "max_segments": 50})),
            json!(50)
        );
    }

    #[test]
    fn a_parameter_that_the_chosen_method_does_not_take_is_told_with_the_choice() {
        let faults = parse(json!({"method": "auto", "n_samples": 3})).unwrap_err();
        let [fault] = faults.as_slice() else {
            panic!("{faults:?}")
        };
        assert_eq!(fault.param, "n_samples");
        let expected = "is not a parameter of pgig, which auto chose (the model has patterns): `method` names another";
        assert!(fault.message.starts_with(expected), "{}", fault.message);
    }

    #[test]
    fn pattern_layers_are_stated_where_patterns_are_used() {
        let print = |rule_set: &str| {
            parse(json!({"method": "integrated_gradients", "rule_set": rule_set}))
                .unwrap()
                .to_json()
        };
        assert_eq!(print("pattern_net")["pattern_layers"], json!("inner"));
        let own = parse(json!({"method": "pattern_attribution"}))
            .unwrap()
            .to_json();
        assert_eq!(
            own["pattern_layers"],
            json!("all"),
            "the model's choice is for products with the input's difference"
        );
        assert!(!print("gradient").contains_key("pattern_layers"));
        let all = json!({"method": "integrated_gradients", "rule_set": "pattern_attribution", "pattern_layers": "all"});
        let spec = parse(all).unwrap().derive_spec();
        assert_eq!(
            (spec.rule_sets, spec.pattern_layers),
            (vec![RuleSetId::PatternAttribution], PatternLayers::All)
        );
    }

    #[test]
    fn the_probability_of_a_single_output_is_refused() {
        let labels = Labels::default();
        let facts = Facts {
            classes: Classes {
                labels: &labels,
                count: Some(1),
            },
            ..facts(&labels)
        };
        let error = Parameters::parse(&Map::new(), &facts).unwrap_err();
        assert!(error.to_string().starts_with("head:"), "{error}");
    }

    #[test]
    fn every_choice_allowed_is_accepted_and_nothing_else() {
        let input = Input {
            preprocess: Some(Preprocess::plain(8, 8)),
            open: None,
            ..INPUT.clone()
        };
        let labels = Labels::default();
        let facts = Facts {
            input: &input,
            ..facts(&labels)
        };
        let parse = |given: Value| Parameters::parse(given.as_object().unwrap(), &facts);
        for method in registry::METHODS {
            for parameter in method.parameters() {
                let Kind::Choice { allowed, .. } = parameter.kind else {
                    continue;
                };
                for choice in allowed {
                    parse(json!({"method": method.id, parameter.name: choice})).unwrap();
                }
                parse(json!({"method": method.id, parameter.name: "nonsense"})).unwrap_err();
            }
        }
    }
}
