//! The gradient of a convolution's input for strides above 1, over NCHWc:
//! dx[i, q] = Σ w[o, i, k] dy[o, p] over p·stride + k·dilation - pad = q. Positions whose distance
//! is the stride have the same taps: some of them are summed at a time, in registers.

use std::array::from_fn;

use super::weight_gradient::Convolution;

/// The gradient over channels in blocks of `B`: 16 with AVX-512, 8 with AVX2.
pub(crate) struct InputGradient<'a, const B: usize> {
    convolution: &'a Convolution,
    /// `[input blocks, output blocks, taps in reverse, outputs, inputs]`: see [`super::filter`].
    filter: &'a [f32],
    axes: [Axis; 2],
}

/// What reaches the positions of x along an axis.
struct Axis {
    /// For each remainder of a position by the stride.
    phases: Vec<Phase>,
    /// Windows before the first and behind the last that some taps would reach.
    margin: [usize; 2],
    /// Windows, with their margin.
    size: usize,
}

/// The positions of one remainder by the stride.
struct Phase {
    count: usize,
    /// Taps, with the window that the first position gets from them, the margin included.
    taps: Vec<(usize, usize)>,
}

/// Neighbouring sums, of all input channels of a block.
struct Run<'r> {
    filter: &'r [f32],
    dy: &'r [f32],
    /// For each tap, its offset in the filter, and that of the first position in dy.
    taps: &'r [[usize; 2]],
    output_blocks: usize,
    /// Distances of output blocks in the filter and in dy.
    steps: [usize; 2],
    /// Distance of rows in dy.
    row: usize,
}

impl<'a, const B: usize> InputGradient<'a, B> {
    /// `filter` and the gradient are of channels in whole blocks.
    pub(crate) fn new(convolution: &'a Convolution, filter: &'a [f32]) -> Self {
        let axes = from_fn(|axis| Axis::of(convolution, axis));
        Self {
            convolution,
            filter,
            axes,
        }
    }

    /// Numbers of a block of dy, of dy with its margin, and of dx.
    pub(crate) fn block_lens(&self) -> [usize; 3] {
        let [_, rows, columns] = self.convolution.output;
        let [_, height, width] = self.convolution.input;
        let [y, x] = &self.axes;
        [[rows, columns], [y.size, x.size], [height, width]].map(|[a, b]| a * b * B)
    }

    /// Copies a block of dy into zeros.
    pub(crate) fn frame(&self, dy: &[f32], framed: &mut [f32]) {
        let columns = self.convolution.output[2] * B;
        let [y, x] = &self.axes;
        let lines = framed.chunks_exact_mut(x.size * B).skip(y.margin[0]);
        for (dy, framed) in dy.chunks_exact(columns).zip(lines) {
            framed[x.margin[0] * B..][..columns].copy_from_slice(dy);
        }
    }

    /// Writes block `index` of dx, counted over all samples; `dy` are the framed blocks of all.
    pub(crate) fn run(&self, dy: &[f32], index: usize, dx: &mut [f32]) {
        let Convolution {
            input: [channels, _, width],
            output: [outputs, ..],
            kernel,
            strides,
            ..
        } = *self.convolution;
        let (blocks, output_blocks) = (channels.div_ceil(B), outputs.div_ceil(B));
        let (sample, block) = (index / blocks, index % blocks);
        let all_taps = kernel[0] * kernel[1];
        let steps = [all_taps * B * B, self.block_lens()[1]];
        let filter = &self.filter[block * output_blocks * steps[0]..];
        let dy = &dy[sample * output_blocks * steps[1]..];
        let [rows, columns] = &self.axes;
        let mut taps = Vec::new();
        for (y, row_phase) in rows.phases.iter().enumerate() {
            for (x, phase) in columns.phases.iter().enumerate() {
                let mut row = 0;
                while row < row_phase.count {
                    let pair = row_phase.count - row >= 2;
                    let mut column = 0;
                    while column < phase.count {
                        taps.clear();
                        for (ky, oy) in &row_phase.taps {
                            taps.extend(phase.taps.iter().map(|(kx, ox)| {
                                let tap = all_taps - 1 - (ky * kernel[1] + kx);
                                let at = (oy + row) * columns.size + ox + column;
                                [tap * B * B, at * B]
                            }));
                        }
                        let run = Run {
                            filter,
                            dy,
                            taps: &taps,
                            output_blocks,
                            steps,
                            row: columns.size * B,
                        };
                        let at = (y + row * strides[0]) * width + x + column * strides[1];
                        let to = &mut dx[at * B..];
                        let by = [strides[0] * width * B, strides[1] * B];
                        column += match (phase.count - column, pair) {
                            (14.., false) if B == 16 => run.write::<B, 1, 14>(to, by),
                            (7.., true) if B == 16 => run.write::<B, 2, 7>(to, by),
                            (7.., false) => run.write::<B, 1, 7>(to, by),
                            (4.., true) => run.write::<B, 2, 4>(to, by),
                            (4.., false) => run.write::<B, 1, 4>(to, by),
                            (2.., true) => run.write::<B, 2, 2>(to, by),
                            (2.., false) => run.write::<B, 1, 2>(to, by),
                            (_, true) => run.write::<B, 2, 1>(to, by),
                            (_, false) => run.write::<B, 1, 1>(to, by),
                        };
                    }
                    row += if pair { 2 } else { 1 };
                }
            }
        }
    }
}

impl Axis {
    fn of(convolution: &Convolution, axis: usize) -> Self {
        let Convolution {
            input,
            output,
            kernel,
            strides,
            dilations,
            pads,
            ..
        } = convolution;
        let (stride, size, windows) = (strides[axis], input[axis + 1], output[axis + 1]);
        let starts = |phase: usize| {
            (0..kernel[axis]).filter_map(move |tap| {
                let distance = (phase + pads[axis]) as isize - (tap * dilations[axis]) as isize;
                let window = distance.div_euclid(stride as isize);
                (distance.rem_euclid(stride as isize) == 0).then_some((tap, window))
            })
        };
        let (mut first, mut last) = (0, windows as isize - 1);
        let count = |phase: usize| (size - phase).div_ceil(stride);
        for phase in 0..stride.min(size) {
            for (_, window) in starts(phase) {
                first = first.min(window);
                last = last.max(window + count(phase) as isize - 1);
            }
        }
        let before = first.unsigned_abs();
        let behind = (last + 1) as usize - windows;
        let phases = (0..stride.min(size)).map(|phase| Phase {
            count: count(phase),
            taps: starts(phase)
                .map(|(tap, window)| (tap, (window - first) as usize))
                .collect(),
        });
        Self {
            phases: phases.collect(),
            margin: [before, behind],
            size: before + windows + behind,
        }
    }
}

impl Run<'_> {
    /// Writes the sums of `R` rows and `C` columns, whose distances in `to` are `by`; returns `C`.
    fn write<const B: usize, const R: usize, const C: usize>(
        &self,
        to: &mut [f32],
        by: [usize; 2],
    ) -> usize {
        let sums = self.sums::<B, R, C>();
        for (row, sums) in sums.iter().enumerate() {
            for (column, sum) in sums.iter().enumerate() {
                to[row * by[0] + column * by[1]..][..B].copy_from_slice(sum);
            }
        }
        C
    }

    fn sums<const B: usize, const R: usize, const C: usize>(&self) -> [[[f32; B]; C]; R] {
        #[cfg(target_arch = "x86_64")]
        {
            if B == 16 && is_x86_feature_detected!("avx512f") {
                let mut sums = [[[0.0; B]; C]; R];
                let to = sums.as_flattened_mut().as_flattened_mut();
                // SAFETY: the processor has the feature.
                unsafe { self.sums_avx512::<R, C>(to) }
                return sums;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                // SAFETY: the processor has the features.
                return unsafe { self.sums_avx2() };
            }
        }
        self.sums_by(|w, dy, sum| w * dy + sum)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn sums_avx2<const B: usize, const R: usize, const C: usize>(&self) -> [[[f32; B]; C]; R] {
        self.sums_by(f32::mul_add)
    }

    #[inline(always)]
    fn sums_by<const B: usize, const R: usize, const C: usize>(
        &self,
        multiply_add: impl Fn(f32, f32, f32) -> f32,
    ) -> [[[f32; B]; C]; R] {
        let mut sums = [[[0.0; B]; C]; R];
        for block in 0..self.output_blocks {
            for [tap, at] in self.taps {
                let weights = &self.filter[block * self.steps[0] + tap..][..B * B];
                let dy: [&[f32]; R] =
                    from_fn(|row| &self.dy[block * self.steps[1] + at + row * self.row..][..C * B]);
                for (output, weights) in weights.chunks_exact(B).enumerate() {
                    for (sums, dy) in sums.iter_mut().zip(&dy) {
                        for (sums, dy) in sums.iter_mut().zip(dy.chunks_exact(B)) {
                            for (sum, weight) in sums.iter_mut().zip(weights) {
                                *sum = multiply_add(*weight, dy[output], *sum);
                            }
                        }
                    }
                }
            }
        }
        sums
    }

    /// With intrinsics: the compiler would keep the sums of blocks of 16 in memory.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    fn sums_avx512<const R: usize, const C: usize>(&self, to: &mut [f32]) {
        use std::arch::x86_64::{
            _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
        };
        let mut sums = [[_mm512_setzero_ps(); C]; R];
        for block in 0..self.output_blocks {
            for [tap, at] in self.taps {
                let weights = &self.filter[block * self.steps[0] + tap..][..256];
                let dy: [Option<&[[f32; 16]; C]>; R] = from_fn(|row| {
                    let start = block * self.steps[1] + at + row * self.row;
                    self.dy[start..].as_chunks::<16>().0.first_chunk()
                });
                for (output, weights) in weights.as_chunks::<16>().0.iter().enumerate() {
                    // SAFETY: there are 16 weights.
                    let weights = unsafe { _mm512_loadu_ps(weights.as_ptr()) };
                    for (sums, dy) in sums.iter_mut().zip(&dy) {
                        let Some(dy) = dy else { return };
                        for (sum, dy) in sums.iter_mut().zip(dy.iter()) {
                            let dy = _mm512_set1_ps(dy[output]);
                            *sum = _mm512_fmadd_ps(dy, weights, *sum);
                        }
                    }
                }
            }
        }
        let to = to.as_chunks_mut::<16>().0.iter_mut();
        for (to, sum) in to.zip(sums.as_flattened()) {
            // SAFETY: `to` points to 16 numbers.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), *sum) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::cpu::{
        filter::Filter,
        weight_gradient::tests::{blocked, drawn},
    };
    use proptest::prelude::*;

    /// By the definition, in f64: `[batch, channels, height, width]`.
    fn naive(c: &Convolution, weight: &[f32], dy: &[f32]) -> Vec<f64> {
        let ([ic, ih, iw], [oc, oh, ow], [kh, kw]) = (c.input, c.output, c.kernel);
        let mut dx = vec![0.0; c.batch * ic * ih * iw];
        for n in 0..c.batch {
            for (o, at) in (0..oc).flat_map(|o| (0..oh * ow).map(move |at| (o, at))) {
                let dy = f64::from(dy[(n * oc + o) * oh * ow + at]);
                for row in 0..ic * kh * kw {
                    let (i, ky, kx) = (row / (kh * kw), row / kw % kh, row % kw);
                    let y = (at / ow * c.strides[0] + ky * c.dilations[0]).wrapping_sub(c.pads[0]);
                    let x = (at % ow * c.strides[1] + kx * c.dilations[1]).wrapping_sub(c.pads[1]);
                    if y < ih && x < iw {
                        dx[((n * ic + i) * ih + y) * iw + x] +=
                            dy * f64::from(weight[o * ic * kh * kw + row]);
                    }
                }
            }
        }
        dx
    }

    fn check<const B: usize>(c: &Convolution, weight: &[f32], dy: &[f32]) {
        let ([ic, ih, iw], oc) = (c.input, c.output[0]);
        let filter = Filter {
            shape: [
                ic.next_multiple_of(B),
                oc.next_multiple_of(B),
                c.kernel[0],
                c.kernel[1],
            ],
            block_size: B,
            blocked: true,
            flipped: true,
        };
        let mut packed = vec![0.0; filter.shape.iter().product()];
        for (block, to) in packed.chunks_exact_mut(filter.block_len()).enumerate() {
            filter.pack(weight, [oc, ic], block, to);
        }
        let dy_blocks = blocked::<B>(dy, c.batch, c.output);
        let gradient = InputGradient::<B>::new(c, &packed);
        let [len, framed_len, dx_len] = gradient.block_lens();
        let mut framed = vec![0.0; c.batch * oc.div_ceil(B) * framed_len];
        for (dy, framed) in dy_blocks
            .chunks_exact(len)
            .zip(framed.chunks_exact_mut(framed_len))
        {
            gradient.frame(dy, framed);
        }
        let mut found = vec![f32::NAN; c.batch * ic.div_ceil(B) * dx_len];
        for (index, dx) in found.chunks_exact_mut(dx_len).enumerate() {
            gradient.run(&framed, index, dx);
        }
        let expected: Vec<f32> = naive(c, weight, dy)
            .iter()
            .map(|value| *value as f32)
            .collect();
        let expected = blocked::<B>(&expected, c.batch, [ic, ih, iw]);
        for (found, expected) in found.iter().zip(&expected) {
            assert!(
                (found - expected).abs() <= 1e-4 * expected.abs().max(1.0),
                "{found}, {expected}"
            );
        }
    }

    proptest! {
        #[test]
        fn gradients_equal_their_definition(
            batch in 1..3_usize,
            channels in [1..40_usize, 1..40_usize],
            kernel in [1..5_usize, 1..4_usize],
            strides in [1..4_usize, 1..4_usize],
            dilations in [1..3_usize, 1..3_usize],
            pads in [0..3_usize, 0..3_usize],
            places in [1..9_usize, 1..34_usize],
            cut in [0..3_usize, 0..3_usize],
            seed in 0..1000_usize,
        ) {
            let size = |axis: usize| {
                let end = (places[axis] - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1;
                (end + cut[axis]).saturating_sub(pads[axis]).max(1)
            };
            let c = Convolution {
                batch,
                input: [channels[0], size(0), size(1)],
                output: [channels[1], places[0], places[1]],
                kernel,
                strides,
                dilations,
                pads,
            };
            let weight = drawn(seed, channels[0] * channels[1] * kernel[0] * kernel[1]);
            let dy = drawn(seed + 1, batch * c.output.iter().product::<usize>());
            check::<8>(&c, &weight, &dy);
            check::<16>(&c, &weight, &dy);
        }
    }
}
