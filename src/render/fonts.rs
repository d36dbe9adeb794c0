//! The fonts in the binary: DejaVu Sans (Latin, Greek, Cyrillic, Hebrew, Arabic, Armenian,
//! Georgian), WenQuanYi Micro Hei (Chinese, Japanese, Korean), and Noto Sans for the scripts of
//! South and South-East Asia and Ethiopia. System fonts are not used. fonts/LICENSE says where they
//! come from.

use std::sync::{Arc, LazyLock};

use resvg::usvg::{
    FontResolver, Options,
    fontdb::{Database, Source},
};
use skrifa::{FontRef, MetadataProvider, charmap::Charmap};
use unicode_normalization::UnicodeNormalization;

/// The default `font-family`.
pub const FONT: &str = "DejaVu Sans";

/// Drawn for a character that no font has.
const UNKNOWN: char = '\u{fffd}';

macro_rules! noto {
    ($($script:literal),+) => {
        [$((
            concat!("Noto Sans ", $script),
            include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/fonts/NotoSans", $script, "-Regular.ttf")).as_slice(),
        )),+]
    };
}

/// Families and files, in the order in which they are searched for a character.
static FILES: LazyLock<Vec<(&str, &[u8])>> = LazyLock::new(|| {
    let cjk = include_bytes!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/fonts/wqy-microhei.ttc"
    ))
    .as_slice();
    let noto = noto![
        "Thai",
        "Lao",
        "Khmer",
        "Myanmar",
        "Devanagari",
        "Bengali",
        "Gurmukhi",
        "Gujarati",
        "Tamil",
        "Telugu",
        "Kannada",
        "Malayalam",
        "Sinhala",
        "Ethiopic"
    ];
    [
        (FONT, dejavu::sans::regular()),
        ("WenQuanYi Micro Hei", cjk),
    ]
    .into_iter()
    .chain(noto)
    .collect()
});

static CHARMAPS: LazyLock<Vec<(&str, Charmap<'static>)>> = LazyLock::new(|| {
    let read = |&(family, bytes): &(&'static str, &'static [u8])| {
        Some((family, FontRef::from_index(bytes, 0).ok()?.charmap()))
    };
    FILES.iter().filter_map(read).collect()
});

static DATABASE: LazyLock<Arc<Database>> = LazyLock::new(|| {
    let mut fonts = Database::new();
    for bytes in FILES
        .iter()
        .map(|(_, bytes)| *bytes)
        .chain([dejavu::sans::bold()])
    {
        fonts.load_font_source(Source::Binary(Arc::new(bytes)));
    }
    Arc::new(fonts)
});

/// Options for reading SVG, with these fonts.
pub fn options() -> Options<'static> {
    Options {
        font_family: FONT.to_owned(),
        fontdb: DATABASE.clone(),
        font_resolver: FontResolver {
            select_font: FontResolver::default_font_selector(),
            // As the default, without a log line for each text.
            select_fallback: Box::new(|c, used, fonts| {
                let (family, _) = CHARMAPS.iter().find(|(family, charmap)| {
                    let is_used = |face: &_| {
                        fonts
                            .face(*face)
                            .is_some_and(|face| face.families.iter().any(|f| f.0 == *family))
                    };
                    charmap.map(c).is_some() && !used.iter().any(is_used)
                })?;
                fonts
                    .faces()
                    .find(|face| face.families.iter().any(|f| f.0 == *family))
                    .map(|face| face.id)
            }),
        },
        ..Options::default()
    }
}

/// `text` in runs of one font each: a run goes on while its font has the character, else the first
/// font that has it starts a new run.
pub fn runs(text: &str) -> Vec<(&'static str, String)> {
    let mut runs: Vec<(&'static str, String)> = Vec::new();
    for c in text.nfc() {
        let mut maps = CHARMAPS.iter();
        let has = |family: &str| {
            maps.clone()
                .any(|(other, charmap)| *other == family && charmap.map(c).is_some())
        };
        let latest = runs.last().map_or(FONT, |(family, _)| *family);
        let (family, c) = match has(latest) || is_unseen(c) {
            true => (latest, c),
            false => maps
                .find(|(_, charmap)| charmap.map(c).is_some())
                .map_or((FONT, UNKNOWN), |(family, _)| (*family, c)),
        };
        match runs.last_mut().filter(|(other, _)| *other == family) {
            Some((_, run)) => run.push(c),
            None => runs.push((family, c.into())),
        }
    }
    runs
}

/// Joiners, direction marks, variation selectors: they change their neighbours and need no glyph.
fn is_unseen(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{2064}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_keeps_its_font_until_a_character_is_not_in_it() {
        let found = runs("285 東京 cat, แมว\u{1f984}!");
        let expected = [
            (FONT, "285 "),
            ("WenQuanYi Micro Hei", "東京 cat, "),
            ("Noto Sans Thai", "แมว"),
            (FONT, "\u{fffd}!"),
        ];
        assert_eq!(
            found,
            expected.map(|(family, run)| (family, run.to_owned()))
        );
        assert_eq!(runs("cafe\u{301}"), [(FONT, "café".to_owned())]);
        assert!(runs("").is_empty());
    }

    #[test]
    fn every_font_is_read_and_is_what_it_is_called() {
        let fonts = &DATABASE;
        for (family, _) in FILES.iter() {
            assert!(
                fonts
                    .faces()
                    .any(|face| face.families.iter().any(|f| f.0 == *family)),
                "{family}"
            );
        }
        assert_eq!(CHARMAPS.len(), FILES.len());
    }
}
