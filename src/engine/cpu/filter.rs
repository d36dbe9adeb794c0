//! The weight of a convolution in the layout that ONNX Runtime's convolutions over NCHWc read:
//! `[outputs / b, inputs / b, height, width, b inputs, b outputs]`, or
//! `[outputs / b, inputs, height, width, b outputs]` where the input is in planes. Channels are
//! filled up with zeros.

/// How a weight is laid out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Outputs, inputs, height and width of the result.
    pub shape: [usize; 4],
    pub block_size: usize,
    /// Whether the inputs are in blocks too.
    pub blocked: bool,
    /// Whether the weight is that of the convolution whose gradient this one computes: inputs and
    /// outputs swapped, taps in reverse.
    pub flipped: bool,
}

impl Filter {
    /// Numbers of an output block.
    pub(crate) fn block_len(&self) -> usize {
        self.block_size * self.shape[1] * self.taps()
    }

    fn taps(&self) -> usize {
        self.shape[2] * self.shape[3]
    }

    /// Writes an output block of `weight`, of whose two channel axes the sizes are given. It has at
    /// most the result's channels.
    pub(crate) fn pack(
        &self,
        weight: &[f32],
        [first, second]: [usize; 2],
        block: usize,
        to: &mut [f32],
    ) {
        let (inputs_to, taps, size) = (self.shape[1], self.taps(), self.block_size);
        let start = block * size;
        // Distances of neighbouring outputs, and of neighbouring inputs, in the weight.
        let (outputs, inputs, by_output, by_input) = if self.flipped {
            (second, first, taps, second * taps)
        } else {
            (first, second, second * taps, taps)
        };
        let lanes = size.min(outputs.saturating_sub(start));
        let group = if self.blocked { size } else { 1 };
        let mut cells = to.chunks_exact_mut(size);
        for first_input in (0..inputs_to).step_by(group) {
            for tap in 0..taps {
                let tap = if self.flipped { taps - 1 - tap } else { tap };
                let group = first_input..first_input + group;
                for (input, cell) in group.zip(&mut cells) {
                    let (filled, rest) = cell.split_at_mut(if input < inputs { lanes } else { 0 });
                    rest.fill(0.0);
                    let Some(from) = weight.get(start * by_output + input * by_input + tap..)
                    else {
                        continue;
                    };
                    let from = from.iter().step_by(by_output);
                    filled
                        .iter_mut()
                        .zip(from)
                        .for_each(|(to, from)| *to = *from);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_number_is_where_its_layout_has_it(
            outputs in 1..40_usize,
            inputs in 1..40_usize,
            taps in 1..10_usize,
            wide in any::<bool>(),
            blocked in any::<bool>(),
            flipped in any::<bool>(),
        ) {
            let size = if wide { 16 } else { 8 };
            let up = |channels: usize| channels.next_multiple_of(size);
            let filter = Filter {
                shape: [up(outputs), if blocked { up(inputs) } else { inputs }, 1, taps],
                block_size: size,
                blocked,
                flipped,
            };
            let weight: Vec<f32> = (1..=outputs * inputs * taps).map(|index| index as f32).collect();
            let given = if flipped { [inputs, outputs] } else { [outputs, inputs] };
            let mut packed = vec![f32::NAN; filter.shape.iter().product()];
            for (block, to) in packed.chunks_exact_mut(filter.block_len()).enumerate() {
                filter.pack(&weight, given, block, to);
            }
            let mut at = 0;
            for block in 0..filter.shape[0] / size {
                let group = if blocked { size } else { 1 };
                for input_block in 0..filter.shape[1] / group {
                    for tap in 0..taps {
                        for (i, o) in (0..group).flat_map(|i| (0..size).map(move |o| (i, o))) {
                            let (i, o) = (input_block * group + i, block * size + o);
                            let expected = if i >= inputs || o >= outputs {
                                0.0
                            } else if flipped {
                                weight[(i * outputs + o) * taps + taps - 1 - tap]
                            } else {
                                weight[(o * inputs + i) * taps + tap]
                            };
                            prop_assert_eq!(packed[at], expected);
                            at += 1;
                        }
                    }
                }
            }
        }
    }
}
