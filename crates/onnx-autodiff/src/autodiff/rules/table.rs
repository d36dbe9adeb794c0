//! The gradient, op by op: one row for each op of `onnx::ops`, by name. In formulas dy, x and y are
//! the cotangent of the output, the input and the output of the node.

use std::f32::consts::FRAC_2_SQRT_PI;

use super::{
    activation, convolution, einsum, elementwise, indexing, interpolation, matrix, normalisation,
    pooling, quantisation, reduction, resampling, shape, softmax,
};
use crate::{
    autodiff::{
        context::{Rule, Vjp},
        expr::Expr,
    },
    onnx::graph::Node,
};

use Gradient::{Discrete, Flat, Missing, Respelled, Ruled, Surrogate};

/// How the backward walk treats an op.
pub(crate) enum Gradient {
    Ruled(Rule),
    /// As [`Ruled`], by a rule that stands for a derivative that is zero or none.
    Surrogate(Rule),
    /// Its float outputs are piecewise constant in the inputs: the cotangent is zero.
    Flat,
    /// Its outputs are integers or bools, which have no cotangent.
    Discrete,
    /// `normalise` replaces it by other ops.
    Respelled,
    /// No gradient: nodes of it between input and head are refused, for this reason.
    Missing(&'static str),
}

/// Of ops that nothing more is known of.
pub(crate) const NO_RULE: &str = "there is no rule for this op";
/// Of the operators of models other than neural networks.
const CLASSICAL: &str = "classical models have no gradient here: export a neural network";
const DYNAMIC: Gradient = Missing(
    "its scale follows from the input, and no gradient passes: use the float model that this one was made of",
);
const RANDOM: Gradient = Missing("what it draws has no gradient: export the model for evaluation");
const MIXED: Gradient =
    Missing("its axes include the batch: export the model with axes that leave it out");
const RECURRENT: Gradient = Missing(
    "recurrent layers are not derived: use methods that need forward passes alone, or a network of convolutions or attention",
);

const fn formula(formula: fn(&Node, &Expr, &Expr, &Expr) -> Expr) -> Gradient {
    Ruled(Rule::Formula(formula))
}

const fn vjp(vjp: Vjp) -> Gradient {
    Ruled(Rule::Vjp(vjp))
}

const fn straight_through(vjp: Vjp) -> Gradient {
    Surrogate(Rule::Vjp(vjp))
}

/// The row of an op of the default domain.
pub(crate) fn gradient(op_type: &str) -> Option<&'static Gradient> {
    let at = GRADIENT.binary_search_by(|(name, _)| (*name).cmp(op_type));
    at.ok().map(|at| &GRADIENT[at].1)
}

/// Why a node of an op without a rule is refused.
pub(crate) fn reason(node: &Node) -> &'static str {
    match gradient(&node.op_type).filter(|_| node.domain.is_empty()) {
        Some(Missing(reason)) => reason,
        _ if node.domain == "ai.onnx.ml" => CLASSICAL,
        _ => NO_RULE,
    }
}

/// The ops that have a rule, by name.
pub fn ruled() -> impl Iterator<Item = &'static str> {
    let ruled = GRADIENT.iter().filter(|row| matches!(row.1, Ruled(_)));
    ruled.map(|row| row.0)
}

static GRADIENT: &[(&str, Gradient)] = &[
    ("Abs", formula(|_, dy, x, _| dy * x.sign())),
    (
        "Acos",
        formula(|_, dy, x, _| -(dy / (1.0 - x.square()).sqrt())),
    ),
    (
        "Acosh",
        formula(|_, dy, x, _| dy / (x.square() + -1.0).sqrt()),
    ),
    ("Add", vjp(elementwise::add)),
    ("And", Discrete),
    ("ArgMax", Discrete),
    ("ArgMin", Discrete),
    (
        "Asin",
        formula(|_, dy, x, _| dy / (1.0 - x.square()).sqrt()),
    ),
    (
        "Asinh",
        formula(|_, dy, x, _| dy / (x.square() + 1.0).sqrt()),
    ),
    ("Atan", formula(|_, dy, x, _| dy / (x.square() + 1.0))),
    ("Atanh", formula(|_, dy, x, _| dy / (1.0 - x.square()))),
    ("Attention", Respelled),
    ("AveragePool", vjp(pooling::average_pool)),
    (
        "BatchNormalization",
        vjp(normalisation::batch_normalization),
    ),
    ("Bernoulli", RANDOM),
    ("BitShift", Discrete),
    ("Cast", vjp(elementwise::cast)),
    ("CastLike", Respelled),
    ("Ceil", Flat),
    ("Celu", formula(activation::celu)),
    ("Clip", vjp(activation::clip)),
    ("Col2Im", vjp(resampling::col_2_im)),
    ("Concat", vjp(shape::concat)),
    ("ConstantOfShape", Flat),
    ("Conv", vjp(convolution::conv)),
    ("ConvTranspose", vjp(convolution::conv_transpose)),
    ("Cos", formula(|_, dy, x, _| -(dy * x.sin()))),
    ("Cosh", formula(|_, dy, x, _| dy * x.sinh())),
    ("CumSum", vjp(reduction::cum_sum)),
    ("DepthToSpace", vjp(resampling::depth_to_space)),
    (
        "DequantizeLinear",
        straight_through(quantisation::dequantize),
    ),
    ("Div", vjp(elementwise::div)),
    ("Dropout", Respelled),
    ("DynamicQuantizeLinear", DYNAMIC),
    ("Einsum", vjp(einsum::einsum)),
    ("Elu", formula(activation::elu)),
    ("Equal", Discrete),
    (
        "Erf",
        formula(|_, dy, x, _| dy * ((-x.square()).exp() * FRAC_2_SQRT_PI)),
    ),
    ("Exp", formula(|_, dy, _, y| dy * y)),
    ("Expand", formula(|_, dy, _, _| dy.clone())),
    ("Flatten", vjp(shape::same_elements)),
    ("Floor", Flat),
    ("GRU", RECURRENT),
    ("Gather", vjp(shape::gather)),
    ("GatherElements", vjp(indexing::gather_elements)),
    ("GatherND", vjp(indexing::gather_nd)),
    ("Gelu", Respelled),
    ("Gemm", vjp(matrix::gemm)),
    ("GlobalAveragePool", vjp(pooling::global_average_pool)),
    ("GlobalLpPool", vjp(pooling::global_lp_pool)),
    ("GlobalMaxPool", vjp(pooling::global_max_pool)),
    ("Greater", Discrete),
    ("GreaterOrEqual", Discrete),
    ("GridSample", Respelled),
    ("GroupNormalization", Respelled),
    ("HardSigmoid", formula(activation::hard_sigmoid)),
    ("HardSwish", formula(activation::hard_swish)),
    ("Hardmax", Flat),
    ("Identity", formula(|_, dy, _, _| dy.clone())),
    (
        "InstanceNormalization",
        vjp(normalisation::instance_normalization),
    ),
    ("IsInf", Discrete),
    ("IsNaN", Discrete),
    ("LRN", vjp(normalisation::lrn)),
    ("LSTM", RECURRENT),
    (
        "LayerNormalization",
        vjp(normalisation::layer_normalization),
    ),
    ("LeakyRelu", formula(activation::leaky_relu)),
    ("Less", Discrete),
    ("LessOrEqual", Discrete),
    ("Log", formula(|_, dy, x, _| dy / x)),
    ("LogSoftmax", vjp(softmax::log_softmax)),
    ("LpNormalization", vjp(normalisation::lp_normalization)),
    ("LpPool", vjp(pooling::lp_pool)),
    ("MatMul", vjp(matrix::mat_mul)),
    ("Max", vjp(elementwise::first_equal)),
    ("MaxPool", vjp(pooling::max_pool)),
    ("Mean", vjp(elementwise::mean)),
    ("MeanVarianceNormalization", MIXED),
    ("Min", vjp(elementwise::first_equal)),
    ("Mish", formula(activation::mish)),
    ("Mod", vjp(elementwise::modulo)),
    ("Mul", vjp(elementwise::mul)),
    ("Multinomial", Discrete),
    ("Neg", formula(|_, dy, _, _| -dy)),
    ("Not", Discrete),
    ("OneHot", Flat),
    ("Or", Discrete),
    ("PRelu", vjp(activation::prelu)),
    ("Pad", vjp(shape::pad)),
    ("Pow", vjp(elementwise::pow)),
    ("QuantizeLinear", straight_through(quantisation::quantize)),
    ("RMSNormalization", Respelled),
    ("RNN", RECURRENT),
    ("RandomNormal", RANDOM),
    ("RandomNormalLike", RANDOM),
    ("RandomUniform", RANDOM),
    ("RandomUniformLike", RANDOM),
    ("Range", Flat),
    ("Reciprocal", formula(|_, dy, _, y| -(dy * y * y))),
    ("ReduceL1", vjp(reduction::reduce_l1)),
    ("ReduceL2", vjp(reduction::reduce_l2)),
    ("ReduceLogSum", vjp(reduction::reduce_log_sum)),
    ("ReduceLogSumExp", vjp(reduction::reduce_log_sum_exp)),
    ("ReduceMax", vjp(reduction::reduce_max)),
    ("ReduceMean", vjp(reduction::reduce_mean)),
    ("ReduceMin", vjp(reduction::reduce_min)),
    ("ReduceProd", vjp(reduction::reduce_prod)),
    ("ReduceSum", vjp(reduction::reduce_sum)),
    ("ReduceSumSquare", vjp(reduction::reduce_sum_square)),
    ("Relu", formula(|_, dy, _, y| dy * y.above(0.0))),
    ("Reshape", vjp(shape::same_elements)),
    ("Resize", vjp(interpolation::resize)),
    ("RotaryEmbedding", Respelled),
    ("Round", Flat),
    ("Scatter", Respelled),
    ("ScatterElements", vjp(indexing::scatter_elements)),
    ("ScatterND", vjp(indexing::scatter_nd)),
    ("Selu", formula(activation::selu)),
    ("Shape", Discrete),
    ("Shrink", formula(activation::shrink)),
    ("Sigmoid", formula(|_, dy, _, y| dy * (y * (1.0 - y)))),
    ("Sign", Flat),
    ("SimplifiedLayerNormalization", Respelled),
    ("Sin", formula(|_, dy, x, _| dy * x.cos())),
    ("Sinh", formula(|_, dy, x, _| dy * x.cosh())),
    ("Size", Discrete),
    ("Slice", vjp(shape::slice)),
    ("Softmax", vjp(softmax::softmax)),
    ("Softplus", formula(|_, dy, x, _| dy * x.sigmoid())),
    (
        "Softsign",
        formula(|_, dy, x, _| dy / (x.abs() + 1.0).square()),
    ),
    ("SpaceToDepth", vjp(resampling::space_to_depth)),
    ("Split", vjp(shape::split)),
    ("Sqrt", formula(|_, dy, _, y| (dy * 0.5) / y)),
    ("Squeeze", vjp(shape::same_elements)),
    ("Sub", vjp(elementwise::sub)),
    ("Sum", vjp(elementwise::sum)),
    ("Swish", Respelled),
    ("Tan", formula(|_, dy, _, y| dy * (y.square() + 1.0))),
    ("Tanh", formula(|_, dy, _, y| dy * (1.0 - y.square()))),
    ("ThresholdedRelu", formula(activation::thresholded_relu)),
    ("Tile", vjp(resampling::tile)),
    ("TopK", vjp(indexing::top_k)),
    ("Transpose", vjp(shape::transpose)),
    ("Trilu", vjp(matrix::trilu)),
    ("Unsqueeze", vjp(shape::same_elements)),
    ("Upsample", Respelled),
    ("Where", vjp(elementwise::select)),
    ("Xor", Discrete),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::ops::OPS;

    #[test]
    fn every_op_has_a_row() {
        let ops: Vec<_> = OPS.iter().map(|op| op.name).collect();
        let rows: Vec<_> = GRADIENT.iter().map(|row| row.0).collect();
        assert_eq!(rows, ops);
    }

    #[test]
    fn the_readme_tells_every_op() {
        const README: &str = include_str!("../../../README.md");
        let names = |is: fn(&Gradient) -> bool| {
            let rows = GRADIENT.iter().filter(|row| is(&row.1));
            rows.map(|row| row.0).collect::<Vec<_>>().join(", ")
        };
        let expected = [
            ("Rule", names(|of| matches!(of, Ruled(_)))),
            ("Straight through", names(|of| matches!(of, Surrogate(_)))),
            ("Zero gradient", names(|of| matches!(of, Flat | Discrete))),
            ("Written with others", names(|of| matches!(of, Respelled))),
            ("No rule", names(|of| matches!(of, Missing(_)))),
        ];
        for (about, names) in expected {
            let row = format!("| {about} | {names} |");
            assert!(README.contains(&row), "README.md lacks the row\n{row}");
        }
    }
}
