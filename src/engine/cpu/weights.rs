//! Large weights of Gemm and MatMul, passed to sessions as inputs and not as constants.
//!
//! ONNX Runtime copies every constant once per session, and packs it once more for each use. An
//! input is read in place, in the mapped model file, by all sessions of a model. With 25088 x 4096
//! (VGG-16, 5 rows, 2 cores): forward 21 ms lent, 16 ms packed; backward 47 and 20 ms; memory 0 and
//! 411 MB per use.

use std::collections::HashSet;

use onnx_autodiff::onnx::graph::{Dim, Element, Graph, Literal, Names, Node, ValueInfo, ValueType};

/// Smaller weights stay constants: packing makes them faster.
pub(crate) const LENT_BYTES: usize = 4 << 20;

/// A matrix outside of the session and the name of its input.
pub struct Lent {
    pub name: String,
    pub literal: Literal,
}

/// Turns large float matrices that only Gemm and MatMul read into inputs of the graph, and returns
/// them.
pub(crate) fn lend(mut graph: Graph) -> (Graph, Vec<Lent>) {
    let names = lendable(&graph);
    let mut lent = Vec::new();
    for name in names {
        let Some(literal) = graph.initializers.shift_remove(&name) else {
            continue;
        };
        let shape = literal.shape.iter().map(|&size| Dim::Known(size)).collect();
        graph.inputs.push(ValueInfo {
            name: name.clone(),
            value_type: ValueType::new(Element::Float, shape),
        });
        lent.push(Lent { name, literal });
    }
    put_weights_first(&mut graph, &lent);
    (graph, lent)
}

/// Bytes of the weights that [`lend`] would turn into inputs.
pub(crate) fn lent_bytes(graph: &Graph) -> usize {
    lendable(graph)
        .iter()
        .filter_map(|name| graph.initializers.get(name))
        .map(|literal| literal.bytes.len())
        .sum()
}

fn lendable(graph: &Graph) -> Vec<String> {
    let pinned = graph.pinned();
    let elsewhere: HashSet<&str> = graph
        .nodes
        .iter()
        .flat_map(|node| {
            let matrices = if node.is("Gemm") || node.is("MatMul") {
                2
            } else {
                0
            };
            node.inputs.iter().skip(matrices).map(String::as_str)
        })
        .collect();
    let lendable = graph.initializers.iter().filter(|(name, literal)| {
        literal.element == Element::Float
            && literal.shape.len() == 2
            && literal.bytes.len() >= LENT_BYTES
            && !elsewhere.contains(name.as_str())
            && !pinned.contains(name.as_str())
    });
    lendable.map(|(name, _)| name.clone()).collect()
}

/// Rewrites `x Wᵀ + c` as `(W xᵀ)ᵀ + c`: the runtime packs the second operand of a product in every
/// run but reads the first in place, which is four times faster for a large weight and few rows.
fn put_weights_first(graph: &mut Graph, lent: &[Lent]) {
    let lent: HashSet<&str> = lent.iter().map(|lent| lent.name.as_str()).collect();
    let mut names = Names::of(graph);
    let nodes = std::mem::take(&mut graph.nodes);
    for node in nodes {
        let swaps = node.is("Gemm")
            && node.input(1).is_some_and(|weight| lent.contains(weight))
            && node.int_or("transB", 0) != 0
            && (node.input(2).is_none() || node.float_or("beta", 1.0) == 1.0);
        match (swaps, node.inputs.as_slice(), node.output(0)) {
            (true, [rows, weight, rest @ ..], Some(output)) => {
                let product = names.fresh(&format!("{output}.columns"));
                let bias = rest.first().filter(|name| !name.is_empty());
                let summed = if bias.is_some() {
                    names.fresh(&format!("{output}.rows"))
                } else {
                    output.to_owned()
                };
                graph.nodes.push(
                    Node::new("Gemm", [weight, rows], [&product])
                        .with("alpha", node.float_or("alpha", 1.0))
                        .with("transB", 1 - node.int_or("transA", 0)),
                );
                graph.nodes.push(
                    Node::new("Transpose", [&product], [&summed]).with("perm", vec![1_i64, 0]),
                );
                if let Some(bias) = bias {
                    graph
                        .nodes
                        .push(Node::new("Add", [&summed, bias], [&output.to_owned()]));
                }
            }
            _ => graph.nodes.push(node),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::{
            Provider,
            backend_ort::{OrtSession, Threads, load_runtime},
        },
        tensor::Tensor,
    };
    use onnx_autodiff::onnx::write_model;

    /// `y = relu(x Wᵀ + b)`, `dx = y W`, with W 1024 x 2048.
    fn two_products() -> Graph {
        let value = |name: &str, size: usize| ValueInfo {
            name: name.into(),
            value_type: ValueType::new(Element::Float, vec!["n".into(), size.into()]),
        };
        let weights: Vec<f32> = (0..1024 * 2048_u64)
            .map(|i| ((i * 7919 % 1013) as f32 - 506.0) / 4096.0)
            .collect();
        let bias: Vec<f32> = (0..1024).map(|i| i as f32 / 512.0 - 1.0).collect();
        Graph {
            name: "products".into(),
            opset_imports: [(String::new(), 17)].into(),
            inputs: vec![value("x", 2048)],
            outputs: vec![value("y", 1024), value("dx", 2048)],
            initializers: [
                ("w".to_owned(), Literal::from_f32s(&[1024, 2048], &weights)),
                ("b".to_owned(), Literal::from_f32s(&[1024], &bias)),
            ]
            .into_iter()
            .collect(),
            nodes: vec![
                Node::new("Gemm", ["x", "w", "b"], ["h"]).with("transB", 1_i64),
                Node::new("Relu", ["h"], ["y"]),
                Node::new("Gemm", ["y", "w"], ["dx"]),
            ],
            ..Graph::default()
        }
    }

    #[test]
    fn a_large_matrix_is_lent_and_its_bias_is_not() {
        let (graph, lent) = lend(two_products());
        assert_eq!(
            lent.iter().map(|l| l.name.as_str()).collect::<Vec<_>>(),
            ["w"]
        );
        assert!(graph.initializers.contains_key("b") && !graph.initializers.contains_key("w"));
    }

    #[test]
    fn a_matrix_that_another_operator_reads_stays_a_constant() {
        let mut graph = two_products();
        graph.nodes.push(Node::new("Transpose", ["w"], ["wt"]));
        assert!(lend(graph).1.is_empty());
    }

    #[test]
    fn lent_weights_give_the_answers_of_constants() {
        let runtime = load_runtime(None, 0).unwrap();
        let graph = two_products();
        let mut constant = OrtSession::open_bytes(
            runtime,
            write_model(&graph).unwrap(),
            Provider::Cpu,
            Threads::Shared,
        )
        .unwrap();
        let mut lent =
            OrtSession::open(runtime, graph.clone(), Provider::Cpu, Threads::Shared).unwrap();
        let x = Tensor::from_shape_fn(vec![3, 2048], |i| {
            ((i[0] * 31 + i[1] * 17) % 29) as f32 / 29.0 - 0.5
        });
        let (expected, found) = (
            constant.run(&[("x", x.view())]).unwrap(),
            lent.run(&[("x", x.view())]).unwrap(),
        );
        for (name, expected) in &expected {
            // Sums of 2048 products, in a different order.
            assert!(
                expected
                    .iter()
                    .zip(&found[name])
                    .all(|(a, b)| (a - b).abs() < 1e-4 * (1.0 + a.abs())),
                "{name}"
            );
        }
    }
}
