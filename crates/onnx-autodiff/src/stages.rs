//! The forward pass cut into stages, for incremental inference over inputs that differ from the one
//! before in a few pixels. A stage reads a window of the activations of the stage before it, as
//! large as the receptive fields of the values that the change reaches. The rest of the network
//! follows the last stage.
//!
//! A value can end a stage when all later nodes depend on the input through it alone, and each of
//! its pixels on a window of the input: pixel j of an axis on the input's pixels from `stride` j -
//! `before` to `stride` j + `after`. A window starts at a multiple of the stride and leaves a
//! multiple of it to the far border, so that padding lies where the whole input has it; border
//! effects of the window stay outside of the pixels that the change reaches. Among all ways to cut,
//! the one of least work is taken, counted in multiplications.

use std::collections::{HashMap, HashSet};

use crate::autodiff::{
    DeriveError,
    emit::Emitter,
    forward::{self, BATCH, Forward},
    layers,
    rules::window::Window,
};
use crate::onnx::{
    graph::{Dim, Element, Graph, Node, ValueInfo, ValueType},
    infer,
    ops::{self, Elements},
    passes,
};

/// The overhead of a call of a stage, in multiplications.
const CALL_OVERHEAD: f64 = 8e6;

/// Stages are used only if they leave less than this share of the work, because they take memory.
const WORTHWHILE: f64 = 0.8;

/// The stages, and the rest of the network, from the output of the last stage to the probabilities.
#[derive(Clone, Debug)]
pub struct Stages {
    /// From the input on; each reads the value that the one before ends with.
    pub stages: Vec<Stage>,
    /// From the value of the last stage to the head.
    pub rest: Graph,
}

/// A part of the forward pass that is computed again for a window alone.
#[derive(Clone, Debug)]
pub struct Stage {
    /// The output of the stage: the name of a value of the source.
    pub value: String,
    /// Input: `[batch, channels, window]`. Output: the part of `value` for that window, flattened
    /// to `[batch, elements]`, as the logits of a classifier.
    pub graph: Graph,
    /// Channels, height and width of the whole input of the stage.
    pub input: [usize; 3],
    /// Those of `value`.
    pub output: [usize; 3],
    /// Height and width of a window.
    pub window: [usize; 2],
    /// Those of the output for it.
    pub made: [usize; 2],
    field: ReceptiveField,
}

/// A half-open range of rows and columns, `start` to `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First row and column.
    pub start: [usize; 2],
    /// Row and column after the last.
    pub end: [usize; 2],
}

/// The receptive field of a value's pixels in the input, per axis: pixel j depends on the input's
/// pixels from `stride` j - `before` to `stride` j + `after`. Padding counts as input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ReceptiveField {
    stride: [i64; 2],
    before: [i64; 2],
    after: [i64; 2],
}

/// A value at which the network can be cut.
struct Cut {
    value: String,
    /// The number of nodes before the cut.
    nodes: usize,
    /// The multiplications of these nodes.
    work: f64,
    shape: [usize; 3],
    field: ReceptiveField,
    /// Rows and columns of the value that a change of the input reaches.
    change: [i64; 2],
}

impl Stage {
    /// The start of the window for a changed region of the input, and the region of the output that
    /// may change. `None` if the change needs a larger window.
    pub fn place(&self, changed: &Region) -> Option<([usize; 2], Region)> {
        let along = |axis: usize| {
            let (size, pixels) = (self.input[1 + axis] as i64, self.output[1 + axis] as i64);
            let (stride, before, after) = (
                self.field.stride[axis],
                self.field.before[axis],
                self.field.after[axis],
            );
            let (first, last) = (changed.start[axis] as i64, changed.end[axis] as i64 - 1);
            let from = (first - after + stride - 1)
                .div_euclid(stride)
                .clamp(0, pixels - 1);
            let to = (last + before).div_euclid(stride).clamp(from, pixels - 1);
            let window = self.window[axis] as i64;
            let begin =
                ((stride * from - before).div_euclid(stride) * stride).clamp(0, size - window);
            let is_seen = (stride * to + after).min(size - 1) < begin + window;
            let is_made = to - begin / stride < self.made[axis] as i64;
            (is_seen && is_made).then_some((begin as usize, from as usize, to as usize + 1))
        };
        let (down, across) = (along(0)?, along(1)?);
        Some((
            [down.0, across.0],
            Region {
                start: [down.1, across.1],
                end: [down.2, across.2],
            },
        ))
    }

    /// The position in the output of the first pixel computed from a window that starts at `start`.
    pub fn made_at(&self, start: [usize; 2]) -> [usize; 2] {
        [0, 1].map(|axis| start[axis] / self.field.stride[axis] as usize)
    }
}

/// Plans stages for changes of at most `change` rows and columns; `None` if they would save little.
pub fn stages(source: &Graph, change: [usize; 2]) -> Result<Option<Stages>, DeriveError> {
    plan(source, change, CALL_OVERHEAD)
}

/// As [`stages`], where a call of a stage takes as long as so many multiplications.
pub fn plan(
    source: &Graph,
    change: [usize; 2],
    call_overhead: f64,
) -> Result<Option<Stages>, DeriveError> {
    let Forward {
        emit,
        nodes,
        input,
        head,
        ..
    } = forward::prepare_any_batch(source, false)?;
    let Ok(&[channels, height, width]) = emit.sizes(&input, 1).as_deref() else {
        return Ok(None);
    };
    let start = Cut {
        value: input.clone(),
        nodes: 0,
        work: 0.0,
        shape: [channels, height, width],
        field: ReceptiveField {
            stride: [1; 2],
            before: [0; 2],
            after: [0; 2],
        },
        change: change.map(|size| size as i64),
    };
    let (cuts, whole) = cuts(&emit, &nodes, start, &head.probabilities);
    // Dynamic programming: for each cut, the least work up to it and the cut before it.
    let mut best = vec![(0.0, 0); cuts.len()];
    for to in 1..cuts.len() {
        let ways = (0..to).map(|from| {
            (
                best[from].0 + step(&cuts[from], &cuts[to]).2 + call_overhead,
                from,
            )
        });
        best[to] = ways
            .min_by(|a, b| a.0.total_cmp(&b.0))
            .unwrap_or((f64::INFINITY, 0));
    }
    let ends = best
        .iter()
        .zip(&cuts)
        .map(|((work, _), cut)| work + whole - cut.work);
    let Some((mut at, left)) = ends.enumerate().min_by(|a, b| a.1.total_cmp(&b.1)) else {
        return Ok(None);
    };
    if left >= WORTHWHILE * whole {
        return Ok(None);
    }
    let rest = part(
        &emit,
        &nodes[cuts[at].nodes..],
        &cuts[at],
        None,
        &head.probabilities,
    )?;
    let mut stages = Vec::new();
    while at > 0 {
        let (from, to) = (&cuts[best[at].1], &cuts[at]);
        stages.push(stage(&emit, &nodes[from.nodes..to.nodes], from, to)?);
        at = best[at].1;
    }
    stages.reverse();
    Ok(Some(Stages { stages, rest }))
}

/// The possible cuts, the input first, and the multiplications of the whole network.
fn cuts(emit: &Emitter, nodes: &[Node], start: Cut, head: &str) -> (Vec<Cut>, f64) {
    let active = layers::active(emit, nodes, &[&start.value], head);
    let mut last_use: HashMap<&str, usize> = HashMap::new();
    for (index, node) in nodes.iter().enumerate() {
        last_use.extend(node.inputs.iter().map(|input| (input.as_str(), index)));
    }
    let change = start.change;
    let mut fields = HashMap::from([(start.value.clone(), start.field)]);
    let mut alive = HashSet::from([start.value.clone()]);
    let (mut cuts, mut work) = (vec![start], 0.0);
    for (index, node) in nodes.iter().enumerate() {
        let Some(output) = node.output(0).filter(|output| active.contains(*output)) else {
            continue;
        };
        work += multiplications(emit, node);
        if let Some(field) = field_of(emit, node, &fields, &active) {
            fields.insert(output.to_owned(), field);
        }
        alive.retain(|value| {
            last_use
                .get(value.as_str())
                .is_some_and(|last| *last > index)
        });
        alive.extend(
            node.outputs
                .iter()
                .filter(|output| active.contains(*output))
                .cloned(),
        );
        let is_float = emit
            .value_type(output)
            .is_ok_and(|found| found.element == Element::Float);
        if alive.len() == 1
            && is_float
            && let (Some(&field), Ok(&[channels, height, width])) =
                (fields.get(output), emit.sizes(output, 1).as_deref())
        {
            let reached = |axis: usize| {
                (change[axis] - 1 + field.before[axis] + field.after[axis])
                    .div_euclid(field.stride[axis])
                    + 1
            };
            cuts.push(Cut {
                value: output.to_owned(),
                nodes: index + 1,
                work,
                shape: [channels, height, width],
                field,
                change: [0, 1].map(reached),
            });
        }
    }
    (cuts, work)
}

/// The receptive field of a node's output; `None` if a pixel depends on more than a window.
fn field_of(
    emit: &Emitter,
    node: &Node,
    fields: &HashMap<String, ReceptiveField>,
    active: &HashSet<String>,
) -> Option<ReceptiveField> {
    let (moving, fixed): (Vec<&String>, Vec<&String>) = node
        .inputs
        .iter()
        .filter(|input| !input.is_empty())
        .partition(|input| active.contains(*input));
    let (first, others) = moving.split_first()?;
    let sizes = emit.sizes(first, 2).ok()?;
    let joined = others
        .iter()
        .try_fold(*fields.get(*first)?, |joined, other| {
            let fits = emit.sizes(other, 2).is_ok_and(|other| other == sizes);
            joined.join(fields.get(*other).filter(|_| fits)?)
        })?;
    // An operand that is equal for all pixels, such as a bias.
    let uniform = |value: &&String| {
        let shape = emit.literal(value).map(|literal| &literal.shape);
        shape.is_some_and(|shape| shape.iter().rev().take(2).all(|size| *size == 1))
    };
    let allowed = match node.op_type.as_str() {
        _ if !node.domain.is_empty() => false,
        "Conv" | "MaxPool" | "AveragePool" => return Some(joined.through(&window_of(emit, node)?)),
        "Concat" => node.int("axis") == Some(1) && fixed.is_empty(),
        "BatchNormalization" => true,
        _ => match ops::of(node)?.elements {
            Elements::PerPixel => fixed.iter().all(uniform),
            Elements::Same => emit.shape(first).ok()? == emit.shape(node.output(0)?).ok()?,
            _ => false,
        },
    };
    allowed.then_some(joined)
}

/// The window of a 2-D convolution or pool, with the padding resolved for the whole input.
fn window_of(emit: &Emitter, node: &Node) -> Option<Window> {
    let sizes = emit.sizes(node.input(0)?, 2).ok()?;
    let kernel = match node.op_type.as_str() {
        "Conv" => emit.literal(node.input(1)?)?.shape.get(2..)?.to_vec(),
        _ => node
            .ints("kernel_shape")?
            .iter()
            .map(|&size| usize::try_from(size).ok())
            .collect::<Option<_>>()?,
    };
    let plain = kernel.len() == 2 && sizes.len() == 2 && node.outputs.len() == 1;
    Window::of_node(node, kernel, &sizes).ok().filter(|_| plain)
}

impl ReceptiveField {
    fn join(self, other: &ReceptiveField) -> Option<ReceptiveField> {
        let larger = |a: [i64; 2], b: [i64; 2]| [a[0].max(b[0]), a[1].max(b[1])];
        (self.stride == other.stride).then(|| ReceptiveField {
            stride: self.stride,
            before: larger(self.before, other.before),
            after: larger(self.after, other.after),
        })
    }

    /// The receptive field after a sliding window over values with this one.
    fn through(self, window: &Window) -> ReceptiveField {
        let by_axis = |of: &dyn Fn(usize) -> i64| [of(0), of(1)];
        let begin = |axis: usize| window.begin[axis] as i64;
        ReceptiveField {
            stride: by_axis(&|axis| self.stride[axis] * window.strides[axis] as i64),
            before: by_axis(&|axis| self.before[axis] + begin(axis) * self.stride[axis]),
            after: by_axis(&|axis| {
                self.after[axis]
                    + (window.extent(axis) as i64 - 1 - begin(axis)) * self.stride[axis]
            }),
        }
    }

    /// This receptive field relative to that of an earlier cut, `other`, in the pixels of the cut.
    fn from(&self, other: &ReceptiveField) -> ReceptiveField {
        let by_axis = |of: &dyn Fn(usize) -> i64| [of(0), of(1)];
        ReceptiveField {
            stride: by_axis(&|axis| self.stride[axis] / other.stride[axis]),
            before: by_axis(&|axis| (self.before[axis] - other.before[axis]) / other.stride[axis]),
            after: by_axis(&|axis| (self.after[axis] - other.after[axis]) / other.stride[axis]),
        }
    }
}

/// The receptive field of cut `to` in cut `from`, the size of the window for a change, and the work
/// for that window.
fn step(from: &Cut, to: &Cut) -> (ReceptiveField, [usize; 2], f64) {
    let field = to.field.from(&from.field);
    let window = [0, 1].map(|axis| {
        let (stride, size) = (field.stride[axis], from.shape[1 + axis] as i64);
        let before = (field.before[axis] + stride - 1).div_euclid(stride) * stride;
        let needed = (to.change[axis] - 1) * stride + before + field.after[axis] + 1;
        (needed + (size - needed).rem_euclid(stride)).min(size) as usize
    });
    let share = (window[0] * window[1]) as f64 / (from.shape[1] * from.shape[2]) as f64;
    (field, window, share * (to.work - from.work))
}

fn stage(emit: &Emitter, nodes: &[Node], from: &Cut, to: &Cut) -> Result<Stage, DeriveError> {
    let (field, window, _) = step(from, to);
    let flat = format!("{}/flat", to.value);
    let flatten = Node::new("Flatten", [to.value.as_str()], [flat.as_str()]);
    let nodes: Vec<Node> = nodes.iter().cloned().chain([flatten]).collect();
    let graph = part(emit, &nodes, from, Some(window), &flat)?;
    let types = infer(&graph)?;
    let sizes = types
        .shape(&to.value)
        .and_then(|shape| Some([shape.get(2)?.known()?, shape.get(3)?.known()?]));
    let made = sizes.ok_or_else(|| DeriveError::UnknownShape {
        value: to.value.clone(),
    })?;
    Ok(Stage {
        value: to.value.clone(),
        graph,
        input: from.shape,
        output: to.shape,
        window,
        made,
        field,
    })
}

/// The nodes as a graph from the value of a cut, or a window of it, to `output`.
fn part(
    emit: &Emitter,
    nodes: &[Node],
    from: &Cut,
    window: Option<[usize; 2]>,
    output: &str,
) -> Result<Graph, DeriveError> {
    let [channels, height, width] = from.shape;
    let [height, width] = window.unwrap_or([height, width]);
    let shape = [Dim::Symbol(BATCH.into())]
        .into_iter()
        .chain([channels, height, width].map(Dim::Known))
        .collect();
    let explicit = |node: &Node| {
        let mut node = node.clone();
        if let Some(window) =
            window_of(emit, &node).filter(|_| node.attributes.remove("auto_pad").is_some())
        {
            node.attributes.extend(window.attributes());
        }
        node
    };
    let mut graph = Graph {
        inputs: vec![ValueInfo {
            name: from.value.clone(),
            value_type: ValueType::new(Element::Float, shape),
        }],
        outputs: Vec::new(),
        nodes: nodes.iter().map(explicit).collect(),
        ..emit.graph.clone()
    };
    let value_type = infer(&graph)?.get(output).cloned();
    let value_type = value_type.ok_or_else(|| DeriveError::UnknownShape {
        value: output.to_owned(),
    })?;
    graph.outputs.push(ValueInfo {
        name: output.to_owned(),
        value_type,
    });
    Ok(passes::prune(graph)?)
}

/// The multiplications of a node for one row; for ops other than convolutions and matrix products,
/// the elements of the output.
fn multiplications(emit: &Emitter, node: &Node) -> f64 {
    let elements = |value: &str| {
        let shape = emit.shape(value).unwrap_or_default();
        shape
            .iter()
            .map(|dim| dim.known().unwrap_or(1) as f64)
            .product::<f64>()
    };
    let written = node.outputs.first().map_or(0.0, |output| elements(output));
    let of_each = match node.op_type.as_str() {
        "Conv" => node.input(1).and_then(|weight| {
            let filters = emit.shape(weight).ok()?.first()?.known()?;
            Some(elements(weight) / filters as f64)
        }),
        "Gemm" | "MatMul" => node
            .input(0)
            .and_then(|value| Some(emit.shape(value).ok()?.last()?.known()? as f64)),
        _ => None,
    };
    written * of_each.unwrap_or(1.0)
}
