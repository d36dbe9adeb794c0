//! What layer-wise relevance propagation needs to know of a network beyond a single node: which
//! layers are the first, and which factors of products are gates; and the composites, as data.

use std::collections::{HashMap, HashSet};

use super::{
    emit::Emitter,
    role::{Role, role},
    spec::{Composite, Lrp},
};
use crate::onnx::{
    graph::{Graph, Node},
    ops::{self, Elements},
};

/// How a Linear layer shares the relevance of its output out among its inputs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum LayerRule {
    Epsilon,
    Gamma,
    AlphaBeta(f32, f32),
    Flat,
    WSquare,
    Box,
}

/// The rules of a composite; dense layers have the rule epsilon, and other nodes theirs, in all of
/// them.
struct Row {
    convolution: LayerRule,
    /// At the first layer, if it is one of these ops.
    first: Option<(&'static [&'static str], LayerRule)>,
}

const CONVOLUTIONS: &[&str] = &["Conv", "ConvTranspose"];
const LINEAR: &[&str] = &["Conv", "ConvTranspose", "Gemm", "MatMul"];

const fn row(composite: Composite) -> Row {
    use LayerRule::{AlphaBeta, Box, Epsilon, Flat, Gamma, WSquare};
    let (convolution, first) = match composite {
        Composite::Epsilon => (Epsilon, None),
        Composite::EpsilonPlus => (AlphaBeta(1.0, 0.0), None),
        Composite::EpsilonPlusFlat => (AlphaBeta(1.0, 0.0), Some((LINEAR, Flat))),
        Composite::EpsilonGammaBox => (Gamma, Some((CONVOLUTIONS, Box))),
        Composite::EpsilonAlpha2Beta1 => (AlphaBeta(2.0, 1.0), None),
        Composite::EpsilonAlpha2Beta1Flat => (AlphaBeta(2.0, 1.0), Some((LINEAR, Flat))),
        Composite::EpsilonPlusWSquare => (AlphaBeta(1.0, 0.0), Some((LINEAR, WSquare))),
        Composite::AttnLrp => (Epsilon, None),
    };
    Row { convolution, first }
}

pub(crate) struct Relevance<'a> {
    pub lrp: &'a Lrp,
    /// Values that a Linear layer leads to: all but what is made of the input in front of the first
    /// layers.
    behind: HashSet<&'a str>,
    /// Values that hold the elements of the input, with its channels on axis 1 where it has them
    /// there or last.
    copies: HashSet<&'a str>,
    nonnegative: HashSet<&'a str>,
    /// By the output of their product: the position of the gate. With rules for attention, by the
    /// output of a quotient that of the divisor, and of a product with one over it that.
    gates: HashMap<&'a str, usize>,
}

impl<'a> Relevance<'a> {
    pub(super) fn of(emit: &Emitter, nodes: &'a [Node], input: &'a str, lrp: &'a Lrp) -> Self {
        let mut found = Self {
            lrp,
            behind: HashSet::new(),
            copies: HashSet::from([input]),
            nonnegative: HashSet::new(),
            gates: HashMap::new(),
        };
        let mut steepness: HashMap<&str, u8> = HashMap::new();
        for node in nodes.iter().filter(|node| node.domain.is_empty()) {
            let outputs = || node.outputs.iter().map(String::as_str);
            let any_behind = node.inputs.iter().any(|name| found.is_behind(name));
            if any_behind || role(node, &emit.graph) == Some(Role::Linear) {
                found.behind.extend(outputs());
            }
            let moves = ["Identity", "Cast", "Transpose"].contains(&node.op_type.as_str());
            if moves && node.input(0).is_some_and(|x| found.copies.contains(x)) {
                found.copies.extend(outputs());
            }
            if found.is_nonnegative_of(node, &emit.graph) {
                found.nonnegative.extend(outputs());
            }
            let has_attention = lrp.composite == Composite::AttnLrp;
            let saturates = match has_attention && is_inverse(node, &emit.graph) {
                true => INVERSE,
                false => saturation(node, &emit.graph, &steepness),
            };
            steepness.extend(outputs().map(|output| (output, saturates)));
            if let ([a, b], Some(output)) = (&node.inputs[..], node.output(0))
                && !emit.graph.initializers.contains_key(a)
                && !emit.graph.initializers.contains_key(b)
            {
                let [a, b] = [a, b].map(|name| steepness.get(name.as_str()).copied());
                match node.op_type.as_str() {
                    "Mul" if a != b => {
                        found.gates.insert(output, usize::from(b > a));
                    }
                    "Div" if has_attention => {
                        found.gates.insert(output, 1);
                    }
                    _ => {}
                }
            }
        }
        found
    }

    /// The position of the factor of a product that is a gate: it gets no relevance (Arras et al.
    /// 2017, signal-take-all).
    pub(super) fn gate(&self, node: &Node) -> Option<usize> {
        self.gates.get(node.output(0)?).copied()
    }

    /// The rule of a Linear layer.
    pub(super) fn rule(&self, layer: &Node) -> LayerRule {
        let Row { convolution, first } = row(self.lrp.composite);
        let op = layer.op_type.as_str();
        let is_first = layer.input(0).is_some_and(|x| !self.is_behind(x));
        match first.filter(|(ops, _)| is_first && ops.contains(&op)) {
            Some((_, rule)) => rule,
            None if CONVOLUTIONS.contains(&op) => convolution,
            None => LayerRule::Epsilon,
        }
    }

    pub(super) fn is_behind(&self, value: &str) -> bool {
        self.behind.contains(value)
    }

    pub(super) fn is_copy(&self, value: &str) -> bool {
        self.copies.contains(value)
    }

    pub(super) fn is_nonnegative(&self, value: &str) -> bool {
        self.nonnegative.contains(value)
    }

    fn is_nonnegative_of(&self, node: &Node, graph: &Graph) -> bool {
        match node.op_type.as_str() {
            "Relu" | "Sigmoid" | "HardSigmoid" | "Softmax" | "Softplus" | "Exp" | "Abs" => true,
            "Clip" => role(node, graph) == Some(Role::Rectifier),
            "Add" | "Sum" | "Mul" | "Concat" => {
                let mut inputs = node.inputs.iter();
                inputs.all(|input| self.is_nonnegative(input))
            }
            "MaxPool" | "AveragePool" | "GlobalAveragePool" | "GlobalMaxPool" | "ReduceMax"
            | "ReduceMean" | "ReduceSum" | "Cast" | "Expand" | "Slice" | "Split" | "Transpose" => {
                node.input(0).is_some_and(|x| self.is_nonnegative(x))
            }
            _ => has_same_elements(node) && node.input(0).is_some_and(|x| self.is_nonnegative(x)),
        }
    }
}

/// More surely a gate than others: what a normalisation multiplies by.
const INVERSE: u8 = 3;

/// Whether a node gives one over what it reads.
fn is_inverse(node: &Node, graph: &Graph) -> bool {
    let is_constant = |name: &str| graph.initializers.contains_key(name);
    match node.op_type.as_str() {
        "Reciprocal" => true,
        "Div" => node.input(0).is_some_and(is_constant),
        _ => false,
    }
}

/// How surely a value is a gate: 2 of what Sigmoid and its like give, 1 of what is clipped on both
/// sides, else 0. A product takes the surer factor for the gate.
fn saturation(node: &Node, graph: &Graph, of: &HashMap<&str, u8>) -> u8 {
    let is_constant = |index: usize| {
        let input = node.input(index);
        input.is_some_and(|name| graph.initializers.contains_key(name))
    };
    let before = |index: usize| {
        let found = node.input(index).and_then(|name| of.get(name));
        found.copied().unwrap_or(0)
    };
    match node.op_type.as_str() {
        "Sigmoid" | "HardSigmoid" | "Tanh" | "Erf" | "Softmax" => 2,
        "Clip" => u8::from(is_constant(1) && is_constant(2)),
        "Add" | "Sub" | "Mul" if is_constant(0) => before(1),
        "Add" | "Sub" | "Mul" | "Div" if is_constant(1) => before(0),
        "Cast" | "Expand" => before(0),
        _ if has_same_elements(node) => before(0),
        _ => 0,
    }
}

fn has_same_elements(node: &Node) -> bool {
    ops::of(node).is_some_and(|op| op.elements == Elements::Same)
}
