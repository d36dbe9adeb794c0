//! Text from clients and files: its encoding, and how much of it is repeated. Whatever a client
//! names in a request is truncated in answers and in logs.

use std::{
    borrow::Cow,
    fmt::{self, Display, Write},
};

use encoding_rs::{UTF_8, UTF_16BE, UTF_16LE};
use unicode_normalization::{UnicodeNormalization, is_nfc};

/// The error for a file sent by `curl -d @file`.
pub const LINE_BREAKS_STRIPPED: &str =
    "the file has lost its line breaks, as curl -d strips them; send it with --data-binary";

/// The most bytes of a client's text that are repeated in an answer or a log line.
pub const EXCERPT_BYTES: usize = 200;

/// `text`, or its first [`EXCERPT_BYTES`] bytes (cut at a character boundary) and `…`.
pub fn excerpt(text: &str) -> Cow<'_, str> {
    cut(text, EXCERPT_BYTES)
}

/// `text`, or its first `bytes` bytes (cut at a character boundary) and `…`.
pub fn cut(text: &str, bytes: usize) -> Cow<'_, str> {
    if text.len() <= bytes {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("{}…", &text[..text.floor_char_boundary(bytes)]))
}

/// `; did you mean gradient?`, by the known name that is most like an unknown one; nothing where none
/// is like it.
pub fn meant<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let fold = |name: &str| {
        let start = &name[..name.floor_char_boundary(EXCERPT_BYTES)];
        start.trim().to_lowercase().replace(['-', ' '], "_")
    };
    let wanted = fold(name);
    let likeness = |known: &str| strsim::jaro_winkler(&fold(known), &wanted);
    let likest = known
        .into_iter()
        .map(|known| (known, likeness(known)))
        .max_by(|(_, one), (_, other)| one.total_cmp(other));
    match likest {
        Some((known, likeness)) if likeness > 0.85 => format!("; did you mean {known}?"),
        _ => String::new(),
    }
}

/// The `Display` text of `value`, or its first [`EXCERPT_BYTES`] bytes and `…`; the rest is never
/// formatted.
pub fn shown(value: impl Display) -> String {
    let mut text = Bounded(String::new());
    match write!(text, "{value}") {
        Ok(()) => text.0,
        Err(_) => text.0 + "…",
    }
}

/// `text` as one shell word: quoted where it has to be.
pub fn quoted(word: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return Cow::Borrowed(word);
    }
    Cow::Owned(format!("'{}'", word.replace('\'', "'\\''")))
}

/// A writer that keeps the first [`EXCERPT_BYTES`] bytes.
struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let room = EXCERPT_BYTES - self.0.len();
        self.0.push_str(&part[..part.floor_char_boundary(room)]);
        if part.len() <= room {
            Ok(())
        } else {
            Err(fmt::Error)
        }
    }
}

/// Decodes UTF-8 or UTF-16 and drops the byte order mark. UTF-16 without a mark is recognised by
/// the zero byte of its first letter. The flag is false where the bytes are neither: invalid ones
/// are replaced.
pub fn decode(bytes: &[u8]) -> (Cow<'_, str>, bool) {
    let expected = match bytes {
        [0, second, ..] if *second != 0 => UTF_16BE,
        [first, 0, ..] if *first != 0 => UTF_16LE,
        _ => UTF_8,
    };
    let (text, _, is_broken) = expected.decode(bytes);
    (text, !is_broken)
}

/// The text in Unicode normalisation form NFC.
pub fn composed(text: &str) -> Cow<'_, str> {
    if is_nfc(text) {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(text.nfc().collect())
    }
}

/// Removes control characters, except line breaks and tabs, and the marks that change the direction
/// of text: a terminal or a viewer would obey them.
pub fn printable(text: &str) -> String {
    let obeyed = |c: char| {
        c.is_control() && !matches!(c, '\n' | '\t')
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars()
        .map(|c| if obeyed(c) { '\u{fffd}' } else { c })
        .collect()
}

/// A number of things: `1 image`, `2 images`.
pub fn counted(count: usize, thing: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_not_printed() {
        assert_eq!(
            printable("caf\u{e9}\u{1b}[31m\n\tab\u{202e}c"),
            "caf\u{e9}\u{fffd}[31m\n\tab\u{fffd}c"
        );
    }

    #[test]
    fn files_are_read_with_and_without_a_mark_and_broken_bytes_are_told() {
        let utf16 = |text: &str| {
            text.encode_utf16()
                .flat_map(u16::to_le_bytes)
                .collect::<Vec<u8>>()
        };
        for bytes in [
            "né".into(),
            "\u{feff}né".as_bytes().to_vec(),
            utf16("né"),
            utf16("\u{feff}né"),
        ] {
            assert_eq!(decode(&bytes), ("né".into(), true), "{bytes:?}");
        }
        assert_eq!(decode(b"n\xe9"), ("n\u{fffd}".into(), false));
        assert_eq!(decode(b""), ("".into(), true));
    }

    #[test]
    fn short_texts_stay_and_long_ones_are_cut_between_characters() {
        assert_eq!(excerpt("caf\u{e9}"), "café");
        assert_eq!(cut("café au lait", 5), "café…");
        assert_eq!(cut("café au lait", 4), "caf…");
        assert_eq!(
            excerpt(&"x".repeat(1 << 20)).len(),
            EXCERPT_BYTES + '…'.len_utf8()
        );
    }

    #[test]
    fn the_likest_name_is_asked_about() {
        let known = ["gradient", "integrated_gradients", "pgig", "edges"];
        for (name, expected) in [
            ("gradeint", "; did you mean gradient?"),
            (
                "Integrated-Gradients",
                "; did you mean integrated_gradients?",
            ),
            (
                "intgrated gradients",
                "; did you mean integrated_gradients?",
            ),
            ("lime", ""),
            ("", ""),
        ] {
            assert_eq!(meant(name, known), expected, "{name}");
        }
        assert_eq!(meant("gradient", []), "");
        assert_eq!(meant(&"é".repeat(1 << 20), known), "");
    }

    #[test]
    fn words_of_a_command_are_quoted_where_a_shell_needs_it() {
        for (word, expected) in [
            ("mine-1.0", "mine-1.0"),
            ("my net", "'my net'"),
            ("it's", r"'it'\''s'"),
            ("", "''"),
        ] {
            assert_eq!(quoted(word), expected);
        }
    }

    #[test]
    fn values_are_written_no_further_than_they_are_shown() {
        struct Endless;
        impl Display for Endless {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                loop {
                    f.write_str("never ")?;
                }
            }
        }
        assert_eq!(shown(Endless).len(), EXCERPT_BYTES + '…'.len_utf8());
        assert_eq!(shown(7), "7");
    }
}
