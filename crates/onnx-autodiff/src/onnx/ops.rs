//! The table of the operators of ONNX's default domain: one row has all properties of an op except
//! its gradient, which is in `autodiff::rules::table`. Ops without a row are read, kept and
//! written; the types of their outputs are unknown, and graphs that need these are refused with the
//! op's name.

use super::evaluate::{self, Value};
use super::graph::Node;
use super::rows::Rows;
use super::spelling::{
    Context, Rewritten, Spelling, arguments, attention, decompose, grid_sample, inference,
    microsoft, quantisation,
};
use super::types::site::{Inferred, Site};
use super::types::values::{self, Content};
use super::types::{layout, pointwise, reduce, window};

use Elements::{Computed, Drawn, Moved, PerPixel, Same};
use Rows::{Aligned, AllOffAxis, First, FirstOffAxis, FirstUnturned, Labelled, OffAxis, Unproven};

/// An operator. The constructor [`op`] takes the properties that every op has to state; the others
/// have defaults.
pub struct Op {
    /// As ONNX spells it.
    pub name: &'static str,
    /// Element types and shapes of its outputs.
    pub types: fn(&Site<'_>) -> Inferred,
    /// Whether rows of a batch stay independent.
    pub rows: Rows,
    /// What the elements of its first output come from.
    pub elements: Elements,
    /// Propagates the values of small integer tensors (shapes) to its first output.
    pub content: Option<Content>,
    /// Evaluates it on constant inputs.
    pub value: Value,
    /// Whether a node of it returns its first input unchanged.
    pub idle: Option<fn(&Site<'_>) -> bool>,
    /// How nodes of other opsets are written in opset 18.
    pub spelling: Option<Spelling>,
}

/// How the elements of the first output depend on the inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elements {
    /// Each on any elements of the inputs.
    Computed,
    /// Each on the elements at its own pixel: elementwise ops with broadcasting, and ops along the
    /// channels.
    PerPixel,
    /// Elements of the first input, moved, repeated, selected or averaged.
    Moved,
    /// The elements of the first input in the same order, in another shape.
    Same,
    /// Random: equal nodes give different values.
    Drawn,
}

/// How nodes of a node's op are converted, also of ONNX Runtime's own domain.
pub(super) fn spelling(node: &Node) -> Option<Spelling> {
    match node.domain.as_str() {
        "" => of(node)?.spelling,
        domain => microsoft::spelling(domain, &node.op_type),
    }
}

/// The row of a node's op.
pub fn of(node: &Node) -> Option<&'static Op> {
    let name = node.op_type.as_str();
    let at = OPS.binary_search_by(|op| op.name.cmp(name)).ok()?;
    Some(&OPS[at]).filter(|_| node.domain.is_empty())
}

const fn op(
    name: &'static str,
    types: fn(&Site<'_>) -> Inferred,
    rows: Rows,
    elements: Elements,
) -> Op {
    Op {
        name,
        types,
        rows,
        elements,
        content: None,
        value: match elements {
            Same => Value::Same,
            _ => Value::AtRunTime,
        },
        idle: match elements {
            Same => Some(layout::same_type),
            _ => None,
        },
        spelling: None,
    }
}

impl Op {
    const fn content(self, content: Content) -> Self {
        let content = Some(content);
        Self { content, ..self }
    }

    const fn value(self, value: Value) -> Self {
        Self { value, ..self }
    }

    const fn unary(self, value: fn(f64) -> f64) -> Self {
        self.value(Value::Unary(value))
    }

    const fn binary(self, value: fn(f64, f64) -> f64) -> Self {
        self.value(Value::Binary(value))
    }

    const fn folded(self, value: fn(f64, f64) -> f64) -> Self {
        self.value(Value::Fold(value))
    }

    const fn idle(self, idle: fn(&Site<'_>) -> bool) -> Self {
        let idle = Some(idle);
        Self { idle, ..self }
    }

    /// Rewritten by `rewrite` in every opset.
    const fn spelled(self, rewrite: fn(&mut Context<'_>, Node) -> Rewritten) -> Self {
        let spelling = Some(Spelling {
            before: None,
            rewrite,
        });
        Self { spelling, ..self }
    }

    /// Rewritten by `rewrite` in opsets before this one.
    const fn spelled_before(
        self,
        opset: i64,
        rewrite: fn(&mut Context<'_>, Node) -> Rewritten,
    ) -> Self {
        let spelling = Some(Spelling {
            before: Some(opset),
            rewrite,
        });
        Self { spelling, ..self }
    }
}

fn truth(value: bool) -> f64 {
    f64::from(u8::from(value))
}

/// 0 for 0.
fn sign(x: f64) -> f64 {
    if x == 0.0 { 0.0 } else { x.signum() }
}

/// By name.
pub static OPS: &[Op] = &[
    op("Abs", pointwise::same, First, PerPixel).unary(f64::abs),
    op("Acos", pointwise::same, First, PerPixel),
    op("Acosh", pointwise::same, First, PerPixel),
    op("Add", pointwise::arithmetic, Aligned, PerPixel)
        .content(values::add)
        .binary(|a, b| a + b)
        .spelled_before(7, arguments::broadcast),
    op("And", pointwise::compare, Aligned, PerPixel)
        .binary(|a, b| a * b)
        .spelled_before(7, arguments::broadcast),
    op("ArgMax", reduce::arg, OffAxis(0), Computed),
    op("ArgMin", reduce::arg, OffAxis(0), Computed),
    op("Asin", pointwise::same, First, PerPixel),
    op("Asinh", pointwise::same, First, PerPixel),
    op("Atan", pointwise::same, First, PerPixel),
    op("Atanh", pointwise::same, First, PerPixel),
    op("Attention", reduce::attention, Unproven, Computed).spelled(attention::attention),
    op("AveragePool", window::pool, First, Moved).spelled(inference::average_pool),
    op(
        "BatchNormalization",
        pointwise::batch_normalization,
        First,
        PerPixel,
    )
    .spelled(inference::batch_normalization),
    op("Bernoulli", pointwise::same, Unproven, Drawn),
    op("BitShift", pointwise::arithmetic, Aligned, PerPixel),
    op("Cast", pointwise::cast, First, Moved)
        .content(values::cast)
        .unary(|x| x)
        .idle(layout::same_type)
        .spelled(arguments::cast),
    op("CastLike", pointwise::cast, First, Moved).spelled(decompose::cast_like),
    op("Ceil", pointwise::same, First, PerPixel)
        .content(values::identity)
        .unary(f64::ceil),
    op("Celu", pointwise::same, First, PerPixel),
    op("Clip", pointwise::same, First, PerPixel)
        .content(values::clip)
        .value(Value::Tensor(evaluate::clip))
        .spelled_before(11, arguments::clip),
    op("Col2Im", window::col_2_im, First, Moved),
    op("Concat", layout::concat, AllOffAxis(0), Computed)
        .content(values::concat)
        .value(Value::Tensor(evaluate::concat))
        .idle(layout::joins_nothing),
    op(
        "ConstantOfShape",
        layout::constant_of_shape,
        Unproven,
        Computed,
    )
    .content(values::constant_of_shape)
    .value(Value::Tensor(evaluate::constant_of_shape)),
    op("Conv", window::conv, First, Computed),
    op("ConvTranspose", window::conv_transpose, First, Computed),
    op("Cos", pointwise::same, First, PerPixel),
    op("Cosh", pointwise::same, First, PerPixel),
    op("CumSum", pointwise::same, Unproven, Computed),
    op("DepthToSpace", window::blocks, First, Moved),
    op("DequantizeLinear", pointwise::dequantized, First, PerPixel)
        .value(Value::Tensor(evaluate::dequantize))
        .spelled(quantisation::dequantize),
    op("Div", pointwise::arithmetic, Aligned, PerPixel)
        .content(values::div)
        .binary(|a, b| a / b)
        .spelled_before(7, arguments::broadcast),
    op("Dropout", pointwise::dropout, Unproven, Drawn).spelled(inference::dropout),
    op(
        "DynamicQuantizeLinear",
        pointwise::dynamically_quantized,
        Unproven,
        Computed,
    ),
    op("Einsum", reduce::einsum, Labelled, Computed),
    op("Elu", pointwise::same, First, PerPixel),
    op("Equal", pointwise::compare, Aligned, PerPixel)
        .content(values::equal)
        .binary(|a, b| truth(a == b))
        .spelled_before(7, arguments::broadcast),
    op("Erf", pointwise::same, First, PerPixel),
    op("Exp", pointwise::same, First, PerPixel).unary(f64::exp),
    op("Expand", layout::expand, Aligned, Moved)
        .content(values::expand)
        .value(Value::Tensor(evaluate::expand))
        .idle(layout::same_type),
    op("Flatten", layout::flatten, OffAxis(1), Same),
    op("Floor", pointwise::same, First, PerPixel)
        .content(values::identity)
        .unary(f64::floor),
    op("GRU", reduce::recurrent, Unproven, Computed),
    op("Gather", layout::gather, FirstOffAxis(0), Moved)
        .content(values::gather)
        .value(Value::Tensor(evaluate::gather)),
    op(
        "GatherElements",
        layout::gather_elements,
        AllOffAxis(0),
        Moved,
    ),
    op("GatherND", layout::gather_nd, Unproven, Computed),
    op("Gelu", pointwise::same, First, PerPixel).spelled(decompose::gelu),
    op("Gemm", reduce::gemm, FirstUnturned, Computed).spelled_before(7, arguments::broadcast),
    op("GlobalAveragePool", window::global_pool, First, Computed),
    op("GlobalLpPool", window::global_pool, First, Computed),
    op("GlobalMaxPool", window::global_pool, First, Computed),
    op("Greater", pointwise::compare, Aligned, PerPixel)
        .binary(|a, b| truth(a > b))
        .spelled_before(7, arguments::broadcast),
    op("GreaterOrEqual", pointwise::compare, Aligned, PerPixel).binary(|a, b| truth(a >= b)),
    op("GridSample", window::grid_sample, Unproven, Computed).spelled(grid_sample::grid_sample),
    op("GroupNormalization", pointwise::same, Unproven, Computed)
        .spelled(decompose::group_normalization),
    op("HardSigmoid", pointwise::same, First, PerPixel),
    op("HardSwish", pointwise::same, First, PerPixel),
    op("Hardmax", pointwise::same, OffAxis(-1), Computed).spelled_before(13, decompose::coerced),
    op("Identity", pointwise::same, First, Same)
        .content(values::identity)
        .idle(layout::always),
    op("InstanceNormalization", pointwise::same, First, Computed),
    op("IsInf", pointwise::test, First, PerPixel),
    op("IsNaN", pointwise::test, First, PerPixel).unary(|x| truth(x.is_nan())),
    op("LRN", pointwise::same, First, PerPixel),
    op("LSTM", reduce::recurrent, Unproven, Computed),
    op(
        "LayerNormalization",
        reduce::layer_normalization,
        OffAxis(-1),
        Computed,
    ),
    op("LeakyRelu", pointwise::same, First, PerPixel),
    op("Less", pointwise::compare, Aligned, PerPixel)
        .binary(|a, b| truth(a < b))
        .spelled_before(7, arguments::broadcast),
    op("LessOrEqual", pointwise::compare, Aligned, PerPixel).binary(|a, b| truth(a <= b)),
    op("Log", pointwise::same, First, PerPixel).unary(f64::ln),
    op("LogSoftmax", pointwise::same, OffAxis(-1), Computed).spelled_before(13, decompose::coerced),
    op("LpNormalization", pointwise::same, Unproven, Computed),
    op("LpPool", window::pool, First, Computed).spelled(inference::max_pool),
    op("MatMul", reduce::matmul, Aligned, Computed),
    op("Max", pointwise::arithmetic, Aligned, PerPixel)
        .content(values::max)
        .folded(f64::max),
    op("MaxPool", window::pool, First, Moved).spelled(inference::max_pool),
    op("Mean", pointwise::arithmetic, Aligned, PerPixel),
    op(
        "MeanVarianceNormalization",
        pointwise::same,
        Unproven,
        Computed,
    )
    .spelled(decompose::mean_variance_normalization),
    op("Min", pointwise::arithmetic, Aligned, PerPixel)
        .content(values::min)
        .folded(f64::min),
    op("Mish", pointwise::same, First, PerPixel),
    op("Mod", pointwise::arithmetic, Aligned, PerPixel)
        .content(values::modulo)
        .value(Value::Tensor(evaluate::modulo)),
    op("Mul", pointwise::arithmetic, Aligned, PerPixel)
        .content(values::mul)
        .binary(|a, b| a * b)
        .spelled_before(7, arguments::broadcast),
    op("Multinomial", pointwise::unknown, Unproven, Drawn),
    op("Neg", pointwise::same, First, PerPixel)
        .content(values::neg)
        .unary(|x| -x),
    op("Not", pointwise::same, First, PerPixel).unary(|x| 1.0 - x),
    op("OneHot", layout::one_hot, Unproven, Computed).value(Value::Tensor(evaluate::one_hot)),
    op("Or", pointwise::compare, Aligned, PerPixel)
        .binary(f64::max)
        .spelled_before(7, arguments::broadcast),
    op("PRelu", pointwise::same, Aligned, PerPixel)
        .spelled_before(7, arguments::slopes_of_channels),
    op("Pad", layout::pad, First, Moved)
        .idle(layout::pads_nothing)
        .spelled(arguments::pad),
    op("Pow", pointwise::arithmetic, Aligned, PerPixel)
        .binary(f64::powf)
        .spelled_before(7, arguments::broadcast),
    op("QuantizeLinear", pointwise::quantized, First, PerPixel).spelled(quantisation::quantize),
    op("RMSNormalization", pointwise::same, Unproven, Computed)
        .spelled(decompose::rms_normalization),
    op("RNN", reduce::recurrent, Unproven, Computed),
    op("RandomNormal", pointwise::unknown, Unproven, Drawn),
    op("RandomNormalLike", pointwise::unknown, Unproven, Drawn),
    op("RandomUniform", pointwise::unknown, Unproven, Drawn),
    op("RandomUniformLike", pointwise::unknown, Unproven, Drawn),
    op("Range", layout::range, Unproven, Computed).value(Value::Tensor(evaluate::range)),
    op("Reciprocal", pointwise::same, First, PerPixel).unary(|x| 1.0 / x),
    op("ReduceL1", reduce::reduce, First, Computed).spelled_before(18, arguments::axes_to_input),
    op("ReduceL2", reduce::reduce, First, Computed).spelled_before(18, arguments::axes_to_input),
    op("ReduceLogSum", reduce::reduce, First, Computed)
        .spelled_before(18, arguments::axes_to_input),
    op("ReduceLogSumExp", reduce::reduce, First, Computed)
        .spelled_before(18, arguments::axes_to_input),
    op("ReduceMax", reduce::reduce, First, Moved)
        .value(Value::Tensor(evaluate::reduce))
        .spelled_before(18, arguments::axes_to_input),
    op("ReduceMean", reduce::reduce, First, Moved)
        .value(Value::Tensor(evaluate::reduce))
        .spelled_before(18, arguments::axes_to_input),
    op("ReduceMin", reduce::reduce, First, Moved)
        .value(Value::Tensor(evaluate::reduce))
        .spelled_before(18, arguments::axes_to_input),
    op("ReduceProd", reduce::reduce, First, Computed)
        .content(values::reduce_prod)
        .value(Value::Tensor(evaluate::reduce))
        .spelled_before(18, arguments::axes_to_input),
    op("ReduceSum", reduce::reduce, First, Moved)
        .value(Value::Tensor(evaluate::reduce))
        .spelled_before(13, arguments::axes_to_input),
    op("ReduceSumSquare", reduce::reduce, First, Computed)
        .spelled_before(18, arguments::axes_to_input),
    op("Relu", pointwise::same, First, PerPixel).unary(|x| x.max(0.0)),
    op("Reshape", layout::reshape, First, Same).content(values::reshape),
    op("Resize", window::resize, First, Moved).spelled(arguments::resize),
    op("RotaryEmbedding", pointwise::same, Unproven, Computed).spelled(attention::rotary_embedding),
    op("Round", pointwise::same, First, PerPixel)
        .content(values::identity)
        .unary(f64::round_ties_even),
    op("Scatter", pointwise::same, Unproven, Computed).spelled(arguments::scatter),
    op("ScatterElements", pointwise::same, AllOffAxis(0), Computed),
    op("ScatterND", pointwise::same, Unproven, Computed),
    op("Selu", pointwise::same, First, PerPixel),
    op("Shape", layout::shape_of, Unproven, Computed).content(values::shape),
    op("Shrink", pointwise::same, First, PerPixel),
    op("Sigmoid", pointwise::same, First, PerPixel),
    op("Sign", pointwise::same, First, PerPixel).unary(sign),
    op(
        "SimplifiedLayerNormalization",
        pointwise::same,
        Unproven,
        Computed,
    )
    .spelled(decompose::rms_normalization),
    op("Sin", pointwise::same, First, PerPixel),
    op("Sinh", pointwise::same, First, PerPixel),
    op("Size", layout::size, Unproven, Computed).content(values::size),
    op("Slice", layout::slice, First, Moved)
        .content(values::slice)
        .value(Value::Tensor(evaluate::slice))
        .idle(layout::slices_nothing)
        .spelled_before(10, arguments::slice),
    op("Softmax", pointwise::same, OffAxis(-1), Computed).spelled_before(13, decompose::coerced),
    op("Softplus", pointwise::same, First, PerPixel),
    op("Softsign", pointwise::same, First, PerPixel),
    op("SpaceToDepth", window::blocks, First, Moved),
    op("Split", layout::split, OffAxis(0), Moved).spelled_before(18, arguments::split),
    op("Sqrt", pointwise::same, First, PerPixel).unary(f64::sqrt),
    op("Squeeze", layout::squeeze, First, Same)
        .content(values::squeeze)
        .spelled_before(13, arguments::axes_to_input),
    op("Sub", pointwise::arithmetic, Aligned, PerPixel)
        .content(values::sub)
        .binary(|a, b| a - b)
        .spelled_before(7, arguments::broadcast),
    op("Sum", pointwise::arithmetic, Aligned, PerPixel).folded(|a, b| a + b),
    op("Swish", pointwise::same, First, PerPixel).spelled(decompose::swish),
    op("Tan", pointwise::same, First, PerPixel),
    op("Tanh", pointwise::same, First, PerPixel),
    op("ThresholdedRelu", pointwise::same, First, PerPixel),
    op("Tile", layout::tile, First, Moved).value(Value::Tensor(evaluate::tile)),
    op("TopK", reduce::top_k, OffAxis(-1), Computed).spelled_before(10, arguments::top_k),
    op("Transpose", layout::transpose, First, Moved).value(Value::Tensor(evaluate::transpose)),
    op("Trilu", pointwise::same, Unproven, Computed),
    op("Unsqueeze", layout::unsqueeze, First, Same)
        .content(values::unsqueeze)
        .spelled_before(13, arguments::axes_to_input),
    op("Upsample", window::resize, Unproven, Moved).spelled(arguments::upsample),
    op("Where", pointwise::select, Aligned, PerPixel)
        .content(values::select)
        .value(Value::Ternary(|c, a, b| if c != 0.0 { a } else { b })),
    op("Xor", pointwise::compare, Aligned, PerPixel)
        .binary(|a, b| truth(a != b))
        .spelled_before(7, arguments::broadcast),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sorted_by_name() {
        assert!(OPS.is_sorted_by(|a, b| a.name < b.name));
        assert!(OPS.iter().all(|op| {
            of(&Node::new(op.name, ["x"], ["y"])).is_some_and(|found| found.name == op.name)
        }));
        let mut foreign = Node::new("Relu", ["x"], ["y"]);
        foreign.domain = "com.example".into();
        assert!(of(&foreign).is_none());
    }

    #[test]
    fn what_works_on_each_pixel_alone_keeps_rows_apart() {
        let mixed: Vec<_> = OPS
            .iter()
            .filter(|op| op.elements == PerPixel && op.rows == Unproven)
            .map(|op| op.name)
            .collect();
        assert!(mixed.is_empty(), "{mixed:?}");
    }
}
