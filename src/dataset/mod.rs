//! Sets of images with labels and masks: folders named in the settings, and archives that were uploaded.
//!
//! `labels.csv` or `labels.tsv` says each file's label; without one, and with images in several folders, a folder's name is the label of
//! what lies in it. `masks/` mirrors the images' paths. Images are in the order of their paths; a set's hash covers files, labels, masks.

pub mod archive;
pub mod catalogue;
mod gallery;
mod index;
mod labels;
mod scan;
mod shared;

use std::{io, path::PathBuf};

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{
    files::{FilesError, hex},
    image::{
        ImageError,
        decode::{Decoded, Limits, decode},
    },
    pool::WorkPanicked,
};
pub use archive::{ArchiveError, ArchiveLimits};
pub use catalogue::Catalogue;
pub use gallery::draw;
pub use shared::Datasets;

/// Extensions of the files that are read as images; what they hold is recognised by content.
const EXTENSIONS: [&str; 5] = ["png", "jpg", "jpeg", "webp", "bmp"];
/// The longest id.
const MAX_ID: usize = 64;
pub const ID_FORM: &str = "letters, digits, `_`, `-` and `.`, not a `.` first, at most 64";

/// A set of images as it was when it was last looked at.
#[derive(Debug)]
pub struct Dataset {
    pub id: String,
    pub folder: PathBuf,
    /// Uploaded, else named in the settings.
    pub uploaded: bool,
    /// In the order of their paths.
    pub images: Vec<Picture>,
    /// What is wrong with single files; the rest can be used.
    pub problems: Vec<Problem>,
    /// Files that are neither images nor labels.
    pub ignored: usize,
    /// SHA-256 over paths, contents, labels and masks, hex.
    pub hash: String,
}

/// One image of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Path below the set's folder, parts joined by `/`.
    pub file: String,
    /// Names or indices of classes, any of which is right; empty without a label.
    pub labels: Vec<String>,
    /// Path of its mask below the set's folder.
    pub mask: Option<String>,
    /// SHA-256 of the file, hex.
    pub hash: String,
    /// Why it cannot be decoded.
    pub fault: Option<String>,
}

/// Something wrong with one file of a set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = DatasetProblem)]
pub struct Problem {
    pub file: String,
    /// corrupt_image, missing_file, bad_labels, missing_label or unknown_label.
    pub kind: &'static str,
    pub message: String,
}

#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    #[error("no data set is called {id}; there are: {}", known.join(", "))]
    Unknown { id: String, known: Vec<String> },
    #[error("{id:?} is no data set's id: {ID_FORM}")]
    Id { id: String },
    #[error("data set {id} is a folder of the server's settings: it is changed there, not by a request")]
    Configured { id: String },
    #[error("data set {id} holds no image")]
    Empty { id: String },
    #[error("{file} of data set {id} is gone or has changed since the set was looked at")]
    Changed { id: String, file: String },
    #[error("{file} cannot be decoded: {source}")]
    Image { file: String, source: ImageError },
    #[error("the upload of data set {id} is not whole in the store of files: upload it again")]
    Lost { id: String },
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error(transparent)]
    Panicked(#[from] WorkPanicked),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
}

impl Dataset {
    /// Decodes the image at `index` (below the count). A file that is not the one that was looked at is refused.
    pub fn read(&self, index: usize, limits: &Limits) -> Result<Decoded, DatasetError> {
        let picture = &self.images[index];
        let changed = || DatasetError::Changed { id: self.id.clone(), file: picture.file.clone() };
        let bytes = std::fs::read(self.folder.join(&picture.file)).map_err(|_| changed())?;
        if hex(&Sha256::digest(&bytes)) != picture.hash {
            return Err(changed());
        }
        decode(&bytes, limits).map_err(|source| DatasetError::Image { file: picture.file.clone(), source })
    }

    pub fn labelled(&self) -> usize {
        self.images.iter().filter(|picture| !picture.labels.is_empty()).count()
    }

    pub fn masks(&self) -> usize {
        self.images.iter().filter(|picture| picture.mask.is_some()).count()
    }
}

/// Whether a data set may be called that.
pub fn is_id(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    (1..=MAX_ID).contains(&text.len()) && !text.starts_with('.') && text.chars().all(allowed)
}

fn at(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> DatasetError {
    let path = path.into();
    move |source| DatasetError::File { path, source }
}

#[cfg(test)]
mod tests;
