//! The gradient of 2-D max pooling over NCHWc: the channels of a block are contiguous, and each
//! window processes all of them together. Cost: dy, y and the taps of x are read once, dx is
//! written once.

use std::array::from_fn;

use super::{mask::mask, operators::PoolWindow};

/// The gradient of a pooling, for blocks of images of one size.
pub(crate) struct NchwcMaxPoolGradient<'a> {
    window: &'a PoolWindow,
    plane: [usize; 2],
    columns: usize,
    /// Offsets of a window's taps from its first tap, for windows without padding.
    inside: Vec<usize>,
    /// The output columns whose windows have no padding.
    whole: std::ops::Range<usize>,
}

impl<'a> NchwcMaxPoolGradient<'a> {
    /// For images of `[height, width]` pooled to rows of `columns`.
    pub(crate) fn new(window: &'a PoolWindow, plane: [usize; 2], columns: usize) -> Self {
        let taps =
            |axis: usize| (0..window.kernel[axis]).map(move |tap| tap * window.dilations[axis]);
        let inside = taps(0)
            .flat_map(|line| taps(1).map(move |column| line * plane[1] + column))
            .collect();
        let (stride, pad) = (window.strides[1], window.pads[1]);
        let reach = (window.kernel[1] - 1) * window.dilations[1] + 1;
        let end = (plane[1] + pad)
            .checked_sub(reach)
            .map_or(0, |last| (last / stride + 1).min(columns));
        Self {
            window,
            plane,
            columns,
            inside,
            whole: pad.div_ceil(stride)..end,
        }
    }

    /// The positions along an axis that the taps of window `index` read.
    fn places(&self, axis: usize, index: usize) -> impl Iterator<Item = usize> {
        let (window, size) = (self.window, self.plane[axis]);
        let taps = (0..window.kernel[axis])
            .map(move |tap| index * window.strides[axis] + tap * window.dilations[axis]);
        taps.filter_map(move |place| place.checked_sub(window.pads[axis]))
            .filter(move |place| *place < size)
    }

    /// Writes the cotangent `dx` of one block of the input `x`, whose maxima are `y`. A tie goes to
    /// the first maximum in row-major order.
    pub(crate) fn run<const BLOCK: usize>(&self, x: &[f32], y: &[f32], dy: &[f32], dx: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has the feature.
            return unsafe { self.run_avx2::<BLOCK>(x, y, dy, dx) };
        }
        self.run_by::<BLOCK>(x, y, dy, dx);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn run_avx2<const BLOCK: usize>(&self, x: &[f32], y: &[f32], dy: &[f32], dx: &mut [f32]) {
        self.run_by::<BLOCK>(x, y, dy, dx);
    }

    #[inline(always)]
    fn run_by<const BLOCK: usize>(&self, x: &[f32], y: &[f32], dy: &[f32], dx: &mut [f32]) {
        let ([x, y, dy], dx) = (
            [x, y, dy].map(|values| values.as_chunks::<BLOCK>().0),
            dx.as_chunks_mut().0,
        );
        let (mut cut, mut cleared) = (Vec::new(), 0);
        let lines = y
            .chunks_exact(self.columns)
            .zip(dy.chunks_exact(self.columns));
        for (row, (maxima, cotangents)) in lines.enumerate() {
            let lines: Vec<usize> = self
                .places(0, row)
                .map(|line| line * self.plane[1])
                .collect();
            // Cleared just before it is accumulated into, so that it is in the cache.
            let reached = lines
                .last()
                .map_or(0, |line| line + self.plane[1])
                .max(cleared);
            dx[cleared..reached].fill([0.0; BLOCK]);
            cleared = reached;
            for (column, (best, cotangent)) in maxima.iter().zip(cotangents).enumerate() {
                if lines.len() == self.window.kernel[0] && self.whole.contains(&column) {
                    let first = lines[0] + column * self.window.strides[1] - self.window.pads[1];
                    self.pass(&x[first..], best, cotangent, &mut dx[first..], &self.inside);
                } else {
                    cut.clear();
                    cut.extend(
                        lines
                            .iter()
                            .flat_map(|line| self.places(1, column).map(move |place| line + place)),
                    );
                    self.pass(x, best, cotangent, dx, &cut);
                }
            }
        }
        dx[cleared..].fill([0.0; BLOCK]);
    }

    /// Adds the gradient of one window.
    #[inline(always)]
    fn pass<const BLOCK: usize>(
        &self,
        x: &[[f32; BLOCK]],
        best: &[f32; BLOCK],
        cotangent: &[f32; BLOCK],
        dx: &mut [[f32; BLOCK]],
        taps: &[usize],
    ) {
        let mut left: [u32; BLOCK] =
            from_fn(|i| cotangent[i].to_bits() & mask(!self.window.gated | (best[i] > 0.0)));
        for &tap in taps {
            let (value, sum) = (x[tap], &mut dx[tap]);
            let chosen: [u32; BLOCK] = from_fn(|i| mask(value[i] == best[i]));
            *sum = from_fn(|i| sum[i] + f32::from_bits(left[i] & chosen[i]));
            left = from_fn(|i| left[i] & !chosen[i]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::cpu::max_pool::tests::{naive, placed};

    /// Compares blocks of that many channels with the kernel for planes; `drawn` gives the input.
    fn assert_as_planes<const BLOCK: usize>(
        window: &PoolWindow,
        plane: [usize; 2],
        outputs: [usize; 2],
        drawn: impl Fn(usize) -> f32,
    ) {
        let [pixels, places] = [plane, outputs].map(|[height, width]| height * width);
        let x: Vec<f32> = (0..pixels * BLOCK).map(drawn).collect();
        let dy: Vec<f32> = (0..places * BLOCK)
            .map(|index| (index + 1) as f32)
            .collect();
        let maximum = |place: usize, channel: usize| {
            let (top, bottom, down) = window.span(0, place / outputs[1], plane[0]);
            let (left, right, across) = window.span(1, place % outputs[1], plane[1]);
            let taps = (top..bottom).step_by(down).flat_map(|line| {
                (left..right)
                    .step_by(across)
                    .map(move |column| (line * plane[1] + column) * BLOCK + channel)
            });
            taps.map(|tap| x[tap]).fold(f32::NEG_INFINITY, f32::max)
        };
        let y: Vec<f32> = (0..places * BLOCK)
            .map(|index| maximum(index / BLOCK, index % BLOCK))
            .collect();
        let mut dx = vec![f32::NAN; x.len()];
        NchwcMaxPoolGradient::new(window, plane, outputs[1]).run::<BLOCK>(&x, &y, &dy, &mut dx);
        for channel in 0..BLOCK {
            let of = |values: &[f32]| {
                values[channel..]
                    .iter()
                    .step_by(BLOCK)
                    .copied()
                    .collect::<Vec<_>>()
            };
            assert_eq!(
                of(&dx),
                naive(window, &of(&x), plane, &of(&dy), outputs[1]),
                "channel {channel} of {BLOCK}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn channels_side_by_side_are_planes_one_by_one(
            kernel in [1_usize..4, 1_usize..4], strides in [1_usize..4, 1_usize..4], dilations in [1_usize..3, 1_usize..3],
            pads in [0_usize..3, 0_usize..3], end_pads in [0_usize..3, 0_usize..3], extra in [0_usize..6, 0_usize..6], levels in 1_u32..6, seed in 0_u32..1000, gated: bool,
        ) {
            let (window, plane, outputs) = placed(kernel, strides, dilations, [pads, end_pads], extra, gated);
            // Few distinct values give many ties.
            let drawn = |index: usize| ((index as u32 + 1).wrapping_mul(2_654_435_761 ^ seed) >> 16) % levels;
            assert_as_planes::<8>(&window, plane, outputs, |index| drawn(index) as f32 - 2.0);
            assert_as_planes::<16>(&window, plane, outputs, |index| drawn(index) as f32 - 2.0);
        }
    }
}
