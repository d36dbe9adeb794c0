//! Rewrites the spelling of opsets 7 to 22 to opset 18 with the same arithmetic, for inference:
//! Dropout becomes Identity. What opset 18 cannot say is refused; all such nodes are named
//! together.

mod arguments;
mod decompose;

use super::checked;
use crate::onnx::error::{Fault, OnnxError};
use crate::onnx::graph::{Attribute, Graph, Literal, Names, Node};
use crate::onnx::types::{Types, infer};

/// The opset of every graph after `normalise`.
pub const OPSET: i64 = 18;

/// The rewritten nodes, or why there are none.
type Rewritten = Result<Vec<Node>, String>;

/// What rewriting a node may use: the source's types and opset, new names and constants.
struct Rewriter {
    opset: i64,
    types: Types,
    names: Names,
    constants: indexmap::IndexMap<String, Literal>,
}

pub fn normalise(graph: Graph) -> Result<Graph, OnnxError> {
    let types = infer(&graph)?;
    let (opset, names) = (graph.opset(), Names::of(&graph));
    let used = graph
        .consumers()
        .keys()
        .map(|name| name.to_string())
        .chain(graph.pinned())
        .collect();
    let Graph {
        nodes,
        initializers,
        ..
    } = graph;
    let mut rewriter = Rewriter {
        opset,
        types,
        names,
        constants: initializers,
    };
    let (mut rewritten, mut faults) = (Vec::with_capacity(nodes.len()), Vec::new());
    for node in nodes {
        let (label, op) = (node.label().to_string(), node.op_type.clone());
        match rewriter.rewrite(node, &used) {
            Ok(nodes) => rewritten.extend(nodes),
            Err(reason) => faults.push(Fault::Node {
                node: label,
                op,
                reason,
            }),
        }
    }
    if !faults.is_empty() {
        return Err(OnnxError::Model(faults));
    }
    let mut opset_imports = graph.opset_imports;
    opset_imports.insert(String::new(), OPSET);
    let ir_version = graph.ir_version.clamp(8, 10);
    checked(
        "normalise",
        Graph {
            nodes: rewritten,
            initializers: rewriter.constants,
            opset_imports,
            ir_version,
            ..graph
        },
    )
}

impl Rewriter {
    fn rewrite(&mut self, node: Node, used: &std::collections::HashSet<String>) -> Rewritten {
        let is_graph = |value: &Attribute| matches!(value, Attribute::Opaque(_));
        if ["If", "Loop", "Scan"].contains(&node.op_type.as_str())
            && node.attributes.values().any(is_graph)
        {
            return Err(
                "control flow is not supported: export the model without data-dependent branches"
                    .into(),
            );
        }
        if !node.domain.is_empty() {
            return Ok(vec![node]);
        }
        let opset = self.opset;
        match node.op_type.as_str() {
            "Squeeze" | "Unsqueeze" | "ReduceSum" if opset < 13 => self.axes_to_input(node),
            "ReduceMean" | "ReduceMax" | "ReduceMin" | "ReduceProd" | "ReduceL1" | "ReduceL2"
            | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceSumSquare"
                if opset < 18 =>
            {
                self.axes_to_input(node)
            }
            "Clip" if opset < 11 => self.clip(node),
            "Pad" if opset < 11 => self.pad(node),
            "Pad" if node.string("mode") == Some("wrap") => {
                Err("mode wrap is not supported".into())
            }
            "Slice" if opset < 10 => self.slice(node),
            "TopK" if opset < 10 => self.top_k(node),
            "Split" if opset < 18 => self.split(node),
            "Upsample" => self.upsample(node),
            "Resize" => self.resize(node),
            "Scatter" => Ok(vec![Node {
                op_type: "ScatterElements".into(),
                ..node
            }]),
            "Dropout" => self.dropout(node, used),
            "BatchNormalization" => batch_normalization(node, used),
            "Cast" | "CastLike" => Ok(vec![without(node, "saturate")]),
            "MaxPool" => Ok(vec![self.without_ceil(node)]),
            "AveragePool" => average_pool(self.without_ceil(node)),
            "Softmax" | "LogSoftmax" | "Hardmax" if opset < 13 => self.coerced(node),
            "Gelu" => self.gelu(node),
            "GroupNormalization" => self.group_normalization(node),
            _ => Ok(vec![node]),
        }
    }

    /// A pool in `ceil_mode` as one with pads at the end that give as many windows. ONNX's shape
    /// inference counts windows that start beyond the input, which no kernel computes: graphs that
    /// say so do not open.
    fn without_ceil(&self, node: Node) -> Node {
        let sizes = |value: Option<&str>| -> Option<Vec<i64>> {
            let shape = value.and_then(|value| self.types.shape(value))?;
            shape
                .iter()
                .skip(2)
                .map(|dim| Some(dim.known()? as i64))
                .collect()
        };
        let (Some(kernel), Some(input)) = (node.ints("kernel_shape"), sizes(node.input(0))) else {
            return node;
        };
        let Some(windows) = sizes(node.outputs.first().map(String::as_str)) else {
            return node;
        };
        if node.int_or("ceil_mode", 0) == 0
            || node.string("auto_pad").is_some_and(|pad| pad != "NOTSET")
        {
            return node;
        }
        let rank = kernel.len();
        let each =
            |name: &str, other: i64| node.ints(name).map_or(vec![other; rank], <[i64]>::to_vec);
        let (strides, dilations) = (each("strides", 1), each("dilations", 1));
        let given = node.ints("pads").map_or(vec![0; 2 * rank], <[i64]>::to_vec);
        let mut pads = given.clone();
        for axis in 0..rank {
            let span = (kernel[axis] - 1) * dilations[axis] + 1;
            let needed = (windows[axis] - 1) * strides[axis] + span - input[axis] - given[axis];
            pads[rank + axis] = needed.max(given[rank + axis]);
        }
        // Pads that count would change the means.
        if pads != given && node.int_or("count_include_pad", 0) != 0 {
            return node;
        }
        without(node, "ceil_mode").with("pads", pads)
    }

    /// Adds a constant named after `node` and `role`; its value's name.
    fn constant(&mut self, node: &Node, role: &str, literal: Literal) -> String {
        let name = self.names.fresh(&format!("{}.{role}", node.label()));
        self.constants.insert(name.clone(), literal);
        name
    }

    /// A new value named after `node` and `role`.
    fn value(&mut self, node: &Node, role: &str) -> String {
        self.names.fresh(&format!("{}.{role}", node.label()))
    }
}

fn without(mut node: Node, attribute: &str) -> Node {
    node.attributes.remove(attribute);
    node
}

fn average_pool(node: Node) -> Rewritten {
    match node.ints("dilations") {
        Some(dilations) if dilations.iter().any(|&d| d != 1) => {
            Err("dilations are not supported".into())
        }
        _ => Ok(vec![without(node, "dilations")]),
    }
}

/// Only the inference form: one output, statistics as inputs.
fn batch_normalization(node: Node, used: &std::collections::HashSet<String>) -> Rewritten {
    if node.int_or("training_mode", 0) != 0
        || node
            .outputs
            .iter()
            .skip(1)
            .any(|output| used.contains(output))
    {
        return Err("training mode is not supported: export the model in evaluation mode".into());
    }
    if node.int_or("spatial", 1) == 0 {
        return Err("spatial = 0 is not supported".into());
    }
    let mut node = without(without(node, "spatial"), "training_mode");
    node.outputs.truncate(1);
    Ok(vec![node])
}
