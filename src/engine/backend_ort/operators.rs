//! The custom operators, as kernels that ONNX Runtime calls.

use ort::{
    operator::{
        ComputeContext, Kernel, KernelContext, Operator, OperatorDomain, OperatorInput,
        OperatorOutput, ShapeInferenceContext,
    },
    value::{Shape, SymbolicDimensions, TensorElementType, ValueType},
};
use parking_lot::Mutex;
use std::cell::RefCell;
use winograd::{Convolution as WinogradConvolution, Epilogue, Filter as WinogradFilter, Scratch};

use crate::engine::cpu::{
    filter::Filter,
    input_gradient::InputGradient,
    max_pool::NchwMaxPoolGradient,
    max_pool_nchwc::NchwcMaxPoolGradient,
    operators::{self, DOMAIN, PoolWindow},
    relu,
    weight_gradient::{self, Convolution, DepthwiseGradient, Images, WeightGradient},
};

/// Elements of a ReLU gradient per task.
const SPAN: usize = 1 << 15;

pub(super) fn domain() -> ort::Result<OperatorDomain> {
    OperatorDomain::new(DOMAIN)?
        .add(MaxPoolGradientOp)?
        .add(NchwcMaxPoolGradientOp)?
        .add(ReluGradientOp)?
        .add(ConvWeightGradientOp)?
        .add(NchwcConvInputGradientOp)?
        .add(NchwcFilterOp)?
        .add(WinogradConvOp)?
        .add(WinogradFilterOp)
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

/// `ConvWeightGradient(x, dy) -> dw, db`; parts of dw are distributed over the runtime's threads.
struct ConvWeightGradientOp;

struct ConvWeightGradient {
    /// Of the weight.
    shape: [usize; 4],
    strides: [usize; 2],
    dilations: [usize; 2],
    pads: [usize; 2],
    /// Channels of a block of x and of dy, where they are NCHWc.
    block_sizes: [Option<usize>; 2],
    depthwise: bool,
}

impl Operator for ConvWeightGradientOp {
    type Kernel<'attributes> = ConvWeightGradient;

    fn name(&self) -> &str {
        operators::CONV_WEIGHT_GRADIENT
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [FLOATS; 2]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::variadic(1).homogenous(TensorElementType::Float32)]
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        let shape = context.attr::<Vec<i64>>("shape")?;
        let has_bias = context.attr::<i64>("bias")? != 0;
        let outputs = [Some(&shape[..]), has_bias.then(|| &shape[..1])];
        for (index, sizes) in outputs.into_iter().flatten().enumerate() {
            context.set_output(index, &floats(sizes))?;
        }
        Ok(())
    }

    fn create_kernel<'attributes>(
        &self,
        context: &KernelContext<'attributes>,
    ) -> ort::Result<ConvWeightGradient> {
        let PoolWindow {
            strides,
            dilations,
            pads,
            ..
        } = window(context)?;
        Ok(ConvWeightGradient {
            shape: sizes(context, "shape")?,
            strides,
            dilations,
            pads,
            block_sizes: ["x_block_size", "dy_block_size"].map(|name| size(context, name)),
            depthwise: context
                .get::<i64>("depthwise")
                .is_some_and(|flag| flag != 0),
        })
    }
}

/// The type of a tensor of these sizes.
fn floats(sizes: &[i64]) -> ValueType {
    ValueType::Tensor {
        ty: TensorElementType::Float32,
        shape: sizes.to_vec().into(),
        dimension_symbols: SymbolicDimensions::empty(sizes.len()),
    }
}

fn size(context: &KernelContext, name: &str) -> Option<usize> {
    let size = context.get::<i64>(name)?;
    usize::try_from(size).ok().filter(|size| *size > 0)
}

fn sizes<const N: usize>(context: &KernelContext, name: &str) -> ort::Result<[usize; N]> {
    let sizes = context.get::<Vec<i64>>(name).unwrap_or_default();
    let sizes: Option<Vec<usize>> = sizes
        .into_iter()
        .map(|size| usize::try_from(size).ok().filter(|size| *size > 0))
        .collect();
    sizes
        .and_then(|sizes| sizes.try_into().ok())
        .ok_or_else(|| ort::Error::new(format!("{name} must be {N} numbers above 0")))
}

impl Kernel for ConvWeightGradient {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let block_size = self.block_sizes.iter().flatten().next();
        let unblocked = if self.depthwise {
            1
        } else {
            weight_gradient::block_size()
        };
        match *block_size.unwrap_or(&unblocked) {
            1 => self.compute_blocks::<1>(context),
            16 => self.compute_blocks::<16>(context),
            _ => self.compute_blocks::<8>(context),
        }
    }
}

impl ConvWeightGradient {
    fn compute_blocks<const B: usize>(&self, context: &ComputeContext) -> ort::Result<()> {
        let (x, dy) = (
            context.input(0)?.ok_or_else(absent)?,
            context.input(1)?.ok_or_else(absent)?,
        );
        let ((x_shape, x), (dy_shape, dy)) = (
            x.try_extract_tensor::<f32>()?,
            dy.try_extract_tensor::<f32>()?,
        );
        let [plane, places] = planes(x_shape, dy_shape)?;
        let [outputs, inputs, height, width] = self.shape;
        let channels = if self.depthwise { outputs } else { inputs };
        let convolution = Convolution {
            batch: x_shape[0] as usize,
            input: [channels, plane[0], plane[1]],
            output: [outputs, places[0], places[1]],
            kernel: [height, width],
            strides: self.strides,
            dilations: self.dilations,
            pads: self.pads,
        };
        let len = |[channels, height, width]: [usize; 3], blocks: Option<usize>| {
            let channels = channels.next_multiple_of(blocks.unwrap_or(1));
            convolution.batch * channels * height * width
        };
        if x.len() != len(convolution.input, self.block_sizes[0])
            || dy.len() != len(convolution.output, self.block_sizes[1])
            || self.block_sizes.iter().flatten().any(|size| *size != B)
            || (self.depthwise && self.block_sizes[0] != self.block_sizes[1])
        {
            return Err(ort::Error::new(
                "ConvWeightGradient: x, dy and shape do not fit each other",
            ));
        }
        let mut weight = context
            .output(0, self.shape.map(|size| size as i64))?
            .ok_or_else(absent)?;
        let mut bias = (context.num_outputs()? > 1)
            .then(|| context.output(1, [outputs as i64]))
            .transpose()?
            .flatten();
        let (_, weight) = weight.try_extract_tensor_mut::<f32>()?;
        let bias = match &mut bias {
            Some(bias) => bias.try_extract_tensor_mut::<f32>()?.1,
            None => &mut [],
        };
        if self.depthwise {
            let gradient = DepthwiseGradient::<B>::new(&convolution, x, dy);
            let mut biases: Vec<_> = bias.chunks_mut(B).collect();
            biases.resize_with(outputs.div_ceil(B), Default::default);
            let parts = weight.chunks_mut(B * height * width).zip(biases);
            return deal(context, parts.enumerate(), |(block, (weight, bias))| {
                gradient.run(*block, weight, bias);
            });
        }
        let images = |values, blocks: Option<usize>| match blocks {
            Some(_) => Images::Blocks(values),
            None => Images::Planes(values),
        };
        let gradient = WeightGradient::<B>::new(
            &convolution,
            images(x, self.block_sizes[0]),
            images(dy, self.block_sizes[1]),
        );
        deal(context, gradient.tasks(weight, bias).into_iter(), |task| {
            gradient.run(task)
        })
    }
}

/// `NchwcConvInputGradient(dy, filter) -> dx`; blocks are distributed over the runtime's threads.
struct NchwcConvInputGradientOp;

struct ConvInputGradient {
    window: PoolWindow,
    /// Channels, height and width of dx.
    shape: [usize; 3],
    block_size: usize,
}

impl Operator for NchwcConvInputGradientOp {
    type Kernel<'attributes> = ConvInputGradient;

    fn name(&self) -> &str {
        operators::NCHWC_CONV_INPUT_GRADIENT
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [FLOATS; 2]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        let sizes = context.attr::<Vec<i64>>("shape")?;
        let Some(mut dx) = context.inputs().into_iter().next() else {
            return Ok(());
        };
        if let ValueType::Tensor { shape, .. } = &mut dx {
            let batch = shape.first().copied();
            *shape = batch.into_iter().chain(sizes).collect::<Vec<_>>().into();
        }
        context.set_output(0, &dx)
    }

    fn create_kernel<'attributes>(
        &self,
        context: &KernelContext<'attributes>,
    ) -> ort::Result<ConvInputGradient> {
        Ok(ConvInputGradient {
            window: window(context)?,
            shape: sizes(context, "shape")?,
            block_size: size(context, "block_size").ok_or_else(absent)?,
        })
    }
}

impl Kernel for ConvInputGradient {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        match self.block_size {
            16 => self.compute_blocks::<16>(context),
            _ => self.compute_blocks::<8>(context),
        }
    }
}

impl ConvInputGradient {
    fn compute_blocks<const B: usize>(&self, context: &ComputeContext) -> ort::Result<()> {
        let (dy, filter) = (
            context.input(0)?.ok_or_else(absent)?,
            context.input(1)?.ok_or_else(absent)?,
        );
        let ((dy_shape, dy), (_, filter)) = (
            dy.try_extract_tensor::<f32>()?,
            filter.try_extract_tensor::<f32>()?,
        );
        let [batch, outputs, height, width] = dy_shape
            .iter()
            .map(|&size| size as usize)
            .collect::<Vec<_>>()[..]
        else {
            return Err(absent());
        };
        let PoolWindow {
            kernel,
            strides,
            dilations,
            pads,
            ..
        } = self.window;
        let convolution = Convolution {
            batch,
            input: self.shape,
            output: [outputs, height, width],
            kernel,
            strides,
            dilations,
            pads,
        };
        let channels = self.shape[0];
        if self.block_size != B
            || !channels.is_multiple_of(B)
            || !outputs.is_multiple_of(B)
            || filter.len() != channels * outputs * kernel[0] * kernel[1]
        {
            return Err(ort::Error::new(
                "NchwcConvInputGradient: dy, filter and shape do not fit each other",
            ));
        }
        let gradient = InputGradient::<B>::new(&convolution, filter);
        let [len, framed_len, dx_len] = gradient.block_lens();
        let mut framed = vec![0.0; dy.len() / len * framed_len];
        let blocks = dy
            .chunks_exact(len)
            .zip(framed.chunks_exact_mut(framed_len));
        deal(context, blocks, |(dy, framed)| gradient.frame(dy, framed))?;
        let shape = [batch, channels, self.shape[1], self.shape[2]].map(|size| size as i64);
        let mut dx = context.output(0, shape)?.ok_or_else(absent)?;
        let (_, dx) = dx.try_extract_tensor_mut::<f32>()?;
        let blocks = dx.chunks_exact_mut(dx_len).enumerate();
        deal(context, blocks, |(index, dx)| {
            gradient.run(&framed, *index, dx)
        })
    }
}

/// `NchwcFilter(w) -> packed`; blocks of outputs are distributed over the runtime's threads.
struct NchwcFilterOp;

impl Operator for NchwcFilterOp {
    type Kernel<'attributes> = Filter;

    fn name(&self) -> &str {
        operators::NCHWC_FILTER
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [FLOATS]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        let shape = context.attr::<Vec<i64>>("shape")?;
        context.set_output(0, &floats(&shape))
    }

    fn create_kernel<'attributes>(
        &self,
        context: &KernelContext<'attributes>,
    ) -> ort::Result<Filter> {
        let is_set = |name: &str| context.get::<i64>(name).is_some_and(|flag| flag != 0);
        let filter = Filter {
            shape: sizes(context, "shape")?,
            block_size: size(context, "block_size").ok_or_else(absent)?,
            blocked: is_set("blocked"),
            flipped: is_set("flipped"),
        };
        let [outputs, inputs, ..] = filter.shape;
        let is_whole = |channels: usize| channels.is_multiple_of(filter.block_size);
        if is_whole(outputs) && (is_whole(inputs) || !filter.blocked) {
            Ok(filter)
        } else {
            Err(ort::Error::new(
                "NchwcFilter: shape must be in whole blocks",
            ))
        }
    }
}

impl Kernel for Filter {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let weight = context.input(0)?.ok_or_else(absent)?;
        let (shape, weight) = weight.try_extract_tensor::<f32>()?;
        let given: Vec<usize> = shape.iter().map(|&size| size as usize).collect();
        let [first, second, height, width] = given[..] else {
            return Err(absent());
        };
        let (outputs, inputs) = if self.flipped {
            (second, first)
        } else {
            (first, second)
        };
        let [most_outputs, most_inputs, height_to, width_to] = self.shape;
        if [height, width] != [height_to, width_to]
            || outputs > most_outputs
            || inputs > most_inputs
        {
            return Err(ort::Error::new(
                "NchwcFilter: the weight does not fit its shape",
            ));
        }
        let mut packed = context
            .output(0, self.shape.map(|size| size as i64))?
            .ok_or_else(absent)?;
        let (_, packed) = packed.try_extract_tensor_mut::<f32>()?;
        let blocks = packed.chunks_exact_mut(self.block_len()).enumerate();
        deal(context, blocks, |(block, to)| {
            self.pack(weight, [first, second], *block, to);
        })
    }
}

/// `WinogradConv(x, filter, bias, sum, gate) -> y`; rows of tiles and blocks of y are distributed
/// over the runtime's threads.
struct WinogradConvOp;

struct WinogradConv {
    /// Of y.
    channels: usize,
    /// Before the first row and column, and after the last.
    pads: [usize; 4],
    block_size: usize,
    relu: bool,
}

impl Operator for WinogradConvOp {
    type Kernel<'attributes> = WinogradConv;

    fn name(&self) -> &str {
        operators::WINOGRAD_CONV
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        const OPTIONAL: OperatorInput = OperatorInput::optional(TensorElementType::Float32);
        [FLOATS, FLOATS, OPTIONAL, OPTIONAL, OPTIONAL]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        let channels = context.attr::<i64>("channels")?;
        let pads = context.attr::<Vec<i64>>("pads")?;
        let Some(mut y) = context.inputs().into_iter().next() else {
            return Ok(());
        };
        if let (ValueType::Tensor { shape, .. }, [top, left, bottom, right]) = (&mut y, &pads[..])
            && let [_, y_channels, height, width] = &mut shape[..]
        {
            *y_channels = channels;
            for (size, pads) in [(height, top + bottom), (width, left + right)] {
                // Below 0 where it is not known.
                *size = if *size < 0 { *size } else { *size + pads - 2 };
            }
        }
        context.set_output(0, &y)
    }

    fn create_kernel<'attributes>(
        &self,
        context: &KernelContext<'attributes>,
    ) -> ort::Result<WinogradConv> {
        let pads = context.get::<Vec<i64>>("pads").unwrap_or_default();
        let pads: Vec<usize> = pads.iter().filter_map(|&pad| pad.try_into().ok()).collect();
        Ok(WinogradConv {
            channels: size(context, "channels").ok_or_else(absent)?,
            pads: pads.try_into().map_err(|_| absent())?,
            block_size: size(context, "block_size").ok_or_else(absent)?,
            relu: context.get::<i64>("relu").is_some_and(|flag| flag != 0),
        })
    }
}

thread_local! {
    /// What a thread's tasks work in. Bounded by the convolutions that `cpu/convolution.rs` takes.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Kernel for WinogradConv {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let given = context.num_inputs()?;
        let mut inputs = Vec::new();
        for index in 0..5 {
            let is_given = index < given;
            inputs.push(
                is_given
                    .then(|| context.input(index))
                    .transpose()?
                    .flatten(),
            );
        }
        let floats = |index: usize| -> ort::Result<Option<(&Shape, &[f32])>> {
            let value = inputs.get(index).and_then(Option::as_ref);
            value
                .map(|value| value.try_extract_tensor::<f32>())
                .transpose()
        };
        let values = |index: usize| Ok::<_, ort::Error>(floats(index)?.map(|(_, values)| values));
        let (x_shape, x) = floats(0)?.ok_or_else(absent)?;
        let sizes: Vec<usize> = x_shape.iter().map(|&size| size as usize).collect();
        let [batch, channels, height, width] = sizes[..] else {
            return Err(absent());
        };
        let [top, left, bottom, right] = self.pads;
        let behind = [height + top + bottom, width + left + right];
        let [out_height, out_width] = behind.map(|size| size.saturating_sub(2));
        let convolution = WinogradConvolution {
            batch,
            input: [channels, height, width],
            output: [self.channels, out_height, out_width],
            pads: [top, left],
            block_size: self.block_size,
            x,
            filter: values(1)?.ok_or_else(absent)?,
            epilogue: Epilogue {
                bias: values(2)?,
                sum: values(3)?,
                relu: self.relu,
                gate: values(4)?,
            },
        };
        if !convolution.is_consistent() {
            return Err(ort::Error::new(
                "WinogradConv: the inputs do not fit each other",
            ));
        }
        let shape = [batch, self.channels, out_height, out_width].map(|size| size as i64);
        let mut y = context.output(0, shape)?.ok_or_else(absent)?;
        let (_, y) = y.try_extract_tensor_mut::<f32>()?;
        deal(context, convolution.tasks(y).into_iter(), |task| {
            SCRATCH.with_borrow_mut(|scratch| convolution.run(task, scratch));
        })
    }
}

/// `WinogradFilter(w) -> filter`; panels are distributed over the runtime's threads.
struct WinogradFilterOp;

struct WinogradWeight(WinogradFilter);

impl Operator for WinogradFilterOp {
    type Kernel<'attributes> = WinogradWeight;

    fn name(&self) -> &str {
        operators::WINOGRAD_FILTER
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [FLOATS]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        let sizes = context.attr::<Vec<i64>>("shape")?;
        let [outputs, inputs] = sizes[..] else {
            return Ok(());
        };
        context.set_output(
            0,
            &floats(&[outputs * inputs * WinogradFilter::POINTS as i64]),
        )
    }

    fn create_kernel<'attributes>(
        &self,
        context: &KernelContext<'attributes>,
    ) -> ort::Result<WinogradWeight> {
        let [outputs, inputs] = sizes(context, "shape")?;
        let block_size = size(context, "block_size").ok_or_else(absent)?;
        if [outputs, inputs]
            .iter()
            .any(|channels| !channels.is_multiple_of(block_size))
        {
            return Err(ort::Error::new(
                "WinogradFilter: shape must be in whole blocks",
            ));
        }
        Ok(WinogradWeight(WinogradFilter {
            outputs,
            inputs,
            block_size,
            flipped: context.get::<i64>("flipped").is_some_and(|flag| flag != 0),
        }))
    }
}

impl Kernel for WinogradWeight {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let weight = context.input(0)?.ok_or_else(absent)?;
        let (shape, weight) = weight.try_extract_tensor::<f32>()?;
        let given: Vec<usize> = shape.iter().map(|&size| size as usize).collect();
        let [first, second, 3, 3] = given[..] else {
            return Err(absent());
        };
        if !self.0.takes([first, second]) {
            return Err(ort::Error::new(
                "WinogradFilter: the weight does not fit its shape",
            ));
        }
        let mut filter = context
            .output(0, [self.0.len() as i64])?
            .ok_or_else(absent)?;
        let (_, filter) = filter.try_extract_tensor_mut::<f32>()?;
        let panels = filter.chunks_mut(self.0.panel_len()).enumerate();
        deal(context, panels, |(index, to)| {
            self.0.pack(weight, [first, second], *index, to);
        })
    }
}
