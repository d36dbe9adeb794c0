//! Graphs whose weights are inputs. ONNX Runtime keeps a convolution in NCHWc only if its weight is
//! a constant: the optimiser sees constants that stand for the weights, and in the graph that it
//! writes each becomes the weight again, brought into the layout by one `NchwcFilter`. Before it,
//! the nodes of a convolution's weight and bias gradient become one `ConvWeightGradient`.

use std::collections::{HashMap, HashSet};

use super::{
    nchwc::{NCHWC_DOMAIN, reorders},
    operators::{self, CONV_WEIGHT_GRADIENT, DOMAIN, NCHWC_CONV_INPUT_GRADIENT, NCHWC_FILTER},
};
use onnx_autodiff::onnx::{
    OnnxError, Types,
    graph::{Dim, Element, Graph, Literal, Names, Node, ValueInfo, ValueType},
    passes,
    rewrite::{Edges, Edit, replace},
};

/// Optimisations that would change the value of a convolution's weight.
pub(crate) const WEIGHT_FUSIONS: &str = "ConvMulFusion;ConvAddFusion;ConvBNFusion;PadFusion";

/// Replaces the nodes of the gradient of a convolution's weight, over images and without groups
/// or depthwise, by one `ConvWeightGradient(x, dy) -> dw, db`, with the gradient of the bias where
/// there is one.
pub(crate) fn fuse(mut graph: Graph, types: &Types) -> Result<Graph, OnnxError> {
    let is_changed = replace(&mut graph, |edges, node| {
        let mut gradient = weight_gradient(edges, types, node)?;
        let bias = bias_gradient(edges, types, gradient.input(1)?);
        gradient.outputs.extend(bias.clone());
        Some(Edit {
            removed: bias.iter().cloned().collect(),
            ..Edit::with([gradient.with("bias", i64::from(bias.is_some()))])
        })
    });
    if !is_changed {
        return Ok(graph);
    }
    graph.opset_imports.insert(DOMAIN.into(), 1);
    passes::prune(graph)
}

/// The node that stands for a weight gradient, of which `node` is the last: for each tap of the
/// kernel a MatMul of dy and a Slice of the padded x, summed over the batch; their Concat.
fn weight_gradient(edges: &Edges, types: &Types, node: &Node) -> Option<Node> {
    let sizes = |value: &str| -> Option<Vec<usize>> {
        let shape = types.get(value)?.shape.iter().skip(1).map(Dim::known);
        shape.collect()
    };
    let shape = types.get(node.output(0)?)?.known_shape()?;
    let [_, inputs, height, width] = shape[..] else {
        return None;
    };
    let last = made_by(
        edges,
        node.input(0).filter(|_| node.is("Reshape"))?,
        "Concat",
    );
    let taps = match &last {
        Some(concat) if concat.int("axis") == Some(3) => concat.inputs.iter().collect(),
        Some(_) => return None,
        None => vec![&node.inputs[0]],
    };
    if taps.len() != height * width {
        return None;
    }
    // Each output has an input of its own.
    let depthwise = shape.first().filter(|outputs| inputs == 1 && **outputs > 1);
    let mut found: Option<(&str, &str, Window)> = None;
    for (tap, value) in taps.into_iter().enumerate() {
        let sum = made_by(
            edges,
            made_by(edges, value, "Reshape")?.input(0)?,
            "ReduceSum",
        )?;
        let over_batch = edges.constant(sum.input(1)?)?.to_i64s()? == [0];
        let product = made_by(edges, sum.input(0).filter(|_| over_batch)?, "MatMul")?;
        let dy = made_by(edges, product.input(0)?, "Reshape")?.input(0)?;
        let turned = made_by(edges, product.input(1)?, "Transpose")?;
        let patch = made_by(edges, turned.input(0)?, "Reshape")?.input(0)?;
        let (padded, [starts, steps]) = slice(edges, patch)?;
        let (x, pads) = unpadded(edges, padded)?;
        let at = [tap / width, tap % width];
        let window = match &found {
            Some((first_x, first_dy, window)) if (*first_x, *first_dy) == (x, dy) => window.clone(),
            Some(_) => return None,
            None => Window {
                strides: steps,
                dilations: [1; 2],
                pads,
            },
        };
        // The first tap off an axis' origin tells its dilation.
        let dilations = [0, 1].map(|axis| match at {
            [0, 1] | [1, 0] if at[axis] == 1 => starts[axis],
            _ => window.dilations[axis],
        });
        let window = Window {
            dilations,
            ..window
        };
        let fits = (0..2).all(|axis| starts[axis] == at[axis] as i64 * dilations[axis])
            && (window.strides, window.pads) == (steps, pads)
            && sizes(patch)?[1..] == sizes(dy)?[1..]
            && [Some(&inputs), depthwise].contains(&sizes(x)?.first())
            && sizes(dy)?.first() == shape.first();
        if !fits || [x, dy].iter().any(|value| !is_images(types, value)) {
            return None;
        }
        found = Some((x, dy, window));
    }
    let (x, dy, window) = found?;
    let depthwise = sizes(x)?.first() != Some(&inputs);
    let shape: Vec<i64> = shape.iter().map(|&size| size as i64).collect();
    let gradient = operators::node(CONV_WEIGHT_GRADIENT, &[x, dy], node.outputs.clone());
    let mut gradient = gradient
        .with("shape", shape)
        .with("strides", window.strides.to_vec())
        .with("dilations", window.dilations.to_vec())
        .with("pads", window.pads.to_vec())
        .with("depthwise", i64::from(depthwise));
    gradient.name.clone_from(&node.name);
    Some(gradient)
}

#[derive(Clone)]
struct Window {
    strides: [i64; 2],
    dilations: [i64; 2],
    pads: [i64; 2],
}

fn made_by<'a>(edges: &Edges<'a>, value: &str, op_type: &str) -> Option<&'a Node> {
    edges.producer(value).filter(|node| node.is(op_type))
}

fn is_images(types: &Types, value: &str) -> bool {
    types
        .get(value)
        .is_some_and(|found| found.element == Element::Float && found.shape.len() == 4)
}

/// The value that a Slice takes the tap of a kernel from, with starts and steps along both spatial
/// axes; `patch` itself where there is none.
fn slice<'a>(edges: &Edges<'a>, patch: &'a str) -> Option<(&'a str, [[i64; 2]; 2])> {
    let Some(slice) = made_by(edges, patch, "Slice") else {
        return Some((patch, [[0; 2], [1; 2]]));
    };
    let numbers = |index: usize| -> Option<[i64; 2]> {
        let numbers = edges.constant(slice.input(index)?)?.to_i64s()?;
        numbers.try_into().ok()
    };
    let axes = numbers(3)? == [2, 3];
    Some((slice.input(0).filter(|_| axes)?, [numbers(1)?, numbers(4)?]))
}

/// What a Pad of zeros around images reads, and how much it puts before the first row and column.
fn unpadded<'a>(edges: &Edges<'a>, padded: &'a str) -> Option<(&'a str, [i64; 2])> {
    let Some(pad) = made_by(edges, padded, "Pad") else {
        return Some((padded, [0; 2]));
    };
    let amounts = edges.constant(pad.input(1)?)?.to_i64s()?;
    let zeros = pad.inputs.len() == 2 && pad.string("mode").is_none_or(|mode| mode == "constant");
    match amounts[..] {
        [0, 0, top, left, 0, 0, _, _] if zeros => Some((pad.input(0)?, [top, left])),
        _ => None,
    }
}

/// The gradient of a bias, given that of its output: a sum over all axes but the channels that no
/// node reads.
fn bias_gradient(edges: &Edges, types: &Types, dy: &str) -> Option<String> {
    let sums = edges.readers(dy).filter(|node| node.is("ReduceSum"));
    sums.filter_map(|sum| {
        let axes = edges.constant(sum.input(1)?)?.to_i64s()?;
        let flat = edges.only_reader(sum.output(0).filter(|_| axes == [0, 2, 3])?)?;
        let output = flat.output(0).filter(|_| flat.is("Reshape"))?;
        let is_read = edges.readers(output).next().is_some();
        (types.shape(output)?.len() == 1 && !is_read).then(|| output.to_owned())
    })
    .next()
}

/// A convolution's weight or bias that the optimiser sees as a constant.
pub(crate) struct StandIn {
    /// The value in the graph, and its shape.
    value: String,
    shape: Vec<usize>,
    /// Whether the constant is `value` with inputs and outputs swapped and taps in reverse.
    flipped: bool,
    /// Whether `value` was made an output, for the optimiser to keep what computes it.
    kept: bool,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum RestoreError {
    #[error(transparent)]
    Graph(#[from] OnnxError),
    #[error("the runtime's optimiser changed the weight {value}")]
    Lost { value: String },
}

/// The graph with constants in place of the weights and biases of convolutions over images that
/// are none, one for each use.
pub(crate) fn stand_in(mut graph: Graph, types: &Types) -> (Graph, Vec<StandIn>) {
    let mut stand_ins = Vec::new();
    let mut names = Names::of(&graph);
    replace(&mut graph, |edges, node| {
        let weight = node.input(1).filter(|_| node.is("Conv"))?;
        if edges.constant(weight).is_some() || !is_images(types, weight) {
            return None;
        }
        let (mut node, mut constants) = (node.clone(), Vec::new());
        for slot in [1, 2] {
            let Some(value) = node.input(slot).map(str::to_owned) else {
                continue;
            };
            if edges.constant(&value).is_some() {
                continue;
            }
            let Some(shape) = types.get(&value).and_then(ValueType::known_shape) else {
                continue;
            };
            let name = names.fresh(&format!("{value}/stand_in"));
            constants.push((name.clone(), mark(stand_ins.len(), &shape)));
            let source = flip_of(edges, &value).filter(|_| slot == 1);
            let source = source.map(str::to_owned);
            stand_ins.push(StandIn {
                flipped: source.is_some(),
                value: source.unwrap_or(value),
                shape,
                kept: false,
            });
            node.inputs[slot] = name;
        }
        Some(Edit {
            constants,
            ..Edit::with([node])
        })
    });
    let mut ends: HashSet<String> = graph.pinned();
    for stand_in in &mut stand_ins {
        if let Some(value_type) = types.get(&stand_in.value)
            && ends.insert(stand_in.value.clone())
        {
            stand_in.kept = true;
            graph.outputs.push(ValueInfo {
                name: stand_in.value.clone(),
                value_type: value_type.clone(),
            });
        }
    }
    (graph, stand_ins)
}

/// A constant that tells its number in every layout of a filter: zeros but for the first element.
fn mark(number: usize, shape: &[usize]) -> Literal {
    let mut values = vec![0.0; shape.iter().product()];
    if let Some(first) = values.first_mut() {
        *first = number as f32 + 1.0;
    }
    Literal::from_f32_vec(shape, values)
}

/// The number of a [`mark`].
fn marked(literal: &Literal) -> Option<usize> {
    let first = literal
        .bytes
        .first_chunk::<4>()
        .map(|bytes| f32::from_le_bytes(*bytes))?;
    let is_number = first >= 1.0 && first.fract() == 0.0 && literal.element == Element::Float;
    let is_mark = is_number && literal.bytes[4..].iter().all(|byte| *byte == 0);
    is_mark.then(|| first as usize - 1)
}

/// The input whose swapped channels and reversed taps `value` is, as autodiff writes it.
fn flip_of<'a>(edges: &Edges<'a>, value: &'a str) -> Option<&'a str> {
    let slice = made_by(edges, value, "Slice");
    let swapped = slice.map_or(Some(value), |slice| slice.input(0))?;
    let transpose = made_by(edges, swapped, "Transpose")?;
    let source = transpose.input(0)?;
    let input = edges
        .graph
        .inputs
        .iter()
        .find(|input| input.name == source)?;
    let taps = input.value_type.known_shape()?.split_off(2);
    let reversed: Vec<i64> = match slice {
        None => vec![],
        Some(slice) => {
            let numbers = |index: usize| edges.constant(slice.input(index)?)?.to_i64s();
            let backwards = |index| Some(numbers(index)?.iter().all(|number| *number == -1));
            let axes =
                numbers(3).filter(|_| backwards(1) == Some(true) && backwards(4) == Some(true))?;
            let ends = numbers(2)?;
            let whole = axes.iter().zip(ends).all(|(&axis, end)| {
                let size = taps.get((axis - 2) as usize);
                size.is_some_and(|&size| end < -(size as i64))
            });
            whole.then_some(axes)?
        }
    };
    let turns_all = (2..)
        .zip(&taps)
        .all(|(axis, size)| *size == 1 || reversed.contains(&axis));
    (transpose.ints("perm") == Some(&[1, 0, 2, 3]) && turns_all).then_some(source)
}

/// Puts the weights in the place of the constants in the optimised graph, and brings weight
/// gradients to NCHWc. Fails if a constant is not where it is expected.
pub(crate) fn restore(
    mut graph: Graph,
    stand_ins: &[StandIn],
    types: &Types,
    block_size: Option<usize>,
) -> Result<Graph, RestoreError> {
    graph.opset_imports.insert(DOMAIN.into(), 1);
    let mut names = Names::of(&graph);
    let mut restored = vec![false; stand_ins.len()];
    replace(&mut graph, |edges, node| {
        let mut edit = Edit::default();
        let mut conv = node.clone();
        for slot in 0..node.inputs.len() {
            let literal = node.input(slot).and_then(|name| edges.constant(name));
            let Some(number) = literal.and_then(marked) else {
                continue;
            };
            let (literal, stand_in) = (literal?, stand_ins.get(number)?);
            let made = match slot {
                1 => weight(node, literal, stand_in, block_size, &mut names),
                2 => bias(literal, stand_in, &mut names),
                _ => None,
            };
            let (value, nodes, constants) = made?;
            conv.inputs[slot] = value;
            edit.nodes.extend(nodes);
            edit.constants.extend(constants);
            restored[number] = true;
        }
        edit.nodes.push(conv);
        (edit.nodes.last() != Some(node)).then_some(edit)
    });
    let kept = stand_ins.iter().filter(|stand_in| stand_in.kept);
    put_first(
        &mut graph,
        kept.map(|stand_in| stand_in.value.clone()).collect(),
    );
    if let Some(lost) = restored.iter().position(|found| !found) {
        return Err(RestoreError::Lost {
            value: stand_ins[lost].value.clone(),
        });
    }
    if let Some(block_size) = block_size {
        replace(&mut graph, |edges, node| {
            input_gradient_nchwc(edges, node, types, block_size, &mut names)
        });
        block_weight_gradients(&mut graph, block_size, &mut names);
    }
    Ok(passes::prune(graph)?)
}

/// Puts the nodes that compute `values` before all others, and takes the values from the outputs.
fn put_first(graph: &mut Graph, values: HashSet<String>) {
    graph
        .outputs
        .retain(|output| !values.contains(&output.name));
    let mut needed = values;
    let mut found: Vec<bool> = Vec::new();
    for node in graph.nodes.iter().rev() {
        let is_needed = node.outputs.iter().any(|output| needed.contains(output));
        if is_needed {
            needed.extend(node.inputs.iter().cloned());
        }
        found.push(is_needed);
    }
    found.reverse();
    let nodes = std::mem::take(&mut graph.nodes).into_iter().zip(found);
    let (first, rest): (Vec<_>, Vec<_>) = nodes.partition(|(_, is_needed)| *is_needed);
    graph.nodes = first
        .into_iter()
        .chain(rest)
        .map(|(node, _)| node)
        .collect();
}

/// A value, the nodes that make it and their constants.
type Made = (String, Vec<Node>, Vec<(String, Literal)>);

/// The weight that `conv` reads instead of the constant `literal`.
fn weight(
    conv: &Node,
    literal: &Literal,
    stand_in: &StandIn,
    block_size: Option<usize>,
    names: &mut Names,
) -> Option<Made> {
    let name = names.fresh(&format!("{}/filter", stand_in.value));
    let shape: Vec<i64> = literal.shape.iter().map(|&size| size as i64).collect();
    if conv.domain != NCHWC_DOMAIN {
        // The layout of the model.
        if literal.shape != stand_in.shape {
            return None;
        }
        if !stand_in.flipped {
            return Some((stand_in.value.clone(), vec![], vec![]));
        }
        let swapped = names.fresh(&format!("{}/swapped", stand_in.value));
        let vectors = [[-1, -1], [-shape[2] - 1, -shape[3] - 1], [2, 3], [-1, -1]]
            .map(|numbers| (names.fresh("constant"), Literal::vector_i64(&numbers)));
        let transpose = Node::new("Transpose", [&stand_in.value], [&swapped]);
        let inputs = [&swapped]
            .into_iter()
            .chain(vectors.iter().map(|(name, _)| name));
        let nodes = vec![
            transpose.with("perm", vec![1_i64, 0, 2, 3]),
            Node::new("Slice", inputs, [&name]),
        ];
        return Some((name, nodes, vectors.into()));
    }
    let block_size = block_size?;
    // As the runtime decides: depthwise, or the input in planes.
    let depthwise = conv.int_or("group", 1) > 1 && stand_in.shape.get(1) == Some(&1);
    let blocked = !depthwise
        && literal
            .shape
            .get(1)
            .is_some_and(|&inputs| inputs >= block_size);
    let filter = operators::node(NCHWC_FILTER, &[&stand_in.value], vec![name.clone()])
        .with("shape", shape)
        .with("block_size", block_size as i64)
        .with("blocked", i64::from(blocked))
        .with("flipped", i64::from(stand_in.flipped));
    Some((name, vec![filter], vec![]))
}

/// The bias in the place of the constant `literal`, filled up to its channels.
fn bias(literal: &Literal, stand_in: &StandIn, names: &mut Names) -> Option<Made> {
    let (from, to) = (stand_in.shape.first()?, literal.shape.first()?);
    if from == to {
        return Some((stand_in.value.clone(), vec![], vec![]));
    }
    let missing = to.checked_sub(*from)? as i64;
    let [name, pads] =
        ["filled", "pads"].map(|part| names.fresh(&format!("{}/{part}", stand_in.value)));
    let pad = Node::new("Pad", [&stand_in.value, &pads], [&name]);
    let pads = (pads, Literal::vector_i64(&[0, missing]));
    Some((name, vec![pad], vec![pads]))
}

/// Makes weight gradients read NCHWc: what a `ReorderOutput` reads, else by a `ReorderInput`, which
/// later rewrites join with the gradients that make dy. Images of fewer channels than a block stay
/// as they are.
fn block_weight_gradients(graph: &mut Graph, block_size: usize, names: &mut Names) {
    let mut blocked: HashMap<String, String> = HashMap::new();
    replace(graph, |edges, node| {
        if node.op_type != CONV_WEIGHT_GRADIENT {
            return None;
        }
        let mut nodes = Vec::new();
        let mut gradient = node.clone();
        let depthwise = node.int_or("depthwise", 0) != 0;
        let reorder_of = |value: &str| {
            let reorder = edges.producer(value)?;
            reorders(reorder, "ReorderOutput").then_some(reorder)
        };
        let sizes = node.ints("shape")?;
        let channels = [if depthwise { sizes[0] } else { sizes[1] }, sizes[0]];
        // The runtime reorders images of channels in fours.
        let fits = |channels: i64| channels >= block_size as i64 && channels % 4 == 0;
        let blocks = [0, 1].map(|slot| {
            let reorder = node.input(slot).and_then(reorder_of);
            reorder.is_some() || fits(channels[slot])
        });
        if depthwise && blocks.contains(&false) {
            return None;
        }
        for (slot, attribute) in ["x_block_size", "dy_block_size"].into_iter().enumerate() {
            let value = node.input(slot)?;
            gradient.inputs[slot] = match reorder_of(value) {
                Some(reorder) => reorder.input(0)?.to_owned(),
                None if !blocks[slot] => continue,
                None => blocked
                    .entry(value.to_owned())
                    .or_insert_with(|| {
                        let blocks = names.fresh(&format!("{value}/nchwc"));
                        let mut reorder = Node::new("ReorderInput", [value], [blocks.as_str()]);
                        reorder.domain = NCHWC_DOMAIN.into();
                        nodes.push(reorder);
                        blocks
                    })
                    .clone(),
            };
            gradient
                .attributes
                .insert(attribute.into(), (block_size as i64).into());
        }
        nodes.push(gradient);
        Some(Edit::with(nodes))
    });
}

/// A ConvTranspose of a weight that is an input, over images: the gradient of a strided
/// convolution.
fn input_gradient_nchwc(
    edges: &Edges,
    node: &Node,
    types: &Types,
    block_size: usize,
    names: &mut Names,
) -> Option<Edit> {
    let (dy, weight) = (node.input(0)?, node.input(1)?);
    let is_gradient = node.is("ConvTranspose") && node.inputs.len() == 2;
    if !is_gradient || node.int_or("group", 1) != 1 || edges.constant(weight).is_some() {
        return None;
    }
    let sizes = |value: &str| -> Option<Vec<usize>> {
        types.shape(value)?.iter().skip(1).map(Dim::known).collect()
    };
    let outputs = *sizes(dy)?.first()?;
    let [channels, height, width] = sizes(node.output(0)?)?[..] else {
        return None;
    };
    // The runtime reorders images of channels in fours.
    let fits = |channels: usize| channels >= block_size && channels.is_multiple_of(4);
    let auto = node.string("auto_pad").is_some_and(|auto| auto != "NOTSET");
    if !fits(channels) || !fits(outputs) || auto || node.ints("output_shape").is_some() {
        return None;
    }
    let dx = node.output(0)?;
    let [dy_blocks, filter, dx_blocks] =
        ["dy", "filter", "nchwc"].map(|part| names.fresh(&format!("{dx}/{part}")));
    let up = |channels: usize| channels.next_multiple_of(block_size) as i64;
    let kernel = types.get(weight)?.known_shape()?;
    let [_, _, kernel_height, kernel_width] = kernel[..] else {
        return None;
    };
    let shape = [
        up(channels),
        up(outputs),
        kernel_height as i64,
        kernel_width as i64,
    ];
    let pack = operators::node(NCHWC_FILTER, &[weight], vec![filter.clone()])
        .with("shape", shape.to_vec())
        .with("block_size", block_size as i64)
        .with("blocked", 1)
        .with("flipped", 1);
    let reorder = |op_type: &str, from: &str, to: &str| {
        let mut node = Node::new(op_type, [from], [to]);
        node.domain = NCHWC_DOMAIN.into();
        node
    };
    let mut gradient = operators::node(
        NCHWC_CONV_INPUT_GRADIENT,
        &[&dy_blocks, &filter],
        vec![dx_blocks.clone()],
    )
    .with("shape", vec![up(channels), height as i64, width as i64])
    .with("kernel_shape", shape[2..].to_vec())
    .with("block_size", block_size as i64);
    for name in ["strides", "dilations", "pads"] {
        if let Some(attribute) = node.attributes.get(name) {
            gradient.attributes.insert(name.into(), attribute.clone());
        }
    }
    Some(Edit::with([
        reorder("ReorderInput", dy, &dy_blocks),
        pack,
        gradient,
        reorder("ReorderOutput", &dx_blocks, dx).with("channels", channels as i64),
    ]))
}
