//! Spells QuantizeLinear and DequantizeLinear of 16-bit integers, which opset 18 does not have, as
//! arithmetic: the runtime's numbers, but for ties of its fused multiplications.

use super::checked;
use crate::onnx::{
    error::OnnxError,
    graph::{Dim, Element, Graph, Literal, Node, ValueType},
    rewrite::Rewriter,
    types::{Types, site::axis_of},
};

/// Spells what opset 18 quantises to 8 bits alone.
pub fn widen(graph: Graph) -> Result<Graph, OnnxError> {
    let mut types = Types::of_sources(&graph);
    let graph = Rewriter::of(graph).walk(|rewriter, node| {
        types.add_node(&node, &rewriter.graph.initializers)?;
        let spelled = match node.op_type.as_str() {
            "QuantizeLinear" => quantize(rewriter, &types, &node),
            "DequantizeLinear" => dequantize(rewriter, &types, &node),
            _ => None,
        };
        Ok::<_, OnnxError>(spelled.unwrap_or_else(|| vec![node]))
    })?;
    checked("widen", graph)
}

/// clip(round(x / s) + z).
fn quantize(rewriter: &mut Rewriter, types: &Types, node: &Node) -> Option<Vec<Node>> {
    let integer = types.get(node.output(0)?)?.element;
    let (least, most) = match integer {
        Element::Int16 => (i16::MIN.into(), i16::MAX.into()),
        Element::Uint16 => (0.0, u16::MAX.into()),
        _ => return None,
    };
    let mut body = Spelled::of(rewriter, types, node)?;
    let scale = body.along_axis(1)?;
    let steps = body.op("Div", [&node.inputs[0], &scale]);
    let mut whole = body.op("Round", [&steps]);
    if node.input(2).is_some() {
        let zero = body.along_axis(2)?;
        whole = body.op("Add", [&whole, &zero]);
    }
    let [least, most] = [least, most].map(|end| body.constant(Literal::scalar_f32(end)));
    let clipped = body.op("Clip", [&whole, &least, &most]);
    let cast = Node::new("Cast", [clipped.as_str()], [node.output(0)?]);
    body.nodes.push(cast.with("to", integer as i64));
    Some(body.nodes)
}

/// (q - z) s.
fn dequantize(rewriter: &mut Rewriter, types: &Types, node: &Node) -> Option<Vec<Node>> {
    let integer = types.get(node.input(0)?)?.element;
    if !matches!(integer, Element::Int16 | Element::Uint16) {
        return None;
    }
    let mut body = Spelled::of(rewriter, types, node)?;
    let scale = body.along_axis(1)?;
    let mut floats = body.cast(&node.inputs[0]);
    if node.input(2).is_some() {
        let zero = body.along_axis(2)?;
        floats = body.op("Sub", [&floats, &zero]);
    }
    let mul = Node::new("Mul", [floats.as_str(), &scale], [node.output(0)?]);
    body.nodes.push(mul);
    Some(body.nodes)
}

/// The nodes that stand in the place of one whose scale is float32.
struct Spelled<'a> {
    rewriter: &'a mut Rewriter,
    types: &'a Types,
    of: &'a Node,
    nodes: Vec<Node>,
}

impl<'a> Spelled<'a> {
    fn of(rewriter: &'a mut Rewriter, types: &'a Types, of: &'a Node) -> Option<Self> {
        let scale = types.get(of.input(1)?)?;
        (scale.element == Element::Float).then_some(Self {
            rewriter,
            types,
            of,
            nodes: Vec::new(),
        })
    }

    fn op<const N: usize>(&mut self, op: &str, inputs: [&str; N]) -> String {
        self.push(Node::new(op, inputs, []))
    }

    fn push(&mut self, mut node: Node) -> String {
        let wish = format!("{}.{}", self.of.label(), node.op_type.to_lowercase());
        let output = self.rewriter.value(&wish);
        node.outputs = vec![output.clone()];
        self.nodes.push(node);
        output
    }

    fn cast(&mut self, x: &str) -> String {
        self.push(Node::new("Cast", [x], []).with("to", Element::Float as i64))
    }

    fn constant(&mut self, literal: Literal) -> String {
        let wish = format!("{}.constant", self.of.label());
        self.rewriter.constant(&wish, literal)
    }

    /// Input `index` as floats: one, or one for each channel in a shape that broadcasts.
    fn along_axis(&mut self, index: usize) -> Option<String> {
        let name = self.of.input(index)?;
        let ValueType { element, shape } = self.types.get(name)?.clone();
        let mut floats = name.to_owned();
        if element != Element::Float {
            floats = self.cast(&floats);
        }
        if let [Dim::Known(count)] = shape[..]
            && count != 1
        {
            let rank = self.types.shape(self.of.input(0)?)?.len();
            let axis = axis_of(self.of.int_or("axis", 1), rank).ok()?;
            let mut to = vec![1; rank - axis];
            to[0] = count as i64;
            let to = self.constant(Literal::vector_i64(&to));
            floats = self.op("Reshape", [&floats, &to]);
        }
        Some(floats)
    }
}
