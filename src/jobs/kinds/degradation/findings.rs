//! What a benchmark finds: of single images, and of all of them so far. The same request finds the
//! same, but for the time it ended.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::spec::Spec;
use crate::{
    dataset::Doubt,
    evaluation::{self, Direction, aggregate::summarise},
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
        /// The class that was followed.
        class: usize,
        label: Option<String>,
        /// Its score at each step, for each row.
        curves: Vec<Vec<f32>>,
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
}

impl Reason {
    pub fn of(doubt: &Doubt) -> Self {
        if doubt.kind() == "ambiguous_label" {
            Self::AmbiguousLabel
        } else {
            Self::UnknownLabel
        }
    }
}

/// All images so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Findings {
    pub metric: String,
    pub paper: String,
    /// Which areas are better.
    pub better: String,
    /// Of explaind.
    pub version: String,
    /// Images that the rows are about, the same for all.
    pub used: usize,
    pub skipped: BTreeMap<Reason, usize>,
    /// In the order of the request; empty until an image was used.
    pub rows: Vec<RowFinding>,
    /// Each pair of rows once.
    pub differences: Vec<DifferenceFinding>,
    /// The first [`MAX_SKIPPED`] of them.
    pub skipped_images: Vec<SkippedImage>,
    /// Maps of the first [`SAMPLES`] images used; once all images are measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub samples: Vec<Sample>,
    /// What it ran on; once it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Run>,
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

/// What a benchmark ran on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
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
    /// Under the mean curve, over the mean clean score: 1 for a ranking that changes nothing.
    pub area: f64,
    /// 95 % bootstrap interval.
    pub interval: [f64; 2],
    /// Mean score of the class at each step, the clean image first.
    pub mean_curve: Vec<f64>,
    /// Pointwise 95 % intervals of the mean curve; none of a single image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub band: Option<Vec<[f64; 2]>>,
}

/// Area of `one` less that of `other`, paired by image.
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

#[derive(Debug, thiserror::Error)]
#[error("the images' results have curves of several lengths")]
pub struct Uneven;

impl Findings {
    pub fn of(spec: &Spec, mut images: Vec<ImageResult>) -> Result<Self, Uneven> {
        images.sort_by_key(|image| image.index);
        let (mut curves, mut skipped_images, mut skipped) =
            (Vec::new(), Vec::new(), BTreeMap::new());
        let mut samples = Vec::new();
        for ImageResult { file, outcome, .. } in images {
            match outcome {
                Outcome::Measured {
                    curves: found,
                    maps,
                    ..
                } => {
                    samples.extend(
                        maps.filter(|_| samples.len() < SAMPLES)
                            .map(|maps| Sample { file, maps }),
                    );
                    let wide =
                        |curve: Vec<f32>| curve.into_iter().map(f64::from).collect::<Vec<f64>>();
                    curves.push(found.into_iter().map(wide).collect::<Vec<_>>());
                }
                Outcome::Skipped { reason, detail } => {
                    *skipped.entry(reason).or_default() += 1;
                    if skipped_images.len() < MAX_SKIPPED {
                        skipped_images.push(SkippedImage {
                            file,
                            reason,
                            detail,
                        });
                    }
                }
            }
        }
        let summary = match curves.is_empty() {
            true => None,
            false => Some(summarise(&curves, spec.seed).ok_or(Uneven)?),
        };
        let titles = spec.titles();
        let (rows, differences) = summary.map_or_else(Default::default, |summary| {
            (summary.rows, summary.differences)
        });
        let rows =
            rows.into_iter()
                .zip(&titles)
                .zip(&spec.methods)
                .map(|((row, title), method)| RowFinding {
                    title: title.clone(),
                    method: method.clone(),
                    area: row.area,
                    interval: row.interval,
                    mean_curve: row.mean_curve,
                    band: row.band,
                });
        let differences = differences.into_iter().map(|found| DifferenceFinding {
            one: titles[found.one].clone(),
            other: titles[found.other].clone(),
            difference: found.difference,
            interval: found.interval,
        });
        let metric = evaluation::find("degradation");
        Ok(Self {
            metric: metric.map_or("", |metric| metric.title).to_owned(),
            paper: metric.map_or("", |metric| metric.paper).to_owned(),
            better: metric
                .map_or("", |metric| {
                    if metric.direction == Direction::Lower {
                        "lower"
                    } else {
                        "higher"
                    }
                })
                .to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            used: curves.len(),
            skipped,
            rows: rows.collect(),
            differences: differences.collect(),
            skipped_images,
            samples,
            run: None,
        })
    }

    /// The rows, the best first.
    pub fn by_area(&self) -> Vec<&RowFinding> {
        let mut rows: Vec<&RowFinding> = self.rows.iter().collect();
        rows.sort_by(|a, b| a.area.total_cmp(&b.area));
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
