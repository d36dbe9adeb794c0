//! The regions of a picture for methods that rank regions: six segmentations by Felzenszwalb and
//! Huttenlocher, from fine to coarse, each segment grown by a few pixels. The SIG paper, section 4.

use super::parameters::{Compat, Parameters};
use crate::{
    picture::input::InputPicture,
    segment::{Segmentation, felzenszwalb::Edges},
};

const SCALES: [f64; 6] = [50.0, 100.0, 150.0, 250.0, 500.0, 1200.0];
const SIGMA: f64 = 0.8;
/// Each segment grows by so many pixels, so that it holds the edges around it.
const RADIUS: usize = 5;

/// The regions of a picture. Its colours are stretched to -1..=1 and segments have 150 pixels at
/// least, as in the public code. The paper's 0..=1 and 20 pixels (`compat: sig-2019`) give the 1000
/// regions per photo that it tells of.
pub fn segment(picture: &InputPicture, parameters: &Parameters) -> Segmentation {
    let (low, high) = picture.extremes();
    let (bottom, top, min_size) = match parameters.compat {
        Some(Compat::Sig2019) => (0.0, 1.0, 20),
        _ => (-1.0, 1.0, 150),
    };
    let scale = if high > low {
        (top - bottom) / (high - low)
    } else {
        0.0
    };
    let edges = Edges::of(
        picture
            .planes
            .mapv(|value| (value - low) * scale + bottom)
            .view(),
        SIGMA,
    );
    Segmentation::of_maps(
        SCALES.map(|scale| edges.segment(scale, min_size)).into(),
        RADIUS,
    )
}
