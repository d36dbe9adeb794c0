//! SVG onto pixels: captions, legends and charts. Text is DejaVu Sans, which the binary carries: the system's fonts play no part.

use std::{
    fmt::Write as _,
    sync::{Arc, LazyLock},
};

use ::image::{Rgb, RgbImage};
use resvg::{
    tiny_skia::{Pixmap, Transform},
    usvg::{Options, Tree, fontdb::Database},
};

use super::RenderError;

/// What `font-family` must say; the only one there is.
pub const FONT: &str = "DejaVu Sans";

static FONTS: LazyLock<Arc<Database>> = LazyLock::new(|| {
    let mut fonts = Database::new();
    fonts.load_font_data(dejavu::sans::regular().to_vec());
    fonts.load_font_data(dejavu::sans::bold().to_vec());
    Arc::new(fonts)
});

/// Paints a whole SVG document over `picture`, one of its units on each pixel.
pub fn paint(picture: &mut RgbImage, svg: &str) -> Result<(), RenderError> {
    let fault = |reason: String| RenderError::Svg { reason };
    let options = Options { font_family: FONT.to_owned(), fontdb: FONTS.clone(), ..Options::default() };
    let tree = Tree::from_str(svg, &options).map_err(|e| fault(e.to_string()))?;
    let (width, height) = picture.dimensions();
    let mut layer = Pixmap::new(width, height).ok_or_else(|| fault(format!("{width} x {height} pixels")))?;
    resvg::render(&tree, Transform::default(), &mut layer.as_mut());
    for (pixel, over) in picture.pixels_mut().zip(layer.pixels()) {
        // Colours of the layer are multiplied by its opacity already.
        let through = 255 - u32::from(over.alpha());
        let mix = |under: u8, over: u8| (u32::from(over) + (u32::from(under) * through + 127) / 255).min(255) as u8;
        let Rgb([r, g, b]) = *pixel;
        *pixel = Rgb([mix(r, over.red()), mix(g, over.green()), mix(b, over.blue())]);
    }
    Ok(())
}

/// Text as XML holds it.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // Control characters have no place in XML.
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Lines of text, to be painted together.
pub struct Captions {
    svg: String,
}

/// Where a text lies around its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

impl Captions {
    pub fn new((width, height): (u32, u32)) -> Self {
        let svg = format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="{FONT}" fill="black">"#
        );
        Self { svg }
    }

    /// Adds a line with its baseline at `(x, y)`; it shrinks where it would be wider than `room`.
    pub fn add(&mut self, (x, y): (u32, u32), room: u32, size: f32, anchor: Anchor, text: &str) {
        // An average letter is 0.6 of its size wide.
        let size = size.min(room as f32 / (0.6 * text.chars().count().max(1) as f32));
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        // Writing to a text cannot fail.
        let _ = write!(
            self.svg,
            r#"<text x="{x}" y="{y}" font-size="{size:.1}" text-anchor="{anchor}">{}</text>"#,
            escape(text)
        );
    }

    pub fn paint(mut self, picture: &mut RgbImage) -> Result<(), RenderError> {
        self.svg.push_str("</svg>");
        paint(picture, &self.svg)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dark(picture: &RgbImage, left: u32, right: u32) -> usize {
        picture.enumerate_pixels().filter(|(x, _, pixel)| (left..right).contains(x) && pixel.0[0] < 100).count()
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
    fn what_is_opaque_covers_and_what_is_not_mixes() {
        let mut picture = RgbImage::from_pixel(4, 1, Rgb([100; 3]));
        let svg = r#"<svg xmlns="http://www.w3.org/2000/svg" width="4" height="1"><rect width="1" height="1" fill="red"/>
            <rect x="2" width="1" height="1" fill="white" fill-opacity="0.5"/></svg>"#;
        paint(&mut picture, svg).unwrap();
        assert_eq!((picture.get_pixel(0, 0).0, picture.get_pixel(1, 0).0), ([255, 0, 0], [100; 3]));
        assert!(picture.get_pixel(2, 0).0.iter().all(|value| value.abs_diff(178) < 2));
        assert!(matches!(paint(&mut picture, "<svg"), Err(RenderError::Svg { .. })));
    }
}
