//! Makes the pictures of one composition, and says what they were made of.

use std::io::Cursor;

use image::{
    ExtendedColorType, ImageEncoder, Rgb, RgbImage,
    codecs::png::{CompressionType, FilterType, PngEncoder},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    BamError, Composition, Cutout, Objects, Part, Plan, Role, Scenes, cutout::square, sets::needed,
};
use crate::{
    files::hex,
    picture::{ImageError, decode::Limits},
};

/// What stands for the scene behind an object alone.
const GREY: Rgb<u8> = Rgb([128; 3]);

/// The files of a composition: names below the folder of a data set, and PNGs.
#[derive(Debug)]
pub struct Composed {
    pub entry: Entry,
    pub files: Vec<(String, Vec<u8>)>,
}

/// How a composition was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub group: String,
    pub part: Part,
    pub object: String,
    pub object_file: String,
    pub scene: String,
    pub scene_file: String,
    /// Left, top and side of the scene's square, in the photo's pixels.
    pub crop: [u32; 3],
    /// Left, top, width and height of the object, in the picture's pixels.
    pub place: [u32; 4],
    /// Name and SHA-256 of each file.
    pub files: Vec<(String, String)>,
}

/// Composes the pictures that the plan's data sets need. `photo` is that of the composition's
/// scene.
pub fn compose(
    plan: &Plan,
    one: &Composition,
    objects: &Objects,
    (scenes, photo): (&Scenes, &RgbImage),
    limits: &Limits,
) -> Result<Composed, BamError> {
    let options = &plan.options;
    let in_scene = |source: ImageError| BamError::Image {
        file: scenes.file(one.scene).to_owned(),
        source,
    };
    let in_object = |source: ImageError| BamError::Image {
        file: objects.file(one.object).to_owned(),
        source,
    };
    let crop = one.crop(options, photo.dimensions());
    let scene = square(photo, crop, options.size).map_err(in_scene)?;
    let cutout = objects.cutout(one.object, limits)?;
    let (width, height) = cutout.size(one.longer_side(options));
    let cutout = cutout.resized((width, height)).map_err(in_object)?;
    let [left, top] = one.corner(options, (width, height));
    let files = needed(plan, one).into_iter().map(|role| {
        let bytes = picture(role, &scene, &cutout, [left, top])?;
        Ok((role.file(plan, one), bytes))
    });
    let files = files.collect::<Result<Vec<_>, BamError>>()?;
    let hashes = files
        .iter()
        .map(|(name, bytes)| (name.clone(), hex(&Sha256::digest(bytes))));
    Ok(Composed {
        entry: Entry {
            group: plan.group(one),
            part: one.part,
            object: plan.object_class(one).to_owned(),
            object_file: objects.file(one.object).to_owned(),
            scene: plan.scene_class(one).to_owned(),
            scene_file: scenes.file(one.scene).to_owned(),
            crop,
            place: [left, top, width, height],
            files: hashes.collect(),
        },
        files,
    })
}

fn picture(
    role: Role,
    scene: &RgbImage,
    cutout: &Cutout,
    [left, top]: [u32; 2],
) -> Result<Vec<u8>, BamError> {
    let side = scene.width();
    let pasted = |mut below: RgbImage| {
        cutout.paste(&mut below, left, top);
        below
    };
    let made = match role {
        Role::Mask => {
            let mask = cutout.mask(side, left, top);
            return png(mask.as_raw(), side, ExtendedColorType::L8);
        }
        Role::With => pasted(scene.clone()),
        Role::Without => scene.clone(),
        Role::Grey => pasted(RgbImage::from_pixel(side, side, GREY)),
    };
    png(made.as_raw(), side, ExtendedColorType::Rgb8)
}

/// A square PNG of this side.
fn png(pixels: &[u8], side: u32, color: ExtendedColorType) -> Result<Vec<u8>, BamError> {
    let mut bytes = Cursor::new(Vec::new());
    PngEncoder::new_with_quality(&mut bytes, CompressionType::Fast, FilterType::Adaptive)
        .write_image(pixels, side, side, color)
        .map_err(|error| BamError::Encode {
            reason: error.to_string(),
        })?;
    Ok(bytes.into_inner())
}

/// The most bytes that a file of this role may have, in pictures of this side: fast deflate has a
/// code of at most 12 bits for a byte, and each row has a byte more.
pub fn greatest_bytes(role: Role, side: u32) -> u64 {
    const HEADERS: u64 = 2048;
    let channels = if role == Role::Mask { 1 } else { 3 };
    let side = u64::from(side);
    (channels * side + 1) * side * 12 / 8 + HEADERS
}
