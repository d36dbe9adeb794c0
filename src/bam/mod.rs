//! BAM data: cut-out objects pasted into scenes, every object class into every scene class equally
//! often, so that a model of the objects and one of the scenes see the same pixels; and sets in
//! which one object is common to 1, 2, ... of the scene classes. Source: Yang & Kim, "BAM:
//! Benchmarking Attribution Methods with Relative Feature Importance", sections 3.1 to 3.3.

pub mod coco;
mod compose;
mod cutout;
mod material;
mod options;
mod plan;
mod role;
mod sets;

use crate::{dataset::DatasetError, picture::ImageError, text::excerpt};
pub use compose::{Composed, Entry, compose, greatest_bytes};
pub use cutout::Cutout;
pub use material::{Objects, Scenes};
pub use options::{Asked, FIELDS, Options};
pub use plan::{Composition, Part, Plan};
pub use role::Role;
pub use sets::{Set, table};

#[derive(Debug, thiserror::Error)]
pub enum BamError {
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    #[error("{} cannot be read: {source}", excerpt(file))]
    Image { file: String, source: ImageError },
    #[error(
        "{} has no transparent pixel and no mask: there is no telling what of it is the object",
        excerpt(file)
    )]
    NoCutout { file: String },
    #[error("nothing of the object of {} is visible", excerpt(file))]
    Invisible { file: String },
    #[error("the annotations cannot be read: {reason}")]
    Annotations { reason: String },
    #[error("the annotated object of {}: {reason}", excerpt(file))]
    Segmentation { file: String, reason: String },
    #[error("a PNG cannot be written: {reason}")]
    Encode { reason: String },
}

#[cfg(test)]
mod tests;
