//! AttnLRP (Achtibat et al. 2024) as a walk of gradients: cotangents are relevance divided by the value
//! that has it, so that what is linear has the rule epsilon with epsilon 0 by its gradient (Arras et al.
//! 2025). Values agree with LXT's (tests/parity/lrp.rs of the service).

use super::{
    normalisation,
    relevance::{no_rule, stabilised},
};
use crate::autodiff::{
    DeriveError,
    context::{Cotangents, Overrides, Rule, VjpContext},
    expr::Expr,
};

type Result = std::result::Result<Cotangents, DeriveError>;

/// The rule of an op; none where it is the gradient: of what is linear, of Softmax (Proposition 3.1),
/// and of activations that are straight lines from 0.
pub(crate) fn rule(op_type: &str) -> Option<Rule> {
    Some(Rule::Vjp(match op_type {
        "Add" | "AveragePool" | "BatchNormalization" | "Cast" | "Col2Im" | "Concat" | "Conv"
        | "ConvTranspose" | "CumSum" | "DepthToSpace" | "Expand" | "Flatten" | "Gather"
        | "GatherElements" | "GatherND" | "GlobalAveragePool" | "GlobalMaxPool" | "Identity"
        | "LeakyRelu" | "Max" | "MaxPool" | "Mean" | "Min" | "Neg" | "PRelu" | "Pad"
        | "ReduceMax" | "ReduceMean" | "ReduceMin" | "ReduceSum" | "Relu" | "Reshape"
        | "Resize" | "Slice" | "Softmax" | "SpaceToDepth" | "Split" | "Squeeze" | "Sub" | "Sum"
        | "Tile" | "TopK" | "Transpose" | "Trilu" | "Unsqueeze" | "Where" => return None,
        "Celu" | "Clip" | "Elu" | "Erf" | "HardSigmoid" | "HardSwish" | "Mish" | "Selu"
        | "Shrink" | "Sigmoid" | "Softplus" | "Softsign" | "Tanh" | "ThresholdedRelu" => activation,
        "Div" => quotient,
        "Einsum" | "Gemm" | "MatMul" | "Mul" => product,
        "LayerNormalization" => normalisation::layer_normalization_at_its_deviation,
        _ => no_rule,
    }))
}

/// All relevance goes to the input (Eq. 9): y / x.
fn activation(ctx: &mut VjpContext) -> Result {
    let [dy, x, y] = [ctx.cotangent()?, ctx.input(0)?, ctx.output()].map(Expr::value);
    ctx.emit_active([dy * (y / stabilised(&x, 0.0))])
}

/// The divisor, as of a normalisation, gets nothing (Proposition 3.4): the walk leaves it out.
fn quotient(ctx: &mut VjpContext) -> Result {
    match ctx.is_active(0) {
        true => ctx.base(Overrides::default()),
        false => no_rule(ctx),
    }
}

/// Factors that all depend on the input share alike (Propositions 3.2 and 3.3).
fn product(ctx: &mut VjpContext) -> Result {
    let factors = match ctx.node.op_type.as_str() {
        "Gemm" => &ctx.active[..2],
        _ => ctx.active,
    };
    let count = factors.iter().filter(|active| **active).count();
    if count > 1 && ctx.node.is("Gemm") && ctx.is_active(2) {
        return Err(ctx.undefined("it has no rule for a product whose bias is computed, too"));
    }
    let dy = ctx.cotangent()?;
    let share = ctx.emit.scale(&dy, 1.0 / count.max(1) as f32)?;
    ctx.base(Overrides {
        cotangent: Some(share),
        weight: None,
    })
}
