//! The regions of a picture for methods that rank regions: those sent with the request, or six
//! segmentations by Felzenszwalb and Huttenlocher, from fine to coarse, each segment grown by a few
//! pixels. The SIG paper, section 4.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    parameters::{
        Compat, Group, Kind, Parameter, Parameters,
        common::{choose, compat},
    },
    ranking::{Algorithm, Selection},
};
use crate::{
    faults::{Fault, Faults},
    picture::{
        baseline::{Baseline, Term},
        input::InputPicture,
    },
    segment::{Segmentation, felzenszwalb::Edges},
};

const SCALES: [f64; 6] = [50.0, 100.0, 150.0, 250.0, 500.0, 1200.0];
const SIGMA: f64 = 0.8;
/// Each segment grows by so many pixels, so that it holds the edges around it.
const RADIUS: usize = 5;

/// Which regions are ranked, and how.
#[derive(Clone, Copy, Debug)]
pub struct RegionParameters {
    pub segments: SegmentSource,
    pub selection: Selection,
}

/// Where regions come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SegmentSource {
    Felzenszwalb,
    /// Sent with the request.
    Uploaded,
}

impl Default for RegionParameters {
    fn default() -> Self {
        Self {
            segments: SegmentSource::Felzenszwalb,
            selection: Selection {
                algorithm: Algorithm::Full,
                area_threshold: 1.0,
                min_pixel_diff: 50,
            },
        }
    }
}

/// For methods that rank regions.
pub static REGIONS: Group = Group::of(&[
    Parameter {
        name: "segments",
        kind: Kind::Choice {
            allowed: &["felzenszwalb", "uploaded"],
            set: |p, value| {
                choose(value).map(|source| {
                    p.change(|regions: &mut RegionParameters| regions.segments = source)
                })
            },
        },
        doc: "The regions: from Felzenszwalb's segmentation at six scales, or uploaded with the request.",
        from_model: false,
        get: |p| Some(json!(p.group::<RegionParameters>().segments)),
    },
    Parameter {
        name: "algorithm",
        kind: Kind::Choice {
            allowed: &["full", "fast"],
            set: |p, value| {
                choose(value).map(|algorithm| {
                    p.change(|regions: &mut RegionParameters| {
                        regions.selection.algorithm = algorithm
                    })
                })
            },
        },
        doc: "full: repeatedly add the region with the highest mean attribution over its uncovered pixels. fast: rank regions once by their mean attribution.",
        from_model: false,
        get: |p| Some(json!(p.group::<RegionParameters>().selection.algorithm)),
    },
    Parameter {
        name: "area_threshold",
        kind: Kind::Number {
            above: 0.0,
            max: 1.0,
            set: |p, part| {
                p.change(|regions: &mut RegionParameters| regions.selection.area_threshold = part)
            },
        },
        doc: "Regions are ranked until they cover more than this fraction of the picture; the remaining pixels get their mean.",
        from_model: false,
        get: |p| {
            Some(json!(
                p.group::<RegionParameters>().selection.area_threshold
            ))
        },
    },
    Parameter {
        name: "min_pixel_diff",
        kind: Kind::Integer {
            min: 1,
            max: 1_000_000,
            set: |p, n| {
                p.change(|regions: &mut RegionParameters| {
                    regions.selection.min_pixel_diff = n as usize
                })
            },
        },
        doc: "Regions that would add fewer pixels are skipped.",
        from_model: false,
        get: |p| {
            Some(json!(
                p.group::<RegionParameters>().selection.min_pixel_diff
            ))
        },
    },
]);

/// What this presets can be overridden: it stands before the baseline.
pub static COMPAT_SIG: Group = Group::of(&[Parameter {
    kind: Kind::Choice {
        allowed: &["sig-2019"],
        set: |p, value| {
            choose(value).map(|compat| {
                p.compat = Some(compat);
                p.baseline = Baseline::from([Term::Black, Term::White]);
            })
        },
    },
    ..compat(
        &["sig-2019"],
        "sig-2019: as the SIG paper where its published code differs: black and white baselines, colours from 0 to 1, segments of at least \
         20 pixels.",
    )
}]);

/// The regions of a picture, as the parameters ask for them; `uploaded` are those sent with the
/// request, in the model's pixels.
pub fn regions(
    picture: &InputPicture,
    parameters: &Parameters,
    uploaded: Option<&Arc<Segmentation>>,
) -> Result<Arc<Segmentation>, Faults> {
    if parameters.group::<RegionParameters>().segments == SegmentSource::Felzenszwalb {
        return Ok(Arc::new(segment(picture, parameters.compat)));
    }
    let (_, height, width) = picture.planes.dim();
    let refuse = |message| Fault::new("segments", message, [format!("{height} x {width}")]).into();
    match uploaded {
        Some(segmentation) if segmentation.regions.size() == (height, width) => {
            Ok(segmentation.clone())
        }
        Some(_) => Err(refuse("are of another size than the model's input")),
        None => Err(refuse("`uploaded` needs segments sent with the request")),
    }
}

/// The regions of a picture. Its colours are stretched to -1..=1 and segments have 150 pixels at
/// least, as in the public code. The paper's 0..=1 and 20 pixels (`compat: sig-2019`) give the 1000
/// regions per photo that it tells of.
pub fn segment(picture: &InputPicture, compat: Option<Compat>) -> Segmentation {
    let (low, high) = picture.extremes();
    let (bottom, top, min_size) = match compat {
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
