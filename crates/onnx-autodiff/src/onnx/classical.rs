//! The tails and operators of models that scikit-learn exports (domain `ai.onnx.ml`). ZipMap turns
//! scores into maps, which no tensor holds: the scores in front of it become the output. Linear
//! classifiers and regressors, scalers and normalisers are written out in ONNX's own operators.
//! Source: ONNX, operator set `ai.onnx.ml` 1 to 5.

use std::collections::HashSet;

use super::graph::{Attribute, Dim, Element, Graph, Literal, Node, ValueType};
use super::proto::{
    GraphProto, NodeProto, TensorShapeProto, TypeProto, ValueInfoProto, tensor_shape_proto,
    type_proto,
};
use super::rewrite::Rewriter;
use super::types::site::{Inferred, Site, Stop};

const DOMAIN: &str = "ai.onnx.ml";

/// What was left out of a file, for people, and the names of the classes that it stores.
#[derive(Debug, Default)]
pub(super) struct Tail {
    pub warnings: Vec<String>,
    pub labels: Vec<String>,
}

/// Replaces outputs of ZipMap by the scores in front of it, and leaves out those that are no
/// tensors of numbers, where others remain; with all that only they need.
pub(super) fn cut_tail(graph: &mut GraphProto, is_tensor: fn(&ValueInfoProto) -> bool) -> Tail {
    let mut tail = Tail::default();
    let mut outputs: Vec<ValueInfoProto> = Vec::new();
    for output in std::mem::take(&mut graph.output) {
        let maps = |node: &&NodeProto| {
            let is = node.op_type() == "ZipMap" && node.domain() == DOMAIN;
            is && node.output.iter().any(|name| name == output.name())
        };
        let map = graph.node.iter().find(maps);
        let Some((map, scores)) = map.and_then(|map| Some((map, map.input.first()?))) else {
            outputs.push(output);
            continue;
        };
        let labels = class_labels(map);
        tail.warnings.push(format!(
            "output {} is a map made by node {} (ZipMap): the scores in front of it, {scores}, are what is predicted and explained",
            output.name(),
            match map.name() {
                "" => output.name(),
                name => name,
            }
        ));
        if outputs.iter().all(|output| output.name() != scores) {
            outputs.push(scores_info(scores, labels.len()));
        }
        let is_index = labels
            .iter()
            .enumerate()
            .all(|(at, label)| *label == at.to_string());
        if !is_index {
            tail.labels = labels;
        }
    }
    let is_number = |output: &ValueInfoProto| is_tensor(output);
    if outputs.iter().any(is_number) {
        let others = outputs.iter().filter(|output| !is_number(output));
        tail.warnings.extend(
            others.map(|output| {
                format!("output {} holds no numbers, and is left out", output.name())
            }),
        );
        outputs.retain(is_number);
    }
    graph.output = outputs;
    if !tail.warnings.is_empty() {
        keep_read(graph);
    }
    tail
}

fn class_labels(map: &NodeProto) -> Vec<String> {
    let of = |name: &str| map.attribute.iter().find(|found| found.name() == name);
    if let Some(numbers) = of("classlabels_int64s").filter(|found| !found.ints.is_empty()) {
        return numbers.ints.iter().map(i64::to_string).collect();
    }
    let texts = of("classlabels_strings").into_iter();
    let texts = texts.flat_map(|found| &found.strings);
    texts
        .map(|text| String::from_utf8_lossy(text).into_owned())
        .collect()
}

/// `[batch, classes]` of float32.
fn scores_info(name: &str, classes: usize) -> ValueInfoProto {
    use tensor_shape_proto::dimension::Value;
    let dim = |value| tensor_shape_proto::Dimension { value: Some(value) };
    let classes = i64::try_from(classes).unwrap_or(0);
    let tensor = type_proto::Tensor {
        elem_type: Some(Element::Float as i32),
        shape: Some(TensorShapeProto {
            dim: vec![
                dim(Value::DimParam(format!("{name}.0"))),
                dim(Value::DimValue(classes)),
            ],
        }),
    };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(tensor)),
        }),
    }
}

/// Removes the nodes and constants that no output needs: texts among them cannot be read.
fn keep_read(graph: &mut GraphProto) {
    let outputs = graph.output.iter();
    let mut read: HashSet<String> = outputs.map(|output| output.name().to_owned()).collect();
    let mut kept = Vec::new();
    // Files store nodes in topological order; one that is out of it is found at the next round.
    let mut open = std::mem::take(&mut graph.node);
    loop {
        let (found, rest): (Vec<_>, Vec<_>) = open.into_iter().rev().partition(|node| {
            let is_read = node.output.iter().any(|output| read.contains(output));
            if is_read {
                read_by(node, &mut read);
            }
            is_read
        });
        open = rest.into_iter().rev().collect();
        if found.is_empty() {
            break;
        }
        kept.extend(found);
    }
    kept.reverse();
    graph.node = kept;
    graph
        .initializer
        .retain(|tensor| read.contains(tensor.name()));
}

fn read_by(node: &NodeProto, read: &mut HashSet<String>) {
    read.extend(node.input.iter().cloned());
    for attribute in &node.attribute {
        for graph in attribute.g.iter().chain(&attribute.graphs) {
            read.extend(graph.output.iter().map(|output| output.name().to_owned()));
            graph.node.iter().for_each(|node| read_by(node, read));
        }
    }
}

/// The types of what a classifier gives: the number of its class, and `[batch, classes]` of scores.
pub(super) fn types(site: &Site<'_>) -> Inferred {
    let node = site.node;
    let is_classifier = node.domain == DOMAIN && node.op_type.ends_with("Classifier");
    let numbers = ["classlabels_ints", "classlabels_int64s"].map(|name| node.ints(name));
    let numbers = numbers.into_iter().flatten().map(<[i64]>::len).next();
    let texts = match node.attributes.get("classlabels_strings") {
        Some(Attribute::Strings(labels)) => Some(labels.len()),
        _ => None,
    };
    let Some(classes) = numbers.or(texts).filter(|_| is_classifier) else {
        return Err(Stop::Unknown);
    };
    let input = site.shape(0)?;
    let Some(batch) = input.first() else {
        return Err(Stop::Unknown);
    };
    let label = numbers.map(|_| ValueType::new(Element::Int64, vec![batch.clone()]));
    let scores = ValueType::new(Element::Float, vec![batch.clone(), Dim::Known(classes)]);
    Ok(vec![label, Some(scores)])
}

/// The graph with the operators that ONNX's own can express written out. The others stay.
pub(super) fn write_out(graph: Graph) -> Graph {
    let opset = graph.opset();
    let consumers = graph.consumers();
    let outputs = graph.outputs.iter().map(|output| output.name.as_str());
    let used: HashSet<String> = consumers
        .into_keys()
        .chain(outputs)
        .map(str::to_owned)
        .collect();
    let rewritten = Rewriter::of(graph.clone()).walk(|rewriter, node| {
        if node.domain != DOMAIN {
            return Ok::<_, std::convert::Infallible>(vec![node]);
        }
        let mut body = Body {
            rewriter,
            opset,
            nodes: Vec::new(),
            of: node.label().to_owned(),
        };
        let written = match node.op_type.as_str() {
            "LinearClassifier" => body.linear_classifier(&node, &used),
            "LinearRegressor" => body.linear_regressor(&node),
            "Scaler" => body.scaler(&node),
            "Normalizer" => body.normalizer(&node),
            _ => None,
        };
        let nodes = body.nodes;
        Ok(written.map_or(vec![node], |()| nodes))
    });
    let Ok(mut rewritten) = rewritten;
    if rewritten.nodes.iter().all(|node| node.domain != DOMAIN) {
        rewritten.opset_imports.remove(DOMAIN);
    }
    rewritten
}

struct Body<'a> {
    rewriter: &'a mut Rewriter,
    opset: i64,
    nodes: Vec<Node>,
    /// The node that is written out.
    of: String,
}

impl Body<'_> {
    fn constant(&mut self, role: &str, literal: Literal) -> String {
        self.rewriter
            .constant(&format!("{}.{role}", self.of), literal)
    }

    /// Adds a node; its output is a new value.
    fn value(&mut self, node: Node) -> String {
        let output = self
            .rewriter
            .value(&format!("{}.{}", self.of, node.op_type.to_lowercase()));
        self.named(node, &output);
        output
    }

    /// Adds a node whose output is this value.
    fn named(&mut self, mut node: Node, output: &str) {
        node.outputs = vec![output.to_owned()];
        self.nodes.push(node);
    }

    fn float(&mut self, node: &Node) -> Option<String> {
        let cast = Node::new("Cast", [node.input(0)?], []).with("to", Element::Float as i64);
        Some(self.value(cast))
    }

    /// x Wᵀ + b for weights `[outputs, features]`.
    fn linear(&mut self, node: &Node, outputs: usize, intercepts: &str) -> Option<String> {
        let weights = node.floats("coefficients")?.to_vec();
        if outputs == 0 || weights.is_empty() || !weights.len().is_multiple_of(outputs) {
            return None;
        }
        let bias = match node.floats(intercepts) {
            Some(bias) if bias.len() == outputs => bias.to_vec(),
            None => vec![0.0; outputs],
            Some(_) => return None,
        };
        let x = self.float(node)?;
        let shape = [outputs, weights.len() / outputs];
        let weights = self.constant("coefficients", Literal::from_f32s(&shape, &weights));
        let bias = self.constant("intercepts", Literal::from_f32s(&[outputs], &bias));
        Some(self.value(Node::new("Gemm", [x, weights, bias], []).with("transB", 1_i64)))
    }

    /// Where something reads the chosen label, the node stays for that.
    fn linear_classifier(&mut self, node: &Node, used: &HashSet<String>) -> Option<()> {
        let output = node.output(1)?;
        let classes = match (
            node.ints("classlabels_ints"),
            node.attributes.get("classlabels_strings"),
        ) {
            (Some(labels), _) => labels.len(),
            (None, Some(Attribute::Strings(labels))) => labels.len(),
            _ => return None,
        };
        // One row of weights for two classes is a form of its own.
        if node
            .floats("intercepts")
            .is_some_and(|bias| bias.len() != classes)
        {
            return None;
        }
        let after = match node.string("post_transform").unwrap_or("NONE") {
            "NONE" => "Identity",
            "SOFTMAX" => "Softmax",
            "LOGISTIC" => "Sigmoid",
            _ => return None,
        };
        let scores = self.linear(node, classes, "intercepts")?;
        let mut last = Node::new(after, [scores], []);
        if after == "Softmax" {
            last = last.with("axis", 1_i64);
        }
        self.named(last, output);
        if let Some(label) = node.output(0).filter(|label| used.contains(*label)) {
            let aside = self.rewriter.value(&format!("{}.scores", self.of));
            self.nodes.push(Node {
                outputs: vec![label.to_owned(), aside],
                ..node.clone()
            });
        }
        Some(())
    }

    fn linear_regressor(&mut self, node: &Node) -> Option<()> {
        if node.string("post_transform").unwrap_or("NONE") != "NONE" {
            return None;
        }
        let targets = usize::try_from(node.int_or("targets", 1)).ok()?;
        let scores = self.linear(node, targets, "intercepts")?;
        self.named(Node::new("Identity", [scores], []), node.output(0)?);
        Some(())
    }

    /// (x - offset) scale.
    fn scaler(&mut self, node: &Node) -> Option<()> {
        let [offset, scale] =
            ["offset", "scale"].map(|name| node.floats(name).map(<[f32]>::to_vec));
        let (offset, scale) = (offset?, scale?);
        let x = self.float(node)?;
        let offset = self.constant("offset", Literal::from_f32s(&[offset.len()], &offset));
        let scale = self.constant("scale", Literal::from_f32s(&[scale.len()], &scale));
        let moved = self.value(Node::new("Sub", [x, offset], []));
        self.named(Node::new("Mul", [moved, scale], []), node.output(0)?);
        Some(())
    }

    /// x over the norm of its row.
    fn normalizer(&mut self, node: &Node) -> Option<()> {
        let reduce = match node.string("norm").unwrap_or("MAX") {
            "L1" => "ReduceL1",
            "L2" => "ReduceL2",
            _ => return None,
        };
        let x = self.float(node)?;
        let norm = if self.opset < 18 {
            Node::new(reduce, [x.as_str()], []).with("axes", vec![1_i64])
        } else {
            let axes = self.constant("axes", Literal::vector_i64(&[1]));
            Node::new(reduce, [x.as_str(), &axes], [])
        };
        let norm = self.value(norm.with("keepdims", 1_i64));
        self.named(Node::new("Div", [x, norm], []), node.output(0)?);
        Some(())
    }
}
