//! Small networks as exporters write them: shapes that are computed, a batch that is not the first
//! axis, decisions that constants take. And what is in the way of a gradient, by name.

use indexmap::IndexMap;
use onnx_autodiff::{
    autodiff::spec::RuleSetId,
    onnx::{
        graph::{Attribute, Dim, Element, Graph, Literal, Node, ValueInfo, ValueType},
        passes,
        proto::{
            AttributeProto, GraphProto, NodeProto, TensorProto, TensorShapeProto, TypeProto,
            ValueInfoProto, type_proto,
        },
    },
};
use prost::Message;

use crate::{
    agrees,
    case::{noise, spread},
    run::{Net, derive, spec, tensor},
};

/// A graph over `x` `[N, shape]` whose last node gives `out`.
struct Model {
    graph: Graph,
    shape: Vec<usize>,
}

fn node(op: &str, inputs: &[&str], output: &str) -> Node {
    Node::new(op, inputs.iter().copied(), [output])
}

fn ints(values: &[i64]) -> Literal {
    Literal::vector_i64(values)
}

fn random(shape: &[usize]) -> Literal {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = noise(count as u64, count).iter().map(|v| v * 0.5).collect();
    Literal::from_f32s(shape, &values)
}

fn value(name: &str, shape: Vec<Dim>) -> ValueInfo {
    ValueInfo {
        name: name.into(),
        value_type: ValueType::new(Element::Float, shape),
    }
}

impl Model {
    fn new<const N: usize>(
        shape: &[usize],
        constants: [(&str, Literal); N],
        nodes: Vec<Node>,
    ) -> Self {
        let known = shape.iter().map(|&size| Dim::Known(size));
        let initializers: IndexMap<_, _> = constants
            .into_iter()
            .map(|(name, literal)| (name.to_owned(), literal))
            .collect();
        let graph = Graph {
            opset_imports: [(String::new(), 17)].into(),
            inputs: vec![value(
                "x",
                [Dim::from("N")].into_iter().chain(known).collect(),
            )],
            outputs: vec![value("out", vec!["N".into(), "classes".into()])],
            initializers,
            nodes,
            ..Graph::default()
        };
        Self {
            graph,
            shape: shape.to_vec(),
        }
    }

    /// The same with a batch of so many rows alone.
    fn of_batch(mut self, rows: usize) -> Self {
        self.graph.inputs[0].value_type.shape[0] = Dim::Known(rows);
        self.graph.outputs[0].value_type.shape[0] = Dim::Known(rows);
        self
    }

    fn check(&self, rows: usize) {
        let mut shape = vec![rows];
        shape.extend(&self.shape);
        let x = tensor(&shape, spread(shape.iter().product(), 0.0));
        if let Err(why) = agrees(&self.graph, &x, 2e-3) {
            panic!("{why}");
        }
    }

    fn refusal(&self) -> String {
        let found = derive(&self.graph, &spec(&[RuleSetId::Gradient]), None);
        found.expect_err("it is refused").to_string()
    }
}

/// `from` `[N, c, …]` -> Tanh -> mean of each channel -> `out` `[N, classes]`, with the constant `fc`.
fn tail(from: &str) -> Vec<Node> {
    vec![
        node("Tanh", &[from], "tail.on"),
        node("GlobalAveragePool", &["tail.on"], "tail.mean"),
        node("Flatten", &["tail.mean"], "tail.flat"),
        node("MatMul", &["tail.flat", "fc"], "out"),
    ]
}

fn with_tail(mut nodes: Vec<Node>, from: &str) -> Vec<Node> {
    nodes.extend(tail(from));
    nodes
}

/// qkv.reshape(B, N, 3, heads, d).permute(2, 0, 3, 1, 4), taken apart in each way that exporters
/// have, then attention.
#[test]
fn attention_whose_batch_is_the_second_axis() {
    let apart: [(&str, Vec<Node>); 3] = [
        (
            "unbind by Split",
            vec![
                Node::new("Split", ["qkv"], ["q1", "k1", "v1"]).with("axis", 0_i64),
                node("Squeeze", &["q1", "first"], "q"),
                node("Squeeze", &["k1", "first"], "k"),
                node("Squeeze", &["v1", "first"], "v"),
            ],
        ),
        (
            "index by Gather",
            [("q", "zero"), ("k", "one"), ("v", "two")]
                .map(|(part, at)| node("Gather", &["qkv", at], part).with("axis", 0_i64))
                .into(),
        ),
        (
            "Slice",
            [
                ("q", "at0", "at1"),
                ("k", "at1", "at2"),
                ("v", "at2", "at3"),
            ]
            .into_iter()
            .flat_map(|(part, start, end)| {
                let whole = format!("{part}.whole");
                [
                    node("Slice", &["qkv", start, end, "first"], &whole),
                    node("Squeeze", &[&whole, "first"], part),
                ]
            })
            .collect(),
        ),
    ];
    for (about, parts) in apart {
        println!("{about}");
        let mut nodes = vec![
            node("MatMul", &["x", "w"], "projected"),
            node("Reshape", &["projected", "heads"], "split"),
            node("Transpose", &["split"], "qkv").with("perm", vec![2_i64, 0, 3, 1, 4]),
        ];
        nodes.extend(parts);
        nodes.extend([
            node("Transpose", &["k"], "kt").with("perm", vec![0_i64, 1, 3, 2]),
            node("MatMul", &["q", "kt"], "scores"),
            node("Softmax", &["scores"], "shares").with("axis", -1_i64),
            node("MatMul", &["shares", "v"], "mixed"),
            node("Transpose", &["mixed"], "back").with("perm", vec![0_i64, 2, 1, 3]),
            node("Reshape", &["back", "joined"], "tokens"),
            node("ReduceMean", &["tokens"], "mean")
                .with("axes", vec![1_i64])
                .with("keepdims", 0_i64),
            node("MatMul", &["mean", "fc"], "out"),
        ]);
        let constants = [
            ("w", random(&[4, 12])),
            ("heads", ints(&[0, 3, 3, 2, 2])),
            ("joined", ints(&[0, 3, 4])),
            ("fc", random(&[4, 3])),
            ("first", ints(&[0])),
            ("zero", Literal::scalar_i64(0)),
            ("one", Literal::scalar_i64(1)),
            ("two", Literal::scalar_i64(2)),
            ("at0", ints(&[0])),
            ("at1", ints(&[1])),
            ("at2", ints(&[2])),
            ("at3", ints(&[3])),
        ];
        Model::new(&[3, 4], constants, nodes).check(2);
    }
}

/// As PyTorch's exporter writes as_strided: positions in all of the batch, computed at run time.
#[test]
fn a_gather_may_read_where_the_batch_says() {
    let nodes = vec![
        node("Shape", &["x"], "rows")
            .with("start", 0_i64)
            .with("end", 1_i64),
        node("Squeeze", &["rows"], "count"),
        node("Range", &["zero", "count", "one"], "batch"),
        node("Mul", &["batch", "stride"], "starts"),
        node("Unsqueeze", &["starts", "last"], "column"),
        node("Add", &["column", "offsets"], "places"),
        node("Reshape", &["x", "open"], "flat"),
        node("Gather", &["flat", "places"], "strided").with("axis", 0_i64),
        node("Tanh", &["strided"], "on"),
        // The same rows again, from the first axis of what is left.
        node("Gather", &["on", "batch"], "again").with("axis", 0_i64),
        node("Mul", &["on", "again"], "square"),
        node("MatMul", &["square", "fc"], "out"),
    ];
    let constants = [
        ("zero", Literal::scalar_i64(0)),
        ("one", Literal::scalar_i64(1)),
        ("stride", Literal::scalar_i64(6)),
        ("last", ints(&[1])),
        ("offsets", ints(&[0, 2, 3, 3])),
        ("open", ints(&[-1])),
        ("fc", random(&[4, 3])),
    ];
    Model::new(&[2, 3], constants, nodes).check(2);
}

#[test]
fn a_slice_may_name_the_batch_and_cut_nothing_of_it() {
    let cut = |inputs: &[&str]| {
        Model::new(
            &[2, 4, 4],
            [
                ("starts", ints(&[0, 1, 1])),
                ("far", ints(&[i64::from(i32::MAX); 3])),
                ("axes", ints(&[0, 2, 3])),
                ("last", ints(&[4, 4])),
                ("fc", random(&[2, 3])),
                ("one", ints(&[1])),
            ],
            with_tail(
                vec![
                    node("Shape", &["x"], "rows")
                        .with("start", 0_i64)
                        .with("end", 1_i64),
                    node("Concat", &["rows", "last"], "sizes").with("axis", 0_i64),
                    node("Slice", inputs, "cut"),
                ],
                "cut",
            ),
        )
    };
    cut(&["x", "starts", "far", "axes"]).check(2);
    cut(&["x", "starts", "sizes", "axes"]).check(2);
}

/// Pads of `same` convolutions: ceil(size / stride) windows, in floats, clipped at 0.
#[test]
fn pads_may_be_computed_from_sizes_in_floats() {
    let nodes = vec![
        node("Shape", &["x"], "shape"),
        node("Cast", &["shape"], "sizes").with("to", Element::Float as i64),
        node("Gather", &["sizes", "height"], "size"),
        node("Div", &["size", "two"], "ratio"),
        node("Ceil", &["ratio"], "windows"),
        node("Sub", &["windows", "one"], "steps"),
        node("Mul", &["steps", "two"], "reach"),
        node("Add", &["reach", "three"], "span"),
        node("Sub", &["span", "size"], "gap"),
        node("Clip", &["gap", "none"], "total"),
        node("Cast", &["total"], "pads").with("to", Element::Int64 as i64),
        node("Max", &["pads", "none_at_all", "none_at_all"], "after"),
        node("Concat", &["no_pads", "after", "after"], "all").with("axis", 0_i64),
        node("Pad", &["x", "all"], "padded"),
        node("Conv", &["padded", "w"], "conv").with("strides", vec![2_i64, 2]),
    ];
    let float = |value: f32| Literal::from_f32s(&[1], &[value]);
    let constants = [
        ("height", ints(&[2])),
        ("two", float(2.0)),
        ("one", float(1.0)),
        ("three", float(3.0)),
        ("none", Literal::scalar_f32(0.0)),
        ("none_at_all", ints(&[0])),
        ("no_pads", ints(&[0; 6])),
        ("w", random(&[2, 1, 3, 3])),
        ("fc", random(&[2, 3])),
    ];
    Model::new(&[1, 5, 5], constants, with_tail(nodes, "conv")).check(2);
}

#[test]
fn targets_may_be_remainders_and_parts_of_the_batch() {
    let nodes = vec![
        node("Flatten", &["x"], "flat"),
        node("Mod", &["eleven", "eight"], "three"),
        node("Shape", &["flat"], "shape"),
        node("Gather", &["shape", "zero"], "rows"),
        node("Mul", &["rows", "two"], "windows"),
        node("Concat", &["windows", "three", "open"], "target").with("axis", 0_i64),
        node("Reshape", &["flat", "target"], "split"),
        node("Tanh", &["split"], "on"),
        node("ReduceSum", &["on", "last"], "sums").with("keepdims", 0_i64),
        node("Div", &["windows", "two"], "again"),
        node("Mod", &["windows", "two"], "rest"),
        node("Add", &["again", "rest"], "batch"),
        node("Concat", &["batch", "open"], "back").with("axis", 0_i64),
        node("Reshape", &["sums", "back"], "out"),
    ];
    let constants = [
        ("eleven", ints(&[11])),
        ("eight", ints(&[8])),
        ("zero", ints(&[0])),
        ("two", ints(&[2])),
        ("open", ints(&[-1])),
        ("last", ints(&[2])),
    ];
    Model::new(&[4, 3], constants, nodes).check(2);
}

/// (w - mean) / deviation for each filter, as PyTorch's older exporter writes it.
#[test]
fn standardised_weights_are_constants_in_training_mode() {
    let norm = Node::new(
        "BatchNormalization",
        ["rows", "scale", "bias", "scale", "bias"],
        ["standard", "mean", "deviation"],
    );
    let nodes = vec![
        node("Reshape", &["w", "flat"], "rows"),
        norm.with("training_mode", 1_i64).with("epsilon", 1e-3f32),
        node("Reshape", &["standard", "shape"], "filters"),
        node("Conv", &["x", "filters"], "conv"),
    ];
    let constants = |w: Literal| {
        [
            ("w", w),
            ("flat", ints(&[1, 2, -1])),
            ("shape", ints(&[2, 1, 3, 3])),
            ("scale", Literal::from_f32s(&[2], &[1.0, 2.0])),
            ("bias", Literal::from_f32s(&[2], &[0.0, 0.1])),
            ("fc", random(&[2, 3])),
        ]
    };
    Model::new(
        &[1, 4, 4],
        constants(random(&[2, 1, 3, 3])),
        with_tail(nodes, "conv"),
    )
    .check(2);
    let of_input = vec![
        Node::new(
            "BatchNormalization",
            ["x", "scale", "bias", "bias", "scale"],
            ["normal", "mean", "deviation"],
        )
        .with("training_mode", 1_i64),
    ];
    let refused = Model::new(
        &[2, 4, 4],
        constants(ints(&[0])),
        with_tail(of_input, "normal"),
    );
    let told = refused.refusal();
    assert!(
        told.contains("normal (BatchNormalization): training mode"),
        "{told}"
    );
}

/// A graph inside a node, of one node: `op` over the outer value `from`.
fn branch(name: &str, op: &str, from: &str) -> Attribute {
    let inner = NodeProto {
        op_type: Some(op.into()),
        input: vec![from.into()],
        output: vec!["inner".into()],
        ..NodeProto::default()
    };
    let output = ValueInfoProto {
        name: Some("inner".into()),
        ..ValueInfoProto::default()
    };
    let graph = GraphProto {
        name: Some(name.into()),
        node: vec![inner],
        output: vec![output],
        ..GraphProto::default()
    };
    let attribute = AttributeProto {
        name: Some(name.into()),
        r#type: Some(5),
        g: Some(graph),
        ..AttributeProto::default()
    };
    Attribute::Opaque(attribute.encode_to_vec().into())
}

fn branching(condition: &str) -> Node {
    let mut choice = node("If", &[condition], "chosen");
    for (name, op) in [("then_branch", "Sigmoid"), ("else_branch", "Neg")] {
        choice.attributes.insert(name.into(), branch(name, op, "x"));
    }
    choice
}

#[test]
fn of_an_if_that_a_constant_decides_one_branch_remains() {
    for rank in [4, 5] {
        let nodes = vec![
            node("Shape", &["x"], "shape"),
            node("Size", &["shape"], "rank"),
            node("Equal", &["rank", "expected"], "is"),
            branching("is"),
        ];
        let constants = [
            ("expected", Literal::scalar_i64(rank)),
            ("fc", random(&[2, 3])),
        ];
        Model::new(&[2, 2, 2], constants, with_tail(nodes, "chosen")).check(2);
    }
}

/// A graph of nodes without attributes inside a node, as the attribute `body`.
fn body(inputs: &[&str], nodes: &[Node], outputs: &[&str]) -> Attribute {
    let named = |names: &[&str]| {
        let name = |name: &&str| ValueInfoProto {
            name: Some((*name).into()),
            ..ValueInfoProto::default()
        };
        names.iter().map(name).collect::<Vec<_>>()
    };
    let nodes = nodes.iter().map(|node| NodeProto {
        op_type: Some(node.op_type.clone()),
        input: node.inputs.clone(),
        output: node.outputs.clone(),
        ..NodeProto::default()
    });
    // ONNX Runtime wants the types of these two.
    let scalar = |name: &str, element: Element| ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(type_proto::Tensor {
                elem_type: Some(element as i32),
                shape: Some(TensorShapeProto::default()),
            })),
        }),
    };
    let mut input = named(inputs);
    for (name, element) in [("i", Element::Int64), ("on", Element::Bool)] {
        if let Some(place) = inputs.iter().position(|input| *input == name) {
            input[place] = scalar(name, element);
        }
    }
    let graph = GraphProto {
        name: Some("body".into()),
        node: nodes.collect(),
        input,
        output: named(outputs),
        ..GraphProto::default()
    };
    let attribute = AttributeProto {
        name: Some("body".into()),
        r#type: Some(5),
        g: Some(graph),
        ..AttributeProto::default()
    };
    Attribute::Opaque(attribute.encode_to_vec().into())
}

/// `carried` = tanh(carried + x) three times; each is a list's element too.
fn looping(trips: &str, condition: &str, goes_on: Node) -> Vec<Node> {
    let steps = [
        node("Add", &["before", "x"], "sum"),
        node("Tanh", &["sum"], "after"),
        goes_on,
        node("Identity", &["sum"], "seen"),
    ];
    let inner = body(&["i", "on", "before"], &steps, &["again", "after", "seen"]);
    let mut repeated = Node::new("Loop", [trips, condition, "x"], ["last", "list"]);
    repeated.attributes.insert("body".into(), inner);
    vec![
        repeated,
        node("ReduceMax", &["list"], "most")
            .with("axes", vec![0_i64])
            .with("keepdims", 0_i64),
        node("Add", &["last", "most"], "joined"),
        node("MatMul", &["joined", "fc"], "out"),
    ]
}

#[test]
fn loops_that_constants_end_are_written_out() {
    let constants = || {
        [
            ("three", Literal::scalar_i64(3)),
            ("two", Literal::scalar_i64(2)),
            ("yes", Literal::from_f64s(Element::Bool, &[], &[1.0])),
            ("fc", random(&[4, 3])),
        ]
    };
    let counted = node("Identity", &["on"], "again");
    let until = node("Less", &["i", "two"], "again");
    for (trips, condition, goes_on) in [
        ("three", "yes", counted.clone()),
        ("three", "", counted),
        ("", "yes", until),
    ] {
        let nodes = looping(trips, condition, goes_on);
        Model::new(&[4], constants(), nodes).check(2);
    }
}

#[test]
fn loops_that_the_input_ends_or_that_never_end_are_refused() {
    let constants = || {
        [
            ("yes", Literal::from_f64s(Element::Bool, &[], &[1.0])),
            ("fc", random(&[4, 3])),
        ]
    };
    let on = || node("Identity", &["on"], "again");
    let mut nodes = vec![
        node("ReduceMax", &["x"], "most of x").with("keepdims", 0_i64),
        node("Cast", &["most of x"], "trips").with("to", 7_i64),
    ];
    nodes.extend(looping("trips", "yes", on()));
    let told = Model::new(&[4], constants(), nodes).refusal();
    assert!(
        told.contains("Loop") && told.contains("depends on the input"),
        "{told}"
    );
    let told = Model::new(&[4], constants(), looping("", "yes", on())).refusal();
    assert!(
        told.contains("Loop") && told.contains("more nodes than are supported"),
        "{told}"
    );
}

#[test]
fn scans_over_an_axis_of_known_size_are_written_out() {
    for (backwards, axis) in [(0_i64, 1_i64), (1, -1)] {
        let steps = [
            node("Add", &["before", "row"], "sum"),
            node("Tanh", &["sum"], "after"),
            node("Mul", &["after", "row"], "seen"),
        ];
        let inner = body(&["before", "row"], &steps, &["after", "seen"]);
        let mut scan = Node::new("Scan", ["start", "x"], ["last", "list"])
            .with("num_scan_inputs", 1_i64)
            .with("scan_input_axes", vec![axis])
            .with("scan_input_directions", vec![backwards])
            .with("scan_output_axes", vec![1_i64])
            .with("scan_output_directions", vec![backwards]);
        scan.attributes.insert("body".into(), inner);
        let nodes = vec![
            node("ReduceMean", &["x"], "start")
                .with("axes", vec![axis])
                .with("keepdims", 0_i64),
            scan,
            node("Flatten", &["list"], "flat"),
            node("MatMul", &["flat", "fc"], "of list"),
            node("MatMul", &["last", "other"], "of last"),
            node("Add", &["of list", "of last"], "out"),
        ];
        let constants = [
            ("fc", random(&[12, 3])),
            ("other", random(&[if axis == 1 { 4 } else { 3 }, 3])),
        ];
        Model::new(&[3, 4], constants, nodes).check(2);
    }
}

/// Before opset 7 operands were aligned by attributes, which ONNX Runtime does not run: the same
/// network in the spelling of today is what is compared with.
#[test]
fn operands_of_opset_6_are_aligned() {
    let net = |opset: i64| {
        let old = opset < 7;
        let with = |node: Node, axis: i64| match old {
            true => node.with("broadcast", 1_i64).with("axis", axis),
            false => node,
        };
        let mut nodes = vec![
            with(node("Mul", &["x", "gains"], "scaled"), 1),
            node("PRelu", &["scaled", "slopes"], "bent"),
            with(node("Add", &["bent", "rows"], "shifted"), 2),
        ];
        nodes.push(match old {
            true => node("Dropout", &["shifted"], "kept").with("is_test", 1_i64),
            false => node("Dropout", &["shifted"], "kept"),
        });
        let shape = |old_shape: &[usize], shape: &[usize]| {
            random(match old {
                true => old_shape,
                false => shape,
            })
        };
        let constants = [
            ("gains", shape(&[3], &[3, 1, 1])),
            ("slopes", shape(&[3], &[3, 1, 1])),
            ("rows", shape(&[2], &[2, 1])),
            ("fc", random(&[3, 3])),
        ];
        let mut model = Model::new(&[3, 2, 5], constants, with_tail(nodes, "kept"));
        model.graph.opset_imports.insert(String::new(), opset);
        derive(&model.graph, &spec(&[RuleSetId::Gradient]), None).unwrap()
    };
    let x = tensor(&[2, 3, 2, 5], spread(60, 0.0));
    let seed = tensor(&[2, 3], noise(1, 6));
    let [old, new] = [6, 9].map(|opset| {
        let mut net = Net::open(&net(opset)).unwrap();
        net.run(&[("x", &x), ("seed", &seed)]).unwrap()
    });
    assert_eq!(old, new);
}

#[test]
fn windows_that_would_start_beyond_the_input_are_dropped() {
    for (size, kernel, stride) in [(12_usize, 2_i64, 3_i64), (8, 3, 3), (8, 1, 3)] {
        let pool = |op: &str| {
            node(op, &["x"], "pool")
                .with("kernel_shape", vec![kernel; 2])
                .with("strides", vec![stride; 2])
                .with("ceil_mode", 1_i64)
        };
        for op in ["MaxPool", "AveragePool"] {
            let nodes = with_tail(vec![pool(op)], "pool");
            Model::new(&[1, size, size], [("fc", random(&[1, 3]))], nodes).check(2);
        }
    }
}

/// A class token is a constant of one row: the batch cannot be freed, and the graph takes what the
/// model takes.
#[test]
fn a_fixed_batch_that_a_node_needs_stays() {
    let nodes = vec![
        node("Concat", &["token", "x"], "tokens").with("axis", 1_i64),
        node("MatMul", &["tokens", "w"], "mixed"),
        node("Tanh", &["mixed"], "on"),
        node("ReduceMean", &["on"], "mean")
            .with("axes", vec![1_i64])
            .with("keepdims", 0_i64),
        node("MatMul", &["mean", "fc"], "out"),
    ];
    let model = |rows: usize| {
        let constants = [
            ("token", random(&[rows, 1, 3])),
            ("w", random(&[3, 3])),
            ("fc", random(&[3, 2])),
        ];
        Model::new(&[4, 3], constants, nodes.clone()).of_batch(rows)
    };
    model(1).check(1);
    model(3).check(3);
    let graph = derive(&model(1).graph, &spec(&[RuleSetId::Gradient]), None).unwrap();
    assert_eq!(graph.inputs[0].value_type.shape[0], Dim::Known(1));
    let sums = onnx_autodiff::autodiff::parameters::parameter_gradients(
        &model(1).graph,
        onnx_autodiff::autodiff::spec::Head::Logits,
        &onnx_autodiff::autodiff::parameters::Parameters::All,
    );
    let told = sums.err().unwrap().to_string();
    assert!(
        told.contains("fixed batch of 1, and node tokens (Concat) may mix its rows"),
        "{told}"
    );
}

#[test]
fn a_fixed_batch_of_several_rows_is_freed() {
    let nodes = vec![
        node("Reshape", &["x", "flat"], "rows"),
        node("Tanh", &["rows"], "on"),
        node("MatMul", &["on", "fc"], "out"),
    ];
    let constants = [("flat", ints(&[4, 6])), ("fc", random(&[6, 2]))];
    let model = Model::new(&[2, 3], constants, nodes).of_batch(4);
    let graph = derive(&model.graph, &spec(&[RuleSetId::Gradient]), None).unwrap();
    assert!(matches!(
        graph.inputs[0].value_type.shape[0],
        Dim::Symbol(_)
    ));
    model.check(4);
}

/// What is told is the op that is not known, not those behind it; predictions are made all the same.
#[test]
fn an_unknown_op_is_named_and_run() {
    let unknown = |op: &str| {
        let nodes = vec![
            node(op, &["x", "w", "r"], "hidden"),
            node("Gelu", &["hidden"], "on"),
            node("Reshape", &["on", "flat"], "out"),
        ];
        let constants = [
            ("w", random(&[1, 8, 3])),
            ("r", random(&[1, 8, 2])),
            ("flat", ints(&[-1, 2])),
        ];
        let mut model = Model::new(&[1, 3], constants, nodes);
        model.graph.nodes[0] = model.graph.nodes[0].clone().with("hidden_size", 2_i64);
        model.graph.outputs[0] = value("out", vec!["N".into(), 2.into()]);
        model.graph.opset_imports.insert(String::new(), 20);
        model
    };
    let model = unknown("LSTM");
    let told = model.refusal();
    assert!(
        told.starts_with("1 node cannot be derived: hidden (LSTM, opset 20)")
            && !told.contains("Gelu"),
        "{told}"
    );
    let graph = derive(&model.graph, &spec(&[]), None).unwrap();
    let x = tensor(&[2, 1, 3], spread(6, 0.0));
    let answer = Net::open(&graph).unwrap().run(&[("x", &x)]).unwrap();
    let expected = Net::open(&model.graph).unwrap().run(&[("x", &x)]).unwrap();
    assert_eq!(answer["logits"], expected["out"]);
    assert_eq!(answer["probabilities"].shape(), [2, 2]);
}

#[test]
fn nodes_of_one_op_with_one_reason_are_told_together() {
    let nodes = vec![
        node("Bernoulli", &["x"], "a"),
        node("Bernoulli", &["a"], "b"),
        node("MeanVarianceNormalization", &["b"], "c").with("axes", vec![0_i64, 1]),
        node("Bernoulli", &["c"], "d"),
        node("MatMul", &["d", "fc"], "out"),
    ];
    let told = Model::new(&[3], [("fc", random(&[3, 2]))], nodes).refusal();
    let [all, drawn, mixed] = [
        "4 nodes cannot be derived: ",
        "a, b, d (Bernoulli, opset 17): ",
        "c (MeanVarianceNormalization, opset 17): ",
    ];
    assert!(
        told.starts_with(all) && told.contains(drawn) && told.contains(mixed),
        "{told}"
    );
    assert_eq!(told.matches("Bernoulli").count(), 1, "{told}");
}

#[test]
fn integers_that_stop_a_gradient_are_named() {
    let nodes = vec![
        node("Cast", &["x"], "whole").with("to", Element::Int32 as i64),
        node("Cast", &["whole"], "floats").with("to", Element::Float as i64),
        node("MatMul", &["floats", "fc"], "out"),
    ];
    let told = Model::new(&[3], [("fc", random(&[3, 2]))], nodes.clone()).refusal();
    assert!(
        told.contains("whole (Cast, opset 17): no gradient passes it"),
        "{told}"
    );
    let mut pixels = Model::new(&[3], [("fc", random(&[3, 2]))], nodes[1..].to_vec());
    pixels.graph.nodes[0].inputs[0] = "x".into();
    pixels.graph.inputs[0].value_type.element = Element::Uint8;
    let told = pixels.refusal();
    assert_eq!(told, "value x is uint8, not a float");
}

#[test]
fn an_inner_value_may_be_called_as_an_input_of_derived_graphs() {
    let nodes = vec![
        node("Tanh", &["x"], "seed"),
        node("MatMul", &["seed", "target"], "out"),
    ];
    Model::new(&[3], [("target", random(&[3, 2]))], nodes).check(2);
}

/// `chosen` = x + 0.5 in a branch whose constant and declared output are of float16.
#[test]
fn half_precision_inside_of_a_branch_becomes_float32() {
    let half = Element::Float16 as i32;
    let constant = TensorProto {
        data_type: Some(half),
        name: Some("half".into()),
        raw_data: Some(vec![0x00, 0x38].into()),
        ..TensorProto::default()
    };
    let inner = NodeProto {
        op_type: Some("Add".into()),
        input: vec!["x".into(), "half".into()],
        output: vec!["inner".into()],
        ..NodeProto::default()
    };
    let declared = type_proto::Tensor {
        elem_type: Some(half),
        shape: None,
    };
    let output = ValueInfoProto {
        name: Some("inner".into()),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(declared)),
        }),
    };
    let graph = GraphProto {
        name: Some("then".into()),
        node: vec![inner],
        initializer: vec![constant],
        output: vec![output],
        ..GraphProto::default()
    };
    let of_branch = |name: &str| {
        let attribute = AttributeProto {
            name: Some(name.into()),
            r#type: Some(5),
            g: Some(graph.clone()),
            ..AttributeProto::default()
        };
        Attribute::Opaque(attribute.encode_to_vec().into())
    };
    let mut choice = node("If", &["is"], "y");
    for name in ["then_branch", "else_branch"] {
        choice.attributes.insert(name.into(), of_branch(name));
    }
    let value = |name: &str| ValueInfo {
        name: name.into(),
        value_type: ValueType::new(Element::Float16, vec![Dim::Known(1), Dim::Known(2)]),
    };
    let source = Graph {
        inputs: vec![value("x")],
        outputs: vec![value("y")],
        initializers: [("is".to_owned(), Literal::from_bools(&[], &[true]))].into(),
        nodes: vec![choice],
        ..Graph::default()
    };
    let mut net = Net::open(&passes::single(source, false).unwrap()).unwrap();
    let found = net
        .run(&[("x", &tensor(&[1, 2], vec![1.0, -2.0]))])
        .unwrap();
    assert_eq!(found["y"], tensor(&[1, 2], vec![1.5, -1.5]));
}
