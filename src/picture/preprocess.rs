//! Pixels -> the model's input: resize, crop or pad to the input's size, reorder channels,
//! normalise by (pixel · scale - mean) / std with `mean` and `std` in the tensor's channel order.
//! Greyscale is ITU-R 601, as PIL's `L`. Padding is the mean (0 in the tensor). Pixels that the
//! crop removes are not resized. Agrees with PIL's resize to within 1 of 255.

use fast_image_resize::{
    FilterType, PixelTrait, ResizeAlg, ResizeOptions, Resizer,
    images::{TypedImage, TypedImageRef},
    pixels::{U8x3, U8x4},
};
use image::{DynamicImage, RgbImage, RgbaImage};
use ndarray::{Array2, Axis, Ix3};

pub use super::rule::{Channels, Filter, Layout, Preprocess, Resize};
use super::{
    ImageError,
    geometry::{Geometry, span},
};
use crate::tensor::Tensor;

/// The model's input for an upload, `[C, H, W]` or `[H, W, C]`, and its geometry. Fails only on
/// sizes that manifests and decoders refuse: a side of 0, or more pixels than memory can hold.
pub fn preprocess(upload: &RgbImage, rule: &Preprocess) -> Result<(Tensor, Geometry), ImageError> {
    match rule.channels {
        Channels::Rgba => {
            let opaque = DynamicImage::ImageRgb8(upload.clone()).into_rgba8();
            preprocess_rgba(&opaque, rule)
        }
        _ => preprocess_pixels::<U8x3>(upload, upload.dimensions(), rule),
    }
}

/// As [`preprocess`], for models that see the alpha channel. Colours count by their alpha where
/// pixels are resized, as PIL has it.
pub fn preprocess_rgba(
    upload: &RgbaImage,
    rule: &Preprocess,
) -> Result<(Tensor, Geometry), ImageError> {
    preprocess_pixels::<U8x4>(upload, upload.dimensions(), rule)
}

/// Of pixels that begin with red, green and blue.
fn preprocess_pixels<P: PixelTrait<Component = u8>>(
    upload: &[u8],
    size: (u32, u32),
    rule: &Preprocess,
) -> Result<(Tensor, Geometry), ImageError> {
    let sides = [size.0, size.1, rule.width, rule.height];
    if sides.contains(&0) || rule.resize == Resize::ShortSide(0) {
        return Err(ImageError::Resize {
            reason: "a side has no pixels".to_owned(),
        });
    }
    let geometry = Geometry::new(size, rule);
    let channels = channel_count(rule.channels);
    let (width, height) = (rule.width as usize, rule.height as usize);
    let mut data = vec![0.0; channels * width * height];
    let table = value_table(rule);
    let (columns, rows) = (Stretch::along(&geometry, 0), Stretch::along(&geometry, 1));
    let pixels = resize::<P>(upload, size, &columns, &rows, rule.filter)?;
    let samples = size_of::<P>();
    for row in 0..rows.shown {
        for column in 0..columns.shown {
            let from = samples
                * ((row + rows.skipped) * columns.computed as usize + column + columns.skipped);
            let at = (row + rows.canvas) * width + column + columns.canvas;
            let [r, g, b] = [pixels[from], pixels[from + 1], pixels[from + 2]];
            let a = if samples == 4 { pixels[from + 3] } else { 255 };
            let ordered = match rule.channels {
                Channels::Rgb | Channels::Rgba => [r, g, b, a],
                Channels::Bgr => [b, g, r, a],
                Channels::Gray => [luma(r, g, b); 4],
            };
            for (channel, value) in ordered.iter().take(channels).enumerate() {
                let to = match rule.layout {
                    Layout::Nchw => channel * width * height + at,
                    Layout::Nhwc => at * channels + channel,
                };
                data[to] = table[channel][*value as usize];
            }
        }
    }
    let shape = match rule.layout {
        Layout::Nchw => [channels, height, width],
        Layout::Nhwc => [height, width, channels],
    };
    let tensor = Tensor::from_shape_vec(shape.to_vec(), data).map_err(failed)?;
    Ok((tensor, geometry))
}

/// The luma (ITU-R 601, black 0, white 1, not rounded) of the picture that a preprocessed tensor
/// shows, `[height, width]`. `None` for a shape that `rule` does not produce.
pub fn luma_of(tensor: &Tensor, rule: &Preprocess) -> Option<Array2<f32>> {
    let shares: &[f64] = match rule.channels {
        Channels::Rgb => &[0.299, 0.587, 0.114],
        Channels::Bgr => &[0.114, 0.587, 0.299],
        Channels::Gray => &[1.0],
        Channels::Rgba => &[0.299, 0.587, 0.114, 0.0],
    };
    let axis = match rule.layout {
        Layout::Nchw => 0,
        Layout::Nhwc => 2,
    };
    let pixels = tensor
        .view()
        .into_dimensionality::<Ix3>()
        .ok()
        .filter(|pixels| pixels.len_of(Axis(axis)) == shares.len())?;
    let mut luma = Array2::<f64>::zeros(pixels.index_axis(Axis(axis), 0).raw_dim());
    for ((plane, share), (black, white)) in pixels
        .axis_iter(Axis(axis))
        .zip(shares)
        .zip(pixel_range(rule))
    {
        let (black, white) = (f64::from(black), f64::from(white));
        luma.zip_mut_with(&plane, |luma, &value| {
            *luma += share * (f64::from(value) - black) / (white - black)
        });
    }
    Some(luma.mapv(|value| value as f32))
}

/// The tensor values of a black and of a white pixel, per channel in the tensor's order.
pub fn pixel_range(rule: &Preprocess) -> Vec<(f32, f32)> {
    value_table(rule)
        .iter()
        .map(|values| (values[0], values[255]))
        .collect()
}

pub fn channel_count(channels: Channels) -> usize {
    match channels {
        Channels::Rgb | Channels::Bgr => 3,
        Channels::Gray => 1,
        Channels::Rgba => 4,
    }
}

/// ITU-R 601 in 16-bit fixed point, rounded: bit-identical to PIL's `convert("L")`.
pub fn luma(r: u8, g: u8, b: u8) -> u8 {
    ((19_595 * u32::from(r) + 38_470 * u32::from(g) + 7_471 * u32::from(b) + 0x8000) >> 16) as u8
}

/// A lookup table from pixel value to tensor value for each channel, in the tensor's order. A `mean`
/// or `std` of length one applies to all channels; an empty `mean` is 0, an empty `std` 1.
pub fn value_table(rule: &Preprocess) -> Vec<[f32; 256]> {
    let of = |values: &[f32], channel: usize, absent: f32| {
        values
            .get(channel)
            .or(values.first())
            .copied()
            .unwrap_or(absent)
    };
    (0..channel_count(rule.channels))
        .map(|channel| {
            let (mean, std) = (of(&rule.mean, channel, 0.0), of(&rule.std, channel, 1.0));
            std::array::from_fn(|pixel| (pixel as f32 * rule.scale - mean) / std)
        })
        .collect()
}

/// One axis of the resize: a source range of the upload and its target range of the model's input.
struct Stretch {
    /// Start and length in the upload, in pixels of the upload.
    source: (f64, f64),
    /// The number of target pixels computed: the visible ones and a margin of the filter's support,
    /// so that resizing a part of the source gives the values of resizing all of it.
    computed: u32,
    /// The number of computed pixels before the first visible one.
    skipped: usize,
    shown: usize,
    /// Position of the first visible pixel in the model's input.
    canvas: usize,
}

impl Stretch {
    fn along(geometry: &Geometry, axis: usize) -> Stretch {
        let pick = |(x, y): (u32, u32)| if axis == 0 { x } else { y };
        let offset = i64::from(if axis == 0 {
            geometry.offset.0
        } else {
            geometry.offset.1
        });
        let (upload, resized) = (pick(geometry.upload), i64::from(pick(geometry.resized)));
        // The visible range, in pixels of the resized upload.
        let first = (-offset).clamp(0, resized);
        let end = (i64::from(pick(geometry.model)) - offset).clamp(first, resized);
        let per_pixel = f64::from(upload) / resized as f64;
        let reach = 1 + (WIDEST_SUPPORT / per_pixel.min(1.0)).ceil() as i64;
        let (from, to) = ((first - reach).max(0), (end + reach).min(resized));
        let edge = |at: i64| {
            if at == resized {
                f64::from(upload)
            } else {
                at as f64 * per_pixel
            }
        };
        Stretch {
            source: span(edge(from), edge(to)),
            computed: (to - from) as u32,
            skipped: (first - from) as usize,
            shown: (end - first) as usize,
            canvas: (first + offset) as usize,
        }
    }
}

/// The support of Lanczos, the widest filter, in pixels of the smaller of source and target.
const WIDEST_SUPPORT: f64 = 3.0;

/// The resized pixels, `rows.computed` x `columns.computed`. `resize_typed` because
/// `Resizer::resize` is compiled for every pixel type of the library.
fn resize<P: PixelTrait<Component = u8>>(
    upload: &[u8],
    (width, height): (u32, u32),
    columns: &Stretch,
    rows: &Stretch,
    filter: Filter,
) -> Result<Vec<u8>, ImageError> {
    let algorithm = match filter {
        Filter::Nearest => ResizeAlg::Nearest,
        Filter::Bilinear => ResizeAlg::Convolution(FilterType::Bilinear),
        // a = -0.5, as in PIL.
        Filter::Bicubic => ResizeAlg::Convolution(FilterType::CatmullRom),
        Filter::Lanczos => ResizeAlg::Convolution(FilterType::Lanczos3),
    };
    // First the horizontal pass, then the vertical one, as PIL does: overshoots are clipped after
    // each pass, so the order changes the result.
    let top = rows.source.0.floor();
    let bottom = (rows.source.0 + rows.source.1)
        .ceil()
        .min(f64::from(height));
    let source = TypedImageRef::<P>::from_buffer(width, height, upload).map_err(failed)?;
    let height = (bottom - top) as u32;
    let mut narrow = TypedImage::<P>::new(columns.computed, height);
    let options = ResizeOptions::new().resize_alg(algorithm);
    let mut resizer = Resizer::new();
    let cut = options.crop(columns.source.0, top, columns.source.1, bottom - top);
    resizer
        .resize_typed(&source, &mut narrow, &cut)
        .map_err(failed)?;
    let narrow = TypedImageRef::new(columns.computed, height, narrow.pixels()).map_err(failed)?;
    let samples = columns.computed as usize * rows.computed as usize * size_of::<P>();
    let mut bytes = vec![0; samples];
    let mut target = TypedImage::<P>::from_buffer(columns.computed, rows.computed, &mut bytes)
        .map_err(failed)?;
    let (from, length) = span(rows.source.0 - top, rows.source.0 - top + rows.source.1);
    let cut = options.crop(
        0.0,
        from,
        f64::from(columns.computed),
        length.min(bottom - top - from),
    );
    resizer
        .resize_typed(&narrow, &mut target, &cut)
        .map_err(failed)?;
    Ok(bytes)
}

fn failed(fault: impl std::error::Error) -> ImageError {
    ImageError::Resize {
        reason: fault.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use image::Rgb;
    use ndarray_npy::ReadNpyExt;

    use super::*;

    fn rule(width: u32, height: u32, resize: Resize) -> Preprocess {
        Preprocess {
            layout: Layout::Nhwc,
            resize,
            ..Preprocess::plain(width, height)
        }
    }

    #[test]
    fn the_luma_of_a_tensor_is_that_of_its_pixels_whatever_the_order() {
        let upload = RgbImage::from_fn(4, 3, |x, y| Rgb([(60 * x) as u8, (100 * y) as u8, 30]));
        for channels in [Channels::Rgb, Channels::Bgr] {
            for layout in [Layout::Nchw, Layout::Nhwc] {
                let rule = Preprocess {
                    layout,
                    channels,
                    scale: 1.0 / 255.0,
                    mean: vec![0.4, 0.5, 0.6],
                    std: vec![0.2, 0.3, 0.4],
                    ..Preprocess::plain(4, 3)
                };
                let found = luma_of(&preprocess(&upload, &rule).unwrap().0, &rule).unwrap();
                for (x, y, Rgb([r, g, b])) in upload.enumerate_pixels() {
                    let expected =
                        (0.299 * f32::from(*r) + 0.587 * f32::from(*g) + 0.114 * f32::from(*b))
                            / 255.0;
                    assert!((found[[y as usize, x as usize]] - expected).abs() < 1e-6);
                }
                assert_eq!(luma_of(&Tensor::zeros(vec![2, 3, 4]), &rule), None);
            }
        }
    }

    #[test]
    fn resize_and_crop_agree_with_pil() {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/images");
        for name in ["wide", "tall", "small"] {
            let upload = image::open(folder.join(format!("{name}.png")))
                .unwrap()
                .into_rgb8();
            for (filter, text, tolerance) in [
                (Filter::Nearest, "nearest", 0.0),
                // Coefficients are fixed-point, with fewer bits than PIL keeps.
                (Filter::Bilinear, "bilinear", 1.0),
                (Filter::Bicubic, "bicubic", 1.0),
                (Filter::Lanczos, "lanczos", 1.0),
            ] {
                let rule = Preprocess {
                    filter,
                    ..rule(28, 28, Resize::ShortSide(32))
                };
                let (found, _) = preprocess(&upload, &rule).unwrap();
                let stored = fs::File::open(folder.join(format!("{name}.{text}.npy"))).unwrap();
                let expected = ndarray::Array3::<u8>::read_npy(stored)
                    .unwrap()
                    .mapv(f32::from)
                    .into_dyn();
                let worst = (&found - &expected)
                    .iter()
                    .fold(0f32, |worst, gap| worst.max(gap.abs()));
                assert!(worst <= tolerance, "{name} {text}: {worst}");
            }
        }
    }

    #[test]
    fn layout_channel_order_and_normalisation_follow_the_manifest() {
        let upload = RgbImage::from_fn(2, 1, |x, _| {
            image::Rgb(if x == 0 { [255, 0, 51] } else { [0, 102, 255] })
        });
        let rgb = Preprocess {
            layout: Layout::Nchw,
            scale: 1.0 / 255.0,
            mean: vec![0.5, 0.0, 0.2],
            std: vec![0.5, 0.2, 1.0],
            ..rule(2, 1, Resize::Stretch)
        };
        let values = |rule: &Preprocess| preprocess(&upload, rule).unwrap().0;
        let close = |found: Tensor, shape: &[usize], expected: &[f32]| {
            assert_eq!(found.shape(), shape);
            assert!(
                found
                    .iter()
                    .zip(expected)
                    .all(|(a, b)| (a - b).abs() < 1e-6),
                "{found:?}"
            );
        };
        close(values(&rgb), &[3, 1, 2], &[1.0, -1.0, 0.0, 2.0, 0.0, 0.8]);
        let nhwc = Preprocess {
            layout: Layout::Nhwc,
            ..rgb.clone()
        };
        close(values(&nhwc), &[1, 2, 3], &[1.0, 0.0, 0.0, -1.0, 2.0, 0.8]);
        // Mean and std stand in the tensor's order: the first is blue's.
        let bgr = Preprocess {
            channels: Channels::Bgr,
            ..rgb.clone()
        };
        close(values(&bgr), &[3, 1, 2], &[-0.6, 1.0, 0.0, 2.0, 0.8, -0.2]);
        let grey = Preprocess {
            channels: Channels::Gray,
            scale: 1.0,
            mean: vec![],
            std: vec![],
            ..rgb
        };
        // PIL: Image.fromarray([[255, 0, 51], [0, 102, 255]]).convert("L") is 82, 89.
        close(values(&grey), &[1, 1, 2], &[82.0, 89.0]);
    }

    #[test]
    fn alpha_is_a_channel_and_weighs_the_colours_of_its_pixel() {
        // PIL: Image.fromarray([[[200, 0, 80, 0], [100, 40, 60, 255]]], "RGBA").resize((1, 1), BILINEAR)
        // is [100, 40, 60, 128]: what cannot be seen has no colour.
        let upload = RgbaImage::from_fn(2, 1, |x, _| {
            image::Rgba(if x == 0 {
                [200, 0, 80, 0]
            } else {
                [100, 40, 60, 255]
            })
        });
        let rule = Preprocess {
            channels: Channels::Rgba,
            layout: Layout::Nchw,
            ..rule(1, 1, Resize::Stretch)
        };
        let (found, _) = preprocess_rgba(&upload, &rule).unwrap();
        assert_eq!(found.shape(), [4, 1, 1]);
        for (value, expected) in found.iter().zip([100.0, 40.0, 60.0, 128.0]) {
            assert!((value - expected).abs() <= 1.0, "{found}");
        }
        let opaque = RgbImage::from_pixel(2, 1, image::Rgb([7, 8, 9]));
        let (found, _) = preprocess(&opaque, &rule).unwrap();
        assert_eq!(
            found.iter().copied().collect::<Vec<_>>(),
            [7.0, 8.0, 9.0, 255.0]
        );
    }

    #[test]
    fn padding_is_the_mean_around_the_whole_image() {
        let upload = RgbImage::from_pixel(40, 20, image::Rgb([200; 3]));
        let (found, geometry) = preprocess(&upload, &rule(10, 10, Resize::Pad)).unwrap();
        assert_eq!((geometry.resized, geometry.offset), ((10, 5), (0, 2)));
        for row in 0..10 {
            let expected = if (2..7).contains(&row) { 200.0 } else { 0.0 };
            assert!(
                found
                    .index_axis(ndarray::Axis(0), row)
                    .iter()
                    .all(|value| *value == expected),
                "row {row}"
            );
        }
    }

    #[test]
    fn a_crop_larger_than_the_resized_image_is_padded() {
        let upload = RgbImage::from_pixel(8, 8, image::Rgb([9; 3]));
        let (found, _) = preprocess(&upload, &rule(6, 6, Resize::ShortSide(4))).unwrap();
        assert_eq!(found.sum(), 9.0 * 3.0 * 16.0);
        assert_eq!((found[[0, 0, 0]], found[[1, 1, 0]]), (0.0, 9.0));
    }

    #[test]
    fn extreme_shapes_cost_little_and_do_not_panic() {
        for (width, height) in [(16_000, 1), (1, 16_000), (1, 1), (2, 3)] {
            let upload = RgbImage::from_pixel(width, height, image::Rgb([7; 3]));
            for resize in [Resize::Stretch, Resize::ShortSide(256), Resize::Pad] {
                for filter in [Filter::Nearest, Filter::Lanczos] {
                    let rule = Preprocess {
                        filter,
                        ..rule(224, 224, resize)
                    };
                    let (found, geometry) = preprocess(&upload, &rule).unwrap();
                    assert!(
                        found
                            .iter()
                            .all(|value| *value == 7.0 || (*value == 0.0 && resize == Resize::Pad))
                    );
                    assert!(
                        geometry
                            .on_photo(geometry.upload)
                            .project(ndarray::Array2::ones((224, 224)).view())
                            .is_some()
                    );
                }
            }
        }
        let none = RgbImage::new(0, 5);
        assert!(matches!(
            preprocess(&none, &rule(4, 4, Resize::Stretch)),
            Err(ImageError::Resize { .. })
        ));
    }

    #[test]
    fn pixel_range_is_what_black_and_white_become() {
        let rule = Preprocess {
            scale: 1.0 / 255.0,
            mean: vec![0.485, 0.456, 0.406],
            std: vec![0.229, 0.224, 0.225],
            ..rule(1, 1, Resize::Stretch)
        };
        let range = pixel_range(&rule);
        assert!(
            (range[0].0 + 2.117_904).abs() < 1e-5 && (range[2].1 - 2.64).abs() < 1e-5,
            "{range:?}"
        );
    }
}
