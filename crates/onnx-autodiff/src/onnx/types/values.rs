//! The content of shapes on their way through a graph: `Shape -> Gather -> Mul -> Concat` with a
//! symbolic batch stays known.

use super::LONGEST_SHAPE;
use super::layout::{shape_range, slice_range};
use super::site::Site;
use super::size::{Size, Sizes, product};
use crate::onnx::graph::{Dim, Element, Literal};

/// What is known of the (integer) first output of a node; none for other ops and tensors of higher
/// rank.
pub fn sizes_of(site: &Site<'_>) -> Option<Sizes> {
    let input = |index: usize| site.sizes(index).ok();
    match site.node.op_type.as_str() {
        _ if !site.node.domain.is_empty() => None,
        "Shape" => {
            let shape = site.shape(0).ok()?;
            let range = shape_range(site, shape.len());
            Some(Sizes::vector(
                shape[range]
                    .iter()
                    .map(|dim| Some(Size::from(dim)))
                    .collect(),
            ))
        }
        "Size" => Some(Sizes::scalar(product(&site.shape(0).ok()?))),
        "Identity" => input(0),
        "Cast" => {
            let to = Element::from_code(i32::try_from(site.node.int("to")?).ok()?)?;
            input(0).filter(|_| matches!(to, Element::Int64 | Element::Int32))
        }
        "Squeeze" => input(0)
            .filter(|sizes| sizes.items.len() == 1)
            .map(|sizes| Sizes {
                scalar: true,
                ..sizes
            }),
        "Unsqueeze" => input(0).filter(|sizes| sizes.scalar).map(|sizes| Sizes {
            scalar: false,
            ..sizes
        }),
        "Reshape" => reshape(input(0)?, &site.ints(1).ok()?),
        "Gather" => gather(&input(0)?, &input(1)?),
        "Slice" => slice(site, &input(0)?),
        "Concat" => concat(site),
        "Mul" => zip(&input(0)?, &input(1)?, |a, b| a.times(b)),
        "Div" => zip(&input(0)?, &input(1)?, divide),
        "Add" => zip(&input(0)?, &input(1)?, |a, b| add(a, b, 1)),
        "Sub" => zip(&input(0)?, &input(1)?, |a, b| add(a, b, -1)),
        "Equal" => zip(&input(0)?, &input(1)?, equal),
        "Where" => select(&input(0)?, &input(1)?, &input(2)?),
        "ReduceProd" => reduce_prod(site, &input(0)?),
        "ConstantOfShape" => constant_of_shape(site, &input(0)?),
        "Expand" => expand(&input(0)?, &input(1)?),
        _ => None,
    }
}

fn reshape(sizes: Sizes, target: &[i64]) -> Option<Sizes> {
    match target {
        [] => Some(Sizes {
            scalar: true,
            ..sizes
        }),
        [_] => Some(Sizes {
            scalar: false,
            ..sizes
        }),
        _ => None,
    }
}

fn gather(data: &Sizes, indices: &Sizes) -> Option<Sizes> {
    let picked = indices.as_known()?.into_iter().map(|at| {
        let at = if at < 0 {
            at + data.items.len() as i64
        } else {
            at
        };
        data.items.get(usize::try_from(at).ok()?).cloned()
    });
    Some(Sizes {
        scalar: indices.scalar,
        items: picked.collect::<Option<_>>()?,
    })
}

fn slice(site: &Site<'_>, data: &Sizes) -> Option<Sizes> {
    let first = |name: &str, index: usize| match site.ints_of(name, index) {
        Ok(Some(values)) => <[i64; 1]>::try_from(values).ok().map(|[value]| value),
        _ => None,
    };
    let (start, end) = (first("starts", 1)?, first("ends", 2)?);
    let step = if site.has(4) { first("steps", 4)? } else { 1 };
    if data.scalar || step == 0 {
        return None;
    }
    let (start, _, count) = slice_range(data.items.len() as i64, start, end, step);
    let picked = (0..count).map(|i| {
        data.items
            .get(usize::try_from(start + i * step).ok()?)
            .cloned()
    });
    picked.collect::<Option<_>>().map(Sizes::vector)
}

/// Parts of which nothing is known but their length leave gaps.
fn concat(site: &Site<'_>) -> Option<Sizes> {
    let mut items = Vec::new();
    for index in 0..site.node.inputs.len() {
        let integers = matches!(site.element(index).ok()?, Element::Int64 | Element::Int32);
        match (site.sizes(index), site.shape(index).ok()?.as_slice()) {
            (Ok(sizes), _) if !sizes.scalar => items.extend(sizes.items),
            (_, [Dim::Known(count)]) if integers && *count <= LONGEST_SHAPE => {
                items.extend(vec![None; *count])
            }
            _ => return None,
        }
        if items.len() > LONGEST_SHAPE {
            return None;
        }
    }
    Some(Sizes::vector(items))
}

fn zip(a: &Sizes, b: &Sizes, combine: impl Fn(&Size, &Size) -> Option<Size>) -> Option<Sizes> {
    let len = a.items.len().max(b.items.len());
    let at = |sizes: &Sizes, i: usize| {
        sizes
            .items
            .get(if sizes.items.len() == 1 { 0 } else { i })
            .cloned()
    };
    let items = (0..len).map(|i| Some(at(a, i)?.zip(at(b, i)?).and_then(|(a, b)| combine(&a, &b))));
    Some(Sizes {
        scalar: a.scalar && b.scalar,
        items: items.collect::<Option<_>>()?,
    })
}

/// Integer division truncates towards zero.
fn divide(a: &Size, b: &Size) -> Option<Size> {
    match (a.as_known(), b.as_known()) {
        (Some(a), Some(b)) => a.checked_div(b).map(Size::known),
        _ => a.over(b),
    }
}

fn add(a: &Size, b: &Size, sign: i64) -> Option<Size> {
    match (a.as_known(), b.as_known()) {
        (Some(a), Some(b)) => a.checked_add(sign.checked_mul(b)?).map(Size::known),
        (None, Some(0)) => Some(a.clone()),
        _ => None,
    }
}

/// A symbol is a positive size, so it equals no number below one.
fn equal(a: &Size, b: &Size) -> Option<Size> {
    match (a.as_known(), b.as_known()) {
        (Some(a), Some(b)) => Some(Size::known((a == b).into())),
        (Some(number), None) | (None, Some(number)) if number < 1 => Some(Size::known(0)),
        _ => (a == b).then(|| Size::known(1)),
    }
}

fn select(condition: &Sizes, yes: &Sizes, no: &Sizes) -> Option<Sizes> {
    let len = [condition, yes, no]
        .map(|sizes| sizes.items.len())
        .into_iter()
        .max()?;
    let at = |sizes: &Sizes, i: usize| {
        sizes
            .items
            .get(if sizes.items.len() == 1 { 0 } else { i })
            .cloned()
    };
    let items = (0..len).map(|i| {
        let (yes, no) = (at(yes, i)?, at(no, i)?);
        Some(match at(condition, i)?.and_then(|c| c.as_known()) {
            Some(0) => no,
            Some(_) => yes,
            None => yes.filter(|yes| no.as_ref() == Some(yes)),
        })
    });
    Some(Sizes {
        scalar: condition.scalar && yes.scalar && no.scalar,
        items: items.collect::<Option<_>>()?,
    })
}

fn reduce_prod(site: &Site<'_>, sizes: &Sizes) -> Option<Sizes> {
    let all = sizes
        .items
        .iter()
        .try_fold(Size::known(1), |all, item| all.times(item.as_ref()?));
    Some(Sizes {
        scalar: site.node.int_or("keepdims", 1) == 0,
        items: vec![all],
    })
}

fn constant_of_shape(site: &Site<'_>, shape: &Sizes) -> Option<Sizes> {
    let value = match site.node.tensor("value") {
        Some(value) => value.as_i64()?,
        None => return None,
    };
    match shape.as_known()?.as_slice() {
        [] => Some(Sizes::scalar(Some(Size::known(value)))),
        [count] => (0..=LONGEST_SHAPE as i64)
            .contains(count)
            .then(|| Sizes::vector(vec![Some(Size::known(value)); *count as usize])),
        _ => None,
    }
}

fn expand(sizes: &Sizes, shape: &Sizes) -> Option<Sizes> {
    match (shape.as_known()?.as_slice(), sizes.items.as_slice()) {
        ([count], [item]) => (1..=LONGEST_SHAPE as i64)
            .contains(count)
            .then(|| Sizes::vector(vec![item.clone(); *count as usize])),
        ([_], _) => Some(sizes.clone()),
        _ => None,
    }
}

/// The literal of sizes that are all numbers.
pub fn to_literal(sizes: &Sizes, element: Element) -> Option<Literal> {
    let shape = if sizes.scalar {
        vec![]
    } else {
        vec![sizes.items.len()]
    };
    let values = sizes.as_known()?;
    match element {
        Element::Int64 => Some(Literal::from_i64s(&shape, &values)),
        _ => {
            let exact = values.iter().all(|v| v.unsigned_abs() < 1 << 53);
            exact.then(|| {
                Literal::from_f64s(
                    element,
                    &shape,
                    &values.iter().map(|&v| v as f64).collect::<Vec<_>>(),
                )
            })
        }
    }
}
