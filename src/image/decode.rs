//! Uploaded bytes -> upright RGB8. PNG, JPEG, WebP and BMP, recognised by content; limits hold before pixels are decoded.
//! Transparency is laid over white, as viewers show it; 16 bits keep their upper 8; CMYK follows Adobe's inverted convention
//! (as PIL does); EXIF orientation is applied; of an animation the first frame is taken. ICC profiles are not applied.
//! Agrees with PIL exactly on lossless types, within 3 of 255 on JPEG (within 8 where chroma is subsampled).

use std::{
    io::{Cursor, ErrorKind},
    panic::{AssertUnwindSafe, catch_unwind},
};

use ::image::{
    DynamicImage, ImageDecoder, ImageFormat, RgbImage,
    codecs::{bmp::BmpDecoder, jpeg::JpegDecoder, png::PngDecoder, webp::WebPDecoder},
    metadata::Orientation,
};
use ndarray::Array2;

use super::ImageError;

/// What an upload may cost. All limits are checked before any pixel is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of the encoded file.
    pub max_bytes: usize,
    /// Width times height.
    pub max_pixels: u64,
    /// Of either side, in pixels.
    pub max_side: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { max_bytes: 20 << 20, max_pixels: 40_000_000, max_side: 16_384 }
    }
}

/// An upload as a person sees it, and what was done to it that they may not expect.
#[derive(Clone, Debug)]
pub struct Decoded {
    pub image: RgbImage,
    pub warnings: Vec<String>,
}

const ANIMATED: &str = "the image is animated; its first frame was used";
const TRANSPARENT: &str = "the image has transparent pixels; it was laid over white";

/// Decodes an uploaded image. Decoder panics come back as [`ImageError::DecoderPanicked`].
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Decoded, ImageError> {
    let format = recognise(bytes, limits)?;
    guard(format, || {
        let Read { image, orientation, animated } = read(format, bytes, limits)?;
        let (rgb, transparent) = flatten(image);
        let mut upright = DynamicImage::ImageRgb8(rgb);
        upright.apply_orientation(orientation);
        let warnings = [(animated, ANIMATED), (transparent, TRANSPARENT)];
        Ok(Decoded {
            image: upright.into_rgb8(),
            warnings: warnings.iter().filter(|(holds, _)| *holds).map(|(_, text)| (*text).to_owned()).collect(),
        })
    })
}

/// Decodes an image whose colours are labels: `[height, width]`, one number per colour (16 bits each of red, green, blue and alpha).
/// Meant for lossless types; the same limits and errors as [`decode`].
pub fn decode_labels(bytes: &[u8], limits: &Limits) -> Result<Array2<u64>, ImageError> {
    let format = recognise(bytes, limits)?;
    guard(format, || {
        let Read { mut image, orientation, .. } = read(format, bytes, limits)?;
        image.apply_orientation(orientation);
        let colours = image.into_rgba16();
        let at = |y: usize, x: usize| colours.get_pixel(x as u32, y as u32).0;
        let size = (colours.height() as usize, colours.width() as usize);
        Ok(Array2::from_shape_fn(size, |(y, x)| at(y, x).iter().fold(0, |number, &v| number << 16 | u64::from(v))))
    })
}

fn recognise(bytes: &[u8], limits: &Limits) -> Result<ImageFormat, ImageError> {
    if bytes.is_empty() {
        return Err(ImageError::Empty);
    }
    if bytes.len() > limits.max_bytes {
        return Err(ImageError::TooManyBytes { bytes: bytes.len(), limit: limits.max_bytes });
    }
    let format = ::image::guess_format(bytes).map_err(|_| ImageError::UnknownType)?;
    match format {
        ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP | ImageFormat::Bmp => Ok(format),
        other => Err(ImageError::UnsupportedType { found: other.to_mime_type() }),
    }
}

fn guard<T>(format: ImageFormat, work: impl FnOnce() -> Result<T, ImageError>) -> Result<T, ImageError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(ImageError::DecoderPanicked { format: name(format) }))
}

fn name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Png => "PNG",
        ImageFormat::Jpeg => "JPEG",
        ImageFormat::WebP => "WebP",
        _ => "BMP",
    }
}

/// Pixels as they are stored.
struct Read {
    image: DynamicImage,
    orientation: Orientation,
    animated: bool,
}

fn read(format: ImageFormat, bytes: &[u8], limits: &Limits) -> Result<Read, ImageError> {
    let name = name(format);
    let fault = |error| describe(name, error);
    let mut budget = ::image::Limits::no_limits();
    // 16-bit RGBA is the widest pixel; the rest is for compressed metadata.
    budget.max_alloc = Some(limits.max_pixels * 8 + (1 << 20));
    let reader = Cursor::new(bytes);
    let mut animated = false;
    let mut decoder: Box<dyn ImageDecoder + '_> = match format {
        ImageFormat::Png => {
            let png = PngDecoder::with_limits(reader, budget.clone()).map_err(fault)?;
            animated = png.is_apng().map_err(fault)?;
            Box::new(png)
        }
        ImageFormat::Jpeg if !jpeg_has_its_end(bytes) => return Err(ImageError::Truncated { format: name }),
        ImageFormat::Jpeg => Box::new(JpegDecoder::new(reader).map_err(fault)?),
        ImageFormat::WebP => {
            let webp = WebPDecoder::new(reader).map_err(fault)?;
            animated = webp.has_animation();
            Box::new(webp)
        }
        _ => Box::new(BmpDecoder::new(reader).map_err(fault)?),
    };
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 {
        return Err(ImageError::Corrupt { format: name, reason: format!("its size is {width} x {height}") });
    }
    if width.max(height) > limits.max_side || pixels > limits.max_pixels {
        let Limits { max_pixels, max_side, .. } = *limits;
        return Err(ImageError::TooLarge { width, height, max_side, max_pixels });
    }
    decoder.set_limits(budget).map_err(fault)?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    Ok(Read { image: DynamicImage::from_decoder(decoder).map_err(fault)?, orientation, animated })
}

/// RGB8, with alpha laid over white, and whether any pixel was not opaque.
fn flatten(image: DynamicImage) -> (RgbImage, bool) {
    if !image.color().has_alpha() {
        return (image.into_rgb8(), false);
    }
    let rgba = image.into_rgba8();
    let (width, height) = rgba.dimensions();
    let mut transparent = false;
    let over_white = |value: u8, alpha: u8| {
        ((u32::from(value) * u32::from(alpha) + 255 * (255 - u32::from(alpha)) + 127) / 255) as u8
    };
    let rgb = RgbImage::from_fn(width, height, |x, y| {
        let [r, g, b, a] = rgba.get_pixel(x, y).0;
        transparent |= a < 255;
        ::image::Rgb([over_white(r, a), over_white(g, a), over_white(b, a)])
    });
    (rgb, transparent)
}

/// Whether the end-of-image marker stands after the scans. The decoder paints what is missing grey, without an error.
fn jpeg_has_its_end(bytes: &[u8]) -> bool {
    let mut at = 2;
    while at + 1 < bytes.len() {
        match (bytes[at], bytes[at + 1]) {
            (0xFF, 0xD9) => return true,
            // Fill bytes, stuffed bytes and restart markers carry no length.
            (0xFF, 0xFF) => at += 1,
            (0xFF, 0x00 | 0x01 | 0xD0..=0xD8) => at += 2,
            (0xFF, _) if at + 3 < bytes.len() => {
                at += 2 + usize::from(u16::from_be_bytes([bytes[at + 2], bytes[at + 3]]));
            }
            (0xFF, _) => return false,
            // Entropy-coded data.
            _ => at += 1,
        }
    }
    false
}

fn describe(format: &'static str, error: ::image::ImageError) -> ImageError {
    match error {
        ::image::ImageError::IoError(io) if io.kind() == ErrorKind::UnexpectedEof => ImageError::Truncated { format },
        other => ImageError::Corrupt { format, reason: other.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use ndarray_npy::ReadNpyExt;
    use proptest::prelude::*;

    use super::*;

    fn folder() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/images")
    }

    fn read_file(name: &str) -> Vec<u8> {
        fs::read(folder().join(name)).unwrap()
    }

    fn decode_file(name: &str) -> Decoded {
        decode(&read_file(name), &Limits::default()).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The largest difference from the pixels PIL sees, and the size.
    fn difference_from_pil(name: &str) -> u8 {
        let decoded = decode_file(name).image;
        let expected =
            ndarray::Array3::<u8>::read_npy(fs::File::open(folder().join(format!("{name}.rgb.npy"))).unwrap());
        let expected = expected.unwrap();
        assert_eq!(expected.dim(), (decoded.height() as usize, decoded.width() as usize, 3), "{name}");
        decoded.as_raw().iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
    }

    #[test]
    fn lossless_types_give_the_pixels_that_pil_gives() {
        for name in [
            "rgb.png",
            "rgb.bmp",
            "rgb.webp",
            "grey.png",
            "palette.png",
            "rgba.png",
            "grey16.png",
            "animated.png",
            "animated.webp",
        ] {
            assert_eq!(difference_from_pil(name), 0, "{name}");
        }
    }

    #[test]
    fn jpegs_give_the_pixels_that_pil_gives_but_for_rounding() {
        // Decoders may round the inverse transform and the upsampling of chroma differently.
        for (name, tolerance) in
            [("grey.jpg", 1), ("progressive420.jpg", 8), ("cmyk.jpg", 3), ("ycck.jpg", 3), ("cmyk_no_adobe.jpg", 3)]
        {
            let found = difference_from_pil(name);
            assert!(found <= tolerance, "{name}: {found}");
        }
    }

    #[test]
    fn every_exif_orientation_is_made_upright() {
        for turn in 1..=8 {
            let found = difference_from_pil(&format!("exif{turn}.jpg"));
            assert!(found <= 3, "orientation {turn}: {found}");
        }
        assert_eq!(decode_file("exif6.jpg").image.dimensions(), (16, 24));
    }

    #[test]
    fn animation_and_transparency_are_told() {
        assert_eq!(decode_file("animated.png").warnings, [ANIMATED]);
        assert!(decode_file("animated.webp").warnings.contains(&ANIMATED.to_owned()));
        assert_eq!(decode_file("rgba.png").warnings, [TRANSPARENT]);
        assert_eq!(decode_file("rgb.png").warnings, [""; 0]);
    }

    #[test]
    fn an_opaque_alpha_channel_changes_nothing_and_warns_of_nothing() {
        let opaque = ::image::RgbaImage::from_fn(5, 4, |x, y| ::image::Rgba([x as u8, y as u8, 9, 255]));
        let mut bytes = Cursor::new(Vec::new());
        opaque.write_to(&mut bytes, ImageFormat::Png).unwrap();
        let decoded = decode(bytes.get_ref(), &Limits::default()).unwrap();
        assert_eq!(decoded.warnings, [""; 0]);
        assert_eq!(decoded.image.get_pixel(3, 2).0, [3, 2, 9]);
    }

    #[test]
    fn labels_differ_where_the_stored_values_do() {
        let write = |image: DynamicImage| {
            let mut bytes = Cursor::new(Vec::new());
            image.write_to(&mut bytes, ImageFormat::Png).unwrap();
            decode_labels(bytes.get_ref(), &Limits::default()).unwrap()
        };
        let grey = ::image::ImageBuffer::from_fn(3, 2, |x, y| ::image::Luma([(3 * y + x) as u8]));
        let wide = ::image::ImageBuffer::from_fn(3, 2, |x, y| ::image::Luma([(65_530 + 3 * y + x) as u16]));
        for found in [write(DynamicImage::ImageLuma8(grey)), write(DynamicImage::ImageLuma16(wide))] {
            assert_eq!(found.dim(), (2, 3));
            assert!(found.as_slice().unwrap().windows(2).all(|pair| pair[0] < pair[1]), "{found}");
        }
        assert_eq!(decode_labels(b"no image", &Limits::default()), Err(ImageError::UnknownType));
        assert!(decode_labels(&read_file("palette.png"), &Limits::default()).is_ok());
    }

    #[test]
    fn what_is_no_image_is_refused_naming_what_is() {
        let refused = |bytes: &[u8]| decode(bytes, &Limits::default()).unwrap_err();
        assert_eq!(refused(b""), ImageError::Empty);
        assert_eq!(refused(b"<html></html>"), ImageError::UnknownType);
        assert_eq!(refused(&read_file("still.gif")), ImageError::UnsupportedType { found: "image/gif" });
        assert!(refused(&read_file("still.gif")).to_string().contains("image/png, image/jpeg, image/webp, image/bmp"));
    }

    #[test]
    fn every_truncation_is_an_error_and_most_are_named_so() {
        for name in ["rgb.png", "rgb.bmp", "rgb.webp", "exif6.jpg", "progressive420.jpg", "grey.jpg", "animated.webp"] {
            let bytes = read_file(name);
            for length in 12..bytes.len() - 1 {
                if let Ok(decoded) = decode(&bytes[..length], &Limits::default()) {
                    // Only what follows the pixels may be missing.
                    assert_eq!(decoded.image, decode_file(name).image, "{name} cut at {length}");
                }
            }
        }
        let photo = read_file("exif6.jpg");
        assert_eq!(
            decode(&photo[..photo.len() * 3 / 4], &Limits::default()).unwrap_err(),
            ImageError::Truncated { format: "JPEG" }
        );
        let png = read_file("rgb.png");
        assert_eq!(decode(&png[..60], &Limits::default()).unwrap_err(), ImageError::Truncated { format: "PNG" });
    }

    #[test]
    fn limits_hold_before_pixels_are_decoded() {
        let bytes = read_file("rgb.png");
        let limits = Limits { max_bytes: bytes.len() - 1, ..Limits::default() };
        assert!(matches!(decode(&bytes, &limits), Err(ImageError::TooManyBytes { .. })));
        for limits in
            [Limits { max_pixels: 24 * 16 - 1, ..Limits::default() }, Limits { max_side: 23, ..Limits::default() }]
        {
            assert!(matches!(decode(&bytes, &limits), Err(ImageError::TooLarge { width: 24, height: 16, .. })));
        }
        assert!(decode(&bytes, &Limits { max_bytes: bytes.len(), max_pixels: 24 * 16, max_side: 24 }).is_ok());
    }

    #[test]
    fn a_small_file_that_claims_a_huge_picture_is_refused_by_its_header() {
        let mut png = read_file("rgb.png");
        png[16..24].copy_from_slice(&[0, 0, 0xF0, 0, 0, 0, 0xF0, 0]);
        let crc = png_crc(&png[12..29]);
        png[29..33].copy_from_slice(&crc.to_be_bytes());
        assert!(matches!(decode(&png, &Limits::default()), Err(ImageError::TooLarge { width: 61440, .. })));
        let mut bmp = read_file("rgb.bmp");
        bmp[18..26].copy_from_slice(&[0, 0xF0, 0, 0, 0, 0xF0, 0, 0]);
        assert!(matches!(decode(&bmp, &Limits::default()), Err(ImageError::TooLarge { width: 61440, .. })));
    }

    fn png_crc(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { 0xEDB8_8320 ^ (crc >> 1) } else { crc >> 1 })
        })
    }

    proptest! {
        #[test]
        fn damaged_images_never_panic(which in 0usize..6, hits in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..6)) {
            let name = ["rgb.png", "rgb.bmp", "rgb.webp", "exif6.jpg", "progressive420.jpg", "cmyk.jpg"][which];
            let mut bytes = read_file(name);
            for (at, byte) in hits {
                let at = usize::from(at) % bytes.len();
                bytes[at] = byte;
            }
            let _ = decode(&bytes, &Limits { max_pixels: 1 << 16, ..Limits::default() });
        }
    }
}
