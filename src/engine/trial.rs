//! Checks that ONNX Runtime can run a model: opens its forward graph without the optimiser, runs it
//! on zeros, and closes it. Meanwhile weights are in memory twice, except the large matrices of
//! `cpu/weights.rs`.

use std::{
    path::Path,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use indexmap::IndexMap;
use ndarray::{ArrayD, ArrayViewD, Axis};

use super::{
    Provider, RuntimeError, activations,
    backend_ort::{Encoded, OrtSession, RunStop, Runtime, Threads, load_runtime},
    open_graph::{fixed_rows, with_batch},
};
use crate::{model::Model, tensor::Tensor, text::cut};
use onnx_autodiff::{
    autodiff::{
        self, DeriveError,
        spec::{DeriveSpec, RuleSetId},
    },
    onnx::{
        OnnxError,
        graph::{Element, Graph, ValueInfo},
    },
};

/// The most memory for the activations of one row, in bytes: a single request that takes more could
/// exhaust the process's memory.
pub const LARGEST_ROW: usize = 8 << 30;

/// The longest run of one input: a Loop may have no end.
const LONGEST_RUN: Duration = Duration::from_secs(120);
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
        "ONNX Runtime did not come to the end of one input within {} s: export the model without long loops",
        longest.as_secs_f64()
    )]
    Slow { longest: Duration },
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
    try_out_within(LONGEST_RUN, runtime, provider, model)
}

fn try_out_within(
    longest: Duration,
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
    let encoded = Encoded::new(runtime, with_batch(&derived, Some(1)), provider, 0.0)
        .map_err(open)?
        .as_it_is();
    let mut session = OrtSession::open_encoded(runtime, &encoded, Threads::Shared).map_err(open)?;
    let rows = fixed_rows(&derived).unwrap_or(1);
    let mut shape = vec![rows];
    shape.extend(&model.manifest.input.shape);
    let zeros = Tensor::zeros(shape);
    let input = (model.manifest.input.name.as_str(), zeros.view());
    let outputs = run_within(longest, &mut session, &[input]);
    let outputs = outputs.map_err(|error| match error {
        RuntimeError::Stopped => TrialError::Slow { longest },
        other => TrialError::Run {
            reason: other.to_string(),
        },
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

/// Runs the session; one that takes longer is stopped.
fn run_within(
    longest: Duration,
    session: &mut OrtSession,
    inputs: &[(&str, ArrayViewD<'_, f32>)],
) -> Result<IndexMap<String, Tensor>, RuntimeError> {
    let stop = RunStop::new()?;
    let (done, ended) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let watch = stop.clone();
        scope.spawn(move || {
            if ended.recv_timeout(longest) == Err(RecvTimeoutError::Timeout) {
                watch.stop();
            }
        });
        let outputs = session.run_until(inputs, &stop);
        drop(done);
        outputs
    })
}

/// A graph as it was written.
pub enum Written<'a> {
    Bytes(Vec<u8>),
    /// With external data beside it.
    File(&'a Path),
}

/// Opens a written graph and runs it on zeros: whoever gets the file must be able to.
pub fn run_file(library: &Path, model: Written<'_>, graph: &Graph) -> Result<(), TrialError> {
    let open = |error: RuntimeError| TrialError::Open {
        reason: error.to_string(),
    };
    let runtime = load_runtime(Some(library), 0).map_err(open)?;
    let encoded = match model {
        Written::Bytes(model) => Encoded::of_bytes(model, Provider::Cpu),
        Written::File(path) => Encoded::of_file(path, Provider::Cpu),
    };
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
    let fault = model.rule_set_fault(RuleSetId::Gradient)?;
    let reason = cut(&fault, LONGEST_REASON);
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use onnx_autodiff::onnx::{
        graph::{Dim, Literal, Node, ValueType},
        write::subgraph,
    };

    use super::*;

    fn value(name: &str, element: Element, shape: &[Dim]) -> ValueInfo {
        ValueInfo {
            name: name.into(),
            value_type: ValueType::new(element, shape.to_vec()),
        }
    }

    /// y = Relu(... Relu(x)), so many times.
    fn looped(turns: i64) -> Model {
        let row = [Dim::from("N"), Dim::from(3)];
        let body = Graph {
            name: "body".into(),
            inputs: vec![
                value("turn", Element::Int64, &[]),
                value("go_on", Element::Bool, &[]),
                value("before", Element::Float, &row),
            ],
            outputs: vec![
                value("goes_on", Element::Bool, &[]),
                value("after", Element::Float, &row),
            ],
            nodes: vec![
                Node::new("Identity", ["go_on"], ["goes_on"]),
                Node::new("Relu", ["before"], ["after"]),
            ],
            ..Graph::default()
        };
        let mut node = Node::new("Loop", ["turns", "go", "x"], ["y"]);
        node.attributes
            .insert("body".into(), subgraph("body", &body));
        let graph = Graph {
            opset_imports: [(String::new(), 17)].into(),
            inputs: vec![value("x", Element::Float, &row)],
            outputs: vec![value("y", Element::Float, &row)],
            initializers: [
                ("turns".to_owned(), Literal::scalar_i64(turns)),
                ("go".to_owned(), Literal::from_bools(&[], &[true])),
            ]
            .into(),
            nodes: vec![node],
            ..Graph::default()
        };
        Model::bare("looped", Arc::new(graph))
    }

    #[test]
    fn a_run_without_an_end_is_stopped() {
        let runtime = load_runtime(None, 1).unwrap();
        let run = |turns, limit| try_out_within(limit, runtime, Provider::Cpu, &looped(turns));
        assert!(run(10, LONGEST_RUN).is_ok());
        let error = run(1 << 60, Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, TrialError::Slow { .. }), "{error}");
    }
}
