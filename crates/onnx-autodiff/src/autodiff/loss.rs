//! Losses on the logits, for training: the loss of each row, and the cotangent that the backward
//! walk starts with. Cross-entropy: -Σ t log softmax(z), with gradient softmax(z) - t; of a single
//! logit log(1 + exp z) - t z, with gradient sigmoid(z) - t. Mean squared error: Σ (z - t)² / C,
//! with gradient 2 (z - t) / C.

use super::{
    DeriveError,
    emit::{Emitter, attributes},
    forward::BATCH,
};
use crate::onnx::graph::{Dim, Element, ValueInfo, ValueType};

/// What the logits of a row are compared with its target by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The target is a distribution over the classes, such as a one-hot row; of a single logit, the
    /// probability of the class.
    CrossEntropy,
    /// The target is what the logits should be; the mean over the classes.
    MeanSquaredError,
}

/// Values of a loss.
pub(super) struct LossValues {
    /// `[batch]`.
    pub loss: String,
    /// The gradient of its sum with respect to the logits, `[batch, classes]`.
    pub cotangent: String,
}

/// Adds the input `target` and the loss of these logits.
pub(super) fn attach(
    emit: &mut Emitter,
    loss: Loss,
    logits: &str,
    classes: usize,
) -> Result<LossValues, DeriveError> {
    if emit.graph.inputs.iter().any(|input| input.name == "target") {
        return Err(DeriveError::ReservedInput {
            names: vec!["target".into()],
        });
    }
    let batch = Dim::Symbol(BATCH.into());
    let target = emit.add_input(ValueInfo {
        name: "target".into(),
        value_type: ValueType::new(Element::Float, vec![batch.clone(), Dim::Known(classes)]),
    });
    emit.set_scope("loss".into());
    let (rows, cotangent) = match loss {
        Loss::CrossEntropy if classes == 1 => {
            let softplus = emit.unary("Softplus", logits)?;
            let linear = emit.mul(&target, logits)?;
            let probability = emit.unary("Sigmoid", logits)?;
            (
                emit.binary("Sub", &softplus, &linear)?,
                emit.binary("Sub", &probability, &target)?,
            )
        }
        Loss::CrossEntropy => {
            let over_classes = |emit: &mut Emitter, op| {
                let output = emit.value_type(logits)?;
                let axis = attributes([("axis", 1.into())]);
                Ok::<_, DeriveError>(emit.node(op, &[logits], axis, output))
            };
            let logarithms = over_classes(emit, "LogSoftmax")?;
            let product = emit.mul(&target, &logarithms)?;
            let sum = emit.reduce_sum(&product, &[1])?;
            let probabilities = over_classes(emit, "Softmax")?;
            (
                emit.unary("Neg", &sum)?,
                emit.binary("Sub", &probabilities, &target)?,
            )
        }
        Loss::MeanSquaredError => {
            let gap = emit.binary("Sub", logits, &target)?;
            let square = emit.mul(&gap, &gap)?;
            (
                emit.reduce_mean(&square, &[1])?,
                emit.scale(&gap, 2.0 / classes as f32)?,
            )
        }
    };
    Ok(LossValues {
        loss: emit.reshape(&rows, &[batch])?,
        cotangent,
    })
}
