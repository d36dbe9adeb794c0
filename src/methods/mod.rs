//! Attribution methods: pure descriptions that ask questions about models; one file each, one row
//! each in `registry`.

pub mod applies;
pub mod attention;
pub mod coalitions;
pub mod doubts;
pub mod edges;
pub mod eigen_cam;
pub mod expected;
mod explained;
pub mod feature_ablation;
pub mod formula;
pub mod gad;
pub mod grad_cam;
pub mod halves;
pub mod kernel_shap;
pub mod layers;
pub mod lime;
pub mod noise;
pub mod occlusion;
pub mod parameters;
pub mod path;
mod pixels;
pub mod point;
mod prediction;
pub mod quadrature;
pub mod random;
pub mod ranking;
pub mod regions;
pub mod registry;
pub mod regression;
pub mod rise;
mod run;
pub mod score_cam;
pub mod shapley_sampling;
pub mod target;
pub mod xrai;

use std::sync::Arc;

use ndarray::Array2;
use serde::Serialize;

use crate::{
    engine::{GraphKey, Point, Row},
    model::{Model, supports::Support},
    picture::preprocess::Layout,
    segment::Segmentation,
    tensor::Tensor,
};
pub use explained::{Explained, Request, Timing};
use onnx_autodiff::autodiff::spec::Head;
use parameters::Parameters;
pub use prediction::{ExplainedTarget, Prediction};
use ranking::Ranked;
pub use run::{Answer, Answers, Question, Run, Step};

/// Points asked for at once: a run of any length takes bounded memory.
pub const CHUNK: usize = 32;

/// A method at work on one input and one target.
pub type MethodRun = Box<dyn Run<Output = Attribution>>;

/// What a method is built for: one input, one target, resolved parameters.
///
/// A run that asks for the input itself asks with this very `Arc`: that is how the driver sees its
/// predictions without an evaluation of its own.
#[derive(Clone, Debug)]
pub struct RunInputs {
    pub model: Arc<Model>,
    /// Without batch axis.
    pub input: Arc<Tensor>,
    /// Cotangent of the head: the target.
    pub seed: Arc<[(usize, f32)]>,
    /// f(input) where it is already known.
    pub input_value: Option<f64>,
    /// At least one for methods that need baselines, each in the shape of the input; else empty.
    pub baselines: Vec<Arc<Tensor>>,
    /// Which axis of the input holds its channels.
    pub layout: Layout,
    /// `[height, width]` of the picture that the input shows, black 0 and white 1; for methods that
    /// need it.
    pub luma: Option<Arc<Array2<f32>>>,
    /// The picture's regions, for methods that need them; else none. Of a partition of ready tensors
    /// none, too: each pixel is a region.
    pub segmentation: Arc<Segmentation>,
    /// By alpha, for methods that need them; else none.
    pub supports: Arc<[Support]>,
    pub parameters: Arc<Parameters>,
}

impl RunInputs {
    /// Asks for the rows of these points, derived as the parameters say.
    pub fn ask<T>(&self, points: Vec<Point>) -> Step<T> {
        let graph = GraphKey::new(self.model.clone(), self.parameters.derive_spec());
        Step::Ask(vec![Question::rows(graph, points)])
    }

    /// The input itself, with the target for a seed.
    pub fn clean_point(&self) -> Point {
        Point {
            input: self.input.clone(),
            seed: self.seed.clone(),
        }
    }
}

/// Signed scores in the shape of the input, or with one channel where a method scores pixels; and
/// the completeness figures of path methods.
#[derive(Clone, Debug)]
pub struct Attribution {
    pub scores: Arc<Tensor>,
    pub input_value: Option<f64>,
    pub baseline_value: Option<f64>,
    /// Σ attribution - (f(x) - f(x')).
    pub convergence_delta: Option<f64>,
    /// |convergence_delta| / |f(x) - f(x')|.
    pub approximation_error: Option<f64>,
    /// How a run with a `tolerance` ended.
    pub refinement: Option<Refinement>,
    /// Of methods that estimate the scores from random samples: the standard error of each.
    pub standard_error: Option<Arc<Tensor>>,
    /// Of methods that rank regions.
    pub segments: Option<Arc<Segments>>,
    /// Of methods that compare the maps of several models.
    pub compared: Option<Arc<ComparedMaps>>,
    /// Why every score is the same, where the method can tell.
    pub cause: Option<String>,
    pub warnings: Vec<String>,
}

impl Attribution {
    /// Scores alone, for methods without completeness.
    pub fn of(scores: Tensor) -> Self {
        Self {
            scores: Arc::new(scores),
            input_value: None,
            baseline_value: None,
            convergence_delta: None,
            approximation_error: None,
            refinement: None,
            standard_error: None,
            segments: None,
            compared: None,
            cause: None,
            warnings: Vec::new(),
        }
    }
}

/// The regions that a map is made of.
#[derive(Clone, Debug)]
pub struct Segments {
    pub segmentation: Arc<Segmentation>,
    /// The rank of each pixel's region, from 1, `[height, width]`.
    pub ranks: Array2<u32>,
    /// By rank.
    pub regions: Vec<Ranked>,
}

/// The maps of one input by several models: the positive part of the channel sum, with one channel.
#[derive(Clone, Debug)]
pub struct ComparedMaps {
    /// By the model that is explained.
    pub own: Arc<Tensor>,
    /// By each of its supports, with its alpha.
    pub supports: Vec<(f64, Arc<Tensor>)>,
}

/// How far a run with a `tolerance` went, and what ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Refinement {
    pub went: Went,
    pub ended_by: EndedBy,
}

/// What a run was refined by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Went {
    /// Points of the last quadrature, per baseline.
    NSteps(usize),
    /// Random samples.
    NSamples(usize),
}

/// The parameter that ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EndedBy {
    Tolerance,
    MaxSteps,
    NSamples,
}

/// f_c of a row: the head's values weighted by the seed.
pub fn head_value(row: &Row, head: Head, seed: &[(usize, f32)]) -> f64 {
    let values = match head {
        Head::Logits => &row.logits,
        Head::Probabilities => &row.probabilities,
    };
    seed.iter()
        .filter_map(|&(class, weight)| Some(f64::from(*values.get(class)?) * f64::from(weight)))
        .sum()
}

#[cfg(test)]
pub(crate) mod reference;
