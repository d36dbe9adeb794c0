//! A model's input as a picture: the inverse of preprocessing, at the model's input size, for
//! uploaded images and posted tensors alike. Per channel v = (x - black) / (white - black), where
//! black and white are the preprocessed values of 0 and 255.

use ndarray::{Array3, Axis, Ix3};

use super::preprocess::pixel_range;
use crate::{
    picture::preprocess::{Layout, Preprocess},
    tensor::Tensor,
};

#[derive(Clone, Debug, PartialEq)]
pub struct InputPicture {
    /// `[channels, height, width]` in the tensor's order of channels; 0 is black, 1 white. Posted
    /// tensors may lie outside of 0..=1.
    pub planes: Array3<f32>,
    /// The axis of the input that holds the channels; the other two are height and width.
    pub channel_axis: usize,
}

impl InputPicture {
    /// `None` for an input whose shape `rule` cannot have produced.
    pub fn of(input: &Tensor, rule: &Preprocess) -> Option<Self> {
        let channel_axis = channel_axis(rule.layout);
        let pixels = input.view().into_dimensionality::<Ix3>().ok()?;
        let order = if channel_axis == 0 {
            [0, 1, 2]
        } else {
            [2, 0, 1]
        };
        let mut planes = pixels
            .permuted_axes(order)
            .as_standard_layout()
            .into_owned();
        let range = pixel_range(rule);
        if planes.len_of(Axis(0)) != range.len() {
            return None;
        }
        for (mut plane, (black, white)) in planes.axis_iter_mut(Axis(0)).zip(range) {
            plane.mapv_inplace(|value| (value - black) / (white - black));
        }
        Some(Self {
            planes,
            channel_axis,
        })
    }

    /// The darkest and the brightest value of any channel.
    pub fn extremes(&self) -> (f32, f32) {
        self.planes
            .iter()
            .fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), v| {
                (low.min(*v), high.max(*v))
            })
    }
}

/// The axis of the model's input that holds the channels.
pub fn channel_axis(layout: Layout) -> usize {
    match layout {
        Layout::Nchw => 0,
        Layout::Nhwc => 2,
    }
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};

    use super::*;
    use crate::picture::preprocess::{Channels, preprocess};

    fn rule(layout: Layout, channels: Channels) -> Preprocess {
        Preprocess {
            layout,
            channels,
            scale: 1.0 / 255.0,
            mean: vec![0.485, 0.456, 0.406],
            std: vec![0.229, 0.224, 0.225],
            ..Preprocess::plain(5, 4)
        }
    }

    #[test]
    fn the_picture_of_an_upload_in_the_models_size_is_the_upload() {
        let upload = RgbImage::from_fn(5, 4, |x, y| {
            Rgb([(x * 50) as u8, (y * 80) as u8, (x * y * 21) as u8])
        });
        for layout in [Layout::Nchw, Layout::Nhwc] {
            for (channels, first) in [(Channels::Rgb, 0), (Channels::Bgr, 2)] {
                let rule = rule(layout, channels);
                let picture =
                    InputPicture::of(&preprocess(&upload, &rule).unwrap().0, &rule).unwrap();
                assert_eq!(picture.planes.dim(), (3, 4, 5));
                for ((channel, y, x), value) in picture.planes.indexed_iter() {
                    let pixel = upload.get_pixel(x as u32, y as u32).0
                        [first.max(channel) - first.min(channel)];
                    // One rounding of a normalised f32 each way.
                    assert!(
                        (value - f32::from(pixel) / 255.0).abs() < 1e-6,
                        "{layout:?} {channels:?}"
                    );
                }
                assert!(
                    picture.extremes().0.abs() < 1e-6
                        && (picture.extremes().1 - 252.0 / 255.0).abs() < 1e-6
                );
            }
        }
    }

    #[test]
    fn what_is_no_picture_of_the_rule_has_none() {
        let rule = rule(Layout::Nchw, Channels::Rgb);
        assert_eq!(InputPicture::of(&Tensor::zeros(vec![2]), &rule), None);
        assert_eq!(InputPicture::of(&Tensor::zeros(vec![1, 4, 5]), &rule), None);
    }
}
