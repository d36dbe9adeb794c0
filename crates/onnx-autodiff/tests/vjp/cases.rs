//! The table: a row per op and way of using it.

use crate::case::{Case, In};

fn floats(values: &[f32]) -> In {
    In::Floats(values.to_vec())
}

fn ints(values: &[i64]) -> In {
    In::Ints(values.to_vec())
}

fn noise(shape: &[usize]) -> In {
    In::Noise(shape.to_vec())
}

fn positive(shape: &[usize]) -> In {
    In::Positive(shape.to_vec())
}

fn unary(op: &'static str, about: &'static str) -> Case {
    Case::new(op, about, &[3, 4], &[In::X])
}

/// Both operands vary.
fn pair(op: &'static str, about: &'static str) -> Case {
    Case::new(op, about, &[6, 3], &[In::Part(0, 3), In::Part(3, 6)])
}

pub fn all() -> Vec<Case> {
    [
        elementwise(),
        activations(),
        convolutions(),
        pools(),
        matrices(),
        einsums(),
        shapes(),
        indices(),
        reductions(),
        normalisations(),
        attention(),
        resampling(),
        interpolations(),
        fused(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn elementwise() -> Vec<Case> {
    vec![
        unary("Abs", "both signs"),
        unary("Neg", "plain"),
        unary("Exp", "plain"),
        unary("Log", "positive").shift(3.0),
        unary("Sqrt", "positive").shift(3.0),
        unary("Reciprocal", "positive").shift(3.0),
        unary("Erf", "plain"),
        unary("Identity", "plain"),
        unary("Cast", "to double and not back").with("to", 1),
        pair("Add", "both vary"),
        pair("Sub", "both vary"),
        pair("Mul", "both vary"),
        pair("Div", "both vary").shift(4.0),
        Case::new(
            "Add",
            "a constant per channel",
            &[3, 2, 2],
            &[In::X, noise(&[3, 1, 1])],
        ),
        Case::new(
            "Add",
            "x widened by a constant",
            &[1, 3],
            &[In::X, noise(&[1, 4, 3])],
        ),
        Case::new(
            "Mul",
            "x widened along a one",
            &[4, 1],
            &[In::X, noise(&[4, 3])],
        ),
        Case::new(
            "Mul",
            "constant on the left",
            &[4, 3],
            &[noise(&[1]), In::X],
        ),
        Case::new(
            "Mul",
            "one part widens over the other",
            &[4, 3],
            &[In::Part(0, 1), In::Part(1, 4)],
        ),
        Case::new("Sub", "constant on the left", &[4], &[noise(&[4]), In::X]),
        Case::new("Div", "constant below", &[4], &[In::X, positive(&[4])]),
        Case::new("Div", "constant above", &[4], &[positive(&[4]), In::X]).shift(4.0),
        Case::new(
            "Sum",
            "three inputs, one widened",
            &[5, 2],
            &[In::Part(0, 2), In::Part(2, 4), In::Part(4, 5)],
        ),
        Case::new("Pow", "cube", &[4], &[In::X, In::Scalar(3.0)]),
        Case::new("Pow", "root", &[4], &[In::X, In::Scalar(0.5)]).shift(3.0),
        Case::new("Pow", "to the zeroth", &[4], &[In::X, In::Scalar(0.0)]),
        Case::new("Pow", "an integer", &[4], &[In::X, In::Index(2)]),
        Case::new("Pow", "of a constant", &[4], &[In::Scalar(1.7), In::X]),
        pair("Pow", "both vary").scale(0.5).shift(2.0),
        Case::new("Mod", "a constant", &[4], &[In::X, In::Scalar(0.7)]).with("fmod", 1),
        pair("Mod", "both vary").shift(4.0).with("fmod", 1),
        Case::new(
            "Mean",
            "three inputs, one widened",
            &[5, 2],
            &[In::Part(0, 2), In::Part(2, 4), In::Part(4, 5)],
        ),
        Case::new("CastLike", "plain", &[4], &[In::X, In::Scalar(1.0)]),
        unary("Sin", "plain"),
        unary("Cos", "plain"),
        unary("Tan", "plain").scale(0.5),
        unary("Asin", "plain").scale(0.4),
        unary("Acos", "plain").scale(0.4),
        unary("Atan", "plain"),
        unary("Sinh", "plain"),
        unary("Cosh", "plain"),
        unary("Asinh", "plain"),
        unary("Acosh", "above 1").shift(4.0),
        unary("Atanh", "plain").scale(0.4),
        pair("Max", "both vary"),
        pair("Min", "both vary"),
        Case::new("Max", "a constant", &[4], &[In::X, In::Scalar(0.3)]),
        Case::new(
            "Where",
            "both vary",
            &[4, 2],
            &[
                In::Truths(vec![2, 2], vec![true, false, false, true]),
                In::Part(0, 2),
                In::Part(2, 4),
            ],
        ),
    ]
}

fn activations() -> Vec<Case> {
    vec![
        unary("Relu", "plain"),
        unary("LeakyRelu", "default slope"),
        unary("LeakyRelu", "slope 0.3").with("alpha", 0.3f32),
        Case::new(
            "PRelu",
            "slope per channel",
            &[3, 2, 2],
            &[In::X, noise(&[3, 1, 1])],
        ),
        Case::new(
            "PRelu",
            "slope varies",
            &[6, 2],
            &[In::Part(0, 3), In::Part(3, 6)],
        ),
        unary("Elu", "default"),
        unary("Elu", "alpha 0.4").with("alpha", 0.4f32),
        unary("Selu", "default"),
        unary("Celu", "default"),
        unary("Celu", "alpha 0.4").with("alpha", 0.4f32),
        unary("Softsign", "plain"),
        unary("ThresholdedRelu", "alpha 0.3").with("alpha", 0.3f32),
        unary("Shrink", "plain")
            .with("lambd", 0.6f32)
            .with("bias", 0.2f32),
        unary("Swish", "plain").opset(24),
        unary("Swish", "alpha 0.7").with("alpha", 0.7f32).opset(24),
        unary("Sigmoid", "plain"),
        unary("Tanh", "plain"),
        unary("Softplus", "plain"),
        unary("Mish", "plain").opset(18),
        unary("HardSigmoid", "default").shift(2.0),
        unary("HardSigmoid", "as in MobileNet v3")
            .with("alpha", 1.0f32 / 6.0)
            .with("beta", 0.5f32)
            .shift(2.05),
        unary("HardSwish", "plain").shift(2.05),
        unary("HardSwish", "left bend").shift(-2.05),
        unary("Gelu", "exact").opset(20),
        unary("Gelu", "tanh").opset(20).with("approximate", "tanh"),
        Case::new(
            "Clip",
            "relu6",
            &[12],
            &[In::X, In::Scalar(0.0), In::Scalar(6.0)],
        )
        .shift(5.05),
        Case::new(
            "Clip",
            "two bounds that are no powers of two",
            &[12],
            &[In::X, In::Scalar(-0.7), In::Scalar(1.1)],
        ),
        Case::new("Clip", "lower only", &[12], &[In::X, In::Scalar(0.3)]),
        Case::new(
            "Clip",
            "upper only",
            &[12],
            &[In::X, In::Absent, In::Scalar(0.3)],
        ),
        Case::new("Clip", "bounds as attributes", &[12], &[In::X])
            .with("min", 0.0f32)
            .with("max", 1.1f32)
            .opset(7),
        Case::new("Softmax", "last axis", &[2, 5], &[In::X]),
        Case::new("Softmax", "channels of an image", &[3, 2, 2], &[In::X]).with("axis", 1),
        Case::new(
            "Softmax",
            "opset 11 runs over all axes from 1 on",
            &[3, 2],
            &[In::X],
        )
        .with("axis", 1)
        .opset(11),
        Case::new("LogSoftmax", "last axis", &[2, 5], &[In::X]),
        Case::new("LogSoftmax", "channels of an image", &[3, 2, 2], &[In::X]).with("axis", 1),
        Case::new("Dropout", "inference", &[4], &[In::X]),
        Case::new("Dropout", "ratio as attribute", &[4], &[In::X])
            .with("ratio", 0.5f32)
            .opset(7),
    ]
}

fn convolutions() -> Vec<Case> {
    let conv =
        |about, x: &[usize], weight: &[usize]| Case::new("Conv", about, x, &[In::X, noise(weight)]);
    let transposed = |about, x: &[usize], weight: &[usize]| {
        Case::new("ConvTranspose", about, x, &[In::X, noise(weight)])
    };
    vec![
        conv("3x3", &[2, 5, 6], &[3, 2, 3, 3]),
        Case::new(
            "Conv",
            "3x3 with bias",
            &[2, 5, 6],
            &[In::X, noise(&[3, 2, 3, 3]), noise(&[3])],
        )
        .ints("pads", &[1, 1, 1, 1]),
        conv("1x1", &[3, 4, 4], &[2, 3, 1, 1]),
        conv("1x1 stride 2", &[3, 5, 6], &[2, 3, 1, 1]).ints("strides", &[2, 2]),
        conv("3x3 stride 2 pad 1", &[2, 7, 8], &[3, 2, 3, 3])
            .ints("strides", &[2, 2])
            .ints("pads", &[1, 1, 1, 1]),
        conv("7x7 stride 2 pad 3", &[1, 9, 10], &[2, 1, 7, 7])
            .ints("strides", &[2, 2])
            .ints("pads", &[3, 3, 3, 3]),
        conv("stride 3, rows left over", &[2, 9, 8], &[2, 2, 2, 2]).ints("strides", &[3, 3]),
        conv("asymmetric pads", &[2, 5, 5], &[2, 2, 3, 2]).ints("pads", &[0, 1, 2, 0]),
        conv("asymmetric pads, stride 2", &[2, 6, 7], &[2, 2, 3, 3])
            .ints("pads", &[0, 1, 1, 0])
            .ints("strides", &[2, 2]),
        conv("different strides", &[2, 6, 7], &[2, 2, 3, 3]).ints("strides", &[1, 2]),
        conv("pads beyond the kernel", &[2, 4, 4], &[2, 2, 1, 2]).ints("pads", &[1, 2, 1, 0]),
        conv("dilated", &[2, 7, 7], &[2, 2, 3, 3])
            .ints("dilations", &[2, 2])
            .ints("pads", &[2, 2, 2, 2]),
        conv("dilated, stride 2", &[2, 8, 8], &[2, 2, 3, 2])
            .ints("dilations", &[2, 3])
            .ints("strides", &[2, 2]),
        conv("two groups", &[4, 5, 5], &[6, 2, 3, 3]).with("group", 2),
        conv("two groups, stride 2", &[4, 5, 5], &[6, 2, 3, 3])
            .with("group", 2)
            .ints("strides", &[2, 2]),
        conv("depthwise", &[4, 5, 5], &[4, 1, 3, 3])
            .with("group", 4)
            .ints("pads", &[1, 1, 1, 1]),
        conv(
            "depthwise with multiplier, stride 2",
            &[2, 6, 6],
            &[4, 1, 3, 3],
        )
        .with("group", 2)
        .ints("strides", &[2, 2]),
        conv("SAME_UPPER", &[2, 6, 7], &[2, 2, 3, 2])
            .with("auto_pad", "SAME_UPPER")
            .ints("strides", &[2, 2]),
        conv("SAME_LOWER", &[2, 6, 7], &[2, 2, 3, 2])
            .with("auto_pad", "SAME_LOWER")
            .ints("strides", &[2, 2]),
        conv("SAME_UPPER, stride 1", &[2, 5, 4], &[2, 2, 4, 2]).with("auto_pad", "SAME_UPPER"),
        conv("VALID", &[2, 5, 4], &[2, 2, 3, 2]).with("auto_pad", "VALID"),
        conv("one axis", &[2, 8], &[3, 2, 3]).ints("pads", &[1, 1]),
        conv("one axis, stride 2", &[2, 8], &[3, 2, 3]).ints("strides", &[2]),
        conv("three axes", &[1, 4, 4, 4], &[2, 1, 2, 3, 2]),
        transposed("plain", &[3, 4, 4], &[3, 2, 3, 3]),
        transposed("stride 2 pad 1, output padding", &[2, 4, 3], &[2, 2, 3, 3])
            .ints("strides", &[2, 2])
            .ints("pads", &[1, 1, 1, 1])
            .ints("output_padding", &[1, 1]),
        transposed("asymmetric pads", &[2, 4, 3], &[2, 2, 3, 3])
            .ints("strides", &[2, 1])
            .ints("pads", &[0, 1, 1, 0]),
        transposed("output shape", &[2, 4, 4], &[2, 2, 3, 3])
            .ints("strides", &[2, 2])
            .ints("output_shape", &[8, 8]),
        transposed("two groups, dilated", &[4, 3, 3], &[4, 2, 2, 2])
            .with("group", 2)
            .ints("dilations", &[2, 2]),
        transposed("SAME_UPPER", &[2, 4, 4], &[2, 2, 3, 3])
            .ints("strides", &[2, 2])
            .with("auto_pad", "SAME_UPPER"),
    ]
}

fn pools() -> Vec<Case> {
    let pool = |op, about, x: &[usize], kernel: &[i64]| {
        Case::new(op, about, x, &[In::X]).ints("kernel_shape", kernel)
    };
    let mut cases = Vec::new();
    for op in ["MaxPool", "AveragePool"] {
        cases.extend([
            pool(op, "2x2 stride 2", &[2, 6, 4], &[2, 2]).ints("strides", &[2, 2]),
            pool(op, "2x2 stride 2, a row left over", &[2, 7, 5], &[2, 2]).ints("strides", &[2, 2]),
            pool(op, "3x3 stride 2", &[2, 7, 7], &[3, 3]).ints("strides", &[2, 2]),
            pool(op, "3x3 stride 2 pad 1", &[2, 8, 7], &[3, 3])
                .ints("strides", &[2, 2])
                .ints("pads", &[1, 1, 1, 1]),
            pool(op, "3x3 stride 2, ceil", &[2, 8, 6], &[3, 3])
                .ints("strides", &[2, 2])
                .with("ceil_mode", 1),
            pool(op, "2x2 stride 2, ceil", &[2, 7, 5], &[2, 2])
                .ints("strides", &[2, 2])
                .with("ceil_mode", 1),
            pool(op, "3x3 stride 2 pad 1, ceil", &[2, 6, 6], &[3, 3])
                .ints("strides", &[2, 2])
                .ints("pads", &[1, 1, 1, 1])
                .with("ceil_mode", 1),
            pool(
                op,
                "stride beyond the kernel, ceil, no window begins there",
                &[2, 6, 6],
                &[2, 2],
            )
            .ints("strides", &[3, 3])
            .with("ceil_mode", 1),
            pool(
                op,
                "3x3 stride 3 pad 1, ceil, no window begins there along one axis",
                &[2, 8, 9],
                &[3, 3],
            )
            .ints("strides", &[3, 3])
            .ints("pads", &[1, 1, 1, 1])
            .with("ceil_mode", 1),
            pool(op, "3x3 stride 1 pad 1", &[2, 5, 5], &[3, 3]).ints("pads", &[1, 1, 1, 1]),
            pool(op, "stride beyond the kernel", &[2, 7, 7], &[2, 2]).ints("strides", &[3, 3]),
            pool(op, "asymmetric pads", &[2, 6, 6], &[3, 3])
                .ints("strides", &[2, 2])
                .ints("pads", &[0, 1, 1, 0]),
            pool(op, "SAME_UPPER", &[2, 6, 7], &[3, 3])
                .ints("strides", &[2, 2])
                .with("auto_pad", "SAME_UPPER"),
            pool(op, "SAME_LOWER", &[2, 6, 7], &[2, 2]).with("auto_pad", "SAME_LOWER"),
            pool(op, "one axis", &[2, 9], &[3]).ints("strides", &[2]),
            pool(op, "three axes", &[1, 4, 4, 4], &[2, 2, 2]).ints("strides", &[2, 2, 2]),
        ]);
    }
    cases.extend([
        pool("MaxPool", "dilated", &[2, 7, 7], &[2, 2])
            .ints("dilations", &[2, 3])
            .ints("strides", &[2, 1]),
        pool("AveragePool", "pads count", &[2, 8, 7], &[3, 3])
            .ints("strides", &[2, 2])
            .ints("pads", &[1, 1, 1, 1])
            .with("count_include_pad", 1),
        pool("AveragePool", "pads count, stride 1", &[2, 5, 5], &[3, 3])
            .ints("pads", &[1, 1, 1, 1])
            .with("count_include_pad", 1),
        pool("AveragePool", "pads count, ceil", &[2, 6, 6], &[3, 3])
            .ints("strides", &[2, 2])
            .ints("pads", &[1, 1, 1, 1])
            .with("count_include_pad", 1)
            .with("ceil_mode", 1),
        pool("LpPool", "p 2", &[2, 6, 4], &[2, 2]).ints("strides", &[2, 2]),
        pool("LpPool", "p 3, overlapping, padded", &[2, 6, 5], &[3, 3])
            .ints("pads", &[1, 0, 1, 1])
            .with("p", 3),
        pool(
            "LpPool",
            "p 1, one side padded by itself",
            &[2, 5, 5],
            &[2, 3],
        )
        .ints("strides", &[2, 1])
        .with("auto_pad", "SAME_UPPER")
        .with("p", 1),
        pool("LpPool", "ceil, dilated", &[2, 8, 7], &[2, 2])
            .ints("strides", &[2, 2])
            .ints("dilations", &[2, 1])
            .with("ceil_mode", 1)
            .opset(18),
        Case::new("GlobalLpPool", "p 2", &[3, 4, 5], &[In::X]),
        Case::new("GlobalLpPool", "p 3", &[3, 4, 5], &[In::X]).with("p", 3),
        Case::new("MeanVarianceNormalization", "pixels", &[3, 4, 5], &[In::X])
            .ints("axes", &[2, 3]),
        Case::new(
            "MeanVarianceNormalization",
            "channels",
            &[3, 4, 5],
            &[In::X],
        )
        .ints("axes", &[1, -1]),
        Case::new("GlobalAveragePool", "plain", &[3, 4, 5], &[In::X]),
        Case::new("GlobalMaxPool", "plain", &[3, 4, 5], &[In::X]),
        Case::new("LRN", "odd size", &[7, 2, 2], &[In::X])
            .with("size", 5)
            .with("alpha", 0.9f32)
            .with("bias", 2.0f32),
        Case::new("LRN", "wider than the channels", &[3, 2, 2], &[In::X])
            .with("size", 7)
            .with("alpha", 0.7f32)
            .with("beta", 0.6f32),
    ]);
    cases
}

fn matrices() -> Vec<Case> {
    let gemm = |about, b: &[usize]| Case::new("Gemm", about, &[4], &[In::X, noise(b)]);
    vec![
        gemm("plain", &[4, 3]),
        gemm("transB", &[3, 4]).with("transB", 1),
        Case::new(
            "Gemm",
            "alpha, beta, bias",
            &[4],
            &[In::X, noise(&[3, 4]), noise(&[3])],
        )
        .with("transB", 1)
        .with("alpha", 0.5f32)
        .with("beta", 2.0f32),
        Case::new(
            "Gemm",
            "the bias varies",
            &[6],
            &[In::Part(0, 3), noise(&[3, 3]), In::Part(3, 6)],
        )
        .with("beta", 0.3f32),
        Case::new("MatMul", "constant right", &[4], &[In::X, noise(&[4, 3])]),
        Case::new(
            "MatMul",
            "constant right, a row per token",
            &[5, 4],
            &[In::X, noise(&[4, 3])],
        ),
        Case::new("MatMul", "constant left", &[4, 3], &[noise(&[5, 4]), In::X]),
        Case::new(
            "MatMul",
            "both vary",
            &[6, 3],
            &[In::Part(0, 3), In::Part(3, 6)],
        ),
        Case::new(
            "MatMul",
            "both vary, batched twice",
            &[4, 3, 3],
            &[In::Part(0, 2), In::Part(2, 4)],
        ),
        Case::new(
            "MatMul",
            "a vector on the right",
            &[5, 4],
            &[In::X, noise(&[4])],
        ),
        Case::new(
            "MatMul",
            "a vector on the left",
            &[5, 4],
            &[noise(&[5]), In::X],
        ),
        Case::new("Trilu", "upper", &[3, 4], &[In::X]),
        Case::new(
            "Trilu",
            "lower, from the second diagonal",
            &[4, 3],
            &[In::X, In::Index(1)],
        )
        .with("upper", 0),
        Case::new(
            "MatMul",
            "right widens over the batch",
            &[3, 2, 4],
            &[In::X, noise(&[3, 4, 2])],
        ),
    ]
}

fn einsums() -> Vec<Case> {
    let one = |equation: &'static str, x: &[usize]| {
        Case::new("Einsum", equation, x, &[In::X]).with("equation", equation)
    };
    let with = |equation: &'static str, x: &[usize], other: &[usize]| {
        Case::new("Einsum", equation, x, &[In::X, noise(other)]).with("equation", equation)
    };
    let both = |equation: &'static str, x: &[usize]| {
        let half = x[0] / 2;
        let parts = [In::Part(0, half), In::Part(half, 2 * half)];
        Case::new("Einsum", equation, x, &parts).with("equation", equation)
    };
    vec![
        with("bij,jk->bik", &[3, 4], &[4, 2]),
        with("...ij,jk->...ik", &[2, 3, 4], &[4, 2]),
        with("bij , jk", &[3, 4], &[4, 2]),
        with("bij,kj->bki", &[3, 4], &[2, 4]),
        with("bij,k->bi", &[3, 4], &[2]),
        with("bij,jik->bk", &[3, 4], &[4, 3, 2]),
        both("bhid,bhjd->bhij", &[4, 3, 2]),
        both("bhij,bhjd->bhid", &[4, 3, 3]),
        both("bi,bj->bij", &[6]),
        both("...,...->...", &[4, 2]),
        one("bij->bji", &[3, 4]),
        one("bij->bj", &[3, 4]),
        Case::new(
            "Einsum",
            "three operands",
            &[4, 3],
            &[In::Part(0, 2), noise(&[3, 3]), In::Part(2, 4)],
        )
        .with("equation", "bin,nm,bjm->bij"),
    ]
}

fn shapes() -> Vec<Case> {
    vec![
        Case::new("Flatten", "axis 1", &[2, 3, 2], &[In::X]),
        Case::new(
            "Reshape",
            "one dim inferred",
            &[4, 3],
            &[In::X, ints(&[0, 2, -1])],
        ),
        Case::new("Squeeze", "axes given", &[3, 1, 1], &[In::X, ints(&[2, 3])]),
        Case::new("Squeeze", "axes as attribute", &[3, 1, 1], &[In::X])
            .ints("axes", &[2, 3])
            .opset(11),
        Case::new("Unsqueeze", "axes given", &[3], &[In::X, ints(&[1, 3])]),
        Case::new("Unsqueeze", "axes as attribute", &[3], &[In::X])
            .ints("axes", &[1, 3])
            .opset(11),
        Case::new("Transpose", "three axes", &[3, 2, 4], &[In::X]).ints("perm", &[0, 3, 1, 2]),
        Case::new(
            "Expand",
            "a one and a new axis",
            &[3, 1],
            &[In::X, ints(&[1, 3, 4])],
        ),
        Case::new(
            "Concat",
            "two parts and a constant",
            &[5, 2],
            &[In::Part(0, 2), In::X, In::Part(1, 3)],
        )
        .with("axis", 1),
        Case::new("Split", "equal parts", &[6, 2], &[In::X])
            .with("axis", 1)
            .outputs(2, &[0, 1]),
        Case::new(
            "Split",
            "sizes given, one part unread",
            &[6, 2],
            &[In::X, ints(&[1, 2, 3])],
        )
        .with("axis", 1)
        .outputs(3, &[0, 2]),
        Case::new("Split", "sizes as attribute", &[6, 2], &[In::X])
            .with("axis", 1)
            .ints("split", &[4, 2])
            .outputs(2, &[0, 1])
            .opset(11),
        Case::new(
            "Slice",
            "two axes",
            &[5, 4],
            &[In::X, ints(&[1, -3]), ints(&[4, 9]), ints(&[1, 2])],
        ),
        Case::new(
            "Slice",
            "step 2",
            &[7, 2],
            &[In::X, ints(&[1]), ints(&[7]), ints(&[1]), ints(&[2])],
        ),
        Case::new(
            "Slice",
            "backwards",
            &[7, 2],
            &[In::X, ints(&[-1]), ints(&[-99]), ints(&[1]), ints(&[-2])],
        ),
        Case::new("Slice", "as attributes", &[5, 2], &[In::X])
            .ints("starts", &[1])
            .ints("ends", &[3])
            .ints("axes", &[1])
            .opset(9),
        Case::new(
            "Gather",
            "some, one twice",
            &[5, 2],
            &[In::X, ints(&[3, -1, 3])],
        )
        .with("axis", 1),
        Case::new("Gather", "one", &[5, 2], &[In::X, In::Index(2)]).with("axis", 1),
        Case::new(
            "Pad",
            "constant",
            &[3, 2],
            &[In::X, ints(&[0, 1, 2, 0, 3, 0])],
        ),
        Case::new(
            "Pad",
            "negative",
            &[5, 4],
            &[In::X, ints(&[0, -1, 1, 0, 0, -2])],
        ),
        Case::new(
            "Pad",
            "reflect",
            &[2, 4, 5],
            &[In::X, ints(&[0, 0, 2, 1, 0, 0, 1, 3])],
        )
        .with("mode", "reflect"),
        Case::new("Pad", "edge", &[2, 3], &[In::X, ints(&[0, 0, 2, 0, 0, 3])]).with("mode", "edge"),
        Case::new("Pad", "wrap", &[3, 4], &[In::X, ints(&[0, 2, 0, 0, 1, 3])])
            .with("mode", "wrap")
            .opset(19),
        Case::new("Pad", "as attribute", &[3, 2], &[In::X])
            .ints("pads", &[0, 1, 2, 0, 3, 0])
            .opset(9),
    ]
}

fn indices() -> Vec<Case> {
    let often = [vec![2; 20], vec![0, -1]].concat();
    vec![
        Case::new("Gather", "one very often", &[5, 2], &[In::X, ints(&often)]).with("axis", 1),
        Case::new(
            "Gather",
            "computed indices",
            &[5, 2],
            &[In::X, In::Computed(vec![3, -1, 3])],
        )
        .with("axis", 1),
        Case::new(
            "Gather",
            "computed indices, the batch behind them",
            &[5, 2],
            &[In::X, In::Computed(vec![3, -1, 3])],
        )
        .turned(),
        Case::new(
            "GatherElements",
            "the largest",
            &[4, 2],
            &[In::X, In::Order(2)],
        )
        .with("axis", 1),
        Case::new(
            "GatherND",
            "rows, one twice",
            &[4, 2],
            &[In::X, In::Indices(vec![3, 1], vec![2, -4, 2])],
        )
        .turned(),
        Case::new(
            "GatherND",
            "an element of each row of the batch",
            &[2, 2],
            &[In::X, In::Order(1)],
        )
        .with("batch_dims", 1),
        Case::new(
            "ScatterElements",
            "data and updates vary",
            &[4, 2],
            &[In::X, In::Order(2), In::Part(0, 2)],
        )
        .with("axis", 1),
        Case::new(
            "ScatterElements",
            "added",
            &[4, 2],
            &[In::X, In::Order(2), In::Part(0, 2)],
        )
        .with("axis", 1)
        .with("reduction", "add")
        .opset(18),
        Case::new(
            "ScatterND",
            "data and updates vary",
            &[4, 2],
            &[In::X, In::Indices(vec![2, 1], vec![3, 0]), In::Part(1, 3)],
        )
        .turned(),
        Case::new("TopK", "largest", &[5, 2], &[In::X, ints(&[2])])
            .with("axis", 1)
            .outputs(2, &[0]),
        Case::new("TopK", "smallest", &[2, 5], &[In::X, ints(&[3])])
            .with("largest", 0)
            .outputs(2, &[0]),
        Case::new("CumSum", "plain", &[4, 2], &[In::X, In::Index(1)]),
        Case::new("CumSum", "exclusive", &[4, 2], &[In::X, In::Index(-1)]).with("exclusive", 1),
        Case::new("CumSum", "backwards", &[4, 2], &[In::X, In::Index(1)]).with("reverse", 1),
        Case::new("CumSum", "both", &[4, 2], &[In::X, In::Index(1)])
            .with("reverse", 1)
            .with("exclusive", 1),
    ]
}

fn reductions() -> Vec<Case> {
    let mut cases = Vec::new();
    for (op, shift) in [
        ("ReduceL1", 0.0),
        ("ReduceL2", 0.0),
        ("ReduceLogSum", 3.0),
        ("ReduceLogSumExp", 0.0),
        ("ReduceMax", 0.0),
        ("ReduceMean", 0.0),
        ("ReduceMin", 0.0),
        ("ReduceProd", 0.0),
        ("ReduceSum", 0.0),
        ("ReduceSumSquare", 0.0),
    ] {
        let of = |about, x: &[usize], inputs: &[In]| Case::new(op, about, x, inputs).shift(shift);
        cases.extend([
            of("image axes, kept", &[3, 2, 4], &[In::X])
                .ints("axes", &[2, 3])
                .opset(11),
            of("image axes, dropped", &[3, 2, 4], &[In::X])
                .ints("axes", &[-1, 2])
                .with("keepdims", 0)
                .opset(11),
            of("channels", &[3, 2, 2], &[In::X])
                .ints("axes", &[1])
                .opset(11),
            of("axes as input", &[3, 2, 2], &[In::X, ints(&[2])])
                .with("keepdims", 0)
                .opset(18),
            of("axes apart", &[3, 2, 2], &[In::X, ints(&[3, -3])]).opset(18),
        ]);
    }
    cases.extend(["ReduceMean", "ReduceMax", "ReduceSum"].map(|op| {
        Case::new(op, "over no axes", &[3, 2], &[In::X])
            .with("noop_with_empty_axes", 1)
            .opset(18)
    }));
    cases
}

fn normalisations() -> Vec<Case> {
    vec![
        Case::new(
            "BatchNormalization",
            "an image",
            &[3, 2, 2],
            &[In::X, noise(&[3]), noise(&[3]), noise(&[3]), positive(&[3])],
        ),
        Case::new(
            "BatchNormalization",
            "a vector",
            &[3],
            &[In::X, noise(&[3]), noise(&[3]), noise(&[3]), positive(&[3])],
        )
        .with("epsilon", 0.1f32),
        Case::new(
            "LayerNormalization",
            "last axis",
            &[3, 4],
            &[In::X, noise(&[4]), noise(&[4])],
        ),
        Case::new(
            "LayerNormalization",
            "two axes",
            &[3, 4],
            &[In::X, noise(&[3, 4])],
        )
        .with("axis", 1),
        Case::new(
            "LayerNormalization",
            "mean and deviation are read",
            &[3, 4],
            &[In::X, noise(&[4]), noise(&[4])],
        )
        .outputs(3, &[0, 1, 2]),
        Case::new(
            "LayerNormalization",
            "only the mean is read",
            &[3, 4],
            &[In::X, noise(&[4])],
        )
        .outputs(3, &[1]),
        Case::new("LpNormalization", "p 2", &[3, 4], &[In::X]),
        Case::new("LpNormalization", "p 1, channels", &[3, 4], &[In::X])
            .with("p", 1)
            .with("axis", 1),
        Case::new(
            "RMSNormalization",
            "last axis",
            &[3, 4],
            &[In::X, noise(&[4])],
        )
        .opset(23),
        Case::new(
            "RMSNormalization",
            "two axes",
            &[3, 4],
            &[In::X, noise(&[3, 4])],
        )
        .with("axis", 1)
        .with("epsilon", 0.1f32)
        .opset(23),
        Case::new(
            "SimplifiedLayerNormalization",
            "as ONNX Runtime writes it",
            &[3, 4],
            &[In::X, noise(&[4])],
        ),
        Case::new(
            "InstanceNormalization",
            "an image",
            &[3, 3, 3],
            &[In::X, noise(&[3]), noise(&[3])],
        ),
        Case::new(
            "GroupNormalization",
            "a scale per group",
            &[6, 2, 3],
            &[In::X, noise(&[3]), noise(&[3])],
        )
        .with("num_groups", 3)
        .opset(18),
        Case::new(
            "GroupNormalization",
            "a scale per channel",
            &[6, 2, 3],
            &[In::X, noise(&[6]), noise(&[6])],
        )
        .with("num_groups", 3)
        .opset(21),
    ]
}

/// Queries, keys and values are parts of x.
fn attention() -> Vec<Case> {
    let parts = [In::Part(0, 2), In::Part(2, 4), In::Part(4, 6)];
    let heads = |about| Case::new("Attention", about, &[6, 3, 4], &parts).opset(23);
    let masked = |about, mask: In| {
        let inputs = [&parts[..], &[mask]].concat();
        Case::new("Attention", about, &[6, 3, 4], &inputs).opset(23)
    };
    let grouped = [In::Part(0, 4), In::Part(4, 6), In::Part(6, 8)];
    let flat = |about: &'static str, count: usize| {
        Case::new(
            "Attention",
            about,
            &[9, 4],
            &[In::Part(0, 3), In::Part(3, 6), In::Part(6, 9)],
        )
        .with("q_num_heads", count as i64)
        .with("kv_num_heads", count as i64)
        .opset(23)
    };
    let mask = [true, false, true, true, true, false, false, true, true];
    let rotary = |about, x: &[usize], width: usize| {
        let angles = In::Rows(vec![x[x.len() - 2], width]);
        Case::new(
            "RotaryEmbedding",
            about,
            x,
            &[In::X, angles.clone(), angles],
        )
        .opset(23)
    };
    vec![
        heads("heads apart"),
        heads("a scale, and scores capped")
            .with("scale", 0.4f32)
            .with("softcap", 1.5f32),
        heads("causal").with("is_causal", 1),
        heads("the weights are read")
            .with("qk_matmul_output_mode", 3)
            .outputs(4, &[0, 3]),
        heads("opset 24").opset(24),
        masked("a mask that is added", noise(&[3, 3])),
        masked(
            "a mask of truth values",
            In::Truths(vec![3, 3], mask.to_vec()),
        ),
        Case::new(
            "Attention",
            "several queries for a key",
            &[8, 3, 4],
            &grouped,
        )
        .opset(23),
        flat("one head", 1),
        flat("two heads side by side", 2),
        rotary("halves", &[2, 3, 8], 4),
        rotary("pairs", &[2, 3, 8], 4).with("interleaved", 1),
        rotary("a part of each head", &[2, 3, 8], 2).with("rotary_embedding_dim", 4),
        rotary("heads side by side", &[3, 8], 2).with("num_heads", 2),
        Case::new(
            "RotaryEmbedding",
            "positions given",
            &[3, 4],
            &[In::X, noise(&[4, 2]), noise(&[4, 2]), In::Largest],
        )
        .with("num_heads", 1)
        .opset(23),
    ]
}

fn resampling() -> Vec<Case> {
    let grid = |about| {
        let inputs = [In::X, In::Rows(vec![3, 2, 2])];
        Case::new("GridSample", about, &[2, 4, 5], &inputs).opset(16)
    };
    vec![
        Case::new("DepthToSpace", "DCR", &[8, 2, 3], &[In::X]).with("blocksize", 2),
        Case::new("DepthToSpace", "CRD", &[8, 2, 3], &[In::X])
            .with("blocksize", 2)
            .with("mode", "CRD"),
        Case::new("SpaceToDepth", "plain", &[2, 4, 6], &[In::X]).with("blocksize", 2),
        Case::new("Tile", "two axes", &[2, 3], &[In::X, ints(&[1, 2, 3])]),
        Case::new(
            "Col2Im",
            "blocks apart",
            &[8, 6],
            &[In::X, ints(&[4, 6]), ints(&[2, 2])],
        )
        .ints("strides", &[2, 2])
        .opset(18),
        Case::new(
            "Col2Im",
            "blocks that overlap, padded and dilated",
            &[12, 15],
            &[In::X, ints(&[5, 6]), ints(&[2, 3])],
        )
        .ints("pads", &[0, 1, 1, 0])
        .ints("dilations", &[1, 2])
        .opset(18),
        Case::new(
            "Col2Im",
            "one axis",
            &[4, 3],
            &[In::X, ints(&[4]), ints(&[2])],
        )
        .opset(18),
        grid("linear, zeros outside"),
        grid("linear, the border outside").with("padding_mode", "border"),
        grid("corners aligned").with("align_corners", 1),
        grid("nearest").with("mode", "nearest"),
        grid("nearest, the border outside")
            .with("mode", "nearest")
            .with("padding_mode", "border"),
        grid("linear, mirrored").with("padding_mode", "reflection"),
        grid("linear, mirrored at the corners")
            .with("padding_mode", "reflection")
            .with("align_corners", 1),
        grid("nearest, mirrored")
            .with("mode", "nearest")
            .with("padding_mode", "reflection"),
        grid("cubic, zeros outside").with("mode", "bicubic"),
        grid("cubic, the border outside")
            .with("mode", "bicubic")
            .with("padding_mode", "border"),
        grid("cubic, mirrored")
            .with("mode", "bicubic")
            .with("padding_mode", "reflection"),
        grid("cubic, mirrored at the corners")
            .with("mode", "bicubic")
            .with("padding_mode", "reflection")
            .with("align_corners", 1),
        Case::new(
            "GridSample",
            "the grid varies, cubic, mirrored",
            &[2, 3, 2],
            &[In::Rows(vec![2, 4, 5]), In::X],
        )
        .with("mode", "bicubic")
        .with("padding_mode", "reflection")
        .scale(0.6)
        .shift(0.03)
        .opset(16),
        Case::new(
            "GridSample",
            "the grid varies",
            &[2, 3, 2],
            &[In::Rows(vec![2, 4, 5]), In::X],
        )
        .scale(0.6)
        .shift(0.03)
        .opset(16),
        Case::new(
            "Resize",
            "nearest, asymmetric",
            &[2, 3, 2],
            &[In::X, In::Absent, floats(&[1.0, 1.0, 2.0, 3.0])],
        )
        .with("mode", "nearest")
        .with("coordinate_transformation_mode", "asymmetric")
        .with("nearest_mode", "floor"),
        Case::new(
            "Resize",
            "nearest, half pixel",
            &[2, 3, 2],
            &[In::X, In::Absent, floats(&[1.0, 1.0, 2.0, 2.0])],
        ),
    ]
}

fn interpolations() -> Vec<Case> {
    let resize = |mode: &'static str, placed: &'static str, sizes: In| {
        let inputs = [In::X, In::Absent, In::Absent, sizes];
        Case::new("Resize", placed, &[2, 5, 4], &inputs)
            .with("mode", mode)
            .with("coordinate_transformation_mode", placed)
            .ints("axes", &[2, 3])
            .opset(18)
    };
    let scaled = |mode: &'static str, about, scales: &[f32]| {
        Case::new(
            "Resize",
            about,
            &[2, 5, 4],
            &[In::X, In::Absent, floats(scales)],
        )
        .with("mode", mode)
    };
    let mut cases = Vec::new();
    for mode in ["nearest", "linear", "cubic"] {
        for placed in [
            "half_pixel",
            "pytorch_half_pixel",
            "align_corners",
            "asymmetric",
        ] {
            for sizes in [[7, 9], [3, 2], [1, 5]] {
                cases.push(resize(mode, placed, ints(&sizes)));
            }
        }
        if mode != "nearest" {
            cases.extend(
                [[3, 2], [1, 9], [7, 3]]
                    .map(|sizes| resize(mode, "half_pixel", ints(&sizes)).with("antialias", 1)),
            );
        }
        cases.extend([
            scaled(mode, "scales", &[1.0, 1.0, 1.5, 2.0]),
            scaled(
                mode,
                "scales that leave a part of a pixel",
                &[1.0, 1.0, 0.7, 1.3],
            ),
        ]);
    }
    for rounded in ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"] {
        cases.extend(["half_pixel", "asymmetric"].map(|placed| {
            scaled("nearest", rounded, &[1.0, 1.0, 2.0, 0.5])
                .with("nearest_mode", rounded)
                .with("coordinate_transformation_mode", placed)
        }));
    }
    cases.extend([
        scaled(
            "cubic",
            "another kernel, inside only",
            &[1.0, 1.0, 1.5, 0.6],
        )
        .with("cubic_coeff_a", -0.5f32)
        .with("exclude_outside", 1),
        Case::new(
            "Resize",
            "only some axes",
            &[2, 5, 4],
            &[In::X, In::Absent, floats(&[1.6, 0.5])],
        )
        .with("mode", "linear")
        .ints("axes", &[3, 2])
        .opset(18),
        scaled("linear", "antialiased scales", &[1.0, 1.0, 0.6, 0.7])
            .with("antialias", 1)
            .opset(18),
        scaled("cubic", "antialiased, inside only", &[1.0, 1.0, 0.4, 1.5])
            .with("antialias", 1)
            .with("exclude_outside", 1)
            .with("cubic_coeff_a", -0.5f32)
            .opset(18),
        Case::new(
            "Resize",
            "one axis",
            &[2, 5],
            &[In::X, In::Absent, floats(&[1.0, 1.0, 2.0])],
        )
        .with("mode", "linear"),
        Case::new(
            "Resize",
            "three axes",
            &[1, 2, 3, 2],
            &[In::X, In::Absent, floats(&[1.0, 1.0, 2.0, 1.5, 2.0])],
        )
        .with("mode", "linear"),
        Case::new(
            "Resize",
            "of opset 10",
            &[2, 3, 2],
            &[In::X, floats(&[1.0, 1.0, 2.0, 2.5])],
        )
        .with("mode", "linear")
        .opset(10),
        Case::new(
            "Upsample",
            "linear",
            &[2, 3, 2],
            &[In::X, floats(&[1.0, 1.0, 2.0, 2.5])],
        )
        .with("mode", "linear")
        .opset(9),
    ]);
    cases
}

/// What ONNX Runtime's optimiser writes.
fn fused() -> Vec<Case> {
    let bias = || noise(&[4]);
    let cases = vec![
        Case::new("Gelu", "exact", &[3, 4], &[In::X]),
        Case::new("BiasGelu", "plain", &[3, 4], &[In::X, bias()]),
        Case::new("FastGelu", "without bias", &[3, 4], &[In::X]),
        Case::new("FastGelu", "with bias", &[3, 4], &[In::X, bias()]),
        Case::new("QuickGelu", "plain", &[3, 4], &[In::X]),
        Case::new("FusedMatMul", "plain", &[3, 4], &[In::X, noise(&[4, 2])]),
        Case::new(
            "FusedMatMul",
            "both turned",
            &[3, 4],
            &[In::X, noise(&[2, 3])],
        )
        .with("transA", 1)
        .with("transB", 1)
        .with("alpha", 0.3f32),
        Case::new(
            "FusedGemm",
            "LeakyRelu",
            &[4],
            &[In::X, noise(&[3, 4]), noise(&[3])],
        )
        .with("transB", 1)
        .with("activation", "LeakyRelu")
        .with("activation_alpha", 0.2f32),
        Case::new(
            "FusedConv",
            "Relu",
            &[2, 5, 5],
            &[In::X, noise(&[3, 2, 3, 3]), noise(&[3])],
        )
        .ints("pads", &[1, 1, 1, 1])
        .with("activation", "Relu"),
        Case::new(
            "FusedConv",
            "a sum, then Clip",
            &[2, 5, 5],
            &[In::X, noise(&[2, 2, 3, 3]), noise(&[2]), In::X],
        )
        .ints("pads", &[1, 1, 1, 1])
        .with("activation", "Clip")
        .with("activation_params", vec![-1.3f32, 1.7])
        // Some elements are near a bound.
        .tolerance(5e-3),
        Case::new(
            "SkipLayerNormalization",
            "all inputs, and the sum is read",
            &[6, 4],
            &[
                In::Part(0, 3),
                In::Part(3, 6),
                noise(&[4]),
                noise(&[4]),
                noise(&[4]),
            ],
        )
        .with("epsilon", 1e-5f32)
        .outputs(4, &[0, 3]),
        Case::new(
            "SkipSimplifiedLayerNormalization",
            "plain",
            &[6, 4],
            &[In::Part(0, 3), In::Part(3, 6), noise(&[4])],
        )
        .with("epsilon", 1e-5f32),
    ];
    cases
        .into_iter()
        .map(|case| case.domain("com.microsoft"))
        .collect()
}
