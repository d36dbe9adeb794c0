//! The gradient of a convolution's input for strides above 1, over NCHWc:
//! dx[i, q] = Σ w[o, i, k] dy[o, p] over p·stride + k·dilation - pad = q. Positions whose distance
//! is the stride have the same taps: a run of them is summed in registers.

use super::weight_gradient::Convolution;

/// Taps along an axis that reach one position of x: the tap, and the window of dy that it is in.
type Tap = (usize, usize);

/// The gradient over channels in blocks of `B`.
pub(crate) struct InputGradient<'a, const B: usize> {
    convolution: &'a Convolution,
    /// `[input blocks, output blocks, taps in reverse, outputs, inputs]`: see [`super::filter`].
    filter: &'a [f32],
    dy: &'a [f32],
    /// For each row of x.
    rows: Vec<Vec<Tap>>,
    /// Columns of x whose windows are those of the first, moved on with them: the first, how many,
    /// and the first one's taps.
    columns: Vec<(usize, usize, Vec<Tap>)>,
}

/// Neighbouring sums, of all input channels of a block, and where they are read from.
struct Run<'a> {
    /// Offsets in the filter and in dy of the first output channel.
    taps: &'a [[usize; 2]],
    output_blocks: usize,
    /// Distances of output blocks in the filter and in dy.
    steps: [usize; 2],
}

impl<'a, const B: usize> InputGradient<'a, B> {
    /// `dy` and the gradient are NCHWc, with channels in whole blocks.
    pub(crate) fn new(convolution: &'a Convolution, filter: &'a [f32], dy: &'a [f32]) -> Self {
        let [_, height, width] = convolution.input;
        let taps = |axis: usize, size: usize| -> Vec<Vec<Tap>> {
            (0..size).map(|at| taps(convolution, axis, at)).collect()
        };
        let (all, stride) = (taps(1, width), convolution.strides[1]);
        let mut columns = Vec::new();
        for phase in 0..stride.min(width) {
            let mut first = phase;
            while first < width {
                let alike = |(by, x): &(usize, usize)| {
                    let moved = all[first].iter().map(|(tap, window)| (*tap, window + by));
                    all[*x].iter().copied().eq(moved)
                };
                let after = (first..width).step_by(stride).enumerate();
                let count = after.take_while(alike).count();
                columns.push((first, count, all[first].clone()));
                first += count * stride;
            }
        }
        Self {
            convolution,
            filter,
            dy,
            rows: taps(0, height),
            columns,
        }
    }

    /// Numbers of a block of a sample's gradient.
    pub(crate) fn block_len(&self) -> usize {
        let [_, height, width] = self.convolution.input;
        height * width * B
    }

    /// Writes block `index`, counted over all samples.
    pub(crate) fn run(&self, index: usize, dx: &mut [f32]) {
        let Convolution {
            input: [channels, _, width],
            output: [outputs, rows, columns],
            kernel,
            strides,
            ..
        } = *self.convolution;
        let (blocks, output_blocks) = (channels.div_ceil(B), outputs.div_ceil(B));
        let (sample, block) = (index / blocks, index % blocks);
        let all_taps = kernel[0] * kernel[1];
        let filter_block = output_blocks * all_taps * B * B;
        let filter = &self.filter[block * filter_block..][..filter_block];
        let dy_sample = output_blocks * rows * columns * B;
        let dy = &self.dy[sample * dy_sample..][..dy_sample];
        let mut taps = Vec::new();
        for (line, rows_of) in dx.chunks_exact_mut(width * B).zip(&self.rows) {
            for (first, count, columns_of) in &self.columns {
                taps.clear();
                for (ky, oy) in rows_of {
                    taps.extend(columns_of.iter().map(|(kx, ox)| {
                        let tap = all_taps - 1 - (ky * kernel[1] + kx);
                        [tap * B * B, (oy * columns + ox) * B]
                    }));
                }
                let run = Run {
                    taps: &taps,
                    output_blocks,
                    steps: [all_taps * B * B, rows * columns * B],
                };
                let mut to: Vec<_> = line[first * B..]
                    .chunks_mut(strides[1] * B)
                    .map(|to| &mut to[..B])
                    .take(*count)
                    .collect();
                sum::<B>(&run, filter, dy, &mut to);
            }
        }
    }
}

/// The taps along an axis that reach `position` of x.
fn taps(convolution: &Convolution, axis: usize, position: usize) -> Vec<Tap> {
    let Convolution {
        output,
        kernel,
        strides,
        dilations,
        pads,
        ..
    } = convolution;
    let window = |tap: usize| {
        let start = (position + pads[axis]).checked_sub(tap * dilations[axis])?;
        let window = start / strides[axis];
        (start.is_multiple_of(strides[axis]) && window < output[axis + 1]).then_some((tap, window))
    };
    (0..kernel[axis]).filter_map(window).collect()
}

/// Writes the sums of a run by the widest instructions that the processor has.
fn sum<const B: usize>(run: &Run, filter: &[f32], dy: &[f32], to: &mut [&mut [f32]]) {
    let mut done = 0;
    while done < to.len() {
        let left = &mut to[done..];
        done += match left.len() {
            14.. if B == 16 => piece::<B, 14>(run, filter, dy, done, left),
            7.. => piece::<B, 7>(run, filter, dy, done, left),
            4.. => piece::<B, 4>(run, filter, dy, done, left),
            2.. => piece::<B, 2>(run, filter, dy, done, left),
            _ => piece::<B, 1>(run, filter, dy, done, left),
        };
    }
}

/// Writes `N` neighbouring sums, the first of them `start` positions from the run's; returns `N`.
fn piece<const B: usize, const N: usize>(
    run: &Run,
    filter: &[f32],
    dy: &[f32],
    start: usize,
    to: &mut [&mut [f32]],
) -> usize {
    let sums = sums::<B, N>(run, filter, dy, start * B);
    for (to, sum) in to.iter_mut().zip(sums) {
        to.iter_mut().zip(sum).for_each(|(to, sum)| *to = sum);
    }
    N
}

fn sums<const B: usize, const N: usize>(
    run: &Run,
    filter: &[f32],
    dy: &[f32],
    start: usize,
) -> [[f32; B]; N] {
    #[cfg(target_arch = "x86_64")]
    {
        if B == 16 && is_x86_feature_detected!("avx512f") {
            let mut sums = [[0.0; B]; N];
            // SAFETY: the processor has the feature.
            unsafe {
                sums_avx512::<N>(
                    run,
                    filter,
                    dy,
                    start,
                    sums.as_flattened_mut().as_chunks_mut().0,
                )
            }
            return sums;
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has the features.
            return unsafe { sums_avx2(run, filter, dy, start) };
        }
    }
    sums_by(run, filter, dy, start, |w, dy, sum| w * dy + sum)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn sums_avx2<const B: usize, const N: usize>(
    run: &Run,
    filter: &[f32],
    dy: &[f32],
    start: usize,
) -> [[f32; B]; N] {
    sums_by(run, filter, dy, start, f32::mul_add)
}

#[inline(always)]
fn sums_by<const B: usize, const N: usize>(
    run: &Run,
    filter: &[f32],
    dy: &[f32],
    start: usize,
    multiply_add: impl Fn(f32, f32, f32) -> f32,
) -> [[f32; B]; N] {
    let mut sums = [[0.0; B]; N];
    for block in 0..run.output_blocks {
        for [tap, at] in run.taps {
            let weights = filter[block * run.steps[0] + tap..][..B * B]
                .as_chunks::<B>()
                .0;
            let dy = dy[block * run.steps[1] + at + start..][..N * B]
                .as_chunks::<B>()
                .0;
            for (output, weights) in weights.iter().enumerate() {
                for (sums, dy) in sums.iter_mut().zip(dy) {
                    for (sum, weight) in sums.iter_mut().zip(weights) {
                        *sum = multiply_add(*weight, dy[output], *sum);
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
fn sums_avx512<const N: usize>(
    run: &Run,
    filter: &[f32],
    dy: &[f32],
    start: usize,
    to: &mut [[f32; 16]],
) {
    use std::arch::x86_64::{
        _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    };
    let mut sums = [_mm512_setzero_ps(); N];
    for block in 0..run.output_blocks {
        for [tap, at] in run.taps {
            let weights = filter[block * run.steps[0] + tap..][..256]
                .as_chunks::<16>()
                .0;
            let dy = dy[block * run.steps[1] + at + start..].as_chunks::<16>().0;
            let Some(dy) = dy.first_chunk::<N>() else {
                return;
            };
            for (output, weights) in weights.iter().enumerate() {
                // SAFETY: there are 16 weights.
                let weights = unsafe { _mm512_loadu_ps(weights.as_ptr()) };
                for (sum, dy) in sums.iter_mut().zip(dy) {
                    *sum = _mm512_fmadd_ps(_mm512_set1_ps(dy[output]), weights, *sum);
                }
            }
        }
    }
    for (to, sum) in to.iter_mut().zip(sums) {
        // SAFETY: 16 numbers.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), sum) };
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
        let gradient = InputGradient::<B>::new(c, &packed, &dy_blocks);
        let blocks = c.batch * ic.div_ceil(B);
        let mut found = vec![f32::NAN; blocks * gradient.block_len()];
        for (index, dx) in found.chunks_exact_mut(gradient.block_len()).enumerate() {
            gradient.run(index, dx);
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
