//! Graphs of many nodes, of nodes with many inputs, and attributes that ask for much: derived in
//! time, or refused by name.

use onnx_autodiff::{
    autodiff::{activations, linear_layers, spatial_layers, spec::RuleSetId},
    onnx::graph::{Dim, Element, Graph, Literal, Node, ValueInfo, ValueType},
};

use crate::run::{Net, derive, spec, tensor};

/// x `[N, sizes]` -> nodes that make `last` -> Flatten.
fn graph(sizes: &[usize], constants: Vec<(&str, Literal)>, mut nodes: Vec<Node>) -> Graph {
    let info = |name: &str, sizes: Vec<Dim>| {
        let shape = [Dim::from("N")].into_iter().chain(sizes).collect();
        ValueInfo {
            name: name.into(),
            value_type: ValueType::new(Element::Float, shape),
        }
    };
    nodes.push(Node::new("Flatten", ["last"], ["out"]));
    Graph {
        inputs: vec![info("x", sizes.iter().map(|&size| size.into()).collect())],
        outputs: vec![info("out", vec!["classes".into()])],
        initializers: constants
            .into_iter()
            .map(|(name, literal)| (name.to_owned(), literal))
            .collect(),
        nodes,
        ..Graph::default()
    }
}

/// `count` nodes, each reading what the one before made.
fn chain(op: &str, count: usize, more: &[&str]) -> Vec<Node> {
    let name = |index: usize| match index {
        0 => "x".to_owned(),
        _ if index == count => "last".to_owned(),
        _ => format!("v{index}"),
    };
    let inputs = |index| {
        [name(index)]
            .into_iter()
            .chain(more.iter().map(|name| (*name).to_owned()))
            .collect::<Vec<_>>()
    };
    (0..count)
        .map(|index| Node::new(op, inputs(index), vec![name(index + 1)]))
        .collect()
}

#[test]
fn the_time_for_many_nodes_grows_with_their_number() {
    let relus = graph(&[3], vec![], chain("Relu", 20_000, &[]));
    assert!(
        derive(&relus, &spec(&[RuleSetId::Gradient]), None)
            .unwrap()
            .nodes
            .len()
            > 40_000
    );
    // The folding of each reads whatever made its input.
    let constants = ["scale", "shift", "mean", "variance"]
        .map(|name| (name, Literal::from_f32s(&[3], &[1.0; 3])));
    let norms = graph(
        &[3, 1, 1],
        constants.into(),
        chain(
            "BatchNormalization",
            20_000,
            &["scale", "shift", "mean", "variance"],
        ),
    );
    assert!(linear_layers(&norms).unwrap().is_empty());
    assert_eq!(activations(&norms).unwrap().len(), 20_001);
    // A tail that only reshapes is followed to its end.
    let tail = graph(
        &[3],
        vec![("shape", Literal::vector_i64(&[0, 3]))],
        chain("Dropout", 20_000, &[]),
    );
    assert!(spatial_layers(&tail).unwrap().is_empty());
}

#[test]
fn a_node_of_a_hundred_thousand_inputs_is_derived_in_one_pass() {
    const COUNT: usize = 100_000;
    let sum = graph(
        &[3],
        vec![],
        vec![Node::new("Sum", vec!["x"; COUNT], vec!["last"])],
    );
    let derived = derive(&sum, &spec(&[RuleSetId::Gradient]), None).unwrap();
    assert!(derived.nodes.len() < 10, "{}", derived.nodes.len());
    let (x, seed) = (
        tensor(&[1, 3], vec![1.0, -2.0, 3.0]),
        tensor(&[1, 3], vec![1.0, 2.0, 0.0]),
    );
    let found = Net::open(&derived)
        .unwrap()
        .run(&[("x", &x), ("seed", &seed)])
        .unwrap();
    assert_eq!(
        found["gradient"].as_slice().unwrap(),
        [COUNT as f32, 2.0 * COUNT as f32, 0.0]
    );
    for op in ["Concat", "Max"] {
        let node = Node::new(op, vec!["x"; 20_000], vec!["last"]).with("axis", 1_i64);
        let derived = derive(
            &graph(&[3], vec![], vec![node]),
            &spec(&[RuleSetId::Gradient]),
            None,
        )
        .unwrap();
        assert!(
            derived.nodes.len() < 100_000,
            "{op}: {}",
            derived.nodes.len()
        );
    }
}

/// Each asks for more memory or time than there is. The error names the node, the op and what is
/// too large.
#[test]
fn attributes_that_ask_for_too_much_are_refused_by_name() {
    let ints = |values: &[i64]| Literal::vector_i64(values);
    let pool = |kernel: &[i64], pads: &[i64]| {
        Node::new("AveragePool", ["x"], ["last"])
            .with("kernel_shape", kernel)
            .with("pads", pads)
    };
    let two = |op: &str, constant: Literal| {
        graph(
            &[3, 8, 8],
            vec![("c", constant)],
            vec![Node::new(op, ["x", "c"], ["last"])],
        )
    };
    let one = |sizes: &[usize], node: Node| graph(sizes, vec![], vec![node]);
    let large = 1_i64 << 40;
    let cases = [
        (
            "pads of a window",
            one(&[3, 8, 8], pool(&[100_000; 2], &[100_000; 4])),
            "must be smaller than the window",
        ),
        (
            "positions of a window",
            one(&[3, 8, 8], pool(&[100_000; 2], &[99_999; 4])),
            "elements",
        ),
        (
            "shares of a window",
            one(&[1, 8, 8], pool(&[16_000, 16_000], &[8_000; 4])),
            "constant",
        ),
        (
            "band of channels",
            one(
                &[100_000, 1, 1],
                Node::new("LRN", ["x"], ["last"]).with("size", 5_i64),
            ),
            "constant",
        ),
        (
            "Expand",
            graph(
                &[3, 1, 1],
                vec![("c", ints(&[1, 3, large, large]))],
                vec![Node::new("Expand", ["x", "c"], ["last"])],
            ),
            "dimension",
        ),
        (
            "Tile",
            two("Tile", ints(&[1, 1 << 20, 1 << 20, 1])),
            "elements",
        ),
        (
            "Tile beyond 64 bits",
            two("Tile", ints(&[1, 1 << 62, 1 << 62, 1])),
            "Tile",
        ),
        (
            "Pad",
            two("Pad", ints(&[0, 0, large, 0, 0, 0, 0, 0])),
            "dimension",
        ),
        (
            "Pad beyond 64 bits",
            two("Pad", ints(&[0, 0, i64::MAX, 0, 0, 0, i64::MAX, 0])),
            "Pad",
        ),
        (
            "rank",
            two("Unsqueeze", ints(&(1..100).collect::<Vec<_>>())),
            "axes",
        ),
        (
            "blocks",
            one(
                &[3, 8, 8],
                Node::new("DepthToSpace", ["x"], ["last"]).with("blocksize", large),
            ),
            "blocksize",
        ),
        (
            "scales",
            graph(
                &[3, 8, 8],
                vec![("c", Literal::from_f32s(&[4], &[1.0, 1.0, 1e20, 1e20]))],
                vec![Node::new("Resize", ["x", "", "c"], ["last"])],
            ),
            "dimension",
        ),
        (
            "a constant that is not there yet",
            graph(
                &[3],
                vec![("c", ints(&[1, 1 << 34]))],
                vec![
                    Node::new("ConstantOfShape", ["c"], ["big"]),
                    Node::new("MatMul", ["x", "big"], ["last"]),
                ],
            ),
            "dimension",
        ),
        (
            "dilations",
            graph(
                &[3, 8, 8],
                vec![("c", Literal::from_f32s(&[1, 3, 2, 2], &[0.0; 12]))],
                vec![
                    Node::new("Conv", ["x", "c"], ["last"])
                        .with("dilations", vec![i64::from(i32::MAX); 2]),
                ],
            ),
            "does not fit",
        ),
    ];
    for (about, source, reason) in cases {
        let error = derive(&source, &spec(&[RuleSetId::Gradient]), None)
            .unwrap_err()
            .to_string();
        let node = &source.nodes[0];
        assert!(
            error.contains(node.label()) && error.contains(&node.op_type),
            "{about}: {error}"
        );
        assert!(error.contains(reason), "{about}: {error}");
    }
}

/// Shapes on their way through a graph could double with every node.
#[test]
fn what_doubles_with_every_node_stays_small() {
    let shape = Node::new("Shape", ["x"], ["s0"]);
    let double = |op: &'static str, count: usize| -> Vec<Node> {
        let nodes = (0..count).map(|index| {
            let (from, to) = (format!("s{index}"), format!("s{}", index + 1));
            Node::new(op, [from.clone(), from], [to]).with("axis", 0_i64)
        });
        nodes.collect()
    };
    for op in ["Concat", "Mul"] {
        let mut nodes = vec![shape.clone()];
        nodes.extend(double(op, 25));
        nodes.push(Node::new("ReduceMin", ["s25"], ["least"]));
        nodes.push(Node::new("Cast", ["least"], ["number"]).with("to", 1_i64));
        nodes.push(Node::new("Add", ["x", "number"], ["last"]));
        derive(&graph(&[3], vec![], nodes), &spec(&[]), None).unwrap();
    }
    // A mebibyte for each of these nodes, were all evaluated.
    let count = 4_000;
    let mut nodes: Vec<Node> = (0..count)
        .map(|index| {
            Node::new(
                "Expand",
                ["c".to_owned(), "size".into()],
                [format!("c{index}")],
            )
        })
        .collect();
    let names = std::iter::once("x".to_owned()).chain((0..count).map(|index| format!("c{index}")));
    nodes.push(Node::new(
        "Sum",
        names.collect::<Vec<_>>(),
        vec!["sum".into()],
    ));
    nodes.push(
        Node::new("ReduceMax", ["sum"], ["last"])
            .with("axes", vec![2_i64])
            .with("keepdims", 0_i64),
    );
    let constants = vec![
        ("c", Literal::from_f32s(&[1], &[1.0])),
        ("size", ints_of(&[1, 1, 1 << 18])),
    ];
    let mut source = graph(&[3, 1], constants, nodes);
    source.opset_imports.insert(String::new(), 17);
    derive(&source, &spec(&[]), None).unwrap();
}

fn ints_of(values: &[i64]) -> Literal {
    Literal::vector_i64(values)
}

#[test]
fn a_window_that_would_begin_beyond_the_input_is_no_window() {
    let pool = Node::new("MaxPool", ["x"], ["pooled"]).with("kernel_shape", vec![2_i64, 2]);
    let pool = pool
        .with("strides", vec![3_i64, 3])
        .with("ceil_mode", 1_i64);
    let nodes = vec![
        pool,
        Node::new("Relu", ["pooled"], ["on"]),
        Node::new("GlobalAveragePool", ["on"], ["last"]),
    ];
    let source = graph(&[1, 6, 6], vec![], nodes);
    let mut net =
        Net::open(&derive(&source, &spec(&[RuleSetId::Gradient]), None).unwrap()).unwrap();
    let x = tensor(&[1, 1, 6, 6], (1..=36).map(|v| v as f32).collect());
    let gradient = &net
        .run(&[("x", &x), ("seed", &tensor(&[1, 1], vec![1.0]))])
        .unwrap()["gradient"];
    // Of four windows each has its largest value at its end.
    let expected = |y: usize, x: usize| {
        if [1, 4].contains(&y) && [1, 4].contains(&x) {
            0.25
        } else {
            0.0
        }
    };
    for (at, found) in gradient.indexed_iter() {
        assert_eq!(*found, expected(at[2], at[3]), "{at:?}");
    }
}
