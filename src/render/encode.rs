//! RGB8 -> PNG, for speed: one filter, fast deflate.

use ::image::RgbImage;

use super::RenderError;

/// A PNG file.
pub fn encode_png(picture: &RgbImage) -> Result<Vec<u8>, RenderError> {
    let fault = |fault: png::EncodingError| RenderError::Encode { reason: fault.to_string() };
    let mut bytes = Vec::with_capacity(picture.len() / 2);
    let mut encoder = png::Encoder::new(&mut bytes, picture.width(), picture.height());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    encoder.set_filter(png::Filter::Up);
    let mut writer = encoder.write_header().map_err(fault)?;
    writer.write_image_data(picture).map_err(fault)?;
    writer.finish().map_err(fault)?;
    Ok(bytes)
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
