//! Propagates the values of shape tensors through a graph: the result of `Shape -> Gather -> Mul ->
//! Concat` is known even with a symbolic batch.

use super::layout::{shape_range, slice_range};
use super::site::Site;
use super::size::{Size, Sizes, product};
use crate::onnx::graph::{Dim, Element, Literal};
use crate::onnx::limits::LONGEST_SHAPE;

/// The known values of the (integer) first output of a node; `None` for rank above 1.
pub type Content = fn(&Site<'_>) -> Option<Sizes>;

fn input(site: &Site<'_>, index: usize) -> Option<Sizes> {
    site.sizes(index).ok()
}

pub fn shape(site: &Site<'_>) -> Option<Sizes> {
    let shape = site.shape(0).ok()?;
    let dims = &shape[shape_range(site, shape.len())];
    let sizes = dims.iter().map(|dim| Some(Size::from(dim)));
    Some(Sizes::vector(sizes.collect()))
}

pub fn size(site: &Site<'_>) -> Option<Sizes> {
    Some(Sizes::scalar(product(&site.shape(0).ok()?)))
}

pub fn identity(site: &Site<'_>) -> Option<Sizes> {
    input(site, 0)
}

/// Sizes are exact in every wide type: exporters compute pads and targets in floats too.
pub fn cast(site: &Site<'_>) -> Option<Sizes> {
    let to = Element::from_code(i32::try_from(site.node.int("to")?).ok()?)?;
    let wide = [
        Element::Int64,
        Element::Int32,
        Element::Float,
        Element::Double,
    ];
    input(site, 0).filter(|_| wide.contains(&to))
}

pub fn squeeze(site: &Site<'_>) -> Option<Sizes> {
    let sizes = input(site, 0).filter(|sizes| sizes.items.len() == 1)?;
    Some(Sizes {
        scalar: true,
        ..sizes
    })
}

pub fn unsqueeze(site: &Site<'_>) -> Option<Sizes> {
    let sizes = input(site, 0).filter(|sizes| sizes.scalar)?;
    Some(Sizes {
        scalar: false,
        ..sizes
    })
}

pub fn mul(site: &Site<'_>) -> Option<Sizes> {
    zip(site, |a, b| a.times(b))
}

/// Of integers it truncates towards zero; of floats only an exact quotient is a size.
pub fn div(site: &Site<'_>) -> Option<Sizes> {
    let truncates = !site.element(0).ok()?.is_float();
    zip(site, |a, b| match (a.as_known(), b.as_known()) {
        (Some(a), Some(b)) if truncates => a.checked_div(b).map(Size::known),
        _ => a.over(b),
    })
}

/// The remainder of a multiple is 0, whatever the symbols stand for.
pub fn modulo(site: &Site<'_>) -> Option<Sizes> {
    let truncates = site.node.int_or("fmod", 0) != 0;
    zip(site, |a, b| match (a.as_known(), b.as_known()) {
        (Some(a), Some(b)) if truncates => a.checked_rem(b).map(Size::known),
        // The sign of the divisor.
        (Some(a), Some(b)) => {
            let rest = a.checked_rem(b)?;
            let other = rest != 0 && (rest < 0) != (b < 0);
            Some(Size::known(if other { rest + b } else { rest }))
        }
        _ => a.over(b).map(|_| Size::known(0)),
    })
}

pub fn max(site: &Site<'_>) -> Option<Sizes> {
    zip(site, |a, b| choose(a, b, i64::max, true))
}

pub fn min(site: &Site<'_>) -> Option<Sizes> {
    zip(site, |a, b| choose(a, b, i64::min, false))
}

/// `Clip(x, min, max)`: either bound may be absent.
pub fn clip(site: &Site<'_>) -> Option<Sizes> {
    let bound = |index: usize| match site.has(index) {
        true => input(site, index)?.items.into_iter().next(),
        false => Some(None),
    };
    let (low, high) = (bound(1)?, bound(2)?);
    let (has_low, has_high) = (site.has(1), site.has(2));
    let mut sizes = input(site, 0)?;
    for item in &mut sizes.items {
        let mut size = item.take();
        if has_low {
            size = size.and_then(|size| choose(&size, low.as_ref()?, i64::max, true));
        }
        if has_high {
            size = size.and_then(|size| choose(&size, high.as_ref()?, i64::min, false));
        }
        *item = size;
    }
    Some(sizes)
}

/// The larger or smaller of two sizes. A symbol is at least 1.
fn choose(a: &Size, b: &Size, of: fn(i64, i64) -> i64, larger: bool) -> Option<Size> {
    match (a.as_known(), b.as_known()) {
        (Some(a), Some(b)) => Some(Size::known(of(a, b))),
        (None, Some(number)) if number < 1 => Some(if larger { a } else { b }.clone()),
        (Some(number), None) if number < 1 => Some(if larger { b } else { a }.clone()),
        _ => (a == b).then(|| a.clone()),
    }
}

pub fn neg(site: &Site<'_>) -> Option<Sizes> {
    let mut sizes = input(site, 0)?;
    for item in &mut sizes.items {
        *item = item.take().and_then(|size| size.times(&Size::known(-1)));
    }
    Some(sizes)
}

pub fn add(site: &Site<'_>) -> Option<Sizes> {
    zip(site, |a, b| sum(a, b, 1))
}

pub fn sub(site: &Site<'_>) -> Option<Sizes> {
    zip(site, |a, b| sum(a, b, -1))
}

pub fn equal(site: &Site<'_>) -> Option<Sizes> {
    zip(site, equals)
}

pub fn reshape(site: &Site<'_>) -> Option<Sizes> {
    let scalar = match site.ints(1).ok()?[..] {
        [] => true,
        [_] => false,
        _ => return None,
    };
    Some(Sizes {
        scalar,
        ..input(site, 0)?
    })
}

pub fn gather(site: &Site<'_>) -> Option<Sizes> {
    let (data, indices) = (input(site, 0)?, input(site, 1)?);
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

pub fn slice(site: &Site<'_>) -> Option<Sizes> {
    let data = input(site, 0)?;
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

/// Parts of known length and unknown content give unknown elements.
pub fn concat(site: &Site<'_>) -> Option<Sizes> {
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

/// Of two inputs.
fn zip(site: &Site<'_>, combine: impl Fn(&Size, &Size) -> Option<Size>) -> Option<Sizes> {
    if site.node.inputs.len() != 2 {
        return None;
    }
    let (a, b) = (input(site, 0)?, input(site, 1)?);
    let items = (0..a.items.len().max(b.items.len())).map(|i| {
        let pair = broadcast(&a, i)?.zip(broadcast(&b, i)?);
        Some(pair.and_then(|(a, b)| combine(&a, &b)))
    });
    Some(Sizes {
        scalar: a.scalar && b.scalar,
        items: items.collect::<Option<_>>()?,
    })
}

/// Element `i` of a vector, or the element of a scalar.
fn broadcast(sizes: &Sizes, i: usize) -> Option<Option<Size>> {
    let i = if sizes.items.len() == 1 { 0 } else { i };
    sizes.items.get(i).cloned()
}

/// Multiples of the same symbols add up.
fn sum(a: &Size, b: &Size, sign: i64) -> Option<Size> {
    match (a.as_known(), b.as_known()) {
        (Some(0), _) if sign == 1 => Some(b.clone()),
        (_, Some(0)) => Some(a.clone()),
        _ => a.plus(&b.times(&Size::known(sign))?),
    }
}

/// A symbol is a positive size, so it equals no number below one.
fn equals(a: &Size, b: &Size) -> Option<Size> {
    match (a.as_known(), b.as_known()) {
        (Some(a), Some(b)) => Some(Size::known((a == b).into())),
        (Some(number), None) | (None, Some(number)) if number < 1 => Some(Size::known(0)),
        _ => (a == b).then(|| Size::known(1)),
    }
}

/// `Where(condition, yes, no)`.
pub fn select(site: &Site<'_>) -> Option<Sizes> {
    let (condition, yes, no) = (input(site, 0)?, input(site, 1)?, input(site, 2)?);
    let len = [&condition, &yes, &no].map(|sizes| sizes.items.len());
    let items = (0..len.into_iter().max()?).map(|i| {
        let (yes, no) = (broadcast(&yes, i)?, broadcast(&no, i)?);
        Some(match broadcast(&condition, i)?.and_then(|c| c.as_known()) {
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

pub fn reduce_prod(site: &Site<'_>) -> Option<Sizes> {
    let sizes = input(site, 0)?;
    let all = sizes
        .items
        .iter()
        .try_fold(Size::known(1), |all, item| all.times(item.as_ref()?));
    Some(Sizes {
        scalar: site.node.int_or("keepdims", 1) == 0,
        items: vec![all],
    })
}

pub fn constant_of_shape(site: &Site<'_>) -> Option<Sizes> {
    let shape = input(site, 0)?;
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

pub fn expand(site: &Site<'_>) -> Option<Sizes> {
    let (sizes, shape) = (input(site, 0)?, input(site, 1)?);
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
