//! Curves of images -> the curve of each row, the area under it, and its interval. A mean of curves
//! has the mean of their areas. A median has not: the median curve of each resample is drawn anew,
//! in fewer steps than the area is summed over.

use super::curve::{Curve, STEPS, sampled};
use crate::evaluation::aggregate::{
    Moments, RESAMPLES, Resampled, RowCurve, Summary, integral, interval, resample,
};

/// Steps of the curves that reports show, and of the median curves of resamples.
const SHOWN: usize = 50;

/// The mean curve of each row, whose images have these curves.
pub(super) fn means(rows: &[Vec<Curve>], seed: u64) -> Summary {
    let areas = |curves: &Vec<Curve>| curves.iter().map(Curve::area).collect();
    let areas: Vec<Vec<f64>> = rows.iter().map(areas).collect();
    let mean = |curves: &Vec<Curve>| {
        RowCurve::mean(sampled(SHOWN, |x| {
            let mut moments = Moments::default();
            curves.iter().for_each(|curve| moments.add(curve.at(x)));
            moments
        }))
    };
    let images = areas.first().map_or(0, Vec::len);
    let values = Resampled::ratios(&areas, &vec![1.0; images], seed);
    values.summary(rows.iter().map(mean))
}

/// The median curve of each row, and the area under it.
pub(super) fn medians(rows: &[Vec<Curve>], seed: u64) -> Summary {
    let mut all = Resampled {
        values: Vec::with_capacity(rows.len()),
        resamples: Vec::with_capacity(rows.len()),
    };
    let mut medians = Vec::with_capacity(rows.len());
    for curves in rows {
        let column = |x: f64| -> Vec<f64> { curves.iter().map(|curve| curve.at(x)).collect() };
        let value = integral(&sampled(STEPS, |x| median(column(x))));
        let ranked = sampled(SHOWN, |x| Ranked::of(column(x)));
        let drawn = |counts: &[u32]| -> Vec<f64> {
            ranked.iter().map(|ranked| ranked.median(counts)).collect()
        };
        let own = drawn(&vec![1; curves.len()]);
        let mut resampled = vec![Vec::with_capacity(RESAMPLES); ranked.len()];
        let mut areas = Vec::with_capacity(RESAMPLES);
        for number in 0..RESAMPLES as u64 {
            let mut counts = vec![0_u32; curves.len()];
            for image in resample(curves.len(), seed, number) {
                counts[image] += 1;
            }
            let curve = drawn(&counts);
            // In as many steps for both, so that what steps are too few for is not counted.
            areas.push(value + (integral(&curve) - integral(&own)));
            for (values, value) in resampled.iter_mut().zip(curve) {
                values.push(value);
            }
        }
        all.values.push(value);
        all.resamples.push(areas);
        medians.push(RowCurve {
            values: own,
            band: (curves.len() > 1).then(|| resampled.into_iter().map(interval).collect()),
        });
    }
    all.summary(medians)
}

fn median(mut values: Vec<f64>) -> f64 {
    let count = values.len();
    if count == 0 {
        return f64::NAN;
    }
    let (below, upper, _) = values.select_nth_unstable_by(count / 2, f64::total_cmp);
    let upper = *upper;
    let lower = match count % 2 {
        0 => below
            .iter()
            .copied()
            .max_by(f64::total_cmp)
            .unwrap_or(upper),
        _ => upper,
    };
    (lower + upper) / 2.0
}

/// Values of images, sorted once for all resamples.
struct Ranked {
    values: Vec<f64>,
    /// Whose each value is.
    images: Vec<u32>,
}

impl Ranked {
    fn of(values: Vec<f64>) -> Self {
        let mut images: Vec<u32> = (0..).take(values.len()).collect();
        let value = |image: &u32| values[*image as usize];
        images.sort_by(|one, other| value(one).total_cmp(&value(other)));
        Self {
            values: images.iter().map(value).collect(),
            images,
        }
    }

    /// Where each image was drawn so many times, as many in all as there are images.
    fn median(&self, counts: &[u32]) -> f64 {
        let (mut seen, mut place) = (0, 0);
        let mut value_of = |rank: usize| {
            while seen <= rank {
                let Some(image) = self.images.get(place) else {
                    return f64::NAN;
                };
                seen += counts[*image as usize] as usize;
                place += 1;
            }
            self.values[place - 1]
        };
        let count = self.images.len();
        let lower = value_of(count.saturating_sub(1) / 2);
        (lower + value_of(count / 2)) / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::curve::{
            Ascent,
            tests::{FIVE, form},
        },
        *,
    };

    #[test]
    fn the_median_of_a_resample_is_that_of_its_values() {
        for count in [1, 2, 3, 8, 9, 40] {
            let values: Vec<f64> = (0..count).map(|i| (i * i * 7 % 11) as f64).collect();
            let ranked = Ranked::of(values.clone());
            for number in 0..30 {
                let members = resample(count, 5, number);
                let mut counts = vec![0_u32; count];
                members.iter().for_each(|image| counts[*image] += 1);
                let mut drawn: Vec<f64> = members.iter().map(|image| values[*image]).collect();
                drawn.sort_by(f64::total_cmp);
                let expected = (drawn[(count - 1) / 2] + drawn[count / 2]) / 2.0;
                assert_eq!(ranked.median(&counts), expected);
                assert_eq!(median(drawn), expected);
            }
        }
    }

    /// Of three images whose scores rise at once, evenly and at last, on a scale without a start.
    fn curves(scores: [[f64; 5]; 3]) -> Vec<Curve> {
        let curve = |scores: [f64; 5]| Curve::of(&FIVE, &scores, form(Ascent::Monotone, None));
        scores.map(curve).into()
    }

    const RISES: [[f64; 5]; 3] = [
        [0.0, 1.0, 1.0, 1.0, 1.0],
        [0.0, 0.2, 0.5, 0.8, 1.0],
        [0.0, 0.0, 0.0, 0.0, 1.0],
    ];

    #[test]
    fn a_row_has_the_median_of_its_curves_or_their_mean() {
        let medians = medians(&[curves(RISES)], 0);
        let means = means(&[curves(RISES)], 0);
        let [median, mean] = [&medians.rows[0], &means.rows[0]];
        assert!((median.value - 0.5).abs() < 1e-12, "{}", median.value);
        // .9, .5 and .1: the knots lie on the steps.
        assert!((mean.value - 0.5).abs() < 1e-12, "{}", mean.value);
        assert_eq!((median.mean_curve.len(), mean.mean_curve.len()), (51, 51));
        for (step, (median, mean)) in median.mean_curve.iter().zip(&mean.mean_curve).enumerate() {
            let x = step as f64 / 50.0;
            assert!((median - x).abs() < 1e-12);
            let expected = ((5.0 * x).min(1.0) + x + (5.0 * x - 4.0).max(0.0)) / 3.0;
            assert!((mean - expected).abs() < 1e-12);
        }
        // Medians of resamples are one of the three curves; all of equal ones are the same.
        let round = |bounds: [f64; 2]| bounds.map(|bound| (bound * 1e9).round() / 1e9);
        assert_eq!(round(median.interval), [0.1, 0.9]);
        assert_eq!(round(median.band.as_ref().unwrap()[10]), [0.0, 1.0]);
        let same = super::medians(&[curves([RISES[1]; 3])], 0);
        assert_eq!(round(same.rows[0].interval), [0.5, 0.5]);
    }

    #[test]
    fn rows_are_compared_on_the_same_resamples() {
        let lower = RISES.map(|[start, a, b, c, whole]| [start, a, a, c.min(b), whole]);
        let rows = [curves(RISES), curves(lower)];
        for summary in [means(&rows, 3), medians(&rows, 3)] {
            let [difference] = summary.differences.as_slice() else {
                panic!()
            };
            let [low, high] = difference.interval;
            let apart = summary.rows[0].value - summary.rows[1].value;
            assert_eq!(difference.difference, apart);
            // The first row is nowhere below the second.
            assert!(apart > 0.0 && low > -1e-12, "{difference:?}");
            assert!(high > apart - 1e-12, "{difference:?}");
        }
        let single = [curves(RISES).into_iter().take(1).collect::<Vec<_>>()];
        for summary in [means(&single, 0), medians(&single, 0)] {
            let row = &summary.rows[0];
            assert_eq!((row.interval, row.band.is_none()), ([row.value; 2], true));
        }
    }
}
