//! Checks that ONNX Runtime can run a model: opens its forward graph without the optimiser, runs it
//! on zeros, and closes it. Meanwhile weights are in memory twice, except the large matrices of
//! `cpu/weights.rs`.

use super::{
    Provider, activations,
    backend_ort::{Encoded, OrtSession, Runtime, Threads},
    open_graph::with_batch,
};
use crate::{model::Model, tensor::Tensor};
use onnx_autodiff::{
    autodiff::{self, DeriveError, spec::DeriveSpec},
    onnx::OnnxError,
};

/// The most memory for the activations of one row, in bytes: a single request that takes more could
/// exhaust the process's memory.
pub(super) const LARGEST_ROW: usize = 8 << 30;

#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    #[error(transparent)]
    Derive(#[from] DeriveError),
    #[error(
        "its values take {bytes} bytes for one input, of which {LARGEST_ROW} are supported: use a smaller input"
    )]
    TooLarge { bytes: usize },
    #[error(
        "ONNX Runtime cannot open it: {reason}; check the file with onnx.checker, and export it again"
    )]
    Open { reason: String },
    #[error(
        "ONNX Runtime cannot run it: {reason}; check the file with onnx.checker, and export it again"
    )]
    Run { reason: String },
    #[error(
        "one input gives {outputs}, where [1, {classes}] is expected: export the model with a batch dimension"
    )]
    Rows { outputs: String, classes: usize },
}

/// A warning about the outputs, if any.
pub(super) fn try_out(
    runtime: &Runtime,
    provider: Provider,
    model: &Model,
) -> Result<Option<String>, TrialError> {
    let spec = DeriveSpec::forward();
    let derived = autodiff::derive(&model.graph, &spec, None)?.graph;
    let bytes =
        activations::peak_bytes(&derived).map_err(|error: OnnxError| DeriveError::from(error))?;
    if bytes > LARGEST_ROW {
        return Err(TrialError::TooLarge { bytes });
    }
    let classes = derived
        .outputs
        .first()
        .and_then(|logits| logits.value_type.shape.last()?.known())
        .unwrap_or(0);
    let open = |reason: super::RuntimeError| TrialError::Open {
        reason: reason.to_string(),
    };
    let encoded = Encoded::new(runtime, with_batch(&derived, Some(1)), provider)
        .map_err(open)?
        .as_it_is();
    let mut session = OrtSession::open_encoded(runtime, &encoded, Threads::Shared).map_err(open)?;
    let mut shape = vec![1];
    shape.extend(&model.manifest.input.shape);
    let zeros = Tensor::zeros(shape);
    let outputs = session.run(&[(model.manifest.input.name.as_str(), zeros.view())]);
    let outputs = outputs.map_err(|error| TrialError::Run {
        reason: error.to_string(),
    })?;
    match outputs
        .values()
        .find(|values| values.shape() != [1, classes])
    {
        None => Ok(outputs.get("logits").and_then(twice_normalised)),
        Some(values) => Err(TrialError::Rows {
            outputs: format!("{:?}", values.shape()),
            classes,
        }),
    }
}

/// Whether scores taken for logits are probabilities: the output has no Softmax or Sigmoid that was
/// recognised.
fn twice_normalised(logits: &Tensor) -> Option<String> {
    let (whole, total) = (logits.iter().all(|score| *score >= 0.0), logits.sum());
    let is_share = |of: f32| whole && logits.len() > 1 && (total - of).abs() < 1e-3 * of;
    (is_share(1.0) || is_share(100.0)).then(|| {
        format!(
            "the scores of an input of zeros add up to {total}, as probabilities do, but the model does not end in Softmax, so one is put \
             behind them: export it with its Softmax last, or with the scores in front of it"
        )
    })
}
