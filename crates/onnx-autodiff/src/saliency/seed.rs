//! The cotangent of the head `[batch, classes]`, made inside the graph: one at the class that is
//! explained.

use super::Target;
use crate::{
    autodiff::{
        DeriveError,
        emit::{Emitter, attributes},
    },
    onnx::graph::{Dim, Element, Literal, ValueInfo, ValueType},
};

/// From the value `logits` of `emit`. With [`Target::Input`] the graph gets the input `target`.
pub(super) fn seed(emit: &mut Emitter, target: &Target) -> Result<String, DeriveError> {
    emit.set_scope("target".into());
    let shape = emit.shape("logits")?;
    let (batch, classes) = (shape[0].clone(), emit.size("logits", 1)?);
    let class = match target {
        Target::Seed(weights) => return fixed(emit, weights, classes, &shape),
        Target::Predicted => {
            let largest = attributes([("axis", 1.into()), ("keepdims", 1.into())]);
            let one = ValueType::new(Element::Int64, vec![batch, 1.into()]);
            emit.node("ArgMax", &["logits"], largest, one)
        }
        Target::Input => {
            if emit.graph.inputs.iter().any(|input| input.name == "target") {
                return Err(DeriveError::ReservedInput {
                    names: vec!["target".into()],
                });
            }
            let value_type = ValueType::new(Element::Int64, vec![batch.clone()]);
            let target = emit.add_input(ValueInfo {
                name: "target".into(),
                value_type,
            });
            emit.reshape(&target, &[batch, 1.into()])?
        }
    };
    let indices: Vec<i64> = (0..classes as i64).collect();
    let indices = emit.constant(Literal::from_i64s(&[1, classes], &indices));
    let is_target = emit.compare("Equal", &class, &indices)?;
    emit.cast(&is_target, Element::Float)
}

/// The same cotangent in every row.
fn fixed(
    emit: &mut Emitter,
    weights: &[(usize, f32)],
    classes: usize,
    shape: &[Dim],
) -> Result<String, DeriveError> {
    let mut row = vec![0.0; classes];
    for &(class, weight) in weights {
        let place = row.get_mut(class);
        *place.ok_or(DeriveError::NoClass { class, classes })? += weight;
    }
    let row = emit.constant(Literal::from_f32s(&[1, classes], &row));
    if shape[0] == Dim::Known(1) {
        return Ok(row);
    }
    let rows = emit.shape_of("logits")?;
    let value_type = ValueType::new(Element::Float, shape.to_vec());
    Ok(emit.node("Expand", &[&row, &rows], attributes([]), value_type))
}
