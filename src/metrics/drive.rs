//! Drives a metric over the engine's forward graph. The only file of the room that holds the engine.

use std::sync::Arc;

use super::{Run, Step};
use crate::{
    autodiff::spec::DeriveSpec,
    engine::{Caller, Engine, EngineError},
    model::Model,
};

/// Runs one to its end. Bounded: it asks for a few inputs at a time.
pub async fn run(
    engine: &Engine,
    model: &Arc<Model>,
    caller: &Caller,
    mut run: Box<dyn Run>,
) -> Result<Vec<f64>, EngineError> {
    let mut answers = Vec::new();
    loop {
        match run.step(&answers) {
            Step::Done(curve) => return Ok(curve),
            Step::Evaluate(points) => {
                answers = engine.evaluate(model, &DeriveSpec::forward(), points, caller).await?.rows;
            }
        }
    }
}
