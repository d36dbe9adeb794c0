//! XRAI: Integrated Gradients from the picture's darkest and brightest value, channels merged by
//! maximum, regions of six segmentations ranked by density (`ranking`). The SIG paper, section 4,
//! with the settings of its public code; `compat: sig-2019` has the paper's. One channel: each
//! pixel the mean of its region. `convergence_delta` is of the Integrated Gradients before the
//! merge. Cost: that of Integrated Gradients, and one segmentation per picture.

use std::sync::Arc;

use ndarray::{Array2, Axis};

use super::{
    Answers, Attribution, MethodRun, Run, RunInputs, Segments, Step,
    doubts::is_zero,
    path,
    ranking::{Ranking, rank},
    regions::{RegionParameters, SegmentSource},
};
use crate::{picture::input::channel_axis, segment::Segmentation, tensor::Tensor};

struct Regional {
    path: MethodRun,
    inputs: RunInputs,
}

pub fn xrai(inputs: RunInputs) -> MethodRun {
    Box::new(Regional {
        path: path::straight_line(inputs.clone()),
        inputs,
    })
}

impl Run for Regional {
    type Output = Attribution;

    fn step(&mut self, answers: Answers) -> Step<Attribution> {
        let step = self.path.step(answers);
        step.map(|attribution| self.ranked(attribution))
    }
}

impl Regional {
    fn ranked(&self, attribution: Attribution) -> Attribution {
        let RunInputs {
            layout,
            segmentation,
            parameters,
            ..
        } = &self.inputs;
        let own: RegionParameters = parameters.group();
        let min_pixel_diff = own.selection.min_pixel_diff;
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
        let ranking = rank(&map, &segmentation.regions, &own.selection);
        let mut scores = Tensor::zeros(merged.raw_dim());
        scores
            .iter_mut()
            .zip(&ranking.values)
            .for_each(|(score, &value)| *score = value as f32);
        let Ranking { ranks, regions, .. } = ranking;
        let small = segmentation
            .regions
            .iter()
            .filter(|pixels| pixels.len() < min_pixel_diff)
            .count();
        let cause = if is_zero(&attribution.scores) {
            attribution.cause
        } else if regions.len() == 1 {
            Some(one_region(segmentation, small, &own))
        } else {
            is_zero(&scores)
                .then(|| "the largest score over the channels is zero in every pixel".to_owned())
        };
        let mut warnings = attribution.warnings;
        if small > 0 && regions.len() > 1 {
            let (all, least) = (segmentation.regions.len(), min_pixel_diff);
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
fn one_region(segmentation: &Segmentation, small: usize, own: &RegionParameters) -> String {
    let (all, least) = (segmentation.regions.len(), own.selection.min_pixel_diff);
    let (height, width) = segmentation.regions.size();
    let one = "the map is one region";
    if small > 0 && small == all {
        return format!(
            "{one}: all {all} are smaller than min_pixel_diff={least} pixels; lower it or send coarser segments"
        );
    }
    match own.segments {
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
