//! Einsum: the gradient of an operand is an Einsum of the cotangent and the other operands.

use crate::autodiff::{
    DeriveError,
    context::{Cotangents, VjpContext},
    emit::attributes,
};
use crate::onnx::{
    einsum::{Equation, has_repeats, write},
    graph::{Attribute, Dim, ValueType},
};

/// For y = Einsum(A, B, …): dA = Einsum(dy, B, …) with the labels of A. A label that A alone has was
/// summed over: its axis repeats the cotangent.
pub(crate) fn einsum(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let dy = ctx.cotangent()?;
    let operands = ctx.node.inputs.clone();
    let shapes = operands.iter().map(|operand| ctx.emit.shape(operand));
    let shapes = shapes.collect::<Result<Vec<_>, _>>()?;
    let ranks: Vec<usize> = shapes.iter().map(Vec::len).collect();
    let equation = Equation::of(ctx.node, &ranks).map_err(|reason| ctx.refusal(reason))?;
    let mut cotangents = vec![None; operands.len()];
    for (index, labels) in equation.operands.iter().enumerate() {
        if !ctx.is_active(index) {
            continue;
        }
        if has_repeats(labels) {
            return Err(ctx.refusal(format!(
                "operand {index} has a label twice: the gradient of a diagonal is not derived"
            )));
        }
        let others: Vec<usize> = (0..operands.len())
            .filter(|&other| other != index)
            .collect();
        let mut terms = vec![equation.output.clone()];
        let (mut inputs, mut sizes) = (vec![dy.as_str()], vec![ctx.emit.shape(&dy)?]);
        for &other in &others {
            terms.push(equation.operands[other].clone());
            inputs.push(&operands[other]);
            sizes.push(shapes[other].clone());
        }
        let size = |label: &char| -> Option<Dim> {
            let found = terms.iter().zip(&sizes).filter_map(|(term, sizes)| {
                let axis = term.iter().position(|other| other == label)?;
                Some(sizes[axis].clone())
            });
            found.max_by_key(|dim| *dim != Dim::Known(1))
        };
        let carried: Vec<char> = labels
            .iter()
            .copied()
            .filter(|label| size(label).is_some())
            .collect();
        let output = ValueType {
            element: ctx.emit.value_type(&dy)?.element,
            shape: carried.iter().filter_map(size).collect(),
        };
        let sizes: Vec<Dim> = labels
            .iter()
            .map(|label| size(label).unwrap_or(Dim::Known(1)))
            .collect();
        let text = Attribute::String(write(&terms, &carried).into());
        let product = ctx
            .emit
            .node("Einsum", &inputs, attributes([("equation", text)]), output);
        let product = ctx.emit.reshape(&product, &sizes)?;
        // Where the operand has several elements and the result one, it was summed over.
        let mut whole = sizes;
        for (size, dim) in whole.iter_mut().zip(&shapes[index]) {
            if *size != Dim::Known(1) {
                continue;
            }
            if dim.known().is_none() {
                return Err(ctx.refusal("it sums over the batch"));
            }
            size.clone_from(dim);
        }
        cotangents[index] = Some(ctx.emit.expand(&product, &whole)?);
    }
    Ok(Cotangents(cotangents))
}
