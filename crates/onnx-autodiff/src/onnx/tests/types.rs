use indexmap::IndexMap;

use super::value;
use crate::onnx::graph::{Dim, Element, Literal, Node, ValueType};
use crate::onnx::{Types, infer_node};

/// What `node` gives for float inputs x, w, b of these shapes (0: the batch N) and constants c0, c1
/// …: `[N, 4] [N, 3]`.
fn told(node: &Node, shapes: &[&[usize]], constants: &[Literal]) -> String {
    let mut types = Types::default();
    for (name, shape) in ["x", "w", "b"].into_iter().zip(shapes) {
        types.insert(name, value(name, shape).value_type);
    }
    let constants: IndexMap<String, Literal> = constants
        .iter()
        .enumerate()
        .map(|(i, literal)| (format!("c{i}"), literal.clone()))
        .collect();
    let show = |kind: &Option<ValueType>| match kind {
        None => "?".to_string(),
        Some(ValueType {
            element: Element::Float,
            shape,
        }) => {
            format!(
                "[{}]",
                shape
                    .iter()
                    .map(Dim::to_string)
                    .collect::<Vec<_>>()
                    .join(", ")
            )
        }
        Some(other) => other.to_string(),
    };
    match infer_node(node, &types, &constants) {
        Ok(inferred) => inferred.iter().map(show).collect::<Vec<_>>().join(" "),
        Err(error) => error.to_string(),
    }
}

/// A node of `inputs` separated by spaces (`-`: absent) with the output y.
fn op(op_type: &str, inputs: &str) -> Node {
    let inputs = inputs
        .split(' ')
        .map(|name| if name == "-" { "" } else { name });
    Node::new(op_type, inputs, vec!["y"])
}

fn ints(values: &[i64]) -> Vec<i64> {
    values.to_vec()
}

type Row = (
    Node,
    &'static [&'static [usize]],
    Vec<Literal>,
    &'static str,
);

fn windows() -> Vec<Row> {
    const OPERANDS: &[&[usize]] = &[&[0, 4, 10, 11], &[6, 4, 3, 3]];
    const UP: &[&[usize]] = &[&[0, 4, 5, 6], &[4, 3, 3, 3]];
    let conv = || op("Conv", "x w");
    let transposed = || op("ConvTranspose", "x w").with("strides", ints(&[2, 2]));
    let pool = |kernel: i64, stride: i64| {
        op("AveragePool", "x")
            .with("kernel_shape", ints(&[kernel; 2]))
            .with("strides", ints(&[stride; 2]))
    };
    let same = |stride: i64| {
        conv()
            .with("auto_pad", "SAME_UPPER")
            .with("strides", ints(&[stride; 2]))
    };
    vec![
        (conv(), OPERANDS, vec![], "[N, 6, 8, 9]"),
        (
            conv().with("pads", ints(&[1, 0, 2, 0])),
            OPERANDS,
            vec![],
            "[N, 6, 11, 9]",
        ),
        (
            conv().with("strides", ints(&[2, 3])),
            OPERANDS,
            vec![],
            "[N, 6, 4, 3]",
        ),
        (
            conv().with("dilations", ints(&[2, 3])),
            OPERANDS,
            vec![],
            "[N, 6, 6, 5]",
        ),
        (
            conv().with("group", 2),
            &[&[0, 4, 5, 5], &[6, 2, 1, 1]],
            vec![],
            "[N, 6, 5, 5]",
        ),
        (same(2), OPERANDS, vec![], "[N, 6, 5, 6]"),
        (same(3), OPERANDS, vec![], "[N, 6, 4, 4]"),
        (
            conv()
                .with("auto_pad", "VALID")
                .with("strides", ints(&[2, 2])),
            OPERANDS,
            vec![],
            "[N, 6, 4, 5]",
        ),
        (transposed(), UP, vec![], "[N, 3, 11, 13]"),
        (
            transposed()
                .with("pads", ints(&[1; 4]))
                .with("output_padding", ints(&[1, 0])),
            UP,
            vec![],
            "[N, 3, 10, 11]",
        ),
        (
            transposed().with("auto_pad", "SAME_LOWER"),
            UP,
            vec![],
            "[N, 3, 10, 12]",
        ),
        (
            transposed().with("output_shape", ints(&[10, 11])),
            UP,
            vec![],
            "[N, 3, 10, 11]",
        ),
        (transposed().with("group", 2), UP, vec![], "[N, 6, 11, 13]"),
        (pool(3, 2), &[&[0, 2, 112, 6]], vec![], "[N, 2, 55, 2]"),
        (
            pool(3, 2).with("ceil_mode", 1),
            &[&[0, 2, 112, 6]],
            vec![],
            "[N, 2, 56, 3]",
        ),
        // The third window would start beyond the input.
        (
            pool(2, 3).with("ceil_mode", 1).with("pads", ints(&[1; 4])),
            &[&[0, 2, 4, 5]],
            vec![],
            "[N, 2, 2, 2]",
        ),
        (
            pool(2, 2).with("auto_pad", "SAME_LOWER"),
            &[&[0, 2, 5, 6]],
            vec![],
            "[N, 2, 3, 3]",
        ),
        (
            op("GlobalMaxPool", "x"),
            &[&[0, 2, 5, 6]],
            vec![],
            "[N, 2, 1, 1]",
        ),
    ]
}

fn resampling() -> Vec<Row> {
    const IMAGE: &[&[usize]] = &[&[0, 4, 5, 6]];
    let f = |values: &[f32]| Literal::from_f32s(&[values.len()], values);
    let i = Literal::vector_i64;
    let resize = || op("Resize", "x - - c0");
    vec![
        (
            op("Col2Im", "x c0 c1"),
            &[&[0, 12, 20]],
            vec![i(&[5, 6]), i(&[2, 3])],
            "[N, 2, 5, 6]",
        ),
        (
            op("GridSample", "x w"),
            &[&[0, 4, 5, 6], &[0, 7, 8, 2]],
            vec![],
            "[N, 4, 7, 8]",
        ),
        (
            op("Resize", "x - c0"),
            IMAGE,
            vec![f(&[1.0, 1.0, 2.0, 1.5])],
            "[N, 4, 10, 9]",
        ),
        (
            op("Resize", "x - c0"),
            IMAGE,
            vec![f(&[1.0, 1.0, 0.5, 0.3])],
            "[N, 4, 2, 1]",
        ),
        (resize(), IMAGE, vec![i(&[2, 4, 8, 9])], "[2, 4, 8, 9]"),
        (
            resize().with("axes", ints(&[3, 2])),
            IMAGE,
            vec![i(&[9, 8])],
            "[N, 4, 8, 9]",
        ),
        (
            resize()
                .with("axes", ints(&[2, 3]))
                .with("keep_aspect_ratio_policy", "not_larger"),
            IMAGE,
            vec![i(&[8, 9])],
            "?",
        ),
        (
            op("Upsample", "x").with("scales", vec![1f32, 1.0, 2.0, 3.0]),
            IMAGE,
            vec![],
            "[N, 4, 10, 18]",
        ),
        (
            op("DepthToSpace", "x").with("blocksize", 2),
            IMAGE,
            vec![],
            "[N, 1, 10, 12]",
        ),
        (
            op("SpaceToDepth", "x").with("blocksize", 2),
            &[&[0, 4, 4, 6]],
            vec![],
            "[N, 16, 2, 3]",
        ),
    ]
}

fn layouts() -> Vec<Row> {
    const X: &[&[usize]] = &[&[0, 10, 4]];
    let i = Literal::vector_i64;
    let slice = |start: i64, end: i64, axis: i64, step: i64| {
        vec![i(&[start]), i(&[end]), i(&[axis]), i(&[step])]
    };
    let split = |count: usize| Node {
        outputs: (0..count).map(|i| format!("y{i}")).collect(),
        ..op("Split", "x")
    };
    let split_by = || Node {
        inputs: vec!["x".into(), "c0".into()],
        ..split(2)
    };
    vec![
        (
            op("Slice", "x c0 c1 c2 c3"),
            X,
            slice(-1, i64::MIN, 1, -3),
            "[N, 4, 4]",
        ),
        (
            op("Slice", "x c0 c1 c2 c3"),
            X,
            slice(8, 1, -2, -2),
            "[N, 4, 4]",
        ),
        (
            op("Slice", "x c0 c1 c2 c3"),
            X,
            slice(1, 100, 1, 4),
            "[N, 3, 4]",
        ),
        (
            op("Slice", "x c0 c1 c2 c3"),
            X,
            slice(5, 2, 1, 1),
            "[N, 0, 4]",
        ),
        (
            op("Slice", "x c0 c1 c2 c3"),
            X,
            slice(0, i64::MAX, 0, 1),
            "[N, 10, 4]",
        ),
        (
            op("Slice", "x c0 c1 c2 c3"),
            X,
            slice(0, 1, 0, 1),
            "[y.0, 10, 4]",
        ),
        (
            op("Slice", "x")
                .with("starts", ints(&[0, 2]))
                .with("ends", ints(&[1, -1]))
                .with("axes", ints(&[2, 1])),
            X,
            vec![],
            "[N, 7, 1]",
        ),
        (
            split_by().with("axis", 1),
            X,
            vec![i(&[3, 7])],
            "[N, 3, 4] [N, 7, 4]",
        ),
        (
            split(2).with("axis", -1).with("split", ints(&[1, 3])),
            X,
            vec![],
            "[N, 10, 1] [N, 10, 3]",
        ),
        (
            split(3).with("axis", 1),
            X,
            vec![],
            "[N, 4, 4] [N, 4, 4] [N, 2, 4]",
        ),
        (
            op("Gather", "x c0").with("axis", 1),
            X,
            vec![Literal::scalar_i64(3)],
            "[N, 4]",
        ),
        (
            op("Gather", "x c0").with("axis", -1),
            X,
            vec![Literal::from_i64s(&[2, 3], &[0; 6])],
            "[N, 10, 2, 3]",
        ),
        (
            op("GatherND", "x c0").with("batch_dims", 1),
            &[&[2, 10, 4]],
            vec![Literal::from_i64s(&[2, 1], &[0; 2])],
            "[2, 4]",
        ),
        (op("Reshape", "x c0"), X, vec![i(&[0, -1])], "[N, 40]"),
        (op("Reshape", "x c0"), X, vec![i(&[-1, 40])], "[N, 40]"),
        (op("Reshape", "x c0"), X, vec![i(&[-1, 20])], "[2*N, 20]"),
        (
            op("Reshape", "x c0"),
            X,
            vec![i(&[0, 2, 5, -1])],
            "[N, 2, 5, 4]",
        ),
        (op("Reshape", "x c0"), X, vec![i(&[2, -1])], "[2, 20*N]"),
        (op("Reshape", "x c0"), X, vec![i(&[-1, 7])], "[y.0, 7]"),
        (
            op("Reshape", "x c0").with("allowzero", 1),
            &[&[3, 10]],
            vec![i(&[5, 6])],
            "[5, 6]",
        ),
        (
            op("Reshape", "x w"),
            &[&[0, 10], &[3]],
            vec![],
            "[y.0, y.1, y.2]",
        ),
        (op("Flatten", "x"), X, vec![], "[N, 40]"),
        (op("Flatten", "x").with("axis", 2), X, vec![], "[10*N, 4]"),
        (op("Flatten", "x").with("axis", 0), X, vec![], "[1, 40*N]"),
        (op("Squeeze", "x"), &[&[3, 1, 4, 1]], vec![], "[3, 4]"),
        (
            op("Squeeze", "x c0"),
            &[&[0, 1, 4, 1]],
            vec![i(&[-1])],
            "[N, 1, 4]",
        ),
        (
            op("Unsqueeze", "x c0"),
            X,
            vec![i(&[-1, 1])],
            "[N, 1, 10, 4, 1]",
        ),
        (op("Transpose", "x"), X, vec![], "[4, 10, N]"),
        (
            op("Transpose", "x").with("perm", ints(&[0, 2, 1])),
            X,
            vec![],
            "[N, 4, 10]",
        ),
        (
            op("Concat", "x w").with("axis", -2),
            &[&[0, 10, 4], &[0, 3, 4]],
            vec![],
            "[N, 13, 4]",
        ),
        (
            op("Pad", "x c0"),
            X,
            vec![i(&[0, 1, -1, 0, 2, 0])],
            "[N, 13, 3]",
        ),
        (
            op("Pad", "x c0 - c1"),
            X,
            vec![i(&[1, 2]), i(&[1])],
            "[N, 13, 4]",
        ),
        (
            op("Expand", "x c0"),
            &[&[0, 1, 4]],
            vec![i(&[1, 7, 1])],
            "[N, 7, 4]",
        ),
        (op("Tile", "x c0"), X, vec![i(&[1, 2, 3])], "[N, 20, 12]"),
        (op("Shape", "x").with("start", -2), X, vec![], "int64[2]"),
        (op("ConstantOfShape", "c0"), &[], vec![i(&[2, 3])], "[2, 3]"),
        (
            op("Range", "c0 c1 c2"),
            &[],
            [7, 0, -3].map(Literal::scalar_i64).to_vec(),
            "int64[3]",
        ),
    ]
}

fn products() -> Vec<Row> {
    const X: &[&[usize]] = &[&[0, 10, 4]];
    let i = Literal::vector_i64;
    let k = Node {
        outputs: vec!["y".into(), "at".into()],
        ..op("TopK", "x c0")
    };
    vec![
        (op("ReduceMean", "x c0"), X, vec![i(&[-1])], "[N, 10, 1]"),
        (
            op("ReduceMax", "x")
                .with("axes", ints(&[1, 2]))
                .with("keepdims", 0),
            X,
            vec![],
            "[N]",
        ),
        (op("ReduceSum", "x"), X, vec![], "[1, 1, 1]"),
        (
            op("ReduceSum", "x").with("noop_with_empty_axes", 1),
            X,
            vec![],
            "[N, 10, 4]",
        ),
        (
            op("ArgMax", "x").with("axis", 1).with("keepdims", 0),
            X,
            vec![],
            "int64[N, 4]",
        ),
        (k, X, vec![i(&[3])], "[N, 10, 3] int64[N, 10, 3]"),
        (
            op("MatMul", "x w"),
            &[&[0, 10, 4], &[4, 7]],
            vec![],
            "[N, 10, 7]",
        ),
        (
            op("MatMul", "x w"),
            &[&[0, 1, 10, 4], &[3, 4, 7]],
            vec![],
            "[N, 3, 10, 7]",
        ),
        (op("MatMul", "x w"), &[&[0, 4], &[4]], vec![], "[N]"),
        (
            op("Gemm", "x w").with("transB", 1),
            &[&[0, 4], &[7, 4]],
            vec![],
            "[N, 7]",
        ),
        (
            op("Gemm", "x w").with("transA", 1),
            &[&[4, 5], &[4, 7]],
            vec![],
            "[5, 7]",
        ),
        (
            op("Einsum", "x w").with("equation", "bij, jk -> bki"),
            &[&[0, 10, 4], &[4, 7]],
            vec![],
            "[N, 7, 10]",
        ),
        (
            op("Einsum", "x w").with("equation", "...ij, jk"),
            &[&[0, 2, 10, 4], &[4, 7]],
            vec![],
            "[N, 2, 10, 7]",
        ),
        (
            op("Attention", "x w b"),
            &[&[0, 6, 10, 4], &[0, 3, 8, 4], &[0, 3, 8, 5]],
            vec![],
            "[N, 6, 10, 5]",
        ),
        (
            op("Attention", "x w b")
                .with("q_num_heads", 6)
                .with("kv_num_heads", 3),
            &[&[0, 10, 24], &[0, 8, 12], &[0, 8, 15]],
            vec![],
            "[N, 10, 30]",
        ),
        (
            op("LSTM", "x w b")
                .with("hidden_size", 5)
                .with("direction", "bidirectional"),
            &[&[7, 0, 3], &[2, 20, 3], &[2, 20, 5]],
            vec![],
            "[7, 2, N, 5]",
        ),
        (
            op("DequantizeLinear", "c0 w"),
            &[&[], &[]],
            vec![Literal::from_f64s(Element::Int8, &[3, 2], &[0.0; 6])],
            "[3, 2]",
        ),
        (op("QuantizeLinear", "x w"), X, vec![], "uint8[N, 10, 4]"),
        (
            op("Add", "x w"),
            &[&[0, 1, 4], &[10, 1]],
            vec![],
            "[N, 10, 4]",
        ),
        (op("Greater", "x w"), &[&[0, 4], &[4]], vec![], "bool[N, 4]"),
        (op("Cast", "x").with("to", 7), X, vec![], "int64[N, 10, 4]"),
    ]
}

#[test]
fn every_family_of_ops_infers_shapes_from_attributes() {
    for (node, shapes, constants, expected) in
        [windows(), resampling(), layouts(), products()].concat()
    {
        assert_eq!(
            told(&node, shapes, &constants),
            expected,
            "{node:?} of {shapes:?}"
        );
    }
}

#[test]
fn layer_normalization_gives_mean_and_deviation() {
    let node = Node {
        outputs: ["y", "mean", "deviation"].map(String::from).to_vec(),
        ..op("LayerNormalization", "x w")
    };
    assert_eq!(
        told(&node.with("axis", 1), &[&[0, 10, 4], &[10, 4]], &[]),
        "[N, 10, 4] [N, 1, 1] [N, 1, 1]"
    );
}

#[test]
fn max_pool_gives_indices_of_the_shape_of_its_values() {
    let node = Node {
        outputs: vec!["y".into(), "at".into()],
        ..op("MaxPool", "x")
    };
    assert_eq!(
        told(&node.with("kernel_shape", ints(&[2])), &[&[0, 3, 8]], &[]),
        "[N, 3, 7] int64[N, 3, 7]"
    );
}

#[test]
fn contradictions_are_refused_with_node_and_op() {
    let i = Literal::vector_i64;
    let rows: Vec<Row> = vec![
        (
            op("Conv", "x w"),
            &[&[0, 4, 5, 5], &[6, 3, 3, 3]],
            vec![],
            "the weight asks for 3 channels, the input has 4",
        ),
        (
            op("Conv", "x w"),
            &[&[0, 3, 2, 5], &[6, 3, 3, 3]],
            vec![],
            "a window of 3 does not fit into 2 + 0",
        ),
        (
            op("MaxPool", "x").with("kernel_shape", ints(&[0, 2])),
            &[&[0, 4, 5, 5]],
            vec![],
            "kernel_shape does not fit",
        ),
        (
            op("Reshape", "x c0"),
            &[&[2, 3]],
            vec![i(&[4, 2])],
            "6 elements do not fit the shape of 8",
        ),
        (
            op("Reshape", "x c0"),
            &[&[2, 3]],
            vec![i(&[-1, -1])],
            "shape leaves two sizes open",
        ),
        (
            op("MatMul", "x w"),
            &[&[0, 4], &[5, 6]],
            vec![],
            "inner sizes 4 and 5 differ",
        ),
        (
            op("Add", "x w"),
            &[&[0, 3], &[4]],
            vec![],
            "3 and 4 do not broadcast",
        ),
        (
            op("Concat", "x w").with("axis", 0),
            &[&[2, 3], &[2, 4]],
            vec![],
            "sizes 3 and 4 along axis 1 differ",
        ),
        (
            op("Split", "x c0").with("axis", 1),
            &[&[0, 5]],
            vec![i(&[4])],
            "split [4] does not fit size 5",
        ),
        (
            op("Transpose", "x").with("perm", ints(&[0, 0])),
            &[&[2, 3]],
            vec![],
            "is no permutation of 2 axes",
        ),
        (
            op("Flatten", "x").with("axis", 9),
            &[&[2, 3]],
            vec![],
            "axis 9 does not exist in rank 2",
        ),
        (
            op("Slice", "x c0 c1 c2 c3"),
            &[&[5]],
            [0, 5, 0, 0].map(|v| i(&[v])).to_vec(),
            "do not fit each other",
        ),
    ];
    for (node, shapes, constants, expected) in rows {
        let told = told(&node, shapes, &constants);
        assert!(told.contains(expected), "{told}");
        assert!(
            told.contains(&format!("node y ({})", node.op_type)),
            "{told}"
        );
    }
}
