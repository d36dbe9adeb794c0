//! The maps of an image compared with those of another model or another class: what
//! `model_randomisation` and `random_logit` share. Maps of logits are compared, as in their papers:
//! the probabilities of a random model, and of an unlikely class, have hardly a gradient of their
//! own. Cost: the methods' own for each variation, and once more for the image itself where its
//! maps are not all of logits.

use std::{mem, sync::Arc, vec::IntoIter};

use onnx_autodiff::autodiff::spec::Head;

use super::{
    AttributionMap, Case, CaseRow, Measurement, MetricRun, NotFinite,
    similarity::{correlation, ranks_of, structural_similarity},
};
use crate::{
    methods::{Answers, Question, Request, Run, Step, parameters::Parameters, target::Target},
    model::Model,
    picture::preprocess::Layout,
    tensor::Tensor,
};

/// What is explained in place of the case's model and class.
pub struct Variation {
    pub model: Arc<Model>,
    pub class: usize,
}

/// One run for all rows: the Spearman rank correlation of the pixels, of which `measure` is given
/// those of a row with all variations. A map of equal pixels has 0.
pub fn correlate(
    case: &Case,
    variations: impl IntoIterator<Item = Variation>,
    measure: fn(Vec<f64>) -> Measurement,
) -> MetricRun {
    let ranks = |pixels: Vec<f64>| ranks_of(&pixels);
    compare(case, variations, ranks, correlation, measure)
}

/// As [`correlate`]: the structural similarity, of maps that are divided by their largest magnitude.
pub fn resemble(
    case: &Case,
    variations: impl IntoIterator<Item = Variation>,
    measure: fn(Vec<f64>) -> Measurement,
) -> MetricRun {
    let shape = case.input.shape();
    let width = match case.layout() {
        Layout::Nchw => shape.last(),
        Layout::Nhwc => shape.get(1),
    };
    let width = width.copied().unwrap_or(0);
    let similarity = move |own: &[f64], other: &[f64]| structural_similarity(own, other, width);
    compare(case, variations, scaled, similarity, measure)
}

/// Divided by the largest magnitude; zeros as they are.
fn scaled(mut pixels: Vec<f64>) -> Vec<f64> {
    let largest = pixels
        .iter()
        .fold(0.0, |most: f64, value| most.max(value.abs()));
    if largest > 0.0 {
        pixels.iter_mut().for_each(|value| *value /= largest);
    }
    pixels
}

/// `prepare` is given the pixels of a map, `similarity` those of the case's own map and of a
/// variation's, and `measure` the similarities of a row to all variations.
fn compare(
    case: &Case,
    variations: impl IntoIterator<Item = Variation>,
    prepare: fn(Vec<f64>) -> Vec<f64>,
    similarity: impl Fn(&[f64], &[f64]) -> f64 + Send + 'static,
    measure: fn(Vec<f64>) -> Measurement,
) -> MetricRun {
    let mut heads = case.maps.iter().map(|map| map.request.parameters.head);
    let is_of_logits = heads.all(|head| head == Head::Logits);
    let own = (!is_of_logits).then(|| Variation {
        model: case.model.clone(),
        class: case.class,
    });
    let left: Vec<_> = own.into_iter().chain(variations).collect();
    Box::new(Comparison {
        is_of_logits,
        left: left.into_iter(),
        own: Vec::new(),
        similarities: vec![Vec::new(); case.rows.len()],
        case: case.clone(),
        prepare,
        similarity,
        measure,
    })
}

struct Comparison<S> {
    case: Case,
    /// Whether the maps of the case are those of logits.
    is_of_logits: bool,
    /// Still to be explained: the case itself where its maps are not of logits, then the others.
    left: IntoIter<Variation>,
    /// Of each row, the prepared pixels of the case itself.
    own: Vec<Vec<f64>>,
    /// Of each row.
    similarities: Vec<Vec<f64>>,
    prepare: fn(Vec<f64>) -> Vec<f64>,
    similarity: S,
    measure: fn(Vec<f64>) -> Measurement,
}

impl<S: Fn(&[f64], &[f64]) -> f64> Comparison<S> {
    /// Takes the maps of the case itself, and compares those of variations with them.
    fn take(&mut self, maps: &[Arc<Tensor>]) -> Result<(), NotFinite> {
        let layout = self.case.layout();
        let pixels = |row: &CaseRow| {
            let scores = maps.get(row.map)?;
            let is_finite = scores.iter().all(|score| score.is_finite());
            is_finite.then(|| (self.prepare)(row.score.pixels(scores, layout)))
        };
        let pixels: Option<Vec<_>> = self.case.rows.iter().map(pixels).collect();
        let what = "a map of a logit, or of another model or class, has values that are not finite";
        let pixels = pixels.ok_or(NotFinite(what))?;
        if self.own.is_empty() {
            self.own = pixels;
            return Ok(());
        }
        let rows = self.own.iter().zip(&pixels).zip(&mut self.similarities);
        rows.for_each(|((own, other), row)| row.push((self.similarity)(own, other)));
        Ok(())
    }
}

impl<S: Fn(&[f64], &[f64]) -> f64 + Send> Run for Comparison<S> {
    type Output = Result<Vec<Measurement>, NotFinite>;

    fn step(&mut self, answers: Answers) -> Step<Self::Output> {
        let answers = answers.explained().into_iter();
        let mut maps: Vec<_> = answers.map(|one| one.attribution.scores).collect();
        if self.own.is_empty() && self.is_of_logits {
            let own = self.case.maps.iter().map(|map| map.scores.clone());
            maps = own.collect();
        }
        if !maps.is_empty()
            && let Err(error) = self.take(&maps)
        {
            return Step::Done(Err(error));
        }
        let Some(Variation { model, class }) = self.left.next() else {
            let rows = mem::take(&mut self.similarities).into_iter();
            return Step::Done(Ok(rows.map(self.measure).collect()));
        };
        let question = |map: &AttributionMap| Question::Explain {
            model: model.clone(),
            input: self.case.input.clone(),
            request: Request {
                parameters: Parameters {
                    target: Target::Class(class),
                    head: Head::Logits,
                    ..map.request.parameters.clone()
                },
                ..map.request.clone()
            },
        };
        Step::Ask(self.case.maps.iter().map(question).collect())
    }
}
