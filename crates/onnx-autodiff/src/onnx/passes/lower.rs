//! Opset 18 -> 17, for runtimes that are older: axes of reductions become attributes, sizes of Split
//! inputs. Nodes that opset 17 cannot express are named, and the graph stays as it is.

use super::prune;
use crate::onnx::{
    error::OnnxError,
    graph::{Graph, Literal, Node},
    infer,
    rewrite::Rewriter,
    types::Types,
};

/// The opset that is lowered to.
const OLDER: i64 = 17;

/// A graph after [`lower`].
pub enum Lowered {
    /// Of opset 17.
    Older(Graph),
    /// As it was.
    Needed {
        /// As it was.
        graph: Graph,
        /// What opset 17 cannot express: node and op.
        nodes: Vec<String>,
    },
}

/// The graph, of opset 18, in opset 17 if that can express it.
pub fn lower(graph: Graph) -> Result<Lowered, OnnxError> {
    let types = infer(&graph)?;
    let mut nodes = Vec::new();
    let rewritten = Rewriter::of(graph.clone()).walk(|rewriter, node| {
        Ok::<_, OnnxError>(match older(&node, &types, rewriter) {
            Some(older) => vec![older],
            None => {
                nodes.push(format!("{} ({})", node.label(), node.op_type));
                vec![node]
            }
        })
    });
    if !nodes.is_empty() {
        return Ok(Lowered::Needed { graph, nodes });
    }
    let mut graph = rewritten?;
    graph.opset_imports.insert(String::new(), OLDER);
    Ok(Lowered::Older(prune(graph)?))
}

/// The node in opset 17.
fn older(node: &Node, types: &Types, rewriter: &mut Rewriter) -> Option<Node> {
    let mut node = node.clone();
    if !node.domain.is_empty() {
        return Some(node);
    }
    match node.op_type.as_str() {
        "ReduceL1" | "ReduceL2" | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceMax"
        | "ReduceMean" | "ReduceMin" | "ReduceProd" | "ReduceSumSquare" => {
            let keeps_all = node.int_or("noop_with_empty_axes", 0) != 0;
            if let Some(axes) = node.input(1) {
                let axes = rewriter.graph.initializers.get(axes)?.to_i64s()?;
                if axes.is_empty() && keeps_all {
                    return None;
                }
                if !axes.is_empty() {
                    node = node.with("axes", axes);
                }
            } else if keeps_all {
                return None;
            }
            node.inputs.truncate(1);
            node.attributes.remove("noop_with_empty_axes");
        }
        "Split" if node.input(1).is_none() => {
            let axis = node.int_or("axis", 0);
            let sizes = node.outputs.iter().map(|output| {
                let shape = types.shape(output)?;
                let axis = if axis < 0 {
                    axis + shape.len() as i64
                } else {
                    axis
                };
                Some(shape.get(usize::try_from(axis).ok()?)?.known()? as i64)
            });
            let sizes = sizes.collect::<Option<Vec<_>>>()?;
            let sizes = rewriter.constant(
                &format!("{}.split", node.label()),
                Literal::vector_i64(&sizes),
            );
            node.inputs.truncate(1);
            node.inputs.push(sizes);
            node.attributes.remove("num_outputs");
        }
        "Resize" => {
            let is_new = node.int_or("antialias", 0) != 0
                || node.ints("axes").is_some()
                || !matches!(
                    node.string("keep_aspect_ratio_policy"),
                    None | Some("stretch")
                );
            if is_new {
                return None;
            }
            node.attributes.remove("antialias");
            node.attributes.remove("keep_aspect_ratio_policy");
        }
        "Pad" if node.input(3).is_some() => return None,
        "ScatterElements" | "ScatterND"
            if matches!(node.string("reduction"), Some("max" | "min")) =>
        {
            return None;
        }
        "LpPool" if node.ints("dilations").is_some() || node.int_or("ceil_mode", 0) != 0 => {
            return None;
        }
        "BitwiseAnd" | "BitwiseNot" | "BitwiseOr" | "BitwiseXor" | "CenterCropPad" | "Col2Im"
        | "GroupNormalization" | "Mish" => return None,
        _ => {}
    }
    Some(node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::graph::{Element, ValueInfo, ValueType};

    fn graph(nodes: Vec<Node>) -> Graph {
        let value = |name: &str, shape: [usize; 2]| ValueInfo {
            name: name.into(),
            value_type: ValueType::new(Element::Float, shape.map(Into::into).to_vec()),
        };
        let output = nodes.last().unwrap().outputs[0].clone();
        Graph {
            inputs: vec![value("x", [2, 5])],
            outputs: vec![value(&output, [2, 1])],
            initializers: [("axes".to_owned(), Literal::vector_i64(&[-1]))]
                .into_iter()
                .collect(),
            nodes,
            ..Graph::default()
        }
    }

    #[test]
    fn axes_become_attributes_and_uneven_parts_sizes() {
        let split = Node::new("Split", ["x"], ["a", "b"])
            .with("axis", -1_i64)
            .with("num_outputs", 2_i64);
        let mean = Node::new("ReduceMean", ["b", "axes"], ["mean"]);
        let Ok(Lowered::Older(older)) = lower(graph(vec![split, mean])) else {
            panic!("it stayed");
        };
        assert_eq!(older.opset(), 17);
        let [split, mean] = older.nodes.as_slice() else {
            panic!("{:?}", older.nodes);
        };
        let sizes = &older.initializers[&split.inputs[1]];
        assert_eq!(
            (sizes.to_i64s().unwrap(), split.int("num_outputs")),
            (vec![3, 2], None)
        );
        assert_eq!((mean.inputs.len(), mean.ints("axes")), (1, Some(&[-1][..])));
    }

    #[test]
    fn what_opset_17_has_not_is_named_and_nothing_is_changed() {
        let nodes = vec![
            Node::new("ReduceMax", ["x", "axes"], ["max"]),
            Node::new("Mish", ["max"], ["y"]),
        ];
        let source = graph(nodes);
        match lower(source.clone()) {
            Ok(Lowered::Needed { graph, nodes }) => {
                assert_eq!((graph, nodes), (source, vec!["y (Mish)".to_owned()]));
            }
            _ => panic!("Mish has no form in opset 17"),
        }
    }
}
