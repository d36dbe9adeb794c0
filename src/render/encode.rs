//! RGB8 -> PNG, for speed: one filter, fast deflate.

use std::{io::Write, sync::mpsc::sync_channel, thread};

use ::image::RgbImage;

use super::RenderError;

/// Rows that are painted and encoded together.
const BAND: usize = 32;
/// Bands that may wait to be encoded.
const WAITING: usize = 4;

/// A PNG file.
pub fn encode_png(picture: &RgbImage) -> Result<Vec<u8>, RenderError> {
    let mut bytes = Vec::with_capacity(picture.len() / 2);
    let mut writer = start(&mut bytes, picture.dimensions())?;
    writer.write_image_data(picture).map_err(fault)?;
    writer.finish().map_err(fault)?;
    Ok(bytes)
}

/// A PNG file of rows that are painted by another thread, while earlier ones are encoded. `paint` is given the number of its first row,
/// and black rows.
pub fn encode_rows(
    (width, height): (u32, u32),
    paint: impl Fn(usize, &mut [u8]) + Send,
) -> Result<Vec<u8>, RenderError> {
    let (row_bytes, rows) = (3 * width as usize, height as usize);
    let mut bytes = Vec::with_capacity(row_bytes * rows / 2);
    let mut writer = start(&mut bytes, (width, height))?;
    let mut stream = writer.stream_writer().map_err(fault)?;
    thread::scope(|scope| {
        let (send, painted) = sync_channel(WAITING);
        scope.spawn(move || {
            for first in (0..rows).step_by(BAND) {
                let mut band = vec![0; BAND.min(rows - first) * row_bytes];
                paint(first, &mut band);
                // Nobody listens when the encoder has failed.
                if send.send(band).is_err() {
                    return;
                }
            }
        });
        painted.into_iter().try_for_each(|band| stream.write_all(&band))
    })
    .and_then(|()| stream.flush())
    .map_err(|error| RenderError::Encode { reason: error.to_string() })?;
    stream.finish().map_err(fault)?;
    writer.finish().map_err(fault)?;
    Ok(bytes)
}

fn start(bytes: &mut Vec<u8>, (width, height): (u32, u32)) -> Result<png::Writer<&mut Vec<u8>>, RenderError> {
    let mut encoder = png::Encoder::new(bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    encoder.set_filter(png::Filter::Up);
    encoder.write_header().map_err(fault)
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
            let row_bytes = 3 * width as usize;
            let streamed = encode_rows((width, height), |first, rows| {
                rows.copy_from_slice(&picture.as_raw()[first * row_bytes..][..rows.len()]);
            });
            for bytes in [encode_png(&picture), streamed] {
                assert_eq!(::image::load_from_memory(&bytes.unwrap()).unwrap().into_rgb8(), picture);
            }
        }
    }
}
