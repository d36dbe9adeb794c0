//! Uploaded bytes -> upright RGB8. Types (`types.rs`) are recognised by content; limits are checked
//! before pixels are decoded. Alpha is blended over white, for models that do not see it; 16-bit channels keep their upper 8 bits;
//! CMYK is read as inverted, as Adobe writes it; EXIF orientation is applied; of animations and
//! multi-page files the first frame or page is used. ICC profiles are ignored. Agrees with PIL
//! exactly on lossless types, within 3 of 255 on JPEG (within 8 where chroma is subsampled).

use std::panic::{AssertUnwindSafe, catch_unwind};

use image::{DynamicImage, Pixel, RgbImage, RgbaImage, imageops::crop_imm};

pub use super::limits::Limits;
use super::{
    ImageError,
    geometry::Geometry,
    open::{Opened, open},
    preprocess::{Channels, Preprocess, preprocess, preprocess_rgba},
    types::{self, Format},
};
use crate::tensor::Tensor;

/// A decoded upload, with warnings where it may not look as the sender expects.
#[derive(Clone, Debug)]
pub struct Decoded {
    /// Over white, where it has transparent pixels.
    pub image: RgbImage,
    /// As it is, where it has transparent pixels.
    transparent: Option<RgbaImage>,
    /// Without that about transparent pixels.
    warnings: Vec<String>,
}

const TRANSPARENT: &str = "the image has transparent pixels; it was laid over white";

impl Decoded {
    /// Blends alpha over white. The orientation of `image` is not changed.
    pub fn of_pixels(image: DynamicImage) -> Self {
        let (image, transparent) = flatten(image);
        Decoded {
            image,
            transparent,
            warnings: Vec::new(),
        }
    }

    /// The input for a model, as [`preprocess`]: with its alpha for one that sees it.
    pub fn to_input(&self, rule: &Preprocess) -> Result<(Tensor, Geometry), ImageError> {
        match &self.transparent {
            Some(image) if rule.channels == Channels::Rgba => preprocess_rgba(image, rule),
            _ => preprocess(&self.image, rule),
        }
    }

    /// The part of this corner and size.
    pub fn cropped(&self, left: u32, top: u32, width: u32, height: u32) -> Self {
        let image = crop_imm(&self.image, left, top, width, height).to_image();
        let part = |image: &RgbaImage| crop_imm(image, left, top, width, height).to_image();
        Self {
            image,
            transparent: self.transparent.as_ref().map(part),
            warnings: self.warnings.clone(),
        }
    }

    /// Where it may not look to a model as the sender expects.
    pub fn warnings(&self, channels: Channels) -> impl Iterator<Item = String> + use<> {
        let is_blended = self.transparent.is_some() && channels != Channels::Rgba;
        let blended = is_blended.then(|| TRANSPARENT.to_owned());
        self.warnings.clone().into_iter().chain(blended)
    }
}

/// Decodes an uploaded image. A panic of the decoder becomes [`ImageError::DecoderPanicked`].
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Decoded, ImageError> {
    with_opened(bytes, limits, |opened| {
        let Opened {
            orientation,
            warning,
            read,
            ..
        } = opened;
        let mut image = read()?;
        image.apply_orientation(orientation);
        Ok(Decoded {
            warnings: warning.map(str::to_owned).into_iter().collect(),
            ..Decoded::of_pixels(image)
        })
    })
}

/// As [`decode`], with its alpha channel: opaque where the file has none.
pub fn decode_with_alpha(bytes: &[u8], limits: &Limits) -> Result<RgbaImage, ImageError> {
    with_opened(bytes, limits, |opened| {
        let mut image = DynamicImage::ImageRgba8((opened.read)()?.into_rgba8());
        image.apply_orientation(opened.orientation);
        Ok(image.into_rgba8())
    })
}

/// Width and height of the upright image, from its header. Limits as in [`decode`].
pub fn size(bytes: &[u8], limits: &Limits) -> Result<(u32, u32), ImageError> {
    with_opened(bytes, limits, |opened| Ok(opened.upright()))
}

/// An image whose colours are labels: upright, its colours as stored, and not converted to RGB8.
#[derive(Debug)]
pub struct LabelImage(DynamicImage);

impl LabelImage {
    /// The same limits and errors as [`decode`].
    pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Self, ImageError> {
        with_opened(bytes, limits, |opened| {
            let mut image = (opened.read)()?;
            image.apply_orientation(opened.orientation);
            Ok(LabelImage(image))
        })
    }

    /// Width and height of the result of [`LabelImage::decode`], from the header. Fails where the
    /// type is not lossless.
    pub fn size(bytes: &[u8], limits: &Limits) -> Result<(u32, u32), ImageError> {
        let format = recognise(bytes, limits)?.name();
        with_opened(bytes, limits, |opened| match opened.lossless {
            true => Ok(opened.upright()),
            false => Err(ImageError::LossyLabels { format }),
        })
    }

    /// One number per colour, ordered by the first channel, then the second, and so on. Panics
    /// outside the image.
    pub fn label(&self, x: u32, y: u32) -> u64 {
        fn number<P: Pixel<Subpixel: Into<u64>>>(pixel: &P) -> u64 {
            pixel
                .channels()
                .iter()
                .fold(0, |number, value| number << 16 | (*value).into())
        }
        match &self.0 {
            DynamicImage::ImageLuma8(image) => number(image.get_pixel(x, y)),
            DynamicImage::ImageLumaA8(image) => number(image.get_pixel(x, y)),
            DynamicImage::ImageRgb8(image) => number(image.get_pixel(x, y)),
            DynamicImage::ImageRgba8(image) => number(image.get_pixel(x, y)),
            DynamicImage::ImageLuma16(image) => number(image.get_pixel(x, y)),
            DynamicImage::ImageLumaA16(image) => number(image.get_pixel(x, y)),
            DynamicImage::ImageRgb16(image) => number(image.get_pixel(x, y)),
            DynamicImage::ImageRgba16(image) => number(image.get_pixel(x, y)),
            // `image` decodes these types to no other pixel format.
            other => number(&image::GenericImageView::get_pixel(other, x, y)),
        }
    }

    /// Whether the pixel is neither black nor transparent. Panics outside the image.
    pub fn is_foreground(&self, x: u32, y: u32) -> bool {
        let label = self.label(x, y);
        match self.0.color().has_alpha() {
            true => label >> 16 != 0 && label & 0xffff != 0,
            false => label != 0,
        }
    }
}

fn recognise(bytes: &[u8], limits: &Limits) -> Result<Format, ImageError> {
    if bytes.is_empty() {
        return Err(ImageError::Empty);
    }
    if bytes.len() > limits.max_bytes {
        return Err(ImageError::TooManyBytes {
            bytes: bytes.len(),
            limit: limits.max_bytes,
        });
    }
    Format::recognise(bytes).ok_or_else(|| match types::refusal(bytes) {
        Some((found, advice)) => ImageError::UnsupportedType { found, advice },
        None if types::line_breaks_are_stripped(bytes) => ImageError::LineBreaksStripped,
        None => ImageError::UnknownType,
    })
}

/// Opens an image and runs `work` on it. Panics of decoders become errors.
fn with_opened<T>(
    bytes: &[u8],
    limits: &Limits,
    work: impl FnOnce(Opened<'_>) -> Result<T, ImageError>,
) -> Result<T, ImageError> {
    let format = recognise(bytes, limits)?;
    let done = catch_unwind(AssertUnwindSafe(|| work(open(format, bytes, limits)?)));
    match done.unwrap_or(Err(ImageError::DecoderPanicked {
        format: format.name(),
    })) {
        Err(ImageError::Corrupt { .. } | ImageError::Truncated { .. })
            if types::line_breaks_are_stripped(bytes) =>
        {
            Err(ImageError::LineBreaksStripped)
        }
        other => other,
    }
}

/// RGB8 with alpha blended over white, and the image itself where any pixel is not opaque.
fn flatten(image: DynamicImage) -> (RgbImage, Option<RgbaImage>) {
    if !image.color().has_alpha() {
        return (image.into_rgb8(), None);
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
        image::Rgb([over_white(r, a), over_white(g, a), over_white(b, a)])
    });
    (rgb, transparent.then_some(rgba))
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Cursor, path::PathBuf};

    use image::ImageFormat;
    use ndarray_npy::ReadNpyExt;
    use proptest::prelude::*;

    use super::*;
    use crate::picture::open::{ANIMATED, PAGES};

    fn folder() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/images")
    }

    fn read_file(name: &str) -> Vec<u8> {
        fs::read(folder().join(name)).unwrap()
    }

    fn decode_file(name: &str) -> Decoded {
        decode(&read_file(name), &Limits::default())
            .unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn told(name: &str) -> Vec<String> {
        decode_file(name).warnings(Channels::Rgb).collect()
    }

    /// The largest difference from the pixels PIL sees, and the size.
    fn difference_from_pil(name: &str) -> u8 {
        let decoded = decode_file(name).image;
        let expected = ndarray::Array3::<u8>::read_npy(
            fs::File::open(folder().join(format!("{name}.rgb.npy"))).unwrap(),
        );
        let expected = expected.unwrap();
        assert_eq!(
            expected.dim(),
            (decoded.height() as usize, decoded.width() as usize, 3),
            "{name}"
        );
        decoded
            .as_raw()
            .iter()
            .zip(&expected)
            .map(|(a, b)| a.abs_diff(*b))
            .max()
            .unwrap()
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
            "still.gif",
            "interlaced.gif",
            "animated.gif",
            "transparent.gif",
            "rgb.tif",
            "lzw.tif",
            "deflate.tif",
            "grey.tif",
            "grey16.tif",
            "bilevel.tif",
            "palette.tif",
            "rgba.tif",
            "pages.tif",
            "turned.tif",
        ] {
            assert_eq!(difference_from_pil(name), 0, "{name}");
        }
        // Rounded down where PIL rounds.
        assert!(difference_from_pil("cmyk.tif") <= 1);
    }

    #[test]
    fn jpegs_give_the_pixels_that_pil_gives_but_for_rounding() {
        // Decoders may round the inverse transform and the upsampling of chroma differently.
        for (name, tolerance) in [
            ("grey.jpg", 1),
            ("progressive420.jpg", 8),
            ("cmyk.jpg", 3),
            ("ycck.jpg", 3),
            ("cmyk_no_adobe.jpg", 3),
        ] {
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
        assert_eq!(told("animated.png"), [ANIMATED]);
        assert!(told("animated.webp").contains(&ANIMATED.to_owned()));
        assert_eq!(told("animated.gif"), [ANIMATED]);
        assert_eq!(told("still.gif"), [""; 0]);
        assert_eq!(told("pages.tif"), [PAGES]);
        for name in ["rgba.png", "rgba.tif", "transparent.gif"] {
            assert_eq!(told(name), [TRANSPARENT], "{name}");
        }
        assert_eq!(told("rgb.png"), [""; 0]);
    }

    #[test]
    fn an_opaque_alpha_channel_changes_nothing_and_warns_of_nothing() {
        let opaque =
            image::RgbaImage::from_fn(5, 4, |x, y| image::Rgba([x as u8, y as u8, 9, 255]));
        let mut bytes = Cursor::new(Vec::new());
        opaque.write_to(&mut bytes, ImageFormat::Png).unwrap();
        let decoded = decode(bytes.get_ref(), &Limits::default()).unwrap();
        assert_eq!(decoded.warnings(Channels::Rgb).count(), 0);
        assert_eq!(decoded.image.get_pixel(3, 2).0, [3, 2, 9]);
    }

    #[test]
    fn labels_differ_where_the_stored_values_do() {
        let write = |image: DynamicImage, format| {
            let mut bytes = Cursor::new(Vec::new());
            image.write_to(&mut bytes, format).unwrap();
            assert_eq!(
                LabelImage::size(bytes.get_ref(), &Limits::default()),
                Ok((3, 2))
            );
            LabelImage::decode(bytes.get_ref(), &Limits::default()).unwrap()
        };
        let grey = image::ImageBuffer::from_fn(3, 2, |x, y| image::Luma([(3 * y + x) as u8]));
        let wide =
            image::ImageBuffer::from_fn(3, 2, |x, y| image::Luma([(65_530 + 3 * y + x) as u16]));
        let rgb = RgbImage::from_fn(3, 2, |x, y| image::Rgb([y as u8, x as u8, 255 - x as u8]));
        for (image, format) in [
            (DynamicImage::ImageLuma8(grey.clone()), ImageFormat::Png),
            (DynamicImage::ImageLuma8(grey), ImageFormat::Tiff),
            (DynamicImage::ImageLuma16(wide), ImageFormat::Png),
            (DynamicImage::ImageRgb8(rgb.clone()), ImageFormat::Bmp),
            (DynamicImage::ImageRgb8(rgb), ImageFormat::WebP),
        ] {
            let image = write(image, format);
            let labels: Vec<_> = (0..2)
                .flat_map(|y| [0, 1, 2].map(|x| image.label(x, y)))
                .collect();
            assert!(
                labels.windows(2).all(|pair| pair[0] < pair[1]),
                "{format:?}: {labels:?}"
            );
        }
        assert!(matches!(
            LabelImage::size(b"no image", &Limits::default()),
            Err(ImageError::UnknownType)
        ));
        for name in ["palette.png", "still.gif", "palette.tif", "animated.webp"] {
            assert_eq!(
                LabelImage::size(&read_file(name), &Limits::default()),
                Ok((24, 16)),
                "{name}"
            );
        }
    }

    #[test]
    fn labels_in_a_lossy_type_are_refused() {
        for (name, format) in [
            ("exif1.jpg", "JPEG"),
            ("progressive420.jpg", "JPEG"),
            ("lossy.webp", "WebP"),
            ("jpeg.tif", "TIFF"),
        ] {
            let found = LabelImage::size(&read_file(name), &Limits::default());
            assert_eq!(found, Err(ImageError::LossyLabels { format }), "{name}");
        }
    }

    #[test]
    fn what_is_no_image_is_refused_naming_what_is() {
        let refused = |bytes: &[u8]| decode(bytes, &Limits::default()).unwrap_err().to_string();
        assert_eq!(
            decode(b"", &Limits::default()).unwrap_err(),
            ImageError::Empty
        );
        assert_eq!(
            refused(b"words"),
            "this is no image of a known type: send PNG, JPEG, WebP, BMP, GIF or TIFF"
        );
        let heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic";
        assert_eq!(
            refused(heic),
            "HEIC is not supported: send PNG, JPEG, WebP, BMP, GIF or TIFF"
        );
        assert!(refused(b"\x1f\x8b\x08").contains("unpack it"));
        assert!(
            refused(&read_file("float.tif")).contains("8-bit"),
            "{}",
            refused(&read_file("float.tif"))
        );
    }

    #[test]
    fn a_file_that_curl_stripped_of_line_breaks_is_told_so() {
        let strip = |bytes: &[u8]| {
            bytes
                .iter()
                .copied()
                .filter(|byte| !b"\r\n\0".contains(byte))
                .collect::<Vec<u8>>()
        };
        let noise = image::GrayImage::from_fn(64, 64, |x, y| {
            image::Luma([(x * x * 31 + y * y * 17 + x * y) as u8])
        });
        for format in [
            ImageFormat::Png,
            ImageFormat::Jpeg,
            ImageFormat::WebP,
            ImageFormat::Bmp,
            ImageFormat::Tiff,
        ] {
            let mut bytes = Cursor::new(Vec::new());
            DynamicImage::ImageLuma8(noise.clone())
                .into_rgb8()
                .write_to(&mut bytes, format)
                .unwrap();
            let error = decode(&strip(bytes.get_ref()), &Limits::default())
                .unwrap_err()
                .to_string();
            assert!(error.contains("--data-binary"), "{format:?}: {error}");
        }
    }

    #[test]
    fn texts_and_profiles_that_expand_without_bound_cost_little() {
        let png = read_file("rgb.png");
        let deflated = |bytes: &[u8]| {
            let mut encoder =
                flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
            std::io::Write::write_all(&mut encoder, bytes).unwrap();
            encoder.finish().unwrap()
        };
        let bomb = deflated(&vec![0; 64 << 20]);
        for (kind, head) in [
            (b"iCCP", &b"p\0\0"[..]),
            (b"zTXt", b"k\0\0"),
            (b"iTXt", b"k\0\x01\0\0\0"),
        ] {
            let body = [&kind[..], head, &bomb].concat();
            let length = ((body.len() - 4) as u32).to_be_bytes();
            let chunk = [&length[..], &body, &png_crc(&body).to_be_bytes()].concat();
            // After IHDR.
            let file = [&png[..33], &chunk, &png[33..]].concat();
            let opened = super::open(Format::Png, &file, &Limits::default())
                .unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(
                (opened.read)().unwrap().into_rgb8(),
                decode_file("rgb.png").image
            );
        }
    }

    #[test]
    fn every_truncation_is_an_error_and_most_are_named_so() {
        for name in [
            "rgb.png",
            "rgb.bmp",
            "rgb.webp",
            "exif6.jpg",
            "progressive420.jpg",
            "grey.jpg",
            "animated.webp",
            "still.gif",
            "interlaced.gif",
            "animated.gif",
            "rgb.tif",
            "lzw.tif",
            "palette.tif",
            "jpeg.tif",
        ] {
            let bytes = read_file(name);
            for length in 12..bytes.len() - 1 {
                if let Ok(decoded) = decode(&bytes[..length], &Limits::default()) {
                    // Only what follows the pixels may be missing.
                    assert_eq!(
                        decoded.image,
                        decode_file(name).image,
                        "{name} cut at {length}"
                    );
                }
            }
        }
        let photo = read_file("exif6.jpg");
        assert_eq!(
            decode(&photo[..photo.len() * 3 / 4], &Limits::default()).unwrap_err(),
            ImageError::Truncated { format: "JPEG" }
        );
        let png = read_file("rgb.png");
        assert_eq!(
            decode(&png[..60], &Limits::default()).unwrap_err(),
            ImageError::Truncated { format: "PNG" }
        );
    }

    #[test]
    fn a_chunk_of_a_png_is_called_by_its_name() {
        let mut png = read_file("rgb.png");
        // A byte of the checksum of the first chunk.
        png[29] ^= 1;
        let told = decode(&png, &Limits::default()).unwrap_err().to_string();
        assert!(told.contains("while decoding IHDR chunk"), "{told}");
    }

    #[test]
    fn limits_hold_before_pixels_are_decoded() {
        for name in [
            "rgb.png",
            "rgb.bmp",
            "rgb.webp",
            "exif1.jpg",
            "still.gif",
            "rgb.tif",
            "palette.tif",
        ] {
            let bytes = read_file(name);
            let limits = Limits {
                max_bytes: bytes.len() - 1,
                ..Limits::default()
            };
            assert!(
                matches!(
                    decode(&bytes, &limits),
                    Err(ImageError::TooManyBytes { .. })
                ),
                "{name}"
            );
            for limits in [
                Limits {
                    max_pixels: 24 * 16 - 1,
                    ..Limits::default()
                },
                Limits {
                    max_side: 23,
                    ..Limits::default()
                },
            ] {
                for found in [
                    decode(&bytes, &limits).map(|_| ()),
                    size(&bytes, &limits).map(|_| ()),
                ] {
                    let refused = matches!(
                        found,
                        Err(ImageError::TooLarge {
                            width: 24,
                            height: 16,
                            ..
                        })
                    );
                    assert!(refused, "{name}: {found:?}");
                }
            }
            assert!(
                decode(
                    &bytes,
                    &Limits {
                        max_bytes: bytes.len(),
                        max_pixels: 24 * 16,
                        max_side: 24
                    }
                )
                .is_ok()
            );
        }
        assert_eq!(
            size(&read_file("exif6.jpg"), &Limits::default()),
            Ok((16, 24))
        );
    }

    #[test]
    fn deep_pixels_count_for_more_than_one() {
        let deep = image::ImageBuffer::<image::Rgba<u16>, _>::new(24, 16);
        let mut bytes = Cursor::new(Vec::new());
        DynamicImage::ImageRgba16(deep)
            .write_to(&mut bytes, ImageFormat::Png)
            .unwrap();
        let decode_within = |max_pixels| {
            decode(
                bytes.get_ref(),
                &Limits {
                    max_pixels,
                    ..Limits::default()
                },
            )
        };
        assert!(matches!(
            decode_within(24 * 16),
            Err(ImageError::TooLarge {
                max_pixels: 192,
                ..
            })
        ));
        assert!(decode_within(2 * 24 * 16).is_ok());
    }

    #[test]
    fn a_small_file_that_claims_a_huge_picture_is_refused_by_its_header() {
        let mut png = read_file("rgb.png");
        png[16..24].copy_from_slice(&[0, 0, 0xF0, 0, 0, 0, 0xF0, 0]);
        let crc = png_crc(&png[12..29]);
        png[29..33].copy_from_slice(&crc.to_be_bytes());
        assert!(matches!(
            decode(&png, &Limits::default()),
            Err(ImageError::TooLarge { width: 61440, .. })
        ));
        let mut bmp = read_file("rgb.bmp");
        bmp[18..26].copy_from_slice(&[0, 0xF0, 0, 0, 0, 0xF0, 0, 0]);
        assert!(matches!(
            decode(&bmp, &Limits::default()),
            Err(ImageError::TooLarge { width: 61440, .. })
        ));
        let mut gif = read_file("still.gif");
        gif[6..10].copy_from_slice(&[0, 0xF0, 0, 0xF0]);
        assert!(matches!(
            decode(&gif, &Limits::default()),
            Err(ImageError::TooLarge { width: 61440, .. })
        ));
    }

    fn png_crc(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                if crc & 1 == 1 {
                    0xEDB8_8320 ^ (crc >> 1)
                } else {
                    crc >> 1
                }
            })
        })
    }

    proptest! {
        #[test]
        fn damaged_images_never_panic(which in 0usize..13, hits in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..6)) {
            let name = [
                "rgb.png", "rgb.bmp", "rgb.webp", "exif6.jpg", "progressive420.jpg", "cmyk.jpg", "animated.gif",
                "interlaced.gif", "rgb.tif", "lzw.tif", "palette.tif", "jpeg.tif", "pages.tif",
            ][which];
            let mut bytes = read_file(name);
            for (at, byte) in hits {
                let at = usize::from(at) % bytes.len();
                bytes[at] = byte;
            }
            let limits = Limits { max_pixels: 1 << 16, ..Limits::default() };
            let _ = decode(&bytes, &limits);
            let _ = LabelImage::size(&bytes, &limits);
            let _ = LabelImage::decode(&bytes, &limits);
        }
    }
}
