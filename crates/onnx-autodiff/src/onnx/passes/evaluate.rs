//! The value of a node whose inputs are constants. Numbers are computed in f64 and rounded once,
//! which for + - * / sqrt of f32 is the same as computing in f32; integers beyond 2^53 are left
//! alone. Outputs over `LARGEST_BYTES` are not computed: weights stay shared.

use indexmap::IndexMap;

use crate::onnx::graph::{Dim, Element, Literal, Node, ValueType};
use crate::onnx::types::slice_range;

const LARGEST_BYTES: usize = 1 << 20;
/// All that one graph may have evaluated.
pub const BUDGET_BYTES: usize = 64 << 20;
const LARGEST_INTEGER: f64 = (1u64 << 53) as f64;

/// The single output of `node`, whose type is `result`; none for ops and sizes that are not
/// evaluated. What is tried is taken from `budget`.
pub fn evaluate(
    node: &Node,
    constants: &IndexMap<String, Literal>,
    result: &ValueType,
    budget: &mut usize,
) -> Option<Literal> {
    let shape = result
        .shape
        .iter()
        .map(Dim::known)
        .collect::<Option<Vec<_>>>()?;
    let len = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
    let bytes = len.checked_mul(result.element.size())?;
    if bytes > LARGEST_BYTES || !node.domain.is_empty() {
        return None;
    }
    let inputs: Vec<&Literal> = node
        .inputs
        .iter()
        .map(|name| constants.get(name))
        .collect::<Option<_>>()?;
    *budget = budget.checked_sub(bytes)?;
    let first = inputs.first().copied();
    let moved = |source: &dyn Fn(&[usize]) -> Option<usize>| pick(first?, &shape, source);
    match node.op_type.as_str() {
        "Identity" | "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => Some(Literal {
            shape,
            ..first?.clone()
        })
        .filter(|literal| literal.bytes.len() == len * result.element.size()),
        "Cast" => compute(result, &shape, &inputs[..1], |v| v[0]),
        "Transpose" => {
            let strides = strides(&first?.shape);
            let reversed = || (0..shape.len() as i64).rev().collect();
            let perm: Vec<i64> = node.ints("perm").map_or_else(reversed, <[i64]>::to_vec);
            moved(&|at| {
                Some(
                    at.iter()
                        .zip(&perm)
                        .map(|(&i, &axis)| i * strides[wrap(axis, strides.len())])
                        .sum(),
                )
            })
        }
        "Expand" => {
            let from = &first?.shape;
            moved(&|at| Some(broadcast_index(at, from)))
        }
        "Tile" => {
            let from = &first?.shape;
            moved(&|at| {
                Some(
                    at.iter()
                        .zip(from)
                        .fold(0, |flat, (&i, &d)| flat * d + i % d.max(1)),
                )
            })
        }
        "Slice" => slice(node, &inputs, &shape),
        "Gather" => gather(node, &inputs, &shape),
        "Concat" => concat(node, &inputs, &shape),
        "ConstantOfShape" => {
            let value = node
                .tensor("value")
                .cloned()
                .unwrap_or_else(|| Literal::from_f32s(&[1], &[0.0]));
            pick(&value, &shape, &|_| Some(0))
        }
        "Range" => {
            let (start, step) = (
                *first?.to_f64s().first()?,
                *inputs.get(2)?.to_f64s().first()?,
            );
            let values: Vec<f64> = (0..len).map(|i| start + step * i as f64).collect();
            Some(Literal::from_f64s(result.element, &shape, &values))
        }
        op => compute(
            result,
            &shape,
            &inputs,
            scalar_op(op, inputs.len(), result.element)?,
        ),
    }
}

/// The op on one element of each operand; none when the op is not of that kind.
fn scalar_op(op: &str, operands: usize, element: Element) -> Option<fn(&[f64]) -> f64> {
    let op: (usize, fn(&[f64]) -> f64) = match op {
        "Abs" => (1, |v| v[0].abs()),
        "Ceil" => (1, |v| v[0].ceil()),
        "Exp" => (1, |v| v[0].exp()),
        "Floor" => (1, |v| v[0].floor()),
        "Log" => (1, |v| v[0].ln()),
        "Neg" => (1, |v| -v[0]),
        "Not" => (1, |v| 1.0 - v[0]),
        "Reciprocal" => (1, |v| 1.0 / v[0]),
        "Round" => (1, |v| v[0].round_ties_even()),
        "Sqrt" => (1, |v| v[0].sqrt()),
        "Add" => (2, |v| v[0] + v[1]),
        "Sub" => (2, |v| v[0] - v[1]),
        "Mul" => (2, |v| v[0] * v[1]),
        "Div" if element.is_float() => (2, |v| v[0] / v[1]),
        "Div" => (2, |v| (v[0] / v[1]).trunc()),
        "Pow" => (2, |v| v[0].powf(v[1])),
        "Min" => (2, |v| v[0].min(v[1])),
        "Max" => (2, |v| v[0].max(v[1])),
        "Equal" => (2, |v| f64::from(u8::from(v[0] == v[1]))),
        "Greater" => (2, |v| f64::from(u8::from(v[0] > v[1]))),
        "GreaterOrEqual" => (2, |v| f64::from(u8::from(v[0] >= v[1]))),
        "Less" => (2, |v| f64::from(u8::from(v[0] < v[1]))),
        "LessOrEqual" => (2, |v| f64::from(u8::from(v[0] <= v[1]))),
        "And" => (2, |v| v[0] * v[1]),
        "Or" => (2, |v| v[0].max(v[1])),
        "Where" => (3, |v| if v[0] != 0.0 { v[1] } else { v[2] }),
        _ => return None,
    };
    (op.0 == operands).then_some(op.1)
}

/// `op` on the broadcast elements of `inputs`; none when an integer leaves the exact range of f64.
fn compute(
    result: &ValueType,
    shape: &[usize],
    inputs: &[&Literal],
    op: impl Fn(&[f64]) -> f64,
) -> Option<Literal> {
    let exact = |element: Element, values: &[f64]| {
        element.is_float()
            || values
                .iter()
                .all(|v| v.is_finite() && v.abs() < LARGEST_INTEGER)
    };
    let operands: Vec<Vec<f64>> = inputs.iter().map(|literal| literal.to_f64s()).collect();
    if !inputs
        .iter()
        .zip(&operands)
        .all(|(literal, values)| exact(literal.element, values))
    {
        return None;
    }
    let mut values = Vec::with_capacity(shape.iter().product());
    for_each_index(shape, |at| {
        let elements = operands.iter().zip(inputs);
        let row = elements
            .map(|(values, literal)| values.get(broadcast_index(at, &literal.shape)).copied());
        values.push(op(&row.collect::<Option<Vec<_>>>()?));
        Some(())
    })?;
    exact(result.element, &values).then(|| Literal::from_f64s(result.element, shape, &values))
}

fn slice(node: &Node, inputs: &[&Literal], shape: &[usize]) -> Option<Literal> {
    let data = inputs.first()?;
    let (starts, ends) = (inputs.get(1)?.to_i64s()?, inputs.get(2)?.to_i64s()?);
    let axes = inputs.get(3).map_or_else(
        || Some((0..starts.len() as i64).collect()),
        |axes| axes.to_i64s(),
    )?;
    let steps = inputs
        .get(4)
        .map_or_else(|| Some(vec![1; starts.len()]), |steps| steps.to_i64s())?;
    if !node.attributes.is_empty() {
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
    pick(data, shape, &source)
}

fn gather(node: &Node, inputs: &[&Literal], shape: &[usize]) -> Option<Literal> {
    let (data, indices) = (inputs.first()?, inputs.get(1)?);
    let rows = indices.to_i64s()?;
    let axis = wrap(node.int_or("axis", 0), data.shape.len());
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
    pick(data, shape, &source)
}

fn concat(node: &Node, inputs: &[&Literal], shape: &[usize]) -> Option<Literal> {
    let axis = wrap(node.int("axis")?, shape.len());
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
        shape: shape.to_vec(),
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
