//! The network in stages, each run over a window, against the whole network.

use ndarray::{ArrayD, Axis, Slice};
use proptest::{collection::vec, prelude::*};

use onnx_autodiff::{
    Tensor,
    autodiff::{derive, spec::DeriveSpec},
    onnx::{
        graph::{Dim, Element, Graph, Literal, Node, ValueInfo, ValueType},
        infer,
    },
    stages::{Region, Stages, plan},
};

use crate::run::Net;

const CHANNELS: usize = 4;

/// One layer after another; each reads the value of the one before.
#[derive(Clone, Debug)]
enum Layer {
    Conv {
        kernel: usize,
        stride: usize,
        dilation: usize,
        pads: [usize; 4],
    },
    Pool {
        op: &'static str,
        kernel: usize,
        stride: usize,
        pads: usize,
        ceil: bool,
    },
    Same {
        kernel: usize,
        stride: usize,
        lower: bool,
    },
    Relu,
    /// Two convolutions beside each other, joined by channels.
    Fork,
    /// A convolution around which its input goes too.
    Skip,
}

fn layer() -> impl Strategy<Value = Layer> {
    prop_oneof![
        (
            1_usize..4,
            1_usize..3,
            1_usize..3,
            [0_usize..3, 0_usize..3, 0_usize..3, 0_usize..3]
        )
            .prop_map(|(kernel, stride, dilation, pads)| Layer::Conv {
                kernel,
                stride,
                dilation,
                pads
            }),
        (
            2_usize..4,
            1_usize..3,
            0_usize..2,
            any::<bool>(),
            any::<bool>()
        )
            .prop_map(|(kernel, stride, pads, ceil, max)| {
                Layer::Pool {
                    op: if max { "MaxPool" } else { "AveragePool" },
                    kernel,
                    stride,
                    pads,
                    ceil,
                }
            }),
        (1_usize..4, 1_usize..3, any::<bool>()).prop_map(|(kernel, stride, lower)| {
            Layer::Same {
                kernel,
                stride,
                lower,
            }
        }),
        Just(Layer::Relu),
        Just(Layer::Fork),
        Just(Layer::Skip),
    ]
}

fn ints(values: &[usize]) -> Vec<i64> {
    values.iter().map(|&value| value as i64).collect()
}

fn network(layers: &[Layer], size: [usize; 2]) -> Graph {
    let value = |name: &str, shape: Vec<Dim>| ValueInfo {
        name: name.into(),
        value_type: ValueType::new(Element::Float, shape),
    };
    let mut graph = Graph {
        opset_imports: [(String::new(), 17)].into(),
        inputs: vec![value(
            "v0",
            vec!["n".into(), CHANNELS.into(), size[0].into(), size[1].into()],
        )],
        outputs: vec![value("out", vec!["n".into(), CHANNELS.into()])],
        ..Graph::default()
    };
    let conv = |graph: &mut Graph, from: &str, to: &str, kernel: usize, channels: usize| {
        let name = format!("{to}.weight");
        let count = channels * CHANNELS * kernel * kernel;
        let weights: Vec<f32> = (0..count)
            .map(|i| ((i * 37 + 11) % 17) as f32 / 17.0 - 0.4)
            .collect();
        graph.initializers.insert(
            name.clone(),
            Literal::from_f32s(&[channels, CHANNELS, kernel, kernel], &weights),
        );
        Node::new("Conv", [from, &name], [to])
    };
    for (index, layer) in layers.iter().enumerate() {
        let (from, to) = (format!("v{index}"), format!("v{}", index + 1));
        let nodes = match *layer {
            Layer::Conv {
                kernel,
                stride,
                dilation,
                pads,
            } => vec![
                conv(&mut graph, &from, &to, kernel, CHANNELS)
                    .with("strides", ints(&[stride; 2]))
                    .with("dilations", ints(&[dilation; 2]))
                    .with("pads", ints(&pads)),
            ],
            Layer::Pool {
                op,
                kernel,
                stride,
                pads,
                ceil,
            } => vec![
                Node::new(op, [from], [to])
                    .with("kernel_shape", ints(&[kernel; 2]))
                    .with("strides", ints(&[stride; 2]))
                    .with("pads", ints(&[pads; 4]))
                    .with("ceil_mode", i64::from(ceil)),
            ],
            Layer::Same {
                kernel,
                stride,
                lower,
            } => vec![
                conv(&mut graph, &from, &to, kernel, CHANNELS)
                    .with("strides", ints(&[stride; 2]))
                    .with("auto_pad", if lower { "SAME_LOWER" } else { "SAME_UPPER" }),
            ],
            Layer::Relu => vec![Node::new("Relu", [from], [to])],
            Layer::Fork => {
                let (wide, narrow) = (format!("{to}.wide"), format!("{to}.narrow"));
                vec![
                    conv(&mut graph, &from, &wide, 3, CHANNELS / 2).with("pads", vec![1_i64; 4]),
                    conv(&mut graph, &from, &narrow, 1, CHANNELS / 2),
                    Node::new("Concat", [wide, narrow], [to]).with("axis", 1),
                ]
            }
            Layer::Skip => {
                let around = format!("{to}.around");
                vec![
                    conv(&mut graph, &from, &around, 3, CHANNELS).with("pads", vec![1_i64; 4]),
                    Node::new("Add", [from, around], [to]),
                ]
            }
        };
        graph.nodes.extend(nodes);
    }
    let last = format!("v{}", layers.len());
    graph
        .nodes
        .push(Node::new("GlobalAveragePool", [last.as_str()], ["pooled"]));
    graph.nodes.push(Node::new("Flatten", ["pooled"], ["out"]));
    graph
}

fn run(graph: &Graph, input: &Tensor, value: &str) -> Tensor {
    let mut graph = graph.clone();
    if graph.outputs.iter().all(|output| output.name != value) {
        let value_type = infer(&graph).unwrap().get(value).cloned().unwrap();
        graph.outputs.push(ValueInfo {
            name: value.into(),
            value_type,
        });
    }
    let name = graph.inputs[0].name.clone();
    let batch = input.clone().insert_axis(Axis(0));
    let mut outputs = Net::open(&graph).unwrap().run(&[(&name, &batch)]).unwrap();
    outputs.remove(value).unwrap().index_axis_move(Axis(0), 0)
}

fn window(planes: &Tensor, start: [usize; 2], size: [usize; 2]) -> Tensor {
    let by_axis = |axis: usize| Slice::from(start[axis]..start[axis] + size[axis]);
    planes
        .slice_axis(Axis(1), by_axis(0))
        .slice_axis(Axis(2), by_axis(1))
        .to_owned()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn stages_make_of_windows_what_the_network_makes_of_all(
        layers in vec(layer(), 1..6), size in [14_usize..30, 14_usize..30], change in [1_usize..5, 1_usize..5], seed in 0_usize..1000,
    ) {
        let graph = network(&layers, size);
        let Ok(Some(Stages { stages, rest })) = plan(&graph, change, 0.0) else { return Ok(()) };
        let drawn = |i: usize| ((i.wrapping_mul(2_654_435_761) >> 7) % 1000) as f32 / 500.0 - 1.0;
        let input = Tensor::from_shape_fn(vec![CHANNELS, size[0], size[1]], |i| drawn(i[0] * 7919 + i[1] * 104_729 + i[2] * 31 + seed));
        let forward = derive(&graph, &DeriveSpec::forward(), None).unwrap().graph;
        // Corners and a place between.
        let middle = [0, 1].map(|axis| (seed * (3 + axis)) % (size[axis] - change[axis] + 1));
        let ends = [0, 1].map(|axis| size[axis] - change[axis]);
        for at in [[0, 0], [0, ends[1]], [ends[0], 0], ends, middle] {
            let mut changed = input.clone();
            let patch = |axis: usize| Slice::from(at[axis]..at[axis] + change[axis]);
            changed.slice_axis_mut(Axis(1), patch(0)).slice_axis_mut(Axis(2), patch(1)).fill(5.0);
            let mut region = Region { start: at, end: [at[0] + change[0], at[1] + change[1]] };
            let mut whole = changed.clone();
            for stage in &stages {
                let (before, after) = (run(&forward, &input, &stage.value), run(&forward, &changed, &stage.value));
                let (start, reached) = stage.place(&region).unwrap();
                let flat = run(&stage.graph, &window(&whole, start, stage.window), &stage.graph.outputs[0].name);
                let made = ArrayD::from_shape_vec(vec![stage.output[0], stage.made[0], stage.made[1]], flat.into_raw_vec_and_offset().0).unwrap();
                let origin = stage.made_at(start);
                for ((i, before), after) in before.indexed_iter().zip(&after) {
                    let is_reached = (0..2).all(|axis| (reached.start[axis]..reached.end[axis]).contains(&i[1 + axis]));
                    if is_reached {
                        let found = made[[i[0], i[1] - origin[0], i[2] - origin[1]]];
                        prop_assert!((found - after).abs() <= 1e-5 * (1.0 + after.abs()), "{} at {i:?}: {found} for {after}", stage.value);
                    } else {
                        prop_assert_eq!(before, after, "{} at {:?} changed outside of {:?}", &stage.value, i, reached);
                    }
                }
                (whole, region) = (after, reached);
            }
            let (found, expected) = (run(&rest, &whole, &rest.outputs[0].name), run(&forward, &changed, "probabilities"));
            prop_assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5), "{found} {expected}");
        }
    }
}
