//! Which methods a model supports.

use super::DriverError;
use crate::{
    engine::EngineError,
    methods::{
        gad::no_supports,
        registry::{METHODS, Method, Need},
    },
    model::{Model, gradient_fault, registry::RELOAD},
    text::quoted,
};
use onnx_autodiff::{
    autodiff::{
        self, DeriveError,
        spec::{Composite, DeriveSpec, Lrp, RuleSetId},
    },
    onnx::graph::Graph,
};

/// Why rule sets do not work with a network.
#[derive(Clone, Debug, Default)]
pub struct RuleSetFaults(Vec<(RuleSetId, String)>);

impl RuleSetFaults {
    /// Takes up to seconds.
    pub fn of(model: &Model) -> Self {
        match gradient_fault(&model.graph) {
            Some(fault) => Self::of_all(&fault),
            None => Self::beside_gradient(&model.graph),
        }
    }

    /// Every rule set differs from the gradient in rules alone: this is why there is none.
    pub fn of_all(fault: &str) -> Self {
        Self(RuleSetId::ALL.map(|set| (set, fault.to_owned())).into())
    }

    /// Of a network that has a gradient.
    pub fn beside_gradient(graph: &Graph) -> Self {
        let fault = |set: RuleSetId| {
            let spec = DeriveSpec {
                // Without weights of its own; a node has a rule in all composites but AttnLRP, which a
                // setting allows, or in none.
                lrp: Lrp {
                    composite: Composite::Epsilon,
                    ..Lrp::default()
                },
                ..DeriveSpec::of([set])
            };
            autodiff::derive(graph, &spec, None).err()
        };
        let relevance = fault(RuleSetId::Lrp).map(|fault| fault.to_string());
        // The others are defined at the same nodes, and derived without patterns.
        let overlay = fault(RuleSetId::GuidedBackprop);
        let of_set = |set: RuleSetId| match (set, &overlay) {
            (RuleSetId::Gradient, _) | (_, None) => None,
            (_, Some(DeriveError::Undefined { nodes, .. })) => {
                let fault = DeriveError::Undefined {
                    rule_set: set.id(),
                    nodes: nodes.clone(),
                };
                Some(fault.to_string())
            }
            (_, Some(fault)) => Some(fault.to_string()),
        };
        let found = RuleSetId::ALL.into_iter().filter_map(|set| {
            let fault = match set {
                RuleSetId::Lrp => relevance.clone(),
                _ => of_set(set),
            };
            Some((set, fault?))
        });
        Self(found.collect())
    }

    /// Why the rule set does not work.
    pub fn get(&self, rule_set: RuleSetId) -> Option<&str> {
        let found = self.0.iter().find(|(of, _)| *of == rule_set);
        found.map(|(_, fault)| fault.as_str())
    }
}

/// Names the methods that apply where a rule set is not defined for a network that has a gradient.
pub(super) fn or_others(model: &Model, error: EngineError) -> DriverError {
    let reason = match &error {
        EngineError::Derive(fault) => match **fault {
            DeriveError::Undefined { .. } => fault.to_string(),
            _ => return error.into(),
        },
        _ => return error.into(),
    };
    let takes_gradient = |method: &Method| {
        let rule_set = method.rule_set;
        rule_set.is_none_or(|rule_set| rule_set == RuleSetId::Gradient)
    };
    let methods = METHODS.iter().filter(|method| {
        takes_gradient(method) && obstacle(method, model, &RuleSetFaults::default()).is_none()
    });
    DriverError::Undefined {
        model: model.id.clone(),
        reason,
        methods: methods.map(|method| method.id).collect(),
    }
}

/// Why a method does not work with a model, by its defaults; `faults` are why rule sets do not.
pub fn obstacle(method: &Method, model: &Model, faults: &RuleSetFaults) -> Option<String> {
    let missing = || {
        let from = if model.manifest.input.preprocess.is_some() {
            "--images FOLDER"
        } else {
            "--tensors X.npy"
        };
        format!(
            "the model has no patterns; `explaind fit-patterns --model {} {from}` fits them; then {RELOAD}",
            quoted(&model.id)
        )
    };
    let attention = model.attention.as_deref().map_err(String::as_str);
    match method.rule_set.and_then(|rule_set| faults.get(rule_set)) {
        Some(fault) => Some(fault.to_owned()),
        _ if method.needs_patterns() && model.patterns.is_none() => Some(missing()),
        _ if method.needs(Need::Supports) && model.supports.is_empty() => {
            Some(no_supports(&model.id))
        }
        _ if method.takes("layer") && model.layers.is_empty() => Some(
            "the model has no layer with height and width or a grid of tokens between its input and its head"
                .to_owned(),
        ),
        _ if let Some(reason) = method.attention_fault(attention) => Some(reason.to_owned()),
        _ if method.needs_picture() && model.manifest.input.preprocess.is_none() => Some(
            "it looks at the picture that the input shows, and the model takes ready tensors"
                .to_owned(),
        ),
        _ => None,
    }
}
