//! The image types that are decoded, and signatures of others, so that an error names what was
//! sent. This is the only list: content types, file extensions and names everywhere come from it.

use crate::text::LINE_BREAKS_STRIPPED;

/// A type of image that is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Png,
    Jpeg,
    WebP,
    Bmp,
    Gif,
    Tiff,
}

#[derive(Debug)]
pub struct ImageType {
    pub format: Format,
    pub name: &'static str,
    pub content_type: &'static str,
    /// File extensions, in lower case.
    pub extensions: &'static [&'static str],
    /// The magic bytes that its files start with.
    signatures: &'static [&'static [u8]],
}

pub static TYPES: [ImageType; 6] = [
    ImageType {
        format: Format::Png,
        name: "PNG",
        content_type: "image/png",
        extensions: &["png", "apng"],
        signatures: &[b"\x89PNG\r\n\x1a\n"],
    },
    ImageType {
        format: Format::Jpeg,
        name: "JPEG",
        content_type: "image/jpeg",
        extensions: &["jpg", "jpeg", "jpe", "jfif", "jif"],
        signatures: &[b"\xff\xd8\xff"],
    },
    ImageType {
        format: Format::WebP,
        name: "WebP",
        content_type: "image/webp",
        extensions: &["webp"],
        signatures: &[b"RIFF????WEBP"],
    },
    ImageType {
        format: Format::Bmp,
        name: "BMP",
        content_type: "image/bmp",
        extensions: &["bmp", "dib"],
        signatures: &[b"BM"],
    },
    ImageType {
        format: Format::Gif,
        name: "GIF",
        content_type: "image/gif",
        extensions: &["gif"],
        signatures: &[b"GIF87a", b"GIF89a"],
    },
    ImageType {
        format: Format::Tiff,
        name: "TIFF",
        content_type: "image/tiff",
        extensions: &["tif", "tiff"],
        signatures: &[b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"],
    },
];

impl Format {
    /// The type of content that starts with these bytes.
    pub fn recognise(bytes: &[u8]) -> Option<Format> {
        let has = |kind: &&ImageType| {
            kind.signatures
                .iter()
                .any(|signature| matches_at(bytes, 0, signature))
        };
        TYPES.iter().find(has).map(|kind| kind.format)
    }

    pub fn name(self) -> &'static str {
        self.row().map_or("", |kind| kind.name)
    }

    /// How names of its files usually end.
    pub fn extension(self) -> &'static str {
        let extensions = self.row().map_or(&[][..], |kind| kind.extensions);
        extensions.first().copied().unwrap_or_default()
    }

    fn row(self) -> Option<&'static ImageType> {
        TYPES.iter().find(|kind| kind.format == self)
    }
}

/// `PNG, JPEG or WebP`.
pub fn names() -> String {
    let names: Vec<_> = TYPES.iter().map(|kind| kind.name).collect();
    names
        .split_last()
        .map_or_else(String::new, |(last, others)| {
            format!("{} or {last}", others.join(", "))
        })
}

/// `image/png, image/jpeg`.
pub fn content_types() -> String {
    TYPES
        .iter()
        .map(|kind| kind.content_type)
        .collect::<Vec<_>>()
        .join(", ")
}

/// Whether a file extension (in any case) is one of an image type.
pub fn is_image_extension(extension: &str) -> bool {
    extensions().any(|known| known.eq_ignore_ascii_case(extension))
}

/// The extensions of all types, in lower case.
pub fn extensions() -> impl Iterator<Item = &'static str> {
    TYPES.iter().flat_map(|kind| kind.extensions).copied()
}

/// A known type that is not decoded, as the error names it.
struct Other {
    name: &'static str,
    /// Offset and bytes; `?` matches any byte.
    signatures: &'static [(usize, &'static [u8])],
    /// What to send instead; `None`: a converted image.
    advice: Option<&'static str>,
}

const fn picture(name: &'static str, signatures: &'static [(usize, &'static [u8])]) -> Other {
    Other {
        name,
        signatures,
        advice: None,
    }
}

const fn other(
    name: &'static str,
    signatures: &'static [(usize, &'static [u8])],
    advice: &'static str,
) -> Other {
    Other {
        name,
        signatures,
        advice: Some(advice),
    }
}

const AS_TEXT: &str = "read and send the file as bytes, not as text";
const UNPACKED: &str = "unpack it and send the image itself";

static OTHERS: &[Other] = &[
    picture(
        "HEIC",
        &[
            (4, b"ftyphei"),
            (4, b"ftyphev"),
            (4, b"ftypmif1"),
            (4, b"ftypmsf1"),
        ],
    ),
    picture("AVIF", &[(4, b"ftypavi")]),
    picture("Canon raw (CR3)", &[(4, b"ftypcrx")]),
    other(
        "an MP4 or QuickTime video",
        &[(4, b"ftyp"), (4, b"moov")],
        "send one frame",
    ),
    picture(
        "JPEG XL",
        &[(0, b"\xff\x0a"), (0, b"\0\0\0\x0cJXL \r\n\x87\n")],
    ),
    picture(
        "JPEG 2000",
        &[(0, b"\0\0\0\x0cjP  \r\n\x87\n"), (0, b"\xff\x4f\xff\x51")],
    ),
    picture("ICO", &[(0, b"\0\0\x01\0"), (0, b"\0\0\x02\0")]),
    picture("PSD", &[(0, b"8BPS")]),
    picture("OpenEXR", &[(0, b"\x76\x2f\x31\x01")]),
    picture("Radiance HDR", &[(0, b"#?RADIANCE"), (0, b"#?RGBE")]),
    picture("DDS", &[(0, b"DDS ")]),
    picture("QOI", &[(0, b"qoif")]),
    picture("farbfeld", &[(0, b"farbfeld")]),
    picture(
        "PNM",
        &[
            (0, b"P1\n"),
            (0, b"P2\n"),
            (0, b"P3\n"),
            (0, b"P4\n"),
            (0, b"P5\n"),
            (0, b"P6\n"),
            (0, b"P7\n"),
        ],
    ),
    picture("FITS", &[(0, b"SIMPLE  =")]),
    picture("DICOM", &[(128, b"DICM")]),
    picture("HDF5", &[(0, b"\x89HDF\r\n\x1a\n")]),
    picture("PDF", &[(0, b"%PDF")]),
    picture("PostScript", &[(0, b"%!PS")]),
    other(
        "an npy array",
        &[(0, b"\x93NUMPY")],
        "send it as application/x-npy",
    ),
    other(
        "a zip archive",
        &[(0, b"PK\x03\x04"), (0, b"PK\x05\x06")],
        UNPACKED,
    ),
    other("gzip-compressed data", &[(0, b"\x1f\x8b")], UNPACKED),
    other(
        "zstd-compressed data",
        &[(0, b"\x28\xb5\x2f\xfd")],
        UNPACKED,
    ),
    other("bzip2-compressed data", &[(0, b"BZh")], UNPACKED),
    other("xz-compressed data", &[(0, b"\xfd7zXZ\0")], UNPACKED),
    other("a 7z archive", &[(0, b"7z\xbc\xaf\x27\x1c")], UNPACKED),
    other("a rar archive", &[(0, b"Rar!\x1a\x07")], UNPACKED),
    other("a tar archive", &[(257, b"ustar")], UNPACKED),
    other(
        "a video",
        &[
            (0, b"RIFF????AVI "),
            (0, b"\x1a\x45\xdf\xa3"),
            (0, b"\0\0\x01\xba"),
        ],
        "send one frame",
    ),
    other(
        "audio",
        &[
            (0, b"RIFF????WAVE"),
            (0, b"ID3"),
            (0, b"OggS"),
            (0, b"fLaC"),
        ],
        "send a picture",
    ),
    other(
        "a Python pickle",
        &[(0, b"\x80\x04\x95"), (0, b"\x80\x05\x95")],
        "send the array with numpy.save",
    ),
    other(
        "a PNG whose bytes were read as text",
        &[(0, b"\xef\xbf\xbdPNG"), (0, b"\xc2\x89PNG")],
        AS_TEXT,
    ),
    other(
        "a PNG whose line breaks were converted",
        &[
            (0, b"\x89PNG\n\x1a\n"),
            (0, b"\x89PNG\r\r\n"),
            (0, b"\x89PNG\r\x1a\r"),
        ],
        "send its bytes unchanged",
    ),
    other(
        "a JPEG whose bytes were read as text",
        &[(0, b"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd")],
        AS_TEXT,
    ),
    other(
        "a Git LFS pointer",
        &[(0, b"version https://git-lfs")],
        "run git lfs pull and send the file",
    ),
    other(
        "a URL",
        &[(0, b"http://"), (0, b"https://"), (0, b"file://")],
        "send the file itself: no address is fetched",
    ),
    other(
        "a data URL",
        &[(0, b"data:")],
        "send the bytes, or the text as `image` of a JSON body",
    ),
    other(
        "base64 text",
        &[
            (0, b"iVBORw0K"),
            (0, b"/9j/"),
            (0, b"_9j_"),
            (0, b"R0lGOD"),
            (0, b"UklGR"),
            (0, b"SUkqA"),
            (0, b"TU0AK"),
        ],
        "send the decoded bytes, or the text as `image` of a JSON body",
    ),
];

/// How many bytes of a text are searched for its first tag.
const TEXT_HEAD: usize = 1024;

/// The name of a known type that is not decoded, and what to send instead.
pub fn refusal(bytes: &[u8]) -> Option<(&'static str, Option<&'static str>)> {
    if bytes.starts_with(b"\x89PNG\x1a") {
        return Some(("a PNG without its line breaks", Some(LINE_BREAKS_STRIPPED)));
    }
    if is_avif(bytes) {
        return Some(("AVIF", None));
    }
    if is_npz(bytes) {
        return Some(("an npz archive", Some("send one npy (numpy.save)")));
    }
    let has = |other: &&Other| {
        other
            .signatures
            .iter()
            .any(|(at, signature)| matches_at(bytes, *at, signature))
    };
    OTHERS
        .iter()
        .find(has)
        .map(|other| (other.name, other.advice))
        .or_else(|| text(bytes))
}

/// The name of the content's type, and advice, for content that is not of the announced type.
pub fn describe(bytes: &[u8]) -> String {
    match (Format::recognise(bytes), refusal(bytes)) {
        (Some(format), _) => format!("it is a {} image", format.name()),
        (None, Some((found, Some(advice)))) => format!("it is {found}: {advice}"),
        (None, Some((found, None))) => format!("it is {found}"),
        (None, None) => "its first bytes are of no known type".to_owned(),
    }
}

/// The compatible brands of a HEIF container, which say how its image is coded.
fn is_avif(bytes: &[u8]) -> bool {
    let heif = matches_at(bytes, 4, b"ftypmif1") || matches_at(bytes, 4, b"ftypmsf1");
    heif && bytes[8..bytes.len().min(64)]
        .as_chunks::<4>()
        .0
        .iter()
        .any(|brand| brand == b"avif")
}

/// A zip whose first file is an npy array.
fn is_npz(bytes: &[u8]) -> bool {
    let [b'P', b'K', 3, 4, .., low, high, _, _] = bytes.get(..30).unwrap_or_default() else {
        return false;
    };
    let length = usize::from(u16::from_le_bytes([*low, *high]));
    bytes
        .get(30..30 + length)
        .is_some_and(|name| name.ends_with(b".npy"))
}

/// Recognises kinds of text by their first characters.
fn text(bytes: &[u8]) -> Option<(&'static str, Option<&'static str>)> {
    let head = &bytes[..bytes.len().min(TEXT_HEAD)];
    let head = head
        .strip_prefix(b"\xef\xbb\xbf")
        .unwrap_or(head)
        .trim_ascii_start();
    let lower = head.to_ascii_lowercase();
    let has = |tag: &[u8]| lower.windows(tag.len()).any(|window| window == tag);
    match lower.first()? {
        b'<' if has(b"<svg") => Some(("SVG", None)),
        b'<' if has(b"<html") || has(b"<!doctype html") => Some((
            "an HTML page",
            Some("look at what was downloaded and send the image itself"),
        )),
        b'<' => Some(("XML or HTML text", Some("send the image itself"))),
        b'{' | b'[' => Some(("JSON text", Some("send it as application/json"))),
        _ => None,
    }
}

fn matches_at(bytes: &[u8], at: usize, signature: &[u8]) -> bool {
    let found = bytes.get(at..at + signature.len());
    found.is_some_and(|found| {
        found
            .iter()
            .zip(signature)
            .all(|(byte, wanted)| byte == wanted || *wanted == b'?')
    })
}

/// Whether line breaks were stripped from a binary file: the first 1024 bytes have none. In random
/// bytes the probability of that is (254/256)^1024, below 1/2000.
pub fn line_breaks_are_stripped(bytes: &[u8]) -> bool {
    bytes.len() >= 1024 && !bytes.is_ascii() && !bytes.iter().any(|byte| b"\r\n".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_decoded_is_named() {
        let zip = |name: &[u8]| {
            [
                b"PK\x03\x04",
                &[0; 22][..],
                &[name.len() as u8, 0, 0, 0],
                name,
            ]
            .concat()
        };
        for (bytes, expected) in [
            (&b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"[..], "HEIC"),
            (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC"),
            (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", "AVIF"),
            (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif", "AVIF"),
            (
                b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2",
                "an MP4 or QuickTime video",
            ),
            (b"\xff\x0a\xfa\x1f", "JPEG XL"),
            (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
            (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
            (b"<?xml version='1.0'?>\n<svg width='1'/>", "SVG"),
            (
                b"\xef\xbb\xbf\n<!DOCTYPE html><title>404</title>",
                "an HTML page",
            ),
            (b"<HTML>", "an HTML page"),
            (b"%PDF-1.7", "PDF"),
            (b" {\"image\": 1}", "JSON text"),
            (&zip(b"arr_0.npy"), "an npz archive"),
            (&zip(b"cat.png"), "a zip archive"),
            (b"\x1f\x8b\x08\0", "gzip-compressed data"),
            (b"\x89PNG\x1aIHDR", "a PNG without its line breaks"),
            (
                b"\xef\xbf\xbdPNG\r\n",
                "a PNG whose bytes were read as text",
            ),
            (b"iVBORw0KGgoAAAANSUhEUg", "base64 text"),
            (b"https://example.org/cat.png", "a URL"),
        ] {
            assert_eq!(
                refusal(bytes).map(|(name, _)| name),
                Some(expected),
                "{}",
                bytes.escape_ascii()
            );
        }
        assert_eq!(refusal(b"just words"), None);
        assert_eq!(refusal(b""), None);
    }

    #[test]
    fn a_type_is_known_by_its_content_and_its_extension() {
        assert_eq!(
            Format::recognise(b"RIFF\x10\0\0\0WEBPVP8L"),
            Some(Format::WebP)
        );
        assert_eq!(Format::recognise(b"RIFF\x10\0\0\0WAVE"), None);
        assert_eq!(Format::recognise(b"MM\0*"), Some(Format::Tiff));
        assert!(
            is_image_extension("JFIF") && is_image_extension("tif") && !is_image_extension("heic")
        );
        assert_eq!(names(), "PNG, JPEG, WebP, BMP, GIF or TIFF");
    }
}
