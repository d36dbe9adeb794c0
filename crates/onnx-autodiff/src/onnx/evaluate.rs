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
    /// Of any number of inputs, from the first to the last.
    Fold(fn(f64, f64) -> f64),
    Tensor(fn(&Constants<'_>) -> Option<Literal>),
}

/// A node whose inputs are constants, and the type of its output.
pub struct Constants<'a> {
    node: &'a Node,
    /// None where an optional input is absent.
    inputs: Vec<Option<&'a Literal>>,
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
        let inputs = node.inputs.iter().map(|name| match name.as_str() {
            "" => Some(None),
            name => constants.get(name).map(Some),
        });
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
            Self::Unary(op) => known.compute(|[x]: [f64; 1]| op(x)),
            Self::Binary(op) => known.compute(|[a, b]: [f64; 2]| op(a, b)),
            Self::Ternary(op) => known.compute(|[a, b, c]: [f64; 3]| op(a, b, c)),
            Self::Fold(op) => known.elementwise(|row| row.iter().copied().reduce(op)),
            Self::Tensor(op) => op(&known),
        }
    }
}

impl Constants<'_> {
    fn input(&self, index: usize) -> Option<&Literal> {
        self.inputs.get(index).copied().flatten()
    }

    fn same(&self) -> Option<Literal> {
        let literal = Literal {
            shape: self.shape.clone(),
            ..self.input(0)?.clone()
        };
        let bytes = literal.len() * self.element.size();
        (literal.bytes.len() == bytes).then_some(literal)
    }

    /// As [`Self::elementwise`], of `N` inputs.
    fn compute<const N: usize>(&self, op: impl Fn([f64; N]) -> f64) -> Option<Literal> {
        self.elementwise(|row| Some(op(row.try_into().ok()?)))
    }

    /// Applies `op` to the broadcast elements of the inputs; `None` where one is absent or `op`
    /// gives none, or if an integer exceeds the exact range of f64.
    fn elementwise(&self, op: impl Fn(&[f64]) -> Option<f64>) -> Option<Literal> {
        let inputs = self.inputs.iter().copied().collect::<Option<Vec<_>>>()?;
        let operands = inputs.iter().map(|literal| exact(literal));
        let operands = operands.collect::<Option<Vec<_>>>()?;
        let mut row = vec![0.0; inputs.len()];
        let mut values = Vec::with_capacity(self.shape.iter().product());
        for_each_index(&self.shape, |at| {
            for ((place, literal), values) in row.iter_mut().zip(&inputs).zip(&operands) {
                *place = *values.get(broadcast_index(at, &literal.shape))?;
            }
            values.push(op(&row)?);
            Some(())
        })?;
        self.literal(&values)
    }

    /// The output, unless an integer exceeds the exact range of f64.
    fn literal(&self, values: &[f64]) -> Option<Literal> {
        let fits = self.element.is_float() || values.iter().all(is_exact);
        fits.then(|| Literal::from_f64s(self.element, &self.shape, values))
    }
}

/// The values of a constant, unless an integer exceeds the exact range of f64.
fn exact(literal: &Literal) -> Option<Vec<f64>> {
    let values = literal.to_f64s();
    (literal.element.is_float() || values.iter().all(is_exact)).then_some(values)
}

fn is_exact(value: &f64) -> bool {
    value.is_finite() && value.abs() < LARGEST_INTEGER
}

/// `Clip(x, min, max)`: either bound may be absent.
pub(super) fn clip(known: &Constants<'_>) -> Option<Literal> {
    let bound = |index: usize, other: f64| match known.input(index) {
        Some(bound) => bound.to_f64s().first().copied(),
        None => Some(other),
    };
    let (low, high) = (bound(1, f64::NEG_INFINITY)?, bound(2, f64::INFINITY)?);
    let values = exact(known.input(0)?)?.into_iter();
    known.literal(&values.map(|x| x.max(low).min(high)).collect::<Vec<_>>())
}

/// The remainder has the sign of the divisor, with the attribute `fmod` that of the dividend.
pub(super) fn modulo(known: &Constants<'_>) -> Option<Literal> {
    let truncates = known.node.int_or("fmod", 0) != 0;
    known.compute(|[a, b]| match truncates {
        true => a % b,
        false => a - b * (a / b).floor(),
    })
}

/// ReduceMax, ReduceMin, ReduceProd, ReduceSum and ReduceMean.
pub(super) fn reduce(known: &Constants<'_>) -> Option<Literal> {
    let input = known.input(0)?;
    let rank = input.shape.len();
    let axes = match known.input(1) {
        Some(axes) => axes.to_i64s()?,
        None => known.node.ints("axes").unwrap_or_default().to_vec(),
    };
    let axes: Vec<usize> = axes.into_iter().map(|axis| wrap(axis, rank)).collect();
    let all = axes.is_empty() && known.node.int_or("noop_with_empty_axes", 0) == 0;
    let (start, op): (f64, fn(f64, f64) -> f64) = match known.node.op_type.as_str() {
        "ReduceMax" => (f64::NEG_INFINITY, f64::max),
        "ReduceMin" => (f64::INFINITY, f64::min),
        "ReduceProd" => (1.0, |a, b| a * b),
        _ => (0.0, |a, b| a + b),
    };
    let mut reduced = vec![start; known.shape.iter().product()];
    let mut values = exact(input)?.into_iter();
    let count = values.len() / reduced.len().max(1);
    // The output's shape with ones, or without the reduced axes: its flat index is the same.
    let kept = |axis: &usize| !all && !axes.contains(axis);
    for_each_index(&input.shape, |at| {
        let kept = (0..rank).filter(kept);
        let to = kept.fold(0, |flat, axis| flat * input.shape[axis] + at[axis]);
        let place = reduced.get_mut(to)?;
        *place = op(*place, values.next()?);
        Some(())
    })?;
    if known.node.is("ReduceMean") {
        let mean = |sum: &mut f64| *sum /= count as f64;
        reduced.iter_mut().for_each(mean);
    }
    known.literal(&reduced)
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
    let data = known.input(0)?;
    let (starts, ends) = (known.input(1)?.to_i64s()?, known.input(2)?.to_i64s()?);
    let given = |index: usize, other: Vec<i64>| match known.input(index) {
        Some(given) => given.to_i64s(),
        None => Some(other),
    };
    let axes = given(3, (0..starts.len() as i64).collect())?;
    let steps = given(4, vec![1; starts.len()])?;
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

/// `OneHot(indices, depth, [off, on])`.
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
    let inputs = known.inputs.iter().copied().collect::<Option<Vec<_>>>()?;
    let shape = &known.shape;
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
