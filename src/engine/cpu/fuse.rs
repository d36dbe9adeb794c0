//! Before ONNX Runtime's optimiser: the nodes that a derived graph has for the gradient of a max
//! pool (`MaxPool` with Indices, `ScatterElements`) become one `MaxPoolGradient`, and the masks of
//! the ReLUs before the pool go into it. Same numbers; a prototype saved a fifth of SqueezeNet's
//! gradient at 8 rows.

use std::iter;

use super::operators::{self, DOMAIN, MAX_POOL_GRADIENT};
use onnx_autodiff::{
    autodiff::stepped,
    onnx::{
        OnnxError, Types,
        graph::{Element, Graph, Node},
        infer, passes,
        rewrite::{Edges, Edit, replace},
    },
};

/// Replaces every max-pool gradient over two spatial axes of f32 by one
/// `MaxPoolGradient(x, dy) -> dx` with the pool's attributes; and with `gated` where Relus made all
/// of x and their gradients alone read dx, which then need no masks of their own.
pub(crate) fn fuse(mut graph: Graph) -> Result<Graph, OnnxError> {
    let types = infer(&graph)?;
    let is_changed = replace(&mut graph, |edges, node| {
        let mut gradient = max_pool_gradient(edges, &types, node)?;
        let readers = unmasked_readers(edges, &types, &gradient).unwrap_or_default();
        if !readers.is_empty() {
            gradient.attributes.insert("gated".into(), 1.into());
        }
        let outputs = readers.iter().flat_map(|node| node.outputs.clone());
        Some(Edit {
            removed: outputs.collect(),
            ..Edit::with(iter::once(gradient).chain(readers))
        })
    });
    if !is_changed {
        return Ok(graph);
    }
    graph.opset_imports.insert(DOMAIN.into(), 1);
    passes::prune(graph)
}

/// The node that stands for a max-pool gradient, of which `node` is the last.
fn max_pool_gradient(edges: &Edges, types: &Types, node: &Node) -> Option<Node> {
    let made_by = |value: &str, op_type: &str| {
        let producer = edges.producer(value)?;
        producer.is(op_type).then_some(producer)
    };
    if !node.is("Reshape") {
        return None;
    }
    let scatter = made_by(node.input(0)?, "ScatterElements")
        .filter(|scatter| scatter.string("reduction") == Some("add"))?;
    let zeros = made_by(scatter.input(0)?, "Reshape")?.input(0)?;
    made_by(zeros, "ConstantOfShape")?;
    let indices = made_by(scatter.input(1)?, "Reshape")?.input(0)?;
    let pool = made_by(indices, "MaxPool").filter(|pool| pool.output(1) == Some(indices))?;
    let dy = made_by(scatter.input(2)?, "Reshape")?.input(0)?;
    let x = pool.input(0)?;
    let is_plain = pool.ints("kernel_shape")?.len() == 2 && pool.int_or("storage_order", 0) == 0;
    let fits = is_plain
        && types.get(x)?.element == Element::Float
        && types.shape(x) == types.shape(node.output(0)?);
    let outputs = vec![node.output(0)?.to_owned()];
    let mut gradient = operators::node(MAX_POOL_GRADIENT, &[x, dy], outputs);
    gradient.name.clone_from(&node.name);
    gradient.attributes.clone_from(&pool.attributes);
    fits.then_some(gradient)
}

/// What reads the max-pool gradient, without the masks of the ReLUs before the pool: slices of
/// their channels, and the masked values as they are; `None` if another node reads it.
fn unmasked_readers(edges: &Edges, types: &Types, gradient: &Node) -> Option<Vec<Node>> {
    let (x, dx) = (gradient.input(0)?, gradient.output(0)?);
    let unmasked = |value: &str, source: &str| -> Option<Vec<Node>> {
        let unmasked = |node: &Node| {
            let step = edges.producer(node.inputs.iter().find(|input| *input != value)?)?;
            let masks = node.is("Mul") && stepped(step) == Some(source);
            masks.then(|| Node::new("Identity", [value.to_owned()], node.outputs.clone()))
        };
        let readers = edges.readers(value).map(unmasked);
        readers
            .collect::<Option<_>>()
            .filter(|_| !edges.is_pinned(value))
    };
    let joined = edges.producer(x);
    let Some(joined) = joined.filter(|node| node.is("Concat") && node.int("axis") == Some(1))
    else {
        return unmasked(dx, x);
    };
    let channels = |value: &str| types.shape(value)?.get(1)?.known();
    let mut parts = Vec::new();
    let mut start = 0;
    for source in &joined.inputs {
        let end = start + channels(source)?;
        parts.push((start..end, source));
        start = end;
    }
    let slices = edges.readers(dx).filter(|_| !edges.is_pinned(dx));
    let found = slices.map(|slice| {
        let range = passes::channel_range(slice, dx, &edges.graph.initializers, start)?;
        let (_, source) = parts.iter().find(|(part, _)| *part == range)?;
        let unmasked = unmasked(slice.output(0)?, source)?;
        Some([vec![slice.clone()], unmasked].concat())
    });
    Some(found.collect::<Option<Vec<_>>>()?.concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::{
            Provider,
            backend_ort::{OrtSession, Threads, load_runtime},
        },
        tensor::Tensor,
    };
    use onnx_autodiff::{
        autodiff::{derive, spec::DeriveSpec},
        onnx::{
            graph::{Dim, ValueInfo, ValueType},
            write_model,
        },
    };

    /// The graph derived from `out = flatten(MaxPool(pooled))`; `before` computes `pooled` from
    /// `x`, 2 channels of 7 x 6.
    fn derived_pool(before: Vec<Node>, attributes: [(&str, Vec<i64>); 3], ceil_mode: i64) -> Graph {
        let value = |name: &str, shape: Vec<Dim>| ValueInfo {
            name: name.into(),
            value_type: ValueType::new(Element::Float, shape),
        };
        let mut pool = Node::new("MaxPool", ["pooled"], ["maxima"]).with("ceil_mode", ceil_mode);
        for (name, values) in attributes {
            pool = pool.with(name, values);
        }
        let source = Graph {
            name: "pool".into(),
            opset_imports: [(String::new(), 17)].into(),
            inputs: vec![value("x", vec!["n".into(), 2.into(), 7.into(), 6.into()])],
            outputs: vec![value("out", vec!["n".into(), "classes".into()])],
            nodes: before
                .into_iter()
                .chain([pool, Node::new("Flatten", ["maxima"], ["out"])])
                .collect(),
            ..Graph::default()
        };
        derive(&source, &DeriveSpec::gradient(), None)
            .unwrap()
            .graph
    }

    /// Compares the fused graph, by the evaluator and in a session, with the derived nodes.
    fn assert_fused(graph: &Graph) -> Graph {
        let runtime = load_runtime(None, 0).unwrap();
        let fused = fuse(graph.clone()).unwrap();
        assert!(
            fused
                .nodes
                .iter()
                .any(|node| node.op_type == MAX_POOL_GRADIENT)
        );
        assert!(!fused.nodes.iter().any(|node| node.is("ScatterElements")));
        let mut nodes = OrtSession::open_bytes(
            runtime,
            write_model(graph).unwrap(),
            Provider::Cpu,
            Threads::Shared,
        )
        .unwrap();
        let mut kernel =
            OrtSession::open(runtime, graph.clone(), Provider::Cpu, Threads::Shared).unwrap();
        // Few distinct values give many ties.
        let x = Tensor::from_shape_fn(vec![3, 2, 7, 6], |i| {
            ((i[0] + 5 * i[1] + i[2] * i[3]) % 4) as f32 - 2.0
        });
        let classes = graph.inputs[1].value_type.shape[1].known().unwrap();
        let seed = Tensor::from_shape_fn(vec![3, classes], |i| (1 + i[0] * classes + i[1]) as f32);
        let inputs = [("x", x.view()), ("seed", seed.view())];
        assert_eq!(kernel.run(&inputs).unwrap(), nodes.run(&inputs).unwrap());
        fused
    }

    fn window_of(kernel: &[i64], strides: &[i64], pads: &[i64]) -> [(&'static str, Vec<i64>); 3] {
        [
            ("kernel_shape", kernel.to_vec()),
            ("strides", strides.to_vec()),
            ("pads", pads.to_vec()),
        ]
    }

    #[test]
    fn the_kernel_gives_the_numbers_of_the_nodes_it_replaces() {
        let cases = [
            (window_of(&[3, 3], &[2, 2], &[0, 0, 0, 0]), 0),
            (window_of(&[3, 3], &[2, 2], &[0, 0, 0, 0]), 1),
            (window_of(&[3, 2], &[1, 2], &[1, 0, 1, 1]), 0),
            (window_of(&[2, 2], &[2, 2], &[0, 0, 0, 0]), 0),
        ];
        for (attributes, ceil_mode) in cases {
            assert_fused(&derived_pool(
                vec![Node::new("Identity", ["x"], ["pooled"])],
                attributes,
                ceil_mode,
            ));
        }
    }

    #[test]
    fn the_masks_of_relus_before_a_pool_go_into_its_gradient() {
        let relu = |from: &str, to: &str| Node::new("Relu", [from], [to]);
        let two_relus = |join: Node| {
            vec![
                relu("x", "a"),
                Node::new("Neg", ["x"], ["minus"]),
                relu("minus", "b"),
                join,
            ]
        };
        let cases = [
            (vec![relu("x", "pooled")], 0),
            (
                two_relus(Node::new("Concat", ["a", "b"], ["pooled"]).with("axis", 1)),
                0,
            ),
            // One input of the Concat before the pool is no ReLU.
            (
                two_relus(Node::new("Concat", ["a", "minus"], ["pooled"]).with("axis", 1)),
                1,
            ),
            // The pool's input is a sum of ReLUs, which is no ReLU.
            (two_relus(Node::new("Add", ["a", "b"], ["pooled"])), 2),
        ];
        for (before, masks) in cases {
            let fused = assert_fused(&derived_pool(
                before,
                window_of(&[3, 3], &[2, 2], &[1, 1, 1, 1]),
                0,
            ));
            assert_eq!(
                fused
                    .nodes
                    .iter()
                    .filter(|node| node.is("HardSigmoid"))
                    .count(),
                masks
            );
            let gradient = fused
                .nodes
                .iter()
                .find(|node| node.op_type == MAX_POOL_GRADIENT)
                .unwrap();
            assert_eq!(gradient.int_or("gated", 0) == 1, masks == 0);
        }
    }
}
