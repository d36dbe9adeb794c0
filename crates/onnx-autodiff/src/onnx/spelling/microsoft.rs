//! The ops by which ONNX Runtime's optimiser replaces several nodes (domain `com.microsoft`), as the
//! nodes that they stand for, and its own quantisation as ONNX's.

use super::body::Body;
use super::{Context, Rewritten, Spelling, quantisation};
use crate::onnx::graph::{Element, Node};

type Rewrite = fn(&mut Context<'_>, Node) -> Rewritten;

/// By name.
const FUSED: &[(&str, Rewrite)] = &[
    ("BiasGelu", gelu),
    ("DequantizeLinear", quantisation::dequantize),
    ("FastGelu", gelu),
    ("FusedConv", layer),
    ("FusedGemm", layer),
    ("FusedMatMul", mat_mul),
    ("Gelu", gelu),
    ("QuantizeLinear", quantisation::quantize),
    ("QuickGelu", quick_gelu),
    ("SkipLayerNormalization", skip_normalization),
    ("SkipSimplifiedLayerNormalization", skip_normalization),
    ("TransposeMatMul", mat_mul),
];

/// The spelling of an op of another domain than ONNX's.
pub(in crate::onnx) fn spelling(domain: &str, op: &str) -> Option<Spelling> {
    let rewrite = match domain {
        "com.microsoft" => FUSED.iter().find(|(name, _)| *name == op)?.1,
        "com.microsoft.nchwc" => blocked,
        _ => return None,
    };
    Some(Spelling {
        before: None,
        rewrite,
    })
}

fn blocked(_: &mut Context<'_>, _: Node) -> Rewritten {
    Err("the file was optimised for one kind of processor: optimise it at the extended level at most".into())
}

/// The element type of the node's first input.
fn element(ctx: &Context<'_>, node: &Node) -> Option<Element> {
    ctx.types.get(node.input(0)?).map(|found| found.element)
}

fn gelu(ctx: &mut Context<'_>, node: Node) -> Rewritten {
    let Some(element) = element(ctx, &node) else {
        return Ok(vec![node]);
    };
    let mut body = Body::of(ctx, &node, element);
    let mut x = node.inputs[0].clone();
    if let Some(bias) = node.input(1) {
        x = body.op("Add", [&x, bias]);
    }
    let y = body.gelu(&x, node.op_type == "FastGelu");
    body.finish(&y)
}

fn quick_gelu(ctx: &mut Context<'_>, node: Node) -> Rewritten {
    let Some(element) = element(ctx, &node) else {
        return Ok(vec![node]);
    };
    let mut body = Body::of(ctx, &node, element);
    let y = body.swish(&node.inputs[0], node.float_or("alpha", 1.702));
    body.finish(&y)
}

/// Conv or Gemm, the sum with input 3 of FusedConv, and an activation.
fn layer(ctx: &mut Context<'_>, mut node: Node) -> Rewritten {
    let Some(element) = element(ctx, &node) else {
        return Ok(vec![node]);
    };
    let source = node.clone();
    node.domain.clear();
    node.op_type = node.op_type.replace("Fused", "");
    node.inputs.truncate(3);
    node.attributes
        .retain(|name, _| !name.starts_with("activation"));
    let mut body = Body::of(ctx, &source, element);
    let mut y = body.node(node);
    if let Some(sum) = source.input(3) {
        y = body.op("Add", [&y, sum]);
    }
    let given = source.floats("activation_params").map(<[f32]>::to_vec);
    let named =
        || ["alpha", "beta", "gamma"].map(|name| source.float(&format!("activation_{name}")));
    let parameters = given.unwrap_or_else(|| named().into_iter().flatten().collect());
    if let Some(activation) = source.string("activation") {
        y = activated(&mut body, &y, activation, &parameters)?;
    }
    body.finish(&y)
}

fn activated(body: &mut Body<'_, '_>, x: &str, op: &str, given: &[f32]) -> Result<String, String> {
    let names: &[&str] = match op {
        "Relu" | "Sigmoid" | "Tanh" | "HardSwish" | "Softplus" | "Softsign" => &[],
        "LeakyRelu" | "Elu" | "ThresholdedRelu" => &["alpha"],
        "HardSigmoid" => &["alpha", "beta"],
        "Clip" => {
            let bounds: Vec<String> = given
                .iter()
                .map(|&bound| body.number(bound.into()))
                .collect();
            let inputs = std::iter::once(x.to_owned()).chain(bounds);
            return Ok(body.node(Node::new("Clip", inputs, Vec::new())));
        }
        _ => return Err(format!("activation {op} is not supported")),
    };
    let mut node = Node::new(op, [x], []);
    for (name, &value) in names.iter().zip(given) {
        node = node.with(name, value);
    }
    Ok(body.node(node))
}

/// α A' B', where A' and B' may have their last two axes exchanged.
fn mat_mul(ctx: &mut Context<'_>, node: Node) -> Rewritten {
    let ranks = [0, 1].map(|at| ctx.types.shape(node.input(at)?).map(<[_]>::len));
    let (Some(element), [Some(left), Some(right)]) = (element(ctx, &node), ranks) else {
        return Ok(vec![node]);
    };
    if ["transBatchA", "transBatchB"]
        .iter()
        .any(|name| node.int_or(name, 0) != 0)
    {
        return Err("transBatchA and transBatchB are not supported".into());
    }
    let mut body = Body::of(ctx, &node, element);
    let mut operand = |at: usize, rank: usize, flag: &str| {
        let x = node.inputs[at].clone();
        if node.int_or(flag, 0) == 0 || rank < 2 {
            return x;
        }
        let mut perm: Vec<i64> = (0..rank as i64).collect();
        perm.swap(rank - 2, rank - 1);
        body.transposed(&x, &perm)
    };
    let (a, b) = (operand(0, left, "transA"), operand(1, right, "transB"));
    let mut y = body.op("MatMul", [&a, &b]);
    let alpha = node.float_or("alpha", 1.0);
    if alpha != 1.0 {
        y = body.scaled(&y, alpha.into());
    }
    body.finish(&y)
}

/// The sum of an input, what skips to it and a bias, normalised. Output 3 is the sum.
fn skip_normalization(ctx: &mut Context<'_>, node: Node) -> Rewritten {
    let rank = node
        .input(0)
        .and_then(|x| ctx.types.shape(x))
        .map(<[_]>::len);
    let (Some(element), Some(rank)) = (element(ctx, &node), rank) else {
        return Ok(vec![node]);
    };
    let simple = node.op_type.contains("Simplified");
    let epsilon = node.float_or("epsilon", 1e-12);
    if [1, 2]
        .iter()
        .any(|&at| node.output(at).is_some_and(|name| ctx.used.contains(name)))
    {
        return Err("its mean or deviation is read".into());
    }
    let mut body = Body::of(ctx, &node, element);
    let mut sum = body.op("Add", [&node.inputs[0], &node.inputs[1]]);
    if let Some(bias) = node.input(if simple { 3 } else { 4 }) {
        sum = body.op("Add", [&sum, bias]);
    }
    body.give(3, &sum);
    let y = if simple {
        let normal = body.rms_normalised(&sum, &[rank as i64 - 1], epsilon);
        body.op("Mul", [&normal, &node.inputs[2]])
    } else {
        let inputs = [Some(sum.as_str()), node.input(2), node.input(3)];
        let inputs = inputs.into_iter().flatten();
        body.node(Node::new("LayerNormalization", inputs, []).with("epsilon", epsilon))
    };
    body.finish(&y)
}
