//! The parameters of all methods: one row each, in groups that methods share.

use std::num::NonZeroUsize;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{Kind, Parameter};
use crate::{
    methods::{
        quadrature::Quadrature,
        target::{self, Target},
    },
    picture::baseline::{self, Baseline, Term},
};
use onnx_autodiff::autodiff::spec::PatternLayers;

pub const MAX_STEPS: u64 = 10_000;
/// The largest integer that every JSON reader keeps exact.
const MAX_EXACT: u64 = (1 << 53) - 1;

const TARGET: Parameter = Parameter {
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
        doc: "Which output of the network is explained: its logits or its probabilities.",
        from_model: true,
        get: |p| Some(json!(p.head)),
    },
    Parameter {
        name: "grad_output",
        kind: Kind::Choice {
            allowed: &["one", "value"],
            set: |p, value| choose(value).map(|gradient| p.grad_output = gradient),
        },
        doc: "The gradient at the output where backpropagation starts: one, or the output's own value.",
        from_model: false,
        get: |p| Some(json!(p.grad_output)),
    },
];

const PATTERN_LAYERS: Parameter = Parameter {
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

pub const PATTERNED: &[Parameter] = &[PATTERN_LAYERS];

/// For methods that are defined with patterns in every layer: what a model prefers suits products
/// with the input's difference.
pub const PATTERNED_THROUGHOUT: &[Parameter] = &[Parameter {
    from_model: false,
    ..PATTERN_LAYERS
}];

/// For methods of which the rule set is a choice.
pub const RULED: &[Parameter] = &[
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
    PATTERN_LAYERS,
];

pub const BASELINE: &[Parameter] = &[Parameter {
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
    doc: "The baseline, where the path starts; results for several, joined by +, are averaged.",
    from_model: false,
    get: |p| Some(json!(p.baseline)),
}];

/// `quality` comes first: what it presets can be overridden one by one.
pub const PATH: &[Parameter] = &[
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
                    p.n_steps = counted(n_steps);
                    p.quadrature = quadrature;
                })
            },
        },
        doc: "Sets n_steps and quadrature: fast is 8 and riemann_midpoint, paper 25 and riemann_right, fine 50 and riemann_midpoint.",
        from_model: false,
        get: |_| None,
    },
    Parameter {
        name: "n_steps",
        kind: Kind::Integer {
            min: 1,
            max: MAX_STEPS,
            set: |p, n| p.n_steps = counted(n),
        },
        doc: "The number of points on the path, for each baseline.",
        from_model: false,
        get: |p| p.tolerance.is_none().then(|| json!(p.n_steps)),
    },
    Parameter {
        name: "quadrature",
        kind: Kind::Choice {
            allowed: &[
                "riemann_left",
                "riemann_right",
                "riemann_midpoint",
                "riemann_trapezoid",
                "gauss_legendre",
            ],
            set: |p, value| choose(value).map(|quadrature| p.quadrature = quadrature),
        },
        doc: "The quadrature rule of the path integral; riemann_right is Eq. 1 of the PGIG paper.",
        from_model: false,
        get: |p| p.tolerance.is_none().then(|| json!(p.quadrature)),
    },
    Parameter {
        name: "multiply_by_inputs",
        kind: Kind::Boolean {
            set: |p, multiply| p.multiply_by_inputs = multiply,
        },
        doc: "Whether the averaged gradient is multiplied by (x - x').",
        from_model: false,
        get: |p| Some(json!(p.multiply_by_inputs)),
    },
];

/// For paths whose completeness gap measures their error.
pub const REFINED: &[Parameter] = &[
    Parameter {
        name: "tolerance",
        kind: Kind::Number {
            above: 0.0,
            max: 1.0,
            set: |p, tolerance| p.tolerance = Some(tolerance),
        },
        doc: "Instead of n_steps: riemann_midpoint with 8 points, tripled until approximation_error is below this value.",
        from_model: false,
        get: |p| p.tolerance.map(|tolerance| json!(tolerance)),
    },
    Parameter {
        name: "max_steps",
        kind: Kind::Integer {
            min: 8,
            max: MAX_STEPS,
            set: |p, n| p.max_steps = n as usize,
        },
        doc: "With tolerance: the most points on the path, for each baseline.",
        from_model: false,
        get: |p| p.tolerance.is_some().then(|| json!(p.max_steps)),
    },
];

pub const RANDOM: &[Parameter] = &[Parameter {
    name: "seed",
    kind: Kind::Integer {
        min: 0,
        max: MAX_EXACT,
        set: |p, seed| p.seed = seed,
    },
    doc: "Seed of the random number generator (ChaCha8).",
    from_model: false,
    get: |p| Some(json!(p.seed)),
}];

const N_SAMPLES: Parameter = Parameter {
    name: "n_samples",
    kind: Kind::Integer {
        min: 1,
        max: MAX_STEPS,
        set: |p, n| p.n_samples = counted(n),
    },
    doc: "The number of random samples.",
    from_model: false,
    get: |p| Some(json!(p.n_samples)),
};

/// For methods that draw samples.
pub const SAMPLED: &[Parameter] = &[N_SAMPLES];

/// For methods that add noise to the input.
pub const NOISY: &[Parameter] = &[
    N_SAMPLES,
    Parameter {
        name: "noise_level",
        kind: Kind::Number {
            above: 0.0,
            max: 10.0,
            set: |p, level| p.noise_level = level,
        },
        doc: "Standard deviation of the noise, as a fraction of the input's range (max - min).",
        from_model: false,
        get: |p| Some(json!(p.noise_level)),
    },
];

/// For methods that look at a layer.
pub const LAYERED: &[Parameter] = &[Parameter {
    name: "layer",
    kind: Kind::Name {
        form: "a layer of the model (GET /models/{id} lists them)",
        among: |facts| {
            facts
                .layers
                .iter()
                .map(|layer| layer.name.clone())
                .collect()
        },
        set: |p, layer| p.layer = Some(layer),
    },
    doc: "The layer whose activations are weighted.",
    from_model: true,
    get: |p| p.layer.as_ref().map(|layer| json!(layer)),
}];

/// For methods of the PGIG paper whose published code differs.
pub const COMPAT_PGIG: &[Parameter] = &[compat(
    &["pgig-2020"],
    "pgig-2020: as the published code of the PGIG paper, not its formulas: the last term of the path is left out, and noise accumulates \
     from sample to sample.",
)];

/// For methods that rank regions.
pub const REGIONS: &[Parameter] = &[
    Parameter {
        name: "segments",
        kind: Kind::Choice {
            allowed: &["felzenszwalb", "uploaded"],
            set: |p, value| choose(value).map(|source| p.segments = source),
        },
        doc: "The regions: from Felzenszwalb's segmentation at six scales, or uploaded with the request.",
        from_model: false,
        get: |p| Some(json!(p.segments)),
    },
    Parameter {
        name: "algorithm",
        kind: Kind::Choice {
            allowed: &["full", "fast"],
            set: |p, value| choose(value).map(|algorithm| p.algorithm = algorithm),
        },
        doc: "full: repeatedly add the region with the highest mean attribution over its uncovered pixels. fast: rank regions once by their mean attribution.",
        from_model: false,
        get: |p| Some(json!(p.algorithm)),
    },
    Parameter {
        name: "area_threshold",
        kind: Kind::Number {
            above: 0.0,
            max: 1.0,
            set: |p, part| p.area_threshold = part,
        },
        doc: "Regions are ranked until they cover more than this fraction of the picture; the remaining pixels get their mean.",
        from_model: false,
        get: |p| Some(json!(p.area_threshold)),
    },
    Parameter {
        name: "min_pixel_diff",
        kind: Kind::Integer {
            min: 1,
            max: 1_000_000,
            set: |p, n| p.min_pixel_diff = n as usize,
        },
        doc: "Regions that would add fewer pixels are skipped.",
        from_model: false,
        get: |p| Some(json!(p.min_pixel_diff)),
    },
];

/// What this presets can be overridden: it stands before the baseline.
pub const COMPAT_SIG: &[Parameter] = &[Parameter {
    kind: Kind::Choice {
        allowed: &["sig-2019"],
        set: |p, value| {
            choose(value).map(|compat| {
                p.compat = Some(compat);
                p.baseline = Baseline::from([Term::Black, Term::White]);
            })
        },
    },
    ..compat(
        &["sig-2019"],
        "sig-2019: as the SIG paper where its published code differs: black and white baselines, colours from 0 to 1, segments of at least \
         20 pixels.",
    )
}];

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

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Quality {
    Fast,
    Paper,
    Fine,
}

/// A number from 1, as its row allows.
fn counted(n: u64) -> NonZeroUsize {
    NonZeroUsize::MIN.saturating_add(n.saturating_sub(1) as usize)
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
        list => serde_json::from_value::<Vec<String>>(list.clone())
            .map_err(|_| "is not a list of nodes".to_owned())?,
    };
    if nodes.is_empty() || nodes.iter().any(String::is_empty) {
        return Err("names an empty node".to_owned());
    }
    Ok(PatternLayers::Named(nodes))
}
