//! The gradient of 2-D max pooling as an operator of this process, for sessions on the CPU: `fuse` puts it in the place of the nodes that
//! a derived graph writes for it (`MaxPool` with Indices, `ScatterElements`), `max_pool_gradient` computes one plane.
//!
//! Same numbers; a prototype saved a fifth of SqueezeNet's gradient at 8 rows. Cost: one reading of dy, two of x, one writing of dx.

use crate::onnx::{
    OnnxError,
    graph::{Element, Graph, Node},
    infer, passes,
};

/// Domain of the operators that only this process has.
pub const DOMAIN: &str = "explaind";
pub const MAX_POOL_GRADIENT: &str = "MaxPoolGradient";

/// Replaces every max-pool gradient over two spatial axes of f32 by one `MaxPoolGradient(x, dy) -> dx` with the pool's attributes.
pub fn fuse(mut graph: Graph) -> Result<Graph, OnnxError> {
    let types = infer(&graph)?;
    let found: Vec<(usize, Node)> = {
        let producers = graph.producers();
        let made_by = |value: &str, op_type: &str| {
            let node = &graph.nodes[*producers.get(value)?];
            node.is(op_type).then_some(node)
        };
        let scattered = |node: &Node| {
            let scatter =
                made_by(node.input(0)?, "ScatterElements").filter(|n| n.string("reduction") == Some("add"))?;
            made_by(made_by(scatter.input(0)?, "Reshape")?.input(0)?, "ConstantOfShape")?;
            let indices = made_by(scatter.input(1)?, "Reshape")?.input(0)?;
            let pool = made_by(indices, "MaxPool").filter(|pool| pool.output(1) == Some(indices))?;
            let dy = made_by(scatter.input(2)?, "Reshape")?.input(0)?;
            let x = pool.input(0)?;
            let plain = pool.ints("kernel_shape")?.len() == 2 && pool.int_or("storage_order", 0) == 0;
            let fits =
                plain && types.get(x)?.element == Element::Float && types.shape(x) == types.shape(node.output(0)?);
            let mut gradient = Node::new(MAX_POOL_GRADIENT, [x, dy], [node.output(0)?]);
            gradient.domain = DOMAIN.into();
            gradient.name.clone_from(&node.name);
            gradient.attributes.clone_from(&pool.attributes);
            gradient.attributes.remove("ceil_mode");
            fits.then_some(gradient)
        };
        let reshapes = graph.nodes.iter().enumerate().filter(|(_, node)| node.is("Reshape"));
        reshapes.filter_map(|(index, node)| Some((index, scattered(node)?))).collect()
    };
    if found.is_empty() {
        return Ok(graph);
    }
    graph.opset_imports.insert(DOMAIN.into(), 1);
    for (index, node) in found {
        graph.nodes[index] = node;
    }
    passes::prune(graph)
}

/// A pooling window over the two spatial axes. Padding at the end follows from the shapes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    pub kernel: [usize; 2],
    pub strides: [usize; 2],
    pub dilations: [usize; 2],
    /// Padding before the first row and column; never chosen as a maximum.
    pub pads: [usize; 2],
}

impl Window {
    /// Where along `axis` the window of output `index` reads: first position, one past the last, step.
    fn span(&self, axis: usize, index: usize, size: usize) -> (usize, usize, usize) {
        let step = self.dilations[axis];
        let origin = index * self.strides[axis];
        let end = (origin + (self.kernel[axis] - 1) * step + 1).saturating_sub(self.pads[axis]).min(size);
        // Taps that fall on the padding are skipped in whole steps.
        let skipped = self.pads[axis].saturating_sub(origin).div_ceil(step);
        ((origin + skipped * step).saturating_sub(self.pads[axis]), end, step)
    }
}

/// Writes the cotangent of one plane's input: `x` and `dx` of `[height, width]`, `dy` of `[rows, columns]` outputs.
/// A tie goes to the first maximum in row-major order.
///
/// The taps of a row of windows are compared side by side, which processors do several at a time.
pub fn max_pool_gradient(
    window: &Window,
    x: &[f32],
    [height, width]: [usize; 2],
    dy: &[f32],
    columns: usize,
    dx: &mut [f32],
) {
    dx.fill(0.0);
    let (taps, step, stride) = (window.kernel[1], window.dilations[1], window.strides[1]);
    let lines = Phases::of(window, x, width, columns);
    let (mut best, mut place) = (vec![0.0; columns], vec![0; columns]);
    for (row, cotangents) in dy.chunks_exact(columns).enumerate() {
        let (top, bottom, down) = window.span(0, row, height);
        best.fill(f32::NEG_INFINITY);
        place.fill(NOWHERE);
        for line in (top..bottom).step_by(down) {
            for offset in (0..taps).map(|tap| tap * step) {
                let here = (line * width + offset) as u32;
                for ((value, best), place) in lines.of_tap(line, offset).iter().zip(&mut best).zip(&mut place) {
                    // Bits, or the compiler jumps, which costs four times as much where no branch can be foreseen.
                    let larger = u32::from(value > best).wrapping_neg();
                    *best = f32::from_bits((value.to_bits() & larger) | (best.to_bits() & !larger));
                    *place = (here & larger) | (*place & !larger);
                }
            }
        }
        for (column, (cotangent, place)) in cotangents.iter().zip(&place).enumerate() {
            let at = match *place {
                NOWHERE => top * width + window.span(1, column, width).0,
                place => (place as usize + column * stride).saturating_sub(window.pads[1]),
            };
            if let Some(at) = dx.get_mut(at) {
                *at += cotangent;
            }
        }
    }
}

/// The place of a maximum that no value is larger than negative infinity for.
const NOWHERE: u32 = u32::MAX;

/// The lines of a plane with their padding, each dealt into as many parts as windows are apart: what one tap of a row of windows reads
/// lies side by side.
struct Phases {
    values: Vec<f32>,
    stride: usize,
    length: usize,
    columns: usize,
}

impl Phases {
    fn of(window: &Window, x: &[f32], width: usize, columns: usize) -> Self {
        let (stride, pad) = (window.strides[1], window.pads[1]);
        let reach = (columns - 1) * stride + (window.kernel[1] - 1) * window.dilations[1] + 1;
        let length = reach.div_ceil(stride);
        let mut values = vec![f32::NEG_INFINITY; x.len() / width * stride * length];
        for (line, parts) in x.chunks_exact(width).zip(values.chunks_exact_mut(stride * length)) {
            for (phase, part) in parts.chunks_exact_mut(length).enumerate() {
                let padding = pad.saturating_sub(phase).div_ceil(stride).min(length);
                let first = (padding * stride + phase).saturating_sub(pad).min(width);
                for (slot, value) in part[padding..].iter_mut().zip(line[first..].iter().step_by(stride)) {
                    *slot = *value;
                }
            }
        }
        Self { values, stride, length, columns }
    }

    /// What the tap `offset` behind its window's start reads of `line`, for each column of windows.
    fn of_tap(&self, line: usize, offset: usize) -> &[f32] {
        let start = (line * self.stride + offset % self.stride) * self.length + offset / self.stride;
        &self.values[start..start + self.columns]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        autodiff::{
            derive,
            spec::{DeriveSpec, Head, PatternLayers, RuleSetId, SeedRule, Wrt},
        },
        engine::{
            Provider,
            backend_ort::{OrtSession, Threads, load_runtime},
        },
        onnx::{
            graph::{Dim, ValueInfo, ValueType},
            write_model,
        },
        tensor::Tensor,
    };

    fn window(kernel: usize, stride: usize, dilation: usize, pad: usize) -> Window {
        Window { kernel: [kernel; 2], strides: [stride; 2], dilations: [dilation; 2], pads: [pad; 2] }
    }

    /// `out = flatten(MaxPool(x))` over 2 channels of 7 x 6, derived.
    fn derived_pool(attributes: [(&str, Vec<i64>); 3], ceil_mode: i64) -> Graph {
        let value = |name: &str, shape: Vec<Dim>| ValueInfo {
            name: name.into(),
            value_type: ValueType::new(Element::Float, shape),
        };
        let mut pool = Node::new("MaxPool", ["x"], ["pooled"]).with("ceil_mode", ceil_mode);
        for (name, values) in attributes {
            pool = pool.with(name, values);
        }
        let source = Graph {
            name: "pool".into(),
            ir_version: 8,
            opset_imports: [(String::new(), 17)].into(),
            inputs: vec![value("x", vec!["n".into(), 2.into(), 7.into(), 6.into()])],
            outputs: vec![value("out", vec!["n".into(), "classes".into()])],
            initializers: Default::default(),
            nodes: vec![pool, Node::new("Flatten", ["pooled"], ["out"])],
            metadata: Default::default(),
        };
        let spec = DeriveSpec {
            rule_sets: vec![RuleSetId::Gradient],
            wrt: Wrt::Input,
            head: Head::Logits,
            seed: SeedRule::One,
            pattern_layers: PatternLayers::All,
        };
        derive(&source, &spec, None).unwrap().graph
    }

    #[test]
    fn the_kernel_gives_the_numbers_of_the_nodes_it_replaces() {
        let runtime = load_runtime(None, 0).unwrap();
        let lists = |kernel: &[i64], strides: &[i64], pads: &[i64]| {
            [("kernel_shape", kernel.to_vec()), ("strides", strides.to_vec()), ("pads", pads.to_vec())]
        };
        let cases = [
            (lists(&[3, 3], &[2, 2], &[0, 0, 0, 0]), 0),
            (lists(&[3, 3], &[2, 2], &[0, 0, 0, 0]), 1),
            (lists(&[3, 2], &[1, 2], &[1, 0, 1, 1]), 0),
            (lists(&[2, 2], &[2, 2], &[0, 0, 0, 0]), 0),
        ];
        for (attributes, ceil_mode) in cases {
            let graph = derived_pool(attributes.clone(), ceil_mode);
            let fused = fuse(graph.clone()).unwrap();
            assert!(fused.nodes.iter().any(|node| node.op_type == MAX_POOL_GRADIENT), "{attributes:?}");
            assert!(!fused.nodes.iter().any(|node| node.is("ScatterElements")), "{attributes:?}");
            let mut nodes =
                OrtSession::open_bytes(runtime, write_model(&graph).unwrap(), Provider::Cpu, Threads::Shared).unwrap();
            let mut kernel = OrtSession::open(runtime, graph.clone(), Provider::Cpu, Threads::Shared).unwrap();
            // Few different numbers: many ties.
            let x = Tensor::from_shape_fn(vec![3, 2, 7, 6], |i| ((i[0] + 5 * i[1] + i[2] * i[3]) % 4) as f32 - 2.0);
            let classes = graph.inputs[1].value_type.shape[1].known().unwrap();
            let seed = Tensor::from_shape_fn(vec![3, classes], |i| (1 + i[0] * classes + i[1]) as f32);
            let inputs = [("x", x.view()), ("seed", seed.view())];
            assert_eq!(kernel.run(&inputs).unwrap(), nodes.run(&inputs).unwrap(), "{attributes:?}");
        }
    }

    /// Every window on its own, as the operator is defined.
    fn naive(w: &Window, x: &[f32], [height, width]: [usize; 2], dy: &[f32], columns: usize) -> Vec<f32> {
        let mut dx = vec![0.0; x.len()];
        for (index, cotangent) in dy.iter().enumerate() {
            let (top, bottom, down) = w.span(0, index / columns, height);
            let (left, right, across) = w.span(1, index % columns, width);
            let taps =
                (top..bottom).step_by(down).flat_map(|y| (left..right).step_by(across).map(move |x| y * width + x));
            let best = taps.reduce(|first, at| if x[at] > x[first] { at } else { first });
            if let Some(at) = best {
                dx[at] += cotangent;
            }
        }
        dx
    }

    proptest::proptest! {
        #[test]
        fn windows_side_by_side_are_windows_one_by_one(
            kernel in [1_usize..4, 1_usize..4], strides in [1_usize..4, 1_usize..4], dilations in [1_usize..3, 1_usize..3],
            pads in [0_usize..3, 0_usize..3], end_pads in [0_usize..3, 0_usize..3], extra in [0_usize..6, 0_usize..6], levels in 1_u32..6, seed in 0_u32..1000,
        ) {
            let reach = |axis: usize| (kernel[axis] - 1) * dilations[axis] + 1;
            // ONNX keeps pads below the kernel.
            let pads = [0, 1].map(|axis: usize| pads[axis].min(kernel[axis] - 1));
            let end_pads = [0, 1].map(|axis: usize| end_pads[axis].min(kernel[axis] - 1));
            let plane = [0, 1].map(|axis| reach(axis) + extra[axis]);
            let outputs = [0, 1].map(|axis| (plane[axis] + pads[axis] + end_pads[axis] - reach(axis)) / strides[axis] + 1);
            let w = Window { kernel, strides, dilations, pads };
            let drawn = |index: usize| (index as u32 + 1).wrapping_mul(2_654_435_761 ^ seed) >> 16;
            // Few levels: many ties; the lowest is negative infinity.
            let x: Vec<f32> = (0..plane[0] * plane[1])
                .map(|index| match drawn(index) % levels { 0 => f32::NEG_INFINITY, level => level as f32 - 3.0 })
                .collect();
            let dy: Vec<f32> = (0..outputs[0] * outputs[1]).map(|index| (index + 1) as f32).collect();
            let mut dx = vec![f32::NAN; x.len()];
            max_pool_gradient(&w, &x, plane, &dy, outputs[1], &mut dx);
            proptest::prop_assert_eq!(dx, naive(&w, &x, plane, &dy, outputs[1]));
        }
    }

    #[test]
    fn overlapping_windows_add_up_at_a_shared_maximum() {
        let x = [0.0, 0.0, 0.0, 0.0, 9.0, 0.0, 0.0, 0.0, 0.0];
        let mut dx = [f32::NAN; 9];
        max_pool_gradient(&window(2, 1, 1, 0), &x, [3, 3], &[1.0, 2.0, 4.0, 8.0], 2, &mut dx);
        assert_eq!(dx, [0.0, 0.0, 0.0, 0.0, 15.0, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn a_tie_goes_to_the_first_maximum() {
        let mut dx = [f32::NAN; 4];
        max_pool_gradient(&window(2, 2, 1, 0), &[-1.0, 3.0, 3.0, 3.0], [2, 2], &[5.0], 1, &mut dx);
        assert_eq!(dx, [0.0, 5.0, 0.0, 0.0]);
    }

    #[test]
    fn padding_never_wins_over_negative_values() {
        let mut dx = [f32::NAN; 4];
        max_pool_gradient(&window(3, 2, 1, 1), &[-4.0, -3.0, -2.0, -1.0], [2, 2], &[7.0], 1, &mut dx);
        assert_eq!(dx, [0.0, 0.0, 0.0, 7.0]);
    }

    #[test]
    fn dilated_taps_skip_the_padding_in_whole_steps() {
        // One axis of the window reads positions -1, 1, 3 of 5: the first lies on the padding.
        let w = Window { kernel: [1, 3], strides: [1, 1], dilations: [1, 2], pads: [0, 1] };
        assert_eq!(w.span(1, 0, 5), (1, 4, 2));
        let mut dx = [f32::NAN; 5];
        max_pool_gradient(&w, &[9.0, 1.0, 9.0, 2.0, 9.0], [1, 5], &[1.0], 1, &mut dx);
        assert_eq!(dx, [0.0, 0.0, 0.0, 1.0, 0.0]);
    }
}
