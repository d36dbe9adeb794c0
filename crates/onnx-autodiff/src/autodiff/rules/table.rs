//! The gradient, op by op: one row for each op of `onnx::ops`, by name. In formulas dy, x and y are
//! the cotangent of the output, the input and the output of the node.

use std::f32::consts::FRAC_2_SQRT_PI;

use super::{
    activation, convolution, elementwise, matrix, normalisation, pooling, reduction, resampling,
    shape, softmax,
};
use crate::{
    autodiff::{
        context::{Rule, Vjp},
        expr::Expr,
    },
    onnx::graph::Node,
};

use Gradient::{Discrete, Flat, Missing, Respelled, Ruled};

/// How the backward walk treats an op.
pub(crate) enum Gradient {
    Ruled(Rule),
    /// Its float outputs are piecewise constant in the inputs: the cotangent is zero.
    Flat,
    /// Its outputs are integers or bools, which have no cotangent.
    Discrete,
    /// `normalise` replaces it by other ops.
    Respelled,
    /// No gradient: nodes of it between input and head are refused.
    Missing,
}

const fn formula(formula: fn(&Node, &Expr, &Expr, &Expr) -> Expr) -> Gradient {
    Ruled(Rule::Formula(formula))
}

const fn vjp(vjp: Vjp) -> Gradient {
    Ruled(Rule::Vjp(vjp))
}

/// The row of an op of the default domain.
pub(crate) fn gradient(op_type: &str) -> Option<&'static Gradient> {
    let at = GRADIENT.binary_search_by(|(name, _)| (*name).cmp(op_type));
    at.ok().map(|at| &GRADIENT[at].1)
}

/// The ops that have a rule, by name.
pub fn ruled() -> impl Iterator<Item = &'static str> {
    let ruled = GRADIENT.iter().filter(|row| matches!(row.1, Ruled(_)));
    ruled.map(|row| row.0)
}

static GRADIENT: &[(&str, Gradient)] = &[
    ("Abs", formula(|_, dy, x, _| dy * x.sign())),
    ("Acos", Missing),
    ("Acosh", Missing),
    ("Add", vjp(elementwise::add)),
    ("And", Discrete),
    ("ArgMax", Discrete),
    ("ArgMin", Discrete),
    ("Asin", Missing),
    ("Asinh", Missing),
    ("Atan", Missing),
    ("Atanh", Missing),
    ("AveragePool", vjp(pooling::average_pool)),
    (
        "BatchNormalization",
        vjp(normalisation::batch_normalization),
    ),
    ("Bernoulli", Missing),
    ("BitShift", Discrete),
    ("Cast", vjp(elementwise::cast)),
    ("CastLike", Missing),
    ("Ceil", Flat),
    ("Celu", Missing),
    ("Clip", vjp(activation::clip)),
    ("Concat", vjp(shape::concat)),
    ("ConstantOfShape", Flat),
    ("Conv", vjp(convolution::conv)),
    ("ConvTranspose", vjp(convolution::conv_transpose)),
    ("Cos", Missing),
    ("Cosh", Missing),
    ("CumSum", Missing),
    ("DepthToSpace", vjp(resampling::depth_to_space)),
    ("Div", vjp(elementwise::div)),
    ("Dropout", Respelled),
    ("Einsum", Missing),
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
    ("Gather", vjp(shape::gather)),
    ("GatherElements", Missing),
    ("GatherND", Missing),
    ("Gelu", Respelled),
    ("Gemm", vjp(matrix::gemm)),
    ("GlobalAveragePool", vjp(pooling::global_average_pool)),
    ("GlobalLpPool", Missing),
    ("GlobalMaxPool", vjp(pooling::global_max_pool)),
    ("Greater", Discrete),
    ("GreaterOrEqual", Discrete),
    ("GroupNormalization", Respelled),
    ("HardSigmoid", formula(activation::hard_sigmoid)),
    ("HardSwish", formula(activation::hard_swish)),
    ("Hardmax", Missing),
    ("Identity", formula(|_, dy, _, _| dy.clone())),
    (
        "InstanceNormalization",
        vjp(normalisation::instance_normalization),
    ),
    ("IsInf", Discrete),
    ("IsNaN", Discrete),
    ("LRN", vjp(normalisation::lrn)),
    (
        "LayerNormalization",
        vjp(normalisation::layer_normalization),
    ),
    ("LeakyRelu", formula(activation::leaky_relu)),
    ("Less", Discrete),
    ("LessOrEqual", Discrete),
    ("Log", formula(|_, dy, x, _| dy / x)),
    ("LogSoftmax", vjp(softmax::log_softmax)),
    ("LpNormalization", Missing),
    ("LpPool", Missing),
    ("MatMul", vjp(matrix::mat_mul)),
    ("Max", vjp(elementwise::first_equal)),
    ("MaxPool", vjp(pooling::max_pool)),
    ("Mean", Missing),
    ("MeanVarianceNormalization", Missing),
    ("Min", vjp(elementwise::first_equal)),
    ("Mish", formula(activation::mish)),
    ("Mod", Missing),
    ("Mul", vjp(elementwise::mul)),
    ("Multinomial", Discrete),
    ("Neg", formula(|_, dy, _, _| -dy)),
    ("Not", Discrete),
    ("OneHot", Flat),
    ("Or", Discrete),
    ("PRelu", vjp(activation::prelu)),
    ("Pad", vjp(shape::pad)),
    ("Pow", vjp(elementwise::pow)),
    ("RandomNormal", Missing),
    ("RandomNormalLike", Missing),
    ("RandomUniform", Missing),
    ("RandomUniformLike", Missing),
    ("Range", Flat),
    ("Reciprocal", formula(|_, dy, _, y| -(dy * y * y))),
    ("ReduceL1", Missing),
    ("ReduceL2", Missing),
    ("ReduceLogSum", Missing),
    ("ReduceLogSumExp", Missing),
    ("ReduceMax", vjp(reduction::reduce_max)),
    ("ReduceMean", vjp(reduction::reduce_mean)),
    ("ReduceMin", Missing),
    ("ReduceProd", Missing),
    ("ReduceSum", vjp(reduction::reduce_sum)),
    ("ReduceSumSquare", Missing),
    ("Relu", formula(|_, dy, _, y| dy * y.above(0.0))),
    ("Reshape", vjp(shape::same_elements)),
    ("Resize", vjp(resampling::resize)),
    ("Round", Flat),
    ("Scatter", Respelled),
    ("ScatterElements", Missing),
    ("ScatterND", Missing),
    ("Selu", formula(activation::selu)),
    ("Shape", Discrete),
    ("Shrink", Missing),
    ("Sigmoid", formula(|_, dy, _, y| dy * (y * (1.0 - y)))),
    ("Sign", Flat),
    ("Sin", Missing),
    ("Sinh", Missing),
    ("Size", Discrete),
    ("Slice", vjp(shape::slice)),
    ("Softmax", vjp(softmax::softmax)),
    ("Softplus", formula(|_, dy, x, _| dy * x.sigmoid())),
    ("Softsign", Missing),
    ("SpaceToDepth", vjp(resampling::space_to_depth)),
    ("Split", vjp(shape::split)),
    ("Sqrt", formula(|_, dy, _, y| (dy * 0.5) / y)),
    ("Squeeze", vjp(shape::same_elements)),
    ("Sub", vjp(elementwise::sub)),
    ("Sum", vjp(elementwise::sum)),
    ("Tan", Missing),
    ("Tanh", formula(|_, dy, _, y| dy * (1.0 - y.square()))),
    ("ThresholdedRelu", Missing),
    ("Tile", vjp(resampling::tile)),
    ("TopK", Missing),
    ("Transpose", vjp(shape::transpose)),
    ("Trilu", Missing),
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
            ("Zero gradient", names(|of| matches!(of, Flat | Discrete))),
            ("Written with others", names(|of| matches!(of, Respelled))),
            ("No rule", names(|of| matches!(of, Missing))),
        ];
        for (about, names) in expected {
            let row = format!("| {about} | {names} |");
            assert!(README.contains(&row), "README.md lacks the row\n{row}");
        }
    }
}
