//! A graph from a batch of inputs to the sums of Eq. 2 (the PGIG paper) for every Linear layer: Σ₊ x ŷ, Σ₊ x, Σ ŷ, n₊, with ŷ = wᵀx (no bias).
//! The sums over patches are weight gradients whose cotangents are mask ⊙ ŷ and mask; Conv: per kernel tap a Slice, a MatMul and a
//! sum over the batch, so that no patch matrix is ever made. BatchNorm is folded first.

use serde::{Deserialize, Serialize};

use super::{
    DeriveError, Unsupported,
    emit::{Emitter, attributes},
    forward::{self, Forward},
    layers::{self, LinearLayer},
    outputs,
    rules::window::Window,
    sets::{Role, role},
};
use crate::onnx::graph::{Dim, Graph, Literal, Node, ValueType};

/// Which samples count as positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Regime {
    /// The rectifier after the layer is on: wᵀx + b > 0.
    Activation,
    /// wᵀx > 0.
    Weights,
    /// All samples: what a layer without a rectifier right behind it gets. (A residual sum in between counts as none: its sign is not
    /// the layer's own.)
    Linear,
}

pub struct FitGraph {
    /// Input: the model's. Outputs: those that `layers` name, each summed over the batch.
    pub graph: Graph,
    pub layers: Vec<FitLayer>,
    /// Linear layers that get no pattern, and why.
    pub skipped: Vec<Skipped>,
}

/// A Linear layer and its sums. `x_y` and `x` have the weight's shape; `y` and `positives` are `[channels]`.
#[derive(Clone, Debug)]
pub struct FitLayer {
    /// The layer's output value: the key of its pattern.
    pub output: String,
    pub node: String,
    pub op_type: String,
    /// w, BatchNorm folded.
    pub weight: Literal,
    /// The axis of the weight that counts output channels; the others, together, are x.
    pub channel_axis: usize,
    pub regime: Regime,
    /// Samples (positions of the window) that one row of the batch gives.
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

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    pub output: String,
    pub reason: String,
}

/// What one layer's patches are multiplied with: ŷ, and the mask of positive samples, both `[batch, channels, …]`.
struct Samples {
    y: String,
    mask: String,
}

/// The graph whose outputs, added up over batches in f64, give the patterns of `source`.
pub fn fit_graph(source: &Graph, regime: Regime) -> Result<FitGraph, DeriveError> {
    let Forward { mut emit, nodes, input, head } = forward::prepare(source, true)?;
    let (mut fitted, mut skipped, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
    for layer in layers::linear_layers(&emit, &nodes, &input, &head.logits) {
        let Some(node) = nodes.iter().find(|node| node.outputs[0] == layer.output) else { continue };
        if let Some(reason) = obstacle(node) {
            skipped.push(Skipped { output: layer.output, reason });
            continue;
        }
        emit.set_scope(format!("fit/{}", layer.output));
        let gate = rectified(&emit, &nodes, &layer.output);
        let product = without_bias(&mut emit, node)?;
        let regime = if gate.is_some() { regime } else { Regime::Linear };
        let mask = match (regime, gate) {
            (Regime::Activation, Some(gate)) => emit.step(&gate, 1.0, 0.0)?,
            (Regime::Weights, _) => emit.step(&product, 1.0, 0.0)?,
            _ => ones_like(&mut emit, &product)?,
        };
        let samples = Samples { y: product, mask };
        fitted.push(sums(&mut emit, node, layer, regime, &samples, &mut wanted)?);
    }
    let graph = outputs::publish(emit, &wanted)?;
    Ok(FitGraph { graph: super::tidy(graph)?, layers: fitted, skipped })
}

fn obstacle(node: &Node) -> Option<String> {
    match node.op_type.as_str() {
        "ConvTranspose" => Some("patterns of transposed convolutions are not fitted".into()),
        "Gemm" if node.int_or("transA", 0) != 0 => Some("patterns of a Gemm with transA are not fitted".into()),
        _ => None,
    }
}

/// The value that a rectifier reads: `value` itself, or what only a constant was added to since.
fn rectified(emit: &Emitter, nodes: &[Node], value: &str) -> Option<String> {
    let readers: Vec<&Node> = nodes.iter().filter(|node| node.inputs.iter().any(|input| input == value)).collect();
    if readers.iter().any(|node| role(node, &emit.graph) == Some(Role::Rectifier) && node.inputs[0] == value) {
        return Some(value.to_owned());
    }
    let biased = |node: &&&Node| {
        let others_constant = node.inputs.iter().all(|input| input == value || emit.literal(input).is_some());
        node.is("Identity") || node.is("Add") && others_constant
    };
    readers.iter().filter(biased).find_map(|node| rectified(emit, nodes, &node.outputs[0]))
}

/// Splits the node, in place, into wᵀx and the addition of its bias; the name of wᵀx.
fn without_bias(emit: &mut Emitter, node: &Node) -> Result<String, DeriveError> {
    let Some(bias) = node.input(2).map(str::to_owned) else { return Ok(node.outputs[0].clone()) };
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
    Ok(emit.node("HardSigmoid", &[value], attributes([("alpha", 0.0f32.into()), ("beta", 1.0f32.into())]), output))
}

/// Emits the four sums of one layer and asks for them as outputs.
fn sums(
    emit: &mut Emitter,
    node: &Node,
    layer: LinearLayer,
    regime: Regime,
    samples: &Samples,
    wanted: &mut Vec<(String, String)>,
) -> Result<FitLayer, DeriveError> {
    let unknown = || DeriveError::UnknownShape { value: layer.weight.clone() };
    let weight = emit.literal(&layer.weight).cloned().ok_or_else(unknown)?;
    let shape = emit.shape(&samples.y)?;
    let channel = if node.is("Conv") { 1 } else { shape.len() - 1 };
    let positions = emit.sizes(&samples.y, 1)?.iter().product::<usize>() / emit.sizes(&samples.y, channel)?[0];
    let positive_y = emit.mul(&samples.mask, &samples.y)?;
    let (x_y, x, channel_axis) = match node.op_type.as_str() {
        "Conv" => {
            let (x_y, x) = conv_sums(emit, node, &weight.shape, &positive_y, &samples.mask)?;
            (x_y, x, 0)
        }
        _ => {
            let transposed = node.is("Gemm") && node.int_or("transB", 0) != 0;
            let x_y = matrix_sums(emit, &node.inputs[0], &positive_y, &weight.shape, transposed)?;
            (
                x_y,
                matrix_sums(emit, &node.inputs[0], &samples.mask, &weight.shape, transposed)?,
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
    let LinearLayer { output, node, op_type, .. } = layer;
    Ok(FitLayer { output, node, op_type, weight, channel_axis, regime, positions, x_y, x, y, positives })
}

/// Sums over everything but the channels.
fn channel_sums(emit: &mut Emitter, value: &str, channel: usize) -> Result<String, DeriveError> {
    let shape = emit.shape(value)?;
    let axes: Vec<usize> = (0..shape.len()).filter(|&axis| axis != channel).collect();
    let summed = emit.reduce_sum(value, &axes)?;
    emit.reshape(&summed, &[shape[channel].clone()])
}

/// Xᵀ D (or Dᵀ X for a transposed weight) over all rows.
fn matrix_sums(emit: &mut Emitter, x: &str, d: &str, shape: &[usize], transposed: bool) -> Result<String, DeriveError> {
    let rows = |emit: &mut Emitter, value: &str| -> Result<String, DeriveError> {
        let shape = emit.shape(value)?;
        if shape.len() == 2 {
            return Ok(value.to_owned());
        }
        let last = shape[shape.len() - 1].clone();
        emit.reshape(value, &[Dim::Symbol(format!("{value} rows")), last])
    };
    let (x, d) = (rows(emit, x)?, rows(emit, d)?);
    let output = ValueType::new(emit.value_type(&d)?.element, shape.iter().map(|&n| Dim::Known(n)).collect());
    let (left, right) = if transposed { (&d, &x) } else { (&x, &d) };
    Ok(emit.node("Gemm", &[left, right], attributes([("transA", 1.into())]), output))
}

/// Both weight gradients of a Conv at once: per tap, `[2 channels, positions] x [positions, inputs]` for each sample and group.
fn conv_sums(
    emit: &mut Emitter,
    node: &Node,
    shape: &[usize],
    positive_y: &str,
    mask: &str,
) -> Result<(String, String), DeriveError> {
    let x = &node.inputs[0];
    let window = Window::of_node(node, shape[2..].to_vec(), &emit.sizes(x, 2)?)
        .map_err(|reason| DeriveError::Unsupported { nodes: vec![Unsupported::new(node, &emit.graph, reason)] })?;
    let places = emit.sizes(mask, 2)?;
    let (group, count) = (group_count(node), places.iter().product::<usize>());
    let per_group = shape[0] / group;
    let batch = emit.shape(mask)?[0].clone();
    let grouped = |channels: usize| [batch.clone(), Dim::Known(group), Dim::Known(channels), Dim::Known(count)];
    let (upper, lower) = (emit.reshape(positive_y, &grouped(per_group))?, emit.reshape(mask, &grouped(per_group))?);
    let cotangents = emit.concat(&[&upper, &lower], 2)?;
    let pads: Vec<_> =
        [(0, 0), (0, 0)].into_iter().chain(window.begin.iter().copied().zip(window.end.iter().copied())).collect();
    let padded = emit.pad(x, &pads)?;
    let mut taps = Vec::new();
    for tap in 0..window.kernel.iter().product() {
        let patch = tap_of(emit, &padded, &window, &places, tap)?;
        let patch = emit.reshape(&patch, &grouped(shape[1]))?;
        let patch = emit.transpose(&patch, &[0, 1, 3, 2])?;
        let product = super::rules::matrix::batched(emit, &cotangents, &patch)?;
        let summed = emit.reduce_sum(&product, &[0])?;
        taps.push(emit.reshape(&summed, &[group, 2 * per_group, shape[1], 1].map(Dim::Known))?);
    }
    let taps = emit.concat(&taps.iter().map(String::as_str).collect::<Vec<_>>(), 3)?;
    let shape: Vec<Dim> = shape.iter().map(|&size| Dim::Known(size)).collect();
    let mut half = |start: usize| {
        let half = emit.slice(&taps, &[(1, start, start + per_group)])?;
        emit.reshape(&half, &shape)
    };
    Ok((half(0)?, half(per_group)?))
}

fn group_count(node: &Node) -> usize {
    usize::try_from(node.int_or("group", 1)).unwrap_or(1).max(1)
}

/// The inputs that kernel tap `tap` (row-major) meets at every place of the window.
fn tap_of(
    emit: &mut Emitter,
    padded: &str,
    window: &Window,
    places: &[usize],
    tap: usize,
) -> Result<String, DeriveError> {
    let mut output = emit.value_type(padded)?;
    let (mut rest, mut starts, mut ends) = (tap, vec![0; window.rank()], vec![0; window.rank()]);
    for axis in (0..window.rank()).rev() {
        let start = rest % window.kernel[axis] * window.dilations[axis];
        rest /= window.kernel[axis];
        (starts[axis], ends[axis]) = (start as i64, (start + (places[axis] - 1) * window.strides[axis] + 1) as i64);
        output.shape[axis + 2] = Dim::Known(places[axis]);
    }
    if emit.shape(padded)? == output.shape {
        return Ok(padded.to_owned());
    }
    let axes: Vec<i64> = (0..window.rank() as i64).map(|axis| axis + 2).collect();
    let steps: Vec<i64> = window.strides.iter().map(|&stride| stride as i64).collect();
    let [starts, ends, axes, steps] = [starts, ends, axes, steps].map(|values| emit.i64s(&values));
    Ok(emit.node("Slice", &[padded, &starts, &ends, &axes, &steps], Default::default(), output))
}
