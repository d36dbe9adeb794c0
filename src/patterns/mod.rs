//! Fits patterns to a model: samples -> batches -> sums on the engine -> Eq. 2 (the PGIG paper)
//! for every Linear layer. Cost: one forward pass and one weight gradient for each layer and row;
//! memory for one batch, and two f64 sums for each weight.

pub mod fit;
pub mod samples;

pub use fit::{FitReport, FitRequest, Fitted, LayerReport, fit};
pub use samples::{SampleSource, Unreadable};

#[derive(Debug, thiserror::Error)]
pub enum FitError {
    #[error("no image was found in {}", folder.display())]
    NoImages { folder: std::path::PathBuf },
    #[error("none of the {count} samples could be read; the first: {first}")]
    NoneReadable { count: usize, first: String },
    #[error("model {model} takes ready tensors of shape {shape:?}: fit it with --tensors X.npy")]
    TakesTensors { model: String, shape: Vec<usize> },
    #[error("the samples have shape {found:?}; the model takes {expected:?}")]
    Shape {
        found: Vec<usize>,
        expected: Vec<usize>,
    },
    #[error("{}: {source}", path.display())]
    File {
        path: std::path::PathBuf,
        source: std::io::Error,
    },
    #[error("the model has no Linear layer to fit")]
    NoLayers,
    #[error("layer {layer}: ONNX Runtime gave no sum {output} in the weight's shape")]
    Sum { layer: String, output: String },
    #[error(transparent)]
    Derive(#[from] onnx_autodiff::autodiff::DeriveError),
    #[error(transparent)]
    Engine(#[from] crate::engine::EngineError),
    #[error(transparent)]
    Panicked(#[from] crate::pool::WorkPanicked),
}
