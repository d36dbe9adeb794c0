//! Bytes -> pixels -> tensor, and back: decode, preprocess, geometry, baseline.

pub mod baseline;
pub mod decode;
pub mod geometry;
pub mod input;
mod limits;
mod open;
pub mod preprocess;
mod rule;
pub mod types;

/// RGB, 8 bits per channel, upright (EXIF orientation applied): what an upload becomes.
pub use image::RgbImage;

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ImageError {
    #[error("the image is empty (0 bytes)")]
    Empty,
    #[error("the image has {bytes} bytes; {limit} are allowed")]
    TooManyBytes { bytes: usize, limit: usize },
    #[error("this is no image of a known type: send {}", types::names())]
    UnknownType,
    #[error("{found} is not supported: {}", advice.map_or_else(|| format!("send {}", types::names()), str::to_owned))]
    UnsupportedType {
        found: &'static str,
        advice: Option<&'static str>,
    },
    #[error("the image cannot be decoded: {}", crate::text::LINE_BREAKS_STRIPPED)]
    LineBreaksStripped,
    #[error(
        "{format} compresses with loss, which makes colours of its own: send labels as PNG or npy"
    )]
    LossyLabels { format: &'static str },
    #[error(
        "the image is {width} x {height}; at most {max_side} per side and {max_pixels} pixels are allowed"
    )]
    TooLarge {
        width: u32,
        height: u32,
        max_side: u32,
        max_pixels: u64,
    },
    #[error("the {format} image ends early: it was cut off on the way here")]
    Truncated { format: &'static str },
    #[error("the {format} image cannot be decoded: {reason}")]
    Corrupt {
        format: &'static str,
        reason: String,
    },
    #[error("the {format} decoder failed on this image")]
    DecoderPanicked { format: &'static str },
    #[error("the image cannot be resized to the model's input: {reason}")]
    Resize { reason: String },
    #[error("there is no baseline `{text}`; several are joined by `+`")]
    UnknownBaseline { text: String },
    #[error("baseline `{text}`: {expected}")]
    BaselineArgument { text: String, expected: String },
    #[error("baseline `{text}` stands for {count} baselines; at most {max} are averaged")]
    TooManyBaselines {
        text: String,
        count: usize,
        max: usize,
    },
    #[error("baseline `dataset:{id}`: {reason}")]
    DatasetBaseline { id: String, reason: String },
    #[error(
        "baseline `{term}` is made of pixels, and this model takes ready tensors; allowed here: zero, min, max, mean, uniform:<seed>, random:<n>, uploaded"
    )]
    BaselineNeedsPixels { term: String },
    #[error(
        "baseline `segment_mean` is the mean of each region, for methods that hide regions: feature_ablation, kernel_shap, lime and shapley_sampling"
    )]
    BaselineNeedsRegions,
    #[error("baseline `uploaded` needs the baseline sent with the request")]
    NoUploadedBaseline,
    #[error("the uploaded baseline has shape {found:?}; the input has {expected:?}")]
    BaselineShape {
        found: Vec<usize>,
        expected: Vec<usize>,
    },
}
