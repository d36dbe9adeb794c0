//! Pools. Kinks: a max-pool tie goes to the first maximum in row-major order, as PyTorch does; a norm
//! passes nothing where all of its window is zero.
//! MaxUnpool and Col2Im are never emitted: the first overwrites where windows overlap, neither
//! exists on CUDA.

use super::{
    convolution::input_gradient,
    reduction::{first_extreme, or_one},
    window::Window,
};
use crate::autodiff::{
    DeriveError,
    context::{Cotangents, VjpContext},
    emit::{Emitter, attributes},
    expr::Expr,
};
use crate::onnx::graph::{Dim, Element, Literal, ValueType};

pub(crate) fn max_pool(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let (dy, x) = (ctx.cotangent()?, ctx.input(0)?);
    let window = Window::of(ctx, kernel(ctx)?, &ctx.emit.sizes(&x, 2)?)?;
    let ceil = ctx.node.int_or("ceil_mode", 0);
    let dx = max_pool_gradient(ctx.emit, &x, &ctx.node.outputs[0], &dy, &window, ceil)?;
    Ok(Cotangents::first(dx))
}

/// A second pool for the indices (as an output of the forward pool they make it eight times
/// slower), and a scatter-add over all elements.
fn max_pool_gradient(
    emit: &mut Emitter,
    x: &str,
    y: &str,
    dy: &str,
    window: &Window,
    ceil_mode: i64,
) -> Result<String, DeriveError> {
    let (x_type, y_type) = (emit.value_type(x)?, emit.value_type(y)?);
    let mut pool = window.attributes();
    pool.insert("ceil_mode".into(), ceil_mode.into());
    let index_type = ValueType::new(Element::Int64, y_type.shape.clone());
    let indices = emit
        .node_with_outputs("MaxPool", &[x], pool, vec![y_type, index_type])
        .remove(1);
    let flat = |value: &str| [Dim::Symbol(format!("{value} elements"))];
    let indices = emit.reshape(&indices, &flat(y))?;
    let dy = emit.reshape(dy, &flat(y))?;
    let zeros = emit.zeros_like(x)?;
    let zeros = emit.reshape(&zeros, &flat(x))?;
    let scatter = attributes([("axis", 0.into()), ("reduction", "add".into())]);
    let flat_type = emit.value_type(&zeros)?;
    let dx = emit.node(
        "ScatterElements",
        &[&zeros, &indices, &dy],
        scatter,
        flat_type,
    );
    emit.reshape(&dx, &x_type.shape)
}

pub(crate) fn average_pool(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let (dy, x, y) = (ctx.cotangent()?, ctx.input(0)?, ctx.output());
    let (sizes, positions) = (ctx.emit.sizes(&x, 2)?, ctx.emit.sizes(&y, 2)?);
    let window = Window::of(ctx, kernel(ctx)?, &sizes)?;
    let include_pad = ctx.node.int_or("count_include_pad", 0) != 0;
    let x_type = ctx.emit.value_type(&x)?;
    let mut shape = vec![1, 1];
    shape.extend(&positions);
    ctx.fits_constant(&shape)?;
    let shares = shares(&window, &sizes, &positions, include_pad);
    let share = match shares.iter().all(|share| *share == shares[0]) {
        true => ctx.emit.scalar(shares[0], &dy)?,
        false => ctx.emit.floats(&shape, &shares, &dy)?,
    };
    let dy = ctx.emit.mul(&dy, &share)?;
    Ok(Cotangents::first(window_sums(ctx, &dy, &window, x_type)?))
}

/// 1 / (number of elements that a window averages), for every window in row-major order.
fn shares(window: &Window, sizes: &[usize], positions: &[usize], include_pad: bool) -> Vec<f32> {
    let mut shares = vec![1.0];
    for axis in 0..window.rank() {
        let (front, size) = (window.begin[axis], sizes[axis]);
        let (low, high) = if include_pad {
            (0, front + size + window.end[axis])
        } else {
            (front, front + size)
        };
        let count = |position: usize| {
            let first = position * window.strides[axis];
            // Taps before `end`.
            let before = |end: usize| end.saturating_sub(first).div_ceil(window.dilations[axis]);
            before(high)
                .min(window.kernel[axis])
                .saturating_sub(before(low))
        };
        let counts: Vec<f32> = (0..positions[axis])
            .map(|position| count(position) as f32)
            .collect();
        shares = shares
            .iter()
            .flat_map(|share| counts.iter().map(move |count| share / count))
            .collect();
    }
    shares
}

/// Adds every element of dy to all inputs of its window: the transpose of a sum over windows.
fn window_sums(
    ctx: &mut VjpContext,
    dy: &str,
    window: &Window,
    x: ValueType,
) -> Result<String, DeriveError> {
    let emit = &mut *ctx.emit;
    let (sizes, positions) = (
        emit.sizes(dy, 2)?,
        x.shape[2..]
            .iter()
            .filter_map(Dim::known)
            .collect::<Vec<_>>(),
    );
    if window.tiles(&positions) && sizes.len() == 2 {
        return enlarge(emit, dy, &window.kernel, x);
    }
    let channels = emit.size(dy, 1)?;
    let mut shape = vec![channels, 1];
    shape.extend(&window.kernel);
    ctx.fits_constant(&shape)?;
    let emit = &mut *ctx.emit;
    let ones = emit.constant(Literal::from_f64s(
        x.element,
        &shape,
        &vec![1.0; shape.iter().product()],
    ));
    input_gradient(emit, dy, &ones, channels, window, x)
}

/// Repeats every pixel `factors` times per spatial axis.
pub(crate) fn enlarge(
    emit: &mut Emitter,
    dy: &str,
    factors: &[usize],
    output: ValueType,
) -> Result<String, DeriveError> {
    let scales: Vec<f32> = [1.0, 1.0]
        .into_iter()
        .chain(factors.iter().map(|&factor| factor as f32))
        .collect();
    let scales = emit.constant(Literal::from_f32s(&[scales.len()], &scales));
    let nearest = attributes([
        ("mode", "nearest".into()),
        ("coordinate_transformation_mode", "asymmetric".into()),
        ("nearest_mode", "floor".into()),
    ]);
    Ok(emit.node("Resize", &[dy, "", &scales], nearest, output))
}

pub(crate) fn global_average_pool(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let (dy, x) = (ctx.cotangent()?, ctx.input(0)?);
    let pixels: usize = ctx.emit.sizes(&x, 2)?.iter().product();
    let share = ctx.emit.scale(&dy, 1.0 / pixels as f32)?;
    let shape = ctx.emit.shape(&x)?;
    Ok(Cotangents::first(ctx.emit.expand(&share, &shape)?))
}

/// y = (Σ |x|^p)^(1/p) over windows, which pads leave as they are.
pub(crate) fn lp_pool(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let x = ctx.input(0)?;
    let window = Window::of(ctx, kernel(ctx)?, &ctx.emit.sizes(&x, 2)?)?;
    let x_type = ctx.emit.value_type(&x)?;
    let norm = Norm::of(ctx)?;
    let share = norm.share.emit(ctx.emit)?;
    let sums = window_sums(ctx, &share, &window, x_type)?;
    ctx.emit_active([Expr::value(sums) * norm.slope])
}

pub(crate) fn global_lp_pool(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let norm = Norm::of(ctx)?;
    ctx.emit_active([norm.share * norm.slope])
}

/// The derivative of y = (Σ |x|^p)^(1/p) is dy y^(1-p) times |x|^(p-1) sign(x); zero where all x are.
struct Norm {
    /// dy y^(1-p), in the shape of y.
    share: Expr,
    /// |x|^(p-1) sign(x).
    slope: Expr,
}

impl Norm {
    fn of(ctx: &VjpContext) -> Result<Self, DeriveError> {
        let [dy, x, y] = [ctx.cotangent()?, ctx.input(0)?, ctx.output()].map(Expr::value);
        let (share, slope) = match ctx.node.int_or("p", 2) {
            1 => (dy, x.sign()),
            2 => (dy / or_one(&y), x),
            p @ 3.. => {
                let rest = (p - 1) as f32;
                (dy / or_one(&y).pow(rest), x.abs().pow(rest) * x.sign())
            }
            p => return Err(ctx.refusal(format!("p = {p} is no norm"))),
        };
        Ok(Self { share, slope })
    }
}

pub(crate) fn global_max_pool(ctx: &mut VjpContext) -> Result<Cotangents, DeriveError> {
    let (dy, x) = (ctx.cotangent()?, ctx.input(0)?);
    let shape = ctx.emit.shape(&x)?;
    let pixels: usize = ctx.emit.sizes(&x, 2)?.iter().product();
    let flat = [shape[0].clone(), shape[1].clone(), Dim::Known(pixels)];
    let flat = ctx.emit.reshape(&x, &flat)?;
    let hot = first_extreme(ctx, "ArgMax", &flat)?;
    let hot = ctx.emit.reshape(&hot, &shape)?;
    Ok(Cotangents::first(ctx.emit.mul(&dy, &hot)?))
}

fn kernel(ctx: &VjpContext) -> Result<Vec<usize>, DeriveError> {
    let kernel = ctx
        .node
        .ints("kernel_shape")
        .unwrap_or_default()
        .iter()
        .map(|&size| usize::try_from(size).ok());
    let kernel = kernel
        .collect::<Option<Vec<_>>>()
        .filter(|kernel| !kernel.is_empty() && !kernel.contains(&0));
    kernel.ok_or_else(|| ctx.refusal("it has no valid kernel_shape"))
}
