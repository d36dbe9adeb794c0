//! Objects of COCO's annotations: instances with categories, outlined by polygons or by run lengths
//! (plain, or in COCO's own code of characters). As the paper's data has it, the largest object of a
//! category in each image; crowds are left out. Format: Lin et al., "Microsoft COCO".

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

use image::RgbaImage;
use resvg::tiny_skia::{FillRule, Mask, PathBuilder, Transform};
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::{BamError, options::Classes};
use crate::{
    files::hex,
    picture::decode::{Limits, decode_with_alpha},
};

/// The largest file of annotations; COCO's own has 450 MB.
const MAX_BYTES: u64 = 1 << 30;

/// Objects by their places, in the order of the file.
#[derive(Debug)]
pub struct Coco {
    images: PathBuf,
    text: String,
    objects: Vec<Object>,
    /// SHA-256 of the annotations, hex.
    pub hash: String,
}

#[derive(Debug)]
struct Object {
    category: String,
    file: String,
    size: (u32, u32),
    area: f64,
    /// Of its segmentation in the text.
    outline: Range<usize>,
}

#[derive(Deserialize)]
struct Annotations<'a> {
    images: Vec<Image>,
    #[serde(borrow)]
    annotations: Vec<Annotation<'a>>,
    categories: Vec<Category>,
}

#[derive(Deserialize)]
struct Image {
    id: u64,
    file_name: String,
    width: u32,
    height: u32,
}

#[derive(Deserialize)]
struct Annotation<'a> {
    image_id: u64,
    category_id: u64,
    #[serde(default)]
    area: f64,
    #[serde(default)]
    iscrowd: u8,
    #[serde(borrow)]
    segmentation: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Category {
    id: u64,
    name: String,
}

/// An annotation's outline.
#[derive(Deserialize)]
#[serde(untagged)]
enum Outline {
    /// x and y in turn, of each polygon.
    Polygons(Vec<Vec<f32>>),
    Runs(Runs),
}

/// Lengths of runs down the columns, outside first.
#[derive(Deserialize)]
struct Runs {
    /// Height and width.
    size: [u32; 2],
    counts: Counts,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Counts {
    Plain(Vec<u64>),
    Code(String),
}

impl Coco {
    /// Reads a file of annotations whose images lie in a folder.
    pub fn read(annotations: &Path, images: &Path) -> Result<Self, BamError> {
        let fault = |reason: String| BamError::Annotations { reason };
        let length = fs::metadata(annotations)
            .map_err(|error| fault(error.to_string()))?
            .len();
        if length > MAX_BYTES {
            return Err(fault(format!(
                "they have {length} bytes, and {MAX_BYTES} are allowed"
            )));
        }
        let text = fs::read_to_string(annotations).map_err(|error| fault(error.to_string()))?;
        Self::parse(text, images).map_err(|error| fault(error.to_string()))
    }

    fn parse(text: String, folder: &Path) -> Result<Self, serde_json::Error> {
        let Annotations {
            images,
            annotations,
            categories,
        } = serde_json::from_str(&text)?;
        let images: HashMap<u64, &Image> = images.iter().map(|image| (image.id, image)).collect();
        let categories: HashMap<u64, &String> = categories
            .iter()
            .map(|category| (category.id, &category.name))
            .collect();
        let mut largest: BTreeMap<(&String, &String), Object> = BTreeMap::new();
        for annotation in annotations
            .iter()
            .filter(|annotation| annotation.iscrowd == 0)
        {
            let (Some(image), Some(category), Some(outline)) = (
                images.get(&annotation.image_id),
                categories.get(&annotation.category_id),
                annotation.segmentation,
            ) else {
                continue;
            };
            let key = (*category, &image.file_name);
            if largest
                .get(&key)
                .is_some_and(|before| before.area >= annotation.area)
            {
                continue;
            }
            // The text of the annotation is a part of the whole text.
            let start = outline.get().as_ptr() as usize - text.as_ptr() as usize;
            let object = Object {
                category: (*category).clone(),
                file: image.file_name.clone(),
                size: (image.width, image.height),
                area: annotation.area,
                outline: start..start + outline.get().len(),
            };
            largest.insert(key, object);
        }
        let objects = largest.into_values().collect();
        let hash = hex(&Sha256::digest(&text));
        Ok(Self {
            images: folder.to_owned(),
            objects,
            text,
            hash,
        })
    }

    pub(super) fn classes(&self) -> Classes {
        let mut classes = Classes::new();
        for (at, object) in self.objects.iter().enumerate() {
            classes.entry(object.category.clone()).or_default().push(at);
        }
        classes
    }

    pub(super) fn file(&self, at: usize) -> &str {
        self.objects.get(at).map_or("", |object| &object.file)
    }

    pub(super) fn cutout(&self, at: usize, limits: &Limits) -> Result<RgbaImage, BamError> {
        let object = self.objects.get(at).ok_or_else(|| BamError::Annotations {
            reason: format!("they have no object {at}"),
        })?;
        let fault = |reason: String| BamError::Segmentation {
            file: object.file.clone(),
            reason,
        };
        // A name may not lead out of the folder.
        let is_below = |path: &Path| {
            path.components()
                .all(|part| matches!(part, std::path::Component::Normal(_)))
        };
        let name = Path::new(&object.file);
        if !is_below(name) {
            return Err(fault(
                "its image lies outside of the folder of images".to_owned(),
            ));
        }
        let bytes = fs::read(self.images.join(name)).map_err(|error| fault(error.to_string()))?;
        let mut pixels = decode_with_alpha(&bytes, limits).map_err(|source| BamError::Image {
            file: object.file.clone(),
            source,
        })?;
        if pixels.dimensions() != object.size {
            let (found, said) = (pixels.dimensions(), object.size);
            return Err(fault(format!(
                "the image is {} x {} pixels, and {} x {} by the annotations",
                found.0, found.1, said.0, said.1
            )));
        }
        let outline = self.text.get(object.outline.clone()).unwrap_or_default();
        let alpha = alpha(outline, object.size).map_err(fault)?;
        for (pixel, alpha) in pixels.pixels_mut().zip(alpha) {
            pixel.0[3] = alpha;
        }
        Ok(pixels)
    }
}

/// How far each pixel of an image of this width and height is inside of an outline, out of 255, row
/// by row.
fn alpha(outline: &str, (width, height): (u32, u32)) -> Result<Vec<u8>, String> {
    match serde_json::from_str(outline) {
        Ok(Outline::Polygons(polygons)) => fill(&polygons, (width, height)),
        Ok(Outline::Runs(Runs { size, counts })) if size == [height, width] => {
            let runs = match counts {
                Counts::Plain(runs) => runs,
                Counts::Code(code) => decode_runs(&code)?,
            };
            expand(&runs, (width as usize, height as usize))
        }
        Ok(Outline::Runs(Runs { size, .. })) => {
            Err(format!("its runs are of {} x {} pixels", size[1], size[0]))
        }
        Err(_) => Err("it is neither polygons nor run lengths".to_owned()),
    }
}

fn fill(polygons: &[Vec<f32>], (width, height): (u32, u32)) -> Result<Vec<u8>, String> {
    let mut builder = PathBuilder::new();
    for polygon in polygons {
        let (points, rest) = polygon.as_chunks::<2>();
        if points.len() < 3 || !rest.is_empty() {
            return Err("a polygon has an x and a y of at least 3 points".to_owned());
        }
        for (at, [x, y]) in points.iter().enumerate() {
            match at {
                0 => builder.move_to(*x, *y),
                _ => builder.line_to(*x, *y),
            }
        }
        builder.close();
    }
    let path = builder
        .finish()
        .ok_or("its polygons are empty, or not finite")?;
    let mut mask = Mask::new(width, height).ok_or("its image has no pixels")?;
    mask.fill_path(&path, FillRule::Winding, true, Transform::identity());
    Ok(mask.data().to_vec())
}

/// COCO's code: each number in characters of five bits from `0` on, the lowest first, with a sixth
/// bit where more follow; from the fourth run on, the difference to the last but one.
fn decode_runs(code: &str) -> Result<Vec<u64>, String> {
    const BAD: &str = "its run lengths are no code of COCO's";
    let mut runs: Vec<i64> = Vec::new();
    let (mut number, mut shift) = (0_i64, 0);
    for byte in code.bytes() {
        let bits = byte
            .checked_sub(b'0')
            .filter(|bits| *bits < 64 && shift < 60)
            .ok_or(BAD)?;
        number |= i64::from(bits & 0x1f) << shift;
        shift += 5;
        if bits & 0x20 != 0 {
            continue;
        }
        if bits & 0x10 != 0 {
            number |= -1 << shift;
        }
        if let Some(before) = runs.len().checked_sub(2).filter(|at| *at > 0) {
            number += runs[before];
        }
        runs.push(number);
        (number, shift) = (0, 0);
    }
    let runs = runs
        .into_iter()
        .map(u64::try_from)
        .collect::<Result<_, _>>();
    runs.map_err(|_| BAD.to_owned())
        .and_then(|runs| match shift {
            0 => Ok(runs),
            _ => Err(BAD.to_owned()),
        })
}

fn expand(runs: &[u64], (width, height): (usize, usize)) -> Result<Vec<u8>, String> {
    let (pixels, total) = (
        width * height,
        runs.iter()
            .try_fold(0_u64, |sum, run| sum.checked_add(*run)),
    );
    if total != Some(pixels as u64) {
        return Err("its run lengths do not add up to the image".to_owned());
    }
    let mut alpha = vec![0; pixels];
    let mut start = 0;
    for (at, run) in runs.iter().enumerate() {
        let end = start + *run as usize;
        if at % 2 == 1 {
            for place in start..end {
                alpha[place % height * width + place / height] = u8::MAX;
            }
        }
        start = end;
    }
    Ok(alpha)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Outlines with the masks that pycocotools gives.
    fn stored() -> Value {
        serde_json::from_str(include_str!("../../tests/data/coco/masks.json")).unwrap()
    }

    fn size_of(value: &Value) -> (u32, u32) {
        let side = |at: usize| value["size"][at].as_u64().unwrap() as u32;
        (side(1), side(0))
    }

    fn mask_of(value: &Value) -> Vec<u64> {
        let rows = value["mask"].as_array().unwrap().iter();
        let values = rows.flat_map(|row| row.as_array().unwrap());
        values.map(|value| value.as_u64().unwrap()).collect()
    }

    #[test]
    fn run_lengths_are_the_masks_that_pycocotools_encodes() {
        for runs in stored()["runs"].as_array().unwrap() {
            let outline = json!({ "size": runs["size"], "counts": runs["counts"] }).to_string();
            let found = alpha(&outline, size_of(runs)).unwrap();
            let expected: Vec<u8> = mask_of(runs)
                .iter()
                .map(|inside| 255 * *inside as u8)
                .collect();
            assert_eq!(found, expected);
            // The same as plain numbers.
            let code = runs["counts"].as_str().unwrap();
            let plain = json!({ "size": runs["size"], "counts": decode_runs(code).unwrap() });
            assert_eq!(alpha(&plain.to_string(), size_of(runs)).unwrap(), expected);
        }
        // Down the columns, outside first: 3 rows, 2 columns.
        let by_hand = json!({ "size": [3, 2], "counts": [1, 3, 2] }).to_string();
        assert_eq!(alpha(&by_hand, (2, 3)).unwrap(), [0, 255, 255, 0, 255, 0]);
    }

    #[test]
    fn polygons_cover_their_pixels_and_nearly_those_of_pycocotools() {
        let square = "[[1,1,4,1,4,3,1,3]]";
        let found = alpha(square, (5, 4)).unwrap();
        let inside = |at: usize| (1..4).contains(&(at % 5)) && (1..3).contains(&(at / 5));
        assert!(
            found
                .iter()
                .enumerate()
                .all(|(at, alpha)| *alpha == 255 * u8::from(inside(at)))
        );
        // Half of a pixel.
        let half = alpha("[[0,0,0.5,0,0.5,1,0,1],[1,0,2,0,2,1,1,1]]", (2, 1)).unwrap();
        assert!(half[0].abs_diff(128) <= 16 && half[1] == 255, "{half:?}");
        let stored = &stored()["polygons"];
        let found = alpha(&stored["outline"].to_string(), size_of(stored)).unwrap();
        let expected = mask_of(stored);
        let inside = |alpha: &u8| u64::from(*alpha >= 128);
        let both = found
            .iter()
            .zip(&expected)
            .filter(|(a, b)| inside(a) + **b == 2)
            .count();
        let any = found
            .iter()
            .zip(&expected)
            .filter(|(a, b)| inside(a) + **b >= 1)
            .count();
        assert!(both as f64 / any as f64 > 0.94, "{both} of {any}");
        let area = |polygon: &Value| {
            let at: Vec<f64> = polygon
                .as_array()
                .unwrap()
                .iter()
                .map(|x| x.as_f64().unwrap())
                .collect();
            let points = at.len() / 2;
            let cross = |i: usize, j: usize| at[2 * i] * at[2 * j + 1] - at[2 * j] * at[2 * i + 1];
            (0..points)
                .map(|i| cross(i, (i + 1) % points))
                .sum::<f64>()
                .abs()
                / 2.0
        };
        let exact: f64 = stored["outline"].as_array().unwrap().iter().map(area).sum();
        let covered = found
            .iter()
            .map(|alpha| f64::from(*alpha) / 255.0)
            .sum::<f64>();
        assert!((covered / exact - 1.0).abs() < 0.01, "{covered} of {exact}");
    }

    #[test]
    fn bad_outlines_are_told() {
        for (outline, reason) in [
            ("7", "neither polygons nor run lengths"),
            ("[[1,2,3,4]]", "at least 3 points"),
            ("[[1,2,3,4,5,6,7]]", "at least 3 points"),
            ("[]", "empty, or not finite"),
            (
                "[[1e39,0,1,1,0,1]]",
                "neither polygons nor run lengths|not finite",
            ),
            ("{\"size\":[2,2],\"counts\":[4]}", "2 x 2 pixels"),
            ("{\"size\":[4,3],\"counts\":[4]}", "do not add up"),
            (
                "{\"size\":[4,3],\"counts\":[18446744073709551615,13]}",
                "do not add up",
            ),
            ("{\"size\":[4,3],\"counts\":\"~\"}", "no code of COCO's"),
            (
                "{\"size\":[4,3],\"counts\":\"ooooooooooooooooo\"}",
                "no code of COCO's",
            ),
            ("{\"size\":[4,3],\"counts\":\"P\"}", "no code of COCO's"),
            ("{\"size\":[4,3],\"counts\":\"N\"}", "no code of COCO's"),
        ] {
            let found = alpha(outline, (3, 4)).unwrap_err();
            assert!(
                reason.split('|').any(|reason| found.contains(reason)),
                "{outline}: {found}"
            );
        }
    }

    fn annotations() -> Value {
        json!({
            "info": { "year": 2017 },
            "images": [
                { "id": 1, "file_name": "a.png", "width": 5, "height": 4 },
                { "id": 2, "file_name": "b.png", "width": 5, "height": 4 },
            ],
            "annotations": [
                { "id": 1, "image_id": 1, "category_id": 18, "area": 2.0, "segmentation": [[0, 0, 2, 0, 2, 1, 0, 1]] },
                { "id": 2, "image_id": 1, "category_id": 18, "area": 6.0, "segmentation": [[1, 1, 4, 1, 4, 3, 1, 3]] },
                { "id": 3, "image_id": 2, "category_id": 3, "area": 20.0, "iscrowd": 1, "segmentation": { "size": [4, 5], "counts": [0, 20] } },
                { "id": 4, "image_id": 2, "category_id": 3, "area": 4.0, "segmentation": { "size": [4, 5], "counts": [16, 4] } },
                { "id": 5, "image_id": 9, "category_id": 3, "area": 4.0, "segmentation": [[0, 0, 1, 0, 1, 1]] },
            ],
            "categories": [{ "id": 3, "name": "car" }, { "id": 18, "name": "dog" }],
        })
    }

    #[test]
    fn the_largest_object_of_a_category_in_each_image_is_cut_out() {
        let folder = tempfile::tempdir().unwrap();
        let photo = image::RgbImage::from_pixel(5, 4, image::Rgb([7, 8, 9]));
        photo.save(folder.path().join("a.png")).unwrap();
        image::RgbImage::new(5, 5)
            .save(folder.path().join("b.png"))
            .unwrap();
        let coco = Coco::parse(annotations().to_string(), folder.path()).unwrap();
        let classes = coco.classes();
        assert_eq!(
            classes,
            Classes::from([("car".into(), vec![0]), ("dog".into(), vec![1])])
        );
        let dog = coco.cutout(1, &Limits::default()).unwrap();
        let visible = dog
            .pixels()
            .filter(|pixel| pixel.0 == [7, 8, 9, 255])
            .count();
        assert_eq!(
            (visible, dog.get_pixel(1, 1).0[3], dog.get_pixel(4, 3).0[3]),
            (6, 255, 0)
        );
        let told = coco.cutout(0, &Limits::default()).unwrap_err().to_string();
        assert!(
            told.contains("b.png: the image is 5 x 5 pixels, and 5 x 4 by the annotations"),
            "{told}"
        );
        let mut outside = annotations();
        outside["images"][0]["file_name"] = json!("../a.png");
        let coco = Coco::parse(outside.to_string(), &folder.path().join("images")).unwrap();
        let told = coco.cutout(1, &Limits::default()).unwrap_err().to_string();
        assert!(told.contains("lies outside of the folder"), "{told}");
        let file = folder.path().join("annotations.json");
        std::fs::write(&file, "{\"images\": 1}").unwrap();
        let told = Coco::read(&file, folder.path()).unwrap_err().to_string();
        assert!(
            told.starts_with("the annotations cannot be read: invalid type"),
            "{told}"
        );
    }
}
