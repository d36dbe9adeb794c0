//! An object cut out of its photo, and pasted into a picture: α·object + (1 - α)·picture. The object
//! is resized with its colours multiplied by α, so that what is transparent gives no colour to the
//! edge.

use fast_image_resize::{
    FilterType, ResizeAlg, ResizeOptions, Resizer,
    images::{TypedImage, TypedImageRef},
    pixels::{U8x3, U16x4},
};
use image::{GrayImage, Luma, RgbImage, RgbaImage};

use crate::picture::ImageError;

/// An α of 1 in the products of two bytes.
const ONE: u32 = 255 * 255;

/// An α below this, of 255, counts as none: cut-outs have faint specks around them.
const FAINT: u8 = 16;

/// An object: colours times α and α, both out of 255², cut to the box of its visible pixels.
#[derive(Debug)]
pub struct Cutout {
    width: u32,
    height: u32,
    pixels: Vec<U16x4>,
}

impl Cutout {
    /// `None` where no pixel is visible.
    pub fn new(image: &RgbaImage) -> Option<Self> {
        let visible = image
            .enumerate_pixels()
            .filter(|(.., pixel)| pixel.0[3] >= FAINT);
        let (left, top, right, bottom) = visible.fold(
            (u32::MAX, u32::MAX, 0, 0),
            |(left, top, right, bottom), (x, y, _)| {
                (left.min(x), top.min(y), right.max(x + 1), bottom.max(y + 1))
            },
        );
        let (width, height) = (right.checked_sub(left)?, bottom.checked_sub(top)?);
        let multiplied = |pixel: &image::Rgba<u8>| {
            let [r, g, b, a] = pixel.0.map(u16::from);
            let a = if a < FAINT.into() { 0 } else { a };
            U16x4::new([r * a, g * a, b * a, 255 * a])
        };
        let rows = (top..bottom).flat_map(|y| (left..right).map(move |x| (x, y)));
        let pixels = rows
            .map(|(x, y)| multiplied(image.get_pixel(x, y)))
            .collect();
        Some(Self {
            width,
            height,
            pixels,
        })
    }

    /// Width and height, both at least 1, with the longer side this long.
    pub fn size(&self, longer: u32) -> (u32, u32) {
        let longest = f64::from(self.width.max(self.height));
        let side = |own: u32| {
            (f64::from(own) / longest * f64::from(longer))
                .round()
                .max(1.0)
        };
        (side(self.width) as u32, side(self.height) as u32)
    }

    /// The object at this width and height.
    pub fn resized(&self, (width, height): (u32, u32)) -> Result<Self, ImageError> {
        let source = TypedImageRef::<U16x4>::new(self.width, self.height, &self.pixels);
        let mut target = TypedImage::<U16x4>::new(width, height);
        let options = ResizeOptions::new().resize_alg(FILTER);
        Resizer::new()
            .resize_typed(&source.map_err(failed)?, &mut target, &options)
            .map_err(failed)?;
        // The filter overshoots: no colour is brighter than its α allows.
        let clamped = |pixel: &U16x4| {
            let alpha = u32::from(pixel.0[3]).min(ONE) as u16;
            let [r, g, b] = [pixel.0[0], pixel.0[1], pixel.0[2]].map(|colour| colour.min(alpha));
            U16x4::new([r, g, b, alpha])
        };
        Ok(Self {
            width,
            height,
            pixels: target.pixels().iter().map(clamped).collect(),
        })
    }

    /// Pastes it at its own size with its upper left corner at `left`, `top`. Pixels under a
    /// faint α stay as they are, and so do those outside of the picture.
    pub fn paste(&self, picture: &mut RgbImage, left: u32, top: u32) {
        for (x, y, pixel) in self.placed(left, top) {
            let Some(below) = picture.get_pixel_mut_checked(x, y) else {
                continue;
            };
            let [.., alpha] = pixel.0.map(u32::from);
            for (value, colour) in below.0.iter_mut().zip(pixel.0) {
                let mixed = 255 * u32::from(colour) + (ONE - alpha) * u32::from(*value);
                *value = ((mixed + ONE / 2) / ONE) as u8;
            }
        }
    }

    /// 255 where `paste` may change a pixel of a square picture of this side, else 0.
    pub fn mask(&self, side: u32, left: u32, top: u32) -> GrayImage {
        let mut mask = GrayImage::new(side, side);
        for (x, y, _) in self.placed(left, top) {
            if let Some(pixel) = mask.get_pixel_mut_checked(x, y) {
                *pixel = Luma([u8::MAX]);
            }
        }
        mask
    }

    /// The pixels that are visible, where they come to lie.
    fn placed(&self, left: u32, top: u32) -> impl Iterator<Item = (u32, u32, &U16x4)> {
        let rows = (0..self.height).flat_map(move |y| (0..self.width).map(move |x| (x, y)));
        rows.zip(&self.pixels)
            .filter(|(_, pixel)| pixel.0[3] >= 255 * u16::from(FAINT))
            .map(move |((x, y), pixel)| (left + x, top + y, pixel))
    }
}

/// Bicubic with a = -0.5, as PIL's: it keeps edges sharp and overshoots little.
const FILTER: ResizeAlg = ResizeAlg::Convolution(FilterType::CatmullRom);

/// The square of `side` pixels with its upper left corner at `left`, `top`, resized to `size`.
pub(super) fn square(
    photo: &RgbImage,
    [left, top, side]: [u32; 3],
    size: u32,
) -> Result<RgbImage, ImageError> {
    let source = TypedImageRef::<U8x3>::from_buffer(photo.width(), photo.height(), photo);
    let mut square = RgbImage::new(size, size);
    let mut target = TypedImage::<U8x3>::from_buffer(size, size, &mut square).map_err(failed)?;
    let options = ResizeOptions::new().resize_alg(FILTER).crop(
        left.into(),
        top.into(),
        side.into(),
        side.into(),
    );
    Resizer::new()
        .resize_typed(&source.map_err(failed)?, &mut target, &options)
        .map_err(failed)?;
    Ok(square)
}

fn failed(fault: impl std::error::Error) -> ImageError {
    ImageError::Resize {
        reason: fault.to_string(),
    }
}
