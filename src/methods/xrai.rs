//! XRAI: Integrated Gradients from the picture's darkest and brightest value, channels merged by
//! maximum, regions of six segmentations ranked by density (`ranking`). The SIG paper, section 4,
//! with the settings of its public code; `compat: sig-2019` has the paper's. One channel: each
//! pixel the mean of its region. `convergence_delta` is of the Integrated Gradients before the
//! merge. Cost: that of Integrated Gradients, and one segmentation per picture.

use std::sync::Arc;

use ndarray::{Array2, Axis};

use super::{
    Attribution, Run, Segments, Step, Subject,
    doubts::is_zero,
    parameters::{Compat, Parameters, SegmentSource},
    path,
    ranking::{Ranking, Selection, rank},
};
use crate::{
    engine::Row,
    picture::input::{InputPicture, channel_axis},
    segment::{Segmentation, felzenszwalb::Edges},
    tensor::Tensor,
};
use onnx_autodiff::autodiff::spec::DeriveSpec;

const SCALES: [f64; 6] = [50.0, 100.0, 150.0, 250.0, 500.0, 1200.0];
const SIGMA: f64 = 0.8;
/// Each segment grows by so many pixels, so that it holds the edges around it.
const RADIUS: usize = 5;

/// The regions of a picture. Its colours are stretched to -1..=1 and segments have 150 pixels at
/// least, as in the public code. The paper's 0..=1 and 20 pixels (`compat: sig-2019`) give the 1000
/// regions per photo that it tells of.
pub fn segment(picture: &InputPicture, parameters: &Parameters) -> Segmentation {
    let (low, high) = picture.extremes();
    let (bottom, top, min_size) = match parameters.compat {
        Some(Compat::Sig2019) => (0.0, 1.0, 20),
        _ => (-1.0, 1.0, 150),
    };
    let scale = if high > low {
        (top - bottom) / (high - low)
    } else {
        0.0
    };
    let edges = Edges::of(
        picture
            .planes
            .mapv(|value| (value - low) * scale + bottom)
            .view(),
        SIGMA,
    );
    Segmentation::of_maps(
        SCALES.map(|scale| edges.segment(scale, min_size)).into(),
        RADIUS,
    )
}

struct Regional {
    path: Box<dyn Run>,
    subject: Subject,
}

pub fn xrai(subject: Subject) -> Box<dyn Run> {
    Box::new(Regional {
        path: path::straight_line(subject.clone()),
        subject,
    })
}

impl Run for Regional {
    fn spec(&self) -> DeriveSpec {
        self.path.spec()
    }

    fn step(&mut self, answers: &[Row]) -> Step {
        match self.path.step(answers) {
            Step::Done(attribution) => Step::Done(self.ranked(attribution)),
            asks => asks,
        }
    }
}

impl Regional {
    fn ranked(&self, attribution: Attribution) -> Attribution {
        let Subject {
            layout,
            segmentation,
            parameters,
            ..
        } = &self.subject;
        let channels = Axis(channel_axis(*layout));
        // `f32::max` would pass over a NaN.
        let larger = |max: &f32, value: &f32| {
            if value > max || value.is_nan() {
                *value
            } else {
                *max
            }
        };
        let merged = attribution
            .scores
            .fold_axis(channels, f32::NEG_INFINITY, larger);
        let map: Vec<f64> = merged.iter().map(|&value| f64::from(value)).collect();
        let ranking = rank(
            &map,
            &segmentation.regions,
            &Selection {
                algorithm: parameters.algorithm,
                area_threshold: parameters.area_threshold,
                min_pixel_diff: parameters.min_pixel_diff,
            },
        );
        let mut scores = Tensor::zeros(merged.raw_dim());
        scores
            .iter_mut()
            .zip(&ranking.values)
            .for_each(|(score, &value)| *score = value as f32);
        let Ranking { ranks, regions, .. } = ranking;
        let small = segmentation
            .regions
            .iter()
            .filter(|pixels| pixels.len() < parameters.min_pixel_diff)
            .count();
        let cause = if is_zero(&attribution.scores) {
            attribution.cause
        } else if regions.len() == 1 {
            Some(one_region(segmentation, small, parameters))
        } else {
            is_zero(&scores)
                .then(|| "the largest score over the channels is zero in every pixel".to_owned())
        };
        let mut warnings = attribution.warnings;
        if small > 0 && regions.len() > 1 {
            let (all, least) = (segmentation.regions.len(), parameters.min_pixel_diff);
            warnings.push(format!(
                "{small} of {all} regions are smaller than min_pixel_diff={least} pixels and passed over: lower it or send \
                 coarser segments"
            ));
        }
        let ranks = Array2::from_shape_vec(segmentation.regions.size(), ranks).ok();
        let segmentation = segmentation.clone();
        Attribution {
            cause,
            warnings,
            scores: Arc::new(scores.insert_axis(channels)),
            segments: ranks.map(|ranks| {
                Arc::new(Segments {
                    segmentation,
                    ranks,
                    regions,
                })
            }),
            ..attribution
        }
    }
}

/// Why the whole picture is one region. `small`: how many are too small to be ranked.
fn one_region(segmentation: &Segmentation, small: usize, parameters: &Parameters) -> String {
    let (all, least) = (segmentation.regions.len(), parameters.min_pixel_diff);
    let (height, width) = segmentation.regions.size();
    let one = "the map is one region";
    if small > 0 && small == all {
        return format!(
            "{one}: all {all} are smaller than min_pixel_diff={least} pixels; lower it or send coarser segments"
        );
    }
    match parameters.segments {
        SegmentSource::Felzenszwalb => {
            format!(
                "{one}: the segmentation finds no other in {height} x {width} pixels; send segments of your own"
            )
        }
        SegmentSource::Uploaded => {
            format!("{one}: no other of the segments sent adds min_pixel_diff={least} pixels")
        }
    }
}
