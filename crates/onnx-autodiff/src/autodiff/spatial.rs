//! What methods that look inside a network can see there: the layers for Grad-CAM, which are feature
//! maps and grids of tokens of more than one pixel that the head depends on, and the attention of
//! vision transformers.
//!
//! The default layer is the last whose pixels the head depends on: in most classifiers, the input of
//! the global pool, after its ReLU. Outputs of pools and of layout ops are no layers, so that of VGG
//! is the last ReLU before the last pool, as in Selvaraju et al. 2017. Where the head reads a class
//! token alone, the patches of the last block's output have no gradient: there it is what the last
//! attention is made of, the last block's first norm.

use std::collections::{HashMap, HashSet};

use super::{
    DeriveError,
    emit::Emitter,
    error::dims,
    exits,
    forward::{self, Forward},
    layers,
    places::{self, Axes, Places, Reads},
    spec::{Attention, AttentionLayer, Grid, Layer},
};
use crate::onnx::{
    graph::{Dim, Graph, Node},
    ops::{self, Elements},
};

/// What can be seen inside a network.
pub struct Spatial {
    /// In the order of the forward pass; all are values of the source.
    pub layers: Vec<Layer>,
    /// The layer that Grad-CAM looks at by default.
    pub default: Option<String>,
    /// Or why there is none that relates all tokens of a grid.
    pub attention: Result<Attention, String>,
}

/// The layers of [`spatial`].
pub fn spatial_layers(source: &Graph) -> Result<Vec<Layer>, DeriveError> {
    Ok(spatial(source)?.layers)
}

/// Looks for layers and attention in a network.
pub fn spatial(source: &Graph) -> Result<Spatial, DeriveError> {
    let Forward {
        emit,
        nodes,
        input,
        batch,
        head,
    } = forward::prepare(source, false).map_err(|error| error.of_source(source))?;
    let active = layers::active(&emit, &nodes, &[&input], &head.logits);
    let places = places::places(&emit, &nodes, &input);
    let reads = places::reads(&emit, &nodes, &head.logits, &places);
    let known = source.value_names();
    let computed = nodes
        .iter()
        .filter(|node| !moves(node))
        .flat_map(|node| &node.outputs);
    let layers: Vec<Layer> = computed
        .filter(|name| active.contains(*name) && known.contains(*name))
        .filter_map(|name| layer(&emit, name, places.get(name)?, &batch))
        .collect();
    let softmaxes = softmaxes(&emit, &nodes, &active);
    Ok(Spatial {
        default: default(&nodes, &layers, &reads, &softmaxes),
        attention: attention(&emit, &batch, &layers, &reads, &softmaxes).map(|found| {
            let tokens = |value: &str| {
                let layer = layer(&emit, value, places.get(value)?, &batch)?;
                let channels = layer.grid.channels;
                let is_alike = layer.shape.len() == 2 && layer.shape[1 - channels] == found.tokens;
                (is_alike && layer.grid == found.grid).then_some(2 - channels)
            };
            Attention {
                exits: exits::exits(&emit, &nodes, &head.logits, &found, tokens),
                ..found.clone()
            }
        }),
        layers,
    })
}

/// Whether a node only pools or moves values.
fn moves(node: &Node) -> bool {
    ops::of(node).is_some_and(|op| matches!(op.elements, Elements::Moved | Elements::Same))
}

fn layer(emit: &Emitter, name: &str, places: &Places, batch: &Dim) -> Option<Layer> {
    if emit.shape(name).ok()?.first() != Some(batch) {
        return None;
    }
    let shape = emit.sizes(name, 1).ok()?;
    let (channels, first) = match (shape.len(), places.axes) {
        (3, Axes::Map([2, 3])) => (0, 0),
        (3, Axes::Map([1, 2])) => (2, 0),
        (2, Axes::Tokens { axis: 1, first }) => (1, first),
        (2, Axes::Tokens { axis: 2, first }) => (0, first),
        _ => return None,
    };
    let &Places { height, width, .. } = places;
    (height * width > 1).then(|| Layer {
        name: name.to_owned(),
        shape,
        grid: Grid {
            channels,
            first,
            height,
            width,
        },
    })
}

/// A Softmax whose output weighs values.
struct Weights<'a> {
    node: &'a Node,
    values: &'a str,
}

impl Weights<'_> {
    fn name(&self) -> &str {
        &self.node.outputs[0]
    }
}

/// Softmaxes over the last axis whose outputs are the left factor of a matrix product that does not
/// have a constant for the other, perhaps with masks or casts in between.
fn softmaxes<'a>(emit: &Emitter, nodes: &'a [Node], active: &HashSet<String>) -> Vec<Weights<'a>> {
    let mut readers: HashMap<&str, Vec<&Node>> = HashMap::new();
    for node in nodes {
        for input in &node.inputs {
            readers.entry(input).or_default().push(node);
        }
    }
    let over_last = |node: &Node| {
        let rank = emit
            .shape(&node.outputs[0])
            .map_or(0, |shape| shape.len() as i64);
        let axis = node.int_or("axis", -1);
        rank >= 3 && (axis == -1 || axis + 1 == rank)
    };
    let softmaxes = nodes
        .iter()
        .filter(|node| node.is("Softmax") && active.contains(&node.outputs[0]) && over_last(node));
    let weighed = |node: &'a Node| {
        let mut value = node.outputs[0].as_str();
        loop {
            let readers = readers.get(value)?;
            let product = readers
                .iter()
                .find(|reader| reader.is("MatMul") && reader.inputs[0] == value);
            if let Some(product) = product {
                let values = product.input(1)?;
                return emit
                    .literal(values)
                    .is_none()
                    .then_some(Weights { node, values });
            }
            value = readers
                .iter()
                .find(|reader| passes(reader))
                .map(|reader| reader.outputs[0].as_str())?;
        }
    };
    softmaxes.filter_map(weighed).collect()
}

/// Whether attention weights are still what they were: masked or of another type.
fn passes(node: &Node) -> bool {
    ["Cast", "Identity", "Where"].iter().any(|op| node.is(op))
}

fn default(
    nodes: &[Node],
    layers: &[Layer],
    reads: &HashMap<String, Reads>,
    softmaxes: &[Weights<'_>],
) -> Option<String> {
    let last = layers.last()?;
    let counts = |layer: &&Layer| match reads.get(&layer.name) {
        Some(Reads::Tokens(tokens)) => {
            let Grid { first, .. } = layer.grid;
            let places = first + layer.grid.height * layer.grid.width;
            tokens
                .get(first..places)
                .is_none_or(|own| own.contains(&true))
        }
        _ => true,
    };
    if counts(&last) {
        return Some(last.name.clone());
    }
    let width = |layer: &Layer| layer.shape.get(layer.grid.channels).copied();
    let mut wide = layers
        .iter()
        .filter(|layer| counts(layer) && width(layer) == width(last))
        .rev();
    let found = softmaxes.last().and_then(|weights| {
        let [scores, values] =
            [weights.name(), weights.values].map(|value| exits::behind(nodes, value));
        wide.clone().find(|layer| {
            scores.contains(layer.name.as_str()) && values.contains(layer.name.as_str())
        })
    });
    let chosen = found.or_else(|| wide.next()).unwrap_or(last);
    Some(chosen.name.clone())
}

fn attention(
    emit: &Emitter,
    batch: &Dim,
    layers: &[Layer],
    reads: &HashMap<String, Reads>,
    softmaxes: &[Weights<'_>],
) -> Result<Attention, String> {
    let Some(first) = softmaxes.first() else {
        return Err(
            "the network has no attention: no Softmax in it weighs values of tokens".into(),
        );
    };
    let tokens_of = |layer: &&Layer| layer.shape.len() == 2;
    let Some(last) = layers.iter().rfind(tokens_of) else {
        return Err(format!(
            "`{}` attends within windows or other parts of feature maps: no layer has one grid of all tokens",
            first.node.label()
        ));
    };
    let tokens = last.shape[1 - last.grid.channels];
    let mut found = Vec::new();
    for weights in softmaxes {
        let shape = emit.shape(weights.name()).unwrap_or_default();
        let [queries, keys] = [2, 1].map(|back| {
            let axis = shape.len().checked_sub(back);
            axis.and_then(|axis| shape[axis].known())
        });
        let node = weights.node.label();
        let count =
            |of: Option<usize>| of.map_or("an unknown number of".into(), |of| of.to_string());
        if [queries, keys] != [Some(tokens); 2] {
            return Err(format!(
                "`{node}` relates {} queries and {} keys, and not all {tokens} tokens to each other (windows, pooled keys, or a class token alone)",
                count(queries),
                count(keys)
            ));
        }
        let heads = match &shape[1..shape.len() - 2] {
            [] => Some(1),
            [heads] => heads.known(),
            _ => None,
        };
        let Some(heads) = heads.filter(|_| shape.first() == Some(batch)) else {
            return Err(format!(
                "`{node}` gives {} and not [batch, heads, tokens, tokens]",
                dims(&shape)
            ));
        };
        found.push(AttentionLayer {
            node: node.to_owned(),
            weights: weights.name().to_owned(),
            heads,
        });
    }
    let read = match reads.get(&last.name) {
        Some(Reads::Tokens(read)) => (0..tokens).filter(|&token| read[token]).collect(),
        _ => (0..tokens).collect(),
    };
    Ok(Attention {
        layers: found,
        tokens,
        grid: last.grid,
        read,
        exits: Ok(Vec::new()),
    })
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
