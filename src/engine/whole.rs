//! Graphs that run on whole batches: each run takes all inputs and gives all outputs by name. For
//! outputs that sum over the batch, such as gradients of weights.

use std::{collections::HashMap, sync::Arc};

use indexmap::IndexMap;

use super::{EngineError, activations};
use crate::{model::Model, tensor::Tensor};
use onnx_autodiff::onnx::{
    OnnxError,
    graph::{Dim, Graph},
};

/// The inputs of a run: each input of the graph once, in any order.
pub type NamedInputs = Vec<(String, Arc<Tensor>)>;
/// The outputs of a run: every output of the graph, in its order.
pub type NamedOutputs = IndexMap<String, Tensor>;

/// A graph of f32 inputs and outputs whose dynamic dimensions are the batch. Its session opens at
/// the first run and stays open until the last handle is dropped, or until it is the least recently
/// used and sessions exceed their memory.
#[derive(Debug)]
pub struct WholeGraph {
    /// The model that it was derived from, for messages and metrics.
    pub model: Arc<Model>,
    /// Its name in the log, such as `gradients of parameters`.
    pub name: &'static str,
    pub graph: Graph,
    row_bytes: usize,
}

impl WholeGraph {
    /// Fails if type inference fails on the graph.
    pub fn new(model: Arc<Model>, name: &'static str, graph: Graph) -> Result<Self, OnnxError> {
        let row_bytes = activations::batch_peak_bytes(&graph)?;
        Ok(Self {
            model,
            name,
            graph,
            row_bytes,
        })
    }

    /// Bytes of the activations per row; values whose size does not depend on the batch are not
    /// counted.
    pub fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// The number of rows of a batch, or why its inputs are invalid.
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
