//! RGB8 -> an encoded file. PNG is tuned for speed: one filter type, fast deflate, and bands of
//! rows compressed while the next ones are filtered.

use std::{io::Cursor, sync::mpsc::sync_channel, thread};

use fdeflate::Compressor;
use image::{
    ExtendedColorType, ImageError, RgbImage,
    codecs::{jpeg::JpegEncoder, webp::WebPEncoder},
};

use super::RenderError;
use crate::text::cut;

/// Rows that are filtered and compressed together.
const BAND: usize = 32;
/// Bands that may queue for compression.
const WAITING: usize = 4;
/// PNG's filter Up, for all rows: each byte minus the one above it.
const UP: u8 = 2;
/// JPEG quality, of 100: fine dots of attribution stay visible.
const JPEG_QUALITY: u8 = 92;
/// The most bytes of one text chunk.
pub const MOST_TEXT: usize = 4096;

/// The formats that pictures are encoded in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileType {
    Png,
    Jpeg,
    /// Lossless.
    Webp,
}

/// A PNG text chunk: a keyword (Latin-1, at most 79 characters) and its text.
pub type Text = (&'static str, String);

/// The encoded picture. Only PNG stores the texts; long ones are cut.
pub fn encode(
    picture: &RgbImage,
    file_type: FileType,
    texts: &[Text],
) -> Result<Vec<u8>, RenderError> {
    let mut bytes = Cursor::new(Vec::new());
    let (width, height) = picture.dimensions();
    let fault = |error: ImageError| RenderError::Encode {
        reason: error.to_string(),
    };
    match file_type {
        FileType::Png => return encode_png(picture, texts),
        FileType::Jpeg => JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY)
            .encode(picture.as_raw(), width, height, ExtendedColorType::Rgb8)
            .map_err(fault)?,
        FileType::Webp => WebPEncoder::new_lossless(&mut bytes)
            .encode(picture.as_raw(), width, height, ExtendedColorType::Rgb8)
            .map_err(fault)?,
    }
    Ok(bytes.into_inner())
}

/// A PNG file.
pub fn encode_png(picture: &RgbImage, texts: &[Text]) -> Result<Vec<u8>, RenderError> {
    let (width, height) = picture.dimensions();
    let row_bytes = 3 * width as usize;
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    for (keyword, text) in texts {
        let (keyword, text) = ((*keyword).to_owned(), cut(text, MOST_TEXT).into_owned());
        // tEXt is supported most widely; it holds ASCII here.
        match text.is_ascii() {
            true => encoder.add_text_chunk(keyword, text).map_err(fault)?,
            false => encoder.add_itxt_chunk(keyword, text).map_err(fault)?,
        }
    }
    let mut writer = encoder.write_header().map_err(fault)?;
    let compressed = thread::scope(|scope| {
        let (send, filtered) = sync_channel(WAITING);
        scope.spawn(move || {
            let mut above = vec![0; row_bytes];
            for band in picture.as_raw().chunks(BAND * row_bytes) {
                // The receiver is gone when the compressor has failed.
                if send.send(filter(band, &mut above)).is_err() {
                    return;
                }
            }
        });
        let mut compressor = Compressor::new(Vec::with_capacity(row_bytes * height as usize / 2))?;
        filtered
            .into_iter()
            .try_for_each(|band| compressor.write_data(&band))?;
        compressor.finish()
    });
    let compressed = compressed.map_err(|error| RenderError::Encode {
        reason: error.to_string(),
    })?;
    writer
        .write_chunk(png::chunk::IDAT, &compressed)
        .map_err(fault)?;
    writer.finish().map_err(fault)?;
    Ok(bytes)
}

/// The filtered rows of a band, each preceded by its filter type; `above` is the row before the
/// band, and becomes its last row.
fn filter(band: &[u8], above: &mut [u8]) -> Vec<u8> {
    let mut filtered = Vec::with_capacity(band.len() + band.len() / above.len());
    for row in band.chunks_exact(above.len()) {
        filtered.push(UP);
        filtered.extend(
            row.iter()
                .zip(&*above)
                .map(|(byte, above)| byte.wrapping_sub(*above)),
        );
        above.copy_from_slice(row);
    }
    filtered
}

fn fault(fault: png::EncodingError) -> RenderError {
    RenderError::Encode {
        reason: fault.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            image::Rgb([(x * 7 + y) as u8, (x * y) as u8, (x ^ y) as u8])
        })
    }

    #[test]
    fn files_without_loss_hold_the_pixels_they_were_made_of() {
        for (width, height) in [(1, 1), (61, 47), (3, 200)] {
            for file_type in [FileType::Png, FileType::Webp] {
                let bytes = encode(&picture(width, height), file_type, &[]).unwrap();
                let read = image::load_from_memory(&bytes).unwrap().into_rgb8();
                assert_eq!(read, picture(width, height), "{file_type:?}");
            }
        }
    }

    #[test]
    fn a_jpeg_is_near_the_pixels_it_was_made_of() {
        let smooth = RgbImage::from_fn(64, 48, |x, y| image::Rgb([3 * x as u8, 5 * y as u8, 90]));
        let bytes = encode(&smooth, FileType::Jpeg, &[]).unwrap();
        assert_eq!(
            image::guess_format(&bytes).unwrap(),
            image::ImageFormat::Jpeg
        );
        let read = image::load_from_memory(&bytes).unwrap().into_rgb8();
        let apart = read
            .iter()
            .zip(smooth.iter())
            .map(|(a, b)| u32::from(a.abs_diff(*b)))
            .max();
        assert!(apart < Some(12), "{apart:?}");
    }

    #[test]
    fn a_png_carries_its_texts_and_long_ones_are_cut() {
        let texts = [
            ("Method", "gradient".to_owned()),
            ("Target", "7 café".to_owned()),
            ("Parameters", "x".repeat(9000)),
        ];
        let bytes = encode(&picture(5, 4), FileType::Png, &texts).unwrap();
        let reader = png::Decoder::new(Cursor::new(bytes)).read_info().unwrap();
        let latin: Vec<_> = reader
            .info()
            .uncompressed_latin1_text
            .iter()
            .map(|t| (&t.keyword[..], &t.text[..]))
            .collect();
        assert_eq!(latin[0], ("Method", "gradient"));
        let utf8 = &reader.info().utf8_text;
        assert_eq!(
            (&utf8[0].keyword[..], utf8[0].get_text().unwrap()),
            ("Target", "7 café".to_owned())
        );
        // The ellipsis of a shortened text is not ASCII.
        assert_eq!(
            (utf8[1].keyword.as_str(), utf8[1].get_text().unwrap().len()),
            ("Parameters", MOST_TEXT + '…'.len_utf8())
        );
    }
}
