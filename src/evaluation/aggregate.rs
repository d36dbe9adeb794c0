//! Measurements of single images -> mean curves, values, 95 % bootstrap intervals, and differences
//! paired by image. The value of a row is a ratio of sums over images: of a value of each of its
//! measurements, and of a weight of the image. Resample b draws as many images as there are, with
//! ChaCha8(seed, b), the same for all rows. Percentiles interpolate linearly.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

use super::Measurement;

/// Resamples of an interval.
pub const RESAMPLES: usize = 2000;
const CONFIDENCE: f64 = 0.95;

/// One row: a method, and what stands for the pixels of its maps.
#[derive(Clone, Debug, PartialEq)]
pub struct RowSummary {
    pub mean_curve: Vec<f64>,
    /// 95 % interval of each of its values, by their standard error; none of a single image.
    pub band: Option<Vec<[f64; 2]>>,
    pub value: f64,
    pub interval: [f64; 2],
}

/// Value of row `one` less that of row `other`, on the same images.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    pub one: usize,
    pub other: usize,
    pub difference: f64,
    pub interval: [f64; 2],
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    pub rows: Vec<RowSummary>,
    /// Each pair once.
    pub differences: Vec<Difference>,
}

/// Measurements of images, given one after another, and in the end what they come to. What it keeps
/// of an image is little: whole curves are added up.
pub trait Tally: Send {
    /// Adds an image, by row. Fails where it has other rows than those before, or other numbers.
    fn add(&mut self, image: &[Measurement]) -> Result<(), Uneven>;

    /// `seed` is that of the bootstrap. Without an image there are no rows.
    fn summary(self: Box<Self>, seed: u64) -> Summary;
}

#[derive(Debug, thiserror::Error)]
#[error("the images' results have curves of several lengths")]
pub struct Uneven;

/// The value of row r is Σ value(row r of image i) / Σ weight(image i) over images i.
pub struct Ratios<V> {
    value: V,
    weight: fn(&[Measurement]) -> f64,
    extent: Extent,
    /// By row, then by image.
    values: Vec<Vec<f64>>,
    /// By image.
    weights: Vec<f64>,
    /// By row, then by place on the curve.
    curves: Vec<Vec<Moments>>,
}

impl<V: Fn(&[f64]) -> f64> Ratios<V> {
    pub fn new(value: V, weight: fn(&[Measurement]) -> f64) -> Self {
        Self {
            value,
            weight,
            extent: Extent::default(),
            values: Vec::new(),
            weights: Vec::new(),
            curves: Vec::new(),
        }
    }
}

impl<V: Fn(&[f64]) -> f64 + Send> Tally for Ratios<V> {
    fn add(&mut self, image: &[Measurement]) -> Result<(), Uneven> {
        let [rows, length] = self.extent.of(image)?;
        self.values.resize_with(rows, Vec::new);
        self.curves
            .resize_with(rows, || vec![Moments::default(); length]);
        self.weights.push((self.weight)(image));
        let rows = self.values.iter_mut().zip(&mut self.curves).zip(image);
        for ((values, curve), measured) in rows {
            values.push((self.value)(measured));
            for (moments, number) in curve.iter_mut().zip(measured) {
                moments.add(*number);
            }
        }
        Ok(())
    }

    fn summary(self: Box<Self>, seed: u64) -> Summary {
        let values = Resampled::ratios(&self.values, &self.weights, seed);
        values.summary(self.curves.into_iter().map(RowCurve::mean))
    }
}

/// Rows, and the numbers of each, of measurements that are all alike.
#[derive(Debug, Default)]
pub(super) struct Extent(Option<[usize; 2]>);

impl Extent {
    /// That of the image, and of all before.
    pub(super) fn of(&mut self, image: &[Measurement]) -> Result<[usize; 2], Uneven> {
        let length = image.first().map_or(0, Vec::len);
        let is_even = image.iter().all(|row| row.len() == length);
        let found = *self.0.get_or_insert([image.len(), length]);
        match is_even && length > 0 && found == [image.len(), length] {
            true => Ok(found),
            false => Err(Uneven),
        }
    }
}

/// Mean and spread of numbers, one after another: Welford, Note on a Method for Calculating
/// Corrected Sums of Squares and Products, 1962.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moments {
    count: f64,
    mean: f64,
    /// Σ (value - mean)².
    squares: f64,
}

impl Moments {
    pub(super) fn add(&mut self, value: f64) {
        self.count += 1.0;
        let before = value - self.mean;
        self.mean += before / self.count;
        self.squares += before * (value - self.mean);
    }

    /// 1.96 standard errors on each side; none of a single value.
    fn band(self) -> Option<[f64; 2]> {
        let reach = 1.96 * (self.squares / (self.count - 1.0) / self.count).sqrt();
        (self.count > 1.0).then_some([self.mean - reach, self.mean + reach])
    }
}

/// Values of rows: of all images, and of each resample of them.
pub(super) struct Resampled {
    pub values: Vec<f64>,
    /// By row, then by resample.
    pub resamples: Vec<Vec<f64>>,
}

impl Resampled {
    /// Σ `image_values[r][i]` / Σ `weights[i]` over images i.
    pub(super) fn ratios(image_values: &[Vec<f64>], weights: &[f64], seed: u64) -> Self {
        let ratios = |members: &[usize]| -> Vec<f64> {
            let whole: f64 = members.iter().map(|image| weights[*image]).sum();
            let sum = |row: &Vec<f64>| members.iter().map(|image| row[*image]).sum::<f64>();
            image_values.iter().map(|row| sum(row) / whole).collect()
        };
        let mut resamples = vec![Vec::with_capacity(RESAMPLES); image_values.len()];
        for number in 0..RESAMPLES as u64 {
            let values = ratios(&resample(weights.len(), seed, number));
            for (row, value) in resamples.iter_mut().zip(values) {
                row.push(value);
            }
        }
        Self {
            values: ratios(&Vec::from_iter(0..weights.len())),
            resamples,
        }
    }

    /// With intervals, and the differences of all pairs.
    pub(super) fn summary(self, curves: impl IntoIterator<Item = RowCurve>) -> Summary {
        let Self { values, resamples } = self;
        let rows = curves.into_iter().zip(&values).zip(&resamples);
        let row = |((curve, value), resampled): ((RowCurve, &f64), &Vec<f64>)| RowSummary {
            mean_curve: curve.values,
            band: curve.band,
            value: *value,
            interval: interval(resampled.clone()),
        };
        let rows: Vec<RowSummary> = rows.map(row).collect();
        let pairs =
            (0..rows.len()).flat_map(|one| (one + 1..rows.len()).map(move |other| (one, other)));
        let differences = pairs.map(|(one, other)| {
            let resampled = resamples[one].iter().zip(&resamples[other]);
            Difference {
                one,
                other,
                difference: values[one] - values[other],
                interval: interval(resampled.map(|(one, other)| one - other).collect()),
            }
        });
        Summary {
            differences: differences.collect(),
            rows,
        }
    }
}

/// A row's curve over all images.
pub(super) struct RowCurve {
    pub values: Vec<f64>,
    /// None of a single image.
    pub band: Option<Vec<[f64; 2]>>,
}

impl RowCurve {
    /// The mean at each place.
    pub(super) fn mean(places: impl IntoIterator<Item = Moments>) -> Self {
        let (values, bands): (Vec<f64>, Vec<_>) = places
            .into_iter()
            .map(|moments| (moments.mean, moments.band()))
            .unzip();
        Self {
            values,
            band: bands.into_iter().collect(),
        }
    }
}

/// Trapezoids over the steps, which make 1 together; a curve of one value is that value.
pub fn integral(curve: &[f64]) -> f64 {
    match curve {
        [only] => *only,
        _ => {
            curve
                .windows(2)
                .map(|pair| (pair[0] + pair[1]) / 2.0)
                .sum::<f64>()
                / (curve.len() - 1) as f64
        }
    }
}

/// Places of as many images as there are, drawn with replacement.
pub(super) fn resample(count: usize, seed: u64, number: u64) -> Vec<usize> {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    generator.set_stream(number);
    // The remainder favours none by more than 2^-32.
    (0..count)
        .map(|_| (generator.next_u64() % count as u64) as usize)
        .collect()
}

/// Percentiles of resampled values.
pub(super) fn interval(mut values: Vec<f64>) -> [f64; 2] {
    values.sort_by(f64::total_cmp);
    let at = |quantile: f64| {
        let place = quantile * (values.len() - 1) as f64;
        let (low, part) = (place.floor() as usize, place.fract());
        values[low] + part * (values[(low + 1).min(values.len() - 1)] - values[low])
    };
    [at((1.0 - CONFIDENCE) / 2.0), at((1.0 + CONFIDENCE) / 2.0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Areas under mean curves, over the mean of their first values.
    fn areas(images: &[Vec<Measurement>], seed: u64) -> Option<Summary> {
        let mut tally = Ratios::new(integral, |rows| rows[0][0]);
        let added: Result<(), _> = images.iter().try_for_each(|image| tally.add(image));
        added.ok().map(|()| Box::new(tally).summary(seed))
    }

    #[test]
    fn areas_are_those_of_the_mean_curve_over_the_mean_first_value() {
        let images = vec![
            vec![vec![0.8, 0.4, 0.0], vec![0.8, 0.8, 0.8]],
            vec![vec![0.2, 0.2, 0.2], vec![0.2, 0.0, 0.0]],
        ];
        let summary = areas(&images, 0).unwrap();
        let curves: Vec<_> = summary
            .rows
            .iter()
            .map(|row| row.mean_curve.clone())
            .collect();
        assert!(
            curves[0]
                .iter()
                .zip([0.5, 0.3, 0.1])
                .all(|(a, b)| (a - b).abs() < 1e-12),
            "{curves:?}"
        );
        assert!(
            (summary.rows[0].value - 0.6).abs() < 1e-12
                && (summary.rows[1].value - 0.85).abs() < 1e-12
        );
        let [difference] = summary.differences.as_slice() else {
            panic!()
        };
        assert_eq!((difference.one, difference.other), (0, 1));
        assert!((difference.difference + 0.25).abs() < 1e-12);
        // Two images: resamples are both, or one of them alone.
        assert_eq!(
            summary.rows[0].interval.map(|x| (x * 1e9).round() / 1e9),
            [0.5, 1.0]
        );
    }

    #[test]
    fn intervals_repeat_by_seed_and_cover_the_area() {
        let images: Vec<_> = (0..40)
            .map(|i| {
                let wobble = f64::from(i * 7 % 11) / 50.0;
                vec![
                    vec![1.0, 0.4 + wobble, 0.2 + wobble],
                    vec![1.0, 0.5 + wobble, 0.3 + wobble],
                ]
            })
            .collect();
        let summary = areas(&images, 3).unwrap();
        assert_eq!(summary, areas(&images, 3).unwrap());
        assert_ne!(summary, areas(&images, 4).unwrap());
        for row in &summary.rows {
            let [low, high] = row.interval;
            assert!(
                low < row.value && row.value < high && high - low < 0.1,
                "{row:?}"
            );
        }
        // The rows wobble together: their difference is the same on every image, and its interval a
        // point.
        let difference = &summary.differences[0];
        assert!((difference.difference + 0.075).abs() < 1e-12);
        assert!(
            difference
                .interval
                .iter()
                .all(|bound| (bound + 0.075).abs() < 1e-9),
            "{difference:?}"
        );
    }

    /// The standard error of a mean of 400 draws from {0, 1} is 0.025: the interval is about 1.96
    /// of it on each side.
    #[test]
    fn an_interval_has_the_width_that_its_spread_calls_for() {
        let images: Vec<_> = (0..400)
            .map(|i| vec![vec![1.0, f64::from(i % 2), f64::from(i % 2)]])
            .collect();
        let [low, high] = areas(&images, 0).unwrap().rows[0].interval;
        // The first trapezoid is half clean: the mean of (3 v + 1) / 4 has three quarters of that
        // error.
        let expected = 2.0 * 1.96 * 0.025 * 0.75;
        assert!(
            (high - low - expected).abs() < 0.1 * expected,
            "{low} {high} {expected}"
        );
    }

    #[test]
    fn a_band_is_1_96_standard_errors_wide_on_each_side() {
        // Values 0 and 1, 200 of each: variance 1/4 · 400/399.
        let images: Vec<_> = (0..400)
            .map(|i| vec![vec![1.0, f64::from(i % 2)]])
            .collect();
        let band = areas(&images, 0).unwrap().rows.remove(0).band.unwrap();
        let reach = 1.96 * (0.25_f64 / 399.0).sqrt();
        assert_eq!(band[0], [1.0, 1.0]);
        assert!(
            (band[1][0] - (0.5 - reach)).abs() < 1e-12
                && (band[1][1] - (0.5 + reach)).abs() < 1e-12,
            "{band:?}"
        );
        assert_eq!(areas(&images[..1], 0).unwrap().rows[0].band, None);
    }

    #[test]
    fn nothing_comes_of_no_images_or_of_curves_of_several_lengths() {
        assert_eq!(areas(&[], 0), Some(Summary::default()));
        assert_eq!(areas(&[vec![vec![1.0, 0.5]], vec![vec![1.0]]], 0), None);
        assert_eq!(areas(&[vec![vec![0.5]]], 0).unwrap().rows[0].value, 1.0);
    }
}
