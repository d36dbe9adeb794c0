//! Resize. Nearest neighbour by whole factors sums windows; everything else is a product with the
//! matrix of the interpolation along each axis, and the gradient one with its transpose. Weights
//! follow the definition of ONNX; coordinates are computed in float32, as by ONNX Runtime, because
//! the nearest pixel is decided by their last bit.

use super::matrix::batched;
use crate::autodiff::{
    DeriveError,
    context::{Cotangents, VjpContext},
    emit::{attributes, ints},
};
use crate::onnx::graph::{Dim, Node};

pub(crate) fn resize(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let (dy, x, y) = (ctx.cotangent()?, ctx.input(0)?, ctx.output());
    let (from, to) = (ctx.emit.shape(&x)?, ctx.emit.shape(&y)?);
    let kernel = Kernel::of(ctx.node).map_err(|reason| ctx.refusal(reason))?;
    let scales = scales(ctx, &from, &to)?;
    if let Some(factors) = kernel.copies(&scales) {
        return window_sums(ctx, &factors);
    }
    let mut dx = dy;
    for (axis, scale) in scales
        .into_iter()
        .enumerate()
        .filter(|(_, scale)| *scale != 1.0)
    {
        let (Some(from), Some(to)) = (from[axis].known(), to[axis].known()) else {
            return Err(ctx.refusal("it resizes the batch"));
        };
        ctx.fits_constant(&[from, to])?;
        let mut matrix = vec![0.0; from * to];
        for position in 0..to {
            for (pixel, weight) in kernel.taps(position, scale, from, to) {
                matrix[position * from + pixel] += weight as f32;
            }
        }
        dx = along(ctx, &dx, axis, &matrix, [to, from])?;
    }
    Ok(Cotangents::first(dx))
}

/// How the elements of an axis are interpolated.
struct Kernel {
    coordinates: Coordinates,
    filter: Filter,
    /// Whether a filter is widened by the factor by which it shrinks an axis.
    antialias: bool,
    /// Whether what lies outside has no weight.
    inside_only: bool,
}

enum Coordinates {
    HalfPixel,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
}

enum Filter {
    Nearest(fn(f32) -> f32),
    Linear,
    Cubic { a: f64 },
}

impl Kernel {
    fn of(node: &Node) -> Result<Self, String> {
        let coordinates = match node
            .string("coordinate_transformation_mode")
            .unwrap_or("half_pixel")
        {
            "half_pixel" => Coordinates::HalfPixel,
            "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
            "align_corners" => Coordinates::AlignCorners,
            "asymmetric" => Coordinates::Asymmetric,
            other => {
                return Err(format!(
                    "coordinate_transformation_mode {other} is not derived"
                ));
            }
        };
        let filter = match node.string("mode").unwrap_or("nearest") {
            "nearest" => Filter::Nearest(rounding(node)?),
            "linear" => Filter::Linear,
            "cubic" => Filter::Cubic {
                a: node.float_or("cubic_coeff_a", -0.75).into(),
            },
            other => return Err(format!("mode {other} is not derived")),
        };
        Ok(Self {
            coordinates,
            filter,
            antialias: node.int_or("antialias", 0) != 0,
            inside_only: node.int_or("exclude_outside", 0) != 0,
        })
    }

    /// Where `position` of the result lies on the axis of the input.
    fn coordinate(&self, position: usize, scale: f32, from: usize, to: usize) -> f32 {
        let position = position as f32;
        match self.coordinates {
            Coordinates::PytorchHalfPixel if to <= 1 => 0.0,
            Coordinates::HalfPixel | Coordinates::PytorchHalfPixel => {
                (position + 0.5) / scale - 0.5
            }
            Coordinates::AlignCorners if to == 1 => 0.0,
            Coordinates::AlignCorners => position * (from as f32 - 1.0) / (to as f32 - 1.0),
            Coordinates::Asymmetric => position / scale,
        }
    }

    /// The elements of the input that `position` of the result is made of, and their weights. What
    /// lies outside is the element at the border.
    fn taps(&self, position: usize, scale: f32, from: usize, to: usize) -> Vec<(usize, f64)> {
        let x = self.coordinate(position, scale, from, to);
        let last = from as i64 - 1;
        let at = |pixel: i64| pixel.clamp(0, last) as usize;
        let (reach, x, inside_only) = match self.filter {
            Filter::Nearest(round) => return vec![(at(round(x) as i64), 1.0)],
            Filter::Linear if self.antialias => (1.0, x, self.inside_only),
            Filter::Linear => (1.0, x.clamp(0.0, last as f32), false),
            Filter::Cubic { .. } => (2.0, x, self.inside_only),
        };
        let widened = match self.antialias && scale < 1.0 {
            true => 1.0 / scale,
            false => 1.0,
        };
        let (first, end) = (
            (x - reach * widened).floor() as i64 + 1,
            (x + reach * widened).floor() as i64 + 1,
        );
        let weight = |pixel: i64| {
            let distance = (pixel as f64 - f64::from(x)) / f64::from(widened);
            match self.filter {
                Filter::Cubic { a } => cubic(distance, a),
                _ => (1.0 - distance.abs()).max(0.0),
            }
        };
        let taps = (first..end).filter(|pixel| !inside_only || (0..=last).contains(pixel));
        let taps: Vec<_> = taps.map(|pixel| (at(pixel), weight(pixel))).collect();
        let total: f64 = taps.iter().map(|(_, weight)| weight).sum();
        taps.into_iter()
            .map(|(pixel, weight)| (pixel, weight / total))
            .collect()
    }

    /// The factors by which nearest neighbour copies each pixel of an image, where they are whole.
    fn copies(&self, scales: &[f32]) -> Option<Vec<usize>> {
        let Filter::Nearest(round) = self.filter else {
            return None;
        };
        let aligned = match self.coordinates {
            Coordinates::Asymmetric => round(0.9) == 0.0,
            Coordinates::HalfPixel => round(0.4) == 0.0 && round(0.6) == 1.0,
            Coordinates::PytorchHalfPixel | Coordinates::AlignCorners => false,
        };
        let [1.0, 1.0, height, width] = scales else {
            return None;
        };
        let whole = |scale: &f32| scale.fract() == 0.0;
        let copied = aligned && whole(height) && whole(width);
        copied.then(|| vec![*height as usize, *width as usize])
    }
}

/// How a coordinate is rounded to the nearest pixel.
fn rounding(node: &Node) -> Result<fn(f32) -> f32, String> {
    match node.string("nearest_mode").unwrap_or("round_prefer_floor") {
        "round_prefer_floor" => Ok(|x| (x - 0.5).ceil()),
        "round_prefer_ceil" => Ok(f32::round),
        "floor" => Ok(f32::floor),
        "ceil" => Ok(f32::ceil),
        other => Err(format!("nearest_mode {other} is not derived")),
    }
}

/// The convolution kernel of Keys (1981) with parameter a.
fn cubic(distance: f64, a: f64) -> f64 {
    let x = distance.abs();
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
    } else {
        0.0
    }
}

/// The factor along each axis: as given, or the quotient of the sizes.
fn scales(ctx: &VjpContext, from: &[Dim], to: &[Dim]) -> Result<Vec<f32>, DeriveError> {
    let mut scales = vec![1.0; from.len()];
    if ctx.optional(3).is_some() {
        for (scale, (from, to)) in scales.iter_mut().zip(from.iter().zip(to)) {
            match (from.known(), to.known()) {
                (Some(from), Some(to)) => *scale = to as f32 / from as f32,
                _ if from == to => {}
                _ => return Err(ctx.refusal("it resizes the batch")),
            }
        }
        return Ok(scales);
    }
    let given = ctx.constant_f32(2)?.unwrap_or_default();
    let axes = match ctx.node.ints("axes") {
        Some(axes) => axes.to_vec(),
        None => (0..from.len() as i64).collect(),
    };
    for (axis, scale) in axes.into_iter().zip(given) {
        scales[ctx.axis(axis, from.len())?] = scale;
    }
    Ok(scales)
}

/// Multiplies `axis` of `dy` by a matrix `[to, from]`.
fn along(
    ctx: &mut VjpContext,
    dy: &str,
    axis: usize,
    matrix: &[f32],
    [to, from]: [usize; 2],
) -> Result<String, DeriveError> {
    let emit = &mut *ctx.emit;
    let last = emit.shape(dy)?.len() - 1;
    if axis + 1 == last {
        let turned: Vec<f32> = (0..from * to)
            .map(|i| matrix[i % to * from + i / to])
            .collect();
        let turned = emit.floats(&[from, to], &turned, dy)?;
        return batched(emit, &turned, dy);
    }
    let mut perm: Vec<usize> = (0..=last).collect();
    perm.swap(axis, last);
    let matrix = emit.floats(&[to, from], matrix, dy)?;
    let turned = emit.transpose(dy, &perm)?;
    let product = batched(emit, &turned, &matrix)?;
    emit.transpose(&product, &perm)
}

/// The copies of a pixel form a window, which is summed by AveragePool times its size.
fn window_sums(ctx: &mut VjpContext, factors: &[usize]) -> Result<Cotangents, DeriveError> {
    let (dy, x) = (ctx.cotangent()?, ctx.input(0)?);
    let output = ctx.emit.value_type(&x)?;
    let window = attributes([
        ("kernel_shape", ints(factors.iter().copied())),
        ("strides", ints(factors.iter().copied())),
    ]);
    let mean = ctx.emit.node("AveragePool", &[&dy], window, output);
    let size: usize = factors.iter().product();
    Ok(Cotangents::first(ctx.emit.scale(&mean, size as f32)?))
}
