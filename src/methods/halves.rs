//! Sampling that ends early: the samples of even number give one estimate and the others a second
//! one, and what both have in common tells how near their sum is to the estimate from endless
//! samples.

use serde_json::json;

use super::{
    Attribution, EndedBy, Refinement, Went,
    parameters::{Group, Kind, Parameter, Parameters},
};

/// Of methods that draw samples.
#[derive(Clone, Copy, Debug, Default)]
struct SamplingParameters {
    /// Ends the run when the map correlates with that of endless samples at 1 - this.
    tolerance: Option<f64>,
}

const TOLERANCE: Parameter = Parameter {
    name: "tolerance",
    kind: Kind::Number {
        above: 0.0,
        max: 1.0,
        set: |p, tolerance| {
            p.change(|own: &mut SamplingParameters| own.tolerance = Some(tolerance));
        },
    },
    doc: "Ends the sampling before n_samples, as soon as the map correlates with that of endless samples at 1 - tolerance (0.02: at 0.98), \
          estimated from the maps of every other sample and of those between.",
    from_model: false,
    get: |p| tolerance(p).map(|tolerance| json!(tolerance)),
};

/// For methods that fit values to samples.
pub static FITTED: Group = Group::of(&[TOLERANCE]);

/// For methods whose scores are means over samples: they tell their standard error, too.
pub static AVERAGED: Group = Group::of(&[TOLERANCE]);

fn tolerance(parameters: &Parameters) -> Option<f64> {
    parameters.group::<SamplingParameters>().tolerance
}

/// What two halves of the samples say.
#[derive(Clone, Debug)]
pub struct Halves {
    pub samples: usize,
    /// Whether there are so many that both do not agree by chance.
    pub are_enough: bool,
    pub estimates: [Vec<f64>; 2],
}

impl Halves {
    /// Whether the tolerance, if there is one, lets the sampling end here.
    pub fn suffice(halves: impl FnOnce() -> Option<Self>, parameters: &Parameters) -> bool {
        let least = tolerance(parameters).map(|tolerance| 1.0 - tolerance);
        least.is_some_and(|least| {
            halves().is_some_and(|halves| halves.are_enough && halves.reliability() >= least)
        })
    }

    /// How the estimate from all samples correlates with what both halves are estimates of, where r is
    /// their correlation and their errors are independent and alike: √(2 r / (1 + r)), Spearman and
    /// Brown's formula. NaN where they correlate by nothing.
    fn reliability(&self) -> f64 {
        let r = correlation(&self.estimates);
        (2.0 * r / (1.0 + r)).sqrt()
    }

    /// Tells in the map of a run with a tolerance how it ended.
    pub fn tell(
        halves: impl FnOnce() -> Option<Self>,
        ended_by: EndedBy,
        parameters: &Parameters,
        map: &mut Attribution,
    ) {
        let Some((tolerance, halves)) = tolerance(parameters).and_then(|t| Some((t, halves()?)))
        else {
            return;
        };
        map.refinement = Some(Refinement {
            went: Went::NSamples(halves.samples),
            ended_by,
        });
        if ended_by == EndedBy::NSamples {
            map.warnings.push(format!(
                "after {} samples the map correlates with that of endless samples at about {:.3}, and the tolerance asks for {}; raise n_samples",
                halves.samples,
                halves.reliability(),
                1.0 - tolerance
            ));
        }
    }
}

/// Pearson's; NaN where one of the two is the same everywhere.
pub(super) fn correlation([one, other]: &[Vec<f64>; 2]) -> f64 {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (of_one, of_other) = (mean(one), mean(other));
    let (mut both, mut squares) = (0.0, [0.0; 2]);
    for (one, other) in one.iter().zip(other) {
        let (one, other) = (one - of_one, other - of_other);
        both += one * other;
        squares[0] += one * one;
        squares[1] += other * other;
    }
    both / (squares[0] * squares[1]).sqrt()
}
