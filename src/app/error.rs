//! Why the service does not start, and why a request has no answer.

use crate::{
    dataset::DatasetError,
    driver::DriverError,
    engine::RuntimeError,
    faults::Faults,
    files::FilesError,
    model::{
        registry::RegistryError, resized::SizeError, supports::SupportsError,
        uploaded::UploadedError,
    },
    picture::ImageError,
    pool::WorkPanicked,
    quota::QuotaError,
    render::RenderError,
    tensor::TensorError,
    text::{excerpt, meant},
};

/// Why the service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Models(#[from] RegistryError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error(transparent)]
    Parameters(#[from] Faults),
    #[error(
        "no model is called {}{}; there are: {}",
        excerpt(id),
        meant(id, known.iter().map(String::as_str)),
        known.join(", ")
    )]
    UnknownModel { id: String, known: Vec<String> },
    #[error(
        "model {id} lies in the server's models folder: it is copied and taken away there, not by a request"
    )]
    ConfiguredModel { id: String },
    #[error(
        "model {model} takes ready tensors of shape {shape:?}, not images; send application/x-npy or a JSON tensor{}",
        if is_of_four(shape) { ", or say channels = \"rgba\" below [input] in its model.toml if its channels are those of a picture" } else { "" }
    )]
    TakesTensors { model: String, shape: Vec<usize> },
    #[error("the tensor has {found} elements; {limit} are allowed")]
    TooManyElements { found: usize, limit: usize },
    #[error(
        "uint8 pixels are [height, width], [height, width, 1, 3 or 4] or [1 or 3, height, width], or several of them along one \
         axis more; this array is {shape:?}"
    )]
    PixelShape { shape: Vec<usize> },
    #[error(transparent)]
    Size(#[from] SizeError),
    #[error("there is no input in this request")]
    NoInput,
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Tensor(#[from] TensorError),
    #[error(transparent)]
    Render(#[from] RenderError),
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    #[error(transparent)]
    Supports(#[from] SupportsError),
    #[error(transparent)]
    Upload(#[from] UploadedError),
    #[error(transparent)]
    Quota(#[from] QuotaError),
    #[error(transparent)]
    Method(#[from] DriverError),
    #[error(transparent)]
    Panicked(#[from] WorkPanicked),
    #[error(
        "none of the types in `accept: {}` can be given; there are: {allowed}",
        excerpt(accept)
    )]
    NotAcceptable { accept: String, allowed: String },
    #[error("the answer cannot be encoded: {reason}")]
    Encode { reason: String },
    /// What goes with the inputs of a request: the part that it came in.
    #[error("{part}: {source}")]
    AtPart {
        part: &'static str,
        source: Box<AppError>,
    },
    /// Which of several inputs it was.
    #[error("input {input} (counted from 0): {source}")]
    AtInput { input: usize, source: Box<AppError> },
}

/// Says which of several inputs an error is about; what concerns the whole request stays as it is.
pub(super) fn locate(error: AppError, input: usize, count: usize) -> AppError {
    match error {
        AppError::Method(
            DriverError::Engine(_) | DriverError::TooCostly { .. } | DriverError::Panicked(_),
        )
        | AppError::Panicked(_) => error,
        other if count > 1 => AppError::AtInput {
            input,
            source: Box::new(other),
        },
        other => other,
    }
}

/// Whether the input may be a picture with alpha.
fn is_of_four(shape: &[usize]) -> bool {
    matches!(*shape, [4, _, _] | [_, _, 4])
}

/// The limit is dealt evenly over the inputs; the user is told the sum.
pub(super) fn whole_cost(error: DriverError, count: usize, limit: usize) -> DriverError {
    match error {
        DriverError::TooCostly { cost, .. } => DriverError::TooCostly {
            cost: cost * count,
            limit,
        },
        other => other,
    }
}
