//! Paints strengths onto an upload in its own size. What the model did not see gets no heat and is dimmed to 60 %.

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
    let mut picture = under(upload, options.overlay_type);
    let area = projected.area;
    let (left, right) = (3 * area.left as usize, 3 * (area.left + area.width) as usize);
    let nothing = palette.paint(0.0);
    let unseen = Paint {
        keep: (u32::from(nothing.keep) * u32::from(DIMMED) / 256) as u16,
        add: nothing.add.map(|value| (u32::from(value) * u32::from(DIMMED) / 256) as u16),
    };
    let fill = |pixels: &mut [u8]| pixels.as_chunks_mut().0.iter_mut().for_each(|pixel| *pixel = unseen.over(*pixel));
    let width = 3 * upload.width() as usize;
    let rows = (area.top as usize)..(area.top + area.height) as usize;
    for (y, row) in picture.chunks_exact_mut(width.max(1)).enumerate() {
        if !rows.contains(&y) {
            fill(row);
            continue;
        }
        fill(&mut row[..left]);
        fill(&mut row[right..]);
        let strengths = projected.plane.row(y - rows.start);
        for (pixel, strength) in row[left..right].as_chunks_mut().0.iter_mut().zip(strengths) {
            *pixel = palette.paint(*strength).over(*pixel);
        }
    }
    picture
}

/// The picture without any heat, nothing dimmed.
pub fn blank(upload: &RgbImage, options: &HeatmapOptions) -> RgbImage {
    let nothing = Palette::new(options.color_map, options.overlay_type, options.alpha).paint(0.0);
    let mut picture = under(upload, options.overlay_type);
    picture.as_chunks_mut().0.iter_mut().for_each(|pixel| *pixel = nothing.over(*pixel));
    picture
}

/// What lies under the colours.
fn under(upload: &RgbImage, overlay_type: OverlayType) -> RgbImage {
    match overlay_type {
        OverlayType::None => RgbImage::new(upload.width(), upload.height()),
        OverlayType::Original | OverlayType::MaskBlack => upload.clone(),
        OverlayType::Grayscale => {
            let mut grey = upload.clone();
            grey.as_chunks_mut().0.iter_mut().for_each(|pixel| {
                let [r, g, b] = *pixel;
                *pixel = [luma(r, g, b); 3];
            });
            grey
        }
    }
}
