//! Paints strengths onto an upload in its own size. What the model did not see gets no heat and is dimmed to 60 %.

use std::{num::NonZeroUsize, thread};

use ::image::RgbImage;

use super::{
    RenderError,
    color::{Paint, Palette},
    encode::encode_rows,
    options::{HeatmapOptions, OverlayType},
};
use crate::image::{geometry::Projected, preprocess::luma};

/// Of 256.
const DIMMED: u16 = 154;

/// A picture that is not painted yet: strengths on an upload.
#[derive(Clone, Debug)]
pub struct Overlay<'a> {
    upload: &'a RgbImage,
    /// In -1..=1. `None`: no heat, and nothing dimmed.
    strengths: Option<Projected>,
    overlay_type: OverlayType,
    palette: Palette,
}

impl<'a> Overlay<'a> {
    /// Where `strengths` has none, the upload alone.
    pub fn new(upload: &'a RgbImage, strengths: Option<Projected>, options: &HeatmapOptions) -> Self {
        let palette = Palette::new(options.color_map, options.overlay_type, options.alpha);
        Self { upload, strengths, overlay_type: options.overlay_type, palette }
    }

    /// The picture, painted in bands on all cores.
    pub fn image(&self) -> RgbImage {
        let mut picture = RgbImage::new(self.upload.width(), self.upload.height());
        let width = 3 * self.upload.width() as usize;
        let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let band_rows = (self.upload.height() as usize).div_ceil(threads);
        if width > 0 && band_rows > 0 {
            thread::scope(|scope| {
                for (index, band) in picture.chunks_mut(band_rows * width).enumerate() {
                    scope.spawn(move || self.paint(index * band_rows, band));
                }
            });
        }
        picture
    }

    /// The picture as PNG, painted while it is encoded.
    pub fn png(&self) -> Result<Vec<u8>, RenderError> {
        encode_rows(self.upload.dimensions(), |first, rows| self.paint(first, rows))
    }

    /// Paints rows from `first` on.
    fn paint(&self, first: usize, rows: &mut [u8]) {
        let width = 3 * self.upload.width() as usize;
        for (y, row) in (first..).zip(rows.chunks_exact_mut(width)) {
            lay_under(&self.upload.as_raw()[y * width..][..width], row, self.overlay_type);
            self.heat(y, row);
        }
    }

    fn heat(&self, y: usize, row: &mut [u8]) {
        let nothing = self.palette.paint(0.0);
        let Some(Projected { plane, area }) = &self.strengths else { return fill(row, nothing) };
        let unseen = Paint {
            keep: (u32::from(nothing.keep) * u32::from(DIMMED) / 256) as u16,
            add: nothing.add.map(|value| (u32::from(value) * u32::from(DIMMED) / 256) as u16),
        };
        let (left, right) = (3 * area.left as usize, 3 * (area.left + area.width) as usize);
        let top = area.top as usize;
        if !(top..top + area.height as usize).contains(&y) {
            return fill(row, unseen);
        }
        fill(&mut row[..left], unseen);
        fill(&mut row[right..], unseen);
        for (pixel, strength) in row[left..right].as_chunks_mut().0.iter_mut().zip(plane.row(y - top)) {
            *pixel = self.palette.paint(*strength).over(*pixel);
        }
    }
}

fn fill(pixels: &mut [u8], paint: Paint) {
    pixels.as_chunks_mut().0.iter_mut().for_each(|pixel| *pixel = paint.over(*pixel));
}

/// One row of what lies under the colours; `row` is black.
fn lay_under(upload: &[u8], row: &mut [u8], overlay_type: OverlayType) {
    match overlay_type {
        OverlayType::None => {}
        OverlayType::Original | OverlayType::MaskBlack => row.copy_from_slice(upload),
        OverlayType::Grayscale => {
            for (pixel, [r, g, b]) in row.as_chunks_mut().0.iter_mut().zip(upload.as_chunks().0) {
                *pixel = [luma(*r, *g, *b); 3];
            }
        }
    }
}
