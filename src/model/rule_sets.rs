//! Which rule sets a network supports: derived when first asked for, and remembered.

use std::sync::{Arc, OnceLock};

use onnx_autodiff::{
    autodiff::{
        self, DeriveError,
        spec::{Composite, DeriveSpec, Lrp, RuleSetId},
    },
    onnx::graph::Graph,
};

use crate::text::cut;

/// The most bytes of a reason: it may list every node.
const LONGEST_REASON: usize = 4_000;

/// What was found of one network; clones share it.
#[derive(Clone, Debug, Default)]
pub struct RuleSets(Arc<Found>);

#[derive(Debug, Default)]
struct Found {
    gradient: OnceLock<Option<String>>,
    relevance: OnceLock<Option<String>>,
    /// Of the others, which are defined at the same nodes.
    overlay: OnceLock<Option<DeriveError>>,
}

impl RuleSets {
    /// Why a rule set does not work with the network, whose graph this is; `None` where it does.
    /// Without a gradient there is none of the others, which differ from it in rules alone. Takes up
    /// to seconds the first time.
    pub fn fault(&self, graph: &Graph, set: RuleSetId) -> Option<String> {
        let gradient = self
            .0
            .gradient
            .get_or_init(|| told(derive(graph, set_of(RuleSetId::Gradient))));
        if gradient.is_some() {
            return gradient.clone();
        }
        match set {
            RuleSetId::Gradient => None,
            RuleSetId::Lrp => {
                let relevance = || told(derive(graph, set_of(RuleSetId::Lrp)));
                self.0.relevance.get_or_init(relevance).clone()
            }
            // Derived without patterns.
            _ => {
                let overlay = || derive(graph, set_of(RuleSetId::GuidedBackprop));
                match self.0.overlay.get_or_init(overlay).as_ref()? {
                    DeriveError::Undefined { nodes, .. } => told(Some(DeriveError::Undefined {
                        rule_set: set.id(),
                        nodes: nodes.clone(),
                    })),
                    other => Some(cut(&other.to_string(), LONGEST_REASON).into_owned()),
                }
            }
        }
    }
}

fn set_of(set: RuleSetId) -> DeriveSpec {
    DeriveSpec {
        // Without weights of its own; a node has a rule in all composites but AttnLRP, which a
        // setting allows, or in none.
        lrp: Lrp {
            composite: Composite::Epsilon,
            ..Lrp::default()
        },
        ..DeriveSpec::of([set])
    }
}

fn derive(graph: &Graph, spec: DeriveSpec) -> Option<DeriveError> {
    autodiff::derive(graph, &spec, None).err()
}

fn told(fault: Option<DeriveError>) -> Option<String> {
    fault.map(|fault| cut(&fault.to_string(), LONGEST_REASON).into_owned())
}
