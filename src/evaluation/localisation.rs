//! Localisation: whether what a map ranks highest lies on the object that the image is labelled
//! with, by its mask or boxes on the model's input. Metrics differ in what of the map they look at:
//! its maximum, its highest pixels, its positive part, or its magnitudes. Cost: none. Of pixels that
//! are equal where a metric cuts, each counts for the same part, so that a map of equal pixels has
//! the object's share of the input, which is what chance comes to.

use ndarray::Array2;

use super::{
    Case, Category, Direction, Metric, MetricError, MetricRun, Needs, Reading, Words, input_size,
    parameters::{Allowed, MetricParameter, Values},
    pixels::of_pixels,
};

pub const POINTING_GAME: Metric = localisation(
    [
        "pointing_game",
        "Pointing game",
        "Zhang et al., Top-down Neural Attention by Excitation Backprop, 2018",
    ],
    &[MetricParameter {
        name: "tolerance",
        doc: "pixels of the model's input that the maximum may lie away from the object",
        allowed: |model, _| {
            let [height, width] = input_size(model).unwrap_or_default();
            let most = height.max(width);
            Allowed::Whole {
                least: 0,
                most,
                default: 15.min(most),
            }
        },
    }],
    Words {
        about: |values| {
            format!(
                "Whether the highest pixel of a map lies on the labelled object, or within {} pixels of it.",
                values.number("tolerance")
            )
        },
        heading: "Hit rate",
        column: "hit rate",
        legend: "hit rate (1: the highest pixel always lies on the object)",
        value: "The mean over images. Where several pixels are highest, the share of them that hit.",
        axes: None,
    },
    |case, values| {
        let tolerance = values.number("tolerance");
        run(case, move |pixels, region| {
            pointing(pixels, region, tolerance)
        })
    },
);

pub const ENERGY_POINTING: Metric = localisation(
    [
        "energy_pointing",
        "Energy-based pointing game",
        "Wang et al., Score-CAM, 2020",
    ],
    &[],
    Words {
        about: |_| {
            "The share of the positive part of a map that lies on the labelled object.".to_owned()
        },
        heading: "Share on the object",
        column: "share",
        legend: "share of the positive part on the object",
        value: "The mean over images. A map without a positive part has 0.",
        axes: None,
    },
    |case, _| {
        run(case, |pixels, region| {
            share(pixels.iter().map(|value| value.max(0.0)), region)
        })
    },
);

pub const RELEVANCE_MASS: Metric = localisation(
    [
        "relevance_mass",
        "Relevance mass accuracy",
        "Arras et al., CLEVR-XAI, 2022",
    ],
    &[],
    Words {
        about: |_| {
            "The share of the magnitudes of a map's pixels that lies on the labelled object."
                .to_owned()
        },
        heading: "Share on the object",
        column: "share",
        legend: "share of the magnitudes on the object",
        value: "The mean over images. A map of zeros has 0.",
        axes: None,
    },
    |case, _| {
        run(case, |pixels, region| {
            share(pixels.iter().map(|value| value.abs()), region)
        })
    },
);

pub const RELEVANCE_RANK: Metric = localisation(
    [
        "relevance_rank",
        "Relevance rank accuracy",
        "Arras et al., CLEVR-XAI, 2022",
    ],
    &[],
    Words {
        about: |_| {
            "Of a map's highest pixels, as many as the labelled object has, the share that lies on the object."
                .to_owned()
        },
        heading: "Share on the object",
        column: "share",
        legend: "share of the highest pixels on the object",
        value: "The mean over images.",
        axes: None,
    },
    |case, _| {
        run(case, |pixels, region| {
            let size = region.iter().filter(|is_inside| **is_inside).count();
            highest_inside(pixels, region, size)
        })
    },
);

pub const TOP_K_INTERSECTION: Metric = localisation(
    [
        "top_k_intersection",
        "Top-k intersection",
        "Theiner et al., Interpretable Semantic Photo Geolocation, 2022",
    ],
    &[MetricParameter {
        name: "k",
        doc: "the number of highest pixels",
        allowed: |model, _| match input_size(model).unwrap_or_default().iter().product() {
            0 => Allowed::Never("the model's input is no picture"),
            most => Allowed::Whole {
                least: 1,
                most,
                default: 1000.min(most),
            },
        },
    }],
    Words {
        about: |values| {
            format!(
                "The share of the {} highest pixels of a map that lies on the labelled object.",
                values.number("k")
            )
        },
        heading: "Share on the object",
        column: "share",
        legend: "share of the k highest pixels on the object",
        value: "The mean over images. Where the object has fewer pixels than k, no map has 1.",
        axes: None,
    },
    |case, values| {
        let k = values.number("k");
        run(case, move |pixels, region| {
            highest_inside(pixels, region, k)
        })
    },
);

type Build = fn(&Case, &Values) -> Result<Vec<MetricRun>, MetricError>;

/// The row of a metric of this file.
const fn localisation(
    [id, title, paper]: [&'static str; 3],
    parameters: &'static [MetricParameter],
    words: Words,
    build: Build,
) -> Metric {
    Metric {
        id,
        title,
        paper,
        category: Category::Localisation,
        direction: |_| Direction::Higher,
        parameters,
        words,
        needs: Needs {
            region: true,
            ..Needs::NOTHING
        },
        build,
        reading: Reading::NUMBER,
    }
}

/// One run for all rows; `number` is given a row's pixels and the region.
fn run<F>(case: &Case, number: F) -> Result<Vec<MetricRun>, MetricError>
where
    F: Fn(&[f64], &Array2<bool>) -> f64 + Send + 'static,
{
    let region = case.region.clone().ok_or(MetricError::Region)?;
    Ok(vec![of_pixels(case, move |pixels| number(pixels, &region))])
}

/// Of values that are not negative, the part inside; 0 where all of them are 0.
fn share(values: impl Iterator<Item = f64>, region: &Array2<bool>) -> f64 {
    let (mut inside, mut all) = (0.0, 0.0);
    for (value, is_inside) in values.zip(region) {
        all += value;
        inside += if *is_inside { value } else { 0.0 };
    }
    if all == 0.0 { 0.0 } else { inside / all }
}

/// The part of the `count` highest pixels that lies inside.
fn highest_inside(pixels: &[f64], region: &Array2<bool>, count: usize) -> f64 {
    let mut order: Vec<(f64, bool)> = pixels.iter().copied().zip(region.iter().copied()).collect();
    order.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut left, mut inside) = (count, 0.0);
    for level in order.chunk_by(|a, b| a.0 == b.0) {
        let hits = level.iter().filter(|(_, is_inside)| *is_inside).count();
        let taken = level.len().min(left);
        inside += taken as f64 * hits as f64 / level.len() as f64;
        left -= taken;
        if left == 0 {
            break;
        }
    }
    inside / (count - left) as f64
}

/// The part of the highest pixels that lies inside, or within a distance of it.
fn pointing(pixels: &[f64], region: &Array2<bool>, tolerance: usize) -> f64 {
    let (height, width) = region.dim();
    let gaps = gaps(region);
    let is_hit = |at: usize| {
        let (row, column) = (at / width, at % width);
        let rows = row.saturating_sub(tolerance)..height.min(row + tolerance + 1);
        rows.into_iter().any(|near| {
            let gap = gaps[near * width + column];
            gap.is_some_and(|gap| gap.pow(2) + near.abs_diff(row).pow(2) <= tolerance.pow(2))
        })
    };
    let highest = pixels.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let (mut hits, mut all) = (0.0, 0.0);
    for (at, _) in pixels
        .iter()
        .enumerate()
        .filter(|(_, value)| **value == highest)
    {
        all += 1.0;
        hits += if is_hit(at) { 1.0 } else { 0.0 };
    }
    hits / all
}

/// Of each pixel, the columns to the nearest pixel inside in its row.
fn gaps(region: &Array2<bool>) -> Vec<Option<usize>> {
    let mut gaps = Vec::with_capacity(region.len());
    for row in region.rows() {
        let start = gaps.len();
        let mut last: Option<usize> = None;
        for (column, is_inside) in row.iter().enumerate() {
            last = if *is_inside { Some(column) } else { last };
            gaps.push(last.map(|last| column - last));
        }
        let mut next: Option<usize> = None;
        for (column, is_inside) in row.iter().enumerate().rev() {
            next = if *is_inside { Some(column) } else { next };
            let after = next.map(|next| next - column);
            let gap = &mut gaps[start + column];
            *gap = [*gap, after].into_iter().flatten().min();
        }
    }
    gaps
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use ndarray::ArrayView2;
    use serde_json::{Value, json};

    use super::*;
    use crate::evaluation::{
        patches::Score,
        tests::{case, ended, tensor},
    };

    const ALL: [&Metric; 5] = [
        &POINTING_GAME,
        &ENERGY_POINTING,
        &RELEVANCE_MASS,
        &RELEVANCE_RANK,
        &TOP_K_INTERSECTION,
    ];

    fn values(given: Value) -> Values {
        serde_json::from_value(given).unwrap()
    }

    /// What a metric says of a map of one channel, by its signed pixels.
    fn measured(metric: &Metric, given: Value, map: &[f32], region: &Array2<bool>) -> f64 {
        let (height, width) = region.dim();
        let mut case = case(tensor(&[1, height, width], map), &[Score::Signed]);
        case.region = Some(Arc::new(region.clone()));
        let run = (metric.build)(&case, &values(given)).unwrap().remove(0);
        ended(run)[0][0]
    }

    /// 2 x 3 pixels, the object in the right column; the map of two channels sums to
    /// 1 2 4 / -3 0 6, and its magnitudes to 3 2 4 / 3 2 6.
    fn worked(metric: &Metric, given: Value) -> [f64; 2] {
        let scores = tensor(
            &[2, 2, 3],
            &[
                2.0, 1.0, 4.0, -3.0, 1.0, 5.0, -1.0, 1.0, 0.0, 0.0, -1.0, 1.0,
            ],
        );
        let mut case = case(scores, &[Score::Signed, Score::Absolute]);
        let region = Array2::from_shape_fn((2, 3), |(_, column)| column == 2);
        case.region = Some(Arc::new(region));
        let run = (metric.build)(&case, &values(given)).unwrap().remove(0);
        let [signed, absolute] = ended(run).try_into().unwrap();
        [signed[0], absolute[0]]
    }

    #[test]
    pub(in crate::evaluation) fn a_hand_worked_map_points_as_worked_by_hand() {
        assert_eq!(worked(&POINTING_GAME, json!({ "tolerance": 0 })), [1.0; 2]);
        // The maximum lies at the left edge of a row of five, the object at the right one.
        let region = Array2::from_shape_fn((1, 5), |(_, column)| column == 4);
        let hit = |tolerance: usize| {
            let given = json!({ "tolerance": tolerance });
            measured(&POINTING_GAME, given, &[9.0, 0.0, 1.0, 2.0, 8.0], &region)
        };
        assert_eq!([0, 3, 4].map(hit), [0.0, 0.0, 1.0]);
        // Of two equal maxima one hits.
        let given = json!({ "tolerance": 1 });
        let map = [9.0, 0.0, 1.0, 9.0, 8.0];
        assert_eq!(measured(&POINTING_GAME, given, &map, &region), 0.5);
    }

    #[test]
    pub(in crate::evaluation) fn a_hand_worked_map_has_the_energy_worked_by_hand() {
        // (4 + 6) / (1 + 2 + 4 + 6), and 10 / 20.
        assert_eq!(worked(&ENERGY_POINTING, json!({})), [10.0 / 13.0, 0.5]);
    }

    #[test]
    pub(in crate::evaluation) fn a_hand_worked_map_has_the_mass_worked_by_hand() {
        // 10 / (1 + 2 + 4 + 3 + 6), and 10 / 20.
        assert_eq!(worked(&RELEVANCE_MASS, json!({})), [10.0 / 16.0, 0.5]);
    }

    #[test]
    pub(in crate::evaluation) fn a_hand_worked_map_ranks_as_worked_by_hand() {
        // The two highest of both are those of the object.
        assert_eq!(worked(&RELEVANCE_RANK, json!({})), [1.0; 2]);
        // Among the two highest of 1 0 5 0 1 are 5 and, of the two that are 1, one on average:
        // half of it lies inside.
        let region = Array2::from_shape_fn((1, 5), |(_, column)| column < 2);
        let map = [1.0, 0.0, 5.0, 0.0, 1.0];
        assert_eq!(measured(&RELEVANCE_RANK, json!({}), &map, &region), 0.25);
    }

    #[test]
    pub(in crate::evaluation) fn the_highest_pixels_of_a_hand_worked_map_are_worked_by_hand() {
        let [of_one, of_three, of_all] =
            [1, 3, 6].map(|k| worked(&TOP_K_INTERSECTION, json!({ "k": k })));
        assert_eq!(of_one, [1.0; 2]);
        // 6 4 2, and 6 4 and either 3.
        assert_eq!(of_three, [2.0 / 3.0; 2]);
        assert_eq!(of_all, [1.0 / 3.0; 2]);
    }

    /// Numbers without a pattern, on 7 x 9 pixels, some of them equal.
    fn uneven() -> (Vec<f32>, Array2<bool>) {
        let map = (0..63).map(|k: i32| (k * 37 % 29 - 11) as f32);
        let region = Array2::from_shape_fn((7, 9), |(row, column)| (row * 5 + column * 3) % 7 < 2);
        (map.collect(), region)
    }

    #[test]
    fn shares_and_hits_agree_with_naive_twins() {
        let (map, region) = uneven();
        let pixels: Vec<f64> = map.iter().map(|value| f64::from(*value)).collect();
        let inside: Vec<bool> = region.iter().copied().collect();
        let sum = |of: fn(f64) -> f64, only: bool| -> f64 {
            let all = pixels.iter().zip(&inside);
            let all = all.filter(|(_, is_inside)| !only || **is_inside);
            all.map(|(value, _)| of(*value)).sum()
        };
        let positive: fn(f64) -> f64 = |value| value.max(0.0);
        for (metric, of) in [
            (&ENERGY_POINTING, positive),
            (&RELEVANCE_MASS, f64::abs as fn(f64) -> f64),
        ] {
            let found = measured(metric, json!({}), &map, &region);
            let expected = sum(of, true) / sum(of, false);
            assert!((found - expected).abs() < 1e-12, "{}", metric.id);
        }
        // Each pixel has the chance to be among the k highest that it has in a random order of
        // equal ones.
        for k in [1, 5, 20, 40, 63] {
            let chance = |value: f64| {
                let above = pixels.iter().filter(|other| **other > value).count() as f64;
                let equal = pixels.iter().filter(|other| **other == value).count() as f64;
                ((k as f64 - above) / equal).clamp(0.0, 1.0)
            };
            let hits = pixels.iter().zip(&inside).filter(|(_, inside)| **inside);
            let expected = hits.map(|(value, _)| chance(*value)).sum::<f64>() / k as f64;
            let found = measured(&TOP_K_INTERSECTION, json!({ "k": k }), &map, &region);
            assert!((found - expected).abs() < 1e-12, "{k}");
        }
        // Every place of the maximum, and all distances to every pixel of the object.
        let one: Array2<bool> = Array2::from_shape_fn((7, 9), |at| at == (2, 3) || at == (6, 8));
        for (at, tolerance) in (0..63).flat_map(|at| [0, 1, 2, 3, 5].map(|t| (at, t))) {
            let mut map = [0.0; 63];
            map[at] = 1.0;
            let given = json!({ "tolerance": tolerance });
            let found = measured(&POINTING_GAME, given, &map, &one);
            assert_eq!(found, hit(at, one.view(), tolerance), "{at} {tolerance}");
        }
    }

    fn hit(at: usize, region: ArrayView2<'_, bool>, tolerance: i64) -> f64 {
        let (row, column) = ((at / region.ncols()) as i64, (at % region.ncols()) as i64);
        let is_near = region.indexed_iter().any(|((y, x), is_inside)| {
            let distance = (y as i64 - row).pow(2) + (x as i64 - column).pow(2);
            *is_inside && distance <= tolerance.pow(2)
        });
        f64::from(u8::from(is_near))
    }

    #[test]
    fn a_map_of_equal_pixels_has_the_objects_share_of_the_input() {
        let (_, region) = uneven();
        let area = region.iter().filter(|is_inside| **is_inside).count() as f64 / 63.0;
        for metric in ALL {
            let given = json!({ "tolerance": 0, "k": 10 });
            let found = measured(metric, given, &[0.5; 63], &region);
            assert!((found - area).abs() < 1e-12, "{}: {found}", metric.id);
        }
        for metric in [&ENERGY_POINTING, &RELEVANCE_MASS] {
            assert_eq!(measured(metric, json!({}), &[0.0; 63], &region), 0.0);
        }
    }

    #[test]
    fn without_a_region_nothing_is_measured() {
        let case = case(tensor(&[1, 1, 2], &[1.0, 2.0]), &[Score::Signed]);
        for metric in ALL {
            assert!((metric.build)(&case, &Values::default()).is_err());
        }
    }
}
