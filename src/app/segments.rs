//! Segments sent with a request -> regions in the model's pixels: a label image (each colour a
//! region), or an npy file of labels (a negative one: no region) or of masks. In the upload's
//! pixels they go through its resize and crop, to the nearest pixel; in the model's, as they are.
//! Synchronous; runs on the pool.

use bytes::Bytes;
use ndarray::Array2;

use crate::{
    faults::{Fault, Faults},
    picture::{
        decode::{LabelImage, Limits},
        geometry::Geometry,
    },
    segment::{
        Segmentation,
        regions::{Regions, UNLABELLED},
    },
    tensor::{Holds, NPY_MAGIC, Npy},
};

pub const FORMS: [&str; 3] = [
    "a PNG (or another lossless type) whose colours are labels",
    "an npy file of integer labels, [height, width] or [n, height, width]",
    "an npy file of bool masks, [n, height, width]",
];
const MAX_MASKS: usize = 4096;
/// How many times over regions may cover the picture.
const MAX_LAYERS: usize = 64;

/// What an npy file of them may hold.
const ELEMENTS: &str = "integers (labels) or bool (masks)";

/// As they came: of a form that is allowed, by their header. Their pixels are read when they are
/// needed.
#[derive(Debug)]
pub(super) struct SentSegments {
    bytes: Bytes,
    limits: Limits,
    /// Height and width.
    size: (usize, usize),
}

fn refuse<T>(
    message: impl Into<String>,
    allowed: impl IntoIterator<Item = String>,
) -> Result<T, Faults> {
    Err(Fault::new("segments", message, allowed).into())
}

fn unreadable<T>(error: impl std::fmt::Display) -> Result<T, Faults> {
    refuse(error.to_string(), FORMS.map(str::to_owned))
}

impl SentSegments {
    /// Looks at the header.
    pub(super) fn new(bytes: Bytes, limits: Limits) -> Result<Self, Faults> {
        let size = match bytes.starts_with(NPY_MAGIC) {
            true => npy_size(&Npy::read(&bytes, ELEMENTS).or_else(unreadable)?)?,
            false => {
                let (width, height) = LabelImage::size(&bytes, &limits).or_else(unreadable)?;
                (height as usize, width as usize)
            }
        };
        Ok(Self {
            bytes,
            limits,
            size,
        })
    }

    pub(super) fn pixels(&self) -> u64 {
        self.size.0 as u64 * self.size.1 as u64
    }

    /// Refuses those that have neither the size of the upload nor that of the model's input; all
    /// are (height, width).
    pub(super) fn check_size(
        &self,
        upload: Option<(usize, usize)>,
        model: (usize, usize),
    ) -> Result<(), Faults> {
        if upload == Some(self.size) || self.size == model {
            return Ok(());
        }
        let of = |size: (usize, usize), whose: &str| format!("{} x {} ({whose})", size.0, size.1);
        let allowed = upload
            .map(|size| of(size, "the upload"))
            .into_iter()
            .chain([of(model, "the model's input")]);
        refuse(
            format!(
                "the segments are {} x {} (height, width)",
                self.size.0, self.size.1
            ),
            allowed,
        )
    }

    /// In the pixels of the model's input, which is `model` (height, width); `geometry` is that of
    /// the upload.
    pub(super) fn fit(
        &self,
        geometry: Option<&Geometry>,
        model: (usize, usize),
    ) -> Result<Segmentation, Faults> {
        let upload =
            geometry.map(|geometry| (geometry.upload.1 as usize, geometry.upload.0 as usize));
        self.check_size(upload, model)?;
        // The pixel of these segments that each of the model's shows.
        let places = match geometry {
            Some(geometry) if upload == Some(self.size) => geometry.nearest(),
            _ => Array2::from_shape_fn(model, Some),
        };
        if !self.bytes.starts_with(NPY_MAGIC) {
            let labels = LabelImage::decode(&self.bytes, &self.limits).or_else(unreadable)?;
            let seen = places.map(|place| place.map(|(y, x)| labels.label(x as u32, y as u32)));
            return Ok(Segmentation::of_maps(vec![number(&seen)], 0));
        }
        let file = Npy::read(&self.bytes, ELEMENTS).or_else(unreadable)?;
        match file.holds() {
            Holds::Bools => Ok(Segmentation {
                maps: Vec::new(),
                regions: masks(&file, &places)?,
            }),
            _ => Ok(Segmentation::of_maps(maps(&file, &places), 0)),
        }
    }
}

/// Height and width, of a shape that is allowed.
fn npy_size(file: &Npy<'_>) -> Result<(usize, usize), Faults> {
    let wrong = || format!("the array has shape {:?}", file.shape());
    match (file.holds(), file.shape()) {
        (Holds::Floats, _) => unreadable(file.wrong_element()),
        (Holds::Bools, [count, _, _]) if *count > MAX_MASKS => {
            refuse(wrong(), [format!("at most {MAX_MASKS} masks")])
        }
        (Holds::Bytes | Holds::Integers, [count, _, _]) if *count > MAX_LAYERS => {
            refuse(wrong(), [format!("1 to {MAX_LAYERS} maps of labels")])
        }
        (_, [_, height, width]) | (Holds::Bytes | Holds::Integers, [height, width]) => {
            Ok((*height, *width))
        }
        _ => unreadable(wrong()),
    }
}

type Places = Array2<Option<(usize, usize)>>;

/// One for each map of labels; a negative label is none.
fn maps(file: &Npy<'_>, places: &Places) -> Vec<Array2<u32>> {
    let (count, has_axis) = match file.shape() {
        [count, _, _] => (*count, true),
        _ => (1, false),
    };
    let label = |map: usize, (y, x): (usize, usize)| match has_axis {
        true => file.integer(&[map, y, x]),
        false => file.integer(&[y, x]),
    };
    let seen = |map| {
        places.map(|place| {
            place
                .and_then(|place| label(map, place))
                .filter(|label| *label >= 0)
        })
    };
    (0..count).map(|map| number(&seen(map))).collect()
}

fn masks(file: &Npy<'_>, places: &Places) -> Result<Regions, Faults> {
    let most = MAX_LAYERS * places.len();
    let mut lists = Vec::new();
    let mut area = 0;
    for mask in 0..file.shape()[0] {
        let inside = |place: &Option<(usize, usize)>| {
            place.is_some_and(|(y, x)| file.integer(&[mask, y, x]).is_some_and(|set| set != 0))
        };
        let pixels: Vec<u32> = places
            .iter()
            .zip(0..)
            .filter(|(place, _)| inside(place))
            .map(|(_, pixel)| pixel)
            .collect();
        area += pixels.len();
        if area > most {
            return refuse(
                "the masks overlap too much",
                [format!("{MAX_LAYERS} masks per pixel on average")],
            );
        }
        lists.push(pixels);
    }
    Ok(Regions::of_pixels(places.dim(), lists))
}

/// The labels that are seen counted from 0 in rising order; `None` is no region.
fn number<T: Copy + Ord>(labels: &Array2<Option<T>>) -> Array2<u32> {
    let mut known: Vec<T> = labels.iter().copied().flatten().collect();
    known.sort_unstable();
    known.dedup();
    labels.map(|label| {
        label
            .and_then(|label| known.binary_search(&label).ok())
            .map_or(UNLABELLED, |at| at as u32)
    })
}

#[cfg(test)]
mod tests {
    use ndarray::{Array3, ArrayBase, Data, Dimension, array};
    use ndarray_npy::{WritableElement, WriteNpyExt};

    use super::*;
    use crate::picture::preprocess::{Preprocess, Resize};

    /// Of an upload of 4 x 2 (width, height) padded to 4 x 4.
    fn padded() -> Geometry {
        let rule = Preprocess {
            resize: Resize::Pad,
            ..Preprocess::plain(4, 4)
        };
        Geometry::new((4, 2), &rule)
    }

    fn sent<S: Data<Elem: WritableElement>, D: Dimension>(array: &ArrayBase<S, D>) -> SentSegments {
        let mut bytes = Vec::new();
        array.write_npy(&mut bytes).unwrap();
        SentSegments::new(bytes.into(), Limits::default()).unwrap()
    }

    fn refused(found: Result<Segmentation, Faults>) -> Fault {
        found.unwrap_err().shown()[0].clone()
    }

    #[test]
    fn labels_of_the_upload_follow_its_geometry_and_those_of_the_model_stay() {
        let labels = array![[7i64, 7, -1, 300], [7, 9, 9, 9]];
        let none = UNLABELLED;
        let fitted = sent(&labels).fit(Some(&padded()), (4, 4)).unwrap();
        let row = [none; 4];
        assert_eq!(
            fitted.maps,
            [array![row, [0, 0, none, 2], [0, 1, 1, 1], row]]
        );
        assert_eq!(
            fitted.regions.iter().map(<[u32]>::len).collect::<Vec<_>>(),
            [3, 3, 1]
        );
        let whole = Array2::from_shape_fn((4, 4), |(y, _)| y as u32);
        assert_eq!(
            sent(&whole).fit(Some(&padded()), (4, 4)).unwrap().maps,
            [whole]
        );
        let several =
            Array3::from_shape_fn(
                (2, 4, 4),
                |(map, y, x)| if map == 0 { y as i8 } else { x as i8 - 1 },
            );
        let maps = sent(&several).fit(None, (4, 4)).unwrap().maps;
        assert_eq!(
            (maps.len(), maps[1].row(0).to_vec()),
            (2, vec![none, 0, 1, 2])
        );
    }

    #[test]
    fn masks_of_the_upload_follow_its_geometry() {
        let masks = sent(&Array3::from_shape_fn((2, 2, 4), |(mask, y, x)| {
            mask == 1 || (y == 0 && x % 3 == 0)
        }));
        let fitted = masks.fit(Some(&padded()), (4, 4)).unwrap();
        assert_eq!(
            fitted.regions.iter().collect::<Vec<_>>(),
            [&[4, 7][..], &[4, 5, 6, 7, 8, 9, 10, 11]]
        );
        assert!(fitted.maps.is_empty());
    }

    #[test]
    fn another_size_is_refused_with_the_sizes_that_fit() {
        let segments = sent(&Array2::<u32>::zeros((3, 5)));
        let fault = refused(segments.fit(Some(&padded()), (4, 4)));
        assert_eq!(fault.message, "the segments are 3 x 5 (height, width)");
        assert_eq!(
            fault.allowed,
            ["2 x 4 (the upload)", "4 x 4 (the model's input)"]
        );
        assert_eq!(
            refused(segments.fit(None, (4, 4))).allowed,
            ["4 x 4 (the model's input)"]
        );
    }

    #[test]
    fn masks_that_overlap_without_bound_are_refused() {
        let all = |count: usize| sent(&Array3::from_elem((count, 4, 4), true)).fit(None, (4, 4));
        assert_eq!(all(64).unwrap().regions.total_area(), 64 * 16);
        assert_eq!(refused(all(65)).param, "segments");
    }

    #[test]
    fn forms_that_are_no_segments_are_refused_by_their_header() {
        let refuse = |bytes: Vec<u8>| {
            SentSegments::new(bytes.into(), Limits::default())
                .unwrap_err()
                .shown()[0]
                .message
                .clone()
        };
        let npy = |descr: &str, shape: &str, bytes: usize| {
            let text =
                format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
            [
                b"\x93NUMPY\x01\x00",
                &(text.len() as u16).to_le_bytes()[..],
                text.as_bytes(),
                &vec![0; bytes],
            ]
            .concat()
        };
        assert!(refuse(npy("<f4", "(2, 2)", 16)).contains("holds float32; expected integers"));
        assert!(refuse(npy("|b1", "(2, 2)", 4)).contains("[2, 2]"));
        assert!(refuse(npy("|u1", "(65, 1, 1)", 65)).contains("[65, 1, 1]"));
        assert!(refuse(npy("|b1", "(4097, 1, 1)", 4097)).contains("4097"));
        assert!(refuse(b"neither".to_vec()).contains("no image"));
    }
}
