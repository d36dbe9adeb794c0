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
    /// Integers of this shape.
    Indices(Vec<usize>, Vec<i64>),
    /// Noise of this shape for each row, the same for every x.
    Rows(Vec<usize>),
    /// Integers that are computed from x, and are these for every x.
    Computed(Vec<i64>),
    /// The indices of the largest elements along axis 1, so many.
    Order(usize),
    /// The index of the largest element along the last axis.
    Largest,
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
    pub domain: &'static str,
    /// Whether the node sees x and its parts with their first two axes exchanged.
    pub turned: bool,
    pub outputs: usize,
    /// The outputs that the head reads.
    pub read: Vec<usize>,
    /// Every x, which else lies in ±2, times this …
    pub scale: f32,
    /// … plus this.
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
            domain: "",
            turned: false,
            outputs: 1,
            read: vec![0],
            scale: 1.0,
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

    pub fn domain(mut self, domain: &'static str) -> Self {
        self.domain = domain;
        self
    }

    pub fn turned(mut self) -> Self {
        self.turned = true;
        self
    }

    pub fn tolerance(mut self, tolerance: f64) -> Self {
        self.tolerance = tolerance;
        self
    }

    pub fn outputs(mut self, outputs: usize, read: &[usize]) -> Self {
        (self.outputs, self.read) = (outputs, read.to_vec());
        self
    }

    pub fn scale(mut self, scale: f32) -> Self {
        self.scale = scale;
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
                    names.push(self.seen(&mut nodes, "x"));
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
                    names.push(self.seen(&mut nodes, &format!("{name}.part")));
                    continue;
                }
                In::Computed(values) => {
                    let [most, none, zero, zeros] =
                        ["most", "none", "zero", "zeros"].map(|part| format!("{name}.{part}"));
                    initializers.insert(zero.clone(), Literal::scalar_f32(0.0));
                    initializers.insert(name.clone(), Literal::vector_i64(values));
                    nodes.extend([
                        Node::new("ReduceMax", ["x"], [most.as_str()]).with("keepdims", 0),
                        Node::new("Mul", [&most, &zero], [&none]),
                        Node::new("Cast", [&none], [&zeros]).with("to", Element::Int64 as i64),
                        Node::new("Add", [&zeros, &name], [&format!("{name}.sum")]),
                    ]);
                    names.push(format!("{name}.sum"));
                    continue;
                }
                In::Rows(shape) => {
                    let count = shape.iter().product();
                    let mut whole = vec![-1];
                    whole.extend(shape.iter().map(|&size| size as i64));
                    let noise = noise(index as u64 + 7, count);
                    for (part, literal) in [
                        ("zero", Literal::scalar_f32(0.0)),
                        ("axis", Literal::vector_i64(&[1])),
                        ("noise", Literal::from_f32s(&[1, count], &noise)),
                        ("shape", Literal::vector_i64(&whole)),
                    ] {
                        initializers.insert(format!("{name}.{part}"), literal);
                    }
                    let of = |part: &str| format!("{name}.{part}");
                    nodes.extend([
                        Node::new("Flatten", ["x".into()], [of("flat")]),
                        Node::new("ReduceSum", [of("flat"), of("axis")], [of("sum")]),
                        Node::new("Mul", [of("sum"), of("zero")], [of("zeros")]),
                        Node::new("Add", [of("zeros"), of("noise")], [of("rows")]),
                        Node::new("Reshape", [of("rows"), of("shape")], [of("whole")]),
                    ]);
                    names.push(of("whole"));
                    continue;
                }
                In::Largest => {
                    let last = Node::new("ArgMax", ["x"], [name.as_str()]);
                    nodes.push(last.with("axis", -1).with("keepdims", 0));
                    names.push(name);
                    continue;
                }
                In::Order(count) => {
                    initializers.insert(name.clone(), Literal::vector_i64(&[*count as i64]));
                    let outputs = ["values", "indices"].map(|part| format!("{name}.{part}"));
                    names.push(outputs[1].clone());
                    let inputs = ["x".to_owned(), name];
                    nodes.push(Node::new("TopK", inputs, outputs).with("axis", 1));
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
                In::Indices(shape, values) => Literal::from_i64s(shape, values),
                In::Truths(shape, values) => Literal::from_bools(shape, values),
            };
            initializers.insert(name.clone(), literal);
            names.push(name);
        }
        let outputs: Vec<String> = (0..self.outputs).map(|index| format!("y{index}")).collect();
        let mut node = Node::new(self.op, names, outputs);
        node.domain = self.domain.into();
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
        for (index, flat) in self.read.iter().zip(&flat) {
            let seen = self.seen(&mut nodes, &format!("y{index}"));
            nodes.push(Node::new("Flatten", [&seen], [flat]));
        }
        nodes.push(Node::new("Concat", flat, vec!["out".to_owned()]).with("axis", 1));
        Graph {
            opset_imports: BTreeMap::from([(self.domain.into(), 1), (String::new(), self.opset)]),
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

    /// `value` as the node and the head see it.
    fn seen(&self, nodes: &mut Vec<Node>, value: &str) -> String {
        if !self.turned {
            return value.to_owned();
        }
        let turned = format!("{value}.turned{}", nodes.len());
        nodes.push(Node::new("Transpose", [value], [turned.as_str()]).with("perm", vec![1, 0, 2]));
        turned
    }

    pub fn input(&self) -> Vec<f32> {
        let count = BATCH * self.x.iter().product::<usize>();
        let values = spread(count, 0.0).into_iter();
        values.map(|x| x * self.scale + self.shift).collect()
    }
}

/// Numbers evenly spaced in ±2 around `shift`, and shuffled: without a shift none lies on 0, no two
/// are equal.
pub fn spread(count: usize, shift: f32) -> Vec<f32> {
    let mut order: Vec<usize> = (0..count).collect();
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for last in (1..count).rev() {
        order.swap(last, random.next_u32() as usize % (last + 1));
    }
    order
        .into_iter()
        .map(|rank| (rank as f32 + 0.5) / count as f32 * 4.0 - 2.0 + shift)
        .collect()
}

/// Numbers in ±1.
pub fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..count)
        .map(|_| random.next_u32() as f32 / u32::MAX as f32 * 2.0 - 1.0)
        .collect()
}
