//! The mean attribution of a region, g_c, which the metrics of BAM compare: Yang & Kim, Benchmarking
//! Attribution Methods with Relative Feature Importance, 2019, section 4.1. As in the authors' code,
//! the positive parts of a pixel's channels are summed, and the sums scaled from 0 for the lowest to
//! 1 for their 99th percentile, where they are cut. A row of magnitudes has those in place of the
//! positive parts. Of a map of equal pixels all are 0.

use std::sync::Arc;

use ndarray::{Array2, Axis, s};
use rand::RngExt;

use super::{
    Case, Direction, MetricError, NotFinite,
    noise::PLACES,
    parameters::{Allowed, MetricParameter, Values},
    patches::Score,
};
use crate::{picture::preprocess::Layout, random::generator, tensor::Tensor};

/// Of all pixels, those that are not cut.
const UNCUT: f64 = 0.99;

/// Says which of the regions is read.
pub const REGION: MetricParameter = MetricParameter {
    name: "region",
    doc: "`object` (the labelled object) or `random` (its form at a place drawn for each image: what chance comes to)",
    allowed: |_, _| Allowed::OneOf {
        words: &["object", "random"],
        default: Some("object"),
    },
};

/// A number for each region that is measured, in the order of the words of [`REGION`].
pub type OfRegions = [f64; 2];

/// That of the region that is read.
pub fn read(values: &Values, of_regions: OfRegions) -> f64 {
    let [object, random] = of_regions;
    match values.word(REGION.name) {
        Some("random") => random,
        _ => object,
    }
}

/// A random region is what the object is held against.
pub fn direction(values: &Values) -> Direction {
    match values.word(REGION.name) {
        Some("random") => Direction::Neither,
        _ => Direction::Higher,
    }
}

/// What the region that is read is called.
pub fn name(values: &Values) -> &'static str {
    match values.word(REGION.name) {
        Some("random") => "as many pixels of the object's form at a random place",
        _ => "the labelled object",
    }
}

/// The labelled object of a case, and its form at a place drawn evenly from all where its bounding
/// box is inside the input.
#[derive(Clone)]
pub struct Regions([Arc<Array2<bool>>; 2]);

impl Regions {
    pub fn of(case: &Case) -> Result<Self, MetricError> {
        let object = case.region.clone().ok_or(MetricError::Region)?;
        let random = Arc::new(moved(&object, case.seed));
        Ok(Self([object, random]))
    }

    /// The mean attribution of each by a map.
    pub fn attributions(
        &self,
        scores: &Tensor,
        score: Score,
        layout: Layout,
    ) -> Result<OfRegions, NotFinite> {
        if !scores.iter().all(|score| score.is_finite()) {
            return Err(NotFinite(
                "a map of another input or model has values that are not finite",
            ));
        }
        let pixels = scaled(&match score {
            Score::Signed => Score::Signed.pixels(&scores.mapv(|score| score.max(0.0)), layout),
            Score::Absolute => score.pixels(scores, layout),
        });
        Ok(self.0.each_ref().map(|region| mean(&pixels, region)))
    }
}

fn mean(pixels: &[f64], region: &Array2<bool>) -> f64 {
    let inside = pixels.iter().zip(region).filter(|(_, inside)| **inside);
    let (sum, count) = inside.fold((0.0, 0.0), |(sum, count), (pixel, _)| {
        (sum + pixel, count + 1.0)
    });
    sum / count
}

/// From 0 for the lowest to 1 for the 99th percentile, which is interpolated as numpy does. What lies
/// above is 1.
fn scaled(pixels: &[f64]) -> Vec<f64> {
    if pixels.is_empty() {
        return Vec::new();
    }
    let place = UNCUT * (pixels.len() - 1) as f64;
    let mut ordered = pixels.to_vec();
    let (below, at, above) = ordered.select_nth_unstable_by(place as usize, f64::total_cmp);
    let low = below.iter().fold(*at, |low, pixel| low.min(*pixel));
    let next = above.iter().copied().reduce(f64::min).unwrap_or(*at);
    let range = *at + place.fract() * (next - *at) - low;
    let scale = |pixel: &f64| match pixel - low {
        height if height < range => height / range,
        height => f64::from(u8::from(height > 0.0)),
    };
    pixels.iter().map(scale).collect()
}

/// A region's form at another place.
fn moved(region: &Array2<bool>, seed: u64) -> Array2<bool> {
    let [rows, columns] = [Axis(0), Axis(1)].map(|axis| {
        let is_met: Vec<bool> = region
            .axis_iter(axis)
            .map(|line| line.iter().any(|inside| *inside))
            .collect();
        let first = is_met.iter().position(|met| *met).unwrap_or(0);
        let last = is_met.iter().rposition(|met| *met).unwrap_or(first);
        first..(last + 1).min(is_met.len())
    });
    let mut random = generator(seed, PLACES);
    let mut place = |size: usize, length: usize| random.random_range(0..=size - length);
    let (top, left) = (
        place(region.nrows(), rows.len()),
        place(region.ncols(), columns.len()),
    );
    let mut moved = Array2::from_elem(region.dim(), false);
    let (height, width) = (rows.len(), columns.len());
    moved
        .slice_mut(s![top..top + height, left..left + width])
        .assign(&region.slice(s![rows, columns]));
    moved
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::tests::{case, tensor};

    /// Regions of which the random one is that at this place.
    fn regions(object: Array2<bool>, random: Array2<bool>) -> Regions {
        Regions([Arc::new(object), Arc::new(random)])
    }

    #[test]
    fn the_pixels_of_a_hand_worked_map_are_scaled_to_their_99th_percentile() {
        // 0, 1, ..., 10: place .99 · 10 = 9.9 lies at 9.9.
        let pixels: Vec<f64> = (0..=10).map(f64::from).collect();
        for (place, found) in scaled(&pixels).into_iter().enumerate() {
            let expected = (place as f64 / 9.9).min(1.0);
            assert!((found - expected).abs() < 1e-12, "{place}: {found}");
        }
        assert_eq!(scaled(&[5.0, 6.0]), [0.0, 1.0]);
        assert_eq!(scaled(&[3.0; 7]), [0.0; 7]);
        // One of 200 that is not 0: the percentile is 0, too.
        let mut single = vec![0.0; 200];
        single[7] = 0.25;
        let found = scaled(&single);
        assert_eq!((found[7], found.iter().sum::<f64>()), (1.0, 1.0));
        assert!(scaled(&[]).is_empty());
    }

    /// As the authors' code has it: numpy's percentile by sorting, and numpy's clip.
    #[test]
    fn scaling_agrees_with_a_naive_twin() {
        let pixels: Vec<f64> = (0..1000)
            .map(|at: u32| f64::from(at * 7919 % 1009) / 17.0)
            .collect();
        let mut sorted = pixels.clone();
        sorted.sort_by(f64::total_cmp);
        let place: f64 = 0.99 * 999.0;
        let (low, part) = (place as usize, place.fract());
        let most = sorted[low] + (sorted[low + 1] - sorted[low]) * part;
        let least = sorted[0];
        for (found, pixel) in scaled(&pixels).iter().zip(&pixels) {
            let expected = ((pixel - least) / (most - least)).clamp(0.0, 1.0);
            assert!((found - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn attributions_are_means_of_positive_parts_or_of_magnitudes() {
        // Two channels of 1 x 3 pixels: positive parts 1 0 4, magnitudes 3 2 4. The percentile of
        // three pixels lies at place 1.98: 3.94, and 3.98.
        let scores = tensor(&[2, 1, 3], &[1.0, -2.0, 3.0, -2.0, 0.0, 1.0]);
        let row = |inside: [bool; 3]| Array2::from_shape_vec((1, 3), inside.to_vec()).unwrap();
        let regions = regions(row([true, true, false]), row([false, true, true]));
        let of = |score| regions.attributions(&scores, score, Layout::Nchw).unwrap();
        let near = |found: OfRegions, expected: OfRegions| {
            let gaps = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
            assert!(gaps.fold(0.0, f64::max) < 1e-12, "{found:?} {expected:?}");
        };
        near(of(Score::Signed), [1.0 / 3.94 / 2.0, 0.5]);
        near(of(Score::Absolute), [1.0 / 1.98 / 2.0, 0.5]);
        let endless = tensor(&[1, 1, 3], &[1.0, f32::INFINITY, 0.0]);
        let found = regions.attributions(&endless, Score::Signed, Layout::Nchw);
        assert!(found.is_err());
    }

    /// An L of 2 x 3 pixels in 4 x 5: nine places.
    #[test]
    fn a_moved_region_keeps_its_form_and_is_everywhere_as_often() {
        let form = [[true, false, false], [true, true, true]];
        let at = |top: usize, left: usize| {
            Array2::from_shape_fn((4, 5), |(row, column)| {
                let (row, column) = (row.wrapping_sub(top), column.wrapping_sub(left));
                row < 2 && column < 3 && form[row][column]
            })
        };
        let places: Vec<_> = (0..9).map(|place| at(place / 3, place % 3)).collect();
        let mut met = [0; 9];
        for seed in 0..900 {
            let found = moved(&at(2, 1), seed);
            met[places.iter().position(|place| *place == found).unwrap()] += 1;
        }
        // 100 each; the standard deviation is 9.4.
        assert!(
            met.iter().all(|count| (60..=140).contains(count)),
            "{met:?}"
        );
        let all = Array2::from_elem((3, 2), true);
        assert_eq!(moved(&all, 3), all);
    }

    #[test]
    fn the_regions_of_a_case_are_drawn_by_its_seed() {
        let mut case = case(tensor(&[1, 8, 8], &[0.0; 64]), &[Score::Signed]);
        assert!(matches!(Regions::of(&case), Err(MetricError::Region)));
        let object = Array2::from_shape_fn((8, 8), |(row, column)| row < 2 && column < 2);
        case.region = Some(Arc::new(object.clone()));
        let drawn = |seed| {
            let Regions([of_case, random]) = Regions::of(&Case {
                seed,
                ..case.clone()
            })
            .unwrap();
            assert_eq!(*of_case, object);
            random
        };
        assert_eq!(drawn(1), drawn(1));
        assert!((2..12).any(|seed| drawn(seed) != drawn(1)));
    }
}
