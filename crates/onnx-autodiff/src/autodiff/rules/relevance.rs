//! Layer-wise relevance propagation: the cotangent of a value is its relevance R, in the unit of the
//! head, and each rule shares the relevance of a node's output out among its inputs (Bach et al.
//! 2015; rules as in Montavon et al. 2019, section 10.2). With s = R / (z + e sign(z)), sign(0) = 1,
//! inputs x of z = Σ x w + b get x wᵀs. Values agree with zennit's (tests/parity/lrp.rs of the
//! service).

use crate::autodiff::{
    DeriveError,
    context::{Cotangents, Overrides, Rule, VjpContext},
    expr::Expr,
    relevance::{LayerRule, Relevance},
    role::{Role, role},
};
use crate::onnx::graph::{Dim, Literal};

type Result<T = Cotangents> = std::result::Result<T, DeriveError>;

/// What keeps divisors of all rules but epsilon from zero.
const STABILISER: f32 = 1e-6;

/// The rule of an op; none where the gradient moves relevance as it is.
pub(crate) fn rule(op_type: &str) -> Option<Rule> {
    Some(Rule::Vjp(match op_type {
        "Cast" | "Concat" | "DepthToSpace" | "Expand" | "Flatten" | "Gather" | "GatherElements"
        | "GatherND" | "GlobalMaxPool" | "Identity" | "MaxPool" | "Pad" | "ReduceMax"
        | "ReduceMin" | "Reshape" | "Slice" | "SpaceToDepth" | "Split" | "Squeeze" | "Tile"
        | "TopK" | "Transpose" | "Trilu" | "Unsqueeze" | "Where" => return None,
        "BatchNormalization" | "Celu" | "Clip" | "Div" | "Elu" | "Erf" | "HardSigmoid"
        | "HardSwish" | "LeakyRelu" | "Mish" | "Mul" | "Neg" | "PRelu" | "Relu" | "Selu"
        | "Shrink" | "Sigmoid" | "Softplus" | "Softsign" | "Tanh" | "ThresholdedRelu" => pass,
        "Max" | "Min" => winner,
        "Add" | "Sub" => sum,
        "AveragePool" | "Col2Im" | "CumSum" | "GlobalAveragePool" | "Mean" | "ReduceMean"
        | "ReduceSum" | "Resize" | "Sum" => linear,
        "Conv" | "ConvTranspose" | "Einsum" | "Gemm" | "MatMul" => product,
        _ => no_rule,
    }))
}

pub(super) fn no_rule(ctx: &mut VjpContext) -> Result {
    match ctx.overridden {
        // Nor has it a gradient.
        [] => ctx.base(Overrides::default()),
        _ => Err(ctx.undefined("it has no rule for this op")),
    }
}

/// Activations, and scales and shifts by constants: all relevance goes to the input.
fn pass(ctx: &mut VjpContext) -> Result {
    let relevance = ctx.cotangent()?;
    let mut active = (0..ctx.active.len()).filter(|&index| ctx.is_active(index));
    let (Some(index), None) = (active.next(), active.next()) else {
        return Err(ctx.undefined("it has no rule for two factors of which neither is a gate"));
    };
    if ctx.node.op_type == "Div" && index == 1 {
        return no_rule(ctx);
    }
    let mut found = vec![None; index];
    found.push(Some(relevance));
    Ok(Cotangents(found))
}

/// An activation where there is one input beside constants; else the greatest input takes all.
fn winner(ctx: &mut VjpContext) -> Result {
    match ctx.active.iter().filter(|active| **active).count() {
        1 => pass(ctx),
        _ => ctx.base(Overrides::default()),
    }
}

/// In proportion to the summands. A constant is a bias, which takes its share; in front of the first
/// layer it is a shift of the input, which does not.
fn sum(ctx: &mut VjpContext) -> Result {
    let facts = facts(ctx)?;
    let mut inputs = ctx.node.inputs.iter().zip(ctx.active);
    let shifts = inputs.any(|(input, active)| !active && !facts.is_behind(input));
    let mut inputs = ctx.node.inputs.iter();
    match shifts && !inputs.any(|input| facts.is_behind(input)) {
        true => pass(ctx),
        false => linear(ctx),
    }
}

fn linear(ctx: &mut VjpContext) -> Result {
    in_proportion(ctx, STABILISER)
}

/// x times the gradient of R / z: for what is linear in its active inputs.
fn in_proportion(ctx: &mut VjpContext, epsilon: f32) -> Result {
    let z = Expr::value(ctx.output());
    let s = quotient(ctx, &z, epsilon)?.emit(ctx.emit)?;
    let Cotangents(mut found) = ctx.base(Overrides {
        cotangent: Some(s),
        weight: None,
    })?;
    for (index, gradient) in found.iter_mut().enumerate() {
        if let Some(gradient) = gradient.as_mut().filter(|_| ctx.is_active(index)) {
            let x = ctx.input(index)?;
            *gradient = ctx.emit.mul(gradient, &x)?;
        }
    }
    Ok(Cotangents(found))
}

/// By the composite at Linear layers; epsilon at other products with constants.
fn product(ctx: &mut VjpContext) -> Result {
    let factors = match ctx.node.op_type.as_str() {
        "Einsum" => ctx.active,
        _ => &ctx.active[..ctx.active.len().min(2)],
    };
    if factors.iter().filter(|active| **active).count() > 1 {
        return Err(
            ctx.undefined("it has no rule for products of values that both depend on the input")
        );
    }
    let facts = facts(ctx)?;
    let is_layer = ctx.is_active(0) && role(ctx.node, &ctx.emit.graph) == Some(Role::Linear);
    let rule = match is_layer {
        true => facts.rule(ctx.node),
        false => LayerRule::Epsilon,
    };
    if rule == LayerRule::Epsilon {
        return in_proportion(ctx, facts.lrp.epsilon.0);
    }
    if ctx.is_active(2) || ctx.node.int_or("transA", 0) != 0 {
        return Err(ctx.undefined(
            "it has no rule for a layer whose bias is computed or whose input is transposed",
        ));
    }
    let relevance = match rule {
        LayerRule::Epsilon => return linear(ctx),
        LayerRule::Gamma => gamma(ctx, facts)?,
        LayerRule::AlphaBeta(alpha, beta) => alpha_beta(ctx, facts, alpha, beta)?,
        LayerRule::Flat => by_weight(ctx, "ones", &|_| 1.0)?,
        LayerRule::WSquare => by_weight(ctx, "squares", &|w| w * w)?,
        LayerRule::Box => z_box(ctx, facts)?,
    };
    ctx.emit_active([relevance])
}

/// Contributions with a positive sign get alpha R in proportion, those with a negative sign
/// -beta R; the rule z-plus is alpha 1 and beta 0.
fn alpha_beta(ctx: &mut VjpContext, facts: &Relevance, alpha: f32, beta: f32) -> Result<Expr> {
    let positive = Half::of(ctx, facts, [("positive", &above), ("negative", &below)])?;
    let s = quotient(ctx, &positive.z, STABILISER)?;
    let favour = positive.share(ctx, &s)? * alpha;
    if beta == 0.0 {
        return Ok(favour);
    }
    let negative = Half::of(ctx, facts, [("negative", &below), ("positive", &above)])?;
    let s = quotient(ctx, &negative.z, STABILISER)?;
    Ok(favour + negative.share(ctx, &s)? * -beta)
}

/// Outputs above zero with contributions of w + gamma max(w, 0), those below with w + gamma min(w,
/// 0), each the other way round for inputs below zero (Andéol et al. 2021).
fn gamma(ctx: &mut VjpContext, facts: &Relevance) -> Result<Expr> {
    let gamma = f64::from(facts.lrp.gamma.0);
    let up = |value: f64| value + gamma * value.max(0.0);
    let down = |value: f64| value + gamma * value.min(0.0);
    let y = Expr::value(ctx.output());
    let positive = Half::of(
        ctx,
        facts,
        [("gamma_positive", &up), ("gamma_negative", &down)],
    )?;
    let s = quotient(ctx, &positive.z, STABILISER)? * y.above(0.0);
    let above = positive.share(ctx, &s)?;
    let negative = Half::of(
        ctx,
        facts,
        [("gamma_negative", &down), ("gamma_positive", &up)],
    )?;
    let s = quotient(ctx, &negative.z, STABILISER)? * y.below(0.0);
    Ok(above + negative.share(ctx, &s)?)
}

/// Whatever the input: x is ones, w changed, and there is no bias. In equal shares for weights of 1
/// (flat, Bach et al. 2016); the rule w-square for their squares (Montavon et al. 2017).
fn by_weight(ctx: &mut VjpContext, change: &str, each: &dyn Fn(f64) -> f64) -> Result<Expr> {
    let weight = weight(ctx, change, each)?;
    let ones = constant_input(ctx, &[1.0])?;
    let z = Expr::value(again(ctx, &ones, &weight, None)?);
    let s = quotient(ctx, &z, STABILISER)?;
    back(ctx, &s, &weight)
}

/// z = x w - l max(w, 0) - h min(w, 0), for inputs between l and h (Montavon et al. 2017).
fn z_box(ctx: &mut VjpContext, facts: &Relevance) -> Result<Expr> {
    let (x, bounds) = (ctx.input(0)?, &facts.lrp.bounds);
    let channels = ctx.emit.size(&x, 1)?;
    if bounds.is_empty() {
        return Err(
            ctx.undefined("the rule z-box needs the least and the greatest value of the input")
        );
    }
    if !facts.is_copy(&x) || ![1, channels].contains(&bounds.len()) {
        return Err(ctx.undefined(
            "the rule z-box needs the bounds of what the first layer reads, and it does not read the input as it is",
        ));
    }
    let [low, high] = [0, 1].map(|side| -> Vec<f32> {
        let of_channels = bounds.iter();
        of_channels.map(|bounds| bounds[side].0).collect()
    });
    let parts = [
        (x, ctx.weight()?, 1.0),
        (
            constant_input(ctx, &low)?,
            weight(ctx, "positive", &above)?,
            -1.0,
        ),
        (
            constant_input(ctx, &high)?,
            weight(ctx, "negative", &below)?,
            -1.0,
        ),
    ];
    let z = parts.iter().map(|(x, weight, sign)| {
        let z = again(ctx, x, weight, None)?;
        Ok(Expr::value(z) * *sign)
    });
    let z = total(z.collect::<Result<Vec<_>>>()?);
    let s = quotient(ctx, &z, STABILISER)?;
    let shares = parts.iter().map(|(x, weight, sign)| {
        let share = back(ctx, &s, weight)?;
        Ok(Expr::value(x) * share * *sign)
    });
    Ok(total(shares.collect::<Result<Vec<_>>>()?))
}

fn above(value: f64) -> f64 {
    value.max(0.0)
}

fn below(value: f64) -> f64 {
    value.min(0.0)
}

fn total(parts: Vec<Expr>) -> Expr {
    let sum = parts.into_iter().reduce(|sum, part| sum + part);
    sum.unwrap_or_else(|| 0.0.into())
}

/// A weight under the name of its change.
type Changed<'a> = (&'a str, &'a dyn Fn(f64) -> f64);

/// A layer whose weight depends on the sign of its input.
struct Half {
    z: Expr,
    /// Inputs and their weights.
    parts: Vec<(String, String)>,
}

impl Half {
    /// With a change of the weight for inputs above zero, which the bias undergoes too, and one for
    /// inputs below zero.
    fn of(ctx: &mut VjpContext, facts: &Relevance, [up, down]: [Changed; 2]) -> Result<Self> {
        let x = ctx.input(0)?;
        let weight_up = weight(ctx, up.0, up.1)?;
        let bias = match ctx.optional(2) {
            Some(bias) => Some(changed(ctx, &bias, &format!("bias_{}", up.0), up.1)?),
            None => None,
        };
        if facts.is_nonnegative(&x) {
            let z = Expr::value(again(ctx, &x, &weight_up, bias.as_deref())?);
            let parts = vec![(x, weight_up)];
            return Ok(Self { z, parts });
        }
        let weight_down = weight(ctx, down.0, down.1)?;
        let x = Expr::value(x);
        let (over, under) = (x.relu().emit(ctx.emit)?, x.min(0.0).emit(ctx.emit)?);
        let z = Expr::value(again(ctx, &over, &weight_up, bias.as_deref())?)
            + Expr::value(again(ctx, &under, &weight_down, None)?);
        let parts = vec![(over, weight_up), (under, weight_down)];
        Ok(Self { z, parts })
    }

    /// x wᵀs.
    fn share(&self, ctx: &mut VjpContext, s: &Expr) -> Result<Expr> {
        let s = Expr::value(s.emit(ctx.emit)?);
        let shares = self
            .parts
            .iter()
            .map(|(x, weight)| Ok(back(ctx, &s, weight)? * Expr::value(x)));
        Ok(total(shares.collect::<Result<Vec<_>>>()?))
    }
}

/// R over the [`stabilised`] z.
fn quotient(ctx: &VjpContext, z: &Expr, epsilon: f32) -> Result<Expr> {
    Ok(Expr::value(ctx.cotangent()?) / stabilised(z, epsilon))
}

/// z + e sign(z), where sign(0) is 1; for e = 0, 1 where z is 0.
pub(crate) fn stabilised(z: &Expr, epsilon: f32) -> Expr {
    let away = match epsilon {
        0.0 => 1.0 - z.sign().abs(),
        _ => z.below(0.0) * (-2.0 * epsilon) + epsilon,
    };
    z + away
}

/// The node once more, of another input and weight.
fn again(ctx: &mut VjpContext, x: &str, weight: &str, bias: Option<&str>) -> Result<String> {
    let mut output = ctx.emit.value_type(&ctx.output())?;
    if let (Some(batch), Some(of)) = (output.shape.first_mut(), ctx.emit.shape(x)?.first()) {
        batch.clone_from(of);
    }
    let inputs: Vec<&str> = [x, weight].into_iter().chain(bias).collect();
    let attributes = ctx.node.attributes.clone();
    Ok(ctx
        .emit
        .node(&ctx.node.op_type, &inputs, attributes, output))
}

/// wᵀs.
fn back(ctx: &mut VjpContext, s: &Expr, weight: &str) -> Result<Expr> {
    let s = s.emit(ctx.emit)?;
    let Cotangents(found) = ctx.base(Overrides {
        cotangent: Some(s),
        weight: Some(weight.to_owned()),
    })?;
    let of_input = found.into_iter().next().flatten();
    let of_input = of_input.ok_or_else(|| ctx.refusal("no gradient with respect to input 0"))?;
    Ok(Expr::value(of_input))
}

/// The weight with every element changed.
fn weight(ctx: &mut VjpContext, change: &str, each: &dyn Fn(f64) -> f64) -> Result<String> {
    let weight = ctx.weight()?;
    changed(ctx, &weight, change, each)
}

fn changed(
    ctx: &mut VjpContext,
    constant: &str,
    change: &str,
    each: &dyn Fn(f64) -> f64,
) -> Result<String> {
    let literal = ctx.emit.literal(constant).cloned();
    let literal = literal
        .filter(|literal| literal.element.is_float())
        .ok_or_else(|| ctx.refusal(format!("{constant} is not a constant of floats")))?;
    let name = format!("{}/lrp/{change}", ctx.node.outputs[0]);
    ctx.emit.weight(name, || {
        let values: Vec<f64> = literal.to_f64s().into_iter().map(each).collect();
        Ok(Literal::from_f64s(literal.element, &literal.shape, &values))
    })
}

/// One row in the shape of the input: of one number, or of one for each channel.
fn constant_input(ctx: &mut VjpContext, numbers: &[f32]) -> Result<String> {
    let x = ctx.input(0)?;
    let mut shape = ctx.emit.shape(&x)?;
    shape[0] = Dim::Known(1);
    let mut narrow = vec![1; shape.len()];
    if let Some(channels) = narrow.get_mut(1) {
        *channels = numbers.len();
    }
    let numbers = ctx.emit.floats(&narrow, numbers, &x)?;
    ctx.emit.expand(&numbers, &shape)
}

fn facts<'a>(ctx: &VjpContext<'a>) -> Result<&'a Relevance<'a>> {
    let found = ctx.relevance;
    found.ok_or_else(|| ctx.refusal("its rule is one of layer-wise relevance propagation"))
}
