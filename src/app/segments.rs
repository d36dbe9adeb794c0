//! Segments sent with a request -> regions in the model's pixels: a label image (each colour a region), or an npy file of labels (a negative
//! one: no region) or of masks. In the upload's pixels they go through its resize and crop, to the nearest pixel; in the model's, as they are.
//! Synchronous; runs on the pool.

use ndarray::{Array2, Array3, ArrayView2, Axis, Ix2, Ix3};

use crate::{
    image::{
        decode::{Limits, decode_labels},
        geometry::Geometry,
    },
    methods::{Fault, Faults},
    segment::{
        Segmentation,
        regions::{Regions, UNLABELLED},
    },
    tensor::{Marks, NPY_MAGIC, read_npy_marks},
};

pub const FORMS: [&str; 3] = [
    "a PNG whose colours are labels",
    "an npy file of integer labels, [height, width] or [n, height, width]",
    "an npy file of bool masks, [n, height, width]",
];
const MAX_MASKS: usize = 4096;
/// How many times over regions may cover the picture.
const MAX_LAYERS: usize = 64;

/// Not yet in the model's pixels.
#[derive(Debug)]
pub(super) enum SentSegments {
    /// Labels count from 0.
    Maps(Vec<Array2<u32>>),
    Masks(Array3<bool>),
}

fn refuse<T>(message: impl Into<String>, allowed: impl IntoIterator<Item = String>) -> Result<T, Faults> {
    Err(Fault::new("segments", message, allowed).into())
}

fn forms() -> impl Iterator<Item = String> {
    FORMS.into_iter().map(str::to_owned)
}

impl SentSegments {
    pub fn read(bytes: &[u8], limits: &Limits) -> Result<Self, Faults> {
        if !bytes.starts_with(NPY_MAGIC) {
            return match decode_labels(bytes, limits) {
                Ok(colours) => Ok(Self::Maps(vec![number(colours.view(), |_| true)])),
                Err(error) => refuse(error.to_string(), forms()),
            };
        }
        let marks = match read_npy_marks(bytes) {
            Ok(marks) => marks,
            Err(error) => return refuse(error.to_string(), forms()),
        };
        let shape = match &marks {
            Marks::Labels(labels) => labels.shape(),
            Marks::Masks(masks) => masks.shape(),
        };
        let wrong = format!("the array has shape {shape:?}");
        match marks {
            Marks::Labels(labels) if labels.ndim() == 2 || labels.ndim() == 3 => {
                let maps = if labels.ndim() == 2 { labels.insert_axis(Axis(0)) } else { labels };
                let planes = maps.outer_iter().filter_map(|map| map.into_dimensionality::<Ix2>().ok());
                match maps.len_of(Axis(0)) {
                    1..=MAX_LAYERS => Ok(Self::Maps(planes.map(|map| number(map, |label| *label >= 0)).collect())),
                    _ => refuse(wrong, [format!("1 to {MAX_LAYERS} maps of labels")]),
                }
            }
            Marks::Masks(masks) => match masks.into_dimensionality::<Ix3>() {
                Ok(masks) if masks.len_of(Axis(0)) > MAX_MASKS => refuse(wrong, [format!("at most {MAX_MASKS} masks")]),
                Ok(masks) => Ok(Self::Masks(masks)),
                Err(_) => refuse(wrong, forms()),
            },
            Marks::Labels(_) => refuse(wrong, forms()),
        }
    }

    /// (height, width).
    fn size(&self) -> (usize, usize) {
        match self {
            Self::Maps(maps) => maps.first().map_or((0, 0), Array2::dim),
            Self::Masks(masks) => (masks.len_of(Axis(1)), masks.len_of(Axis(2))),
        }
    }

    /// In the pixels of the model's input, which is `model` (height, width); `geometry` is that of the upload.
    pub fn fit(&self, geometry: Option<&Geometry>, model: (usize, usize)) -> Result<Segmentation, Faults> {
        let upload = geometry.map(|geometry| (geometry.upload.1 as usize, geometry.upload.0 as usize));
        let size = self.size();
        // The pixel of these segments that each of the model's shows.
        let places = match geometry {
            Some(geometry) if upload == Some(size) => geometry.nearest(),
            _ if size == model => Array2::from_shape_fn(model, Some),
            _ => {
                let of = |size: (usize, usize), whose: &str| format!("{} x {} ({whose})", size.0, size.1);
                let allowed =
                    upload.map(|size| of(size, "the upload")).into_iter().chain([of(model, "the model's input")]);
                return refuse(format!("the segments are {} x {} (height, width)", size.0, size.1), allowed);
            }
        };
        let most = MAX_LAYERS * places.len();
        match self {
            Self::Maps(maps) => {
                let fit = |map: &Array2<u32>| places.mapv(|place| place.map_or(UNLABELLED, |place| map[place]));
                Ok(Segmentation::of_maps(maps.iter().map(fit).collect(), 0))
            }
            Self::Masks(masks) => {
                let mut lists = Vec::new();
                let mut area = 0;
                for mask in masks.outer_iter() {
                    let inside = |place: &Option<(usize, usize)>| place.is_some_and(|place| mask[place]);
                    let pixels: Vec<u32> =
                        places.iter().zip(0..).filter(|(place, _)| inside(place)).map(|(_, pixel)| pixel).collect();
                    area += pixels.len();
                    if area > most {
                        return refuse(
                            "the masks overlap too much",
                            [format!("{MAX_LAYERS} masks per pixel on average")],
                        );
                    }
                    lists.push(pixels);
                }
                Ok(Segmentation { maps: Vec::new(), regions: Regions::of_pixels(model, lists) })
            }
        }
    }
}

/// The labels counted from 0 in rising order; those that are not `named` are no region.
fn number<T: Copy + Ord>(labels: ArrayView2<'_, T>, named: impl Fn(&T) -> bool) -> Array2<u32> {
    let mut known: Vec<T> = labels.iter().copied().filter(named).collect();
    known.sort_unstable();
    known.dedup();
    labels.map(|label| known.binary_search(label).map_or(UNLABELLED, |at| at as u32))
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;
    use crate::model::manifest::{Channels, Filter, Layout, Preprocess, Resize};

    /// Of an upload of 4 x 2 (width, height) padded to 4 x 4.
    fn padded() -> Geometry {
        let rule = Preprocess {
            width: 4,
            height: 4,
            layout: Layout::Nchw,
            channels: Channels::Rgb,
            scale: 1.0,
            mean: vec![],
            std: vec![],
            resize: Resize::Pad,
            filter: Filter::Bilinear,
        };
        Geometry::new((4, 2), &rule)
    }

    #[test]
    fn labels_of_the_upload_follow_its_geometry_and_those_of_the_model_stay() {
        let map = number(array![[7i64, 7, -1, 300], [7, 9, 9, 9]].view(), |label| *label >= 0);
        let none = UNLABELLED;
        assert_eq!(map, array![[0, 0, none, 2], [0, 1, 1, 1]]);
        let fitted = SentSegments::Maps(vec![map]).fit(Some(&padded()), (4, 4)).unwrap();
        let row = [none; 4];
        assert_eq!(fitted.maps, [array![row, [0, 0, none, 2], [0, 1, 1, 1], row]]);
        assert_eq!(fitted.regions.iter().map(<[u32]>::len).collect::<Vec<_>>(), [3, 3, 1]);
        let whole = Array2::from_shape_fn((4, 4), |(y, _)| y as u32);
        let kept = SentSegments::Maps(vec![whole.clone()]).fit(Some(&padded()), (4, 4)).unwrap();
        assert_eq!(kept.maps, [whole]);
    }

    #[test]
    fn masks_of_the_upload_follow_its_geometry() {
        let masks =
            SentSegments::Masks(Array3::from_shape_fn((2, 2, 4), |(mask, y, x)| mask == 1 || (y == 0 && x % 3 == 0)));
        let fitted = masks.fit(Some(&padded()), (4, 4)).unwrap();
        assert_eq!(fitted.regions.iter().collect::<Vec<_>>(), [&[4, 7][..], &[4, 5, 6, 7, 8, 9, 10, 11]]);
        assert!(fitted.maps.is_empty());
    }

    #[test]
    fn another_size_is_refused_with_the_sizes_that_fit() {
        let segments = SentSegments::Maps(vec![Array2::zeros((3, 5))]);
        let faults = segments.fit(Some(&padded()), (4, 4)).unwrap_err();
        let faults = faults.shown();
        assert_eq!(faults[0].message, "the segments are 3 x 5 (height, width)");
        assert_eq!(faults[0].allowed, ["2 x 4 (the upload)", "4 x 4 (the model's input)"]);
        assert_eq!(segments.fit(None, (4, 4)).unwrap_err().shown()[0].allowed, ["4 x 4 (the model's input)"]);
    }

    #[test]
    fn masks_that_overlap_without_bound_are_refused() {
        let all = |count: usize| SentSegments::Masks(Array3::from_elem((count, 4, 4), true)).fit(None, (4, 4));
        assert_eq!(all(64).unwrap().regions.total_area(), 64 * 16);
        assert_eq!(all(65).unwrap_err().shown()[0].param, "segments");
    }
}
