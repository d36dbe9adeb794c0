//! The picture that maps are drawn on: the upload or its crop, resized to the requested size.

use std::borrow::Cow;

use fast_image_resize::{
    FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer,
    images::{Image, ImageRef},
};
use image::{RgbImage, imageops};

use super::{
    RenderError,
    options::{HeatmapOptions, View},
};
use crate::picture::geometry::{Area, Geometry, Placement};

/// Bounds of a picture's longest side when no `size` is given: a tiny upload is enlarged, a huge
/// one reduced.
const SHORTEST_OF_PHOTO: u32 = 480;
const LONGEST_OF_PHOTO: u32 = 1600;

/// A picture to draw on, and where the model's pixels lie on it.
#[derive(Clone, Debug)]
pub struct Ground<'a> {
    pub pixels: Cow<'a, RgbImage>,
    pub placement: Placement,
}

impl<'a> Ground<'a> {
    /// `usual` gives the picture's longest side from the upload's, if the options give no size.
    pub fn new(
        upload: &'a RgbImage,
        geometry: &Geometry,
        options: &HeatmapOptions,
        usual: fn(u32) -> u32,
    ) -> Result<Self, RenderError> {
        let size = ground_size(geometry, options, usual);
        match options.view {
            View::Photo => Ok(Self {
                pixels: resize(Cow::Borrowed(upload), size)?,
                placement: geometry.on_photo(size),
            }),
            View::Crop => {
                let Area {
                    left,
                    top,
                    width,
                    height,
                } = geometry.seen();
                let seen = match (width, height) == upload.dimensions() {
                    true => Cow::Borrowed(upload),
                    false => {
                        Cow::Owned(imageops::crop_imm(upload, left, top, width, height).to_image())
                    }
                };
                Ok(Self {
                    pixels: resize(seen, size)?,
                    placement: geometry.on_crop(size),
                })
            }
        }
    }
}

/// The default longest side of a single picture.
pub fn alone(longest: u32) -> u32 {
    longest.clamp(SHORTEST_OF_PHOTO, LONGEST_OF_PHOTO)
}

/// Width and height of the ground for an upload.
pub fn ground_size(
    geometry: &Geometry,
    options: &HeatmapOptions,
    usual: fn(u32) -> u32,
) -> (u32, u32) {
    let Area { width, height, .. } = geometry.seen();
    scaled(
        if options.view == View::Crop {
            (width, height)
        } else {
            geometry.upload
        },
        options,
        usual,
    )
}

fn scaled(photo: (u32, u32), options: &HeatmapOptions, usual: fn(u32) -> u32) -> (u32, u32) {
    let longest = photo.0.max(photo.1).max(1);
    let side = options.size.unwrap_or_else(|| usual(longest));
    let scale = |length: u32| {
        let scaled =
            (u64::from(length) * u64::from(side) + u64::from(longest) / 2) / u64::from(longest);
        u32::try_from(scaled).unwrap_or(u32::MAX).max(1)
    };
    (scale(photo.0), scale(photo.1))
}

/// Bilinear when enlarged, area-averaged when reduced, as maps are.
fn resize(
    pixels: Cow<'_, RgbImage>,
    (width, height): (u32, u32),
) -> Result<Cow<'_, RgbImage>, RenderError> {
    if pixels.dimensions() == (width, height) {
        return Ok(pixels);
    }
    let fault = |reason: String| RenderError::Resize { reason };
    let source = ImageRef::new(
        pixels.width(),
        pixels.height(),
        pixels.as_raw(),
        PixelType::U8x3,
    );
    let source = source.map_err(|error| fault(error.to_string()))?;
    let mut target = Image::new(width, height, PixelType::U8x3);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
    Resizer::new()
        .resize(&source, &mut target, &options)
        .map_err(|error| fault(error.to_string()))?;
    let resized = RgbImage::from_raw(width, height, target.into_vec());
    resized
        .map(Cow::Owned)
        .ok_or_else(|| fault("it has another length than its sides say".to_owned()))
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;
    use crate::render::options::Look;

    fn sized(photo: (u32, u32), size: Option<u32>) -> (u32, u32) {
        scaled(
            photo,
            &HeatmapOptions {
                size,
                ..Look::Signed.options()
            },
            alone,
        )
    }

    #[test]
    fn pictures_are_as_large_as_asked_else_neither_tiny_nor_huge() {
        assert_eq!(sized((1024, 768), None), (1024, 768));
        assert_eq!(sized((16, 8), None), (480, 240));
        assert_eq!(sized((7000, 5000), None), (1600, 1143));
        assert_eq!(sized((100, 300), Some(600)), (200, 600));
        assert_eq!(sized((8000, 1), Some(64)), (64, 1));
    }

    #[test]
    fn colours_stay_in_their_places() {
        let photo = RgbImage::from_fn(40, 20, |x, _| {
            if x < 20 {
                Rgb([200, 0, 0])
            } else {
                Rgb([0, 0, 200])
            }
        });
        let large = resize(Cow::Borrowed(&photo), (400, 200)).unwrap();
        assert_eq!(
            (large.get_pixel(150, 100).0, large.get_pixel(250, 100).0),
            ([200, 0, 0], [0, 0, 200])
        );
        let small = resize(Cow::Borrowed(&photo), (4, 2)).unwrap();
        assert_eq!(small.dimensions(), (4, 2));
        assert!(small.get_pixel(0, 0).0[0] > 150 && small.get_pixel(3, 1).0[2] > 150);
    }
}
