//! The frame of a picture: a caption above, colour bars below, and white margins beside pictures
//! that are too narrow for their text.

use image::{RgbImage, imageops};

use super::{
    RenderError,
    color::PAPER,
    ground::alone,
    legend::Legend,
    options::HeatmapOptions,
    svg::{Anchor, Captions, common_size},
};

/// Pictures narrower than this, in pixels, get margins.
const NARROWEST: u32 = 360;

/// The most rows above and below a picture together, at the largest text size.
const MOST_AROUND: u64 = 8 * LARGEST_TEXT as u64;
const LARGEST_TEXT: f32 = 28.0;

/// Two lines above a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Caption {
    pub title: String,
    /// Smaller; may be empty.
    pub note: String,
}

/// A readable text size, in pixels, for a picture of this width.
pub fn text_size(width: u32) -> f32 {
    (width as f32 / 30.0).clamp(14.0, LARGEST_TEXT)
}

/// The picture with its caption and legends.
pub fn frame(
    picture: RgbImage,
    caption: Option<&Caption>,
    legends: &[Legend],
) -> Result<RgbImage, RenderError> {
    if caption.is_none() && legends.is_empty() {
        return Ok(picture);
    }
    let width = picture.width().max(NARROWEST);
    let size = text_size(width);
    let head = caption
        .map(|caption| head(width, size, caption))
        .transpose()?;
    let foot = match legends {
        [] => None,
        _ => Some(Legend::strip(legends, width, size)?),
    };
    Ok(stack(width, head.into_iter().chain([picture]).chain(foot)))
}

/// An upper bound for the sides of a picture of an upload of these sides, in either orientation,
/// with its frame.
pub fn largest_picture((width, height): (u64, u64), options: &HeatmapOptions) -> (u64, u64) {
    let longest = u32::try_from(width.max(height)).unwrap_or(u32::MAX);
    let side = u64::from(options.size.unwrap_or_else(|| alone(longest)));
    (side.max(NARROWEST.into()), side + MOST_AROUND)
}

/// A caption on a white strip of this width.
fn head(width: u32, size: f32, caption: &Caption) -> Result<RgbImage, RenderError> {
    let unit = size;
    let lines = if caption.note.is_empty() { 1.7 } else { 2.8 };
    let mut strip = RgbImage::from_pixel(width, (size * lines) as u32, PAPER);
    let mut captions = Captions::new(strip.dimensions());
    let (middle, room) = (width / 2, width - width / 20);
    for (at, size, text) in [
        (1.2, size, &caption.title),
        (2.3, size * 0.8, &caption.note),
    ] {
        let own = common_size([text.as_str()], room, size);
        captions.add(
            (middle, (unit * at) as u32),
            room,
            own,
            Anchor::Middle,
            text,
        );
    }
    captions.paint(&mut strip)?;
    Ok(strip)
}

/// Pictures below each other, each centred on a white canvas of this width.
pub(super) fn stack(width: u32, pictures: impl IntoIterator<Item = RgbImage>) -> RgbImage {
    let pictures: Vec<RgbImage> = pictures.into_iter().collect();
    let height = pictures.iter().map(RgbImage::height).sum();
    let mut whole = RgbImage::from_pixel(width, height, PAPER);
    let mut top = 0;
    for picture in pictures {
        imageops::replace(
            &mut whole,
            &picture,
            i64::from((width - picture.width()) / 2),
            i64::from(top),
        );
        top += picture.height();
    }
    whole
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;
    use crate::render::options::Look;

    fn ink(picture: &RgbImage, rows: std::ops::Range<u32>) -> usize {
        picture
            .enumerate_pixels()
            .filter(|(_, y, pixel)| rows.contains(y) && pixel.0[0] < 100)
            .count()
    }

    #[test]
    fn the_picture_stays_as_it_is_between_its_caption_and_its_legend() {
        let picture = RgbImage::from_pixel(400, 200, Rgb([201, 8, 9]));
        let caption = Caption {
            title: "290 jaguar 0.82".into(),
            note: "Gradient".into(),
        };
        let legend = Legend {
            title: "attribution to 290 jaguar".into(),
            bounds: None,
            options: Look::Signed.options(),
            ends: ["against", "for"],
            note: String::new(),
        };
        let whole = frame(
            picture.clone(),
            Some(&caption),
            std::slice::from_ref(&legend),
        )
        .unwrap();
        let top = whole
            .enumerate_pixels()
            .find(|(.., pixel)| pixel.0 == [201, 8, 9])
            .unwrap()
            .1;
        assert_eq!(
            imageops::crop_imm(&whole, 0, top, 400, 200).to_image(),
            picture
        );
        assert!(ink(&whole, 0..top) > 50 && ink(&whole, top + 200..whole.height()) > 50);
        assert_eq!(frame(picture.clone(), None, &[]).unwrap(), picture);
    }

    #[test]
    fn narrow_pictures_stand_in_the_middle_of_paper_that_text_fits_on() {
        let picture = RgbImage::from_pixel(20, 80, Rgb([201, 8, 9]));
        let caption = Caption {
            title: "a".repeat(30),
            note: String::new(),
        };
        let whole = frame(picture, Some(&caption), &[]).unwrap();
        assert_eq!(whole.width(), NARROWEST);
        let columns: Vec<u32> = whole
            .enumerate_pixels()
            .filter(|(.., pixel)| pixel.0 == [201, 8, 9])
            .map(|(x, ..)| x)
            .collect();
        assert_eq!(
            (columns.iter().min(), columns.iter().max()),
            (Some(&170), Some(&189))
        );
    }
}
