//! What the colours of a heat map mean: a bar from the weakest to the strongest attribution, below the picture.

use ::image::{Rgb, RgbImage, imageops};

use super::{
    RenderError,
    color::Palette,
    options::{HeatmapOptions, OverlayType, Polarity},
    plane::Bounds,
    svg::{Anchor, Captions},
};

const PAPER: Rgb<u8> = Rgb([255; 3]);

/// The picture with a colour bar below it, labelled with the attributions at its ends; with words where
/// these differ from map to map.
pub fn with_legend(
    picture: &RgbImage,
    bounds: Option<Bounds>,
    options: &HeatmapOptions,
) -> Result<RgbImage, RenderError> {
    let (width, height) = picture.dimensions();
    let size = text_size(width);
    let strip = (size * 3.2) as u32;
    let mut whole = RgbImage::from_pixel(width, height + strip, PAPER);
    imageops::replace(&mut whole, picture, 0, 0);
    let ends = match bounds {
        Some(Bounds { lower, upper }) => match options.polarity {
            Polarity::Positive => [number(lower), String::new(), number(upper)],
            Polarity::Negative => [number(-upper), String::new(), number(-lower)],
            Polarity::Both => [number(-upper), "0".into(), number(upper)],
        },
        None => match options.polarity {
            Polarity::Positive => ["weak", "", "strong"],
            Polarity::Negative => ["strong", "", "weak"],
            Polarity::Both => ["against", "0", "for"],
        }
        .map(str::to_owned),
    };
    bar(&mut whole, (width / 20, height + size as u32 / 2), width - width / 10, size as u32, options);
    let mut captions = Captions::new(whole.dimensions());
    let baseline = height + (size * 2.7) as u32;
    let anchors = [(width / 20, Anchor::Start), (width / 2, Anchor::Middle), (width - width / 20, Anchor::End)];
    for (text, (x, anchor)) in ends.iter().zip(anchors) {
        captions.add((x, baseline), width / 3, size, anchor, text);
    }
    captions.paint(&mut whole)?;
    Ok(whole)
}

/// A size that can be read at the picture's width, in pixels.
pub(super) fn text_size(width: u32) -> f32 {
    (width as f32 / 28.0).clamp(10.0, 28.0)
}

/// Every strength that `options` can show, from left to right, as it looks over mid-grey (over black without an upload).
fn bar(picture: &mut RgbImage, (left, top): (u32, u32), width: u32, height: u32, options: &HeatmapOptions) {
    let palette = Palette::new(options.color_map, options.overlay_type, options.alpha);
    let under = match options.overlay_type {
        OverlayType::None => [0; 3],
        OverlayType::MaskBlack => [255; 3],
        OverlayType::Original | OverlayType::Grayscale => [128; 3],
    };
    let (from, to) = match options.polarity {
        Polarity::Positive => (0.0, 1.0),
        Polarity::Negative => (-1.0, 0.0),
        Polarity::Both => (-1.0, 1.0),
    };
    for column in 0..width {
        let strength = from + (to - from) * column as f32 / width.saturating_sub(1).max(1) as f32;
        let color = Rgb(palette.paint(strength).over(under));
        for row in 0..height {
            picture.put_pixel(left + column, top + row, color);
        }
    }
}

/// Three digits.
fn number(value: f32) -> String {
    match value.abs() {
        0.0 => "0".into(),
        magnitude if (1e-3..1e4).contains(&magnitude) => {
            let decimals = (2 - magnitude.log10().floor() as i32).max(0) as usize;
            format!("{value:.decimals$}")
        }
        _ => format!("{value:.2e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::options::ColorMap;

    #[test]
    fn the_picture_stays_and_the_bar_runs_through_the_colours() {
        let picture = RgbImage::from_pixel(300, 200, Rgb([7, 8, 9]));
        let options = HeatmapOptions {
            polarity: Polarity::Both,
            color_map: ColorMap::RedGreen,
            overlay_type: OverlayType::None,
            ..Default::default()
        };
        let bounds = Some(Bounds { lower: 0.0, upper: 0.0123 });
        let drawn = with_legend(&picture, bounds, &options).unwrap();
        assert!(drawn.width() == 300 && drawn.height() > 220);
        assert_eq!(imageops::crop_imm(&drawn, 0, 0, 300, 200).to_image(), picture);
        let [left, middle, right] = [16, 150, 283].map(|x| drawn.get_pixel(x, 209).0);
        assert!(left[0] > 150 && left[1] < 60, "{left:?}");
        assert!(middle.iter().all(|value| *value < 10), "{middle:?}");
        assert!(right[1] > 150 && right[0] < 60, "{right:?}");
        let ink = |from: u32, to: u32| {
            let dark = |(x, y, p): &(u32, u32, &Rgb<u8>)| (from..to).contains(x) && *y > 221 && p.0[0] < 128;
            drawn.enumerate_pixels().filter(dark).count()
        };
        assert!(ink(0, 100) > 10 && ink(140, 160) > 3 && ink(200, 300) > 10, "the ends and the middle are labelled");
    }

    #[test]
    fn numbers_have_three_digits() {
        let texts = [0.0, 0.01234, -1.5, 12.345, 5678.0, 1e-5, -2.5e7].map(number);
        assert_eq!(texts, ["0", "0.0123", "-1.50", "12.3", "5678", "1.00e-5", "-2.50e7"]);
    }
}
