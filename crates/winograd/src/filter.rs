//! Weights of convolutions, transformed: G g Gᵀ for the taps g of every pair of channels.

use crate::{Convolution, Epilogue, POINTS, SIDE, Scratch};

/// Of Lavin and Gray, for the points 0, 1, -1, 2, -2 and infinity.
const G: [[f64; 3]; SIDE] = [
    [1.0 / 4.0, 0.0, 0.0],
    [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
    [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
    [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
    [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
    [0.0, 0.0, 1.0],
];

/// How a weight `[outputs, inputs, 3, 3]` is transformed, to
/// `[outputs / 2b, point, input, 2b outputs]`, with b outputs in the last panel if they are an odd
/// number of blocks. Channels are filled up with zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Channels of the result, in whole blocks.
    pub outputs: usize,
    pub inputs: usize,
    /// Channels of a block: 8 or 16.
    pub block_size: usize,
    /// Whether the weight is that of the convolution whose gradient this one computes: inputs and
    /// outputs swapped, taps in reverse.
    pub flipped: bool,
}

impl Filter {
    /// Transformed numbers of each pair of channels.
    pub const POINTS: usize = POINTS;

    /// Whether a weight of these channels, in the order of its axes, fits.
    pub fn takes(&self, sizes: [usize; 2]) -> bool {
        let [outputs, inputs] = self.channels(sizes);
        outputs <= self.outputs && inputs <= self.inputs
    }

    /// Outputs and inputs of a weight, of whose two channel axes the sizes are given.
    fn channels(&self, [first, second]: [usize; 2]) -> [usize; 2] {
        if self.flipped {
            [second, first]
        } else {
            [first, second]
        }
    }

    /// Numbers of the transformed weight.
    pub fn len(&self) -> usize {
        POINTS * self.outputs * self.inputs
    }

    /// Whether there are no channels.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Numbers of a panel, of which only the last may have fewer.
    pub fn panel_len(&self) -> usize {
        2 * self.block_size * self.inputs * POINTS
    }

    /// Transforms `weight`, of whose two channel axes the sizes are given. It has at most the
    /// result's channels.
    pub fn transform(&self, weight: &[f32], sizes: [usize; 2]) -> Vec<f32> {
        let mut transformed = vec![0.0; self.len()];
        let panels = transformed.chunks_mut(self.panel_len().max(1));
        panels
            .enumerate()
            .for_each(|(index, to)| self.pack(weight, sizes, index, to));
        transformed
    }

    /// The largest error of a convolution with the transformed weight, relative to its largest
    /// output: of some channels, over an image of drawn numbers of which half are 0, as behind a
    /// ReLU. Not a number if the weight is not finite.
    pub fn error(&self, transformed: &[f32], weight: &[f32], sizes: [usize; 2]) -> f64 {
        const PLANE: [usize; 2] = [8, 8];
        const CHANNELS: usize = 16;
        let [height, width] = PLANE;
        let pixels = height * width;
        let x: Vec<f32> = (0..self.inputs * pixels).map(drawn).collect();
        let mut y = vec![0.0; self.outputs * pixels];
        let convolution = Convolution {
            batch: 1,
            input: [self.inputs, height, width],
            output: [self.outputs, height, width],
            pads: [1, 1],
            block_size: self.block_size,
            x: &x,
            filter: transformed,
            epilogue: Epilogue::default(),
        };
        let mut scratch = Scratch::default();
        for mut task in convolution.tasks(&mut y) {
            convolution.run(&mut task, &mut scratch);
        }
        let place = |channel: usize, pixel: usize| {
            let size = self.block_size;
            (channel / size * pixels + pixel) * size + channel % size
        };
        let [outputs, inputs] = self.channels(sizes);
        let (mut largest, mut error) = (0.0_f64, 0.0_f64);
        for output in (0..outputs).step_by(outputs.div_ceil(CHANNELS).max(1)) {
            let mut sums = [0.0_f64; PLANE[0] * PLANE[1]];
            for input in 0..inputs {
                let taps = self.taps(weight, sizes, output, input);
                for (pixel, sum) in sums.iter_mut().enumerate() {
                    for (tap, factor) in taps.iter().enumerate() {
                        let y = (pixel / width + tap / 3).wrapping_sub(1);
                        let z = (pixel % width + tap % 3).wrapping_sub(1);
                        if y < height && z < width {
                            *sum += factor * f64::from(x[place(input, y * width + z)]);
                        }
                    }
                }
            }
            for (pixel, sum) in sums.iter().enumerate() {
                let gap = (sum - f64::from(y[place(output, pixel)])).abs();
                if gap.is_nan() {
                    return gap;
                }
                (largest, error) = (largest.max(sum.abs()), error.max(gap));
            }
        }
        if error > 0.0 { error / largest } else { 0.0 }
    }

    /// Where the taps of a pair of channels are in a weight.
    fn place(&self, [_, second]: [usize; 2], output: usize, input: usize) -> usize {
        let [first, other] = if self.flipped {
            [input, output]
        } else {
            [output, input]
        };
        (first * second + other) * 9
    }

    fn taps(&self, weight: &[f32], sizes: [usize; 2], output: usize, input: usize) -> [f64; 9] {
        let from = &weight[self.place(sizes, output, input)..][..9];
        std::array::from_fn(|tap| f64::from(from[if self.flipped { 8 - tap } else { tap }]))
    }

    /// Writes panel `index`, as [`Self::transform`] does.
    pub fn pack(&self, weight: &[f32], sizes: [usize; 2], index: usize, to: &mut [f32]) {
        match self.block_size {
            16 => self.pack_blocks::<16>(weight, sizes, index, to),
            _ => self.pack_blocks::<8>(weight, sizes, index, to),
        }
    }

    fn pack_blocks<const L: usize>(
        &self,
        weight: &[f32],
        sizes: [usize; 2],
        index: usize,
        to: &mut [f32],
    ) {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has the features.
            return unsafe { self.pack_avx2::<L>(weight, sizes, index, to) };
        }
        self.pack_by::<L>(weight, sizes, index, to);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn pack_avx2<const L: usize>(
        &self,
        weight: &[f32],
        sizes: [usize; 2],
        index: usize,
        to: &mut [f32],
    ) {
        self.pack_by::<L>(weight, sizes, index, to);
    }

    #[inline(always)]
    fn pack_by<const L: usize>(
        &self,
        weight: &[f32],
        sizes: [usize; 2],
        index: usize,
        to: &mut [f32],
    ) {
        let [outputs, inputs] = self.channels(sizes);
        let to = to.as_chunks_mut::<L>().0;
        let wide = to.len() / (POINTS * self.inputs);
        for block in 0..wide {
            let start = (index * 2 + block) * L;
            let lanes = L.min(outputs.saturating_sub(start));
            for input in 0..self.inputs {
                let mut taps = [[0.0; L]; 9];
                for lane in 0..if input < inputs { lanes } else { 0 } {
                    let found = self.taps(weight, sizes, start + lane, input);
                    for (taps, number) in taps.iter_mut().zip(found) {
                        taps[lane] = number;
                    }
                }
                let mut lines = [[[0.0; L]; 3]; SIDE];
                for (line, factors) in lines.iter_mut().zip(&G) {
                    for (row, factor) in taps.chunks_exact(3).zip(factors) {
                        for (sums, taps) in line.iter_mut().zip(row) {
                            add_scaled(sums, taps, *factor);
                        }
                    }
                }
                for (row, line) in lines.iter().enumerate() {
                    for (column, factors) in G.iter().enumerate() {
                        let mut sums = [0.0; L];
                        for (taps, factor) in line.iter().zip(factors) {
                            add_scaled(&mut sums, taps, *factor);
                        }
                        let place = (row * SIDE + column) * self.inputs + input;
                        to[place * wide + block] = sums.map(|sum| sum as f32);
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn add_scaled<const L: usize>(sums: &mut [f64; L], numbers: &[f64; L], factor: f64) {
    sums.iter_mut()
        .zip(numbers)
        .for_each(|(sum, number)| *sum += number * factor);
}

/// A number from 0 to 1; half of them are 0.
fn drawn(index: usize) -> f32 {
    let mixed = (index as u32 + 1).wrapping_mul(2_654_435_761) ^ 0x5bd1_e995;
    let mixed = (mixed ^ (mixed >> 15)).wrapping_mul(0x2c1b_3c6d);
    (((mixed >> 16) as f32) / 32_768.0 - 1.0).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_drawn_weights_is_small_and_that_of_no_numbers_is_none() {
        let filter = Filter {
            outputs: 16,
            inputs: 16,
            block_size: 8,
            flipped: false,
        };
        let mut weight: Vec<f32> = (0..16 * 16 * 9).map(|index| drawn(index) - 0.25).collect();
        let error = |weight: &[f32]| {
            let transformed = filter.transform(weight, [16, 16]);
            filter.error(&transformed, weight, [16, 16])
        };
        let usual = error(&weight);
        assert!(usual > 1e-8 && usual < 3e-6, "{usual:e}");
        weight[0] = f32::NAN;
        assert!(error(&weight).is_nan());
        assert_eq!(error(&[0.0; 16 * 16 * 9]), 0.0);
    }
}
