//! Ops that sum or choose along axes, and matrix products.

use super::site::{Inferred, Site, Stop, axes_of, axis_of, one, wrong};
use crate::onnx::einsum::Equation;
use crate::onnx::graph::{Dim, Element, ValueType};

fn dropped(shape: Vec<Dim>, axes: &[usize], keep: bool) -> Vec<Dim> {
    let dims = shape.into_iter().enumerate();
    dims.filter_map(|(axis, dim)| match (axes.contains(&axis), keep) {
        (true, true) => Some(Dim::Known(1)),
        (true, false) => None,
        (false, _) => Some(dim),
    })
    .collect()
}

pub fn reduce(site: &Site<'_>) -> Inferred {
    let input = site.value_type(0)?;
    let rank = input.shape.len();
    let axes = match site.ints_of("axes", 1)? {
        Some(axes) if !axes.is_empty() => axes_of(&axes, rank)?,
        _ if site.node.int_or("noop_with_empty_axes", 0) != 0 => vec![],
        _ => (0..rank).collect(),
    };
    one(
        input.element,
        dropped(input.shape, &axes, site.node.int_or("keepdims", 1) != 0),
    )
}

pub fn arg(site: &Site<'_>) -> Inferred {
    let shape = site.shape(0)?;
    let axis = axis_of(site.node.int_or("axis", 0), shape.len())?;
    one(
        Element::Int64,
        dropped(shape, &[axis], site.node.int_or("keepdims", 1) != 0),
    )
}

pub fn top_k(site: &Site<'_>) -> Inferred {
    let mut input = site.value_type(0)?;
    let axis = axis_of(site.node.int_or("axis", -1), input.shape.len())?;
    let k = if site.has(1) {
        site.ints(1)?.first().copied()
    } else {
        site.node.int("k")
    };
    let k = k
        .and_then(|k| usize::try_from(k).ok())
        .ok_or(Stop::Unknown)?;
    input.shape[axis] = Dim::Known(k);
    let indices = ValueType {
        element: Element::Int64,
        shape: input.shape.clone(),
    };
    Ok(vec![Some(input), Some(indices)])
}

fn contract(a: &Dim, b: &Dim) -> Result<(), Stop> {
    match (a.known(), b.known()) {
        (Some(a), Some(b)) if a != b => wrong(format!("inner sizes {a} and {b} differ")),
        _ => Ok(()),
    }
}

pub fn matmul(site: &Site<'_>) -> Inferred {
    let element = site.element(0)?;
    let (a, b) = (site.shape(0)?, site.shape(1)?);
    let (Some(inner), false) = (a.last(), b.is_empty()) else {
        return wrong("operands must not be scalars");
    };
    contract(inner, &b[b.len().saturating_sub(2)])?;
    let (rows, columns) = (
        a.len().checked_sub(2).map(|at| a[at].clone()),
        (b.len() > 1).then(|| b[b.len() - 1].clone()),
    );
    let lead = |shape: &[Dim]| shape[..shape.len().saturating_sub(2)].to_vec();
    let mut shape = site.broadcast(&[lead(&a), lead(&b)])?;
    shape.extend(rows.into_iter().chain(columns));
    one(element, shape)
}

pub fn gemm(site: &Site<'_>) -> Inferred {
    let element = site.element(0)?;
    let (mut a, mut b) = (site.shape(0)?, site.shape(1)?);
    if a.len() != 2 || b.len() != 2 {
        return wrong(format!(
            "operands must be matrices, not of rank {} and {}",
            a.len(),
            b.len()
        ));
    }
    if site.node.int_or("transA", 0) != 0 {
        a.reverse();
    }
    if site.node.int_or("transB", 0) != 0 {
        b.reverse();
    }
    contract(&a[1], &b[0])?;
    one(element, vec![a[0].clone(), b[1].clone()])
}

/// A label has the size of the first operand that has more than one element along it.
pub fn einsum(site: &Site<'_>) -> Inferred {
    let element = site.element(0)?;
    let shapes = (0..site.node.inputs.len()).map(|index| site.shape(index));
    let shapes = shapes.collect::<Result<Vec<_>, _>>()?;
    let ranks: Vec<usize> = shapes.iter().map(Vec::len).collect();
    let equation = Equation::of(site.node, &ranks).map_err(Stop::Wrong)?;
    let mut sizes = std::collections::HashMap::new();
    for (labels, shape) in equation.operands.iter().zip(shapes) {
        for (&label, dim) in labels.iter().zip(shape) {
            let known = sizes.entry(label).or_insert_with(|| dim.clone());
            if *known == Dim::Known(1) {
                *known = dim;
            }
        }
    }
    let shape = equation.output.iter().map(|label| sizes[label].clone());
    one(element, shape.collect())
}

/// The normalised input, and the mean and the inverse deviation over the axes from `axis` on.
pub fn layer_normalization(site: &Site<'_>) -> Inferred {
    let input = site.value_type(0)?;
    let first = axis_of(site.node.int_or("axis", -1), input.shape.len())?;
    let axes: Vec<usize> = (first..input.shape.len()).collect();
    let statistic = Some(ValueType {
        element: Element::Float,
        shape: dropped(input.shape.clone(), &axes, true),
    });
    Ok(vec![Some(input), statistic.clone(), statistic])
}

/// The heads of a query of rank 4 have the width of the values; of rank 3, they stand side by side.
/// The further outputs follow from what it is written with.
pub fn attention(site: &Site<'_>) -> Inferred {
    let (q, v) = (site.value_type(0)?, site.shape(2)?);
    let mut shape = q.shape;
    let (Some(last), Some(width)) = (shape.len().checked_sub(1), v.last()) else {
        return wrong("operands must not be scalars");
    };
    let heads = |name: &str| {
        site.node
            .int(name)
            .and_then(|count| usize::try_from(count).ok())
    };
    shape[last] = match (last, width, heads("q_num_heads"), heads("kv_num_heads")) {
        (3, width, ..) => width.clone(),
        (2, Dim::Known(width), Some(q), Some(kv)) if kv > 0 => Dim::Known(width / kv * q),
        _ => site.fresh(last),
    };
    one(q.element, shape)
}

/// The hidden states of each step, and those of the last one.
pub fn recurrent(site: &Site<'_>) -> Inferred {
    let input = site.value_type(0)?;
    let hidden = site
        .node
        .int("hidden_size")
        .and_then(|size| usize::try_from(size).ok());
    let (Some(hidden), 3) = (hidden, input.shape.len()) else {
        return Err(Stop::Unknown);
    };
    let directions = 1 + usize::from(site.node.string("direction") == Some("bidirectional"));
    let typed = |shape: Vec<Dim>| Some(ValueType::new(input.element, shape));
    let [a, b] = [0, 1].map(|axis| input.shape[axis].clone());
    let (directions, hidden) = (Dim::Known(directions), Dim::Known(hidden));
    let (all, last) = match site.node.int_or("layout", 0) {
        0 => (
            vec![a, directions.clone(), b.clone(), hidden.clone()],
            vec![directions, b, hidden],
        ),
        _ => (
            vec![a.clone(), b, directions.clone(), hidden.clone()],
            vec![a, directions, hidden],
        ),
    };
    Ok(vec![typed(all), typed(last.clone()), typed(last)])
}
