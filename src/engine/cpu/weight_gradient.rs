//! The gradient of a convolution's weight and bias, summed over the batch:
//! dW[o, i, k] = Σ dy[o, p] x[i, p·stride + k·dilation - pad]. For blocks of input and output
//! channels it is a sum of outer products over the positions p, held in registers. Sums are in
//! two levels (bands of rows, then bands), in one order whatever the number of threads.

use std::ops::Range;

/// Positions of a band: its rows of x and dy stay in the second-level cache.
const BAND_POSITIONS: usize = 1600;
/// Channel blocks of x and dy that are summed together read each other from the cache; their sums
/// take at most so many tiles.
const TILES: usize = 64;
/// Blocks of dy that are read together beside planes of x.
const PAIR: usize = 2;
/// As many tasks are made where the channels allow.
const TASKS: usize = 8;

/// The window of a convolution over images, and the sizes of its tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Convolution {
    pub batch: usize,
    /// Channels, height and width of x.
    pub input: [usize; 3],
    /// Channels, height and width of dy.
    pub output: [usize; 3],
    pub kernel: [usize; 2],
    pub strides: [usize; 2],
    pub dilations: [usize; 2],
    /// Padding before the first row and column.
    pub pads: [usize; 2],
}

/// The values of images, `channels` apart in memory.
#[derive(Clone, Copy)]
pub(crate) enum Images<'a> {
    /// `[batch, channels, height, width]`.
    Planes(&'a [f32]),
    /// NCHWc; the last block may be filled up beyond the channels.
    Blocks(&'a [f32]),
}

/// Sums of products for a block of rows of the weight matrix (input channels, or taps of the
/// kernel) and one of output channels: `[row][output channel]`.
type Tile<const B: usize> = [[f32; B]; B];

/// Where a run of positions lies in x and dy: the first, the distance of neighbours, that of rows.
#[derive(Clone, Copy)]
struct Run {
    rows: usize,
    columns: usize,
    x_step: usize,
    x_row: usize,
    dy_row: usize,
}

/// The positions of a band for which a tap of the kernel lies inside of x.
struct Reach {
    /// The first of them in the blocks of x and dy.
    x: usize,
    dy: usize,
    run: Run,
}

/// Part of the gradient: blocks of rows of the weight matrix and of output channels, and where
/// their numbers go.
pub(crate) struct Task<'w> {
    rows: Range<usize>,
    outputs: Range<usize>,
    /// For each output channel, the numbers of all rows.
    weight: Vec<&'w mut [f32]>,
    /// Empty but for the first rows.
    bias: &'w mut [f32],
}

/// The sums of a task.
struct Sums<const B: usize> {
    /// `[row block][output block][tap]`.
    tiles: Vec<Tile<B>>,
    bias: Vec<[f32; B]>,
}

/// Copies for a band.
#[derive(Default)]
struct Scratch {
    /// Rows of planes of x with their padding.
    padded: Vec<f32>,
    /// Planes of dy, in blocks.
    dy: Vec<f32>,
    reaches: Vec<Option<Reach>>,
}

/// Planes of x for a band, with their padding.
struct Padded<'p> {
    values: &'p [f32],
    /// The channel of the first plane.
    first: usize,
    tall: usize,
    wide: usize,
    /// Rows of the band.
    rows: usize,
}

/// What a row block of the weight matrix reads of [`Padded`].
struct Taken<'p, const B: usize> {
    padded: &'p [f32],
    /// Where each row reads for the first position.
    offsets: [usize; B],
    rows: usize,
    columns: usize,
    /// Distances of neighbouring positions, and of rows.
    step: usize,
    row: usize,
}

/// The gradient over channels in blocks of `B`: 16 with AVX-512, 8 with AVX2.
pub(crate) struct WeightGradient<'a, const B: usize> {
    convolution: &'a Convolution,
    x: Images<'a>,
    dy: Images<'a>,
}

impl<'a, const B: usize> WeightGradient<'a, B> {
    pub(crate) fn new(convolution: &'a Convolution, x: Images<'a>, dy: Images<'a>) -> Self {
        Self { convolution, x, dy }
    }

    /// Independent parts, the same ones whatever the number of threads, that write the gradients
    /// `[outputs, inputs, height, width]` and `[outputs]`; without a bias, `bias` is empty.
    pub(crate) fn tasks<'w>(
        &self,
        weight: &'w mut [f32],
        mut bias: &'w mut [f32],
    ) -> Vec<Task<'w>> {
        let outputs = self.convolution.output[0];
        let all_rows = weight.len() / outputs;
        let (row_blocks, taps) = self.row_blocks();
        let output_blocks = outputs.div_ceil(B);
        let (row_step, output_step) = self.steps(row_blocks, output_blocks, (TILES / taps).max(1));
        let mut tasks = Vec::new();
        let mut lines = weight.chunks_exact_mut(all_rows);
        for start in (0..output_blocks).step_by(output_step) {
            let blocks = start..(start + output_step).min(output_blocks);
            let mut lines: Vec<_> = lines.by_ref().take(blocks.len() * B).collect();
            for start in (0..row_blocks).step_by(row_step) {
                let rows = start..(start + row_step).min(row_blocks);
                let count = (rows.len() * B * taps).min(all_rows - start * B * taps);
                let taken = if start == 0 {
                    lines.len().min(bias.len())
                } else {
                    0
                };
                tasks.push(Task {
                    rows,
                    outputs: blocks.clone(),
                    weight: lines
                        .iter_mut()
                        .filter_map(|line| line.split_off_mut(..count))
                        .collect(),
                    bias: bias.split_off_mut(..taken).unwrap_or_default(),
                });
            }
        }
        tasks
    }

    /// Blocks of rows and of outputs of a task, at most `most` pairs.
    fn steps(&self, rows: usize, outputs: usize, most: usize) -> (usize, usize) {
        let least = match self.x {
            Images::Planes(_) => PAIR,
            Images::Blocks(_) => 1,
        };
        let (mut row_step, mut output_step) = (rows, outputs);
        loop {
            let (pairs, tasks) = (
                row_step * output_step,
                rows.div_ceil(row_step) * outputs.div_ceil(output_step),
            );
            let smallest = row_step == 1 && output_step <= least;
            if smallest || (pairs <= most && tasks >= TASKS) {
                return (row_step, output_step);
            }
            let longer = if row_step > output_step || output_step <= least {
                &mut row_step
            } else {
                &mut output_step
            };
            *longer = longer.div_ceil(2);
        }
    }

    /// Blocks of rows of the weight matrix, and the tiles of each: input channels with a tile for
    /// each tap of the kernel; of planes, channels and taps together, in one.
    fn row_blocks(&self) -> (usize, usize) {
        let taps = self.convolution.kernel.iter().product::<usize>();
        match self.x {
            Images::Blocks(_) => (self.convolution.input[0].div_ceil(B), taps),
            Images::Planes(_) => ((self.convolution.input[0] * taps).div_ceil(B), 1),
        }
    }

    pub(crate) fn run(&self, task: &mut Task) {
        let taps = self.row_blocks().1;
        let mut sums = Sums {
            tiles: vec![[[0.0; B]; B]; task.rows.len() * task.outputs.len() * taps],
            bias: vec![[0.0; B]; task.bias.len().div_ceil(B)],
        };
        let mut scratch = Scratch::default();
        for sample in 0..self.convolution.batch {
            for rows in self.convolution.bands() {
                self.add_band(sample, rows, task, &mut sums, &mut scratch);
            }
        }
        self.write(&sums, task);
    }

    fn add_band(
        &self,
        sample: usize,
        rows: Range<usize>,
        task: &Task,
        sums: &mut Sums<B>,
        scratch: &mut Scratch,
    ) {
        let [channels, height, width] = self.convolution.output;
        let positions = rows.len() * width;
        let size = positions * B;
        let outputs = task.outputs.clone();
        let Scratch {
            padded,
            dy: cotangents,
            reaches,
        } = scratch;
        self.convolution.reaches::<B>(&rows, reaches);
        let reaches = &*reaches;
        let dy = match self.dy {
            Images::Blocks(dy) => dy,
            Images::Planes(dy) => {
                cotangents.clear();
                cotangents.resize(outputs.len() * size, 0.0);
                for (block, values) in outputs.clone().zip(cotangents.chunks_exact_mut(size)) {
                    let first = block * B;
                    for lane in 0..B.min(channels - first) {
                        let plane = (sample * channels + first + lane) * height * width;
                        let from = &dy[plane + rows.start * width..][..positions];
                        let lanes = values[lane..].iter_mut().step_by(B);
                        lanes.zip(from).for_each(|(to, from)| *to = *from);
                    }
                }
                cotangents
            }
        };
        let dy_start = |block: usize| match self.dy {
            Images::Blocks(_) => {
                ((sample * channels.div_ceil(B) + block) * height + rows.start) * width * B
            }
            Images::Planes(_) => (block - outputs.start) * size,
        };
        for (bias, block) in sums.bias.iter_mut().zip(outputs.clone()) {
            add_sums(bias, &dy[dy_start(block)..][..size]);
        }
        match self.x {
            Images::Planes(x) => {
                let planes = self.take(x, sample, &rows, task, padded);
                let tiles = sums.tiles.chunks_exact_mut(outputs.len());
                for (row_block, tiles) in task.rows.clone().zip(tiles) {
                    let taken = planes.of::<B>(self.convolution, row_block * B);
                    for (pair, tiles) in tiles.chunks_mut(PAIR).enumerate() {
                        let first = outputs.start + pair * PAIR;
                        let blocks = [first, first + tiles.len() - 1];
                        let dy = blocks.map(|block| &dy[dy_start(block)..][..size]);
                        add_taken(tiles, &taken, dy);
                    }
                }
            }
            Images::Blocks(x) => {
                let [channels, height, width] = self.convolution.input;
                let mut tiles = sums.tiles.iter_mut();
                for row_block in task.rows.clone() {
                    let block = sample * channels.div_ceil(B) + row_block;
                    let x = &x[block * height * width * B..][..height * width * B];
                    for block in outputs.clone() {
                        let dy = &dy[dy_start(block)..][..size];
                        for (reach, tile) in reaches.iter().zip(&mut tiles) {
                            if let Some(reach) = reach {
                                add_products(tile, &x[reach.x..], &dy[reach.dy..], reach.run);
                            }
                        }
                    }
                }
            }
        }
    }

    /// Copies the rows of x under a band, of the channels that a task reads, with their padding.
    fn take<'p>(
        &self,
        x: &[f32],
        sample: usize,
        rows: &Range<usize>,
        task: &Task,
        padded: &'p mut Vec<f32>,
    ) -> Padded<'p> {
        let Convolution {
            input: [channels, height, width],
            output: [_, _, columns],
            kernel,
            strides,
            dilations,
            pads,
            ..
        } = *self.convolution;
        let taps = kernel[0] * kernel[1];
        let reach = |axis: usize, windows: usize| {
            (windows - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1
        };
        let (tall, wide) = (reach(0, rows.len()), reach(1, columns));
        let planes = task.rows.start * B / taps..(task.rows.end * B).div_ceil(taps).min(channels);
        padded.clear();
        padded.resize(planes.len() * tall * wide, 0.0);
        for (channel, padded) in planes.clone().zip(padded.chunks_exact_mut(tall * wide)) {
            let plane = &x[(sample * channels + channel) * height * width..][..height * width];
            for (row, padded) in padded.chunks_exact_mut(wide).enumerate() {
                let y = (rows.start * strides[0] + row).wrapping_sub(pads[0]);
                if y < height {
                    let count = width.min(wide.saturating_sub(pads[1]));
                    let line = &plane[y * width..][..count];
                    padded[wide.min(pads[1])..][..count].copy_from_slice(line);
                }
            }
        }
        Padded {
            values: padded,
            first: planes.start,
            tall,
            wide,
            rows: rows.len(),
        }
    }

    fn write(&self, sums: &Sums<B>, task: &mut Task) {
        let taps = self.row_blocks().1;
        let lanes = task.bias.iter_mut().zip(sums.bias.as_flattened());
        lanes.for_each(|(to, from)| *to = *from);
        let mut tiles = sums.tiles.chunks_exact(taps);
        for row_block in 0..task.rows.len() {
            for (lines, tiles) in task.weight.chunks_mut(B).zip(&mut tiles) {
                for (lane, line) in lines.iter_mut().enumerate() {
                    for (tap, tile) in tiles.iter().enumerate() {
                        let rows = line[row_block * B * taps + tap..].iter_mut();
                        let products = rows.step_by(taps).zip(tile);
                        products.for_each(|(to, products)| *to = products[lane]);
                    }
                }
            }
        }
    }
}

impl<'p> Padded<'p> {
    /// For the rows of the weight matrix from `first` on.
    fn of<const B: usize>(&self, convolution: &Convolution, first: usize) -> Taken<'p, B> {
        let Convolution {
            input: [channels, ..],
            output: [_, _, columns],
            kernel,
            strides,
            dilations,
            ..
        } = *convolution;
        let taps = kernel[0] * kernel[1];
        let mut offsets = [0; B];
        for (offset, row) in offsets.iter_mut().zip(first..channels * taps) {
            let (plane, tap) = (row / taps - self.first, row % taps);
            let [y, x] = [
                tap / kernel[1] * dilations[0],
                tap % kernel[1] * dilations[1],
            ];
            *offset = (plane * self.tall + y) * self.wide + x;
        }
        Taken {
            padded: self.values,
            offsets,
            rows: self.rows,
            columns,
            step: strides[1],
            row: strides[0] * self.wide,
        }
    }
}

impl Convolution {
    /// Bands of rows of dy, whose positions stay in the cache.
    fn bands(&self) -> impl Iterator<Item = Range<usize>> {
        let [_, height, width] = self.output;
        let band = (BAND_POSITIONS / width).max(4);
        let starts = (0..height).step_by(band);
        starts.map(move |start| start..(start + band).min(height))
    }

    /// For each tap of the kernel, where it lies inside of x for a band of rows.
    fn reaches<const B: usize>(&self, rows: &Range<usize>, reaches: &mut Vec<Option<Reach>>) {
        let Convolution {
            input: [_, height, width],
            output: [_, _, columns],
            kernel,
            strides,
            ..
        } = *self;
        let reach = |tap: usize| {
            let at = [tap / kernel[1], tap % kernel[1]];
            let (rows_in, y) = self.inside(0, at[0], rows.clone(), height)?;
            let (columns_in, x) = self.inside(1, at[1], 0..columns, width)?;
            let mut run = Run {
                rows: rows_in.len(),
                columns: columns_in.len(),
                x_step: strides[1] * B,
                x_row: strides[0] * width * B,
                dy_row: columns * B,
            };
            // Whole rows that follow one another are one row.
            if run.columns == columns && run.x_row == columns * run.x_step {
                (run.rows, run.columns) = (1, run.rows * run.columns);
            }
            Some(Reach {
                x: (y * width + x) * B,
                dy: ((rows_in.start - rows.start) * columns + columns_in.start) * B,
                run,
            })
        };
        reaches.clear();
        reaches.extend((0..kernel[0] * kernel[1]).map(reach));
    }

    /// The windows of `range` along `axis` whose tap `at` lies inside of x, and where the first of
    /// them reads; none if there is none.
    fn inside(
        &self,
        axis: usize,
        at: usize,
        range: Range<usize>,
        size: usize,
    ) -> Option<(Range<usize>, usize)> {
        let (stride, offset, pad) = (
            self.strides[axis],
            at * self.dilations[axis],
            self.pads[axis],
        );
        let first = pad.saturating_sub(offset).div_ceil(stride);
        let end = (size + pad).checked_sub(offset)?.div_ceil(stride);
        let (start, end) = (range.start.max(first), range.end.min(end));
        (start < end).then(|| (start..end, start * stride + offset - pad))
    }
}

/// The number of channels in a block that suits the processor best.
pub(crate) fn block_size() -> usize {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        return 16;
    }
    8
}

/// The gradients of a depthwise convolution's weight, `[block][channel][tap]`, and bias; images are
/// NCHWc, or planes with blocks of one channel.
pub(crate) struct DepthwiseGradient<'a, const B: usize> {
    convolution: &'a Convolution,
    x: &'a [f32],
    dy: &'a [f32],
}

impl<'a, const B: usize> DepthwiseGradient<'a, B> {
    pub(crate) fn new(convolution: &'a Convolution, x: &'a [f32], dy: &'a [f32]) -> Self {
        Self { convolution, x, dy }
    }

    /// Writes the gradients of a block of channels, of which the last may have fewer.
    pub(crate) fn run(&self, block: usize, weight: &mut [f32], bias: &mut [f32]) {
        let Convolution {
            batch,
            input: [channels, height, width],
            output: [_, rows, columns],
            kernel,
            ..
        } = *self.convolution;
        let (blocks, taps) = (channels.div_ceil(B), kernel[0] * kernel[1]);
        let [x_len, dy_len] = [height * width, rows * columns].map(|pixels| pixels * B);
        let (mut sums, mut totals) = (vec![[0.0; B]; taps], [0.0; B]);
        let mut reaches = Vec::new();
        for sample in 0..batch {
            let at = sample * blocks + block;
            let (x, dy) = (
                &self.x[at * x_len..][..x_len],
                &self.dy[at * dy_len..][..dy_len],
            );
            for rows in self.convolution.bands() {
                self.convolution.reaches::<B>(&rows, &mut reaches);
                let dy = &dy[rows.start * columns * B..rows.end * columns * B];
                add_sums(&mut totals, dy);
                for (sums, reach) in sums.iter_mut().zip(&reaches) {
                    if let Some(reach) = reach {
                        add_channel_products(sums, &x[reach.x..], &dy[reach.dy..], reach.run);
                    }
                }
            }
        }
        for (channel, line) in weight.chunks_exact_mut(taps).enumerate() {
            let taps = line.iter_mut().zip(&sums);
            taps.for_each(|(to, sums)| *to = sums[channel]);
        }
        bias.iter_mut()
            .zip(totals)
            .for_each(|(to, total)| *to = total);
    }
}

/// Adds the products of x and dy, channel by channel, at the positions of `run`.
fn add_channel_products<const B: usize>(sums: &mut [f32; B], x: &[f32], dy: &[f32], run: Run) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the processor has the features.
        return unsafe { add_channel_products_avx2(sums, x, dy, run) };
    }
    add_channel_products_by(sums, x, dy, run, |x, dy, sum| x * dy + sum);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn add_channel_products_avx2<const B: usize>(sums: &mut [f32; B], x: &[f32], dy: &[f32], run: Run) {
    add_channel_products_by(sums, x, dy, run, f32::mul_add);
}

#[inline(always)]
fn add_channel_products_by<const B: usize>(
    sums: &mut [f32; B],
    x: &[f32],
    dy: &[f32],
    run: Run,
    multiply_add: impl Fn(f32, f32, f32) -> f32,
) {
    // Several chains of sums, so that none waits for the last product.
    let mut chains = [[0.0; B]; 4];
    for row in 0..run.rows {
        let mut x = x[row * run.x_row..].chunks(run.x_step);
        let mut dy = dy[row * run.dy_row..].as_chunks::<B>().0[..run.columns].chunks(4);
        for dy in &mut dy {
            for ((chain, dy), x) in chains.iter_mut().zip(dy).zip(&mut x) {
                for ((sum, x), dy) in chain.iter_mut().zip(x).zip(dy) {
                    *sum = multiply_add(*x, *dy, *sum);
                }
            }
        }
    }
    for chain in chains {
        sums.iter_mut()
            .zip(chain)
            .for_each(|(sum, part)| *sum += part);
    }
}

/// Adds the sum over all positions to each channel.
fn add_sums<const B: usize>(sums: &mut [f32; B], dy: &[f32]) {
    let mut band = [0.0; B];
    for dy in dy.chunks_exact(B) {
        band.iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy);
    }
    sums.iter_mut()
        .zip(band)
        .for_each(|(sum, band)| *sum += band);
}

/// Adds the outer products of x and dy at the positions of `run`, by the widest instructions that
/// the processor has.
fn add_products<const B: usize>(tile: &mut Tile<B>, x: &[f32], dy: &[f32], run: Run) {
    #[cfg(target_arch = "x86_64")]
    {
        if B == 16 && is_x86_feature_detected!("avx512f") {
            let sums = tile.as_flattened_mut();
            if let Ok(tile) = sums.try_into() {
                // SAFETY: the processor has the feature.
                unsafe { add_products_avx512(tile, x, dy, run) }
            }
            return;
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has the features.
            unsafe { add_products_avx2(tile, x, dy, run) }
            return;
        }
    }
    add_products_by(tile, x, dy, run, |x, dy, sum| x * dy + sum);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn add_products_avx2<const B: usize>(tile: &mut Tile<B>, x: &[f32], dy: &[f32], run: Run) {
    add_products_by(tile, x, dy, run, f32::mul_add);
}

/// The compiler keeps the sums of blocks of 8 in registers.
#[inline(always)]
fn add_products_by<const B: usize>(
    tile: &mut Tile<B>,
    x: &[f32],
    dy: &[f32],
    run: Run,
    multiply_add: impl Fn(f32, f32, f32) -> f32,
) {
    let mut sums = [[0.0; B]; B];
    for row in 0..run.rows {
        let x = x[row * run.x_row..].chunks(run.x_step);
        let dy = dy[row * run.dy_row..].chunks_exact(B);
        for (x, dy) in x.zip(dy).take(run.columns) {
            for (sums, x) in sums.iter_mut().zip(&x[..B]) {
                for (sum, dy) in sums.iter_mut().zip(dy) {
                    *sum = multiply_add(*x, *dy, *sum);
                }
            }
        }
    }
    let sums = sums.as_flattened();
    let tile = tile.as_flattened_mut().iter_mut();
    tile.zip(sums).for_each(|(total, sum)| *total += sum);
}

/// With intrinsics: the compiler would keep the sums of blocks of 16 in memory.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn add_products_avx512(tile: &mut [f32; 256], x: &[f32], dy: &[f32], run: Run) {
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps};
    let mut sums = [_mm512_setzero_ps(); 16];
    for row in 0..run.rows {
        let x = x[row * run.x_row..].chunks(run.x_step);
        let dy = dy[row * run.dy_row..].as_chunks::<16>().0;
        for (x, dy) in x.zip(dy).take(run.columns) {
            let Some(x) = x.first_chunk::<16>() else {
                break;
            };
            // SAFETY: dy has 16 numbers.
            let dy = unsafe { _mm512_loadu_ps(dy.as_ptr()) };
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum = _mm512_fmadd_ps(_mm512_set1_ps(*x), dy, *sum);
            }
        }
    }
    add_to_avx512(tile, &sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn add_to_avx512(totals: &mut [f32], sums: &[std::arch::x86_64::__m512]) {
    use std::arch::x86_64::{_mm512_add_ps, _mm512_loadu_ps, _mm512_storeu_ps};
    for (total, sum) in totals.as_chunks_mut::<16>().0.iter_mut().zip(sums) {
        let total = total.as_mut_ptr();
        // SAFETY: total points to 16 numbers.
        unsafe { _mm512_storeu_ps(total, _mm512_add_ps(_mm512_loadu_ps(total), *sum)) };
    }
}

/// As [`add_products`], for one or two blocks of dy and x taken from planes.
fn add_taken<const B: usize>(tiles: &mut [Tile<B>], x: &Taken<B>, dy: [&[f32]; PAIR]) {
    #[cfg(target_arch = "x86_64")]
    {
        if let (16, [a, b]) = (B, &mut *tiles)
            && is_x86_feature_detected!("avx512f")
        {
            let tiles = [a.as_flattened_mut(), b.as_flattened_mut()];
            // SAFETY: the processor has the feature.
            unsafe { add_taken_avx512(tiles, x, dy) }
            return;
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            let tiles = tiles.iter_mut().zip(dy);
            // SAFETY: the processor has the features.
            tiles.for_each(|(tile, dy)| unsafe { add_taken_avx2(tile, x, dy) });
            return;
        }
    }
    let tiles = tiles.iter_mut().zip(dy);
    tiles.for_each(|(tile, dy)| add_taken_by(tile, x, dy, |x, dy, sum| x * dy + sum));
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn add_taken_avx2<const B: usize>(tile: &mut Tile<B>, x: &Taken<B>, dy: &[f32]) {
    add_taken_by(tile, x, dy, f32::mul_add);
}

#[inline(always)]
fn add_taken_by<const B: usize>(
    tile: &mut Tile<B>,
    x: &Taken<B>,
    dy: &[f32],
    multiply_add: impl Fn(f32, f32, f32) -> f32,
) {
    let mut sums = [[0.0; B]; B];
    for (row, dy) in dy.chunks_exact(x.columns * B).enumerate() {
        let from: [&[f32]; B] =
            std::array::from_fn(|lane| &x.padded[row * x.row + x.offsets[lane]..]);
        for (column, dy) in dy.as_chunks::<B>().0.iter().enumerate() {
            for (sums, from) in sums.iter_mut().zip(&from) {
                let x = from[column * x.step];
                for (sum, dy) in sums.iter_mut().zip(dy) {
                    *sum = multiply_add(x, *dy, *sum);
                }
            }
        }
    }
    let sums = sums.as_flattened();
    let tile = tile.as_flattened_mut().iter_mut();
    tile.zip(sums).for_each(|(total, sum)| *total += sum);
}

/// Eight rows of the weight matrix and two blocks of dy at a time: as many pointers as there are
/// registers for.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn add_taken_avx512<const B: usize>(tiles: [&mut [f32]; 2], x: &Taken<B>, dy: [&[f32]; 2]) {
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps};
    let [first, second] = tiles;
    let rows = first
        .chunks_exact_mut(128)
        .zip(second.chunks_exact_mut(128));
    for ((first, second), offsets) in rows.zip(x.offsets.as_chunks::<8>().0) {
        let mut sums = [[_mm512_setzero_ps(); 8]; 2];
        for row in 0..x.rows {
            let reach = (x.columns - 1) * x.step + 1;
            let [a, b] = dy.map(|dy| &dy[row * x.columns * 16..][..x.columns * 16]);
            let from = offsets.map(|offset| &x.padded[row * x.row + offset..][..reach]);
            for column in 0..x.columns {
                // SAFETY: both have 16 numbers for each column.
                let (a, b) = unsafe {
                    let at = column * 16;
                    (
                        _mm512_loadu_ps(a.as_ptr().add(at)),
                        _mm512_loadu_ps(b.as_ptr().add(at)),
                    )
                };
                for (lane, from) in from.iter().enumerate() {
                    // SAFETY: columns end before `columns`, so that this is inside of `reach`.
                    let x = _mm512_set1_ps(unsafe { *from.get_unchecked(column * x.step) });
                    sums[0][lane] = _mm512_fmadd_ps(x, a, sums[0][lane]);
                    sums[1][lane] = _mm512_fmadd_ps(x, b, sums[1][lane]);
                }
            }
        }
        add_to_avx512(first, &sums[0]);
        add_to_avx512(second, &sums[1]);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn drawn(seed: usize, count: usize) -> Vec<f32> {
        (0..count)
            .map(|index| {
                let mixed = ((index + 1) * (seed + 1)) as u32;
                (mixed.wrapping_mul(2_654_435_761) >> 16) as f32 / 32_768.0 - 1.0
            })
            .collect()
    }

    /// NCHWc, with numbers beyond the channels that no answer may depend on.
    pub(crate) fn blocked<const B: usize>(
        planes: &[f32],
        batch: usize,
        [c, h, w]: [usize; 3],
    ) -> Vec<f32> {
        let blocks = c.div_ceil(B);
        let mut values = vec![0.0; batch * blocks * h * w * B];
        for n in 0..batch {
            for channel in 0..c {
                for at in 0..h * w {
                    values[((n * blocks + channel / B) * h * w + at) * B + channel % B] =
                        planes[(n * c + channel) * h * w + at];
                }
            }
        }
        values
    }

    /// By the definition, in f64.
    fn naive(c: &Convolution, x: &[f32], dy: &[f32]) -> (Vec<f64>, Vec<f64>) {
        let ([ic, ih, iw], [oc, oh, ow], [kh, kw]) = (c.input, c.output, c.kernel);
        let mut weight = vec![0.0; oc * ic * kh * kw];
        let mut bias = vec![0.0; oc];
        for n in 0..c.batch {
            for o in 0..oc {
                for at in 0..oh * ow {
                    let dy = f64::from(dy[(n * oc + o) * oh * ow + at]);
                    bias[o] += dy;
                    for row in 0..ic * kh * kw {
                        let (i, ky, kx) = (row / (kh * kw), row / kw % kh, row % kw);
                        let y =
                            (at / ow * c.strides[0] + ky * c.dilations[0]).wrapping_sub(c.pads[0]);
                        let z =
                            (at % ow * c.strides[1] + kx * c.dilations[1]).wrapping_sub(c.pads[1]);
                        if y < ih && z < iw {
                            weight[o * ic * kh * kw + row] +=
                                dy * f64::from(x[((n * ic + i) * ih + y) * iw + z]);
                        }
                    }
                }
            }
        }
        (weight, bias)
    }

    fn check<const B: usize>(c: &Convolution, x: &[f32], dy: &[f32], blocks: [bool; 2]) {
        let (blocked_x, blocked_dy) = (
            blocked::<B>(x, c.batch, c.input),
            blocked::<B>(dy, c.batch, c.output),
        );
        let images = |is_blocked, planes, blocks| {
            if is_blocked {
                Images::Blocks(blocks)
            } else {
                Images::Planes(planes)
            }
        };
        let gradient = WeightGradient::<B>::new(
            c,
            images(blocks[0], x, &blocked_x),
            images(blocks[1], dy, &blocked_dy),
        );
        let (weight, bias) = naive(c, x, dy);
        let (mut found, mut found_bias) =
            (vec![f32::NAN; weight.len()], vec![f32::NAN; bias.len()]);
        for mut task in gradient.tasks(&mut found, &mut found_bias) {
            gradient.run(&mut task);
        }
        let all = found
            .iter()
            .zip(&weight)
            .chain(found_bias.iter().zip(&bias));
        for (found, expected) in all {
            assert!(
                (f64::from(*found) - expected).abs() <= 1e-5 * expected.abs().max(10.0),
                "{found}, {expected}"
            );
        }
    }

    proptest! {
        #[test]
        fn gradients_equal_their_definition(
            batch in 1..3_usize,
            channels in [1..40_usize, 1..40_usize],
            kernel in [1..4_usize, 1..4_usize],
            strides in [1..4_usize, 1..3_usize],
            dilations in [1..3_usize, 1..3_usize],
            pads in [0..4_usize, 0..3_usize],
            places in [1..14_usize, 1..14_usize],
            cut in [0..3_usize, 0..3_usize],
            seed in 0..1000_usize,
        ) {
            // The input ends with the last window, in its padding, or after it.
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
            let x = drawn(seed, batch * c.input.iter().product::<usize>());
            let dy = drawn(seed + 1, batch * c.output.iter().product::<usize>());
            for blocks in [[true, true], [false, true], [true, false], [false, false]] {
                check::<8>(&c, &x, &dy, blocks);
                check::<16>(&c, &x, &dy, blocks);
            }
            let depthwise = Convolution {
                output: [channels[0], places[0], places[1]],
                ..c
            };
            let dy = drawn(seed + 1, batch * depthwise.output.iter().product::<usize>());
            check_depthwise::<1>(&depthwise, &x, &dy);
            check_depthwise::<8>(&depthwise, &x, &dy);
            check_depthwise::<16>(&depthwise, &x, &dy);
        }
    }

    fn check_depthwise<const B: usize>(c: &Convolution, x: &[f32], dy: &[f32]) {
        let (channels, taps) = (c.input[0], c.kernel.iter().product::<usize>());
        let [x_blocks, dy_blocks] = [(x, c.input), (dy, c.output)]
            .map(|(planes, sizes)| blocked::<B>(planes, c.batch, sizes));
        let gradient = DepthwiseGradient::<B>::new(c, &x_blocks, &dy_blocks);
        let (mut weight, mut bias) = (vec![f32::NAN; channels * taps], vec![f32::NAN; channels]);
        let parts = weight.chunks_mut(B * taps).zip(bias.chunks_mut(B));
        for (block, (weight, bias)) in parts.enumerate() {
            gradient.run(block, weight, bias);
        }
        let (all, expected_bias) = naive(c, x, dy);
        let close = |found: f32, expected: f64| {
            assert!((f64::from(found) - expected).abs() <= 1e-5 * expected.abs().max(10.0));
        };
        for channel in 0..channels {
            close(bias[channel], expected_bias[channel]);
            for tap in 0..taps {
                // Each output with its own input.
                let row = (channel * channels + channel) * taps + tap;
                close(weight[channel * taps + tap], all[row]);
            }
        }
    }

    #[test]
    fn every_number_of_a_large_weight_belongs_to_one_task() {
        let convolution = Convolution {
            batch: 1,
            input: [512, 3, 3],
            output: [256, 3, 3],
            kernel: [1, 1],
            strides: [1, 1],
            dilations: [1, 1],
            pads: [0, 0],
        };
        let gradient =
            WeightGradient::<16>::new(&convolution, Images::Blocks(&[]), Images::Blocks(&[]));
        let (mut weight, mut bias) = (vec![0.0; 512 * 256], vec![0.0; 256]);
        let mut tasks = gradient.tasks(&mut weight, &mut bias);
        assert!(tasks.len() >= TASKS);
        let numbers = tasks.iter_mut().flat_map(|task| {
            let weight = task.weight.iter_mut().flat_map(|line| line.iter_mut());
            weight.chain(task.bias.iter_mut())
        });
        numbers.for_each(|number| *number += 1.0);
        assert!(weight.iter().chain(&bias).all(|times| *times == 1.0));
    }
}
