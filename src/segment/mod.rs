//! Segmentation of pictures: Felzenszwalb's, and regions as sets of pixels that may overlap.

pub mod felzenszwalb;
pub mod regions;

use ndarray::Array2;

use regions::Regions;

/// The regions of a picture and the label maps that they were made from, all of the picture's size.
/// Regions given as masks have no label maps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Segmentation {
    pub maps: Vec<Array2<u32>>,
    pub regions: Regions,
}

impl Segmentation {
    /// One region for each label of each map, dilated by a disk of `radius` pixels.
    pub fn of_maps(maps: Vec<Array2<u32>>, radius: usize) -> Self {
        let regions = Regions::of_maps(&maps, radius);
        Self { maps, regions }
    }
}
