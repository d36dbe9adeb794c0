//! How pixels become the input of a model: what a manifest says of it.

use serde::{Deserialize, Serialize};

/// `tensor = (pixel * scale - mean) / std` per channel, pixel in 0..=255, after resize and crop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Preprocess {
    pub width: u32,
    pub height: u32,
    pub layout: Layout,
    pub channels: Channels,
    pub scale: f32,
    pub mean: Vec<f32>,
    pub std: Vec<f32>,
    pub resize: Resize,
    pub filter: Filter,
}

impl Preprocess {
    /// RGB pixels as they are, 0 to 255, stretched to a size.
    pub fn plain(width: u32, height: u32) -> Self {
        Self {
            width,
            height,
            layout: Layout::Nchw,
            channels: Channels::Rgb,
            scale: 1.0,
            mean: vec![0.0],
            std: vec![1.0],
            resize: Resize::Stretch,
            filter: Filter::Bilinear,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    Nchw,
    Nhwc,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Channels {
    Rgb,
    Bgr,
    Gray,
    /// Red, green, blue and alpha.
    Rgba,
}

/// How an upload of any size becomes `width` x `height`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resize {
    /// Both sides to the input's size, ignoring the aspect ratio.
    Stretch,
    /// The short side to this many pixels, then a centre crop of the input's size: what most
    /// ImageNet classifiers expect.
    ShortSide(u32),
    /// The whole image, scaled to fit and centred, padded with the mean (letterbox).
    Pad,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    Nearest,
    Bilinear,
    Bicubic,
    Lanczos,
}
