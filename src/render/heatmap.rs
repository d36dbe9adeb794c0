//! The heat map of one attribution on its upload: reduce -> normalise -> (outline) -> onto the upload's pixels -> overlay.

use std::sync::Arc;

use ::image::RgbImage;
use ndarray::Array2;

use super::{
    RenderError,
    options::{Drawing, HeatmapOptions},
    outline::outline,
    overlay::Overlay,
    plane::{Bounds, Strengths, bounds, normalise, reduce},
};
use crate::{image::geometry::Geometry, model::manifest::Layout, tensor::Tensor};

/// A picture in the upload's size, still to be painted, and what is odd about it.
#[derive(Clone, Debug)]
pub struct Heatmap<'a> {
    pub overlay: Overlay<'a>,
    /// What its colours mean; none for a blank map.
    pub bounds: Option<Bounds>,
    pub warnings: Vec<String>,
}

/// Draws each map (the model's input size, without a batch axis) on the upload that `geometry` was made for. Of scores that are zero
/// everywhere or not finite there is no warning here: they speak for themselves, and their method says why.
pub fn draw<'a>(
    upload: &'a RgbImage,
    maps: &[Arc<Tensor>],
    layout: Layout,
    geometry: &Geometry,
    options: &HeatmapOptions,
) -> Result<Vec<Heatmap<'a>>, RenderError> {
    let planes = maps.iter().map(|scores| reduce(scores, layout, options.reduction)).collect::<Result<Vec<_>, _>>()?;
    let bounds = bounds(&planes, options);
    let drawn = planes.iter().zip(bounds).map(|(plane, bounds)| draw_one(upload, plane, bounds, geometry, options));
    let told =
        |scores: &Tensor| scores.iter().all(|score| *score == 0.0) || scores.iter().any(|score| !score.is_finite());
    let drawn = drawn.zip(maps).map(|(heatmap, scores)| {
        heatmap.map(|heatmap| if told(scores) { Heatmap { warnings: Vec::new(), ..heatmap } } else { heatmap })
    });
    drawn.collect()
}

fn draw_one<'a>(
    upload: &'a RgbImage,
    plane: &Array2<f32>,
    bounds: Option<Bounds>,
    geometry: &Geometry,
    options: &HeatmapOptions,
) -> Result<Heatmap<'a>, RenderError> {
    let strengths = match normalise(plane, bounds, options) {
        Strengths::Drawn(strengths) => strengths,
        Strengths::Blank { reason } => {
            return Ok(Heatmap { overlay: Overlay::new(upload, None, options), bounds: None, warnings: vec![reason] });
        }
    };
    let (height, width) = strengths.dim();
    let mismatch = || RenderError::Size { found: (width, height), expected: geometry.model };
    let projected = match options.r#type {
        Drawing::Pixels => geometry.back_project(strengths.view()),
        Drawing::Outlines => outline(&strengths, geometry),
    };
    let projected = projected.ok_or_else(mismatch)?;
    let no_outline = options.r#type == Drawing::Outlines && projected.plane.iter().all(|value| *value == 0.0);
    let warnings =
        no_outline.then(|| "the map has no border inside the picture: type=OUTLINES draws nothing".to_owned());
    let overlay = Overlay::new(upload, Some(projected), options);
    Ok(Heatmap { overlay, bounds, warnings: warnings.into_iter().collect() })
}

#[cfg(test)]
mod tests {
    use ::image::Rgb;

    use super::*;
    use crate::{
        image::preprocess::preprocess,
        model::manifest::{Channels, Filter, Preprocess, Resize},
        render::options::{OverlayType, Polarity},
    };

    fn rule(resize: Resize) -> Preprocess {
        Preprocess {
            width: 56,
            height: 56,
            layout: Layout::Nchw,
            channels: Channels::Rgb,
            scale: 1.0,
            mean: vec![0.0],
            std: vec![1.0],
            resize,
            filter: Filter::Bilinear,
        }
    }

    /// A grey upload with a white disc, the model's tensor of it as the attribution, and its heat map.
    fn heatmap(size: (u32, u32), at: (i32, i32), options: &HeatmapOptions) -> (RgbImage, RgbImage, Vec<String>) {
        let inside = |x: u32, y: u32| (x as i32 - at.0).pow(2) + (y as i32 - at.1).pow(2) < 100;
        let spot = RgbImage::from_fn(size.0, size.1, |x, y| Rgb([if inside(x, y) { 255 } else { 0 }; 3]));
        let upload = RgbImage::from_pixel(size.0, size.1, Rgb([100; 3]));
        let (scores, geometry) = preprocess(&spot, &rule(Resize::ShortSide(64))).unwrap();
        let heatmaps = draw(&upload, &[Arc::new(scores)], Layout::Nchw, &geometry, options).unwrap();
        let (image, warnings) = (heatmaps[0].overlay.image(), heatmaps[0].warnings.clone());
        (upload, image, warnings)
    }

    #[test]
    fn heat_lies_on_the_spot_and_nowhere_else() {
        for (size, at) in [((300, 100), (160, 40)), ((100, 300), (60, 170)), ((128, 96), (60, 50))] {
            let (upload, drawn, warnings) = heatmap(size, at, &HeatmapOptions::default());
            assert_eq!(drawn.dimensions(), upload.dimensions());
            for (x, y, pixel) in drawn.enumerate_pixels() {
                let distance = f64::from(x as i32 - at.0).hypot(f64::from(y as i32 - at.1));
                let [r, g, b] = pixel.0;
                if distance < 5.0 {
                    assert!(g > r + 50 && g > b + 50, "{size:?}: no heat at {x},{y}: {pixel:?}");
                } else if distance > 18.0 {
                    assert!(pixel.0 == [100; 3] || pixel.0 == [60; 3], "{size:?}: heat at {x},{y}: {pixel:?}");
                }
            }
            assert_eq!(warnings, [""; 0]);
        }
    }

    #[test]
    fn what_the_model_did_not_see_is_dimmed() {
        let (_, drawn, _) = heatmap((300, 100), (150, 50), &HeatmapOptions::default());
        // 64 of 100 pixels are resized; the crop of 56 spans 87.5 pixels around the centre.
        let row: Vec<u8> = (0..300).map(|x| drawn.get_pixel(x, 10).0[0]).collect();
        assert_eq!((row[105], row[106], row[193], row[194]), (60, 100, 100, 60));
    }

    #[test]
    fn outlines_ring_the_spot_and_leave_its_inside() {
        let options = HeatmapOptions { r#type: Drawing::Outlines, ..HeatmapOptions::default() };
        let (_, drawn, _) = heatmap((128, 96), (60, 50), &options);
        assert_eq!(drawn.get_pixel(60, 50).0, [100; 3]);
        let ring = (60..90).filter(|x| drawn.get_pixel(*x, 50).0 != [100; 3]).count();
        assert_eq!(ring, 1, "one pixel wide at this size");
    }

    #[test]
    fn a_map_of_zeros_or_of_nan_is_the_upload() {
        let upload = RgbImage::from_fn(40, 30, |x, y| Rgb([x as u8, y as u8, 7]));
        let (zeros, geometry) = preprocess(&RgbImage::new(40, 30), &rule(Resize::ShortSide(64))).unwrap();
        let options = HeatmapOptions { overlay_type: OverlayType::Original, ..HeatmapOptions::default() };
        for fill in [0.0, f32::NAN] {
            let scores = zeros.mapv(|_| fill);
            let drawn = draw(&upload, &[Arc::new(scores)], Layout::Nchw, &geometry, &options).unwrap();
            assert_eq!((drawn[0].overlay.image(), drawn[0].bounds, drawn[0].warnings.len()), (upload.clone(), None, 0));
        }
    }

    #[test]
    fn what_leaves_the_picture_blank_is_told() {
        let upload = RgbImage::from_pixel(40, 30, Rgb([90; 3]));
        let (zeros, geometry) = preprocess(&RgbImage::new(40, 30), &rule(Resize::ShortSide(64))).unwrap();
        let warnings = |scores: Tensor, options: &HeatmapOptions| {
            draw(&upload, &[Arc::new(scores)], Layout::Nchw, &geometry, options).unwrap()[0].warnings.clone()
        };
        let outlines = HeatmapOptions { r#type: Drawing::Outlines, ..HeatmapOptions::default() };
        let none = "the map has no border inside the picture: type=OUTLINES draws nothing";
        assert_eq!(warnings(zeros.mapv(|_| 0.5), &outlines), [none]);
        assert_eq!(warnings(zeros.mapv(|_| 0.5), &HeatmapOptions::default()), [""; 0]);
        let negative = "the attribution has no positive value; the heat map is blank";
        assert_eq!(warnings(zeros.mapv(|_| -0.5), &outlines), [negative]);
        // Scores that cancel over the channels are not zero themselves.
        let mut cancel = zeros.clone();
        cancel.index_axis_mut(ndarray::Axis(0), 0).fill(1.0);
        cancel.index_axis_mut(ndarray::Axis(0), 1).fill(-1.0);
        assert_eq!(
            warnings(cancel, &HeatmapOptions::default()),
            ["the attribution is zero in every pixel; the heat map is blank"]
        );
    }

    #[test]
    fn every_combination_of_choices_draws() {
        for &r#type in &[Drawing::Pixels, Drawing::Outlines] {
            for &polarity in &[Polarity::Positive, Polarity::Negative, Polarity::Both] {
                for &overlay_type in
                    &[OverlayType::None, OverlayType::Original, OverlayType::Grayscale, OverlayType::MaskBlack]
                {
                    let options = HeatmapOptions { r#type, polarity, overlay_type, ..HeatmapOptions::default() };
                    let (upload, drawn, warnings) = heatmap((64, 48), (30, 20), &options);
                    assert_eq!(drawn.dimensions(), upload.dimensions());
                    assert_eq!(warnings.len(), usize::from(polarity == Polarity::Negative));
                }
            }
        }
    }

    #[test]
    fn an_attribution_of_another_size_is_refused() {
        let upload = RgbImage::new(40, 30);
        let geometry = Geometry::new((40, 30), &rule(Resize::Stretch));
        let maps = [Arc::new(Tensor::ones(vec![3, 7, 7]))];
        let drawn = draw(&upload, &maps, Layout::Nchw, &geometry, &HeatmapOptions::default());
        assert_eq!(drawn.unwrap_err(), RenderError::Size { found: (7, 7), expected: (56, 56) });
    }
}
