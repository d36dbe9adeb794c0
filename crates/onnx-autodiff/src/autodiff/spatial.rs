//! The layers for Grad-CAM: feature maps `[channels, height, width]` of more than one pixel that
//! the head depends on. The last is the default: in most classifiers, the input of the global pool,
//! after its ReLU. Outputs of pools and of layout ops are no layers, so the default of VGG is the
//! last ReLU before the last pool, as in Selvaraju et al. 2017.

use super::{DeriveError, forward, forward::Forward, layers, spec::Layer};
use crate::onnx::{
    graph::{Graph, Node},
    ops::{self, Elements},
};

/// The layers in the order of the forward pass; all are values of `source`.
pub fn spatial_layers(source: &Graph) -> Result<Vec<Layer>, DeriveError> {
    let Forward {
        emit,
        nodes,
        input,
        head,
        ..
    } = forward::prepare(source, false)?;
    let active = layers::active(&emit, &nodes, &[&input], &head.logits);
    let known = source.value_names();
    let computed = nodes
        .iter()
        .filter(|node| !moves(node))
        .flat_map(|node| &node.outputs);
    let layer = |name: &String| match emit.sizes(name, 1).ok()?[..] {
        [channels, height, width] if height * width > 1 => Some(Layer {
            name: name.clone(),
            shape: [channels, height, width],
        }),
        _ => None,
    };
    Ok(computed
        .filter(|name| active.contains(*name) && known.contains(*name))
        .filter_map(layer)
        .collect())
}

/// Whether a node only pools or moves values.
fn moves(node: &Node) -> bool {
    ops::of(node).is_some_and(|op| matches!(op.elements, Elements::Moved | Elements::Same))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::graph::{Element, Literal, ValueInfo, ValueType};

    /// Nodes over an input `x` of `[2, 8, 8]`, with a head of three classes over `features`.
    fn names(mut nodes: Vec<Node>, features: usize) -> Vec<String> {
        let value = |name: &str, dims: Vec<usize>| ValueInfo {
            name: name.into(),
            value_type: ValueType::new(
                Element::Float,
                [vec!["N".into()], dims.into_iter().map(Into::into).collect()].concat(),
            ),
        };
        nodes.push(Node::new("Flatten", ["last"], ["flat"]));
        nodes.push(Node::new("Gemm", ["flat", "weights"], ["scores"]));
        let mut graph = Graph {
            opset_imports: [(String::new(), 17)].into(),
            inputs: vec![value("x", vec![2, 8, 8])],
            outputs: vec![value("scores", vec![3])],
            nodes,
            ..Graph::default()
        };
        graph.initializers.insert(
            "filters".into(),
            Literal::from_f32s(&[2, 2, 3, 3], &[0.1; 36]),
        );
        graph.initializers.insert(
            "weights".into(),
            Literal::from_f32s(&[features, 3], &vec![0.1; 3 * features]),
        );
        spatial_layers(&graph)
            .unwrap()
            .into_iter()
            .map(|layer| layer.name)
            .collect()
    }

    fn convolution(input: &str, output: &str) -> Node {
        Node::new("Conv", [input, "filters"], [output]).with("pads", vec![1_i64; 4])
    }

    #[test]
    fn the_last_is_what_the_global_pool_averages() {
        let nodes = vec![
            convolution("x", "conv"),
            Node::new("Relu", ["conv"], ["on"]),
            Node::new("GlobalAveragePool", ["on"], ["last"]),
        ];
        assert_eq!(names(nodes, 2), ["conv", "on"]);
    }

    #[test]
    fn joined_branches_are_seen_together() {
        let nodes = vec![
            convolution("x", "left"),
            Node::new("Relu", ["left"], ["left_on"]),
            convolution("x", "right"),
            Node::new("Relu", ["right"], ["right_on"]),
            Node::new("Concat", ["left_on", "right_on"], ["both"]).with("axis", 1_i64),
            Node::new("GlobalAveragePool", ["both"], ["last"]),
        ];
        assert_eq!(names(nodes, 4).last().map(String::as_str), Some("both"));
    }

    #[test]
    fn poolings_before_a_dense_head_and_gates_of_one_pixel_are_passed_over() {
        let nodes = vec![
            convolution("x", "conv"),
            Node::new("GlobalAveragePool", ["conv"], ["squeezed"]),
            Node::new("Sigmoid", ["squeezed"], ["gate"]),
            Node::new("Mul", ["conv", "gate"], ["excited"]),
            Node::new("MaxPool", ["excited"], ["last"])
                .with("kernel_shape", vec![2_i64; 2])
                .with("strides", vec![2_i64; 2]),
        ];
        assert_eq!(names(nodes, 32), ["conv", "excited"]);
    }

    #[test]
    fn a_net_over_flat_values_has_none() {
        assert!(names(vec![Node::new("GlobalAveragePool", ["x"], ["last"])], 2).is_empty());
    }
}
