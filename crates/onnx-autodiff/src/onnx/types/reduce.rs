//! Ops that sum or choose along axes, and matrix products.

use super::site::{Inferred, Site, Stop, axes_of, axis_of, one, wrong};
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

/// Letters only; an equation with an ellipsis is left unknown.
pub fn einsum(site: &Site<'_>) -> Inferred {
    let element = site.element(0)?;
    let equation: String = site
        .node
        .string("equation")
        .unwrap_or("")
        .chars()
        .filter(|c| !c.is_whitespace())
        .collect();
    let Some((left, right)) = equation
        .split_once("->")
        .filter(|_| !equation.contains('.'))
    else {
        return Err(Stop::Unknown);
    };
    let mut sizes = std::collections::HashMap::new();
    for (index, term) in left.split(',').enumerate() {
        let shape = site.shape(index)?;
        if term.chars().count() != shape.len() {
            return wrong(format!("term {term} does not fit rank {}", shape.len()));
        }
        for (letter, dim) in term.chars().zip(shape) {
            let known = sizes.entry(letter).or_insert_with(|| dim.clone());
            if *known == Dim::Known(1) {
                *known = dim;
            }
        }
    }
    let shape = right.chars().map(|letter| sizes.get(&letter).cloned());
    match shape.collect::<Option<Vec<_>>>() {
        Some(shape) => one(element, shape),
        None => wrong("the output has a letter that no input has"),
    }
}
