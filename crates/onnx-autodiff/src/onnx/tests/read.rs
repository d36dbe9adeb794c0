use std::path::Path;

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;

use super::{graph, value};
use crate::onnx::graph::{Attribute, Dim, Element, Graph, Literal, Node};
use crate::onnx::limits::MAX_NODES;
use crate::onnx::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    StringStringEntryProto, TensorProto, ValueInfoProto, type_proto,
};
use crate::onnx::{
    ExternalRef, read_bytes, read_model, read_model_files, write_model, write_model_external,
    write_model_parts,
};

fn linear() -> Graph {
    graph(
        13,
        &[value("x", &[0, 3])],
        vec![
            (
                "w",
                Literal::from_f32s(&[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
            ),
            ("b", Literal::from_f32s(&[1], &[7.0])),
        ],
        vec![
            Node::new("MatMul", ["x", "w"], ["xw"]).with("future", 3),
            Node {
                name: "add".into(),
                domain: "com.example".into(),
                ..Node::new("Twist", ["xw", "b"], ["y"])
            }
            .with("words", "hi")
            .with("table", Literal::vector_i64(&[1, 2])),
        ],
        &[value("y", &[0, 2])],
    )
}

fn proto(edit: impl FnOnce(&mut GraphProto)) -> Bytes {
    let mut model = ModelProto::decode(write_model(&linear()).unwrap().as_slice()).unwrap();
    edit(model.graph.as_mut().unwrap());
    model.encode_to_vec().into()
}

fn refusal(edit: impl FnOnce(&mut GraphProto)) -> String {
    read_bytes(proto(edit), None).unwrap_err().to_string()
}

fn entry(key: &str, value: &str) -> StringStringEntryProto {
    StringStringEntryProto {
        key: Some(key.into()),
        value: Some(value.into()),
    }
}

#[test]
fn a_written_graph_reads_back_equal_with_unknown_attributes_and_domains() {
    let mut source = linear();
    source.metadata.insert("author".into(), "us".into());
    assert_eq!(
        read_bytes(write_model(&source).unwrap().into(), None).unwrap(),
        source
    );
}

#[test]
fn equal_graphs_give_identical_bytes() {
    let (one, mut two) = (linear(), linear());
    two.initializers.reverse();
    assert_eq!(one, two);
    assert_eq!(write_model(&one).unwrap(), write_model(&two).unwrap());
}

#[test]
fn weights_share_the_memory_of_the_file() {
    let bytes = Bytes::from(write_model(&linear()).unwrap());
    let span = bytes.as_ptr_range();
    let read = read_bytes(bytes.clone(), None).unwrap();
    assert!(
        read.initializers
            .values()
            .all(|literal| span.contains(&literal.bytes.as_ptr()))
    );
}

#[test]
fn initializers_listed_as_inputs_are_no_inputs() {
    let bytes = proto(|g| {
        g.input.push(ValueInfoProto {
            name: Some("w".into()),
            r#type: None,
        })
    });
    assert_eq!(read_bytes(bytes, None).unwrap().inputs, linear().inputs);
}

#[test]
fn an_input_stored_without_a_shape_gets_the_one_that_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let model = proto(|g| {
        let kind = g.input[0]
            .r#type
            .as_mut()
            .and_then(|kind| kind.value.as_mut());
        if let Some(type_proto::Value::TensorType(tensor)) = kind {
            tensor.shape = None;
        }
    });
    std::fs::write(&path, &model).unwrap();
    let told = read_model(&path).unwrap_err().to_string();
    assert!(told.contains("stores no shape of input x"), "{told}");
    let graph = read_model_files(&path, Some(&[3])).unwrap().graph;
    let shape = &graph.inputs[0].value_type.shape;
    assert!(
        matches!(shape[..], [Dim::Symbol(_), Dim::Known(3)]),
        "{shape:?}"
    );
    std::fs::write(&path, proto(|_| {})).unwrap();
    let stored = read_model_files(&path, Some(&[4])).unwrap().graph;
    assert_eq!(stored.inputs, [value("x", &[0, 3])]);
}

fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let texts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    NodeProto {
        op_type: Some(op.into()),
        input: texts(inputs),
        output: texts(outputs),
        ..NodeProto::default()
    }
}

fn function(name: &str, nodes: Vec<NodeProto>) -> FunctionProto {
    FunctionProto {
        name: Some(name.into()),
        domain: Some("mine".into()),
        input: vec!["a".into(), "b".into()],
        output: vec!["c".into()],
        node: nodes,
        opset_import: vec![OperatorSetIdProto {
            domain: None,
            version: Some(13),
        }],
        ..FunctionProto::default()
    }
}

fn call(name: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto {
        domain: Some("mine".into()),
        ..node(name, inputs, outputs)
    }
}

/// x and w of `linear`, called by these nodes, of which `y` is the output.
fn calling(nodes: Vec<NodeProto>, functions: Vec<FunctionProto>) -> Result<Graph, String> {
    let mut model = ModelProto::decode(write_model(&linear()).unwrap().as_slice()).unwrap();
    model.graph.as_mut().unwrap().node = nodes;
    model.functions = functions;
    model.opset_import = vec![
        OperatorSetIdProto {
            domain: None,
            version: Some(13),
        },
        OperatorSetIdProto {
            domain: Some("mine".into()),
            version: Some(1),
        },
    ];
    let read = read_bytes(model.encode_to_vec().into(), None);
    read.map_err(|error| error.to_string())
}

#[test]
fn functions_of_the_model_become_the_nodes_of_their_bodies() {
    let leaky = {
        let mut body = node("LeakyRelu", &["t"], &["c"]);
        body.attribute = ["alpha", "absent"]
            .map(|name| AttributeProto {
                name: Some(if name == "alpha" { name } else { "beta" }.into()),
                ref_attr_name: Some(name.into()),
                ..AttributeProto::default()
            })
            .to_vec();
        let mut made = function("Leaky", vec![node("MatMul", &["a", "b"], &["t"]), body]);
        made.attribute_proto = vec![AttributeProto {
            name: Some("alpha".into()),
            f: Some(0.25),
            ..AttributeProto::default()
        }];
        made
    };
    // An inner value is called as one outside, and the function twice.
    let twice = function(
        "Twice",
        vec![
            call("Leaky", &["a", "b"], &["t"]),
            node("Add", &["t", "t"], &["c"]),
        ],
    );
    let mut given = call("Leaky", &["x", "w"], &["y2"]);
    given.attribute = vec![AttributeProto {
        name: Some("alpha".into()),
        f: Some(0.5),
        ..AttributeProto::default()
    }];
    let nodes = vec![
        given,
        call("Twice", &["x", "w"], &["t"]),
        node("Add", &["t", "y2"], &["y"]),
    ];
    let graph = calling(nodes, vec![leaky, twice]).unwrap();
    let ops: Vec<_> = graph
        .nodes
        .iter()
        .map(|node| node.op_type.as_str())
        .collect();
    assert_eq!(
        ops,
        ["MatMul", "LeakyRelu", "MatMul", "LeakyRelu", "Add", "Add"]
    );
    let slopes: Vec<_> = graph
        .nodes
        .iter()
        .filter_map(|node| node.float("alpha"))
        .collect();
    assert_eq!(slopes, [0.5, 0.25]);
    assert!(graph.nodes.iter().all(|node| node.attributes.len() <= 1));
    assert_eq!(graph.opset_imports.keys().collect::<Vec<_>>(), [""]);
    let outputs: std::collections::HashSet<_> =
        graph.nodes.iter().flat_map(|node| &node.outputs).collect();
    assert_eq!(outputs.len(), graph.nodes.len(), "{:?}", graph.nodes);
}

#[test]
fn functions_that_call_themselves_or_need_another_opset_are_refused() {
    let endless = function("Endless", vec![call("Endless", &["a", "b"], &["c"])]);
    let told = calling(vec![call("Endless", &["x", "w"], &["y"])], vec![endless]).unwrap_err();
    assert!(
        told.contains("function Endless") && told.contains("calls itself"),
        "{told}"
    );
    let doubling = (0..40).map(|level| {
        let inner = format!("Double{}", level + 1);
        let body = vec![
            call(&inner, &["a", "b"], &["t"]),
            call(&inner, &["a", "b"], &["u"]),
            node("Add", &["t", "u"], &["c"]),
        ];
        function(&format!("Double{level}"), body)
    });
    let told = calling(
        vec![call("Double0", &["x", "w"], &["y"])],
        doubling.collect(),
    );
    assert!(told.unwrap_err().contains("nodes; at most"));
    let mut old = function("Old", vec![node("MatMul", &["a", "b"], &["c"])]);
    old.opset_import[0].version = Some(12);
    let told = calling(vec![call("Old", &["x", "w"], &["y"])], vec![old]).unwrap_err();
    assert!(told.contains("opset 12, and the model for 13"), "{told}");
}

#[test]
fn an_output_of_a_function_may_be_an_input_handed_on() {
    let mut same = function("Same", vec![node("Identity", &["a"], &["t"])]);
    same.output = vec!["a".into()];
    let graph = calling(
        vec![
            node("MatMul", &["x", "w"], &["xw"]),
            call("Same", &["xw", ""], &["y"]),
        ],
        vec![same],
    )
    .unwrap();
    let last = graph.nodes.last().unwrap();
    assert!(
        graph
            .nodes
            .iter()
            .any(|node| node.is("Identity") && node.inputs == ["xw"] && node.outputs == ["y"]),
        "{last:?}"
    );
}

#[test]
fn outputs_stored_without_a_type_get_the_inferred_one() {
    let stored = |name: &str, edit: &dyn Fn(&mut type_proto::Tensor)| {
        read_bytes(
            proto(|g| {
                let Some(output) = g.output.first_mut() else {
                    return;
                };
                output.name = Some(name.into());
                let kind = output.r#type.as_mut().and_then(|kind| kind.value.as_mut());
                let Some(type_proto::Value::TensorType(tensor)) = kind else {
                    return;
                };
                edit(tensor);
            }),
            None,
        )
    };
    let product = vec![value("xw", &[0, 2])];
    assert_eq!(
        stored("xw", &|tensor| tensor.shape = None).unwrap().outputs,
        product
    );
    assert_eq!(
        stored("xw", &|tensor| tensor.elem_type = None)
            .unwrap()
            .outputs,
        product
    );
    let untyped = read_bytes(
        proto(|g| {
            g.output[0] = ValueInfoProto {
                name: Some("xw".into()),
                r#type: None,
            }
        }),
        None,
    );
    assert_eq!(untyped.unwrap().outputs, product);
    let told = stored("y", &|tensor| tensor.shape = None)
        .unwrap_err()
        .to_string();
    assert!(
        told.contains("the type of output y is not stored and does not follow from the graph"),
        "{told}"
    );
    let told = refusal(|g| g.input[0].r#type = None);
    assert!(
        told.contains("x is not a tensor with an element type and a shape"),
        "{told}"
    );
}

#[test]
fn a_model_above_two_gigabytes_is_refused_unless_its_weights_lie_outside() {
    let mut source = linear();
    let weights = Literal {
        element: Element::Uint8,
        shape: vec![1 << 20],
        bytes: vec![0; 1 << 20].into(),
    };
    source
        .initializers
        .extend((0..2048).map(|i| (format!("large{i}"), weights.clone())));
    let told = write_model(&source).unwrap_err().to_string();
    assert!(told.contains("of which ONNX allows 2147483647"), "{told}");
    let outside = |_: &str, _: &Literal| {
        Some(ExternalRef {
            location: "w.bin".into(),
            offset: 0,
        })
    };
    assert!(write_model_external(&source, 1 << 20, &mut { outside }).is_ok());
}

#[test]
fn a_model_in_parts_reads_back_equal_and_holds_shared_bytes_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut source = linear();
    let numbers: Vec<f32> = (0..1500).map(|i| i as f32).collect();
    let large = Literal::from_f32s(&[1500], &numbers);
    let others = [("large", &large), ("again", &large)];
    source
        .initializers
        .extend(others.map(|(name, literal)| (name.to_owned(), literal.clone())));
    source
        .initializers
        .insert("other".into(), Literal::from_f32s(&[1000], &[0.5; 1000]));
    let parts = write_model_parts(&source, "net.onnx.data").unwrap();
    let offsets: Vec<u64> = parts.data.iter().map(|(start, _)| *start).collect();
    assert_eq!(offsets, [0, 8192]);
    let mut data = Vec::new();
    parts.write_data(&mut data).unwrap();
    assert_eq!(data.len(), 8192 + 4000);
    std::fs::write(folder.path().join("net.onnx.data"), &data).unwrap();
    std::fs::write(folder.path().join("net.onnx"), &parts.model).unwrap();
    let back = read_model(&folder.path().join("net.onnx")).unwrap();
    assert_eq!(back.initializers["again"], large);
    assert_eq!(back.initializers["other"], source.initializers["other"]);
    assert_eq!(back.nodes, source.nodes);
}

#[test]
fn constant_nodes_become_initializers() {
    let constant = |output: &str, attribute: AttributeProto| NodeProto {
        op_type: Some("Constant".into()),
        output: vec![output.into()],
        attribute: vec![attribute],
        ..NodeProto::default()
    };
    let named = |name: &str| AttributeProto {
        name: Some(name.into()),
        ..AttributeProto::default()
    };
    let read = read_bytes(
        proto(|g| {
            g.node.push(constant(
                "c1",
                AttributeProto {
                    f: Some(2.5),
                    ..named("value_float")
                },
            ));
            g.node.push(constant(
                "c2",
                AttributeProto {
                    ints: vec![4, 5],
                    ..named("value_ints")
                },
            ));
            let t = TensorProto {
                data_type: Some(1),
                dims: vec![1],
                float_data: vec![8.0],
                ..TensorProto::default()
            };
            g.node.push(constant(
                "c3",
                AttributeProto {
                    t: Some(t),
                    ..named("value")
                },
            ));
        }),
        None,
    );
    let read = read.unwrap();
    assert_eq!(read.nodes.len(), 2);
    assert_eq!(read.initializers["c1"], Literal::scalar_f32(2.5));
    assert_eq!(read.initializers["c2"], Literal::vector_i64(&[4, 5]));
    assert_eq!(read.initializers["c3"], Literal::from_f32s(&[1], &[8.0]));
}

#[test]
fn typed_fields_hold_every_element_type() {
    let mut tensors = vec![];
    for code in [2, 3, 4, 5, 6, 9] {
        tensors.push(TensorProto {
            data_type: Some(code),
            int32_data: vec![0, 1],
            ..TensorProto::default()
        });
    }
    for code in [12, 13] {
        tensors.push(TensorProto {
            data_type: Some(code),
            uint64_data: vec![0, 1],
            ..TensorProto::default()
        });
    }
    tensors.push(TensorProto {
        data_type: Some(10),
        int32_data: vec![0, 0x3c00],
        ..TensorProto::default()
    });
    tensors.push(TensorProto {
        data_type: Some(16),
        int32_data: vec![0, 0x3f80],
        ..TensorProto::default()
    });
    tensors.push(TensorProto {
        data_type: Some(11),
        double_data: vec![0.0, 1.0],
        ..TensorProto::default()
    });
    tensors.push(TensorProto {
        data_type: Some(7),
        int64_data: vec![0, 1],
        ..TensorProto::default()
    });
    let bytes = proto(|g| {
        for tensor in tensors {
            let name = Some(format!("t{}", tensor.data_type()));
            g.initializer.push(TensorProto {
                name,
                dims: vec![2],
                ..tensor
            });
        }
    });
    let read = read_bytes(bytes, None).unwrap();
    for code in [2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 16] {
        let literal = &read.initializers[&format!("t{code}")];
        assert_eq!(literal.element, Element::from_code(code).unwrap());
        assert_eq!(literal.to_f64s(), [0.0, 1.0]);
    }
}

#[test]
fn nodes_come_out_in_topological_order() {
    assert_eq!(
        read_bytes(proto(|g| g.node.reverse()), None).unwrap(),
        linear()
    );
}

#[test]
fn every_fault_is_told_at_once_with_node_and_op() {
    let told = refusal(|g| {
        g.node[0].input[0] = "nowhere".into();
        g.node[1].input[1] = "neither".into();
        g.output[0].name = Some("z".into());
    });
    assert!(
        told.contains("node xw (MatMul) reads nowhere, which nothing produces"),
        "{told}"
    );
    assert!(told.contains("node add (Twist) reads neither"), "{told}");
    assert!(told.contains("output z is produced by nothing"), "{told}");
}

#[test]
fn cycles_and_duplicates_are_refused() {
    assert!(refusal(|g| g.node[0].input[0] = "y".into()).contains("nodes xw, add form a cycle"));
    assert!(
        refusal(|g| g.node[1].output[0] = "x".into()).contains("value x is defined more than once")
    );
    assert!(
        refusal(|g| g.initializer.push(g.initializer[0].clone()))
            .contains("b is defined more than once")
    );
}

#[test]
fn wrong_byte_counts_and_shapes_are_refused() {
    assert!(
        refusal(|g| g.initializer[0].dims[0] = 2)
            .contains("tensor b: 4 bytes where the shape asks for 8")
    );
    assert!(
        refusal(|g| g.initializer[0].dims[0] = -1)
            .contains("tensor b: the shape [-1] is not valid")
    );
    assert!(refusal(|g| g.initializer[0].dims = vec![i64::MAX, 2]).contains("is not valid"));
    assert!(
        refusal(|g| g.initializer[0].data_type = Some(8))
            .contains("element type 8 of ONNX is not supported")
    );
    let typed = |g: &mut GraphProto| {
        g.initializer[0].raw_data = None;
        g.initializer[0].float_data = vec![1.0, 2.0];
    };
    assert!(refusal(typed).contains("2 values where the shape asks for 1"));
}

#[test]
fn opsets_and_ir_versions_outside_the_range_are_refused() {
    let with = |opset: Option<i64>, ir: i64| {
        let mut model = ModelProto::decode(write_model(&linear()).unwrap().as_slice()).unwrap();
        model.ir_version = Some(ir);
        model.opset_import = opset
            .map(|v| OperatorSetIdProto {
                domain: Some("ai.onnx".into()),
                version: Some(v),
            })
            .into_iter()
            .collect();
        read_bytes(model.encode_to_vec().into(), None).map_err(|e| e.to_string())
    };
    assert!((6..=25).all(|opset| with(Some(opset), 3).is_ok()));
    assert!(
        with(Some(5), 3)
            .unwrap_err()
            .contains("opset 5 is not supported: export the model with opset 6 to 25")
    );
    assert!(with(Some(26), 8).unwrap_err().contains("opset 26"));
    assert!(with(None, 8).unwrap_err().contains("which opset"));
    assert!(with(Some(13), 99).unwrap_err().contains("IR version 99"));
}

#[test]
fn a_truncated_or_empty_model_is_refused() {
    let bytes = Bytes::from(write_model(&linear()).unwrap());
    assert!(read_bytes(bytes.slice(..bytes.len() - 3), None).is_err());
    assert!(
        read_bytes(Bytes::new(), None)
            .unwrap_err()
            .to_string()
            .contains("no graph")
    );
    assert!(
        read_model(Path::new("no/such.onnx"))
            .unwrap_err()
            .to_string()
            .contains("no/such.onnx")
    );
}

#[test]
fn external_weights_read_back_equal() {
    let folder = tempfile::tempdir().unwrap();
    let mut weights = vec![0u8; 16];
    let model = write_model_external(&linear(), 8, &mut |_, literal| {
        let offset = weights.len() as u64;
        weights.extend_from_slice(&literal.bytes);
        Some(ExternalRef {
            location: "w.bin".into(),
            offset,
        })
    });
    let model = model.unwrap();
    assert_eq!(weights.len(), 16 + 24, "the bias is below the threshold");
    std::fs::write(folder.path().join("w.bin"), &weights).unwrap();
    std::fs::write(folder.path().join("model.onnx"), &model).unwrap();
    assert_eq!(
        read_model(&folder.path().join("model.onnx")).unwrap(),
        linear()
    );
    assert!(
        read_bytes(model.clone().into(), None)
            .unwrap_err()
            .to_string()
            .contains("not read from a folder")
    );
    std::fs::write(folder.path().join("w.bin"), &weights[..30]).unwrap();
    let short = read_model(&folder.path().join("model.onnx"))
        .unwrap_err()
        .to_string();
    assert!(
        short.contains("external file \"w.bin\" has 30 bytes, 40 are needed"),
        "{short}"
    );
}

#[test]
fn external_data_outside_the_folder_is_refused() {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("model");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(outer.path().join("secret"), [0u8; 64]).unwrap();
    std::os::unix::fs::symlink(outer.path().join("secret"), folder.join("link")).unwrap();
    let absolute = outer.path().join("secret").display().to_string();
    for location in [
        "../secret",
        &absolute,
        "link",
        "",
        "a/../../secret",
        "..\\secret",
        ".",
    ] {
        let bytes = proto(|g| {
            g.initializer[0].raw_data = None;
            g.initializer[0].data_location = Some(1);
            g.initializer[0].external_data = vec![entry("location", location)];
        });
        let told = read_bytes(bytes, Some(&folder)).unwrap_err().to_string();
        assert!(
            told.contains("must be a file inside the model's own folder"),
            "{location}: {told}"
        );
    }
    for (key, text) in [("offset", "-1"), ("length", "x")] {
        let bytes = proto(|g| {
            g.initializer[0].data_location = Some(1);
            g.initializer[0].external_data = vec![entry("location", "w"), entry(key, text)];
        });
        assert!(
            read_bytes(bytes, Some(&folder))
                .unwrap_err()
                .to_string()
                .contains("is not a number of bytes")
        );
    }
}

#[test]
fn sub_graphs_are_kept_and_name_what_they_capture() {
    let inner = NodeProto {
        op_type: Some("Neg".into()),
        input: vec!["xw".into()],
        ..NodeProto::default()
    };
    let branch = GraphProto {
        node: vec![inner],
        ..GraphProto::default()
    };
    let bytes = proto(|g| {
        g.node[1].attribute.push(AttributeProto {
            name: Some("then_branch".into()),
            r#type: Some(5),
            g: Some(branch),
            ..AttributeProto::default()
        });
    });
    let read = read_bytes(bytes, None).unwrap();
    assert!(matches!(
        read.nodes[1].attributes["then_branch"],
        Attribute::Opaque(_)
    ));
    assert_eq!(read.nodes[1].captured(), ["xw"]);
    assert_eq!(
        read_bytes(write_model(&read).unwrap().into(), None).unwrap(),
        read
    );
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = read_bytes(bytes.into(), None);
    }

    #[test]
    fn mutated_models_never_panic(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = write_model(&linear()).unwrap();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(read) = read_bytes(bytes.into(), None) {
            write_model(&read).unwrap();
        }
    }
}

#[test]
fn graphs_of_more_nodes_than_any_classifier_are_refused_by_their_number() {
    let chain = |nodes: usize| {
        let name = |at: usize| {
            if at == nodes {
                "y".to_owned()
            } else {
                format!("v{at}")
            }
        };
        let node = |at: usize| {
            Node::new(
                "Relu",
                [if at == 0 { "x".into() } else { name(at) }],
                [name(at + 1)],
            )
        };
        let nodes = (0..nodes).map(node).collect();
        write_model(&graph(
            17,
            &[value("x", &[0, 2])],
            vec![],
            nodes,
            &[value("y", &[0, 2])],
        ))
        .unwrap()
    };
    assert!(read_bytes(chain(10).into(), None).is_ok());
    let refused = read_bytes(chain(MAX_NODES + 1).into(), None)
        .unwrap_err()
        .to_string();
    assert!(refused.contains("20001 nodes; at most 20000"), "{refused}");
}
