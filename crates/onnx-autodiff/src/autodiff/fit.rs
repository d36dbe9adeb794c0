//! A graph from a batch of inputs to the sums of Eq. 2 (the PGIG paper) for every Linear layer: Σ₊
//! x ŷ, Σ₊ x, Σ ŷ, n₊, with ŷ = wᵀx (no bias). The sums over patches are weight gradients whose
//! cotangents are mask ⊙ ŷ and mask. BatchNorm is folded first.

use serde::{Deserialize, Serialize};

use super::{
    DeriveError, Unsupported,
    emit::{Emitter, attributes},
    forward::{self, Forward},
    layers::{self, LinearLayer},
    outputs,
    role::{Role, role},
    rounding,
    rules::{
        convolution::{self, channel_sums},
        matrix,
        window::Window,
    },
};
use crate::onnx::graph::{Graph, Literal, Node};

/// Which samples count as positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Regime {
    /// The ReLU after the layer is active: wᵀx + b > 0.
    Activation,
    /// wᵀx > 0.
    Weights,
    /// All samples; used for layers that are not directly followed by a ReLU. (A residual sum in
    /// between counts as no ReLU, since its sign is not that of the layer's output.)
    Linear,
}

/// The graph of the sums, and what it tells of the layers.
pub struct FitGraph {
    /// Input: that of the model. Outputs: the sums that `layers` name, over the batch.
    pub graph: Graph,
    /// In the order of the forward pass.
    pub layers: Vec<FitLayer>,
    /// Linear layers that get no pattern, and why.
    pub skipped: Vec<Skipped>,
}

/// A Linear layer and its sums. `x_y` and `x` have the weight's shape; `y` and `positives` are
/// `[channels]`.
#[derive(Clone, Debug)]
pub struct FitLayer {
    /// The layer's output value: the key of its pattern.
    pub output: String,
    /// The node's name, or its output value if it has none.
    pub node: String,
    /// The node's operator.
    pub op_type: String,
    /// w, BatchNorm folded.
    pub weight: Literal,
    /// The axis of the weight for output channels; the other axes together index x.
    pub channel_axis: usize,
    /// The one that was asked for, or `Linear` where no ReLU follows.
    pub regime: Regime,
    /// Samples (positions of the window) per row of the batch.
    pub positions: usize,
    /// Output name of Σ₊ x ŷ.
    pub x_y: String,
    /// Output name of Σ₊ x.
    pub x: String,
    /// Output name of Σ ŷ over all samples.
    pub y: String,
    /// Output name of n₊.
    pub positives: String,
}

/// A Linear layer that gets no pattern.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// Its output value.
    pub output: String,
    /// Why.
    pub reason: String,
}

/// The factors of one layer's patches: ŷ, and the mask of positive samples, both `[batch, channels,
/// …]`.
struct Samples {
    y: String,
    mask: String,
}

/// The graph whose outputs, added up over batches in f64, give the patterns of `source`.
pub fn fit_graph(source: &Graph, regime: Regime) -> Result<FitGraph, DeriveError> {
    rounding::refuse(
        source,
        "patterns of quantised activations are not fitted: fit those of the float model",
    )?;
    let Forward {
        mut emit,
        nodes,
        input,
        head,
        ..
    } = forward::prepare_any_batch(source, true)?;
    let (mut fitted, mut skipped, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
    for layer in layers::linear_layers(&emit, &nodes, &input, &head.logits) {
        let Some(node) = nodes.iter().find(|node| node.outputs[0] == layer.output) else {
            continue;
        };
        if let Some(reason) = obstacle(node) {
            skipped.push(Skipped {
                output: layer.output,
                reason,
            });
            continue;
        }
        emit.set_scope(format!("fit/{}", layer.output));
        let gate = rectified(&emit, &nodes, &layer.output);
        let product = without_bias(&mut emit, node)?;
        let regime = if gate.is_some() {
            regime
        } else {
            Regime::Linear
        };
        let mask = match (regime, gate) {
            (Regime::Activation, Some(gate)) => emit.step(&gate, 1.0, 0.0)?,
            (Regime::Weights, _) => emit.step(&product, 1.0, 0.0)?,
            _ => ones_like(&mut emit, &product)?,
        };
        let samples = Samples { y: product, mask };
        fitted.push(sums(&mut emit, node, layer, regime, &samples, &mut wanted)?);
    }
    let graph = outputs::publish(emit, &wanted)?;
    Ok(FitGraph {
        graph: super::tidy(graph)?,
        layers: fitted,
        skipped,
    })
}

fn obstacle(node: &Node) -> Option<String> {
    match node.op_type.as_str() {
        "ConvTranspose" => Some("patterns of transposed convolutions are not fitted".into()),
        "Gemm" if node.int_or("transA", 0) != 0 => {
            Some("patterns of a Gemm with transA are not fitted".into())
        }
        _ => None,
    }
}

/// The input of a ReLU if it is `value`, or `value` plus a constant.
fn rectified(emit: &Emitter, nodes: &[Node], value: &str) -> Option<String> {
    let readers: Vec<&Node> = nodes
        .iter()
        .filter(|node| node.inputs.iter().any(|input| input == value))
        .collect();
    if readers
        .iter()
        .any(|node| role(node, &emit.graph) == Some(Role::Rectifier) && node.inputs[0] == value)
    {
        return Some(value.to_owned());
    }
    let biased = |node: &&&Node| {
        let others_constant = node
            .inputs
            .iter()
            .all(|input| input == value || emit.literal(input).is_some());
        node.is("Identity") || node.is("Add") && others_constant
    };
    readers
        .iter()
        .filter(biased)
        .find_map(|node| rectified(emit, nodes, &node.outputs[0]))
}

/// Splits a node in place into wᵀx and the addition of its bias; returns the name of wᵀx.
fn without_bias(emit: &mut Emitter, node: &Node) -> Result<String, DeriveError> {
    let Some(bias) = node.input(2).map(str::to_owned) else {
        return Ok(node.outputs[0].clone());
    };
    let mut column = bias.clone();
    if let Some(literal) = emit.literal(&bias).filter(|_| node.is("Conv")).cloned() {
        let mut shape = vec![1; emit.shape(&node.outputs[0])?.len() - 1];
        shape[0] = literal.len();
        column = emit.constant(Literal { shape, ..literal });
    }
    let product = emit.fresh(&format!("{}/product", node.outputs[0]));
    emit.split_bias(&node.outputs[0], &product, &column);
    Ok(product)
}

fn ones_like(emit: &mut Emitter, value: &str) -> Result<String, DeriveError> {
    let output = emit.value_type(value)?;
    Ok(emit.node(
        "HardSigmoid",
        &[value],
        attributes([("alpha", 0.0f32.into()), ("beta", 1.0f32.into())]),
        output,
    ))
}

/// Emits the four sums of one layer and makes them outputs.
fn sums(
    emit: &mut Emitter,
    node: &Node,
    layer: LinearLayer,
    regime: Regime,
    samples: &Samples,
    wanted: &mut Vec<(String, String)>,
) -> Result<FitLayer, DeriveError> {
    let unknown = || DeriveError::UnknownShape {
        value: layer.weight.clone(),
    };
    let weight = emit.literal(&layer.weight).cloned().ok_or_else(unknown)?;
    let shape = emit.shape(&samples.y)?;
    let channel = if node.is("Conv") { 1 } else { shape.len() - 1 };
    let positions =
        emit.sizes(&samples.y, 1)?.iter().product::<usize>() / emit.size(&samples.y, channel)?;
    let positive_y = emit.mul(&samples.mask, &samples.y)?;
    let (x_y, x, channel_axis) = match node.op_type.as_str() {
        "Conv" => {
            let [x_y, x] = conv_sums(emit, node, &weight.shape, [&positive_y, &samples.mask])?;
            (x_y, x, 0)
        }
        _ => {
            let transposed = node.is("Gemm") && node.int_or("transB", 0) != 0;
            let mut sums = |dy: &str| {
                matrix::weight_gradient(emit, &node.inputs[0], dy, weight.value_type(), transposed)
            };
            (
                sums(&positive_y)?,
                sums(&samples.mask)?,
                usize::from(!transposed),
            )
        }
    };
    let y = channel_sums(emit, &samples.y, channel)?;
    let positives = channel_sums(emit, &samples.mask, channel)?;
    let index = wanted.len() / 4;
    let names = ["x_y", "x", "y", "positives"].map(|sum| format!("fit/{index}/{sum}"));
    wanted.extend([x_y, x, y, positives].into_iter().zip(names.clone()));
    let [x_y, x, y, positives] = names;
    let LinearLayer {
        output,
        node,
        op_type,
        ..
    } = layer;
    Ok(FitLayer {
        output,
        node,
        op_type,
        weight,
        channel_axis,
        regime,
        positions,
        x_y,
        x,
        y,
        positives,
    })
}

/// Both weight gradients of a Conv at once.
fn conv_sums(
    emit: &mut Emitter,
    node: &Node,
    shape: &[usize],
    dys: [&str; 2],
) -> Result<[String; 2], DeriveError> {
    let x = &node.inputs[0];
    let refusal = |reason| DeriveError::Unsupported {
        nodes: vec![Unsupported::new(node, &emit.graph, reason)],
    };
    let window = Window::of_node(node, shape[2..].to_vec(), &emit.sizes(x, 2)?).map_err(refusal)?;
    let sums =
        convolution::weight_gradients(emit, x, &dys, shape, convolution::group(node), &window)?;
    sums.try_into()
        .map_err(|_| DeriveError::UnknownShape { value: x.clone() })
}
