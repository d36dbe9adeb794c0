//! The regions of a picture: those sent with the request, or by Felzenszwalb and Huttenlocher's
//! segmentation. For methods that rank regions, its six scales, from fine to coarse, each segment
//! grown by a few pixels (the SIG paper, section 4); for methods that hide regions, a partition: one
//! scale, with a bounded number of segments.

use std::sync::Arc;

use ndarray::Array2;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    parameters::{
        Compat, Group, Kind, Parameter, Parameters,
        common::{choose, compat},
    },
    pixels::Pixels,
    ranking::{Algorithm, Selection},
};
use crate::{
    faults::{Fault, Faults},
    picture::{
        baseline::{Baseline, Term},
        input::InputPicture,
        preprocess::Layout,
    },
    segment::{Segmentation, felzenszwalb::Edges, regions::Regions},
    tensor::Tensor,
};

const SCALES: [f64; 6] = [50.0, 100.0, 150.0, 250.0, 500.0, 1200.0];
/// Of segments, in pixels.
const MIN_SIZE: u32 = 150;
const SIGMA: f64 = 0.8;
/// Each segment grows by so many pixels, so that it holds the edges around it.
const RADIUS: usize = 5;

/// Which regions are ranked, and how.
#[derive(Clone, Copy, Debug)]
pub struct RegionParameters {
    pub segments: SegmentSource,
    pub selection: Selection,
    /// The most regions of a partition.
    pub max_segments: usize,
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
            max_segments: 50,
        }
    }
}

const SEGMENTS: Parameter = Parameter {
    name: "segments",
    kind: Kind::Choice {
        allowed: &["felzenszwalb", "uploaded"],
        set: |p, value| {
            choose(value)
                .map(|source| p.change(|regions: &mut RegionParameters| regions.segments = source))
        },
    },
    doc: "The regions: from Felzenszwalb's segmentation at six scales, or uploaded with the request.",
    from_model: false,
    get: |p| Some(json!(p.group::<RegionParameters>().segments)),
};

/// The most regions that can be asked for.
const MOST_SEGMENTS: usize = 500;

/// For methods that hide regions.
pub static PARTITION: Group = Group {
    parameters: &PARTITIONED,
    // Of ready tensors each pixel is a region.
    from_model: |p, facts| {
        if facts.input.preprocess.is_none() {
            let count = pixels_of(&facts.input.shape);
            p.change(|regions: &mut RegionParameters| {
                if (regions.max_segments..=MOST_SEGMENTS).contains(&count) {
                    regions.max_segments = count;
                }
            });
        }
    },
    check: |_, _, _, _| (),
};

const PARTITIONED: [Parameter; 2] = [
    Parameter {
        doc: "The regions: from Felzenszwalb's segmentation at one scale, or uploaded with the request, where they may not overlap and what \
              belongs to none is never hidden. Of ready tensors each pixel is a region.",
        ..SEGMENTS
    },
    Parameter {
        name: "max_segments",
        kind: Kind::Integer {
            min: 1,
            max: MOST_SEGMENTS as u64,
            set: |p, n| {
                p.change(|regions: &mut RegionParameters| regions.max_segments = n as usize)
            },
        },
        doc: "The most regions. The segmentation is the finest that has no more, small segments merged; more that are uploaded are refused. \
              Where each pixel is a region, by default as many as there are.",
        from_model: false,
        get: |p| Some(json!(max_segments(p))),
    },
];

/// For methods that rank regions.
pub static REGIONS: Group = Group::of(&[
    SEGMENTS,
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

pub fn max_segments(parameters: &Parameters) -> usize {
    parameters.group::<RegionParameters>().max_segments
}

/// The regions of a picture, as the parameters ask for them; `uploaded` are those sent with the
/// request, in the model's pixels.
pub fn regions(
    picture: &InputPicture,
    parameters: &Parameters,
    uploaded: Option<&Arc<Segmentation>>,
) -> Result<Arc<Segmentation>, Faults> {
    match parameters.group::<RegionParameters>().segments {
        SegmentSource::Felzenszwalb => Ok(Arc::new(segment(picture, parameters.compat))),
        SegmentSource::Uploaded => sent(picture, uploaded),
    }
}

/// As [`regions`], none of which overlap: `max_segments` at most, and none without a pixel.
pub fn partition(
    picture: &InputPicture,
    parameters: &Parameters,
    uploaded: Option<&Arc<Segmentation>>,
) -> Result<Arc<Segmentation>, Faults> {
    let RegionParameters {
        segments,
        max_segments,
        ..
    } = parameters.group();
    if segments == SegmentSource::Felzenszwalb {
        let map = partition_of(picture, max_segments);
        return Ok(Arc::new(Segmentation::of_maps(vec![map], 0)));
    }
    let sent = sent(picture, uploaded)?;
    let own: Vec<&[u32]> = sent
        .regions
        .iter()
        .filter(|pixels| !pixels.is_empty())
        .collect();
    let mut faults = Faults::default();
    let holders = sent.regions.holders();
    let (height, width) = sent.regions.size();
    let shared = (0..height * width)
        .filter(|&pixel| holders.get(pixel).len() > 1)
        .count();
    if shared > 0 {
        let message = format!(
            "{shared} pixels belong to several of the segments sent: this method hides regions, and each pixel may belong to one at most"
        );
        faults.push(Fault::new(
            "segments",
            message,
            ["one map of labels", "masks that do not overlap"],
        ));
    }
    match own.len() {
        0 => {
            let message = "none of the segments sent has a pixel in the model's input";
            faults.push(Fault::says("segments", message));
        }
        count => faults.extend(too_many(count, max_segments, "segments, as sent")),
    }
    faults.settle(())?;
    let lists = own.into_iter().map(|pixels| pixels.iter().copied());
    Ok(Arc::new(Segmentation {
        maps: sent.maps.clone(),
        regions: Regions::of_pixels((height, width), lists),
    }))
}

/// Why the pixels of a ready tensor cannot be regions.
pub fn pixels_fault(input: &Tensor, parameters: &Parameters) -> Faults {
    let RegionParameters {
        segments,
        max_segments,
        ..
    } = parameters.group();
    let mut faults = Faults::default();
    if segments == SegmentSource::Uploaded {
        let message = "the model takes ready tensors, each pixel of which is a region";
        faults.push(Fault::new("segments", message, ["felzenszwalb"]));
    }
    let count = pixels_of(input.shape());
    faults.extend(match count > MOST_SEGMENTS {
        true => Some(Fault::says(
            "method",
            format!(
                "each of the input's {count} pixels is a region, of which {MOST_SEGMENTS} are supported: use occlusion, rise or a gradient"
            ),
        )),
        false => too_many(count, max_segments, "pixels, each of them a region"),
    });
    faults
}

/// Those of a ready tensor.
fn pixels_of(shape: &[usize]) -> usize {
    Pixels::of(shape, Layout::Nchw).sides.iter().product()
}

/// More regions than `max_segments`.
fn too_many(count: usize, max_segments: usize, what: &str) -> Option<Fault> {
    (count > max_segments).then(|| match count > MOST_SEGMENTS {
        true => Fault::says(
            "segments",
            format!("there are {count} {what}, of which {MOST_SEGMENTS} are supported: join some"),
        ),
        false => Fault::new(
            "max_segments",
            format!("there are {count} {what}, and max_segments is {max_segments}: raise it"),
            [format!("{count} to {MOST_SEGMENTS}")],
        ),
    })
}

fn sent(
    picture: &InputPicture,
    uploaded: Option<&Arc<Segmentation>>,
) -> Result<Arc<Segmentation>, Faults> {
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
    let (bottom, top, min_size) = match compat {
        Some(Compat::Sig2019) => (0.0, 1.0, 20),
        _ => (-1.0, 1.0, MIN_SIZE),
    };
    let edges = edges(picture, bottom, top);
    Segmentation::of_maps(
        SCALES.map(|scale| edges.segment(scale, min_size)).into(),
        RADIUS,
    )
}

/// The finest of the six scales that has at most this many segments; of the coarsest, segments of
/// twice the least size and so on, until there are no more. The least size suits small pictures,
/// too.
fn partition_of(picture: &InputPicture, max_segments: usize) -> Array2<u32> {
    let edges = edges(picture, -1.0, 1.0);
    let (_, height, width) = picture.planes.dim();
    let few = u32::try_from(height * width / (4 * max_segments)).unwrap_or(u32::MAX);
    let mut min_size = few.clamp(1, MIN_SIZE);
    let [finer @ .., coarsest] = SCALES;
    let fits = |map: &Array2<u32>| map.iter().all(|label| (*label as usize) < max_segments);
    let mut maps = finer.iter().map(|scale| edges.segment(*scale, min_size));
    if let Some(map) = maps.find(fits) {
        return map;
    }
    loop {
        let map = edges.segment(coarsest, min_size);
        if fits(&map) {
            return map;
        }
        min_size = min_size.saturating_mul(2);
    }
}

/// The edges of a picture with its colours stretched to `bottom..=top`.
fn edges(picture: &InputPicture, bottom: f32, top: f32) -> Edges {
    let (low, high) = picture.extremes();
    let scale = if high > low {
        (top - bottom) / (high - low)
    } else {
        0.0
    };
    let stretched = picture.planes.mapv(|value| (value - low) * scale + bottom);
    Edges::of(stretched.view(), SIGMA)
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;
    use rand::RngExt;

    use super::*;
    use crate::random::generator;

    fn picture(
        height: usize,
        width: usize,
        value: impl FnMut((usize, usize, usize)) -> f32,
    ) -> InputPicture {
        InputPicture {
            planes: Array3::from_shape_fn((3, height, width), value),
            channel_axis: 0,
        }
    }

    #[test]
    fn a_partition_has_no_more_segments_than_asked_for_whatever_the_picture() {
        let mut noise = generator(0, 0);
        let noise = picture(64, 48, |_| noise.random());
        let squares = picture(64, 48, |(_, y, x)| ((y / 8 * 2 + x / 8) % 5) as f32);
        let flat = picture(64, 48, |_| 0.5);
        let strange = picture(9, 9, |(_, y, x)| [f32::NAN, f32::INFINITY, 1.0][y * x % 3]);
        for (name, picture) in [
            ("noise", noise),
            ("squares", squares),
            ("flat", flat),
            ("strange", strange),
        ] {
            for most in [1, 2, 7, 50, 500] {
                let map = partition_of(&picture, most);
                let count = *map.iter().max().unwrap() as usize + 1;
                assert!(count <= most, "{name}: {count} of {most}");
                assert!(name != "flat" || count == 1);
                assert!(name != "squares" || most < 50 || count > 20, "{count}");
            }
        }
    }
}
