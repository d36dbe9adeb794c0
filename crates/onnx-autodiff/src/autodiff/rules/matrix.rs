//! Gemm and MatMul. Constant operands are transposed by attributes of Gemm, so that no weight is
//! copied.

use crate::autodiff::{
    DeriveError,
    context::{Cotangents, VjpContext},
    emit::{Emitter, attributes},
};
use crate::onnx::graph::{Dim, ValueType};

/// Y = α A' B' + β C: dA' = α dY B'ᵀ, dB' = α A'ᵀ dY, dC = β dY.
pub(crate) fn gemm(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let (dy, a, b) = (ctx.cotangent()?, ctx.input(0)?, ctx.weight()?);
    let (trans_a, trans_b) = (
        ctx.node.int_or("transA", 0) != 0,
        ctx.node.int_or("transB", 0) != 0,
    );
    let (alpha, beta) = (
        ctx.node.float_or("alpha", 1.0),
        ctx.node.float_or("beta", 1.0),
    );
    let (like_a, like_b) = (ctx.emit.value_type(&a)?, ctx.emit.value_type(&b)?);
    let da = if !ctx.is_active(0) {
        None
    } else if trans_a {
        Some(product(ctx.emit, (&b, trans_b), (&dy, true), alpha, like_a))
    } else {
        Some(product(
            ctx.emit,
            (&dy, false),
            (&b, !trans_b),
            alpha,
            like_a,
        ))
    };
    let db = if !ctx.is_active(1) {
        None
    } else if trans_b {
        Some(product(ctx.emit, (&dy, true), (&a, trans_a), alpha, like_b))
    } else {
        Some(product(
            ctx.emit,
            (&a, !trans_a),
            (&dy, false),
            alpha,
            like_b,
        ))
    };
    let dc = if ctx.is_active(2) {
        Some(ctx.emit.scale(&dy, beta)?)
    } else {
        None
    };
    Ok(Cotangents(vec![da, db, dc]))
}

fn product(
    emit: &mut Emitter,
    a: (&str, bool),
    b: (&str, bool),
    alpha: f32,
    output: ValueType,
) -> String {
    let flags = attributes([
        ("alpha", alpha.into()),
        ("transA", i64::from(a.1).into()),
        ("transB", i64::from(b.1).into()),
    ]);
    emit.node("Gemm", &[a.0, b.0], flags, output)
}

/// Y = A B, batched with broadcasting: dA = dY Bᵀ, dB = Aᵀ dY. An operand of rank 1 is a row on the
/// left and a column on the right.
pub(crate) fn mat_mul(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let (mut dy, mut a, mut b) = (ctx.cotangent()?, ctx.input(0)?, ctx.weight()?);
    let (rank_a, rank_b) = (ctx.emit.shape(&a)?.len(), ctx.emit.shape(&b)?.len());
    if rank_b == 1 {
        b = with_axis(ctx.emit, &b, 1)?;
        let last = ctx.emit.shape(&dy)?.len();
        dy = with_axis(ctx.emit, &dy, last)?;
    }
    if rank_a == 1 {
        a = with_axis(ctx.emit, &a, 0)?;
        let columns = ctx.emit.shape(&dy)?.len() - 1;
        dy = with_axis(ctx.emit, &dy, columns)?;
    }
    let (type_a, type_b) = (ctx.emit.value_type(&a)?, ctx.emit.value_type(&b)?);
    let da = if !ctx.is_active(0) {
        None
    } else if type_a.shape.len() == 2 && type_b.shape.len() == 2 {
        Some(product(ctx.emit, (&dy, false), (&b, true), 1.0, type_a))
    } else {
        let bt = swap_last_two(ctx.emit, &b)?;
        Some(batched(ctx.emit, &dy, &bt)?)
    };
    let mut db = if !ctx.is_active(1) {
        None
    } else if type_b.shape.len() == 2 {
        Some(weight_gradient(ctx.emit, &a, &dy, type_b, false)?)
    } else {
        let at = swap_last_two(ctx.emit, &a)?;
        Some(batched(ctx.emit, &at, &dy)?)
    };
    if let Some(column) = db.as_mut().filter(|_| rank_b == 1) {
        let mut shape = ctx.emit.shape(column)?;
        shape.pop();
        *column = ctx.emit.reshape(column, &shape)?;
    }
    Ok(Cotangents(vec![da, db]))
}

/// The cotangent is cut as the input was.
pub(crate) fn trilu(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let dy = ctx.cotangent()?;
    let output = ctx.emit.value_type(&dy)?;
    let mut inputs = vec![dy];
    inputs.extend(ctx.optional(1));
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    let upper = attributes([("upper", ctx.node.int_or("upper", 1).into())]);
    let dx = ctx.emit.node("Trilu", &inputs, upper, output);
    Ok(Cotangents::first(dx))
}

/// `x` with an axis of one element at `axis`.
fn with_axis(emit: &mut Emitter, x: &str, axis: usize) -> Result<String, DeriveError> {
    let mut shape = emit.shape(x)?;
    shape.insert(axis, Dim::Known(1));
    emit.reshape(x, &shape)
}

/// Xᵀ dY (or dYᵀ X for a weight that is used transposed) over the rows of all leading axes: the
/// gradient of a `weight` of this type.
pub(crate) fn weight_gradient(
    emit: &mut Emitter,
    x: &str,
    dy: &str,
    weight: ValueType,
    transposed: bool,
) -> Result<String, DeriveError> {
    let rows = |emit: &mut Emitter, value: &str| -> Result<String, DeriveError> {
        let shape = emit.shape(value)?;
        if shape.len() == 2 {
            return Ok(value.to_owned());
        }
        let last = shape[shape.len() - 1].clone();
        emit.reshape(value, &[Dim::Symbol(format!("{value} rows")), last])
    };
    let (x, dy) = (rows(emit, x)?, rows(emit, dy)?);
    let (left, right) = if transposed { (&dy, &x) } else { (&x, &dy) };
    Ok(product(emit, (left, true), (right, false), 1.0, weight))
}

fn swap_last_two(emit: &mut Emitter, x: &str) -> Result<String, DeriveError> {
    let rank = emit.shape(x)?.len();
    let mut perm: Vec<usize> = (0..rank).collect();
    perm.swap(rank - 2, rank - 1);
    emit.transpose(x, &perm)
}

/// MatMul of two operands of rank at least 2.
pub(crate) fn batched(emit: &mut Emitter, a: &str, b: &str) -> Result<String, DeriveError> {
    let (left, right) = (emit.value_type(a)?, emit.shape(b)?);
    let (rows, columns) = (left.shape.len() - 2, right.len() - 1);
    let mut shape = crate::autodiff::emit::broadcast(&left.shape[..rows], &right[..columns - 1]);
    shape.extend([left.shape[rows].clone(), right[columns].clone()] as [Dim; 2]);
    Ok(emit.node(
        "MatMul",
        &[a, b],
        Default::default(),
        ValueType {
            element: left.element,
            shape,
        },
    ))
}
