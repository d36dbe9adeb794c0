//! Reductions over constant axes. The cotangent is unsqueezed and broadcast over the reduced axes.
//! Kinks: the cotangent of ReduceMax and ReduceMin goes to the first of equal extremes; that of
//! ReduceL2 is zero at the zero vector.

use crate::autodiff::{
    DeriveError,
    context::{Cotangents, VjpContext},
    emit::attributes,
    expr::Expr,
};
use crate::onnx::graph::{Dim, Element, ValueType};

type Found = Result<Cotangents, DeriveError>;

/// A reduction; its cotangent has ones where axes were reduced away.
struct Reduction {
    axes: Vec<usize>,
    /// The elements that one element of the output is made of.
    count: usize,
    shape: Vec<Dim>,
    x: Expr,
    dy: Expr,
}

impl Reduction {
    fn of(ctx: &mut VjpContext) -> Result<Self, DeriveError> {
        let x = ctx.input(0)?;
        let shape = ctx.emit.shape(&x)?;
        let axes = axes(ctx, shape.len())?;
        let mut kept = shape.clone();
        let mut count = 1;
        for &axis in &axes {
            let size = kept[axis].known();
            count *= size.ok_or_else(|| ctx.refusal("it reduces over the batch"))?;
            kept[axis] = Dim::Known(1);
        }
        let dy = ctx.emit.reshape(&ctx.cotangent()?, &kept)?;
        Ok(Self {
            axes,
            count,
            shape,
            x: Expr::value(x),
            dy: Expr::value(dy),
        })
    }

    /// Of more than a sum or an extreme. Over no axes, versions of ONNX differ in what it gives.
    fn of_axes(ctx: &mut VjpContext) -> Result<Self, DeriveError> {
        let of = Self::of(ctx)?;
        match of.axes.is_empty() {
            true => Err(ctx.refusal("it reduces over no axes")),
            false => Ok(of),
        }
    }

    /// The output, with ones where axes were reduced away.
    fn output(&self, ctx: &mut VjpContext) -> Result<Expr, DeriveError> {
        let mut kept = self.shape.clone();
        self.axes
            .iter()
            .for_each(|&axis| kept[axis] = Dim::Known(1));
        ctx.emit.reshape(&ctx.output(), &kept).map(Expr::value)
    }

    /// A value with ones where axes were reduced away, in the shape of x.
    fn spread(&self, ctx: &mut VjpContext, value: Expr) -> Found {
        let value = value.emit(ctx.emit)?;
        Ok(Cotangents::first(ctx.emit.expand(&value, &self.shape)?))
    }
}

pub(crate) fn reduce_sum(ctx: &mut VjpContext) -> Found {
    let of = Reduction::of(ctx)?;
    of.spread(ctx, of.dy.clone())
}

pub(crate) fn reduce_mean(ctx: &mut VjpContext) -> Found {
    let of = Reduction::of(ctx)?;
    of.spread(ctx, &of.dy * (1.0 / of.count as f32))
}

/// y = Σ |x|: dx = dy sign(x).
pub(crate) fn reduce_l1(ctx: &mut VjpContext) -> Found {
    let Reduction { x, dy, .. } = Reduction::of_axes(ctx)?;
    ctx.emit_active([dy * x.sign()])
}

/// y = √Σ x²: dx = dy x / y.
pub(crate) fn reduce_l2(ctx: &mut VjpContext) -> Found {
    let of = Reduction::of_axes(ctx)?;
    let y = of.output(ctx)?;
    ctx.emit_active([of.dy * (of.x / or_one(&y))])
}

/// y = Σ x²: dx = 2 dy x.
pub(crate) fn reduce_sum_square(ctx: &mut VjpContext) -> Found {
    let Reduction { x, dy, .. } = Reduction::of_axes(ctx)?;
    ctx.emit_active([(dy * 2.0) * x])
}

/// y = log Σ x: dx = dy / Σ x.
pub(crate) fn reduce_log_sum(ctx: &mut VjpContext) -> Found {
    let of = Reduction::of_axes(ctx)?;
    of.spread(ctx, &of.dy / of.x.sum(&of.axes))
}

/// y = log Σ eˣ: dx = dy e^(x - y).
pub(crate) fn reduce_log_sum_exp(ctx: &mut VjpContext) -> Found {
    let of = Reduction::of_axes(ctx)?;
    let y = of.output(ctx)?;
    ctx.emit_active([of.dy * (of.x - y).exp()])
}

/// y = Π x: dx = dy times the product of the other elements. With p the product of those that are
/// not zero: p / x where no other element is zero (p for x = 0), else 0.
pub(crate) fn reduce_prod(ctx: &mut VjpContext) -> Found {
    let Reduction { x, dy, axes, .. } = Reduction::of_axes(ctx)?;
    let zero = 1.0 - x.sign().abs();
    let filled = x + &zero;
    let other_zeros = zero.sum(&axes) - &zero;
    let alone = 1.0 - other_zeros.min(1.0);
    ctx.emit_active([dy * (filled.product(&axes) / &filled) * alone])
}

pub(crate) fn reduce_max(ctx: &mut VjpContext) -> Found {
    extreme(ctx, "ArgMax")
}

pub(crate) fn reduce_min(ctx: &mut VjpContext) -> Found {
    extreme(ctx, "ArgMin")
}

/// The reduced axes are brought together at the end, where the first extreme is one-hot.
fn extreme(ctx: &mut VjpContext, arg: &str) -> Found {
    let of = Reduction::of(ctx)?;
    let mut perm: Vec<usize> = (0..of.shape.len())
        .filter(|axis| !of.axes.contains(axis))
        .collect();
    let dims = |perm: &[usize]| -> Vec<Dim> {
        let axes = perm.iter();
        axes.map(|&axis| of.shape[axis].clone()).collect()
    };
    let mut flat = dims(&perm);
    flat.push(Dim::Known(of.count));
    perm.extend(&of.axes);
    let together = ctx.emit.transpose(&ctx.input(0)?, &perm)?;
    let together = ctx.emit.reshape(&together, &flat)?;
    let hot = first_extreme(ctx, arg, &together)?;
    let hot = ctx.emit.reshape(&hot, &dims(&perm))?;
    let mut back = vec![0; perm.len()];
    perm.iter()
        .enumerate()
        .for_each(|(to, &from)| back[from] = to);
    let hot = Expr::value(ctx.emit.transpose(&hot, &back)?);
    ctx.emit_active([of.dy * hot])
}

/// Ones at the first extreme (`ArgMax` or `ArgMin`) along the last axis of `x`, zeros elsewhere.
pub(crate) fn first_extreme(
    ctx: &mut VjpContext,
    arg: &str,
    x: &str,
) -> Result<String, DeriveError> {
    let x_type = ctx.emit.value_type(x)?;
    let rank = x_type.shape.len();
    let depth = ctx.emit.size(x, rank - 1)?;
    let index_type = ValueType::new(Element::Int64, x_type.shape[..rank - 1].to_vec());
    let along = attributes([("axis", (rank as i64 - 1).into()), ("keepdims", 0.into())]);
    let index = ctx.emit.node(arg, &[x], along, index_type);
    let depth = ctx.emit.i64s(&[depth as i64]);
    let values = ctx.emit.floats(&[2], &[0.0, 1.0], x)?;
    Ok(ctx.emit.node(
        "OneHot",
        &[&index, &depth, &values],
        attributes([("axis", (-1).into())]),
        x_type,
    ))
}

/// The sums along an axis run backwards.
pub(crate) fn cum_sum(ctx: &mut VjpContext) -> Found {
    let (dy, axis) = (ctx.cotangent()?, ctx.input(1)?);
    let output = ctx.emit.value_type(&dy)?;
    let turned = attributes([
        ("exclusive", ctx.node.int_or("exclusive", 0).into()),
        ("reverse", (1 - ctx.node.int_or("reverse", 0)).into()),
    ]);
    let dx = ctx.emit.node("CumSum", &[&dy, &axis], turned, output);
    Ok(Cotangents::first(dx))
}

/// y ≥ 0, with 1 in the place of zeros: a divisor for what is zero there.
pub(crate) fn or_one(y: &Expr) -> Expr {
    y + (1.0 - y.sign())
}

/// The reduced axes, from input 1 (or the attribute, where opset 18 has not moved it), ascending.
/// None given means all.
fn axes(ctx: &VjpContext, rank: usize) -> Result<Vec<usize>, DeriveError> {
    let given = match ctx.constant_i64(1)? {
        Some(axes) => axes,
        None => ctx.node.ints("axes").unwrap_or_default().to_vec(),
    };
    if given.is_empty() && ctx.node.int_or("noop_with_empty_axes", 0) == 0 {
        return Ok((0..rank).collect());
    }
    let axes = given.iter().map(|&axis| ctx.axis(axis, rank));
    let mut axes = axes.collect::<Result<Vec<_>, _>>()?;
    axes.sort_unstable();
    Ok(axes)
}
