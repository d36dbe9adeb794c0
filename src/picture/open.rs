//! One function per image type reads the header, checks limits against it, and returns a closure
//! that decodes the pixels. A decoder's other allocations (metadata, intermediate buffers) are
//! bounded by [`SIDE_BYTES`] and the size of the picture.

use std::{
    error::Error as _,
    io::{Cursor, ErrorKind},
};

use image::{
    DynamicImage, ImageDecoder, Rgba, RgbaImage,
    codecs::{
        bmp::BmpDecoder, jpeg::JpegDecoder, png::PngDecoder, tiff::TiffDecoder, webp::WebPDecoder,
    },
    imageops,
    metadata::Orientation,
};
use tiff::tags::Tag;

use super::{ImageError, limits::Limits, types::Format};

/// The most bytes of metadata: texts, colour profiles, tables. A longer colour profile of a PNG is
/// not read; an image with a longer text is refused.
const SIDE_BYTES: u64 = 16 << 20;

pub(super) const ANIMATED: &str = "the image is animated; its first frame was used";
pub(super) const PAGES: &str = "the TIFF has several pages; its first was used";

/// An image whose header has been read and whose size is allowed.
pub(super) struct Opened<'a> {
    /// Width and height as stored, in pixels.
    size: (u32, u32),
    pub orientation: Orientation,
    /// Says which content of the file is not used, such as further frames.
    pub warning: Option<&'static str>,
    /// Whether the type stores colours losslessly.
    pub lossless: bool,
    /// Decodes the pixels, as stored.
    pub read: Box<dyn FnOnce() -> Result<DynamicImage, ImageError> + 'a>,
}

impl Opened<'_> {
    /// Width and height after the EXIF orientation is applied.
    pub(super) fn upright(&self) -> (u32, u32) {
        use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
        let (width, height) = self.size;
        match self.orientation {
            Rotate90 | Rotate90FlipH | Rotate270 | Rotate270FlipH => (height, width),
            _ => (width, height),
        }
    }
}

pub(super) fn open<'a>(
    format: Format,
    bytes: &'a [u8],
    limits: &Limits,
) -> Result<Opened<'a>, ImageError> {
    let reader = Cursor::new(bytes);
    let fault = |error| describe(format, error);
    match format {
        Format::Png => {
            let png = PngDecoder::with_limits(reader, budget(0)).map_err(fault)?;
            let warning = png.is_apng().map_err(fault)?.then_some(ANIMATED);
            Ok(Opened {
                warning,
                ..of_decoder(format, png, limits)?
            })
        }
        Format::Jpeg if !jpeg_has_its_end(bytes) => Err(ImageError::Truncated {
            format: format.name(),
        }),
        Format::Jpeg => {
            let jpeg = JpegDecoder::new(reader).map_err(fault)?;
            Ok(Opened {
                lossless: false,
                ..of_decoder(format, jpeg, limits)?
            })
        }
        Format::WebP => {
            let webp = WebPDecoder::new(reader).map_err(|error| match webp_ends_early(bytes) {
                true => truncated(format),
                false => fault(error),
            })?;
            let warning = webp.has_animation().then_some(ANIMATED);
            Ok(Opened {
                warning,
                lossless: webp_is_lossless(bytes),
                ..of_decoder(format, webp, limits)?
            })
        }
        Format::Bmp => of_decoder(format, BmpDecoder::new(reader).map_err(fault)?, limits),
        Format::Gif => gif(bytes, limits),
        Format::Tiff => tiff(bytes, limits),
    }
}

/// Memory of one decoded pixel: red, green, blue and alpha of 8 bits. With more bits per channel,
/// fewer pixels are allowed.
const PIXEL_BYTES: u64 = 4;

fn of_decoder<'a>(
    format: Format,
    mut decoder: impl ImageDecoder + 'a,
    limits: &Limits,
) -> Result<Opened<'a>, ImageError> {
    let size = decoder.dimensions();
    check_size(format, size, limits)?;
    let pixel_bytes = u64::from(decoder.color_type().bytes_per_pixel());
    if pixel_bytes > PIXEL_BYTES {
        check_size(
            format,
            size,
            &Limits {
                max_pixels: limits.max_pixels * PIXEL_BYTES / pixel_bytes,
                ..*limits
            },
        )?;
    }
    decoder
        .set_limits(budget(decoder.total_bytes()))
        .map_err(|error| describe(format, error))?;
    Ok(Opened {
        size,
        orientation: decoder.orientation().unwrap_or(Orientation::NoTransforms),
        warning: None,
        lossless: true,
        read: Box::new(move || {
            DynamicImage::from_decoder(decoder).map_err(|error| describe(format, error))
        }),
    })
}

fn check_size(
    format: Format,
    (width, height): (u32, u32),
    limits: &Limits,
) -> Result<(), ImageError> {
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 {
        return Err(corrupt(format, format!("its size is {width} x {height}")));
    }
    if width.max(height) > limits.max_side || pixels > limits.max_pixels {
        let Limits {
            max_pixels,
            max_side,
            ..
        } = *limits;
        return Err(ImageError::TooLarge {
            width,
            height,
            max_side,
            max_pixels,
        });
    }
    Ok(())
}

/// The decoder's memory limit: the decoded pixels, and as much again for intermediate buffers.
fn budget(bytes: u64) -> image::Limits {
    let mut budget = image::Limits::no_limits();
    budget.max_alloc = Some(bytes.saturating_mul(2).saturating_add(SIDE_BYTES));
    budget
}

fn gif<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Opened<'a>, ImageError> {
    const FORMAT: Format = Format::Gif;
    let options = |pixels: u64| {
        let mut options = gif::DecodeOptions::new();
        options.set_color_output(gif::ColorOutput::RGBA);
        let bytes = std::num::NonZeroU64::new(pixels.saturating_mul(4))
            .unwrap_or(std::num::NonZeroU64::MIN);
        options.set_memory_limit(gif::MemoryLimit::Bytes(bytes));
        options
    };
    let mut outline = options(limits.max_pixels);
    outline.skip_frame_decoding(true);
    let mut frames = outline.read_info(Cursor::new(bytes)).map_err(gif_fault)?;
    let size = (u32::from(frames.width()), u32::from(frames.height()));
    check_size(FORMAT, size, limits)?;
    let mut has_frame = || matches!(frames.next_frame_info(), Ok(Some(_)));
    let animated = has_frame() && has_frame();
    let max_pixels = limits.max_pixels;
    Ok(Opened {
        size,
        orientation: Orientation::NoTransforms,
        warning: animated.then_some(ANIMATED),
        lossless: true,
        read: Box::new(move || {
            let mut decoder = options(max_pixels)
                .read_info(Cursor::new(bytes))
                .map_err(gif_fault)?;
            let frame = decoder.read_next_frame().map_err(gif_fault)?;
            let frame = frame.ok_or_else(|| corrupt(FORMAT, "it has no frame".to_owned()))?;
            let (left, top) = (frame.left.into(), frame.top.into());
            let pixels = RgbaImage::from_raw(
                frame.width.into(),
                frame.height.into(),
                frame.buffer.to_vec(),
            );
            let pixels = pixels
                .ok_or_else(|| corrupt(FORMAT, "its first frame is incomplete".to_owned()))?;
            if pixels.dimensions() == size && (left, top) == (0, 0) {
                return Ok(DynamicImage::ImageRgba8(pixels));
            }
            let mut screen = RgbaImage::new(size.0, size.1);
            imageops::replace(&mut screen, &pixels, left, top);
            Ok(DynamicImage::ImageRgba8(screen))
        }),
    })
}

fn gif_fault(error: gif::DecodingError) -> ImageError {
    match error {
        gif::DecodingError::UnexpectedEof => truncated(Format::Gif),
        gif::DecodingError::Io(io) if io.kind() == ErrorKind::UnexpectedEof => {
            truncated(Format::Gif)
        }
        gif::DecodingError::OutOfMemory | gif::DecodingError::MemoryLimit => corrupt(
            Format::Gif,
            "its first frame is larger than an image may be".to_owned(),
        ),
        other => corrupt(Format::Gif, other.to_string()),
    }
}

/// Values of TIFF tags.
const RGB_PALETTE: u16 = 3;
const JPEG_COMPRESSIONS: [u16; 2] = [6, 7];
const UNSPECIFIED: u16 = 0;
const ASSOCIATED_ALPHA: u16 = 1;

fn tiff<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Opened<'a>, ImageError> {
    const FORMAT: Format = Format::Tiff;
    let mut header = tiff::decoder::Decoder::new(Cursor::new(bytes)).map_err(tiff_fault)?;
    let size = header.dimensions().map_err(tiff_fault)?;
    check_size(FORMAT, size, limits)?;
    let warning = header.more_images().then_some(PAGES);
    let number = |header: &mut tiff::decoder::Decoder<_>, tag| {
        header.find_tag_unsigned::<u16>(tag).map_err(tiff_fault)
    };
    let compression = number(&mut header, Tag::Compression)?;
    let lossless = !compression.is_some_and(|compression| JPEG_COMPRESSIONS.contains(&compression));
    if number(&mut header, Tag::PhotometricInterpretation)? == Some(RGB_PALETTE) {
        let turn = number(&mut header, Tag::Orientation)?
            .and_then(|turn| Orientation::from_exif(turn.try_into().ok()?));
        let orientation = turn.unwrap_or(Orientation::NoTransforms);
        let bits = number(&mut header, Tag::BitsPerSample)?.unwrap_or(1);
        let colours = header.get_tag_u16_vec(Tag::ColorMap).map_err(tiff_fault)?;
        let read = Box::new(move || tiff_palette(bytes, size, bits.into(), &colours));
        return Ok(Opened {
            size,
            orientation,
            warning,
            lossless,
            read,
        });
    }
    let extra = header
        .find_tag_unsigned_vec::<u16>(Tag::ExtraSamples)
        .map_err(tiff_fault)?;
    let alpha = extra.and_then(|samples| samples.first().copied());
    let decoder = TiffDecoder::new(Cursor::new(bytes)).map_err(|error| describe(FORMAT, error))?;
    let opened = of_decoder(FORMAT, decoder, limits)?;
    let read = Box::new(move || {
        let image = (opened.read)()?;
        Ok(match alpha {
            _ if matches!(
                image,
                DynamicImage::ImageRgb32F(_) | DynamicImage::ImageRgba32F(_)
            ) =>
            {
                return Err(corrupt(
                    FORMAT,
                    "its samples are 32-bit floats; save them in 8 or 16 bits".to_owned(),
                ));
            }
            Some(UNSPECIFIED) if image.color().has_alpha() => {
                DynamicImage::ImageRgb8(image.into_rgb8())
            }
            Some(ASSOCIATED_ALPHA) if image.color().has_alpha() => unassociated(image),
            _ => image,
        })
    });
    Ok(Opened {
        warning,
        lossless,
        read,
        ..opened
    })
}

/// Undoes premultiplied alpha.
fn unassociated(image: DynamicImage) -> DynamicImage {
    let mut rgba = image.into_rgba8();
    for Rgba([r, g, b, alpha]) in rgba.pixels_mut() {
        for value in [r, g, b] {
            *value = (u32::from(*value) * 255 / u32::from((*alpha).max(1))).min(255) as u8;
        }
    }
    DynamicImage::ImageRgba8(rgba)
}

/// The `tiff` crate does not read palettes: the file is presented as greyscale, whose values are
/// the palette indices.
fn tiff_palette(
    bytes: &[u8],
    size: (u32, u32),
    bits: usize,
    colours: &[u16],
) -> Result<DynamicImage, ImageError> {
    let fault = |reason: &str| corrupt(Format::Tiff, reason.to_owned());
    let count = 1usize << bits.min(16);
    if ![1, 2, 4, 8].contains(&bits) || colours.len() != 3 * count {
        return Err(fault(
            "its palette has another size than its pixels ask for",
        ));
    }
    let as_grey = as_grey(bytes)
        .ok_or_else(|| fault("a palette in a BigTIFF is not read; save it as RGB"))?;
    let mut limits = tiff::decoder::Limits::default();
    limits.decoding_buffer_size = size.0 as usize * size.1 as usize;
    limits.intermediate_buffer_size = limits.decoding_buffer_size + SIDE_BYTES as usize;
    let decoder = tiff::decoder::Decoder::new(Cursor::new(&as_grey[..])).map_err(tiff_fault)?;
    let decoded = decoder
        .with_limits(limits)
        .read_image()
        .map_err(tiff_fault)?;
    let tiff::decoder::DecodingResult::U8(packed) = decoded else {
        return Err(fault("its indices are not bytes"));
    };
    let row_bytes = (size.0 as usize * bits).div_ceil(8);
    if packed.len() < row_bytes * size.1 as usize {
        return Err(truncated(Format::Tiff));
    }
    let rgb = image::RgbImage::from_fn(size.0, size.1, |x, y| {
        let bit = x as usize * bits;
        let byte = packed[y as usize * row_bytes + bit / 8];
        let index = usize::from(byte >> (8 - bits - bit % 8)) & (count - 1);
        image::Rgb([0, 1, 2].map(|channel| (colours[channel * count + index] >> 8) as u8))
    });
    Ok(DynamicImage::ImageRgb8(rgb))
}

/// A copy of the file whose first page has the photometric interpretation BlackIsZero. `None` for a
/// BigTIFF.
fn as_grey(bytes: &[u8]) -> Option<Vec<u8>> {
    const PHOTOMETRIC_INTERPRETATION: u16 = 262;
    const BLACK_IS_ZERO: u16 = 1;
    let big = bytes.starts_with(b"MM");
    let short = |at: usize| {
        let two = bytes.get(at..at + 2)?.try_into().ok()?;
        Some(if big {
            u16::from_be_bytes(two)
        } else {
            u16::from_le_bytes(two)
        })
    };
    let four: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
    let directory = if big {
        u32::from_be_bytes(four)
    } else {
        u32::from_le_bytes(four)
    } as usize;
    if short(2)? != 42 {
        return None;
    }
    let entries = usize::from(short(directory)?);
    let entry = (0..entries)
        .map(|entry| directory + 2 + 12 * entry)
        .find(|at| short(*at) == Some(PHOTOMETRIC_INTERPRETATION))?;
    let value = if big {
        BLACK_IS_ZERO.to_be_bytes()
    } else {
        BLACK_IS_ZERO.to_le_bytes()
    };
    let mut changed = bytes.to_vec();
    changed
        .get_mut(entry + 8..entry + 10)?
        .copy_from_slice(&value);
    Some(changed)
}

fn tiff_fault(error: tiff::TiffError) -> ImageError {
    match error {
        tiff::TiffError::IoError(io) if io.kind() == ErrorKind::UnexpectedEof => {
            truncated(Format::Tiff)
        }
        other => corrupt(Format::Tiff, other.to_string()),
    }
}

/// Read from the first image chunk; of an animation, from its first frame.
/// Whether there are fewer bytes than the file's head says.
fn webp_ends_early(bytes: &[u8]) -> bool {
    let size = bytes.get(4..8).and_then(|size| size.try_into().ok());
    size.is_some_and(|size| bytes.len() < 8 + u32::from_le_bytes(size) as usize)
}

fn webp_is_lossless(bytes: &[u8]) -> bool {
    let mut at = 12;
    while let Some(header) = bytes.get(at..at + 8) {
        let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        match &header[..4] {
            b"VP8L" => return true,
            b"VP8 " => return false,
            b"ANMF" => at += 8 + 16,
            _ => at += 8 + length.next_multiple_of(2),
        }
    }
    false
}

/// Whether the JPEG's end-of-image marker follows its scans. The decoder fills missing data with
/// grey and returns no error.
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

fn truncated(format: Format) -> ImageError {
    ImageError::Truncated {
        format: format.name(),
    }
}

fn corrupt(format: Format, reason: String) -> ImageError {
    ImageError::Corrupt {
        format: format.name(),
        reason,
    }
}

/// What the PNG library says, with chunks by their names: it prints its own type.
fn with_plain_chunks(reason: &str) -> String {
    let mut parts = reason.split("ChunkType { type: ");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (chunk, rest) = part.split_once(" }").unwrap_or((part, ""));
        plain.push_str(chunk.split(',').next().unwrap_or_default());
        plain.push_str(rest);
    }
    plain
}

fn describe(format: Format, error: image::ImageError) -> ImageError {
    match error {
        image::ImageError::IoError(io) if io.kind() == ErrorKind::UnexpectedEof => {
            truncated(format)
        }
        image::ImageError::Unsupported(_) => corrupt(
            format,
            "its kind of pixels is not read; save it as 8-bit RGB".to_owned(),
        ),
        // The cause alone: the error repeats the format.
        image::ImageError::Decoding(error) => {
            let cause = error.source().map(ToString::to_string);
            corrupt(
                format,
                with_plain_chunks(&cause.unwrap_or_else(|| error.to_string())),
            )
        }
        other => corrupt(format, other.to_string()),
    }
}
