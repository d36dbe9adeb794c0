//! Pictures cut into regions: Felzenszwalb's segmentation, and regions as sets of pixels that may
//! overlap.

pub mod felzenszwalb;
pub mod regions;

use ndarray::Array2;

use regions::Regions;

/// The regions of a picture, and the label maps that they were made of, all of one size; others
/// have no maps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Segmentation {
    pub maps: Vec<Array2<u32>>,
    pub regions: Regions,
}

impl Segmentation {
    /// A region for each label of each map, grown by a disk of `radius` pixels.
    pub fn of_maps(maps: Vec<Array2<u32>>, radius: usize) -> Self {
        let regions = Regions::of_maps(&maps, radius);
        Self { maps, regions }
    }
}
