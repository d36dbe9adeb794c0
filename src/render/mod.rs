//! Attributions -> pictures: reduce, normalise, colour map, overlay, frame, encode.

pub mod color;
pub mod encode;
pub mod fonts;
pub mod frame;
pub mod grid;
pub mod ground;
pub mod heatmap;
pub mod hull;
pub mod legend;
pub mod options;
pub mod outline;
pub mod overlay;
pub mod plane;
pub mod svg;

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RenderError {
    #[error(
        "an attribution of shape {shape:?} is no image: a heat map needs three axes with channels, height and width"
    )]
    NotAnImage { shape: Vec<usize> },
    #[error(
        "the attribution is {found:?} pixels (width, height); the model's input is {expected:?}"
    )]
    Size {
        found: (usize, usize),
        expected: (u32, u32),
    },
    #[error("the picture cannot be resized: {reason}")]
    Resize { reason: String },
    #[error("the drawing cannot be rendered: {reason}")]
    Svg { reason: String },
    #[error("the picture cannot be encoded: {reason}")]
    Encode { reason: String },
}
