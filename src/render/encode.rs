//! RGB8 -> PNG, for speed: one filter, fast deflate, rows compressed while the next are painted.

use std::{sync::mpsc::sync_channel, thread};

use ::image::RgbImage;
use fdeflate::Compressor;

use super::RenderError;

/// Rows that are painted and compressed together.
const BAND: usize = 32;
/// Bands that may wait to be compressed.
const WAITING: usize = 4;
/// The filter of all rows: each byte less the one above it.
const UP: u8 = 2;

/// A PNG file.
pub fn encode_png(picture: &RgbImage) -> Result<Vec<u8>, RenderError> {
    let row_bytes = 3 * picture.width() as usize;
    encode_rows(picture.dimensions(), |first, rows| {
        rows.copy_from_slice(&picture.as_raw()[first * row_bytes..][..rows.len()]);
    })
}

/// A PNG file of rows that are painted by another thread, while earlier ones are compressed. `paint` is given the number of its first
/// row, and black rows.
pub fn encode_rows(
    (width, height): (u32, u32),
    paint: impl Fn(usize, &mut [u8]) + Send,
) -> Result<Vec<u8>, RenderError> {
    let (row_bytes, rows) = (3 * width as usize, height as usize);
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().map_err(fault)?;
    let compressed = thread::scope(|scope| {
        let (send, filtered) = sync_channel(WAITING);
        scope.spawn(move || {
            let mut above = vec![0; row_bytes];
            for first in (0..rows).step_by(BAND) {
                let mut band = vec![0; BAND.min(rows - first) * row_bytes];
                paint(first, &mut band);
                // Nobody listens when the compressor has failed.
                if send.send(filter(&band, &mut above)).is_err() {
                    return;
                }
            }
        });
        let mut compressor = Compressor::new(Vec::with_capacity(row_bytes * rows / 2))?;
        filtered.into_iter().try_for_each(|band| compressor.write_data(&band))?;
        compressor.finish()
    });
    let compressed = compressed.map_err(|error| RenderError::Encode { reason: error.to_string() })?;
    writer.write_chunk(png::chunk::IDAT, &compressed).map_err(fault)?;
    writer.finish().map_err(fault)?;
    Ok(bytes)
}

/// The rows of a band as they are compressed, each behind the name of its filter; `above` is the row before the band, and becomes its last.
fn filter(band: &[u8], above: &mut [u8]) -> Vec<u8> {
    let mut filtered = Vec::with_capacity(band.len() + band.len() / above.len());
    for row in band.chunks_exact(above.len()) {
        filtered.push(UP);
        filtered.extend(row.iter().zip(&*above).map(|(byte, above)| byte.wrapping_sub(*above)));
        above.copy_from_slice(row);
    }
    filtered
}

fn fault(fault: png::EncodingError) -> RenderError {
    RenderError::Encode { reason: fault.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_png_holds_the_pixels_it_was_made_of() {
        for (width, height) in [(1, 1), (61, 47), (3, 200)] {
            let picture = RgbImage::from_fn(width, height, |x, y| {
                ::image::Rgb([(x * 7 + y) as u8, (x * y) as u8, (x ^ y) as u8])
            });
            let bytes = encode_png(&picture).unwrap();
            assert_eq!(::image::load_from_memory(&bytes).unwrap().into_rgb8(), picture);
        }
    }
}
