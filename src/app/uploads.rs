//! Takes what was sent with a request apart, on the pool: its inputs, a baseline, segments.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    App, AppError,
    input::{self, Input, Inputs, Item, Prepared},
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
    /// For the model of each size.
    tensors: Vec<(Arc<Model>, SentTensors)>,
    /// Not yet in the model's pixels.
    segments: Option<Arc<SentSegments>>,
}

/// What goes with inputs of one size.
#[derive(Clone, Default)]
pub(super) struct SentTensors {
    pub baseline: Option<Arc<Tensor>>,
    pub reference: Option<Arc<Tensor>>,
    pub warnings: Vec<String>,
}

impl ReadUploads {
    pub(super) fn tensors(&self, model: &Arc<Model>) -> SentTensors {
        let found = self.tensors.iter().find(|(of, _)| Arc::ptr_eq(of, model));
        found
            .map(|(_, tensors)| tensors.clone())
            .unwrap_or_default()
    }
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

    pub(super) async fn prepare(&self, item: Item) -> Result<Prepared, AppError> {
        let room = self.pixels().room(item.input.pixels_to_decode()).await;
        let app = self.clone();
        let prepare = move || {
            let _room = room;
            input::prepare(item, app.settings(), app.pixels())
        };
        self.pool().run(prepare).await?
    }

    pub(super) async fn read(
        &self,
        uploads: Uploads,
        inputs: &[Item],
    ) -> Result<ReadUploads, AppError> {
        let Uploads {
            baseline,
            reference,
            segments,
        } = uploads;
        let mut tensors: Vec<(Arc<Model>, SentTensors)> = Vec::new();
        for Item { model, .. } in inputs {
            if tensors.iter().any(|(of, _)| Arc::ptr_eq(of, model)) {
                continue;
            }
            let mut sent = SentTensors::default();
            let warnings = &mut sent.warnings;
            sent.baseline = self
                .read_one("baseline", baseline.clone(), model, warnings)
                .await?;
            sent.reference = self
                .read_one("reference", reference.clone(), model, warnings)
                .await?;
            tensors.push((model.clone(), sent));
        }
        let segments = match segments {
            Some(bytes) => {
                let (limits, inputs) = (input::limits(self.settings()), inputs.to_vec());
                let check = move || input::check_segments(bytes, &inputs, limits);
                Some(Arc::new(self.pool().run(check).await??))
            }
            None => None,
        };
        Ok(ReadUploads { tensors, segments })
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
        let named = |source: AppError| match source {
            AppError::Panicked(_) => source,
            _ => AppError::AtPart {
                part: name,
                source: Box::new(source),
            },
        };
        let mut each = self.split(vec![input], model).await.map_err(named)?.each;
        let (Some(one), true) = (each.pop(), each.is_empty()) else {
            return Err(Faults::from(Fault::new(name, "several were sent", ["1"])).into());
        };
        let prepared = self.prepare(one).await.map_err(named)?;
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
