//! Quantised activations: straight-through gradients inside the range of the integers (as
//! `torch.fake_quantize_per_tensor_affine`), scaled by what stands around them; and what is refused.

use onnx_autodiff::{
    autodiff::{
        Loss, fit,
        parameters::{Parameters, loss_gradients},
        rounding,
        spec::RuleSetId,
    },
    onnx::graph::{Attribute, Dim, Element, Graph, Literal, Node, ValueInfo, ValueType},
};

use crate::run::{Net, derive, spec, tensor};

/// `nodes` from `x` `[N, …sizes]` to `y`, which is flattened.
fn graph(opset: i64, sizes: &[usize], nodes: Vec<Node>, constants: &[(&str, Literal)]) -> Graph {
    let mut shape = vec![Dim::Symbol("N".into())];
    shape.extend(sizes.iter().map(|&size| Dim::Known(size)));
    let info = |name: &str, shape: Vec<Dim>| ValueInfo {
        name: name.into(),
        value_type: ValueType::new(Element::Float, shape),
    };
    let last = Node::new("Flatten", ["y"], ["out"]);
    Graph {
        opset_imports: [(String::new(), opset), ("com.microsoft".into(), 1)].into(),
        inputs: vec![info("x", shape)],
        outputs: vec![info("out", vec!["N".into(), "classes".into()])],
        initializers: constants
            .iter()
            .map(|(name, literal)| ((*name).to_owned(), literal.clone()))
            .collect(),
        nodes: [nodes, vec![last]].concat(),
        ..Graph::default()
    }
}

/// Logits and gradient of one row for a cotangent of ones.
fn gradient(source: &Graph, shape: &[usize], x: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let derived = derive(source, &spec(&[RuleSetId::Gradient]), None).unwrap();
    let mut net = Net::open(&derived).unwrap();
    let classes = derived.outputs[0].value_type.shape[1].known().unwrap();
    let x = tensor(shape, x.to_vec());
    let seed = tensor(&[1, classes], vec![1.0; classes]);
    let found = net.run(&[("x", &x), ("seed", &seed)]).unwrap();
    ["logits", "gradient"]
        .map(|name| found[name].iter().copied().collect::<Vec<_>>())
        .into()
}

fn close(found: &[f32], expected: &[f32], about: &str) {
    let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5 * b.abs().max(1.0);
    assert!(
        found.len() == expected.len() && found.iter().zip(expected).all(near),
        "{about}: {found:?} is not {expected:?}"
    );
}

fn zero(element: Element, values: &[f64]) -> Literal {
    match values {
        [one] => Literal::from_f64s(element, &[], &[*one]),
        several => Literal::from_f64s(element, &[several.len()], several),
    }
}

fn pair() -> Vec<Node> {
    vec![
        Node::new("QuantizeLinear", ["x", "s", "z"], ["q"]),
        Node::new("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
}

#[test]
fn rounding_passes_inside_the_range_of_the_integers() {
    let kinds = [
        (Element::Int8, -128.0, 127.0, -3.0),
        (Element::Uint8, 0.0, 255.0, 7.0),
        (Element::Int16, -32768.0, 32767.0, 0.0),
        (Element::Uint16, 0.0, 65535.0, 1000.0),
    ];
    for (element, least, most, z) in kinds {
        let s = 0.25_f32;
        let end = |integer: f64, beyond: f32| (integer - z) as f32 * s + beyond * s;
        let x = [
            end(least, -0.6),
            end(least, -0.4),
            -0.4 * s,
            0.0,
            end(most, 0.4),
            end(most, 0.6),
        ];
        let rounded = [
            end(least, 0.0),
            end(least, 0.0),
            0.0,
            0.0,
            end(most, 0.0),
            end(most, 0.0),
        ];
        let constants = [("s", Literal::scalar_f32(s)), ("z", zero(element, &[z]))];
        let of_microsoft = pair().into_iter().map(|mut node| {
            node.domain = "com.microsoft".into();
            node
        });
        let spellings = [
            (21, pair()),
            (13, of_microsoft.collect()),
            (if element.size() == 1 { 13 } else { 21 }, pair()),
        ];
        for (opset, nodes) in spellings {
            let about = format!("{element}, opset {opset}");
            let source = graph(opset, &[6], nodes, &constants);
            let (logits, found) = gradient(&source, &[1, 6], &x);
            close(&logits, &rounded, &about);
            close(&found, &[0.0, 1.0, 1.0, 1.0, 1.0, 0.0], &about);
        }
    }
}

#[test]
fn opset_21_names_the_integers_without_a_zero_point() {
    let nodes = vec![
        Node::new("QuantizeLinear", ["x", "s"], ["q"]).with("output_dtype", Element::Int16 as i64),
        Node::new("DequantizeLinear", ["q", "s"], ["y"]),
    ];
    let source = graph(21, &[3], nodes, &[("s", Literal::scalar_f32(0.5))]);
    let (logits, found) = gradient(&source, &[1, 3], &[-300.2, 300.2, 20000.0]);
    close(&logits, &[-300.0, 300.0, 16383.5], "logits");
    close(&found, &[1.0, 1.0, 0.0], "gradient");
}

#[test]
fn channels_have_their_own_scale_and_zero_point() {
    let nodes = vec![
        Node::new("QuantizeLinear", ["x", "s", "z"], ["q"]).with("axis", 1_i64),
        Node::new("DequantizeLinear", ["q", "s", "z"], ["y"]).with("axis", -2_i64),
    ];
    let constants = [
        ("s", Literal::from_f32s(&[2], &[0.1, 1.0])),
        ("z", zero(Element::Int8, &[-128.0, 0.0])),
    ];
    let source = graph(13, &[2, 3], nodes, &constants);
    let x = [-1.0, 25.0, 26.0, -129.0, -128.0, 127.0];
    let (logits, found) = gradient(&source, &[1, 2, 3], &x);
    close(&logits, &[0.0, 25.0, 25.5, -128.0, -128.0, 127.0], "logits");
    close(&found, &[0.0, 1.0, 0.0, 0.0, 1.0, 1.0], "gradient");
}

/// Other scales behind than before: the ratio counts.
#[test]
fn integers_are_pooled_moved_and_scaled() {
    let nodes = vec![
        Node::new("QuantizeLinear", ["x", "s", "z"], ["q"]),
        Node::new("MaxPool", ["q"], ["pooled"])
            .with("kernel_shape", vec![1_i64, 2])
            .with("strides", vec![1_i64, 2]),
        Node::new("Transpose", ["pooled"], ["turned"]).with("perm", vec![0_i64, 1, 3, 2]),
        Node::new("Concat", ["turned", "turned"], ["twice"]).with("axis", 1_i64),
        Node::new("DequantizeLinear", ["twice", "t", "z"], ["y"]),
    ];
    let constants = [
        ("s", Literal::scalar_f32(0.5)),
        ("t", Literal::scalar_f32(1.5)),
        ("z", zero(Element::Uint8, &[10.0])),
    ];
    let source = graph(13, &[1, 1, 4], nodes, &constants);
    let (_, found) = gradient(&source, &[1, 1, 1, 4], &[1.0, 2.0, 4.0, 3.0]);
    close(&found, &[0.0, 6.0, 6.0, 0.0], "gradient");
}

/// Weights of int8, one scale for each output: 3.0 and 0.25 times 2, a ReLU in the range.
#[test]
fn quantised_weights_count_as_the_numbers_they_stand_for() {
    let nodes = vec![
        Node::new("DequantizeLinear", ["w", "sw", "zw"], ["weights"]).with("axis", 0_i64),
        Node::new("Gemm", ["x", "weights"], ["z"]).with("transB", 1_i64),
        Node::new("QuantizeLinear", ["z", "s", "zero"], ["q"]),
        Node::new("DequantizeLinear", ["q", "s", "zero"], ["y"]),
    ];
    let constants = [
        (
            "w",
            Literal::from_f64s(Element::Int8, &[2, 2], &[2.0, -4.0, 1.0, 6.0]),
        ),
        ("sw", Literal::from_f32s(&[2], &[3.0, 0.25])),
        ("zw", zero(Element::Int8, &[0.0, 0.0])),
        ("s", Literal::scalar_f32(0.1)),
        ("zero", zero(Element::Uint8, &[0.0])),
    ];
    let source = graph(13, &[2], nodes, &constants);
    close(
        &gradient(&source, &[1, 2], &[1.0, 0.0]).1,
        &[6.25, -10.5],
        "both",
    );
    close(
        &gradient(&source, &[1, 2], &[0.0, 1.0]).1,
        &[0.25, 1.5],
        "second",
    );
    assert_eq!(rounding(&source).len(), 1);
    let error = |found: String, told: &str| {
        let all = found.contains("q (QuantizeLinear") && found.contains(told);
        assert!(all, "{found}");
    };
    let trained = loss_gradients(&source, Loss::CrossEntropy, &Parameters::All);
    error(trained.err().unwrap().to_string(), "train the float model");
    let fitted = fit::fit_graph(&source, fit::Regime::Activation);
    error(
        fitted.err().unwrap().to_string(),
        "fit those of the float model",
    );
    for set in [RuleSetId::GuidedBackprop, RuleSetId::Deconvnet] {
        let derived = derive(&source, &spec(&[set]), None);
        error(derived.err().unwrap().to_string(), "a ReLU may be folded");
    }
}

#[test]
fn what_is_not_passed_is_named() {
    let scale = [
        ("s", Literal::scalar_f32(0.5)),
        ("z", zero(Element::Uint8, &[0.0])),
        ("three", Literal::from_f64s(Element::Uint8, &[], &[3.0])),
    ];
    let blocks: Attribute = 2_i64.into();
    let cases = [
        (
            vec![
                Node::new("QuantizeLinear", ["x", "s", "z"], ["q"]),
                Node::new("Max", ["q", "three"], ["most"]),
                Node::new("DequantizeLinear", ["most", "s", "z"], ["y"]),
            ],
            ["most (Max", "arithmetic of quantised integers"],
        ),
        (
            vec![
                Node::new("QuantizeLinear", ["x", "s", "z"], ["q"]).with("block_size", blocks),
                Node::new("DequantizeLinear", ["q", "s", "z"], ["y"]),
            ],
            ["q", "scales of blocks"],
        ),
        (
            vec![
                Node::new("DynamicQuantizeLinear", ["x"], ["q", "by", "from"]),
                Node::new("DequantizeLinear", ["q", "by", "from"], ["y"]),
            ],
            ["q (DynamicQuantizeLinear", "float model"],
        ),
        (
            vec![
                Node::new("DynamicQuantizeLinear", ["x"], ["q", "by", "from"]),
                Node::new("MatMulInteger", ["q", "three", "from"], ["sum"]),
                Node::new("Cast", ["sum"], ["y"]).with("to", 1_i64),
            ],
            ["sum (MatMulInteger", "in the QDQ format"],
        ),
    ];
    for (nodes, told) in cases {
        let source = graph(21, &[3], nodes, &scale);
        let error = derive(&source, &spec(&[RuleSetId::Gradient]), None);
        let error = error.err().unwrap().to_string();
        assert!(told.iter().all(|part| error.contains(part)), "{error}");
    }
}
