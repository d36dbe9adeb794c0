//! Ops that slide windows over the spatial axes, and those that resample them. Layout N, C,
//! spatial.

use super::site::{Inferred, Site, Stop, one, wrong};
use crate::onnx::graph::{Dim, Element, ValueType};
use crate::onnx::limits::LARGEST_SIZE;

/// Window attributes of one node, one entry per spatial axis; pads are all begins, then all ends.
struct Window {
    kernel: Vec<usize>,
    strides: Vec<usize>,
    dilations: Vec<usize>,
    pads: Vec<i64>,
    auto_pad: String,
}

fn window(site: &Site<'_>, kernel: Vec<usize>) -> Result<Window, Stop> {
    let rank = kernel.len();
    let positive = |name: &str| -> Result<Vec<usize>, Stop> {
        let Some(values) = site.node.ints(name) else {
            return Ok(vec![1; rank]);
        };
        let sizes: Vec<usize> = values
            .iter()
            .filter_map(|&v| usize::try_from(v).ok().filter(is_size))
            .collect();
        if sizes.len() != rank {
            wrong(format!("{name} must be {rank} positive numbers"))
        } else {
            Ok(sizes)
        }
    };
    let pads = site
        .node
        .ints("pads")
        .map_or(vec![0; 2 * rank], <[i64]>::to_vec);
    if pads.len() != 2 * rank
        || pads
            .iter()
            .any(|pad| pad.unsigned_abs() > LARGEST_SIZE as u64)
    {
        return wrong(format!("pads must be {} numbers", 2 * rank));
    }
    let auto_pad = site.node.string("auto_pad").unwrap_or("NOTSET").to_string();
    Ok(Window {
        strides: positive("strides")?,
        dilations: positive("dilations")?,
        kernel,
        pads,
        auto_pad,
    })
}

fn is_size(size: &usize) -> bool {
    (1..=LARGEST_SIZE).contains(size)
}

impl Window {
    /// Positions of the window along spatial `axis` of `dim`; none when `dim` is a symbol and
    /// windows change it.
    fn positions(&self, axis: usize, dim: &Dim, ceil: bool) -> Result<Option<Dim>, Stop> {
        let (stride, span) = (self.strides[axis] as i64, self.span(axis));
        let (begin, end) = (self.pads[axis], self.pads[axis + self.kernel.len()]);
        let same = self.auto_pad.starts_with("SAME");
        if *dim == Dim::Known(0) {
            return wrong(format!(
                "its input has no elements along spatial axis {axis}"
            ));
        }
        let Dim::Known(size) = dim else {
            let keeps = stride == 1
                && (same || (self.auto_pad == "NOTSET" && begin + end == span - 1) || span == 1);
            return Ok(keeps.then(|| dim.clone()));
        };
        let size = *size as i64;
        let positions = if same {
            (size + stride - 1) / stride
        } else {
            let padding = if self.auto_pad == "VALID" {
                0
            } else {
                begin + end
            };
            let room = size + padding - span;
            if room < 0 {
                return wrong(format!(
                    "a window of {span} does not fit into {size} + {padding} along spatial axis {axis}"
                ));
            }
            let floor = room / stride + 1;
            // A window that would start beyond input and begin padding is left out.
            let extra = ceil && room % stride != 0 && floor * stride < size + begin;
            floor + i64::from(extra)
        };
        Ok(Some(Dim::Known(usize::try_from(positions).unwrap_or(0))))
    }

    /// Input positions from the first tap to the last. Sizes are below 2^31: no product of two
    /// overflows.
    fn span(&self, axis: usize) -> i64 {
        (self.kernel[axis] as i64 - 1) * self.dilations[axis] as i64 + 1
    }

    fn apply(&self, site: &Site<'_>, spatial: &[Dim], ceil: bool) -> Result<Vec<Dim>, Stop> {
        let dims = spatial.iter().enumerate().map(|(axis, dim)| {
            Ok(self
                .positions(axis, dim, ceil)?
                .unwrap_or_else(|| site.fresh(axis + 2)))
        });
        dims.collect()
    }
}

/// Input and weight shapes of a convolution, with the kernel's sizes.
fn operands(site: &Site<'_>) -> Result<(ValueType, Vec<Dim>, Vec<usize>), Stop> {
    let (input, weight) = (site.value_type(0)?, site.shape(1)?);
    if input.shape.len() < 3 || weight.len() != input.shape.len() {
        return wrong(format!(
            "input of rank {} and weight of rank {} do not fit",
            input.shape.len(),
            weight.len()
        ));
    }
    let kernel = weight[2..]
        .iter()
        .map(Dim::known)
        .collect::<Option<Vec<_>>>()
        .ok_or(Stop::Unknown)?;
    if !kernel.iter().all(is_size) {
        return wrong("the weight is empty");
    }
    if site.node.ints("kernel_shape").is_some_and(|given| {
        !given
            .iter()
            .eq(kernel.iter().map(|&k| k as i64).collect::<Vec<_>>().iter())
    }) {
        return wrong("kernel_shape differs from the weight's shape");
    }
    Ok((input, weight, kernel))
}

fn group(site: &Site<'_>) -> Result<usize, Stop> {
    let group = site.node.int_or("group", 1);
    usize::try_from(group)
        .ok()
        .filter(is_size)
        .ok_or_else(|| Stop::Wrong(format!("group {group} is not positive")))
}

pub fn conv(site: &Site<'_>) -> Inferred {
    let (input, weight, kernel) = operands(site)?;
    if let (Dim::Known(channels), Dim::Known(per_group)) = (&input.shape[1], &weight[1]) {
        let expected = per_group.saturating_mul(group(site)?);
        if *channels != expected {
            return wrong(format!(
                "the weight asks for {expected} channels, the input has {channels}"
            ));
        }
    }
    let spatial = window(site, kernel)?.apply(site, &input.shape[2..], false)?;
    one(
        input.element,
        [vec![input.shape[0].clone(), weight[0].clone()], spatial].concat(),
    )
}

pub fn conv_transpose(site: &Site<'_>) -> Inferred {
    let (input, weight, kernel) = operands(site)?;
    let window = window(site, kernel)?;
    let rank = window.kernel.len();
    let channels = weight[1]
        .known()
        .map_or_else(|| Ok(site.fresh(1)), |c| Ok(Dim::Known(c * group(site)?)))?;
    let added = site
        .node
        .ints("output_padding")
        .map_or(vec![0; rank], <[i64]>::to_vec);
    if added.len() != rank
        || added
            .iter()
            .any(|pad| pad.unsigned_abs() > LARGEST_SIZE as u64)
    {
        return wrong(format!("output_padding must be {rank} numbers"));
    }
    let mut shape = vec![input.shape[0].clone(), channels];
    for (axis, dim) in input.shape[2..].iter().enumerate() {
        if let Some(given) = site
            .node
            .ints("output_shape")
            .and_then(|s| s.get(s.len().checked_sub(rank)? + axis))
        {
            shape.push(usize::try_from(*given).map_or_else(|_| site.fresh(axis + 2), Dim::Known));
            continue;
        }
        let stride = window.strides[axis] as i64;
        let span = window.span(axis);
        shape.push(match dim {
            Dim::Known(size) => {
                let full = (stride * (*size as i64 - 1)).saturating_add(added[axis] + span);
                let out = match window.auto_pad.as_str() {
                    "SAME_UPPER" | "SAME_LOWER" => *size as i64 * stride,
                    "VALID" => full,
                    _ => full - window.pads[axis] - window.pads[axis + rank],
                };
                usize::try_from(out)
                    .map(Dim::Known)
                    .or_else(|_| wrong("the output would have a negative size"))?
            }
            Dim::Symbol(_) => site.fresh(axis + 2),
        });
    }
    one(input.element, shape)
}

pub fn pool(site: &Site<'_>) -> Inferred {
    let input = site.value_type(0)?;
    let kernel = site.node.ints("kernel_shape").unwrap_or_default();
    let kernel: Vec<usize> = kernel
        .iter()
        .filter_map(|&k| usize::try_from(k).ok().filter(is_size))
        .collect();
    if kernel.is_empty() || input.shape.len() != kernel.len() + 2 {
        return wrong(format!(
            "kernel_shape does not fit an input of rank {}",
            input.shape.len()
        ));
    }
    let ceil = site.node.int_or("ceil_mode", 0) != 0;
    let window = window(site, kernel)?;
    for axis in 0..window.kernel.len() {
        let pad = window.pads[axis].max(window.pads[axis + window.kernel.len()]);
        if window.auto_pad == "NOTSET" && pad >= window.span(axis) {
            return wrong(format!(
                "pads of {pad} must be smaller than the window of {}",
                window.span(axis)
            ));
        }
    }
    let spatial = window.apply(site, &input.shape[2..], ceil)?;
    let shape = [&input.shape[..2], &spatial].concat();
    let indices = ValueType {
        element: Element::Int64,
        shape: shape.clone(),
    };
    Ok(vec![
        Some(ValueType {
            element: input.element,
            shape,
        }),
        Some(indices),
    ])
}

pub fn global_pool(site: &Site<'_>) -> Inferred {
    let input = site.value_type(0)?;
    let shape = input.shape.into_iter().enumerate();
    one(
        input.element,
        shape
            .map(|(axis, dim)| if axis < 2 { dim } else { Dim::Known(1) })
            .collect(),
    )
}

pub fn resize(site: &Site<'_>) -> Inferred {
    let input = site.value_type(0)?;
    let rank = input.shape.len();
    if site
        .node
        .string("keep_aspect_ratio_policy")
        .is_some_and(|policy| policy != "stretch")
    {
        return Err(Stop::Unknown);
    }
    let axes = match site.node.ints("axes") {
        Some(axes) => super::site::axes_of(axes, rank)?,
        None => (0..rank).collect(),
    };
    let mut shape = input.shape.clone();
    if site.has(3) {
        let sizes = site.sizes(3)?.items;
        for (size, &axis) in sizes.into_iter().zip(&axes) {
            shape[axis] = site.dim_of(size, axis);
        }
        return one(input.element, shape);
    }
    let scales = match site.node.floats("scales") {
        Some(scales) => scales.to_vec(),
        None => {
            let at = if site.has(2) { 2 } else { 1 };
            site.constant(at)
                .and_then(|literal| literal.to_f32s())
                .ok_or(Stop::Unknown)?
        }
    };
    if scales.len() != axes.len() {
        return wrong(format!("{} scales for {} axes", scales.len(), axes.len()));
    }
    for (&scale, &axis) in scales.iter().zip(&axes) {
        match &input.shape[axis] {
            Dim::Known(size) => shape[axis] = Dim::Known((*size as f32 * scale).floor() as usize),
            Dim::Symbol(_) if scale == 1.0 => {}
            Dim::Symbol(_) => shape[axis] = site.fresh(axis),
        }
    }
    one(input.element, shape)
}

pub fn blocks(site: &Site<'_>) -> Inferred {
    let input = site.value_type(0)?;
    let block = usize::try_from(site.node.int_or("blocksize", 0)).unwrap_or(0);
    let [batch, channels, height, width] = input.shape.as_slice() else {
        return wrong("the input must be of rank 4");
    };
    if !(1..=1 << 15).contains(&block) {
        return wrong("blocksize must be positive and small");
    }
    let to_space = site.node.is("DepthToSpace");
    let scale = |dim: &Dim, by: usize, up: bool, axis: usize| match dim {
        Dim::Known(size) if up => Ok(Dim::Known(size * by)),
        Dim::Known(size) if size % by == 0 => Ok(Dim::Known(size / by)),
        Dim::Known(size) => wrong(format!("{size} is not a multiple of {by}")),
        Dim::Symbol(_) => Ok(site.fresh(axis)),
    };
    let shape = vec![
        batch.clone(),
        scale(channels, block * block, !to_space, 1)?,
        scale(height, block, to_space, 2)?,
        scale(width, block, to_space, 3)?,
    ];
    one(input.element, shape)
}

/// The grid `[batch, sizes, rank]` names a place for each pixel.
pub fn grid_sample(site: &Site<'_>) -> Inferred {
    let (input, grid) = (site.value_type(0)?, site.shape(1)?);
    if input.shape.len() < 3 || grid.len() != input.shape.len() {
        return wrong("input and grid must have one rank");
    }
    one(
        input.element,
        [&input.shape[..2], &grid[1..grid.len() - 1]].concat(),
    )
}

/// Blocks `[batch, channels * block, blocks]` become images.
pub fn col_2_im(site: &Site<'_>) -> Inferred {
    let (input, image, block) = (site.value_type(0)?, site.ints(1)?, site.ints(2)?);
    let [batch, channels, _] = input.shape.as_slice() else {
        return wrong("the input must be of rank 3");
    };
    let size = |&size: &i64| usize::try_from(size).ok().filter(is_size);
    let places = block
        .iter()
        .map(size)
        .try_fold(1, |all: usize, size| all.checked_mul(size?));
    let sizes = image.iter().map(size).collect::<Option<Vec<_>>>();
    let (Some(places), Some(sizes), true) = (places, sizes, image.len() == block.len()) else {
        return wrong("image and block must be of as many positive numbers");
    };
    let channels = match channels {
        Dim::Known(channels) if channels.is_multiple_of(places) => Dim::Known(channels / places),
        Dim::Known(channels) => {
            return wrong(format!("{channels} channels are no blocks of {places}"));
        }
        Dim::Symbol(_) => site.fresh(1),
    };
    let mut shape = vec![batch.clone(), channels];
    shape.extend(sizes.into_iter().map(Dim::Known));
    one(input.element, shape)
}
