//! Bokeh images, as the SIG paper calls them: some pixels of a picture are shown, and all others
//! interpolated between them. Linear on the Delaunay triangles of the shown pixels, among which the
//! corners always are. Their information is the bytes that lossless WebP takes for them. As the
//! public code (the package `saliency`, its module of PIC metrics): where more than three pixels
//! lie on a circle there are several such triangulations, and it may have another.

use std::sync::Arc;

use image::{Rgb, RgbImage};
use rand_chacha::rand_core::Rng;
use spade::{DelaunayTriangulation, FloatTriangulation, Point2, Triangulation};
use webp::Encoder;

use crate::{
    evaluation::patches::by_pixel,
    picture::{
        input::InputPicture,
        preprocess::{Channels, Preprocess, pixel_range, value_table},
    },
    random::generator,
    tensor::Tensor,
};

/// One of this many pixels is known from the start.
const SPARSENESS: usize = 100;
/// The effort of the public code. The method is libwebp's default, 4.
const QUALITY: f32 = 100.0;
/// What WebP codes.
const MOST_PIXELS: u32 = 16383;

/// Why pictures of a model's input cannot be made, if so.
pub(super) fn refusal(rule: Option<&Preprocess>) -> Option<&'static str> {
    let Some(rule) = rule else {
        return Some("the model's input is no picture");
    };
    let fits = |side: u32| (2..=MOST_PIXELS).contains(&side);
    if !fits(rule.width) || !fits(rule.height) {
        return Some("the sides of the model's input are not of 2 to 16383 pixels");
    }
    let is_constant = |(black, white): (f32, f32)| {
        let range = white - black;
        range == 0.0 || !range.is_finite()
    };
    let tells_nothing = pixel_range(rule).into_iter().any(is_constant);
    tells_nothing.then_some("pixels cannot be told from the model's input: its scale is 0")
}

/// A model's input, and the picture that it shows.
pub(super) struct Scene {
    rule: Preprocess,
    input: Arc<Tensor>,
    picture: RgbImage,
}

/// A picture of a scene.
pub(super) struct Bokeh {
    /// Of the model. Pixels that are shown are those of the scene's input.
    pub input: Arc<Tensor>,
    /// In bytes; not a number if it cannot be coded.
    pub information: f64,
}

impl Scene {
    /// None of an input that `rule` does not make of a picture.
    pub(super) fn of(input: &Arc<Tensor>, rule: &Preprocess) -> Option<Self> {
        Some(Self {
            rule: rule.clone(),
            picture: pixels_of(input, rule)?,
            input: input.clone(),
        })
    }

    /// Pixels that are known from the start: some drawn by a seed, and the corners.
    pub(super) fn draw(&self, seed: u64) -> Vec<bool> {
        let width = self.rule.width as usize;
        let count = width * self.rule.height as usize;
        let mut generator = generator(seed, 0);
        let mut left: Vec<usize> = (0..count).collect();
        let mut known = vec![false; count];
        for _ in 0..count / SPARSENESS {
            // The remainder favours none by more than 2^-32.
            let drawn = (generator.next_u64() % left.len() as u64) as usize;
            known[left.swap_remove(drawn)] = true;
        }
        for corner in [0, width - 1, count - width, count - 1] {
            known[corner] = true;
        }
        known
    }

    /// The whole picture.
    pub(super) fn whole(&self) -> Bokeh {
        Bokeh {
            input: self.input.clone(),
            information: information(&self.picture),
        }
    }

    /// With these pixels shown, among which the corners are.
    pub(super) fn showing(&self, shown: &[bool]) -> Bokeh {
        if shown.iter().all(|is_shown| *is_shown) {
            return self.whole();
        }
        let picture = interpolated(&self.picture, shown);
        let mut input = self.input.as_ref().clone();
        let (values, order) = (value_table(&self.rule), order(self.rule.channels));
        if let Some(mut pixels) = by_pixel(input.view_mut(), self.rule.layout) {
            let pixels = pixels
                .rows_mut()
                .into_iter()
                .zip(picture.pixels())
                .zip(shown);
            for ((mut pixel, Rgb(levels)), _) in pixels.filter(|(_, is_shown)| !**is_shown) {
                for ((value, values), place) in pixel.iter_mut().zip(&values).zip(order) {
                    *value = values[usize::from(levels[*place])];
                }
            }
        }
        Bokeh {
            input: Arc::new(input),
            information: information(&picture),
        }
    }
}

/// Of each channel of an input, its place in RGB.
fn order(channels: Channels) -> &'static [usize] {
    match channels {
        // Of alpha nothing is shown.
        Channels::Rgb | Channels::Rgba => &[0, 1, 2],
        Channels::Bgr => &[2, 1, 0],
        Channels::Gray => &[0],
    }
}

/// The picture that an input shows, in 8 bits.
fn pixels_of(input: &Tensor, rule: &Preprocess) -> Option<RgbImage> {
    let planes = InputPicture::of(input, rule)?.planes;
    let is_whole = planes.dim() == (planes.dim().0, rule.height as usize, rule.width as usize);
    let order = order(rule.channels);
    is_whole.then(|| {
        RgbImage::from_fn(rule.width, rule.height, |x, y| {
            // BGR reversed is RGB; grey is each of its levels. Out of 0 to 255 they saturate.
            let level = |place: usize| {
                let plane = order.get(place).copied().unwrap_or(0);
                (255.0 * planes[[plane, y as usize, x as usize]]).round() as u8
            };
            Rgb([0, 1, 2].map(level))
        })
    })
}

/// `shown` goes from left to right and from top to bottom.
fn interpolated(picture: &RgbImage, shown: &[bool]) -> RgbImage {
    let place = |(x, y, _): (u32, u32, &Rgb<u8>)| Point2::new(f64::from(x), f64::from(y));
    let pixels = || picture.enumerate_pixels().map(place).zip(shown);
    let known = pixels().filter_map(|(place, is_shown)| is_shown.then_some(place));
    // It fails on coordinates that are not finite or too large.
    let triangles = DelaunayTriangulation::<Point2<f64>>::bulk_load(known.collect());
    let triangles = triangles.unwrap_or_default();
    let interpolation = triangles.barycentric();
    let mut found = picture.clone();
    let mut weights = Vec::new();
    for (place, _) in pixels().filter(|(_, is_shown)| !**is_shown) {
        interpolation.get_weights(place, &mut weights);
        let mut levels = [0.0; 3];
        for (vertex, weight) in &weights {
            let corner = triangles.vertex(*vertex).position();
            let Rgb(corner) = picture.get_pixel(corner.x as u32, corner.y as u32);
            for (level, own) in levels.iter_mut().zip(corner) {
                *level += weight * f64::from(*own);
            }
        }
        let pixel = Rgb(levels.map(|level| level.round_ties_even() as u8));
        found.put_pixel(place.x as u32, place.y as u32, pixel);
    }
    found
}

fn information(picture: &RgbImage) -> f64 {
    let encoder = Encoder::from_rgb(picture, picture.width(), picture.height());
    let coded = encoder.encode_simple(true, QUALITY);
    coded.map_or(f64::NAN, |bytes| bytes.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::preprocess::{Layout, preprocess};

    fn rule([height, width]: [u32; 2], layout: Layout, channels: Channels) -> Preprocess {
        Preprocess {
            layout,
            channels,
            scale: 1.0 / 255.0,
            mean: vec![0.485, 0.456, 0.406],
            std: vec![0.229, 0.224, 0.225],
            ..Preprocess::plain(width, height)
        }
    }

    fn photo(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            Rgb([7 * x * x + 3 * y, 100 + x * y, 11 * y * y + x].map(|level| (level % 251) as u8))
        })
    }

    fn scene(picture: &RgbImage, layout: Layout, channels: Channels) -> Scene {
        let rule = rule([picture.height(), picture.width()], layout, channels);
        let (input, _) = preprocess(picture, &rule).unwrap();
        Scene::of(&Arc::new(input), &rule).unwrap()
    }

    #[test]
    fn the_picture_of_an_input_is_the_photo_in_every_layout() {
        let photo = photo(9, 7);
        for layout in [Layout::Nchw, Layout::Nhwc] {
            for channels in [Channels::Rgb, Channels::Bgr] {
                assert_eq!(scene(&photo, layout, channels).picture, photo);
            }
            let grey = RgbImage::from_fn(9, 7, |x, y| Rgb([(20 * x + 3 * y) as u8; 3]));
            assert_eq!(scene(&grey, layout, Channels::Gray).picture, grey);
        }
    }

    /// Of four pixels in the corners of a square with values 0, 104, 40 and 144 (a plane), each
    /// pixel between them is known by hand.
    #[test]
    fn pixels_between_known_ones_are_worked_by_hand() {
        let corners = [(0, 0, 0), (4, 0, 104), (0, 4, 40), (4, 4, 144)];
        let mut picture = RgbImage::from_pixel(5, 5, Rgb([255; 3]));
        let mut shown = vec![false; 25];
        for (x, y, level) in corners {
            picture.put_pixel(x, y, Rgb([level, level / 2, 0]));
            shown[(5 * y + x) as usize] = true;
        }
        let found = interpolated(&picture, &shown);
        for (x, y, Rgb([r, g, b])) in found.enumerate_pixels() {
            let [r, g] = [r, g].map(|level| u32::from(*level));
            assert_eq!([r, g], [26 * x + 10 * y, 13 * x + 5 * y], "{x} {y}");
            assert_eq!(*b, 0);
        }
    }

    /// Each pixel lies in some triangle of known pixels whose circle holds no other known pixel, and
    /// has the value that is linear there.
    #[test]
    fn interpolation_agrees_with_a_naive_twin() {
        let picture = photo(11, 8);
        let known: Vec<(i64, i64)> = vec![
            (0, 0),
            (10, 0),
            (0, 7),
            (10, 7),
            (3, 1),
            (7, 2),
            (2, 5),
            (5, 4),
            (8, 6),
            (6, 6),
        ];
        let is_known = |x: u32, y: u32| known.contains(&(i64::from(x), i64::from(y)));
        let shown: Vec<bool> = picture
            .enumerate_pixels()
            .map(|(x, y, _)| is_known(x, y))
            .collect();
        let area = |a: (i64, i64), b: (i64, i64), c: (i64, i64)| {
            (b.0 - a.0) * (c.1 - a.1) - (b.1 - a.1) * (c.0 - a.0)
        };
        let in_circle = |[a, b, c]: [(i64, i64); 3], d: (i64, i64)| {
            let row = |p: (i64, i64)| {
                let (x, y) = (p.0 - d.0, p.1 - d.1);
                [x, y, x * x + y * y]
            };
            let [a, b, c] = [a, b, c].map(row);
            let minor = |p: [i64; 3], q: [i64; 3]| p[0] * q[1] - p[1] * q[0];
            a[2] * minor(b, c) - b[2] * minor(a, c) + c[2] * minor(a, b) > 0
        };
        let mut triangles = Vec::new();
        for a in &known {
            for b in &known {
                for c in &known {
                    let corners = [*a, *b, *c];
                    if area(*a, *b, *c) > 0 && !known.iter().any(|d| in_circle(corners, *d)) {
                        triangles.push(corners);
                    }
                }
            }
        }
        let level = |at: (i64, i64)| f64::from(picture.get_pixel(at.0 as u32, at.1 as u32).0[0]);
        let found = interpolated(&picture, &shown);
        for (x, y, Rgb([found, ..])) in found.enumerate_pixels() {
            let at = (i64::from(x), i64::from(y));
            let expected: Vec<f64> = triangles
                .iter()
                .filter_map(|[a, b, c]| {
                    let parts = [area(*b, *c, at), area(*c, *a, at), area(*a, *b, at)];
                    let sum = area(*a, *b, *c) as f64;
                    let values = parts.iter().zip([a, b, c]);
                    let value = values.map(|(part, corner)| *part as f64 * level(*corner) / sum);
                    parts
                        .iter()
                        .all(|part| *part >= 0)
                        .then(|| value.sum::<f64>())
                })
                .collect();
            let gap = |value: &f64| (value - f64::from(*found)).abs();
            assert!(
                expected.iter().any(|value| gap(value) < 0.5 + 1e-9),
                "{at:?} {expected:?}"
            );
        }
    }

    #[test]
    fn one_pixel_of_a_hundred_and_the_corners_are_drawn_once_for_a_seed() {
        let scene = scene(&photo(40, 30), Layout::Nchw, Channels::Rgb);
        let drawn = scene.draw(3);
        let count = drawn.iter().filter(|is_known| **is_known).count();
        assert!((12..=16).contains(&count), "{count}");
        assert!([0, 39, 1160, 1199].iter().all(|corner| drawn[*corner]));
        assert_eq!(drawn, scene.draw(3));
        assert_ne!(drawn, scene.draw(4));
    }

    /// Shown pixels keep what the input has, to the bit, and all shown are the input.
    #[test]
    fn shown_pixels_are_those_of_the_input() {
        for (layout, channels) in [(Layout::Nchw, Channels::Rgb), (Layout::Nhwc, Channels::Bgr)] {
            let mut scene = scene(&photo(20, 10), layout, channels);
            // Between two levels of a pixel, as padding is.
            scene.input = Arc::new(scene.input.mapv(|value| value + 0.001));
            let mut shown = scene.draw(0);
            shown[107] = true;
            let bokeh = scene.showing(&shown);
            let pixels = by_pixel(bokeh.input.view(), layout).unwrap();
            let own = by_pixel(scene.input.view(), layout).unwrap();
            for (place, is_shown) in shown.iter().enumerate() {
                assert_eq!(pixels.row(place) == own.row(place), *is_shown, "{place}");
            }
            let all = scene.showing(&[true; 200]);
            assert!(Arc::ptr_eq(&all.input, &scene.input));
            assert_eq!(all.information, scene.whole().information);
        }
    }

    #[test]
    fn what_pixels_cannot_be_told_from_is_refused() {
        let fine = rule([224, 224], Layout::Nchw, Channels::Rgb);
        assert_eq!(refusal(Some(&fine)), None);
        let says = |rule: Option<&Preprocess>, word: &str| {
            assert!(refusal(rule).is_some_and(|reason| reason.contains(word)));
        };
        says(None, "no picture");
        says(
            Some(&Preprocess {
                width: 1,
                ..fine.clone()
            }),
            "sides",
        );
        says(
            Some(&Preprocess {
                height: 20_000,
                ..fine.clone()
            }),
            "sides",
        );
        says(
            Some(&Preprocess {
                scale: 0.0,
                ..fine.clone()
            }),
            "scale",
        );
        assert!(Scene::of(&Arc::new(Tensor::zeros(vec![3, 5, 5])), &fine).is_none());
    }
}
