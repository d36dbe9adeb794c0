//! What was sent -> the model's input: decode and preprocess images, check tensors. Synchronous; runs on the pool.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use ndarray::Axis;

use super::{AppError, locate, segments::SentSegments};
use crate::{
    image::{
        RgbImage,
        decode::{Limits, decode, size},
        geometry::{Area, Geometry},
        preprocess::preprocess,
    },
    methods::drive::MethodError,
    model::Model,
    settings::Settings,
    tensor::{Tensor, check_finite},
};

/// An encoded image, or a tensor in the model's own input space: one input, or several along a leading axis.
#[derive(Clone, Debug)]
pub enum Input {
    Image(Bytes),
    Tensor(Tensor),
}

/// Uploads of up to this many pixels wait for their picture decoded (6 MB); larger ones are decoded again, so that requests
/// in flight cost little more than their bodies.
const KEEP_PIXELS: u64 = 2 << 20;

/// A crop that shows less of an upload's area is told.
const LITTLE: f64 = 0.5;

/// One input of the model, without batch axis, and what a picture of it needs.
pub(super) struct Prepared {
    pub tensor: Arc<Tensor>,
    pub upload: Option<(Upload, Geometry)>,
    pub warnings: Vec<String>,
    pub decode: Duration,
    pub preprocess: Duration,
}

/// The image that a heat map is laid over.
pub(super) enum Upload {
    Decoded(RgbImage),
    Encoded(Bytes),
}

impl Upload {
    pub fn into_pixels(self, limits: &Limits) -> Result<RgbImage, AppError> {
        match self {
            Self::Decoded(pixels) => Ok(pixels),
            Self::Encoded(bytes) => Ok(decode(&bytes, limits)?.image),
        }
    }
}

pub(super) fn limits(settings: &Settings) -> Limits {
    Limits { max_bytes: settings.max_upload_bytes, max_pixels: settings.max_pixels, max_side: settings.max_side }
}

/// Tensors with one axis more than the model's input are as many inputs as that axis is long.
pub(super) fn split(inputs: Vec<Input>, model: &Model, max_elements: usize) -> Result<Vec<Input>, AppError> {
    let rank = model.manifest.input.shape.len();
    let mut found = Vec::with_capacity(inputs.len());
    for input in inputs {
        match input {
            Input::Tensor(tensor) if tensor.len() > max_elements => {
                return Err(AppError::TooManyElements { found: tensor.len(), limit: max_elements });
            }
            Input::Tensor(tensor) if tensor.ndim() == rank + 1 => {
                found.extend(tensor.axis_iter(Axis(0)).map(|one| Input::Tensor(one.to_owned())));
            }
            other => found.push(other),
        }
    }
    Ok(found)
}

/// Segments whose size, by its header, is that of each input or of the model's.
pub(super) fn check_segments(
    bytes: Bytes,
    inputs: &[Input],
    model: &Model,
    limits: Limits,
) -> Result<SentSegments, AppError> {
    let segments = SentSegments::new(bytes, limits)?;
    let Some(rule) = &model.manifest.input.preprocess else { return Ok(segments) };
    for (at, input) in inputs.iter().enumerate() {
        let check = || {
            let upload = match input {
                Input::Image(bytes) => Some(size(bytes, &limits)?),
                Input::Tensor(_) => None,
            };
            let upload = upload.map(|(width, height)| (height as usize, width as usize));
            Ok(segments.check_size(upload, (rule.height as usize, rule.width as usize))?)
        };
        check().map_err(|error| locate(error, at, inputs.len()))?;
    }
    Ok(segments)
}

pub(super) fn prepare(input: Input, model: &Model, settings: &Settings) -> Result<Prepared, AppError> {
    match input {
        Input::Image(bytes) => prepare_image(bytes, model, &limits(settings)),
        Input::Tensor(tensor) => {
            check_tensor(&tensor, model)?;
            Ok(Prepared {
                tensor: Arc::new(tensor),
                upload: None,
                warnings: Vec::new(),
                decode: Duration::ZERO,
                preprocess: Duration::ZERO,
            })
        }
    }
}

fn prepare_image(bytes: Bytes, model: &Model, limits: &Limits) -> Result<Prepared, AppError> {
    let rule =
        model.manifest.input.preprocess.as_ref().ok_or_else(|| AppError::TakesTensors {
            model: model.id.clone(),
            shape: model.manifest.input.shape.clone(),
        })?;
    let started = Instant::now();
    let decoded = decode(&bytes, limits)?;
    let decode = started.elapsed();
    let (tensor, geometry) = preprocess(&decoded.image, rule)?;
    let preprocess = started.elapsed() - decode;
    let pixels = u64::from(decoded.image.width()) * u64::from(decoded.image.height());
    let warnings = decoded.warnings.into_iter().chain(model.manifest.assumed.clone()).chain(little_seen(&geometry));
    let warnings = warnings.collect();
    let upload = if pixels <= KEEP_PIXELS { Upload::Decoded(decoded.image) } else { Upload::Encoded(bytes) };
    Ok(Prepared { tensor: Arc::new(tensor), upload: Some((upload, geometry)), warnings, decode, preprocess })
}

/// A crop that leaves out more of the upload than it keeps.
fn little_seen(geometry: &Geometry) -> Option<String> {
    let (Area { left, top, width, height }, (all_x, all_y)) = (geometry.seen(), geometry.upload);
    let share = f64::from(width) * f64::from(height) / (f64::from(all_x) * f64::from(all_y));
    let message = || {
        format!(
            "the model saw {width} x {height} pixels of the upload's {all_x} x {all_y} ({:.0} %), from ({left}, {top}): its crop left \
             out the rest",
            100.0 * share
        )
    };
    (share < LITTLE).then(message)
}

fn check_tensor(tensor: &Tensor, model: &Model) -> Result<(), AppError> {
    let expected = &model.manifest.input.shape;
    if tensor.shape() != expected.as_slice() {
        let (model, found) = (model.id.clone(), tensor.shape().to_vec());
        return Err(MethodError::Shape { model, expected: expected.clone(), found }.into());
    }
    Ok(check_finite(tensor)?)
}
