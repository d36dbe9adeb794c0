//! Folds BatchNormalization into the Linear layer before it: w' = w s, b' = (b - mean) s + shift, s
//! = scale / √(var + ε). The folded layer takes over the BatchNormalization's output value; a
//! Gemm's alpha and beta fold too, so that its weight is all of w.

use super::checked;
use crate::onnx::error::OnnxError;
use crate::onnx::graph::{Element, Graph, Literal, Node};
use crate::onnx::rewrite::{Edges, Edit, replace};

/// Folds each BatchNormalization into the Linear layer before it.
pub fn fold_batch_norm(mut graph: Graph) -> Result<Graph, OnnxError> {
    replace(&mut graph, scaled_gemm);
    replace(&mut graph, folded);
    checked("fold_batch_norm", graph)
}

/// A Linear node with every BatchNormalization that follows it.
fn folded(edges: &Edges, linear: &Node) -> Option<Edit> {
    let mut next = Some(norm_behind(edges, linear)?);
    let weight_name = linear.input(1)?;
    let shape = &edges.constant(weight_name)?.shape;
    let group = usize::try_from(linear.int_or("group", 1)).ok()?;
    let channel = output_channel(linear, shape, group)?;
    let mut weight = floats(edges, weight_name)?;
    let mut bias = match linear.input(2) {
        Some(name) => floats(edges, name)?,
        None => vec![0.0],
    };
    let mut removed = Vec::new();
    while let Some((norm, affine)) = next {
        let count = affine.factors.len();
        if !(0..weight.len()).all(|position| channel(position) < count) {
            break;
        }
        for (position, value) in weight.iter_mut().enumerate() {
            *value *= affine.factors[channel(position)];
        }
        let at = |c: usize| match bias[..] {
            [all] => all,
            _ => bias.get(c).copied().unwrap_or(0.0),
        };
        bias = (0..count)
            .map(|c| (at(c) - affine.mean[c]) * affine.factors[c] + affine.shift[c])
            .collect();
        removed.push(norm.output(0)?.to_owned());
        next = norm_behind(edges, norm);
    }
    let output = removed.last()?.clone();
    let names = ["weight", "bias"].map(|role| format!("{output}/{role}"));
    let mut node = linear.clone();
    node.inputs.truncate(1);
    node.inputs.extend(names.clone());
    node.outputs = vec![output];
    let [weight_name, bias_name] = names;
    Some(Edit {
        removed,
        constants: vec![
            (weight_name, Literal::from_f32s(shape, &weight)),
            (bias_name, Literal::from_f32s(&[bias.len()], &bias)),
        ],
        ..Edit::with([node])
    })
}

/// y = (x - mean) factors + shift, per channel.
struct Affine {
    factors: Vec<f32>,
    mean: Vec<f32>,
    shift: Vec<f32>,
}

/// The BatchNormalization that is the only consumer of `node`.
fn norm_behind<'a>(edges: &Edges<'a>, node: &Node) -> Option<(&'a Node, Affine)> {
    let value = node.output(0)?;
    let norm = edges.only_reader(value).filter(|norm| {
        norm.is("BatchNormalization")
            && norm.input(0) == Some(value)
            && norm.int_or("training_mode", 0) == 0
    })?;
    let constants = [1, 2, 3, 4].map(|index| floats(edges, norm.input(index)?));
    let [Some(scale), Some(shift), Some(mean), Some(variance)] = constants else {
        return None;
    };
    let epsilon = norm.float_or("epsilon", 1e-5);
    let factors: Vec<f32> = scale
        .iter()
        .zip(&variance)
        .map(|(s, v)| s / (v + epsilon).sqrt())
        .collect();
    let fits = factors.len() == mean.len() && factors.len() == shift.len();
    fits.then_some((
        norm,
        Affine {
            factors,
            mean,
            shift,
        },
    ))
}

fn floats(edges: &Edges, name: &str) -> Option<Vec<f32>> {
    let literal = edges.constant(name)?;
    literal
        .to_f32s()
        .filter(|_| literal.element == Element::Float)
}

/// Maps an index in the weight to its output channel.
fn output_channel(
    node: &Node,
    shape: &[usize],
    group: usize,
) -> Option<Box<dyn Fn(usize) -> usize>> {
    let inner = |from: usize| shape[from..].iter().product::<usize>();
    match node.op_type.as_str() {
        "Conv" => {
            let inner = inner(1);
            Some(Box::new(move |position| position / inner))
        }
        "ConvTranspose" => {
            let (inner, per_group, inputs) = (inner(2), shape[1], shape[0] / group);
            Some(Box::new(move |position| {
                let (row, column) = (position / inner / per_group, position / inner % per_group);
                row / inputs * per_group + column
            }))
        }
        "Gemm" if node.int_or("transA", 0) == 0 => {
            let (columns, transposed) = (shape[1], node.int_or("transB", 0) != 0);
            Some(Box::new(move |position| {
                if transposed {
                    position / columns
                } else {
                    position % columns
                }
            }))
        }
        _ => None,
    }
}

/// Folds alpha into the weight and beta into the bias of a Gemm with constant operands.
fn scaled_gemm(edges: &Edges, gemm: &Node) -> Option<Edit> {
    let mut edit = Edit::default();
    let mut node = gemm.is("Gemm").then(|| gemm.clone())?;
    for (input, attribute) in [(1, "alpha"), (2, "beta")] {
        let factor = node.float_or(attribute, 1.0);
        let Some(values) = node.input(input).and_then(|name| floats(edges, name)) else {
            continue;
        };
        if factor == 1.0 {
            continue;
        }
        let shape = &edges.constant(&node.inputs[input])?.shape;
        let scaled: Vec<f32> = values.iter().map(|value| value * factor).collect();
        let name = format!("{}/{attribute}", node.outputs[0]);
        edit.constants
            .push((name.clone(), Literal::from_f32s(shape, &scaled)));
        node.inputs[input] = name;
        node.attributes.remove(attribute);
    }
    edit.nodes.push(node);
    (!edit.constants.is_empty()).then_some(edit)
}
