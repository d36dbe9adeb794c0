//! Convolutions of 3 x 3 taps and stride 1 over NCHWc, computed by Winograd's algorithm: the crate
//! `winograd`. Sizes and weights decide where, not a measurement: every process on a machine gets the
//! same numbers.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Weak},
};

use bytes::Bytes;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use winograd::Filter;

use super::{
    nchwc::NCHWC_DOMAIN,
    operators::{
        self, DOMAIN, NCHWC_CONV_INPUT_GRADIENT, NCHWC_FILTER, NCHWC_MAX_POOL_GRADIENT,
        RELU_GRADIENT, WINOGRAD_CONV, WINOGRAD_FILTER,
    },
    weights::Lent,
};
use onnx_autodiff::onnx::{
    OnnxError, Types,
    graph::{Element, Graph, Literal, Names, Node, ValueInfo, ValueType},
    passes,
    rewrite::{Edges, Edit, replace},
};

/// Pairs of channels for each tile of an image. With more, reading the transformed weights takes
/// longer than what is saved; measured with AVX2 and AVX-512 (docs/engine-cpu.md).
const PAIRS_PER_TILE: usize = 1 << 15;
/// Channels times columns of an input: a row of tiles is transformed at once, to 36 bytes for each.
const LARGEST_LINE: usize = 1 << 17;
/// Outputs of a tile.
const TILE: usize = 16;

/// A convolution that Winograd's algorithm computes.
struct Layer {
    outputs: usize,
    inputs: usize,
    /// Height and width of the output.
    size: [usize; 2],
    pads: [i64; 4],
}

impl Layer {
    /// `node` is a convolution of a weight of `shape`, its input has this size.
    fn of(node: &Node, shape: &[usize], [height, width]: [usize; 2]) -> Option<Self> {
        let [outputs, inputs, 3, 3] = *shape else {
            return None;
        };
        let ones = |name: &str| {
            node.ints(name)
                .is_none_or(|all| all.iter().all(|one| *one == 1))
        };
        let is_plain = ones("strides") && ones("dilations") && node.int_or("group", 1) == 1;
        let pads = match node.string("auto_pad").unwrap_or("NOTSET") {
            "NOTSET" => node.ints("pads").unwrap_or(&[0; 4]),
            "VALID" => &[0; 4],
            _ => &[1; 4],
        };
        let pads: [i64; 4] = pads.try_into().ok().filter(|_| is_plain)?;
        let [top, left, bottom, right] = pads;
        let out = |size: usize, pads: i64| (size + usize::try_from(pads).ok()?).checked_sub(2);
        let size = [
            out(height, top.checked_add(bottom)?)?,
            out(width, left.checked_add(right)?)?,
        ];
        let layer = Self {
            outputs,
            inputs,
            size,
            pads,
        };
        let fits = pads.iter().all(|pad| *pad >= 0) && inputs * width <= LARGEST_LINE;
        (fits && layer.is_faster()).then_some(layer)
    }

    /// At most half of what the tiles give lies outside of the image, and the tiles are enough for
    /// the weights. The batch has no say: a row's numbers would depend on the rows beside it.
    fn is_faster(&self) -> bool {
        let [height, width] = self.size;
        let tiles = height.div_ceil(4) * width.div_ceil(4);
        tiles > 0
            && tiles * TILE <= 2 * height * width
            && self.outputs * self.inputs <= PAIRS_PER_TILE * tiles
    }
}

/// Whether [`rewrite`] may apply to a graph after the runtime's optimiser.
pub(crate) fn applies(graph: &Graph, types: &Types, block_size: usize) -> bool {
    graph
        .nodes
        .iter()
        .filter(|node| node.is("Conv"))
        .any(|node| {
            let shape = node
                .input(1)
                .and_then(|weight| types.get(weight)?.known_shape());
            let size = node.input(0).and_then(|x| image_size(types, x));
            let layer = shape.zip(size).and_then(|(shape, size)| {
                // The runtime takes fewer channels as planes, and reorders fours.
                let fits =
                    |layer: &Layer| layer.inputs >= block_size && layer.inputs.is_multiple_of(4);
                Layer::of(node, &shape, size).filter(fits)
            });
            layer.is_some()
        })
}

/// Replaces convolutions by `WinogradConv`, and the ReLU masks after them. Returns the transformed
/// weights, which sessions take as inputs. A weight whose convolutions would lose more than
/// `most_error` of their largest output keeps the runtime's. `types`: of the graph as it was derived.
pub(crate) fn rewrite(
    mut graph: Graph,
    types: &Types,
    block_size: usize,
    most_error: f64,
) -> Result<(Graph, Vec<Lent>), OnnxError> {
    graph.opset_imports.insert(DOMAIN.into(), 1);
    let sizes = image_sizes(&graph, types);
    let mut names = Names::of(&graph);
    let mut filters = Filters {
        block_size,
        most_error,
        made: HashMap::new(),
        lent: Vec::new(),
    };
    replace(&mut graph, |edges, node| {
        let masked = masked(edges, node);
        let is_masked = || {
            let reader = edges.only_reader(node.output(0)?)?;
            self::masked(edges, reader)
        };
        if masked.is_none() && is_masked().is_some() {
            // With its mask.
            return None;
        }
        let conv = Some(masked.unwrap_or(node)).filter(|node| is_conv(node))?;
        let activation = conv.string("activation").filter(|name| !name.is_empty());
        if activation.is_some_and(|name| name != "Relu") {
            return None;
        }
        let weight = conv.input(1)?;
        let source = Source::of(edges, weight, block_size)?;
        let size = *sizes.get(conv.input(0)?)?;
        let layer = Layer::of(conv, &source.shape(), size)?;
        let (filter, mut nodes) = filters.of(weight, &source, &layer, &mut names)?;
        let gate = masked.and_then(|_| node.input(1)).unwrap_or_default();
        let [bias, sum] = [2, 3].map(|slot| conv.input(slot).unwrap_or_default());
        let mut inputs = vec![conv.input(0)?, &filter, bias, sum, gate];
        while inputs.last().is_some_and(|last| last.is_empty()) {
            inputs.pop();
        }
        let convolution = operators::node(WINOGRAD_CONV, &inputs, node.outputs.clone())
            .with("channels", layer.outputs as i64)
            .with("pads", layer.pads.to_vec())
            .with("block_size", block_size as i64)
            .with("relu", i64::from(activation.is_some()));
        nodes.push(convolution);
        let removed = masked.map(|conv| conv.outputs.clone()).unwrap_or_default();
        Some(Edit {
            removed,
            ..Edit::with(nodes)
        })
    });
    graph
        .inputs
        .extend(filters.lent.iter().map(|lent| ValueInfo {
            name: lent.name.clone(),
            value_type: ValueType::new(Element::Float, vec![lent.literal.shape[0].into()]),
        }));
    Ok((passes::prune(graph)?, filters.lent))
}

/// A convolution whose mask `node` is: nothing else reads what it makes.
fn masked<'a>(edges: &Edges<'a>, node: &Node) -> Option<&'a Node> {
    let is_mask = node.op_type == RELU_GRADIENT && node.int("block_size").is_none();
    let (dy, y) = (node.input(0).filter(|_| is_mask)?, node.input(1)?);
    let conv = edges.producer(dy)?;
    (is_conv(conv) && dy != y && edges.only_reader(dy).is_some()).then_some(conv)
}

fn is_conv(node: &Node) -> bool {
    node.op_type == "Conv" && node.domain == NCHWC_DOMAIN
}

/// Where the weight of a convolution over NCHWc comes from.
enum Source<'a> {
    /// A constant in that layout.
    Constant(&'a Literal),
    /// The node that brings it there.
    Given(&'a Node),
}

impl<'a> Source<'a> {
    fn of(edges: &Edges<'a>, weight: &str, block_size: usize) -> Option<Self> {
        let found =
            match edges.constant(weight) {
                Some(literal) => Self::Constant(literal),
                None => Self::Given(edges.producer(weight).filter(|node| {
                    node.op_type == NCHWC_FILTER && node.int_or("blocked", 0) != 0
                })?),
            };
        let is_whole = |channels: &usize| channels.is_multiple_of(block_size);
        found.shape().iter().take(2).all(is_whole).then_some(found)
    }

    fn shape(&self) -> Vec<usize> {
        match self {
            Self::Constant(literal) => literal.shape.clone(),
            Self::Given(node) => {
                let sizes = node.ints("shape").unwrap_or_default();
                sizes.iter().map(|&size| size as usize).collect()
            }
        }
    }
}

/// The transformed weights of a graph.
struct Filters {
    block_size: usize,
    most_error: f64,
    /// Weight -> transformed weight; none where it loses too much.
    made: HashMap<String, Option<String>>,
    lent: Vec<Lent>,
}

impl Filters {
    /// The transformed weight, and the nodes that make it.
    fn of(
        &mut self,
        weight: &str,
        source: &Source,
        layer: &Layer,
        names: &mut Names,
    ) -> Option<(String, Vec<Node>)> {
        if let Some(made) = self.made.get(weight) {
            return Some((made.clone()?, vec![]));
        }
        let filter = Filter {
            outputs: layer.outputs,
            inputs: layer.inputs,
            block_size: self.block_size,
            flipped: false,
        };
        let name = names.fresh(&format!("{weight}/winograd"));
        let mut nodes = Vec::new();
        let error = match source {
            Source::Constant(literal) => {
                let held = Transformed::of(&filter, literal)?;
                let error = held.0.error;
                if error <= self.most_error {
                    let literal = Literal {
                        element: Element::Float,
                        shape: vec![filter.len()],
                        bytes: Bytes::from_owner(held),
                    };
                    let name = name.clone();
                    self.lent.push(Lent { name, literal });
                }
                error
            }
            Source::Given(node) => {
                let shape = vec![layer.outputs as i64, layer.inputs as i64];
                let transform =
                    operators::node(WINOGRAD_FILTER, &[node.input(0)?], vec![name.clone()])
                        .with("shape", shape)
                        .with("block_size", self.block_size as i64)
                        .with("flipped", node.int_or("flipped", 0));
                nodes.push(transform);
                drawn_error(&filter)
            }
        };
        // Neither where it is not a number.
        let made = (error <= self.most_error).then_some(name);
        self.made.insert(weight.to_owned(), made.clone());
        Some((made?, nodes))
    }
}

/// The error of a weight of drawn numbers.
fn drawn_error(filter: &Filter) -> f64 {
    let drawn = |index: usize| {
        let mixed = (index as u32 + 1).wrapping_mul(2_654_435_761);
        (mixed >> 8) as f32 / f32::from(1_u16 << 15) / 256.0 - 1.0
    };
    let sizes = [filter.outputs, filter.inputs];
    let weight: Vec<f32> = (0..sizes[0] * sizes[1] * 9).map(drawn).collect();
    filter.error(&filter.transform(&weight, sizes), &weight, sizes)
}

/// A transformed weight, and the error of its convolutions.
struct Transformed {
    numbers: Vec<f32>,
    error: f64,
}

/// Those in use, by what they are made of: all graphs of a model share them.
static TRANSFORMED: Mutex<BTreeMap<[u8; 32], Weak<Transformed>>> = Mutex::new(BTreeMap::new());

/// A handle, as memory.
struct Held(Arc<Transformed>);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0.numbers)
    }
}

impl Transformed {
    /// Of a weight in NCHWc.
    fn of(filter: &Filter, literal: &Literal) -> Option<Held> {
        let sizes = [filter.outputs, filter.inputs];
        let mut hash = Sha256::new();
        for size in [sizes[0], sizes[1], filter.block_size] {
            hash.update(size.to_le_bytes());
        }
        let key = hash.chain_update(&literal.bytes).finalize().into();
        let mut known = TRANSFORMED.lock();
        if let Some(found) = known.get(&key).and_then(Weak::upgrade) {
            return Some(Held(found));
        }
        let weight = unblocked(filter, &literal.to_f32s()?);
        let numbers = filter.transform(&weight, sizes);
        let error = filter.error(&numbers, &weight, sizes);
        let made = Arc::new(Transformed { numbers, error });
        known.retain(|_, held| held.strong_count() > 0);
        known.insert(key, Arc::downgrade(&made));
        Some(Held(made))
    }
}

/// `[outputs, inputs, 3, 3]` of a weight `[outputs / b, inputs / b, 3, 3, b inputs, b outputs]`.
fn unblocked(filter: &Filter, blocks: &[f32]) -> Vec<f32> {
    let Filter {
        inputs, block_size, ..
    } = *filter;
    let mut weight = vec![0.0; blocks.len()];
    for (place, number) in blocks.iter().enumerate() {
        let (cell, output) = (place / block_size, place % block_size);
        let (cell, input) = (cell / block_size, cell % block_size);
        let (pair, tap) = (cell / 9, cell % 9);
        let (block, input_block) = (pair / (inputs / block_size), pair % (inputs / block_size));
        let output = block * block_size + output;
        let input = input_block * block_size + input;
        weight[(output * inputs + input) * 9 + tap] = *number;
    }
    weight
}

/// Height and width of images.
fn image_size(types: &Types, value: &str) -> Option<[usize; 2]> {
    let [_, _, height, width] = types.shape(value)? else {
        return None;
    };
    Some([height.known()?, width.known()?])
}

/// Height and width of images in either layout, as far as they follow from `types`, which has no
/// values over NCHWc.
fn image_sizes(graph: &Graph, types: &Types) -> HashMap<String, [usize; 2]> {
    let mut sizes: HashMap<String, [usize; 2]> = HashMap::new();
    for node in &graph.nodes {
        let size = |slot: usize| {
            let value = node.input(slot)?;
            image_size(types, value).or_else(|| sizes.get(value).copied())
        };
        let found = match (node.domain.as_str(), node.op_type.as_str()) {
            (NCHWC_DOMAIN, "ReorderInput" | "ReorderOutput") => size(0),
            (NCHWC_DOMAIN, "Conv" | "MaxPool" | "AveragePool") => {
                size(0).and_then(|size| windows(node, size))
            }
            (DOMAIN, RELU_GRADIENT) => size(1),
            (DOMAIN, NCHWC_MAX_POOL_GRADIENT) => size(0),
            (DOMAIN, NCHWC_CONV_INPUT_GRADIENT) => node.ints("shape").and_then(|shape| {
                let [_, height, width] = *shape else {
                    return None;
                };
                Some([height as usize, width as usize])
            }),
            // Of channels, or number by number: all inputs have one size.
            ("", "Add" | "Sum" | "Mul" | "Concat" | "Split" | "Relu" | "Sigmoid" | "Tanh") => {
                size(0)
            }
            _ => None,
        };
        for output in &node.outputs {
            if let Some(size) = image_size(types, output).or(found) {
                sizes.insert(output.clone(), size);
            }
        }
    }
    sizes
}

/// The number of places of a window along both axes.
fn windows(node: &Node, size: [usize; 2]) -> Option<[usize; 2]> {
    let kernel = node
        .ints("kernel_shape")
        .filter(|_| node.int_or("ceil_mode", 0) == 0)?;
    let of = |name: &str, axis: usize, default: i64| {
        node.ints(name)
            .map_or(Some(default), |all| all.get(axis).copied())
    };
    let along = |axis: usize| {
        let stride = of("strides", axis, 1).filter(|stride| *stride > 0)?;
        let reach = (kernel.get(axis)? - 1) * of("dilations", axis, 1)? + 1;
        let size = i64::try_from(size[axis]).ok()?;
        let pads = match node.string("auto_pad").unwrap_or("NOTSET") {
            "NOTSET" => of("pads", axis, 0)? + of("pads", axis + 2, 0)?,
            "VALID" => 0,
            // One place for each stride.
            _ => reach - 1,
        };
        usize::try_from((size + pads - reach).div_euclid(stride) + 1).ok()
    };
    Some([along(0)?, along(1)?])
}
