//! Ops that move, cut, join or repeat elements, and those that make a tensor from a shape.

use super::site::{Inferred, Site, Stop, axes_of, axis_of, one, wrong};
use super::size::{Size, product};
use crate::onnx::graph::{Dim, Element, Literal, ValueType};
use crate::onnx::limits::LARGEST_RANK;

pub fn reshape(site: &Site<'_>) -> Inferred {
    let input = site.value_type(0)?;
    let wanted = match site.node.ints("shape") {
        Some(shape) => shape.iter().map(|&d| Some(Size::known(d))).collect(),
        None => match site.sizes(1) {
            Ok(sizes) => sizes.items,
            // The rank at least is the length of the shape.
            Err(_) => match site.shape(1)?.as_slice() {
                [Dim::Known(rank)] if *rank <= LARGEST_RANK => vec![None; *rank],
                _ => return Err(Stop::Unknown),
            },
        },
    };
    let keeps_zero = site.node.int_or("allowzero", 0) != 0;
    let mut shape = Vec::new();
    let mut open = None;
    for (axis, size) in wanted.into_iter().enumerate() {
        shape.push(match size.as_ref().and_then(Size::as_known) {
            Some(0) if !keeps_zero => match input.shape.get(axis) {
                Some(dim) => dim.clone(),
                None => {
                    return wrong(format!(
                        "shape copies axis {axis} of an input of rank {}",
                        input.shape.len()
                    ));
                }
            },
            Some(-1) if open.replace(axis).is_some() => {
                return wrong("shape leaves two sizes open");
            }
            Some(-1) => Dim::Known(1),
            _ => site.dim_of(size, axis),
        });
    }
    let (have, given) = (product(&input.shape), product(&shape));
    if let Some(axis) = open {
        shape[axis] = site.dim_of(
            have.as_ref().and_then(|have| have.over(given.as_ref()?)),
            axis,
        );
    }
    let known = |size: Option<Size>| size.and_then(|size| size.as_known());
    match (known(have), known(product(&shape))) {
        (Some(have), Some(given)) if have != given => {
            wrong(format!("{have} elements do not fit the shape of {given}"))
        }
        _ => one(input.element, shape),
    }
}

pub fn flatten(site: &Site<'_>) -> Inferred {
    let input = site.value_type(0)?;
    let rank = input.shape.len();
    let axis = site.node.int_or("axis", 1);
    let axis = if axis == rank as i64 {
        rank
    } else {
        axis_of(axis, rank)?
    };
    let (rows, columns) = (product(&input.shape[..axis]), product(&input.shape[axis..]));
    one(
        input.element,
        vec![site.dim_of(rows, 0), site.dim_of(columns, 1)],
    )
}

pub fn squeeze(site: &Site<'_>) -> Inferred {
    let input = site.value_type(0)?;
    let axes = match site.ints_of("axes", 1)? {
        Some(axes) => axes_of(&axes, input.shape.len())?,
        None if input.known_shape().is_none() => return Err(Stop::Unknown),
        None => (0..input.shape.len())
            .filter(|&axis| input.shape[axis] == Dim::Known(1))
            .collect(),
    };
    if let Some(axis) = axes
        .iter()
        .find(|&&axis| input.shape[axis].known().is_some_and(|size| size != 1))
    {
        return wrong(format!(
            "axis {axis} has size {}, not 1",
            input.shape[*axis]
        ));
    }
    let kept = input
        .shape
        .into_iter()
        .enumerate()
        .filter(|(axis, _)| !axes.contains(axis));
    one(input.element, kept.map(|(_, dim)| dim).collect())
}

pub fn unsqueeze(site: &Site<'_>) -> Inferred {
    let input = site.value_type(0)?;
    let Some(axes) = site.ints_of("axes", 1)? else {
        return wrong("axes are missing");
    };
    if axes.len() > LARGEST_RANK {
        return wrong(format!(
            "{} axes, and at most {LARGEST_RANK} are supported",
            axes.len()
        ));
    }
    let mut axes = axes_of(&axes, input.shape.len() + axes.len())?;
    axes.sort_unstable();
    let mut shape = input.shape;
    for axis in axes {
        if axis > shape.len() {
            return wrong("an axis is given twice");
        }
        shape.insert(axis, Dim::Known(1));
    }
    one(input.element, shape)
}

pub fn transpose(site: &Site<'_>) -> Inferred {
    let input = site.value_type(0)?;
    let rank = input.shape.len();
    let perm = match site.node.ints("perm") {
        Some(perm) => axes_of(perm, rank)?,
        None => (0..rank).rev().collect(),
    };
    if (0..rank).any(|axis| !perm.contains(&axis)) || perm.len() != rank {
        return wrong(format!("perm {perm:?} is no permutation of {rank} axes"));
    }
    one(
        input.element,
        perm.into_iter()
            .map(|axis| input.shape[axis].clone())
            .collect(),
    )
}

pub fn concat(site: &Site<'_>) -> Inferred {
    let element = site.element(0)?;
    let parts = (0..site.node.inputs.len())
        .map(|i| site.shape(i))
        .collect::<Result<Vec<_>, _>>()?;
    let axis = axis_of(site.node.int_or("axis", 1), parts[0].len())?;
    let mut shape = parts[0].clone();
    for part in &parts[1..] {
        if part.len() != shape.len() {
            return wrong(format!("ranks {} and {} differ", shape.len(), part.len()));
        }
        for other in (0..shape.len()).filter(|&other| other != axis) {
            match (&shape[other], &part[other]) {
                (Dim::Known(a), Dim::Known(b)) if a != b => {
                    return wrong(format!("sizes {a} and {b} along axis {other} differ"));
                }
                (Dim::Symbol(_), Dim::Known(size)) => shape[other] = Dim::Known(*size),
                _ => {}
            }
        }
    }
    let total = parts
        .iter()
        .map(|part| part[axis].known())
        .sum::<Option<usize>>();
    shape[axis] = total.map_or_else(|| site.fresh(axis), Dim::Known);
    one(element, shape)
}

pub fn split(site: &Site<'_>) -> Inferred {
    let input = site.value_type(0)?;
    let axis = axis_of(site.node.int_or("axis", 0), input.shape.len())?;
    let count = site.node.outputs.len();
    let parts: Vec<Dim> = match (site.ints_of("split", 1)?, &input.shape[axis]) {
        (Some(parts), dim) => {
            let sizes = parts
                .iter()
                .map(|&p| usize::try_from(p))
                .collect::<Result<Vec<_>, _>>();
            let Ok(sizes) = sizes else {
                return wrong("split sizes must not be negative");
            };
            if sizes.len() != count
                || dim.known().is_some_and(|size| {
                    sizes
                        .iter()
                        .fold(0, |sum: usize, size| sum.saturating_add(*size))
                        != size
                })
            {
                return wrong(format!(
                    "split {sizes:?} does not fit size {dim} and {count} outputs"
                ));
            }
            sizes.into_iter().map(Dim::Known).collect()
        }
        (None, Dim::Known(size)) => {
            let chunk = size.div_ceil(count.max(1));
            (0..count)
                .map(|i| Dim::Known(chunk.min(size.saturating_sub(i * chunk))))
                .collect()
        }
        (None, Dim::Symbol(_)) => return Err(Stop::Unknown),
    };
    let typed = |part: Dim| {
        let mut shape = input.shape.clone();
        shape[axis] = part;
        Some(ValueType {
            element: input.element,
            shape,
        })
    };
    Ok(parts.into_iter().map(typed).collect())
}

/// First index, last index and number of elements of a slice along an axis of `size`.
pub fn slice_range(size: i64, start: i64, end: i64, step: i64) -> (i64, i64, i64) {
    let wrap = |at: i64| if at < 0 { at.saturating_add(size) } else { at };
    let (low, high) = if step > 0 { (0, size) } else { (-1, size - 1) };
    let (start, end) = (
        wrap(start).clamp(low.max(0), high.max(0)),
        wrap(end).clamp(low, high),
    );
    let span = if step > 0 { end - start } else { start - end };
    let count = if span <= 0 {
        0
    } else {
        (span - 1) / step.saturating_abs() + 1
    };
    (start, start + (count - 1).max(0) * step, count)
}

pub fn slice(site: &Site<'_>) -> Inferred {
    let input = site.value_type(0)?;
    let unknown = || {
        let count = site.shape(1).ok().and_then(|shape| shape.first()?.known());
        count.filter(|&count| count <= LARGEST_RANK)
    };
    let ends_of = |name: &str, at: usize| -> Result<Option<Vec<Option<Size>>>, Stop> {
        match site.node.ints(name) {
            Some(values) => Ok(Some(values.iter().map(|&v| Some(Size::known(v))).collect())),
            None if !site.has(at) => Ok(None),
            None => match (site.ints(at), site.sizes(at), unknown()) {
                (Ok(ints), ..) => Ok(Some(
                    ints.into_iter().map(|v| Some(Size::known(v))).collect(),
                )),
                (_, Ok(sizes), _) => Ok(Some(sizes.items)),
                (.., Some(count)) => Ok(Some(vec![None; count])),
                _ => Err(Stop::Unknown),
            },
        }
    };
    let (Some(starts), Some(ends)) = (ends_of("starts", 1)?, ends_of("ends", 2)?) else {
        return wrong("starts or ends are missing");
    };
    let axes = site
        .ints_of("axes", 3)?
        .unwrap_or_else(|| (0..starts.len() as i64).collect());
    let axes = axes_of(&axes, input.shape.len())?;
    let steps = if site.has(4) {
        site.ints(4)?
    } else {
        vec![1; axes.len()]
    };
    if [starts.len(), ends.len(), steps.len()] != [axes.len(); 3] || steps.contains(&0) {
        return wrong("starts, ends, axes and steps do not fit each other");
    }
    let mut shape = input.shape;
    for (i, &axis) in axes.iter().enumerate() {
        let number = |end: &Option<Size>| end.as_ref().and_then(Size::as_known);
        let (start, end) = (number(&starts[i]), number(&ends[i]));
        let to_the_end = |dim: &Dim| {
            end.is_some_and(|end| end >= i64::from(i32::MAX)) || ends[i] == Some(Size::from(dim))
        };
        shape[axis] = match (&shape[axis], start, end) {
            (Dim::Known(size), Some(start), Some(end)) => {
                Dim::Known(slice_range(*size as i64, start, end, steps[i]).2 as usize)
            }
            (dim, Some(0), _) if steps[i] == 1 && to_the_end(dim) => dim.clone(),
            _ => site.fresh(axis),
        };
    }
    one(input.element, shape)
}

pub fn gather(site: &Site<'_>) -> Inferred {
    let (input, indices) = (site.value_type(0)?, site.shape(1)?);
    let axis = axis_of(site.node.int_or("axis", 0), input.shape.len())?;
    one(
        input.element,
        [&input.shape[..axis], &indices, &input.shape[axis + 1..]].concat(),
    )
}

pub fn gather_elements(site: &Site<'_>) -> Inferred {
    one(site.element(0)?, site.shape(1)?)
}

pub fn gather_nd(site: &Site<'_>) -> Inferred {
    let (input, indices) = (site.value_type(0)?, site.shape(1)?);
    let batch = usize::try_from(site.node.int_or("batch_dims", 0)).unwrap_or(0);
    let depth = indices.last().and_then(Dim::known).ok_or(Stop::Unknown)?;
    let Some(rest) = input.shape.get(batch.saturating_add(depth)..) else {
        return wrong("indices are deeper than the input");
    };
    one(
        input.element,
        [&indices[..indices.len() - 1], rest].concat(),
    )
}

pub fn pad(site: &Site<'_>) -> Inferred {
    let input = site.value_type(0)?;
    let Some(pads) = site.ints_of("pads", 1)? else {
        return wrong("pads are missing");
    };
    let rank = input.shape.len();
    let axes = if site.has(3) {
        axes_of(&site.ints(3)?, rank)?
    } else {
        (0..rank).collect()
    };
    if pads.len() != 2 * axes.len() {
        return wrong(format!("{} pads for {} axes", pads.len(), axes.len()));
    }
    let mut shape = input.shape;
    for (i, &axis) in axes.iter().enumerate() {
        let added = pads[i].saturating_add(pads[i + axes.len()]);
        shape[axis] = match &shape[axis] {
            dim if added == 0 => dim.clone(),
            Dim::Known(size) => match usize::try_from((*size as i64).saturating_add(added)) {
                Ok(size) => Dim::Known(size),
                Err(_) => return wrong("pads cut away more than there is"),
            },
            Dim::Symbol(_) => site.fresh(axis),
        };
    }
    one(input.element, shape)
}

pub fn expand(site: &Site<'_>) -> Inferred {
    let input = site.value_type(0)?;
    let sizes = site.sizes(1)?.items;
    let target = sizes
        .into_iter()
        .enumerate()
        .map(|(axis, size)| site.dim_of(size, axis))
        .collect();
    one(input.element, site.broadcast(&[input.shape, target])?)
}

pub fn tile(site: &Site<'_>) -> Inferred {
    let input = site.value_type(0)?;
    let repeats = site.sizes(1)?.items;
    if repeats.len() != input.shape.len() {
        return wrong(format!(
            "{} repeats for rank {}",
            repeats.len(),
            input.shape.len()
        ));
    }
    let mut shape = Vec::with_capacity(repeats.len());
    for (axis, (dim, count)) in input.shape.iter().zip(repeats).enumerate() {
        let size = count
            .as_ref()
            .and_then(|count| Size::from(dim).times(count));
        if let (None, Dim::Known(size), Some(count)) =
            (&size, dim, count.as_ref().and_then(Size::as_known))
        {
            return wrong(format!(
                "{size} elements {count} times along axis {axis} are too many"
            ));
        }
        shape.push(site.dim_of(size, axis));
    }
    one(input.element, shape)
}

/// The number of elements.
pub fn size(_: &Site<'_>) -> Inferred {
    one(Element::Int64, vec![])
}

pub fn shape_of(site: &Site<'_>) -> Inferred {
    let rank = site.shape(0)?.len();
    one(
        Element::Int64,
        vec![Dim::Known(shape_range(site, rank).len())],
    )
}

/// The axes that a Shape node asks for.
pub fn shape_range(site: &Site<'_>, rank: usize) -> std::ops::Range<usize> {
    let wrap = |at: i64| {
        if at < 0 {
            at.saturating_add(rank as i64)
        } else {
            at
        }
        .clamp(0, rank as i64) as usize
    };
    let start = wrap(site.node.int_or("start", 0));
    start..wrap(site.node.int_or("end", rank as i64)).max(start)
}

pub fn constant_of_shape(site: &Site<'_>) -> Inferred {
    let element = site
        .node
        .tensor("value")
        .map_or(Element::Float, |value| value.element);
    let sizes = site.sizes(0)?.items;
    one(
        element,
        sizes
            .into_iter()
            .enumerate()
            .map(|(axis, size)| site.dim_of(size, axis))
            .collect(),
    )
}

pub fn one_hot(site: &Site<'_>) -> Inferred {
    let (mut shape, element) = (site.shape(0)?, site.element(2)?);
    let axis = axis_of(site.node.int_or("axis", -1), shape.len() + 1)?;
    let depth = site.sizes(1)?.items.into_iter().next().flatten();
    shape.insert(axis, site.dim_of(depth, axis));
    one(element, shape)
}

pub fn range(site: &Site<'_>) -> Inferred {
    let element = site.element(0)?;
    let bounds = match (site.sizes(0), site.sizes(1), site.sizes(2)) {
        (Ok(start), Ok(limit), Ok(step)) => {
            [start, limit, step].map(|s| s.as_known().and_then(|v| v.first().copied()))
        }
        _ => [None; 3],
    };
    let count = match bounds {
        [Some(start), Some(limit), Some(step)] => limit.checked_sub(start).and_then(|span| {
            let partial = span.checked_rem(step)? != 0 && (span > 0) == (step > 0);
            Some(Size::known(
                (span.checked_div(step)? + i64::from(partial)).max(0),
            ))
        }),
        _ => None,
    };
    one(element, vec![site.dim_of(count, 0)])
}

/// Whether the output has the type of the input: for ops that then hand it on.
pub fn same_type(site: &Site<'_>) -> bool {
    let before = site.node.input(0).and_then(|input| site.types.get(input));
    let after = site
        .node
        .output(0)
        .and_then(|output| site.types.get(output));
    before.is_some() && before == after
}

pub fn always(_: &Site<'_>) -> bool {
    true
}

/// Whether a Slice cuts nothing away and turns nothing around.
pub fn slices_nothing(site: &Site<'_>) -> bool {
    same_type(site) && (!site.has(4) || is_all(site, 4, 1))
}

pub fn pads_nothing(site: &Site<'_>) -> bool {
    is_all(site, 1, 0)
}

pub fn joins_nothing(site: &Site<'_>) -> bool {
    site.node.inputs.len() == 1
}

fn is_all(site: &Site<'_>, index: usize, value: i64) -> bool {
    let numbers = site.constant(index).and_then(Literal::to_i64s);
    numbers.is_some_and(|numbers| numbers.iter().all(|&number| number == value))
}
