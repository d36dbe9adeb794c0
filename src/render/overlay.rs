//! Paints strengths onto a picture. Pixels outside of the crop get no colour; a thin frame marks
//! the crop.

use std::{num::NonZeroUsize, thread};

use image::{Rgb, RgbImage};
use ndarray::Array2;

use super::{
    color::{Paint, Palette},
    ground::Ground,
    options::{HeatmapOptions, OverlayType},
};
use crate::picture::{
    geometry::{Area, Projected},
    preprocess::luma,
};

/// The share of the distance from white that `faded` keeps, in 256ths.
const FADED: u16 = 64;
/// The colour of a hull's rim, which no colour map has.
const HULL: [u8; 3] = [0, 230, 118];
/// The width of each line of the frame, as a share of the picture's longest side.
const FRAME: f32 = 1.0 / 600.0;

/// Strengths projected onto a picture, to be painted.
#[derive(Clone, Debug)]
pub struct Overlay<'a> {
    ground: &'a Ground<'a>,
    /// Strengths in -1..=1; `None`: no colour.
    strengths: Option<Projected>,
    /// The rim of a hull, and where it lies.
    hull: Option<(Array2<bool>, Area)>,
    overlay_type: OverlayType,
    palette: Palette,
}

impl<'a> Overlay<'a> {
    /// Without strengths, only the ground is painted.
    pub fn new(
        ground: &'a Ground<'a>,
        strengths: Option<Projected>,
        options: &HeatmapOptions,
    ) -> Self {
        Self {
            ground,
            strengths,
            hull: None,
            overlay_type: options.overlay_type,
            palette: Palette::new(options),
        }
    }

    /// With the rim of a hull over the colours.
    pub fn with_hull(self, hull: Option<(Array2<bool>, Area)>) -> Self {
        Self { hull, ..self }
    }

    /// Whether part of the picture is outside of the crop.
    pub fn is_framed(&self) -> bool {
        let Area { width, height, .. } = self.ground.placement.seen;
        (width, height) != self.ground.placement.picture
    }

    /// The picture, painted in bands on all cores.
    pub fn image(&self) -> RgbImage {
        let pixels = &self.ground.pixels;
        let mut picture = RgbImage::new(pixels.width(), pixels.height());
        let width = 3 * pixels.width() as usize;
        let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let band_rows = (pixels.height() as usize).div_ceil(threads);
        if width > 0 && band_rows > 0 {
            thread::scope(|scope| {
                for (index, band) in picture.chunks_mut(band_rows * width).enumerate() {
                    scope.spawn(move || self.paint(index * band_rows, band));
                }
            });
        }
        if let Some((rim, area)) = &self.hull {
            for ((y, x), _) in rim.indexed_iter().filter(|(_, is_on)| **is_on) {
                let (x, y) = (area.left + x as u32, area.top + y as u32);
                if let Some(pixel) = picture.get_pixel_mut_checked(x, y) {
                    *pixel = Rgb(HULL);
                }
            }
        }
        if self.is_framed() {
            frame(&mut picture, self.ground.placement.seen);
        }
        picture
    }

    /// Paints rows from `first` on.
    fn paint(&self, first: usize, rows: &mut [u8]) {
        let width = 3 * self.ground.pixels.width() as usize;
        for (y, row) in (first..).zip(rows.chunks_exact_mut(width)) {
            lay_under(
                &self.ground.pixels.as_raw()[y * width..][..width],
                row,
                self.overlay_type,
            );
            self.heat(y, row);
        }
    }

    fn heat(&self, y: usize, row: &mut [u8]) {
        let outside = self.palette.outside;
        let Some(Projected { plane, area }) = &self.strengths else {
            return;
        };
        let (left, right) = (
            3 * area.left as usize,
            3 * (area.left + area.width) as usize,
        );
        let top = area.top as usize;
        if !(top..top + area.height as usize).contains(&y) {
            return fill(row, outside);
        }
        fill(&mut row[..left], outside);
        fill(&mut row[right..], outside);
        for (pixel, strength) in row[left..right]
            .as_chunks_mut()
            .0
            .iter_mut()
            .zip(plane.row(y - top))
        {
            *pixel = self.palette.paint(*strength).over(*pixel);
        }
    }
}

/// Draws a dark and a light line around `area`, just outside: one of them is visible on any
/// picture.
fn frame(picture: &mut RgbImage, area: Area) {
    let (width, height) = picture.dimensions();
    let line = (FRAME * width.max(height) as f32).round().max(1.0) as u32;
    let (right, bottom) = (area.left + area.width, area.top + area.height);
    let distance = |x: u32, from: u32, to: u32| {
        if x < from {
            from - x
        } else {
            (x + 1).saturating_sub(to)
        }
    };
    let rows = area.top.saturating_sub(2 * line)..(bottom + 2 * line).min(height);
    for y in rows {
        for x in area.left.saturating_sub(2 * line)..(right + 2 * line).min(width) {
            let far = distance(x, area.left, right).max(distance(y, area.top, bottom));
            if far > 0 {
                picture.put_pixel(x, y, Rgb(if far <= line { [0; 3] } else { [255; 3] }));
            }
        }
    }
}

fn fill(pixels: &mut [u8], paint: Paint) {
    pixels
        .as_chunks_mut()
        .0
        .iter_mut()
        .for_each(|pixel| *pixel = paint.over(*pixel));
}

/// One row of the ground; `row` is black before.
fn lay_under(upload: &[u8], row: &mut [u8], overlay_type: OverlayType) {
    match overlay_type {
        OverlayType::None => {}
        OverlayType::Original | OverlayType::MaskBlack => row.copy_from_slice(upload),
        OverlayType::Grayscale => {
            for (pixel, [r, g, b]) in row.as_chunks_mut().0.iter_mut().zip(upload.as_chunks().0) {
                *pixel = [luma(*r, *g, *b); 3];
            }
        }
        OverlayType::Faded => {
            for (pixel, [r, g, b]) in row.as_chunks_mut().0.iter_mut().zip(upload.as_chunks().0) {
                let distance = (u16::from(255 - luma(*r, *g, *b)) * FADED) >> 8;
                *pixel = [255 - distance as u8; 3];
            }
        }
    }
}
