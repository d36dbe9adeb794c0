//! Rasterises SVG: captions, legends and charts.

use std::fmt::Write as _;

use image::{Rgb, RgbImage};
use resvg::{
    tiny_skia::{Pixmap, Transform},
    usvg::{Node, Tree},
};

use super::{
    RenderError,
    fonts::{self, runs},
};
use crate::text::{excerpt, printable};

/// Paints an SVG document over `picture`, one unit per pixel.
pub fn paint(picture: &mut RgbImage, svg: &str) -> Result<(), RenderError> {
    let fault = |reason: String| RenderError::Svg { reason };
    let tree = Tree::from_str(svg, &fonts::options()).map_err(|e| fault(e.to_string()))?;
    let (width, height) = picture.dimensions();
    let mut layer =
        Pixmap::new(width, height).ok_or_else(|| fault(format!("{width} x {height} pixels")))?;
    resvg::render(&tree, Transform::default(), &mut layer.as_mut());
    for (pixel, over) in picture.pixels_mut().zip(layer.pixels()) {
        // The layer's colours are premultiplied by alpha.
        let through = 255 - u32::from(over.alpha());
        let mix = |under: u8, over: u8| {
            (u32::from(over) + (u32::from(under) * through + 127) / 255).min(255) as u8
        };
        let Rgb([r, g, b]) = *pixel;
        *pixel = Rgb([
            mix(r, over.red()),
            mix(g, over.green()),
            mix(b, over.blue()),
        ]);
    }
    Ok(())
}

/// Escapes text for XML.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // XML does not allow control characters.
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

/// How far text may shrink before it is cut.
const SMALLEST: f32 = 0.8;
const CUT: char = '…';

/// Lines of text that are painted together.
pub struct Captions {
    svg: String,
}

/// Where a text lies relative to its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

impl Captions {
    pub fn new((width, height): (u32, u32)) -> Self {
        let svg = format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" fill="black" xml:space="preserve">"#
        );
        Self { svg }
    }

    /// Adds a line with its baseline at `(x, y)`. Text wider than `room` is cut at its end.
    pub fn add(&mut self, (x, y): (u32, u32), room: u32, size: f32, anchor: Anchor, text: &str) {
        let line = cut(Line::new(&printable(&excerpt(text))), room as f32 / size);
        let mut left = x as f32
            - match anchor {
                Anchor::Start => 0.0,
                Anchor::Middle => size * line.width / 2.0,
                Anchor::End => size * line.width,
            };
        // One text element per run: in an element with several fonts, text would be shaped as if
        // each font had every glyph.
        for (family, width, run) in line.runs {
            // Writing to a `String` cannot fail.
            let _ = write!(
                self.svg,
                r#"<text x="{left:.2}" y="{y}" font-size="{size:.2}" font-family="{family}">{}</text>"#,
                escape(&run)
            );
            left += size * width;
        }
    }

    pub fn paint(mut self, picture: &mut RgbImage) -> Result<(), RenderError> {
        self.svg.push_str("</svg>");
        paint(picture, &self.svg)
    }
}

/// The largest text size up to `size` at which all texts fit into `room`, at least the smallest
/// readable size, at which longer texts are cut.
pub fn common_size<'a>(texts: impl IntoIterator<Item = &'a str>, room: u32, size: f32) -> f32 {
    let widest = texts
        .into_iter()
        .map(|text| Line::new(&printable(&excerpt(text))).width)
        .fold(f32::EPSILON, f32::max);
    size.min(room as f32 / widest).max(SMALLEST * size)
}

/// The lines that a text takes of this width, broken at spaces; a longer word stands on its own.
pub fn wrap(text: &str, room: u32, size: f32) -> Vec<String> {
    let width = |text: &str| Line::new(&printable(text)).width;
    let room = room as f32 / size;
    if text.is_empty() || width(text) <= room {
        return Vec::from_iter(Some(text.to_owned()).filter(|text| !text.is_empty()));
    }
    let space = width("a a") - width("aa");
    let (mut lines, mut used) = (Vec::<String>::new(), 0.0);
    for word in text.split_whitespace() {
        let own = width(word);
        match lines.last_mut().filter(|_| used + space + own <= room) {
            Some(line) => {
                *line = format!("{line} {word}");
                used += space + own;
            }
            None => {
                lines.push(word.to_owned());
                used = own;
            }
        }
    }
    lines
}

/// A text in runs of one font each, with their widths in units of the text size.
struct Line {
    text: String,
    runs: Vec<(&'static str, f32, String)>,
    width: f32,
}

impl Line {
    fn new(text: &str) -> Self {
        let runs = runs(text)
            .into_iter()
            .map(|(family, run)| (family, width(family, &run), run));
        let runs: Vec<_> = runs.collect();
        Self {
            text: text.to_owned(),
            width: runs.iter().map(|(_, width, _)| width).sum(),
            runs,
        }
    }
}

/// The line, or its beginning that is no wider than `room`, in units of the text size.
fn cut(mut line: Line, room: f32) -> Line {
    while line.width > room * 1.001 {
        let count = line.text.trim_end_matches(CUT).chars().count();
        // Estimated from the mean character width; repeated while it is too wide.
        let kept = ((count as f32 * room / line.width) as usize).min(count.saturating_sub(1));
        if kept == 0 {
            break;
        }
        let start: String = line.text.chars().take(kept).collect();
        line = Line::new(&format!("{}{CUT}", start.trim_end()));
    }
    line
}

/// The width of a text in one font, in units of its size.
fn width(family: &str, text: &str) -> f32 {
    const SIZE: f32 = 100.0;
    let svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1" xml:space="preserve"><text font-size="{SIZE}" font-family="{family}">{}</text></svg>"#,
        escape(text)
    );
    let tree = Tree::from_str(&svg, &fonts::options()).ok();
    let width = tree.and_then(|tree| match tree.root().children() {
        [Node::Text(text)] => Some(text.bounding_box().width()),
        _ => None,
    });
    // Text of blanks has no bounding box.
    width.map_or(0.0, |width| width / SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dark(picture: &RgbImage, left: u32, right: u32) -> usize {
        picture
            .enumerate_pixels()
            .filter(|(x, _, pixel)| (left..right).contains(x) && pixel.0[0] < 100)
            .count()
    }

    #[test]
    fn text_lies_where_its_anchor_says_and_within_its_room() {
        let mut picture = RgbImage::from_pixel(300, 40, Rgb([255; 3]));
        let mut captions = Captions::new(picture.dimensions());
        captions.add((0, 30), 100, 20.0, Anchor::Start, "Gradient & <x> \"it\"");
        captions.add((300, 30), 50, 20.0, Anchor::End, "IG");
        captions.paint(&mut picture).unwrap();
        assert!(dark(&picture, 0, 60) > 20, "nothing written");
        assert_eq!(dark(&picture, 115, 240), 0, "wider than its room");
        assert!(dark(&picture, 270, 300) > 20, "nothing at the end");
    }

    #[test]
    fn a_text_is_wrapped_between_its_words() {
        let text = "Gradient, Guided Backprop, Integrated Gradients, Grad-CAM";
        let room = |of: &str| (Line::new(of).width * 20.0).ceil() as u32;
        assert_eq!(wrap(text, room(text), 20.0), [text]);
        let lines = wrap(text, room("Integrated Gradients,"), 20.0);
        assert_eq!(
            lines,
            [
                "Gradient, Guided",
                "Backprop, Integrated",
                "Gradients, Grad-CAM"
            ]
        );
        assert_eq!(
            wrap("Backpropagation of it", 10, 20.0),
            ["Backpropagation", "of", "it"]
        );
        assert!(wrap("", 100, 20.0).is_empty());
    }

    #[test]
    fn texts_that_fit_at_one_size_share_it_and_longer_ones_are_cut() {
        let room = |text: &str| Line::new(text).width;
        let long = "Guided Backpropagation";
        assert_eq!(common_size(["IG", "XRAI"], 1000, 18.0), 18.0);
        let shared = common_size(["IG", long], (16.0 * room(long)) as u32, 18.0);
        assert!((15.5..=16.0).contains(&shared), "{shared}");
        assert_eq!(common_size([long], 20, 20.0), SMALLEST * 20.0);
        let short = cut(Line::new(long), 0.5 * room(long));
        assert!(
            short.text.starts_with("Guided B")
                && short.text.ends_with(CUT)
                && short.width <= 0.51 * room(long)
        );
        assert_eq!(cut(Line::new(long), room(long)).text, long);
    }

    #[test]
    fn what_is_opaque_covers_and_what_is_not_mixes() {
        let mut picture = RgbImage::from_pixel(4, 1, Rgb([100; 3]));
        let svg = r#"<svg xmlns="http://www.w3.org/2000/svg" width="4" height="1"><rect width="1" height="1" fill="red"/>
            <rect x="2" width="1" height="1" fill="white" fill-opacity="0.5"/></svg>"#;
        paint(&mut picture, svg).unwrap();
        assert_eq!(
            (picture.get_pixel(0, 0).0, picture.get_pixel(1, 0).0),
            ([255, 0, 0], [100; 3])
        );
        assert!(
            picture
                .get_pixel(2, 0)
                .0
                .iter()
                .all(|value| value.abs_diff(178) < 2)
        );
        assert!(matches!(
            paint(&mut picture, "<svg"),
            Err(RenderError::Svg { .. })
        ));
    }
    #[test]
    fn widths_are_those_of_the_glyphs_and_blanks_count() {
        // In 2048ths, of DejaVu Sans: its digits 1303, its blank 651.
        let digits = width(fonts::FONT, "285");
        assert!((digits - 3.0 * 1303.0 / 2048.0).abs() < 0.01, "{digits}");
        assert!((width(fonts::FONT, "285 ") - digits - 651.0 / 2048.0).abs() < 0.01);
        assert!((width("WenQuanYi Micro Hei", "東京") - 2.0).abs() < 0.1);
    }

    /// Every text is written, and nothing of it as a box.
    fn check_glyphs(tree: &Tree, label: &str) {
        for node in tree.root().children() {
            let Node::Text(text) = node else {
                panic!("{label}: no text")
            };
            let glyphs = text
                .layouted()
                .iter()
                .flat_map(|span| &span.positioned_glyphs);
            assert!(
                glyphs.clone().count() > 0 && glyphs.clone().all(|glyph| glyph.id.0 != 0),
                "{label}"
            );
            assert!(
                glyphs.clone().all(|glyph| !glyph.text.contains('\u{fffd}')),
                "{label}"
            );
        }
    }

    #[test]
    fn charts_find_in_another_font_what_theirs_does_not_have() {
        for title in ["Image degradation of 猫 on two", "고양이", "แมว"] {
            let svg = format!(
                r#"<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><text font-family="{}">{title}</text></svg>"#,
                fonts::FONT
            );
            check_glyphs(&Tree::from_str(&svg, &fonts::options()).unwrap(), title);
        }
    }

    #[test]
    fn labels_in_many_scripts_have_glyphs() {
        for label in [
            "cat",
            "café",
            "γάτα",
            "кошка",
            "חתול",
            "قطة",
            "猫",
            "犬",
            "东京",
            "ねこ",
            "ネコ",
            "고양이",
            "แมว",
            "ນໍ້າ",
            "ឆ្មា",
            "ကြောင်",
            "बिल्ली",
            "বিড়াল",
            "બિલાડી",
            "சூனை",
            "పిల్లి",
            "ಬೆಕ್ಕು",
            "പൂച്ച",
            "පූසා",
            "ድመት",
            "կատու",
            "კატა",
            "mèo đỏ",
        ] {
            let mut captions = Captions::new((400, 60));
            captions.add(
                (200, 40),
                400,
                20.0,
                Anchor::Middle,
                &format!("285 {label} (9)"),
            );
            let tree =
                Tree::from_str(&format!("{}</svg>", captions.svg), &fonts::options()).unwrap();
            check_glyphs(&tree, label);
        }
    }
}
