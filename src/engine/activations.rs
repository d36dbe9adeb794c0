//! The memory that a graph's activations take per row: the peak over nodes, run in the order of the
//! graph, of the bytes of all live values. An upper bound for ONNX Runtime, which also reuses
//! buffers in place. Values of unknown shape are counted as 0.

use std::collections::HashMap;

use onnx_autodiff::onnx::{
    OnnxError,
    graph::{Graph, ValueType},
    infer,
};

/// Bytes per row of the batch.
pub fn peak_bytes(graph: &Graph) -> Result<usize, OnnxError> {
    peak_bytes_of(graph, |_| true)
}

/// As [`peak_bytes`], without the values whose size does not depend on the batch, such as the
/// gradient of a weight.
pub(super) fn batch_peak_bytes(graph: &Graph) -> Result<usize, OnnxError> {
    peak_bytes_of(graph, |value_type| {
        value_type.shape.iter().any(|dim| dim.known().is_none())
    })
}

fn peak_bytes_of(graph: &Graph, counts: fn(&ValueType) -> bool) -> Result<usize, OnnxError> {
    let types = infer(graph)?;
    let bytes = |value: &str| {
        types
            .get(value)
            .filter(|value_type| !graph.initializers.contains_key(value) && counts(value_type))
            .map_or(0, |value_type| {
                let elements: usize = value_type
                    .shape
                    .iter()
                    .map(|dim| dim.known().unwrap_or(1))
                    .product();
                elements * value_type.element.size()
            })
    };
    let mut last_use: HashMap<&str, usize> = HashMap::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        last_use.extend(
            node.inputs
                .iter()
                .chain(&node.outputs)
                .map(|value| (value.as_str(), index)),
        );
    }
    last_use.extend(
        graph
            .outputs
            .iter()
            .chain(&graph.inputs)
            .map(|value| (value.name.as_str(), graph.nodes.len())),
    );
    let mut dying: HashMap<usize, usize> = HashMap::new();
    for (value, index) in &last_use {
        *dying.entry(*index).or_default() += bytes(value);
    }
    let mut alive: usize = graph.inputs.iter().map(|input| bytes(&input.name)).sum();
    let mut peak = alive;
    for (index, node) in graph.nodes.iter().enumerate() {
        alive += node
            .outputs
            .iter()
            .map(|output| bytes(output))
            .sum::<usize>();
        peak = peak.max(alive);
        alive = alive.saturating_sub(dying.get(&index).copied().unwrap_or(0));
    }
    Ok(peak)
}

#[cfg(test)]
mod tests {
    use super::*;
    use onnx_autodiff::onnx::graph::{Element, Node, ValueInfo, ValueType};

    #[test]
    fn a_chain_holds_two_values_and_a_kept_one_three() {
        let value = |name: &str| ValueInfo {
            name: name.into(),
            value_type: ValueType::new(Element::Float, vec!["batch".into(), 10_usize.into()]),
        };
        let mut graph = Graph {
            name: "chain".into(),
            opset_imports: [(String::new(), 17)].into(),
            inputs: vec![value("x")],
            outputs: vec![value("d")],
            nodes: vec![
                Node::new("Relu", ["x"], ["a"]),
                Node::new("Sigmoid", ["a"], ["b"]),
                Node::new("Tanh", ["b"], ["c"]),
                Node::new("Relu", ["c"], ["d"]),
            ],
            ..Graph::default()
        };
        // The input is live throughout: the caller holds it.
        assert_eq!(peak_bytes(&graph).unwrap(), 3 * 40);
        graph.nodes[3] = Node::new("Mul", ["c", "a"], ["d"]);
        assert_eq!(peak_bytes(&graph).unwrap(), 4 * 40);
        graph.nodes[1] = Node::new("Transpose", ["weight"], ["b"]);
        graph.inputs.push(ValueInfo {
            name: "weight".into(),
            value_type: ValueType::new(Element::Float, vec![10.into()]),
        });
        // The input, one intermediate value, the output.
        assert_eq!(batch_peak_bytes(&graph).unwrap(), 3 * 40);
    }
}
