//! The gradient of 2-D max pooling as an operator of this process, for sessions on the CPU: `fuse`
//! puts it in the place of the nodes that a derived graph writes for it (`MaxPool` with Indices,
//! `ScatterElements`), [`Gradient`] computes one plane after another.
//!
//! Same numbers; a prototype saved a fifth of SqueezeNet's gradient at 8 rows. Cost: one reading of
//! dy, two of x, one writing of dx.

use std::array::from_fn;

use super::blocks::mask;
use onnx_autodiff::{
    autodiff::stepped,
    onnx::{
        OnnxError, Types,
        graph::{Element, Graph, Node},
        infer, passes,
    },
};

/// Domain of the operators that only this process has.
pub const DOMAIN: &str = "explaind";
pub const MAX_POOL_GRADIENT: &str = "MaxPoolGradient";

/// Replaces every max-pool gradient over two spatial axes of f32 by one
/// `MaxPoolGradient(x, dy) -> dx` with the pool's attributes; and with `gated` where Relus made all
/// of x and their gradients alone read dx, which then need no masks of their own.
pub fn fuse(mut graph: Graph) -> Result<Graph, OnnxError> {
    let types = infer(&graph)?;
    let found: Vec<(usize, Node)> = {
        let producers = graph.producers();
        let made_by = |value: &str, op_type: &str| {
            let node = &graph.nodes[*producers.get(value)?];
            node.is(op_type).then_some(node)
        };
        let scattered = |node: &Node| {
            let scatter = made_by(node.input(0)?, "ScatterElements")
                .filter(|n| n.string("reduction") == Some("add"))?;
            made_by(
                made_by(scatter.input(0)?, "Reshape")?.input(0)?,
                "ConstantOfShape",
            )?;
            let indices = made_by(scatter.input(1)?, "Reshape")?.input(0)?;
            let pool =
                made_by(indices, "MaxPool").filter(|pool| pool.output(1) == Some(indices))?;
            let dy = made_by(scatter.input(2)?, "Reshape")?.input(0)?;
            let x = pool.input(0)?;
            let plain =
                pool.ints("kernel_shape")?.len() == 2 && pool.int_or("storage_order", 0) == 0;
            let fits = plain
                && types.get(x)?.element == Element::Float
                && types.shape(x) == types.shape(node.output(0)?);
            let mut gradient = Node::new(MAX_POOL_GRADIENT, [x, dy], [node.output(0)?]);
            gradient.domain = DOMAIN.into();
            gradient.name.clone_from(&node.name);
            gradient.attributes.clone_from(&pool.attributes);
            fits.then_some(gradient)
        };
        let reshapes = graph
            .nodes
            .iter()
            .enumerate()
            .filter(|(_, node)| node.is("Reshape"));
        reshapes
            .filter_map(|(index, node)| Some((index, scattered(node)?)))
            .collect()
    };
    if found.is_empty() {
        return Ok(graph);
    }
    graph.opset_imports.insert(DOMAIN.into(), 1);
    for (index, mut node) in found {
        for (masked, open) in masks(&graph, &types, &node).unwrap_or_default() {
            node.attributes.insert("gated".into(), 1.into());
            let masked = &mut graph.nodes[masked];
            *masked = Node::new("Identity", [open], std::mem::take(&mut masked.outputs));
        }
        graph.nodes[index] = node;
    }
    passes::prune(graph)
}

/// The nodes that mask a max-pool gradient as the Relus before the pool ask for, each with what it
/// masks; none where anything else reads the gradient.
fn masks(graph: &Graph, types: &Types, gradient: &Node) -> Option<Vec<(usize, String)>> {
    let (consumers, producers, pinned) = (graph.consumers(), graph.producers(), graph.pinned());
    let (x, dx) = (gradient.input(0)?, gradient.output(0)?);
    let masks_of = |value: &str, source: &str| -> Option<Vec<(usize, String)>> {
        let mask = |&reader: &usize| {
            let node = &graph.nodes[reader];
            let step = producers.get(node.inputs.iter().find(|input| *input != value)?.as_str())?;
            let masks = node.is("Mul") && stepped(&graph.nodes[*step]) == Some(source);
            masks.then(|| (reader, value.to_owned()))
        };
        let readers = consumers.get(value).filter(|_| !pinned.contains(value))?;
        readers.iter().map(mask).collect()
    };
    let joined = producers
        .get(x)
        .map(|&index| &graph.nodes[index])
        .filter(|n| n.is("Concat") && n.int("axis") == Some(1));
    let Some(joined) = joined else {
        return masks_of(dx, x);
    };
    let channels = |value: &str| types.shape(value)?.get(1)?.known();
    let mut parts = Vec::new();
    let mut start = 0;
    for source in &joined.inputs {
        let end = start + channels(source)?;
        parts.push((start..end, source));
        start = end;
    }
    let readers = consumers.get(dx).filter(|_| !pinned.contains(dx))?;
    let found = readers.iter().map(|&reader| {
        let slice = &graph.nodes[reader];
        let range = passes::channel_range(slice, dx, &graph.initializers, start)?;
        let (_, source) = parts.iter().find(|(part, _)| *part == range)?;
        masks_of(slice.output(0)?, source)
    });
    Some(found.collect::<Option<Vec<_>>>()?.concat())
}

/// A pooling window over the two spatial axes. Padding at the end follows from the shapes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    pub kernel: [usize; 2],
    pub strides: [usize; 2],
    pub dilations: [usize; 2],
    /// Padding before the first row and column; never chosen as a maximum.
    pub pads: [usize; 2],
    /// Maxima that are not above 0 pass nothing on: the gradient of a Relu before the pool is in
    /// it.
    pub gated: bool,
}

/// Windows of a row that are worked on together, as the compiler's vector operations do.
const LANES: usize = 16;

/// The gradient of a pooling of planes of one size.
pub struct Gradient<'a> {
    window: &'a Window,
    phases: Phases,
    width: usize,
    columns: usize,
    /// For each row of outputs, where in the dealt plane the taps of its first window read.
    taps: Vec<Vec<usize>>,
}

/// Memory for one plane after another.
pub struct Scratch {
    values: Vec<f32>,
    sums: Vec<f32>,
    passed: Vec<f32>,
}

impl<'a> Gradient<'a> {
    /// Planes of `[height, width]` pooled to `[rows, columns]`.
    pub fn new(
        window: &'a Window,
        [height, width]: [usize; 2],
        [rows, columns]: [usize; 2],
    ) -> Self {
        let phases = Phases::of(window, height, width, columns);
        let taps = (0..rows).map(|row| {
            let places = (0..window.kernel[0])
                .map(|tap| row * window.strides[0] + tap * window.dilations[0]);
            let lines = places
                .filter_map(|place| place.checked_sub(window.pads[0]))
                .filter(|line| *line < height);
            lines
                .flat_map(|line| phases.taps.iter().map(move |tap| line * phases.size + tap))
                .collect()
        });
        Self {
            taps: taps.collect(),
            window,
            phases,
            width,
            columns,
        }
    }

    pub fn scratch(&self) -> Scratch {
        let size = self.phases.lines * self.phases.size;
        // Padding is no number, which no maximum is equal to.
        let values = vec![f32::NAN; size];
        Scratch {
            values,
            sums: vec![0.0; size],
            passed: vec![0.0; self.columns.next_multiple_of(LANES)],
        }
    }

    /// Writes the cotangent `dx` of one plane's input. A tie goes to the first maximum in row-major
    /// order.
    pub fn run(
        &self,
        Scratch {
            values,
            sums,
            passed,
        }: &mut Scratch,
        x: &[f32],
        dy: &[f32],
        dx: &mut [f32],
    ) {
        self.phases.deal(x, self.width, values);
        sums.fill(0.0);
        let gated = self.window.gated;
        for (taps, cotangents) in self.taps.iter().zip(dy.chunks_exact(self.columns)) {
            passed[..self.columns].copy_from_slice(cotangents);
            for (passed, column) in passed
                .as_chunks::<LANES>()
                .0
                .iter()
                .zip((0..).step_by(LANES))
            {
                let mut best = [f32::NEG_INFINITY; LANES];
                for tap in taps {
                    let value = lanes(&values[tap + column..]);
                    best = from_fn(|i| {
                        if value[i] > best[i] {
                            value[i]
                        } else {
                            best[i]
                        }
                    });
                }
                let mut left: [u32; LANES] =
                    from_fn(|i| passed[i].to_bits() & mask(!gated | (best[i] > 0.0)));
                for tap in taps {
                    let value = lanes(&values[tap + column..]);
                    let chosen: [u32; LANES] = from_fn(|i| mask(value[i] == best[i]));
                    let more: [f32; LANES] = from_fn(|i| f32::from_bits(left[i] & chosen[i]));
                    left = from_fn(|i| left[i] & !chosen[i]);
                    sums[tap + column..][..LANES]
                        .iter_mut()
                        .zip(more)
                        .for_each(|(sum, more)| *sum += more);
                }
            }
        }
        self.phases.join(sums, self.width, dx);
    }
}

fn lanes(values: &[f32]) -> [f32; LANES] {
    let values = &values[..LANES];
    from_fn(|i| values[i])
}

/// The lines of a plane with their padding, each dealt into as many parts as windows are apart:
/// what one tap of a row of windows reads lies side by side, for whole lanes.
struct Phases {
    lines: usize,
    /// Of a line.
    size: usize,
    stride: usize,
    pad: usize,
    /// Where in a line each tap of a row of windows reads for the first of them.
    taps: Vec<usize>,
}

impl Phases {
    fn of(window: &Window, lines: usize, width: usize, columns: usize) -> Self {
        let (stride, pad) = (window.strides[1], window.pads[1]);
        let offsets = (0..window.kernel[1]).map(|tap| tap * window.dilations[1]);
        let reach = (columns.next_multiple_of(LANES) - 1) * stride
            + (window.kernel[1] - 1) * window.dilations[1]
            + 1;
        let size = reach.max(pad + width).next_multiple_of(stride);
        let mut phases = Self {
            lines,
            size,
            stride,
            pad,
            taps: Vec::new(),
        };
        phases.taps = offsets.map(|offset| phases.place(offset)).collect();
        phases
    }

    /// Where in a dealt line what stood at `at`, counted from the padding's first, is now.
    fn place(&self, at: usize) -> usize {
        at % self.stride * (self.size / self.stride) + at / self.stride
    }

    fn deal(&self, x: &[f32], width: usize, dealt: &mut [f32]) {
        for (line, dealt) in x.chunks_exact(width).zip(dealt.chunks_exact_mut(self.size)) {
            if self.stride != 2 {
                line.iter()
                    .enumerate()
                    .for_each(|(at, value)| dealt[self.place(self.pad + at)] = *value);
                continue;
            }
            // The same, in a form that is worked on several at a time.
            let (first, second) = dealt.split_at_mut(self.size / 2);
            let ([first, second], start) = self.in_turn([first, second]);
            let (pairs, last) = line.as_chunks::<2>();
            let slots = first[start[0]..].iter_mut().zip(&mut second[start[1]..]);
            slots
                .zip(pairs)
                .for_each(|((first, second), pair)| (*first, *second) = (pair[0], pair[1]));
            last.iter()
                .for_each(|last| first[start[0] + pairs.len()] = *last);
        }
    }

    /// The other way round, without the padding.
    fn join(&self, dealt: &[f32], width: usize, x: &mut [f32]) {
        for (line, dealt) in x.chunks_exact_mut(width).zip(dealt.chunks_exact(self.size)) {
            if self.stride != 2 {
                line.iter_mut()
                    .enumerate()
                    .for_each(|(at, value)| *value = dealt[self.place(self.pad + at)]);
                continue;
            }
            let (first, second) = dealt.split_at(self.size / 2);
            let ([first, second], start) = self.in_turn([first, second]);
            let (pairs, last) = line.as_chunks_mut::<2>();
            let slots = first[start[0]..].iter().zip(&second[start[1]..]);
            slots
                .zip(&mut *pairs)
                .for_each(|((first, second), pair)| *pair = [*first, *second]);
            last.iter_mut()
                .for_each(|last| *last = first[start[0] + pairs.len()]);
        }
    }

    /// Of two parts, the one that a line starts in, and the other; and where in each.
    fn in_turn<T>(&self, [even, odd]: [T; 2]) -> ([T; 2], [usize; 2]) {
        let half = self.pad / 2;
        if self.pad.is_multiple_of(2) {
            ([even, odd], [half, half])
        } else {
            ([odd, even], [half, half + 1])
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::{
        engine::{
            Provider,
            backend_ort::{OrtSession, Threads, load_runtime},
        },
        tensor::Tensor,
    };
    use onnx_autodiff::{
        autodiff::{
            derive,
            spec::{DeriveSpec, Head, PatternLayers, RuleSetId, SeedRule, Wrt},
        },
        onnx::{
            graph::{Dim, ValueInfo, ValueType},
            write_model,
        },
    };

    fn window(kernel: usize, stride: usize, dilation: usize, pad: usize) -> Window {
        Window {
            kernel: [kernel; 2],
            strides: [stride; 2],
            dilations: [dilation; 2],
            pads: [pad; 2],
            gated: false,
        }
    }

    /// `out = flatten(MaxPool(pooled))`, derived; `before` makes `pooled` of `x`, 2 channels of 7 x
    /// 6.
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
            ir_version: 8,
            opset_imports: [(String::new(), 17)].into(),
            inputs: vec![value("x", vec!["n".into(), 2.into(), 7.into(), 6.into()])],
            outputs: vec![value("out", vec!["n".into(), "classes".into()])],
            initializers: Default::default(),
            nodes: before
                .into_iter()
                .chain([pool, Node::new("Flatten", ["maxima"], ["out"])])
                .collect(),
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

    /// Holds the session with the kernel, and the fused graph, to the nodes that were derived.
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
        // Few different numbers: many ties.
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
            // One part of what is pooled is no Relu's.
            (
                two_relus(Node::new("Concat", ["a", "minus"], ["pooled"]).with("axis", 1)),
                1,
            ),
            // The Relu's mask is for the sum.
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

    impl Window {
        /// Where along `axis` the window of output `index` reads: first position, one past the
        /// last, step.
        pub fn span(&self, axis: usize, index: usize, size: usize) -> (usize, usize, usize) {
            let step = self.dilations[axis];
            let origin = index * self.strides[axis];
            let end = (origin + (self.kernel[axis] - 1) * step + 1)
                .saturating_sub(self.pads[axis])
                .min(size);
            // Taps that fall on the padding are skipped in whole steps.
            let skipped = self.pads[axis].saturating_sub(origin).div_ceil(step);
            (
                (origin + skipped * step).saturating_sub(self.pads[axis]),
                end,
                step,
            )
        }
    }

    fn gradient(
        w: &Window,
        x: &[f32],
        plane: [usize; 2],
        dy: &[f32],
        columns: usize,
        dx: &mut [f32],
    ) {
        let kernel = Gradient::new(w, plane, [dy.len() / columns, columns]);
        let mut scratch = kernel.scratch();
        // Memory that has served another plane serves this one.
        kernel.run(&mut scratch, &vec![9.0; x.len()], &vec![1.0; dy.len()], dx);
        kernel.run(&mut scratch, x, dy, dx);
    }

    /// Every window on its own, as the operator is defined.
    pub fn naive(
        w: &Window,
        x: &[f32],
        [height, width]: [usize; 2],
        dy: &[f32],
        columns: usize,
    ) -> Vec<f32> {
        let mut dx = vec![0.0; x.len()];
        for (index, cotangent) in dy.iter().enumerate() {
            let (top, bottom, down) = w.span(0, index / columns, height);
            let (left, right, across) = w.span(1, index % columns, width);
            let taps = (top..bottom)
                .step_by(down)
                .flat_map(|y| (left..right).step_by(across).map(move |x| y * width + x));
            let best = taps.reduce(|first, at| if x[at] > x[first] { at } else { first });
            if let Some(at) = best.filter(|&at| !w.gated || x[at] > 0.0) {
                dx[at] += cotangent;
            }
        }
        dx
    }

    /// A window, a plane with room for it and `extra` more, and what the plane is pooled to.
    pub fn placed(
        kernel: [usize; 2],
        strides: [usize; 2],
        dilations: [usize; 2],
        pads: [[usize; 2]; 2],
        extra: [usize; 2],
        gated: bool,
    ) -> (Window, [usize; 2], [usize; 2]) {
        let reach = |axis: usize| (kernel[axis] - 1) * dilations[axis] + 1;
        // ONNX keeps pads below the kernel.
        let [pads, end_pads] =
            pads.map(|pads| [0, 1].map(|axis: usize| pads[axis].min(kernel[axis] - 1)));
        let plane = [0, 1].map(|axis| reach(axis) + extra[axis]);
        let outputs = [0, 1].map(|axis| {
            (plane[axis] + pads[axis] + end_pads[axis] - reach(axis)) / strides[axis] + 1
        });
        (
            Window {
                kernel,
                strides,
                dilations,
                pads,
                gated,
            },
            plane,
            outputs,
        )
    }

    proptest::proptest! {
        #[test]
        fn windows_side_by_side_are_windows_one_by_one(
            kernel in [1_usize..4, 1_usize..4], strides in [1_usize..4, 1_usize..4], dilations in [1_usize..3, 1_usize..3],
            pads in [0_usize..3, 0_usize..3], end_pads in [0_usize..3, 0_usize..3], extra in [0_usize..6, 0_usize..6], levels in 1_u32..6, seed in 0_u32..1000, gated: bool,
        ) {
            let (w, plane, outputs) = placed(kernel, strides, dilations, [pads, end_pads], extra, gated);
            let drawn = |index: usize| (index as u32 + 1).wrapping_mul(2_654_435_761 ^ seed) >> 16;
            // Few levels: many ties; the lowest is negative infinity.
            let x: Vec<f32> = (0..plane[0] * plane[1])
                .map(|index| match drawn(index) % levels { 0 => f32::NEG_INFINITY, level => level as f32 - 3.0 })
                .collect();
            let dy: Vec<f32> = (0..outputs[0] * outputs[1]).map(|index| (index + 1) as f32).collect();
            let mut dx = vec![f32::NAN; x.len()];
            gradient(&w, &x, plane, &dy, outputs[1], &mut dx);
            proptest::prop_assert_eq!(dx, naive(&w, &x, plane, &dy, outputs[1]));
        }
    }

    #[test]
    fn overlapping_windows_add_up_at_a_shared_maximum() {
        let x = [0.0, 0.0, 0.0, 0.0, 9.0, 0.0, 0.0, 0.0, 0.0];
        let mut dx = [f32::NAN; 9];
        gradient(
            &window(2, 1, 1, 0),
            &x,
            [3, 3],
            &[1.0, 2.0, 4.0, 8.0],
            2,
            &mut dx,
        );
        assert_eq!(dx, [0.0, 0.0, 0.0, 0.0, 15.0, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn a_tie_goes_to_the_first_maximum() {
        let mut dx = [f32::NAN; 4];
        gradient(
            &window(2, 2, 1, 0),
            &[-1.0, 3.0, 3.0, 3.0],
            [2, 2],
            &[5.0],
            1,
            &mut dx,
        );
        assert_eq!(dx, [0.0, 5.0, 0.0, 0.0]);
    }

    #[test]
    fn padding_never_wins_over_negative_values() {
        let mut dx = [f32::NAN; 4];
        gradient(
            &window(3, 2, 1, 1),
            &[-4.0, -3.0, -2.0, -1.0],
            [2, 2],
            &[7.0],
            1,
            &mut dx,
        );
        assert_eq!(dx, [0.0, 0.0, 0.0, 7.0]);
    }

    #[test]
    fn dilated_taps_skip_the_padding_in_whole_steps() {
        // One axis of the window reads positions -1, 1, 3 of 5: the first lies on the padding.
        let w = Window {
            kernel: [1, 3],
            strides: [1, 1],
            dilations: [1, 2],
            pads: [0, 1],
            gated: false,
        };
        assert_eq!(w.span(1, 0, 5), (1, 4, 2));
        let mut dx = [f32::NAN; 5];
        gradient(&w, &[9.0, 1.0, 9.0, 2.0, 9.0], [1, 5], &[1.0], 1, &mut dx);
        assert_eq!(dx, [0.0, 0.0, 0.0, 1.0, 0.0]);
    }
}
