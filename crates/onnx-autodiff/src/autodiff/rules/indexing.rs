//! Ops that read or write elements at indices. What was read gets its cotangent by ScatterElements
//! that adds: ONNX Runtime's ScatterND adds in parallel without a lock, and loses sums.

use crate::autodiff::{
    DeriveError,
    context::{Cotangents, VjpContext},
    emit::{Emitter, attributes},
};
use crate::onnx::graph::{Dim, Element, ValueType};

pub(crate) fn gather_elements(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let (dy, x, indices) = (ctx.cotangent()?, ctx.input(0)?, ctx.input(1)?);
    let axis = ctx.axis(ctx.node.int_or("axis", 0), ctx.emit.shape(&x)?.len())?;
    let zeros = ctx.emit.zeros_like(&x)?;
    let dx = add_at(ctx.emit, &zeros, &indices, &dy, axis)?;
    Ok(Cotangents::first(dx))
}

/// The values of TopK are elements of x at the indices that it gives.
pub(crate) fn top_k(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let (dy, x, count) = (ctx.cotangent()?, ctx.input(0)?, ctx.input(1)?);
    let axis = ctx.axis(ctx.node.int_or("axis", -1), ctx.emit.shape(&x)?.len())?;
    let indices = match ctx.node.output(1) {
        Some(indices) => indices.to_owned(),
        None => {
            let values = ctx.emit.value_type(&dy)?;
            let indices = ValueType::new(Element::Int64, values.shape.clone());
            let same = ctx.node.attributes.clone();
            let outputs = vec![values, indices];
            let mut again = ctx
                .emit
                .node_with_outputs("TopK", &[&x, &count], same, outputs);
            again.remove(1)
        }
    };
    let zeros = ctx.emit.zeros_like(&x)?;
    let dx = add_at(ctx.emit, &zeros, &indices, &dy, axis)?;
    Ok(Cotangents::first(dx))
}

/// Gather with indices that are computed: `dy` is added to the rows that were read, along `axis`.
pub(crate) fn add_rows(
    ctx: &mut VjpContext,
    indices: &str,
    axis: usize,
) -> Result<Cotangents, DeriveError> {
    let (dy, x) = (ctx.cotangent()?, ctx.input(0)?);
    let mut shape = ctx.emit.shape(&x)?;
    shape[axis] = product(&ctx.emit.shape(indices)?, indices);
    let unknown = shape.iter().filter(|dim| dim.known().is_none()).count();
    if unknown > 1 && ctx.emit.shape(&dy)? != shape {
        return Err(ctx.refusal("its indices depend on the batch"));
    }
    let dy = ctx.emit.reshape(&dy, &shape)?;
    let zeros = ctx.emit.zeros_like(&x)?;
    let dx = add_along(ctx.emit, &zeros, indices, &dy, axis)?;
    Ok(Cotangents::first(dx))
}

/// The axes that the indices reach are brought into one, behind those that both share.
pub(crate) fn gather_nd(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let (dy, x, indices) = (ctx.cotangent()?, ctx.input(0)?, ctx.input(1)?);
    let (shape, reads) = (ctx.emit.shape(&x)?, ctx.emit.shape(&indices)?);
    let shared = usize::try_from(ctx.node.int_or("batch_dims", 0)).ok();
    let shared = shared.filter(|&shared| shared < reads.len().min(shape.len()));
    let shared = shared.ok_or_else(|| ctx.refusal("its batch_dims do not fit its inputs"))?;
    let depth = reads.last().and_then(Dim::known);
    let depth = depth.filter(|depth| (1..=shape.len() - shared).contains(depth));
    let depth = depth.ok_or_else(|| ctx.refusal("the depth of its indices is not known"))?;
    let (lead, reached) = (&shape[..shared], &shape[shared..shared + depth]);
    let inner = reached[1..].iter().map(Dim::known);
    let Some(inner) = inner.collect::<Option<Vec<_>>>() else {
        return Err(ctx.refusal("it reads at indices of the batch"));
    };
    let count = product(&reads[shared..reads.len() - 1], &indices);
    let all = product(reached, &x);
    let row = product(&shape[shared + depth..], &dy);
    let behind = |sizes: [&Dim; 2]| lead.iter().chain(sizes).cloned().collect::<Vec<_>>();
    let (written, read) = (behind([&all, &row]), behind([&count, &row]));
    let unknown = |shape: &[Dim]| shape.iter().filter(|dim| dim.known().is_none()).count();
    if unknown(&written) > 1 || unknown(&read) > 1 {
        return Err(ctx.refusal("its indices depend on the batch"));
    }
    let steps: Vec<i64> = (0..depth)
        .map(|axis| inner[axis..].iter().product::<usize>() as i64)
        .collect();
    let column = behind([&count, &Dim::Known(1)]);
    let emit = &mut *ctx.emit;
    // Mod counts negative indices from the end.
    let ends = emit.shape_of(&x)?;
    let ends = emit.slice(&ends, &[(0, shared, shared + depth)])?;
    let wrapped = emit.binary("Mod", &indices, &ends)?;
    let steps = emit.i64s(&steps);
    let offsets = emit.mul(&wrapped, &steps)?;
    let places = emit.reduce_sum(&offsets, &[reads.len() - 1])?;
    let dy = emit.reshape(&dy, &read)?;
    let zeros = emit.zeros_like(&x)?;
    let zeros = emit.reshape(&zeros, &written)?;
    let dx = add_spread(emit, &zeros, &places, &dy, shared, &column)?;
    Ok(Cotangents::first(emit.reshape(&dx, &shape)?))
}

/// The elements that were overwritten get nothing, the updates what stands where they were written.
pub(crate) fn scatter_elements(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    scatter(ctx, "ScatterElements", "GatherElements", "axis")
}

/// As [`scatter_elements`].
pub(crate) fn scatter_nd(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    scatter(ctx, "ScatterND", "GatherND", "")
}

fn scatter(
    ctx: &mut VjpContext,
    write: &str,
    read: &str,
    shared: &str,
) -> Result<Cotangents, DeriveError> {
    let (dy, indices, updates) = (ctx.cotangent()?, ctx.input(1)?, ctx.input(2)?);
    let mut attributes = ctx.node.attributes.clone();
    attributes.retain(|name, _| name == shared);
    let output = ctx.emit.value_type(&dy)?;
    let ddata = match ctx.node.string("reduction").unwrap_or("none") {
        "add" => dy.clone(),
        "none" if ctx.is_active(0) => {
            let zeros = ctx.emit.zeros_like(&updates)?;
            let inputs = [dy.as_str(), &indices, &zeros];
            ctx.emit.node(write, &inputs, attributes.clone(), output)
        }
        "none" => dy.clone(),
        other => return Err(ctx.refusal(format!("reduction {other} is not derived"))),
    };
    let dupdates = if ctx.is_active(2) {
        let output = ctx.emit.value_type(&updates)?;
        Some(ctx.emit.node(read, &[&dy, &indices], attributes, output))
    } else {
        None
    };
    Ok(Cotangents(vec![Some(ddata), None, dupdates]))
}

/// Adds `dy` to `zeros` at the `indices` along `axis`, one for each element of `dy`.
fn add_at(
    emit: &mut Emitter,
    zeros: &str,
    indices: &str,
    dy: &str,
    axis: usize,
) -> Result<String, DeriveError> {
    let output = emit.value_type(zeros)?;
    let adds = attributes([("axis", (axis as i64).into()), ("reduction", "add".into())]);
    Ok(emit.node("ScatterElements", &[zeros, indices, dy], adds, output))
}

/// As [`add_at`], with one index for each row of `dy` along `axis`.
fn add_along(
    emit: &mut Emitter,
    zeros: &str,
    indices: &str,
    dy: &str,
    axis: usize,
) -> Result<String, DeriveError> {
    let shape = emit.shape(dy)?;
    let mut column = vec![Dim::Known(1); shape.len()];
    column[axis].clone_from(&shape[axis]);
    add_spread(emit, zeros, indices, dy, axis, &column)
}

/// As [`add_at`], with indices of the shape `column`, which is broadcast to that of `dy`.
fn add_spread(
    emit: &mut Emitter,
    zeros: &str,
    indices: &str,
    dy: &str,
    axis: usize,
    column: &[Dim],
) -> Result<String, DeriveError> {
    let indices = emit.reshape(indices, column)?;
    let whole = emit.shape_of(dy)?;
    let output = ValueType::new(emit.value_type(&indices)?.element, emit.shape(dy)?);
    let indices = emit.node("Expand", &[&indices, &whole], Default::default(), output);
    add_at(emit, zeros, &indices, dy, axis)
}

/// The number of elements of `dims`, or a symbol named after `value`.
fn product(dims: &[Dim], value: &str) -> Dim {
    if let [dim] = dims {
        return dim.clone();
    }
    let known = dims.iter().map(Dim::known).product::<Option<usize>>();
    known.map_or_else(|| Dim::Symbol(format!("{value} elements")), Dim::Known)
}
