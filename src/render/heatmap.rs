//! The heat map of one attribution on its upload: reduce -> normalise -> (outline) -> project onto
//! the picture's pixels -> overlay.

use std::sync::Arc;

use ndarray::Array2;

use super::{
    RenderError,
    ground::Ground,
    hull::Hull,
    options::{Drawing, HeatmapOptions},
    outline::{outline, rim_of},
    overlay::Overlay,
    plane::{Bounds, Strengths, bounds, normalise, reduce},
};
use crate::{picture::preprocess::Layout, tensor::Tensor};

/// An overlay to paint, and its warnings.
#[derive(Clone, Debug)]
pub struct Heatmap<'a> {
    pub overlay: Overlay<'a>,
    /// The attributions at the ends of the colour bar; `None` for a blank map.
    pub bounds: Option<Bounds>,
    /// Why the map is blank.
    pub blank: Option<String>,
    pub warnings: Vec<String>,
}

/// Draws each map (of the model's input size, without batch axis) on the ground. Attributions that
/// are all zero or not finite give no warning here, because the methods' warnings say why.
pub fn draw<'a>(
    ground: &'a Ground<'a>,
    maps: &[Arc<Tensor>],
    layout: Layout,
    options: &HeatmapOptions,
) -> Result<Vec<Heatmap<'a>>, RenderError> {
    let planes = maps
        .iter()
        .map(|scores| reduce(scores, layout, options.reduction))
        .collect::<Result<Vec<_>, _>>()?;
    let bounds = bounds(&planes, options);
    let drawn = planes
        .iter()
        .zip(bounds)
        .map(|(plane, bounds)| draw_one(ground, plane, bounds, options));
    let told = |scores: &Tensor| {
        scores.iter().all(|score| *score == 0.0) || scores.iter().any(|score| !score.is_finite())
    };
    let drawn = drawn.zip(maps).map(|(heatmap, scores)| {
        heatmap.map(|heatmap| {
            if told(scores) {
                Heatmap {
                    warnings: Vec::new(),
                    ..heatmap
                }
            } else {
                heatmap
            }
        })
    });
    drawn.collect()
}

fn draw_one<'a>(
    ground: &'a Ground<'a>,
    plane: &Array2<f32>,
    bounds: Option<Bounds>,
    options: &HeatmapOptions,
) -> Result<Heatmap<'a>, RenderError> {
    let strengths = match normalise(plane, bounds, options) {
        Strengths::Drawn(strengths) => strengths,
        Strengths::Blank { reason } => {
            let overlay = Overlay::new(ground, None, options);
            let warning = format!("{reason}; the heat map is blank");
            return Ok(Heatmap {
                overlay,
                bounds: None,
                blank: Some(reason),
                warnings: vec![warning],
            });
        }
    };
    let (height, width) = strengths.dim();
    let mismatch = || RenderError::Size {
        found: (width, height),
        expected: ground.placement.model(),
    };
    let projected = match options.r#type {
        Drawing::Pixels => ground.placement.project(strengths.view()),
        Drawing::Outlines => outline(&strengths, &ground.placement),
    };
    let projected = projected.ok_or_else(mismatch)?;
    let no_outline =
        options.r#type == Drawing::Outlines && projected.plane.iter().all(|value| *value == 0.0);
    let mut warnings = Vec::from_iter(no_outline.then(|| {
        "the map has no border inside the picture: type=outlines draws nothing".to_owned()
    }));
    let hull = options.hull.map(|rule| Hull::of(plane.view(), rule));
    if matches!(hull, Some(None)) {
        warnings.push(
            "fewer than three pixels are chosen, or all lie on one line: hull draws nothing"
                .to_owned(),
        );
    }
    let hull = hull.flatten().map(|hull| hull.mask(plane.dim()));
    let rim = hull.and_then(|mask| rim_of(&mask, &ground.placement));
    let overlay = Overlay::new(ground, Some(projected), options).with_hull(rim);
    Ok(Heatmap {
        overlay,
        bounds,
        blank: None,
        warnings,
    })
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};

    use super::*;
    use crate::{
        picture::{
            geometry::Geometry,
            preprocess::{Preprocess, Resize, preprocess},
        },
        render::options::{ColorMap, Look, OverlayType, Polarity, View},
    };

    fn rule(resize: Resize) -> Preprocess {
        Preprocess {
            resize,
            ..Preprocess::plain(56, 56)
        }
    }

    /// Green on the grey upload, in its own size.
    fn plain() -> HeatmapOptions {
        HeatmapOptions {
            polarity: Polarity::Positive,
            color_map: ColorMap::PinkGreen,
            overlay_type: OverlayType::Grayscale,
            clip_percent_lowerbound: 62.0,
            alpha: 0.9,
            ..Look::Signed.options()
        }
    }

    fn ground<'a>(
        upload: &'a RgbImage,
        geometry: &Geometry,
        options: &HeatmapOptions,
    ) -> Ground<'a> {
        Ground::new(upload, geometry, options, |side| side).unwrap()
    }

    /// A grey upload with a white disc, the model's tensor of it as the attribution, and its heat
    /// map.
    fn heatmap(
        size: (u32, u32),
        at: (i32, i32),
        options: &HeatmapOptions,
    ) -> (RgbImage, RgbImage, Vec<String>) {
        let inside = |x: u32, y: u32| (x as i32 - at.0).pow(2) + (y as i32 - at.1).pow(2) < 100;
        let spot = RgbImage::from_fn(size.0, size.1, |x, y| {
            Rgb([if inside(x, y) { 255 } else { 0 }; 3])
        });
        let upload = RgbImage::from_pixel(size.0, size.1, Rgb([100; 3]));
        let (scores, geometry) = preprocess(&spot, &rule(Resize::ShortSide(64))).unwrap();
        let ground = ground(&upload, &geometry, options);
        let heatmaps = draw(&ground, &[Arc::new(scores)], Layout::Nchw, options).unwrap();
        let (image, warnings) = (heatmaps[0].overlay.image(), heatmaps[0].warnings.clone());
        (upload, image, warnings)
    }

    #[test]
    fn heat_lies_on_the_spot_and_nowhere_else() {
        for (size, at) in [
            ((300, 100), (160, 40)),
            ((100, 300), (60, 170)),
            ((128, 96), (60, 50)),
        ] {
            let (upload, drawn, warnings) = heatmap(size, at, &plain());
            assert_eq!(drawn.dimensions(), upload.dimensions());
            for (x, y, pixel) in drawn.enumerate_pixels() {
                let distance = f64::from(x as i32 - at.0).hypot(f64::from(y as i32 - at.1));
                let [r, g, b] = pixel.0;
                if distance < 5.0 {
                    assert!(
                        g > r + 50 && g > b + 50,
                        "{size:?}: no heat at {x},{y}: {pixel:?}"
                    );
                } else if distance > 18.0 {
                    assert!(
                        [[100; 3], [0; 3], [255; 3]].contains(&pixel.0),
                        "{size:?}: heat at {x},{y}: {pixel:?}"
                    );
                }
            }
            assert_eq!(warnings, [""; 0]);
        }
    }

    #[test]
    fn a_frame_surrounds_what_the_model_saw() {
        let (_, drawn, _) = heatmap((300, 100), (150, 50), &plain());
        // 64 of 100 pixels are resized; the crop of 56 spans 87.5 pixels around the centre.
        let row: Vec<u8> = (0..300).map(|x| drawn.get_pixel(x, 10).0[0]).collect();
        assert_eq!(row[103..107], [100, 255, 0, 100]);
        assert_eq!(row[193..197], [100, 0, 255, 100]);
        let stretched = RgbImage::from_pixel(80, 60, Rgb([100; 3]));
        let (scores, geometry) = preprocess(&stretched, &rule(Resize::Stretch)).unwrap();
        let ground = ground(&stretched, &geometry, &plain());
        let whole = draw(&ground, &[Arc::new(scores)], Layout::Nchw, &plain()).unwrap();
        assert!(!whole[0].overlay.is_framed(), "it saw everything");
    }

    #[test]
    fn the_crop_is_what_the_model_saw_and_has_no_frame() {
        let options = HeatmapOptions {
            view: View::Crop,
            size: Some(176),
            ..plain()
        };
        let (_, drawn, _) = heatmap((300, 100), (150, 50), &options);
        assert_eq!(drawn.dimensions(), (176, 176));
        let [r, g, b] = drawn.get_pixel(88, 88).0;
        assert!(g > r + 50 && g > b + 50, "the disc is in the middle");
        assert!(drawn.get_pixel(0, 0).0 == [100; 3] && drawn.get_pixel(175, 88).0 == [100; 3]);
    }

    #[test]
    fn outlines_ring_the_spot_and_leave_its_inside() {
        let options = HeatmapOptions {
            r#type: Drawing::Outlines,
            ..plain()
        };
        let (_, drawn, _) = heatmap((128, 96), (60, 50), &options);
        assert_eq!(drawn.get_pixel(60, 50).0, [100; 3]);
        let ring = (60..90)
            .filter(|x| drawn.get_pixel(*x, 50).0 != [100; 3])
            .count();
        assert_eq!(ring, 1, "one pixel wide at this size");
    }

    #[test]
    fn a_map_of_zeros_or_of_nan_is_the_upload() {
        let upload = RgbImage::from_fn(56, 56, |x, y| Rgb([x as u8, y as u8, 7]));
        let (zeros, geometry) = preprocess(&RgbImage::new(56, 56), &rule(Resize::Stretch)).unwrap();
        let options = HeatmapOptions {
            overlay_type: OverlayType::Original,
            ..plain()
        };
        let ground = ground(&upload, &geometry, &options);
        for fill in [0.0, f32::NAN] {
            let scores = zeros.mapv(|_| fill);
            let drawn = draw(&ground, &[Arc::new(scores)], Layout::Nchw, &options).unwrap();
            assert_eq!(
                (
                    drawn[0].overlay.image(),
                    drawn[0].bounds,
                    drawn[0].warnings.len()
                ),
                (upload.clone(), None, 0)
            );
        }
    }

    #[test]
    fn what_leaves_the_picture_blank_is_told() {
        let upload = RgbImage::from_pixel(40, 30, Rgb([90; 3]));
        let (zeros, geometry) =
            preprocess(&RgbImage::new(40, 30), &rule(Resize::ShortSide(64))).unwrap();
        let ground = ground(&upload, &geometry, &plain());
        let warnings = |scores: Tensor, options: &HeatmapOptions| {
            draw(&ground, &[Arc::new(scores)], Layout::Nchw, options).unwrap()[0]
                .warnings
                .clone()
        };
        let outlines = HeatmapOptions {
            r#type: Drawing::Outlines,
            ..plain()
        };
        let none = "the map has no border inside the picture: type=outlines draws nothing";
        assert_eq!(warnings(zeros.mapv(|_| 0.5), &outlines), [none]);
        assert_eq!(warnings(zeros.mapv(|_| 0.5), &plain()), [""; 0]);
        let negative = "the attribution has no positive value; the heat map is blank";
        assert_eq!(warnings(zeros.mapv(|_| -0.5), &outlines), [negative]);
        // Scores that cancel over the channels are not zero themselves.
        let mut cancel = zeros.clone();
        cancel.index_axis_mut(ndarray::Axis(0), 0).fill(1.0);
        cancel.index_axis_mut(ndarray::Axis(0), 1).fill(-1.0);
        assert_eq!(
            warnings(cancel, &plain()),
            ["the attribution is zero in every pixel; the heat map is blank"]
        );
    }

    #[test]
    fn every_combination_of_choices_draws() {
        for &r#type in &[Drawing::Pixels, Drawing::Outlines] {
            for &polarity in &[Polarity::Positive, Polarity::Negative, Polarity::Both] {
                for &overlay_type in &[
                    OverlayType::None,
                    OverlayType::Original,
                    OverlayType::Grayscale,
                    OverlayType::Faded,
                    OverlayType::MaskBlack,
                ] {
                    let options = HeatmapOptions {
                        r#type,
                        polarity,
                        overlay_type,
                        ..plain()
                    };
                    let (upload, drawn, warnings) = heatmap((64, 48), (30, 20), &options);
                    assert_eq!(drawn.dimensions(), upload.dimensions());
                    assert_eq!(warnings.len(), usize::from(polarity == Polarity::Negative));
                }
            }
        }
    }

    #[test]
    fn a_mask_leaves_nothing_outside_of_what_the_model_saw() {
        let options = HeatmapOptions {
            overlay_type: OverlayType::MaskBlack,
            ..plain()
        };
        let (_, drawn, _) = heatmap((300, 100), (150, 50), &options);
        assert_eq!(
            (drawn.get_pixel(10, 50).0, drawn.get_pixel(150, 50).0),
            ([0; 3], [100; 3])
        );
    }

    #[test]
    fn an_attribution_of_another_size_is_refused() {
        let upload = RgbImage::new(40, 30);
        let geometry = Geometry::new((40, 30), &rule(Resize::Stretch));
        let maps = [Arc::new(Tensor::ones(vec![3, 7, 7]))];
        let ground = ground(&upload, &geometry, &plain());
        let drawn = draw(&ground, &maps, Layout::Nchw, &plain());
        assert_eq!(
            drawn.unwrap_err(),
            RenderError::Size {
                found: (7, 7),
                expected: (56, 56)
            }
        );
    }
}
