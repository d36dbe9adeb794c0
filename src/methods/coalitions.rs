//! Methods that hide regions of the input and look at the target: v(S) is f_c where the regions of S
//! show the input and all others a baseline, the mean of it over several baselines. Regions are
//! those of a partition of the picture; without one, each pixel. Pixels of no region are never
//! hidden, and score 0. An [`Estimate`] says which coalitions S are asked for and what is made of
//! their values; at most a chunk of them is held at once.

use std::{collections::VecDeque, sync::Arc};

use ndarray::Array2;
use rand::{Rng, RngExt};

use super::{
    Answers, Attribution, CHUNK, MethodRun, Question, Run, RunInputs, Segments, Step,
    doubts::{Starts, is_zero},
    head_value,
    parameters::Parameters,
    pixels::{Pixels, map_of},
    ranking::Ranked,
    regions::{RegionParameters, SegmentSource},
};
use crate::{segment::regions::UNLABELLED, tensor::Tensor};

/// Which regions are shown, by number.
pub type Coalition = Vec<bool>;

/// Which coalitions a method asks for, and what it makes of their values.
pub trait Estimate: Send {
    /// The next coalition; none when all have been asked for.
    fn next(&mut self) -> Option<Coalition>;
    /// Takes v of a coalition, in the order in which they were asked for.
    fn take(&mut self, shown: &[bool], value: f64);
    /// When all values are known.
    fn finish(&self) -> Estimated;
}

/// By region.
#[derive(Clone, Debug, Default)]
pub struct Estimated {
    pub values: Vec<f64>,
    /// The standard error of each value, of estimates that know it.
    pub standard_errors: Option<Vec<f64>>,
    /// v of no region, where it was asked for.
    pub baseline_value: Option<f64>,
    pub warnings: Vec<String>,
}

/// All regions, and how many v is the mean of.
pub fn is_full(shown: &[bool]) -> bool {
    shown.iter().all(|shown| *shown)
}

/// The most evaluations of `coalitions` coalitions beside that of all regions.
pub fn evaluations(coalitions: usize, parameters: &Parameters) -> usize {
    coalitions
        .saturating_mul(parameters.baseline.count())
        .saturating_add(1)
}

/// A random order of 0..count, by Fisher and Yates: from the last place down, each swapped with one
/// of those up to it.
pub fn permutation(count: usize, generator: &mut impl Rng) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    for place in (1..count).rev() {
        let other = (generator.random::<f64>() * (place + 1) as f64) as usize;
        order.swap(place, other.min(place));
    }
    order
}

/// The run of an estimate for this many regions.
pub fn run<E: Estimate + 'static>(
    inputs: RunInputs,
    estimate: impl FnOnce(usize, &Parameters) -> E,
) -> MethodRun {
    let pixels = Pixels::of(inputs.input.shape(), inputs.layout);
    let [height, width] = pixels.sides;
    let regions = &inputs.segmentation.regions;
    let (players, mut owners) = match regions.is_empty() {
        true => (height * width, Vec::from_iter(0..(height * width) as u32)),
        false => (regions.len(), vec![UNLABELLED; height * width]),
    };
    for (region, own) in regions.iter().zip(0..).map(|(own, region)| (region, own)) {
        for &pixel in own {
            if let Some(owner) = owners.get_mut(pixel as usize) {
                *owner = region;
            }
        }
    }
    Box::new(Game {
        estimate: estimate(players, &inputs.parameters),
        pixels,
        players,
        owners,
        asked: VecDeque::new(),
        copies_asked: 0,
        copies_answered: 0,
        sum: 0.0,
        input_value: None,
        inputs,
    })
}

struct Game<E> {
    inputs: RunInputs,
    estimate: E,
    pixels: Pixels,
    /// Regions.
    players: usize,
    /// The region of each pixel.
    owners: Vec<u32>,
    /// Whose values are not known yet.
    asked: VecDeque<Coalition>,
    /// Points of the last of them that were asked for, unless all were; of the first that were
    /// answered, and the sum of their values.
    copies_asked: usize,
    copies_answered: usize,
    sum: f64,
    input_value: Option<f64>,
}

impl<E: Estimate> Game<E> {
    /// Points that a coalition stands for: one for each baseline, of the whole input itself one.
    fn copies(&self, shown: &[bool]) -> usize {
        match is_full(shown) {
            true => 1,
            false => self.inputs.baselines.len(),
        }
    }

    fn point(&self, shown: &[bool], copy: usize) -> Arc<Tensor> {
        let input = &self.inputs.input;
        if is_full(shown) {
            return input.clone();
        }
        let Some(start) = self.inputs.baselines.get(copy) else {
            return input.clone();
        };
        let mut masked = input.as_standard_layout().into_owned();
        let start = start.as_standard_layout();
        let [height, width] = self.pixels.sides;
        if let (Some(masked), Some(start)) = (masked.as_slice_mut(), start.as_slice()) {
            for (pixel, &owner) in self.owners.iter().enumerate().take(height * width) {
                if shown.get(owner as usize) == Some(&false) {
                    for channel in 0..self.pixels.channels {
                        let place = self.pixels.place(channel, [pixel / width, pixel % width]);
                        masked[place] = start[place];
                    }
                }
            }
        }
        Arc::new(masked)
    }

    fn absorb(&mut self, answers: Answers) {
        let RunInputs {
            seed, parameters, ..
        } = &self.inputs;
        let (head, seed) = (parameters.head, seed.clone());
        for row in answers.rows() {
            self.sum += head_value(&row, head, &seed);
            self.copies_answered += 1;
            let copies = self.asked.front().map_or(0, |shown| self.copies(shown));
            if self.copies_answered < copies {
                continue;
            }
            let value = self.sum / self.copies_answered as f64;
            (self.sum, self.copies_answered) = (0.0, 0);
            if let Some(shown) = self.asked.pop_front() {
                if is_full(&shown) {
                    self.input_value = Some(value);
                }
                self.estimate.take(&shown, value);
            }
        }
    }

    fn next(&mut self) -> Vec<Arc<Tensor>> {
        let mut points = Vec::new();
        while points.len() < CHUNK {
            if self.copies_asked == 0 {
                let Some(shown) = self.estimate.next() else {
                    break;
                };
                self.asked.push_back(shown);
            }
            let Some(shown) = self.asked.back() else {
                break;
            };
            points.push(self.point(shown, self.copies_asked));
            self.copies_asked = match self.copies_asked + 1 < self.copies(shown) {
                true => self.copies_asked + 1,
                false => 0,
            };
        }
        points
    }

    fn attribution(&self) -> Attribution {
        let Estimated {
            values,
            standard_errors,
            baseline_value,
            warnings,
        } = self.estimate.finish();
        let map = |values: &[f64]| {
            let value = |&owner: &u32| values.get(owner as usize).map_or(0.0, |&v| v as f32);
            let shape = self.pixels.map_shape(self.inputs.input.shape());
            map_of(shape, self.owners.iter().map(value).collect())
        };
        let mut attribution = Attribution::of(map(&values));
        attribution.input_value = self.input_value;
        attribution.baseline_value = baseline_value;
        attribution.segments = self.segments(&values, standard_errors.as_deref());
        attribution.standard_error = standard_errors.map(|errors| Arc::new(map(&errors)));
        attribution.warnings = warnings;
        attribution.cause = self.cause(&attribution.scores);
        attribution
    }

    /// The regions of a picture, by falling value.
    fn segments(&self, values: &[f64], errors: Option<&[f64]>) -> Option<Arc<Segments>> {
        let segmentation = &self.inputs.segmentation;
        let regions = &segmentation.regions;
        if regions.is_empty() {
            return None;
        }
        let mut order: Vec<usize> = (0..regions.len().min(values.len())).collect();
        order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
        let mut ranked: Vec<Ranked> = order
            .iter()
            .map(|&region| Ranked {
                area: regions.pixels(region).len(),
                value: values[region],
                standard_error: errors.and_then(|errors| errors.get(region).copied()),
            })
            .collect();
        let left = self
            .owners
            .iter()
            .filter(|owner| **owner == UNLABELLED)
            .count();
        if left > 0 {
            ranked.push(Ranked {
                area: left,
                value: 0.0,
                standard_error: None,
            });
        }
        let mut ranks = vec![order.len() as u32 + 1; order.len()];
        order
            .iter()
            .zip(1..)
            .for_each(|(&region, rank)| ranks[region] = rank);
        let rank = |&owner: &u32| {
            let rank = ranks.get(owner as usize);
            rank.copied().unwrap_or(order.len() as u32 + 1)
        };
        let ranks = self.owners.iter().map(rank).collect();
        Some(Arc::new(Segments {
            segmentation: segmentation.clone(),
            ranks: Array2::from_shape_vec(regions.size(), ranks).ok()?,
            regions: ranked,
        }))
    }

    fn cause(&self, scores: &Tensor) -> Option<String> {
        if is_zero(scores) {
            return Some(
                match Starts::of(&self.inputs).are_input() {
                    true => {
                        "the baseline equals the input: where a region is hidden nothing changes"
                    }
                    false => "hiding regions does not move the target",
                }
                .to_owned(),
            );
        }
        let own: RegionParameters = self.inputs.parameters.group();
        (self.players == 1).then(|| match own.segments {
            SegmentSource::Felzenszwalb => {
                "the map is one region: the segmentation finds no other; send segments of your own"
                    .to_owned()
            }
            SegmentSource::Uploaded => "the map is one region: no other was sent".to_owned(),
        })
    }
}

impl<E: Estimate> Run for Game<E> {
    type Output = Attribution;

    fn step(&mut self, answers: Answers) -> Step<Attribution> {
        self.absorb(answers);
        let points = self.next();
        match points.is_empty() {
            true => Step::Done(self.attribution()),
            false => Step::Ask(vec![Question::forward(&self.inputs.model, points)]),
        }
    }
}
