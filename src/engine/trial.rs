//! Checks that ONNX Runtime can run a model: opens its forward graph without the optimiser, runs it
//! on zeros, and closes it. Meanwhile weights are in memory twice, except the large matrices of
//! `cpu/weights.rs`.

use std::path::Path;

use ndarray::{ArrayD, ArrayViewD, Axis};

use super::{
    Provider, RuntimeError, activations,
    backend_ort::{Encoded, OrtSession, Runtime, Threads, load_runtime},
    open_graph::{fixed_rows, with_batch},
};
use crate::{model::Model, tensor::Tensor, text::cut};
use onnx_autodiff::{
    autodiff::{self, DeriveError, spec::DeriveSpec},
    onnx::{
        OnnxError,
        graph::{Element, Graph, ValueInfo},
    },
};

/// The most memory for the activations of one row, in bytes: a single request that takes more could
/// exhaust the process's memory.
pub const LARGEST_ROW: usize = 8 << 30;

/// The most bytes of a warning that names nodes.
const LONGEST_REASON: usize = 1_000;

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
        "{rows} input(s) give {outputs}, where [{rows}, {classes}] is expected: export the model with a batch dimension"
    )]
    Rows {
        outputs: String,
        rows: usize,
        classes: usize,
    },
}

/// Warnings: about the outputs, and that the network cannot be differentiated.
pub(super) fn try_out(
    runtime: &Runtime,
    provider: Provider,
    model: &Model,
) -> Result<Vec<String>, TrialError> {
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
    let open = |reason: RuntimeError| TrialError::Open {
        reason: reason.to_string(),
    };
    let encoded = Encoded::new(runtime, with_batch(&derived, Some(1)), provider)
        .map_err(open)?
        .as_it_is();
    let mut session = OrtSession::open_encoded(runtime, &encoded, Threads::Shared).map_err(open)?;
    let rows = fixed_rows(&derived).unwrap_or(1);
    let mut shape = vec![rows];
    shape.extend(&model.manifest.input.shape);
    let zeros = Tensor::zeros(shape);
    let outputs = session.run(&[(model.manifest.input.name.as_str(), zeros.view())]);
    let outputs = outputs.map_err(|error| TrialError::Run {
        reason: error.to_string(),
    })?;
    match outputs
        .values()
        .find(|values| values.shape() != [rows, classes])
    {
        None => {
            let logits = outputs
                .get("logits")
                .map(|rows| rows.index_axis(Axis(0), 0));
            let doubt = logits
                .filter(|_| !model.graph.is_regression)
                .and_then(|scores| twice_normalised(&scores));
            Ok(doubt.into_iter().chain(without_gradient(model)).collect())
        }
        Some(values) => Err(TrialError::Rows {
            outputs: format!("{:?}", values.shape()),
            rows,
            classes,
        }),
    }
}

/// Opens a written graph and runs it on zeros: whoever gets the file must be able to.
pub fn run_file(library: &Path, model: Vec<u8>, graph: &Graph) -> Result<(), TrialError> {
    let open = |error: RuntimeError| TrialError::Open {
        reason: error.to_string(),
    };
    let runtime = load_runtime(Some(library), 0).map_err(open)?;
    let encoded = Encoded::of_bytes(model, Provider::Cpu);
    let mut session = OrtSession::open_encoded(runtime, &encoded, Threads::Shared).map_err(open)?;
    let (mut zeros, mut indices) = (Vec::new(), Vec::new());
    for ValueInfo { name, value_type } in &graph.inputs {
        let dims = value_type.shape.iter();
        let shape: Vec<usize> = dims.map(|dim| dim.known().unwrap_or(1)).collect();
        match value_type.element {
            Element::Int64 => indices.push((name.as_str(), ArrayD::zeros(shape))),
            _ => zeros.push((name.as_str(), Tensor::zeros(shape))),
        }
    }
    let inputs: Vec<_> = zeros.iter().map(|(name, of)| (*name, of.view())).collect();
    let indices: Vec<_> = indices
        .iter()
        .map(|(name, of)| (*name, of.view()))
        .collect();
    session
        .run_with_indices(&inputs, &indices)
        .map_err(|error| TrialError::Run {
            reason: error.to_string(),
        })?;
    Ok(())
}

/// Why the methods that differentiate do not apply.
fn without_gradient(model: &Model) -> Option<String> {
    let derived = autodiff::derive(&model.graph, &DeriveSpec::gradient(), None);
    let error = derived.err()?.to_string();
    let reason = cut(&error, LONGEST_REASON);
    Some(format!(
        "it is served without methods that differentiate: {reason}"
    ))
}

/// Whether scores taken for logits are probabilities: the output has no Softmax or Sigmoid that was
/// recognised.
fn twice_normalised(logits: &ArrayViewD<'_, f32>) -> Option<String> {
    let (whole, total) = (logits.iter().all(|score| *score >= 0.0), logits.sum());
    let is_share = |of: f32| whole && logits.len() > 1 && (total - of).abs() < 1e-3 * of;
    (is_share(1.0) || is_share(100.0)).then(|| {
        format!(
            "the scores of an input of zeros add up to {total}, as probabilities do, but the model does not end in Softmax, so one is put \
             behind them: say scores = \"probabilities\" in model.toml if they are"
        )
    })
}
