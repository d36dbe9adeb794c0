//! RISE: Σ f_c(x ⊙ M_k) M_k / (n p) over random masks M_k. A mask is a grid of cells, each 1 with
//! probability p and else 0, enlarged bilinearly to one cell more than the input on each axis, and
//! cut out at a random place. Petsiuk et al. 2018, section 3.2. Mask k: ChaCha8(seed), stream k, by
//! uniforms for the cells in row-major order, the shift down and the shift right. One value per
//! pixel; sums run in f64 in the order of the masks, a chunk of which is held at once. Cost:
//! n_samples evaluations of the forward graph. Agrees with the published code at the same masks to
//! 1e-6 (tests/parity).

use std::sync::Arc;

use rand::RngExt;
use serde_json::json;

use super::{
    Answers, Attribution, CHUNK, EndedBy, MethodRun, Question, Run, RunInputs, Step,
    doubts::one_sample,
    halves::Halves,
    head_value,
    noise::{SampleParameters, n_samples, preset_samples},
    parameters::{
        Cost, Group, Kind, Parameter, Parameters,
        common::{counted, preset},
    },
    pixels::{Pixels, map_of},
};
use crate::{random::generator, tensor::Tensor};
use onnx_autodiff::autodiff::spec::Head;

/// The samples of `preset=balance`.
const BALANCE: u64 = 4000;
/// Halves of fewer masks are not compared: few masks may agree by chance.
const LEAST: usize = 4 * CHUNK;

#[derive(Clone, Copy, Debug)]
struct MaskParameters {
    /// Cells on each axis.
    grid_size: usize,
    /// Of a cell to be kept.
    p_keep: f64,
}

impl Default for MaskParameters {
    fn default() -> Self {
        Self {
            grid_size: 7,
            p_keep: 0.5,
        }
    }
}

pub fn defaults(parameters: &mut Parameters) {
    parameters.head = Head::Probabilities;
    parameters.change(|samples: &mut SampleParameters| samples.n_samples = counted(BALANCE));
}

pub static PRESET: Group = Group::of(&[preset(
    "Sets n_samples of rise: speed is 1000, balance 4000, quality 8000.",
    |p, value| preset_samples(p, value, [BALANCE / 4, BALANCE, BALANCE * 2]),
)]);

pub static MASKS: Group = Group::of(&[
    Parameter {
        name: "grid_size",
        kind: Kind::Integer {
            min: 1,
            max: 64,
            set: |p, n| p.change(|masks: &mut MaskParameters| masks.grid_size = n as usize),
        },
        doc: "The cells of a mask along height and along width; at most one for each pixel.",
        from_model: false,
        get: |p| Some(json!(p.group::<MaskParameters>().grid_size)),
    },
    Parameter {
        name: "p_keep",
        kind: Kind::Number {
            above: 0.0,
            max: 1.0,
            set: |p, share| p.change(|masks: &mut MaskParameters| masks.p_keep = share),
        },
        doc: "The probability that a cell of a mask is kept.",
        from_model: false,
        get: |p| Some(json!(p.group::<MaskParameters>().p_keep)),
    },
]);

pub const COST: Cost = Cost {
    words: "n_samples forward passes (at most, under a tolerance)",
    count: n_samples,
    asks_input: |_| false,
    change: |_| None,
};

/// The masks of a run, each a value in 0..=1 for each pixel.
#[derive(Clone, Copy, Debug)]
struct Masks {
    sides: [usize; 2],
    /// Cells along each axis, and pixels along each side of a cell.
    cells: [usize; 2],
    cell: [usize; 2],
    p_keep: f64,
    seed: u64,
}

/// Where a pixel lies along one axis of the grid: between two cells, at `part` of the way.
#[derive(Clone, Copy)]
struct Between {
    cells: [usize; 2],
    part: f64,
}

impl Masks {
    fn of(pixels: &Pixels, parameters: &Parameters) -> Self {
        let own: MaskParameters = parameters.group();
        let cells = pixels.sides.map(|side| own.grid_size.min(side).max(1));
        Self {
            sides: pixels.sides,
            cells,
            cell: [0, 1].map(|axis| pixels.sides[axis].div_ceil(cells[axis])),
            p_keep: own.p_keep,
            seed: parameters.seed,
        }
    }

    /// Pixel centres are at halves; beyond the centres of the outer cells the grid is reflected, as
    /// in the published code.
    fn along(&self, axis: usize, shift: usize) -> Vec<Between> {
        let cells = self.cells[axis];
        let last = (cells - 1) as f64;
        let enlarged = ((cells + 1) * self.cell[axis]) as f64;
        let between = |pixel: usize| {
            let at = ((pixel + shift) as f64 + 0.5) * cells as f64 / enlarged - 0.5;
            let inside = if at < 0.0 {
                -at
            } else if at > last {
                2.0 * last - at
            } else {
                at
            };
            // A grid of one cell is that cell everywhere.
            let inside = inside.clamp(0.0, last);
            let first = inside as usize;
            Between {
                cells: [first, (first + 1).min(cells - 1)],
                part: inside - first as f64,
            }
        };
        (0..self.sides[axis]).map(between).collect()
    }

    fn draw(&self, sample: usize) -> Vec<f32> {
        let mut generator = generator(self.seed, sample as u64);
        let [rows, columns] = self.cells;
        let grid: Vec<f64> = (0..rows * columns)
            .map(|_| f64::from(u8::from(generator.random::<f64>() < self.p_keep)))
            .collect();
        let [down, right] = self
            .cell
            .map(|size| (generator.random::<f64>() * size as f64) as usize);
        let (ys, xs) = (self.along(0, down), self.along(1, right));
        let mut mask = Vec::with_capacity(ys.len() * xs.len());
        let mut row = vec![0.0; columns];
        for y in &ys {
            let [above, below] = y.cells.map(|cell| &grid[cell * columns..][..columns]);
            for (value, (above, below)) in row.iter_mut().zip(above.iter().zip(below)) {
                *value = above + (below - above) * y.part;
            }
            mask.extend(xs.iter().map(|x| {
                let [left, right] = x.cells.map(|cell| row[cell]);
                (left + (right - left) * x.part) as f32
            }));
        }
        mask
    }
}

struct Sampling {
    inputs: RunInputs,
    pixels: Pixels,
    masks: Masks,
    /// Those whose answers are awaited.
    asked: Vec<Vec<f32>>,
    answered: usize,
    /// Σ f M over the masks of even number, and over the others.
    halves: [Vec<f64>; 2],
    /// Σ (f M)² over all.
    squares: Vec<f64>,
    /// The least and the largest f.
    values: [f64; 2],
}

pub fn sampled(inputs: RunInputs) -> MethodRun {
    let pixels = Pixels::of(inputs.input.shape(), inputs.layout);
    let [height, width] = pixels.sides;
    let zeros = vec![0.0; height * width];
    Box::new(Sampling {
        pixels,
        masks: Masks::of(&pixels, &inputs.parameters),
        asked: Vec::new(),
        answered: 0,
        halves: [zeros.clone(), zeros.clone()],
        squares: zeros,
        values: [f64::INFINITY, f64::NEG_INFINITY],
        inputs,
    })
}

impl Sampling {
    fn absorb(&mut self, answers: Answers) {
        let RunInputs {
            seed, parameters, ..
        } = &self.inputs;
        for (mask, row) in self.asked.drain(..).zip(answers.rows()) {
            let value = head_value(&row, parameters.head, seed);
            let [least, largest] = self.values;
            self.values = [least.min(value), largest.max(value)];
            let half = &mut self.halves[self.answered % 2];
            self.answered += 1;
            for ((sum, square), mask) in half.iter_mut().zip(&mut self.squares).zip(mask) {
                let term = value * f64::from(mask);
                *sum += term;
                *square += term * term;
            }
        }
    }

    /// Why the run ends here, if it does.
    fn end(&self) -> Option<EndedBy> {
        if Halves::suffice(|| Some(self.halves()), &self.inputs.parameters) {
            return Some(EndedBy::Tolerance);
        }
        (self.answered >= n_samples(&self.inputs.parameters)).then_some(EndedBy::NSamples)
    }

    fn halves(&self) -> Halves {
        Halves {
            samples: self.answered,
            are_enough: self.answered >= LEAST,
            estimates: self.halves.clone(),
        }
    }

    fn masked(&self, mask: &[f32]) -> Arc<Tensor> {
        let mut input = self.inputs.input.as_standard_layout().into_owned();
        if let Some(values) = input.as_slice_mut() {
            self.pixels.multiply(values, mask);
        }
        Arc::new(input)
    }

    fn attribution(&self, ended_by: EndedBy) -> Attribution {
        let shape = || self.pixels.map_shape(self.inputs.input.shape());
        let (count, p) = (self.answered as f64, self.masks.p_keep);
        let sums: Vec<f64> = self.halves[0]
            .iter()
            .zip(&self.halves[1])
            .map(|(even, odd)| even + odd)
            .collect();
        let scores = sums.iter().map(|sum| (sum / count / p) as f32).collect();
        let mut attribution = Attribution::of(map_of(shape(), scores));
        if self.answered > 1 {
            let error = |(sum, square): (&f64, &f64)| {
                let variance = (square - sum * sum / count).max(0.0) / (count - 1.0);
                ((variance / count).sqrt() / p) as f32
            };
            let errors = sums.iter().zip(&self.squares).map(error).collect();
            attribution.standard_error = Some(Arc::new(map_of(shape(), errors)));
        }
        attribution.warnings.extend(one_sample(self.answered));
        let [least, largest] = self.values;
        if least == largest && self.answered > 1 {
            let said = "the target's value is the same behind every mask: the map shows where the masks lie, and nothing of the model";
            attribution.warnings.push(said.to_owned());
        }
        let halves = || Some(self.halves());
        Halves::tell(halves, ended_by, &self.inputs.parameters, &mut attribution);
        attribution
    }
}

impl Run for Sampling {
    type Output = Attribution;

    fn step(&mut self, answers: Answers) -> Step<Attribution> {
        self.absorb(answers);
        if let Some(ended_by) = self.end() {
            return Step::Done(self.attribution(ended_by));
        }
        let left = n_samples(&self.inputs.parameters) - self.answered;
        let next = self.answered..self.answered + left.min(CHUNK);
        self.asked = next.map(|sample| self.masks.draw(sample)).collect();
        let inputs = self.asked.iter().map(|mask| self.masked(mask));
        Step::Ask(vec![Question::forward(&self.inputs.model, inputs)])
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        engine::Row,
        methods::{
            Refinement, Went,
            halves::correlation,
            reference::{drive, inputs, row},
        },
        picture::preprocess::Layout,
    };

    /// Of an input of zeros and ones that shows masks as they are, by a target that is the mean of
    /// its first half.
    fn explained(given: Value, shape: &[usize], layout: Layout) -> (Attribution, usize) {
        let size = shape.iter().product();
        let mut given = given;
        given["method"] = json!("rise");
        given["head"] = json!("logits");
        let inputs = RunInputs {
            input: Arc::new(Tensor::ones(shape.to_vec())),
            layout,
            ..inputs(&given, &vec![1.0; size], &[])
        };
        drive(sampled(inputs), |_, point| half(&point.input))
    }

    fn half(input: &Tensor) -> Row {
        let size = input.len() / 2;
        let sum: f64 = input.iter().take(size).map(|&v| f64::from(v)).sum();
        row(&[sum / size as f64], &[])
    }

    #[test]
    fn masks_of_one_pixel_per_cell_lie_between_cells_and_keep_p_of_the_input() {
        let pixels = Pixels::of(&[1, 60, 44], Layout::Nchw);
        let given = json!({"method": "rise", "grid_size": 7, "p_keep": 0.3});
        let parameters = inputs(&given, &[0.0], &[]).parameters;
        let masks = Masks::of(&pixels, &parameters);
        assert_eq!((masks.cells, masks.cell), ([7, 7], [9, 7]));
        let mut sum = 0.0;
        for sample in 0..400 {
            let mask = masks.draw(sample);
            assert_eq!(mask.len(), 60 * 44);
            assert!(mask.iter().all(|value| (0.0..=1.0).contains(value)));
            sum += mask.iter().map(|&value| f64::from(value)).sum::<f64>() / mask.len() as f64;
        }
        // 49 cells in 400 masks: a standard error of 0.004, as neighbours share cells.
        assert!((sum / 400.0 - 0.3).abs() < 0.015, "{}", sum / 400.0);
        // A grid is no finer than the input.
        let masks = Masks::of(&Pixels::of(&[2], Layout::Nchw), &parameters);
        assert_eq!((masks.cells, masks.cell), ([1, 2], [1, 1]));
    }

    #[test]
    fn a_mask_is_the_grid_enlarged_as_the_published_code_enlarges_it() {
        // skimage.transform.resize([[0, 1], [1, 1]], (6, 6), order=1, mode="reflect"), its rows and
        // columns 1 to 4.
        let masks = Masks {
            sides: [4, 4],
            cells: [2, 2],
            cell: [2, 2],
            p_keep: 0.5,
            seed: 0,
        };
        let between = masks.along(0, 1);
        let found: Vec<f64> = between
            .iter()
            .map(|at| at.cells[0] as f64 + at.part)
            .collect();
        for (found, expected) in found.iter().zip([0.0, 1.0 / 3.0, 2.0 / 3.0, 1.0]) {
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
        // Reflected beyond the centres of the outer cells.
        let first = masks.along(0, 0)[0];
        assert!((first.cells[0] as f64 + first.part - 1.0 / 3.0).abs() < 1e-12);
        let last = masks.along(0, 2)[3];
        assert!((last.cells[0] as f64 + last.part - 2.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn what_counts_stands_out_in_both_layouts_and_without_axes_of_pixels() {
        for (shape, layout, expected) in [
            (vec![2, 12, 8], Layout::Nchw, vec![1, 12, 8]),
            (vec![12, 8, 2], Layout::Nhwc, vec![12, 8, 1]),
            (vec![12, 8], Layout::Nchw, vec![12, 8]),
            (vec![40], Layout::Nchw, vec![40]),
        ] {
            let (map, count) = explained(json!({"n_samples": 600}), &shape, layout);
            assert_eq!((map.scores.shape(), count), (expected.as_slice(), 600));
            if shape.len() == 3 && layout == Layout::Nchw {
                continue;
            }
            let scores: Vec<f32> = map.scores.iter().copied().collect();
            let (first, last) = scores.split_at(scores.len() / 2);
            let mean = |part: &[f32]| part.iter().sum::<f32>() / part.len() as f32;
            assert!(mean(first) > mean(last) + 0.03, "{shape:?}");
        }
    }

    #[test]
    fn the_standard_error_is_the_spread_of_maps_by_other_seeds() {
        let maps: Vec<Attribution> = (0..60)
            .map(|seed| {
                let given = json!({"n_samples": 200, "seed": seed});
                explained(given, &[1, 10, 10], Layout::Nchw).0
            })
            .collect();
        let errors = maps[0].standard_error.as_ref().unwrap();
        for at in [[0, 0, 0], [0, 5, 3], [0, 9, 9]] {
            let scores: Vec<f64> = maps.iter().map(|map| f64::from(map.scores[at])).collect();
            let mean = scores.iter().sum::<f64>() / 60.0;
            let spread = (scores.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 59.0).sqrt();
            let ratio = f64::from(errors[at]) / spread;
            // The deviation of 60 values is known to 9 %.
            assert!((0.7..1.4).contains(&ratio), "{at:?} {ratio}");
        }
    }

    /// Of the first pixel, which is 1, against its mean behind masks.
    fn of_first(given: Value) -> (Attribution, usize) {
        let mut given = given;
        given["method"] = json!("rise");
        given["head"] = json!("logits");
        let inputs = RunInputs {
            input: Arc::new(Tensor::ones(vec![1, 14, 14])),
            ..inputs(&given, &[1.0; 196], &[])
        };
        drive(sampled(inputs), |_, point| {
            let first = point.input.first().copied().unwrap_or_default();
            row(&[f64::from(first) - 0.5], &[])
        })
    }

    #[test]
    fn a_tolerance_ends_the_sampling_early_and_tells_after_how_many() {
        let (map, count) = of_first(json!({"n_samples": 10_000, "tolerance": 0.02}));
        let refinement = map.refinement.unwrap();
        assert_eq!(
            refinement,
            Refinement {
                went: Went::NSamples(count),
                ended_by: EndedBy::Tolerance
            }
        );
        assert!((LEAST..5_000).contains(&count), "{count}");
        // As like the map of many others as was asked for, but for the errors of both estimates.
        let many = of_first(json!({"n_samples": 10_000, "seed": 1})).0;
        let values = [&map, &many].map(|map| map.scores.iter().map(|&v| f64::from(v)).collect());
        let found = correlation(&values);
        assert!((0.96..0.995).contains(&found), "{found}");
        // Fewer masks are the first of more.
        let whole = of_first(json!({ "n_samples": count })).0;
        assert!(whole.scores == map.scores && whole.refinement.is_none());
        let (map, count) = of_first(json!({"n_samples": 40, "tolerance": 1e-9}));
        assert_eq!(
            (count, map.refinement.unwrap().ended_by),
            (40, EndedBy::NSamples)
        );
        assert!(map.warnings[0].contains("raise n_samples"));
    }

    #[test]
    fn presets_set_the_number_of_samples_and_what_is_given_wins() {
        let count = |given: Value| {
            let mut given = given;
            given["method"] = json!("rise");
            (COST.count)(&inputs(&given, &[0.0], &[]).parameters)
        };
        assert_eq!(count(json!({})), 4000);
        assert_eq!(count(json!({"preset": "speed"})), 1000);
        assert_eq!(count(json!({"preset": "quality"})), 8000);
        assert_eq!(count(json!({"n_samples": 7, "preset": "quality"})), 7);
        // The passes serve both targets.
        let given = json!({"method": "rise", "target": "top:2"});
        assert_eq!(inputs(&given, &[0.0], &[]).parameters.cost(true), 4001);
    }

    #[test]
    fn a_target_that_no_mask_moves_is_told() {
        let given = json!({"method": "rise", "n_samples": 50});
        let inputs = inputs(&given, &[1.0, 2.0], &[]);
        let (map, _) = drive(sampled(inputs), |_, _| row(&[1.0, 0.0], &[]));
        assert!(map.warnings[0].contains("the same behind every mask"));
    }

    #[test]
    fn many_samples_are_asked_for_in_chunks() {
        let inputs = inputs(&json!({"method": "rise"}), &[1.0, 3.0], &[]);
        let mut run = sampled(inputs);
        let Step::Ask(questions) = run.step(Answers::none()) else {
            panic!("it asks")
        };
        let [Question::Rows { points, .. }] = &questions[..] else {
            panic!("for rows")
        };
        assert_eq!(points.len(), CHUNK);
    }
}
