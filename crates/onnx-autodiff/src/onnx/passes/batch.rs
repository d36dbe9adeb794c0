//! Makes the batch of a model that was exported with a batch of 1 symbolic, where every node
//! provably treats rows alike. Run after `fold`. A graph in which some node may mix or count rows
//! is returned as it is.

use std::collections::HashSet;

use indexmap::IndexMap;

use super::checked;
use crate::onnx::error::OnnxError;
use crate::onnx::graph::{Dim, Graph, Literal, Names, Node};
use crate::onnx::types::{Types, infer};

/// The name of the freed dimension.
pub const BATCH: &str = "batch";

pub fn free_batch(graph: Graph) -> Result<Graph, OnnxError> {
    let fixed = |input: &crate::onnx::graph::ValueInfo| {
        input.value_type.shape.first() == Some(&Dim::Known(1))
            && input.value_type.known_shape().is_some()
    };
    if graph.inputs.is_empty() || !graph.inputs.iter().all(fixed) {
        return Ok(graph);
    }
    match freed(&graph) {
        Some(free) => checked("free_batch", free),
        None => Ok(graph),
    }
}

/// The graph with a symbolic batch; none when a node stands in the way.
fn freed(source: &Graph) -> Option<Graph> {
    let before = infer(source).ok()?;
    let mut graph = source.clone();
    for input in &mut graph.inputs {
        input.value_type.shape[0] = Dim::from(BATCH);
    }
    let mut names = Names::of(&graph);
    let mut types = Types::of_sources(&graph);
    let mut batched: HashSet<String> = graph
        .inputs
        .iter()
        .map(|input| input.name.clone())
        .collect();
    for node in &mut graph.nodes {
        if !node
            .inputs
            .iter()
            .chain(&node.captured())
            .any(|input| batched.contains(input))
        {
            types.add_node(node, &graph.initializers).ok()?;
            continue;
        }
        if node.is("Reshape") {
            free_reshape(node, &before, &mut graph.initializers, &mut names)?;
        }
        types.add_node(node, &graph.initializers).ok()?;
        let rows_alike = keeps_rows(node, &types, &batched)
            && node
                .outputs
                .iter()
                .filter(|output| !output.is_empty())
                .all(|output| has_batch_first(output, &types));
        if !rows_alike {
            return None;
        }
        batched.extend(
            node.outputs
                .iter()
                .filter(|output| !output.is_empty())
                .cloned(),
        );
    }
    for output in &mut graph.outputs {
        output.value_type.shape = types
            .shape(&output.name)
            .filter(|_| batched.contains(&output.name))?
            .to_vec();
    }
    Some(graph)
}

/// A Reshape that kept the batch of 1 in front gets the target `[0, sizes]`: 0 copies the input's
/// batch.
fn free_reshape(
    node: &mut Node,
    before: &Types,
    constants: &mut IndexMap<String, Literal>,
    names: &mut Names,
) -> Option<()> {
    let shape = before.get(node.output(0)?)?.known_shape()?;
    let (1, rest) = shape.split_first().map(|(first, rest)| (*first, rest))? else {
        return None;
    };
    if rest.contains(&0) {
        return None;
    }
    let target: Vec<i64> = std::iter::once(0)
        .chain(rest.iter().map(|&size| size as i64))
        .collect();
    node.inputs[1] = names.fresh(&format!("{}.shape", node.output(0)?));
    node.attributes.remove("allowzero");
    constants.insert(node.inputs[1].clone(), Literal::vector_i64(&target));
    Some(())
}

fn has_batch_first(value: &str, types: &Types) -> bool {
    let Some([first, rest @ ..]) = types.shape(value) else {
        return false;
    };
    *first == Dim::from(BATCH) && rest.iter().all(|dim| dim.known().is_some())
}

/// Whether the op works row by row, given that its outputs have the batch in front and numbers
/// behind it.
fn keeps_rows(node: &Node, types: &Types, batched: &HashSet<String>) -> bool {
    let rank = |name: &String| types.shape(name).map_or(0, <[Dim]>::len);
    let widest = node.outputs.first().map_or(0, rank);
    let off_rows = |default: i64| {
        let (axis, rank) = (
            node.int_or("axis", default),
            node.inputs.first().map_or(0, rank) as i64,
        );
        axis != 0 && axis != -rank
    };
    match node.op_type.as_str() {
        _ if !node.domain.is_empty() => false,
        "Conv"
        | "ConvTranspose"
        | "MaxPool"
        | "AveragePool"
        | "LpPool"
        | "GlobalAveragePool"
        | "GlobalMaxPool"
        | "GlobalLpPool"
        | "BatchNormalization"
        | "InstanceNormalization"
        | "LRN"
        | "Resize"
        | "DepthToSpace"
        | "SpaceToDepth"
        | "Reshape"
        | "Transpose"
        | "Squeeze"
        | "Unsqueeze"
        | "Identity"
        | "Cast"
        | "Clip"
        | "Relu"
        | "LeakyRelu"
        | "Elu"
        | "Selu"
        | "Celu"
        | "Sigmoid"
        | "HardSigmoid"
        | "HardSwish"
        | "Tanh"
        | "Softplus"
        | "Softsign"
        | "Mish"
        | "Erf"
        | "Exp"
        | "Log"
        | "Sqrt"
        | "Neg"
        | "Abs"
        | "Sign"
        | "Floor"
        | "Ceil"
        | "Round"
        | "Reciprocal"
        | "Not"
        | "Pad"
        | "Slice"
        | "ReduceSum"
        | "ReduceMean"
        | "ReduceMax"
        | "ReduceMin"
        | "ReduceProd"
        | "ReduceL1"
        | "ReduceL2"
        | "ReduceLogSum"
        | "ReduceLogSumExp"
        | "ReduceSumSquare" => {
            // Windows, bounds, pads and scales must not come from the rows themselves.
            node.inputs
                .iter()
                .skip(1)
                .all(|input| !batched.contains(input))
        }
        "Flatten" => off_rows(1),
        "Softmax" | "LogSoftmax" | "Hardmax" | "LayerNormalization" => off_rows(-1),
        "Concat" => off_rows(0) && node.inputs.iter().all(|input| batched.contains(input)),
        "Split" | "ArgMax" | "ArgMin" => off_rows(0),
        "Gather" => off_rows(0) && !batched.contains(&node.inputs[1]),
        "Gemm" => {
            node.int_or("transA", 0) == 0
                && node
                    .inputs
                    .iter()
                    .skip(1)
                    .all(|input| !batched.contains(input))
        }
        "MatMul" | "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Sum" | "Min" | "Max" | "Mean"
        | "Where" | "PRelu" | "And" | "Or" | "Equal" | "Greater" | "Less" | "GreaterOrEqual"
        | "LessOrEqual" | "Expand" => {
            // Rows meet rows only when every operand that has them has them on the result's first
            // axis.
            node.inputs
                .iter()
                .all(|input| !batched.contains(input) || rank(input) == widest)
        }
        _ => false,
    }
}
