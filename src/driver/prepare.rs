//! Prepares the inputs of runs: baselines, the picture's luma, its regions, supports.

use std::sync::Arc;

use ndarray::Array2;

use super::DriverError;
use crate::{
    faults::{Fault, Faults},
    methods::{
        Request,
        parameters::Need,
        regions::{partition, pixels_fault, regions},
    },
    model::{
        Model,
        support_store::SupportStore,
        supports::{Support, SupportSet, SupportsError},
    },
    picture::{
        ImageError,
        baseline::{self, Baseline, ImageSource, Material, Term},
        input::InputPicture,
        preprocess,
    },
    segment::{Segmentation, regions::Regions},
    tensor::Tensor,
    text::excerpt,
};

/// Ensures that the data sets from which baselines are drawn can be read locally.
pub(super) async fn bring_baselines(
    request: &Request,
    pictures: Option<&Arc<dyn ImageSource>>,
) -> Result<(), Faults> {
    let Some(pictures) = pictures.filter(|_| request.parameters.baselines() > 0) else {
        return Ok(());
    };
    for term in request.parameters.baseline.terms() {
        if let Term::Dataset { id, .. } = term {
            pictures
                .ensure_local(id)
                .await
                .map_err(|error| baseline_fault(&error))?;
        }
    }
    Ok(())
}

fn baseline_fault(error: &ImageError) -> Faults {
    let allowed = baseline::ALLOWED
        .iter()
        .map(|form| (*form).to_owned())
        .collect();
    Fault {
        param: "baseline".into(),
        message: error.to_string(),
        allowed,
    }
    .into()
}

/// The baselines, and a warning for each data set with fewer images than the baseline names.
pub(super) fn baselines(
    model: &Model,
    input: &Tensor,
    request: &Request,
    regions: &Regions,
    pictures: Option<&Arc<dyn ImageSource>>,
) -> Result<(Vec<Arc<Tensor>>, Vec<String>), Faults> {
    let (mut baselines, mut warnings) = (Vec::new(), Vec::new());
    if request.parameters.baselines() == 0 {
        return Ok((baselines, warnings));
    }
    let material = Material {
        preprocess: model.manifest.input.preprocess.as_ref(),
        uploaded: request.uploaded_baseline.as_deref(),
        pictures,
        regions: request.parameters.needs(Need::Partition).then_some(regions),
        seed: request.baseline_seed,
    };
    for term in request.parameters.baseline.terms() {
        let found = Baseline::from(term.clone())
            .resolve(input, &material)
            .map_err(|error| baseline_fault(&error))?;
        if let Term::Dataset { id, count } = term
            && found.len() < *count
        {
            warnings.push(format!(
                "the set {} has {} of the {count} images asked for as baselines",
                excerpt(id),
                found.len()
            ));
        }
        baselines.extend(found.into_iter().map(Arc::new));
    }
    Ok((baselines, warnings))
}

/// The luma of the picture that the input shows, `[height, width]`; `None` for models without
/// preprocessing.
pub(super) fn luma(model: &Model, input: &Tensor) -> Option<Array2<f32>> {
    preprocess::luma_of(input, model.manifest.input.preprocess.as_ref()?)
}

/// The regions, for methods that need them. Uploaded ones must have the size of the model's input.
pub(super) fn segmentation(
    model: &Model,
    input: &Tensor,
    request: &Request,
) -> Result<Arc<Segmentation>, DriverError> {
    let parameters = &request.parameters;
    if !parameters.needs_segments() {
        return Ok(Arc::default());
    }
    let rule = model.manifest.input.preprocess.as_ref();
    let uploaded = request.uploaded_segments.as_ref();
    match rule.and_then(|rule| InputPicture::of(input, rule)) {
        Some(picture) if parameters.needs(Need::Partition) => {
            Ok(partition(&picture, parameters, uploaded)?)
        }
        Some(picture) => Ok(regions(&picture, parameters, uploaded)?),
        None if parameters.needs(Need::Partition) => {
            pixels_fault(input, parameters).settle(())?;
            Ok(Arc::default())
        }
        None => Err(DriverError::NoPicture {
            model: model.id.clone(),
            method: parameters.method.id,
        }),
    }
}

/// The models of a set, opened where they are not yet. A variant of a model has none of its sets.
pub(super) async fn supports(
    model: &Arc<Model>,
    set: &SupportSet,
    store: Option<&SupportStore>,
) -> Result<Arc<[Support]>, SupportsError> {
    let is_own = model.supports.iter().any(|own| **own == *set);
    match store.filter(|_| is_own) {
        Some(store) => store.open(model, set).await,
        None => Err(SupportsError::Unknown {
            model: model.id.clone(),
            set: set.reference(),
        }),
    }
}
