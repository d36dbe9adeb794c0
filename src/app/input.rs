//! What was sent -> the model's inputs: arrays taken apart by their header, images decoded and
//! preprocessed, tensors checked. Synchronous; runs on the pool.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use image::{DynamicImage, GrayImage, RgbaImage};
use ndarray::Axis;

use super::{
    AppError,
    error::locate,
    pixels::{Pixels, Room},
    segments::SentSegments,
    timing::StageTimes,
};
use crate::{
    driver::DriverError,
    faults::{Fault, Faults},
    model::{
        Model,
        manifest::SizeSource,
        resized::{SizeError, with_size},
    },
    picture::{
        ImageError, RgbImage,
        decode::{Decoded, Limits, decode, size},
        geometry::{Area, Geometry},
        input::channel_axis,
        preprocess::{Channels, Preprocess, pixel_range},
    },
    settings::Settings,
    tensor::{Holds, NPY_MAGIC, Npy, Tensor, check_finite},
};

/// As it was sent: one input, or several along a leading axis.
#[derive(Clone, Debug)]
pub enum Input {
    /// An encoded image.
    Image(Bytes),
    /// An npy file: a tensor in the model's own input space, or uint8 pixels.
    Npy(Bytes),
    /// A tensor in the model's own input space.
    Tensor(Tensor),
}

impl Input {
    /// A file, recognised by its first bytes.
    pub fn of(bytes: Bytes) -> Self {
        if bytes.starts_with(NPY_MAGIC) {
            Self::Npy(bytes)
        } else {
            Self::Image(bytes)
        }
    }
}

/// One input of the model, not yet in its space.
#[derive(Clone, Debug)]
pub(super) enum One {
    /// Encoded, and its width and height by its header.
    Image(Bytes, (u32, u32)),
    Pixels(Decoded),
    Tensor(Tensor),
}

impl One {
    /// Pixels that decoding it makes.
    pub(super) fn pixels_to_decode(&self) -> u64 {
        match self {
            Self::Image(_, size) => area(*size),
            Self::Pixels(_) | Self::Tensor(_) => 0,
        }
    }
}

pub(super) fn area((width, height): (u32, u32)) -> u64 {
    u64::from(width) * u64::from(height)
}

/// One input, and the model for inputs of its size.
#[derive(Clone)]
pub(super) struct Item {
    pub input: One,
    pub model: Arc<Model>,
}

/// The inputs of a request, and whether any came along a leading axis.
pub(super) struct Inputs {
    pub each: Vec<Item>,
    pub batched: bool,
}

/// Inputs as they come, before the models of their sizes are known.
#[derive(Default)]
struct Found {
    each: Vec<One>,
    batched: bool,
}

/// The longest leading axis.
const MAX_BATCH: usize = 4096;
/// A crop that shows less of an upload's area is told.
const LITTLE: f64 = 0.5;
/// How many times over a tensor's values may leave the range of pixels before a warning says so.
const FAR_OUTSIDE: f32 = 3.0;

const FLOATS: &str = "float32 or float64 (numpy: x.astype('float32'))";
const FLOATS_OR_PIXELS: &str = "float32 or float64 normalised as GET /models/{id} says, or uint8 pixels; or send the picture itself";

/// One input of the model, without batch axis, and what a picture of it needs.
pub(super) struct Prepared {
    pub tensor: Arc<Tensor>,
    pub upload: Option<Upload>,
    /// Where the input lies on the upload.
    pub geometry: Option<Geometry>,
    pub warnings: Vec<String>,
    pub times: StageTimes,
}

/// The image that a heat map is laid over.
pub(super) enum Upload {
    Decoded {
        image: RgbImage,
        _room: Option<Room>,
    },
    /// To be decoded again: requests in flight cost little more than their bodies.
    Encoded(Bytes),
}

impl Upload {
    pub(super) fn into_pixels(self, limits: &Limits) -> Result<RgbImage, AppError> {
        match self {
            Self::Decoded { image, .. } => Ok(image),
            Self::Encoded(bytes) => Ok(decode(&bytes, limits)?.image),
        }
    }
}

pub(super) fn limits(settings: &Settings) -> Limits {
    Limits {
        max_bytes: settings.max_upload_bytes,
        max_pixels: settings.max_pixels,
        max_side: settings.max_side,
    }
}

/// Tensors and pixels with one axis more than an input are as many inputs as that axis is long. An
/// npy file is held to the model's shape by its header.
pub(super) fn split(
    inputs: Vec<Input>,
    model: &Arc<Model>,
    settings: &Settings,
) -> Result<Inputs, AppError> {
    let (count, limits) = (inputs.len(), limits(settings));
    let mut all = Found::default();
    for (at, input) in inputs.into_iter().enumerate() {
        match input {
            Input::Image(bytes) => {
                let size =
                    size(&bytes, &limits).map_err(|error| locate(error.into(), at, count))?;
                all.each.push(One::Image(bytes, size));
            }
            Input::Tensor(tensor) => all.add_tensor(tensor, model, settings)?,
            Input::Npy(bytes) => {
                let is_picture = model.manifest.input.preprocess.is_some();
                let file = Npy::read(&bytes, if is_picture { FLOATS_OR_PIXELS } else { FLOATS })?;
                check_elements(file.shape().iter().product(), settings)?;
                match file.holds() {
                    Holds::Floats => {
                        check_shape(file.shape(), model)?;
                        all.add_tensor(file.tensor()?, model, settings)?;
                    }
                    Holds::Bytes if is_picture => {
                        all.add_pixels(&file, takes_gray(model), &limits)?
                    }
                    _ => return Err(file.wrong_element().into()),
                }
            }
        }
    }
    let Found { each, batched } = all;
    let (count, mut sizes) = (each.len(), Sizes::new(model, settings));
    let item = |(at, input): (usize, One)| {
        let model = sizes.model_of(&input);
        let model = model.map_err(|error| locate(error.into(), at, count))?;
        Ok(Item { input, model })
    };
    let each = each.into_iter().enumerate().map(item);
    Ok(Inputs {
        each: each.collect::<Result<_, AppError>>()?,
        batched,
    })
}

/// The models for the sizes of a request's inputs: one for inputs of equal size.
struct Sizes<'a> {
    model: &'a Arc<Model>,
    most: usize,
    known: HashMap<([usize; 2], SizeSource), Arc<Model>>,
}

impl<'a> Sizes<'a> {
    fn new(model: &'a Arc<Model>, settings: &Settings) -> Self {
        Self {
            model,
            most: settings.max_input_elements,
            known: HashMap::new(),
        }
    }

    fn model_of(&mut self, input: &One) -> Result<Arc<Model>, SizeError> {
        let own = &self.model.manifest.input;
        let image = |size| {
            own.sides_of_image(size)
                .map(|sides| (sides, SizeSource::Image))
        };
        let chosen = match input {
            One::Image(_, size) => image(*size),
            One::Pixels(decoded) => image(decoded.image.dimensions()),
            One::Tensor(tensor) if tensor.shape() == own.shape => None,
            One::Tensor(tensor) => {
                let sides = own.sides_of_tensor(tensor.shape());
                sides.map(|sides| (sides, SizeSource::Model))
            }
        };
        let Some((sides, source)) = chosen else {
            return Ok(self.model.clone());
        };
        if let Some(known) = self.known.get(&(sides, source)) {
            return Ok(known.clone());
        }
        let model = Arc::new(with_size(self.model, sides, source, self.most)?);
        self.known.insert((sides, source), model.clone());
        Ok(model)
    }
}

impl Found {
    fn add_tensor(
        &mut self,
        tensor: Tensor,
        model: &Model,
        settings: &Settings,
    ) -> Result<(), AppError> {
        check_elements(tensor.len(), settings)?;
        if tensor.ndim() == model.manifest.input.shape.len() + 1 {
            check_batch(tensor.len_of(Axis(0)))?;
            self.batched = true;
            self.each.extend(
                tensor
                    .axis_iter(Axis(0))
                    .map(|one| One::Tensor(one.to_owned())),
            );
        } else {
            self.each.push(One::Tensor(tensor));
        }
        Ok(())
    }

    /// Planes without channels are several pictures where the model takes such: `is_gray`.
    fn add_pixels(
        &mut self,
        file: &Npy<'_>,
        is_gray: bool,
        limits: &Limits,
    ) -> Result<(), AppError> {
        let shape = file.shape();
        let several = shape
            .split_first()
            .filter(|(_, own)| own.len() == 3 || is_gray);
        let (count, grid) = match (Grid::of(shape), several) {
            (Some(grid), _) => (None, Some(grid)),
            (None, Some((count, own))) => (Some(*count), Grid::of(own)),
            (None, None) => (None, None),
        };
        let grid = grid.ok_or_else(|| AppError::PixelShape {
            shape: shape.to_vec(),
        })?;
        grid.check_size(limits)?;
        check_batch(count.unwrap_or(1))?;
        self.batched |= count.is_some();
        for at in 0..count.unwrap_or(1) {
            self.each.push(One::Pixels(Decoded::of_pixels(
                grid.picture(file, count.map(|_| at)),
            )));
        }
        Ok(())
    }
}

fn takes_gray(model: &Model) -> bool {
    model
        .manifest
        .input
        .preprocess
        .as_ref()
        .is_some_and(|rule| rule.channels == Channels::Gray)
}

/// How one picture lies in an array.
#[derive(Clone, Copy)]
struct Grid {
    width: usize,
    height: usize,
    channels: usize,
    order: Order,
}

#[derive(Clone, Copy)]
enum Order {
    /// `[height, width]`
    Plane,
    /// `[height, width, channels]`
    ChannelsLast,
    /// `[channels, height, width]`
    ChannelsFirst,
}

impl Grid {
    fn of(shape: &[usize]) -> Option<Grid> {
        let (height, width, channels, order) = match *shape {
            [height, width] => (height, width, 1, Order::Plane),
            [height, width, channels @ (1 | 3 | 4)] => {
                (height, width, channels, Order::ChannelsLast)
            }
            [channels @ (1 | 3 | 4), height, width] => {
                (height, width, channels, Order::ChannelsFirst)
            }
            _ => return None,
        };
        Some(Grid {
            width,
            height,
            channels,
            order,
        })
    }

    fn check_size(&self, limits: &Limits) -> Result<(), ImageError> {
        let Limits {
            max_pixels,
            max_side,
            ..
        } = *limits;
        let side = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let (width, height) = (side(self.width), side(self.height));
        if width.max(height) > max_side || u64::from(width) * u64::from(height) > max_pixels {
            return Err(ImageError::TooLarge {
                width,
                height,
                max_side,
                max_pixels,
            });
        }
        Ok(())
    }

    /// The picture at this place of a batch, or the only one. The file holds bytes.
    fn picture(&self, file: &Npy<'_>, batch: Option<usize>) -> DynamicImage {
        let sample = |y: usize, x: usize, channel: usize| {
            let own: &[usize] = match self.order {
                Order::Plane => &[y, x],
                Order::ChannelsLast => &[y, x, channel],
                Order::ChannelsFirst => &[channel, y, x],
            };
            let mut index = [0; 4];
            let from = usize::from(batch.is_some());
            index[0] = batch.unwrap_or_default();
            index[from..from + own.len()].copy_from_slice(own);
            file.integer(&index[..from + own.len()])
                .map_or(0, |byte| byte as u8)
        };
        let samples = (0..self.height)
            .flat_map(|y| {
                (0..self.width)
                    .flat_map(move |x| (0..self.channels).map(move |channel| (y, x, channel)))
            })
            .map(|(y, x, channel)| sample(y, x, channel))
            .collect();
        let (width, height) = (self.width as u32, self.height as u32);
        let picture = match self.channels {
            1 => GrayImage::from_raw(width, height, samples).map(DynamicImage::ImageLuma8),
            3 => RgbImage::from_raw(width, height, samples).map(DynamicImage::ImageRgb8),
            _ => RgbaImage::from_raw(width, height, samples).map(DynamicImage::ImageRgba8),
        };
        // As many samples as the size takes: there is always a picture.
        picture.unwrap_or_default()
    }
}

fn check_elements(found: usize, settings: &Settings) -> Result<(), AppError> {
    let limit = settings.max_tensor_elements;
    if found > limit {
        Err(AppError::TooManyElements { found, limit })
    } else {
        Ok(())
    }
}

fn check_batch(count: usize) -> Result<(), Faults> {
    if count <= MAX_BATCH {
        return Ok(());
    }
    Err(Fault::new(
        "tensor",
        format!("its leading axis holds {count} inputs"),
        [format!("1 to {MAX_BATCH}")],
    )
    .into())
}

/// The model's, or one that it leaves open, or such with a leading axis more.
fn check_shape(found: &[usize], model: &Model) -> Result<(), DriverError> {
    let input = &model.manifest.input;
    let expected = &input.shape;
    let fits = |own: &[usize]| own == expected.as_slice() || input.sides_of_tensor(own).is_some();
    if fits(found) || found.split_first().is_some_and(|(_, own)| fits(own)) {
        return Ok(());
    }
    Err(DriverError::Shape {
        model: model.id.clone(),
        expected: expected.clone(),
        found: found.to_vec(),
    })
}

/// Segments whose size, by its header, is that of each input or of its model's.
pub(super) fn check_segments(
    bytes: Bytes,
    inputs: &[Item],
    limits: Limits,
) -> Result<SentSegments, AppError> {
    let segments = SentSegments::new(bytes, limits)?;
    for (at, Item { input, model }) in inputs.iter().enumerate() {
        let Some(rule) = &model.manifest.input.preprocess else {
            continue;
        };
        let check = || {
            let upload = match input {
                One::Image(_, size) => Some(*size),
                One::Pixels(decoded) => Some(decoded.image.dimensions()),
                One::Tensor(_) => None,
            };
            let upload = upload.map(|(width, height)| (height as usize, width as usize));
            Ok(segments.check_size(upload, (rule.height as usize, rule.width as usize))?)
        };
        check().map_err(|error| locate(error, at, inputs.len()))?;
    }
    Ok(segments)
}

pub(super) fn prepare(
    Item { input, model }: Item,
    settings: &Settings,
    kept: &Pixels,
) -> Result<Prepared, AppError> {
    let model = &*model;
    let rule = model.manifest.input.preprocess.as_ref();
    let pixels = || {
        rule.ok_or_else(|| AppError::TakesTensors {
            model: model.id.clone(),
            shape: model.manifest.input.shape.clone(),
        })
    };
    match input {
        One::Image(bytes, size) => {
            let (rule, started, limits) = (pixels()?, Instant::now(), limits(settings));
            let decoded = decode(&bytes, &limits)?;
            prepare_pixels(decoded, model, rule, started.elapsed(), |image| match kept
                .keep(area(size))
            {
                Some(room) => Upload::Decoded {
                    image,
                    _room: Some(room),
                },
                None => Upload::Encoded(bytes),
            })
        }
        One::Pixels(decoded) => {
            prepare_pixels(decoded, model, pixels()?, Duration::ZERO, |image| {
                Upload::Decoded { image, _room: None }
            })
        }
        One::Tensor(tensor) => {
            if tensor.shape() != model.manifest.input.shape.as_slice() {
                let (id, expected, found) = (
                    model.id.clone(),
                    model.manifest.input.shape.clone(),
                    tensor.shape().to_vec(),
                );
                return Err(DriverError::Shape {
                    model: id,
                    expected,
                    found,
                }
                .into());
            }
            check_finite(&tensor)?;
            Ok(Prepared {
                warnings: rule
                    .and_then(|rule| far_outside(&tensor, rule))
                    .into_iter()
                    .chain(model.manifest.reading.told.iter().cloned())
                    .collect(),
                tensor: Arc::new(tensor),
                upload: None,
                geometry: None,
                times: StageTimes::default(),
            })
        }
    }
}

fn prepare_pixels(
    decoded: Decoded,
    model: &Model,
    rule: &Preprocess,
    decode: Duration,
    keep: impl FnOnce(RgbImage) -> Upload,
) -> Result<Prepared, AppError> {
    let started = Instant::now();
    let (tensor, geometry) = decoded.to_input(rule)?;
    let times = StageTimes {
        decode,
        preprocess: started.elapsed(),
        ..StageTimes::default()
    };
    let warnings = decoded
        .warnings(rule.channels)
        .chain(model.manifest.assumed.clone())
        .chain(model.manifest.reading.told.iter().cloned())
        .chain(little_seen(&geometry));
    let warnings = warnings.collect();
    Ok(Prepared {
        tensor: Arc::new(tensor),
        upload: Some(keep(decoded.image)),
        geometry: Some(geometry),
        warnings,
        times,
    })
}

/// A crop that leaves out more of the upload than it keeps.
fn little_seen(geometry: &Geometry) -> Option<String> {
    let (
        Area {
            left,
            top,
            width,
            height,
        },
        (all_x, all_y),
    ) = (geometry.seen(), geometry.upload);
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

/// Said of tensors that no picture gives, by far: as a rule they were not normalised.
fn far_outside(tensor: &Tensor, rule: &Preprocess) -> Option<String> {
    let range = pixel_range(rule);
    let axis = Axis(channel_axis(rule.layout));
    let is_far = tensor
        .axis_iter(axis)
        .zip(&range)
        .any(|(plane, (black, white))| {
            let (middle, reach) = (
                (black + white) / 2.0,
                FAR_OUTSIDE * (white - black).abs() / 2.0,
            );
            plane.iter().any(|value| (value - middle).abs() > reach)
        });
    let ends = |(low, high): (f32, f32), value: f32| (low.min(value), high.max(value));
    let none = (f32::INFINITY, f32::NEG_INFINITY);
    is_far.then(|| {
        let (low, high) = tensor.iter().copied().fold(none, ends);
        let (black, white) = range.iter().flat_map(|(black, white)| [*black, *white]).fold(none, ends);
        format!(
            "the tensor's values run from {low} to {high}, and those of pictures from {black} to {white}: was it normalised as \
             GET /models/{{id}} says?"
        )
    })
}

#[cfg(test)]
mod tests {
    use ndarray::{Array, Array2, Array3, Dimension};
    use ndarray_npy::WriteNpyExt;

    use super::*;

    fn pictures<D: Dimension>(array: &Array<u8, D>) -> Result<(Vec<RgbImage>, bool), AppError> {
        pictures_for(false, array)
    }

    fn pictures_for<D: Dimension>(
        is_gray: bool,
        array: &Array<u8, D>,
    ) -> Result<(Vec<RgbImage>, bool), AppError> {
        let mut bytes = Vec::new();
        array.write_npy(&mut bytes).unwrap();
        let mut all = Found::default();
        all.add_pixels(
            &Npy::read(&bytes, FLOATS_OR_PIXELS).unwrap(),
            is_gray,
            &Limits::default(),
        )?;
        let image = |one| match one {
            One::Pixels(decoded) => decoded.image,
            _ => unreachable!(),
        };
        Ok((all.each.into_iter().map(image).collect(), all.batched))
    }

    #[test]
    fn bytes_are_pixels_in_every_order_and_in_batches() {
        let value = |y: usize, x: usize, channel: usize| (40 * y + 10 * x + channel) as u8;
        let rgb = RgbImage::from_fn(6, 5, |x, y| {
            [0, 1, 2].map(|c| value(y as usize, x as usize, c)).into()
        });
        let grey = RgbImage::from_fn(6, 5, |x, y| [value(y as usize, x as usize, 0); 3].into());
        let last = Array3::from_shape_fn((5, 6, 3), |(y, x, c)| value(y, x, c));
        let first = Array3::from_shape_fn((3, 5, 6), |(c, y, x)| value(y, x, c));
        let opaque = Array3::from_shape_fn(
            (5, 6, 4),
            |(y, x, c)| if c == 3 { 255 } else { value(y, x, c) },
        );
        let plane = Array2::from_shape_fn((5, 6), |(y, x)| value(y, x, 0));
        let fortran = last.t().as_standard_layout().into_owned().reversed_axes();
        for array in [&last, &first, &opaque, &fortran] {
            assert_eq!(
                pictures(array).unwrap(),
                (vec![rgb.clone()], false),
                "{:?}",
                array.shape()
            );
            let batch = array.clone().insert_axis(Axis(0));
            assert_eq!(
                pictures(&batch).unwrap(),
                (vec![rgb.clone()], true),
                "{:?}",
                batch.shape()
            );
        }
        assert_eq!(pictures(&plane).unwrap(), (vec![grey.clone()], false));
        for axis in [0, 2] {
            assert_eq!(
                pictures(&plane.clone().insert_axis(Axis(axis))).unwrap(),
                (vec![grey.clone()], false)
            );
        }
        let several = Array3::from_shape_fn((2, 5, 6), |(_, y, x)| value(y, x, 0));
        assert_eq!(
            pictures_for(true, &several).unwrap(),
            (vec![grey.clone(), grey], true)
        );
        for shape in [
            vec![7],
            vec![2, 5, 6],
            vec![5, 6, 2],
            vec![2, 5, 6, 2],
            vec![1, 1, 5, 6, 3],
        ] {
            let refused = pictures(&Array::<u8, _>::zeros(shape.clone())).unwrap_err();
            assert!(matches!(refused, AppError::PixelShape { .. }), "{shape:?}");
        }
        assert!(matches!(
            pictures(&Array::<u8, _>::zeros((4097, 2, 2, 3))),
            Err(AppError::Parameters(_))
        ));
    }

    #[test]
    fn only_values_far_from_those_of_pixels_are_told() {
        let rule = Preprocess {
            scale: 1.0 / 255.0,
            mean: vec![0.5],
            std: vec![0.25],
            ..Preprocess::plain(2, 1)
        };
        // Pixels become -2 to 2.
        for (value, told) in [
            (0.0, false),
            (5.9, false),
            (-5.9, false),
            (6.1, true),
            (-255.0, true),
        ] {
            let mut tensor = Tensor::zeros(vec![3, 1, 2]);
            tensor[[2, 0, 1]] = value;
            assert_eq!(far_outside(&tensor, &rule).is_some(), told, "{value}");
        }
        let tensor = Tensor::from_elem(vec![3, 1, 2], 255.0);
        assert!(
            far_outside(&tensor, &rule)
                .unwrap()
                .contains("from 255 to 255, and those of pictures from -2 to 2")
        );
    }
}
