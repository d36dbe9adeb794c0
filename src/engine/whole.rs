//! Graphs that run on whole batches: each run takes all inputs by name and gives all outputs by
//! name, as gradients of weights and sums over samples need it, which no single row has.

use std::{collections::HashMap, sync::Arc};

use indexmap::IndexMap;

use super::{EngineError, activations};
use crate::{model::Model, tensor::Tensor};
use onnx_autodiff::onnx::{
    OnnxError,
    graph::{Dim, Graph},
};

/// What a run takes: each input of the graph once, in any order.
pub type NamedInputs = Vec<(String, Arc<Tensor>)>;
/// What a run gives: every output, in the graph's order.
pub type NamedOutputs = IndexMap<String, Tensor>;

/// A graph of f32 inputs and outputs whose dimensions without a number count the rows of the batch.
/// Its session stays open from the first run on, until the last handle is dropped or the memory for
/// sessions goes to others.
#[derive(Debug)]
pub struct WholeGraph {
    /// The model that it was derived from: what messages and measurements name.
    pub model: Arc<Model>,
    /// For people, in the log: `gradients of parameters`.
    pub name: &'static str,
    pub graph: Graph,
    row_bytes: usize,
}

impl WholeGraph {
    /// Fails where the graph's types do not fit each other.
    pub fn new(model: Arc<Model>, name: &'static str, graph: Graph) -> Result<Self, OnnxError> {
        let row_bytes = activations::batch_peak_bytes(&graph)?;
        Ok(Self {
            model,
            name,
            graph,
            row_bytes,
        })
    }

    /// Bytes of the activations of one row; values of one size for any batch are not counted.
    pub fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// The rows of a batch, or what is wrong with its inputs.
    pub(super) fn rows(&self, inputs: &NamedInputs) -> Result<usize, EngineError> {
        let refused = |reason: String| EngineError::InvalidBatch { reason };
        let given: HashMap<&str, &Tensor> = inputs
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor.as_ref()))
            .collect();
        if given.len() != inputs.len() || given.len() != self.graph.inputs.len() {
            let takes: Vec<&str> = self.graph.inputs.iter().map(|i| i.name.as_str()).collect();
            return Err(refused(format!(
                "{} inputs were given; the graph takes each of {} once",
                inputs.len(),
                takes.join(", ")
            )));
        }
        let mut batch = None;
        for input in &self.graph.inputs {
            let name = &input.name;
            let tensor = given
                .get(name.as_str())
                .ok_or_else(|| refused(format!("input {name} is missing")))?;
            let shape = &input.value_type.shape;
            let fits = shape.len() == tensor.ndim()
                && shape.iter().zip(tensor.shape()).all(|(dim, size)| {
                    let expected = dim.known().unwrap_or_else(|| *batch.get_or_insert(*size));
                    expected == *size
                });
            if !fits {
                let dims: Vec<String> = shape.iter().map(Dim::to_string).collect();
                return Err(refused(format!(
                    "input {name} has shape {:?}; the graph takes [{}], in batches of one size",
                    tensor.shape(),
                    dims.join(", ")
                )));
            }
        }
        Ok(batch.unwrap_or(1))
    }
}
