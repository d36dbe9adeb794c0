//! A row of the table: one node over an input `x`, made into a classifier by flattening what it
//! gives.

use std::collections::BTreeMap;

use onnx_autodiff::onnx::graph::{
    Attribute, Dim, Element, Graph, Literal, Node, ValueInfo, ValueType,
};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

pub const BATCH: usize = 2;

/// What stands at one input of the node.
#[derive(Clone)]
pub enum In {
    X,
    /// `x[:, start..end]`.
    Part(usize, usize),
    Absent,
    /// Noise in ±1.
    Noise(Vec<usize>),
    /// Noise in 0.5..1.5.
    Positive(Vec<usize>),
    Floats(Vec<f32>),
    Scalar(f32),
    Ints(Vec<i64>),
    Index(i64),
    Truths(Vec<usize>, Vec<bool>),
}

pub struct Case {
    pub op: &'static str,
    pub about: &'static str,
    /// Shape of one sample.
    pub x: Vec<usize>,
    pub inputs: Vec<In>,
    pub attributes: Vec<(&'static str, Attribute)>,
    pub opset: i64,
    pub outputs: usize,
    /// The outputs that the head reads.
    pub read: Vec<usize>,
    /// Added to every x, which else lies in ±2.
    pub shift: f32,
    /// Relative to the larger of 1 and the difference quotient.
    pub tolerance: f64,
}

impl Case {
    pub fn new(op: &'static str, about: &'static str, x: &[usize], inputs: &[In]) -> Self {
        Self {
            op,
            about,
            x: x.to_vec(),
            inputs: inputs.to_vec(),
            attributes: Vec::new(),
            opset: 17,
            outputs: 1,
            read: vec![0],
            shift: 0.0,
            tolerance: 2e-3,
        }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<Attribute>) -> Self {
        self.attributes.push((name, value.into()));
        self
    }

    pub fn ints(self, name: &'static str, values: &[i64]) -> Self {
        self.with(name, values)
    }

    pub fn opset(mut self, opset: i64) -> Self {
        self.opset = opset;
        self
    }

    pub fn outputs(mut self, outputs: usize, read: &[usize]) -> Self {
        (self.outputs, self.read) = (outputs, read.to_vec());
        self
    }

    pub fn shift(mut self, shift: f32) -> Self {
        self.shift = shift;
        self
    }

    pub fn graph(&self) -> Graph {
        let mut shape = vec![Dim::Symbol("N".into())];
        shape.extend(self.x.iter().map(|&size| Dim::Known(size)));
        let mut nodes = Vec::new();
        let mut initializers = indexmap::IndexMap::new();
        let mut names = Vec::new();
        for (index, input) in self.inputs.iter().enumerate() {
            let name = format!("c{index}");
            let literal = match input {
                In::X => {
                    names.push("x".to_owned());
                    continue;
                }
                In::Absent => {
                    names.push(String::new());
                    continue;
                }
                In::Part(start, end) => {
                    for (end_name, value) in [("start", *start), ("end", *end)] {
                        initializers.insert(
                            format!("{name}.{end_name}"),
                            Literal::vector_i64(&[value as i64]),
                        );
                    }
                    initializers.insert(format!("{name}.axis"), Literal::vector_i64(&[1]));
                    let inputs = [
                        "x".into(),
                        format!("{name}.start"),
                        format!("{name}.end"),
                        format!("{name}.axis"),
                    ];
                    nodes.push(Node::new("Slice", inputs, [format!("{name}.part")]));
                    names.push(format!("{name}.part"));
                    continue;
                }
                In::Noise(shape) => {
                    Literal::from_f32s(shape, &noise(index as u64 + 7, shape.iter().product()))
                }
                In::Positive(shape) => {
                    let values: Vec<f32> = noise(index as u64 + 7, shape.iter().product())
                        .iter()
                        .map(|v| 1.0 + v / 2.0)
                        .collect();
                    Literal::from_f32s(shape, &values)
                }
                In::Floats(values) => Literal::from_f32s(&[values.len()], values),
                In::Scalar(value) => Literal::scalar_f32(*value),
                In::Ints(values) => Literal::vector_i64(values),
                In::Index(value) => Literal::scalar_i64(*value),
                In::Truths(shape, values) => Literal::from_bools(shape, values),
            };
            initializers.insert(name.clone(), literal);
            names.push(name);
        }
        let outputs: Vec<String> = (0..self.outputs).map(|index| format!("y{index}")).collect();
        let mut node = Node::new(self.op, names, outputs);
        node.attributes = self
            .attributes
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect();
        nodes.push(node);
        let flat: Vec<String> = self
            .read
            .iter()
            .map(|index| format!("flat{index}"))
            .collect();
        nodes.extend(
            self.read
                .iter()
                .zip(&flat)
                .map(|(index, flat)| Node::new("Flatten", [&format!("y{index}")], [flat])),
        );
        nodes.push(Node::new("Concat", flat, vec!["out".to_owned()]).with("axis", 1));
        Graph {
            opset_imports: BTreeMap::from([(String::new(), self.opset)]),
            inputs: vec![ValueInfo {
                name: "x".into(),
                value_type: ValueType::new(Element::Float, shape),
            }],
            outputs: vec![ValueInfo {
                name: "out".into(),
                value_type: ValueType::new(
                    Element::Float,
                    vec![Dim::Symbol("N".into()), Dim::Symbol("classes".into())],
                ),
            }],
            initializers,
            nodes,
            ..Graph::default()
        }
    }

    /// A batch whose elements are evenly spaced in ±2 and shuffled: none lies on 0, no two are
    /// equal.
    pub fn input(&self) -> Vec<f32> {
        let count = BATCH * self.x.iter().product::<usize>();
        let mut order: Vec<usize> = (0..count).collect();
        let mut random = ChaCha8Rng::seed_from_u64(1);
        for last in (1..count).rev() {
            order.swap(last, random.next_u32() as usize % (last + 1));
        }
        order
            .into_iter()
            .map(|rank| (rank as f32 + 0.5) / count as f32 * 4.0 - 2.0 + self.shift)
            .collect()
    }
}

/// Numbers in ±1.
pub fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..count)
        .map(|_| random.next_u32() as f32 / u32::MAX as f32 * 2.0 - 1.0)
        .collect()
}
