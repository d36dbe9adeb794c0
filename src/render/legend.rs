//! The legend of a heat map: a titled bar from the weakest to the strongest attribution.

use image::{Rgb, RgbImage};

use super::{
    RenderError,
    color::{PAPER, Palette},
    options::{HeatmapOptions, OverlayType, Polarity},
    plane::Bounds,
    svg::{Anchor, Captions, common_size, wrap},
};

/// The least width of a column, in units of the text's size, so that titles fit.
const COLUMN: f32 = 18.0;
/// The size of notes and the distance of their lines, in the same units.
const NOTE: f32 = 0.8;
const NOTE_PITCH: f32 = 1.1;

/// A colour bar with its title.
#[derive(Clone, Debug)]
pub struct Legend {
    pub title: String,
    /// The attributions at the ends of the bar; none where they differ from map to map.
    pub bounds: Option<Bounds>,
    pub options: HeatmapOptions,
    /// The labels of the negative and the positive end.
    pub ends: [&'static str; 2],
    /// Lines below; may be empty.
    pub note: String,
}

impl Legend {
    /// Legends on a white strip of this width, side by side where they fit.
    pub(super) fn strip(
        legends: &[Legend],
        width: u32,
        size: f32,
    ) -> Result<RgbImage, RenderError> {
        let columns = ((width as f32 / (COLUMN * size)) as usize).clamp(1, legends.len().max(1));
        let pitch_x = width / columns as u32;
        let margin = (size as u32).min(pitch_x / 8);
        let bar = pitch_x - 2 * margin;
        let notes: Vec<_> = legends
            .iter()
            .map(|legend| wrap(&legend.note, bar, size * NOTE))
            .collect();
        let lines = notes.iter().map(Vec::len).max().unwrap_or(0);
        let pitch_y = (size * (4.0 + NOTE_PITCH * lines as f32)) as u32;
        let rows = legends.len().div_ceil(columns) as u32;
        let mut strip = RgbImage::from_pixel(width, rows * pitch_y, PAPER);
        let mut captions = Captions::new(strip.dimensions());
        for (place, (legend, note)) in legends.iter().zip(notes).enumerate() {
            let (column, row) = ((place % columns) as u32, (place / columns) as u32);
            let left = column * pitch_x + margin;
            let line = |at: f32| row * pitch_y + (size * at) as u32;
            let middle = left + bar / 2;
            let title_size = common_size([legend.title.as_str()], bar, size);
            captions.add(
                (middle, line(1.2)),
                bar,
                title_size,
                Anchor::Middle,
                &legend.title,
            );
            legend.paint_bar(&mut strip, (left, line(1.6)), (bar, size as u32));
            let (ends, room) = (legend.scale(), bar * 2 / 5);
            let ends_size = common_size(ends.iter().map(String::as_str), room, size);
            let anchors = [
                (left, Anchor::Start),
                (middle, Anchor::Middle),
                (left + bar, Anchor::End),
            ];
            for (text, (x, anchor)) in ends.iter().zip(anchors) {
                captions.add((x, line(3.6)), room, ends_size, anchor, text);
            }
            for (number, text) in note.iter().enumerate() {
                let note_size = common_size([text.as_str()], bar, size * NOTE);
                let baseline = line(4.8 + NOTE_PITCH * number as f32);
                captions.add((middle, baseline), bar, note_size, Anchor::Middle, text);
            }
        }
        captions.paint(&mut strip)?;
        Ok(strip)
    }

    /// The labels below the bar: left, middle and right.
    fn scale(&self) -> [String; 3] {
        let [negative, positive] = self.ends;
        match (self.bounds, self.options.polarity) {
            (Some(Bounds { lower, upper }), Polarity::Positive) => {
                [number(lower), String::new(), number(upper)]
            }
            (Some(Bounds { lower, upper }), Polarity::Negative) => {
                [number(-upper), String::new(), number(-lower)]
            }
            (Some(Bounds { upper, .. }), Polarity::Both) => [
                format!("{negative} {}", number(-upper)),
                "0".into(),
                format!("{positive} {}", number(upper)),
            ],
            (None, Polarity::Positive) => ["weak", "", "strong"].map(str::to_owned),
            (None, Polarity::Negative) => ["strong", "", "weak"].map(str::to_owned),
            (None, Polarity::Both) => [negative, "0", positive].map(str::to_owned),
        }
    }

    /// Paints the colours of all strengths from left to right, as they look over a plain upload; a
    /// mask over a chequered one, which shows through where a photo would.
    fn paint_bar(
        &self,
        picture: &mut RgbImage,
        (left, top): (u32, u32),
        (width, height): (u32, u32),
    ) {
        let palette = Palette::new(&self.options);
        let square = (height / 4).max(1);
        let under = |column: u32, row: u32| match self.options.overlay_type {
            OverlayType::None => [0; 3],
            OverlayType::MaskBlack if (column / square + row / square).is_multiple_of(2) => {
                [255; 3]
            }
            OverlayType::MaskBlack => [170; 3],
            OverlayType::Original | OverlayType::Grayscale => [128; 3],
            OverlayType::Faded => [230; 3],
        };
        let (from, to) = match self.options.polarity {
            Polarity::Positive => (0.0, 1.0),
            Polarity::Negative => (-1.0, 0.0),
            Polarity::Both => (-1.0, 1.0),
        };
        for column in 0..width {
            let strength =
                from + (to - from) * column as f32 / width.saturating_sub(1).max(1) as f32;
            let paint = palette.paint(strength);
            for row in 0..height {
                let color = Rgb(paint.over(under(column, row)));
                picture.put_pixel(left + column, top + row, color);
            }
        }
    }
}

/// Three significant digits.
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
    use crate::render::options::{ColorMap, Look};

    fn legend(polarity: Polarity, bounds: Option<Bounds>) -> Legend {
        let options = HeatmapOptions {
            polarity,
            color_map: ColorMap::RedGreen,
            overlay_type: OverlayType::None,
            ..Look::Signed.options()
        };
        Legend {
            title: "attribution to 290 jaguar".into(),
            bounds,
            options,
            ends: ["against", "for"],
            note: "the frame".into(),
        }
    }

    #[test]
    fn a_bar_runs_through_the_colours_between_its_title_and_its_ends() {
        let bounds = Some(Bounds {
            lower: 0.0,
            upper: 0.0123,
        });
        let drawn = Legend::strip(&[legend(Polarity::Both, bounds)], 300, 10.0).unwrap();
        assert_eq!(drawn.width(), 300);
        let [left, middle, right] = [12, 150, 287].map(|x| drawn.get_pixel(x, 20).0);
        assert!(left[0] > 150 && left[1] < 60, "{left:?}");
        assert!(middle.iter().all(|value| *value < 10), "{middle:?}");
        assert!(right[1] > 150 && right[0] < 60, "{right:?}");
        let ink = |columns: std::ops::Range<u32>, rows: std::ops::Range<u32>| {
            let dark = |(x, y, p): &(u32, u32, &Rgb<u8>)| {
                columns.contains(x) && rows.contains(y) && p.0[0] < 128
            };
            drawn.enumerate_pixels().filter(dark).count()
        };
        assert!(ink(0..300, 0..15) > 50, "a title");
        assert!(
            ink(0..100, 28..38) > 10 && ink(140..160, 28..38) > 3 && ink(200..300, 28..38) > 10,
            "its ends"
        );
        assert!(ink(0..300, 40..51) > 10, "a note");
    }

    #[test]
    fn a_mask_is_black_where_it_is_weak_and_shows_squares_where_it_is_strong() {
        let mut masked = legend(Polarity::Positive, None);
        masked.options.overlay_type = OverlayType::MaskBlack;
        let drawn = Legend::strip(&[masked], 300, 12.0).unwrap();
        let bar = |column: u32| {
            (19..31)
                .map(|row| drawn.get_pixel(column, row).0[0])
                .collect::<Vec<u8>>()
        };
        assert_eq!(bar(12), [0; 12]);
        let strong = bar(287);
        assert!(strong.contains(&255) && strong.contains(&170), "{strong:?}");
    }

    #[test]
    fn ends_are_numbers_or_words() {
        let bounds = Some(Bounds {
            lower: 0.001,
            upper: 0.0123,
        });
        for (polarity, numbers, words) in [
            (
                Polarity::Positive,
                ["0.00100", "", "0.0123"],
                ["weak", "", "strong"],
            ),
            (
                Polarity::Negative,
                ["-0.0123", "", "-0.00100"],
                ["strong", "", "weak"],
            ),
            (
                Polarity::Both,
                ["against -0.0123", "0", "for 0.0123"],
                ["against", "0", "for"],
            ),
        ] {
            assert_eq!(legend(polarity, bounds).scale(), numbers);
            assert_eq!(legend(polarity, None).scale(), words);
        }
    }

    #[test]
    fn several_stand_side_by_side_where_there_is_room() {
        let two = [
            legend(Polarity::Both, None),
            legend(Polarity::Positive, None),
        ];
        let (wide, narrow) = (
            Legend::strip(&two, 900, 14.0).unwrap(),
            Legend::strip(&two, 400, 14.0).unwrap(),
        );
        assert_eq!(
            (wide.width(), narrow.width(), narrow.height()),
            (900, 400, 2 * wide.height())
        );
    }

    #[test]
    fn a_long_note_takes_as_many_lines_as_it_needs() {
        let of = |note: &str| {
            let mut legend = legend(Polarity::Both, None);
            legend.note = note.to_owned();
            Legend::strip(&[legend], 300, 10.0).unwrap()
        };
        let (none, one) = (of("").height(), of("Gradient").height());
        let names = ["Integrated Gradients"; 12].join(", ");
        let lines = wrap(&names, 280, 8.0).len() as u32;
        assert!(lines > 3, "{lines}");
        let drawn = of(&names);
        assert!(drawn.height() + lines >= none + lines * (one - none));
        let ink = |(_, y, p): &(u32, u32, &Rgb<u8>)| y + 12 > drawn.height() && p.0[0] < 128;
        assert!(
            drawn.enumerate_pixels().filter(ink).count() > 10,
            "the last line"
        );
    }

    #[test]
    fn numbers_have_three_digits() {
        let texts = [0.0, 0.01234, -1.5, 12.345, 5678.0, 1e-5, -2.5e7].map(number);
        assert_eq!(
            texts,
            ["0", "0.0123", "-1.50", "12.3", "5678", "1.00e-5", "-2.50e7"]
        );
    }
}
