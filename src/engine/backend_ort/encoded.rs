//! A graph prepared for sessions: for the CPU optimised and rewritten once for all sessions, then
//! encoded.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use ort::{
    logging::LogLevel,
    session::{
        Session,
        builder::{GraphOptimizationLevel, SessionBuilder},
    },
};
use tempfile::{NamedTempFile, TempDir};

use super::{Runtime, RuntimeError, Threads, configure, open_error};
use crate::engine::{
    cpu::{
        convolution, fuse, nchwc, parameters,
        weights::{Lent, lend},
    },
    provider::Provider,
};
use onnx_autodiff::onnx::{
    LARGEST_MODEL, ModelParts, OnnxError, Types, graph::Graph, infer, read_model, write_model,
    write_model_parts,
};

/// Encoded models of at least this size, in bytes, are passed to the runtime as a file.
const LARGE_MODEL_BYTES: usize = 16 << 20;

/// An encoded graph, from which any number of sessions are opened.
pub struct Encoded {
    model: ModelBytes,
    /// Weights that sessions read outside of the encoded graph.
    lent: Vec<Lent>,
    /// Bytes of those that were transformed (`cpu/convolution.rs`).
    transformed_bytes: usize,
    provider: Provider,
    /// Whether sessions are opened without the runtime's optimiser.
    optimised: bool,
}

/// An encoded `ModelProto`.
enum ModelBytes {
    Memory(Vec<u8>),
    File(NamedTempFile),
    /// With a file of its weights beside it.
    Parts(TempDir),
    /// Of somebody else.
    Path(PathBuf),
}

/// The files of [`ModelBytes::Parts`].
const MODEL: &str = "model.onnx";
const DATA: &str = "model.onnx.data";

impl Encoded {
    /// Encodes a graph. On the CPU, large matrices stay outside, where sessions read them, and
    /// custom operators replace some nodes (`cpu/mod.rs`); `convolution_error`: see
    /// [`crate::engine::EngineSettings`].
    pub fn new(
        runtime: &Runtime,
        graph: Graph,
        provider: Provider,
        convolution_error: f64,
    ) -> Result<Self, RuntimeError> {
        if provider != Provider::Cpu {
            return Ok(Self::of(
                ModelBytes::encode(&graph, LARGEST_MODEL)?,
                provider,
            ));
        }
        let failed = |error: OnnxError| RuntimeError::Open {
            reason: error.to_string(),
        };
        let types = infer(&graph).map_err(failed)?;
        let fused = parameters::fuse(graph, &types)
            .and_then(fuse::fuse)
            .map_err(failed)?;
        let (graph, mut lent) = lend(fused);
        let winograd = runtime
            .block_size
            .filter(|block_size| convolution_error > 0.0 && winograd::suits(*block_size))
            .map(|block_size| (block_size, convolution_error));
        let is_faster = winograd
            .is_some_and(|(block_size, _)| convolution::applies(&graph, &types, block_size));
        if nchwc::is_small(&graph) && (is_faster || nchwc::is_rewritable(&graph)) {
            match optimise(runtime, &graph, &types, winograd) {
                Ok((model, filters)) => {
                    let sizes = filters.iter().map(|filter| filter.literal.bytes.len());
                    let transformed_bytes = sizes.sum();
                    lent.extend(filters);
                    return Ok(Self {
                        model,
                        lent,
                        transformed_bytes,
                        provider,
                        optimised: true,
                    });
                }
                Err(reason) => {
                    tracing::warn!(%reason, "a graph could not be rewritten for NCHWc, and runs slower")
                }
            }
        }
        Ok(Self {
            lent,
            ..Self::of(ModelBytes::encode(&graph, LARGEST_MODEL)?, provider)
        })
    }

    /// Takes an encoded `ModelProto`, unchanged.
    pub fn of_bytes(model: Vec<u8>, provider: Provider) -> Self {
        Self::of(ModelBytes::of(model), provider)
    }

    /// Takes the file of an encoded `ModelProto`, which may have external data beside it.
    pub fn of_file(path: &Path, provider: Provider) -> Self {
        Self::of(ModelBytes::Path(path.to_owned()), provider)
    }

    fn of(model: ModelBytes, provider: Provider) -> Self {
        Self {
            model,
            lent: Vec::new(),
            transformed_bytes: 0,
            provider,
            optimised: false,
        }
    }

    /// Opens sessions without the optimiser.
    pub fn as_it_is(self) -> Self {
        Self {
            optimised: true,
            ..self
        }
    }

    pub fn provider(&self) -> Provider {
        self.provider
    }

    /// The weights that every run of a session takes as inputs.
    pub fn lent(&self) -> &[Lent] {
        &self.lent
    }

    /// Bytes of the transformed weights among [`Self::lent`].
    pub fn transformed_bytes(&self) -> usize {
        self.transformed_bytes
    }

    pub(super) fn open(&self, mut builder: SessionBuilder) -> Result<Session, RuntimeError> {
        if self.optimised {
            builder = builder
                .with_optimization_level(GraphOptimizationLevel::Disable)
                .map_err(open_error)?;
        }
        self.model.open(builder)
    }

    /// Whether it is held in memory and not in a file.
    pub fn is_small(&self) -> bool {
        matches!(self.model, ModelBytes::Memory(_))
    }
}

impl ModelBytes {
    /// Writes a large model to a temporary file if possible: in memory it would exist beside the
    /// session's own copies.
    fn of(model: Vec<u8>) -> Self {
        let file = if model.len() < LARGE_MODEL_BYTES {
            None
        } else {
            write_file(&model).ok()
        };
        file.map_or(Self::Memory(model), Self::File)
    }

    /// In one piece of at most so many bytes, else in two files.
    fn encode(graph: &Graph, most: usize) -> Result<Self, RuntimeError> {
        let failed = |error: &dyn std::fmt::Display| RuntimeError::Open {
            reason: error.to_string(),
        };
        match write_model(graph) {
            Ok(model) if model.len() <= most => Ok(Self::of(model)),
            Ok(_) | Err(OnnxError::TooLarge { .. }) => {
                let parts = write_model_parts(graph, DATA).map_err(|error| failed(&error))?;
                let folder = write_parts(&parts).map_err(|error| failed(&error))?;
                Ok(Self::Parts(folder))
            }
            Err(error) => Err(failed(&error)),
        }
    }

    fn open(&self, mut builder: SessionBuilder) -> Result<Session, RuntimeError> {
        let session = match self {
            Self::Memory(model) => builder.commit_from_memory(model),
            Self::File(file) => builder.commit_from_file(file.path()),
            Self::Parts(folder) => builder.commit_from_file(folder.path().join(MODEL)),
            Self::Path(path) => builder.commit_from_file(path),
        };
        session.map_err(open_error)
    }
}

/// The graph after the runtime's optimiser and the rewrites of `cpu/nchwc.rs` and, with a block size
/// and the most error, `cpu/convolution.rs`; further weights that sessions take as inputs. `types`:
/// of the graph as it was derived.
fn optimise(
    runtime: &Runtime,
    graph: &Graph,
    types: &Types,
    winograd: Option<(usize, f64)>,
) -> Result<(ModelBytes, Vec<Lent>), RuntimeError> {
    let failed = |error: OnnxError| RuntimeError::Open {
        reason: error.to_string(),
    };
    let (graph, stand_ins) = parameters::stand_in(graph.clone(), types);
    let file = NamedTempFile::new().map_err(|error| RuntimeError::Open {
        reason: error.to_string(),
    })?;
    let builder = configure(runtime, Provider::Cpu, Threads::Shared)?;
    // The runtime warns that an optimised file is valid on this machine only.
    let builder = builder
        .with_log_level(LogLevel::Error)
        .map_err(open_error)?;
    let builder = builder
        .with_config_entry("session.disable_prepacking", "1")
        .map_err(open_error)?;
    let builder = builder
        .with_config_entry(
            "optimization.disable_specified_optimizers",
            if stand_ins.is_empty() {
                ""
            } else {
                parameters::WEIGHT_FUSIONS
            },
        )
        .map_err(open_error)?;
    let builder = builder
        .with_optimized_model_path(file.path())
        .map_err(open_error)?;
    drop(ModelBytes::encode(&graph, LARGEST_MODEL)?.open(builder)?);
    let optimised = read_model(file.path()).map_err(failed)?;
    let optimised =
        parameters::restore(optimised, &stand_ins, types, runtime.block_size).map_err(|error| {
            RuntimeError::Open {
                reason: error.to_string(),
            }
        })?;
    let rewritten = nchwc::rewrite(optimised, types, runtime.block_size).map_err(failed)?;
    let (rewritten, filters) = match winograd {
        Some((block_size, most_error)) => {
            convolution::rewrite(rewritten, types, block_size, most_error).map_err(failed)?
        }
        None => (rewritten, vec![]),
    };
    Ok((ModelBytes::encode(&rewritten, LARGEST_MODEL)?, filters))
}

fn write_file(bytes: &[u8]) -> std::io::Result<NamedTempFile> {
    let mut file = NamedTempFile::new()?;
    file.write_all(bytes)?;
    Ok(file)
}

fn write_parts(parts: &ModelParts) -> std::io::Result<TempDir> {
    let folder = TempDir::new()?;
    std::fs::write(folder.path().join(MODEL), &parts.model)?;
    let mut data = BufWriter::new(File::create(folder.path().join(DATA))?);
    parts.write_data(&mut data)?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::{
            backend_ort::{OrtSession, load_runtime, one_node},
            cpu::operators,
            open_graph::with_batch,
        },
        tensor::Tensor,
    };
    use onnx_autodiff::{
        autodiff::{
            derive,
            parameters::{Parameters, parameter_gradients},
            spec::{DeriveSpec, Head, RuleSetId},
        },
        onnx::{
            graph::{Dim, Element, Literal, Node, ValueInfo, ValueType},
            read_bytes,
        },
    };

    const SHAPE: [usize; 4] = [2, 3, 21, 20];

    fn drawn(index: usize) -> f32 {
        ((index as u32 + 1).wrapping_mul(2_654_435_761) >> 16) as f32 / 65536.0 - 0.5
    }

    /// Convolutions, a pool of one Relu, a pool of two that are joined, and a global average over a
    /// Relu; two rows.
    fn derived(rule_sets: Vec<RuleSetId>) -> Graph {
        let value = |name: &str, row: &[usize]| {
            let shape = [Dim::from("n")]
                .into_iter()
                .chain(row.iter().map(|&size| size.into()))
                .collect();
            ValueInfo {
                name: name.into(),
                value_type: ValueType::new(Element::Float, shape),
            }
        };
        let convolutions = [
            ("x", "a", 3, 16, 3),
            ("p", "b", 16, 16, 3),
            ("p", "c", 16, 32, 1),
            ("q", "d", 48, 16, 3),
        ];
        let mut initializers = indexmap::IndexMap::new();
        let mut nodes = Vec::new();
        for (from, to, inputs, outputs, size) in convolutions {
            let weight = format!("{to}.weight");
            let values: Vec<f32> = (0..outputs * inputs * size * size)
                .map(|index| drawn(index + outputs))
                .collect();
            initializers.insert(
                weight.clone(),
                Literal::from_f32s(&[outputs, inputs, size, size], &values),
            );
            let sum = format!("{to}.sum");
            nodes.push(
                Node::new("Conv", [from, &weight], [sum.as_str()])
                    .with("kernel_shape", vec![size as i64; 2]),
            );
            nodes.push(Node::new("Relu", [sum.as_str()], [to]));
            let padded = |size: i64| vec![size; 4];
            match to {
                "a" => nodes.push(
                    Node::new("MaxPool", ["a"], ["p"])
                        .with("kernel_shape", vec![3_i64; 2])
                        .with("strides", vec![2_i64; 2]),
                ),
                "b" => nodes
                    .iter_mut()
                    .rev()
                    .nth(1)
                    .unwrap()
                    .attributes
                    .extend([("pads".into(), padded(1).into())]),
                "c" => {
                    nodes.push(Node::new("Concat", ["b", "c"], ["bc"]).with("axis", 1));
                    let pool =
                        Node::new("MaxPool", ["bc"], ["q"]).with("kernel_shape", vec![2_i64; 2]);
                    nodes.push(pool.with("strides", vec![1_i64; 2]).with("pads", padded(1)));
                }
                _ => {
                    nodes.push(Node::new("GlobalAveragePool", ["d"], ["means"]));
                    nodes.push(Node::new("Flatten", ["means"], ["out"]));
                }
            }
        }
        let source = Graph {
            name: "pools".into(),
            opset_imports: [(String::new(), 17)].into(),
            inputs: vec![value("x", &SHAPE[1..])],
            outputs: vec![value("out", &[16])],
            initializers,
            nodes,
            ..Graph::default()
        };
        let spec = DeriveSpec {
            head: Head::Probabilities,
            ..DeriveSpec::of(rule_sets)
        };
        with_batch(&derive(&source, &spec, None).unwrap().graph, Some(SHAPE[0]))
    }

    fn count(graph: &Graph, op_type: &str) -> usize {
        graph
            .nodes
            .iter()
            .filter(|node| node.op_type == op_type)
            .count()
    }

    #[test]
    fn what_one_file_does_not_hold_is_opened_from_two() {
        let runtime = load_runtime(None, 1).unwrap();
        let row = |name: &str| ValueInfo {
            name: name.into(),
            value_type: ValueType::new(Element::Float, vec![1.into(), 512.into()]),
        };
        let graph = Graph {
            opset_imports: [(String::new(), 17)].into(),
            inputs: vec![row("x")],
            outputs: vec![row("y")],
            initializers: [("w".to_owned(), Literal::from_f32s(&[1, 512], &[2.0; 512]))].into(),
            nodes: vec![Node::new("Mul", ["x", "w"], ["y"])],
            ..Graph::default()
        };
        let whole = ModelBytes::encode(&graph, 1 << 20).unwrap();
        assert!(matches!(whole, ModelBytes::Memory(_)));
        let parts = ModelBytes::encode(&graph, 64).unwrap();
        assert!(matches!(parts, ModelBytes::Parts(_)));
        let encoded = Encoded::of(parts, Provider::Cpu);
        let mut session = OrtSession::open_encoded(runtime, &encoded, Threads::Shared).unwrap();
        // The session needs the files no more.
        drop(encoded);
        let ones = Tensor::ones(vec![1, 512]);
        let outputs = session.run(&[("x", ones.view())]).unwrap();
        assert!(outputs["y"].iter().all(|value| *value == 2.0));
    }

    #[test]
    fn a_rewritten_graph_gives_the_numbers_of_the_one_that_was_derived() {
        let runtime = load_runtime(None, 0).unwrap();
        let graph = derived(vec![RuleSetId::Gradient, RuleSetId::GuidedBackprop]);
        let bytes = write_model(&graph).unwrap();
        let mut plain =
            OrtSession::open_bytes(runtime, bytes, Provider::Cpu, Threads::Shared).unwrap();
        let encoded = Encoded::new(runtime, graph.clone(), Provider::Cpu, 0.0).unwrap();
        assert!(encoded.optimised);
        let x = Tensor::from_shape_fn(SHAPE.to_vec(), |at| {
            drawn(at[0] * 7919 + at[1] * 631 + at[2] * 20 + at[3])
        });
        let seed = Tensor::from_shape_fn(vec![2, 16], |at| drawn(at[0] * 16 + at[1]));
        let inputs = [("x", x.view()), ("seed", seed.view())];
        let expected = plain.run(&inputs).unwrap();
        for threads in [Threads::Shared, Threads::Own(1)] {
            let found = OrtSession::open_encoded(runtime, &encoded, threads)
                .unwrap()
                .run(&inputs)
                .unwrap();
            for (name, expected) in &expected {
                let largest = expected
                    .iter()
                    .fold(0.0_f32, |most, value| most.max(value.abs()));
                assert!(largest > 0.0, "{name}");
                let close = expected
                    .iter()
                    .zip(&found[name])
                    .all(|(a, b)| (a - b).abs() <= 1e-6 * largest);
                assert!(close, "{name} with {threads:?}");
            }
        }
    }

    #[test]
    fn masks_become_relu_gradients_and_pools_stay_in_nchwc() {
        let runtime = load_runtime(None, 0).unwrap();
        let graph = derived(vec![RuleSetId::Gradient]);
        let ModelBytes::Memory(model) = Encoded::new(runtime, graph, Provider::Cpu, 0.0)
            .unwrap()
            .model
        else {
            panic!("a small model in a file");
        };
        let rewritten = read_bytes(model.into(), None).unwrap();
        assert_eq!(count(&rewritten, "HardSigmoid"), 0);
        assert_eq!(count(&rewritten, operators::RELU_GRADIENT), 1);
        if runtime.block_size.is_some() {
            assert_eq!(count(&rewritten, operators::MAX_POOL_GRADIENT), 0);
            assert_eq!(count(&rewritten, operators::NCHWC_MAX_POOL_GRADIENT), 2);
            assert_eq!(
                ["Split", "Expand", "ReorderInput"].map(|op_type| count(&rewritten, op_type)),
                [0; 3]
            );
        }
    }

    #[test]
    fn graphs_without_masks_or_pools_are_left_to_the_runtime() {
        let runtime = load_runtime(None, 0).unwrap();
        let mut graph = one_node();
        assert!(
            !Encoded::new(runtime, graph.clone(), Provider::Cpu, 0.0)
                .unwrap()
                .optimised
        );
        graph.nodes[0].op_type = "NoSuchOperator".into();
        assert!(matches!(
            OrtSession::open(runtime, graph, Provider::Cpu, Threads::Shared),
            Err(RuntimeError::Open { .. })
        ));
    }

    /// A residual block with a strided convolution, after a pool and before 20 channels, which are
    /// no whole blocks.
    fn residual() -> Graph {
        let value = |name: &str, row: &[usize]| {
            let batch = [Dim::from("n")];
            let row = row.iter().map(|&size| Dim::from(size));
            ValueInfo {
                name: name.into(),
                value_type: ValueType::new(Element::Float, batch.into_iter().chain(row).collect()),
            }
        };
        let convolutions = [
            ("x", "a", 3, 16, 3, 1),
            ("p", "b", 16, 32, 3, 2),
            ("p", "c", 16, 32, 1, 2),
            ("r", "d", 32, 20, 1, 1),
        ];
        let mut initializers = indexmap::IndexMap::new();
        let mut convolution = |to: &str| {
            let (from, _, inputs, outputs, size, stride) =
                convolutions.into_iter().find(|one| one.1 == to).unwrap();
            let [weight, bias] = ["weight", "bias"].map(|part| format!("{to}.{part}"));
            let count = outputs * inputs * size * size;
            let values: Vec<f32> = (0..count).map(|index| drawn(index + outputs)).collect();
            initializers.insert(
                weight.clone(),
                Literal::from_f32s(&[outputs, inputs, size, size], &values),
            );
            initializers.insert(
                bias.clone(),
                Literal::from_f32s(&[outputs], &values[..outputs]),
            );
            let pad = size as i64 / 2;
            Node::new("Conv", [from, &weight, &bias], [to])
                .with("kernel_shape", vec![size as i64; 2])
                .with("strides", vec![stride; 2])
                .with("pads", vec![pad; 4])
        };
        let nodes = vec![
            convolution("a"),
            Node::new("Relu", ["a"], ["ra"]),
            Node::new("MaxPool", ["ra"], ["p"])
                .with("kernel_shape", vec![3_i64; 2])
                .with("strides", vec![2_i64; 2]),
            convolution("b"),
            convolution("c"),
            Node::new("Add", ["b", "c"], ["s"]),
            Node::new("Relu", ["s"], ["r"]),
            convolution("d"),
            Node::new("Relu", ["d"], ["rd"]),
            Node::new("GlobalAveragePool", ["rd"], ["means"]),
            Node::new("Flatten", ["means"], ["out"]),
        ];
        Graph {
            name: "residual".into(),
            opset_imports: [(String::new(), 17)].into(),
            inputs: vec![value("x", &SHAPE[1..])],
            outputs: vec![value("out", &[20])],
            initializers,
            nodes,
            ..Graph::default()
        }
    }

    #[test]
    fn weights_that_are_inputs_stay_in_nchwc_and_give_the_numbers_of_the_derived_graph() {
        let runtime = load_runtime(None, 0).unwrap();
        let derived = parameter_gradients(&residual(), Head::Logits, &Parameters::All).unwrap();
        let encoded = Encoded::new(runtime, derived.graph.clone(), Provider::Cpu, 0.0).unwrap();
        let ModelBytes::Memory(model) = &encoded.model else {
            panic!("a small model in a file");
        };
        let rewritten = read_bytes(model.clone().into(), None).unwrap();
        for gone in ["ConvTranspose", "MatMul", "FusedMatMul", "HardSigmoid"] {
            assert_eq!(count(&rewritten, gone), 0, "{gone}");
        }
        let gradients: Vec<_> = rewritten
            .nodes
            .iter()
            .filter(|node| node.op_type == operators::CONV_WEIGHT_GRADIENT)
            .collect();
        assert_eq!(gradients.len(), 4);
        if runtime.block_size.is_some() {
            assert!(
                gradients
                    .iter()
                    .all(|node| node.int("dy_block_size").is_some())
            );
            assert_eq!(count(&rewritten, operators::NCHWC_CONV_INPUT_GRADIENT), 2);
            // Five in the forward and backward pass together, and the two above.
            assert_eq!(count(&rewritten, operators::NCHWC_FILTER), 7);
        }

        let bytes = write_model(&derived.graph).unwrap();
        let mut plain =
            OrtSession::open_bytes(runtime, bytes, Provider::Cpu, Threads::Shared).unwrap();
        let mut sessions = [Threads::Shared, Threads::Own(1)]
            .map(|threads| OrtSession::open_encoded(runtime, &encoded, threads).unwrap());
        let x = Tensor::from_shape_fn(SHAPE.to_vec(), |at| {
            drawn(at[0] * 7919 + at[1] * 631 + at[2] * 20 + at[3])
        });
        let seed = Tensor::from_shape_fn(vec![2, 20], |at| drawn(at[0] * 16 + at[1]));
        for scale in [1.0, -0.5] {
            let weights: Vec<_> = derived
                .parameters
                .iter()
                .map(|one| {
                    let values = one.value.to_f32s().unwrap();
                    let values = values.iter().map(|value| value * scale).collect();
                    (
                        one.name.as_str(),
                        Tensor::from_shape_vec(one.value.shape.clone(), values).unwrap(),
                    )
                })
                .collect();
            let mut inputs = vec![("x", x.view()), ("seed", seed.view())];
            inputs.extend(weights.iter().map(|(name, value)| (*name, value.view())));
            let expected = plain.run(&inputs).unwrap();
            let [found, single] = sessions.each_mut().map(|one| one.run(&inputs).unwrap());
            assert_eq!(found, single, "numbers depend on the threads");
            for (name, expected) in &expected {
                let largest = expected
                    .iter()
                    .fold(0.0_f32, |most, value| most.max(value.abs()));
                assert!(largest > 0.0, "{name}");
                let gaps = expected
                    .iter()
                    .zip(&found[name])
                    .map(|(a, b)| (a - b).abs());
                assert!(gaps.fold(0.0, f32::max) <= 3e-6 * largest, "{name}");
            }
        }
    }

    /// Convolutions of 3 x 3 taps, one beside a residual connection, one to 20 channels, which are no
    /// whole blocks; two rows.
    fn stacked() -> Graph {
        let value = |name: &str, row: &[usize]| ValueInfo {
            name: name.into(),
            value_type: ValueType::new(
                Element::Float,
                [Dim::from("n")]
                    .into_iter()
                    .chain(row.iter().map(|&size| size.into()))
                    .collect(),
            ),
        };
        let mut initializers = indexmap::IndexMap::new();
        let mut convolution =
            |from: &str, to: &str, channels: [usize; 2], size: usize, pad: i64| {
                let [inputs, outputs] = channels;
                let [weight, bias] = ["weight", "bias"].map(|part| format!("{to}.{part}"));
                let count = outputs * inputs * size * size;
                let values: Vec<f32> = (0..count).map(|index| drawn(index * 3 + outputs)).collect();
                let literal = Literal::from_f32s(&[outputs, inputs, size, size], &values);
                initializers.insert(weight.clone(), literal);
                initializers.insert(
                    bias.clone(),
                    Literal::from_f32s(&[outputs], &values[..outputs]),
                );
                Node::new("Conv", [from, &weight, &bias], [to])
                    .with("kernel_shape", vec![size as i64; 2])
                    .with("pads", vec![pad; 4])
            };
        let nodes = vec![
            convolution("x", "a", [3, 32], 3, 1),
            Node::new("Relu", ["a"], ["ra"]),
            convolution("ra", "b", [32, 32], 3, 1),
            Node::new("Relu", ["b"], ["rb"]),
            convolution("rb", "c", [32, 48], 3, 1),
            convolution("ra", "p", [32, 48], 1, 0),
            Node::new("Add", ["c", "p"], ["s"]),
            Node::new("Relu", ["s"], ["rs"]),
            convolution("rs", "d", [48, 20], 3, 0),
            Node::new("Relu", ["d"], ["rd"]),
            Node::new("GlobalAveragePool", ["rd"], ["means"]),
            Node::new("Flatten", ["means"], ["out"]),
        ];
        Graph {
            name: "stacked".into(),
            opset_imports: [(String::new(), 17)].into(),
            inputs: vec![value("x", &SHAPE[1..])],
            outputs: vec![value("out", &[20])],
            initializers,
            nodes,
            ..Graph::default()
        }
    }

    fn read(encoded: &Encoded) -> Graph {
        let ModelBytes::Memory(model) = &encoded.model else {
            panic!("a small model in a file");
        };
        read_bytes(model.clone().into(), None).unwrap()
    }

    /// Asserts that the outputs are those of the runtime's own convolutions, with any threads.
    fn assert_close(graph: &Graph, encoded: &Encoded, inputs: &[(&str, Tensor)], most: f32) {
        let runtime = load_runtime(None, 0).unwrap();
        let views: Vec<_> = inputs
            .iter()
            .map(|(name, value)| (*name, value.view()))
            .collect();
        let bytes = write_model(graph).unwrap();
        let mut plain =
            OrtSession::open_bytes(runtime, bytes, Provider::Cpu, Threads::Shared).unwrap();
        let expected = plain.run(&views).unwrap();
        let [found, single] = [Threads::Shared, Threads::Own(1)].map(|threads| {
            let mut session = OrtSession::open_encoded(runtime, encoded, threads).unwrap();
            session.run(&views).unwrap()
        });
        assert_eq!(found, single, "numbers depend on the threads");
        for (name, expected) in &expected {
            let largest = expected
                .iter()
                .fold(0.0_f32, |most, value| most.max(value.abs()));
            let gaps = expected
                .iter()
                .zip(&found[name])
                .map(|(a, b)| (a - b).abs());
            let gap = gaps.fold(0.0, f32::max);
            assert!(
                largest > 0.0 && gap <= most * largest,
                "{name}: {gap:e} of {largest}"
            );
        }
    }

    #[test]
    fn winograd_convolutions_give_the_numbers_of_the_runtime_s() {
        let runtime = load_runtime(None, 0).unwrap();
        let suits = runtime.block_size.is_some_and(winograd::suits);
        let image = || {
            Tensor::from_shape_fn(SHAPE.to_vec(), |at| {
                drawn(at[0] * 7919 + at[1] * 631 + at[2] * 20 + at[3])
            })
        };
        let seed = || Tensor::from_shape_fn(vec![2, 20], |at| drawn(at[0] * 16 + at[1]));
        let source = stacked();
        let derived = |spec| with_batch(&derive(&source, &spec, None).unwrap().graph, Some(2));
        let (forward, gradient) = (
            derived(DeriveSpec::forward()),
            derived(DeriveSpec::of(vec![RuleSetId::Gradient])),
        );
        let encode = |graph: &Graph, error: f64| {
            Encoded::new(runtime, graph.clone(), Provider::Cpu, error).unwrap()
        };
        let encoded = [encode(&forward, 2e-5), encode(&gradient, 2e-5)];
        assert_close(&forward, &encoded[0], &[("x", image())], 1e-5);
        let inputs = [("x", image()), ("seed", seed())];
        assert_close(&gradient, &encoded[1], &inputs, 1e-5);
        let of = |graph: &Graph, op_type: &str| count(&read(&encode(graph, 2e-5)), op_type);
        if suits {
            // Forward, two convolutions are left to the runtime: of the image, and with one tap.
            let counts = [&forward, &gradient].map(|graph| of(graph, operators::WINOGRAD_CONV));
            assert_eq!(counts, [3, 7]);
            // That of the global average, and that of the sum of two gradients.
            assert!(of(&gradient, operators::RELU_GRADIENT) <= 2);
            // Forward weights are in memory once.
            let [first, second] = encoded.each_ref().map(|encoded| {
                let addresses = encoded
                    .lent()
                    .iter()
                    .map(|lent| lent.literal.bytes.as_ptr());
                addresses.collect::<Vec<_>>()
            });
            assert_eq!([first.len(), second.len()], [3, 7]);
            assert!(first.iter().all(|address| second.contains(address)));
        }
        for error in [0.0, 1e-9] {
            let plain = read(&encode(&gradient, error));
            assert_eq!(count(&plain, operators::WINOGRAD_CONV), 0);
        }

        let training = parameter_gradients(&source, Head::Logits, &Parameters::All).unwrap();
        let mut inputs = vec![("x", image()), ("seed", seed())];
        inputs.extend(training.parameters.iter().map(|one| {
            let values = one.value.to_f32s().unwrap();
            let shape = one.value.shape.clone();
            (
                one.name.as_str(),
                Tensor::from_shape_vec(shape, values).unwrap(),
            )
        }));
        let encoded = encode(&training.graph, 2e-5);
        assert_close(&training.graph, &encoded, &inputs, 2e-5);
        if suits {
            let counts = [operators::WINOGRAD_CONV, operators::WINOGRAD_FILTER]
                .map(|op_type| count(&read(&encoded), op_type));
            assert_eq!(counts, [6, 6]);
        }
    }
}
