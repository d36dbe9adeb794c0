//! The best classes of the inputs of a request.

use std::{sync::Arc, time::Instant};

use futures::{StreamExt, TryStreamExt, stream};

use super::{
    App, AppError,
    error::locate,
    explain::{INPUTS_AT_ONCE, tell_log},
    input::{Input, Item},
    plan::PredictPlan,
    timing::StageTimes,
};
use crate::{
    driver::Driver, engine::Caller, methods::Prediction, model::Model, picture::geometry::Geometry,
};

/// The best classes of one input.
#[derive(Clone, Debug)]
pub struct Predicted {
    /// For inputs of its size.
    pub model: Arc<Model>,
    /// Of an image.
    pub geometry: Option<Geometry>,
    pub predictions: Vec<Prediction>,
    pub warnings: Vec<String>,
    pub times: StageTimes,
}

impl App {
    /// The best classes of every input, in order.
    pub async fn predict(
        &self,
        plan: &PredictPlan,
        inputs: Vec<Input>,
        caller: &Caller,
    ) -> Result<Vec<Predicted>, AppError> {
        tell_log(&plan.model, None);
        let inputs = self.split(inputs, &plan.model).await?.each;
        let count = inputs.len();
        let _admitted = self.admit(&plan.model, "predict", count, caller).await?;
        stream::iter(inputs.into_iter().enumerate())
            .map(|(at, input)| async move {
                self.predict_one(plan, input, caller)
                    .await
                    .map_err(|error| locate(error, at, count))
            })
            .buffered(INPUTS_AT_ONCE)
            .try_collect()
            .await
    }

    async fn predict_one(
        &self,
        plan: &PredictPlan,
        item: Item,
        caller: &Caller,
    ) -> Result<Predicted, AppError> {
        let started = Instant::now();
        let model = item.model.clone();
        let prepared = self.prepare(item).await?;
        let (predictions, timing) = Driver::new(self.resources(caller), &model, prepared.tensor)
            .predict(plan.top_k)
            .await?;
        Ok(Predicted {
            model,
            geometry: prepared.geometry,
            predictions,
            warnings: prepared.warnings,
            times: StageTimes {
                total: started.elapsed(),
                ..prepared.times.with_engine(timing)
            },
        })
    }
}
