//! Evaluation of attribution methods. A metric is a file, and a row of `registry`: it is built for
//! a [`Case`], one image with the maps of all methods compared, and asks for what else it needs in
//! the shape of the methods ([`Run`]). `aggregate` makes means, intervals and paired differences of
//! the images' measurements, `findings` what a job finds, and `report` its report.

pub mod aggregate;
pub mod agreement;
pub mod attribution;
pub mod completeness;
pub mod confidence;
pub mod degradation;
pub mod entropy;
pub mod findings;
pub mod hulls;
pub mod imputation;
pub mod infidelity;
pub mod information;
pub mod input_dependence;
pub mod input_independence;
pub mod localisation;
pub mod max_sensitivity;
pub mod model_contrast;
pub mod model_randomisation;
pub mod noise;
pub mod parameters;
pub mod patches;
pub mod perturbation_epsilon;
pub mod perturbed;
pub mod pixels;
pub mod progressive;
pub mod random_logit;
pub mod registry;
pub mod removal;
pub mod repeatability;
pub mod report;
pub mod rise;
pub mod road;
pub mod sensitivity_n;
pub mod similar_input;
pub mod similarity;
pub mod sparseness;
pub mod tidy;
pub mod variation;

use std::sync::Arc;

use ndarray::Array2;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    methods::{self, ComparedMaps, Request, Run},
    model::{Model, variant::VariantError},
    picture::{ImageError, preprocess::Layout},
    tensor::Tensor,
};
use aggregate::{Ratios, Tally};
use parameters::{MetricParameter, Values};
use patches::Score;

/// One metric.
#[derive(Debug)]
pub struct Metric {
    pub id: &'static str,
    pub title: &'static str,
    /// Paper and section.
    pub paper: &'static str,
    pub category: Category,
    pub direction: fn(&Values) -> Direction,
    /// In the order in which they are settled.
    pub parameters: &'static [MetricParameter],
    /// How reports speak of it.
    pub words: Words,
    pub needs: Needs,
    /// Runs whose measurements, one after another, are those of the case's rows.
    pub build: fn(&Case, &Values) -> Result<Vec<MetricRun>, MetricError>,
    pub reading: Reading,
}

impl Metric {
    /// Whether a map is all that it takes: it asks nothing of a model, and needs no region.
    pub fn needs_only_maps(&self) -> bool {
        !self.needs.region && self.needs.cost.words == Cost::NONE.words
    }
}

/// What measurements come to.
#[derive(Debug)]
pub struct Reading {
    /// One of them, in one number.
    pub value: fn(&Values, &[f64]) -> f64,
    /// Why an image says nothing to the metric, whatever the method, by the measurements of its
    /// rows; after a number of images.
    pub skips: fn(&Values, &[Measurement]) -> Option<&'static str>,
    pub aggregation: Aggregation,
}

impl Reading {
    /// A measurement is a number, and a row has the mean over images.
    pub const NUMBER: Self = Self {
        value: |_, numbers| numbers.first().copied().unwrap_or(f64::NAN),
        skips: |_, _| None,
        aggregation: Aggregation::Mean,
    };

    /// What each row of an image comes to, in the unit of the value of a row.
    pub fn of_image(&self, values: &Values, rows: &[Measurement]) -> Vec<f64> {
        let weight = match self.aggregation {
            Aggregation::Ratio(weight) => weight(rows),
            Aggregation::Mean | Aggregation::Own(_) => 1.0,
        };
        let value = |row: &Measurement| (self.value)(values, row) / weight;
        rows.iter().map(value).collect()
    }

    /// What measurements of images come to, none of which it has yet.
    pub fn tally(&'static self, values: &Values) -> Box<dyn Tally> {
        let own = values.clone();
        let value = move |measurement: &[f64]| (self.value)(&own, measurement);
        match self.aggregation {
            Aggregation::Mean => Box::new(Ratios::new(value, |_| 1.0)),
            Aggregation::Ratio(weight) => Box::new(Ratios::new(value, weight)),
            Aggregation::Own(tally) => tally(values),
        }
    }
}

/// How the value of a row comes of those of images.
#[derive(Debug)]
pub enum Aggregation {
    /// Their mean.
    Mean,
    /// Their sum, over that of a weight of the images.
    Ratio(fn(&[Measurement]) -> f64),
    /// By a formula of the metric's own.
    Own(fn(&Values) -> Box<dyn Tally>),
}

/// What a metric needs beside the maps of the methods, and what it costs.
#[derive(Debug)]
pub struct Needs {
    /// Whether it needs the region of the labelled object.
    pub region: bool,
    /// Whether it needs the image without the object: that of the same group with the role `without`.
    pub pair: bool,
    /// Whether maps of these parameters mean nothing to it, and why those do, in a sentence: it
    /// leaves their rows out.
    pub excludes: fn(&methods::parameters::Parameters) -> bool,
    pub exclusion: &'static str,
    /// The models that a case has beside the one that is evaluated, made of it by a seed; those that
    /// its parameter `models` names come after them.
    pub models: fn(&Values, &Model, u64) -> Result<Vec<Model>, MetricError>,
    /// The most rows and columns in which inputs differ that it asks for as nearby.
    pub change: fn(&Values, &Model) -> Option<[usize; 2]>,
    pub cost: Cost,
    /// The work of its own, such as coding pictures: for so many rows, evaluations of a small network
    /// that take about as long.
    pub work: fn(rows: usize) -> usize,
    /// What is measured, where other metrics read the same measurements: those of the same
    /// parameters are measured once.
    pub shares: Option<&'static str>,
    /// Parameters that only the reading looks at: what is measured is the same whatever they are.
    pub unmeasured: &'static [&'static str],
}

impl Needs {
    /// Nothing: maps of any method are enough.
    pub const NOTHING: Self = Self {
        region: false,
        pair: false,
        excludes: |_| false,
        exclusion: "",
        models: |_, _, _| Ok(Vec::new()),
        change: |_, _| None,
        cost: Cost::NONE,
        work: |_| 0,
        shares: None,
        unmeasured: &[],
    };
}

/// What a metric is about, after Hedström et al., Quantus, 2023, section 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = MetricCategory)]
pub enum Category {
    /// Whether the model depends on what the map says it does.
    Faithfulness,
    /// Whether a map has a property that is demanded of it.
    Axiomatic,
    /// Whether a map is simple.
    Complexity,
    /// Whether a map lies on the object that the image is labelled with.
    Localisation,
    /// Whether a map depends on the model.
    Randomisation,
    /// Whether a map stays the same where nothing of account changes.
    Robustness,
}

impl Category {
    pub fn name(self) -> &'static str {
        match self {
            Self::Faithfulness => "faithfulness",
            Self::Axiomatic => "axiomatic",
            Self::Complexity => "complexity",
            Self::Localisation => "localisation",
            Self::Randomisation => "randomisation",
            Self::Robustness => "robustness",
        }
    }
}

/// Which values are better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = MetricDirection)]
pub enum Direction {
    Lower,
    Higher,
    /// None: what chance comes to, or what the images are like whatever the method.
    Neither,
}

impl Direction {
    pub fn name(self) -> &'static str {
        match self {
            Self::Lower => "lower",
            Self::Higher => "higher",
            Self::Neither => "neither",
        }
    }
}

/// Evaluations of an image, beside those of its explanations.
#[derive(Debug)]
pub struct Cost {
    pub words: &'static str,
    /// For so many rows, whose explanations cost so many evaluations.
    pub count: fn(&Values, rows: usize, explaining: usize) -> usize,
}

impl Cost {
    pub const NONE: Self = Self {
        words: "none",
        count: |_, _, _| 0,
    };
}

/// What reports say of a metric.
#[derive(Debug)]
pub struct Words {
    /// A sentence or two on what is measured.
    pub about: fn(&Values) -> String,
    /// What the value of a row is: in a heading, in a table's head, in the figure's legend.
    pub heading: &'static str,
    pub column: &'static str,
    pub legend: &'static str,
    /// How the value comes about, as sentences.
    pub value: &'static str,
    /// Of metrics that measure a curve.
    pub axes: Option<Axes>,
}

/// The axes of a curve.
#[derive(Clone, Copy, Debug)]
pub struct Axes {
    pub x: &'static str,
    pub y: &'static str,
    /// Where the last value of a curve lies; without it, at the number of its steps.
    pub end: Option<f64>,
    /// Whether the figure has room for values below 0.
    pub signed: bool,
}

/// One image, and all that is known of it before a metric is asked.
#[derive(Clone, Debug)]
pub struct Case {
    pub model: Arc<Model>,
    /// Those of [`Needs::models`].
    pub variants: Arc<[Variant]>,
    /// Without batch axis.
    pub input: Arc<Tensor>,
    /// The input of the image without the object; for metrics that need it.
    pub twin: Option<Arc<Tensor>>,
    /// The class that is explained, and its score on the clean input.
    pub class: usize,
    pub clean: f64,
    /// The classes that are right for the image; without them, any is.
    pub right: Option<Vec<usize>>,
    /// Where the labelled object lies, `[height, width]`, with at least one pixel inside; for
    /// metrics that need it.
    pub region: Option<Arc<Array2<bool>>>,
    /// Each different one once.
    pub maps: Arc<[AttributionMap]>,
    pub rows: Arc<[CaseRow]>,
    /// Of what metrics draw: the image's own.
    pub seed: u64,
}

/// A model that a case has beside its own.
#[derive(Clone, Debug)]
pub struct Variant {
    pub model: Arc<Model>,
    /// The classes that are right for the image; without them, any is.
    pub right: Option<Vec<usize>>,
}

impl Variant {
    /// Whether it is right to predict a class.
    pub fn is_right(&self, class: usize) -> bool {
        self.right
            .as_ref()
            .is_none_or(|right| right.contains(&class))
    }
}

impl From<Arc<Model>> for Variant {
    fn from(model: Arc<Model>) -> Self {
        Self { model, right: None }
    }
}

/// A request, and the map that answers it.
#[derive(Clone, Debug)]
pub struct AttributionMap {
    pub request: Request,
    /// Finite, in the shape of the input, or with one channel.
    pub scores: Arc<Tensor>,
    /// f(x) - f(x'), of methods that evaluate both.
    pub difference: Option<f64>,
    /// The maps that it was made of, of methods that compare several models.
    pub compared: Option<Arc<ComparedMaps>>,
}

/// One row of the comparison: a map, and what stands for its pixels.
#[derive(Clone, Copy, Debug)]
pub struct CaseRow {
    /// Place among the maps of the case.
    pub map: usize,
    pub score: Score,
}

impl Case {
    /// Which axis of the input, and of its maps, holds the channels.
    pub fn layout(&self) -> Layout {
        let rule = self.model.manifest.input.preprocess.as_ref();
        rule.map_or(Layout::Nchw, |rule| rule.layout)
    }

    /// The case of fewer rows, in their order, with the maps that they need.
    pub fn with_rows(&self, kept: impl Fn(&AttributionMap) -> bool) -> Self {
        let mut places = Vec::with_capacity(self.maps.len());
        let mut maps = Vec::new();
        for map in self.maps.iter() {
            let is_kept = kept(map);
            places.push(is_kept.then_some(maps.len()));
            maps.extend(is_kept.then(|| map.clone()));
        }
        let row = |row: &CaseRow| {
            let map = places.get(row.map).copied().flatten()?;
            Some(CaseRow { map, ..*row })
        };
        Self {
            maps: maps.into(),
            rows: self.rows.iter().filter_map(row).collect(),
            ..self.clone()
        }
    }

    /// Each row's map, and what stands for its pixels.
    pub fn row_maps(&self) -> impl Iterator<Item = (&AttributionMap, Score)> {
        let found = |row: &CaseRow| Some((self.maps.get(row.map)?, row.score));
        self.rows.iter().filter_map(found)
    }
}

/// What a metric measures of one row on one image: a number, a curve, or all that a formula needs.
pub type Measurement = Vec<f64>;

/// A metric at work on a case.
pub type MetricRun = Box<dyn Run<Output = Result<Vec<Measurement>, NotFinite>>>;

/// What of an image is not finite, as a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotFinite(pub &'static str);

/// Why a metric cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum MetricError {
    #[error("the parameters of a metric cannot be read: {0}")]
    Parameters(#[from] serde_json::Error),
    #[error("the grid does not fit the model's input")]
    Grid,
    #[error("the model's input is no picture that pixels can be interpolated in")]
    Picture,
    #[error("the image has no region of its labelled object")]
    Region,
    #[error("the image has no other without its object")]
    Pair,
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Variant(#[from] VariantError),
}

/// Height and width of the pictures that a model takes; none where it takes other inputs.
pub fn input_size(model: &Model) -> Option<[usize; 2]> {
    let rule = model.manifest.input.preprocess.as_ref()?;
    Some([rule.height as usize, rule.width as usize]).filter(|size| !size.contains(&0))
}

#[cfg(test)]
mod tests;
