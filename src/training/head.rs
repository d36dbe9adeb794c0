//! A network's last Linear layer replaced by one for another number of classes: weights by He et
//! al. 2015 section 2.2, N(0, 2 / fan_in), biases 0. What follows it stays: activations, pooling, a
//! Softmax; shapes that name the number of classes are rewritten.

use std::collections::HashSet;

use super::TrainingError;
use crate::random::normals;
use onnx_autodiff::onnx::{
    graph::{Dim, Graph, Literal, Names, Node},
    infer, passes,
};

/// The graph with a new head.
pub(super) fn replace(graph: &Graph, classes: usize, seed: u64) -> Result<Graph, TrainingError> {
    let refused = |reason: String| TrainingError::Head { reason };
    let mut graph = passes::fold(graph.clone())?;
    let found = graph
        .nodes
        .iter()
        .rposition(|node| layer(&graph, node).is_some());
    let (at, layer) = found
        .and_then(|at| Some((at, layer(&graph, &graph.nodes[at])?)))
        .ok_or_else(|| refused("no Conv, Gemm or MatMul with a constant weight is in it".into()))?;
    let old = layer.classes;
    let name = graph.nodes[at].label().to_owned();
    if output_classes(&graph) != Some(old) {
        return Err(refused(format!(
            "its last Linear layer, {name}, gives {old} values, and the output is not as many classes"
        )));
    }
    let mut names = Names::of(&graph);
    let mut fresh = Fresh {
        names: &mut names,
        added: Vec::new(),
    };
    let deviation = (2.0 / layer.fan_in.max(1) as f64).sqrt();
    let mut shape = layer.shape;
    shape[layer.class_axis] = classes;
    let count: usize = shape.iter().product();
    let values: Vec<f64> = normals(seed, 0)
        .take(count)
        .map(|normal| deviation * normal)
        .collect();
    let mut edits = vec![(at, 1, fresh.add(&graph.nodes[at], 1, shape, &values))];
    let zeros = vec![0.0; classes];
    if let Some(bias) = constant(&graph, &graph.nodes[at], 2) {
        let shape = replaced(&bias.shape, old, classes);
        edits.push((at, 2, fresh.add(&graph.nodes[at], 2, shape, &zeros)));
    }
    let mut reached: HashSet<&str> = graph.nodes[at].outputs.iter().map(String::as_str).collect();
    for (index, node) in graph.nodes.iter().enumerate().skip(at + 1) {
        if !node
            .inputs
            .iter()
            .any(|input| reached.contains(input.as_str()))
        {
            continue;
        }
        reached.extend(node.outputs.iter().map(String::as_str));
        for slot in 0..node.inputs.len() {
            let Some(literal) = constant(&graph, node, slot) else {
                continue;
            };
            if node.is("Add") && literal.len() == old {
                let shape = replaced(&literal.shape, old, classes);
                edits.push((index, slot, fresh.add(node, slot, shape, &zeros)));
            } else if let Some(sizes) = literal.to_i64s().filter(|_| node.is("Reshape")) {
                let resized: Vec<f64> = sizes
                    .iter()
                    .map(|&size| {
                        if size == old as i64 {
                            classes as f64
                        } else {
                            size as f64
                        }
                    })
                    .collect();
                let shape = literal.shape.clone();
                edits.push((index, slot, fresh.add(node, slot, shape, &resized)));
            }
        }
    }
    let added = fresh.added;
    for (name, source, shape, values) in added {
        let element = graph
            .initializers
            .get(&source)
            .map(|literal| literal.element);
        if let Some(element) = element {
            let literal = Literal::from_f64s(element, &shape, &values);
            graph.initializers.insert(name, literal);
        }
    }
    for (index, slot, name) in edits {
        graph.nodes[index].inputs[slot] = name;
    }
    let mut graph = passes::prune(graph)?;
    let made_for = |reason: String| {
        refused(format!(
            "what follows its last Linear layer, {name}, is made for {old} classes{reason}"
        ))
    };
    let types = infer(&graph).map_err(|error| made_for(format!(": {error}")))?;
    if let Some(output) = graph.outputs.first_mut()
        && let Some(found) = types.get(&output.name)
    {
        output.value_type = found.clone();
    }
    match output_classes(&graph) {
        Some(found) if found == classes => Ok(graph),
        _ => Err(made_for(String::new())),
    }
}

/// Constants that take the place of others.
struct Fresh<'a> {
    names: &'a mut Names,
    /// Name, the constant whose element type it has, shape, values.
    added: Vec<(String, String, Vec<usize>, Vec<f64>)>,
}

impl Fresh<'_> {
    /// In place of a node's input; the name of the new one.
    fn add(&mut self, node: &Node, slot: usize, shape: Vec<usize>, values: &[f64]) -> String {
        let source = node.inputs[slot].clone();
        let name = self.names.fresh(&source);
        let count = shape.iter().product();
        let values = values.iter().copied().take(count).collect();
        self.added.push((name.clone(), source, shape, values));
        name
    }
}

struct Layer {
    shape: Vec<usize>,
    class_axis: usize,
    classes: usize,
    fan_in: usize,
}

/// A product of the input with a constant weight.
fn layer(graph: &Graph, node: &Node) -> Option<Layer> {
    let weight = constant(graph, node, 1).filter(|weight| weight.element.is_float())?;
    let shape = weight.shape.clone();
    let class_axis = match (node.op_type.as_str(), shape.len()) {
        ("Conv", 3..) => 0,
        ("Gemm", 2) => usize::from(node.int_or("transB", 0) == 0),
        ("MatMul", 2) => 1,
        _ => return None,
    };
    let classes = shape[class_axis];
    let fan_in = weight.len().checked_div(classes)?;
    Some(Layer {
        shape,
        class_axis,
        classes,
        fan_in,
    })
}

fn constant<'a>(graph: &'a Graph, node: &Node, slot: usize) -> Option<&'a Literal> {
    let name = node.input(slot).filter(|_| node.domain.is_empty())?;
    graph.initializers.get(name)
}

fn replaced(shape: &[usize], old: usize, new: usize) -> Vec<usize> {
    shape
        .iter()
        .map(|&size| if size == old { new } else { size })
        .collect()
}

/// The classes of the first output.
fn output_classes(graph: &Graph) -> Option<usize> {
    let shape = &graph.outputs.first()?.value_type.shape;
    shape.iter().skip(1).map(Dim::known).product()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use onnx_autodiff::onnx::{
        graph::{Element, ValueInfo, ValueType},
        read_model,
    };

    fn value(name: &str, sizes: &[usize]) -> ValueInfo {
        let batch = [Dim::Symbol("N".into())];
        let sizes = sizes.iter().copied().map(Dim::Known);
        ValueInfo {
            name: name.into(),
            value_type: ValueType::new(Element::Float, batch.into_iter().chain(sizes).collect()),
        }
    }

    fn floats(shape: &[usize]) -> Literal {
        let count = shape.iter().product();
        Literal::from_f32s(shape, &vec![1.0; count])
    }

    /// MatMul of 6 features, then these nodes.
    fn net(nodes: &[Node], constants: &[(&str, Literal)]) -> Graph {
        let constants = constants.iter().cloned();
        let all = constants.chain([("w", floats(&[6, 4]))]);
        Graph {
            inputs: vec![value("x", &[6])],
            outputs: vec![value("y", &[4])],
            initializers: all
                .map(|(name, literal)| (name.to_owned(), literal))
                .collect(),
            nodes: [&[Node::new("MatMul", ["x", "w"], ["z"])], nodes].concat(),
            ..Graph::default()
        }
    }

    #[test]
    fn the_bundled_networks_head_is_replaced() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/squeezenet1_1/model.onnx");
        let source = read_model(&path).unwrap();
        let graph = replace(&source, 5, 1).unwrap();
        assert_eq!(output_classes(&graph), Some(5));
        let changed: Vec<_> = graph
            .initializers
            .iter()
            .filter(|(name, literal)| source.initializers.get(*name) != Some(literal))
            .map(|(_, literal)| literal)
            .collect();
        let [weight, bias] = changed[..] else {
            panic!("{} constants", changed.len())
        };
        assert_eq!((weight.shape[0], bias.shape.as_slice()), (5, &[5][..]));
        let values = weight.to_f64s();
        let variance = values.iter().map(|w| w * w).sum::<f64>() / values.len() as f64;
        let expected = 2.0 / weight.shape[1] as f64;
        assert!(
            (variance / expected - 1.0).abs() < 0.1,
            "{variance} {expected}"
        );
        assert!(bias.to_f64s().iter().all(|b| *b == 0.0));
        assert!(
            replace(&source, 5, 1).unwrap() == graph && replace(&source, 5, 2).unwrap() != graph
        );
    }

    #[test]
    fn biases_and_shapes_of_the_classes_follow() {
        let nodes = [
            Node::new("Add", ["z", "b"], ["a"]),
            Node::new("Reshape", ["a", "shape"], ["r"]),
            Node::new("Softmax", ["r"], ["s"]).with("axis", 1_i64),
            Node::new("Flatten", ["s"], ["y"]),
        ];
        let constants = [
            ("b", floats(&[1, 4])),
            ("shape", Literal::vector_i64(&[-1, 4, 1])),
        ];
        let graph = replace(&net(&nodes, &constants), 9, 0).unwrap();
        assert_eq!(output_classes(&graph), Some(9));
        let mut shapes: Vec<_> = graph
            .initializers
            .values()
            .map(|one| one.shape.clone())
            .collect();
        shapes.sort();
        assert_eq!(shapes, [vec![1, 9], vec![3], vec![6, 9]]);
    }

    #[test]
    fn a_head_that_is_made_for_its_classes_is_refused() {
        let refused = |nodes: &[Node], constants: &[(&str, Literal)]| {
            replace(&net(nodes, constants), 9, 0)
                .unwrap_err()
                .to_string()
        };
        let scaled = refused(
            &[Node::new("Mul", ["z", "scale"], ["y"])],
            &[("scale", floats(&[4]))],
        );
        assert!(
            scaled.starts_with("the head cannot be replaced: "),
            "{scaled}"
        );
        let summed = Node::new("Concat", ["z", "z"], ["y"]).with("axis", 1_i64);
        let mut graph = net(&[summed], &[]);
        graph.outputs[0] = value("y", &[8]);
        let error = replace(&graph, 9, 0).unwrap_err().to_string();
        assert!(error.contains("gives 4 values"), "{error}");
        let mut plain = net(&[Node::new("Relu", ["x"], ["y"])], &[]);
        plain.nodes.remove(0);
        let error = replace(&plain, 9, 0).unwrap_err().to_string();
        assert!(error.contains("no Conv, Gemm or MatMul"), "{error}");
    }
}
