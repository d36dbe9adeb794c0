//! Layer-wise relevance propagation (Bach et al. 2015): the class's score, shared out among the
//! inputs of each layer, from the last to the first, by the rules that a composite names (Montavon
//! et al. 2019, section 10.2; Kohlbrenner et al. 2020). It starts at the logits: a Softmax has no
//! rule. Cost: one evaluation. Agrees with zennit on values (tests/parity/lrp.rs).

use serde_json::json;

use super::{
    Group, Kind, Parameter, Parameters,
    common::{EXPLAINED_CLASS, GRAD_OUTPUT, choose},
};
use crate::{faults::Fault, picture::preprocess::pixel_range};
use onnx_autodiff::autodiff::spec::{self, Composite, Head, Real, RuleSetId, SeedRule};

const EPSILON: &str = "epsilon";
const GAMMA: &str = "gamma";

#[derive(Clone, Debug)]
struct LrpParameters {
    composite: Composite,
    epsilon: f64,
    gamma: f64,
    /// Of the model's input, for each channel; none of a model of ready tensors.
    bounds: Vec<[Real; 2]>,
}

impl Default for LrpParameters {
    fn default() -> Self {
        Self {
            composite: Composite::EpsilonPlusFlat,
            epsilon: 1e-6,
            gamma: 0.25,
            bounds: Vec::new(),
        }
    }
}

pub static RELEVANCE: Group = Group {
    parameters: &[
        EXPLAINED_CLASS,
        GRAD_OUTPUT,
        Parameter {
            name: "composite",
            kind: Kind::Choice {
                allowed: &[
                    Composite::Epsilon.id(),
                    Composite::EpsilonPlus.id(),
                    Composite::EpsilonPlusFlat.id(),
                    Composite::EpsilonGammaBox.id(),
                    Composite::EpsilonAlpha2Beta1.id(),
                    Composite::EpsilonAlpha2Beta1Flat.id(),
                    Composite::EpsilonPlusWSquare.id(),
                    Composite::AttnLrp.id(),
                ],
                set: |p, value| {
                    choose(value).map(|composite| {
                        p.change(|own: &mut LrpParameters| own.composite = composite);
                    })
                },
            },
            doc: "Which rule at which layer, by zennit's names: dense layers have epsilon; convolutions epsilon, z-plus (plus), gamma or \
                  alpha-beta (alpha2_beta1); the first layer may have flat, w-square or z-box (box) instead. attn_lrp is AttnLRP, for \
                  transformers, where the setting attn_lrp allows it.",
            from_model: false,
            get: |p| Some(json!(own(p).composite)),
        },
        Parameter {
            name: EPSILON,
            kind: Kind::Number {
                above: 0.0,
                max: 100.0,
                set: |p, epsilon| p.change(|own: &mut LrpParameters| own.epsilon = epsilon),
            },
            doc: "What the rule epsilon adds to an output, away from zero, before it divides by it; more drops weak evidence.",
            from_model: false,
            get: |p| {
                let own = own(p);
                own.composite.takes_epsilon().then(|| json!(own.epsilon))
            },
        },
        Parameter {
            name: GAMMA,
            kind: Kind::Number {
                above: 0.0,
                max: 1000.0,
                set: |p, gamma| p.change(|own: &mut LrpParameters| own.gamma = gamma),
            },
            doc: "How much the rule gamma favours weights of the output's sign, in epsilon_gamma_box.",
            from_model: false,
            get: |p| {
                let own = own(p);
                own.composite.takes_gamma().then(|| json!(own.gamma))
            },
        },
    ],
    from_model: |p, facts| {
        let ranges = facts
            .input
            .preprocess
            .as_ref()
            .map(pixel_range)
            .unwrap_or_default();
        // A negative scale or deviation turns black and white round.
        let bounds = ranges
            .into_iter()
            .map(|(a, b)| [a.min(b), a.max(b)].map(Real));
        p.change(|own: &mut LrpParameters| own.bounds = bounds.collect());
    },
    check: |p, given, _, faults| {
        let own = own(p);
        if given.contains_key(GAMMA) && !own.composite.takes_gamma() {
            faults.push(Fault::says(
                GAMMA,
                "is of the rule gamma, which only the composite epsilon_gamma_box has: leave it out",
            ));
        }
        if given.contains_key(EPSILON) && !own.composite.takes_epsilon() {
            faults.push(Fault::says(
                EPSILON,
                "is 0 in the composite attn_lrp: leave it out",
            ));
        }
        if own.composite.takes_bounds() && own.bounds.is_empty() {
            let others = Composite::ALL
                .into_iter()
                .filter(|other| !other.takes_bounds() && *other != Composite::AttnLrp);
            faults.push(Fault::new(
                "composite",
                "needs the least and the greatest value of the input, and the model takes ready tensors, without [input] preprocessing in \
                 model.toml that would tell them",
                others.map(Composite::id),
            ));
        }
    },
};

/// Relevance starts with the score itself, at the logits.
pub fn preset(parameters: &mut Parameters) {
    (parameters.head, parameters.grad_output) = (Head::Logits, SeedRule::Value);
}

/// The rules of a graph that these parameters ask for.
pub fn rules(parameters: &Parameters) -> spec::Lrp {
    if parameters.rule_set != Some(RuleSetId::Lrp) {
        return spec::Lrp::default();
    }
    let own = own(parameters);
    let defaults = spec::Lrp::default();
    spec::Lrp {
        composite: own.composite,
        // What a composite does not look at has one spelling.
        epsilon: match own.composite.takes_epsilon() {
            true => Real(own.epsilon as f32),
            false => defaults.epsilon,
        },
        gamma: match own.composite.takes_gamma() {
            true => Real(own.gamma as f32),
            false => defaults.gamma,
        },
        bounds: match own.composite.takes_bounds() {
            true => own.bounds,
            false => defaults.bounds,
        },
    }
}

/// Whether the composite is asked for that has rules where the others have none.
pub fn is_attn_lrp(parameters: &Parameters) -> bool {
    parameters.rule_set == Some(RuleSetId::Lrp) && own(parameters).composite == Composite::AttnLrp
}

/// Why AttnLRP cannot be had of this server; none where it is not asked for.
pub fn attn_lrp_fault(parameters: &Parameters) -> Option<Fault> {
    let others = Composite::ALL
        .into_iter()
        .filter(|other| *other != Composite::AttnLrp);
    is_attn_lrp(parameters).then(|| {
        Fault::new(
            "composite",
            "attn_lrp is off here, for its authors call it patented and free for personal and scientific purposes alone: the setting attn_lrp \
             quotes them, and turns it on",
            others.map(Composite::id),
        )
    })
}

fn own(parameters: &Parameters) -> LrpParameters {
    parameters.group()
}
