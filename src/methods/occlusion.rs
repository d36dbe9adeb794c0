//! Occlusion: f_c(x) - f_c(x with a window replaced by the baseline), for windows that slide over the
//! input; each element has the mean over the windows that cover it. Zeiler & Fergus 2013, section
//! 4.1. The last windows of an axis end at the border. Sums run in f64. Windows are asked for in
//! rows to and fro, so that each differs in few pixels from the one before. Cost: one evaluation of
//! the forward graph for each window and baseline. Agrees with Captum's Occlusion to 1e-6
//! (tests/parity).

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Answers, Attribution, CHUNK, MethodRun, Question, Run, RunInputs, Step,
    doubts::is_zero,
    head_value,
    parameters::{
        Cost, Group, Kind, Parameter,
        common::{Preset, choose, preset},
    },
    pixels::{Pixels, map_of},
};
use crate::{faults::Fault, picture::preprocess::Layout, tensor::Tensor};

/// The side of an input for which the sizes of presets are meant; those of other inputs grow and
/// shrink with each of their sides.
const USUAL_SIDE: usize = 224;
const LARGEST: u64 = 65_535;

#[derive(Clone, Copy, Debug)]
struct WindowParameters {
    /// Of the model's input.
    pixels: Pixels,
    preset: Preset,
    /// Height and width, where they are given.
    window: Option<[usize; 2]>,
    stride: Option<[usize; 2]>,
    channels: WindowChannels,
}

/// Which channels a window covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WindowChannels {
    All,
    Each,
}

impl Default for WindowParameters {
    fn default() -> Self {
        Self {
            pixels: Pixels::default(),
            preset: Preset::Balance,
            window: None,
            stride: None,
            channels: WindowChannels::All,
        }
    }
}

impl WindowParameters {
    fn scaled(&self, usual: usize) -> [usize; 2] {
        let scaled = |side: usize| (usual * side + USUAL_SIDE / 2) / USUAL_SIDE;
        self.pixels.sides.map(|side| scaled(side).max(1))
    }

    fn window(&self) -> [usize; 2] {
        self.window.unwrap_or_else(|| {
            self.scaled(match self.preset {
                Preset::Speed => 31,
                Preset::Balance | Preset::Quality => 15,
            })
        })
    }

    fn stride(&self) -> [usize; 2] {
        self.stride.unwrap_or_else(|| {
            let stride = self.scaled(match self.preset {
                Preset::Speed => 16,
                Preset::Balance => 8,
                Preset::Quality => 4,
            });
            let window = self.window();
            [0, 1].map(|axis| stride[axis].min(window[axis]))
        })
    }

    /// How many windows lie along each axis.
    fn counts(&self) -> [usize; 2] {
        let (window, stride) = (self.window(), self.stride());
        [0, 1].map(|axis| {
            let rest = self.pixels.sides[axis].saturating_sub(window[axis]);
            rest.div_ceil(stride[axis].max(1)).saturating_add(1)
        })
    }

    /// How many windows lie at each place.
    fn layers(&self) -> usize {
        match self.channels {
            WindowChannels::All => 1,
            WindowChannels::Each => self.pixels.channels,
        }
    }

    fn windows(&self) -> usize {
        let [down, across] = self.counts();
        down.saturating_mul(across).saturating_mul(self.layers())
    }
}

pub static WINDOWS: Group = Group {
    parameters: &[
        preset(
            "Sets window and stride of occlusion for 224 x 224 pixels, scaled to other sizes: speed is 31 and 16, balance 15 and 8, quality 15 and 4.",
            |p, value| {
                choose(value)
                    .map(|preset| p.change(|own: &mut WindowParameters| own.preset = preset))
            },
        ),
        Parameter {
            name: "window",
            kind: Kind::Text {
                forms: SIZES,
                set: |p, value, _| {
                    let size = size(value)?;
                    p.change(|own: &mut WindowParameters| own.window = Some(size));
                    Ok(())
                },
            },
            doc: "The window that is occluded, in pixels of the model's input.",
            from_model: true,
            get: |p| Some(stated(p.group::<WindowParameters>().window())),
        },
        Parameter {
            name: "stride",
            kind: Kind::Text {
                forms: SIZES,
                set: |p, value, _| {
                    let size = size(value)?;
                    p.change(|own: &mut WindowParameters| own.stride = Some(size));
                    Ok(())
                },
            },
            doc: "By how many pixels the window moves down and to the right.",
            from_model: true,
            get: |p| Some(stated(p.group::<WindowParameters>().stride())),
        },
        Parameter {
            name: "window_channels",
            kind: Kind::Choice {
                allowed: &["all", "each"],
                set: |p, value| {
                    choose(value).map(|channels| {
                        p.change(|own: &mut WindowParameters| own.channels = channels)
                    })
                },
            },
            doc: "all: a window covers all channels. each: one channel after another is occluded, and each has its own scores.",
            from_model: false,
            get: |p| Some(json!(p.group::<WindowParameters>().channels)),
        },
    ],
    from_model: |p, facts| {
        let layout = facts
            .input
            .preprocess
            .as_ref()
            .map_or(Layout::Nchw, |rule| rule.layout);
        let pixels = Pixels::of(&facts.input.shape, layout);
        p.change(|own: &mut WindowParameters| own.pixels = pixels);
    },
    check: |p, _, _, faults| {
        let own: WindowParameters = p.group();
        let (window, stride, sides) = (own.window(), own.stride(), own.pixels.sides);
        if larger(window, sides) {
            let message = format!("{} is larger than the input", text(window));
            faults.push(Fault::new(
                "window",
                message,
                [format!("1 to {}", text(sides))],
            ));
        } else if larger(stride, window) {
            let message = format!(
                "{} is larger than the window: pixels between windows would have no score",
                text(stride)
            );
            faults.push(Fault::new(
                "stride",
                message,
                [format!("1 to {}", text(window))],
            ));
        }
    },
};

const SIZES: &[&str] = &["pixels along both sides", "HEIGHTxWIDTH"];

fn larger(one: [usize; 2], other: [usize; 2]) -> bool {
    [0, 1]
        .into_iter()
        .any(|axis| one[axis] > other[axis].max(1))
}

fn size(value: &Value) -> Result<[usize; 2], String> {
    let side = |side: Option<u64>| match side {
        Some(side) if (1..=LARGEST).contains(&side) => Ok(side as usize),
        _ => Err(format!("needs whole numbers of pixels from 1 to {LARGEST}")),
    };
    match value {
        Value::String(text) => match text.trim().split_once('x') {
            Some((height, width)) => Ok([
                side(height.trim().parse().ok())?,
                side(width.trim().parse().ok())?,
            ]),
            None => side(text.trim().parse().ok()).map(|side| [side, side]),
        },
        other => side(other.as_u64()).map(|side| [side, side]),
    }
}

fn stated(size: [usize; 2]) -> Value {
    match size {
        [height, width] if height == width => json!(height),
        other => json!(text(other)),
    }
}

fn text([height, width]: [usize; 2]) -> String {
    format!("{height}x{width}")
}

pub const COST: Cost = Cost {
    words: "windows × baselines forward passes",
    count: |p| {
        let windows = p.group::<WindowParameters>().windows();
        windows.saturating_mul(p.baseline.count())
    },
    asks_input: |_| false,
    // From a window to the one beside it or below it.
    change: |p| {
        let own: WindowParameters = p.group();
        let (window, stride) = (own.window(), own.stride());
        Some([0, 1].map(|axis| (window[axis] + stride[axis]).min(own.pixels.sides[axis])))
    },
};

/// One evaluation.
#[derive(Clone, Copy)]
struct Occluded {
    /// Rows and columns, first and after the last.
    rows: [usize; 2],
    columns: [usize; 2],
    /// `None` for all of them.
    channel: Option<usize>,
    baseline: usize,
}

struct Occlusion {
    inputs: RunInputs,
    own: WindowParameters,
    /// f(x), once it is known.
    value: Option<f64>,
    /// The number of evaluations whose answers have come.
    answered: usize,
    /// For each element of the map, Σ (f(x) - f) over the windows that cover it, and their number.
    sums: Vec<f64>,
    counts: Vec<f64>,
}

pub fn occlusion(inputs: RunInputs) -> MethodRun {
    let own = WindowParameters {
        pixels: Pixels::of(inputs.input.shape(), inputs.layout),
        ..inputs.parameters.group()
    };
    let [height, width] = own.pixels.sides;
    let zeros = vec![0.0; own.layers() * height * width];
    Box::new(Occlusion {
        own,
        value: inputs.input_value,
        answered: 0,
        sums: zeros.clone(),
        counts: zeros,
        inputs,
    })
}

impl Occlusion {
    fn count(&self) -> usize {
        self.own.windows() * self.inputs.baselines.len()
    }

    /// Baselines and channels change first, so that evaluations that follow one another differ in
    /// one window or in two that touch or overlap.
    fn at(&self, number: usize) -> Occluded {
        let baselines = self.inputs.baselines.len();
        let (place, baseline) = (number / baselines, number % baselines);
        let layers = self.own.layers();
        let (place, layer) = (place / layers, place % layers);
        let [_, across] = self.own.counts();
        let (row, along) = (place / across, place % across);
        let column = match row % 2 {
            0 => along,
            _ => across - 1 - along,
        };
        let (window, stride) = (self.own.window(), self.own.stride());
        let span = |axis: usize, at: usize| {
            let (start, side) = (at * stride[axis], self.own.pixels.sides[axis]);
            [start.min(side), (start + window[axis]).min(side)]
        };
        Occluded {
            rows: span(0, row),
            columns: span(1, column),
            channel: (self.own.channels == WindowChannels::Each).then_some(layer),
            baseline,
        }
    }

    fn input(&self, occluded: &Occluded) -> Arc<Tensor> {
        let mut input = self.inputs.input.as_standard_layout().into_owned();
        let baseline = self.inputs.baselines[occluded.baseline].as_standard_layout();
        if let (Some(values), Some(others)) = (input.as_slice_mut(), baseline.as_slice()) {
            let channels = match occluded.channel {
                Some(channel) => channel..channel + 1,
                None => 0..self.own.pixels.channels,
            };
            for channel in channels {
                for y in occluded.rows[0]..occluded.rows[1] {
                    for x in occluded.columns[0]..occluded.columns[1] {
                        let place = self.own.pixels.place(channel, [y, x]);
                        values[place] = others[place];
                    }
                }
            }
        }
        Arc::new(input)
    }

    fn absorb(&mut self, answers: Answers) {
        let RunInputs {
            seed, parameters, ..
        } = &self.inputs;
        let (seed, head) = (seed.clone(), parameters.head);
        let values = answers.rows().into_iter();
        let mut values = values.map(|row| head_value(&row, head, &seed));
        if self.value.is_none() {
            self.value = values.next();
        }
        let Some(clean) = self.value else {
            return;
        };
        for value in values {
            let occluded = self.at(self.answered);
            self.answered += 1;
            let [height, width] = self.own.pixels.sides;
            let layer = occluded.channel.unwrap_or(0) * height;
            for y in occluded.rows[0]..occluded.rows[1] {
                let start = (layer + y) * width;
                let [left, right] = occluded.columns.map(|column| start + column);
                self.sums[left..right]
                    .iter_mut()
                    .for_each(|sum| *sum += clean - value);
                self.counts[left..right]
                    .iter_mut()
                    .for_each(|count| *count += 1.0);
            }
        }
    }

    fn attribution(&self) -> Attribution {
        let shape = self.inputs.input.shape();
        let Pixels {
            channels, sides, ..
        } = self.own.pixels;
        let mean = |at: usize| (self.sums[at] / self.counts[at]) as f32;
        let (shape, scores) = match self.own.channels {
            WindowChannels::All => {
                let scores = (0..self.sums.len()).map(mean).collect();
                (self.own.pixels.map_shape(shape), scores)
            }
            WindowChannels::Each => {
                let mut scores = vec![0.0; self.sums.len()];
                for channel in 0..channels {
                    for y in 0..sides[0] {
                        for x in 0..sides[1] {
                            let place = self.own.pixels.place(channel, [y, x]);
                            scores[place] = mean((channel * sides[0] + y) * sides[1] + x);
                        }
                    }
                }
                (shape.to_vec(), scores)
            }
        };
        let mut attribution = Attribution::of(map_of(shape, scores));
        attribution.input_value = self.value;
        attribution.cause = is_zero(&attribution.scores)
            .then(|| "the target's value is the same wherever the input is occluded".to_owned());
        attribution
    }
}

impl Run for Occlusion {
    type Output = Attribution;

    fn step(&mut self, answers: Answers) -> Step<Attribution> {
        self.absorb(answers);
        let model = &self.inputs.model;
        if self.value.is_none() {
            return Step::Ask(vec![Question::forward(model, [self.inputs.input.clone()])]);
        }
        let next = self.answered..self.count().min(self.answered + CHUNK);
        if next.is_empty() {
            return Step::Done(self.attribution());
        }
        let inputs = next.map(|number| self.input(&self.at(number)));
        Step::Ask(vec![Question::nearby(model, inputs)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::reference::{drive, inputs, row, tensor};

    /// Of an input of this shape, by a function of it.
    fn explained(
        given: Value,
        input: &Tensor,
        layout: Layout,
        baselines: &[f32],
        net: &dyn Fn(&Tensor) -> f64,
    ) -> (Attribution, usize) {
        let mut given = given;
        given["method"] = json!("occlusion");
        // The windows of the facts are those of a row of as many elements: sizes are given.
        let baselines = baselines
            .iter()
            .map(|&value| Arc::new(Tensor::from_elem(input.raw_dim(), value)));
        let flat: Vec<f32> = input.iter().copied().collect();
        let mut parameters = inputs(&json!({"method": "occlusion"}), &flat, &[])
            .parameters
            .as_ref()
            .clone();
        let own = given.as_object().unwrap();
        parameters.change(|values: &mut WindowParameters| {
            values.window = own.get("window").map(|value| size(value).unwrap());
            values.stride = own.get("stride").map(|value| size(value).unwrap());
            if own.get("window_channels") == Some(&json!("each")) {
                values.channels = WindowChannels::Each;
            }
        });
        let run = RunInputs {
            input: Arc::new(input.clone()),
            layout,
            baselines: baselines.collect(),
            parameters: Arc::new(parameters),
            ..inputs(&json!({"method": "occlusion"}), &flat, &[])
        };
        drive(occlusion(run), |_, point| row(&[net(&point.input)], &[]))
    }

    fn pattern(shape: &[usize]) -> Tensor {
        let mut next = 0;
        Tensor::from_shape_simple_fn(shape.to_vec(), || {
            next += 7;
            (next * next % 251) as f32 / 125.0 - 1.0
        })
    }

    /// Every window, and for each pixel the mean of those that cover it.
    fn naive(
        input: &Tensor,
        [window, stride]: [[usize; 2]; 2],
        each: bool,
        baselines: &[f32],
        net: &dyn Fn(&Tensor) -> f64,
    ) -> Tensor {
        let (channels, height, width) = (input.shape()[0], input.shape()[1], input.shape()[2]);
        let layers = if each { channels } else { 1 };
        let (mut sums, mut counts) = (
            ndarray::ArrayD::<f64>::zeros(vec![layers, height, width]),
            ndarray::ArrayD::<f64>::zeros(vec![layers, height, width]),
        );
        let starts = |side: usize, axis: usize| {
            let mut starts = vec![0];
            while starts[starts.len() - 1] + window[axis] < side {
                starts.push(starts[starts.len() - 1] + stride[axis]);
            }
            starts
        };
        for &top in &starts(height, 0) {
            for &left in &starts(width, 1) {
                for layer in 0..layers {
                    for &baseline in baselines {
                        let is_in = |c: usize, y: usize, x: usize| {
                            (!each || c == layer)
                                && (top..top + window[0]).contains(&y)
                                && (left..left + window[1]).contains(&x)
                        };
                        let occluded = Tensor::from_shape_fn(input.raw_dim(), |at| {
                            match is_in(at[0], at[1], at[2]) {
                                true => baseline,
                                false => input[&at],
                            }
                        });
                        let drop = net(input) - net(&occluded);
                        for y in (top..top + window[0]).filter(|y| *y < height) {
                            for x in (left..left + window[1]).filter(|x| *x < width) {
                                sums[[layer, y, x]] += drop;
                                counts[[layer, y, x]] += 1.0;
                            }
                        }
                    }
                }
            }
        }
        (sums / counts).mapv(|value| value as f32)
    }

    #[test]
    fn occlusion_is_its_naive_twin_for_every_window_stride_channel_and_baseline() {
        let input = pattern(&[3, 9, 7]);
        let weights = pattern(&[3, 9, 7]).mapv(|v| v * 0.7 - 0.2);
        let net = |x: &Tensor| f64::from((x * &weights).sum()).tanh();
        for (window, stride, each, baselines) in [
            ([3, 3], [2, 2], false, vec![0.0]),
            ([3, 3], [2, 2], true, vec![0.0]),
            ([4, 2], [3, 1], false, vec![0.5, -1.0]),
            ([9, 7], [1, 1], false, vec![0.0]),
            ([1, 1], [1, 1], true, vec![0.0, 0.25, 1.0]),
            ([5, 5], [5, 5], false, vec![0.0]),
        ] {
            let given = json!({
                "window": text(window), "stride": text(stride),
                "window_channels": if each { "each" } else { "all" },
            });
            let (map, count) = explained(given.clone(), &input, Layout::Nchw, &baselines, &net);
            let expected = naive(&input, [window, stride], each, &baselines, &net);
            assert_eq!(map.scores.shape(), expected.shape());
            for (found, expected) in map.scores.iter().zip(&expected) {
                // The net's values travel as f32.
                assert!(
                    (found - expected).abs() < 1e-6,
                    "{given} {found} {expected}"
                );
            }
            // The same with channels last.
            let last = input.clone().permuted_axes(ndarray::IxDyn(&[1, 2, 0]));
            let turned = |x: &Tensor| net(&x.clone().permuted_axes(ndarray::IxDyn(&[2, 0, 1])));
            let (turned, again) = explained(given, &last, Layout::Nhwc, &baselines, &turned);
            let turned = turned
                .scores
                .view()
                .permuted_axes(ndarray::IxDyn(&[2, 0, 1]));
            assert_eq!((turned, count), (map.scores.view(), again));
        }
    }

    #[test]
    fn windows_follow_one_another_and_each_differs_from_the_one_before_in_what_the_cost_says() {
        let input = pattern(&[2, 20, 13]);
        let mut parameters = inputs(&json!({"method": "occlusion"}), &[0.0; 4], &[])
            .parameters
            .as_ref()
            .clone();
        parameters.change(|own: &mut WindowParameters| {
            own.pixels = Pixels::of(&[2, 20, 13], Layout::Nchw);
            (own.window, own.stride) = (Some([5, 4]), Some([3, 2]));
        });
        assert_eq!((COST.count)(&parameters), 6 * 6);
        let change = (COST.change)(&parameters).unwrap();
        assert_eq!(change, [8, 6]);
        let run = RunInputs {
            input: Arc::new(input.clone()),
            baselines: vec![Arc::new(Tensor::from_elem(input.raw_dim(), 9.0))],
            input_value: Some(0.0),
            parameters: Arc::new(parameters),
            ..inputs(&json!({"method": "occlusion"}), &[0.0; 4], &[])
        };
        let mut before = input;
        let (_, count) = drive(occlusion(run), |_, point| {
            let extent = |axis: usize| {
                let side = before.shape()[axis];
                let differs = |at: &usize| {
                    before.index_axis(ndarray::Axis(axis), *at)
                        != point.input.index_axis(ndarray::Axis(axis), *at)
                };
                let first = (0..side).find(differs).unwrap();
                (0..side).rfind(differs).unwrap() + 1 - first
            };
            assert!(extent(1) <= change[0] && extent(2) <= change[1]);
            before = point.input.as_ref().clone();
            row(&[0.0], &[])
        });
        assert_eq!(count, 36);
    }

    #[test]
    fn sizes_scale_with_the_input_and_those_that_are_given_win() {
        let own = |shape: &[usize]| WindowParameters {
            pixels: Pixels::of(shape, Layout::Nchw),
            ..WindowParameters::default()
        };
        let found = |own: WindowParameters| (own.window(), own.stride(), own.windows());
        assert_eq!(found(own(&[3, 224, 224])), ([15; 2], [8; 2], 28 * 28));
        assert_eq!(found(own(&[3, 448, 112])), ([30, 8], [16, 4], 28 * 27));
        assert_eq!(found(own(&[1, 28, 28])), ([2; 2], [1; 2], 27 * 27));
        assert_eq!(found(own(&[2])), ([1; 2], [1; 2], 2));
        let speed = WindowParameters {
            preset: Preset::Speed,
            ..own(&[3, 224, 224])
        };
        assert_eq!(found(speed), ([31; 2], [16; 2], 14 * 14));
        let quality = WindowParameters {
            preset: Preset::Quality,
            ..own(&[3, 224, 224])
        };
        assert_eq!(found(quality), ([15; 2], [4; 2], 54 * 54));
        let small = WindowParameters {
            window: Some([3, 20]),
            channels: WindowChannels::Each,
            ..own(&[3, 224, 224])
        };
        assert_eq!((small.stride(), small.layers()), ([3, 8], 3));
    }

    #[test]
    fn a_target_that_no_window_moves_is_told() {
        let (map, count) = explained(
            json!({}),
            &tensor([1.0, 2.0]),
            Layout::Nchw,
            &[0.0],
            &|_| 3.0,
        );
        assert!(
            map.cause
                .unwrap()
                .contains("wherever the input is occluded")
        );
        // The input, and two windows of one element.
        assert_eq!((count, map.input_value), (3, Some(3.0)));
    }
}
