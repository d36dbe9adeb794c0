//! How long the stages of a request take: filled as it goes, told in its answer, recorded once.

use std::time::Duration;

use crate::{
    methods::Timing,
    telemetry::{Stage, record_stage},
};

/// Stages that did not happen take no time.
#[derive(Clone, Copy, Debug, Default)]
pub struct StageTimes {
    pub decode: Duration,
    pub preprocess: Duration,
    pub queue: Duration,
    pub model: Duration,
    pub render: Duration,
    pub encode: Duration,
    /// From the plan to before the encoding: inputs of one request are worked on at once.
    pub total: Duration,
}

impl StageTimes {
    pub fn with_engine(self, Timing { queue, model }: Timing) -> Self {
        Self {
            queue,
            model,
            ..self
        }
    }

    /// Adds them to the histograms of the stages.
    pub fn record(&self) {
        let stages = [
            (Stage::Decode, self.decode),
            (Stage::Preprocess, self.preprocess),
            (Stage::Queue, self.queue),
            (Stage::Model, self.model),
            (Stage::Render, self.render),
            (Stage::Encode, self.encode),
        ];
        for (stage, duration) in stages.into_iter().filter(|(_, spent)| !spent.is_zero()) {
            record_stage(stage, duration);
        }
    }
}

/// Of the inputs of one request: the stages summed, and the longest `total`.
impl FromIterator<StageTimes> for StageTimes {
    fn from_iter<I: IntoIterator<Item = StageTimes>>(inputs: I) -> Self {
        inputs.into_iter().fold(Self::default(), |sum, one| Self {
            decode: sum.decode + one.decode,
            preprocess: sum.preprocess + one.preprocess,
            queue: sum.queue + one.queue,
            model: sum.model + one.model,
            render: sum.render + one.render,
            encode: sum.encode + one.encode,
            total: sum.total.max(one.total),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_of_inputs_add_up_and_their_total_is_the_longest() {
        let one = |ms: u64| StageTimes {
            decode: Duration::from_millis(ms),
            total: Duration::from_millis(10 * ms),
            ..StageTimes::default()
        };
        let sum = StageTimes::from_iter([one(3), one(4), one(2)]);
        assert_eq!(
            (sum.decode, sum.total),
            (Duration::from_millis(9), Duration::from_millis(40))
        );
        assert!(sum.render.is_zero());
    }
}
