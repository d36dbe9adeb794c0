//! Adds nodes and constants to a graph under fresh names, and infers the type of every value. Names
//! are numbered per scope and equal constants are shared, so that equal calls give equal graphs.

use std::collections::{BTreeMap, HashMap};

use super::{DeriveError, Unsupported};
use crate::onnx::{
    Types,
    graph::{Attribute, Dim, Element, Graph, Literal, Names, Node, ValueInfo, ValueType},
    oversize,
};

/// The most elements of constants that rules make, in one derived graph: 256 MiB of float32.
pub(crate) const CONSTANTS: usize = 1 << 26;

/// Binary exponent of the largest slope of [`Emitter::step`].
const STEEPEST: i32 = 127;

pub struct Emitter {
    pub graph: Graph,
    types: Types,
    names: Names,
    /// Small constants, by content, to share them.
    constants: HashMap<(Element, Vec<usize>, bytes::Bytes), String>,
    scope: String,
    /// The elements left for constants whose size depends on attributes and shapes.
    pub constants_left: usize,
}

/// The attributes of a node, written as in ONNX's documentation: `attributes([("axis",
/// 1.into())])`.
pub(crate) fn attributes<const N: usize>(
    list: [(&str, Attribute); N],
) -> BTreeMap<String, Attribute> {
    list.into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

pub(crate) fn ints(values: impl IntoIterator<Item = usize>) -> Attribute {
    Attribute::Ints(values.into_iter().map(|value| value as i64).collect())
}

impl Emitter {
    pub fn new(graph: Graph, types: Types) -> Self {
        Self {
            names: Names::of(&graph),
            graph,
            types,
            constants: HashMap::new(),
            scope: String::new(),
            constants_left: CONSTANTS,
        }
    }

    /// Sets the scope: new values are named `scope/op`.
    pub fn set_scope(&mut self, scope: String) {
        self.scope = scope;
    }

    /// A fresh name: `wish`, numbered if it is taken.
    pub fn fresh(&mut self, wish: &str) -> String {
        self.names.fresh(wish)
    }

    pub fn add_input(&mut self, input: ValueInfo) -> String {
        let name = input.name.clone();
        self.types.insert(name.clone(), input.value_type.clone());
        self.graph.inputs.push(input);
        name
    }

    /// States the type of a value whose node was added to the graph by other means.
    pub fn declare(&mut self, value: &str, value_type: ValueType) {
        self.types.insert(value, value_type);
    }

    /// Splits the producer of `output` in place: a node without bias (input 2), whose output is
    /// `product`, and an Add of the bias.
    pub fn split_bias(&mut self, output: &str, product: &str, bias: &str) {
        let Some(at) = self
            .graph
            .nodes
            .iter()
            .position(|node| node.outputs.iter().any(|name| name == output))
        else {
            return;
        };
        let node = &mut self.graph.nodes[at];
        node.inputs.truncate(2);
        product.clone_into(&mut node.outputs[0]);
        if let Some(output_type) = self.types.get(output).cloned() {
            self.types.insert(product, output_type);
        }
        let mut add = Node::new("Add", [product, bias], [output]);
        add.name = format!("{output}/bias");
        self.graph.nodes.insert(at + 1, add);
    }

    pub fn value_type(&self, value: &str) -> Result<ValueType, DeriveError> {
        if let Some(value_type) = self.types.get(value) {
            return Ok(value_type.clone());
        }
        let literal = self.graph.initializers.get(value).map(Literal::value_type);
        literal.ok_or_else(|| DeriveError::UnknownShape {
            value: value.to_owned(),
        })
    }

    pub fn shape(&self, value: &str) -> Result<Vec<Dim>, DeriveError> {
        Ok(self.value_type(value)?.shape)
    }

    /// The dimensions of `value` from `axis` on. Fails unless all are numbers.
    pub fn sizes(&self, value: &str, axis: usize) -> Result<Vec<usize>, DeriveError> {
        let shape = self.shape(value)?;
        let known = shape.iter().skip(axis).map(Dim::known);
        known
            .collect::<Option<_>>()
            .ok_or_else(|| DeriveError::UnknownShape {
                value: value.to_owned(),
            })
    }

    /// The dimension of `value` along `axis`. Fails unless it is a number.
    pub fn size(&self, value: &str, axis: usize) -> Result<usize, DeriveError> {
        let size = self.shape(value)?.get(axis).and_then(Dim::known);
        size.ok_or_else(|| DeriveError::UnknownShape {
            value: value.to_owned(),
        })
    }

    pub fn literal(&self, value: &str) -> Option<&Literal> {
        self.graph.initializers.get(value)
    }

    pub fn literal_f32(&self, value: &str) -> Option<Vec<f32>> {
        self.literal(value).and_then(Literal::to_f32s)
    }

    /// A constant; equal constants share one value.
    pub fn constant(&mut self, literal: Literal) -> String {
        let key = (
            literal.element,
            literal.shape.clone(),
            literal.bytes.clone(),
        );
        if let Some(name) = self.constants.get(&key) {
            return name.clone();
        }
        let name = self.names.fresh("constant");
        self.constants.insert(key, name.clone());
        self.graph.initializers.insert(name.clone(), literal);
        name
    }

    /// A constant computed from the weight `of`, named after it and computed once.
    pub fn weight(
        &mut self,
        name: String,
        make: impl FnOnce() -> Result<Literal, DeriveError>,
    ) -> Result<String, DeriveError> {
        if !self.graph.initializers.contains_key(&name) {
            let literal = make()?;
            self.graph.initializers.insert(name.clone(), literal);
        }
        Ok(name)
    }

    pub fn i64s(&mut self, values: &[i64]) -> String {
        self.constant(Literal::vector_i64(values))
    }

    /// A float constant in the element type of the value `like`.
    pub fn floats(
        &mut self,
        shape: &[usize],
        values: &[f32],
        like: &str,
    ) -> Result<String, DeriveError> {
        let element = self.value_type(like)?.element;
        if !element.is_float() {
            return Err(DeriveError::Element {
                value: like.to_owned(),
                element,
            });
        }
        let values: Vec<f64> = values.iter().map(|&value| f64::from(value)).collect();
        Ok(self.constant(Literal::from_f64s(element, shape, &values)))
    }

    pub fn scalar(&mut self, value: f32, like: &str) -> Result<String, DeriveError> {
        self.floats(&[], &[value], like)
    }

    pub fn node(
        &mut self,
        op_type: &str,
        inputs: &[&str],
        attributes: BTreeMap<String, Attribute>,
        output: ValueType,
    ) -> String {
        self.node_with_outputs(op_type, inputs, attributes, vec![output])
            .remove(0)
    }

    pub fn node_with_outputs(
        &mut self,
        op_type: &str,
        inputs: &[&str],
        attributes: BTreeMap<String, Attribute>,
        outputs: Vec<ValueType>,
    ) -> Vec<String> {
        let stem = format!("{}/{op_type}", self.scope);
        let names: Vec<String> = outputs.iter().map(|_| self.names.fresh(&stem)).collect();
        names
            .iter()
            .zip(outputs)
            .for_each(|(name, output)| self.types.insert(name.clone(), output));
        self.graph.nodes.push(Node {
            name: names[0].clone(),
            op_type: op_type.to_owned(),
            domain: String::new(),
            inputs: inputs.iter().map(|&input| input.to_owned()).collect(),
            outputs: names.clone(),
            attributes,
        });
        names
    }

    /// The sum of values of one type; many are summed by one node.
    pub fn sum(&mut self, parts: &[String]) -> Result<String, DeriveError> {
        const MANY: usize = 8;
        match parts {
            [first, rest @ ..] if rest.len() < MANY => rest
                .iter()
                .try_fold(first.clone(), |total, part| self.add(&total, part)),
            _ => {
                let names: Vec<&str> = parts.iter().map(String::as_str).collect();
                let types = parts
                    .iter()
                    .map(|part| self.value_type(part))
                    .collect::<Result<Vec<_>, _>>()?;
                let element = types[0].element;
                let shape = types
                    .iter()
                    .fold(Vec::new(), |shape, part| broadcast(&shape, &part.shape));
                Ok(self.node("Sum", &names, BTreeMap::new(), ValueType { element, shape }))
            }
        }
    }

    /// The nodes whose outputs exceed the supported size.
    pub fn oversize(&self) -> Vec<Unsupported> {
        let made = self
            .graph
            .nodes
            .iter()
            .flat_map(|node| node.outputs.iter().map(move |output| (node, output)));
        let found = made.filter_map(|(node, output)| {
            let what = oversize(&self.types.get(output)?.shape)?;
            Some(Unsupported::new(
                node,
                &self.graph,
                format!("its output would have {what}"),
            ))
        });
        found.collect()
    }

    /// An element-wise op of one input that keeps its type.
    pub fn unary(&mut self, op_type: &str, x: &str) -> Result<String, DeriveError> {
        let output = self.value_type(x)?;
        Ok(self.node(op_type, &[x], BTreeMap::new(), output))
    }

    /// An element-wise op of two inputs with broadcasting.
    pub fn binary(&mut self, op_type: &str, a: &str, b: &str) -> Result<String, DeriveError> {
        let element = self.value_type(a)?.element;
        self.broadcast(op_type, a, b, element)
    }

    /// As [`Self::binary`], with truth values.
    pub fn compare(&mut self, op_type: &str, a: &str, b: &str) -> Result<String, DeriveError> {
        self.broadcast(op_type, a, b, Element::Bool)
    }

    fn broadcast(
        &mut self,
        op_type: &str,
        a: &str,
        b: &str,
        element: Element,
    ) -> Result<String, DeriveError> {
        let shape = broadcast(&self.shape(a)?, &self.shape(b)?);
        let output = ValueType { element, shape };
        Ok(self.node(op_type, &[a, b], BTreeMap::new(), output))
    }

    pub fn mul(&mut self, a: &str, b: &str) -> Result<String, DeriveError> {
        self.binary("Mul", a, b)
    }

    pub fn add(&mut self, a: &str, b: &str) -> Result<String, DeriveError> {
        self.binary("Add", a, b)
    }

    pub fn scale(&mut self, x: &str, factor: f32) -> Result<String, DeriveError> {
        if factor == 1.0 {
            return Ok(x.to_owned());
        }
        let factor = self.scalar(factor, x)?;
        self.mul(x, &factor)
    }

    pub fn cast(&mut self, x: &str, element: Element) -> Result<String, DeriveError> {
        let from = self.value_type(x)?;
        if from.element == element {
            return Ok(x.to_owned());
        }
        let to = attributes([("to", (element as i64).into())]);
        Ok(self.node("Cast", &[x], to, ValueType { element, ..from }))
    }

    /// `x` reshaped to `shape`, of which at most one dimension may be a symbol.
    pub fn reshape(&mut self, x: &str, shape: &[Dim]) -> Result<String, DeriveError> {
        let from = self.value_type(x)?;
        if from.shape == shape {
            return Ok(x.to_owned());
        }
        let target: Vec<i64> = shape
            .iter()
            .map(|dim| dim.known().map_or(-1, |n| n as i64))
            .collect();
        if target.iter().filter(|&&n| n < 0).count() > 1 {
            return Err(DeriveError::UnknownShape {
                value: x.to_owned(),
            });
        }
        let target = self.i64s(&target);
        let output = ValueType {
            element: from.element,
            shape: shape.to_vec(),
        };
        Ok(self.node("Reshape", &[x, &target], BTreeMap::new(), output))
    }

    pub fn transpose(&mut self, x: &str, perm: &[usize]) -> Result<String, DeriveError> {
        if perm.iter().enumerate().all(|(i, &p)| i == p) {
            return Ok(x.to_owned());
        }
        let from = self.value_type(x)?;
        let shape = perm.iter().map(|&axis| from.shape[axis].clone()).collect();
        let output = ValueType {
            element: from.element,
            shape,
        };
        Ok(self.node(
            "Transpose",
            &[x],
            attributes([("perm", ints(perm.iter().copied()))]),
            output,
        ))
    }

    /// Sum over `axes`, with keepdims.
    pub fn reduce_sum(&mut self, x: &str, axes: &[usize]) -> Result<String, DeriveError> {
        self.reduce("ReduceSum", x, axes)
    }

    /// Mean over `axes`, with keepdims.
    pub fn reduce_mean(&mut self, x: &str, axes: &[usize]) -> Result<String, DeriveError> {
        self.reduce("ReduceMean", x, axes)
    }

    /// The reduction `op_type` over `axes`, with keepdims; over none, `x` itself.
    pub fn reduce(
        &mut self,
        op_type: &str,
        x: &str,
        axes: &[usize],
    ) -> Result<String, DeriveError> {
        if axes.is_empty() {
            return Ok(x.to_owned());
        }
        let mut output = self.value_type(x)?;
        for &axis in axes {
            output.shape[axis] = Dim::Known(1);
        }
        let axes = self.i64s(&axes.iter().map(|&axis| axis as i64).collect::<Vec<_>>());
        Ok(self.node(
            op_type,
            &[x, &axes],
            attributes([("keepdims", 1.into())]),
            output,
        ))
    }

    /// `x[start..end]` along each of `ranges` (axis, start, end).
    pub fn slice(
        &mut self,
        x: &str,
        ranges: &[(usize, usize, usize)],
    ) -> Result<String, DeriveError> {
        let mut output = self.value_type(x)?;
        let whole = |&&(axis, start, end): &&(usize, usize, usize)| {
            start == 0 && output.shape[axis] == Dim::Known(end)
        };
        let cut: Vec<_> = ranges
            .iter()
            .filter(|range| !whole(range))
            .copied()
            .collect();
        if cut.is_empty() {
            return Ok(x.to_owned());
        }
        for &(axis, start, end) in &cut {
            output.shape[axis] = Dim::Known(end - start);
        }
        let starts = self.i64s(&cut.iter().map(|range| range.1 as i64).collect::<Vec<_>>());
        let ends = self.i64s(&cut.iter().map(|range| range.2 as i64).collect::<Vec<_>>());
        let axes = self.i64s(&cut.iter().map(|range| range.0 as i64).collect::<Vec<_>>());
        Ok(self.node(
            "Slice",
            &[x, &starts, &ends, &axes],
            BTreeMap::new(),
            output,
        ))
    }

    /// `x` padded with zeros: (before, after) for each axis.
    pub fn pad(&mut self, x: &str, amounts: &[(usize, usize)]) -> Result<String, DeriveError> {
        if amounts.iter().all(|&amount| amount == (0, 0)) {
            return Ok(x.to_owned());
        }
        let mut output = self.value_type(x)?;
        for (dim, (before, after)) in output.shape.iter_mut().zip(amounts) {
            if let Dim::Known(n) = dim {
                *n += before + after;
            }
        }
        let pads: Vec<i64> = amounts
            .iter()
            .map(|a| a.0 as i64)
            .chain(amounts.iter().map(|a| a.1 as i64))
            .collect();
        let pads = self.i64s(&pads);
        Ok(self.node("Pad", &[x, &pads], BTreeMap::new(), output))
    }

    pub fn concat(&mut self, parts: &[&str], axis: usize) -> Result<String, DeriveError> {
        if let [only] = parts {
            return Ok((*only).to_owned());
        }
        let mut output = self.value_type(parts[0])?;
        let mut total = 0;
        for part in parts {
            total += self.size(part, axis)?;
        }
        output.shape[axis] = Dim::Known(total);
        Ok(self.node(
            "Concat",
            parts,
            attributes([("axis", (axis as i64).into())]),
            output,
        ))
    }

    /// Zeros in the type and shape of `x`; floats where `x` is of integers, as cotangents are.
    pub fn zeros_like(&mut self, x: &str) -> Result<String, DeriveError> {
        let mut output = self.value_type(x)?;
        if !output.element.is_float() {
            output.element = Element::Float;
        }
        let zero = Literal::from_f64s(output.element, &[1], &[0.0]);
        let shape = self.shape_of(x)?;
        let value = attributes([("value", zero.into())]);
        Ok(self.node("ConstantOfShape", &[&shape], value, output))
    }

    /// The shape of `x` as a value.
    pub fn shape_of(&mut self, x: &str) -> Result<String, DeriveError> {
        let rank = Dim::Known(self.shape(x)?.len());
        let output = ValueType::new(Element::Int64, vec![rank]);
        Ok(self.node("Shape", &[x], BTreeMap::new(), output))
    }

    /// `x` broadcast to `shape`. Symbols of `shape` must be dimensions of `x`.
    pub fn expand(&mut self, x: &str, shape: &[Dim]) -> Result<String, DeriveError> {
        let from = self.value_type(x)?;
        if from.shape == shape {
            return Ok(x.to_owned());
        }
        let target: Vec<i64> = shape
            .iter()
            .map(|dim| dim.known().map_or(1, |n| n as i64))
            .collect();
        let target = self.i64s(&target);
        let output = ValueType {
            element: from.element,
            shape: shape.to_vec(),
        };
        Ok(self.node("Expand", &[x, &target], BTreeMap::new(), output))
    }

    /// The step function: 1 where `sign * y > sign * bound`, else 0, for y that does not cross its
    /// bound. A HardSigmoid with the largest exact slope, a power of two: only |y - bound| below
    /// 2^-127 (half the smallest normal number) gives a fraction. Comparisons and `Where` would
    /// force ONNX Runtime out of the NCHWc layout.
    pub fn step(&mut self, y: &str, sign: f32, bound: f32) -> Result<String, DeriveError> {
        let room = if bound == 0.0 {
            0
        } else {
            bound.abs().log2().floor() as i32 + 1
        };
        let slope = 2f32.powi(STEEPEST - room.max(0));
        let ramp = attributes([
            ("alpha", (sign * slope).into()),
            ("beta", (-sign * bound * slope).into()),
        ]);
        let output = self.value_type(y)?;
        Ok(self.node("HardSigmoid", &[y], ramp, output))
    }
}

/// The operand of a step function, if `node` is what [`Emitter::step`] emits for sign 1 and bound
/// 0.
pub fn stepped(node: &Node) -> Option<&str> {
    let steepest =
        node.float("alpha") == Some(2f32.powi(STEEPEST)) && node.float("beta") == Some(0.0);
    node.input(0).filter(|_| node.is("HardSigmoid") && steepest)
}

pub(crate) fn broadcast(a: &[Dim], b: &[Dim]) -> Vec<Dim> {
    let rank = a.len().max(b.len());
    let one = Dim::Known(1);
    let at = |shape: &[Dim], axis: usize| {
        (axis + shape.len())
            .checked_sub(rank)
            .map(|i| shape[i].clone())
            .unwrap_or(Dim::Known(1))
    };
    (0..rank)
        .map(|axis| match (at(a, axis), at(b, axis)) {
            (left, right) if left == one => right,
            (left, _) => left,
        })
        .collect()
}
