//! The custom operators, as kernels that ONNX Runtime calls.

use ort::{
    operator::{
        ComputeContext, Kernel, KernelContext, Operator, OperatorDomain, OperatorInput,
        OperatorOutput, ShapeInferenceContext,
    },
    value::{Shape, TensorElementType, ValueType},
};
use parking_lot::Mutex;

use crate::engine::cpu::{
    max_pool::NchwMaxPoolGradient,
    max_pool_nchwc::NchwcMaxPoolGradient,
    operators::{self, DOMAIN, PoolWindow},
    relu,
};

/// Elements of a ReLU gradient per task.
const SPAN: usize = 1 << 15;

pub(super) fn domain() -> ort::Result<OperatorDomain> {
    OperatorDomain::new(DOMAIN)?
        .add(MaxPoolGradientOp)?
        .add(NchwcMaxPoolGradientOp)?
        .add(ReluGradientOp)
}

const FLOATS: OperatorInput = OperatorInput::required(TensorElementType::Float32);

/// `MaxPoolGradient(x, dy) -> dx`; planes are distributed over the runtime's threads.
struct MaxPoolGradientOp;

impl Operator for MaxPoolGradientOp {
    type Kernel<'attributes> = PoolWindow;

    fn name(&self) -> &str {
        operators::MAX_POOL_GRADIENT
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [FLOATS; 2]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        match context.inputs().first() {
            Some(x) => context.set_output(0, x),
            None => Ok(()),
        }
    }

    fn create_kernel<'attributes>(
        &self,
        context: &KernelContext<'attributes>,
    ) -> ort::Result<PoolWindow> {
        window(context)
    }
}

fn window(context: &KernelContext) -> ort::Result<PoolWindow> {
    let pair = |name: &str, default: usize| match context.get::<Vec<i64>>(name) {
        None => Ok([default; 2]),
        Some(values) => values
            .get(..2)
            .and_then(|pair| {
                Some([
                    usize::try_from(pair[0]).ok()?,
                    usize::try_from(pair[1]).ok()?,
                ])
            })
            .ok_or_else(|| {
                ort::Error::new(format!("{name} must be two numbers or more, none negative"))
            }),
    };
    Ok(PoolWindow {
        kernel: pair("kernel_shape", 1)?,
        strides: pair("strides", 1)?,
        dilations: pair("dilations", 1)?,
        pads: pair("pads", 0)?,
        gated: context.get::<i64>("gated").is_some_and(|gated| gated != 0),
    })
}

/// Heights and widths of a pool's input and output.
fn planes(x: &Shape, dy: &Shape) -> ort::Result<[[usize; 2]; 2]> {
    let [x, dy] =
        [x, dy].map(|shape| [2, 3].map(|axis| shape.get(axis).map_or(0, |&size| size as usize)));
    let filled = [x, dy].as_flattened().iter().all(|size| *size > 0);
    if filled {
        Ok([x, dy])
    } else {
        Err(ort::Error::new("a max pool's gradient takes images"))
    }
}

fn absent() -> ort::Error {
    ort::Error::new("an input or output is missing")
}

impl Kernel for PoolWindow {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let (x, dy) = (
            context.input(0)?.ok_or_else(absent)?,
            context.input(1)?.ok_or_else(absent)?,
        );
        let ((x_shape, x), (dy_shape, dy)) = (
            x.try_extract_tensor::<f32>()?,
            dy.try_extract_tensor::<f32>()?,
        );
        let mut dx = context.output(0, x_shape.to_vec())?.ok_or_else(absent)?;
        let (_, dx) = dx.try_extract_tensor_mut::<f32>()?;
        let [plane, outputs] = planes(x_shape, dy_shape)?;
        let [pixels, places] = [plane, outputs].map(|[height, width]| height * width);
        if x.len() / pixels != dy.len() / places {
            return Err(ort::Error::new(
                "MaxPoolGradient: x and dy do not fit each other",
            ));
        }
        let planes = x
            .chunks_exact(pixels)
            .zip(dy.chunks_exact(places))
            .zip(dx.chunks_exact_mut(pixels));
        let gradient = NchwMaxPoolGradient::new(self, plane, outputs);
        let unused = Mutex::new(Vec::new());
        deal(context, planes, |((x, dy), dx)| {
            let mut scratch = unused.lock().pop().unwrap_or_else(|| gradient.scratch());
            gradient.run(&mut scratch, x, dy, dx);
            unused.lock().push(scratch);
        })
    }
}

/// Runs `work` on each task, on the runtime's threads.
fn deal<T: Send>(
    context: &ComputeContext,
    tasks: impl Iterator<Item = T>,
    work: impl Fn(&mut T) + Sync + Send,
) -> ort::Result<()> {
    let tasks: Vec<_> = tasks.map(Mutex::new).collect();
    // Each index is visited once: the lock is never contended.
    context.par_for(tasks.len(), 0, |index| work(&mut tasks[index].lock()))
}

/// `NchwcMaxPoolGradient(x, y, dy) -> dx...`; blocks are distributed over the runtime's threads.
struct NchwcMaxPoolGradientOp;

/// [`PoolWindow`] over NCHWc.
struct NchwcPoolWindow {
    window: PoolWindow,
    block_size: usize,
    /// Channels of each output.
    parts: Vec<i64>,
}

impl Operator for NchwcMaxPoolGradientOp {
    type Kernel<'attributes> = NchwcPoolWindow;

    fn name(&self) -> &str {
        operators::NCHWC_MAX_POOL_GRADIENT
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [FLOATS; 3]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::variadic(1).homogenous(TensorElementType::Float32)]
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        let Some(x) = context.inputs().into_iter().next() else {
            return Ok(());
        };
        for (index, channels) in context.attr::<Vec<i64>>("parts")?.into_iter().enumerate() {
            let mut dx = x.clone();
            if let ValueType::Tensor { shape, .. } = &mut dx {
                shape[1] = channels;
            }
            context.set_output(index, &dx)?;
        }
        Ok(())
    }

    fn create_kernel<'attributes>(
        &self,
        context: &KernelContext<'attributes>,
    ) -> ort::Result<NchwcPoolWindow> {
        let block_size = context
            .get::<i64>("block_size")
            .and_then(|block_size| usize::try_from(block_size).ok())
            .ok_or_else(absent)?;
        let parts = context.get::<Vec<i64>>("parts").ok_or_else(absent)?;
        Ok(NchwcPoolWindow {
            window: window(context)?,
            block_size,
            parts,
        })
    }
}

impl Kernel for NchwcPoolWindow {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let Self {
            window,
            block_size,
            parts,
        } = &*self;
        let block_size = *block_size;
        let input = |index: usize| context.input(index)?.ok_or_else(absent);
        let (x, y, dy) = (input(0)?, input(1)?, input(2)?);
        let ((x_shape, x), (_, y), (dy_shape, dy)) = (
            x.try_extract_tensor::<f32>()?,
            y.try_extract_tensor::<f32>()?,
            dy.try_extract_tensor::<f32>()?,
        );
        let [plane, outputs] = planes(x_shape, dy_shape)?;
        let [size, places] = [plane, outputs].map(|[height, width]| height * width * block_size);
        if parts.iter().sum::<i64>() != x_shape[1]
            || y.len() != dy.len()
            || x.len() / size != dy.len() / places
        {
            return Err(ort::Error::new(
                "NchwcMaxPoolGradient: x, y, dy and parts do not fit each other",
            ));
        }
        let mut values = Vec::new();
        for (index, &channels) in parts.iter().enumerate() {
            let shape = [x_shape[0], channels, x_shape[2], x_shape[3]];
            values.push(context.output(index, shape)?.ok_or_else(absent)?);
        }
        let mut pieces = Vec::new();
        for (value, &channels) in values.iter_mut().zip(parts) {
            let (_, values) = value.try_extract_tensor_mut::<f32>()?;
            pieces.push((
                values.chunks_exact_mut(size),
                channels as usize / block_size,
            ));
        }
        let mut dx = Vec::new();
        for _ in 0..x_shape[0] {
            pieces
                .iter_mut()
                .for_each(|(blocks, count)| dx.extend(blocks.take(*count)));
        }
        let inputs = x
            .chunks_exact(size)
            .zip(y.chunks_exact(places).zip(dy.chunks_exact(places)));
        let gradient = NchwcMaxPoolGradient::new(window, plane, outputs[1]);
        deal(
            context,
            inputs.zip(dx),
            |((x, (y, dy)), dx)| match block_size {
                8 => gradient.run::<8>(x, y, dy, dx),
                _ => gradient.run::<16>(x, y, dy, dx),
            },
        )
    }
}

/// `ReluGradient(dy, y) -> dx`; spans are distributed over the runtime's threads.
struct ReluGradientOp;

/// The block size if dy has one number per channel of y; `None` if dy has y's shape.
struct Gate {
    block_size: Option<usize>,
}

impl Operator for ReluGradientOp {
    type Kernel<'attributes> = Gate;
    const INPLACES: &[(u32, u32)] = &[(0, 0)];

    fn name(&self) -> &str {
        operators::RELU_GRADIENT
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [FLOATS; 2]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        match context.inputs().get(1) {
            Some(y) => context.set_output(0, y),
            None => Ok(()),
        }
    }

    fn create_kernel<'attributes>(
        &self,
        context: &KernelContext<'attributes>,
    ) -> ort::Result<Gate> {
        Ok(Gate {
            block_size: context
                .get::<i64>("block_size")
                .and_then(|block_size| usize::try_from(block_size).ok()),
        })
    }
}

impl Kernel for Gate {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let (dy, y) = (
            context.input(0)?.ok_or_else(absent)?,
            context.input(1)?.ok_or_else(absent)?,
        );
        let (y_shape, y) = y.try_extract_tensor::<f32>()?;
        let (start, count) = {
            let (_, dy) = dy.try_extract_tensor::<f32>()?;
            (dy.as_ptr(), dy.len())
        };
        let (fits, span, size) = match self.block_size {
            None => (count == y.len(), SPAN, SPAN),
            Some(block_size) => {
                let pixels = y.len() / count.max(1);
                (
                    count.is_multiple_of(block_size) && y.len() == count * pixels,
                    block_size,
                    (block_size * pixels).max(1),
                )
            }
        };
        if !fits {
            return Err(ort::Error::new(
                "ReluGradient: dy and y do not fit each other",
            ));
        }
        let mut dx = context.output(0, y_shape.to_vec())?.ok_or_else(absent)?;
        let (_, dx) = dx.try_extract_tensor_mut::<f32>()?;
        let y = y.chunks(size);
        if std::ptr::eq(start, dx.as_ptr()) {
            return deal(context, y.zip(dx.chunks_mut(size)), |(y, dx)| {
                relu::gate_in_place(y, dx)
            });
        }
        let (_, dy) = dy.try_extract_tensor::<f32>()?;
        deal(
            context,
            dy.chunks(span).zip(y).zip(dx.chunks_mut(size)),
            |((dy, y), dx)| relu::gate(dy, y, dx),
        )
    }
}
