//! The parameters that methods of several files share, in groups.

use std::num::NonZeroUsize;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    Need, Parameters,
    kind::{Group, Kind, Parameter},
};
use crate::{
    faults::Fault,
    methods::target::{self, Target},
    picture::{
        ImageError,
        baseline::{self, Baseline, Term},
    },
};
use onnx_autodiff::autodiff::spec::{Head, PatternLayers};

/// The largest integer that every JSON reader keeps exact.
const MAX_EXACT: u64 = (1 << 53) - 1;

pub const EXPLAINED_CLASS: Parameter = Parameter {
    name: "target",
    kind: Kind::Text {
        forms: target::FORMS,
        set: |p, value, facts| match Target::parse(value, facts.classes) {
            Ok(target) => {
                p.target = target;
                Ok(())
            }
            Err(error) => Err(error.explain(facts.classes)),
        },
    },
    doc: "The class to explain, resolved once on the unmodified input; a contrast a-b explains why a rather than b. A number in JSON is \
          an index; digits that are a label as well need the prefix index: or label:.",
    from_model: false,
    get: |p| Some(p.target.to_json()),
};

const EXPLAINED_HEAD: Parameter = Parameter {
    name: "head",
    kind: Kind::Choice {
        allowed: &["logits", "probabilities"],
        set: |p, value| choose(value).map(|head| p.head = head),
    },
    doc: "Which output of the network is explained: its logits or its probabilities.",
    from_model: true,
    get: |p| Some(json!(p.head)),
};

/// For methods that look at the class only to report it.
pub static TARGET: Group = Group::of(&[EXPLAINED_CLASS]);

/// For methods that start at the output.
pub const GRAD_OUTPUT: Parameter = Parameter {
    name: "grad_output",
    kind: Kind::Choice {
        allowed: &["one", "value"],
        set: |p, value| choose(value).map(|gradient| p.grad_output = gradient),
    },
    doc: "The gradient at the output where backpropagation starts: one, or the output's own value.",
    from_model: false,
    get: |p| Some(json!(p.grad_output)),
};

/// For methods that take derivatives.
pub static DIFFERENTIATED: Group = Group {
    parameters: &[EXPLAINED_CLASS, EXPLAINED_HEAD, GRAD_OUTPUT],
    from_model: |_, _| (),
    check: |p, _, facts, faults| {
        faults.extend(p.probability_fault(facts.kind, facts.classes.count));
    },
};

/// For methods that ask for forward passes alone.
pub static FORWARD: Group = Group {
    parameters: &[EXPLAINED_CLASS, EXPLAINED_HEAD],
    from_model: |_, _| (),
    check: DIFFERENTIATED.check,
};

/// As [`FORWARD`], for methods whose papers explain probabilities: their presets set them. A network
/// with a single output has none.
pub static FORWARD_PROBABILITIES: Group = Group {
    parameters: &[
        EXPLAINED_CLASS,
        Parameter {
            from_model: false,
            ..EXPLAINED_HEAD
        },
    ],
    from_model: |p, facts| {
        if p.probability_fault(facts.kind, facts.classes.count)
            .is_some()
        {
            p.head = Head::Logits;
        }
    },
    check: FORWARD.check,
};

/// The row of `preset`, which comes before what it sets.
pub const fn preset(
    doc: &'static str,
    set: fn(&mut Parameters, Value) -> serde_json::Result<()>,
) -> Parameter {
    Parameter {
        name: "preset",
        kind: Kind::Choice {
            allowed: &["speed", "balance", "quality"],
            set,
        },
        doc,
        from_model: false,
        get: |_| None,
    }
}

/// What `preset` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    Speed,
    Balance,
    Quality,
}

const PATTERNED_LAYERS: Parameter = Parameter {
    name: "pattern_layers",
    kind: Kind::Text {
        forms: &[
            "all",
            "inner",
            "except_first",
            "except_last",
            "a list of nodes",
        ],
        set: |p, value, _| layers(value).map(|layers| p.pattern_layers = layers),
    },
    doc: "The layers whose weights are combined with their patterns, where the rule set uses patterns; other layers keep the plain gradient.",
    from_model: true,
    get: |p| match &p.pattern_layers {
        _ if !p.needs_patterns() => None,
        PatternLayers::Named(nodes) => Some(json!(nodes)),
        named => Some(json!(named)),
    },
};

pub static PATTERN_LAYERS: Group = Group::of(&[PATTERNED_LAYERS]);

/// For methods that are defined with patterns in every layer: what a model prefers suits products
/// with the input's difference.
pub static PATTERN_LAYERS_ALL: Group = Group::of(&[Parameter {
    from_model: false,
    ..PATTERNED_LAYERS
}]);

/// For methods of which the rule set is a choice.
pub static RULE_SET: Group = Group {
    parameters: &[
        Parameter {
            name: "rule_set",
            kind: Kind::Choice {
                allowed: &[
                    "gradient",
                    "guided_backprop",
                    "deconvnet",
                    "pattern_attribution",
                    "pattern_net",
                ],
                set: |p, value| choose(value).map(|rule_set| p.rule_set = Some(rule_set)),
            },
            doc: "The rules of the backward pass: the plain gradient, or those of guided_backprop, deconvnet, pattern_attribution or pattern_net.",
            from_model: false,
            get: |p| p.rule_set.map(|rule_set| json!(rule_set)),
        },
        PATTERNED_LAYERS,
    ],
    from_model: |_, _| (),
    check: |p, given, _, faults| {
        if given.contains_key("pattern_layers") && !p.needs_patterns() {
            faults.push(Fault::says(
                "pattern_layers",
                "chooses among patterns, and the rule set uses none: leave one out",
            ));
        }
    },
};

pub static BASELINE: Group = Group {
    parameters: &[BASELINES],
    from_model: |_, _| (),
    check: |p, _, _, faults| {
        if p.baseline.terms().contains(&Term::SegmentMean) && !p.needs(Need::Partition) {
            let message = ImageError::BaselineNeedsRegions.to_string();
            let others = baseline::ALLOWED
                .iter()
                .filter(|form| **form != "segment_mean");
            faults.push(Fault::new("baseline", message, others.copied()));
        }
    },
};

const BASELINES: Parameter = Parameter {
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
    doc: "The baseline, where the path starts or what is shown in place of hidden regions; results for several, joined by +, are averaged.",
    from_model: false,
    get: |p| Some(json!(p.baseline)),
};

/// For methods that draw random numbers.
pub static SEED: Group = Group::of(&[Parameter {
    name: "seed",
    kind: Kind::Integer {
        min: 0,
        max: MAX_EXACT,
        set: |p, seed| p.seed = seed,
    },
    doc: "Seed of the random number generator (ChaCha8).",
    from_model: false,
    get: |p| Some(json!(p.seed)),
}]);

/// For methods of the PGIG paper whose published code differs.
pub static COMPAT_PGIG: Group = Group::of(&[compat(
    &["pgig-2020"],
    "pgig-2020: as the published code of the PGIG paper, not its formulas: the last term of the path is left out, and noise accumulates \
     from sample to sample.",
)]);

/// The row of `compat` for the values given.
pub const fn compat(allowed: &'static [&'static str], doc: &'static str) -> Parameter {
    Parameter {
        name: "compat",
        kind: Kind::Choice {
            allowed,
            set: |p, value| choose(value).map(|compat| p.compat = Some(compat)),
        },
        doc,
        from_model: false,
        get: |p| p.compat.map(|compat| json!(compat)),
    }
}

/// A number from 1, as its row allows.
pub fn counted(n: u64) -> NonZeroUsize {
    NonZeroUsize::MIN.saturating_add(n.saturating_sub(1) as usize)
}

/// A choice, which its row has checked.
pub fn choose<T: DeserializeOwned>(value: Value) -> serde_json::Result<T> {
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
        list => serde_json::from_value::<Vec<String>>(list.clone())
            .map_err(|_| "is not a list of nodes".to_owned())?,
    };
    if nodes.is_empty() || nodes.iter().any(String::is_empty) {
        return Err("names an empty node".to_owned());
    }
    Ok(PatternLayers::Named(nodes))
}
