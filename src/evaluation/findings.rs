//! What a job finds: of single images, and of all of them so far. The same request finds the same,
//! but for the time it ended.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    Direction, Measurement, Metric,
    aggregate::{Difference, RowSummary, Tally, Uneven},
    parameters::Values,
    registry,
};

/// One image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageResult {
    /// Place in the data set.
    pub index: usize,
    pub file: String,
    #[serde(flatten)]
    pub outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    Measured {
        /// The class that is explained.
        class: usize,
        label: Option<String>,
        /// By metric, and by row; those of rows that mean nothing to the metric are empty.
        measurements: Vec<Vec<Vec<f32>>>,
        /// Its maps side by side, as a JPEG in base64; of the first images alone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        maps: Option<String>,
    },
    Skipped {
        reason: Reason,
        detail: String,
    },
}

/// Why an image says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    CorruptImage,
    /// The model takes it for something else than its label.
    Misclassified,
    /// The model has no such class; `labels: ignore` uses the image.
    UnknownLabel,
    /// Its label and its index name different classes, or its label names several; `labels: ignore`
    /// uses the image.
    AmbiguousLabel,
    NotFinite,
    /// It has neither a mask nor a box, and a metric needs one.
    NoRegion,
    /// The model's preprocessing cuts its object away, or leaves no pixel of it.
    EmptyRegion,
    /// Its group has no image without the object, and a metric needs one.
    NoPair,
}

impl Reason {
    /// After a number of images.
    pub fn words(self) -> &'static str {
        match self {
            Self::CorruptImage => "corrupt",
            Self::Misclassified => "misclassified",
            Self::UnknownLabel => "of an unknown label",
            Self::AmbiguousLabel => "of an ambiguous label",
            Self::NotFinite => "with values that are not finite",
            Self::NoRegion => "without a mask or a box",
            Self::EmptyRegion => "with no pixel of the object on the model's input",
            Self::NoPair => "with no image of the role `without` in their group",
        }
    }
}

/// A metric of a job, with its parameters settled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetricEntry {
    pub id: String,
    #[serde(flatten)]
    pub parameters: Values,
}

impl MetricEntry {
    pub fn metric(&self) -> Option<&'static Metric> {
        registry::find(&self.id)
    }

    /// Whether it measures what `other` does.
    pub fn shares_with(&self, other: &Self) -> bool {
        let measured = |entry: &Self| {
            let needs = &entry.metric()?.needs;
            let mut parameters = entry.parameters.clone();
            let is_measured = |name: &String| !needs.unmeasured.contains(&name.as_str());
            parameters.0.retain(|name, _| is_measured(name));
            Some((needs.shares?, parameters))
        };
        measured(self).is_some() && measured(self) == measured(other)
    }
}

/// All images so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Findings {
    /// Of explaind.
    pub version: String,
    /// Images that the rows are about, the same for all.
    pub used: usize,
    pub skipped: BTreeMap<Reason, usize>,
    /// In the order of the request.
    pub metrics: Vec<MetricFinding>,
    /// The first [`MAX_SKIPPED`] of them.
    pub skipped_images: Vec<SkippedImage>,
    /// Maps of the first [`SAMPLES`] images used; once all images are measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub samples: Vec<Sample>,
    /// The images that metrics name as their best and worst, each as a JPEG in base64, by its place
    /// in the data set; once the job has ended.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub thumbnails: BTreeMap<usize, String>,
    /// Where the values of single images are, as tables: a folder of the store of files; once the
    /// job has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tables: Option<String>,
    /// What it ran on; once it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Machine>,
}

/// What one metric says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetricFinding {
    pub id: String,
    /// Settled.
    pub parameters: Values,
    pub title: String,
    pub paper: String,
    /// Which values are better.
    pub better: String,
    /// Images that say nothing to this metric alone, by the reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub skipped: BTreeMap<String, usize>,
    /// Titles of rows that mean nothing to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excluded: Vec<String>,
    /// In the order of the request; empty until an image was used.
    pub rows: Vec<RowFinding>,
    /// Each pair of rows once.
    pub differences: Vec<DifferenceFinding>,
    /// The images of the best and of the worst mean over rows; of images that differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extremes: Option<Extremes>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Extremes {
    pub best: ImageFinding,
    pub worst: ImageFinding,
}

/// What a metric says of one image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageFinding {
    /// Place in the data set.
    pub index: usize,
    pub file: String,
    /// The class that is explained.
    pub label: Option<String>,
    /// Mean over the rows.
    pub value: f64,
    /// The least and the greatest value of a row.
    pub range: [f64; 2],
}

/// Maps of one image, for the reader to look at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub file: String,
    /// A JPEG in base64.
    pub maps: String,
}

/// Images whose maps a report shows.
pub const SAMPLES: usize = 3;

/// What a job ran on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub onnxruntime: String,
    /// Execution providers, joined by commas.
    pub providers: String,
    /// Of ONNX Runtime on the CPU.
    pub threads: usize,
    /// When it ended, as RFC 3339: not among the bytes that a repetition gives again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
}

/// Left-out images that a report names; `skipped` counts all.
pub const MAX_SKIPPED: usize = 1000;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RowFinding {
    pub title: String,
    /// As in the request, every default settled.
    pub method: Map<String, Value>,
    pub value: f64,
    /// 95 % bootstrap interval.
    pub interval: [f64; 2],
    /// Mean over images; of metrics that measure curves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mean_curve: Vec<f64>,
    /// Pointwise 95 % intervals of the mean curve; none of a single image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub band: Option<Vec<[f64; 2]>>,
}

/// Value of `one` less that of `other`, paired by image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DifferenceFinding {
    pub one: String,
    pub other: String,
    pub difference: f64,
    pub interval: [f64; 2],
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SkippedImage {
    pub file: String,
    pub reason: Reason,
    pub detail: String,
}

/// Why results of images say nothing together.
#[derive(Debug, thiserror::Error)]
pub enum FindingsError {
    #[error("no metric is called {id}")]
    Metric { id: String },
    #[error(transparent)]
    Uneven(#[from] Uneven),
}

/// The findings of images that come one after another, by their place in the data set. Its memory
/// hardly grows with them: measurements are added up as they come.
pub struct Gathering<'a> {
    metrics: Vec<MetricGathering<'a>>,
    methods: &'a [Map<String, Value>],
    used: usize,
    skipped: BTreeMap<Reason, usize>,
    skipped_images: Vec<SkippedImage>,
    samples: Vec<Sample>,
}

impl<'a> Gathering<'a> {
    /// For `metrics` of `methods`, one for each row, with their parameters.
    pub fn new(
        metrics: &'a [MetricEntry],
        methods: &'a [Map<String, Value>],
    ) -> Result<Self, FindingsError> {
        let gathering = |entry| MetricGathering::new(entry);
        Ok(Self {
            metrics: metrics.iter().map(gathering).collect::<Result<_, _>>()?,
            methods,
            used: 0,
            skipped: BTreeMap::new(),
            skipped_images: Vec::new(),
            samples: Vec::new(),
        })
    }

    pub fn add(&mut self, image: ImageResult) -> Result<(), FindingsError> {
        let ImageResult {
            index,
            file,
            outcome,
        } = image;
        match outcome {
            Outcome::Measured {
                label,
                measurements,
                maps,
                ..
            } => {
                let is_shown = self.samples.len() < SAMPLES;
                let maps = maps.filter(|_| is_shown);
                let sample = |maps| Sample {
                    file: file.clone(),
                    maps,
                };
                self.samples.extend(maps.map(sample));
                self.used += 1;
                let image = UsedImage { index, file, label };
                for (metric, rows) in self.metrics.iter_mut().zip(measurements) {
                    let wide = |row: Vec<f32>| row.into_iter().map(f64::from).collect();
                    metric.add(&image, rows.into_iter().map(wide).collect())?;
                }
            }
            Outcome::Skipped { reason, detail } => {
                *self.skipped.entry(reason).or_default() += 1;
                if self.skipped_images.len() < MAX_SKIPPED {
                    self.skipped_images.push(SkippedImage {
                        file,
                        reason,
                        detail,
                    });
                }
            }
        }
        Ok(())
    }

    /// `seed` is that of the bootstrap.
    pub fn findings(self, seed: u64) -> Findings {
        let titles = metric_titles(self.metrics.iter().map(|metric| metric.entry));
        let methods = self.methods;
        let found =
            |(metric, title): (MetricGathering<'_>, _)| metric.finding(title, methods, seed);
        Findings {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            used: self.used,
            skipped: self.skipped,
            metrics: self.metrics.into_iter().zip(titles).map(found).collect(),
            skipped_images: self.skipped_images,
            samples: self.samples,
            thumbnails: BTreeMap::new(),
            tables: None,
            run: None,
        }
    }
}

impl Findings {
    /// Without what is for people to look at, without the date, and without the job's own folder:
    /// what a repetition gives again.
    pub fn repeatable(&self) -> Self {
        let mut findings = self.clone();
        findings.samples.clear();
        findings.thumbnails.clear();
        findings.tables = None;
        findings.run.iter_mut().for_each(|run| run.ended = None);
        findings
    }
}

/// An image that was used.
struct UsedImage {
    index: usize,
    file: String,
    label: Option<String>,
}

impl UsedImage {
    /// By the values of its rows; none where they are not finite.
    fn found(&self, values: &[f64]) -> Option<ImageFinding> {
        let value = values.iter().sum::<f64>() / values.len() as f64;
        let ends = [f64::min, f64::max].map(|choose| values.iter().copied().reduce(choose));
        let [Some(least), Some(most)] = ends else {
            return None;
        };
        value.is_finite().then(|| ImageFinding {
            index: self.index,
            file: self.file.clone(),
            label: self.label.clone(),
            value,
            range: [least, most],
        })
    }
}

/// The images with the least and the greatest value so far; of equal ones the first.
#[derive(Default)]
struct Ends(Option<[ImageFinding; 2]>);

impl Ends {
    fn add(&mut self, image: ImageFinding) {
        match &mut self.0 {
            None => self.0 = Some([image.clone(), image]),
            Some([low, _]) if image.value < low.value => *low = image,
            Some([_, high]) if image.value > high.value => *high = image,
            Some(_) => {}
        }
    }

    /// None of images that are all alike.
    fn extremes(self, better: Direction) -> Option<Extremes> {
        let [low, high] = self.0.filter(|[low, high]| low.value < high.value)?;
        let (best, worst) = match better {
            Direction::Lower => (low, high),
            Direction::Higher => (high, low),
            Direction::Neither => return None,
        };
        Some(Extremes { best, worst })
    }
}

/// What one metric says of images so far.
struct MetricGathering<'a> {
    entry: &'a MetricEntry,
    metric: &'static Metric,
    tally: Box<dyn Tally>,
    /// Of each row, whether it means something to the metric; known from the first image on.
    kept: Option<Vec<bool>>,
    skipped: BTreeMap<String, usize>,
    ends: Ends,
}

impl<'a> MetricGathering<'a> {
    fn new(entry: &'a MetricEntry) -> Result<Self, FindingsError> {
        let metric = entry.metric().ok_or_else(|| FindingsError::Metric {
            id: entry.id.clone(),
        })?;
        Ok(Self {
            entry,
            metric,
            tally: metric.reading.tally(&entry.parameters),
            kept: None,
            skipped: BTreeMap::new(),
            ends: Ends::default(),
        })
    }

    fn add(&mut self, image: &UsedImage, mut rows: Vec<Measurement>) -> Result<(), FindingsError> {
        let (reading, values) = (&self.metric.reading, &self.entry.parameters);
        let kept = || rows.iter().map(|row| !row.is_empty()).collect();
        self.kept.get_or_insert_with(kept);
        rows.retain(|measurement| !measurement.is_empty());
        if let Some(reason) = (reading.skips)(values, &rows) {
            *self.skipped.entry(reason.to_owned()).or_default() += 1;
            return Ok(());
        }
        if rows.is_empty() {
            return Ok(());
        }
        self.tally.add(&rows)?;
        if let Some(found) = image.found(&reading.of_image(values, &rows)) {
            self.ends.add(found);
        }
        Ok(())
    }

    fn finding(self, title: String, methods: &[Map<String, Value>], seed: u64) -> MetricFinding {
        let titles = titles(methods);
        let kept = self.kept.unwrap_or_else(|| vec![true; titles.len()]);
        let named = methods.iter().zip(titles).zip(kept);
        let (named, excluded): (Vec<_>, Vec<_>) = named.partition(|(_, is_kept)| *is_kept);
        let summary = self.tally.summary(seed);
        let is_curve = self.metric.words.axes.is_some();
        let name = |row: usize| {
            named
                .get(row)
                .map_or_else(String::new, |((_, title), _)| title.clone())
        };
        let difference = |found: Difference| DifferenceFinding {
            one: name(found.one),
            other: name(found.other),
            difference: found.difference,
            interval: found.interval,
        };
        let differences = summary.differences.into_iter().map(difference).collect();
        let row = |(((method, title), _), row): (((&Map<String, Value>, _), _), RowSummary)| {
            let (mean_curve, band) = match is_curve {
                true => (row.mean_curve, row.band),
                false => (Vec::new(), None),
            };
            RowFinding {
                title,
                method: method.clone(),
                value: row.value,
                interval: row.interval,
                mean_curve,
                band,
            }
        };
        let direction = (self.metric.direction)(&self.entry.parameters);
        MetricFinding {
            id: self.entry.id.clone(),
            parameters: self.entry.parameters.clone(),
            title,
            paper: self.metric.paper.to_owned(),
            better: direction.name().to_owned(),
            skipped: self.skipped,
            excluded: excluded.into_iter().map(|((_, title), _)| title).collect(),
            rows: named.into_iter().zip(summary.rows).map(row).collect(),
            differences,
            extremes: self.ends.extremes(direction),
        }
    }
}

impl MetricFinding {
    pub fn metric(&self) -> Option<&'static Metric> {
        registry::find(&self.id)
    }

    /// Images that its rows are about, of so many that were used.
    pub fn images(&self, used: usize) -> usize {
        used.saturating_sub(self.skipped.values().sum())
    }

    /// A number in the metric's unit: with so many decimals where values are of a usual size, else
    /// with a power of ten.
    pub fn written(&self, number: f64, decimals: usize) -> String {
        let sizes = self.rows.iter().map(|row| row.value.abs());
        let largest = sizes.filter(|size| size.is_finite()).fold(0.0, f64::max);
        match largest == 0.0 || (0.01..10_000.0).contains(&largest) {
            true => fixed(number, decimals),
            false => format!("{number:.*e}", decimals.saturating_sub(1)),
        }
    }

    /// A number beside an axis.
    pub fn tick(&self, number: f64) -> String {
        let sizes = self.rows.iter().map(|row| row.value.abs());
        let is_small = sizes.fold(0.0, f64::max) < 0.1;
        self.written(number, if is_small { 3 } else { 2 })
    }

    /// Whether some rows are better than others.
    pub fn is_ranked(&self) -> bool {
        self.better != Direction::Neither.name()
    }

    /// In words.
    pub fn better_words(&self) -> String {
        match self.is_ranked() {
            true => format!("{} is better", self.better),
            false => "none is better".to_owned(),
        }
    }

    /// The rows, the best first.
    pub fn by_value(&self) -> Vec<&RowFinding> {
        let mut rows: Vec<&RowFinding> = self.rows.iter().collect();
        rows.sort_by(|a, b| match self.better == Direction::Higher.name() {
            true => b.value.total_cmp(&a.value),
            false => a.value.total_cmp(&b.value),
        });
        rows
    }

    /// `one` less `other`, whichever way round the pair is kept.
    pub fn difference(&self, one: &str, other: &str) -> Option<(f64, [f64; 2])> {
        self.differences
            .iter()
            .find_map(|pair| match (pair.one.as_str(), pair.other.as_str()) {
                (a, b) if (a, b) == (one, other) => Some((pair.difference, pair.interval)),
                (a, b) if (b, a) == (one, other) => {
                    Some((-pair.difference, [-pair.interval[1], -pair.interval[0]]))
                }
                _ => None,
            })
    }
}

/// What each metric is called: its title, and what tells it from others of the same title.
pub fn metric_titles<'a>(metrics: impl IntoIterator<Item = &'a MetricEntry>) -> Vec<String> {
    let named = |entry: &MetricEntry| {
        let title = entry.metric().map_or("", |metric| metric.title);
        let title = [("id".to_owned(), json!(title))].into_iter();
        title.chain(entry.parameters.0.clone()).collect()
    };
    titles(&metrics.into_iter().map(named).collect::<Vec<_>>())
}

/// With so many decimals, and without a sign where they are all 0.
pub fn fixed(number: f64, decimals: usize) -> String {
    let text = format!("{number:.decimals$}");
    match text.strip_prefix('-') {
        Some(digits) if !digits.contains(|digit| ('1'..='9').contains(&digit)) => digits.to_owned(),
        _ => text,
    }
}

/// What each of `entries` is called: its `id`, and what tells it from others of the same id.
pub fn titles(entries: &[Map<String, Value>]) -> Vec<String> {
    let title = |entry: &Map<String, Value>| {
        let id = |entry: &Map<String, Value>| entry.get("id").cloned();
        let alike: Vec<_> = entries
            .iter()
            .filter(|other| id(other) == id(entry))
            .collect();
        // The parameters of another base are others: its name tells it already.
        let is_of_base = |other: &Map<String, Value>| other.get("base") == entry.get("base");
        let telling = entry.iter().filter(|(name, value)| {
            let mut others = alike.iter();
            others.any(|other| match other.get(*name) {
                Some(theirs) => theirs != *value,
                None => is_of_base(other),
            })
        });
        let words: Vec<String> = telling
            .map(|(name, value)| match (name.as_str(), value.as_str()) {
                ("score", Some(score)) => score.to_owned(),
                (_, Some(text)) => format!("{name} {text}"),
                _ => format!("{name} {value}"),
            })
            .collect();
        let id = id(entry).unwrap_or_default();
        let id = id.as_str().unwrap_or_default();
        if words.is_empty() {
            id.to_owned()
        } else {
            format!("{id} ({})", words.join(", "))
        }
    };
    entries.iter().map(title).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(index: usize, value: f64) -> ImageFinding {
        ImageFinding {
            index,
            file: format!("{index}.png"),
            label: None,
            value,
            range: [value, value],
        }
    }

    #[test]
    fn the_best_and_the_worst_image_are_the_first_of_equal_ones() {
        let images = || [0.5, 0.2, 0.9, 0.2, 0.9].into_iter().enumerate();
        let found = |better| {
            let mut ends = Ends::default();
            images().for_each(|(index, value)| ends.add(image(index, value)));
            let Extremes { best, worst } = ends.extremes(better)?;
            Some([best.index, worst.index])
        };
        assert_eq!(found(Direction::Higher), Some([2, 1]));
        assert_eq!(found(Direction::Lower), Some([1, 2]));
        let mut equal = Ends::default();
        [0, 1]
            .into_iter()
            .for_each(|index| equal.add(image(index, 0.5)));
        assert_eq!(equal.extremes(Direction::Lower), None);
    }

    #[test]
    fn the_parameters_of_a_base_tell_rows_of_that_base_apart() {
        let called = |entries: &[Value]| {
            let entries = entries.iter().map(|entry| entry.as_object().unwrap());
            titles(&entries.cloned().collect::<Vec<_>>())
        };
        let path = |steps: &str, given: f64| json!({"id": "path", "seed": 0, steps: given});
        assert_eq!(
            called(&[path("n_steps", 5.0), path("tolerance", 0.1)]),
            ["path (n_steps 5.0)", "path (tolerance 0.1)"]
        );
        let gad = |base, given| json!({"id": "gad", "tau": 0.1, "base": base, "n_steps": given});
        let point = json!({"id": "gad", "tau": 0.1, "base": "gradient"});
        assert_eq!(
            called(&[point.clone(), gad("path", 5)]),
            ["gad (base gradient)", "gad (base path)"]
        );
        assert_eq!(
            called(&[point, gad("path", 5), gad("path", 9)])[1..],
            ["gad (base path, n_steps 5)", "gad (base path, n_steps 9)"]
        );
    }

    #[test]
    fn an_image_is_named_with_the_range_of_its_rows() {
        let used = UsedImage {
            index: 4,
            file: "a.png".to_owned(),
            label: Some("cat".to_owned()),
        };
        let found = used.found(&[0.25, 1.0, 0.25]).unwrap();
        assert_eq!((found.value, found.range), (0.5, [0.25, 1.0]));
        assert_eq!(used.found(&[0.5, f64::NAN]), None);
        assert_eq!(used.found(&[]), None);
    }

    #[test]
    fn numbers_are_written_in_the_size_of_the_metric() {
        let metric = |value: f64| {
            let row =
                json!({ "title": "a", "method": {}, "value": value, "interval": [value, value] });
            let metric = json!({
                "id": "sparseness", "parameters": {}, "title": "", "paper": "", "better": "lower", "rows": [row],
                "differences": [],
            });
            serde_json::from_value::<MetricFinding>(metric).unwrap()
        };
        assert_eq!(metric(0.5).written(0.00012, 4), "0.0001");
        assert_eq!(metric(0.0).written(0.0, 3), "0.000");
        assert_eq!(metric(3e-6).written(0.000_001_25, 3), "1.25e-6");
        assert_eq!(metric(5e7).written(-5e7, 3), "-5.00e7");
    }
}
