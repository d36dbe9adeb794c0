//! The images that are trained on, and what each is trained towards. Images without a label and
//! those that cannot be decoded are left out and counted; a label that the model does not know is a
//! fault.

use std::collections::{BTreeMap, BTreeSet};

use ndarray::{Array2, Axis};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::TrainingError;
use crate::{
    dataset::{Dataset, DatasetImage},
    faults::{Fault, Faults},
    model::{
        Model,
        labels::{Classes, Labels, is_number},
    },
    text::excerpt,
};

/// Images with their targets.
#[derive(Clone, Debug)]
pub struct Examples {
    /// Indices into the data set's images, ascending.
    pub images: Vec<usize>,
    /// A row for each of `images`.
    pub targets: Targets,
    /// The names of a new head's classes; empty where the model keeps its head.
    pub labels: Vec<String>,
    pub left_out: LeftOut,
}

/// What images are trained towards.
#[derive(Clone, Debug)]
pub enum Targets {
    /// Class indices.
    Classes(Vec<usize>),
    /// Logits `[image, class]`.
    Logits(Array2<f32>),
}

/// Images of the data set that are not used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeftOut {
    pub unlabelled: usize,
    pub unreadable: usize,
    /// Some of the unreadable files.
    pub files: Vec<String>,
}

/// The most files that are named.
const NAMED_FILES: usize = 10;

impl LeftOut {
    fn add_unreadable(&mut self, picture: &DatasetImage) {
        self.unreadable += 1;
        if self.files.len() < NAMED_FILES {
            self.files.push(excerpt(&picture.file).into_owned());
        }
    }
}

impl Examples {
    /// Every labelled image, towards the class of its (first) label: of the model, or of a new head
    /// whose classes are the data set's labels, sorted, as numbers where all are digits.
    pub fn labelled(
        dataset: &Dataset,
        model: &Model,
        new_head: bool,
    ) -> Result<Self, TrainingError> {
        let labels = match new_head {
            true => new_labels(dataset)?,
            false => Vec::new(),
        };
        let numbers: BTreeMap<&str, usize> = labels.iter().map(String::as_str).zip(0..).collect();
        let classes = Classes {
            labels: &model.labels,
            count: model.classes(),
        };
        let (mut images, mut targets) = (Vec::new(), Vec::new());
        let (mut left_out, mut doubts) = (LeftOut::default(), BTreeSet::new());
        for (index, picture) in dataset.images.iter().enumerate() {
            let class = if new_head {
                label(picture).and_then(|label| numbers.get(label.as_str()).copied())
            } else {
                let meaning = dataset.meaning(picture, classes);
                doubts.extend(meaning.doubts);
                meaning.classes.first().copied()
            };
            match class {
                None => left_out.unlabelled += 1,
                Some(_) if picture.fault.is_some() => left_out.add_unreadable(picture),
                Some(class) => {
                    images.push(index);
                    targets.push(class);
                }
            }
        }
        if !doubts.is_empty() {
            let mut faults = Faults::default();
            for doubt in &doubts {
                faults.push_with(|| {
                    let instead = ["labels of the model", "new_head: true"];
                    Fault::new("dataset", doubt.explain(classes), instead)
                });
            }
            return Err(faults.into());
        }
        if images.is_empty() {
            return Err(TrainingError::NoImages {
                dataset: dataset.id.clone(),
                images: dataset.images.len(),
                unlabelled: left_out.unlabelled,
                unreadable: left_out.unreadable,
            });
        }
        let met: BTreeSet<usize> = targets.iter().copied().collect();
        for (class, label) in labels.iter().enumerate() {
            if !met.contains(&class) {
                let is_its = |picture: &&DatasetImage| self::label(picture).as_ref() == Some(label);
                return Err(TrainingError::EmptyClass {
                    label: excerpt(label).into_owned(),
                    images: dataset.images.iter().filter(is_its).count(),
                });
            }
        }
        Ok(Self {
            images,
            targets: Targets::Classes(targets),
            labels,
            left_out,
        })
    }
}

impl Examples {
    /// Every image that can be decoded, towards its row of logits: a row for each image of the data
    /// set, in their order.
    pub fn towards(dataset: &Dataset, logits: &Array2<f32>) -> Result<Self, TrainingError> {
        let count = dataset.images.len();
        if logits.nrows() != count {
            return Err(TrainingError::Targets {
                found: logits.shape().to_vec(),
                images: count,
                classes: logits.ncols(),
            });
        }
        let (mut images, mut left_out) = (Vec::new(), LeftOut::default());
        for (index, picture) in dataset.images.iter().enumerate() {
            match picture.fault {
                None => images.push(index),
                Some(_) => left_out.add_unreadable(picture),
            }
        }
        if images.is_empty() {
            return Err(TrainingError::NoImages {
                dataset: dataset.id.clone(),
                images: count,
                unlabelled: 0,
                unreadable: left_out.unreadable,
            });
        }
        Ok(Self {
            targets: Targets::Logits(logits.select(Axis(0), &images)),
            images,
            labels: Vec::new(),
            left_out,
        })
    }
}

fn label(picture: &DatasetImage) -> Option<String> {
    let name = picture.truth.names.first().cloned();
    name.or_else(|| picture.truth.indices.first().map(usize::to_string))
}

fn new_labels(dataset: &Dataset) -> Result<Vec<String>, TrainingError> {
    let found: BTreeSet<String> = dataset.images.iter().filter_map(label).collect();
    let mut labels: Vec<String> = found.into_iter().collect();
    if labels.iter().all(|label| is_number(label)) {
        labels.sort_by_key(|label| (label.trim_start_matches('0').len(), label.clone()));
    }
    if let [label] = labels.as_slice() {
        return Err(TrainingError::OneClass {
            label: excerpt(label).into_owned(),
        });
    }
    // What labels.txt will say of the trained model.
    let lines = Labels::read(labels.join("\n").as_bytes()).unwrap_or_default();
    match labels
        .iter()
        .zip(lines.iter().chain([&String::new()]))
        .find(|(label, line)| label != line)
    {
        Some((label, _)) => Err(TrainingError::Label {
            label: excerpt(label).into_owned(),
        }),
        None => Ok(labels),
    }
}
