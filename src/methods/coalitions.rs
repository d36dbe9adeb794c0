//! Methods that hide regions of the input and look at the target: v(S) is f_c where the regions of S
//! show the input and all others a baseline, the mean of it over several baselines. Regions are
//! those of a partition of the picture; without one, each pixel. Pixels of no region are never
//! hidden, and score 0. An [`Estimate`] says which coalitions S are asked for and what is made of
//! their values; at most a chunk of them is held at once.

use std::{collections::VecDeque, sync::Arc};

use ndarray::Array2;
use rand::{Rng, RngExt};

use super::{
    Answers, Attribution, CHUNK, EndedBy, MethodRun, Question, Run, RunInputs, Segments, Step,
    doubts::{Starts, is_zero},
    halves::Halves,
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
    /// By region; none where no samples are drawn.
    fn halves(&self) -> Option<Halves> {
        None
    }
    /// When all values are known, or so many that the halves suffice.
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

/// Whether all regions are shown.
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
    for (own, region) in regions.iter().zip(0..) {
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
        first_value: None,
        is_moved: false,
        values: 0,
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
    first_value: Option<f64>,
    /// Whether any value differs from the first.
    is_moved: bool,
    /// How many are known.
    values: usize,
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
            self.is_moved |= *self.first_value.get_or_insert(value) != value;
            self.values += 1;
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

    fn attribution(&self, ended_by: EndedBy) -> Attribution {
        let Estimated {
            mut values,
            standard_errors,
            baseline_value,
            warnings,
        } = self.estimate.finish();
        if !self.is_moved {
            // Regressions would leave rounding errors.
            values.fill(0.0);
        }
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
        let halves = || self.estimate.halves();
        Halves::tell(halves, ended_by, &self.inputs.parameters, &mut attribution);
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
                    _ if self.values == 1 => "no region was hidden: raise n_samples",
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
        if Halves::suffice(|| self.estimate.halves(), &self.inputs.parameters) {
            return Step::Done(self.attribution(EndedBy::Tolerance));
        }
        let points = self.next();
        match points.is_empty() {
            true => Step::Done(self.attribution(EndedBy::NSamples)),
            false => Step::Ask(vec![Question::forward(&self.inputs.model, points)]),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        methods::{
            Went,
            halves::correlation,
            reference::{drive, inputs, row},
        },
        segment::{Segmentation, regions::Regions},
    };

    /// The map over this many pixels by a function of them; the baseline is 0 everywhere.
    fn map(given: Value, input: &[f32], value: impl Fn(&[f32]) -> f64) -> (Attribution, usize) {
        let zeros = vec![0.0; input.len()];
        let inputs = inputs(&given, input, &[&zeros]);
        drive((inputs.parameters.method.build)(inputs), |_, point| {
            row(&[value(point.input.as_slice().unwrap())], &[])
        })
    }

    const METHODS: [&str; 4] = [
        "feature_ablation",
        "lime",
        "kernel_shap",
        "shapley_sampling",
    ];
    const WEIGHTS: [f64; 5] = [2.0, -1.0, 0.5, 3.0, -2.5];

    fn linear(x: &[f32]) -> f64 {
        WEIGHTS
            .iter()
            .zip(x)
            .map(|(w, &x)| w * f64::from(x))
            .sum::<f64>()
            + 0.75
    }

    #[test]
    fn of_a_linear_function_each_score_is_the_contribution() {
        for method in METHODS {
            let (map, _) = map(
                json!({"method": method}),
                &[1.0, 2.0, -1.0, 0.5, 1.5],
                linear,
            );
            let expected = [2.0, -2.0, -0.5, 1.5, -3.75];
            // The penalty of LIME's ridge shrinks coefficients a little.
            let tolerance = if method == "lime" { 0.1 } else { 1e-5 };
            for (score, expected) in map.scores.iter().zip(expected) {
                assert!(
                    (score - expected).abs() < tolerance,
                    "{method}: {}",
                    map.scores
                );
            }
            assert_eq!(map.input_value, Some(linear(&[1.0, 2.0, -1.0, 0.5, 1.5])));
        }
    }

    /// Not additive.
    fn mixed(x: &[f32]) -> f64 {
        let x: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
        let pairs: f64 = x.windows(2).map(|pair| pair[0] * pair[1]).sum();
        (pairs + x.iter().product::<f64>() + x[0]).tanh() * 3.0 + x.iter().sum::<f64>().sin()
    }

    /// By its definition, over all coalitions.
    fn shapley(x: &[f32]) -> Vec<f64> {
        let count = x.len();
        let value = |set: usize| {
            let shown = |at: usize| if set >> at & 1 == 1 { x[at] } else { 0.0 };
            mixed(&(0..count).map(shown).collect::<Vec<_>>())
        };
        let values: Vec<f64> = (0..1 << count).map(value).collect();
        let factorial = |n: usize| (1..=n).map(|k| k as f64).product::<f64>();
        let of = |player: usize| {
            let without = (0..1_usize << count).filter(|set| set >> player & 1 == 0);
            let gain = |set: usize| {
                let size = set.count_ones() as usize;
                let weight = factorial(size) * factorial(count - size - 1) / factorial(count);
                weight * (values[set | 1 << player] - values[set])
            };
            without.map(gain).sum()
        };
        (0..count).map(of).collect()
    }

    #[test]
    fn kernel_shap_is_exact_up_to_twelve_regions() {
        let x = [
            0.9, -0.4, 0.7, 1.1, -0.8, 0.3, 0.6, -1.2, 0.5, 1.0, -0.6, 0.2,
        ];
        for count in [1, 2, 3, 4, 7, 11, 12] {
            let (map, evaluations) = map(json!({"method": "kernel_shap"}), &x[..count], mixed);
            assert_eq!(evaluations, 1 << count);
            for (score, expected) in map.scores.iter().zip(shapley(&x[..count])) {
                // f32 rows, and the least squares of 2^12 of them.
                assert!(
                    (f64::from(*score) - expected).abs() < 1e-5,
                    "{count}: {}",
                    map.scores
                );
            }
        }
    }

    #[test]
    fn fewer_coalitions_keep_the_sum_and_come_near() {
        let x = [0.9, -0.4, 0.7, 1.1, -0.8, 0.3, 0.6, -1.2, 0.5, 1.0];
        let whole = mixed(&x) - mixed(&[0.0; 10]);
        let given = json!({"method": "kernel_shap", "n_samples": 500});
        let (kernel, evaluations) = map(given, &x, mixed);
        assert_eq!(evaluations, 502);
        let given = json!({"method": "shapley_sampling", "n_samples": 400});
        let (sampled, evaluations) = map(given, &x, mixed);
        assert_eq!(evaluations, 400 * 9 + 2);
        let errors = sampled.standard_error.clone().unwrap();
        for found in [&kernel, &sampled] {
            let sum: f64 = found.scores.iter().map(|&score| f64::from(score)).sum();
            assert!((sum - whole).abs() < 1e-5);
        }
        for (at, expected) in shapley(&x).into_iter().enumerate() {
            let error = f64::from(errors[at]);
            assert!(
                (f64::from(sampled.scores[at]) - expected).abs() < 4.0 * error,
                "{at}"
            );
            assert!(
                (f64::from(kernel.scores[at]) - expected).abs() < 0.2,
                "{at}"
            );
        }
    }

    #[test]
    fn a_tolerance_ends_the_sampling_early_and_tells_after_how_many() {
        let x: Vec<f32> = (0..16)
            .map(|at| ((at * 7 % 11) as f32 - 4.0) / 5.0)
            .collect();
        for (method, most) in [
            ("lime", 10_000),
            ("kernel_shap", 10_000),
            ("shapley_sampling", 2_000),
        ] {
            let given = json!({"method": method, "n_samples": most, "tolerance": 0.02});
            let (found, evaluations) = map(given.clone(), &x, mixed);
            let refinement = found.refinement.unwrap();
            let Went::NSamples(samples) = refinement.went else {
                panic!("{method}")
            };
            assert_eq!(refinement.ended_by, EndedBy::Tolerance, "{method}");
            assert!(samples * 2 < most, "{method} {samples}");
            assert!(evaluations * 2 < most * 15, "{method} {evaluations}");
            let given = json!({"method": method, "n_samples": most, "seed": 1});
            let many = map(given, &x, mixed).0;
            let values = |map: &Attribution| map.scores.iter().map(|&v| f64::from(v)).collect();
            let likeness = correlation(&[values(&found), values(&many)]);
            assert!(likeness > 0.96, "{method} {likeness}");
            let given = json!({"method": method, "n_samples": 20, "tolerance": 1e-9});
            let few = map(given, &x, mixed).0;
            assert_eq!(few.refinement.unwrap().ended_by, EndedBy::NSamples);
            assert!(
                few.warnings
                    .iter()
                    .any(|said| said.contains("raise n_samples"))
            );
        }
        // What is exact draws nothing.
        let given = json!({"method": "kernel_shap", "tolerance": 0.5});
        let (exact, evaluations) = map(given, &x[..8], mixed);
        assert_eq!((exact.refinement, evaluations), (None, 256));
        assert!(exact.warnings.is_empty());
    }

    #[test]
    fn presets_set_the_number_of_samples_and_what_is_given_wins() {
        let count = |method: &str, more: Value| {
            let mut given = more;
            given["method"] = json!(method);
            given["max_segments"] = json!(20);
            inputs(&given, &[0.0], &[&[0.0]]).parameters.cost(false)
        };
        let speed = json!({"preset": "speed"});
        assert_eq!(count("lime", speed.clone()), 250);
        assert_eq!(count("shapley_sampling", speed.clone()), 10 * 19 + 2);
        assert_eq!(count("kernel_shap", speed), 512 + 2);
        let balance = json!({"preset": "balance"});
        for method in ["lime", "kernel_shap", "shapley_sampling"] {
            assert_eq!(count(method, balance.clone()), count(method, json!({})));
        }
        let quality = json!({"preset": "quality", "n_samples": 7});
        assert_eq!(count("lime", quality.clone()), 7);
        assert_eq!(count("kernel_shap", quality), 7 + 2);
    }

    #[test]
    fn several_baselines_are_averaged_and_few_samples_are_told() {
        let ones = [1.0; 5];
        for method in ["feature_ablation", "kernel_shap", "shapley_sampling"] {
            let given = json!({"method": method, "baseline": "zero+zero", "max_segments": 5});
            let inputs = inputs(&given, &ones, &[&[0.0; 5], &[0.5; 5]]);
            let most = inputs.parameters.cost(false);
            let (map, evaluations) = drive((inputs.parameters.method.build)(inputs), |_, point| {
                row(&[linear(point.input.as_slice().unwrap())], &[])
            });
            assert_eq!(evaluations, most, "{method}");
            for (score, weight) in map.scores.iter().zip(WEIGHTS) {
                assert!((f64::from(*score) - 0.75 * weight).abs() < 1e-5, "{method}");
            }
        }
        let given = json!({"method": "kernel_shap", "n_samples": 2});
        let (map, _) = map(given, &ones, linear);
        assert!(map.warnings[0].contains("n_samples is too small"));
    }

    #[test]
    fn pixels_of_no_region_are_never_hidden_and_regions_are_ranked() {
        for method in METHODS {
            let inputs = inputs(&json!({"method": method}), &[0.0; 12], &[&[0.0; 12]]);
            let shaped = |value: f32| Arc::new(Tensor::from_elem(vec![3, 2, 2], value));
            let inputs = RunInputs {
                input: shaped(1.0),
                baselines: vec![shaped(0.0)],
                segmentation: Arc::new(Segmentation {
                    maps: Vec::new(),
                    regions: Regions::of_pixels((2, 2), [vec![3], vec![0, 1]]),
                }),
                ..inputs
            };
            let (map, _) = drive((inputs.parameters.method.build)(inputs), |_, point| {
                let x = &point.input;
                assert_eq!(x[[0, 1, 0]], 1.0);
                assert_eq!(x[[0, 0, 0]], x[[2, 0, 1]]);
                row(
                    &[f64::from(x[[1, 0, 0]]) + 2.0 * f64::from(x[[2, 1, 1]])],
                    &[],
                )
            });
            let segments = map.segments.unwrap();
            assert_eq!(map.scores.shape(), [1, 2, 2]);
            assert_eq!(
                segments.ranks.iter().copied().collect::<Vec<_>>(),
                [2, 2, 3, 1]
            );
            let areas: Vec<usize> = segments.regions.iter().map(|one| one.area).collect();
            assert_eq!(areas, [1, 2, 1]);
            assert_eq!(
                (map.scores[[0, 1, 0]], map.scores[[0, 0, 0]]),
                (0.0, map.scores[[0, 0, 1]])
            );
            assert_eq!(
                segments.regions[0].standard_error.is_some(),
                method == "shapley_sampling"
            );
        }
    }

    #[test]
    fn a_chunk_is_asked_for_at_once_and_maps_of_nothing_say_why() {
        for method in METHODS {
            let inputs = inputs(&json!({"method": method}), &[1.0; 40], &[&[0.0; 40]]);
            let mut run = (inputs.parameters.method.build)(inputs);
            let Step::Ask(questions) = run.step(Answers::none()) else {
                panic!("it asks")
            };
            let [Question::Rows { points, .. }] = &questions[..] else {
                panic!("for rows")
            };
            assert_eq!(points.len(), CHUNK);
            let same = map(json!({"method": method}), &[0.0, 0.0], linear).0;
            assert!(
                same.cause
                    .unwrap()
                    .contains("the baseline equals the input")
            );
            let still = map(json!({"method": method}), &[1.0, 1.0], |_| 2.0).0;
            assert!(
                still.cause.unwrap().contains("does not move the target"),
                "{method}"
            );
            let nan = map(json!({"method": method}), &[1.0, 1.0], |_| f64::NAN).0;
            assert!(nan.scores.iter().any(|score| score.is_nan()), "{method}");
        }
    }
}
