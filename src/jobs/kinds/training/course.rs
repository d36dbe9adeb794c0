//! The training of a model on a labelled data set, from the first epoch to the last.

use std::sync::Arc;

use super::{
    chain::{Chain, Step},
    kept::{self, Opened},
};
use crate::{
    app::App,
    dataset::Dataset,
    jobs::{
        Context, WorkError,
        kinds::request_reader::{planned_dataset, planned_model},
    },
    model::{Model, provenance::Origin},
    training::{Checkpoint, EpochReport, Examples, LeftOut, Recipe, Trainer, TrainingError},
};

pub(in crate::jobs::kinds) struct Course<'a> {
    pub context: &'a Context,
    /// Of the checkpoints, in the job's: no other training of the job has it.
    pub folder: String,
    /// As the job was planned on them.
    pub model: Origin,
    pub dataset: Origin,
    pub recipe: Recipe,
}

/// What a training has come to.
pub(in crate::jobs::kinds) struct Trained {
    pub checkpoint: Checkpoint,
    pub trainer: Trainer,
    pub left_out: LeftOut,
}

impl Course<'_> {
    /// The epoch after `done` others; none where the training has ended before.
    pub(in crate::jobs::kinds) async fn epoch(
        &self,
        done: usize,
    ) -> Result<Option<EpochReport>, WorkError> {
        let chain = self.chain();
        match chain.step(done).await? {
            Step::Done(report) => Ok(report),
            Step::Run(from) => {
                let opened = self.open().await?;
                let report = chain.run(&opened.0, from).await?;
                kept::keep(&self.context.job, &self.folder, opened);
                Ok(Some(report))
            }
        }
    }

    pub(in crate::jobs::kinds) async fn trained(&self) -> Result<Trained, WorkError> {
        let checkpoint = self.chain().last().await?;
        let (trainer, left_out) = self.open().await?;
        Ok(Trained {
            checkpoint,
            trainer,
            left_out,
        })
    }

    pub(in crate::jobs::kinds) fn chain(&self) -> Chain<'_> {
        Chain::new(self.context, &self.folder)
    }

    async fn open(&self) -> Result<Opened, WorkError> {
        let app = &self.context.app;
        let model = planned_model(app, &self.model.id, &self.model.hash, None).await?;
        let dataset = planned_dataset(app, &self.dataset.id, &self.dataset.hash).await?;
        if let Some(kept) = kept::take(&self.context.job, &self.folder) {
            return Ok(kept);
        }
        Ok(opened(app, self.recipe.clone(), model, dataset).await?)
    }
}

/// A trainer on the labelled images of a data set, and the images that it leaves out.
pub(in crate::jobs::kinds) async fn opened(
    app: &App,
    recipe: Recipe,
    model: Arc<Model>,
    dataset: Arc<Dataset>,
) -> Result<Opened, TrainingError> {
    if model.manifest.input.preprocess.is_none() {
        return Err(TrainingError::TakesTensors {
            model: model.id.clone(),
            shape: model.manifest.input.shape.clone(),
        });
    }
    let (of, images, new_head) = (model.clone(), dataset.clone(), recipe.new_head);
    let labelled = move || Examples::labelled(&images, &of, new_head);
    let examples = app.pool().run(labelled).await??;
    let left_out = examples.left_out.clone();
    let trainer = Trainer::new(recipe, model, dataset, examples, app.training()).await?;
    Ok((trainer, left_out))
}
