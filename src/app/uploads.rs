//! Takes what was sent with a request apart, on the pool: its inputs, a baseline, segments.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    App, AppError,
    input::{self, Input, Inputs, One, Prepared},
    plan::AttachedFiles,
    segments::SentSegments,
};
use crate::{
    faults::{Fault, Faults},
    model::Model,
    segment::Segmentation,
    tensor::Tensor,
};

/// What goes with the inputs of a request.
#[derive(Clone, Debug, Default)]
pub struct Uploads {
    /// What the baseline `uploaded` stands for.
    pub baseline: Option<Input>,
    /// What the target `reference` is the similarity to.
    pub reference: Option<Input>,
    /// What the segments `uploaded` stand for: an encoded label image, or an npy file.
    pub segments: Option<Bytes>,
}

impl Uploads {
    pub fn files(&self) -> AttachedFiles {
        AttachedFiles {
            baseline: self.baseline.is_some(),
            segments: self.segments.is_some(),
            reference: self.reference.is_some(),
        }
    }
}

pub(super) struct ReadUploads {
    pub baseline: Option<Arc<Tensor>>,
    pub reference: Option<Arc<Tensor>>,
    /// Not yet in the model's pixels.
    pub segments: Option<Arc<SentSegments>>,
    /// About the baseline and the reference.
    pub warnings: Vec<String>,
}

impl App {
    pub(super) async fn split(
        &self,
        inputs: Vec<Input>,
        model: &Arc<Model>,
    ) -> Result<Inputs, AppError> {
        let (app, model) = (self.clone(), model.clone());
        let inputs = self
            .pool()
            .run(move || input::split(inputs, &model, app.settings()))
            .await??;
        if inputs.each.is_empty() {
            Err(AppError::NoInput)
        } else {
            Ok(inputs)
        }
    }

    pub(super) async fn prepare(
        &self,
        input: One,
        model: &Arc<Model>,
    ) -> Result<Prepared, AppError> {
        let room = self.pixels().room(input.pixels_to_decode()).await;
        let (app, model) = (self.clone(), model.clone());
        let prepare = move || {
            let _room = room;
            input::prepare(input, &model, app.settings(), app.pixels())
        };
        self.pool().run(prepare).await?
    }

    pub(super) async fn read(
        &self,
        uploads: Uploads,
        inputs: &[One],
        model: &Arc<Model>,
    ) -> Result<ReadUploads, AppError> {
        let mut warnings = Vec::new();
        let baseline = self
            .read_one("baseline", uploads.baseline, model, &mut warnings)
            .await?;
        let reference = self
            .read_one("reference", uploads.reference, model, &mut warnings)
            .await?;
        let segments = match uploads.segments {
            Some(bytes) => {
                let (limits, inputs, model) = (
                    input::limits(self.settings()),
                    inputs.to_vec(),
                    model.clone(),
                );
                let check = move || input::check_segments(bytes, &inputs, &model, limits);
                Some(Arc::new(self.pool().run(check).await??))
            }
            None => None,
        };
        Ok(ReadUploads {
            baseline,
            reference,
            segments,
            warnings,
        })
    }

    /// An input that goes with those of the request, as the field `name`.
    async fn read_one(
        &self,
        name: &'static str,
        sent: Option<Input>,
        model: &Arc<Model>,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Arc<Tensor>>, AppError> {
        let Some(input) = sent else { return Ok(None) };
        let mut each = self.split(vec![input], model).await?.each;
        let (Some(one), true) = (each.pop(), each.is_empty()) else {
            return Err(Faults::from(Fault::new(name, "several were sent", ["1"])).into());
        };
        let prepared = self.prepare(one, model).await?;
        let of_model = |warning: &String| {
            let manifest = &model.manifest;
            manifest.assumed.as_ref() == Some(warning) || manifest.reading.told.contains(warning)
        };
        let own = prepared.warnings.into_iter();
        let own = own.filter(|warning| !of_model(warning));
        warnings.extend(own.map(|warning| format!("{name}: {warning}")));
        Ok(Some(prepared.tensor))
    }

    /// The sent segments in the model's pixels.
    pub(super) async fn fit_segments(
        &self,
        uploads: &ReadUploads,
        prepared: &Prepared,
        model: &Model,
    ) -> Result<Option<Arc<Segmentation>>, AppError> {
        let (Some(segments), Some(rule)) = (&uploads.segments, &model.manifest.input.preprocess)
        else {
            return Ok(None);
        };
        let size = (rule.height as usize, rule.width as usize);
        let geometry = prepared.geometry;
        let segments = segments.clone();
        let room = self.pixels().room(segments.pixels()).await;
        let fit = move || {
            let _room = room;
            segments.fit(geometry.as_ref(), size)
        };
        let fitted = self.pool().run(fit).await??;
        Ok(Some(Arc::new(fitted)))
    }
}
