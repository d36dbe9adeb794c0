//! Evaluates nodes with constant inputs. Arithmetic is in f64, rounded once, which for + - * / sqrt
//! of f32 equals arithmetic in f32; results with integers beyond 2^53 are not computed, nor outputs
//! above `LARGEST_BYTES`, so that large weights stay shared.

use indexmap::IndexMap;

use super::graph::{Element, Literal, Node, ValueType};
use super::types::layout::slice_range;

const LARGEST_BYTES: usize = 1 << 20;
/// The most elements that are evaluated for one graph.
pub(super) const BUDGET_BYTES: usize = 64 << 20;
const LARGEST_INTEGER: f64 = (1u64 << 53) as f64;

/// How an op is evaluated.
#[derive(Clone, Copy)]
pub enum Value {
    /// Not evaluated here; left to the runtime.
    AtRunTime,
    /// The bytes of the first input, unchanged.
    Same,
    Unary(fn(f64) -> f64),
    Binary(fn(f64, f64) -> f64),
    Ternary(fn(f64, f64, f64) -> f64),
    Tensor(fn(&Constants<'_>) -> Option<Literal>),
}

/// A node whose inputs are constants, and the type of its output.
pub struct Constants<'a> {
    node: &'a Node,
    inputs: Vec<&'a Literal>,
    element: Element,
    shape: Vec<usize>,
}

impl Value {
    /// The single output of `node`, of type `result`; `None` for ops and sizes that are not
    /// evaluated. The elements of the output are taken from `budget`.
    pub fn evaluate(
        self,
        node: &Node,
        constants: &IndexMap<String, Literal>,
        result: &ValueType,
        budget: &mut usize,
    ) -> Option<Literal> {
        let shape = result.known_shape()?;
        let len = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
        let bytes = len.checked_mul(result.element.size())?;
        if bytes > LARGEST_BYTES {
            return None;
        }
        let inputs = node.inputs.iter().map(|name| constants.get(name));
        let known = Constants {
            inputs: inputs.collect::<Option<_>>()?,
            node,
            element: result.element,
            shape,
        };
        *budget = budget.checked_sub(bytes)?;
        match self {
            Self::AtRunTime => None,
            Self::Same => known.same(),
            Self::Unary(op) => known.compute(|[x]| op(x)),
            Self::Binary(op) => known.compute(|[a, b]| op(a, b)),
            Self::Ternary(op) => known.compute(|[a, b, c]| op(a, b, c)),
            Self::Tensor(op) => op(&known),
        }
    }
}

impl Constants<'_> {
    fn input(&self, index: usize) -> Option<&Literal> {
        self.inputs.get(index).copied()
    }

    fn same(&self) -> Option<Literal> {
        let literal = Literal {
            shape: self.shape.clone(),
            ..self.input(0)?.clone()
        };
        let bytes = literal.len() * self.element.size();
        (literal.bytes.len() == bytes).then_some(literal)
    }

    /// Applies `op` to the broadcast elements of the inputs; `None` for another number of inputs,
    /// or if an integer exceeds the exact range of f64.
    fn compute<const N: usize>(&self, op: impl Fn([f64; N]) -> f64) -> Option<Literal> {
        let exact = |element: Element, values: &[f64]| {
            let fits = |v: &f64| v.is_finite() && v.abs() < LARGEST_INTEGER;
            element.is_float() || values.iter().all(fits)
        };
        let inputs: [&Literal; N] = self.inputs[..].try_into().ok()?;
        let operands = inputs.map(Literal::to_f64s);
        let mut pairs = inputs.iter().zip(&operands);
        if !pairs.all(|(literal, values)| exact(literal.element, values)) {
            return None;
        }
        let mut values = Vec::with_capacity(self.shape.iter().product());
        for_each_index(&self.shape, |at| {
            let mut row = [0.0; N];
            for ((place, literal), values) in row.iter_mut().zip(&inputs).zip(&operands) {
                *place = *values.get(broadcast_index(at, &literal.shape))?;
            }
            values.push(op(row));
            Some(())
        })?;
        exact(self.element, &values).then(|| Literal::from_f64s(self.element, &self.shape, &values))
    }
}

pub(super) fn transpose(known: &Constants<'_>) -> Option<Literal> {
    let input = known.input(0)?;
    let strides = strides(&input.shape);
    let reversed = || (0..known.shape.len() as i64).rev().collect();
    let perm: Vec<i64> = known
        .node
        .ints("perm")
        .map_or_else(reversed, <[i64]>::to_vec);
    pick(input, &known.shape, &|at| {
        let axes = at.iter().zip(&perm);
        axes.map(|(&i, &axis)| Some(i * strides.get(wrap(axis, strides.len()))?))
            .sum()
    })
}

pub(super) fn expand(known: &Constants<'_>) -> Option<Literal> {
    let input = known.input(0)?;
    pick(input, &known.shape, &|at| {
        Some(broadcast_index(at, &input.shape))
    })
}

pub(super) fn tile(known: &Constants<'_>) -> Option<Literal> {
    let input = known.input(0)?;
    pick(input, &known.shape, &|at| {
        let axes = at.iter().zip(&input.shape);
        Some(axes.fold(0, |flat, (&i, &d)| flat * d + i % d.max(1)))
    })
}

pub(super) fn constant_of_shape(known: &Constants<'_>) -> Option<Literal> {
    let zero = Literal::from_f32s(&[1], &[0.0]);
    let value = known.node.tensor("value").unwrap_or(&zero);
    pick(value, &known.shape, &|_| Some(0))
}

pub(super) fn range(known: &Constants<'_>) -> Option<Literal> {
    let first = |index: usize| known.input(index)?.to_f64s().first().copied();
    let (start, step) = (first(0)?, first(2)?);
    let count = known.shape.iter().product::<usize>();
    let values: Vec<f64> = (0..count).map(|i| start + step * i as f64).collect();
    Some(Literal::from_f64s(known.element, &known.shape, &values))
}

pub(super) fn slice(known: &Constants<'_>) -> Option<Literal> {
    let inputs = &known.inputs;
    let data = inputs.first()?;
    let (starts, ends) = (inputs.get(1)?.to_i64s()?, inputs.get(2)?.to_i64s()?);
    let axes = inputs.get(3).map_or_else(
        || Some((0..starts.len() as i64).collect()),
        |axes| axes.to_i64s(),
    )?;
    let steps = inputs
        .get(4)
        .map_or_else(|| Some(vec![1; starts.len()]), |steps| steps.to_i64s())?;
    if !known.node.attributes.is_empty() {
        return None;
    }
    let mut from = vec![(0i64, 1i64); data.shape.len()];
    for (i, &axis) in axes.iter().enumerate() {
        let axis = wrap(axis, data.shape.len());
        let size = *data.shape.get(axis)? as i64;
        from[axis] = (
            slice_range(size, *starts.get(i)?, *ends.get(i)?, *steps.get(i)?).0,
            *steps.get(i)?,
        );
    }
    let strides = strides(&data.shape);
    let source = |at: &[usize]| {
        let parts = at.iter().zip(&from).zip(&strides);
        let offsets = parts.map(|((&i, &(start, step)), &stride)| {
            let index = usize::try_from(start.checked_add(step.checked_mul(i as i64)?)?).ok()?;
            index.checked_mul(stride)
        });
        offsets.sum::<Option<usize>>()
    };
    pick(data, &known.shape, &source)
}

pub(super) fn gather(known: &Constants<'_>) -> Option<Literal> {
    let (data, indices) = (known.input(0)?, known.input(1)?);
    let rows = indices.to_i64s()?;
    let axis = wrap(known.node.int_or("axis", 0), data.shape.len());
    let (rank, size) = (indices.shape.len(), *data.shape.get(axis)? as i64);
    let source = |at: &[usize]| {
        let row = flat(&at[axis..axis + rank], &indices.shape);
        let row = *rows.get(row)?;
        let row = usize::try_from(if row < 0 { row + size } else { row })
            .ok()
            .filter(|&row| row < size as usize)?;
        Some(flat(
            &[&at[..axis], &[row], &at[axis + rank..]].concat(),
            &data.shape,
        ))
    };
    pick(data, &known.shape, &source)
}

/// On where the index along `axis` is the one given, off elsewhere.
pub(super) fn one_hot(known: &Constants<'_>) -> Option<Literal> {
    let (indices, values) = (known.input(0)?, known.input(2)?);
    let hot = indices.to_i64s()?;
    let axis = wrap(known.node.int_or("axis", -1), known.shape.len());
    let depth = *known.shape.get(axis)? as i64;
    pick(values, &known.shape, &|at| {
        let place = [&at[..axis], &at[axis + 1..]].concat();
        let index = *hot.get(flat(&place, &indices.shape))?;
        let index = if index < 0 { index + depth } else { index };
        Some(usize::from(at[axis] as i64 == index))
    })
}

/// (x - zero point) scale, of the whole tensor or along `axis`.
pub(super) fn dequantize(known: &Constants<'_>) -> Option<Literal> {
    let (x, scale) = (known.input(0)?, known.input(1)?);
    let axis = wrap(known.node.int_or("axis", 1), known.shape.len());
    let along = match scale.shape.as_slice() {
        [] | [1] => None,
        [size] if known.shape.get(axis) == Some(size) => Some(axis),
        _ => return None,
    };
    let (numbers, scales) = (x.to_f64s(), scale.to_f64s());
    let zeros = known
        .input(2)
        .map_or_else(|| vec![0.0; scales.len()], Literal::to_f64s);
    let mut values = Vec::with_capacity(numbers.len());
    for_each_index(&known.shape, |at| {
        let part = along.map_or(0, |axis| at[axis]);
        let number = numbers.get(values.len())?;
        values.push((number - zeros.get(part)?) * scales.get(part)?);
        Some(())
    })?;
    Some(Literal::from_f64s(known.element, &known.shape, &values))
}

pub(super) fn concat(known: &Constants<'_>) -> Option<Literal> {
    let (inputs, shape) = (&known.inputs, &known.shape);
    let axis = wrap(known.node.int("axis")?, shape.len());
    let rows: usize = shape.get(..axis)?.iter().product();
    let element = inputs.first()?.element;
    let mut bytes = Vec::new();
    let parts: Vec<_> = inputs.iter().filter(|part| !part.is_empty()).collect();
    for row in 0..rows {
        for part in &parts {
            let width = part.bytes.len() / rows.max(1);
            bytes.extend_from_slice(part.bytes.get(row * width..(row + 1) * width)?);
        }
    }
    let len: usize = shape.iter().product();
    (bytes.len() == len * element.size()).then(|| Literal {
        element,
        shape: shape.clone(),
        bytes: bytes.into(),
    })
}

/// The tensor of `shape` whose element at an index is the element of `literal` at flat index
/// `source(index)`.
fn pick(
    literal: &Literal,
    shape: &[usize],
    source: &dyn Fn(&[usize]) -> Option<usize>,
) -> Option<Literal> {
    let size = literal.element.size();
    let mut bytes = Vec::with_capacity(shape.iter().product::<usize>() * size);
    for_each_index(shape, |at| {
        let start = source(at)?.checked_mul(size)?;
        bytes.extend_from_slice(literal.bytes.get(start..start + size)?);
        Some(())
    })?;
    Some(Literal {
        element: literal.element,
        shape: shape.to_vec(),
        bytes: bytes.into(),
    })
}

fn for_each_index(shape: &[usize], mut visit: impl FnMut(&[usize]) -> Option<()>) -> Option<()> {
    let mut at = vec![0; shape.len()];
    for _ in 0..shape.iter().product() {
        visit(&at)?;
        for axis in (0..shape.len()).rev() {
            at[axis] += 1;
            if at[axis] < shape[axis] {
                break;
            }
            at[axis] = 0;
        }
    }
    Some(())
}

fn wrap(axis: i64, rank: usize) -> usize {
    usize::try_from(if axis < 0 {
        axis.saturating_add(rank as i64)
    } else {
        axis
    })
    .unwrap_or(usize::MAX)
}

fn flat(at: &[usize], shape: &[usize]) -> usize {
    at.iter()
        .zip(shape)
        .fold(0, |flat, (&i, &size)| flat * size + i)
}

fn strides(shape: &[usize]) -> Vec<usize> {
    (0..shape.len())
        .map(|axis| shape[axis + 1..].iter().product())
        .collect()
}

/// Where the element at `at` of a broadcast result lies in an operand of shape `from`.
fn broadcast_index(at: &[usize], from: &[usize]) -> usize {
    let lead = at.len().saturating_sub(from.len());
    at[lead..].iter().zip(from).fold(0, |flat, (&i, &size)| {
        flat * size + if size == 1 { 0 } else { i }
    })
}
