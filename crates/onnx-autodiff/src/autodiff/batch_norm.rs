//! Folds BatchNormalization into the Linear layer before it: w' = w s, b' = (b - mean) s + shift, s
//! = scale / √(var + ε). The folded layer takes over the BatchNormalization's output value; a
//! Gemm's alpha and beta fold too, so that its weight is all of w.

use std::collections::HashMap;

use crate::onnx::graph::{Element, Graph, Literal, Node};

/// What takes the place of a Linear node, at position `at`, and of the BatchNormalization behind
/// it.
struct Folded {
    at: usize,
    node: Node,
    constants: [(String, Literal); 2],
}

pub fn fold(mut graph: Graph) -> Graph {
    let mut kept = vec![true; graph.nodes.len()];
    let mut edges = Edges::of(&graph);
    for (index, kept) in kept.iter_mut().enumerate() {
        scale_gemm(&mut graph, index);
        if let Some(Folded {
            at,
            node,
            constants,
        }) = folded(&graph, &edges, index)
        {
            *kept = false;
            edges.makers.insert(node.outputs[0].clone(), at);
            graph.initializers.extend(constants);
            graph.nodes[at] = node;
        }
    }
    let mut kept = kept.into_iter();
    graph.nodes.retain(|_| kept.next().unwrap_or(true));
    graph
}

/// The node whose first output a value is, and how often each value is read, by nodes or as an
/// output.
struct Edges {
    makers: HashMap<String, usize>,
    reads: HashMap<String, usize>,
}

impl Edges {
    fn of(graph: &Graph) -> Self {
        let makers = graph
            .nodes
            .iter()
            .enumerate()
            .filter_map(|(index, node)| Some((node.outputs.first()?, index)));
        let mut reads = HashMap::new();
        let outputs = graph.outputs.iter().map(|output| &output.name);
        for name in graph
            .nodes
            .iter()
            .flat_map(|node| &node.inputs)
            .chain(outputs)
        {
            *reads.entry(name.clone()).or_default() += 1;
        }
        Self {
            makers: makers.map(|(name, index)| (name.clone(), index)).collect(),
            reads,
        }
    }
}

fn folded(graph: &Graph, edges: &Edges, index: usize) -> Option<Folded> {
    let norm = graph
        .nodes
        .get(index)
        .filter(|node| node.is("BatchNormalization") && node.int_or("training_mode", 0) == 0)?;
    let at = edges
        .makers
        .get(norm.inputs.first()?)
        .copied()
        .filter(|&at| at < index)?;
    let linear = &graph.nodes[at];
    if edges.reads.get(&linear.outputs[0]) != Some(&1) {
        return None;
    }
    let floats = |name: &str| {
        graph
            .initializers
            .get(name)
            .filter(|found| found.element == Element::Float)?
            .to_f32s()
    };
    let [scale, shift, mean, variance] =
        [1, 2, 3, 4].map(|input| norm.input(input).and_then(floats));
    let (scale, shift, mean, variance) = (scale?, shift?, mean?, variance?);
    let epsilon = norm.float_or("epsilon", 1e-5);
    let factors: Vec<f32> = scale
        .iter()
        .zip(&variance)
        .map(|(s, v)| s / (v + epsilon).sqrt())
        .collect();
    let weight_name = linear.input(1)?;
    let shape = &graph.initializers.get(weight_name)?.shape;
    let group = usize::try_from(linear.int_or("group", 1)).ok()?;
    let channel = output_channel(linear, shape, group)?;
    let mut weight = floats(weight_name)?;
    for (position, value) in weight.iter_mut().enumerate() {
        *value *= factors.get(channel(position))?;
    }
    let bias = match linear.input(2) {
        Some(name) => floats(name)?,
        None => vec![0.0; factors.len()],
    };
    let whole = |position: usize| {
        if bias.len() == 1 {
            bias[0]
        } else {
            bias.get(position).copied().unwrap_or(0.0)
        }
    };
    let bias: Vec<f32> = (0..factors.len())
        .map(|c| (whole(c) - mean[c]) * factors[c] + shift[c])
        .collect();
    let mut node = linear.clone();
    node.outputs.clone_from(&norm.outputs);
    node.outputs.truncate(1);
    let names = [
        format!("{}/weight", node.outputs[0]),
        format!("{}/bias", node.outputs[0]),
    ];
    node.inputs.truncate(1);
    node.inputs.extend(names.clone());
    let [weight_name, bias_name] = names;
    let bias = Literal::from_f32s(&[bias.len()], &bias);
    let constants = [
        (weight_name, Literal::from_f32s(shape, &weight)),
        (bias_name, bias),
    ];
    Some(Folded {
        at,
        node,
        constants,
    })
}

/// Position in the weight -> output channel.
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

/// alpha into the weight and beta into the bias of a Gemm whose operands are constants.
fn scale_gemm(graph: &mut Graph, index: usize) {
    let node = &graph.nodes[index];
    if !node.is("Gemm") {
        return;
    }
    for (input, attribute) in [(1, "alpha"), (2, "beta")] {
        let node = &graph.nodes[index];
        let factor = node.float_or(attribute, 1.0);
        let constant = node
            .input(input)
            .and_then(|name| graph.initializers.get(name));
        let Some(literal) =
            constant.filter(|literal| literal.element == Element::Float && factor != 1.0)
        else {
            continue;
        };
        let values: Vec<f32> = literal
            .to_f32s()
            .unwrap_or_default()
            .iter()
            .map(|value| value * factor)
            .collect();
        let scaled = Literal::from_f32s(&literal.shape, &values);
        let name = format!("{}/{attribute}", node.outputs[0]);
        graph.initializers.insert(name.clone(), scaled);
        graph.nodes[index].inputs[input] = name;
        graph.nodes[index].attributes.remove(attribute);
    }
}
