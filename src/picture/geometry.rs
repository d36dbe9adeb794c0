//! Maps pixels of the model's input to pixels of the upload and back, through resize, crop and
//! padding. The upload, scaled to `resized`, lies at `offset` on the model's canvas (its input as a
//! picture); parts beyond the canvas are cropped, and the rest of the canvas is padding. Coordinate
//! x of the upload (pixel edges at integers) maps to x · resized / upload + offset. Pixels of the
//! upload outside of the crop get no attribution.

use fast_image_resize::{
    FilterType, ResizeAlg, ResizeOptions, Resizer,
    images::{TypedImage, TypedImageRef},
    pixels::F32,
};
use ndarray::{Array2, ArrayView2};

use super::rule::{Preprocess, Resize};

/// The placement of one upload on a model's input. Sizes are `(width, height)` in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    pub upload: (u32, u32),
    pub model: (u32, u32),
    /// The size of the whole upload after resizing, before the crop.
    pub resized: (u32, u32),
    /// Left and top edge of the resized upload on the model's canvas; negative where it is cropped.
    pub offset: (i32, i32),
}

/// A rectangle of pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    pub left: u32,
    pub top: u32,
    pub width: u32,
    pub height: u32,
}

/// Where the model's canvas lies on a picture to draw on, of any size, which shows the whole upload
/// or its crop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Placement {
    /// Width and height of the picture.
    pub picture: (u32, u32),
    /// The part of the picture inside of the crop.
    pub seen: Area,
    /// `seen` in pixels of the model's input: left, top, width, height.
    window: (f64, f64, f64, f64),
    model: (u32, u32),
}

/// A plane resampled to a picture's pixels. It covers the part of the picture inside of the crop.
#[derive(Clone, Debug)]
pub struct Projected {
    /// `[area.height, area.width]`.
    pub plane: Array2<f32>,
    pub area: Area,
}

impl Geometry {
    /// The placement by `preprocess` of an upload of this size (both sides at least 1).
    pub fn new(upload: (u32, u32), preprocess: &Preprocess) -> Geometry {
        let model = (preprocess.width, preprocess.height);
        let resized = match preprocess.resize {
            Resize::Stretch => model,
            Resize::ShortSide(side) => {
                let short = u64::from(upload.0.min(upload.1));
                // Rounded down, as torchvision does.
                let scale = |length: u32| {
                    u32::try_from(u64::from(length) * u64::from(side) / short).unwrap_or(u32::MAX)
                };
                (scale(upload.0), scale(upload.1))
            }
            Resize::Pad => {
                let scale = (f64::from(model.0) / f64::from(upload.0))
                    .min(f64::from(model.1) / f64::from(upload.1));
                let fit = |length: u32| ((f64::from(length) * scale).round() as u32).max(1);
                (fit(upload.0), fit(upload.1))
            }
        };
        // Rounds half to even, as Python's `round` does in torchvision's centre crop.
        let centre = |resized: u32, model: u32| {
            -((f64::from(resized) - f64::from(model)) / 2.0).round_ties_even() as i32
        };
        Geometry {
            upload,
            model,
            resized,
            offset: (centre(resized.0, model.0), centre(resized.1, model.1)),
        }
    }

    /// The crop in pixels of the upload: those whose centres lie on the model's canvas, or, if the
    /// upload is scaled up so far that no centre does, those that touch the canvas. Never empty.
    pub fn seen(&self) -> Area {
        let (left, width) = seen_along(self.upload.0, self.resized.0, self.offset.0, self.model.0);
        let (top, height) = seen_along(self.upload.1, self.resized.1, self.offset.1, self.model.1);
        Area {
            left,
            top,
            width,
            height,
        }
    }

    /// The placement on a picture of the whole upload, resized to `picture`.
    pub fn on_photo(&self, picture: (u32, u32)) -> Placement {
        let resized = Geometry {
            upload: picture,
            ..*self
        };
        Placement {
            picture,
            seen: resized.seen(),
            window: resized.window(resized.seen()),
            model: self.model,
        }
    }

    /// The placement on a picture of the crop ([`Geometry::seen`]) alone, resized to `picture`.
    pub fn on_crop(&self, picture: (u32, u32)) -> Placement {
        let seen = Area {
            left: 0,
            top: 0,
            width: picture.0,
            height: picture.1,
        };
        Placement {
            picture,
            seen,
            window: self.window(self.seen()),
            model: self.model,
        }
    }

    /// An area of the upload in pixels of the model's input: left, top, width, height.
    fn window(&self, area: Area) -> (f64, f64, f64, f64) {
        let along =
            |start: u32, length: u32, upload: u32, resized: u32, offset: i32, model: u32| {
                let scale = f64::from(resized) / f64::from(upload);
                let edge = |at: u32| {
                    (f64::from(at) * scale + f64::from(offset)).clamp(0.0, f64::from(model))
                };
                span(edge(start), edge(start + length))
            };
        let (left, width) = along(
            area.left,
            area.width,
            self.upload.0,
            self.resized.0,
            self.offset.0,
            self.model.0,
        );
        let (top, height) = along(
            area.top,
            area.height,
            self.upload.1,
            self.resized.1,
            self.offset.1,
            self.model.1,
        );
        (left, top, width, height)
    }

    /// The upload's pixel under the centre of each of the model's pixels, `[model height, model
    /// width]` of (row, column); `None` on padding. For values that cannot be interpolated, such as
    /// labels.
    pub fn nearest(&self) -> Array2<Option<(usize, usize)>> {
        let along = |at: usize, upload: u32, resized: u32, offset: i32| {
            let place =
                (at as f64 + 0.5 - f64::from(offset)) * f64::from(upload) / f64::from(resized);
            (place >= 0.0 && place < f64::from(upload)).then_some(place as usize)
        };
        Array2::from_shape_fn((self.model.1 as usize, self.model.0 as usize), |(y, x)| {
            let row = along(y, self.upload.1, self.resized.1, self.offset.1)?;
            Some((row, along(x, self.upload.0, self.resized.0, self.offset.0)?))
        })
    }
}

impl Placement {
    /// Width and height of the model's canvas.
    pub fn model(&self) -> (u32, u32) {
        self.model
    }

    /// Resamples `plane`, `[model height, model width]`, to the picture's pixels: bilinear when
    /// enlarged, area-averaged when reduced. `None` for a plane of another size.
    pub fn project(&self, plane: ArrayView2<f32>) -> Option<Projected> {
        if plane.dim() != (self.model.1 as usize, self.model.0 as usize) {
            return None;
        }
        let (area, (left, top, width, height)) = (self.seen, self.window);
        let options = ResizeOptions::new()
            .resize_alg(ResizeAlg::Convolution(FilterType::Bilinear))
            .crop(left, top, width, height);
        let pixels: Vec<F32> = plane.iter().map(|value| F32::new(*value)).collect();
        let source = TypedImageRef::new(self.model.0, self.model.1, &pixels).ok()?;
        let mut target = TypedImage::<F32>::new(area.width, area.height);
        Resizer::new()
            .resize_typed(&source, &mut target, &options)
            .ok()?;
        let values = target.pixels().iter().map(|pixel| pixel.0).collect();
        let plane =
            Array2::from_shape_vec((area.height as usize, area.width as usize), values).ok()?;
        Some(Projected { plane, area })
    }
}

/// Start and length of the crop along one axis, in pixels of the upload.
fn seen_along(upload: u32, resized: u32, offset: i32, model: u32) -> (u32, u32) {
    let scale = f64::from(upload) / f64::from(resized);
    // The edges of the canvas in pixels of the upload.
    let (from, to) = (
        -f64::from(offset) * scale,
        (f64::from(model) - f64::from(offset)) * scale,
    );
    let (first, end) = (
        (from - 0.5).ceil().max(0.0) as u32,
        ((to - 0.5).ceil() as u32).min(upload),
    );
    if first < end {
        return (first, end - first);
    }
    let first = (from.floor().max(0.0) as u32).min(upload - 1);
    (first, (to.ceil() as u32).clamp(first + 1, upload) - first)
}

/// Start and length of `from..to`, the length rounded down so that start + length does not exceed
/// `to`.
pub(super) fn span(from: f64, to: f64) -> (f64, f64) {
    let length = to - from;
    (
        from,
        if from + length > to {
            length.next_down()
        } else {
            length
        },
    )
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};

    use super::*;
    use crate::picture::preprocess::{Channels, preprocess};

    fn rule(resize: Resize) -> Preprocess {
        Preprocess {
            channels: Channels::Gray,
            resize,
            ..Preprocess::plain(224, 224)
        }
    }

    /// A white disc on black; where its mass lies after a trip to the model's pixels and back.
    fn centre_of_projected_disc(
        size: (u32, u32),
        at: (f64, f64),
        radius: f64,
        resize: Resize,
    ) -> (f64, f64) {
        let upload = RgbImage::from_fn(size.0, size.1, |x, y| {
            let inside = (f64::from(x) + 0.5 - at.0).hypot(f64::from(y) + 0.5 - at.1) < radius;
            Rgb([if inside { 255 } else { 0 }; 3])
        });
        let (tensor, geometry) = preprocess(&upload, &rule(resize)).unwrap();
        let plane = tensor
            .index_axis(ndarray::Axis(0), 0)
            .into_dimensionality()
            .unwrap();
        let Projected { plane, area } = geometry.on_photo(size).project(plane).unwrap();
        assert_eq!(plane.dim(), (area.height as usize, area.width as usize));
        let mut sums = (0.0, 0.0, 0.0);
        for ((y, x), value) in plane.indexed_iter() {
            let value = f64::from(*value);
            sums.0 += value;
            sums.1 += value * (x as f64 + 0.5 + f64::from(area.left));
            sums.2 += value * (y as f64 + 0.5 + f64::from(area.top));
        }
        (sums.1 / sums.0, sums.2 / sums.0)
    }

    #[test]
    fn a_spot_lands_where_it_was() {
        for (size, at, radius) in [
            ((1024, 768), (700.0, 300.0), 40.0),
            // A 3:1 panorama: the crop is its middle third.
            ((1536, 512), (800.0, 200.0), 30.0),
            ((512, 1536), (200.0, 700.0), 30.0),
            ((97, 61), (40.0, 30.0), 9.0),
            ((225, 223), (100.0, 120.0), 20.0),
        ] {
            for resize in [
                Resize::Stretch,
                Resize::ShortSide(256),
                Resize::ShortSide(224),
                Resize::Pad,
            ] {
                let found = centre_of_projected_disc(size, at, radius, resize);
                // Half a pixel of the upload: where the crop cuts a pixel, the last row of the
                // plane is stretched over it.
                assert!(
                    (found.0 - at.0).abs() < 0.5 && (found.1 - at.1).abs() < 0.5,
                    "{size:?} {resize:?}: {found:?}"
                );
            }
        }
    }

    #[test]
    fn only_the_crop_is_seen() {
        let seen = |size, resize| Geometry::new(size, &rule(resize)).seen();
        let area = |left, top, width, height| Area {
            left,
            top,
            width,
            height,
        };
        assert_eq!(
            seen((1024, 1024), Resize::ShortSide(256)),
            area(64, 64, 896, 896)
        );
        assert_eq!(
            seen((1536, 512), Resize::ShortSide(224)),
            area(512, 0, 512, 512)
        );
        assert_eq!(seen((1536, 512), Resize::Stretch), area(0, 0, 1536, 512));
        assert_eq!(seen((1536, 512), Resize::Pad), area(0, 0, 1536, 512));
        // One pixel, larger than the canvas.
        assert_eq!(seen((2, 2), Resize::ShortSide(4000)), area(0, 0, 2, 2));
    }

    #[test]
    fn sizes_and_offsets_are_torchvisions() {
        // torchvision 0.29: Resize(256) of 500 x 333 is 384 x 256; CenterCrop(224) then starts at
        // (80, 16).
        let geometry = Geometry::new((500, 333), &rule(Resize::ShortSide(256)));
        assert_eq!(
            (geometry.resized, geometry.offset),
            ((384, 256), (-80, -16))
        );
        // 257 - 224 = 33: 16.5 rounds to the even 16; 35: 17.5 rounds to 18.
        assert_eq!(
            Geometry::new((257, 257), &rule(Resize::ShortSide(257))).offset,
            (-16, -16)
        );
        assert_eq!(
            Geometry::new((259, 259), &rule(Resize::ShortSide(259))).offset,
            (-18, -18)
        );
    }

    #[test]
    fn the_nearest_pixel_is_that_under_the_centre_and_padding_has_none() {
        let nearest = |size, resize| Geometry::new(size, &rule(resize)).nearest();
        let doubled = nearest((112, 112), Resize::Stretch);
        assert_eq!(
            [doubled[[0, 1]], doubled[[223, 222]]],
            [Some((0, 0)), Some((111, 111))]
        );
        let halved = nearest((448, 448), Resize::Stretch);
        assert_eq!(
            [halved[[0, 0]], halved[[100, 223]]],
            [Some((1, 1)), Some((201, 447))]
        );
        let cropped = nearest((1024, 1024), Resize::ShortSide(256));
        assert_eq!(
            [cropped[[0, 0]], cropped[[223, 223]]],
            [Some((66, 66)), Some((958, 958))]
        );
        let padded = nearest((200, 100), Resize::Pad);
        assert_eq!(
            [padded[[55, 9]], padded[[56, 0]], padded[[168, 0]]],
            [None, Some((0, 0)), None]
        );
    }

    #[test]
    fn a_spot_lands_in_the_same_place_on_a_picture_of_another_size_and_on_the_crop() {
        // The model's pixel (100, 60) alone, of a panorama of which it sees columns 512 to 1024.
        let geometry = Geometry::new((1536, 512), &rule(Resize::ShortSide(224)));
        let mut plane = Array2::zeros((224, 224));
        plane[[60, 100]] = 1.0;
        let centre = |placement: Placement| {
            let Projected { plane, area } = placement.project(plane.view()).unwrap();
            let mass: f32 = plane.sum();
            let along = |at: fn((usize, usize)) -> usize| {
                plane
                    .indexed_iter()
                    .map(|(place, value)| value * (at(place) as f32 + 0.5))
                    .sum::<f32>()
                    / mass
            };
            (
                f64::from(along(|(_, x)| x)) + f64::from(area.left),
                f64::from(along(|(y, _)| y)) + f64::from(area.top),
            )
        };
        let (x, y) = (100.5 / 224.0, 60.5 / 224.0);
        for (placement, expected) in [
            (
                geometry.on_photo((1536, 512)),
                (512.0 + 512.0 * x, 512.0 * y),
            ),
            (
                geometry.on_photo((3072, 1024)),
                (1024.0 + 1024.0 * x, 1024.0 * y),
            ),
            (
                geometry.on_photo((384, 128)),
                (128.0 + 128.0 * x, 128.0 * y),
            ),
            (geometry.on_crop((600, 600)), (600.0 * x, 600.0 * y)),
        ] {
            let found = centre(placement);
            assert!(
                (found.0 - expected.0).abs() < 0.5 && (found.1 - expected.1).abs() < 0.5,
                "{found:?} {expected:?}"
            );
        }
    }

    #[test]
    fn a_plane_of_another_size_is_not_projected() {
        let geometry = Geometry::new((300, 300), &rule(Resize::Stretch));
        assert!(
            geometry
                .on_photo((300, 300))
                .project(Array2::zeros((224, 223)).view())
                .is_none()
        );
    }
}
