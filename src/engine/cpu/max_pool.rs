//! The gradient of 2-D max pooling over NCHW, one channel (plane) at a time. Rows are split into
//! the phases of the stride (polyphase), so that one tap of neighbouring windows is contiguous.
//! Cost: dy is read once, x twice, dx is written once.

use std::array::from_fn;

use super::{mask::mask, operators::PoolWindow};

/// Windows of a row per iteration, for the compiler's vectoriser.
const LANES: usize = 16;

/// The gradient of a pooling, for planes of one size.
pub(crate) struct NchwMaxPoolGradient<'a> {
    window: &'a PoolWindow,
    phases: Phases,
    width: usize,
    columns: usize,
    /// For each row of outputs, the offsets in the split plane of the taps of its first window.
    taps: Vec<Vec<usize>>,
}

/// Buffers, reused for all planes of a thread.
pub(crate) struct Scratch {
    values: Vec<f32>,
    sums: Vec<f32>,
    passed: Vec<f32>,
}

impl<'a> NchwMaxPoolGradient<'a> {
    /// For planes of `[height, width]` pooled to `[rows, columns]`.
    pub(crate) fn new(
        window: &'a PoolWindow,
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

    pub(crate) fn scratch(&self) -> Scratch {
        let size = self.phases.lines * self.phases.size;
        // Padding is NaN, which equals no maximum.
        let values = vec![f32::NAN; size];
        Scratch {
            values,
            sums: vec![0.0; size],
            passed: vec![0.0; self.columns.next_multiple_of(LANES)],
        }
    }

    /// Writes the cotangent `dx` of one plane's input. A tie goes to the first maximum in row-major
    /// order.
    pub(crate) fn run(
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

/// The polyphase split of padded rows by the stride: each tap of a row of windows reads contiguous
/// elements, whole SIMD vectors.
struct Phases {
    lines: usize,
    /// Elements of a split row.
    size: usize,
    stride: usize,
    pad: usize,
    /// The offset in a split row of each tap of the first window.
    taps: Vec<usize>,
}

impl Phases {
    fn of(window: &PoolWindow, lines: usize, width: usize, columns: usize) -> Self {
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

    /// The offset in a split row of the element at `at` of the padded row.
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
            // The same for a stride of 2, in a form that the compiler vectorises.
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

    /// The inverse of the split, without the padding.
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

    /// For a stride of 2: the phase of a row's first element and the other phase, with the offset
    /// in each.
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
pub(crate) mod tests {
    use super::*;

    fn window(kernel: usize, stride: usize, dilation: usize, pad: usize) -> PoolWindow {
        PoolWindow {
            kernel: [kernel; 2],
            strides: [stride; 2],
            dilations: [dilation; 2],
            pads: [pad; 2],
            gated: false,
        }
    }

    impl PoolWindow {
        /// The positions that the window of output `index` reads along `axis`: first, one past the
        /// last, step.
        pub(crate) fn span(&self, axis: usize, index: usize, size: usize) -> (usize, usize, usize) {
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
        w: &PoolWindow,
        x: &[f32],
        plane: [usize; 2],
        dy: &[f32],
        columns: usize,
        dx: &mut [f32],
    ) {
        let kernel = NchwMaxPoolGradient::new(w, plane, [dy.len() / columns, columns]);
        let mut scratch = kernel.scratch();
        // Buffers may hold values of another plane.
        kernel.run(&mut scratch, &vec![9.0; x.len()], &vec![1.0; dy.len()], dx);
        kernel.run(&mut scratch, x, dy, dx);
    }

    /// The definition of the operator, window by window.
    pub(crate) fn naive(
        w: &PoolWindow,
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

    /// A window, the size of a plane that holds it and `extra` more, and the size of its output.
    pub(crate) fn placed(
        kernel: [usize; 2],
        strides: [usize; 2],
        dilations: [usize; 2],
        pads: [[usize; 2]; 2],
        extra: [usize; 2],
        gated: bool,
    ) -> (PoolWindow, [usize; 2], [usize; 2]) {
        let reach = |axis: usize| (kernel[axis] - 1) * dilations[axis] + 1;
        // ONNX keeps pads below the kernel.
        let [pads, end_pads] =
            pads.map(|pads| [0, 1].map(|axis: usize| pads[axis].min(kernel[axis] - 1)));
        let plane = [0, 1].map(|axis| reach(axis) + extra[axis]);
        let outputs = [0, 1].map(|axis| {
            (plane[axis] + pads[axis] + end_pads[axis] - reach(axis)) / strides[axis] + 1
        });
        (
            PoolWindow {
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
            // Few distinct values give many ties; the lowest is negative infinity.
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
        let w = PoolWindow {
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
