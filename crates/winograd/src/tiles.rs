//! A convolution as a grid of tiles.

use std::ops::Range;

use crate::{OUTPUTS, POINTS, SIDE, lanes::Lanes};

/// Transformed numbers of a task, about; with the weights they pass by they stay in the
/// second-level cache.
const TASK_NUMBERS: usize = 250_000;
/// A task has at least so many tiles where there are as many: fewer would pass by the weights more
/// often than they gain.
const LEAST_TILES: usize = 48;
/// As many tasks are made where they get the tiles and channels below.
const TASKS: usize = 8;
const LEAST_SPLIT_TILES: usize = 24;
const LEAST_SPLIT_CHANNELS: usize = 64;
/// Numbers between points, so that they do not fall on the same lines of the first-level cache.
const GAP: usize = 16;

/// A convolution of 3 x 3 taps and stride 1 over NCHWc.
#[derive(Clone, Copy)]
pub struct Convolution<'a> {
    pub batch: usize,
    /// Channels, in whole blocks, height and width.
    pub input: [usize; 3],
    pub output: [usize; 3],
    /// Rows and columns of padding before the first. After the last there are as many as the output
    /// needs.
    pub pads: [usize; 2],
    /// Channels of a block: 8 or 16.
    pub block_size: usize,
    pub x: &'a [f32],
    /// As [`crate::Filter`] writes it.
    pub filter: &'a [f32],
    pub epilogue: Epilogue<'a>,
}

/// What becomes of the sums, in this order.
#[derive(Clone, Copy, Default)]
pub struct Epilogue<'a> {
    /// Added, one number to each channel.
    pub bias: Option<&'a [f32]>,
    /// Added, number by number.
    pub sum: Option<&'a [f32]>,
    pub relu: bool,
    /// Outputs become 0 where these are not above 0: the gradient of a ReLU with these outputs.
    pub gate: Option<&'a [f32]>,
}

/// Rows of tiles, counted over all images, and blocks of output channels.
pub struct Task<'y> {
    rows: Range<usize>,
    blocks: Range<usize>,
    /// For each block and row of tiles, where its outputs go.
    bands: Vec<Vec<&'y mut [f32]>>,
}

/// Memory that a task needs while it runs; reused by the next.
#[derive(Default)]
pub struct Scratch(Vec<f32>);

impl Scratch {
    /// Lines of what some task left, aligned to lines of the cache.
    fn lines<const L: usize>(&mut self, count: usize) -> &mut [[f32; L]] {
        const ALIGNED: usize = 64;
        let spare = ALIGNED / size_of::<f32>();
        if self.0.len() < count * L + spare {
            self.0 = vec![0.0; count * L + spare];
        }
        let start = self.0.as_ptr().align_offset(ALIGNED).min(spare);
        self.0[start..][..count * L].as_chunks_mut().0
    }
}

impl Convolution<'_> {
    /// Whether all slices have the lengths that the sizes ask for, and the channels are whole blocks.
    pub fn is_consistent(&self) -> bool {
        let len = |[channels, height, width]: [usize; 3]| self.batch * channels * height * width;
        let fits = |values: Option<&[f32]>, len: usize| values.is_none_or(|v| v.len() == len);
        let [inputs, outputs] = [self.input[0], self.output[0]];
        let Epilogue {
            bias, sum, gate, ..
        } = self.epilogue;
        [8, 16].contains(&self.block_size)
            && [inputs, outputs]
                .iter()
                .all(|c| c.is_multiple_of(self.block_size))
            && self.x.len() == len(self.input)
            && self.filter.len() == POINTS * inputs * outputs
            && fits(bias, outputs)
            && [sum, gate]
                .into_iter()
                .all(|values| fits(values, len(self.output)))
    }

    /// Rows and columns of tiles of an image.
    fn tiles(&self) -> [usize; 2] {
        [1, 2].map(|axis| self.output[axis].div_ceil(OUTPUTS))
    }

    /// Rows of tiles, and blocks of output channels, of a task. The batch and sizes decide, not the
    /// threads.
    fn steps(&self) -> [usize; 2] {
        let [down, across] = self.tiles();
        let rows = self.batch * down;
        let per_tile = POINTS * (self.input[0] + 2 * self.block_size);
        let most = (TASK_NUMBERS / per_tile).max(LEAST_TILES) / across;
        let least = LEAST_SPLIT_TILES.div_ceil(across);
        let step = most
            .min(rows.div_ceil(TASKS).max(least))
            .clamp(1, rows.max(1));
        let groups = TASKS.div_ceil(rows.div_ceil(step).max(1));
        let blocks = self.output[0] / self.block_size;
        let least = LEAST_SPLIT_CHANNELS / self.block_size;
        // Panels are of two blocks.
        let block_step = blocks.div_ceil(groups).max(least).next_multiple_of(2);
        [step, block_step]
    }

    /// Independent parts that write all of `y`.
    pub fn tasks<'y>(&self, y: &'y mut [f32]) -> Vec<Task<'y>> {
        let [channels, height, width] = self.output;
        let [down, _] = self.tiles();
        let (rows, blocks) = (self.batch * down, channels / self.block_size);
        let [row_step, block_step] = self.steps();
        let mut tasks = Vec::new();
        for row in (0..rows).step_by(row_step) {
            for block in (0..blocks).step_by(block_step) {
                let blocks = block..(block + block_step).min(blocks);
                tasks.push(Task {
                    rows: row..(row + row_step).min(rows),
                    bands: blocks.clone().map(|_| Vec::new()).collect(),
                    blocks,
                });
            }
        }
        let line = width * self.block_size;
        let groups = blocks.div_ceil(block_step);
        for (plane, y) in y.chunks_exact_mut((height * line).max(1)).enumerate() {
            let (image, block) = (plane / blocks, plane % blocks);
            for (row, band) in y.chunks_mut(OUTPUTS * line).enumerate() {
                let task = (image * down + row) / row_step * groups + block / block_step;
                tasks[task].bands[block % block_step].push(band);
            }
        }
        tasks
    }

    /// Computes the outputs of a task.
    pub fn run(&self, task: &mut Task, scratch: &mut Scratch) {
        #[cfg(target_arch = "x86_64")]
        {
            if self.block_size == 16 && is_x86_feature_detected!("avx512f") {
                // SAFETY: the processor has the feature.
                return unsafe { self.run_avx512(task, scratch) };
            }
            if self.block_size == 8
                && is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
            {
                // SAFETY: the processor has the features.
                return unsafe { self.run_avx2(task, scratch) };
            }
        }
        match self.block_size {
            16 => self.run_by::<[f32; 16], 16, 6>(task, scratch),
            _ => self.run_by::<[f32; 8], 8, 6>(task, scratch),
        }
    }

    /// Sums of 12 tiles and 2 blocks take 24 of 32 registers.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    fn run_avx512(&self, task: &mut Task, scratch: &mut Scratch) {
        self.run_by::<std::arch::x86_64::__m512, 16, 12>(task, scratch);
    }

    /// Sums of 6 tiles and 2 blocks take 12 of 16 registers.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn run_avx2(&self, task: &mut Task, scratch: &mut Scratch) {
        self.run_by::<std::arch::x86_64::__m256, 8, 6>(task, scratch);
    }

    /// Multiplies `ROWS` tiles at a time.
    #[inline(always)]
    fn run_by<V: Lanes<L>, const L: usize, const ROWS: usize>(
        &self,
        task: &mut Task,
        scratch: &mut Scratch,
    ) {
        let inputs = self.input[0];
        let tiles = task.rows.len() * self.tiles()[1];
        // Lines of a point.
        let taken = inputs / L * tiles + GAP / L;
        let summed = 2 * tiles + GAP / L;
        let width = self.input[2];
        let lines = scratch.lines::<L>(width + POINTS * (taken + summed));
        let (zeros, lines) = lines.split_at_mut(width);
        let (v, m) = lines.split_at_mut(POINTS * taken);
        zeros.fill([0.0; L]);
        self.take::<V, L>(task, zeros, v, taken);
        let filter = self.filter.as_chunks::<L>().0;
        let first = task.blocks.start;
        for block in task.blocks.clone().step_by(2) {
            let wide = (task.blocks.end - block).min(2);
            let panels = &filter[block * inputs * POINTS..][..wide * inputs * POINTS];
            for point in 0..POINTS {
                let panel = &panels[point * wide * inputs..][..wide * inputs];
                let (v, m) = (&v[point * taken..], &mut m[point * summed..]);
                multiply::<V, L, ROWS>(v, panel, wide, &mut m[..wide * tiles]);
            }
            for half in 0..wide {
                let m = &m[half * tiles..];
                self.give::<V, L>(task, block - first + half, m, summed);
            }
        }
    }

    /// Transforms the inputs of a task: `[point][block][tile][lane]`, points `step` apart.
    #[inline(always)]
    fn take<V: Lanes<L>, const L: usize>(
        &self,
        task: &Task,
        zeros: &[[f32; L]],
        v: &mut [[f32; L]],
        step: usize,
    ) {
        let [channels, height, width] = self.input;
        let ([down, across], blocks) = (self.tiles(), channels / L);
        let x = self.x.as_chunks::<L>().0;
        let mut place = 0;
        for block in 0..blocks {
            for row in task.rows.clone() {
                let (image, row) = (row / down, row % down);
                let plane = &x[(image * blocks + block) * height * width..][..height * width];
                let mut lines = [zeros; SIDE];
                for (tap, line) in lines.iter_mut().enumerate() {
                    let y = (row * OUTPUTS + tap).wrapping_sub(self.pads[0]);
                    if y < height {
                        *line = &plane[y * width..][..width];
                    }
                }
                // Neighbouring tiles share two columns.
                let mut columns = [[V::splat(0.0); SIDE]; SIDE];
                for (tap, column) in columns.iter_mut().enumerate().take(2) {
                    *column = take_column(&lines, tap.wrapping_sub(self.pads[1]));
                }
                for tile in 0..across {
                    for (tap, column) in columns.iter_mut().enumerate().skip(2) {
                        let x = (tile * OUTPUTS + tap).wrapping_sub(self.pads[1]);
                        *column = take_column(&lines, x);
                    }
                    for line in 0..SIDE {
                        let points = transform_inputs::<V, L>(across_columns(&columns, line));
                        for (column, values) in points.into_iter().enumerate() {
                            values.store(&mut v[(line * SIDE + column) * step + place]);
                        }
                    }
                    (columns[0], columns[1]) = (columns[4], columns[5]);
                    place += 1;
                }
            }
        }
    }

    /// Transforms the products of a block, the task's `block`th, back to outputs.
    #[inline(always)]
    fn give<V: Lanes<L>, const L: usize>(
        &self,
        task: &mut Task,
        block: usize,
        m: &[[f32; L]],
        step: usize,
    ) {
        let [channels, height, width] = self.output;
        let ([down, across], blocks) = (self.tiles(), channels / L);
        let Epilogue {
            bias,
            sum,
            relu,
            gate,
        } = self.epilogue;
        let index = task.blocks.start + block;
        let bias = match bias {
            Some(bias) => V::load(&bias.as_chunks().0[index]),
            None => V::splat(0.0),
        };
        let mut tiles = 0;
        for (row, band) in task.rows.clone().zip(&mut task.bands[block]) {
            let (image, row) = (row / down, row % down);
            let start = ((image * blocks + index) * height + row * OUTPUTS) * width;
            let band = band.as_chunks_mut::<L>().0;
            let [sum, gate] = [sum, gate].map(|values| {
                let values = values?.as_chunks::<L>().0;
                values.get(start..start + band.len())
            });
            for tile in 0..across {
                let m = &m[tiles + tile..];
                let mut columns = [[V::splat(0.0); OUTPUTS]; SIDE];
                for (column, outputs) in columns.iter_mut().enumerate() {
                    let mut points = [V::splat(0.0); SIDE];
                    for (line, point) in points.iter_mut().enumerate() {
                        *point = V::load(&m[(line * SIDE + column) * step]);
                    }
                    *outputs = transform_products::<V, L>(points);
                }
                let rows = OUTPUTS.min(height - row * OUTPUTS);
                let in_row = OUTPUTS.min(width - tile * OUTPUTS);
                for line in 0..rows {
                    let outputs = transform_products::<V, L>(across_columns(&columns, line));
                    let place = line * width + tile * OUTPUTS;
                    for (column, mut value) in outputs.into_iter().enumerate().take(in_row) {
                        let place = place + column;
                        value = value.add(bias);
                        if let Some(sum) = sum {
                            value = value.add(V::load(&sum[place]));
                        }
                        if relu {
                            value = value.relu();
                        }
                        if let Some(gate) = gate {
                            value = value.gate(V::load(&gate[place]));
                        }
                        value.store(&mut band[place]);
                    }
                }
            }
            tiles += across;
        }
    }
}

/// Bᵀ d for column `x` of d; zeros outside of the image.
#[inline(always)]
fn take_column<V: Lanes<L>, const L: usize>(lines: &[&[[f32; L]]; SIDE], x: usize) -> [V; SIDE] {
    let [a, b, c, d, e, f] = lines;
    if x >= a.len() {
        return [V::splat(0.0); SIDE];
    }
    transform_inputs::<V, L>([
        V::load(&a[x]),
        V::load(&b[x]),
        V::load(&c[x]),
        V::load(&d[x]),
        V::load(&e[x]),
        V::load(&f[x]),
    ])
}

/// The numbers of a line.
#[inline(always)]
fn across_columns<V: Copy, const N: usize>(columns: &[[V; N]; SIDE], line: usize) -> [V; SIDE] {
    let [a, b, c, d, e, f] = columns;
    [a[line], b[line], c[line], d[line], e[line], f[line]]
}

/// Bᵀ d.
#[inline(always)]
fn transform_inputs<V: Lanes<L>, const L: usize>(d: [V; SIDE]) -> [V; SIDE] {
    let [two, four] = [2.0, 4.0].map(V::splat);
    let [minus_two, minus_four, minus_five] = [-2.0, -4.0, -5.0].map(V::splat);
    let (a, b) = (
        d[2].mul_add(minus_four, d[4]),
        d[1].mul_add(minus_four, d[3]),
    );
    let (c, e) = (d[4].sub(d[2]), d[3].sub(d[1]));
    [
        d[0].mul_add(four, d[2].mul_add(minus_five, d[4])),
        a.add(b),
        a.sub(b),
        e.mul_add(two, c),
        e.mul_add(minus_two, c),
        d[1].mul_add(four, d[3].mul_add(minus_five, d[5])),
    ]
}

/// Aᵀ m.
#[inline(always)]
fn transform_products<V: Lanes<L>, const L: usize>(m: [V; SIDE]) -> [V; OUTPUTS] {
    let [two, four, eight] = [2.0, 4.0, 8.0].map(V::splat);
    let (a, b) = (m[1].add(m[2]), m[1].sub(m[2]));
    let (c, d) = (m[3].add(m[4]), m[3].sub(m[4]));
    [
        m[0].add(a.add(c)),
        d.mul_add(two, b),
        c.mul_add(four, a),
        m[5].add(d.mul_add(eight, b)),
    ]
}

/// The matrix product of a point: `[block][tile]` of v with a panel of `wide` blocks.
#[inline(always)]
fn multiply<V: Lanes<L>, const L: usize, const ROWS: usize>(
    v: &[[f32; L]],
    panel: &[[f32; L]],
    wide: usize,
    m: &mut [[f32; L]],
) {
    let tiles = m.len() / wide;
    let parts = tiles.div_ceil(ROWS);
    let mut tile = 0;
    for part in 0..parts {
        let rows = (tiles - tile).div_ceil(parts - part);
        let (v, m) = (&v[tile..], &mut m[tile..]);
        macro_rules! of_rows {
            ($($rows:literal)*) => {
                match (rows, wide) {
                    $(($rows, 2) if $rows <= ROWS => add_products::<V, L, $rows, 2>(v, panel, m, tiles),
                      ($rows, _) if $rows <= ROWS => add_products::<V, L, $rows, 1>(v, panel, m, tiles),)*
                    _ => {}
                }
            };
        }
        of_rows!(1 2 3 4 5 6 7 8 9 10 11 12);
        tile += rows;
    }
}

/// The products of `R` tiles and `N` blocks; blocks of v and m are `step` lines apart.
#[inline(always)]
fn add_products<V: Lanes<L>, const L: usize, const R: usize, const N: usize>(
    v: &[[f32; L]],
    panel: &[[f32; L]],
    m: &mut [[f32; L]],
    step: usize,
) {
    let mut sums = [[V::splat(0.0); N]; R];
    for (block, panel) in panel.chunks_exact(L * N).enumerate() {
        let Some(v) = v[block * step..].first_chunk::<R>() else {
            break;
        };
        for (lane, factors) in panel.as_chunks::<N>().0.iter().enumerate() {
            let mut values = [V::splat(0.0); N];
            for (value, factors) in values.iter_mut().zip(factors) {
                *value = V::load(factors);
            }
            for (sums, v) in sums.iter_mut().zip(v) {
                let v = V::splat(v[lane]);
                for (sum, value) in sums.iter_mut().zip(&values) {
                    *sum = v.mul_add(*value, *sum);
                }
            }
        }
    }
    for block in 0..N {
        for (sums, to) in sums.iter().zip(&mut m[block * step..]) {
            sums[block].store(to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Filter;
    use proptest::prelude::*;

    fn drawn(seed: usize, count: usize) -> Vec<f32> {
        (0..count)
            .map(|index| {
                let mixed = ((index + 1) * (2 * seed + 1)) as u32;
                (mixed.wrapping_mul(2_654_435_761) >> 16) as f32 / 32_768.0 - 1.0
            })
            .collect()
    }

    /// NCHWc, channels filled up with zeros.
    fn blocked(planes: &[f32], channels: usize, pixels: usize, size: usize) -> Vec<f32> {
        let blocks = channels.div_ceil(size);
        let mut values = vec![0.0; planes.len() / channels * blocks * size];
        for (at, value) in planes.iter().enumerate() {
            let (image, channel, pixel) = (
                at / (channels * pixels),
                at / pixels % channels,
                at % pixels,
            );
            let block = image * blocks + channel / size;
            values[(block * pixels + pixel) * size + channel % size] = *value;
        }
        values
    }

    #[derive(Clone, Debug)]
    struct Case {
        batch: usize,
        channels: [usize; 2],
        size: [usize; 2],
        /// Before the first row and column, and after the last.
        pads: [[usize; 2]; 2],
        block_size: usize,
        flipped: bool,
        /// Bias, sum, ReLU, gate.
        steps: [bool; 4],
        seed: usize,
    }

    impl Case {
        fn output(&self) -> [usize; 2] {
            [0, 1].map(|axis| self.size[axis] + self.pads[0][axis] + self.pads[1][axis] - 2)
        }

        /// By the definition, in f64: outputs, and the largest sum of absolute products.
        fn naive(&self, x: &[f32], w: &[f32], given: &[Vec<f32>; 3]) -> (Vec<f64>, f64) {
            let ([inputs, outputs], [h, w_in], [oh, ow]) =
                (self.channels, self.size, self.output());
            let [bias, sum, gate] = given;
            let (mut all, mut largest) = (Vec::new(), 0.0_f64);
            for n in 0..self.batch {
                for o in 0..outputs {
                    for at in 0..oh * ow {
                        let (mut total, mut absolute) = (0.0, 0.0_f64);
                        for i in 0..inputs {
                            for tap in 0..9 {
                                let y = (at / ow + tap / 3).wrapping_sub(self.pads[0][0]);
                                let z = (at % ow + tap % 3).wrapping_sub(self.pads[0][1]);
                                if y < h && z < w_in {
                                    let weight = if self.flipped {
                                        w[(i * outputs + o) * 9 + 8 - tap]
                                    } else {
                                        w[(o * inputs + i) * 9 + tap]
                                    };
                                    let x = x[((n * inputs + i) * h + y) * w_in + z];
                                    let product = f64::from(weight) * f64::from(x);
                                    total += product;
                                    absolute += product.abs();
                                }
                            }
                        }
                        largest = largest.max(absolute);
                        let place = (n * outputs + o) * oh * ow + at;
                        if self.steps[0] {
                            total += f64::from(bias[o]);
                        }
                        if self.steps[1] {
                            total += f64::from(sum[place]);
                        }
                        if self.steps[2] {
                            total = total.max(0.0);
                        }
                        if self.steps[3] && gate[place] <= 0.0 {
                            total = 0.0;
                        }
                        all.push(total);
                    }
                }
            }
            (all, largest)
        }

        fn check(&self) {
            let ([inputs, outputs], [h, w], [oh, ow]) = (self.channels, self.size, self.output());
            let up = |channels: usize| channels.next_multiple_of(self.block_size);
            let x = drawn(self.seed, self.batch * inputs * h * w);
            let weight = drawn(self.seed + 1, outputs * inputs * 9);
            let count = self.batch * outputs * oh * ow;
            let given = [
                drawn(self.seed + 2, outputs),
                drawn(self.seed + 3, count),
                drawn(self.seed + 4, count),
            ];
            let (expected, largest) = self.naive(&x, &weight, &given);
            let filter = Filter {
                outputs: up(outputs),
                inputs: up(inputs),
                block_size: self.block_size,
                flipped: self.flipped,
            };
            let sizes = if self.flipped {
                [inputs, outputs]
            } else {
                [outputs, inputs]
            };
            let transformed = filter.transform(&weight, sizes);
            let x = blocked(&x, inputs, h * w, self.block_size);
            let [bias, sum, gate] = given;
            let bias = blocked(&bias, outputs, 1, self.block_size);
            let [sum, gate] =
                [sum, gate].map(|values| blocked(&values, outputs, oh * ow, self.block_size));
            let convolution = Convolution {
                batch: self.batch,
                input: [up(inputs), h, w],
                output: [up(outputs), oh, ow],
                pads: self.pads[0],
                block_size: self.block_size,
                x: &x,
                filter: &transformed,
                epilogue: Epilogue {
                    bias: self.steps[0].then_some(&bias[..]),
                    sum: self.steps[1].then_some(&sum[..]),
                    relu: self.steps[2],
                    gate: self.steps[3].then_some(&gate[..]),
                },
            };
            assert!(convolution.is_consistent());
            let expected: Vec<f32> = expected.iter().map(|value| *value as f32).collect();
            let expected = blocked(&expected, outputs, oh * ow, self.block_size);
            let mut scratch = Scratch::default();
            let close = |found: &[f32]| {
                for (found, expected) in found.iter().zip(&expected) {
                    let gap = f64::from((found - expected).abs());
                    assert!(gap <= 1e-5 * largest.max(1.0), "{found}, {expected}");
                }
            };
            let mut y = vec![f32::NAN; expected.len()];
            for mut task in convolution.tasks(&mut y) {
                convolution.run(&mut task, &mut scratch);
            }
            close(&y);
            let mut portable = vec![f32::NAN; expected.len()];
            for mut task in convolution.tasks(&mut portable) {
                match self.block_size {
                    16 => convolution.run_by::<[f32; 16], 16, 6>(&mut task, &mut scratch),
                    _ => convolution.run_by::<[f32; 8], 8, 6>(&mut task, &mut scratch),
                }
            }
            close(&portable);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]
        #[test]
        fn outputs_equal_their_definition(
            batch in 1..4_usize,
            channels in [1..40_usize, 1..70_usize],
            size in [1..19_usize, 1..19_usize],
            pads in [[1..4_usize, 1..4_usize], [1..3_usize, 1..3_usize]],
            is_wide in any::<bool>(),
            flipped in any::<bool>(),
            steps in any::<[bool; 4]>(),
            cut in any::<bool>(),
            seed in 0..1000_usize,
        ) {
            let pads = if cut && size.iter().all(|size| *size > 2) { [[0; 2]; 2] } else { pads };
            let block_size = if is_wide { 16 } else { 8 };
            let case = Case { batch, channels, size, pads, block_size, flipped, steps, seed };
            case.check();
        }
    }

    #[test]
    fn an_image_has_the_same_bytes_in_every_batch() {
        for block_size in [8, 16] {
            let (inputs, outputs, size) = (32, 128, 13);
            let images = drawn(1, 5 * inputs * size * size);
            let filter = Filter {
                outputs,
                inputs,
                block_size,
                flipped: false,
            };
            let weight = drawn(2, outputs * inputs * 9);
            let filter = filter.transform(&weight, [outputs, inputs]);
            let run = |x: &[f32]| {
                let batch = x.len() / (inputs * size * size);
                let convolution = Convolution {
                    batch,
                    input: [inputs, size, size],
                    output: [outputs, size, size],
                    pads: [1, 1],
                    block_size,
                    x,
                    filter: &filter,
                    epilogue: Epilogue::default(),
                };
                let mut y = vec![0.0; batch * outputs * size * size];
                let mut tasks = convolution.tasks(&mut y);
                let mut scratch = Scratch::default();
                // In any order.
                tasks
                    .iter_mut()
                    .rev()
                    .for_each(|task| convolution.run(task, &mut scratch));
                y
            };
            let together = run(&images);
            let alone = images.chunks_exact(inputs * size * size).flat_map(run);
            assert!(alone.eq(together), "blocks of {block_size}");
        }
    }
}
