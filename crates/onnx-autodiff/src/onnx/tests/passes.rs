use super::{graph, value};
use crate::onnx::graph::{Dim, Element, Graph, Literal, Node};
use crate::onnx::passes::{dedup, fold, free_batch, narrow, normalise, prune};

fn ops(graph: &Graph) -> Vec<&str> {
    graph
        .nodes
        .iter()
        .map(|node| node.op_type.as_str())
        .collect()
}

fn target(graph: &Graph, node: usize) -> Vec<i64> {
    graph.initializers[&graph.nodes[node].inputs[1]]
        .to_i64s()
        .unwrap()
}

/// Chains with which exporters write `x.view(x.size(0), 36)` for x of `[N, 4, 3, 3]`; each ends in
/// the target `t`.
fn flatten_chains() -> Vec<(&'static str, Vec<Node>)> {
    let node =
        |op: &str, inputs: &[&str], output: &str| Node::new(op, inputs.iter().copied(), [output]);
    let shape = || node("Shape", &["x"], "s");
    let batch_size = || node("Shape", &["x"], "n").with("start", 0).with("end", 1);
    let join = |rest: &str| node("Concat", &["n", rest], "t").with("axis", 0);
    let first = || node("Gather", &["s", "zero"], "scalar");
    let unsqueezed = || node("Unsqueeze", &["scalar", "axis0"], "n");
    vec![
        (
            "TorchScript, -1",
            vec![shape(), first(), unsqueezed(), join("open")],
        ),
        (
            "TorchScript, a number",
            vec![shape(), first(), unsqueezed(), join("flat")],
        ),
        ("dynamo", vec![batch_size(), join("flat")]),
        (
            "dynamo, by way of a scalar",
            vec![
                node("Shape", &["x"], "one").with("start", 0).with("end", 1),
                node("Squeeze", &["one"], "scalar"),
                node("Reshape", &["scalar", "open"], "n"),
                join("flat"),
            ],
        ),
        (
            "sizes multiplied",
            vec![
                shape(),
                first(),
                unsqueezed(),
                node("Slice", &["s", "axis1", "last"], "sizes"),
                node("ReduceProd", &["sizes"], "product").with("keepdims", 1),
                join("product"),
            ],
        ),
        (
            "tf2onnx",
            vec![
                shape(),
                node("Cast", &["s"], "s32").with("to", 6),
                node("Slice", &["s32", "axis0", "axis1"], "n32"),
                node("Concat", &["n32", "flat32"], "t32").with("axis", 0),
                node("Cast", &["t32"], "t").with("to", 7),
            ],
        ),
    ]
}

#[test]
fn a_reshape_computed_from_the_batch_gets_a_constant_target() {
    for (about, mut nodes) in flatten_chains() {
        let constants = vec![
            ("zero", Literal::scalar_i64(0)),
            ("axis0", Literal::vector_i64(&[0])),
            ("axis1", Literal::vector_i64(&[1])),
            ("last", Literal::vector_i64(&[i64::MAX])),
            ("open", Literal::vector_i64(&[-1])),
            ("flat", Literal::vector_i64(&[36])),
            ("flat32", Literal::from_f64s(Element::Int32, &[1], &[36.0])),
        ];
        nodes.push(Node::new("Reshape", ["x", "t"], ["y"]).with("allowzero", 1));
        let source = graph(
            17,
            &[value("x", &[0, 4, 3, 3])],
            constants,
            nodes,
            &[value("y", &[0, 36])],
        );
        let folded = prune(fold(normalise(source).unwrap()).unwrap()).unwrap();
        assert_eq!(ops(&folded), ["Reshape"], "{about}");
        assert_eq!(target(&folded, 0), [0, 36], "{about}");
        assert_eq!(folded.nodes[0].int("allowzero"), None, "{about}");
        assert_eq!(folded.outputs, [value("y", &[0, 36])], "{about}");
    }
}

#[test]
fn constants_are_evaluated() {
    let i = |values: &[i64]| Literal::vector_i64(values);
    let f = |shape: &[usize], values: &[f32]| Literal::from_f32s(shape, values);
    let table = || f(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let op = |op: &str| Node::new::<&str>(op, [], []);
    let rows = vec![
        (
            op("Transpose"),
            vec![table()],
            f(&[3, 2], &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0]),
        ),
        (
            op("Add"),
            vec![table(), f(&[3], &[10.0, 20.0, 30.0])],
            f(&[2, 3], &[11.0, 22.0, 33.0, 14.0, 25.0, 36.0]),
        ),
        (
            op("Slice"),
            vec![table(), i(&[-1]), i(&[i64::MIN]), i(&[1]), i(&[-2])],
            f(&[2, 2], &[3.0, 1.0, 6.0, 4.0]),
        ),
        (
            op("Gather").with("axis", 1),
            vec![table(), i(&[-1, 0])],
            f(&[2, 2], &[3.0, 1.0, 6.0, 4.0]),
        ),
        (
            op("Concat").with("axis", -1),
            vec![table(), f(&[2, 1], &[7.0, 8.0])],
            { f(&[2, 4], &[1.0, 2.0, 3.0, 7.0, 4.0, 5.0, 6.0, 8.0]) },
        ),
        (
            op("Expand"),
            vec![f(&[2, 1], &[1.0, 2.0]), i(&[2, 2])],
            f(&[2, 2], &[1.0, 1.0, 2.0, 2.0]),
        ),
        (
            op("Tile"),
            vec![f(&[2], &[1.0, 2.0]), i(&[2])],
            f(&[4], &[1.0, 2.0, 1.0, 2.0]),
        ),
        (
            op("Range"),
            vec![
                Literal::scalar_i64(5),
                Literal::scalar_i64(0),
                Literal::scalar_i64(-2),
            ],
            i(&[5, 3, 1]),
        ),
        (
            op("OneHot"),
            vec![i(&[1, -3]), Literal::scalar_i64(3), f(&[2], &[0.5, 2.0])],
            f(&[2, 3], &[0.5, 2.0, 0.5, 2.0, 0.5, 0.5]),
        ),
        (
            op("DequantizeLinear").with("axis", 0),
            vec![
                Literal::from_f64s(Element::Uint8, &[2, 2], &[0.0, 130.0, 3.0, 255.0]),
                f(&[2], &[0.5, 0.1]),
                Literal::from_f64s(Element::Uint8, &[2], &[128.0, 3.0]),
            ],
            f(&[2, 2], &[-64.0, 1.0, 0.0, 252.0 * 0.1]),
        ),
        (
            op("DequantizeLinear"),
            vec![
                Literal::from_f64s(Element::Int8, &[2], &[-128.0, 127.0]),
                f(&[], &[0.1]),
            ],
            f(&[2], &[-128.0 * 0.1, 127.0 * 0.1]),
        ),
        (op("Div"), vec![i(&[-7, 7]), i(&[2])], i(&[-3, 3])),
        (
            op("Cast").with("to", 7),
            vec![f(&[2], &[-1.5, 2.5])],
            i(&[-1, 2]),
        ),
        (op("Sqrt"), vec![f(&[1], &[2.0])], f(&[1], &[2f32.sqrt()])),
        (op("Mod"), vec![i(&[-7, 7]), i(&[3])], i(&[2, 1])),
        (
            op("Mod").with("fmod", 1),
            vec![f(&[2], &[-7.5, 7.5]), f(&[1], &[3.0])],
            f(&[2], &[-1.5, 1.5]),
        ),
        (
            op("Clip"),
            vec![
                i(&[-1, 2, 9]),
                Literal::scalar_i64(0),
                Literal::scalar_i64(5),
            ],
            i(&[0, 2, 5]),
        ),
        (
            op("Clip"),
            vec![f(&[2], &[-1.5, 2.0]), Literal::scalar_f32(0.0)],
            f(&[2], &[0.0, 2.0]),
        ),
        (op("Max"), vec![i(&[1, 5]), i(&[3]), i(&[2, 6])], i(&[3, 6])),
        (
            op("OneHot"),
            vec![i(&[1, -1]), Literal::scalar_i64(3), i(&[7, 9])],
            Literal::from_i64s(&[2, 3], &[7, 9, 7, 7, 7, 9]),
        ),
        (op("Sum"), vec![i(&[1]), i(&[2]), i(&[3])], i(&[6])),
        (
            op("ReduceProd").with("keepdims", 0),
            vec![i(&[2, 3, 4])],
            Literal::scalar_i64(24),
        ),
        (
            op("ReduceMax").with("keepdims", 1),
            vec![table(), i(&[0])],
            f(&[1, 3], &[4.0, 5.0, 6.0]),
        ),
        (
            op("ReduceMean").with("keepdims", 0),
            vec![table(), i(&[-1])],
            f(&[2], &[2.0, 5.0]),
        ),
        (
            op("Where"),
            vec![
                Literal::from_bools(&[2, 1], &[true, false]),
                f(&[2], &[1.0, 2.0]),
                f(&[], &[9.0]),
            ],
            f(&[2, 2], &[1.0, 2.0, 9.0, 9.0]),
        ),
    ];
    for (mut node, constants, expected) in rows {
        let names: Vec<String> = (0..constants.len()).map(|i| format!("c{i}")).collect();
        (node.inputs, node.outputs) = (names.clone(), vec!["y".into()]);
        let constants = names.iter().map(String::as_str).zip(constants).collect();
        let op = node.op_type.clone();
        let folded = fold(graph(18, &[], constants, vec![node], &[value("y", &[])])).unwrap();
        assert!(folded.nodes.is_empty(), "{op}");
        assert_eq!(folded.initializers["y"], expected, "{op}");
    }
}

#[test]
fn attributes_of_old_opsets_become_inputs() {
    let op = |op: &str| Node::new(op, ["x"], ["y"]);
    let rows = vec![
        (
            7,
            op("Clip").with("min", 0.0).with("max", 6.0),
            "Clip",
            vec!["x", "y.min", "y.max"],
        ),
        (
            9,
            op("Clip").with("max", 6.0),
            "Clip",
            vec!["x", "", "y.max"],
        ),
        (
            9,
            op("Pad").with("pads", vec![0i64; 6]).with("value", 1.0),
            "Pad",
            vec!["x", "y.pads", "y.value"],
        ),
        (
            9,
            op("Slice")
                .with("starts", vec![0i64])
                .with("ends", vec![1i64]),
            "Slice",
            vec!["x", "y.starts", "y.ends"],
        ),
        (
            11,
            op("Squeeze").with("axes", vec![2i64]),
            "Squeeze",
            vec!["x", "y.axes"],
        ),
        (
            13,
            op("ReduceMean").with("axes", vec![2i64]),
            "ReduceMean",
            vec!["x", "y.axes"],
        ),
        (
            9,
            op("Upsample").with("scales", vec![1f32, 1.0, 2.0]),
            "Resize",
            vec!["x", "", "y.scales"],
        ),
        (9, op("Dropout").with("ratio", 0.5), "Identity", vec!["x"]),
        (
            11,
            op("Split").with("split", vec![4i64]).with("axis", 1),
            "Split",
            vec!["x", "y.split"],
        ),
    ];
    for (opset, node, name, inputs) in rows {
        let source = graph(
            opset,
            &[value("x", &[0, 4, 1])],
            vec![],
            vec![node],
            &[value("y", &[0, 4, 1])],
        );
        let normal = normalise(source).unwrap();
        assert_eq!(normal.opset(), 18);
        assert_eq!(normal.nodes[0].op_type, name);
        assert_eq!(normal.nodes[0].inputs, inputs, "{name}");
        assert!(
            inputs
                .iter()
                .skip(1)
                .all(|input| input.is_empty() || normal.initializers.contains_key(*input))
        );
    }
}

#[test]
fn softmax_before_opset_13_normalises_all_trailing_axes() {
    let source = |shape: &[usize]| {
        graph(
            9,
            &[value("x", shape)],
            vec![],
            vec![Node::new("Softmax", ["x"], ["y"])],
            &[value("y", shape)],
        )
    };
    assert_eq!(
        ops(&normalise(source(&[0, 4, 3])).unwrap()),
        ["Flatten", "Softmax", "Reshape"]
    );
    assert_eq!(ops(&normalise(source(&[0, 4, 1, 1])).unwrap()), ["Softmax"]);
}

#[test]
fn a_literal_batch_is_freed_only_where_rows_stay_apart() {
    let freed = |target: &[i64], out: &[usize]| {
        let constants = vec![("t", Literal::vector_i64(target))];
        let nodes = vec![Node::new("Reshape", ["x", "t"], ["y"])];
        free_batch(graph(
            18,
            &[value("x", &[1, 4, 6])],
            constants,
            nodes,
            &[value("y", out)],
        ))
        .unwrap()
    };
    let free = freed(&[1, -1], &[1, 24]);
    assert_eq!(free.inputs[0].value_type.shape[0], Dim::from("batch"));
    assert_eq!(target(&free, 0), [0, 24]);
    assert_eq!(
        freed(&[-1, 6], &[4, 6]).inputs[0].value_type.shape[0],
        Dim::Known(1)
    );
}

#[test]
fn equal_nodes_and_constants_are_merged_and_dead_ones_removed() {
    let constants = vec![
        ("a", Literal::scalar_f32(2.0)),
        ("b", Literal::scalar_f32(2.0)),
    ];
    let nodes = vec![
        Node::new("Mul", ["x", "a"], ["p"]),
        Node::new("Mul", ["x", "b"], ["q"]),
        Node::new("Exp", ["x"], ["dead"]),
        Node::new("Add", ["p", "q"], ["y"]),
    ];
    let source = graph(
        18,
        &[value("x", &[0, 2])],
        constants,
        nodes,
        &[value("y", &[0, 2])],
    );
    let merged = dedup(prune(source).unwrap()).unwrap();
    assert_eq!(ops(&merged), ["Mul", "Add"]);
    assert_eq!(merged.nodes[1].inputs, ["p", "p"]);
    assert_eq!(merged.initializers.len(), 1);
}

#[test]
fn training_mode_is_refused_with_node_and_op() {
    let nodes = vec![Node::new("Dropout", ["x", "r", "on"], ["y"])];
    let constants = vec![
        ("r", Literal::scalar_f32(0.5)),
        ("on", Literal::from_bools(&[], &[true])),
    ];
    let source = graph(
        13,
        &[value("x", &[0, 2])],
        constants,
        nodes,
        &[value("y", &[0, 2])],
    );
    let told = normalise(source).unwrap_err().to_string();
    assert!(
        told.contains("node y (Dropout): training mode is not supported"),
        "{told}"
    );
}

/// A 1 x 1 convolution with five outputs, and a reader of channels `start .. end` along `axis` for
/// each of `cuts`.
fn sliced(group: i64, cuts: &[(i64, i64, i64)]) -> Graph {
    let weights: Vec<f32> = (0..10).map(|i| i as f32).collect();
    let mut constants = vec![
        ("w".to_owned(), Literal::from_f32s(&[5, 2, 1, 1], &weights)),
        (
            "b".to_owned(),
            Literal::from_f32s(&[5], &[10.0, 11.0, 12.0, 13.0, 14.0]),
        ),
    ];
    let mut nodes = vec![Node::new("Conv", ["x", "w", "b"], ["c"]).with("group", group)];
    let mut outputs = Vec::new();
    for (index, &(start, end, axis)) in cuts.iter().enumerate() {
        let bounds = [("starts", start), ("ends", end), ("axes", axis)].map(|(bound, at)| {
            constants.push((format!("{bound}{index}"), Literal::vector_i64(&[at])));
            format!("{bound}{index}")
        });
        let part = format!("part{index}");
        nodes.push(Node::new(
            "Slice",
            std::iter::once("c".to_owned()).chain(bounds),
            [part.clone()],
        ));
        outputs.push(value(
            &part,
            if axis == 1 {
                &[0, 0, 4, 4]
            } else {
                &[0, 5, 0, 4]
            },
        ));
    }
    let constants = constants
        .iter()
        .map(|(name, literal)| (name.as_str(), literal.clone()))
        .collect();
    graph(
        17,
        &[value("x", &[0, 2 * group as usize, 4, 4])],
        constants,
        nodes,
        &outputs,
    )
}

#[test]
fn a_convolution_read_by_slices_of_its_channels_becomes_one_for_each() {
    let narrowed = prune(narrow(sliced(1, &[(0, 2, 1), (2, i64::MAX, 1)])).unwrap()).unwrap();
    assert_eq!(ops(&narrowed), ["Conv", "Conv"]);
    let values = |node: usize, input: usize| {
        let literal = &narrowed.initializers[&narrowed.nodes[node].inputs[input]];
        (literal.shape.clone(), literal.to_f32s().unwrap())
    };
    assert_eq!(values(0, 1), (vec![2, 2, 1, 1], vec![0.0, 1.0, 2.0, 3.0]));
    assert_eq!(
        values(1, 1),
        (vec![3, 2, 1, 1], vec![4.0, 5.0, 6.0, 7.0, 8.0, 9.0])
    );
    assert_eq!(
        (values(0, 2).1, values(1, 2).1),
        (vec![10.0, 11.0], vec![12.0, 13.0, 14.0])
    );
    assert_eq!(
        [
            narrowed.nodes[0].outputs[0].as_str(),
            &narrowed.nodes[1].outputs[0]
        ],
        ["part0", "part1"]
    );
}

#[test]
fn a_convolution_that_is_read_otherwise_too_stays_whole() {
    let mut read_whole = sliced(1, &[(0, 2, 1)]);
    read_whole.nodes.push(Node::new("Relu", ["c"], ["r"]));
    read_whole.outputs.push(value("r", &[0, 5, 4, 4]));
    let mut asked_for = sliced(1, &[(0, 2, 1)]);
    asked_for.outputs.push(value("c", &[0, 5, 4, 4]));
    let mut variable = sliced(1, &[(0, 2, 1)]);
    variable.initializers.shift_remove("w");
    variable.inputs.push(value("w", &[5, 2, 1, 1]));
    for whole in [
        read_whole,
        asked_for,
        variable,
        sliced(1, &[(0, 2, 1), (0, 2, 2)]),
        sliced(5, &[(0, 2, 1)]),
    ] {
        assert_eq!(narrow(whole.clone()).unwrap(), whole);
    }
}
