//! `model.toml`: how pixels become the model's input, and what its output means. Absent fields are
//! inferred from the graph.

use serde::{Deserialize, Serialize};

use crate::autodiff::spec::{Head, PatternLayers};

/// A resolved manifest. Input tensors have no batch axis here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub input: Input,
    pub head: Head,
    pub pattern_layers: PatternLayers,
    /// The graph output with the class scores; needed where several may be.
    pub output: Option<String>,
    /// Default layer of Grad-CAM; absent, the last of the model's layers.
    pub layer: Option<String>,
    /// What of the preprocessing model.toml leaves out, and what stands for it.
    #[serde(skip)]
    pub assumed: Option<String>,
}

/// The model's input value, and, for image classifiers, its preprocessing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// Name of the graph input.
    pub name: String,
    /// Shape of one sample, as the graph has it: `[3, 224, 224]` for NCHW, `[2]` for a net over two
    /// numbers.
    pub shape: Vec<usize>,
    /// How pixels become that tensor; `None` for nets that take ready tensors only.
    pub preprocess: Option<Preprocess>,
}

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
}

/// How an upload of any size becomes `width` x `height`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resize {
    /// Both sides to the input's, ignoring the aspect ratio.
    Stretch,
    /// The short side to this many pixels, then a centre crop of the input's size: what most
    /// ImageNet classifiers expect.
    ShortSide(u32),
    /// The whole image inside the input, centred, the rest filled with the mean.
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
