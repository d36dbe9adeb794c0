//! Paints strengths onto an upload in its own size. What the model did not see gets no heat and is dimmed to 60 %.

use std::{num::NonZeroUsize, thread};

use ::image::RgbImage;

use super::{
    color::{Paint, Palette},
    options::{HeatmapOptions, OverlayType},
};
use crate::image::{geometry::Projected, preprocess::luma};

/// Of 256.
const DIMMED: u16 = 154;

/// The picture of strengths (in -1..=1) on the upload; where `projected` has none, the upload alone.
pub fn overlay(upload: &RgbImage, projected: &Projected, options: &HeatmapOptions) -> RgbImage {
    let palette = Palette::new(options.color_map, options.overlay_type, options.alpha);
    let area = projected.area;
    let (left, right) = (3 * area.left as usize, 3 * (area.left + area.width) as usize);
    let nothing = palette.paint(0.0);
    let unseen = Paint {
        keep: (u32::from(nothing.keep) * u32::from(DIMMED) / 256) as u16,
        add: nothing.add.map(|value| (u32::from(value) * u32::from(DIMMED) / 256) as u16),
    };
    let rows = (area.top as usize)..(area.top + area.height) as usize;
    paint_rows(upload, options.overlay_type, |y, row| {
        if !rows.contains(&y) {
            fill(row, unseen);
            return;
        }
        fill(&mut row[..left], unseen);
        fill(&mut row[right..], unseen);
        let strengths = projected.plane.row(y - rows.start);
        for (pixel, strength) in row[left..right].as_chunks_mut().0.iter_mut().zip(strengths) {
            *pixel = palette.paint(*strength).over(*pixel);
        }
    })
}

/// The picture without any heat, nothing dimmed.
pub fn blank(upload: &RgbImage, options: &HeatmapOptions) -> RgbImage {
    let nothing = Palette::new(options.color_map, options.overlay_type, options.alpha).paint(0.0);
    paint_rows(upload, options.overlay_type, |_, row| fill(row, nothing))
}

fn fill(pixels: &mut [u8], paint: Paint) {
    pixels.as_chunks_mut().0.iter_mut().for_each(|pixel| *pixel = paint.over(*pixel));
}

/// Rows of what lies under the colours, each given to `paint` with its position; bands of rows on all cores.
fn paint_rows(upload: &RgbImage, overlay_type: OverlayType, paint: impl Fn(usize, &mut [u8]) + Sync) -> RgbImage {
    let mut picture = RgbImage::new(upload.width(), upload.height());
    let width = 3 * upload.width() as usize;
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let band_rows = (upload.height() as usize).div_ceil(threads);
    if width == 0 || band_rows == 0 {
        return picture;
    }
    let paint_band = &|first: usize, band: &mut [u8]| {
        for (y, row) in (first..).zip(band.chunks_exact_mut(width)) {
            lay_under(&upload.as_raw()[y * width..][..width], row, overlay_type);
            paint(y, row);
        }
    };
    thread::scope(|scope| {
        for (index, band) in picture.chunks_mut(band_rows * width).enumerate() {
            scope.spawn(move || paint_band(index * band_rows, band));
        }
    });
    picture
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
