//! Rule sets as overlays: each states only how it differs from its base. Lookup: the nearest set
//! with a row for the op or the role of the node, else its base. Guided backprop and deconvnet:
//! Springenberg et al. 2014; pattern sets: the PGIG paper section 2.

use super::{
    DeriveError,
    context::{Cotangents, Overrides, Rule, VjpContext},
    role::Role,
    rules::{
        self, quantisation,
        table::{self, Gradient},
    },
    spec::RuleSetId,
};
use crate::{
    Tensor,
    onnx::graph::{Element, Literal},
};

pub(super) struct RuleSet {
    base: Option<&'static RuleSet>,
    op: fn(&str) -> Option<Rule>,
    roles: &'static [(Role, Rule)],
    /// Ops inside of a network that its paper does not define it for, though they have a gradient.
    undefined: &'static [&'static str],
}

/// Of sets that are defined for rectifiers or Linear layers between rectifiers. Erf is that of
/// GELU.
const OF_TRANSFORMERS: &[&str] = &["Erf", "LayerNormalization", "Softmax"];

static GRADIENT: RuleSet = RuleSet {
    base: None,
    op: |op_type| match table::gradient(op_type)? {
        Gradient::Ruled(rule) | Gradient::Surrogate(rule) => Some(*rule),
        _ => None,
    },
    roles: &[],
    undefined: &[],
};
static GUIDED_BACKPROP: RuleSet = overlay(&[(Role::Rectifier, Rule::Vjp(guided))]);
static DECONVNET: RuleSet = overlay(&[(Role::Rectifier, Rule::Vjp(rectify))]);
static PATTERN_ATTRIBUTION: RuleSet = overlay(&[(Role::Linear, Rule::Vjp(weight_times_pattern))]);
static PATTERN_NET: RuleSet = overlay(&[(Role::Linear, Rule::Vjp(pattern_alone))]);
static LRP: RuleSet = RuleSet {
    base: Some(&GRADIENT),
    op: rules::relevance::rule,
    roles: &[],
    undefined: &[],
};

static ATTN_LRP: RuleSet = RuleSet {
    base: Some(&GRADIENT),
    op: rules::attention::rule,
    roles: &[],
    undefined: &[],
};

/// The gradient, except for nodes of the given roles. Quantised activations are refused.
const fn overlay(roles: &'static [(Role, Rule)]) -> RuleSet {
    RuleSet {
        base: Some(&GRADIENT),
        op: |op| (op == "QuantizeLinear").then_some(Rule::Vjp(quantisation::gradient_alone)),
        roles,
        undefined: OF_TRANSFORMERS,
    }
}

pub(super) fn rule_set(id: RuleSetId) -> &'static RuleSet {
    match id {
        RuleSetId::Gradient => &GRADIENT,
        RuleSetId::GuidedBackprop => &GUIDED_BACKPROP,
        RuleSetId::Deconvnet => &DECONVNET,
        RuleSetId::PatternAttribution => &PATTERN_ATTRIBUTION,
        RuleSetId::PatternNet => &PATTERN_NET,
        RuleSetId::Lrp => &LRP,
    }
}

/// That of [`RuleSetId::Lrp`] with the composite AttnLRP, whose cotangents are relevance divided by the
/// value.
pub(super) fn attn_lrp() -> &'static RuleSet {
    &ATTN_LRP
}

impl RuleSet {
    /// The rules for a node, the most specific first: each overrides the next.
    pub(super) fn rules(&self, op_type: &str, role: Option<Role>) -> Vec<Rule> {
        let own = self.own(op_type, role);
        let base = self.base.map(|base| base.rules(op_type, role));
        own.into_iter().chain(base.unwrap_or_default()).collect()
    }

    pub(super) fn is_undefined_at(&self, op_type: &str) -> bool {
        self.undefined.contains(&op_type)
    }

    /// The rule of this set itself, without its base.
    fn own(&self, op_type: &str, role: Option<Role>) -> Option<Rule> {
        let of_role = self.roles.iter().find(|(of, _)| Some(*of) == role);
        (self.op)(op_type).or(of_role.map(|row| row.1))
    }
}

/// Gradient through the positive part of the cotangent only.
fn guided(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let dy = ctx.cotangent()?;
    let positive = ctx.emit.unary("Relu", &dy)?;
    ctx.base(Overrides {
        cotangent: Some(positive),
        weight: None,
    })
}

/// The positive part of the cotangent, independent of the forward pass.
fn rectify(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let dy = ctx.cotangent()?;
    Ok(Cotangents::first(ctx.emit.unary("Relu", &dy)?))
}

/// w ⊙ p in place of w, computed in place in the pattern's tensor.
fn weight_times_pattern(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let Some(pattern) = ctx.pattern else {
        return ctx.base(Overrides::default());
    };
    let source = ctx.weight()?;
    let literal = ctx
        .emit
        .literal(&source)
        .filter(|literal| literal.element == Element::Float)
        .cloned();
    let literal = literal.ok_or_else(|| ctx.refusal("its weight is not a constant of f32"))?;
    let weight = ctx.emit.weight(
        format!("{}/weight_times_pattern", ctx.node.outputs[0]),
        || {
            let mut product = pattern.read()?;
            let (weights, _) = literal.bytes.as_chunks();
            product
                .iter_mut()
                .zip(weights)
                .for_each(|(p, &w)| *p *= f32::from_le_bytes(w));
            Ok(to_literal(product))
        },
    )?;
    ctx.base(Overrides {
        cotangent: None,
        weight: Some(weight),
    })
}

/// p in place of w.
fn pattern_alone(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let Some(pattern) = ctx.pattern else {
        return ctx.base(Overrides::default());
    };
    let name = format!("{}/pattern", ctx.node.outputs[0]);
    let weight = ctx.emit.weight(name, || Ok(to_literal(pattern.read()?)))?;
    ctx.base(Overrides {
        cotangent: None,
        weight: Some(weight),
    })
}

fn to_literal(tensor: Tensor) -> Literal {
    let shape = tensor.shape().to_vec();
    // A pattern is dense already: its memory becomes the literal's.
    let dense = if tensor.is_standard_layout() {
        tensor
    } else {
        tensor.as_standard_layout().into_owned()
    };
    let length = dense.len();
    let (mut values, offset) = dense.into_raw_vec_and_offset();
    let start = offset.unwrap_or(0);
    values.truncate(start + length);
    values.drain(..start);
    Literal::from_f32_vec(&shape, values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        autodiff::role::role,
        onnx::graph::{Graph, Node},
    };

    /// Which set answers for every op of the table and for every role.
    fn effective(id: RuleSetId) -> String {
        let owner = |op: &str, role: Option<Role>| {
            let set = rule_set(id);
            let is_gradient = set.base.is_none();
            match (set.own(op, role), GRADIENT.own(op, role)) {
                (Some(_), _) if !is_gradient => id.id(),
                (_, Some(_)) => RuleSetId::Gradient.id(),
                _ => "none",
            }
        };
        let roles = [
            ("Relu", Role::Rectifier),
            ("Clip", Role::Rectifier),
            ("Conv", Role::Linear),
            ("Gemm", Role::Linear),
        ];
        let mut lines: Vec<String> = roles
            .iter()
            .map(|(op, role)| format!("{op} as {role:?}: {}", owner(op, Some(*role))))
            .collect();
        lines.extend(table::ruled().map(|op| format!("{op}: {}", owner(op, None))));
        lines.push(format!("an op without a rule: {}", owner("LSTM", None)));
        lines.join("\n")
    }

    #[test]
    fn effective_tables_are_as_reviewed() {
        for id in RuleSetId::ALL {
            insta::assert_snapshot!(id.id(), effective(id));
        }
    }

    #[test]
    fn roles_come_from_the_node_and_its_graph() {
        let mut graph = Graph::default();
        for (name, value) in [("zero", 0.0), ("minus", -1.0)] {
            graph
                .initializers
                .insert(name.into(), Literal::from_f32s(&[], &[value]));
        }
        graph
            .initializers
            .insert("w".into(), Literal::from_f32s(&[1, 1], &[1.0]));
        let of =
            |op: &str, inputs: &[&str]| role(&Node::new(op, inputs.iter().copied(), ["y"]), &graph);
        assert_eq!(of("Relu", &["x"]), Some(Role::Rectifier));
        assert_eq!(of("Clip", &["x", "zero", "minus"]), Some(Role::Rectifier));
        assert_eq!(of("Clip", &["x", "minus"]), None);
        assert_eq!(of("Clip", &["x"]), None);
        assert_eq!(of("Gemm", &["x", "w"]), Some(Role::Linear));
        assert_eq!(of("MatMul", &["x", "w"]), Some(Role::Linear));
        assert_eq!(of("MatMul", &["x", "x"]), None);
        assert_eq!(of("Add", &["x", "w"]), None);
    }
}
