//! The nodes that stand in the place of one, written down in the order of the arithmetic.

use super::{Context, Rewritten};
use crate::onnx::graph::{Element, Literal, Node};

pub(super) struct Body<'a, 'b> {
    ctx: &'a mut Context<'b>,
    of: Node,
    /// Of the numbers.
    element: Element,
    nodes: Vec<Node>,
}

impl<'a, 'b> Body<'a, 'b> {
    /// In the place of `node`, in arithmetic of `element`.
    pub(super) fn of(ctx: &'a mut Context<'b>, node: &Node, element: Element) -> Self {
        Self {
            ctx,
            of: node.clone(),
            element,
            nodes: Vec::new(),
        }
    }

    /// Adds a node without attributes; returns the name of what it gives.
    pub(super) fn op<const N: usize>(&mut self, op: &str, inputs: [&str; N]) -> String {
        self.node(Node::new(op, inputs, []))
    }

    /// Adds a node that has no outputs yet; returns the name of the one that it gets.
    pub(super) fn node(&mut self, mut node: Node) -> String {
        let output = self.ctx.value(&self.of, &node.op_type.to_lowercase());
        node.outputs = vec![output.clone()];
        self.nodes.push(node);
        output
    }

    /// A constant of one number.
    pub(super) fn number(&mut self, value: f64) -> String {
        let literal = Literal::from_f64s(self.element, &[], &[value]);
        self.constant("number", literal)
    }

    /// The element type of the numbers.
    pub(super) fn element(&self) -> Element {
        self.element
    }

    /// A constant of one integer.
    pub(super) fn index(&mut self, value: i64) -> String {
        self.constant("index", Literal::scalar_i64(value))
    }

    /// A constant of integers.
    pub(super) fn ints(&mut self, values: &[i64]) -> String {
        self.constant("integers", Literal::vector_i64(values))
    }

    pub(super) fn constant(&mut self, role: &str, literal: Literal) -> String {
        self.ctx.constant(&self.of, role, literal)
    }

    /// `x` times a number.
    pub(super) fn scaled(&mut self, x: &str, by: f64) -> String {
        let factor = self.number(by);
        self.op("Mul", [x, &factor])
    }

    /// `x` in another shape; 0 copies a size, -1 is what is left.
    pub(super) fn reshaped(&mut self, x: &str, shape: &[i64]) -> String {
        let shape = self.ints(shape);
        self.op("Reshape", [x, &shape])
    }

    pub(super) fn transposed(&mut self, x: &str, perm: &[i64]) -> String {
        self.node(Node::new("Transpose", [x], []).with("perm", perm))
    }

    /// Values joined along the last axis.
    pub(super) fn joined(&mut self, parts: [&str; 2]) -> String {
        self.node(Node::new("Concat", parts, []).with("axis", -1))
    }

    pub(super) fn cast(&mut self, x: &str, to: Element) -> String {
        self.node(Node::new("Cast", [x], []).with("to", to as i64))
    }

    /// x/2 (1 + erf(x/√2)), or with tanh(√(2/π) (x + 0.044715 x³)).
    pub(super) fn gelu(&mut self, x: &str, by_tanh: bool) -> String {
        use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};
        let inner = if by_tanh {
            let square = self.op("Mul", [x, x]);
            let cube = self.op("Mul", [&square, x]);
            let cube = self.scaled(&cube, 0.044715);
            let sum = self.op("Add", [x, &cube]);
            let sum = self.scaled(&sum, FRAC_2_SQRT_PI * FRAC_1_SQRT_2);
            self.op("Tanh", [&sum])
        } else {
            let scaled = self.scaled(x, FRAC_1_SQRT_2);
            self.op("Erf", [&scaled])
        };
        let one = self.number(1.0);
        let gate = self.op("Add", [&inner, &one]);
        let half = self.scaled(x, 0.5);
        self.op("Mul", [&half, &gate])
    }

    /// x sigmoid(α x).
    pub(super) fn swish(&mut self, x: &str, alpha: f32) -> String {
        let inner = match alpha {
            1.0 => x.to_owned(),
            alpha => self.scaled(x, alpha.into()),
        };
        let gate = self.op("Sigmoid", [&inner]);
        self.op("Mul", [x, &gate])
    }

    /// x / √(mean x² + ε), the mean over `axes`.
    pub(super) fn rms_normalised(&mut self, x: &str, axes: &[i64], epsilon: f32) -> String {
        let axes = self.ints(axes);
        let square = self.op("Mul", [x, x]);
        let mean = self.op("ReduceMean", [&square, &axes]);
        let epsilon = self.number(epsilon.into());
        let shifted = self.op("Add", [&mean, &epsilon]);
        let root = self.op("Sqrt", [&shifted]);
        self.op("Div", [x, &root])
    }

    /// `value` is output `index` of the node, if that is wanted.
    pub(super) fn give(&mut self, index: usize, value: &str) {
        if let Some(output) = self.of.output(index) {
            self.nodes.push(Node::new("Identity", [value], [output]));
        }
    }

    /// The nodes, of which `value` is the first output.
    pub(super) fn finish(mut self, value: &str) -> Rewritten {
        let Some(output) = self.of.outputs.first().cloned() else {
            return Ok(self.nodes);
        };
        let names = |node: &mut Node| {
            let Node {
                inputs, outputs, ..
            } = node;
            let found = inputs
                .iter_mut()
                .chain(outputs)
                .filter(|name| *name == value);
            found.for_each(|name| name.clone_from(&output));
        };
        self.nodes.iter_mut().for_each(names);
        Ok(self.nodes)
    }
}
