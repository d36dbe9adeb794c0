//! Texts of others in our sentences: whatever a client names in a request comes back cut, in answers and in logs.

use std::borrow::Cow;

/// The most bytes of a client's text that are repeated.
pub const EXCERPT_BYTES: usize = 200;

/// `text` whole, or its first [`EXCERPT_BYTES`] bytes (to the character) and `…`.
pub fn excerpt(text: &str) -> Cow<'_, str> {
    cut(text, EXCERPT_BYTES)
}

/// `text` whole, or at most its first `bytes` bytes (to the character) and `…`.
pub fn cut(text: &str, bytes: usize) -> Cow<'_, str> {
    if text.len() <= bytes {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("{}…", &text[..text.floor_char_boundary(bytes)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_texts_stay_and_long_ones_are_cut_between_characters() {
        assert_eq!(excerpt("caf\u{e9}"), "café");
        assert_eq!(cut("café au lait", 5), "café…");
        assert_eq!(cut("café au lait", 4), "caf…");
        assert_eq!(excerpt(&"x".repeat(1 << 20)).len(), EXCERPT_BYTES + '…'.len_utf8());
    }
}
