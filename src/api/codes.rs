//! The one table from error to code, status and title. A new variant anywhere does not compile
//! until it has its row.

use std::time::Duration;

use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    app::AppError,
    dataset::{ArchiveError, DatasetError},
    driver::DriverError,
    engine::EngineError,
    evaluation::registry::METRICS,
    faults::{Fault, Faults},
    files::{FilesError, is_full},
    jobs::JobError,
    methods::registry::METHODS,
    model::{
        resized::SizeError, shelf::ShelfError, supports::SupportsError, uploaded::UploadedError,
    },
    picture::ImageError,
    render::RenderError,
    tensor::TensorError,
    text::{excerpt, meant},
};

/// Everything that a request can be answered with instead of what it asked for.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error(transparent)]
    App(#[from] AppError),
    #[error(transparent)]
    Job(#[from] JobError),
    #[error(
        "there is nothing at {}; GET /openapi.json lists what there is",
        excerpt(path)
    )]
    NoSuchRoute { path: String },
    #[error("the path cannot be read: {reason}")]
    BrokenPath { reason: String },
    #[error("{} is not allowed at {}", excerpt(method), excerpt(path))]
    MethodNotAllowed { method: String, path: String },
    #[error(
        "no method is called {}{}; GET /methods lists them",
        excerpt(id),
        meant(id, METHODS.iter().map(|method| method.id))
    )]
    UnknownMethod { id: String },
    #[error(
        "no metric is called {}{}; GET /metrics-catalogue lists them",
        excerpt(id),
        meant(id, METRICS.iter().map(|metric| metric.id))
    )]
    UnknownMetric { id: String },
    #[error(
        "data set {dataset} has no image {}: they are counted from 0, and it has {images}",
        excerpt(place)
    )]
    UnknownImage {
        dataset: String,
        place: String,
        images: usize,
    },
    #[error("the body's content type is {found}; send {allowed}", found = excerpt(found.as_deref().unwrap_or("missing")))]
    UnsupportedMediaType {
        found: Option<String>,
        allowed: String,
    },
    #[error("the body is larger than {limit} bytes")]
    BodyTooLarge { limit: usize },
    #[error("the body cannot be read: {reason}")]
    BrokenBody { reason: String },
    #[error("the body is not the JSON object that is wanted: {reason}")]
    BrokenJson { reason: String },
    #[error("the multipart body cannot be read: {reason}")]
    BrokenMultipart { reason: String },
    #[error("{field} is not base64: {reason}")]
    BrokenBase64 { field: &'static str, reason: String },
    #[error("the body needs exactly one of: {wanted}")]
    AmbiguousBody { wanted: &'static str },
    #[error("{limit} requests are being worked on; try again shortly")]
    Busy { limit: usize },
    #[error("{limit} data sets are being uploaded; try again shortly")]
    TooManyUploads { limit: usize },
    #[error("the bodies of other requests take all of {mib} MiB; try again shortly")]
    BodiesTakeAllMemory { mib: u64 },
    #[error("{limit} connections are being answered; try again shortly")]
    TooManyConnections { limit: usize },
    #[error(
        "the body did not come in time: after {received} bytes nothing came for {idle_ms} ms, or less than {bytes_per_second} bytes a second in all; send it again without pauses"
    )]
    BodyTimeout {
        received: u64,
        idle_ms: u128,
        bytes_per_second: u64,
    },
    #[error(
        "the request took longer than {timeout_ms} ms and was stopped: ask for less (n_samples, n_steps, a faster preset or quality, fewer inputs), or send it as a job (POST /jobs), which has no such limit"
    )]
    DeadlineExceeded { timeout_ms: u128 },
    #[error(
        "pages of {origin} may not ask this of the server; the setting cors_origins lists the origins that may",
        origin = excerpt(origin)
    )]
    ForeignOrigin { origin: String },
    #[error(
        "{host} is not a name of this server, which listens on this machine alone; the setting allowed_hosts lists further names",
        host = excerpt(host)
    )]
    ForeignHost { host: String },
    #[error(
        "the body has the content-encoding {found}, and none is taken; send it as it is, without that header",
        found = excerpt(found)
    )]
    ContentEncoding { found: String },
    #[error("the server is not ready: {reason}")]
    NotReady { reason: String },
    #[error(
        "an internal fault stopped this request; its x-request-id finds it in the server's log"
    )]
    Panicked,
    #[error("an internal fault: {reason}")]
    Internal { reason: String },
}

/// One row: what a client branches on, the HTTP status, and the kind of problem in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    pub code: &'static str,
    pub status: StatusCode,
    pub title: &'static str,
}

/// A cost in evaluations (one forward and backward pass of one input), and the most that one
/// request may cost.
#[derive(Debug, Serialize, ToSchema)]
pub struct RefusedCost {
    pub evaluations: usize,
    pub max_interactive_evaluations: usize,
}

const fn row(code: &'static str, status: StatusCode, title: &'static str) -> Code {
    Code {
        code,
        status,
        title,
    }
}

const INVALID_PARAMETERS: Code = row(
    "invalid_parameters",
    StatusCode::UNPROCESSABLE_ENTITY,
    "Parameters that are not allowed",
);
const UNDERIVABLE: Code = row(
    "underivable",
    StatusCode::UNPROCESSABLE_ENTITY,
    "Model that this method cannot explain",
);
const BODY_TOO_LARGE: Code = row(
    "body_too_large",
    StatusCode::PAYLOAD_TOO_LARGE,
    "Body too large",
);
const OVERLOADED: Code = row("overloaded", StatusCode::TOO_MANY_REQUESTS, "Overloaded");
const INTERNAL: Code = row(
    "internal",
    StatusCode::INTERNAL_SERVER_ERROR,
    "Internal fault",
);
const DEADLINE_EXCEEDED: Code = row(
    "deadline_exceeded",
    StatusCode::GATEWAY_TIMEOUT,
    "Deadline exceeded",
);
const TOO_MANY_MODELS: Code = row(
    "too_many_models",
    StatusCode::INSUFFICIENT_STORAGE,
    "Too many models",
);
const DISK_FULL: Code = row("disk_full", StatusCode::INSUFFICIENT_STORAGE, "Disk full");
const QUOTA_EXCEEDED: Code = row(
    "quota_exceeded",
    StatusCode::INSUFFICIENT_STORAGE,
    "Data folder full",
);
const WRONG_SHAPE: Code = row(
    "wrong_shape",
    StatusCode::UNPROCESSABLE_ENTITY,
    "Tensor of another shape",
);
const CORRUPT_IMAGE: Code = row(
    "corrupt_image",
    StatusCode::UNPROCESSABLE_ENTITY,
    "Image that cannot be decoded",
);

pub fn code_of(error: &ApiError) -> Code {
    match error {
        ApiError::App(error) => app_code(error),
        ApiError::Job(error) => job_code(error),
        ApiError::NoSuchRoute { .. } => {
            row("no_such_route", StatusCode::NOT_FOUND, "No such route")
        }
        ApiError::BrokenPath { .. } => row(
            "broken_path",
            StatusCode::BAD_REQUEST,
            "Path that cannot be read",
        ),
        ApiError::MethodNotAllowed { .. } => row(
            "method_not_allowed",
            StatusCode::METHOD_NOT_ALLOWED,
            "Method not allowed",
        ),
        ApiError::UnknownMethod { .. } => row(
            "unknown_method",
            StatusCode::NOT_FOUND,
            "No such attribution method",
        ),
        ApiError::UnknownMetric { .. } => {
            row("unknown_metric", StatusCode::NOT_FOUND, "No such metric")
        }
        ApiError::UnknownImage { .. } => {
            row("unknown_image", StatusCode::NOT_FOUND, "No such image")
        }
        ApiError::UnsupportedMediaType { .. } => row(
            "unsupported_media_type",
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "Unsupported content type",
        ),
        ApiError::BodyTooLarge { .. } => BODY_TOO_LARGE,
        ApiError::BrokenBody { .. } => row(
            "broken_body",
            StatusCode::BAD_REQUEST,
            "Body that cannot be read",
        ),
        ApiError::BrokenJson { .. } => row("broken_json", StatusCode::BAD_REQUEST, "Broken JSON"),
        ApiError::BrokenMultipart { .. } => row(
            "broken_multipart",
            StatusCode::BAD_REQUEST,
            "Broken multipart body",
        ),
        ApiError::BrokenBase64 { .. } => row(
            "broken_base64",
            StatusCode::UNPROCESSABLE_ENTITY,
            "Broken base64",
        ),
        ApiError::AmbiguousBody { .. } => row(
            "ambiguous_body",
            StatusCode::UNPROCESSABLE_ENTITY,
            "Body without one clear input",
        ),
        ApiError::Busy { .. }
        | ApiError::TooManyUploads { .. }
        | ApiError::BodiesTakeAllMemory { .. } => OVERLOADED,
        ApiError::TooManyConnections { .. } => row(
            "too_many_connections",
            StatusCode::SERVICE_UNAVAILABLE,
            "Too many connections",
        ),
        ApiError::BodyTimeout { .. } => row(
            "body_timeout",
            StatusCode::REQUEST_TIMEOUT,
            "Body that did not come in time",
        ),
        ApiError::DeadlineExceeded { .. } => DEADLINE_EXCEEDED,
        ApiError::ForeignOrigin { .. } => row(
            "foreign_origin",
            StatusCode::FORBIDDEN,
            "Page of another origin",
        ),
        ApiError::ForeignHost { .. } => row(
            "foreign_host",
            StatusCode::FORBIDDEN,
            "Host that is not this server",
        ),
        ApiError::ContentEncoding { .. } => row(
            "unsupported_content_encoding",
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "Unsupported content encoding",
        ),
        ApiError::NotReady { .. } => row("not_ready", StatusCode::SERVICE_UNAVAILABLE, "Not ready"),
        ApiError::Panicked | ApiError::Internal { .. } => INTERNAL,
    }
}

fn app_code(error: &AppError) -> Code {
    match error {
        AppError::Parameters(_) => INVALID_PARAMETERS,
        AppError::UnknownModel { .. } => {
            row("unknown_model", StatusCode::NOT_FOUND, "No such model")
        }
        AppError::ConfiguredModel { .. } => row(
            "configured_model",
            StatusCode::CONFLICT,
            "Model of the server's settings",
        ),
        AppError::Files(error) => files_code(error),
        AppError::TakesTensors { .. } => row(
            "takes_tensors",
            StatusCode::UNPROCESSABLE_ENTITY,
            "Model that takes no images",
        ),
        AppError::TooManyElements { .. } => row(
            "tensor_too_large",
            StatusCode::PAYLOAD_TOO_LARGE,
            "Tensor too large",
        ),
        AppError::Size(SizeError::TooLarge { .. }) => row(
            "input_too_large",
            StatusCode::PAYLOAD_TOO_LARGE,
            "Input too large",
        ),
        AppError::PixelShape { .. } | AppError::Size(_) => WRONG_SHAPE,
        AppError::NotAcceptable { .. } => row(
            "not_acceptable",
            StatusCode::NOT_ACCEPTABLE,
            "No acceptable type of answer",
        ),
        AppError::NoInput => row("no_input", StatusCode::UNPROCESSABLE_ENTITY, "No input"),
        AppError::Image(error) => image_code(error),
        AppError::Tensor(error) => tensor_code(error),
        AppError::Method(error) => method_code(error),
        AppError::Render(error) => render_code(error),
        AppError::Dataset(error) => dataset_code(error),
        AppError::Supports(error) => supports_code(error),
        AppError::Upload(error) => upload_code(error),
        AppError::Quota(_) => QUOTA_EXCEEDED,
        AppError::Panicked(_) | AppError::Encode { .. } => INTERNAL,
        AppError::AtPart { source, .. } | AppError::AtInput { source, .. } => app_code(source),
    }
}

fn job_code(error: &JobError) -> Code {
    match error {
        JobError::Parameters(_) => INVALID_PARAMETERS,
        JobError::Unknown { .. } => row("unknown_job", StatusCode::NOT_FOUND, "No such job"),
        JobError::KeyTaken { .. } => row(
            "idempotency_key_taken",
            StatusCode::UNPROCESSABLE_ENTITY,
            "Idempotency key of another request",
        ),
        JobError::TooManyJobs { .. } => row(
            "too_many_jobs",
            StatusCode::TOO_MANY_REQUESTS,
            "Too many jobs",
        ),
        JobError::TooManyModels { .. } => TOO_MANY_MODELS,
        JobError::TooManyFollowers { .. } => OVERLOADED,
        JobError::TooCostly { .. } => row(
            "job_too_costly",
            StatusCode::UNPROCESSABLE_ENTITY,
            "Job that costs more than is allowed",
        ),
        JobError::NothingToReport { .. } => row(
            "nothing_to_report",
            StatusCode::CONFLICT,
            "Job without any result",
        ),
        JobError::UnknownKind { .. } => row(
            "unknown_kind",
            StatusCode::CONFLICT,
            "Job of an unknown kind",
        ),
        JobError::Store(error) if error.is_full() => DISK_FULL,
        JobError::Quota(_) => QUOTA_EXCEEDED,
        JobError::Store(_) => row(
            "jobs_unavailable",
            StatusCode::SERVICE_UNAVAILABLE,
            "Database of jobs out of reach",
        ),
        JobError::Files(error) => files_code(error),
        JobError::Work(_) | JobError::Panicked(_) => INTERNAL,
    }
}

fn files_code(error: &FilesError) -> Code {
    match (error.is_missing(), error.is_full()) {
        (true, _) => row(
            "no_such_file",
            StatusCode::NOT_FOUND,
            "File that is not there",
        ),
        (_, true) => DISK_FULL,
        _ => row(
            "files_unavailable",
            StatusCode::SERVICE_UNAVAILABLE,
            "Files out of reach",
        ),
    }
}

fn disk_code(error: &std::io::Error) -> Code {
    match is_full(error) {
        true => DISK_FULL,
        false => row(
            "storage_unavailable",
            StatusCode::SERVICE_UNAVAILABLE,
            "Storage of data sets out of reach",
        ),
    }
}

fn image_code(error: &ImageError) -> Code {
    match error {
        ImageError::Empty => row(
            "empty_image",
            StatusCode::UNPROCESSABLE_ENTITY,
            "Empty image",
        ),
        ImageError::TooManyBytes { .. } => BODY_TOO_LARGE,
        ImageError::UnknownType | ImageError::UnsupportedType { .. } => row(
            "unsupported_image_type",
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "Unsupported image type",
        ),
        ImageError::TooLarge { .. } => row(
            "image_too_large",
            StatusCode::PAYLOAD_TOO_LARGE,
            "Image too large",
        ),
        ImageError::Truncated { .. } => row(
            "truncated_image",
            StatusCode::UNPROCESSABLE_ENTITY,
            "Truncated image",
        ),
        ImageError::Corrupt { .. }
        | ImageError::DecoderPanicked { .. }
        | ImageError::LineBreaksStripped
        | ImageError::LossyLabels { .. } => CORRUPT_IMAGE,
        ImageError::UnknownBaseline { .. }
        | ImageError::BaselineArgument { .. }
        | ImageError::TooManyBaselines { .. }
        | ImageError::DatasetBaseline { .. }
        | ImageError::BaselineNeedsPixels { .. }
        | ImageError::BaselineNeedsRegions
        | ImageError::NoUploadedBaseline
        | ImageError::BaselineShape { .. } => INVALID_PARAMETERS,
        ImageError::Resize { .. } => INTERNAL,
    }
}

fn render_code(error: &RenderError) -> Code {
    match error {
        RenderError::NotAnImage { .. } => row(
            "no_picture",
            StatusCode::UNPROCESSABLE_ENTITY,
            "Attribution that is no picture",
        ),
        RenderError::Size { .. }
        | RenderError::Resize { .. }
        | RenderError::Svg { .. }
        | RenderError::Encode { .. } => INTERNAL,
    }
}

fn dataset_code(error: &DatasetError) -> Code {
    match error {
        DatasetError::Unknown { .. } => {
            row("unknown_dataset", StatusCode::NOT_FOUND, "No such data set")
        }
        DatasetError::Id { .. } => row(
            "invalid_id",
            StatusCode::UNPROCESSABLE_ENTITY,
            "Name that is not allowed",
        ),
        DatasetError::Configured { .. } => row(
            "configured_dataset",
            StatusCode::CONFLICT,
            "Data set of the server's settings",
        ),
        DatasetError::Empty { .. } => row(
            "empty_dataset",
            StatusCode::UNPROCESSABLE_ENTITY,
            "Data set without images",
        ),
        DatasetError::Changed { .. } | DatasetError::Replaced { .. } => row(
            "dataset_changed",
            StatusCode::CONFLICT,
            "Data set that changed",
        ),
        DatasetError::TooMany { .. } => row(
            "too_many_datasets",
            StatusCode::INSUFFICIENT_STORAGE,
            "Too many data sets",
        ),
        DatasetError::Quota(_) => QUOTA_EXCEEDED,
        DatasetError::Lost { .. } => row(
            "dataset_lost",
            StatusCode::CONFLICT,
            "Data set whose upload is lost",
        ),
        DatasetError::Files(error) => files_code(error),
        DatasetError::Panicked(_) => INTERNAL,
        DatasetError::Image { source, .. } => image_code(source),
        DatasetError::MaskSize { .. } => CORRUPT_IMAGE,
        DatasetError::Archive(error) => archive_code(error),
        DatasetError::File { source, .. } => disk_code(source),
    }
}

fn supports_code(error: &SupportsError) -> Code {
    match error {
        SupportsError::Unknown { .. } => row(
            "unknown_supports",
            StatusCode::NOT_FOUND,
            "No such set of supports",
        ),
        SupportsError::TooMany { .. } => row(
            "too_many_supports",
            StatusCode::INSUFFICIENT_STORAGE,
            "Too many sets of supports",
        ),
        SupportsError::Lost { .. } => row(
            "supports_lost",
            StatusCode::CONFLICT,
            "Set of supports that is gone",
        ),
        SupportsError::Disk(error) => disk_code(error),
        SupportsError::Files(error) => files_code(error),
        SupportsError::Weights(_)
        | SupportsError::Variant(_)
        | SupportsError::Write(_)
        | SupportsError::Panicked(_) => INTERNAL,
    }
}

fn upload_code(error: &UploadedError) -> Code {
    match error {
        UploadedError::Taken { .. } => row(
            "model_taken",
            StatusCode::CONFLICT,
            "Id of a model that was not uploaded",
        ),
        UploadedError::Busy { .. } => row(
            "upload_under_way",
            StatusCode::CONFLICT,
            "Another upload of the model",
        ),
        UploadedError::TooMany { .. } => TOO_MANY_MODELS,
        UploadedError::UnknownVersion { .. } => {
            row("unknown_version", StatusCode::NOT_FOUND, "No such version")
        }
        UploadedError::Broken { .. } => row(
            "unusable_model",
            StatusCode::UNPROCESSABLE_ENTITY,
            "Model that cannot be served",
        ),
        UploadedError::Disk(error) | UploadedError::Shelf(ShelfError::Copy(error)) => {
            disk_code(error)
        }
        UploadedError::Files(error) | UploadedError::Shelf(ShelfError::Files(error)) => {
            files_code(error)
        }
        UploadedError::Shelf(ShelfError::Panicked(_)) => INTERNAL,
    }
}

fn archive_code(error: &ArchiveError) -> Code {
    match error {
        ArchiveError::Unknown => row(
            "unsupported_archive",
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "Unsupported type of archive",
        ),
        ArchiveError::Broken { .. } => row(
            "broken_archive",
            StatusCode::UNPROCESSABLE_ENTITY,
            "Archive that cannot be read",
        ),
        ArchiveError::Entry { .. } => row(
            "refused_entry",
            StatusCode::UNPROCESSABLE_ENTITY,
            "Archive with an entry that is not allowed",
        ),
        ArchiveError::TooManyFiles { .. } | ArchiveError::TooLarge { .. } | ArchiveError::Ratio => {
            row(
                "archive_too_large",
                StatusCode::PAYLOAD_TOO_LARGE,
                "Archive too large",
            )
        }
        ArchiveError::Quota(_) => QUOTA_EXCEEDED,
        ArchiveError::Write { source, .. } => disk_code(source),
    }
}

fn tensor_code(error: &TensorError) -> Code {
    match error {
        TensorError::Npy { .. }
        | TensorError::ElementType { .. }
        | TensorError::NpyLength { .. }
        | TensorError::Count { .. }
        | TensorError::Axes { .. }
        | TensorError::Empty { .. } => row(
            "broken_npy",
            StatusCode::UNPROCESSABLE_ENTITY,
            "Array that cannot be read",
        ),
        TensorError::NotFinite { .. } => row(
            "not_finite",
            StatusCode::UNPROCESSABLE_ENTITY,
            "Values that are not finite",
        ),
        TensorError::Write { .. } => INTERNAL,
    }
}

fn method_code(error: &DriverError) -> Code {
    match error {
        DriverError::Parameters(_) | DriverError::NoneAbove(_) => INVALID_PARAMETERS,
        DriverError::PatternsMissing { .. } => row(
            "patterns_missing",
            StatusCode::UNPROCESSABLE_ENTITY,
            "Model without patterns",
        ),
        DriverError::NoPicture { .. } => row(
            "needs_picture",
            StatusCode::UNPROCESSABLE_ENTITY,
            "Method that looks at pictures",
        ),
        DriverError::TooCostly { .. } => row(
            "too_costly",
            StatusCode::UNPROCESSABLE_ENTITY,
            "Too costly for one request",
        ),
        DriverError::Shape { .. } => WRONG_SHAPE,
        DriverError::NotFinite { .. } => row(
            "model_not_finite",
            StatusCode::UNPROCESSABLE_ENTITY,
            "Model output that is not finite",
        ),
        DriverError::Undefined { .. } => UNDERIVABLE,
        DriverError::Supports(error) => supports_code(error),
        DriverError::Engine(error) => engine_code(error),
        DriverError::Panicked(_) => INTERNAL,
    }
}

fn engine_code(error: &EngineError) -> Code {
    match error {
        EngineError::Overloaded { .. } | EngineError::TooLate { .. } => OVERLOADED,
        EngineError::Cancelled => row(
            "cancelled",
            StatusCode::SERVICE_UNAVAILABLE,
            "Stopped before its end",
        ),
        EngineError::DeadlineExceeded => DEADLINE_EXCEEDED,
        EngineError::Draining => row("draining", StatusCode::SERVICE_UNAVAILABLE, "Shutting down"),
        EngineError::Derive(_) => UNDERIVABLE,
        EngineError::InvalidBatch { .. } | EngineError::Runtime { .. } => INTERNAL,
    }
}

impl ApiError {
    /// The refused parameters, for the problem's `errors`.
    pub fn faults(&self) -> Faults {
        match self {
            Self::App(error) => app_faults(error),
            Self::Job(JobError::Parameters(faults)) => faults.clone(),
            Self::Job(JobError::TooCostly { lower, .. }) => lower
                .iter()
                .map(|(param, allowed)| Fault::new(*param, "costs too much", allowed))
                .collect(),
            _ => Faults::default(),
        }
    }

    pub fn refused_cost(&self) -> Option<RefusedCost> {
        match self {
            Self::App(AppError::Method(DriverError::TooCostly { cost, limit })) => {
                Some(RefusedCost {
                    evaluations: *cost,
                    max_interactive_evaluations: *limit,
                })
            }
            _ => None,
        }
    }

    /// When trying again makes sense.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::App(AppError::Method(DriverError::Engine(
                EngineError::Overloaded { retry_after, .. }
                | EngineError::TooLate { retry_after, .. },
            ))) => Some(*retry_after),
            Self::App(AppError::Files(error))
                if files_code(error).status == StatusCode::SERVICE_UNAVAILABLE =>
            {
                Some(Duration::from_secs(1))
            }
            Self::App(AppError::Dataset(error))
                if dataset_code(error).status == StatusCode::SERVICE_UNAVAILABLE =>
            {
                Some(Duration::from_secs(1))
            }
            Self::App(AppError::Method(DriverError::Engine(EngineError::Draining)))
            | Self::Busy { .. }
            | Self::TooManyUploads { .. }
            | Self::BodiesTakeAllMemory { .. }
            | Self::TooManyConnections { .. }
            | Self::Job(JobError::Store(_) | JobError::Files(_))
            | Self::NotReady { .. } => Some(Duration::from_secs(1)),
            Self::Job(JobError::TooManyJobs { .. } | JobError::TooManyFollowers { .. }) => {
                Some(Duration::from_secs(10))
            }
            _ => None,
        }
    }
}

fn app_faults(error: &AppError) -> Faults {
    match error {
        AppError::Parameters(faults)
        | AppError::Method(DriverError::Parameters(faults) | DriverError::NoneAbove(faults)) => {
            faults.clone()
        }
        AppError::Image(error) if image_code(error) == INVALID_PARAMETERS => Fault::new(
            "baseline",
            error.to_string(),
            crate::picture::baseline::ALLOWED,
        )
        .into(),
        AppError::AtPart { source, .. } | AppError::AtInput { source, .. } => app_faults(source),
        _ => Faults::default(),
    }
}
