//! How long the stages of a request take.

use std::time::Duration;

use super::{answer::TimingMs, input::Prepared};
use crate::{
    methods::Timing,
    telemetry::{self, Stage},
};

pub(super) fn record_stages(prepared: &Prepared, render: Duration) {
    telemetry::record_stage(Stage::Decode, prepared.decode);
    telemetry::record_stage(Stage::Preprocess, prepared.preprocess);
    telemetry::record_stage(Stage::Render, render);
}

pub(super) fn engine_timing(timing: Timing) -> TimingMs {
    telemetry::record_stage(Stage::Queue, timing.queue);
    telemetry::record_stage(Stage::Model, timing.model);
    TimingMs {
        queue: milliseconds(timing.queue),
        model: milliseconds(timing.model),
        ..TimingMs::default()
    }
}

/// To the microsecond.
pub(super) fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}
