//! Attention and RotaryEmbedding of opset 23 on, written out as the bodies of the functions by which
//! ONNX defines them.

use super::body::Body;
use super::{Context, Rewritten};
use crate::onnx::graph::{Dim, Element, Literal, Node};
use crate::onnx::limits::LARGEST_TENSOR;

/// What the attributes and the inputs of an Attention node ask for.
struct Heads {
    element: Element,
    /// Whether the heads stand side by side in the last axis: inputs of rank 3.
    flat: bool,
    queries: usize,
    keys: usize,
    scale: f64,
    /// Of the softmax.
    precision: Element,
    mask: Option<Element>,
    /// What queries see under `is_causal` and the window sizes.
    window: Option<Literal>,
}

impl Heads {
    /// None where a type is not known.
    fn of(ctx: &Context<'_>, node: &Node) -> Result<Option<Self>, String> {
        let typed = |at: usize| node.input(at).map(|name| ctx.types.get(name));
        let [Some(Some(q)), Some(Some(k)), Some(Some(_))] = [0, 1, 2].map(typed) else {
            return Ok(None);
        };
        let mask = match typed(3) {
            Some(None) => return Ok(None),
            Some(known) => known,
            None => None,
        };
        if [4, 5, 6].into_iter().any(|at| node.input(at).is_some()) {
            return Err("past keys and values are not supported".into());
        }
        let flat = q.shape.len() == 3;
        let heads = |name: &str, shape: &[Dim]| match flat {
            true => node.int(name).and_then(|count| usize::try_from(count).ok()),
            false => shape.get(1).and_then(Dim::known),
        };
        let counts = [
            heads("q_num_heads", &q.shape),
            heads("kv_num_heads", &k.shape),
        ];
        let [Some(queries), Some(keys)] = counts else {
            return Err("its number of heads is not known".into());
        };
        if keys == 0 || !queries.is_multiple_of(keys) {
            return Err(format!(
                "{queries} heads of queries do not fit {keys} of keys"
            ));
        }
        let width = q.shape.last().and_then(Dim::known);
        let width = width.map(|width| if flat { width / queries.max(1) } else { width });
        let scale = match (node.float("scale"), width) {
            (Some(scale), _) => f64::from(scale),
            (None, Some(width)) => 1.0 / (width as f64).sqrt(),
            _ => return Err("the size of its heads is not known".into()),
        };
        let length = |shape: &[Dim]| shape.iter().rev().nth(1).and_then(Dim::known);
        let lengths = [length(&q.shape), length(&k.shape)];
        let columns = mask.and_then(|mask| mask.shape.last()?.known());
        if let (Some(columns), Some(keys)) = (columns, lengths[1])
            && columns != keys
        {
            return Err(format!("its mask has {columns} columns for {keys} keys"));
        }
        let precision = node
            .int("softmax_precision")
            .and_then(|code| i32::try_from(code).ok());
        Ok(Some(Self {
            element: q.element,
            flat,
            queries,
            keys,
            scale,
            precision: precision.and_then(Element::from_code).unwrap_or(q.element),
            mask: mask.map(|mask| mask.element),
            window: window(node, lengths, q.element)?,
        }))
    }

    /// An input of rank 3 as `[batch, heads, length, size]`.
    fn apart(&self, body: &mut Body<'_, '_>, x: &str, heads: usize) -> String {
        if !self.flat {
            return x.to_owned();
        }
        let apart = body.reshaped(x, &[0, 0, heads as i64, -1]);
        body.transposed(&apart, &[0, 2, 1, 3])
    }

    /// Keys or values, each for as many heads of queries as share it.
    fn shared(&self, body: &mut Body<'_, '_>, x: String) -> String {
        if self.queries == self.keys {
            return x;
        }
        let axis = body.ints(&[2]);
        let apart = body.op("Unsqueeze", [&x, &axis]);
        let copies = body.ints(&[1, 1, (self.queries / self.keys) as i64, 1, 1]);
        let several = body.op("Expand", [&apart, &copies]);
        let heads = body.ints(&[0, self.queries as i64, -1]);
        let size = body.node(Node::new("Shape", [&x], []).with("start", 3));
        let shape = body.node(Node::new("Concat", [&heads, &size], []).with("axis", 0));
        body.op("Reshape", [&several, &shape])
    }

    /// The scores of the keys as weights that sum to one; zeros for a query that no key is left to.
    fn weights(&self, body: &mut Body<'_, '_>, scores: String, mask: Option<&str>) -> String {
        let mut scores = scores;
        let mut hidden = None;
        if let Some(mask) = mask {
            let (zero, never) = (body.number(0.0), body.number(f64::NEG_INFINITY));
            let bias = match self.mask {
                Some(Element::Bool) => body.op("Where", [mask, &zero, &never]),
                _ => mask.to_owned(),
            };
            let last = body.ints(&[-1]);
            let most = body.op("ReduceMax", [&bias, &last]);
            let all = body.op("Equal", [&most, &never]);
            let bias = body.op("Where", [&all, &zero, &bias]);
            scores = body.op("Add", [&scores, &bias]);
            hidden = Some((all, zero));
        }
        if let Some(window) = self.window.clone() {
            let bias = body.constant("window", window);
            scores = body.op("Add", [&scores, &bias]);
        }
        let cast = self.precision != self.element;
        if cast {
            scores = body.cast(&scores, self.precision);
        }
        let mut weights = body.node(Node::new("Softmax", [&scores], []).with("axis", -1));
        if cast {
            weights = body.cast(&weights, self.element);
        }
        match hidden {
            Some((all, zero)) => body.op("Where", [&all, &zero, &weights]),
            None => weights,
        }
    }
}

/// softmax(Q Kᵀ scale + mask) V for each head. Caches of keys and values are not supported.
pub(crate) fn attention(ctx: &mut Context<'_>, node: Node) -> Rewritten {
    let Some(heads) = Heads::of(ctx, &node)? else {
        return Ok(vec![node]);
    };
    let mode = node.int_or("qk_matmul_output_mode", 0);
    let read = node
        .output(3)
        .is_some_and(|scores| ctx.used.contains(scores));
    if read && ![0, 3].contains(&mode) {
        return Err(format!(
            "its scores are read with qk_matmul_output_mode {mode}"
        ));
    }
    let mut body = Body::of(ctx, &node, heads.element);
    let queries = heads.apart(&mut body, &node.inputs[0], heads.queries);
    let keys = heads.apart(&mut body, &node.inputs[1], heads.keys);
    let values = heads.apart(&mut body, &node.inputs[2], heads.keys);
    body.give(1, &keys);
    body.give(2, &values);
    let (keys, values) = (
        heads.shared(&mut body, keys),
        heads.shared(&mut body, values),
    );
    let queries = body.scaled(&queries, heads.scale.sqrt());
    let turned = body.transposed(&keys, &[0, 1, 3, 2]);
    let turned = body.scaled(&turned, heads.scale.sqrt());
    let products = body.op("MatMul", [&queries, &turned]);
    let cap = f64::from(node.float_or("softcap", 0.0));
    let mut scores = products.clone();
    if cap != 0.0 {
        let small = body.scaled(&scores, 1.0 / cap);
        let bent = body.op("Tanh", [&small]);
        scores = body.scaled(&bent, cap);
    }
    let weights = heads.weights(&mut body, scores, node.input(3));
    body.give(3, if mode == 3 { &weights } else { &products });
    let mut result = body.op("MatMul", [&weights, &values]);
    if heads.flat {
        let turned = body.transposed(&result, &[0, 2, 1, 3]);
        result = body.reshaped(&turned, &[0, 0, -1]);
    }
    body.finish(&result)
}

/// Zero where a query sees a key, else minus infinity: `[queries, keys]`.
fn window(
    node: &Node,
    lengths: [Option<usize>; 2],
    element: Element,
) -> Result<Option<Literal>, String> {
    let [left, right] = ["left_window_size", "right_window_size"].map(|side| node.int_or(side, -1));
    let causal = node.int_or("is_causal", 0) != 0;
    if !causal && left < 0 && right < 0 {
        return Ok(None);
    }
    let [Some(queries), Some(keys)] = lengths else {
        return Err("the lengths of its sequences are not known".into());
    };
    let count = queries.saturating_mul(keys);
    if count > LARGEST_TENSOR {
        return Err(format!("{count} pairs of queries and keys are too many"));
    }
    let bias = |at: usize| {
        let behind = (at / keys) as i64 - (at % keys) as i64;
        let early = left >= 0 && behind > left;
        let late = (causal && behind < 0) || (right >= 0 && -behind > right);
        if early || late {
            f64::NEG_INFINITY
        } else {
            0.0
        }
    };
    let biases: Vec<f64> = (0..count).map(bias).collect();
    Ok(Some(Literal::from_f64s(element, &[queries, keys], &biases)))
}

/// Pairs of elements of each head, turned by the angles whose cosines and sines are given.
pub(crate) fn rotary_embedding(ctx: &mut Context<'_>, node: Node) -> Rewritten {
    let typed = [0, 1].map(|at| node.input(at).and_then(|name| ctx.types.get(name)).cloned());
    let [Some(x), Some(_)] = typed else {
        return Ok(vec![node]);
    };
    let flat = x.shape.len() == 3;
    let heads = node.int_or("num_heads", 0);
    let width = x
        .shape
        .last()
        .and_then(Dim::known)
        .map(|width| width as i64);
    let width = width.map(|width| if flat { width / heads.max(1) } else { width });
    let Some(width) = width.filter(|_| !flat || heads > 0) else {
        return Err("the size of its heads is not known".into());
    };
    let turned = match node.int_or("rotary_embedding_dim", 0) {
        0 => width,
        part => part,
    };
    let interleaved = node.int_or("interleaved", 0) != 0;
    let mut body = Body::of(ctx, &node, x.element);
    let input = match flat {
        true => body.reshaped(&node.inputs[0], &[0, 0, heads, -1]),
        false => node.inputs[0].clone(),
    };
    let mut angles = |index: usize| {
        let mut values = node.inputs[index].clone();
        if let Some(positions) = node.input(3) {
            values = body.op("Gather", [&values, positions]);
        }
        let axis = body.ints(&[if flat { 2 } else { 1 }]);
        body.op("Unsqueeze", [&values, &axis])
    };
    let (cosines, sines) = (angles(1), angles(2));
    let mut part = |start: i64, end: i64, step: i64| {
        let [start, end, axis, step] = [start, end, -1, step].map(|number| body.ints(&[number]));
        body.op("Slice", [&input, &start, &end, &axis, &step])
    };
    let (first, second) = match interleaved {
        true => (part(0, turned, 2), part(1, turned, 2)),
        false => (part(0, turned / 2, 1), part(turned / 2, turned, 1)),
    };
    let rest = (turned < width).then(|| part(turned, width, 1));
    let mut combined = |op: &str, [a, b]: [&str; 2]| {
        let a = body.op("Mul", [a, &first]);
        let b = body.op("Mul", [b, &second]);
        body.op(op, [&a, &b])
    };
    let mut real = combined("Sub", [&cosines, &sines]);
    let mut imaginary = combined("Add", [&sines, &cosines]);
    if interleaved {
        let last = body.ints(&[-1]);
        real = body.op("Unsqueeze", [&real, &last]);
        imaginary = body.op("Unsqueeze", [&imaginary, &last]);
    }
    let mut result = body.joined([&real, &imaginary]);
    if interleaved {
        result = body.reshaped(&result, &[0, 0, 0, turned]);
    }
    if let Some(rest) = rest {
        result = body.joined([&result, &rest]);
    }
    if flat {
        result = body.reshaped(&result, &[0, 0, -1]);
    }
    body.finish(&result)
}
